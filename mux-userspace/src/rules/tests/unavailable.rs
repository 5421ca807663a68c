//! What the schema has and this version has not is refused by name, never ignored.

use super::*;

#[test]
fn socket_activation() {
    refused(
        &format!("listen = 'systemd:web'\n{RULE}"),
        "'systemd",
        "`systemd:web` is not an address to listen on",
        "socket activation (`systemd:`) is not available in this version of mux",
    );
}
