//! Many snapshots: what an operation does does not grow with their number, or by no more than a step or two for each.

use std::path::Path;
use std::sync::Arc;

use backuptool::object::Labels;
use backuptool::ops::prune::{self, PruneOptions};
use backuptool::ops::snapshot::{ChangeDetection, SnapshotOptions, SnapshotReport, WriterOptions, snapshot};
use backuptool::ops::{address, list};
use backuptool::store::{Backend, MemoryBackend};
use jiff::{SignedDuration, Timestamp};

use crate::support::fault::{FaultBackend, Plan};
use crate::support::model::{Model, Source};
use crate::support::repos::{ONE, init, open, put_labels, session};

/// A clock for which every file of a test is old.
fn later() -> Timestamp {
    Timestamp::now() + SignedDuration::from_secs(60)
}

fn take(backend: impl Backend + 'static, source: &Path) -> SnapshotReport {
    let options = SnapshotOptions {
        source,
        user: b"user",
        clock: later,
        utc_offset: 0,
        allow_empty: true,
        one_file_system: false,
        detection: ChangeDetection::default(),
        labels: &Labels::default(),
        writing: WriterOptions::default(),
        threads: ONE,
    };
    snapshot(&open(backend).unwrap(), &options, &session()).unwrap()
}

/// A repository with so many snapshots of one source, of which the first added what there is.
fn with_snapshots(source: &Source, count: u64) -> MemoryBackend {
    let memory = MemoryBackend::new();
    init(memory.clone()).unwrap();
    for number in 1..=count {
        assert_eq!(take(memory.clone(), source.path()).snapshot.number, number);
    }
    memory
}

/// The steps that an operation takes on the storage.
fn steps(memory: &MemoryBackend, operation: impl FnOnce(FaultBackend)) -> Vec<String> {
    let counting = FaultBackend::new(Arc::new(memory.clone()), Plan::None);
    operation(counting.clone());
    counting.log()
}

fn listings(steps: &[String]) -> usize {
    steps.iter().filter(|step| step.ends_with(" list snapshots")).count()
}

fn source() -> Source {
    Source::new((0..20).fold(Model::default(), |model, n| model.file(&format!("d{}/{n}", n % 4), vec![n; 300])))
}

#[test]
fn the_steps_of_a_snapshot_do_not_grow_with_the_snapshots() {
    let source = source();
    let [few, many] = [3, 70].map(|count| {
        let memory = with_snapshots(&source, count);
        let steps = steps(&memory, |backend| {
            assert_eq!(take(backend, source.path()).snapshot.number, count + 1);
        });
        assert_eq!(listings(&steps), 1, "{steps:?}");
        steps
    });
    assert_eq!(few.len(), many.len(), "{few:#?} {many:#?}");
}

#[test]
fn an_empty_source_is_compared_with_its_last_snapshot_only() {
    let source = Source::new(Model::default());
    let [few, many] = [3, 70].map(|count| {
        steps(&with_snapshots(&source, count), |backend| {
            let options = SnapshotOptions {
                source: source.path(),
                user: b"user",
                clock: later,
                utc_offset: 0,
                allow_empty: false,
                one_file_system: false,
                detection: ChangeDetection::default(),
                labels: &Labels::default(),
                writing: WriterOptions::default(),
                threads: ONE,
            };
            snapshot(&open(backend).unwrap(), &options, &session()).unwrap();
        })
    });
    assert_eq!(few.len(), many.len(), "{few:#?} {many:#?}");
}

#[test]
fn a_list_reads_each_ref_once_and_asks_for_no_labels_that_are_not_there() {
    let source = source();
    let [few, many] = [3, 70].map(|count| {
        let memory = with_snapshots(&source, count);
        let steps = steps(&memory, |backend| {
            let report = list::list(&open(backend).unwrap(), ONE, |listed| listed.snapshot.number).unwrap();
            assert_eq!(report.snapshots.len() as u64, count);
        });
        assert_eq!(listings(&steps), 1, "{steps:?}");
        steps.len()
    });
    assert_eq!(many - few, 67);
}

#[test]
fn many_are_listed_by_several_threads_in_order_with_their_labels() {
    let source = source();
    let memory = with_snapshots(&source, 300);
    for number in [1, 150, 300] {
        put_labels(&memory, number, &Labels { pinned: true, ..Labels::default() });
    }
    let repo = open(memory).unwrap();
    let report = list::list(&repo, std::num::NonZero::new(3).unwrap(), |listed| listed).unwrap();
    let numbers: Vec<u64> = report.snapshots.iter().map(|listed| listed.snapshot.number).collect();
    assert_eq!(numbers, (1..=300).collect::<Vec<_>>());
    let pinned = report.snapshots.iter().filter(|listed| listed.labels.as_ref().unwrap().pinned);
    assert_eq!(pinned.map(|listed| listed.snapshot.number).collect::<Vec<_>>(), [1, 150, 300]);
    assert!(report.unreadable.is_empty());
}

#[test]
fn a_prune_and_a_restore_list_the_refs_no_more_often_where_there_are_many() {
    let source = source();
    let [few, many] = [3, 70].map(|count| {
        let memory = with_snapshots(&source, count);
        let pruned = steps(&memory, |backend| {
            let plan = prune::plan(&open(backend).unwrap(), &PruneOptions::numbers(&[1])).unwrap();
            assert_eq!(plan.remove, [1]);
        });
        let found = steps(&memory, |backend| {
            let wanted = address::Wanted::Latest { back: 0 };
            let address = address::Address { snapshot: wanted, path: Vec::new() };
            assert_eq!(address.find(&open(backend).unwrap()).unwrap().number, count);
        });
        (listings(&pruned), pruned.len(), found.len())
    });
    assert_eq!(few.0, many.0);
    assert!(many.1 - few.1 <= 67 * 2, "each ref is read to be considered and to be marked: {few:?}, {many:?}");
    assert_eq!(few.2, many.2);
}
