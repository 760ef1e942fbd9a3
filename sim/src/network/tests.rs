use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const A: Host = Host(1);
const B: Host = Host(2);

/// Runs a situation between two hosts, `a` connected to `b`.
fn check<F: Future<Output = ()> + 'static>(
    params: Params,
    situation: impl FnOnce(Network, Port, SimStream, SimStream) -> F + 'static,
) {
    let runtime = madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default());
    runtime.block_on(async move {
        let network = Network::new(params, Rng::new(1, "network"), Trace::new());
        network.add_host(A, "a");
        network.add_host(B, "b");
        let (a, b) = (network.boot(A), network.boot(B));
        let mut listener = b.listen(80).unwrap();
        let near = a.connect("b", 80).await.unwrap();
        let far = listener.accept().await.unwrap();
        situation(network, a, near, far).await;
    });
}

fn elapsed() -> Duration {
    TimeHandle::current().elapsed()
}

#[test]
fn bytes_arrive_in_order_whatever_the_delays() {
    let params = Params {
        tail: (300_000, Duration::from_millis(50)),
        loss: 200_000,
        segment: 7,
        window: 100,
        ..Params::default()
    };
    check(params, |network, _, mut near, mut far| async move {
        let sent: Vec<u8> = (0..5_000u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let copy = sent.clone();
        drop(madsim::task::spawn(async move {
            near.write_all(&copy).await.unwrap();
            near.shutdown().await.unwrap();
            // Stays open until the other side is done with reading.
            let mut rest = Vec::new();
            near.read_to_end(&mut rest).await.unwrap();
        }));
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, sent);
        let counters = network.counters();
        assert!(counters.lost > 50 && counters.delayed > 50, "{counters:?}");
    });
}

#[test]
fn a_cut_link_delays_and_then_breaks() {
    check(Params::default(), |network, _, mut near, mut far| async move {
        network.cut(A, B);
        near.write_all(b"late").await.unwrap();
        crate::time::sleep(Duration::from_secs(3)).await;
        network.heal(A, B);
        let mut buf = [0; 4];
        far.read_exact(&mut buf).await.unwrap();
        assert!(elapsed() > Duration::from_secs(3) && elapsed() < Duration::from_secs(6));
        network.cut(A, B);
        near.write_all(b"lost").await.unwrap();
        let error = near.read(&mut buf).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(elapsed() > Duration::from_secs(18), "{:?}", elapsed());
        assert_eq!(network.counters().gave_up, 1);
        // The other side knows nothing of it until it sends.
        network.heal(A, B);
        assert!(crate::time::within(Duration::from_secs(60), far.read(&mut buf)).await.is_none());
        far.write_all(b"hello?").await.unwrap();
        assert!(far.read(&mut buf).await.is_err());
    });
}

#[test]
fn one_way_silence_breaks_a_stream_that_sends() {
    check(Params::default(), |network, _, mut near, mut far| async move {
        network.cut(B, A);
        let mut buf = [0; 1];
        let mut delivered = 0;
        while near.write_all(b"x").await.is_ok() {
            delivered += 1;
            assert_eq!(far.read(&mut buf).await.unwrap(), 1, "the way there is not cut");
            crate::time::sleep(Duration::from_millis(100)).await;
        }
        assert!((140..170).contains(&delivered), "{delivered}");
    });
}

#[test]
fn a_killed_process_says_goodbye_and_a_dead_machine_does_not() {
    check(Params::default(), |network, a, mut near, far| async move {
        let mut buf = [0; 4];
        network.kill(B);
        assert_eq!(near.read(&mut buf).await.unwrap(), 0, "the kernel sends a FIN");
        near.write_all(b"x").await.unwrap();
        assert!(near.read(&mut buf).await.is_ok(), "it was the end already");
        crate::time::sleep(Duration::from_millis(20)).await;
        assert!(near.write_all(b"y").await.is_err(), "the write was answered by a reset");
        drop(far);
        assert_eq!(
            a.connect("b", 80).await.err().map(|e| e.kind()),
            Some(io::ErrorKind::ConnectionRefused)
        );
    });
    check(Params::default(), |network, a, mut near, far| async move {
        let mut buf = [0; 4];
        network.power_off(B);
        drop(far);
        let hour = Duration::from_secs(3600);
        assert!(crate::time::within(hour, near.read(&mut buf)).await.is_none(), "silence");
        let before = elapsed();
        let error = a.connect("b", 80).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(elapsed() - before > Duration::from_secs(14));
        network.power_on(B);
        near.write_all(b"x").await.unwrap();
        assert!(near.read(&mut buf).await.is_err(), "a reset from a kernel that knows nothing");
    });
}

#[test]
fn a_dead_process_can_neither_listen_nor_connect_nor_send() {
    check(Params::default(), |network, a, mut near, mut far| async move {
        network.kill(A);
        assert!(a.listen(81).is_err());
        assert!(near.write_all(b"x").await.is_err());
        let mut buf = [0; 4];
        assert_eq!(far.read(&mut buf).await.unwrap(), 0);
        let connect = a.connect("b", 80);
        assert!(crate::time::within(Duration::from_secs(60), connect).await.is_none());
        let again = network.boot(A);
        assert!(again.connect("b", 80).await.is_ok());
    });
}

#[test]
fn a_writer_waits_for_a_slow_reader() {
    let params = Params { window: 1_000, ..Params::default() };
    check(params, |_, _, mut near, mut far| async move {
        let write = near.write_all(&[7; 3_000]);
        assert!(crate::time::within(Duration::from_secs(60), write).await.is_none());
        let mut got = vec![0; 1_000];
        far.read_exact(&mut got).await.unwrap();
        let more = crate::time::within(Duration::from_secs(1), near.write_all(&[7; 1_000])).await;
        assert!(more.is_some());
    });
}

#[test]
fn a_stream_that_no_listener_takes_is_refused() {
    check(Params::default(), |network, a, near, far| async move {
        drop((near, far));
        let b = network.boot(B);
        let listener = b.listen(82).unwrap();
        assert_eq!(b.listen(82).err().map(|e| e.kind()), Some(io::ErrorKind::AddrInUse));
        drop(listener);
        assert!(a.connect("b", 82).await.is_err());
        assert!(a.connect("nowhere", 1).await.is_err());
        assert!(b.listen(82).is_ok());
    });
}
