//! The encoding of segments and frames, as described in the module documentation of the log.

use super::Seq;

/// The alignment of frames, in bytes, and the unit of a torn write.
pub(crate) const BLOCK_BYTES: usize = 4096;

const MAGIC: &[u8; 6] = b"CBJRNL";
/// The version of the format.
pub(super) const VERSION: &str = "02";
const SEGMENT_HEADER_BYTES: usize = 56;
const END_BYTES: usize = 32;
/// The most [`End`]s that fit into a header.
pub(super) const ENDS_MAX: usize = (BLOCK_BYTES - SEGMENT_HEADER_BYTES) / END_BYTES;
/// Contains the version of the format: a segment that has a valid frame is of this version, whatever its header says.
const FRAME_MAGIC: &[u8; 4] = b"CBF2";
pub(super) const FRAME_HEADER_BYTES: usize = 48;
const ITEM_HEADER_BYTES: usize = 5;
/// The bytes before those of a capture in its item.
const CAPTURE_HEADER_BYTES: usize = 8;
/// The bytes of the smallest item of a capture.
pub(super) const CAPTURE_ITEM_BYTES_MIN: usize = ITEM_HEADER_BYTES + CAPTURE_HEADER_BYTES;
/// Flags of a frame.
const SEAL: u32 = 1;
const SPARSE: u32 = 2;

/// The header of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Random, for this use of the file.
    pub(crate) nonce: u64,
    /// The run of the process that wrote it; of an output, that of its first input.
    pub(crate) session: u64,
    pub(crate) first_seq: Seq,
    /// The size of the file. Zero if it is not recorded: in outputs, and by older builds.
    pub(crate) file_bytes: u64,
    /// Of the output of a compaction.
    pub(crate) output: Option<Output>,
    /// The ends of earlier segments that were not sealed.
    pub(crate) ends: Vec<End>,
}

/// The output of a compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Output {
    /// The end of its range (exclusive): it replaces everything from its first sequence number up to here.
    pub(crate) to: Seq,
    /// The number of its captures.
    pub(crate) captures: u64,
}

/// How far an earlier session went: what is missing before this is damaged, not torn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// The segment, by its first sequence number.
    pub(crate) segment: Seq,
    pub(crate) nonce: u64,
    /// The sequence number behind its last capture.
    pub(crate) end_seq: Seq,
    /// The offset behind its last frame.
    pub(crate) offset: u64,
}

/// The first block of a segment, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FirstBlock {
    Header(SegmentHeader),
    /// It has another version of the format.
    Foreign(String),
    /// It is not a valid header.
    Damaged,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BLOCK_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(VERSION.as_bytes());
        bytes.extend_from_slice(&[0; 4]);
        let ends = self.ends.get(..ENDS_MAX).unwrap_or(&self.ends);
        bytes.extend_from_slice(&u32::try_from(ends.len()).unwrap_or(0).to_le_bytes());
        // The size takes the place of the captures of an output.
        let Output { to, captures } = self.output.unwrap_or(Output { to: 0, captures: self.file_bytes });
        let of_ends = ends.iter().flat_map(|end| [end.segment, end.nonce, end.end_seq, end.offset]);
        for number in [self.nonce, self.session, self.first_seq, to, captures].into_iter().chain(of_ends) {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let checksum = header_checksum(&bytes);
        put(&mut bytes, 8, &checksum.to_le_bytes());
        bytes.resize(BLOCK_BYTES, 0);
        bytes
    }

    fn decode(block: &[u8]) -> Option<Self> {
        let ends = usize::try_from(u32_at(block, 12)?).ok().filter(|ends| *ends <= ENDS_MAX)?;
        let bytes = block.get(..SEGMENT_HEADER_BYTES + ends * END_BYTES)?;
        (u32_at(bytes, 8)? == header_checksum(bytes)).then_some(())?;
        let end = |at: usize| {
            Some(End {
                segment: u64_at(bytes, at)?,
                nonce: u64_at(bytes, at + 8)?,
                end_seq: u64_at(bytes, at + 16)?,
                offset: u64_at(bytes, at + 24)?,
            })
        };
        let output = Output { to: u64_at(bytes, 40)?, captures: u64_at(bytes, 48)? };
        Some(Self {
            nonce: u64_at(bytes, 16)?,
            session: u64_at(bytes, 24)?,
            first_seq: u64_at(bytes, 32)?,
            file_bytes: if output.to > 0 { 0 } else { output.captures },
            output: (output.to > 0).then_some(output),
            ends: (0..ends).filter_map(|index| end(SEGMENT_HEADER_BYTES + index * END_BYTES)).collect(),
        })
    }
}

impl FirstBlock {
    pub(crate) fn decode(block: &[u8]) -> Self {
        let version = block.get(MAGIC.len()..MAGIC.len() + VERSION.len()).unwrap_or_default();
        let is_ours = version == VERSION.as_bytes();
        // The checksum covers the expected magic number, not the stored one: a changed bit there is damage, not another version.
        match SegmentHeader::decode(block) {
            Some(header) if block.starts_with(MAGIC) && is_ours => Self::Header(header),
            None if block.starts_with(MAGIC) && !is_ours && version.iter().all(u8::is_ascii_digit) => {
                Self::Foreign(String::from_utf8_lossy(version).into_owned())
            }
            Some(_) | None => Self::Damaged,
        }
    }
}

/// The checksum of the expected magic number and of all bytes behind the checksum.
fn header_checksum(bytes: &[u8]) -> u32 {
    let of_magic = crc32c::crc32c_append(crc32c::crc32c(MAGIC), VERSION.as_bytes());
    crc32c::crc32c_append(of_magic, bytes.get(12..).unwrap_or_default())
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) nonce: u64,
    pub(crate) first_seq: Seq,
    /// The sequence number behind its last capture.
    pub(crate) end_seq: Seq,
    pub(crate) captures: u32,
    pub(crate) is_seal: bool,
    /// Part of an output: its numbers may have gaps.
    pub(super) is_sparse: bool,
    payload_bytes: u32,
}

impl FrameHeader {
    /// The bytes that the frame takes in its segment.
    pub(crate) fn padded_bytes(&self) -> u64 {
        (FRAME_HEADER_BYTES as u64 + u64::from(self.payload_bytes)).next_multiple_of(BLOCK_BYTES as u64)
    }

    /// Reads the fields without checking them.
    pub(crate) fn peek(bytes: &[u8]) -> Option<Self> {
        bytes.starts_with(FRAME_MAGIC).then_some(())?;
        let flags = u32_at(bytes, 44)?;
        Some(Self {
            nonce: u64_at(bytes, 8)?,
            first_seq: u64_at(bytes, 16)?,
            end_seq: u64_at(bytes, 24)?,
            payload_bytes: u32_at(bytes, 32)?,
            captures: u32_at(bytes, 36)?,
            is_seal: flags & SEAL != 0,
            is_sparse: flags & SPARSE != 0,
        })
    }
}

/// A whole frame with a valid checksum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'b> {
    pub(crate) header: FrameHeader,
    payload: &'b [u8],
}

impl<'b> Frame<'b> {
    /// The frame at the start of `bytes`, which begin at `offset` in the file, if a valid frame of this use of the file is there.
    pub(crate) fn decode(bytes: &'b [u8], offset: u64, nonce: u64) -> Option<Self> {
        let header = FrameHeader::peek(bytes)?;
        let end = FRAME_HEADER_BYTES.checked_add(usize::try_from(header.payload_bytes).ok()?)?;
        let checked = bytes.get(8..end)?;
        let is_ours = header.nonce == nonce && u64::from(u32_at(bytes, 40)?) == offset / BLOCK_BYTES as u64;
        (is_ours && u32_at(bytes, 4)? == crc32c::crc32c(checked)).then_some(())?;
        Some(Self { header, payload: bytes.get(FRAME_HEADER_BYTES..end)? })
    }

    /// The frame at the start of `bytes`, which [`Frame::decode`] has already checked.
    pub(crate) fn decode_checked(bytes: &'b [u8]) -> Option<Self> {
        let header = FrameHeader::peek(bytes)?;
        let end = FRAME_HEADER_BYTES + usize::try_from(header.payload_bytes).ok()?;
        Some(Self { header, payload: bytes.get(FRAME_HEADER_BYTES..end)? })
    }

    /// Its items, in order. Stops at an invalid item, which a checked frame does not have.
    pub(crate) fn items(&self) -> impl Iterator<Item = FrameItem<'b>> + use<'b> {
        let mut rest = self.payload;
        let first_seq = self.header.first_seq;
        std::iter::from_fn(move || {
            let (header, behind) = rest.split_at_checked(ITEM_HEADER_BYTES)?;
            let (bytes, behind) = behind.split_at_checked(usize::try_from(u32_at(header, 1)?).ok()?)?;
            rest = behind;
            Some(match header.first()? {
                kind @ (1 | 2) => FrameItem::Capture(Captured {
                    seq: first_seq.checked_add(u32_at(bytes, 4)?.into())?,
                    kind_key: u32_at(bytes, 0)?,
                    is_counted: *kind == 1,
                    bytes: bytes.get(CAPTURE_HEADER_BYTES..)?,
                }),
                3 => FrameItem::Delivered(Runs { bytes }),
                _ => return None,
            })
        })
    }

    /// Its captures, in order.
    pub(crate) fn captures(&self) -> impl Iterator<Item = Captured<'b>> + use<'b> {
        self.items().filter_map(|item| match item {
            FrameItem::Capture(captured) => Some(captured),
            FrameItem::Delivered(_) => None,
        })
    }
}

/// Whether these bytes look like the beginning of a frame of this use of the file, even if it is not valid.
pub(crate) fn was_frame(bytes: &[u8], nonce: u64, expected: Seq) -> bool {
    u64_at(bytes, 8) == Some(nonce) || bytes.starts_with(FRAME_MAGIC) && u64_at(bytes, 16) == Some(expected)
}

/// The nonce of a frame that is valid under its own nonce. For segments whose header is damaged.
pub(crate) fn own_nonce(bytes: &[u8], offset: u64) -> Option<u64> {
    let nonce = FrameHeader::peek(bytes)?.nonce;
    Frame::decode(bytes, offset, nonce).map(|_frame| nonce)
}

/// An item of a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FrameItem<'b> {
    /// A capture.
    Capture(Captured<'b>),
    /// Sequence numbers that were delivered.
    Delivered(Runs<'b>),
}

/// A capture in a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Captured<'b> {
    /// Its sequence number.
    pub(crate) seq: Seq,
    /// Its key, see [`super::super::codec::kind_key`].
    pub(crate) kind_key: u32,
    /// Whether the ledger counts it.
    pub(crate) is_counted: bool,
    /// The capture, as it was appended.
    pub(crate) bytes: &'b [u8],
}

impl Captured<'_> {
    /// The bytes of its item.
    pub(crate) fn stored_bytes(&self) -> u32 {
        u32::try_from(ITEM_HEADER_BYTES + CAPTURE_HEADER_BYTES + self.bytes.len()).unwrap_or(u32::MAX)
    }
}

/// Runs of sequence numbers, in order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Runs<'b> {
    bytes: &'b [u8],
}

impl<'b> Runs<'b> {
    /// The bytes of their item.
    pub(super) const fn stored_bytes(self) -> usize {
        ITEM_HEADER_BYTES + self.bytes.len()
    }

    /// The first and the last number of each run. Stops at an invalid run, which a checked frame does not have.
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

/// The most bytes that a run takes.
pub(super) const RUN_BYTES_MAX: usize = 20;

/// Appends an unsigned LEB128 number.
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

/// Captures that will be one frame.
#[derive(Debug)]
pub(crate) struct FrameBuilder {
    bytes: Vec<u8>,
    captures: u32,
    captures_bytes: u64,
}

impl FrameBuilder {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; FRAME_HEADER_BYTES], captures: 0, captures_bytes: 0 }
    }

    /// Its bytes so far, with the header.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes that it will take in a segment.
    pub(super) fn padded_bytes(&self) -> u64 {
        self.bytes.len().next_multiple_of(BLOCK_BYTES) as u64
    }

    pub(crate) const fn captures(&self) -> u32 {
        self.captures
    }

    /// The bytes of the items of its captures.
    pub(super) const fn captures_bytes(&self) -> u64 {
        self.captures_bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.len() == FRAME_HEADER_BYTES
    }

    /// Adds a capture, whose bytes `write` appends. Returns the bytes of its item.
    pub(crate) fn push(&mut self, is_counted: bool, kind_key: u32, write: impl FnOnce(&mut Vec<u8>)) -> u32 {
        self.push_at(self.captures, is_counted, kind_key, write)
    }

    /// Adds a capture whose number is `offset` behind the first number of the frame.
    pub(super) fn push_at(
        &mut self,
        offset: u32,
        is_counted: bool,
        kind_key: u32,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> u32 {
        let start = self.bytes.len();
        self.item(if is_counted { 1 } else { 2 }, |bytes| {
            bytes.extend_from_slice(&kind_key.to_le_bytes());
            bytes.extend_from_slice(&offset.to_le_bytes());
            write(bytes);
        });
        self.captures += 1;
        let bytes = self.bytes.len() - start;
        self.captures_bytes += bytes as u64;
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// Adds an item of delivered runs, in order.
    pub(super) fn push_delivered(&mut self, runs: &[(Seq, Seq)]) {
        self.item(3, |bytes| {
            let mut next = 0;
            for (first, last) in runs {
                push_varint(bytes, first - next);
                push_varint(bytes, last - first);
                next = last + 1;
            }
        });
    }

    /// Removes an item of deliveries that was added when the frame had `bytes`.
    pub(super) fn truncate(&mut self, bytes: usize) {
        self.bytes.truncate(bytes);
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.truncate(FRAME_HEADER_BYTES);
        (self.captures, self.captures_bytes) = (0, 0);
    }

    fn item(&mut self, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&[0; 4]);
        write(&mut self.bytes);
        let written = self.bytes.len() - start - ITEM_HEADER_BYTES;
        put(&mut self.bytes, start + 1, &u32::try_from(written).unwrap_or(u32::MAX).to_le_bytes());
    }

    /// Calls `write` with the whole padded frame. More can be added afterwards.
    pub(super) fn as_frame<T>(&mut self, place: &FramePlace, write: impl FnOnce(&[u8]) -> T) -> T {
        let end = self.bytes.len();
        let payload_bytes = u32::try_from(end - FRAME_HEADER_BYTES).unwrap_or(u32::MAX);
        let block = u32::try_from(place.offset / BLOCK_BYTES as u64).unwrap_or(u32::MAX);
        put(&mut self.bytes, 0, FRAME_MAGIC);
        put(&mut self.bytes, 8, &place.nonce.to_le_bytes());
        put(&mut self.bytes, 16, &place.first_seq.to_le_bytes());
        put(&mut self.bytes, 24, &place.end_seq.to_le_bytes());
        put(&mut self.bytes, 32, &payload_bytes.to_le_bytes());
        put(&mut self.bytes, 36, &self.captures.to_le_bytes());
        put(&mut self.bytes, 40, &block.to_le_bytes());
        let flags = if place.is_seal { SEAL } else { 0 } | if place.is_sparse { SPARSE } else { 0 };
        put(&mut self.bytes, 44, &flags.to_le_bytes());
        let checksum = crc32c::crc32c(self.bytes.get(8..).unwrap_or_default());
        put(&mut self.bytes, 4, &checksum.to_le_bytes());
        self.bytes.resize(end.next_multiple_of(BLOCK_BYTES), 0);
        let written = write(&self.bytes);
        self.bytes.truncate(end);
        written
    }
}

/// The position of a frame, and the rest of its header.
#[derive(Debug)]
pub(super) struct FramePlace {
    pub(super) nonce: u64,
    pub(super) offset: u64,
    pub(super) first_seq: Seq,
    pub(super) end_seq: Seq,
    pub(super) is_seal: bool,
    pub(super) is_sparse: bool,
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
            let mut builder = FrameBuilder::new();
            builder.push_delivered(&runs);
            let item = builder.bytes.get(FRAME_HEADER_BYTES + ITEM_HEADER_BYTES..).unwrap();
            prop_assert!(item.len() <= runs.len() * RUN_BYTES_MAX);
            prop_assert_eq!(Runs { bytes: item }.iter().collect::<Vec<_>>(), runs);
        }

        #[test]
        fn no_bytes_of_runs_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let runs: Vec<(Seq, Seq)> = Runs { bytes: &bytes }.iter().collect();
            prop_assert!(runs.iter().all(|(first, last)| first <= last));
        }
    }
}
