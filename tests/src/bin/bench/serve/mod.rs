//! The server behind every multiplexer: one thread accepts for all, each connection stays with
//! one thread.
//!
//! Accepting in one place and dealing connections out in turn keeps the threads evenly loaded, where `SO_REUSEPORT`
//! would leave that to a hash of port numbers, anew in every round.

mod conn;
mod service;

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use rustix::{
    event::{EventfdFlags, epoll::EventFlags, eventfd},
    io::Errno,
    net::SocketFlags,
};
use serde_json::{Map, Value};
use slab::Slab;
use socket2::{Domain, SockAddr, Socket, Type};

use self::{
    conn::{Conn, Fate},
    service::{SERVICES, Service, Tools},
};
use crate::poll::Poller;

/// Connections that may wait; net.core.somaxconn may lower it.
const BACKLOG: i32 = 4096;
/// Accepted at a time, before those that are there get their turn.
const ACCEPTS: usize = 64;

/// `mux-bench serve`.
#[derive(clap::Args, Debug)]
pub(crate) struct ServeArgs {
    /// Threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    ip: IpAddr,
    /// Serve HTTP on this Unix socket, too
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
}

/// Prints where each service listens, and serves until it is killed.
///
/// # Errors
/// A socket cannot be had, or a thread ended.
pub(crate) fn run(args: &ServeArgs) -> Result<()> {
    let (listeners, addresses) = listen(args)?;
    let mut workers = Vec::new();
    let mut posts = Vec::new();
    for _ in 0..args.threads {
        let (sender, inbox) = channel();
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let bell = Arc::new(bell);
        posts.push(Post { sender, bell: Arc::clone(&bell) });
        workers.push((inbox, bell));
    }
    let mut listeners = Some((listeners, posts));
    let threads: Vec<_> = workers
        .into_iter()
        .map(|(inbox, bell)| {
            // The first one accepts, for all.
            let (listeners, posts) = listeners.take().unwrap_or_default();
            thread::spawn(move || Worker::new(listeners, posts, inbox, bell)?.run())
        })
        .collect();
    println!("{}", Value::Object(addresses));
    std::io::stdout().flush()?;
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a thread panicked"))??;
    }
    Ok(())
}

/// A worker's letter box.
#[derive(Debug)]
struct Post {
    sender: Sender<(OwnedFd, Service)>,
    bell: Arc<OwnedFd>,
}

/// Sockets, and what is served on each.
type Listeners = Vec<(Socket, Service)>;

fn listen(args: &ServeArgs) -> Result<(Listeners, Map<String, Value>)> {
    let mut listeners = Vec::new();
    let mut addresses = Map::new();
    for service in SERVICES {
        let any = SocketAddr::from((args.ip, 0));
        let socket = Socket::new(Domain::for_address(any), Type::STREAM, None)?;
        // Accepted connections inherit it.
        socket.set_tcp_nodelay(true)?;
        begin(&socket, &any.into())?;
        let address = socket.local_addr()?.as_socket().context("an IP address")?;
        addresses.insert(service.name().to_owned(), address.to_string().into());
        listeners.push((socket, service));
    }
    if let Some(path) = &args.unix {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        begin(&socket, &SockAddr::unix(path)?)?;
        // For multiplexers that have become another user.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
        addresses.insert("unix".to_owned(), path.display().to_string().into());
        listeners.push((socket, Service::Http));
    }
    Ok((listeners, addresses))
}

fn begin(socket: &Socket, address: &SockAddr) -> Result<()> {
    socket.set_nonblocking(true)?;
    socket.bind(address)?;
    Ok(socket.listen(BACKLOG)?)
}

/// A thread's connections.
struct Worker {
    poller: Poller,
    listeners: Listeners,
    posts: Vec<Post>,
    next: usize,
    inbox: Receiver<(OwnedFd, Service)>,
    bell: Arc<OwnedFd>,
    conns: Slab<Conn>,
    tools: Tools,
}

impl Worker {
    fn new(
        listeners: Listeners,
        posts: Vec<Post>,
        inbox: Receiver<(OwnedFd, Service)>,
        bell: Arc<OwnedFd>,
    ) -> Result<Self> {
        let poller = Poller::new()?;
        for (token, (socket, _)) in listeners.iter().enumerate() {
            poller.add(socket, token as u64, EventFlags::IN)?;
        }
        poller.add(bell.as_fd(), listeners.len() as u64, EventFlags::IN)?;
        let (conns, tools) = (Slab::new(), Tools::default());
        Ok(Self { poller, listeners, posts, next: 0, inbox, bell, conns, tools })
    }

    fn run(mut self) -> Result<()> {
        let bell = self.listeners.len();
        let mut ready = Vec::new();
        loop {
            self.poller.wait(&mut ready, None)?;
            for &(token, _) in &ready {
                let token = token as usize;
                match token.checked_sub(bell) {
                    None => self.accept(token)?,
                    Some(0) => self.receive()?,
                    Some(key) => self.serve(key - 1)?,
                }
            }
        }
    }

    fn accept(&mut self, listener: usize) -> Result<()> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        for _ in 0..ACCEPTS {
            let Some((socket, service)) = self.listeners.get(listener) else { return Ok(()) };
            let accepted = match rustix::net::accept_with(socket, flags) {
                Ok(accepted) => accepted,
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(()),
                Err(error) => return Err(error).context("accepting"),
            };
            let service = *service;
            let turn = self.next % self.posts.len();
            self.next += 1;
            match self.posts.get(turn) {
                Some(post) if turn > 0 => {
                    post.sender.send((accepted, service)).context("a thread is gone")?;
                    rustix::io::write(&post.bell, &1_u64.to_ne_bytes())?;
                }
                _ => self.begin(accepted, service)?,
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.bell, &mut count);
        while let Ok((socket, service)) = self.inbox.try_recv() {
            self.begin(socket, service)?;
        }
        Ok(())
    }

    /// Serves at once: the first bytes are often there already, and a connection that is over
    /// after them never meets epoll.
    fn begin(&mut self, socket: OwnedFd, service: Service) -> Result<()> {
        let mut conn = Conn::new(socket, service);
        if let Fate::Waits(interest) = conn.advance(&mut self.tools) {
            let entry = self.conns.vacant_entry();
            let token = self.listeners.len() + 1 + entry.key();
            self.poller.add(&conn.socket, token as u64, interest)?;
            conn.interest = interest;
            entry.insert(conn);
        }
        Ok(())
    }

    fn serve(&mut self, key: usize) -> Result<()> {
        let Some(conn) = self.conns.get_mut(key) else { return Ok(()) };
        match conn.advance(&mut self.tools) {
            Fate::Over => {
                self.conns.try_remove(key);
            }
            Fate::Waits(interest) if interest != conn.interest => {
                conn.interest = interest;
                let token = self.listeners.len() + 1 + key;
                self.poller.modify(&conn.socket, token as u64, interest)?;
            }
            Fate::Waits(_) => {}
        }
        Ok(())
    }
}
