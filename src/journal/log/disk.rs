//! The disk as the log sees it: one flat directory. A seam, so that tests can cut its power.

use std::fmt::Debug;
use std::io;
use std::ops::Range;

use rustix::io::Errno;

use super::format::BLOCK_BYTES;

/// A directory that holds the log's files, and nothing else.
pub(crate) trait Disk: Debug + Send + Sync + 'static {
    /// An open file of it.
    type File: DiskFile;

    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes an empty file that can be read and written. There must be none of that name. Its name is durable after
    /// [`Disk::sync_directory`].
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file to read and, unless the disk was opened to read only, to write.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Renames a file, over another if there is one. Durable after [`Disk::sync_directory`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable after [`Disk::sync_directory`].
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes every name durable.
    fn sync_directory(&self) -> io::Result<()>;

    /// How much may still be written, in bytes.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// A file of a [`Disk`]. Handles of the same file see each other's writes.
pub(crate) trait DiskFile: Debug + Send + Sync + 'static {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Reads what is there at `offset`. Less than asked for is no error; nothing is the end.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at `offset`. Less than given is no error. What was written is durable after [`DiskFile::sync_data`].
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes everything written durable. Once this has failed, nothing that was written before may ever be believed, whatever a second
    /// call says.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes durable what an earlier run has written, and sees to it that what is read next is what the disk has: after a sync of that run
    /// has failed, the machine's memory may have what the disk has not.
    fn settle(&self) -> io::Result<()>;
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

/// What was read of a file.
#[derive(Debug, Default)]
pub(crate) struct FileRead {
    /// How much, in bytes, together with what the disk does not give.
    pub(crate) bytes: usize,
    /// Where the blocks begin that the disk does not give, in the file.
    unreadable: Vec<u64>,
    /// Why it does not, the last time.
    error: Option<io::Error>,
}

impl FileRead {
    /// Why the disk does not give something, if so.
    pub(crate) fn into_error(self) -> Option<io::Error> {
        self.error.filter(|_| !self.unreadable.is_empty())
    }

    /// Why the disk does not give all of these bytes of the file, if so.
    pub(crate) fn reason_within(&self, bytes: &Range<u64>) -> Option<String> {
        let overlaps = |block: &u64| *block < bytes.end && bytes.start < block + BLOCK_BYTES as u64;
        self.error.as_ref().filter(|_| self.unreadable.iter().any(overlaps)).map(ToString::to_string)
    }
}

/// What a disk says of what it holds and cannot read, and a filesystem of what it reads and cannot be right. Any other error may pass.
const OF_MEDIUM: [Errno; 5] = [Errno::IO, Errno::ILSEQ, Errno::BADMSG, Errno::UCLEAN, Errno::NODATA];

/// Whether an error says that bytes are lost.
fn is_of_medium(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| OF_MEDIUM.iter().any(|errno| errno.raw_os_error() == code))
}

/// How far to read where a disk does not give all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Everything that can be read.
    All,
    /// Up to the first block that cannot, and no further: a disk may take seconds for each.
    FirstBad,
}

/// Reads until `into` is full or the file ends. A block that the disk does not give is zeros in `into`, and is noted: one bad sector
/// shall not cost what is around it.
///
/// # Errors
///
/// The disk does not read now. It may later.
pub(crate) fn read_blocks(file: &impl DiskFile, into: &mut [u8], offset: u64, reach: Reach) -> io::Result<FileRead> {
    let mut reading = FileRead::default();
    while let Some(rest) = into.get_mut(reading.bytes..).filter(|rest| !rest.is_empty()) {
        let at = offset + reading.bytes as u64;
        let to_next_block = BLOCK_BYTES - usize::try_from(at % BLOCK_BYTES as u64).unwrap_or(0);
        // Once the disk has refused something, block by block: what can be read shall be, and only once.
        let piece = if reading.error.is_some() { to_next_block.min(rest.len()) } else { rest.len() };
        let Some(rest) = rest.get_mut(..piece) else { break };
        match file.read_at(rest, at) {
            Ok(0) => break,
            Ok(read) => reading.bytes += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if !is_of_medium(&error) => return Err(error),
            // Perhaps only of some of it.
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
