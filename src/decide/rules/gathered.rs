//! Rules that become one version at once: those of a file, or of a topic that is read from its start.

use std::collections::HashMap;

use crate::clock::UnixMillis;
use crate::decide::rule::Rule;
use crate::decide::rule::RuleKind;
use crate::decide::rules::Numbers;
use crate::decide::rules::Rules;
use crate::decide::rules::held::Account;
use crate::decide::rules::held::HeldRule;
use crate::decide::rules::held::NO_REASON;
use crate::decide::rules::held::RuleReason;
use crate::decide::rules::note;
use crate::decide::rules::scope;
use crate::decide::set::Gathering;
use crate::decide::topic::value::Provenance;
use crate::decide::topic::value::RuleValue;

/// The most different reasons that are shared. Further ones may be stored more than once.
const REASONS_SHARED_MAX: usize = 65_536;

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Gathered {
    rules: Gathering<HeldRule>,
    /// The numbers of the accounts.
    accounts: HashMap<Box<str>, u64>,
    /// All reasons, ordered by number.
    reasons: Vec<RuleReason>,
    /// The numbers of the shared ones.
    shared: HashMap<Box<str>, u64>,
    order: GatherOrder,
    /// The last provenance, with its number: all rules of an import have the same.
    last: Option<(Provenance<'static>, u64)>,
}

/// Which of two entries for the same rule counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum GatherOrder {
    /// The one with the later end, as in a file.
    #[default]
    LaterEnd,
    /// The later one, as in a log.
    LaterRecord,
}

impl Gathered {
    /// For the records of a log: the later record of a rule counts.
    pub fn of_log() -> Self {
        Self { order: GatherOrder::LaterRecord, ..Self::default() }
    }

    /// Adds the record of a rule.
    pub fn put_record(&mut self, rule: &Rule<'_>, value: &RuleValue<'_>) {
        let reason = match &self.last {
            Some((provenance, number)) if *provenance == value.provenance => *number,
            Some(_) | None => {
                let number = note::text(&value.provenance).map_or(NO_REASON, |text| self.reason(&text));
                self.last = Some((value.provenance.clone().into_owned(), number));
                number
            }
        };
        let account = rule.account().map_or(0, |account| self.account(account));
        self.rules.put(scope::key(rule, account), &HeldRule { until: value.until, reason });
    }

    /// Adds the record that removes a rule.
    pub fn remove_record(&mut self, rule: &Rule<'_>) {
        let account = rule.account().map_or(0, |account| self.account(account));
        self.rules.put(scope::key(rule, account), &HeldRule::REMOVED);
    }

    /// Adds a rule that holds before `until`. Of two ends for the same rule the later counts.
    pub fn put(&mut self, rule: &Rule<'_>, until: UnixMillis, because: Option<&str>) {
        let reason = because.map_or(NO_REASON, |because| self.reason(because));
        let account = rule.account().map_or(0, |account| self.account(account));
        self.rules.put(scope::key(rule, account), &HeldRule { until, reason });
    }

    /// Builds the version.
    pub fn finish(self) -> Rules {
        let Self { rules, accounts, mut reasons, order, .. } = self;
        let mut counts = [0; 4];
        let mut counted: Vec<Account> = (0..number_of(accounts.len())).map(Account::new).collect();
        let rules = rules.build(
            |old, new| order == GatherOrder::LaterRecord || new.until > old.until,
            |entry| {
                if entry.value.is_removed() {
                    return false;
                }
                let kind = scope::kind_of(entry.scope);
                count_of(&mut counts, kind).into_iter().for_each(|count| *count += 1);
                let reason = entry.value.reason.checked_sub(FIRST_REASON);
                if let Some(reason) = reason.and_then(|place| reasons.get_mut(place_of(place))) {
                    reason.rules += 1;
                }
                let account = match entry.scope {
                    scope::CLOSED => str::from_utf8(entry.id).ok().and_then(|name| accounts.get(name).copied()),
                    scope => scope::account_of(scope),
                };
                if let Some(account) = account.and_then(|number| counted.get_mut(place_of(number))) {
                    account.add(kind, entry.value.until);
                }
                true
            },
        );
        let unused = Numbers { account: number_of(accounts.len()), reason: FIRST_REASON + number_of(reasons.len()) };
        let mut by_name = Gathering::default();
        for (name, number) in &accounts {
            let account = counted.get(place_of(*number)).filter(|account| account.has_rules());
            account.into_iter().for_each(|account| by_name.put(Account::key(name), account));
        }
        let mut by_number = Gathering::default();
        for (number, reason) in (FIRST_REASON..).zip(&reasons).filter(|(_, reason)| reason.rules > 0) {
            by_number.put(RuleReason::key(number), reason);
        }
        Rules {
            rules,
            accounts: by_name.build(|_old, _new| true, |_entry| true),
            reasons: by_number.build(|_old, _new| true, |_entry| true),
            unused,
            counts,
        }
    }

    /// The number of an account.
    fn account(&mut self, name: &str) -> u64 {
        if let Some(number) = self.accounts.get(name) {
            return *number;
        }
        let number = number_of(self.accounts.len());
        self.accounts.insert(name.into(), number);
        number
    }

    /// The number of a reason.
    fn reason(&mut self, text: &str) -> u64 {
        if let Some(number) = self.shared.get(text) {
            return *number;
        }
        if self.shared.len() >= REASONS_SHARED_MAX {
            self.shared.clear();
        }
        let number = FIRST_REASON + number_of(self.reasons.len());
        self.reasons.push(RuleReason { rules: 0, text: text.into() });
        self.shared.insert(text.into(), number);
        number
    }
}

/// The index of `kind` in counts.
pub(super) fn count_of(counts: &mut [usize; 4], kind: RuleKind) -> Option<&mut usize> {
    let place = RuleKind::ALL.iter().position(|other| *other == kind)?;
    counts.get_mut(place)
}

const FIRST_REASON: u64 = NO_REASON + 1;

fn number_of(place: usize) -> u64 {
    u64::try_from(place).unwrap_or(u64::MAX)
}

fn place_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
