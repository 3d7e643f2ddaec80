//! `prune`: removes snapshots, and what only they needed.

use std::process::ExitCode;

use backuptool::Result;
use backuptool::error::number_ranges;
use backuptool::ops::prune::{self, PrunePlan};
use backuptool::repo::WriterOptions;
use serde_json::json;

use crate::cli::args::{Global, Prune};
use crate::cli::exit;
use crate::cli::output::{count, note, size};

pub(super) fn prune(global: &Global, args: &Prune) -> Result<ExitCode> {
    let progress = global.progress("pruning");
    let session = global.session("prune", &progress);
    let repo = global.open(&session)?;
    let numbers = args.snapshots.iter().map(|address| address.number(&repo));
    let mut numbers = numbers.collect::<Result<Vec<_>>>()?;
    numbers.sort_unstable();
    numbers.dedup();
    let plan = prune::plan(&repo, &numbers)?;
    for id in &plan.missing {
        note(&format!(
            "backuptool: object {id}, which a snapshot that stays needs, is missing; see `backuptool check`"
        ));
    }
    let missing: Vec<String> = plan.missing.iter().map(ToString::to_string).collect();
    if args.dry_run {
        let json = json!({
            "type": "prune",
            "dry_run": true,
            "snapshots": plan.remove,
            "keep": plan.keep,
            "objects": plan.objects(),
            "bytes": plan.bytes(),
            "packs_removed": plan.dead_packs.len(),
            "packs_rewritten": plan.rewrite.len(),
            "missing": missing,
        });
        global.report(|| plan_text(&numbers, &plan), &json)?;
        return Ok(exit::DONE);
    }
    let report = prune::execute(repo, plan, WriterOptions::default(), &session)?;
    for pack in &report.rotten {
        note(&format!("backuptool: {pack} is damaged and was not rewritten; see `backuptool check`"));
    }
    if let Some(error) = &report.not_rewritten {
        note(&format!("backuptool: packs that are needed in part were not rewritten: {error}"));
    }
    let text = || {
        let packs = match (report.packs_removed, report.packs_rewritten) {
            (0, 0) => String::new(),
            (removed, rewritten) => {
                format!("removed {} and rewrote {rewritten}\n", count(removed, "pack"))
            }
        };
        format!(
            "{}\nfreed {} in {}\n{packs}took {:.1} s\n",
            snapshots_text("removed", &numbers, &report.removed),
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
        "packs_removed": report.packs_removed,
        "packs_rewritten": report.packs_rewritten,
        "packs_rotten": report.rotten.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "missing": missing,
        "full": report.not_rewritten.as_ref().map(ToString::to_string),
        "seconds": report.elapsed.as_secs_f64(),
    });
    global.report(text, &json)?;
    Ok(exit::done(report.rotten.is_empty() && report.missing.is_empty() && report.not_rewritten.is_none()))
}

fn plan_text(asked: &[u64], plan: &PrunePlan) -> String {
    let packs = match (plan.dead_packs.len(), plan.rewrite.len()) {
        (0, 0) => String::new(),
        (removed, rewritten) => format!("would remove {} and rewrite {rewritten}\n", count(removed as u64, "pack")),
    };
    format!(
        "{}\nwould keep: {}\nwould free {} in {}\n{packs}",
        snapshots_text("would remove", asked, &plan.remove),
        if plan.keep.is_empty() { "nothing".to_string() } else { number_ranges(&plan.keep) },
        size(plan.bytes()),
        count(plan.objects(), "object"),
    )
}

fn snapshots_text(verb: &str, asked: &[u64], removed: &[u64]) -> String {
    match removed {
        [] if asked.is_empty() => format!("{verb} no snapshot"),
        [] => "the snapshots were removed before".to_string(),
        [number] => format!("{verb} snapshot {number}"),
        numbers => format!("{verb} snapshots {}", number_ranges(numbers)),
    }
}
