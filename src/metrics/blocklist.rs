//! The metrics of the blocklist and its files.

use prometheus::Gauge;
use prometheus::IntCounter;
use prometheus::IntGauge;
use prometheus::Registry;

/// How old the blocklist is, how large, and how its files fare. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct BlocklistMetrics {
    /// The generation of the list that decides.
    pub(crate) generation: IntGauge,
    /// How many rules it holds.
    pub(crate) rules: IntGauge,
    /// When it was loaded; 0 before the first.
    pub(crate) loaded_timestamp: Gauge,
    /// Failures of files, each counted once and not at every look.
    pub(crate) file_errors: IntCounter,
    /// Files that cannot be used now.
    pub(crate) files_failing: IntGauge,
}

impl BlocklistMetrics {
    /// Registers every metric. Fails if `registry` already holds one of them.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            generation: IntGauge::new(
                "callbridge_blocklist_generation",
                "Number of the blocklist in force in this process; each one loaded adds one.",
            )?,
            rules: IntGauge::new("callbridge_blocklist_rules", "Rules in the blocklist, expired ones included.")?,
            loaded_timestamp: Gauge::new(
                "callbridge_blocklist_loaded_timestamp_seconds",
                "When the blocklist was loaded, in seconds since the Unix epoch; 0 before the first.",
            )?,
            file_errors: IntCounter::new(
                "callbridge_blocklist_file_errors_total",
                "Failures to load a blocklist file: missing, unreadable or invalid.",
            )?,
            files_failing: IntGauge::new(
                "callbridge_blocklist_files_failing",
                "Blocklist files that cannot be used; their last good rules stay in force.",
            )?,
        };
        registry.register(Box::new(metrics.generation.clone()))?;
        registry.register(Box::new(metrics.rules.clone()))?;
        registry.register(Box::new(metrics.loaded_timestamp.clone()))?;
        registry.register(Box::new(metrics.file_errors.clone()))?;
        registry.register(Box::new(metrics.files_failing.clone()))?;
        Ok(metrics)
    }
}
