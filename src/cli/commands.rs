//! The commands: options for the library, one call, the report in words or JSON.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use backuptool::error::ObjectProblem;
use backuptool::object::{self, display_bytes};
use backuptool::ops::address::{self, Address};
use backuptool::ops::check::{self, CheckReport};
use backuptool::ops::list;
use backuptool::ops::prune::{self, PrunePlan};
use backuptool::ops::restore::{self, RestoreOptions};
use backuptool::ops::snapshot::{self, SnapshotOptions, SnapshotReport};
use backuptool::progress::Progress;
use backuptool::repo::{self, InitOptions, Session, SharedRepository};
use backuptool::store::{Backend, LocalBackend};
use backuptool::{Error, Result};
use serde_json::json;
use std::os::unix::ffi::OsStrExt;

use super::args::{Cli, Command, DEFAULT_REPOSITORY, Global, Init, Prune, Restore, Snapshot};
use super::output::{count, local_time, note, print, print_json, size};
use super::progress::TerminalProgress;
use super::{environment, exit};

/// Runs a command and returns its exit code.
pub(super) fn run(cli: Cli) -> Result<ExitCode> {
    let Cli { global, command } = cli;
    match command {
        Command::Init(args) => init(&global, &args),
        Command::Snapshot(args) => snapshot(&global, &args),
        Command::List => list(&global),
        Command::Restore(args) => restore(&global, &args),
        Command::Prune(args) => prune(&global, args),
        Command::Check => check(&global),
    }
}

impl Global {
    /// The repository, and whether it was named.
    fn repository(&self) -> (PathBuf, bool) {
        self.repo.as_ref().map_or_else(|| (DEFAULT_REPOSITORY.into(), false), |path| (path.clone(), true))
    }

    fn open(&self, session: &Session<'_>) -> Result<SharedRepository> {
        SharedRepository::open(repo::local(&self.repository().0)?, session)
    }

    fn session<'a>(&self, command: &str, progress: &'a dyn Progress) -> Session<'a> {
        Session {
            host: environment::host(),
            pid: std::process::id(),
            command: format!("backuptool {command}"),
            start: environment::now(),
            lock_wait: self.lock_wait,
            progress,
        }
    }

    fn threads(&self) -> std::num::NonZero<usize> {
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

fn make_repository(path: &Path, options: &InitOptions, session: &Session<'_>) -> Result<()> {
    let backend: Arc<dyn Backend> = Arc::new(LocalBackend::make(path)?);
    repo::init(backend, options, session).map(|_| ())
}

fn init(global: &Global, args: &Init) -> Result<ExitCode> {
    let progress = global.progress("making");
    let (path, _) = global.repository();
    let options = InitOptions { hash: args.hash.into(), chunks: args.chunk_size };
    make_repository(&path, &options, &global.session("init", &progress))?;
    global.report(
        || format!("made a repository in {}\n", path.display()),
        &json!({"type": "init", "repository": path.display().to_string(), "hash": options.hash.name()}),
    )?;
    Ok(exit::DONE)
}

fn snapshot(global: &Global, args: &Snapshot) -> Result<ExitCode> {
    let progress = global.progress("storing");
    let session = global.session("snapshot", &progress);
    let source = args.target_directory.as_ref().or(args.directory.as_ref());
    // One of them is there: the parser requires it.
    let source = environment::absolute(source.map_or(Path::new("."), PathBuf::as_path))?;
    backuptool::fs::SourceDir::open(&source)?;
    let repo = match global.open(&session) {
        // A place that was named is not made into a repository: its disk may not be mounted.
        Err(Error::NoRepository { .. }) if !global.repository().1 => {
            let (path, _) = global.repository();
            make_repository(&path, &InitOptions::default(), &session)?;
            note(&format!("backuptool: made a new repository in {}", path.display()));
            global.open(&session)?
        }
        other => other?,
    };
    let user = environment::user();
    let options = SnapshotOptions {
        source: &source,
        user: user.as_bytes(),
        clock: environment::now,
        utc_offset: environment::time_zone().to_offset(session.start).seconds(),
        allow_empty: args.allow_empty,
        sync: args.fsync.into(),
        threads: global.threads(),
    };
    let report = snapshot::snapshot(&repo, &options, &session);
    progress.finish();
    let report = report?;
    global.report(|| snapshot_text(&report), &snapshot_json(&report))?;
    let wholly = report.snapshot.incomplete.count == 0 && !(args.strict && report.snapshot.changed.count > 0);
    Ok(exit::done(wholly))
}

fn snapshot_text(report: &SnapshotReport) -> String {
    let object::Snapshot { number, counts, added, incomplete, changed, .. } = &report.snapshot;
    let mut text = format!(
        "snapshot {number}: {}, {}, {}, {}\nnew: {}, {}, {} compressed\ntook {:.1} s\n",
        count(counts.files, "file"),
        count(counts.dirs, "directory"),
        count(counts.symlinks, "symbolic link"),
        size(counts.bytes),
        count(added.objects, "object"),
        size(added.bytes),
        size(added.stored),
        report.elapsed.as_secs_f64(),
    );
    let mut remark = |number: u64, noun: &str, what: &str| {
        if number > 0 {
            text.push_str(&format!("{}: {what}\n", count(number, noun)));
        }
    };
    remark(report.special, "socket, FIFO or device file", "not stored");
    remark(changed.count, "file", "changed each time it was read; the last reading is stored");
    remark(report.replaced, "damaged object", "stored again");
    remark(incomplete.count, "path", "could not be read and is not in the snapshot");
    text
}

fn snapshot_json(report: &SnapshotReport) -> serde_json::Value {
    let snapshot = &report.snapshot;
    json!({
        "type": "snapshot",
        "snapshot": snapshot.number,
        "tree": snapshot.tree.to_string(),
        "files": snapshot.counts.files,
        "dirs": snapshot.counts.dirs,
        "symlinks": snapshot.counts.symlinks,
        "bytes": snapshot.counts.bytes,
        "added_objects": snapshot.added.objects,
        "added_bytes": snapshot.added.bytes,
        "added_stored": snapshot.added.stored,
        "special": report.special,
        "changed": snapshot.changed.count,
        "incomplete": snapshot.incomplete.count,
        "replaced": report.replaced,
        "seconds": report.elapsed.as_secs_f64(),
    })
}

fn list(global: &Global) -> Result<ExitCode> {
    let progress = global.progress("listing");
    let repo = global.open(&global.session("list", &progress))?;
    let listing = list::list(&repo)?;
    if global.json {
        for snapshot in &listing.snapshots {
            print_json(&json!({
                "type": "snapshot",
                "snapshot": snapshot.number,
                "timestamp": snapshot.start.to_string(),
                "host": display_bytes(&snapshot.host),
                "user": display_bytes(&snapshot.user),
                "source": display_bytes(&snapshot.source),
                "tree": snapshot.tree.to_string(),
                "bytes": snapshot.counts.bytes,
                "files": snapshot.counts.files,
                "dirs": snapshot.counts.dirs,
                "symlinks": snapshot.counts.symlinks,
                "added_stored": snapshot.added.stored,
                "incomplete": snapshot.incomplete.count,
                "changed": snapshot.changed.count,
            }))?;
        }
    } else {
        let zone = environment::time_zone();
        let mut text = format!("{:<8}  {:<19}  {:>9}  {:>9}  SOURCE\n", "SNAPSHOT", "TIMESTAMP", "SIZE", "FILES");
        for snapshot in &listing.snapshots {
            let incomplete = if snapshot.incomplete.count > 0 { "  (incomplete)" } else { "" };
            text.push_str(&format!(
                "{:<8}  {:<19}  {:>9}  {:>9}  {}{incomplete}\n",
                snapshot.number,
                local_time(snapshot.start, &zone),
                size(snapshot.counts.bytes),
                snapshot.counts.files,
                display_bytes(&snapshot.source),
            ));
        }
        print(&text)?;
    }
    for (_number, error) in &listing.unreadable {
        note(&format!("backuptool: {error}"));
    }
    Ok(exit::done(listing.unreadable.is_empty()))
}

fn restore(global: &Global, args: &Restore) -> Result<ExitCode> {
    let progress = global.progress("restoring");
    let session = global.session("restore", &progress);
    let address = Address::parse(&args.snapshot_number)?;
    let paths = args.paths.iter().map(|path| address::parse_path(path)).collect::<Result<Vec<_>>>()?;
    let repo = global.open(&session)?;
    let output = environment::absolute(&args.output_directory)?;
    let options = RestoreOptions { address: &address, output: &output, paths: &paths, threads: global.threads() };
    let report = restore::restore(&repo, &options, &progress);
    progress.finish();
    let report = report?;
    let text = || {
        let mut text = format!(
            "restored snapshot {} to {}: {}, {}, {}, {}\ntook {:.1} s\n",
            report.number,
            output.display(),
            count(report.restored.files, "file"),
            count(report.restored.dirs, "directory"),
            count(report.restored.symlinks, "symbolic link"),
            size(report.restored.bytes),
            report.elapsed.as_secs_f64(),
        );
        if !report.failures.is_empty() {
            let failures = count(report.failures.len() as u64, "path");
            text.push_str(&format!("{failures} could not be restored (named above)\n"));
        }
        text
    };
    let failures: Vec<_> = report
        .failures
        .iter()
        .map(|(path, error)| json!({"path": display_bytes(path.as_os_str().as_bytes()), "error": error.to_string()}))
        .collect();
    let json = json!({
        "type": "restore",
        "snapshot": report.number,
        "files": report.restored.files,
        "dirs": report.restored.dirs,
        "symlinks": report.restored.symlinks,
        "bytes": report.restored.bytes,
        "failures": failures,
        "seconds": report.elapsed.as_secs_f64(),
    });
    global.report(text, &json)?;
    Ok(exit::done(report.failures.is_empty()))
}

fn prune(global: &Global, args: Prune) -> Result<ExitCode> {
    let progress = global.progress("pruning");
    let session = global.session("prune", &progress);
    let repo = global.open(&session)?;
    let mut numbers = args.snapshots;
    numbers.sort_unstable();
    numbers.dedup();
    let plan = prune::plan(&repo, &numbers)?;
    for id in &plan.missing {
        note(&format!(
            "backuptool: object {id}, which a snapshot that stays needs, is missing; see `backuptool check`"
        ));
    }
    if args.dry_run {
        let json = json!({
            "type": "prune",
            "dry_run": true,
            "snapshots": plan.remove,
            "objects": plan.dead.len(),
            "bytes": plan.dead_bytes,
        });
        global.report(|| plan_text(&plan), &json)?;
        return Ok(exit::DONE);
    }
    let report = prune::execute(repo, plan, &session)?;
    let text = || {
        format!(
            "removed {}: {}\nfreed {} in {}\ntook {:.1} s\n",
            if report.removed.len() == 1 { "snapshot" } else { "snapshots" },
            numbers_text(&report.removed),
            size(report.bytes),
            count(report.objects, "object"),
            report.elapsed.as_secs_f64(),
        )
    };
    let json = json!({
        "type": "prune",
        "dry_run": false,
        "snapshots": report.removed,
        "objects": report.objects,
        "bytes": report.bytes,
        "seconds": report.elapsed.as_secs_f64(),
    });
    global.report(text, &json)?;
    Ok(exit::DONE)
}

fn plan_text(plan: &PrunePlan) -> String {
    format!(
        "would remove {}: {}\nwould keep: {}\nwould free {} in {}\n",
        if plan.remove.len() == 1 { "snapshot" } else { "snapshots" },
        numbers_text(&plan.remove),
        if plan.keep.is_empty() { "nothing".to_string() } else { numbers_text(&plan.keep) },
        size(plan.dead_bytes),
        count(plan.dead.len() as u64, "object"),
    )
}

fn numbers_text(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

fn check(global: &Global) -> Result<ExitCode> {
    let progress = global.progress("checking");
    let repo = global.open(&global.session("check", &progress))?;
    let report = check::check(&repo, global.threads(), &progress);
    progress.finish();
    let report = report?;
    if global.json {
        print_json(&check_json(&report))?;
    } else if !global.quiet || !report.is_clean() {
        print(&check_text(&report))?;
    }
    Ok(exit::checked(report.is_clean()))
}

fn check_text(report: &CheckReport) -> String {
    let mut text = format!(
        "checked {}, {}, {} in {:.1} s\n",
        count(report.snapshots, "snapshot"),
        count(report.objects, "object"),
        size(report.bytes),
        report.elapsed.as_secs_f64(),
    );
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    for (_number, error) in &report.unreadable {
        line(format!("damaged: {error}"));
    }
    for (id, damage) in &report.damaged {
        line(match &damage.problem {
            ObjectProblem::Missing => format!("missing: object {id}"),
            ObjectProblem::Damaged(reason) => format!("damaged: object {id}: {reason}"),
        });
        if damage.files.is_empty() {
            line("  no snapshot needs it".into());
        }
        for (path, snapshots) in &damage.files {
            let path = if path.is_empty() { "the top directory".to_string() } else { display_bytes(path) };
            line(format!("  {path} (snapshot {})", numbers_text(snapshots)));
        }
    }
    let leftovers = &report.leftovers;
    if leftovers.unneeded > 0 {
        line(format!(
            "note: no snapshot needs {}; the next prune removes what is unneeded",
            count(leftovers.unneeded, "object")
        ));
    }
    if leftovers.staging > 0 {
        line(format!(
            "note: {} of interrupted runs; the next snapshot or prune removes them",
            count(leftovers.staging, "staging directory")
        ));
    }
    for number in &leftovers.half_removed {
        line(format!("note: the removal of snapshot {number} was interrupted; the next prune completes it"));
    }
    for path in &leftovers.strangers {
        line(format!("note: {} is not a file of a repository", display_bytes(path.as_bytes())));
    }
    if report.is_clean() {
        line("no damage found".into());
    } else {
        let whole = if report.whole.is_empty() { "none".to_string() } else { numbers_text(&report.whole) };
        line(format!("snapshots that restore wholly: {whole}"));
        line(
            "what to do: copy the damaged or missing files from another copy of this repository (names are hashes, so any \
             copy serves), or take a new snapshot while the source still has these contents, which stores them again; \
             then run `backuptool check` again"
                .into(),
        );
    }
    text
}

fn check_json(report: &CheckReport) -> serde_json::Value {
    let damaged: Vec<_> = report
        .damaged
        .iter()
        .map(|(id, damage)| {
            let files: Vec<_> = damage
                .files
                .iter()
                .map(|(path, snapshots)| json!({"path": display_bytes(path), "snapshots": snapshots}))
                .collect();
            json!({"object": id.to_string(), "problem": damage.problem.to_string(), "files": files})
        })
        .collect();
    let unreadable: Vec<_> = report
        .unreadable
        .iter()
        .map(|(number, error)| json!({"snapshot": number, "problem": error.to_string()}))
        .collect();
    json!({
        "type": "check",
        "clean": report.is_clean(),
        "snapshots": report.snapshots,
        "objects": report.objects,
        "bytes": report.bytes,
        "damaged": damaged,
        "unreadable": unreadable,
        "whole": report.whole,
        "unneeded_objects": report.leftovers.unneeded,
        "seconds": report.elapsed.as_secs_f64(),
    })
}
