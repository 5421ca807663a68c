//! `mux-bench`: the two ends of a benchmark. `serve` is what the multiplexers forward to, `load`
//! is their client. `cargo xtask bench` runs both; they can be used by hand, too.
//!
//! Both are epoll loops without a runtime, so that what lies between them is most of what is measured. They
//! know nothing of the multiplexers.

mod load;
mod poll;
mod serve;
mod wire;

use std::process::ExitCode;

use clap::Parser;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

/// The two ends of a benchmark
#[derive(Parser, Debug)]
#[command(name = "mux-bench")]
enum Command {
    /// Answer: HTTP, echo, source, sink, TLS alerts; prints the addresses as JSON
    Serve(serve::ServeArgs),
    /// Ask, count, time; prints what was found as JSON
    Load(load::LoadArgs),
}

fn main() -> ExitCode {
    let command = Command::parse();
    raise_descriptor_limit();
    // With xtask, so do we: a killed benchmark leaves nobody behind.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let done = match &command {
        Command::Serve(args) => serve::run(args),
        Command::Load(args) => load::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Refused: what needs more descriptors says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
