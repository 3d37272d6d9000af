//! The bearer tokens of the admin API. Each has a name, and grants reading and writing the blocklist.

use std::fmt;

use sha2::Digest;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::invisible::first_invisible;

/// The most tokens of a file. Each costs every request a comparison.
pub const ADMIN_TOKENS_MAX: usize = 256;

/// The longest token and the longest name, in bytes.
pub const ADMIN_TOKEN_BYTES_MAX: usize = 1024;

/// A shorter token can be found by guessing.
pub const ADMIN_TOKEN_BYTES_STRONG: usize = 16;

/// The tokens of some files. It holds only their hashes.
#[derive(Clone, Default)]
pub struct AdminTokens {
    tokens: Vec<AdminToken>,
    weak: usize,
}

#[derive(Clone, PartialEq, Eq)]
struct AdminToken {
    name: Box<str>,
    hash: [u8; 32],
}

/// Why a token file cannot be used. Shows no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAdminTokens {
    /// It has only white space.
    #[error("holds no token; expected lines `name:token`")]
    None,
    /// Probably not a token file.
    #[error("holds more than {ADMIN_TOKENS_MAX} tokens, one a line")]
    TooMany,
    /// It is not text.
    #[error("is not UTF-8")]
    NotText,
    /// It has a comment. As a token, everybody could guess it.
    #[error("line {0}: begins with '#'; a token file has no comments")]
    Comment(usize),
    /// The name, the token or the colon between them is missing.
    #[error("line {0}: expected `name:token`")]
    Form(usize),
    /// A space or an invisible character.
    #[error("line {line}: character U+{character:04X}; expected `name:token` of visible characters", character = u32::from(*.character))]
    Invisible {
        /// The line number, from 1.
        line: usize,
        /// The character.
        character: char,
    },
    /// A character that is not allowed in a bearer token.
    #[error("line {0}: a token consists of the characters a-z A-Z 0-9 - . _ ~ + / and = at its end")]
    Token(usize),
    /// The name or the token is too long.
    #[error("line {0}: the name or the token is longer than {ADMIN_TOKEN_BYTES_MAX} bytes")]
    TooLong(usize),
    /// The same token has two names: the audit topic could not tell who made a change.
    #[error("line {0}: the same token has another name on an earlier line")]
    Ambiguous(usize),
}

/// Tokens that are too short to be safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{count} of {of} tokens are shorter than {ADMIN_TOKEN_BYTES_STRONG} bytes, so they can be guessed")]
pub struct WeakAdminTokens {
    /// The number of short tokens.
    pub count: usize,
    /// The number of all tokens.
    pub of: usize,
}

impl AdminTokens {
    /// Parses tokens, one `name:token` a line. White space around a line, blank lines and a BOM at the beginning are ignored.
    ///
    /// # Errors
    ///
    /// There is no token, or a line is invalid.
    pub fn parse(text: &[u8]) -> Result<Self, BadAdminTokens> {
        let text = str::from_utf8(text).map_err(|_not_text| BadAdminTokens::NotText)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = (1..).zip(text.lines().map(|line| line.trim_matches([' ', '\t', '\r'])));
        let mut all = Self::default();
        for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
            if line.starts_with('#') {
                return Err(BadAdminTokens::Comment(number));
            }
            if let Some(character) = first_invisible(line) {
                return Err(BadAdminTokens::Invisible { line: number, character });
            }
            let (name, token) = named(line).ok_or(BadAdminTokens::Form(number))?;
            if !is_bearer_token(token) {
                return Err(BadAdminTokens::Token(number));
            }
            if name.len().max(token.len()) > ADMIN_TOKEN_BYTES_MAX {
                return Err(BadAdminTokens::TooLong(number));
            }
            let hash = hash(token);
            if all.tokens.iter().any(|known| known.hash == hash && *known.name != *name) {
                return Err(BadAdminTokens::Ambiguous(number));
            }
            if all.tokens.len() == ADMIN_TOKENS_MAX {
                return Err(BadAdminTokens::TooMany);
            }
            all.weak += usize::from(token.len() < ADMIN_TOKEN_BYTES_STRONG);
            all.tokens.push(AdminToken { name: name.into(), hash });
        }
        if all.is_empty() { Err(BadAdminTokens::None) } else { Ok(all) }
    }

    /// The tokens of several files. A token in two files has the name from the first.
    pub fn union<'t>(files: impl IntoIterator<Item = &'t Self>) -> Self {
        let mut all = Self::default();
        for file in files {
            all.tokens.extend(file.tokens.iter().cloned());
            all.weak += file.weak;
        }
        all
    }

    /// The number of tokens.
    pub const fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are none, so that nobody has access.
    pub const fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Whether valid tokens are too weak.
    pub fn weakness(&self) -> Option<WeakAdminTokens> {
        (self.weak > 0).then_some(WeakAdminTokens { count: self.weak, of: self.len() })
    }

    /// The name of `token`, if it is valid. Takes the same time for every token, valid or not.
    pub fn name_of(&self, token: &str) -> Option<&str> {
        let hash = hash(token);
        let matches = self.tokens.iter().filter(|known| bool::from(known.hash.ct_eq(&hash)));
        // Does not stop at the first match.
        matches.collect::<Vec<_>>().first().map(|known| &*known.name)
    }
}

impl fmt::Debug for AdminTokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} admin tokens", self.tokens.len())
    }
}

/// Splits a line `name:token`. A token has no colon, but a name may.
pub fn named(line: &str) -> Option<(&str, &str)> {
    line.rsplit_once(':').filter(|(name, token)| !name.is_empty() && !token.is_empty())
}

/// Whether a header can carry it (RFC 6750, section 2.1).
pub fn is_bearer_token(token: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    let body = token.trim_end_matches('=');
    !body.is_empty() && body.bytes().all(is_allowed)
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_is_found_by_its_text_and_has_the_name_of_its_line() {
        let text = "\u{feff}alice:0123456789abcdef\r\n\n  bob:QUJD+/==\nteam:ops:x.y_z~-\n";
        let tokens = AdminTokens::parse(text.as_bytes()).unwrap();
        assert_eq!(tokens.len(), 3);
        assert_eq!(tokens.name_of("0123456789abcdef"), Some("alice"));
        assert_eq!(tokens.name_of("QUJD+/=="), Some("bob"));
        assert_eq!(tokens.name_of("x.y_z~-"), Some("team:ops"));
        for wrong in ["", "alice", "0123456789abcde", "0123456789abcdef ", "alice:0123456789abcdef"] {
            assert_eq!(tokens.name_of(wrong), None, "{wrong}");
        }
        assert_eq!(tokens.weakness(), Some(WeakAdminTokens { count: 2, of: 3 }));
    }

    #[test]
    fn a_file_that_is_no_list_of_named_tokens_is_bad_with_its_line() {
        let cases: [(&[u8], BadAdminTokens); 13] = [
            (b"", BadAdminTokens::None),
            (b" \n\t\r\n", BadAdminTokens::None),
            (b"\xff", BadAdminTokens::NotText),
            (b"a:b\n# c:d", BadAdminTokens::Comment(2)),
            (b"alice", BadAdminTokens::Form(1)),
            (b":token", BadAdminTokens::Form(1)),
            (b"alice:", BadAdminTokens::Form(1)),
            (b"a:b\nalice: token", BadAdminTokens::Invisible { line: 2, character: ' ' }),
            ("alice:t\u{200b}".as_bytes(), BadAdminTokens::Invisible { line: 1, character: '\u{200b}' }),
            ("alice:t\u{e9}".as_bytes(), BadAdminTokens::Token(1)),
            (b"alice:==", BadAdminTokens::Token(1)),
            (b"alice:a=b", BadAdminTokens::Token(1)),
            (b"alice:same\nalice:same\nbob:same", BadAdminTokens::Ambiguous(3)),
        ];
        for (text, bad) in cases {
            assert_eq!(AdminTokens::parse(text).unwrap_err(), bad, "{text:?}");
        }
        let long = format!("alice:{}", "a".repeat(ADMIN_TOKEN_BYTES_MAX + 1));
        assert_eq!(AdminTokens::parse(long.as_bytes()).unwrap_err(), BadAdminTokens::TooLong(1));
        let many: String = (0..=ADMIN_TOKENS_MAX).map(|nth| format!("a:{nth}\n")).collect();
        assert_eq!(AdminTokens::parse(many.as_bytes()).unwrap_err(), BadAdminTokens::TooMany);
    }

    #[test]
    fn neither_debug_nor_an_error_shows_a_token() {
        let tokens = AdminTokens::parse(b"alice:secret").unwrap();
        assert_eq!(format!("{tokens:?}"), "1 admin tokens");
        assert!(!AdminTokens::parse(b"alice:secret\nbob:sec ret").unwrap_err().to_string().contains("ret"));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_token_that_another_text_opens(text in "[a-z:=#\n ]{0,40}", tried in "[a-z:=]{0,6}") {
            if let Ok(tokens) = AdminTokens::parse(text.as_bytes()) {
                let is_there = text.lines().filter_map(|line| named(line.trim())).any(|(_, token)| token == tried);
                prop_assert_eq!(tokens.name_of(&tried).is_some(), is_there);
            }
        }
    }
}
