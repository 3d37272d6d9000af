//! The filesystem as the log uses it: one flat directory. A trait, so that tests can simulate power failures.

use std::fmt::Debug;
use std::io;
use std::ops::Range;

use rustix::io::Errno;

use super::format::BLOCK_BYTES;

/// The directory that holds the log's files.
pub(crate) trait Disk: Debug + Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;

    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Creates an empty file for reading and writing. No file of that name may exist. The name is durable after [`Disk::sync_directory`].
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file for reading and, unless the disk was opened read-only, for writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Renames a file, and replaces an existing one. Durable after [`Disk::sync_directory`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable after [`Disk::sync_directory`].
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all names durable.
    fn sync_directory(&self) -> io::Result<()>;

    /// The free space, in bytes.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// A file of a [`Disk`]. All handles of a file see the same contents.
pub(crate) trait DiskFile: Debug + Send + Sync + 'static {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Reads at `offset`. It may read less than requested; 0 means the end of the file.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at `offset`. It may write less than requested. Durable after [`DiskFile::sync_data`].
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes everything written durable. If this fails, earlier writes must never be trusted, even if a later call succeeds.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes the writes of an earlier process durable, and makes the next reads return what is on the disk: after a failed sync of that
    /// process, the page cache may have contents that the disk has not.
    fn sync_and_drop_cache(&self) -> io::Result<()>;
}

/// Writes all of `bytes`.
pub(crate) fn write_all(file: &impl DiskFile, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The result of a read.
#[derive(Debug, Default)]
pub(crate) struct FileRead {
    /// The bytes of the buffer that are filled, including unreadable blocks.
    pub(crate) bytes: usize,
    /// The offsets in the file of the blocks that the disk cannot read.
    unreadable: Vec<u64>,
    /// The last error.
    error: Option<io::Error>,
}

impl FileRead {
    /// The error, if a block could not be read.
    pub(crate) fn into_error(self) -> Option<io::Error> {
        self.error.filter(|_| !self.unreadable.is_empty())
    }

    /// The error, if a block in this range of the file could not be read.
    pub(crate) fn reason_within(&self, bytes: &Range<u64>) -> Option<String> {
        let overlaps = |block: &u64| *block < bytes.end && bytes.start < block + BLOCK_BYTES as u64;
        self.error.as_ref().filter(|_| self.unreadable.iter().any(overlaps)).map(ToString::to_string)
    }
}

/// Errors by which a disk or a filesystem reports that stored bytes are lost or wrong. Any other error may be temporary.
const OF_MEDIUM: [Errno; 5] = [Errno::IO, Errno::ILSEQ, Errno::BADMSG, Errno::UCLEAN, Errno::NODATA];

/// Whether the error means that bytes are lost.
fn is_of_medium(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| OF_MEDIUM.iter().any(|errno| errno.raw_os_error() == code))
}

/// How far to read if a block cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// To the end.
    All,
    /// Up to the first unreadable block: a disk may take seconds for each.
    FirstBad,
}

/// Reads until `into` is full or the file ends. A block that the disk cannot read becomes zeros in `into` and is recorded: one bad sector
/// must not cost its neighbours.
///
/// # Errors
///
/// The disk cannot read now, but may later.
pub(crate) fn read_blocks(file: &impl DiskFile, into: &mut [u8], offset: u64, reach: Reach) -> io::Result<FileRead> {
    let mut reading = FileRead::default();
    while let Some(rest) = into.get_mut(reading.bytes..).filter(|rest| !rest.is_empty()) {
        let at = offset + reading.bytes as u64;
        let to_next_block = BLOCK_BYTES - usize::try_from(at % BLOCK_BYTES as u64).unwrap_or(0);
        // After an error it reads block by block, so that every readable block is read, and only once.
        let piece = if reading.error.is_some() { to_next_block.min(rest.len()) } else { rest.len() };
        let Some(rest) = rest.get_mut(..piece) else { break };
        match file.read_at(rest, at) {
            Ok(0) => break,
            Ok(read) => reading.bytes += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if !is_of_medium(&error) => return Err(error),
            // Perhaps only a part of the range is unreadable.
            Err(error) if reading.error.is_none() => reading.error = Some(error),
            Err(error) => {
                rest.fill(0);
                reading.bytes += rest.len();
                reading.unreadable.push(at - at % BLOCK_BYTES as u64);
                reading.error = Some(error);
                if reach == Reach::FirstBad {
                    break;
                }
            }
        }
    }
    Ok(reading)
}
