//! systemd's two protocols: sockets that it passes (sd_listen_fds(3)), and what it is told
//! (sd_notify(3)). Without it, nothing here does anything.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

use sd_notify::NotifyState;
use socket2::{Socket, Type};
use tracing::{debug, warn};

use super::orders::Outcome;
use crate::{shared::Shared, sys};

/// The first passed descriptor (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;
/// The name of one that has none.
const UNNAMED: &str = "unknown";
const VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];
/// Most descriptors that are looked at.
const MOST: i32 = 4096;

/// Sockets that were passed, each with its name.
#[derive(Debug, Default)]
pub(super) struct Passed {
    sockets: Vec<(String, Socket)>,
}

impl Passed {
    /// Those that are meant for this process. Forgets the environment variables. Call it once, at
    /// the start of the process.
    pub(super) fn from_environment() -> io::Result<Self> {
        let [pid, count, names] = VARIABLES.map(|name| env::var(name).ok());
        sys::forget_variables(&VARIABLES);
        let is_ours = pid.is_some_and(|pid| pid == std::process::id().to_string());
        let (true, Some(count)) = (is_ours, count) else { return Ok(Self::default()) };
        let count: i32 =
            count.parse().ok().filter(|count| (0..=MOST).contains(count)).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidInput, format!("LISTEN_FDS is {count}"))
            })?;
        let names = names.unwrap_or_default();
        let names = names.split(':').chain(std::iter::repeat(""));
        let sockets = (FIRST..FIRST + count)
            .zip(names)
            .map(|(number, name)| {
                let name = if name.is_empty() { UNNAMED } else { name };
                Ok((name.to_owned(), Socket::from(sys::inherited(number)?)))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { sockets })
    }

    /// Those of this name; or what is wrong with them, or what there is instead.
    pub(super) fn take(&mut self, name: &str) -> Result<Vec<Socket>, String> {
        let (taken, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.sockets).into_iter().partition(|(other, _)| other == name);
        self.sockets = rest;
        if taken.is_empty() {
            return Err(self.missing(name));
        }
        for (_, socket) in &taken {
            let is_stream = socket.r#type().is_ok_and(|r#type| r#type == Type::STREAM);
            if !(is_stream && socket.is_listener().unwrap_or(false)) {
                return Err(format!(
                    "what was passed as `{name}` is no stream socket that listens\n\
                     hint: `ListenStream=` and `Accept=no` in the socket unit"
                ));
            }
        }
        Ok(taken.into_iter().map(|(_, socket)| socket).collect())
    }

    fn missing(&self, name: &str) -> String {
        if self.sockets.is_empty() {
            return format!(
                "no socket was passed to this process\n\
                 hint: start it by a socket unit with `FileDescriptorName={name}`"
            );
        }
        let mut names: Vec<&str> = self.sockets.iter().map(|(name, _)| name.as_str()).collect();
        names.dedup();
        format!(
            "no socket of this name was passed; there are: {}\n\
             hint: `FileDescriptorName=` in the socket unit names them",
            names.join(", ")
        )
    }

    /// Names what no listener has taken.
    pub(super) fn warn_of_the_rest(&self) {
        for (name, _) in &self.sockets {
            warn!("a socket was passed as `{name}` and no listener is `systemd:{name}`");
        }
    }
}

/// Tells the service manager, if there is one.
pub(super) fn notify(state: &[NotifyState<'_>]) {
    let Some(manager) = env::var_os("NOTIFY_SOCKET") else { return };
    let message: String = state.iter().map(|state| format!("{state}\n")).collect();
    if let Err(error) = send(&manager, &message) {
        debug!("cannot tell the service manager: {error}");
    }
}

/// The crate's own function knows no abstract sockets.
fn send(manager: &OsStr, message: &str) -> io::Result<()> {
    let address = match manager.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(manager)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

/// This process serves, and is the service's main one.
pub(super) fn serving(shared: &Shared) {
    let status = status(shared);
    let pid = std::process::id();
    notify(&[NotifyState::MainPid(pid), NotifyState::Ready, NotifyState::Status(&status)]);
}

/// The rules are being read again; [`reloaded`] ends it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => {
            debug!("no time: {error}");
            notify(&[NotifyState::Reloading]);
        }
    }
}

/// How reading them ended.
pub(super) fn reloaded(shared: &Shared, outcome: &Outcome) {
    let status = match outcome {
        Ok(_) => status(shared),
        Err(reason) => format!("reload failed: {}", reason.lines().next().unwrap_or_default()),
    };
    notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// The service ends.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// This process does what it is for.
pub(super) fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// What `systemctl status` shows.
fn status(shared: &Shared) -> String {
    let listeners = shared.current.load().listening.len();
    let plural = if listeners == 1 { "" } else { "s" };
    let relay = if shared.unavailable.is_none() { "sockmap" } else { "user space" };
    format!("serving, {listeners} listener{plural}, relay {relay}")
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn passed() -> Passed {
        let tcp = || Socket::from(TcpListener::bind("127.0.0.1:0").unwrap());
        let udp = Socket::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        let sockets = vec![("web", tcp()), ("web", tcp()), ("dns", udp), ("ssh", tcp())];
        Passed {
            sockets: sockets.into_iter().map(|(name, socket)| (name.to_owned(), socket)).collect(),
        }
    }

    #[test]
    fn sockets_are_taken_by_name() {
        let mut passed = passed();
        assert_eq!(passed.take("web").unwrap().len(), 2);
        let error = passed.take("web").unwrap_err();
        assert!(error.contains("there are: dns, ssh"), "{error}");
        assert_eq!(passed.take("ssh").unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_listening_stream_is_refused() {
        let error = passed().take("dns").unwrap_err();
        assert!(error.contains("no stream socket"), "{error}");
        let error = Passed::default().take("web").unwrap_err();
        assert!(error.contains("FileDescriptorName=web"), "{error}");
    }
}
