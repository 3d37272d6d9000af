//! Reads a whole segment, and reports its contents and its damage.

use std::collections::BTreeMap;
use std::io;

use super::Damage;
use super::Seq;
use super::disk;
use super::disk::DiskFile;
use super::disk::FileRead;
use super::disk::Reach;
use super::format;
use super::format::BLOCK_BYTES;
use super::format::CAPTURE_ITEM_BYTES_MIN;
use super::format::End;
use super::format::Frame;
use super::format::FrameHeader;
use super::format::FrameItem;
use super::format::Output;
use super::format::SegmentHeader;
use super::ordinal_set::OrdinalSet;
use super::seq_set::SeqSet;

/// The contents of a segment.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) name: String,
    pub(crate) first_seq: Seq,
    /// The sequence number behind its last capture; of an output, behind its range.
    pub(crate) end_seq: Seq,
    pub(crate) has_header: bool,
    pub(crate) nonce: u64,
    pub(crate) session: u64,
    pub(crate) file_bytes: u64,
    /// The bytes that it had when it was begun, if its header tells; else as now.
    full_bytes: u64,
    /// The offset behind its last frame.
    pub(crate) used_bytes: u64,
    pub(crate) frames: u64,
    pub(crate) is_sealed: bool,
    /// A later session has recorded its end.
    pub(super) is_end_recorded: bool,
    /// Of an output with a valid header.
    pub(super) output: Option<Output>,
    /// The ends that its header records.
    pub(super) ends: Vec<End>,
    /// The numbers of its captures.
    pub(crate) numbers: SeqSet,
    /// For each capture, its key and the bytes of its item; zero bytes if it cannot be read.
    items: Vec<(u32, u32)>,
    /// The bytes of undelivered items, by key.
    pub(super) live: BTreeMap<u32, u64>,
    /// Captures that the ledger does not count, by ordinal.
    pub(super) uncounted: OrdinalSet,
    /// Captures that cannot be read, by ordinal. Not known for an output.
    pub(super) missing: OrdinalSet,
    /// The deliveries that it records, of its own and of older captures: the first and last number of each run.
    pub(super) delivered: Vec<(Seq, Seq)>,
    pub(super) older_runs: OlderRuns,
    pub(crate) damage: Vec<Damage>,
    /// The offset of an incomplete frame at its end.
    pub(crate) torn_at: Option<u64>,
    /// Why frames may be missing at its end: an error of the disk where one may have been, or the file is shorter than it was.
    lost_end: Option<String>,
}

/// What a segment records about the deliveries of older segments, as an upper bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OlderRuns {
    /// The lowest number that it records something about.
    pub(super) from: Seq,
    /// The bytes of its items of deliveries.
    pub(super) bytes: u64,
}

impl OlderRuns {
    pub(super) const NOTHING: Self = Self { from: Seq::MAX, bytes: 0 };

    pub(super) fn add(&mut self, from: Seq, bytes: usize) {
        self.from = self.from.min(from);
        self.bytes += bytes as u64;
    }
}

/// Reads a whole segment. `header` is its header, if that is valid; `buffer` is scratch space.
///
/// # Errors
///
/// The disk cannot read now, or cannot read anything of the file.
pub(crate) fn scan(
    name: &str,
    named_seq: Seq,
    header: Option<SegmentHeader>,
    file: &impl DiskFile,
    buffer: &mut Vec<u8>,
) -> io::Result<Scan> {
    let file_bytes = file.len()?;
    let wanted = usize::try_from(file_bytes).unwrap_or(usize::MAX);
    if buffer.len() < wanted {
        *buffer = vec![0; wanted];
    }
    let reading = disk::read_blocks(file, buffer.get_mut(..wanted).unwrap_or_default(), 0, Reach::All)?;
    let bytes = buffer.get(..reading.bytes).unwrap_or_default();
    let is_headless = header.is_none();
    let output = header.as_ref().and_then(|header| header.output);
    let full_bytes = file_bytes.max(header.as_ref().map_or(0, |header| header.file_bytes));
    let (adopted_nonce, is_adopted_sparse) = if is_headless { adopted(bytes, named_seq) } else { (0, false) };
    let is_sparse = output.is_some() || is_adopted_sparse;
    let mut scan = Scan {
        name: name.to_owned(),
        first_seq: named_seq,
        end_seq: named_seq,
        has_header: !is_headless,
        nonce: header.as_ref().map_or(adopted_nonce, |header| header.nonce),
        session: header.as_ref().map_or(0, |header| header.session),
        file_bytes,
        full_bytes,
        used_bytes: BLOCK_BYTES as u64,
        frames: 0,
        is_sealed: false,
        is_end_recorded: false,
        output,
        ends: header.map(|header| header.ends).unwrap_or_default(),
        numbers: if is_sparse {
            SeqSet::Sparse { first: named_seq, offsets: Vec::new() }
        } else {
            SeqSet::Dense { first: named_seq, count: 0 }
        },
        items: Vec::new(),
        live: BTreeMap::new(),
        uncounted: OrdinalSet::default(),
        missing: OrdinalSet::default(),
        delivered: Vec::new(),
        older_runs: OlderRuns::NOTHING,
        damage: Vec::new(),
        torn_at: None,
        lost_end: None,
    };
    for end in &scan.ends {
        scan.older_runs.add(end.segment, 0);
    }
    if is_headless {
        // A file gets its name only once its header is durable, so this is damage.
        scan.damaged(0, Some(named_seq), reading.reason_within(&(0..BLOCK_BYTES as u64)));
    }
    scan.frames(bytes, &reading);
    if file_bytes < full_bytes && !scan.is_sealed {
        scan.lost_end = Some(format!("the file has {file_bytes} of {full_bytes} bytes"));
    }
    if is_headless && scan.frames == 0 {
        // The disk is more likely unavailable for a moment than a whole file is lost.
        reading.into_error().map_or(Ok(()), Err)?;
    }
    Ok(scan)
}

/// Whether a file has a valid frame of this version of the format.
pub(super) fn has_frame(file: &impl DiskFile) -> io::Result<bool> {
    Ok(adopted(&read_whole(file)?, 0).0 != 0)
}

/// The end of the range of an output whose header is damaged: its seal has it, and every other frame has a lower bound. `None` for other
/// segments.
pub(super) fn output_end(file: &impl DiskFile, named_seq: Seq) -> io::Result<Option<Seq>> {
    let bytes = read_whole(file)?;
    let (nonce, is_output) = adopted(&bytes, named_seq);
    let blocks = (BLOCK_BYTES..bytes.len()).step_by(BLOCK_BYTES).filter(|_at| is_output);
    let frames = blocks.filter_map(|at| Frame::decode(bytes.get(at..)?, at as u64, nonce));
    Ok(frames.map(|frame| frame.header.end_seq).max())
}

fn read_whole(file: &impl DiskFile) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
    disk::read_blocks(file, &mut bytes, 0, Reach::All)?;
    Ok(bytes)
}

/// The nonce of the first frame that may belong to this segment, judged by the frame alone, and whether it is part of an output.
fn adopted(bytes: &[u8], named_seq: Seq) -> (u64, bool) {
    let blocks = (1..bytes.len() / BLOCK_BYTES).map(|block| block * BLOCK_BYTES);
    blocks
        .filter_map(|at| bytes.get(at..).map(|bytes| (at as u64, bytes)))
        .filter(|(at, bytes)| format::own_nonce(bytes, *at).is_some())
        .filter_map(|(_, bytes)| FrameHeader::peek(bytes))
        .find(|header| header.first_seq >= named_seq)
        .map_or((0, false), |header| (header.nonce, header.is_sparse))
}

impl Scan {
    /// The number of its captures, readable or not.
    pub(crate) fn captures(&self) -> u64 {
        self.numbers.count()
    }

    /// The number of captures that cannot be read.
    pub(crate) const fn missing_captures(&self) -> u64 {
        self.missing.count()
    }

    /// Adds up the bytes of the items that are not in `delivered`. This consumes the list of items.
    pub(super) fn add_up(&mut self, delivered: &OrdinalSet) {
        let captures = self.captures();
        for (ordinal, (key, bytes)) in (0..captures).zip(std::mem::take(&mut self.items)) {
            if bytes > 0 && !delivered.has(ordinal) {
                *self.live.entry(key).or_default() += u64::from(bytes);
            }
        }
    }

    /// Records that everything from its current end up to `to`, if that is known, was acknowledged and cannot be read.
    fn damaged(&mut self, offset: u64, to: Option<Seq>, reason: Option<String>) {
        let from = self.end_seq;
        self.end_seq = from.max(to.unwrap_or(from));
        let mut captures = 0;
        if let SeqSet::Dense { first, count } = &mut self.numbers {
            for seq in from..self.end_seq {
                self.missing.set(seq - *first);
            }
            *count = self.end_seq - *first;
            captures = self.end_seq - from;
        }
        let to = to.map(|_to| self.end_seq);
        self.damage.push(Damage { name: self.name.clone(), offset, from, to, captures, reason });
    }

    /// Takes into account where the next segment of the same session begins. Without its header the session of this one is not known, and
    /// any segment follows it: its own session's, or one that should have recorded its end.
    pub(super) fn followed_by(&mut self, next: Option<Seq>) {
        // A gap that is too large for this segment was in segments that are gone, because they were delivered.
        let room = self.full_bytes.saturating_sub(self.used_bytes) / CAPTURE_ITEM_BYTES_MIN as u64;
        let to = match (next, &self.lost_end) {
            _ if self.is_sealed || self.is_end_recorded || self.output.is_some() => return,
            (None, None) => {
                // Without its header and any frame, nobody can say how far it went.
                if let Some(damage) = self.damage.first_mut().filter(|_| !self.has_header && self.frames == 0) {
                    damage.to = None;
                }
                return;
            }
            // It must have been sealed, so captures that the seal vouched for may be lost too.
            (Some(next), _) => Some(next).filter(|next| next.checked_sub(self.end_seq).is_some_and(|gap| gap <= room)),
            (None, Some(_)) => None,
        };
        let reason = self.lost_end.take();
        self.damaged(self.used_bytes, to, reason);
        self.torn_at = None;
    }

    /// Takes into account the recorded end of its session. What follows that end was never acknowledged.
    pub(super) fn ended_at(&mut self, end: &End) {
        if self.is_sealed || self.output.is_some() {
            return;
        }
        if self.used_bytes < end.offset {
            let reason = self.lost_end.take();
            self.damaged(self.used_bytes, Some(end.end_seq), reason);
        }
        self.is_end_recorded = true;
        self.lost_end = None;
        self.torn_at = None;
    }

    /// Its end, if no other segment records it.
    pub(super) fn unrecorded_end(&self) -> Option<End> {
        let is_open = !self.is_sealed && !self.is_end_recorded && self.output.is_none() && self.damage.is_empty();
        let Self { first_seq, nonce, end_seq, used_bytes, .. } = *self;
        is_open.then_some(End { segment: first_seq, nonce, end_seq, offset: used_bytes })
    }

    /// A sequence number behind all numbers that it may have had, readable or not.
    pub(super) fn unused_seq(&self) -> Seq {
        let is_end_known = self.damage.iter().all(|damage| damage.to.is_some());
        // Every capture takes more than one byte.
        self.end_seq + if is_end_known { 0 } else { self.full_bytes.max(1) }
    }

    /// Limits an output without a valid header, whose range is not known, to what comes before the next segment.
    pub(super) fn cut(&mut self, next: Seq) {
        if self.output.is_none() && matches!(self.numbers, SeqSet::Sparse { .. }) {
            self.numbers.cut(next);
        }
    }

    /// Applies that an output was complete before it got its name: whatever it lacks is damaged.
    pub(super) fn end_output(&mut self) {
        let Some(Output { to, captures }) = self.output else { return };
        if !self.is_sealed {
            let reason = self.lost_end.take();
            self.damaged(self.used_bytes, Some(to), reason);
        }
        self.end_seq = self.end_seq.max(to);
        (self.torn_at, self.lost_end) = (None, None);
        let missing = captures.saturating_sub(self.captures());
        if let Some(damage) = self.damage.first_mut() {
            damage.captures = missing;
        }
    }

    fn frames(&mut self, bytes: &[u8], reading: &FileRead) {
        let mut bad_at = None;
        let mut at = BLOCK_BYTES;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let offset = at as u64;
            let frame = Frame::decode(rest, offset, self.nonce).filter(|frame| frame.header.first_seq >= self.end_seq);
            let Some(frame) = frame else {
                bad_at = bad_at.or(Some(offset));
                if self.torn_at.is_none() && format::was_frame(rest, self.nonce, self.end_seq) {
                    self.torn_at = Some(offset);
                }
                at += BLOCK_BYTES;
                continue;
            };
            // It was written only once everything before it was durable, so what is missing before it was acknowledged.
            if let Some(bad_at) = bad_at.take() {
                self.damaged(bad_at, Some(frame.header.first_seq), reading.reason_within(&(bad_at..offset)));
                self.torn_at = None;
            }
            self.add(&frame);
            at += usize::try_from(frame.header.padded_bytes()).unwrap_or(usize::MAX);
            self.used_bytes = at as u64;
        }
        if self.is_sealed {
            self.torn_at = None;
            return;
        }
        // A torn frame may have been complete except for its unreadable blocks. Without a torn frame, only the first block can hide a
        // frame.
        let end = if self.torn_at.is_some() { self.file_bytes } else { self.used_bytes + BLOCK_BYTES as u64 };
        self.lost_end = reading.reason_within(&(self.used_bytes..end));
    }

    fn add(&mut self, frame: &Frame<'_>) {
        self.end_seq = frame.header.end_seq;
        if let SeqSet::Dense { first, count } = &mut self.numbers {
            *count = self.end_seq - *first;
            // Missing captures have no size.
            self.items.resize(usize::try_from(frame.header.first_seq - *first).unwrap_or(0), (0, 0));
        }
        for item in frame.items() {
            match item {
                FrameItem::Capture(captured) => {
                    if let SeqSet::Sparse { first, offsets } = &mut self.numbers {
                        offsets.extend(u32::try_from(captured.seq - *first));
                    }
                    if !captured.is_counted {
                        self.uncounted.set(self.items.len() as u64);
                    }
                    self.items.push((captured.kind_key, captured.stored_bytes()));
                }
                FrameItem::Delivered(runs) => {
                    self.older_runs.add(runs.iter().next().map_or(Seq::MAX, |(first, _)| first), runs.stored_bytes());
                    self.delivered.extend(runs.iter());
                }
            }
        }
        self.frames += 1;
        self.is_sealed = frame.header.is_seal;
    }
}
