//! What anybody may write into a query or a body, and how much of it reaches an envelope.

use serde_json::Value;
use serde_json::json;

use super::part::Parts;
use super::tests::capture;
use super::tests::capture_under;
use super::tests::json_of;
use super::tests::judged;
use super::tests::normaliser;
use super::*;

const MODES: [Mode; 2] = [Mode::Structured, Mode::Binary];

/// The attribute of that name, as each mode writes it.
fn attribute(record: &Record<'_>, name: &str) -> Option<String> {
    let value: Value = serde_json::from_slice(&record.value).unwrap();
    let header = record.headers.iter().find(|header| header.name == format!("ce_{name}"));
    let header = header.map(|header| String::from_utf8(header.value.to_vec()).unwrap());
    value.get(name).and_then(Value::as_str).map(str::to_owned).or(header)
}

#[test]
fn an_account_with_a_control_character_is_left_out_of_the_attributes() {
    for mode in MODES {
        let (normaliser, app) = normaliser(mode);
        for character in [r"\u0000", r"\n", r"\u007f", r"\u0085", "\u{9f}", "\u{fdd0}", r"\ufffe", "\u{1ffff}"] {
            for (command, body) in [
                (
                    "OfficialAccount.CallbackAfterOfficialAccountFull",
                    format!(r#"{{"Official_Account":"@a{character}","Operator_Account":"o{character}"}}"#),
                ),
                (
                    "Group.CallbackAfterGroupFull",
                    format!(r#"{{"GroupId":"@a{character}","Operator_Account":"o{character}"}}"#),
                ),
            ] {
                let capture = capture(app, command, &body);
                let record = normaliser.record(&capture);
                let value = json_of(&record);
                for absent in ["subject", "partitionkey", "operator"] {
                    assert_eq!(attribute(&record, absent), None, "{absent} {body:?}");
                }
                let account: String = serde_json::from_str(&format!("\"@a{character}\"")).unwrap();
                assert_eq!(record.key.as_deref(), Some(account.as_str()), "order per key holds: {body:?}");
                let event = value.pointer("/data/event").or(value.get("event"));
                assert!(event.is_none_or(|event| event["official_account"] == json!(account)), "{value}");
            }
        }
    }
}

#[test]
fn values_of_the_query_that_are_long_or_have_control_characters_are_left_out() {
    for mode in MODES {
        let (normaliser, app) = normaliser(mode);
        for (name, attribute_name) in
            [("ClientIP", "clientip"), ("OptPlatform", "optplatform"), ("RequestId", "requestid")]
        {
            for (value, expected) in [
                ("9".repeat(128), Some("9".repeat(128))),
                ("9".repeat(129), None),
                ("%C3%A9".repeat(64), Some("é".repeat(64))),
                ("%C3%A9".repeat(65), None),
                ("a%0Db".to_owned(), None),
                ("a%7F".to_owned(), None),
                ("%EF%BF%BF".to_owned(), None),
                (String::new(), None),
            ] {
                let query = format!("SdkAppid=1400000000&CallbackCommand=Group.CallbackAfterGroupFull&{name}={value}");
                let capture = capture_under(app, &query, "{}");
                let record = normaliser.record(&capture);
                json_of(&record);
                assert_eq!(attribute(&record, attribute_name), expected, "{name}={value}");
            }
        }
    }
}

#[test]
fn a_command_with_a_control_character_is_dead_lettered() {
    let (normaliser, app) = normaliser(Mode::Structured);
    let capture = capture_under(app, "SdkAppid=1400000000&CallbackCommand=Future%0ACommand", "{}");
    let record = normaliser.record(&capture);
    assert_eq!((record.dead_letter_reason, normaliser.topics.name(record.topic)), (Some(WRONG_SHAPE), "t.rejected"));
    assert_eq!(&*record.value, b"{}");
}

#[test]
fn the_request_id_is_in_no_id() {
    let (normaliser, app) = normaliser(Mode::Structured);
    let id = |request: &str| {
        let query = format!("SdkAppid=1400000000&CallbackCommand=State.StateChange{request}");
        let capture = capture_under(app, &query, r#"{"Info":{"To_Account":"u"}}"#);
        let record = normaliser.record(&capture);
        json_of(&record);
        (attribute(&record, "id"), attribute(&record, "requestid"))
    };
    let ((none, absent), (one, first), (other, second)) = (id(""), id("&RequestID=1-a"), id("&requestid=2-b"));
    assert_eq!((absent, first.as_deref(), second.as_deref()), (None, Some("1-a"), Some("2-b")));
    assert!(none == one && one == other);
}

#[test]
fn a_batch_of_a_thousand_events_is_expanded_and_one_more_is_dead_lettered() {
    let (normaliser, app) = normaliser(Mode::Structured);
    let body = |count| format!(r#"{{"Events":[{}]}}"#, vec!["{}"; count].join(","));
    let capture_of = |body: &str| capture(app, "Push.AllMemberPush", body);
    assert_eq!(Parts::of(&capture_of(&body(1000))).count(), 1000);
    for count in [1001, 25_000] {
        let body = body(count);
        let capture = capture_of(&body);
        let parts = Parts::of(&capture);
        assert_eq!((parts.is_batch(), parts.count()), (false, 1));
        let record = normaliser.record_of(&capture, parts.iter().next().unwrap());
        assert_eq!((record.dead_letter_reason, &*record.value), (Some(TOO_MANY_EVENTS), body.as_bytes()));
        assert_eq!(normaliser.topics.name(record.topic), "t.rejected");
    }
}

#[test]
fn what_is_no_batch_may_have_any_number_of_events() {
    let (normaliser, app) = normaliser(Mode::Structured);
    let body = format!(r#"{{"Events":[{}]}}"#, vec!["{}"; 1001].join(","));
    for command in ["State.StateChange", "Future.Command"] {
        assert_eq!(normaliser.record(&capture(app, command, &body)).dead_letter_reason, None, "{command}");
    }
}

#[test]
fn the_records_of_one_batch_take_a_bounded_number_of_bytes() {
    for mode in MODES {
        let (normaliser, app) = normaliser(mode);
        let text = "9".repeat(15_000);
        let query = format!("SdkAppid=1400000000&CallbackCommand=Push.OfflinePush&ClientIP={text}");
        let capture = capture_under(app, &query, &format!(r#"{{"Events":[{}]}}"#, vec!["{}"; 1000].join(",")));
        let parts = Parts::of(&capture);
        let lengths = parts.iter().map(|part| {
            let record = normaliser.record_of(&capture, part);
            let headers: usize = record.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
            headers + record.value.len()
        });
        assert!(lengths.sum::<usize>() < 1_000_000);
    }
}

/// An object, nested so deep.
fn nested(depth: usize) -> String {
    format!(r#"{{"Official_Account":"a","To_Account":"u","x":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1))
}

#[test]
fn json_nested_deeper_than_500_is_dead_lettered_as_it_came() {
    let (normaliser, app) = normaliser(Mode::Structured);
    for command in [
        "OfficialAccount.CallbackAfterOfficialAccountFull",
        "OfficialAccount.CallbackBeforeSendMsg",
        "State.StateChange",
        "Push.OfflinePush",
        "Future.Command",
    ] {
        for (depth, expected) in [(500, None), (501, Some(TOO_DEEP)), (50_000, Some(TOO_DEEP))] {
            let body = nested(depth);
            let capture = capture(app, command, &body);
            let record = normaliser.record(&capture);
            assert_eq!(record.dead_letter_reason, expected, "{command} {depth}");
            assert!(expected.is_none() || *record.value == *body.as_bytes());
        }
    }
}

#[test]
fn of_a_batch_only_the_events_that_are_too_deep_are_dead_lettered() {
    let (normaliser, app) = normaliser(Mode::Structured);
    // Nested 502 deep as a whole, as its record is.
    let batch = capture(app, "Push.OfflinePush", &format!(r#"{{"Events":[{},{}]}}"#, nested(500), nested(501)));
    let reasons: Vec<_> =
        Parts::of(&batch).iter().map(|part| normaliser.record_of(&batch, part).dead_letter_reason).collect();
    assert_eq!(reasons, [None, Some(TOO_DEEP)]);
}

#[test]
fn a_lone_surrogate_in_what_is_only_shown_becomes_u_fffd_and_the_callback_stays() {
    let (normaliser, app) = normaliser(Mode::Structured);
    for (command, field, member) in [
        ("AfterOfficialAccountInfoChanged", "Name", "name"),
        ("AfterOfficialAccountInfoChanged", "Introduction", "introduction"),
        ("AfterOfficialAccountInfoChanged", "FaceUrl", "face_url"),
        ("AfterOfficialAccountInfoChanged", "Organization", "organization"),
        ("AfterCreateOfficialAccount", "Name", "name"),
        ("AfterCreateOfficialAccount", "Owner_Account", "owner"),
        ("BeforeCreateOfficialAccount", "Name", "name"),
        ("AfterSendMsg", "CloudCustomData", "custom_data"),
        ("AfterDeleteSubscriber", "Operator_Account", "operator"),
        ("AfterMsgWithDraw", "Operator_Account", "operator"),
    ] {
        let needed = r#""Official_Account":"@a","SubscribeAccountList":[],"WithdrawMsgList":[]"#;
        let owner = if field == "Owner_Account" { "" } else { r#","Owner_Account":"o""# };
        let body = format!(r#"{{{needed}{owner},"{field}":"x\ud83d\ud83d\ude00"}}"#);
        let capture = capture(app, &format!("OfficialAccount.Callback{command}"), &body);
        let record = normaliser.record(&capture);
        assert_eq!(record.dead_letter_reason, None, "{body}");
        assert_eq!(judged(&record), Ok(()));
        let text = str::from_utf8(&record.value).unwrap();
        let (envelope, callback) = text.split_once(r#","callback":"#).unwrap();
        assert_eq!(callback, format!("{body}}}}}"));
        let (attributes, event) = envelope.split_once(r#""event":"#).unwrap();
        assert_eq!(serde_json::from_str::<Value>(event).unwrap()[member], "x\u{fffd}\u{1f600}", "{body}");
        assert!(!attributes.contains("operator"), "{attributes}");
    }
}

#[test]
fn a_lone_surrogate_in_what_names_something_is_dead_lettered() {
    let (normaliser, app) = normaliser(Mode::Structured);
    for (command, body) in [
        ("AfterOfficialAccountFull", r#"{"Official_Account":"\ud83d"}"#),
        ("BeforeCreateOfficialAccount", r#"{"Owner_Account":"\ud83d"}"#),
        ("AfterAddSubscriber", r#"{"Official_Account":"a","SubscribeAccountList":[{"Subscriber_Account":"\ud83d"}]}"#),
        ("AfterMsgWithDraw", r#"{"Official_Account":"a","WithdrawMsgList":[{"MsgKey":"\udfff"}]}"#),
    ] {
        let capture = capture(app, &format!("OfficialAccount.Callback{command}"), body);
        assert_eq!(normaliser.record(&capture).dead_letter_reason, Some(WRONG_SHAPE), "{command}");
    }
}

#[test]
fn a_list_that_is_null_is_published_as_an_empty_one() {
    let (normaliser, app) = normaliser(Mode::Structured);
    for (command, member) in [
        ("AfterAddSubscriber", "subscribers"),
        ("AfterDeleteSubscriber", "subscribers"),
        ("BeforeAddSubscriber", "subscribers"),
        ("AfterMsgWithDraw", "message_keys"),
    ] {
        let body = r#"{"Official_Account":"a","SubscribeAccountList":null,"WithdrawMsgList":null}"#;
        let capture = capture(app, &format!("OfficialAccount.Callback{command}"), body);
        assert_eq!(json_of(&normaliser.record(&capture))["data"]["event"][member], json!([]), "{command}");
    }
}

#[test]
fn an_optional_field_that_is_null_is_absent() {
    let (normaliser, app) = normaliser(Mode::Structured);
    for command in Command::all().filter(|command| command.form().is_some()) {
        let body = r#"{"Official_Account":"a","Owner_Account":"o","Operator_Account":null,"Name":null,"Introduction":null,
            "FaceUrl":null,"Organization":null,"SubscribeAccountList":[],"MsgKey":null,"MsgTime":null,"OnlineOnlyFlag":null,
            "MsgBody":null,"CloudCustomData":null,"WithdrawMsgList":[],"EventTime":null}"#;
        let capture = capture(app, command.name(), body);
        let record = normaliser.record(&capture);
        assert_eq!(record.dead_letter_reason, None, "{command:?}");
        let event = &json_of(&record)["data"]["event"];
        assert!(event.as_object().unwrap().values().all(|value| !value.is_null()), "{event}");
        assert_eq!(event.get("operator"), None);
    }
}
