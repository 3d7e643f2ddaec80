//! `repair`: brings back what is damaged or missing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use backuptool::object::{ObjectId, display_bytes, display_path};
use backuptool::ops;
use backuptool::ops::repair::{self, Brought, RepairOptions, RepairPlan, Whence};
use backuptool::repo::{self, Session, WriterOptions};
use backuptool::{Error, Result};
use serde_json::{Value, json};

use super::check;
use crate::cli::args::{Global, Repair};
use crate::cli::exit;
use crate::cli::output::{count, note, print, print_json, size, snapshots, text_of};

pub(super) fn repair(global: &Global, args: &Repair) -> Result<ExitCode> {
    let progress = global.progress("repairing");
    let session = global.session("repair", &progress);
    let plan = plan(global, args, &session);
    progress.finish();
    let plan = plan?;
    let is_whole = plan.remaining.is_clean();
    let mut json = plan_json(&plan);
    if args.dry_run {
        json["dry_run"] = true.into();
        if global.json {
            print_json(&json)?;
        } else {
            print(&format!("{}{}", plan_text(&plan), remaining_text(&plan, args)))?;
        }
        return Ok(exit::checked(is_whole));
    }
    if !plan.remove.is_empty() {
        note(&format!("backuptool: removing what cannot be made whole: {}", snapshots(&plan.remove)));
    }
    let text = format!("{}{}", done_text(&plan), remaining_text(&plan, args));
    let report = repair::execute(plan, WriterOptions::default(), &session)?;
    for reason in &report.not_done {
        note(&format!("backuptool: {reason}; run `backuptool repair` again"));
    }
    let is_whole = is_whole && report.not_done.is_empty();
    json["dry_run"] = false.into();
    json["whole"] = is_whole.into();
    json["not_done"] = report.not_done.clone().into();
    json["seconds"] = report.elapsed.as_secs_f64().into();
    if global.json {
        print_json(&json)?;
    } else if !report.not_done.is_empty() {
        print("not everything could be done: see above\n")?;
    } else if !global.quiet || !is_whole {
        print(&text)?;
    }
    Ok(exit::checked(is_whole))
}

fn plan(global: &Global, args: &Repair, session: &Session<'_>) -> Result<RepairPlan> {
    let open = |path: &PathBuf| {
        ops::open(path, session).map_err(|error| match error {
            Error::NoRepository { path, reason, .. } => {
                let next = "name a copy with --from, or see that its disk is mounted; nothing was changed".into();
                Error::NoRepository { path, reason, next }
            }
            other => other,
        })
    };
    let copies = args.from.iter().map(open).collect::<Result<Vec<_>>>()?;
    let options = RepairOptions {
        copies,
        directory: args.from_directory.as_deref(),
        remove_damaged_snapshots: args.remove_damaged_snapshots,
    };
    let backend = repo::local(&global.repository().0)?;
    repair::plan(backend, options, WriterOptions::default(), global.threads(), session)
}

/// Everything that is to be done, a line each.
fn plan_text(plan: &RepairPlan) -> String {
    let mut lines = Vec::new();
    let mut line = |line: String| lines.push(line);
    if let Some(from) = &plan.config {
        line(format!("would bring back config.json from {}", display_path(from)));
    }
    for pack in &plan.packs {
        line(format!("would bring back {} from {}", pack.name, display_path(&pack.from)));
    }
    for (id, whence) in plan.objects() {
        line(format!("would store object {id} again, from {whence}"));
    }
    for Brought { number, from, .. } in &plan.refs {
        line(format!("would bring back the ref of snapshot {number} from {}", display_path(from)));
    }
    if let Some(number) = plan.pruned {
        line(format!("would note that there was a snapshot {number}, which a copy has removed"));
    }
    for Brought { number, from, .. } in &plan.labels {
        line(format!("would bring back the labels of snapshot {number} as they are in {}", display_path(from)));
    }
    if !plan.remove.is_empty() {
        line(format!("would remove {}", snapshots(&plan.remove)));
    }
    for id in &plan.superseded_loose {
        line(format!("would remove the damaged file of object {id}"));
    }
    for pack in &plan.superseded_packs {
        line(format!("would remove the damaged {pack}: all that is needed of it stands elsewhere then"));
    }
    if plan.index_is_wrong {
        line("would write the index of all packs anew".into());
    }
    if plan.is_nothing() {
        line(nothing_text(plan).into());
    }
    text_of(&lines)
}

/// Why nothing is done.
fn nothing_text(plan: &RepairPlan) -> &'static str {
    if plan.remaining.is_clean() { "nothing to repair" } else { "nothing that is damaged can be brought back" }
}

/// What was done, in numbers.
fn done_text(plan: &RepairPlan) -> String {
    if plan.is_nothing() {
        return format!("{}\n", nothing_text(plan));
    }
    let mut lines = Vec::new();
    let mut line = |line: String| lines.push(line);
    if let Some(from) = &plan.config {
        line(format!("brought back config.json from {}", display_path(from)));
    }
    if !plan.packs.is_empty() {
        line(format!("brought back {} as a whole", count(plan.packs.len() as u64, "pack")));
    }
    if plan.objects().len() > 0 {
        let mut from: BTreeMap<Whence, u64> = BTreeMap::new();
        plan.objects().for_each(|(_, whence)| *from.entry(whence).or_default() += 1);
        let stored = count(plan.objects().len() as u64, "object");
        line(format!("stored {stored} again, {}", size(plan.bytes)));
        for (whence, objects) in from {
            line(format!("  {objects} from {whence}"));
        }
    }
    if !plan.refs.is_empty() {
        let numbers: Vec<u64> = plan.refs.iter().map(|brought| brought.number).collect();
        line(format!("brought back the refs of {}", snapshots(&numbers)));
    }
    if let Some(number) = plan.pruned {
        line(format!("noted that there was a snapshot {number}, which a copy has removed"));
    }
    for Brought { number, from, .. } in &plan.labels {
        line(format!("brought back the labels of snapshot {number} as they are in {}", display_path(from)));
    }
    if !plan.remove.is_empty() {
        line(format!("removed {}", snapshots(&plan.remove)));
    }
    if !plan.superseded_loose.is_empty() {
        line(format!("removed {} of loose objects", count(plan.superseded_loose.len() as u64, "damaged file")));
    }
    if !plan.superseded_packs.is_empty() {
        line(format!("removed {}", count(plan.superseded_packs.len() as u64, "damaged pack")));
    }
    if plan.index_is_wrong {
        line("wrote the index of all packs anew".into());
    }
    text_of(&lines)
}

/// What is not whole even then, and what to do about it.
fn remaining_text(plan: &RepairPlan, args: &Repair) -> String {
    let mut lines = Vec::new();
    check::damage(&plan.remaining, &mut lines);
    let mut line = |line: String| lines.push(line);
    for copy in &plan.strayed {
        line(format!(
            "note: {} was a copy of this repository and has another snapshot under the same number by now, so no refs and \
             labels are taken from it; what of its snapshots is wanted here is to be restored from there",
            display_path(copy)
        ));
    }
    let (removed, new): (Vec<u64>, Vec<u64>) = plan.not_here.iter().partition(|number| **number <= plan.removed_up_to);
    if !removed.is_empty() {
        line(format!(
            "note: a copy still has {}, which a prune has probably removed here; only if not, copy snapshots/N.json from \
             there and repair again",
            snapshots(&removed)
        ));
    }
    if !new.is_empty() {
        line(format!(
            "note: a copy has {}, of which there is no trace here; if that was taken here, copy snapshots/N.json from there \
             and repair again",
            snapshots(&new)
        ));
    }
    if plan.remaining.is_clean() {
        line("no damage is left".into());
        return text_of(&lines);
    }
    let damaged: Vec<u64> =
        plan.damaged_snapshots.iter().filter(|number| !plan.remove.contains(number)).copied().collect();
    line(if damaged.is_empty() {
        "damage is left; every snapshot whose ref can be read can be restored completely".into()
    } else {
        format!("damage is left; what cannot be restored completely: {}", snapshots(&damaged))
    });
    let is_newer = plan.remaining.unreadable.iter().any(|(_, error)| matches!(error, Error::TooNew { .. }));
    line(if is_newer {
        "next: use a newer version of backuptool".into()
    } else if let Some(next) = check::documents_remedy(&plan.remaining) {
        format!("next: {next}")
    } else if args.from.is_empty() {
        "next: `backuptool repair --from COPY`, with another copy of this repository; or `--from-directory DIR`, with the \
         files as they still are"
            .into()
    } else if args.from_directory.is_none() {
        "next: `backuptool repair --from-directory DIR`, with the files as they still are, or --from with another copy; if \
         there is none, `backuptool repair --dry-run --remove-damaged-snapshots` shows what giving up would remove"
            .into()
    } else {
        "next: `backuptool repair --dry-run --remove-damaged-snapshots` shows what giving up would remove".into()
    });
    text_of(&lines)
}

fn plan_json(plan: &RepairPlan) -> Value {
    let objects = |(id, whence): (ObjectId, Whence)| match &whence {
        Whence::DamagedPack(pack) => json!({"object": id.to_string(), "pack": pack.to_string()}),
        Whence::Repository(path) => json!({"object": id.to_string(), "repository": display_path(path)}),
        Whence::Directory(path) => json!({"object": id.to_string(), "directory": display_path(path)}),
    };
    let remaining = &plan.remaining;
    let damaged = |(id, damage): (&ObjectId, &ops::check::Damage)| {
        let path = |path: &Vec<u8>| display_bytes(path);
        json!({
            "object": id.to_string(),
            "problem": damage.problem.to_string(),
            "files": damage.files.keys().map(path).collect::<Vec<_>>(),
        })
    };
    json!({
        "type": "repair",
        "config": plan.config.as_ref().map(|path| display_path(path)),
        "refs": plan.refs.iter().map(|brought| brought.number).collect::<Vec<_>>(),
        "labels": plan.labels.iter().map(|brought| brought.number).collect::<Vec<_>>(),
        "pruned": plan.pruned,
        "packs": plan.packs.iter().map(|pack| pack.name.to_string()).collect::<Vec<_>>(),
        "objects": plan.objects().map(objects).collect::<Vec<_>>(),
        "bytes": plan.bytes,
        "packs_removed": plan.superseded_packs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "loose_removed": plan.superseded_loose.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "snapshots_removed": plan.remove,
        "index_rewritten": plan.index_is_wrong,
        "not_here": plan.not_here,
        "strayed": plan.strayed.iter().map(|path| display_path(path)).collect::<Vec<_>>(),
        "whole": remaining.is_clean(),
        "damaged_snapshots": plan.damaged_snapshots,
        "damaged": remaining.damaged.iter().map(damaged).collect::<Vec<_>>(),
        "damaged_packs": remaining.damaged_packs.iter().map(|(pack, _)| pack.to_string()).collect::<Vec<_>>(),
        "unreadable": remaining.unreadable.iter().map(|(number, _)| number).collect::<Vec<_>>(),
        "damaged_labels": remaining.damaged_labels.iter().map(|(number, _)| number).collect::<Vec<_>>(),
        "unlistable": remaining.unlistable.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
