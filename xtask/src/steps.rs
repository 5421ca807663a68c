//! The steps of `cargo xtask test`, one function each.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt, charts as packaged,
    daemon::{self, Object, Profile},
    deb, ebpf as object, room, sh,
    test::{Context, Outcome},
    torture as tortured, vm as machines,
};

/// Programs that the integration tests start, and the Debian package each comes in.
pub(crate) const PROGRAMS: [(&str, &str); 27] = [
    ("bpftool", "bpftool"),
    ("chromium", "chromium"),
    ("curl", "curl"),
    ("haproxy", "haproxy"),
    ("ip", "iproute2"),
    ("logrotate", "logrotate"),
    ("mosquitto", "mosquitto"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("mysql", "mariadb-client"),
    ("nc", "netcat-openbsd"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("openssl", "openssl"),
    ("pgrep", "procps"),
    ("promtool", "prometheus"),
    ("psql", "postgresql-client"),
    ("redis-cli", "redis-tools"),
    ("redis-server", "redis-server"),
    ("script", "bsdutils"),
    ("setcap", "libcap2-bin"),
    ("ssh", "openssh-client"),
    ("sshd", "openssh-server"),
    ("sslh", "sslh"),
    ("strace", "strace"),
    ("systemd-analyze", "systemd"),
    ("tmux", "tmux"),
    ("wrk", "wrk"),
];

/// Libraries that unit tests link with and modules that those programs load, by a file of each, and
/// the Debian package it comes in.
pub(crate) const LIBRARIES: [(&str, &str); 3] = [
    ("/usr/include/libconfig.h", "libconfig-dev"),
    ("/usr/lib/nginx/modules/ngx_stream_module.so", "libnginx-mod-stream"),
    (
        "/usr/lib/python3/dist-packages/prometheus_client/openmetrics/parser.py",
        "python3-prometheus-client",
    ),
];

/// The version of cargo-deny that `deny.toml` was written for.
const CARGO_DENY: &str = "0.20.2";

/// The packages of those [`PROGRAMS`] and [`LIBRARIES`] that are not here. By program, not by package, because
/// other distributions cut their packages differently.
pub(crate) fn missing_packages() -> Vec<&'static str> {
    let programs = PROGRAMS.iter().filter(|(program, _)| sh::find(program).is_none());
    let libraries = LIBRARIES.iter().filter(|(file, _)| !Path::new(file).exists());
    programs.chain(libraries).map(|(_, package)| *package).collect()
}

pub(crate) fn packages(_: &mut Context) -> Result<Outcome> {
    apt::install(&missing_packages())?;
    // An installed package may still have lost its program, or keep it where nobody looks.
    let still = missing_packages();
    if !still.is_empty() {
        bail!("installed, but what they bring cannot be found: {}", still.join(" "));
    }
    Ok(Outcome::Passed)
}

pub(crate) fn fmt(_: &mut Context) -> Result<Outcome> {
    passed(sh::cargo().args(["fmt", "--all", "--check"]))
}

pub(crate) fn clippy(_: &mut Context) -> Result<Outcome> {
    passed(sh::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

pub(crate) fn ebpf(_: &mut Context) -> Result<Outcome> {
    object::check(&object::select(true)?)?;
    Ok(Outcome::Passed)
}

pub(crate) fn daemon(context: &mut Context) -> Result<Outcome> {
    context.daemon = Some(daemon::build(Profile::Release, Object::Best)?);
    Ok(Outcome::Passed)
}

pub(crate) fn unit(_: &mut Context) -> Result<Outcome> {
    const TESTS: [&str; 5] = ["test", "--workspace", "--exclude", "mux-tests", "--no-fail-fast"];
    sh::tests(without_skips(sh::cargo().args(TESTS)))?;
    room::make();
    Ok(Outcome::Passed)
}

/// As root nothing that a test needs is missing, so none may skip itself. Others are told what was
/// skipped, test by test.
fn without_skips(command: &mut Command) -> &mut Command {
    if rustix::process::geteuid().is_root() && sh::find("apt-get").is_some() {
        command.env("MUX_TESTS_NO_SKIP", "1");
    }
    command
}

/// In release too: the tests move and compare hundreds of MiB on the cores that the daemon needs.
pub(crate) fn integration(context: &mut Context) -> Result<Outcome> {
    let mux = context.daemon.as_ref().context("not run: the daemon was not built")?;
    sh::tests(without_skips(
        sh::cargo()
            .args(["test", "--release", "--package", "mux-tests", "--no-fail-fast", "--"])
            .args(&context.arguments)
            .env("MUX_BIN", mux),
    ))?;
    Ok(Outcome::Passed)
}

pub(crate) fn torture(context: &mut Context) -> Result<Outcome> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Outcome::Skipped("network namespaces and the kernel relay need root".into()));
    }
    let mux = context.daemon.as_ref().context("not run: the daemon was not built")?;
    tortured::small(mux)?;
    Ok(Outcome::Passed)
}

pub(crate) fn vm(context: &mut Context) -> Result<Outcome> {
    if let Some(hindrance) = machines::hindrance() {
        return Ok(Outcome::Skipped(hindrance));
    }
    let mux = context.daemon.as_ref().context("not run: the daemon was not built")?;
    let missing = machines::quick(mux)?;
    Ok(match missing[..] {
        [] => Outcome::Passed,
        [..] => Outcome::Skipped(format!("{}, not to be had; others passed", missing.join(", "))),
    })
}

pub(crate) fn package(_: &mut Context) -> Result<Outcome> {
    if sh::find("dpkg").is_none() || !rustix::process::geteuid().is_root() {
        return Ok(Outcome::Skipped("trying a Debian package needs dpkg and root".into()));
    }
    deb::build_and_test()?;
    Ok(Outcome::Passed)
}

pub(crate) fn charts(context: &mut Context) -> Result<Outcome> {
    let mux = context.daemon.as_ref().context("not run: the daemon was not built")?;
    Ok(packaged::check(mux)?.map_or(Outcome::Passed, Outcome::Skipped))
}

pub(crate) fn doc(_: &mut Context) -> Result<Outcome> {
    passed(
        sh::cargo()
            .args(["doc", "--workspace", "--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// Not `advisories`: that fetches a database, and a new entry in it would fail an old commit.
pub(crate) fn deny(_: &mut Context) -> Result<Outcome> {
    if sh::find("cargo-deny").is_none() {
        sh::status(format!("installing cargo-deny {CARGO_DENY}"));
        sh::run(sh::cargo().args(["install", "cargo-deny", "--locked", "--version", CARGO_DENY]))?;
    }
    passed(sh::cargo().args(["deny", "check", "licenses", "bans", "sources"]))
}

fn passed(command: &mut Command) -> Result<Outcome> {
    sh::run(command)?;
    Ok(Outcome::Passed)
}
