//! What the sandbox forbids, and what not: each tried by a process of its own, once outside, where it
//! must work, and once inside.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::{TcpListener, TcpStream, ToSocketAddrs},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            net::{SocketAddr, UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use nix::unistd::Uid;
use tempfile::TempDir;

use super::*;

const DIRECTORY: &str = "MUX_SANDBOX_DIRECTORY";
const ATTEMPT: &str = "MUX_SANDBOX_ATTEMPT";
const INSIDE: &str = "MUX_SANDBOX_INSIDE";

/// Something to try in a directory that was prepared by [`prepare`].
struct Attempt {
    name: &'static str,
    run: fn(&Path) -> io::Result<()>,
    forbids: Forbids,
}

/// Who forbids it inside.
#[derive(Clone, Copy)]
enum Forbids {
    Nobody,
    Seccomp,
    /// From this ABI.
    Landlock(u32),
}

const ATTEMPTS: [Attempt; 21] = [
    // The daemon's business.
    Attempt { name: "rules", run: |at| read(&at.join("etc/rules.toml")), forbids: Forbids::Nobody },
    Attempt { name: "networks", run: |at| read(&at.join("lists/n")), forbids: Forbids::Nobody },
    Attempt { name: "replace", run: |at| read(&at.join("etc/new.toml")), forbids: Forbids::Nobody },
    Attempt { name: "log", run: |at| append(&at.join("log/access")), forbids: Forbids::Nobody },
    Attempt { name: "rotated", run: |at| append(&at.join("log/new")), forbids: Forbids::Nobody },
    Attempt { name: "listen", run: listen_unix, forbids: Forbids::Nobody },
    Attempt { name: "upstream", run: connect_unix, forbids: Forbids::Nobody },
    Attempt { name: "names", run: |_| look_up(), forbids: Forbids::Nobody },
    Attempt { name: "tcp", run: |_| talk(), forbids: Forbids::Nobody },
    Attempt { name: "null", run: |_| append(Path::new("/dev/null")), forbids: Forbids::Nobody },
    // Not its business.
    Attempt { name: "secret", run: |at| read(&at.join("secret")), forbids: Forbids::Landlock(1) },
    Attempt {
        name: "write",
        run: |at| append(&at.join("etc/rules.toml")),
        forbids: Forbids::Landlock(1),
    },
    Attempt {
        name: "remove",
        run: |at| fs::remove_file(at.join("log/access")),
        forbids: Forbids::Landlock(1),
    },
    Attempt { name: "program", run: |at| append(&at.join("etc/x")), forbids: Forbids::Landlock(1) },
    Attempt { name: "abstract", run: connect_abstract, forbids: Forbids::Landlock(6) },
    Attempt {
        name: "execve",
        run: |_| Err(Command::new("/bin/true").exec()),
        forbids: Forbids::Seccomp,
    },
    Attempt {
        name: "fork",
        run: |_| Command::new("/bin/true").status().map(drop),
        forbids: Forbids::Seccomp,
    },
    Attempt {
        name: "signal",
        run: |_| Ok(rustix::process::test_kill_process(parent()?)?),
        forbids: Forbids::Seccomp,
    },
    Attempt {
        name: "writable code",
        run: |_| sys::try_map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC),
        forbids: Forbids::Seccomp,
    },
    Attempt {
        name: "vsock",
        run: |_| {
            socket2::Socket::new(socket2::Domain::VSOCK, socket2::Type::STREAM, None).map(drop)
        },
        forbids: Forbids::Seccomp,
    },
    Attempt {
        name: "chroot",
        run: |at| Ok(rustix::process::chroot(at)?),
        forbids: Forbids::Seccomp,
    },
];

/// What only root can do outside, so that it proves nothing for others.
const FOR_ROOT: [&str; 1] = ["chroot"];

fn read(path: &Path) -> io::Result<()> {
    File::open(path)?.read_to_end(&mut Vec::new()).map(drop)
}

fn append(path: &Path) -> io::Result<()> {
    OpenOptions::new().create(true).append(true).open(path)?.write_all(b"line\n")
}

fn listen_unix(at: &Path) -> io::Result<()> {
    let path = at.join("run/new.sock");
    let _listener = UnixListener::bind(&path)?;
    fs::remove_file(path)
}

fn connect_unix(at: &Path) -> io::Result<()> {
    UnixStream::connect(at.join("upstream.sock")).map(drop)
}

fn connect_abstract(at: &Path) -> io::Result<()> {
    UnixStream::connect_addr(&abstract_name(at)?).map(drop)
}

fn abstract_name(at: &Path) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(at.as_os_str().as_encoded_bytes())
}

fn look_up() -> io::Result<()> {
    ("localhost", 80).to_socket_addrs()?.next().map(drop).ok_or(io::ErrorKind::NotFound.into())
}

/// With a thread: they must be had, too.
fn talk() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let client = thread::Builder::new().spawn(move || TcpStream::connect(address)?.write(b"x"))?;
    listener.accept()?.0.read_exact(&mut [0])?;
    client.join().map_err(|_| io::Error::other("a panic"))?.map(drop)
}

fn parent() -> io::Result<rustix::process::Pid> {
    rustix::process::getppid().ok_or(io::ErrorKind::NotFound.into())
}

/// What a daemon with [`config`] finds, and what it has no business with.
fn prepare() -> (TempDir, [UnixListener; 2]) {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    for name in ["etc", "lists", "log", "run"] {
        fs::create_dir(at.join(name)).expect("a directory");
    }
    for name in ["etc/rules.toml", "etc/new.toml", "lists/n", "log/access", "secret"] {
        fs::write(at.join(name), "192.0.2.0/24\n").expect("a file");
    }
    let upstream = UnixListener::bind(at.join("upstream.sock")).expect("a socket");
    let hidden = UnixListener::bind_addr(&abstract_name(at).expect("a name")).expect("a socket");
    (directory, [upstream, hidden])
}

fn config(at: &Path) -> Config {
    let at = at.display();
    let text = format!(
        "listen = '{at}/run/mux.sock'\n[[rule]]\nmatch = {{ client = ['file:{at}/lists/n'] }}\n\
         upstream = 80\n[log]\naccess_file = '{at}/log/access'\n"
    );
    crate::rules::parse("x", &text).expect("valid")
}

/// Runs [`child`] in a process; whether the attempt was a success, and what it printed.
fn attempt(name: &str, inside: bool) -> (bool, String) {
    let (directory, _sockets) = prepare();
    let mut command = Command::new(env::current_exe().expect("this program"));
    command
        .args(["--exact", "--ignored", "--nocapture", "server::sandbox::tests::child"])
        .env_remove("NOTIFY_SOCKET")
        .env(DIRECTORY, directory.path())
        .env(ATTEMPT, name);
    if inside {
        command.env(INSIDE, "1");
    }
    let output = command.output().expect("a child");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Fails if the attempt does.
#[test]
#[ignore = "run by the tests below, in a process of its own"]
fn child() {
    let (Some(at), Ok(name)) = (env::var_os(DIRECTORY), env::var(ATTEMPT)) else { return };
    let at = PathBuf::from(at);
    if env::var_os(INSIDE).is_some() {
        let sandbox = Sandbox::prepare(&config(&at), &at.join("etc/rules.toml"));
        rustix::thread::set_no_new_privs(true).expect("no_new_privs");
        sandbox.enter();
    }
    let attempt = ATTEMPTS.iter().find(|attempt| attempt.name == name).expect("an attempt");
    match (attempt.run)(&at) {
        Ok(()) => {}
        Err(error) => panic!("errno {}", error.raw_os_error().unwrap_or_default()),
    }
}

#[test]
fn what_is_not_the_daemons_business_is_refused_inside_only() {
    let abi = sys::landlock_abi().unwrap_or_default();
    for Attempt { name, forbids, .. } in ATTEMPTS {
        if FOR_ROOT.contains(&name) && !Uid::effective().is_root() {
            continue;
        }
        let (outside, text) = attempt(name, false);
        assert!(outside, "{name} outside: {text}");
        let allowed = match forbids {
            Forbids::Nobody => true,
            Forbids::Seccomp => !sys::has_seccomp(),
            Forbids::Landlock(since) => abi < since,
        };
        let (inside, text) = attempt(name, true);
        assert_eq!(inside, allowed, "{name} inside: {text}");
        // EPERM or EACCES, not any other failure.
        assert!(
            allowed || text.contains("errno 1\n") || text.contains("errno 13\n"),
            "{name}: {text}"
        );
    }
}

#[test]
fn what_is_switched_off_is_not_in_force() {
    let text = "listen = '127.0.0.1:0'\n[[rule]]\nupstream = 80\n\
                [security]\nlandlock = 'off'\nseccomp = 'off'\n";
    let config = crate::rules::parse("x", text).expect("valid");
    let sandbox = Sandbox::prepare(&config, Path::new("x"));
    assert!(sandbox.paths.is_none() && sandbox.seccomp == Confinement::Off);
    // The first one has no switch.
    let [no_new_privs, landlock, seccomp] = checks(&config.security);
    assert_eq!(no_new_privs.status, super::super::Status::Ok, "{no_new_privs:?}");
    for check in [landlock, seccomp] {
        assert!(check.found.starts_with("off by [security]"), "{check:?}");
    }
}
