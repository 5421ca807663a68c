//! The commands that ask and steer a running daemon, over its admin socket.
//!
//! | file | what it is |
//! |---|---|
//! | `client` | a request and its answer |
//! | `print` | what `status` and `flows` show people |

pub(crate) mod client;
pub(crate) mod print;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::json;

use self::client::{Client, Failure};
use crate::{
    admin::view::{Flows, Status},
    cli::{exit, load},
    logging,
    rules::config::AdminSocket,
    top,
};

/// What can be asked and ordered.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say how the running daemon is
    Status(Shown),
    /// List the flows of the running daemon
    Flows(FlowsArguments),
    /// Watch the running daemon
    Top(Target),
    /// Have the running daemon read its rules file again
    Reload(Shown),
    /// Have the running daemon stop accepting, let its flows end, and exit
    Drain(Shown),
    /// Have a new process take over from the running daemon
    Upgrade(Shown),
    /// Change how much the running daemon logs
    LogLevel {
        /// off, error, warn, info, debug or trace
        #[arg(value_parser = logging::LEVELS)]
        level: String,
        #[command(flatten)]
        shown: Shown,
    },
    /// Take all flows out of the kernel and keep them out (off), or let them go there again (auto)
    Relay {
        #[arg(value_enum)]
        switch: Switch,
        #[command(flatten)]
        shown: Shown,
    },
    /// Reset a flow, both ends of it
    Kill {
        /// As `mux flows` and the access log print it
        id: String,
        #[command(flatten)]
        shown: Shown,
    },
}

/// Which daemon.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Its admin socket; by default /run/mux/admin.sock
    #[arg(long, value_name = "PATH", conflicts_with = "rules")]
    socket: Option<PathBuf>,
    /// Take the socket's path from this rules file
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
}

/// Which daemon, and for whom the answer is.
#[derive(Debug, Args)]
pub(crate) struct Shown {
    #[command(flatten)]
    target: Target,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// `mux flows`.
#[derive(Debug, Args)]
pub(crate) struct FlowsArguments {
    /// Only those of this rule
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// Only those to this upstream
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Only those that are carried so: copy, splice, sockmap or packet
    #[arg(long, value_parser = ["copy", "splice", "sockmap", "packet"])]
    relay: Option<String>,
    /// Only those of clients with this address, or in this network
    #[arg(long, value_name = "ADDR")]
    client: Option<String>,
    /// At most so many; by default 1000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    limit: Option<u32>,
    #[command(flatten)]
    shown: Shown,
}

/// `mux relay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// No flow goes to the kernel, and those that are there leave it
    Off,
    /// By evidence, as the rules say
    Auto,
}

/// Does it.
pub(crate) fn run(command: &Command) -> ExitCode {
    match perform(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Said(code)) => code,
        Err(Stop::Failed(failure)) => {
            eprintln!("error: {failure}");
            exit_code(&failure).into()
        }
        // Whoever read our output has seen enough.
        Err(Stop::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Stop::Output(error)) => {
            eprintln!("error: {error}");
            exit::OTHER.into()
        }
    }
}

/// Why a command did not do what it was to.
enum Stop {
    /// The daemon, or the way there.
    Failed(Failure),
    /// What we write to.
    Output(io::Error),
    /// It has been said already.
    Said(ExitCode),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

fn exit_code(failure: &Failure) -> u8 {
    match failure {
        Failure::NotPermitted { .. } => exit::NOT_PERMITTED,
        Failure::Invalid(_) => exit::USAGE,
        Failure::NobodyThere { .. }
        | Failure::Io { .. }
        | Failure::Http(_)
        | Failure::Refused(_)
        | Failure::Late(_)
        | Failure::Strange(_) => exit::OTHER,
    }
}

fn perform(command: &Command) -> Result<(), Stop> {
    match command {
        Command::Status(shown) => {
            let client = connect(&shown.target)?;
            let answer = client.get("/status")?;
            show(shown, &answer, || Ok(print::status(&client::parse::<Status>(&answer)?)))
        }
        Command::Flows(arguments) => {
            let client = connect(&arguments.shown.target)?;
            let answer = client.get(&arguments.path())?;
            show(&arguments.shown, &answer, || Ok(print::flows(&client::parse::<Flows>(&answer)?)))
        }
        Command::Top(target) => Ok(top::run(connect(target)?)?),
        Command::Reload(shown) => order(shown, "/reload", ""),
        Command::Drain(shown) => order(shown, "/drain", ""),
        Command::Upgrade(shown) => order(shown, "/upgrade", ""),
        Command::LogLevel { level, shown } => order(shown, "/log-level", level),
        Command::Relay { switch, shown } => {
            order(shown, "/relay", if *switch == Switch::Off { "off" } else { "auto" })
        }
        Command::Kill { id, shown } => {
            if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                let why = format!("`{id}` is no flow's id: it has hexadecimal digits only");
                return Err(Failure::Invalid(why).into());
            }
            order(shown, &format!("/flows/{id}/kill"), "")
        }
    }
}

fn connect(target: &Target) -> Result<Client, Stop> {
    let path = match (&target.socket, &target.rules) {
        (Some(path), _) => path.clone(),
        (None, Some(rules)) => match load(rules).map_err(Stop::Said)?.admin.socket {
            Some(socket) => socket.path,
            None => {
                eprintln!(
                    "error: {} has no `[admin] socket`\nhint: {}",
                    rules.display(),
                    client::HOW
                );
                return Err(Stop::Said(exit::CONFIG.into()));
            }
        },
        (None, None) => AdminSocket::PATH.into(),
    };
    Ok(Client::new(path)?)
}

fn order(shown: &Shown, path: &str, word: &str) -> Result<(), Stop> {
    let answer = connect(&shown.target)?.send(Method::POST, path, word)?;
    let said = String::from_utf8_lossy(&answer).trim_end().to_owned();
    let line = if shown.json { json!({ "outcome": said }).to_string() } else { said };
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// Prints an answer as it is, or as people read it.
fn show(
    shown: &Shown,
    answer: &[u8],
    text: impl FnOnce() -> Result<String, Failure>,
) -> Result<(), Stop> {
    let mut output = io::stdout().lock();
    if shown.json {
        output.write_all(answer)?;
    } else {
        output.write_all(text()?.as_bytes())?;
    }
    Ok(output.flush()?)
}

impl FlowsArguments {
    fn path(&self) -> String {
        let limit = self.limit.map(|limit| limit.to_string());
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (key, value) in [
            ("rule", &self.rule),
            ("upstream", &self.upstream),
            ("relay", &self.relay),
            ("client", &self.client),
            ("limit", &limit),
        ] {
            if let Some(value) = value {
                query.append_pair(key, value);
            }
        }
        format!("/flows?{}", query.finish())
    }
}
