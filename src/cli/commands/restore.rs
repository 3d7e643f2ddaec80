//! `restore`: writes a snapshot, or paths of it.

use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use backuptool::Result;
use backuptool::object::display_path;
use backuptool::ops::restore::{self, RestoreOptions};
use serde_json::json;

use crate::cli::args::{Global, Restore};
use crate::cli::output::{count, size, with_bytes};
use crate::cli::{environment, exit};

pub(super) fn restore(global: &Global, args: &Restore) -> Result<ExitCode> {
    let progress = global.progress("restoring");
    let session = global.session("restore", &progress);
    let repo = global.open(&session)?;
    let output = environment::absolute(&args.output_directory)?;
    let options = RestoreOptions {
        address: &args.snapshot_number,
        output: &output,
        paths: &args.paths,
        threads: global.threads(),
    };
    let report = restore::restore(&repo, &options, &progress);
    progress.finish();
    let report = report?;
    let text = || {
        let mut text = format!(
            "restored snapshot {} to {}: {}, {}, {}, {}\ntook {:.1} s\n",
            report.number,
            display_path(&output),
            count(report.restored.files, "file"),
            count(report.restored.dirs, "directory"),
            count(report.restored.symlinks, "symbolic link"),
            size(report.restored.bytes),
            report.elapsed.as_secs_f64(),
        );
        if !report.failures.is_empty() {
            let failures = count(report.failures.len() as u64, "path");
            text.push_str(&format!("{failures} could not be restored (named above)\n"));
            if report.failures.iter().any(|(_, error)| error.is_unreadable()) {
                text.push_str("next: `backuptool check` says what else is damaged, and what to do\n");
            }
        }
        text
    };
    let failures: Vec<_> = report
        .failures
        .iter()
        .map(|(path, error)| with_bytes(json!({"error": error.to_string()}), "path", path.as_os_str().as_bytes()))
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
