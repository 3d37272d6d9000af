//! The listener: accepts, caps, serves, and stops in order.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
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
use tokio::sync::Semaphore;
use tokio::time;
use tokio::time::MissedTickBehavior;

use crate::clock;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::Phase;
use crate::throttle::Throttle;

use super::arrival;
use super::connection::Connection;
use super::connection::Stream;
use super::connections::ConnectionLimits;
use super::connections::Connections;
use super::connections::LAST_ARRIVALS;
use super::phase::ConnectionPhase;
use super::phase::Progress;
use super::preamble::Preamble;
use super::preamble::PreambleError;
use super::reply;
use super::service::ConnectionService;
use super::service::Peer;
use super::service::Service;

/// Connections the kernel holds while none is accepted. `net.core.somaxconn` caps it.
const BACKLOG: i32 = 4096;
/// How long a dead peer goes unnoticed at least.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long accepting rests when it fails: file descriptors come back as connections end.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// The longest head, and the read buffer of a connection. Tencent's heads are below 1 KiB.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// How many connections beyond the cap are told so at a time. Those beyond that are closed without a word.
pub(crate) const TURNED_AWAY_MAX: usize = 256;
/// How long a connection beyond the cap is kept for its answer: the sender waits no longer.
const TURN_AWAY_PATIENCE: Duration = Duration::from_secs(2);
/// How often slow connections are looked for: four times in the shortest timeout, within these.
const SWEEP_PERIOD_MIN: Duration = Duration::from_millis(20);
const SWEEP_PERIOD_MAX: Duration = Duration::from_millis(250);
/// How often it is logged at most that accepting fails: it is tried ten times a second.
const WARN_EVERY: Duration = Duration::from_secs(10);

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
pub(crate) struct ListenerSetup {
    pub(crate) service: Arc<Service>,
    pub(crate) preamble: Arc<Preamble>,
    pub(crate) limits: ConnectionLimits,
    /// Where connections are driven.
    pub(crate) workers: Vec<Handle>,
}

/// Serves until the process is in [`Phase::Closing`], and then until the last connection has ended.
pub(crate) async fn serve(listener: TcpListener, setup: ListenerSetup, lifecycle: Lifecycle) {
    let mut server = Server::new(setup);
    let mut closing = pin!(lifecycle.reached(Phase::Closing));
    let mut sweep = time::interval(server.sweep_period);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(()) = server.connections.join_next() => continue,
            _tick = sweep.tick() => {
                server.sweep();
                continue;
            }
            () = &mut closing => break,
        };
        match accepted {
            Ok((stream, peer)) => server.begin(stream, peer),
            Err(error) if is_of_one_connection(&error) => tracing::debug!(%error, "a connection ended before it began"),
            Err(error) => {
                server.service.intake.metrics.accept_errors.inc();
                if server.accept_log.permits(clock::monotonic()) {
                    tracing::warn!(%error, "connections cannot be accepted; they wait in the backlog");
                }
                time::sleep(ACCEPT_REST).await;
            }
        }
    }
    server.finish(listener).await;
}

/// Whether accepting failed because of the one that was accepted, and not for want of something that others want too.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::ConnectionAborted;
    use io::ErrorKind::ConnectionRefused;
    use io::ErrorKind::ConnectionReset;
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// What serves the connections of a listener.
struct Server {
    service: Arc<Service>,
    preamble: Arc<Preamble>,
    connections: Connections,
    farewells: Arc<Semaphore>,
    accept_log: Throttle,
    sweep_period: Duration,
    client_ca_version: u64,
}

impl Server {
    fn new(setup: ListenerSetup) -> Self {
        let ListenerSetup { service, preamble, limits, workers } = setup;
        let metrics = &service.intake.metrics;
        let shortest = limits.head_timeout.min(limits.write_timeout).min(limits.idle_timeout);
        Self {
            connections: Connections::new(
                limits,
                workers,
                clock::monotonic(),
                metrics.connections.clone(),
                metrics.connections_evicted.clone(),
            ),
            farewells: Arc::new(Semaphore::new(TURNED_AWAY_MAX)),
            accept_log: Throttle::new(WARN_EVERY),
            sweep_period: (shortest / 4).clamp(SWEEP_PERIOD_MIN, SWEEP_PERIOD_MAX),
            client_ca_version: preamble.client_ca_version(),
            service,
            preamble,
        }
    }

    /// Serves a connection, closes it where nobody from its network is served, or turns it away if there is no place.
    fn begin(&mut self, stream: TcpStream, peer: SocketAddr) {
        let metrics = &self.service.intake.metrics;
        let is_proxy = self.preamble.proxies.contain(peer.ip());
        if !is_proxy && self.service.senders.as_ref().is_some_and(|senders| !senders.allowed.contain(peer.ip())) {
            metrics.unopened_sender.inc();
            tracing::debug!(%peer, "connection from outside callbacks.senders and callbacks.proxies");
            return;
        }
        let now = clock::monotonic();
        let Some(place) = self.connections.place(peer.ip(), is_proxy, now) else {
            metrics.connections_refused.inc();
            // Whoever expects TLS could not read a response.
            if self.preamble.tls.is_none()
                && let Ok(farewell) = Arc::clone(&self.farewells).try_acquire_owned()
            {
                self.connections.spawn(async move {
                    turn_away(stream).await;
                    drop(farewell);
                });
            }
            return;
        };
        set_options(&stream);
        let (service, preamble) = (Arc::clone(&self.service), Arc::clone(&self.preamble));
        self.connections.begin(place, now, |progress| drive(stream, peer, preamble, service, progress));
    }

    fn sweep(&mut self) {
        let client_ca_version = self.preamble.client_ca_version();
        if self.client_ca_version != client_ca_version {
            self.client_ca_version = client_ca_version;
            self.connections.close_all_next();
        }
        self.connections.sweep(clock::monotonic(), None);
    }

    /// Takes no more connections, and serves those that are there to their end.
    async fn finish(mut self, listener: TcpListener) {
        // The kernel has connected these, and their senders may have sent: dropped with the listener, they would be lost.
        if let Ok(listener) = listener.into_std() {
            for (stream, peer) in (0..BACKLOG).map_while(|_nth| listener.accept().ok()) {
                let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                stream.into_iter().for_each(|stream| self.begin(stream, peer));
            }
        }
        time::sleep(LAST_ARRIVALS).await;
        let since = clock::monotonic();
        let mut sweep = time::interval(SWEEP_PERIOD_MIN);
        loop {
            tokio::select! {
                _tick = sweep.tick() => self.connections.sweep(clock::monotonic(), Some(since)),
                ended = self.connections.join_next() => {
                    if ended.is_none() {
                        return;
                    }
                }
            }
        }
    }
}

/// Serves one connection, on the runtime of the worker that polls it.
async fn drive(
    stream: TcpStream,
    peer: SocketAddr,
    preamble: Arc<Preamble>,
    service: Arc<Service>,
    progress: Progress,
) {
    let opened = match here(stream) {
        Ok(stream) => {
            progress.note_wait(arrival::waited(&stream));
            open(stream, peer, &preamble, &service).await
        }
        Err(error) => {
            tracing::debug!(%error, %peer, "connection not taken up");
            None
        }
    };
    let Some((stream, peer)) = opened else { return };
    if !progress.enter(ConnectionPhase::Silent) {
        return;
    }
    // Errors are the peer's: it broke off, was too slow, or does not speak HTTP.
    if let Err(error) = serve_connection(stream, peer, progress, Arc::clone(&service)).await {
        if error.is_parse() {
            service.intake.metrics.not_http.inc();
            if service.not_http_log.permits(clock::monotonic()) {
                let peer = peer.address;
                tracing::warn!(%error, %peer, "a request is not valid HTTP/1.1; if it was a callback, it is lost");
            }
        }
        tracing::debug!(%error, peer = %peer.address, "connection ended");
    }
}

/// Gives a socket to the runtime of this thread.
fn here(stream: TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(stream.into_std()?)
}

/// Brings a connection as far as HTTP.
async fn open(
    stream: TcpStream,
    address: SocketAddr,
    preamble: &Preamble,
    service: &Service,
) -> Option<(Stream, Peer)> {
    if !preamble.is_expected(address) {
        return Some((Stream::Plain(stream), Peer { address, is_proxy_itself: false }));
    }
    // Boxed: every connection's future would otherwise be larger by it, for as long as it lives.
    match Box::pin(preamble.read(stream, address)).await {
        Ok(opened) => Some(opened),
        Err(error) => {
            let metrics = &service.intake.metrics;
            match &error {
                PreambleError::ProxyHeader(_) => metrics.unopened_header.inc(),
                PreambleError::Tls(_) => metrics.unopened_tls.inc(),
                PreambleError::Timeout => metrics.unopened_late.inc(),
            }
            tracing::debug!(error = &error as &dyn std::error::Error, peer = %address, "connection did not open");
            None
        }
    }
}

fn serve_connection(
    stream: Stream,
    peer: Peer,
    progress: Progress,
    service: Arc<Service>,
) -> impl Future<Output = Result<(), hyper::Error>> {
    let io = TokioIo::new(Connection::new(stream, progress.clone()));
    // One for the connection: all connections would otherwise count references to the one service, from every thread.
    let service = Arc::new(ConnectionService { service, peer, progress });
    let service = service_fn(move |request| Arc::clone(&service).serve(request));
    http1::Builder::new()
        // The listener ends slow heads and idle connections.
        .header_read_timeout(None)
        .keep_alive(true)
        // Who closes behind a whole callback has sent it all the same.
        .half_close(true)
        .pipeline_flush(false)
        // An answer is short: to copy it behind its head costs less than to hand over both.
        .writev(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(io, service)
}

/// Sets what a connection needs. What cannot be set does not matter enough to turn the sender away.
fn set_options(stream: &TcpStream) {
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
