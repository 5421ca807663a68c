//! Who is at the other end: PROXY headers, source addresses, the kernel's timers.

use std::{net::Ipv4Addr, time::Duration};

use super::*;
use crate::{
    net::{Peer, TcpTimers},
    proxy::{Trusted, Version},
    route::Networks,
    rules::config::Source,
};

fn listener(address: &str, lines: &str) -> String {
    format!("[[listener]]\naddress = '{address}'\n{lines}\n{RULE}")
}

fn upstream(lines: &str) -> String {
    format!("{LISTEN}[[rule]]\nupstream = 'web'\n[[upstream]]\nname = 'web'\n{lines}\n")
}

#[test]
fn whose_headers_are_believed() {
    let trusted = |address, list| {
        let text = listener(address, &format!("accept_proxy_protocol = {list}"));
        config(&text).listeners[0].accept_proxy.clone().expect("somebody")
    };
    let networks = ["10.0.0.0/8", "::1/128"].map(|text| text.parse().expect(text));
    let expected = Trusted::new(Networks::new(networks).ok(), false);
    assert_eq!(trusted("[::]:1", "['10.0.0.0/8', '::1']"), expected);
    let unix = trusted("/run/mux.sock", "['unix']");
    assert_eq!(unix, Trusted::new(None, true));
    assert!(unix.includes(Peer::Unix));
    assert_eq!(config(&format!("{LISTEN}{RULE}")).listeners[0].accept_proxy, None);
}

#[test]
fn whose_headers_cannot_be_believed() {
    let tcp = |list: &str| listener("[::1]:1", &format!("accept_proxy_protocol = {list}"));
    refused(&tcp("[]"), "[]", "this believes nobody", "name the proxies");
    assert!(report(&tcp("'unix'")).starts_with("error: expected a list, found a string"));
    refused(
        &tcp("['10.0.0.0/8', 'unix']"),
        "'unix'",
        "nobody comes to a TCP port over a Unix socket",
        "name the networks",
    );
    refused(&tcp("['10.0.0.0/33']"), "'10.", "`10.0.0.0/33` is neither", "write");
    let unix = listener("/run/mux.sock", "accept_proxy_protocol = ['unix', '::1']");
    let hint = "write `accept_proxy_protocol = [\"unix\"]`";
    refused(&unix, "'::1'", "peers of a Unix socket are in no network", hint);
}

#[test]
fn headers_that_are_sent() {
    let rule = |upstream: &str, version: &str| {
        format!("{LISTEN}[[rule]]\nproxy_protocol = '{version}'\nupstream = {upstream}\n")
    };
    for version in [Version::V1, Version::V2] {
        let config = config(&rule("80", version.name()));
        assert_eq!(config.rules[0].proxy_protocol, Some(version));
    }
    assert_eq!(config(&format!("{LISTEN}{RULE}")).rules[0].proxy_protocol, None);
    refused(&rule("80", "v3"), "'v3'", "unknown value `v3`", "");
    let message = "`builtin:whoami` takes no PROXY header";
    let hint = "leave `proxy_protocol` out";
    refused(&rule("'builtin:whoami'", "v2"), "'v2'", message, hint);
    let group = "[[upstream]]\nname = 'web'\nendpoints = [80, 'builtin:whoami']\n";
    refused(&format!("{}{group}", rule("'web'", "v1")), "'v1'", message, hint);
}

#[test]
fn addresses_to_connect_from() {
    let source = |value: &str| {
        let text = upstream(&format!("endpoints = ['web.internal:80']\nsource = {value}"));
        config(&text).upstreams[0].source
    };
    let v4 = Some(Ipv4Addr::new(192, 0, 2, 1));
    let v6 = Some("2001:db8::1".parse().expect("an address"));
    assert_eq!(source("'transparent'"), Some(Source::Transparent));
    assert_eq!(source("'192.0.2.1'"), Some(Source::Addresses { v4, v6: None }));
    assert_eq!(source("['2001:db8::1', '192.0.2.1']"), Some(Source::Addresses { v4, v6 }));
    assert_eq!(config(&format!("{LISTEN}{RULE}")).upstreams[0].source, None);
}

#[test]
fn addresses_that_nobody_can_connect_from() {
    let hint = "write an address of this machine";
    let named = |value: &str| upstream(&format!("endpoints = ['a.b:1']\nsource = {value}"));
    for text in ["transparant", "192.0.2.1:80", "10.0.0.0/8", "0.0.0.0", "::", "224.0.0.1"] {
        let message = format!("`{text}` is no address to connect from");
        refused(&named(&format!("'{text}'")), &format!("'{text}'"), &message, hint);
    }
    refused(&named("80"), "80", "expected an address or a list of them, found an integer", hint);
    refused(&named("[]"), "[]", "an empty list of addresses", hint);
    let twice = "['192.0.2.1', '192.0.2.2']";
    let hint = "name at most one IPv4 and one IPv6";
    refused(&named(twice), "'192.0.2.2'", "a second address of this family", hint);

    let other = upstream("endpoints = ['10.0.0.1:1', '[::1]:2']\nsource = '192.0.2.1'");
    let message = "`source` has no IPv6 address, which `[::1]:2` needs";
    refused(&other, "'192.0.2.1'", message, "add one:");
    let unix = upstream("endpoints = ['/run/x']\nsource = 'transparent'");
    let message = "no endpoint of this upstream is connected to by TCP";
    refused(&unix, "'transparent'", message, "leave `source` out");
    // For those that are, it is of use.
    config(&upstream("endpoints = ['/run/x', 80]\nsource = 'transparent'"));
}

#[test]
fn timers_of_the_kernel() {
    let text = format!(
        "[[listener]]\naddress = '[::1]:1'\nkeepalive = '0s'\n[[rule]]\nupstream = 'web'\n\
         [[upstream]]\nname = 'web'\nendpoints = [80]\nuser_timeout = '1500ms'\n\
         [timeouts]\nkeepalive = '1m'\nuser_timeout = '20s'\n"
    );
    let config = config(&text);
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let wide = TcpTimers { keepalive: seconds(60), user_timeout: seconds(20) };
    assert_eq!(config.timeouts.tcp, wide);
    let listener = config.listeners[0].timers.or(wide);
    assert_eq!(listener, TcpTimers { keepalive: seconds(0), ..wide });
    let upstream = config.upstreams[0].timers.or(wide);
    let milliseconds = Some(Duration::from_millis(1500));
    assert_eq!(upstream, TcpTimers { user_timeout: milliseconds, ..wide });
    let plain = super::config(&format!("{LISTEN}{RULE}"));
    assert_eq!(plain.timeouts.tcp, TcpTimers::default());
}

#[test]
fn timers_that_the_kernel_does_not_take() {
    let timeouts = |line: &str| format!("{LISTEN}{RULE}[timeouts]\n{line}\n");
    // Whole seconds, upwards.
    let rounded = config(&timeouts("keepalive = '1500ms'")).timeouts.tcp.keepalive;
    assert_eq!(rounded, Some(Duration::from_secs(2)));
    let message = "this duration is out of range";
    refused(&timeouts("keepalive = '10h'"), "'10h'", message, "write 1s to 32767s");
    refused(&timeouts("user_timeout = '25d'"), "'25d'", message, "write 1ms to 24d");
    refused(&timeouts("keepalive = 60"), "60", "a duration needs a unit", "write \"60s\"");
    let unix = listener("/run/mux.sock", "user_timeout = '1s'");
    refused(&unix, "[[listener]]", "`user_timeout` is for TCP", "leave it out");
}
