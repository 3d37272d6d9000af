//! Nothing acknowledged is lost and every key keeps its order, whatever happens to Kafka; and the ledger says what was not acknowledged.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use callbridge::clock;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::http;
use crate::support::http::Client;
use crate::support::kafka::Kafka;
use crate::support::load;
use crate::support::load::Load;
use crate::support::load::Outcome;
use crate::support::load::Sent;
use crate::support::oracle;
use crate::support::oracle::Judged;
use crate::support::reader::Reader;
use crate::support::wait;

/// What the sender waits for an answer.
const PROTOCOL: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(5);
/// The queue in memory mode: small, so that it fills at once.
const CAPTURES_MAX: u32 = 100;

const DELIVERED: &str = "callbridge_callbacks_delivered_total";
const LATE: &str = "callbridge_callbacks_late_total";
const IN_QUEUE: &str = r#"callbridge_callbacks_waiting{where="queue"}"#;

/// A bridge under load.
struct Site {
    bridge: Bridge,
    load: Load,
    topic: String,
    ack: &'static str,
}

/// What is known of it in the end.
struct Ended {
    judged: Judged,
    metrics: BTreeMap<String, f64>,
    ledger: BTreeMap<String, u64>,
}

impl Site {
    /// Starts both, and returns when records flow.
    fn start(kafka: &Kafka, ack: &'static str, clients: u64, args: &[&str]) -> Self {
        let bridge = start_bridge(kafka, ack, args);
        let load = Load::start(bridge.callbacks, APP, clients, PAUSE);
        let site = Self { bridge, load, topic: format!("faults-{ack}.{}", load::COMMAND), ack };
        site.wait_until_flowing();
        site
    }

    fn wait_until_flowing(&self) {
        let before = self.bridge.metrics()[DELIVERED];
        wait::until("callbacks are delivered", || self.bridge.metrics()[DELIVERED] >= before + 100.0);
    }

    /// Ends the load, lets all that waits arrive, and judges. `probes` were sent beside the load.
    fn end(self, kafka: &Kafka, probes: Vec<Sent>) -> Ended {
        let Self { bridge, load, topic, ack } = self;
        let mut outcome: Outcome = load.stop();
        outcome.issued.extend(probes);
        wait::until("the queue is empty", || bridge.metrics()[IN_QUEUE] == 0.0);
        // What was answered 503 waits too, but is not counted as waiting.
        wait::until("late ones are delivered", || {
            ack == "memory" || bridge.metrics()[LATE] >= lost(&bridge, "deadline")
        });
        let records = Reader::open(&kafka.client(), &[&topic]).collect_to_end();
        let judged = oracle::judge(&outcome, &records);
        let metrics = bridge.metrics();
        let stopped = bridge.stop_and_wait();
        assert_eq!(stopped.code, 0, "{}", stopped.stderr);
        let ledger = stopped.ledger;
        let ended = ledger["refused"] + ledger["lost"] + ledger["delivered"] + ledger["waiting"];
        assert_eq!(ledger["received"] + ledger["recovered"], ended, "the ledger does not balance: {ledger:?}");
        assert_eq!((ledger["waiting"], ledger["refused"]), (0, 0));
        Ended { judged, metrics, ledger }
    }
}

fn start_bridge(kafka: &Kafka, ack: &str, args: &[&str]) -> Bridge {
    let (brokers, prefix) = (kafka.bootstrap(), format!("faults-{ack}"));
    let builder = Bridge::builder().brokers(&brokers).topics(&prefix).ack(ack).args(args);
    let settings = format!("queue.captures_max = {CAPTURES_MAX}");
    if ack == "memory" { builder.settings(&settings).start() } else { builder.start() }
}

impl Ended {
    /// In broker mode all that was answered 503 went on its way too, and is counted as late when it arrived.
    fn assert_exact_for_broker_mode(&self) {
        let Judged { acknowledged, unavailable, unanswered, seen } = &self.judged;
        assert!(unanswered.is_empty());
        assert_eq!(self.ledger["delivered"], count(acknowledged));
        assert_eq!(self.ledger["lost"], count(unavailable));
        let late: BTreeSet<u64> = seen.intersection(unavailable).copied().collect();
        assert_eq!(&late, unavailable, "the queue had room for all");
        assert!((self.metrics[LATE] - count(&late) as f64).abs() < 0.5);
    }

    /// In memory mode what was answered 503 never entered the queue: exactly that is missing in Kafka.
    /// Of the before-callbacks so many records were delivered and lost.
    fn assert_exact_for_memory_mode(&self, delivered: u64, lost: u64) {
        let Judged { acknowledged, unavailable, unanswered, seen } = &self.judged;
        assert!(unanswered.is_empty());
        assert_eq!(seen, acknowledged);
        assert_eq!(self.ledger["delivered"], count(acknowledged) + delivered);
        assert_eq!(self.ledger["lost"], count(unavailable) + lost);
        assert!(self.metrics[LATE].abs() < 0.5);
    }
}

fn count(set: &BTreeSet<u64>) -> u64 {
    u64::try_from(set.len()).unwrap()
}

fn lost(bridge: &Bridge, reason: &str) -> f64 {
    bridge.metrics()[&format!("callbridge_callbacks_lost_total{{reason=\"{reason}\"}}")]
}

/// Posts one after-callback beside the load, and requires the answer within the time that the sender waits.
fn probe(bridge: &Bridge, nth: u64) -> Sent {
    let (key, sequence) = ("@TOA#_probe".to_owned(), u64::MAX / 2 + nth);
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let begin = clock::monotonic();
    let response = client.post(&http::callback_target(APP, load::COMMAND), load::body(&key, sequence).as_bytes());
    let (took, response) = (begin.elapsed(), response.unwrap());
    assert!(took < PROTOCOL, "answered after {took:?}");
    if response.status == 503 {
        assert_eq!(response.header("retry-after"), Some("1"));
        assert!(response.text().contains(r#""ActionStatus":"FAIL""#), "{}", response.text());
    }
    Sent { key, sequence, status: Some(response.status) }
}

#[test]
fn in_broker_mode_a_killed_node_costs_503s_and_nothing_that_was_acknowledged() {
    let Some(mut kafka) = Kafka::start(1) else { return };
    let site = Site::start(&kafka, "broker", 8, &[]);

    kafka.node(1).kill();
    wait::until("callbacks are refused", || lost(&site.bridge, "deadline") >= 8.0);
    let probes: Vec<Sent> = (0..2).map(|nth| probe(&site.bridge, nth)).collect();
    assert!(probes.iter().all(|sent| sent.status == Some(503)), "{probes:?}");
    kafka.node(1).restart();
    site.wait_until_flowing();

    let ended = site.end(&kafka, probes);
    ended.assert_exact_for_broker_mode();
}

#[test]
fn in_memory_mode_a_killed_node_costs_exactly_what_the_ledger_calls_lost() {
    let Some(mut kafka) = Kafka::start(1) else { return };
    let site = Site::start(&kafka, "memory", 8, &[]);

    kafka.node(1).kill();
    wait::until("the topic has its share", || site.bridge.metrics()[IN_QUEUE] >= f64::from(CAPTURES_MAX) * 0.8);
    wait::until("callbacks are refused", || lost(&site.bridge, "topic_full") >= 8.0);
    let probes = vec![probe(&site.bridge, 0)];
    assert_eq!(probes[0].status, Some(503));
    kafka.node(1).restart();
    site.wait_until_flowing();

    let ended = site.end(&kafka, probes);
    ended.assert_exact_for_memory_mode(0, 0);
}

#[test]
fn with_three_nodes_a_killed_leader_loses_nothing_that_was_acknowledged() {
    let Some(mut kafka) = Kafka::start(3) else { return };
    let site = Site::start(&kafka, "broker", 12, &[]);

    // Of a partition that one of the load's keys is in.
    let written = Reader::open(&kafka.client(), &[&site.topic]).collect(1, PATIENCE).remove(0).partition;
    let leader = kafka.describe(&site.topic).partitions[usize::try_from(written).unwrap()].leader;
    kafka.node(leader).kill();
    wait::until("callbacks are refused", || lost(&site.bridge, "deadline") >= 1.0);
    wait::until("another leads, and the queue is worked off", || site.bridge.metrics()[LATE] >= 1.0);
    site.wait_until_flowing();

    let ended = site.end(&kafka, Vec::new());
    ended.assert_exact_for_broker_mode();
}

#[test]
fn a_frozen_node_loses_nothing_and_before_callbacks_are_decided_all_the_while() {
    const BEFORE: &str = "OfficialAccount.CallbackBeforeAddSubscriber";
    const QUESTION: &str = r##"{"CallbackCommand":"OfficialAccount.CallbackBeforeAddSubscriber","Official_Account":"@TOA#_a",
        "Operator_Account":"o","SubscribeAccountList":[{"Subscriber_Account":"jared"},{"Subscriber_Account":"mallory"}]}"##;
    const ANSWER: &str =
        r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"RefusedSubscribers_Account":["mallory"]}"#;
    const QUESTIONS: u64 = 50;
    let Some(mut kafka) = Kafka::start(1) else { return };
    let folder = tempfile::tempdir().unwrap();
    let blocklist = folder.path().join("blocklist.txt");
    std::fs::write(&blocklist, "mallory\n").unwrap();
    let args = ["--blocklist", blocklist.to_str().unwrap()];
    let [broker, memory] = ["broker", "memory"].map(|ack| Site::start(&kafka, ack, 8, &args));

    kafka.node(1).freeze();
    wait::until("the topic has its share", || memory.bridge.metrics()[IN_QUEUE] >= f64::from(CAPTURES_MAX) * 0.8);
    wait::until("callbacks are refused", || {
        lost(&broker.bridge, "deadline") >= 8.0 && lost(&memory.bridge, "topic_full") >= 8.0
    });
    for site in [&broker, &memory] {
        wait::until("it is not ready", || {
            let (status, text) = site.bridge.admin_page("/readyz");
            status == 503 && text.starts_with("kafka has not answered for ")
        });
        let mut client = Client::connect(site.bridge.callbacks).unwrap();
        for _nth in 0..QUESTIONS {
            let response = client.post(&http::callback_target(APP, BEFORE), QUESTION.as_bytes()).unwrap();
            assert_eq!((response.status, response.text().as_str()), (200, ANSWER));
        }
    }
    // The records of the questions have a topic and a share of their own, which is less than all of them.
    let metrics = memory.bridge.metrics();
    let of_questions = |(name, _): &(&String, &f64)| name.starts_with("callbridge_topic_full") && name.contains(BEFORE);
    let (_, unrecorded) = metrics.iter().find(of_questions).unwrap();
    assert!((1.0..QUESTIONS as f64).contains(unrecorded), "{unrecorded}");
    let unrecorded: u64 = format!("{unrecorded:.0}").parse().unwrap();
    kafka.node(1).thaw();
    for site in [&broker, &memory] {
        site.wait_until_flowing();
        wait::until("it is ready", || site.bridge.admin_page("/readyz").0 == 200);
    }

    let ended = memory.end(&kafka, Vec::new());
    ended.assert_exact_for_memory_mode(QUESTIONS - unrecorded, unrecorded);
    let ended = broker.end(&kafka, Vec::new());
    assert_eq!(ended.ledger["delivered"], count(&ended.judged.acknowledged) + QUESTIONS);
    assert_eq!(ended.ledger["lost"], count(&ended.judged.unavailable));
}

#[test]
fn in_broker_mode_crashes_lose_nothing_that_was_acknowledged() {
    let Some(kafka) = Kafka::shared() else { return };
    let mut site = Site::start(kafka, "broker", 8, &[]);
    for _crash in 0..3 {
        let Site { bridge, load, topic, ack } = site;
        assert_eq!(bridge.kill9().code, 128 + 9);
        let bridge = start_bridge(kafka, "broker", &[]);
        load.aim(bridge.callbacks);
        site = Site { bridge, load, topic, ack };
        site.wait_until_flowing();
    }
    let ended = site.end(kafka, Vec::new());
    assert!(ended.judged.acknowledged.len() >= 400, "each of the four took callbacks");
}

#[test]
fn in_memory_mode_a_crash_loses_at_most_what_the_queue_holds() {
    let Some(kafka) = Kafka::shared() else { return };
    let Site { bridge, load, topic, .. } = Site::start(kafka, "memory", 8, &[]);
    assert_eq!(bridge.kill9().code, 128 + 9);
    let outcome = load.stop();
    let records = Reader::open(&kafka.client(), &[&topic]).collect_to_end();
    let seen = oracle::seen(&outcome, &records);
    let lost = outcome.acknowledged().filter(|sent| !seen.contains(&sent.sequence)).count();
    let acknowledged = outcome.acknowledged().count();
    assert!(lost <= usize::try_from(CAPTURES_MAX).unwrap(), "{lost} of {acknowledged} are lost");
}
