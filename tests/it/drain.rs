//! `callbridge journal drain`: delivers what a journal holds, and says what it could not deliver.

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::seeds;
use crate::seeds::APP;
use crate::support::bridge;
use crate::support::bridge::Stopped;
use crate::support::full_disk::FullDisk;
use crate::support::http;
use crate::support::http::Client;
use crate::support::inspect;
use crate::support::journal;
use crate::support::kafka;
use crate::support::kafka::Kafka;
use crate::support::load;
use crate::support::load::Load;
use crate::support::load::Outcome;
use crate::support::oracle;
use crate::support::ports;
use crate::support::powercut::PowerCut;
use crate::support::process::Process;
use crate::support::reader::Reader;
use crate::support::reader::Record;
use crate::support::wait;

const LIMIT: Duration = Duration::from_secs(120);
/// One record a request, so that a drain takes long enough to be ended in the middle.
const SLOW: [&str; 2] = ["--kafka", "batch.num.messages=1"];

/// With an ack that keeps no journal: a drain is for leaving one behind.
const CONFIG: &str =
    "ack = \"broker\"\n[journal]\nsegment_bytes = 1048576\nfree_bytes_min = 0\non_corruption = \"salvage\"\n";

/// A journal that is not in use, with what a load has left there.
struct Left {
    outcome: Outcome,
    dir: PathBuf,
    _folder: TempDir,
}

impl Left {
    /// Of at least so many callbacks.
    fn of(count: u64) -> Self {
        let (folder, dir) = journal::folder();
        let outcome = leave(&dir, count);
        Self { outcome, dir, _folder: folder }
    }

    fn count(&self) -> u64 {
        self.outcome.acknowledged().count() as u64
    }
}

/// Leaves at least so many callbacks in a journal in `dir`.
fn leave(dir: &Path, count: u64) -> Outcome {
    let bridge = journal::builder(&ports::nobody(), "drain", "").start_in(dir);
    let load = Load::start(bridge.callbacks, APP, 16, Duration::ZERO);
    wait::until("callbacks are acknowledged", || load.acknowledged() >= count);
    let outcome = load.stop();
    let stopped = bridge.stop_and_wait();
    assert_eq!(stopped.ledger["waiting"], outcome.acknowledged().count() as u64, "{}", stopped.stderr);
    outcome
}

/// A drain that runs.
struct Drain {
    process: Process,
    _folder: TempDir,
}

impl Drain {
    fn start(dir: &Path, brokers: &str, prefix: &str, args: &[&str]) -> Self {
        let folder = TempDir::with_prefix_in("drain-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let config = folder.path().join("callbridge.toml");
        fs::write(&config, CONFIG).unwrap();
        let topics = bridge::four_topics();
        let words = [&topics, "CALLBRIDGE_TOPICS_REPLICATION_FACTOR=1", env!("CARGO_BIN_EXE_callbridge")];
        let ours = ["journal", "drain", "--config", config.to_str().unwrap(), "--data-dir", dir.to_str().unwrap()];
        let kafka = ["--brokers", brokers, "--topic-prefix", prefix];
        let words = [&words[..], &ours, &kafka, args].concat();
        Self { process: Process::start(folder.path(), "env", &words), _folder: folder }
    }

    /// Runs it to its end.
    fn run(dir: &Path, brokers: &str, prefix: &str, args: &[&str]) -> Stopped {
        Self::start(dir, brokers, prefix, &[&["--sdk-app-id", APP], args].concat()).wait()
    }

    fn wait(mut self) -> Stopped {
        let code = self.process.wait(LIMIT);
        let ledger = bridge::ledger(&self.process.stdout());
        Stopped { code, ledger, stderr: self.process.stderr() }
    }
}

/// What it says is left: how many, of which topic, and why.
fn not_delivered(stopped: &Stopped) -> Vec<(u64, Option<String>, String)> {
    let lines = stopped.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines = lines.filter(|line| line["fields"]["message"] == "not delivered");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let told = |line: Value| {
        let fields = &line["fields"];
        (fields["captures"].as_u64().unwrap(), text(&fields["topic"]), text(&fields["why"]).unwrap())
    };
    lines.map(told).collect()
}

fn records(kafka: &Kafka, prefix: &str) -> Vec<Record> {
    Reader::open(&kafka.client(), &[&format!("{prefix}.{}", load::COMMAND)]).collect_to_end()
}

#[test]
fn a_drain_delivers_what_waits_and_another_ack_starts() {
    let Some(kafka) = Kafka::shared() else { return };
    let left = Left::of(200);
    let brokers = kafka.bootstrap();
    let memory = journal::builder(&brokers, "drain-all", "").ack("memory");
    let stopped = memory.launch_in(&left.dir).wait();
    assert!(stopped.code == 78 && stopped.stderr.contains("`callbridge journal drain`"), "{stopped:?}");

    let stopped = Drain::run(&left.dir, &brokers, "drain-all", &["--create-topics"]);
    assert_eq!((stopped.code, not_delivered(&stopped)), (0, vec![]), "{}", stopped.stderr);
    assert_eq!((stopped.ledger["recovered"], stopped.ledger["delivered"]), (left.count(), left.count()));
    assert!(stopped.stderr.contains(&format!("\"left\":{}", left.count())), "{}", stopped.stderr);
    let judged = oracle::judge(&left.outcome, &records(kafka, "drain-all"));
    assert_eq!(judged.seen.len() as u64, left.count());
    assert_eq!(inspect::undelivered(&left.dir), 0);

    memory.start_in(&left.dir).stop_in_order();
    // An empty one needs no Kafka.
    let stopped = Drain::run(&left.dir, &ports::nobody(), "drain-all", &[]);
    assert_eq!((stopped.code, stopped.ledger["recovered"]), (0, 0), "{}", stopped.stderr);
}

#[test]
fn a_drain_that_is_killed_again_and_again_loses_nothing_and_keeps_order() {
    const KILLS: u64 = 4;
    let Some(kafka) = Kafka::shared() else { return };
    let left = Left::of(8000);
    let brokers = kafka.bootstrap();
    let args = [&["--sdk-app-id", APP, "--create-topics"], &SLOW[..]].concat();
    let mut killed = 0;
    for nth in 1..=KILLS {
        let mut drain = Drain::start(&left.dir, &brokers, "drain-killed", &args);
        let goal = left.count() - nth * left.count() / (5 * KILLS);
        wait::until("a part is delivered", || inspect::undelivered(&left.dir) <= goal);
        drain.process.signal(Signal::KILL);
        // On a busy machine it may have been quicker.
        killed += u64::from(drain.wait().code == 128 + 9);
    }
    assert!(killed > 0, "never in the middle");
    let stopped = Drain::run(&left.dir, &brokers, "drain-killed", &SLOW);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    let judged = oracle::judge(&left.outcome, &records(kafka, "drain-killed"));
    assert_eq!(judged.seen.len() as u64, left.count());
}

#[test]
fn a_drain_that_is_stopped_says_what_is_left_and_the_next_goes_on() {
    let Some(kafka) = Kafka::shared() else { return };
    let left = Left::of(8000);
    let (brokers, topic) = (kafka.bootstrap(), format!("drain-stopped.{}", load::COMMAND));
    let args = [&["--sdk-app-id", APP, "--create-topics"], &SLOW[..]].concat();
    let mut drain = Drain::start(&left.dir, &brokers, "drain-stopped", &args);
    wait::until("a part is delivered", || inspect::undelivered(&left.dir) < left.count());
    drain.process.signal(Signal::TERM);
    let stopped = drain.wait();
    let (remaining, delivered) = (inspect::undelivered(&left.dir), stopped.ledger["delivered"]);
    assert_eq!((stopped.code, delivered + remaining), (1, left.count()), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("\"why\":\"SIGTERM\""), "{}", stopped.stderr);
    let told = not_delivered(&stopped);
    assert!(matches!(&told[..], [(captures, Some(name), _)] if *captures == remaining && *name == topic), "{told:?}");

    assert_eq!(Drain::run(&left.dir, &brokers, "drain-stopped", &[]).code, 0);
    let judged = oracle::judge(&left.outcome, &records(kafka, "drain-stopped"));
    assert_eq!(judged.seen.len() as u64, left.count());
}

#[test]
fn a_drain_delivers_all_but_topics_that_are_stuck_and_names_them() {
    const ROUNDS: u64 = 5;
    let Some(kafka) = Kafka::with(kafka::Settings { nodes: 1, tls_and_scram: true }) else { return };
    let (lacking, forbidden) = (seeds::AFTER_ADD_SUBSCRIBER.command, seeds::AFTER_DESTROYED.command);
    let [lacking_topic, forbidden_topic] = [lacking, forbidden].map(|command| format!("drain-stuck.{command}"));
    let others = seeds::ALL.iter().map(|seed| seed.command).filter(|it| ![lacking, forbidden].contains(it));
    for suffix in others.chain(["unknown", "rejected"]) {
        kafka.create_topic(&format!("drain-stuck.{suffix}"), 1, 1);
    }
    kafka.create_topic(&forbidden_topic, 1, 1);
    kafka.forbid_writing(&forbidden_topic);
    let (_folder, dir) = journal::folder();
    let bridge = journal::builder(&ports::nobody(), "drain-stuck", "").start_in(&dir);
    let mut client = Client::connect(bridge.callbacks).unwrap();
    for seed in (0..ROUNDS).flat_map(|_round| seeds::ALL) {
        let answer = client.post(&http::callback_target(APP, seed.command), seed.body.as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "{}", seed.command);
    }
    assert_eq!(bridge.stop_and_wait().code, 0);

    let login = kafka.properties().into_iter().filter(|(name, _value)| name != "bootstrap.servers");
    let login: Vec<String> =
        login.flat_map(|(name, value)| ["--kafka".to_owned(), format!("{name}={value}")]).collect();
    let login: Vec<&str> = login.iter().map(String::as_str).collect();
    let stopped = Drain::run(&dir, &kafka.bootstrap(), "drain-stuck", &login);
    let not_there = "the topic does not exist: create it, or use --create-topics".to_owned();
    let not_allowed = "TopicAuthorizationFailed (Broker: Topic authorization failed)".to_owned();
    let mut told = not_delivered(&stopped);
    told.sort_by(|left, right| left.1.cmp(&right.1));
    let expected = vec![(ROUNDS, Some(lacking_topic), not_there), (ROUNDS, Some(forbidden_topic.clone()), not_allowed)];
    assert_eq!((stopped.code, told), (1, expected), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("kafka has accepted nothing for 30 s"), "{}", stopped.stderr);
    assert_eq!(inspect::undelivered(&dir), 2 * ROUNDS);

    let args = [&login[..], &["--create-topics", "--seconds", "15"]].concat();
    let told = not_delivered(&Drain::run(&dir, &kafka.bootstrap(), "drain-stuck", &args));
    assert!(matches!(&told[..], [(ROUNDS, Some(topic), _)] if *topic == forbidden_topic), "{told:?}");
}

#[test]
fn captures_of_an_application_that_is_not_configured_stay_and_are_told() {
    let Some(kafka) = Kafka::shared() else { return };
    let left = Left::of(3);
    let other = ["--sdk-app-id", "1400000001", "--create-topics"];
    let stopped = Drain::start(&left.dir, &kafka.bootstrap(), "drain-other", &other).wait();
    let why = format!("it was sent for the SdkAppid {APP}, which is not configured");
    assert_eq!((stopped.code, not_delivered(&stopped)), (1, vec![(left.count(), None, why)]), "{}", stopped.stderr);
    assert_eq!(inspect::undelivered(&left.dir), left.count());
}

#[test]
fn a_drain_without_kafka_ends_in_time_and_says_so() {
    let left = Left::of(3);
    let stopped = Drain::run(&left.dir, &ports::nobody(), "drain-away", &["--seconds", "4"]);
    assert!(stopped.stderr.contains("the time limit of --seconds has passed"), "{}", stopped.stderr);
    let told = not_delivered(&stopped);
    let is_told = |(captures, topic, why): &(u64, Option<String>, String)| {
        let of_load = topic.as_ref().is_some_and(|topic| topic.ends_with(load::COMMAND));
        *captures == left.count() && of_load && why.starts_with("kafka does not answer")
    };
    assert!(stopped.code == 1 && told.len() == 1 && told.iter().all(is_told), "{stopped:?}");
    assert_eq!(inspect::undelivered(&left.dir), left.count());
}

#[test]
fn a_drain_leaves_the_journal_of_a_running_callbridge_alone() {
    let (_folder, dir) = journal::folder();
    let bridge = journal::builder(&ports::nobody(), "drain", "").start_in(&dir);
    let stopped = Drain::run(&dir, &ports::nobody(), "drain", &[]);
    assert!(
        stopped.code == 1 && stopped.stderr.contains("is locked by another callbridge that is running"),
        "{stopped:?}"
    );
    assert_eq!(bridge.stop_and_wait().code, 0);
}

#[test]
fn a_drain_without_a_journal_ends_with_78_and_on_a_failed_disk_with_74() {
    let left = Left::of(3);
    let folder = TempDir::with_prefix_in("drain-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (absent, empty) = (folder.path().join("absent"), folder.path().join("empty"));
    fs::create_dir(&empty).unwrap();
    for (dir, code, says) in [
        (&absent, 78, "the directory does not exist"),
        (&folder.path().to_owned(), 78, "the directory holds other files"),
        (&empty, 0, "there is no journal to deliver"),
    ] {
        let stopped = Drain::run(dir, &ports::nobody(), "drain", &[]);
        assert!(stopped.code == code && stopped.stderr.contains(says), "{says}: {stopped:?}");
    }
    assert!(!absent.exists() && empty.read_dir().unwrap().next().is_none(), "they are only looked at");
    let embedded = ["journal", "drain", "--sdk-app-id", APP, "--embedded-broker", "--data-dir"];
    let embedded = inspect::run_with(&embedded, &left.dir);
    assert!(embedded.code == 78 && embedded.stderr.contains("embedded_broker: must not be set"), "{embedded:?}");
    assert_eq!(inspect::undelivered(&left.dir), left.count());

    let Some(disk) = PowerCut::mount(9) else { return };
    let dir = disk.path().join("journal");
    let bridge = journal::builder(&ports::nobody(), "drain", "").start_in(&dir);
    assert_eq!(bridge.stop_and_wait().code, 0);
    disk.cut();
    let stopped = Drain::run(&dir, &ports::nobody(), "drain", &[]);
    assert!(stopped.code == 74 && stopped.stderr.contains("Input/output error"), "{stopped:?}");
}

#[test]
fn a_drain_that_cannot_record_its_deliveries_does_not_call_the_journal_empty() {
    let Some(disk) = FullDisk::mount(16) else { return };
    let Some(kafka) = Kafka::shared() else { return };
    let dir = disk.path().join("journal");
    leave(&dir, 100);
    let spares = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    spares
        .filter(|path| path.extension().is_some_and(|it| it == "spare"))
        .for_each(|path| fs::remove_file(path).unwrap());
    disk.fill();
    let brokers = kafka.bootstrap();
    let stopped = Drain::run(&dir, &brokers, "drain-full", &["--create-topics"]);
    assert_eq!(stopped.code, 1, "{}", stopped.stderr);
    assert!(stopped.stderr.contains("deliveries could not be recorded"), "{}", stopped.stderr);
    disk.unfill();
    let stopped = Drain::run(&dir, &brokers, "drain-full", &[]);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
}

#[test]
fn a_drain_that_salvages_a_damaged_journal_does_not_call_it_empty() {
    let Some(kafka) = Kafka::shared() else { return };
    let left = Left::of(100);
    let mut segments: Vec<PathBuf> = fs::read_dir(&left.dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|it| it == "seg"));
    segments.sort();
    let file = File::options().read(true).write(true).open(&segments[0]).unwrap();
    // In the first frame.
    let (mut byte, at) = ([0], 4096 + 100);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    for _again in 0..2 {
        let stopped = Drain::run(&left.dir, &kafka.bootstrap(), "drain-damaged", &["--create-topics"]);
        assert_eq!(stopped.code, 1, "{}", stopped.stderr);
        assert!(stopped.stderr.contains("the journal is not empty"), "{}", stopped.stderr);
    }
}

#[test]
fn a_second_signal_ends_a_drain_at_once() {
    let Some(mut kafka) = Kafka::start(1) else { return };
    let left = Left::of(100);
    kafka.node(1).freeze();
    let mut drain = Drain::start(&left.dir, &kafka.bootstrap(), "drain-twice", &["--sdk-app-id", APP]);
    wait::until("it says what is left", || drain.process.stderr().contains("delivering the journal"));
    drain.process.signal(Signal::TERM);
    wait::until("it ends in order", || drain.process.stderr().contains("ending before the journal is empty"));
    drain.process.signal(Signal::TERM);
    let stopped = drain.wait();
    assert_eq!(stopped.code, 1, "{}", stopped.stderr);
    assert!(stopped.stderr.contains("ending at once"), "{}", stopped.stderr);
}
