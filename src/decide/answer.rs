//! The bodies of responses.

use std::borrow::Cow;
use std::collections::HashSet;

use bytes::Bytes;
use serde::Serialize;

use crate::command::Shape;
use crate::decide::Decision;
use crate::decide::Rejection;

/// The plain OK; to a before-callback it means that everyone is allowed.
pub const OK: &[u8] = br#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#;

const NO_SUBSCRIBERS: &[u8] =
    br#"{"ActionStatus":"OK","ErrorInfo":"the account takes no new subscribers","ErrorCode":1}"#;
const NONE_MAY_SUBSCRIBE: &[u8] = br#"{"ActionStatus":"OK","ErrorInfo":"none of these may subscribe","ErrorCode":1}"#;
const CLOSED: &[u8] = br#"{"ActionStatus":"OK","ErrorInfo":"closed by the blocklist","ErrorCode":1}"#;
const REFUSED: &[u8] = br#"{"ActionStatus":"OK","ErrorInfo":"refused by the blocklist","ErrorCode":1}"#;
const NOT_LOADED: &[u8] = br#"{"ActionStatus":"OK","ErrorInfo":"the blocklist is not loaded yet","ErrorCode":1}"#;

/// The first of the codes, up to 39000, that refuse an item of a friend request.
const FRIEND_REFUSED: u32 = 38000;

#[derive(Serialize)]
struct Listing<'a> {
    #[serde(rename = "ActionStatus")]
    action_status: &'static str,
    #[serde(rename = "ErrorInfo")]
    error_info: &'static str,
    #[serde(rename = "ErrorCode")]
    error_code: u32,
    #[serde(rename = "RefusedSubscribers_Account", skip_serializing_if = "Option::is_none")]
    subscribers: Option<&'a [Box<str>]>,
    #[serde(rename = "RefusedMembers_Account", skip_serializing_if = "Option::is_none")]
    members: Option<&'a [Box<str>]>,
    #[serde(rename = "ResultItem", skip_serializing_if = "Option::is_none")]
    items: Option<Vec<ResponseItem<'a>>>,
}

#[derive(Serialize)]
struct ResponseItem<'a> {
    #[serde(rename = "To_Account")]
    account: &'a str,
    #[serde(rename = "ResultCode")]
    code: u32,
    #[serde(rename = "ResultInfo")]
    info: &'static str,
}

/// Nothing is refused, and nobody is listed.
const NO_LIST: Listing<'static> =
    Listing { action_status: "OK", error_info: "", error_code: 0, subscribers: None, members: None, items: None };

/// The body of this shape for `decision`. A refusal is a decision of the application and not a failure, so `ActionStatus` is OK.
///
/// [`Shape::ResultItems`] also needs the accounts of the request: see [`result_items`].
pub fn body(shape: Shape, decision: &Decision) -> Bytes {
    if !decision.enforced {
        return Bytes::from_static(OK);
    }
    let is_subscription = shape == Shape::RefusedSubscribers;
    match decision.rejection {
        Some(Rejection::AccountClosed) if is_subscription => Bytes::from_static(NO_SUBSCRIBERS),
        Some(Rejection::AccountClosed) => Bytes::from_static(CLOSED),
        Some(Rejection::AllRefused) if is_subscription => Bytes::from_static(NONE_MAY_SUBSCRIBE),
        Some(Rejection::AllRefused) => Bytes::from_static(REFUSED),
        Some(Rejection::NotLoaded) => Bytes::from_static(NOT_LOADED),
        None if decision.refused.is_empty() => Bytes::from_static(OK),
        None => match shape {
            Shape::RefusedSubscribers => written(&Listing { subscribers: Some(&decision.refused), ..NO_LIST }),
            Shape::RefusedMembers => written(&Listing { members: Some(&decision.refused), ..NO_LIST }),
            // This shape has no list of refused users: they are refused by refusing the request.
            Shape::Plain | Shape::ResultItems => Bytes::from_static(REFUSED),
        },
    }
}

/// The body with a code for each of `accounts`. Its own `ErrorCode` is always 0: any other would be a failure, and allow everyone.
pub fn result_items(accounts: &[Cow<'_, str>], decision: &Decision) -> Bytes {
    let refused: HashSet<&str> = decision.refused.iter().map(|account| &**account).collect();
    let items = accounts.iter().map(|account| {
        let (code, info) = match decision.enforced && refused.contains(&**account) {
            true => (FRIEND_REFUSED, "refused by the blocklist"),
            false => (0, ""),
        };
        ResponseItem { account, code, info }
    });
    written(&Listing { items: Some(items.collect()), ..NO_LIST })
}

fn written(listing: &Listing<'_>) -> Bytes {
    #[expect(clippy::expect_used, reason = "a struct of strings and numbers has no way to fail")]
    serde_json::to_vec(listing).expect("strings are always JSON").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Outcome;
    use serde_json::Value;
    use serde_json::json;

    fn decision(outcome: Outcome, refused: &[&str], rejection: Option<Rejection>) -> Decision {
        let refused = refused.iter().map(|id| Box::from(*id)).collect();
        Decision { outcome, refused, rules: Vec::new(), generation: 1, rejection, enforced: true }
    }

    #[test]
    fn allowing_everyone_is_the_plain_ok() {
        for shape in [Shape::Plain, Shape::RefusedSubscribers, Shape::RefusedMembers] {
            assert_eq!(body(shape, &decision(Outcome::Allow, &[], None)), OK);
        }
    }

    #[test]
    fn members_are_listed_under_another_name() {
        let body = body(Shape::RefusedMembers, &decision(Outcome::Partial, &["bob"], None));
        assert_eq!(body, r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"RefusedMembers_Account":["bob"]}"#);
    }

    #[test]
    fn friends_have_a_code_each_whether_or_not_they_are_refused() {
        let asked = ["alice".into(), "b\"ob".into(), "alice".into()];
        let body: Value =
            serde_json::from_slice(&result_items(&asked, &decision(Outcome::Partial, &["b\"ob"], None))).expect("JSON");
        let alice = json!({"To_Account": "alice", "ResultCode": 0, "ResultInfo": ""});
        let bob = json!({"To_Account": "b\"ob", "ResultCode": 38000, "ResultInfo": "refused by the blocklist"});
        assert_eq!(
            body,
            json!({"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0, "ResultItem": [alice, bob, alice]})
        );
        let nobody = result_items(&[], &Decision::unjudged());
        assert_eq!(nobody, r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"ResultItem":[]}"#);
    }

    #[test]
    fn what_is_not_enforced_is_allowed_in_every_shape() {
        let allowed = decision(Outcome::Allow, &[], None);
        for rejection in [None, Some(Rejection::AccountClosed), Some(Rejection::AllRefused), Some(Rejection::NotLoaded)]
        {
            let refused = Decision { enforced: false, ..decision(Outcome::Refuse, &["bob"], rejection) };
            for shape in [Shape::Plain, Shape::RefusedSubscribers, Shape::RefusedMembers] {
                assert_eq!(body(shape, &refused), body(shape, &allowed));
            }
            assert_eq!(result_items(&["bob".into()], &refused), result_items(&["bob".into()], &allowed));
        }
    }

    #[test]
    fn refused_ids_are_listed_as_json_strings() {
        let body = body(Shape::RefusedSubscribers, &decision(Outcome::Partial, &["bob", "a\"b\\c\n你"], None));
        assert_eq!(
            body,
            r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"RefusedSubscribers_Account":["bob","a\"b\\c\n你"]}"#
        );
    }

    #[test]
    fn every_rejection_is_ok_with_code_1_and_says_why() {
        for rejection in [Rejection::AccountClosed, Rejection::AllRefused, Rejection::NotLoaded] {
            for shape in [Shape::Plain, Shape::RefusedSubscribers, Shape::RefusedMembers] {
                let body = body(shape, &decision(Outcome::Refuse, &["bob"], Some(rejection)));
                let body: Value = serde_json::from_slice(&body).expect("JSON");
                let error_info = body["ErrorInfo"].as_str().expect("a string");
                assert!(!error_info.is_empty());
                assert_eq!(body, json!({"ActionStatus": "OK", "ErrorInfo": error_info, "ErrorCode": 1}));
            }
        }
    }
}
