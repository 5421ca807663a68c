//! Any bytes as a PROXY header: monotone, bounded, never a panic.

use mux::{Verdict, proxy::parse};

/// The check.
pub(crate) fn check(bytes: &[u8]) {
    let whole = parse(bytes);
    if let Verdict::Match(header) = &whole {
        assert!(header.length <= bytes.len());
        let _ = header.details().to_json();
    }
    for len in 0..bytes.len().min(512) {
        match parse(&bytes[..len]) {
            Verdict::NeedMore(total) => assert!(total > len),
            sure => assert_eq!(sure, whole, "at {len}"),
        }
    }
}
