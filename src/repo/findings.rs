//! What checks have found, noted in `cache` for those that come later: `cache/damaged` and `cache/verified`.
//!
//! # Why nothing that was found is forgotten
//!
//! Several processes may have something to note at the same time: checks, snapshots that have stored again what was
//! damaged, a repair, a prune. Each reads what is noted, changes of it what it knows better, and writes that; and as long
//! as it does so it holds `tmp/findings`, a staging directory like any other except that its name is fixed, so that there
//! is one at a time. What took hours to find never replaces as a whole what others have noted meanwhile.
//!
//! One thing this cannot tell: an object that was noted already, that one check finds whole, and that rots before another
//! one beside it reads it. The first takes it off; the next check finds it again.

use super::{Repository, Session, lock, make_dirs};
use crate::error::Result;
use crate::store::damaged::{self, Damaged};
use crate::store::staging::{self, Staging};
use crate::store::verified::{self, Verified};

/// The name of the staging directory of who notes something.
const RUN: &str = "findings";

impl Repository {
    /// Changes what is noted as damaged, durably, and returns it. Where the change is none, nothing is written.
    pub(super) fn change_damaged(&self, session: &Session<'_>, change: impl Fn(&mut Damaged)) -> Result<Damaged> {
        let read = || damaged::read(self.backend());
        let change = |noted: &mut Damaged| {
            change(noted);
            Ok(())
        };
        self.change_noted(session, read, change, |staging, noted| damaged::write(self.backend(), staging, noted))
    }

    /// Changes what is noted of packs that were found whole, given what is noted as damaged. Where the change is none,
    /// nothing is written.
    pub(super) fn change_verified(
        &self,
        session: &Session<'_>,
        change: impl Fn(&mut Verified, &Damaged) -> Result<()>,
    ) -> Result<Verified> {
        let read = || verified::read(self.backend(), self.place(), session.start);
        let change = |noted: &mut Verified| change(noted, &damaged::read(self.backend())?);
        let write = |staging: &Staging<'_>, noted: &_| verified::write(self.backend(), staging, self.place(), noted);
        self.change_noted(session, read, change, write)
    }

    fn change_noted<T: Clone + PartialEq>(
        &self,
        session: &Session<'_>,
        read: impl Fn() -> Result<T>,
        change: impl Fn(&mut T) -> Result<()>,
        write: impl FnOnce(&Staging<'_>, &T) -> Result<()>,
    ) -> Result<T> {
        let changed = |before: &T| -> Result<T> {
            let mut after = before.clone();
            change(&mut after)?;
            Ok(after)
        };
        // Mostly there is nothing to do, and where nothing can be written nothing has to be.
        let before = read()?;
        if changed(&before)? == before {
            return Ok(before);
        }
        let staging = self.alone(session)?;
        let after = changed(&read()?)?;
        write(&staging, &after)?;
        Ok(after)
    }

    /// Becomes the only one that notes something, waiting for others that do. To be held shortly.
    fn alone(&self, session: &Session<'_>) -> Result<Staging<'_>> {
        let backend = self.backend();
        make_dirs(backend)?;
        staging::remove_abandoned(backend)?;
        lock::wait(backend, session, &mut || Staging::try_begin_as(backend, &session.info(), RUN))
    }
}
