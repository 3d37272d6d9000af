//! The connections of the admin listener. A client that is slow, silent or does not read keeps nobody else out: everything has a
//! deadline, and a connection beyond the limit takes the place of the one that has stalled longest.

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

/// Connections served at once.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection keeps its place whatever others come: a request follows its connection within that. It bounds how many
/// connections are taken in a second.
const GRACE: Duration = Duration::from_millis(20);
/// How long a request may take to arrive, from the connection or the response before it to the end of its head.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a response may take to be taken, from the moment that it has to wait for the client.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest head, and the read buffer of a connection.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long accepting rests when it fails: file descriptors come back as connections end.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Serves until it is dropped.
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
                connections.begin(stream, Arc::clone(&admin));
            }
            Err(_error) => time::sleep(ACCEPT_REST).await,
        }
    }
}

/// The connections there are, the oldest first.
#[derive(Default)]
struct AdminConnections {
    open: Vec<AdminConnection>,
    tasks: JoinSet<()>,
}

struct AdminConnection {
    accepted: Instant,
    /// Beats when the client sends or takes something.
    progress: Arc<Heartbeat>,
    task: AbortHandle,
}

impl AdminConnections {
    /// Waits until there is a place: a connection ends, or has had its grace and is ended.
    async fn make_room(&mut self) {
        loop {
            while self.tasks.try_join_next().is_some() {}
            self.open.retain(|connection| !connection.task.is_finished());
            let Some(oldest) = self.open.first().filter(|_oldest| self.open.len() >= CONNECTIONS_MAX) else { return };
            let now = clock::monotonic();
            let is_evictable = |connection: &AdminConnection| now.duration_since(connection.accepted) >= GRACE;
            // Of those that have stalled equally long, the oldest.
            let stalled = self.open.iter().enumerate().rev().filter(|(_, connection)| is_evictable(connection));
            match stalled.max_by_key(|(_, connection)| connection.progress.age()).map(|(index, _)| index) {
                Some(index) => self.open.remove(index).task.abort(),
                None => time::sleep_until((oldest.accepted + GRACE).into()).await,
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, admin: Arc<Admin>) {
        let progress = Arc::new(Heartbeat::default());
        progress.beat();
        let io = TimedStream { io: TokioIo::new(stream), progress: Arc::clone(&progress), write_timer: None };
        let of_service = Arc::clone(&progress);
        let service = service_fn(move |request| {
            let (admin, progress) = (Arc::clone(&admin), Arc::clone(&of_service));
            async move {
                // After each request it is the other connections' turn: hyper would go on with what a client has sent ahead.
                task::yield_now().await;
                Ok::<_, Infallible>(admin.respond(request, &progress).await)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(READ_TIMEOUT)
            // A client may be done with sending when it has asked.
            .half_close(true)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(io, service);
        let task = self.tasks.spawn(async move {
            // Errors are the client's, and it has seen them.
            let _ended = connection.await;
        });
        self.open.push(AdminConnection { accepted: clock::monotonic(), progress, task });
    }
}

/// A stream that notes the client's progress, and fails when a response is not taken in time.
struct TimedStream {
    io: TokioIo<TcpStream>,
    progress: Arc<Heartbeat>,
    /// Runs from the first write that has to wait until all is written.
    write_timer: Option<Pin<Box<Sleep>>>,
}

impl TimedStream {
    /// Passes the result of a write on.
    fn watch_write<T>(&mut self, poll: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
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
        self.watch_write(poll, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper comes here once it has written all it had.
        self.write_timer = None;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
