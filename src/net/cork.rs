//! A socket that is written once a turn.
//!
//! HTTP/2 asks its socket for one write per DATA frame and one per batch of headers, so a connection
//! with many small answers spends most of its time in system calls. Here a write only fills a buffer.
//! The task that owns the connection polls it (one *turn*, in which any number of frames may be
//! written) and then calls [`Cork::end_turn`], which writes everything with as few calls as the
//! socket takes. Nothing waits for more to come: a turn's end is as late as a byte ever leaves.
//!
//! The wrapper has two ends on one socket: [`Corked`] is what HTTP reads and writes, [`Cork`] what
//! the task holds. Over TLS the cork is on the plaintext side, so that records are filled as well.
//!
//! All of a connection's plaintext comes by here, so this is also where [pings](super::pings) are
//! counted and where [authorities](super::authority) are corrected.
//!
//! Invariants:
//! - Bytes reach the socket in the order written, each once.
//! - At [`BUFFER_MAX`] unwritten bytes, writes wait for the socket: memory is bounded, and the wait
//!   is HTTP's own back-pressure.
//! - Shutdown leaves only after the buffer is empty.
//! - A write error is kept: every later call on either end reports it.
//! - After [`Cork::release`] there are no turns: a flush is a flush again. That is for a connection
//!   that was upgraded (WebSocket), whose bytes then belong to another task.
//!
//! No lock is held across an await. The two ends lie in one task, so the lock is free whenever taken,
//! except after an upgrade.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::authority::Authorities;
use super::pings::Pings;
use crate::buggify;

/// Unwritten bytes at which writes begin to wait.
pub const BUFFER_MAX: usize = 1024 * 1024;

/// An empty buffer larger than this is given back, so that an idle connection is small.
const BUFFER_KEPT: usize = 16 * 1024;

/// The most one read takes.
const READ_MAX: usize = 16 * 1024;

thread_local! {
    /// Where reads land before they are copied to where HTTP wants them; nothing outlives a read.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_MAX].into());
}

/// The owner's end: says when a turn is over.
pub struct Cork<S>(Arc<Mutex<Shared<S>>>);

/// HTTP's end: the byte stream.
pub struct Corked<S>(Arc<Mutex<Shared<S>>>);

struct Shared<S> {
    socket: S,
    /// Bytes read ahead (the protocol was sniffed from them), to be read first.
    ahead: Bytes,
    unwritten: BytesMut,
    /// Whether the socket itself has taken bytes that its own flush has not confirmed (TLS buffers).
    dirty: bool,
    failed: Option<io::ErrorKind>,
    released: bool,
    /// Sees all that passes, on connections where pings are counted.
    pings: Option<Pings>,
    /// Corrects what is read, on connections that may be in need of it.
    authorities: Option<Authorities>,
    /// What was let through by `authorities` and waits to be read, before all else.
    corrected: BytesMut,
}

/// Puts a cork on a socket. `ahead` is read before the socket's own bytes.
pub fn cork<S>(socket: S, ahead: Bytes) -> (Cork<S>, Corked<S>) {
    let shared = Arc::new(Mutex::new(Shared {
        socket,
        ahead,
        unwritten: BytesMut::new(),
        dirty: false,
        failed: None,
        released: false,
        pings: None,
        authorities: None,
        corrected: BytesMut::new(),
    }));
    (Cork(shared.clone()), Corked(shared))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Cork<S> {
    /// Ends a turn: writes what the turn has left. What the socket does not take now is written when
    /// it can, by the next turn, for which the task is woken.
    ///
    /// # Errors
    /// When the socket has failed; the connection is of no more use.
    pub fn end_turn(&self, cx: &mut Context<'_>) -> io::Result<()> {
        if buggify!("cork_writes_a_turn_later") {
            cx.waker().wake_by_ref();
            return Ok(());
        }
        match lock(&self.0).drain(cx) {
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// When the socket has failed.
    pub async fn emptied(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| lock(&self.0).drain(cx)).await
    }

    /// Counts pings from now on, which must be before the first byte passes.
    pub(super) fn count(&self, pings: Pings) {
        lock(&self.0).pings = Some(pings);
    }

    /// Corrects a client's authorities, which must be asked for before the first byte passes.
    pub(super) fn correct_authorities(&self) {
        lock(&self.0).authorities = Some(Authorities::new());
    }

    /// If the client has pinged too often, queues the last frame it gets, and says so.
    pub(super) fn pinged_too_often(&self) -> bool {
        let mut shared = lock(&self.0);
        let Some(pings) = shared.pings.as_ref().filter(|pings| pings.are_too_many()) else {
            return false;
        };
        let farewell = pings.farewell().unwrap_or_default();
        shared.unwritten.extend_from_slice(&farewell);
        shared.pings = None;
        true
    }

    /// Ends the turns: from now on each flush reaches the socket by itself.
    pub fn release(&self) {
        lock(&self.0).released = true;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Shared<S> {
    /// Writes the buffer to the socket and flushes the socket.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        while !self.unwritten.is_empty() {
            let most = buggify!("cork_writes_little", 7, usize::MAX).min(self.unwritten.len());
            let some = &self.unwritten[..most];
            let written = match ready!(Pin::new(&mut self.socket).poll_write(cx, some)) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                result => result,
            };
            let n = self.keep_error(written)?;
            self.unwritten.advance(n);
            self.dirty = true;
        }
        if self.unwritten.capacity() > BUFFER_KEPT {
            self.unwritten = BytesMut::new();
        }
        if self.dirty {
            let flushed = ready!(Pin::new(&mut self.socket).poll_flush(cx));
            self.keep_error(flushed)?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Makes room for a write, waiting for the socket only if there is none.
    fn make_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        if buggify!("cork_takes_nothing") {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.unwritten.len() >= BUFFER_MAX {
            // Anything less than a full buffer is room: a partial drain must not wait for the rest.
            if let Poll::Ready(Err(error)) = self.drain(cx) {
                return Poll::Ready(Err(error));
            }
            if self.unwritten.len() >= BUFFER_MAX {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(pings) = &mut self.pings {
            pings.on_write(bytes);
        }
        self.unwritten.extend_from_slice(bytes);
    }

    fn on_read(&mut self, bytes: &[u8]) {
        if let Some(pings) = &mut self.pings {
            pings.on_read(bytes);
        }
    }

    /// Hands on bytes just read, of which there are none at the stream's end. Says whether HTTP has
    /// been given what it asked for; if not, there may be something in `corrected`, or too little
    /// was read.
    fn hand_on(&mut self, bytes: &[u8], buf: &mut ReadBufCursor<'_>) -> bool {
        self.on_read(bytes);
        let Some(authorities) = &mut self.authorities else {
            buf.put_slice(bytes);
            return true;
        };
        authorities.pass(bytes, &mut self.corrected);
        if bytes.is_empty() {
            authorities.end(&mut self.corrected);
        }
        if bytes.is_empty() || authorities.are_fine() {
            self.authorities = None;
        }
        bytes.is_empty() && self.corrected.is_empty()
    }

    fn check(&self) -> io::Result<()> {
        self.failed.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn keep_error<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            self.failed = Some(error.kind());
        }
        result
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> hyper::rt::Read for Corked<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.0);
        let room = buf.remaining().min(buggify!("cork_reads_little", 7, READ_MAX));
        loop {
            if room == 0 {
                return Poll::Ready(Ok(()));
            }
            if !shared.corrected.is_empty() {
                let n = shared.corrected.len().min(room);
                buf.put_slice(&shared.corrected.split_to(n));
                if shared.corrected.is_empty() {
                    shared.corrected = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            let done = if shared.ahead.is_empty() {
                // NB: hyper's cursor can't be advanced over bytes it did not see written without
                // `unsafe`, and zeroing its buffer for each read costs more than this copy of what
                // was really read.
                SCRATCH.with_borrow_mut(|scratch| {
                    let mut into = ReadBuf::new(&mut scratch[..room]);
                    ready!(Pin::new(&mut shared.socket).poll_read(cx, &mut into))?;
                    Poll::Ready(io::Result::Ok(shared.hand_on(into.filled(), &mut buf)))
                })
            } else {
                let n = shared.ahead.len().min(room);
                let ahead = shared.ahead.split_to(n);
                Poll::Ready(Ok(shared.hand_on(&ahead, &mut buf)))
            };
            if ready!(done)? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> hyper::rt::Write for Corked<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut shared = lock(&self.0);
        ready!(shared.make_room(cx))?;
        shared.write(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut shared = lock(&self.0);
        ready!(shared.make_room(cx))?;
        let mut n = 0;
        for buf in bufs {
            shared.write(buf);
            n += buf.len();
        }
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.0);
        if shared.released { shared.drain(cx) } else { Poll::Ready(shared.check()) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.0);
        ready!(shared.drain(cx))?;
        Pin::new(&mut shared.socket).poll_shutdown(cx)
    }
}

/// The state is whole after every call, so a panic elsewhere in the task does not spoil it.
fn lock<S>(shared: &Mutex<Shared<S>>) -> MutexGuard<'_, Shared<S>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::rt::{Read, Write};
    use std::task::Waker;

    /// A socket that takes `room` bytes and then no more, and counts its calls.
    #[derive(Default)]
    struct Slow {
        room: usize,
        taken: Vec<u8>,
        writes: usize,
        shut: bool,
        broken: bool,
    }

    impl AsyncRead for Slow {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            buf.put_slice(b"socket");
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if self.room == 0 {
                return Poll::Pending;
            }
            let n = buf.len().min(self.room);
            self.room -= n;
            self.writes += 1;
            self.taken.extend_from_slice(&buf[..n]);
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.shut = true;
            Poll::Ready(Ok(()))
        }
    }

    fn corked(room: usize) -> (Cork<Slow>, Corked<Slow>) {
        cork(Slow { room, ..Slow::default() }, Bytes::from_static(b"ahead"))
    }

    fn write(corked: &mut Corked<Slow>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(corked).poll_write(&mut Context::from_waker(Waker::noop()), bytes)
    }

    #[test]
    fn a_turn_of_many_writes_is_one_write_of_the_socket() {
        let (cork, mut corked) = corked(usize::MAX);
        let cx = &mut Context::from_waker(Waker::noop());
        for word in [&b"one "[..], b"two "] {
            assert!(matches!(write(&mut corked, word), Poll::Ready(Ok(4))));
            assert!(Pin::new(&mut corked).poll_flush(cx).is_ready());
        }
        let more = [io::IoSlice::new(b"thr"), io::IoSlice::new(b"ee")];
        assert!(matches!(Pin::new(&mut corked).poll_write_vectored(cx, &more), Poll::Ready(Ok(5))));
        assert_eq!(lock(&cork.0).socket.writes, 0);
        cork.end_turn(cx).expect("written");
        cork.end_turn(cx).expect("nothing to write");
        let shared = lock(&cork.0);
        assert_eq!((shared.socket.writes, &shared.socket.taken[..]), (1, &b"one two three"[..]));
    }

    #[test]
    fn writes_wait_at_a_full_buffer_and_go_on_when_the_socket_has_taken_some() {
        let (cork, mut corked) = corked(0);
        let cx = &mut Context::from_waker(Waker::noop());
        let block: Vec<u8> = (0..=255).cycle().take(64 * 1024).collect();
        let mut written = 0;
        while let Poll::Ready(n) = write(&mut corked, &block) {
            written += n.expect("no error");
            cork.end_turn(cx).expect("no error");
            assert!(written < 2 * BUFFER_MAX, "no back-pressure");
        }
        assert_eq!(written, BUFFER_MAX);
        assert!(Pin::new(&mut corked).poll_shutdown(cx).is_pending());
        lock(&cork.0).socket.room = 1;
        assert!(write(&mut corked, b"x").is_ready(), "one byte of room is room");
        lock(&cork.0).socket.room = usize::MAX;
        assert!(!lock(&cork.0).socket.shut);
        assert!(Pin::new(&mut corked).poll_shutdown(cx).is_ready());
        let shared = lock(&cork.0);
        assert!(shared.socket.shut && shared.unwritten.capacity() == 0);
        assert_eq!(shared.socket.taken.len(), BUFFER_MAX + 1);
        let expected = block.iter().cycle().take(BUFFER_MAX);
        assert!(shared.socket.taken.iter().zip(expected).all(|(a, b)| a == b), "in order");
    }

    #[test]
    fn bytes_read_ahead_come_before_the_sockets_own() {
        let (_cork, mut corked) = corked(0);
        let cx = &mut Context::from_waker(Waker::noop());
        let mut seen = Vec::new();
        for _ in 0..3 {
            let mut room = [0; 8];
            let room = if seen.is_empty() { &mut room[..4] } else { &mut room[..] };
            let mut buf = hyper::rt::ReadBuf::new(room);
            let read = Pin::new(&mut corked).poll_read(cx, buf.unfilled());
            assert!(matches!(read, Poll::Ready(Ok(()))));
            seen.extend_from_slice(buf.filled());
        }
        assert_eq!(seen, b"aheadsocket");
    }

    #[test]
    fn bytes_held_back_for_correction_are_waited_for_and_the_end_sets_them_free() {
        let begun = [crate::net::frames::PREFACE, &[0, 0, 9, 1, 4, 0, 0, 0, 1, 0x83]].concat();
        let (cork, mut corked) = cork(tokio::io::empty(), begun.clone().into());
        cork.correct_authorities();
        let cx = &mut Context::from_waker(Waker::noop());
        let mut seen = Vec::new();
        loop {
            let mut room = [0; 7];
            let mut buf = hyper::rt::ReadBuf::new(&mut room);
            let read = Pin::new(&mut corked).poll_read(cx, buf.unfilled());
            assert!(matches!(read, Poll::Ready(Ok(()))));
            if buf.filled().is_empty() {
                break;
            }
            seen.extend_from_slice(buf.filled());
        }
        assert_eq!(seen, begun);
    }

    #[test]
    fn a_broken_socket_stays_broken() {
        let (cork, mut corked) = corked(0);
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(write(&mut corked, b"lost").is_ready());
        lock(&cork.0).socket.broken = true;
        cork.end_turn(cx).expect_err("broken");
        lock(&cork.0).socket.broken = false;
        assert!(matches!(write(&mut corked, b"more"), Poll::Ready(Err(_))));
        assert!(matches!(Pin::new(&mut corked).poll_flush(cx), Poll::Ready(Err(_))));
        cork.end_turn(cx).expect_err("still broken");
    }

    #[test]
    fn after_release_a_flush_reaches_the_socket() {
        let (cork, mut corked) = corked(usize::MAX);
        let cx = &mut Context::from_waker(Waker::noop());
        cork.release();
        assert!(write(&mut corked, b"now").is_ready());
        assert!(Pin::new(&mut corked).poll_flush(cx).is_ready());
        assert_eq!(lock(&cork.0).socket.taken, b"now");
    }
}
