//! What sslh makes of its configuration: libconfig's values → sslh's settings, of versions 1.12
//! to 2.2 and what came after it until 2026.
//!
//! Knows nothing of mux but what to say where mux has no equal.

mod fields;
mod globals;
mod listen;
mod protocol;

use self::fields::Fields;
pub(super) use self::{
    globals::{Access, Globals},
    listen::Listen,
    protocol::{Pattern, Probe, Protocol},
};
use super::{
    libconfig::{Kind, Setting, Settings},
    log::Log,
    source::{Problem, Span},
};

/// A whole configuration.
#[derive(Debug)]
pub(super) struct Sslh {
    pub(super) globals: Globals,
    pub(super) listen: Vec<Listen>,
    pub(super) protocols: Vec<Protocol>,
}

/// A string and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) place: Span,
}

/// Reads a file's settings; `start` is where the file begins.
pub(super) fn read(settings: &Settings, start: Span, log: &Log) -> Sslh {
    let mut fields = Fields::new(settings, start, log);
    let listen = groups(&mut fields, "listen", log, r#"{ host: "0.0.0.0"; port: "443"; }"#);
    let example = r#"{ name: "ssh"; host: "localhost"; port: "22"; }"#;
    let protocols = groups(&mut fields, "protocols", log, example);
    Sslh {
        listen: listen.into_iter().filter_map(listen::listen).collect(),
        protocols: protocols.into_iter().filter_map(protocol::protocol).collect(),
        globals: globals::globals(fields),
    }
}

/// The groups of a list that has to be there and not to be empty.
fn groups<'t, 'l>(
    fields: &mut Fields<'t, 'l>,
    name: &'static str,
    log: &'l Log,
    example: &str,
) -> Vec<Fields<'t, 'l>> {
    let hint = format!("write `{name}: ( {example} );`");
    let Some(Setting { place, value, .. }) = fields.take(name) else {
        let message = format!("this configuration has no `{name}`");
        log.problem(Problem::new(fields.place(), message).hint(hint));
        return Vec::new();
    };
    let (Kind::List(members) | Kind::Array(members)) = &value.kind else {
        let message = format!("`{name}` is a list, and this is {}", value.kind.name());
        log.problem(Problem::new(value.place, message).hint(hint));
        return Vec::new();
    };
    if members.is_empty() {
        let message = format!("`{name}` is empty");
        log.problem(Problem::new(*place, message).hint(&*hint));
    }
    members
        .iter()
        .filter_map(|member| match &member.kind {
            Kind::Group(group) => Some(Fields::new(group, member.place, log)),
            other => {
                let message = format!("`{name}` is a list of groups, and this is {}", other.name());
                log.problem(Problem::new(member.place, message).hint(&*hint));
                None
            }
        })
        .collect()
}
