//! The committer thread: takes the waiting captures, writes them as one frame, syncs it, and acknowledges them (group commit). During a
//! sync the next captures gather in the queue; under high load it waits a little longer for them.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::auth::Apps;
use crate::clock;
use crate::clock::Wait;
use crate::ledger::Ledger;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::Phase;
use crate::metrics::journal::JournalMetrics;
use crate::refusal::Refusal;

use super::codec;
use super::committed::Committed;
use super::entry::Entry;
use super::entry::LedgerState;
use super::log::AppendError;
use super::log::directory::Directory;
use super::log::format::FrameBuilder;
use super::log::maintenance::Maintainer;
use super::log::maintenance::Maintenance;
use super::log::maintenance::MaintenanceError;
use super::log::store::Store;
use super::log::writer::AppendedFrame;
use super::log::writer::SegmentWriter;
use super::queue::Queue;
use super::room::Held;
use super::shares::Shares;

/// The most entries taken at a time.
const TAKE_MAX: usize = 4096;
/// The approximate size of a frame, in bytes, after which it is written even if more captures wait.
pub(super) const FRAME_BYTES: usize = 1 << 20;
/// After a frame of this many captures the committer sleeps for [`GATHER`]: with so many active senders the CPU is the bottleneck, and
/// larger frames cost less of it. With fewer senders the sleep would only add latency.
const BUSY_CAPTURES: usize = 24;
const GATHER: Duration = Duration::from_micros(500);
/// The period of recording what was delivered.
const RECORD_EVERY: Duration = Duration::from_secs(1);
/// How long a wait for room may last before it checks whether the process stops.
const ROOM_WAIT: Duration = Duration::from_millis(100);
/// The pause between attempts while there is no room.
const ROOM_PAUSE: Duration = Duration::from_millis(10);
/// The period of maintenance without a wake-up.
const MAINTAIN_EVERY: Duration = Duration::from_millis(500);
/// The pause between two steps of a compaction that is not urgent, as a multiple of the step's duration: callbacks need the disk more.
const PAUSE_PER_STEP: u32 = 3;
/// The label for undelivered captures of applications that are not configured.
const NO_TOPIC: &str = "other";
/// The shortest time between two log lines of the same error.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// The disk can no longer be trusted. The process must end.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Failed {
    what: &'static str,
    source: io::Error,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Committer {
    pub(super) queue: Arc<Queue>,
    pub(super) writer: SegmentWriter<Directory>,
    pub(super) store: Store<Directory>,
    pub(super) committed: Arc<Committed>,
    pub(super) apps: Arc<Apps>,
    pub(super) ledger: Ledger,
    pub(super) metrics: JournalMetrics,
    /// Nothing can be written because the disk is full.
    pub(super) is_full: Arc<AtomicBool>,
    /// Measures writes and syncs, including the wait for room and for a file.
    pub(super) sync_wait: Arc<Wait>,
}

/// The captures that the committer has taken from the queue, and the frame that it builds from them.
struct CommitBuffer {
    entries: VecDeque<Entry>,
    builder: FrameBuilder,
    record_at: Instant,
}

impl Committer {
    /// Commits captures until the journal is closed and the process is in [`Phase::Recording`]; then records what was delivered by then.
    ///
    /// # Errors
    ///
    /// The disk has failed. The waiting captures were not acknowledged.
    pub(crate) fn run(mut self, lifecycle: &Lifecycle) -> Result<(), Failed> {
        self.queue.set_taker(thread::current());
        let mut buffer = CommitBuffer {
            entries: VecDeque::new(),
            builder: FrameBuilder::new(),
            record_at: clock::monotonic() + RECORD_EVERY,
        };
        let committed = self.commit_all(&mut buffer, lifecycle);
        if let Err(failed) = committed {
            self.queue.close();
            self.queue.take(usize::MAX, &mut buffer.entries);
            self.lose(&mut buffer.entries, &Refusal::JournalFailed);
            return Err(failed);
        }
        self.committed.close();
        while !lifecycle.wait(Phase::Recording, buffer.record_at.saturating_duration_since(clock::monotonic())) {
            self.record_delivered(&mut buffer.record_at)?;
        }
        match self.writer.close() {
            Err(AppendError::Failed { what, source }) => Err(Failed { what, source }),
            // Deliveries that are not recorded are repeated after a restart.
            Ok(()) | Err(AppendError::Full | AppendError::NoSpace(_)) => Ok(()),
        }
    }

    fn commit_all(&mut self, buffer: &mut CommitBuffer, lifecycle: &Lifecycle) -> Result<(), Failed> {
        let sync_wait = Arc::clone(&self.sync_wait);
        loop {
            if buffer.entries.is_empty() {
                self.queue.take(TAKE_MAX, &mut buffer.entries);
            }
            if !buffer.entries.is_empty() {
                let captures = sync_wait.during(|| self.commit(buffer, lifecycle))?;
                if captures >= BUSY_CAPTURES && buffer.entries.is_empty() {
                    thread::sleep(GATHER);
                }
            } else if self.queue.is_at_end() {
                return Ok(());
            } else if clock::monotonic() >= buffer.record_at {
                sync_wait.during(|| self.record_delivered(&mut buffer.record_at))?;
            } else {
                thread::park_timeout(RECORD_EVERY);
            }
        }
    }

    /// Writes the captures in `buffer` as one frame. Returns their number.
    fn commit(&mut self, buffer: &mut CommitBuffer, lifecycle: &Lifecycle) -> Result<usize, Failed> {
        let count = self.fill(buffer);
        let began = clock::monotonic();
        let with_delivered = began >= buffer.record_at;
        if with_delivered {
            buffer.record_at = began + RECORD_EVERY;
        }
        let mut log_at = began;
        let appended = loop {
            let problem = match self.writer.append(&mut buffer.builder, with_delivered) {
                Ok(appended) => break appended,
                Err(AppendError::Failed { what, source }) => return Err(Failed { what, source }),
                // The keeper is making a spare.
                Err(AppendError::Full) if !self.store.fill().is_full => None,
                Err(AppendError::Full) => Some(("the quota is reached or the filesystem is full", None)),
                Err(AppendError::NoSpace(error)) => Some(("the filesystem is full", Some(error))),
            };
            if let Some((what, error)) = problem {
                self.is_full.store(true, Ordering::Relaxed);
                if clock::monotonic() >= log_at {
                    let error = error.as_ref().map(tracing::field::display);
                    tracing::error!(what, error, "the journal is full");
                    log_at = clock::monotonic() + LOG_PERIOD;
                }
                // After `NoSpace` there is a spare, so `wait_for_spare` returns at once: do not spin.
                thread::sleep(ROOM_PAUSE);
            }
            if clock::monotonic() >= buffer.record_at {
                // This frame is smaller, so it may fit, and then free more room.
                self.record_delivered(&mut buffer.record_at)?;
            }
            self.store.wait_for_spare(ROOM_WAIT);
            if lifecycle.phase() >= Phase::Recording {
                buffer.builder.clear();
                self.lose(&mut buffer.entries, &Refusal::JournalFull);
                return Ok(0);
            }
        };
        if self.is_full.swap(false, Ordering::Relaxed) {
            tracing::info!("the journal has room again");
        }
        if appended.is_behind {
            // The next frame records the rest.
            buffer.record_at = began;
        }
        self.metrics.committed(clock::monotonic().duration_since(began), count);
        self.acknowledge(buffer, appended, count);
        Ok(count)
    }

    /// Fills the frame from the entries in `buffer`. Returns the number of captures.
    fn fill(&self, buffer: &mut CommitBuffer) -> usize {
        let bytes_max = FRAME_BYTES.min(self.writer.frame_bytes_max());
        buffer.builder.clear();
        let mut count = 0;
        for entry in &mut buffer.entries {
            // The cost is an upper bound of the bytes in the frame.
            if count > 0 && buffer.builder.bytes() + entry.cost_bytes > bytes_max {
                break;
            }
            let is_counted = entry.ledger_state == LedgerState::Counted && !entry.has_timed_out();
            entry.stored_bytes = buffer
                .builder
                .push(is_counted, entry.kind_key, |bytes| codec::encode(&entry.capture, &self.apps, bytes));
            count += 1;
        }
        count
    }

    fn acknowledge(&self, buffer: &mut CommitBuffer, appended: AppendedFrame, count: usize) {
        let (mut stored, mut late) = (0, Vec::new());
        for (seq, entry) in (appended.first_seq..).zip(buffer.entries.iter_mut().take(count)) {
            let is_in_time = entry.acknowledge();
            if !is_in_time {
                late.push(seq);
            }
            stored += u64::from(entry.ledger_state == LedgerState::Counted && is_in_time);
        }
        // Before they can be read: they must not be delivered before they are counted as stored.
        self.ledger.store(stored);
        let bytes_of = |entry: &Entry| usize::try_from(entry.stored_bytes).unwrap_or(usize::MAX);
        self.queue.stored(
            buffer.entries.iter().take(count).map(|entry| (entry.share_topic, entry.cost_bytes, bytes_of(entry))),
        );
        buffer.entries.drain(..count);
        self.committed.advance(appended.first_seq + count as u64, late);
    }

    /// Writes a frame that records what was delivered, if anything was. If not all of it fits, the rest is due at once, but after the
    /// captures in the queue.
    fn record_delivered(&mut self, record_at: &mut Instant) -> Result<(), Failed> {
        *record_at = clock::monotonic() + RECORD_EVERY;
        if !self.store.has_unsaved() {
            return Ok(());
        }
        match self.writer.append(&mut FrameBuilder::new(), true) {
            Err(AppendError::Failed { what, source }) => Err(Failed { what, source }),
            Ok(appended) => {
                if appended.is_behind {
                    *record_at = clock::monotonic();
                }
                Ok(())
            }
            // It is delivered again after a restart.
            Err(AppendError::Full | AppendError::NoSpace(_)) => Ok(()),
        }
    }

    /// Ends entries that will not become durable.
    fn lose(&self, entries: &mut VecDeque<Entry>, refusal: &Refusal) {
        let mut freed = Vec::with_capacity(entries.len());
        for entry in entries.drain(..) {
            freed.push((entry.share_topic, Held::queued(entry.cost_bytes)));
            entry.lose(refusal.clone(), &self.ledger);
        }
        self.queue.free(freed);
    }
}

/// The keeper, on the thread `journal-files`: makes spare segments in advance, recycles delivered segments, and updates the metrics.
#[derive(Debug)]
pub(crate) struct SegmentKeeper {
    pub(super) maintainer: Maintainer<Directory>,
    pub(super) store: Store<Directory>,
    pub(super) queue: Arc<Queue>,
    pub(super) shares: Arc<Shares>,
    pub(super) metrics: JournalMetrics,
}

impl SegmentKeeper {
    /// Maintains the files until the process is in [`Phase::Recording`].
    ///
    /// # Errors
    ///
    /// The disk has failed.
    pub(crate) fn run(mut self, lifecycle: &Lifecycle) -> Result<(), Failed> {
        let (mut log_at, mut tell_at) = (clock::monotonic(), clock::monotonic());
        let mut told = None;
        loop {
            let began = clock::monotonic();
            let maintained = match self.maintainer.maintain() {
                Ok(maintained) => maintained,
                Err(MaintenanceError::Failed(source)) => {
                    return Err(Failed { what: "sync the journal's directory", source });
                }
                Err(MaintenanceError::Retry(what, error)) => {
                    if clock::monotonic() >= log_at {
                        tracing::error!(what, %error, "maintenance of the journal's segments failed; it is retried");
                        log_at = clock::monotonic() + LOG_PERIOD;
                    }
                    Maintenance::Done
                }
            };
            self.store.look_for_files();
            let trouble = self.store.trouble();
            // At the quota each compaction may end it for a moment.
            if trouble != told && clock::monotonic() >= tell_at {
                match trouble {
                    Some(trouble) => tracing::error!(trouble, "the journal is not ready"),
                    None => tracing::info!("the files of the journal are in order again"),
                }
                (told, tell_at) = (trouble, clock::monotonic() + LOG_PERIOD);
            }
            self.metrics.show(&self.store.fill());
            self.show_undelivered();
            if lifecycle.phase() >= Phase::Recording {
                return Ok(());
            }
            match maintained {
                Maintenance::Done => self.store.wait_for_maintenance(MAINTAIN_EVERY),
                // Or until a spare is needed.
                Maintenance::More => {
                    self.store.wait_for_maintenance(PAUSE_PER_STEP * clock::monotonic().duration_since(began));
                }
                Maintenance::Hurry => {}
            }
        }
    }

    fn show_undelivered(&self) {
        let held = self.queue.look_at_log(|room| {
            let of_topics: Vec<(&str, usize)> = self.shares.by_name(|topic| room.taken_by(topic)).collect();
            (room.taken(), of_topics)
        });
        let Some((taken, of_topics)) = held else { return };
        let of_none = taken - of_topics.iter().map(|(_, bytes)| bytes).sum::<usize>();
        self.metrics.show_undelivered(of_topics.into_iter().chain([(NO_TOPIC, of_none)]));
    }
}
