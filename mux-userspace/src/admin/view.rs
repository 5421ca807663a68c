//! The JSON of the admin socket, as both ends see it. Fields are added, not changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::relay::Mode;

/// `/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// mux's version.
    pub version: String,
    /// Which eBPF object is built in: where it came from, and its hash.
    pub object: String,
    /// The daemon's process.
    pub pid: u32,
    /// `serving` or `draining`.
    pub state: String,
    /// When it began to serve (RFC 3339).
    pub started: String,
    /// How long ago that is.
    pub uptime_seconds: f64,
    /// How many times rules were put in force, the first time included.
    pub generation: u64,
    /// Why the rules could not be loaded again the last time; `None`: they could.
    pub reload_failure: Option<String>,
    /// `[log] level`, or what was ordered since; the filter where `RUST_LOG` gave one.
    pub log_level: String,
    /// The kernel relay.
    pub relay: RelayStatus,
    /// What the daemon may do.
    #[serde(default)]
    pub security: SecurityStatus,
    /// Each core.
    pub cores: Vec<CoreStatus>,
    /// Connections, those that are sniffed included.
    pub connections: u64,
    /// Connections that are being sniffed.
    pub sniffing: u64,
    /// Flows, by relay.
    pub flows: ByRelay,
    /// Bytes carried, by flows that are over and that are alive.
    pub bytes: Ways,
    /// The same by the relay that a flow ended on, or is on: all of its bytes move with it.
    #[serde(default)]
    pub relayed: Relayed,
    /// Listeners.
    pub listeners: Vec<ListenerStatus>,
    /// Rules, in their order, by the upstreams that their flows went to.
    pub rules: Vec<RuleStatus>,
    /// Upstreams.
    pub upstreams: Vec<UpstreamStatus>,
    /// Limits.
    pub limits: Vec<LimitStatus>,
    /// Counters.
    pub counters: BTreeMap<String, u64>,
    /// Connections that are over, by close reason.
    pub closed: BTreeMap<String, u64>,
}

/// What the daemon may do, as the kernel told it before its first connection. All of its threads have
/// the same, and none can get more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityStatus {
    /// Its user's name, or the number where it has none.
    pub user: String,
    /// Capabilities in force (`CAP_…`); none, as a rule.
    pub capabilities: Vec<String>,
    /// Whether it can get no more by executing a program.
    pub no_new_privs: bool,
    /// The filter of system calls: what is in force, `off`, or why it is not.
    pub seccomp: String,
    /// The restriction of files, in the same way.
    pub landlock: String,
}

/// The kernel relay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RelayStatus {
    /// The best: `packet`, `sockmap` or `user space`.
    pub in_force: String,
    /// Why not `sockmap`.
    pub why_not: Option<String>,
    /// Why not `packet`.
    #[serde(default)]
    pub no_packets: Option<String>,
    /// `auto`, or `off` after `mux relay off`.
    pub switch: String,
    /// How long the self-test took, if it passed.
    pub self_test_milliseconds: Option<f64>,
    /// What was looked at when the daemon started.
    pub checks: Vec<CheckStatus>,
}

/// One of the checks that `mux doctor` makes, too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// What was looked at.
    pub name: String,
    /// `ok`, `warning`, `problem` or `skipped`.
    pub status: String,
    /// What was found.
    pub found: String,
}

/// A core.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CoreStatus {
    /// Its number.
    pub core: usize,
    /// Connections in its table.
    pub connections: u64,
    /// Flows, by relay.
    pub flows: ByRelay,
}

/// Bytes, by relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relayed {
    /// Copied.
    pub copy: Ways,
    /// By splice(2).
    pub splice: Ways,
    /// By the kernel.
    pub sockmap: Ways,
    /// In the kernel, packet by packet.
    #[serde(default)]
    pub packet: Ways,
}

impl Relayed {
    /// In the order of [`crate::relay::Mode::ALL`].
    #[must_use]
    pub fn new(bytes: [[u64; 2]; Mode::ALL.len()]) -> Self {
        let [copy, splice, sockmap, packet] = bytes.map(Into::into);
        Self { copy, splice, sockmap, packet }
    }
}

/// How many, by relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByRelay {
    /// Copied.
    pub copy: u64,
    /// By splice(2).
    pub splice: u64,
    /// By the kernel's sockmap.
    pub sockmap: u64,
    /// By the kernel, packet by packet.
    #[serde(default)]
    pub packet: u64,
}

impl ByRelay {
    /// In the order of [`Mode::ALL`].
    #[must_use]
    pub const fn new([copy, splice, sockmap, packet]: [u64; Mode::ALL.len()]) -> Self {
        Self { copy, splice, sockmap, packet }
    }

    /// All.
    #[must_use]
    pub const fn sum(self) -> u64 {
        self.copy + self.splice + self.sockmap + self.packet
    }
}

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ways {
    /// Given to upstreams.
    pub up: u64,
    /// Given to clients.
    pub down: u64,
}

impl From<[u64; 2]> for Ways {
    fn from([up, down]: [u64; 2]) -> Self {
        Self { up, down }
    }
}

/// A listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
}

/// A rule and an upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// The rule's name.
    pub rule: String,
    /// The upstream's: the rule's own, or one that stood in for it.
    pub upstream: String,
    /// Flows that are alive.
    pub flows: ByRelay,
    /// Flows that are over.
    pub ended: ByRelay,
    /// Bytes of both.
    pub bytes: Ways,
}

/// An upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// The group's name, or the address.
    pub name: String,
    /// Flows, those being connected included.
    pub flows: u64,
    /// Most of them; `None`: not limited.
    pub limit: Option<u64>,
    /// Connections in its queue.
    pub queue: u64,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
}

/// An endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Where it is.
    pub address: String,
    /// `up`, `ejected` or `down`.
    pub state: String,
    /// The last failure of one that is not up.
    pub reason: String,
    /// Flows, those being connected included.
    pub flows: u64,
    /// Most of them; `None`: not limited.
    pub limit: Option<u64>,
    /// Its share.
    pub weight: u32,
    /// Whether it is used only when none of the others is up.
    pub backup: bool,
}

/// A limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitStatus {
    /// `connections`, `sniffing`, `kernel_flows`, `packet_flows`, `listener NAME`, `rule NAME`.
    pub name: String,
    /// How much of it is used.
    pub used: u64,
    /// How much there is.
    pub of: u64,
}

/// `/flows`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Flows {
    /// Those that were asked for, oldest first.
    pub flows: Vec<FlowStatus>,
    /// Whether there are more than the `limit` let through.
    pub truncated: bool,
}

/// A flow, or a connection that is none yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowStatus {
    /// As in the access log.
    pub id: String,
    /// Who connected, or who it is that a trusted proxy connected for.
    pub client: String,
    /// Where it came in.
    pub listener: String,
    /// The rule that took it.
    pub rule: Option<String>,
    /// The upstream.
    pub upstream: Option<String>,
    /// The endpoint.
    pub endpoint: Option<String>,
    /// How its bytes go: `copy`, `splice`, `sockmap` or `packet`; `None` before it is a flow.
    pub relay: Option<String>,
    /// Why not by the kernel.
    pub relay_note: String,
    /// `sniffing`, `connecting`, `relaying`, `half-closed` or `ending`.
    pub state: String,
    /// Since it was accepted.
    pub age_seconds: f64,
    /// Bytes given to the upstream; of a flow in the kernel by its books.
    pub bytes_up: u64,
    /// Bytes given to the client.
    pub bytes_down: u64,
}
