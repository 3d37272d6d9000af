//! The TLS files: loads them at the start, and builds a new configuration from all of them whenever one has changed.
//!
//! Existing connections keep the configuration with which they began.

pub(crate) mod metrics;

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use serde::Deserialize;

use crate::clock;
use crate::follow::ATTEMPTS;
use crate::follow::Reloaded;
use crate::follow::file::Content;
use crate::follow::file::FileError;
use crate::follow::file::FollowedFile;
use crate::follow::file::PollResult;
use crate::follow::file::read;
use crate::follow::file::read_small;
use crate::follow::tls::metrics::TlsMetrics;
use crate::http::preamble::Tls;
use crate::http::tls;
use crate::http::tls::BadTls;
use crate::http::tls::Pems;
use crate::http::tls::certificate::Validity;

/// How long files may be inconsistent: certificate and key are replaced one after the other.
const PAIRING: Duration = Duration::from_secs(2);

/// The largest file.
const PEM_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The paths of the files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsPaths {
    #[serde(rename = "certificate_file")]
    pub(crate) certificate: PathBuf,
    #[serde(rename = "key_file")]
    pub(crate) key: PathBuf,
    #[serde(rename = "client_ca_file")]
    pub(crate) client_ca: Option<PathBuf>,
}

/// Why TLS cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsFilesError {
    /// A file cannot be read.
    #[error("{}", .0.display())]
    File(PathBuf, #[source] FileError<Infallible>),
    /// The files were read, but cannot be used, at least not together.
    #[error(transparent)]
    Bad(#[from] BadTls),
}

/// A PEM file. Shows nothing of its contents: it may be the key.
pub(crate) struct Pem(Vec<u8>);

impl fmt::Debug for Pem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.0.len())
    }
}

impl Content for Pem {
    const KIND: &'static str = "tls";
    type Invalid = Infallible;

    fn read(file: File) -> Result<Self, FileError<Infallible>> {
        read_small(file, PEM_BYTES_MAX).map(Self)
    }
}

/// Reads the files once, without following them. Returns the validity of the certificate, if it states one.
pub(crate) fn load(paths: &TlsPaths) -> Result<Option<Validity>, TlsFilesError> {
    let pem = |path: &Path| read::<Pem>(path).map_err(|error| TlsFilesError::File(path.to_owned(), error));
    let (certificate, key) = (pem(&paths.certificate)?, pem(&paths.key)?);
    let client_ca = paths.client_ca.as_deref().map(pem).transpose()?;
    let client_ca = client_ca.as_ref().map(|pem| pem.0.as_slice());
    tls::build(Pems { certificate: &certificate.0, key: &key.0, client_ca })?;
    Ok(Validity::of_pem(&certificate.0))
}

/// The TLS files, followed. Only this changes the configuration.
#[derive(Debug)]
pub(crate) struct TlsFiles {
    held: PemFiles,
    in_force: Arc<ArcSwap<Tls>>,
    /// The client CA certificates in force.
    client_ca: Vec<u8>,
    /// Since when the contents of the files are not in force.
    changed: Option<Instant>,
    /// Whether the contents of the files cannot be used together.
    is_bad: bool,
    metrics: TlsMetrics,
}

#[derive(Debug)]
struct PemFiles {
    certificate: FollowedFile<Pem>,
    key: FollowedFile<Pem>,
    client_ca: Option<FollowedFile<Pem>>,
}

impl TlsFiles {
    /// Reads the files for the first time.
    ///
    /// # Errors
    ///
    /// A file cannot be used, so the listener cannot serve.
    pub(crate) fn start(paths: &TlsPaths, metrics: TlsMetrics) -> Result<Self, TlsFilesError> {
        // Reports errors by file, before any is followed.
        load(paths)?;
        let now = clock::monotonic();
        let follow = |path: &PathBuf| {
            let mut file = FollowedFile::new(path.clone());
            (0..ATTEMPTS).find(|_nth| file.load(now) != PollResult::Same);
            file
        };
        let held = PemFiles {
            certificate: follow(&paths.certificate),
            key: follow(&paths.key),
            client_ca: paths.client_ca.as_ref().map(follow),
        };
        let config = Arc::new(held.build()?);
        let in_force = Arc::new(ArcSwap::from_pointee(Tls { config, client_ca_version: 0 }));
        let client_ca = held.client_ca().to_vec();
        metrics.expires.set(held.expires());
        held.warn_if_invalid();
        Ok(Self { held, in_force, client_ca, changed: None, is_bad: false, metrics })
    }

    /// The current configuration, which is replaced when files change.
    pub(crate) fn in_force(&self) -> Arc<ArcSwap<Tls>> {
        Arc::clone(&self.in_force)
    }

    /// Polls every file once. Builds a new configuration if one has changed and all are consistent.
    pub(crate) fn poll(&mut self, now: Instant) {
        self.update(now, |file| file.poll(now));
        if let Some(changed) = self.changed {
            // The error has been logged.
            let _unused = self.renew(now.saturating_duration_since(changed) < PAIRING);
        }
        self.update_failing();
    }

    /// Reads every file, and builds a new configuration if all are consistent now.
    pub(crate) fn reload(&mut self, now: Instant, reloaded: &mut Reloaded) {
        self.update(now, |file| file.reload(now, reloaded));
        if self.changed.is_some()
            && let Err(error) = self.renew(false)
        {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            reloaded.failed.insert(format!("callbacks.tls: {error}{cause}"));
        }
        self.update_failing();
    }

    fn update(&mut self, now: Instant, mut read: impl FnMut(&mut FollowedFile<Pem>) -> PollResult) {
        for file in self.held.files() {
            match read(file) {
                PollResult::Same => {}
                PollResult::Loaded => self.changed = Some(now),
                PollResult::Failed => self.metrics.file_errors.inc(),
            }
        }
    }

    fn update_failing(&mut self) {
        let is_failing = self.is_bad || self.held.files().any(|file| file.failure().is_some());
        self.metrics.failing.set(i64::from(is_failing));
    }

    /// Inconsistent files are tolerated while `may_pair`: the other file of a pair may follow.
    fn renew(&mut self, may_pair: bool) -> Result<(), BadTls> {
        match self.held.build() {
            Ok(config) => {
                let has_changed = self.held.client_ca() != self.client_ca;
                if has_changed {
                    self.client_ca = self.held.client_ca().to_vec();
                }
                let client_ca_version = self.in_force.load().client_ca_version + u64::from(has_changed);
                self.in_force.store(Arc::new(Tls { config: Arc::new(config), client_ca_version }));
                self.changed = None;
                self.is_bad = false;
                self.metrics.loads.inc();
                self.metrics.expires.set(self.held.expires());
                tracing::info!("tls files loaded");
                self.held.warn_if_invalid();
                Ok(())
            }
            Err(_not_yet) if may_pair => Ok(()),
            Err(error) => {
                self.changed = None;
                self.is_bad = true;
                self.metrics.file_errors.inc();
                let shown = &error as &dyn Error;
                tracing::error!(error = shown, "tls files cannot be used; the last good ones stay in force");
                Err(error)
            }
        }
    }
}

impl PemFiles {
    fn files(&mut self) -> impl Iterator<Item = &mut FollowedFile<Pem>> {
        [Some(&mut self.certificate), Some(&mut self.key), self.client_ca.as_mut()].into_iter().flatten()
    }

    fn build(&self) -> Result<ServerConfig, BadTls> {
        tls::build(Pems {
            certificate: bytes(&self.certificate),
            key: bytes(&self.key),
            client_ca: self.client_ca.as_ref().map(bytes),
        })
    }

    /// Empty if there is none.
    fn client_ca(&self) -> &[u8] {
        self.client_ca.as_ref().map_or(&[], bytes)
    }

    fn validity(&self) -> Option<Validity> {
        Validity::of_pem(bytes(&self.certificate))
    }

    fn warn_if_invalid(&self) {
        if let Some(invalid) = self.validity().and_then(|validity| validity.invalid(clock::wall())) {
            tracing::warn!(%invalid, "clients will refuse the certificate");
        }
    }

    /// When the certificate expires; 0 if it does not say.
    fn expires(&self) -> f64 {
        let seconds = self.validity().map_or(0, Validity::until);
        // A useful time fits.
        i32::try_from(seconds).map_or_else(|_far| f64::from(u32::try_from(seconds).unwrap_or(u32::MAX)), f64::from)
    }
}

/// The last readable contents of a file.
fn bytes(file: &FollowedFile<Pem>) -> &[u8] {
    file.last_good().map_or(&[], |pem| &pem.0)
}
