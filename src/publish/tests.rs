//! The pump against librdkafka's own cluster, which fails on demand. It drops no repeats of an idempotent producer, so what is claimed here
//! is at least once.

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
        let needs = Needs { names: self.topics.names().to_vec(), creation: None, longest_record: None };
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

#[test]
fn an_error_that_may_pass_costs_nothing_and_moves_nothing() {
    use RDKafkaRespErr as E;
    for error in [
        E::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        E::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        E::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        E::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        E::RD_KAFKA_RESP_ERR__TRANSPORT,
    ] {
        // Small batches, so that there are records behind the one that fails.
        let rig = Rig::start(&[("batch.num.messages", "10")]);
        (0..100).for_each(|number| rig.append(CHANGED, number));
        rig.fail_produce(&[error, error]);
        rig.publish();
        wait_until("all are delivered", || rig.ledger.read().delivered == 100);
        (100..120).for_each(|number| rig.append(CHANGED, number));
        let finished = rig.finish();
        assert_eq!(firsts(&finished.read(CHANGED)), (0..120).collect::<Vec<_>>(), "{error:?}");
        assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (120, 0), "{error:?}");
        assert!((finished.metric("callbridge_records_total{delivered}") - 120.0).abs() < 0.1, "{error:?}");
        assert!(finished.read_rejected().is_empty());
    }
}

#[test]
fn what_librdkafka_gives_back_is_counted_and_sent_again() {
    let rig = Rig::start(&[]);
    (0..10).for_each(|number| rig.append(CHANGED, number));
    rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 3]);
    rig.publish();
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(CHANGED)), (0..10).collect::<Vec<_>>());
    assert!(finished.metric("callbridge_records_total{failed}") >= 3.0);
    assert_eq!(finished.ledger.read().delivered, 10);
}

#[test]
fn a_dead_producer_is_replaced_and_unacknowledged_records_are_resent_in_order() {
    let rig = Rig::start(&[("batch.num.messages", "10")]);
    (0..100).for_each(|number| rig.append(CHANGED, number));
    (100..150).for_each(|number| rig.append(DESTROYED, number));
    rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
    rig.publish();
    wait_until("all are delivered", || rig.ledger.read().delivered == 150);
    (150..160).for_each(|number| rig.append(CHANGED, number));
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(CHANGED)), (0..100).chain(150..160).collect::<Vec<_>>());
    assert_eq!(firsts(&finished.read(DESTROYED)), (100..150).collect::<Vec<_>>());
    assert!((finished.metric("callbridge_kafka_producer_rebuilds_total") - 1.0).abs() < 0.1);
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (160, 0));
}

#[test]
fn of_more_events_than_the_client_has_room_for_each_is_sent_once_and_in_order() {
    let push = Command::find("Push.OfflinePush").unwrap();
    let rig = Rig::start(&[("queue.buffering.max.messages", "10")]);
    let event = |number: u64| format!(r#"{{"To_Account":"a","PushID":"{number}","EventTime":{number}}}"#);
    let events = |numbers: std::ops::Range<u64>| numbers.map(event).collect::<Vec<_>>().join(",");
    rig.append_body(push, &format!(r#"{{"Events":[{}]}}"#, events(1..36)));
    rig.append_body(push, &event(36));
    rig.publish();
    let finished = rig.finish();
    let numbers: Vec<u64> = finished.read(push).iter().map(|record| record.number).collect();
    assert_eq!(numbers, (1..37).collect::<Vec<u64>>());
    assert_eq!(finished.ledger.read().delivered, 2);
    assert_eq!(finished.metric("callbridge_records_total{unproven}"), 0.0);
}

#[test]
fn a_batch_that_is_not_taken_does_not_cost_its_good_records() {
    let rig = Rig::start(&[]);
    (0..10).for_each(|number| rig.append(CHANGED, number));
    rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    rig.publish();
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(CHANGED)), (0..10).collect::<Vec<_>>());
    assert!(finished.read_rejected().is_empty());
}

#[test]
fn a_batch_that_is_refused_as_too_large_is_halved_until_it_fits() {
    use RDKafkaRespErr as E;
    for error in [E::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, E::RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE] {
        // What is sent together is one batch on a busy machine too: of a second one, a partition that is new to the producer would take it
        // though the first was refused.
        let rig = Rig::start(&[("linger.ms", "300")]);
        (0..100).for_each(|number| rig.append(CHANGED, number));
        rig.fail_produce(&[error; 4]);
        rig.publish();
        let finished = rig.finish();
        assert_eq!(firsts(&finished.read(CHANGED)), (0..100).collect::<Vec<_>>(), "{error:?}");
        assert!(finished.read_rejected().is_empty(), "{error:?}");
        assert_eq!(finished.metric("callbridge_kafka_producer_rebuilds_total"), 4.0, "{error:?}");
        assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (100, 0), "{error:?}");
    }
}

#[test]
fn events_of_one_callback_are_halved_too() {
    let push = Command::find("Push.OfflinePush").unwrap();
    let rig = Rig::start(&[]);
    let event = |number: u64| format!(r#"{{"To_Account":"a","PushID":"{number}","EventTime":{number}}}"#);
    let events = (1..36).map(event).collect::<Vec<_>>().join(",");
    rig.append_body(push, &format!(r#"{{"Events":[{events}]}}"#));
    rig.append_body(push, &event(36));
    rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 3]);
    rig.publish();
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(push)), (1..37).collect::<Vec<u64>>());
    assert!(finished.read_rejected().is_empty());
    assert_eq!(finished.ledger.read().delivered, 2);
}

#[test]
fn a_smaller_limit_gets_another_producer_without_a_record_sent_twice() {
    let rig = Rig::start(&[]);
    // So that some are on their way.
    rig.cluster.broker_round_trip_time(1, Duration::from_millis(300)).unwrap();
    rig.publish();
    (0..200).for_each(|number| rig.append(CHANGED, number));
    wait_until("some are with the client", || rig.metric("callbridge_records_unreported") > 0.0);
    rig.control.limit(Some(50_000), rig.pump.thread());
    rig.cluster.broker_round_trip_time(1, Duration::ZERO).unwrap();
    (200..400).for_each(|number| rig.append(CHANGED, number));
    wait_until("the limit is applied", || rig.control.has_applied_limit());
    // A larger one too, once nothing is under way.
    rig.control.limit(Some(1 << 20), rig.pump.thread());
    wait_until("all are delivered", || rig.ledger.read().delivered == 400);
    rig.append(CHANGED, 400);
    let finished = rig.finish();
    let numbers: Vec<u64> = finished.read(CHANGED).iter().map(|record| record.number).collect();
    assert_eq!(numbers, (0..401).collect::<Vec<_>>());
    assert_eq!(finished.metric("callbridge_kafka_producer_rebuilds_total"), 0.0);
    assert_eq!(finished.metric("callbridge_records_total{failed}"), 0.0);
}

#[test]
fn limits_that_kafka_does_not_tell_are_asked_for_once_and_hold_up_nothing() {
    // It does not know the request.
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).unwrap();
    cluster.create_topic("there", 1, 1).unwrap();
    let properties = Properties::new(Ack::Journal, &BTreeMap::new()).with_bootstrap(cluster.bootstrap_servers());
    let metrics = KafkaMetrics::register(&Registry::new()).unwrap();
    let kafka = UnstartedKafka::new(&properties, metrics).unwrap().start(thread::current()).unwrap();
    let names = ["missing", "there"].map(str::to_owned).to_vec();
    let needs = Needs { names, creation: None, longest_record: Some(1000) };
    let (lifecycle, mut limits, mut others) = (Lifecycle::new(), Vec::new(), Vec::new());
    TopicsClient::of(&kafka).watch(&needs, &Control::default(), &lifecycle, |told| match told {
        TopicsProgress::Limit(limit) => limits.push(limit),
        TopicsProgress::OthersWork(there) => {
            others.push(there.to_vec());
            lifecycle.enter(Phase::Stopped);
        }
        TopicsProgress::Missing(_) | TopicsProgress::Complete => {}
    });
    assert_eq!((limits, others), (vec![None], vec![vec![1]]));
}

#[test]
fn a_stuck_topic_does_not_keep_a_smaller_limit_from_the_others() {
    let rig = Rig::start(&[]);
    let stuck = rig.topics.name(rig.topics.of(rig.apps.iter().next().unwrap(), Some(DESTROYED))).to_owned();
    rig.cluster.topic_error(&stuck, RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    rig.publish();
    rig.append(DESTROYED, 0);
    wait_until("it is with the client", || rig.metric("callbridge_records_unreported") == 1.0);
    rig.control.limit(Some(2000), rig.pump.thread());
    rig.append(CHANGED, 1);
    wait_until("the other topic goes on", || rig.ledger.read().delivered == 1);
    assert!(rig.control.has_applied_limit());
    rig.cluster.topic_error(&stuck, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    assert_eq!(firsts(&rig.finish().read(DESTROYED)), [0]);
}

#[test]
fn a_record_that_kafka_does_not_take_even_alone_goes_to_the_rejected_topic() {
    let rig = Rig::start(&[]);
    (0..3).for_each(|number| rig.append(CHANGED, number));
    rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 2]);
    rig.publish();
    let finished = rig.finish();
    let rejected = finished.read_rejected();
    assert_eq!(rejected, [Read { number: 0, reason: Some("unpublishable".to_owned()) }]);
    assert_eq!(firsts(&finished.read(CHANGED)), [1, 2]);
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (3, 0));
    assert!((finished.metric("callbridge_records_total{poison}") - 1.0).abs() < 0.1);
    assert!((finished.metric("callbridge_rejected_total{unpublishable}") - 1.0).abs() < 0.1);
}

#[test]
fn a_callback_that_kafka_does_not_take_even_raw_is_lost_and_counted() {
    let rig = Rig::start(&[]);
    rig.append(CHANGED, 0);
    // As an envelope, and raw.
    rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 2]);
    rig.publish();
    wait_until("it is given up", || rig.ledger.read().waiting_total() == 0);
    rig.append(CHANGED, 1);
    let finished = rig.finish();
    assert!(finished.read_rejected().is_empty());
    assert_eq!(firsts(&finished.read(CHANGED)), [1]);
    let balance = finished.ledger.read();
    assert_eq!(balance.ended[Reason::Unpublishable.index()], 1);
    assert_eq!((balance.delivered, balance.waiting_total()), (1, 0));
}

/// An event of a batch, with that number.
fn event(number: u64, name: &str) -> String {
    format!(r#"{{"To_Account":"a","PushID":"{name}","EventTime":{number}}}"#)
}

/// A batch of the events 1 to 3, of which one has that name.
fn append_three(rig: &Rig, bad: u64, name: &str) -> Command {
    let push = Command::find("Push.OfflinePush").unwrap();
    let events = (1..4).map(|number| event(number, if number == bad { name } else { "p" })).collect::<Vec<_>>();
    rig.append_body(push, &format!(r#"{{"Events":[{}]}}"#, events.join(",")));
    push
}

/// All events but one are in their topic, once and in order, and that one is in the dead-letter topic.
fn only_one_is_rejected(finished: &Finished, push: Command, bad: u64) {
    let numbers: Vec<u64> = finished.read(push).iter().map(|record| record.number).collect();
    assert_eq!(numbers, (1..5).filter(|number| *number != bad).collect::<Vec<_>>());
    assert_eq!(finished.read_rejected(), [Read { number: bad, reason: Some("unpublishable".to_owned()) }]);
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (2, 0));
    assert_eq!(finished.metric("callbridge_records_total{poison}"), 1.0);
}

#[test]
fn an_event_that_kafka_rejects_does_not_cost_the_others_of_its_batch() {
    use RDKafkaRespErr as E;
    for bad in 1..4 {
        // All are one batch at first.
        let rig = Rig::start(&[("linger.ms", "300")]);
        let push = append_three(&rig, bad, "p");
        rig.append_body(push, &event(4, "p"));
        // First all together, then one at a time up to the bad one.
        rig.fail_produce(&[E::RD_KAFKA_RESP_ERR_INVALID_RECORD]);
        (1..bad).for_each(|_good| rig.fail_produce(&[E::RD_KAFKA_RESP_ERR_NO_ERROR]));
        rig.fail_produce(&[E::RD_KAFKA_RESP_ERR_INVALID_RECORD]);
        rig.publish();
        only_one_is_rejected(&rig.finish(), push, bad);
    }
}

#[test]
fn a_rejected_event_whose_raw_record_fails_once_still_goes_to_the_dead_letter_topic() {
    use RDKafkaRespErr as E;
    let rig = Rig::start(&[("linger.ms", "300")]);
    let push = append_three(&rig, 1, "p");
    rig.append_body(push, &event(4, "p"));
    // Together, alone, and raw: that may be for another record of the same Kafka batch.
    rig.fail_produce(&[E::RD_KAFKA_RESP_ERR_INVALID_RECORD; 3]);
    rig.publish();
    only_one_is_rejected(&rig.finish(), push, 1);
}

#[test]
fn an_event_too_long_for_its_topic_does_not_cost_the_others_of_its_batch() {
    use RDKafkaRespErr as E;
    // Each event has a Kafka batch to itself. Behind the rejected one there is none yet, which would be sent before its rejection is known.
    let rig = Rig::start(&[("batch.num.messages", "1")]);
    let push = append_three(&rig, 3, "p");
    let mut errors = vec![E::RD_KAFKA_RESP_ERR_NO_ERROR; 2];
    errors.extend([E::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 2]);
    rig.fail_produce(&errors);
    rig.publish();
    wait_until("the batch is delivered", || rig.ledger.read().delivered == 1);
    rig.append_body(push, &event(4, "p"));
    only_one_is_rejected(&rig.finish(), push, 3);
}

#[test]
fn an_event_too_long_for_the_client_does_not_cost_the_others_of_its_batch() {
    for bad in 1..4 {
        // As an envelope it is beyond the limit, raw it is not.
        let rig = Rig::start(&[("message.max.bytes", "2000")]);
        let push = append_three(&rig, bad, &"x".repeat(1400));
        rig.append_body(push, &event(4, "p"));
        rig.publish();
        only_one_is_rejected(&rig.finish(), push, bad);
    }
}

#[test]
fn an_event_that_kafka_does_not_take_even_raw_is_lost_without_the_others() {
    for bad in 1..4 {
        let rig = Rig::start(&[("message.max.bytes", "2000")]);
        let push = append_three(&rig, bad, &"x".repeat(2000));
        rig.append_body(push, &event(4, "p"));
        rig.publish();
        let finished = rig.finish();
        let numbers: Vec<u64> = finished.read(push).iter().map(|record| record.number).collect();
        assert_eq!(numbers, (1..5).filter(|number| *number != bad).collect::<Vec<_>>());
        assert!(finished.read_rejected().is_empty());
        let balance = finished.ledger.read();
        assert_eq!(balance.ended[Reason::Unpublishable.index()], 1);
        assert_eq!((balance.delivered, balance.waiting_total()), (1, 0));
    }
}

#[test]
fn a_record_whose_time_kafka_refuses_is_sent_with_the_time_of_sending() {
    let rig = Rig::start(&[]);
    let began = clock::wall().0;
    let year_2100 = UnixMillis(4_102_444_800_000);
    (0..3).for_each(|number| rig.append_received(CHANGED, &body(CHANGED, number), year_2100));
    rig.append(CHANGED, 3);
    rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP]);
    rig.publish();
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(CHANGED)), [0, 1, 2, 3]);
    let times = finished.read_whole(CHANGED).into_iter().map(|message| message.timestamp().to_millis().unwrap());
    let now = clock::wall().0;
    assert!(times.clone().all(|time| (began..=now).contains(&time)), "{:?}", times.collect::<Vec<_>>());
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (4, 0));
}

#[test]
fn producers_that_get_no_id_are_replaced_until_one_does() {
    let rig = Rig::start(&[]);
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    rig.cluster.request_errors(RDKafkaApiKey::InitProducerId, &[refused; 5]);
    rig.append(CHANGED, 0);
    rig.publish();
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(CHANGED)), [0]);
    assert!(finished.metric("callbridge_kafka_producer_rebuilds_total") >= 4.0, "the first may have got one before");
}

#[test]
fn what_the_client_itself_finds_too_large_goes_the_same_way() {
    let rig = Rig::start(&[("message.max.bytes", "2000")]);
    // As an envelope it is beyond the limit, raw it is not.
    let long = format!(r#"{{"Official_Account":"a","Name":"{}","EventTime":0}}"#, "x".repeat(1400));
    rig.append_body(CHANGED, &long);
    // This one is too long in any form.
    rig.append_body(CHANGED, &format!(r#"{{"Name":"{}","EventTime":9}}"#, "x".repeat(3000)));
    rig.append(CHANGED, 1);
    rig.publish();
    let finished = rig.finish();
    assert_eq!(finished.read_rejected(), [Read { number: 0, reason: Some("unpublishable".to_owned()) }]);
    assert_eq!(firsts(&finished.read(CHANGED)), [1]);
    let balance = finished.ledger.read();
    assert_eq!((balance.delivered, balance.ended[Reason::Unpublishable.index()]), (2, 1));
}

#[test]
fn an_unwritable_topic_neither_stops_the_others_nor_piles_up_records() {
    use RDKafkaRespErr as E;
    // The one comes back from librdkafka again and again, the other stays there.
    for error in [E::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, E::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART] {
        let rig = Rig::start(&[("topic.metadata.refresh.interval.ms", "100")]);
        let stuck = rig.topics.name(rig.topics.of(rig.apps.iter().next().unwrap(), Some(DESTROYED))).to_owned();
        rig.cluster.topic_error(&stuck, error).unwrap();
        rig.publish();
        for number in 0..500 {
            rig.append(if number % 50 == 0 { DESTROYED } else { CHANGED }, number);
        }
        wait_until("the others are delivered", || rig.ledger.read().delivered == 490);
        assert_eq!(rig.ledger.read().waiting_total(), 10, "{error:?}");
        wait_until("only those of the stuck topic are unreported", || {
            rig.metric("callbridge_records_unreported") <= 10.0
        });

        rig.cluster.topic_error(&stuck, E::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
        let finished = rig.finish();
        assert_eq!(firsts(&finished.read(DESTROYED)), (0..500).step_by(50).collect::<Vec<_>>(), "{error:?}");
        let others: Vec<u64> = (0..500).filter(|number| number % 50 != 0).collect();
        assert_eq!(firsts(&finished.read(CHANGED)), others, "{error:?}");
        assert_eq!(finished.ledger.read().waiting_total(), 0);
    }
}

#[test]
fn nothing_is_sent_to_a_topic_that_was_not_seen_yet() {
    let rig = Rig::start(&[]);
    rig.publish_only(CHANGED);
    (0..10).for_each(|number| rig.append(DESTROYED, number));
    rig.append(CHANGED, 10);
    wait_until("the topic that was seen has its record", || rig.ledger.read().delivered == 1);
    wait_until("nothing is with the client", || rig.metric("callbridge_records_unreported") == 0.0);
    assert_eq!(rig.ledger.read().waiting_total(), 10);

    rig.publish_only(DESTROYED);
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(DESTROYED)), (0..10).collect::<Vec<_>>());
    assert_eq!(finished.ledger.read().waiting_total(), 0);
}

#[test]
fn a_bad_event_of_a_batch_waits_for_a_dead_letter_topic_that_was_not_seen_yet() {
    let rig = Rig::start(&[]);
    let push = Command::find("Push.OfflinePush").unwrap();
    rig.publish_only(push);
    rig.append_body(push, &format!(r#"{{"Events":[{},5]}}"#, event(1, "p")));
    wait_until("the good event is delivered", || rig.metric("callbridge_records_total{delivered}") >= 1.0);
    wait_until("nothing is with the client", || rig.metric("callbridge_records_unreported") == 0.0);
    assert_eq!(rig.ledger.read().waiting_total(), 1, "the bad event waits");

    rig.publish();
    let finished = rig.finish();
    assert_eq!((finished.read(push).len(), read_whole(&finished.cluster, "t.rejected").len()), (1, 1));
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (1, 0));
}

#[test]
fn a_delivery_that_no_broker_gave_an_offset_for_is_not_believed() {
    // Without acknowledgements there is never an offset.
    let rig = Rig::start(&[("enable.gapless.guarantee", "false"), ("enable.idempotence", "false"), ("acks", "0")]);
    rig.append(CHANGED, 0);
    rig.publish();
    wait_until("it is sent again", || rig.metric("callbridge_records_total{unproven}") >= 2.0);
    assert_eq!((rig.ledger.read().delivered, rig.ledger.read().waiting_queue), (0, 1));

    rig.control.give_up_at(clock::monotonic(), rig.pump.thread());
    let finished = rig.finish();
    assert!(finished.read(CHANGED).len() >= 2);
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_queue), (0, 1));
}

#[test]
fn a_client_whose_queue_is_full_takes_all_in_order_by_and_by() {
    let rig = Rig::start(&[("queue.buffering.max.messages", "10")]);
    (0..100).for_each(|number| rig.append(CHANGED, number));
    rig.publish();
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(CHANGED)), (0..100).collect::<Vec<_>>());
    assert_eq!(finished.ledger.read().delivered, 100);
}

#[test]
fn told_to_give_up_the_pump_ends_and_leaves_what_it_has_waiting() {
    let rig = Rig::start(&[]);
    rig.cluster.broker_down(1).unwrap();
    (0..10).for_each(|number| rig.append(CHANGED, number));
    rig.publish();
    wait_until("the client has them", || rig.metric("callbridge_records_unreported") >= 10.0);
    rig.control.give_up_at(clock::monotonic(), rig.pump.thread());
    let finished = rig.finish();
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_queue), (0, 10));
}

#[test]
fn what_waits_while_no_broker_is_there_arrives_in_order_when_one_is() {
    let rig = Rig::start(&[("reconnect.backoff.max.ms", "50")]);
    rig.publish();
    rig.append(CHANGED, 0);
    wait_until("the first is delivered", || rig.ledger.read().delivered == 1);
    rig.cluster.broker_down(1).unwrap();
    (1..200).for_each(|number| rig.append(CHANGED, number));
    wait_until("the client has them", || rig.metric("callbridge_records_unreported") >= 199.0);
    rig.cluster.broker_up(1).unwrap();
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(CHANGED)), (0..200).collect::<Vec<_>>());
    assert_eq!(finished.ledger.read().delivered, 200);
}
#[test]
fn a_batch_that_fails_is_not_overtaken_by_what_is_behind_it() {
    use RDKafkaRespErr as E;
    for error in [E::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, E::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE] {
        // The client has ten batches when the first of them fails.
        let rig = Rig::start(&[("batch.num.messages", "10"), ("linger.ms", "100")]);
        (0..100).for_each(|number| rig.append(CHANGED, number));
        rig.fail_produce(&[error]);
        rig.publish();
        for number in 100..400 {
            rig.append(CHANGED, number);
            // So that some come in each state of the outbox.
            thread::sleep(Duration::from_millis(2));
        }
        let finished = rig.finish();
        assert!(finished.metric("callbridge_records_total{failed}") > 0.0);
        assert_eq!(firsts(&finished.read(CHANGED)), (0..400).collect::<Vec<_>>(), "{error:?}");
        assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (400, 0), "{error:?}");
    }
}

/// The age of the oldest record without a report, in seconds.
const OLDEST: &str = "callbridge_oldest_unreported_seconds";
const WATCHDOG_RESTARTS: &str = "callbridge_kafka_watchdog_restarts_total";

#[test]
fn a_record_that_is_never_reported_gets_a_new_producer_once_its_topic_has_leaders() {
    // The client keeps it to itself for so long.
    let rig = Rig::start(&[("linger.ms", "900000")]);
    rig.cluster.partition_leader(rig.topic(CHANGED), 0, None).unwrap();
    rig.publish();
    rig.append(CHANGED, 0);
    rig.watched(|| {
        wait_until("it waits", || rig.metric(OLDEST) > 1.5 * UNREPORTED_MAX.as_secs_f64());
        assert_eq!(rig.metric(WATCHDOG_RESTARTS), 0.0, "it cannot be sent");
        rig.cluster.partition_leader(rig.topic(CHANGED), 0, Some(1)).unwrap();
        wait_until("a new producer", || rig.metric(WATCHDOG_RESTARTS) == 1.0);
        wait_until("it is sent again", || (0.0..UNREPORTED_MAX.as_secs_f64()).contains(&rig.metric(OLDEST)));
        wait_until("it waits again", || rig.metric(OLDEST) > 0.0);
    });
    rig.control.give_up_at(clock::monotonic(), rig.pump.thread());
    let finished = rig.finish();
    assert_eq!(finished.metric("callbridge_kafka_producer_rebuilds_total"), 0.0, "it was not dead");
    assert_eq!(finished.ledger.read().waiting_queue, 1);
}

#[test]
fn a_topic_that_stays_forbidden_costs_producers_less_and_less_often() {
    let (first, max) = (Duration::from_millis(50), Duration::from_millis(100));
    let rig = Rig::start_with(&[], Backoff { first, max, lost_producer_max: Duration::from_secs(10) });
    rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 7]);
    rig.append(CHANGED, 0);
    rig.publish();
    let rebuilds = || rig.metric("callbridge_kafka_producer_rebuilds_total");
    wait_until("the first producer is dead", || rebuilds() >= 1.0);
    let began = clock::monotonic();
    wait_until("seven are dead", || rebuilds() >= 7.0);
    // 50 ms, doubled five times. At `max` it would be 600 ms, and what replacing them takes.
    let least = 63 * first;
    assert!(clock::monotonic() - began > least - max, "{:?}", clock::monotonic() - began);
    assert_eq!(firsts(&rig.finish().read(CHANGED)), [0]);
}

#[test]
fn an_error_that_costs_no_producer_is_retried_at_least_as_often_as_before() {
    let (first, max) = (Duration::from_millis(10), Duration::from_millis(100));
    let rig = Rig::start_with(
        &[("topic.metadata.propagation.max.ms", "0")],
        Backoff { first, max, lost_producer_max: MINUTE },
    );
    rig.cluster.topic_error(rig.topic(CHANGED), RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    rig.append(CHANGED, 0);
    rig.publish();
    // The eleventh would come after 20 seconds if the time were not bounded.
    wait_until("it fails again and again", || rig.metric("callbridge_records_total{failed}") >= 11.0);
    assert_eq!(rig.metric("callbridge_kafka_producer_rebuilds_total"), 0.0);
    rig.cluster.topic_error(rig.topic(CHANGED), RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    assert_eq!(firsts(&rig.finish().read(CHANGED)), [0]);
}

#[test]
fn a_dead_producer_is_replaced_although_nothing_more_is_sent() {
    let rig = Rig::start_with(&[], Backoff { first: 10 * MINUTE, max: 10 * MINUTE, lost_producer_max: 10 * MINUTE });
    rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    rig.append(CHANGED, 0);
    rig.publish();
    wait_until("it is replaced", || rig.metric("callbridge_kafka_producer_rebuilds_total") == 1.0);
    rig.control.give_up_at(clock::monotonic(), rig.pump.thread());
    assert_eq!(rig.finish().ledger.read().waiting_queue, 1);
}

/// A budget that a few records of these tests fill.
const SMALL_BUDGET: usize = 10_000;

#[test]
fn a_stuck_topic_leaves_the_others_their_part_of_the_budget() {
    use RDKafkaRespErr as E;
    let rig = Rig::start_within(200_000, &[("topic.metadata.refresh.interval.ms", "100")], BACKOFF);
    let stuck = rig.topics.name(rig.topics.of(rig.apps.iter().next().unwrap(), Some(DESTROYED))).to_owned();
    rig.cluster.topic_error(&stuck, E::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    rig.publish();
    (0..400).for_each(|number| rig.append(DESTROYED, number));
    let unreported = || rig.metric("callbridge_records_unreported");
    wait_until("the client has its part", || unreported() > 50.0);
    (400..800).for_each(|number| rig.append(CHANGED, number));
    wait_until("the others are delivered", || rig.ledger.read().delivered == 400);
    let least = 200_000.0 * 0.8 / 2500.0;
    wait_until("the rest waits in the journal", || (0.7 * least..300.0).contains(&unreported()));
    rig.cluster.topic_error(&stuck, E::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(DESTROYED)), (0..400).collect::<Vec<_>>());
    assert_eq!(firsts(&finished.read(CHANGED)), (400..800).collect::<Vec<_>>());
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (800, 0));
}

#[test]
fn the_longest_body_passes_a_budget_that_is_smaller_than_it() {
    let rig = Rig::start_within(SMALL_BUDGET, &[], BACKOFF);
    let name = "x".repeat(262_144 - 60);
    for number in 0..3 {
        rig.append_body(CHANGED, &format!(r#"{{"Official_Account":"a","Name":"{name}","EventTime":{number}}}"#));
        rig.append(CHANGED, 10 + number);
    }
    rig.publish();
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(CHANGED)), [0, 10, 1, 11, 2, 12]);
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (6, 0));
}

/// A batch of 200 events, which are more than [`SMALL_BUDGET`] by far, and an event behind them.
fn append_large_batch(rig: &Rig) -> Command {
    let push = Command::find("Push.OfflinePush").unwrap();
    let event = |number: u64| format!(r#"{{"To_Account":"a","PushID":"{number}","EventTime":{number}}}"#);
    rig.append_body(push, &format!(r#"{{"Events":[{}]}}"#, (1..201).map(event).collect::<Vec<_>>().join(",")));
    rig.append_body(push, &event(201));
    push
}

#[test]
fn a_batch_larger_than_the_budget_is_sent_part_by_part_and_each_once() {
    let rig = Rig::start_within(SMALL_BUDGET, &[], BACKOFF);
    let push = append_large_batch(&rig);
    rig.publish();
    let finished = rig.finish();
    let numbers: Vec<u64> = finished.read(push).iter().map(|record| record.number).collect();
    assert_eq!(numbers, (1..202).collect::<Vec<_>>());
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (2, 0));
}

#[test]
fn a_batch_larger_than_the_budget_goes_on_where_a_dead_producer_left_it() {
    let rig = Rig::start_within(SMALL_BUDGET, &[], BACKOFF);
    let push = append_large_batch(&rig);
    rig.publish();
    for delivered in [20.0, 40.0, 60.0, 80.0, 100.0] {
        wait_until("more of it is delivered", || rig.metric("callbridge_records_total{delivered}") >= delivered);
        rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
    }
    let finished = rig.finish();
    let records = finished.read(push);
    assert_eq!(firsts(&records), (1..202).collect::<Vec<_>>());
    assert!(finished.metric("callbridge_kafka_producer_rebuilds_total") >= 1.0);
    // Each time what was with the client, at most, and not all from the first on.
    assert!(records.len() < 201 + 5 * 30, "{}", records.len());
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (2, 0));
}

#[test]
fn the_oldest_that_waits_for_each_topic_is_shown() {
    let rig = Rig::start(&[]);
    let received = UnixMillis(clock::wall().0 - 100_000);
    rig.append_received(DESTROYED, &body(DESTROYED, 0), received);
    rig.append(DESTROYED, 1);
    let oldest = |command: Command| {
        let name = rig.topics.name(rig.topics.of(rig.apps.iter().next().unwrap(), Some(command)));
        rig.metric(&format!("callbridge_topic_oldest_undelivered_seconds{{{name}}}"))
    };
    let is_shown = |name| rig.registry.gather().iter().any(|family| family.name() == name);
    wait_until("the pump has begun", || is_shown("callbridge_topic_oldest_undelivered_seconds"));
    wait_until("it is shown while its topic is not there", || oldest(DESTROYED) >= 100.0);
    assert_eq!(oldest(CHANGED), 0.0);
    rig.cluster.broker_down(1).unwrap();
    rig.publish();
    wait_until("the client has them", || rig.metric("callbridge_records_unreported") == 2.0);
    wait_until("it is shown while it is with the client", || oldest(DESTROYED) >= 100.0);
    rig.cluster.broker_up(1).unwrap();
    wait_until("all are delivered", || rig.ledger.read().delivered == 2);
    wait_until("none waits", || oldest(DESTROYED) == 0.0);
    rig.finish();
}
