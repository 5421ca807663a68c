//! What is done through each subject. A work says what the generator is told, which of the
//! servers it is for, and what of the result counts.

/// Server names of the works with TLS, and rules for them.
pub(crate) const NAMES: u16 = 200;

/// A work.
pub(crate) trait Work {
    /// Its stable name, for the command line and for files.
    fn name(&self) -> String;

    /// What is done, for a person.
    fn about(&self) -> String;

    /// What is counted.
    fn unit(&self) -> Unit;

    /// What answers.
    fn service(&self) -> Service;

    /// Connections at once.
    fn connections(&self) -> u32;

    /// The generator's arguments for it.
    fn arguments(&self) -> Vec<String>;

    /// Which result is compared first.
    fn headline(&self) -> Headline {
        Headline::Rate
    }

    /// Whether its connections go on with requests and answers in turn, so that each has a moment with nothing under
    /// way again and again.
    fn is_conversation(&self) -> bool {
        false
    }

    /// Whether it is part of `--quick`.
    fn is_quick(&self) -> bool {
        false
    }
}

/// What is counted, and how it is shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Unit {
    /// One of them.
    pub(crate) one: &'static str,
    /// Many of them.
    pub(crate) many: &'static str,
    /// The generator's units that make one.
    pub(crate) size: f64,
}

/// Which result is compared first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Headline {
    /// Units a second; more is better.
    Rate,
    /// The subject's memory for each flow; less is better.
    Memory,
}

/// What answers behind a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// HTTP over TCP.
    Http,
    /// HTTP over a Unix socket.
    HttpUnix,
    /// Every byte back.
    Echo,
    /// Bytes without end.
    Source,
    /// A counter of bytes.
    Sink,
    /// An alert for each ClientHello, chosen by server name.
    Hello,
    /// A TLS server, chosen by server name.
    Tls,
}

impl Service {
    /// Whether rules by server name are needed.
    pub(crate) const fn has_names(self) -> bool {
        match self {
            Self::Hello | Self::Tls => true,
            Self::Http | Self::HttpUnix | Self::Echo | Self::Source | Self::Sink => false,
        }
    }
}

/// Every work, in the order in which they are done and shown.
pub(crate) fn all() -> Vec<Box<dyn Work>> {
    let http = |connections, size| -> Box<dyn Work> {
        Box::new(Http { connections, size, each: None, unix: false })
    };
    vec![
        http(1, 128),
        http(32, 128),
        http(256, 128),
        Box::new(Http { connections: 32, size: 128, each: Some(1), unix: false }),
        Box::new(Http { connections: 32, size: 128, each: Some(20), unix: false }),
        Box::new(Connect),
        http(32, 64 << 10),
        http(16, 1 << 20),
        Box::new(Http { connections: 32, size: 128, each: None, unix: true }),
        Box::new(Bulk { flows: 1 }),
        Box::new(Bulk { flows: 16 }),
        Box::new(Echo { connections: 1, size: 64 }),
        Box::new(Echo { connections: 64, size: 64 }),
        Box::new(Echo { connections: 1, size: 16 << 10 }),
        Box::new(Echo { connections: 64, size: 16 << 10 }),
        Box::new(Tiny { flows: 1, ways: Ways::One }),
        Box::new(Tiny { flows: 16, ways: Ways::One }),
        Box::new(Tiny { flows: 16, ways: Ways::Both }),
        Box::new(Hello),
        Box::new(Tls),
        Box::new(Idle),
    ]
}

/// The work of this name: one of [`all`], or one of the same kind with other numbers, for a curve.
pub(crate) fn named(name: &str) -> Option<Box<dyn Work>> {
    if let Some(work) = all().into_iter().find(|work| work.name() == name) {
        return Some(work);
    }
    let parts: Vec<&str> = name.split('-').collect();
    let count = |text: &str| text.parse::<u32>().ok().filter(|count| (1..=10_000).contains(count));
    let work: Box<dyn Work> = match *parts.as_slice() {
        ["http", "keep", connections] => {
            Box::new(Http { connections: count(connections)?, size: 128, each: None, unix: false })
        }
        ["http", "close", connections] => {
            let connections = count(connections)?;
            Box::new(Http { connections, size: 128, each: Some(1), unix: false })
        }
        ["http", each, connections] if let Some(each) = each.strip_prefix("each") => {
            let (each, connections) = (count(each)?, count(connections)?);
            Box::new(Http { connections, size: 128, each: Some(each), unix: false })
        }
        ["http", size, connections] => {
            let (size, connections) = (bytes(size)?, count(connections)?);
            Box::new(Http { connections, size, each: None, unix: false })
        }
        ["bulk", flows] => Box::new(Bulk { flows: count(flows)? }),
        ["echo", size, connections] => {
            Box::new(Echo { connections: count(connections)?, size: bytes(size)? })
        }
        ["tiny", flows] => Box::new(Tiny { flows: count(flows)?, ways: Ways::One }),
        ["tiny", "both", flows] => Box::new(Tiny { flows: count(flows)?, ways: Ways::Both }),
        _ => return None,
    };
    (work.name() == name).then_some(work)
}

/// Requests and answers.
struct Http {
    connections: u32,
    size: usize,
    /// Requests on a connection; without end.
    each: Option<u32>,
    unix: bool,
}

impl Work for Http {
    fn name(&self) -> String {
        let Self { connections, size, .. } = self;
        match (self.each, self.unix, *size) {
            (Some(1), _, _) => format!("http-close-{connections}"),
            (Some(each), _, _) => format!("http-each{each}-{connections}"),
            (None, true, _) => format!("http-unix-{connections}"),
            (None, false, 128) => format!("http-keep-{connections}"),
            (None, false, _) => format!("http-{}-{connections}", short(*size)),
        }
    }

    fn about(&self) -> String {
        let persistence = match self.each {
            Some(1) => "one connection for each request".to_owned(),
            Some(each) => format!("one connection for {each} requests"),
            None => "keep-alive".to_owned(),
        };
        let upstream = if self.unix { ", the upstream is a Unix socket" } else { "" };
        let clients = plural(self.connections, "connection");
        format!("HTTP, {persistence}, {clients}, {} answers{upstream}", size(self.size))
    }

    fn unit(&self) -> Unit {
        Unit { one: "request", many: "requests", size: 1.0 }
    }

    fn service(&self) -> Service {
        if self.unix { Service::HttpUnix } else { Service::Http }
    }

    fn connections(&self) -> u32 {
        self.connections
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = words(&["http", "--size", &self.size.to_string()]);
        match self.each {
            Some(1) => arguments.push("--close".to_owned()),
            Some(each) => arguments.extend(words(&["--each", &each.to_string()])),
            None => {}
        }
        arguments
    }

    fn is_conversation(&self) -> bool {
        self.each.is_none()
    }

    fn is_quick(&self) -> bool {
        self.connections == 32 && self.size == 128 && !self.unix && self.each != Some(20)
    }
}

/// Connections without a byte.
struct Connect;

impl Work for Connect {
    fn name(&self) -> String {
        "connect".to_owned()
    }

    fn about(&self) -> String {
        "connections that end without a byte, 32 at once".to_owned()
    }

    fn unit(&self) -> Unit {
        Unit { one: "connection", many: "connections", size: 1.0 }
    }

    fn service(&self) -> Service {
        Service::Http
    }

    fn connections(&self) -> u32 {
        32
    }

    fn arguments(&self) -> Vec<String> {
        words(&["connect"])
    }
}

/// Bytes one way.
struct Bulk {
    flows: u32,
}

impl Work for Bulk {
    fn name(&self) -> String {
        format!("bulk-{}", self.flows)
    }

    fn about(&self) -> String {
        format!("bulk from server to client, {}", plural(self.flows, "flow"))
    }

    fn unit(&self) -> Unit {
        Unit { one: "MiB", many: "MiB", size: f64::from(1 << 20) }
    }

    fn service(&self) -> Service {
        Service::Source
    }

    fn connections(&self) -> u32 {
        self.flows
    }

    fn arguments(&self) -> Vec<String> {
        words(&["bulk"])
    }

    fn is_quick(&self) -> bool {
        self.flows == 1
    }
}

/// Messages that come back.
struct Echo {
    connections: u32,
    size: usize,
}

impl Work for Echo {
    fn name(&self) -> String {
        format!("echo-{}-{}", short(self.size), self.connections)
    }

    fn about(&self) -> String {
        format!("echo of {}, {}", size(self.size), plural(self.connections, "connection"))
    }

    fn unit(&self) -> Unit {
        Unit { one: "message", many: "messages", size: 1.0 }
    }

    fn service(&self) -> Service {
        Service::Echo
    }

    fn connections(&self) -> u32 {
        self.connections
    }

    fn arguments(&self) -> Vec<String> {
        words(&["echo", "--size", &self.size.to_string()])
    }

    fn is_conversation(&self) -> bool {
        true
    }

    fn is_quick(&self) -> bool {
        (self.connections, self.size) == (1, 64)
    }
}

/// Small writes.
struct Tiny {
    flows: u32,
    ways: Ways,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ways {
    /// To the server, which counts them.
    One,
    /// And back, without waiting for each other.
    Both,
}

impl Work for Tiny {
    fn name(&self) -> String {
        match self.ways {
            Ways::One => format!("tiny-{}", self.flows),
            Ways::Both => format!("tiny-both-{}", self.flows),
        }
    }

    fn about(&self) -> String {
        let ways = match self.ways {
            Ways::One => "from client to server",
            Ways::Both => "that come back, 64 of them on their way at once",
        };
        format!("writes of 32 B {ways}, {}", plural(self.flows, "flow"))
    }

    fn unit(&self) -> Unit {
        Unit { one: "write", many: "writes", size: 1.0 }
    }

    fn service(&self) -> Service {
        match self.ways {
            Ways::One => Service::Sink,
            Ways::Both => Service::Echo,
        }
    }

    fn connections(&self) -> u32 {
        self.flows
    }

    fn arguments(&self) -> Vec<String> {
        match self.ways {
            Ways::One => words(&["tiny", "--size", "32"]),
            Ways::Both => words(&["echo", "--size", "32", "--ahead", "64"]),
        }
    }
}

/// ClientHellos by server name.
struct Hello;

impl Work for Hello {
    fn name(&self) -> String {
        format!("hello-sni-{NAMES}")
    }

    fn about(&self) -> String {
        format!(
            "TLS ClientHellos for {NAMES} server names with a rule each, answered by an alert, one connection for each, 32 at once"
        )
    }

    fn unit(&self) -> Unit {
        Unit { one: "connection", many: "connections", size: 1.0 }
    }

    fn service(&self) -> Service {
        Service::Hello
    }

    fn connections(&self) -> u32 {
        32
    }

    fn arguments(&self) -> Vec<String> {
        words(&["hello", "--names", &NAMES.to_string()])
    }
}

/// Whole TLS handshakes by server name.
struct Tls;

impl Work for Tls {
    fn name(&self) -> String {
        format!("tls-sni-{NAMES}")
    }

    fn about(&self) -> String {
        format!(
            "TLS 1.3 handshakes with one request, {NAMES} server names with a rule each, 32 connections at once; the server is nginx"
        )
    }

    fn unit(&self) -> Unit {
        Unit { one: "handshake", many: "handshakes", size: 1.0 }
    }

    fn service(&self) -> Service {
        Service::Tls
    }

    fn connections(&self) -> u32 {
        32
    }

    fn arguments(&self) -> Vec<String> {
        words(&["tls", "--names", &NAMES.to_string()])
    }
}

/// Silent flows.
struct Idle;

impl Work for Idle {
    fn name(&self) -> String {
        "idle-5000".to_owned()
    }

    fn about(&self) -> String {
        "5,000 flows that are silent after 20 exchanges each".to_owned()
    }

    fn unit(&self) -> Unit {
        Unit { one: "flow", many: "flows", size: 1.0 }
    }

    fn service(&self) -> Service {
        Service::Echo
    }

    fn connections(&self) -> u32 {
        5000
    }

    fn arguments(&self) -> Vec<String> {
        words(&["idle", "--exchanges", "20"])
    }

    fn headline(&self) -> Headline {
        Headline::Memory
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// What [`short`] makes.
fn bytes(text: &str) -> Option<usize> {
    let (digits, unit) = match text.strip_suffix('k') {
        Some(digits) => (digits, 1 << 10),
        None => text.strip_suffix('m').map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    digits.parse::<usize>().ok()?.checked_mul(unit).filter(|bytes| (4..=64 << 20).contains(bytes))
}

fn short(bytes: usize) -> String {
    match bytes {
        ..1024 => bytes.to_string(),
        1024..0x10_0000 => format!("{}k", bytes >> 10),
        _ => format!("{}m", bytes >> 20),
    }
}

fn size(bytes: usize) -> String {
    match bytes {
        ..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

fn plural(count: u32, one: &str) -> String {
    if count == 1 { format!("{count} {one}") } else { format!("{count} {one}s") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_fit_for_files() {
        let works = all();
        let names: BTreeSet<String> = works.iter().map(|work| work.name()).collect();
        assert_eq!(names.len(), works.len());
        let is_fit = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(names.iter().all(|name| name.chars().all(is_fit)), "{names:?}");
        assert!(names.contains("http-64k-32") && names.contains("http-1m-16"), "{names:?}");
    }

    #[test]
    fn a_work_with_other_numbers_can_be_named() {
        for name in [
            "echo-64-8",
            "echo-4k-2",
            "http-keep-7",
            "http-close-1",
            "http-each5-3",
            "http-2m-4",
            "tiny-3",
            "tiny-both-2",
            "bulk-4",
            "idle-5000",
        ] {
            assert_eq!(named(name).map(|work| work.name()).as_deref(), Some(name));
        }
        for name in ["echo-64", "echo-64-0", "echo-4096-1", "http-keep", "bulk-x", "http-unix-7"] {
            assert!(named(name).is_none(), "{name}");
        }
    }

    #[test]
    fn requests_and_answers_in_turn() {
        let is_conversation = |name: &str| named(name).unwrap().is_conversation();
        assert!(["http-keep-32", "http-1m-16", "echo-64-64"].into_iter().all(is_conversation));
        let others =
            ["http-close-32", "http-each20-32", "bulk-1", "tiny-1", "tiny-both-16", "connect"];
        assert!(!others.into_iter().any(is_conversation));
    }

    #[test]
    fn the_quick_ones() {
        let quick: Vec<String> =
            all().iter().filter(|work| work.is_quick()).map(|work| work.name()).collect();
        assert_eq!(quick, ["http-keep-32", "http-close-32", "bulk-1", "echo-64-1"]);
    }
}
