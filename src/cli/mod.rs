//! The command line: arguments to options, one call of the library, and its report to text.
//!
//! Results go to standard output; progress, warnings and errors to standard error. With `--json` standard output holds
//! JSON lines and nothing else. The table from outcome to exit code is [`exit`].

mod args;
mod commands;
mod environment;
mod exit;
mod interrupt;
mod output;
mod progress;

use std::process::ExitCode;

use clap::Parser;

use self::args::Cli;
use self::interrupt::Signals;

/// Parses the arguments, runs the command, and returns its exit code.
pub(crate) fn run() -> ExitCode {
    let mut cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no failure; wrong usage exits with 2.
            return if error.print().is_ok() && !error.use_stderr() { exit::DONE } else { exit::wrong_usage() };
        }
    };
    backuptool::ops::raise_open_file_limit();
    let json = cli.global.json;
    let mut signal = 0;
    let result = Signals::listen().and_then(|signals| {
        cli.global.interruption = signals.interruption();
        let result = commands::run(cli);
        signal = signals.last();
        result
    });
    match result {
        Ok(code) => code,
        Err(error) => {
            output::error(&error, json);
            exit::failed(&error, signal)
        }
    }
}
