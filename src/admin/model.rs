//! The JSON of the blocklist's API. `/openapi.json` is made from these types, and the command line reads them.

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
    /// Overrules every `block` of the user.
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
    /// The user that it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// The account that it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) account: Option<String>,
    /// The rule has an effect before this time (RFC 3339). Absent: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) because: Option<String>,
    /// Who wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) who: Option<String>,
    /// When it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) when: Option<String>,
    /// By what it was written: `api`, `cli`, or `import:` and a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) via: Option<String>,
    /// The source that has it: `file:PATH` or `topic:NAME`.
    pub(crate) source: String,
    /// Its time is over, so that it has no effect.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) expired: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

impl RuleView {
    /// What `source` says of a rule, as of `now`.
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
    /// The account. A `block` or `pardon` without one holds everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) account: Option<String>,
    /// The rule has an effect before this time (RFC 3339). Absent: for ever. Only in a `put`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<String>,
    /// Why: one line of text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) because: Option<String>,
}

/// What a rule has beside its ids. It may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleDetails {
    /// The rule has an effect before this time (RFC 3339). Absent: for ever. Not in a DELETE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<String>,
    /// Why: one line of text. That of a DELETE is kept in the audit topic only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) because: Option<String>,
}

/// One line of a list of changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChangeLine {
    /// The rule is there, with this end and this reason, whatever it had before.
    Put(RuleParts),
    /// The rule is gone.
    Delete(RuleParts),
}

/// What a change came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ChangedRule {
    /// The rule as it is now, or as it was named where it is gone.
    pub(crate) rule: RuleView,
    /// What it replaced in the topic; null: nothing.
    pub(crate) replaced: Option<RuleView>,
    /// A replica of at least this generation has applied the change.
    pub(crate) generation: u64,
}

/// What a list of changes came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ChangedRules {
    /// Whether nothing was written, as asked.
    pub(crate) dry_run: bool,
    /// How many rules are new.
    pub(crate) added: usize,
    /// How many have another end or another reason.
    pub(crate) changed: usize,
    /// How many are gone.
    pub(crate) removed: usize,
    /// How many are as they were.
    pub(crate) unchanged: usize,
    /// What each line came to, in order.
    pub(crate) results: Vec<LineResult>,
    /// A replica of at least this generation has applied all changes.
    pub(crate) generation: u64,
}

/// What one line of a list of changes came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct LineResult {
    /// Its number; the first line is 1.
    pub(crate) line: usize,
    /// The rule as a sentence.
    pub(crate) rule: String,
    /// What it replaced in the topic; null: nothing.
    pub(crate) replaced: Option<RuleView>,
}

/// A rule and who else has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct FoundRule {
    /// The rule in the topic or, if it is not there, in the first file that has it.
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

/// Why a user may or may not subscribe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct LookupAnswer {
    /// The decision, as a callback would get it.
    pub(crate) decision: LookupDecision,
    /// False in a dry run: the callback is allowed all the same.
    pub(crate) enforced: bool,
    /// Why, in a sentence, where no rule of `rules` says it: an account that allows only others, or a list that is not loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) because: Option<String>,
    /// Every rule of every source that bears on it.
    pub(crate) rules: Vec<LookupRule>,
    /// The generation of the list.
    pub(crate) generation: u64,
}

/// A rule that bears on a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct LookupRule {
    #[serde(flatten)]
    pub(crate) rule: RuleView,
    /// Whether the decision is due to it.
    pub(crate) decided: bool,
}

/// A page of rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct RulesPage {
    /// The rules, sorted by kind, user and account; those of several sources stand together.
    pub(crate) rules: Vec<RuleView>,
    /// The `after` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
    /// The generation of the list.
    pub(crate) generation: u64,
}

/// How this replica follows its sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FollowState {
    /// No list was read yet.
    Reading,
    /// Every change is applied as it comes.
    Live,
    /// Kafka has shown nothing of the topic for a while; the list stays in force.
    Stale,
}

/// The state of the blocklist at this replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct BlocklistStatus {
    /// The applications that the list decides for, by their SdkAppid.
    pub(crate) apps: Vec<String>,
    /// The generation of the list: of the topic the offset behind the last record applied; of files a count of loads.
    pub(crate) generation: u64,
    /// How it follows its sources.
    pub(crate) state: FollowState,
    /// The rules of all sources, those past their end included.
    pub(crate) entries: usize,
    /// The memory that the rules take.
    pub(crate) bytes: usize,
    /// The same by source.
    pub(crate) sources: Vec<SourceStatus>,
    /// The topic, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) topic: Option<TopicStatus>,
}

/// What one source holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct SourceStatus {
    /// `file:PATH` or `topic:NAME`.
    pub(crate) source: String,
    /// Its rules by kind.
    pub(crate) entries: KindCounts,
    /// The memory that they take.
    pub(crate) bytes: usize,
    /// Of a file how long ago its rules were read; of a topic how long ago Kafka last showed that nothing is missing here. Absent before
    /// the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) age_seconds: Option<u64>,
    /// Why it cannot be read at present. Its last rules stay in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Rules by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct KindCounts {
    pub(crate) block: usize,
    pub(crate) pardon: usize,
    pub(crate) allow: usize,
    pub(crate) close: usize,
}

/// How this replica follows the topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct TopicStatus {
    /// Its name.
    pub(crate) name: String,
    /// Its identity: 16 hex digits. Absent before the first rule is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<String>,
    /// How long ago Kafka last showed that nothing is missing here. Absent before it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) age_seconds: Option<u64>,
    /// Records that cannot be used; their rules do not hold.
    pub(crate) poison: u64,
    /// What keeps it from reading.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Why a request was not served. (RFC 9457.)
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ProblemDetails {
    /// A URI that identifies the kind of the problem.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The kind of the problem in words.
    pub(crate) title: String,
    /// The status of the response.
    pub(crate) status: u16,
    /// What is wrong with this request.
    pub(crate) detail: String,
    /// Where it is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<FieldError>,
}

/// A mistake in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct FieldError {
    /// The line of a list of changes; the first is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<usize>,
    /// The field of the body, the id in the path or the parameter of the query. Absent where none can be named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<String>,
    /// What is wrong with it.
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
