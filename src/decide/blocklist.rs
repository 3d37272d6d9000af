//! The blocklist: the rules of all sources as one version, swapped whole and only read.
//!
//! A rule past its end is as if it were not there, so a list needs no sweeping.

use std::sync::Arc;

use crate::clock::UnixMillis;
use crate::decide::rules::OnAccount;
use crate::decide::rules::Rules;

/// All rules that are in use, by the source they came from.
///
/// Sources stay apart, so that reading one again leaves the others as they are. A rule holds if it holds in one.
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

/// What a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// A file on this machine.
    File,
    /// A topic of Kafka.
    Topic,
}

impl SourceKind {
    /// The word for it in labels and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Topic => "topic",
        }
    }

    /// Names a source of this kind in decisions and answers: `file:PATH` or `topic:NAME`.
    pub fn label(self, name: &str) -> String {
        format!("{}:{name}", self.as_str())
    }
}

impl Source {
    /// The rules that the file or topic of this name holds.
    pub fn new(kind: SourceKind, name: &str, rules: Arc<Rules>) -> Self {
        Self { label: kind.label(name).into(), kind, rules }
    }

    /// Names it in decisions and answers; see [`SourceKind::label`].
    pub const fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// What it is.
    pub const fn kind(&self) -> SourceKind {
        self.kind
    }

    /// Its rules.
    pub const fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }
}

impl Blocklist {
    /// What there is before any source was read: nothing is known, so the policy decides. Its generation is 0.
    pub fn unloaded() -> Self {
        Self { sources: Box::default(), generation: 0, loaded: false }
    }

    /// The rules of `sources`, as the list of this generation. No sources make a list that blocks nobody.
    pub fn of(sources: impl IntoIterator<Item = Source>, generation: u64) -> Self {
        Self { sources: sources.into_iter().collect(), generation, loaded: true }
    }

    /// Which list of this process it is. Each that takes the place of another counts one more.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether it came from a source.
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// Its sources, in the order of the configuration.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// How many rules it holds, those past their end included. A rule of two sources is two.
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

    /// What the rules say of `account`. Looks it up once for all who ask.
    pub fn on<'b>(&'b self, account: &'b str) -> AccountRules<'b> {
        AccountRules(self.sources.iter().filter_map(|source| Some((source, source.rules.on(account)?))).collect())
    }
}

/// The rules on one account, of those sources that have some. It allocates only if there is one.
#[derive(Debug)]
pub struct AccountRules<'b>(Vec<(&'b Source, OnAccount<'b>)>);

impl<'b> AccountRules<'b> {
    /// Whether nobody may subscribe.
    pub fn is_closed(&self, now: UnixMillis) -> bool {
        self.closing(now).next().is_some()
    }

    /// The sources that close the account.
    pub fn closing(&self, now: UnixMillis) -> impl Iterator<Item = &'b Source> {
        self.those(move |rules| rules.is_closed(now))
    }

    /// Whether only users that are allowed may subscribe.
    pub fn is_restricted(&self, now: UnixMillis) -> bool {
        self.restricting(now).next().is_some()
    }

    /// The sources that allow only some users on the account.
    pub fn restricting(&self, now: UnixMillis) -> impl Iterator<Item = &'b Source> {
        self.those(move |rules| rules.is_restricted(now))
    }

    /// Whether a rule blocks `user` on this account.
    pub fn block(&self, user: &str, now: UnixMillis) -> bool {
        self.blocking(user, now).next().is_some()
    }

    /// The sources that block `user` on this account.
    pub fn blocking(&self, user: &str, now: UnixMillis) -> impl Iterator<Item = &'b Source> {
        self.those(move |rules| rules.blocks(user, now))
    }

    /// Whether a rule pardons `user` on this account.
    pub fn pardon(&self, user: &str, now: UnixMillis) -> bool {
        self.0.iter().any(|(_, rules)| rules.pardons(user, now))
    }

    /// Whether a rule allows `user` on this account.
    pub fn allow(&self, user: &str, now: UnixMillis) -> bool {
        self.0.iter().any(|(_, rules)| rules.allows(user, now))
    }

    fn those(&self, has: impl Fn(&OnAccount<'b>) -> bool) -> impl Iterator<Item = &'b Source> {
        self.0.iter().filter(move |(_, rules)| has(rules)).map(|(source, _)| *source)
    }
}
