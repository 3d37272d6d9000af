//! One file that is followed: when to read it again, and what it held last.
//!
//! A file that cannot be used keeps its last good content. Each failure is told once, however often it is seen.

use std::fmt;
use std::fs;
use std::fs::File;
use std::fs::Metadata;
use std::io;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::follow::Reloaded;
use crate::follow::renames::Renames;

/// How long a file that is written in place must be still before it is read.
pub(crate) const STILL: Duration = Duration::from_millis(250);

/// What a file may hold.
pub(crate) trait Content: Sized + fmt::Debug {
    /// What such a file is called in the log.
    const KIND: &'static str;
    /// What is wrong with a bad one.
    type Bad: std::error::Error + 'static;

    /// Reads a whole file.
    fn read(file: File) -> Result<Self, FileError<Self::Bad>>;
}

/// The bytes of a file that has at most `bytes_max`. A larger one is bad.
pub(crate) fn read_small<B: std::error::Error>(file: File, bytes_max: u64) -> Result<Vec<u8>, FileError<B>> {
    let mut bytes = Vec::new();
    let read = file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if u64::try_from(read).is_ok_and(|read| read > bytes_max) {
        return Err(FileError::TooLarge(bytes_max));
    }
    Ok(bytes)
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError<B: std::error::Error + 'static> {
    /// Its bytes are out of reach, perhaps for a moment only.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    /// Reading it might never end.
    #[error("not a regular file")]
    NotRegular,
    /// More than the largest that is read.
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    /// It was read, and is bad.
    #[error("{0}")]
    Bad(B),
}

/// Reads the file as it is now.
pub(crate) fn read<C: Content>(path: &Path) -> Result<C, FileError<C::Bad>> {
    // Looked at before it is opened, since opening a pipe waits for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(FileError::NotRegular);
    }
    C::read(File::open(path)?)
}

/// A file and what is known of it.
#[derive(Debug)]
pub(crate) struct FollowedFile<C> {
    path: PathBuf,
    renames: Renames,
    /// What the file looked like when it was last read to its end, for good or bad.
    read: Option<Fingerprint>,
    /// Where the path led then, behind all symlinks.
    target: Option<PathBuf>,
    /// What it looks like since it began to change, and since when it does.
    changing: Option<(Fingerprint, Instant)>,
    last_good: Option<Arc<C>>,
    /// When that was read.
    loaded: Option<Instant>,
    /// What was told of the failure it is in.
    failing: Option<String>,
}

/// What a look at a file came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PollResult {
    /// It holds what it held.
    Same,
    /// It holds something new.
    Loaded,
    /// It cannot be used, for a reason not told before.
    Failed,
}

impl<C: Content> FollowedFile<C> {
    /// A file that was not looked at yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            renames: Renames::new(),
            read: None,
            target: None,
            changing: None,
            last_good: None,
            loaded: None,
            failing: None,
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What it held when it was last good.
    pub(crate) fn last_good(&self) -> Option<&Arc<C>> {
        self.last_good.as_ref()
    }

    /// When that was read.
    pub(crate) const fn loaded(&self) -> Option<Instant> {
        self.loaded
    }

    /// Why it cannot be used now, if it cannot.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failing.as_deref()
    }

    /// Whether it cannot be used now.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// Reads the file for the first time, without waiting until it is still.
    pub(crate) fn load(&mut self, now: Instant) -> PollResult {
        self.renames.watch(&self.path);
        match Fingerprint::of(&self.path) {
            Ok(fingerprint) => self.read(fingerprint, now),
            Err(error) => self.fail(&FileError::Unreadable(error)),
        }
    }

    /// Reads the file now, whether it has changed or is still, and says in `reloaded` what came of it.
    pub(crate) fn reload(&mut self, now: Instant, reloaded: &mut Reloaded) -> PollResult {
        // If it cannot be read now, it is read again later even if it does not change.
        self.read = None;
        let look = self.load(now);
        let file = self.path.display();
        match &self.failing {
            Some(failure) => reloaded.failed.insert(format!("{file}: {failure}")),
            None if look == PollResult::Loaded => reloaded.read.insert(file.to_string()),
            None => reloaded.failed.insert(format!("{file}: changes while it is read; read again once it is still")),
        };
        look
    }

    /// Looks at the file, and reads it if that is due.
    pub(crate) fn look(&mut self, now: Instant) -> PollResult {
        match Fingerprint::of(&self.path) {
            Ok(fingerprint) if self.is_due(fingerprint, now) => self.read(fingerprint, now),
            Ok(_not_due) => PollResult::Same,
            Err(error) => {
                // Whatever comes back is another file, even if it looks the same.
                self.read = None;
                self.changing = None;
                self.fail(&FileError::Unreadable(error))
            }
        }
    }

    /// Whether a file that looks like this is to be read now.
    fn is_due(&mut self, seen: Fingerprint, now: Instant) -> bool {
        let is_replaced = self.is_replaced(seen);
        if self.read == Some(seen) {
            self.changing = None;
            return false;
        }
        if is_replaced {
            return true;
        }
        match self.changing {
            Some((changing, since)) if changing == seen => now.saturating_duration_since(since) >= STILL,
            Some(_) | None => {
                self.changing = Some((seen, now));
                false
            }
        }
    }

    /// Whether a file that looks like this was put in the place of the last one as a whole: by a rename, or by a symlink that leads
    /// elsewhere. Any other new file may still be being written: read now, half of it would let many through.
    fn is_replaced(&mut self, seen: Fingerprint) -> bool {
        let is_renamed = self.renames.brought(&self.path);
        let is_swapped = self.target.is_some() && fs::canonicalize(&self.path).ok() != self.target;
        let is_another = self.read.is_none_or(|read| !read.is_of_inode(seen));
        let has_changed_since =
            self.changing.is_some_and(|(changing, _)| changing.is_of_inode(seen) && changing != seen);
        // One that is empty may have been made to be written.
        (is_renamed || is_swapped) && is_another && !has_changed_since && seen.size > 0
    }

    /// Reads a file that looked like `before` a moment ago.
    fn read(&mut self, before: Fingerprint, now: Instant) -> PollResult {
        let target = fs::canonicalize(&self.path).ok();
        let outcome = read::<C>(&self.path);
        match Fingerprint::of(&self.path) {
            Ok(after) if after == before => {}
            Ok(after) => {
                // What was read may be half of one version and half of another.
                self.changing = Some((after, now));
                return PollResult::Same;
            }
            Err(error) => return self.fail(&FileError::Unreadable(error)),
        }
        match outcome {
            Ok(content) => {
                (self.read, self.target) = (Some(before), target);
                self.succeed(content, now)
            }
            Err(error) => {
                match error {
                    FileError::TooLarge(_) | FileError::Bad(_) => {
                        (self.read, self.target) = (Some(before), target);
                    }
                    // Tried again at the next look: it may pass without a change of the file.
                    FileError::Unreadable(_) | FileError::NotRegular => {}
                }
                self.fail(&error)
            }
        }
    }

    fn succeed(&mut self, content: C, now: Instant) -> PollResult {
        if self.failing.take().is_some() {
            tracing::info!(kind = C::KIND, file = %self.path.display(), "file is valid again");
        }
        self.changing = None;
        (self.last_good, self.loaded) = (Some(Arc::new(content)), Some(now));
        PollResult::Loaded
    }

    fn fail(&mut self, error: &FileError<C::Bad>) -> PollResult {
        let failure = error.to_string();
        if self.failing.as_ref() == Some(&failure) {
            return PollResult::Same;
        }
        let file = self.path.display();
        if self.last_good.is_some() {
            tracing::error!(kind = C::KIND, %file, failure, "file cannot be used; its last good content stays in force");
        } else {
            tracing::error!(kind = C::KIND, %file, failure, "file cannot be used; it has had no good content since the start");
        }
        self.failing = Some(failure);
        PollResult::Failed
    }
}

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// Looks through symlinks, so that swapping one shows as another inode.
    fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata: Metadata| Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    fn is_of_inode(self, other: Self) -> bool {
        self.inode == other.inode
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Any;

    impl Content for Any {
        const KIND: &'static str = "any";
        type Bad = fmt::Error;

        fn read(file: File) -> Result<Self, FileError<Self::Bad>> {
            read_small(file, 3).map(|_bytes| Self)
        }
    }

    #[test]
    fn what_is_no_file_or_too_large_is_not_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str| directory.path().join(name);
        fs::write(file("large"), "1234").expect("written");
        fs::write(file("small"), "123").expect("written");
        assert!(matches!(read::<Any>(directory.path()), Err(FileError::NotRegular)));
        assert!(matches!(read::<Any>(&file("none")), Err(FileError::Unreadable(_))));
        assert!(matches!(read::<Any>(&file("large")), Err(FileError::TooLarge(3))));
        assert!(read::<Any>(&file("small")).is_ok());
    }
}
