//! `callbridge check --live`: checks what the configuration needs of this machine and of Kafka.
//!
//! It changes nothing, but for a record to each dead-letter topic where it is asked for.

mod clock;
mod connection;
mod host;
pub(super) mod report;
mod signature;
mod topics;

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::cli::doctor::report::CheckReport;
use crate::cli::doctor::report::CheckSection;
use crate::cli::doctor::topics::BrokerClock;
use crate::clock::monotonic;
use crate::config::Config;

const NOT_ASKED: &str =
    "not tried: --write writes a record to each dead-letter topic, and tries the right to write to the others";

const HELD: &str = "not tried: with --wait nothing is written before all checks above succeed";

/// For all checks of Kafka: brokers that do not answer must not hold it up one after the other.
const KAFKA_LIMIT: Duration = Duration::from_secs(10);

/// For a client to end, after the limit of its request.
const END_MARGIN: Duration = Duration::from_millis(500);

const OUT_OF_TIME: &str = "not tried: the checks above took too long";

/// The sections that need Kafka, in order.
const OF_KAFKA: [&str; 5] = ["kafka", "topics", "blocklist topics", "write", "clock"];

/// Writing to the dead-letter topics: each gets one record, however often everything is checked.
pub(super) struct TrialWriting {
    /// Everything is checked again until nothing fails: nothing is written before.
    is_held: bool,
    /// The topics that have a record, each with the time of its broker, if that gave one.
    written: BTreeMap<String, Option<BrokerClock>>,
}

impl TrialWriting {
    pub(super) const fn new(is_held: bool) -> Self {
        Self { is_held, written: BTreeMap::new() }
    }
}

/// When checks must end.
#[derive(Debug, Clone, Copy)]
struct CheckDeadline(Instant);

impl CheckDeadline {
    fn after(limit: Duration) -> Self {
        Self(monotonic() + limit)
    }

    fn left(self) -> Duration {
        self.0.saturating_duration_since(monotonic())
    }
}

/// Adds all checks behind those of the configuration and its files.
pub(super) fn examine(config: &Config, writing: Option<&mut TrialWriting>, report: &mut CheckReport) {
    report.push(signature::samples(config));
    report.push(host::ports(config));
    report.push(host::journal(config));
    let [kafka, after_kafka @ ..] = OF_KAFKA;
    if config.embedded_broker {
        for title in OF_KAFKA {
            report.push(CheckSection::skipped(title, "not tried: the embedded broker ends with its process"));
        }
        return;
    }
    let deadline = CheckDeadline::after(KAFKA_LIMIT);
    let mut section = CheckSection::new(kafka);
    let answered = connection::kafka(config, &mut section, deadline);
    report.push(section);
    let Some((cluster, found)) = answered else {
        for title in after_kafka {
            report.push(CheckSection::skipped(title, "not tried: no broker answers"));
        }
        return;
    };
    let [topics, blocklists, write, clock] = after_kafka;
    let compared = topics::compare(config, &cluster, found, deadline);
    report.push(topics::callbacks(topics, config, &compared));
    report.push(topics::blocklists(blocklists, config, &compared));
    let is_clear = report.first_failure().is_none();
    let (section, broker_clocks) = match writing {
        None => (CheckSection::skipped(write, NOT_ASKED), Vec::new()),
        Some(writing) if writing.is_held && !is_clear => (CheckSection::skipped(write, HELD), Vec::new()),
        Some(_) if deadline.left().is_zero() => (CheckSection::skipped(write, OUT_OF_TIME), Vec::new()),
        Some(writing) => topics::write(write, &cluster, &compared, &mut writing.written),
    };
    report.push(section);
    report.push(if deadline.left().is_zero() {
        CheckSection::skipped(clock, OUT_OF_TIME)
    } else {
        clock::compare(clock, config, &cluster, &compared, &broker_clocks)
    });
}

/// Runs what may never end, such as a name resolution, on a thread that ends with the process.
pub(super) fn begin<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    // Where there is no thread, nothing is received.
    let _thread = thread::Builder::new().name("check".to_owned()).spawn(move || {
        // Nobody waits for it any more after a limit.
        let _ = sender.send(job());
    });
    receiver
}
