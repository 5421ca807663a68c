//! Clients that ask without pause, and what became of their requests.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// How long a client waits for its answer: after that the request has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// One request that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    /// The phase in which it began.
    pub(crate) phase: usize,
    pub(crate) began: Instant,
    pub(crate) took: Duration,
    /// Who answered; `None`: nobody did.
    pub(crate) by: Option<String>,
}

/// What the clients share.
#[derive(Debug, Default)]
pub(crate) struct Load {
    phase: AtomicUsize,
    stop: AtomicBool,
    done: Mutex<Vec<Done>>,
}

impl Load {
    /// Requests that begin from now on are of the next phase.
    pub(crate) fn next_phase(&self) -> Instant {
        self.phase.fetch_add(1, Ordering::AcqRel);
        Instant::now()
    }

    /// Ends the clients.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// All requests so far, as they ended.
    pub(crate) fn done(&self) -> Vec<Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When the first request began after `since` that this server answered.
    pub(crate) fn answered(&self, by: &str, since: Instant) -> Option<Duration> {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let its = done.iter().filter(|done| done.by.as_deref() == Some(by));
        its.filter(|done| done.began >= since).map(|done| done.began - since).min()
    }

    /// One client: asks until it is told to stop.
    pub(crate) fn ask(&self, address: SocketAddr) {
        while !self.stop.load(Ordering::Acquire) {
            let (phase, began) = (self.phase.load(Ordering::Acquire), Instant::now());
            let by = request(address).ok().flatten();
            let done = Done { phase, began, took: began.elapsed(), by };
            self.done.lock().unwrap_or_else(PoisonError::into_inner).push(done);
        }
    }
}

/// Who answers; `None`: not as it should.
fn request(address: SocketAddr) -> std::io::Result<Option<String>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(REQUEST)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    Ok(body.filter(|body| answer.starts_with("HTTP/1.1 200 ") && !body.is_empty()))
}
