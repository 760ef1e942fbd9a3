//! Refuses clients that ping too often, as grpc-go does.
//!
//! The HTTP/2 library answers pings and tells nobody, so this looks at the frames' headers as they
//! pass through the socket, in both directions. The rules: a ping sooner than the shortest interval
//! after the one before is a strike; while no request is open, the interval is two hours; the answer
//! to any request wipes strikes out, so that a client may measure its bandwidth by pings. After the
//! third strike the connection is told `ENHANCE_YOUR_CALM`, «too_many_pings», and closed.
//!
//! As in etcd, this holds without TLS only: its TLS ports are served by a library that does not count.

use std::collections::BTreeSet;
use std::time::Duration;

use super::frames::{ACK, DATA, END_STREAM, Frames, GOAWAY, HEADERS, Head, PING, RST_STREAM};
use crate::runtime::Instant;

/// The shortest interval while no request is open.
const IDLE_INTERVAL: Duration = Duration::from_secs(2 * 60 * 60);

/// Strikes a client may have.
const STRIKES_MAX: u32 = 2;

/// Counts the pings of one connection.
pub(super) struct Pings {
    now: Box<dyn Fn() -> Instant + Send>,
    interval_min: Duration,
    read: Frames,
    written: Frames,
    /// Requests whose answer has not ended.
    open: BTreeSet<u32>,
    /// The highest stream a client has opened.
    newest: u32,
    last: Option<Instant>,
    strikes: u32,
    answered: bool,
}

impl Pings {
    pub(super) fn new(now: impl Fn() -> Instant + Send + 'static, interval_min: Duration) -> Self {
        Self {
            now: Box::new(now),
            interval_min,
            read: Frames::after_preface(),
            written: Frames::default(),
            open: BTreeSet::new(),
            newest: 0,
            last: None,
            strikes: 0,
            answered: false,
        }
    }

    /// Sees bytes that the client has sent.
    pub(super) fn on_read(&mut self, mut bytes: &[u8]) {
        while let Some(Head { kind, flags, stream, .. }) = self.read.next(&mut bytes) {
            match kind {
                HEADERS if stream > self.newest => {
                    self.newest = stream;
                    self.open.insert(stream);
                }
                RST_STREAM => {
                    self.open.remove(&stream);
                }
                PING if flags & ACK == 0 => self.on_ping(),
                _ => {}
            }
        }
    }

    /// Sees bytes that we have sent.
    pub(super) fn on_write(&mut self, mut bytes: &[u8]) {
        while let Some(Head { kind, flags, stream, .. }) = self.written.next(&mut bytes) {
            if kind == HEADERS || kind == DATA {
                self.answered = true;
                if flags & END_STREAM != 0 {
                    self.open.remove(&stream);
                }
            } else if kind == RST_STREAM {
                self.open.remove(&stream);
            }
        }
    }

    fn on_ping(&mut self) {
        let now = (self.now)();
        let last = self.last.replace(now);
        if std::mem::take(&mut self.answered) {
            self.strikes = 0;
            return;
        }
        let interval = if self.open.is_empty() { IDLE_INTERVAL } else { self.interval_min };
        if last.is_some_and(|last| now < last + interval) {
            self.strikes += 1;
        }
    }

    /// Says whether the client has used up its strikes.
    pub(super) fn are_too_many(&self) -> bool {
        self.strikes > STRIKES_MAX
    }

    /// Returns the frame to close the connection with, if it can be put after what was written.
    pub(super) fn farewell(&self) -> Option<Vec<u8>> {
        const REASON: &[u8] = b"too_many_pings";
        const ENHANCE_YOUR_CALM: u8 = 11;
        if !self.written.at_boundary() {
            return None;
        }
        let len = u8::try_from(8 + REASON.len()).expect("a short reason");
        let mut frame = vec![0, 0, len, GOAWAY, 0, 0, 0, 0, 0];
        frame.extend(self.newest.to_be_bytes());
        frame.extend([0, 0, 0, ENHANCE_YOUR_CALM]);
        frame.extend(REASON);
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    struct Script {
        pings: Pings,
        now: Arc<Mutex<Instant>>,
    }

    impl Script {
        fn new() -> Self {
            let now = Arc::new(Mutex::new(Instant::default()));
            let clock = now.clone();
            let clock = move || *clock.lock().expect("lock");
            let mut pings = Pings::new(clock, Duration::from_secs(5));
            pings.on_read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            Self { pings, now }
        }

        fn wait(&self, secs: u64) {
            *self.now.lock().expect("lock") += Duration::from_secs(secs);
        }

        fn ping(&mut self) -> bool {
            self.pings.on_read(&[0, 0, 8, PING, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
            self.pings.are_too_many()
        }
    }

    const REQUEST: [u8; 10] = [0, 0, 1, HEADERS, 5, 0, 0, 0, 1, 0x82];
    const ANSWER: [u8; 10] = [0, 0, 1, HEADERS, 4, 0, 0, 0, 1, 0x88];
    const END: [u8; 10] = [0, 0, 1, HEADERS, 5, 0, 0, 0, 1, 0x88];

    #[test]
    fn an_idle_client_may_not_ping_more_than_three_times() {
        let mut script = Script::new();
        for _ in 0..3 {
            assert!(!script.ping());
            script.wait(60);
        }
        assert!(script.ping());
        let farewell = script.pings.farewell().expect("at a boundary");
        assert!(farewell.ends_with(b"\0\0\0\x0btoo_many_pings"));
        assert_eq!(farewell.len(), 9 + usize::from(farewell[2]));
    }

    #[test]
    fn an_open_request_allows_pings_at_the_interval_and_no_sooner() {
        let mut script = Script::new();
        script.pings.on_read(&REQUEST);
        for _ in 0..10 {
            assert!(!script.ping());
            script.wait(5);
        }
        assert!(!script.ping());
        for fine in [true, true, false] {
            script.wait(4);
            assert_eq!(!script.ping(), fine);
        }
    }

    #[test]
    fn an_answer_wipes_strikes_out_and_its_end_makes_the_client_idle() {
        let mut script = Script::new();
        script.pings.on_read(&REQUEST);
        for _ in 0..20 {
            assert!(!script.ping());
            assert!(!script.ping());
            script.pings.on_write(&ANSWER);
        }
        script.pings.on_write(&END);
        assert!(!script.ping());
        script.wait(60);
        for fine in [true, true, false] {
            assert_eq!(!script.ping(), fine);
        }
    }
}
