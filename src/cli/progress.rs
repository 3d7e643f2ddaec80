//! Progress on a terminal; warnings always.

use std::time::Duration;

use backuptool::object::display_bytes;
use backuptool::progress::{Progress, Warning, WarningReason};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::os::unix::ffi::OsStrExt;

use super::output;

/// Shows a counter of files and bytes while a command runs, on a terminal only, and prints warnings above it.
pub(super) struct TerminalProgress {
    bar: ProgressBar,
    files: std::sync::atomic::AtomicU64,
}

impl TerminalProgress {
    /// A display for a command that is called `doing`: "storing".
    pub(super) fn new(doing: &'static str, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(5) };
        let bar = ProgressBar::with_draw_target(None, target).with_prefix(doing);
        let template = "{prefix}: {msg} files, {binary_bytes}, {elapsed} ({binary_bytes_per_sec})";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, files: std::sync::atomic::AtomicU64::new(0) }
    }

    /// Takes the display off the terminal.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn say(&self, text: &str) {
        self.bar.suspend(|| output::note(text));
    }
}

impl Progress for TerminalProgress {
    fn advance(&self, files: u64, bytes: u64) {
        let files = self.files.fetch_add(files, std::sync::atomic::Ordering::Relaxed) + files;
        if !self.bar.is_hidden() {
            self.bar.set_message(files.to_string());
            self.bar.inc(bytes);
        }
    }

    fn warning(&self, warning: &Warning<'_>) {
        let reason = match &warning.reason {
            WarningReason::Error(error) => error.to_string(),
            WarningReason::Text(text) => (*text).to_string(),
        };
        match warning.path {
            Some(path) => {
                let path = display_bytes(path.as_os_str().as_bytes());
                self.say(&format!("backuptool: {path}: {reason}"));
            }
            None => self.say(&format!("backuptool: {reason}")),
        }
    }

    fn waiting_for_lock(&self, waited: Duration, holders: &[String]) {
        let who = if holders.is_empty() { "another process".to_string() } else { holders.join("; ") };
        self.say(&format!("backuptool: the repository is locked; waited {} s for {who}", waited.as_secs()));
    }
}
