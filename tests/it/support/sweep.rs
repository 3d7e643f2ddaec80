//! Every way to stop half-way, for whatever operation: each operation on the storage fails in turn, and the power is
//! lost after it.
//!
//! A sweep runs an operation once to count what it asks of the storage, and then again for each of these steps and for
//! each way in which the step can fail. Whatever happens, [`Sweep::verify`] must hold afterwards.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::io::ErrorKind;
use std::sync::Arc;

use backuptool::Result;
use backuptool::object::{HashAlgorithm, ObjectId};
use backuptool::ops::check::Leftovers;
use backuptool::repo::{self, InitOptions, WriterOptions};
use backuptool::store::{Backend, Crash, EntryKind, MemoryBackend, layout, loose};

use super::fault::{FaultBackend, Plan};
use super::model::{Model, Source};
use super::repos::{
    check, open, pack_plan, pack_with, prune_plan, prune_with, read_back, restored, session, take_with,
};

/// A repository and what its snapshots must restore to.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) memory: MemoryBackend,
    pub(crate) taken: BTreeMap<u64, Model>,
    /// The highest number that was ever given out.
    pub(crate) highest: u64,
}

impl World {
    pub(crate) fn new(memory: MemoryBackend) -> Self {
        Self::with_init(memory, &InitOptions::default())
    }

    pub(crate) fn with_init(memory: MemoryBackend, options: &InitOptions) -> Self {
        repo::init(Arc::new(memory.clone()), options, &session()).unwrap();
        Self { memory, taken: BTreeMap::new(), highest: 0 }
    }

    pub(crate) fn with(self, sources: &[&Source]) -> Self {
        self.with_written(sources, WriterOptions::default())
    }

    /// With snapshots that were written so.
    pub(crate) fn with_written(mut self, sources: &[&Source], writing: WriterOptions) -> Self {
        for source in sources {
            let number = take_with(self.memory.clone(), source.path(), writing).unwrap().snapshot.number;
            assert_eq!(number, self.highest + 1);
            self.highest = number;
            self.taken.insert(number, source.model.clone());
        }
        self
    }

    /// The same, apart: with all that is not synced still not synced.
    pub(crate) fn copy(&self) -> MemoryBackend {
        self.memory.crash(Crash::KeepAll)
    }

    pub(crate) fn expect(&self) -> Expect {
        Expect { must: self.taken.clone(), may: BTreeMap::new(), highest: self.highest }
    }

    /// What is to be found after another snapshot, if it was `done` or if it was stopped.
    pub(crate) fn expect_next(&self, source: &Source, done: bool) -> Expect {
        let mut expect = self.expect();
        let number = self.highest + 1;
        if done {
            expect.must.insert(number, source.model.clone());
            expect.highest = number;
        } else {
            expect.may.insert(number, source.model.clone());
        }
        expect
    }

    /// What is to be found after these snapshots were pruned, if that was `done` or if it was stopped.
    pub(crate) fn expect_without(&self, numbers: &[u64], done: bool) -> Expect {
        let mut expect = self.expect();
        for number in numbers {
            let model = expect.must.remove(number).unwrap();
            if !done {
                expect.may.insert(*number, model);
            }
        }
        expect
    }
}

/// What may be found after an operation was stopped, or not.
#[derive(Debug, Clone)]
pub(crate) struct Expect {
    /// The snapshots that must be there.
    pub(crate) must: BTreeMap<u64, Model>,
    /// The snapshots that may be there, if whole.
    pub(crate) may: BTreeMap<u64, Model>,
    /// The highest number that must not be given out again.
    pub(crate) highest: u64,
}

/// How many cases a sweep ran.
#[derive(Debug, Default)]
pub(crate) struct Cases {
    pub(crate) operations: u64,
    pub(crate) run: u64,
    /// Those that led to a state of the storage that no case before had led to.
    pub(crate) distinct: u64,
}

/// Whether the sweeps may take long: ten times the random crashes, and every state restored to the disk.
pub(crate) fn slow() -> bool {
    std::env::var_os("BACKUPTOOL_SLOW").is_some()
}

pub(crate) struct Sweep<'a> {
    /// What is taken next, after each case.
    next: &'a Source,
    /// How that is written.
    writing: WriterOptions,
    /// Whether at last everything is packed.
    packs: bool,
    seeds: u64,
    seen: RefCell<HashSet<(ObjectId, ObjectId, bool)>>,
}

impl<'a> Sweep<'a> {
    pub(crate) fn new(next: &'a Source, seeds: u64) -> Self {
        let seeds = if slow() { seeds * 10 } else { seeds };
        Self { next, writing: WriterOptions::default(), packs: false, seeds, seen: RefCell::default() }
    }

    /// What follows each case leaves packs, and in the end everything is packed.
    pub(crate) fn packing(self, writing: WriterOptions) -> Self {
        Self { writing, packs: true, ..self }
    }

    /// Runs the operation with each possible fault. `expect` says what must be found if it succeeded, or if not.
    pub(crate) fn run(
        &self,
        name: &str,
        base: &MemoryBackend,
        operation: impl Fn(FaultBackend) -> Result<()>,
        expect: impl Fn(bool) -> Expect,
    ) -> Cases {
        let start = || base.crash(Crash::KeepAll);
        let counted = FaultBackend::new(Arc::new(start()), Plan::None);
        operation(counted.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut cases = Cases { operations: counted.operations(), ..Cases::default() };
        for (n, step) in (1..).zip(counted.log()) {
            let writes = step.contains(" append ") || step.contains(" write ");
            for plan in [Plan::FailOnce(n), Plan::FailFrom(n), Plan::TornFrom(n)] {
                // Only a write can be torn: everywhere else it is the plan before.
                if matches!(plan, Plan::TornFrom(_)) && !writes {
                    continue;
                }
                for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
                    let memory = start();
                    let faults = FaultBackend::failing_with(Arc::new(memory.clone()), plan, kind);
                    let done = operation(faults.clone()).is_ok();
                    assert!(faults.fired(), "{name}: {plan:?} of {step} never came");
                    let expect = expect(done);
                    for crash in self.crashes(n, kind) {
                        let case = format!("{name}: {plan:?} ({kind}) of {step}, {crash:?}, done: {done}");
                        let after = memory.crash(crash);
                        cases.run += 1;
                        if self.is_new(&after, done) {
                            cases.distinct += 1;
                            self.verify(&case, &after, &expect);
                        }
                    }
                }
            }
        }
        println!("{name}: {cases:?}");
        cases
    }

    pub(crate) fn crashes(&self, n: u64, kind: ErrorKind) -> Vec<Crash> {
        let mut crashes = vec![Crash::KeepAll, Crash::LoseAll, Crash::KeepNames];
        // What the fault is called makes no difference to what a crash can do.
        if kind == ErrorKind::Other {
            crashes.extend((0..self.seeds).map(|seed| Crash::Random(1000 * n + seed)));
        }
        crashes
    }

    /// Whether this state has not been verified yet: what is there, and what of it is durable.
    pub(crate) fn is_new(&self, memory: &MemoryBackend, done: bool) -> bool {
        let state = (fingerprint(memory), fingerprint(&memory.crash(Crash::LoseAll)), done);
        self.seen.borrow_mut().insert(state)
    }

    /// What must always hold.
    pub(crate) fn verify(&self, case: &str, memory: &MemoryBackend, expect: &Expect) {
        let written = slow() || self.seen.borrow().len() % 32 == 1;
        let listed = Self::verify_restores(case, memory, expect, written);
        // In half of the cases a snapshot comes first: it must not need a check to know what is damaged.
        let checks_first = self.seen.borrow().len().is_multiple_of(2);
        let check_it = || {
            let report = ok(case, check(memory.clone()));
            assert!(report.is_clean(), "{case}: {report:?}");
        };
        if checks_first {
            check_it();
        }

        // A snapshot can be taken, under a new number, and is safe.
        let next = take_with(memory.clone(), self.next.path(), self.writing);
        let number = ok(case, next).snapshot.number;
        assert!(number > expect.highest && !listed.contains(&number), "{case}: number {number} was given out again");
        let mut after = Expect { must: expect.must.clone(), may: BTreeMap::new(), highest: number };
        for extra in listed.iter().filter(|number| expect.may.contains_key(number)) {
            after.must.insert(*extra, expect.may[extra].clone());
        }
        after.must.insert(number, self.next.model.clone());
        let case = format!("{case}, then snapshot {number}");
        Self::verify_snapshots(&case, &memory.crash(Crash::LoseAll), &after);
        if !checks_first {
            check_it();
        }

        // A prune works, and leaves nothing that is not needed.
        let first = *after.must.keys().next().unwrap();
        ok(&case, prune_with(memory.clone(), &[first], self.writing));
        after.must.remove(&first);
        let case = format!("{case}, then prune of {first}");
        Self::verify_snapshots(&case, &memory.crash(Crash::LoseAll), &after);
        Self::verify_restores(&case, memory, &after, written);
        verify_nothing_left(&case, memory);
        if self.packs {
            let report = ok(&case, pack_with(memory.clone(), self.writing));
            let case = format!("{case}, then pack");
            assert!(report.damaged.is_empty() && !report.old_files_remain, "{case}: {report:?}");
            Self::verify_snapshots(&case, &memory.crash(Crash::LoseAll), &after);
            Self::verify_restores(&case, memory, &after, written);
            verify_nothing_left(&case, memory);
            assert!(loose::list(memory).unwrap().objects.is_empty(), "{case}");
            let plan = ok(&case, pack_plan(memory.clone(), self.writing));
            assert!(plan.is_empty(), "{case}: {plan:?}");
        }
    }

    /// Exactly the expected snapshots are listed, and each is what was taken.
    pub(crate) fn verify_snapshots(case: &str, memory: &MemoryBackend, expect: &Expect) -> Vec<u64> {
        Self::verify_restores(case, memory, expect, false)
    }

    pub(crate) fn verify_written(memory: &MemoryBackend, expect: &Expect) {
        Self::verify_restores("", memory, expect, true);
    }

    /// The same; with `written`, by restores into a directory, which take a hundred times as long.
    pub(crate) fn verify_restores(case: &str, memory: &MemoryBackend, expect: &Expect, written: bool) -> Vec<u64> {
        let repo = ok(case, open(memory.clone()));
        let listing = ok(case, repo.snapshots());
        assert!(listing.unreadable.is_empty(), "{case}: {:?}", listing.unreadable);
        let listed: Vec<u64> = listing.snapshots.iter().map(|snapshot| snapshot.number).collect();
        for number in expect.must.keys() {
            assert!(listed.contains(number), "{case}: snapshot {number} is gone, of {listed:?}");
        }
        for number in &listed {
            let Some(model) = expect.must.get(number).or_else(|| expect.may.get(number)) else {
                panic!("{case}: snapshot {number} must not be listed");
            };
            let found = if written { restored(memory.clone(), *number) } else { read_back(&repo, *number) };
            let differences = ok(case, found).differences(model);
            assert!(differences.is_empty(), "{case}: snapshot {number}: {differences:?}");
        }
        listed
    }
}

/// After a prune, and after whatever adds nothing, there is nothing that a prune would remove.
pub(crate) fn verify_nothing_left(case: &str, memory: &MemoryBackend) {
    let report = ok(case, check(memory.clone()));
    // What is dead in a pack that holds little that is dead stays.
    let unneeded = report.leftovers.unneeded;
    assert!(report.packs > 0 || unneeded == 0, "{case}: {report:?}");
    let leftovers = Leftovers { unneeded, ..Leftovers::default() };
    assert!(report.is_clean() && report.leftovers == leftovers, "{case}: {report:?}");
    let plan = ok(case, prune_plan(memory.clone(), &[]));
    let left = (&plan.dead, &plan.dead_packs, &plan.rewrite, &plan.missing);
    assert!(plan.dead.is_empty() && plan.objects() == 0 && plan.missing.is_empty(), "{case}: {left:?}");
    assert_eq!(memory.list(layout::TMP).unwrap(), [], "{case}");
}

/// The value; an error fails the test, which says in which case.
pub(crate) fn ok<T>(case: &str, result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{case}: {error}"))
}

/// The hash of all names and contents. The random names of staging directories are left out.
pub(crate) fn fingerprint(memory: &MemoryBackend) -> ObjectId {
    fn add(memory: &MemoryBackend, dir: &str, text: &mut Vec<u8>) {
        for entry in memory.list(dir).unwrap() {
            let path = if dir.is_empty() { entry.name.clone() } else { format!("{dir}/{}", entry.name) };
            let name = if dir == layout::TMP { "run" } else { &entry.name };
            if entry.kind == EntryKind::Dir {
                text.extend_from_slice(format!("dir {name} (").as_bytes());
                add(memory, &path, text);
                text.push(b')');
            } else {
                let content = memory.contents(&path).unwrap();
                text.extend_from_slice(format!("file {name} {} ", HashAlgorithm::Blake3.hash(&content)).as_bytes());
            }
        }
    }
    let mut text = Vec::new();
    add(memory, "", &mut text);
    HashAlgorithm::Blake3.hash(&text)
}
