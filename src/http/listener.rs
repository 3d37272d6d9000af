//! The listener: accepts, caps, serves, and stops in order.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::server::graceful::GracefulConnection;
use socket2::Domain;
use socket2::Protocol;
use socket2::SockRef;
use socket2::Socket;
use socket2::TcpKeepalive;
use socket2::Type;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time;

use crate::clock;

use super::connection::Connection;
use super::connection::Patience;
use super::connection::Round;
use super::opening::Opening;
use super::opening::OpeningError;
use super::peers::Peers;
use super::peers::peer_key;
use super::reply;
use super::service::Service;
use super::service::Visit;
use super::stream::Stream;

/// Connections the kernel holds while none is accepted. `net.core.somaxconn` caps it.
const BACKLOG: i32 = 4096;
/// How long a dead peer goes unnoticed at least.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long accepting rests when it fails: file descriptors come back as connections end.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// The longest head, and the read buffer of a connection. Tencent's heads are below 1 KiB.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// How many connections beyond the cap are told so at a time. Those beyond that are closed without a word.
const TURNED_AWAY_MAX: usize = 256;
/// How long a connection beyond the cap is kept for its answer: the sender waits no longer.
const TURN_AWAY_PATIENCE: Duration = Duration::from_secs(2);
/// Between the last accept and the end of idle connections: what was on its way already comes in, and is answered.
const LAST_ARRIVALS: Duration = Duration::from_millis(100);
/// How long a connection has at the end for what comes before HTTP: some round trips to the other side of the world.
const LAST_OPENINGS: Duration = Duration::from_secs(1);
/// How often it is logged at most that accepting fails: it is tried ten times a second.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// The listener's limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connections_max: usize,
    /// `None`: any number.
    pub(crate) per_peer_max: Option<usize>,
    pub(crate) head_timeout: Duration,
    pub(crate) body_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) idle_timeout: Duration,
}

impl Limits {
    const fn patience(&self) -> Patience {
        Patience {
            head: self.head_timeout,
            body: self.body_timeout,
            write: self.write_timeout,
            idle: self.idle_timeout,
        }
    }
}

/// Binds a socket that can be turned into a listener on any runtime.
///
/// # Errors
///
/// The address is in use, or not ours.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the last connections of the old process to time out.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// What a listener serves with.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) service: Arc<Service>,
    pub(crate) opening: Arc<Opening>,
    pub(crate) limits: Limits,
    /// Where connections are driven.
    pub(crate) workers: Vec<Handle>,
}

/// How a listener is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Go on.
    Serve,
    /// Take no more connections, end the idle ones, and finish the requests that are there.
    Finish,
}

/// Serves until ordered to finish, and then until the last connection has ended. Accepts here, and has each connection driven by the
/// worker that has the fewest.
pub(crate) async fn serve(listener: TcpListener, setup: Setup, mut order: watch::Receiver<Order>) {
    let mut connections = Connections::new(setup);
    let mut warned = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.tasks.join_next() => {
                connections.leave(ended.ok().flatten());
                continue;
            }
            _ordered = order.wait_for(|order| *order == Order::Finish) => break,
        };
        match accepted {
            Ok((stream, peer)) => connections.begin(stream, peer),
            Err(error) if is_of_one_connection(&error) => tracing::debug!(%error, "a connection ended before it began"),
            Err(error) => {
                connections.service.intake.metrics.accept_errors.inc();
                let now = clock::monotonic();
                if warned.is_none_or(|warned| now.duration_since(warned) >= WARN_EVERY) {
                    warned = Some(now);
                    tracing::warn!(%error, "could not accept connections; they wait");
                }
                time::sleep(ACCEPT_REST).await;
            }
        }
    }
    // The kernel has connected these, and their senders may have sent: dropped with the listener, they would be lost.
    if let Ok(listener) = listener.into_std() {
        while let Ok((stream, peer)) = listener.accept() {
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            stream.into_iter().for_each(|stream| connections.begin(stream, peer));
        }
    }
    time::sleep(LAST_ARRIVALS).await;
    connections.finish.send_replace(true);
    while connections.tasks.join_next().await.is_some() {}
}

/// Whether accepting failed because of the one that was accepted, and not for want of something that others want too.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::ConnectionAborted;
    use io::ErrorKind::ConnectionRefused;
    use io::ErrorKind::ConnectionReset;
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// The connections there are, under their cap.
struct Connections {
    service: Arc<Service>,
    opening: Arc<Opening>,
    limits: Limits,
    places: Arc<Semaphore>,
    farewells: Arc<Semaphore>,
    /// Whether connections end once they are idle.
    finish: watch::Sender<bool>,
    peers: Peers,
    workers: Vec<Worker>,
    /// Those that had a place return it.
    tasks: JoinSet<Option<Left>>,
}

/// A worker, and how many connections it has.
#[derive(Debug)]
struct Worker {
    handle: Handle,
    open: usize,
}

/// What a connection leaves behind.
#[derive(Debug, Clone, Copy)]
struct Left {
    /// Which worker had it.
    worker: usize,
    /// Under whom it was counted among the peers.
    peer: Option<IpAddr>,
}

impl Connections {
    fn new(setup: Setup) -> Self {
        let Setup { service, opening, limits, workers } = setup;
        let workers = workers.into_iter().map(|handle| Worker { handle, open: 0 }).collect();
        Self {
            service,
            opening,
            limits,
            places: Arc::new(Semaphore::new(limits.connections_max)),
            farewells: Arc::new(Semaphore::new(TURNED_AWAY_MAX)),
            finish: watch::Sender::new(false),
            peers: Peers::default(),
            workers,
            tasks: JoinSet::new(),
        }
    }

    /// Serves a connection, or turns it away if there is no place.
    fn begin(&mut self, stream: TcpStream, peer: SocketAddr) {
        let Some((place, counted)) = self.place(peer.ip()) else {
            self.service.intake.metrics.connections_refused.inc();
            // Whoever expects TLS could not read what it is told.
            if self.opening.tls.is_none()
                && let Ok(farewell) = Arc::clone(&self.farewells).try_acquire_owned()
            {
                self.tasks.spawn(async move {
                    turn_away(stream).await;
                    drop(farewell);
                    None
                });
            }
            return;
        };
        let fewest = self.workers.iter_mut().enumerate().min_by_key(|(_, worker)| worker.open);
        let Some((index, worker)) = fewest else { return };
        worker.open += 1;
        prepare(&stream);
        let metrics = &self.service.intake.metrics;
        let (gauge, not_http) = (metrics.connections.clone(), metrics.not_http.clone());
        let finish = self.finish.subscribe();
        let (service, opening, limits) = (Arc::clone(&self.service), Arc::clone(&self.opening), self.limits);
        let drive = async move {
            gauge.inc();
            let opened = match here(stream) {
                Ok(stream) => open(stream, peer, &opening, &service, finish.clone()).await,
                Err(error) => {
                    tracing::debug!(%error, %peer, "connection not taken up");
                    None
                }
            };
            if let Some((stream, peer)) = opened {
                let patience = limits.patience();
                let round = Round::default();
                let served = serve_connection(stream, peer, round.clone(), service, patience);
                let ended = end_in_order(served, round, finish).await;
                // Errors are the peer's: it broke off, was too slow, or does not speak HTTP.
                if let Err(error) = ended {
                    if error.is_parse() {
                        not_http.inc();
                    }
                    tracing::debug!(%error, %peer, "connection ended");
                }
            }
            drop(place);
            gauge.dec();
            Some(Left { worker: index, peer: counted })
        };
        self.tasks.spawn_on(drive, &worker.handle);
    }

    fn leave(&mut self, left: Option<Left>) {
        let Some(Left { worker, peer }) = left else { return };
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.open -= 1;
        }
        self.peers.leave(peer);
    }

    /// A place under both caps, and under whom it is counted among the peers.
    fn place(&mut self, peer: IpAddr) -> Option<(OwnedSemaphorePermit, Option<IpAddr>)> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let Some(max) = self.limits.per_peer_max.filter(|_max| !self.opening.proxies.contain(peer)) else {
            return Some((place, None));
        };
        // Those that have ended do not count, though nobody has looked at them yet.
        while let Some(ended) = self.tasks.try_join_next() {
            self.leave(ended.ok().flatten());
        }
        let peer = peer_key(peer);
        self.peers.enter(peer, max).then_some((place, Some(peer)))
    }
}

/// Gives a socket to the runtime of this thread.
fn here(stream: TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(stream.into_std()?)
}

/// Brings a connection as far as HTTP. Once all shall finish, it has little time left for that.
async fn open(
    stream: TcpStream,
    peer: SocketAddr,
    opening: &Opening,
    service: &Service,
    mut finish: watch::Receiver<bool>,
) -> Option<(Stream, SocketAddr)> {
    if !opening.is_awaited(peer) {
        return Some((Stream::Plain(stream), peer));
    }
    // Boxed: every connection's future would otherwise be larger by it, for as long as it lives.
    let opened = Box::pin(async {
        tokio::select! {
            opened = opening.open(stream, peer) => opened,
            () = async {
                // Nobody can order any more when the sender is gone: the same as an order.
                let _ordered = finish.wait_for(|finish| *finish).await.is_ok();
                time::sleep(LAST_OPENINGS).await;
            } => Err(OpeningError::Late),
        }
    });
    match opened.await {
        Ok(opened) => Some(opened),
        Err(error) => {
            let metrics = &service.intake.metrics;
            match &error {
                OpeningError::ProxyHeader(_) => metrics.unopened_header.inc(),
                OpeningError::Tls(_) => metrics.unopened_tls.inc(),
                OpeningError::Late => metrics.unopened_late.inc(),
            }
            tracing::debug!(error = &error as &dyn std::error::Error, %peer, "connection did not open");
            None
        }
    }
}

fn serve_connection(
    stream: Stream,
    peer: SocketAddr,
    round: Round,
    service: Arc<Service>,
    patience: Patience,
) -> impl GracefulConnection<Error = hyper::Error> {
    let io = Connection::new(stream, round.clone(), patience);
    // One for the connection: all connections would otherwise count references to the one service, from every thread.
    let visit = Arc::new(Visit { service, peer, round, alarm: Mutex::default() });
    let service = service_fn(move |request| Arc::clone(&visit).serve(request));
    http1::Builder::new()
        // `Connection` watches heads, and the time between requests.
        .header_read_timeout(None)
        .keep_alive(true)
        .half_close(false)
        .pipeline_flush(false)
        // An answer is short: to copy it behind its head costs less than to hand over both.
        .writev(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(io, service)
}

/// Drives a connection to its end. Once it shall finish, it ends as soon as it is idle. hyper would take one that reads the head of a
/// later request for idle, and drop what it has of it.
async fn end_in_order(
    connection: impl GracefulConnection<Error = hyper::Error>,
    round: Round,
    mut finish: watch::Receiver<bool>,
) -> Result<(), hyper::Error> {
    let mut connection = pin!(connection);
    let news = finish.clone();
    let mut ordered = pin!(async move { finish.wait_for(|finish| *finish).await.is_ok() });
    let (mut is_first, mut is_ordered, mut is_told) = (true, false, false);
    poll_fn(|cx| {
        // What has come is read first.
        let ended = connection.as_mut().poll(cx);
        // Asked once, so that the order wakes this task, and then only when there is one: to ask takes a lock that all connections share.
        if !is_ordered && (is_first || news.has_changed().unwrap_or(true)) {
            is_first = false;
            is_ordered = ordered.as_mut().poll(cx).is_ready();
        }
        if ended.is_ready() || !is_ordered || is_told || round.is_in_head() {
            return ended;
        }
        is_told = true;
        connection.as_mut().graceful_shutdown();
        connection.as_mut().poll(cx)
    })
    .await
}

/// Sets what a connection needs. What cannot be set does not matter enough to turn the sender away.
fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let set =
        stream.set_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE)));
    if let Err(error) = set {
        tracing::debug!(%error, "could not set socket options");
    }
}

/// Tells a connection beyond the cap that there is no place, rather than leave it waiting.
async fn turn_away(mut stream: TcpStream) {
    let response = reply::too_many_connections();
    // It may be gone already.
    let _told = time::timeout(TURN_AWAY_PATIENCE, async {
        stream.write_all(&response).await?;
        stream.shutdown().await?;
        // Closed before its request was read, the connection would end in a reset, and the answer with it.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    })
    .await;
}
