//! What holds of the topics before callbacks are let through.

use std::collections::HashSet;
use std::time::Duration;

use callbridge::clock;
use callbridge::command::Command;
use serde_json::Value;

use crate::seeds;
use crate::seeds::APP;
use crate::support::bridge;
use crate::support::bridge::Bridge;
use crate::support::bridge::BridgeBuilder;
use crate::support::http;
use crate::support::http::Client;
use crate::support::http::Response;
use crate::support::kafka::Kafka;
use crate::support::ledger::Ledger;
use crate::support::reader::Reader;
use crate::support::wait;

/// How long a number of brokers below three must stay the same.
const STEADY: Duration = Duration::from_secs(10);
/// Undoes what the harness sets: an empty variable counts as absent.
const REPLICATION_FACTOR: &str = "CALLBRIDGE_TOPICS_REPLICATION_FACTOR";

const MINUTE: Duration = Duration::from_secs(60);

const AFTER: &str = seeds::AFTER_INFO_CHANGED.command;

#[test]
fn a_topic_that_is_deleted_is_named_long_before_its_records_fail() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = format!("deleted.{AFTER}");
    let bridge = unready(kafka).topics("deleted").start();
    let post = || {
        let mut client = Client::connect(bridge.callbacks).unwrap();
        client.post(&http::callback_target(APP, AFTER), br#"{"Official_Account":"@a"}"#).unwrap().status
    };
    // Kafka may be too slow for the first ones on a busy machine.
    wait::until("callbacks are delivered", || post() == 200);
    kafka.delete_topic(&topic);
    assert_eq!(post(), 503);
    let mut stderr = String::new();
    wait::until("it is told", || {
        stderr = bridge.stderr();
        stderr.contains("topics do not exist any more")
    });
    assert!(stderr.contains(&format!(r#""topics":"{topic}""#)), "{stderr}");
    // Which the client says when it no longer believes in the topic, half a minute later.
    assert!(!stderr.contains("kafka did not accept a record"), "{stderr}");
}

#[test]
fn missing_topics_are_named_and_readiness_follows_when_they_are_made_by_hand() {
    let Some(kafka) = Kafka::shared() else { return };
    let names = names("byhand");
    let bridge = unready(kafka).args(&["--topic-prefix", "byhand"]).start_unready();

    for (made, name) in names.iter().enumerate() {
        wait_until_unready_for(&bridge, &names[made..]);
        assert_eq!(bridge.stdout(), "", "addresses are printed once it is ready");
        kafka.create_topic(name, 1, 1);
    }

    wait_until_ready(&bridge);
    bridge.warm_up(APP);
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let answer = client.post(&http::callback_target(APP, AFTER), br#"{"Official_Account":"@a"}"#).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let records = Reader::open(&kafka.client(), &[&format!("byhand.{AFTER}")]).collect(1, MINUTE);
    assert_eq!(records[0].key.as_deref(), Some(&b"@a"[..]));
    // Looked at five times a second, and told once each.
    let told = errors(&bridge);
    assert!(names.iter().all(|name| told[0].contains(name)), "{told:?}");
    assert_eq!(told.iter().collect::<HashSet<_>>().len(), told.len(), "{told:?}");
}

#[test]
fn a_topic_that_is_missing_at_the_start_holds_up_only_its_own_callbacks() {
    let Some(kafka) = Kafka::shared() else { return };
    let other = seeds::AFTER_DESTROYED.command;
    let start = |ack: &'static str| {
        let prefix = format!("lacking-{ack}");
        let missing = format!("{prefix}.{AFTER}");
        names(&prefix).iter().filter(|name| **name != missing).for_each(|name| kafka.create_topic(name, 1, 1));
        let builder = Bridge::builder().brokers(&kafka.bootstrap()).ack(ack).args(&["--topic-prefix", &prefix]);
        let bridge = builder.start_unready();
        wait_until_unready_for(&bridge, &[missing]);
        (ack, bridge)
    };
    let post = |bridge: &Bridge, command: &str, key: usize| {
        let body = format!(r#"{{"Official_Account":"@{key}"}}"#);
        let mut client = Client::connect(bridge.callbacks).unwrap();
        client.post(&http::callback_target(APP, command), body.as_bytes()).unwrap().status
    };
    let bridges = ["broker", "memory"].map(start);
    for (ack, bridge) in &bridges {
        wait_until_ready(bridge);
        // A thread of its own writes the log.
        wait::until("it is in the log", || {
            let lines = lines(bridge);
            let line = lines.iter().find(|line| line["fields"]["message"] == "not waiting for some topics");
            line.is_some_and(|line| {
                line["fields"]["missing"].as_str().unwrap().ends_with(&format!(": lacking-{ack}.{AFTER}"))
            })
        });
        for key in 0..20 {
            wait::until("a callback of another topic is answered", || post(bridge, other, key) == 200);
        }
        let status = if *ack == "memory" { 200 } else { 503 };
        assert_eq!(post(bridge, AFTER, 0), status, "{ack}");
        wait::until("the others still are", || post(bridge, other, 20) == 200);
        kafka.create_topic(&format!("lacking-{ack}.{AFTER}"), 1, 1);
    }
    for (ack, bridge) in &bridges {
        wait::until("a callback of the topic is answered", || post(bridge, AFTER, 1) == 200);
        wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
        Reader::open(&kafka.client(), &[&format!("lacking-{ack}.{other}")]).collect(21, MINUTE);
    }
    for (_, bridge) in bridges {
        bridge.stop_in_order();
    }
}

#[test]
fn on_one_broker_topics_get_one_replica_after_ten_seconds_and_a_warning() {
    let Some(kafka) = Kafka::shared() else { return };
    let names = names("made");
    kafka.create_topic(&names[0], 2, 1);

    let began = clock::monotonic();
    let builder = Bridge::builder().brokers(&kafka.bootstrap()).topics("made").ack("broker");
    let builder = builder.settings("topics.retention_ms = 3600000").variable(REPLICATION_FACTOR, "");
    let bridge = builder.start();

    assert!(began.elapsed() >= STEADY, "{:?}", began.elapsed());
    let untouched = kafka.describe(&names[0]);
    assert_eq!((untouched.partitions.len(), untouched.configs["retention.ms"].as_str()), (2, "604800000"));
    for name in &names[1..] {
        let description = kafka.describe(name);
        assert_eq!(description.partitions.len(), 6, "{name}");
        assert!(description.partitions.iter().all(|it| it.replicas.len() == 1), "{name}: {description:?}");
        assert_eq!(description.configs["min.insync.replicas"], "1", "{name}");
        assert_eq!(description.configs["retention.ms"], "3600000", "{name}");
    }
    let warnings = lines(&bridge).into_iter().filter(|line| line["level"] == "WARN");
    let of_replicas = |line: &Value| line["fields"]["message"].as_str().unwrap().contains("fewer than 3 replicas");
    let warnings: Vec<Value> = warnings.filter(of_replicas).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0]["fields"]["topics"], names[1..].join(", "));
}

#[test]
fn topics_get_three_replicas_although_one_of_three_brokers_was_down_at_the_start() {
    let Some(mut kafka) = Kafka::start(3) else { return };
    kafka.node(3).freeze();
    kafka.wait_until_there(&[1, 2]);
    let bridge = unready(&kafka).topics("partial").start_unready();
    wait_for_readyz(&bridge, |answer| answer.text().contains("the cluster shows 2 of 3 brokers"));
    kafka.node(3).thaw();
    wait_until_ready(&bridge);
    assert_made_on_three_brokers(&kafka, "partial");
    assert!(!bridge.stderr().contains("fewer than 3 replicas"), "{}", bridge.stderr());
}

#[test]
fn is_ready_only_when_every_leader_answers_so_the_first_callbacks_are_delivered() {
    let Some(mut kafka) = Kafka::start(3) else { return };
    for name in names("led") {
        kafka.create_topic(&name, 6, 3);
    }
    let leads = |kafka: &Kafka| {
        let description = kafka.describe(&format!("led.{AFTER}"));
        description.partitions.iter().any(|partition| partition.leader == 3)
    };
    assert!(leads(&kafka));
    kafka.node(3).freeze();
    let bridge = Bridge::builder()
        .brokers(&kafka.node_address(1))
        .ack("broker")
        .args(&["--topic-prefix", "led"])
        .start_unready();
    // It stays frozen: what it led is led by others some seconds later.
    wait_until_ready(&bridge);
    let mut client = Client::connect(bridge.callbacks).unwrap();
    for key in 0..20 {
        let body = format!(r#"{{"Official_Account":"@{key}"}}"#);
        let answer = client.post(&http::callback_target(APP, AFTER), body.as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "key {key}: {}", answer.text());
    }
    kafka.node(3).thaw();
    bridge.stop_in_order();
}

#[test]
fn topics_that_cannot_be_made_are_told_with_the_reason() {
    let Some(kafka) = Kafka::shared() else { return };
    let builder = unready(kafka).topics("unmade").settings("topics.replication_factor = 3");
    let bridge = builder.variable(REPLICATION_FACTOR, "").start_unready();

    let reason = "unmade.rejected: InvalidReplicationFactor (Broker: Invalid replication factor)";
    let why = wait_for_readyz(&bridge, |answer| answer.text().contains(reason));
    assert_eq!(why.status, 503);
    assert!(why.text().starts_with("topics could not be created: "), "{}", why.text());
    assert!(names("unmade").iter().all(|name| why.text().contains(name)), "{}", why.text());
    // A thread of its own writes the log.
    wait::until("it is in the log", || errors(&bridge) == [why.text().trim_end()]);
    assert_eq!(bridge.stdout(), "");
}

#[test]
pub(crate) fn callbacks_wait_for_kafka_at_the_start_until_their_deadline_and_then_get_through() {
    let Some(mut kafka) = Kafka::start(1) else { return };
    kafka.node(1).kill();
    let bridge = unready(&kafka).topics("away").start_unready();
    let why = wait_for_readyz(&bridge, |answer| answer.text().starts_with("kafka does not answer: "));
    assert_eq!(why.status, 503);
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let question = &seeds::BEFORE_ADD_SUBSCRIBER;
    let answer = client.post(&http::callback_target(APP, question.command), question.body.as_bytes()).unwrap();
    assert_eq!(answer.status, 200, "a question does not wait for Kafka: {}", answer.text());
    let answer = client.post(&http::callback_target(APP, "Future.CallbackBeforeSendMsg"), b"{}").unwrap();
    assert_eq!(answer.status, 200, "nor does one of a command that is not of the table: {}", answer.text());

    let mut lost = 0_u32;
    let mut post = || client.post(&http::callback_target(APP, AFTER), br#"{"Official_Account":"@a"}"#).unwrap();
    let first = post();
    lost += 1;
    kafka.node(1).restart();
    let deadline = clock::monotonic() + MINUTE;
    while post().status != 200 {
        lost += 1;
        assert!(clock::monotonic() < deadline, "no callback gets through:\n{}", bridge.stderr());
    }

    assert_eq!((first.status, first.header("retry-after")), (503, Some("1")), "{}", first.text());
    assert!(first.text().contains("not acknowledged in time"), "{}", first.text());
    wait_until_ready(&bridge);
    let topics = [format!("away.{}", question.command), "away.unknown".to_owned(), format!("away.{AFTER}")];
    let topics = topics.each_ref().map(String::as_str);
    let metrics = bridge.metrics();
    assert_eq!(metrics["callbridge_callbacks_lost_total{reason=\"deadline\"}"], f64::from(lost));
    // What was answered 503 before the topics were known has never been sent. Later ones may have come too late.
    let late = metrics["callbridge_callbacks_late_total"].to_string().parse::<u64>().unwrap();
    assert!(late < u64::from(lost), "the first was sent");
    let records = Reader::open(&kafka.client(), &topics).collect(3 + usize::try_from(late).unwrap(), MINUTE);
    for topic in &topics[..2] {
        assert_eq!(records.iter().filter(|record| record.topic == *topic).count(), 1, "{topic}");
    }
    let stopped = bridge.stop_and_wait();
    let lost = u64::from(lost);
    let expected = Ledger { received: lost + 3, lost, delivered: 3, ..Ledger::default() };
    assert_eq!((stopped.code, Ledger::of_exit(&stopped.ledger)), (0, expected), "{}", stopped.stderr);
}

/// Asserts that callbridge made the topics of that prefix on three brokers: six partitions, three replicas, of which two
/// must have a record.
pub(crate) fn assert_made_on_three_brokers(kafka: &Kafka, prefix: &str) {
    for name in names(prefix) {
        let description = kafka.describe(&name);
        assert_eq!(description.partitions.len(), 6, "{name}");
        assert!(description.partitions.iter().all(|it| it.replicas.len() == 3), "{name}: {description:?}");
        assert_eq!(description.configs["min.insync.replicas"], "2", "{name}");
        assert_eq!(description.configs["retention.ms"], "604800000", "{name}: the brokers' own");
    }
}

/// Every topic that the tests' bridges have for an application with that prefix, in the order in which they are told.
fn names(prefix: &str) -> Vec<String> {
    let is_used = |name: &&str| seeds::ALL.iter().any(|seed| seed.command == *name);
    let suffixes = Command::all().map(Command::name).filter(is_used).chain(["unknown", "rejected"]);
    suffixes.map(|suffix| format!("{prefix}.{suffix}")).collect()
}

fn unready(kafka: &Kafka) -> BridgeBuilder {
    Bridge::builder().brokers(&kafka.bootstrap()).ack("broker")
}

/// Waits until `/readyz` names `missing` and no other topic.
fn wait_until_unready_for(bridge: &Bridge, missing: &[String]) {
    let text = format!("topics are missing (create them, or start with --create-topics): {}\n", missing.join(", "));
    let answer = wait_for_readyz(bridge, |answer| answer.text() == text);
    assert_eq!(answer.status, 503);
    let alive = Client::connect(bridge.admin).unwrap().request("GET", "/livez", &[], b"").unwrap();
    assert_eq!(alive.status, 200, "{}", alive.text());
}

fn wait_until_ready(bridge: &Bridge) {
    wait_for_readyz(bridge, |answer| answer.status == 200);
    // Printed a moment later.
    wait::until("it prints its addresses", || bridge::address(&bridge.stdout(), "admin").is_some());
    let stdout = bridge.stdout();
    assert_eq!(bridge::address(&stdout, "callbacks"), Some(bridge.callbacks), "{stdout}");
    assert_eq!(bridge::address(&stdout, "admin"), Some(bridge.admin), "{stdout}");
}

/// Asks until the answer is as wanted.
fn wait_for_readyz(bridge: &Bridge, is_wanted: impl Fn(&Response) -> bool) -> Response {
    wait::until_ok("/readyz answers as wanted", || {
        let asked = Client::connect(bridge.admin).and_then(|mut client| client.request("GET", "/readyz", &[], b""));
        match asked {
            Ok(answer) if is_wanted(&answer) => Ok(answer),
            other => Err(other),
        }
    })
}

/// What the log's errors say is missing.
fn errors(bridge: &Bridge) -> Vec<String> {
    let errors = lines(bridge).into_iter().filter(|line| line["level"] == "ERROR");
    errors.map(|line| line["fields"]["missing"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned()).collect()
}

fn lines(bridge: &Bridge) -> Vec<Value> {
    bridge.stderr().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
