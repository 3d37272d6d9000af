//! The rules of one source, as an immutable version: a change makes a new version, in microseconds.
//!
//! One [`Set`] holds all rules. The scope of an entry says what its id stands for, by the kind of the rule: a user everywhere, an account,
//! or a user on one account. For that, accounts have numbers, and a set of their own, so that an account without rules costs one lookup for
//! all users.

mod edit;
pub mod gathered;
mod held;
mod note;
mod scope;

use std::collections::HashMap;

use crate::clock::UnixMillis;
use crate::decide::rule::Rule;
use crate::decide::rules::edit::Edit;
use crate::decide::rules::gathered::Gathered;
use crate::decide::rules::held::Account;
use crate::decide::rules::held::HeldRule;
use crate::decide::rules::held::RuleReason;
use crate::decide::set::Key;
use crate::decide::set::Set;
use crate::decide::topic::value::Provenance;
use crate::decide::topic::value::RuleValue;

/// See the [module](self).
#[derive(Debug)]
pub struct Rules {
    rules: Set<HeldRule>,
    accounts: Set<Account>,
    reasons: Set<RuleReason>,
    unused: Numbers,
    counts: [usize; 4],
}

impl Default for Rules {
    fn default() -> Self {
        Gathered::default().finish()
    }
}

/// The next number for an account, and for a reason. Numbers are not reused between versions.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    account: u64,
    reason: u64,
}

/// A change of one rule.
#[derive(Debug, Clone)]
pub enum Change<'a> {
    /// Adds the rule, or replaces its end and provenance.
    Put {
        /// The rule.
        rule: Rule<'a>,
        /// The rule holds before this.
        until: UnixMillis,
        /// Its provenance.
        provenance: Provenance<'a>,
    },
    /// Removes the rule.
    Remove(Rule<'a>),
}

impl Rules {
    /// The number of different rules, including expired ones.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a rule blocks `user` everywhere.
    pub fn blocks(&self, user: &str, now: UnixMillis) -> bool {
        self.holds(scope::BLOCKED, user, now)
    }

    /// Whether a rule pardons `user` everywhere.
    pub fn pardons(&self, user: &str, now: UnixMillis) -> bool {
        self.holds(scope::PARDONED, user, now)
    }

    /// The rules on `account`; `None` if there are none.
    pub fn on<'r>(&'r self, account: &'r str) -> Option<OnAccount<'r>> {
        Some(OnAccount { rules: self, name: account, account: self.accounts.get(Account::key(account))? })
    }

    /// The end and the provenance of `rule`; `None` if it is not in the set.
    pub fn find(&self, rule: &Rule<'_>) -> Option<RuleValue<'static>> {
        let number = match rule.account() {
            Some(account) => self.accounts.get(Account::key(account))?.number,
            None => 0,
        };
        let held = self.rules.get(scope::key(rule, number))?;
        Some(RuleValue { until: held.until, provenance: self.provenance(held.reason) })
    }

    /// All rules with their ends and provenances, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Rule<'_>, RuleValue<'static>)> {
        self.iter_held()
            .map(|(rule, held)| (rule, RuleValue { until: held.until, provenance: self.provenance(held.reason) }))
    }

    /// All rules, in no order, including expired ones. Does not read reasons, so it is faster than [`Self::iter`].
    pub fn iter_rules(&self) -> impl Iterator<Item = Rule<'_>> {
        self.iter_held().map(|(rule, _held)| rule)
    }

    fn iter_held(&self) -> impl Iterator<Item = (Rule<'_>, HeldRule)> {
        let names: HashMap<u64, &str> = self.accounts.iter().map(|(key, account)| (account.number, key.id)).collect();
        self.rules.iter().filter_map(move |(key, held)| {
            let account = scope::account_of(key.scope).and_then(|number| names.get(&number).copied());
            Some((scope::rule(key, account)?, held))
        })
    }

    /// The number of rules of each kind, in the order of `RuleKind::ALL`.
    pub const fn counts(&self) -> [usize; 4] {
        self.counts
    }

    /// The memory of the rules in bytes, with their accounts and reasons.
    pub fn bytes(&self) -> usize {
        self.rules.bytes() + self.accounts.bytes() + self.reasons.bytes()
    }

    fn provenance(&self, reason: u64) -> Provenance<'static> {
        self.reasons.get(RuleReason::key(reason)).map(|reason| note::read(&reason.text)).unwrap_or_default()
    }

    /// The next version. Of several changes of one rule the last counts.
    #[must_use]
    pub fn changed<'c>(&self, changes: impl IntoIterator<Item = Change<'c>>) -> Self {
        let mut edit = Edit::of(self);
        for change in changes {
            match change {
                Change::Put { rule, until, provenance } => edit.put(&rule, until, &provenance),
                Change::Remove(rule) => edit.remove(&rule),
            }
        }
        edit.finish()
    }

    fn holds(&self, scope: u64, id: &str, now: UnixMillis) -> bool {
        self.rules.get(Key { scope, id }).is_some_and(|held| now < held.until)
    }
}

/// The rules of one source on one account.
#[derive(Debug, Clone, Copy)]
pub struct OnAccount<'r> {
    rules: &'r Rules,
    name: &'r str,
    account: Account,
}

impl OnAccount<'_> {
    /// Whether a rule closes the account.
    pub fn is_closed(&self, now: UnixMillis) -> bool {
        self.account.closes > 0 && self.rules.holds(scope::CLOSED, self.name, now)
    }

    /// Whether only allowed users may subscribe.
    pub fn is_restricted(&self, now: UnixMillis) -> bool {
        self.account.allows > 0 && now < self.account.allows_until
    }

    /// Whether a rule blocks `user` on this account.
    pub fn blocks(&self, user: &str, now: UnixMillis) -> bool {
        self.account.blocks > 0 && self.rules.holds(scope::blocked_on(self.account.number), user, now)
    }

    /// Whether a rule pardons `user` on this account.
    pub fn pardons(&self, user: &str, now: UnixMillis) -> bool {
        self.account.pardons > 0 && self.rules.holds(scope::pardoned_on(self.account.number), user, now)
    }

    /// Whether a rule allows `user` on this account.
    pub fn allows(&self, user: &str, now: UnixMillis) -> bool {
        self.account.allows > 0 && self.rules.holds(scope::allowed_on(self.account.number), user, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::decide::rule::RuleKind;
    use crate::decide::rule::Sentence;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    type RuleModel = HashMap<String, (UnixMillis, Option<String>)>;

    /// A sentence, with ends before and after [`NOW`], in seconds, in milliseconds, and beyond what 32 bits of seconds hold.
    fn a_sentence() -> impl Strategy<Value = String> {
        let rule = prop_oneof![
            "block [a-e]",
            "pardon [a-e]",
            "block [a-e] on @[a-c]",
            "pardon [a-e] on @[a-c]",
            "allow [a-e] on @[a-c]",
            "close @[a-c]",
        ];
        let until = prop_oneof![
            Just(""),
            Just(" until 2020-01-01T00:00:00Z"),
            Just(" until 1969-12-31T23:59:59Z"),
            Just(" until 2027-01-15T08:00:00Z"),
            Just(" until 2027-01-15T08:00:00.001Z"),
            Just(" until 2150-01-01T00:00:00Z"),
            Just(" until 9999-12-31T23:59:59Z"),
        ];
        let because = prop_oneof![Just(String::new()), " because [x-z]{1,2}"];
        (rule, until, because).prop_map(|(rule, until, because)| format!("{rule}{until}{because}"))
    }

    /// Compares all that can be asked, each with the answer of a walk over the model.
    fn assert_same(rules: &Rules, model: &RuleModel) {
        assert_eq!(rules.len(), model.len());
        for (sentence, (until, because)) in model {
            let rule = Sentence::parse(sentence).expect("a sentence").rule;
            let found = RuleValue { until: *until, provenance: Provenance::of_reason(because.as_deref()).into_owned() };
            assert_eq!(rules.find(&rule), Some(found), "{sentence}");
        }
        let listed: Vec<_> = rules.iter().map(|(rule, value)| (rule.to_string(), value)).collect();
        assert_eq!(listed.len(), model.len(), "each is listed once");
        for (sentence, value) in &listed {
            let because = value.provenance.because.as_deref().map(str::to_owned);
            assert_eq!(model.get(sentence), Some(&(value.until, because)), "{sentence}");
        }
        let kinds =
            RuleKind::ALL.map(|kind| model.keys().filter(|sentence| sentence.starts_with(kind.as_str())).count());
        assert_eq!(rules.counts(), kinds);
        let holds = |sentence: String| model.get(&sentence).is_some_and(|(until, _)| NOW < *until);
        for user in ["a", "b", "c", "d", "e", "f"] {
            assert_eq!(rules.blocks(user, NOW), holds(format!("block {user}")));
            assert_eq!(rules.pardons(user, NOW), holds(format!("pardon {user}")));
            for account in ["@a", "@b", "@c", "@d"] {
                let on = rules.on(account);
                let is = |ask: fn(&OnAccount<'_>, &str) -> bool| on.as_ref().is_some_and(|on| ask(on, user));
                assert_eq!(is(|on, user| on.blocks(user, NOW)), holds(format!("block {user} on {account}")));
                assert_eq!(is(|on, user| on.pardons(user, NOW)), holds(format!("pardon {user} on {account}")));
                assert_eq!(is(|on, user| on.allows(user, NOW)), holds(format!("allow {user} on {account}")));
            }
        }
        for account in ["@a", "@b", "@c", "@d"] {
            let on = rules.on(account);
            let is_allow = |sentence: &str| sentence.starts_with("allow") && sentence.ends_with(account);
            let restricted = model.iter().any(|(sentence, (until, _))| is_allow(sentence) && NOW < *until);
            assert_eq!(on.as_ref().is_some_and(|on| on.is_restricted(NOW)), restricted, "{account}");
            assert_eq!(on.as_ref().is_some_and(|on| on.is_closed(NOW)), holds(format!("close {account}")));
            let is_named = model.keys().any(|sentence| sentence.ends_with(account));
            assert_eq!(on.is_some(), is_named, "an account without rules is forgotten");
        }
        let reasons: HashMap<_, _> =
            model.values().filter_map(|(_, because)| because.clone()).map(|text| (text, ())).collect();
        assert!(rules.reasons.len() >= reasons.len());
        assert!(!reasons.is_empty() || rules.reasons.is_empty(), "reasons go with the last of their rules");
    }

    proptest! {
        #[test]
        fn rules_are_what_a_naive_list_would_be_through_all_changes(
            start in prop::collection::vec(a_sentence(), 0..30),
            batches in prop::collection::vec(prop::collection::vec((a_sentence(), any::<bool>()), 1..12), 0..12),
        ) {
            let (mut gathered, mut model) = (Gathered::default(), RuleModel::new());
            for text in &start {
                let Sentence { rule, until, because } = Sentence::parse(text).expect("a sentence");
                gathered.put(&rule, until, because);
                let kept = model.entry(rule.to_string()).or_insert((until, because.map(str::to_owned)));
                if until > kept.0 {
                    *kept = (until, because.map(str::to_owned));
                }
            }
            let mut rules = gathered.finish();
            assert_same(&rules, &model);
            for batch in &batches {
                let changes = batch.iter().map(|(text, is_put)| {
                    let Sentence { rule, until, because } = Sentence::parse(text).expect("a sentence");
                    let provenance = Provenance::of_reason(because);
                    if *is_put { Change::Put { rule, until, provenance } } else { Change::Remove(rule) }
                });
                let changes: Vec<Change<'_>> = changes.collect();
                for change in &changes {
                    match change {
                        Change::Put { rule, until, provenance } => {
                            let because = provenance.because.as_deref().map(str::to_owned);
                            model.insert(rule.to_string(), (*until, because));
                        }
                        Change::Remove(rule) => {
                            model.remove(&rule.to_string());
                        }
                    }
                }
                rules = rules.changed(changes);
                assert_same(&rules, &model);
            }
        }
    }
}
