//! What the sets of a source store about a rule, an account and a reason, and its encoding.

use std::cmp::Ordering;

use crate::clock::UnixMillis;
use crate::decide::rule::RuleKind;
use crate::decide::set::Key;
use crate::decide::set::SetValue;
use crate::decide::set::number;

/// The number for "no reason".
pub(super) const NO_REASON: u64 = 0;

/// The entry of a rule: one byte if it has neither an end nor a reason, and four more for most ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeldRule {
    pub(super) until: UnixMillis,
    /// The number of its reason.
    pub(super) reason: u64,
}

impl HeldRule {
    /// Marks a rule that a later record has removed, until the set is built. No sentence and no record has this end.
    pub(super) const REMOVED: Self = Self { until: UnixMillis(i64::MIN), reason: NO_REASON };

    pub(super) fn is_removed(&self) -> bool {
        self.until == Self::REMOVED.until
    }
}

impl Default for HeldRule {
    fn default() -> Self {
        Self { until: UnixMillis::NEVER, reason: NO_REASON }
    }
}

impl SetValue for HeldRule {
    fn push(&self, bytes: &mut Vec<u8>) {
        push_with_end(bytes, self.reason, self.until);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (reason, until) = take_with_end(bytes)?;
        Some(Self { until, reason })
    }
}

/// The entry of an account that has rules.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    /// Its number in scopes.
    pub(super) number: u64,
    /// The number of its rules, by kind.
    pub(super) closes: u64,
    pub(super) blocks: u64,
    pub(super) pardons: u64,
    pub(super) allows: u64,
    /// The latest end of an `allow` rule.
    pub(super) allows_until: UnixMillis,
    /// How many of them have that end. Zero, if there are any, means that the latest end is not known.
    pub(super) allows_latest: u64,
}

impl Account {
    pub(super) const fn new(number: u64) -> Self {
        let allows_until = UnixMillis(i64::MIN);
        Self { number, closes: 0, blocks: 0, pardons: 0, allows: 0, allows_until, allows_latest: 0 }
    }

    /// The key of the account of this name.
    pub(super) const fn key(name: &str) -> Key<'_> {
        Key { scope: 0, id: name }
    }

    pub(super) const fn has_rules(&self) -> bool {
        self.closes > 0 || self.blocks > 0 || self.pardons > 0 || self.allows > 0
    }

    /// Counts a new rule.
    pub(super) fn add(&mut self, kind: RuleKind, until: UnixMillis) {
        *self.count_mut(kind) += 1;
        if kind == RuleKind::Allow {
            self.add_end(until);
        }
    }

    /// Takes the end of an `allow` rule into account.
    pub(super) fn add_end(&mut self, until: UnixMillis) {
        match until.cmp(&self.allows_until) {
            Ordering::Less => {}
            Ordering::Equal => self.allows_latest += 1,
            Ordering::Greater => (self.allows_until, self.allows_latest) = (until, 1),
        }
    }

    /// Counts a removed rule.
    pub(super) fn remove(&mut self, kind: RuleKind, until: UnixMillis) {
        *self.count_mut(kind) -= 1;
        if kind == RuleKind::Allow && until == self.allows_until {
            self.allows_latest -= 1;
        }
    }

    /// Whether the latest end of the `allow` rules is not known.
    pub(super) const fn has_lost_latest(&self) -> bool {
        self.allows > 0 && self.allows_latest == 0
    }

    const fn count_mut(&mut self, kind: RuleKind) -> &mut u64 {
        match kind {
            RuleKind::Block => &mut self.blocks,
            RuleKind::Pardon => &mut self.pardons,
            RuleKind::Allow => &mut self.allows,
            RuleKind::Close => &mut self.closes,
        }
    }
}

impl Default for Account {
    fn default() -> Self {
        Self::new(0)
    }
}

impl SetValue for Account {
    fn push(&self, bytes: &mut Vec<u8>) {
        for count in [self.number, self.closes, self.blocks, self.pardons, self.allows] {
            number::push(bytes, count);
        }
        push_with_end(bytes, self.allows_latest, self.allows_until);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let mut next = || number::take(bytes);
        let [number, closes, blocks, pardons, allows] = [next()?, next()?, next()?, next()?, next()?];
        let (allows_latest, allows_until) = take_with_end(bytes)?;
        Some(Self { number, closes, blocks, pardons, allows, allows_until, allows_latest })
    }
}

/// A reason. Rules with the same reason share it.
#[derive(Debug, Clone, Default)]
pub(super) struct RuleReason {
    /// The number of rules with it.
    pub(super) rules: u64,
    pub(super) text: Box<str>,
}

impl RuleReason {
    /// The key of the reason with this number.
    pub(super) const fn key(number: u64) -> Key<'static> {
        Key { scope: number, id: "" }
    }
}

impl SetValue for RuleReason {
    fn push(&self, bytes: &mut Vec<u8>) {
        number::push(bytes, self.rules);
        number::push(bytes, u64::try_from(self.text.len()).unwrap_or(u64::MAX));
        bytes.extend_from_slice(self.text.as_bytes());
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let rules = number::take(bytes)?;
        let length = usize::try_from(number::take(bytes)?).ok()?;
        let (text, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        Some(Self { rules, text: str::from_utf8(text).ok()?.into() })
    }
}

// The encoding of an end, in the lowest bits of the number before it.
const NEVER: u64 = 0;
const SECONDS: u64 = 1;
const MILLIS: u64 = 2;
const FORM_BITS: u32 = 2;

/// Appends a number and an end: no further bytes if it never ends, four for a whole second before 2106, eight for any other.
fn push_with_end(bytes: &mut Vec<u8>, number: u64, end: UnixMillis) {
    let number = number << FORM_BITS;
    let seconds = if end.0 % 1000 == 0 { u32::try_from(end.0 / 1000).ok() } else { None };
    if end == UnixMillis::NEVER {
        number::push(bytes, number | NEVER);
    } else if let Some(seconds) = seconds {
        number::push(bytes, number | SECONDS);
        bytes.extend_from_slice(&seconds.to_le_bytes());
    } else {
        number::push(bytes, number | MILLIS);
        bytes.extend_from_slice(&end.0.to_le_bytes());
    }
}

fn take_with_end(bytes: &mut &[u8]) -> Option<(u64, UnixMillis)> {
    let number = number::take(bytes)?;
    let end = match number & ((1 << FORM_BITS) - 1) {
        NEVER => UnixMillis::NEVER,
        SECONDS => UnixMillis(i64::from(u32::from_le_bytes(take_array(bytes)?)) * 1000),
        _ => UnixMillis(i64::from_le_bytes(take_array(bytes)?)),
    };
    Some((number >> FORM_BITS, end))
}

fn take_array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (array, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*array)
}
