//! Flipped bits in LMDB's file: a row that is not what was written is refused, and so is one that is gone.

use super::*;

/// Where an LMDB page says how far its list of places goes; the list begins behind the header.
const LOWER: usize = 12;
const HEADER: usize = 16;
const PAGE: usize = 4096;

const ALL: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, Bound::Unbounded);

fn key_of(table: Table) -> Vec<u8> {
    format!("key in {}", table.name()).into_bytes()
}

fn long_key_of(table: Table) -> Vec<u8> {
    [vec![b'l'; 600], key_of(table)].concat()
}

fn value_of(table: Table) -> Vec<u8> {
    format!("value in {}.", table.name()).into_bytes()
}

/// A store with some rows in each table, under short keys or long ones; returns its file.
fn stored(keys: impl Fn(Table) -> Vec<u8>) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let storage = open(dir.path());
    let mut writes = Vec::new();
    for table in Table::ALL {
        writes.push(Write::put(table, keys(table), value_of(table)));
        writes.push(Write::put(table, "a", "1"));
        writes.push(Write::put(table, "z", "2"));
    }
    apply(&storage, writes);
    flush(&storage);
    storage.close().wait();
    std::fs::read(dir.path().join("data.mdb")).expect("the file is there")
}

/// Opens a store that is this file.
fn store(file: &[u8]) -> (tempfile::TempDir, Result<Storage, StorageError>) {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("data.mdb"), file).expect("written");
    let storage = Storage::open(dir.path(), options());
    (dir, storage)
}

/// Finds the places where these bytes are, on pages in use and others.
fn places(file: &[u8], bytes: &[u8]) -> Vec<usize> {
    let windows = file.windows(bytes.len()).enumerate();
    windows.filter(|(_, window)| *window == bytes).map(|(at, _)| at).collect()
}

/// Finds the one place where these bytes are.
fn find(file: &[u8], bytes: &[u8]) -> usize {
    let [at] = places(file, bytes)[..] else { panic!("it is not in the file once") };
    at
}

fn is_rot<T>(result: &Result<T, StorageError>) -> bool {
    matches!(result, Err(StorageError::Rot(_)))
}

/// What a lookup and both walks say.
fn reads(file: &[u8], table: Table, key: &[u8]) -> [Result<(), StorageError>; 3] {
    let read = |read: &dyn Fn(&mut WriteTxn<'_>) -> usize| {
        let (_dir, storage) = store(file);
        storage?.maintenance(|txn| read(txn)).map(|_| ())
    };
    [
        read(&|txn| txn.get(table, key).map_or(0, <[u8]>::len)),
        read(&|txn| txn.scan(table, ALL.0, ALL.1).count()),
        read(&|txn| txn.scan_rev(table, ALL.0, ALL.1).count()),
    ]
}

fn has_own_checksums(table: Table) -> bool {
    matches!(table, Table::Rows | Table::Keys | Table::Counts)
}

#[test]
fn a_flipped_bit_in_a_row_is_refused_by_lookup_and_by_walk() {
    for (keys, long) in [(key_of as fn(Table) -> Vec<u8>, false), (long_key_of, true)] {
        let file = stored(keys);
        for table in Table::ALL {
            let key = keys(table);
            assert!(reads(&file, table, &key).iter().all(Result::is_ok), "{table:?}");
            let value = value_of(table);
            let at = find(&file, &value);
            // Its own value's first and last byte, and the checksum behind it.
            for at in [at, at + value.len() - 1, at + value.len(), at + value.len() + 3] {
                let mut file = file.clone();
                file[at] ^= 16;
                let seen = reads(&file, table, &key);
                if has_own_checksums(table) && !long {
                    assert!(seen.iter().all(Result::is_ok), "they are `mvcc`'s to look at");
                } else {
                    assert!(seen.iter().all(is_rot), "{table:?} {long}: {seen:?}");
                }
            }
        }
    }
}

#[test]
fn a_row_under_another_key_or_in_another_table_is_refused() {
    let file = stored(key_of);
    for table in Table::ALL.into_iter().filter(|table| !has_own_checksums(*table)) {
        let key = key_of(table);
        let at = find(&file, &[&key[..], &value_of(table)].concat());
        let mut other_key = file.clone();
        // Still between its neighbours.
        other_key[at] ^= 1;
        let [_, up, down] = reads(&other_key, table, &key);
        assert!(is_rot(&up) && is_rot(&down), "{table:?}: {up:?}, {down:?}");
    }
    let sealed = seal::seal(Table::Members, b"k", b"v", &mut Vec::new()).to_vec();
    assert!(seal::unseal(Table::Members, b"k", &sealed).is_ok());
    assert!(seal::unseal(Table::Alarms, b"k", &sealed).is_err());
    assert!(seal::unseal(Table::Members, b"", &sealed[..3]).is_err());
}

#[test]
fn a_row_that_is_gone_is_missed_by_a_walk_over_the_table() {
    let file = stored(key_of);
    for table in Table::ALL {
        let page = find(&file, &value_of(table)) / PAGE * PAGE;
        let number = |at: usize| u16::from_le_bytes([file[page + at], file[page + at + 1]]);
        let lower = number(LOWER);
        let rows = (usize::from(lower) - HEADER) / 2;
        // In `Meta` there are two of storage's own.
        assert_eq!(rows, if table == Table::Meta { 5 } else { 3 }, "{table:?}");

        let mut shorter = file.clone();
        shorter[page + LOWER..page + LOWER + 2].copy_from_slice(&(lower - 2).to_le_bytes());
        let [_, up, down] = reads(&shorter, table, b"a");
        assert!(is_rot(&up) && is_rot(&down), "{table:?}: {up:?}, {down:?}");

        let last = HEADER + 2 * (rows - 1);
        let mut twice = file.clone();
        let place = number(last - 2).to_le_bytes();
        twice[page + last..page + last + 2].copy_from_slice(&place);
        let [_, up, down] = reads(&twice, table, b"a");
        assert!(is_rot(&up) && is_rot(&down), "{table:?}: {up:?}, {down:?}");
    }
}

#[test]
fn a_start_refuses_rot_in_any_of_its_own_facts() {
    let file = stored(key_of);
    let applied = flush::encode_positions(at(1), LogPosition::default());
    let format = [schema::FORMAT_MAGIC, &schema::FORMAT_VERSION.to_be_bytes()].concat();
    for bytes in [applied, format] {
        for byte in 0..bytes.len() + 4 {
            let mut file = file.clone();
            for place in places(&file, &bytes) {
                file[place + byte] ^= 2;
            }
            let (_dir, opened) = store(&file);
            assert!(is_rot(&opened.map(drop)), "byte {byte} of {bytes:?}");
        }
    }
}
