//! Compaction: replaces some adjacent segments by one output with everything in them that is still needed.
//!
//! It copies the captures that are undelivered when they are read, with their sequence numbers, and the records about deliveries of older
//! segments. The output is written to a temporary file, synced, and renamed over the first input; once that is durable, the other inputs
//! are removed. It works in steps, so that maintenance can do other things in between.

use std::io;
use std::sync::Arc;

use super::Options;
use super::Seq;
use super::cursor::Cursor;
use super::cursor::FramePosition;
use super::disk;
use super::disk::Disk;
use super::disk::DiskFile;
use super::format::BLOCK_BYTES;
use super::format::ENDS_MAX;
use super::format::End;
use super::format::FRAME_HEADER_BYTES;
use super::format::Frame;
use super::format::FrameBuilder;
use super::format::FrameItem;
use super::format::FramePlace;
use super::format::Output;
use super::format::SegmentHeader;
use super::mutant::Mutant;
use super::ordinal_set::OrdinalSet;
use super::scan::OlderRuns;
use super::seq_set::SeqSet;
use super::store::Segment;
use super::store::Store;
use super::store::StoreState;

/// The limit of a frame of an output. A step reads about as many bytes.
const FRAME_BYTES_MAX: u64 = 1 << 20;
/// The gain is at least this fraction (one eighth) of the inputs, even if room is short: one byte is freed for seven that are copied.
const GAIN_MIN: u64 = 8;

/// A compaction in progress.
#[derive(Debug)]
pub(super) struct Compaction<D: Disk> {
    inputs: Vec<Input<D::File>>,
    /// The upper bound of the output's size that was estimated at the beginning.
    bytes_max: u64,
    /// The index of the input that is being read.
    at: usize,
    /// The number of captures read from that input.
    read: u64,
    cursor: Cursor,
    writing: Writing<D::File>,
}

#[derive(Debug)]
struct Input<F> {
    name: String,
    first: Seq,
    nonce: u64,
    file: Arc<F>,
    file_bytes: u64,
    used_bytes: u64,
    captures: u64,
}

/// The output that is being written.
#[derive(Debug)]
struct Writing<F> {
    name: String,
    file: Arc<F>,
    header: SegmentHeader,
    to: Seq,
    frame_bytes: usize,
    offset: u64,
    builder: FrameBuilder,
    /// The first number of the frame, and the number behind its last one.
    frame_seqs: (Seq, Seq),
    /// The numbers of the captures, minus the first number of the range.
    offsets: Vec<u32>,
    /// The deliveries of older segments that the inputs record.
    runs: Vec<(Seq, Seq)>,
    older_runs: OlderRuns,
}

/// Why a compaction has stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// Its inputs have changed.
    Changed,
    /// It may succeed the next time.
    Retry(&'static str, io::Error),
    /// The directory can no longer be trusted.
    Failed(io::Error),
}

impl Options {
    fn output_frame_bytes(&self) -> u64 {
        FRAME_BYTES_MAX.min(self.segment_bytes / 2)
    }

    /// The upper bound of the size of an output with so many bytes of items.
    pub(super) fn packed_bytes(&self, bytes: u64) -> u64 {
        let block = BLOCK_BYTES as u64;
        // All frames but the last are more than half full on average.
        let frames = 1 + bytes / (self.output_frame_bytes() / 2 - FRAME_HEADER_BYTES as u64);
        2 * block + (bytes + frames * FRAME_HEADER_BYTES as u64).next_multiple_of(block) + (frames - 1) * block
    }
}

impl<F> StoreState<F> {
    /// The oldest segments that are worth a compaction: their range, and the upper bound of the output's size.
    fn worth_compacting(&self, options: &Options, is_short: bool) -> Option<(Seq, Seq, u64)> {
        let mut all: Vec<(Seq, &Segment<F>)> = self.segments.iter().map(|(first, segment)| (*first, segment)).collect();
        if options.has(Mutant::CompactNewest) {
            all.push((self.durable_to, all.last()?.1));
        }
        let mut older_end = 0;
        for (index, (from, segment)) in all.iter().enumerate() {
            let found = best_run(options, is_short, all.get(index..)?, older_end);
            if let Some((to, bytes)) = found {
                return Some((*from, to, bytes));
            }
            older_end = older_end.max(segment.end_of_range(*from));
        }
        None
    }
}

/// The longest run of segments, from the first of `all` on, that is worth a compaction: its end, and the upper bound of the output's size.
/// `older_end`: the end of the captures before it.
fn best_run<F>(options: &Options, is_short: bool, all: &[(Seq, &Segment<F>)], older_end: Seq) -> Option<(Seq, u64)> {
    let (from, _) = all.first()?;
    let (mut files, mut items_bytes, mut ends, mut best) = (0, 0, 0, None);
    for ((_, segment), (to, _)) in all.iter().zip(all.get(1..)?) {
        let may_be_input = !segment.is_damaged && !segment.is_unfit && segment.is_end_known;
        files += segment.file_bytes;
        items_bytes +=
            segment.live_bytes + if segment.older_runs.from < older_end { segment.older_runs.bytes } else { 0 };
        ends += segment.ends.len();
        let packed = options.packed_bytes(items_bytes);
        if !may_be_input || packed > options.segment_bytes || ends > ENDS_MAX || to - from > u64::from(u32::MAX) {
            break;
        }
        let gain = files.saturating_sub(packed);
        let pays = gain >= options.segment_bytes && packed <= files / 2;
        let helps = is_short && gain >= files / GAIN_MIN;
        if pays || helps || options.has(Mutant::NoGainFloor) {
            best = Some((*to, packed));
        }
    }
    best
}

impl<F> Input<F> {
    fn of(first: Seq, segment: &Segment<F>) -> Self {
        let Segment { name, file, file_bytes, nonce, used_bytes, numbers, .. } = segment;
        let (file, name) = (Arc::clone(file), name.clone());
        let (file_bytes, nonce, used_bytes, captures) = (*file_bytes, *nonce, *used_bytes, numbers.count());
        Self { name, first, nonce, file, file_bytes, used_bytes, captures }
    }
}

impl<D: Disk> Compaction<D> {
    /// Begins the compaction of the oldest run that is worth it, if there is one.
    ///
    /// # Errors
    ///
    /// The operation that failed, and its error. It may succeed the next time.
    pub(super) fn begin(store: &Store<D>, has_spare: bool) -> Result<Option<Self>, (&'static str, io::Error)> {
        let options = &store.shared.options;
        let (inputs, header, to, name, bytes) = {
            let mut state = store.lock();
            if state.compaction_pause > 0 {
                state.compaction_pause -= 1;
                return Ok(None);
            }
            let room = options.spares_bytes_max().saturating_sub(state.files_bytes(options));
            let is_short = !has_spare || room < 2 * options.segment_bytes;
            let Some((from, mut to, bytes)) = state.worth_compacting(options, is_short) else { return Ok(None) };
            if options.has(Mutant::RangeTooWide) {
                to = state.segments.range(to + 1..).next().map_or(to, |(next, _)| *next);
            }
            let session = state.segments.get(&from).map_or(0, |segment| segment.session);
            let of_inputs = state.segments.range(from..to);
            let ends: Vec<End> = of_inputs.clone().flat_map(|(_, segment)| segment.ends.clone()).collect();
            let is_older = |end: &End| end.segment < from && state.segments.contains_key(&end.segment);
            let ends = ends.into_iter().filter(is_older).collect();
            let inputs: Vec<Input<D::File>> = of_inputs.map(|(first, segment)| Input::of(*first, segment)).collect();
            let nonce = (state.entropy.0)();
            let header = SegmentHeader { nonce, session, first_seq: from, file_bytes: 0, output: None, ends };
            state.next_name += 1;
            (inputs, header, to, format!("{:020}.tmp", state.next_name), bytes)
        };
        let disk = &store.shared.disk;
        if disk.free_bytes().map_err(|error| ("ask for free space", error))? < bytes {
            return Err(("make room for a compaction", io::ErrorKind::StorageFull.into()));
        }
        let file = disk.create(&name).map_err(|error| ("begin a compaction", error))?;
        let mut older_runs = OlderRuns::NOTHING;
        header.ends.iter().for_each(|end| older_runs.add(end.segment, 0));
        let writing = Writing {
            name,
            file: Arc::new(file),
            to,
            frame_bytes: usize::try_from(options.output_frame_bytes()).unwrap_or(usize::MAX),
            offset: BLOCK_BYTES as u64,
            builder: FrameBuilder::new(),
            frame_seqs: (header.first_seq, header.first_seq),
            offsets: Vec::new(),
            runs: Vec::new(),
            older_runs,
            header,
        };
        let cursor = Cursor::at(FramePosition { offset: BLOCK_BYTES as u64, ..FramePosition::default() });
        Ok(Some(Self { inputs, bytes_max: bytes, at: 0, read: 0, cursor, writing }))
    }

    /// Removes the output.
    pub(super) fn discard(self, store: &Store<D>) {
        let Writing { name, offset, .. } = self.writing;
        let removed = store.shared.disk.remove(&name);
        if removed.is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
            store.lock().superseded.push((name, offset));
        }
    }

    /// Copies a part. Returns whether there is more to do.
    pub(super) fn step(&mut self, store: &Store<D>) -> Result<bool, Stop> {
        let has_changed = {
            let state = store.lock();
            let is_as_it_was = |input: &Input<D::File>| {
                let segment = state.segments.get(&input.first).filter(|segment| segment.nonce == input.nonce);
                segment.is_some_and(|segment| !segment.is_damaged)
            };
            !self.inputs.iter().all(is_as_it_was)
        };
        if has_changed {
            return Err(Stop::Changed);
        }
        let mut bytes = 0;
        let written_from = self.writing.offset;
        while bytes < store.shared.options.segment_bytes.min(16 * FRAME_BYTES_MAX) / 16 {
            let Some(input) = self.inputs.get(self.at) else {
                self.writing.end(store)?;
                if self.writing.offset > self.bytes_max {
                    // An unprofitable compaction would be repeated forever.
                    self.give_up(store);
                    let error = io::Error::other("the output is larger than estimated");
                    return Err(Stop::Retry("compact segments", error));
                }
                self.swap(store)?;
                return Ok(false);
            };
            let failed = |error| Stop::Retry("read a segment to compact it", error);
            match self.cursor.next_of(&*input.file, input.nonce, input.used_bytes).map_err(failed)? {
                Some(Ok(frame)) => {
                    bytes += frame.header.padded_bytes();
                    self.read += u64::from(frame.header.captures);
                    self.writing.copy(store, &frame)?;
                }
                None if self.read == input.captures => {
                    self.at += 1;
                    self.read = 0;
                    self.cursor.go_to(FramePosition { offset: BLOCK_BYTES as u64, ..FramePosition::default() });
                }
                // The damaged segment stays as it is; readers and the next start report it.
                None | Some(Err(_)) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", input.name));
                    self.inputs.swap(0, self.at);
                    self.inputs.truncate(1);
                    self.give_up(store);
                    return Err(failed(error));
                }
            }
        }
        if self.writing.offset > written_from {
            // Sync each piece by itself: a concurrent sync of a frame waits for all earlier writes, and so for one piece at most.
            self.writing.file.sync_data().map_err(|error| Stop::Retry("sync a compaction", error))?;
        }
        Ok(true)
    }

    /// Excludes the inputs from compaction until the next start.
    fn give_up(&self, store: &Store<D>) {
        let mut state = store.lock();
        for input in &self.inputs {
            if let Some(segment) = state.segments.get_mut(&input.first) {
                segment.is_unfit = true;
            }
        }
    }

    /// Replaces the inputs by the finished output.
    fn swap(&mut self, store: &Store<D>) -> Result<(), Stop> {
        let Self { inputs, writing, .. } = self;
        let (disk, options) = (&store.shared.disk, &store.shared.options);
        let Some(first) = inputs.first() else { return Err(Stop::Changed) };
        disk.rename(&writing.name, &first.name).map_err(|error| Stop::Retry("name a compaction", error))?;
        if !options.has(Mutant::NoSyncBeforeRemoving) {
            store.shared.sync_directory().map_err(Stop::Failed)?;
        }
        let mut state = store.lock();
        let offsets = std::mem::take(&mut writing.offsets);
        let numbers = SeqSet::Sparse { first: first.first, offsets }.packed();
        let (mut delivered, mut unsaved, mut counted_as_dead_letters) =
            (OrdinalSet::default(), OrdinalSet::default(), OrdinalSet::default());
        for ordinal in 0..numbers.count() {
            let seq = numbers.at(ordinal);
            let Some((_, input)) = state.segments.range(..=seq).next_back() else { continue };
            let Some(of_input) = input.numbers.ordinal(seq) else { continue };
            if input.delivered.has(of_input) && !options.has(Mutant::DeliveredAtCopy) {
                delivered.set(ordinal);
            }
            if input.unsaved.has(of_input) && !options.has(Mutant::LoseUnsaved) {
                unsaved.set(ordinal);
            }
            if input.counted_as_dead_letters.has(of_input) && !options.has(Mutant::LoseMarks) {
                counted_as_dead_letters.set(ordinal);
            }
        }
        let (mut live_bytes, mut files_bytes) = (0, 0);
        for input in &*inputs {
            live_bytes += state.segments.remove(&input.first).map_or(0, |segment| segment.live_bytes);
            files_bytes += input.file_bytes;
        }
        let segment = Segment {
            name: first.name.clone(),
            file: Arc::clone(&writing.file),
            file_bytes: writing.offset,
            nonce: writing.header.nonce,
            session: writing.header.session,
            end_seq: writing.to,
            is_end_known: true,
            numbers,
            used_bytes: writing.offset,
            live_bytes,
            delivered,
            unsaved,
            counted_as_dead_letters,
            is_damaged: false,
            is_removed: false,
            is_unfit: false,
            older_runs: writing.older_runs,
            ends: std::mem::take(&mut writing.header.ends),
        };
        state.segments.insert(first.first, segment);
        state.superseded.extend(inputs.iter().skip(1).map(|input| (input.name.clone(), input.file_bytes)));
        state.compacted.passes += 1;
        state.compacted.copied += writing.offset;
        state.compacted.won += files_bytes.saturating_sub(writing.offset);
        Ok(())
    }
}

impl<F: DiskFile> Writing<F> {
    /// Copies from a frame what is still needed.
    fn copy<D: Disk>(&mut self, store: &Store<D>, frame: &Frame<'_>) -> Result<(), Stop> {
        let delivered: Vec<bool> = {
            let state = store.lock();
            frame.captures().map(|captured| state.is_delivered(captured.seq)).collect()
        };
        let from = self.header.first_seq;
        let mut delivered = delivered.into_iter();
        for item in frame.items() {
            match item {
                FrameItem::Capture(captured) => {
                    if delivered.next().unwrap_or(false) {
                        continue;
                    }
                    let bytes = captured.stored_bytes() as usize;
                    let is_full = self.builder.bytes() + bytes > self.frame_bytes;
                    if is_full && !self.builder.is_empty() {
                        self.flush(false)?;
                    }
                    if self.builder.captures() == 0 {
                        self.frame_seqs.0 = captured.seq;
                    }
                    let offset = u32::try_from(captured.seq - self.frame_seqs.0).unwrap_or(u32::MAX);
                    let options = &store.shared.options;
                    let offset = if options.has(Mutant::NumberByOrdinal) { self.builder.captures() } else { offset };
                    let is_counted = captured.is_counted || options.has(Mutant::CountAll);
                    self.builder
                        .push_at(offset, is_counted, captured.kind_key, |into| into.extend_from_slice(captured.bytes));
                    self.frame_seqs.1 = captured.seq + 1;
                    self.offsets.extend(u32::try_from(captured.seq - from));
                }
                FrameItem::Delivered(runs) => {
                    let older = runs.iter().filter(|(first, _)| *first < from);
                    self.runs.extend(older.map(|(first, last)| (first, last.min(from - 1))));
                }
            }
        }
        Ok(())
    }

    /// Completes the output, and makes it durable.
    fn end<D: Disk>(&mut self, store: &Store<D>) -> Result<(), Stop> {
        let options = &store.shared.options;
        let runs = self.runs_to_carry(store);
        for runs in runs.chunks(usize::try_from(options.runs_per_frame_max()).unwrap_or(usize::MAX)) {
            let before = self.builder.bytes();
            if before > self.frame_bytes / 2 {
                self.flush(false)?;
            }
            let before = self.builder.bytes();
            self.builder.push_delivered(runs);
            self.older_runs.add(runs.first().map_or(Seq::MAX, |(first, _)| *first), self.builder.bytes() - before);
        }
        if !self.builder.is_empty() {
            self.flush(false)?;
        }
        self.frame_seqs = (self.to, self.to);
        self.flush(true)?;
        self.header.output = Some(Output { to: self.to, captures: self.offsets.len() as u64 });
        let written = disk::write_all(&*self.file, &self.header.encode(), 0);
        written.map_err(|error| Stop::Retry("write a compaction", error))?;
        if options.has(Mutant::OutputNotSynced) {
            return Ok(());
        }
        self.file.sync_data().map_err(|error| Stop::Retry("sync a compaction", error))
    }

    /// The recorded deliveries of older segments that still exist.
    fn runs_to_carry<D: Disk>(&mut self, store: &Store<D>) -> Vec<(Seq, Seq)> {
        let mut runs = std::mem::take(&mut self.runs);
        if store.shared.options.has(Mutant::ForgetRuns) {
            return Vec::new();
        }
        runs.sort_unstable();
        let state = store.lock();
        let mut carried: Vec<(Seq, Seq)> = Vec::new();
        for (first, last) in runs {
            let mut older = state.segments.range(..=last).rev().take_while(|(_, segment)| first < segment.end_seq);
            if !older.any(|(_, segment)| !segment.numbers.within(first, last).is_empty()) {
                continue;
            }
            match carried.last_mut() {
                Some((_, before)) if first <= *before + 1 => *before = last.max(*before),
                Some(_) | None => carried.push((first, last)),
            }
        }
        carried
    }

    /// Writes the gathered items as a frame.
    fn flush(&mut self, is_seal: bool) -> Result<(), Stop> {
        let first_seq = if self.builder.captures() > 0 { self.frame_seqs.0 } else { self.frame_seqs.1 };
        let (nonce, offset, end_seq) = (self.header.nonce, self.offset, self.frame_seqs.1);
        let place = FramePlace { nonce, offset, first_seq, end_seq, is_seal, is_sparse: true };
        let written = self.builder.as_frame(&place, |frame| disk::write_all(&*self.file, frame, offset));
        written.map_err(|error| Stop::Retry("write a compaction", error))?;
        self.offset += self.builder.padded_bytes();
        self.builder.clear();
        Ok(())
    }
}
