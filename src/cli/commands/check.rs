//! `check`: reads and verifies everything, and answers: what is damaged, how bad is that, what would a restore do, and
//! what to do now.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::process::ExitCode;

use backuptool::error::{ObjectProblem, number_ranges};
use backuptool::object::{ObjectId, display_bytes};
use backuptool::ops::check::{self, CheckOptions, CheckReport, Damage, Extent};
use backuptool::{Error, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{to_bring_refs, unreadable_refs};
use crate::cli::args::{Check, Global};
use crate::cli::output::{count, print, print_json, size, text_of, with_bytes};
use crate::cli::{environment, exit, output};

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
    } else if !global.quiet || !is_clean(&report) || report.leftovers.lost_snapshots {
        print(&check_text(&report))?;
    }
    Ok(exit::checked(is_clean(&report)))
}

/// Whether no damage is known: neither was any found, nor is there any that was found before and not read again.
fn is_clean(report: &CheckReport) -> bool {
    report.is_clean() && report.unread_damaged == 0
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
    if report.is_clean() && report.unread_damaged > 0 {
        lines.push("no other damage found in what was read; a `check` of everything says what of it is left".into());
    } else if report.is_clean() {
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
    for objects in alike(report) {
        let (id, damage) = objects[0];
        let which = match objects.len() - 1 {
            0 => format!("object {id}"),
            others => format!("object {id} and {} like it", count(others as u64, "other")),
        };
        lines.push(match &damage.problem {
            ObjectProblem::Missing => format!("missing: {which}"),
            ObjectProblem::Damaged(reason) => format!("damaged: {which}: {reason}"),
        });
        if damage.files.is_empty() {
            lines.push("  no snapshot is known to need it".into());
        }
        for (path, snapshots) in &damage.files {
            let path = if path.is_empty() { "the top directory".to_string() } else { display_bytes(path) };
            lines.push(format!("  {path} ({})", output::snapshots(snapshots)));
        }
    }
    if report.more_files {
        lines.push("more paths are concerned than are named".into());
    }
}

/// With more that are alike only one is named; `--json` names all.
const FEW_ALIKE: usize = 8;

/// The damaged objects, by the first name. Those with the same problem that the same files need stand together, if they are
/// many: mostly they are of one file and stand in one frame.
fn alike(report: &CheckReport) -> Vec<Vec<(&ObjectId, &Damage)>> {
    let mut by_fate: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for one in &report.damaged {
        by_fate.entry((&one.1.files, one.1.problem.to_string())).or_default().push(one);
    }
    let split = |objects: Vec<_>| match objects.len() {
        ..=FEW_ALIKE => objects.into_iter().map(|one| vec![one]).collect(),
        _ => vec![objects],
    };
    let mut alike: Vec<Vec<_>> = by_fate.into_values().flat_map(split).collect();
    alike.sort_unstable_by_key(|objects| objects[0].0);
    alike
}

/// What is no damage.
fn notes(report: &CheckReport, lines: &mut Vec<String>) {
    let leftovers = &report.leftovers;
    let mut note = |text: String| lines.push(format!("note: {text}"));
    if leftovers.lost_snapshots && report.all_lost.is_none() {
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
        note(format!(
            "no snapshot needs {objects}; a prune removes what is loose of it, and what is in packs when that is a \
             larger part of one (--max-dead)"
        ));
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
    let mut affected = report.affected();
    let top = report.damaged.values().filter_map(|damage| damage.files.get(&[][..])).flatten();
    let without_top: BTreeSet<u64> = top.copied().collect();
    if !without_top.is_empty() {
        let numbers: Vec<u64> = without_top.iter().copied().collect();
        lines.push(format!(
            "nothing of {} can be restored: the top directory cannot be read",
            output::snapshots(&numbers)
        ));
        affected.retain(|number, _| !without_top.contains(number));
    }
    for (numbers, paths) in lacking_as_many(&affected) {
        let named = if paths == 1 { "that is" } else { "that are" };
        let paths = count(paths, "path");
        lines.push(format!(
            "a restore of {} leaves out {paths} {named} named above, and writes the rest",
            output::snapshots(&numbers)
        ));
    }
}

/// What to do now.
fn remedies(report: &CheckReport, lines: &mut Vec<String>) {
    let mut line = |text: &str| lines.push(text.into());
    if let Some(error) = &report.not_recorded {
        line(&format!("what is damaged could not be recorded, so snapshots will not store it again: {error}"));
    }
    if report.is_denied {
        line(
            "next: run it as the user who owns the repository, or give all of its files to this one: what may not be opened \
             need not be damaged",
        );
    } else if report.lacks_nothing() {
        line(
            "next: `backuptool repair`, which stores elsewhere what is needed of the damaged packs, and then removes them",
        );
    } else if let Some(next) = documents_remedy(report) {
        line(&format!("next: {next}"));
    } else {
        let saves = if report.damaged_packs.is_empty() {
            ""
        } else {
            "without either it saves what is whole in damaged packs; "
        };
        line(&format!(
            "next: `backuptool repair --from COPY`, with another copy of this repository or any that holds the same files, \
             or `backuptool repair --from-directory DIR`, with the files as they still are; {saves}with --dry-run it shows \
             what it would do"
        ));
    }
    if !report.damaged.is_empty() {
        line("a new snapshot, too, stores again what the source still has");
    }
}

/// What to do where nothing but refs and labels is damaged, which only another copy of the repository has.
pub(super) fn documents_remedy(report: &CheckReport) -> Option<String> {
    if let Some(Error::Damaged { next, .. }) = &report.all_lost {
        return Some(next.clone());
    }
    if !report.damaged.is_empty() || !report.unlistable.is_empty() {
        return None;
    }
    let numbers: Vec<u64> = report.unreadable.iter().map(|(number, _)| *number).collect();
    Some(match numbers[..] {
        [] => "run `backuptool repair --from COPY` with another copy of the repository".into(),
        _ => to_bring_refs(&numbers),
    })
}

/// Nothing can be recorded on read-only media, and everybody knows.
fn is_read_only(error: &Error) -> bool {
    matches!(error.io_kind(), Some(ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied))
}

/// Snapshots that lack as many paths, together, those that lack most first.
fn lacking_as_many(affected: &BTreeMap<u64, u64>) -> Vec<(Vec<u64>, u64)> {
    let mut by_paths: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (number, paths) in affected {
        by_paths.entry(*paths).or_default().push(*number);
    }
    by_paths.into_iter().rev().map(|(paths, numbers)| (numbers, paths)).collect()
}

/// The refs and labels that cannot be read, a line each.
fn damaged_documents(report: &CheckReport) -> Vec<String> {
    let is_newer = |(_, error): &&(u64, Error)| matches!(error, Error::TooNew { .. });
    let documents = || report.unreadable.iter().chain(&report.damaged_labels);
    let newer = documents().filter(is_newer).map(|(_, error)| format!("not checked: {error}"));
    let refs: Vec<_> = report.unreadable.iter().filter(|one| !is_newer(one)).collect();
    // What to do next depends on the file.
    let labels = report.damaged_labels.iter().filter(|one| !is_newer(one)).map(|(_, error)| match error {
        Error::Damaged { next, .. } => format!("{}; {next}", error.reason()),
        _ => error.to_string(),
    });
    let all_lost = report.all_lost.iter().map(Error::reason);
    let damaged = unreadable_refs(&refs, &report.lost, false).into_iter().chain(labels).chain(all_lost);
    newer.chain(damaged.map(|text| format!("damaged: {text}"))).collect()
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
        "clean": is_clean(report),
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
        "all_lost": report.all_lost.as_ref().map(ToString::to_string),
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
