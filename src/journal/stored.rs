//! The backlog of the journal on disk: the publisher's side of the log.

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

/// How much is read from disk at a time, in bytes, however little of it is still to be delivered: the publisher has other things to do.
pub(crate) const TAKE_BYTES: u64 = 16 << 20;
/// How often the same complaint is made.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Stored {
    committed: Arc<Committed>,
    store: Store<Directory>,
    cursor: Cursor,
    /// Behind what was taken last.
    next_seq: Seq,
    /// Reads again what was let go.
    again: Cursor,
    decoder: Decoder,
    read_wait: Arc<Wait>,
}

/// Makes entries of captures on disk.
#[derive(Debug)]
struct Decoder {
    store: Store<Directory>,
    queue: Arc<Queue>,
    shares: Arc<Shares>,
    apps: Arc<Apps>,
    metrics: JournalMetrics,
    complain_at: Instant,
}

/// What the publisher's side is made of.
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
        let decoder = Decoder { store: store.clone(), queue, shares, apps, metrics, complain_at: clock::monotonic() };
        let (cursor, again) = (Cursor::default(), Cursor::default());
        Self { committed, store, cursor, next_seq: 0, again, decoder, read_wait: Arc::default() }
    }

    pub(super) fn wakes(&self, reader: Thread) {
        self.committed.wakes(reader);
    }

    /// How long the disk takes to read.
    pub(super) fn read_wait(&self) -> Arc<Wait> {
        Arc::clone(&self.read_wait)
    }

    /// Behind what was read last.
    pub(super) const fn read_to(&self) -> Seq {
        self.next_seq
    }

    /// Gives up to about `max` captures. Returns whether there may be more at once: also when much was read, of which little was still to
    /// be delivered.
    pub(super) fn read(&mut self, max: usize, mut give: impl FnMut(&Undelivered<'_>)) -> bool {
        let (mut count, mut read_bytes) = (0, 0);
        while count < max && read_bytes < TAKE_BYTES {
            match self.read_wait.during(|| self.cursor.next(&self.store)) {
                Ok(Some((place, frame))) => {
                    let end = frame.header.end_seq;
                    if frame.header.captures > 0 && end > self.committed.to() {
                        // Durable, and the ledger does not have it on disk yet.
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
                    self.decoder.complain(&error);
                    // What is lost stays in the journal; it may have taken the disk long to say so.
                    return matches!(error, ReadError::Damaged(_));
                }
            }
        }
        true
    }

    pub(super) fn is_at_end(&mut self) -> bool {
        self.committed.is_closed() && self.cursor.is_at_end(&self.store)
    }

    /// Reads again one frame at `from`, and gives those of its captures that were read before, are not delivered and not before `from`.
    /// Returns where to read on, which is `from` itself when the disk does not read now, and how much was read, in bytes; `None` at the end
    /// of what there is.
    pub(super) fn read_again(&mut self, from: Position, give: impl FnMut(&Undelivered<'_>)) -> Option<(Position, u64)> {
        if self.again.place() != from.place {
            self.again.go_to(from.place);
        }
        match self.read_wait.during(|| self.again.next(&self.store)) {
            Ok(Some((place, frame))) => {
                // A frame may end before `from`: compactions cut them elsewhere.
                let (seq, bytes) = (frame.header.end_seq.max(from.seq), frame.header.padded_bytes());
                self.decoder.decode(place, &frame, from.seq..self.next_seq, give);
                Some((Position { seq, place: self.again.place() }, bytes))
            }
            Ok(None) => None,
            Err(error) => {
                self.decoder.complain(&error);
                // It may have taken the disk long to say so.
                Some((Position { seq: from.seq, place: self.again.place() }, TAKE_BYTES))
            }
        }
    }

    /// Notes captures as delivered, and frees their room in the log. Returns those that were not noted before.
    pub(super) fn delivered<'t>(&self, tickets: &'t [Ticket]) -> Vec<&'t Ticket> {
        let captures: Vec<(Seq, u32)> =
            tickets.iter().map(|ticket| (ticket.position.seq, ticket.record_bytes)).collect();
        let (mut freed, mut firsts) = (Vec::with_capacity(tickets.len()), Vec::with_capacity(tickets.len()));
        for (delivery, ticket) in self.store.delivered(&captures).into_iter().zip(tickets) {
            let topic = match delivery {
                Delivery::First => ticket.share.and_then(|share| share.topic),
                Delivery::FirstOfMarked => ticket.share.map(|share| share.dead_letters),
                Delivery::Repeated => continue,
            };
            freed.push((topic, Held::stored(bytes_of(ticket))));
            firsts.push(ticket);
        }
        self.decoder.queue.free(freed);
        firsts
    }

    /// Counts a capture to the share of its dead-letter topic, if it goes there and there is room.
    pub(super) fn moves_to(&self, ticket: &Ticket, topic: Topic) {
        if let Some(share) = ticket.share
            && topic == share.dead_letters
            && !self.store.is_marked(ticket.position.seq)
        {
            // Marked, as it may be read again.
            let mark = || self.store.mark(ticket.position.seq);
            let _has_moved = self.decoder.queue.move_share((share.topic, topic), Held::stored(bytes_of(ticket)), mark);
        }
    }

    /// Whether the sender of a capture was answered 503. Says so once.
    pub(super) fn take_late(&self, seq: Seq) -> bool {
        self.committed.take_late(seq)
    }
}

/// What the record of a capture takes in the log.
fn bytes_of(ticket: &Ticket) -> usize {
    usize::try_from(ticket.record_bytes).unwrap_or(usize::MAX)
}

impl Decoder {
    /// Gives those captures of a frame that are not delivered and within `wanted`.
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
                    self.hold(seq, &error);
                    continue;
                }
            };
            let ledger_state = if is_counted { LedgerState::Counted } else { LedgerState::Uncounted };
            let position = Position { seq, place };
            let (topic, dead_letters) = (self.shares.of_key(captured.key), self.shares.dead_letters(capture.app));
            let share = Some(Share { topic, dead_letters });
            let ticket = Ticket { position, ledger_state, record_bytes: captured.record_bytes(), share };
            let counted = if self.store.is_marked(seq) { Some(dead_letters) } else { topic };
            give(&Undelivered { capture: &capture, ticket, share: counted });
        }
    }

    /// It stays in the journal for a process that can do something with it.
    fn hold(&mut self, seq: Seq, error: &DecodeError) {
        self.metrics.held.inc();
        if self.may_complain() {
            tracing::error!(seq, %error, "a capture in the journal cannot be published by this configuration; it stays in the journal");
        }
    }

    fn complain(&mut self, error: &ReadError) {
        self.metrics.read_errors.inc();
        if matches!(error, ReadError::Damaged(_)) || self.may_complain() {
            tracing::error!(%error, "the journal cannot be read back; the unreadable captures stay on disk for the next start");
        }
    }

    fn may_complain(&mut self) -> bool {
        let now = clock::monotonic();
        let may = now >= self.complain_at;
        if may {
            self.complain_at = now + COMPLAIN_EVERY;
        }
        may
    }
}
