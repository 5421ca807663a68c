//! A MySQL server of a few lines (client/server protocol, handshake version 10): for the mysql
//! client, which waits for the server to speak.

use anyhow::{Result, ensure};

use crate::{Conn, Server, Upstream};

/// LONG_PASSWORD, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, PLUGIN_AUTH.
const CAPABILITIES: u32 = 0x1 | 0x200 | 0x2000 | 0x8000 | 0x8_0000;
/// utf8mb4_general_ci.
const CHARSET: u8 = 45;
/// SERVER_STATUS_AUTOCOMMIT.
const STATUS: u16 = 2;
const COM_QUIT: u8 = 1;
const COM_QUERY: u8 = 3;

/// Starts one: it lets everybody in, and says OK to every command.
///
/// # Errors
/// bind(2)'s.
pub fn mysql_server() -> Result<Server> {
    Upstream::tcp()?.serve(|conn| serve(&conn))
}

fn serve(conn: &Conn) -> Result<()> {
    send(conn, 0, &greeting())?;
    let (sequence, login) = packet(conn)?;
    ensure!(sequence == 1 && login.len() > 32, "no login: {login:?}");
    send(conn, 2, &ok())?;
    loop {
        let (_, command) = packet(conn)?;
        match command.first() {
            Some(&COM_QUIT) | None => return Ok(()),
            Some(&COM_QUERY) | Some(_) => send(conn, 1, &ok())?,
        }
    }
}

fn greeting() -> Vec<u8> {
    let [a, b, c, d] = CAPABILITIES.to_le_bytes();
    let mut greeting = b"\x0a8.0.0-test\0\x01\0\0\0saltsalt\0".to_vec();
    greeting.extend([a, b, CHARSET]);
    greeting.extend(STATUS.to_le_bytes());
    greeting.extend([c, d, 21]);
    greeting.extend([0; 10]);
    greeting.extend(b"saltsaltsalt\0mysql_native_password\0");
    greeting
}

/// OK_Packet: nothing affected, no insert id, no warnings.
fn ok() -> Vec<u8> {
    let [low, high] = STATUS.to_le_bytes();
    vec![0, 0, 0, low, high, 0, 0]
}

fn send(conn: &Conn, sequence: u8, body: &[u8]) -> Result<()> {
    let [a, b, c, _] = (body.len() as u32).to_le_bytes();
    conn.send([&[a, b, c, sequence], body].concat())
}

/// A packet's sequence number and body.
fn packet(conn: &Conn) -> Result<(u8, Vec<u8>)> {
    let [a, b, c, sequence] = conn.exact()?;
    let length = u32::from_le_bytes([a, b, c, 0]) as usize;
    ensure!(length < 64 * 1024, "length {length}");
    Ok((sequence, conn.bytes(length)?))
}
