//! The relays that a test body runs on.

use anyhow::Result;

use crate::{Conn, Need};

/// Rules that have this in quotes ask for the packet relay.
pub(crate) const PACKET: &str = "packet";

/// A relay, as `relay = "…"` and the access log name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relay {
    /// read(2) and write(2).
    Copy,
    /// splice(2).
    Splice,
    /// The kernel's sockmap.
    Sockmap,
    /// The kernel's translation of packets.
    Packet,
}

impl Relay {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Copy, Self::Splice, Self::Sockmap, Self::Packet];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Splice => "splice",
            Self::Sockmap => "sockmap",
            Self::Packet => PACKET,
        }
    }

    /// Why it cannot be in force here; `None`: it must be.
    #[must_use]
    pub fn missing(self) -> Option<&'static str> {
        match self {
            Self::Copy | Self::Splice => None,
            Self::Sockmap | Self::Packet => Need::Root.missing(),
        }
    }

    /// Greetings each way after which a flow is sure to be on it: the packet relay has to have seen
    /// packets of both ways, and then one some time after the others ([`Self::pause`]).
    #[must_use]
    pub fn greetings(self) -> u64 {
        if self == Self::Packet { 4 } else { 1 }
    }

    /// Whether a flow that nobody has [greeted](Self::greet) is right to be on the one that the access log
    /// names: it may be over before the packet relay has had a moment for it.
    #[must_use]
    pub fn may_be(self, named: &str) -> bool {
        named == self.name() || self == Self::Packet
    }

    /// Lets a moment pass in which nothing is under way, for a relay that waits for one (30 µs). It
    /// is the one thing that has to be slept for: there is nothing to be seen that ends it.
    pub fn pause(self) {
        if self == Self::Packet {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Has `hello` (5 bytes) go up and `olleh` come back until a flow is sure to be on it: a flow that is
    /// full of bytes from the first moment on may never have the quiet one that it enters at.
    ///
    /// # Errors
    /// Either end's.
    pub fn greet(self, client: &Conn, server: &Conn) -> Result<()> {
        for _ in 0..self.greetings() {
            self.pause();
            client.send("hello")?;
            server.expect("hello")?;
            server.send("olleh")?;
            client.expect("olleh")?;
        }
        Ok(())
    }

    /// Bytes that go each way while a flow is opened ([`crate::Daemon::flow`]).
    #[must_use]
    pub fn hello(self) -> u64 {
        5 * self.greetings()
    }

    /// A rule for everything, to this upstream, with this relay.
    #[must_use]
    pub fn rule(self, upstream: &str) -> String {
        format!(
            "[[rule]]\nname = \"all\"\nupstream = \"{upstream}\"\nrelay = \"{}\"\n",
            self.name()
        )
    }
}

/// The same for the relays that are an end of both connections: the packet relay hands
/// packets on as they are, urgent pointers too.
#[macro_export]
macro_rules! on_each_relay_but_packet {
    ($($name:ident),* $(,)?) => {
        $crate::on_each_relay!(@module copy Copy $($name)*);
        $crate::on_each_relay!(@module splice Splice $($name)*);
        $crate::on_each_relay!(@module sockmap Sockmap $($name)*);
    };
}

/// Makes one `#[test]` a relay out of each `fn name(Relay) -> Result<()>`: `copy::name`, …
#[macro_export]
macro_rules! on_each_relay {
    ($($name:ident),* $(,)?) => {
        $crate::on_each_relay!(@module copy Copy $($name)*);
        $crate::on_each_relay!(@module splice Splice $($name)*);
        $crate::on_each_relay!(@module sockmap Sockmap $($name)*);
        $crate::on_each_relay!(@module packet Packet $($name)*);
    };
    (@module $module:ident $relay:ident $($name:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $name() -> anyhow::Result<()> {
                    $crate::need!($crate::Relay::$relay);
                    super::$name($crate::Relay::$relay)
                }
            )*
        }
    };
}
