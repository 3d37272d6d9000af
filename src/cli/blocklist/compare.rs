//! Rules as sorted sentences, and the difference of two lists.

use crate::clock::UnixMillis;
use crate::decide::rule::Rule;
use crate::decide::rules::Rules;
use crate::decide::time;
use crate::decide::topic::value::RuleValue;

/// The changes from the old list to the new one, each kind sorted.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Rules that are only in the new list.
    pub(super) added: Vec<ListedRule>,
    /// Rules with another end or another reason, as in the new list.
    pub(super) changed: Vec<ListedRule>,
    /// Rules that are only in the old list.
    pub(super) removed: Vec<ListedRule>,
}

/// A rule with its end and reason.
#[derive(Debug, Clone)]
pub(super) struct ListedRule {
    pub(super) rule: Rule<'static>,
    pub(super) value: RuleValue<'static>,
}

impl ListedRule {
    /// The sentence of the rule.
    pub(super) fn sentence(&self) -> String {
        sentence(&self.rule, &self.value)
    }
}

impl Difference {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }

    /// One line each: `+` for an added rule, `-` for a removed one, `~` for a changed one.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        let marked = |mark: char, entries: &[ListedRule]| {
            entries.iter().map(|entry| format!("{mark} {}", entry.sentence())).collect::<Vec<_>>()
        };
        [marked('-', &self.removed), marked('~', &self.changed), marked('+', &self.added)].into_iter().flatten()
    }
}

/// Compares two lists. Who wrote a rule, when and by what means, does not matter.
pub(super) fn compare(old: &Rules, new: &Rules) -> Difference {
    let mut difference = Difference::default();
    for (rule, value) in new.iter() {
        match old.find(&rule) {
            None => difference.added.push(ListedRule { rule: rule.into_owned(), value }),
            Some(before) if before.until == value.until && before.provenance.because == value.provenance.because => {}
            Some(_other) => difference.changed.push(ListedRule { rule: rule.into_owned(), value }),
        }
    }
    for (rule, value) in old.iter().filter(|(rule, _)| new.find(rule).is_none()) {
        difference.removed.push(ListedRule { rule: rule.into_owned(), value });
    }
    for entries in [&mut difference.added, &mut difference.changed, &mut difference.removed] {
        entries.sort_by_cached_key(|entry| sort_key(&entry.rule));
    }
    difference
}

/// All rules as the lines of a file, sorted.
pub(super) fn sentences(rules: &Rules) -> Vec<String> {
    let mut entries: Vec<_> = rules.iter().map(|(rule, value)| (sort_key(&rule), sentence(&rule, &value))).collect();
    entries.sort();
    entries.into_iter().map(|(_, sentence)| sentence).collect()
}

fn sort_key(rule: &Rule<'_>) -> (&'static str, String, String) {
    let id = |id: Option<&str>| id.unwrap_or_default().to_owned();
    (rule.kind().as_str(), id(rule.user()), id(rule.account()))
}

/// The whole sentence of a rule. It is one line, whatever another writer has put into the reason.
pub(super) fn sentence(rule: &Rule<'_>, value: &RuleValue<'_>) -> String {
    let mut sentence = rule.to_string();
    if value.until != UnixMillis::NEVER {
        sentence.push_str(" until ");
        sentence.push_str(&time::written(value.until));
    }
    let because = value.provenance.because.as_deref().unwrap_or_default();
    let is_break = |character: char| character.is_control() || matches!(character, '\u{2028}' | '\u{2029}');
    let because = because.replace(is_break, " ");
    if !because.trim().is_empty() {
        sentence.push_str(" because ");
        sentence.push_str(because.trim());
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    use proptest::prelude::*;

    use crate::decide::file::parse;
    use crate::decide::rules::Change;
    use crate::decide::topic::value::Provenance;

    fn by_sentence(rules: &Rules) -> HashMap<String, RuleValue<'static>> {
        rules.iter().map(|(rule, value)| (rule.to_string(), value)).collect()
    }

    fn rules(text: &str) -> Rules {
        parse(text.as_bytes()).expect("good")
    }

    #[test]
    fn a_difference_has_added_removed_and_changed_rules() {
        let old = rules("bob\neve because spam\ncarol until 2027-01-31T00:00:00Z\nblock bob on @a");
        let new = rules("eve because loud\ncarol until 2027-02-28T00:00:00Z\nblock bob on @a\npardon bob\nadam");
        let lines: Vec<String> = compare(&old, &new).lines().collect();
        let expected = [
            "- block bob",
            "~ block carol until 2027-02-28T00:00:00Z",
            "~ block eve because loud",
            "+ block adam",
            "+ pardon bob",
        ];
        assert_eq!(lines, expected);
        assert!(compare(&new, &new).is_empty());
    }

    #[test]
    fn a_reason_of_several_lines_becomes_one_line() {
        let rule = Rule::Block { user: "bob".into(), account: None };
        let provenance = Provenance::of_reason(Some(" a\nclose @b\u{2028}\u{7}"));
        let value = RuleValue { until: UnixMillis::NEVER, provenance };
        assert_eq!(sentence(&rule, &value), "block bob because a close @b");
    }

    fn a_line() -> impl Strategy<Value = String> {
        (
            "(block|pardon) [a-d]( on @[ab])?|allow [a-d] on @[ab]|close @[ab]",
            "( until 20[2-5]0-01-01T00:00:00Z)?( because [x-z ]{0,3}[x-z])?",
        )
            .prop_map(|(rule, rest)| format!("{rule}{rest}"))
    }

    proptest! {
        #[test]
        fn the_difference_makes_the_old_list_into_the_new_one(
            old in prop::collection::vec(a_line(), 0..12),
            new in prop::collection::vec(a_line(), 0..12),
        ) {
            let (old, new) = (rules(&old.join("\n")), rules(&new.join("\n")));
            let difference = compare(&old, &new);
            let puts = difference.added.iter().chain(&difference.changed).map(|entry| Change::Put {
                rule: entry.rule.clone(),
                until: entry.value.until,
                provenance: entry.value.provenance.clone(),
            });
            let removals = difference.removed.iter().map(|entry| Change::Remove(entry.rule.clone()));
            let made = old.changed(puts.chain(removals));
            prop_assert_eq!(by_sentence(&made), by_sentence(&new));
        }

        #[test]
        fn an_exported_list_is_parsed_as_the_same_rules(lines in prop::collection::vec(a_line(), 0..12)) {
            let list = rules(&lines.join("\n"));
            let exported = sentences(&list).join("\n");
            prop_assert_eq!(by_sentence(&rules(&exported)), by_sentence(&list));
        }
    }
}
