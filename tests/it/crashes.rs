//! What each acknowledgement mode promises of a crash, under a load that does not stop for it.

use std::time::Duration;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::bridge::BridgeBuilder;
use crate::support::bridge::Stopped;
use crate::support::inspect;
use crate::support::journal;
use crate::support::journal::Failing;
use crate::support::journal::Killed as KilledWithJournal;
use crate::support::journal::Unplugged;
use crate::support::kafka::Kafka;
use crate::support::ledger::Ledger;
use crate::support::load;
use crate::support::load::Load;
use crate::support::load::Outcome;
use crate::support::load::Sent;
use crate::support::reader::Reader;
use crate::support::reader::Record;
use crate::support::torture;
use crate::support::torture::Plan;
use crate::support::torture::Site;
use crate::support::wait;

/// It is killed, and the machine lives on.
struct Killed {
    bridge: BridgeBuilder,
}

impl Killed {
    fn new(kafka: &Kafka, ack: &str, prefix: &str) -> Self {
        Self { bridge: Bridge::builder().brokers(&kafka.bootstrap()).topics(prefix).ack(ack) }
    }
}

impl Site for Killed {
    fn launch(&mut self) -> Bridge {
        self.bridge.launch()
    }

    fn crash(&mut self, bridge: Bridge) -> Stopped {
        let stopped = bridge.kill9();
        assert_eq!(stopped.code, 128 + 9);
        stopped
    }
}

fn topic(prefix: &str) -> String {
    format!("{prefix}.{}", load::COMMAND)
}

#[test]
fn kill_9_in_broker_mode_loses_nothing_acknowledged() {
    let Some(kafka) = Kafka::shared() else { return };
    let mut site = Killed::new(kafka, "broker", "crashes-broker");
    let pause = Duration::from_millis(2);
    let plan = Plan { seed: 1, crashes: 6, clients: 8, pause, acknowledged_max: 400 };
    let verdict = torture::run(&mut site, kafka, &topic("crashes-broker"), &plan);
    verdict.assert_nothing_is_lost();
    // Nobody sends a callback again, not even callbridge: it has forgotten it. Only what it was not sure of may come twice.
    assert!(verdict.repeats <= 6 * 8, "{} repeats", verdict.repeats);
    assert!(!verdict.unanswered.is_empty(), "no crash met a callback on its way");
}

#[test]
fn kill_9_in_memory_mode_loses_what_was_queued_and_that_is_seen_here() {
    let Some(kafka) = Kafka::shared() else { return };
    let mut site = Killed::new(kafka, "memory", "crashes-memory");
    let plan = Plan { seed: 2, crashes: 2, clients: 4, pause: Duration::ZERO, acknowledged_max: 400 };
    let verdict = torture::run(&mut site, kafka, &topic("crashes-memory"), &plan);
    assert!(!verdict.lost.is_empty(), "the judgement catches nothing");
}

#[test]
fn kill_9_in_journal_mode_loses_nothing_acknowledged() {
    let Some(kafka) = Kafka::shared() else { return };
    let mut site = KilledWithJournal::new(journal::builder(&kafka.bootstrap(), "crashes-journal", ""));
    // Long enough a life, most often, to deliver what it has found and more.
    let pause = Duration::from_millis(5);
    let plan = Plan { seed: 3, crashes: 20, clients: 8, pause, acknowledged_max: 1200 }.or_as_told();
    let verdict = torture::run(&mut site, kafka, &topic("crashes-journal"), &plan);
    verdict.assert_nothing_is_lost();
    verdict.assert_repeats_are_bounded();
}

#[test]
fn power_cuts_in_journal_mode_lose_nothing_acknowledged() {
    let Some(kafka) = Kafka::shared() else { return };
    let Some(mut site) = Unplugged::new(journal::builder(&kafka.bootstrap(), "crashes-power", ""), 4) else { return };
    let pause = Duration::from_millis(5);
    let plan = Plan { seed: 4, crashes: 8, clients: 8, pause, acknowledged_max: 1500 }.or_as_told();
    let verdict = torture::run(&mut site, kafka, &topic("crashes-power"), &plan);
    verdict.assert_nothing_is_lost();
    verdict.assert_repeats_are_bounded();
}

#[test]
fn a_sync_that_fails_ends_it_with_74_and_nothing_acknowledged_is_lost() {
    let Some(kafka) = Kafka::shared() else { return };
    let settings = journal::builder(&kafka.bootstrap(), "crashes-sync", "");
    let Some(unplugged) = Unplugged::new(settings, 5) else { return };
    let pause = Duration::from_millis(2);
    let plan = Plan { seed: 5, crashes: 4, clients: 8, pause, acknowledged_max: 200 }.or_as_told();
    let verdict = torture::run(&mut Failing::new(unplugged, true), kafka, &topic("crashes-sync"), &plan);
    verdict.assert_nothing_is_lost();
    verdict.assert_repeats_are_bounded();
}

#[test]
fn what_is_recorded_as_delivered_is_not_delivered_again_after_kill_9() {
    let Some(kafka) = Kafka::shared() else { return };
    let mut site = KilledWithJournal::new(journal::builder(&kafka.bootstrap(), "crashes-recorded", ""));
    let mut bridge = site.launch();
    bridge.wait_until_ready();
    let load = Load::start(bridge.callbacks, APP, 4, Duration::ZERO);
    wait::until("callbacks are acknowledged", || load.acknowledged() >= 200);
    let outcome = load.stop();
    // Once a second, also when nothing comes.
    wait::until("all of it is recorded", || inspect::undelivered(site.dir()) == 0);
    site.crash(bridge);
    let mut bridge = site.launch();
    bridge.wait_until_ready();
    assert_eq!(Ledger::of_scrape(&bridge.metrics()).recovered, 0);
    let records = Reader::open(&kafka.client(), &[&topic("crashes-recorded")]).collect_to_end();
    let verdict = torture::judge(&outcome, &records);
    verdict.assert_nothing_is_lost();
    assert_eq!(verdict.repeats, 0);
}

/// One callback of key `a` for each number, answered 200.
fn sent(numbers: &[u64]) -> Outcome {
    let sent = |sequence: &u64| Sent { key: "a".to_owned(), sequence: *sequence, status: Some(200) };
    Outcome { issued: numbers.iter().map(sent).collect() }
}

/// Their records.
fn records(numbers: &[u64]) -> Vec<Record> {
    let value = |number: &u64| format!(r#"{{"data":{{"callback":{}}}}}"#, load::body("a", *number)).into_bytes();
    let record = |(offset, number)| Record {
        topic: topic("a"),
        partition: 0,
        offset,
        key: Some(b"a".to_vec()),
        headers: Vec::new(),
        value: value(number),
    };
    (0..).zip(numbers).map(record).collect()
}

#[test]
fn the_judgement_counts_losses_and_repeats() {
    let verdict = torture::judge(&sent(&[1, 2, 3]), &records(&[1, 2, 1, 2]));
    assert_eq!((verdict.lost, verdict.repeats), ([3].into(), 2));
    assert_eq!(verdict.owed.len() + verdict.unanswered.len(), 3);
    torture::judge(&sent(&[1]), &records(&[1])).assert_nothing_is_lost();
}

#[test]
#[should_panic(expected = "1 lost")]
fn a_loss_is_a_failure() {
    torture::judge(&sent(&[1, 2]), &records(&[1])).assert_nothing_is_lost();
}

#[test]
#[should_panic(expected = "came first behind")]
fn a_broken_order_is_a_failure() {
    torture::judge(&sent(&[1, 2]), &records(&[2, 1]));
}

#[test]
#[should_panic(expected = "nobody sent")]
fn a_callback_out_of_nowhere_is_a_failure() {
    torture::judge(&sent(&[1]), &records(&[1, 2]));
}

#[test]
#[should_panic(expected = "not as it was sent")]
fn a_changed_callback_is_a_failure() {
    let mut changed = records(&[1]);
    changed[0].value = String::from_utf8(changed[0].value.clone()).unwrap().replace("admin", "adm1n").into_bytes();
    torture::judge(&sent(&[1]), &changed);
}
