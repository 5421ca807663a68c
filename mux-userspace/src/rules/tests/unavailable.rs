//! What the schema has and this version has not is refused by name, never ignored.

use super::*;

#[test]
fn keys_of_later_versions() {
    for (text, what) in [(format!("{LISTEN}{RULE}[admin]\nsocket = '/run/x'\n"), "admin")] {
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
