//! What is known of the log's files: shared by the writer, the reader, and whoever keeps the files.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use crate::metrics::journal::Fill;

use super::Options;
use super::Seq;
use super::disk;
use super::disk::Disk;
use super::disk::DiskFile;
use super::format::BLOCK_BYTES;
use super::marks::Marks;
use super::mutant::Mutant;

/// Spares beyond this are removed, so that after an outage the filesystem gets its room back.
const SPARES_MAX: usize = 2;
/// What a run takes in a frame, in bytes, but for one far from the run before.
const RUN_BYTES: u64 = 8;
/// A round of such records gives back at least so many times what it takes.
const ROUND_GAIN: u64 = 2;
/// Zeros are written in pieces of this size.
const ZEROS_BYTES: usize = 1 << 20;

/// A handle to the log's files.
#[derive(Debug)]
pub(crate) struct Store<D: Disk> {
    pub(super) shared: Arc<Shared<D>>,
}

impl<D: Disk> Clone for Store<D> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

#[derive(Debug)]
pub(super) struct Shared<D: Disk> {
    pub(super) disk: D,
    pub(super) options: Options,
    pub(super) state: Mutex<State<D::File>>,
    /// There may be something to tend.
    pub(super) untended: Condvar,
    /// There is a spare.
    pub(super) spare_made: Condvar,
}

#[derive(Debug)]
pub(super) struct State<F> {
    /// By their first sequence number. The last is the newest.
    pub(super) segments: BTreeMap<Seq, Segment<F>>,
    pub(super) spares: Vec<Spare<F>>,
    /// A spare is being made a segment of, and is in neither list.
    pub(super) is_beginning: bool,
    /// For the name of the next spare.
    pub(super) next_name: u64,
    /// Everything before is durable.
    pub(super) durable_to: Seq,
    /// Told apart by number: the rounds of records after which segments may go.
    pub(super) last_mark: u64,
    pub(super) saved_mark: u64,
    /// What the last of them takes in the log at most, in bytes.
    pub(super) round_bytes: u64,
    /// No spare could be made for want of room.
    pub(super) is_full: bool,
}

#[derive(Debug)]
pub(super) struct Spare<F> {
    pub(super) name: String,
    pub(super) file: Arc<F>,
}

#[derive(Debug)]
pub(super) struct Segment<F> {
    pub(super) name: String,
    pub(super) file: Arc<F>,
    pub(super) file_bytes: u64,
    pub(super) nonce: u64,
    /// How many captures, damaged ones included.
    pub(super) captures: u64,
    /// Up to the end of its last durable frame.
    pub(super) used_bytes: u64,
    pub(super) delivered: Marks,
    /// In `delivered` because they cannot be read. Of these nothing is recorded: the disk may give them again.
    pub(super) missing: Marks,
    /// Delivered, and not recorded in the log yet.
    pub(super) unsaved: Marks,
    pub(super) is_damaged: bool,
    pub(super) waits_for_mark: Option<u64>,
}

impl<F> Segment<F> {
    fn is_delivered(&self) -> bool {
        self.delivered.count() == self.captures
    }
}

/// Why the files could not be put in order.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TendError {
    /// It may work the next time; nothing depends on it.
    #[error("{0}")]
    Retry(&'static str, #[source] io::Error),
    /// The directory cannot be trusted any more. The process must end.
    #[error("sync the journal's directory")]
    Failed(#[source] io::Error),
}

impl<D: Disk> Store<D> {
    pub(super) fn lock(&self) -> MutexGuard<'_, State<D::File>> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes captures as delivered. Each counts once.
    pub(crate) fn delivered(&self, seqs: &[Seq]) {
        let mut state = self.lock();
        let mut is_any_whole = false;
        for seq in seqs {
            let Some((first, segment)) = state.segments.range_mut(..=seq).next_back() else { continue };
            let index = seq - first;
            if index < segment.captures && segment.delivered.set(index) {
                segment.unsaved.set(index);
                is_any_whole |= segment.is_delivered();
            }
        }
        drop(state);
        if is_any_whole {
            self.shared.untended.notify_one();
        }
    }

    /// Whether a capture was delivered, or is not there.
    pub(crate) fn is_delivered(&self, seq: Seq) -> bool {
        let state = self.lock();
        let segment = state.segments.range(..=seq).next_back();
        segment.is_none_or(|(first, segment)| seq - first >= segment.captures || segment.delivered.has(seq - first))
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
            files_bytes: spares,
            quota_bytes: self.shared.options.quota_bytes,
            is_full: state.is_full && state.spares.is_empty(),
            segments: state.segments.len() as u64,
            ..Fill::default()
        };
        for segment in state.segments.values() {
            fill.files_bytes += segment.file_bytes;
            fill.undelivered += segment.captures - segment.delivered.count();
            if !segment.is_delivered() {
                fill.held_bytes += segment.used_bytes;
            }
        }
        fill
    }

    /// Waits until there may be something to tend, at most `timeout`.
    pub(crate) fn wait_untended(&self, timeout: Duration) {
        let state = self.lock();
        let _woken = self.shared.untended.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner);
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

    /// Puts the files in order: takes back segments that are delivered, and sees to it that there is a spare.
    ///
    /// # Errors
    ///
    /// See [`TendError`]. That there is no room for a spare is none.
    pub(crate) fn tend(&self) -> Result<(), TendError> {
        while let Some(first) = self.next_to_take_back() {
            self.take_back(first)?;
        }
        self.make_spare()
    }

    /// The oldest segment that is no longer needed. They go in order: an older one is not held any more when what says of its delivery
    /// goes.
    fn next_to_take_back(&self) -> Option<Seq> {
        let mut state = self.lock();
        let (newest, _) = state.segments.last_key_value()?;
        let takes_any = self.shared.options.has(Mutant::RecycleTooEarly);
        let is_done = |segment: &Segment<D::File>| segment.is_delivered() || takes_any;
        let (oldest, segment) = state.segments.first_key_value()?;
        if oldest < newest && is_done(segment) {
            return Some(*oldest);
        }
        let is_said_again =
            |segment: &Segment<D::File>| segment.waits_for_mark.is_some_and(|mark| mark <= state.saved_mark);
        let goes = state.segments.range(..newest).find(|(_, segment)| is_done(segment) && is_said_again(segment));
        let first = goes.map(|(first, _)| *first);
        if first.is_some() || state.waits_for_record() {
            return first;
        }
        // With its part of what pads a frame that has nothing else.
        let bytes_per_run = RUN_BYTES + BLOCK_BYTES as u64 / self.shared.options.runs_per_frame_max();
        state.begin_round(bytes_per_run, is_done)
    }

    fn take_back(&self, first: Seq) -> Result<(), TendError> {
        let Shared { disk, options, .. } = &*self.shared;
        let (name, spare_name, is_wanted, is_damaged) = {
            let mut state = self.lock();
            let spare_name = state.spare_name();
            let has_room = state.spares.len() < SPARES_MAX;
            let Some(segment) = state.segments.get(&first) else { return Ok(()) };
            let is_wanted = has_room && segment.file_bytes == options.segment_bytes;
            (segment.name.clone(), spare_name, is_wanted, segment.is_damaged)
        };
        let taken = if is_damaged {
            disk.rename(&name, &format!("{first:020}.damaged"))
        } else if is_wanted {
            disk.rename(&name, &spare_name)
        } else {
            disk.remove(&name)
        };
        // It is still there then, and the next try is for it.
        taken.map_err(|error| TendError::Retry("take back a segment", error))?;
        let Some(segment) = self.lock().segments.remove(&first) else { return Ok(()) };
        // Before the file is written again: else its new content could be found under its old name.
        disk.sync_directory().map_err(TendError::Failed)?;
        let mut state = self.lock();
        state.is_full = false;
        if is_wanted && !is_damaged {
            state.spares.push(Spare { name: spare_name, file: segment.file });
            self.shared.spare_made.notify_all();
        }
        Ok(())
    }

    fn make_spare(&self) -> Result<(), TendError> {
        let Shared { disk, options, .. } = &*self.shared;
        let name = {
            let mut state = self.lock();
            if !state.spares.is_empty() {
                state.is_full = false;
                return Ok(());
            }
            let beginning = u64::from(state.is_beginning) * options.segment_bytes;
            let files = state.segments.values().map(|segment| segment.file_bytes).sum::<u64>() + beginning;
            // One more for a while, if all that a segment waits for is a record of what was delivered, and room for that; or its end,
            // which needs a successor.
            let newest = state.segments.values().next_back();
            let waits_for_end = newest.is_some_and(|newest| newest.captures > 0 && newest.is_delivered());
            let for_records = if state.waits_for_record() { state.round_bytes + options.segment_bytes } else { 0 };
            let lent = for_records.max(if waits_for_end { options.segment_bytes } else { 0 });
            if files + options.segment_bytes > options.quota_bytes + lent {
                state.is_full = true;
                return Ok(());
            }
            state.spare_name()
        };
        let free_bytes = disk.free_bytes().map_err(|error| TendError::Retry("ask for free space", error))?;
        if free_bytes < options.segment_bytes + options.free_bytes_min {
            self.lock().is_full = true;
            return Ok(());
        }
        let temporary = format!("{name}.tmp");
        let made = self.zeroed(&temporary).and_then(|file| disk.rename(&temporary, &name).map(|()| file));
        match made {
            Ok(file) => {
                disk.sync_directory().map_err(TendError::Failed)?;
                let mut state = self.lock();
                state.is_full = false;
                state.spares.push(Spare { name, file: Arc::new(file) });
                self.shared.spare_made.notify_all();
                Ok(())
            }
            Err(error) => {
                // What is left of it is removed at the next start at the latest.
                let _left = disk.remove(&temporary);
                self.lock().is_full = true;
                if is_no_space(&error) { Ok(()) } else { Err(TendError::Retry("make a spare segment", error)) }
            }
        }
    }

    fn zeroed(&self, name: &str) -> io::Result<D::File> {
        let file = self.shared.disk.create(name)?;
        let zeros = vec![0; ZEROS_BYTES.min(usize::try_from(self.shared.options.segment_bytes).unwrap_or(ZEROS_BYTES))];
        let mut offset = 0;
        while offset < self.shared.options.segment_bytes {
            let left = self.shared.options.segment_bytes - offset;
            let piece = zeros.get(..usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len())).unwrap_or_default();
            disk::write_all(&file, piece, offset)?;
            // Each by itself: a frame that is synced meanwhile waits for what the disk has been given before, and so for no more.
            file.sync_data()?;
            offset += piece.len() as u64;
        }
        Ok(file)
    }
}

impl<F> State<F> {
    fn spare_name(&mut self) -> String {
        self.next_name += 1;
        format!("{:020}.spare", self.next_name)
    }

    /// Takes a spare to begin a segment in. Until that is done it counts as one.
    pub(super) fn take_spare(&mut self) -> Option<Spare<F>> {
        let spare = self.spares.pop();
        self.is_beginning = spare.is_some();
        spare
    }

    /// No segment was begun in it.
    pub(super) fn put_back_spare(&mut self, spare: Spare<F>) {
        self.spares.push(spare);
        self.is_beginning = false;
    }

    /// What was delivered and is not recorded, as at most `max` runs; and up to which mark that is all.
    pub(super) fn take_unsaved(&mut self, max: usize) -> (Vec<(Seq, Seq)>, Option<u64>) {
        let mut all = Vec::new();
        for (first, segment) in &mut self.segments {
            let runs = segment.unsaved.take_runs(max - all.len());
            all.extend(runs.into_iter().map(|(from, to)| (first + from, first + to)));
            if segment.unsaved.count() > 0 {
                return (all, None);
            }
        }
        (all, Some(self.last_mark))
    }

    /// Begins to say again what was delivered of segments that stay, for all behind them that can go then, if those take much more than
    /// the records will. Returns the oldest that can go at once, because there is nothing to say.
    fn begin_round(&mut self, bytes_per_run: u64, is_done: impl Fn(&Segment<F>) -> bool) -> Option<Seq> {
        let newest = *self.segments.last_key_value()?.0;
        let going: Vec<Seq> =
            self.segments.range(..newest).filter(|(_, segment)| is_done(segment)).map(|(first, _)| *first).collect();
        let (oldest_going, newest_going) = (*going.first()?, *going.last()?);
        let given_back: u64 = going.iter().filter_map(|first| self.segments.get(first)).map(|it| it.file_bytes).sum();
        let staying = || self.segments.range(..newest_going).filter(|(_, segment)| !is_done(segment));
        let runs: u64 = staying().map(|(_, segment)| segment.delivered.runs() + 1).sum();
        let round_bytes = runs * bytes_per_run;
        if given_back < ROUND_GAIN * round_bytes {
            return None;
        }
        let mut is_anything_said = false;
        for (_, segment) in self.segments.range_mut(..newest_going) {
            if !is_done(segment) {
                segment.unsaved = segment.delivered.clone();
                segment.unsaved.remove_all(&segment.missing);
                is_anything_said |= segment.unsaved.count() > 0;
            }
        }
        self.last_mark += 1;
        self.round_bytes = round_bytes;
        for first in going {
            if let Some(segment) = self.segments.get_mut(&first) {
                segment.waits_for_mark = Some(self.last_mark);
            }
        }
        if is_anything_said {
            return None;
        }
        self.saved_mark = self.last_mark;
        Some(oldest_going)
    }

    /// Whether a segment will be taken back once what was delivered is recorded.
    pub(super) const fn waits_for_record(&self) -> bool {
        self.saved_mark < self.last_mark
    }

    /// What was taken did not become durable.
    pub(super) fn put_back_unsaved(&mut self, runs: &[(Seq, Seq)]) {
        for (from, to) in runs {
            let Some((first, segment)) = self.segments.range_mut(..=*from).next_back() else { continue };
            // Unless the segment has gone meanwhile.
            if to - first < segment.captures {
                (*from..=*to).for_each(|seq| {
                    segment.unsaved.set(seq - first);
                });
            }
        }
    }

    /// What was taken is durable.
    pub(super) fn saved(&mut self, mark: Option<u64>) {
        self.saved_mark = self.saved_mark.max(mark.unwrap_or(0));
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
