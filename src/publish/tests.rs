//! The pump against librdkafka's own cluster, which fails on demand. It drops no repeats of an idempotent producer, so what is claimed here
//! is at least once.

mod budget;
mod rejected;
mod retries;
mod waiting;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus::Registry;
use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::BaseConsumer;
use rdkafka::consumer::Consumer;
use rdkafka::message::Headers;
use rdkafka::message::OwnedMessage;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::RDKafkaApiKey;
use rdkafka::types::RDKafkaRespErr;

use crate::auth::Apps;
use crate::capture::Capture;
use crate::capture::CaptureOutcome;
use crate::capture::Raw;
use crate::clock;
use crate::clock::UnixMillis;
use crate::command::Command;
use crate::command::CommandSet;
use crate::intake::metrics::IntakeMetrics;
use crate::journal;
use crate::journal::Ack;
use crate::journal::Bounds;
use crate::journal::Journal;
use crate::journal::Shares;
use crate::ledger::Ledger;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::Phase;
use crate::normalise::Normaliser;
use crate::normalise::envelope::Mode;
use crate::publish::budget::BUDGET_BYTES;
use crate::publish::control::Control;
use crate::publish::kafka::UnstartedKafka;
use crate::publish::kafka::metrics::KafkaMetrics;
use crate::publish::metrics::PublishMetrics;
use crate::publish::outbox::Backoff;
use crate::publish::properties::Properties;
use crate::publish::pump::Pump;
use crate::publish::pump::PumpSetup;
use crate::publish::topics::Needs;
use crate::publish::topics::TopicsClient;
use crate::publish::topics::TopicsProgress;
use crate::record::Topics;
use crate::refusal::Reason;

const CHANGED: Command = Command::named("OfficialAccount.CallbackAfterOfficialAccountInfoChanged");
const DESTROYED: Command = Command::named("OfficialAccount.CallbackAfterOfficialAccountDestroyed");
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(50),
    max: Duration::from_secs(1),
    lost_producer_max: Duration::from_secs(1),
};
/// Longer than the tests that do not wait for it need.
const UNREPORTED_MAX: Duration = Duration::from_secs(3);
const MINUTE: Duration = Duration::from_secs(60);

/// A pump at work, and the cluster it works against.
struct Rig {
    cluster: MockCluster<'static, DefaultProducerContext>,
    apps: Arc<Apps>,
    topics: Arc<Topics>,
    journal: Journal,
    ledger: Ledger,
    registry: Registry,
    control: Arc<Control>,
    topics_client: TopicsClient,
    pump: JoinHandle<()>,
}

/// A record, as far as these tests look at it.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    number: u64,
    reason: Option<String>,
}

impl Rig {
    fn start(properties: &[(&str, &str)]) -> Self {
        Self::start_with(properties, BACKOFF)
    }

    fn start_with(properties: &[(&str, &str)], backoff: Backoff) -> Self {
        Self::start_within(BUDGET_BYTES, properties, backoff)
    }

    fn start_within(budget_bytes: usize, properties: &[(&str, &str)], backoff: Backoff) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        let apps = Arc::new(Apps::new([1]));
        let own = CommandSet::select([CHANGED.name(), DESTROYED.name()], |_any| true).unwrap();
        let topics = Arc::new(Topics::of_commands(["t"], &own));
        for name in topics.names() {
            cluster.create_topic(name, 1, 1).unwrap();
        }
        let (registry, ledger, control) = (Registry::new(), Ledger::default(), Arc::new(Control::default()));
        let metrics = PublishMetrics::register(&registry).unwrap();
        let kafka_metrics = KafkaMetrics::register(&registry).unwrap();
        let topic_full = IntakeMetrics::register(&registry).unwrap().topic_full;
        // Quick retries, inside librdkafka too.
        let quick = [("retry.backoff.ms", "10"), ("retry.backoff.max.ms", "50"), ("reconnect.backoff.ms", "10")];
        let configured: BTreeMap<String, String> =
            quick.iter().chain(properties).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let properties = Properties::new(Ack::Broker, &configured).with_bootstrap(cluster.bootstrap_servers());
        let kafka = UnstartedKafka::new(&properties, kafka_metrics).unwrap();
        let shares = Shares::new(Arc::clone(&topics), Arc::clone(&apps), topic_full);
        let bounds = Bounds { captures_max: 1000, bytes_max: 1 << 24, waiting_bytes_max: 0 };
        let (journal, backlog) = journal::in_memory(Ack::Memory, bounds, ledger.clone(), shares);
        journal.open();
        let normaliser = Normaliser::new(Arc::clone(&apps), Arc::clone(&topics), Mode::Structured);
        let (started, has_started) = mpsc::channel();
        let pump = {
            let (topics, control) = (Arc::clone(&topics), Arc::clone(&control));
            thread::spawn(move || {
                backlog.set_publisher(thread::current());
                let kafka = kafka.start(thread::current()).unwrap();
                started.send(TopicsClient::of(&kafka)).unwrap();
                let setup = PumpSetup {
                    backlog,
                    kafka,
                    normaliser,
                    topics,
                    metrics,
                    gather: Duration::ZERO,
                    backoff,
                    budget_bytes,
                    unreported_max: UNREPORTED_MAX,
                };
                Pump::new(setup).run(&control);
            })
        };
        let topics_client = has_started.recv().unwrap();
        Self { cluster, apps, topics, journal, ledger, registry, control, topics_client, pump }
    }

    /// Lets the pump begin. What was appended before goes out as one batch, if it fits.
    fn publish(&self) {
        self.control.publish(0..self.topics.names().len(), self.pump.thread());
    }

    /// The same for one topic only.
    fn publish_only(&self, command: Command) {
        let topic = self.topics.of(self.apps.iter().next().unwrap(), Some(command));
        self.control.publish([topic.index()], self.pump.thread());
    }

    /// Runs `test` while the topics are watched, as they are in callbridge.
    fn watched(&self, test: impl FnOnce()) {
        let needs =
            Needs { names: self.topics.names().to_vec(), commands: Vec::new(), creation: None, longest_record: None };
        let (client, control, stop) = (&self.topics_client, &self.control, &Lifecycle::new());
        thread::scope(|scope| {
            let watching = scope.spawn(move || client.watch(&needs, control, stop, |_told| {}));
            let outcome = panic::catch_unwind(AssertUnwindSafe(test));
            stop.enter(Phase::Stopped);
            watching.thread().unpark();
            outcome.unwrap_or_else(|panic| panic::resume_unwind(panic));
        });
    }

    fn topic(&self, command: Command) -> &str {
        self.topics.name(self.topics.of(self.apps.iter().next().unwrap(), Some(command)))
    }

    fn fail_produce(&self, errors: &[RDKafkaRespErr]) {
        self.cluster.request_errors(RDKafkaApiKey::Produce, errors);
    }

    fn append(&self, command: Command, number: u64) {
        self.append_body(command, &body(command, number));
    }

    fn append_body(&self, command: Command, body: &str) {
        self.append_received(command, body, clock::wall());
    }

    fn append_received(&self, command: Command, body: &str, received: UnixMillis) {
        let capture = Capture {
            received,
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            app: self.apps.iter().next().unwrap(),
            command: Some(command),
            raw: {
                let mut raw = Raw::begin(&format!("SdkAppid=1&CallbackCommand={}", command.name()), body.len());
                raw.push(body.as_bytes());
                raw
            },
            outcome: CaptureOutcome::Happened,
        };
        self.journal.offer(Box::new(capture), self.ledger.receive(Some(command)));
    }

    /// Closes the journal and waits until the pump has published all of it.
    fn finish(self) -> Finished {
        self.journal.close();
        wait_until("the pump ends", || self.pump.is_finished());
        self.pump.join().unwrap();
        Finished { cluster: self.cluster, topics: self.topics, ledger: self.ledger, registry: self.registry }
    }

    fn metric(&self, name: &str) -> f64 {
        metric(&self.registry, name)
    }
}

/// A pump that has ended.
struct Finished {
    cluster: MockCluster<'static, DefaultProducerContext>,
    topics: Arc<Topics>,
    ledger: Ledger,
    registry: Registry,
}

impl Finished {
    fn read(&self, command: Command) -> Vec<Read> {
        let app = Apps::new([1]).iter().next().unwrap();
        read(&self.cluster, self.topics.name(self.topics.of(app, Some(command))))
    }

    fn read_whole(&self, command: Command) -> Vec<OwnedMessage> {
        let app = Apps::new([1]).iter().next().unwrap();
        read_whole(&self.cluster, self.topics.name(self.topics.of(app, Some(command))))
    }

    fn read_rejected(&self) -> Vec<Read> {
        let app = Apps::new([1]).iter().next().unwrap();
        read(&self.cluster, self.topics.name(self.topics.dead_letters(app)))
    }

    fn metric(&self, name: &str) -> f64 {
        metric(&self.registry, name)
    }
}

/// The callback with that number.
fn body(command: Command, number: u64) -> String {
    let command = command.name();
    format!(r#"{{"CallbackCommand":"{command}","Official_Account":"a","Name":"{number}","EventTime":{number}}}"#)
}

/// All of a topic of one partition, in order, as far as most tests look at it.
fn read(cluster: &MockCluster<'_, DefaultProducerContext>, topic: &str) -> Vec<Read> {
    let of = |message: OwnedMessage| {
        let text = String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
        let number = text.split(r#""EventTime":"#).nth(1).unwrap().split('}').next().unwrap().parse().unwrap();
        let headers = message.headers().unwrap();
        let reason = headers.iter().find(|header| header.key == "callbridge-reason").and_then(|header| header.value);
        Read { number, reason: reason.map(|reason| String::from_utf8(reason.to_vec()).unwrap()) }
    };
    read_whole(cluster, topic).into_iter().map(of).collect()
}

/// All of a topic of one partition, in order.
fn read_whole(cluster: &MockCluster<'_, DefaultProducerContext>, topic: &str) -> Vec<OwnedMessage> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "reader")
        .set("fetch.wait.max.ms", "10")
        .create()
        .unwrap();
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&assignment).unwrap();
    let (_, end) = consumer.fetch_watermarks(topic, 0, MINUTE).unwrap();
    let mut records = Vec::new();
    let deadline = clock::monotonic() + MINUTE;
    while records.len() < usize::try_from(end).unwrap() {
        assert!(clock::monotonic() < deadline, "{} of {end} in {topic}", records.len());
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            records.push(message.unwrap().detach());
        }
    }
    records
}

/// The numbers, without repeats of what was there before.
fn firsts(records: &[Read]) -> Vec<u64> {
    let mut firsts: Vec<u64> = Vec::new();
    for record in records {
        if !firsts.contains(&record.number) {
            firsts.push(record.number);
        }
    }
    firsts
}

/// The sample `name`, or `name{label}`.
fn metric(registry: &Registry, name: &str) -> f64 {
    let (family, label) = name.split_once('{').unwrap_or((name, ""));
    let families = registry.gather();
    let family = families.iter().find(|found| found.name() == family).expect("a metric of that name");
    let wanted = label.trim_end_matches('}');
    let sample = family
        .get_metric()
        .iter()
        .find(|sample| wanted.is_empty() || sample.get_label().iter().any(|label| label.value() == wanted));
    let sample = sample.expect("a label of that value");
    sample.get_counter().get_value() + sample.get_gauge().get_value()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = clock::monotonic() + MINUTE;
    while !condition() {
        assert!(clock::monotonic() < deadline, "not within {MINUTE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// An event of a batch, with that number.
fn event(number: u64, name: &str) -> String {
    format!(r#"{{"To_Account":"a","PushID":"{name}","EventTime":{number}}}"#)
}
