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
    remark(&report);
    let json = json!({
        "type": "pack",
        "loose": report.loose,
        "folded": report.folded,
        "new": report.new,
        "damaged": report.damaged,
        "old_files_remain": report.old_files_remain,
        "seconds": report.elapsed.as_secs_f64(),
    });
    global.report(|| text(&report), &json)?;
    Ok(exit::DONE)
}

/// Packs after a snapshot, if that is due. The snapshot is safe: what goes wrong here is only a remark.
pub(super) fn pack_if_due(repo: SharedRepository, session: &Session<'_>) {
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
            remark(&report);
            note(&format!("backuptool: {}", text(&report).lines().next().unwrap_or_default()));
        }
        Ok(None) => {}
        Err(error) => note(&format!("backuptool: the snapshot is done; packing what is loose failed: {error}")),
    }
}

fn remark(report: &PackReport) {
    for path in &report.damaged {
        note(&format!("backuptool: {path} is damaged and stays as it is; see `backuptool check`"));
    }
    if report.old_files_remain {
        note(
            "backuptool: what was packed could not be removed yet (others may be at work); the next pack or prune does it",
        );
    }
}

fn text(report: &PackReport) -> String {
    if report.loose + report.folded == 0 {
        return "nothing to pack\n".into();
    }
    format!(
        "packed {} and {} into {}\ntook {:.1} s\n",
        count(report.loose, "loose object"),
        count(report.folded, "pack"),
        count(report.new, "pack"),
        report.elapsed.as_secs_f64(),
    )
}
