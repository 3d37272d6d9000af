//! Whether a file came by rename, as far as the kernel says so.
//!
//! Nothing that `stat` shows tells a rename from a file that is made and still being written: both are new inodes, and within a tick of
//! the clock all their times are the same. inotify does. Where it says nothing (a network filesystem, no more instances), nothing is
//! known, and such a file is read once it is still.

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

/// What is heard of the directory in which a file stands.
#[derive(Debug)]
pub(crate) struct Renames {
    /// `None` where the system gives none.
    inotify: Option<OwnedFd>,
    /// The watch of the directory, once there is one.
    watch: Option<i32>,
    /// Whether the newest file of that name came by rename.
    is_renamed: bool,
}

impl Renames {
    pub(crate) fn new() -> Self {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok();
        Self { inotify, watch: None, is_renamed: false }
    }

    /// Begins to watch the directory in which the file at `path` stands, unless it does already, and returns the file's name there.
    pub(crate) fn watch(&mut self, path: &Path) -> Option<OsString> {
        let inotify = self.inotify.as_ref()?;
        let (directory, name) = place(path)?;
        let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        // The same watch as before, as long as it is the same directory.
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

    /// Whether the file at `path` came there by rename. True only if that was seen, and nothing else has come there since.
    pub(crate) fn brought(&mut self, path: &Path) -> bool {
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

/// The directory and the name of the file itself, behind all symlinks; of one that is missing, where it would be.
fn place(path: &Path) -> Option<(PathBuf, OsString)> {
    let real = fs::canonicalize(path).unwrap_or_else(|_missing| path.to_owned());
    let directory = real.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some((directory.to_owned(), real.file_name()?.to_owned()))
}
