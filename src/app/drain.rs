//! `callbridge journal drain`: delivers the contents of a journal to Kafka, without a listener, and reports what it could not deliver.

use std::collections::BTreeMap;
use std::future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use prometheus::IntCounter;
use prometheus::Registry;
use tokio::time;

use crate::auth::Apps;
use crate::capture::Capture;
use crate::clock;
use crate::config::Config;
use crate::journal::Ack;
use crate::journal::Shares;
use crate::journal::codec;
use crate::journal::durable::Gauge;
use crate::journal::durable::JournalError;
use crate::journal::durable::OnDisk;
use crate::journal::inspect;
use crate::ledger::Ledger;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::Phase;
use crate::logging::LogWriter;
use crate::normalise::Normaliser;
use crate::normalise::part::Parts;
use crate::publish::control::Control;
use crate::publish::kafka::UnstartedKafka;
use crate::publish::properties::Properties;
use crate::publish::topics::Missing;
use crate::publish::topics::Needs;
use crate::publish::topics::TopicsProgress;
use crate::record::Topics;

use super::ServeError;
use super::build;
use super::build::Journaling;
use super::build::Publishing;
use super::metrics::Metrics;
use super::stop;
use super::stop::Signals;
use super::system;

/// It ends if Kafka has accepted nothing for this long.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// The period of reporting how much is left.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// How long the client may take to end.
const CLIENT_END: Duration = Duration::from_secs(5);
/// How long the disk may take to record deliveries.
const RECORD_END: Duration = Duration::from_secs(30);

/// The parts of a drain.
struct Drain {
    publishing: Publishing,
    journaling: Journaling,
    gauge: Gauge,
    needs: Needs,
    lifecycle: Lifecycle,
    ledger: Ledger,
    /// Why topics cannot be published to.
    missing: Arc<Mutex<Option<Missing>>>,
    sorter: Sorter,
}

/// Finds the topic of a capture.
struct Sorter {
    apps: Arc<Apps>,
    topics: Arc<Topics>,
    normaliser: Normaliser,
}

/// Delivers the journal of `config`. Returns whether it is empty now. Ends early at a signal, `limit` after the start, or when Kafka
/// accepts nothing any more.
///
/// # Errors
///
/// It could not start. Nothing was delivered.
pub(crate) fn drain(config: Config, limit: Option<Duration>, log: &LogWriter) -> Result<bool, ServeError> {
    let deadline = limit.map(|limit| clock::monotonic() + limit);
    let dir = config.journal.dir.clone();
    if !inspect::holds_log(&dir).map_err(ServeError::Journal)? {
        tracing::warn!(dir = %dir.display(), "the directory is empty: there is no journal to deliver");
        return Ok(true);
    }
    system::raise_descriptor_limit();
    // For signals and timers.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::system("the runtime"))?;
    let (reload, _reloads) = mpsc::sync_channel(1);
    let mut signals = {
        let _inside = runtime.enter();
        Signals::register(reload).map_err(ServeError::system("signal handling"))?
    };
    let building = build(move || Drain::build(&config))?;
    let Some(built) = runtime.block_on(signals.unless_stopped(building)) else { return Ok(false) };
    let built = built.map_err(|_ended| ServeError::system("the start")(io::ErrorKind::Other.into()))??;
    runtime.block_on(built.run(&dir, signals, deadline, log))
}

impl Drain {
    fn build(config: &Config) -> Result<Self, ServeError> {
        let (ledger, lifecycle) = (Ledger::default(), Lifecycle::new());
        let metrics = Metrics::register(&Registry::new(), &ledger).map_err(ServeError::Metrics)?;
        let apps = Arc::new(Apps::new(config.apps.iter().map(|app| app.sdk_app_id)));
        let topics = Arc::new(config.callback_topics());
        let properties = Properties::new(Ack::Journal, &config.kafka.properties);
        let kafka = UnstartedKafka::new(&properties, metrics.kafka).map_err(ServeError::Kafka)?;
        let shares = Shares::new(Arc::clone(&topics), Arc::clone(&apps), metrics.intake.topic_full);
        let opened = build::open_journal(config, &ledger, shares, &metrics.journal)?;
        let OnDisk { journal, backlog, committer, keeper, gauge, .. } = opened;
        // Nothing is added to the journal.
        journal.close();
        let normaliser = || build::normaliser(config, &apps, &topics);
        let publishing = Publishing {
            control: Arc::new(Control::default()),
            kafka,
            backlog,
            normaliser: normaliser(),
            topics: Arc::clone(&topics),
            metrics: metrics.publish,
            gather: build::GATHER,
            unreported_max: config.publish.unreported_max,
        };
        let (needs, missing) = (build::needs(config, &topics), Arc::default());
        let journaling = Journaling { committer, keeper, is_persistent: true };
        let sorter = Sorter { normaliser: normaliser(), apps, topics };
        Ok(Self { publishing, journaling, gauge, needs, lifecycle, ledger, missing, sorter })
    }

    async fn run(
        self,
        dir: &Path,
        mut signals: Signals,
        deadline: Option<Instant>,
        log: &LogWriter,
    ) -> Result<bool, ServeError> {
        let Self { publishing, journaling, gauge, needs, lifecycle, ledger, missing, sorter } = self;
        let mut committer_ended = super::start_journal(journaling, &lifecycle, log)?;
        let (mut pump, topics_client) = super::start_pump(publishing)?;
        let _watching = {
            let (control, thread) = (Arc::clone(&pump.control), pump.thread.clone());
            let (missing, lifecycle) = (Arc::clone(&missing), lifecycle.clone());
            super::spawn("topics", move || {
                let on_progress = |progress: TopicsProgress<'_>| match progress {
                    TopicsProgress::Missing(what) => {
                        tracing::warn!(missing = %what, "not publishing");
                        *missing.lock().unwrap_or_else(PoisonError::into_inner) = Some(what.clone());
                    }
                    TopicsProgress::OthersWork(there) | TopicsProgress::OthersDeliverable(there) => {
                        control.publish(there.iter().copied(), &thread);
                    }
                    TopicsProgress::Limit(smallest) => control.limit(smallest, &thread),
                    TopicsProgress::Complete => {
                        *missing.lock().unwrap_or_else(PoisonError::into_inner) = None;
                        control.publish(0..needs.names.len(), &thread);
                    }
                };
                topics_client.watch(&needs, &control, &lifecycle, on_progress);
            })?
        };
        let mut failures = tokio::select! {
            ended = &mut pump.ended => Some(ended.unwrap_or_default()),
            why = given_up(&pump.delivered, &mut signals, deadline) => {
                tracing::warn!(why, "ending before the journal is empty");
                None
            }
            () = show_progress(&gauge) => None,
        };
        let finish = async {
            lifecycle.begin_stop(clock::monotonic() + CLIENT_END);
            if failures.is_none() {
                pump.control.give_up_at(clock::monotonic(), &pump.thread);
                failures = stop::until(clock::monotonic() + CLIENT_END, &mut pump.ended).await.and_then(Result::ok);
            }
            lifecycle.enter(Phase::Recording);
            stop::until(clock::monotonic() + RECORD_END, &mut committer_ended).await.is_some()
        };
        let is_recorded = tokio::select! {
            is_recorded = finish => is_recorded,
            name = signals.next() => {
                tracing::warn!(signal = name, "ending at once");
                return Ok(false);
            }
        };
        if !is_recorded {
            tracing::warn!(
                "deliveries were not recorded in time; some callbacks are delivered again by the next drain"
            );
        }
        super::say(&ledger.read().to_string());
        let left = gauge.undelivered();
        if left == 0 {
            return is_empty_on_disk(dir).map(|is_empty| is_empty && is_recorded);
        }
        let missing = missing.lock().unwrap_or_else(PoisonError::into_inner).take();
        sorter.show(dir, &Reasons { missing, failures: failures.unwrap_or_default() }, left);
        Ok(false)
    }
}

/// Whether the next start would find nothing to deliver and nothing unreadable, so that the directory may be deleted.
fn is_empty_on_disk(dir: &Path) -> Result<bool, ServeError> {
    let left = inspect::left(dir).map_err(ServeError::Journal)?;
    for damage in &left.damage {
        tracing::error!(%damage, "captures of the journal cannot be read");
    }
    for name in &left.set_aside {
        tracing::error!(name, "a damaged segment is set aside in the journal's directory");
    }
    let captures = left.captures;
    if !left.is_nothing() && left.damage.is_empty() {
        tracing::error!(
            captures,
            "deliveries could not be recorded because the disk is full: these captures would be delivered again"
        );
    }
    let is_empty = left.is_nothing() && left.set_aside.is_empty();
    if is_empty {
        tracing::info!(dir = %dir.display(), "the journal is empty");
    } else {
        tracing::error!(captures, dir = %dir.display(), "the journal is not empty");
    }
    Ok(is_empty)
}

/// Waits until there is a reason to end early. Returns the reason.
async fn given_up(delivered: &IntCounter, signals: &mut Signals, deadline: Option<Instant>) -> String {
    let out_of_time = async {
        match deadline {
            Some(deadline) => time::sleep_until(deadline.into()).await,
            None => future::pending().await,
        }
    };
    tokio::select! {
        name = signals.next() => name.to_owned(),
        () = out_of_time => "the time limit of --seconds has passed".to_owned(),
        () = stop::stands_still(delivered, STALL_LIMIT) => {
            format!("kafka has accepted nothing for {} s", STALL_LIMIT.as_secs())
        }
    }
}

/// Reports how much is left, forever.
async fn show_progress(gauge: &Gauge) {
    let mut last = None;
    loop {
        let left = gauge.undelivered();
        if last.replace(left) != Some(left) {
            tracing::info!(left, "delivering the journal");
        }
        time::sleep(PROGRESS_EVERY).await;
    }
}

/// Why captures were not delivered.
struct Reasons {
    missing: Option<Missing>,
    /// The last error of each topic, by index.
    failures: Vec<Option<String>>,
}

impl Reasons {
    fn of(&self, topic: usize, name: &str) -> String {
        let failure = self.failures.get(topic).cloned().flatten();
        let missing = || self.missing.as_ref().and_then(|missing| missing.of_topic(name));
        failure.or_else(missing).unwrap_or_else(|| "kafka has not confirmed them".to_owned())
    }
}

impl Sorter {
    /// Logs how many captures of each topic are left, and why.
    fn show(&self, dir: &Path, reasons: &Reasons, left: u64) {
        let mut of_topics: BTreeMap<usize, u64> = BTreeMap::new();
        let mut held: BTreeMap<String, u64> = BTreeMap::new();
        let counted = inspect::each_capture(dir, |capture| {
            if !capture.is_delivered {
                match codec::decode(capture.bytes, &self.apps) {
                    Ok(capture) => *of_topics.entry(self.topic_of(&capture)).or_default() += 1,
                    Err(error) => *held.entry(error.to_string()).or_default() += 1,
                }
            }
            Ok::<(), JournalError>(())
        });
        if let Err(error) = counted {
            tracing::error!(%error, "the remaining captures cannot be read");
        }
        for (topic, captures) in of_topics {
            let name = self.topics.names().get(topic).map_or("", String::as_str);
            tracing::error!(topic = name, captures, why = reasons.of(topic, name), "not delivered");
        }
        for (why, captures) in held {
            tracing::error!(captures, why, "not delivered");
        }
        tracing::error!(left, dir = %dir.display(), "the journal is not empty");
    }

    fn topic_of(&self, capture: &Capture) -> usize {
        let topic = if Parts::of(capture).is_batch() {
            self.topics.of(capture.app, capture.command)
        } else {
            self.normaliser.record(capture).topic
        };
        topic.index()
    }
}
