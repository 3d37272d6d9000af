//! The TLS configuration of the callback listener. It is built anew whenever one of its files changes.
//!
//! Sessions are not resumed: senders keep their connections open, and a session from before a change would bypass a new check of client
//! certificates.

pub(crate) mod certificate;
pub(crate) mod pem;

use std::ops::RangeInclusive;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::NoServerSessionStorage;
use rustls::server::VerifierBuilderError;
use rustls::server::WebPkiClientVerifier;

use self::certificate::INTEGER;
use self::certificate::OCTET_STRING;
use self::certificate::SEQUENCE;
use self::certificate::element;
use self::pem::BadPem;

/// The lengths of RSA keys that ring can sign with.
const RSA_BITS: RangeInclusive<usize> = 2048..=4096;

/// The contents of PEM files.
#[derive(Clone, Copy)]
pub(crate) struct Pems<'p> {
    /// The certificate of this server, and its intermediate certificates.
    pub(crate) certificate: &'p [u8],
    pub(crate) key: &'p [u8],
    /// If present, clients need a certificate that one of these CAs has issued.
    pub(crate) client_ca: Option<&'p [u8]>,
}

/// Why files cannot be used for TLS. Shows nothing of their contents.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadTls {
    /// The certificate file has no certificate, or an unreadable one.
    #[error("read the certificate: {0}")]
    Certificate(BadPem),
    /// The key file has no key, or an unreadable one.
    #[error("read the key: {0}")]
    Key(BadPem),
    /// The client CA file has no certificate, or an unreadable one.
    #[error("read the client CA certificates: {0}")]
    ClientCa(BadPem),
    /// A section labelled as a certificate is not one.
    #[error("use the client CA certificates: number {0} in the file is not X.509")]
    ClientRoot(usize),
    /// No verifier can be made of them.
    #[error("use the client CA certificates")]
    ClientCheck(#[source] VerifierBuilderError),
    /// ring cannot sign with an RSA key of this length.
    #[error("use the key: it is an RSA key of {0} bits; only 2048 to 4096 are supported")]
    KeyLength(usize),
    /// The key is damaged, or of an unsupported kind.
    #[error("use the key: it is damaged, or neither RSA, ECDSA on P-256 or P-384, nor Ed25519")]
    KeyKind,
    /// It is not a certificate although its label says so, or its version is not supported.
    #[error(
        "use the certificate: the first in the file is not X.509 of version 3; openssl x509 -req makes version 1 where it is given no \
         extensions"
    )]
    NotX509,
    /// They do not belong together: the key may belong to another certificate of the file.
    #[error("use the certificate with the key: the key is not that of the first certificate in the file")]
    Mismatch,
    /// Each is valid, but not both together.
    #[error("use the certificate with the key")]
    Pair(#[source] rustls::Error),
}

/// Builds a configuration, or says what is wrong with the files.
pub(crate) fn build(pems: Pems<'_>) -> Result<ServerConfig, BadTls> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(BadTls::Pair)?;
    let builder = match pems.client_ca {
        None => builder.with_no_client_auth(),
        Some(client_ca) => {
            let mut roots = RootCertStore::empty();
            for (index, certificate) in pem::certificates(client_ca).map_err(BadTls::ClientCa)?.into_iter().enumerate()
            {
                roots.add(certificate).map_err(|_error| BadTls::ClientRoot(index + 1))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
            builder.with_client_cert_verifier(verifier.map_err(BadTls::ClientCheck)?)
        }
    };
    let chain = pem::certificates(pems.certificate).map_err(BadTls::Certificate)?;
    let key = pem::key(pems.key).map_err(BadTls::Key)?;
    if provider.key_provider.load_private_key(key.clone_key()).is_err() {
        let wrong_length = rsa_bits(&key).filter(|bits| !RSA_BITS.contains(bits));
        return Err(wrong_length.map_or(BadTls::KeyKind, BadTls::KeyLength));
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls describes the others")]
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => BadTls::Mismatch,
        rustls::Error::InvalidCertificate(_) => BadTls::NotX509,
        other => BadTls::Pair(other),
    })?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The length of a key, if it is RSA. The structure begins with the version and the modulus; in PKCS #8 it follows the version and
/// algorithm.
fn rsa_bits(key: &PrivateKeyDer<'_>) -> Option<usize> {
    let pkcs1 = match key {
        PrivateKeyDer::Pkcs1(key) => key.secret_pkcs1_der(),
        PrivateKeyDer::Pkcs8(key) => {
            let (fields, _) = element(key.secret_pkcs8_der(), Some(SEQUENCE))?;
            let (_version, rest) = element(fields, Some(INTEGER))?;
            let (_algorithm, rest) = element(rest, Some(SEQUENCE))?;
            element(rest, Some(OCTET_STRING))?.0
        }
        PrivateKeyDer::Sec1(_) | _ => return None,
    };
    let (fields, _) = element(pkcs1, Some(SEQUENCE))?;
    let (_version, rest) = element(fields, Some(INTEGER))?;
    let (modulus, _) = element(rest, Some(INTEGER))?;
    let zeros: usize = modulus.iter().take_while(|byte| **byte == 0).count();
    let first = modulus.get(zeros)?;
    Some((modulus.len() - zeros) * 8 - first.leading_zeros() as usize)
}
