//! Journal mode on three nodes, which fail one at a time: nothing acknowledged is lost, every key keeps its order, the ledger balances, and
//! the watchdog replaces the Kafka client only where nothing else helps.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::bridge::BridgeBuilder;
use crate::support::bridge::Stopped;
use crate::support::journal;
use crate::support::kafka::Kafka;
use crate::support::ledger::Ledger;
use crate::support::load;
use crate::support::load::Load;
use crate::support::load::Outcome;
use crate::support::oracle;
use crate::support::reader::Reader;
use crate::support::wait;

const DELIVERED: &str = "callbridge_callbacks_delivered_total";
const WATCHDOG_RESTARTS: &str = "callbridge_kafka_watchdog_restarts_total";
const NODES: [i32; 3] = [1, 2, 3];
const PAUSE: Duration = Duration::from_millis(5);

fn topic(prefix: &str) -> String {
    format!("{prefix}.{}", load::COMMAND)
}

fn start_load(bridge: &Bridge) -> Load {
    Load::start(bridge.callbacks, APP, 12, PAUSE)
}

/// Waits until much more is delivered.
fn wait_until_flowing(bridge: &Bridge) {
    let before = bridge.metrics()[DELIVERED];
    bridge.metrics_until(|metrics| metrics[DELIVERED] >= before + 200.0);
}

/// Everything acknowledged comes out in order, whatever callbridge it was that took it; the last one ends with nothing left.
fn assert_all_delivered(bridge: Bridge, kafka: &Kafka, topic: &str, outcome: &Outcome) -> Ledger {
    wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
    let judged = oracle::judge(outcome, &Reader::open(&kafka.client(), &[topic]).collect_to_end());
    assert!(!judged.acknowledged.is_empty());
    Ledger::of_exit(&bridge.stop_in_order().ledger)
}

#[test]
fn in_journal_mode_a_killed_and_a_frozen_leader_lose_nothing() {
    let Some(mut kafka) = Kafka::start(3) else { return };
    let (_folder, dir) = journal::folder();
    let topic = topic("leader");
    // What is on its way to a frozen node is sent to the new leader when this has passed.
    let settings = journal::builder(&kafka.bootstrap(), "leader", "").args(&["--kafka", "socket.timeout.ms=5000"]);
    let bridge = settings.args(&["--kafka", "request.timeout.ms=4000"]).start_in(&dir);
    let load = start_load(&bridge);
    wait_until_flowing(&bridge);

    let written = Reader::open(&kafka.client(), &[&topic]).collect(1, Duration::from_secs(60)).remove(0).partition;
    let leader_of = |kafka: &Kafka| kafka.describe(&topic).partitions[usize::try_from(written).unwrap()].leader;
    let killed = leader_of(&kafka);
    kafka.node(killed).kill();
    wait::until("another leads", || ![killed, -1].contains(&leader_of(&kafka)));
    wait_until_flowing(&bridge);
    kafka.node(killed).restart();
    kafka.wait_until_in_sync(&topic);
    let frozen = leader_of(&kafka);
    kafka.node(frozen).freeze();
    let others: Vec<i32> = NODES.into_iter().filter(|node| *node != frozen).collect();
    kafka.wait_until_there(&others);
    wait_until_flowing(&bridge);
    assert_eq!(bridge.metrics()[WATCHDOG_RESTARTS], 0.0);
    kafka.node(frozen).thaw();

    let outcome = load.stop();
    let ledger = assert_all_delivered(bridge, &kafka, &topic, &outcome);
    assert_eq!(ledger.received, outcome.issued.len() as u64);
}

#[test]
fn in_journal_mode_a_rolling_restart_of_all_nodes_loses_nothing() {
    let Some(mut kafka) = Kafka::start(3) else { return };
    let (_folder, dir) = journal::folder();
    let topic = topic("rolling");
    let bridge = journal::builder(&kafka.bootstrap(), "rolling", "").start_in(&dir);
    let load = start_load(&bridge);
    for node in NODES {
        wait_until_flowing(&bridge);
        kafka.node(node).stop();
        kafka.node(node).restart();
        kafka.wait_until_in_sync(&topic);
    }
    wait_until_flowing(&bridge);
    assert_eq!(bridge.metrics()[WATCHDOG_RESTARTS], 0.0);
    let outcome = load.stop();
    let ledger = assert_all_delivered(bridge, &kafka, &topic, &outcome);
    assert_eq!(ledger.received, outcome.issued.len() as u64);
}

#[test]
fn in_journal_mode_sigterm_under_load_and_the_next_start_lose_nothing() {
    let Some(kafka) = Kafka::start(3) else { return };
    let (_folder, dir) = journal::folder();
    let settings = journal::builder(&kafka.bootstrap(), "term", "");
    let bridge = settings.start_in(&dir);
    let load = start_load(&bridge);
    wait_until_flowing(&bridge);
    let first = stop_under_load(bridge, &load);
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert!(first.is_balanced(), "{first:?}");

    let bridge = start_and_aim(&settings, &dir, &load);
    wait_until_flowing(&bridge);
    let outcome = load.stop();
    let second = assert_all_delivered(bridge, &kafka, &topic("term"), &outcome);
    assert_eq!(second.recovered, first.ledger["waiting"]);
}

fn stop_under_load(mut bridge: Bridge, load: &Load) -> Stopped {
    bridge.signal(Signal::TERM);
    let stopped = bridge.wait();
    load.aim_nowhere();
    stopped
}

fn start_and_aim(builder: &BridgeBuilder, dir: &Path, load: &Load) -> Bridge {
    let bridge = builder.start_in(dir);
    load.aim(bridge.callbacks);
    bridge
}

#[test]
fn a_topic_created_again_with_other_leaders_gets_going_by_itself() {
    let Some(mut kafka) = Kafka::start(3) else { return };
    let (_folder, dir) = journal::folder();
    let topic = topic("again");
    kafka.create_topic_on(&topic, &[1, 2, 3]);
    // So that the epoch of its leader is higher than that of a new topic.
    kafka.node(1).stop();
    wait::until("another leads", || [2, 3].contains(&kafka.describe(&topic).partitions[0].leader));
    kafka.node(1).restart();
    kafka.wait_until_in_sync(&topic);
    let leader = kafka.describe(&topic).partitions[0].leader;
    let settings = journal::builder(&kafka.bootstrap(), "again", "");
    let bridge = settings.variable("CALLBRIDGE_PUBLISH_UNREPORTED_MAX_SECONDS", "5").start_in(&dir);
    let load = start_load(&bridge);
    wait_until_flowing(&bridge);
    load.stop();
    wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);

    kafka.delete_topic(&topic);
    let other = NODES.into_iter().find(|node| *node != leader).unwrap();
    kafka.create_topic_on(&topic, &[other, leader, 6 - other - leader]);
    let load = start_load(&bridge);
    wait_until_flowing(&bridge);
    let outcome = load.stop();
    wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);

    assert!((1.0..=2.0).contains(&bridge.metrics()[WATCHDOG_RESTARTS]), "{}", bridge.metrics()[WATCHDOG_RESTARTS]);
    assert!(bridge.stderr().contains(&format!(r#""topics":"{topic}""#)), "{}", bridge.stderr());
    assert_all_delivered(bridge, &kafka, &topic, &outcome);
}
