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

use backuptool::Error;
use clap::Parser;

use self::args::Cli;
use self::interrupt::Signals;

/// Parses the arguments, runs the command, and returns its exit code.
pub(crate) fn run() -> ExitCode {
    let mut cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() {
                output::note(error.render().to_string().trim_end());
                return exit::wrong_usage();
            }
            // Help and version go to standard output and are no failure.
            return output::print(&error.render().to_string())
                .map_or_else(|error| fail(&error, false, 0), |()| exit::DONE);
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
        Err(error) => fail(&error, json, signal),
    }
}

fn fail(error: &Error, json: bool, signal: i32) -> ExitCode {
    output::error(error, json);
    exit::failed(error, signal)
}
