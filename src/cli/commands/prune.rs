//! `prune`: removes snapshots, and what only they needed.

use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use backuptool::Result;
use backuptool::error::number_ranges;
use backuptool::object::Snapshot;
use backuptool::ops::address::Selection;
use backuptool::ops::prune::{self, Considered, PruneOptions, PrunePlan, PruneReport, Rules, What};
use backuptool::ops::retention::{Decision, Period, Policy, Reason, Source, SourceFilter};
use backuptool::repo::{Repository, WriterOptions};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::args::{Global, Prune, RuleArgs, SourceArg};
use crate::cli::output::{count, local_time, note, size, with_bytes};
use crate::cli::{environment, exit};

pub(super) fn prune(global: &Global, args: &Prune) -> Result<ExitCode> {
    let progress = global.progress("pruning");
    let session = global.session("prune", &progress);
    let repo = global.open(&session)?;
    let options = options(args, &repo, session.start)?;
    let plan = prune::plan(&repo, &options)?;
    for reason in plan.considered.iter().flat_map(|one| &one.decision.reasons) {
        if let Reason::LabelsUnreadable(error) = reason {
            note(&format!("backuptool: {error}"));
        }
    }
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
            "decisions": decisions_json(&plan.considered),
        });
        global.report(|| plan_text(&options.what, &plan), &json)?;
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
            removed_text(&options.what, &report),
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
        "decisions": decisions_json(&report.considered),
        "full": report.not_rewritten.as_ref().map(ToString::to_string),
        "seconds": report.elapsed.as_secs_f64(),
    });
    global.report(text, &json)?;
    let reasons = || report.considered.iter().flat_map(|one| &one.decision.reasons);
    let wholly = report.rotten.is_empty()
        && report.missing.is_empty()
        && report.not_rewritten.is_none()
        && !reasons().any(|reason| matches!(reason, Reason::LabelsUnreadable(_)));
    Ok(exit::done(wholly))
}

fn options(args: &Prune, repo: &Repository, now: Timestamp) -> Result<PruneOptions> {
    let what = if args.unreferenced {
        What::Unreferenced { allow_empty: args.rules.allow_empty }
    } else if args.snapshots.is_empty() {
        let now = now.to_zoned(environment::time_zone());
        What::Rules(Box::new(Rules { policy: policy(&args.rules)?, now, allow_empty: args.rules.allow_empty }))
    } else {
        What::Numbers(Selection::numbers(&args.snapshots, repo)?)
    };
    Ok(PruneOptions { what, max_dead: args.max_dead })
}

fn policy(args: &RuleArgs) -> Result<Policy> {
    let periods = [
        (Period::Hour, args.keep_hourly),
        (Period::Day, args.keep_daily),
        (Period::Week, args.keep_weekly),
        (Period::Month, args.keep_monthly),
        (Period::Year, args.keep_yearly),
    ];
    let filter = |source: &SourceArg| {
        let path = environment::absolute(&source.path)?.into_os_string().into_vec();
        Ok(SourceFilter { host: source.host.clone().map(OsStringExt::into_vec), path })
    };
    Ok(Policy {
        last: args.keep_last,
        periods: periods.into_iter().filter_map(|(period, most)| Some((period, most?))).collect(),
        within: args.keep_within.clone(),
        tags: args.keep_tag.iter().cloned().collect(),
        older_than: args.older_than.clone(),
        group_by: args.group_by.into(),
        sources: args.sources.iter().map(filter).collect::<Result<_>>()?,
    })
}

fn plan_text(what: &What, plan: &PrunePlan) -> String {
    let packs = match (plan.dead_packs.len(), plan.rewrite.len()) {
        (0, 0) => String::new(),
        (removed, rewritten) => format!("would remove {} and rewrite {rewritten}\n", count(removed as u64, "pack")),
    };
    let table =
        if matches!(what, What::Unreferenced { .. }) { String::new() } else { table(&plan.considered, |_| true) };
    format!(
        "{table}{}\nwould keep: {}\nwould free {} in {}\n{packs}",
        snapshots_text("would remove", what, &plan.remove),
        if plan.keep.is_empty() { "nothing".to_string() } else { number_ranges(&plan.keep) },
        size(plan.bytes()),
        count(plan.objects(), "object"),
    )
}

fn removed_text(what: &What, report: &PruneReport) -> String {
    let table = match what {
        // Who has named them knows.
        What::Rules(_) if !report.removed.is_empty() => table(&report.considered, |decision| !decision.keep),
        _ => String::new(),
    };
    format!("{table}{}", snapshots_text("removed", what, &report.removed))
}

fn snapshots_text(verb: &str, what: &What, removed: &[u64]) -> String {
    match removed {
        [] if matches!(what, What::Numbers(_)) => "the snapshots were removed before".to_string(),
        [] => format!("{verb} no snapshot"),
        [number] => format!("{verb} snapshot {number}"),
        numbers => format!("{verb} snapshots {}", number_ranges(numbers)),
    }
}

/// A line for each snapshot that is wanted, with what becomes of it and why.
fn table(considered: &[Considered], is_wanted: impl Fn(&Decision) -> bool) -> String {
    let zone = environment::time_zone();
    let mut lines = vec![["SNAPSHOT", "TIMESTAMP", "ACTION", "REASON", "SOURCE"].map(String::from)];
    for Considered { snapshot, decision } in considered.iter().filter(|one| is_wanted(&one.decision)) {
        lines.push([
            decision.number.to_string(),
            snapshot.as_ref().map_or("-".into(), |snapshot| local_time(snapshot.start, &zone)),
            if decision.keep { "keep" } else { "remove" }.into(),
            decision.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            snapshot.as_ref().map_or(String::new(), |snapshot| source(snapshot).to_string()),
        ]);
    }
    let width = lines.iter().map(|line| line[3].chars().count()).max().unwrap_or(0);
    let line = |[number, time, action, reason, source]: &[String; 5]| {
        let line = format!("{number:<8}  {time:<19}  {action:<6}  {reason:<width$}  {source}");
        format!("{}\n", line.trim_end())
    };
    lines.iter().map(line).collect()
}

fn decisions_json(considered: &[Considered]) -> Vec<Value> {
    let decision = |Considered { snapshot, decision }: &Considered| {
        let reasons: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
        let action = if decision.keep { "keep" } else { "remove" };
        let line = json!({"snapshot": decision.number, "action": action, "reasons": reasons});
        let Some(snapshot) = snapshot else { return line };
        let mut line = with_bytes(with_bytes(line, "host", &snapshot.host), "source", &snapshot.source);
        line["timestamp"] = snapshot.start.to_string().into();
        line
    };
    considered.iter().map(decision).collect()
}

fn source(snapshot: &Snapshot) -> Source {
    Source { host: snapshot.host.clone(), path: snapshot.source.clone() }
}
