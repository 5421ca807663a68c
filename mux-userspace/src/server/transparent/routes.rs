//! Whether what upstreams answer to clients' addresses is brought back to this machine: the rules of
//! `ip rule`, the mark that they ask for, and what to type where one is missing.
//!
//! Asks ip(8) and nft(8), and changes nothing.

use std::{collections::BTreeSet, fmt, io, net::IpAddr};

use ipnet::IpNet;
use serde_json::Value;

use super::{super::Check, Family};

#[cfg(test)]
mod tests;

/// What answers a command by JSON: `ip` or `nft`, with arguments. `Null`: it has nothing to say.
pub(super) type Ask<'a> = &'a dyn Fn(&str, &[&str]) -> io::Result<Value>;

/// A way that answers come in: from where, and at which interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    /// The endpoint's address; `None`: it is a name.
    from: Option<IpAddr>,
    /// The interface that leads to it; `None`: nobody knows.
    device: Option<String>,
}

impl Way {
    /// Of an endpoint.
    pub(super) fn of(address: Option<IpAddr>, ask: Ask<'_>) -> Self {
        let device = address.and_then(|address| {
            let text = address.to_string();
            let found = ask("ip", &["-json", "route", "get", &text]).ok()?;
            found.get(0)?.get("dev")?.as_str().map(ToOwned::to_owned)
        });
        Self { from: address, device }
    }

    /// The interface that leads there, if it is known.
    pub(super) fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    fn is_loopback(&self) -> bool {
        self.device.as_deref() == Some("lo")
    }

    /// What to type.
    fn remedy(&self, family: Family) -> String {
        let option = family.option();
        match (self.is_loopback(), &self.device, self.from) {
            (true, _, Some(from)) => {
                let from = match from {
                    IpAddr::V4(ip) if ip.is_loopback() => "127.0.0.0/8".into(),
                    IpAddr::V4(_) | IpAddr::V6(_) => from.to_string(),
                };
                format!("ip {option} rule add from {from} iif lo lookup 100")
            }
            (_, Some(device), _) => format!("ip {option} rule add iif {device} lookup 100"),
            (_, None, _) => format!("ip {option} rule add iif DEVICE lookup 100"),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from {
            Some(from) => write!(f, "from {from}")?,
            None => write!(f, "from a name's addresses")?,
        }
        match &self.device {
            Some(device) => write!(f, " at {device}"),
            None => Ok(()),
        }
    }
}

/// A rule that leads to a table in which every address is this machine's own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    from: Option<IpNet>,
    iif: Option<String>,
    mark: Option<Mark>,
    table: String,
    /// It asks for something that we do not know, such as a port or a user.
    is_narrow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    value: u64,
    mask: u64,
}

impl Rule {
    fn parse(rule: &Value) -> Option<Self> {
        let text = |key: &str| rule.get(key).and_then(Value::as_str);
        let from = match text("src") {
            None | Some("all") => None,
            Some(address) => {
                let address: IpAddr = address.parse().ok()?;
                let whole = if address.is_ipv4() { 32 } else { 128 };
                let length = rule.get("srclen").and_then(Value::as_u64).unwrap_or(whole);
                Some(IpNet::new(address, u8::try_from(length).ok()?).ok()?)
            }
        };
        let mark = text("fwmark").map(|value| {
            let mask = text("fwmask").and_then(number).unwrap_or(u64::from(u32::MAX));
            number(value).map(|value| Mark { value, mask })
        });
        let known = ["priority", "src", "srclen", "iif", "fwmark", "fwmask", "table", "protocol"];
        let is_narrow = rule
            .as_object()
            .is_some_and(|rule| rule.keys().any(|key| !known.contains(&key.as_str())));
        Some(Self {
            from,
            iif: text("iif").map(ToOwned::to_owned),
            mark: match mark {
                Some(mark) => Some(mark?),
                None => None,
            },
            table: text("table").filter(|table| *table != "local")?.to_owned(),
            is_narrow,
        })
    }

    /// Whether it takes what comes in there, if that has the mark.
    fn takes(&self, way: &Way) -> bool {
        let from = match (self.from, way.from) {
            (None, _) => true,
            (Some(network), Some(from)) => network.contains(&from),
            (Some(_), None) => false,
        };
        let iif = match (self.iif.as_deref(), way.device.as_deref()) {
            (None, _) => true,
            (Some(iif), Some(device)) => iif == device,
            (Some(iif), None) => iif != "lo",
        };
        from && iif && !self.is_narrow
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(from) = self.from {
            write!(f, "from {from} ")?;
        }
        if let Some(iif) = &self.iif {
            write!(f, "iif {iif} ")?;
        }
        if let Some(Mark { value, mask }) = self.mark {
            let mask =
                if mask == u64::from(u32::MAX) { String::new() } else { format!("/{mask:#x}") };
            write!(f, "fwmark {value:#x}{mask} ")?;
        }
        write!(f, "lookup {}", self.table)
    }
}

/// Looks for a rule for each way.
pub(super) fn check(family: Family, ways: &BTreeSet<Way>, ask: Ask<'_>) -> Check {
    let name = family.check();
    let rules = match find(family, ask) {
        Ok(rules) => rules,
        Err(error) => {
            let found = format!("cannot be looked at: ip(8): {error}");
            return Check::warning(name, found, remedy(family, ways.iter()));
        }
    };
    let untaken: Vec<&Way> =
        ways.iter().filter(|way| !rules.iter().any(|rule| rule.takes(way))).collect();
    if !untaken.is_empty() {
        let ways: Vec<String> = untaken.iter().map(ToString::to_string).collect();
        let found = format!(
            "no rule leads what comes {} to a table with `local default`: replies go to the clients",
            ways.join(", ")
        );
        return Check::problem_with(name, found, remedy(family, untaken.into_iter()));
    }
    let mut used: Vec<&Rule> = Vec::new();
    for way in ways {
        // One without a mark is sure.
        let mut takers: Vec<&Rule> = rules.iter().filter(|rule| rule.takes(way)).collect();
        takers.sort_by_key(|rule| rule.mark.is_some());
        if let Some(rule) = takers.first()
            && !used.contains(rule)
        {
            used.push(rule);
        }
    }
    let found = used.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let mut marks = used.iter().filter_map(|rule| rule.mark);
    match marks.find_map(|mark| Some((unmarked(family, mark, ask)?, mark))) {
        None => Check::ok(name, found),
        Some((why, mark)) => Check::warning(name, format!("{found}, but {why}"), marking(mark)),
    }
}

/// The rules that lead to a table with `local default`.
fn find(family: Family, ask: Ask<'_>) -> io::Result<Vec<Rule>> {
    let option = family.option();
    let rules = ask("ip", &["-json", option, "rule", "show"])?;
    let mut found = Vec::new();
    for rule in rules.as_array().into_iter().flatten().filter_map(Rule::parse) {
        let routes =
            ask("ip", &["-json", option, "route", "show", "table", &rule.table, "type", "local"])?;
        let is_default =
            |route: &Value| route.get("dst").and_then(Value::as_str) == Some("default");
        if routes.as_array().is_some_and(|routes| routes.iter().any(is_default)) {
            found.push(rule);
        }
    }
    Ok(found)
}

/// Why nothing may have this mark; `None`: nftables sets it.
fn unmarked(family: Family, mark: Mark, ask: Ask<'_>) -> Option<String> {
    let ruleset = match ask("nft", &["-j", "list", "ruleset"]) {
        Ok(ruleset) => ruleset,
        Err(error) => {
            return Some(format!("what sets the mark cannot be looked at: nft(8): {error}"));
        }
    };
    let items = ruleset.get("nftables").and_then(Value::as_array);
    let sets = |item: &Value| {
        let Some(rule) = item.get("rule") else { return false };
        let table = rule.get("family").and_then(Value::as_str);
        table.is_some_and(|table| table == "inet" || table == family.table())
            && rule
                .get("expr")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .any(|expression| sets_mark(expression, mark))
    };
    if items.into_iter().flatten().any(sets) {
        return None;
    }
    let Mark { value, .. } = mark;
    Some(format!("no rule of nftables sets the mark {value:#x}"))
}

/// Whether a statement gives packets this mark. Of one that works it out (from a connection's mark,
/// by bits), nobody can tell: it counts.
fn sets_mark(expression: &Value, mark: Mark) -> bool {
    let Some(mangle) = expression.get("mangle") else { return false };
    let key = mangle.pointer("/key/meta/key").and_then(Value::as_str);
    let value = mangle.get("value");
    key == Some("mark")
        && value
            .is_some_and(|value| value.as_u64().is_none_or(|value| value & mark.mask == mark.value))
}

fn marking(Mark { value, .. }: Mark) -> String {
    format!(
        "nft 'add table inet mux'; \
         nft 'add chain inet mux reply {{ type filter hook prerouting priority mangle; }}'; \
         nft 'add rule inet mux reply socket transparent 1 meta mark set {value:#x}'"
    )
}

/// What to type.
fn remedy<'a>(family: Family, ways: impl Iterator<Item = &'a Way> + Clone) -> String {
    let commands: BTreeSet<String> = ways.clone().map(|way| way.remedy(family)).collect();
    let mut commands: Vec<String> = commands.into_iter().collect();
    commands.push(format!("ip {} route add local default dev lo table 100", family.option()));
    let mut text = commands.join("; ");
    let remote: Vec<&Way> = ways.filter(|way| !way.is_loopback()).collect();
    if let Some(way) = remote.first() {
        let device = way.device.as_deref().unwrap_or("DEVICE");
        text.push_str(&format!(
            " (if {device} leads to such upstreams only; otherwise mark replies, see the guide)"
        ));
    }
    text
}

/// As ip(8) writes it: `0x1` or `1`.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
