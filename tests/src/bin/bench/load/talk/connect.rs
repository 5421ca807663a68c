//! Connections without a byte: opened, ended, and waited for until the other side has ended, too,
//! so that the subject has taken and closed each of them.

use std::{io, os::fd::OwnedFd, time::Instant};

use rustix::{
    event::epoll::EventFlags,
    net::{Shutdown, shutdown},
};

use super::{Context, Step, Talk, wrong};
use crate::{
    load::clock::Clock,
    poll::{Moved, read},
};

/// A connection without a byte.
pub(crate) struct Connect {
    begun: Instant,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing was looked at yet.
    New,
    Connecting,
    Ended,
}

impl Connect {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), state: State::New }
    }
}

impl Talk for Connect {
    fn begin(&mut self, now: Instant) {
        self.begun = now;
    }

    fn advance(&mut self, socket: &OwnedFd, context: &mut Context<'_>) -> io::Result<Step> {
        match self.state {
            State::New => {
                // shutdown(2) before the peer has answered would take the attempt back.
                self.state = State::Connecting;
                return Ok(Step::Wait(EventFlags::OUT));
            }
            State::Connecting => {
                shutdown(socket, Shutdown::Write)?;
                self.state = State::Ended;
                return Ok(Step::Wait(EventFlags::IN));
            }
            State::Ended => {}
        }
        match read(socket, context.buffer) {
            Ok(Moved::Later) => Ok(Step::Wait(EventFlags::IN)),
            Ok(Moved::Bytes(0)) => {
                context.unit(0, self.begun, Instant::now());
                Ok(Step::Again)
            }
            Ok(Moved::Bytes(_)) => Err(wrong("bytes, where nothing was asked")),
            // Another way to say no to a connection that asked nothing.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                context.unit(0, self.begun, Instant::now());
                Ok(Step::Again)
            }
            Err(error) => Err(error),
        }
    }

    fn may_end(&self, _: &Clock) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::{super::testing::Rig, *};

    #[test]
    fn the_other_sides_end_makes_a_unit_and_bytes_a_fault() {
        let mut rig = Rig::new(Connect::new());
        for _ in 0..3 {
            assert_eq!(rig.advance().unwrap().1, 0);
        }
        rig.peer.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(matches!(rig.advance().unwrap(), (Step::Again, 1)));

        let mut rig = Rig::new(Connect::new());
        rig.advance().unwrap();
        rig.advance().unwrap();
        rig.peer.write_all(b"?").unwrap();
        assert!(rig.advance().is_err());
    }
}
