//! The bytes of one file: what a reader sees, what is on the disk, and what is on its way there.

use std::collections::BTreeMap;
use std::mem;

use crate::support::powercut::dice::Dice;

/// What is written whole or not at all when the power goes.
pub(crate) const SECTOR_BYTES: u64 = 512;

const PAGE_BYTES: usize = 4096;

/// A regular file.
#[derive(Debug, Default)]
pub(crate) struct Content {
    live: Bytes,
    durable: Bytes,
    /// Since the last sync, in order.
    pending: Vec<Change>,
}

/// What became of the writes and the lengths that nobody had synced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Fates {
    pub(crate) kept: u64,
    pub(crate) lost: u64,
    pub(crate) torn: u64,
}

#[derive(Debug)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Resize(u64),
}

impl Content {
    /// As a reader sees it.
    pub(crate) fn length(&self) -> u64 {
        self.live.length
    }

    /// As a reader sees it: what lies within the length.
    pub(crate) fn read(&self, offset: u64, count: u64) -> Vec<u8> {
        let end = self.live.length.min(offset.saturating_add(count));
        self.live.read(offset, end.saturating_sub(offset))
    }

    /// Stays in memory until a sync. The length that it needs is a change of its own.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + length_of(bytes);
        if end > self.live.length {
            self.resize(end);
        }
        self.live.write(offset, bytes);
        self.pending.push(Change::Write { offset, bytes: bytes.to_vec() });
    }

    /// Cuts it or lets it grow by zeros; in memory until a sync.
    pub(crate) fn resize(&mut self, length: u64) {
        self.live.resize(length);
        self.pending.push(Change::Resize(length));
    }

    /// Brings everything to the disk.
    pub(crate) fn sync(&mut self) {
        for change in mem::take(&mut self.pending) {
            self.durable.apply(&change);
        }
    }

    /// What Linux does when a sync fails: readers still see the writes, no later sync brings them to the disk.
    pub(crate) fn fail_sync(&mut self) {
        self.pending.retain(|change| matches!(change, Change::Resize(_)));
    }

    /// The power goes: of all that was not synced each change is lost, kept or torn, whatever became of those before it.
    pub(crate) fn cut(&mut self, dice: &mut Dice) -> Fates {
        let mut fates = Fates::default();
        for change in mem::take(&mut self.pending) {
            match (dice.below(3), &change) {
                (0, _) => fates.lost += 1,
                (1, Change::Write { offset, bytes }) if crosses_a_sector(*offset, bytes) => {
                    self.durable.write_torn(*offset, bytes, dice);
                    fates.torn += 1;
                }
                (_, _) => {
                    self.durable.apply(&change);
                    fates.kept += 1;
                }
            }
        }
        // Bytes whose length was lost are lost too.
        self.durable.clip();
        self.live = self.durable.clone();
        fates
    }
}

/// Bytes by page; a page of zeros is not stored. There may be bytes beyond the length, until `clip`.
#[derive(Debug, Clone, Default)]
struct Bytes {
    pages: BTreeMap<u64, Box<[u8; PAGE_BYTES]>>,
    length: u64,
}

impl Bytes {
    fn read(&self, offset: u64, count: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(index(count));
        while length_of(&bytes) < count {
            let (page, within) = place(offset + length_of(&bytes));
            let here = (PAGE_BYTES - within).min(index(count) - bytes.len());
            match self.pages.get(&page) {
                Some(stored) => bytes.extend_from_slice(&stored[within..within + here]),
                None => bytes.resize(bytes.len() + here, 0),
            }
        }
        bytes
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let (page, within) = place(at);
            let (here, behind) = rest.split_at(rest.len().min(PAGE_BYTES - within));
            let stored = self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE_BYTES]));
            stored[within..within + here.len()].copy_from_slice(here);
            if **stored == [0; PAGE_BYTES] {
                self.pages.remove(&page);
            }
            (at, rest) = (at + length_of(here), behind);
        }
    }

    /// Writes the first sectors only, or any of them.
    fn write_torn(&mut self, offset: u64, bytes: &[u8], dice: &mut Dice) {
        let end = offset + length_of(bytes);
        let sectors = offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
        let first_only = dice.coin().then(|| sectors.start + dice.below(sectors.end - sectors.start));
        for sector in sectors {
            if first_only.map_or_else(|| dice.coin(), |limit| sector < limit) {
                let from = offset.max(sector * SECTOR_BYTES);
                let to = end.min((sector + 1) * SECTOR_BYTES);
                self.write(from, &bytes[index(from - offset)..index(to - offset)]);
            }
        }
    }

    fn resize(&mut self, length: u64) {
        if length < self.length {
            self.length = length;
            self.clip();
        }
        self.length = length;
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, bytes } => self.write(*offset, bytes),
            Change::Resize(length) => self.resize(*length),
        }
    }

    /// Forgets what lies beyond the length.
    fn clip(&mut self) {
        let (last, within) = place(self.length);
        self.pages.split_off(&(last + 1));
        if let Some(stored) = self.pages.get_mut(&last) {
            stored[within..].fill(0);
        }
    }
}

fn crosses_a_sector(offset: u64, bytes: &[u8]) -> bool {
    offset / SECTOR_BYTES + 1 < (offset + length_of(bytes)).div_ceil(SECTOR_BYTES)
}

/// The page that holds a byte, and where in it.
fn place(offset: u64) -> (u64, usize) {
    let page = length_of(&[0; PAGE_BYTES]);
    (offset / page, index(offset % page))
}

fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap()
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}
