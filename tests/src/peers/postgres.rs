//! A PostgreSQL server of a few lines (protocol 3.0, PostgreSQL documentation 55.7): for psql.

use anyhow::{Result, ensure};

use crate::{Conn, Server, Upstream};

/// Length (8) and code of an SSLRequest and of a GSSENCRequest.
const SSL_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();
const GSS_REQUEST: [u8; 4] = 80_877_104_u32.to_be_bytes();

/// Starts one: it lets everybody in, and answers every query with a row of one column, `answer`.
///
/// # Errors
/// bind(2)'s.
pub fn postgres_server(answer: &'static str) -> Result<Server> {
    Upstream::tcp()?.serve(move |conn| serve(&conn, answer))
}

fn serve(conn: &Conn, answer: &str) -> Result<()> {
    loop {
        let startup = packet(conn)?;
        match startup.first_chunk() {
            // Not encrypted.
            Some(&(SSL_REQUEST | GSS_REQUEST)) => conn.send("N")?,
            Some([0, 3, ..]) => break,
            _ => anyhow::bail!("no startup message: {startup:?}"),
        }
    }
    conn.send(message(b'R', &0_u32.to_be_bytes()))?;
    conn.send(message(b'S', b"server_version\x0015.0\0"))?;
    conn.send(message(b'S', b"client_encoding\0UTF8\0"))?;
    conn.send(message(b'Z', b"I"))?;
    loop {
        let [kind] = conn.exact()?;
        let body = packet(conn)?;
        match kind {
            b'Q' => conn.send(result(answer))?,
            b'X' => return Ok(()),
            _ => anyhow::bail!("message {kind} of {} bytes", body.len()),
        }
    }
}

/// RowDescription, DataRow, CommandComplete, ReadyForQuery.
fn result(answer: &str) -> Vec<u8> {
    // One field: a name, no table, no column, text (25), any length, no modifier, as text.
    let mut row = 1_u16.to_be_bytes().to_vec();
    row.extend(b"answer\0");
    row.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
    let mut data = 1_u16.to_be_bytes().to_vec();
    data.extend((answer.len() as u32).to_be_bytes());
    data.extend(answer.as_bytes());
    [message(b'T', &row), message(b'D', &data), message(b'C', b"SELECT 1\0"), message(b'Z', b"I")]
        .concat()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], (body.len() as u32 + 4).to_be_bytes().as_slice(), body].concat()
}

/// What a length of four bytes, itself included, announces.
fn packet(conn: &Conn) -> Result<Vec<u8>> {
    let length = u32::from_be_bytes(conn.exact()?) as usize;
    ensure!((4..64 * 1024).contains(&length), "length {length}");
    conn.bytes(length - 4)
}
