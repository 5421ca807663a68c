//! Writes the `mux` command's manual pages and shell completions; `cargo xtask dist` runs it. Not a
//! part of the command: the daemon has no use for what makes them.
//!
//! `manual DIRECTORY` writes `man/mux.1`, `man/mux-check.1`, …, and `completions/mux.bash`,
//! `completions/_mux` (zsh) and `completions/mux.fish`.

use std::{env, fs, io, path::PathBuf};

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};

fn main() -> io::Result<()> {
    let Some(directory) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "usage: manual DIRECTORY"));
    };
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    for directory in [&man, &completions] {
        fs::create_dir_all(directory)?;
    }
    // `mux help` needs no pages of its own.
    let mut command = mux::cli::Cli::command().disable_help_subcommand(true);
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, "mux", &completions)?;
    }
    clap_mangen::generate_to(command, man)
}
