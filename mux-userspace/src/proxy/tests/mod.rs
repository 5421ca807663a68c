//! Reading and writing headers: known ones, wrong ones, and a second implementation (`ppp`).

mod announce;
mod oracle;
mod v1;
mod v2;

use std::net::SocketAddr;

use super::*;
use crate::probe::Verdict;

fn tcp(source: &str, destination: &str) -> Origin {
    let address = |text: &str| text.parse::<SocketAddr>().expect(text);
    Origin::tcp(address(source), address(destination))
}

/// Checks that all of `header`, and nothing less, is a header; gives it.
#[track_caller]
fn whole(header: &[u8]) -> Header {
    for length in 0..header.len() {
        match examine(&header[..length]) {
            Ok(Examined::NeedMore(total)) => {
                assert!(length < total && total <= header.len(), "{total} of {length}");
            }
            other => panic!("{length} bytes: {other:?}"),
        }
    }
    let Ok(Examined::Complete(found)) = examine(header) else {
        panic!("{}: {:?}", header.escape_ascii(), examine(header));
    };
    assert_eq!(found.length, header.len());
    // What follows changes nothing.
    let longer = [header, b"\r\nPROXY GET / HTTP/1.1\r\n"].concat();
    assert_eq!(parse(&longer), Verdict::Match(found.clone()));
    found
}

/// Checks that bytes are refused for this reason, and that they stay refused.
#[track_caller]
fn refused(bytes: &[u8], reason: Refusal) {
    assert_eq!(examine(bytes), Err(reason), "{}", bytes.escape_ascii());
    assert_eq!(parse(&[bytes, b"\r\n\r\n"].concat()), Verdict::NoMatch);
}
