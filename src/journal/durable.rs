//! Opens the journal on disk, and assembles its parts.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::io::Errno;
use serde::Deserialize;

use crate::clock::Wait;
use crate::ledger::Ledger;
use crate::metrics::journal::JournalMetrics;

use super::Ack;
use super::Bounds;
use super::Journal;
use super::backlog::Backlog;
use super::commit::Committer;
use super::commit::SegmentKeeper;
use super::committed::Committed;
use super::log::OnCorruption;
use super::log::OpenError;
use super::log::Options;
use super::log::SEGMENTS_MIN;
use super::log::directory::Directory;
use super::log::directory::DirectoryError;
use super::log::disk::Disk;
use super::log::recovery;
use super::log::recovery::Opened;
use super::log::recovery::RecoveryReport;
use super::log::store::Store;
use super::queue::Queue;
use super::shares::Shares;
use super::stored::Stored;
use super::stored::StoredSetup;

/// The default quota is at most this.
const QUOTA_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// The process is not ready while there is no room for this many captures of the greatest length: other replicas should take the callbacks.
const NEARLY_FULL_CAPTURES: usize = 2;
/// A small journal stays ready while at least this fraction (one tenth) of the undelivered limit is free.
const NEARLY_FULL_PART: usize = 10;

/// The settings of the journal.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) dir: PathBuf,
    pub(crate) segment_bytes: u64,
    /// `None`: 4 GiB, or four fifths of the free space of the filesystem if that is less.
    pub(crate) quota_bytes: Option<u64>,
    pub(crate) free_bytes_min: u64,
    pub(crate) on_corruption: OnCorruption,
    /// Whether the directory survives a restart. `None`: detected from the filesystem.
    pub(crate) persistent: Option<bool>,
    /// The cost of the largest capture, derived from the largest body.
    #[serde(skip)]
    pub(crate) capture_bytes_max: usize,
    /// The process is not ready while a sync or a read takes longer than this. Derived from the deadline of a callback.
    #[serde(skip)]
    pub(crate) wait_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("/var/lib/callbridge"),
            segment_bytes: 16 * 1024 * 1024,
            quota_bytes: None,
            free_bytes_min: 16 * 1024 * 1024,
            on_corruption: OnCorruption::Refuse,
            persistent: None,
            capture_bytes_max: 512 * 1024,
            wait_max: Duration::from_secs(3),
        }
    }
}

/// A journal on disk. Its threads are not started yet.
#[derive(Debug)]
pub(crate) struct OnDisk {
    pub(crate) journal: Journal,
    pub(crate) backlog: Backlog,
    pub(crate) committer: Committer,
    pub(crate) keeper: SegmentKeeper,
    pub(crate) gauge: Gauge,
    pub(crate) found: RecoveryReport,
    /// What the directory is lost with, if it is not on a disk.
    pub(crate) is_gone_with: Option<&'static str>,
    /// The permission bits of its directory, if group or others have access.
    pub(crate) mode_for_others: Option<u32>,
}

/// Reports whether the journal can accept captures.
#[derive(Debug)]
pub(crate) struct Gauge {
    store: Store<Directory>,
    queue: Arc<Queue>,
    is_full: Arc<AtomicBool>,
    sync_wait: Arc<Wait>,
    read_wait: Arc<Wait>,
    wait_max: Duration,
    /// The journal is nearly full if fewer bytes than this may still be undelivered.
    nearly_full_bytes: usize,
}

/// Why the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The log cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Acknowledged captures are lost.
    #[error(
        "{0}. Run `callbridge journal verify` for details; to continue with what can be read, set journal.on_corruption to salvage"
    )]
    Damaged(String),
    /// There is less room than a journal needs at least.
    #[error("the journal needs {needed} bytes (four segments); {what} is {given}")]
    Small {
        /// Four segments.
        needed: u64,
        /// The available bytes.
        given: u64,
        /// What limits them.
        what: &'static str,
    },
    /// The files changed during every attempt to read them.
    #[error("the journal is in use, and its files changed during each attempt to read them; try again")]
    InMotion,
    /// The system provides no random numbers.
    #[error("get random numbers")]
    Entropy(#[source] io::Error),
    /// The directory does not exist, or holds something else.
    #[error("there is no journal in {}: {why}", dir.display())]
    Absent {
        /// The directory.
        dir: PathBuf,
        /// What was found instead.
        why: &'static str,
    },
    /// An earlier run has left captures that this process would never deliver.
    #[error(
        "{count} captures wait in {} for Kafka, and only `ack = \"journal\"` delivers them: deliver them with `callbridge journal \
         drain`, start once with `--ack journal` until none waits, or set journal.dir to another directory to leave them where they \
         are{damage}",
        dir.display()
    )]
    Waiting {
        /// The number of captures, readable or not.
        count: u64,
        /// The directory.
        dir: PathBuf,
        /// The parts that cannot be read.
        damage: String,
    },
}

impl JournalError {
    /// Whether the disk failed.
    pub(crate) fn is_of_disk(&self) -> bool {
        matches!(self, Self::Directory(DirectoryError::Io { .. }) | Self::Open(OpenError::Io { .. }))
            && !self.is_of_configuration()
    }

    /// Whether a restart is useless until somebody has changed something.
    pub(crate) fn is_of_configuration(&self) -> bool {
        match self {
            Self::Directory(DirectoryError::Network { .. })
            | Self::Small { .. }
            | Self::Absent { .. }
            | Self::Waiting { .. }
            | Self::Damaged(_)
            | Self::Open(OpenError::Damaged(_) | OpenError::Version { .. }) => true,
            Self::Directory(DirectoryError::Io { source, .. }) | Self::Open(OpenError::Io { source, .. }) => {
                names_the_wrong_place(source)
            }
            Self::Directory(DirectoryError::Taken(_)) | Self::InMotion | Self::Entropy(_) => false,
        }
    }
}

/// Whether an error says that the configured path is not suitable for a journal. Any other error may be temporary: a failing or full disk,
/// or the limit of open files. Also `NotFound`, since missing directories are made: a filesystem without `mkdir` reports it.
fn names_the_wrong_place(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    let is_of_place = matches!(
        error.kind(),
        Kind::PermissionDenied
            | Kind::AlreadyExists
            | Kind::NotADirectory
            | Kind::ReadOnlyFilesystem
            | Kind::InvalidFilename
            | Kind::InvalidInput
            | Kind::Unsupported
    );
    // Symbolic links in a circle: this error has no stable kind.
    is_of_place || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// Opens the journal on disk, and counts what it holds. It accepts nothing before its threads run.
///
/// # Errors
///
/// See [`JournalError`].
pub(crate) fn open(
    settings: &Settings,
    bounds: Bounds,
    ledger: &Ledger,
    shares: Shares,
    metrics: &JournalMetrics,
) -> Result<OnDisk, JournalError> {
    let directory = Directory::open(&settings.dir)?;
    let is_gone_with = directory.is_gone_with();
    let mode_for_others = directory.mode_for_others();
    let options = options(settings, &directory)?;
    let undelivered_bytes_max = usize::try_from(options.undelivered_bytes_max()).unwrap_or(usize::MAX);
    let mut seed = [0; 8];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| JournalError::Entropy(error.into()))?;
    let opened = recovery::open(directory, options, entropy(u64::from_le_bytes(seed)));
    let Opened { store, writer, maintainer, found } = opened.map_err(|error| match error {
        OpenError::Damaged(_) => JournalError::Damaged(error.to_string()),
        OpenError::Io { .. } | OpenError::Version { .. } => JournalError::Open(error),
    })?;
    ledger.recover(found.counted);
    metrics.damaged.inc_by(found.damage.iter().map(|damage| damage.captures).sum());
    let (apps, shares) = (shares.apps(), Arc::new(shares));
    let queue =
        Arc::new(Queue::new(Ack::Journal, &bounds, Some(undelivered_bytes_max), shares.topics(), ledger.clone()));
    for (key, bytes) in &found.live {
        queue.recovered(shares.of_kind_key(*key), usize::try_from(*bytes).unwrap_or(usize::MAX));
    }
    let committed = Arc::new(Committed::new(store.durable_to()));
    let is_full = Arc::new(AtomicBool::new(false));
    let sync_wait = Arc::new(Wait::default());
    let stored = Stored::new(StoredSetup {
        committed: Arc::clone(&committed),
        store: store.clone(),
        queue: Arc::clone(&queue),
        shares: Arc::clone(&shares),
        apps: Arc::clone(&apps),
        metrics: metrics.clone(),
    });
    let read_wait = stored.read_wait();
    Ok(OnDisk {
        journal: Journal { queue: Arc::clone(&queue), is_full: Arc::clone(&is_full), shares: Arc::clone(&shares) },
        backlog: Backlog::on_disk(stored, ledger.clone()),
        committer: Committer {
            queue: Arc::clone(&queue),
            writer,
            store: store.clone(),
            committed,
            apps: Arc::clone(&apps),
            ledger: ledger.clone(),
            metrics: metrics.clone(),
            is_full: Arc::clone(&is_full),
            sync_wait: Arc::clone(&sync_wait),
        },
        keeper: SegmentKeeper {
            maintainer,
            store: store.clone(),
            queue: Arc::clone(&queue),
            shares,
            metrics: metrics.clone(),
        },
        gauge: Gauge {
            store,
            queue,
            is_full,
            sync_wait,
            read_wait,
            wait_max: settings.wait_max,
            nearly_full_bytes: NEARLY_FULL_CAPTURES * settings.capture_bytes_max,
        },
        found,
        is_gone_with,
        mode_for_others,
    })
}

pub(super) fn options(settings: &Settings, directory: &Directory) -> Result<Options, JournalError> {
    let segment_bytes = settings.segment_bytes;
    let needed = SEGMENTS_MIN * segment_bytes;
    let quota_bytes = match settings.quota_bytes {
        Some(given) if given < needed => {
            return Err(JournalError::Small { needed, given, what: "its quota" });
        }
        Some(given) => given,
        None => {
            let failed = |source| OpenError::Io { what: "ask for free space".to_owned(), source };
            let used = used_bytes(directory).map_err(failed)?;
            // Its own files count as free: otherwise the quota would shrink with every start.
            let own = directory.free_bytes().map_err(failed)? + used;
            let all = directory.filesystem_bytes().map_err(failed)?;
            if all < needed {
                return Err(JournalError::Small { needed, given: all, what: "the size of its filesystem" });
            }
            if own < needed {
                // It is not ready then, and room may become free later.
                tracing::warn!(
                    free_bytes = own,
                    quota_bytes = needed,
                    "the filesystem is nearly full: the journal runs with the smallest quota until the next start"
                );
            }
            (own / 5 * 4).clamp(needed, QUOTA_BYTES_MAX.max(needed))
        }
    };
    Ok(Options {
        segment_bytes,
        quota_bytes,
        free_bytes_min: settings.free_bytes_min,
        on_corruption: settings.on_corruption,
        #[cfg(any(test, feature = "mutants"))]
        mutant: super::log::mutant::Mutant::of_environment(),
    })
}

pub(super) fn used_bytes(directory: &Directory) -> io::Result<u64> {
    use super::log::disk::DiskFile;
    let mut bytes = 0;
    for name in directory.list()?.iter().filter(|name| name.ends_with(".seg") || name.ends_with(".spare")) {
        bytes += directory.open(name)?.len()?;
    }
    Ok(bytes)
}

/// Random numbers that cannot be guessed without the seed (splitmix64).
fn entropy(seed: u64) -> Box<dyn FnMut() -> u64 + Send> {
    let mut state = seed;
    Box::new(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

impl Gauge {
    /// The most bytes that all its files may take. Files from before the quota was lowered remain until they are delivered.
    pub(crate) fn bytes_max(&self) -> u64 {
        let fill = self.store.fill();
        fill.quota_bytes.max(fill.files_bytes)
    }

    /// Whether it can accept captures; if not, why.
    pub(crate) fn can_take(&self) -> Result<(), String> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err("the journal is full".to_owned());
        }
        if let Some(trouble) = self.store.trouble() {
            return Err(trouble.to_owned());
        }
        // A stuck topic leaves room to the others, and is no reason to send those to other replicas, until next to nothing is free.
        let (undelivered, free) = self.queue.look_at_log(|room| (room.taken(), room.free())).unwrap_or_default();
        if free < self.nearly_full_bytes.min((undelivered + free) / NEARLY_FULL_PART) {
            return Err(format!(
                "the journal is nearly full: {undelivered} bytes are undelivered, and {free} are free"
            ));
        }
        for (done, wait) in [("synced", &self.sync_wait), ("read", &self.read_wait)] {
            let age = wait.age();
            if age > self.wait_max {
                return Err(format!("the disk has not {done} for {} s", age.as_secs()));
            }
        }
        Ok(())
    }

    /// The number of undelivered captures.
    pub(crate) fn undelivered(&self) -> u64 {
        self.store.fill().undelivered
    }

    /// How long the publisher has been waiting for a read from disk.
    pub(crate) fn read_age(&self) -> Duration {
        self.read_wait.age()
    }
}

#[cfg(test)]
mod tests;
