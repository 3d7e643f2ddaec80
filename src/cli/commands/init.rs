//! `init`: makes a repository.

use std::process::ExitCode;

use backuptool::Result;
use backuptool::object::display_path;
use backuptool::ops::init::{self, InitOptions};
use serde_json::json;

use crate::cli::args::{Global, Init};
use crate::cli::exit;
use crate::cli::output::with_bytes;

pub(super) fn init(global: &Global, args: &Init) -> Result<ExitCode> {
    let progress = global.progress("making");
    let (path, _) = global.repository();
    let options = InitOptions { hash: args.hash.into(), chunks: args.chunk_size };
    init::init(&path, &options, &global.session("init", &progress))?;
    global.report(
        || format!("made a repository in {}\n", display_path(&path)),
        &with_bytes(
            json!({"type": "init", "hash": options.hash.name()}),
            "repository",
            path.as_os_str().as_encoded_bytes(),
        ),
    )?;
    Ok(exit::DONE)
}
