//! mux in a program of one's own: rules as values and functions, callbacks, listeners handed in.

use std::{io, net::SocketAddr, os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};

use socket2::Socket;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::{
    account::{Flow, Hooks},
    listener::Bound,
    probe::{Probe, Probes, RegisterError, Verdict},
    route::{EmptyMatcher, Matcher, Predicate, Prefix, Regex, RegexError, Table},
    rules::{
        self, AddressError, LoadError,
        config::{
            AccessFormat, Acl, Config, Limits, ListenAddress, ListenerConfig, LogConfig, Otherwise,
            PacketMode, RelayChoice, Rule, RuleId, SockmapMode, Timeouts, UpstreamConfig, UpstreamId,
        },
    },
    server::{self, Running, ServeError, Setup, bind_all, default_threads},
    shared::Shared,
};

/// A condition on the first bytes: these, exactly, from the first one on.
///
/// # Panics
/// Never; an empty prefix is refused by [`Builder::start`].
pub fn prefix(bytes: impl AsRef<[u8]>) -> Condition {
    Condition(Prefix::new(bytes.as_ref()).map(Matcher::Prefix).map_err(ConditionError::from))
}

/// A condition on the first bytes: a regular expression in the regex crate's syntax, on raw
/// bytes, unanchored and case-sensitive unless it says otherwise.
///
/// # Errors
/// [`RegexError`]: it is malformed, or too large.
pub fn regex(pattern: &str) -> Result<Condition, RegexError> {
    Regex::new(pattern).map(|regex| Condition(Ok(Matcher::Regex(regex))))
}

/// A condition on the first bytes: one of mux's own probes recognises them, see
/// [`Probe::all`].
pub fn probe(name: &str) -> Condition {
    Condition(
        Probe::from_name(name)
            .map(Matcher::Probe)
            .ok_or_else(|| ConditionError::NoProbe(name.to_owned())),
    )
}

/// Every connection, at once, without a byte: for the last rule.
#[must_use]
pub fn everything() -> Condition {
    Condition(Ok(Matcher::Always))
}

/// What a rule asks for; whether it can is found out by [`Builder::start`].
#[derive(Clone, Debug)]
pub struct Condition(Result<Matcher, ConditionError>);

/// Why a condition was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConditionError {
    /// It says nothing.
    #[error(transparent)]
    Empty(#[from] EmptyMatcher),
    /// There is no such probe.
    #[error("there is no probe `{0}`")]
    NoProbe(String),
}

/// What can be a rule's condition: a [`Condition`], a [`Matcher`], a [`Probe`], or a function of
/// the first bytes that gives `bool` or [`Verdict<()>`](Verdict).
///
/// `Kind` only keeps the implementations apart; it is always inferred.
pub trait IntoCondition<Kind> {
    /// As a condition.
    fn into_condition(self) -> Condition;
}

/// See [`IntoCondition`]: a value.
#[derive(Debug)]
pub enum Itself {}
/// See [`IntoCondition`]: a function with answers of type `A`.
#[derive(Debug)]
pub struct Function<A>(std::convert::Infallible, std::marker::PhantomData<A>);

impl IntoCondition<Itself> for Condition {
    fn into_condition(self) -> Condition {
        self
    }
}

impl IntoCondition<Itself> for Matcher {
    fn into_condition(self) -> Condition {
        Condition(Ok(self))
    }
}

impl IntoCondition<Itself> for Probe {
    fn into_condition(self) -> Condition {
        Condition(Ok(Matcher::Probe(self)))
    }
}

impl<F> IntoCondition<Function<bool>> for F
where
    F: Fn(&[u8]) -> bool + Send + Sync + 'static,
{
    fn into_condition(self) -> Condition {
        Condition(Ok(Matcher::Predicate(Predicate::bool(self))))
    }
}

impl<F> IntoCondition<Function<Verdict<()>>> for F
where
    F: Fn(&[u8]) -> Verdict<()> + Send + Sync + 'static,
{
    fn into_condition(self) -> Condition {
        Condition(Ok(Matcher::Predicate(Predicate::new(self))))
    }
}

/// Why mux could not be started. Its `Display` says what to do.
#[derive(Debug, Error)]
pub enum StartError {
    /// The rules file is not there or wrong.
    #[error(transparent)]
    Rules(#[from] LoadError),
    /// A rule's condition.
    #[error("rule `{rule}`: {source}")]
    Condition {
        /// The rule's name.
        rule: String,
        /// Why.
        source: ConditionError,
    },
    /// A rule's upstream.
    #[error("rule `{rule}`: `{upstream}` is not an address: {source}")]
    Upstream {
        /// The rule's name.
        rule: String,
        /// What was given.
        upstream: String,
        /// Why.
        source: AddressError,
    },
    /// An address to listen on.
    #[error("`{address}` is not an address to listen on: {source}")]
    Listen {
        /// What was given.
        address: String,
        /// Why.
        source: AddressError,
    },
    /// Two rules have this name.
    #[error("two rules are named `{0}`")]
    SameName(String),
    /// `on_timeout` or `on_no_match` names no rule.
    #[error("there is no rule `{0}` to fall back to")]
    NoSuchRule(String),
    /// No rule: every connection would be closed.
    #[error("there is no rule: add one with `rule`, or a file with `rules_file`")]
    NoRules,
    /// Nowhere to listen.
    #[error("there is no listener: use `listen`, `bind` or `listener`")]
    NoListeners,
    /// A probe's name.
    #[error(transparent)]
    Probe(#[from] RegisterError),
    /// A listener that was handed in cannot be used.
    #[error("a listener that was handed in cannot be used: {0}")]
    Handed(#[source] io::Error),
    /// The cores could not serve.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The thread that starts the cores is gone.
    #[error("mux's threads could not be started")]
    Gone,
}

/// A multiplexer to be: see [`crate`] for an example.
#[derive(Debug)]
pub struct Mux;

impl Mux {
    /// An empty one.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

/// Collects what a multiplexer needs; the first mistake is told when it starts.
#[derive(Debug, Default)]
#[must_use = "nothing listens before `listen` or `start`"]
pub struct Builder {
    rules: Vec<NewRule>,
    file: Option<PathBuf>,
    custom_probes: Vec<Probe>,
    addresses: Vec<String>,
    handed: Vec<Socket>,
    on_timeout: Option<String>,
    on_no_match: Option<String>,
    sniff_timeout: Option<Duration>,
    sniff_limit: Option<usize>,
    timeouts: Option<Timeouts>,
    limits: Option<Limits>,
    relay: Option<RelayChoice>,
    sockmap: Option<SockmapMode>,
    packet: Option<PacketMode>,
    threads: Option<usize>,
    hooks: Hooks,
    /// Rules that came from the file.
    file_rules: usize,
}

#[derive(Debug)]
struct NewRule {
    name: Option<String>,
    condition: Condition,
    upstream: String,
}

impl Builder {
    /// Adds a rule, after those that there are; it is named `rule-N`. `upstream` is an address
    /// as in a rules file: `"127.0.0.1:80"`, `"db.internal:5432"`, `"unix:/run/x.sock"`,
    /// `"builtin:echo"`.
    ///
    /// A function that gives `bool` is asked whenever more bytes have arrived until it says
    /// `true`; meanwhile later rules may take the connection. One that gives [`Verdict`] holds
    /// the later rules back while it says [`Verdict::NeedMore`].
    pub fn rule<K>(self, condition: impl IntoCondition<K>, upstream: impl Into<String>) -> Self {
        self.add(None, condition.into_condition(), upstream.into())
    }

    /// Adds a rule with a name.
    pub fn named_rule<K>(
        self,
        name: impl Into<String>,
        condition: impl IntoCondition<K>,
        upstream: impl Into<String>,
    ) -> Self {
        self.add(Some(name.into()), condition.into_condition(), upstream.into())
    }

    fn add(mut self, name: Option<String>, condition: Condition, upstream: String) -> Self {
        self.rules.push(NewRule { name, condition, upstream });
        self
    }

    /// Reads a rules file, whose rules come before those of [`Builder::rule`], whose listeners
    /// are listened on, and whose settings are in force where the builder has no other. `[admin]`
    /// is the daemon's: in a program it opens nothing.
    pub fn rules_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Makes a probe known to the rules file.
    pub fn probe(mut self, probe: Probe) -> Self {
        self.custom_probes.push(probe);
        self
    }

    /// Calls back when a flow's upstream is connected; see [`crate::account::hooks::Hook`].
    pub fn on_connect(mut self, hook: impl Fn(&Flow<'_>) + Send + Sync + 'static) -> Self {
        self.hooks.on_connect = Some(Arc::new(hook));
        self
    }

    /// Calls back when a flow has ended; see [`crate::account::hooks::Hook`].
    pub fn on_close(mut self, hook: impl Fn(&Flow<'_>) + Send + Sync + 'static) -> Self {
        self.hooks.on_close = Some(Arc::new(hook));
        self
    }

    /// The rule of clients that have sent nothing that decides when the sniff timeout passes.
    /// Default: they are closed.
    pub fn on_timeout(mut self, rule: impl Into<String>) -> Self {
        self.on_timeout = Some(rule.into());
        self
    }

    /// The rule of clients that no rule matches. Default: they are closed.
    pub fn on_no_match(mut self, rule: impl Into<String>) -> Self {
        self.on_no_match = Some(rule.into());
        self
    }

    /// How long a client has to send what its rule needs. Default 3 s.
    pub fn sniff_timeout(mut self, timeout: Duration) -> Self {
        self.sniff_timeout = Some(timeout);
        self
    }

    /// Most bytes looked at, 1 B to 1 MiB (others are brought there). Default 64 KiB.
    pub fn sniff_limit(mut self, bytes: usize) -> Self {
        self.sniff_limit = Some(bytes.clamp(1, 1 << 20));
        self
    }

    /// Idle, half-closed, lifetime and drain.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = Some(timeouts);
        self
    }

    /// Most connections.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// The relay of all flows, whatever rules say.
    pub fn relay(mut self, relay: RelayChoice) -> Self {
        self.relay = Some(relay);
        self
    }

    /// Whether the kernel relay may be used. It needs privileges (`mux doctor` says which), and
    /// without them user space carries the flows.
    pub fn sockmap(mut self, mode: SockmapMode) -> Self {
        self.sockmap = Some(mode);
        self
    }

    /// Whether the packet relay may be used. It needs the same privileges.
    pub fn packet(mut self, mode: PacketMode) -> Self {
        self.packet = Some(mode);
        self
    }

    /// Threads, 1 at least; by default one a CPU.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads.max(1));
        self
    }

    /// Adds a listener on an address: `"0.0.0.0:3000"`, `"[::]:3000"`, `"unix:/run/mux.sock"`.
    pub fn bind(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Adds a listener that is bound and listens already: a `std::net::TcpListener`, a
    /// `std::os::unix::net::UnixListener`, or a descriptor of such a socket.
    pub fn listener(mut self, listener: impl Into<OwnedFd>) -> Self {
        self.handed.push(Socket::from(listener.into()));
        self
    }

    /// [`Builder::bind`] and [`Builder::start`].
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn listen(self, address: impl Into<String>) -> Result<Serving, StartError> {
        self.bind(address).start().await
    }

    /// Starts to serve, on threads of its own; works under any executor.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(self) -> Result<Serving, StartError> {
        let (sender, receiver) = oneshot::channel();
        // Loading the kernel relay and its self-test block for a fraction of a second.
        std::thread::Builder::new()
            .name("mux-start".into())
            .spawn(move || {
                // Who does not wait any more does not want it.
                let _ = sender.send(self.start_blocking());
            })
            .map_err(|_| StartError::Gone)?;
        receiver.await.map_err(|_| StartError::Gone)?
    }

    /// [`Builder::start`] for programs without an executor.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_blocking(mut self) -> Result<Serving, StartError> {
        let cores = self.threads.unwrap_or_else(default_threads);
        let relay = self.relay;
        let hooks = std::mem::take(&mut self.hooks);
        let handed = std::mem::take(&mut self.handed)
            .into_iter()
            .map(|socket| adopt(socket, cores))
            .collect::<io::Result<Vec<_>>>()
            .map_err(StartError::Handed)?;
        let mut config = self.config()?;
        let mut bound = bind_all(&config, cores)?;
        let model = config.listeners.first().cloned();
        for socket in handed {
            let number = config.listeners.len() + 1;
            let name = format!("listener-{number}");
            let listener = match &model {
                Some(model) => ListenerConfig {
                    name: name.into(),
                    address: socket.address.clone(),
                    ..ListenerConfig::clone(model)
                },
                None => self.listener_config(&name, socket.address.clone(), &config.rules)?,
            };
            if let (ListenAddress::Tcp(_), Some(first)) = (&socket.address, socket.sockets.first())
            {
                // The others are the same socket.
                let timers = listener.timers.or(config.timeouts.tcp);
                timers.apply(first).map_err(StartError::Handed)?;
            }
            config.listeners.push(Arc::new(listener));
            bound.push(socket);
        }
        if config.listeners.is_empty() {
            return Err(StartError::NoListeners);
        }
        let addresses = bound.iter().map(|bound| bound.address.clone()).collect();
        let budget = server::budget(&config, cores)?;
        let running = Setup::new(Arc::new(config), relay, bound, cores, budget)?.start(hooks)?;
        Ok(Serving { shared: Arc::clone(running.shared()), addresses, running })
    }

    /// The configuration, but for the listeners that were handed in.
    fn config(&mut self) -> Result<Config, StartError> {
        let mut config = match self.file.take() {
            None => Config {
                // The callbacks tell what the access log would.
                log: LogConfig { access: AccessFormat::Off, ..LogConfig::default() },
                ..Config::empty()
            },
            Some(path) => {
                let mut probes = Probes::default();
                for probe in self.custom_probes.drain(..) {
                    probes.register(probe)?;
                }
                rules::load(&path, &probes)?
            }
        };
        self.file_rules = config.rules.len();
        for rule in std::mem::take(&mut self.rules) {
            add_rule(&mut config, rule)?;
        }
        if config.rules.is_empty() {
            return Err(StartError::NoRules);
        }
        if let Some(timeouts) = self.timeouts.take() {
            config.timeouts = timeouts;
        }
        if let Some(limits) = self.limits.take() {
            config.limits = limits;
        }
        if let Some(sockmap) = self.sockmap {
            config.kernel.sockmap = sockmap;
        }
        if let Some(packet) = self.packet {
            config.kernel.packet = packet;
        }
        self.listen_on(&mut config)?;
        Ok(config)
    }

    /// Gives the file's listeners the builder's rules too, and adds the builder's.
    fn listen_on(&mut self, config: &mut Config) -> Result<(), StartError> {
        let from_file = config.listeners.len();
        for listener in std::mem::take(&mut config.listeners) {
            let mut listener = ListenerConfig::clone(&listener);
            let mut ids: Vec<RuleId> = listener.rules.ids().collect();
            ids.extend((self.file_rules..config.rules.len()).map(RuleId));
            listener.rules = table(&config.rules, ids);
            self.settle(&mut listener, &config.rules)?;
            config.listeners.push(Arc::new(listener));
        }
        for (number, address) in std::mem::take(&mut self.addresses).into_iter().enumerate() {
            let parsed = rules::parse_listen(&address)
                .map_err(|source| StartError::Listen { address, source })?;
            let name = format!("listener-{}", from_file + number + 1);
            let listener = self.listener_config(&name, parsed, &config.rules)?;
            config.listeners.push(Arc::new(listener));
        }
        Ok(())
    }

    fn listener_config(
        &self,
        name: &str,
        address: ListenAddress,
        rules: &[Arc<Rule>],
    ) -> Result<ListenerConfig, StartError> {
        let ids = (0..rules.len()).map(RuleId).collect();
        let mut listener = ListenerConfig::new(name, address, table(rules, ids));
        self.settle(&mut listener, rules)?;
        Ok(listener)
    }

    /// Puts the builder's settings in force.
    fn settle(&self, listener: &mut ListenerConfig, rules: &[Arc<Rule>]) -> Result<(), StartError> {
        listener.sniff_timeout = self.sniff_timeout.unwrap_or(listener.sniff_timeout);
        listener.sniff_limit = self.sniff_limit.unwrap_or(listener.sniff_limit);
        if let Some(name) = &self.on_timeout {
            listener.on_timeout = otherwise(name, rules)?;
        }
        if let Some(name) = &self.on_no_match {
            listener.on_no_match = otherwise(name, rules)?;
        }
        Ok(())
    }
}

fn table(rules: &[Arc<Rule>], ids: Vec<RuleId>) -> Arc<Table> {
    let rules = ids.into_iter().filter_map(|id| Some((id, Arc::clone(rules.get(id.0)?))));
    Arc::new(Table::new(rules))
}

fn otherwise(name: &str, rules: &[Arc<Rule>]) -> Result<Otherwise, StartError> {
    rules
        .iter()
        .position(|rule| *rule.name == *name)
        .map(|index| Otherwise::Rule(RuleId(index)))
        .ok_or_else(|| StartError::NoSuchRule(name.to_owned()))
}

/// Adds a rule, and its upstream if there is none such.
fn add_rule(config: &mut Config, rule: NewRule) -> Result<(), StartError> {
    let name = rule.name.unwrap_or_else(|| format!("rule-{}", config.rules.len() + 1));
    if config.rules.iter().any(|other| *other.name == *name) {
        return Err(StartError::SameName(name));
    }
    let matcher = match rule.condition.0 {
        Ok(matcher) => matcher,
        Err(source) => return Err(StartError::Condition { rule: name, source }),
    };
    let upstream = upstream(config, &name, rule.upstream)?;
    matcher.network_files(&mut config.network_files);
    config.rules.push(Arc::new(Rule {
        name: name.into(),
        matcher,
        upstream,
        on_no_upstream: Otherwise::Reset,
        relay: RelayChoice::Auto,
        max_connections: None,
        acl: Acl::default(),
        proxy_protocol: None,
    }));
    Ok(())
}

fn upstream(config: &mut Config, rule: &str, text: String) -> Result<UpstreamId, StartError> {
    let named = |name: &str, config: &Config| {
        config.upstreams.iter().position(|upstream| *upstream.name == *name).map(UpstreamId)
    };
    if let Some(id) = named(&text, config) {
        return Ok(id);
    }
    let address = rules::parse_address(&text).map_err(|source| StartError::Upstream {
        rule: rule.to_owned(),
        upstream: text,
        source,
    })?;
    let new = UpstreamConfig::single(address);
    if let Some(id) = named(&new.name, config) {
        return Ok(id);
    }
    config.upstreams.push(Arc::new(new));
    Ok(UpstreamId(config.upstreams.len() - 1))
}

/// Takes a socket that listens already; all cores accept from it.
fn adopt(socket: Socket, cores: usize) -> io::Result<Bound> {
    if !socket.is_listener()? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen"));
    }
    socket.set_nonblocking(true)?;
    let local = socket.local_addr()?;
    let address = match (local.as_socket(), local.as_pathname()) {
        (Some(address), _) => ListenAddress::Tcp(address),
        (None, path) => ListenAddress::Unix(path.map(Into::into).unwrap_or_default()),
    };
    if let ListenAddress::Tcp(_) = address {
        // Accepted connections inherit it.
        socket.set_tcp_nodelay(true)?;
    }
    let mut sockets = Vec::with_capacity(cores);
    for _ in 1..cores {
        sockets.push(socket.try_clone()?);
    }
    sockets.push(socket);
    Ok(Bound { address, sockets, file: None, spares: Arc::default() })
}

/// A multiplexer that serves. It goes on when this is dropped, to the end of the process;
/// [`Serving::stop`] ends it before.
#[derive(Debug)]
pub struct Serving {
    shared: Arc<Shared>,
    addresses: Vec<ListenAddress>,
    running: Running,
}

impl Serving {
    /// Where it listens by TCP, with the ports that the kernel chose for port 0.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().filter_map(|address| match address {
            ListenAddress::Tcp(address) => Some(*address),
            ListenAddress::Unix(_) | ListenAddress::Systemd(_) => None,
        })
    }

    /// What happened so far, by the counters' stable names.
    #[must_use]
    pub fn counters(&self) -> &crate::account::Counters {
        &self.shared.counters
    }

    /// Why the kernel relay is not in force; `None`: it is.
    #[must_use]
    pub fn relay_unavailable(&self) -> Option<&str> {
        self.shared.unavailable.as_deref()
    }

    /// Stops accepting, lets flows end until the drain timeout, resets what is left; returns
    /// when everything is closed.
    pub async fn stop(self) {
        let (sender, receiver) = oneshot::channel();
        let waiting = std::thread::Builder::new().name("mux-stop".into()).spawn(move || {
            self.stop_blocking();
            let _ = sender.send(());
        });
        if waiting.is_ok() {
            let _ = receiver.await;
        }
    }

    /// [`Serving::stop`] for programs without an executor.
    pub fn stop_blocking(self) {
        self.shared.drain.cancel();
        self.running.remove_files();
        self.running.join();
    }

    /// Resets all flows; returns when everything is closed.
    pub fn abort_blocking(self) {
        self.shared.drain.cancel();
        self.shared.abort.cancel();
        self.running.remove_files();
        self.running.join();
    }
}
