//! The bytes of segments and frames, as the log's front page says.

use super::Seq;

/// What everything is aligned to, in bytes: what a torn write may touch.
pub(crate) const BLOCK_BYTES: usize = 4096;

const SEGMENT_MAGIC: &[u8; 8] = b"CBJRNL01";
const SEGMENT_HEADER_BYTES: usize = 48;
const FRAME_MAGIC: &[u8; 4] = b"CBFR";
const FRAME_HEADER_BYTES: usize = 48;
pub(super) const RECORD_HEADER_BYTES: usize = 5;

/// What stands at the start of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Of this use of the file.
    pub(crate) nonce: u64,
    /// Of the run of the process that wrote it.
    pub(crate) session: u64,
    pub(crate) first_seq: Seq,
    /// How far the session's log was durable, exclusive.
    pub(crate) durable_to: Seq,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BLOCK_BYTES);
        bytes.extend_from_slice(SEGMENT_MAGIC);
        bytes.extend_from_slice(&[0; 8]);
        for number in [self.nonce, self.session, self.first_seq, self.durable_to] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let checksum = crc32c::crc32c(bytes.get(12..).unwrap_or_default());
        put(&mut bytes, 8, &checksum.to_le_bytes());
        bytes.resize(BLOCK_BYTES, 0);
        bytes
    }

    pub(crate) fn decode(block: &[u8]) -> Option<Self> {
        let bytes = block.get(..SEGMENT_HEADER_BYTES)?;
        let is_whole = bytes.starts_with(SEGMENT_MAGIC) && u32_at(bytes, 8)? == crc32c::crc32c(bytes.get(12..)?);
        is_whole.then_some(())?;
        Some(Self {
            nonce: u64_at(bytes, 16)?,
            session: u64_at(bytes, 24)?,
            first_seq: u64_at(bytes, 32)?,
            durable_to: u64_at(bytes, 40)?,
        })
    }
}

/// What stands at the start of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) nonce: u64,
    pub(crate) first_seq: Seq,
    /// How far the session's log was durable, exclusive.
    pub(crate) durable_to: Seq,
    pub(crate) captures: u32,
    pub(crate) is_seal: bool,
    payload_bytes: u32,
}

impl FrameHeader {
    /// The captures' numbers end before this one.
    pub(crate) fn end_seq(&self) -> Seq {
        self.first_seq + u64::from(self.captures)
    }

    /// What the frame takes in its segment.
    pub(crate) fn padded_bytes(&self) -> u64 {
        (FRAME_HEADER_BYTES as u64 + u64::from(self.payload_bytes)).next_multiple_of(BLOCK_BYTES as u64)
    }

    /// Reads the numbers only; nothing is known of them yet.
    pub(crate) fn peek(bytes: &[u8]) -> Option<Self> {
        bytes.starts_with(FRAME_MAGIC).then_some(())?;
        Some(Self {
            nonce: u64_at(bytes, 8)?,
            first_seq: u64_at(bytes, 16)?,
            durable_to: u64_at(bytes, 24)?,
            payload_bytes: u32_at(bytes, 32)?,
            captures: u32_at(bytes, 36)?,
            is_seal: u32_at(bytes, 44)? == 1,
        })
    }
}

/// A whole frame, checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'b> {
    pub(crate) header: FrameHeader,
    payload: &'b [u8],
}

impl<'b> Frame<'b> {
    /// The frame at the start of `bytes`, which are the file's from `offset` on, if there is a whole one of this use of the file.
    pub(crate) fn decode(bytes: &'b [u8], offset: u64, nonce: u64) -> Option<Self> {
        let header = FrameHeader::peek(bytes)?;
        let end = FRAME_HEADER_BYTES.checked_add(usize::try_from(header.payload_bytes).ok()?)?;
        let checked = bytes.get(8..end)?;
        let is_ours = header.nonce == nonce && u64::from(u32_at(bytes, 40)?) == offset / BLOCK_BYTES as u64;
        (is_ours && u32_at(bytes, 4)? == crc32c::crc32c(checked)).then_some(())?;
        Some(Self { header, payload: bytes.get(FRAME_HEADER_BYTES..end)? })
    }

    /// The frame at the start of `bytes`, of which [`Frame::decode`] has said that it is whole.
    pub(crate) fn decode_checked(bytes: &'b [u8]) -> Option<Self> {
        let header = FrameHeader::peek(bytes)?;
        let end = FRAME_HEADER_BYTES + usize::try_from(header.payload_bytes).ok()?;
        Some(Self { header, payload: bytes.get(FRAME_HEADER_BYTES..end)? })
    }

    /// Its records, in order. They stop at one that makes no sense, which a checked frame does not have.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record<'b>> + use<'b> {
        let mut rest = self.payload;
        std::iter::from_fn(move || {
            let (header, behind) = rest.split_at_checked(RECORD_HEADER_BYTES)?;
            let (bytes, behind) = behind.split_at_checked(usize::try_from(u32_at(header, 1)?).ok()?)?;
            rest = behind;
            Some(match header.first()? {
                1 => Record::Capture { is_counted: true, bytes },
                2 => Record::Capture { is_counted: false, bytes },
                3 => Record::Delivered(Runs { bytes }),
                _ => return None,
            })
        })
    }
}

/// Whether something at the start of these bytes seems to have been a frame of this use of the file once.
pub(crate) fn was_frame(bytes: &[u8], nonce: u64, expected: Seq) -> bool {
    u64_at(bytes, 8) == Some(nonce) || bytes.starts_with(FRAME_MAGIC) && u64_at(bytes, 16) == Some(expected)
}

/// The nonce of a frame that is whole by its own word. For segments whose header is gone.
pub(crate) fn own_nonce(bytes: &[u8], offset: u64) -> Option<u64> {
    let nonce = FrameHeader::peek(bytes)?.nonce;
    Frame::decode(bytes, offset, nonce).map(|_frame| nonce)
}

/// A record of a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Record<'b> {
    /// The next capture.
    Capture {
        /// Whether the ledger counts it.
        is_counted: bool,
        /// The capture, as it was given.
        bytes: &'b [u8],
    },
    /// Captures that were delivered.
    Delivered(Runs<'b>),
}

/// Runs of sequence numbers, in order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Runs<'b> {
    bytes: &'b [u8],
}

impl<'b> Runs<'b> {
    /// The first and the last number of each. They stop at one that makes no sense, which a checked frame does not have.
    pub(crate) fn iter(self) -> impl Iterator<Item = (Seq, Seq)> + use<'b> {
        let (mut rest, mut next) = (self.bytes, 0_u64);
        std::iter::from_fn(move || {
            let first = next.checked_add(take_varint(&mut rest)?)?;
            let last = first.checked_add(take_varint(&mut rest)?)?;
            next = last.checked_add(1)?;
            Some((first, last))
        })
    }
}

/// A run takes no more than this, in bytes.
pub(super) const RUN_BYTES_MAX: usize = 20;

/// Seven bits a byte, the lowest first; the highest bit of a byte says that more follow (LEB128).
fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while let Some(low) = u8::try_from(number & 0x7f).ok().filter(|_| number > 0x7f) {
        bytes.push(low | 0x80);
        number >>= 7;
    }
    bytes.extend(u8::try_from(number));
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Captures that become one frame.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    captures: u32,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; FRAME_HEADER_BYTES], captures: 0 }
    }

    /// What it takes so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What it will take in a segment.
    pub(super) fn padded_bytes(&self) -> u64 {
        self.bytes.len().next_multiple_of(BLOCK_BYTES) as u64
    }

    pub(crate) const fn captures(&self) -> u32 {
        self.captures
    }

    /// Adds a capture, whose bytes `write` appends.
    pub(crate) fn push(&mut self, is_counted: bool, write: impl FnOnce(&mut Vec<u8>)) {
        self.record(if is_counted { 1 } else { 2 }, write);
        self.captures += 1;
    }

    /// Adds what was delivered, in order.
    pub(super) fn push_delivered(&mut self, runs: &[(Seq, Seq)]) {
        self.record(3, |bytes| {
            let mut next = 0;
            for (first, last) in runs {
                push_varint(bytes, first - next);
                push_varint(bytes, last - first);
                next = last + 1;
            }
        });
    }

    /// Takes back what was added of what was delivered since it took `bytes`.
    pub(super) fn truncate(&mut self, bytes: usize) {
        self.bytes.truncate(bytes);
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.truncate(FRAME_HEADER_BYTES);
        self.captures = 0;
    }

    fn record(&mut self, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&[0; 4]);
        write(&mut self.bytes);
        let written = self.bytes.len() - start - RECORD_HEADER_BYTES;
        put(&mut self.bytes, start + 1, &u32::try_from(written).unwrap_or(u32::MAX).to_le_bytes());
    }

    /// Calls `write` with the whole frame, padded. Afterwards more can be added.
    pub(super) fn as_frame<T>(&mut self, place: &FramePlace, write: impl FnOnce(&[u8]) -> T) -> T {
        let end = self.bytes.len();
        let payload_bytes = u32::try_from(end - FRAME_HEADER_BYTES).unwrap_or(u32::MAX);
        let block = u32::try_from(place.offset / BLOCK_BYTES as u64).unwrap_or(u32::MAX);
        put(&mut self.bytes, 0, FRAME_MAGIC);
        put(&mut self.bytes, 8, &place.nonce.to_le_bytes());
        put(&mut self.bytes, 16, &place.first_seq.to_le_bytes());
        put(&mut self.bytes, 24, &place.durable_to.to_le_bytes());
        put(&mut self.bytes, 32, &payload_bytes.to_le_bytes());
        put(&mut self.bytes, 36, &self.captures.to_le_bytes());
        put(&mut self.bytes, 40, &block.to_le_bytes());
        put(&mut self.bytes, 44, &u32::from(place.is_seal).to_le_bytes());
        let checksum = crc32c::crc32c(self.bytes.get(8..).unwrap_or_default());
        put(&mut self.bytes, 4, &checksum.to_le_bytes());
        self.bytes.resize(end.next_multiple_of(BLOCK_BYTES), 0);
        let written = write(&self.bytes);
        self.bytes.truncate(end);
        written
    }
}

/// Where a frame is written.
#[derive(Debug)]
pub(super) struct FramePlace {
    pub(super) nonce: u64,
    pub(super) offset: u64,
    pub(super) first_seq: Seq,
    pub(super) durable_to: Seq,
    pub(super) is_seal: bool,
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_come_back_as_they_went(steps in prop::collection::vec((0..u64::MAX >> 6, 0..1_u64 << 40), 0..20)) {
            let mut runs = Vec::new();
            let mut next = 0_u64;
            for (gap, length) in steps {
                let Some(last) = next.checked_add(gap).and_then(|first| first.checked_add(length)) else { break };
                runs.push((next + gap, last));
                next = last + 1;
            }
            let mut batch = Batch::new();
            batch.push_delivered(&runs);
            let record = batch.bytes.get(FRAME_HEADER_BYTES + RECORD_HEADER_BYTES..).unwrap();
            prop_assert!(record.len() <= runs.len() * RUN_BYTES_MAX);
            prop_assert_eq!(Runs { bytes: record }.iter().collect::<Vec<_>>(), runs);
        }

        #[test]
        fn no_bytes_of_runs_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let runs: Vec<(Seq, Seq)> = Runs { bytes: &bytes }.iter().collect();
            prop_assert!(runs.iter().all(|(first, last)| first <= last));
        }
    }
}
