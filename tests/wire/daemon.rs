//! A daemon in a network namespace, with one rule and one upstream, and a TUN device in front.

use std::{
    cell::OnceCell,
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use mux_tests::{
    netns::{self, Netns},
    tun::{Connection, Tun},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use socket2::SockRef;
use tempfile::NamedTempFile;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// What every client's stream begins with, which the rule matches.
pub(crate) const HEAD: &[u8] = b"wire";

/// A namespace with a daemon in it; all of it ends by `Drop`.
pub(crate) struct Wire {
    child: Child,
    /// The number of the daemon's map of slots.
    slots: OnceCell<String>,
    /// The client's end, at the other side of the TUN device.
    pub(crate) client: Connection,
    /// The upstream's end.
    pub(crate) server: TcpStream,
    _rules: NamedTempFile,
    _namespace: Netns,
}

/// Opens a flow through a daemon with `relay = "sockmap"`, sends [`HEAD`], and waits until the
/// kernel carries it. `None`: not possible here.
pub(crate) fn open() -> Option<Wire> {
    open_with("")
}

/// The same, with more rules.
pub(crate) fn open_with(rules: &str) -> Option<Wire> {
    let possible = rustix::process::geteuid().is_root() && Path::new("/dev/net/tun").exists();
    if !possible {
        assert!(env::var_os("MUX_TESTS_NO_SKIP").is_none(), "needs root and /dev/net/tun");
        eprintln!("skipped: needs root and /dev/net/tun");
        return None;
    }
    Some(start(rules))
}

fn start(more: &str) -> Wire {
    let namespace = Netns::new("wire").unwrap();
    let tun = Tun::new(&namespace).unwrap();
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let listener = namespace.within(|| TcpListener::bind(any)).unwrap().unwrap();
    let server = listener.local_addr().unwrap();
    let mut rules = NamedTempFile::with_suffix(".toml").unwrap();
    rules.write_all(format!("{}\n{more}", rules_file(server)).as_bytes()).unwrap();

    let mut command = Command::new(mux());
    command.arg("--rules").arg(rules.path()).args(["--relay", "sockmap"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = namespace.within(|| command.spawn()).unwrap().expect("MUX_BIN");
    let address = listening(&mut child);

    let client = Connection::open(tun, address, 0xffff_ff00, 65_000).unwrap();
    let mut wire = {
        let mut client = client;
        client.send(0, HEAD).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        server.set_write_timeout(Some(PATIENCE)).unwrap();
        let slots = OnceCell::new();
        Wire { child, slots, client, server, _rules: rules, _namespace: namespace }
    };
    assert_eq!(wire.server_reads(HEAD.len()), HEAD);
    wire.wait_until_spliced();
    wire
}

fn mux() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/mux");
    env::var_os("MUX_BIN").map_or(built, PathBuf::from)
}

fn rules_file(server: SocketAddr) -> String {
    format!(
        r#"listen = "{}:0"

[[rule]]
match = {{ prefix = "wire" }}
upstream = "{server}"
relay = "sockmap"

[log]
access = "json"

[kernel]
sockmap = "{}"
"#,
        Tun::HOST,
        env::var("MUX_TEST_SOCKMAP").unwrap_or_else(|_| "auto".into())
    )
}

/// Whether a verdict gets overlapping retransmissions whole: Linux ≥ 6.0 (commit 04919bed948d).
pub(crate) fn verdict_gets_overlaps() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.split('.').next().unwrap().parse::<u32>().unwrap() >= 6
}

/// The daemon's listener, once it is ready; its log goes to ours.
fn listening(child: &mut Child) -> SocketAddrV4 {
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut address = None;
    for line in log.by_ref() {
        eprintln!("mux: {line}");
        if let Some((_, text)) = line.split_once(" address=") {
            address = text.trim().parse().ok();
        }
        if line.ends_with(" ready") {
            thread::spawn(move || log.for_each(|line| eprintln!("mux: {line}")));
            return address.expect("it said where it listens");
        }
    }
    panic!("the daemon ended: {:?}", child.wait());
}

impl Wire {
    /// Waits until the flow is in the kernel's maps.
    fn wait_until_spliced(&self) {
        let deadline = Instant::now() + PATIENCE;
        // Two sockets, each with a slot.
        while self.slots() < 2 {
            assert!(Instant::now() < deadline, "the flow did not go to the kernel");
            thread::sleep(Duration::from_millis(5));
        }
        // The map's entries come just before the sockets themselves.
        thread::sleep(Duration::from_millis(50));
    }

    /// Entries of the daemon's own map of slots.
    fn slots(&self) -> usize {
        let id = self.slots.get_or_init(|| self.map_of_slots());
        let dump = netns::run(Command::new("bpftool").args(["-j", "map", "dump", "id", id]));
        let entries: Value = serde_json::from_slice(&dump.unwrap().stdout).unwrap();
        entries.as_array().map_or(0, Vec::len)
    }

    /// Its number, among the maps that the daemon holds.
    fn map_of_slots(&self) -> String {
        let directory = format!("/proc/{}/fdinfo", self.child.id());
        let infos = std::fs::read_dir(directory).unwrap().flatten();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1).map(str::to_owned)
        };
        infos
            .filter_map(|info| std::fs::read_to_string(info.path()).ok())
            .filter_map(|text| field(&text, "map_id:"))
            .find(|id| {
                let show =
                    netns::run(Command::new("bpftool").args(["-j", "map", "show", "id", id]));
                let shown: Value = serde_json::from_slice(&show.unwrap().stdout).unwrap();
                shown["name"] == mux_common::MAP_SLOTS
            })
            .expect("the daemon has a map of slots")
    }

    /// Reads exactly so many bytes at the upstream.
    pub(crate) fn server_reads(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.server.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Reads at the upstream to the end of the stream.
    pub(crate) fn server_reads_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.server.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Closes the upstream's end with a reset; what stands in its place is connected to nothing.
    pub(crate) fn reset_server(&mut self) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = std::mem::replace(&mut self.server, other);
        SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Ends the daemon; returns the flow's line of the access log.
    pub(crate) fn stop(&mut self) -> Value {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let mut log = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut log).unwrap();
        assert!(self.child.wait().unwrap().success());
        assert_eq!(log.lines().count(), 1, "{log}");
        let entry: Value = serde_json::from_str(&log).unwrap();
        assert_eq!(entry["relay"], "sockmap", "{entry}");
        assert_eq!(entry["promotions"], 1, "{entry}");
        entry
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
