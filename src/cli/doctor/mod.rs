//! `callbridge check --live`: checks what the configuration needs of this machine and of Kafka.
//!
//! It changes nothing, but for a record to each dead-letter topic where it is asked for.

mod brokers;
mod host;
pub(super) mod report;

use crate::cli::doctor::report::CheckReport;
use crate::cli::doctor::report::CheckSection;
use crate::config::Config;

/// Adds all checks behind those of the configuration and its files.
pub(super) fn examine(config: &Config, is_to_write: bool, report: &mut CheckReport) {
    report.push(host::ports(config));
    report.push(host::journal(config));
    let mut kafka = CheckSection::new("kafka");
    if config.embedded_broker {
        kafka.skip("not checked: the embedded broker ends with its process");
        return report.push(kafka);
    }
    let answered = brokers::kafka(config, &mut kafka);
    report.push(kafka);
    if let Some((cluster, mut found)) = answered {
        report.push(brokers::topics(config, &cluster, &mut found));
        report.push(brokers::blocklists(config));
        report.push(brokers::write(config, &cluster, is_to_write));
    }
}
