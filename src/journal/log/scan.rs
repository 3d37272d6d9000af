//! Reads a segment whole, and says what is in it and what is not.

use std::io;

use super::Damage;
use super::Seq;
use super::disk;
use super::disk::DiskFile;
use super::disk::Reach;
use super::disk::Reading;
use super::format;
use super::format::BLOCK_BYTES;
use super::format::Frame;
use super::format::RECORD_HEADER_BYTES;
use super::format::Record;
use super::format::SegmentHeader;
use super::marks::Marks;

/// What is in a segment.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) name: String,
    pub(crate) first_seq: Seq,
    /// Behind its last capture.
    pub(crate) end_seq: Seq,
    pub(crate) nonce: u64,
    pub(crate) session: u64,
    pub(crate) file_bytes: u64,
    /// Up to the end of its last frame.
    pub(crate) used_bytes: u64,
    pub(crate) frames: u64,
    pub(crate) is_sealed: bool,
    /// Captures that the ledger does not count, by their place.
    pub(super) uncounted: Marks,
    /// Captures that cannot be read, by their place.
    pub(super) missing: Marks,
    /// What it says was delivered, here and elsewhere, first and last each.
    pub(super) delivered: Vec<(Seq, Seq)>,
    pub(crate) damage: Vec<Damage>,
    /// Where something was begun that did not become a frame.
    pub(crate) torn_at: Option<u64>,
    /// What the disk says where there may have been one more frame, which it does not give.
    lost_end: Option<String>,
}

/// Reads a segment whole. `buffer` is used for it.
///
/// # Errors
///
/// The disk does not read now, or gives nothing of the file.
pub(crate) fn scan(name: &str, named_seq: Seq, file: &impl DiskFile, buffer: &mut Vec<u8>) -> io::Result<Scan> {
    let file_bytes = file.len()?;
    let wanted = usize::try_from(file_bytes).unwrap_or(usize::MAX);
    if buffer.len() < wanted {
        *buffer = vec![0; wanted];
    }
    let reading = disk::read_blocks(file, buffer.get_mut(..wanted).unwrap_or_default(), 0, Reach::All)?;
    let bytes = buffer.get(..reading.bytes).unwrap_or_default();
    let header = SegmentHeader::decode(bytes).filter(|header| header.first_seq == named_seq);
    let mut scan = Scan {
        name: name.to_owned(),
        first_seq: named_seq,
        end_seq: named_seq,
        nonce: header.map_or(0, |header| header.nonce),
        session: header.map_or(0, |header| header.session),
        file_bytes,
        used_bytes: BLOCK_BYTES as u64,
        frames: 0,
        is_sealed: false,
        uncounted: Marks::default(),
        missing: Marks::default(),
        delivered: Vec::new(),
        damage: Vec::new(),
        torn_at: None,
        lost_end: None,
    };
    if header.is_none() {
        // A file gets its name only once its header is durable.
        scan.damaged(0, Some(named_seq), reading.reason_within(&(0..BLOCK_BYTES as u64)));
        scan.nonce = adopted_nonce(bytes, named_seq);
    }
    scan.frames(bytes, &reading);
    if header.is_none() && scan.frames == 0 {
        // More likely the disk is away for a moment than that it has lost all of a file.
        reading.into_error().map_or(Ok(()), Err)?;
    }
    Ok(scan)
}

/// The nonce of the first frame that may belong to this segment, by its own word.
fn adopted_nonce(bytes: &[u8], named_seq: Seq) -> u64 {
    let blocks = (1..bytes.len() / BLOCK_BYTES).map(|block| block * BLOCK_BYTES);
    blocks
        .filter_map(|at| bytes.get(at..).map(|bytes| (at as u64, bytes)))
        .filter_map(|(at, bytes)| format::own_nonce(bytes, at).map(|nonce| (bytes, nonce)))
        .find(|(bytes, _)| format::FrameHeader::peek(bytes).is_some_and(|header| header.first_seq >= named_seq))
        .map_or(0, |(_, nonce)| nonce)
}

impl Scan {
    /// How many captures it has, readable or not.
    pub(crate) const fn captures(&self) -> u64 {
        self.end_seq - self.first_seq
    }

    /// How many of them cannot be read.
    pub(crate) const fn missing_captures(&self) -> u64 {
        self.missing.count()
    }

    /// Notes that everything from where it ends up to `to`, if that can be told, was acknowledged and cannot be read.
    fn damaged(&mut self, offset: u64, to: Option<Seq>, reason: Option<String>) {
        let from = self.end_seq;
        self.end_seq = from.max(to.unwrap_or(from));
        for seq in from..self.end_seq {
            self.missing.set(seq - self.first_seq);
        }
        self.damage.push(Damage { name: self.name.clone(), offset, from, to: to.map(|_to| self.end_seq), reason });
    }

    /// Notes what follows it: where the next segment begins, if that is one of its session.
    pub(super) fn followed_by(&mut self, next: Option<Seq>) {
        // Nothing takes less than its head in a frame. What is beyond was in segments that are gone, because it was delivered.
        let room = (self.file_bytes.saturating_sub(self.used_bytes)) / RECORD_HEADER_BYTES as u64;
        let to = match (next, &self.lost_end) {
            _ if self.is_sealed => return,
            (None, None) => return,
            // Then it was sealed, and what the seal vouched for may be gone as well.
            (Some(next), _) => Some(next).filter(|next| next.checked_sub(self.end_seq).is_some_and(|gap| gap <= room)),
            (None, Some(_)) => None,
        };
        let reason = self.lost_end.take();
        self.damaged(self.used_bytes, to, reason);
        self.torn_at = None;
    }

    /// Behind every number that it can have had, readable or not.
    pub(super) fn unused_seq(&self) -> Seq {
        let is_end_known = self.damage.iter().all(|damage| damage.to.is_some());
        // No capture takes less than its head in a frame.
        self.end_seq + if is_end_known { 0 } else { self.file_bytes }
    }

    fn frames(&mut self, bytes: &[u8], reading: &Reading) {
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
            // Written only once all before it was durable: what is missing before it was acknowledged.
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
        // What was begun here may have been whole, but for what the disk does not give; and nothing was begun behind a block without.
        let end = if self.torn_at.is_some() { self.file_bytes } else { self.used_bytes + BLOCK_BYTES as u64 };
        self.lost_end = reading.reason_within(&(self.used_bytes..end));
    }

    fn add(&mut self, frame: &Frame<'_>) {
        let mut seq = frame.header.first_seq;
        for record in frame.records() {
            match record {
                Record::Capture { is_counted, .. } => {
                    if !is_counted {
                        self.uncounted.set(seq - self.first_seq);
                    }
                    seq += 1;
                }
                Record::Delivered(runs) => self.delivered.extend(runs.iter()),
            }
        }
        self.end_seq = frame.header.end_seq();
        self.frames += 1;
        self.is_sealed = frame.header.is_seal;
    }
}
