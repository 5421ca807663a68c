//! A SOCKS5 server (RFC 1928) of a few lines, with a web server behind it: for curl.

use anyhow::{Result, ensure};

use crate::{Conn, Server, Upstream};

/// Starts one: every CONNECT to a name succeeds, and HTTP is answered with `socks to NAME:PORT`.
///
/// # Errors
/// bind(2)'s.
pub fn socks_server() -> Result<Server> {
    Upstream::tcp()?.serve(serve)
}

fn serve(conn: Conn) -> Result<()> {
    // Section 3: version, number of methods, methods; "no authentication" is method 0.
    let greeting: [u8; 2] = conn.exact()?;
    ensure!(greeting[0] == 5, "version {}", greeting[0]);
    conn.bytes(usize::from(greeting[1]))?;
    conn.send([5, 0])?;
    // Section 4: version, CONNECT, reserved, address type 3 (a name), its length.
    let request: [u8; 5] = conn.exact()?;
    ensure!(request[..4] == [5, 1, 0, 3], "request {request:?}");
    let name = String::from_utf8(conn.bytes(usize::from(request[4]))?)?;
    let port = u16::from_be_bytes(conn.exact()?);
    // Section 6: succeeded, bound to 0.0.0.0:0.
    conn.send([5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;

    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(conn.bytes(1)?);
    }
    let body = format!("socks to {name}:{port}");
    conn.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    ))?;
    conn.finish()?;
    conn.to_end().map(drop)
}
