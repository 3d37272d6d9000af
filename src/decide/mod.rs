//! The decision on a before-callback: which users may subscribe to an Official Account, join a group, or write to a group or user.
//!
//! Pure: the list, the policy and the time are arguments. In order of precedence: a closed account refuses the whole request; a pardon
//! overrides every block of the user; a block refuses the user; an account with allow rules refuses everybody else.

pub mod mistake;

pub mod time;

pub mod rule;

mod set;

pub mod rules;

pub mod blocklist;

pub mod file;

pub mod explain;

pub mod topic;

pub mod fold;

pub mod answer;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use serde::Deserialize;

use crate::clock::UnixMillis;
use crate::decide::blocklist::Blocklist;
use crate::decide::blocklist::Source;
use crate::decide::blocklist::SourceKind;
use crate::decide::rule::Rule;
use crate::decide::rule::Written;

/// The operator's choices where the rules leave one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// The response if the rules refuse every user of the request.
    pub all_refused: AllRefused,
    /// The response while no list is loaded.
    pub before_loaded: BeforeLoaded,
    /// Whether decisions are enforced; if not, they are made and published, but everyone is allowed.
    pub dry_run: bool,
}

/// The response if the rules refuse every user of a request, on an account that is not closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AllRefused {
    /// List all of them, with `ErrorCode` 0.
    #[default]
    List,
    /// Refuse the request, with `ErrorCode` 1.
    Reject,
}

/// The response before a list is loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BeforeLoaded {
    /// Allow everyone.
    #[default]
    Allow,
    /// Refuse the request, with `ErrorCode` 1.
    Refuse,
}

/// A request to decide: may these users act on this account (subscribe to it, join the group, write to it)?
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The account, as sent: an Official Account, a group or a user.
    pub account: &'a str,
    /// The users, as sent: in order, and possibly with duplicates.
    pub users: &'a [Cow<'a, str>],
}

/// The decision on a request, with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// How many of the users are refused.
    pub outcome: Outcome,
    /// The refused users, in order, without duplicates. Never an id that is not in the request. For a friend request, the accounts that
    /// must not become friends.
    pub refused: Vec<Box<str>>,
    /// The rules that refused them, each once for each source that has it.
    pub rules: Vec<DecisiveRule>,
    /// The generation of the blocklist; 0 if none was used.
    pub generation: u64,
    /// The reason for refusing the whole request, if it is. Otherwise the response lists `refused`.
    pub rejection: Option<Rejection>,
    /// Whether the response enforces it. In a dry run everyone is allowed.
    pub enforced: bool,
}

/// A rule that has refused a user, and its source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DecisiveRule {
    /// The canonical sentence of a `block` or `close` rule; `only those allowed on ACCOUNT` if the user is not included in the `allow`
    /// rules of an account; `no blocklist loaded`.
    pub rule: Box<str>,
    /// The [label](blocklist::Source::label) of the source. Empty if none was loaded, and in captures of older versions.
    pub source: Arc<str>,
}

impl DecisiveRule {
    /// The same rule for each of `sources`.
    fn of_each<'s>(rule: &str, sources: impl Iterator<Item = &'s Source>) -> impl Iterator<Item = Self> {
        sources.map(move |source| Self { rule: rule.into(), source: Arc::clone(source.label()) })
    }
}

impl Decision {
    /// Everyone is allowed, without using a list.
    pub const fn unjudged() -> Self {
        Self {
            outcome: Outcome::Allow,
            refused: Vec::new(),
            rules: Vec::new(),
            generation: 0,
            rejection: None,
            enforced: true,
        }
    }

    /// The kind of source whose rules refused somebody.
    pub fn refuser(&self) -> Refuser {
        let from = |kind: SourceKind| {
            let is_of = |source: &str| source.split_once(':').is_some_and(|(word, _)| word == kind.as_str());
            self.rules.iter().any(|decisive| is_of(&decisive.source))
        };
        match (from(SourceKind::File), from(SourceKind::Topic)) {
            (false, false) if self.rules.is_empty() => Refuser::Nobody,
            (false, false) => Refuser::Policy,
            (true, false) => Refuser::File,
            (false, true) => Refuser::Topic,
            (true, true) => Refuser::Both,
        }
    }
}

/// What refused users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refuser {
    /// Nothing: nobody is refused.
    Nobody,
    /// Rules of files.
    File,
    /// Rules of the topic.
    Topic,
    /// Rules of files and of the topic.
    Both,
    /// The policy, before a list was loaded.
    Policy,
}

impl Refuser {
    /// The word in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "none",
            Self::File => SourceKind::File.as_str(),
            Self::Topic => SourceKind::Topic.as_str(),
            Self::Both => "both",
            Self::Policy => "policy",
        }
    }
}

/// How many of the users are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// None.
    Allow,
    /// Some, but not all.
    Partial,
    /// All.
    Refuse,
}

impl Outcome {
    /// The outcome with this word.
    pub fn find(word: &str) -> Option<Self> {
        [Self::Allow, Self::Partial, Self::Refuse].into_iter().find(|outcome| outcome.as_str() == word)
    }

    /// The word in envelopes and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Partial => "partial",
            Self::Refuse => "refuse",
        }
    }
}

/// The reason for refusing a whole request, with `ErrorCode` 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// A rule closes the account.
    AccountClosed,
    /// Rules refuse every user, and the policy turns that into a refusal of the request.
    AllRefused,
    /// No list is loaded, and the policy is to refuse then.
    NotLoaded,
}

/// Decides `question` by `blocklist`, at the time `now`. Allocates very little unless somebody is refused.
pub fn decide(question: &Question<'_>, blocklist: &Blocklist, policy: Policy, now: UnixMillis) -> Decision {
    let decision = match policy.before_loaded {
        BeforeLoaded::Refuse if !blocklist.is_loaded() => {
            let rule = DecisiveRule { rule: "no blocklist loaded".into(), source: "".into() };
            reject(question, Rejection::NotLoaded, vec![rule], blocklist.generation())
        }
        BeforeLoaded::Refuse | BeforeLoaded::Allow => judge(question, blocklist, policy, now),
    };
    Decision { enforced: !policy.dry_run, ..decision }
}

/// Decides a request of `users` together about each of `accounts`: an account is refused if a rule refuses one of the users. `refused` then
/// has accounts, and the request as a whole is never refused.
pub fn decide_each(
    accounts: &[Cow<'_, str>],
    users: &[Cow<'_, str>],
    blocklist: &Blocklist,
    policy: Policy,
    now: UnixMillis,
) -> Decision {
    let (generation, enforced) = (blocklist.generation(), !policy.dry_run);
    let mut all = Decision { generation, enforced, ..Decision::unjudged() };
    let (mut refused, mut rules) = (HashSet::new(), HashSet::new());
    let mut anyone_accepted = false;
    for account in accounts {
        let one = decide(&Question { account, users }, blocklist, policy, now);
        if one.outcome == Outcome::Allow {
            anyone_accepted = true;
        } else if refused.insert(&**account) {
            all.refused.push(Box::from(&**account));
            all.rules.extend(one.rules.into_iter().filter(|rule| rules.insert(rule.clone())));
        }
    }
    all.outcome = outcome(all.refused.is_empty(), anyone_accepted);
    all
}

const fn outcome(nobody_is_refused: bool, anyone_accepted: bool) -> Outcome {
    match (nobody_is_refused, anyone_accepted) {
        (true, _) => Outcome::Allow,
        (false, true) => Outcome::Partial,
        (false, false) => Outcome::Refuse,
    }
}

/// Refuses every user.
fn reject(question: &Question<'_>, rejection: Rejection, rules: Vec<DecisiveRule>, generation: u64) -> Decision {
    let mut seen = HashSet::new();
    let asked = question.users.iter().filter(|user| seen.insert(&***user));
    Decision {
        outcome: Outcome::Refuse,
        refused: asked.map(|user| Box::from(&**user)).collect(),
        rules,
        generation,
        rejection: Some(rejection),
        enforced: true,
    }
}

/// Decides about the account, and then about each user.
fn judge(question: &Question<'_>, blocklist: &Blocklist, policy: Policy, now: UnixMillis) -> Decision {
    let account = question.account;
    let generation = blocklist.generation();
    let on_account = blocklist.on(account);
    if on_account.is_closed(now) {
        let rule = Rule::Close { account: account.into() }.to_string();
        let rules = DecisiveRule::of_each(&rule, on_account.closing(now)).collect();
        return reject(question, Rejection::AccountClosed, rules, generation);
    }
    let is_restricted = on_account.is_restricted(now);
    let mut seen = HashSet::new();
    let mut refused = Vec::new();
    let mut rules = Vec::new();
    let mut anyone_accepted = false;
    let mut anyone_left_out = false;
    for user in question.users {
        let user = &**user;
        let mut is_blocked = blocklist.blocks(user, now);
        let mut is_blocked_here = on_account.block(user, now);
        // Few users are blocked, so pardons are looked up last.
        if (is_blocked || is_blocked_here) && (blocklist.pardons(user, now) || on_account.pardon(user, now)) {
            (is_blocked, is_blocked_here) = (false, false);
        }
        let is_left_out = is_restricted && !on_account.allow(user, now);
        if !(is_blocked || is_blocked_here || is_left_out) {
            anyone_accepted = true;
            continue;
        }
        // After the decision, so that allowed users need no entry in the set.
        if !seen.insert(user) {
            continue;
        }
        refused.push(Box::from(user));
        if is_blocked {
            let rule = Rule::Block { user: user.into(), account: None }.to_string();
            rules.extend(DecisiveRule::of_each(&rule, blocklist.blocking(user, now)));
        }
        if is_blocked_here {
            let rule = Rule::Block { user: user.into(), account: Some(account.into()) }.to_string();
            rules.extend(DecisiveRule::of_each(&rule, on_account.blocking(user, now)));
        }
        anyone_left_out |= !is_blocked && !is_blocked_here;
    }
    if anyone_left_out {
        let rule = format!("only those allowed on {}", Written(account));
        rules.extend(DecisiveRule::of_each(&rule, on_account.restricting(now)));
    }
    let outcome = outcome(refused.is_empty(), anyone_accepted);
    let rejection = match (outcome, policy.all_refused) {
        (Outcome::Refuse, AllRefused::Reject) => Some(Rejection::AllRefused),
        (Outcome::Refuse, AllRefused::List) | (Outcome::Allow | Outcome::Partial, _) => None,
    };
    Decision { outcome, refused, rules, generation, rejection, enforced: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::file::parse;
    use proptest::prelude::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    const LIST: Policy = Policy { all_refused: AllRefused::List, before_loaded: BeforeLoaded::Allow, dry_run: false };
    const REJECT: Policy =
        Policy { all_refused: AllRefused::Reject, before_loaded: BeforeLoaded::Refuse, dry_run: false };

    fn list_of(texts: &[&str]) -> Blocklist {
        let sources = (1..).zip(texts).map(|(nth, text)| {
            Source::new(SourceKind::File, &nth.to_string(), Arc::new(parse(text.as_bytes()).expect("good")))
        });
        Blocklist::of(sources, 7)
    }

    fn ask(account: &str, users: &[&str], blocklist: &Blocklist, policy: Policy) -> Decision {
        let users: Vec<Cow<'_, str>> = users.iter().map(|user| Cow::Borrowed(*user)).collect();
        decide(&Question { account, users: &users }, blocklist, policy, NOW)
    }

    fn texts(boxes: &[Box<str>]) -> Vec<&str> {
        boxes.iter().map(|text| &**text).collect()
    }

    fn sentences_of(decision: &Decision) -> Vec<&str> {
        decision.rules.iter().map(|decisive| &*decisive.rule).collect()
    }

    /// What alice, bob and alice again are told on account `@a`.
    struct Case {
        rules: &'static str,
        refused: &'static [&'static str],
        sentences: &'static [&'static str],
    }

    #[test]
    fn the_precedence_of_rules() {
        let cases = [
            Case { rules: "", refused: &[], sentences: &[] },
            Case { rules: "carol\nblock alice on @b\nclose @b\nallow carol on @b", refused: &[], sentences: &[] },
            Case { rules: "bob", refused: &["bob"], sentences: &["block bob"] },
            Case { rules: "block bob on @a", refused: &["bob"], sentences: &["block bob on @a"] },
            Case { rules: "block bob on @a\nbob", refused: &["bob"], sentences: &["block bob", "block bob on @a"] },
            Case { rules: "bob\nalice", refused: &["alice", "bob"], sentences: &["block alice", "block bob"] },
            Case { rules: "allow alice on @a", refused: &["bob"], sentences: &["only those allowed on @a"] },
            Case { rules: "allow carol on @a", refused: &["alice", "bob"], sentences: &["only those allowed on @a"] },
            Case { rules: "allow bob on @a\nbob\nallow alice on @a", refused: &["bob"], sentences: &["block bob"] },
            Case {
                rules: "allow carol on @a\nbob",
                refused: &["alice", "bob"],
                sentences: &["block bob", "only those allowed on @a"],
            },
            Case { rules: "close @a\nallow alice on @a\nbob", refused: &["alice", "bob"], sentences: &["close @a"] },
            Case {
                rules: "bob until 2020-01-01T00:00:00Z\nclose @a until 2020-01-01T00:00:00Z",
                refused: &[],
                sentences: &[],
            },
            Case { rules: "allow carol on @a until 2020-01-01T00:00:00Z", refused: &[], sentences: &[] },
            Case {
                rules: "allow alice on @a until 2020-01-01T00:00:00Z\nallow bob on @a",
                refused: &["alice"],
                sentences: &["only those allowed on @a"],
            },
            Case {
                rules: "bob until 2999-01-01T00:00:00Z\nbob until 2020-01-01T00:00:00Z",
                refused: &["bob"],
                sentences: &["block bob"],
            },
            Case { rules: "bob\nbob until 2020-01-01T00:00:00Z", refused: &["bob"], sentences: &["block bob"] },
            Case {
                rules: "close @a until 2020-01-01T00:00:00Z\nclose @a until 2999-01-01T00:00:00Z",
                refused: &["alice", "bob"],
                sentences: &["close @a"],
            },
        ];
        assert_cases(&cases);
    }

    #[test]
    fn a_pardon_undoes_blocks_and_nothing_else() {
        assert_cases(&[
            Case { rules: "bob\npardon bob", refused: &[], sentences: &[] },
            Case { rules: "pardon bob on @a\nbob\nblock bob on @a", refused: &[], sentences: &[] },
            Case { rules: "block bob on @a\npardon bob", refused: &[], sentences: &[] },
            Case { rules: "bob\npardon bob on @b\npardon alice", refused: &["bob"], sentences: &["block bob"] },
            Case { rules: "bob\npardon bob until 2020-01-01T00:00:00Z", refused: &["bob"], sentences: &["block bob"] },
            Case {
                rules: "pardon bob\nbob\nallow alice on @a",
                refused: &["bob"],
                sentences: &["only those allowed on @a"],
            },
            Case {
                rules: "pardon bob\nbob\nallow bob on @a",
                refused: &["alice"],
                sentences: &["only those allowed on @a"],
            },
            Case {
                rules: "close @a\npardon alice\npardon bob on @a",
                refused: &["alice", "bob"],
                sentences: &["close @a"],
            },
        ]);
    }

    fn assert_cases(cases: &[Case]) {
        for Case { rules, refused, sentences } in cases {
            let decision = ask("@a", &["alice", "bob", "alice"], &list_of(&[rules]), LIST);
            assert_eq!(texts(&decision.refused), *refused, "{rules}");
            assert_eq!(sentences_of(&decision), *sentences, "{rules}");
            let outcome = match refused.len() {
                0 => Outcome::Allow,
                1 => Outcome::Partial,
                _ => Outcome::Refuse,
            };
            assert_eq!(decision.outcome, outcome, "{rules}");
            assert_eq!(decision.rejection.is_some(), rules.starts_with("close @a") && outcome == Outcome::Refuse);
            assert_eq!(decision.generation, 7);
        }
    }

    #[test]
    fn of_several_accounts_those_are_refused_on_which_one_of_the_users_is() {
        let list = list_of(&["block eve on @a\nclose @b\nallow carol on @c"]);
        let accounts = ["@d".into(), "@a".into(), "@b".into(), "@c".into(), "@a".into()];
        let each = |users: &[&'static str], policy| {
            let users: Vec<Cow<'_, str>> = users.iter().map(|user| Cow::Borrowed(*user)).collect();
            decide_each(&accounts, &users, &list, policy, NOW)
        };
        let decision = each(&["dave", "eve"], REJECT);
        assert_eq!((decision.outcome, decision.rejection, decision.generation), (Outcome::Partial, None, 7));
        assert_eq!(texts(&decision.refused), ["@a", "@b", "@c"]);
        assert_eq!(sentences_of(&decision), ["block eve on @a", "close @b", "only those allowed on @c"]);
        assert_eq!(texts(&each(&["carol"], LIST).refused), ["@b"]);
        assert_eq!(decide_each(&[], &["eve".into()], &list_of(&["eve"]), REJECT, NOW).outcome, Outcome::Allow);
        let all = decide_each(&accounts, &["eve".into()], &list_of(&["eve"]), LIST, NOW);
        assert_eq!((all.outcome, sentences_of(&all).as_slice()), (Outcome::Refuse, &["block eve"][..]));
    }

    #[test]
    fn a_rule_holds_before_its_end_and_not_at_it() {
        let list = list_of(&["bob until 2027-01-15T08:00:00Z\ncarol until 2027-01-15T08:00:00.001Z"]);
        assert_eq!(texts(&ask("@a", &["bob", "carol"], &list, LIST).refused), ["carol"]);
    }

    #[test]
    fn the_rules_of_all_sources_hold_together() {
        let list = list_of(&["bob until 2020-01-01T00:00:00Z\nallow bob on @a", "bob\nallow alice on @a"]);
        let decision = ask("@a", &["alice", "bob", "carol"], &list, LIST);
        assert_eq!(texts(&decision.refused), ["bob", "carol"]);
        let restricted = "only those allowed on @a";
        assert_eq!(sentences_of(&decision), ["block bob", restricted, restricted]);
        assert_eq!(list.rule_count(), 4);
    }

    #[test]
    fn a_decision_names_every_source_of_each_rule_that_refused() {
        let list =
            list_of(&["bob\nclose @b\nallow alice on @c", "bob\nblock bob on @a", "bob until 2020-01-01T00:00:00Z"]);
        let rules = |account, user| {
            let decision = ask(account, &[user], &list, LIST);
            decision.rules.iter().map(|decisive| format!("{} {}", decisive.source, decisive.rule)).collect::<Vec<_>>()
        };
        assert_eq!(rules("@a", "bob"), ["file:1 block bob", "file:2 block bob", "file:2 block bob on @a"]);
        assert_eq!(rules("@b", "eve"), ["file:1 close @b"]);
        assert_eq!(rules("@c", "eve"), ["file:1 only those allowed on @c"]);
    }

    #[test]
    fn the_refuser_is_the_kind_of_the_sources_that_refused() {
        let source = |kind, text: &str| Source::new(kind, "x", Arc::new(parse(text.as_bytes()).expect("good")));
        let list = Blocklist::of([source(SourceKind::File, "bob\ncarol"), source(SourceKind::Topic, "carol\ndave")], 1);
        for (users, refuser) in [
            (&["alice"][..], Refuser::Nobody),
            (&["bob"], Refuser::File),
            (&["dave", "alice"], Refuser::Topic),
            (&["carol"], Refuser::Both),
            (&["bob", "dave"], Refuser::Both),
        ] {
            assert_eq!(ask("@a", users, &list, LIST).refuser(), refuser, "{users:?}");
        }
        assert_eq!(ask("@a", &["bob"], &Blocklist::unloaded(), REJECT).refuser(), Refuser::Policy);
    }

    #[test]
    fn a_pardon_of_one_source_undoes_the_block_of_another() {
        let list = list_of(&["bob\nblock carol on @a", "pardon bob on @a\npardon carol"]);
        assert_eq!(ask("@a", &["bob", "carol"], &list, LIST).outcome, Outcome::Allow);
        assert_eq!(texts(&ask("@b", &["bob", "carol"], &list, LIST).refused), ["bob"]);
    }

    #[test]
    fn all_refused_by_user_rules_are_listed_or_rejected_as_the_policy_says() {
        let list = list_of(&["bob"]);
        let listed = ask("@a", &["bob"], &list, LIST);
        let rejected = ask("@a", &["bob"], &list, REJECT);
        assert_eq!((listed.outcome, listed.rejection), (Outcome::Refuse, None));
        assert_eq!((rejected.outcome, rejected.rejection), (Outcome::Refuse, Some(Rejection::AllRefused)));
        assert_eq!(texts(&rejected.refused), ["bob"]);
        assert_eq!(ask("@a", &["bob", "eve"], &list, REJECT).rejection, None);
    }

    #[test]
    fn a_closed_account_refuses_the_request_whatever_the_policy() {
        for policy in [LIST, REJECT] {
            let decision = ask("@a", &["bob", "eve", "bob"], &list_of(&["close @a"]), policy);
            assert_eq!((decision.outcome, decision.rejection), (Outcome::Refuse, Some(Rejection::AccountClosed)));
            assert_eq!(texts(&decision.refused), ["bob", "eve"]);
        }
    }

    #[test]
    fn nobody_who_asks_is_allowed_unless_the_account_is_closed() {
        let list = list_of(&["allow bob on @a\nclose @b"]);
        assert_eq!(ask("@a", &[], &list, REJECT).outcome, Outcome::Allow);
        assert_eq!(ask("@b", &[], &list, REJECT).rejection, Some(Rejection::AccountClosed));
    }

    #[test]
    fn before_a_list_is_loaded_the_policy_decides() {
        let allowed = ask("@a", &["bob"], &Blocklist::unloaded(), LIST);
        assert_eq!((allowed.outcome, allowed.generation), (Outcome::Allow, 0));
        let refused = ask("@a", &["bob", "bob"], &Blocklist::unloaded(), REJECT);
        assert_eq!((refused.outcome, refused.rejection), (Outcome::Refuse, Some(Rejection::NotLoaded)));
        assert_eq!(texts(&refused.refused), ["bob"]);
        assert_eq!(sentences_of(&refused), ["no blocklist loaded"]);
    }

    #[test]
    fn ids_that_need_it_are_json_strings_in_the_rules() {
        let list = list_of(&[r#"block "on" on "a b""#, r#"allow "x" on "a b""#]);
        let decision = ask("a b", &["on", "eve"], &list, LIST);
        assert_eq!(sentences_of(&decision), [r#"block "on" on "a b""#, r#"only those allowed on "a b""#]);
    }

    #[test]
    fn letting_everyone_through_makes_no_lists() {
        let decision = ask("@a", &["alice", "carol"], &list_of(&["bob\nallow alice on @a\nallow carol on @a"]), LIST);
        assert_eq!((decision.refused.capacity(), decision.rules.capacity()), (0, 0));
    }

    /// What the sentences of all sources say of a user on `@a`, read one by one.
    fn is_refused_by(sentences: &[String], user: &str) -> bool {
        const PAST: &str = " until 2020-01-01T00:00:00Z";
        let has = |rule: String| {
            sentences.iter().any(|sentence| *sentence.trim_end_matches(" until 2999-01-01T00:00:00Z") == rule)
        };
        let blocked = has(format!("block {user}")) || has(format!("block {user} on @a"));
        let pardoned = has(format!("pardon {user}")) || has(format!("pardon {user} on @a"));
        let is_allow = |sentence: &&String| {
            sentence.starts_with("allow") && sentence.contains(" on @a") && !sentence.ends_with(PAST)
        };
        let left_out = sentences.iter().any(|sentence| is_allow(&sentence)) && !has(format!("allow {user} on @a"));
        has("close @a".to_owned()) || (blocked && !pardoned) || left_out
    }

    fn a_sentence() -> impl Strategy<Value = String> {
        let rule = prop_oneof![
            4 => "(block|pardon) [a-e]( on @[ab])?",
            2 => "allow [a-e] on @[ab]",
            1 => Just("close @b".to_owned()),
            1 => Just("close @a until 2020-01-01T00:00:00Z".to_owned()),
        ];
        let end = prop_oneof![4 => Just(""), 1 => Just(" until 2020-01-01T00:00:00Z"), 1 => Just(" until 2999-01-01T00:00:00Z")];
        (rule, end).prop_map(|(rule, end)| if rule.starts_with("close") { rule } else { format!("{rule}{end}") })
    }

    proptest! {
        #[test]
        fn a_decision_is_what_a_walk_over_all_sentences_says(
            users in prop::collection::vec("[a-f]", 0..12),
            sources in prop::collection::vec(prop::collection::vec(a_sentence(), 0..8), 0..4),
            closes in prop::bool::weighted(0.1),
        ) {
            let mut sources = sources;
            if closes {
                sources.push(vec!["close @a".to_owned()]);
            }
            let users: Vec<&str> = users.iter().map(String::as_str).collect();
            let lists: Vec<String> = sources.iter().map(|sentences| sentences.join("\n")).collect();
            let lists: Vec<&str> = lists.iter().map(String::as_str).collect();
            let decision = ask("@a", &users, &list_of(&lists), LIST);
            let sentences = sources.concat();
            let mut expected: Vec<&str> = Vec::new();
            for user in users {
                if is_refused_by(&sentences, user) && !expected.contains(&user) {
                    expected.push(user);
                }
            }
            prop_assert_eq!(texts(&decision.refused), expected);
        }
    }
}
