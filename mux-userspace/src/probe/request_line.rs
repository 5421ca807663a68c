//! The request line of HTTP's relatives: RTSP's (RFC 2326 6.1) and SIP's (RFC 3261 7.1).

use super::{Details, http::is_token, http1::is_target, scan::Scan, verdict::Stop};

/// Longest method believed. `SET_PARAMETER` of RTSP has 13 bytes.
const MAX_METHOD: usize = 32;
/// Longest target believed.
const MAX_TARGET: usize = 2048;

/// `method SP target SP version`, and the line's end.
pub(super) struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a [u8],
    version: &'static [u8],
}

impl RequestLine<'_> {
    /// `method`, `uri` and `version`.
    pub(super) fn details(self) -> Details {
        Details::new()
            .with("method", self.method)
            .with("uri", self.target)
            .with("version", self.version)
    }
}

/// Reads a request line that ends in one of `versions`. A lone LF may end it (RFC 2326 4.1).
pub(super) fn request_line<'a>(
    bytes: &'a [u8],
    versions: &[&'static [u8]],
) -> Result<RequestLine<'a>, Stop> {
    let mut scan = Scan::new(bytes);
    let method = scan.word(MAX_METHOD, is_token)?;
    scan.literal(b" ")?;
    let target = scan.word(MAX_TARGET, is_target)?;
    scan.literal(b" ")?;
    let version = scan.one_of(versions)?;
    scan.line_end()?;
    Ok(RequestLine { method, target, version })
}
