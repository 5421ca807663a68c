//! What the schema has and this version has not is refused by name, never ignored.

use super::*;

#[test]
fn keys_of_later_versions() {
    let text = format!("{LISTEN}{RULE}[admin]\nsocket = '/run/x'\n");
    refused(&text, "admin", "`admin` is not available in this version of mux", "");
}
