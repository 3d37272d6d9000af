//! Readiness and the phase of the process as metrics, updated at each scrape.

use prometheus::IntGauge;
use prometheus::IntGaugeVec;
use prometheus::Opts;
use prometheus::Registry;

use crate::lifecycle::Phase;
use crate::metrics;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct LifecycleMetrics {
    ready: IntGauge,
    phases: IntGaugeVec,
}

impl LifecycleMetrics {
    /// Registers every metric. Fails if `registry` already holds one of them.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let ready = metrics::gauge(registry, "callbridge_ready", "Whether /readyz would be 200: 1 or 0.")?;
        let phases =
            IntGaugeVec::new(Opts::new("callbridge_phase", "1 for the phase of the process, else 0."), &["phase"])?;
        registry.register(Box::new(phases.clone()))?;
        Ok(Self { ready, phases })
    }

    /// Sets every metric.
    pub(crate) fn set(&self, is_ready: bool, phase: Phase) {
        self.ready.set(is_ready.into());
        for each in Phase::ALL {
            self.phases.with_label_values(&[each.word()]).set((each == phase).into());
        }
    }
}
