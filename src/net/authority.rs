//! Lets in clients that put a whole URL where HTTP/2 wants an authority.
//!
//! etcdctl 3.4, given its endpoint as a URL, names that URL in each request (`:authority:
//! http://127.0.0.1:2379`) when it asks one member for its status or its hash. etcd does not mind; the
//! HTTP/2 library resets such a request as malformed. So this looks at the client's first *block* (a
//! HEADERS frame and the CONTINUATION frames after it) before the library does. Clients of this kind
//! show it there, on their first request. If that block is fine, the connection is none of ours from
//! then on. If not, this and each later block gets its authority cut down to the host and port, and
//! is framed anew.
//!
//! Invariants:
//! - What needs no change passes unchanged, byte for byte, and so does what is malformed: to refuse it
//!   is the library's business.
//! - Only an unfinished block is held back, which the library could do nothing with, and no more of it
//!   than [`HELD_MAX`].
//! - Both ends' tables of headers stay in step (see [`super::hpack`]).
//! - Frames other than those of a block are never touched. Header blocks are under no flow control, so
//!   nobody counts their bytes.

use bytes::BytesMut;

use super::frames::{
    CONTINUATION, END_HEADERS, HEAD_LEN, HEADERS, Head, PADDED, PREFACE, PRIORITY,
};
use super::hpack::replace_authority;

/// The most that is held back. A block that is longer passes as it is, with all that follows.
const HELD_MAX: usize = 64 * 1024;

/// The payload that any receiver takes (RFC 9113, 4.2).
const PAYLOAD_MAX: usize = 16 * 1024;

/// Bytes of a HEADERS frame's priority.
const PRIORITY_LEN: usize = 5;

/// Watches what one client sends, and corrects it if need be.
pub(super) struct Authorities {
    /// Bytes that pass before the next frame.
    skip: usize,
    /// The beginning of a frame, or of a block.
    held: BytesMut,
    /// How much of `held` is whole frames of one block, unfinished as yet.
    block: usize,
    verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// No block was seen yet.
    Open,
    /// The client sends URLs.
    Urls,
    /// There is nothing to be done here, or no more.
    Fine,
}

impl Authorities {
    /// Begins before a client's first byte.
    pub(super) fn new() -> Self {
        Self { skip: PREFACE.len(), held: BytesMut::new(), block: 0, verdict: Verdict::Open }
    }

    /// Takes bytes that the client has sent, and puts to `out` those that may be read now.
    pub(super) fn pass(&mut self, bytes: &[u8], out: &mut BytesMut) {
        let (skipped, bytes) = bytes.split_at(self.skip.min(bytes.len()));
        self.skip -= skipped.len();
        out.extend_from_slice(skipped);
        self.held.extend_from_slice(bytes);
        while self.verdict != Verdict::Fine && self.next_frame(out) {}
        if self.verdict == Verdict::Fine {
            self.end(out);
        }
    }

    /// Puts to `out` what is held back, since no more will come.
    pub(super) fn end(&mut self, out: &mut BytesMut) {
        out.unsplit(self.held.split());
        self.block = 0;
    }

    /// Says whether the rest of the connection may pass by.
    pub(super) fn are_fine(&self) -> bool {
        self.verdict == Verdict::Fine
    }

    /// Takes up the next frame that is held, and says whether it was enough of it.
    fn next_frame(&mut self, out: &mut BytesMut) -> bool {
        let Some(head) = Head::read(&self.held[self.block..]) else { return false };
        let end = self.block + HEAD_LEN + head.len;
        if head.kind != HEADERS && self.block == 0 {
            let here = end.min(self.held.len());
            self.skip = end - here;
            out.unsplit(self.held.split_to(here));
            return true;
        }
        let begun = Head::read(&self.held[..self.block]);
        let goes_on = |begun: Head| head.kind == CONTINUATION && head.stream == begun.stream;
        if !begun.is_none_or(goes_on) || end > HELD_MAX {
            self.verdict = Verdict::Fine;
            return true;
        }
        if self.held.len() < end {
            return false;
        }
        self.block = end;
        if head.flags & END_HEADERS != 0 {
            self.block = 0;
            let block = self.held.split_to(end);
            self.on_block(block, out);
        }
        true
    }

    fn on_block(&mut self, block: BytesMut, out: &mut BytesMut) {
        if let Some(corrected) = corrected(&block) {
            out.extend_from_slice(&corrected);
            self.verdict = Verdict::Urls;
            return;
        }
        out.unsplit(block);
        if self.verdict == Verdict::Open {
            self.verdict = Verdict::Fine;
        }
    }
}

/// Makes new frames of a block's, if its authority is to be corrected.
fn corrected(mut frames: &[u8]) -> Option<Vec<u8>> {
    let mut first = None;
    let mut fragments = Vec::new();
    while let Some(head) = Head::read(frames) {
        let (payload, rest) = frames[HEAD_LEN..].split_at_checked(head.len)?;
        frames = rest;
        if first.is_some() {
            fragments.extend(payload);
            continue;
        }
        let (priority, fragment) = opened(head, payload)?;
        fragments.extend(fragment);
        first = Some((head, priority));
    }
    let (first, priority) = first?;
    let block = replace_authority(&fragments, authority_of)?;
    Some(framed(first, priority, &block))
}

/// Parts a HEADERS frame's payload into its priority and its piece of the block, without padding.
fn opened(head: Head, mut payload: &[u8]) -> Option<(&[u8], &[u8])> {
    if head.flags & PADDED != 0 {
        let (&padding, padded) = payload.split_first()?;
        payload = &padded[..padded.len().checked_sub(padding.into())?];
    }
    payload.split_at_checked(if head.flags & PRIORITY != 0 { PRIORITY_LEN } else { 0 })
}

/// Puts a block into frames.
fn framed(first: Head, priority: &[u8], mut block: &[u8]) -> Vec<u8> {
    let mut frames = Vec::with_capacity(HEAD_LEN + priority.len() + block.len());
    let mut head = Head { flags: first.flags & !(PADDED | END_HEADERS), ..first };
    let mut priority = priority;
    loop {
        let (now, later) = block.split_at(block.len().min(PAYLOAD_MAX - priority.len()));
        if later.is_empty() {
            head.flags |= END_HEADERS;
        }
        head.len = priority.len() + now.len();
        head.write(&mut frames);
        frames.extend(priority);
        frames.extend(now);
        if later.is_empty() {
            return frames;
        }
        head = Head { kind: CONTINUATION, flags: 0, ..first };
        (priority, block) = (&[], later);
    }
}

/// Returns the authority in a URL of the kinds that endpoints have; `None` for anything else. It is
/// never longer than the URL.
fn authority_of(url: &[u8]) -> Option<Vec<u8>> {
    /// What clients that know better say over a Unix socket, whose path is no host.
    const NOWHERE: &[u8] = b"localhost";
    let at = url.windows(3).position(|three| three == b"://")?;
    let (scheme, rest) = (url[..at].to_ascii_lowercase(), &url[at + 3..]);
    let host = rest.split(|byte| b"/?#".contains(byte)).next().unwrap_or_default();
    match (&scheme[..], host) {
        (b"unix" | b"unixs", b"") if NOWHERE.len() <= url.len() => Some(NOWHERE.to_vec()),
        (_, b"") => None,
        (b"http" | b"https" | b"unix" | b"unixs", host) => Some(host.to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::hpack::tests::huffman;
    use super::*;
    use proptest::prelude::*;

    /// The rest of what etcdctl 3.4 sends, before and after the authority.
    const BEFORE: &[u8] = b"\x83\x86E\x97`\xa9$\x88-\x9d\xcbeq\xaf\xa0f\xa9%\xa8u\x10\xacnH\xd3j?A";
    const AFTER: &[u8] = b"_\x8b\x1du\xd0b\r&=LMedz\x8b\x9a\xca\xc8\xb4\xc7`+\xb2\xca\xec\xff@\x02te\x86M\x835\x05\xb1\x1f";
    /// `http://127.0.0.1:24379`, as etcdctl 3.4 sends it.
    const CODED: &[u8] = b"\x90\x9d)\xae\xe3\x0c\x04N\xae\x05\xc0\xb8n\t\xa6]\x7f";

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        Head { len: payload.len(), kind, flags, stream }.write(&mut frame);
        [frame, payload.to_vec()].concat()
    }

    /// A client's beginning: preface, settings, and then `frames`.
    fn sent(frames: &[Vec<u8>]) -> Vec<u8> {
        [PREFACE.to_vec(), frame(4, 0, 0, &[]), frames.concat()].concat()
    }

    fn block(value: &[u8]) -> Vec<u8> {
        [BEFORE, value, AFTER].concat()
    }

    fn plain(value: &str) -> Vec<u8> {
        let len = u8::try_from(value.len()).expect("short");
        [&[len], value.as_bytes()].concat()
    }

    /// Passes bytes in pieces, and returns what came out and whether the rest may pass by.
    fn passed(bytes: &[u8], piece: usize) -> (Vec<u8>, bool) {
        let (mut authorities, mut out) = (Authorities::new(), BytesMut::new());
        for piece in bytes.chunks(piece) {
            authorities.pass(piece, &mut out);
        }
        authorities.end(&mut out);
        (out.to_vec(), authorities.are_fine())
    }

    /// Checks what becomes of frames, however they are cut.
    fn check(frames: &[Vec<u8>], expected: &[Vec<u8>], fine: bool) {
        let (frames, expected) = (sent(frames), sent(expected));
        for piece in [1, 2, 3, 7, 10, 33, 100, usize::MAX] {
            let (came, are_fine) = passed(&frames, piece.min(frames.len()));
            assert!(came == expected, "in pieces of {piece}: {came:?}, not {expected:?}");
            assert_eq!(are_fine, fine, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_url_becomes_its_authority() {
        for (url, authority) in [
            ("http://127.0.0.1:2379", Some("127.0.0.1:2379")),
            ("https://etcd-0.example.org:2379/", Some("etcd-0.example.org:2379")),
            ("HTTP://[::1]:2379/path?query", Some("[::1]:2379")),
            ("http://host?query", Some("host")),
            ("unix://localhost:2379", Some("localhost:2379")),
            ("unix:///run/etcd.sock", Some("localhost")),
            ("unixs:///run/etcd.sock", Some("localhost")),
            ("unix:///", None),
            ("http://", None),
            ("https:///path", None),
            ("://host", None),
            ("ftp://host", None),
            ("127.0.0.1:2379", None),
            ("localhost", None),
            ("", None),
        ] {
            let found = authority_of(url.as_bytes());
            assert_eq!(found.as_deref(), authority.map(str::as_bytes), "{url}");
            assert!(found.is_none_or(|found| found.len() <= url.len()));
        }
    }

    #[test]
    fn a_url_is_cut_down_in_plain_and_in_huffman_code() {
        let data = frame(0, 1, 1, b"\0\0\0\0\0");
        let fine = frame(HEADERS, END_HEADERS, 1, &block(&plain("127.0.0.1:24379")));
        for url in
            [CODED.to_vec(), plain("http://127.0.0.1:24379"), plain("https://127.0.0.1:24379/")]
        {
            let sent = frame(HEADERS, END_HEADERS, 1, &block(&url));
            check(&[sent, data.clone()], &[fine.clone(), data.clone()], false);
        }
    }

    #[test]
    fn later_requests_are_corrected_too_and_indexed_ones_pass() {
        let indexed = frame(HEADERS, END_HEADERS | 1, 3, &[0x83, 0x86, 0xc2, 0xc1, 0xc0, 0xbf]);
        let url = |stream| frame(HEADERS, END_HEADERS, stream, &block(CODED));
        let fine = |stream| frame(HEADERS, END_HEADERS, stream, &block(&plain("127.0.0.1:24379")));
        check(&[url(1), indexed.clone(), url(5)], &[fine(1), indexed, fine(5)], false);
    }

    #[test]
    fn a_client_whose_first_block_is_fine_is_never_looked_at_again() {
        let first = frame(HEADERS, END_HEADERS, 1, &block(&plain("127.0.0.1:2379")));
        let second = frame(HEADERS, END_HEADERS, 3, &block(CODED));
        check(&[first.clone(), second.clone()], &[first, second], true);
    }

    #[test]
    fn a_block_in_many_frames_with_padding_and_priority_becomes_one_frame() {
        let block = block(CODED);
        let fine = [BEFORE, &plain("127.0.0.1:24379"), AFTER].concat();
        let priority = [0x80, 0, 0, 0, 0xff];
        // Within the value, within a name, at a representation's edge.
        for cut in [BEFORE.len() + 5, 5, 2, 0, block.len()] {
            let (one, two) = block.split_at(cut);
            let padded = [&[3][..], &priority, one, &[0; 3]].concat();
            let frames = [
                frame(HEADERS, PADDED | PRIORITY | 1, 1, &padded),
                frame(CONTINUATION, 0, 1, &two[..two.len() / 2]),
                frame(CONTINUATION, 0, 1, b""),
                frame(CONTINUATION, END_HEADERS, 1, &two[two.len() / 2..]),
            ];
            let whole = [&priority[..], &fine].concat();
            check(&frames, &[frame(HEADERS, PRIORITY | END_HEADERS | 1, 1, &whole)], false);
        }
    }

    #[test]
    fn a_block_beyond_a_frame_is_cut_anew() {
        let value = [0; 20_000];
        let long = [&[0x40, 1][..], b"x", &[0x7f, 0xa1, 0x9b, 1], &value].concat();
        let url = [block(CODED), long.clone()].concat();
        let fine = [block(&plain("127.0.0.1:24379")), long].concat();
        let (one, two) = fine.split_at(PAYLOAD_MAX);
        let expected =
            [frame(HEADERS, 0, 1, one), frame(CONTINUATION, END_HEADERS, 1, two)].concat();
        let (came, _) = passed(&sent(&[frame(HEADERS, END_HEADERS, 1, &url)]), 1000);
        assert!(came == sent(&[expected]));
    }

    #[test]
    fn what_breaks_the_rules_passes_as_it_is() {
        let url = block(CODED);
        let begun = frame(HEADERS, 0, 1, &url);
        let data = frame(0, 1, 1, b"x");
        let other_headers = frame(HEADERS, END_HEADERS, 3, &url);
        let other_end = frame(CONTINUATION, END_HEADERS, 3, &url);
        for (broken, fine) in [
            (vec![begun.clone(), data], true),
            (vec![begun.clone(), other_headers], true),
            (vec![begun.clone(), other_end], true),
            (vec![begun.clone()], false),
            (vec![frame(CONTINUATION, END_HEADERS, 1, &url)], false),
            (vec![frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0x41])], true),
            (vec![frame(HEADERS, END_HEADERS | PADDED, 1, &[])], true),
            (vec![frame(HEADERS, END_HEADERS | PRIORITY, 1, &[0x41])], true),
            (vec![frame(HEADERS, END_HEADERS, 1, &url[..url.len() - 1])], true),
            (vec![frame(HEADERS, END_HEADERS, 1, &url)[..40].to_vec()], false),
        ] {
            check(&broken, &broken, fine);
        }
    }

    #[test]
    fn a_block_without_end_is_not_held_back_for_ever() {
        let (mut authorities, mut out) = (Authorities::new(), BytesMut::new());
        let begin = sent(&[frame(HEADERS, 0, 1, &block(CODED))]);
        let empty = frame(CONTINUATION, 0, 1, b"");
        authorities.pass(&begin, &mut out);
        let mut more = 0;
        while !authorities.are_fine() {
            authorities.pass(&empty, &mut out);
            more += 1;
            assert!(authorities.held.len() <= HELD_MAX);
        }
        assert!(more > 1000 && out.len() == begin.len() + more * empty.len());
        let huge = Head { len: HELD_MAX, kind: HEADERS, flags: END_HEADERS, stream: 1 };
        let mut frame = Vec::new();
        huge.write(&mut frame);
        let (came, fine) = passed(&sent(&[frame.clone()]), usize::MAX);
        assert!(fine && came == sent(&[frame]));
    }

    /// A request's block, in two frames.
    #[derive(Debug)]
    struct Sent {
        url: String,
        huffman: bool,
        kind: u8,
        cut: usize,
        padding: u8,
    }

    impl Sent {
        fn frames(&self, stream: u32) -> Vec<u8> {
            let value = if self.huffman {
                let coded = huffman(self.url.as_bytes());
                [vec![0x80 | u8::try_from(coded.len()).expect("short")], coded].concat()
            } else {
                plain(&self.url)
            };
            let block = [&[0x83, self.kind][..], &value, AFTER].concat();
            let (one, two) = block.split_at(self.cut.min(block.len()));
            let one = [&[self.padding], one, &vec![0; self.padding.into()]].concat();
            let begin = frame(HEADERS, PADDED, stream, &one);
            [begin, frame(CONTINUATION, END_HEADERS, stream, two)].concat()
        }

        fn corrected(&self, stream: u32) -> Vec<u8> {
            let Some(authority) = authority_of(self.url.as_bytes()) else {
                return self.frames(stream);
            };
            let value = plain(std::str::from_utf8(&authority).expect("text"));
            let block = [&[0x83, self.kind][..], &value, AFTER].concat();
            frame(HEADERS, END_HEADERS, stream, &block)
        }
    }

    fn any_sent() -> impl Strategy<Value = Sent> {
        let url = "((http|https|unix|ftp)://)?[a-z0-9.:@-]{0,30}(/[a-z]{0,3})?";
        let kind = proptest::sample::select(vec![0x41, 0x01, 0x11]);
        (url, any::<bool>(), kind, 0_usize..80, 0_u8..9).prop_map(
            |(url, huffman, kind, cut, padding)| Sent { url, huffman, kind, cut, padding },
        )
    }

    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        // No slash, and no bit that says Huffman: no URL.
        proptest::collection::vec((0_u8..0x80).prop_filter("slash", |byte| *byte != b'/'), 0..40)
    }

    proptest! {
        #[test]
        fn a_conversation_is_corrected_from_its_beginning_or_not_at_all(
            requests in proptest::collection::vec(any_sent(), 1..5),
            piece in 1_usize..100,
        ) {
            let urls = authority_of(requests[0].url.as_bytes()).is_some();
            let streams = (1..).step_by(2).zip(&requests);
            let data = |stream| frame(0, 1, stream, b"\0\0\0\0\0");
            let (mut all, mut expected) = (Vec::new(), Vec::new());
            for (stream, request) in streams {
                all.extend([request.frames(stream), data(stream)]);
                let come = if urls { request.corrected(stream) } else { request.frames(stream) };
                expected.extend([come, data(stream)]);
            }
            let (came, fine) = passed(&sent(&all), piece);
            prop_assert_eq!(came, sent(&expected));
            prop_assert_eq!(fine, !urls);
        }

        #[test]
        fn bytes_without_a_url_pass_unchanged(
            frames in proptest::collection::vec((0_u8..10, any::<u8>(), 0_u32..4, any_bytes()), 0..8),
            rest in any_bytes(),
            piece in 1_usize..50,
        ) {
            let frames = frames.iter().map(|(kind, flags, stream, payload)| {
                frame(*kind, *flags, *stream, payload)
            });
            let bytes = [sent(&frames.collect::<Vec<_>>()), rest].concat();
            prop_assert_eq!(passed(&bytes, piece).0, bytes);
        }
    }
}
