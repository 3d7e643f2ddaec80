//! `check`: reads and verifies everything.

use std::process::ExitCode;

use backuptool::error::{ObjectProblem, number_ranges};
use backuptool::object::display_bytes;
use backuptool::ops::check::{self, CheckReport};
use backuptool::{Error, Result};
use serde_json::json;

use crate::cli::args::Global;
use crate::cli::exit;
use crate::cli::output::{count, print, print_json, size, with_bytes};

pub(super) fn check(global: &Global) -> Result<ExitCode> {
    let progress = global.progress("checking");
    let session = global.session("check", &progress);
    let repo = global.open(&session)?;
    let report = check::check(&repo, global.threads(), &session);
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
        "checked {}, {}, {}, {} in {:.1} s\n",
        count(report.snapshots, "snapshot"),
        count(report.objects, "object"),
        count(report.packs, "pack"),
        size(report.bytes),
        report.elapsed.as_secs_f64(),
    );
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    for error in &report.unlistable {
        line(format!("damaged: {error}"));
    }
    for (_number, error) in &report.unreadable {
        match error {
            Error::TooNew { .. } => line(format!("not checked: {error}")),
            _ => line(format!("damaged: {}", error.reason())),
        }
    }
    for (_, reason) in &report.damaged_packs {
        line(format!("damaged: {reason}"));
    }
    for (id, damage) in &report.damaged {
        line(match &damage.problem {
            ObjectProblem::Missing => format!("missing: object {id}"),
            ObjectProblem::Damaged(reason) => format!("damaged: object {id}: {reason}"),
        });
        if damage.files.is_empty() {
            line("  no snapshot is known to need it".into());
        }
        for (path, snapshots) in &damage.files {
            let path = if path.is_empty() { "the top directory".to_string() } else { display_bytes(path) };
            line(format!("  {path} (snapshot {})", number_ranges(snapshots)));
        }
    }
    if report.more_files {
        line("more paths are concerned than are named".into());
    }
    let leftovers = &report.leftovers;
    if leftovers.lost_snapshots {
        line("note: there are objects and no trace of any snapshot; was the directory `snapshots` lost?".into());
    }
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
        let whole = if report.whole.is_empty() { "none".to_string() } else { number_ranges(&report.whole) };
        line(format!("snapshots that can be restored completely: {whole}"));
        if !report.damaged_packs.is_empty() {
            line(
                "for packs: copy the files named above from another copy of this repository (their names are hashes, so any \
                 copy serves)"
                    .into(),
            );
        }
        if let Some(error) = &report.not_recorded {
            line(format!("what is damaged could not be recorded, so snapshots will not store it again: {error}"));
        }
        if !report.damaged.is_empty() {
            line(
                "for objects: copy the files named above from another copy of this repository (their names are hashes, so \
                 any copy serves), or take a new snapshot while the source still has these contents, which stores them \
                 again"
                    .into(),
            );
        }
        if !report.unreadable.is_empty() {
            line(
                "for refs: copy the files named above from another copy of this very repository, or remove the snapshots \
                 with `backuptool prune`"
                    .into(),
            );
        }
        line("then run `backuptool check` again".into());
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
        "packs": report.packs,
        "damaged": damaged,
        "damaged_packs": damaged_packs,
        "not_recorded": report.not_recorded.as_ref().map(ToString::to_string),
        "unlistable": report.unlistable.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "unreadable": unreadable,
        "whole": report.whole,
        "more_files": report.more_files,
        "unneeded_objects": report.leftovers.unneeded,
        "abandoned_staging": report.leftovers.staging,
        "half_removed": report.leftovers.half_removed,
        "lost_snapshots": report.leftovers.lost_snapshots,
        "strangers": report.leftovers.strangers,
        "seconds": report.elapsed.as_secs_f64(),
    })
}
