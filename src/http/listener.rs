//! The listener: accepts, caps, serves, and stops in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use hyper_util::server::graceful::GracefulShutdown;
use socket2::Domain;
use socket2::Protocol;
use socket2::SockRef;
use socket2::Socket;
use socket2::TcpKeepalive;
use socket2::Type;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time;

use super::connection::Connection;
use super::connection::Patience;
use super::connection::Round;
use super::reply;
use super::service::Service;

/// Connections the kernel holds while none is accepted. `net.core.somaxconn` caps it.
const BACKLOG: i32 = 4096;
/// How long a dead peer goes unnoticed at least.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long accepting rests when it fails: file descriptors come back as connections end.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// The longest head, and the read buffer of a connection. Tencent's heads are below 1 KiB.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// How long an answer may wait for its reader.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// The listener's limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connections_max: usize,
    pub(crate) head_timeout: Duration,
    pub(crate) idle_timeout: Duration,
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

/// How a listener is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Go on.
    Serve,
    /// Take no more connections, end the idle ones, and finish the requests that are there.
    Finish,
}

/// Serves until ordered to finish, and then until the last connection has ended.
pub(crate) async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    limits: Limits,
    mut order: watch::Receiver<Order>,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next() => continue,
            _ordered = order.wait_for(|order| *order == Order::Finish) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                time::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            service.intake.metrics.connections_refused.inc();
            connections.spawn(turn_away(stream));
            continue;
        };
        prepare(&stream);
        let served = serve_connection(stream, peer, Arc::clone(&service), limits);
        let served = graceful.watch(served);
        let gauge = service.intake.metrics.connections.clone();
        connections.spawn(async move {
            gauge.inc();
            // Errors are the peer's: it broke off, was too slow, or does not speak HTTP.
            if let Err(error) = served.await {
                tracing::debug!(%error, %peer, "connection ended");
            }
            gauge.dec();
            drop(place);
        });
    }
    drop(listener);
    graceful.shutdown().await;
    while connections.join_next().await.is_some() {}
}

fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    service: Arc<Service>,
    limits: Limits,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> {
    let round = Round::default();
    let patience = Patience { head: limits.head_timeout, write: WRITE_PATIENCE };
    let io = Connection::new(stream, round.clone(), patience);
    let service = service_fn(move |request| {
        let (service, round) = (Arc::clone(&service), round.clone());
        async move {
            round.serve();
            let reply = service.serve(request, peer).await;
            round.rest();
            Ok::<_, std::convert::Infallible>(reply)
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        // hyper's timer runs from one answer to the end of the next head, so this is the idle time; `Connection` watches heads.
        .header_read_timeout(limits.idle_timeout)
        .keep_alive(true)
        .half_close(false)
        .pipeline_flush(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(io, service)
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
    // Two seconds is all the sender has; it may be gone already.
    let _told = time::timeout(Duration::from_secs(2), async {
        stream.write_all(&response).await?;
        stream.shutdown().await
    })
    .await;
}
