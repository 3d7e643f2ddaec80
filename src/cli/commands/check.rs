//! `check`: reads and verifies everything, and answers: what is damaged, how bad is that, what would a restore do, and
//! what to do now.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::process::ExitCode;

use backuptool::error::{ObjectProblem, number_ranges};
use backuptool::object::display_bytes;
use backuptool::ops::check::{self, CheckOptions, CheckReport, Extent};
use backuptool::{Error, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::args::{Check, Global};
use crate::cli::output::{count, print, print_json, size, text_of, with_bytes};
use crate::cli::{environment, exit};

pub(super) fn check(global: &Global, args: &Check) -> Result<ExitCode> {
    let progress = global.progress("checking");
    let session = global.session("check", &progress);
    let repo = global.open(&session)?;
    let extent = match args {
        Check { quick: true, .. } => Extent::Structure,
        Check { subset: Some(part), .. } => Extent::Part(*part),
        // A time before all times is as good as the first of them.
        Check { max_age: Some(age), .. } => {
            let since = age.before(&session.start.to_zoned(environment::time_zone()));
            Extent::NotSince(since.unwrap_or(Timestamp::MIN))
        }
        _ => Extent::Everything,
    };
    let report = check::check(&repo, &CheckOptions { extent, threads: global.threads() }, &session);
    progress.finish();
    let report = report?;
    if global.json {
        print_json(&check_json(&report))?;
    } else if !global.quiet || !report.is_clean() || report.leftovers.lost_snapshots {
        print(&check_text(&report))?;
    }
    Ok(exit::checked(report.is_clean()))
}

fn check_text(report: &CheckReport) -> String {
    let mut lines = vec![format!(
        "checked {}, {}, {}, {} in {:.1} s",
        count(report.snapshots, "snapshot"),
        count(report.objects, "object"),
        count(report.packs, "pack"),
        size(report.bytes),
        report.elapsed.as_secs_f64(),
    )];
    if report.unread > 0 {
        lines.push(format!("not read: {}", count(report.unread, "object")));
    }
    damage(report, &mut lines);
    notes(report, &mut lines);
    if report.is_clean() {
        lines.push(if report.unread > 0 { "no damage found in what was read" } else { "no damage found" }.into());
    } else {
        consequences(report, &mut lines);
        remedies(report, &mut lines);
    }
    text_of(&lines)
}

/// What is damaged: objects, the files that need them, and the snapshots that these are in.
pub(super) fn damage(report: &CheckReport, lines: &mut Vec<String>) {
    lines.extend(report.unlistable.iter().map(|error| format!("damaged: {error}")));
    lines.extend(damaged_documents(report));
    lines.extend(report.damaged_packs.iter().map(|(_pack, reason)| format!("damaged: {reason}")));
    for (id, damage) in &report.damaged {
        lines.push(match &damage.problem {
            ObjectProblem::Missing => format!("missing: object {id}"),
            ObjectProblem::Damaged(reason) => format!("damaged: object {id}: {reason}"),
        });
        if damage.files.is_empty() {
            lines.push("  no snapshot is known to need it".into());
        }
        for (path, snapshots) in &damage.files {
            let path = if path.is_empty() { "the top directory".to_string() } else { display_bytes(path) };
            lines.push(format!("  {path} (snapshot {})", number_ranges(snapshots)));
        }
    }
    if report.more_files {
        lines.push("more paths are concerned than are named".into());
    }
}

/// What is no damage.
fn notes(report: &CheckReport, lines: &mut Vec<String>) {
    let leftovers = &report.leftovers;
    let mut note = |text: String| lines.push(format!("note: {text}"));
    if leftovers.lost_snapshots {
        note(
            "there are objects and no trace of any snapshot; was the directory `snapshots` lost? \
             `backuptool repair --from COPY` brings it back"
                .into(),
        );
    }
    if report.unread_damaged > 0 {
        let objects = count(report.unread_damaged, "object");
        note(format!("an earlier check found {objects} damaged or missing that this one did not read"));
    }
    if report.record_is_doubtful {
        note(
            "what earlier checks have found cannot be read for sure, so snapshots read everything; \
             a `check` of everything ends that"
                .into(),
        );
    }
    if leftovers.unneeded > 0 && !leftovers.lost_snapshots {
        let objects = count(leftovers.unneeded, "object");
        note(format!("no snapshot needs {objects}; the next prune removes what is unneeded"));
    }
    if leftovers.staging > 0 {
        let dirs = count(leftovers.staging, "staging directory");
        note(format!("{dirs} of interrupted runs; the next snapshot or prune removes them"));
    }
    for number in &leftovers.half_removed {
        note(format!("the removal of snapshot {number} was interrupted; the next prune completes it"));
    }
    for path in &leftovers.strangers {
        note(format!("{} is not a file of a repository", display_bytes(path.as_bytes())));
    }
    if let Some(error) = report.not_remembered.as_ref().filter(|error| !is_read_only(error)) {
        note(format!("what is whole could not be recorded for the next check with --max-age: {error}"));
    }
}

/// How bad it is, and what a restore would do.
fn consequences(report: &CheckReport, lines: &mut Vec<String>) {
    let whole = if report.whole.is_empty() { "none".to_string() } else { number_ranges(&report.whole) };
    lines.push(format!("snapshots that can be restored completely: {whole}"));
    for (numbers, paths) in alike(&report.affected()) {
        let named = if paths == 1 { "that is" } else { "that are" };
        let paths = count(paths, "path");
        lines.push(format!(
            "a restore of snapshot {numbers} leaves out {paths} {named} named above, and writes the rest"
        ));
    }
}

/// What to do now.
fn remedies(report: &CheckReport, lines: &mut Vec<String>) {
    let mut line = |text: &str| lines.push(text.into());
    if let Some(error) = &report.not_recorded {
        line(&format!("what is damaged could not be recorded, so snapshots will not store it again: {error}"));
    }
    line(if report.lacks_nothing() {
        "next: `backuptool repair`, which stores elsewhere what is needed of the damaged packs, and then removes them"
    } else {
        "next: `backuptool repair --from COPY`, with another copy of this repository or any that holds the same files, or \
         `backuptool repair --from-directory DIR`, with the files as they still are; without either it saves what is whole \
         in damaged packs; with --dry-run it shows what it would do"
    });
    if !report.damaged.is_empty() {
        line("a new snapshot, too, stores again what the source still has");
    }
}

/// Nothing can be recorded on read-only media, and everybody knows.
fn is_read_only(error: &Error) -> bool {
    matches!(error.io_kind(), Some(ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied))
}

/// Snapshots that lack as many paths, together, those that lack most first.
fn alike(affected: &BTreeMap<u64, u64>) -> Vec<(String, u64)> {
    let mut by_paths: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (number, paths) in affected {
        by_paths.entry(*paths).or_default().push(*number);
    }
    by_paths.into_iter().rev().map(|(paths, numbers)| (number_ranges(&numbers), paths)).collect()
}

/// The refs and labels that cannot be read, a line each.
fn damaged_documents(report: &CheckReport) -> Vec<String> {
    let line = |error: &Error, text: String| match error {
        Error::TooNew { .. } => format!("not checked: {error}"),
        _ => format!("damaged: {text}"),
    };
    let refs = report.unreadable.iter().map(|(_number, error)| line(error, error.reason()));
    // What to do next depends on the file.
    let labels = report.damaged_labels.iter().map(|(_number, error)| line(error, error.to_string()));
    refs.chain(labels).collect()
}

fn check_json(report: &CheckReport) -> Value {
    let damaged: Vec<_> = report
        .damaged
        .iter()
        .map(|(id, damage)| {
            let files: Vec<_> = damage
                .files
                .iter()
                .map(|(path, snapshots)| with_bytes(json!({"snapshots": snapshots}), "path", path))
                .collect();
            json!({"object": id.to_string(), "problem": damage.problem.to_string(), "files": files})
        })
        .collect();
    let damaged_packs: Vec<_> = report
        .damaged_packs
        .iter()
        .map(|(pack, reason)| json!({"pack": pack.to_string(), "problem": reason}))
        .collect();
    let affected: Vec<_> =
        report.affected().into_iter().map(|(number, paths)| json!({"snapshot": number, "paths": paths})).collect();
    let numbered = |of: &[(u64, Error)]| -> Vec<Value> {
        of.iter().map(|(number, error)| json!({"snapshot": number, "problem": error.to_string()})).collect()
    };
    let (unreadable, damaged_labels) = (numbered(&report.unreadable), numbered(&report.damaged_labels));
    json!({
        "type": "check",
        "clean": report.is_clean(),
        "snapshots": report.snapshots,
        "objects": report.objects,
        "bytes": report.bytes,
        "unread_objects": report.unread,
        "unread_damaged_objects": report.unread_damaged,
        "record_is_doubtful": report.record_is_doubtful,
        "packs": report.packs,
        "damaged": damaged,
        "damaged_packs": damaged_packs,
        "not_recorded": report.not_recorded.as_ref().map(ToString::to_string),
        "unlistable": report.unlistable.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "unreadable": unreadable,
        "damaged_labels": damaged_labels,
        "whole": report.whole,
        "affected": affected,
        "not_remembered": report.not_remembered.as_ref().map(ToString::to_string),
        "more_files": report.more_files,
        "unneeded_objects": report.leftovers.unneeded,
        "abandoned_staging": report.leftovers.staging,
        "half_removed": report.leftovers.half_removed,
        "lost_snapshots": report.leftovers.lost_snapshots,
        "strangers": report.leftovers.strangers,
        "seconds": report.elapsed.as_secs_f64(),
    })
}
