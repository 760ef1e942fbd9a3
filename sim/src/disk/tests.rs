use std::os::fd::AsRawFd;

use mainstay::runtime::{Disk as _, DiskFile as _, OpenHow};
use mainstay::storage::{ChangeSet, Storage, StorageOptions, Table, Write};
use mainstay::types::{Index, LogPosition, Term};

use super::*;

fn check(situation: impl FnOnce(Arc<HostDisk>)) {
    let runtime = madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default());
    runtime.block_on(async move {
        let dir = crate::temporary_dir();
        let root = dir.path().join("m1");
        std::fs::create_dir(&root).unwrap();
        let host = HostDisk::new(root, Trace::new());
        situation(host.clone());
        host.forget();
    });
}

fn written(host: &HostDisk, name: &str) -> Vec<u8> {
    std::fs::read(host.root().join(name)).unwrap_or_default()
}

#[test]
fn a_kill_keeps_what_was_written_and_a_power_loss_what_was_synced() {
    check(|host| {
        let disk = host.boot();
        let path = host.root().join("f");
        let file = disk.open(&path, OpenHow::CreateNew).unwrap();
        disk.sync_dir(host.root()).unwrap();
        file.write_at(b"synced", 0).unwrap();
        file.sync_data().unwrap();
        file.write_at(b"SYN", 0).unwrap();
        file.write_at(b"more", 6).unwrap();
        host.freeze();
        assert_eq!(written(&host, "f"), b"SYNcedmore");
        assert!(file.write_at(b"x", 0).is_err() && file.sync_data().is_err());
        assert!(disk.open(&path, OpenHow::Read).is_err());
        let disk = host.boot();
        let file = disk.open(&path, OpenHow::Write).unwrap();
        assert_eq!(file.len().unwrap(), 10);
        host.power_loss(Persistence::Nothing, &mut Rng::new(1, "test"));
        assert_eq!(written(&host, "f"), b"synced");
        assert_eq!(host.counters().lost_writes, 2);
    });
}

#[test]
fn each_persistence_model_leaves_what_it_says() {
    let images = |model| {
        let mut images = std::collections::BTreeSet::new();
        check(|host| {
            for round in 0..64 {
                let disk = host.boot();
                let file = disk.open(&host.root().join("f"), OpenHow::Create).unwrap();
                disk.sync_dir(host.root()).unwrap();
                file.write_at(&[b'.'; 1024], 0).unwrap();
                file.sync_data().unwrap();
                file.write_at(&[b'a'; 1000], 10).unwrap();
                file.write_at(b"b", 0).unwrap();
                host.power_loss(model, &mut Rng::new(round, "test"));
                let image = written(&host, "f");
                assert_eq!(image.len(), 1024);
                images.insert([image[0], image[100], image[600]]);
            }
        });
        images
    };
    let set = |texts: &[&[u8; 3]]| texts.iter().map(|t| **t).collect();
    assert_eq!(images(Persistence::Nothing), set(&[b"..."]));
    assert_eq!(images(Persistence::All), set(&[b"baa"]));
    assert_eq!(images(Persistence::Prefix), set(&[b"...", b".aa", b"baa"]));
    assert_eq!(images(Persistence::Subset), set(&[b"...", b".aa", b"b..", b"baa"]));
    assert_eq!(images(Persistence::Torn).len(), 8, "each sector for itself");
}

#[test]
fn lengths_and_names_are_rolled_back_too() {
    check(|host| {
        let disk = host.boot();
        let (f, g) = (host.root().join("f"), host.root().join("g"));
        let file = disk.open(&f, OpenHow::CreateNew).unwrap();
        file.write_at(b"0123456789", 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(host.root()).unwrap();
        file.set_len(4).unwrap();
        file.set_len(20).unwrap();
        disk.rename(&f, &g).unwrap();
        disk.open(&f, OpenHow::CreateNew).unwrap();
        host.power_loss(Persistence::Nothing, &mut Rng::new(1, "test"));
        assert_eq!(written(&host, "f"), b"0123456789");
        assert!(!g.exists());
        let disk = host.boot();
        disk.rename(&f, &g).unwrap();
        disk.sync_dir(host.root()).unwrap();
        disk.remove_file(&g).unwrap();
        host.power_loss(Persistence::Nothing, &mut Rng::new(1, "test"));
        assert!(g.exists() && !f.exists());
        assert_eq!(host.counters().lost_names, 3);
    });
}

#[test]
fn a_full_disk_takes_overwrites_only() {
    check(|host| {
        let disk = host.boot();
        let file = disk.open(&host.root().join("f"), OpenHow::CreateNew).unwrap();
        file.write_at(b"0123", 0).unwrap();
        host.set_full(true);
        file.write_at(b"ab", 2).unwrap();
        let full =
            |result: io::Result<()>| result.unwrap_err().raw_os_error() == Some(libc::ENOSPC);
        assert!(full(file.write_at(b"x", 4)) && full(file.set_len(5)));
        assert!(full(disk.open(&host.root().join("g"), OpenHow::CreateNew).map(drop)));
        assert_eq!(disk.free_bytes(host.root()).unwrap(), 0);
        host.set_full(false);
        file.write_at(b"x", 4).unwrap();
        host.set_room(Some(3));
        file.write_at(b"0123456", 0).unwrap();
        assert_eq!(disk.free_bytes(host.root()).unwrap(), 1, "5 bytes became 7");
        assert!(full(file.write_at(b"xx", 7)));
        file.write_at(b"x", 7).unwrap();
        host.set_room(None);
        file.write_at(b"x", 4).unwrap();
        host.fail_sync();
        assert!(file.sync_data().is_err() && file.sync_data().is_ok());
        host.fail_writes(1);
        assert!(file.write_at(b"x", 4).is_err() && file.write_at(b"x", 4).is_ok());
    });
}

#[test]
fn a_crash_in_the_nth_operation_silences_the_process_at_once() {
    check(|host| {
        let disk = host.boot();
        let told = Arc::new(AtomicBool::new(false));
        let tell = told.clone();
        host.on_crash(move || tell.store(true, Ordering::SeqCst));
        let file = disk.open(&host.root().join("f"), OpenHow::CreateNew).unwrap();
        host.crash_in(2);
        file.write_at(b"a", 0).unwrap();
        assert!(!told.load(Ordering::SeqCst));
        assert!(file.write_at(b"b", 1).is_err());
        assert!(told.load(Ordering::SeqCst) && !disk.alive());
        assert_eq!(written(&host, "f"), b"a");
    });
}

fn position(index: u64) -> LogPosition {
    LogPosition { term: Term(1), index: Index(index) }
}

fn apply(store: &Storage, index: u64) {
    let key = index.to_be_bytes().to_vec().into();
    let value = Some(vec![b'v'; 100].into());
    let writes = vec![Write { table: Table::Rows, key, value }];
    store.apply(ChangeSet { position: position(index), writes });
}

fn open(host: &HostDisk) -> Storage {
    Storage::open_or_create(&host.root().join("store"), StorageOptions::default()).unwrap()
}

fn close(store: Storage) {
    store.close().wait();
}

#[test]
fn lmdb_is_caught_and_its_commits_survive_a_power_loss() {
    for model in [Persistence::Nothing, Persistence::Subset, Persistence::Torn] {
        check(|host| {
            host.boot();
            let store = open(&host);
            for index in 1..=50 {
                apply(&store, index);
                if index % 10 == 0 {
                    store.begin_flush().unwrap().run().unwrap();
                }
            }
            let before = host.counters();
            assert!(before.engine > 20 && before.syncs >= 5, "{before:?}");
            host.freeze();
            close(store);
            host.power_loss(model, &mut Rng::new(1, "test"));
            host.boot();
            let store = open(&host);
            assert_eq!(store.applied(), position(50));
            close(store);
            assert_eq!(host.counters().lost_writes, 0, "nothing was written beyond the last sync");
        });
    }
}

#[test]
fn lmdb_loses_a_commit_whose_sync_did_not_happen_and_only_that() {
    // Each operation of one commit in turn is the one in which the machine dies.
    let mut survived = std::collections::BTreeSet::new();
    for n in 1..12 {
        for model in [Persistence::Nothing, Persistence::Subset, Persistence::Torn] {
            check(|host| {
                host.boot();
                let store = open(&host);
                apply(&store, 1);
                store.begin_flush().unwrap().run().unwrap();
                apply(&store, 2);
                host.crash_in(n);
                let result = store.begin_flush().unwrap().run();
                host.freeze();
                close(store);
                host.power_loss(model, &mut Rng::new(n, "test"));
                host.boot();
                let store = open(&host);
                let applied = store.applied();
                assert!(applied == position(1) || applied == position(2), "{applied:?}");
                assert!(result.is_err() || applied == position(2));
                survived.insert(applied.index);
                close(store);
            });
        }
    }
    assert_eq!(survived.len(), 2, "the crash must fall before and after the commit's point");
}

#[test]
fn a_commit_without_sync_would_be_caught() {
    // The same calls as LMDB's with NOSYNC: nothing is synced, so nothing survives.
    check(|host| {
        host.boot();
        let path = host.root().join("data");
        let file = File::options().create(true).write(true).truncate(false).open(&path).unwrap();
        // SAFETY: the descriptor is open and the bytes are readable.
        let n = unsafe {
            libc::syscall(libc::SYS_lseek, file.as_raw_fd(), 0, libc::SEEK_SET);
            crate::intercept::pwrite(file.as_raw_fd(), b"page".as_ptr().cast(), 4, 0)
        };
        assert_eq!(n, 4);
        assert_eq!(written(&host, "data"), b"page");
        host.power_loss(Persistence::Nothing, &mut Rng::new(1, "test"));
        assert_eq!(written(&host, "data"), b"");
        host.boot();
        // SAFETY: as above.
        let rc = unsafe {
            crate::intercept::pwrite(file.as_raw_fd(), b"page".as_ptr().cast(), 4, 0);
            crate::intercept::fdatasync(file.as_raw_fd())
        };
        assert_eq!(rc, 0);
        host.power_loss(Persistence::Nothing, &mut Rng::new(1, "test"));
        assert_eq!(written(&host, "data"), b"page");
        host.set_full(true);
        host.boot();
        // SAFETY: as above.
        let n = unsafe { crate::intercept::pwrite(file.as_raw_fd(), b"x".as_ptr().cast(), 1, 9) };
        assert_eq!((n, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::ENOSPC)));
    });
}
