//! Settings that some versions of mux do not take: then what needs them is left out, and said so.

use super::{import, lines, messages, with_protocols};
use crate::rules;

const SSH: &str = "{ name: \"ssh\"; host: \"localhost\"; port: \"22\"; }";

/// Whether this version takes a key, written as TOML after a file's `[[rule]]`.
fn takes(key: &str) -> bool {
    let file = format!("listen = \"[::1]:1\"\n[[rule]]\nupstream = \"x\"\n{key}\n");
    let group = "[[upstream]]\nname = \"x\"\nendpoints = [1]\n";
    let file = if key.starts_with("[[upstream]]") { file } else { file + group };
    rules::parse("rules.toml", &file).is_ok()
}

/// A second protocol with these settings has these lines, or is left out.
#[track_caller]
fn becomes(settings: &str, key: &str, wanted: &[&str]) {
    let tls = format!("{{ name: \"tls\"; host: \"localhost\"; port: \"443\"; {settings} }}");
    let (imported, _) = import(&with_protocols(&format!("{tls},\n{SSH}")));
    if takes(key) {
        for wanted in wanted {
            assert!(lines(&imported).contains(wanted), "{wanted}\n{}", imported.rules);
        }
        assert_eq!(imported.warnings, []);
    } else {
        assert!(messages(&imported)[0].starts_with("left out: "), "{imported:?}");
        assert!(messages(&imported)[0].contains("not available in this version"), "{imported:?}");
    }
}

#[test]
fn proxy_protocol() {
    for (settings, wanted) in [
        ("proxyprotocol: 1;", "proxy_protocol = \"v1\""),
        ("proxyprotocol: 2;", "proxy_protocol = \"v2\""),
    ] {
        becomes(settings, wanted, &[wanted]);
    }
    // 0 takes a header off that was received, which mux always does.
    let (imported, _) = import(&with_protocols(&SSH.replace(" }", " proxyprotocol: 0; }")));
    assert!(!imported.rules.contains("proxy_protocol"), "{}", imported.rules);
    let (imported, _) = import(&with_protocols(&SSH.replace(" }", " proxyprotocol: 3; }")));
    assert_eq!(messages(&imported), ["`proxyprotocol: 3`: there are versions 1 and 2: left out"]);
}

#[test]
fn accept_proxy_protocol() {
    let listen = "listen: ( { host: \"127.0.0.1\"; port: \"1\"; }, \
                  { host: \"10.0.0.1\"; port: \"2\"; proxyprotocol: true; } );";
    let protocols = "protocols: ( { name: \"tls\"; host: \"localhost\"; port: \"443\"; proxyprotocol: 0; },\
                     { name: \"ssh\"; host: \"localhost\"; port: \"22\"; proxyprotocol: 0; } );";
    let (imported, config) = import(&format!("{listen}\n{protocols}"));
    let key = "accept_proxy_protocol = [\"0.0.0.0/0\", \"::/0\"]";
    let listener = format!("[[listener]]\naddress = \"[::1]:2\"\n{key}\n");
    if takes(&listener) {
        assert_eq!(config.listeners.len(), 2);
        assert!(lines(&imported).contains(&key), "{}", imported.rules);
        assert!(
            messages(&imported)[0].starts_with("sslh believes the PROXY header of every client")
        );
        // What the client's proxy says goes on, unless told otherwise.
        let protocols = protocols.replace(" proxyprotocol: 0;", "");
        let (imported, _) = import(&format!("{listen}\n{protocols}"));
        assert!(lines(&imported).contains(&"proxy_protocol = \"v2\""), "{}", imported.rules);
    } else {
        assert_eq!(config.listeners.len(), 1);
        assert!(messages(&imported)[0].contains("not available in this version"), "{imported:?}");
    }
}

#[test]
fn transparent() {
    let group = "[[upstream]]\nname = \"x\"\nendpoints = [1]\nsource = \"transparent\"\n";
    let wanted = [
        "upstream = \"tls\"",
        "name = \"tls\"",
        "endpoints = [\"localhost:443\"]",
        "source = \"transparent\"",
    ];
    becomes("transparent: true;", group, &wanted);
    // There is no address to take over on a Unix socket.
    let (imported, _) = import(&format!(
        "transparent: true;\n{}",
        with_protocols("{ name: \"ssh\"; is_unix: true; host: \"/run/x.sock\"; port: \"\"; }")
    ));
    assert!(lines(&imported).contains(&"upstream = \"unix:/run/x.sock\""), "{}", imported.rules);
    assert!(!imported.rules.contains("source ="), "{}", imported.rules);
}
