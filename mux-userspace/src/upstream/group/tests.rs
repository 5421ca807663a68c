//! Admission: tiers, trials, limits, the queue; and what a later configuration takes over.

use std::future::{pending, ready};

use super::*;
use crate::rules::{self, config::RuleId};

/// The groups of a file with one `[[upstream]]`, `g`, of these keys.
fn config(keys: &str) -> Config {
    let text = format!(
        "listen = \"127.0.0.1:0\"\n[[rule]]\nupstream = \"g\"\n[[upstream]]\nname = \"g\"\n{keys}\n"
    );
    rules::parse("rules.toml", &text).unwrap_or_else(|error| panic!("{error}"))
}

fn group(keys: &str) -> Arc<Group> {
    let config = config(keys);
    Arc::clone(&Groups::new(&config)[config.rules[RuleId(0).0].upstream])
}

/// What refusing endpoints say.
fn refused() -> Failures {
    vec![("x".into(), std::io::Error::from_raw_os_error(libc::ECONNREFUSED))]
}

/// A flow that got a seat, or has not.
#[derive(Debug)]
struct Flow {
    admission: Admission,
    seat: Option<Seat>,
}

impl Flow {
    /// A new flow, and the endpoint that it gets now.
    fn enter(group: &Group) -> Result<(usize, Self), Shut> {
        let mut flow = Self { admission: Admission::default(), seat: None };
        let (index, seat) = group.try_admit(&mut flow.admission)?;
        flow.seat = Some(seat);
        Ok((index, flow))
    }

    /// Its attempt at the endpoint failed.
    fn fail(&mut self, group: &Group, index: usize) {
        let mut seat = self.seat.take().expect("a seat");
        group.failed(&mut seat, &refused(), &Counters::default());
        self.admission.tried.push(index);
    }

    fn again(&mut self, group: &Group) -> Result<usize, Shut> {
        let (index, seat) = group.try_admit(&mut self.admission)?;
        self.seat = Some(seat);
        Ok(index)
    }
}

fn eject(group: &Group, index: usize) {
    let rules = group.config.eject.expect("ejection is on");
    while !group.endpoints[index].failed("refused", &rules) {}
}

const TWO_AND_A_BACKUP: &str =
    "endpoints = [1, 2, { address = 3, backup = true }]\nbalance = \"first\"";

#[test]
fn backups_serve_only_while_no_primary_is_up() {
    let group = group(TWO_AND_A_BACKUP);
    assert_eq!(Flow::enter(&group).map(|flow| flow.0), Ok(0));
    eject(&group, 0);
    assert_eq!(Flow::enter(&group).map(|flow| flow.0), Ok(1));
    eject(&group, 1);
    assert_eq!(Flow::enter(&group).map(|flow| flow.0), Ok(2));
    group.endpoints[0].succeeded();
    assert_eq!(Flow::enter(&group).map(|flow| flow.0), Ok(0));
}

/// For the one flow that has tried all primaries none is up, whatever the others think.
#[test]
fn a_flow_that_has_tried_all_primaries_goes_to_a_backup() {
    let group = group(TWO_AND_A_BACKUP);
    let (index, mut flow) = Flow::enter(&group).expect("admitted");
    assert_eq!(index, 0);
    flow.fail(&group, 0);
    assert_eq!(flow.again(&group), Ok(1));
    flow.fail(&group, 1);
    assert_eq!(flow.again(&group), Ok(2));
    flow.fail(&group, 2);
    assert_eq!(flow.again(&group), Err(Shut::NoneLeft));
    assert_eq!(Flow::enter(&group).map(|flow| flow.0), Ok(0), "one failure is no ejection");
}

#[test]
fn full_primaries_are_waited_for_rather_than_passed_over() {
    let group =
        group("endpoints = [{ address = 1, max_connections = 1 }, { address = 2, backup = true }]");
    let (index, flow) = Flow::enter(&group).expect("admitted");
    assert_eq!(index, 0);
    let full = Shut::Full(Kind::Endpoint);
    assert_eq!(Flow::enter(&group).map(|flow| flow.0), Err(full));
    drop(flow);
    assert_eq!(Flow::enter(&group).map(|flow| flow.0), Ok(0));
}

#[test]
fn a_full_endpoint_is_passed_over_for_one_with_a_place() {
    let group = group("endpoints = [{ address = 1, max_connections = 1 }, 2]\nbalance = \"first\"");
    let first = Flow::enter(&group);
    assert_eq!(Flow::enter(&group).map(|flow| flow.0), Ok(1));
    drop(first);
    assert_eq!(Flow::enter(&group).map(|flow| flow.0), Ok(0));
}

#[test]
fn the_groups_limit_holds_and_a_retry_keeps_its_place() {
    let group = group("endpoints = [1, 2]\nmax_connections = 1");
    let (index, mut flow) = Flow::enter(&group).expect("admitted");
    let full = Shut::Full(Kind::Upstream);
    assert_eq!(Flow::enter(&group).map(|flow| flow.0), Err(full));
    flow.fail(&group, index);
    assert_eq!(group.room.in_use(), 1);
    assert_eq!(flow.again(&group), Ok(1 - index));
    drop(flow);
    assert_eq!(group.room.in_use(), 0);
    assert!(group.endpoints.iter().all(|endpoint| endpoint.in_use() == 0));
}

/// Nothing but ejected endpoints: each is tried by one flow at a time, the others need not wait for
/// what will fail.
#[test]
fn when_all_are_ejected_one_at_a_time_may_try() {
    let group = group("endpoints = [1, 2]");
    eject(&group, 0);
    eject(&group, 1);
    let trials: Vec<_> = (0..2).map(|_| Flow::enter(&group).expect("admitted")).collect();
    assert_ne!(trials[0].0, trials[1].0);
    assert_eq!(Flow::enter(&group).map(|flow| flow.0), Err(Shut::NoneLeft));
    let Refused::NoneUp(why) = group.none_up() else { panic!() };
    assert_eq!(why, "127.0.0.1:1: ejected: refused; 127.0.0.1:2: ejected: refused");
    let (index, flow) = trials.into_iter().next().expect("there is one");
    group.succeeded(&mut flow.seat.expect("there is one"), &Counters::default());
    assert_eq!(Flow::enter(&group).map(|flow| flow.0), Ok(index));
}

#[test]
fn the_only_endpoint_is_tried_again() {
    let group = group("endpoints = [1]");
    let (index, mut flow) = Flow::enter(&group).expect("admitted");
    flow.fail(&group, index);
    assert_eq!(flow.again(&group), Ok(0));
}

#[test]
fn what_this_machine_lacks_is_not_the_endpoints_fault() {
    let group = group("endpoints = [1, 2]\neject = { failures = 1 }\nbalance = \"first\"");
    let fail = |error: i32| {
        let (_, mut flow) = Flow::enter(&group).expect("admitted");
        let failures = vec![("x".to_owned(), std::io::Error::from_raw_os_error(error))];
        let counters = Counters::default();
        group.failed(flow.seat.as_mut().expect("there is one"), &failures, &counters);
        counters.value(Counter::UpstreamEjections)
    };
    for error in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL] {
        assert_eq!(fail(error), 0);
    }
    assert_eq!(fail(libc::ECONNREFUSED), 1);
}

/// A configuration without ejection, whose default is on for more than one endpoint.
#[test]
fn ejection_can_be_off() {
    let off = group("endpoints = [1, 2]\neject = false\nbalance = \"first\"");
    for _ in 0..10 {
        let (index, mut flow) = Flow::enter(&off).expect("admitted");
        assert_eq!(index, 0);
        flow.fail(&off, index);
    }
    let only = group("endpoints = [1]");
    assert_eq!(only.config.eject, None);
}

// The queue.

const QUEUE: &str = "endpoints = [1]\nmax_connections = 1\n\
                     queue = { length = 2, timeout = \"10s\" }";

async fn admit(group: &Group, counters: &Counters) -> Result<(Seat, Option<Place>), Refused> {
    let mut admission = Admission::default();
    let (_, seat) = group.admit(&mut admission, counters, pending::<()>).await?;
    Ok((seat, admission.place))
}

/// Who waits is in the queue once the current task lets others run.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

fn local() -> tokio::task::LocalSet {
    tokio::task::LocalSet::new()
}

#[tokio::test(start_paused = true)]
async fn first_come_first_served_and_no_more_than_the_length() {
    local()
        .run_until(async {
            let (group, counters) = (group(QUEUE), Arc::new(Counters::default()));
            let first = admit(&group, &counters).await.expect("admitted");
            let served = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
            let mut tasks = Vec::new();
            for number in 0..2 {
                let (group, counters) = (Arc::clone(&group), Arc::clone(&counters));
                let served = std::rc::Rc::clone(&served);
                tasks.push(tokio::task::spawn_local(async move {
                    let places = admit(&group, &counters).await;
                    served.borrow_mut().push(number);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    drop(places);
                }));
                settle().await;
            }
            assert_eq!(group.room.waiting(), 2);
            assert!(matches!(admit(&group, &counters).await, Err(Refused::QueueFull)));
            assert!(served.borrow().is_empty());
            drop(first);
            settle().await;
            assert_eq!(*served.borrow(), [0]);
            for task in tasks {
                task.await.expect("no panic");
            }
            assert_eq!(*served.borrow(), [0, 1]);
            assert_eq!((group.room.in_use(), group.room.waiting()), (0, 0));
            assert_eq!(counters.value(Counter::UpstreamQueued), 2);
            let waited = counters.value(Counter::UpstreamQueueMicros);
            assert!((1_000_000..1_010_000).contains(&waited), "{waited}");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_timeout() {
    let (group, counters) = (group(QUEUE), Counters::default());
    let _held = admit(&group, &counters).await;
    let start = Instant::now();
    assert!(matches!(admit(&group, &counters).await, Err(Refused::QueueTimeout)));
    let waited = start.elapsed().as_millis();
    assert!((10_000..10_010).contains(&waited), "{waited}");
    assert_eq!(group.room.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_gives_up_the_place_in_the_queue() {
    let (group, counters) = (group(QUEUE), Counters::default());
    let _held = admit(&group, &counters).await;
    let mut admission = Admission::default();
    let left = group.admit(&mut admission, &counters, || ready(())).await;
    assert!(matches!(left, Err(Refused::ClientLeft)));
    assert_eq!(group.room.waiting(), 0);
    // And one whose task is dropped, as when the daemon stops.
    let dropped = tokio::time::timeout(Duration::from_secs(1), admit(&group, &counters)).await;
    assert!(dropped.is_err());
    assert_eq!(group.room.waiting(), 0);
}

/// The first in the queue is told of a place, and gone before it can take it.
#[tokio::test(start_paused = true)]
async fn a_place_that_somebody_was_told_of_who_has_gone_is_the_next_ones() {
    local()
        .run_until(async {
            let (group, counters) = (group(QUEUE), Arc::new(Counters::default()));
            let held = admit(&group, &counters).await;
            let wait = || {
                let (group, counters) = (Arc::clone(&group), Arc::clone(&counters));
                tokio::task::spawn_local(async move { admit(&group, &counters).await.is_ok() })
            };
            let (first, second) = (wait(), wait());
            settle().await;
            assert_eq!(group.room.waiting(), 2);
            drop(held);
            first.abort();
            let served = tokio::time::timeout(Duration::from_secs(1), second).await;
            assert!(served.expect("soon").expect("no panic"));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn without_a_queue_the_answer_comes_at_once() {
    let (group, counters) = (group("endpoints = [1]\nmax_connections = 1"), Counters::default());
    let _held = admit(&group, &counters).await;
    assert!(matches!(admit(&group, &counters).await, Err(Refused::Full)));
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_does_not_overtake_the_queue() {
    local()
        .run_until(async {
            let (group, counters) = (group(QUEUE), Arc::new(Counters::default()));
            let held = admit(&group, &counters).await;
            let (waiting, theirs) = (Arc::clone(&group), Arc::clone(&counters));
            let waiter =
                tokio::task::spawn_local(async move { admit(&waiting, &theirs).await.is_ok() });
            settle().await;
            drop(held);
            // The waiter has been told, and has not run yet: the place is its.
            let ours = tokio::time::timeout(Duration::ZERO, admit(&group, &counters)).await;
            assert!(ours.is_err() || waiter.is_finished());
            assert!(waiter.await.expect("no panic"));
        })
        .await;
}

/// All that wait hear that the last endpoint has gone.
#[tokio::test(start_paused = true)]
async fn those_who_wait_are_refused_when_no_endpoint_is_left() {
    local()
        .run_until(async {
            let health = "health = { fall = 1, rise = 1 }\nendpoints = [1]\nmax_connections = 1\n\
                          queue = { length = 5, timeout = \"1h\" }";
            let (group, counters) = (group(health), Arc::new(Counters::default()));
            let _held = admit(&group, &counters).await;
            let tasks: Vec<_> = (0..3)
                .map(|_| {
                    let (group, counters) = (Arc::clone(&group), Arc::clone(&counters));
                    tokio::task::spawn_local(async move { admit(&group, &counters).await })
                })
                .collect();
            settle().await;
            group.checked(&group.endpoints[0], &Err("closed".into()), &counters);
            for task in tasks {
                let Err(Refused::NoneUp(why)) = task.await.expect("no panic") else { panic!() };
                assert_eq!(why, "127.0.0.1:1: down: closed");
            }
            group.checked(&group.endpoints[0], &Ok(()), &counters);
            let count = |counter| counters.value(counter);
            assert_eq!((count(Counter::UpstreamDown), count(Counter::UpstreamUp)), (1, 1));
            assert_eq!(count(Counter::UpstreamChecksFailed), 1);
            assert_eq!(count(Counter::UpstreamChecksPassed), 1);
        })
        .await;
}

/// The end of an ejection is a place, too, and nobody gives it back.
#[tokio::test(start_paused = true)]
async fn those_who_wait_try_an_endpoint_whose_ejection_is_over() {
    let keys = "endpoints = [{ address = 1, max_connections = 1 }, 2]\n\
                eject = { failures = 1, backoff = \"3s\" }\n\
                queue = { length = 5, timeout = \"1h\" }";
    let (group, counters) = (group(keys), Counters::default());
    eject(&group, 1);
    let (seat, _held) = admit(&group, &counters).await.expect("admitted");
    assert_eq!(seat.endpoint().address().to_string(), "127.0.0.1:1");
    let start = Instant::now();
    let (seat, _place) = admit(&group, &counters).await.expect("admitted");
    assert_eq!(seat.endpoint().address().to_string(), "127.0.0.1:2");
    let waited = start.elapsed().as_millis();
    assert!((2_990..3_010).contains(&waited), "{waited}");
}

/// Who has tried an endpoint in vain does not take its place from those behind.
#[tokio::test(start_paused = true)]
async fn a_place_that_is_none_for_the_first_goes_to_the_next() {
    local()
        .run_until(async {
            let keys = "endpoints = [{ address = 1, max_connections = 1 }, \
                        { address = 2, max_connections = 1 }]\nbalance = \"first\"\n\
                        queue = { length = 5, timeout = \"1h\" }";
            let (group, counters) = (group(keys), Arc::new(Counters::default()));
            let on_one = admit(&group, &counters).await.expect("admitted");
            let on_two = admit(&group, &counters).await.expect("admitted");
            let spawn = |tried: Vec<usize>| {
                let (group, counters) = (Arc::clone(&group), Arc::clone(&counters));
                tokio::task::spawn_local(async move {
                    let mut admission = Admission { tried, ..Admission::default() };
                    let admitted = group.admit(&mut admission, &counters, pending::<()>).await;
                    admitted.map(|(index, seat)| (index, seat, admission.place))
                })
            };
            let newcomer = spawn(Vec::new());
            settle().await;
            // In front of the other, since it has waited before; and not for endpoint 0.
            let again = spawn(vec![0]);
            settle().await;
            drop(on_one);
            settle().await;
            let (index, ..) = newcomer.await.expect("no panic").expect("admitted");
            assert_eq!(index, 0);
            assert!(!again.is_finished());
            drop(on_two);
            let (index, ..) = again.await.expect("no panic").expect("admitted");
            assert_eq!(index, 1);
        })
        .await;
}

// Reload.

#[test]
fn a_later_configuration_takes_over_what_stays() {
    let before = config("endpoints = [1, 2]\nmax_connections = 5");
    let groups = Groups::new(&before);
    let old = Arc::clone(&groups[before.rules[0].upstream]);
    let (index, flow) = Flow::enter(&old).expect("admitted");
    eject(&old, 1 - index);

    let after = config("endpoints = [3, 2, 1]\nmax_connections = 1");
    let groups = groups.succeeding(&after);
    let new = &groups[after.rules[0].upstream];
    let full = Shut::Full(Kind::Upstream);
    assert_eq!(Flow::enter(new).map(|flow| flow.0), Err(full), "the flow counts here, too");
    let conditions: Vec<bool> =
        new.endpoints.iter().map(|endpoint| endpoint.condition() == Condition::Up).collect();
    assert_eq!(conditions, [true, index == 1, index == 0]);
    drop(flow);
    assert_eq!((new.room.in_use(), new.endpoints.iter().map(|e| e.in_use()).sum()), (0, 0u32));

    // Without ejection an ejected endpoint would stay what it is for ever.
    let off = config("endpoints = [1, 2]\neject = false");
    let groups = groups.succeeding(&off);
    let new = &groups[off.rules[0].upstream];
    assert!(new.endpoints.iter().all(|endpoint| endpoint.condition() == Condition::Up));
}

#[test]
fn a_group_of_another_name_starts_anew() {
    let before = config("endpoints = [1, 2]");
    let groups = Groups::new(&before);
    eject(&groups[before.rules[0].upstream], 0);
    let text = "listen = \"127.0.0.1:0\"\n[[rule]]\nupstream = \"h\"\n\
                [[upstream]]\nname = \"h\"\nendpoints = [1, 2]\n";
    let after = rules::parse("rules.toml", text).unwrap_or_else(|error| panic!("{error}"));
    let groups = groups.succeeding(&after);
    let new = &groups[after.rules[0].upstream];
    assert!(new.endpoints.iter().all(|endpoint| endpoint.condition() == Condition::Up));
}
