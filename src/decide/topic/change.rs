//! The audit event of one change: a CloudEvent with who changed which rule, from what to what, when and why.

use serde::Serialize;

use crate::clock::UnixMillis;
use crate::decide::rule::Rule;
use crate::decide::time;
use crate::decide::topic::value;
use crate::decide::topic::value::RuleValue;

/// The type of the event.
pub const CHANGED: &str = "callbridge.blocklist.changed";

/// One change of one rule.
#[derive(Debug, Clone)]
pub struct RuleChanged<'a> {
    /// Identifies the event.
    pub id: &'a str,
    /// The topic of the rule.
    pub topic: &'a str,
    /// The rule.
    pub rule: &'a Rule<'a>,
    /// The rule before the change; `None`: there was none.
    pub before: Option<&'a RuleValue<'a>>,
    /// The rule after the change; `None`: it is removed.
    pub after: Option<&'a RuleValue<'a>>,
    /// Who made the change.
    pub who: &'a str,
    /// Through what: `api`, `cli`, or `import:` and a name.
    pub via: &'a str,
    /// When, by the clock of the writer.
    pub when: UnixMillis,
    /// Why.
    pub why: Option<&'a str>,
    /// The id of the request.
    pub request: Option<&'a str>,
    /// Why the rule was not written after all. Such an event follows the one that announced the change.
    pub failed: Option<&'a str>,
}

#[derive(Serialize)]
struct ChangeEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    r#type: &'static str,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    data: ChangeData<'a>,
}

#[derive(Serialize)]
struct ChangeData<'a> {
    who: &'a str,
    via: &'a str,
    rule: &'a str,
    before: Option<value::ValueJson<'a>>,
    after: Option<value::ValueJson<'a>>,
    when: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<&'a str>,
}

/// The event in structured mode: the value of its record. The key is that of the rule.
pub fn encode(change: &RuleChanged<'_>) -> String {
    let RuleChanged { id, topic, rule, before, after, who, via, when, why, request, failed } = *change;
    let (rule, time) = (rule.to_string(), time::written(when));
    let event = ChangeEvent {
        specversion: "1.0",
        id,
        source: format!("/callbridge/blocklist/{topic}"),
        r#type: CHANGED,
        subject: &rule,
        time: time.clone(),
        datacontenttype: "application/json",
        data: ChangeData {
            who,
            via,
            rule: &rule,
            before: before.map(value::ValueJson::of),
            after: after.map(value::ValueJson::of),
            when: time,
            why,
            request,
            failed,
        },
    };
    #[expect(clippy::expect_used, reason = "a struct of strings has no way to fail")]
    serde_json::to_string(&event).expect("strings are always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::decide::topic::value::Provenance;

    #[test]
    fn golden_events_never_change() {
        let when = UnixMillis(1_780_000_000_000);
        let rule = Rule::Block { user: "bob".into(), account: Some("@TOA#_news".into()) };
        let provenance = Provenance {
            because: Some("spam".into()),
            who: Some("alice".into()),
            when: Some(when),
            source: Some("api".into()),
        };
        let after = RuleValue { until: UnixMillis(1_801_353_600_000), provenance };
        let put = RuleChanged {
            id: "00112233445566778899aabbccddeeff",
            topic: "tencent-chat.blocklist",
            rule: &rule,
            before: None,
            after: Some(&after),
            who: "alice",
            via: "api",
            when,
            why: Some("spam"),
            request: Some("r-1"),
            failed: None,
        };
        assert_eq!(
            encode(&put),
            concat!(
                r#"{"specversion":"1.0","id":"00112233445566778899aabbccddeeff","source":"/callbridge/blocklist/tencent-chat.blocklist","#,
                r#""type":"callbridge.blocklist.changed","subject":"block bob on @TOA#_news","time":"2026-05-28T20:26:40Z","#,
                r#""datacontenttype":"application/json","data":{"who":"alice","via":"api","rule":"block bob on @TOA#_news","before":null,"#,
                r#""after":{"until":"2027-01-31T00:00:00Z","because":"spam","who":"alice","when":"2026-05-28T20:26:40Z","source":"api"},"#,
                r#""when":"2026-05-28T20:26:40Z","why":"spam","request":"r-1"}}"#
            )
        );
        let removal =
            RuleChanged { before: Some(&after), after: None, why: None, request: None, failed: Some("x"), ..put };
        let removal = encode(&removal);
        assert!(removal.contains(r#""after":null,"when":"2026-05-28T20:26:40Z","failed":"x"}}"#), "{removal}");
        assert!(removal.contains(r#""before":{"until":"#), "{removal}");
    }
}
