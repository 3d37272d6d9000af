//! What comes on a connection before HTTP: a header of the PROXY protocol that says whose it is, and a TLS handshake.

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

/// What TLS on the callback listener runs on.
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    /// Counts the changes of the authorities of clients' certificates. A connection from before a change must not outlive it for long.
    pub(crate) client_ca_version: u64,
}

/// What a connection must begin with.
#[derive(Debug, Clone)]
pub(crate) struct Preamble {
    /// Proxies: they are not held to the cap of one peer, and may connect also where only some senders may.
    pub(crate) proxies: Networks,
    /// Those of them whose connections begin with a header of the PROXY protocol.
    pub(crate) header_from: Networks,
    /// `None`: there is no TLS.
    pub(crate) tls: Option<Arc<ArcSwap<Tls>>>,
    /// How long all of it may take.
    pub(crate) timeout: Duration,
}

/// Why a connection got no further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreambleError {
    /// A proxy sent no header of the PROXY protocol, or one that cannot be read.
    #[error("read the header of the PROXY protocol")]
    ProxyHeader(#[source] io::Error),
    /// The handshake failed: no TLS, none that both sides speak, or no certificate of a client where one is asked for.
    #[error("TLS handshake")]
    Tls(#[source] io::Error),
    /// It took too long.
    #[error("timed out before HTTP")]
    Timeout,
}

impl Preamble {
    /// See [`Tls`].
    pub(super) fn client_ca_version(&self) -> u64 {
        self.tls.as_ref().map_or(0, |tls| tls.load().client_ca_version)
    }

    /// Whether a connection of `peer` begins with anything but HTTP.
    pub(super) fn is_expected(&self, peer: SocketAddr) -> bool {
        self.tls.is_some() || self.header_from.contain(peer.ip())
    }

    /// Reads what comes before HTTP. Returns the connection with whose it is.
    ///
    /// # Errors
    ///
    /// Something else came, or nothing in time. The connection is of no use then.
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
