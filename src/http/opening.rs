//! What happens on a connection before HTTP: a proxy says whose it is, and TLS is agreed on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time;
use tokio_rustls::TlsAcceptor;

use crate::sender::Networks;

use super::proxy;
use super::stream::Stream;

/// What a connection must begin with.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    /// Proxies, which are not held to the cap of one peer.
    pub(crate) proxies: Networks,
    /// Those of them whose connections begin with a header of the PROXY protocol.
    pub(crate) header_from: Networks,
    /// What TLS runs on; `None`: there is none.
    pub(crate) tls: Option<Arc<ArcSwap<ServerConfig>>>,
    /// How long all of it may take.
    pub(crate) patience: Duration,
}

/// Why a connection got no further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpeningError {
    /// A proxy sent no header of the PROXY protocol, or one that cannot be read.
    #[error("read the header of the PROXY protocol")]
    ProxyHeader(#[source] io::Error),
    /// The handshake failed: no TLS, none that both sides speak, or no certificate of a client where one is asked for.
    #[error("shake hands")]
    Tls(#[source] io::Error),
    /// It took too long.
    #[error("the connection did not open in time")]
    Late,
}

impl Opening {
    /// Whether a connection of `peer` begins with anything but HTTP.
    pub(super) fn is_awaited(&self, peer: SocketAddr) -> bool {
        self.tls.is_some() || self.header_from.contain(peer.ip())
    }

    /// Takes what comes before HTTP. Returns the connection with whose it is.
    ///
    /// # Errors
    ///
    /// Something else came, or nothing in time. The connection is of no use then.
    pub(super) async fn open(&self, stream: TcpStream, peer: SocketAddr) -> Result<(Stream, SocketAddr), OpeningError> {
        time::timeout(self.patience, self.steps(stream, peer)).await.map_err(|_elapsed| OpeningError::Late)?
    }

    async fn steps(&self, mut stream: TcpStream, mut peer: SocketAddr) -> Result<(Stream, SocketAddr), OpeningError> {
        if self.header_from.contain(peer.ip()) {
            // A proxy that speaks for itself stays the peer.
            peer = proxy::read(&mut stream).await.map_err(OpeningError::ProxyHeader)?.unwrap_or(peer);
        }
        let Some(tls) = &self.tls else { return Ok((Stream::Plain(stream), peer)) };
        let stream = TlsAcceptor::from(tls.load_full()).accept(stream).await.map_err(OpeningError::Tls)?;
        Ok((Stream::Tls(Box::new(stream)), peer))
    }
}
