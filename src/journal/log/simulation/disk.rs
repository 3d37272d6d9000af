//! A disk in memory whose power can be cut: it keeps what was synced, and of the rest whatever it likes.
//!
//! What a program sees is the *cache*; what outlives a power cut is the *durable* image. A write is pending until its file is synced; a
//! name that was made, changed or removed is pending until the directory is synced. At a power cut each pending write is kept, lost, or
//! torn, by itself; of the pending names a beginning is kept, or any of them. A sync that fails drops what was pending, as Linux does:
//! the program goes on seeing it, and no later sync makes it durable; after a failed sync of the directory, the filesystem takes no more
//! changes before the power was cut, as ext4 and XFS do. A sector that has gone bad cannot be read until it is written.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use super::random::SplitMix;
use crate::journal::log::disk::Disk;
use crate::journal::log::disk::DiskFile;
use crate::journal::log::format::BLOCK_BYTES;

/// What a disk writes whole, in bytes.
pub(super) const SECTOR_BYTES: usize = 512;

/// What a segment has at most, in bytes.
const SEGMENT_BYTES: usize = 64 * BLOCK_BYTES;

type Inode = u64;

/// What is on the disk and what a program sees of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    files: BTreeMap<Inode, FileContent>,
    names: BTreeMap<String, Inode>,
    durable_names: BTreeMap<String, Inode>,
    /// In the order in which it was asked for.
    pending: Vec<Pending>,
    last_inode: Inode,
}

#[derive(Debug, Clone, Default)]
struct FileContent {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// The sectors that cannot be read until they are written again.
    bad: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
enum Pending {
    Write { inode: Inode, offset: usize, bytes: Vec<u8> },
    Create { inode: Inode, name: String },
    Rename { inode: Inode, to: String },
    Remove { inode: Inode, name: String },
}

/// Something that goes wrong once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    /// After so many changes of the disk.
    pub(super) after: u64,
    pub(super) kind: FaultKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// The next change fails. Of a sync, what was pending is dropped.
    Fails,
    /// As before, but the filesystem takes changes afterwards.
    FailsOnce,
    /// The next write, creation, or change of a name finds no room.
    NoRoom,
    /// The power goes before the change.
    PowerOffBefore,
    /// The power goes behind it.
    PowerOffBehind,
    /// The program is killed before the change.
    Killed,
}

#[derive(Debug)]
struct DiskState {
    image: Image,
    /// Handles of earlier runs of the program are dead.
    run: u64,
    is_off: bool,
    /// A sync of the directory has failed.
    is_aborted: bool,
    fault: Option<Fault>,
    capacity_bytes: u64,
    /// For short reads and writes, and interruptions.
    noise: Option<SplitMix>,
    /// The image before each change, if somebody wants them.
    recording: Option<Vec<Image>>,
}

/// The disk, as one run of the program has it.
#[derive(Debug, Clone)]
pub(super) struct SimDisk {
    state: Arc<Mutex<DiskState>>,
    run: u64,
}

/// A file of it.
#[derive(Debug)]
pub(super) struct SimFile {
    disk: SimDisk,
    inode: Inode,
}

/// A change of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DiskChange {
    /// Takes room.
    Write,
    Sync(Inode),
    SyncNames,
    Name,
}

impl Pending {
    fn is_write_to(&self, file: Inode) -> bool {
        matches!(self, Self::Write { inode, .. } if *inode == file)
    }

    const fn is_write(&self) -> bool {
        matches!(self, Self::Write { .. })
    }
}

impl Image {
    /// What a power cut leaves if of the pending changes exactly those survive whose place `survives` names.
    pub(super) fn cut(mut self, mut survives: impl FnMut(usize) -> bool) -> Self {
        for (index, pending) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            if survives(index) {
                self.persist(&pending);
            }
        }
        self.forget_cache();
        self
    }

    /// What a power cut leaves by chance.
    pub(super) fn cut_at_random(mut self, random: &mut SplitMix) -> Self {
        let pending = std::mem::take(&mut self.pending);
        let names = pending.iter().filter(|pending| !pending.is_write()).count() as u64;
        let is_in_order = random.percent(50);
        let mut names_left = random.below(names + 1);
        let (kept, torn) = [(0, 0), (100, 0), (50, 0), (30, 40), (0, 100)][random.below(5) as usize];
        for pending in pending {
            if let Pending::Write { inode, offset, bytes } = pending {
                if random.percent(kept) {
                    self.persist(&Pending::Write { inode, offset, bytes });
                } else if random.percent(torn) {
                    self.persist_torn(inode, offset, &bytes, random);
                } else if random.percent(20) {
                    // The length, but not the data.
                    let end = offset + bytes.len();
                    self.files.entry(inode).and_modify(|file| grow(&mut file.durable, end));
                }
            } else {
                let survives = if is_in_order { names_left > 0 } else { random.percent(50) };
                names_left = names_left.saturating_sub(1);
                if survives {
                    self.persist(&pending);
                }
            }
        }
        self.forget_cache();
        self
    }

    /// How many changes are pending.
    pub(super) const fn pending(&self) -> usize {
        self.pending.len()
    }

    fn persist(&mut self, pending: &Pending) {
        match pending {
            Pending::Write { inode, offset, bytes } => {
                if let Some(file) = self.files.get_mut(inode) {
                    put(&mut file.durable, *offset, bytes);
                }
            }
            Pending::Create { inode, name } => {
                self.durable_names.insert(name.clone(), *inode);
            }
            Pending::Rename { inode, to } => {
                self.durable_names.retain(|_, other| other != inode);
                self.durable_names.insert(to.clone(), *inode);
            }
            Pending::Remove { inode, name } => {
                if self.durable_names.get(name) == Some(inode) {
                    self.durable_names.remove(name);
                }
            }
        }
    }

    /// Keeps some of a write: some of its sectors, or some of its bytes.
    fn persist_torn(&mut self, inode: Inode, offset: usize, bytes: &[u8], random: &mut SplitMix) {
        let Some(file) = self.files.get_mut(&inode) else { return };
        match random.below(3) {
            0 => {
                let sectors = bytes.len().div_ceil(SECTOR_BYTES) as u64;
                let end = (random.below(sectors + 1) as usize * SECTOR_BYTES).min(bytes.len());
                put(&mut file.durable, offset, &bytes[..end]);
            }
            1 => {
                for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    if random.percent(50) {
                        put(&mut file.durable, offset + index * SECTOR_BYTES, sector);
                    }
                }
            }
            _ => {
                for _ in 0..random.below(4) {
                    let from = random.below(bytes.len() as u64) as usize;
                    let to = from + random.below((bytes.len() - from) as u64 + 1) as usize;
                    put(&mut file.durable, offset + from, &bytes[from..to]);
                }
            }
        }
    }

    fn forget_cache(&mut self) {
        self.names.clone_from(&self.durable_names);
        let named: BTreeSet<Inode> = self.names.values().copied().collect();
        self.files.retain(|inode, _| named.contains(inode));
        for file in self.files.values_mut() {
            file.cached.clone_from(&file.durable);
        }
    }

    fn sync(&mut self, inode: Inode) {
        self.persist_all(|pending| pending.is_write_to(inode));
    }

    fn sync_names(&mut self) {
        self.persist_all(|pending| !pending.is_write());
    }

    fn persist_all(&mut self, is_meant: impl Fn(&Pending) -> bool) {
        for pending in std::mem::take(&mut self.pending) {
            if is_meant(&pending) {
                self.persist(&pending);
            } else {
                self.pending.push(pending);
            }
        }
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().map(|inode| self.files[inode].cached.len() as u64).sum()
    }
}

impl SimDisk {
    pub(super) fn new(image: Image) -> Self {
        let state = DiskState {
            image,
            run: 0,
            is_off: false,
            is_aborted: false,
            fault: None,
            capacity_bytes: u64::MAX,
            noise: None,
            recording: None,
        };
        Self { state: Arc::new(Mutex::new(state)), run: 0 }
    }

    /// From now on reads and writes are short at times, or interrupted.
    pub(super) fn make_noise(&self, seed: u64) {
        self.lock().noise = Some(SplitMix::new(seed));
    }

    pub(super) fn set_capacity(&self, bytes: u64) {
        self.lock().capacity_bytes = bytes;
    }

    pub(super) fn arm(&self, fault: Option<Fault>) {
        self.lock().fault = fault;
    }

    pub(super) fn is_off(&self) -> bool {
        self.lock().is_off
    }

    /// Whether this run of the program is over.
    pub(super) fn is_dead(&self) -> bool {
        let state = self.lock();
        state.is_off || state.run != self.run
    }

    /// Whether the filesystem takes no more changes.
    pub(super) fn is_aborted(&self) -> bool {
        self.lock().is_aborted
    }

    /// The names and what the program sees of them.
    pub(super) fn contents(&self) -> Vec<(String, Vec<u8>)> {
        let image = &self.lock().image;
        image.names.iter().map(|(name, inode)| (name.clone(), image.files[inode].cached.clone())).collect()
    }

    /// The disk for the next run of the program. What this one had open is dead.
    pub(super) fn restarted(&self) -> Self {
        let mut state = self.lock();
        state.run += 1;
        state.fault = None;
        Self { state: Arc::clone(&self.state), run: state.run }
    }

    /// How many runs of the program there have been.
    pub(super) const fn runs(&self) -> u64 {
        self.run
    }

    /// Cuts the power, and switches it on again.
    pub(super) fn cut_power(&self, random: &mut SplitMix) {
        let mut state = self.lock();
        state.image = std::mem::take(&mut state.image).cut_at_random(random);
        (state.is_off, state.is_aborted) = (false, false);
    }

    pub(super) fn record(&self) {
        self.lock().recording = Some(Vec::new());
    }

    /// What was recorded since the last time: the image before each change, and as it is now.
    pub(super) fn take_recording(&self) -> Vec<Image> {
        let mut state = self.lock();
        let DiskState { image, recording, .. } = &mut *state;
        let Some(recording) = recording else { return Vec::new() };
        recording.push(image.clone());
        std::mem::take(recording)
    }

    /// Inverts one bit of what is durable.
    pub(super) fn flip(&self, name: &str, offset: u64, bit: u64) {
        let image = &mut self.lock().image;
        let Some(file) = image.names.get(name).and_then(|inode| image.files.get_mut(inode)) else { return };
        for bytes in [&mut file.cached, &mut file.durable] {
            if let Some(byte) = bytes.get_mut(offset as usize) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// Makes sectors bad, from the one at `offset` on.
    pub(super) fn make_bad(&self, name: &str, offset: u64, sectors: u64) {
        let image = &mut self.lock().image;
        let Some(file) = image.names.get(name).and_then(|inode| image.files.get_mut(inode)) else { return };
        let first = offset as usize / SECTOR_BYTES;
        file.bad.extend(first..first + sectors as usize);
    }

    /// Every sector can be read again.
    pub(super) fn heal(&self) {
        self.lock().image.files.values_mut().for_each(|file| file.bad.clear());
    }

    /// What all files take, in bytes, but for those that are kept for people.
    pub(super) fn used_bytes(&self) -> u64 {
        let image = &self.lock().image;
        let kept = image.names.iter().filter(|(name, _)| name.ends_with(".damaged"));
        image.used_bytes() - kept.map(|(_, inode)| image.files[inode].cached.len() as u64).sum::<u64>()
    }

    fn lock(&self) -> MutexGuard<'_, DiskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, if this run of the program is the one that runs.
    fn alive(&self) -> io::Result<MutexGuard<'_, DiskState>> {
        let state = self.lock();
        if state.run == self.run && !state.is_off { Ok(state) } else { Err(io::Error::other("the power is off")) }
    }

    /// Makes one change, unless it is to fail.
    fn change<T>(&self, change: DiskChange, make: impl FnOnce(&mut DiskState) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.alive()?;
        if state.recording.is_some() {
            let image = state.image.clone();
            state.recording.as_mut().unwrap().push(image);
        }
        if state.is_aborted {
            return Err(io::Error::from_raw_os_error(30));
        }
        match state.fault.take() {
            Some(Fault { after: 0, kind: kind @ (FaultKind::Fails | FaultKind::FailsOnce) }) => {
                match change {
                    DiskChange::Sync(inode) => state.drop_pending(|pending| pending.is_write_to(inode)),
                    DiskChange::SyncNames => {
                        state.drop_pending(|pending| !pending.is_write());
                        state.is_aborted = kind == FaultKind::Fails;
                    }
                    DiskChange::Write | DiskChange::Name => {}
                }
                Err(io::Error::from_raw_os_error(5))
            }
            Some(Fault { after: 0, kind: FaultKind::NoRoom })
                if matches!(change, DiskChange::Write | DiskChange::Name) =>
            {
                Err(io::ErrorKind::StorageFull.into())
            }
            Some(Fault { after: 0, kind: FaultKind::PowerOffBefore }) => {
                state.is_off = true;
                Err(io::Error::other("the power is off"))
            }
            Some(Fault { after: 0, kind: FaultKind::Killed }) => {
                state.run += 1;
                Err(io::Error::other("the program is killed"))
            }
            Some(Fault { after: 0, kind: FaultKind::PowerOffBehind }) => {
                let _made = make(&mut state);
                state.is_off = true;
                Err(io::Error::other("the power is off"))
            }
            other => {
                state.fault = other.map(|fault| Fault { after: fault.after.saturating_sub(1), ..fault });
                make(&mut state)
            }
        }
    }
}

impl DiskState {
    /// As Linux does when a sync fails: what was pending is taken for written. Some of it may be.
    fn drop_pending(&mut self, is_meant: impl Fn(&Pending) -> bool) {
        for pending in std::mem::take(&mut self.image.pending) {
            if !is_meant(&pending) {
                self.image.pending.push(pending);
            } else if self.noise.as_mut().is_some_and(|noise| noise.percent(30)) {
                self.image.persist(&pending);
            }
        }
    }

    /// How much of `bytes` is read or written this time.
    fn shortened(&mut self, bytes: usize) -> io::Result<usize> {
        let Some(noise) = &mut self.noise else { return Ok(bytes) };
        match noise.below(50) {
            0 => Err(io::ErrorKind::Interrupted.into()),
            1 => Ok(bytes.min(1 + noise.below(bytes.max(1) as u64) as usize)),
            _ => Ok(bytes),
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.alive()?.image.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        let inode = self.change(DiskChange::Write, |state| {
            let image = &mut state.image;
            if image.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            image.last_inode += 1;
            let inode = image.last_inode;
            image.files.insert(inode, FileContent::default());
            image.names.insert(name.to_owned(), inode);
            image.pending.push(Pending::Create { inode, name: name.to_owned() });
            Ok(inode)
        })?;
        Ok(SimFile { disk: self.clone(), inode })
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let inode = self.alive()?.image.names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(SimFile { disk: self.clone(), inode })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(DiskChange::Name, |state| {
            let image = &mut state.image;
            let inode = image.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            image.names.insert(to.to_owned(), inode);
            image.pending.push(Pending::Rename { inode, to: to.to_owned() });
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(DiskChange::Name, |state| {
            let image = &mut state.image;
            let inode = image.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
            image.pending.push(Pending::Remove { inode, name: name.to_owned() });
            Ok(())
        })
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.change(DiskChange::SyncNames, |state| {
            state.image.sync_names();
            Ok(())
        })
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.alive()?;
        Ok(state.capacity_bytes.saturating_sub(state.image.used_bytes()))
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.alive()?.image.files[&self.inode].cached.len() as u64)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.alive()?;
        let wanted = state.shortened(into.len())?;
        let FileContent { cached, bad, .. } = &state.image.files[&self.inode];
        let offset = offset as usize;
        let rest = cached.get(offset..).unwrap_or_default();
        let mut read = wanted.min(rest.len());
        if let Some(sector) = bad.range(offset / SECTOR_BYTES..(offset + read).div_ceil(SECTOR_BYTES)).next() {
            // As Linux does: what comes before, if anything does.
            read = (sector * SECTOR_BYTES).saturating_sub(offset);
            if read == 0 {
                return Err(io::Error::from_raw_os_error(5));
            }
        }
        into[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.disk.change(DiskChange::Write, |state| {
            let offset = offset as usize;
            let grown = (offset + bytes.len()).saturating_sub(state.image.files[&self.inode].cached.len());
            let free_bytes = state.capacity_bytes.saturating_sub(state.image.used_bytes());
            let missing = (grown as u64).saturating_sub(free_bytes) as usize;
            if missing >= bytes.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let bytes = &bytes[..state.shortened(bytes.len() - missing)?];
            let image = &mut state.image;
            let file = image.files.get_mut(&self.inode).unwrap();
            put(&mut file.cached, offset, bytes);
            let written = offset / SECTOR_BYTES..(offset + bytes.len()).div_ceil(SECTOR_BYTES);
            file.bad.retain(|sector| !written.contains(sector));
            image.pending.push(Pending::Write { inode: self.inode, offset, bytes: bytes.to_vec() });
            Ok(bytes.len())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.change(DiskChange::Sync(self.inode), |state| {
            state.image.sync(self.inode);
            Ok(())
        })
    }

    fn sync_and_drop_cache(&self) -> io::Result<()> {
        self.disk.change(DiskChange::Sync(self.inode), |state| {
            state.image.sync(self.inode);
            if let Some(file) = state.image.files.get_mut(&self.inode) {
                file.cached.clone_from(&file.durable);
            }
            Ok(())
        })
    }
}

fn grow(file: &mut Vec<u8>, to: usize) {
    if file.len() < to {
        // Nearly all files become segments.
        file.reserve(SEGMENT_BYTES.saturating_sub(file.len()));
        // Without optimisation, much quicker than to resize it.
        file.append(&mut vec![0; to - file.len()]);
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    grow(file, offset + bytes.len());
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}
