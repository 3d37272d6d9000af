//! What the log has promised, kept apart from how it keeps it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Range;

use super::disk::SimDisk;
use crate::journal::log::Damage;
use crate::journal::log::Seq;
use crate::journal::log::cursor::Cursor;
use crate::journal::log::cursor::FramePosition;
use crate::journal::log::cursor::ReadError;
use crate::journal::log::format::Captured;
use crate::journal::log::format::Frame;
use crate::journal::log::format::FrameItem;
use crate::journal::log::recovery::RecoveryReport;
use crate::journal::log::store::Store;

/// What is wrong, in words.
pub(super) type Violation = String;

/// A capture that was given to the log. It begins with the number by which the model knows it, unless it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ModelCapture {
    id: u64,
    length: usize,
    is_counted: bool,
}

/// What has happened to a frame with a capture.
#[derive(Debug, Clone)]
struct Hit {
    hurt: Hurt,
    /// Where the frame was then.
    name: String,
    range: Range<u64>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    given: Vec<ModelCapture>,
    /// Acknowledged, or found by a run of the program: these must be kept.
    kept: BTreeMap<Seq, ModelCapture>,
    /// Delivered, ever.
    delivered: BTreeSet<Seq>,
    /// Delivered, and the record of it acknowledged.
    recorded: BTreeSet<Seq>,
    /// In a frame that was hurt, and how.
    hit: BTreeMap<Seq, Vec<Hit>>,
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
    pub(super) found: &'s RecoveryReport,
    /// The damage that was reported, also that of an opening that was refused.
    pub(super) damage: &'s [Damage],
}

/// What a run of the program has to deliver.
pub(super) type Outstanding = BTreeMap<Seq, StoredCapture>;

/// A capture that is not delivered: where it is, its key, and what its record takes, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredCapture {
    pub(super) place: FramePosition,
    pub(super) kind_key: u32,
    pub(super) stored_bytes: u32,
}

impl StoredCapture {
    pub(super) fn of(captured: &Captured<'_>, place: FramePosition) -> Self {
        Self { place, kind_key: captured.kind_key, stored_bytes: captured.stored_bytes() }
    }
}

/// What these take, in bytes, by key.
pub(super) fn bytes_by_key(undelivered: &Outstanding) -> BTreeMap<u32, u64> {
    // There are few keys, and this is done all the time.
    let mut bytes: Vec<(u32, u64)> = Vec::new();
    for waiting in undelivered.values() {
        let more = u64::from(waiting.stored_bytes);
        match bytes.iter_mut().find(|(key, _)| *key == waiting.kind_key) {
            Some((_, bytes)) => *bytes += more,
            None => bytes.push((waiting.kind_key, more)),
        }
    }
    bytes.into_iter().collect()
}

impl ModelCapture {
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

    pub(super) const fn key(&self) -> u32 {
        self.length as u32 % 3
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
    pub(super) fn give(&mut self, length: usize, is_counted: bool) -> ModelCapture {
        // Long enough to know it by, or empty.
        let length = if length < 8 { 0 } else { length };
        let capture = ModelCapture { id: self.given.len() as u64, length, is_counted };
        self.given.push(capture);
        capture
    }

    pub(super) const fn is_hurt(&self) -> bool {
        self.is_hurt
    }

    /// An append was acknowledged, in this frame.
    pub(super) fn acknowledge(&mut self, captures: &[ModelCapture], frame: &Frame<'_>) -> Result<(), Violation> {
        let first_seq = frame.header.first_seq;
        for (seq, capture) in (first_seq..).zip(captures) {
            // The number may have been that of another.
            self.given_up.remove(&seq);
            self.delivered.remove(&seq);
            if let Some(other) = self.kept.insert(seq, *capture) {
                return Err(format!("{seq} is the number of {other:?} and of {capture:?}"));
            }
        }
        // And from now on it must be known what it says of what was delivered.
        for item in frame.items() {
            if let FrameItem::Delivered(runs) = item {
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

    /// Something happened to these bytes of a file, whose readable frames with captures are `frames`.
    pub(super) fn hurt(&mut self, name: &str, bytes: &Range<u64>, frames: Vec<(Range<u64>, Vec<Seq>)>, hurt: Hurt) {
        self.is_hurt = true;
        self.recorded.clear();
        let is_within = |range: &Range<u64>| range.start < bytes.end && bytes.start < range.end;
        let hit: Vec<_> = frames.into_iter().filter(|(range, _)| is_within(range)).collect();
        for hits in self.hit.values_mut() {
            // It cannot be read since the last time, and so is not among the frames.
            let again = hits.last().filter(|last| last.name == name && is_within(&last.range));
            if let Some(again) = again.filter(|last| hit.iter().all(|(range, _)| *range != last.range)) {
                hits.push(Hit { hurt, ..again.clone() });
            }
        }
        for (range, seqs) in hit {
            for seq in seqs {
                self.hit.entry(seq).or_default().push(Hit { hurt, name: name.to_owned(), range: range.clone() });
            }
        }
    }

    /// Whether a reader may miss this one.
    pub(super) fn may_be_unreadable(&self, seq: Seq) -> bool {
        self.hit.contains_key(&seq)
    }

    /// Checks what a reader was given of what is durable.
    pub(super) fn check_read(&self, seq: Seq, is_counted: bool, bytes: &[u8]) -> Result<(), Violation> {
        let Some(known) = self.kept.get(&seq) else {
            if self.given_up.contains(&seq) {
                return Ok(());
            }
            return Err(format!("the reader is given {seq}, which is not there"));
        };
        if known.is(is_counted, bytes) {
            Ok(())
        } else {
            Err(format!("the reader is given something else for {seq} than {known:?}"))
        }
    }

    /// Checks what a new run of the program finds. Returns what it is to deliver.
    pub(super) fn check_start(&mut self, start: &Start<'_>) -> Result<Outstanding, Violation> {
        if !self.is_hurt && !start.damage.is_empty() {
            return Err(format!("damage is reported where there is none: {:?}", start.damage));
        }
        let mut present = BTreeSet::new();
        let mut returned = Outstanding::new();
        let (mut counted, mut uncounted) = (0, 0);
        let mut cursor = Cursor::default();
        let mut last = 0;
        loop {
            let (place, frame) = match cursor.next(start.store) {
                Ok(Some(read)) => read,
                Ok(None) => break,
                // Reported at the start, and once more because the disk was slow.
                Err(ReadError::Damaged(damage)) if self.is_hurt && damage.reason.is_some() => continue,
                Err(error) => return Err(format!("cannot read: {error}")),
            };
            for captured in frame.captures() {
                let Captured { seq, is_counted, bytes, .. } = captured;
                if seq <= last {
                    return Err(format!("{seq} comes behind {last}"));
                }
                last = seq;
                let found = self.find(seq, is_counted, bytes)?;
                self.meet(seq, found)?;
                present.insert(seq);
                if !start.store.is_delivered(seq) {
                    returned.insert(seq, StoredCapture::of(&captured, place));
                    *(if is_counted { &mut counted } else { &mut uncounted }) += 1;
                }
            }
        }
        if (start.found.counted, start.found.uncounted) != (counted, uncounted) {
            return Err(format!("{:?}, but there are {counted} counted and {uncounted} uncounted", start.found));
        }
        let by_key = bytes_by_key(&returned);
        if !self.is_hurt && start.found.live != by_key {
            return Err(format!("{:?} bytes wait by key, but the start has found {:?}", by_key, start.found.live));
        }
        self.check_missing(start, &present, &returned)?;
        if let Some(seq) = self.recorded.intersection(&self.delivered).find(|seq| returned.contains_key(seq)) {
            return Err(format!("{seq} was delivered, and that was recorded, and it is to be delivered again"));
        }
        self.forget_lost(&present);
        Ok(returned)
    }

    /// The capture that was found.
    fn find(&self, seq: Seq, is_counted: bool, bytes: &[u8]) -> Result<ModelCapture, Violation> {
        let id = bytes.first_chunk().map(|id| !u64::from_le_bytes(*id));
        let named = id.and_then(|id| self.given.get(usize::try_from(id).ok()?)).copied();
        let empty = bytes.is_empty().then_some(ModelCapture { id: 0, length: 0, is_counted });
        named
            .or(empty)
            .filter(|capture| capture.is(is_counted, bytes))
            .ok_or_else(|| format!("{seq} was never appended: {} bytes", bytes.len()))
    }

    fn meet(&mut self, seq: Seq, found: ModelCapture) -> Result<(), Violation> {
        let known = *self.kept.entry(seq).or_insert(found);
        if known.is_same(&found) { Ok(()) } else { Err(format!("{seq} was {known:?} and is {found:?}")) }
    }

    /// Nothing that was promised is missing, but what was damaged; and that is reported.
    fn check_missing(
        &self,
        start: &Start<'_>,
        present: &BTreeSet<Seq>,
        returned: &Outstanding,
    ) -> Result<(), Violation> {
        for (seq, known) in &self.kept {
            if self.delivered.contains(seq) || returned.contains_key(seq) {
                continue;
            }
            if self.given_up.contains(seq) {
                if present.contains(seq) {
                    return Err(format!("{seq} can be read again, and is taken for delivered: {known:?}"));
                }
                continue;
            }
            let Some(hits) = self.hit.get(seq) else {
                return Err(format!("{seq} was acknowledged and is lost: {known:?}"));
            };
            let is_told = match &hits[..] {
                // What the disk does not give is never taken for the end of a write.
                [hit] if hit.hurt == Hurt::Unreadable => hit.is_damage_of(*seq, start.damage),
                [hit] => hit.is_damage_of(*seq, start.damage) || hit.is_torn(start.found),
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
        let lost: Vec<Seq> = self.hit.keys().filter(|seq| !present.contains(seq)).copied().collect();
        for seq in lost {
            self.hit.remove(&seq);
            self.given_up.insert(seq);
            self.kept.remove(&seq);
            self.recorded.remove(&seq);
        }
    }
}

impl Hit {
    /// Whether this damage is that of the capture.
    fn is_damage_of(&self, seq: Seq, damage: &[Damage]) -> bool {
        damage.iter().any(|damage| {
            let is_past = |to| seq >= to;
            let is_within = seq >= damage.from && !damage.to.is_some_and(is_past);
            let is_of_file = damage.name == self.name;
            // Without its header, nobody can say how far a segment went.
            is_within && (damage.to.is_some() || is_of_file) || is_of_file && damage.offset == 0
        })
    }

    fn is_torn(&self, found: &RecoveryReport) -> bool {
        found.torn.iter().any(|(torn, at)| *torn == self.name && *at <= self.range.start)
    }
}
