//! Faults that can be built in, to check that the durability tests find them. The released program has none.

use super::Options;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// An append is acknowledged before it is synced.
    AckBeforeSync,
    /// The directory is not synced when a segment is begun.
    NoDirectorySync,
    /// A segment is recycled although some of its captures are undelivered.
    RecycleTooEarly,
    /// A capture is recorded as delivered before it is.
    CheckpointBeforeDelivery,
    /// A failed sync is ignored.
    IgnoreFailedSync,
    /// The output of a compaction is not synced before it is renamed.
    OutputNotSynced,
    /// The inputs of a compaction are removed before the output's name is durable.
    NoSyncBeforeRemoving,
    /// A start removes superseded segments before it has synced the directory.
    RemoveBeforeSync,
    /// A compaction does not copy the records about older segments.
    ForgetRuns,
    /// Deliveries during a compaction are forgotten.
    DeliveredAtCopy,
    /// Deliveries during a compaction are never recorded.
    LoseUnsaved,
    /// Marks are lost in a compaction.
    LoseMarks,
    /// A compaction includes one segment too many.
    RangeTooWide,
    /// A start treats the segment behind an output as one of its inputs.
    SupersedeEqual,
    /// An output without a seal is treated as torn.
    TornOutput,
    /// A compaction marks all captures as counted by the ledger.
    CountAll,
    /// Captures of an output are numbered without gaps.
    NumberByOrdinal,
    /// A reader keeps its offset although its segment has been replaced.
    KeepOffset,
    /// A reader whose segment is gone continues with the next one, not with the one that has its captures.
    ReadNextInstead,
    /// The newest segment is compacted.
    CompactNewest,
    /// The bytes of a repeated delivery are subtracted again.
    SubtractTwice,
    /// A compaction is done even if it gains nothing.
    NoGainFloor,
    /// The ends of earlier sessions are not recorded.
    ForgetEnds,
}

#[cfg(any(test, feature = "mutants"))]
impl Mutant {
    /// All mutants, with their names.
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

    /// The mutant that the environment names, for tests of the whole program.
    pub(crate) fn of_environment() -> Option<Self> {
        let name = std::env::var("CALLBRIDGE_TEST_MUTANT").ok()?;
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, mutant)| mutant)
    }
}

impl Options {
    /// Whether this fault is built in.
    #[cfg(any(test, feature = "mutants"))]
    pub(super) fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Whether this fault is built in: never.
    #[cfg(not(any(test, feature = "mutants")))]
    #[expect(clippy::unused_self, reason = "as the other one")]
    pub(super) const fn has(&self, _mutant: Mutant) -> bool {
        false
    }
}
