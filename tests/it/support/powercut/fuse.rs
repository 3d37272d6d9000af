//! The disk as the kernel sees it.
//!
//! Nothing is cached by the kernel, so each `pwrite` is one write here, and each answer is the disk's own. Locks are the
//! kernel's. There are no links, no permissions and no times.

use std::ffi::OsStr;
use std::panic;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::SystemTime;

use fuser::BsdFileFlags;
use fuser::Errno;
use fuser::FileAttr;
use fuser::FileHandle;
use fuser::FileType;
use fuser::Filesystem;
use fuser::FopenFlags;
use fuser::Generation;
use fuser::INodeNo;
use fuser::LockOwner;
use fuser::OpenFlags;
use fuser::RenameFlags;
use fuser::ReplyAttr;
use fuser::ReplyCreate;
use fuser::ReplyData;
use fuser::ReplyDirectory;
use fuser::ReplyEmpty;
use fuser::ReplyEntry;
use fuser::ReplyOpen;
use fuser::ReplyStatfs;
use fuser::ReplyWrite;
use fuser::Request;
use fuser::TimeOrNow;
use fuser::WriteFlags;

use crate::support::powercut::disk::Disk;
use crate::support::powercut::disk::Kind;

/// What `statfs` says, whatever is stored: room enough for a journal, and not for a quota of its own.
const BLOCKS: u64 = 1 << 18;
const BLOCK_BYTES: u32 = 4096;
const NAME_BYTES_MAX: u32 = 255;

/// The kernel asks again each time.
const TTL: Duration = Duration::ZERO;

/// Handles mean nothing here: the node says it all.
const HANDLE: FileHandle = FileHandle(0);

/// `fallocate` that leaves the length alone. Nothing is ever short of room here.
const KEEP_SIZE: i32 = 1;

/// A disk, shared with the test that holds its plug.
#[derive(Clone)]
pub(crate) struct Face {
    pub(crate) disk: Arc<Mutex<Disk>>,
    /// The syncs that wait, while they are frozen.
    frozen: Arc<Mutex<Option<Vec<Sync>>>>,
    /// The same of reads.
    frozen_reads: Arc<Mutex<Option<Vec<Read>>>>,
}

/// A sync of a file or of a folder, whose caller waits.
struct Sync {
    node: INodeNo,
    is_folder: bool,
    reply: ReplyEmpty,
}

/// A read of a file, whose caller waits.
struct Read {
    node: INodeNo,
    offset: u64,
    size: u32,
    reply: ReplyData,
}

impl Face {
    /// Of that disk.
    pub(crate) fn new(disk: Disk) -> Self {
        Self { disk: Arc::new(Mutex::new(disk)), frozen: Arc::default(), frozen_reads: Arc::default() }
    }

    /// Lets every sync wait from now on.
    pub(crate) fn freeze_syncs(&self) {
        self.frozen().get_or_insert_default();
    }

    /// How many wait.
    pub(crate) fn frozen_syncs(&self) -> usize {
        self.frozen().as_ref().map_or(0, Vec::len)
    }

    /// Lets them go on.
    pub(crate) fn thaw_syncs(&self) {
        let frozen = self.frozen().take();
        frozen.into_iter().flatten().for_each(|sync| self.sync(sync));
    }

    /// Lets every read wait from now on.
    pub(crate) fn freeze_reads(&self) {
        self.frozen_reads().get_or_insert_default();
    }

    /// Lets them go on.
    pub(crate) fn thaw_reads(&self) {
        let frozen = self.frozen_reads().take();
        frozen.into_iter().flatten().for_each(|read| self.answer_read(read));
    }

    fn frozen_reads(&self) -> MutexGuard<'_, Option<Vec<Read>>> {
        self.frozen_reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer_read(&self, Read { node, offset, size, reply }: Read) {
        match self.ask(|disk| disk.read(node.0, offset, u64::from(size))) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn frozen(&self) -> MutexGuard<'_, Option<Vec<Sync>>> {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync_or_wait(&self, sync: Sync) {
        let mut frozen = self.frozen();
        if let Some(waiting) = frozen.as_mut() {
            waiting.push(sync);
            return;
        }
        drop(frozen);
        self.sync(sync);
    }

    fn sync(&self, Sync { node, is_folder, reply }: Sync) {
        let synced = self.ask(|disk| if is_folder { disk.sync_folder(node.0) } else { disk.sync(node.0) });
        answer_empty(synced, reply);
    }

    /// A panic in the thread that answers the kernel would leave every caller waiting for ever: it is an error instead.
    fn ask<T>(&self, question: impl FnOnce(&mut Disk) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        panic::catch_unwind(AssertUnwindSafe(|| question(&mut disk))).unwrap_or(Err(Errno::EIO))
    }

    fn attributes(&self, node: u64) -> Result<FileAttr, Errno> {
        self.ask(|disk| disk.kind(node)).map(|kind| attributes(node, kind))
    }
}

impl Filesystem for Face {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.ask(|disk| disk.look_up(parent.0, name)).and_then(|node| self.attributes(node));
        answer_entry(found, reply);
    }

    fn getattr(&self, _request: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(node.0) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        node: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let resized = self.ask(|disk| size.map_or(Ok(()), |size| disk.resize(node.0, size)));
        match resized.and_then(|()| self.attributes(node.0)) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        let made = self.ask(|disk| disk.create_folder(parent.0, name)).and_then(|node| self.attributes(node));
        answer_entry(made, reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(self.ask(|disk| disk.unlink(parent.0, name)), reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(self.ask(|disk| disk.unlink(parent.0, name)), reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = self.ask(|disk| {
            if flags.contains(RenameFlags::RENAME_NOREPLACE) && disk.look_up(new_parent.0, new_name).is_ok() {
                return Err(Errno::EEXIST);
            }
            if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
                return Err(Errno::EINVAL);
            }
            disk.rename((parent.0, name), (new_parent.0, new_name))
        });
        answer_empty(renamed, reply);
    }

    fn open(&self, _request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.ask(|disk| disk.open(node.0)) {
            Ok(()) => reply.opened(HANDLE, open_flags()),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let created = self.ask(|disk| {
            let node = disk.create(parent.0, name)?;
            disk.open(node)?;
            Ok(node)
        });
        match created.and_then(|node| self.attributes(node)) {
            Ok(attributes) => reply.created(&TTL, &attributes, Generation(0), HANDLE, open_flags()),
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let closed = self.ask(|disk| {
            disk.close(node.0);
            Ok(())
        });
        answer_empty(closed, reply);
    }

    fn read(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = Read { node, offset, size, reply };
        let mut frozen = self.frozen_reads();
        if let Some(waiting) = frozen.as_mut() {
            waiting.push(read);
            return;
        }
        drop(frozen);
        self.answer_read(read);
    }

    fn write(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.ask(|disk| disk.write(node.0, offset, data)) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let allocated = self.ask(|disk| match (mode, disk.kind(node.0)?) {
            (0, Kind::File { length: now }) if now < offset + length => disk.resize(node.0, offset + length),
            (0 | KEEP_SIZE, Kind::File { .. }) => Ok(()),
            (_, _) => Err(Errno::EOPNOTSUPP),
        });
        answer_empty(allocated, reply);
    }

    fn fsync(&self, _request: &Request, node: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.sync_or_wait(Sync { node, is_folder: false, reply });
    }

    fn fsyncdir(&self, _request: &Request, node: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.sync_or_wait(Sync { node, is_folder: true, reply });
    }

    fn readdir(&self, _request: &Request, node: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = self.ask(|disk| {
            let entries = disk.list(node.0)?.into_iter();
            entries.map(|(node, name)| Ok((node, file_type(disk.kind(node)?), name))).collect::<Result<Vec<_>, Errno>>()
        });
        match entries {
            Ok(entries) => {
                // The place is the number of the node, so that it stays when others go in between.
                let behind = entries.into_iter().filter(|(node, _kind, _name)| *node > offset);
                for (node, kind, name) in behind {
                    if reply.add(INodeNo(node), node, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _request: &Request, node: INodeNo, reply: ReplyStatfs) {
        match self.ask(|disk| disk.kind(node.0)) {
            Ok(_kind) => reply.statfs(BLOCKS, BLOCKS, BLOCKS, 0, 0, BLOCK_BYTES, NAME_BYTES_MAX, BLOCK_BYTES),
            Err(error) => reply.error(error),
        }
    }
}

/// Without a flush, closing a file never waits for this process, which may be the one that is ending.
fn open_flags() -> FopenFlags {
    FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH
}

fn answer_empty(answer: Result<(), Errno>, reply: ReplyEmpty) {
    match answer {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn answer_entry(answer: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match answer {
        Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File { .. } => FileType::RegularFile,
        Kind::Folder => FileType::Directory,
    }
}

fn attributes(node: u64, kind: Kind) -> FileAttr {
    let (size, perm, nlink) = match kind {
        Kind::File { length } => (length, 0o644, 1),
        Kind::Folder => (0, 0o755, 2),
    };
    let time = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(node),
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(kind),
        perm,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}
