//! `cargo xtask`: mux's build, run and test commands.

mod apt;
mod ebpf;
mod object_diff;
mod provenance;
mod sh;
mod strip;
mod toolchain;

use std::process::ExitCode;

use clap::Parser;

/// mux's build, run and test commands.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Xtask {
    /// Build the eBPF half and replace (or check) the committed object
    Ebpf(ebpf::EbpfArgs),
}

fn main() -> ExitCode {
    let done = match Xtask::parse() {
        Xtask::Ebpf(args) => ebpf::command(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
