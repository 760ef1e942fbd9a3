//! The store against plain ordered maps: random writes, flushes, reopenings, reads of every kind.

use proptest::prelude::*;

use super::*;

/// Keys that meet every rule of storage: short, at the limit of what LMDB takes, long with shared
/// beginnings, and long with nothing shared.
fn key() -> impl Strategy<Value = Bytes> {
    let tail = prop::collection::vec(prop::sample::select(vec![0u8, 1, b'a', 0xff]), 0..3);
    let head = prop::sample::select(vec![0usize, 1, 509, 510, 511, 512, 600]);
    let fill = prop::sample::select(vec![0u8, b'k', 0xff]);
    (head, fill, tail).prop_map(|(len, fill, tail)| {
        let mut key = vec![fill; len];
        key.extend(tail);
        if key.is_empty() {
            key.push(0);
        }
        key.into()
    })
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(usize, Bytes, Option<u8>)>),
    BeginFlush,
    FinishFlush,
    Reopen,
    Scrub(usize, Bytes),
    Read(usize, Bytes),
    Scan(usize, Bound<Bytes>, Bound<Bytes>),
}

const TABLES: [Table; 3] = [Table::Keys, Table::Rows, Table::Meta];

fn bound() -> impl Strategy<Value = Bound<Bytes>> {
    prop_oneof![
        2 => key().prop_map(Bound::Included),
        2 => key().prop_map(Bound::Excluded),
        1 => Just(Bound::Unbounded),
        1 => Just(Bound::Included(Bytes::new())),
        1 => Just(Bound::Excluded(Bytes::new())),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let table = 0..TABLES.len();
    let write = (table.clone(), key(), prop::option::weighted(0.7, any::<u8>()));
    prop_oneof![
        8 => prop::collection::vec(write, 0..6).prop_map(Step::Apply),
        2 => Just(Step::BeginFlush),
        2 => Just(Step::FinishFlush),
        1 => Just(Step::Reopen),
        1 => (table.clone(), key()).prop_map(|(t, k)| Step::Scrub(t, k)),
        3 => (table.clone(), key()).prop_map(|(t, k)| Step::Read(t, k)),
        4 => (table, bound(), bound()).prop_map(|(t, from, to)| Step::Scan(t, from, to)),
    ]
}

type Mirror = [BTreeMap<Bytes, Bytes>; TABLES.len()];

fn writable(table: usize, key: &Bytes) -> bool {
    TABLES[table] != Table::Meta || key[0] != schema::RESERVED
}

/// What a scan shows, storage's own rows of table meta left out.
fn shown<'v>(table: usize, scan: Scan<'v>) -> Vec<(Bytes, Bytes)> {
    scan.map(|(key, value)| (key.to_bytes(), value.to_bytes()))
        .filter(|(key, _)| writable(table, key))
        .collect()
}

fn expected(
    mirror: &Mirror,
    table: usize,
    from: &Bound<Bytes>,
    to: &Bound<Bytes>,
) -> Vec<(Bytes, Bytes)> {
    let inside = |key: &Bytes| {
        let above = match from {
            Bound::Included(from) => key >= from,
            Bound::Excluded(from) => key > from,
            Bound::Unbounded => true,
        };
        let below = match to {
            Bound::Included(to) => key <= to,
            Bound::Excluded(to) => key < to,
            Bound::Unbounded => true,
        };
        above && below
    };
    mirror[table].iter().filter(|(k, _)| inside(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn slice(bound: &Bound<Bytes>) -> Bound<&[u8]> {
    bound.as_ref().map(|key| &key[..])
}

fn check_all(storage: &Storage, mirror: &Mirror) {
    storage.check();
    let view = storage.view();
    for (slot, table) in TABLES.into_iter().enumerate() {
        let all = expected(mirror, slot, &Bound::Unbounded, &Bound::Unbounded);
        let (from, to) = (Bound::Unbounded, Bound::Unbounded);
        assert_eq!(shown(slot, view.scan(table, from, to)), all);
        for (key, value) in &all {
            assert_eq!(view.get(table, key).expect("listed keys are found"), *value);
        }
    }
}

fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut storage = open(dir.path());
    let mut mirror = Mirror::default();
    // What is durable comes back after a reopening; the rest is the log's to replay.
    let (mut closed, mut durable) = (mirror.clone(), mirror.clone());
    let mut job: Option<FlushJob> = None;
    for step in steps {
        match step {
            Step::Apply(writes) => {
                let mut set = Vec::new();
                for (table, key, value) in writes {
                    if !writable(table, &key) {
                        continue;
                    }
                    let value = value.map(|v| Bytes::from(vec![v; usize::from(v) * 7]));
                    match &value {
                        Some(value) => mirror[table].insert(key.clone(), value.clone()),
                        None => mirror[table].remove(&key),
                    };
                    set.push(Write { table: TABLES[table], key, value });
                }
                apply(&storage, set);
            }
            Step::BeginFlush => {
                if let Some(begun) = storage.begin_flush() {
                    assert!(job.is_none(), "one job at a time");
                    assert_eq!(begun.position(), storage.applied());
                    closed = mirror.clone();
                    job = Some(begun);
                }
            }
            Step::FinishFlush => {
                if let Some(job) = job.take() {
                    let position = job.position();
                    assert_eq!(job.run().expect("written"), position);
                    assert_eq!(storage.durable(), position);
                    durable = closed.clone();
                }
            }
            Step::Reopen => {
                job = None;
                let position = storage.durable();
                storage = reopen(storage, dir.path());
                assert_eq!(storage.applied(), position);
                assert_eq!(storage.durable(), position);
                mirror = durable.clone();
            }
            Step::Scrub(table, key) => {
                // Maintenance sees LMDB alone, and what the overlay says still counts afterwards.
                let was = storage
                    .maintenance(|txn| {
                        let was = txn.get(TABLES[table], &key).map(Bytes::copy_from_slice);
                        if writable(table, &key) {
                            txn.delete(TABLES[table], &key);
                            assert_eq!(txn.get(TABLES[table], &key), None);
                        }
                        was
                    })
                    .expect("written");
                if writable(table, &key) {
                    assert_eq!(was.as_ref(), durable[table].get(&key));
                    // Only a key that no overlay generation speaks of may vanish from view.
                    let view_has = storage.view().get(TABLES[table], &key).map(Data::to_bytes);
                    if view_has.is_none() {
                        mirror[table].remove(&key);
                    }
                    if closed[table].get(&key) == durable[table].get(&key) && job.is_some() {
                        // The running batch may or may not write the key again; look after it ran.
                        let job = job.take().expect("checked");
                        job.run().expect("written");
                        durable = closed.clone();
                    } else {
                        durable[table].remove(&key);
                    }
                    let stored = storage
                        .maintenance(|txn| txn.get(TABLES[table], &key).map(Bytes::copy_from_slice))
                        .expect("read");
                    match stored {
                        Some(value) => durable[table].insert(key.clone(), value),
                        None => durable[table].remove(&key),
                    };
                }
            }
            Step::Read(table, key) => {
                let view = storage.view();
                let found = view.get(TABLES[table], &key).map(Data::to_bytes);
                if writable(table, &key) {
                    assert_eq!(found.as_ref(), mirror[table].get(&key));
                }
            }
            Step::Scan(table, from, to) => {
                let view = storage.view();
                let mut want = expected(&mirror, table, &from, &to);
                let (low, high) = (slice(&from), slice(&to));
                assert_eq!(shown(table, view.scan(TABLES[table], low, high)), want);
                want.reverse();
                assert_eq!(shown(table, view.scan_rev(TABLES[table], low, high)), want);
            }
        }
        check_all(&storage, &mirror);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn store_agrees_with_plain_ordered_maps(steps in prop::collection::vec(step(), 1..60)) {
        run(steps);
    }
}
