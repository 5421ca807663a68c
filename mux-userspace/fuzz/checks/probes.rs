//! Every probe on any first bytes: it must not panic, must be monotone, must ask for more than it
//! has, and what it tells must be harmless text.

use mux::{Probe, Verdict};

/// Longer inputs take time and show nothing new.
const MOST: usize = 4096;

/// The check.
pub(crate) fn check(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(MOST)];
    for probe in Probe::all() {
        examine(&probe, bytes);
    }
}

fn examine(probe: &Probe, bytes: &[u8]) {
    let whole = probe.examine(bytes);
    // Where it becomes sure, by its own word; every byte of small inputs.
    let mut len = 0;
    let first = loop {
        match probe.examine(&bytes[..len]) {
            Verdict::NeedMore(total) => {
                assert!(total > len, "{probe}: has {len}, asks for {total}");
                len = if bytes.len() <= 256 { len + 1 } else { total };
                if len > bytes.len() {
                    break None;
                }
            }
            sure => break Some((len, sure)),
        }
    };
    match first {
        None => {}
        Some((len, sure)) => assert_eq!(sure, whole, "{probe}: at {len} and at the end"),
    }
    if whole.is_match() {
        assert!(bytes.len() >= probe.shortest_match(), "{probe}");
        let details = probe.details(bytes);
        let text = details.to_string();
        assert!(
            text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()),
            "{probe}: {text}"
        );
        assert!(details.to_json().is_object(), "{probe}");
    }
}
