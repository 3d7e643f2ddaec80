//! `snapshot`: stores a directory as it is now.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use backuptool::object::{Labels, display_path};
use backuptool::ops::init::{self, InitOptions};
use backuptool::ops::snapshot::{self, SnapshotOptions, SnapshotReport, WriterOptions};
use backuptool::{Error, Result, object};
use serde_json::json;

use super::pack::pack_if_due;
use crate::cli::args::{Global, Snapshot};
use crate::cli::output::{count, note, size};
use crate::cli::{environment, exit};

pub(super) fn snapshot(global: &Global, args: &Snapshot) -> Result<ExitCode> {
    let progress = global.progress("storing");
    let session = global.session("snapshot", &progress);
    let source = args.target_directory.as_ref().or(args.directory.as_ref());
    // One of them is there: the parser requires it.
    let source = environment::absolute(source.map_or(Path::new("."), PathBuf::as_path))?;
    snapshot::check_source(&source)?;
    let repo = match global.open(&session) {
        // A place that was named is not made into a repository: its disk may not be mounted.
        Err(Error::NoRepository { .. }) if !global.repository().1 => {
            let (path, _) = global.repository();
            let made = init::init(&path, &InitOptions::default(), &session);
            if made.is_ok() {
                note(&format!("backuptool: made a new repository in {}", display_path(&path)));
            }
            // Another first snapshot may have made it at the same moment: then it is opened like any other.
            global.open(&session).or_else(|error| made.and(Err(error)))?
        }
        other => other?,
    };
    let user = environment::user();
    let labels = Labels {
        tags: args.tags.iter().cloned().collect(),
        message: args.message.clone().filter(|message| !message.is_empty()),
        pinned: false,
    };
    let options = SnapshotOptions {
        source: &source,
        user: user.as_bytes(),
        clock: environment::now,
        utc_offset: environment::time_zone().to_offset(session.start).seconds(),
        allow_empty: args.allow_empty,
        one_file_system: args.one_file_system,
        detection: (&args.detection).into(),
        labels: &labels,
        writing: WriterOptions { sync: args.fsync.into(), loose_limit: args.loose_limit, pack_size: args.pack_size },
        threads: global.threads(),
    };
    let report = snapshot::snapshot(&repo, &options, &session);
    progress.finish();
    let report = report?;
    global.report(|| snapshot_text(&report), &snapshot_json(&report))?;
    // To see whether it is due takes a look at a sixteenth of what is loose. Where nothing came it is due no more than before.
    if report.snapshot.added.objects > 0 {
        pack_if_due(global, repo, &session);
    }
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
    remark(report.unchanged, "file", "unchanged, not read");
    remark(report.special, "socket, FIFO or device file", "not stored");
    remark(changed.count, "file", "changed each time it was read; the last reading is stored");
    remark(report.replaced, "damaged object", "stored again; `backuptool repair` clears away what is damaged");
    remark(incomplete.count, "path", "could not be read and is not in the snapshot");
    if report.record_is_doubtful {
        text.push_str(
            "what checks have found cannot be read for sure, so everything was read; `backuptool check` ends that\n",
        );
    }
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
        "unchanged": report.unchanged,
        "special": report.special,
        "changed": snapshot.changed.count,
        "incomplete": snapshot.incomplete.count,
        "replaced": report.replaced,
        "record_is_doubtful": report.record_is_doubtful,
        "seconds": report.elapsed.as_secs_f64(),
    })
}
