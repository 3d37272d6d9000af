//! Explains a decision: every rule, in every source, that applies to the user on the account, and which of them decided.

use std::borrow::Cow;
use std::sync::Arc;

use crate::clock::UnixMillis;
use crate::decide::Decision;
use crate::decide::Outcome;
use crate::decide::Policy;
use crate::decide::Question;
use crate::decide::blocklist::Blocklist;
use crate::decide::blocklist::Source;
use crate::decide::decide;
use crate::decide::rule::Rule;
use crate::decide::rule::RuleKind;
use crate::decide::topic::value::RuleValue;

/// The explanation for one user.
#[derive(Debug)]
pub struct Explanation<'a> {
    /// The decision that a callback would get.
    pub decision: Decision,
    /// Every rule about the user, the account or both, by source.
    pub rules: Vec<ExplainedRule<'a>>,
    /// The sources whose `allow` rules do not include the user, if that decided.
    pub left_out_by: Vec<Arc<str>>,
}

/// A rule that is relevant for a decision.
#[derive(Debug)]
pub struct ExplainedRule<'a> {
    /// The rule.
    pub rule: Rule<'a>,
    /// Its source.
    pub source: Arc<str>,
    /// The rule's end and provenance in that source.
    pub value: RuleValue<'static>,
    /// Whether it has expired, so that it has no effect.
    pub is_expired: bool,
    /// Whether it decided.
    pub has_decided: bool,
}

impl Explanation<'_> {
    /// Whether the user is refused.
    pub fn is_refused(&self) -> bool {
        self.decision.outcome != Outcome::Allow
    }
}

/// Explains the decision about `user`, on `account` or, without one, on an account without rules.
pub fn explain<'a>(
    user: &'a str,
    account: Option<&'a str>,
    blocklist: &Blocklist,
    policy: Policy,
    now: UnixMillis,
) -> Explanation<'a> {
    let question = Question { account: account.unwrap_or_default(), users: &[Cow::Borrowed(user)] };
    let decision = decide(&question, blocklist, policy, now);
    let mut rules: Vec<ExplainedRule<'a>> =
        blocklist.sources().iter().flat_map(|source| rules_of(source, user, account, now)).collect();
    let deciding = deciding_rule(&decision, &rules);
    for explained in &mut rules {
        explained.has_decided = !explained.is_expired && deciding == Some(explained.rule.kind());
    }
    let is_left_out = |rule: &str| rule.starts_with("only those allowed on ");
    let left_out_by = decision.rules.iter().filter(|decisive| is_left_out(&decisive.rule));
    let left_out_by = left_out_by.map(|decisive| Arc::clone(&decisive.source)).collect();
    Explanation { decision, rules, left_out_by }
}

/// The kind of the rules that decided. `None` if there is no rule about the user, or the policy decided.
fn deciding_rule(decision: &Decision, rules: &[ExplainedRule<'_>]) -> Option<RuleKind> {
    let holds = |wanted| rules.iter().any(|explained| !explained.is_expired && explained.rule.kind() == wanted);
    if decision.outcome == Outcome::Allow {
        return match (holds(RuleKind::Block), holds(RuleKind::Allow)) {
            // A user who is both blocked and allowed is pardoned.
            (true, _) => Some(RuleKind::Pardon),
            (false, true) => Some(RuleKind::Allow),
            (false, false) => None,
        };
    }
    if holds(RuleKind::Close) {
        return Some(RuleKind::Close);
    }
    (holds(RuleKind::Block) && !holds(RuleKind::Pardon)).then_some(RuleKind::Block)
}

/// The rules of one source about the user, the account or both.
fn rules_of<'a>(
    source: &Source,
    user: &'a str,
    account: Option<&'a str>,
    now: UnixMillis,
) -> impl Iterator<Item = ExplainedRule<'a>> {
    let (user, account) = (Cow::Borrowed(user), account.map(Cow::Borrowed));
    let of_both = account.into_iter().flat_map({
        let user = user.clone();
        move |account: Cow<'a, str>| {
            [
                Rule::Close { account: account.clone() },
                Rule::Pardon { user: user.clone(), account: Some(account.clone()) },
                Rule::Block { user: user.clone(), account: Some(account.clone()) },
                Rule::Allow { user: user.clone(), account },
            ]
        }
    });
    let of_user = [Rule::Pardon { user: user.clone(), account: None }, Rule::Block { user, account: None }];
    of_both.chain(of_user).filter_map(move |rule| {
        let value = source.rules().find(&rule)?;
        let (source, is_expired) = (Arc::clone(source.label()), value.until <= now);
        Some(ExplainedRule { rule, source, value, is_expired, has_decided: false })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    use crate::decide::blocklist::SourceKind;
    use crate::decide::file::parse;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    const PAST: &str = "until 2020-01-01T00:00:00Z";

    fn list_of(texts: &[&str]) -> Blocklist {
        let source = |(nth, text): (i32, &&str)| {
            Source::new(SourceKind::File, &nth.to_string(), Arc::new(parse(text.as_bytes()).expect("good")))
        };
        Blocklist::of((1..).zip(texts).map(source), 7)
    }

    /// Each rule with its source; `*` marks one that decided, `-` one that is expired.
    fn shown(list: &Blocklist, user: &str, account: Option<&str>) -> (bool, Vec<String>, Vec<String>) {
        let explanation = explain(user, account, list, Policy::default(), NOW);
        let mark = |rule: &ExplainedRule<'_>| match (rule.has_decided, rule.is_expired) {
            (true, _) => "*",
            (false, true) => "-",
            (false, false) => "",
        };
        let rules = explanation.rules.iter().map(|rule| format!("{}{} {}", mark(rule), rule.source, rule.rule));
        let left_out_by = explanation.left_out_by.iter().map(ToString::to_string);
        (explanation.is_refused(), rules.collect(), left_out_by.collect())
    }

    #[test]
    fn every_rule_that_bears_on_a_decision_is_named_and_the_decisive_one_marked() {
        let expired = format!("bob {PAST}\nallow dave on @a");
        let list = list_of(&["bob\npardon carol\nclose @b because moved", &expired, "carol\nblock bob on @a"]);
        type Case<'a> = (&'a str, Option<&'a str>, bool, &'a [&'a str], &'a [&'a str]);
        let cases: [Case<'_>; 7] = [
            ("bob", None, true, &["*file:1 block bob", "-file:2 block bob"], &[]),
            ("bob", Some("@a"), true, &["*file:1 block bob", "-file:2 block bob", "*file:3 block bob on @a"], &[]),
            ("carol", None, false, &["*file:1 pardon carol", "file:3 block carol"], &[]),
            ("carol", Some("@a"), true, &["file:1 pardon carol", "file:3 block carol"], &["file:2"]),
            ("carol", Some("@b"), true, &["*file:1 close @b", "file:1 pardon carol", "file:3 block carol"], &[]),
            ("dave", Some("@a"), false, &["*file:2 allow dave on @a"], &[]),
            ("eve", Some("@c"), false, &[], &[]),
        ];
        for (user, account, is_refused, rules, left_out_by) in cases {
            let (refused, found, by) = shown(&list, user, account);
            assert_eq!((refused, found, by), (is_refused, texts(rules), texts(left_out_by)), "{user} on {account:?}");
        }
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_rule_is_explained_with_its_end_and_its_reason() {
        let list = list_of(&["bob until 2999-01-01T00:00:00Z because spam"]);
        let explanation = explain("bob", None, &list, Policy::default(), NOW);
        let value = &explanation.rules[0].value;
        assert_eq!(value.until, UnixMillis(32_472_144_000_000));
        assert_eq!(value.provenance.because.as_deref(), Some("spam"));
    }

    proptest! {
        #[test]
        fn a_refusal_has_a_decisive_rule_or_a_source_that_leaves_the_user_out(
            sources in prop::collection::vec(prop::collection::vec("(block|pardon) [ab]( on @[ab])?|allow [ab] on @[ab]|close @[ab]", 0..5), 0..3),
            on_account in any::<bool>(),
        ) {
            let texts: Vec<String> = sources.iter().map(|lines| lines.join("\n")).collect();
            let list = list_of(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            let explanation = explain("a", on_account.then_some("@a"), &list, Policy::default(), NOW);
            let decisive: Vec<_> = explanation.rules.iter().filter(|rule| rule.has_decided).collect();
            prop_assert!(!explanation.is_refused() || !decisive.is_empty() || !explanation.left_out_by.is_empty());
            // The same rules as the record of the decision names.
            for rule in &explanation.decision.rules {
                let is_there = decisive.iter().any(|it| it.source == rule.source && it.rule.to_string() == *rule.rule);
                prop_assert!(is_there || explanation.left_out_by.contains(&rule.source), "{rule:?}");
            }
        }
    }
}
