//! Names to addresses: looked up in the background, so that no connection waits for a resolver but
//! the very first ones.
//!
//! By getaddrinfo(3), which is what every other program on the machine uses: /etc/hosts, nsswitch,
//! mDNS and search domains are honoured. It does not tell how long an answer is valid; hence
//! `resolve`. A resolver of our own would tell, and would disagree with the machine's in all the
//! rest.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use super::{
    addresses::{Begin, History},
    random::Random,
};
use crate::{
    account::{Counter, Counters},
    rules::config::HealthConfig,
};

/// Most addresses of a name that are used.
const MAX_ADDRESSES: usize = 64;
/// Pause after a look-up that failed, and shortest pause between two of them; doubled up to
/// `resolve` while they go on failing.
const SOON: Duration = Duration::from_secs(1);

/// A name, and the last good answer for it.
#[derive(Debug)]
pub(super) struct Name {
    host: Arc<str>,
    port: u16,
    answer: watch::Sender<Answer>,
    /// Wants a new answer early: nobody answered at the known addresses.
    doubted: Notify,
    /// Where the next connection begins among the addresses.
    turn: AtomicUsize,
    history: Mutex<History>,
}

#[derive(Clone, Debug)]
enum Answer {
    /// The first look-up is not over.
    Pending,
    /// As the resolver sorted them (RFC 6724); not empty.
    Known { addresses: Arc<[IpAddr]>, problem: Option<Arc<str>> },
    /// There has never been one; why.
    Failed(Arc<str>),
}

impl Name {
    pub(super) fn new(host: Arc<str>, port: u16) -> Self {
        Self {
            host,
            port,
            answer: watch::Sender::new(Answer::Pending),
            doubted: Notify::new(),
            turn: AtomicUsize::new(0),
            history: Mutex::default(),
        }
    }

    /// The addresses in the order in which to try them: families take turns (RFC 8305), and within
    /// each family connections begin at one address after the other, so that all are used; those of
    /// `sticky`, where there is such a client, begin at its own. Waits only while there has been no
    /// answer of any kind.
    ///
    /// # Errors
    /// Why the name could not be looked up.
    pub(super) async fn addresses(&self, sticky: Option<IpAddr>) -> io::Result<Vec<SocketAddr>> {
        let addresses = self.all().await?;
        let begin = match sticky {
            Some(source) => Begin::Source(source),
            None => Begin::Turn(self.turn.fetch_add(1, Ordering::Relaxed)),
        };
        Ok(self.history().order(&addresses, begin, self.port, Instant::now()))
    }

    /// All of them, as the resolver sorted them. Waits as [`Self::addresses`] does.
    ///
    /// # Errors
    /// Why the name could not be looked up.
    pub(super) async fn all(&self) -> io::Result<Arc<[IpAddr]>> {
        if let Some(result) = self.known() {
            return result;
        }
        let mut answer = self.answer.subscribe();
        // It ends with the name, which we hold.
        let _ = answer.wait_for(|answer| !matches!(answer, Answer::Pending)).await;
        self.known().unwrap_or_else(|| Err(io::Error::other("no answer")))
    }

    fn known(&self) -> Option<io::Result<Arc<[IpAddr]>>> {
        match &*self.answer.borrow() {
            Answer::Pending => None,
            Answer::Known { addresses, .. } => Some(Ok(Arc::clone(addresses))),
            Answer::Failed(why) => Some(Err(io::Error::new(io::ErrorKind::NotFound, &**why))),
        }
    }

    /// Its port.
    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// Takes which address answered, and which were tried before it.
    pub(super) fn won(&self, winner: IpAddr, before: &[SocketAddr]) {
        self.history().won(winner, before, Instant::now());
    }

    /// Takes an active check of one address.
    pub(super) fn checked(&self, address: IpAddr, passed: bool, health: &HealthConfig) {
        let change = self.history().checked(address, passed, health.rise, health.fall);
        if let Some(change) = change {
            debug!(host = %self.host, %address, ?change, "an address of a name");
        }
    }

    /// Forgets what the checks have said of its addresses.
    pub(super) fn forget_checks(&self) {
        self.history().forget_checks();
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a new answer soon.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// What is wrong with the last look-up.
    pub(super) fn problem(&self) -> Option<Arc<str>> {
        match &*self.answer.borrow() {
            Answer::Pending => None,
            Answer::Known { problem, .. } => problem.clone(),
            Answer::Failed(why) => Some(Arc::clone(why)),
        }
    }

    /// Takes an answer. One that is an error does not replace a good one.
    fn take(&self, looked_up: io::Result<Vec<IpAddr>>) {
        self.answer.send_modify(|answer| match looked_up {
            Ok(addresses) => {
                self.history().keep(&addresses);
                *answer = Answer::Known { addresses: addresses.into(), problem: None };
            }
            Err(error) => {
                let why: Arc<str> = error.to_string().into();
                match answer {
                    Answer::Known { problem, .. } => *problem = Some(why),
                    Answer::Pending | Answer::Failed(_) => *answer = Answer::Failed(why),
                }
            }
        });
    }

    /// Looks the name up, again and again, for ever. Flows that are connected are left alone.
    pub(super) async fn keep_up<F>(
        &self,
        interval: Duration,
        random: &Random,
        counters: &Counters,
        changed: &Notify,
        mut look_up: impl FnMut(Arc<str>) -> F,
    ) where
        F: Future<Output = io::Result<Vec<IpAddr>>>,
    {
        let mut soon = SOON.min(interval);
        loop {
            let looked_up = look_up(Arc::clone(&self.host)).await.and_then(checked);
            let failed = looked_up.is_err();
            counters.count(if failed { Counter::ResolveFailed } else { Counter::Resolved });
            let had_problem = self.problem().is_some();
            self.take(looked_up);
            if failed != had_problem {
                changed.notify_one();
            }
            if failed {
                sleep(soon).await;
                soon = (soon * 2).min(interval);
                continue;
            }
            soon = SOON.min(interval);
            // Even a doubted answer is left alone for a moment: a dead server's clients come in
            // crowds.
            let pause = interval.mul_f64(random.jitter());
            sleep(soon.min(pause)).await;
            let _ = timeout(pause.saturating_sub(soon), self.doubted.notified()).await;
        }
    }
}

/// By the system's resolver.
pub(super) async fn look_up(host: Arc<str>) -> io::Result<Vec<IpAddr>> {
    let found = tokio::net::lookup_host((&*host, 0)).await?;
    Ok(found.map(|address| address.ip()).collect())
}

/// Each address once, and not too many of them.
fn checked(found: Vec<IpAddr>) -> io::Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for address in found {
        if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::VecDeque, net::Ipv4Addr};

    use super::*;

    fn ip(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    fn addresses_now(name: &Name) -> Option<Vec<u8>> {
        let known = name.known()?.ok()?;
        let last = |address: &IpAddr| match address {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(_) => 0,
        };
        let mut known: Vec<u8> = known.iter().map(last).collect();
        known.sort_unstable();
        Some(known)
    }

    #[test]
    fn addresses_are_bounded_and_come_once() {
        let many: Vec<IpAddr> = (0..=255).chain(0..=255).map(ip).collect();
        assert_eq!(checked(many).expect("some").len(), MAX_ADDRESSES);
        assert_eq!(checked(vec![ip(1), ip(2), ip(1)]).expect("some"), [ip(1), ip(2)]);
        assert!(checked(Vec::new()).is_err());
    }

    /// The whole life of a name: no answer, an answer, other addresses, a resolver that fails, a
    /// doubt.
    #[tokio::test(start_paused = true)]
    async fn a_name_is_kept_up_and_a_failing_resolver_takes_nothing_away() {
        let name = Name::new("db.test".into(), 5432);
        let (counters, changed, random) = (Counters::default(), Notify::new(), Random::seeded(1));
        let answers = RefCell::new(VecDeque::from([
            Err(io::Error::other("no network yet")),
            Err(io::Error::other("no network yet")),
            Ok(vec![ip(1)]),
            Ok(vec![ip(2), ip(3)]),
            Err(io::Error::other("the resolver is away")),
            Ok(vec![ip(4)]),
        ]));
        let asked = RefCell::new(Vec::new());
        let start = Instant::now();
        let look_up = |host: Arc<str>| {
            assert_eq!(&*host, "db.test");
            asked.borrow_mut().push(start.elapsed());
            let answer = answers.borrow_mut().pop_front();
            async move {
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            }
        };
        let interval = Duration::from_secs(30);
        let keep = name.keep_up(interval, &random, &counters, &changed, look_up);
        tokio::pin!(keep);
        let mut until = async |seconds: f64| {
            let end = start + Duration::from_secs_f64(seconds);
            let _ = tokio::time::timeout_at(end, keep.as_mut()).await;
        };

        assert!(addresses_now(&name).is_none());
        until(0.5).await;
        assert!(name.addresses(None).await.is_err() && name.problem().is_some());
        until(2.9).await; // asked at 0 and 1
        assert!(addresses_now(&name).is_none());
        until(3.1).await; // and at 3
        assert_eq!(addresses_now(&name), Some(vec![1]));
        until(3.0 + 26.9).await; // not before 90 % of the interval
        assert_eq!(addresses_now(&name), Some(vec![1]));
        until(3.0 + 33.1).await;
        assert_eq!(addresses_now(&name), Some(vec![2, 3]));
        assert!(name.problem().is_none());
        until(3.0 + 66.2).await; // the failure, and soon after it the good answer
        assert_eq!(asked.borrow().len(), 6);
        assert_eq!(addresses_now(&name), Some(vec![4]));
        let retry = asked.borrow()[5] - asked.borrow()[4];
        assert!(retry <= Duration::from_millis(1100), "{retry:?}");
        assert_eq!(counters.value(Counter::ResolveFailed), 3);
        assert_eq!(counters.value(Counter::Resolved), 3);
        // A doubt brings the next look-up forward.
        name.doubt();
        let now = start.elapsed();
        until(now.as_secs_f64() + 1.1).await;
        assert_eq!(asked.borrow().len(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_keeps_the_last_good_answer_and_says_so() {
        let name = Name::new("db.test".into(), 1);
        name.take(Ok(vec![ip(1)]));
        name.take(Err(io::Error::other("the resolver is away")));
        assert_eq!(addresses_now(&name), Some(vec![1]));
        assert_eq!(name.problem().as_deref(), Some("the resolver is away"));
    }

    /// Connections that come before the first answer wait for it.
    #[tokio::test(start_paused = true)]
    async fn the_first_connections_wait_for_the_first_answer() {
        let name = Name::new("db.test".into(), 1);
        let (addresses, ()) = tokio::join!(name.addresses(None), async {
            sleep(Duration::from_secs(1)).await;
            name.take(Ok(vec![ip(7)]));
        });
        assert_eq!(addresses.expect("an answer"), ["192.0.2.7:1".parse().expect("an address")]);
    }

    #[tokio::test]
    async fn localhost_is_a_loopback_address() {
        let found = look_up("localhost".into()).await.expect("localhost");
        assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
    }
}
