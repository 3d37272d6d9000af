//! Journal mode with one thing in trouble for long: a topic that is forbidden, kill after kill beside a topic that is missing, a new prefix.
//! `make endurance SECONDS=600 KILLS=50` makes it long; what it prints is the result.

use std::thread;
use std::time::Duration;

use callbridge::clock;

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
use crate::support::ledger::Watch;
use crate::support::load;
use crate::support::load::Load;
use crate::support::oracle::Tally;
use crate::support::reader::Reader;
use crate::support::tools::number_of;
use crate::support::torture;
use crate::support::wait;

const STUCK: seeds::Seed = seeds::AFTER_ADD_SUBSCRIBER;
const WELL: seeds::Seed = seeds::AFTER_INFO_CHANGED;
const REBUILDS: &str = "callbridge_kafka_producer_rebuilds_total";
const FILES_BYTES: &str = "callbridge_journal_files_bytes";
/// Between two callbacks of the topic in trouble.
const STUCK_EVERY: Duration = Duration::from_millis(200);
const RATE: u32 = 500;

/// Posts a callback of the topic in trouble with a number; it must be taken.
fn post_stuck(client: &mut Client, number: u64) {
    let target = format!("{}&RequestID={number}", http::callback_target(APP, STUCK.command));
    assert_eq!(client.post(&target, STUCK.body.as_bytes()).unwrap().status, 200);
}

/// The numbers of the topic's callbacks, each once, in the order of its first record.
fn numbers_in(kafka: &Kafka, topic: &str) -> Vec<u64> {
    Reader::open(&kafka.client(), &[topic]).request_numbers()
}

fn waiting(bridge: &Bridge) -> u64 {
    Ledger::of_scrape(&bridge.metrics()).waiting
}

#[test]
fn a_forbidden_topic_costs_the_others_a_few_repeats_however_long_it_lasts() {
    let seconds = number_of("CALLBRIDGE_ENDURANCE_SECONDS", 20);
    let Some(kafka) = Kafka::with(kafka::Settings { nodes: 1, tls_and_scram: true }) else { return };
    let _alone = Alone::take();
    for suffix in [load::COMMAND, STUCK.command, "unknown", "rejected"] {
        kafka.create_topic(&format!("forbidden.{suffix}"), 3, 1);
    }
    let topic = format!("forbidden.{}", STUCK.command);
    kafka.forbid_writing(&topic);
    let login = kafka.properties().into_iter().filter(|(name, _value)| name != "bootstrap.servers");
    let settings = journal::builder_without_topics(&kafka.bootstrap(), "forbidden", "");
    let settings =
        login.fold(settings, |settings, (name, value)| settings.args(&["--kafka", &format!("{name}={value}")]));
    let (_folder, dir) = journal::folder();
    let bridge = settings.start_in(&dir);
    let watch = Watch::start(bridge.admin);
    let load = Load::start_at_rate(bridge.callbacks, APP, 8, 5, RATE);
    let (mut client, mut stuck) = (Client::connect(bridge.callbacks).unwrap(), 0);
    let end = clock::monotonic() + Duration::from_secs(seconds);
    while clock::monotonic() < end {
        post_stuck(&mut client, stuck);
        stuck += 1;
        // The rate of this topic: as fast as they go, its callbacks would fill its share, and be refused.
        thread::sleep(STUCK_EVERY);
    }
    let rebuilds = bridge.metrics()[REBUILDS];
    let outcome = load.stop();
    wait::until("only the forbidden ones wait", || waiting(&bridge) == stuck);
    kafka.permit_writing(&topic);
    // It tries again after ten minutes at most.
    wait::until_within(Duration::from_secs(660), "nothing waits", || waiting(&bridge) == 0);
    watch.assert_balanced();
    let mut tally = Tally::of(&outcome);
    let healthy = format!("forbidden.{}", load::COMMAND);
    Reader::open(&kafka.client(), &[&healthy]).pass_to_end(Duration::from_secs(600), |record| tally.see(&record));
    let missing = outcome.acknowledged().filter(|sent| !tally.seen.contains(&sent.sequence)).count();
    torture::say(&format!(
        "a topic forbidden for {seconds} s: {stuck} of it waited, {rebuilds} producers made anew meanwhile; of {} others {missing} \
         missing, {} repeats, {} out of order",
        outcome.issued.len(),
        tally.repeats,
        tally.disorder.len()
    ));
    assert_eq!((missing, tally.disorder.as_slice()), (0, [].as_slice()));
    assert_eq!(numbers_in(&kafka, &topic), (0..stuck).collect::<Vec<_>>());
    // The time between two doubles up to ten minutes.
    assert!(rebuilds <= (12 + seconds / 600) as f64, "{rebuilds}");
    bridge.stop_in_order();
}

#[test]
fn kill_after_kill_a_missing_topic_takes_its_own_bytes_only() {
    let kills = number_of("CALLBRIDGE_ENDURANCE_KILLS", 5);
    let Some(kafka) = Kafka::shared() else { return };
    for suffix in [WELL.command, "unknown", "rejected"] {
        kafka.create_topic(&format!("kills.{suffix}"), 1, 1);
    }
    let (_folder, dir) = journal::folder();
    let quota_bytes = 64 * journal::SEGMENT_BYTES;
    let settings =
        journal::builder_without_topics(&kafka.bootstrap(), "kills", &format!("quota_bytes = {quota_bytes}"));
    let long = format!("{}{}", WELL.body, " ".repeat(60_000));
    let (mut stuck, mut files_max) = (0, 0.0_f64);
    for _kill in 0..kills {
        let bridge = settings.start_in(&dir);
        wait::until("only those of the missing topic wait", || waiting(&bridge) == stuck);
        let mut client = Client::connect(bridge.callbacks).unwrap();
        // A quarter of the quota, with one of the missing topic in each half megabyte.
        for number in 0..quota_bytes / 4 / 60_000 {
            if number % 8 == 0 {
                post_stuck(&mut client, stuck);
                stuck += 1;
            }
            let answer = client.post(&http::callback_target(APP, WELL.command), long.as_bytes()).unwrap();
            assert_eq!(answer.status, 200, "{}", bridge.metrics()[FILES_BYTES]);
        }
        files_max = files_max.max(bridge.metrics()[FILES_BYTES]);
        assert_eq!(bridge.kill9().code, 128 + 9);
    }
    let bridge = settings.start_in(&dir);
    wait::until("only those of the missing topic wait", || waiting(&bridge) == stuck);
    let undelivered = format!("callbridge_journal_undelivered_bytes{{topic=\"kills.{}\"}}", STUCK.command);
    let undelivered = bridge.metrics()[&undelivered];
    // One that is written, a spare, a reserve, and what one pass more would win.
    let expected = 2.0 * undelivered + (6 * journal::SEGMENT_BYTES) as f64;
    wait::until("the files are small again", || bridge.metrics()[FILES_BYTES] <= expected);
    torture::say(&format!(
        "{kills} kills, {} MiB through: {stuck} of a missing topic wait in {undelivered} bytes; the files took at most {files_max} bytes, \
         and in the end {}",
        kills * quota_bytes / 4 / journal::SEGMENT_BYTES,
        bridge.metrics()[FILES_BYTES]
    ));
    assert!(files_max <= quota_bytes as f64, "{files_max}");
    let topic = format!("kills.{}", STUCK.command);
    kafka.create_topic(&topic, 1, 1);
    wait::until("nothing waits", || waiting(&bridge) == 0);
    assert_eq!(numbers_in(kafka, &topic), (0..stuck).collect::<Vec<_>>());
    bridge.stop_in_order();
}

#[test]
fn what_waits_when_the_prefix_changes_goes_to_the_new_topics_in_order() {
    let Some(kafka) = Kafka::shared() else { return };
    let (_folder, dir) = journal::folder();
    // No topic of the old prefix is there.
    let bridge = journal::builder_without_topics(&kafka.bootstrap(), "prefix-old", "").start_in(&dir);
    let mut client = Client::connect(bridge.callbacks).unwrap();
    (0..100).for_each(|number| post_stuck(&mut client, number));
    assert_eq!(bridge.kill9().code, 128 + 9);
    let bridge = journal::builder(&kafka.bootstrap(), "prefix-new", "").start_in(&dir);
    let mut client = Client::connect(bridge.callbacks).unwrap();
    (100..200).for_each(|number| post_stuck(&mut client, number));
    wait::until("nothing waits", || waiting(&bridge) == 0);
    let topic = format!("prefix-new.{}", STUCK.command);
    assert_eq!(numbers_in(kafka, &topic), (0..200).collect::<Vec<_>>());
    bridge.stop_in_order();
}
