//! A batch of changes that makes the next version.
//!
//! Changes are collected in maps, and applied to the sets at once.

use std::collections::HashMap;

use crate::clock::UnixMillis;
use crate::decide::rule::Rule;
use crate::decide::rules::Numbers;
use crate::decide::rules::Rules;
use crate::decide::rules::gathered::count_of;
use crate::decide::rules::held::Account;
use crate::decide::rules::held::HeldRule;
use crate::decide::rules::held::NO_REASON;
use crate::decide::rules::held::RuleReason;
use crate::decide::rules::note;
use crate::decide::rules::scope;
use crate::decide::set::Key;
use crate::decide::set::Set;
use crate::decide::topic::value::Provenance;

pub(super) struct Edit<'r> {
    base: &'r Rules,
    /// By scope and id; `None` if the rule is removed.
    rules: HashMap<(u64, Box<str>), Option<HeldRule>>,
    accounts: HashMap<Box<str>, Account>,
    reasons: HashMap<u64, RuleReason>,
    /// The numbers of the reasons that are new in this batch.
    new_reasons: HashMap<Box<str>, u64>,
    unused: Numbers,
    counts: [usize; 4],
}

impl<'r> Edit<'r> {
    pub(super) fn of(base: &'r Rules) -> Self {
        let (rules, accounts, reasons, new_reasons) = Default::default();
        Self { base, rules, accounts, reasons, new_reasons, unused: base.unused, counts: base.counts }
    }

    pub(super) fn put(&mut self, rule: &Rule<'_>, until: UnixMillis, provenance: &Provenance<'_>) {
        let reason = note::text(provenance).map_or(NO_REASON, |text| self.use_reason(&text));
        let account = rule.account().map_or(0, |name| self.account_or_new(name));
        self.replace(rule, account, Some(HeldRule { until, reason }));
    }

    pub(super) fn remove(&mut self, rule: &Rule<'_>) {
        let account = match rule.account() {
            None => Some(0),
            Some(name) => self.account(name).map(|account| account.number),
        };
        if let Some(account) = account {
            self.replace(rule, account, None);
        }
    }

    pub(super) fn finish(mut self) -> Rules {
        let base = self.base;
        let rules = self.rules.iter().map(|((scope, id), held)| (Key { scope: *scope, id }, *held));
        let rules = base.rules.changed(rules);
        self.find_latest_ends(&rules);
        let accounts = self.accounts.iter();
        let accounts = accounts.map(|(name, account)| (Account::key(name), account.has_rules().then_some(*account)));
        let reasons = self.reasons.into_iter();
        let reasons = reasons.map(|(number, reason)| (RuleReason::key(number), (reason.rules > 0).then_some(reason)));
        Rules {
            rules,
            accounts: base.accounts.changed(accounts),
            reasons: base.reasons.changed(reasons),
            unused: self.unused,
            counts: self.counts,
        }
    }

    /// Puts `held` in the place of what is held of a rule, where `account` is the number of the account that it names.
    fn replace(&mut self, rule: &Rule<'_>, account: u64, held: Option<HeldRule>) {
        let key = scope::key(rule, account);
        let base = self.base;
        let place = self.rules.entry((key.scope, key.id.into())).or_insert_with(|| base.rules.get(key));
        let old = std::mem::replace(place, held);
        let kind = scope::kind_of(key.scope);
        if let Some(count) = count_of(&mut self.counts, kind) {
            *count = *count + usize::from(held.is_some()) - usize::from(old.is_some());
        }
        if let Some(account) = rule.account().and_then(|name| self.account(name)) {
            held.into_iter().for_each(|held| account.add(kind, held.until));
            old.into_iter().for_each(|old| account.remove(kind, old.until));
        }
        if let Some(reason) = old.and_then(|old| self.reason(old.reason)) {
            reason.rules -= 1;
        }
    }

    /// The account of this name, if it has or had rules.
    fn account(&mut self, name: &str) -> Option<&mut Account> {
        if !self.accounts.contains_key(name) {
            let account = self.base.accounts.get(Account::key(name))?;
            self.accounts.insert(name.into(), account);
        }
        self.accounts.get_mut(name)
    }

    /// The number of an account, which may be new.
    fn account_or_new(&mut self, name: &str) -> u64 {
        if let Some(account) = self.account(name) {
            return account.number;
        }
        let number = self.unused.account;
        self.unused.account += 1;
        self.accounts.insert(name.into(), Account::new(number));
        number
    }

    fn reason(&mut self, number: u64) -> Option<&mut RuleReason> {
        if !self.reasons.contains_key(&number) {
            let reason = self.base.reasons.get(RuleReason::key(number))?;
            self.reasons.insert(number, reason);
        }
        self.reasons.get_mut(&number)
    }

    /// The number of a reason that one more rule has.
    fn use_reason(&mut self, text: &str) -> u64 {
        let next = &mut self.unused.reason;
        let number = *self.new_reasons.entry(text.into()).or_insert_with(|| {
            *next += 1;
            *next - 1
        });
        let reason = self.reasons.entry(number).or_insert_with(|| RuleReason { rules: 0, text: text.into() });
        reason.rules += 1;
        number
    }

    /// If the last `allow` with the latest end of an account was removed, and the account has others, finds the latest end among all rules.
    fn find_latest_ends(&mut self, rules: &Set<HeldRule>) {
        let lost = self.accounts.values_mut().filter(|account| account.has_lost_latest());
        let mut lost: HashMap<u64, &mut Account> =
            lost.map(|account| (scope::allowed_on(account.number), account)).collect();
        if lost.is_empty() {
            return;
        }
        lost.values_mut().for_each(|account| account.allows_until = UnixMillis(i64::MIN));
        for (key, held) in rules.iter() {
            lost.get_mut(&key.scope).into_iter().for_each(|account| account.add_end(held.until));
        }
    }
}
