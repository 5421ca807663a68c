//! Listening sockets: how they are bound, one per core (`SO_REUSEPORT`).

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{fs::MetadataExt, net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::{
    net::{self, TcpTimers},
    rules::config::{ListenAddress, ListenerConfig},
};

/// Connections that may wait in the kernel; net.core.somaxconn may lower it.
const BACKLOG: i32 = 4096;

/// A listener's sockets.
#[derive(Debug)]
pub struct Bound {
    /// Where it really listens (port 0 is resolved).
    pub address: ListenAddress,
    /// At least one for each core.
    pub sockets: Vec<Socket>,
    /// The Unix socket file that was made.
    pub file: Option<SocketFile>,
    /// What a successor gets.
    pub spares: Arc<Spares>,
    /// Who bound them was another, so that connections may be in their queues already.
    pub adopted: bool,
}

impl Bound {
    /// The same with other handles to its sockets for a successor.
    ///
    /// # Errors
    /// dup(2)'s.
    pub fn with_spares(self) -> io::Result<Self> {
        let spares = Spares::of(&self.sockets)?.into();
        Ok(Self { spares, ..self })
    }

    /// Where it listens, if that is an IP address.
    #[must_use]
    pub fn ip_address(&self) -> Option<SocketAddr> {
        self.sockets.first()?.local_addr().ok()?.as_socket()
    }
}

/// Other handles to the sockets of a listener, for a successor, and the listener's end: a port is
/// open as long as there is one handle.
#[derive(Debug, Default)]
pub struct Spares {
    sockets: Mutex<Vec<Socket>>,
    closed: CancellationToken,
}

impl Spares {
    /// Of these.
    ///
    /// # Errors
    /// dup(2)'s.
    pub fn of(sockets: &[Socket]) -> io::Result<Self> {
        let sockets = sockets.iter().map(Socket::try_clone).collect::<io::Result<Vec<_>>>()?;
        Ok(Self { sockets: sockets.into(), closed: CancellationToken::new() })
    }

    /// Handles for another process.
    ///
    /// # Errors
    /// dup(2)'s.
    pub fn try_clone(&self) -> io::Result<Vec<Socket>> {
        self.lock().iter().map(Socket::try_clone).collect()
    }

    /// Lets go of the handles: no process can have them any more.
    pub fn release(&self) {
        self.lock().clear();
    }

    /// Lets go of the handles, and has whoever accepts close its own.
    pub fn close(&self) {
        self.release();
        self.closed.cancel();
    }

    /// Whether it has been closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Waits until it is closed.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Socket>> {
        // Nothing panics that holds it.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A Unix socket's file, to be removed at the end if it is still the one we made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// A listener could not be bound.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {source}{hint}")]
pub struct BindError {
    address: String,
    /// What the kernel said.
    pub source: io::Error,
    hint: &'static str,
}

impl BindError {
    fn new(address: &ListenAddress, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => {
                "\nhint: another process listens there; `ss -ltnp` shows which"
            }
            io::ErrorKind::PermissionDenied => {
                "\nhint: ports below 1024 need CAP_NET_BIND_SERVICE, socket files a writable directory"
            }
            io::ErrorKind::AddrNotAvailable => {
                "\nhint: this machine has no such address; `ip address` shows them"
            }
            io::ErrorKind::NotFound => "\nhint: make the socket file's directory first",
            _ => "",
        };
        Self { address: describe(address), source, hint }
    }

    /// The same with another hint, which begins with a line break.
    #[must_use]
    pub fn with_hint(self, hint: &'static str) -> Self {
        Self { hint, ..self }
    }
}

/// An address as logs print it.
#[must_use]
pub fn describe(address: &ListenAddress) -> String {
    match address {
        ListenAddress::Tcp(address) => address.to_string(),
        ListenAddress::Unix(path) => format!("unix:{}", path.display()),
        ListenAddress::Systemd(name) => format!("systemd:{name}"),
    }
}

/// Binds a listener's sockets, one for each of `cores`, whose connections have these timers.
///
/// # Errors
/// [`BindError`].
pub fn bind(
    listener: &ListenerConfig,
    cores: usize,
    v6_only: bool,
    timers: TcpTimers,
) -> Result<Bound, BindError> {
    let failed = |error| BindError::new(&listener.address, error);
    match &listener.address {
        ListenAddress::Tcp(address) => {
            check_free(*address, v6_only).map_err(failed)?;
            let first = bind_tcp(*address, v6_only, timers).map_err(failed)?;
            let actual = local_address(&first).map_err(failed)?;
            let mut sockets = vec![first];
            for _ in 1..cores {
                sockets.push(bind_tcp(actual, v6_only, timers).map_err(failed)?);
            }
            let address = ListenAddress::Tcp(actual);
            Ok(Bound { address, sockets, file: None, spares: Arc::default(), adopted: false })
        }
        ListenAddress::Unix(path) => {
            let (first, file) = bind_unix(path, None).map_err(failed)?;
            let mut sockets = vec![first];
            for _ in 1..cores {
                let again = sockets[0].try_clone().map_err(failed)?;
                sockets.push(again);
            }
            let address = listener.address.clone();
            Ok(Bound { address, sockets, file: Some(file), spares: Arc::default(), adopted: false })
        }
        ListenAddress::Systemd(_) => {
            Err(failed(io::Error::new(io::ErrorKind::Unsupported, "its sockets are passed to mux")))
        }
    }
}

/// Makes a listener of sockets that listen already: another process's, or systemd's. Where they are
/// fewer than the cores, cores share them.
///
/// # Errors
/// [`BindError`]: a socket cannot be set up or shared.
pub fn adopt(
    listener: &ListenerConfig,
    mut sockets: Vec<Socket>,
    file: Option<SocketFile>,
    cores: usize,
    timers: TcpTimers,
) -> Result<Bound, BindError> {
    let failed = |error| BindError::new(&listener.address, error);
    let mut address = listener.address.clone();
    for socket in &sockets {
        socket.set_nonblocking(true).map_err(failed)?;
        let local = socket.local_addr().map_err(failed)?;
        if let Some(local) = local.as_socket() {
            // Accepted connections inherit both.
            net::set_up(&SockRef::from(socket)).map_err(failed)?;
            timers.apply(socket).map_err(failed)?;
            address = ListenAddress::Tcp(local);
        } else if let Some(path) = local.as_pathname() {
            address = ListenAddress::Unix(path.to_owned());
        }
    }
    let there = sockets.len();
    if there == 0 {
        return Err(failed(io::ErrorKind::NotFound.into()));
    }
    for index in there..cores {
        let again = sockets[index % there].try_clone().map_err(failed)?;
        sockets.push(again);
    }
    Ok(Bound { address, sockets, file, spares: Arc::default(), adopted: true })
}

/// Fails where somebody listens already. Binding itself would not, if that somebody is a mux of
/// the same user: `SO_REUSEPORT` would have the two share the port.
fn check_free(address: SocketAddr, v6_only: bool) -> io::Result<()> {
    let socket = new_tcp(address, v6_only)?;
    socket.bind(&address.into())
}

fn new_tcp(address: SocketAddr, v6_only: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    Ok(socket)
}

fn bind_tcp(address: SocketAddr, v6_only: bool, timers: TcpTimers) -> io::Result<Socket> {
    let socket = new_tcp(address, v6_only)?;
    socket.set_reuse_port(true)?;
    net::set_up(&SockRef::from(&socket))?;
    timers.apply(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP address"))
}

/// Binds the admin socket. Nobody but the file's owner can connect so far.
///
/// # Errors
/// [`BindError`].
pub(crate) fn bind_admin(path: &Path) -> Result<(Socket, SocketFile), BindError> {
    bind_unix(path, Some(0o600))
        .map_err(|error| BindError::new(&ListenAddress::Unix(path.to_owned()), error))
}

/// Binds the address of `[admin] metrics`.
///
/// # Errors
/// [`BindError`].
pub(crate) fn bind_metrics(address: SocketAddr) -> Result<Socket, BindError> {
    let bind = || {
        let socket = new_tcp(address, false)?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    bind().map_err(|error| BindError::new(&ListenAddress::Tcp(address), error))
}

fn bind_unix(path: &Path, mode: Option<u32>) -> io::Result<(Socket, SocketFile)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if let Some(mode) = mode {
        // bind(2) gives the file the socket's own permissions, less the umask (`unix_bind_bsd`):
        // there is no moment in which it has more.
        rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(mode))?;
    }
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    let metadata = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() };
    Ok((socket, file))
}

/// Removes the socket file of a daemon that was killed: one on which nobody listens.
fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => match StdUnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            // Somebody listens: bind says "in use".
            Ok(_) | Err(_) => Ok(()),
        },
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Whether a process has the socket of this file open. Connecting to it with another type fails
/// without a connection that somebody would have to accept: with EPROTOTYPE, or with ECONNREFUSED
/// where there is no socket any more (`unix_find_bsd`, net/unix/af_unix.c).
fn is_open(path: &Path) -> bool {
    let connected = Socket::new(Domain::UNIX, Type::DGRAM, None)
        .and_then(|socket| socket.connect(&SockAddr::unix(path)?));
    matches!(connected, Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE))
}

impl SocketFile {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, unless another has taken its place.
    ///
    /// # Errors
    /// unlink(2)'s: a directory that the daemon's user may not write to.
    pub fn remove(&self) -> io::Result<()> {
        match fs::symlink_metadata(&self.path) {
            Ok(metadata) if (metadata.dev(), metadata.ino()) == (self.device, self.inode) => {
                fs::remove_file(&self.path)
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes it, unless another has taken its place, or somebody has the socket open.
    ///
    /// # Errors
    /// unlink(2)'s.
    pub fn remove_unused(&self) -> io::Result<()> {
        if is_open(&self.path) { Ok(()) } else { self.remove() }
    }

    /// As the keeper's argument: `device:inode:path`.
    #[must_use]
    pub fn to_argument(&self) -> std::ffi::OsString {
        let mut text = std::ffi::OsString::from(format!("{}:{}:", self.device, self.inode));
        text.push(&self.path);
        text
    }

    /// From [`Self::to_argument`].
    #[must_use]
    pub fn from_argument(argument: &std::ffi::OsStr) -> Option<Self> {
        use std::os::unix::ffi::OsStrExt;
        let bytes = argument.as_bytes();
        let mut parts = bytes.splitn(3, |&byte| byte == b':');
        let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse().ok();
        let (device, inode) = (number()?, number()?);
        let path = std::ffi::OsStr::from_bytes(parts.next()?);
        Some(Self { path: path.into(), device, inode })
    }
}

/// Whether a dual-stack listener would take `listener`'s place: another one has the same port on
/// IPv4.
#[must_use]
pub fn needs_v6_only(listener: &ListenerConfig, all: &[Arc<ListenerConfig>]) -> bool {
    let ListenAddress::Tcp(SocketAddr::V6(address)) = &listener.address else { return false };
    address.port() != 0
        && all.iter().any(|other| match &other.address {
            ListenAddress::Tcp(SocketAddr::V4(v4)) => v4.port() == address.port(),
            ListenAddress::Tcp(SocketAddr::V6(_))
            | ListenAddress::Unix(_)
            | ListenAddress::Systemd(_) => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_file_is_removed_only_while_it_is_ours() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (socket, file) = bind_unix(&path, None).unwrap();
        assert_eq!(SocketFile::from_argument(&file.to_argument()), Some(file.clone()));
        // Another daemon's socket took the name.
        fs::remove_file(&path).unwrap();
        let (_other, other_file) = bind_unix(&path, None).unwrap();
        if other_file.inode != file.inode {
            file.remove().unwrap();
            assert!(path.exists());
        }
        other_file.remove().unwrap();
        assert!(!path.exists());
        drop(socket);
    }

    #[test]
    fn a_socket_file_stays_while_somebody_listens() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (socket, file) = bind_unix(&path, None).unwrap();
        let other = socket.try_clone().unwrap();
        drop(socket);
        file.remove_unused().unwrap();
        assert!(path.exists());
        assert_eq!(other.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(other);
        file.remove_unused().unwrap();
        assert!(!path.exists());
        file.remove_unused().unwrap();
    }

    #[test]
    fn sockets_are_shared_where_they_are_fewer_than_the_cores() {
        let address = ListenAddress::Systemd("web".into());
        let listener = ListenerConfig::new("l", address, Arc::default());
        let socket = || Socket::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let bound = |sockets| adopt(&listener, sockets, None, 3, TcpTimers::default());
        assert_eq!(bound(vec![socket()]).unwrap().sockets.len(), 3);
        assert_eq!(bound((0..5).map(|_| socket()).collect()).unwrap().sockets.len(), 5);
        assert!(bound(Vec::new()).is_err());
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (socket, _) = bind_unix(&path, None).unwrap();
        assert_eq!(bind_unix(&path, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        bind_unix(&path, None).unwrap();
    }

    #[test]
    fn port_0_is_the_same_port_on_every_core() {
        let address = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap());
        let listener = ListenerConfig::new("l", address, Arc::default());
        let bound = bind(&listener, 3, false, TcpTimers::default()).unwrap();
        let ports: Vec<_> =
            bound.sockets.iter().map(|socket| local_address(socket).unwrap().port()).collect();
        assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    }
}
