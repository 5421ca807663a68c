//! Servers behind the daemon: scripted by the test ([`Upstream`]), or running by themselves
//! ([`Server`]).

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{Conn, deadline};

/// A listening socket whose connections the test accepts one by one.
#[derive(Debug)]
pub struct Upstream {
    socket: Socket,
    file: Option<PathBuf>,
}

impl Upstream {
    /// On 127.0.0.1.
    ///
    /// # Errors
    /// bind(2)'s.
    pub fn tcp() -> Result<Self> {
        Self::at("127.0.0.1:0".parse()?, 1024)
    }

    /// On ::1.
    ///
    /// # Errors
    /// bind(2)'s.
    pub fn tcp6() -> Result<Self> {
        Self::at("[::1]:0".parse()?, 1024)
    }

    /// On an address, with a backlog.
    ///
    /// # Errors
    /// bind(2)'s.
    pub fn at(address: SocketAddr, backlog: i32) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.bind(&address.into()).with_context(|| format!("binding {address}"))?;
        socket.listen(backlog)?;
        Ok(Self { socket, file: None })
    }

    /// On a Unix socket that everybody may connect to.
    ///
    /// # Errors
    /// bind(2)'s.
    pub fn unix(path: &Path) -> Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?).with_context(|| path.display().to_string())?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
        socket.listen(1024)?;
        Ok(Self { socket, file: Some(path.to_owned()) })
    }

    /// As `upstream = "…"` names it.
    ///
    /// # Panics
    /// A bound socket has an address.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.file {
            Some(path) => format!("unix:{}", path.display()),
            None => self.address().to_string(),
        }
    }

    /// Its address.
    ///
    /// # Panics
    /// It is a Unix socket.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let address = self.socket.local_addr().ok().and_then(|address| address.as_socket());
        address.expect("a TCP upstream")
    }

    /// The next connection.
    ///
    /// # Errors
    /// None comes.
    pub fn accept(&self) -> Result<Conn> {
        if !self.wait(deadline())? {
            bail!("no connection came to {}", self.name());
        }
        Conn::from_socket(self.socket.accept()?.0)
    }

    /// Whether a connection is waiting now.
    ///
    /// # Errors
    /// poll(2)'s.
    pub fn has_connection(&self) -> Result<bool> {
        self.wait(Duration::ZERO)
    }

    fn wait(&self, most: Duration) -> Result<bool> {
        let timeout = Timespec { tv_sec: most.as_secs().cast_signed(), tv_nsec: 0 };
        loop {
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout)) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Serves every connection with `handler`, each in a thread.
    ///
    /// # Errors
    /// None so far.
    pub fn serve(
        self,
        handler: impl Fn(Conn) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Server> {
        let name = self.name();
        let state = Arc::new(State::default());
        let stop = Arc::clone(&state);
        let accepting = thread::spawn(move || self.accept_all(&stop, &Arc::new(handler)));
        Ok(Server { name, state, accepting: Some(accepting) })
    }

    fn accept_all<H>(&self, state: &Arc<State>, handler: &Arc<H>)
    where
        H: Fn(Conn) -> Result<()> + Send + Sync + 'static,
    {
        let mut workers: Vec<JoinHandle<()>> = Vec::new();
        while !state.stop.load(Ordering::Acquire) {
            // Short, so that the order to stop is seen; nothing depends on how short.
            let ready = {
                let timeout = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
                poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout))
            };
            if !matches!(ready, Ok(1)) {
                continue;
            }
            let accepted = self.socket.accept().context("accepting");
            match accepted.and_then(|(socket, _)| Conn::from_socket(socket)) {
                Ok(conn) => {
                    state.served.fetch_add(1, Ordering::AcqRel);
                    let (handler, state) = (Arc::clone(handler), Arc::clone(state));
                    workers.push(thread::spawn(move || {
                        if let Err(error) = handler(conn) {
                            state.fail(error);
                        }
                    }));
                }
                Err(error) => state.fail(error),
            }
            if workers.len() >= 256 {
                workers.retain(|worker| !worker.is_finished());
            }
        }
        for worker in workers {
            if worker.join().is_err() {
                state.fail(anyhow::anyhow!("a handler panicked"));
            }
        }
    }
}

/// A server that runs by itself; stops when it is dropped.
#[derive(Debug)]
pub struct Server {
    name: String,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    served: AtomicUsize,
    failures: Mutex<Vec<anyhow::Error>>,
}

impl State {
    fn fail(&self, error: anyhow::Error) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(error);
    }
}

impl Server {
    /// On 127.0.0.1: says `tag` to every connection, takes what comes and ends when it ends.
    ///
    /// # Errors
    /// bind(2)'s.
    pub fn tagged(tag: &str) -> Result<Self> {
        Upstream::tcp()?.tagged(tag)
    }

    /// On 127.0.0.1: sends everything back.
    ///
    /// # Errors
    /// bind(2)'s.
    pub fn echo() -> Result<Self> {
        Upstream::tcp()?.serve(echo)
    }

    /// As `upstream = "…"` names it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Connections so far.
    #[must_use]
    pub fn served(&self) -> usize {
        self.state.served.load(Ordering::Acquire)
    }

    /// Stops, and waits for its connections to end.
    ///
    /// # Errors
    /// The first failure of a handler.
    pub fn stop(mut self) -> Result<()> {
        self.end();
        let mut failures = self.state.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.len();
        match failures.drain(..).next() {
            None => Ok(()),
            Some(first) => {
                Err(first.context(format!("{count} connections failed in {}", self.name)))
            }
        }
    }

    fn end(&mut self) {
        self.state.stop.store(true, Ordering::Release);
        if let Some(accepting) = self.accepting.take() {
            // Its panic has been printed.
            let _ = accepting.join();
        }
    }
}

impl Upstream {
    /// Says `tag` to every connection, takes what comes and ends when it ends.
    ///
    /// # Errors
    /// None so far.
    pub fn tagged(self, tag: &str) -> Result<Server> {
        let tag = tag.to_owned();
        self.serve(move |conn| {
            conn.send(&tag)?;
            conn.finish()?;
            conn.to_end().map(drop)
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Release);
    }
}

fn echo(conn: Conn) -> Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        match conn.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(read) => conn.send(&bytes[..read])?,
            Err(error) => return Err(error.into()),
        }
    }
}
