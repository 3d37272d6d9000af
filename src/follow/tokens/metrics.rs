//! The metrics of the token files.

use prometheus::IntCounter;
use prometheus::IntGauge;
use prometheus::Registry;

use crate::metrics;

/// The state of the token files. Clones share the same metrics.
#[derive(Debug, Clone)]
pub(crate) struct TokenMetrics {
    /// How often the tokens of an application were replaced.
    pub(crate) loads: IntCounter,
    /// Failures of files, each counted once and not at every poll.
    pub(crate) file_errors: IntCounter,
    /// Files that cannot be used now.
    pub(crate) files_failing: IntGauge,
}

impl TokenMetrics {
    /// Registers every metric. Fails if `registry` already holds one of them.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            loads: metrics::counter(registry, "callbridge_token_reloads_total", "Reloads of an application's tokens.")?,
            file_errors: metrics::counter(
                registry,
                "callbridge_token_file_errors_total",
                "Failures to load a token file: missing, unreadable or invalid.",
            )?,
            files_failing: metrics::gauge(
                registry,
                "callbridge_token_files_failing",
                "Token files that cannot be used; their last good tokens stay in force.",
            )?,
        })
    }
}
