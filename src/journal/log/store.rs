//! The state of the log's files, shared by the writer, the readers and the maintenance.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::metrics::journal::Fill;

use super::Options;
use super::Seq;
use super::directory::Directory;
use super::disk::Disk;
use super::format::BLOCK_BYTES;
use super::format::End;
use super::mutant::Mutant;
use super::ordinal_set::OrdinalSet;
use super::scan::OlderRuns;
use super::seq_set::SeqSet;

/// A handle to the state of the log's files.
#[derive(Debug)]
pub(crate) struct Store<D: Disk> {
    pub(super) shared: Arc<StoreShared<D>>,
}

impl<D: Disk> Clone for Store<D> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

#[derive(Debug)]
pub(super) struct StoreShared<D: Disk> {
    pub(super) disk: D,
    pub(super) options: Options,
    pub(super) state: Mutex<StoreState<D::File>>,
    /// Signals that there may be something to maintain.
    pub(super) maintainable: Condvar,
    /// Signals that there is a spare.
    pub(super) spare_made: Condvar,
    pub(super) failure: DiskFailure,
}

/// Whether the disk can still be trusted.
#[derive(Debug, Default)]
pub(super) struct DiskFailure {
    has_failed: AtomicBool,
    directory_sync: Mutex<()>,
}

impl DiskFailure {
    /// Records a failed sync. Nothing is acknowledged afterwards.
    pub(super) fn note(&self) {
        self.has_failed.store(true, Ordering::Release);
    }

    /// Fails if a sync has failed before.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.has_failed.load(Ordering::Acquire) {
            return Err(io::Error::other("a sync of the journal has failed before"));
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct StoreState<F> {
    /// By the first sequence number. The last is the newest.
    pub(super) segments: BTreeMap<Seq, Segment<F>>,
    pub(super) spares: Vec<SpareSegment<F>>,
    /// A spare is becoming a segment, and is in neither collection.
    pub(super) is_beginning: bool,
    /// The number of the next spare's name.
    pub(super) next_name: u64,
    /// Everything before this is durable.
    pub(super) durable_to: Seq,
    /// There is no room for a spare, and nothing is in progress that makes room.
    pub(super) is_full: bool,
    pub(super) entropy: RandomSource,
    /// Files to be removed, with their sizes: their contents are in an output, or were never finished.
    pub(super) superseded: Vec<(String, u64)>,
    /// The number of maintenance passes before the next compaction.
    pub(super) compaction_pause: u32,
    /// Consecutive failures.
    pub(super) compaction_failures: u32,
    pub(super) compacted: Compacted,
}

/// A source of random numbers.
pub(crate) type Entropy = Box<dyn FnMut() -> u64 + Send>;

/// An [`Entropy`] that implements `Debug`.
pub(super) struct RandomSource(pub(super) Entropy);

impl std::fmt::Debug for RandomSource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Random")
    }
}

/// Statistics of compactions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Compacted {
    /// Completed compactions.
    pub(super) passes: u64,
    /// Bytes written to outputs.
    pub(super) copied: u64,
    /// Bytes freed: the size of the inputs minus that of the outputs.
    pub(super) won: u64,
}

#[derive(Debug)]
pub(super) struct SpareSegment<F> {
    pub(super) name: String,
    pub(super) file: Arc<F>,
}

#[derive(Debug)]
pub(super) struct Segment<F> {
    pub(super) name: String,
    pub(super) file: Arc<F>,
    pub(super) file_bytes: u64,
    pub(super) nonce: u64,
    pub(super) session: u64,
    /// The sequence number behind its last capture; of an output, behind its range.
    pub(super) end_seq: Seq,
    /// It is sealed, or a later segment records its end.
    pub(super) is_end_known: bool,
    /// The numbers of its captures, with damaged ones as far as they are known.
    pub(super) numbers: SeqSet,
    /// The offset behind its last durable frame.
    pub(super) used_bytes: u64,
    /// The bytes of undelivered items.
    pub(super) live_bytes: u64,
    /// By ordinal, as are the next two. Captures that cannot be read count as delivered.
    pub(super) delivered: OrdinalSet,
    /// Delivered, but not recorded in the log yet.
    pub(super) unsaved: OrdinalSet,
    /// See [`Store::count_as_dead_letter`].
    pub(super) counted_as_dead_letters: OrdinalSet,
    pub(super) is_damaged: bool,
    /// Its file has no name any more. See [`Store::look_for_files`].
    pub(super) is_removed: bool,
    /// It turned out that it cannot be compacted.
    pub(super) is_unfit: bool,
    /// What it records about older segments. It is kept while these segments are.
    pub(super) older_runs: OlderRuns,
    /// The ends of unsealed segments that its header records.
    pub(super) ends: Vec<End>,
}

impl<F> Segment<F> {
    pub(super) fn is_delivered(&self) -> bool {
        self.delivered.count() == self.numbers.count()
    }

    /// The end of the range of numbers that it owns. A segment without captures owns one too.
    pub(super) fn end_of_range(&self, first: Seq) -> Seq {
        self.numbers.end().max(first + 1)
    }
}

impl<D: Disk> StoreShared<D> {
    /// Makes the names in the directory durable.
    ///
    /// # Errors
    ///
    /// The directory can no longer be trusted. Nothing is acknowledged afterwards.
    pub(super) fn sync_directory(&self) -> io::Result<()> {
        // One at a time: the kernel reports an error to only one caller, so the success of a concurrent call would mean nothing.
        let _alone = self.failure.directory_sync.lock().unwrap_or_else(PoisonError::into_inner);
        self.failure.check()?;
        self.disk.sync_directory().inspect_err(|_error| self.failure.note())
    }
}

/// The effect of recording a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The capture was not delivered before.
    First,
    /// The same, and its room counted for its dead-letter topic.
    FirstAsDeadLetter,
    /// The capture was delivered before, or is not in the log.
    Repeated,
}

impl<D: Disk> Store<D> {
    pub(super) fn lock(&self) -> MutexGuard<'_, StoreState<D::File>> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records captures as delivered; each comes with the bytes of its item in the log. Returns the effect for each.
    pub(crate) fn delivered(&self, captures: &[(Seq, u32)]) -> Vec<Delivery> {
        let mut state = self.lock();
        let subtracts_twice = self.shared.options.has(Mutant::SubtractTwice);
        let mut is_any_whole = false;
        let note = |(seq, bytes): &(Seq, u32)| {
            let Some((segment, ordinal)) = state.find_mut(*seq) else { return Delivery::Repeated };
            if !segment.delivered.set(ordinal) && !subtracts_twice {
                return Delivery::Repeated;
            }
            segment.unsaved.set(ordinal);
            segment.live_bytes = segment.live_bytes.saturating_sub(u64::from(*bytes));
            is_any_whole |= segment.is_delivered();
            if segment.counted_as_dead_letters.has(ordinal) { Delivery::FirstAsDeadLetter } else { Delivery::First }
        };
        let noted = captures.iter().map(note).collect();
        drop(state);
        if is_any_whole {
            self.shared.maintainable.notify_one();
        }
        noted
    }

    /// Records until the process ends that the room of a capture counts for its dead-letter topic (see `Stored::moves_to`). Returns false
    /// if it does already, or if the capture is delivered or not in the log.
    pub(crate) fn count_as_dead_letter(&self, seq: Seq) -> bool {
        let mut state = self.lock();
        let found = state.find_mut(seq).filter(|(segment, ordinal)| !segment.delivered.has(*ordinal));
        found.is_some_and(|(segment, ordinal)| segment.counted_as_dead_letters.set(ordinal))
    }

    /// Whether the room of a capture counts for its dead-letter topic.
    pub(crate) fn is_counted_as_dead_letter(&self, seq: Seq) -> bool {
        self.lock().find(seq).is_some_and(|(segment, ordinal)| segment.counted_as_dead_letters.has(ordinal))
    }

    /// Whether a capture is delivered, or not in the log.
    pub(crate) fn is_delivered(&self, seq: Seq) -> bool {
        self.lock().is_delivered(seq)
    }

    /// The sequence number behind everything durable.
    pub(crate) fn durable_to(&self) -> Seq {
        self.lock().durable_to
    }

    /// Whether there are deliveries that are not recorded in the log.
    pub(crate) fn has_unsaved(&self) -> bool {
        self.lock().segments.values().any(|segment| segment.unsaved.count() > 0)
    }

    /// The current fill.
    pub(crate) fn fill(&self) -> Fill {
        let state = self.lock();
        let spares = state.spares.len() as u64 * self.shared.options.segment_bytes;
        let mut fill = Fill {
            files_bytes: spares + state.superseded.iter().map(|(_, bytes)| bytes).sum::<u64>(),
            quota_bytes: self.shared.options.quota_bytes,
            is_full: state.is_full && state.spares.is_empty(),
            segments: state.segments.len() as u64,
            compactions: state.compacted.passes,
            copied_bytes: state.compacted.copied,
            won_bytes: state.compacted.won,
            ..Fill::default()
        };
        for segment in state.segments.values() {
            fill.files_bytes += segment.file_bytes;
            fill.undelivered += segment.numbers.count() - segment.delivered.count();
            if !segment.is_delivered() {
                fill.held_bytes += segment.used_bytes;
            }
        }
        fill
    }

    /// The bytes of undelivered items.
    #[cfg(test)]
    pub(super) fn live_bytes(&self) -> u64 {
        self.lock().segments.values().map(|segment| segment.live_bytes).sum()
    }

    /// Whether it pauses after a failed compaction.
    #[cfg(test)]
    pub(super) fn is_pausing(&self) -> bool {
        self.lock().compaction_pause > 0
    }

    /// Waits until there may be something to maintain, at most `timeout`.
    pub(crate) fn wait_for_maintenance(&self, timeout: Duration) {
        let state = self.lock();
        let _woken = self.shared.maintainable.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner);
    }

    /// Waits until there is a spare, at most `timeout`. Returns whether there is one.
    pub(crate) fn wait_for_spare(&self, timeout: Duration) -> bool {
        let state = self.lock();
        let (state, _) = self
            .shared
            .spare_made
            .wait_timeout_while(state, timeout, |state| state.spares.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        !state.spares.is_empty()
    }
}

impl Store<Directory> {
    /// Looks whether files of segments were removed. This may hang with the disk.
    pub(crate) fn look_for_files(&self) {
        let files = self.lock().segments.iter().map(|(first, segment)| (*first, Arc::clone(&segment.file))).collect();
        let files: Vec<(Seq, Arc<File>)> = files;
        let is_removed = |file: &File| file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        let removed: Vec<Seq> = files.iter().filter(|(_, file)| is_removed(file)).map(|(first, _)| *first).collect();
        for (first, segment) in &mut self.lock().segments {
            segment.is_removed = removed.contains(first);
        }
    }

    /// Why the log is at risk although appending to its current segment may still succeed.
    pub(crate) fn trouble(&self) -> Option<&'static str> {
        let state = self.lock();
        if state.segments.values().any(|segment| segment.is_removed) {
            return Some("files of the journal were removed, and a restart would lose what they hold");
        }
        (state.is_full && state.spares.is_empty()).then_some(
            "no other segment can be made: the quota of the journal is used, or its filesystem is full or fails",
        )
    }
}

impl<F> StoreState<F> {
    pub(super) fn spare_name(&mut self) -> String {
        self.next_name += 1;
        format!("{:020}.spare", self.next_name)
    }

    /// Takes a spare to begin a segment. It still counts as a file meanwhile.
    pub(super) fn take_spare(&mut self) -> Option<SpareSegment<F>> {
        let spare = self.spares.pop();
        self.is_beginning = spare.is_some();
        spare
    }

    /// Returns a spare in which no segment was begun.
    pub(super) fn put_back_spare(&mut self, spare: SpareSegment<F>) {
        self.spares.push(spare);
        self.is_beginning = false;
    }

    /// The size of all files, in bytes.
    pub(super) fn files_bytes(&self, options: &Options) -> u64 {
        let others = self.spares.len() as u64 + u64::from(self.is_beginning);
        let superseded: u64 = self.superseded.iter().map(|(_, bytes)| bytes).sum();
        self.segments.values().map(|it| it.file_bytes).sum::<u64>() + others * options.segment_bytes + superseded
    }

    /// The segment of a capture, and its ordinal there.
    fn find(&self, seq: Seq) -> Option<(&Segment<F>, u64)> {
        let (_, segment) = self.segments.range(..=seq).next_back()?;
        Some((segment, segment.numbers.ordinal(seq)?))
    }

    fn find_mut(&mut self, seq: Seq) -> Option<(&mut Segment<F>, u64)> {
        let (_, segment) = self.segments.range_mut(..=seq).next_back()?;
        let ordinal = segment.numbers.ordinal(seq)?;
        Some((segment, ordinal))
    }

    pub(super) fn is_delivered(&self, seq: Seq) -> bool {
        self.find(seq).is_none_or(|(segment, ordinal)| segment.delivered.has(ordinal))
    }

    /// Takes the unrecorded deliveries as at most `max` runs. Also returns whether these are all.
    pub(super) fn take_unsaved(&mut self, max: usize) -> (Vec<(Seq, Seq)>, bool) {
        let mut all = Vec::new();
        for segment in self.segments.values_mut() {
            let Segment { unsaved, numbers, is_damaged, .. } = segment;
            // Numbers between two captures of an output were delivered long ago, unless captures are missing.
            let follows = |ordinal: u64| !*is_damaged || numbers.at(ordinal - 1) + 1 == numbers.at(ordinal);
            let runs = unsaved.take_runs(max - all.len(), follows);
            all.extend(runs.into_iter().map(|(first, last)| (numbers.at(first), numbers.at(last))));
            if segment.unsaved.count() > 0 {
                return (all, false);
            }
        }
        (all, true)
    }

    /// Restores deliveries whose record did not become durable.
    pub(super) fn put_back_unsaved(&mut self, runs: &[(Seq, Seq)]) {
        for (from, to) in runs {
            // Its segment may have been recycled or compacted meanwhile.
            let Some((_, segment)) = self.segments.range_mut(..=*from).next_back() else { continue };
            for ordinal in segment.numbers.within(*from, *to) {
                segment.unsaved.set(ordinal);
            }
        }
    }
}

/// Whether the error means that the disk is full.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The bytes that a segment can hold, without its header and its seal.
pub(super) const fn room_bytes(segment_bytes: u64) -> u64 {
    segment_bytes.saturating_sub(2 * BLOCK_BYTES as u64)
}
