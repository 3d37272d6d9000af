//! The log on disk: what was appended is read back in order after any crash, until it is delivered.
//!
//! # Files
//!
//! One flat directory. All files of the log have the same size, and are written whole with zeros and synced before anything depends on
//! them, so that an append only ever overwrites: its `fdatasync` has no metadata to write, and a full disk shows when a file is made,
//! never between a callback and its answer.
//!
//! | name | what it is |
//! |---|---|
//! | `<first sequence>.seg` | a segment: 20 digits |
//! | `<number>.spare` | a file that will become a segment: new, or a segment whose captures are all delivered |
//! | `<number>.tmp` | a spare that is being made; removed at the start |
//! | `<first sequence>.damaged` | a segment that was damaged and salvaged; kept for people, never read again |
//!
//! # A segment
//!
//! A header of one block, then frames, each from the start of a block, back to back. A block has 4096 bytes. Numbers are little-endian.
//!
//! | header | bytes | |
//! |---|---|---|
//! | 0 | 8 | `CBJRNL01` |
//! | 8 | 4 | CRC-32C of bytes 12 to 48 |
//! | 12 | 4 | 0 |
//! | 16 | 8 | nonce: random, of this use of this file |
//! | 24 | 8 | session: random, of this run of the process |
//! | 32 | 8 | the first sequence number |
//! | 40 | 8 | how far this session's log was durable when the segment was begun (exclusive) |
//!
//! | frame | bytes | |
//! |---|---|---|
//! | 0 | 4 | `CBFR` |
//! | 4 | 4 | CRC-32C of byte 8 to the end of the payload |
//! | 8 | 8 | the segment's nonce |
//! | 16 | 8 | the sequence number of its first capture, or of the next one if it has none |
//! | 24 | 8 | how far this session's log was durable when the frame was written (exclusive) |
//! | 32 | 4 | bytes of payload |
//! | 36 | 4 | captures in it |
//! | 40 | 4 | which block of the file it begins in |
//! | 44 | 4 | 1 if it seals the segment: nothing follows |
//! | 48 | … | payload: records, then zeros up to the next block |
//!
//! | record | bytes | |
//! |---|---|---|
//! | 0 | 1 | 1: a capture that the ledger counts, 2: a capture that it does not, 3: what was delivered |
//! | 1 | 4 | bytes that follow |
//! | 5 | … | the capture; or runs of sequence numbers: for each, how many lie between it and the run before, and how many it has beyond one (LEB128) |
//!
//! Captures are numbered from 1, without gaps within a segment, and no number is used twice. A segment that stayed without captures keeps
//! its number to itself: the next one begins with the number behind it.
//!
//! # Why it holds
//!
//! * *One frame at a time.* A frame is written and synced before the next is begun, and every frame says so. So of what cannot be read,
//!   only the very last frame of a session can be torn. Whatever has a valid frame of the same session behind it was acknowledged, and is
//!   *damaged*: that is never passed over in silence.
//! * *What the disk does not give* may have been a whole frame: it is damage, also at the end of a session.
//! * *Blocks are not shared*, so a torn write reaches nothing that was acknowledged.
//! * *The nonce* is in every frame under its checksum: what a file held in an earlier use is not mistaken for what it holds now, and
//!   nobody who sends callbacks can forge a frame.
//! * *A session appends only to segments it has begun itself.* What an earlier one left is never written again, also not to repair it.
//! * *A segment is begun* by writing the header into a spare, syncing it, renaming it and syncing the directory, in this order; *it is
//!   ended* by a seal, so that its last captures are vouched for as well.
//! * *What was delivered* is recorded about once a second, in frames that are written anyway. What is not recorded is delivered again
//!   after a restart.
//! * *A segment becomes a spare* when all its captures are delivered. Where an older one is held up, what it recorded of that one's
//!   delivery is recorded again before that, in *rounds*: one round is for all segments that can go by then, begins once they take much
//!   more than what has to be said again, and may write beyond the quota, since it gives back more. So records cannot feed on themselves.
//!   The newest segment is never taken, so that numbers go on.
//! * *No other state.* Everything is found again from the segments; one that is missing was delivered.
//! * *A failed sync is final*: the process must end, and the next one begins a new segment.

pub(crate) mod cursor;
pub(crate) mod directory;
pub(crate) mod disk;
pub(crate) mod format;
mod marks;
pub(crate) mod recovery;
pub(crate) mod scan;
pub(crate) mod store;
pub(crate) mod writer;

pub(crate) mod mutant;

use std::io;

/// The number of a capture in the log.
pub(crate) type Seq = u64;

/// What a log may take, and how it behaves.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The size of every file, in bytes. Whole blocks.
    pub(crate) segment_bytes: u64,
    /// What all files may take together, in bytes. At least two segments. It may be one segment more for a while, where the way to take
    /// segments back leads through it.
    pub(crate) quota_bytes: u64,
    /// What must stay free on the filesystem when a file is made, in bytes.
    pub(crate) free_bytes_min: u64,
    /// What to do about damage.
    pub(crate) on_corruption: OnCorruption,
    /// A fault to build in, to see that the tests find it.
    #[cfg(any(test, feature = "mutants"))]
    pub(crate) mutant: Option<mutant::Mutant>,
}

/// Of a segment's bytes, one frame records one run of what was delivered for so many.
const BYTES_PER_RUN: u64 = 4 * 1024;
/// And never more runs than this.
const RUNS_MAX: u64 = 8 * 1024;

impl Options {
    /// How many runs of what was delivered one frame records at most.
    fn runs_per_frame_max(&self) -> u64 {
        (self.segment_bytes / BYTES_PER_RUN).clamp(1, RUNS_MAX)
    }
}

/// What to do when acknowledged captures cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum OnCorruption {
    /// Do not start, so that somebody looks.
    #[default]
    Refuse,
    /// Say so, keep the segment aside when all else in it is delivered, and go on.
    Salvage,
}

/// Acknowledged captures that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The file.
    pub(crate) name: String,
    /// Where in it, in bytes.
    pub(crate) offset: u64,
    /// The first capture that is missing, or may be.
    pub(crate) from: Seq,
    /// The one behind the last, if that can be told. Equal to `from` when only bookkeeping was damaged.
    pub(crate) to: Option<Seq>,
    /// What the disk says, if it does not give what is there. Else it gives something else.
    pub(crate) reason: Option<String>,
}

impl Damage {
    /// How many captures are missing, as far as that can be told.
    pub(crate) fn captures(&self) -> u64 {
        self.to.unwrap_or(self.from).saturating_sub(self.from)
    }
}

impl std::fmt::Display for Damage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, offset, from, to, reason } = self;
        write!(formatter, "{name} is damaged at byte {offset}: ")?;
        match to {
            Some(to) => write!(formatter, "{} captures ({from} to {to}, exclusive) cannot be read", self.captures())?,
            None => write!(formatter, "how many captures from {from} on cannot be read is not known")?,
        }
        reason.as_ref().map_or(Ok(()), |reason| write!(formatter, " ({reason})"))
    }
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The disk does not do what is asked of it.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// Acknowledged captures cannot be read, and the operator wants to know.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Damaged(Vec<Damage>),
}

/// Why a batch was not appended. It can be tried again, but after [`AppendError::Failed`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// There is no spare file: the quota is reached, or the filesystem is full.
    #[error("no spare segment")]
    Full,
    /// The filesystem has no room where there should be some. Nothing was taken.
    #[error("the filesystem is full")]
    NoSpace(#[source] io::Error),
    /// The disk cannot be trusted any more. The process must end.
    #[error("{what}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
