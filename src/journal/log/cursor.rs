//! Reads the log in order, frame by frame, as far as it is durable.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::Damage;
use super::Seq;
use super::disk;
use super::disk::Disk;
use super::disk::DiskFile;
use super::disk::FileRead;
use super::disk::Reach;
use super::format::BLOCK_BYTES;
use super::format::Frame;
use super::format::FrameHeader;
use super::mutant::Mutant;
use super::store::Segment;
use super::store::Store;

/// Read at a time, so that small frames do not cost a system call each.
const READ_BYTES: u64 = 256 * 1024;

/// Where a frame begins, as long as its segment is what it was; then, where it is looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FramePosition {
    /// The number of its first capture, or of the next one if it has none.
    pub(crate) seq: Seq,
    /// Its segment, by its first number.
    pub(crate) segment: Seq,
    /// The segment's.
    pub(crate) nonce: u64,
    /// In bytes.
    pub(crate) offset: u64,
}

/// Why the next frame cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The disk does not read now. The cursor is where it was.
    #[error("the disk does not read: {0}")]
    Io(#[from] io::Error),
    /// It is not what was written, or the disk has lost it. The cursor is behind what cannot be read, and can go on.
    #[error("{0}")]
    Damaged(Damage),
}

/// A reader's position.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    next: FramePosition,
    /// It looks for its number, and passes over frames that end before.
    is_looking: bool,
    /// What was read ahead of a file of this nonce, from there on.
    buffer: Vec<u8>,
    /// How much of the buffer that is. Behind it is what was read before.
    buffer_bytes: usize,
    buffer_nonce: u64,
    buffer_offset: u64,
    /// How that was read.
    reading: FileRead,
}

impl Cursor {
    /// A cursor that will read what begins at `place`. The default place is the oldest frame.
    pub(crate) fn at(place: FramePosition) -> Self {
        Self { next: place, ..Self::default() }
    }

    /// Where it will look for the next frame.
    pub(crate) const fn place(&self) -> FramePosition {
        self.next
    }

    /// Goes to what begins at `place`.
    pub(crate) const fn go_to(&mut self, place: FramePosition) {
        self.next = place;
        self.is_looking = false;
    }

    /// Whether all that is durable has been read.
    pub(crate) fn is_at_end<D: Disk>(&mut self, store: &Store<D>) -> bool {
        self.find(store).is_none()
    }

    /// The next frame and where it is, or nothing if all that is durable has been read. After its segment has become part of another
    /// one, the frame may begin with captures that were read before.
    ///
    /// # Errors
    ///
    /// The next frame cannot be read, and nothing was known of that, or it took the disk its time.
    pub(crate) fn next<D: Disk>(&mut self, store: &Store<D>) -> Result<Option<(FramePosition, Frame<'_>)>, ReadError> {
        let place = loop {
            let Some(found) = self.find(store) else { return Ok(None) };
            let Err(looked_at) = self.load(&*found.file, found.nonce, found.used_bytes)? else {
                let header = self.buffered(self.next.offset).and_then(FrameHeader::peek);
                let passes = |header: &FrameHeader| self.is_looking && header.end_seq <= self.next.seq;
                let Some(header) = header.filter(passes) else { break self.next };
                self.next.offset += header.padded_bytes();
                continue;
            };
            // The file may have become a spare meanwhile; then there was nothing to read in it any more.
            if store.lock().segments.get(&self.next.segment).is_none_or(|segment| segment.nonce != found.nonce) {
                continue;
            }
            let at = self.next;
            self.next.offset += BLOCK_BYTES as u64;
            let reason = self.reading.reason_within(&looked_at);
            if !found.is_damaged || reason.is_some() {
                return Err(ReadError::Damaged(note_damage(store, at, reason)));
            }
        };
        // It was checked a moment ago, in a borrow that had to end.
        self.is_looking = false;
        let header = self.buffered(place.offset).and_then(FrameHeader::peek);
        if let Some(header) = header {
            self.next.offset += header.padded_bytes();
            self.next.seq = header.end_seq;
        }
        let frame = self.buffered(place.offset).and_then(Frame::decode_checked);
        Ok(frame.map(|frame| (FramePosition { seq: frame.header.first_seq, ..place }, frame)))
    }

    /// The next frame of one file, or nothing at its end; or which bytes were to be one.
    pub(super) fn next_of<F: DiskFile>(
        &mut self,
        file: &F,
        nonce: u64,
        used_bytes: u64,
    ) -> io::Result<Option<Result<Frame<'_>, Range<u64>>>> {
        let offset = self.next.offset;
        if offset >= used_bytes {
            return Ok(None);
        }
        if let Err(looked_at) = self.load(file, nonce, used_bytes)? {
            return Ok(Some(Err(looked_at)));
        }
        let header = self.buffered(offset).and_then(FrameHeader::peek);
        self.next.offset += header.map_or(BLOCK_BYTES as u64, |header| header.padded_bytes());
        Ok(self.buffered(offset).and_then(Frame::decode_checked).map(Ok))
    }

    /// What was read from `offset` on.
    fn buffered(&self, offset: u64) -> Option<&[u8]> {
        self.buffer.get(usize::try_from(offset.checked_sub(self.buffer_offset)?).ok()?..self.buffer_bytes)
    }

    /// The file that the next frame is in, going on to the next segment at the end of one.
    fn find<D: Disk>(&mut self, store: &Store<D>) -> Option<FoundSegment<D::File>> {
        let reads_next = store.shared.options.has(Mutant::ReadNextInstead);
        let keeps_offset = store.shared.options.has(Mutant::KeepOffset);
        let state = store.lock();
        loop {
            let live = state.segments.get(&self.next.segment);
            let live = live.filter(|segment| segment.nonce == self.next.nonce || keeps_offset);
            let (first, segment) = match live {
                Some(segment) if self.next.offset < segment.used_bytes => return Some(FoundSegment::of(segment)),
                Some(_) => state.segments.range(self.next.segment + 1..).next()?,
                // It is somewhere else now, if it is to be read at all.
                None => {
                    self.is_looking = true;
                    let covering = state.segments.range(..=self.next.seq).next_back();
                    let covering = covering.filter(|(_, segment)| self.next.seq < segment.end_seq);
                    let covering = covering.filter(|_| !reads_next);
                    covering.or_else(|| state.segments.range(self.next.seq..).next())?
                }
            };
            let offset = BLOCK_BYTES as u64;
            self.next = FramePosition { seq: self.next.seq, segment: *first, nonce: segment.nonce, offset };
        }
    }

    /// Reads until the next frame is in the buffer, if it is a whole one; if not, returns which bytes were to be one.
    fn load<F: DiskFile>(&mut self, file: &F, nonce: u64, used_bytes: u64) -> io::Result<Result<(), Range<u64>>> {
        let offset = self.next.offset;
        let buffered_to = self.buffer_offset + self.buffer_bytes as u64;
        let has_header =
            self.buffer_nonce == nonce && self.buffer_offset <= offset && offset + BLOCK_BYTES as u64 <= buffered_to;
        if !has_header {
            self.fill(file, nonce, READ_BYTES.min(used_bytes - offset))?;
        }
        let header = self.buffered(offset).and_then(FrameHeader::peek);
        let Some(header) = header else { return Ok(Err(offset..offset + BLOCK_BYTES as u64)) };
        let end = offset.saturating_add(header.padded_bytes());
        if end > used_bytes {
            return Ok(Err(offset..used_bytes));
        }
        if end > self.buffer_offset + self.buffer_bytes as u64 {
            self.fill(file, nonce, (end - offset).max(READ_BYTES.min(used_bytes - offset)))?;
        }
        let frame = self.buffered(offset).and_then(|bytes| Frame::decode(bytes, offset, nonce));
        Ok(frame.map(|_whole| ()).ok_or(offset..end))
    }

    fn fill<F: DiskFile>(&mut self, file: &F, nonce: u64, bytes: u64) -> io::Result<()> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if self.buffer.len() < bytes {
            // It only grows, so that its zeros are not written for each read.
            self.buffer.resize(bytes, 0);
        }
        let into = self.buffer.get_mut(..bytes).unwrap_or_default();
        let reading = disk::read_blocks(file, into, self.next.offset, Reach::FirstBad);
        // After an error there is no telling what is in it.
        self.buffer_bytes = reading.as_ref().map_or(0, |reading| reading.bytes);
        self.buffer_offset = self.next.offset;
        self.buffer_nonce = nonce;
        self.reading = reading?;
        Ok(())
    }
}

/// The segment that the next frame is in.
struct FoundSegment<F> {
    file: Arc<F>,
    nonce: u64,
    used_bytes: u64,
    is_damaged: bool,
}

impl<F> FoundSegment<F> {
    fn of(segment: &Segment<F>) -> Self {
        let Segment { file, nonce, used_bytes, is_damaged, .. } = segment;
        Self { file: Arc::clone(file), nonce: *nonce, used_bytes: *used_bytes, is_damaged: *is_damaged }
    }
}

/// Remembers that a segment is damaged.
pub(super) fn note_damage<D: Disk>(store: &Store<D>, at: FramePosition, reason: Option<String>) -> Damage {
    let mut state = store.lock();
    let segment = state.segments.get_mut(&at.segment).filter(|segment| segment.nonce == at.nonce);
    let name = segment.map_or_else(String::new, |segment| {
        segment.is_damaged = true;
        segment.name.clone()
    });
    Damage { name, offset: at.offset, from: at.segment, to: None, captures: 0, reason }
}
