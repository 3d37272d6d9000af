//! The key of a record: kind, user and account of a rule, joined by U+001F without trailing empty parts; or the identity of the topic.

use std::fmt;
use std::str::FromStr;

use crate::decide::rule::Rule;
use crate::decide::topic::poison::Poison;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 16 * 1024;

/// The separator of the parts of a key: the unit separator of ASCII.
const SEPARATOR: char = '\u{1f}';

/// The first part of the key of an identity.
const IDENTITY_KIND: &str = "topic";

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicKey<'a> {
    /// A rule of the blocklist.
    Rule(Rule<'a>),
    /// One identity of the topic.
    Identity(TopicIdentity),
}

/// The identity of a topic: a topic that is deleted and created again under the same name gets another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicIdentity(pub u64);

impl fmt::Display for TopicIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl FromStr for TopicIdentity {
    type Err = Poison;

    /// Parses 16 lowercase hex digits.
    fn from_str(text: &str) -> Result<Self, Poison> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = u64::from_str_radix(text, 16).ok().filter(|_number| is_hex);
        number.map(Self).ok_or(Poison::Header)
    }
}

impl TopicIdentity {
    /// The key of the record that declares this identity.
    pub fn key(self) -> String {
        format!("{IDENTITY_KIND}{SEPARATOR}{self}")
    }
}

/// Why a rule has no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unkeyable {
    /// An id is empty.
    #[error("the {0} is empty")]
    Empty(&'static str),
    /// An id contains the separator of the parts of a key.
    #[error("the {0} contains the character U+001F, which separates the parts of a record's key")]
    Separator(&'static str),
    /// The key would be longer than [`KEY_BYTES_MAX`].
    #[error("user and account are longer than 16384 bytes together")]
    TooLong,
}

/// The key of `rule`.
///
/// # Errors
///
/// An id is empty, too long or contains U+001F.
pub fn encode(rule: &Rule<'_>) -> Result<String, Unkeyable> {
    let (kind, user, account) = match rule {
        Rule::Block { user, account } => ("block", Some(user), account.as_ref()),
        Rule::Pardon { user, account } => ("pardon", Some(user), account.as_ref()),
        Rule::Allow { user, account } => ("allow", Some(user), Some(account)),
        Rule::Close { account } => ("close", None, Some(account)),
    };
    let mut key = kind.to_owned();
    for (name, id) in [("user", user), ("account", account)] {
        let Some(id) = id else {
            // An empty user before an account; an absent account is left out.
            if name == "user" {
                key.push(SEPARATOR);
            }
            continue;
        };
        if id.is_empty() {
            return Err(Unkeyable::Empty(name));
        }
        if id.contains(SEPARATOR) {
            return Err(Unkeyable::Separator(name));
        }
        key.push(SEPARATOR);
        key.push_str(id);
    }
    if key.len() > KEY_BYTES_MAX { Err(Unkeyable::TooLong) } else { Ok(key) }
}

/// Parses a key.
///
/// # Errors
///
/// It is not a key that [`encode`] or [`TopicIdentity::key`] makes.
pub fn decode(key: Option<&[u8]>) -> Result<TopicKey<'_>, Poison> {
    let key = key.ok_or(Poison::NoKey)?;
    if key.len() > KEY_BYTES_MAX {
        return Err(Poison::KeyTooLong(key.len()));
    }
    let key = str::from_utf8(key).map_err(|_error| Poison::KeyNotUtf8)?;
    let mut parts = key.split(SEPARATOR);
    let kind = parts.next().unwrap_or_default();
    let parts = [parts.next(), parts.next(), parts.next()];
    let id = |part: Option<&'_ str>| part.is_some_and(|part| !part.is_empty());
    let rule = match (kind, parts) {
        ("block", [Some(user), account, None]) if !user.is_empty() && (account.is_none() || id(account)) => {
            Rule::Block { user: user.into(), account: account.map(Into::into) }
        }
        ("pardon", [Some(user), account, None]) if !user.is_empty() && (account.is_none() || id(account)) => {
            Rule::Pardon { user: user.into(), account: account.map(Into::into) }
        }
        ("allow", [Some(user), Some(account), None]) if !user.is_empty() && !account.is_empty() => {
            Rule::Allow { user: user.into(), account: account.into() }
        }
        ("close", [Some(""), Some(account), None]) if !account.is_empty() => Rule::Close { account: account.into() },
        (IDENTITY_KIND, [Some(identity), None, None]) => {
            let identity = identity.parse().map_err(|_poison| Poison::Parts("an identity of 16 hex digits"))?;
            return Ok(TopicKey::Identity(identity));
        }
        ("block" | "pardon", _) => return Err(Poison::Parts("a user, and perhaps an account")),
        ("allow", _) => return Err(Poison::Parts("a user and an account")),
        ("close", _) => return Err(Poison::Parts("an empty user and an account")),
        (IDENTITY_KIND, _) => return Err(Poison::Parts("an identity of 16 hex digits")),
        (kind, _) => return Err(Poison::Kind(kind.chars().take(40).collect::<String>().into())),
    };
    Ok(TopicKey::Rule(rule))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::decide::rule::Sentence;

    fn rule(sentence: &str) -> Rule<'_> {
        Sentence::parse(sentence).expect("a sentence").rule
    }

    #[test]
    fn golden_keys_never_change() {
        let golden: [(&str, &[u8]); 9] = [
            ("block bob", b"block\x1fbob"),
            ("block bob on @TOA#_news", b"block\x1fbob\x1f@TOA#_news"),
            ("pardon bob", b"pardon\x1fbob"),
            ("pardon bob on @TOA#_news", b"pardon\x1fbob\x1f@TOA#_news"),
            ("allow carol on @TOA#_staff", b"allow\x1fcarol\x1f@TOA#_staff"),
            ("close @TOA#_sports", b"close\x1f\x1f@TOA#_sports"),
            ("block \"on\" on \"block\"", b"block\x1fon\x1fblock"),
            (r#"block "two words" on "a\"b\\""#, b"block\x1ftwo words\x1fa\"b\\"),
            ("block \"\u{4f60}\\t\"", b"block\x1f\xe4\xbd\xa0\t"),
        ];
        for (sentence, key) in golden {
            assert_eq!(encode(&rule(sentence)).expect("a key").as_bytes(), key, "{sentence}");
            assert_eq!(decode(Some(key)), Ok(TopicKey::Rule(rule(sentence))), "{sentence}");
        }
        assert_eq!(TopicIdentity(0x00c0_ffee_0123_4567).key().as_bytes(), b"topic\x1f00c0ffee01234567");
        assert_eq!(
            decode(Some(b"topic\x1f00c0ffee01234567")),
            Ok(TopicKey::Identity(TopicIdentity(0x00c0_ffee_0123_4567)))
        );
    }

    #[test]
    fn a_key_of_any_other_form_is_poison_with_a_reason() {
        let parts = |expected| Poison::Parts(expected);
        let cases: [(&[u8], Poison); 20] = [
            (b"", Poison::Kind("".into())),
            (b"bob", Poison::Kind("bob".into())),
            (b"Block\x1fbob", Poison::Kind("Block".into())),
            (b"import\x1f7", Poison::Kind("import".into())),
            (b"block bob", Poison::Kind("block bob".into())),
            (b"block", parts("a user, and perhaps an account")),
            (b"block\x1f", parts("a user, and perhaps an account")),
            (b"block\x1fbob\x1f", parts("a user, and perhaps an account")),
            (b"block\x1f\x1f@a", parts("a user, and perhaps an account")),
            (b"block\x1fbob\x1f@a\x1f", parts("a user, and perhaps an account")),
            (b"pardon\x1fbob\x1f@a\x1fb", parts("a user, and perhaps an account")),
            (b"allow\x1fbob", parts("a user and an account")),
            (b"allow\x1fbob\x1f", parts("a user and an account")),
            (b"allow\x1f\x1f@a", parts("a user and an account")),
            (b"close\x1f@a", parts("an empty user and an account")),
            (b"close\x1f\x1f", parts("an empty user and an account")),
            (b"close\x1fbob\x1f@a", parts("an empty user and an account")),
            (b"topic\x1f00C0FFEE01234567", parts("an identity of 16 hex digits")),
            (b"topic\x1f00c0ffee01234567\x1f", parts("an identity of 16 hex digits")),
            (b"block\x1f\xff", Poison::KeyNotUtf8),
        ];
        for (key, poison) in cases {
            assert_eq!(decode(Some(key)), Err(poison), "{key:?}");
        }
        assert_eq!(decode(None), Err(Poison::NoKey));
        assert_eq!(decode(Some(&[b'a'; KEY_BYTES_MAX + 1])), Err(Poison::KeyTooLong(KEY_BYTES_MAX + 1)));
    }

    #[test]
    fn a_rule_that_no_key_can_name_is_not_written() {
        let block = |user: &str, account: Option<&str>| {
            encode(&Rule::Block { user: user.to_owned().into(), account: account.map(|id| id.to_owned().into()) })
        };
        assert_eq!(block("a\u{1f}b", None), Err(Unkeyable::Separator("user")));
        assert_eq!(block("a", Some("b\u{1f}")), Err(Unkeyable::Separator("account")));
        assert_eq!(block("", None), Err(Unkeyable::Empty("user")));
        assert_eq!(block("a", Some("")), Err(Unkeyable::Empty("account")));
        assert_eq!(block(&"a".repeat(KEY_BYTES_MAX), None), Err(Unkeyable::TooLong));
    }

    proptest! {
        #[test]
        fn every_rule_that_has_a_key_is_read_from_it(user in ".{1,8}", account in ".{1,8}", kind in 0..6) {
            let (user, account) = (|| (&*user).into(), || (&*account).into());
            let rule = match kind {
                0 => Rule::Block { user: user(), account: None },
                1 => Rule::Block { user: user(), account: Some(account()) },
                2 => Rule::Pardon { user: user(), account: None },
                3 => Rule::Pardon { user: user(), account: Some(account()) },
                4 => Rule::Allow { user: user(), account: account() },
                _ => Rule::Close { account: account() },
            };
            if let Ok(key) = encode(&rule) {
                prop_assert_eq!(decode(Some(key.as_bytes())), Ok(TopicKey::Rule(rule)));
            }
        }

        #[test]
        fn a_key_that_is_read_is_written_as_the_same_bytes(
            key in "(block|pardon|allow|close|topic)(\u{1f}(|a|b|00c0ffee01234567)){0,4}",
        ) {
            match decode(Some(key.as_bytes())) {
                Ok(TopicKey::Rule(rule)) => prop_assert_eq!(encode(&rule), Ok(key)),
                Ok(TopicKey::Identity(identity)) => prop_assert_eq!(identity.key(), key),
                Err(_poison) => {}
            }
        }
    }
}
