//! Why a record of the blocklist's topic cannot be used.

/// What is wrong with a record.
///
/// A record that cannot be used is skipped. If its key names a rule, the rule does not hold: a replica that starts after a compaction
/// sees only this record, so one that has seen an older record must not go by that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Poison {
    /// A null key.
    #[error("the record has no key")]
    NoKey,
    /// A key above [`KEY_BYTES_MAX`](crate::decide::topic::key::KEY_BYTES_MAX).
    #[error("the key has {0} bytes, more than 16384")]
    KeyTooLong(usize),
    /// A key that is not text.
    #[error("the key is not UTF-8")]
    KeyNotUtf8,
    /// The first part of the key is unknown.
    #[error("the key is of the unknown kind `{0}`; expected block, pardon, allow, close or topic")]
    Kind(Box<str>),
    /// The parts of the key do not fit its kind, or it ends in empty parts.
    #[error("the key has other parts than its kind: expected {0}")]
    Parts(&'static str),
    /// A value above [`VALUE_BYTES_MAX`](crate::decide::topic::value::VALUE_BYTES_MAX).
    #[error("the value has {0} bytes, more than 65536")]
    ValueTooLong(usize),
    /// The value is not a JSON object with the fields of a rule.
    #[error("the value is not the JSON object of a rule: {0}")]
    Value(Box<str>),
    /// A field of the value is not a time.
    #[error("`{0}` in the value is not a time of RFC 3339, as 2027-01-31T00:00:00Z")]
    Time(&'static str),
    /// The record needs a field that this version does not know.
    #[error("the value needs `{0}`, which this version does not know")]
    Needs(Box<str>),
    /// The header `topic` is not an identity.
    #[error("the header `topic` is not an identity of 16 lowercase hex digits")]
    Header,
}

impl Poison {
    /// The reasons in metrics.
    pub const REASONS: [&'static str; 5] = ["key", "value", "needs", "too_large", "header"];

    /// The reason in metrics: one of [`Self::REASONS`].
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoKey | Self::KeyNotUtf8 | Self::Kind(_) | Self::Parts(_) => "key",
            Self::Value(_) | Self::Time(_) => "value",
            Self::Needs(_) => "needs",
            Self::KeyTooLong(_) | Self::ValueTooLong(_) => "too_large",
            Self::Header => "header",
        }
    }
}
