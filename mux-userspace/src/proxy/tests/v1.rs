//! Lines.

use super::*;

#[test]
fn lines_of_either_family() {
    let header = whole(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n");
    assert_eq!(header.version, Version::V1);
    assert_eq!(header.origin, tcp("192.168.0.1:56324", "192.168.0.11:443"));
    assert_eq!(header.client(Peer::Unix).to_string(), "192.168.0.1:56324");
    let header = whole(b"PROXY TCP6 2001:DB8::1 ::1 0 65535\r\n");
    assert_eq!(header.origin, tcp("[2001:db8::1]:0", "[::1]:65535"));
    let longest = b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!((longest.len(), whole(longest).length), (104, 104));
}

#[test]
fn mapped_addresses_are_ipv4() {
    let header = whole(b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c000:202 1 2\r\n");
    assert_eq!(header.origin, tcp("192.0.2.1:1", "192.0.2.2:2"));
    // Unless the other one is not: both are of one family.
    let header = whole(b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n");
    let Origin::Tcp { source, destination } = &header.origin else { panic!("{header:?}") };
    assert_eq!(source.to_string(), "[::ffff:192.0.2.1]:1");
    assert_eq!(destination.to_string(), "[2001:db8::1]:2");
    assert_eq!(header.client(Peer::Unix).to_string(), "192.0.2.1:1");
}

#[test]
fn unknown_says_nothing_whatever_else_it_says() {
    let peer = Peer::from_ip("10.0.0.1:1".parse().unwrap());
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_LINE - 16));
    assert_eq!(longest.len(), MAX_LINE);
    for line in [
        "PROXY UNKNOWN\r\n",
        "PROXY UNKNOWN \r\n",
        "PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n",
        "PROXY UNKNOWN \r \n \r\r\n",
        &longest,
    ] {
        let header = whole(line.as_bytes());
        assert_eq!((header.origin.clone(), header.client(peer)), (Origin::Own, peer), "{line:?}");
    }
}

#[test]
fn what_is_no_line() {
    for bytes in ["GET / HTTP/1.1\r\n", "PROXy TCP4", "PROXY\tTCP4", "P\r\n", "\n"] {
        refused(bytes.as_bytes(), Refusal::Missing);
    }
    for words in ["TCP5", "TCP4\r\n", "tcp4 1.2.3.4", " TCP4", "UNKNOWNS\r\n", "UNKNOWN\r\r\n"] {
        let wrong = Refusal::Malformed("neither TCP4, TCP6 nor UNKNOWN");
        refused(format!("PROXY {words}").as_bytes(), wrong);
    }
    let wrong = Refusal::Malformed("a line of version 1 that does not end in CRLF");
    for end in ["\n", "\rx", " \n\r\n", "\r\r\n"] {
        refused(format!("PROXY TCP4 1.2.3.4 1.2.3.4 1 2{end}").as_bytes(), wrong);
    }
    let wrong = Refusal::Malformed("these are not two addresses of the family");
    for fields in [
        "TCP4 1.2.3.4\r\n",
        "TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
        "TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        "TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
        "TCP4 1.2.3.04 1.2.3.4 1 2\r\n",
        "TCP4 1.2.3 1.2.3.4 1 2\r\n",
        "TCP4 ::1 ::1 1 2\r\n",
        "TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        "TCP6 fe80::1%eth0 ::1 1 2\r\n",
        "TCP6 [::1] ::1 1 2\r\n",
        "TCP4 \u{661}.2.3.4 1.2.3.4 1 2\r\n",
    ] {
        refused(format!("PROXY {fields}").as_bytes(), wrong);
    }
    let wrong = Refusal::Malformed("these are not two ports");
    for ports in ["1", "1 ", " 1", "01 2", "1 65536", "+1 2", "-1 2", "1 2x", "x 2"] {
        refused(format!("PROXY TCP4 1.2.3.4 1.2.3.4 {ports}\r\n").as_bytes(), wrong);
    }
}

#[test]
fn a_line_without_an_end_is_not_waited_for() {
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(MAX_LINE));
    assert_eq!(examine(&endless.as_bytes()[..106]), Ok(Examined::NeedMore(107)));
    refused(&endless.as_bytes()[..107], Refusal::TooLong);
    refused(format!("{}\r\n", &endless[..106]).as_bytes(), Refusal::TooLong);
    let endless = format!("PROXY TCP4 {}", "1".repeat(MAX_LINE));
    refused(endless.as_bytes(), Refusal::TooLong);
}

#[test]
fn lines_are_written_as_they_are_read() {
    for (origin, line) in [
        (tcp("192.0.2.1:1", "[::ffff:192.0.2.2]:80"), "PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\n"),
        (tcp("[2001:db8::1]:65535", "[::1]:0"), "PROXY TCP6 2001:db8::1 ::1 65535 0\r\n"),
        (Origin::Own, "PROXY UNKNOWN\r\n"),
    ] {
        let written = write::header(Version::V1, &origin, &Extras::default());
        assert_eq!(written.escape_ascii().to_string(), line.as_bytes().escape_ascii().to_string());
        assert_eq!(whole(&written).origin, origin);
    }
}
