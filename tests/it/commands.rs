//! Every command of Tencent's protocol, posted as its pages and captures show it, comes out of Kafka as the protocol's facts demand.
//!
//! `src/send/samples.json` has the bodies, and what must come of each. It is written from the pages, not from the table of commands.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use callbridge::command::Command;
use callbridge::command::Kind;
use serde_json::Value;
use serde_json::json;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::files::Files;
use crate::support::http;
use crate::support::http::Client;
use crate::support::reader::Reader;
use crate::support::reader::Record;
use crate::support::samples;
use crate::support::samples::Sample;

const MINUTE: Duration = Duration::from_secs(60);

const OK: &str = r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#;

#[test]
fn there_is_a_sample_of_every_command() {
    let sampled: BTreeSet<&str> = samples::all().iter().map(|sample| sample.command).collect();
    let known: BTreeSet<&str> = Command::all().map(Command::name).collect();
    assert_eq!(sampled, known);
}

#[test]
fn every_command_comes_out_on_its_topic_with_its_key_subject_time_and_id() {
    let bridge = Bridge::builder().embedded().ack("memory").all_topics().start();
    let samples = samples::all();
    let mut client = Client::connect(bridge.callbacks).unwrap();
    for sample in samples.iter().chain(&samples) {
        let answer =
            client.post(&http::callback_target(APP, sample.command), sample.callback.get().as_bytes()).unwrap();
        assert_eq!((answer.status, answer.text()), (200, expected_answer(sample)), "{}", sample.command);
    }

    let topics: Vec<String> = Command::all().map(|command| format!("tencent-chat.{}", command.name())).collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let records = Reader::open(&bridge.embedded_kafka(), &topics).collect(2 * samples.len(), MINUTE);
    let mut ids: BTreeMap<String, &str> = BTreeMap::new();
    for sample in &samples {
        let topic = format!("tencent-chat.{}", sample.command);
        let of_sample = |record: &&Record| record.topic == topic && callback_of(record) == sample.callback.get();
        let both: Vec<&Record> = records.iter().filter(of_sample).collect();
        assert_eq!(both.len(), 2, "{}: {}", sample.command, sample.says);
        let id = assert_record(both[0], sample);
        assert_eq!(assert_record(both[1], sample), id, "{}: the same twice", sample.command);
        let other = ids.insert(id, sample.callback.get());
        assert_eq!(other, None, "{}: two have one id", sample.command);
    }
    let stopped = bridge.stop_and_wait();
    assert_eq!(stopped.ledger["delivered"], u64::try_from(2 * samples.len()).unwrap(), "{}", stopped.stderr);
}

#[test]
fn commands_without_a_topic_of_their_own_are_the_same_in_the_topic_of_unknown_ones() {
    let bridge = Bridge::builder().embedded().ack("memory").start();
    let samples: Vec<Sample<'_>> =
        samples::all().into_iter().filter(|sample| !sample.command.starts_with("OfficialAccount.")).collect();
    let mut client = Client::connect(bridge.callbacks).unwrap();
    for sample in &samples {
        let answer =
            client.post(&http::callback_target(APP, sample.command), sample.callback.get().as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let records = Reader::open(&bridge.embedded_kafka(), &["tencent-chat.unknown"]).collect(samples.len(), MINUTE);
    for sample in &samples {
        let of_sample = |record: &&Record| {
            callback_of(record) == sample.callback.get() && json_of(record)["type"] == sample.command
        };
        assert_record(records.iter().find(of_sample).unwrap(), sample);
    }
}

#[test]
fn each_event_of_a_batch_is_a_record_of_its_own_however_many_there_are() {
    let bridge = Bridge::builder().embedded().ack("memory").all_topics().start();
    let topic = "tencent-chat.Push.OfflinePush";
    let event = |user: &str| format!(r#"{{"To_Account":"{user}","PushID":"p","PushStage":1,"EventTime":1670574414}}"#);
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let mut post = |body: &str| {
        let answer = client.post(&http::callback_target(APP, "Push.OfflinePush"), body.as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    post(&format!(r#"{{"Events":[{}]}}"#, event("a")));
    post(&format!(r#"{{"Events":[{},{}]}}"#, event("a"), event("b")));
    post(&event("a"));
    post(r#"{"Events":[5]}"#);
    let records = Reader::open(&bridge.embedded_kafka(), &[topic]).collect(4, MINUTE);
    let said = |user: &str| {
        let of_user = records.iter().filter(|record| callback_of(record) == event(user));
        let said = of_user.map(|record| {
            let envelope = json_of(record);
            assert_eq!((record.key.as_deref(), &envelope["subject"]), (Some(user.as_bytes()), &json!(user)));
            assert_eq!(
                (&envelope["time"], &envelope["timesource"]),
                (&json!("2022-12-09T08:26:54.000Z"), &json!("callback"))
            );
            envelope["id"].clone()
        });
        said.collect::<Vec<Value>>()
    };
    // However it comes, it is the same event.
    let ids = said("a");
    assert!(ids.len() == 3 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(said("b").len(), 1);
    let rejected = Reader::open(&bridge.embedded_kafka(), &["tencent-chat.rejected"]).collect(1, MINUTE);
    assert_eq!(rejected[0].value, b"5");
    assert_eq!(bridge.stop_in_order().ledger["delivered"], 4);
}

#[test]
fn a_blocked_user_is_refused_only_in_the_configured_before_commands() {
    let files = Files::new();
    let blocklist = files.write("blocklist.txt", "jared\n");
    let text =
        "blocklist.files = [\"blocklist.txt\"]\ndecide.commands = [\"Group.*\", \"Sns.CallbackPrevFriendAdd\"]\n";
    let config = files.write("callbridge.toml", text);
    let bridge = Bridge::builder().embedded().args(&["--config", &config]).all_topics().start();
    let refused = r#"{"ActionStatus":"OK","ErrorInfo":"refused by the blocklist","ErrorCode":1}"#;
    let member = r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"RefusedMembers_Account":["jared"]}"#;
    let friend = r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"ResultItem":[{"To_Account":"leckie","ResultCode":38000,"ResultInfo":"refused by the blocklist"}]}"#;
    let cases = [
        ("Group.CallbackBeforeInviteJoinGroup", member, "partial", json!(["jared"])),
        ("Group.CallbackBeforeApplyJoinGroup", refused, "refuse", json!(["jared"])),
        ("Group.CallbackBeforeSendMsg", refused, "refuse", json!(["jared"])),
        ("Sns.CallbackPrevFriendAdd", friend, "refuse", json!(["leckie"])),
        // Not named.
        ("C2C.CallbackBeforeSendMsg", OK, "allow", json!([])),
        ("OfficialAccount.CallbackBeforeAddSubscriber", OK, "allow", json!([])),
    ];
    let samples = samples::all();
    let mut client = Client::connect(bridge.callbacks).unwrap();
    for (command, answer, outcome, refused) in cases {
        let sample = samples.iter().find(|sample| sample.command == command).unwrap();
        let got = client.post(&http::callback_target(APP, command), sample.callback.get().as_bytes()).unwrap();
        assert_eq!((got.status, got.text().as_str()), (200, answer), "{command}");
        let topic = format!("tencent-chat.{command}");
        let record = &Reader::open(&bridge.embedded_kafka(), &[&topic]).collect(1, MINUTE)[0];
        let blocked = json!([{"rule": "block jared", "source": format!("file:{blocklist}")}]);
        let (rules, generation) = if outcome == "allow" { (json!([]), 0) } else { (blocked, 1) };
        let decision = json!({"outcome": outcome, "refused": refused, "rules": rules, "generation": generation});
        assert_eq!(json_of(record)["data"]["decision"], decision, "{command}");
        assert_eq!(json_of(record)["decision"], outcome, "{command}");
    }
    let metrics = bridge.metrics();
    for (outcome, source, count) in [("allow", "none", 2.0), ("partial", "file", 1.0), ("refuse", "file", 3.0)] {
        let name = format!("callbridge_decisions_total{{outcome=\"{outcome}\",source=\"{source}\"}}");
        assert_eq!(metrics[&name], count, "{outcome}");
    }
}

/// Nobody is refused: the plain OK, or each friend with code 0.
fn expected_answer(sample: &Sample<'_>) -> String {
    match sample.command {
        "Sns.CallbackPrevFriendAdd" | "Sns.CallbackPrevFriendResponse" => {
            r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"ResultItem":[{"To_Account":"leckie","ResultCode":0,"ResultInfo":""}]}"#.to_owned()
        }
        _ => OK.to_owned(),
    }
}

/// Asserts all that the envelope says of a sample, but for the normal form. Returns its id.
fn assert_record(record: &Record, sample: &Sample<'_>) -> String {
    let says = format!("{}: {}", sample.command, sample.says);
    assert_eq!(record.key.as_deref(), sample.key.map(str::as_bytes), "{says}");
    let envelope = json_of(record);
    let text = |name: &str| envelope.get(name).map(|value| value.as_str().unwrap());
    assert_eq!((text("subject"), text("partitionkey")), (sample.key, sample.key), "{says}");
    assert_eq!(text("type"), Some(sample.command));
    assert_eq!(text("operator"), sample.operator, "{says}");
    let from_callback = (sample.time, Some("callback"));
    let of_receipt = (text("receivedtime"), Some("receipt"));
    let expected = if sample.time.is_some() { from_callback } else { of_receipt };
    assert_eq!((text("time"), text("timesource")), expected, "{says}");
    let schema = format!("urn:callbridge:schema:{}:1", sample.command);
    assert_eq!(text("dataschema"), Some(schema.as_str()));
    let has_event = envelope["data"].get("event").is_some();
    assert_eq!(has_event, sample.command.starts_with("OfficialAccount."), "{says}");
    let is_question = Command::find(sample.command).unwrap().kind() == Kind::Before;
    assert_eq!(text("decision"), is_question.then_some("allow"), "{says}");
    text("id").unwrap().to_owned()
}

/// The callback, byte for byte: it is the last member of the last member.
fn callback_of(record: &Record) -> String {
    let text = str::from_utf8(&record.value).unwrap();
    let (_before, callback) = text.split_once(r#""callback":"#).unwrap();
    callback.strip_suffix("}}").unwrap().to_owned()
}

fn json_of(record: &Record) -> Value {
    serde_json::from_slice(&record.value).unwrap()
}
