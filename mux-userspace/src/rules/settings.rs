//! The sections of single values: `[timeouts]`, `[limits]`, `[log]`, `[admin]`, `[security]`, `[kernel]`.
//!
//! Each function reads one section; what is not there, or is wrong and recorded, keeps its
//! default.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use toml::{Spanned, de::DeValue};

use super::{
    address::parse_listen,
    config::{
        AccessFormat, AdminConfig, AdminSocket, Confinement, KeeperMode, KernelConfig, Limits,
        ListenAddress, LogConfig, PacketMode, SecurityConfig, SockmapMode, Timeouts,
    },
    diagnostic::Diagnostic,
    identity,
    table::{Problems, Table, Value, into_table},
    units::parse_duration,
    values::{choice, count, duration, integer, list, optional_duration, size, string},
};
use crate::limit::source::Rate;

/// What `send_buffer` can be: below, a single segment does not fit; above, the kernel's
/// own arithmetic (it doubles `SO_SNDBUF`, socket(7)) nears the end of an `int`.
const SEND_BUFFER: std::ops::RangeInclusive<u64> = 4096..=(1 << 30) - 1;
/// Most flows that the BPF maps are made for.
const MAX_FLOWS: u64 = 1 << 20;

const LEVELS: [(&str, &str); 6] = [
    ("off", "off"),
    ("error", "error"),
    ("warn", "warn"),
    ("info", "info"),
    ("debug", "debug"),
    ("trace", "trace"),
];
const ACCESS: [(&str, AccessFormat); 3] =
    [("json", AccessFormat::Json), ("text", AccessFormat::Text), ("off", AccessFormat::Off)];
const SOCKMAP: [(&str, SockmapMode); 3] =
    [("auto", SockmapMode::Auto), ("force", SockmapMode::Force), ("off", SockmapMode::Off)];
const PACKET: [(&str, PacketMode); 3] =
    [("auto", PacketMode::Auto), ("force", PacketMode::Force), ("off", PacketMode::Off)];
/// `IFNAMSIZ` (include/uapi/linux/if.h), less the end of the string.
const INTERFACE_NAME: usize = 15;
const CONFINEMENT: [(&str, Confinement); 2] =
    [("auto", Confinement::Auto), ("off", Confinement::Off)];
const KEEPER: [(&str, KeeperMode); 2] = [("auto", KeeperMode::Auto), ("off", KeeperMode::Off)];

/// Writes a value over a default.
fn set<T>(target: &mut T, value: Option<Spanned<T>>) {
    if let Some(value) = value {
        *target = value.into_inner();
    }
}

pub(super) fn timeouts(root: &mut Table<'_, '_>) -> Timeouts {
    let mut timeouts = Timeouts::default();
    if let Some(mut table) = root.table("timeouts", "[timeouts]") {
        set(&mut timeouts.idle, table.take("idle", optional_duration));
        set(&mut timeouts.half_closed, table.take("half_closed", optional_duration));
        set(&mut timeouts.lifetime, table.take("lifetime", optional_duration));
        set(&mut timeouts.drain, table.take("drain", duration));
        timeouts.tcp = identity::timers(&mut table);
        table.finish();
    }
    timeouts
}

pub(super) fn limits(root: &mut Table<'_, '_>) -> Limits {
    let mut limits = Limits::default();
    if let Some(mut table) = root.table("limits", "[limits]") {
        limits.max_connections = table.take("max_connections", count).map(Spanned::into_inner);
        limits.max_sniffing = table.take("max_sniffing", count).map(Spanned::into_inner);
        if let Some(mut table) = table.table("per_source", "`per_source`") {
            let connections = table.take("connections", count);
            let rate = table.take("rate", rate);
            limits.per_source.connections = connections.map(Spanned::into_inner);
            limits.per_source.rate = rate.map(Spanned::into_inner);
            table.finish();
        }
        table.finish();
    }
    limits
}

/// `"50/s"`, `"10/m"` or `"100/10s"`.
fn rate(value: Value<'_>) -> Result<Rate, Diagnostic> {
    let span = value.span();
    let text = string(value)?;
    parse_rate(&text).ok_or_else(|| {
        Diagnostic::new(span, format!("`{text}` is not a rate"))
            .hint("write a count and a time, as in \"50/s\", \"10/m\" or \"100/10s\"")
    })
}

fn parse_rate(text: &str) -> Option<Rate> {
    let (count, period) = text.split_once('/')?;
    let one = format!("1{period}");
    let period = parse_duration(if period.starts_with(|c: char| c.is_ascii_digit()) {
        period
    } else {
        &one
    })
    .ok()?;
    let count = count.parse().ok()?;
    (!period.is_zero()).then_some(Rate { count, period })
}

pub(super) fn log(root: &mut Table<'_, '_>) -> LogConfig {
    let mut log = LogConfig::default();
    let Some(mut table) = root.table("log", "[log]") else { return log };
    if let Some(level) = table.take("level", |value| choice(value, &LEVELS)) {
        log.level = level.into_inner().into();
    }
    let problems = table.problems();
    if let Some(access) = table.value("access") {
        self::access(access, &mut log, problems);
    }
    if let Some(file) = table.take("access_file", path) {
        if log.access_file.is_some() {
            problems.add(
                Diagnostic::new(file.span(), "the access log's file is given twice")
                    .hint("leave out `file` in `access`, or `access_file`"),
            );
        }
        log.access_file = Some(file.into_inner());
    }
    table.finish();
    log
}

/// `access = "json"` or `access = { format = "json", file = "/var/log/mux.log" }`.
fn access(value: Value<'_>, log: &mut LogConfig, problems: &Problems) {
    if !matches!(value.get_ref(), DeValue::Table(_)) {
        if let Some(format) = problems.keep(choice(value, &ACCESS)) {
            log.access = format;
        }
        return;
    }
    let Some(mut table) = problems.keep(into_table(value, "`access`", problems)) else { return };
    set(&mut log.access, table.take("format", |value| choice(value, &ACCESS)));
    log.access_file = table.take("file", path).map(Spanned::into_inner);
    table.finish();
}

/// A path; relative ones are taken from the daemon's working directory.
fn path(value: Value<'_>) -> Result<PathBuf, Diagnostic> {
    let span = value.span();
    let text = string(value)?;
    if text.is_empty() || text.contains('\0') {
        return Err(Diagnostic::new(span, "this cannot be a path"));
    }
    Ok(text.into())
}

pub(super) fn admin(root: &mut Table<'_, '_>) -> AdminConfig {
    let Some(mut table) = root.table("admin", "[admin]") else { return AdminConfig::default() };
    let problems = table.problems();
    let socket = table.take("socket", socket_path);
    let mode = table.take("mode", mode);
    let group = table.take("group", user);
    let metrics = table.take("metrics", tcp_address);
    table.finish();
    if socket.is_none()
        && let Some(span) = mode.as_ref().map(Spanned::span).or(group.as_ref().map(Spanned::span))
    {
        let diagnostic =
            Diagnostic::new(span, "there is no socket whose permissions this could be")
                .hint(format!("add `socket = \"{}\"`", AdminSocket::PATH));
        problems.add(diagnostic);
    }
    AdminConfig {
        socket: socket.map(|path| AdminSocket {
            path: path.into_inner(),
            mode: mode.map_or(AdminSocket::MODE, Spanned::into_inner),
            group: group.map(Spanned::into_inner),
        }),
        metrics: metrics.map(Spanned::into_inner),
    }
}

/// A Unix socket's file: absolute, since the commands that connect to it are run anywhere.
fn socket_path(value: Value<'_>) -> Result<PathBuf, Diagnostic> {
    let span = value.span();
    let text = string(value)?;
    match parse_listen(&text) {
        Ok(ListenAddress::Unix(path)) => Ok(path),
        Ok(ListenAddress::Tcp(_) | ListenAddress::Systemd(_)) | Err(_) => {
            Err(Diagnostic::new(span, format!("`{text}` is not a Unix socket's path"))
                .hint("write an absolute path; `metrics` is for a TCP address"))
        }
    }
}

/// `"0660"`: file permissions as chmod(1) takes them.
fn mode(value: Value<'_>) -> Result<u32, Diagnostic> {
    let span = value.span();
    let text = string(value)?;
    let digits = (3..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    match u32::from_str_radix(&text, 8) {
        Ok(mode) if digits && mode <= 0o777 => Ok(mode),
        Ok(_) | Err(_) => {
            Err(Diagnostic::new(span, format!("`{text}` is not a file's permissions"))
                .hint("write them in octal, as in \"0660\": the group may connect, too"))
        }
    }
}

/// `"127.0.0.1:9090"`.
fn tcp_address(value: Value<'_>) -> Result<SocketAddr, Diagnostic> {
    let span = value.span();
    let text = string(value)?;
    match parse_listen(&text) {
        Ok(ListenAddress::Tcp(address)) => Ok(address),
        Ok(ListenAddress::Unix(_) | ListenAddress::Systemd(_)) | Err(_) => {
            Err(Diagnostic::new(span, format!("`{text}` is not a TCP address"))
                .hint("write an IP address and a port, such as \"127.0.0.1:9090\""))
        }
    }
}

pub(super) fn security(root: &mut Table<'_, '_>) -> SecurityConfig {
    let mut security = SecurityConfig::default();
    if let Some(mut table) = root.table("security", "[security]") {
        if let Some(user) = table.take("user", user) {
            security.user = user.into_inner().into();
        }
        set(&mut security.landlock, table.take("landlock", |value| choice(value, &CONFINEMENT)));
        set(&mut security.seccomp, table.take("seccomp", |value| choice(value, &CONFINEMENT)));
        set(&mut security.keeper, table.take("keeper", |value| choice(value, &KEEPER)));
        table.finish();
    }
    security
}

/// A user's name. Whether there is such a user is not a matter of the file.
fn user(value: Value<'_>) -> Result<String, Diagnostic> {
    let span = value.span();
    let user = string(value)?;
    if user.is_empty() || user.contains(|c: char| c == ':' || c.is_whitespace() || c.is_control()) {
        return Err(Diagnostic::new(span, "this cannot be a user's name")
            .hint("write `\"nobody\"`, or `\"root\"` to stay root"));
    }
    Ok(user)
}

pub(super) fn kernel(root: &mut Table<'_, '_>) -> KernelConfig {
    let mut kernel = KernelConfig::default();
    let Some(mut table) = root.table("kernel", "[kernel]") else { return kernel };
    let bytes = |value: Value<'_>| size(value, SEND_BUFFER).map(saturated);
    let send_buffer = table.take("send_buffer", bytes);
    let backlog_limit = table.take("backlog_limit", bytes);
    set(&mut kernel.sockmap, table.take("sockmap", |value| choice(value, &SOCKMAP)));
    set(&mut kernel.packet, table.take("packet", |value| choice(value, &PACKET)));
    kernel.interfaces = table.take("interfaces", interfaces).map(Spanned::into_inner);
    set(
        &mut kernel.flows,
        table.take("flows", |value| integer(value, 1..=MAX_FLOWS).map(saturated)),
    );

    let span = backlog_limit.as_ref().or(send_buffer.as_ref()).map(Spanned::span);
    set(&mut kernel.send_buffer, send_buffer);
    set(&mut kernel.backlog_limit, backlog_limit);
    if let Some(span) = span
        && kernel.backlog_limit > kernel.send_buffer / 2
    {
        table.problems().add(
            Diagnostic::new(span, "`backlog_limit` is more than half of `send_buffer`")
                .label(format!(
                    "with these, {} of {} bytes",
                    kernel.backlog_limit, kernel.send_buffer
                ))
                .hint(format!(
                    "set `backlog_limit` to at most {}, or raise `send_buffer`",
                    kernel.send_buffer / 2
                )),
        );
    }
    table.finish();
    kernel
}

/// `["eth0", "lo"]`. Whether there are such interfaces is not a matter of the file.
fn interfaces(value: Value<'_>) -> Result<Vec<Arc<str>>, Diagnostic> {
    let span = value.span();
    let mut names: Vec<Arc<str>> = Vec::new();
    for value in list(value)? {
        let span = value.span();
        let name = string(value)?;
        if !is_interface(&name) {
            return Err(Diagnostic::new(span, "this cannot be an interface's name")
                .hint("`ip -brief link` prints their names, such as \"eth0\""));
        }
        if names.iter().any(|known| **known == *name) {
            return Err(Diagnostic::new(span, format!("`{name}` stands twice"))
                .hint("leave one of them out"));
        }
        names.push(name.into());
    }
    if names.is_empty() {
        return Err(Diagnostic::new(span, "without an interface no packet is ever seen")
            .hint("name some, or leave `interfaces` out, or set `packet = \"off\"`"));
    }
    Ok(names)
}

/// As `dev_valid_name` (net/core/dev.c) has it.
fn is_interface(name: &str) -> bool {
    let is_odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0';
    !name.is_empty()
        && name.len() <= INTERFACE_NAME
        && !matches!(name, "." | "..")
        && !name.contains(is_odd)
}

/// For numbers whose range has been checked to fit.
fn saturated(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
