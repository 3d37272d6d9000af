//! What the log has promised, kept apart from how it keeps it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Range;

use super::disk::SimDisk;
use crate::journal::log::Damage;
use crate::journal::log::Seq;
use crate::journal::log::cursor::Cursor;
use crate::journal::log::cursor::Place;
use crate::journal::log::cursor::ReadError;
use crate::journal::log::format::Frame;
use crate::journal::log::format::Record;
use crate::journal::log::recovery::Found;
use crate::journal::log::store::Store;

/// What is wrong, in words.
pub(super) type Violation = String;

/// A capture that was given to the log. It begins with the number by which the model knows it, unless it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capture {
    id: u64,
    length: usize,
    is_counted: bool,
}

/// A capture that has a number in the log.
#[derive(Debug, Clone, Copy)]
struct Known {
    capture: Capture,
    /// The frame it is in, and where that ends.
    place: Place,
    end: u64,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    given: Vec<Capture>,
    /// Acknowledged, or found again after a power cut: these must be kept.
    kept: BTreeMap<Seq, Known>,
    /// Found by a new run of the program without a power cut. They need not be on the disk.
    seen: BTreeMap<Seq, Known>,
    /// Delivered, ever.
    delivered: BTreeSet<Seq>,
    /// Delivered, and the record of it acknowledged.
    recorded: BTreeSet<Seq>,
    /// In a frame that was hurt, and how.
    hit: BTreeMap<Seq, Vec<Hurt>>,
    /// Lost once, and told so. It comes back if it can be read again.
    given_up: BTreeSet<Seq>,
    is_hurt: bool,
}

/// What can happen to what is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hurt {
    /// A bit was inverted.
    Flipped,
    /// The disk did not give it, at least for a while.
    Unreadable,
}

/// What a run of the program begins with.
pub(super) struct Start<'s> {
    pub(super) store: &'s Store<SimDisk>,
    pub(super) found: &'s Found,
    /// The damage that was reported, also that of an opening that was refused.
    pub(super) damage: &'s [Damage],
    /// Nothing that was only in memory has outlived the last run.
    pub(super) after_power_cut: bool,
}

impl Capture {
    /// Its bytes, behind those in `into`.
    pub(super) fn write(&self, into: &mut Vec<u8>) {
        let start = into.len();
        let end = start + self.length;
        // Not zeros, which is what is read of a bad sector.
        into.extend_from_slice(&(!self.id).to_le_bytes());
        while into.len() < end {
            let written = into.len() - start;
            into.extend_from_within(start..start + written.min(end - into.len()));
        }
        into.truncate(end);
    }

    pub(super) const fn is_counted(&self) -> bool {
        self.is_counted
    }

    fn is(&self, is_counted: bool, bytes: &[u8]) -> bool {
        let mut expected = Vec::with_capacity(bytes.len() + 8);
        self.write(&mut expected);
        self.is_counted == is_counted && expected == bytes
    }

    fn is_same(&self, other: &Self) -> bool {
        self.length == other.length && self.is_counted == other.is_counted && (self.length == 0 || self.id == other.id)
    }
}

impl Model {
    /// A new capture, which the log may keep from now on.
    pub(super) fn give(&mut self, length: usize, is_counted: bool) -> Capture {
        // Long enough to know it by, or empty.
        let length = if length < 8 { 0 } else { length };
        let capture = Capture { id: self.given.len() as u64, length, is_counted };
        self.given.push(capture);
        capture
    }

    pub(super) const fn is_hurt(&self) -> bool {
        self.is_hurt
    }

    /// An append was acknowledged, in this frame.
    pub(super) fn acknowledge(
        &mut self,
        captures: &[Capture],
        place: Place,
        frame: &Frame<'_>,
    ) -> Result<(), Violation> {
        let end = place.offset + frame.header.padded_bytes();
        let first_seq = frame.header.first_seq;
        for (seq, capture) in (first_seq..).zip(captures) {
            let known = Known { capture: *capture, place, end };
            self.seen.remove(&seq);
            // The number may have been that of another.
            self.given_up.remove(&seq);
            self.delivered.remove(&seq);
            if let Some(other) = self.kept.insert(seq, known) {
                return Err(format!("{seq} is the number of {other:?} and of {known:?}"));
            }
        }
        // And from now on it must be known what it says of what was delivered.
        for record in frame.records() {
            if let Record::Delivered(runs) = record {
                self.recorded.extend(runs.iter().flat_map(|(first, last)| first..=last));
            }
        }
        Ok(())
    }

    /// A capture was delivered. To be told before the log is.
    pub(super) fn deliver(&mut self, seq: Seq) {
        self.delivered.insert(seq);
    }

    /// A clean stop records everything that was delivered in this run.
    pub(super) fn record_all(&mut self, delivered: &BTreeSet<Seq>) {
        self.recorded.extend(delivered);
    }

    /// Where a frame is, by a number of any size.
    pub(super) fn any_frame(&self, pick: u64) -> Option<(Place, u64)> {
        let index = pick.checked_rem(self.kept.len() as u64)?;
        self.kept.values().nth(index as usize).map(|known| (known.place, known.end))
    }

    /// Something happened to these bytes of a segment.
    pub(super) fn hurt(&mut self, segment: Seq, bytes: Range<u64>, hurt: Hurt) {
        self.is_hurt = true;
        self.recorded.clear();
        for (seq, known) in self.kept.iter().chain(&self.seen) {
            let is_there = known.place.segment == segment;

            if is_there && known.place.offset < bytes.end && bytes.start < known.end {
                self.hit.entry(*seq).or_default().push(hurt);
            }
        }
    }

    /// In how many segments these are.
    pub(super) fn segments_of(&self, seqs: &BTreeSet<Seq>) -> u64 {
        let known = seqs.iter().filter_map(|seq| self.kept.get(seq).or_else(|| self.seen.get(seq)));
        known.map(|known| known.place.segment).collect::<BTreeSet<Seq>>().len() as u64
    }

    /// Whether a reader may miss this one.
    pub(super) fn may_be_unreadable(&self, seq: Seq) -> bool {
        self.hit.contains_key(&seq)
    }

    /// Checks what a reader was given of what is durable.
    pub(super) fn check_read(&self, seq: Seq, is_counted: bool, bytes: &[u8]) -> Result<(), Violation> {
        let Some(known) = self.kept.get(&seq).or_else(|| self.seen.get(&seq)) else {
            if self.given_up.contains(&seq) {
                return Ok(());
            }
            return Err(format!("the reader is given {seq}, which is not there"));
        };
        if known.capture.is(is_counted, bytes) {
            Ok(())
        } else {
            Err(format!("the reader is given something else for {seq} than {known:?}"))
        }
    }

    /// Checks what a new run of the program finds. Returns what it is to deliver.
    pub(super) fn check_start(&mut self, start: &Start<'_>) -> Result<BTreeSet<Seq>, Violation> {
        if !self.is_hurt && !start.damage.is_empty() {
            return Err(format!("damage is reported where there is none: {:?}", start.damage));
        }
        let mut present = BTreeSet::new();
        let mut returned = BTreeSet::new();
        let (mut counted, mut uncounted) = (0, 0);
        let mut cursor = Cursor::default();
        let mut last = 0;
        loop {
            let (place, frame) = match cursor.next(start.store) {
                Ok(Some(read)) => read,
                Ok(None) => break,
                // Told at the start; told again because it took the disk its time.
                Err(ReadError::Damaged(damage)) if self.is_hurt && damage.reason.is_some() => continue,
                Err(error) => return Err(format!("cannot read: {error}")),
            };
            let mut seq = frame.header.first_seq;
            let end = place.offset + frame.header.padded_bytes();
            for record in frame.records() {
                let Record::Capture { is_counted, bytes } = record else { continue };
                if seq <= last {
                    return Err(format!("{seq} comes behind {last}"));
                }
                last = seq;
                let known = Known { capture: self.find(seq, is_counted, bytes)?, place, end };
                self.meet(seq, known, start.after_power_cut)?;
                present.insert(seq);
                if !start.store.is_delivered(seq) {
                    returned.insert(seq);
                    *(if is_counted { &mut counted } else { &mut uncounted }) += 1;
                }
                seq += 1;
            }
        }
        if (start.found.counted, start.found.uncounted) != (counted, uncounted) {
            return Err(format!("{:?}, but there are {counted} counted and {uncounted} uncounted", start.found));
        }
        self.check_missing(start, &present, &returned)?;
        if let Some(seq) = self.recorded.intersection(&self.delivered).find(|seq| returned.contains(seq)) {
            return Err(format!("{seq} was delivered, and that was recorded, and it is to be delivered again"));
        }
        self.forget_lost(&present);
        Ok(returned)
    }

    /// The capture that was found.
    fn find(&self, seq: Seq, is_counted: bool, bytes: &[u8]) -> Result<Capture, Violation> {
        let id = bytes.first_chunk().map(|id| !u64::from_le_bytes(*id));
        let named = id.and_then(|id| self.given.get(usize::try_from(id).ok()?)).copied();
        let empty = bytes.is_empty().then_some(Capture { id: 0, length: 0, is_counted });
        named
            .or(empty)
            .filter(|capture| capture.is(is_counted, bytes))
            .ok_or_else(|| format!("{seq} was never appended: {} bytes", bytes.len()))
    }

    fn meet(&mut self, seq: Seq, found: Known, after_power_cut: bool) -> Result<(), Violation> {
        if let Some(known) = self.kept.get(&seq).or_else(|| self.seen.get(&seq))
            && !known.capture.is_same(&found.capture)
        {
            return Err(format!("{seq} was {known:?} and is {found:?}"));
        }
        if after_power_cut || self.kept.contains_key(&seq) {
            self.kept.entry(seq).or_insert(found);
        } else {
            self.seen.insert(seq, found);
        }
        Ok(())
    }

    /// Nothing that was promised is missing, but what was damaged; and that is reported.
    fn check_missing(
        &self,
        start: &Start<'_>,
        present: &BTreeSet<Seq>,
        returned: &BTreeSet<Seq>,
    ) -> Result<(), Violation> {
        for (seq, known) in &self.kept {
            if self.delivered.contains(seq) || returned.contains(seq) {
                continue;
            }
            if self.given_up.contains(seq) {
                if present.contains(seq) {
                    return Err(format!("{seq} can be read again, and is taken for delivered: {known:?}"));
                }
                continue;
            }
            let name = format!("{:020}.seg", known.place.segment);
            let is_damaged = start.damage.iter().any(|damage| {
                // Without its header, nobody can say how far a segment went.
                let is_past = |to| *seq >= to;
                let is_within = *seq >= damage.from && !damage.to.is_some_and(is_past);
                is_within && (damage.to.is_some() || damage.name == name) || damage.name == name && damage.offset == 0
            });
            let is_torn = start.found.torn.iter().any(|(torn, at)| *torn == name && *at <= known.place.offset);
            let Some(hits) = self.hit.get(seq) else {
                return Err(format!("{seq} was acknowledged and is lost: {known:?}"));
            };
            let is_told = match hits[..] {
                // What the disk does not give is never taken for the end of a write.
                [Hurt::Unreadable] => is_damaged,
                [Hurt::Flipped] => is_damaged || is_torn,
                // It may not look like a frame any more.
                _ => true,
            };
            if !is_told {
                return Err(format!("{seq} was damaged and is lost in silence: {known:?}"));
            }
        }
        Ok(())
    }

    /// The numbers of what was destroyed, or never was on the disk, may come again.
    fn forget_lost(&mut self, present: &BTreeSet<Seq>) {
        self.seen.retain(|seq, _| present.contains(seq));
        let lost: Vec<Seq> = self.hit.keys().filter(|seq| !present.contains(seq)).copied().collect();
        for seq in lost {
            self.hit.remove(&seq);
            self.given_up.insert(seq);
            self.kept.remove(&seq);
            self.recorded.remove(&seq);
        }
    }
}
