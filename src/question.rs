//! Answers before-callbacks: reads the body, decides it if the operator wants that, and builds the response that Tencent's page requires.
//!
//! A callback that is not decided is allowed, whatever its body is: the sender would treat any other response as a failure, and continue.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;

use crate::body::Id;
use crate::body::Object;
use crate::body::Subscriber;
use crate::body::Text;
use crate::clock::UnixMillis;
use crate::command::Asks;
use crate::command::Command;
use crate::command::Shape;
use crate::decide;
use crate::decide::AllRefused;
use crate::decide::Decision;
use crate::decide::Policy;
use crate::decide::Question;
use crate::decide::answer;
use crate::decide::blocklist::Blocklist;
use crate::parse;
use crate::parse::CheckedBody;
use crate::refusal::Refusal;

/// What a before-callback is decided by.
#[derive(Debug, Clone, Copy)]
pub struct Judge<'j> {
    /// The blocklist.
    pub blocklist: &'j Blocklist,
    /// The policy for what the blocklist leaves open.
    pub policy: Policy,
    /// The time of the decision.
    pub now: UnixMillis,
}

/// `OfficialAccount.CallbackBeforeAddSubscriber`.
#[derive(Deserialize)]
struct Subscription<'a> {
    #[serde(borrow, rename = "Official_Account")]
    official_account: Id<'a>,
    #[serde(borrow, rename = "SubscribeAccountList")]
    subscribers: Vec<Object<Subscriber<'a>>>,
}

/// `Group.CallbackBeforeInviteJoinGroup`.
#[derive(Deserialize)]
struct Invitation<'a> {
    #[serde(borrow, rename = "GroupId")]
    group: Id<'a>,
    #[serde(borrow, rename = "DestinationMembers")]
    members: Vec<Object<Member<'a>>>,
}

#[derive(Deserialize)]
struct Member<'a> {
    #[serde(borrow, rename = "Member_Account")]
    account: Text<'a>,
}

/// `Group.CallbackBeforeApplyJoinGroup`. Friends are asked by a `Requester_Account`, groups by a `Requestor_Account`.
#[derive(Deserialize)]
struct Application<'a> {
    #[serde(borrow, rename = "GroupId")]
    group: Id<'a>,
    #[serde(borrow, rename = "Requestor_Account")]
    applicant: Id<'a>,
}

/// `Group.CallbackBeforeSendMsg`.
#[derive(Deserialize)]
struct GroupMessage<'a> {
    #[serde(borrow, rename = "GroupId")]
    group: Id<'a>,
    #[serde(borrow, rename = "From_Account")]
    sender: Id<'a>,
}

/// `C2C.CallbackBeforeSendMsg`.
#[derive(Deserialize)]
struct DirectMessage<'a> {
    #[serde(borrow, rename = "To_Account")]
    receiver: Id<'a>,
    #[serde(borrow, rename = "From_Account")]
    sender: Id<'a>,
}

/// `Sns.CallbackPrevFriendAdd` and `Sns.CallbackPrevFriendResponse`.
#[derive(Deserialize)]
struct Friends<'a> {
    #[serde(borrow, rename = "From_Account")]
    user: Id<'a>,
    /// Who acts for the user; usually the user.
    #[serde(borrow, default, rename = "Requester_Account")]
    requester: Option<Text<'a>>,
    #[serde(borrow, rename = "FriendItem", alias = "ResponseFriendItem")]
    items: Vec<Object<Other<'a>>>,
}

/// The same with only the fields that a response needs.
#[derive(Deserialize)]
struct Others<'a> {
    #[serde(borrow, rename = "FriendItem", alias = "ResponseFriendItem")]
    items: Vec<Object<Other<'a>>>,
}

#[derive(Deserialize)]
struct Other<'a> {
    #[serde(borrow, rename = "To_Account")]
    account: Text<'a>,
}

/// Decides a before-callback, and builds the body of the response. Without a `judge` it is allowed.
///
/// # Errors
///
/// [`Refusal::Undecidable`]: it must be decided, but a field that this needs is missing or has the wrong type.
pub fn answer(
    command: Command,
    checked: CheckedBody<'_>,
    judge: Option<Judge<'_>>,
) -> Result<(Decision, Bytes), Refusal> {
    let Some(judge) = judge else { return Ok(allowed(command, checked)) };
    let (account, users) = match command.asks() {
        Asks::Nobody => return Ok(allowed(command, checked)),
        Asks::Friend | Asks::FriendResponse => return friends(&read(checked)?, judge),
        Asks::Subscribers => {
            let asked: Subscription<'_> = read(checked)?;
            let users = asked.subscribers.into_iter().map(|subscriber| subscriber.0.account.0).collect();
            (asked.official_account, users)
        }
        Asks::Invited => {
            let asked: Invitation<'_> = read(checked)?;
            (asked.group, asked.members.into_iter().map(|member| member.0.account.0).collect())
        }
        Asks::Applicant => {
            let asked: Application<'_> = read(checked)?;
            (asked.group, vec![asked.applicant.0])
        }
        Asks::GroupSender => {
            let asked: GroupMessage<'_> = read(checked)?;
            (asked.group, vec![asked.sender.0])
        }
        Asks::Sender => {
            let asked: DirectMessage<'_> = read(checked)?;
            (asked.receiver, vec![asked.sender.0])
        }
    };
    let all_refused = match command.shape() {
        // Such a response has no list: a user can only be refused by refusing the request.
        Shape::Plain => AllRefused::Reject,
        Shape::RefusedSubscribers | Shape::RefusedMembers | Shape::ResultItems => judge.policy.all_refused,
    };
    let question = Question { account: &account.0, users: &users };
    let decision = decide::decide(&question, judge.blocklist, Policy { all_refused, ..judge.policy }, judge.now);
    let body = answer::body(command.shape(), &decision);
    Ok((decision, body))
}

fn allowed(command: Command, checked: CheckedBody<'_>) -> (Decision, Bytes) {
    let decision = Decision::unjudged();
    let body = match command.shape() {
        Shape::Plain | Shape::RefusedSubscribers | Shape::RefusedMembers => answer::body(command.shape(), &decision),
        Shape::ResultItems => {
            let items = read::<Others<'_>>(checked).map(|others| others.items).unwrap_or_default();
            let others: Vec<Cow<'_, str>> = items.into_iter().map(|item| item.0.account.0).collect();
            answer::result_items(&others, &decision)
        }
    };
    (decision, body)
}

/// Decides each of the others separately. A rule may refuse the user, or who acts for the user.
fn friends(asked: &Friends<'_>, judge: Judge<'_>) -> Result<(Decision, Bytes), Refusal> {
    let mut users = vec![Cow::Borrowed(&*asked.user.0)];
    users.extend(asked.requester.iter().map(|requester| Cow::Borrowed(&*requester.0)).filter(|it| *it != asked.user.0));
    let others: Vec<Cow<'_, str>> = asked.items.iter().map(|item| Cow::Borrowed(&*item.0.account.0)).collect();
    let decision = decide::decide_each(&others, &users, judge.blocklist, judge.policy, judge.now);
    let body = answer::result_items(&others, &decision);
    Ok((decision, body))
}

fn read<'a, T: Deserialize<'a>>(checked: CheckedBody<'a>) -> Result<T, Refusal> {
    serde_json::from_str(checked.json()).map_err(|error| Refusal::Undecidable {
        what: parse::what(&error),
        line: error.line(),
        column: error.column(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Kind;
    use crate::decide::BeforeLoaded;
    use crate::decide::Outcome;
    use crate::decide::blocklist::Source;
    use crate::decide::blocklist::SourceKind;
    use crate::decide::file;
    use crate::refusal::Reason;
    use serde_json::Value;
    use serde_json::json;
    use std::sync::Arc;

    const OK: &str = r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#;
    const REFUSED: &str = r#"{"ActionStatus":"OK","ErrorInfo":"refused by the blocklist","ErrorCode":1}"#;
    const CLOSED: &str = r#"{"ActionStatus":"OK","ErrorInfo":"closed by the blocklist","ErrorCode":1}"#;

    fn judged(command: &str, body: &str, rules: Option<&str>) -> Result<(Decision, String), Refusal> {
        let rules_of_file = Arc::new(file::parse(rules.unwrap_or_default().as_bytes()).unwrap());
        let list = Blocklist::of([Source::new(SourceKind::File, "list", rules_of_file)], 3);
        let judge = Judge { blocklist: &list, policy: Policy::default(), now: UnixMillis(1_800_000_000_000) };
        let checked = parse::check_body(body.as_bytes(), command)?;
        let (decision, answer) = answer(Command::find(command).unwrap(), checked, rules.is_some().then_some(judge))?;
        Ok((decision, String::from_utf8(answer.to_vec()).unwrap()))
    }

    fn items(answers: &[(&str, u32)]) -> Value {
        let info = |code| if code == 0 { "" } else { "refused by the blocklist" };
        let items = answers
            .iter()
            .map(|(account, code)| json!({"To_Account": account, "ResultCode": code, "ResultInfo": info(*code)}));
        json!({"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0, "ResultItem": items.collect::<Vec<_>>()})
    }

    #[test]
    fn without_a_judge_every_question_is_allowed_whatever_its_body() {
        for command in Command::all().filter(|command| command.kind() == Kind::Before) {
            for body in ["{}", r#"{"FriendItem":7,"From_Account":[],"GroupId":null}"#] {
                let (decision, answer) = judged(command.name(), body, None).unwrap();
                assert_eq!(decision, Decision::unjudged());
                let has_items = command.shape() == Shape::ResultItems;
                let expected = if has_items { items(&[]).to_string() } else { OK.to_owned() };
                assert_eq!(
                    serde_json::from_str::<Value>(&answer).unwrap(),
                    serde_json::from_str::<Value>(&expected).unwrap()
                );
            }
        }
    }

    #[test]
    fn a_request_for_friends_is_allowed_with_an_item_for_each() {
        for (command, list) in
            [("Sns.CallbackPrevFriendAdd", "FriendItem"), ("Sns.CallbackPrevFriendResponse", "ResponseFriendItem")]
        {
            let body = format!(r#"{{"{list}":[{{"To_Account":"a","Remark":"x"}},{{"To_Account":"b"}}]}}"#);
            let (decision, answer) = judged(command, &body, None).unwrap();
            assert_eq!(decision, Decision::unjudged());
            assert_eq!(serde_json::from_str::<Value>(&answer).unwrap(), items(&[("a", 0), ("b", 0)]));
        }
    }

    #[test]
    fn a_blocked_user_is_refused_in_each_question_that_names_users() {
        let cases = [
            (
                "Group.CallbackBeforeInviteJoinGroup",
                r#"{"GroupId":"g","DestinationMembers":[{"Member_Account":"bob"},{"Member_Account":"eve"}]}"#,
                "bob",
                r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"RefusedMembers_Account":["bob"]}"#,
                Outcome::Partial,
            ),
            (
                "Group.CallbackBeforeInviteJoinGroup",
                r#"{"GroupId":"g","DestinationMembers":[{"Member_Account":"bob"}]}"#,
                "close g",
                CLOSED,
                Outcome::Refuse,
            ),
            (
                "Group.CallbackBeforeApplyJoinGroup",
                r#"{"GroupId":"g","Requestor_Account":"bob"}"#,
                "block bob on g",
                REFUSED,
                Outcome::Refuse,
            ),
            ("Group.CallbackBeforeSendMsg", r#"{"GroupId":"g","From_Account":"bob"}"#, "bob", REFUSED, Outcome::Refuse),
            (
                "C2C.CallbackBeforeSendMsg",
                r#"{"From_Account":"bob","To_Account":"g"}"#,
                "bob",
                REFUSED,
                Outcome::Refuse,
            ),
            ("C2C.CallbackBeforeSendMsg", r#"{"From_Account":"g","To_Account":"bob"}"#, "bob", OK, Outcome::Allow),
            (
                "OfficialAccount.CallbackBeforeAddSubscriber",
                r#"{"Official_Account":"g","SubscribeAccountList":[{"Subscriber_Account":"bob"}]}"#,
                "bob",
                r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"RefusedSubscribers_Account":["bob"]}"#,
                Outcome::Refuse,
            ),
            ("OfficialAccount.CallbackBeforeSendMsg", r#"{"Official_Account":"bob"}"#, "bob", OK, Outcome::Allow),
        ];
        for (command, body, rules, expected, outcome) in cases {
            let (decision, answer) = judged(command, body, Some(rules)).unwrap();
            assert_eq!((answer.as_str(), decision.outcome), (expected, outcome), "{command} by {rules}");
            let refused = if outcome == Outcome::Allow { vec![] } else { vec![Box::from("bob")] };
            assert_eq!(decision.refused, refused, "{command} by {rules}");
        }
    }

    #[test]
    fn a_blocked_user_makes_no_friends_alone_or_through_another() {
        let rules = Some("mallory\nblock bob on alice");
        let body = |from: &str, by: &str| {
            format!(
                r#"{{"From_Account":"{from}","Requester_Account":"{by}","FriendItem":[{{"To_Account":"alice"}},{{"To_Account":"eve"}}]}}"#
            )
        };
        for (from, by, codes, outcome) in [
            ("mallory", "mallory", [38000, 38000], Outcome::Refuse),
            ("dave", "mallory", [38000, 38000], Outcome::Refuse),
            ("mallory", "admin", [38000, 38000], Outcome::Refuse),
            ("bob", "bob", [38000, 0], Outcome::Partial),
            ("dave", "dave", [0, 0], Outcome::Allow),
        ] {
            let (decision, answer) = judged("Sns.CallbackPrevFriendAdd", &body(from, by), rules).unwrap();
            assert_eq!(decision.outcome, outcome, "{from} by {by}");
            assert_eq!(decision.generation, 3);
            let answer: Value = serde_json::from_str(&answer).unwrap();
            assert_eq!(answer, items(&[("alice", codes[0]), ("eve", codes[1])]), "{from} by {by}");
        }
    }

    #[test]
    fn only_what_a_decision_needs_must_have_its_shape() {
        let body = |rest: &str| format!(r#"{{"Official_Account":"g",{rest}}}"#);
        let subscribers = r#""SubscribeAccountList":[{"Subscriber_Account":"bob"}]"#;
        for rest in [r#""Operator_Account":7"#, r#""Operator_Account":"\ud83d""#, r#""EventTime":{}"#] {
            let body = body(&format!("{subscribers},{rest}"));
            let (decision, _) = judged("OfficialAccount.CallbackBeforeAddSubscriber", &body, Some("bob")).unwrap();
            assert_eq!(decision.refused, [Box::from("bob")], "{body}");
        }
        for list in [r#""SubscribeAccountList":null"#, r#""SubscribeAccountList":[{"Subscriber_Account":"\ud83d"}]"#] {
            let refusal = judged("OfficialAccount.CallbackBeforeAddSubscriber", &body(list), Some("bob")).unwrap_err();
            assert_eq!(refusal.reason(), Reason::Undecidable, "{list}");
        }
    }

    #[test]
    fn before_a_list_is_loaded_the_policy_decides_in_the_shape_of_each() {
        let policy = Policy { before_loaded: BeforeLoaded::Refuse, ..Policy::default() };
        let judge = Judge { blocklist: &Blocklist::unloaded(), policy, now: UnixMillis(0) };
        for (command, body, is_listed) in [
            ("C2C.CallbackBeforeSendMsg", r#"{"From_Account":"a","To_Account":"b"}"#, false),
            ("Sns.CallbackPrevFriendAdd", r#"{"From_Account":"a","FriendItem":[{"To_Account":"b"}]}"#, true),
        ] {
            let checked = parse::check_body(body.as_bytes(), command).unwrap();
            let (decision, answer) = answer(Command::find(command).unwrap(), checked, Some(judge)).unwrap();
            assert_eq!(decision.outcome, Outcome::Refuse);
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!(answer["ErrorCode"], u8::from(!is_listed));
            assert_eq!(answer["ResultItem"][0]["ResultCode"] == 38000, is_listed);
        }
    }

    #[test]
    fn a_question_that_is_judged_and_cannot_be_read_is_undecidable() {
        for command in Command::all().filter(|command| command.asks() != Asks::Nobody) {
            for body in ["{}", r#"{"GroupId":"","Official_Account":7,"To_Account":{}}"#] {
                let refusal = judged(command.name(), body, Some("bob")).unwrap_err();
                assert_eq!(refusal.reason(), Reason::Undecidable, "{command:?}");
            }
        }
    }
}
