//! RFC 7541's own examples, hostile blocks, and another implementation as an oracle.

use proptest::prelude::*;

use super::{Fields, MAX_LIST, decode};

fn shown(fields: &Fields) -> String {
    let lines = fields
        .iter()
        .map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()));
    lines.collect::<Vec<_>>().join(" ")
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

fn decoded(hex: &str) -> Option<String> {
    decode(&bytes(hex)).as_ref().map(shown)
}

/// RFC 7541 appendix C.
#[test]
fn examples() {
    let request = ":method=GET :scheme=http :path=/ :authority=www.example.com";
    for (hex, expected) in [
        (
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            "custom-key=custom-header",
        ),
        ("040c 2f73 616d 706c 652f 7061 7468", ":path=/sample/path"),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", "password=secret"),
        ("82", ":method=GET"),
        ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", request),
        ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", request),
        // 1337, an integer of three bytes, as a size.
        ("3f9a0a 82", ":method=GET"),
        ("", ""),
    ] {
        assert_eq!(decoded(hex).as_deref(), Some(expected), "{hex}");
    }
}

#[test]
fn references_to_the_dynamic_table() {
    assert_eq!(decoded("40016101 62 be").as_deref(), Some("a=b a=b"));
    assert_eq!(decoded("40016101 62 40016301 64 bf be").as_deref(), Some("a=b c=d a=b c=d"));
    // Names, too.
    assert_eq!(decoded("40016101 62 0f2f 0163").as_deref(), Some("a=b a=c"));
    // A table of 34 bytes holds one such field, one of 33 none, one of no size nothing.
    assert_eq!(decoded("3f03 40016101 62 be").as_deref(), Some("a=b a=b"));
    assert_eq!(decoded("3f03 40016101 62 40016301 64 bf"), None);
    assert_eq!(decoded("3f02 40016101 62 be"), None);
    assert_eq!(decoded("20 40016101 62 be"), None);
}

#[test]
fn malformed_blocks() {
    for (hex, why) in [
        ("80", "index 0"),
        ("be", "an index beyond the tables"),
        ("ff80808080 01", "an endless integer"),
        ("ff", "an integer that is cut"),
        ("40", "a name that is not there"),
        ("40016101", "a value that is not there"),
        ("4001610262", "a value that is cut"),
        ("3fe21f", "a table of 4097 bytes"),
        ("82 20", "a size after a field"),
        ("3f", "a size that is cut"),
        ("0001 61 84ffffffff", "the end of string"),
        ("0001 61 81 00", "padding of zeros"),
        ("0001 61 82 1fff", "a byte of padding"),
    ] {
        assert_eq!(decoded(hex), None, "{why}");
    }
    assert_eq!(decoded("3fe11f 82").as_deref(), Some(":method=GET"), "a table of 4096 bytes");
    assert_eq!(decoded("0001 61 81 1f").as_deref(), Some("a=a"), "padding of ones");
}

/// A field of 4,000 bytes in the table, and a byte for each time that it is meant.
#[test]
fn small_blocks_do_not_become_large_lists() {
    let bomb = |references: usize| {
        let mut block = bytes("400161 7fa11e");
        block.extend([b'x'; 4000]);
        block.extend(vec![0xbe; references]);
        decode(&block)
    };
    let most = MAX_LIST / (1 + 4000 + 32);
    let fields = bomb(most - 1).expect("as many as there may be");
    assert_eq!(fields.iter().count(), most);
    assert_eq!(fields.text.len(), 4001);
    assert!(bomb(most).is_none());
    assert!(bomb(60_000).is_none());
}

/// Every code, by the one encoder that is not ours: the values' bytes are all there are.
#[test]
fn every_byte_in_huffman_code() {
    let all: Vec<u8> = (0..=255).collect();
    let coded = huffman(&all);
    let mut block = vec![0x00, 0x01, b'a', 0xff];
    // A length of more than 127: the rest after the prefix, in one byte more or two.
    let mut rest = coded.len() - 127;
    while rest >= 0x80 {
        block.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
    block.extend(&coded);
    let fields = decode(&block).expect("well-formed");
    assert_eq!(fields.iter().next(), Some((&b"a"[..], &all[..])));
    let (_, theirs) = theirs(&block).expect("well-formed").remove(0);
    assert_eq!(theirs, all);
}

/// Encodes by what the decoder is made of; [`theirs`] says whether that is the code.
fn huffman(text: &[u8]) -> Vec<u8> {
    let mut bits = String::new();
    for &byte in text {
        let (code, length) = super::huffman::code_of(byte);
        bits += &format!("{code:0length$b}");
    }
    while !bits.len().is_multiple_of(8) {
        bits.push('1');
    }
    let byte = |bits: &[u8]| bits.iter().fold(0, |byte, bit| byte << 1 | (bit - b'0'));
    bits.as_bytes().chunks(8).map(byte).collect()
}

/// What `loona-hpack` makes of it.
fn theirs(block: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    loona_hpack::Decoder::new().decode(block).ok()
}

/// Blocks of representations that are mostly right.
fn blocks() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        "[a-z/.]{0,9}".prop_map(|text| [&[text.len() as u8][..], text.as_bytes()].concat()),
        "[a-z/.:]{0,9}".prop_map(|text| {
            let coded = huffman(text.as_bytes());
            [&[0x80 | coded.len() as u8][..], &coded].concat()
        }),
    ];
    let name = prop_oneof![
        text.clone().prop_map(|text| (0, text)),
        (1_u8..15).prop_map(|index| (index, vec![]))
    ];
    let literal = (prop::sample::select(vec![0x00_u8, 0x10, 0x40]), name, text)
        .prop_map(|(kind, (index, name), value)| [vec![kind | index], name, value].concat());
    let piece = prop_oneof![
        4 => literal,
        2 => (0x81_u8..0xc5).prop_map(|byte| vec![byte]),
        1 => prop::sample::select(vec![vec![0x20], vec![0x3f, 0x21], vec![0x3f, 0xe1, 0x1f]]),
        1 => proptest::collection::vec(any::<u8>(), 0..3),
    ];
    proptest::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Fields that are decoded, the other decoder reads alike. It takes more than this one
    /// does, such as sizes after fields, but not sizes alone.
    #[test]
    fn agrees_with_loona_hpack(block in blocks()) {
        if let Some(fields) = decode(&block).filter(|fields| fields.iter().next().is_some()) {
            let ours: Vec<(Vec<u8>, Vec<u8>)> =
                fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            prop_assert_eq!(Some(ours), theirs(&block), "{}", block.escape_ascii());
        }
    }

    /// No panic, and no more than a list may have, whatever comes.
    #[test]
    fn anything_is_answered(block in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Some(fields) = decode(&block) {
            let size: usize = fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
            prop_assert!(size <= MAX_LIST);
        }
    }
}
