//! The errors in lines of a blocklist, with what was expected.

use std::fmt;

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// The line is too long.
    #[error("more than 1048576 bytes in one line; expected one rule a line")]
    TooLong,
    /// The line is not text.
    #[error("bytes that are not UTF-8; expected a text file in UTF-8")]
    NotUtf8,
    /// A control character; also a lone carriage return, which would hide what follows it.
    #[error("control character U+{:04X}; expected visible text in lines that end in LF or CRLF", u32::from(*.0))]
    Control(char),
    /// An invisible character outside a JSON string: the id would be a different one that looks the same.
    #[error("invisible character U+{:04X}; expected visible characters, or an id written as a JSON string", u32::from(*.0))]
    Invisible(char),
    /// The line is incomplete.
    #[error("the line ends; expected {0}")]
    Ended(Expected),
    /// An unexpected word.
    #[error("found `{found}`; expected {expected}")]
    Found {
        /// The word, truncated if it is long.
        found: Box<str>,
        /// What was expected.
        expected: Expected,
    },
    /// A keyword in the place of an id.
    #[error("found the keyword `{found}`; expected {expected}, and one of that name is written as a JSON string")]
    Keyword {
        /// The keyword.
        found: Box<str>,
        /// What was expected.
        expected: Expected,
    },
    /// A quote inside a plain word.
    #[error("found `{0}` with a quote in it; expected an id with a quote to be written as a JSON string")]
    Quote(Box<str>),
    /// A word that begins like a JSON string, but is not one.
    #[error("found `{0}`; expected a JSON string that is closed, well escaped, and followed by a blank or the end")]
    NotJsonString(Box<str>),
    /// An empty id.
    #[error("found an empty id; expected {0}")]
    Empty(Expected),
}

/// What a sentence expects next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The id of a user.
    User,
    /// The id of an Official Account.
    Account,
    /// The word `on`.
    On,
    /// A time.
    Time,
    /// The text after `because`.
    Reason,
    /// The end of the line, or what may follow its only word.
    AfterWord,
    /// What may follow `block USER` and `pardon USER`.
    AfterUser,
    /// What may follow any other rule.
    AfterRule,
    /// What may follow the time.
    AfterTime,
}

impl fmt::Display for Expected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::User => "a user",
            Self::Account => "an account",
            Self::On => "`on` and an account",
            Self::Time => "a time of RFC 3339, as 2027-01-31T00:00:00Z",
            Self::Reason => "a reason",
            Self::AfterWord => {
                "`until`, `because` or the end, or a line that begins with `block`, `pardon`, `close` or `allow`"
            }
            Self::AfterUser => "`on`, `until`, `because` or the end of the line",
            Self::AfterRule => "`until`, `because` or the end of the line",
            Self::AfterTime => "`because` or the end of the line",
        })
    }
}
