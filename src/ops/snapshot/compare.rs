//! What is as the last snapshot saw it: a merge of the walk with what was written down then.
//!
//! Both come in the same order, so each is passed through once. A file that is as it was becomes an event that needs no
//! reading; a directory in which everything is as it was, and nothing is missing, ends with the tree that it had.
//!
//! What is written down may end early, or be of another state of the source altogether: then less is the same.

use super::walk::{Event, FileToRead};
use crate::fs::Stat;
use crate::object::{Content, Name, TreeId};
use crate::repo::{FileMark, Seen, SeenReader};

/// What counts as a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChangeDetection {
    /// Every file is read, whatever it looks like.
    pub rescan: bool,
    /// The time of a file's last change as the system says (ctime) does not matter: for file systems that change it, as when
    /// a backup program or a virus scanner resets other times.
    pub ignore_ctime: bool,
    /// The inode does not matter: for file systems that number files anew each time they are mounted.
    pub ignore_inode: bool,
}

/// A file that is as it was.
#[derive(Debug, Clone)]
pub(in crate::ops) struct KnownFile {
    pub(super) name: Name,
    pub(super) mark: FileMark,
    pub(super) content: Content,
}

/// A directory that is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) struct KnownDir {
    pub(super) tree: TreeId,
    pub(super) size: u64,
}

/// The merge in progress.
pub(super) struct Compare {
    last: Option<SeenReader>,
    /// The record that comes next.
    next: Option<Seen>,
    detection: ChangeDetection,
    /// The directories that are open in the walk, the innermost last.
    open: Vec<Level>,
}

#[derive(Debug, Clone, Copy)]
struct Level {
    /// The records are in this directory too.
    is_known: bool,
    /// Everything so far is as it was.
    is_same: bool,
}

impl Compare {
    /// Begins at the top of a source, with what its last snapshot saw.
    pub(super) fn begin(mut last: Option<SeenReader>, detection: ChangeDetection) -> Self {
        let next = last.as_mut().and_then(Iterator::next);
        let is_known = next.is_some();
        Self { last, next, detection, open: vec![Level { is_known, is_same: is_known }] }
    }

    /// Says of an event whether it is as it was. To be called with each event of the walk, in order.
    pub(super) fn event(&mut self, event: Event) -> Event {
        match event {
            Event::Enter(name) => {
                let is_known = matches!(self.find(&name), Some(Seen::Dir(_)));
                if is_known {
                    self.advance();
                } else {
                    self.differs();
                }
                self.open.push(Level { is_known, is_same: is_known });
                Event::Enter(name)
            }
            Event::Leave(_) => Event::Leave(self.leave()),
            Event::File(file) => self.file(file),
            Event::Symlink(name, target) => {
                let is_same = matches!(self.find(&name), Some(Seen::Symlink { target: old, .. }) if *old == target);
                if is_same {
                    self.advance();
                } else {
                    self.differs();
                }
                Event::Symlink(name, target)
            }
            // Of what was not stored nothing is written down, and of all that was stored something: if it was, a record will be
            // left over.
            Event::Known(_) | Event::Special | Event::Repository | Event::Failed(_) => event,
        }
    }

    /// The end of the walk, for the top.
    pub(super) fn end(&mut self) -> Option<KnownDir> {
        self.leave()
    }

    fn file(&mut self, file: FileToRead) -> Event {
        let detection = self.detection;
        let past = match self.find(&file.name) {
            Some(Seen::File { mark, content, .. }) => Some((*mark, *content)),
            _ => None,
        };
        let is_same = |mark: &FileMark| {
            looks_same(&file.stat, mark, detection)
                && self.last.as_ref().is_some_and(|last| last.is_settled(mark, detection.ignore_ctime))
        };
        let Some((mark, content)) = past.filter(|(mark, _)| is_same(mark)) else {
            self.differs();
            return Event::File(FileToRead { past: past.map(|(mark, content)| (mark.size, content)), ..file });
        };
        self.advance();
        // As it looked then: what is ignored now may count for the next snapshot.
        Event::Known(KnownFile { name: file.name, mark, content })
    }

    fn leave(&mut self) -> Option<KnownDir> {
        let level = self.open.pop()?;
        let mut known = None;
        if level.is_known {
            let is_complete = self.skip_rest();
            if let Some(Seen::End { tree, size }) = self.next {
                self.advance();
                known = (is_complete && level.is_same).then_some(KnownDir { tree, size });
            }
        }
        if known.is_none() {
            self.differs();
        }
        known
    }

    fn differs(&mut self) {
        if let Some(level) = self.open.last_mut() {
            level.is_same = false;
        }
    }

    fn advance(&mut self) {
        self.next = self.last.as_mut().and_then(Iterator::next);
    }

    /// The record of this name in the open directory, if there is one. Those before it are passed over.
    fn find(&mut self, name: &Name) -> Option<&Seen> {
        if !self.open.last().is_some_and(|level| level.is_known) {
            return None;
        }
        while self.next.as_ref().and_then(Seen::name).is_some_and(|next| next < name) {
            self.skip();
        }
        self.next.as_ref().filter(|next| next.name() == Some(name))
    }

    /// Passes over the next record, with all below it.
    fn skip(&mut self) {
        self.differs();
        let mut depth = 0_u64;
        loop {
            match self.next {
                Some(Seen::Dir(_)) => depth += 1,
                Some(Seen::End { .. }) => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.advance();
            if depth == 0 || self.next.is_none() {
                return;
            }
        }
    }

    /// Passes over what is left of the open directory, and says whether that was nothing.
    fn skip_rest(&mut self) -> bool {
        let mut was_nothing = true;
        while self.next.as_ref().and_then(Seen::name).is_some() {
            self.skip();
            was_nothing = false;
        }
        was_nothing
    }
}

/// How a file looks now.
pub(super) fn mark_of(stat: &Stat) -> FileMark {
    FileMark { size: stat.size, modified: stat.modified, changed: stat.changed, inode: stat.identity.inode() }
}

fn looks_same(stat: &Stat, mark: &FileMark, detection: ChangeDetection) -> bool {
    let now = mark_of(stat);
    now.size == mark.size
        && now.modified == mark.modified
        && (detection.ignore_ctime || now.changed == mark.changed)
        && (detection.ignore_inode || now.inode == mark.inode)
}
