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
}

#[cfg(any(test, feature = "mutants"))]
impl Mutant {
    /// All of them, with the names that choose them.
    pub(crate) const ALL: [(&'static str, Self); 5] = [
        ("ack_before_sync", Self::AckBeforeSync),
        ("no_directory_sync", Self::NoDirectorySync),
        ("recycle_too_early", Self::RecycleTooEarly),
        ("checkpoint_before_delivery", Self::CheckpointBeforeDelivery),
        ("ignore_failed_sync", Self::IgnoreFailedSync),
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
