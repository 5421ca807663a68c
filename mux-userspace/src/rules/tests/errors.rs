//! Everything that can be wrong: where the report points, what it says, and its hint.

use super::*;

/// A file of one rule whose `match` is this.
fn matching(condition: &str) -> String {
    format!("{LISTEN}[[rule]]\nmatch = {condition}\nupstream = 80\n")
}

#[test]
fn a_report_as_people_see_it() {
    let text = "listen = \"0.0.0.0:3000\"\n\n[[rule]]\nmatch = { regex = '^(GET' }\nupstrem = 80\n";
    assert_eq!(
        report(text),
        r#"error: `upstream` is missing in [[rule]]
 --> rules.toml:3:1
  |
3 | [[rule]]
  | ^^^^^^^^
  |
  = hint: add `upstream = "127.0.0.1:80"`

error: this regular expression does not compile
 --> rules.toml:4:19
  |
4 | match = { regex = '^(GET' }
  |                   ^^^^^^^ unclosed group
  |
  = hint: the syntax is that of https://docs.rs/regex, on bytes

error: unknown key `upstrem` in [[rule]]
 --> rules.toml:5:1
  |
5 | upstrem = 80
  | ^^^^^^^
  |
  = hint: did you mean `upstream`?"#
    );
    let LoadError::Invalid(report) = parse("x", text).expect_err("wrong") else { panic!() };
    assert_eq!(report.diagnostics().len(), 3);
    assert!(report.render(Style::Coloured).contains("\u{1b}["));
}

#[test]
fn toml_itself() {
    let hint = "this is not TOML";
    refused("listen = \"a\n", "\n", "invalid basic string", hint);
    refused("listen = 1\nlisten = 2\n", "listen = 2", "duplicate key", hint);
}

#[test]
fn files_without_the_least() {
    refused(RULE, "[[rule]]", "this file does not say where to listen", "add `listen = ");
    refused(LISTEN, "listen", "this file has no rule", "add a `[[rule]]`");
    assert_eq!(report("").matches("error: ").count(), 2);
}

#[test]
fn unknown_keys() {
    for (text, key, place) in [
        (format!("lisen = 1\n{LISTEN}{RULE}"), "lisen", "a rules file"),
        (format!("{LISTEN}{RULE}relai = 'auto'\n"), "relai", "[[rule]]"),
        (format!("[[listener]]\naddress = '127.0.0.1:0'\nnam = 1\n{RULE}"), "nam", "[[listener]]"),
        (
            format!("{LISTEN}{RULE}[[upstream]]\nname = 'a'\nendpoints = [1]\nretry = 1\n"),
            "retry",
            "[[upstream]]",
        ),
        (format!("{LISTEN}{RULE}[timeouts]\nidel = '1s'\n"), "idel", "[timeouts]"),
        (format!("{LISTEN}{RULE}[limits]\nmax_connection = 1\n"), "max_connection", "[limits]"),
        (format!("{LISTEN}{RULE}[log]\nlevels = 'info'\n"), "levels", "[log]"),
        (format!("{LISTEN}{RULE}[security]\nusr = 'a'\n"), "usr", "[security]"),
        (format!("{LISTEN}{RULE}[kernel]\nsock-map = 'off'\n"), "sock-map", "[kernel]"),
        (matching("{ prefix = 'a', regx = 'b' }"), "regx", "`match`"),
        (matching("{ bytes = { hex = '00', ofset = 1 } }"), "ofset", "`bytes`"),
    ] {
        refused(&text, key, &format!("unknown key `{key}` in {place}"), "");
    }
    let report = report(&format!("{LISTEN}{RULE}[security]\nzebra = 1\n"));
    assert!(
        report.ends_with("= hint: keys of [security]: `user`, `landlock`, `seccomp`, `keeper`"),
        "{report}"
    );
}

#[test]
fn wrong_types() {
    for (text, at, message) in [
        (format!("listen = true\n{RULE}"), "true", "expected a string, found a boolean"),
        (format!("{LISTEN}rule = 1\n"), "1\n", "`rule` is a list of tables"),
        (format!("{LISTEN}rule = [1]\n"), "1]", "expected a table, found an integer"),
        (
            format!("{LISTEN}[[rule]]\nupstream = 1.5\n"),
            "1.5",
            "expected an address or a port, found a float",
        ),
        (matching("80"), "80", "expected a probe's name or a table, found an integer"),
        (matching("{ prefix = 1 }"), "1 }", "expected a string, found an integer"),
        (matching("{ all = 'tls' }"), "'tls'", "expected a list, found a string"),
        (
            format!("{LISTEN}{RULE}max_connections = '5'\n"),
            "'5'",
            "expected an integer, found a string",
        ),
        (
            format!("{LISTEN}{RULE}[timeouts]\nidle = 1979-05-27\n"),
            "1979",
            "expected a duration such as \"3s\", found a date",
        ),
        (
            format!("{LISTEN}{RULE}[kernel]\nsend_buffer = []\n"),
            "[]",
            "expected a size such as \"64KiB\", found a list",
        ),
    ] {
        let report = report(&text);
        let line = text[..text.find(at).expect(at)].matches('\n').count() + 1;
        assert!(
            report.starts_with(&format!("error: {message}\n --> rules.toml:{line}:")),
            "{report}"
        );
        assert_eq!(report.matches("= hint: ").count(), 1, "{report}");
    }
}

#[test]
fn numbers_and_units_out_of_range() {
    let kernel = |line: &str| format!("{LISTEN}{RULE}[kernel]\n{line}\n");
    for (text, at, message) in [
        (format!("{LISTEN}[[rule]]\nupstream = 0\n"), "0\n", "this number is out of range"),
        (format!("{LISTEN}[[rule]]\nupstream = 65536\n"), "65536", "this number is out of range"),
        (format!("{LISTEN}{RULE}max_connections = 0\n"), "0\n", "this number is out of range"),
        (
            format!("{LISTEN}{RULE}[limits]\nmax_sniffing = -1\n"),
            "-1",
            "this number is out of range",
        ),
        (kernel("flows = 1048577"), "1048577", "this number is out of range"),
        (kernel("send_buffer = 0"), "0", "this size is out of range"),
        (kernel("send_buffer = '2GiB'"), "'2GiB'", "this size is out of range"),
        (kernel("send_buffer = '2 MiB'"), "'2 MiB'", "`2 MiB` is not a size"),
        (
            format!("{LISTEN}{RULE}[timeouts]\nidle = '1 hour'\n"),
            "'1 hour'",
            "`1 hour` is not a duration",
        ),
        (format!("{LISTEN}{RULE}[timeouts]\nidle = '999d'\n"), "'999d'", "`999d` is too large"),
    ] {
        let report = report(&text);
        assert!(report.starts_with(&format!("error: {message}")), "{at}:\n{report}");
    }
    let listener = |line: &str| format!("[[listener]]\naddress = '[::1]:1'\n{line}\n{RULE}");
    refused(
        &listener("sniff_timeout = '0s'"),
        "'0s'",
        "this duration cannot be zero",
        "write how long",
    );
    refused(&listener("sniff_timeout = 3"), "3\n", "a duration needs a unit", "write \"3s\"");
    let report = report(&listener("sniff_limit = '2MiB'"));
    assert!(report.contains("^^^^^^ not from 1 to 1048576 bytes"), "{report}");
}

#[test]
fn backlog_limit_against_send_buffer() {
    let message = "`backlog_limit` is more than half of `send_buffer`";
    let both = format!("{LISTEN}{RULE}[kernel]\nbacklog_limit = 513\nsend_buffer = '1MiB'\n");
    refused(
        &both.replace("513", "'513KiB'"),
        "'513KiB'",
        message,
        "set `backlog_limit` to at most 524288",
    );
    let one = format!("{LISTEN}{RULE}[kernel]\nsend_buffer = '512KiB'\n");
    refused(&one, "'512KiB'", message, "set `backlog_limit` to at most 262144");
}

#[test]
fn words_that_are_not_of_the_choice() {
    let rest = format!("{LISTEN}{RULE}");
    refused(
        &format!("{rest}relay = 'sockmaps'\n"),
        "'sockmaps'",
        "unknown value `sockmaps`",
        "did you mean `sockmap`?",
    );
    refused(
        &format!("{rest}[log]\nlevel = 'loud'\n"),
        "'loud'",
        "unknown value `loud`",
        "one of: `off`, `error`",
    );
    refused(
        &format!("{rest}[log]\naccess = 'xml'\n"),
        "'xml'",
        "unknown value `xml`",
        "one of: `json`",
    );
    refused(
        &format!("{rest}[kernel]\nsockmap = 'on'\n"),
        "'on'",
        "unknown value `on`",
        "one of: `auto`",
    );
    refused(
        &format!("{rest}[kernel]\npacket = 'yes'\n"),
        "'yes'",
        "unknown value `yes`",
        "one of: `auto`, `force`",
    );
}

#[test]
fn interfaces_that_cannot_be() {
    let rest = format!("{LISTEN}{RULE}[kernel]\n");
    refused(
        &format!("{rest}interfaces = []\n"),
        "[]",
        "without an interface no packet is ever seen",
        "name some, or leave `interfaces` out",
    );
    for name in ["", "..", "eth/0", "a-name-of-16-byte", "eth 0"] {
        refused(
            &format!("{rest}interfaces = ['lo', '{name}']\n"),
            &format!("'{name}'"),
            "this cannot be an interface's name",
            "`ip -brief link`",
        );
    }
    let twice = format!("{rest}interfaces = ['lo', \"lo\"]\n");
    refused(&twice, "\"lo\"", "`lo` stands twice", "leave one of them out");
}

#[test]
fn settings_that_make_no_sense() {
    let rest = format!("{LISTEN}{RULE}");
    let twice = format!("{rest}[log]\naccess = {{ file = '/a' }}\naccess_file = '/b'\n");
    refused(&twice, "'/b'", "the access log's file is given twice", "leave out");
    refused(
        &format!("{rest}[security]\nuser = ''\n"),
        "''",
        "this cannot be a user's name",
        "write `\"nobody\"`",
    );
    refused(
        &format!("{rest}[security]\nseccomp = 'strict'\n"),
        "'strict'",
        "unknown value `strict`",
        "one of: `auto`, `off`",
    );
    let report = report(&format!("{rest}[log]\naccess_file = ''\n"));
    assert!(report.starts_with("error: this cannot be a path"), "{report}");
}

#[test]
fn addresses() {
    let listen = |value: &str| format!("listen = {value}\n{RULE}");
    refused(&listen("3000"), "3000", "a port alone", "write \"0.0.0.0:3000\"");
    refused(&listen("'3000'"), "'3000'", "`3000` is not an address to listen on", "no host");
    refused(&listen("'localhost:1'"), "'localhost:1'", "`localhost:1` is not", "a listener's host");
    refused(&listen("[]"), "[]", "an empty list listens nowhere", "name an address");
    let upstream = |value: &str| format!("{LISTEN}[[rule]]\nupstream = {value}\n");
    refused(&upstream("'::1:80'"), "'::1:80'", "`::1:80` is not an address", "an IPv6 address");
    refused(&upstream("'builtin:x'"), "'builtin:x'", "`builtin:x` is not", "the servers built in");
    refused(&upstream("'http://a:1'"), "'http", "`http://a:1` is not", "this is a URL");
    refused(&upstream("'unix:a'"), "'unix:a'", "`unix:a` is not an address", "the path of a Unix");
    let twice = format!("listen = ['[::1]:1', '[::1]:1' ]\n{RULE}");
    let report = report(&twice);
    assert!(report.contains("two listeners have this address\n --> rules.toml:1:22"), "{report}");
}

#[test]
fn conditions() {
    let everything = "leave `match` out";
    refused(&matching("{}"), "{}", "this condition says nothing", everything);
    refused(
        &matching("{ prefix = '' }"),
        "''",
        "an empty prefix would match everything",
        everything,
    );
    refused(
        &matching("{ prefix_hex = '' }"),
        "''",
        "an empty prefix would match everything",
        everything,
    );
    refused(&matching(r#"{ prefix = "\u0080" }"#), "\"\\u0080", "in TOML, ", "write raw bytes");
    refused(&matching("{ prefix_hex = '160' }"), "'160'", "this is not hexadecimal", "two digits");
    refused(&matching("{ prefix_hex = 'é' }"), "'é'", "this is not hexadecimal", "two digits");
    refused(&matching("{ client = [] }"), "[]", "an empty list of networks", "name at least one");
    refused(&matching("{ client = ['10.0.0.0/33'] }"), "'10.", "`10.0.0.0/33` is neither", "write");
    refused(&matching("{ all = [] }"), "[]", "an empty list says nothing", "name at least one");
    refused(&matching("{ any = ['tls', {}] }"), "{}", "this condition says nothing", everything);
    refused(
        &matching("{ ssh = true }"),
        "ssh",
        "the probe `ssh` takes no value",
        "write `match = \"ssh\"`",
    );
    refused(&matching("'tsl'"), "'tsl'", "unknown probe `tsl`", "did you mean `tls`?");
    refused(&matching("'ftp'"), "'ftp'", "no probe can see `ftp`", "name a rule in the listener's");
    refused(&matching("{ regex = 'a{9999999}' }"), "'a{", "this regular expression does not", "");
    refused(
        &matching("{ bytes = {} }"),
        "{}",
        "`hex` is missing in `bytes`",
        "add `hex = \"0102\"`",
    );
    let mask = report(&matching("{ bytes = { hex = '01', mask = '0102' } }"));
    assert!(mask.contains("the mask has 2 bytes and the value has 1"), "{mask}");
    assert_eq!(report(&matching("{ any = ['tsl', 'shh'] }")).matches("error: ").count(), 2);
}

#[test]
fn names() {
    let rule =
        |name: &str| format!("{LISTEN}[[rule]]\nname = {name}\nmatch = 'ssh'\nupstream = 80\n");
    refused(&rule("'a b'"), "'a b'", "this cannot be a name", "names are 1 to 64 bytes");
    refused(&rule("''"), "''", "this cannot be a name", "names are");
    refused(&rule("'80'"), "'80'", "this cannot be a name: it looks like a port", "begin it with");
    refused(
        &rule("'reset'"),
        "'reset'",
        "a rule cannot be named `reset`",
        "the word has a meaning",
    );
    let twice = format!("{}[[rule]]\nname = \"a\"\nupstream = 81\n", rule("'a'"));
    refused(&twice, "\"a\"", "two rules are named `a`", "rule number 1 has the name already");
    let default = format!("{}{RULE}", rule("'rule-2'"));
    let hint = "`rule-2` is the default name of rule number 2";
    refused(&default, "'rule-2'", "two rules are named `rule-2`", hint);
    let listener = "[[listener]]\nname = 'a'\naddress = '127.0.0.1:0'\n";
    let twice = format!("{listener}{}{RULE}", listener.replace('\'', "\""));
    refused(&twice, "\"a\"", "two listeners are named `a`", "listener number 1");
    let group = "[[upstream]]\nname = 'a'\nendpoints = [1]\n";
    let twice = format!("{LISTEN}{RULE}{group}{}", group.replace('\'', "\""));
    refused(&twice, "\"a\"", "two upstreams are named `a`", "upstream number 1");
    let address = format!("{LISTEN}{RULE}{}", group.replace("'a'", "'a:80'"));
    refused(&address, "'a:80'", "this cannot be a name", "names are");
}

#[test]
fn references() {
    let group = "[[upstream]]\nname = 'web'\nendpoints = [1]\n";
    let upstream = format!("{LISTEN}[[rule]]\nupstream = 'wbe'\n");
    refused(
        &format!("{upstream}{group}"),
        "'wbe'",
        "unknown upstream `wbe`",
        "did you mean `web`?",
    );
    refused(&upstream, "'wbe'", "unknown upstream `wbe`", "write an address");
    let empty = group.replace("[1]", "[]");
    refused(
        &format!("{LISTEN}{RULE}{empty}"),
        "[]",
        "an upstream without endpoints",
        "name at least",
    );

    let listener = |line: &str| {
        format!(
            "[[listener]]\naddress = '[::1]:1'\n{line}\n[[rule]]\nname = 'ssh'\nmatch = 'ssh'\nupstream = 22\n"
        )
    };
    refused(&listener("on_timeout = 'shh'"), "'shh'", "unknown rule `shh`", "did you mean `ssh`?");
    refused(
        &listener("on_no_match = 'x'"),
        "'x'",
        "unknown rule `x`",
        "`close`, `reset` or a rule: `ssh`",
    );
    refused(&listener("rules = ['ssh', 'x']"), "'x'", "unknown rule `x`", "rules: `ssh`");
    refused(&listener("rules = []"), "[]", "a listener without rules", "name rules, or leave");
    refused(
        &listener("rules = [\"ssh\", 'ssh']"),
        "'ssh'",
        "`ssh` stands twice",
        "leave the second",
    );
}

#[test]
fn rules_that_can_never_be_used() {
    let after = |first: &str, second: &str| {
        format!(
            "{LISTEN}[[rule]]\n{first}upstream = 1\n[[rule]] # second\nmatch = {second}\nupstream = 2\n"
        )
    };
    let message = "rule `rule-2` is unreachable on listener `listener-1`";
    let certain = "rule `rule-1`, before it, matches every connection at once";
    refused(&after("", "\"ssh\""), "\"ssh\"", message, certain);
    refused(&after("match = { regex = '.*' }\n", "\"ssh\""), "\"ssh\"", message, certain);
    let same = "rule `rule-1`, before it, matches all that it does";
    refused(&after("match = 'ssh'\n", "\"ssh\""), "\"ssh\"", message, same);
    refused(
        &after("match = { prefix = 'GET' }\n", "{ prefix_hex = '474554' }"),
        "{ prefix_hex",
        message,
        same,
    );
    refused(&after("match = 'http'\n", "'http1'"), "'http1'", message, same);

    let limit = "[[listener]]\naddress = '[::1]:1'\nsniff_limit = 3\n[[rule]]\nmatch = { prefix = 'GET ' }\nupstream = 1\n";
    refused(
        limit,
        "{ prefix",
        "rule `rule-1` can never match on listener `listener-1`",
        "it needs 4 bytes",
    );
    refused(
        &matching(r"{ regex = '[^\x00-\xff]' }"),
        "{ regex",
        "rule `rule-1` can never match",
        "its condition",
    );
    let nobody = "[[listener]]\naddress = '[::1]:1'\nrules = ['a']\n[[rule]]\nname = 'a'\nupstream = 1\n[[rule]]\nmatch = 'tls'\nupstream = 2\n";
    refused(
        nobody,
        "'tls'",
        "rule `rule-2` is unreachable: no listener has it",
        "name it in a listener's",
    );
}

#[test]
fn the_order_is_the_listeners() {
    let file = |rules: &str| {
        format!(
            "[[listener]]\naddress = '[::1]:1'\nrules = [{rules}]\n\
             [[rule]]\nname = 'all'\nupstream = 1\n[[rule]]\nname = 'ssh'\nmatch = 'ssh'\nupstream = 2\n"
        )
    };
    config(&file("'ssh', 'all'"));
    let report = report(&file("'all', 'ssh'"));
    assert!(report.contains("rule `ssh` is unreachable on listener `listener-1`"), "{report}");
}

#[test]
fn files_of_networks_that_cannot_be_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("list");
    let text = format!(
        "{LISTEN}[[rule]]\nmatch = {{ client = ['file:{}'] }}\nupstream = 80\n",
        path.display()
    );
    let at = format!("'file:{}'", path.display());
    let message = "this file of networks cannot be used";
    refused(&text, &at, message, "relative paths are taken from the rules file's directory");
    std::fs::write(&path, "10.0.0.0/8\nlocalhost\n").expect("it can be written");
    refused(&text, &at, message, "a line has one network or address, such as 10.0.0.0/8");
    assert!(report(&text).contains("list:2: `localhost` is neither"), "{}", report(&text));
    refused(
        &text.replace(&at, "'file:'"),
        "'file:'",
        "this cannot be a path",
        "write \"file:/etc/mux/allow.txt\"",
    );
}

#[test]
fn rates() {
    for wrong in ["50", "50/", "/s", "0/s", "5/0s", "-1/s", "5/fortnight", "1/2/s"] {
        refused(
            &format!("{LISTEN}{RULE}[limits]\nper_source = {{ rate = '{wrong}' }}\n"),
            &format!("'{wrong}'"),
            &format!("`{wrong}` is not a rate"),
            "write a count and a time, as in \"50/s\"",
        );
    }
    refused(
        &format!("{LISTEN}{RULE}[limits]\nper_source = {{ conections = 5 }}\n"),
        "conections",
        "unknown key `conections` in `per_source`",
        "did you mean `connections`?",
    );
}
