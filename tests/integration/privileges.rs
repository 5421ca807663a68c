//! What the daemon may do, and that it keeps none of it.

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Access, Daemon, NOBODY, Need, Relay, Scratch, Starter, Upstream, eventually_true, need,
    procfs::Proc,
};
use rustix::process::{Pid, Signal, kill_process};

const NOT_PERMITTED: i32 = 77;
/// Enough to load and attach the program.
const ENOUGH: [&str; 3] = ["bpf", "net_admin", "perfmon"];

/// Capability sets, user, `no_new_privs`: as they must be once it serves.
fn has_nothing(daemon: &Daemon, user: u32) -> Result<()> {
    let proc = daemon.proc();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let value = proc.status(set)?;
        ensure!(u64::from_str_radix(&value, 16)? == 0, "{set}: {value}");
    }
    for ids in ["Uid", "Gid"] {
        let value = proc.status(ids)?;
        ensure!(value.split_whitespace().all(|id| id == user.to_string()), "{ids}: {value}");
    }
    ensure!(proc.status("NoNewPrivs")? == "1", "no_new_privs is not set");
    Ok(())
}

/// One flow; what the access log says of it.
fn flow(daemon: &Daemon, upstream: &Upstream) -> Result<Access> {
    let client = daemon.connect()?;
    let server = upstream.accept()?;
    client.send("to the server")?;
    server.expect("to the server")?;
    server.send("and back")?;
    client.expect("and back")?;
    client.finish()?;
    server.expect_end()?;
    drop(server);
    client.expect_end()?;
    daemon.access_of(client.local()?)
}

#[test]
fn root_becomes_nobody_and_the_kernel_relay_still_works() -> Result<()> {
    need!(Need::Root);
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::start(&Relay::Sockmap.rule(&upstream.name()), &[])?;
    has_nothing(&daemon, NOBODY)?;
    ensure!(daemon.proc().status("Groups")?.is_empty(), "supplementary groups are left");
    let access = flow(&daemon, &upstream)?;
    ensure!(access.relay() == "sockmap", "{access:?}");
    daemon.stop()?;
    Ok(())
}

/// Capabilities that a start may need, by include/uapi/linux/capability.h: chown (0) to fsetid (4),
/// kill (5) to setpcap (8), net_bind_service (10), net_admin (12), net_raw (13), sys_resource (24),
/// perfmon (38), bpf (39).
const START: u64 = 0x1ff | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 24 | 1 << 38 | 1 << 39;

/// It removes the files of sockets from directories that are not the daemon's user's, and starts a
/// successor, which needs whatever the first one was started with.
#[test]
fn the_keeper_keeps_what_mux_was_started_with() -> Result<()> {
    need!(Need::Root);
    let scratch = Scratch::new()?;
    let path = scratch.join("mux.sock");
    let rules = format!("listen = \"{}\"\n{}", path.display(), Relay::Copy.rule("builtin:echo"));
    let daemon = Daemon::user_space(&rules)?;
    let children = daemon.proc().children()?;
    let [keeper] = children[..] else { anyhow::bail!("children: {children:?}") };
    let (keeper, ours) = (Proc(keeper), Proc(std::process::id()));
    ensure!(keeper.status("Uid")? == ours.status("Uid")?);
    // What a start of mux needs, and no more: neither the keeper nor a successor can get it.
    // It confines itself while the daemon becomes ready; the filter is the last of it.
    eventually_true("the keeper is confined", || {
        keeper.status("Seccomp").is_ok_and(|mode| mode == "2")
    })?;
    ensure!(keeper.status("NoNewPrivs")? == "1");
    let ours = u64::from_str_radix(&ours.status("CapEff")?, 16)?;
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        let has = u64::from_str_radix(&keeper.status(set)?, 16)?;
        ensure!(has == ours & START, "{set}: {has:#x}");
    }
    daemon.stop()?;
    ensure!(!path.exists(), "the socket's file is left");
    Ok(())
}

#[test]
fn without_a_keeper_no_process_keeps_anything_and_there_is_no_upgrade() -> Result<()> {
    need!(Need::Root);
    let rules = format!("{}[security]\nkeeper = \"off\"\n", Relay::Copy.rule("builtin:echo"));
    let daemon = Daemon::user_space(&rules)?;
    ensure!(daemon.proc().children()?.is_empty(), "it has a child");
    daemon.signal(Signal::USR2)?;
    let said = daemon.wait_log("upgrade failed, nothing has changed: ")?;
    ensure!(said.contains("[security] keeper = \"off\""), "{said}");
    let client = daemon.connect()?;
    client.send("echo?")?;
    client.expect("echo?")?;
    client.finish()?;
    client.expect_end()?;
    daemon.stop()?;
    Ok(())
}

#[test]
fn root_may_stay_root_but_without_capabilities() -> Result<()> {
    need!(Need::Root);
    let upstream = Upstream::tcp()?;
    let rules = format!("{}[security]\nuser = \"root\"\n", Relay::Sockmap.rule(&upstream.name()));
    let daemon = Daemon::start(&rules, &[])?;
    has_nothing(&daemon, 0)?;
    let access = flow(&daemon, &upstream)?;
    ensure!(access.relay() == "sockmap", "{access:?}");
    daemon.stop()?;
    Ok(())
}

#[test]
fn three_capabilities_are_enough_for_the_kernel_relay() -> Result<()> {
    need!(Need::Root);
    let upstream = Upstream::tcp()?;
    let rules = Relay::Sockmap.rule(&upstream.name());
    let daemon = Starter::new(&rules).nobody(&ENOUGH).start()?;
    has_nothing(&daemon, NOBODY)?;
    let access = flow(&daemon, &upstream)?;
    ensure!(access.relay() == "sockmap", "{access:?}");
    daemon.stop()?;
    Ok(())
}

/// Nobody can get more by executing a program under `no_new_privs`, which the keeper has set. What it
/// has of its own program file's capabilities, a successor has again.
#[test]
fn capabilities_of_the_program_file_are_enough_and_are_a_successors_too() -> Result<()> {
    need!(Need::Root);
    let upstream = Upstream::tcp()?;
    let rules = Relay::Sockmap.rule(&upstream.name());
    let daemon = Starter::new(&rules).file_capabilities(&ENOUGH).start()?;
    has_nothing(&daemon, NOBODY)?;
    let access = flow(&daemon, &upstream)?;
    ensure!(access.relay() == "sockmap", "{access:?}");
    daemon.signal(Signal::USR2)?;
    let new = daemon.successor(0)?;
    let access = flow(&daemon, &upstream)?;
    ensure!(access.relay() == "sockmap", "{access:?}");
    let new = Pid::from_raw(new.cast_signed()).context("a process id")?;
    kill_process(new, Signal::TERM)?;
    daemon.wait()?;
    Ok(())
}

#[test]
fn without_privileges_it_runs_in_user_space_and_says_once_why() -> Result<()> {
    need!(Need::Root);
    let upstream = Upstream::tcp()?;
    let rules = Relay::Sockmap.rule(&upstream.name());
    let daemon = Starter::new(&rules).nobody(&[]).start()?;
    has_nothing(&daemon, NOBODY)?;
    for _ in 0..3 {
        let access = flow(&daemon, &upstream)?;
        ensure!(access.relay() == "copy" && access.note().contains("CAP_BPF"), "{access:?}");
    }
    let log = daemon.stop()?.log;
    let said: Vec<_> = log.iter().filter(|line| line.contains("relay")).collect();
    ensure!(said.len() == 1, "{said:#?}");
    for part in [" WARN ", "user space", "CAP_BPF", "CAP_NET_ADMIN", "setcap"] {
        ensure!(said[0].contains(part), "no {part:?} in {}", said[0]);
    }
    Ok(())
}

/// With `CAP_BPF` and `CAP_NET_ADMIN` alone, as `sk_skb` programs needed them before they read the
/// sockets that they redirect to: it serves, in user space, and each flow says what is missing.
#[test]
fn two_capabilities_serve_in_user_space() -> Result<()> {
    need!(Need::Root);
    let upstream = Upstream::tcp()?;
    let rules = Relay::Sockmap.rule(&upstream.name());
    let daemon = Starter::new(&rules).nobody(&["bpf", "net_admin"]).start()?;
    has_nothing(&daemon, NOBODY)?;
    let access = flow(&daemon, &upstream)?;
    ensure!(access.relay() == "copy" && access.note().contains("CAP_PERFMON"), "{access:?}");
    daemon.stop()?;
    Ok(())
}

/// A kernel without BTF: the file that describes it is empty.
#[test]
fn without_btf_it_runs_in_user_space_and_says_once_why() -> Result<()> {
    need!(Need::Root);
    let upstream = Upstream::tcp()?;
    let rules = Relay::Sockmap.rule(&upstream.name());
    let daemon = Starter::new(&rules).without_btf().start()?;
    for _ in 0..3 {
        let access = flow(&daemon, &upstream)?;
        ensure!(access.relay() == "copy" && access.note().contains("BTF"), "{access:?}");
    }
    let log = daemon.stop()?.log;
    let said: Vec<_> = log.iter().filter(|line| line.contains("relay")).collect();
    ensure!(said.len() == 1 && said[0].contains("user space"), "{said:#?}");
    ensure!(said[0].contains("/sys/kernel/btf/vmlinux"), "{said:#?}");
    Ok(())
}

/// Each capability that is missing is named, and only those.
#[test]
fn the_missing_capability_is_named() -> Result<()> {
    need!(Need::Root);
    for missing in ENOUGH {
        let there: Vec<&str> = ENOUGH.into_iter().filter(|name| *name != missing).collect();
        let rules = Relay::Sockmap.rule("builtin:echo");
        let daemon = Starter::new(&rules).nobody(&there).start()?;
        let line = daemon.wait_log("relay: user space")?;
        let (_, text) = line.split_once("missing: ").context(line.clone())?;
        let named = text.split(" (").next().unwrap_or_default();
        ensure!(named == format!("CAP_{}", missing.to_uppercase()), "{line}");
        daemon.stop()?;
    }
    Ok(())
}

#[test]
fn relay_copy_needs_no_privileges_and_warns_of_nothing() -> Result<()> {
    need!(Need::Root);
    let upstream = Upstream::tcp()?;
    let rules = Relay::Sockmap.rule(&upstream.name());
    let daemon = Starter::new(&rules).nobody(&[]).arguments(&["--relay", "copy"]).start()?;
    has_nothing(&daemon, NOBODY)?;
    let access = flow(&daemon, &upstream)?;
    ensure!(access.relay() == "copy" && access.note().contains("copy"), "{access:?}");
    let log = daemon.stop()?.log;
    ensure!(!log.iter().any(|line| line.contains(" WARN ")), "{log:#?}");
    Ok(())
}

#[test]
fn relay_sockmap_without_privileges_is_fatal() -> Result<()> {
    need!(Need::Root);
    let rules = Relay::Sockmap.rule("builtin:echo");
    let output = Starter::new(&rules).nobody(&[]).arguments(&["--relay", "sockmap"]).fail()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(NOT_PERMITTED), "{}: {text}", output.status);
    for part in ["sockmap", "CAP_BPF", "hint:", "mux doctor"] {
        ensure!(text.contains(part), "no {part:?} in:\n{text}");
    }
    Ok(())
}

#[test]
fn the_kill_switch_keeps_flows_out_of_the_kernel() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let rules = format!("{}[kernel]\nsockmap = \"off\"\n", Relay::Sockmap.rule(&upstream.name()));
    let daemon = Daemon::start(&rules, &[])?;
    let access = flow(&daemon, &upstream)?;
    ensure!(access.relay() == "copy" && access.note().contains("sockmap = \"off\""), "{access:?}");
    daemon.stop()?;
    Ok(())
}
