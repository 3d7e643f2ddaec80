//! `init`: makes a repository.

use std::process::ExitCode;

use backuptool::Result;
use backuptool::object::display_path;
use backuptool::ops::init::{self, InitOptions};
use serde_json::json;

use crate::cli::args::{Global, Init};
use crate::cli::exit;

pub(super) fn init(global: &Global, args: &Init) -> Result<ExitCode> {
    let progress = global.progress("making");
    let (path, _) = global.repository();
    let options = InitOptions { hash: args.hash.into(), chunks: args.chunk_size };
    init::init(&path, &options, &global.session("init", &progress))?;
    global.report(
        || format!("made a repository in {}\n", display_path(&path)),
        &json!({"type": "init", "repository": display_path(&path), "hash": options.hash.name()}),
    )?;
    Ok(exit::DONE)
}
