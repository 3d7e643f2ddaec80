//! A check, or a restore, that is misled: by an index that hides objects, by packs that are there and cannot be opened, by
//! an error while it looks for what it misses. What it says must be what it says without that.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};

use backuptool::object::{Content, HashAlgorithm, ListId, ObjectId, PathNote, PathNotes, Snapshot};
use backuptool::ops::check::CheckReport;
use backuptool::store::index::{IndexFile, prefix};
use backuptool::store::pack::{PackKind, PackName};
use backuptool::store::{Backend, MemoryBackend, layout};

use crate::support::fault::FaultBackend;
use crate::support::model::{Model, Source, file, files, noise};
use crate::support::repos::{
    PACKED, check, init, open, pack_with, packs, plain_snapshot, prune, put_object, put_snapshot, restored, save_index,
    take_with,
};

/// A repository with a snapshot for each, all in packs, and the index of all packs.
fn indexed(snapshots: &[Model]) -> MemoryBackend {
    let memory = MemoryBackend::new();
    init(memory.clone()).unwrap();
    for model in snapshots {
        take_with(memory.clone(), Source::new(model.clone()).path(), PACKED).unwrap();
    }
    save_index(&memory);
    memory
}

/// Lets the index say of an object that it is in a pack that there is not.
fn hide(memory: &MemoryBackend, id: ObjectId) {
    let mut index = memory.contents(layout::INDEX).unwrap();
    let entries = IndexFile::open(memory, HashAlgorithm::Blake3).unwrap().entry_count() as usize;
    let mut hidden = 0;
    for entry in index[..16 * entries].chunks_exact_mut(16) {
        if entry[..8] == prefix(id).to_le_bytes() {
            entry[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
            hidden += 1;
        }
    }
    assert_eq!(hidden, 1);
    memory.set_contents(layout::INDEX, index).unwrap();
}

fn found(report: &CheckReport) -> impl PartialEq + std::fmt::Debug + use<> {
    let damaged: Vec<_> = report.damaged.iter().map(|(id, damage)| (*id, damage.files.clone())).collect();
    let packs: Vec<PackName> = report.damaged_packs.iter().map(|(pack, _)| *pack).collect();
    (damaged, packs, report.whole.clone())
}

#[test]
fn a_pack_that_cannot_be_opened_is_damage_whatever_the_index_says_of_it() {
    for kind in [ErrorKind::PermissionDenied, ErrorKind::Other] {
        let names = packs(&indexed(&[files(1..4), files(5..8)]));
        assert_eq!(names.len(), 4);
        for pack in names {
            let check_without = |memory: &MemoryBackend| {
                let denied = pack.path();
                let is_denied = move |path: &str| if path == denied { Err(kind.into()) } else { Ok(()) };
                let backend = FaultBackend::hooked(memory.clone(), move |_, path| is_denied(path));
                check(backend).unwrap_or_else(|error| panic!("{kind:?} {pack}: {error}"))
            };
            let memory = indexed(&[files(1..4), files(5..8)]);
            memory.remove(layout::INDEX).unwrap();
            let expected = check_without(&memory);
            assert_eq!(expected.damaged_packs.len(), 1);
            assert_eq!(expected.whole.len(), 1, "{pack}");
            let memory = indexed(&[files(1..4), files(5..8)]);
            for _ in 0..2 {
                assert_eq!(found(&check_without(&memory)), found(&expected), "{kind:?} {pack}");
            }
        }
    }
}

/// As when somebody else once ran it in the same repository.
#[test]
fn what_a_pack_holds_that_may_not_be_opened_is_neither_stored_again_nor_given_up() {
    for has_index in [true, false] {
        let memory = indexed(&[files(1..4), files(5..8)]);
        if !has_index {
            memory.remove(layout::INDEX).unwrap();
        }
        let stored = memory.paths();
        let backend = FaultBackend::hooked(memory.clone(), |operation, path| {
            let is_denied = operation == "open" && path.starts_with("packs/");
            if is_denied { Err(ErrorKind::PermissionDenied.into()) } else { Ok(()) }
        });
        let source = Source::new(files(1..4));
        let said = |result: backuptool::Result<()>| {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("permission denied") && !error.contains("prune --snapshot"), "{error}");
            error
        };
        let taken = said(take_with(backend.clone(), source.path(), PACKED).map(|_| ()));
        let packed = said(pack_with(backend.clone(), PACKED).map(|_| ()));
        said(prune(backend.clone(), &[1]).map(|_| ()));
        if !has_index {
            assert!([taken, packed].iter().all(|error| error.contains("the user who owns the repository")));
        }
        let report = check(backend).unwrap();
        assert!(report.is_denied && !report.is_clean());
        assert_eq!(
            memory.paths().iter().filter(|path| !path.starts_with("cache/")).count(),
            stored.iter().filter(|path| !path.starts_with("cache/")).count()
        );
    }
}

#[test]
fn an_object_whose_loose_copy_is_damaged_and_whose_packed_one_is_hidden_is_whole() {
    let memory = indexed(&[files(1..4)]);
    let id = put_object(&memory, &file(2));
    let mut bad = memory.contents(&layout::object_path(id)).unwrap();
    let at = bad.len() / 2;
    bad[at] ^= 1;
    memory.set_contents(&layout::object_path(id), bad).unwrap();
    let expected = check(memory.clone()).unwrap();
    assert_eq!((expected.damaged.len(), &expected.whole[..]), (0, &[1][..]));
    hide(&memory, id);
    // Before a check removes the index.
    assert_eq!(*open(memory.clone()).unwrap().read_object(id).unwrap(), file(2)[..]);
    let report = check(memory.clone()).unwrap();
    assert_eq!((found(&report), report.objects), (found(&expected), expected.objects));
    assert_eq!(restored(memory, 1).unwrap(), files(1..4));
}

#[test]
fn what_the_index_hides_is_no_damage() {
    for number in 1..4 {
        let memory = indexed(&[files(1..4), files(2..6)]);
        let expected = check(memory.clone()).unwrap();
        assert!(expected.is_clean());
        hide(&memory, HashAlgorithm::Blake3.hash(&file(number)));
        assert_eq!(found(&check(memory).unwrap()), found(&expected), "{number}");
    }
}

/// A prune comes upon each object behind the one before it. What the index hides is needed all the same.
#[test]
fn of_what_the_index_hides_a_prune_keeps_the_copy_that_is_whole() {
    let content = |number| noise(number, 5000);
    let kept = (1..5).fold(Model::default(), |model, number| model.file(&format!("{number}"), content(number)));
    for hidden in 1..5 {
        let memory = indexed(&[files(1..4), kept.clone()]);
        // What is loose is whole, and what is packed is not.
        for number in 1..5 {
            put_object(&memory, &content(number));
        }
        let needle = &content(3)[1000..1064];
        for path in memory.paths().into_iter().filter(|path| path.starts_with("packs/")) {
            let mut bytes = memory.contents(&path).unwrap();
            if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
                bytes[at] ^= 1;
                memory.set_contents(&path, bytes).unwrap();
            }
        }
        hide(&memory, HashAlgorithm::Blake3.hash(&content(hidden)));
        prune(memory.clone(), &[1]).unwrap();
        assert_eq!(restored(memory, 2).unwrap().differences(&kept), [] as [String; 0], "{hidden}");
    }
}

/// Each blob of the snapshot that stays has one copy alone, in a pack of nothing else: there is nothing to be written anew.
#[test]
fn what_the_index_hides_is_not_dead_where_it_stands() {
    for hidden in 1..5 {
        let memory = indexed(&[files(1..4), files(1..5)]);
        let blobs = || packs(&memory).into_iter().filter(|pack| pack.kind == PackKind::Blobs);
        let before: Vec<PackName> = blobs().collect();
        hide(&memory, HashAlgorithm::Blake3.hash(&file(hidden)));
        prune(memory.clone(), &[1]).unwrap();
        assert_eq!(blobs().collect::<Vec<_>>(), before, "{hidden}");
        assert_eq!(restored(memory.clone(), 2).unwrap().differences(&files(1..5)), [] as [String; 0], "{hidden}");
        assert!(check(memory).unwrap().is_clean());
    }
}

/// What cannot be looked up says nothing of the tree that refers to it.
#[test]
fn an_error_while_it_looks_again_is_no_damage() {
    let memory = indexed(&[files(1..4)]);
    let blobs = packs(&memory).into_iter().find(|pack| pack.kind == PackKind::Blobs).unwrap();
    memory.remove(&blobs.path()).unwrap();
    let lists = AtomicU64::new(0);
    let backend = FaultBackend::hooked(memory.clone(), move |operation, path| {
        let fails = operation == "list" && path == layout::PACKS && lists.fetch_add(1, Ordering::Relaxed) == 1;
        if fails { Err(ErrorKind::Other.into()) } else { Ok(()) }
    });
    assert!(check(backend).unwrap_err().to_string().contains("packs"));
    assert_eq!(check(memory).unwrap().damaged.len(), 3);
}

/// A ref says of its list of paths another size than that has, and beside it there is a snapshot with damage or without.
#[test]
fn what_is_whole_does_not_depend_on_the_damage_of_others() {
    for other_is_damaged in [false, true] {
        let memory = MemoryBackend::new();
        init(memory.clone()).unwrap();
        let blob = put_object(&memory, b"some text");
        let paths = put_object(&memory, format!("{blob} 9\n").as_bytes());
        let empty = put_object(&memory, b"{\"tree\":1}\n");
        let lost = HashAlgorithm::Blake3.hash(b"lost");
        let line = format!("{{\"name\":\"a\",\"type\":\"file\",\"size\":4,\"blob\":\"{lost}\"}}\n");
        let damaged = put_object(&memory, format!("{{\"tree\":1}}\n{line}").as_bytes());
        let snapshot = |number, tree, bytes, all| {
            let first = vec![PathNote { path: b"a".to_vec(), reason: "is locked".into() }];
            let incomplete = PathNotes { count: 1, first, all };
            put_snapshot(&memory, &Snapshot { incomplete, ..plain_snapshot(number, tree, bytes) });
        };
        snapshot(1, empty, 0, Some((8, Content::Chunks { list: ListId(paths), depth: 1 })));
        snapshot(2, if other_is_damaged { damaged } else { empty }, if other_is_damaged { 4 } else { 0 }, None);
        let report = check(memory).unwrap();
        assert_eq!(report.whole, if other_is_damaged { vec![] } else { vec![2] });
        assert_eq!(report.unreadable.len(), 1);
    }
}
