//! Reads the log in order, frame by frame, as far as it is durable.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::Damage;
use super::Seq;
use super::disk;
use super::disk::Disk;
use super::disk::DiskFile;
use super::disk::Reach;
use super::disk::Reading;
use super::format::BLOCK_BYTES;
use super::format::Frame;
use super::format::FrameHeader;
use super::store::Store;

/// Read at a time, so that small frames do not cost a system call each.
const READ_BYTES: u64 = 256 * 1024;

/// Where a frame begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Its segment, by its first number.
    pub(crate) segment: Seq,
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
    next: Place,
    /// What was read ahead of a file of this nonce, from there on.
    buffer: Vec<u8>,
    buffer_nonce: u64,
    buffer_offset: u64,
    /// How that was read.
    reading: Reading,
}

impl Cursor {
    /// A cursor that will read what begins at `place`. The default place is the oldest frame.
    pub(crate) fn at(place: Place) -> Self {
        Self { next: place, ..Self::default() }
    }

    /// Where it will look for the next frame.
    pub(crate) const fn place(&self) -> Place {
        self.next
    }

    /// Goes to what begins at `place`.
    pub(crate) const fn go_to(&mut self, place: Place) {
        self.next = place;
    }

    /// Whether all that is durable has been read.
    pub(crate) fn is_at_end<D: Disk>(&mut self, store: &Store<D>) -> bool {
        self.find(store).is_none()
    }

    /// The next frame and where it is, or nothing if all that is durable has been read.
    ///
    /// # Errors
    ///
    /// The next frame cannot be read, and nothing was known of that, or it took the disk its time.
    pub(crate) fn next<D: Disk>(&mut self, store: &Store<D>) -> Result<Option<(Place, Frame<'_>)>, ReadError> {
        let place = loop {
            let Some((file, nonce, used_bytes, is_damaged)) = self.find(store) else { return Ok(None) };
            let Err(looked_at) = self.load(&*file, nonce, used_bytes)? else { break self.next };
            // The file may have become a spare meanwhile; then there was nothing to read in it any more.
            let Some(expected) = store.lock().segments.get(&self.next.segment).map(|segment| segment.nonce) else {
                continue;
            };
            if expected != nonce {
                continue;
            }
            let at = self.next;
            self.next.offset += BLOCK_BYTES as u64;
            let reason = self.reading.reason_within(&looked_at);
            if !is_damaged || reason.is_some() {
                return Err(ReadError::Damaged(note_damage(store, at, reason)));
            }
        };
        let start = usize::try_from(place.offset - self.buffer_offset).unwrap_or(usize::MAX);
        // It was checked a moment ago, in a borrow that had to end.
        let frame = self.buffer.get(start..).and_then(Frame::decode_checked);
        if let Some(frame) = &frame {
            self.next.offset += frame.header.padded_bytes();
        }
        Ok(frame.map(|frame| (place, frame)))
    }

    /// The file that the next frame is in, going on to the next segment at the end of one.
    fn find<D: Disk>(&mut self, store: &Store<D>) -> Option<(Arc<D::File>, u64, u64, bool)> {
        let state = store.lock();
        loop {
            self.next.offset = self.next.offset.max(BLOCK_BYTES as u64);
            if let Some(segment) = state.segments.get(&self.next.segment)
                && self.next.offset < segment.used_bytes
            {
                return Some((Arc::clone(&segment.file), segment.nonce, segment.used_bytes, segment.is_damaged));
            }
            let (first, _) = state.segments.range(self.next.segment + 1..).next()?;
            self.next = Place { segment: *first, offset: BLOCK_BYTES as u64 };
        }
    }

    /// Reads until the next frame is in the buffer, if it is a whole one; if not, returns which bytes were to be one.
    fn load<F: DiskFile>(&mut self, file: &F, nonce: u64, used_bytes: u64) -> io::Result<Result<(), Range<u64>>> {
        let offset = self.next.offset;
        let buffered_to = self.buffer_offset + self.buffer.len() as u64;
        let has_header =
            self.buffer_nonce == nonce && self.buffer_offset <= offset && offset + BLOCK_BYTES as u64 <= buffered_to;
        if !has_header {
            self.fill(file, nonce, READ_BYTES.min(used_bytes - offset))?;
        }
        let frame = |cursor: &Self| {
            let start = usize::try_from(offset - cursor.buffer_offset).unwrap_or(usize::MAX);
            cursor.buffer.get(start..).and_then(FrameHeader::peek)
        };
        let Some(header) = frame(self) else { return Ok(Err(offset..offset + BLOCK_BYTES as u64)) };
        let end = offset.saturating_add(header.padded_bytes());
        if end > used_bytes {
            return Ok(Err(offset..used_bytes));
        }
        if end > self.buffer_offset + self.buffer.len() as u64 {
            self.fill(file, nonce, (end - offset).max(READ_BYTES.min(used_bytes - offset)))?;
        }
        let start = usize::try_from(offset - self.buffer_offset).unwrap_or(usize::MAX);
        let frame = self.buffer.get(start..).and_then(|bytes| Frame::decode(bytes, offset, nonce));
        Ok(frame.map(|_whole| ()).ok_or(offset..end))
    }

    fn fill<F: DiskFile>(&mut self, file: &F, nonce: u64, bytes: u64) -> io::Result<()> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if self.buffer.len() < bytes {
            self.buffer = vec![0; bytes];
        }
        self.buffer.truncate(bytes);
        let reading = disk::read_blocks(file, &mut self.buffer, self.next.offset, Reach::FirstBad);
        // After an error there is no telling what is in it.
        self.buffer.truncate(reading.as_ref().map_or(0, |reading| reading.bytes));
        self.buffer_offset = self.next.offset;
        self.buffer_nonce = nonce;
        self.reading = reading?;
        Ok(())
    }
}

/// Remembers that a segment is damaged.
fn note_damage<D: Disk>(store: &Store<D>, at: Place, reason: Option<String>) -> Damage {
    let mut state = store.lock();
    let segment = state.segments.get_mut(&at.segment);
    let name = segment.map_or_else(String::new, |segment| {
        segment.is_damaged = true;
        segment.name.clone()
    });
    Damage { name, offset: at.offset, from: at.segment, to: None, reason }
}
