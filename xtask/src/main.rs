//! `cargo xtask`: mux's build, run and test commands. Everything that a person or CI has to do
//! to the workspace beyond plain `cargo build` is here, so that no shell script grows.
//!
//! `sh` runs programs; `toolchain` and `apt` find or install what is needed, `root` makes small Debians; `ebpf` builds the kernel
//! half (`strip`), compares it (`object_diff`) and records it (`provenance`); `daemon` builds the rest; `run`,
//! `test` (with `steps`), `torture`, `fuzz`, `matching`, `vm`, `bench`, `dist`, `deb`, `newcomer` and `doctor` are the other commands; `charts` is a step
//! of `test`.

mod apt;
mod bench;
mod charts;
mod daemon;
mod deb;
mod dist;
mod doctor;
mod ebpf;
mod fuzz;
mod matching;
mod newcomer;
mod object_diff;
mod provenance;
mod room;
mod root;
mod run;
mod sh;
mod steps;
mod strip;
mod test;
mod toolchain;
mod torture;
mod vm;

use std::process::ExitCode;

use clap::Parser;

/// mux's build, run and test commands.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Xtask {
    /// Build the daemon, get privileges, and become it
    Run(run::RunArgs),
    /// Run every check
    Test(test::TestArgs),
    /// Send thousands of flows through the daemon and check every byte
    Torture(torture::TortureArgs),
    /// Feed every parser random inputs
    Fuzz(fuzz::FuzzArgs),
    /// Write what a decision costs into docs/internals/performance.md
    Matching(matching::MatchingArgs),
    /// Test the kernel relay on other kernels, in virtual machines
    Vm(vm::VmArgs),
    /// Measure mux against direct access and other multiplexers
    Bench(bench::BenchArgs),
    /// Build the eBPF half and replace (or check) the committed object
    Ebpf(ebpf::EbpfArgs),
    /// Write manual pages and shell completions
    Dist(dist::DistArgs),
    /// Make a Debian package, and try it out
    Deb(deb::DebArgs),
    /// Run README's commands in a fresh Debian, as a new user would
    Newcomer(newcomer::NewcomerArgs),
    /// Show what building, testing and running need, and what to do about what is missing
    Doctor(doctor::DoctorArgs),
}

fn main() -> ExitCode {
    let done = match Xtask::parse() {
        Xtask::Run(args) => run::command(&args),
        Xtask::Test(args) => test::command(args).map(|()| ExitCode::SUCCESS),
        Xtask::Torture(args) => torture::command(&args),
        Xtask::Fuzz(args) => fuzz::command(&args).map(|()| ExitCode::SUCCESS),
        Xtask::Matching(args) => matching::command(&args).map(|()| ExitCode::SUCCESS),
        Xtask::Vm(args) => vm::command(&args).map(|()| ExitCode::SUCCESS),
        Xtask::Bench(args) => bench::command(&args).map(|()| ExitCode::SUCCESS),
        Xtask::Ebpf(args) => ebpf::command(&args).map(|()| ExitCode::SUCCESS),
        Xtask::Dist(args) => dist::command(&args).map(|()| ExitCode::SUCCESS),
        Xtask::Deb(args) => deb::command(&args).map(|()| ExitCode::SUCCESS),
        Xtask::Newcomer(args) => newcomer::command(&args).map(|()| ExitCode::SUCCESS),
        Xtask::Doctor(args) => doctor::command(&args).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
