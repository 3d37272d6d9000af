//! The log on disk: captures are appended, survive any crash, and are read back in order until they are delivered.
//!
//! # Files
//!
//! One flat directory. All segments that are appended to have the same size. They are filled with zeros and synced in advance, so an append
//! only overwrites: its `fdatasync` has no metadata to write, and a full disk is noticed when a file is made, never between a callback and
//! its response. The output of a compaction has just the size that it needs.
//!
//! | name | meaning |
//! |---|---|
//! | `<first sequence>.seg` | a segment, or the output of a compaction: 20 digits |
//! | `<number>.spare` | a spare file that will become a segment: new, or a segment whose captures are all delivered |
//! | `<number>.tmp` | a spare or an output that is being made; removed at the start |
//! | `<first sequence>.damaged` | a damaged segment that was salvaged; kept for inspection, never read again |
//!
//! # A segment
//!
//! A header of one block, followed by frames, each of which starts at the beginning of a block. A block has 4096 bytes. Numbers are
//! little-endian.
//!
//! | header | bytes | |
//! |---|---|---|
//! | 0 | 6 | `CBJRNL` |
//! | 6 | 2 | `02`, the version of the format |
//! | 8 | 4 | CRC-32C of bytes 0 to 8, and of 12 to the end of the last end mark |
//! | 12 | 4 | the number of end marks that follow |
//! | 16 | 8 | nonce: random, for this use of the file |
//! | 24 | 8 | session: random, for the start of the process that wrote it; of an output, that of its first input |
//! | 32 | 8 | the first sequence number |
//! | 40 | 8 | of an output, the end of its range (exclusive); else 0 |
//! | 48 | 8 | of an output, the number of its captures; else the size of the file, or 0 if it is not recorded |
//! | 56 | 32, … | end marks: how far earlier sessions went. Each has the first sequence number and the nonce of its last segment, the number behind its last capture, and the offset behind its last frame |
//!
//! | frame | bytes | |
//! |---|---|---|
//! | 0 | 4 | `CBF2` |
//! | 4 | 4 | CRC-32C of byte 8 to the end of the payload |
//! | 8 | 8 | the segment's nonce |
//! | 16 | 8 | the sequence number of its first capture, or the next one if it has none |
//! | 24 | 8 | the number behind its last capture |
//! | 32 | 4 | bytes of the payload |
//! | 36 | 4 | the number of captures |
//! | 40 | 4 | the index of the block in the file where it begins |
//! | 44 | 4 | flags. 1: it seals the segment, nothing follows; 2: it is part of an output |
//! | 48 | … | payload: items, then zeros up to the next block |
//!
//! | item | bytes | |
//! |---|---|---|
//! | 0 | 1 | 1: a capture that the ledger counts, 2: a capture that it does not count, 3: sequence numbers that were delivered |
//! | 1 | 4 | the bytes that follow |
//! | 5 | … | of kind 3, runs of sequence numbers: for each, the gap to the run before, and its length minus one (LEB128). Of a capture: |
//! | 5 | 4 | its kind key, the same for all captures of its kind |
//! | 9 | 4 | its number minus the first number of the frame |
//! | 13 | … | the capture |
//!
//! Captures are numbered from 1, without gaps within a segment that is not an output, and no number is used twice. A segment without
//! captures keeps its first number to itself: the next segment begins with the number after it.
//!
//! # Why nothing is lost
//!
//! * *One frame at a time.* A frame is written and synced before the next one, so each frame proves that the frames before it were durable,
//!   and only the very last frame of a session can be torn. An unreadable frame with a valid frame of the same session behind it was
//!   acknowledged, and is *damaged*: damage is never skipped silently.
//! * *Bytes that the disk cannot read* may have been a whole frame: they are damage, also at the end of a session. So are those that a file
//!   lacks that is shorter than its header says.
//! * *Frames do not share blocks*, so a torn write cannot destroy acknowledged captures.
//! * *Each frame has the nonce*, covered by its checksum: contents from an earlier use of the file are not mistaken for current ones, and
//!   the sender of a callback cannot forge a frame.
//! * *A session appends only to its own segments.* Segments of earlier sessions are never written again, not even to repair them.
//! * *A segment is begun* by writing the header into a spare, syncing it, renaming it and syncing the directory, in this order; *it is
//!   ended* by a seal, which vouches for its last captures.
//! * *The first segment of a session* records how far the session before went. What is missing before that end is damaged. That end must be
//!   on the disk, and not only in the page cache, so the segment is synced and then read from the disk first.
//! * *Deliveries* are recorded about once a second, in frames that are written anyway. Deliveries that are not recorded are repeated after
//!   a restart.
//! * *The deliveries of a segment's captures* are recorded only in itself and in newer segments.
//! * *A segment becomes a spare* once all its captures are delivered and it has no items about captures of an older segment. The newest
//!   segment is never recycled, so that numbering continues.
//! * *Segments that are held up by undelivered captures* are compacted if they are adjacent, closed and undamaged (`compaction.rs`). One
//!   output has their undelivered captures, with their numbers, and their items about older segments. Its range covers all inputs. It is
//!   written as a `.tmp`, synced, renamed over the first input, and the directory is synced; then the other inputs are removed, and the
//!   directory is synced again. So a segment that begins within the range of an output is superseded, and is removed at the start, after a
//!   sync of the directory. No segment is recycled before the superseded ones are gone. An output is complete before it gets its name: it
//!   has no torn end.
//! * *A compaction must pay*: it frees a segment, and at least as many bytes as it copies; or, if room is short, an eighth of its inputs.
//!   The room of one segment is reserved for it within the quota.
//! * *A reader* knows the sequence number that it needs and where that was. If another segment is there now, it searches for the number.
//! * *There is no other state.* Everything is recovered from the segments; a segment that is missing was delivered.
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

/// The sequence number of a capture.
pub(crate) type Seq = u64;

/// The limits of a log, and its behaviour on damage.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The size of every file, in bytes; a multiple of the block size.
    pub(crate) segment_bytes: u64,
    /// The limit for all files together, in bytes. At least [`SEGMENTS_MIN`] segments.
    pub(crate) quota_bytes: u64,
    /// The space that must stay free on the filesystem when a file is made, in bytes.
    pub(crate) free_bytes_min: u64,
    /// What to do about damage.
    pub(crate) on_corruption: OnCorruption,
    /// A fault that is built in to check that the tests find it.
    #[cfg(any(test, feature = "mutants"))]
    pub(crate) mutant: Option<mutant::Mutant>,
}

/// One frame records at most one run of delivered numbers for this many bytes of a segment.
const BYTES_PER_RUN: u64 = 4 * 1024;
/// The most runs that a frame records.
const RUNS_MAX: u64 = 8 * 1024;

/// The smallest log, in segments: one that is written, a spare, one that is held up, and the reserve for a compaction.
pub(crate) const SEGMENTS_MIN: u64 = 4;

impl Options {
    /// The limit for all files when a spare is made, in bytes: the room of one segment is reserved for the output of a compaction.
    fn spares_bytes_max(&self) -> u64 {
        self.quota_bytes.saturating_sub(self.segment_bytes)
    }

    /// How many bytes of items may be undelivered: as many as compaction can make room for at any time, beside the segment that is
    /// written, the one before, a spare and the reserve. In the smallest log, half a segment.
    pub(crate) fn undelivered_bytes_max(&self) -> u64 {
        let room = self.quota_bytes.saturating_sub(SEGMENTS_MIN * self.segment_bytes) / 8 * 7;
        room.max(self.segment_bytes / 2)
    }

    /// The most runs of delivered numbers that one frame records.
    fn runs_per_frame_max(&self) -> u64 {
        (self.segment_bytes / BYTES_PER_RUN).clamp(1, RUNS_MAX)
    }
}

/// What to do if acknowledged captures cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnCorruption {
    /// Do not start, so that an operator looks into it.
    #[default]
    Refuse,
    /// Log the damage, continue, and set the segment aside once its other captures are delivered.
    Salvage,
}

/// Acknowledged captures that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The file.
    pub(crate) name: String,
    /// The offset in the file.
    pub(crate) offset: u64,
    /// The first capture that is or may be missing.
    pub(crate) from: Seq,
    /// The number behind the last missing capture, if it is known. Equal to `from` if no capture is missing.
    pub(crate) to: Option<Seq>,
    /// The number of missing captures, as far as it is known.
    pub(crate) captures: u64,
    /// The error of the disk, if it failed to read; `None` if it returned wrong bytes.
    pub(crate) reason: Option<String>,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, offset, from, to, captures, reason } = self;
        write!(formatter, "{name} is damaged at byte {offset}: ")?;
        match to {
            Some(to) if to == from => formatter.write_str("no capture is missing")?,
            Some(to) => write!(formatter, "{captures} captures ({from} to {to}, exclusive) cannot be read")?,
            None => write!(formatter, "how many captures from {from} on cannot be read is not known")?,
        }
        reason.as_ref().map_or(Ok(()), |reason| write!(formatter, " ({reason})"))
    }
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The disk failed.
    #[error("{what}")]
    Io {
        /// The operation.
        what: String,
        /// The error.
        source: io::Error,
    },
    /// Acknowledged captures cannot be read, and `on_corruption` is `refuse`.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Damaged(Vec<Damage>),
    /// Its format is another version.
    #[error(
        "{name} has the journal format {version}, and this version of callbridge has {}: run the version that wrote it until nothing \
         waits in it and then move the directory away, or give this one another directory",
        format::VERSION
    )]
    Version {
        /// The file.
        name: String,
        /// The version of its format.
        version: String,
    },
}

/// Why a frame was not appended. Except after [`AppendError::Failed`], it can be tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// There is no spare file: the quota is reached, or the filesystem is full.
    #[error("no spare segment")]
    Full,
    /// The filesystem is full although the space was allocated. Nothing was appended.
    #[error("the filesystem is full")]
    NoSpace(#[source] io::Error),
    /// The disk can no longer be trusted. The process must end.
    #[error("{what}")]
    Failed {
        /// The operation.
        what: &'static str,
        /// The error.
        source: io::Error,
    },
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
