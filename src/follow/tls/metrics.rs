//! The metrics of TLS and its files.

use prometheus::Gauge;
use prometheus::IntCounter;
use prometheus::IntGauge;
use prometheus::Registry;

use crate::metrics;

/// The expiry of the certificate, and the state of the TLS files. Clones share the same metrics.
#[derive(Debug, Clone)]
pub(crate) struct TlsMetrics {
    /// When the certificate in force expires; 0 without TLS.
    pub(crate) expires: Gauge,
    /// How often the TLS files were reloaded.
    pub(crate) loads: IntCounter,
    /// Failures, each counted once and not at every poll.
    pub(crate) file_errors: IntCounter,
    /// Whether the files cannot be used now.
    pub(crate) failing: IntGauge,
}

impl TlsMetrics {
    /// Registers every metric. Fails if `registry` already holds one of them.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            expires: metrics::float_gauge(
                registry,
                "callbridge_tls_certificate_expires_timestamp_seconds",
                "When the certificate in force ends, in seconds since the Unix epoch; 0 without TLS.",
            )?,
            loads: metrics::counter(registry, "callbridge_tls_reloads_total", "Reloads of the TLS files.")?,
            file_errors: metrics::counter(
                registry,
                "callbridge_tls_file_errors_total",
                "Failures to load the TLS files: missing, unreadable, invalid, or not a pair.",
            )?,
            failing: metrics::gauge(
                registry,
                "callbridge_tls_files_failing",
                "1 while the TLS files cannot be used; the last good ones stay in force.",
            )?,
        })
    }
}
