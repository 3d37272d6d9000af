//! The blocklist: an immutable version of the rules of all sources, which is swapped as a whole.
//!
//! Expired rules are ignored when a decision is made, so they need not be removed.

use std::sync::Arc;

use crate::clock::UnixMillis;
use crate::decide::rules::OnAccount;
use crate::decide::rules::Rules;

/// The rules in force, by source.
///
/// Sources are separate, so that one can be replaced without the others. A rule has an effect if one source has it.
#[derive(Debug)]
pub struct Blocklist {
    sources: Box<[Source]>,
    generation: u64,
    loaded: bool,
}

/// The rules of one file or topic.
#[derive(Debug, Clone)]
pub struct Source {
    label: Arc<str>,
    kind: SourceKind,
    rules: Arc<Rules>,
}

/// The kind of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// A file.
    File,
    /// A Kafka topic.
    Topic,
}

impl SourceKind {
    /// The name in labels and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Topic => "topic",
        }
    }

    /// The label of a source of this kind in decisions and responses: `file:PATH` or `topic:NAME`.
    pub fn label(self, name: &str) -> String {
        format!("{}:{name}", self.as_str())
    }
}

impl Source {
    /// The rules of the file or topic with this name.
    pub fn new(kind: SourceKind, name: &str, rules: Arc<Rules>) -> Self {
        Self { label: kind.label(name).into(), kind, rules }
    }

    /// The label in decisions and responses; see [`SourceKind::label`].
    pub const fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// The kind.
    pub const fn kind(&self) -> SourceKind {
        self.kind
    }

    /// The rules.
    pub const fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }
}

impl Blocklist {
    /// The list before any source was read. The policy decides. The generation is 0.
    pub fn unloaded() -> Self {
        Self { sources: Box::default(), generation: 0, loaded: false }
    }

    /// The rules of `sources`, with this generation. Without sources the list blocks nobody.
    pub fn of(sources: impl IntoIterator<Item = Source>, generation: u64) -> Self {
        Self { sources: sources.into_iter().collect(), generation, loaded: true }
    }

    /// The generation: with a topic the offset behind its last applied record, else the number of loads.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a source was read, or there are none.
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// The sources, in the order of the configuration.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The number of rules, including expired ones. A rule of two sources counts twice.
    pub fn rule_count(&self) -> usize {
        self.sources.iter().map(|source| source.rules.len()).sum()
    }

    /// Whether `user` is blocked everywhere.
    pub fn blocks(&self, user: &str, now: UnixMillis) -> bool {
        self.blocking(user, now).next().is_some()
    }

    /// The sources that block `user` everywhere.
    pub fn blocking(&self, user: &str, now: UnixMillis) -> impl Iterator<Item = &Source> {
        self.sources.iter().filter(move |source| source.rules.blocks(user, now))
    }

    /// Whether `user` is pardoned everywhere.
    pub fn pardons(&self, user: &str, now: UnixMillis) -> bool {
        self.sources.iter().any(|source| source.rules.pardons(user, now))
    }

    /// The rules on `account`, looked up once for all users.
    pub fn on<'b>(&'b self, account: &'b str) -> AccountRules<'b> {
        AccountRules(self.sources.iter().filter_map(|source| Some((source, source.rules.on(account)?))).collect())
    }
}

/// The rules on one account, of each source that has any. Does not allocate if there are none.
#[derive(Debug)]
pub struct AccountRules<'b>(Vec<(&'b Source, OnAccount<'b>)>);

impl<'b> AccountRules<'b> {
    /// Whether a rule closes the account.
    pub fn is_closed(&self, now: UnixMillis) -> bool {
        self.closing(now).next().is_some()
    }

    /// The sources that close the account.
    pub fn closing(&self, now: UnixMillis) -> impl Iterator<Item = &'b Source> {
        self.sources_where(move |rules| rules.is_closed(now))
    }

    /// Whether only allowed users may subscribe.
    pub fn is_restricted(&self, now: UnixMillis) -> bool {
        self.restricting(now).next().is_some()
    }

    /// The sources with `allow` rules on the account.
    pub fn restricting(&self, now: UnixMillis) -> impl Iterator<Item = &'b Source> {
        self.sources_where(move |rules| rules.is_restricted(now))
    }

    /// Whether a rule blocks `user` on this account.
    pub fn block(&self, user: &str, now: UnixMillis) -> bool {
        self.blocking(user, now).next().is_some()
    }

    /// The sources that block `user` on this account.
    pub fn blocking(&self, user: &str, now: UnixMillis) -> impl Iterator<Item = &'b Source> {
        self.sources_where(move |rules| rules.blocks(user, now))
    }

    /// Whether a rule pardons `user` on this account.
    pub fn pardon(&self, user: &str, now: UnixMillis) -> bool {
        self.0.iter().any(|(_, rules)| rules.pardons(user, now))
    }

    /// Whether a rule allows `user` on this account.
    pub fn allow(&self, user: &str, now: UnixMillis) -> bool {
        self.0.iter().any(|(_, rules)| rules.allows(user, now))
    }

    fn sources_where(&self, has: impl Fn(&OnAccount<'b>) -> bool) -> impl Iterator<Item = &'b Source> {
        self.0.iter().filter(move |(_, rules)| has(rules)).map(|(source, _)| *source)
    }
}
