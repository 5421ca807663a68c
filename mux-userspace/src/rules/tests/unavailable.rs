//! What the schema has and this version has not is refused by name, never ignored.

use super::*;

#[test]
fn keys_of_later_versions() {
    let group = "[[upstream]]\nname = 'web'\n";
    for (text, what) in [
        (format!("{LISTEN}{RULE}proxy_protocol = 'v2'\n"), "proxy_protocol"),
        (
            format!("[[listener]]\naddress = '127.0.0.1:0'\naccept_proxy_protocol = []\n{RULE}"),
            "accept_proxy_protocol",
        ),
        (format!("{LISTEN}{RULE}{group}endpoints = [80]\nsource = 'transparent'\n"), "source"),
        (format!("{LISTEN}{RULE}[admin]\nsocket = '/run/x'\n"), "admin"),
    ] {
        let message = format!("`{what}` is not available in this version of mux");
        let at =
            if text.contains(&format!("'{what}'")) { format!("'{what}'") } else { what.into() };
        refused(&text, &at, &message, "");
    }
}

#[test]
fn socket_activation() {
    refused(
        &format!("listen = 'systemd:web'\n{RULE}"),
        "'systemd",
        "`systemd:web` is not an address to listen on",
        "socket activation (`systemd:`) is not available in this version of mux",
    );
}
