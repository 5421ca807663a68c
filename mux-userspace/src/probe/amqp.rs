//! AMQP: the protocol header (AMQP 0-9-1 2.2.4 and 4.2.2; AMQP 1.0 2.2, 5.2.1 and 5.3.1).

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict},
};

/// `AMQP`, then a version's four bytes.
const LITERAL: &[u8] = b"AMQP";

/// What follows the literal, and what it stands for.
const VERSIONS: &[(&[u8], Header)] = &[
    // Protocol class and instance, major and minor version.
    (&[0x01, 0x01, 0x08, 0x00], Header::of("0-8")),
    (&[0x01, 0x01, 0x09, 0x01], Header::of("0-8")),
    (&[0x01, 0x01, 0x00, 0x09], Header::of("0-9")),
    (&[0x01, 0x01, 0x00, 0x0a], Header::of("0-10")),
    // A zero, major and minor version, revision.
    (&[0x00, 0x00, 0x09, 0x01], Header::of("0-9-1")),
    // Protocol identifier, major and minor version, revision.
    (&[0x00, 0x01, 0x00, 0x00], Header { version: "1.0", layer: Some("amqp") }),
    (&[0x02, 0x01, 0x00, 0x00], Header { version: "1.0", layer: Some("tls") }),
    (&[0x03, 0x01, 0x00, 0x00], Header { version: "1.0", layer: Some("sasl") }),
];

/// Matches the eight bytes of a header, which are constants.
pub(super) const PROTOCOL: Protocol =
    Protocol { name: "amqp", shortest: LITERAL.len() + 4, members: &[], examine, details };

#[derive(Clone, Copy)]
struct Header {
    version: &'static str,
    /// What comes next, where there is a choice.
    layer: Option<&'static str>,
}

impl Header {
    const fn of(version: &'static str) -> Self {
        Self { version, layer: None }
    }
}

fn examine(bytes: &[u8]) -> Verdict<()> {
    header(bytes).map(|_| ()).into()
}

/// `version`, and in 1.0 `layer`: amqp, tls or sasl.
fn details(bytes: &[u8]) -> Details {
    let Ok(Header { version, layer }) = header(bytes) else { return Details::new() };
    Details::new().with("version", version).with_some("layer", layer)
}

fn header(bytes: &[u8]) -> Result<Header, Stop> {
    let mut scan = Scan::new(bytes);
    scan.literal(LITERAL)?;
    scan.choose(VERSIONS)
}
