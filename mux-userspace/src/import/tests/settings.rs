//! Each setting of sslh, and what becomes of it.

use super::{import, lines, messages, with_protocols};

const SSH: &str = "{ name: \"ssh\"; host: \"localhost\"; port: \"22\"; }";
const PROTOCOLS: &str = "protocols: ( { name: \"ssh\"; host: \"localhost\"; port: \"22\"; } );";

/// The rules file has these lines.
#[track_caller]
fn has(text: &str, wanted: &[&str]) {
    let (imported, _) = import(text);
    for wanted in wanted {
        assert!(lines(&imported).contains(wanted), "no {wanted:?} in:\n{}", imported.rules);
    }
}

/// The rules file has a comment with this text, on however many lines.
#[track_caller]
fn remarks(text: &str, wanted: &str) {
    let (imported, _) = import(text);
    let comments: Vec<&str> = imported
        .rules
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .map(str::trim_start)
        .collect();
    assert!(comments.join(" ").contains(wanted), "no {wanted:?} in:\n{}", imported.rules);
}

fn global(setting: &str) -> String {
    format!("{setting}\n{}", with_protocols(SSH))
}

fn protocol(settings: &str) -> String {
    with_protocols(&format!("{{ name: \"ssh\"; host: \"localhost\"; port: \"22\"; {settings} }}"))
}

fn listen(groups: &str) -> String {
    format!("listen: ( {groups} );\n{PROTOCOLS}")
}

#[test]
fn timeout() {
    has(&global("timeout: 2;"), &["sniff_timeout = \"2s\""]);
    has(&global("timeout = 0x1e;"), &["sniff_timeout = \"30s\""]);
    has(&global(""), &["sniff_timeout = \"5s\""]);
    remarks(&global(""), "sslh's default since 1.21");
    has(&global("timeout: 0;"), &["sniff_timeout = \"1ms\""]);
    has(&global("timeout: -3;"), &["sniff_timeout = \"1ms\""]);
    has(&global("timeout: 99999999999;"), &["sniff_timeout = \"31622400s\""]);
    // NixOS wrote it as a string.
    let (imported, _) = import(&global("timeout: \"7\";"));
    assert!(lines(&imported).contains(&"sniff_timeout = \"7s\""));
    assert!(messages(&imported)[0].contains("sslh wants a number here"), "{imported:?}");
}

#[test]
fn fallbacks() {
    // One place to go to: nothing to wait for.
    let (imported, config) = import(&with_protocols(SSH));
    assert!(!imported.rules.contains("on_timeout") && !imported.rules.contains("match"));
    assert_eq!(config.rules.len(), 1);
    let both = "{ name: \"tls\"; host: \"localhost\"; port: \"1\"; },\n\
                { name: \"ssh\"; host: \"localhost\"; port: \"2\"; }";
    has(&with_protocols(both), &["on_timeout = \"ssh\"", "on_no_match = \"ssh\""]);
    let text = format!("on_timeout = \"tls\"\n{}", with_protocols(both));
    has(&text, &["on_timeout = \"tls\"", "on_no_match = \"ssh\""]);
    let text = format!("on-timeout = \"nosuch\"\n{}", with_protocols(both));
    has(&text, &["on_timeout = \"tls\"", "on_no_match = \"ssh\""]);
    let any = format!("{both},\n{{ name: \"anyprot\"; host: \"localhost\"; port: \"3\"; }}");
    has(
        &with_protocols(&any),
        &["on_timeout = \"ssh\"", "on_no_match = \"anyprot\"", "rules = [\"tls\", \"ssh\"]"],
    );
    // What stands after a protocol that takes all is never come to.
    let (imported, _) = import(&with_protocols(&format!("{any},\n{SSH}")));
    assert_eq!(
        messages(&imported),
        ["left out: no connection comes so far: `anyprot`, before it, takes all"]
    );
    // A silent client's protocol is lost.
    let text = with_protocols(
        "{ name: \"ssh\"; host: \"localhost\"; port: \"nosuch\"; },\n\
         { name: \"tls\"; host: \"localhost\"; port: \"1\"; },\n\
         { name: \"http\"; host: \"localhost\"; port: \"2\"; }",
    );
    has(&text, &["on_timeout = \"close\"", "on_no_match = \"http\""]);
    remarks(&text, "The protocol that sslh sends silent clients to is left out");
}

#[test]
fn globals() {
    has(&global("user: \"sslh\";"), &["[security]", "user = \"sslh\""]);
    remarks(&global(""), "mux, started as root, becomes \"nobody\"");
    for (setting, remark) in [
        ("pidfile: \"/run/sslh.pid\";", "sslh's `pidfile: \"/run/sslh.pid\"`: mux writes none"),
        ("chroot: \"/x\";", "sslh's `chroot: \"/x\"`: mux does not change its root"),
        ("syslog_facility: \"auth\";", "mux logs to standard error"),
        ("foreground: true;", "mux always stays in the foreground"),
        ("numeric: true;", "mux logs addresses, never names"),
        ("udp_max_connections: 7;", "sslh's `udp_max_connections: 7`: mux routes TCP"),
        ("verbose: true;", "sslh's `verbose…`: mux has one level for all its messages"),
        ("verbose-probe-info: 1;", "sslh's `verbose…`: mux has one level for all its messages"),
        ("logfile: \"/x\";", "sslh's `logfile: \"/x\"`: connections are not logged there"),
    ] {
        remarks(&global(setting), remark);
        assert_eq!(import(&global(setting)).0.warnings, [], "{setting}");
    }
    // What is off is nothing to remark on.
    let (imported, _) = import(&global("inetd: false; numeric: FALSE; foreground: false;"));
    assert!(!imported.rules.contains("inetd") && imported.warnings.is_empty());
    let (imported, _) = import(&global("inetd: true; weight: -1.5;"));
    assert_eq!(
        messages(&imported),
        [
            "`inetd: true`: mux does not serve inetd; it listens by itself",
            "`weight: -1.5`: not a setting of sslh that mux knows: left out"
        ]
    );
}

#[test]
fn values_that_mux_does_not_take() {
    for (setting, message) in [
        ("user: \"a b\";", "`user = \"a b\"` is left out: this cannot be a user's name"),
        ("user: \"\";", "`user = \"\"` is left out: this cannot be a user's name"),
        ("logfile: \"\"; verbose: 4;", "`access_file = \"\"` is left out: this cannot be a path"),
    ] {
        let (imported, _) = import(&global(setting));
        assert!(messages(&imported)[0].starts_with(message), "{imported:?}");
        remarks(&global(setting), message);
    }
}

#[test]
fn access_log() {
    has(&global("verbose-connections: 0;"), &["[log]", "access = \"off\""]);
    has(&global("verbose_connections: 0;"), &["access = \"off\""]);
    let file = "logfile: \"/var/log/sslh.log\";";
    let wanted = ["access_file = \"/var/log/sslh.log\""];
    has(&global(&format!("{file} verbose-connections: 7;")), &wanted);
    has(&global(&format!("{file} verbose: 4; verbose-connections: 0;")), &wanted);
    let (imported, _) = import(&global(&format!("{file} verbose: 0; verbose-connections: 3;")));
    assert!(!imported.rules.contains("access_file ="), "{}", imported.rules);
}

#[test]
fn keepalive() {
    has(&global(""), &["[timeouts]", "idle = \"0s\""]);
    let (imported, _) = import(&protocol("keepalive: true;"));
    let wanted = [
        "[[rule]]",
        "name = \"ssh\"",
        "upstream = \"ssh\"",
        "[[upstream]]",
        "name = \"ssh\"",
        "endpoints = [\"localhost:22\"]",
        "keepalive = \"2h\"",
    ];
    assert!(imported.rules.contains(&wanted[2..4].join("\n\n")), "{}", imported.rules);
    assert_eq!(lines(&imported)[3..10], wanted);
    let tcp = "{ host: \"127.0.0.1\"; port: \"1\"; keepalive: true; }";
    has(&listen(tcp), &["keepalive = \"2h\"", "upstream = \"localhost:22\""]);
    let unix = "{ host: \"/run/x.sock\"; is_unix: true; keepalive: true; }";
    assert!(!import(&listen(unix)).0.rules.contains("keepalive"));
}

#[test]
fn listen_addresses() {
    for (group, address) in [
        ("host: \"127.0.0.1\"; port: \"443\";", "127.0.0.1:443"),
        ("host: \"0.0.0.0\"; port: 443;", "0.0.0.0:443"),
        ("host: \"::1\"; port: \"https\";", "[::1]:443"),
        ("host: \"[::1]\"; port: \"443\";", "[::1]:443"),
        ("host: \"/run/x.sock\"; is_unix: true; port: \"\";", "unix:/run/x.sock"),
        ("host: \"/run/x.sock\"; is_unix: true;", "unix:/run/x.sock"),
    ] {
        has(&listen(&format!("{{ {group} }}")), &[&format!("address = \"{address}\"")]);
    }
    // All addresses of a name, as sslh does.
    let (imported, config) = import(&listen("{ host: \"edge.example\"; port: \"443\"; }"));
    assert_eq!(config.listeners.len(), 2);
    assert_eq!(imported.warnings, []);
    has(
        &listen("{ host: \"edge.example\"; port: \"443\"; }"),
        &["address = \"10.0.0.9:443\"", "address = \"[2001:db8::9]:443\""],
    );
    // One that cannot be found must not open more than it did.
    let unknown = listen("{ host: \"nowhere.example\"; port: \"443\"; }");
    has(&unknown, &["address = \"127.0.0.1:443\""]);
    assert!(import(&unknown).0.warnings[0].to_string().starts_with(
        "sslh.cfg:1:19: `nowhere.example` has no address here and now; 127.0.0.1 stands in for it"
    ));
}

#[test]
fn listeners_that_are_left_out() {
    let first = "{ host: \"127.0.0.1\"; port: \"1\"; }";
    for (group, reason) in [
        ("host: \"127.0.0.1\"; port: \"1\"; is_udp: true;", "it is UDP, and mux routes TCP"),
        ("host: \"127.0.0.1\"; port: \"nosuch\";", "its port, `nosuch`, is neither a number nor"),
        ("host: \"127.0.0.1\"; port: \"65536\";", "its port, `65536`, is neither a number nor"),
        ("host: \"127.0.0.1\"; port: \"01\";", "a listener before it has this address"),
        ("host: \"x.sock\"; is_unix: true; port: \"\";", "`unix:x.sock` is no address for mux"),
    ] {
        let text = listen(&format!("{first}, {{ {group} }}"));
        let (imported, config) = import(&text);
        assert_eq!(config.listeners.len(), 1, "{group}");
        let [warning] = messages(&imported)[..] else { panic!("{group}: {imported:?}") };
        assert!(warning.starts_with(&format!("left out: {reason}")), "{warning}");
        remarks(&text, &format!("Left out of `listen`: {reason}"));
    }
}

#[test]
fn families() {
    let remark = "sslh takes IPv6 clients here; mux takes IPv4 ones too";
    let one = "{ host: \"::\"; port: \"443\"; }";
    remarks(&listen(one), remark);
    let (imported, _) = import(&listen(&format!("{one}, {{ host: \"0.0.0.0\"; port: \"443\"; }}")));
    assert!(!imported.rules.contains(remark), "{}", imported.rules);
}

#[test]
fn limits() {
    has(&protocol("max_connections: 9;"), &["max_connections = 9"]);
    has(
        &listen("{ host: \"127.0.0.1\"; port: \"1\"; max_connections: 9; }"),
        &["max_connections = 9"],
    );
    let (imported, _) = import(&protocol("max_connections: 0;"));
    assert!(!lines(&imported).iter().any(|line| line.starts_with("max_connections")));
    assert!(messages(&imported)[0].contains("mux has limits from 1"), "{imported:?}");
}

#[test]
fn upstreams() {
    for (settings, upstream) in [
        ("host: \"localhost\"; port: \"22\";", "localhost:22"),
        ("host: \"localhost\"; port: \"ssh\";", "localhost:22"),
        ("host: \"10.0.0.1\"; port: 8080;", "10.0.0.1:8080"),
        ("host: \"::1\"; port: \"22\";", "[::1]:22"),
        ("host: \"[2001:db8::1]\"; port: \"22\";", "[2001:db8::1]:22"),
        ("host: \"/run/x.sock\"; is_unix: true; port: \"\";", "unix:/run/x.sock"),
    ] {
        let text = with_protocols(&format!("{{ name: \"ssh\"; {settings} }}"));
        has(&text, &[&format!("upstream = \"{upstream}\"")]);
    }
}

#[test]
fn transparent() {
    let tls = "{ name: \"tls\"; host: \"localhost\"; port: \"443\"; transparent: true; }";
    let wanted = [
        "upstream = \"tls\"",
        "name = \"tls\"",
        "endpoints = [\"localhost:443\"]",
        "source = \"transparent\"",
        "upstream = \"localhost:22\"",
    ];
    has(&with_protocols(&format!("{tls},\n{SSH}")), &wanted);
    has(&global("transparent: true;"), &["source = \"transparent\""]);
    // There is no address to take over on a Unix socket.
    let unix = "{ name: \"ssh\"; is_unix: true; host: \"/run/x.sock\"; port: \"\"; }";
    let (imported, _) = import(&format!("transparent: true;\n{}", with_protocols(unix)));
    assert!(!imported.rules.contains("source ="), "{}", imported.rules);
}

#[test]
fn proxy_protocol() {
    has(&protocol("proxyprotocol: 1;"), &["proxy_protocol = \"v1\""]);
    has(&protocol("proxyprotocol: 2;"), &["proxy_protocol = \"v2\""]);
    // It takes a header off that was received, which mux always does.
    let (imported, _) = import(&protocol("proxyprotocol: 0;"));
    assert!(!imported.rules.contains("proxy_protocol"), "{}", imported.rules);
    let (imported, _) = import(&protocol("proxyprotocol: 3;"));
    assert_eq!(messages(&imported), ["`proxyprotocol: 3`: there are versions 1 and 2: left out"]);
}

#[test]
fn accept_proxy_protocol() {
    let listen = "listen: ( { host: \"10.0.0.1\"; port: \"1\"; proxyprotocol: true; } );";
    let both = "{ name: \"tls\"; host: \"localhost\"; port: \"443\"; proxyprotocol: 0; },\n\
                { name: \"ssh\"; host: \"localhost\"; port: \"22\"; proxyprotocol: 0; }";
    let (imported, _) = import(&format!("{listen}\nprotocols: ( {both} );"));
    let key = "accept_proxy_protocol = [\"0.0.0.0/0\", \"::/0\"]";
    assert!(lines(&imported).contains(&key), "{}", imported.rules);
    assert!(!imported.rules.contains("\nproxy_protocol"), "{}", imported.rules);
    assert!(messages(&imported)[0].starts_with("sslh believes the PROXY header of every client"));
    // Unless told otherwise, sslh leaves the header where it is.
    let both = both.replacen(" proxyprotocol: 0;", "", 1);
    has(&format!("{listen}\nprotocols: ( {both} );"), &["proxy_protocol = \"v2\""]);
}

#[test]
fn protocols_that_are_left_out() {
    let at = "host: \"localhost\"; port: \"22\";";
    for (group, reason) in [
        (format!("name: \"ssh\"; {at} is_udp: true;"), "it is UDP, and mux routes TCP"),
        (format!("name: \"wireguard\"; {at}"), "it is UDP, and mux routes TCP"),
        (format!("name: \"finger\"; {at}"), "mux knows no probe `finger` of sslh's"),
        (
            "name: \"ssh\"; host: \"localhost\"; port: \"0\";".to_owned(),
            "its port, `0`, is neither a number nor in /etc/services",
        ),
        (
            "name: \"ssh\"; host: \"a b\"; port: \"1\";".to_owned(),
            "`a b:1` is no address for mux: the host is neither an IP address nor a host name",
        ),
        (
            "name: \"ssh\"; host: \"x.sock\"; is_unix: true; port: \"\";".to_owned(),
            "`unix:x.sock` is no address for mux: the path of a Unix socket is absolute: \
             `unix:/run/x.sock`",
        ),
        (format!("name: \"regex\"; {at}"), "it has no pattern"),
        (
            format!("name: \"regex\"; {at} regex_patterns: [ \"(?!a)\" ];"),
            "mux has no equal of the pattern `(?!a)`: a look ahead, `(?!…)`, at byte 1 of the \
             pattern",
        ),
        (
            format!("name: \"http\"; {at} minlength: 99999999;"),
            "it wants 99999999 bytes, and mux looks at 65536",
        ),
    ] {
        let http = "{ name: \"http\"; host: \"localhost\"; port: \"80\"; }";
        let text = with_protocols(&format!("{SSH},\n{{ {group} }},\n{http}"));
        let (imported, config) = import(&text);
        assert_eq!(config.rules.len(), 2, "{group}\n{}", imported.rules);
        let reason = format!("left out: {reason}");
        assert!(messages(&imported).contains(&&*reason), "{reason}\n{imported:?}");
        assert!(imported.warnings.iter().all(|it| it.place.line == 4), "{imported:?}");
    }
}

#[test]
fn remarks_on_protocols() {
    for (setting, remark) in [
        ("fork: true;", "sslh's `fork: true`: nothing to set"),
        ("tfo_ok: true;", "sslh's `tfo_ok: true`: nothing to set"),
        ("resolve_on_forward: true;", "sslh's `resolve_on_forward: true`: nothing to set"),
        ("log_level: 0;", "sslh's `log_level: 0`: the access log has every connection"),
    ] {
        remarks(&protocol(setting), remark);
        assert_eq!(import(&protocol(setting)).0.warnings, [], "{setting}");
    }
    let (imported, _) = import(&protocol("log_level: 1; fork: false; tfo_ok: false;"));
    assert!(!imported.rules.contains("log_level") && !imported.rules.contains("fork"));
    // Who gets in is worth a warning.
    let (imported, _) = import(&protocol("service: \"sshd\";"));
    assert!(messages(&imported)[0].starts_with("`service: \"sshd\"`: mux does not ask libwrap"));
}

#[test]
fn patterns() {
    let regex = |patterns: &str| {
        with_protocols(&format!(
            "{SSH},\n{{ name: \"regex\"; host: \"localhost\"; port: \"1\"; {patterns} }},\n\
             {{ name: \"anyprot\"; host: \"localhost\"; port: \"2\"; }}"
        ))
    };
    has(&regex(r#"regex_patterns: [ "^\\x16\\x03" ];"#), &[r"match = { regex = '^\x16\x03' }"]);
    has(
        &regex(r#"regex_patterns: [ "^a", "^b\xff" ];"#),
        &[r#"match = { any = [{ regex = "^a" }, { regex = '^b\xff' }] }"#],
    );
    // Some can be said, and some cannot.
    let text = regex(r#"regex_patterns: [ "^a", "(?=b)" ];"#);
    has(&text, &[r#"match = { regex = "^a" }"#]);
    remarks(&text, "mux has no equal of the pattern `(?=b)`");
    assert_eq!(import(&text).0.warnings.len(), 1);
    // A silent client is no empty packet.
    has(
        &regex(r#"regex_patterns: [ "^\n?$" ];"#),
        &[r#"match = { all = [{ regex = '^\n?\n?\z' }, { regex = "(?s)^." }] }"#],
    );
    has(
        &regex(r#"regex_patterns: [ "^a" ]; minlength: 60;"#),
        &[r#"match = { all = [{ regex = "^a" }, { regex = "(?s)^.{60}" }] }"#],
    );
    has(&protocol("minlength: 1;"), &["upstream = \"localhost:22\""]);
    // One that waits has a last rule, so that the silent are told from the rest.
    let text = regex(r#"regex_patterns: [ "jabber" ];"#);
    has(&text, &["on_no_match = \"anyprot\"", "match = { regex = \"(?s)^.{4}\" }"]);
    assert!(!import(&text).0.rules.contains("rules = ["), "all of them are tried");
    remarks(&text, "More bytes can make it match, so that mux waits for them");
    // Patterns of sslh 1.12 to 1.17, under any name.
    has(&regex(r#"probe: [ "^MINE " ];"#), &[r#"match = { regex = "^MINE " }"#]);
    // A byte that libconfig cannot hold.
    let (imported, _) = import(&regex(r#"regex_patterns: [ "^\x00a" ];"#));
    assert!(lines(&imported).contains(&r"match = { regex = '^\x00a' }"), "{}", imported.rules);
    assert!(messages(&imported)[0].starts_with(r"`^\x00a` has a NUL byte"), "{imported:?}");
}

#[test]
fn names() {
    let group = |name: &str| {
        let at = "host: \"localhost\"; port: \"1\"; probe: [ \"^a\" ];";
        format!("{{ name: \"{name}\"; {at} }}")
    };
    for (name, expected) in
        [("my service", "my-service"), ("close", "sslh-close"), ("42", "sslh-42"), ("é", "-")]
    {
        let text = with_protocols(&format!("{SSH},\n{}", group(name)));
        has(&text, &[&format!("name = \"{expected}\"")]);
    }
    let long = "x".repeat(500);
    let again = format!("{},\n{},\n{SSH},\n{SSH}", group(&long), group(&long));
    import(&with_protocols(&again));
}

#[test]
fn many_protocols_are_no_trouble() {
    let group = |index: usize| {
        let pattern = format!("regex_patterns: [ \"^a{index} \" ];");
        format!("{{ name: \"regex\"; host: \"localhost\"; port: \"{}\"; {pattern} }}", index + 1)
    };
    let groups: Vec<String> = (0..300).map(group).collect();
    let (_, config) = import(&with_protocols(&groups.join(",\n")));
    assert_eq!(config.rules.len(), 300);
}

/// What is set on the command line goes before what the file says that `-F` names.
#[test]
fn a_command_line_that_names_a_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sslh.cfg");
    let config = format!(
        "timeout: 7; user: \"nobody\";\n{}",
        with_protocols("{ name: \"ssh\"; host: \"127.0.0.1\"; port: \"22\"; }")
    );
    std::fs::write(&file, config).expect("it can be written");
    for option in ["-F", "-F ", "--config ", "--config="] {
        let line = format!(
            "DAEMON_OPTS=\"{option}{} --timeout 3 --tls 127.0.0.1:8443\"\n",
            file.display()
        );
        let (imported, config) = import(&line);
        assert_eq!(config.listeners[0].sniff_timeout.as_secs(), 3, "{}", imported.rules);
        let names: Vec<&str> = config.rules.iter().map(|rule| &*rule.name).collect();
        assert_eq!(names, ["ssh", "tls"]);
        assert!(imported.rules.contains("user = \"nobody\""), "{}", imported.rules);
    }
}
