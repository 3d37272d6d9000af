//! The backlog of the journal on disk: the publisher's view of the log.

use std::ops::Range;
use std::sync::Arc;
use std::thread::Thread;
use std::time::Duration;
use std::time::Instant;

use crate::auth::Apps;
use crate::clock;
use crate::clock::Wait;
use crate::metrics::journal::JournalMetrics;
use crate::record::Topic;

use super::codec;
use super::codec::DecodeError;
use super::committed::Committed;
use super::entry::LedgerState;
use super::entry::Position;
use super::entry::Share;
use super::entry::Ticket;
use super::entry::Undelivered;
use super::log::Seq;
use super::log::cursor::Cursor;
use super::log::cursor::FramePosition;
use super::log::cursor::ReadError;
use super::log::directory::Directory;
use super::log::format::Captured;
use super::log::format::Frame;
use super::log::store::Delivery;
use super::log::store::Store;
use super::queue::Queue;
use super::room::Held;
use super::shares::Shares;

/// The most bytes read from disk at a time, however few of them are undelivered: the publisher has other work too.
pub(crate) const TAKE_BYTES: u64 = 16 << 20;
/// The shortest time between two log lines of the same error.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Stored {
    committed: Arc<Committed>,
    store: Store<Directory>,
    cursor: Cursor,
    /// The sequence number behind the last capture that was read.
    next_seq: Seq,
    /// Reads captures again.
    reread: Cursor,
    decoder: Decoder,
    read_wait: Arc<Wait>,
}

/// Decodes captures on disk.
#[derive(Debug)]
struct Decoder {
    store: Store<Directory>,
    queue: Arc<Queue>,
    shares: Arc<Shares>,
    apps: Arc<Apps>,
    metrics: JournalMetrics,
    log_at: Instant,
}

/// What the backlog needs.
#[derive(Debug)]
pub(super) struct StoredSetup {
    pub(super) committed: Arc<Committed>,
    pub(super) store: Store<Directory>,
    pub(super) queue: Arc<Queue>,
    pub(super) shares: Arc<Shares>,
    pub(super) apps: Arc<Apps>,
    pub(super) metrics: JournalMetrics,
}

impl Stored {
    pub(super) fn new(parts: StoredSetup) -> Self {
        let StoredSetup { committed, store, queue, shares, apps, metrics } = parts;
        let decoder = Decoder { store: store.clone(), queue, shares, apps, metrics, log_at: clock::monotonic() };
        let (cursor, reread) = (Cursor::default(), Cursor::default());
        Self { committed, store, cursor, next_seq: 0, reread, decoder, read_wait: Arc::default() }
    }

    pub(super) fn set_publisher(&self, publisher: Thread) {
        self.committed.set_publisher(publisher);
    }

    /// Measures reads from disk.
    pub(super) fn read_wait(&self) -> Arc<Wait> {
        Arc::clone(&self.read_wait)
    }

    /// The sequence number behind the last capture that was read.
    pub(super) const fn read_to(&self) -> Seq {
        self.next_seq
    }

    /// Passes up to about `max` captures to `give`. Returns whether there may be more now: also if much was read of which little was
    /// undelivered.
    pub(super) fn read(&mut self, max: usize, mut give: impl FnMut(&Undelivered<'_>)) -> bool {
        let (mut count, mut read_bytes) = (0, 0);
        while count < max && read_bytes < TAKE_BYTES {
            match self.read_wait.during(|| self.cursor.next(&self.store)) {
                Ok(Some((place, frame))) => {
                    let end = frame.header.end_seq;
                    if frame.header.captures > 0 && end > self.committed.to() {
                        // Durable, but not counted as stored yet.
                        self.cursor.go_to(place);
                        self.committed.wake_at_next();
                        if end > self.committed.to() {
                            return false;
                        }
                        continue;
                    }
                    read_bytes += frame.header.padded_bytes();
                    self.decoder.decode(place, &frame, self.next_seq..Seq::MAX, |capture| {
                        count += 1;
                        give(capture);
                    });
                    self.next_seq = self.next_seq.max(end);
                }
                Ok(None) => {
                    self.committed.wake_at_next();
                    if self.cursor.is_at_end(&self.store) {
                        return false;
                    }
                }
                Err(error) => {
                    self.decoder.report(&error);
                    // The lost captures stay on disk. A damaged read may have taken long, so the publisher continues with its other work
                    // first.
                    return matches!(error, ReadError::Damaged(_));
                }
            }
        }
        true
    }

    pub(super) fn is_at_end(&mut self) -> bool {
        self.committed.is_closed() && self.cursor.is_at_end(&self.store)
    }

    /// Reads one frame at `from` again, and passes its undelivered captures from `from` on that were read before to `give`. Returns where
    /// to continue (`from` itself if the disk cannot read now) and how many bytes were read; `None` at the end of the log.
    pub(super) fn read_again(&mut self, from: Position, give: impl FnMut(&Undelivered<'_>)) -> Option<(Position, u64)> {
        if self.reread.place() != from.place {
            self.reread.go_to(from.place);
        }
        match self.read_wait.during(|| self.reread.next(&self.store)) {
            Ok(Some((place, frame))) => {
                // The frame may end before `from`: compactions divide frames differently.
                let (seq, bytes) = (frame.header.end_seq.max(from.seq), frame.header.padded_bytes());
                self.decoder.decode(place, &frame, from.seq..self.next_seq, give);
                Some((Position { seq, place: self.reread.place() }, bytes))
            }
            Ok(None) => None,
            Err(error) => {
                self.decoder.report(&error);
                // The error may have taken long: count it as a full read.
                Some((Position { seq: from.seq, place: self.reread.place() }, TAKE_BYTES))
            }
        }
    }

    /// Records captures as delivered, and frees their room in the log. Returns those that were not recorded before.
    pub(super) fn delivered<'t>(&self, tickets: &'t [Ticket]) -> Vec<&'t Ticket> {
        let captures: Vec<(Seq, u32)> =
            tickets.iter().map(|ticket| (ticket.position.seq, ticket.stored_bytes)).collect();
        let (mut freed, mut firsts) = (Vec::with_capacity(tickets.len()), Vec::with_capacity(tickets.len()));
        for (delivery, ticket) in self.store.delivered(&captures).into_iter().zip(tickets) {
            let topic = match delivery {
                Delivery::First => ticket.share.and_then(|share| share.topic),
                Delivery::FirstAsDeadLetter => ticket.share.map(|share| share.dead_letters),
                Delivery::Repeated => continue,
            };
            freed.push((topic, Held::stored(bytes_of(ticket))));
            firsts.push(ticket);
        }
        self.decoder.queue.free(freed);
        firsts
    }

    /// Moves a capture to the share of its dead-letter topic, if that is its topic and has room.
    pub(super) fn moves_to(&self, ticket: &Ticket, topic: Topic) {
        if let Some(share) = ticket.share
            && topic == share.dead_letters
            && !self.store.is_counted_as_dead_letter(ticket.position.seq)
        {
            // Recorded in the store, because it may be read again.
            let count = || self.store.count_as_dead_letter(ticket.position.seq);
            let _has_moved = self.decoder.queue.move_share((share.topic, topic), Held::stored(bytes_of(ticket)), count);
        }
    }

    /// Whether the sender of a capture was answered 503. Returns true only once.
    pub(super) fn take_late(&self, seq: Seq) -> bool {
        self.committed.take_late(seq)
    }
}

/// The bytes of a capture's item in the log.
fn bytes_of(ticket: &Ticket) -> usize {
    usize::try_from(ticket.stored_bytes).unwrap_or(usize::MAX)
}

impl Decoder {
    /// Passes the undelivered captures of a frame within `wanted` to `give`.
    fn decode(
        &mut self,
        place: FramePosition,
        frame: &Frame<'_>,
        wanted: Range<Seq>,
        mut give: impl FnMut(&Undelivered<'_>),
    ) {
        for captured in frame.captures() {
            let Captured { seq, is_counted, bytes, .. } = captured;
            if !wanted.contains(&seq) || self.store.is_delivered(seq) {
                continue;
            }
            let capture = match codec::decode(bytes, &self.apps) {
                Ok(capture) => capture,
                Err(error) => {
                    self.keep_undecodable(seq, &error);
                    continue;
                }
            };
            let ledger_state = if is_counted { LedgerState::Counted } else { LedgerState::Uncounted };
            let position = Position { seq, place };
            let (topic, dead_letters) =
                (self.shares.of_kind_key(captured.kind_key), self.shares.dead_letters(capture.app));
            let share = Some(Share { topic, dead_letters });
            let ticket = Ticket { position, ledger_state, stored_bytes: captured.stored_bytes(), share };
            let counted = if self.store.is_counted_as_dead_letter(seq) { Some(dead_letters) } else { topic };
            give(&Undelivered { capture: &capture, ticket, share_topic: counted });
        }
    }

    /// Counts and logs a capture that cannot be decoded: it stays in the journal until a process can publish it.
    fn keep_undecodable(&mut self, seq: Seq, error: &DecodeError) {
        self.metrics.held.inc();
        if self.may_log() {
            tracing::error!(seq, %error, "a capture in the journal cannot be published by this configuration; it stays in the journal");
        }
    }

    fn report(&mut self, error: &ReadError) {
        self.metrics.read_errors.inc();
        if matches!(error, ReadError::Damaged(_)) || self.may_log() {
            tracing::error!(%error, "the journal cannot be read back; the unreadable captures stay on disk for the next start");
        }
    }

    fn may_log(&mut self) -> bool {
        let now = clock::monotonic();
        let may = now >= self.log_at;
        if may {
            self.log_at = now + LOG_PERIOD;
        }
        may
    }
}
