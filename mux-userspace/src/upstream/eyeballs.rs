//! Happy Eyeballs (RFC 8305): the addresses of one name, tried one a moment later than the other;
//! the first that answers wins.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// Connection Attempt Delay (section 5).
const DELAY: Duration = Duration::from_millis(250);
/// Its minimum (section 5).
const LEAST_DELAY: Duration = Duration::from_millis(10);
/// Attempts at once, each a descriptor: a name whose addresses are all silent must not cost one for
/// each of them, for each connection.
pub(super) const MOST_AT_ONCE: usize = 4;

/// The addresses of a name in the order in which to try them: beginning with the family of the
/// first one, families take turns (section 4, First Address Family Count 1). Within a family the
/// order stays, but begins `turn` addresses later.
pub(super) fn interleave(addresses: &[IpAddr], turn: usize, port: u16) -> Vec<SocketAddr> {
    let leads = addresses.first().is_some_and(IpAddr::is_ipv4);
    let family = |leading: bool| {
        let members: Vec<IpAddr> =
            addresses.iter().copied().filter(|ip| (ip.is_ipv4() == leads) == leading).collect();
        let begin = turn.checked_rem(members.len()).unwrap_or(0);
        let count = members.len();
        members.into_iter().cycle().skip(begin).take(count)
    };
    let (mut leading, mut other) = (family(true), family(false));
    let mut order = Vec::with_capacity(addresses.len());
    loop {
        let before = order.len();
        order.extend(leading.next());
        order.extend(other.next());
        if order.len() == before {
            break;
        }
    }
    order.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
}

/// The pause between two attempts: the RFC's, or less, so that each of `count` addresses has been
/// tried by three quarters of the time there is.
pub(super) fn delay(count: usize, time: Duration) -> Duration {
    let share = time * 3 / 4 / u32::try_from(count).unwrap_or(u32::MAX).max(1);
    share.clamp(LEAST_DELAY, DELAY)
}

/// Connects to the first of `addresses` that answers before `deadline`. An attempt begins `delay`
/// after the one before it, or as soon as one has failed; where [`MOST_AT_ONCE`] are on their way,
/// the oldest of these is given up for it. What is still being tried when one succeeds is dropped,
/// which closes it.
///
/// # Errors
/// What each address said.
pub(super) async fn race<T, F>(
    addresses: &[SocketAddr],
    delay: Duration,
    deadline: Instant,
    mut connect: impl FnMut(SocketAddr) -> F,
) -> Result<(T, SocketAddr), Vec<(SocketAddr, io::Error)>>
where
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = addresses.iter().copied();
    let mut running: Vec<(SocketAddr, Pin<Box<F>>)> = Vec::new();
    let mut failed = Vec::new();
    loop {
        if let Some(address) = waiting.next() {
            if running.len() == MOST_AT_ONCE {
                // It has had its time: with `delay`, as long as three others.
                let (given_up, _) = running.remove(0);
                failed.push((given_up, timed_out()));
            }
            running.push((address, Box::pin(connect(address))));
        }
        if running.is_empty() {
            return Err(failed);
        }
        let pause = if waiting.len() > 0 { deadline.min(Instant::now() + delay) } else { deadline };
        match first_result(&mut running, pause).await {
            Some((address, Ok(stream))) => return Ok((stream, address)),
            Some((address, Err(error))) => failed.push((address, error)),
            None if pause < deadline => {}
            None => {
                let late = running.into_iter().map(|(address, _)| address).chain(waiting);
                failed.extend(late.map(|address| (address, timed_out())));
                return Err(failed);
            }
        }
    }
}

/// The first attempt that ends before `pause`, taken out of those that run.
async fn first_result<T, F>(
    running: &mut Vec<(SocketAddr, Pin<Box<F>>)>,
    pause: Instant,
) -> Option<(SocketAddr, io::Result<T>)>
where
    F: Future<Output = io::Result<T>>,
{
    let sleep = sleep_until(pause);
    tokio::pin!(sleep);
    poll_fn(|cx| {
        for (index, (address, attempt)) in running.iter_mut().enumerate() {
            if let Poll::Ready(result) = attempt.as_mut().poll(cx) {
                let address = *address;
                // The order is that of the attempts: of two that are ready the earlier one wins.
                drop(running.remove(index));
                return Poll::Ready(Some((address, result)));
            }
        }
        sleep.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// What an attempt is given that has not ended in time.
pub(super) fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "timed out")
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        rc::Rc,
    };

    use proptest::prelude::*;
    use tokio::time::sleep;

    use super::*;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|text| SocketAddr::new(text.parse().expect(text), 80)).collect()
    }

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|text| text.parse().expect(text)).collect()
    }

    #[test]
    fn families_take_turns_and_the_first_one_leads() {
        let found = ips(&["::1", "::2", "::3", "10.0.0.1", "10.0.0.2"]);
        let order = ["::1", "10.0.0.1", "::2", "10.0.0.2", "::3"];
        assert_eq!(interleave(&found, 0, 80), addresses(&order));
        let found = ips(&["10.0.0.1", "::1", "::2"]);
        assert_eq!(interleave(&found, 0, 80), addresses(&["10.0.0.1", "::1", "::2"]));
    }

    #[test]
    fn connections_begin_at_one_address_after_the_other() {
        let found = ips(&["::1", "::2", "10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        let order = ["::2", "10.0.0.3", "::1", "10.0.0.1", "10.0.0.2"];
        assert_eq!(interleave(&found, 5, 80), addresses(&order));
        assert!(interleave(&[], 3, 80).is_empty());
    }

    proptest! {
        /// Nothing is lost or doubled, and until one family is used up no two neighbours are alike.
        #[test]
        fn interleaving_is_a_permutation(v4 in any::<Vec<bool>>(), turn in any::<usize>()) {
            let found: Vec<IpAddr> = v4.iter().enumerate().map(|(index, v4)| {
                let number = index as u32;
                if *v4 {
                    std::net::Ipv4Addr::from(number).into()
                } else {
                    std::net::Ipv6Addr::from(u128::from(number)).into()
                }
            }).collect();
            let order: Vec<IpAddr> =
                interleave(&found, turn, 80).into_iter().map(|address| address.ip()).collect();
            let fours = v4.iter().filter(|v4| **v4).count();
            let mixed = 2 * fours.min(v4.len() - fours);
            prop_assert!(order[..mixed].windows(2).all(|pair| pair[0].is_ipv4() != pair[1].is_ipv4()));
            let (mut expected, mut sorted) = (found, order);
            expected.sort_unstable();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, expected);
        }
    }

    #[test]
    fn many_addresses_or_little_time_shorten_the_delay() {
        let second = Duration::from_secs(1);
        assert_eq!(delay(2, 2 * second), DELAY);
        assert_eq!(delay(10, 2 * second), Duration::from_millis(150));
        assert_eq!(delay(30, second), Duration::from_millis(25));
        assert_eq!(delay(64, Duration::from_millis(100)), LEAST_DELAY);
        assert_eq!(delay(0, second), DELAY);
    }

    /// What an address does, and when.
    #[derive(Clone, Copy)]
    enum Does {
        AnswersAfter(u64),
        FailsAfter(u64),
        IsSilent,
    }

    /// Connections that are open: begun and not dropped.
    struct Open(Rc<Cell<usize>>);

    impl Open {
        fn new(count: &Rc<Cell<usize>>) -> Self {
            count.set(count.get() + 1);
            Self(Rc::clone(count))
        }
    }

    impl Drop for Open {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    /// A race's winner (its number), when it was over, when each attempt began (milliseconds), and
    /// what the losers said.
    struct Raced {
        winner: Option<usize>,
        over: u64,
        begun: Vec<(usize, u64)>,
        errors: Vec<(usize, io::ErrorKind)>,
    }

    async fn run(plan: &[Does], deadline: u64) -> Raced {
        let all: Vec<SocketAddr> =
            (0..plan.len()).map(|index| SocketAddr::from(([10, 0, 0, index as u8], 80))).collect();
        let number = |address: SocketAddr| all.iter().position(|a| *a == address).expect("known");
        let start = Instant::now();
        let open = Rc::new(Cell::new(0));
        let begun = RefCell::new(Vec::new());
        let connect = |address: SocketAddr| {
            let index = number(address);
            begun.borrow_mut().push((index, start.elapsed().as_millis() as u64));
            let socket = Open::new(&open);
            let does = plan[index];
            async move {
                match does {
                    Does::AnswersAfter(ms) => {
                        sleep(Duration::from_millis(ms)).await;
                        Ok(socket)
                    }
                    Does::FailsAfter(ms) => {
                        sleep(Duration::from_millis(ms)).await;
                        Err(io::ErrorKind::ConnectionRefused.into())
                    }
                    Does::IsSilent => std::future::pending().await,
                }
            }
        };
        let deadline = start + Duration::from_millis(deadline);
        let result = race(&all, DELAY, deadline, connect).await;
        let over = start.elapsed().as_millis() as u64;
        let (winner, errors) = match result {
            Ok((socket, address)) => {
                assert_eq!(open.get(), 1, "losers are closed");
                drop(socket);
                (Some(number(address)), Vec::new())
            }
            Err(errors) => {
                let kinds = errors.iter().map(|(address, error)| (number(*address), error.kind()));
                (None, kinds.collect())
            }
        };
        assert_eq!(open.get(), 0);
        Raced { winner, over, begun: begun.into_inner(), errors }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_answers_at_once_is_the_only_one_tried() {
        let raced = run(&[Does::AnswersAfter(5), Does::AnswersAfter(0)], 2000).await;
        assert_eq!((raced.winner, raced.over), (Some(0), 5));
        assert_eq!(raced.begun, [(0, 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_one_costs_a_quarter_of_a_second() {
        let raced = run(&[Does::IsSilent, Does::AnswersAfter(10)], 2000).await;
        assert_eq!((raced.winner, raced.over), (Some(1), 260));
        assert_eq!(raced.begun, [(0, 0), (1, 250)]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_refuses_costs_nothing() {
        let plan = [Does::FailsAfter(1), Does::FailsAfter(1), Does::AnswersAfter(1)];
        let raced = run(&plan, 2000).await;
        assert_eq!((raced.winner, raced.over), (Some(2), 3));
        assert_eq!(raced.begun, [(0, 0), (1, 1), (2, 2)]);
    }

    /// The first attempt goes on while later ones are made, and may still win.
    #[tokio::test(start_paused = true)]
    async fn a_slow_one_may_still_win() {
        let raced = run(&[Does::AnswersAfter(300), Does::AnswersAfter(100)], 2000).await;
        assert_eq!((raced.winner, raced.over), (Some(0), 300));
        assert_eq!(raced.begun, [(0, 0), (1, 250)]);
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_fail_say_why() {
        let plan = [Does::FailsAfter(100), Does::IsSilent, Does::FailsAfter(400)];
        let raced = run(&plan, 1000).await;
        assert_eq!((raced.winner, raced.over), (None, 1000));
        assert_eq!(raced.begun, [(0, 0), (1, 100), (2, 350)]);
        let refused = io::ErrorKind::ConnectionRefused;
        assert_eq!(raced.errors, [(0, refused), (2, refused), (1, io::ErrorKind::TimedOut)]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_names_even_those_that_were_not_tried() {
        let raced = run(&[Does::IsSilent; 4], 600).await;
        assert_eq!((raced.winner, raced.over), (None, 600));
        assert_eq!(raced.begun, [(0, 0), (1, 250), (2, 500)]);
        assert_eq!(raced.errors.len(), 4);
    }

    /// Sixty-four attempts were on their way at once.
    #[tokio::test(start_paused = true)]
    async fn few_attempts_are_on_their_way_at_once() {
        let all: Vec<SocketAddr> = (0..64).map(|n| SocketAddr::from(([10, 0, 0, n], 80))).collect();
        let open = Rc::new(Cell::new(0));
        let most = Cell::new(0);
        let connect = |address: SocketAddr| {
            let socket = Open::new(&open);
            most.set(most.get().max(open.get()));
            async move {
                if address.ip() != IpAddr::from([10, 0, 0, 63]) {
                    std::future::pending::<()>().await;
                }
                Ok(socket)
            }
        };
        let deadline = Instant::now() + Duration::from_secs(2);
        let delay = delay(all.len(), Duration::from_secs(2));
        let (socket, winner) = race(&all, delay, deadline, connect).await.expect("the last one");
        assert_eq!(winner, all[63], "though it is the last of many");
        drop(socket);
        assert_eq!((open.get(), most.get()), (0, MOST_AT_ONCE));
    }

    #[tokio::test(start_paused = true)]
    async fn no_address_is_no_winner() {
        assert_eq!(run(&[], 1000).await.winner, None);
    }

    /// Dropped in the middle, as when the flow is told to end: nothing stays open.
    #[tokio::test(start_paused = true)]
    async fn a_race_that_is_given_up_leaves_nothing_open() {
        let open = Rc::new(Cell::new(0));
        let all = addresses(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        let deadline = Instant::now() + Duration::from_secs(10);
        let connect = |_| {
            let socket = Open::new(&open);
            async move {
                sleep(Duration::from_secs(5)).await;
                Ok(socket)
            }
        };
        let racing = race(&all, DELAY, deadline, connect);
        let ended = tokio::time::timeout(Duration::from_millis(300), racing).await;
        assert!(ended.is_err());
        assert_eq!(open.get(), 0);
    }
}
