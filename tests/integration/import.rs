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
    for name in ["basic.cfg", "everything.cfg", "old.cfg", "default"] {
        passes_the_check(&imported(&fixtures.join(name), &scratch)?).context(name)?;
    }
    Ok(())
}

/// Files of Debian's package, as it installs them.
fn of_the_package(path: &str) -> Result<()> {
    let file = Path::new(path);
    if !file.is_file() {
        return skip(&format!(
            "there is no {path} (Debian: sslh; minimal systems leave out /usr/share/doc)"
        ));
    }
    let scratch = Scratch::new()?;
    let rules = imported(file, &scratch)?;
    passes_the_check(&rules)?;
    let text = std::fs::read_to_string(&rules)?;
    for expected in ["match = \"ssh\"", "match = \"tls\""] {
        ensure!(text.contains(expected), "no {expected} in:\n{text}");
    }
    Ok(())
}

#[test]
fn the_example_of_sslh_itself() -> Result<()> {
    of_the_package("/usr/share/doc/sslh/examples/example.cfg")
}

#[test]
fn the_default_file_of_debian() -> Result<()> {
    of_the_package("/etc/default/sslh")
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

/// The names of sslh's protocols and their settings. Each goes to a server that says its number.
type Protocols = [(&'static str, &'static str)];

/// What clients send before they hear something. For each that makes sslh wait its timeout passes, a
/// second.
fn packets() -> Vec<Vec<u8>> {
    let texts = [
        "",
        "SSH-2.0-OpenSSH_9.2p1\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\n\r\n",
        "MINE and more of mine\r\n",
        "this mentions jabber somewhere, and more than fifty bytes follow it here\r\n",
        "EHLO a.example, which is no protocol that anything here is looking for\r\n",
        "\u{1}\u{2}\u{3}, of which every protocol here is sure that it is another one\r\n",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

/// ClientHellos of clients that ask for these names and protocols.
fn hellos() -> Vec<Vec<u8>> {
    [
        (None, &[][..]),
        (Some("a.example"), &[][..]),
        (Some("a.example"), &["h2", "http/1.1"]),
        (Some("www.b.example"), &["http/1.1"]),
        (Some("x.y.b.example"), &[]),
        (Some("b.example"), &[]),
        (Some("c1.example"), &["xmpp-client"]),
        (Some("c12.example"), &["h2"]),
        (None, &["acme-tls/1"]),
    ]
    .map(|(name, protocols)| client_hello(name, protocols))
    .into()
}

/// A ClientHello (RFC 8446 4.1.2) with SNI (RFC 6066 3) and ALPN (RFC 7301 3.1).
fn client_hello(name: Option<&str>, protocols: &[&str]) -> Vec<u8> {
    let sized = |width: usize, bytes: &[u8]| {
        let length = bytes.len().to_be_bytes();
        [&length[length.len() - width..], bytes].concat()
    };
    let extension = |code: u16, body: &[u8]| [&code.to_be_bytes()[..], &sized(2, body)].concat();
    let mut extensions = extension(0x2b, &sized(1, &[0x03, 0x04]));
    if let Some(name) = name {
        let entry = [&[0][..], &sized(2, name.as_bytes())].concat();
        extensions.extend(extension(0x00, &sized(2, &entry)));
    }
    if !protocols.is_empty() {
        let names: Vec<u8> = protocols.iter().flat_map(|name| sized(1, name.as_bytes())).collect();
        extensions.extend(extension(0x10, &sized(2, &names)));
    }
    let random = [0x5a; 32];
    let body = [
        &[0x03, 0x03][..],
        &random,
        &[0],
        &sized(2, &[0x13, 0x01]),
        &sized(1, &[0]),
        &sized(2, &extensions),
    ]
    .concat();
    let handshake = [&[0x01][..], &sized(3, &body)].concat();
    [&[0x16, 0x03, 0x01][..], &sized(2, &handshake)].concat()
}

#[test]
fn connections_go_where_sslh_sends_them() -> Result<()> {
    let mine = "regex_patterns: [ \"^MINE \" ];";
    let jabber = "regex_patterns: [ \"jabber\" ];";
    let bounded = "regex_patterns: [ \"^.{0,50}jabber\" ];";
    let files: [(&str, &Protocols); 7] = [
        ("", &[("ssh", ""), ("http", ""), ("tls", ""), ("anyprot", "")]),
        ("", &[("http", ""), ("regex", mine), ("ssh", "")]),
        ("", &[("ssh", ""), ("regex", jabber), ("http", ""), ("anyprot", "")]),
        ("", &[("regex", bounded), ("ssh", ""), ("tls", "")]),
        ("on-timeout: \"timeout\";", &[("ssh", ""), ("http", ""), ("timeout", "")]),
        ("on-timeout: \"tls\";", &[("http", ""), ("tls", ""), ("regex", mine), ("anyprot", "")]),
        ("on-timeout: \"nosuch\";", &[("tls", ""), ("socks5", ""), ("anyprot", "")]),
    ];
    files.iter().try_for_each(|(settings, protocols)| compare(settings, protocols, &packets()))
}

/// As long as sslh's probes want more, which mux's may not, sslh takes a client for a silent one.
#[test]
fn a_client_that_breaks_off_goes_where_sslh_sends_it() -> Result<()> {
    let packets = ["S", "SSH", "G", "GE", "x"].map(|text| text.as_bytes().to_vec());
    compare("", &[("ssh", ""), ("http", ""), ("anyprot", "")], &packets)
}

#[test]
fn tls_goes_where_sslh_sends_it() -> Result<()> {
    let names = "sni_hostnames: [ \"a.example\", \"*.b.example\" ];";
    let both = "sni_hostnames: [ \"a.example\" ]; alpn_protocols: [ \"h2\" ];";
    let glob = "sni_hostnames: [ \"c[0-9].*\", \"?12.example\" ];";
    let acme = "alpn_protocols: [ \"acme-tls/1\", \"xmpp-client\" ];";
    let files: [&Protocols; 3] = [
        &[("tls", names), ("ssh", ""), ("anyprot", "")],
        &[("tls", both), ("tls", glob), ("tls", ""), ("ssh", "")],
        &[("ssh", ""), ("tls", acme), ("tls", names), ("http", "")],
    ];
    files.iter().try_for_each(|protocols| compare("", protocols, &hellos()))
}

/// Sends each packet to sslh with this configuration, and to mux with what was imported from it.
fn compare(settings: &str, protocols: &Protocols, packets: &[Vec<u8>]) -> Result<()> {
    if Command::new("sslh").arg("-V").output().is_err() {
        return skip("there is no sslh (Debian: sslh)");
    }
    let scratch = Scratch::new()?;
    let servers: Vec<Server> = (0..protocols.len()).map(server).collect::<Result<_>>()?;
    let file = scratch.write("sslh.cfg", configuration(settings, protocols, &servers)?)?;
    let rules = imported(&file, &scratch)?;
    let daemon = Daemon::with_file(&rules, &["--relay", "copy"])?;
    for packet in packets {
        let by_sslh = sslh(&file, packet)?;
        let conn = daemon.connect()?;
        conn.send(packet)?;
        let by_mux = greeting(&conn)?;
        ensure!(
            by_mux == by_sslh,
            "{}: sslh connects to protocol {by_sslh}, mux to {by_mux}\n{}\n{}",
            packet.escape_ascii(),
            std::fs::read_to_string(&file)?,
            std::fs::read_to_string(&rules)?
        );
    }
    Ok(())
}

/// A server that says its number at once.
fn server(number: usize) -> Result<Server> {
    Upstream::tcp()?.serve(move |conn| {
        conn.send(format!("{number}\n"))?;
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
fn sslh(file: &Path, packet: &[u8]) -> Result<String> {
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

/// The number that the server says.
fn greeting(conn: &Conn) -> Result<String> {
    let mut number = String::new();
    let mut byte = [0];
    while conn.read(&mut byte).context("waiting for a server's number")? > 0 && byte[0] != b'\n' {
        number.push(char::from(byte[0]));
    }
    ensure!(!number.is_empty(), "the connection ended without a server's number");
    Ok(number)
}
