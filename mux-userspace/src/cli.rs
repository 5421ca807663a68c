//! The command line.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, ValueEnum, error::ErrorKind};
use tracing::warn;

use crate::{
    check, doctor, explain, import, logging,
    probe::Probes,
    remote,
    rules::{
        self, RulesFile,
        config::{Config, ListenAddress, RelayChoice},
    },
    server::{self, Options, Origin, ServeError, SetLevel},
};

/// Exit codes: those of sysexits.h.
pub(crate) mod exit {
    /// The command line is wrong.
    pub(crate) const USAGE: u8 = 64;
    /// The user may not do that.
    pub(crate) const NOT_PERMITTED: u8 = 77;
    /// The configuration is wrong.
    pub(crate) const CONFIG: u8 = 78;
    /// The rest.
    pub(crate) const OTHER: u8 = 1;
}

const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (eBPF object: ",
    env!("MUX_EBPF_ORIGIN"),
    " ",
    env!("MUX_EBPF_HASH"),
    ")"
);

/// One port, many services: sniffs a connection's first bytes, finds the rule that matches,
/// connects to that rule's upstream, and lets the Linux kernel carry the rest.
#[derive(Debug, Parser)]
#[command(name = "mux", version = VERSION, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

/// The daemon's options.
#[derive(Debug, Args)]
struct Serve {
    /// The rules file
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Listen here instead of where the rules file says; may be given again
    #[arg(long, value_name = "ADDR", value_parser = parse_listen)]
    listen: Vec<ListenAddress>,
    /// Relay for all rules, whatever they say; `packet` or `sockmap` makes it fatal that it cannot be had
    #[arg(long, value_enum)]
    relay: Option<Relay>,
    /// Threads; by default one a CPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// off, error, warn, info, debug or trace; RUST_LOG has the last word
    #[arg(long, value_name = "LEVEL", value_parser = logging::LEVELS)]
    log_level: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what is wrong with a rules file, and what is odd about it
    Check(check::Arguments),
    /// Say which rule takes a connection with these first bytes, and why each earlier one does not
    Explain(explain::Arguments),
    /// Say what this kernel and these privileges allow, and what to do about what is missing
    Doctor {
        /// Judge by the `[kernel]` table of this file, and look at what its `source` keys need
        #[arg(long, value_name = "FILE")]
        rules: Option<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print an sslh configuration as a rules file
    Import(import::Arguments),
    #[command(flatten)]
    Remote(remote::Command),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Relay {
    Auto,
    Packet,
    Sockmap,
    Splice,
    Copy,
}

impl From<Relay> for RelayChoice {
    fn from(relay: Relay) -> Self {
        match relay {
            Relay::Auto => Self::Auto,
            Relay::Packet => Self::Packet,
            Relay::Sockmap => Self::Sockmap,
            Relay::Splice => Self::Splice,
            Relay::Copy => Self::Copy,
        }
    }
}

fn parse_listen(text: &str) -> Result<ListenAddress, String> {
    rules::parse_listen(text).map_err(|error| error.to_string())
}

/// Does what the command line says.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
                _ => exit::USAGE,
            };
            // A closed standard output is no reason to fail.
            let _ = error.print();
            return code.into();
        }
    };
    match cli.command {
        None => serve(cli.serve),
        Some(Command::Check(arguments)) => check::run(&arguments),
        Some(Command::Explain(arguments)) => explain::run(&arguments),
        Some(Command::Doctor { rules, json }) => run_doctor(rules.as_deref(), json),
        Some(Command::Import(arguments)) => import::run(&arguments),
        Some(Command::Remote(command)) => remote::run(&command),
    }
}

fn serve(arguments: Serve) -> ExitCode {
    let Serve { rules, listen, relay, threads, log_level } = arguments;
    let Some(path) = rules else {
        eprintln!(
            "error: --rules FILE is missing\nhint: `mux --rules rules.toml`; `mux --help` shows all"
        );
        return exit::USAGE.into();
    };
    // Before there is another thread.
    let started = match server::Started::from_environment() {
        Ok(started) => started,
        Err(error) => {
            eprintln!("error: {error}");
            return exit::USAGE.into();
        }
    };
    let file = match rules::open(&path, &Probes::default()) {
        Ok(file) => file,
        Err(error) => {
            eprintln!("{}", error.render(check::style()).trim_end());
            started.fail(&error.render(rules::Style::Plain));
            return exit::CONFIG.into();
        }
    };
    logging::start(log_level.as_deref().unwrap_or(&file.config.log.level));
    let level = SetLevel(match log_level {
        Some(_) => Box::new(|_: &str| {}),
        None => Box::new(logging::follow),
    });
    log_warnings(&path, &file);
    let mut config = file.config;
    if !listen.is_empty() {
        config = config.with_listen(&listen);
    }
    let path = match std::path::absolute(&path) {
        Ok(path) => path,
        Err(error) => {
            let reason = format!("{}: {error}", path.display());
            eprintln!("error: {reason}");
            started.fail(&reason);
            return exit::OTHER.into();
        }
    };
    let options = Options {
        config,
        relay: relay.map(Into::into),
        threads: threads.map(usize::from),
        origin: Origin { path, listen },
        level,
    };
    let predecessor = started.predecessor.clone();
    match server::run(options, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(predecessor) = predecessor {
                predecessor.fail(&error.to_string());
            }
            exit_code(&error).into()
        }
    }
}

fn exit_code(error: &ServeError) -> u8 {
    match error {
        ServeError::Bind(error) if error.source.kind() == io::ErrorKind::PermissionDenied => {
            exit::NOT_PERMITTED
        }
        ServeError::RelayRequired { permission: true, .. } | ServeError::Transparent { .. } => {
            exit::NOT_PERMITTED
        }
        ServeError::Descriptors(_)
        | ServeError::Privileges(server::privileges::DropError::NoUser(_)) => exit::CONFIG,
        ServeError::AdminSocket { source, .. } => match source.kind() {
            io::ErrorKind::NotFound => exit::CONFIG,
            io::ErrorKind::PermissionDenied => exit::NOT_PERMITTED,
            // Foreign and open-ended.
            _ => exit::OTHER,
        },
        ServeError::AccessLog { source, .. }
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            exit::NOT_PERMITTED
        }
        ServeError::Bind(_)
        | ServeError::RelayRequired { permission: false, .. }
        | ServeError::Kernel(_)
        | ServeError::Packets(_)
        | ServeError::Cancelled
        | ServeError::Passed { .. }
        | ServeError::Privileges(_)
        | ServeError::AccessLog { .. }
        | ServeError::Io { .. } => exit::OTHER,
    }
}

/// Loads a rules file, or says what is wrong with it.
pub(crate) fn load(path: &Path) -> Result<Config, ExitCode> {
    open(path).map(|file| file.config)
}

fn open(path: &Path) -> Result<RulesFile, ExitCode> {
    rules::open(path, &Probes::default()).map_err(|error| {
        eprintln!("{}", error.render(check::style()).trim_end());
        exit::CONFIG.into()
    })
}

/// Logs what is odd about a rules file; not about its surroundings, which may change.
fn log_warnings(path: &Path, file: &RulesFile) {
    for problem in file.report(file.warnings()).problems() {
        warn!("{}", problem.line(path));
    }
}

fn run_doctor(rules: Option<&Path>, json: bool) -> ExitCode {
    logging::start("warn");
    let config = match rules.map(load).transpose() {
        Ok(config) => config.unwrap_or_else(Config::empty),
        Err(code) => return code,
    };
    if !json {
        println!("mux {VERSION}");
    }
    match doctor::run(&config, json, &mut io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => exit::OTHER.into(),
    }
}
