//! `source = "transparent"`: whether this process may take clients' addresses, and whether what
//! upstreams answer to them finds its way back here.

mod routes;

use std::{collections::BTreeSet, fs, io, process::Command};

use serde_json::Value;

use self::routes::{Ask, Way};
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
        let ways = ways(config, family, &json);
        if !ways.is_empty() {
            checks.push(routes::check(family, &ways, &json));
        }
        if family == Family::V4 && !ways.is_empty() {
            checks.push(reverse_path_filter(&ways, &|conf| {
                let path = format!("/proc/sys/net/ipv4/conf/{conf}/rp_filter");
                fs::read_to_string(path).ok()?.trim().parse().ok()
            }));
        }
    }
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

    /// What nftables calls it.
    const fn table(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }
}

/// The ways that answers of the transparent upstreams' endpoints come in. A name may have addresses
/// of either family; that it has IPv4 ones is likely enough to look.
fn ways(config: &Config, family: Family, ask: Ask<'_>) -> BTreeSet<Way> {
    let transparent = config.upstreams.iter().filter(|up| up.source == Some(Source::Transparent));
    let mut ways = BTreeSet::new();
    for endpoint in transparent.flat_map(|upstream| &upstream.endpoints) {
        match &endpoint.address {
            Address::Ip(ip) if ip.is_ipv4() == (family == Family::V4) => {
                ways.insert(Way::of(Some(ip.ip()), ask));
            }
            Address::Name { .. } if family == Family::V4 => {
                ways.insert(Way::of(None, ask));
            }
            Address::Name { .. } | Address::Ip(_) | Address::Unix(_) | Address::Builtin(_) => {}
        }
    }
    ways
}

/// What a program says, as JSON.
fn json(program: &str, arguments: &[&str]) -> io::Result<Value> {
    let output = Command::new(program).args(arguments).output()?;
    if !output.status.success() {
        // Of a table that does not exist: it has no route. nft(8) wants rights.
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return if program == "ip" { Ok(Value::Null) } else { Err(io::Error::other(said)) };
    }
    if output.stdout.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&output.stdout).map_err(Into::into)
}

/// Looks whether an interface that leads to an endpoint filters strictly: by the greater of its own
/// setting and that of `all` (`IN_DEV_RPFILTER`, include/linux/inetdevice.h).
fn reverse_path_filter(ways: &BTreeSet<Way>, setting: &dyn Fn(&str) -> Option<u8>) -> Check {
    const NAME: &str = "rp_filter";
    let all = setting("all").unwrap_or(0);
    let devices: BTreeSet<&str> = ways.iter().filter_map(Way::device).collect();
    let is_strict = |device: &&str| all.max(setting(device).unwrap_or(0)) == 1;
    let strict: Vec<&str> = devices.into_iter().filter(is_strict).collect();
    if strict.is_empty() {
        return Check::ok(NAME, "not strict");
    }
    Check::warning(
        NAME,
        format!(
            "strict on {}: an upstream's replies must come in where it is routed to",
            strict.join(", ")
        ),
        "sysctl -w net.ipv4.conf.all.rp_filter=2, if they come in elsewhere",
    )
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

    /// A machine where 127.0.0.1 and ::1 are its own and all else is behind up0.
    fn machine(_: &str, arguments: &[&str]) -> io::Result<Value> {
        let [.., "get", address] = arguments else { return Ok(Value::Null) };
        let device = if ["127.0.0.1", "::1"].contains(address) { "lo" } else { "up0" };
        Ok(json!([{ "dst": address, "dev": device }]))
    }

    #[test]
    fn what_is_needed_is_what_the_endpoints_need() {
        let needed = |text, family| {
            let ways = ways(&config(text), family, &machine);
            ways.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(needed("['10.0.0.1:80']", Family::V4), "from 10.0.0.1 at up0");
        assert_eq!(needed("['10.0.0.1:80']", Family::V6), "");
        assert_eq!(needed("['[::1]:80', '/run/x']", Family::V6), "from ::1 at lo");
        let both = "from a name's addresses, from 127.0.0.1 at lo";
        assert_eq!(needed("['web.internal:80', 80]", Family::V4), both);
        let plain = "listen = '127.0.0.1:0'\n[[rule]]\nupstream = 80\n";
        assert!(checks(&crate::rules::parse("x", plain).expect("valid")).is_empty());
    }

    /// The kernel takes the greater one: `all` = 2 makes an interface with 1 loose, and `all` = 1 one
    /// with 0 strict.
    #[test]
    fn the_greater_setting_of_an_interface_and_of_all_counts() {
        let ways = BTreeSet::from([Way::of(Some([10, 0, 0, 1].into()), &machine)]);
        for (all, up0, status) in [
            (0, 0, Status::Ok),
            (0, 1, Status::Warning),
            (1, 0, Status::Warning),
            (2, 1, Status::Ok),
            (1, 2, Status::Ok),
        ] {
            let setting = |conf: &str| match conf {
                "all" => Some(all),
                "up0" => Some(up0),
                // One that leads elsewhere.
                _ => Some(1),
            };
            let check = reverse_path_filter(&ways, &setting);
            assert_eq!(check.status, status, "all {all}, up0 {up0}");
        }
    }
}
