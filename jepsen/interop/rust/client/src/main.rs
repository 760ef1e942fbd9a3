//! The crate `etcd-client` against one server: KV, txn, watch, lease. Use: interop ENDPOINT

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, EventType, GetOptions, LeaseTimeToLiveOptions, PutOptions,
    SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse, WatchOptions, WatchResponse, WatchStream,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

type Outcome = Result<(), Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let endpoint = std::env::args().nth(1).expect("use: interop ENDPOINT");
    let client = Client::connect([endpoint], None).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    let prefix = format!("rust/{}/", now.as_nanos());
    // A silent server is a failure, not a hang.
    let all = async {
        key_value(client.clone(), format!("{prefix}kv/")).await?;
        println!("ok kv");
        failures(client.clone(), format!("{prefix}errors/")).await?;
        println!("ok errors");
        transactions(client.clone(), format!("{prefix}txn/")).await?;
        println!("ok txn");
        watches(client.clone(), format!("{prefix}watch/")).await?;
        println!("ok watch");
        leases(client.clone(), format!("{prefix}lease/")).await?;
        println!("ok lease");
        maintenance(client.clone()).await?;
        println!("ok maintenance");
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("the server was silent for a minute")
}

async fn key_value(mut c: Client, p: String) -> Outcome {
    let first = c.put(p.clone() + "a", "1", None).await?;
    let second = c.put(p.clone() + "a", "2", Some(PutOptions::new().with_prev_key())).await?;
    assert_eq!(second.prev_key().expect("a previous value").value(), b"1");
    let (r1, r2) = (first.header().expect("header").revision(), second.header().expect("header").revision());
    assert_eq!(r2, r1 + 1);
    c.put(p.clone() + "b", vec![0, 255, 1], None).await?;
    c.put(p.clone() + "c", "3", None).await?;

    let got = c.get(p.clone() + "a", None).await?;
    let kv = &got.kvs()[0];
    assert_eq!((kv.value(), kv.version(), kv.create_revision(), kv.mod_revision(), kv.lease()), (&b"2"[..], 2, r1, r2, 0));
    let old = c.get(p.clone() + "a", Some(GetOptions::new().with_revision(r1))).await?;
    assert_eq!(old.kvs()[0].value(), b"1");
    let page = c.get(p.clone(), Some(GetOptions::new().with_prefix().with_limit(2))).await?;
    assert_eq!((page.kvs().len(), page.more(), page.count()), (2, true, 3));
    let descending = GetOptions::new().with_prefix().with_keys_only().with_sort(SortTarget::Key, SortOrder::Descend);
    let keys = c.get(p.clone(), Some(descending)).await?;
    let names: Vec<_> = keys.kvs().iter().map(|kv| String::from_utf8_lossy(kv.key()).into_owned()).collect();
    assert_eq!(names, [p.clone() + "c", p.clone() + "b", p.clone() + "a"]);
    assert!(keys.kvs().iter().all(|kv| kv.value().is_empty()));
    let count = c.get(p.clone(), Some(GetOptions::new().with_prefix().with_count_only())).await?;
    assert_eq!((count.kvs().len(), count.count()), (0, 3));

    let gone = c.delete(p.clone(), Some(DeleteOptions::new().with_prefix().with_prev_key())).await?;
    assert_eq!((gone.deleted(), gone.prev_kvs().len()), (3, 3));
    Ok(())
}

async fn failures(mut c: Client, p: String) -> Outcome {
    let code = |error: Error| match error {
        Error::GRpcStatus(status) => (status.code() as i32, status.message().to_owned()),
        other => panic!("not an answer of the server: {other}"),
    };
    let error = c.put("", "1", None).await.expect_err("an empty key");
    assert_eq!(code(error), (3, "etcdserver: key is not provided".to_owned()));
    let far = GetOptions::new().with_revision(i64::MAX);
    let error = c.get(p.clone(), Some(far)).await.expect_err("a future revision");
    assert_eq!(code(error), (11, "etcdserver: mvcc: required revision is a future revision".to_owned()));
    let error = c.put(p, "1", Some(PutOptions::new().with_lease(12345))).await.expect_err("an unknown lease");
    assert_eq!(code(error), (5, "etcdserver: requested lease not found".to_owned()));
    Ok(())
}

async fn transactions(mut c: Client, p: String) -> Outcome {
    let a = p.clone() + "a";
    let create = |value: &str| {
        Txn::new()
            .when([Compare::create_revision(a.clone(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(a.clone(), value, None)])
            .or_else([TxnOp::get(a.clone(), None)])
    };
    assert!(c.txn(create("1")).await?.succeeded());
    let kept = c.txn(create("2")).await?;
    assert!(!kept.succeeded());
    match &kept.op_responses()[0] {
        TxnOpResponse::Get(got) => assert_eq!(got.kvs()[0].value(), b"1"),
        other => panic!("{other:?}"),
    }
    let inner = Txn::new()
        .when([Compare::version(p.clone() + "b", CompareOp::Equal, 0)])
        .and_then([TxnOp::delete(a.clone(), None)]);
    let nested = c
        .txn(
            Txn::new()
                .when([Compare::value(a.clone(), CompareOp::Equal, "1")])
                .and_then([TxnOp::put(p.clone() + "b", "x", None), TxnOp::txn(inner)]),
        )
        .await?;
    match &nested.op_responses()[1] {
        TxnOpResponse::Txn(inner) => assert!(inner.succeeded()),
        other => panic!("{other:?}"),
    }
    assert_eq!(c.get(p, Some(GetOptions::new().with_prefix())).await?.count(), 1);
    Ok(())
}

/// The next response on the stream.
async fn next(stream: &mut WatchStream) -> WatchResponse {
    tokio::time::timeout(Duration::from_secs(10), stream.message())
        .await
        .expect("nothing on the watch for 10 s")
        .expect("the watch works")
        .expect("the watch goes on")
}

async fn watches(mut c: Client, p: String) -> Outcome {
    let a = p.clone() + "a";
    let first = c.put(a.clone(), "1", None).await?.header().expect("header").revision();
    let options = WatchOptions::new().with_prefix().with_start_revision(first).with_prev_key();
    let mut stream = c.watch(p.clone(), Some(options)).await?;
    let created = next(&mut stream).await;
    assert!(created.created() && created.events().is_empty());
    let id = created.watch_id();
    c.put(a.clone(), "2", None).await?;
    c.delete(a.clone(), None).await?;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        for event in next(&mut stream).await.events() {
            let value = event.kv().expect("a key").value().to_vec();
            seen.push((event.event_type(), value, event.prev_kv().map(|kv| kv.value().to_vec())));
        }
    }
    let expected = [
        (EventType::Put, b"1".to_vec(), None),
        (EventType::Put, b"2".to_vec(), Some(b"1".to_vec())),
        (EventType::Delete, vec![], Some(b"2".to_vec())),
    ];
    assert_eq!(seen, expected);

    stream.request_progress().await?;
    let progress = next(&mut stream).await;
    assert_eq!((progress.watch_id(), progress.events().len()), (-1, 0));
    assert!(progress.header().expect("header").revision() >= first + 2);
    // A second watcher on the same stream, then the end of the first.
    stream.watch(p.clone() + "other", Some(WatchOptions::new().with_watch_id(77))).await?;
    let second = next(&mut stream).await;
    assert!(second.created() && second.watch_id() == 77);
    stream.cancel(id).await?;
    let ended = next(&mut stream).await;
    assert!(ended.canceled() && ended.watch_id() == id);
    Ok(())
}

async fn leases(mut c: Client, p: String) -> Outcome {
    let lease = c.lease_grant(30, None).await?;
    assert_eq!(lease.ttl(), 30);
    c.put(p.clone() + "a", "1", Some(PutOptions::new().with_lease(lease.id()))).await?;
    let life = c.lease_time_to_live(lease.id(), Some(LeaseTimeToLiveOptions::new().with_keys())).await?;
    assert_eq!((life.granted_ttl(), life.keys()), (30, &[(p.clone() + "a").into_bytes()][..]));
    assert!((20..=30).contains(&life.ttl()));
    let (mut keeper, mut beats) = c.lease_keep_alive(lease.id()).await?;
    keeper.keep_alive().await?;
    assert_eq!(beats.message().await?.expect("an answer").ttl(), 30);
    assert!(c.leases().await?.leases().iter().any(|status| status.id() == lease.id()));
    c.lease_revoke(lease.id()).await?;
    assert_eq!(c.get(p.clone(), Some(GetOptions::new().with_prefix())).await?.count(), 0);
    assert_eq!(c.lease_time_to_live(lease.id(), None).await?.ttl(), -1);

    let short = c.lease_grant(2, None).await?;
    c.put(p.clone() + "short", "1", Some(PutOptions::new().with_lease(short.id()))).await?;
    let mut stream = c.watch(p + "short", None).await?;
    assert!(next(&mut stream).await.created());
    let ended = next(&mut stream).await;
    assert_eq!(ended.events()[0].event_type(), EventType::Delete);
    Ok(())
}

async fn maintenance(mut c: Client) -> Outcome {
    let status = c.status().await?;
    assert!(!status.version().is_empty() && status.leader() != 0);
    let members = c.member_list().await?;
    assert_eq!(members.members().len(), 1);
    let hash = c.hash_kv(0).await?;
    let again = c.hash_kv(hash.header().expect("header").revision()).await?;
    assert_eq!(hash.hash(), again.hash());
    Ok(())
}
