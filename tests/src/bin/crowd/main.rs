//! Many connections at once: what an attacker's thousands do to everybody else, and what thousands
//! of spliced flows cost.
//!
//! `cargo build --release -p mux-userspace && cargo run --release -p mux-tests --bin crowd -- loris`,
//! or `-- many`. All of it is on loopback, and bounded in number and time.

mod echo;
mod loris;
mod many;

use anyhow::Result;
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;

/// Many connections at once
#[derive(Debug, Parser)]
#[command(name = "crowd")]
enum Command {
    /// Slow-loris connections, and how long other clients wait meanwhile
    Loris(loris::Arguments),
    /// Spliced flows that are held, then used: memory for each
    Many(many::Arguments),
}

fn main() -> Result<()> {
    let command = Command::parse();
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Loris(arguments) => loris::run(&arguments).await,
            Command::Many(arguments) => many::run(&arguments).await,
        }
    })
}
