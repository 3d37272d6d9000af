//! Topics that take smaller batches than Kafka's client makes.

use std::collections::BTreeMap;
use std::thread;

use callbridge::clock;
use serde_json::Value;

use crate::seeds;
use crate::seeds::APP;
use crate::support::alone::Alone;
use crate::support::bridge::Bridge;
use crate::support::http;
use crate::support::http::Client;
use crate::support::journal;
use crate::support::kafka;
use crate::support::kafka::Kafka;
use crate::support::ledger::Ledger;
use crate::support::load;
use crate::support::load::Outcome;
use crate::support::load::Sent;
use crate::support::oracle;
use crate::support::powercut::dice::Dice;
use crate::support::reader::Reader;
use crate::support::torture;
use crate::support::wait;

const LIMIT: &str = "max.message.bytes";
/// The smallest that Kafka takes.
const SEGMENT: (&str, &str) = ("segment.bytes", "1048576");
const REBUILDS: &str = "callbridge_kafka_producer_rebuilds_total";
const FAILED: &str = "callbridge_records_total{outcome=\"failed\"}";
const POISON: &str = "callbridge_records_total{outcome=\"poison\"}";

/// Of each callback, and of all of them.
const BODY_BYTES: usize = 1800;
const CALLBACKS: u64 = 5000;
/// Connections that post, each with a key of its own.
const CLIENTS: u64 = 8;

#[test]
fn an_outage_drains_without_a_dead_producer_where_topics_take_less_than_a_batch() {
    let Some(mut kafka) = Kafka::start_alone() else { return };
    create_topics(&kafka, "small", "400000");
    let (_folder, dir) = journal::folder();
    let bridge = journal::builder_without_topics(&kafka.bootstrap(), "small", "").start_in(&dir);
    bridge.warm_up(APP);
    kafka.node(1).kill();
    let outcome = post(&bridge, CALLBACKS);
    kafka.node(1).restart();
    let metrics = drain(bridge, &kafka, "small", &outcome);
    assert_eq!((metrics[REBUILDS], metrics[FAILED]), (0.0, 0.0));
}

#[test]
fn a_topic_that_comes_late_is_not_sent_larger_batches_than_it_takes() {
    let Some(kafka) = Kafka::shared() else { return };
    // A batch must also fit into a segment.
    for (prefix, limits) in [("late", [(LIMIT, "50000")].as_slice()), ("segment", &[(LIMIT, "5000000"), SEGMENT])] {
        for suffix in suffixes().filter(|suffix| *suffix != load::COMMAND) {
            kafka.create_topic_with(&format!("{prefix}.{suffix}"), 1, 1, &[(LIMIT, "5000000")]);
        }
        let (_folder, dir) = journal::folder();
        let settings = journal::builder_without_topics(&kafka.bootstrap(), prefix, "");
        let large = ["batch.size=5000000", "message.max.bytes=5000000", "linger.ms=500"];
        let settings = large.iter().fold(settings, |settings, property| settings.args(&["--kafka", property]));
        let bridge = settings.start_in(&dir);
        // The other topics are published to already.
        bridge.warm_up(APP);
        let outcome = post(&bridge, CALLBACKS);
        kafka.create_topic_with(&format!("{prefix}.{}", load::COMMAND), 1, 1, limits);
        let metrics = drain(bridge, kafka, prefix, &outcome);
        assert_eq!((metrics[REBUILDS], metrics[FAILED]), (0.0, 0.0), "{prefix}");
    }
}

#[test]
fn a_limit_that_is_lowered_while_it_runs_costs_no_more_than_two_producers() {
    let Some(mut kafka) = Kafka::start_alone() else { return };
    create_topics(&kafka, "lowered", "1048588");
    let (_folder, dir) = journal::folder();
    let bridge = journal::builder_without_topics(&kafka.bootstrap(), "lowered", "").start_in(&dir);
    bridge.warm_up(APP);
    kafka.alter_topic(&format!("lowered.{}", load::COMMAND), &[(LIMIT, "50000")]);
    kafka.node(1).kill();
    let outcome = post(&bridge, CALLBACKS);
    kafka.node(1).restart();
    let metrics = drain(bridge, &kafka, "lowered", &outcome);
    assert!((1.0..=2.0).contains(&metrics[REBUILDS]), "{}", metrics[REBUILDS]);
}

#[test]
fn where_limits_may_not_be_read_refused_batches_are_halved_and_that_is_said_once() {
    let Some(mut kafka) = Kafka::with(kafka::Settings { nodes: 1, tls_and_scram: true }) else { return };
    let _alone = Alone::take();
    create_topics(&kafka, "secret", "50000");
    kafka.forbid_describing_topics();
    let login = kafka.properties().into_iter().filter(|(name, _value)| name != "bootstrap.servers");
    let settings = login
        .fold(journal::builder_without_topics(&kafka.bootstrap(), "secret", ""), |settings, (name, value)| {
            settings.args(&["--kafka", &format!("{name}={value}")])
        });
    let (_folder, dir) = journal::folder();
    let bridge = settings.start_in(&dir);
    bridge.warm_up(APP);
    kafka.node(1).kill();
    let outcome = post(&bridge, CALLBACKS);
    kafka.node(1).restart();
    assert_eq!(warnings(&bridge, "the max.message.bytes of topics cannot be read").len(), 1);
    let metrics = drain(bridge, &kafka, "secret", &outcome);
    // From a million bytes to 50 000 are five halves; a batch that is not full may cost one more.
    assert!((1.0..=6.0).contains(&metrics[REBUILDS]), "{}", metrics[REBUILDS]);
}

#[test]
fn in_broker_mode_it_is_ready_once_the_smaller_batches_are_in_force() {
    let Some(kafka) = Kafka::shared() else { return };
    create_topics(kafka, "ready", "50000");
    let builder = Bridge::builder().brokers(&kafka.bootstrap()).ack("broker");
    let bridge = builder.args(&["--topic-prefix", "ready"]).start();
    // The log has a thread of its own, and may come later than what is printed.
    wait::until("that it is ready is logged", || bridge.stderr().contains("\"ready\""));
    let log = bridge.stderr();
    let (before_ready, _) = log.split_once("\"ready\"").unwrap();
    assert!(before_ready.contains("the producer's batch.size follows"), "{log}");
    let outcome = post(&bridge, CLIENTS);
    let metrics = drain(bridge, kafka, "ready", &outcome);
    assert_eq!((metrics[REBUILDS], metrics[FAILED]), (0.0, 0.0));
}

#[test]
fn topics_that_take_less_than_the_longest_callback_are_named_in_one_warning() {
    let Some(kafka) = Kafka::shared() else { return };
    create_topics(kafka, "short", "327680");
    // The longest body of 262 144 bytes, and 65 536 beside it, is just taken.
    let few = ["rejected", load::COMMAND].map(|suffix| format!("short.{suffix}"));
    few.iter().for_each(|name| kafka.alter_topic(name, &[(LIMIT, "327679")]));
    let (_folder, dir) = journal::folder();
    let bridge = journal::builder_without_topics(&kafka.bootstrap(), "short", "").start_in(&dir);
    bridge.warm_up(APP);
    let warnings = warnings(&bridge, "topics take less than the longest callback");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let topics: Vec<&str> = warnings[0]["topics"].as_str().unwrap().split(", ").collect();
    assert_eq!(topics, few.iter().rev().map(|name| format!("{name} (327679)")).collect::<Vec<_>>());

    // What does not fit is refused once, and costs nothing around it.
    let outcome = post(&bridge, CLIENTS);
    let long =
        load::body("@TOA#_long", 0).replace('}', &format!(",\"Filler\":\"{}\"}}", filler(&mut Dice::new(0), 200_000)));
    let target = http::callback_target(APP, load::COMMAND);
    let mut client = Client::connect(bridge.callbacks).unwrap();
    kafka.alter_topic(&few[1], &[(LIMIT, "100000")]);
    assert_eq!(client.post(&target, long.as_bytes()).unwrap().status, 200);
    bridge.metrics_until(|metrics| metrics["callbridge_rejected_total{reason=\"unpublishable\"}"] == 1.0);
    let metrics = drain(bridge, kafka, "short", &outcome);
    assert_eq!((metrics[REBUILDS], metrics[POISON]), (1.0, 1.0));
}

fn suffixes() -> impl Iterator<Item = &'static str> {
    seeds::ALL.iter().map(|seed| seed.command).chain(["unknown", "rejected"])
}

/// Makes every topic of `prefix`, of one partition and with this limit.
fn create_topics(kafka: &Kafka, prefix: &str, limit: &str) {
    for suffix in suffixes() {
        kafka.create_topic_with(&format!("{prefix}.{suffix}"), 1, 1, &[(LIMIT, limit)]);
    }
}

/// Posts so many callbacks, which compress badly.
fn post(bridge: &Bridge, count: u64) -> Outcome {
    let target = http::callback_target(APP, load::COMMAND);
    let post_of = |client: u64| {
        let key = format!("@TOA#_load_{client}");
        let mut connection = Client::connect(bridge.callbacks).unwrap();
        let mut dice = Dice::new(client);
        (0..count / CLIENTS)
            .map(|number| {
                let sequence = client * 1_000_000_000 + number;
                let body = load::body(&key, sequence);
                let filler = filler(&mut dice, BODY_BYTES - body.len());
                let body = body.replace('}', &format!(",\"Filler\":\"{filler}\"}}"));
                let status = connection.post(&target, body.as_bytes()).unwrap().status;
                Sent { key: key.clone(), sequence, status: Some(status) }
            })
            .collect::<Vec<_>>()
    };
    let issued = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || post_of(client))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    Outcome { issued }
}

fn filler(dice: &mut Dice, bytes: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    (0..bytes).map(|_nth| char::from(LETTERS[usize::try_from(dice.below(64)).unwrap()])).collect()
}

/// Waits until nothing waits, and stops the bridge. What was acknowledged is in Kafka, in order. Returns the last metrics.
fn drain(bridge: Bridge, kafka: &Kafka, prefix: &str, outcome: &Outcome) -> BTreeMap<String, f64> {
    let began = clock::monotonic();
    wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
    let metrics = bridge.metrics();
    torture::say(&format!(
        "{prefix}: {} callbacks drained in {:.1} s, {} dead producers, {} records failed",
        outcome.issued.len(),
        began.elapsed().as_secs_f64(),
        metrics[REBUILDS],
        metrics[FAILED]
    ));
    let records = Reader::open(&kafka.client(), &[&format!("{prefix}.{}", load::COMMAND)]).collect_to_end();
    assert!(oracle::judge(outcome, &records).unavailable.is_empty());
    bridge.stop_in_order();
    metrics
}

/// The fields of the warnings that begin so.
fn warnings(bridge: &Bridge, begin: &str) -> Vec<Value> {
    let stderr = bridge.stderr();
    let lines = stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let fields = lines.filter(|line| line["level"] == "WARN").map(|line| line["fields"].clone());
    fields.filter(|fields| fields["message"].as_str().unwrap().starts_with(begin)).collect()
}
