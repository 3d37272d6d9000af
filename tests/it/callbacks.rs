//! The main job: a callback that is posted is answered, and comes out of Kafka as the envelope says.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::seeds;
use crate::seeds::APP;
use crate::seeds::Seed;
use crate::support::bridge::Bridge;
use crate::support::curl;
use crate::support::curl::Answer;
use crate::support::files::Files;
use crate::support::foreign;
use crate::support::http;
use crate::support::http::Client;
use crate::support::kafka::Kafka;
use crate::support::kafka::Settings;
use crate::support::ledger::Ledger;
use crate::support::reader::Reader;
use crate::support::reader::Record;
use crate::topics;

const MINUTE: Duration = Duration::from_secs(60);

const OK: &str = r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#;
const JARED_REFUSED: &str =
    r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"RefusedSubscribers_Account":["jared"]}"#;
const CLOSED: &str = r#"{"ActionStatus":"OK","ErrorInfo":"the account takes no new subscribers","ErrorCode":1}"#;
const NONE_MAY: &str = r#"{"ActionStatus":"OK","ErrorInfo":"none of these may subscribe","ErrorCode":1}"#;

#[test]
fn four_callbacks_posted_by_curl_are_read_by_three_consumers_on_three_brokers() {
    let Some(kafka) = Kafka::start(3) else { return };
    let files = Files::new();
    let blocklist = files.write("blocklist.txt", "jared\n");
    let builder = Bridge::builder().brokers(&kafka.bootstrap()).topics("four").ack("broker");
    let bridge = builder.args(&["--blocklist", &blocklist]).start();

    topics::assert_made_on_three_brokers(&kafka, "four");
    bridge.warm_up(APP);

    for seed in seeds::ALL {
        let Some(answer) = curl::post_file(bridge.callbacks, &target(seed), seed.path) else { return };
        let body = if seed.command == seeds::BEFORE_ADD_SUBSCRIBER.command { JARED_REFUSED } else { OK };
        let expected = Answer { status: 200, content_type: "application/json".to_owned(), body: body.to_owned() };
        assert_eq!(answer, expected, "{}", seed.command);
    }

    let topics = seeds::ALL.map(|seed| format!("four.{}", seed.command));
    let topics = topics.each_ref().map(String::as_str);
    let records = sorted(Reader::open(&kafka.client(), &topics).collect(4, MINUTE));
    for seed in seeds::ALL {
        let topic = format!("four.{}", seed.command);
        let record = records.iter().find(|record| record.topic == topic).unwrap();
        let rules = json!([{"rule": "block jared", "source": format!("file:{blocklist}")}]);
        let decision = json!({"outcome": "partial", "refused": ["jared"], "rules": rules, "generation": 1});
        let is_question = seed.command == seeds::BEFORE_ADD_SUBSCRIBER.command;
        assert_structured(record, seed, is_question.then_some(decision));
    }
    let Some(by_confluent) = foreign::confluent_kafka(&kafka, &topics) else { return };
    assert_eq!(sorted(by_confluent), records);
    let Some(by_kcat) = foreign::kcat(&kafka, &topics) else { return };
    assert_eq!(sorted(by_kcat), records);
    let stopped = bridge.stop_and_wait();
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    let four_and_warm_up = Ledger { received: 5, refused: 1, delivered: 4, ..Ledger::default() };
    assert_eq!(Ledger::of_exit(&stopped.ledger), four_and_warm_up);
}

/// A question, its answer, and the decision that must stand in its record.
struct Question {
    account: &'static str,
    users: &'static [&'static str],
    answer: &'static str,
    decision: Value,
}

#[test]
fn a_question_is_answered_by_the_blocklist_and_its_record_has_the_decision() {
    let Some(kafka) = Kafka::shared() else { return };
    let files = Files::new();
    let rules = "# Comment\njared\nclose @TOA#_closed because moved\nallow carol on @TOA#_staff\n";
    let blocklist = files.write("blocklist.txt", rules);
    let builder = Bridge::builder().brokers(&kafka.bootstrap()).topics("asked").ack("broker");
    let bridge = builder.args(&["--blocklist", &blocklist]).start();
    let rules_of = |rule: &str| json!([{"rule": rule, "source": format!("file:{blocklist}")}]);
    let decision = |outcome: &str, refused: Value, rules: Value| json!({"outcome": outcome, "refused": refused, "rules": rules, "generation": 1});
    let questions = [
        Question {
            account: "@TOA#_open",
            users: &["alice", "leckie"],
            answer: OK,
            decision: decision("allow", json!([]), json!([])),
        },
        Question {
            account: "@TOA#_open",
            users: &["leckie", "jared", "alice"],
            answer: JARED_REFUSED,
            decision: decision("partial", json!(["jared"]), rules_of("block jared")),
        },
        Question {
            account: "@TOA#_open",
            users: &["jared"],
            answer: JARED_REFUSED,
            decision: decision("refuse", json!(["jared"]), rules_of("block jared")),
        },
        Question {
            account: "@TOA#_staff",
            users: &["jared", "carol"],
            answer: JARED_REFUSED,
            decision: decision("partial", json!(["jared"]), rules_of("block jared")),
        },
        Question {
            account: "@TOA#_closed",
            users: &["alice", "leckie"],
            answer: CLOSED,
            decision: decision("refuse", json!(["alice", "leckie"]), rules_of("close @TOA#_closed")),
        },
    ];

    let mut client = Client::connect(bridge.callbacks).unwrap();
    for question in &questions {
        let answer = client.post(&target(&seeds::BEFORE_ADD_SUBSCRIBER), body_of(question).as_bytes()).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, question.answer), "{:?}", question.users);
    }

    let topic = format!("asked.{}", seeds::BEFORE_ADD_SUBSCRIBER.command);
    let records = Reader::open(&kafka.client(), &[&topic]).collect(questions.len(), MINUTE);
    for question in &questions {
        let asked: Value = serde_json::from_str(&body_of(question)).unwrap();
        let mut envelopes = records.iter().map(json_of);
        let envelope = envelopes.find(|envelope| envelope["data"]["callback"] == asked).unwrap();
        assert_eq!(envelope["data"]["decision"], question.decision);
        assert_eq!(envelope["decision"], question.decision["outcome"]);
    }
    let metrics = bridge.metrics();
    for (outcome, source, count) in [("allow", "none", 1.0), ("partial", "file", 2.0), ("refuse", "file", 2.0)] {
        let name = format!("callbridge_decisions_total{{outcome=\"{outcome}\",source=\"{source}\"}}");
        assert_eq!(metrics[&name], count, "{outcome}");
    }
}

#[test]
fn a_request_whose_users_are_all_refused_is_rejected_where_configured() {
    let files = Files::new();
    let blocklist = files.write("blocklist.txt", "jared\nleckie\n");
    let text = "blocklist.files = [\"blocklist.txt\"]\ndecide.all_refused = \"reject\"\n";
    let config = files.write("callbridge.toml", text);
    let bridge = Bridge::builder().embedded().args(&["--config", &config]).start();
    let seed = &seeds::BEFORE_ADD_SUBSCRIBER;

    let answer = Client::connect(bridge.callbacks).unwrap().post(&target(seed), seed.body.as_bytes()).unwrap();

    assert_eq!((answer.status, answer.text().as_str()), (200, NONE_MAY));
    let topic = format!("tencent-chat.{}", seed.command);
    let records = Reader::open(&bridge.embedded_kafka(), &[&topic]).collect(1, MINUTE);
    let rules =
        ["block jared", "block leckie"].map(|rule| json!({"rule": rule, "source": format!("file:{blocklist}")}));
    let decision = json!({"outcome": "refuse", "refused": ["jared", "leckie"], "rules": rules, "generation": 1});
    assert_structured(&records[0], seed, Some(decision));
}

#[test]
fn in_binary_mode_the_attributes_are_headers_and_the_data_is_the_value() {
    let Some(kafka) = Kafka::shared() else { return };
    let builder = Bridge::builder().brokers(&kafka.bootstrap()).topics("binary");
    let bridge = builder.settings("envelope.mode = \"binary\"").start();

    bridge.warm_up(APP);
    let mut client = Client::connect(bridge.callbacks).unwrap();
    for seed in seeds::ALL {
        let answer = client.post(&target(seed), seed.body.as_bytes()).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, OK));
    }

    let topics = seeds::ALL.map(|seed| format!("binary.{}", seed.command));
    let topics = topics.each_ref().map(String::as_str);
    let records = sorted(Reader::open(&kafka.client(), &topics).collect(4, MINUTE));
    for seed in seeds::ALL {
        let topic = format!("binary.{}", seed.command);
        let record = records.iter().find(|record| record.topic == topic).unwrap();
        let is_question = seed.command == seeds::BEFORE_ADD_SUBSCRIBER.command;
        let allowed = json!({"outcome": "allow", "refused": [], "rules": [], "generation": 0});
        assert_binary(record, seed, is_question.then_some(allowed));
    }
    let Some(by_confluent) = foreign::confluent_kafka(kafka, &topics) else { return };
    assert_eq!(sorted(by_confluent), records);
}

#[test]
fn each_application_has_its_own_topics_source_and_ids() {
    let text = "[[apps]]\nsdk_app_id = 1400000001\ntopic_prefix = \"first\"\n\
                [[apps]]\nsdk_app_id = 1400000002\ntopic_prefix = \"second\"\n";
    let bridge = Bridge::builder().args(&["--embedded-broker"]).settings(text).start();
    let seed = &seeds::AFTER_ADD_SUBSCRIBER;

    let mut client = Client::connect(bridge.callbacks).unwrap();
    for app in ["1400000001", "1400000002"] {
        let answer = client.post(&http::callback_target(app, seed.command), seed.body.as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    let topics = ["first", "second"].map(|prefix| format!("{prefix}.{}", seed.command));
    let reader = Reader::open(&bridge.embedded_kafka(), &topics.each_ref().map(String::as_str));
    let envelopes = sorted(reader.collect(2, MINUTE)).iter().map(json_of).collect::<Vec<_>>();
    for (envelope, app) in envelopes.iter().zip(["1400000001", "1400000002"]) {
        assert_eq!(envelope["sdkappid"], app);
        assert_eq!(envelope["source"], format!("/tencent-chat/{app}"));
        assert_eq!(envelope["subject"], seed.account);
    }
    assert_ne!(envelopes[0]["id"], envelopes[1]["id"]);
}

#[test]
fn the_same_callback_sent_again_has_the_same_id_and_another_one_has_not() {
    let bridge = Bridge::builder().embedded().start();
    let seed = &seeds::AFTER_ADD_SUBSCRIBER;
    let other = seed.body.replace("4123", "4124");
    let again = format!("{}&Sign=00ff&RequestTime=1669872112", target(seed));

    let mut client = Client::connect(bridge.callbacks).unwrap();
    for (target, body) in [(&target(seed), seed.body), (&again, seed.body.trim()), (&again, &other)] {
        assert_eq!(client.post(target, body.as_bytes()).unwrap().status, 200);
    }

    let topic = format!("tencent-chat.{}", seed.command);
    let records = Reader::open(&bridge.embedded_kafka(), &[&topic]).collect(3, MINUTE);
    let ids: Vec<Value> = records.iter().map(|record| json_of(record)["id"].clone()).collect();
    assert_eq!(ids[0], seed.id);
    assert_eq!(ids[1], seed.id);
    assert_ne!(ids[2], seed.id);
}

#[test]
fn kafka_is_reached_over_tls_with_a_login_by_scram() {
    let Some(kafka) = Kafka::with(Settings { nodes: 1, tls_and_scram: true }) else { return };
    let properties: Vec<String> = kafka.properties().iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut args = vec!["--sdk-app-id", APP, "--topic-prefix", "secure", "--create-topics"];
    args.extend(properties.iter().flat_map(|property| ["--kafka", property]));
    let bridge = Bridge::builder().args(&args).start();
    bridge.warm_up(APP);
    let seed = &seeds::AFTER_INFO_CHANGED;

    let answer = Client::connect(bridge.callbacks).unwrap().post(&target(seed), seed.body.as_bytes()).unwrap();

    assert_eq!((answer.status, answer.text().as_str()), (200, OK));
    let topic = format!("secure.{}", seed.command);
    let records = Reader::open(&kafka.client(), &[&topic]).collect(1, MINUTE);
    assert_structured(&records[0], seed, None);
    assert!(!bridge.stderr().contains("alice-secret"), "a password is in the log");
    let Some(by_confluent) = foreign::confluent_kafka(&kafka, &[&topic]) else { return };
    assert_eq!(by_confluent, records);
}

#[test]
fn callbacks_nobody_foresaw_are_acknowledged_and_kept_in_broker_mode() {
    unforeseen_callbacks_are_kept("broker");
}

#[test]
fn callbacks_nobody_foresaw_are_acknowledged_and_kept_in_memory_mode() {
    unforeseen_callbacks_are_kept("memory");
}

/// Posts an unknown command, unforeseen fields and missing ones, and wrong shapes.
fn unforeseen_callbacks_are_kept(ack: &str) {
    let Some(kafka) = Kafka::shared() else { return };
    let prefix = format!("odd-{ack}");
    let bridge = Bridge::builder().brokers(&kafka.bootstrap()).topics(&prefix).ack(ack).start();
    bridge.warm_up(APP);
    let (added, changed) = (seeds::AFTER_ADD_SUBSCRIBER.command, seeds::AFTER_INFO_CHANGED.command);
    let unknown = "Future.CallbackAfterSendMsg";
    let odd = r#"{"Official_Account":"@odd","Name":"","New_Field":{"deep":[1e400,-0.0,18446744073709551616]},"EventTime":"1670574414123","Name2":"\u00e9\/"}"#;
    let bare = r#"{"Official_Account":"@bare"}"#;
    let message = r#"{"CallbackCommand":"Future.CallbackAfterSendMsg","From_Account":"jared","MsgSeq":4294967295}"#;
    let wrong = [
        (added, r#"{"Official_Account":"@a","SubscribeAccountList":["jared"]}"#, "expected an object"),
        (added, r#"{"Official_Account":"@a"}"#, "missing field `SubscribeAccountList`"),
        (changed, r#"{"Official_Account":7}"#, "expected a string"),
        (changed, r#"{"Name":"n"}"#, "missing field `Official_Account`"),
    ];

    let mut client = Client::connect(bridge.callbacks).unwrap();
    let right = [(changed, odd), (changed, bare), (unknown, message)];
    for (command, body) in right.into_iter().chain(wrong.map(|(command, body, _detail)| (command, body))) {
        let answer = client.post(&http::callback_target(APP, command), body.as_bytes()).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, OK), "{body}");
    }

    let read = |topic: String, count| Reader::open(&kafka.client(), &[&topic]).collect(count, MINUTE);
    let records = read(format!("{prefix}.{changed}"), 2);
    let of_key = |key: &str| records.iter().find(|record| record.key.as_deref() == Some(key.as_bytes())).unwrap();
    let record = of_key("@odd");
    assert_eq!(callback_of(record), odd);
    let record = json_of(&Record { value: text_of(record).replace("1e400", "1").into_bytes(), ..record.clone() });
    let event = json!({"official_account": "@odd", "name": "", "event_time_ms": 1_670_574_414_123_i64});
    assert_eq!(record["data"]["event"], event);
    assert_eq!((&record["time"], &record["timesource"]), (&json!("2022-12-09T08:26:54.123Z"), &json!("callback")));
    let record = json_of(of_key("@bare"));
    assert_eq!(record["data"]["event"], json!({"official_account": "@bare"}));
    assert_eq!((&record["time"], &record["timesource"]), (&record["receivedtime"], &json!("receipt")));
    assert_eq!(record.get("operator"), None);

    let records = read(format!("{prefix}.unknown"), 1);
    assert_eq!(records[0].key, None);
    assert_eq!(callback_of(&records[0]), message);
    assert_unknown(&json_of(&records[0]), unknown);

    let records = read(format!("{prefix}.rejected"), 1 + wrong.len());
    for (command, body, detail) in wrong {
        let record = records.iter().find(|record| record.value == body.as_bytes()).unwrap();
        assert_rejected(record, command, "wrong_shape", detail);
    }

    let metrics = bridge.metrics();
    let received = |command: &str| metrics[&format!("callbridge_callbacks_received_total{{command=\"{command}\"}}")];
    assert_eq!((received(added), received(changed), received("other")), (2.0, 4.0, 2.0));
    let seven_and_warm_up = Ledger { received: 8, refused: 1, delivered: 7, ..Ledger::default() };
    assert_eq!(Ledger::of_exit(&bridge.stop_and_wait().ledger), seven_and_warm_up);
}

fn assert_unknown(envelope: &Value, command: &str) {
    assert_eq!(envelope["type"], command);
    assert_eq!(envelope["dataschema"], "urn:callbridge:schema:unknown:1");
    for absent in ["subject", "partitionkey", "operator", "decision"] {
        assert_eq!(envelope.get(absent), None, "{absent}");
    }
    let data: Vec<&String> = envelope["data"].as_object().unwrap().keys().collect();
    assert_eq!(data, ["callback"]);
}

/// Asserts all of a record of `<prefix>.rejected` but its value.
pub(crate) fn assert_rejected(record: &Record, command: &str, reason: &str, detail: &str) {
    assert_eq!(record.key, None);
    let names: Vec<&str> = record.headers.iter().map(|(name, _value)| name.as_str()).collect();
    let six = ["reason", "detail", "command", "sdkappid", "received", "peer"].map(|it| format!("callbridge-{it}"));
    assert_eq!(names, six);
    let headers = headers_of(record);
    assert_eq!(headers["callbridge-reason"], reason);
    assert!(headers["callbridge-detail"].contains(detail), "{detail:?} is not in {headers:?}");
    assert_eq!(headers["callbridge-command"], command);
    assert_eq!(headers["callbridge-sdkappid"], APP);
    assert!(is_utc_with_millis(&headers["callbridge-received"]), "{headers:?}");
    assert!(headers["callbridge-peer"].starts_with("127.0.0.1:"), "{headers:?}");
}

/// Asserts all of a record in structured mode.
fn assert_structured(record: &Record, seed: &Seed, decision: Option<Value>) {
    assert_eq!(record.key.as_deref(), Some(seed.account.as_bytes()));
    let headers = [
        ("content-type", "application/cloudevents+json"),
        ("ce_id", seed.id),
        ("ce_source", "/tencent-chat/1400000000"),
        ("ce_type", seed.command),
    ];
    assert_eq!(record.headers, headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())));
    assert_eq!(callback_of(record), seed.body.trim());
    let envelope = json_of(record);
    let received = envelope["receivedtime"].as_str().unwrap();
    let mut expected = attributes(seed, decision.as_ref(), received);
    expected["datacontenttype"] = "application/json".into();
    expected["data"] = data(seed, decision);
    assert_eq!(envelope, expected);
}

/// Asserts all of a record in binary mode.
fn assert_binary(record: &Record, seed: &Seed, decision: Option<Value>) {
    assert_eq!(record.key.as_deref(), Some(seed.account.as_bytes()));
    let headers = headers_of(record);
    let attributes = attributes(seed, decision.as_ref(), &headers["ce_receivedtime"]);
    let attributes = attributes.as_object().unwrap().iter();
    let mut expected: BTreeMap<String, String> =
        attributes.map(|(name, value)| (format!("ce_{name}"), value.as_str().unwrap().to_owned())).collect();
    expected.insert("content-type".to_owned(), "application/json".to_owned());
    assert_eq!(headers, expected);
    assert!(text_of(record).ends_with(&format!(r#","callback":{}}}"#, seed.body.trim())));
    assert_eq!(json_of(record), data(seed, decision));
}

/// Every attribute of the envelope but `datacontenttype`, which is called otherwise in binary mode.
fn attributes(seed: &Seed, decision: Option<&Value>, received: &str) -> Value {
    assert!(is_utc_with_millis(received), "{received}");
    let mut attributes = json!({
        "specversion": "1.0",
        "id": seed.id,
        "idbasis": "body",
        "source": "/tencent-chat/1400000000",
        "type": seed.command,
        "subject": seed.account,
        "time": "2022-12-09T08:26:54.123Z",
        "timesource": "callback",
        "receivedtime": received,
        "dataschema": format!("urn:callbridge:schema:{}:1", seed.command),
        "sdkappid": APP,
        "optplatform": "RESTAPI",
        "clientip": "127.0.0.1",
        "partitionkey": seed.account,
    });
    if let Some(operator) = seed.operator {
        attributes["operator"] = operator.into();
    }
    if let Some(decision) = decision {
        attributes["decision"] = decision["outcome"].clone();
    }
    attributes
}

fn data(seed: &Seed, decision: Option<Value>) -> Value {
    let callback: Value = serde_json::from_str(seed.body).unwrap();
    let mut data = json!({"event": (seed.event)(), "callback": callback});
    if let Some(decision) = decision {
        data["decision"] = decision;
    }
    data
}

/// As in `2022-12-09T08:26:54.123Z`, and not long ago.
fn is_utc_with_millis(time: &str) -> bool {
    let shape: String = time.chars().map(|it| if it.is_ascii_digit() { '0' } else { it }).collect();
    shape == "0000-00-00T00:00:00.000Z" && time > "2025"
}

/// The callback in a structured record, byte for byte: it is the last member of the last member.
fn callback_of(record: &Record) -> String {
    let text = text_of(record);
    let (_before, callback) = text.split_once(r#""callback":"#).unwrap();
    callback.strip_suffix("}}").unwrap().to_owned()
}

fn body_of(question: &Question) -> String {
    let list: Vec<Value> = question.users.iter().map(|user| json!({"Subscriber_Account": user})).collect();
    json!({"Official_Account": question.account, "SubscribeAccountList": list}).to_string()
}

fn target(seed: &Seed) -> String {
    http::callback_target(APP, seed.command)
}

fn json_of(record: &Record) -> Value {
    serde_json::from_slice(&record.value).unwrap()
}

fn text_of(record: &Record) -> String {
    String::from_utf8(record.value.clone()).unwrap()
}

fn headers_of(record: &Record) -> BTreeMap<String, String> {
    let text = |(name, value): &(String, Vec<u8>)| (name.clone(), String::from_utf8(value.clone()).unwrap());
    let headers: BTreeMap<String, String> = record.headers.iter().map(text).collect();
    assert_eq!(headers.len(), record.headers.len(), "a header comes twice");
    headers
}

fn sorted(mut records: Vec<Record>) -> Vec<Record> {
    records.sort();
    records
}
