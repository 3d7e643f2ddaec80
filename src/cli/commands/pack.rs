//! `pack`: folds loose objects and small packs into large packs.

use std::process::ExitCode;

use backuptool::Result;
use backuptool::ops::pack::{self, PackReport};
use backuptool::repo::{Session, SharedRepository, WriterOptions};
use serde_json::json;

use crate::cli::args::Global;
use crate::cli::exit;
use crate::cli::output::{count, note};

pub(super) fn pack(global: &Global) -> Result<ExitCode> {
    let progress = global.progress("packing");
    let session = global.session("pack", &progress);
    let repo = global.open(&session)?;
    let plan = pack::plan(&repo, WriterOptions::default())?;
    let report = pack::execute(repo, &plan, WriterOptions::default(), &session);
    progress.finish();
    let report = report?;
    remark(&report, global);
    let json = json!({
        "type": "pack",
        "loose": report.loose,
        "folded": report.folded,
        "superseded": report.superseded,
        "new": report.new,
        "full": report.full.as_ref().map(ToString::to_string),
        "damaged": report.damaged,
        "old_files_remain": report.old_files_remain,
        "seconds": report.elapsed.as_secs_f64(),
    });
    global.report(|| text(&report), &json)?;
    Ok(exit::done(report.full.is_none() && report.damaged.is_empty()))
}

/// Packs after a snapshot, if that is due. The snapshot is safe: what goes wrong here is only a remark.
pub(super) fn pack_if_due(global: &Global, repo: SharedRepository, session: &Session<'_>) {
    let packed = || {
        let options = WriterOptions::default();
        if !pack::is_due(&repo, options)? {
            return Ok(None);
        }
        let plan = pack::plan(&repo, options)?;
        pack::execute(repo, &plan, options, session).map(Some)
    };
    match packed() {
        Ok(Some(report)) => {
            remark(&report, global);
            if !global.quiet {
                note(&format!("backuptool: {}", text(&report).lines().next().unwrap_or_default()));
            }
        }
        Ok(None) => {}
        Err(error) => note(&format!("backuptool: the snapshot is done; packing what is loose failed: {error}")),
    }
}

fn remark(report: &PackReport, global: &Global) {
    for path in &report.damaged {
        note(&format!("backuptool: {path} is damaged and stays as it is; see `backuptool check`"));
    }
    if let Some(error) = &report.full {
        note(&format!("backuptool: not everything was packed: {error}"));
    }
    if report.old_files_remain && !global.quiet {
        note(
            "backuptool: what was packed could not be removed yet (others may be at work); the next pack or prune does it",
        );
    }
}

fn text(report: &PackReport) -> String {
    let mut text = String::new();
    if report.loose + report.folded > 0 {
        text += &format!(
            "packed {} and {} into {}\n",
            count(report.loose, "loose object"),
            count(report.folded, "pack"),
            count(report.new, "pack"),
        );
    }
    if report.superseded > 0 {
        text += &format!("{} held nothing that does not stand elsewhere\n", count(report.superseded, "pack"));
    }
    if text.is_empty() {
        return "nothing to pack\n".into();
    }
    text + &format!("took {:.1} s\n", report.elapsed.as_secs_f64())
}
