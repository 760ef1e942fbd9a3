//! One situation a test: opening, refusing, failing, dying, loading, replacing.

use std::sync::Mutex;
use std::sync::mpsc;

use super::*;

fn keys(storage: &Storage) -> Vec<String> {
    let view = storage.view();
    let scan = view.scan(Table::Keys, Bound::Unbounded, Bound::Unbounded);
    scan.map(|(key, value)| format!("{key:?}={value:?}").replace('"', "")).collect()
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for name in ["data.mdb", "lock.mdb"] {
        std::fs::copy(from.join(name), to.join(name)).expect("copied");
    }
}

#[test]
fn opening_refuses_what_is_not_a_store_of_this_version() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let open = |name: &str| Storage::open(&path(name), options()).map(drop);

    assert!(matches!(open("nothing"), Err(StorageError::Missing(_))));

    std::fs::create_dir_all(path("garbage")).expect("made");
    std::fs::write(path("garbage").join("data.mdb"), vec![7; 8192]).expect("written");
    assert!(matches!(open("garbage"), Err(StorageError::Unreadable { .. })));

    foreign_lmdb(&path("foreign"));
    assert!(matches!(open("foreign"), Err(StorageError::NotMainstay(_))));

    let storage = Storage::create(&path("newer"), options()).expect("created");
    let version = [schema::FORMAT_MAGIC, &3u32.to_be_bytes()].concat();
    storage.maintenance(|txn| txn.put(Table::Meta, schema::META_FORMAT, &version)).expect("put");
    storage.close().wait();
    let error = open("newer").expect_err("a newer version");
    assert!(matches!(error, StorageError::Version { found: 3, .. }));
    assert!(error.to_string().ends_with("has format version 3; this program knows version 2 only"));

    // Its rows have no checksums, and are not called damaged for that.
    std::fs::create_dir_all(path("older")).expect("made");
    std::fs::copy(fixture("store_v1.mdb"), path("older").join("data.mdb")).expect("copied");
    let error = open("older").expect_err("an older version");
    assert!(matches!(error, StorageError::Version { found: 1, .. }), "{error}");
    assert!(error.to_string().ends_with("has format version 1; this program knows version 2 only"));

    let loader = BulkLoader::create(&path("loading"), options()).expect("created");
    drop(loader);
    assert!(matches!(open("loading"), Err(StorageError::Incomplete(_))));

    let storage = Storage::create(&path("fine"), options()).expect("created");
    assert!(matches!(open("fine"), Err(StorageError::AlreadyOpen(_))));
    storage.close().wait();
    let again = Storage::create(&path("fine"), options());
    assert!(matches!(again.map(drop), Err(StorageError::Exists(_))));
    open("fine").expect("opens");
}

/// Makes an LMDB environment with a database that is none of ours.
fn foreign_lmdb(path: &Path) {
    let storage = Storage::create(path, options()).expect("created");
    storage.maintenance(|txn| txn.delete(Table::Meta, schema::META_FORMAT)).expect("deleted");
    storage.close().wait();
}

#[test]
fn a_batch_that_cannot_be_written_poisons_the_store_and_reads_go_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let small = StorageOptions { map_bytes: 256 << 10, ..options() };
    let storage = Storage::create(dir.path(), small).expect("created");
    apply(&storage, vec![Write::put(Table::Keys, "a", "1")]);
    flush(&storage);
    apply(&storage, vec![Write::put(Table::Keys, "b", "2")]);
    let large = (0..200).map(|n| Write::put(Table::Rows, format!("{n}"), vec![0; 4000])).collect();
    apply(&storage, large);
    apply(&storage, vec![Write::put(Table::Keys, "c", "3")]);
    let job = storage.begin_flush().expect("there is something to write");
    assert!(storage.begin_flush().is_none(), "one job at a time");
    assert!(matches!(job.run(), Err(StorageError::MapFull)));

    assert_eq!(keys(&storage), ["a=1", "b=2", "c=3"]);
    apply(&storage, vec![Write::put(Table::Keys, "d", "4")]);
    assert_eq!(keys(&storage), ["a=1", "b=2", "c=3", "d=4"]);
    assert_eq!((storage.durable(), storage.applied()), (at(1), at(5)));
    assert_eq!(storage.poisoned(), Some("the store's map is full"));
    assert!(storage.begin_flush().is_none());
    let error = storage.maintenance(|_| ()).expect_err("poisoned");
    assert!(matches!(error, StorageError::Poisoned(_)), "{error}");

    let storage = reopen(storage, dir.path());
    assert_eq!(keys(&storage), ["a=1"], "nothing of the failed batch is stored");
    assert_eq!(storage.applied(), at(1));
}

#[test]
fn a_failed_step_of_maintenance_stores_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let small = StorageOptions { map_bytes: 256 << 10, ..options() };
    let storage = Storage::create(dir.path(), small).expect("created");
    let result = storage.maintenance(|txn| {
        txn.put(Table::Keys, b"a", b"1");
        txn.put(Table::Rows, b"r", &vec![0; 300 << 10]);
        txn.put(Table::Keys, b"b", b"2");
    });
    assert!(matches!(result, Err(StorageError::MapFull)));
    let storage = reopen(storage, dir.path());
    assert_eq!(keys(&storage), [""; 0]);
}

/// The process dies before a commit, or right after it: what the next one finds is the batch whole or
/// not at all, with its own position either way.
#[test]
fn data_and_position_are_stored_together() {
    let dir = tempfile::tempdir().expect("a directory");
    let live = dir.path().join("live");
    let copies = Arc::new(Mutex::new(Vec::new()));
    let crash_point: CrashPoint = {
        let (live, root, copies) = (live.clone(), dir.path().to_owned(), copies.clone());
        Arc::new(move |name| {
            let mut copies = copies.lock().expect("nobody panicked");
            let copy = root.join(format!("{}-{name}", copies.len()));
            copy_dir(&live, &copy);
            copies.push(copy);
        })
    };
    let with_points = StorageOptions { crash_point: Some(crash_point), ..options() };
    let storage = Storage::create(&live, with_points).expect("created");
    for round in 1..=3 {
        apply(&storage, vec![Write::put(Table::Keys, "round", format!("{round}"))]);
        apply(&storage, vec![Write::put(Table::Keys, format!("k{round}"), "x")]);
        flush(&storage);
    }
    let copies = copies.lock().expect("nobody panicked").clone();
    let found: Vec<String> = copies
        .iter()
        .map(|copy| {
            let storage = open(copy);
            let round = keys(&storage).pop().unwrap_or_default();
            format!("{} {round} keys {}", storage.applied(), keys(&storage).len())
        })
        .collect();
    let want = [
        "i0@t0  keys 0",
        "i2@t1 round=1 keys 2",
        "i2@t1 round=1 keys 2",
        "i4@t1 round=2 keys 3",
        "i4@t1 round=2 keys 3",
        "i6@t1 round=3 keys 4",
    ];
    assert_eq!(found, want);
}

#[test]
fn the_trim_floor_is_the_commit_before_the_last() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut storage = open(dir.path());
    for (index, floor) in [(1, 0), (2, 1), (3, 2)] {
        apply(&storage, vec![]);
        flush(&storage);
        assert_eq!((storage.durable(), storage.trim_floor()), (at(index), Index(floor)));
        storage = reopen(storage, dir.path());
        assert_eq!((storage.durable(), storage.trim_floor()), (at(index), Index(floor)));
    }
}

#[test]
#[should_panic(expected = "change set i3@t1 after i1@t1: not the next")]
fn a_gap_between_change_sets_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let storage = open(dir.path());
    apply(&storage, vec![]);
    storage.apply(ChangeSet { position: at(3), writes: vec![] });
}

#[test]
#[should_panic(expected = "belongs to storage itself")]
fn the_keys_of_storage_itself_are_out_of_bounds() {
    let dir = tempfile::tempdir().expect("a directory");
    apply(&open(dir.path()), vec![Write::put(Table::Meta, schema::META_APPLIED, "1")]);
}

#[test]
fn a_bulk_load_is_a_store_when_it_is_finished() {
    let dir = tempfile::tempdir().expect("a directory");
    let loader = BulkLoader::create(dir.path(), options()).expect("created");
    let mut loader = loader.with_batch_bytes_max(1000);
    for n in 0..100 {
        loader.put(Table::Rows, format!("{n:03}"), vec![b'v'; 50]).expect("added");
    }
    let empty = loader.put(Table::Keys, "", "1").expect_err("impossible");
    assert_eq!(empty.to_string(), "an impossible write: an empty key");
    let own = loader.put(Table::Meta, schema::META_APPLIED, "1").expect_err("impossible");
    assert!(matches!(own, StorageError::BadWrite(_)));
    let storage = loader.finish(at(70)).expect("finished");
    for storage in [storage.clone(), {
        drop(storage.clone());
        reopen_all(storage, dir.path())
    }] {
        assert_eq!((storage.applied(), storage.trim_floor()), (at(70), Index(70)));
        assert_eq!(storage.loaded(), Some(at(70)));
        let view = storage.view();
        let rows = view.scan(Table::Rows, Bound::Unbounded, Bound::Unbounded).count();
        assert_eq!(rows, 100);
    }
}

/// Opens a second picture of a store that stays open, by copying its files.
fn reopen_all(storage: Storage, dir: &Path) -> Storage {
    let copy = dir.join("copy");
    copy_dir(dir, &copy);
    drop(storage);
    open(&copy)
}

#[test]
fn installing_replaces_the_store_under_all_handles_and_waits_for_views() {
    let dir = tempfile::tempdir().expect("a directory");
    let (old_dir, new_dir) = (dir.path().join("old"), dir.path().join("new"));
    let storage = open(&old_dir);
    apply(&storage, vec![Write::put(Table::Keys, "old", "1")]);
    flush(&storage);
    apply(&storage, vec![Write::put(Table::Keys, "older", "2")]);
    let stale = storage.begin_flush().expect("something to write");

    let mut loader = BulkLoader::create(&new_dir, options()).expect("created");
    loader.put(Table::Keys, "new", "9").expect("added");
    let new = loader.finish(at(50)).expect("finished");

    let view = storage.view();
    let (installed, wait) = mpsc::channel();
    let other_handle = storage.clone();
    let thread = std::thread::spawn(move || {
        let closing = other_handle.install(new);
        installed.send(()).expect("the test listens");
        closing
    });
    assert!(wait.try_recv().is_err(), "a view is held");
    assert!(view.get(Table::Keys, b"old").is_some());
    drop(view);
    let closing = thread.join().expect("no panic");
    assert_eq!(keys(&storage), ["new=9"]);
    assert_eq!((storage.applied(), storage.durable()), (at(50), at(50)));
    assert_eq!(stale.run().expect("nothing happens"), at(2));
    closing.wait();
    assert!(closing.is_closed());
    std::fs::remove_dir_all(&old_dir).expect("nobody uses it");

    apply(&storage, vec![Write::put(Table::Keys, "newer", "10")]);
    flush(&storage);
    storage.check();
    assert_eq!(keys(&storage), ["new=9", "newer=10"]);
    drop(storage);
    assert_eq!(keys(&open(&new_dir)), ["new=9", "newer=10"]);
}

#[test]
fn a_compacting_copy_takes_over_under_the_overlay() {
    let dir = tempfile::tempdir().expect("a directory");
    let (old_dir, new_dir) = (dir.path().join("old"), dir.path().join("new"));
    let storage = open(&old_dir);
    let long = vec![b'l'; 700];
    apply(
        &storage,
        (0..2_000).map(|n| Write::put(Table::Rows, n.to_string(), vec![1; 500])).collect(),
    );
    flush(&storage);
    let put = |key: &'static str, value: &'static str| Write::put(Table::Keys, key, value);
    apply(
        &storage,
        vec![put("a", "1"), put("b", "1"), Write::put(Table::Counts, long.clone(), "n")],
    );
    flush(&storage);
    storage
        .maintenance(|txn| {
            (0..1_990).for_each(|n| txn.delete(Table::Rows, n.to_string().as_bytes()))
        })
        .expect("deleted");
    apply(&storage, vec![put("b", "2")]);
    // A job that was begun before the copy runs after it: it writes to the store then in force.
    let job = storage.begin_flush().expect("something to write");
    apply(&storage, vec![put("c", "3")]);

    let (size, floor) = (storage.file_bytes(), storage.trim_floor());
    let copy = storage.copy_to(&new_dir, options()).expect("copied");
    let closing = storage.replace_with_copy(copy);
    closing.wait();
    std::fs::remove_dir_all(&old_dir).expect("nobody uses it");
    storage.check();
    assert!(storage.file_bytes() < size / 4, "{} of {size}", storage.file_bytes());
    assert_eq!((storage.durable(), storage.trim_floor(), storage.loaded()), (at(2), floor, None));
    assert_eq!(keys(&storage), ["a=1", "b=2", "c=3"]);
    assert_eq!(job.run().expect("written"), at(3));
    flush(&storage);

    let storage = reopen(storage, &new_dir);
    assert_eq!(storage.applied(), at(4));
    assert_eq!(keys(&storage), ["a=1", "b=2", "c=3"]);
    let view = storage.view();
    assert_eq!(view.get(Table::Counts, &long).expect("copied"), b"n");
    assert_eq!(view.scan(Table::Rows, Bound::Unbounded, Bound::Unbounded).count(), 10);
}

#[test]
fn deleting_frees_pages_that_quota_counts() {
    let dir = tempfile::tempdir().expect("a directory");
    let storage = open(dir.path());
    let rows = |n: usize| Write::put(Table::Rows, format!("{n:06}"), vec![1; 200]);
    apply(&storage, (0..5_000).map(rows).collect());
    flush(&storage);
    let full = storage.used_bytes();
    assert!(full > 1_000_000 && full <= storage.file_bytes(), "{full}");
    storage
        .maintenance(|txn| {
            (0..5_000).for_each(|n| txn.delete(Table::Rows, format!("{n:06}").as_bytes()));
        })
        .expect("deleted");
    assert!(storage.used_bytes() < full / 10, "{} of {full}", storage.used_bytes());
    assert!(storage.file_bytes() >= full, "the file does not shrink");
}

#[test]
fn an_idle_reader_pins_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let storage = open(dir.path());
    let fill = |n: u32| {
        let value = n.to_be_bytes().repeat(100);
        (0..500).map(|k| Write::put(Table::Keys, format!("{k}"), value.clone())).collect()
    };
    for round in 0..200 {
        apply(&storage, fill(round));
        flush(&storage);
        // Every view leaves its transaction in the pool; none of them may outlive the next commit.
        let views: Vec<_> = (0..4).map(|_| storage.view()).collect();
        drop(views);
    }
    let size = storage.file_bytes();
    assert!(size < 16 * storage.used_bytes().max(100_000), "{size} bytes for the same 500 keys");
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/storage/fixtures").join(name)
}

#[test]
fn an_old_store_of_format_version_2_still_opens() {
    let fixture = fixture("store_v2.mdb");
    let dir = tempfile::tempdir().expect("a directory");
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() && !fixture.exists() {
        let storage = open(dir.path());
        let long = vec![b'l'; 600];
        apply(
            &storage,
            vec![Write::put(Table::Keys, "a", "1"), Write::put(Table::Keys, long, "2")],
        );
        apply(&storage, vec![Write::put(Table::Meta, "m", "")]);
        flush(&storage);
        storage.close().wait();
        std::fs::copy(dir.path().join("data.mdb"), &fixture).expect("copied");
    }
    std::fs::copy(&fixture, dir.path().join("data.mdb")).expect("the fixture is there");
    let storage = open(dir.path());
    let view = storage.view();
    assert_eq!(storage.applied(), at(2));
    assert_eq!(view.get(Table::Keys, b"a").expect("there"), b"1");
    assert_eq!(view.get(Table::Keys, &[b'l'; 600]).expect("there"), b"2");
    assert_eq!(view.get(Table::Meta, b"m").expect("there"), b"");
    assert_eq!(view.scan(Table::Keys, Bound::Unbounded, Bound::Unbounded).count(), 2);
}

#[test]
fn views_on_other_threads_see_whole_change_sets_while_batches_are_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let storage = open(dir.path());
    let (done, stop) = mpsc::channel::<()>();
    let reader = storage.clone();
    let thread = std::thread::spawn(move || {
        let mut seen = 0;
        let mut before = 0;
        while matches!(stop.try_recv(), Err(mpsc::TryRecvError::Empty)) {
            let view = reader.view();
            let index = view.applied().index.0;
            assert!(index >= before, "time went back from {before} to {index}");
            before = index;
            for key in ["x", "y", "z"] {
                let value = view.get(Table::Keys, key.as_bytes()).map(Data::to_bytes);
                let want = (index > 0).then(|| Bytes::from(index.to_string()));
                assert_eq!(value, want, "the view at {index} is torn");
            }
            let all = view.scan(Table::Keys, Bound::Unbounded, Bound::Unbounded).count();
            assert_eq!(all, if index > 0 { 3 } else { 0 });
            seen += 1;
        }
        seen
    });
    for index in 1..=400u64 {
        let put = |key: &'static str| Write::put(Table::Keys, key, index.to_string());
        apply(&storage, vec![put("x"), put("y"), put("z")]);
        if index % 3 == 0 {
            flush(&storage);
        }
    }
    drop(done);
    assert!(thread.join().expect("no view was torn") > 0);
}

#[cfg(feature = "mutants")]
#[test]
fn planted_defects_of_the_batches_are_seen() {
    use crate::mutants::assert_seen;

    assert_seen!("E01", data_and_position_are_stored_together);
    assert_seen!("S08", a_batch_that_cannot_be_written_poisons_the_store_and_reads_go_on);
}
