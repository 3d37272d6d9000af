//! A rule of the blocklist, and its sentence.
//!
//! Parses a sentence into a [`Rule`], and writes a rule as its canonical sentence, which parses to the same rule. Blank lines and comments
//! belong to the file format and are not handled here.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write;

use crate::clock::UnixMillis;
use crate::decide::mistake::Expected;
use crate::decide::mistake::Mistake;
use crate::decide::time;
use crate::invisible::first_invisible;
use crate::invisible::is_invisible;

/// The separators of words. Any other white space must be in a JSON string.
pub(crate) const BLANKS: [char; 2] = [' ', '\t'];

/// The keywords. An id with the same letters is written as a JSON string.
pub(crate) const KEYWORDS: [&str; 7] = ["block", "pardon", "close", "allow", "on", "until", "because"];

/// How much of a wrong word a [`Mistake`] shows, in characters.
const SHOWN_CHARS_MAX: usize = 40;

/// A rule, without its end and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule<'a> {
    /// The user is refused: on this account, or on any.
    Block {
        /// The user.
        user: Cow<'a, str>,
        /// The account, unless the rule holds everywhere.
        account: Option<Cow<'a, str>>,
    },
    /// The user is not blocked, whatever other rules say: on this account, or on any.
    Pardon {
        /// The user.
        user: Cow<'a, str>,
        /// The account, unless the rule holds everywhere.
        account: Option<Cow<'a, str>>,
    },
    /// The account is closed for everybody.
    Close {
        /// The account.
        account: Cow<'a, str>,
    },
    /// The account is open only for allowed users, and this is one of them.
    Allow {
        /// The user.
        user: Cow<'a, str>,
        /// The account.
        account: Cow<'a, str>,
    },
}

/// The kind of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleKind {
    /// `block`.
    Block,
    /// `pardon`.
    Pardon,
    /// `allow`.
    Allow,
    /// `close`.
    Close,
}

impl RuleKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Block, Self::Pardon, Self::Allow, Self::Close];

    /// The keyword, also used in keys and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Pardon => "pardon",
            Self::Allow => "allow",
            Self::Close => "close",
        }
    }
}

impl Rule<'_> {
    /// The kind of the rule.
    pub const fn kind(&self) -> RuleKind {
        match self {
            Self::Block { .. } => RuleKind::Block,
            Self::Pardon { .. } => RuleKind::Pardon,
            Self::Allow { .. } => RuleKind::Allow,
            Self::Close { .. } => RuleKind::Close,
        }
    }

    /// An owned copy.
    pub fn into_owned(self) -> Rule<'static> {
        let owned = |id: Cow<'_, str>| Cow::Owned(id.into_owned());
        match self {
            Self::Block { user, account } => Rule::Block { user: owned(user), account: account.map(owned) },
            Self::Pardon { user, account } => Rule::Pardon { user: owned(user), account: account.map(owned) },
            Self::Close { account } => Rule::Close { account: owned(account) },
            Self::Allow { user, account } => Rule::Allow { user: owned(user), account: owned(account) },
        }
    }

    /// The user of the rule, if it has one.
    pub fn user(&self) -> Option<&str> {
        match self {
            Self::Block { user, .. } | Self::Pardon { user, .. } | Self::Allow { user, .. } => Some(user),
            Self::Close { .. } => None,
        }
    }

    /// The account of the rule, if it has one.
    pub fn account(&self) -> Option<&str> {
        match self {
            Self::Block { account, .. } | Self::Pardon { account, .. } => account.as_deref(),
            Self::Close { account } | Self::Allow { account, .. } => Some(account),
        }
    }
}

/// A rule with its end and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence<'a> {
    /// The rule.
    pub rule: Rule<'a>,
    /// The rule holds before this: [`UnixMillis::NEVER`] if it has no end.
    pub until: UnixMillis,
    /// The text after `because`.
    pub because: Option<&'a str>,
}

impl<'a> Sentence<'a> {
    /// Parses a sentence.
    ///
    /// # Errors
    ///
    /// The first error in the sentence.
    pub fn parse(sentence: &'a str) -> Result<Self, Mistake> {
        let mut words = Words { rest: sentence.trim_matches(BLANKS) };
        let (rule, mut next) = words.rule()?;
        let mut until = UnixMillis::NEVER;
        if words.take("until") {
            until = words.time()?;
            next = Expected::AfterTime;
        }
        let mut because = None;
        if words.take("because") {
            if words.rest.is_empty() {
                return Err(Mistake::Ended(Expected::Reason));
            }
            refuse_hidden_lines(words.rest)?;
            because = Some(words.rest);
        } else if !words.rest.is_empty() {
            return Err(words.wrong(next));
        }
        Ok(Self { rule, until, because })
    }
}

impl fmt::Display for Rule<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block { user, account: None } => write!(formatter, "block {}", Written(user)),
            Self::Block { user, account: Some(account) } => {
                write!(formatter, "block {} on {}", Written(user), Written(account))
            }
            Self::Pardon { user, account: None } => write!(formatter, "pardon {}", Written(user)),
            Self::Pardon { user, account: Some(account) } => {
                write!(formatter, "pardon {} on {}", Written(user), Written(account))
            }
            Self::Close { account } => write!(formatter, "close {}", Written(account)),
            Self::Allow { user, account } => write!(formatter, "allow {} on {}", Written(user), Written(account)),
        }
    }
}

/// The form of an id in a sentence: plain, or as a JSON string if necessary.
pub(crate) struct Written<'a>(pub(crate) &'a str);

impl fmt::Display for Written<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.0;
        if id.is_empty() || KEYWORDS.contains(&id) || id.contains('"') || first_invisible(id).is_some() {
            let json = serde_json::to_string(id).map_err(|_error| fmt::Error)?;
            json.chars().try_for_each(|character| write_visibly(character, formatter))
        } else {
            formatter.write_str(id)
        }
    }
}

/// Writes a character of a JSON string, as an escape if it is invisible.
fn write_visibly(character: char, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    if character == ' ' || !is_invisible(character) {
        return formatter.write_char(character);
    }
    let units = character.encode_utf16(&mut [0; 2]).to_vec();
    units.iter().try_for_each(|unit| write!(formatter, "\\u{unit:04x}"))
}

/// The remaining words of a sentence, without white space at the ends.
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    /// Parses a rule, and returns what may follow it.
    fn rule(&mut self) -> Result<(Rule<'a>, Expected), Mistake> {
        if self.take("block") {
            let user = self.id(Expected::User)?;
            let (account, next) = self.on_account()?;
            Ok((Rule::Block { user, account }, next))
        } else if self.take("pardon") {
            let user = self.id(Expected::User)?;
            let (account, next) = self.on_account()?;
            Ok((Rule::Pardon { user, account }, next))
        } else if self.take("close") {
            Ok((Rule::Close { account: self.id(Expected::Account)? }, Expected::AfterRule))
        } else if self.take("allow") {
            let user = self.id(Expected::User)?;
            if !self.take("on") {
                return Err(self.wrong(Expected::On));
            }
            Ok((Rule::Allow { user, account: self.id(Expected::Account)? }, Expected::AfterRule))
        } else {
            Ok((Rule::Block { user: self.id(Expected::User)?, account: None }, Expected::AfterWord))
        }
    }

    /// Parses `on` and an account, if they follow.
    fn on_account(&mut self) -> Result<(Option<Cow<'a, str>>, Expected), Mistake> {
        if self.take("on") {
            return Ok((Some(self.id(Expected::Account)?), Expected::AfterRule));
        }
        Ok((None, Expected::AfterUser))
    }

    /// Consumes the next word if it is this keyword. Returns whether it was.
    fn take(&mut self, keyword: &str) -> bool {
        let (word, rest) = self.split();
        let taken = word == keyword;
        if taken {
            self.rest = rest;
        }
        taken
    }

    /// Parses the next word as an id.
    fn id(&mut self, expected: Expected) -> Result<Cow<'a, str>, Mistake> {
        if self.rest.starts_with('"') {
            return self.quoted_id(expected).map(Cow::Owned);
        }
        let (word, rest) = self.split();
        if word.is_empty() {
            return Err(Mistake::Ended(expected));
        }
        if KEYWORDS.contains(&word) {
            return Err(Mistake::Keyword { found: shown(word), expected });
        }
        if let Some(invisible) = first_invisible(word) {
            return Err(Mistake::Invisible(invisible));
        }
        if word.contains('"') {
            return Err(Mistake::Quote(shown(word)));
        }
        self.rest = rest;
        Ok(Cow::Borrowed(word))
    }

    fn quoted_id(&mut self, expected: Expected) -> Result<String, Mistake> {
        let mut values = serde_json::Deserializer::from_str(self.rest).into_iter::<String>();
        let Some(Ok(id)) = values.next() else {
            return Err(Mistake::NotJsonString(shown(self.rest)));
        };
        let rest = self.rest.get(values.byte_offset()..).unwrap_or_default();
        if !rest.is_empty() && !rest.starts_with(BLANKS) {
            return Err(Mistake::NotJsonString(shown(self.rest)));
        }
        if id.is_empty() {
            return Err(Mistake::Empty(expected));
        }
        self.rest = rest.trim_start_matches(BLANKS);
        Ok(id)
    }

    /// Parses the next word as a time.
    fn time(&mut self) -> Result<UnixMillis, Mistake> {
        let (word, rest) = self.split();
        let time = time::parse(word).ok_or_else(|| self.wrong(Expected::Time))?;
        self.rest = rest;
        Ok(time)
    }

    /// The error about the next word.
    fn wrong(&self, expected: Expected) -> Mistake {
        let (word, _rest) = self.split();
        match first_invisible(word) {
            Some(invisible) => Mistake::Invisible(invisible),
            None if word.is_empty() => Mistake::Ended(expected),
            None => Mistake::Found { found: shown(word), expected },
        }
    }

    /// The next word, and the rest behind it.
    fn split(&self) -> (&'a str, &'a str) {
        let end = memchr::memchr2(b' ', b'\t', self.rest.as_bytes()).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
        (word, rest.trim_start_matches(BLANKS))
    }
}

/// Refuses text that some editors show as several lines: the second would look like a rule without being one.
pub(crate) fn refuse_hidden_lines(text: &str) -> Result<(), Mistake> {
    const LINE_SEPARATORS: [char; 2] = ['\u{2028}', '\u{2029}'];
    if text.is_ascii() {
        return Ok(());
    }
    text.chars().find(|c| LINE_SEPARATORS.contains(c)).map_or(Ok(()), |separator| Err(Mistake::Invisible(separator)))
}

/// The beginning of a wrong word.
fn shown(word: &str) -> Box<str> {
    match word.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", word.get(..end).unwrap_or_default()).into(),
        None => word.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(user: &str) -> Rule<'_> {
        Rule::Block { user: user.into(), account: None }
    }

    fn block_on<'a>(user: &'a str, account: &'a str) -> Rule<'a> {
        Rule::Block { user: user.into(), account: Some(account.into()) }
    }

    #[test]
    fn every_kind_of_sentence_is_read() {
        let end = UnixMillis(1_801_353_600_000);
        let cases = [
            ("mallory", block("mallory"), UnixMillis::NEVER),
            ("\"two words\"", block("two words"), UnixMillis::NEVER),
            ("\"block\"", block("block"), UnixMillis::NEVER),
            (r#""a\"b\\c\u4f60\tz""#, block("a\"b\\c你\tz"), UnixMillis::NEVER),
            ("你好@x.example#1", block("你好@x.example#1"), UnixMillis::NEVER),
            ("a\\b", block("a\\b"), UnixMillis::NEVER),
            ("Block", block("Block"), UnixMillis::NEVER),
            ("mallory because spam # and more", block("mallory"), UnixMillis::NEVER),
            ("mallory until 2027-01-31T00:00:00Z", block("mallory"), end),
            ("block bob", block("bob"), UnixMillis::NEVER),
            ("block\t bob  on \t@TOA#_news", block_on("bob", "@TOA#_news"), UnixMillis::NEVER),
            ("block #b on #TOA#_1", block_on("#b", "#TOA#_1"), UnixMillis::NEVER),
            ("block bob on \"on\" until 2027-01-31T08:00:00+08:00", block_on("bob", "on"), end),
            (
                "block bob on @TOA#_news until 2027-01-31T00:00:00Z because spam in May",
                block_on("bob", "@TOA#_news"),
                end,
            ),
            ("close @TOA#_sports because moved", Rule::Close { account: "@TOA#_sports".into() }, UnixMillis::NEVER),
            (
                "allow \"carol c\" on @TOA#_staff",
                Rule::Allow { user: "carol c".into(), account: "@TOA#_staff".into() },
                UnixMillis::NEVER,
            ),
            ("pardon dave", Rule::Pardon { user: "dave".into(), account: None }, UnixMillis::NEVER),
            (
                "pardon dave on @TOA#_news until 2027-01-31T00:00:00Z because not mine",
                Rule::Pardon { user: "dave".into(), account: Some("@TOA#_news".into()) },
                end,
            ),
            ("\"pardon\"", block("pardon"), UnixMillis::NEVER),
            ("block bob because until 2020", block("bob"), UnixMillis::NEVER),
        ];
        for (sentence, rule, until) in cases {
            let read = Sentence::parse(sentence).map(|sentence| (sentence.rule, sentence.until));
            assert_eq!(read, Ok((rule, until)), "{sentence}");
        }
    }

    #[test]
    fn everything_else_is_a_mistake_that_says_what_was_expected() {
        let cases = [
            ("block", "the line ends; expected a user"),
            ("close", "the line ends; expected an account"),
            ("pardon", "the line ends; expected a user"),
            ("pardon bob @a", "found `@a`; expected `on`, `until`, `because` or the end of the line"),
            (
                "block pardon",
                "found the keyword `pardon`; expected a user, and one of that name is written as a JSON string",
            ),
            ("on", "found the keyword `on`; expected a user, and one of that name is written as a JSON string"),
            (
                "until 2027-01-31T00:00:00Z",
                "found the keyword `until`; expected a user, and one of that name is written as a JSON string",
            ),
            (
                "block on @a",
                "found the keyword `on`; expected a user, and one of that name is written as a JSON string",
            ),
            ("block bob on", "the line ends; expected an account"),
            (
                "block bob on because x",
                "found the keyword `because`; expected an account, and one of that name is written as a JSON string",
            ),
            ("block bob @a", "found `@a`; expected `on`, `until`, `because` or the end of the line"),
            ("block bob \"on\" @a", "found `\"on\"`; expected `on`, `until`, `because` or the end of the line"),
            ("block bob on @a @b", "found `@b`; expected `until`, `because` or the end of the line"),
            ("close @a on @b", "found `on`; expected `until`, `because` or the end of the line"),
            ("allow bob", "the line ends; expected `on` and an account"),
            ("allow bob until 2027-01-31T00:00:00Z", "found `until`; expected `on` and an account"),
            (
                "bob on @a",
                "found `on`; expected `until`, `because` or the end, or a line that begins with `block`, `pardon`, `close` or `allow`",
            ),
            (
                "mallory # no",
                "found `#`; expected `until`, `because` or the end, or a line that begins with `block`, `pardon`, `close` or `allow`",
            ),
            ("bob until", "the line ends; expected a time of RFC 3339, as 2027-01-31T00:00:00Z"),
            ("bob until tomorrow", "found `tomorrow`; expected a time of RFC 3339, as 2027-01-31T00:00:00Z"),
            ("bob until 2027-01-31T00:00:00Z x", "found `x`; expected `because` or the end of the line"),
            ("bob because", "the line ends; expected a reason"),
            (
                "mal\"lory",
                "found `mal\"lory` with a quote in it; expected an id with a quote to be written as a JSON string",
            ),
            (
                "\"bob",
                "found `\"bob`; expected a JSON string that is closed, well escaped, and followed by a blank or the end",
            ),
            (
                "\"bob\"x",
                "found `\"bob\"x`; expected a JSON string that is closed, well escaped, and followed by a blank or the end",
            ),
            (
                r#""\ud800""#,
                r#"found `"\ud800"`; expected a JSON string that is closed, well escaped, and followed by a blank or the end"#,
            ),
            ("block \"\"", "found an empty id; expected a user"),
        ];
        for (sentence, message) in cases {
            let mistake = Sentence::parse(sentence).expect_err(sentence);
            assert_eq!(mistake.to_string(), message, "{sentence}");
        }
    }

    #[test]
    fn rejects_an_invisible_character_in_any_bare_word() {
        for character in
            "\u{a0}\u{ad}\u{34f}\u{200b}\u{200d}\u{202e}\u{2028}\u{2800}\u{3164}\u{fe0f}\u{feff}\u{e0041}".chars()
        {
            for sentence in [
                "mal~lory",
                "~mallory",
                "mallory~",
                "~",
                "block~ bob",
                "block bob~",
                "block bob on @a~",
                "block bob on~ @a",
                "close ~@a",
                "allow bob~ on @a",
                "allow bob on @~a",
                "bob until 2027-01-31T00:00:00Z~",
                "bob until 2027-01-31T00:00:00Z because~ spam",
            ] {
                let sentence = sentence.replace('~', &character.to_string());
                assert_eq!(Sentence::parse(&sentence), Err(Mistake::Invisible(character)), "{sentence:?}");
            }
        }
        assert_eq!(
            Mistake::Invisible('\u{200b}').to_string(),
            "invisible character U+200B; expected visible characters, or an id written as a JSON string"
        );
    }

    #[test]
    fn takes_invisible_characters_in_json_strings_and_writes_them_as_escapes() {
        for (sentence, user, written) in [
            ("\"mal\u{200b}lory\"", "mal\u{200b}lory", r#"block "mal\u200blory""#),
            (r#""mal\u200blory""#, "mal\u{200b}lory", r#"block "mal\u200blory""#),
            (r#""\udb40\udc41""#, "\u{e0041}", r#"block "\udb40\udc41""#),
            (r#""a\u0000\u001f\u0085\u007f""#, "a\0\u{1f}\u{85}\u{7f}", r#"block "a\u0000\u001f\u0085\u007f""#),
            ("\"two words\u{3000}\"", "two words\u{3000}", r#"block "two words\u3000""#),
        ] {
            let rule = Sentence::parse(sentence).expect(sentence).rule;
            assert_eq!(rule, block(user), "{sentence}");
            assert_eq!(rule.to_string(), written, "{sentence}");
        }
    }

    #[test]
    fn rejects_a_reason_that_some_editors_show_as_several_lines() {
        assert_eq!(Sentence::parse("bob because spam\u{2028}mallory"), Err(Mistake::Invisible('\u{2028}')));
        assert!(Sentence::parse("bob because spam\u{a0}and\u{200b}more").is_ok());
    }

    #[test]
    fn a_long_wrong_word_is_shown_cut() {
        let sentence = format!("bob {}", "你".repeat(1000));
        let mistake = Sentence::parse(&sentence).expect_err("two words");
        assert_eq!(
            mistake,
            Mistake::Found { found: format!("{}…", "你".repeat(40)).into(), expected: Expected::AfterWord }
        );
    }

    fn an_id() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("on".to_owned()),
            Just("until".to_owned()),
            Just("#".to_owned()),
            "[ab\"\\\\ \t\u{a0}\u{feff}\u{200b}\u{85}\u{e0041}#@你]{1,6}",
            "\\PC{1,8}",
        ]
    }

    proptest! {
        #[test]
        fn a_canonical_sentence_reads_back_as_its_rule(user in an_id(), account in an_id()) {
            let rules = [
                block(&user),
                block_on(&user, &account),
                Rule::Pardon { user: (&user).into(), account: None },
                Rule::Pardon { user: (&user).into(), account: Some((&account).into()) },
                Rule::Close { account: (&account).into() },
                Rule::Allow { user: (&user).into(), account: (&account).into() },
            ];
            for rule in rules {
                let sentence = rule.to_string();
                prop_assert_eq!(Sentence::parse(&sentence), Ok(Sentence { rule, until: UnixMillis::NEVER, because: None }));
            }
        }

        #[test]
        fn no_sentence_makes_the_parser_panic(sentence in "(block |pardon |close |allow |on |until |because |\"|\\PC| ){0,8}") {
            let _rule_or_mistake = Sentence::parse(&sentence);
        }
    }
}
