//! A server that sends back what it gets, and a client that checks it.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};

/// What every honest client's stream begins with.
pub(crate) const HEAD: &[u8; 4] = b"PING";
/// Bytes of a message.
pub(crate) const MESSAGE: usize = 64;
const BACKLOG: u32 = 4096;

/// Serves for as long as the runtime lives.
pub(crate) fn serve() -> Result<SocketAddr> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let listener: TcpListener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            tokio::spawn(echo(stream));
        }
    });
    Ok(address)
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; MESSAGE];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read]).await?;
    }
}

/// Sends a message of `number` and waits for it to come back.
pub(crate) async fn exchange(stream: &mut TcpStream, number: u32) -> Result<()> {
    let mut message = [number as u8; MESSAGE];
    message[..HEAD.len()].copy_from_slice(HEAD);
    message[HEAD.len()..HEAD.len() + 4].copy_from_slice(&number.to_be_bytes());
    stream.write_all(&message).await?;
    let mut answer = [0; MESSAGE];
    stream.read_exact(&mut answer).await?;
    ensure!(answer == message, "another answer");
    Ok(())
}
