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

use backuptool::error::number_ranges;
use backuptool::ops;
use backuptool::progress::Progress;
use backuptool::repo::{Session, SharedRepository};
use backuptool::{Error, Result};

use super::args::{Cli, Command, DEFAULT_REPOSITORY, Global};
use super::environment;
use super::output::{print, print_json, snapshots};
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

/// So many lost refs are rather one stray file with a high number.
const MANY_LOST: usize = 1000;

/// Why refs cannot be read, a line each, but only one for all that are `lost`; and what to do next, if that is wanted.
fn unreadable_refs(unreadable: &[&(u64, Error)], lost: &[u64], with_next: bool) -> Vec<String> {
    let (lost, others): (Vec<_>, Vec<_>) =
        unreadable.iter().copied().partition(|(number, _)| lost.binary_search(number).is_ok());
    let say = |(_, error): &(u64, Error)| -> String { if with_next { error.to_string() } else { error.reason() } };
    if lost.len() < 2 {
        return unreadable.iter().map(|one| say(one)).collect();
    }
    let numbers: Vec<u64> = lost.iter().map(|(number, _)| *number).collect();
    let mut line = format!(
        "the refs of {} are lost: there are none, and nothing says that the snapshots were removed",
        snapshots(&numbers)
    );
    if with_next {
        line.push_str(&format!("; {}", to_bring_refs(&numbers)));
    }
    if lost.len() > MANY_LOST {
        line.push_str("; or is the file in `snapshots` with the highest number not one of this repository?");
    }
    others.into_iter().map(say).chain([line]).collect()
}

/// What to do where the refs of these snapshots are damaged or lost.
fn to_bring_refs(numbers: &[u64]) -> String {
    let named = number_ranges(numbers).replace(", ", ",");
    format!(
        "run `backuptool repair --from COPY` with another copy of the repository; if there is none, \
         `backuptool prune --snapshot={named}` gives up {}",
        snapshots(numbers)
    )
}
