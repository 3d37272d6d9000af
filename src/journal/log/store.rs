//! What is known of the log's files: shared by the writer, the reader, and whoever keeps the files.

use std::collections::BTreeMap;
use std::io;
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
use super::disk::Disk;
use super::format::BLOCK_BYTES;
use super::format::End;
use super::mutant::Mutant;
use super::ordinal_set::OrdinalSet;
use super::scan::OlderRuns;
use super::seq_set::SeqSet;

/// A handle to the log's files.
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
    /// There may be something to maintain.
    pub(super) maintainable: Condvar,
    /// There is a spare.
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
    /// Notes that a sync has failed. Nothing is acknowledged afterwards.
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
    /// By their first sequence number. The last is the newest.
    pub(super) segments: BTreeMap<Seq, Segment<F>>,
    pub(super) spares: Vec<SpareSegment<F>>,
    /// A spare is being made a segment of, and is in neither list.
    pub(super) is_beginning: bool,
    /// For the name of the next spare.
    pub(super) next_name: u64,
    /// Everything before is durable.
    pub(super) durable_to: Seq,
    /// No spare can be made for want of room, and nothing is being done about it.
    pub(super) is_full: bool,
    pub(super) entropy: RandomSource,
    /// Files that are to be removed, with their bytes: what they had is in an output, or was not finished.
    pub(super) superseded: Vec<(String, u64)>,
    /// Passes of maintenance before the next compaction.
    pub(super) compaction_pause: u32,
    /// One after the other.
    pub(super) compaction_failures: u32,
    pub(super) compacted: Compacted,
}

/// Where random numbers come from.
pub(crate) type Entropy = Box<dyn FnMut() -> u64 + Send>;

/// An [`Entropy`] that shows nothing.
pub(super) struct RandomSource(pub(super) Entropy);

impl std::fmt::Debug for RandomSource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Random")
    }
}

/// What compactions have done.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Compacted {
    /// How many there were.
    pub(super) passes: u64,
    /// What they have written, in bytes.
    pub(super) copied: u64,
    /// What the inputs took and the outputs do not any more, in bytes.
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
    /// Behind its last capture; of an output, behind its range.
    pub(super) end_seq: Seq,
    /// It is sealed, or a later segment says how far it goes.
    pub(super) is_end_known: bool,
    /// Of its captures, damaged ones included as far as they are known.
    pub(super) numbers: SeqSet,
    /// Up to the end of its last durable frame.
    pub(super) used_bytes: u64,
    /// What is not delivered, in bytes of its records.
    pub(super) live_bytes: u64,
    /// By ordinal, as `unsaved`. What cannot be read counts as delivered.
    pub(super) delivered: OrdinalSet,
    /// Delivered, and not recorded in the log yet.
    pub(super) unsaved: OrdinalSet,
    /// See [`Store::mark`].
    pub(super) marked: OrdinalSet,
    pub(super) is_damaged: bool,
    /// It turned out that it cannot be compacted.
    pub(super) is_unfit: bool,
    pub(super) said: OlderRuns,
    /// What it says of others that were not sealed.
    pub(super) ends: Vec<End>,
}

impl<F> Segment<F> {
    pub(super) fn is_delivered(&self) -> bool {
        self.delivered.count() == self.numbers.count()
    }

    /// Behind every number that others know it and its captures by. One without captures has a number too.
    pub(super) fn end_of_range(&self, first: Seq) -> Seq {
        self.numbers.end().max(first + 1)
    }
}

impl<D: Disk> StoreShared<D> {
    /// Makes the directory's names durable.
    ///
    /// # Errors
    ///
    /// The directory cannot be trusted any more. Nothing is acknowledged afterwards.
    pub(super) fn sync_directory(&self) -> io::Result<()> {
        // One at a time: the system reports an error to one caller only, and the next one's success means nothing then.
        let _alone = self.failure.directory_sync.lock().unwrap_or_else(PoisonError::into_inner);
        self.failure.check()?;
        self.disk.sync_directory().inspect_err(|_error| self.failure.note())
    }
}

/// What it was to note a capture as delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// It was not delivered before.
    First,
    /// The same, and it is marked.
    FirstOfMarked,
    /// It was delivered before, or is not there.
    Repeated,
}

impl<D: Disk> Store<D> {
    pub(super) fn lock(&self) -> MutexGuard<'_, StoreState<D::File>> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes captures as delivered, each with what its record takes, in bytes. Returns, for each, whether it is news.
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
            if segment.marked.has(ordinal) { Delivery::FirstOfMarked } else { Delivery::First }
        };
        let noted = captures.iter().map(note).collect();
        drop(state);
        if is_any_whole {
            self.shared.maintainable.notify_one();
        }
        noted
    }

    /// Takes note of a capture for as long as this run lasts. Returns false if it was marked before, was delivered or is not there.
    pub(crate) fn mark(&self, seq: Seq) -> bool {
        let mut state = self.lock();
        let found = state.find_mut(seq).filter(|(segment, ordinal)| !segment.delivered.has(*ordinal));
        found.is_some_and(|(segment, ordinal)| segment.marked.set(ordinal))
    }

    /// Whether a capture is marked.
    pub(crate) fn is_marked(&self, seq: Seq) -> bool {
        self.lock().find(seq).is_some_and(|(segment, ordinal)| segment.marked.has(ordinal))
    }

    /// Whether a capture was delivered, or is not there.
    pub(crate) fn is_delivered(&self, seq: Seq) -> bool {
        self.lock().is_delivered(seq)
    }

    /// Behind everything that is durable.
    pub(crate) fn durable_to(&self) -> Seq {
        self.lock().durable_to
    }

    /// Whether something was delivered and is not recorded in the log.
    pub(crate) fn has_unsaved(&self) -> bool {
        self.lock().segments.values().any(|segment| segment.unsaved.count() > 0)
    }

    /// How full it is now.
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

    /// What is not delivered, in bytes of its records.
    #[cfg(test)]
    pub(super) fn live_bytes(&self) -> u64 {
        self.lock().segments.values().map(|segment| segment.live_bytes).sum()
    }

    /// Whether it rests after a compaction that has failed.
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

impl<F> StoreState<F> {
    pub(super) fn spare_name(&mut self) -> String {
        self.next_name += 1;
        format!("{:020}.spare", self.next_name)
    }

    /// Takes a spare to begin a segment in. Until that is done it counts as one.
    pub(super) fn take_spare(&mut self) -> Option<SpareSegment<F>> {
        let spare = self.spares.pop();
        self.is_beginning = spare.is_some();
        spare
    }

    /// No segment was begun in it.
    pub(super) fn put_back_spare(&mut self, spare: SpareSegment<F>) {
        self.spares.push(spare);
        self.is_beginning = false;
    }

    /// What all files take, in bytes.
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

    /// What was delivered and is not recorded, as at most `max` runs; and whether that is all.
    pub(super) fn take_unsaved(&mut self, max: usize) -> (Vec<(Seq, Seq)>, bool) {
        let mut all = Vec::new();
        for segment in self.segments.values_mut() {
            let Segment { unsaved, numbers, is_damaged, .. } = segment;
            // What lies between two captures of an output was delivered long ago, if nothing of it is missing.
            let follows = |ordinal: u64| !*is_damaged || numbers.at(ordinal - 1) + 1 == numbers.at(ordinal);
            let runs = unsaved.take_runs(max - all.len(), follows);
            all.extend(runs.into_iter().map(|(first, last)| (numbers.at(first), numbers.at(last))));
            if segment.unsaved.count() > 0 {
                return (all, false);
            }
        }
        (all, true)
    }

    /// What was taken did not become durable.
    pub(super) fn put_back_unsaved(&mut self, runs: &[(Seq, Seq)]) {
        for (from, to) in runs {
            // Its segment may have gone meanwhile, or become part of another.
            let Some((_, segment)) = self.segments.range_mut(..=*from).next_back() else { continue };
            for ordinal in segment.numbers.within(*from, *to) {
                segment.unsaved.set(ordinal);
            }
        }
    }
}

/// Whether an error says that there is no room.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What a segment can hold, in bytes: without its header and its seal.
pub(super) const fn room_bytes(segment_bytes: u64) -> u64 {
    segment_bytes.saturating_sub(2 * BLOCK_BYTES as u64)
}
