//! The JSON types of the blocklist API. `/openapi.json` is generated from them, and the command line parses them.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::clock::UnixMillis;
use crate::decide::rule::Rule;
use crate::decide::rule::RuleKind;
use crate::decide::time;
use crate::decide::topic::value::RuleValue;

/// The kind of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KindWord {
    /// Refuses every subscription to the account.
    Close,
    /// Overrides every `block` of the user.
    Pardon,
    /// Refuses the user.
    Block,
    /// Opens the account to its allowed users only.
    Allow,
}

impl From<RuleKind> for KindWord {
    fn from(kind: RuleKind) -> Self {
        match kind {
            RuleKind::Close => Self::Close,
            RuleKind::Pardon => Self::Pardon,
            RuleKind::Block => Self::Block,
            RuleKind::Allow => Self::Allow,
        }
    }
}

impl From<KindWord> for RuleKind {
    fn from(kind: KindWord) -> Self {
        match kind {
            KindWord::Close => Self::Close,
            KindWord::Pardon => Self::Pardon,
            KindWord::Block => Self::Block,
            KindWord::Allow => Self::Allow,
        }
    }
}

/// A rule of one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct RuleView {
    /// The rule as a sentence, such as `block bob on @TOA#_news`.
    pub(crate) rule: String,
    /// Its kind.
    pub(crate) kind: KindWord,
    /// Its user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// Its account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) account: Option<String>,
    /// The time (RFC 3339) at which the rule expires. Absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<String>,
    /// The reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) because: Option<String>,
    /// The author.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) who: Option<String>,
    /// When it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) when: Option<String>,
    /// How it was written: `api`, `cli`, or `import:` and a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) via: Option<String>,
    /// Its source: `file:PATH` or `topic:NAME`.
    pub(crate) source: String,
    /// Whether it has expired, so that it has no effect.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) expired: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

impl RuleView {
    /// A rule with its value in `source`, as of `now`.
    pub(crate) fn of(rule: &Rule<'_>, value: &RuleValue<'_>, source: &str, now: UnixMillis) -> Self {
        let RuleValue { until, provenance } = value;
        let owned = |text: &Option<Cow<'_, str>>| text.as_deref().map(str::to_owned);
        Self {
            rule: rule.to_string(),
            kind: rule.kind().into(),
            user: rule.user().map(str::to_owned),
            account: rule.account().map(str::to_owned),
            until: (*until != UnixMillis::NEVER).then(|| time::written(*until)),
            because: owned(&provenance.because),
            who: owned(&provenance.who),
            when: provenance.when.map(time::written),
            via: owned(&provenance.source),
            source: source.to_owned(),
            expired: *until <= now,
        }
    }
}

/// A rule by its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleParts {
    /// Its kind.
    pub(crate) kind: KindWord,
    /// The user. Absent in a `close`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// The account. A `block` or `pardon` without one applies to every account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) account: Option<String>,
    /// The time (RFC 3339) at which the rule expires. Absent: never. Not allowed in a `delete`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<String>,
    /// The reason: one line of text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) because: Option<String>,
}

/// The end and the reason of a rule. Both are optional.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleDetails {
    /// The time (RFC 3339) at which the rule expires. Absent: never. Not allowed in a DELETE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<String>,
    /// The reason: one line of text. The reason of a DELETE is stored in the audit topic only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) because: Option<String>,
}

/// One line of a batch of changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChangeLine {
    /// Adds the rule, or replaces its end and reason.
    Put(RuleParts),
    /// Removes the rule.
    Delete(RuleParts),
}

/// The result of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ChangedRule {
    /// The new rule, or the removed one.
    pub(crate) rule: RuleView,
    /// The rule that it replaced in the topic; null if there was none.
    pub(crate) replaced: Option<RuleView>,
    /// Replicas of this generation or a later one have applied the change.
    pub(crate) generation: u64,
}

/// The result of a batch of changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ChangedRules {
    /// Whether it was a dry run, so that nothing was written.
    pub(crate) dry_run: bool,
    /// The number of new rules.
    pub(crate) added: usize,
    /// The number of rules with a new end or reason.
    pub(crate) changed: usize,
    /// The number of removed rules.
    pub(crate) removed: usize,
    /// The number of changes without an effect.
    pub(crate) unchanged: usize,
    /// The result of each line, in order.
    pub(crate) results: Vec<LineResult>,
    /// Replicas of this generation or a later one have applied all changes.
    pub(crate) generation: u64,
}

/// The result of one line of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct LineResult {
    /// The number of the line; the first is 1.
    pub(crate) line: usize,
    /// The rule as a sentence.
    pub(crate) rule: String,
    /// The rule that it replaced in the topic; null if there was none.
    pub(crate) replaced: Option<RuleView>,
}

/// A rule in all sources that have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct FoundRule {
    /// The rule in the topic; if the topic does not have it, in the first file that does.
    pub(crate) rule: RuleView,
    /// The same rule in other sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) others: Vec<RuleView>,
    /// The generation of the list.
    pub(crate) generation: u64,
}

/// Whether a user may subscribe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LookupDecision {
    /// The user may.
    Allow,
    /// The user may not.
    Refuse,
}

/// The decision about a user, with the reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct LookupAnswer {
    /// The decision that a callback would get.
    pub(crate) decision: LookupDecision,
    /// False in a dry run, in which callbacks are allowed regardless of the decision.
    pub(crate) enforced: bool,
    /// The reason, if it is not a rule in `rules`: the account allows only other users, or the list is not loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) because: Option<String>,
    /// Every rule, in every source, that applies to this user on this account.
    pub(crate) rules: Vec<LookupRule>,
    /// The generation of the list.
    pub(crate) generation: u64,
}

/// A rule that is relevant for a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct LookupRule {
    #[serde(flatten)]
    pub(crate) rule: RuleView,
    /// Whether it decided.
    pub(crate) decided: bool,
}

/// A page of rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct RulesPage {
    /// The rules, sorted by kind, user and account. A rule of several sources is listed once for each.
    pub(crate) rules: Vec<RuleView>,
    /// The parameter `after` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
    /// The generation of the list.
    pub(crate) generation: u64,
}

/// Whether this replica is up to date with its sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FollowState {
    /// No list has been read yet.
    Reading,
    /// The list is up to date.
    Live,
    /// The topic may have newer changes, because Kafka has not responded for a while. The last list stays in force.
    Stale,
}

/// The state of the blocklist at this replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct BlocklistStatus {
    /// The applications that use the list, by SdkAppid.
    pub(crate) apps: Vec<String>,
    /// The generation of the list: with a topic the offset behind the last applied record, else the number of loads.
    pub(crate) generation: u64,
    /// Whether it is up to date.
    pub(crate) state: FollowState,
    /// The number of rules of all sources, including expired ones.
    pub(crate) entries: usize,
    /// The memory of the rules in bytes.
    pub(crate) bytes: usize,
    /// The status of each source.
    pub(crate) sources: Vec<SourceStatus>,
    /// The topic, if one is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) topic: Option<TopicStatus>,
}

/// The status of one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct SourceStatus {
    /// `file:PATH` or `topic:NAME`.
    pub(crate) source: String,
    /// The number of its rules by kind.
    pub(crate) entries: KindCounts,
    /// The memory of its rules in bytes.
    pub(crate) bytes: usize,
    /// The time since the file was last loaded, or since this replica was last known to be up to date with the topic. Absent before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) age_seconds: Option<u64>,
    /// The error, if it cannot be read at present. Its last rules stay in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// The number of rules by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct KindCounts {
    pub(crate) block: usize,
    pub(crate) pardon: usize,
    pub(crate) allow: usize,
    pub(crate) close: usize,
}

/// The status of the topic at this replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct TopicStatus {
    /// Its name.
    pub(crate) name: String,
    /// Its identity: 16 hex digits. Absent before the first rule is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<String>,
    /// The time since this replica was last known to be up to date with the topic. Absent before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) age_seconds: Option<u64>,
    /// The number of invalid records. Their rules have no effect.
    pub(crate) poison: u64,
    /// The error, if it cannot be read at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Why a request failed (RFC 9457).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ProblemDetails {
    /// A URI that identifies the kind of problem.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The kind of problem in words.
    pub(crate) title: String,
    /// The status of the response.
    pub(crate) status: u16,
    /// The problem with this request.
    pub(crate) detail: String,
    /// The invalid fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<FieldError>,
}

/// An invalid field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct FieldError {
    /// The line in a batch of changes; the first is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<usize>,
    /// The field of the body, the id in the path, or the parameter of the query. Absent if the error concerns none of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<String>,
    /// Why it is invalid.
    pub(crate) detail: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(formatter, "line {line}: ")?;
        }
        if let Some(field) = &self.field {
            write!(formatter, "{field} ")?;
        }
        formatter.write_str(&self.detail)
    }
}
