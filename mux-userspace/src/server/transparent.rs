//! `source = "transparent"`: whether this process may take clients' addresses, and whether what
//! upstreams answer to them finds its way back here.

use std::{fs, io, process::Command};

use serde_json::Value;

use super::{Check, ServeError};
use crate::{
    rules::config::{Address, Config, Source},
    upstream::source::try_transparent,
};

/// Fails where an upstream is to see clients' addresses and this process may not take them: a
/// connection from mux's own could be taken for one that is trusted.
pub(super) fn permitted(config: &Config) -> Result<(), ServeError> {
    let Some(upstream) = config.transparent().next() else { return Ok(()) };
    try_transparent()
        .map_err(|source| ServeError::Transparent { upstream: upstream.to_owned(), source })
}

/// What `mux doctor` looks at; nothing without such an upstream.
pub(crate) fn checks(config: &Config) -> Vec<Check> {
    if config.transparent().next().is_none() {
        return Vec::new();
    }
    let mut checks = vec![permission()];
    for family in [Family::V4, Family::V6] {
        let needed = Needed::of(config, family);
        if needed.remote || needed.loopback {
            checks.push(reply_route(family, needed, &ip_json));
        }
    }
    checks.push(reverse_path_filter());
    checks
}

fn permission() -> Check {
    const NAME: &str = "transparent source";
    match try_transparent() {
        Ok(()) => Check::ok(NAME, "permitted"),
        Err(error) => Check::problem_with(
            NAME,
            format!("IP_TRANSPARENT: {error}"),
            "start as root, or with CAP_NET_RAW or CAP_NET_ADMIN",
        ),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const fn check(self) -> &'static str {
        match self {
            Self::V4 => "reply route, IPv4",
            Self::V6 => "reply route, IPv6",
        }
    }

    /// The option of ip(8).
    const fn option(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }

    const fn loopback(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.0/8",
            Self::V6 => "::1",
        }
    }
}

/// Where the transparent upstreams' endpoints are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Needed {
    remote: bool,
    loopback: bool,
}

impl Needed {
    /// A name may have addresses of either family; that it has IPv4 ones is likely enough to look.
    fn of(config: &Config, family: Family) -> Self {
        let transparent =
            config.upstreams.iter().filter(|up| up.source == Some(Source::Transparent));
        let mut needed = Self::default();
        for endpoint in transparent.flat_map(|upstream| &upstream.endpoints) {
            match &endpoint.address {
                Address::Ip(ip) if ip.is_ipv4() == (family == Family::V4) => {
                    needed.loopback |= ip.ip().is_loopback();
                    needed.remote |= !ip.ip().is_loopback();
                }
                Address::Name { .. } => needed.remote |= family == Family::V4,
                Address::Ip(_) | Address::Unix(_) | Address::Builtin(_) => {}
            }
        }
        needed
    }
}

/// Looks for a rule that leads to a table in which every address is this machine's own.
fn reply_route(
    family: Family,
    needed: Needed,
    ask: &dyn Fn(Family, &[&str]) -> io::Result<Value>,
) -> Check {
    let name = family.check();
    let found = match find_routes(family, ask) {
        Ok(found) => found,
        Err(error) => {
            let found = format!("cannot be looked at: ip(8): {error}");
            return Check::warning(name, found, remedy(family, needed));
        }
    };
    if found.is_empty() {
        let found = "no rule leads to a table with `local default`: replies go to the clients";
        return Check::problem_with(name, found, remedy(family, needed));
    }
    Check::ok(name, found.join("; "))
}

/// The rules, in words.
fn find_routes(
    family: Family,
    ask: &dyn Fn(Family, &[&str]) -> io::Result<Value>,
) -> io::Result<Vec<String>> {
    let rules = ask(family, &["rule", "show"])?;
    let mut found = Vec::new();
    for rule in rules.as_array().into_iter().flatten() {
        let text = |key: &str| rule.get(key).and_then(Value::as_str);
        let Some(table) = text("table").filter(|table| *table != "local") else { continue };
        let routes = ask(family, &["route", "show", "table", table, "type", "local"])?;
        let is_default =
            |route: &Value| route.get("dst").and_then(Value::as_str) == Some("default");
        if routes.as_array().is_some_and(|routes| routes.iter().any(is_default)) {
            let selectors = [("fwmark", "fwmark"), ("iif", "iif"), ("src", "from")];
            let words = selectors.iter().filter_map(|(key, word)| {
                text(key).filter(|value| *value != "all").map(|value| format!("{word} {value} "))
            });
            found.push(format!("{}lookup {table}", words.collect::<String>()));
        }
    }
    Ok(found)
}

/// What to type.
fn remedy(family: Family, needed: Needed) -> String {
    let (option, loopback) = (family.option(), family.loopback());
    let mut commands = Vec::new();
    if needed.remote {
        commands.push(format!("ip {option} rule add iif DEVICE lookup 100"));
    }
    if needed.loopback {
        commands.push(format!("ip {option} rule add from {loopback} iif lo lookup 100"));
    }
    commands.push(format!("ip {option} route add local default dev lo table 100"));
    let mut text = commands.join("; ");
    if needed.remote {
        text.push_str(
            " (DEVICE leads to the upstreams only; otherwise mark replies, see the guide)",
        );
    }
    text
}

fn ip_json(family: Family, arguments: &[&str]) -> io::Result<Value> {
    let output = Command::new("ip").args(["-json", family.option()]).args(arguments).output()?;
    if !output.status.success() {
        // Of a table that does not exist: it has no route.
        return Ok(Value::Null);
    }
    if output.stdout.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&output.stdout).map_err(Into::into)
}

fn reverse_path_filter() -> Check {
    const NAME: &str = "rp_filter";
    let strict = fs::read_dir("/proc/sys/net/ipv4/conf")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            fs::read_to_string(entry.path().join("rp_filter")).is_ok_and(|text| text.trim() == "1")
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect::<Vec<_>>();
    if strict.is_empty() {
        Check::ok(NAME, "not strict")
    } else {
        Check::warning(
            NAME,
            format!(
                "strict on {}: an upstream's replies must come in where it is routed to",
                strict.join(", ")
            ),
            "sysctl -w net.ipv4.conf.all.rp_filter=2, if they come in elsewhere",
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::server::Status;

    fn config(upstream: &str) -> Config {
        let text = format!(
            "listen = '127.0.0.1:0'\n[[rule]]\nupstream = 'web'\n\
             [[upstream]]\nname = 'web'\nsource = 'transparent'\nendpoints = {upstream}\n"
        );
        crate::rules::parse("x", &text).expect("valid")
    }

    #[test]
    fn what_is_needed_is_what_the_endpoints_need() {
        let needed = |text, family| {
            let Needed { remote, loopback } = Needed::of(&config(text), family);
            (remote, loopback)
        };
        assert_eq!(needed("['10.0.0.1:80']", Family::V4), (true, false));
        assert_eq!(needed("['10.0.0.1:80']", Family::V6), (false, false));
        assert_eq!(needed("['[::1]:80', '/run/x']", Family::V6), (false, true));
        assert_eq!(needed("['web.internal:80', 80]", Family::V4), (true, true));
        let plain = "listen = '127.0.0.1:0'\n[[rule]]\nupstream = 80\n";
        assert!(checks(&crate::rules::parse("x", plain).expect("valid")).is_empty());
    }

    #[test]
    fn a_rule_counts_whose_table_takes_everything_in() {
        let ask = |_: Family, arguments: &[&str]| {
            Ok(match arguments {
                ["rule", ..] => json!([
                    { "priority": 0, "src": "all", "table": "local" },
                    { "priority": 9, "src": "all", "fwmark": "0x1", "table": "100" },
                    { "priority": 10, "src": "all", "iif": "up0", "table": "101" },
                    { "priority": 32766, "src": "all", "table": "main" },
                ]),
                [.., "100", "type", "local"] => json!([{ "type": "local", "dst": "default" }]),
                [.., "101", "type", "local"] => json!([{ "type": "local", "dst": "10.0.0.1" }]),
                _ => Value::Null,
            })
        };
        let check = reply_route(Family::V4, Needed { remote: true, loopback: false }, &ask);
        assert_eq!((check.status, &*check.found), (Status::Ok, "fwmark 0x1 lookup 100"));
    }

    #[test]
    fn what_is_missing_is_said_with_the_commands() {
        let ask = |_: Family, _: &[&str]| Ok(Value::Null);
        let both = Needed { remote: true, loopback: true };
        let check = reply_route(Family::V6, both, &ask);
        assert_eq!(check.status, Status::Problem);
        for command in [
            "ip -6 rule add iif DEVICE lookup 100;",
            "ip -6 rule add from ::1 iif lo lookup 100;",
            "ip -6 route add local default dev lo table 100",
        ] {
            assert!(check.remedy.contains(command), "{}", check.remedy);
        }
        let broken = |_: Family, _: &[&str]| Err(io::ErrorKind::NotFound.into());
        assert_eq!(reply_route(Family::V4, both, &broken).status, Status::Warning);
    }
}
