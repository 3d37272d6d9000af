//! The [`Disk`] that is a real directory.

use std::fs;
use std::fs::DirBuilder;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::Permissions;
use std::fs::TryLockError;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::disk::Disk;
use super::disk::DiskFile;

/// How often locking is tried: `callbridge journal inspect` holds the lock for a moment.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The mode of a new directory: its files hold messages, account ids and signatures.
const DIRECTORY_MODE: u32 = 0o700;

/// The mode of a new file.
const FILE_MODE: u32 = 0o600;

/// The permission bits of group and others.
const OTHERS: u32 = 0o077;

/// A directory. It is locked for this process, unless it was opened read-only.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// Holds the lock, and syncs the directory.
    handle: File,
    may_write: bool,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    /// It does not exist and cannot be made, or it cannot be opened or written.
    #[error("{what} {}", path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// The directory.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// Another process has locked it.
    #[error("{} is locked by another callbridge that is running", .0.display())]
    Taken(PathBuf),
    /// Locks and syncs are not reliable on a network filesystem.
    #[error("{} is on a network filesystem ({kind}); the journal needs a local disk", path.display())]
    Network {
        /// The directory.
        path: PathBuf,
        /// The kind of filesystem.
        kind: &'static str,
    },
}

/// The kind of a filesystem, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filesystem {
    Local,
    /// In memory: lost when the machine stops.
    Memory,
    /// The writable layer of a container: lost with the container.
    Container,
    Network(&'static str),
}

impl Filesystem {
    /// By its magic number on Linux (`statfs(2)`).
    const fn of(magic: u64) -> Self {
        match magic & 0xffff_ffff {
            0x0102_1994 | 0x8584_58f6 => Self::Memory,
            // overlayfs, and aufs of old Docker versions.
            0x794c_7630 | 0x6175_6673 => Self::Container,
            0x6969 => Self::Network("nfs"),
            0x517b => Self::Network("smb"),
            0xff53_4d42 => Self::Network("cifs"),
            0xfe53_4d42 => Self::Network("smb2"),
            0x0102_1997 => Self::Network("9p"),
            0x00c3_6400 => Self::Network("ceph"),
            0x5346_414f => Self::Network("afs"),
            0x7375_7245 => Self::Network("coda"),
            _ => Self::Local,
        }
    }
}

impl Directory {
    /// Opens the directory exclusively, and makes it if necessary.
    ///
    /// # Errors
    ///
    /// See [`DirectoryError`].
    pub(crate) fn open(path: &Path) -> Result<Self, DirectoryError> {
        make(path).map_err(failed("make", path))?;
        let this = Self::open_handle(path, true)?;
        match this.filesystem()? {
            Filesystem::Local | Filesystem::Memory | Filesystem::Container => {}
            Filesystem::Network(kind) => return Err(DirectoryError::Network { path: path.to_owned(), kind }),
        }
        this.lock()?;
        rustix::fs::access(path, rustix::fs::Access::WRITE_OK)
            .map_err(|error| failed("write to", path)(error.into()))?;
        Ok(this)
    }

    fn lock(&self) -> Result<(), DirectoryError> {
        for _try in 0..LOCK_TRIES {
            match self.handle.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(error)) => return Err(failed("lock", &self.path)(error)),
            }
        }
        Err(DirectoryError::Taken(self.path.clone()))
    }

    /// Opens the directory read-only, even while another process writes to it.
    ///
    /// # Errors
    ///
    /// It cannot be opened.
    pub(crate) fn open_to_read(path: &Path) -> Result<Self, DirectoryError> {
        Self::open_handle(path, false)
    }

    /// Whether another process has it open for writing.
    pub(crate) fn is_in_use(&self) -> bool {
        let is_taken = matches!(self.handle.try_lock_shared(), Err(TryLockError::WouldBlock));
        if !is_taken {
            let _unlocked = self.handle.unlock();
        }
        is_taken
    }

    /// Its permission bits, if group or others have access. They are not changed: somebody may need them.
    pub(crate) fn mode_for_others(&self) -> Option<u32> {
        let mode = self.handle.metadata().ok()?.permissions().mode() & 0o7777;
        (mode & OTHERS != 0).then_some(mode)
    }

    /// What its contents are lost with, if it is not on a disk.
    pub(crate) fn is_gone_with(&self) -> Option<&'static str> {
        match self.filesystem() {
            Ok(Filesystem::Memory) => Some("machine"),
            Ok(Filesystem::Container) => Some("container"),
            Ok(Filesystem::Local | Filesystem::Network(_)) | Err(_) => None,
        }
    }

    fn open_handle(path: &Path, may_write: bool) -> Result<Self, DirectoryError> {
        let handle = File::open(path).map_err(failed("open", path))?;
        if !handle.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(failed("open", path)(io::ErrorKind::NotADirectory.into()));
        }
        Ok(Self { path: path.to_owned(), handle, may_write })
    }

    /// The size of its filesystem, in bytes.
    pub(crate) fn filesystem_bytes(&self) -> io::Result<u64> {
        let status = rustix::fs::fstatvfs(&self.handle)?;
        Ok(status.f_blocks.saturating_mul(status.f_frsize))
    }

    /// What it is on.
    pub(crate) fn filesystem(&self) -> Result<Filesystem, DirectoryError> {
        let status = rustix::fs::fstatfs(&self.handle).map_err(|error| failed("look at", &self.path)(error.into()))?;
        #[expect(clippy::cast_sign_loss, reason = "a number without a sign, in a field that has one on some machines")]
        Ok(Filesystem::of(status.f_type as u64))
    }
}

/// Makes the directory if necessary, and makes its name durable: otherwise a power failure could remove it with all its synced files.
fn make(path: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    for path in path.ancestors().take_while(|path| !path.as_os_str().is_empty()) {
        // A disk error must be returned here: `create_dir` would turn it into "File exists".
        if path.try_exists()? {
            break;
        }
        missing.push(path);
    }
    if !missing.is_empty() {
        make_private(path)?;
    }
    fs::create_dir_all(path)?;
    // Also the parent of an existing directory: the process that made it may have been killed before the sync.
    for made in missing.iter().copied().chain([path]) {
        let Some(parent) = made.parent() else { continue };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match File::open(parent) {
            Ok(parent) => parent.sync_all()?,
            // Somebody else has made the directory for us, and we may not read its parent.
            Err(error) if missing.is_empty() && error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes the directory with access for its owner only, whatever the umask is. Parents get the default mode.
fn make_private(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Sets the mode of a file, whatever the umask is or an older version has set. If that fails (a file of another owner, a filesystem without
/// modes), the mode of the directory still protects it.
fn restrict_to_owner(file: &File) -> io::Result<()> {
    if file.metadata()?.permissions().mode() & 0o777 != FILE_MODE {
        let _best_effort = file.set_permissions(Permissions::from_mode(FILE_MODE));
    }
    Ok(())
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    move |source| DirectoryError::Io { what, path: path.to_owned(), source }
}

impl Disk for Directory {
    type File = File;

    fn list(&self) -> io::Result<Vec<String>> {
        // A name that is not UTF-8 is not ours.
        fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default())).collect()
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(FILE_MODE).open(self.path.join(name))?;
        restrict_to_owner(&file)?;
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(self.may_write).open(self.path.join(name))?;
        if self.may_write {
            restrict_to_owner(&file)?;
        }
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let status = rustix::fs::fstatvfs(&self.handle)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, into, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }

    fn sync_and_drop_cache(&self) -> io::Result<()> {
        Self::sync_data(self)?;
        // If the page cache cannot be dropped, the file is read from it as usual.
        let _dropped = rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::DontNeed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::Ordering;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_start_is_not_refused_because_somebody_inspects() {
        let dir = TempDir::new().unwrap();
        let has_ended = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let inspected = Directory::open_to_read(dir.path()).unwrap();
                while !has_ended.load(Ordering::Relaxed) {
                    inspected.is_in_use();
                }
            });
            let taken = (0..200).filter(|_start| Directory::open(dir.path()).is_err()).count();
            has_ended.store(true, Ordering::Relaxed);
            assert_eq!(taken, 0);
        });
    }
}
