//! The disk as the log sees it: one flat directory. A seam, so that tests can cut its power.

use std::fmt::Debug;
use std::io;

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

/// Reads until `into` is full or the file ends. Returns how much was read.
pub(crate) fn read_full(file: &impl DiskFile, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
