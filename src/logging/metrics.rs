//! The metrics of the log.

use prometheus::IntCounter;
use prometheus::Registry;

/// See the [module](self). Clones share the same metrics.
#[derive(Debug, Clone)]
pub(crate) struct LogMetrics {
    /// Lines that did not reach stderr.
    pub(crate) lines_dropped: IntCounter,
}

impl LogMetrics {
    /// Metrics that are not registered yet.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            lines_dropped: IntCounter::new(
                "callbridge_log_lines_dropped_total",
                "Log lines dropped, because stderr was not read fast enough or could not be written.",
            )?,
        })
    }

    /// Registers every metric. Fails if `registry` already holds one of them.
    pub(crate) fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.lines_dropped.clone()))
    }
}
