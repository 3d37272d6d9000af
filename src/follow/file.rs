//! A followed file: when it is read again, and its last good content.
//!
//! If the file becomes invalid, its last good content stays in force. A failure is logged once, not at every poll.

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

/// A file that is written in place is read once it has been unchanged for this long.
pub(crate) const DEBOUNCE: Duration = Duration::from_millis(250);

/// The parsed content of a file.
pub(crate) trait Content: Sized + fmt::Debug {
    /// The kind of the file, in the log.
    const KIND: &'static str;
    /// Why a content is invalid.
    type Invalid: std::error::Error + 'static;

    /// Reads and parses the whole file.
    fn read(file: File) -> Result<Self, FileError<Self::Invalid>>;
}

/// The bytes of a file of at most `bytes_max` bytes.
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
    /// It cannot be read, perhaps only temporarily.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    /// It is not a regular file, so reading it might block or never end.
    #[error("not a regular file")]
    NotRegular,
    /// It is larger than the limit.
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    /// Its content is invalid.
    #[error("{0}")]
    Invalid(B),
}

/// Reads the file once.
pub(crate) fn read<C: Content>(path: &Path) -> Result<C, FileError<C::Invalid>> {
    // Checked before opening, because opening a pipe blocks until it has a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(FileError::NotRegular);
    }
    C::read(File::open(path)?)
}

/// A followed file, its last good content and its state.
#[derive(Debug)]
pub(crate) struct FollowedFile<C> {
    path: PathBuf,
    renames: Renames,
    /// The fingerprint when the file was last read completely, valid or not.
    read: Option<Fingerprint>,
    /// The path with all symlinks resolved, at that time.
    target: Option<PathBuf>,
    /// A changed fingerprint whose content has not been read yet, and when it was first seen.
    changing: Option<(Fingerprint, Instant)>,
    last_good: Option<Arc<C>>,
    /// When that was read.
    loaded: Option<Instant>,
    /// The current failure, which has been logged.
    failure: Option<String>,
}

/// The result of polling or reading a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PollResult {
    /// Neither new content nor a new failure.
    Same,
    /// The file has new content.
    Loaded,
    /// The file cannot be used, for a new reason.
    Failed,
}

impl<C: Content> FollowedFile<C> {
    /// A file that has not been read yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            renames: Renames::new(),
            read: None,
            target: None,
            changing: None,
            last_good: None,
            loaded: None,
            failure: None,
        }
    }

    /// The path, as configured.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The last good content.
    pub(crate) fn last_good(&self) -> Option<&Arc<C>> {
        self.last_good.as_ref()
    }

    /// When [`Self::last_good`] was read.
    pub(crate) const fn loaded(&self) -> Option<Instant> {
        self.loaded
    }

    /// Why the file cannot be used at present, if so.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Reads the file for the first time, without waiting until it is stable.
    pub(crate) fn load(&mut self, now: Instant) -> PollResult {
        self.renames.watch(&self.path);
        match Fingerprint::of(&self.path) {
            Ok(fingerprint) => self.read(fingerprint, now),
            Err(error) => self.fail(&FileError::Unreadable(error)),
        }
    }

    /// Reads the file now, changed or not, and adds the result to `reloaded`.
    pub(crate) fn reload(&mut self, now: Instant, reloaded: &mut Reloaded) -> PollResult {
        // If it cannot be read now, it is read again later even if it does not change.
        self.read = None;
        let result = self.load(now);
        let file = self.path.display();
        match &self.failure {
            Some(failure) => reloaded.failed.insert(format!("{file}: {failure}")),
            None if result == PollResult::Loaded => reloaded.read.insert(file.to_string()),
            None => reloaded.failed.insert(format!("{file}: is being written; it is read once it is stable")),
        };
        result
    }

    /// Polls the file, and reads it if it has changed and is complete.
    pub(crate) fn poll(&mut self, now: Instant) -> PollResult {
        match Fingerprint::of(&self.path) {
            Ok(fingerprint) if self.is_due(fingerprint, now) => self.read(fingerprint, now),
            Ok(_not_due) => PollResult::Same,
            Err(error) => {
                // When it reappears, it is read again, even with the same fingerprint.
                self.read = None;
                self.changing = None;
                self.fail(&FileError::Unreadable(error))
            }
        }
    }

    /// Whether the file, with this fingerprint, must be read now.
    fn is_due(&mut self, current: Fingerprint, now: Instant) -> bool {
        let is_replaced = self.is_replaced(current);
        if self.read == Some(current) {
            self.changing = None;
            return false;
        }
        if is_replaced {
            return true;
        }
        match self.changing {
            Some((changing, since)) if changing == current => now.saturating_duration_since(since) >= DEBOUNCE,
            Some(_) | None => {
                self.changing = Some((current, now));
                false
            }
        }
    }

    /// Whether the file was replaced atomically, by a rename or by swapping a symlink. Any other new file may still be incomplete, and a
    /// blocklist without its last rules would allow blocked users.
    fn is_replaced(&mut self, current: Fingerprint) -> bool {
        let is_renamed = self.renames.was_renamed_into_place(&self.path);
        let is_swapped = self.target.is_some() && fs::canonicalize(&self.path).ok() != self.target;
        let is_another = self.read.is_none_or(|read| !read.is_of_inode(current));
        let has_changed_since =
            self.changing.is_some_and(|(changing, _)| changing.is_of_inode(current) && changing != current);
        // An empty file may have been created to be written.
        (is_renamed || is_swapped) && is_another && !has_changed_since && current.size > 0
    }

    /// Reads the file, whose fingerprint was just `before`.
    fn read(&mut self, before: Fingerprint, now: Instant) -> PollResult {
        let target = fs::canonicalize(&self.path).ok();
        let outcome = read::<C>(&self.path);
        match Fingerprint::of(&self.path) {
            Ok(after) if after == before => {}
            Ok(after) => {
                // The bytes may be of two versions.
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
                    FileError::TooLarge(_) | FileError::Invalid(_) => {
                        (self.read, self.target) = (Some(before), target);
                    }
                    // Read again at the next poll: the error may disappear without a change of the file.
                    FileError::Unreadable(_) | FileError::NotRegular => {}
                }
                self.fail(&error)
            }
        }
    }

    fn succeed(&mut self, content: C, now: Instant) -> PollResult {
        if self.failure.take().is_some() {
            tracing::info!(kind = C::KIND, file = %self.path.display(), "file is valid again");
        }
        self.changing = None;
        (self.last_good, self.loaded) = (Some(Arc::new(content)), Some(now));
        PollResult::Loaded
    }

    fn fail(&mut self, error: &FileError<C::Invalid>) -> PollResult {
        let failure = error.to_string();
        if self.failure.as_ref() == Some(&failure) {
            return PollResult::Same;
        }
        let file = self.path.display();
        if self.last_good.is_some() {
            tracing::error!(kind = C::KIND, %file, failure, "file cannot be used; its last good content stays in force");
        } else {
            tracing::error!(kind = C::KIND, %file, failure, "file cannot be used; it has not been valid since the start");
        }
        self.failure = Some(failure);
        PollResult::Failed
    }
}

/// The metadata by which a change of a file is detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// Follows symlinks, so that swapping one changes the inode.
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
        type Invalid = fmt::Error;

        fn read(file: File) -> Result<Self, FileError<Self::Invalid>> {
            read_small(file, 3).map(|_bytes| Self)
        }
    }

    #[test]
    fn a_file_that_is_not_regular_or_too_large_is_not_read() {
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
