use serde_json::json;

use super::*;
use crate::server::Status;

/// A machine with these rules, of which those to table 100 lead to `local default`, and with this
/// ruleset of nftables.
fn machine(rules: Value, nft: Option<Value>) -> impl Fn(&str, &[&str]) -> io::Result<Value> {
    move |program, arguments| {
        Ok(match (program, arguments) {
            ("nft", _) => match &nft {
                Some(rule) => json!({ "nftables": [{ "metainfo": {} }, { "rule": rule }] }),
                None => return Err(io::Error::other("Operation not permitted")),
            },
            (_, [.., "rule", "show"]) => rules.clone(),
            (_, [.., "get", "127.0.0.1"]) => json!([{ "dev": "lo" }]),
            (_, [.., "get", _]) => json!([{ "dev": "up0" }]),
            (_, [.., "100", "type", "local"]) => json!([{ "type": "local", "dst": "default" }]),
            (_, [.., "101", "type", "local"]) => json!([{ "type": "local", "dst": "10.0.0.1" }]),
            _ => Value::Null,
        })
    }
}

fn marks(family: &str, value: Value) -> Value {
    let mangle = json!({ "mangle": { "key": { "meta": { "key": "mark" } }, "value": value } });
    json!({ "family": family, "table": "mux", "chain": "reply", "expr": [{ "match": {} }, mangle] })
}

fn checked(address: &str, rules: Value, nft: Option<Value>) -> Check {
    let ask = machine(rules, nft);
    let ways = BTreeSet::from([Way::of(Some(address.parse().expect("an address")), &ask)]);
    check(Family::V4, &ways, &ask)
}

/// A rule to the table in which everything is local, beside the usual ones.
fn rules(selectors: &Value) -> Value {
    let mut rule = json!({ "priority": 9, "src": "all", "table": "100" });
    if let (Some(rule), Some(more)) = (rule.as_object_mut(), selectors.as_object()) {
        rule.extend(more.clone());
    }
    json!([
        { "priority": 0, "src": "all", "table": "local" },
        rule,
        { "priority": 10, "src": "all", "iif": "up0", "table": "101" },
        { "priority": 32766, "src": "all", "table": "main" },
    ])
}

#[test]
fn a_rule_counts_if_it_takes_what_comes_from_the_endpoint() {
    for (address, selectors, found) in [
        ("10.0.0.7", json!({ "iif": "up0" }), Some("iif up0 lookup 100")),
        ("10.0.0.7", json!({}), Some("lookup 100")),
        ("10.0.0.7", json!({ "src": "10.0.0.0", "srclen": 8 }), Some("from 10.0.0.0/8 lookup 100")),
        (
            "127.0.0.1",
            json!({ "src": "127.0.0.0", "srclen": 8, "iif": "lo" }),
            Some("from 127.0.0.0/8 iif lo lookup 100"),
        ),
        // Another interface, another network, only some ports.
        ("10.0.0.7", json!({ "iif": "up1" }), None),
        ("10.0.0.7", json!({ "src": "10.1.0.0", "srclen": 16 }), None),
        ("10.0.0.7", json!({ "iif": "lo", "src": "127.0.0.0", "srclen": 8 }), None),
        ("127.0.0.1", json!({ "iif": "up0" }), None),
        ("10.0.0.7", json!({ "dport": 80 }), None),
    ] {
        let check = checked(address, rules(&selectors), None);
        match found {
            Some(found) => assert_eq!((check.status, &*check.found), (Status::Ok, found)),
            None => assert_eq!(check.status, Status::Problem, "{address}, {selectors}"),
        }
    }
}

#[test]
fn a_mark_has_to_be_set_by_somebody() {
    let of = |selectors: &Value, nft| checked("10.0.0.7", rules(selectors), nft);
    let mark = json!({ "fwmark": "0x1" });
    for (family, value) in [("inet", json!(1)), ("ip", json!(1)), ("inet", json!({ "ct": {} }))] {
        let check = of(&mark, Some(marks(family, value)));
        assert_eq!((check.status, &*check.found), (Status::Ok, "fwmark 0x1 lookup 100"));
    }
    for (family, value) in [("inet", json!(2)), ("ip6", json!(1))] {
        let check = of(&mark, Some(marks(family, value)));
        assert_eq!(check.status, Status::Warning);
        assert!(check.found.ends_with("no rule of nftables sets the mark 0x1"), "{}", check.found);
        assert!(
            check.remedy.ends_with("socket transparent 1 meta mark set 0x1'"),
            "{}",
            check.remedy
        );
    }
    let masked = json!({ "fwmark": "0x1", "fwmask": "0xf" });
    let check = of(&masked, Some(marks("inet", json!(0x21))));
    assert_eq!((check.status, &*check.found), (Status::Ok, "fwmark 0x1/0xf lookup 100"));
    let check = of(&mark, None);
    assert_eq!(check.status, Status::Warning);
    assert!(check.found.contains("cannot be looked at: nft(8): Operation not"), "{}", check.found);
}

#[test]
fn what_is_missing_is_said_with_the_commands() {
    let ask = machine(Value::Null, None);
    let way = |text: &str| Way::of(Some(text.parse().expect("an address")), &ask);
    let both = BTreeSet::from([way("10.0.0.7"), way("10.0.0.8"), way("127.0.0.1")]);
    let missing = check(Family::V4, &both, &ask);
    assert_eq!(missing.status, Status::Problem);
    assert_eq!(
        missing.remedy,
        "ip -4 rule add from 127.0.0.0/8 iif lo lookup 100; ip -4 rule add iif up0 lookup 100; \
         ip -4 route add local default dev lo table 100 \
         (if up0 leads to such upstreams only; otherwise mark replies, see the guide)"
    );
    assert!(missing.found.contains("from 10.0.0.7 at up0, "), "{}", missing.found);
    let broken = |_: &str, _: &[&str]| Err(io::ErrorKind::NotFound.into());
    let unknown = check(Family::V4, &BTreeSet::from([Way::of(None, &broken)]), &broken);
    assert_eq!(unknown.status, Status::Warning);
    assert!(
        unknown.remedy.starts_with("ip -4 rule add iif DEVICE lookup 100; "),
        "{}",
        unknown.remedy
    );
}
