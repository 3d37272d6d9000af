//! The writing end of the log, used by one thread.

use std::io;
use std::sync::Arc;

use super::AppendError;
use super::Options;
use super::Seq;
use super::cursor::FramePosition;
use super::disk;
use super::disk::Disk;
use super::disk::DiskFile;
use super::format::BLOCK_BYTES;
use super::format::ENDS_MAX;
use super::format::End;
use super::format::FrameBuilder;
use super::format::FramePlace;
use super::format::RUN_BYTES_MAX;
use super::format::SegmentHeader;
use super::mutant::Mutant;
use super::ordinal_set::OrdinalSet;
use super::scan::OlderRuns;
use super::seq_set::SeqSet;
use super::store::Segment;
use super::store::SpareSegment;
use super::store::Store;
use super::store::is_no_space;
use super::store::room_bytes;

/// See the [module](self).
pub(crate) struct SegmentWriter<D: Disk> {
    store: Store<D>,
    session: u64,
    /// How far earlier sessions went, to be recorded in the first segment.
    ends: Vec<End>,
    next_seq: Seq,
    active: Option<Active<D::File>>,
}

impl<D: Disk> std::fmt::Debug for SegmentWriter<D> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Writer").field("next_seq", &self.next_seq).finish_non_exhaustive()
    }
}

/// The segment that is being written.
#[derive(Debug)]
struct Active<F> {
    file: Arc<F>,
    first_seq: Seq,
    nonce: u64,
    /// The offset of the next frame.
    offset: u64,
}

/// The position of an appended frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AppendedFrame {
    /// The sequence number of its first capture; the others follow.
    pub(crate) first_seq: Seq,
    pub(crate) place: FramePosition,
    /// There are more deliveries than the frame could record.
    pub(crate) is_behind: bool,
}

impl<D: Disk> SegmentWriter<D> {
    pub(super) const fn new(store: Store<D>, session: u64, next_seq: Seq, ends: Vec<End>) -> Self {
        Self { store, session, ends, next_seq, active: None }
    }

    /// The largest possible frame, in bytes.
    pub(crate) fn frame_bytes_max(&self) -> usize {
        let runs = self.runs_max() * RUN_BYTES_MAX + 64;
        let room = usize::try_from(room_bytes(self.options().segment_bytes)).unwrap_or(usize::MAX);
        room.saturating_sub(runs + BLOCK_BYTES)
    }

    /// Appends a frame, with an item of deliveries if `with_delivered`, and makes it durable. The builder is empty afterwards. After an
    /// error it is unchanged, and can be appended again.
    ///
    /// # Errors
    ///
    /// Nothing of the frame may be acknowledged. After [`AppendError::Failed`] nothing can be appended any more.
    pub(crate) fn append(
        &mut self,
        builder: &mut FrameBuilder,
        with_delivered: bool,
    ) -> Result<AppendedFrame, AppendError> {
        let (runs, is_all) =
            if with_delivered { self.store.lock().take_unsaved(self.runs_max()) } else { (Vec::new(), true) };
        let bytes_given = builder.bytes();
        if !runs.is_empty() {
            builder.push_delivered(&runs);
        }
        let older_runs = OlderRuns {
            from: runs.first().map_or(Seq::MAX, |(first, _)| *first),
            bytes: (builder.bytes() - bytes_given) as u64,
        };
        match self.append_whole(builder, older_runs) {
            Ok(appended) => {
                builder.clear();
                Ok(AppendedFrame { is_behind: !is_all, ..appended })
            }
            Err(error) => {
                // The frame may never be appended again, but the deliveries must be recorded.
                builder.truncate(bytes_given);
                self.store.lock().put_back_unsaved(&runs);
                Err(error)
            }
        }
    }

    fn append_whole(
        &mut self,
        builder: &mut FrameBuilder,
        older_runs: OlderRuns,
    ) -> Result<AppendedFrame, AppendError> {
        let room = self
            .active
            .as_ref()
            .map_or(0, |active| self.options().segment_bytes.saturating_sub(active.offset + BLOCK_BYTES as u64));
        if room < builder.padded_bytes() {
            self.begin_segment()?;
        }
        self.write(builder, older_runs, false)
    }

    /// Closes the log: records the deliveries, and seals the segment.
    ///
    /// # Errors
    ///
    /// As [`SegmentWriter::append`].
    pub(crate) fn close(mut self) -> Result<(), AppendError> {
        let mut recorded = Ok(());
        while recorded.is_ok() && self.store.has_unsaved() {
            recorded = self.append(&mut FrameBuilder::new(), true).map(|_appended| ());
        }
        match recorded {
            Err(AppendError::Failed { .. }) => recorded,
            Ok(()) | Err(AppendError::Full | AppendError::NoSpace(_)) => self.seal().and(recorded),
        }
    }

    /// The most runs of deliveries that one frame records.
    fn runs_max(&self) -> usize {
        usize::try_from(self.options().runs_per_frame_max()).unwrap_or(usize::MAX)
    }

    fn options(&self) -> &Options {
        &self.store.shared.options
    }

    /// Begins a segment, and seals the one before.
    fn begin_segment(&mut self) -> Result<(), AppendError> {
        self.refuse_if_failed()?;
        // Only this thread takes spares, so it is still there after the seal.
        if self.store.lock().spares.is_empty() {
            self.store.shared.maintainable.notify_one();
            return Err(AppendError::Full);
        }
        self.seal()?;
        let Some(spare) = self.store.lock().take_spare() else { return Err(AppendError::Full) };
        // The next spare will be needed.
        self.store.shared.maintainable.notify_one();
        if self.store.lock().segments.contains_key(&self.next_seq) {
            // A segment without captures has that name, and may have items of deliveries.
            self.next_seq += 1;
        }
        let header = SegmentHeader {
            nonce: (self.store.lock().entropy.0)(),
            session: self.session,
            first_seq: self.next_seq,
            file_bytes: self.options().segment_bytes,
            output: None,
            ends: self.ends.iter().rev().take(ENDS_MAX).copied().collect(),
        };
        let SpareSegment { name: spare_name, file } = spare;
        if let Err(error) = disk::write_all(&*file, &header.encode(), 0) {
            return Err(self.spare_unused(SpareSegment { name: spare_name, file }, "write a segment's header", error));
        }
        self.sync(&file, "sync a segment's header")?;
        let name = format!("{:020}.seg", self.next_seq);
        let disk = &self.store.shared.disk;
        if let Err(error) = disk.rename(&spare_name, &name) {
            return Err(self.spare_unused(SpareSegment { name: spare_name, file }, "name a segment", error));
        }
        if !self.options().has(Mutant::NoDirectorySync) {
            let synced = self.store.shared.sync_directory();
            synced.map_err(|error| self.fail("sync the journal's directory", error))?;
        }
        self.begun(name, Arc::clone(&file), &header);
        let offset = BLOCK_BYTES as u64;
        self.active = Some(Active { file, first_seq: self.next_seq, nonce: header.nonce, offset });
        Ok(())
    }

    /// Handles an error of making a segment of a spare. If the filesystem is full, the spare can be used later: it has its old name, and the
    /// header is written again.
    fn spare_unused(&self, spare: SpareSegment<D::File>, what: &'static str, error: io::Error) -> AppendError {
        if is_no_space(&error) {
            self.store.lock().put_back_spare(spare);
            return AppendError::NoSpace(error);
        }
        self.fail(what, error)
    }

    /// Registers a segment whose name is durable.
    fn begun(&mut self, name: String, file: Arc<D::File>, header: &SegmentHeader) {
        let mut older_runs = OlderRuns::NOTHING;
        header.ends.iter().for_each(|end| older_runs.add(end.segment, 0));
        let segment = Segment {
            name,
            file,
            file_bytes: self.options().segment_bytes,
            nonce: header.nonce,
            session: self.session,
            end_seq: self.next_seq,
            is_end_known: true,
            numbers: SeqSet::Dense { first: self.next_seq, count: 0 },
            used_bytes: BLOCK_BYTES as u64,
            live_bytes: 0,
            delivered: OrdinalSet::default(),
            unsaved: OrdinalSet::default(),
            counted_as_dead_letters: OrdinalSet::default(),
            is_damaged: false,
            is_removed: false,
            is_unfit: false,
            older_runs,
            ends: header.ends.clone(),
        };
        let mut state = self.store.lock();
        for end in &header.ends {
            if let Some(segment) = state.segments.get_mut(&end.segment) {
                segment.is_end_known = true;
            }
        }
        state.segments.insert(self.next_seq, segment);
        state.is_beginning = false;
        drop(state);
        self.ends.clear();
    }

    /// Seals the active segment, so that its last frame is vouched for.
    fn seal(&mut self) -> Result<(), AppendError> {
        if self.active.is_some() {
            self.write(&mut FrameBuilder::new(), OlderRuns::NOTHING, true)?;
            self.active = None;
        }
        Ok(())
    }

    /// Writes a frame that fits into the active segment, and makes it durable.
    fn write(
        &mut self,
        builder: &mut FrameBuilder,
        older_runs: OlderRuns,
        is_seal: bool,
    ) -> Result<AppendedFrame, AppendError> {
        self.refuse_if_failed()?;
        let Some(active) = &self.active else { return Err(AppendError::Full) };
        let (file, offset, active_seq) = (Arc::clone(&active.file), active.offset, active.first_seq);
        let (first_seq, captures, bytes) = (self.next_seq, builder.captures(), builder.padded_bytes());
        let (nonce, end_seq) = (active.nonce, first_seq + u64::from(captures));
        let place = FramePlace { nonce, offset, first_seq, end_seq, is_seal, is_sparse: false };
        match builder.as_frame(&place, |frame| disk::write_all(&*file, frame, offset)) {
            Ok(()) => {}
            Err(error) if is_no_space(&error) => return Err(AppendError::NoSpace(error)),
            Err(error) => return Err(self.fail("write to the journal", error)),
        }
        if !self.options().has(Mutant::AckBeforeSync) {
            self.sync(&file, "sync the journal")?;
        }
        // Durable from here on.
        self.next_seq = end_seq;
        if let Some(active) = &mut self.active {
            active.offset += bytes;
        }
        let mut state = self.store.lock();
        state.durable_to = self.next_seq;
        let records_at_once = self.options().has(Mutant::CheckpointBeforeDelivery);
        if let Some(segment) = state.segments.get_mut(&active_seq) {
            let before = segment.numbers.count();
            segment.numbers = SeqSet::Dense { first: active_seq, count: before + u64::from(captures) };
            if records_at_once {
                (before..segment.numbers.count()).for_each(|ordinal| {
                    segment.unsaved.set(ordinal);
                });
            }
            segment.end_seq = end_seq;
            segment.used_bytes = offset + bytes;
            segment.live_bytes += builder.captures_bytes();
            segment.older_runs.from = segment.older_runs.from.min(older_runs.from);
            segment.older_runs.bytes += older_runs.bytes;
        }
        Ok(AppendedFrame {
            first_seq,
            place: FramePosition { seq: first_seq, segment: active_seq, nonce, offset },
            is_behind: false,
        })
    }

    fn sync(&self, file: &D::File, what: &'static str) -> Result<(), AppendError> {
        match file.sync_data() {
            Err(error) if !self.options().has(Mutant::IgnoreFailedSync) => Err(self.fail(what, error)),
            // The keeper may have seen a failed sync meanwhile.
            Ok(()) | Err(_) => self.refuse_if_failed(),
        }
    }

    fn fail(&self, what: &'static str, source: io::Error) -> AppendError {
        self.store.shared.failure.note();
        AppendError::Failed { what, source }
    }

    fn refuse_if_failed(&self) -> Result<(), AppendError> {
        let checked = self.store.shared.failure.check();
        checked.map_err(|source| AppendError::Failed { what: "write to the journal", source })
    }
}
