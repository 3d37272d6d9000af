//! A connection's socket with the patience of a server: a head or a body that trickles in, and an answer that nobody reads, end the
//! connection.
//!
//! hyper has one timer for the wait between requests and for the time a head takes; one is long, the other must be short, and it is
//! started anew for each request. So hyper gets none, and this wrapper watches: from the first byte of a head to the call of the service,
//! and from the first wait for a body to its end, it must not take longer than its limit. Those timers are made only when a read or a
//! write has to wait in the middle. That is never where a head and its body come in one piece; where they do not, each body waits, and
//! one timer is made for all bodies of a connection. One more runs all the time, in steps of an eighth of the idle time: a connection
//! that had nothing to read in eight whole ones is idle.
//!
//! A connection that ends while its peer still sends lingers for a moment: closed at once, the kernel would answer what comes with a
//! reset, and that takes the answer from under the peer's eyes.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;

use hyper::rt::Read;
use hyper::rt::ReadBufCursor;
use hyper::rt::Write;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead;
use tokio::io::ReadBuf;
use tokio::time;
use tokio::time::Sleep;

use super::stream::Stream;
use crate::alarm::Alarm;
use crate::clock;

/// How long a connection lingers at most.
const LINGER: Duration = Duration::from_secs(1);

/// Where a connection is in its round: between requests, reading a head, with the service (which may be reading a body), or left in
/// the middle of a body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Round(Arc<AtomicU8>);

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const SERVICE: u8 = 2;
const LEFT: u8 = 3;
const BODY_BEGINS: u8 = 4;
const BODY: u8 = 5;
const BODY_LATE: u8 = 6;

impl Round {
    /// The service has the request.
    pub(crate) fn serve(&self) {
        self.0.store(SERVICE, Ordering::Relaxed);
    }

    /// The service begins to read a body, and waits for nothing else until it calls [`Round::serve`].
    pub(crate) fn read_body(&self) {
        self.0.store(BODY_BEGINS, Ordering::Relaxed);
    }

    /// A body has to be waited for. It gets its time when the connection reads, and hyper looks for the body before it polls the service
    /// for the first time: so it must look once more, or nothing would end a body of which no byte ever comes.
    pub(crate) fn wait_for_body(&self, cx: &Context<'_>) {
        if self.0.load(Ordering::Relaxed) == BODY_BEGINS {
            cx.waker().wake_by_ref();
        }
    }

    /// Whether the body that is being read has had its time. Whoever reads it must look each time before it waits.
    pub(crate) fn is_body_late(&self) -> bool {
        self.0.load(Ordering::Relaxed) == BODY_LATE
    }

    /// The service is done with it.
    pub(crate) fn rest(&self) {
        self.0.store(IDLE, Ordering::Relaxed);
    }

    /// The service is done with it, and the rest of its body will not be read: the connection ends.
    pub(crate) fn leave(&self) {
        self.0.store(LEFT, Ordering::Relaxed);
    }

    /// Bytes came. Returns whether a head begins with them: while the service works they are the body, or a request sent ahead.
    fn read(&self) -> bool {
        self.0.compare_exchange(IDLE, HEAD, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether a head has begun to come.
    pub(crate) fn is_in_head(&self) -> bool {
        self.0.load(Ordering::Relaxed) == HEAD
    }

    /// Whether the peer may still be sending.
    fn is_in_the_middle(&self) -> bool {
        matches!(self.0.load(Ordering::Relaxed), HEAD | LEFT)
    }
}

/// How long a sender may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// From the first byte of a head to its last.
    pub(crate) head: Duration,
    /// From the first wait for a body to its last byte.
    pub(crate) body: Duration,
    /// Without a byte of the answer being taken.
    pub(crate) write: Duration,
    /// Between an answer and the next request.
    pub(crate) idle: Duration,
}

/// In how many steps idleness is told.
const IDLE_STEPS: u32 = 8;

/// See the module.
#[derive(Debug)]
pub(crate) struct Connection {
    io: TokioIo<Stream>,
    round: Round,
    patience: Patience,
    head_timer: Option<Pin<Box<Sleep>>>,
    /// When the body that is being read must have come.
    body_deadline: Instant,
    body_alarm: Alarm,
    write_timer: Option<Pin<Box<Sleep>>>,
    idle_timer: Pin<Box<Sleep>>,
    is_idle_timer_asked: bool,
    /// Steps of the idle timer since something was read.
    quiet_steps: u32,
    is_shut_down: bool,
    linger_timer: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    pub(super) fn new(stream: Stream, round: Round, patience: Patience) -> Self {
        let io = TokioIo::new(stream);
        let (head_timer, write_timer, linger_timer) = (None, None, None);
        let idle_timer = Box::pin(time::sleep(patience.idle / IDLE_STEPS));
        let (quiet_steps, is_idle_timer_asked, is_shut_down) = (0, false, false);
        Self {
            io,
            round,
            patience,
            head_timer,
            body_deadline: idle_timer.deadline().into_std(),
            body_alarm: Alarm::default(),
            write_timer,
            idle_timer,
            is_idle_timer_asked,
            quiet_steps,
            is_shut_down,
            linger_timer,
        }
    }

    /// Passes a write's result on; one that has waited for too long is an error.
    fn watch_write<T>(&mut self, poll: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.write_timer = None;
            return poll;
        }
        expire(&mut self.write_timer, self.patience.write, cx).map(Err)
    }

    /// Gives a body that has to be waited for its time. When it is over the service is told, in the same turn of this task, and it is for
    /// the service to answer.
    fn watch_body(&mut self, cx: &mut Context<'_>) {
        match self.round.0.load(Ordering::Relaxed) {
            BODY_BEGINS => {
                self.round.0.store(BODY, Ordering::Relaxed);
                self.body_deadline = clock::monotonic() + self.patience.body;
            }
            BODY => {}
            _other => return,
        }
        // The one timer of all its bodies: where they come behind their heads, this is reached for each.
        if self.body_alarm.poll_at(self.body_deadline, cx).is_ready() {
            self.round.0.store(BODY_LATE, Ordering::Relaxed);
        }
    }

    /// Ready when the connection has been idle for too long.
    fn watch_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        // Asked once in each step, so that its end wakes this task, and then only when it has come.
        if self.is_idle_timer_asked && !self.idle_timer.is_elapsed() {
            return Poll::Pending;
        }
        self.is_idle_timer_asked = true;
        while self.idle_timer.as_mut().poll(cx).is_ready() {
            self.quiet_steps = if self.round.0.load(Ordering::Relaxed) == IDLE { self.quiet_steps + 1 } else { 0 };
            // The first of them may have begun long before the last byte came.
            if self.quiet_steps > IDLE_STEPS {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            let next = self.idle_timer.deadline() + self.patience.idle / IDLE_STEPS;
            self.idle_timer.as_mut().reset(next);
        }
        Poll::Pending
    }

    /// Reads and drops what the peer still sends, until it ends or [`LINGER`] has passed.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(self.io.inner_mut()).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_ended) => return Poll::Ready(()),
                // Also now and then when there is more, as tokio makes a task that reads without end yield.
                Poll::Pending => return expire(&mut self.linger_timer, LINGER, cx).map(|_passed| ()),
            }
        }
    }
}

/// Starts the timer if it does not run. Ready when it has run out.
fn expire(timer: &mut Option<Pin<Box<Sleep>>>, limit: Duration, cx: &mut Context<'_>) -> Poll<io::Error> {
    timer.get_or_insert_with(|| Box::pin(time::sleep(limit))).as_mut().poll(cx).map(|()| io::ErrorKind::TimedOut.into())
}

impl Read for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_read(cx, buffer);
        if poll.is_ready() {
            this.quiet_steps = 0;
            if this.round.read() {
                this.head_timer = None;
            }
            return poll;
        }
        if this.round.is_in_head() {
            let expired = expire(&mut this.head_timer, this.patience.head, cx);
            if expired.is_ready() {
                // It has had its time, and is told nothing: no reason to linger.
                this.round.rest();
            }
            return expired.map(Err);
        }
        this.head_timer = None;
        this.watch_body(cx);
        this.watch_idle(cx).map(Err)
    }
}

impl Write for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.watch_write(poll, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_flush(cx);
        this.watch_write(poll, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_shut_down {
            let poll = Pin::new(&mut this.io).poll_shutdown(cx);
            std::task::ready!(this.watch_write(poll, cx))?;
            this.is_shut_down = true;
        }
        if this.round.is_in_the_middle() { this.linger(cx).map(Ok) } else { Poll::Ready(Ok(())) }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.watch_write(poll, cx)
    }
}
