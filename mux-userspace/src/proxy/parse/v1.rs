//! Version 1: a line of text (2.1).

use std::{net::IpAddr, str::FromStr};

use super::{
    super::{Extras, Header, MAX_LINE, Origin, Refusal, V1_SIGNATURE, Version, begins_with},
    Examined,
};

/// What can follow `PROXY `.
const TCP4: &[u8] = b"TCP4 ";
const TCP6: &[u8] = b"TCP6 ";
const UNKNOWN: &[u8] = b"UNKNOWN";
const END: &[u8] = b"\r\n";

const NO_LINE: Refusal = Refusal::Malformed("a line of version 1 that does not end in CRLF");

pub(super) fn examine(bytes: &[u8]) -> Result<Examined, Refusal> {
    // Every byte more can decide.
    let more = Ok(Examined::NeedMore(bytes.len() + 1));
    match begins_with(bytes, V1_SIGNATURE) {
        Some(true) => {}
        Some(false) => return Err(Refusal::Missing),
        None => return more,
    }
    let rest = bytes.get(V1_SIGNATURE.len()..).unwrap_or_default();
    let [tcp4, tcp6, unknown] = [TCP4, TCP6, UNKNOWN].map(|word| begins_with(rest, word));
    if [tcp4, tcp6, unknown] == [Some(false); 3] {
        return Err(Refusal::Malformed("neither TCP4, TCP6 nor UNKNOWN"));
    }
    let Some(line) = line(bytes, unknown == Some(true))? else {
        return if bytes.len() >= MAX_LINE { Err(Refusal::TooLong) } else { more };
    };
    let fields = line.get(V1_SIGNATURE.len()..).unwrap_or_default();
    let origin = if tcp4 == Some(true) {
        tcp::<std::net::Ipv4Addr>(fields.get(TCP4.len()..))?
    } else if tcp6 == Some(true) {
        tcp::<std::net::Ipv6Addr>(fields.get(TCP6.len()..))?
    } else if unknown == Some(true) && matches!(fields.get(UNKNOWN.len()), None | Some(b' ')) {
        // What else the line says is to be ignored.
        Origin::Own
    } else {
        return Err(Refusal::Malformed("neither TCP4, TCP6 nor UNKNOWN"));
    };
    let length = line.len() + END.len();
    Ok(Examined::Complete(Header {
        version: Version::V1,
        origin,
        extras: Extras::default(),
        length,
    }))
}

/// The line without its end, if that is there. Beside UNKNOWN, where anything may stand, a CR or
/// LF by itself is wrong as soon as it is seen.
fn line(bytes: &[u8], anything: bool) -> Result<Option<&[u8]>, Refusal> {
    let window = bytes.get(..MAX_LINE).unwrap_or(bytes);
    let end = window.windows(END.len()).position(|pair| pair == END);
    let before = window.get(..end.unwrap_or(window.len())).unwrap_or_default();
    // The last byte may be the CR of an end that is still to come.
    let settled = if end.is_none() { before.strip_suffix(b"\r").unwrap_or(before) } else { before };
    if !anything && settled.iter().any(|byte| END.contains(byte)) {
        return Err(NO_LINE);
    }
    Ok(end.map(|_| before))
}

/// `SOURCE DESTINATION PORT PORT`.
fn tcp<T: FromStr + Into<IpAddr>>(fields: Option<&[u8]>) -> Result<Origin, Refusal> {
    let fields = fields.and_then(|fields| str::from_utf8(fields).ok()).unwrap_or_default();
    let mut fields = fields.split(' ');
    let mut next = || fields.next().unwrap_or_default();
    let addresses = [next(), next()].map(|field| field.parse::<T>().ok().map(Into::into));
    let ports = [next(), next()].map(port);
    let ([Some(source), Some(destination)], None) = (addresses, fields.next()) else {
        return Err(Refusal::Malformed("these are not two addresses of the family"));
    };
    let [Some(source_port), Some(destination_port)] = ports else {
        return Err(Refusal::Malformed("these are not two ports"));
    };
    Ok(Origin::tcp((source, source_port).into(), (destination, destination_port).into()))
}

/// A decimal number without sign or leading zero.
fn port(field: &str) -> Option<u16> {
    let is_plain = field.bytes().all(|byte| byte.is_ascii_digit())
        && (field == "0" || !field.starts_with('0'));
    if is_plain { field.parse().ok() } else { None }
}
