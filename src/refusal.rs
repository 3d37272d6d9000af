//! The reasons for refusing a request, with their responses.

use crate::request::QueryError;

/// Why a request is refused.
///
/// A *refused* callback is wrong, and would be wrong again. A *lost* callback was valid, and is gone: the sender does not repeat it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Callbacks are sent by POST only.
    #[error("callbacks are sent with POST")]
    Method,
    /// HTTP requires exactly one `Host` header with a valid host.
    #[error("there must be one Host header, and it must name a host")]
    Host,
    /// Another `Transfer-Encoding` than a single `chunked`: where the body ends is ambiguous.
    #[error("chunked is the only Transfer-Encoding that is supported, and only once")]
    TransferEncoding,
    /// The body is compressed, which is not supported: Tencent does not compress.
    #[error("the body must not have a Content-Encoding")]
    ContentEncoding,
    /// The sender is not in the allow-list.
    #[error("callbacks from this sender are not allowed")]
    Sender,
    /// The path is not the configured one.
    #[error("callbacks are not accepted on this path")]
    Path,
    /// The query cannot be parsed.
    #[error("{0}")]
    Query(QueryError),
    /// A POST with a body has no `CallbackCommand` in the query: a proxy has dropped the query.
    #[error("CallbackCommand is missing in the query; a proxy must pass the whole query on, byte for byte")]
    CommandMissing,
    /// No `SdkAppid` in the query.
    #[error("SdkAppid is missing in the query")]
    AppMissing,
    /// The `SdkAppid` is not configured.
    #[error("SdkAppid is not configured")]
    AppUnknown,
    /// `Sign` or `RequestTime` is missing in the query of an application whose callbacks are signed.
    #[error("{0} is missing in the query")]
    SignMissing(&'static str),
    /// No token of the application makes this `Sign` for this `RequestTime`.
    #[error("Sign is wrong")]
    SignWrong,
    /// The signature is valid, but too old, or too far in the future.
    #[error("RequestTime is {seconds_off} seconds away from now; at most {window} are taken")]
    SignStale {
        /// The distance from now, in either direction.
        seconds_off: u64,
        /// The configured limit, in seconds.
        window: u64,
    },
    /// The body is longer than the limit.
    #[error("the body is longer than {limit} bytes")]
    BodyTooLarge {
        /// The configured limit, in bytes.
        limit: usize,
    },
    /// The body was not received in time. The part that was received is discarded.
    #[error("the body was not received in time")]
    BodyTimeout,
    /// The sender closed the connection before the end of the request. Nobody reads this response.
    #[error("the request was broken off")]
    BrokenOff,
    /// The body is not JSON.
    #[error("the body is not JSON: {what} at line {line} column {column}")]
    NotJson {
        /// The message of the parser.
        what: Box<str>,
        /// The line, from 1.
        line: usize,
        /// The column in bytes, from 1.
        column: usize,
    },
    /// The body is JSON, but not an object.
    #[error("the body is not a JSON object at line {line} column {column}")]
    NotObject {
        /// The line, from 1.
        line: usize,
        /// The column in bytes, from 1.
        column: usize,
    },
    /// The command in the body is not the one in the URL.
    #[error("CallbackCommand in the body is not the one in the URL: {what} at line {line} column {column}")]
    CommandMismatch {
        /// The message of the parser.
        what: Box<str>,
        /// The line, from 1.
        line: usize,
        /// The column in bytes, from 1.
        column: usize,
    },
    /// A field of a before-callback that the decision needs is missing or has the wrong type.
    #[error("cannot be decided: {what} at line {line} column {column}")]
    Undecidable {
        /// The message of the parser.
        what: Box<str>,
        /// The line, from 1.
        line: usize,
        /// The column in bytes, from 1.
        column: usize,
    },
    /// The budget for bodies that are being received is exhausted, and this body has not arrived with its head.
    #[error("too many bodies are being received")]
    BodiesFull,
    /// The queue is full, and so is the room for waiting callbacks.
    #[error("the queue is full")]
    QueueFull,
    /// The share of its topic is full of records that Kafka has not accepted.
    #[error("too many callbacks of this command are waiting for Kafka")]
    TopicFull,
    /// There was no room, or no acknowledgement from Kafka, before the deadline.
    #[error("not acknowledged in time")]
    Deadline,
    /// The journal's quota is reached, or its disk is full.
    #[error("the journal is full")]
    JournalFull,
    /// The disk of the journal can no longer be trusted. The process is about to end.
    #[error("the journal has failed")]
    JournalFailed,
    /// The process is stopping, and accepts nothing more.
    #[error("stopping")]
    Stopping,
    /// Kafka accepts neither its record nor its raw bytes. Found out after the response, or instead of it.
    #[error("kafka rejects it")]
    Unpublishable,
}

/// A [`Refusal`] without its details: a closed list, for labels and headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// [`Refusal::Method`]
    Method,
    /// [`Refusal::Host`]
    Host,
    /// [`Refusal::TransferEncoding`]
    TransferEncoding,
    /// [`Refusal::ContentEncoding`]
    ContentEncoding,
    /// [`Refusal::Sender`]
    Sender,
    /// [`Refusal::Path`]
    Path,
    /// [`Refusal::Query`]
    Query,
    /// [`Refusal::CommandMissing`]
    CommandMissing,
    /// [`Refusal::AppMissing`]
    AppMissing,
    /// [`Refusal::AppUnknown`]
    AppUnknown,
    /// [`Refusal::SignMissing`]
    SignMissing,
    /// [`Refusal::SignWrong`]
    SignWrong,
    /// [`Refusal::SignStale`]
    SignStale,
    /// [`Refusal::BodyTooLarge`]
    BodyTooLarge,
    /// [`Refusal::BodyTimeout`]
    BodyTimeout,
    /// [`Refusal::BrokenOff`]
    BrokenOff,
    /// [`Refusal::NotJson`]
    NotJson,
    /// [`Refusal::NotObject`]
    NotObject,
    /// [`Refusal::CommandMismatch`]
    CommandMismatch,
    /// [`Refusal::Undecidable`]
    Undecidable,
    /// [`Refusal::BodiesFull`]
    BodiesFull,
    /// [`Refusal::QueueFull`]
    QueueFull,
    /// [`Refusal::TopicFull`]
    TopicFull,
    /// [`Refusal::Deadline`]
    Deadline,
    /// [`Refusal::JournalFull`]
    JournalFull,
    /// [`Refusal::JournalFailed`]
    JournalFailed,
    /// [`Refusal::Stopping`]
    Stopping,
    /// [`Refusal::Unpublishable`]
    Unpublishable,
}

/// The account of the ledger in which a callback ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerAccount {
    /// The callback is wrong, and its sender was told so.
    Refused,
    /// The callback is valid, and gone.
    Lost,
}

impl Refusal {
    /// The reason without details.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Method => Reason::Method,
            Self::Host => Reason::Host,
            Self::TransferEncoding => Reason::TransferEncoding,
            Self::ContentEncoding => Reason::ContentEncoding,
            Self::Sender => Reason::Sender,
            Self::Path => Reason::Path,
            Self::Query(_) => Reason::Query,
            Self::CommandMissing => Reason::CommandMissing,
            Self::AppMissing => Reason::AppMissing,
            Self::AppUnknown => Reason::AppUnknown,
            Self::SignMissing(_) => Reason::SignMissing,
            Self::SignWrong => Reason::SignWrong,
            Self::SignStale { .. } => Reason::SignStale,
            Self::BodyTooLarge { .. } => Reason::BodyTooLarge,
            Self::BodyTimeout => Reason::BodyTimeout,
            Self::BrokenOff => Reason::BrokenOff,
            Self::NotJson { .. } => Reason::NotJson,
            Self::NotObject { .. } => Reason::NotObject,
            Self::CommandMismatch { .. } => Reason::CommandMismatch,
            Self::Undecidable { .. } => Reason::Undecidable,
            Self::BodiesFull => Reason::BodiesFull,
            Self::QueueFull => Reason::QueueFull,
            Self::TopicFull => Reason::TopicFull,
            Self::Deadline => Reason::Deadline,
            Self::JournalFull => Reason::JournalFull,
            Self::JournalFailed => Reason::JournalFailed,
            Self::Stopping => Reason::Stopping,
            Self::Unpublishable => Reason::Unpublishable,
        }
    }
}

impl Reason {
    /// All reasons: `Reason::ALL[reason.index()] == reason`.
    pub const ALL: [Self; 28] = [
        Self::Method,
        Self::Host,
        Self::TransferEncoding,
        Self::ContentEncoding,
        Self::Sender,
        Self::Path,
        Self::Query,
        Self::CommandMissing,
        Self::AppMissing,
        Self::AppUnknown,
        Self::SignMissing,
        Self::SignWrong,
        Self::SignStale,
        Self::BodyTooLarge,
        Self::BodyTimeout,
        Self::BrokenOff,
        Self::NotJson,
        Self::NotObject,
        Self::CommandMismatch,
        Self::Undecidable,
        Self::BodiesFull,
        Self::QueueFull,
        Self::TopicFull,
        Self::Deadline,
        Self::JournalFull,
        Self::JournalFailed,
        Self::Stopping,
        Self::Unpublishable,
    ];

    /// The index in [`Reason::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The status of the response: 5xx if the fault is callbridge's, 4xx if it is the sender's.
    pub const fn status(self) -> u16 {
        match self {
            Self::Host
            | Self::TransferEncoding
            | Self::Query
            | Self::CommandMissing
            | Self::BrokenOff
            | Self::NotJson
            | Self::NotObject
            | Self::CommandMismatch
            | Self::Undecidable => 400,
            Self::Sender
            | Self::AppMissing
            | Self::AppUnknown
            | Self::SignMissing
            | Self::SignWrong
            | Self::SignStale => 403,
            Self::Path => 404,
            Self::Method => 405,
            Self::BodyTimeout => 408,
            Self::BodyTooLarge => 413,
            Self::ContentEncoding => 415,
            Self::BodiesFull
            | Self::QueueFull
            | Self::TopicFull
            | Self::Deadline
            | Self::JournalFull
            | Self::JournalFailed
            | Self::Stopping
            | Self::Unpublishable => 503,
        }
    }

    /// The account of the ledger.
    pub const fn account(self) -> LedgerAccount {
        match self {
            Self::BodiesFull
            | Self::QueueFull
            | Self::TopicFull
            | Self::Deadline
            | Self::JournalFull
            | Self::JournalFailed
            | Self::Stopping
            | Self::Unpublishable => LedgerAccount::Lost,
            Self::Method
            | Self::Host
            | Self::TransferEncoding
            | Self::ContentEncoding
            | Self::Sender
            | Self::Path
            | Self::Query
            | Self::CommandMissing
            | Self::AppMissing
            | Self::AppUnknown
            | Self::SignMissing
            | Self::SignWrong
            | Self::SignStale
            | Self::BodyTooLarge
            | Self::BodyTimeout
            | Self::BrokenOff
            | Self::NotJson
            | Self::NotObject
            | Self::CommandMismatch
            | Self::Undecidable => LedgerAccount::Refused,
        }
    }

    /// Whether the raw body goes to `<prefix>.rejected`: the sender is authenticated, and the callback may be corrected and replayed.
    pub const fn is_kept(self) -> bool {
        matches!(self, Self::NotJson | Self::NotObject | Self::CommandMismatch | Self::Undecidable)
    }

    /// Whether the connection closes after the response: the end of the body is not known, the body is not worth reading, or nobody is left
    /// to read the response.
    pub const fn closes(self) -> bool {
        matches!(
            self,
            Self::Host
                | Self::TransferEncoding
                | Self::Sender
                | Self::BodyTooLarge
                | Self::BodyTimeout
                | Self::BrokenOff
                | Self::JournalFailed
                | Self::Stopping
        )
    }

    /// The reason with this word.
    pub fn find(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.word() == word)
    }

    /// The word for labels and headers.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Host => "host",
            Self::TransferEncoding => "transfer_encoding",
            Self::ContentEncoding => "content_encoding",
            Self::Sender => "sender",
            Self::Path => "path",
            Self::Query => "query",
            Self::CommandMissing => "command_missing",
            Self::AppMissing => "app_missing",
            Self::AppUnknown => "app_unknown",
            Self::SignMissing => "sign_missing",
            Self::SignWrong => "sign_wrong",
            Self::SignStale => "sign_stale",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::BrokenOff => "broken_off",
            Self::NotJson => "not_json",
            Self::NotObject => "not_object",
            Self::CommandMismatch => "command_mismatch",
            Self::Undecidable => "undecidable",
            Self::BodiesFull => "bodies_full",
            Self::QueueFull => "queue_full",
            Self::TopicFull => "topic_full",
            Self::Deadline => "deadline",
            Self::JournalFull => "journal_full",
            Self::JournalFailed => "journal_failed",
            Self::Stopping => "stopping",
            Self::Unpublishable => "unpublishable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_index_and_has_its_own_word() {
        let mut words = std::collections::BTreeSet::new();
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(words.insert(reason.word()), "{} is used twice", reason.word());
            assert_eq!(Reason::find(reason.word()), Some(reason));
        }
    }

    #[test]
    fn what_is_lost_is_503_and_what_is_refused_is_4xx() {
        for reason in Reason::ALL {
            match reason.account() {
                LedgerAccount::Lost => assert_eq!(reason.status(), 503, "{}", reason.word()),
                LedgerAccount::Refused => assert!((400..500).contains(&reason.status()), "{}", reason.word()),
            }
        }
    }
}
