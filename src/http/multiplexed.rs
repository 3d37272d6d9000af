//! Connections of HTTP/2: many requests at a time, each on a stream of its own.
//!
//! What `http::connection` watches rests on one request at a time, so here only its patience with writes is of use. A stream has the time
//! of a body for its body, and in all not more than the time of a body, of an answer and of a write together: then it is reset, also when
//! its answer waits for a window that its peer does not open. A refusal ends its stream, never the connection, because where a body ends is
//! always known. The connection ends when no stream was open for as long as it may be idle, and in order when all shall finish: its peer is
//! told which stream was the last, and that one and those before it are served.

use std::convert::Infallible;
use std::mem;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::Duration;

use http_body_util::Full;
use hyper::Method;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::sync::Notify;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time;

use crate::refusal::Refusal;

use super::connection::Connection;
use super::connection::Patience;
use super::connection::Round;
use super::reply::Reply;
use super::service;
use super::service::Service;
use super::service::Step;
use super::service::Watch;
use super::stream::Stream;

/// Requests at a time on one connection. One more is refused by hyper, and its sender may send it again.
const STREAMS_MAX: u32 = 64;
/// The longest head, uncompressed. Tencent's are below 1 KiB.
const HEAD_BYTES_MAX: u32 = 16 * 1024;
/// The longest frame that is taken, and the least that must be.
const FRAME_BYTES_MAX: u32 = 16 * 1024;
/// What may be on its way to us for all streams together, at least; a body of the longest length always may.
const CONNECTION_WINDOW_MIN: u32 = 1024 * 1024;
/// The window that every stream has before anything is said of it.
const STREAM_WINDOW_MIN: u32 = 65_535;
/// What of one answer waits for its peer's window. Answers are shorter.
const SEND_BYTES_MAX: usize = 64 * 1024;
/// How often a connection without news is asked whether it lives, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection is kept at its end without a stream: until its peer has learned of it, and what was on its way has come.
const GOODBYE: Duration = Duration::from_secs(1);
/// In how many steps it is told that no stream is open.
const REST_STEPS: u32 = 8;

/// Serves a connection until its peer or its idleness ends it, or until it shall finish and its streams have ended.
pub(super) async fn serve(
    stream: Stream,
    peer: SocketAddr,
    service: Arc<Service>,
    patience: Patience,
    mut finish: watch::Receiver<bool>,
) -> Result<(), hyper::Error> {
    let round = Round::default();
    // Always: neither heads nor idleness are watched there.
    round.serve();
    let io = Connection::new(stream, round, patience);
    let streams = Streams::new(patience.body + service.intake.deadline + patience.write);
    let window = u32::try_from(service.body_bytes_max).unwrap_or(u32::MAX / 2).max(STREAM_WINDOW_MIN);
    let visit = Arc::new(Visit { service, peer, body_patience: patience.body, leave: Notify::new() });
    let leaving = Arc::clone(&visit);
    let connection = http2::Builder::new(streams.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .initial_stream_window_size(window)
        .initial_connection_window_size(window.max(CONNECTION_WINDOW_MIN))
        .adaptive_window(false)
        .max_send_buf_size(SEND_BYTES_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_PATIENCE)
        .serve_connection(io, service_fn(move |request| Arc::clone(&visit).serve(request)));
    let _ends = Ends(&streams);
    let ended = {
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            biased;
            // What has come is read first.
            ended = connection.as_mut() => Some(ended),
            _ordered = finish.wait_for(|finish| *finish) => None,
            () = leaving.leave.notified() => None,
            () = streams.rest(patience.idle) => None,
        };
        match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    biased;
                    ended = connection => ended,
                    () = streams.rest(GOODBYE) => Ok(()),
                }
            }
        }
    };
    // Nobody is left to answer: as on HTTP/1.1, their requests end with the connection, and are counted before it is.
    let mut left = mem::take(&mut streams.open().tasks);
    left.shutdown().await;
    ended
}

/// The service as one connection has it.
#[derive(Debug)]
struct Visit {
    service: Arc<Service>,
    peer: SocketAddr,
    body_patience: Duration,
    /// The connection shall end, once its streams have.
    leave: Notify,
}

impl Visit {
    /// Answers the request of one stream.
    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Result<Reply, Infallible> {
        let service = &*self.service;
        let (parts, mut body) = request.into_parts();
        let mut reply = match service.receive(&parts, self.peer) {
            Step::Answer(reply) => reply,
            // Its body is not read: hyper resets what still comes of it, without an error.
            Step::Refuse(receipt, refusal) => service::conclude(Err(refusal), Some(receipt)),
            Step::Read(receipt, admitted, decompression) => {
                let mut receipt = Some(receipt);
                let body = service.body(&admitted, Some(&mut body), decompression, &Timed);
                let answer = match time::timeout(self.body_patience, body).await.unwrap_or(Err(Refusal::BodyTimeout)) {
                    Ok(raw) => service.intake.accept(admitted, raw, &mut receipt, &Mutex::default()).await,
                    Err(refusal) => Err(refusal),
                };
                service::conclude(answer, receipt)
            }
        };
        // HTTP/2 has no such header. What it says is said of the connection as a whole.
        reply.headers_mut().remove(header::CONNECTION);
        if service.is_stopping.load(Ordering::Relaxed) {
            self.leave.notify_one();
        }
        if parts.method == Method::HEAD {
            // Of HTTP/1 hyper sees to that.
            *reply.body_mut() = Full::default();
        }
        Ok(reply)
    }
}

/// Of a body that has a timer of its own around it.
struct Timed;

impl Watch for Timed {
    fn read_body(&self) {}

    fn have_body(&self) {}

    fn is_body_late(&self) -> bool {
        false
    }

    fn wait_for_body(&self, _cx: &Context<'_>) {}
}

/// The streams of a connection, each a task. Clones are handles to the same.
#[derive(Debug, Clone)]
struct Streams {
    open: Arc<Mutex<Open>>,
    /// How long one may take in all.
    patience: Duration,
}

#[derive(Debug, Default)]
struct Open {
    /// hyper bounds them by [`STREAMS_MAX`].
    tasks: JoinSet<()>,
    /// How many there have been.
    begun: u64,
}

impl Streams {
    fn new(patience: Duration) -> Self {
        Self { open: Arc::default(), patience }
    }

    /// Those that are open.
    fn open(&self) -> MutexGuard<'_, Open> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        while open.tasks.try_join_next().is_some() {}
        open
    }

    /// Waits until none has been open for `limit`, an eighth of it more or less.
    async fn rest(&self, limit: Duration) {
        let mut begun = self.open().begun;
        let mut quiet_steps = 0;
        while quiet_steps < REST_STEPS {
            time::sleep(limit / REST_STEPS).await;
            let open = self.open();
            let is_quiet = open.tasks.is_empty() && open.begun == begun;
            begun = open.begun;
            quiet_steps = if is_quiet { quiet_steps + 1 } else { 0 };
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let patience = self.patience;
        let mut open = self.open();
        open.begun += 1;
        // Dropped when its time is over, it is reset.
        open.tasks.spawn(async move {
            let _ended = time::timeout(patience, stream).await;
        });
    }
}

/// Ends the streams with their connection, also when that is dropped: each holds a handle to all.
struct Ends<'s>(&'s Streams);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.open().tasks.abort_all();
    }
}
