//! The kernel's own timers of a TCP connection, as far as mux sets them.

use std::{io, os::fd::AsFd, time::Duration};

use socket2::{SockRef, TcpKeepalive};

/// When the kernel gives a connection up (tcp(7)). `None` leaves it to a wider setting, or at
/// last to the kernel; zero switches it off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpTimers {
    /// Silence before the first probe (`TCP_KEEPIDLE`), whole seconds, at most
    /// [`Self::MOST_KEEPALIVE`]. [`Self::PROBES`] probes follow, a fourth of it apart (at least
    /// 1 s): a dead peer is given up after about twice this time.
    pub keepalive: Option<Duration>,
    /// How long data may stay unacknowledged (`TCP_USER_TIMEOUT`, RFC 5482), whole
    /// milliseconds, at most [`Self::MOST_USER_TIMEOUT`].
    pub user_timeout: Option<Duration>,
}

impl TcpTimers {
    /// Probes that remain unanswered before the connection is given up (`TCP_KEEPCNT`).
    pub const PROBES: u32 = 4;
    /// `MAX_TCP_KEEPIDLE` (include/net/tcp.h).
    pub const MOST_KEEPALIVE: Duration = Duration::from_secs(32_767);
    /// The option is an `int` of milliseconds.
    pub const MOST_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

    /// These, and where they say nothing, the `wider` ones.
    #[must_use]
    pub fn or(self, wider: Self) -> Self {
        Self {
            keepalive: self.keepalive.or(wider.keepalive),
            user_timeout: self.user_timeout.or(wider.user_timeout),
        }
    }

    /// What has to be set where `before` was, for these to be in force: what they leave to the
    /// kernel is off, as it is by default.
    #[must_use]
    pub fn instead_of(self, before: Self) -> Self {
        let off = |set: Option<Duration>| set.map(|_| Duration::ZERO);
        self.or(Self { keepalive: off(before.keepalive), user_timeout: off(before.user_timeout) })
    }

    /// Sets them on a TCP socket. Connections that a listening socket accepts inherit them.
    ///
    /// # Errors
    /// setsockopt(2)'s.
    pub fn apply(self, socket: impl AsFd) -> io::Result<()> {
        let socket = SockRef::from(&socket);
        match self.keepalive {
            None => {}
            Some(Duration::ZERO) => socket.set_keepalive(false)?,
            Some(idle) => socket.set_tcp_keepalive(
                &TcpKeepalive::new()
                    .with_time(idle)
                    .with_interval((idle / Self::PROBES).max(Duration::from_secs(1)))
                    .with_retries(Self::PROBES),
            )?,
        }
        if let Some(timeout) = self.user_timeout {
            socket.set_tcp_user_timeout(Some(timeout))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const SET: TcpTimers = TcpTimers {
        keepalive: Some(Duration::from_secs(60)),
        user_timeout: Some(Duration::from_millis(1500)),
    };

    #[test]
    fn the_narrower_setting_counts() {
        let none = TcpTimers::default();
        assert_eq!((none.or(SET), SET.or(none)), (SET, SET));
        let off = TcpTimers { keepalive: Some(Duration::ZERO), user_timeout: None };
        let mixed = off.or(SET);
        assert_eq!(mixed.keepalive, Some(Duration::ZERO));
        assert_eq!(mixed.user_timeout, SET.user_timeout);
    }

    #[test]
    fn what_is_no_longer_set_is_switched_off() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        SET.apply(&listener).unwrap();
        let none = TcpTimers::default();
        none.instead_of(SET).apply(&listener).unwrap();
        let socket = SockRef::from(&listener);
        assert!(!socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap().unwrap_or_default(), Duration::ZERO);
        assert_eq!((SET.instead_of(none), none.instead_of(none)), (SET, none));
    }

    #[test]
    fn an_accepted_connection_has_what_its_listener_was_given() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        SET.apply(&listener).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        let socket = SockRef::from(&accepted);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(15));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_millis(1500)));
        let off = TcpTimers { keepalive: Some(Duration::ZERO), user_timeout: Some(Duration::ZERO) };
        off.apply(&accepted).unwrap();
        assert!(!socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap().unwrap_or_default(), Duration::ZERO);
    }
}
