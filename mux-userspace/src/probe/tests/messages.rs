//! Messages made by their specifications, out of whatever their fields can hold: each is
//! recognised, at its every split, and tells its fields.

use std::collections::BTreeSet;

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{decides_at, see};
use crate::probe::Verdict;

/// `key=value` pairs, those that there are.
fn told(pairs: &[(&str, Option<String>)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .filter_map(|(key, value)| value.as_ref().map(|value| format!("{key}={value}")))
        .collect();
    pairs.join(" ")
}

/// A name that is shown as it is.
fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_.-]{0,30}"
}

/// A number in base 128 (Minecraft's VarInt, MQTT's variable byte integer).
fn varint(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let more = number > 0x7f;
        bytes.push((number & 0x7f) as u8 | if more { 0x80 } else { 0 });
        if !more {
            return bytes;
        }
        number >>= 7;
    }
}

/// Text after its length.
fn prefixed(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

/// What can be behind the flags of a CONNECT: will, its quality of service, whether it is
/// retained; user name; password; a clean session.
fn valid_mqtt_flags(password_alone: bool) -> BTreeSet<u8> {
    let mut valid = BTreeSet::new();
    let wills = [0].into_iter().chain((0..3).flat_map(|qos| {
        [false, true].map(|retain| 0x04 | qos << 3 | if retain { 0x20 } else { 0 })
    }));
    for will in wills {
        for credentials in [0x00, 0x80, 0xc0, 0x40] {
            for clean in [0x00, 0x02] {
                if credentials != 0x40 || password_alone {
                    valid.insert(will | credentials | clean);
                }
            }
        }
    }
    valid
}

#[test]
fn mqtt_flags() {
    for (name, level, password_alone) in
        [("MQIsdp", 3, false), ("MQTT", 4, false), ("MQTT", 5, true)]
    {
        let valid = valid_mqtt_flags(password_alone);
        for flags in 0..=u8::MAX {
            let start = [&[0x10, 0x40][..], &prefixed(name), &[level, flags]].concat();
            let matches = see("mqtt", &start).is_match();
            assert_eq!(matches, valid.contains(&flags), "level {level}, flags {flags:#04x}");
        }
    }
}

proptest! {
    #[test]
    fn postgres(
        minor in 0_u16..=9999,
        before in vec((name(), name()), 0..4),
        user in name(),
        database in option::of(name()),
        after in vec((name(), "[ -~]{0,40}"), 0..4),
    ) {
        let other = |(key, value): (String, String)| (format!("x{key}"), value);
        let mut pairs: Vec<(String, String)> = before.into_iter().map(other).collect();
        pairs.push(("user".to_owned(), user.clone()));
        pairs.extend(database.clone().map(|database| ("database".to_owned(), database)));
        pairs.extend(after.into_iter().map(other));
        let list: String = pairs.iter().map(|(key, value)| format!("{key}\0{value}\0")).collect();
        let body = [&[0, 3], &minor.to_be_bytes()[..], list.as_bytes(), &[0]].concat();
        let message = [&(body.len() as u32 + 4).to_be_bytes(), &body[..]].concat();
        let expected = told(&[
            ("request", Some("startup".to_owned())),
            ("version", Some(format!("3.{minor}"))),
            ("user", Some(user)),
            ("database", database),
        ]);
        prop_assert_eq!(decides_at("postgres", &message, message.len()), Some(expected));
    }

    #[test]
    fn mysql(
        flags in any::<u32>(),
        packet in any::<u32>(),
        charset in any::<u8>(),
        maria in any::<[u8; 4]>(),
        user in option::of(name()),
        authentication in vec(1_u8.., 0..=250),
        database in name(),
    ) {
        // CLIENT_PROTOCOL_41, no CLIENT_SSL; what says how the authentication comes is as it is.
        let flags = flags & !0x0800 | 0x0200;
        let (mysql, has_database) = (flags & 0x01 != 0, flags & 0x08 != 0);
        let mut payload = [&flags.to_le_bytes()[..], &packet.to_le_bytes(), &[charset]].concat();
        payload.extend([0; 19]);
        payload.extend(if mysql { [0; 4] } else { maria });
        payload.extend(user.iter().flat_map(|user| user.bytes()).chain([0]));
        let at = 4 + payload.len();
        if flags & 0x0020_8000 == 0 {
            payload.extend(authentication.iter().copied().chain([0]));
        } else {
            payload.push(authentication.len() as u8);
            payload.extend(&authentication);
        }
        if has_database {
            payload.extend(database.bytes().chain([0]));
        }
        let length = (payload.len() as u32).to_le_bytes();
        let message = [&length[..3], &[1], &payload].concat();
        let expected = told(&[
            ("request", Some("login".to_owned())),
            ("user", user),
            ("database", has_database.then_some(database)),
        ]);
        prop_assert_eq!(decides_at("mysql", &message, at), Some(expected));
    }

    #[test]
    fn redis(count in 1_u32..1_048_576, command in "[A-Za-z][A-Za-z0-9._-]{0,63}", rest in vec(any::<u8>(), 0..20)) {
        let start = format!("*{count}\r\n${}\r\n{command}\r\n", command.len());
        let message = [start.as_bytes(), &rest].concat();
        let expected = format!("command={command}");
        prop_assert_eq!(decides_at("redis", &message, start.len()), Some(expected));
    }

    #[test]
    fn mqtt(
        level in 3_u8..=5,
        bridge in any::<bool>(),
        keep_alive in any::<u16>(),
        properties in vec(any::<u8>(), 0..200),
        client in option::of(name()),
        more in vec(any::<u8>(), 0..200),
    ) {
        let (name, version) = match level {
            3 => ("MQIsdp", "3.1"),
            4 => ("MQTT", "3.1.1"),
            _ => ("MQTT", "5.0"),
        };
        let level = if bridge && level < 5 { level | 0x80 } else { level };
        let mut body = [&prefixed(name)[..], &[level, 0x02]].concat();
        let flags_end = body.len();
        body.extend(keep_alive.to_be_bytes());
        if level == 5 {
            body.extend(varint(properties.len() as u32));
            body.extend(properties);
        }
        body.extend(prefixed(client.as_deref().unwrap_or("")));
        body.extend(more);
        // MQTT 3.1 wants a character.
        prop_assume!(body.len() > 14);
        let length = varint(body.len() as u32);
        let message = [&[0x10][..], &length, &body].concat();
        let expected = told(&[("version", Some(version.to_owned())), ("client", client)]);
        let at = 1 + length.len() + flags_end;
        prop_assert_eq!(decides_at("mqtt", &message, at), Some(expected));
    }

    #[test]
    fn minecraft(
        version in prop_oneof![0_u32..=0xffff, 0x4000_0000_u32..=0x4000_ffff],
        host in "[a-z0-9.:-]{1,200}",
        added in option::of("\0[!-~]{1,40}\0"),
        port in any::<u16>(),
        state in select(&[(1_u8, "status"), (2, "login"), (3, "transfer")][..]),
        rest in vec(any::<u8>(), 0..20),
    ) {
        let address = format!("{host}{}", added.unwrap_or_default());
        let (number, state) = state;
        let packet = [
            &[0][..],
            &varint(version),
            &varint(address.len() as u32),
            address.as_bytes(),
            &port.to_be_bytes(),
            &[number],
        ]
        .concat();
        let start = [varint(packet.len() as u32), packet].concat();
        let message = [&start[..], &rest].concat();
        let expected = format!("host={host} version={version} state={state}");
        prop_assert_eq!(decides_at("minecraft", &message, start.len()), Some(expected));
    }

    #[test]
    fn rdp(
        source in any::<[u8; 2]>(),
        line in option::of((select(&["mstshash", "msts"][..]), "[a-z0-9.@]{1,60}")),
        protocols in option::of(0_u32..=0x1f),
    ) {
        let mut variable = Vec::new();
        if let Some((key, value)) = &line {
            variable.extend(format!("Cookie: {key}={value}\r\n").into_bytes());
        }
        if let Some(protocols) = protocols {
            variable.extend([1, 0, 8, 0]);
            variable.extend(protocols.to_le_bytes());
        }
        let x224 = [&[0xe0, 0, 0][..], &source, &[0], &variable].concat();
        let length = (x224.len() as u16 + 5).to_be_bytes();
        let message = [&[3, 0][..], &length, &[x224.len() as u8], &x224].concat();
        let names = ["ssl", "hybrid", "rdstls", "hybrid-ex", "rdsaad"];
        let protocols = protocols.map(|bits| match bits {
            0 => "rdp".to_owned(),
            _ => {
                let asked = (0..names.len()).filter(|bit| bits & 1 << bit != 0);
                asked.map(|bit| names[bit]).collect::<Vec<_>>().join(",")
            }
        });
        let of = |wanted| line.iter().find(|(key, _)| *key == wanted).map(|(_, value)| value.clone());
        let expected =
            told(&[("cookie", of("mstshash")), ("token", of("msts")), ("protocols", protocols)]);
        prop_assert_eq!(decides_at("rdp", &message, message.len()), Some(expected));
    }

    #[test]
    fn openvpn(
        session in any::<[u8; 8]>().prop_filter("sessions are not zero", |id| *id != [0; 8]),
        hmac in select(&[16_usize, 20, 28, 32, 48, 64][..]),
        noise in vec(1_u8.., 1100),
        key in 290_usize..=1024,
    ) {
        let time = &noise[..4];
        let framed = |packet: Vec<u8>| [&(packet.len() as u16).to_be_bytes(), &packet[..]].concat();
        let replay = |first: u8| [&[first, 0, 0, 1], time].concat();
        let auth = [&[0x38], &session[..], &noise[..hmac], &replay(0), &[0; 5]].concat();
        let crypt = [&[0x38], &session[..], &replay(0), &noise[..37]].concat();
        let wrapped = [&noise[..key - 2], &(key as u16).to_be_bytes()].concat();
        let v2 = [&[0x50], &session[..], &replay(0x0f), &noise[..37], &wrapped].concat();
        for (packet, control) in [(auth, "tls-auth"), (crypt, "tls-crypt"), (v2, "tls-crypt-v2")] {
            let message = framed(packet);
            let expected = format!("control={control}");
            prop_assert_eq!(decides_at("openvpn", &message, message.len()), Some(expected));
        }
    }

    #[test]
    fn netbios_names(called in "[A-Z0-9-]{1,15}", calling in "[A-Z0-9-]{1,15}") {
        // RFC 1001 14.1: filled with spaces, each half of a byte a letter from A.
        let encoded = |name: &str, kind: u8| {
            let name = format!("{name:<15}").into_bytes().into_iter().chain([kind]);
            let letters = name.flat_map(|byte| [byte >> 4, byte & 0x0f]).map(|half| half + b'A');
            [0x20].into_iter().chain(letters).chain([0]).collect::<Vec<u8>>()
        };
        let names = [encoded(&called, 0x20), encoded(&calling, 0)].concat();
        let message = [&[0x81, 0, 0, 68], &names[..]].concat();
        let expected = format!("called={called}");
        prop_assert_eq!(decides_at("smb", &message, message.len()), Some(expected));
    }
}

#[test]
fn smb_dialects() {
    let dialects = [(0x0202_u16, "2.0.2"), (0x0210, "2.1"), (0x0300, "3.0"), (0x0311, "3.1.1")];
    for count in 1..=dialects.len() {
        let mut message = b"\0\0\0\0\xfeSMB\x40\0".to_vec();
        message.resize(4 + 64, 0);
        message.extend([0x24, 0, count as u8, 0]);
        message.resize(4 + 64 + 36, 0);
        // The highest is the first one.
        let offered = dialects[..count].iter().rev();
        message.extend(offered.flat_map(|(code, _)| code.to_le_bytes()));
        message[3] = message.len() as u8 - 4;
        let Verdict::Match(details) = see("smb", &message) else { panic!("no match") };
        assert_eq!(details.to_string(), format!("version={}", dialects[count - 1].1));
    }
}
