//! What upstreams are told.

use super::*;
use crate::net::{Stream, Tcp};

/// `openssl s_client -servername a.example -alpn h2,http/1.1`, as far as it matters: a ClientHello
/// with these two extensions.
fn client_hello() -> Vec<u8> {
    let sni = b"\0\0\0\x0e\0\x0c\0\0\x09a.example";
    let alpn = b"\0\x10\0\x0e\0\x0c\x02h2\x08http/1.1";
    let mut extensions = sni.to_vec();
    extensions.extend_from_slice(alpn);
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
    body.extend_from_slice(&extensions);
    let mut message = vec![0x16, 3, 1];
    message.extend_from_slice(&(body.len() as u16 + 4).to_be_bytes());
    message.extend_from_slice(&[1, 0]);
    message.extend_from_slice(&(body.len() as u16).to_be_bytes());
    message.extend_from_slice(&body);
    message
}

/// Runs `test` with a connection accepted on this address, and its client's.
fn with_accepted(listen: &str, test: impl FnOnce(&Stream, SocketAddr)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let accepted = Tcp::new(accepted.into_std().unwrap()).unwrap();
        test(&Stream::Tcp(accepted), client.local_addr().unwrap());
    });
}

fn flow<'a>(accepted: &'a Stream, client: SocketAddr, prefix: &'a [u8]) -> Announcement<'a> {
    Announcement {
        client: Peer::from_ip(client),
        accepted,
        received: None,
        prefix,
        id: "00000000000000ff",
    }
}

#[test]
fn the_client_and_where_it_connected_to() {
    // An IPv4 client of a dual-stack listener is an IPv4 client.
    for listen in ["127.0.0.1:0", "[::]:0"] {
        with_accepted(listen, |accepted, client| {
            let flow = flow(accepted, client, b"GET / HTTP/1.1\r\n");
            let line = String::from_utf8(announce(Version::V1, &flow)).unwrap();
            let start = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} ", client.port());
            assert!(line.starts_with(&start), "{line}");
            let header = whole(&announce(Version::V2, &flow));
            assert_eq!(header.origin, whole(line.as_bytes()).origin);
            assert_eq!(header.extras.unique_id.as_deref(), Some(&b"00000000000000ff"[..]));
            assert_eq!((header.extras.authority, header.extras.alpn), (None, None));
        });
    }
}

#[test]
fn a_client_hello_names_host_and_protocol() {
    with_accepted("127.0.0.1:0", |accepted, client| {
        let hello = client_hello();
        let header = whole(&announce(Version::V2, &flow(accepted, client, &hello)));
        assert_eq!(header.extras.authority.as_deref(), Some(&b"a.example"[..]));
        assert_eq!(header.extras.alpn.as_deref(), Some(&b"h2"[..]));
    });
}

#[test]
fn a_header_that_was_believed_is_passed_on() {
    let extras = Extras {
        authority: Some(b"b.example".as_slice().into()),
        alpn: None,
        unique_id: Some(b"theirs".as_slice().into()),
    };
    let origin = tcp("198.51.100.7:7", "203.0.113.1:443");
    let received = whole(&write::header(Version::V2, &origin, &extras));
    with_accepted("127.0.0.1:0", |accepted, _| {
        let client = "198.51.100.7:7".parse().unwrap();
        let plain = Announcement { received: Some(&received), ..flow(accepted, client, b"GET ") };
        let header = whole(&announce(Version::V2, &plain));
        assert_eq!((&header.origin, &header.extras), (&origin, &extras));
        // What the client says itself is closer to the truth.
        let hello = client_hello();
        let tls = Announcement { prefix: &hello, ..plain };
        let header = whole(&announce(Version::V2, &tls));
        assert_eq!(header.extras.authority.as_deref(), Some(&b"a.example"[..]));
        assert_eq!(header.extras.unique_id, extras.unique_id);
    });
}

#[test]
fn over_a_unix_socket_there_is_a_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mux.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let accepted = Stream::Unix(accepted);
        let flow = Announcement {
            client: Peer::Unix,
            accepted: &accepted,
            received: None,
            prefix: b"",
            id: "1",
        };
        assert_eq!(announce(Version::V1, &flow), b"PROXY UNKNOWN\r\n");
        let Origin::Unix(pair) = whole(&announce(Version::V2, &flow)).origin else { panic!() };
        let name = path.as_os_str().as_encoded_bytes();
        assert!(pair.destination.starts_with(name) && pair.destination[name.len()] == 0);
        assert_eq!(pair.source, [0; SUN_PATH]);
    });
}
