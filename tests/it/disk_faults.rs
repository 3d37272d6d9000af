//! What journal mode does when its disk is full or fails: it never says 200 to what is not safe, and never loses what it has said 200 to.

use std::fs;
use std::fs::DirEntry;
use std::path::Path;
use std::time::Duration;

use crate::seeds;
use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::bridge::BridgeBuilder;
use crate::support::errno;
use crate::support::errno::Faults;
use crate::support::files::Files;
use crate::support::full_disk::FullDisk;
use crate::support::http;
use crate::support::http::Client;
use crate::support::journal;
use crate::support::kafka::Kafka;
use crate::support::ledger::Ledger;
use crate::support::ledger::Watch;
use crate::support::load;
use crate::support::load::Load;
use crate::support::load::Outcome;
use crate::support::oracle;
use crate::support::oracle::Judged;
use crate::support::ports;
use crate::support::reader::Reader;
use crate::support::wait;

const BEFORE: &str = "OfficialAccount.CallbackBeforeAddSubscriber";
const QUESTION: &str = r##"{"CallbackCommand":"OfficialAccount.CallbackBeforeAddSubscriber","Official_Account":"@TOA#_a",
    "Operator_Account":"o","SubscribeAccountList":[{"Subscriber_Account":"jared"},{"Subscriber_Account":"mallory"}]}"##;
const ANSWER: &str = r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"RefusedSubscribers_Account":["mallory"]}"#;

const CLIENTS: u64 = 8;
/// What the process may grow by while Kafka acknowledges nothing, as `docs/promises.md` says.
const GROWTH_BYTES: u64 = 48 << 20;

/// Waits until so many more are answered 200.
fn wait_until_acknowledged(load: &Load, more: u64) {
    let goal = load.acknowledged() + more;
    wait::until("callbacks are acknowledged", || load.acknowledged() >= goal);
}

/// Waits until every client has been told that the journal is full, and looks at what else says so.
fn wait_until_full(bridge: &Bridge) {
    wait::until("the journal is full", || bridge.lost("journal_full") >= CLIENTS as f64);
    assert_eq!(bridge.admin_page("/readyz"), (503, "the journal is full\n".to_owned()));
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let target = http::callback_target(APP, BEFORE);
    let response = client.post(&target, QUESTION.as_bytes()).unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, ANSWER), "a question needs no room");
}

/// Waits until all is delivered, judges, and stops it in peace.
fn end(bridge: Bridge, kafka: &Kafka, prefix: &str, outcome: &Outcome) -> Judged {
    wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
    let topic = format!("{prefix}.{}", load::COMMAND);
    let judged = oracle::judge(outcome, &Reader::open(&kafka.client(), &[&topic]).collect_to_end());
    let stopped = bridge.stop_and_wait();
    assert!(stopped.code == 0 && stopped.is_balanced(), "{stopped:?}");
    judged
}

fn blocklist(files: &Files) -> String {
    files.write("blocklist.txt", "mallory\n")
}

#[test]
fn a_full_disk_is_503_and_it_starts_on_it_and_goes_on_by_itself_when_kafka_is_back() {
    let Some(disk) = FullDisk::mount(16) else { return };
    let Some(mut kafka) = Kafka::start_alone() else { return };
    let files = Files::new();
    let settings = journal::builder(&kafka.bootstrap(), "full-disk", "quota_bytes = 1073741824");
    let settings = settings.args(&["--blocklist", &blocklist(&files)]);
    let dir = disk.path().join("journal");
    let bridge = settings.start_in(&dir);
    let load = Load::start(bridge.callbacks, APP, CLIENTS, Duration::ZERO);
    bridge.metrics_until(|metrics| metrics["callbridge_callbacks_delivered_total"] >= 100.0);

    kafka.node(1).freeze();
    let watch = Watch::start(bridge.admin);
    let resident_before = bridge.resident_bytes();
    wait_until_full(&bridge);
    let resident = bridge.resident_bytes();
    assert!(resident < resident_before + GROWTH_BYTES, "{resident_before} became {resident}");
    watch.assert_balanced();
    disk.fill();
    assert_eq!(disk.free_bytes(), 0);
    load.aim_nowhere();
    assert_eq!(bridge.kill9().code, 128 + 9);

    let bridge = settings.start_in(&dir);
    let watch = Watch::start(bridge.admin);
    let acknowledged_before = load.acknowledged();
    load.aim(bridge.callbacks);
    wait_until_full(&bridge);
    assert_eq!(load.acknowledged(), acknowledged_before, "there is no room");
    assert!(Ledger::of_scrape(&bridge.metrics()).recovered > 0);

    kafka.node(1).thaw();
    wait_until_acknowledged(&load, 1000);
    wait::until("it is ready", || bridge.admin_page("/readyz").0 == 200);
    let outcome = load.stop();
    watch.assert_balanced();
    let judged = end(bridge, &kafka, "full-disk", &outcome);
    assert!(!judged.unavailable.is_empty());
}

#[test]
fn a_first_start_on_a_full_disk_is_not_ready_until_there_is_room() {
    let Some(disk) = FullDisk::mount(16) else { return };
    disk.fill();
    let files = Files::new();
    let nobody = ports::nobody();
    // The default quota depends on what is free.
    let settings = journal::builder(&nobody, "first", "").args(&["--blocklist", &blocklist(&files)]);
    let bridge = settings.start_in(disk.path());
    let load = Load::start(bridge.callbacks, APP, CLIENTS, Duration::ZERO);
    wait_until_full(&bridge);
    assert_eq!(load.acknowledged(), 0);
    assert_eq!(bridge.admin_page("/livez").0, 200);
    disk.unfill();
    wait_until_acknowledged(&load, 100);
    load.stop();
    assert_eq!(bridge.stop_and_wait().code, 0);
}

#[test]
fn a_disk_without_room_for_another_segment_is_told_before_the_journal_is_full() {
    let Some(disk) = FullDisk::mount(16) else { return };
    let nobody = ports::nobody();
    let bridge = journal::builder(&nobody, "no-spare", "").start_in(disk.path());
    let has_spare = |file: std::io::Result<DirEntry>| file.unwrap().path().extension().is_some_and(|it| it == "spare");
    wait::until("a segment is made in advance", || fs::read_dir(disk.path()).unwrap().any(has_spare));
    disk.fill();
    let post = || {
        let mut client = Client::connect(bridge.callbacks).unwrap();
        let body = load::body("@TOA#_a", 1);
        client.post(&http::callback_target(APP, load::COMMAND), body.as_bytes()).unwrap().status
    };
    assert_eq!(post(), 200, "it is used");
    let told = "no other segment can be made: the quota of the journal is used, or its filesystem is full or fails";
    wait::until("it is not ready", || bridge.admin_page("/readyz") == (503, format!("{told}\n")));
    wait::until("the log says so", || bridge.stderr().contains(told));
    assert_eq!(post(), 200, "the current segment has room");
    disk.unfill();
    wait::until("it is ready", || bridge.admin_page("/readyz").0 == 200);
    assert_eq!(bridge.stop_and_wait().code, 0);
}

#[test]
pub(crate) fn a_quota_that_is_reached_is_503_until_segments_are_delivered() {
    let Some(kafka) = Kafka::shared() else { return };
    let (files, (_folder, dir)) = (Files::new(), journal::folder());
    let blocklist = blocklist(&files);
    let quota = format!("quota_bytes = {}", 4 * journal::SEGMENT_BYTES);
    let settings = |brokers: &str| journal::builder(brokers, "quota", &quota).args(&["--blocklist", &blocklist]);
    let nobody = ports::nobody();
    let bridge = settings(&nobody).start_in(&dir);
    let watch = Watch::start(bridge.admin);
    // Each topic takes its share, until too little is left for one that holds nothing yet.
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let mut acknowledged = 0;
    let seeds = [seeds::AFTER_ADD_SUBSCRIBER, seeds::AFTER_DESTROYED].map(|seed| (seed.command, seed.body));
    for (command, body) in seeds.into_iter().chain([("State.StateChange", "{}"), (load::COMMAND, "{}")]) {
        for blanks in [50_000, 4_000] {
            let body = format!("{body}{}", " ".repeat(blanks));
            while bridge.lost("journal_full") == 0.0 {
                let answer = client.post(&http::callback_target(APP, command), body.as_bytes()).unwrap();
                if answer.status == 503 {
                    break;
                }
                acknowledged += 1;
            }
        }
    }
    assert!(bridge.lost("journal_full") > 0.0 && bridge.lost("topic_full") > 0.0);
    let answer = client.post(&http::callback_target(APP, BEFORE), QUESTION.as_bytes()).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, ANSWER), "a question needs no room");
    let files_bytes: u64 = fs::read_dir(&dir).unwrap().map(|it| it.unwrap().metadata().unwrap().len()).sum();
    assert!(files_bytes <= 4 * journal::SEGMENT_BYTES, "{files_bytes}");
    watch.assert_balanced();
    let stopped = bridge.stop_and_wait();
    assert!(stopped.code == 0 && stopped.is_balanced() && stopped.ledger["waiting"] >= acknowledged, "{stopped:?}");

    let settings = settings(&kafka.bootstrap());
    let bridge = settings.start_in(&dir);
    let load = Load::start(bridge.callbacks, APP, CLIENTS, Duration::ZERO);
    wait_until_acknowledged(&load, 1000);
    assert!(Ledger::of_scrape(&bridge.metrics()).recovered >= acknowledged);
    wait::until("it is ready", || bridge.admin_page("/readyz").0 == 200);
    let outcome = load.stop();
    end(bridge, kafka, "quota", &outcome);
}

/// Starts it so that its disk can be given faults, and a load on it.
fn start_with_faults(kafka: &Kafka, prefix: &str, faults: &Faults, dir: &Path) -> (BridgeBuilder, Bridge, Load) {
    let settings = journal::builder(&kafka.bootstrap(), prefix, "");
    let bridge = settings.clone().under(&faults.prefix(&[])).start_in(dir);
    let load = Load::start(bridge.callbacks, APP, CLIENTS, Duration::from_millis(2));
    wait_until_acknowledged(&load, 200);
    (settings, bridge, load)
}

#[test]
pub(crate) fn a_disk_error_exits_74_without_one_more_200_and_the_next_start_has_the_rest() {
    let (Some(kafka), Some(faults)) = (Kafka::shared(), Faults::available()) else { return };
    let (_folder, dir) = journal::folder();
    let (settings, bridge, load) = start_with_faults(kafka, "eio", &faults, &dir);
    faults.switch_on(bridge.pid(), errno::SYNC_FAILS);
    let acknowledged = load.acknowledged();
    load.aim_nowhere();
    let stopped = bridge.wait();
    assert_eq!(stopped.code, journal::DISK_FAILED, "{}", stopped.stderr);
    assert!(stopped.stderr.contains("the journal's disk has failed"), "{}", stopped.stderr);
    let after = load.acknowledged() - acknowledged;
    assert!(after <= CLIENTS, "{after} answers of 200, and only {CLIENTS} could be on their way");

    let bridge = settings.start_in(&dir);
    load.aim(bridge.callbacks);
    wait_until_acknowledged(&load, 200);
    let outcome = load.stop();
    end(bridge, kafka, "eio", &outcome);
}

#[test]
fn no_space_where_there_should_be_some_is_503_until_there_is() {
    let (Some(kafka), Some(faults)) = (Kafka::shared(), Faults::available()) else { return };
    let (_folder, dir) = journal::folder();
    let (_settings, bridge, load) = start_with_faults(kafka, "enospc", &faults, &dir);
    faults.switch_on(bridge.pid(), errno::NO_SPACE);
    wait::until("callbacks are refused", || bridge.lost("journal_full") >= CLIENTS as f64);
    faults.switch_off(bridge.pid(), errno::NO_SPACE);
    wait_until_acknowledged(&load, 200);
    let outcome = load.stop();
    let judged = end(bridge, kafka, "enospc", &outcome);
    assert!(judged.unavailable.len() >= usize::try_from(CLIENTS).unwrap() && judged.unanswered.is_empty());
}

#[test]
fn short_writes_lose_nothing() {
    let (Some(kafka), Some(faults)) = (Kafka::shared(), Faults::available()) else { return };
    let (_folder, dir) = journal::folder();
    let (settings, bridge, load) = start_with_faults(kafka, "short", &faults, &dir);
    faults.switch_on(bridge.pid(), errno::SHORT_WRITES);
    wait_until_acknowledged(&load, 1000);
    load.aim_nowhere();
    assert_eq!(bridge.kill9().code, 128 + 9);
    let bridge = settings.start_in(&dir);
    let outcome = load.stop();
    end(bridge, kafka, "short", &outcome);
}
