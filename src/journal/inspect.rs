//! Inspects a journal on disk without changing it, even while a process writes to it.

use std::fs;
use std::io;
use std::path::Path;

use super::durable;
use super::durable::JournalError;
use super::durable::Settings;
use super::log::Damage;
use super::log::OpenError;
use super::log::Seq;
use super::log::directory::Directory;
use super::log::directory::DirectoryError;
use super::log::directory::Filesystem;
use super::log::disk;
use super::log::disk::Disk;
use super::log::disk::Reach;
use super::log::format::BLOCK_BYTES;
use super::log::format::Frame;
use super::log::recovery;
use super::log::recovery::Purpose;
use super::log::recovery::Survey;

/// The number of times that a journal in use is read before apparent damage is reported.
const READS_MAX: usize = 5;

/// The contents of a journal.
#[derive(Debug)]
pub(crate) struct Inspection {
    /// A process has locked it.
    pub(crate) is_in_use: bool,
    /// The segments in order.
    pub(crate) segments: Vec<SegmentSummary>,
    /// The number of spare files.
    pub(crate) spares: usize,
    /// Damaged segments that were set aside.
    pub(crate) set_aside: Vec<String>,
}

/// A segment.
#[derive(Debug)]
pub(crate) struct SegmentSummary {
    pub(crate) name: String,
    pub(crate) file_bytes: u64,
    pub(crate) used_bytes: u64,
    /// The sequence number of its first capture.
    pub(crate) first_seq: Seq,
    pub(crate) captures: u64,
    pub(crate) undelivered: u64,
    pub(crate) is_sealed: bool,
    /// The offset of an incomplete frame; in the newest segment of a journal in use, of the frame that is being written.
    pub(crate) torn_at: Option<u64>,
    pub(crate) damage: Vec<Damage>,
}

/// A capture on disk.
#[derive(Debug)]
pub(crate) struct InspectedCapture<'b> {
    pub(crate) seq: Seq,
    pub(crate) is_delivered: bool,
    /// In the encoding of [`super::codec`].
    pub(crate) bytes: &'b [u8],
}

/// Reads the journal in `dir`.
///
/// # Errors
///
/// It cannot be read.
pub(crate) fn inspect(dir: &Path) -> Result<Inspection, JournalError> {
    let (survey, is_in_use) = look(dir)?;
    let segments = survey.segments.into_iter().map(|(scan, _, delivered)| {
        let missing = scan.missing_captures();
        SegmentSummary {
            undelivered: (scan.captures() - delivered.count()).saturating_sub(missing),
            captures: scan.captures() - missing,
            name: scan.name,
            file_bytes: scan.file_bytes,
            used_bytes: scan.used_bytes,
            first_seq: scan.first_seq,
            is_sealed: scan.is_sealed,
            torn_at: scan.torn_at,
            damage: scan.damage,
        }
    });
    let segments = segments.collect();
    Ok(Inspection { is_in_use, segments, spares: survey.spares.len(), set_aside: survey.damaged })
}

/// Who delivers the undelivered captures in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// There are none.
    Nobody,
    /// Another running process, which delivers them.
    Other,
}

/// Refuses to leave captures in `dir` behind, for a process that has no journal on disk. Changes nothing, and does not create `dir`.
///
/// # Errors
///
/// There are undelivered captures, or the directory cannot be read.
pub(crate) fn refuse_waiting(dir: &Path) -> Result<Owner, JournalError> {
    let is_none = match fs::metadata(dir) {
        Ok(metadata) => !metadata.is_dir(),
        Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    };
    if is_none {
        return Ok(Owner::Nobody);
    }
    if Directory::open_to_read(dir)?.is_in_use() {
        return Ok(Owner::Other);
    }
    let left = left(dir)?;
    if left.is_nothing() {
        return Ok(Owner::Nobody);
    }
    let damage = left.damage.iter().map(|damage| format!("; {damage}")).collect();
    Err(JournalError::Waiting { count: left.captures, dir: dir.to_owned(), damage })
}

/// The directory of a journal, as a start would find it.
#[derive(Debug)]
pub(crate) struct JournalDirectory {
    pub(crate) filesystem: Filesystem,
    /// The permission bits of the directory, if they let group or others in.
    pub(crate) mode_for_others: Option<u32>,
    /// A process has locked it.
    pub(crate) is_in_use: bool,
    pub(crate) quota_bytes: u64,
    /// The bytes of the journal's files.
    pub(crate) used_bytes: u64,
    pub(crate) free_bytes: u64,
}

/// Examines a directory as a start with `settings` does, without changing it.
///
/// # Errors
///
/// It is not a directory, or has no room for a journal.
pub(crate) fn place(settings: &Settings, dir: &Path) -> Result<JournalDirectory, JournalError> {
    let directory = Directory::open_to_read(dir)?;
    let failed = |source| JournalError::Open(OpenError::Io { what: format!("look at {}", dir.display()), source });
    Ok(JournalDirectory {
        filesystem: directory.filesystem()?,
        mode_for_others: directory.mode_for_others(),
        is_in_use: directory.is_in_use(),
        quota_bytes: durable::options(settings, &directory)?.quota_bytes,
        used_bytes: durable::used_bytes(&directory).map_err(failed)?,
        free_bytes: directory.free_bytes().map_err(failed)?,
    })
}

/// The undelivered captures of a journal, as the next start would find them.
#[derive(Debug)]
pub(crate) struct Left {
    /// Including unreadable captures, as far as their number is known.
    pub(crate) captures: u64,
    pub(crate) damage: Vec<Damage>,
    /// Damaged segments that were set aside before.
    pub(crate) set_aside: Vec<String>,
}

impl Left {
    /// Whether there is nothing to deliver, and no damage with an unknown number of captures.
    pub(crate) fn is_nothing(&self) -> bool {
        self.captures == 0 && self.damage.iter().all(|damage| damage.to.is_some())
    }
}

/// The undelivered captures of the journal in `dir`.
///
/// # Errors
///
/// It cannot be read.
pub(crate) fn left(dir: &Path) -> Result<Left, JournalError> {
    let found = inspect(dir)?;
    let undelivered: u64 = found.segments.iter().map(|segment| segment.undelivered).sum();
    let damage: Vec<Damage> = found.segments.into_iter().flat_map(|segment| segment.damage).collect();
    let captures = undelivered + damage.iter().map(|damage| damage.captures).sum::<u64>();
    Ok(Left { captures, damage, set_aside: found.set_aside })
}

/// Whether there is a log in `dir`; an empty directory has none.
///
/// # Errors
///
/// The directory does not exist, or holds something else: probably the path is wrong.
pub(crate) fn holds_log(dir: &Path) -> Result<bool, JournalError> {
    let absent = |why| JournalError::Absent { dir: dir.to_owned(), why };
    let failed = |source| JournalError::Open(OpenError::Io { what: format!("list {}", dir.display()), source });
    let directory = match Directory::open_to_read(dir) {
        Err(DirectoryError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(absent("the directory does not exist"));
        }
        opened => opened?,
    };
    let names = directory.list().map_err(failed)?;
    // Of a start that is making its first file there is only that.
    if names.iter().any(|name| [".seg", ".spare", ".spare.tmp"].iter().any(|end| name.ends_with(end))) {
        return Ok(true);
    }
    if names.is_empty() { Ok(false) } else { Err(absent("the directory holds other files")) }
}

/// Passes every capture of the journal in `dir` to `visit`, in order, until it returns an error.
///
/// # Errors
///
/// The journal cannot be read, or `visit` returned an error.
pub(crate) fn each_capture<E: From<JournalError>>(
    dir: &Path,
    mut visit: impl FnMut(&InspectedCapture<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let (survey, _) = look(dir)?;
    let mut buffer = Vec::new();
    for (scan, file, delivered) in &survey.segments {
        buffer.resize(usize::try_from(scan.used_bytes).unwrap_or(usize::MAX), 0);
        let reading = disk::read_blocks(file, &mut buffer, 0, Reach::All);
        let failed = |source| JournalError::Open(OpenError::Io { what: format!("read {}", scan.name), source });
        buffer.truncate(reading.map_err(failed)?.bytes);
        let mut at = BLOCK_BYTES;
        while let Some(rest) = buffer.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(frame) = Frame::decode(rest, at as u64, scan.nonce) else {
                at += BLOCK_BYTES;
                continue;
            };
            for captured in frame.captures() {
                // Captures outside its range belong to another segment.
                if let Some(ordinal) = scan.numbers.ordinal(captured.seq) {
                    let is_delivered = delivered.has(ordinal);
                    visit(&InspectedCapture { seq: captured.seq, is_delivered, bytes: captured.bytes })?;
                }
            }
            at += usize::try_from(frame.header.padded_bytes()).unwrap_or(usize::MAX);
        }
    }
    Ok(())
}

/// Reads all files. A file that is being written can look damaged, and be valid at the next read; and captures that were moved between
/// files by a compaction may be missed. So it reads again until neither is the case.
fn look(dir: &Path) -> Result<(Survey<<Directory as Disk>::File>, bool), JournalError> {
    let directory = Directory::open_to_read(dir)?;
    for _ in 0..READS_MAX {
        let is_in_use = directory.is_in_use();
        let survey = match recovery::survey(&directory, Purpose::Inspect) {
            // The file was listed, and has been renamed since.
            Err(OpenError::Io { source, .. }) if is_in_use && source.kind() == io::ErrorKind::NotFound => continue,
            survey => survey?,
        };
        let is_whole = survey.segments.iter().all(|(scan, ..)| scan.damage.is_empty());
        if !is_in_use || is_whole && survey.is_still_so(&directory)? {
            return Ok((survey, is_in_use));
        }
    }
    let survey = recovery::survey(&directory, Purpose::Inspect)?;
    if survey.is_still_so(&directory)? {
        return Ok((survey, true));
    }
    Err(JournalError::InMotion)
}
