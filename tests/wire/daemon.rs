//! A daemon in a network namespace, with one rule and one upstream, and a TUN device in front.

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use mux_tests::{
    admin::AdminSocket,
    eventually_true,
    netns::Netns,
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
    admin: AdminSocket,
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
    let admin = AdminSocket::new().unwrap();
    let mut rules = NamedTempFile::with_suffix(".toml").unwrap();
    rules.write_all(format!("{}\n{more}", rules_file(server, &admin)).as_bytes()).unwrap();

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
        Wire { child, admin, client, server, _rules: rules, _namespace: namespace }
    };
    assert_eq!(wire.server_reads(HEAD.len()), HEAD);
    wire.wait_until_spliced();
    wire
}

fn mux() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/mux");
    env::var_os("MUX_BIN").map_or(built, PathBuf::from)
}

fn rules_file(server: SocketAddr, admin: &AdminSocket) -> String {
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

{}"#,
        Tun::HOST,
        env::var("MUX_TEST_SOCKMAP").unwrap_or_else(|_| "auto".into()),
        admin.rules()
    )
}

/// The daemon's listener, once it is ready; its log goes to ours.
fn listening(child: &mut Child) -> SocketAddrV4 {
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut address = None;
    for line in log.by_ref() {
        eprintln!("mux: {line}");
        if let Some((_, text)) = line.split_once(" listening listener=listener-1 address=") {
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
    /// Waits until the kernel carries the flow.
    fn wait_until_spliced(&self) {
        eventually_true("the flow is in the kernel", || {
            let flows = self.admin.json("/flows?relay=sockmap").unwrap();
            !flows["flows"].as_array().expect("a list of flows").is_empty()
        })
        .unwrap();
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
