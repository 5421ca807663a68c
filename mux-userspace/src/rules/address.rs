//! Addresses, as rules files and the command line write them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use thiserror::Error;

use super::config::{Address, Builtin, ListenAddress};

/// Longest path of a Unix socket: `sun_path` has 108 bytes, one of them for the NUL (unix(7)).
const MAX_UNIX_PATH: usize = 107;
/// Longest host name (RFC 1035 2.3.4, without the length bytes and the root's dot).
const MAX_HOST: usize = 253;
/// Longest label of a host name (RFC 1035 2.3.4).
const MAX_LABEL: usize = 63;

/// Why an address was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// No `:port`.
    #[error("no port: write `host:port`")]
    NoPort,
    /// The port is not a number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// An IPv6 address whose last group could be the port.
    #[error("an IPv6 address stands in brackets: `[::1]:443`")]
    Unbracketed,
    /// `http://…` and the like.
    #[error("this is a URL: write `host:port`, or `unix:/path`")]
    Url,
    /// What stands in brackets is no IPv6 address.
    #[error("what stands in brackets is not an IPv6 address")]
    Ipv6,
    /// Neither an IP address nor a host name.
    #[error("the host is neither an IP address nor a host name")]
    Host,
    /// A listener's host is no IP address.
    #[error("a listener's host is an IP address: `0.0.0.0`, `[::]` or one of this machine's own")]
    ListenHost,
    /// A port alone does not say on which addresses to listen.
    #[error("no host: write `0.0.0.0:PORT`, `[::]:PORT` or `127.0.0.1:PORT`")]
    NoListenHost,
    /// A Unix socket's path is not absolute.
    #[error("the path of a Unix socket is absolute: `unix:/run/x.sock`")]
    RelativePath,
    /// A Unix socket's path is too long for `sun_path`, or has a NUL in it.
    #[error("the path of a Unix socket has at most 107 bytes and no NUL")]
    Path,
    /// No such server in the daemon.
    #[error("the servers built in are `builtin:echo`, `builtin:discard` and `builtin:whoami`")]
    Builtin,
    /// The name of a passed socket.
    #[error(
        "write `systemd:NAME`, the `FileDescriptorName=` of a socket unit: 1 to 255 characters of ASCII, none of them `:`"
    )]
    Systemd,
}

/// Reads an upstream's address: `host:port`, `[v6]:port`, a port alone (then on
/// `127.0.0.1`), `unix:/path`, a bare absolute path, or `builtin:echo|discard|whoami`.
///
/// # Errors
/// [`AddressError`], when it is none of them.
pub fn parse_address(text: &str) -> Result<Address, AddressError> {
    if let Some(path) = unix_path(text) {
        return path.map(Address::Unix);
    }
    if let Some(name) = text.strip_prefix("builtin:") {
        let all = [Builtin::Echo, Builtin::Discard, Builtin::Whoami];
        let builtin = all.into_iter().find(|builtin| builtin.name() == name);
        return builtin.map(Address::Builtin).ok_or(AddressError::Builtin);
    }
    if is_digits(text) {
        return Ok(local_port(upstream_port(text)?));
    }
    match host_and_port(text)? {
        (Host::Ip(ip), port) => Ok(Address::Ip(SocketAddr::new(ip, upstream_port(port)?))),
        (Host::Name(host), port) => {
            let port = upstream_port(port)?;
            if is_host_name(host) {
                Ok(Address::Name { host: host.into(), port })
            } else {
                Err(AddressError::Host)
            }
        }
    }
}

/// `127.0.0.1:port`, which is what a bare port means for an upstream.
pub(super) fn local_port(port: u16) -> Address {
    Address::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// Reads a listener's address: `ip:port`, `[v6]:port`, `unix:/path`, a bare absolute
/// path, or `systemd:NAME`. Port 0 lets the kernel choose.
///
/// # Errors
/// [`AddressError`], when it is none of them.
pub fn parse_listen(text: &str) -> Result<ListenAddress, AddressError> {
    if let Some(path) = unix_path(text) {
        return path.map(ListenAddress::Unix);
    }
    if let Some(name) = text.strip_prefix("systemd:") {
        // `fdname_is_valid` in systemd's fd-util.
        let is_name = (1..=255).contains(&name.len())
            && name.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b':');
        return if is_name {
            Ok(ListenAddress::Systemd(name.to_owned()))
        } else {
            Err(AddressError::Systemd)
        };
    }
    if is_digits(text) || text.starts_with(':') {
        return Err(AddressError::NoListenHost);
    }
    match host_and_port(text)? {
        (Host::Ip(ip), port) => {
            let port = digits(port).ok_or(AddressError::Port)?;
            Ok(ListenAddress::Tcp(SocketAddr::new(ip, port)))
        }
        (Host::Name(_), _) => Err(AddressError::ListenHost),
    }
}

/// The path of `unix:/path` or `/path`; `None` when it is neither.
fn unix_path(text: &str) -> Option<Result<PathBuf, AddressError>> {
    let path = text.strip_prefix("unix:").or_else(|| text.starts_with('/').then_some(text))?;
    Some(if !path.starts_with('/') {
        Err(AddressError::RelativePath)
    } else if path.len() > MAX_UNIX_PATH || path.contains('\0') {
        Err(AddressError::Path)
    } else {
        Ok(path.into())
    })
}

/// The host of `host:port`.
enum Host<'a> {
    Ip(IpAddr),
    Name(&'a str),
}

/// Splits at the last colon and reads IP addresses; leaves port and host name unchecked.
fn host_and_port(text: &str) -> Result<(Host<'_>, &str), AddressError> {
    if text.contains("://") {
        return Err(AddressError::Url);
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or(AddressError::Ipv6)?;
        let address: Ipv6Addr = address.parse().map_err(|_| AddressError::Ipv6)?;
        let port = rest.strip_prefix(':').ok_or(AddressError::NoPort)?;
        return Ok((Host::Ip(address.into()), port));
    }
    let (host, port) = text.rsplit_once(':').ok_or(AddressError::NoPort)?;
    if host.contains(':') {
        return Err(AddressError::Unbracketed);
    }
    Ok((host.parse::<Ipv4Addr>().map_or(Host::Name(host), |ip| Host::Ip(ip.into())), port))
}

/// A port that can be connected to.
fn upstream_port(text: &str) -> Result<u16, AddressError> {
    digits(text).filter(|port| *port != 0).ok_or(AddressError::Port)
}

/// A port in digits alone: `str::parse` would take a `+`.
fn digits(text: &str) -> Option<u16> {
    if is_digits(text) { text.parse().ok() } else { None }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// RFC 1123 2.1, and underscores, which container networks like. A last label of digits
/// alone would be a mistyped IPv4 address.
fn is_host_name(host: &str) -> bool {
    let relative = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    relative.len() <= MAX_HOST
        && relative.split('.').all(is_label)
        && !relative.rsplit('.').next().is_some_and(is_digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_print() {
        for (text, printed) in [
            ("80", "127.0.0.1:80"),
            ("10.0.0.5:443", "10.0.0.5:443"),
            ("[::1]:443", "[::1]:443"),
            ("localhost:8080", "localhost:8080"),
            ("my_app.internal.:1", "my_app.internal.:1"),
            ("unix:/run/sshd.sock", "unix:/run/sshd.sock"),
            ("/run/sshd.sock", "unix:/run/sshd.sock"),
            ("builtin:echo", "builtin:echo"),
            ("builtin:discard", "builtin:discard"),
            ("builtin:whoami", "builtin:whoami"),
        ] {
            let address = parse_address(text).map(|address| address.to_string());
            assert_eq!(address.as_deref(), Ok(printed), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_says_why() {
        let long_path = format!("/{}", "x".repeat(MAX_UNIX_PATH));
        for (text, error) in [
            ("", AddressError::NoPort),
            ("web", AddressError::NoPort),
            ("[::1]", AddressError::NoPort),
            ("[::1]443", AddressError::NoPort),
            ("0", AddressError::Port),
            ("65536", AddressError::Port),
            ("localhost:", AddressError::Port),
            ("localhost:0", AddressError::Port),
            ("localhost:+1", AddressError::Port),
            ("localhost:http", AddressError::Port),
            ("::1:443", AddressError::Unbracketed),
            ("[::1", AddressError::Ipv6),
            ("[localhost]:1", AddressError::Ipv6),
            (":80", AddressError::Host),
            ("256.0.0.1:80", AddressError::Host),
            ("a..b:80", AddressError::Host),
            ("-a:80", AddressError::Host),
            ("a b:80", AddressError::Host),
            ("http://x:80", AddressError::Url),
            ("unix:run/x", AddressError::RelativePath),
            ("/run/\0", AddressError::Path),
            (&long_path, AddressError::Path),
            ("builtin:chargen", AddressError::Builtin),
        ] {
            assert_eq!(parse_address(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn listeners() {
        for (text, expected) in [
            ("0.0.0.0:3000", ListenAddress::Tcp(([0, 0, 0, 0], 3000).into())),
            ("127.0.0.1:0", ListenAddress::Tcp(([127, 0, 0, 1], 0).into())),
            ("[::]:443", ListenAddress::Tcp((Ipv6Addr::UNSPECIFIED, 443).into())),
            ("unix:/run/mux.sock", ListenAddress::Unix("/run/mux.sock".into())),
            ("/run/mux.sock", ListenAddress::Unix("/run/mux.sock".into())),
            ("systemd:web", ListenAddress::Systemd("web".into())),
            ("systemd:mux.socket", ListenAddress::Systemd("mux.socket".into())),
        ] {
            assert_eq!(parse_listen(text), Ok(expected), "{text}");
        }
        for (text, error) in [
            ("3000", AddressError::NoListenHost),
            (":3000", AddressError::NoListenHost),
            ("localhost:3000", AddressError::ListenHost),
            ("0.0.0.0:65536", AddressError::Port),
            ("0.0.0.0", AddressError::NoPort),
            ("unix:mux.sock", AddressError::RelativePath),
            ("systemd:", AddressError::Systemd),
            ("systemd:a:b", AddressError::Systemd),
            ("systemd:\n", AddressError::Systemd),
        ] {
            assert_eq!(parse_listen(text), Err(error), "{text}");
        }
    }
}
