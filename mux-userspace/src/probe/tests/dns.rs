//! DNS queries, against `simple-dns`.

use proptest::prelude::*;
use simple_dns::{
    CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE, rdata::OPT,
};

use super::{decides_at, see};
use crate::probe::{Details, Verdict};

/// A length, and a message.
fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

/// What `simple-dns` makes of a query.
fn query(name: &str, kind: QTYPE, flags: PacketFlag, edns: bool) -> Vec<u8> {
    let mut packet = Packet::new_query(0x6895);
    packet.set_flags(flags);
    let name = Name::new_unchecked(name);
    packet.questions.push(Question::new(name, kind, QCLASS::CLASS(CLASS::IN), false));
    *packet.opt_mut() =
        edns.then(|| OPT { opt_codes: Vec::new(), udp_packet_size: 1232, version: 0 });
    packet.build_bytes_vec().expect("a query")
}

/// A type's name, as far as `simple-dns` knows it.
fn type_name(kind: QTYPE) -> Option<String> {
    match kind {
        QTYPE::TYPE(TYPE::Unknown(_)) => None,
        QTYPE::TYPE(kind) => Some(format!("{kind:?}")),
        kind => Some(format!("{kind:?}")),
    }
}

#[test]
fn types_have_the_names_that_simple_dns_gives_them() {
    let mut compared = 0;
    for code in 1..=u16::MAX {
        let Ok(kind) = QTYPE::try_from(code) else { continue };
        let bytes = framed(&query("a", kind, PacketFlag::empty(), false));
        let told = match see("dns", &bytes) {
            Verdict::Match(details) => details.get("type").map(ToString::to_string),
            other => panic!("{code}: {other:?}"),
        };
        let ours = told.filter(|name| *name != format!("TYPE{code}"));
        if let (Some(ours), Some(theirs)) = (ours, type_name(kind)) {
            assert_eq!(ours, theirs, "{code}");
            compared += 1;
        }
    }
    assert!(compared > 10, "{compared}");
}

/// Flags that a query may have.
fn query_flags() -> impl Strategy<Value = PacketFlag> {
    let flags = [
        PacketFlag::RECURSION_DESIRED,
        PacketFlag::AUTHENTIC_DATA,
        PacketFlag::CHECKING_DISABLED,
        PacketFlag::AUTHORITATIVE_ANSWER,
    ];
    prop::sample::subsequence(flags.to_vec(), 0..=flags.len())
        .prop_map(|flags| flags.into_iter().fold(PacketFlag::empty(), PacketFlag::union))
}

proptest! {
    /// Every query of theirs is recognised at the end of its question, and told as it is.
    #[test]
    fn queries_of_simple_dns_match(
        labels in proptest::collection::vec("[a-z0-9_-]{1,63}", 0..=3),
        kind in 1_u16..300,
        flags in query_flags(),
        edns in any::<bool>(),
        more in proptest::collection::vec(any::<u8>(), 0..9),
    ) {
        let Ok(kind) = QTYPE::try_from(kind) else { return Ok(()) };
        let name = labels.join(".");
        let bytes = [framed(&query(&name, kind, flags, edns)), more].concat();
        let sizes: usize = labels.iter().map(|label| label.len() + 1).sum();
        let told = decides_at("dns", &bytes, 2 + 12 + sizes + 1 + 4);
        let shown = if name.is_empty() { "." } else { &name };
        let expected = Details::new().with("name", shown).to_string();
        prop_assert!(told.is_some_and(|told| told.starts_with(&expected)));
    }

    /// Both agree about every header in front of a question and an OPT record.
    #[test]
    fn headers_agree_with_simple_dns(
        flags in prop_oneof![any::<[u8; 2]>(), any::<u8>().prop_map(|flags| [flags, 0])],
        questions in 0_u8..3,
        edns in any::<bool>(),
    ) {
        let mut message = query("www.example", QTYPE::TYPE(TYPE::A), PacketFlag::empty(), edns);
        message[2..4].copy_from_slice(&flags);
        message[5] = questions;
        let expected = Packet::parse(&message).is_ok_and(|packet| {
            packet.questions.len() == 1
                && [PacketFlag::RESPONSE, PacketFlag::TRUNCATION, PacketFlag::RECURSION_AVAILABLE]
                    .into_iter()
                    .all(|flag| !packet.has_flags(flag))
                && packet.opcode() != OPCODE::Reserved
                && packet.rcode() == RCODE::NoError
        });
        prop_assert_eq!(see("dns", &framed(&message)).is_match(), expected);
    }
}
