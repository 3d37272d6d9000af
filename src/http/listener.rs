//! The listener: accepts connections, enforces their limits, serves them, and stops in order.

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
/// An idle connection whose peer is dead is probed after this time.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// The pause after a failed accept: file descriptors become free as connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The longest head, and the read buffer of a connection. Tencent's heads are below 1 KiB.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// The most connections beyond the cap that are answered with 503 at the same time. More are closed without a response.
pub(crate) const OVER_CAP_RESPONSES_MAX: usize = 256;
/// How long a connection beyond the cap is kept for its response: as long as the sender waits.
const OVER_CAP_TIMEOUT: Duration = Duration::from_secs(2);
/// The period of the sweep for slow connections: a quarter of the shortest timeout, within these bounds.
const SWEEP_PERIOD_MIN: Duration = Duration::from_millis(20);
const SWEEP_PERIOD_MAX: Duration = Duration::from_millis(250);
/// The shortest time between two log lines about failed accepts, which are retried ten times a second.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Binds a socket that can be turned into a listener on any runtime.
///
/// # Errors
///
/// The address is in use, or is not an address of this host.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the last connections of the old process to time out.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// What a listener needs.
#[derive(Debug)]
pub(crate) struct ListenerSetup {
    pub(crate) service: Arc<Service>,
    pub(crate) preamble: Arc<Preamble>,
    pub(crate) limits: ConnectionLimits,
    /// The runtimes that drive the connections.
    pub(crate) workers: Vec<Handle>,
}

/// Serves until the process reaches [`Phase::Closing`], and then until the last connection has ended.
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
            Err(error) if concerns_one_connection(&error) => {
                tracing::debug!(%error, "a connection ended before it was accepted");
            }
            Err(error) => {
                server.service.intake.metrics.accept_errors.inc();
                if server.accept_log.permits(clock::monotonic()) {
                    tracing::warn!(%error, "connections cannot be accepted and wait in the backlog");
                }
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    server.finish(listener).await;
}

/// Whether the error concerns only the connection that was being accepted, and no resource that all connections need.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::ConnectionAborted;
    use io::ErrorKind::ConnectionRefused;
    use io::ErrorKind::ConnectionReset;
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// The state of a running listener.
struct Server {
    service: Arc<Service>,
    preamble: Arc<Preamble>,
    connections: Connections,
    over_cap_responses: Arc<Semaphore>,
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
            over_cap_responses: Arc::new(Semaphore::new(OVER_CAP_RESPONSES_MAX)),
            accept_log: Throttle::new(WARN_EVERY),
            sweep_period: (shortest / 4).clamp(SWEEP_PERIOD_MIN, SWEEP_PERIOD_MAX),
            client_ca_version: preamble.client_ca_version(),
            service,
            preamble,
        }
    }

    /// Serves a connection; closes it if its network is not allowed; answers 503 if there is no slot for it.
    fn begin(&mut self, stream: TcpStream, peer: SocketAddr) {
        let metrics = &self.service.intake.metrics;
        let is_proxy = self.preamble.proxies.contain(peer.ip());
        if !is_proxy && self.service.senders.as_ref().is_some_and(|senders| !senders.allowed.contain(peer.ip())) {
            metrics.unopened_sender.inc();
            tracing::debug!(%peer, "connection from an address that is in neither callbacks.senders nor callbacks.proxies");
            return;
        }
        let now = clock::monotonic();
        let Some(slot) = self.connections.take_slot(peer.ip(), is_proxy, now) else {
            metrics.connections_refused.inc();
            // A client that expects TLS cannot read a plain response.
            if self.preamble.tls.is_none()
                && let Ok(permit) = Arc::clone(&self.over_cap_responses).try_acquire_owned()
            {
                self.connections.spawn(async move {
                    reject_over_cap(stream).await;
                    drop(permit);
                });
            }
            return;
        };
        set_options(&stream);
        let (service, preamble) = (Arc::clone(&self.service), Arc::clone(&self.preamble));
        self.connections.begin(slot, now, |progress| drive(stream, peer, preamble, service, progress));
    }

    fn sweep(&mut self) {
        let client_ca_version = self.preamble.client_ca_version();
        if self.client_ca_version != client_ca_version {
            self.client_ca_version = client_ca_version;
            self.connections.close_all_next();
        }
        self.connections.sweep(clock::monotonic(), None);
    }

    /// Accepts what is in the backlog, then nothing more, and serves all connections to their end.
    async fn finish(mut self, listener: TcpListener) {
        // The kernel has completed these handshakes, and the senders may have sent callbacks: closing the listener would lose them.
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
    let opened = match adopt(stream) {
        Ok(stream) => {
            progress.note_wait(arrival::waited(&stream));
            open(stream, peer, &preamble, &service).await
        }
        Err(error) => {
            tracing::debug!(%error, %peer, "connection cannot be registered with the runtime");
            None
        }
    };
    let Some((stream, peer)) = opened else { return };
    if !progress.enter(ConnectionPhase::Silent) {
        return;
    }
    // These errors are the peer's: it closed the connection, was too slow, or does not speak HTTP.
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

/// Registers a socket with the runtime of this thread.
fn adopt(stream: TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(stream.into_std()?)
}

/// Reads the preamble of a connection (PROXY header, TLS handshake), if one is expected.
async fn open(
    stream: TcpStream,
    address: SocketAddr,
    preamble: &Preamble,
    service: &Service,
) -> Option<(Stream, Peer)> {
    if !preamble.is_expected(address) {
        return Some((Stream::Plain(stream), Peer { address, is_proxy_itself: false }));
    }
    // Boxed: the future of every connection would otherwise hold its space for as long as the connection lives.
    match Box::pin(preamble.read(stream, address)).await {
        Ok(opened) => Some(opened),
        Err(error) => {
            let metrics = &service.intake.metrics;
            match &error {
                PreambleError::ProxyHeader(_) => metrics.unopened_header.inc(),
                PreambleError::Tls(_) => metrics.unopened_tls.inc(),
                PreambleError::Timeout => metrics.unopened_late.inc(),
            }
            tracing::debug!(error = &error as &dyn std::error::Error, peer = %address, "connection ended before HTTP");
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
    // One for each connection: a reference count shared by all connections would be written by every thread.
    let service = Arc::new(ConnectionService { service, peer, progress });
    let service = service_fn(move |request| Arc::clone(&service).serve(request));
    http1::Builder::new()
        // The sweep ends slow heads and idle connections.
        .header_read_timeout(None)
        .keep_alive(true)
        // A sender that closes its half behind a complete callback still gets its response.
        .half_close(true)
        .pipeline_flush(false)
        // A response is short: copying it behind its head costs less than a vectored write.
        .writev(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(io, service)
}

/// Sets the socket options. A failure does not matter enough to reject the sender.
fn set_options(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let set =
        stream.set_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE)));
    if let Err(error) = set {
        tracing::debug!(%error, "cannot set socket options");
    }
}

/// Answers a connection beyond the cap with 503.
async fn reject_over_cap(mut stream: TcpStream) {
    let response = reply::too_many_connections();
    // The peer may be gone already.
    let _sent = time::timeout(OVER_CAP_TIMEOUT, async {
        stream.write_all(&response).await?;
        stream.shutdown().await?;
        // Closing with unread data makes the kernel send a reset, and the peer may then lose the response.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    })
    .await;
}
