//! Servers of one command each: redis-server and mosquitto.

use std::{net::SocketAddr, path::Path, process::Command};

use anyhow::{Context, Result};

use super::ports;
use crate::{Conn, Process, Scratch, eventually};

/// Attempts with other ports.
const ATTEMPTS: usize = 5;

/// A running server.
#[derive(Debug)]
pub struct Broker {
    /// Where it listens.
    pub address: SocketAddr,
    process: Process,
    _scratch: Scratch,
}

impl Broker {
    /// A Redis server without a database on disk.
    ///
    /// # Errors
    /// It does not start, or is not installed.
    pub fn redis() -> Result<Self> {
        Self::start(|address, folder| {
            let mut command = Command::new("redis-server");
            command
                .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
                .args(["--save", "", "--appendonly", "no", "--dir"])
                .arg(folder);
            Ok(command)
        })
    }

    /// An MQTT broker that lets everybody in.
    ///
    /// # Errors
    /// It does not start, or is not installed.
    pub fn mosquitto() -> Result<Self> {
        Self::start(|address, folder| {
            let config = folder.join("mosquitto.conf");
            let text = format!(
                "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\nuser root\n",
                address.port()
            );
            std::fs::write(&config, text)?;
            let mut command = Command::new("mosquitto");
            command.arg("-c").arg(config);
            Ok(command)
        })
    }

    fn start(command: impl Fn(SocketAddr, &Path) -> Result<Command>) -> Result<Self> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match Self::try_start(&command) {
                Ok(broker) => return Ok(broker),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt")?)
    }

    fn try_start(command: impl Fn(SocketAddr, &Path) -> Result<Command>) -> Result<Self> {
        let scratch = Scratch::new()?;
        let address = SocketAddr::from(([127, 0, 0, 1], ports::free_port()?));
        let process = Process::start(&mut command(address, scratch.path())?)?;
        let mut broker = Self { address, process, _scratch: scratch };
        let up = eventually("the server listens", || {
            if let Ok(Some(status)) = broker.process.ended() {
                return Some(Err(anyhow::anyhow!(
                    "it ended: {status}: {:?}",
                    broker.process.err()
                )));
            }
            Conn::tcp(address).is_ok().then_some(Ok(()))
        })?;
        up?;
        Ok(broker)
    }
}
