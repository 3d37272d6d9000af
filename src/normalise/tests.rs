//! Captures in, records out.

use std::net::SocketAddr;

use serde_json::Value;
use serde_json::json;

use super::*;
use crate::auth::VerifiedApp;
use crate::capture::Raw;
use crate::clock::UnixMillis;
use crate::command::Command;
use crate::decide::Decision;
use crate::refusal::Reason;

const RECEIVED: UnixMillis = UnixMillis(1_700_000_000_001);

fn normaliser(mode: Mode) -> (Normaliser, VerifiedApp) {
    let apps = Arc::new(Apps::new([1_400_000_000]));
    let app = apps.iter().next().unwrap();
    (Normaliser::new(apps, Arc::new(Topics::new(["t"])), mode), app)
}

fn raw(query: &str, body: &[u8]) -> Raw {
    let mut raw = Raw::begin(query, body.len());
    raw.push(body);
    raw.end()
}

fn capture(app: VerifiedApp, command: &str, body: &str) -> Capture {
    Capture {
        received: RECEIVED,
        peer: SocketAddr::from(([127, 0, 0, 1], 4711)),
        app,
        command: Command::find(command),
        raw: raw(
            &format!("SdkAppid=1400000000&CallbackCommand={command}&ClientIP=10.0.0.7&OptPlatform=RESTAPI"),
            body.as_bytes(),
        ),
        outcome: Outcome::Happened,
    }
}

fn json_of(record: &Record<'_>) -> Value {
    serde_json::from_slice(&record.value).unwrap()
}

fn headers_of(record: &Record<'_>) -> Vec<(&'static str, String)> {
    record.headers.iter().map(|header| (header.name, String::from_utf8(header.value.to_vec()).unwrap())).collect()
}

const ADDED: &str = r#" {"CallbackCommand": "OfficialAccount.CallbackAfterAddSubscriber", "Official_Account": "@TOA#_a", "Operator_Account": "107867",
 "SubscribeAccountList": [{"Subscriber_Account": "jared"}, {"Subscriber_Account": "l\u00e9ckie"}], "EventTime": 1670574414123, "New_Field": 1e400}
"#;

#[test]
fn an_added_subscriber_becomes_a_structured_event() {
    let (normaliser, app) = normaliser(Mode::Structured);
    let capture = capture(app, "OfficialAccount.CallbackAfterAddSubscriber", ADDED);
    let record = normaliser.record(&capture);
    assert_eq!(normaliser.topics.name(record.topic), "t.OfficialAccount.CallbackAfterAddSubscriber");
    assert_eq!(record.key.as_deref(), Some("@TOA#_a"));
    let text = str::from_utf8(&record.value).unwrap();
    assert!(text.ends_with(&format!(",\"callback\":{}}}}}", ADDED.trim())), "the callback is not verbatim: {text}");
    let value: Value = serde_json::from_str(&text.replace("1e400", "1")).unwrap();
    let mut expected = json!({
        "specversion": "1.0", "source": "/tencent-chat/1400000000", "type": "OfficialAccount.CallbackAfterAddSubscriber",
        "subject": "@TOA#_a", "time": "2022-12-09T08:26:54.123Z", "timesource": "callback", "receivedtime": "2023-11-14T22:13:20.001Z",
        "datacontenttype": "application/json", "dataschema": "urn:callbridge:schema:OfficialAccount.CallbackAfterAddSubscriber:1",
        "sdkappid": "1400000000", "optplatform": "RESTAPI", "clientip": "10.0.0.7", "operator": "107867", "partitionkey": "@TOA#_a",
        "data": {
            "event": {"official_account": "@TOA#_a", "operator": "107867", "subscribers": ["jared", "léckie"], "event_time_ms": 1670574414123_i64},
        },
    });
    expected["id"] = value["id"].clone();
    expected["data"]["callback"] = value["data"]["callback"].clone();
    assert_eq!(value, expected);
    let id = value["id"].as_str().unwrap();
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(
        headers_of(&record),
        [
            ("content-type", "application/cloudevents+json".to_owned()),
            ("ce_id", id.to_owned()),
            ("ce_source", "/tencent-chat/1400000000".to_owned()),
            ("ce_type", "OfficialAccount.CallbackAfterAddSubscriber".to_owned()),
        ]
    );
}

#[test]
fn binary_mode_says_the_same_in_headers() {
    let (structured, app) = normaliser(Mode::Structured);
    let (binary, _) = normaliser(Mode::Binary);
    let capture = capture(app, "OfficialAccount.CallbackAfterAddSubscriber", &ADDED.replace("1e400", "1"));
    let whole = json_of(&structured.record(&capture));
    let record = binary.record(&capture);
    assert_eq!(json_of(&record), whole["data"]);
    let headers = headers_of(&record);
    for (name, value) in whole.as_object().unwrap() {
        let header = match name.as_str() {
            "data" => continue,
            "datacontenttype" => "content-type".to_owned(),
            name => format!("ce_{name}"),
        };
        let found = headers.iter().find(|(name, _)| *name == header).map(|(_, value)| value.as_str());
        assert_eq!(found, value.as_str(), "{header}");
    }
    assert_eq!(headers.len(), whole.as_object().unwrap().len() - 1);
}

#[test]
fn the_other_two_forms_hold_only_what_the_callback_has() {
    let (normaliser, app) = normaliser(Mode::Structured);
    let cases = [
        (
            "OfficialAccount.CallbackAfterOfficialAccountDestroyed",
            r#"{"Official_Account":"@TOA#_b","Owner_Account":"o","Name":"n","EventTime":"1670574414123"}"#,
            json!({"official_account": "@TOA#_b", "owner": "o", "name": "n", "event_time_ms": 1670574414123_i64}),
        ),
        (
            "OfficialAccount.CallbackAfterOfficialAccountInfoChanged",
            r#"{"Official_Account":"@TOA#_b","Operator_Account":"o","FaceUrl":"http://x","EventTime":{}}"#,
            json!({"official_account": "@TOA#_b", "operator": "o", "face_url": "http://x"}),
        ),
        (
            "OfficialAccount.CallbackAfterOfficialAccountInfoChanged",
            r#"{"Official_Account":"@TOA#_b","Name":"n","Introduction":"i","Organization":"g","FaceUrl":""}"#,
            json!({"official_account": "@TOA#_b", "name": "n", "introduction": "i", "organization": "g", "face_url": ""}),
        ),
    ];
    for (command, body, event) in cases {
        let capture = capture(app, command, body);
        let value = json_of(&normaliser.record(&capture));
        assert_eq!(value["data"]["event"], event, "{body}");
        let is_from_callback = event.get("event_time_ms").is_some();
        assert_eq!(value["timesource"], if is_from_callback { "callback" } else { "receipt" });
        assert_eq!(
            value["time"],
            if is_from_callback { "2022-12-09T08:26:54.123Z" } else { "2023-11-14T22:13:20.001Z" }
        );
    }
}

#[test]
fn a_decision_travels_with_the_question() {
    let (normaliser, app) = normaliser(Mode::Structured);
    let mut capture = capture(
        app,
        "OfficialAccount.CallbackBeforeAddSubscriber",
        &ADDED.replace("After", "Before").replace("1e400", "1"),
    );
    capture.outcome = Outcome::Decided(Decision {
        outcome: crate::decide::Outcome::Partial,
        refused: vec!["jared".into()],
        rules: vec!["block jared".into()],
        generation: 7,
        rejection: None,
    });
    let value = json_of(&normaliser.record(&capture));
    assert_eq!(value["decision"], "partial");
    assert_eq!(
        value["data"]["decision"],
        json!({"outcome": "partial", "refused": ["jared"], "rules": ["block jared"], "generation": 7})
    );
}

#[test]
fn an_unknown_command_is_wrapped_without_subject_and_key() {
    let (normaliser, app) = normaliser(Mode::Structured);
    let capture = capture(app, "Future.Command", "{\"a\":[1]}\n");
    let record = normaliser.record(&capture);
    let value = json_of(&record);
    assert_eq!(normaliser.topics.name(record.topic), "t.unknown");
    assert_eq!(record.key, None);
    assert_eq!(value["type"], "Future.Command");
    assert_eq!(value["data"], json!({"callback": {"a": [1]}}));
    for absent in ["subject", "partitionkey", "operator", "decision"] {
        assert_eq!(value.get(absent), None, "{absent}");
    }
}

#[test]
fn a_wrong_shape_goes_to_rejected_as_it_came() {
    let (normaliser, app) = normaliser(Mode::Structured);
    let body = " {\"Official_Account\":5} ";
    let capture = capture(app, "OfficialAccount.CallbackAfterAddSubscriber", body);
    let record = normaliser.record(&capture);
    assert_eq!(normaliser.topics.name(record.topic), "t.rejected");
    assert_eq!(record.key, None);
    assert_eq!(&*record.value, body.as_bytes());
    assert_eq!(
        headers_of(&record),
        [
            ("callbridge-reason", "wrong_shape".to_owned()),
            ("callbridge-detail", "invalid type: integer `5`, expected a string at line 1 column 21".to_owned()),
            ("callbridge-command", "OfficialAccount.CallbackAfterAddSubscriber".to_owned()),
            ("callbridge-sdkappid", "1400000000".to_owned()),
            ("callbridge-received", "2023-11-14T22:13:20.001Z".to_owned()),
            ("callbridge-peer", "127.0.0.1:4711".to_owned()),
        ]
    );
}

#[test]
fn what_was_refused_is_kept_with_its_reason_cut_to_length() {
    let (normaliser, app) = normaliser(Mode::Binary);
    let mut capture = capture(app, "X.y", "\u{0}nonsense");
    capture.outcome = Outcome::Refused { reason: Reason::NotJson, detail: "é".repeat(4000).into() };
    let record = normaliser.record(&capture);
    let headers = headers_of(&record);
    assert_eq!(&*record.value, b"\0nonsense");
    assert_eq!(headers[0], ("callbridge-reason", "not_json".to_owned()));
    assert_eq!(headers[1].1.len(), DETAIL_BYTES_MAX);
    assert!(headers.iter().all(|(name, _)| !name.starts_with("ce_")));
}
