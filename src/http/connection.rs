//! The socket of a connection. It records the phase of the connection in its [`Progress`].
//!
//! A connection that closes while its peer still sends lingers first: after an immediate close the kernel would answer further data with a
//! reset, and the peer would lose the response. This file has no other timer: the listener ends slow connections.

use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::time;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

use super::phase::ConnectionPhase;
use super::phase::Progress;

/// The longest time a connection lingers.
const LINGER: Duration = Duration::from_secs(1);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    progress: Progress,
    linger_timer: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    pub(super) const fn new(stream: Stream, progress: Progress) -> Self {
        Self { stream, progress, linger_timer: None }
    }

    /// Records that bytes have arrived. During `Service` they belong to the body or to a pipelined request. An empty line before a head is
    /// no part of it (RFC 9112 2.2).
    fn note_read(&self, bytes: &[u8]) -> io::Result<()> {
        let is_waiting = matches!(self.progress.moment().phase(), ConnectionPhase::Silent | ConnectionPhase::Idle);
        let begins_head = is_waiting && bytes.iter().any(|byte| !matches!(byte, b'\r' | b'\n'));
        if begins_head && !self.progress.enter(ConnectionPhase::Head) {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(())
        }
    }

    /// Records that the peer has taken bytes of a response.
    fn note_write(&self) {
        if self.progress.moment().phase() == ConnectionPhase::Response {
            self.progress.enter(ConnectionPhase::Response);
        }
    }

    /// Reads and discards what the peer still sends, until it closes or [`LINGER`] has passed.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_ended) => return Poll::Ready(()),
                // Also reached now and then while there is more: tokio makes a task that reads without end yield.
                Poll::Pending => {
                    let timer = self.linger_timer.get_or_insert_with(|| Box::pin(time::sleep(LINGER)));
                    return timer.as_mut().poll(cx);
                }
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        std::task::ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        Poll::Ready(this.note_read(buffer.filled().get(before..).unwrap_or_default()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = std::task::ready!(Pin::new(&mut this.stream).poll_write(cx, bytes));
        this.note_write();
        Poll::Ready(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        std::task::ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        if this.progress.moment().phase() == ConnectionPhase::Response {
            this.progress.enter(ConnectionPhase::Idle);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.progress.moment().phase() != ConnectionPhase::Linger {
            std::task::ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if !this.progress.lingers() {
                return Poll::Ready(Ok(()));
            }
            this.progress.enter(ConnectionPhase::Linger);
        }
        this.linger(cx).map(Ok)
    }
}

/// The socket of a connection, with TLS or without.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    /// Boxed: it is much larger.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
