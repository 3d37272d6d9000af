//! The connections of the admin listener. A client that is slow, idle or does not read cannot lock others out: reads and writes have
//! timeouts, and at the limit of connections a new one replaces the one that has stalled longest.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;

use hyper::rt::Read;
use hyper::rt::ReadBufCursor;
use hyper::rt::Write;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task;
use tokio::task::AbortHandle;
use tokio::task::JoinSet;
use tokio::time;
use tokio::time::Sleep;

use crate::admin::Admin;
use crate::clock;
use crate::clock::Heartbeat;

/// The most concurrent connections.
const CONNECTIONS_MAX: usize = 64;
/// A connection is not replaced before this age, so that it has time to send its first request. It also limits the rate of accepts.
const GRACE_PERIOD: Duration = Duration::from_millis(20);
/// The timeout of a request's head, from the accept or the end of the last response.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// The timeout of a response, from the first write that blocks.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest head, and the size of a connection's read buffer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The pause after a failed accept, until closed connections have freed file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Serves connections until the future is dropped.
pub(super) async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let mut connections = AdminConnections::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.tasks.join_next() => continue,
        };
        match accepted {
            Ok((stream, _peer)) => {
                connections.make_room().await;
                connections.spawn(stream, Arc::clone(&admin));
            }
            Err(_error) => time::sleep(ACCEPT_BACKOFF).await,
        }
    }
}

/// The open connections, the oldest first.
#[derive(Default)]
struct AdminConnections {
    open: Vec<AdminConnection>,
    tasks: JoinSet<()>,
}

struct AdminConnection {
    accepted: Instant,
    /// Gets a heartbeat when the client sends or receives bytes.
    progress: Arc<Heartbeat>,
    task: AbortHandle,
}

impl AdminConnections {
    /// Waits until a new connection is within the limit: another ends, or is old enough to be replaced.
    async fn make_room(&mut self) {
        loop {
            while self.tasks.try_join_next().is_some() {}
            self.open.retain(|connection| !connection.task.is_finished());
            let Some(oldest) = self.open.first().filter(|_oldest| self.open.len() >= CONNECTIONS_MAX) else { return };
            let now = clock::monotonic();
            let is_evictable = |connection: &AdminConnection| now.duration_since(connection.accepted) >= GRACE_PERIOD;
            // Reversed, so that `max_by_key` prefers the oldest of those that have stalled equally long.
            let stalled = self.open.iter().enumerate().rev().filter(|(_, connection)| is_evictable(connection));
            match stalled.max_by_key(|(_, connection)| connection.progress.age()).map(|(index, _)| index) {
                Some(index) => self.open.remove(index).task.abort(),
                None => time::sleep_until((oldest.accepted + GRACE_PERIOD).into()).await,
            }
        }
    }

    fn spawn(&mut self, stream: TcpStream, admin: Arc<Admin>) {
        let progress = Arc::new(Heartbeat::default());
        progress.beat();
        let io = TimedStream { io: TokioIo::new(stream), progress: Arc::clone(&progress), write_timer: None };
        let service_progress = Arc::clone(&progress);
        let service = service_fn(move |request| {
            let (admin, progress) = (Arc::clone(&admin), Arc::clone(&service_progress));
            async move {
                // Lets other connections run: hyper would continue with pipelined requests.
                task::yield_now().await;
                Ok::<_, Infallible>(admin.respond(request, &progress).await)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(READ_TIMEOUT)
            // A client may shut down its sending side after the request.
            .half_close(true)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(io, service);
        let task = self.tasks.spawn(async move {
            // Not logged: a connection fails because of its client.
            let _ended = connection.await;
        });
        self.open.push(AdminConnection { accepted: clock::monotonic(), progress, task });
    }
}

/// A stream that records the client's progress, and fails if the client does not read a response in time.
struct TimedStream {
    io: TokioIo<TcpStream>,
    progress: Arc<Heartbeat>,
    /// Runs from the first write that blocks until everything is written.
    write_timer: Option<Pin<Box<Sleep>>>,
}

impl TimedStream {
    /// Returns the result of a write, or `TimedOut`.
    fn with_timeout<T>(&mut self, poll: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.progress.beat();
            return poll;
        }
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(time::sleep(WRITE_TIMEOUT)));
        timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Read for TimedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_read(cx, buffer);
        if poll.is_ready() {
            self.progress.beat();
        }
        poll
    }
}

impl Write for TimedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.with_timeout(poll, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when its write buffer is empty.
        self.write_timer = None;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
