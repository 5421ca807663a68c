//! `[admin]`.

use super::*;

fn admin(keys: &str) -> String {
    format!("{LISTEN}{RULE}[admin]\n{keys}\n")
}

#[test]
fn nothing_is_open_unless_the_file_says_so() {
    for text in [format!("{LISTEN}{RULE}"), admin("")] {
        let config = config(&text).admin;
        assert!(config.socket.is_none() && config.metrics.is_none());
    }
}

#[test]
fn the_socket_is_its_owners_unless_the_file_says_otherwise() {
    let socket = config(&admin("socket = '/run/mux/admin.sock'")).admin.socket.expect("a socket");
    assert_eq!((socket.mode, socket.group), (0o600, None));
    let keys = "socket = 'unix:/run/a'\nmode = '0660'\ngroup = 'adm'\nmetrics = '[::1]:9090'";
    let config = config(&admin(keys)).admin;
    let socket = config.socket.expect("a socket");
    assert_eq!((socket.path.to_str(), socket.mode), (Some("/run/a"), 0o660));
    assert_eq!(socket.group.as_deref(), Some("adm"));
    assert_eq!(config.metrics, Some("[::1]:9090".parse().expect("an address")));
}

#[test]
fn what_is_wrong_is_refused() {
    let path = "write an absolute path; `metrics` is for a TCP address";
    refused(
        &admin("socket = 'admin.sock'"),
        "'admin",
        "`admin.sock` is not a Unix socket's path",
        path,
    );
    refused(&admin("socket = '127.0.0.1:9'"), "'127.0.0.1:9'", "`127.0.0.1:9` is not a Unix", path);
    for mode in ["rw", "0888", "07777", "1000", "", "+660", "66"] {
        let text = admin(&format!("socket = '/s'\nmode = '{mode}'"));
        let message = format!("`{mode}` is not a file's permissions");
        refused(&text, &format!("'{mode}'\n"), &message, "write them in octal, as in \"0660\"");
    }
    let hint = "write an IP address and a port, such as \"127.0.0.1:9090\"";
    refused(&admin("metrics = '/run/m'"), "'/run/m'", "`/run/m` is not a TCP address", hint);
    assert!(report(&admin("metrics = 9090")).contains("expected a string, found an integer"));
    let message = "there is no socket whose permissions this could be";
    let hint = "add `socket = \"/run/mux/admin.sock\"`";
    refused(&admin("mode = '0660'"), "'0660'", message, hint);
    refused(&admin("metrics = '[::1]:1'\ngroup = 'adm'"), "'adm'", message, hint);
    refused(&admin("sockets = '/s'"), "sockets", "unknown key `sockets`", "did you mean `socket`");
}
