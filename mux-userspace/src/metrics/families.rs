//! Every family: its name, type, unit, labels and meaning. Names are stable: they are added, not
//! changed.

/// What a family's samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows; its samples' names end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size, with `_bucket`, `_count` and `_sum`.
    Histogram,
    /// Always 1, with labels that say something; its samples' names end in `_info`.
    Info,
}

impl Kind {
    /// As the format calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }

    /// What is appended to the family's name, in the reference.
    #[cfg(test)]
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Gauge | Self::Histogram => "",
            Self::Info => "_info",
        }
    }
}

macro_rules! families {
    ($($(#[doc = $doc:literal])+ $variant:ident = $kind:ident $name:literal [$($label:literal),*],)*) => {
        /// A family.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Family {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl Family {
            /// All of them, in the order of a page.
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name; of a counter without `_total`.
            pub(super) const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What its samples are.
            pub(super) const fn kind(self) -> Kind {
                match self {
                    $(Self::$variant => Kind::$kind,)*
                }
            }

            /// The names of its labels.
            pub(super) const fn labels(self) -> &'static [&'static str] {
                match self {
                    $(Self::$variant => &[$($label),*],)*
                }
            }

            /// What it tells.
            pub(super) fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_start(),)*
                }
            }
        }
    };
}

impl Family {
    /// The unit that its name ends in.
    pub(super) fn unit(self) -> Option<&'static str> {
        ["seconds", "bytes"]
            .into_iter()
            .find(|unit| self.name().strip_suffix(unit).is_some_and(|name| name.ends_with('_')))
    }
}

families! {
    /// The daemon's version and eBPF object.
    Build = Info "mux_build" ["version", "object"],
    /// When the daemon began to serve, since 1970.
    Started = Gauge "mux_start_time_seconds" [],
    /// 1 while connections are accepted, 0 while the daemon drains.
    Accepting = Gauge "mux_accepting" [],
    /// How many times rules were put in force, the first time included.
    Generation = Gauge "mux_rules_generation" [],
    /// When the rules in force came into force, since 1970.
    Loaded = Gauge "mux_rules_time_seconds" [],
    /// 0 if the rules could not be loaded again the last time, otherwise 1.
    LastReload = Gauge "mux_last_reload_ok" [],
    /// Reloads, by result.
    Reloads = Counter "mux_reloads" ["result"],
    /// Upgrades, by result: a new process took over; none did, or it died while the old one was there.
    Upgrades = Counter "mux_upgrades" ["result"],
    /// Cores, each a thread.
    Cores = Gauge "mux_cores" [],

    /// Connections accepted.
    Accepted = Counter "mux_accepted" [],
    /// accept(2) that failed, by reason: no descriptors or memory (`exhausted`), a connection that was gone (`aborted`), or another error (`other`), which the log has.
    AcceptErrors = Counter "mux_accept_errors" ["reason"],
    /// Connections now, those that are sniffed included.
    Connections = Gauge "mux_connections" [],
    /// Connections that are being sniffed.
    Sniffing = Gauge "mux_sniffing_connections" [],
    /// Connections that were refused, or given up before they were flows, by reason.
    Refused = Counter "mux_refused" ["reason"],
    /// Connections that are over, by close reason, which is the access log's.
    Closed = Counter "mux_closed" ["reason"],
    /// Flows that are over, by the rule that took them, the upstream they went to, and the relay
    /// they ended on.
    Flows = Counter "mux_flows" ["rule", "upstream", "relay"],
    /// Flows that are alive, by relay.
    FlowsAlive = Gauge "mux_flows_alive" ["relay"],
    /// Flows that are alive, by rule and upstream.
    RouteFlows = Gauge "mux_route_flows_alive" ["rule", "upstream"],
    /// Bytes that were given to upstreams (`up`) and to clients (`down`), by flows that are over and
    /// that are alive, whoever carried them. PROXY headers are in none.
    Bytes = Counter "mux_relayed_bytes" ["direction"],
    /// The same by rule and upstream.
    RouteBytes = Counter "mux_route_relayed_bytes" ["rule", "upstream", "direction"],
    /// From accept to the rule's decision.
    SniffSeconds = Histogram "mux_sniff_seconds" [],
    /// From the decision to the upstream's connection, retries and queues included.
    ConnectSeconds = Histogram "mux_connect_seconds" [],
    /// From accept to close, of flows.
    LifetimeSeconds = Histogram "mux_flow_duration_seconds" [],

    /// A limit: `connections`, `sniffing`, `kernel_flows`, `source`, `listener NAME`, `rule NAME`,
    /// `upstream NAME`, `queue NAME` (of an upstream), `endpoint NAME ADDRESS`.
    Limit = Gauge "mux_limit" ["limit"],
    /// How much of a limit is used; of `source`, by the source that uses most.
    LimitUsed = Gauge "mux_limit_used" ["limit"],

    /// How often a limit was met, by kind. What happens then: [limits](rules.md#what-happens-at-a-limit).
    LimitReached = Counter "mux_limit_reached" ["limit"],

    /// Flows of an upstream, those being connected included.
    UpstreamFlows = Gauge "mux_upstream_flows" ["upstream"],
    /// Connections in an upstream's queue.
    UpstreamQueue = Gauge "mux_upstream_queue" ["upstream"],
    /// 1 while an endpoint is used, 0 while it is ejected or down.
    EndpointUp = Gauge "mux_endpoint_up" ["upstream", "endpoint"],
    /// 1 for the state that an endpoint is in, 0 for the others: `up`, `ejected` (connections to it
    /// failed), `down` (its checks do).
    EndpointState = Gauge "mux_endpoint_state" ["upstream", "endpoint", "state"],
    /// Flows of an endpoint, those being connected included.
    EndpointFlows = Gauge "mux_endpoint_flows" ["upstream", "endpoint"],
    /// Attempts to connect to an endpoint that failed, by [reason](#reasons-of-failed-attempts);
    /// another may have been tried.
    ConnectFailures = Counter "mux_connect_failures" ["upstream", "reason"],
    /// Attempts after one that had failed, by the reason of that.
    Retries = Counter "mux_upstream_retries" ["upstream", "reason"],
    /// Times that another rule's upstream stood in.
    Fallbacks = Counter "mux_upstream_fallbacks" [],
    /// Endpoints ejected because connections to them failed, by the reason of the last one.
    Ejections = Counter "mux_upstream_ejections" ["upstream", "reason"],
    /// Endpoints that came back after an ejection, by what succeeded: an `attempt` of a flow's, or a
    /// `check`.
    Returns = Counter "mux_upstream_returns" ["upstream", "by"],
    /// Active checks, by result.
    Checks = Counter "mux_upstream_checks" ["result"],
    /// Endpoints that active checks took down or brought up.
    CheckChanges = Counter "mux_upstream_check_changes" ["to"],
    /// Connections that went into an upstream's queue.
    Queued = Counter "mux_upstream_queued" [],
    /// Time that connections have spent in queues.
    QueuedSeconds = Counter "mux_upstream_queue_seconds" [],
    /// Attempts not made: `source` has no address of the endpoint's family.
    SourceMismatches = Counter "mux_source_mismatches" [],
    /// Look-ups of names, by result.
    Resolutions = Counter "mux_resolutions" ["result"],
    /// Files of networks that had changed, by whether they could be used.
    NetworkFiles = Counter "mux_network_file_reads" ["result"],
    /// PROXY headers that were believed.
    ProxyHeaders = Counter "mux_proxy_headers" [],

    /// 1 while flows can go to the kernel: its relay is in force and not switched off.
    KernelRelay = Gauge "mux_kernel_relay" [],
    /// Times that `mux relay off` was ordered.
    SwitchedOff = Counter "mux_kernel_relay_switched_off" [],
    /// How long the self-test took, if it passed.
    SelfTest = Gauge "mux_self_test_seconds" [],
    /// Flows that went to the kernel.
    Promotions = Counter "mux_promotions" [],
    /// Flows that left the kernel alive.
    Demotions = Counter "mux_demotions" [],
    /// Flows among them that user space served better by then.
    DemotionsByEvidence = Counter "mux_demotions_by_evidence" [],
    /// Flows that should have gone to the kernel and were refused there.
    PromotionsRefused = Counter "mux_promotions_refused" [],
    /// Edges into passing of flows that are over: user space had to carry bytes of a flow in the
    /// kernel.
    Passes = Counter "mux_passes" [],
    /// Flows whose books contradicted the kernel's counts. Anything but 0 is to be reported.
    Imbalances = Counter "mux_relay_imbalance" [],
    /// Flows reset because the kernel's books were broken. Anything but 0 is to be reported.
    Broken = Counter "mux_relay_broken" [],
    /// Flows reset because a stream ended in the microseconds in which they left the kernel relay.
    Torn = Counter "mux_relay_torn" [],
    /// Messages that the verdict redirected.
    VerdictRedirected = Counter "mux_verdict_redirected" [],
    /// Bytes that the verdict redirected.
    VerdictRedirectedBytes = Counter "mux_verdict_redirected_bytes" [],
    /// Messages that the verdict passed to user space, by reason.
    VerdictPassed = Counter "mux_verdict_passed" ["reason"],
    /// Messages whose overlap with earlier ones the verdict cut off.
    VerdictTrimmed = Counter "mux_verdict_trimmed" [],
    /// Bytes that the verdict cut off.
    VerdictTrimmedBytes = Counter "mux_verdict_trimmed_bytes" [],
    /// Messages without a new byte.
    VerdictDuplicates = Counter "mux_verdict_duplicates" [],
    /// Ends of streams that the verdict saw.
    VerdictFins = Counter "mux_verdict_fins" [],
    /// Messages of sockets that had no record any more.
    VerdictNoSlot = Counter "mux_verdict_no_slot" [],
    /// Messages at which the verdict found its books broken.
    VerdictBroken = Counter "mux_verdict_broken" [],
    /// Events that found the ring full. The cores' timers find what they told of.
    VerdictEventsLost = Counter "mux_verdict_events_lost" [],
    /// 1 while packets of flows can come to be translated: the packet relay is in force and the
    /// kernel's relays are not switched off.
    PacketRelay = Gauge "mux_packet_relay" [],
    /// Flows that the packet relay was asked about, by what became of that.
    PacketFlows = Counter "mux_packet_flows" ["outcome"],
    /// Times that user space carried what still came to a socket of a flow whose packets were
    /// translated.
    PacketLate = Counter "mux_packet_late" [],
    /// Packets translated.
    PacketTranslated = Counter "mux_packets_translated" [],
    /// Packets that did not turn their flow on, by what it lacked.
    PacketNotArmed = Counter "mux_packets_not_armed" ["reason"],
    /// Packets with which something else, or something more, was done than to translate them.
    PacketOdd = Counter "mux_packets_odd" ["what"],
    /// First messages of a direction whose head had been read before the flow went to the kernel.
    VerdictHalfRead = Counter "mux_verdict_half_read" [],

    /// Access-log lines dropped because the log could not keep up.
    AccessDropped = Counter "mux_access_log_dropped" [],
    /// Messages of the daemon's log that were not written because there were too many of their kind;
    /// of endpoints' changes, once that has been told.
    LogSuppressed = Counter "mux_log_suppressed" [],
    /// Requests over the admin sockets.
    Requests = Counter "mux_admin_requests" [],

    /// User and system time of the process.
    CpuSeconds = Counter "process_cpu_seconds" [],
    /// Resident memory.
    ResidentBytes = Gauge "process_resident_memory_bytes" [],
    /// Virtual memory.
    VirtualBytes = Gauge "process_virtual_memory_bytes" [],
    /// Open file descriptors.
    OpenFds = Gauge "process_open_fds" [],
    /// Most of them.
    MaxFds = Gauge "process_max_fds" [],
    /// When the process was started, since 1970.
    ProcessStart = Gauge "process_start_time_seconds" [],
    /// Threads.
    Threads = Gauge "process_threads" [],
}
