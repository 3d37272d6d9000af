//! What Tencent's pages, SDKs and captures say differently from each other, one test each.
//!
//! Not here, because nothing follows for a receiver: which console switch enables which command, and from which version of an SDK on
//! which events come.

use std::collections::BTreeSet;

use serde_json::Value;

use super::tests::capture;
use super::tests::json_of;
use super::tests::normaliser;
use super::*;
use crate::body::EventTime;
use crate::command::Asks;
use crate::command::Kind;
use crate::command::Shape;
use crate::command::Time;
use crate::parse;
use crate::refusal::Reason;

const TIME: &str = "2022-12-09T08:26:54.123Z";

/// The envelope of a body that was taken, and its key.
fn published(command: &str, body: &str) -> (Value, Option<String>) {
    let (normaliser, app) = normaliser(Mode::Structured);
    parse::check_body(body.as_bytes(), command).unwrap();
    let capture = capture(app, command, body);
    let record = normaliser.record(&capture);
    assert_eq!(record.dead_letter_reason, None, "{command} {body}");
    (json_of(&record), record.key.map(Cow::into_owned))
}

fn subject(command: &str, body: &str) -> Option<String> {
    published(command, body).1
}

#[test]
fn samples_with_comments_and_without_commas_are_not_json() {
    for body in
        ["{\"GroupId\":\"g\" // the group\n}", "{\"GroupId\":\"g\"\n\"Name\":\"n\"}", "{\"MsgBody\":[{}}]}", "{{}}"]
    {
        assert_eq!(parse::check_body(body.as_bytes(), "A.b").unwrap_err().reason(), Reason::NotJson, "{body}");
    }
}

#[test]
fn subscribers_and_members_are_refused_under_different_names() {
    let shape = |command| Command::find(command).map(Command::shape);
    assert_eq!(shape("OfficialAccount.CallbackBeforeAddSubscriber"), Some(Shape::RefusedSubscribers));
    assert_eq!(shape("Group.CallbackBeforeInviteJoinGroup"), Some(Shape::RefusedMembers));
}

#[test]
fn an_event_time_may_be_quoted() {
    for command in
        ["BeforeCreateGroup", "BeforeApplyJoinGroup", "BeforeInviteJoinGroup", "BeforeSendMsg", "AfterRecallMsg"]
    {
        for time in ["1670574414123", "\"1670574414123\""] {
            let (envelope, _) =
                published(&format!("Group.Callback{command}"), &format!(r#"{{"GroupId":"g","EventTime":{time}}}"#));
            assert_eq!((&envelope["time"], &envelope["timesource"]), (&TIME.into(), &"callback".into()), "{command}");
        }
    }
}

#[test]
fn an_event_time_is_in_milliseconds_but_in_push_and_other_times_are_not_the_events() {
    let (envelope, _) = published("Push.AllMemberPush", r#"{"TaskTime":1,"EventTime":1670574414}"#);
    assert_eq!(envelope["time"], "2022-12-09T08:26:54.000Z");
    for (time, millis) in [(Time::Millis, "1670574414123"), (Time::Seconds, "1670574414")] {
        let known = Command::all().filter(|command| command.time() == time);
        assert!(known.count() > 0 && EventTime::read(millis).is_some_and(|read| read / 1000 == 1_670_574_414));
    }
    let (envelope, _) = published("C2C.CallbackAfterSendMsg", r#"{"MsgTime":1670574414}"#);
    assert_eq!(envelope["timesource"], "receipt");
}

#[test]
fn without_an_event_time_the_time_of_receipt_is_told() {
    for command in Command::all() {
        let body = r#"{"Official_Account":"a","Owner_Account":"o","SubscribeAccountList":[],"WithdrawMsgList":[]}"#;
        let (envelope, _) = published(command.name(), body);
        assert_eq!((&envelope["timesource"], &envelope["time"]), (&"receipt".into(), &envelope["receivedtime"]));
    }
}

#[test]
fn the_counter_of_created_groups_has_three_names_and_none() {
    for counter in [r#""CreatedNum":1,"#, r#""CreateGroupNum":1,"#, r#""CreatedGroupNum":{"Public":1},"#, ""] {
        let body = format!(r#"{{{counter}"Owner_Account":"o"}}"#);
        assert_eq!(subject("Group.CallbackBeforeCreateGroup", &body).as_deref(), Some("o"), "{counter}");
    }
}

#[test]
fn mentioned_robots_have_two_names() {
    for name in ["AtRobots_Account", "AtRobotAccount"] {
        let body = format!(r#"{{"GroupId":"g","{name}":["@RBT#1"]}}"#);
        let (envelope, key) = published("Bot.OnGroupMessage", &body);
        assert_eq!((key.as_deref(), &envelope["data"]["callback"][name][0]), (Some("g"), &"@RBT#1".into()));
    }
}

#[test]
fn a_requestor_asks_for_a_group_and_a_requester_for_friends() {
    let asks = |command| Command::find(command).map(Command::asks);
    assert_eq!(asks("Group.CallbackBeforeApplyJoinGroup"), Some(Asks::Applicant));
    assert_eq!(asks("Sns.CallbackPrevFriendAdd"), Some(Asks::Friend));
    // Who is asked about is read by tests of `question`, each by its own spelling.
}

#[test]
fn a_group_is_spelled_in_three_ways_and_only_one_is_a_key() {
    assert_eq!(subject("Group.CallbackAfterGroupFull", r#"{"GroupId":"g"}"#).as_deref(), Some("g"));
    assert_eq!(subject("Push.OfflinePush", r#"{"GroupID":"g","To_Account":"u"}"#).as_deref(), Some("u"));
    let body = r#"{"From_Account":"u","ContactItem":{"ToGroupId":"g"}}"#;
    assert_eq!(subject("ContentCallback.ResultNotify", body).as_deref(), Some("u"));
}

#[test]
fn commands_have_capitals_in_odd_places_and_are_found_by_those_only() {
    for (right, wrong) in [
        ("C2C.CallbackAfterMsgWithDraw", "C2C.CallbackAfterMsgWithdraw"),
        ("OfficialAccount.CallbackAfterMsgWithDraw", "OfficialAccount.CallbackAfterMsgWithdraw"),
        ("Sns.CallbackBlackListAdd", "Sns.CallbackBlacklistAdd"),
    ] {
        assert!(Command::find(right).is_some());
        assert_eq!(Command::find(wrong), None);
    }
}

#[test]
fn to_account_is_a_user_or_a_list_or_nested() {
    let follow = r#"{"From_Account":"u","To_Account":["v","w"]}"#;
    assert_eq!(subject("Follow.CallbackAfterFollowDelete", follow).as_deref(), Some("u"));
    let state = r#"{"Info":{"To_Account":"u"},"To_Account":"v"}"#;
    assert_eq!(subject("State.StateChange", state).as_deref(), Some("u"));
    let message = r#"{"From_Account":"v","To_Account":"u"}"#;
    assert_eq!(subject("C2C.CallbackAfterSendMsg", message).as_deref(), Some("u|v"));
}

#[test]
fn a_push_comes_in_a_batch_or_flat() {
    let event = r#"{"PushID":"p","To_Account":"u","PushStage":1}"#;
    let (normaliser, app) = normaliser(Mode::Structured);
    let ids: BTreeSet<String> = [event.to_owned(), format!(r#"{{"Events":[{event}]}}"#)]
        .iter()
        .map(|body| {
            let capture = capture(app, "Push.OfflinePush", body);
            let part = Parts::of(&capture).iter().next().unwrap();
            json_of(&normaliser.record_of(&capture, part))["id"].to_string()
        })
        .collect();
    assert_eq!(ids.len(), 1);
}

#[test]
fn an_alert_is_about_the_application() {
    let (envelope, key) = published("Alert.RequestOverLimit", r#"{"Command":"sendmsg","Request":160,"Limit":200}"#);
    assert_eq!((key.as_deref(), &envelope["subject"]), (Some("1400000000"), &"1400000000".into()));
    assert_eq!((&envelope["timesource"], envelope.get("operator")), (&"receipt".into(), None));
}

#[test]
fn what_one_switch_enables_is_told_apart_by_its_command() {
    for [one, other] in [["BeforeCreateGroup", "BeforeCreateTopic"], ["AfterGroupInfoChanged", "AfterTopicInfoChanged"]]
    {
        let [one, other] = [one, other].map(|name| Command::find(&format!("Group.Callback{name}")).unwrap());
        assert_ne!(one, other);
        assert_eq!(one.kind(), other.kind());
    }
}

#[test]
fn a_forced_logout_is_one_event_or_two_and_two_have_two_ids() {
    let id = |action| {
        let body = format!(r#"{{"EventTime":1670574414123,"Info":{{"To_Account":"u","Action":"{action}"}}}}"#);
        published("State.StateChange", &body).0["id"].clone()
    };
    assert_ne!(id("Login"), id("Logout"));
    assert_eq!(id("Login"), id("Login"));
}

#[test]
fn fields_that_no_page_has_are_published_as_they_came() {
    for (command, field) in
        [("C2C.CallbackBeforeSendMsg", "FriendShip"), ("Group.CallbackAfterCreateGroup", "InviteOption")]
    {
        let (envelope, _) = published(command, &format!(r#"{{"{field}":{{"x":4294967296}}}}"#));
        assert_eq!(envelope["data"]["callback"][field]["x"], 4_294_967_296_u64);
    }
}

#[test]
fn the_order_of_fields_means_nothing() {
    for body in [
        r#"{"CallbackCommand":"Group.CallbackAfterSendMsg","GroupId":"g","MsgSeq":1,"MsgBody":[{"GroupId":"x"}]}"#,
        r#"{"MsgBody":[{"GroupId":"x"}],"MsgSeq":1,"GroupId":"g","CallbackCommand":"Group.CallbackAfterSendMsg"}"#,
    ] {
        let (envelope, key) = published("Group.CallbackAfterSendMsg", body);
        assert_eq!(key.as_deref(), Some("g"));
        let other = published("Group.CallbackAfterSendMsg", r#"{"GroupId":"g","MsgSeq":"1"}"#);
        assert_eq!(envelope["id"], other.0["id"]);
    }
}

#[test]
fn names_that_no_page_lists_and_slips_of_the_pages_are_unknown_and_kept() {
    let (normaliser, app) = normaliser(Mode::Structured);
    for command in
        ["Group.CallbackAfterKickMember", "C2C.CallbackAfterSendMsgException", "roup.CallbackBeforeApplyJoinGroup"]
    {
        let capture = capture(app, command, "{}");
        assert_eq!(normaliser.topics.name(normaliser.record(&capture).topic), "t.unknown", "{command}");
    }
    let changed = "OfficialAccount.CallbackAfterMsgWithDraw";
    let body = r##"{"Official_Account":"#TOA#_123","WithdrawMsgList":[]}"##;
    assert_eq!(subject(changed, body).as_deref(), Some("#TOA#_123"), "an id is opaque");
}

#[test]
fn moderation_says_message_ids_as_text_and_they_are_left_so() {
    let (envelope, _) = published("ContentCallback.ResultNotify", r#"{"From_Account":"u","MsgID":"12"}"#);
    assert_eq!(envelope["data"]["callback"]["MsgID"], "12");
}

#[test]
fn a_message_key_is_the_servers_and_is_not_taken_apart() {
    let body = r#"{"Official_Account":"a","MsgKey":"71_1_1698741698"}"#;
    let (envelope, _) = published("OfficialAccount.CallbackAfterSendMsg", body);
    assert_eq!(envelope["data"]["event"]["message_key"], "71_1_1698741698");
}

#[test]
fn one_message_sent_to_many_has_one_key_and_many_ids() {
    let id = |to| {
        let body = format!(r#"{{"From_Account":"admin","To_Account":"{to}","MsgKey":"1_2_3"}}"#);
        published("C2C.CallbackAfterSendMsg", &body).0["id"].clone()
    };
    assert_ne!(id("u"), id("v"));
}

#[test]
fn the_system_is_an_operator_like_any_other() {
    let (envelope, _) =
        published("Live.CallbackAfterDestroyRoom", r#"{"RoomId":"1","Operator_Account":"@TIM#SYSTEM"}"#);
    assert_eq!(envelope["operator"], "@TIM#SYSTEM");
}

#[test]
fn the_live_product_asks_with_a_word_of_groups() {
    let command = Command::find("Group.CallbackBeforeSendMsg").unwrap();
    assert_eq!(command.kind(), Kind::Before);
    let (envelope, key) = published(command.name(), r#"{"GroupId":"room","Type":"Live","MsgId":"1"}"#);
    assert_eq!((key.as_deref(), &envelope["data"]["callback"]["Type"]), (Some("room"), &"Live".into()));
}

#[test]
fn counters_go_beyond_what_32_bits_hold() {
    let id = |sequence: &str| {
        let body = format!(r#"{{"GroupId":"g","MsgSeq":{sequence}}}"#);
        published("Group.CallbackAfterSendMsg", &body).0["id"].clone()
    };
    assert_ne!(id("4294967295"), id("4294967296"));
    assert_ne!(id("9007199254740992"), id("9007199254740993"));
}
