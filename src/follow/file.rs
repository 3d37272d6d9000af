//! One blocklist file, followed: when to read it again, and what it said last.
//!
//! A file that cannot be used keeps its last good rules. Each failure is told once, however often it is seen.

use std::fmt;
use std::fs;
use std::fs::Metadata;
use std::io;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::decide::blocklist::Rules;
use crate::decide::file;
use crate::decide::file::BadLine;

/// How long a file that is rewritten in place must be still before it is read.
pub(crate) const STILL: Duration = Duration::from_millis(250);

/// The largest file that is read: some millions of rules. A larger one is bad.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// How many bad lines a log shows.
const SHOWN_LINES_MAX: usize = 10;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// Its bytes are out of reach, perhaps for a moment only.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    /// Reading it might never end.
    #[error("not a regular file")]
    NotRegular,
    /// More than the largest that is read.
    #[error("larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// Its lines were read, and some are bad. All are here; the text shows the first.
    #[error("{}", Shown(.0))]
    BadLines(Vec<BadLine>),
}

/// Reads the file as it is now.
pub(crate) fn read(path: &Path) -> Result<Rules, FileError> {
    // Looked at before it is opened, since opening a pipe waits for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(FileError::NotRegular);
    }
    let mut text = Vec::new();
    let bytes = fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    if u64::try_from(bytes).is_ok_and(|bytes| bytes > FILE_BYTES_MAX) {
        return Err(FileError::TooLarge);
    }
    file::parse(&text).map_err(FileError::BadLines)
}

/// A file and what is known of it.
#[derive(Debug)]
pub(crate) struct FollowedFile {
    path: PathBuf,
    /// What the file looked like when it was last read to its end, for good or bad.
    read: Option<Fingerprint>,
    /// What it looks like since it began to change, and since when it does.
    changing: Option<(Fingerprint, Instant)>,
    last_good: Option<Arc<Rules>>,
    /// What was told of the failure it is in.
    failing: Option<String>,
}

/// What a look at a file came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Its rules are what they were.
    Same,
    /// It has new rules.
    Loaded,
    /// It cannot be used, for a reason not told before.
    Failed,
}

impl FollowedFile {
    /// A file that was not looked at yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, read: None, changing: None, last_good: None, failing: None }
    }

    /// The rules it held when it was last good.
    pub(crate) fn last_good(&self) -> Option<&Arc<Rules>> {
        self.last_good.as_ref()
    }

    /// Whether it cannot be used now.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// Reads the file for the first time, without waiting until it is still.
    pub(crate) fn load(&mut self, now: Instant) -> Look {
        match Fingerprint::of(&self.path) {
            Ok(fingerprint) => self.read(fingerprint, now),
            Err(error) => self.fail(&error.into()),
        }
    }

    /// Looks at the file, and reads it if that is due.
    pub(crate) fn look(&mut self, now: Instant) -> Look {
        match Fingerprint::of(&self.path) {
            Ok(fingerprint) if self.is_due(fingerprint, now) => self.read(fingerprint, now),
            Ok(_not_due) => Look::Same,
            Err(error) => {
                // Whatever comes back is another file, even if it looks the same.
                self.read = None;
                self.changing = None;
                self.fail(&error.into())
            }
        }
    }

    /// Whether a file that looks like this is to be read now.
    fn is_due(&mut self, seen: Fingerprint, now: Instant) -> bool {
        if self.read == Some(seen) {
            self.changing = None;
            return false;
        }
        let is_replaced = self.read.is_some_and(|read| !read.is_of_inode(seen));
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

    /// Reads a file that looked like `before` a moment ago.
    fn read(&mut self, before: Fingerprint, now: Instant) -> Look {
        let outcome = read(&self.path);
        match Fingerprint::of(&self.path) {
            Ok(after) if after == before => {}
            Ok(after) => {
                // What was read may be half of one version and half of another.
                self.changing = Some((after, now));
                return Look::Same;
            }
            Err(error) => return self.fail(&error.into()),
        }
        match outcome {
            Ok(rules) => {
                self.read = Some(before);
                self.succeed(rules)
            }
            Err(error) => {
                match error {
                    FileError::TooLarge | FileError::BadLines(_) => self.read = Some(before),
                    // Tried again at the next look: it may pass without a change of the file.
                    FileError::Unreadable(_) | FileError::NotRegular => {}
                }
                self.fail(&error)
            }
        }
    }

    fn succeed(&mut self, rules: Rules) -> Look {
        if self.failing.take().is_some() {
            tracing::info!(file = %self.path.display(), "blocklist file is good again");
        }
        self.changing = None;
        self.last_good = Some(Arc::new(rules));
        Look::Loaded
    }

    fn fail(&mut self, error: &FileError) -> Look {
        let failure = error.to_string();
        if self.failing.as_ref() == Some(&failure) {
            return Look::Same;
        }
        tracing::error!(
            file = %self.path.display(),
            failure,
            has_rules = self.last_good.is_some(),
            "blocklist file cannot be used; the last good rules it had stay in force"
        );
        self.failing = Some(failure);
        Look::Failed
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

/// The first bad lines of a file, and how many more there are.
struct Shown<'a>(&'a [BadLine]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, bad_line) in self.0.iter().take(SHOWN_LINES_MAX).enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(formatter, "{separator}{bad_line}")?;
        }
        match self.0.len().saturating_sub(SHOWN_LINES_MAX) {
            0 => Ok(()),
            more => write!(formatter, "; and {more} more bad lines"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_many_bad_lines_shows_ten_and_keeps_all() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("list");
        fs::write(&path, "block\n".repeat(1000)).expect("written");
        let error = read(&path).expect_err("bad");
        let shown = error.to_string();
        assert!(shown.starts_with("line 1: the line ends; expected a user; line 2: "), "{shown}");
        assert!(shown.ends_with("; line 10: the line ends; expected a user; and 990 more bad lines"), "{shown}");
        assert!(matches!(error, FileError::BadLines(bad_lines) if bad_lines.len() == 1000));
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(matches!(read(directory.path()), Err(FileError::NotRegular)));
        assert!(matches!(read(&directory.path().join("none")), Err(FileError::Unreadable(_))));
    }
}
