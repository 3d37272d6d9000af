//! Maintains the log's files: makes spares in advance, recycles delivered segments, and compacts segments that are held up.

use std::io;
use std::sync::Arc;

use super::Seq;
use super::compaction::Compaction;
use super::compaction::Stop;
use super::disk;
use super::disk::Disk;
use super::disk::DiskFile;
use super::mutant::Mutant;
use super::store::SpareSegment;
use super::store::Store;
use super::store::StoreShared;
use super::store::is_no_space;

/// Further spares are removed, so that the filesystem gets its space back after an outage.
const SPARES_MAX: usize = 2;
/// The size of the writes that fill a file with zeros.
const ZEROS_BYTES: usize = 1 << 20;
/// After consecutive failures compaction pauses for a number of passes that doubles each time, up to this power of two.
const PAUSE_MAX: u32 = 10;

/// The result of a maintenance pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maintenance {
    /// Nothing is left to do.
    Done,
    /// There is more to do, without urgency.
    More,
    /// There is more to do, and the writer may be waiting for it.
    Hurry,
}

/// Why maintenance failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MaintenanceError {
    /// It may succeed the next time; nothing depends on it.
    #[error("{0}")]
    Retry(&'static str, #[source] io::Error),
    /// The directory can no longer be trusted. The process must end.
    #[error("sync the journal's directory")]
    Failed(#[source] io::Error),
}

/// The result of a compaction step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compacting {
    /// There is nothing worth compacting.
    Idle,
    /// There is more to do.
    Begun,
    /// A compaction has ended.
    Done,
}

/// The maintenance of the files. There is one instance.
#[derive(Debug)]
pub(crate) struct Maintainer<D: Disk> {
    store: Store<D>,
    /// The compaction in progress.
    compaction: Option<Compaction<D>>,
}

impl<D: Disk> Maintainer<D> {
    /// The maintenance of the files of a store.
    pub(super) const fn new(store: Store<D>) -> Self {
        Self { store, compaction: None }
    }

    /// Does one pass: recycles delivered segments, makes a spare if there is none, and does one step of a compaction if one pays.
    ///
    /// # Errors
    ///
    /// See [`MaintenanceError`]. A lack of room for a spare is not an error.
    pub(crate) fn maintain(&mut self) -> Result<Maintenance, MaintenanceError> {
        let taken = match self.take_back_all() {
            Err(MaintenanceError::Failed(error)) => return Err(MaintenanceError::Failed(error)),
            taken => taken,
        };
        // Even if recycling has failed.
        let spare = self.make_spare();
        let has_spare = matches!(spare, Ok(true));
        let compacted = if taken.is_ok() { self.compact(has_spare) } else { Ok(Compacting::Idle) };
        let is_compacting = matches!(compacted, Ok(Compacting::Begun | Compacting::Done));
        self.store.lock().is_full = !has_spare && !is_compacting;
        spare.and(taken)?;
        Ok(match (compacted?, has_spare) {
            (Compacting::Idle, _) => Maintenance::Done,
            (_, true) => Maintenance::More,
            (_, false) => Maintenance::Hurry,
        })
    }

    /// Recycles all segments that it can, after removing superseded files: an output must not go before these are durably gone.
    fn take_back_all(&self) -> Result<(), MaintenanceError> {
        self.remove_superseded()?;
        while let Some(first) = self.next_to_take_back() {
            self.take_back(first)?;
        }
        Ok(())
    }

    /// The oldest segment that is no longer needed: it is delivered, and has no items about older segments.
    fn next_to_take_back(&self) -> Option<Seq> {
        let state = self.store.lock();
        let (newest, _) = state.segments.last_key_value()?;
        let takes_any = self.store.shared.options.has(Mutant::RecycleTooEarly);
        let mut older_end = 0;
        for (first, segment) in state.segments.range(..newest) {
            let has_no_older_runs = segment.older_runs.from >= older_end || takes_any;
            if (segment.is_delivered() || takes_any) && has_no_older_runs {
                return Some(*first);
            }
            older_end = older_end.max(segment.end_of_range(*first));
        }
        None
    }

    /// Does one step of the compaction in progress, or begins one if that pays.
    fn compact(&mut self, has_spare: bool) -> Result<Compacting, MaintenanceError> {
        let mut compaction = match self.compaction.take() {
            Some(compaction) => compaction,
            None => match Compaction::begin(&self.store, has_spare) {
                Ok(Some(compaction)) => compaction,
                Ok(None) => return Ok(Compacting::Idle),
                Err((what, error)) => return self.compaction_failed(what, error),
            },
        };
        match compaction.step(&self.store) {
            Ok(true) => {
                self.compaction = Some(compaction);
                Ok(Compacting::Begun)
            }
            Ok(false) => {
                self.store.lock().compaction_failures = 0;
                self.remove_superseded().map(|()| Compacting::Done)
            }
            Err(Stop::Failed(error)) => Err(MaintenanceError::Failed(error)),
            Err(Stop::Changed) => {
                compaction.discard(&self.store);
                Ok(Compacting::Done)
            }
            Err(Stop::Retry(what, error)) => {
                compaction.discard(&self.store);
                self.compaction_failed(what, error)
            }
        }
    }

    fn compaction_failed(&self, what: &'static str, error: io::Error) -> Result<Compacting, MaintenanceError> {
        let mut state = self.store.lock();
        state.compaction_failures = (state.compaction_failures + 1).min(PAUSE_MAX);
        state.compaction_pause = 1 << state.compaction_failures;
        if is_no_space(&error) { Ok(Compacting::Idle) } else { Err(MaintenanceError::Retry(what, error)) }
    }

    /// Removes the files that an output has superseded.
    fn remove_superseded(&self) -> Result<(), MaintenanceError> {
        let superseded = self.store.lock().superseded.clone();
        if superseded.is_empty() {
            return Ok(());
        }
        for (name, _) in &superseded {
            match self.store.shared.disk.remove(name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(MaintenanceError::Retry("remove a segment that was compacted", error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        self.store.shared.sync_directory().map_err(MaintenanceError::Failed)?;
        self.store.lock().superseded.clear();
        Ok(())
    }

    fn take_back(&self, first: Seq) -> Result<(), MaintenanceError> {
        let StoreShared { disk, options, .. } = &*self.store.shared;
        let (name, spare_name, is_wanted, is_damaged, is_removed) = {
            let mut state = self.store.lock();
            let spare_name = state.spare_name();
            let has_room = state.spares.len() < SPARES_MAX;
            let Some(segment) = state.segments.get(&first) else { return Ok(()) };
            let is_wanted = has_room && segment.file_bytes == options.segment_bytes;
            (segment.name.clone(), spare_name, is_wanted, segment.is_damaged, segment.is_removed)
        };
        let taken = if is_removed {
            Ok(())
        } else if is_damaged {
            disk.rename(&name, &format!("{first:020}.damaged"))
        } else if is_wanted {
            disk.rename(&name, &spare_name)
        } else {
            disk.remove(&name)
        };
        // On failure the segment is still there, and the next pass tries again.
        taken.map_err(|error| MaintenanceError::Retry("take back a segment", error))?;
        let Some(segment) = self.store.lock().segments.remove(&first) else { return Ok(()) };
        // Before the file is written again: otherwise its new contents could be found under its old name.
        self.store.shared.sync_directory().map_err(MaintenanceError::Failed)?;
        let mut state = self.store.lock();
        if is_wanted && !is_damaged && !is_removed {
            state.spares.push(SpareSegment { name: spare_name, file: segment.file });
            self.store.shared.spare_made.notify_all();
        }
        Ok(())
    }

    /// Makes a spare if there is none. Returns whether there is one.
    fn make_spare(&self) -> Result<bool, MaintenanceError> {
        let StoreShared { disk, options, .. } = &*self.store.shared;
        let name = {
            let mut state = self.store.lock();
            if !state.spares.is_empty() {
                return Ok(true);
            }
            let newest = state.segments.values().next_back();
            // An oversized newest segment that is delivered, and only lacks a successor, will be gone once there is one.
            let waits_for_end = newest.filter(|it| it.is_delivered() && it.file_bytes > options.segment_bytes);
            let going = waits_for_end.map_or(0, |newest| newest.file_bytes);
            if state.files_bytes(options) - going + options.segment_bytes > options.spares_bytes_max() {
                return Ok(false);
            }
            state.spare_name()
        };
        let free_bytes = disk.free_bytes().map_err(|error| MaintenanceError::Retry("ask for free space", error))?;
        // Also leaves room for the output of a compaction.
        if free_bytes < 2 * options.segment_bytes + options.free_bytes_min {
            return Ok(false);
        }
        let temporary = format!("{name}.tmp");
        let made = self.zeroed(&temporary).and_then(|file| disk.rename(&temporary, &name).map(|()| file));
        match made {
            Ok(file) => {
                self.store.shared.sync_directory().map_err(MaintenanceError::Failed)?;
                let mut state = self.store.lock();
                state.spares.push(SpareSegment { name, file: Arc::new(file) });
                self.store.shared.spare_made.notify_all();
                Ok(true)
            }
            Err(error) => {
                // If this fails, the next start removes it.
                let _left = disk.remove(&temporary);
                if is_no_space(&error) {
                    Ok(false)
                } else {
                    Err(MaintenanceError::Retry("make a spare segment", error))
                }
            }
        }
    }

    fn zeroed(&self, name: &str) -> io::Result<D::File> {
        let file = self.store.shared.disk.create(name)?;
        let zeros =
            vec![0; ZEROS_BYTES.min(usize::try_from(self.store.shared.options.segment_bytes).unwrap_or(ZEROS_BYTES))];
        let mut offset = 0;
        while offset < self.store.shared.options.segment_bytes {
            let left = self.store.shared.options.segment_bytes - offset;
            let piece = zeros.get(..usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len())).unwrap_or_default();
            disk::write_all(&file, piece, offset)?;
            // Each piece by itself: a concurrent sync of a frame waits for all earlier writes to the disk, and so for one piece at most.
            file.sync_data()?;
            offset += piece.len() as u64;
        }
        Ok(file)
    }
}
