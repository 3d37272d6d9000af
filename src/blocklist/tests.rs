//! The follower and the writer of a topic, with librdkafka's own broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus::Registry;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time;

use crate::blocklist::consumer::Polled;
use crate::blocklist::consumer::TopicConsumer;
use crate::blocklist::follower::Follower;
use crate::blocklist::follower::FollowerSetup;
use crate::blocklist::lists::ListSources;
use crate::blocklist::lists::Lists;
use crate::blocklist::properties;
use crate::blocklist::snapshot::read_topic;
use crate::blocklist::topic::BlocklistTopic;
use crate::blocklist::topic::TopicView;
use crate::blocklist::topic::WantedChange;
use crate::blocklist::topic::WantedRule;
use crate::blocklist::topic::WriteError;
use crate::blocklist::topic::WriteRequest;
use crate::blocklist::topic::WrittenChange;
use crate::blocklist::writer::KnownTopic;
use crate::blocklist::writer::TopicWriter;
use crate::clock;
use crate::clock::UnixMillis;
use crate::decide::rule::Rule;
use crate::decide::rules::Rules;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::Phase;
use crate::metrics::blocklist::BlocklistMetrics;
use crate::publish::embedded::EmbeddedBroker;

const LIMIT: Duration = Duration::from_secs(30);

fn broker(topics: &[&str]) -> (EmbeddedBroker, BTreeMap<String, String>) {
    let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
    let broker = EmbeddedBroker::start(&[], 1, &topics).expect("a broker");
    let configured = [("bootstrap.servers".to_owned(), broker.bootstrap().to_owned())].into();
    (broker, configured)
}

fn put(user: &str) -> WantedChange {
    let to = WantedRule::Put { until: UnixMillis::NEVER, because: Some("spam".into()) };
    WantedChange { rule: Rule::Block { user: user.to_owned().into(), account: None }, to }
}

fn delete(user: &str) -> WantedChange {
    WantedChange { to: WantedRule::Delete { because: Some("mistake".into()) }, ..put(user) }
}

fn request(changes: Vec<WantedChange>) -> WriteRequest {
    WriteRequest { who: "alice".into(), source: "api".into(), request: Some("r-1".into()), changes }
}

/// The values of a topic's records, until there is none for a while.
fn values(configured: &BTreeMap<String, String>, topic: &str) -> Vec<Value> {
    let consumer = TopicConsumer::new(&properties::of_follower(configured), topic).expect("a consumer");
    consumer.read_from(None).expect("assigned");
    let mut values = Vec::new();
    let deadline = clock::monotonic() + LIMIT;
    while clock::monotonic() < deadline {
        let polled = consumer.poll(Duration::from_millis(100), |record| {
            values.push(serde_json::from_slice(record.value.unwrap_or(b"null")).expect("JSON"));
        });
        if polled == Polled::End {
            return values;
        }
    }
    panic!("no end within {LIMIT:?}")
}

#[test]
fn a_change_is_announced_then_written_then_applied() {
    let (_broker, configured) = broker(&["list", "list-changes"]);
    let metrics = BlocklistMetrics::register(&Registry::new()).expect("metrics");
    let lists = Lists::new(vec![ListSources { files: Vec::new(), topic: Some(0) }], metrics.clone());
    let (view, topic) = (Arc::new(ArcSwap::from_pointee(TopicView::unread())), Arc::<str>::from("list"));
    let ((generation, applied), (writes, jobs)) = (watch::channel(0), mpsc::channel(4));
    let lifecycle = Lifecycle::new();
    let setup = FollowerSetup {
        topic: Arc::clone(&topic),
        place: 0,
        lists: lists.clone(),
        configured: configured.clone(),
        creation: None,
        view: Arc::clone(&view),
        generation,
        metrics: metrics.topic("list"),
        lifecycle: lifecycle.clone(),
    };
    let handle = BlocklistTopic::new(Arc::clone(&topic), Arc::clone(&view), applied, writes);
    let following = thread::spawn(move || Follower::new(setup).run());
    let writer = TopicWriter::new(topic, configured.clone());
    let writing = thread::spawn(move || writer.run(&view, jobs));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let write = |changes: Vec<WantedChange>| {
        let written = runtime.block_on(async {
            let deadline = clock::monotonic() + LIMIT;
            loop {
                match handle.write(request(changes.clone())).await {
                    Err(WriteError::NotRead) if clock::monotonic() < deadline => {
                        time::sleep(Duration::from_millis(10)).await;
                    }
                    written => return written.expect("written"),
                }
            }
        });
        let generation = written.last().expect("a change").generation;
        let applied = async { time::timeout(LIMIT, handle.applied(generation)).await };
        runtime.block_on(applied).expect("applied");
        written
    };
    let blocks = |user| lists.in_force(0).load().blocks(user, clock::wall());

    // Behind the identity, which the first writer declares.
    let written = write(vec![put("bob"), put("eve"), delete("eve")]);
    let generations: Vec<u64> = written.iter().map(|change| change.generation).collect();
    assert_eq!(generations, [2, 3, 4]);
    assert_eq!(written.iter().map(|change| change.replaced.is_some()).collect::<Vec<_>>(), [false, false, true]);
    assert!(blocks("bob") && !blocks("eve"));
    let [WrittenChange { replaced, generation }] = write(vec![delete("bob")]).try_into().expect("one");
    let replaced = replaced.expect("it was there").provenance;
    assert_eq!((replaced.who.as_deref(), replaced.because.as_deref()), (Some("alice"), Some("spam")));
    assert_eq!((generation, blocks("bob")), (5, false), "the identity is declared once");
    assert_eq!(handle.view().generation, 5);

    let events = values(&configured, "list-changes");
    let of = |event: &Value| {
        let data = &event["data"];
        (data["rule"].as_str().unwrap_or_default().to_owned(), data["before"].is_null(), data["after"].is_null())
    };
    let expected = [
        ("block bob", true, false),
        ("block eve", true, false),
        ("block eve", false, true),
        ("block bob", false, true),
    ];
    let expected = expected.map(|(rule, before, after)| (rule.to_owned(), before, after));
    assert_eq!(events.iter().map(of).collect::<Vec<_>>(), expected);
    assert_eq!((&events[3]["data"]["why"], &events[3]["data"]["request"]), (&"mistake".into(), &"r-1".into()));
    let read = read_topic(&configured, "list", LIMIT).expect("read");
    assert_eq!((read.rules().len(), read.position().next), (0, 5));

    lifecycle.enter(Phase::Stopped);
    following.join().expect("it ends with the process");
    drop(handle);
    writing.join().expect("it ends when nobody can ask");
}

#[test]
fn a_rule_that_cannot_be_written_is_taken_back_on_the_audit_topic() {
    let (_broker, configured) = broker(&["list-changes"]);
    let mut writer = TopicWriter::new("list".into(), configured.clone());
    let rules = Rules::default();
    let written = writer.write(&request(vec![put("bob")]), KnownTopic { rules: &rules, identity: None });
    assert!(matches!(written, Err(WriteError::Refused(_) | WriteError::Unacknowledged(_))), "{written:?}");
    let events = values(&configured, "list-changes");
    let failed: Vec<bool> = events.iter().map(|event| event["data"]["failed"].is_string()).collect();
    assert_eq!(failed, [false, true]);
}

#[test]
fn without_a_broker_a_write_fails_within_five_seconds() {
    let (broker, configured) = broker(&[]);
    drop(broker);
    let mut writer = TopicWriter::new("list".into(), configured);
    let (rules, began) = (Rules::default(), clock::monotonic());
    let written = writer.write(&request(vec![put("bob")]), KnownTopic { rules: &rules, identity: None });
    assert!(matches!(written, Err(WriteError::Unacknowledged(_))), "{written:?}");
    let took = clock::monotonic().duration_since(began);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_rule_that_has_no_key_or_too_long_a_value_is_named_and_nothing_is_written() {
    let mut writer = TopicWriter::new("list".into(), BTreeMap::new());
    let rules = Rules::default();
    let mut write = |change| {
        let known = KnownTopic { rules: &rules, identity: None };
        writer.write(&request(vec![put("bob"), change]), known).expect_err("refused").to_string()
    };
    let unkeyable = "change 1: the user holds the character U+001F, which separates the parts of a record's key";
    assert_eq!(write(put("a\u{1f}b")), unkeyable);
    let because = Some("x".repeat(70_000).into());
    let long = WantedChange { to: WantedRule::Put { until: UnixMillis::NEVER, because }, ..put("eve") };
    assert_eq!(write(long), "change 1: the reason is too long: the record's value would have more than 65536 bytes");
}
