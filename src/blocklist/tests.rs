//! The follower and the writer of a topic, with librdkafka's own broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus::Registry;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::time;

use crate::blocklist::consumer::Polled;
use crate::blocklist::consumer::TopicConsumer;
use crate::blocklist::follower::Follower;
use crate::blocklist::follower::FollowerSetup;
use crate::blocklist::lists::ListSources;
use crate::blocklist::lists::Lists;
use crate::blocklist::metrics::BlocklistMetrics;
use crate::blocklist::producer::ListRecord;
use crate::blocklist::producer::TopicProducer;
use crate::blocklist::properties;
use crate::blocklist::snapshot::read_topic;
use crate::blocklist::topic::AppliedGeneration;
use crate::blocklist::topic::BlocklistTopic;
use crate::blocklist::topic::ChangeAction;
use crate::blocklist::topic::RequestedChange;
use crate::blocklist::topic::TopicReadAgain;
use crate::blocklist::topic::TopicState;
use crate::blocklist::topic::TopicView;
use crate::blocklist::topic::WriteError;
use crate::blocklist::topic::WriteJob;
use crate::blocklist::topic::WriteRequest;
use crate::blocklist::topic::WrittenChange;
use crate::blocklist::writer::KnownTopic;
use crate::blocklist::writer::TopicWriter;
use crate::clock;
use crate::clock::UnixMillis;
use crate::decide::rule::Rule;
use crate::decide::rules::Rules;
use crate::decide::topic::key::TopicIdentity;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::Phase;
use crate::publish::embedded::EmbeddedBroker;

const LIMIT: Duration = Duration::from_secs(30);

fn broker(topics: &[&str]) -> (EmbeddedBroker, BTreeMap<String, String>) {
    let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
    let broker = EmbeddedBroker::start(&[], 1, &topics).expect("a broker");
    let configured = [("bootstrap.servers".to_owned(), broker.bootstrap().to_owned())].into();
    (broker, configured)
}

fn put(user: &str) -> RequestedChange {
    let action = ChangeAction::Put { until: UnixMillis::NEVER, because: Some("spam".into()) };
    RequestedChange { rule: Rule::Block { user: user.to_owned().into(), account: None }, action }
}

fn delete(user: &str) -> RequestedChange {
    RequestedChange { action: ChangeAction::Delete { because: Some("mistake".into()) }, ..put(user) }
}

fn request(changes: Vec<RequestedChange>) -> WriteRequest {
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

/// The rules of the events in the audit topic, and whether the event retracts another.
fn audit(configured: &BTreeMap<String, String>) -> Vec<(String, bool)> {
    let rule = |event: &Value| event["data"]["rule"].as_str().expect("a rule").to_owned();
    let events = values(configured, "list-changes");
    events.iter().map(|event| (rule(event), event["data"]["failed"].is_string())).collect()
}

/// Checks that each change of the test was announced, with its previous and its new value.
fn assert_announced(configured: &BTreeMap<String, String>) {
    let events = values(configured, "list-changes");
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
}

#[test]
fn a_write_ends_soon_after_its_acknowledgement() {
    let (_broker, configured) = broker(&["list"]);
    let producer = TopicProducer::new(&properties::of_writer(&configured)).expect("a producer");
    let record =
        ListRecord { topic: "list", partition: Some(0), key: "block\u{1f}bob", value: None, headers: Vec::new() };
    let took = (0..20).map(|offset| {
        let began = clock::monotonic();
        assert_eq!(producer.write(std::slice::from_ref(&record)), [Ok(offset)]);
        began.elapsed()
    });
    // The fastest, because the others may have waited for a CPU.
    let fastest = took.min().expect("twenty");
    assert!(fastest < Duration::from_millis(40), "{fastest:?}");
}

#[test]
fn a_change_is_announced_then_written_then_applied() {
    let (_broker, configured) = broker(&["list", "list-changes"]);
    let metrics = BlocklistMetrics::register(&Registry::new()).expect("metrics");
    let lists = Lists::new(vec![ListSources { files: Vec::new(), topic: Some(0) }], metrics.clone());
    let (view, topic) = (Arc::new(ArcSwap::from_pointee(TopicView::unread())), Arc::<str>::from("list"));
    let ((applying, applied), (writes, jobs)) = (watch::channel(AppliedGeneration::default()), mpsc::channel(4));
    let lifecycle = Lifecycle::new();
    let setup = FollowerSetup {
        topic: Arc::clone(&topic),
        index: 0,
        lists: lists.clone(),
        configured: configured.clone(),
        creation: None,
        view: Arc::clone(&view),
        applied: applying,
        metrics: metrics.topic("list"),
        lifecycle: lifecycle.clone(),
    };
    let handle = BlocklistTopic::new(Arc::clone(&topic), Arc::clone(&view), applied, writes);
    let following = thread::spawn(move || Follower::new(setup).run());
    let writer = TopicWriter::new(topic, configured.clone());
    let writing = thread::spawn(move || writer.run(&view, jobs));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let write = |changes: Vec<RequestedChange>| {
        let written = runtime.block_on(async {
            let deadline = clock::monotonic() + LIMIT;
            loop {
                match handle.write(request(changes.clone())).await {
                    Err(WriteError::NotRead | WriteError::Stale) if clock::monotonic() < deadline => {
                        time::sleep(Duration::from_millis(10)).await;
                    }
                    written => return written.expect("written"),
                }
            }
        });
        let generation = written.last().expect("a change").generation;
        let applied = async { time::timeout(LIMIT, handle.applied(generation, handle.full_reads())).await };
        runtime.block_on(applied).expect("in time").expect("the same log");
        written
    };
    let blocks = |user| lists.in_force(0).load().blocks(user, clock::wall());

    // The record at offset 0 declares the identity of the topic.
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

    assert_announced(&configured);
    let read = read_topic(&configured, "list", LIMIT).expect("read");
    assert_eq!((read.rules().len(), read.position().next), (0, 5));

    // The second waits in the queue while the first is written.
    let [first, second] = [put("dan"), delete("dan")].map(|change| {
        let handle = handle.clone();
        runtime.spawn(async move { handle.write(request(vec![change])).await })
    });
    let written = runtime.block_on(async { [first.await, second.await] });
    let replaced = written.map(|written| written.expect("it ends").expect("written").remove(0).replaced.is_some());
    assert_eq!(replaced, [false, true]);

    lifecycle.enter(Phase::Stopped);
    following.join().expect("it ends with the process");
    drop(handle);
    writing.join().expect("it ends with the last handle");
}

#[test]
fn a_rule_that_cannot_be_written_is_retracted_on_the_audit_topic() {
    let (_broker, configured) = broker(&["list-changes"]);
    let mut writer = TopicWriter::new("list".into(), configured.clone());
    let rules = Rules::default();
    let written = writer.write(&request(vec![put("bob")]), KnownTopic { rules: &rules, identity: None, generation: 0 });
    let Err(WriteError::Refused(why) | WriteError::Unacknowledged(why)) = written else { panic!("{written:?}") };
    assert!(why.starts_with("topic list: "), "{why}");
    let events = values(&configured, "list-changes");
    let failed: Vec<bool> = events.iter().map(|event| event["data"]["failed"].is_string()).collect();
    assert_eq!(failed, [false, true]);
}

/// A topic without records, in this state.
fn unread(state: TopicState) -> ArcSwap<TopicView> {
    ArcSwap::from_pointee(TopicView { state, ..TopicView::unread() })
}

/// Runs a writer until it has handled all jobs. The topic stays in this state.
fn serve(configured: &BTreeMap<String, String>, state: TopicState, waiting: impl IntoIterator<Item = WriteJob>) {
    let (writes, jobs) = mpsc::channel(4);
    for job in waiting {
        writes.try_send(job).expect("room");
    }
    drop(writes);
    TopicWriter::new("list".into(), configured.clone()).run(&unread(state), jobs);
}

#[test]
fn without_a_broker_a_write_fails_within_five_seconds() {
    let (broker, configured) = broker(&[]);
    drop(broker);
    let (done, outcome) = oneshot::channel();
    let began = clock::monotonic();
    let writing = thread::spawn(move || serve(&configured, TopicState::Live, [(request(vec![put("bob")]), done)]));
    let written = outcome.blocking_recv().expect("an outcome");
    assert!(matches!(written, Err(WriteError::Unacknowledged(_))), "{written:?}");
    let took = clock::monotonic().duration_since(began);
    assert!(took < Duration::from_secs(5), "{took:?}");
    writing.join().expect("it ends with the last handle");
}

#[test]
fn a_topic_that_is_not_live_is_not_written() {
    let (_broker, configured) = broker(&["list", "list-changes"]);
    for (state, why) in [(TopicState::Reading, WriteError::NotRead), (TopicState::Stale, WriteError::Stale)] {
        let (done, outcome) = oneshot::channel();
        serve(&configured, state, [(request(vec![put("bob")]), done)]);
        assert_eq!(outcome.blocking_recv().expect("an outcome"), Err(why));
    }
    assert_eq!(values(&configured, "list-changes"), [Value::Null; 0]);
}

#[test]
fn a_cancelled_change_is_not_written() {
    let (_broker, configured) = broker(&["list", "list-changes"]);
    let (cancelled, _) = oneshot::channel();
    let (done, outcome) = oneshot::channel();
    let jobs = [(request(vec![put("bob")]), cancelled), (request(vec![put("eve")]), done)];
    serve(&configured, TopicState::Live, jobs);
    outcome.blocking_recv().expect("an outcome").expect("written");
    assert_eq!(audit(&configured), [("block eve".to_owned(), false)]);
}

#[test]
fn a_change_in_another_log_than_was_read_fails_and_is_retracted() {
    let (_broker, configured) = broker(&["list", "list-changes"]);
    let (rules, identity) = (Rules::default(), Some(TopicIdentity(1)));
    let mut writer = TopicWriter::new("list".into(), configured.clone());
    // The first change gets offset 0, which was already read; the second a new one.
    let known = KnownTopic { rules: &rules, identity, generation: 1 };
    let written = writer.write(&request(vec![put("bob"), put("eve")]), known);
    assert_eq!(written, Err(WriteError::LogChanged { offset: 0, first: 1 }));
    let expected = [("block bob", false), ("block eve", false), ("block bob", true)];
    assert_eq!(audit(&configured), expected.map(|(rule, failed)| (rule.to_owned(), failed)));
}

/// The topic had identity 2 when it was last read, and was recreated since, with more records.
#[test]
fn a_change_in_a_longer_recreated_topic_takes_effect() {
    let (_broker, configured) = broker(&["list", "list-changes"]);
    let (rules, other) = (Rules::default(), Some(TopicIdentity(2)));
    let mut writer = TopicWriter::new("list".into(), configured.clone());
    let known = KnownTopic { rules: &rules, identity: None, generation: 0 };
    writer.write(&request(vec![put("bob"), put("eve")]), known).expect("written");
    let known = KnownTopic { rules: &rules, identity: other, generation: 1 };
    writer.write(&request(vec![put("carol"), delete("eve")]), known).expect("written");
    let read = read_topic(&configured, "list", LIMIT).expect("read");
    let blocks = |user| read.rules().blocks(user, clock::wall());
    assert_eq!(["bob", "carol", "eve"].map(blocks), [true, true, false]);
    assert_eq!(read.position().poison, 0);
}

#[test]
fn a_change_does_not_count_as_applied_after_another_full_read() {
    let view = Arc::new(ArcSwap::from_pointee(TopicView::unread()));
    let at = |full_reads, generation| AppliedGeneration { full_reads, generation };
    let ((applying, applied), (writes, _jobs)) = (watch::channel(at(1, 5)), mpsc::channel(1));
    let handle = BlocklistTopic::new("list".into(), view, applied, writes);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let full_reads = handle.full_reads();
    applying.send_replace(at(1, 6));
    assert_eq!(runtime.block_on(handle.applied(6, full_reads)), Ok(()));
    // Another log with more records.
    applying.send_replace(at(2, 9));
    assert_eq!(runtime.block_on(handle.applied(7, full_reads)), Err(TopicReadAgain));
}

#[test]
fn an_announcement_in_the_same_request_as_a_failed_one_is_retracted() {
    let (_broker, mut configured) = broker(&["list", "list-changes"]);
    configured.insert("message.max.bytes".to_owned(), "2000".to_owned());
    let because = Some("x".repeat(3000).into());
    let long = RequestedChange { action: ChangeAction::Put { until: UnixMillis::NEVER, because }, ..put("eve") };
    let (rules, mut writer) = (Rules::default(), TopicWriter::new("list".into(), configured.clone()));
    let known = KnownTopic { rules: &rules, identity: None, generation: 0 };
    let written = writer.write(&request(vec![put("bob"), long]), known);
    assert!(matches!(written, Err(WriteError::Refused(_))), "{written:?}");
    assert_eq!(audit(&configured), [("block bob".to_owned(), false), ("block bob".to_owned(), true)]);
    assert_eq!(values(&configured, "list"), [Value::Null; 0]);
}

#[test]
fn a_writer_declares_one_identity_until_it_is_read() {
    let (_broker, configured) = broker(&["list", "list-changes"]);
    let (rules, mut writer) = (Rules::default(), TopicWriter::new("list".into(), configured.clone()));
    let mut write = |user, generation| {
        let known = KnownTopic { rules: &rules, identity: None, generation };
        let written = writer.write(&request(vec![put(user)]), known).expect("written");
        written.first().expect("a change").generation
    };
    assert_eq!((write("bob", 0), write("eve", 0)), (2, 3));
    assert_eq!(write("carol", 3), 5, "a reader at generation 3 that has found no identity has read another log");
    let read = read_topic(&configured, "list", LIMIT).expect("read");
    assert_eq!((read.rules().len(), read.position().declared.len(), read.position().poison), (3, 2, 0));
}

#[test]
fn nothing_is_written_if_one_rule_has_no_key_or_too_long_a_value() {
    let mut writer = TopicWriter::new("list".into(), BTreeMap::new());
    let rules = Rules::default();
    let mut write = |change| {
        let known = KnownTopic { rules: &rules, identity: None, generation: 0 };
        writer.write(&request(vec![put("bob"), change]), known).expect_err("refused").to_string()
    };
    let unkeyable = "change 1: the user contains the character U+001F, which separates the parts of a record's key";
    assert_eq!(write(put("a\u{1f}b")), unkeyable);
    let because = Some("x".repeat(70_000).into());
    let long = RequestedChange { action: ChangeAction::Put { until: UnixMillis::NEVER, because }, ..put("eve") };
    assert_eq!(write(long), "change 1: the reason is too long: the record's value would have more than 65536 bytes");
}
