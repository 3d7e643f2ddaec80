//! The commands, one module each: options for the library, one call, the report in words or JSON.

mod check;
mod init;
mod labels;
mod list;
mod pack;
mod prune;
mod repair;
mod restore;
mod snapshot;

use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;

use backuptool::Result;
use backuptool::ops;
use backuptool::progress::Progress;
use backuptool::repo::{Session, SharedRepository};

use super::args::{Cli, Command, DEFAULT_REPOSITORY, Global};
use super::environment;
use super::output::{print, print_json};
use super::progress::TerminalProgress;

/// Runs a command and returns its exit code.
pub(super) fn run(cli: Cli) -> Result<ExitCode> {
    let Cli { global, command } = cli;
    match command {
        Command::Init(args) => init::init(&global, &args),
        Command::Snapshot(args) => snapshot::snapshot(&global, &args),
        Command::List => list::list(&global),
        Command::Restore(args) => restore::restore(&global, &args),
        Command::Tag(args) => labels::tag(&global, args),
        Command::Pin(args) => labels::pin(&global, &args, true),
        Command::Unpin(args) => labels::pin(&global, &args, false),
        Command::Prune(args) => prune::prune(&global, &args),
        Command::Pack => pack::pack(&global),
        Command::Check(args) => check::check(&global, &args),
        Command::Repair(args) => repair::repair(&global, &args),
    }
}

impl Global {
    /// The repository, and whether it was named.
    fn repository(&self) -> (PathBuf, bool) {
        self.repo.as_ref().map_or_else(|| (DEFAULT_REPOSITORY.into(), false), |path| (path.clone(), true))
    }

    fn open(&self, session: &Session<'_>) -> Result<SharedRepository> {
        ops::open(&self.repository().0, session)
    }

    fn session<'a>(&self, command: &str, progress: &'a dyn Progress) -> Session<'a> {
        Session {
            host: environment::host(),
            pid: std::process::id(),
            command: format!("backuptool {command}"),
            start: environment::now(),
            lock_wait: self.lock_wait,
            progress,
            interruption: self.interruption.clone(),
        }
    }

    fn threads(&self) -> NonZero<usize> {
        self.threads.unwrap_or_else(environment::cores)
    }

    fn progress(&self, doing: &'static str) -> TerminalProgress {
        TerminalProgress::new(doing, self.quiet)
    }

    /// Prints the outcome of a command: JSON if that is wanted, else a text, unless it is to be quiet.
    fn report(&self, text: impl FnOnce() -> String, json: &serde_json::Value) -> Result<()> {
        match (self.json, self.quiet) {
            (true, _) => print_json(json),
            (false, false) => print(&text()),
            (false, true) => Ok(()),
        }
    }
}
