//! Why a request is not taken: the one list, with what the sender is told of each.

use crate::request::QueryError;

/// A request that is not taken.
///
/// A *refused* one was wrong, and will be wrong again. A *lost* one was right, and is gone: the sender does not repeat it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Only POST carries callbacks.
    #[error("callbacks are sent with POST")]
    Method,
    /// HTTP wants one `Host`, and it names no host or comes more than once or not at all.
    #[error("there must be one Host header, and it must name a host")]
    Host,
    /// The body is transferred in another way than one `chunked`; where it ends is anybody's guess.
    #[error("chunked is the only Transfer-Encoding that is taken, and only once")]
    TransferEncoding,
    /// The body is compressed, and no coding is taken: Tencent does not compress.
    #[error("the body must not have a Content-Encoding")]
    ContentEncoding,
    /// It comes from somewhere else than the senders that are configured.
    #[error("callbacks are not taken from this sender")]
    Sender,
    /// The path is not the configured one.
    #[error("callbacks are not taken on this path")]
    Path,
    /// The query cannot be read.
    #[error("{0}")]
    Query(QueryError),
    /// A POST with a body and no `CallbackCommand` in the query: a proxy has lost the query.
    #[error("CallbackCommand is missing in the query; a proxy must pass the whole query on, byte for byte")]
    CommandMissing,
    /// No `SdkAppid` in the query.
    #[error("SdkAppid is missing in the query")]
    AppMissing,
    /// An `SdkAppid` that is not configured here.
    #[error("SdkAppid is not one of ours")]
    AppUnknown,
    /// No `Sign` or no `RequestTime` in the query, where the application's callbacks are signed.
    #[error("{0} is missing in the query")]
    SignMissing(&'static str),
    /// No token of the application makes this `Sign` of this `RequestTime`.
    #[error("Sign is wrong")]
    SignWrong,
    /// Rightly signed, but too long ago, or too far ahead of this clock.
    #[error("RequestTime is {seconds_off} seconds away from now; at most {window} are taken")]
    SignStale {
        /// How far it is from now, in either direction.
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
    /// The body did not come in time. What came of it is dropped.
    #[error("the body did not come in time")]
    BodyTimeout,
    /// The sender broke the request off. Nobody reads this answer.
    #[error("the request was broken off")]
    BrokenOff,
    /// The body is not JSON.
    #[error("the body is not JSON: {what} at line {line} column {column}")]
    NotJson {
        /// What the parser met.
        what: Box<str>,
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in bytes.
        column: usize,
    },
    /// The body is JSON, but not an object.
    #[error("the body is not a JSON object at line {line} column {column}")]
    NotObject {
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in bytes.
        column: usize,
    },
    /// The body names a command, and not the URL's.
    #[error("CallbackCommand in the body is not the one in the URL: {what} at line {line} column {column}")]
    CommandMismatch {
        /// What stands there instead.
        what: Box<str>,
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in bytes.
        column: usize,
    },
    /// A before-callback in which what the decision needs is missing or has the wrong shape.
    #[error("cannot be decided: {what} at line {line} column {column}")]
    Undecidable {
        /// What is missing or wrong.
        what: Box<str>,
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in bytes.
        column: usize,
    },
    /// Too many bodies are on their way, and this one has not come whole with its head.
    #[error("too many bodies are on their way")]
    BodiesFull,
    /// The queue is full, and so is the room for those who wait.
    #[error("the queue is full")]
    QueueFull,
    /// The records of its topic that Kafka has not taken hold the topic's whole share of the room.
    #[error("too many callbacks of this command wait for Kafka")]
    TopicFull,
    /// No room, or no word from Kafka, before the request's deadline.
    #[error("not acknowledged in time")]
    Deadline,
    /// The journal's quota is reached, or its disk is full.
    #[error("the journal is full")]
    JournalFull,
    /// The journal's disk cannot be trusted any more. The process is about to end.
    #[error("the journal has failed")]
    JournalFailed,
    /// The process is stopping and takes nothing more.
    #[error("stopping")]
    Stopping,
    /// Kafka takes neither its record nor its raw bytes. Found out after the answer, or instead of it.
    #[error("kafka does not take it")]
    Unpublishable,
}

/// A [`Refusal`] without its particulars: a closed list, for counters and headers.
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

/// Which account of the ledger a callback ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerAccount {
    /// Wrong, and answered so.
    Refused,
    /// Right, and gone.
    Lost,
}

impl Refusal {
    /// The reason alone.
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
    /// Every reason: `Reason::ALL[reason.index()] == reason`.
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

    /// Its place in [`Reason::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The HTTP status to answer. What may succeed later is 5xx; what never will is 4xx.
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

    /// Where the ledger counts it.
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

    /// Whether the raw body goes to `<prefix>.rejected`: the sender is known, and what it sent may be mended and replayed.
    pub const fn is_kept(self) -> bool {
        matches!(self, Self::NotJson | Self::NotObject | Self::CommandMismatch | Self::Undecidable)
    }

    /// Whether the connection ends with the answer: where the body ends is not known, it is not worth reading, or
    /// nobody is left to read.
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
