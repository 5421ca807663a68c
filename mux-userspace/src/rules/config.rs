//! Compiled configuration: what a checked rules file becomes.
//!
//! Every value here is already valid: names are resolved to indices, numbers are in
//! range, regular expressions are compiled. Nothing in this file reads text.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use crate::{
    limit::source::PerSource,
    net::TcpTimers,
    proxy,
    route::{Matcher, NetworkFile, Networks, Table},
};

/// Index of a rule in [`Config::rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub usize);

/// Index of an upstream in [`Config::upstreams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamId(pub usize);

/// A whole configuration.
#[derive(Debug)]
pub struct Config {
    /// Never empty.
    pub listeners: Vec<Arc<ListenerConfig>>,
    /// In file order, which is the order in which they are tried. May be empty only if
    /// no listener needs one (never the case for a loaded file).
    pub rules: Vec<Arc<Rule>>,
    /// Named groups first, in file order, then one for each distinct address written in a rule.
    pub upstreams: Vec<Arc<UpstreamConfig>>,
    /// `[timeouts]`.
    pub timeouts: Timeouts,
    /// `[limits]`.
    pub limits: Limits,
    /// `[log]`.
    pub log: LogConfig,
    /// `[admin]`.
    pub admin: AdminConfig,
    /// `[security]`.
    pub security: SecurityConfig,
    /// `[kernel]`.
    pub kernel: KernelConfig,
    /// Files of networks that rules and listeners name, each once.
    pub network_files: Vec<Arc<NetworkFile>>,
}

impl Config {
    /// Defaults alone: to be given listeners, rules and upstreams.
    pub(crate) fn empty() -> Self {
        Self {
            listeners: Vec::new(),
            rules: Vec::new(),
            upstreams: Vec::new(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            log: LogConfig::default(),
            admin: AdminConfig::default(),
            security: SecurityConfig::default(),
            kernel: KernelConfig::default(),
            network_files: Vec::new(),
        }
    }

    /// The names of upstreams that are connected to from the client's address.
    pub fn transparent(&self) -> impl Iterator<Item = &str> {
        self.upstreams
            .iter()
            .filter(|upstream| upstream.source == Some(Source::Transparent))
            .map(|upstream| &*upstream.name)
    }

    /// The same with other listeners: one on each of these addresses, named `listener-1`, …,
    /// and otherwise like the first one of the file. No addresses: nothing changes.
    #[must_use]
    pub fn with_listen(mut self, addresses: &[ListenAddress]) -> Self {
        if let Some(model) = self.listeners.first().filter(|_| !addresses.is_empty()) {
            self.listeners = addresses
                .iter()
                .enumerate()
                .map(|(index, address)| {
                    Arc::new(ListenerConfig {
                        name: format!("listener-{}", index + 1).into(),
                        address: address.clone(),
                        ..ListenerConfig::clone(model)
                    })
                })
                .collect();
        }
        self
    }
}

/// One `[[listener]]`.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Unique; `"listener-1"`, … by default.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: ListenAddress,
    /// How long a client has to send what its rule needs. Default 3 s.
    pub sniff_timeout: Duration,
    /// Most bytes looked at, 1 B to 1 MiB. Default 64 KiB.
    pub sniff_limit: usize,
    /// What becomes of a client that was silent (or undecidable) for `sniff_timeout`.
    pub on_timeout: Otherwise,
    /// What becomes of a client that no rule matches.
    pub on_no_match: Otherwise,
    /// Flows and connections being sniffed at once. `None`: only the global limit.
    pub max_connections: Option<NonZeroU32>,
    /// Who may connect.
    pub acl: Acl,
    /// Of whom a PROXY header is required and believed. `None`: of nobody.
    pub accept_proxy: Option<proxy::Trusted>,
    /// Of its connections; before those of [`Timeouts::tcp`].
    pub timers: TcpTimers,
    /// The rules tried, in order.
    pub rules: Arc<Table>,
}

impl ListenerConfig {
    /// Default of [`ListenerConfig::sniff_timeout`].
    pub const SNIFF_TIMEOUT: Duration = Duration::from_secs(3);
    /// Default of [`ListenerConfig::sniff_limit`]: a post-quantum ClientHello fits.
    pub const SNIFF_LIMIT: usize = 64 << 10;

    /// A listener with the defaults, which tries these rules.
    #[must_use]
    pub fn new(name: &str, address: ListenAddress, rules: Arc<Table>) -> Self {
        Self {
            name: name.into(),
            address,
            sniff_timeout: Self::SNIFF_TIMEOUT,
            sniff_limit: Self::SNIFF_LIMIT,
            on_timeout: Otherwise::Close,
            on_no_match: Otherwise::Close,
            max_connections: None,
            acl: Acl::default(),
            accept_proxy: None,
            timers: TcpTimers::default(),
            rules,
        }
    }
}

/// `allow` and `deny` of a listener or a rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Acl {
    /// Only these, if there is a list.
    pub allow: Option<Networks>,
    /// Not these, even if they are allowed.
    pub deny: Option<Networks>,
}

impl Acl {
    /// Whether a client may connect. A client of a Unix socket has no address: where there is
    /// an `allow` list, it is not on it.
    #[must_use]
    pub fn permits(&self, client: Option<IpAddr>) -> bool {
        let is_in = |networks: &Networks| client.is_some_and(|client| networks.contains(client));
        self.allow.as_ref().is_none_or(is_in) && !self.deny.as_ref().is_some_and(is_in)
    }
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `host:port`, `[v6]:port`; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// `unix:/path` or a bare absolute path.
    Unix(PathBuf),
    /// `systemd:NAME`: sockets, TCP or Unix, that the service manager passes under this name
    /// (sd_listen_fds(3)).
    Systemd(String),
}

/// What to do when no rule decides, or when a rule's upstream cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// Close the connection (FIN).
    Close,
    /// Reset it (RST).
    Reset,
    /// Route it by this rule, whatever its matcher says; for `on_no_upstream`, use its upstream.
    Rule(RuleId),
}

/// One `[[rule]]`.
#[derive(Debug)]
pub struct Rule {
    /// Unique; `"rule-1"`, … by default.
    pub name: Arc<str>,
    /// The condition.
    pub matcher: Matcher,
    /// Where its connections go.
    pub upstream: UpstreamId,
    /// What becomes of them when no endpoint there can be had. Following [`Otherwise::Rule`] from
    /// rule to rule comes to an end. Default [`Otherwise::Reset`].
    pub on_no_upstream: Otherwise,
    /// Which relay carries them.
    pub relay: RelayChoice,
    /// The PROXY header that the upstream gets first. Never where the upstream has a built-in
    /// endpoint.
    pub proxy_protocol: Option<proxy::Version>,
    /// Flows of this rule at once.
    pub max_connections: Option<NonZeroU32>,
    /// Whom it serves; others that match it are refused.
    pub acl: Acl,
}

/// `relay = "…"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RelayChoice {
    /// By evidence.
    #[default]
    Auto,
    /// The kernel's translation of packets, from the first moment on at which nothing is under way,
    /// where it can be had.
    Packet,
    /// The kernel's sockmap from the first byte on, where it can be had.
    Sockmap,
    /// splice(2).
    Splice,
    /// read(2) and write(2).
    Copy,
}

impl RelayChoice {
    /// All of them, as errors list them.
    pub const ALL: [Self; 5] = [Self::Auto, Self::Packet, Self::Sockmap, Self::Splice, Self::Copy];

    /// Its name in rules files, on the command line and in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Packet => "packet",
            Self::Sockmap => "sockmap",
            Self::Splice => "splice",
            Self::Copy => "copy",
        }
    }
}

impl fmt::Display for RelayChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An upstream: a named group of endpoints, or the one address that a rule names.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// The group's name, or the address as [`Address`] prints it.
    pub name: Arc<str>,
    /// Never empty; no address stands twice; at least one is no backup.
    pub endpoints: Vec<EndpointConfig>,
    /// Which endpoint a connection goes to.
    pub balance: Balance,
    /// Further attempts after a failed one. Default 2; 0 for an address written in a rule.
    pub retries: u32,
    /// How often names are looked up anew. Default 30 s.
    pub resolve: Duration,
    /// Flows at once to the whole group.
    pub max_connections: Option<NonZeroU32>,
    /// From which address it is connected to. `None`: the kernel's choice.
    pub source: Option<Source>,
    /// Of connections to it; before those of [`Timeouts::tcp`].
    pub timers: TcpTimers,
    /// The PROXY header that checks of it begin with: that of the first rule that sends one there.
    pub proxy_protocol: Option<proxy::Version>,
    /// Who may wait for a place under `max_connections`. Default nobody.
    pub queue: Option<QueueConfig>,
    /// Active checks. Default none.
    pub health: Option<HealthConfig>,
    /// Passive checks: by connections that fail. Default for groups of more than one endpoint.
    pub eject: Option<EjectConfig>,
}

/// One endpoint of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Where it is.
    pub address: Address,
    /// Its share of the connections, against the others'; 1 to 65,535 as written, more where an
    /// address was written several times. Default 1.
    pub weight: u32,
    /// Whether it is used only when none of the others is up.
    pub backup: bool,
    /// For one attempt, all addresses of a name together. Default 2 s.
    pub connect_timeout: Duration,
    /// Flows at once to this endpoint.
    pub max_connections: Option<NonZeroU32>,
}

impl EndpointConfig {
    /// An endpoint with all defaults.
    #[must_use]
    pub const fn new(address: Address) -> Self {
        Self {
            address,
            weight: 1,
            backup: false,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            max_connections: None,
        }
    }
}

impl UpstreamConfig {
    /// One address, with the defaults; named as the address prints. There is nothing to retry.
    #[must_use]
    pub fn single(address: Address) -> Self {
        Self {
            name: address.to_string().into(),
            endpoints: vec![EndpointConfig::new(address)],
            balance: Balance::default(),
            retries: 0,
            resolve: DEFAULT_RESOLVE,
            max_connections: None,
            source: None,
            timers: TcpTimers::default(),
            proxy_protocol: None,
            queue: None,
            health: None,
            eject: None,
        }
    }

    /// The addresses of its endpoints, in file order.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.endpoints.iter().map(|endpoint| &endpoint.address)
    }
}

/// From which address an upstream's TCP endpoints are connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From this one of the endpoint's family; one of them at least.
    Addresses {
        /// For IPv4 endpoints.
        v4: Option<Ipv4Addr>,
        /// For IPv6 endpoints.
        v6: Option<Ipv6Addr>,
    },
    /// From the client's own (`IP_TRANSPARENT`, ip(7)), with a port of the kernel's choice.
    Transparent,
}

pub(super) const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const DEFAULT_RESOLVE: Duration = Duration::from_secs(30);

/// Which endpoint of a group a connection goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// In turns, by weight.
    #[default]
    RoundRobin,
    /// The one with the fewest flows for its weight.
    LeastConnections,
    /// The better, by that measure, of two that are drawn by weight.
    RandomTwo,
    /// The same one for the same client address, as long as it is up.
    SourceHash,
    /// The first in file order.
    First,
}

/// `queue = { … }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Connections that may wait at once, 1 to 65,536.
    pub length: u32,
    /// How long each may wait. Default 1 s.
    pub timeout: Duration,
    /// What the end of a waiting client's stream means.
    pub half_closed: HalfClosed,
}

/// What it means that a client ends its stream (FIN) while it waits in a queue. TCP does not tell
/// whether it still listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HalfClosed {
    /// It has left: its place is another's.
    #[default]
    Leaves,
    /// It has said all and waits for the answer.
    Waits,
}

/// `health = { … }`.
#[derive(Clone, Debug)]
pub struct HealthConfig {
    /// From one check to the next, give or take a tenth. Default 2 s.
    pub interval: Duration,
    /// For a whole check. Default 1 s.
    pub timeout: Duration,
    /// Passed checks in a row after which an endpoint that was down is up. Default 2.
    pub rise: u32,
    /// Failed checks in a row after which an endpoint that was up is down. Default 3.
    pub fall: u32,
    /// What is sent once the connection stands; may be empty.
    pub send: Arc<[u8]>,
    /// What must come back.
    pub expect: Expect,
}

/// What an active check waits for.
#[derive(Clone, Debug)]
pub enum Expect {
    /// Nothing: a connection is enough.
    Connection,
    /// These bytes, somewhere in the first 16 KiB; not empty.
    Contains(Arc<[u8]>),
    /// A match somewhere in the first 16 KiB.
    Regex(regex::bytes::Regex),
}

/// `eject = { … }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectConfig {
    /// Failed connection attempts in a row that eject an endpoint. Default 3.
    pub failures: u32,
    /// How long the first ejection lasts; each further one lasts twice as long. Default 1 s.
    pub backoff: Duration,
    /// Longest ejection; also how long an endpoint has to serve before it is as good as new.
    /// At least `backoff`. Default 1 min.
    pub max: Duration,
}

impl Default for EjectConfig {
    fn default() -> Self {
        Self { failures: 3, backoff: Duration::from_secs(1), max: Duration::from_secs(60) }
    }
}

/// One address of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and port; `upstream = 80` is `127.0.0.1:80`.
    Ip(SocketAddr),
    /// A name to resolve (all its addresses are used) and a port.
    Name {
        /// As written; a valid host name.
        host: Arc<str>,
        /// 1 to 65,535.
        port: u16,
    },
    /// A Unix stream socket.
    Unix(PathBuf),
    /// A server in the daemon itself.
    Builtin(Builtin),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Builtin(builtin) => write!(f, "builtin:{}", builtin.name()),
        }
    }
}

/// Upstreams that need no server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Builtin {
    /// Sends every byte back (RFC 862).
    Echo,
    /// Takes every byte (RFC 863).
    Discard,
    /// Says what mux saw of the connection, over HTTP when asked in HTTP.
    Whoami,
}

impl Builtin {
    /// Its name after `builtin:`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Discard => "discard",
            Self::Whoami => "whoami",
        }
    }
}

/// `[timeouts]`; `None` means no limit (`"0s"` in the file).
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// No byte either way for this long. Default 1 h.
    pub idle: Option<Duration>,
    /// One side has ended and the other has sent nothing for this long. Default 30 s.
    pub half_closed: Option<Duration>,
    /// From accept on. Default none.
    pub lifetime: Option<Duration>,
    /// From SIGTERM to the reset of what is left. Default 30 s.
    pub drain: Duration,
    /// The kernel's timers of TCP connections, both sides'. Default: as the kernel has them.
    pub tcp: TcpTimers,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            idle: Some(Duration::from_secs(3600)),
            half_closed: Some(Duration::from_secs(30)),
            lifetime: None,
            drain: Duration::from_secs(30),
            tcp: TcpTimers::default(),
        }
    }
}

/// `[limits]`.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Connections of all listeners at once. Default: [`Limits::DEFAULT_CONNECTIONS`], or what
    /// the limit of open files allows.
    pub max_connections: Option<NonZeroU32>,
    /// Connections being sniffed at once. Default: see [`Limits::sniffing`].
    pub max_sniffing: Option<NonZeroU32>,
    /// For each source.
    pub per_source: PerSource,
}

impl Limits {
    /// Most connections, where the file does not say.
    pub const DEFAULT_CONNECTIONS: NonZeroU32 = NonZeroU32::new(10_000).expect("not 0");
    /// Most connections being sniffed, where the file does not say.
    pub const DEFAULT_SNIFFING: NonZeroU32 = NonZeroU32::new(2_000).expect("not 0");

    /// How many may be sniffed at once where there may be so many connections: what the file says,
    /// or [`Limits::DEFAULT_SNIFFING`], but at most half of the connections.
    #[must_use]
    pub fn sniffing(&self, connections: NonZeroU32) -> NonZeroU32 {
        let half = NonZeroU32::new(connections.get().div_ceil(2)).unwrap_or(NonZeroU32::MIN);
        self.max_sniffing.unwrap_or_else(|| Self::DEFAULT_SNIFFING.min(half))
    }
}

/// `[log]`.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// A tracing level: `off`, `error`, `warn`, `info`, `debug`, `trace`. Default `info`.
    pub level: Arc<str>,
    /// Form of the access log. Default JSON.
    pub access: AccessFormat,
    /// Where it goes; `None`: standard output.
    pub access_file: Option<PathBuf>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".into(), access: AccessFormat::Json, access_file: None }
    }
}

/// Form of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessFormat {
    /// One JSON object a line.
    Json,
    /// `key=value` pairs.
    Text,
    /// None.
    Off,
}

/// `[admin]`: where the daemon can be asked and told. Default nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminConfig {
    /// A Unix socket, for everything.
    pub socket: Option<AdminSocket>,
    /// A TCP address, for reading.
    pub metrics: Option<SocketAddr>,
}

impl AdminConfig {
    /// Whether the daemon can be asked at all.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.socket.is_some() || self.metrics.is_some()
    }
}

/// `[admin] socket`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSocket {
    /// Its file.
    pub path: PathBuf,
    /// The file's permissions. Default [`Self::MODE`].
    pub mode: u32,
    /// The file's group, by name; `None`: that of the process.
    pub group: Option<String>,
}

impl AdminSocket {
    /// Where `mux status` and the like look for it.
    pub const PATH: &str = "/run/mux/admin.sock";
    /// Its owner's only.
    pub const MODE: u32 = 0o600;
}

/// `[security]`.
#[derive(Clone, Debug)]
pub struct SecurityConfig {
    /// Whom a daemon that was started as root becomes. Default `nobody`; `root` stays root
    /// (without capabilities).
    pub user: Arc<str>,
    /// Whether Landlock keeps the daemon away from files that are not its business.
    pub landlock: Confinement,
    /// Whether seccomp refuses system calls that the daemon has no use for.
    pub seccomp: Confinement,
    /// Whether a process keeps privileges for socket files and successors.
    pub keeper: KeeperMode,
}

impl Default for SecurityConfig {
    fn default() -> Self {
        Self {
            user: "nobody".into(),
            landlock: Confinement::default(),
            seccomp: Confinement::default(),
            keeper: KeeperMode::default(),
        }
    }
}

/// Whether the daemon confines itself by one of the kernel's means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confinement {
    /// As far as the kernel can.
    #[default]
    Auto,
    /// Not at all.
    Off,
}

/// Whether there is a keeper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeeperMode {
    /// There is one.
    #[default]
    Auto,
    /// No process keeps a privilege: no upgrade, and files of Unix sockets stay behind where the
    /// daemon's user cannot remove them.
    Off,
}

/// `[kernel]`.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    /// Whether the sockmap relay may be used.
    pub sockmap: SockmapMode,
    /// Whether the packet relay may be used.
    pub packet: PacketMode,
    /// Where the packet relay is attached. `None`: to `lo` and to those that the listeners'
    /// addresses and the upstreams' routes use. Never empty.
    pub interfaces: Option<Vec<Arc<str>>>,
    /// `SO_SNDBUF` asked for on spliced sockets, bytes. Default 2 MiB.
    pub send_buffer: u32,
    /// Bytes that may wait in a psock backlog, per direction; at most half of
    /// `send_buffer`. Default 512 KiB.
    pub backlog_limit: u32,
    /// Flows that the BPF maps hold, 1 to 1,048,576. Default 65,536.
    pub flows: u32,
}

impl Default for KernelConfig {
    fn default() -> Self {
        Self {
            sockmap: SockmapMode::Auto,
            packet: PacketMode::DEFAULT,
            interfaces: None,
            send_buffer: 2 << 20,
            backlog_limit: 512 << 10,
            flows: mux_common::DEFAULT_FLOWS,
        }
    }
}

/// `[kernel] sockmap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SockmapMode {
    /// On allow-listed kernels that pass the self-test.
    Auto,
    /// On any kernel that passes the self-test.
    Force,
    /// Never.
    Off,
}

/// `[kernel] packet`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketMode {
    /// On kernels that pass the self-test, in network namespaces where nothing drops the packets.
    Auto,
    /// Wherever the self-test passes.
    Force,
    /// Never.
    Off,
}

impl PacketMode {
    /// Where the file does not say.
    pub const DEFAULT: Self = Self::Off;
}
