//! What the id of a rule stands for, as a number. Small numbers take less space, so rules that hold everywhere have the first.

use crate::decide::rule::Rule;
use crate::decide::rule::RuleKind;
use crate::decide::set::Key;

/// The id is a user, blocked everywhere.
pub(super) const BLOCKED: u64 = 0;
/// The id is a user, pardoned everywhere.
pub(super) const PARDONED: u64 = 1;
/// The id is a closed account.
pub(super) const CLOSED: u64 = 2;
/// The first scope of rules on accounts.
const ON_ACCOUNTS: u64 = 3;
/// The number of scopes for each account.
const EACH: u64 = 3;

/// The id is a user, blocked on the account of this number.
pub(super) const fn blocked_on(account: u64) -> u64 {
    ON_ACCOUNTS + EACH * account
}

/// The id is a user, pardoned on the account of this number.
pub(super) const fn pardoned_on(account: u64) -> u64 {
    blocked_on(account) + 1
}

/// The id is a user, allowed on the account of this number.
pub(super) const fn allowed_on(account: u64) -> u64 {
    blocked_on(account) + 2
}

/// The key of `rule`; `account` is the number of its account.
pub(super) fn key<'r>(rule: &'r Rule<'_>, account: u64) -> Key<'r> {
    let (scope, id) = match rule {
        Rule::Block { user, account: None } => (BLOCKED, user),
        Rule::Block { user, account: Some(_) } => (blocked_on(account), user),
        Rule::Pardon { user, account: None } => (PARDONED, user),
        Rule::Pardon { user, account: Some(_) } => (pardoned_on(account), user),
        Rule::Allow { user, account: _ } => (allowed_on(account), user),
        Rule::Close { account } => (CLOSED, account),
    };
    Key { scope, id }
}

/// The rule of `key`; `account` is the name of the account of its scope.
pub(super) fn rule<'k>(key: Key<'k>, account: Option<&'k str>) -> Option<Rule<'k>> {
    let id = key.id.into();
    Some(match (kind_of(key.scope), account_of(key.scope).is_some()) {
        (RuleKind::Block, false) => Rule::Block { user: id, account: None },
        (RuleKind::Block, true) => Rule::Block { user: id, account: Some(account?.into()) },
        (RuleKind::Pardon, false) => Rule::Pardon { user: id, account: None },
        (RuleKind::Pardon, true) => Rule::Pardon { user: id, account: Some(account?.into()) },
        (RuleKind::Allow, _) => Rule::Allow { user: id, account: account?.into() },
        (RuleKind::Close, _) => Rule::Close { account: id },
    })
}

/// The number of the account of `scope`, if it is a scope on an account.
pub(super) const fn account_of(scope: u64) -> Option<u64> {
    match scope.checked_sub(ON_ACCOUNTS) {
        Some(on_accounts) => Some(on_accounts / EACH),
        None => None,
    }
}

/// The kind of the rules in `scope`.
pub(super) const fn kind_of(scope: u64) -> RuleKind {
    match scope {
        BLOCKED => RuleKind::Block,
        PARDONED => RuleKind::Pardon,
        CLOSED => RuleKind::Close,
        _ => match (scope - ON_ACCOUNTS) % EACH {
            0 => RuleKind::Block,
            1 => RuleKind::Pardon,
            _ => RuleKind::Allow,
        },
    }
}
