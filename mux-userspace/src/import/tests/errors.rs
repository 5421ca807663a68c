//! What is refused, where, and in which words.

use super::{ImportError, import, messages, try_import, with_protocols};

/// Checks that a configuration is refused: message, place, and hint, in that order.
#[track_caller]
fn refused(text: &str, place: &str, message: &str, hint: &str) {
    let error = match try_import(text) {
        Err(error @ ImportError::Invalid(_)) => error.to_string(),
        other => panic!("{text}: {other:?}"),
    };
    let parts =
        [format!("error: {message}\n"), format!("--> sslh.cfg:{place}\n"), format!("hint: {hint}")];
    let mut rest = error.as_str();
    for part in &parts {
        let Some(at) = rest.find(part.as_str()) else { panic!("no {part:?} in:\n{error}") };
        rest = &rest[at + part.len()..];
    }
}

const LISTEN: &str = "listen: ( { host: \"127.0.0.1\"; port: \"443\"; } );";
const PROTOCOLS: &str = "protocols: ( { name: \"ssh\"; host: \"localhost\"; port: \"22\"; } );";

#[test]
fn what_sslh_does_not_start_with_is_refused() {
    let hint = "write `listen: ( { host: \"0.0.0.0\"; port: \"443\"; } );`";
    refused(PROTOCOLS, "1:1", "this configuration has no `listen`", hint);
    refused(&format!("{PROTOCOLS}\nlisten: ();"), "2:1", "`listen` is empty", hint);
    refused(
        &format!("{PROTOCOLS}\nlisten: \"a:443\";"),
        "2:9",
        "`listen` is a list, and this is a string",
        hint,
    );
    refused(
        &format!("{PROTOCOLS}\nlisten: ( \"a:443\" );"),
        "2:11",
        "`listen` is a list of groups, and this is a string",
        hint,
    );
    refused(LISTEN, "1:1", "this configuration has no `protocols`", "write `protocols: (");
    refused(
        &with_protocols("{ host: \"localhost\"; port: \"22\"; }"),
        "3:1",
        "this group has no `name`",
        "add `name: \"…\";`",
    );
    refused(
        &format!("listen: ( {{ host: \"a\" }} );\n{PROTOCOLS}"),
        "1:11",
        "this group has no `port`",
        "add `port: \"…\";`",
    );
    refused("listen = '0.0.0.0';", "1:10", "`'` has no meaning here", "strings stand in");
}

#[test]
fn command_lines_that_are_none() {
    for (line, place, message, hint) in [
        ("\"--user sslh\"", "1:1", "this configuration has no `listen`", "write `listen: ("),
        (
            "\"--listen 10.0.0.1 --ssh a:22\"",
            "1:23",
            "`10.0.0.1` is no address",
            "sslh wants a host and a port",
        ),
        ("'-p 10.0.0.1:443 --ssh'", "1:30", "`--ssh` has no value", "write it after the option"),
        ("'-t soon'", "1:17", "this is no number of seconds", "write, for example, `--timeout 5`"),
        ("\"-nf\"", "1:14", "several options in one word", "write `-n -f`"),
        ("\"-x\"", "1:14", "`-x` is no option of sslh's", "the short ones are"),
        (
            "\"sslh.cfg\"",
            "1:14",
            "`sslh.cfg` belongs to no option",
            "sslh's options begin with `-`",
        ),
        (
            "\"-p $ADDRESS:443\"",
            "1:17",
            "what the shell puts here is not known",
            "write the words themselves",
        ),
        ("\"-p 10.0.0.1:443", "1:13", "this quote does not end", "put the same quote"),
        (
            "-F/nonexistent/sslh.cfg",
            "1:13",
            "cannot read /nonexistent/sslh.cfg: No such file or directory (os error 2)",
            "import the configuration by itself: `mux import`",
        ),
    ] {
        refused(&format!("DAEMON_OPTS={line}\n"), place, message, hint);
    }
}

#[test]
fn all_errors_are_shown_at_once() {
    let text = with_protocols("{ name: \"ssh\"; host: \"a\"; },\n{ name: \"tls\"; port: \"1\"; }");
    let error = try_import(&text).expect_err("two errors").to_string();
    assert!(error.contains("no `port`") && error.contains("sslh.cfg:3:1"), "{error}");
    assert!(error.contains("no `host`") && error.contains("sslh.cfg:4:1"), "{error}");
}

#[test]
fn what_leaves_nothing_is_refused() {
    refused(
        &format!("listen: ( {{ host: \"::\"; port: \"53\"; is_udp: true; }} );\n{PROTOCOLS}"),
        "1:1",
        "nothing that is listened on here is for mux",
        "it is UDP, and mux routes TCP",
    );
    refused(
        &with_protocols(
            "{ name: \"ssh\"; host: \"a\"; port: \"1\"; is_udp: true; },\n\
             { name: \"ssh\"; host: \"a b\"; port: \"1\"; }",
        ),
        "1:1",
        "none of the protocols here is for mux",
        "it is UDP, and mux routes TCP; `a b:1` is no address for mux: the host is neither",
    );
}

#[test]
fn wrong_types_are_left_out_as_sslh_does() {
    let (imported, _) = import(&format!(
        "timeout: true;\non-timeout: 5.0;\nnumeric: 1;\nuser: ( );\n{LISTEN}\n\
         protocols: ( {{ name: \"tls\"; host: \"localhost\"; port: 22; sni_hostnames: \"a\"; \
         minlength: \"x\"; }} );"
    ));
    for (setting, wanted) in [
        ("timeout: true", "an integer here and ignores a boolean"),
        ("on-timeout: 5.0", "a string here and ignores a float"),
        ("numeric: 1", "a boolean here and ignores an integer"),
        ("user: ( )", "a string here and ignores a list `(…)`"),
        ("sni_hostnames: \"a\"", "an array of strings here and ignores a string"),
        ("minlength: \"x\"", "an integer here and ignores a string"),
    ] {
        let message = format!("`{setting}`: sslh wants {wanted}; left out");
        assert!(messages(&imported).contains(&&*message), "{message}\n{:#?}", messages(&imported));
    }
}

#[test]
fn unreadable_files_are_named() {
    let error = crate::import::import("/nonexistent/sslh.cfg".as_ref()).expect_err("not there");
    assert!(matches!(error, ImportError::Io { .. }));
    let text = error.to_string();
    assert!(text.contains("/nonexistent/sslh.cfg") && text.contains("hint: "), "{text}");
}
