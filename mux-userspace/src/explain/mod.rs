//! `mux explain`: which rule takes a connection with these first bytes, and why each earlier one
//! does not.
//!
//! What it tells is [`route::explain`](crate::route::explain)'s; here are its arguments
//! and its printing.

mod input;
mod text;

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use serde::Serialize;

use self::{input::Input, text::Text};
use crate::{
    cli::{self, exit},
    route::explain::{Fate, Question, Split, Trace, explain},
    rules::{
        self,
        config::{Config, ListenAddress, ListenerConfig},
    },
};

/// Its arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The rules file
    #[arg(long, value_name = "FILE")]
    rules: PathBuf,
    #[command(flatten)]
    input: Source,
    /// The client's IP address; by default 127.0.0.1
    #[arg(long, value_name = "ADDR", value_parser = parse_client)]
    client: Option<IpAddr>,
    /// The listener where it comes in; by default the first, or each where they differ
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// The bytes arrive in chunks of N bytes; of several, each is the size of one chunk
    #[arg(long, value_name = "N", value_delimiter = ',')]
    split: Vec<NonZeroUsize>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Where the first bytes come from; without any, the client is silent.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Source {
    /// The first bytes in hexadecimal; white space, `0x`, `\x`, commas and colons are skipped
    #[arg(long, value_name = "HEX", value_parser = input::parse_hex)]
    hex: Option<input::Hex>,
    /// A file with the first bytes
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The first bytes are on standard input
    #[arg(long)]
    stdin: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    file: String,
    /// Whether the client's address was given.
    client_given: bool,
    /// One for each listener explained.
    traces: &'a [Trace],
}

/// An address with or without a port, such as the access log prints.
fn parse_client(text: &str) -> Result<IpAddr, String> {
    let address =
        text.parse().or_else(|_| text.parse::<SocketAddr>().map(|with_port| with_port.ip()));
    address.map(|ip: IpAddr| ip.to_canonical()).map_err(|_| "this is not an IP address".to_owned())
}

/// Explains, and prints that. Success: a rule takes the connection on every listener explained.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    let config = match cli::load(&arguments.rules) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match explain_to(arguments, &config, &mut io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        // Nobody reads what is printed: the answer is in the exit code all the same.
        Ok(false) => exit::OTHER.into(),
        Err(message) => {
            eprintln!("error: {message}");
            exit::USAGE.into()
        }
    }
}

/// Whether a rule takes it; or what is wrong with the arguments.
fn explain_to(
    arguments: &Arguments,
    config: &Config,
    output: &mut impl Write,
) -> Result<bool, String> {
    let listeners = listeners(config, arguments.listener.as_deref())?;
    let most = listeners.iter().map(|listener| listener.sniff_limit).max().unwrap_or(0);
    let bytes = arguments.input.read(most)?;
    let split = match arguments.split.as_slice() {
        [] => Split::Whole,
        [size] => Split::Every(*size),
        sizes => Split::Sizes(sizes.to_vec()),
    };
    let traces: Vec<Trace> = listeners
        .iter()
        .map(|listener| {
            let client = client(listener, arguments.client);
            explain(&Question { config, listener, client, bytes: &bytes, split: &split })
        })
        .collect();
    let file = arguments.rules.display().to_string();
    let client_given = arguments.client.is_some();
    // A closed standard output is no reason to fail.
    let _ = if arguments.json {
        let report = Report { file, client_given, traces: &traces };
        serde_json::to_writer_pretty(&mut *output, &report)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(output))
    } else {
        let listener_given = arguments.listener.is_some();
        let text = Text { config, file: &file, client_given, listener_given, traces: &traces };
        write!(output, "{text}")
    };
    let is_taken = |trace: &Trace| matches!(trace.fate(), Some(Fate::Routed(_)));
    Ok(traces.iter().all(is_taken))
}

/// Who connects to this listener.
fn client(listener: &ListenerConfig, given: Option<IpAddr>) -> Option<IpAddr> {
    match listener.address {
        // What is passed to mux may be either; most is TCP.
        ListenAddress::Tcp(_) | ListenAddress::Systemd(_) => {
            Some(given.unwrap_or(Ipv4Addr::LOCALHOST.into()))
        }
        ListenAddress::Unix(_) => None,
    }
}

/// The listener of this name; without one, the first, or all where they differ.
fn listeners<'a>(
    config: &'a Config,
    name: Option<&str>,
) -> Result<Vec<&'a ListenerConfig>, String> {
    let all: Vec<&ListenerConfig> = config.listeners.iter().map(AsRef::as_ref).collect();
    if let Some(name) = name {
        let found = all.iter().find(|listener| *listener.name == *name).copied();
        return found.map(|listener| vec![listener]).ok_or_else(|| {
            let names = all.iter().map(|listener| &*listener.name);
            let hint = rules::did_you_mean_or_list(name, names, "listeners", "there is none");
            format!("there is no listener `{name}`\nhint: {hint}")
        });
    }
    match all.split_first() {
        Some((first, rest)) if rest.iter().all(|other| routes_alike(first, other)) => {
            Ok(vec![first])
        }
        Some(_) | None => Ok(all),
    }
}

/// Whether two listeners make the same of the same connection.
fn routes_alike(one: &ListenerConfig, other: &ListenerConfig) -> bool {
    let is_unix = |listener: &ListenerConfig| matches!(listener.address, ListenAddress::Unix(_));
    is_unix(one) == is_unix(other)
        && one.sniff_timeout == other.sniff_timeout
        && one.sniff_limit == other.sniff_limit
        && one.on_timeout == other.on_timeout
        && one.on_no_match == other.on_no_match
        && one.acl == other.acl
        && one.rules.ids().eq(other.rules.ids())
}

impl Source {
    /// The bytes, a few more than `most` at the most, so that it can be told that there are more.
    fn read(&self, most: usize) -> Result<Vec<u8>, String> {
        let Self { hex, file, stdin } = self;
        let input = match (hex, file, stdin) {
            (Some(hex), _, _) => Input::Bytes(hex.bytes()),
            (None, Some(path), _) => Input::File(path),
            (None, None, true) => Input::Standard,
            (None, None, false) => Input::Bytes(&[]),
        };
        input.read(most + 1)
    }
}
