//! Which events share an `id`, and what `idbasis` says of it.

use serde_json::Value;

use super::tests::capture;
use super::tests::json_of;
use super::tests::normaliser;
use super::*;

/// The `id` and the `idbasis` of a body.
fn identity(command: &str, body: &str) -> (Value, Value) {
    let (normaliser, app) = normaliser(Mode::Structured);
    let capture = capture(app, command, body);
    let envelope = json_of(&normaliser.record(&capture));
    (envelope["id"].clone(), envelope["idbasis"].clone())
}

fn id(command: &str, body: &str) -> Value {
    identity(command, body).0
}

#[test]
fn idbasis_says_what_the_id_is_made_of() {
    let cases = [
        ("C2C.CallbackAfterSendMsg", r#"{"From_Account":"a","To_Account":"b","MsgKey":"k"}"#, "key"),
        ("C2C.CallbackAfterSendMsg", r#"{"From_Account":"a","To_Account":"b","EventTime":1670574414123}"#, "body"),
        ("C2C.CallbackAfterSendMsg", r#"{"From_Account":"a","To_Account":"b"}"#, "content"),
        ("State.StateChange", r#"{"Info":{"To_Account":"u","Action":"Login"},"EventTime":1670574414123}"#, "key"),
        ("State.StateChange", r#"{"Info":{"To_Account":"u","Action":"Login"}}"#, "content"),
        // It has all fields of its key, and is not told from the next login by them.
        ("State.StateChange", r#"{"Info":{"To_Account":"u","Action":"Login"},"EventTime":0}"#, "content"),
        ("Sns.CallbackFriendAdd", r#"{"PairList":[{"From_Account":"a","To_Account":"b"}]}"#, "content"),
        ("Group.CallbackAfterGroupFull", r#"{"GroupId":"g","EventTime":"1670574414123"}"#, "body"),
        ("Group.CallbackAfterGroupFull", r#"{"GroupId":"g","EventTime":"soon"}"#, "content"),
        ("OfficialAccount.CallbackAfterOfficialAccountFull", r#"{"Official_Account":"a","EventTime":1}"#, "body"),
        ("OfficialAccount.CallbackAfterOfficialAccountFull", r#"{"Official_Account":"a"}"#, "content"),
        ("OfficialAccount.CallbackAfterSendMsg", r#"{"Official_Account":"a","MsgKey":"k"}"#, "key"),
        ("OfficialAccount.CallbackAfterMsgWithDraw", r#"{"Official_Account":"a","WithdrawMsgList":[]}"#, "content"),
        ("Push.OfflinePush", r#"{"PushID":"p","To_Account":"a","PushStage":1}"#, "key"),
        ("Future.CallbackAfterSomething", r#"{"EventTime":1670574414123}"#, "body"),
        ("Future.CallbackAfterSomething", "{}", "content"),
    ];
    for (command, body, expected) in cases {
        assert_eq!(identity(command, body).1, expected, "{command} {body}");
    }
}

#[test]
fn a_friend_added_again_has_the_same_id_and_idbasis_content() {
    let [added, deleted] = ["Sns.CallbackFriendAdd", "Sns.CallbackFriendDelete"]
        .map(|command| identity(command, r#"{"PairList":[{"From_Account":"a","To_Account":"b"}]}"#));
    assert_ne!(added.0, deleted.0);
    assert_eq!((added.1, deleted.1), ("content".into(), "content".into()));
}

#[test]
fn a_group_id_that_is_used_again_has_new_message_ids() {
    for command in ["Group.CallbackAfterSendMsg", "Bot.OnGroupMessage"] {
        let message = |rest: &str| id(command, &format!(r#"{{"GroupId":"g","MsgSeq":1{rest}}}"#));
        let all = [
            message(""),
            message(r#","MsgTime":5"#),
            message(r#","Random":5"#),
            message(r#","MsgTime":5,"Random":6"#),
            message(r#","MsgTime":7,"Random":6"#),
            message(r#","MsgTime":5,"Random":7"#),
            message(r#","TopicId":"5""#),
        ];
        for (place, one) in all.iter().enumerate() {
            assert!(!all[..place].contains(one), "{command} {place}");
        }
        assert_eq!(message(r#","MsgTime":5,"Random":6"#), message(r#","Random":"6","MsgTime":"5","EventTime":9"#));
    }
}

#[test]
fn each_edit_of_a_message_has_its_own_id() {
    let command = "C2C.CallbackAfterModifyMsg";
    let edit = |from: &str, rest: &str| {
        identity(command, &format!(r#"{{"From_Account":"{from}","To_Account":"b","MsgKey":"k"{rest}}}"#))
    };
    let (first, second) = (edit("a", r#","EventTime":1670574414123"#), edit("a", r#","EventTime":1670574414124"#));
    assert_ne!(first.0, second.0);
    assert_eq!((&first.1, &second.1), (&"key".into(), &"key".into()));
    assert_eq!(edit("a", r#","EventTime":"1670574414123","MsgBody":[]"#), first, "the same edit again");
    assert_ne!(edit("c", r#","EventTime":1670574414123"#).0, first.0);
    assert_eq!(edit("a", "").1, "content");
}

#[test]
fn read_reports_and_pushes_of_different_moments_have_different_ids() {
    let read = r#"{"Report_Account":"a","Peer_Account":"b","LastReadTime":5,"EventTime":1670574414123}"#;
    let push = r#"{"PushID":"p","To_Account":"a","PushStage":3,"ErrCode":0,"EventTime":1670574414}"#;
    let task = r#"{"TaskId":"p","To_Account":"a","PushStage":1,"EventType":1,"ErrCode":0,"EventTime":1670574414}"#;
    for (command, body, changed) in [
        ("C2C.CallbackAfterMsgReport", read, read.replace("4123", "4124")),
        ("Push.OfflinePush", push, push.replace("4414", "4415")),
        ("Push.OfflinePush", push, push.replace("\"ErrCode\":0", "\"ErrCode\":1")),
        ("Push.AllMemberPush", task, task.replace("4414", "4415")),
        ("Push.AllMemberPush", task, task.replace("\"EventType\":1", "\"EventType\":2")),
        ("Push.AllMemberPush", task, task.replace("\"ErrCode\":0", "\"ErrCode\":1")),
    ] {
        assert_ne!(id(command, body), id(command, &changed), "{command} {changed}");
    }
}

#[test]
fn a_callback_without_the_added_fields_keeps_its_id() {
    // Half the sha256 of SdkAppid, command and the key as a JSON array, each behind its length, made with another tool.
    let cases = [
        ("Group.CallbackAfterSendMsg", r#"{"GroupId":"g","MsgSeq":1}"#, "1a3bae699e69128e1a78f836149241a4"),
        ("Bot.OnGroupMessage", r#"{"GroupId":"g","MsgSeq":1,"TopicId":"t"}"#, "ad35e75152e72b362034abfc88cdddb6"),
        (
            "C2C.CallbackAfterMsgReport",
            r#"{"Report_Account":"a","Peer_Account":"b","LastReadTime":5}"#,
            "7cba57a8a3255e0e09471ed62afa5c9b",
        ),
        ("Push.OfflinePush", r#"{"PushID":"p","To_Account":"a","PushStage":1}"#, "03b5a20ed546b133cee125cc84385ce3"),
        (
            "Push.AllMemberPush",
            r#"{"TaskId":"p","To_Account":"a","PushStage":1,"PushPlatform":2}"#,
            "d14dc986483dd74e52f6413d4001e2a6",
        ),
        (
            "C2C.CallbackAfterSendMsg",
            r#"{"From_Account":"a","To_Account":"b","MsgKey":"k","MsgTime":1,"EventTime":2}"#,
            "56018d82d4a47a9c09b9b253bcc62bdc",
        ),
    ];
    for (command, body, expected) in cases {
        assert_eq!(id(command, body), expected, "{command} {body}");
    }
}
