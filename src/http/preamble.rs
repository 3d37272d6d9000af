//! What a connection may begin with before HTTP: a PROXY protocol header that names its client, and a TLS handshake.

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

use super::connection::Stream;
use super::proxy;
use super::service::Peer;

/// The TLS settings of the callback listener.
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    /// Counts the changes of the client CA certificates. Connections from before a change must end soon.
    pub(crate) client_ca_version: u64,
}

/// What connections must begin with.
#[derive(Debug, Clone)]
pub(crate) struct Preamble {
    /// Proxies: they have no cap per peer, and may connect even if only some senders are allowed.
    pub(crate) proxies: Networks,
    /// The proxies whose connections begin with a PROXY protocol header.
    pub(crate) header_from: Networks,
    /// `None`: no TLS.
    pub(crate) tls: Option<Arc<ArcSwap<Tls>>>,
    /// The longest time for the whole preamble.
    pub(crate) timeout: Duration,
}

/// Why a connection ended before HTTP.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreambleError {
    /// A proxy sent no PROXY protocol header, or an invalid one.
    #[error("read the PROXY protocol header")]
    ProxyHeader(#[source] io::Error),
    /// The handshake failed: no TLS, no common version or cipher suite, or no client certificate where one is required.
    #[error("TLS handshake")]
    Tls(#[source] io::Error),
    /// It took too long.
    #[error("timed out before HTTP")]
    Timeout,
}

impl Preamble {
    /// See [`Tls::client_ca_version`].
    pub(super) fn client_ca_version(&self) -> u64 {
        self.tls.as_ref().map_or(0, |tls| tls.load().client_ca_version)
    }

    /// Whether a connection of `peer` begins with anything but HTTP.
    pub(super) fn is_expected(&self, peer: SocketAddr) -> bool {
        self.tls.is_some() || self.header_from.contain(peer.ip())
    }

    /// Reads the preamble. Returns the connection and its client.
    ///
    /// # Errors
    ///
    /// The preamble is invalid or too slow. The connection must then be closed.
    pub(super) async fn read(&self, stream: TcpStream, peer: SocketAddr) -> Result<(Stream, Peer), PreambleError> {
        time::timeout(self.timeout, self.steps(stream, peer)).await.map_err(|_elapsed| PreambleError::Timeout)?
    }

    async fn steps(&self, mut stream: TcpStream, address: SocketAddr) -> Result<(Stream, Peer), PreambleError> {
        let mut peer = Peer { address, is_proxy_itself: false };
        if self.header_from.contain(address.ip()) {
            peer = match proxy::read(&mut stream).await.map_err(PreambleError::ProxyHeader)? {
                Some(address) => Peer { address, is_proxy_itself: false },
                None => Peer { address, is_proxy_itself: true },
            };
        }
        let Some(tls) = &self.tls else { return Ok((Stream::Plain(stream), peer)) };
        let config = Arc::clone(&tls.load().config);
        let stream = TlsAcceptor::from(config).accept(stream).await.map_err(PreambleError::Tls)?;
        Ok((Stream::Tls(Box::new(stream)), peer))
    }
}
