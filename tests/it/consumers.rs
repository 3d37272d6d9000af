//! The example consumers of `deploy/consumers`, each run as it stands on a real Kafka: killed after its work and before its commit,
//! started again, given repeats and malformed records, and stopped.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::BaseConsumer;
use rdkafka::consumer::Consumer;
use rdkafka::message::Header;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::BaseRecord;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::producer::Producer;
use rdkafka::producer::ThreadedProducer;
use rustix::process::Signal;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use crate::seeds;
use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::commit_proxy::CommitProxy;
use crate::support::http::Client;
use crate::support::http::callback_target;
use crate::support::kafka::Kafka;
use crate::support::ledger::Ledger;
use crate::support::process::Process;
use crate::support::reader::Reader;
use crate::support::reader::Record;
use crate::support::real;
use crate::support::samples;
use crate::support::tools;
use crate::support::wait;

const MINUTE: Duration = Duration::from_secs(60);

/// For one answer of the broker.
const REQUEST: Duration = Duration::from_secs(30);

/// An `id` of the kind `body`, of the kind `body`, of the kind `key`, of the kind `content`.
const COMMANDS: [&str; 4] = [SUBSCRIPTION, seeds::AFTER_DESTROYED.command, MESSAGE, FRIEND];

const SUBSCRIPTION: &str = seeds::AFTER_ADD_SUBSCRIBER.command;
const MESSAGE: &str = "C2C.CallbackAfterSendMsg";
const FRIEND: &str = "Sns.CallbackFriendAdd";

/// How an example is built and run.
struct Example {
    name: &'static str,
    /// Without this program, the test is skipped.
    builder: &'static str,
    /// The target of `make` that builds it.
    target: Option<&'static str>,
    /// Whether `.ci/run` installs the builder where it is missing. It does not install toolchains that only an example needs.
    is_required: bool,
    command: &'static [&'static str],
    /// After SIGTERM.
    exit_code: i32,
}

const PYTHON: Example = Example {
    name: "python",
    builder: "target/venv/bin/python",
    // `make tools` has done it.
    target: None,
    is_required: true,
    command: &["target/venv/bin/python", "deploy/consumers/python/consumer.py"],
    exit_code: 0,
};

const JAVA: Example = Example {
    name: "java",
    builder: "mvn",
    target: Some("target/consumers/java/target/built"),
    is_required: true,
    command: &[
        "java",
        // For a quick start, not for speed.
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-Xmx128m",
        "-cp",
        "target/consumers/java/target/classes:target/consumers/java/target/dependency/*",
        "EventConsumer",
    ],
    // The JVM ends so after SIGTERM, however well its hooks have done.
    exit_code: 143,
};

const GO: Example = Example {
    name: "go",
    builder: "go",
    target: Some("target/consumers/go/consumer"),
    is_required: false,
    command: &["target/consumers/go/consumer"],
    exit_code: 0,
};

const NODE: Example = Example {
    name: "node",
    builder: "npm",
    target: Some("target/consumers/node/built"),
    is_required: false,
    command: &["target/consumers/node/bin/node", "target/consumers/node/consumer.js"],
    exit_code: 0,
};

#[test]
fn the_python_consumer_does_the_work_of_each_event_once() {
    does_the_work_of_each_event_once(&PYTHON);
}

#[test]
fn the_java_consumer_does_the_work_of_each_event_once() {
    does_the_work_of_each_event_once(&JAVA);
}

#[test]
fn the_go_consumer_does_the_work_of_each_event_once() {
    does_the_work_of_each_event_once(&GO);
}

#[test]
fn the_node_consumer_does_the_work_of_each_event_once() {
    does_the_work_of_each_event_once(&NODE);
}

#[test]
fn the_python_consumer_is_tested_with_the_versions_that_it_names() {
    let makefile = fs::read_to_string(tools::repository("Makefile")).unwrap();
    let installed = makefile.lines().find_map(|line| line.strip_prefix("PYTHON := ")).unwrap();
    let named = fs::read_to_string(tools::repository("deploy/consumers/python/requirements.txt")).unwrap();
    for requirement in named.lines() {
        assert!(installed.split(' ').any(|it| it == requirement), "{requirement} is not in the Makefile");
    }
}

/// The examples share their tables and their rules, so one test is right for all.
fn does_the_work_of_each_event_once(example: &Example) {
    if !example.is_built() {
        return;
    }
    let Some(kafka) = Kafka::shared() else { return };
    let prefix = format!("consumers-{}", example.name);
    let topics = COMMANDS.map(|command| format!("{prefix}.{command}"));
    let data = TempDir::with_prefix_in("consumers-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let database = data.path().join("database");
    let proxy = CommitProxy::start(&kafka.bootstrap());
    let start = || Running::start(example, &proxy.address(), &prefix, &topics, &database);

    send_to_bridge(kafka, &prefix, "binary", 0..10);
    proxy.withhold_commits();
    let killed = start();
    proxy.wait_until_one_is_withheld();
    killed.end(Signal::KILL);
    let before = written(&database);
    assert!(before["seen"].as_u64() > Some(0), "{before}");
    let offsets = committed(kafka, &prefix, &topics);
    assert!(offsets.iter().all(|(committed, _end)| *committed == Offset::Invalid), "{offsets:?}");

    proxy.pass_commits();
    write_by_hand(kafka, &topics);
    send_to_bridge(kafka, &prefix, "structured", 5..20);
    let restarted = start();
    wait::until("the offsets of all records are committed", || {
        committed(kafka, &prefix, &topics).iter().all(|(committed, end)| *committed == Offset::Offset(*end))
    });
    let code = restarted.end(Signal::TERM);

    assert_eq!(code, example.exit_code);
    let counts = json!({
        SUBSCRIPTION: 20,
        seeds::AFTER_DESTROYED.command: 1,
        // The sample and the odd one.
        MESSAGE: 2,
        // Now, and an hour later.
        FRIEND: 2,
    });
    assert_eq!(written(&database), json!({"counts": counts, "rejected": MALFORMED, "seen": 25}));
    assert_eq!(members(kafka, &prefix), 0, "the consumer has left the group");
}

impl Example {
    /// Builds it. Where its toolchain is missing, says that the test is skipped.
    fn is_built(&self) -> bool {
        let found = tools::in_path(self.builder);
        if let (Err(missing), false) = (&found, self.is_required) {
            real::say_skipped(missing);
            return false;
        }
        if real::found_or_skipped(found).is_none() {
            return false;
        }
        if let Some(target) = self.target {
            tools::output(Command::new("make").args(["-s", target]).current_dir(env!("CARGO_MANIFEST_DIR")));
        }
        true
    }
}

/// A consumer as a process.
struct Running {
    process: Process,
    folder: TempDir,
}

impl Running {
    fn start(example: &Example, brokers: &str, group: &str, topics: &[String], database: &Path) -> Self {
        let folder = TempDir::with_prefix_in("consumer-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut words = vec![
            format!("--chdir={}", env!("CARGO_MANIFEST_DIR")),
            format!("KAFKA_BROKERS={brokers}"),
            format!("KAFKA_TOPICS={}", topics.join(",")),
            format!("KAFKA_GROUP={group}"),
            format!("DATABASE={}", database.display()),
            "SCHEMAS=deploy/schemas".to_owned(),
        ];
        words.extend(example.command.iter().map(|&word| word.to_owned()));
        Self { process: Process::start(folder.path(), "env", &words), folder }
    }

    /// Ends it with a signal. Returns its exit code.
    fn end(mut self, signal: Signal) -> i32 {
        self.process.signal(signal);
        self.process.wait(MINUTE)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // By macro, so that it stands with the output of the test that failed.
            #[expect(clippy::print_stderr, reason = "the log of what failed")]
            {
                eprintln!("{}: {}{}", self.folder.path().display(), self.process.stdout(), self.process.stderr());
            }
        }
    }
}

/// Starts a callbridge that publishes in `mode`, sends it callbacks, each twice, and stops it when Kafka has all of them.
fn send_to_bridge(kafka: &Kafka, prefix: &str, mode: &str, subscriptions: Range<u32>) {
    let bridge = Bridge::builder()
        .brokers(&kafka.bootstrap())
        .topics(prefix)
        .variable("CALLBRIDGE_TOPICS_COMMANDS", &COMMANDS.join(","))
        .settings(&format!("envelope.mode = {mode:?}"))
        .start();
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let mut send_twice = |command: &str, body: &str| {
        for _time in 0..2 {
            assert_eq!(client.post(&callback_target(APP, command), body.as_bytes()).unwrap().status, 200);
        }
    };
    for number in subscriptions {
        let account = format!("@TOA#_{}", number % 5);
        let body = json!({
            "CallbackCommand": SUBSCRIPTION,
            "Official_Account": account,
            "SubscribeAccountList": [{"Subscriber_Account": "jared"}],
            "EventTime": 1_670_574_414_123_u64 + u64::from(number),
        });
        send_twice(SUBSCRIPTION, &body.to_string());
    }
    send_twice(seeds::AFTER_DESTROYED.command, seeds::AFTER_DESTROYED.body);
    send_twice(MESSAGE, sample(MESSAGE));
    send_twice(MESSAGE, &odd_message());
    if mode == "binary" {
        send_twice(FRIEND, sample(FRIEND));
    }
    bridge.metrics_until(|metrics| Ledger::of_scrape(metrics).waiting == 0);
    bridge.stop_in_order();
}

fn sample(command: &str) -> &'static str {
    samples::first_of(callbridge::command::Command::find(command).unwrap()).callback.get()
}

/// JSON that callbridge publishes and that parsers may stumble over.
fn odd_message() -> String {
    let (deep, flat) = ("[".repeat(499), "]".repeat(499));
    let digits = "9".repeat(2000);
    format!(
        r#"{{"From_Account":"leckie","To_Account":"jared","MsgSeq":1,"MsgRandom":2,"MsgTime":3,"MsgKey":"1_2_3",
        "MsgBody":[],"CloudCustomData":"\ud800","Digits":{digits},"Twice":1,"Twice":2,"Deep":{deep}{flat}}}"#
    )
}

/// How many records of `write_by_hand` no consumer can use.
const MALFORMED: usize = 8;

/// Writes records that callbridge would write an hour later, and malformed ones that it never would.
fn write_by_hand(kafka: &Kafka, topics: &[String; 4]) {
    let producer: ThreadedProducer<DefaultProducerContext> = kafka.client().create().unwrap();
    let write = |topic: &str, headers: &[(&str, &str)], value: Option<&str>| {
        let owned = headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(*value) }));
        let record: BaseRecord<'_, str, str> = BaseRecord::to(topic).headers(owned);
        let record = value.iter().fold(record, |record, value| record.payload(value));
        producer.send(record).map_err(|(error, _record)| error).unwrap();
    };
    let first_of = |topic: &str| Reader::open(&kafka.client(), &[topic]).collect(1, MINUTE).swap_remove(0);
    for topic in &topics[2..] {
        let record = first_of(topic);
        let headers = headers_of(&record);
        let later = with(&headers, "ce_receivedtime", "2099-01-01T00:00:00.000Z");
        write(topic, &later, str::from_utf8(&record.value).ok());
    }

    let topic = &topics[0];
    let record = first_of(topic);
    let headers = headers_of(&record);
    let valid = str::from_utf8(&record.value).ok();
    let as_they_are = with(&headers, "ce_id", "00000000000000000000000000000000");
    let structured = [("content-type", "application/cloudevents+json")];
    write(topic, &[], Some("not JSON"));
    write(topic, &[], valid);
    write(topic, &as_they_are, None);
    write(topic, &as_they_are, Some("not JSON"));
    write(topic, &as_they_are, Some(r#"{"callback":{},"event":{"subscribers":[]}}"#));
    write(topic, &with(&headers, "ce_dataschema", &format!("urn:callbridge:schema:{SUBSCRIPTION}:2")), valid);
    write(topic, &with(&headers, "ce_receivedtime", "yesterday"), valid);
    write(topic, &structured, Some(r#"[1]"#));
    producer.flush(MINUTE).unwrap();
}

fn headers_of(record: &Record) -> Vec<(&str, String)> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    record.headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect()
}

/// The headers with another value for one of them.
fn with<'a>(headers: &'a [(&'a str, String)], name: &str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    headers.iter().map(|(it, old)| (*it, if *it == name { value } else { old.as_str() })).collect()
}

/// Of each partition that holds records, the offset that the group has committed, and the end.
fn committed(kafka: &Kafka, group: &str, topics: &[String]) -> Vec<(Offset, i64)> {
    let consumer: BaseConsumer = kafka.client().set("group.id", group).create().unwrap();
    let mut partitions = TopicPartitionList::new();
    for topic in topics {
        let metadata = consumer.fetch_metadata(Some(topic), REQUEST).unwrap();
        for partition in metadata.topics()[0].partitions() {
            partitions.add_partition(topic, partition.id());
        }
    }
    let committed = consumer.committed_offsets(partitions, REQUEST).unwrap();
    let end = |topic: &str, partition: i32| consumer.fetch_watermarks(topic, partition, REQUEST).unwrap().1;
    let offsets = committed.elements();
    let offsets = offsets.iter().map(|it| (it.offset(), end(it.topic(), it.partition())));
    offsets.filter(|(_committed, end)| *end > 0).collect()
}

fn members(kafka: &Kafka, group: &str) -> usize {
    let consumer: BaseConsumer = kafka.client().create().unwrap();
    let groups = consumer.fetch_group_list(Some(group), REQUEST).unwrap();
    groups.groups()[0].members().len()
}

/// What the consumer has written.
fn written(database: &Path) -> Value {
    let script = tools::repository("tests/foreign/database.py");
    serde_json::from_str(&tools::output(Command::new("python3").arg(script).arg(database))).unwrap()
}
