//! LDAP requests, against `lber`.

use lber::{
    common::TagClass,
    parse::parse_tag,
    structure::{PL, StructureTag},
};
use proptest::{collection::vec, prelude::*};

use super::see;
use crate::probe::{Details, PeerText, Verdict};

/// An element: a tag, and a length in the short form (0) or in the long one of so many bytes.
fn element(tag: u8, form: usize, content: &[u8]) -> Vec<u8> {
    let length = content.len() as u32;
    let length = match (form, length) {
        (0, 0..0x80) => vec![length as u8],
        // Two bytes are enough for what is made here.
        (0..2, _) => [&[0x82], &length.to_be_bytes()[2..]].concat(),
        _ => [&[0x80 | form as u8], &length.to_be_bytes()[4 - form..]].concat(),
    };
    [&[tag], &length[..], content].concat()
}

/// The fields of a request, each of which may be wrong.
#[derive(Clone, Debug)]
struct Fields {
    form: usize,
    identifier: Vec<u8>,
    tag: u8,
    first: u8,
    name: String,
    choice: u8,
    numbers: [u8; 2],
}

impl Fields {
    fn message(&self) -> Vec<u8> {
        let Self { form, identifier, tag, first, name, choice, numbers } = self;
        let element = |tag, content: &[u8]| element(tag, *form, content);
        let fields = match tag {
            0x60 => vec![
                element(0x02, &[*first]),
                element(0x04, name.as_bytes()),
                element(*choice, &[]),
            ],
            0x63 => {
                let [scope, deref] = *numbers;
                vec![
                    element(0x04, name.as_bytes()),
                    element(0x0a, &[scope]),
                    element(0x0a, &[deref]),
                    element(0x87, b"objectClass"),
                ]
            }
            _ => vec![element(0x80, name.as_bytes())],
        };
        let request = element(*tag, &fields.concat());
        element(0x30, &[element(0x02, identifier), request].concat())
    }
}

fn fields() -> impl Strategy<Value = Fields> {
    let identifier = prop_oneof![
        Just(vec![0x01]),
        Just(vec![0x00, 0xff]),
        vec(any::<u8>(), 1..=5),
        Just(vec![0])
    ];
    let tag = prop_oneof![Just(0x60), Just(0x63), Just(0x77), Just(0x61), Just(0x66)];
    let name = prop_oneof!["[0-9.]{3,40}", "[a-z=,]{0,200}"];
    let choice = prop_oneof![Just(0x80), Just(0xa3), 0x80_u8..0xb0];
    (0_usize..=4, identifier, tag, 1_u8..=4, name, choice, [0_u8..=4, 0_u8..=4]).prop_map(
        |(form, identifier, tag, first, name, choice, numbers)| Fields {
            form,
            identifier,
            tag,
            first,
            name,
            choice,
            numbers,
        },
    )
}

/// What there is to tell of a request, by RFC 4511; `None`: it is none that can be the first.
fn oracle(message: &[u8]) -> Option<Details> {
    let (rest, message) = parse_tag(message).ok()?;
    assert!(rest.is_empty());
    let [identifier, request] = <[_; 2]>::try_from(message.expect_constructed()?).ok()?;
    let identifier = identifier.expect_primitive()?;
    let positive = *identifier.first()? < 0x80 && identifier.iter().any(|&byte| byte != 0);
    if identifier.len() > 4 || !positive {
        return None;
    }
    let (class, id) = (request.class, request.id);
    let mut fields = request.expect_constructed()?.into_iter();
    match (class, id) {
        (TagClass::Application, 0) => {
            let version = *primitive(fields.next()?)?.first()?;
            let name = primitive(fields.next()?)?;
            let choice = fields.next()?;
            let authentication = match (choice.class, choice.id, choice.payload) {
                (TagClass::Context, 0, PL::P(_)) => "simple",
                (TagClass::Context, 3, PL::C(_)) => "sasl",
                (TagClass::Context, 9..=11, PL::P(_)) => "sicily",
                _ => return None,
            };
            let details = named("bind", &name).with("version", version);
            matches!(version, 2 | 3).then(|| details.with("auth", authentication))
        }
        (TagClass::Application, 3) => {
            let base = primitive(fields.next()?)?;
            let numbers = [primitive(fields.next()?)?, primitive(fields.next()?)?];
            numbers.iter().all(|number| matches!(**number, [0..=3])).then(|| named("search", &base))
        }
        (TagClass::Application, 23) => {
            let oid = String::from_utf8(primitive(fields.next()?)?).ok()?;
            let allowed = (3..=128).contains(&oid.len())
                && oid.chars().all(|c| c == '.' || c.is_ascii_digit());
            allowed.then(|| Details::new().with("op", "extended").with("oid", oid))
        }
        _ => None,
    }
}

fn primitive(tag: StructureTag) -> Option<Vec<u8>> {
    tag.expect_primitive()
}

fn named(op: &str, name: &[u8]) -> Details {
    let details = Details::new().with("op", op);
    if name.is_empty() { details } else { details.with("dn", name) }
}

proptest! {
    /// Both read the same out of every request, whatever the form of its lengths.
    #[test]
    fn agrees_with_lber(fields in fields()) {
        let message = fields.message();
        let ours = match see("ldap", &message) {
            Verdict::Match(details) => Some(details),
            Verdict::NoMatch => None,
            Verdict::NeedMore(total) => panic!("{total} of {}", message.len()),
        };
        prop_assert_eq!(ours, oracle(&message), "{:02x?}", message);
    }
}

#[test]
fn long_names_are_cut_where_they_are_shown() {
    let fields = Fields {
        form: 4,
        identifier: vec![1],
        tag: 0x63,
        first: 3,
        name: "x".repeat(4096),
        choice: 0x80,
        numbers: [0, 0],
    };
    let Verdict::Match(details) = see("ldap", &fields.message()) else { panic!("no match") };
    assert!(details.to_string().ends_with("x..."));
    assert!(details.to_string().len() < PeerText::MAX + 20);
    let longer = Fields { name: "x".repeat(4097), ..fields };
    assert_eq!(see("ldap", &longer.message()), Verdict::NoMatch);
}
