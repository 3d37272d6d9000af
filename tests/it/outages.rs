//! Journal mode while Kafka is away, frozen, or lacks a topic: every callback is taken, waits on disk, and comes out in order.

use std::time::Duration;

use callbridge::clock;

use crate::seeds;
use crate::support::alone::Alone;
use crate::support::bridge::Bridge;
use crate::support::http;
use crate::support::http::Client;
use crate::support::journal;
use crate::support::journal::Settings;
use crate::support::kafka::Kafka;
use crate::support::ledger::Ledger;
use crate::support::ledger::Watch;
use crate::support::load;
use crate::support::load::Load;
use crate::support::load::Outcome;
use crate::support::oracle;
use crate::support::ports;
use crate::support::reader::Reader;
use crate::support::torture::APP;
use crate::support::wait;

const DELIVERED: &str = "callbridge_callbacks_delivered_total";
/// More of one topic than the publisher holds in memory, by far.
const MANY: u64 = 20_000;
/// What may be in memory of so many more on disk: much less than they are.
const GROWTH_BYTES: u64 = 12 << 20;
/// What the client is told to wait for an answer, and for a connection.
const TIMEOUT: Duration = Duration::from_millis(1000);

fn nobody() -> String {
    format!("127.0.0.1:{}", ports::free::<1>()[0])
}

/// Every callback was answered 200, all have come out, in order for each key, and the last line says so.
fn assert_all_delivered(bridge: Bridge, kafka: &Kafka, prefix: &str, outcome: &Outcome) -> Ledger {
    wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
    let topic = format!("{prefix}.{}", load::COMMAND);
    let judged = oracle::judge(outcome, &Reader::open(&kafka.client(), &[&topic]).collect_to_end());
    assert_eq!(judged.acknowledged.len(), outcome.issued.len(), "{:?}", judged.unavailable);
    let stopped = bridge.stop_and_wait();
    assert!(stopped.code == 0 && stopped.is_balanced(), "{stopped:?}");
    Ledger::of_exit(&stopped.ledger)
}

fn wait_until_acknowledged(load: &Load, count: u64) {
    wait::until("callbacks are acknowledged", || load.acknowledged() >= count);
}

#[test]
fn started_while_kafka_is_away_it_is_ready_at_once_and_delivers_all_of_it_in_order_when_kafka_comes() {
    let _alone = Alone::take();
    let Some(mut kafka) = Kafka::start(1) else { return };
    kafka.node(1).kill();
    let (_folder, dir) = journal::folder();
    let bridge = Settings::new(&kafka.bootstrap(), "away", "").start(&dir);
    assert_eq!(bridge.admin_page("/readyz"), (200, "ready\n".to_owned()));
    let watch = Watch::start(bridge.admin);
    let load = Load::start(bridge.callbacks, APP, 16, Duration::ZERO);
    wait_until_acknowledged(&load, MANY / 2);
    let resident_before = bridge.resident_bytes();
    wait_until_acknowledged(&load, MANY + MANY / 2);
    let resident = bridge.resident_bytes();
    assert!(resident < resident_before + GROWTH_BYTES, "{resident_before} became {resident}");

    // The load goes on meanwhile: what is new must not overtake what is old.
    kafka.node(1).restart();
    bridge.metrics_until(|metrics| metrics[DELIVERED] >= MANY as f64);
    let outcome = load.stop();
    let ledger = assert_all_delivered(bridge, &kafka, "away", &outcome);
    assert_eq!(ledger.delivered, outcome.issued.len() as u64);
    watch.assert_balanced();
}

#[test]
fn stopped_while_kafka_is_away_it_says_what_waits_and_the_next_start_delivers_it() {
    let Some(kafka) = Kafka::shared() else { return };
    let (_folder, dir) = journal::folder();
    let bridge = Settings::new(&nobody(), "stopped", "").start(&dir);
    let load = Load::start(bridge.callbacks, APP, 8, Duration::ZERO);
    wait_until_acknowledged(&load, 500);
    let outcome = load.stop();
    let count = outcome.issued.len() as u64;
    let stopped = bridge.stop_and_wait();
    let expected = Ledger { received: count, waiting: count, ..Ledger::default() };
    assert_eq!((stopped.code, Ledger::of_exit(&stopped.ledger)), (0, expected), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("the next start delivers them"), "{}", stopped.stderr);

    let bridge = Settings::new(&kafka.bootstrap(), "stopped", "").start(&dir);
    let ledger = assert_all_delivered(bridge, kafka, "stopped", &outcome);
    assert_eq!(ledger, Ledger { recovered: count, delivered: count, ..Ledger::default() });
}

#[test]
fn a_node_that_is_frozen_and_then_killed_for_longer_than_the_timeouts_costs_nothing() {
    let _alone = Alone::take();
    let Some(mut kafka) = Kafka::start(1) else { return };
    let (_folder, dir) = journal::folder();
    let timeout = TIMEOUT.as_millis();
    let properties = [
        format!("socket.timeout.ms={timeout}"),
        format!("request.timeout.ms={timeout}"),
        format!("socket.connection.setup.timeout.ms={timeout}"),
    ];
    let settings = properties.iter().fold(Settings::new(&kafka.bootstrap(), "frozen", ""), |settings, property| {
        settings.with(&["--kafka", property])
    });
    let bridge = settings.start(&dir);
    let watch = Watch::start(bridge.admin);
    let load = Load::start(bridge.callbacks, APP, 8, Duration::from_millis(5));
    let flows = || {
        let before = bridge.metrics()[DELIVERED];
        bridge.metrics_until(|metrics| metrics[DELIVERED] >= before + 100.0);
    };
    let outlasts_the_timeouts = || {
        let (began, acknowledged) = (clock::monotonic(), load.acknowledged());
        wait::until("the timeouts have passed", || clock::monotonic().duration_since(began) > 3 * TIMEOUT);
        assert!(load.acknowledged() > acknowledged, "callbacks are taken meanwhile");
    };
    flows();
    kafka.node(1).freeze();
    outlasts_the_timeouts();
    kafka.node(1).thaw();
    flows();
    kafka.node(1).kill();
    outlasts_the_timeouts();
    kafka.node(1).restart();
    flows();
    let outcome = load.stop();
    assert_all_delivered(bridge, &kafka, "frozen", &outcome);
    watch.assert_balanced();
}

#[test]
fn a_topic_that_does_not_exist_holds_up_only_its_own_callbacks_until_it_is_made() {
    let Some(kafka) = Kafka::shared() else { return };
    let lacking = seeds::AFTER_ADD_SUBSCRIBER.command;
    let missing = format!("lacking.{lacking}");
    let others: Vec<&str> = seeds::ALL.iter().map(|seed| seed.command).filter(|it| *it != lacking).collect();
    for suffix in others.iter().chain(&["unknown", "rejected"]) {
        kafka.create_topic(&format!("lacking.{suffix}"), 1, 1);
    }
    let (_folder, dir) = journal::folder();
    let bridge = Settings::new_without_topics(&kafka.bootstrap(), "lacking", "").start(&dir);
    let watch = Watch::start(bridge.admin);
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let (rounds, count) = (20, seeds::ALL.len() as u64);
    for _round in 0..rounds {
        for seed in &seeds::ALL {
            let answer = client.post(&http::callback_target(APP, seed.command), seed.body.as_bytes()).unwrap();
            assert_eq!(answer.status, 200, "{}", seed.command);
        }
    }
    let delivered = (rounds * (count - 1)) as f64;
    bridge.metrics_until(|metrics| metrics[DELIVERED] >= delivered);
    assert_eq!(Ledger::of_scrape(&bridge.metrics()).waiting, rounds);
    kafka.create_topic(&missing, 1, 1);
    wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
    let records = Reader::open(&kafka.client(), &[&missing]).collect_to_end();
    assert_eq!(records.len() as u64, rounds);
    watch.assert_balanced();
    let stopped = bridge.stop_and_wait();
    let expected = Ledger { received: rounds * count, delivered: rounds * count, ..Ledger::default() };
    assert_eq!((stopped.code, Ledger::of_exit(&stopped.ledger)), (0, expected), "{}", stopped.stderr);
}
