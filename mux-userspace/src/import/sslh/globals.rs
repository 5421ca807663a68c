//! The settings that stand outside of `listen` and `protocols`.

use super::{super::libconfig::Setting, Fields, Text};

/// A bit of sslh 2's `verbose-…`: to the log file.
const TO_LOGFILE: i64 = 4;

/// Those that have an equal.
#[derive(Debug)]
pub(in super::super) struct Globals {
    /// Seconds.
    pub(in super::super) timeout: Option<i64>,
    /// A protocol's name.
    pub(in super::super) on_timeout: Option<Text>,
    pub(in super::super) transparent: bool,
    pub(in super::super) user: Option<Text>,
    /// Whether and where connections are logged.
    pub(in super::super) access: Access,
    /// Remarks on the rest.
    pub(in super::super) notes: Vec<String>,
}

/// What sslh says of each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Access {
    /// To syslog or standard error.
    Default,
    File(Text),
    Off,
}

pub(super) fn globals(mut fields: Fields<'_, '_>) -> Globals {
    let timeout = fields.integer("timeout").map(|(seconds, _)| seconds);
    let on_timeout = fields.string("on_timeout");
    let user = fields.string("user");
    let transparent = fields.is("transparent");
    let access = access(&mut fields);
    without_equal(&mut fields);
    Globals { timeout, on_timeout, transparent, user, access, notes: fields.finish() }
}

/// `verbose`, `verbose-…`, `logfile`.
fn access(fields: &mut Fields<'_, '_>) -> Access {
    let connections = fields.take("verbose_connections");
    let level = |setting: &Setting| setting.value.kind.integer();
    let mut others = fields.take_all("verbose");
    // In sslh 2, `verbose` goes before all `verbose-…`.
    let overriding = others
        .iter()
        .find(|setting| setting.name == "verbose")
        .and_then(|setting| level(setting))
        .filter(|level| *level != 0);
    let wanted = overriding.or_else(|| connections.and_then(level));
    if overriding.is_some() {
        others.extend(connections);
    }
    if !others.is_empty() {
        fields.remark("sslh's `verbose…`: mux has one level for all its messages, `[log] level`");
    }
    let logfile = fields.take("logfile");
    let path = logfile.and_then(|setting| {
        Some(Text { text: setting.value.kind.text()?, place: setting.value.place })
    });
    match (wanted, path) {
        (Some(0), _) => Access::Off,
        (Some(level), Some(path)) if level & TO_LOGFILE != 0 => Access::File(path),
        _ => {
            if let Some(setting) = logfile {
                let remark = "connections are not logged there: `[log] access_file` would do that";
                fields.note(setting, remark);
            }
            Access::Default
        }
    }
}

/// Settings of which mux has no equal, and what to do about it.
fn without_equal(fields: &mut Fields<'_, '_>) {
    for (name, remark) in [
        ("pidfile", "mux writes none; the service manager knows its process"),
        ("chroot", "mux does not change its root; systemd's `RootDirectory=` does"),
        ("syslog_facility", "mux logs to standard error; systemd's `SyslogFacility=` passes it on"),
        ("udp_max_connections", "mux routes TCP, not UDP"),
        ("ech_conf_sink", "mux makes no keys for Encrypted Client Hello; the upstream does"),
        ("prefix", "a setting of sslh's own tests"),
    ] {
        if let Some(setting) = fields.take(name) {
            fields.note(setting, remark);
        }
    }
    for (name, remark) in [
        ("foreground", "mux always stays in the foreground; let a service manager start it"),
        ("numeric", "mux logs addresses, never names"),
    ] {
        if let Some((true, setting)) = fields.boolean(name) {
            fields.note(setting, remark);
        }
    }
    if let Some((true, setting)) = fields.boolean("inetd") {
        fields.warn(setting, "mux does not serve inetd; it listens by itself");
    }
    fields.take("version");
}
