//! Tells protocols apart by their first bytes, and gives the bytes back.
//!
//! One port may carry TLS, HTTP/2 with prior knowledge and HTTP/1. A TLS record begins with byte 22,
//! which no HTTP request does; HTTP/2 begins with a fixed 24-byte preface whose first bytes are no
//! HTTP/1 method anybody uses. What was read to find out is read again through [`Rewound`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::frames::PREFACE;

/// The first byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 22;

/// Reads one byte and says whether it begins a TLS handshake. At the end of the stream, it does not.
pub(super) async fn begins_tls<S>(stream: &mut S, read: &mut BytesMut) -> io::Result<bool>
where
    S: AsyncRead + Unpin,
{
    if read.is_empty() {
        stream.read_buf(read).await?;
    }
    Ok(read.first() == Some(&TLS_HANDSHAKE))
}

/// Reads until it is clear whether the stream begins with HTTP/2's preface.
pub(super) async fn begins_http2<S>(stream: &mut S, read: &mut BytesMut) -> io::Result<bool>
where
    S: AsyncRead + Unpin,
{
    loop {
        let known = read.len().min(PREFACE.len());
        if read[..known] != PREFACE[..known] {
            return Ok(false);
        }
        if known == PREFACE.len() {
            return Ok(true);
        }
        if stream.read_buf(read).await? == 0 {
            return Ok(false);
        }
    }
}

/// A stream whose first bytes were read already and are read once more.
pub(super) struct Rewound<S> {
    ahead: Bytes,
    stream: S,
}

impl<S> Rewound<S> {
    pub(super) fn new(ahead: Bytes, stream: S) -> Self {
        Self { ahead, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let n = this.ahead.len().min(buf.remaining());
        buf.put_slice(&this.ahead.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(all(test, feature = "real"))]
mod tests {
    use super::*;
    use crate::runtime::tokio::{Settings, Tokio};

    fn http2(first: &'static [u8]) -> (bool, usize) {
        let sniffed = Tokio::start(Settings::default(), |_| async move {
            let mut read = BytesMut::new();
            let yes = begins_http2(&mut &*first, &mut read).await.expect("no error");
            (yes, read.len())
        });
        sniffed.expect("a runtime")
    }

    #[test]
    fn the_preface_is_told_from_a_request_and_from_a_fragment_of_itself() {
        assert!(http2(PREFACE).0);
        assert!(!http2(b"GET / HTTP/1.1\r\n\r\n").0);
        assert!(!http2(b"PRI * HTTP/1.1\r\n\r\n").0);
        assert_eq!(http2(&PREFACE[..10]), (false, 10));
        assert_eq!(http2(b""), (false, 0));
    }
}
