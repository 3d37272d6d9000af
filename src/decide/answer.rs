//! The bodies of answers.

use bytes::Bytes;
use serde::Serialize;

use crate::decide::Decision;
use crate::decide::Rejection;

/// Everything is as it should be; on a before-callback, everyone is let through.
pub const OK: &[u8] = br#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#;

const ACCOUNT_CLOSED: &[u8] =
    br#"{"ActionStatus":"OK","ErrorInfo":"the account takes no new subscribers","ErrorCode":1}"#;
const ALL_REFUSED: &[u8] = br#"{"ActionStatus":"OK","ErrorInfo":"none of these may subscribe","ErrorCode":1}"#;
const NOT_LOADED: &[u8] = br#"{"ActionStatus":"OK","ErrorInfo":"the blocklist is not loaded yet","ErrorCode":1}"#;

/// The answer that says `decision`. A refusal is the application's word and not a failure, so its `ActionStatus` is OK.
pub fn body(decision: &Decision) -> Bytes {
    match decision.rejection {
        Some(Rejection::AccountClosed) => Bytes::from_static(ACCOUNT_CLOSED),
        Some(Rejection::AllRefused) => Bytes::from_static(ALL_REFUSED),
        Some(Rejection::NotLoaded) => Bytes::from_static(NOT_LOADED),
        None if decision.refused.is_empty() => Bytes::from_static(OK),
        None => listing(&decision.refused),
    }
}

/// Lets everyone through but `refused`.
fn listing(refused: &[Box<str>]) -> Bytes {
    #[derive(Serialize)]
    struct Listing<'a> {
        #[serde(rename = "ActionStatus")]
        action_status: &'static str,
        #[serde(rename = "ErrorInfo")]
        error_info: &'static str,
        #[serde(rename = "ErrorCode")]
        error_code: u32,
        #[serde(rename = "RefusedSubscribers_Account")]
        refused_subscribers: &'a [Box<str>],
    }
    let listing = Listing { action_status: "OK", error_info: "", error_code: 0, refused_subscribers: refused };
    #[expect(clippy::expect_used, reason = "a struct of strings and a number has no way to fail")]
    serde_json::to_vec(&listing).expect("strings are always JSON").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Outcome;
    use serde_json::Value;
    use serde_json::json;

    fn decision(outcome: Outcome, refused: &[&str], rejection: Option<Rejection>) -> Decision {
        let refused = refused.iter().map(|id| Box::from(*id)).collect();
        Decision { outcome, refused, rules: Vec::new(), generation: 1, rejection }
    }

    #[test]
    fn allowing_everyone_is_the_plain_ok() {
        assert_eq!(body(&decision(Outcome::Allow, &[], None)), OK);
    }

    #[test]
    fn refused_ids_are_listed_as_json_strings() {
        let body = body(&decision(Outcome::Partial, &["bob", "a\"b\\c\n你"], None));
        assert_eq!(
            body,
            r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"RefusedSubscribers_Account":["bob","a\"b\\c\n你"]}"#
        );
    }

    #[test]
    fn every_rejection_is_ok_with_code_1_and_says_why() {
        for rejection in [Rejection::AccountClosed, Rejection::AllRefused, Rejection::NotLoaded] {
            let body = body(&decision(Outcome::Refuse, &["bob"], Some(rejection)));
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            let error_info = body["ErrorInfo"].as_str().expect("a string");
            assert!(!error_info.is_empty());
            assert_eq!(body, json!({"ActionStatus": "OK", "ErrorInfo": error_info, "ErrorCode": 1}));
        }
    }
}
