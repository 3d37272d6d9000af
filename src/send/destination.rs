//! The destination of callbacks: the parts of a URL, its addresses, and TLS.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use hyper::Uri;
use rustls::ClientConfig;
use rustls::DigitallySignedStruct;
use rustls::RootCertStore;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::http::tls::pem;
use crate::http::tls::pem::BadPem;

/// The files with the system's CA certificates on Debian and Red Hat.
const SYSTEM_ROOTS: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// A connection over TCP or TLS.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<W: AsyncRead + AsyncWrite + Send + Unpin> Wire for W {}

/// The trusted certificates of servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerTrust {
    /// Those issued by the CAs in this PEM file; without one, by those of the system.
    Authorities(Option<PathBuf>),
    /// All.
    Any,
}

/// Where to connect, and the beginning of every request.
#[derive(Clone)]
pub struct Destination {
    host: String,
    target: String,
    addresses: Vec<SocketAddr>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// Why a URL is not allowed.
#[derive(Debug, thiserror::Error)]
pub enum BadDestination {
    /// It is not an HTTP URL.
    #[error("must be like http://127.0.0.1:8080/ or https://HOST/PATH")]
    Url,
    /// Its host has no address.
    #[error("the address of {0:?} cannot be found")]
    Resolve(String, #[source] io::Error),
    /// It may be somebody else's server.
    #[error("{host} is not on this machine ({address}): give --yes-to {host} if callbacks may be sent there")]
    Foreign {
        /// The host of the URL.
        host: String,
        /// The first address that is not loopback.
        address: IpAddr,
    },
    /// Without verification, a man in the middle could read and change the traffic.
    #[error("--insecure is for servers on this machine only; give --ca FILE")]
    Insecure,
    /// The CA certificates cannot be read.
    #[error("read {}", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// They are not certificates.
    #[error("{}", .0.display())]
    Pem(PathBuf, #[source] BadPemFile),
    /// The system has no CA certificates.
    #[error("this system has no certificates of authorities at {}; give --ca FILE", SYSTEM_ROOTS.join(" or "))]
    NoRoots,
    /// TLS cannot be set up.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
}

/// The reason why a file has no certificates.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadPemFile(String);

impl From<BadPem> for BadPemFile {
    fn from(bad: BadPem) -> Self {
        Self(bad.to_string())
    }
}

impl Destination {
    /// Resolves the host of a URL, without connecting. Addresses other than loopback are refused unless `allowed` is the host.
    ///
    /// # Errors
    ///
    /// The URL is invalid, has no address, is on another machine, or the certificates cannot be used.
    pub fn resolve(url: &str, allowed: Option<&str>, trust: &ServerTrust) -> Result<Self, BadDestination> {
        let uri: Uri = url.parse().map_err(|_invalid| BadDestination::Url)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(BadDestination::Url);
        };
        let default_port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return Err(BadDestination::Url),
        };
        let host = authority.host().trim_matches(['[', ']']);
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(BadDestination::Url);
        }
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => default_port,
            _port => authority.port_u16().ok_or(BadDestination::Url)?,
        };
        let resolve = |error| BadDestination::Resolve(host.to_owned(), error);
        let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(resolve)?.collect();
        let foreign = addresses.iter().map(SocketAddr::ip).find(|address| !address.to_canonical().is_loopback());
        if let Some(address) = foreign {
            if !allowed.is_some_and(|allowed| allowed.eq_ignore_ascii_case(host)) {
                return Err(BadDestination::Foreign { host: host.to_owned(), address });
            }
            if *trust == ServerTrust::Any {
                return Err(BadDestination::Insecure);
            }
        }
        let tls = (scheme == "https").then(|| tls(host, trust)).transpose()?;
        let target = match uri.query() {
            Some(query) => format!("{}?{query}&", uri.path()),
            None => format!("{}?", uri.path()),
        };
        Ok(Self { host: authority.to_string(), target, addresses, tls })
    }

    /// The root of a server over HTTP.
    pub fn of_address(address: SocketAddr) -> Self {
        Self { host: address.to_string(), target: "/?".to_owned(), addresses: vec![address], tls: None }
    }

    /// The value of `Host`.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Path and query, without the parameters of a callback.
    pub(super) fn target(&self) -> &str {
        &self.target
    }

    pub(super) async fn connect(&self) -> io::Result<Box<dyn Wire>> {
        let stream = TcpStream::connect(self.addresses.as_slice()).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some((connector, name)) => Ok(Box::new(connector.connect(name.clone(), stream).await?)),
        }
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the target: its path may be a secret.
        formatter.debug_struct("Destination").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

fn tls(host: &str, trust: &ServerTrust) -> Result<(TlsConnector, ServerName<'static>), BadDestination> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(BadDestination::Tls)?;
    let mut config = match trust {
        ServerTrust::Any => {
            let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)));
            builder.with_no_client_auth()
        }
        ServerTrust::Authorities(file) => builder.with_root_certificates(roots(file.as_deref())?).with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.to_owned()).map_err(|_invalid| BadDestination::Url)?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, BadDestination> {
    let of_system = || SYSTEM_ROOTS.into_iter().map(Path::new).find(|path| path.exists());
    let file = file.or_else(of_system).ok_or(BadDestination::NoRoots)?;
    let bytes = fs::read(file).map_err(|error| BadDestination::Unreadable(file.to_owned(), error))?;
    let certificates = pem::certificates(&bytes).map_err(|bad| BadDestination::Pem(file.to_owned(), bad.into()))?;
    let mut roots = RootCertStore::empty();
    // The system may have certificates of kinds that are not supported.
    roots.add_parsable_certificates(certificates);
    Ok(roots)
}

/// Accepts every certificate. The traffic is still encrypted.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
