//! Detects whether a file was renamed into place.
//!
//! `stat` cannot distinguish a rename from a new file that is still being written: both are new inodes, and within a tick of the clock all
//! their times are equal. inotify can. Where it is not available (a network filesystem, the limit of instances), the file is read once it
//! is unchanged.

use std::ffi::OsString;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::inotify;
use rustix::fs::inotify::CreateFlags;
use rustix::fs::inotify::ReadFlags;
use rustix::fs::inotify::Reader;
use rustix::fs::inotify::WatchFlags;

/// Room for some dozens of events, and for the longest one. The rest is read in the next round.
const BUFFER_BYTES: usize = 4096;

/// Watches the directory of a file.
#[derive(Debug)]
pub(crate) struct Renames {
    /// `None` if the system has no more instances.
    inotify: Option<OwnedFd>,
    /// The watch of the directory, once there is one.
    watch: Option<i32>,
    /// Whether the newest file of that name was renamed into place.
    is_renamed: bool,
}

impl Renames {
    pub(crate) fn new() -> Self {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok();
        Self { inotify, watch: None, is_renamed: false }
    }

    /// Watches the directory of the file at `path`, unless it does so already. Returns the name of the file in it.
    pub(crate) fn watch(&mut self, path: &Path) -> Option<OsString> {
        let inotify = self.inotify.as_ref()?;
        let (directory, name) = place(path)?;
        let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        // The same watch as before, while it is the same directory.
        let watch = inotify::add_watch(inotify, &directory, flags).ok();
        if self.watch != watch {
            self.is_renamed = false;
            if let Some(old) = self.watch {
                // It may be gone with its directory.
                let _removed = inotify::remove_watch(inotify, old);
            }
            self.watch = watch;
        }
        Some(name)
    }

    /// Whether the file at `path` was renamed into place. True only if that was seen, and nothing has happened to the file since.
    pub(crate) fn was_renamed_into_place(&mut self, path: &Path) -> bool {
        let name = self.watch(path);
        let (Some(inotify), Some(name)) = (&self.inotify, name) else { return false };
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut events = Reader::new(inotify, &mut buffer);
        while let Ok(event) = events.next() {
            let is_of_file = event.file_name().is_some_and(|found| found.to_bytes() == name.as_bytes());
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                self.is_renamed = false;
            } else if is_of_file && Some(event.wd()) == self.watch {
                self.is_renamed = event.events().contains(ReadFlags::MOVED_TO);
            }
        }
        self.is_renamed
    }
}

/// The directory and the name of the file after resolving all symlinks; for a missing file, where it would be.
fn place(path: &Path) -> Option<(PathBuf, OsString)> {
    let real = fs::canonicalize(path).unwrap_or_else(|_missing| path.to_owned());
    let directory = real.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some((directory.to_owned(), real.file_name()?.to_owned()))
}
