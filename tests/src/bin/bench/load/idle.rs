//! Connections that are silent for the time of the window. They are opened one after the other:
//! how fast that goes is not what is asked.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    LoadArgs,
    report::{Report, Tally, event},
};
use crate::{poll::Target, wire::ECHO};

/// Bytes of a message.
const SIZE: usize = 64;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens the connections, exchanges some messages on each, holds them, asks each once more.
///
/// # Errors
/// A connection cannot be opened. One that does not answer is a fault in the report.
pub(crate) fn hold(args: &LoadArgs, exchanges: u32) -> Result<Report> {
    let Target::Tcp(address) = &args.target else { bail!("idle connections are TCP's") };
    let mut tally = Tally::new()?;
    let mut streams = Vec::new();
    for number in 0..args.connections {
        let open = || -> Result<TcpStream> {
            let mut stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            (0..exchanges).try_for_each(|_| exchange(&mut stream))?;
            Ok(stream)
        };
        streams.push(open().with_context(|| format!("connection {number}"))?);
    }
    event("warm")?;
    thread::sleep(args.warm_up());
    event("counting")?;
    let start = Instant::now();
    thread::sleep(args.window());
    let elapsed = start.elapsed();
    event("counted")?;
    for stream in &mut streams {
        let begun = Instant::now();
        match exchange(stream) {
            Ok(()) => tally.unit(SIZE as u64, begun.elapsed()),
            Err(error) => tally.fault(format!("after the silence: {error:#}")),
        }
    }
    Ok(Report { tally, elapsed })
}

fn exchange(stream: &mut (impl Read + Write)) -> Result<()> {
    let mut message = [b'i'; SIZE];
    for (to, from) in message.iter_mut().zip(ECHO) {
        *to = *from;
    }
    stream.write_all(&message)?;
    let mut answer = [0; SIZE];
    stream.read_exact(&mut answer)?;
    ensure!(answer == message, "an answer is not what it should be");
    Ok(())
}
