//! Captures in, records out.

use std::net::SocketAddr;

use proptest::prelude::*;
use serde_json::Value;
use serde_json::json;

use super::part::Parts;
use super::*;
use crate::auth::VerifiedApp;
use crate::capture::Raw;
use crate::clock::UnixMillis;
use crate::command::Command;
use crate::command::Dedupe;
use crate::command::Kind;
use crate::decide::Decision;
use crate::decide::DecisiveRule;
use crate::refusal::Reason;

#[path = "../../tests/it/support/schema.rs"]
mod schema;

const RECEIVED: UnixMillis = UnixMillis(1_700_000_000_001);

pub(super) fn normaliser(mode: Mode) -> (Normaliser, VerifiedApp) {
    let apps = Arc::new(Apps::new([1_400_000_000]));
    let app = apps.iter().next().unwrap();
    (Normaliser::new(apps, Arc::new(Topics::new(["t"])), mode), app)
}

fn raw(query: &str, body: &[u8]) -> Raw {
    let mut raw = Raw::begin(query, body.len());
    raw.push(body);
    raw.end()
}

/// A callback as it is taken. A question is allowed.
pub(super) fn capture(app: VerifiedApp, command: &str, body: &str) -> Capture {
    let query =
        format!("SdkAppid=1400000000&CallbackCommand={command}&ClientIP=10.0.0.7&OptPlatform=RESTAPI&RequestID=7-a");
    capture_under(app, &query, body)
}

/// The same under any query.
pub(super) fn capture_under(app: VerifiedApp, query: &str, body: &str) -> Capture {
    let known = Query::parse(query).unwrap().command.and_then(|command| Command::find(&command));
    let is_question = known.is_some_and(|command| command.kind() == Kind::Before);
    Capture {
        received: RECEIVED,
        peer: SocketAddr::from(([127, 0, 0, 1], 4711)),
        app,
        command: known,
        raw: raw(query, body.as_bytes()),
        outcome: if is_question { CaptureOutcome::Decided(Decision::unjudged()) } else { CaptureOutcome::Happened },
    }
}

/// The value of a record that its schema allows.
pub(super) fn json_of(record: &Record<'_>) -> Value {
    assert_eq!(judged(record), Ok(()));
    serde_json::from_slice(&record.value).unwrap()
}

/// Judges a record that is not rejected.
pub(super) fn judged(record: &Record<'_>) -> Result<(), String> {
    let headers: Vec<(&str, &[u8])> = record.headers.iter().map(|header| (header.name, &*header.value)).collect();
    schema::judge(record.key.as_deref().map(str::as_bytes), &headers, &record.value)
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
    assert_eq!(judged(&record), Ok(()));
    let text = str::from_utf8(&record.value).unwrap();
    assert!(text.ends_with(&format!(",\"callback\":{}}}}}", ADDED.trim())), "the callback is not verbatim: {text}");
    let value: Value = serde_json::from_str(&text.replace("1e400", "1")).unwrap();
    let mut expected = json!({
        "specversion": "1.0", "source": "/tencent-chat/1400000000", "type": "OfficialAccount.CallbackAfterAddSubscriber",
        "idbasis": "body",
        "subject": "@TOA#_a", "time": "2022-12-09T08:26:54.123Z", "timesource": "callback", "receivedtime": "2023-11-14T22:13:20.001Z",
        "datacontenttype": "application/json", "dataschema": "urn:callbridge:schema:OfficialAccount.CallbackAfterAddSubscriber:1",
        "sdkappid": "1400000000", "optplatform": "RESTAPI", "clientip": "10.0.0.7", "requestid": "7-a", "operator": "107867", "partitionkey": "@TOA#_a",
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
fn the_rest_of_the_family_has_normal_forms_too() {
    let (normaliser, app) = normaliser(Mode::Structured);
    let cases = [
        (
            "BeforeCreateOfficialAccount",
            r#"{"Operator_Account":"admin","Owner_Account":"o","Name":"n","EventTime":1670574414123}"#,
            "o",
            json!({"operator": "admin", "owner": "o", "name": "n", "event_time_ms": 1670574414123_i64}),
        ),
        (
            "AfterCreateOfficialAccount",
            r#"{"Official_Account":"@a","Operator_Account":"admin","Owner_Account":"o","Name":"n"}"#,
            "@a",
            json!({"official_account": "@a", "operator": "admin", "owner": "o", "name": "n"}),
        ),
        (
            "AfterOfficialAccountFull",
            r#"{"Official_Account":"@a","EventTime":1670574414123}"#,
            "@a",
            json!({"official_account": "@a", "event_time_ms": 1670574414123_i64}),
        ),
        (
            "AfterDeleteSubscriber",
            r#"{"Official_Account":"@a","Operator_Account":"u","SubscribeAccountList":[{"Subscriber_Account":"u"}]}"#,
            "@a",
            json!({"official_account": "@a", "operator": "u", "subscribers": ["u"]}),
        ),
        (
            "BeforeSendMsg",
            r#"{"Official_Account":"@a","OnlineOnlyFlag":1,"MsgBody":[{"MsgType":"T"}],"CloudCustomData":"c"}"#,
            "@a",
            json!({"official_account": "@a", "online_only": true, "message_body": [{"MsgType": "T"}], "custom_data": "c"}),
        ),
        (
            "AfterSendMsg",
            r#"{"Official_Account":"@a","MsgKey":"7_1_1","MsgTime":1670574414,"OnlineOnlyFlag":0,"MsgBody":[]}"#,
            "@a",
            json!({
                "official_account": "@a", "message_key": "7_1_1", "message_time_ms": 1670574414000_i64,
                "online_only": false, "message_body": [],
            }),
        ),
        (
            "AfterMsgWithDraw",
            r#"{"Official_Account":"@a","WithdrawMsgList":[{"MsgKey":"1"},{"MsgKey":"2"}]}"#,
            "@a",
            json!({"official_account": "@a", "message_keys": ["1", "2"]}),
        ),
    ];
    for (command, body, subject, event) in cases {
        let capture = capture(app, &format!("OfficialAccount.Callback{command}"), body);
        let value = json_of(&normaliser.record(&capture));
        assert_eq!((&value["data"]["event"], &value["subject"]), (&event, &json!(subject)), "{command}");
    }
}

#[test]
fn a_wrong_shape_of_any_of_the_family_goes_to_rejected() {
    let (normaliser, app) = normaliser(Mode::Structured);
    for (command, body) in [
        ("BeforeCreateOfficialAccount", r#"{"Official_Account":"@a"}"#),
        ("AfterCreateOfficialAccount", r#"{"Owner_Account":"o"}"#),
        ("AfterOfficialAccountFull", "{}"),
        ("AfterDeleteSubscriber", r#"{"Official_Account":"@a"}"#),
        ("BeforeSendMsg", r#"{"Official_Account":"@a","MsgBody":{}}"#),
        ("BeforeSendMsg", r#"{"Official_Account":"@a","OnlineOnlyFlag":"1"}"#),
        ("AfterSendMsg", r#"{"Official_Account":"@a","MsgKey":7}"#),
        ("AfterMsgWithDraw", r#"{"Official_Account":"@a","WithdrawMsgList":["1"]}"#),
    ] {
        let capture = capture(app, &format!("OfficialAccount.Callback{command}"), body);
        assert_eq!(normaliser.record(&capture).dead_letter_reason, Some(WRONG_SHAPE), "{command} {body}");
    }
}

#[test]
fn a_batch_is_one_record_for_each_of_its_events() {
    let (normaliser, app) = normaliser(Mode::Structured);
    let first = r#"{ "PushID":"p","To_Account":"a","PushStage":1,"EventTime":1670574414 }"#;
    let second = r#"{"PushID":"p","To_Account":"b","PushStage":1,"EventTime":1670574415}"#;
    let body = format!("\n {{\"Events\": [\n{first} , {second},7, {{}}] , \"x\":1}} ");
    let batch = capture(app, "Push.OfflinePush", &body);
    let parts = Parts::of(&batch);
    assert_eq!((parts.count(), parts.iter().count()), (4, 4));
    let records: Vec<Record<'_>> = parts.iter().map(|part| normaliser.record_of(&batch, part)).collect();
    for (record, callback, key, time) in
        [(&records[0], first, "a", "2022-12-09T08:26:54.000Z"), (&records[1], second, "b", "2022-12-09T08:26:55.000Z")]
    {
        assert_eq!(normaliser.topics.name(record.topic), "t.Push.OfflinePush");
        assert_eq!(record.key.as_deref(), Some(key));
        let text = str::from_utf8(&record.value).unwrap();
        assert!(text.ends_with(&format!(r#""callback":{callback}}}}}"#)), "{text}");
        assert_eq!((&json_of(record)["subject"], &json_of(record)["time"]), (&json!(key), &json!(time)));
    }
    // What is no event is kept by itself, and one without its fields has none.
    assert_eq!((records[2].dead_letter_reason, &*records[2].value), (Some(WRONG_SHAPE), &b"7"[..]));
    assert_eq!((records[3].key.as_deref(), json_of(&records[3]).get("subject")), (None, None));

    // Alone or in another batch, it is the same event.
    let id = json_of(&records[1])["id"].clone();
    for body in [second.to_owned(), format!(r#"{{"Events":[{second}]}}"#)] {
        let capture = capture(app, "Push.OfflinePush", &body);
        let ids: Vec<Value> = Parts::of(&capture)
            .iter()
            .map(|part| json_of(&normaliser.record_of(&capture, part))["id"].clone())
            .collect();
        assert_eq!(ids, std::slice::from_ref(&id), "{body}");
    }
    assert_ne!(json_of(&records[0])["id"], id);
}

#[test]
fn what_is_no_batch_is_one_part_and_so_is_a_batch_without_events() {
    let (normaliser, app) = normaliser(Mode::Structured);
    for (command, body) in [
        ("Push.OfflinePush", r#"{"Events":[]}"#),
        ("Push.AllMemberPush", r#"{"Events":{"To_Account":"a"}}"#),
        ("Push.AllMemberPush", r#"{"To_Account":"a"}"#),
        ("State.StateChange", r#"{"Events":[{},{}]}"#),
        ("Future.Command", r#"{"Events":[{},{}]}"#),
    ] {
        let capture = capture(app, command, body);
        let parts = Parts::of(&capture);
        assert_eq!((parts.count(), parts.iter().collect::<Vec<_>>()), (1, vec![Part::WHOLE]), "{body}");
        assert_eq!(json_of(&normaliser.record(&capture))["data"]["callback"].to_string(), body);
    }
    let mut refused = capture(app, "Push.OfflinePush", r#"{"Events":[{},{}]"#);
    refused.outcome = CaptureOutcome::Refused { reason: Reason::NotJson, detail: "".into() };
    assert_eq!(Parts::of(&refused).count(), 1);
}

#[test]
fn a_decision_travels_with_the_question() {
    let (normaliser, app) = normaliser(Mode::Structured);
    let mut capture = capture(
        app,
        "OfficialAccount.CallbackBeforeAddSubscriber",
        &ADDED.replace("After", "Before").replace("1e400", "1"),
    );
    capture.outcome = CaptureOutcome::Decided(Decision {
        outcome: crate::decide::Outcome::Partial,
        refused: vec!["jared".into()],
        rules: vec![
            DecisiveRule { rule: "block jared".into(), source: "file:list".into() },
            DecisiveRule { rule: "block jared".into(), source: "".into() },
        ],
        generation: 7,
        rejection: None,
        enforced: true,
    });
    let value = json_of(&normaliser.record(&capture));
    assert_eq!(value["decision"], "partial");
    assert_eq!(
        value["data"]["decision"],
        json!({
            "outcome": "partial",
            "refused": ["jared"],
            "rules": [{"rule": "block jared", "source": "file:list"}, {"rule": "block jared"}],
            "generation": 7,
        })
    );
    if let CaptureOutcome::Decided(decision) = &mut capture.outcome {
        decision.enforced = false;
    }
    let value = json_of(&normaliser.record(&capture));
    assert_eq!((&value["decision"], &value["data"]["decision"]["enforced"]), (&json!("partial"), &json!(false)));
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
    capture.outcome = CaptureOutcome::Refused { reason: Reason::NotJson, detail: "é".repeat(4000).into() };
    let record = normaliser.record(&capture);
    let headers = headers_of(&record);
    assert_eq!(&*record.value, b"\0nonsense");
    assert_eq!(headers[0], ("callbridge-reason", "not_json".to_owned()));
    assert_eq!(headers[1].1.len(), DETAIL_BYTES_MAX);
    assert!(headers.iter().all(|(name, _)| !name.starts_with("ce_")));
}

/// A body of the table's commands, out of few values, so that some are the same.
fn a_body() -> impl Strategy<Value = String> {
    let names: &'static [&'static str] = &[
        "GroupId",
        "TopicId",
        "MsgSeq",
        "From_Account",
        "To_Account",
        "MsgKey",
        "EventTime",
        "Official_Account",
        "PushID",
        "TaskId",
        "PushStage",
        "EventType",
        "ErrCode",
        "MsgTime",
        "Random",
        "PushPlatform",
        "DeviceType",
        "Report_Account",
        "Peer_Account",
        "LastReadTime",
    ];
    let value = prop_oneof!["\"[12]\"", "[12]", Just("\"\"".to_owned()), Just("null".to_owned())];
    let member = (proptest::sample::select(names), value).prop_map(|(name, value)| format!("\"{name}\":{value}"));
    let nested = prop_oneof![
        "\"Info\":\\{\"To_Account\":\"[12]\",\"Action\":\"[12]\"\\}",
        "\"WithdrawMsgList\":\\[(\\{\"MsgKey\":\"[12]\"\\}|\\{\"MsgKey\":\"1\"\\},\\{\"MsgKey\":\"[12]\"\\})\\]",
    ];
    let whole = "\"Official_Account\":\"[12]\",\"Owner_Account\":\"a\",\"SubscribeAccountList\":\\[\\],\"GroupId\":\"[12]\",\"MsgSeq\":[12],\"MsgKey\":\"[12]\",\"From_Account\":\"a\",\"To_Account\":\"b\"";
    let few = proptest::collection::vec(member.boxed(), 0..4);
    (proptest::option::weighted(0.7, whole), nested, few).prop_map(|(whole, nested, few)| {
        let members: Vec<String> = whole.into_iter().chain([nested]).chain(few).collect();
        format!("{{{}}}", members.join(","))
    })
}

/// What tells two of a command apart, found in another way than the program does.
fn dedupe_key(command: Option<Command>, body: &str) -> Value {
    let whole = json!({ "body": body });
    let Some(Dedupe::Fields(paths)) = command.map(Command::dedupe) else { return whole };
    let body: Value = serde_json::from_str(body).unwrap();
    let text = |value: &Value| match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    let mut key = Vec::new();
    for path in paths {
        let texts: Vec<String> = match *path {
            "WithdrawMsgList[].MsgKey" => {
                let list = body["WithdrawMsgList"].as_array().into_iter().flatten();
                list.filter_map(|message| text(&message["MsgKey"])).collect()
            }
            "Info.To_Account" => text(&body["Info"]["To_Account"]).into_iter().collect(),
            "Info.Action" => text(&body["Info"]["Action"]).into_iter().collect(),
            name => text(&body[name.trim_end_matches(['?', '+'])]).into_iter().collect(),
        };
        if texts.is_empty() && !path.ends_with(['?', '+']) {
            return whole;
        }
        key.push(texts);
    }
    json!(key)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn two_have_one_id_exactly_when_application_command_and_dedupe_key_are_the_same(
        apps in (0..2_usize, 0..2_usize),
        places in (0..=Command::COUNT, prop_oneof![Just(None), (0..=Command::COUNT).prop_map(Some)]),
        bodies in (a_body(), proptest::option::of(a_body())),
    ) {
        let all = Arc::new(Apps::new([1, 2]));
        let app = |place| all.iter().nth(place).unwrap();
        let normaliser = Normaliser::new(Arc::clone(&all), Arc::new(Topics::new(["t", "u"])), Mode::Structured);
        let name = |place| Command::all().nth(place).map_or("Future.Command", Command::name);
        let (one, other) = (name(places.0), name(places.1.unwrap_or(places.0)));
        let other_body = bodies.1.as_ref().unwrap_or(&bodies.0);
        let (a, b) = (capture(app(apps.0), one, &bodies.0), capture(app(apps.1), other, other_body));
        let (a_record, b_record) = (normaliser.record(&a), normaliser.record(&b));
        // The rejected have no id.
        prop_assume!(a_record.dead_letter_reason.is_none() && b_record.dead_letter_reason.is_none());
        prop_assert_eq!((judged(&a_record), judged(&b_record)), (Ok(()), Ok(())));
        let id = |record: &Record<'_>| record.headers.iter().find(|header| header.name == "ce_id").unwrap().value.to_vec();
        let are_the_same = apps.0 == apps.1 && one == other
            && dedupe_key(a.command, &bodies.0) == dedupe_key(b.command, other_body);
        prop_assert_eq!(id(&a_record) == id(&b_record), are_the_same);
    }

    #[test]
    fn a_command_of_the_future_is_never_lost(body in a_body(), command in "[A-Z][a-z]{0,4}\\.[A-Za-z]{1,8}") {
        let (normaliser, app) = normaliser(Mode::Structured);
        let capture = capture(app, &command, &body);
        let record = normaliser.record(&capture);
        prop_assert_eq!(normaliser.topics.name(record.topic), "t.unknown");
        prop_assert_eq!(json_of(&record)["data"].to_string().contains("callback"), true);
        let ends_verbatim = record.value.ends_with(format!(r#""callback":{body}}}}}"#).as_bytes());
        prop_assert!(ends_verbatim);
    }
}
