//! Reading the documents: where they are, and the fenced blocks in them.

use std::fs;
use std::path::{Path, PathBuf};

/// A path in the package.
pub(crate) fn package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The text of a file of the package.
pub(crate) fn text(path: &str) -> String {
    fs::read_to_string(package(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A fenced block: what follows the three backticks, and the lines between.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) info: String,
    pub(crate) body: String,
    /// The line in which it begins, for messages.
    pub(crate) line: usize,
}

/// The fenced blocks of a document.
pub(crate) fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in document.lines().enumerate() {
        match (open.take(), line.strip_prefix("```")) {
            (None, Some(info)) => {
                open = Some(Block { info: info.trim().into(), body: String::new(), line: number + 1 });
            }
            (Some(block), Some("")) => blocks.push(block),
            (Some(mut block), _) => {
                block.body.push_str(line);
                block.body.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fenced block is not closed: {open:?}");
    blocks
}
