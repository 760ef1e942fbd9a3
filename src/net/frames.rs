//! The outline of HTTP/2: where frames begin, and what their headers say.
//!
//! The HTTP/2 library reads and writes whole frames. What stands between it and the socket sees bytes,
//! in pieces of any size, and finds the frames in them with this.

/// What an HTTP/2 client with prior knowledge sends first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's header.
pub(super) const HEAD_LEN: usize = 9;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const PRIORITY: u8 = 0x20;

/// A frame's header.
#[derive(Clone, Copy)]
pub(super) struct Head {
    /// Bytes of payload.
    pub(super) len: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Head {
    /// Reads a header off the beginning of `bytes`, if it is all there.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (&[a, b, c, kind, flags, s0, s1, s2, s3], _) = bytes.split_first_chunk()?;
        let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let stream = u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff;
        Some(Self { len, kind, flags, stream })
    }

    /// Writes the header to the end of `out`.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let len = u32::try_from(self.len).expect("a frame's length has 24 bits");
        out.extend(&len.to_be_bytes()[1..]);
        out.extend([self.kind, self.flags]);
        out.extend(self.stream.to_be_bytes());
    }
}

/// Finds frame headers in a stream of bytes that comes in pieces of any size.
#[derive(Default)]
pub(super) struct Frames {
    head: [u8; HEAD_LEN],
    /// Bytes of `head` seen.
    seen: usize,
    /// Bytes of payload still to pass.
    skip: usize,
}

impl Frames {
    /// Begins where a client does: its preface comes before its first frame.
    pub(super) fn after_preface() -> Self {
        Self { skip: PREFACE.len(), ..Self::default() }
    }

    /// Returns the next header and takes it and all before it off `bytes`; `None` at their end.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        *bytes = &bytes[skipped..];
        let taken = (self.head.len() - self.seen).min(bytes.len());
        self.head[self.seen..self.seen + taken].copy_from_slice(&bytes[..taken]);
        self.seen += taken;
        *bytes = &bytes[taken..];
        if self.seen < self.head.len() {
            return None;
        }
        self.seen = 0;
        let head = Head::read(&self.head)?;
        self.skip = head.len;
        Some(head)
    }

    /// Says whether the bytes so far end with a frame's end.
    pub(super) fn at_boundary(&self) -> bool {
        self.seen == 0 && self.skip == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let mut bytes = Vec::new();
        for (kind, len) in [(DATA, 0), (PING, 8), (DATA, 300), (HEADERS, 70_000), (PING, 8)] {
            let len = u32::try_from(len).expect("small");
            bytes.extend(&len.to_be_bytes()[1..]);
            bytes.extend([kind, 0, 0, 0, 0, 7]);
            bytes.extend(vec![0xff; usize::try_from(len).expect("small")]);
        }
        for cut in [1, 2, 8, 9, 10, 1000, usize::MAX] {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for mut piece in bytes.chunks(cut.min(bytes.len())) {
                while let Some(head) = frames.next(&mut piece) {
                    assert_eq!(head.stream, 7);
                    found.push(head.kind);
                }
            }
            assert_eq!(found, [DATA, PING, DATA, HEADERS, PING], "cut {cut}");
            assert!(frames.at_boundary());
        }
    }
}
