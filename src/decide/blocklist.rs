//! The blocklist: a set of rules that is built once, swapped whole and only read.
//!
//! Lookups allocate nothing. A rule past its end is as if it were not there, so a list needs no sweeping.

use std::collections::HashMap;
use std::sync::Arc;

use crate::clock::UnixMillis;
use crate::decide::rule::Rule;

/// All rules that are in use, by the source they came from.
///
/// Sources stay apart, so that reading one again leaves the others as they are. A rule holds if it holds in one.
#[derive(Debug)]
pub struct Blocklist {
    sources: Box<[Arc<Rules>]>,
    generation: u64,
    loaded: bool,
}

impl Blocklist {
    /// What there is before any source was read: nothing is known, so the policy decides. Its generation is 0.
    pub fn unloaded() -> Self {
        Self { sources: Box::default(), generation: 0, loaded: false }
    }

    /// The rules of `sources`, as the list of this generation. No sources make a list that blocks nobody.
    pub fn of(sources: impl IntoIterator<Item = Arc<Rules>>, generation: u64) -> Self {
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

    /// How many rules it holds, those past their end included. A rule of two sources is two.
    pub fn rule_count(&self) -> usize {
        self.sources.iter().map(|rules| rules.len()).sum()
    }

    /// Whether nobody may subscribe to `account`.
    pub fn closes(&self, account: &str, now: UnixMillis) -> bool {
        self.sources.iter().any(|rules| rules.closes(account, now))
    }

    /// Whether `user` is blocked everywhere.
    pub fn blocks(&self, user: &str, now: UnixMillis) -> bool {
        self.sources.iter().any(|rules| rules.blocks(user, now))
    }

    /// Whether a rule blocks `user` on `account`.
    pub fn blocks_on(&self, user: &str, account: &str, now: UnixMillis) -> bool {
        self.sources.iter().any(|rules| rules.blocks_on(user, account, now))
    }

    /// Whether only users that are allowed may subscribe to `account`.
    pub fn restricts(&self, account: &str, now: UnixMillis) -> bool {
        self.sources.iter().any(|rules| rules.restricts(account, now))
    }

    /// Whether a rule allows `user` on `account`.
    pub fn allows(&self, user: &str, account: &str, now: UnixMillis) -> bool {
        self.sources.iter().any(|rules| rules.allows(user, account, now))
    }
}

/// The rules of one source.
#[derive(Debug, Default)]
pub struct Rules {
    /// Users that are blocked everywhere.
    blocked: Ends,
    /// Accounts that are closed.
    closed: Ends,
    accounts: HashMap<Box<str>, Account>,
    count: usize,
}

/// What the rules say of users on one account.
#[derive(Debug, Default)]
struct Account {
    blocked: Ends,
    allowed: Ends,
    /// The latest end in `allowed`, if there is any.
    restricted: Option<UnixMillis>,
}

impl Rules {
    /// Adds a rule that holds before `until`. Of two ends for the same rule the later counts.
    pub fn insert(&mut self, rule: &Rule<'_>, until: UnixMillis) {
        let is_new = match rule {
            Rule::Block { user, account: None } => self.blocked.insert(user, until),
            Rule::Block { user, account: Some(account) } => self.account_mut(account).blocked.insert(user, until),
            Rule::Close { account } => self.closed.insert(account, until),
            Rule::Allow { user, account } => {
                let account = self.account_mut(account);
                account.restricted = account.restricted.max(Some(until));
                account.allowed.insert(user, until)
            }
        };
        self.count += usize::from(is_new);
    }

    /// How many different rules there are, those past their end included.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// See [`Blocklist::closes`].
    pub fn closes(&self, account: &str, now: UnixMillis) -> bool {
        self.closed.has(account, now)
    }

    /// See [`Blocklist::blocks`].
    pub fn blocks(&self, user: &str, now: UnixMillis) -> bool {
        self.blocked.has(user, now)
    }

    /// See [`Blocklist::blocks_on`].
    pub fn blocks_on(&self, user: &str, account: &str, now: UnixMillis) -> bool {
        self.accounts.get(account).is_some_and(|account| account.blocked.has(user, now))
    }

    /// See [`Blocklist::restricts`].
    pub fn restricts(&self, account: &str, now: UnixMillis) -> bool {
        self.accounts.get(account).and_then(|account| account.restricted).is_some_and(|end| now < end)
    }

    /// See [`Blocklist::allows`].
    pub fn allows(&self, user: &str, account: &str, now: UnixMillis) -> bool {
        self.accounts.get(account).is_some_and(|account| account.allowed.has(user, now))
    }

    fn account_mut(&mut self, account: &str) -> &mut Account {
        self.accounts.entry(account.into()).or_default()
    }
}

/// Ids, each with the end of its rule.
#[derive(Debug, Default)]
struct Ends(HashMap<Box<str>, UnixMillis>);

impl Ends {
    /// Adds an id, or moves its end to `until` if that is later. Returns whether it is new.
    fn insert(&mut self, id: &str, until: UnixMillis) -> bool {
        match self.0.get_mut(id) {
            Some(end) => {
                *end = until.max(*end);
                false
            }
            None => self.0.insert(id.into(), until).is_none(),
        }
    }

    /// Whether the id is there, and its rule not past its end.
    fn has(&self, id: &str, now: UnixMillis) -> bool {
        self.0.get(id).is_some_and(|end| now < *end)
    }
}
