//! mux in a program of one's own: rules as values and functions, callbacks, listeners handed in.

mod condition;
mod parts;
mod serving;

#[cfg(test)]
mod tests;

use std::{io, os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};

use socket2::Socket;
use thiserror::Error;
use tokio::sync::oneshot;

use self::parts::{add_rule, adopt, otherwise, table};
pub use self::{
    condition::{
        Condition, ConditionError, Function, IntoCondition, Itself, everything, prefix, probe,
        regex,
    },
    serving::Serving,
};
use crate::{
    account::{Flow, Hooks},
    probe::{Probe, Probes, RegisterError},
    rules::{
        self, AddressError, LoadError,
        config::{
            AccessFormat, Config, Limits, ListenAddress, ListenerConfig, LogConfig, PacketMode,
            RelayChoice, Rule, RuleId, SockmapMode, Timeouts,
        },
    },
    server::{self, ServeError, Setup, bind_all, default_threads},
};

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
    /// `true`; meanwhile later rules may take the connection. One that gives
    /// [`Verdict`](crate::Verdict) holds the later rules back while that is
    /// [`NeedMore`](crate::Verdict::NeedMore).
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
    ///
    /// A file can name probes of the program's:
    ///
    /// ```
    /// use std::{io::{Read, Write}, net::TcpStream};
    ///
    /// use mux::{Mux, Probe, Verdict};
    ///
    /// let acme = |bytes: &[u8]| match bytes {
    ///     [b'A', ..] => Verdict::Match(()),
    ///     [] => Verdict::NeedMore(1),
    ///     [..] => Verdict::NoMatch,
    /// };
    /// # let folder = std::env::temp_dir().join(format!("mux-doctest-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let path = folder.join("rules.toml");
    /// std::fs::write(&path, r#"
    ///     listen = "127.0.0.1:0"
    ///     [[rule]]
    ///     match = { all = ["acme", { client = ["127.0.0.0/8"] }] }
    ///     upstream = "builtin:echo"
    /// "#)?;
    /// let serving = Mux::builder()
    ///     .probe(Probe::custom("acme", acme))
    ///     .rules_file(&path)
    ///     // Known by its name here too.
    ///     .rule(mux::probe("acme"), "builtin:discard")
    ///     .start_blocking()?;
    /// # std::fs::remove_dir_all(&folder)?;
    /// let mut client = TcpStream::connect(serving.addresses().next().ok_or("no address")?)?;
    /// client.write_all(b"A1")?;
    /// let mut echo = [0; 2];
    /// client.read_exact(&mut echo)?;
    /// assert_eq!(&echo, b"A1");
    /// drop(client);
    /// serving.stop_blocking();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn rules_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Makes a probe known by its name, to the rules file and to [`probe`]. A name that mux's own
    /// probes have, or an earlier one, is refused by [`Builder::start`].
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
    ///
    /// A graceful stop waits for the flows that there are, so that each of them is told of:
    ///
    /// ```
    /// use std::{io::{Read, Write}, net::{Shutdown, TcpStream}, sync::mpsc};
    ///
    /// let (ended, endings) = mpsc::channel();
    /// let serving = mux::Mux::builder()
    ///     .named_rule("web", mux::probe("http"), "builtin:echo")
    ///     .on_close(move |flow| {
    ///         let _ = ended.send((flow.rule().to_owned(), flow.bytes_up(), flow.bytes_down()));
    ///     })
    ///     .bind("127.0.0.1:0")
    ///     .start_blocking()?;
    /// let address = serving.addresses().next().ok_or("no address")?;
    ///
    /// let mut client = TcpStream::connect(address)?;
    /// client.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    /// let mut first = [0; 4];
    /// client.read_exact(&mut first)?;
    ///
    /// // Nobody new is served, and this client still is.
    /// let stopping = std::thread::spawn(|| serving.stop_blocking());
    /// client.write_all(b"bye")?;
    /// client.shutdown(Shutdown::Write)?;
    /// let mut rest = String::new();
    /// client.read_to_string(&mut rest)?;
    /// assert_eq!(rest, "/ HTTP/1.1\r\n\r\nbye");
    /// stopping.join().map_err(|_| "it panicked")?;
    /// assert_eq!(endings.recv()?, ("web".to_owned(), 21, 21));
    /// assert!(endings.recv().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
    ///
    /// ```
    /// use std::{io::{Read, Write}, net::{TcpListener, TcpStream}};
    ///
    /// // Bound by whom it may concern: a supervisor, a test, a process with more rights.
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let address = listener.local_addr()?;
    /// let serving = mux::Mux::builder()
    ///     .rule(mux::prefix("PING"), "builtin:echo")
    ///     .listener(listener)
    ///     .start_blocking()?;
    /// assert_eq!(serving.addresses().collect::<Vec<_>>(), [address]);
    ///
    /// let mut client = TcpStream::connect(address)?;
    /// client.write_all(b"PING")?;
    /// let mut pong = [0; 4];
    /// client.read_exact(&mut pong)?;
    /// assert_eq!(&pong, b"PING");
    /// drop(client);
    /// serving.stop_blocking();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
        let mut probes = Probes::default();
        for probe in self.custom_probes.drain(..) {
            probes.register(probe)?;
        }
        let mut config = match self.file.take() {
            None => Config {
                // The callbacks tell what the access log would.
                log: LogConfig { access: AccessFormat::Off, ..LogConfig::default() },
                ..Config::empty()
            },
            Some(path) => rules::load(&path, &probes)?,
        };
        self.file_rules = config.rules.len();
        for rule in std::mem::take(&mut self.rules) {
            add_rule(&mut config, rule, &probes)?;
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
