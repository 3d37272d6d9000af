//! The version of the running build.

use prometheus::IntGauge;
use prometheus::Opts;
use prometheus::Registry;

/// The version of callbridge.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit of the sources: 12 hex digits, or `unknown`.
pub(crate) const COMMIT: &str = env!("SHOWN_COMMIT");

/// Registers the metric of the running build. Its value is always 1.
pub(crate) fn register(registry: &Registry, librdkafka: &str) -> Result<(), prometheus::Error> {
    let opts = Opts::new("callbridge_build_info", "The version, commit and Kafka client of this process. Always 1.")
        .const_label("version", VERSION)
        .const_label("commit", COMMIT)
        .const_label("librdkafka", librdkafka);
    let info = IntGauge::with_opts(opts)?;
    info.set(1);
    registry.register(Box::new(info))
}
