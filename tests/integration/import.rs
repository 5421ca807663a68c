//! `mux import`: the command; and that connections go where the real sslh sends them.

use std::{
    fs::File,
    net::TcpListener,
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use mux_tests::{Conn, Daemon, Scratch, Server, Upstream, mux, repository, run, skip};

const USAGE: i32 = 64;
const CONFIG: i32 = 78;

fn import(file: &Path) -> Result<Output> {
    run(Command::new(mux()?).arg("import").arg(file))
}

/// Imports a file that can be; returns the rules file.
fn imported(file: &Path, scratch: &Scratch) -> Result<std::path::PathBuf> {
    let output = import(file)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    scratch.write("rules.toml", &output.stdout)
}

fn passes_the_check(rules: &Path) -> Result<()> {
    let checked = Daemon::check(rules)?;
    let said = String::from_utf8_lossy(&checked.stderr);
    ensure!(checked.status.success(), "{said}\n{}", std::fs::read_to_string(rules)?);
    Ok(())
}

#[test]
fn what_is_printed_passes_the_check() -> Result<()> {
    let scratch = Scratch::new()?;
    let fixtures = repository().join("tests/fixtures/sslh");
    let mut files: Vec<_> =
        ["basic.cfg", "everything.cfg", "old.cfg"].map(|name| fixtures.join(name)).into();
    // sslh's own, where its package is installed.
    files.push("/usr/share/doc/sslh/examples/example.cfg".into());
    for file in files.iter().filter(|file| file.is_file()) {
        passes_the_check(&imported(file, &scratch)?).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

#[test]
fn warnings_name_file_line_and_column() -> Result<()> {
    let file = repository().join("tests/fixtures/sslh/everything.cfg");
    let output = import(&file)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let line = format!("warning: {}:31:1: `weight: -1500.0`: not a setting", file.display());
    ensure!(said.contains(&line), "no {line:?} in:\n{said}");
    ensure!(said.lines().all(|line| line.starts_with("warning: ")), "{said}");
    Ok(())
}

#[test]
fn standard_input_is_a_hyphen() -> Result<()> {
    let basic = std::fs::read_to_string(repository().join("tests/fixtures/sslh/basic.cfg"))?;
    let listen = "listen: ( { host: \"127.0.0.1\"; port: \"3443\"; } )";
    let scratch = Scratch::new()?;
    let file = scratch.write("x.cfg", basic.replace("@include \"include/listen.cfg\"", listen))?;
    let from_file = import(&file)?;
    let command = &mut Command::new(mux()?);
    let output =
        mux_tests::Process::start_with(command.args(["import", "-"]).stdin(File::open(&file)?))?
            .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let named =
        |output: &Output, name: &str| String::from_utf8_lossy(&output.stdout).replace(name, "NAME");
    let rules = |output: &Output, name: &str| -> Vec<String> {
        let says = |line: &&str| !line.starts_with('#');
        named(output, name).lines().filter(says).map(ToOwned::to_owned).collect()
    };
    ensure!(rules(&output, "<stdin>") == rules(&from_file, &file.display().to_string()));
    ensure!(named(&output, "x").contains("<stdin>"));
    Ok(())
}

#[test]
fn a_file_that_is_wrong_is_shown() -> Result<()> {
    let scratch = Scratch::new()?;
    let file = scratch.write("bad.cfg", "timeout: 2;\nuser: 'nobody';\n")?;
    let missing = scratch.join("missing.cfg");
    for (file, parts) in [
        (&file, &["error: ", "bad.cfg:2:7", "2 | user: 'nobody';", "  ^", "hint: "][..]),
        (&missing, &["cannot read", "missing.cfg", "No such file", "hint: "]),
    ] {
        let output = import(file)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(CONFIG), "{}: {said}", output.status);
        ensure!(output.stdout.is_empty(), "something is printed");
        for part in parts {
            ensure!(said.contains(part), "no {part:?} in:\n{said}");
        }
    }
    for arguments in [&["import"][..], &["import", "a", "b"], &["import", "--nonsense", "a"]] {
        let output = run(Command::new(mux()?).args(arguments))?;
        ensure!(output.status.code() == Some(USAGE), "{arguments:?}: {}", output.status);
    }
    Ok(())
}

/// The names of sslh's protocols and their settings. Each goes to a server that says its name.
type Protocols = [(&'static str, &'static str)];

/// Connections, and sslh's timeout is a second for each that it waits for.
const PACKETS: [&str; 9] = [
    "",
    "SSH-2.0-OpenSSH_9.2p1\r\n",
    "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\n\r\n",
    "MINE and more of mine\r\n",
    "this mentions jabber somewhere, and more than fifty bytes follow it here\r\n",
    "EHLO a.example, which is no protocol that anything here is looking for\r\n",
    "\u{1}\u{2}\u{3}, of which every protocol here is sure that it is another one\r\n",
    "S",
];

#[test]
fn connections_go_where_sslh_sends_them() -> Result<()> {
    if Command::new("sslh").arg("-V").output().is_err() {
        return skip("there is no sslh (Debian: sslh)");
    }
    let mine = "regex_patterns: [ \"^MINE \" ];";
    let jabber = "regex_patterns: [ \"jabber\" ];";
    let files: [(&str, &Protocols); 6] = [
        ("", &[("ssh", ""), ("http", ""), ("tls", ""), ("anyprot", "")]),
        ("", &[("http", ""), ("regex", mine), ("ssh", "")]),
        ("", &[("ssh", ""), ("regex", jabber), ("http", ""), ("anyprot", "")]),
        ("on-timeout: \"timeout\";", &[("ssh", ""), ("http", ""), ("timeout", "")]),
        ("on-timeout: \"tls\";", &[("http", ""), ("tls", ""), ("regex", mine), ("anyprot", "")]),
        ("on-timeout: \"nosuch\";", &[("tls", ""), ("socks5", ""), ("anyprot", "")]),
    ];
    for (settings, protocols) in files {
        let scratch = Scratch::new()?;
        let servers: Vec<Server> =
            protocols.iter().map(|(name, _)| server(name)).collect::<Result<_>>()?;
        let file = scratch.write("sslh.cfg", configuration(settings, protocols, &servers)?)?;
        let rules = imported(&file, &scratch)?;
        let daemon = Daemon::with_file(&rules, &["--relay", "copy"])?;
        for packet in PACKETS {
            let by_sslh = sslh(&file, packet)?;
            let conn = daemon.connect()?;
            conn.send(packet)?;
            let by_mux = greeting(&conn)?;
            ensure!(
                by_mux == by_sslh,
                "{packet:?}: sslh connects to {by_sslh}, mux to {by_mux}\n{}",
                std::fs::read_to_string(&rules)?
            );
        }
    }
    Ok(())
}

/// A server that says its name at once.
fn server(name: &'static str) -> Result<Server> {
    Upstream::tcp()?.serve(move |conn| {
        conn.send(format!("{name}\n"))?;
        conn.to_end().map(drop)
    })
}

fn configuration(settings: &str, protocols: &Protocols, servers: &[Server]) -> Result<String> {
    let mut groups = Vec::new();
    for ((name, settings), server) in protocols.iter().zip(servers) {
        let (host, port) = server.name().split_once(':').context("it is on TCP")?;
        let at = format!("host: \"{host}\"; port: \"{port}\";");
        groups.push(format!("{{ name: \"{name}\"; {at} {settings} }}"));
    }
    Ok(format!(
        "timeout: 1;\n{settings}\nlisten: ( {{ host: \"127.0.0.1\"; port: \"0\"; }} );\n\
         protocols: (\n{}\n);\n",
        groups.join(",\n")
    ))
}

/// Where the real sslh connects a client to that sends this; it is given the client's connection
/// as inetd would.
fn sslh(file: &Path, packet: &str) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let conn = Conn::tcp(listener.local_addr()?)?;
    let accepted = listener.accept()?.0;
    let mut command = Command::new("sslh");
    command
        .arg("-i")
        .arg(format!("-F{}", file.display()))
        .stdin(OwnedFd::from(accepted.try_clone()?))
        .stdout(OwnedFd::from(accepted))
        .stderr(Stdio::null());
    let child = Killed(command.spawn().context("starting sslh")?);
    drop(command);
    conn.send(packet)?;
    let greeting = greeting(&conn);
    drop(child);
    greeting
}

/// A process that ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The name that the server says.
fn greeting(conn: &Conn) -> Result<String> {
    let mut name = String::new();
    let mut byte = [0];
    while conn.read(&mut byte).context("waiting for a server's name")? > 0 && byte[0] != b'\n' {
        name.push(char::from(byte[0]));
    }
    ensure!(!name.is_empty(), "the connection ended without a server's name");
    Ok(name)
}
