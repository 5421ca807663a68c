//! The relays that a test body runs on.

use crate::Need;

/// A relay, as `relay = "…"` and the access log name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relay {
    /// read(2) and write(2).
    Copy,
    /// splice(2).
    Splice,
    /// The kernel's sockmap.
    Sockmap,
}

impl Relay {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Copy, Self::Splice, Self::Sockmap];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Splice => "splice",
            Self::Sockmap => "sockmap",
        }
    }

    /// Why it cannot be in force here; `None`: it must be.
    #[must_use]
    pub fn missing(self) -> Option<&'static str> {
        match self {
            Self::Copy | Self::Splice => None,
            Self::Sockmap => Need::Root.missing(),
        }
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

/// Makes one `#[test]` a relay out of each `fn name(Relay) -> Result<()>`: `copy::name`, …
#[macro_export]
macro_rules! on_each_relay {
    ($($name:ident),* $(,)?) => {
        $crate::on_each_relay!(@module copy Copy $($name)*);
        $crate::on_each_relay!(@module splice Splice $($name)*);
        $crate::on_each_relay!(@module sockmap Sockmap $($name)*);
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
