//! Faults that can be built in, to see that the tests of durability find them. The program that is shipped has none.

use super::Options;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// An append is acknowledged before it is synced.
    AckBeforeSync,
    /// The directory is not synced when a segment is begun.
    NoDirectorySync,
    /// A segment becomes a spare although not all of it is delivered.
    RecycleTooEarly,
    /// A capture is recorded as delivered before it is.
    CheckpointBeforeDelivery,
    /// A sync that failed is taken for one that succeeded.
    IgnoreFailedSync,
    /// The output of a compaction is not synced before it gets its name.
    OutputNotSynced,
    /// What was compacted is removed before the output's name is durable.
    NoSyncBeforeRemoving,
    /// A start removes what was compacted before it has synced the directory.
    RemoveBeforeSync,
    /// A compaction does not carry over what was said of older segments.
    ForgetRuns,
    /// What was delivered while a compaction copied is forgotten.
    DeliveredAtCopy,
    /// What was delivered while a compaction copied is never recorded.
    LoseUnsaved,
    /// What was marked is not any more behind a compaction.
    LoseMarks,
    /// A compaction takes in one segment more than it may.
    RangeTooWide,
    /// A start takes the segment behind an output for one of its inputs.
    SupersedeEqual,
    /// An output that has no end is taken for one that was cut off.
    TornOutput,
    /// A compaction counts what the ledger does not count.
    CountAll,
    /// Captures of an output are numbered without gaps.
    NumberByOrdinal,
    /// A reader keeps its place when the segment has become another.
    KeepOffset,
    /// A reader whose segment is gone goes on with the next one, not with the one that has its captures.
    ReadNextInstead,
    /// The newest segment is compacted.
    CompactNewest,
    /// What is reported twice is subtracted twice.
    SubtractTwice,
    /// A compaction need not gain anything.
    NoGainFloor,
    /// How far an earlier session went is not recorded.
    ForgetEnds,
}

#[cfg(any(test, feature = "mutants"))]
impl Mutant {
    /// All of them, with the names that choose them.
    pub(crate) const ALL: [(&'static str, Self); 23] = [
        ("ack_before_sync", Self::AckBeforeSync),
        ("no_directory_sync", Self::NoDirectorySync),
        ("recycle_too_early", Self::RecycleTooEarly),
        ("checkpoint_before_delivery", Self::CheckpointBeforeDelivery),
        ("ignore_failed_sync", Self::IgnoreFailedSync),
        ("output_not_synced", Self::OutputNotSynced),
        ("no_sync_before_removing", Self::NoSyncBeforeRemoving),
        ("remove_before_sync", Self::RemoveBeforeSync),
        ("forget_runs", Self::ForgetRuns),
        ("delivered_at_copy", Self::DeliveredAtCopy),
        ("lose_unsaved", Self::LoseUnsaved),
        ("lose_marks", Self::LoseMarks),
        ("range_too_wide", Self::RangeTooWide),
        ("supersede_equal", Self::SupersedeEqual),
        ("torn_output", Self::TornOutput),
        ("count_all", Self::CountAll),
        ("number_by_ordinal", Self::NumberByOrdinal),
        ("keep_offset", Self::KeepOffset),
        ("read_next_instead", Self::ReadNextInstead),
        ("compact_newest", Self::CompactNewest),
        ("subtract_twice", Self::SubtractTwice),
        ("no_gain_floor", Self::NoGainFloor),
        ("forget_ends", Self::ForgetEnds),
    ];

    /// The one that the environment names, for tests of the whole program.
    pub(crate) fn of_environment() -> Option<Self> {
        let name = std::env::var("CALLBRIDGE_TEST_MUTANT").ok()?;
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, mutant)| mutant)
    }
}

impl Options {
    /// Whether a fault is built in.
    #[cfg(any(test, feature = "mutants"))]
    pub(super) fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Whether a fault is built in: never.
    #[cfg(not(any(test, feature = "mutants")))]
    #[expect(clippy::unused_self, reason = "as the other one")]
    pub(super) const fn has(&self, _mutant: Mutant) -> bool {
        false
    }
}
