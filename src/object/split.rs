//! Cutting a long sequence of lines into pieces, so that a change rewrites one piece a level and not everything.
//!
//! Large directories and long chunk lists are both stored this way: lines are collected into a piece; a piece ends
//! after a line that its content marks (so the same lines are cut alike wherever they are met), or when it is full; the
//! node above it holds one line a piece, and is cut by the same rule. It is the idea of content-defined chunking, applied
//! to lines (compare prolly trees, and the hash-split trees of `bup`).
//!
//! A piece has at least [`MIN_LINES`] lines before a mark counts, unless its bytes end it before. So small sequences are
//! never cut, each level is many times shorter than the one below it, and the number of levels is bounded whatever the
//! content.
//!
//! A piece is closed when the line *after* it arrives. So one piece alone is not given a node, and the top of what was cut
//! has two lines or more. The last node of a lower level may have one.

use super::ObjectId;

/// A mark ends a piece only when the piece has this many lines.
pub(super) const MIN_LINES: usize = 64;
/// A piece has at most this many lines.
pub(super) const MAX_LINES: usize = 4096;
/// A piece has at most this many bytes, unless a single line is longer.
pub(super) const MAX_PIECE: usize = 256 * 1024;
/// There are at most this many levels.
pub(super) const MAX_LEVELS: u8 = 8;

/// A line of a piece, at any level.
pub(super) trait Line: Sized {
    /// What a node has to say about lines.
    type Summary;

    /// The first bytes of a piece of this level.
    fn header(level: u8, out: &mut Vec<u8>);
    /// Appends the line.
    fn write(&self, out: &mut Vec<u8>);
    /// Whether the line's content marks the end of a piece of this level.
    fn ends_piece(&self, level: u8) -> bool;
    /// The summary of this line alone.
    fn summary(self) -> Self::Summary;
    /// Adds the summary of the next line to that of the lines before it.
    fn merge(summary: &mut Self::Summary, next: Self::Summary);
    /// The line for a piece, in the node above it.
    fn for_piece(summary: Self::Summary, id: ObjectId) -> Self;
}

/// Cuts lines into pieces, hands each finished piece to a `store` function, and builds the nodes above them.
pub(super) struct Splitter<L: Line> {
    /// The open piece of each level; only a sequence that has no lines lacks one.
    levels: Vec<Option<OpenPiece<L>>>,
}

struct OpenPiece<L: Line> {
    text: Vec<u8>,
    lines: usize,
    ended: bool,
    summary: L::Summary,
}

/// The finished top of a cut sequence.
pub(super) struct Top<S> {
    pub(super) id: ObjectId,
    /// 0 if everything fits one piece.
    pub(super) level: u8,
    /// Nothing if there were no lines.
    pub(super) summary: Option<S>,
}

impl<L: Line> OpenPiece<L> {
    fn begin(level: u8, line: L) -> Self {
        let mut text = Vec::new();
        L::header(level, &mut text);
        line.write(&mut text);
        Self { text, lines: 1, ended: false, summary: line.summary() }
    }

    /// Adds the line, or gives it back if it belongs to the next piece.
    fn push(&mut self, level: u8, line: L) -> Result<(), L> {
        if self.ended || self.lines == MAX_LINES {
            return Err(line);
        }
        let before = self.text.len();
        line.write(&mut self.text);
        if self.text.len() > MAX_PIECE {
            self.text.truncate(before);
            return Err(line);
        }
        self.lines += 1;
        self.ended = self.lines >= MIN_LINES && line.ends_piece(level);
        L::merge(&mut self.summary, line.summary());
        Ok(())
    }
}

impl<L: Line> Splitter<L> {
    pub(super) fn new() -> Self {
        Self { levels: Vec::new() }
    }

    /// Adds the next line.
    pub(super) fn push<E>(&mut self, line: L, store: &mut impl FnMut(&[u8]) -> Result<ObjectId, E>) -> Result<(), E> {
        self.push_at(0, line, store)
    }

    fn push_at<E>(
        &mut self,
        level: u8,
        line: L,
        store: &mut impl FnMut(&[u8]) -> Result<ObjectId, E>,
    ) -> Result<(), E> {
        let at = usize::from(level);
        if at == self.levels.len() {
            self.levels.push(None);
        }
        let Some(open) = &mut self.levels[at] else {
            self.levels[at] = Some(OpenPiece::begin(level, line));
            return Ok(());
        };
        let Err(line) = open.push(level, line) else { return Ok(()) };
        let closed = std::mem::replace(open, OpenPiece::begin(level, line));
        let id = store(&closed.text)?;
        self.push_at(level + 1, L::for_piece(closed.summary, id), store)
    }

    /// Stores what is left and returns the top.
    pub(super) fn finish<E>(
        mut self,
        store: &mut impl FnMut(&[u8]) -> Result<ObjectId, E>,
    ) -> Result<Top<L::Summary>, E> {
        let mut level = 0;
        while let Some(last) = self.levels.get_mut(usize::from(level)).and_then(Option::take) {
            let id = store(&last.text)?;
            if usize::from(level) + 1 == self.levels.len() {
                return Ok(Top { id, level, summary: Some(last.summary) });
            }
            level += 1;
            self.push_at(level, L::for_piece(last.summary, id), store)?;
        }
        let mut empty = Vec::new();
        L::header(0, &mut empty);
        Ok(Top { id: store(&empty)?, level: 0, summary: None })
    }
}
