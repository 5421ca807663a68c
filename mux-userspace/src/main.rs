//! The `mux` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == mux::server::KEEPER) {
        return mux::server::run_keeper(arguments);
    }
    mux::cli::run()
}
