//! What an operator relies on: totals that are those of the clients, health that is no pretence, logs
//! that nobody can flood or forge, and an admin socket on a bare machine.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Access, Conn, Daemon, Need, Pattern, Process, Relay, Scratch, Server, Starter, Upstream,
    admin::AdminSocket, eventually, eventually_true, exchange, hold::held, join, mux, need,
    on_each_relay, procfs::Proc, repository,
};
use rustix::process::Signal;

const CLIENTS: u64 = 6;

fn echoes(client: &Conn) -> Result<()> {
    client.send("echo?")?;
    client.expect("echo?")
}

/// The sum over several clients, some of them before a reload that renames the rule, some over it,
/// some after it: a byte is on the page once.
fn the_pages_bytes_are_the_sum_of_the_clients(relay: Relay) -> Result<()> {
    const LENGTH: u64 = 150_000;
    let upstream = Upstream::tcp()?;
    let socket = AdminSocket::new()?;
    let rules = |name: &str| {
        let rule = relay.rule(&upstream.name()).replace("\"all\"", &format!("{name:?}"));
        format!("{rule}{}", socket.rules())
    };
    let daemon = Daemon::start(&rules("before"), &["--threads", "2", "--relay", relay.name()])?;
    let sum = |direction: &str| {
        let series = format!("mux_relayed_bytes_total{{direction=\"{direction}\"}}");
        socket.metric(&series).map(|value| value.unwrap_or(-1.0))
    };
    // What each client has sent and received, by its own count.
    let (mut up, mut down) = (0, 0);
    let mut pairs = Vec::new();
    for number in 0..CLIENTS {
        if number == CLIENTS / 2 {
            daemon.reload_ok(&rules("after"))?;
        }
        let (client, server) = daemon.flow(&upstream)?;
        (up, down) = (up + relay.hello(), down + relay.hello());
        let (there, back) = (Pattern::new(number), Pattern::new(100 + number));
        let length = LENGTH + 1000 * number;
        if number % 3 == 0 {
            // Over at once; of a rule that a reload takes away, too.
            exchange((&client, there, length), (&server, back, length / 2))?;
            (up, down) = (up + length, down + length / 2);
        } else {
            thread::scope(|scope| {
                let sending = scope.spawn(|| client.send_pattern(there, 0, length));
                server.expect_pattern(there, 0, length)?;
                join(sending, "a client")
            })?;
            up += length;
            pairs.push((client, server, there, length));
        }
    }
    let is_sum = |up: u64, down: u64| {
        let mut last = (0.0, 0.0);
        let waited = eventually_true("the page has the clients' sums", || {
            last = (sum("up").unwrap_or(-1.0), sum("down").unwrap_or(-1.0));
            last == (up as f64, down as f64)
        });
        waited.with_context(|| format!("{last:?}, and not {:?}", (up, down)))
    };
    is_sum(up, down)?;
    for (client, server, there, length) in pairs {
        thread::scope(|scope| {
            let sending = scope.spawn(|| client.send_pattern(there, length, length));
            server.expect_pattern(there, length, length)?;
            join(sending, "a client")
        })?;
        up += length;
        client.finish()?;
        server.expect_end()?;
        server.finish()?;
        client.expect_end()?;
    }
    is_sum(up, down)?;
    // The access log's, of which each client has one line, say the same.
    let logged = || -> Result<(u64, u64)> {
        let bytes = daemon.access()?.iter().map(Access::bytes).collect::<Vec<_>>();
        Ok(bytes.into_iter().fold((0, 0), |(up, down), more| (up + more.0, down + more.1)))
    };
    eventually_true("all are over", || daemon.access_count() as u64 == CLIENTS)?;
    ensure!(logged()? == (up, down), "{:?}, and not {:?}", logged()?, (up, down));
    daemon.stop()?;
    Ok(())
}

on_each_relay!(the_pages_bytes_are_the_sum_of_the_clients);

#[test]
fn health_is_denied_while_a_core_hangs() -> Result<()> {
    need!(Need::Root);
    let socket = AdminSocket::new()?;
    let rules = format!("{}{}", Relay::Copy.rule("builtin:echo"), socket.rules());
    let daemon = Daemon::start(&rules, &["--relay", "copy", "--threads", "2"])?;
    ensure!(socket.get("/healthz")?.status == 200);
    held(daemon.proc(), "mux-core-1", || {
        let answer = socket.get("/healthz")?;
        ensure!(answer.status == 503 && answer.body.contains("core 1"), "{answer:?}");
        // It is in no page with half of the truth, either.
        ensure!(socket.get("/metrics")?.status == 503);
        ensure!(socket.get("/readyz")?.status == 200, "the other core accepts");
        Ok(())
    })?;
    eventually_true("it is well again", || {
        socket.get("/healthz").is_ok_and(|answer| answer.status == 200)
    })?;
    daemon.stop()?;
    Ok(())
}

#[test]
fn errors_that_clients_can_cause_are_logged_so_often_and_then_counted() -> Result<()> {
    const MOST: usize = 10;
    need!(Need::Root);
    let socket = AdminSocket::new()?;
    // Of our own user: another's limits are not ours to change.
    let rules = format!(
        "{}{}[security]\nuser = \"root\"\n",
        Relay::Copy.rule("builtin:echo"),
        socket.rules()
    );
    let daemon = Daemon::start(&rules, &["--relay", "copy", "--threads", "1"])?;
    let proc = daemon.proc();
    let few = proc.descriptors()? as u64 / 2;
    let suppressed = || socket.metric("mux_log_suppressed_total");
    eventually_true("some are not written", || {
        let shortage = || -> Result<bool> {
            let before = proc.usage()?.switches;
            proc.soft_limit_descriptors(Some(few))?;
            let client = daemon.connect()?;
            eventually_true("it looks", || proc.usage().is_ok_and(|now| now.switches > before))?;
            proc.soft_limit_descriptors(None)?;
            // A shortage is over with a connection that is accepted.
            echoes(&client)?;
            Ok(suppressed()?.is_some_and(|count| count >= 3.0))
        };
        shortage().unwrap_or(false)
    })?;
    ensure!(daemon.log_count("cannot accept") == MOST, "{}", daemon.log_count("cannot accept"));
    daemon.stop()?;
    Ok(())
}

/// What must not get from a client into a terminal or a log reader: new lines, escape sequences in
/// one byte (C1) and in two, bytes that are no text, a quotation mark that ends a string.
const HOSTILE: [&[u8]; 6] = [
    b"GET /red\"\\b?\xff\xfe\xc2\x9b31m HTTP/1.1\r\nHost: a\"\xff\xc2\x9b\r\n\r\n",
    b"GET /a\x1b[2J\x1b]0;x\x07 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: \x1b[31ma\x7f\r\n\r\n",
    b"GET /\xe2\x80\xae\xe2\x80\xa8\xc2\x85 HTTP/1.1\r\nHost: a\tb\x0bc\r\n\r\n",
    b"SSH-2.0-\x1b[2J\xff\xc2\x9bname\r\n",
    b"GET /\n{\"time\":\"forged\"} HTTP/1.1\nHost: a\n\n",
];

#[test]
fn hostile_bytes_stay_in_one_line_of_either_access_log() -> Result<()> {
    for form in ["json", "text"] {
        let scratch = Scratch::new()?;
        let path = scratch.join("access.log");
        let rules = format!(
            "[[rule]]\nmatch = {{ any = [\"http\", \"ssh\"] }}\nupstream = \"builtin:discard\"\n\
             [[rule]]\nupstream = \"builtin:discard\"\n\
             [log]\naccess = \"{form}\"\naccess_file = \"{}\"\n[security]\nuser = \"root\"\n",
            path.display()
        );
        let daemon = Daemon::user_space(&rules)?;
        for bytes in HOSTILE {
            let client = daemon.connect()?;
            client.send(bytes)?;
            client.finish()?;
            client.expect_end()?;
        }
        let log = daemon.stop()?.log;
        let written = fs::read(&path)?;
        let text = String::from_utf8(written).context("the access log is not UTF-8")?;
        let lines: Vec<&str> = text.lines().collect();
        ensure!(lines.len() == HOSTILE.len(), "{form}: {lines:#?}");
        for line in &lines {
            ensure!(!line.chars().any(is_harmful), "{form}: {line:?}");
        }
        ensure!(lines.iter().any(|line| line.contains("/red")), "the path is told: {lines:#?}");
        if form == "json" {
            lines.iter().try_for_each(|line| Access::parse(line).map(drop))?;
        }
        let said = log.iter().find(|line| line.chars().any(is_harmful));
        ensure!(said.is_none(), "{said:?}");
    }
    Ok(())
}

/// Controls (C0, DEL, C1), and what changes lines or directions.
fn is_harmful(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[test]
fn orders_tell_their_outcome_as_json() -> Result<()> {
    let socket = AdminSocket::new()?;
    let rules = format!("{}{}", Relay::Copy.rule("builtin:echo"), socket.rules());
    let daemon = Daemon::user_space(&rules)?;
    let order = |name: &str| -> Result<String> {
        let said: serde_json::Value = serde_json::from_str(&socket.mux_ok(&[name, "--json"])?)?;
        Ok(said["outcome"].as_str().with_context(|| said.to_string())?.to_owned())
    };
    let said = order("upgrade")?;
    let new = daemon.successor(0)?;
    ensure!(said == format!("process {new} serves; 0 connections end in the old one"), "{said}");
    eventually_true("the old process ends", || {
        daemon.proc().status("State").is_ok_and(|state| state.starts_with('Z'))
    })?;
    let said = order("drain")?;
    ensure!(said == "draining, for at most 30 s", "{said}");
    eventually_true("the new process ends", || !Proc(new).exists())?;
    daemon.wait()?;
    Ok(())
}

#[test]
fn the_admin_sockets_directory_is_made_while_there_is_the_right_to() -> Result<()> {
    need!(Need::Root);
    let scratch = Scratch::new()?;
    let directory = scratch.join("run");
    let path = directory.join("admin.sock");
    let rules = format!(
        "{}[admin]\nsocket = \"{}\"\nmode = \"0666\"\n",
        Relay::Copy.rule("builtin:echo"),
        path.display()
    );
    let daemon = Daemon::user_space(&rules)?;
    let made = fs::metadata(&directory)?;
    ensure!((made.mode() & 0o7777, made.uid()) == (0o755, 0), "{made:?}");
    let output = mux_tests::run(Command::new(mux()?).args(["status", "--socket"]).arg(&path))?;
    ensure!(output.status.success(), "{output:?}");
    daemon.stop()?;
    ensure!(!path.exists(), "the socket's file is left");
    Ok(())
}

/// As systemd starts it: `JOURNAL_STREAM` names the pipe that is its standard error.
#[test]
fn in_the_journal_a_line_has_its_priority_and_no_time() -> Result<()> {
    let scratch = Scratch::new()?;
    let rules = format!("listen = \"127.0.0.1:0\"\n{}", Relay::Copy.rule("builtin:echo"));
    let rules = scratch.write("rules.toml", rules)?;
    for is_journal in [true, false] {
        let stream = if is_journal { "$(stat -L -c %d:%i /dev/stderr)" } else { "1:1" };
        let script = format!("JOURNAL_STREAM={stream} exec \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(mux()?).arg("--rules").arg(&rules);
        command.args(["--relay", "copy", "--log-level", "info"]).env_remove("RUST_LOG");
        let mut process = Process::start(&mut command)?;
        process.wait_err("ready", |line| line.ends_with("ready").then_some(()))?;
        process.signal(Signal::HUP)?;
        process.wait_err("reloaded", |line| line.contains("reloaded: ").then_some(()))?;
        fs::write(&rules, "listen = 1\n")?;
        process.signal(Signal::HUP)?;
        process.wait_err("a failure", |line| line.contains("reload failed").then_some(()))?;
        process.signal(Signal::TERM)?;
        process.wait()?;
        fs::write(&rules, "listen = \"127.0.0.1:0\"\n[[rule]]\nupstream = \"builtin:echo\"\n")?;
        let lines = process.err();
        let has = |wanted: &str| lines.iter().any(|line| line.starts_with(wanted));
        if is_journal {
            let plain = lines.iter().find(|line| !line.starts_with('<'));
            ensure!(plain.is_none(), "{plain:?}");
            ensure!(has("<6>ready") && has("<3>SIGHUP: reload failed"), "{lines:#?}");
        } else {
            ensure!(
                !has("<") && lines.iter().any(|line| line.ends_with(" INFO ready")),
                "{lines:#?}"
            );
        }
    }
    Ok(())
}

/// `/status`, `mux status` and the kernel say the same, while the kernel relays.
#[test]
fn what_the_daemon_may_do_is_told_as_the_kernel_has_it() -> Result<()> {
    need!(Need::Root);
    let upstream = Upstream::tcp()?;
    let socket = AdminSocket::new()?;
    let rules = format!("{}{}", Relay::Sockmap.rule(&upstream.name()), socket.rules());
    let daemon = Starter::new(&rules).start()?;
    let (_client, _server) = daemon.flow(&upstream)?;
    eventually("a flow in the kernel", || {
        let status = socket.json("/status").ok()?;
        (status["flows"]["sockmap"] == 1).then_some(())
    })?;
    let status = socket.json("/status")?;
    let security = &status["security"];
    ensure!(security["user"] == "nobody" && security["no_new_privs"] == true, "{security}");
    ensure!(security["capabilities"].as_array().is_some_and(Vec::is_empty), "{security}");
    let seccomp = security["seccomp"].as_str().unwrap_or_default();
    ensure!(seccomp.ends_with(" system calls allowed"), "{security}");
    ensure!(security["landlock"].as_str().unwrap_or_default().starts_with("ABI "), "{security}");
    let proc = daemon.proc();
    for (field, wanted) in [("CapEff", "0000000000000000"), ("NoNewPrivs", "1"), ("Seccomp", "2")] {
        let values = proc.status_of_threads(field)?;
        ensure!(values.iter().all(|value| value == wanted), "{field}: {values:?}");
    }
    let said = socket.mux_ok(&["status"])?;
    let line = said.lines().find(|line| line.starts_with("security: ")).context(said.clone())?;
    let wanted = "security: user nobody; capabilities: none; no_new_privs: set; seccomp: ";
    ensure!(line.starts_with(wanted) && line.contains("; Landlock: ABI "), "{line}");
    println!("{line}");
    Ok(())
}

/// A terminal of its own (tmux), with `mux top` in it; ended with this.
struct Screen {
    tmux: PathBuf,
    _scratch: Scratch,
}

impl Screen {
    fn new(command: &str, (width, height): (u16, u16)) -> Result<Self> {
        let scratch = Scratch::new()?;
        let screen = Self { tmux: scratch.join("tmux"), _scratch: scratch };
        let size = ["-x".to_owned(), width.to_string(), "-y".to_owned(), height.to_string()];
        let mut start = screen.tmux(&["-f", "/dev/null", "new-session", "-d"]);
        mux_tests::run_ok(start.args(size).arg(command).env("LC_ALL", "C.UTF-8"))?;
        Ok(screen)
    }

    fn tmux(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-u").arg("-S").arg(&self.tmux).args(arguments).stdin(Stdio::null());
        command
    }

    fn text(&self) -> Result<String> {
        let text = mux_tests::run_ok(&mut self.tmux(&["capture-pane", "-p"]))?;
        Ok(text.lines().map(|line| format!("{}\n", line.trim_end())).collect())
    }

    fn press(&self, key: &str) -> Result<()> {
        mux_tests::run_ok(&mut self.tmux(&["send-keys", key])).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It has ended, if what was in it has.
        let _ = mux_tests::run(&mut self.tmux(&["kill-server"]));
    }
}

/// Bulk and conversations, until told to stop; `MUX_TESTS_BLESS=1` puts the screen into the
/// documentation.
#[test]
fn top_shows_a_load_while_it_is_there() -> Result<()> {
    need!(Need::Root);
    let (server, socket) = (Server::echo()?, AdminSocket::new()?);
    let rules = format!(
        "[[rule]]\nname = \"bulk\"\nmatch = {{ prefix = \"bulk\" }}\nupstream = \"builtin:discard\"\n\
         [[rule]]\nname = \"talk\"\nupstream = \"{}\"\n{}",
        server.name(),
        socket.rules()
    );
    let daemon = Daemon::start(&rules, &["--threads", "2"])?;
    let top = format!("{} top --socket {}", mux()?.display(), socket.path().display());
    let screen = Screen::new(&top, (120, 40))?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let goes_on = || !stop.load(std::sync::atomic::Ordering::Acquire);
    thread::scope(|scope| {
        let bulk = scope.spawn(|| -> Result<()> {
            let client = daemon.connect()?;
            client.send("bulk")?;
            while goes_on() {
                client.send(vec![0; 64 << 10])?;
            }
            client.finish()
        });
        let talk = scope.spawn(|| -> Result<()> {
            while goes_on() {
                let client = daemon.connect()?;
                (0..500).try_for_each(|_| echoes(&client))?;
                client.finish()?;
                client.expect_end()?;
            }
            Ok(())
        });
        let shows = eventually("rates of both rules, and lines that grow", || {
            let text = screen.text().ok()?;
            let line = |name: &str| text.lines().find(|line| line.starts_with(name));
            let is_moving = |name| line(name).is_some_and(|line| line.contains("iB/s"));
            let history = line("accepted ")?.chars().filter(|c| "▁▂▃▄▅▆▇█".contains(*c)).count();
            (is_moving("bulk ") && is_moving("talk ") && history >= 8).then_some(text)
        });
        // The other views have rates, too.
        let other = screen.press("Tab").and_then(|()| {
            eventually("rates of the upstreams", || {
                let text = screen.text().ok()?;
                let line = text.lines().find(|line| line.starts_with("builtin:discard "))?;
                line.contains("iB/s").then_some(())
            })?;
            screen.press("Tab")?;
            eventually("rates of the relays", || {
                let text = screen.text().ok()?;
                let line = text.lines().find(|line| line.starts_with("splice "))?;
                line.contains("iB/s").then_some(())
            })
        });
        stop.store(true, std::sync::atomic::Ordering::Release);
        join(bulk, "bulk")?;
        join(talk, "talk")?;
        let text = shows?;
        other?;
        println!("{text}");
        if std::env::var("MUX_TESTS_BLESS").is_ok_and(|value| value == "1") {
            // The directory's name is this run's.
            let text = text.replace(&socket.path().display().to_string(), "/run/mux/admin.sock");
            fs::write(repository().join("docs/internals/top.txt"), text)?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    screen.press("q")?;
    daemon.stop()?;
    Ok(())
}
