//! Reads the log in order, frame by frame, up to what is durable.

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

/// Bytes read at a time, so that small frames do not cost a system call each.
const READ_BYTES: u64 = 256 * 1024;

/// The position of a frame. It is exact while its segment is unchanged; after that the reader searches for `seq`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FramePosition {
    /// The sequence number of its first capture, or the next one if it has none.
    pub(crate) seq: Seq,
    /// Its segment, by the first sequence number.
    pub(crate) segment: Seq,
    /// The nonce of the segment.
    pub(crate) nonce: u64,
    /// The offset in the segment.
    pub(crate) offset: u64,
}

/// Why the next frame cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The disk cannot read now. The cursor has not moved.
    #[error("the disk cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The frame is damaged or unreadable. The cursor is behind it, and can continue.
    #[error("{0}")]
    Damaged(Damage),
}

/// The position of a reader.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    next: FramePosition,
    /// It searches for its sequence number, and skips frames that end before it.
    is_searching: bool,
    /// What was read from the file with `buffer_nonce`, from `buffer_offset` on.
    buffer: Vec<u8>,
    /// How much of the buffer is valid. The rest is from earlier reads.
    buffer_bytes: usize,
    buffer_nonce: u64,
    buffer_offset: u64,
    /// The result of that read.
    reading: FileRead,
}

impl Cursor {
    /// A cursor at `place`. The default place is the oldest frame.
    pub(crate) fn at(place: FramePosition) -> Self {
        Self { next: place, ..Self::default() }
    }

    /// Where it will read the next frame.
    pub(crate) const fn place(&self) -> FramePosition {
        self.next
    }

    /// Moves the cursor to `place`.
    pub(crate) const fn go_to(&mut self, place: FramePosition) {
        self.next = place;
        self.is_searching = false;
    }

    /// Whether everything durable has been read.
    pub(crate) fn is_at_end<D: Disk>(&mut self, store: &Store<D>) -> bool {
        self.find(store).is_none()
    }

    /// The next frame and its position, or `None` if everything durable has been read. If its segment has become part of an output, the
    /// frame may begin with captures that were read before.
    ///
    /// # Errors
    ///
    /// The next frame cannot be read, and this was not known, or the disk took long to fail.
    pub(crate) fn next<D: Disk>(&mut self, store: &Store<D>) -> Result<Option<(FramePosition, Frame<'_>)>, ReadError> {
        let place = loop {
            let Some(found) = self.find(store) else { return Ok(None) };
            let Err(bad_bytes) = self.load(&*found.file, found.nonce, found.used_bytes)? else {
                let header = self.buffered(self.next.offset).and_then(FrameHeader::peek);
                let passes = |header: &FrameHeader| self.is_searching && header.end_seq <= self.next.seq;
                let Some(header) = header.filter(passes) else { break self.next };
                self.next.offset += header.padded_bytes();
                continue;
            };
            // The file may have been recycled meanwhile; then it had nothing more to read.
            if store.lock().segments.get(&self.next.segment).is_none_or(|segment| segment.nonce != found.nonce) {
                continue;
            }
            let at = self.next;
            self.next.offset += BLOCK_BYTES as u64;
            let reason = self.reading.reason_within(&bad_bytes);
            if !found.is_damaged || reason.is_some() {
                return Err(ReadError::Damaged(note_damage(store, at, reason)));
            }
        };
        // The frame was checked above, in a borrow that had to end.
        self.is_searching = false;
        let header = self.buffered(place.offset).and_then(FrameHeader::peek);
        if let Some(header) = header {
            self.next.offset += header.padded_bytes();
            self.next.seq = header.end_seq;
        }
        let frame = self.buffered(place.offset).and_then(Frame::decode_checked);
        Ok(frame.map(|frame| (FramePosition { seq: frame.header.first_seq, ..place }, frame)))
    }

    /// The next frame of one file, or `None` at its end; or the range of bytes that is not a valid frame.
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
        if let Err(bad_bytes) = self.load(file, nonce, used_bytes)? {
            return Ok(Some(Err(bad_bytes)));
        }
        let header = self.buffered(offset).and_then(FrameHeader::peek);
        self.next.offset += header.map_or(BLOCK_BYTES as u64, |header| header.padded_bytes());
        Ok(self.buffered(offset).and_then(Frame::decode_checked).map(Ok))
    }

    /// The buffered bytes from `offset` on.
    fn buffered(&self, offset: u64) -> Option<&[u8]> {
        self.buffer.get(usize::try_from(offset.checked_sub(self.buffer_offset)?).ok()?..self.buffer_bytes)
    }

    /// The segment of the next frame. Moves on to the next segment at the end of one.
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
                // The segment is gone: the number is in another one, if it is undelivered at all.
                None => {
                    self.is_searching = true;
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

    /// Reads until the next frame is in the buffer. If it is not valid, returns the range of its bytes.
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
            // It only grows, so that it is not zeroed for each read.
            self.buffer.resize(bytes, 0);
        }
        let into = self.buffer.get_mut(..bytes).unwrap_or_default();
        let reading = disk::read_blocks(file, into, self.next.offset, Reach::FirstBad);
        // After an error its contents are undefined.
        self.buffer_bytes = reading.as_ref().map_or(0, |reading| reading.bytes);
        self.buffer_offset = self.next.offset;
        self.buffer_nonce = nonce;
        self.reading = reading?;
        Ok(())
    }
}

/// The segment of the next frame.
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

/// Records that a segment is damaged.
pub(super) fn note_damage<D: Disk>(store: &Store<D>, at: FramePosition, reason: Option<String>) -> Damage {
    let mut state = store.lock();
    let segment = state.segments.get_mut(&at.segment).filter(|segment| segment.nonce == at.nonce);
    let name = segment.map_or_else(String::new, |segment| {
        segment.is_damaged = true;
        segment.name.clone()
    });
    Damage { name, offset: at.offset, from: at.segment, to: None, captures: 0, reason }
}
