//! The log on disk: what was appended is read back in order after any crash, until it is delivered.
//!
//! # Files
//!
//! One flat directory. All files that are appended to have the same size, and are written whole with zeros and synced before anything
//! depends on them, so that an append only ever overwrites: its `fdatasync` has no metadata to write, and a full disk shows when a file is
//! made, never between a callback and its answer. The output of a compaction has the size that it needs.
//!
//! | name | what it is |
//! |---|---|
//! | `<first sequence>.seg` | a segment, or the output of a compaction: 20 digits |
//! | `<number>.spare` | a file that will become a segment: new, or a segment whose captures are all delivered |
//! | `<number>.tmp` | a spare or an output that is being made; removed at the start |
//! | `<first sequence>.damaged` | a segment that was damaged and salvaged; kept for people, never read again |
//!
//! # A segment
//!
//! A header of one block, then frames, each from the start of a block, back to back. A block has 4096 bytes. Numbers are little-endian.
//!
//! | header | bytes | |
//! |---|---|---|
//! | 0 | 6 | `CBJRNL` |
//! | 6 | 2 | `02`, the version of the format |
//! | 8 | 4 | CRC-32C of bytes 0 to 8, and of 12 to the end of the last of the ends |
//! | 12 | 4 | how many ends follow |
//! | 16 | 8 | nonce: random, of this use of this file |
//! | 24 | 8 | session: random, of the run of the process that wrote it; of an output, its first input's |
//! | 32 | 8 | the first sequence number |
//! | 40 | 8 | of an output, where its range ends (exclusive); else 0 |
//! | 48 | 8 | of an output, how many captures it has |
//! | 56 | 32, … | ends: how far earlier sessions went. Of each, its last segment's first number and nonce, the number behind its last capture, and the byte behind its last frame |
//!
//! | frame | bytes | |
//! |---|---|---|
//! | 0 | 4 | `CBF2` |
//! | 4 | 4 | CRC-32C of byte 8 to the end of the payload |
//! | 8 | 8 | the segment's nonce |
//! | 16 | 8 | the sequence number of its first capture, or of the next one if it has none |
//! | 24 | 8 | the number behind its last capture |
//! | 32 | 4 | bytes of payload |
//! | 36 | 4 | captures in it |
//! | 40 | 4 | which block of the file it begins in |
//! | 44 | 4 | 1 if it seals the segment: nothing follows; 2 more if it is of an output |
//! | 48 | … | payload: records, then zeros up to the next block |
//!
//! | record | bytes | |
//! |---|---|---|
//! | 0 | 1 | 1: a capture that the ledger counts, 2: a capture that it does not, 3: what was delivered |
//! | 1 | 4 | bytes that follow |
//! | 5 | … | runs of sequence numbers: for each, how many lie between it and the run before, and how many it has beyond one (LEB128); or of a capture: |
//! | 5 | 4 | its key: a hash of what it has in common with others of its kind |
//! | 9 | 4 | how far its number is behind the frame's first one |
//! | 13 | … | the capture |
//!
//! Captures are numbered from 1, without gaps within a segment that is not an output, and no number is used twice. A segment that stayed
//! without captures keeps its number to itself: the next one begins with the number behind it.
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
//! * *Once a later session has begun a segment*, its header says how far the one before went. What is missing before that is damaged. So
//!   that this is true of the disk and not only of the machine's memory, that segment is synced and read from the disk first.
//! * *What was delivered* is recorded about once a second, in frames that are written anyway. What is not recorded is delivered again
//!   after a restart.
//! * *What was delivered of a segment* is said in itself and in newer ones only.
//! * *A segment becomes a spare* when all its captures are delivered, and it says nothing of the captures of an older one. The newest is
//!   never taken, so that numbers go on.
//! * *Where segments are held up*, some that are adjacent, closed and whole are compacted (`compaction.rs`): one output has the captures of
//!   them that are not delivered, with the numbers they have, and what they said of older segments. Its range is theirs together. It is
//!   written as a `.tmp`, synced, renamed over the first of them, and the directory synced; then the others are removed, and the directory
//!   synced. What begins within the range of an output is therefore superseded, and is removed at the start, behind a sync of the directory.
//!   No segment is taken back before what was superseded has gone. An output was whole before it had its name: it has no torn end.
//! * *A compaction pays*: it wins a segment and at least as much as it copies; or, where there is little room, an eighth of its inputs. A
//!   segment's worth of the quota is reserved for it.
//! * *A reader* knows the number that it wants, and where that was. If the segment there is another by now, it looks for the number.
//! * *No other state.* Everything is found again from the segments; one that is missing was delivered.
//! * *A failed sync is final*: the process must end, and the next one begins a new segment.

mod compaction;
pub(crate) mod cursor;
pub(crate) mod directory;
pub(crate) mod disk;
pub(crate) mod format;
pub(crate) mod maintenance;
mod ordinal_set;
pub(crate) mod recovery;
pub(crate) mod scan;
mod seq_set;
pub(crate) mod store;
pub(crate) mod writer;

pub(crate) mod mutant;

use std::io;

use serde::Deserialize;

/// The number of a capture in the log.
pub(crate) type Seq = u64;

/// What a log may take, and how it behaves.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The size of every file, in bytes. Whole blocks.
    pub(crate) segment_bytes: u64,
    /// What all files may take together, in bytes. At least [`SEGMENTS_MIN`] segments.
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

/// The least that a log must be allowed, in segments: one that is written, a spare, one that is held up, and the reserve.
pub(crate) const SEGMENTS_MIN: u64 = 4;

impl Options {
    /// What all files may take with a new spare, in bytes: a segment's worth is reserved for the output of a compaction.
    fn spares_bytes_max(&self) -> u64 {
        self.quota_bytes.saturating_sub(self.segment_bytes)
    }

    /// How many bytes of records may be undelivered: what compaction can make room for at any time, beside a segment that is written, one
    /// that was, a spare and the reserve; and in the smallest log half a segment.
    pub(crate) fn undelivered_bytes_max(&self) -> u64 {
        let room = self.quota_bytes.saturating_sub(SEGMENTS_MIN * self.segment_bytes) / 8 * 7;
        room.max(self.segment_bytes / 2)
    }

    /// How many runs of what was delivered one frame records at most.
    fn runs_per_frame_max(&self) -> u64 {
        (self.segment_bytes / BYTES_PER_RUN).clamp(1, RUNS_MAX)
    }
}

/// What to do when acknowledged captures cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    /// How many captures are missing, as far as that can be told.
    pub(crate) captures: u64,
    /// What the disk says, if it does not give what is there. Else it gives something else.
    pub(crate) reason: Option<String>,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, offset, from, to, captures, reason } = self;
        write!(formatter, "{name} is damaged at byte {offset}: ")?;
        match to {
            Some(to) => write!(formatter, "{captures} captures ({from} to {to}, exclusive) cannot be read")?,
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
    /// It is whole, and nothing of it can be understood.
    #[error(
        "{name} has the journal format {version}, and this version of callbridge has {}: run the version that wrote it until nothing \
         waits in it and then move the directory away, or give this one another directory",
        format::VERSION
    )]
    Version {
        /// The file.
        name: String,
        /// Its version.
        version: String,
    },
}

/// Why a batch was not appended. It can be tried again, but after [`BatchError::Failed`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum BatchError {
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
