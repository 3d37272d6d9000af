//! The queue between intake and the publisher: the entries in order, and the room that they take, under one lock.
//!
//! An entry takes room from the moment it is queued until it is settled, so entries that the publisher has taken still count. With a
//! journal on disk, an entry leaves the queue once it is durable, and takes room in the log until it is delivered. An entry that finds no
//! room waits in line for it, in the order of arrival, until its request times out.
//!
//! Each topic has a share of the room ([`SharedRoom`]), and a line of its own: entries that wait for the share of their topic or for the
//! log, which may take weeks, do not block the others.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::Thread;

use crate::ledger::Ledger;
use crate::record::Topic;
use crate::refusal::Refusal;
use crate::share::SharedRoom;

use super::Ack;
use super::Bounds;
use super::entry::Entry;
use super::entry::LedgerState;
use super::room::Full;
use super::room::Held;
use super::room::Room;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Queue {
    entries: Mutex<Entries>,
    pub(super) ledger: Ledger,
    /// The thread to wake when there is something to take.
    taker: OnceLock<Thread>,
    /// Per topic: a capture that turned out to belong to this topic found no room in its share.
    lacks_share: Box<[AtomicBool]>,
}

/// Under one lock, so that nothing is queued after the close.
#[derive(Debug)]
struct Entries {
    queued: VecDeque<Entry>,
    /// Until then appends wait, even if there is room.
    is_open: bool,
    is_closed: bool,
    /// An entry is acknowledged as soon as it is queued.
    acknowledges: bool,
    room: Room,
    /// The entries that wait for room, by topic; each line in order of arrival, and none empty.
    lines: BTreeMap<Option<Topic>, VecDeque<InLine>>,
    /// The bytes that may wait in lines.
    line_bytes: SharedRoom,
    next_number: u64,
}

/// An entry that waits for room.
#[derive(Debug)]
struct InLine {
    number: u64,
    entry: Entry,
}

/// Why an entry is neither queued nor in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueError {
    /// There is no room, and no place in line.
    Full(Full),
    /// The queue is closed.
    Closed,
}

/// The place of an entry in line: the line of its topic, and its number there.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinePlace {
    topic: Option<Topic>,
    number: u64,
}

impl Queue {
    /// An empty, closed-for-now queue with shares for `topics` topics: appends wait until [`Queue::open`]. With `log_bytes_max` its
    /// captures go on to the log, where undelivered captures may take so many bytes.
    pub(super) fn new(ack: Ack, bounds: &Bounds, log_bytes_max: Option<usize>, topics: usize, ledger: Ledger) -> Self {
        let entries = Entries {
            queued: VecDeque::new(),
            is_open: false,
            is_closed: false,
            acknowledges: ack == Ack::Memory,
            room: Room::new(bounds, log_bytes_max, topics),
            lines: BTreeMap::new(),
            line_bytes: SharedRoom::new(bounds.waiting_bytes_max, topics),
            next_number: 0,
        };
        Self {
            entries: Mutex::new(entries),
            ledger,
            taker: OnceLock::new(),
            lacks_share: (0..topics).map(|_topic| AtomicBool::new(false)).collect(),
        }
    }

    /// Queues an entry, or puts it in line and returns its place. The lines are bounded too.
    pub(super) fn append(&self, entry: Entry) -> Result<Option<LinePlace>, QueueError> {
        self.change(|entries| {
            if entries.is_closed {
                return Err(QueueError::Closed);
            }
            if entries.is_open && entries.has_room_now(&entry).is_ok() {
                entries.push(entry, &self.ledger);
                return Ok(None);
            }
            entries.line_up(entry).map(Some).map_err(QueueError::Full)
        })
    }

    /// Queues an entry if there is room now, even before the queue is open.
    pub(super) fn offer(&self, entry: Entry) -> Result<(), Full> {
        self.change(|entries| {
            entries.has_room_now(&entry)?;
            entries.push(entry, &self.ledger);
            Ok(())
        })
    }

    /// Queues an entry even without room: for tests of a full disk.
    #[cfg(test)]
    pub(super) fn push_beyond_room(&self, entry: Entry) {
        self.change(|entries| entries.push(entry, &self.ledger));
    }

    /// Removes an entry from its line, if it still waits. The caller accounts for its callback. Returns what had no room.
    pub(super) fn leave_line(&self, place: LinePlace) -> Option<Full> {
        // The removal may let the next entry through: it may need less room.
        self.change(|entries| {
            let line = entries.lines.get_mut(&place.topic)?;
            let nth = line.binary_search_by_key(&place.number, |in_line| in_line.number).ok()?;
            let cost_bytes = line.remove(nth)?.entry.cost_bytes;
            entries.left_line(place.topic, cost_bytes);
            Some(entries.fullness(place.topic, cost_bytes))
        })
    }

    /// Moves up to `max` entries to `into`, oldest first. They keep their room.
    pub(super) fn take(&self, max: usize, into: &mut VecDeque<Entry>) {
        let mut entries = self.lock();
        let count = entries.queued.len().min(max);
        if count == entries.queued.len() && into.is_empty() {
            std::mem::swap(&mut entries.queued, into);
        } else {
            into.extend(entries.queued.drain(..count));
        }
    }

    /// Frees the room of settled captures.
    pub(super) fn free(&self, freed: impl IntoIterator<Item = (Option<Topic>, Held)>) {
        self.change(|entries| freed.into_iter().for_each(|(topic, held)| entries.room.give(topic, held)));
    }

    /// Moves captures from the queue's room to the log's. Of each: its topic, its cost, and the bytes of its item in the log.
    pub(super) fn stored(&self, captures: impl Iterator<Item = (Option<Topic>, usize, usize)>) {
        self.change(|entries| {
            for (topic, cost_bytes, stored_bytes) in captures {
                entries.room.give(topic, Held::queued(cost_bytes));
                entries.room.take(topic, Held::stored(stored_bytes));
            }
        });
    }

    /// Takes room in the log for what was found there at the start, in bytes.
    pub(super) fn recovered(&self, topic: Option<Topic>, log_bytes: usize) {
        self.lock().room.take(topic, Held::stored(log_bytes));
    }

    /// Moves held room from one topic's share to another's, if that has room and `may_move` agrees. Returns whether it did.
    pub(super) fn move_share(
        &self,
        (from, to): (Option<Topic>, Topic),
        held: Held,
        may_move: impl FnOnce() -> bool,
    ) -> bool {
        self.change(|entries| {
            entries.room.give(from, held);
            let has_room = entries.room.check(Some(to), held).is_ok();
            if !has_room {
                self.set_lacks_share(to, true);
            }
            let moves = has_room && may_move();
            entries.room.take(if moves { Some(to) } else { from }, held);
            moves
        })
    }

    /// Whether a capture would find no room in the share of a topic that it may turn out to belong to. Cheap unless another capture has
    /// found none before.
    pub(super) fn lacks_share(&self, topic: Topic, cost_bytes: usize) -> bool {
        if !self.lacks_share.get(topic.index()).is_some_and(|lacks| lacks.load(Ordering::Relaxed)) {
            return false;
        }
        let checked = self.lock().check(Some(topic), cost_bytes);
        if checked.is_ok() {
            // The next capture that finds no room sets it again.
            self.set_lacks_share(topic, false);
        }
        matches!(checked, Err(Full::Topic(_)))
    }

    fn set_lacks_share(&self, topic: Topic, lacks: bool) {
        if let Some(lacks_share) = self.lacks_share.get(topic.index()) {
            lacks_share.store(lacks, Ordering::Relaxed);
        }
    }

    /// Applies `look` to the room of the log.
    pub(super) fn look_at_log<T>(&self, look: impl FnOnce(&SharedRoom) -> T) -> Option<T> {
        self.lock().room.log().map(look)
    }

    /// Lets appends through.
    pub(super) fn open(&self) {
        self.change(|entries| entries.is_open = true);
    }

    /// Accepts nothing more. Entries that wait for room are lost.
    pub(super) fn close(&self) {
        {
            let mut entries = self.lock();
            entries.is_closed = true;
            for in_line in std::mem::take(&mut entries.lines).into_values().flatten() {
                // Under the lock: a request that times out and finds its entry in no line relies on it.
                self.ledger.queue();
                in_line.entry.lose(Refusal::Stopping, &self.ledger);
            }
        }
        self.wake();
    }

    /// Whether the queue is closed and empty.
    pub(super) fn is_at_end(&self) -> bool {
        let entries = self.lock();
        entries.is_closed && entries.queued.is_empty()
    }

    /// Sets the thread that takes entries.
    pub(super) fn set_taker(&self, taker: Thread) {
        // There is only one taker; a second call has no effect.
        let _first = self.taker.set(taker);
    }

    /// Applies a change, then queues entries that have room now. Wakes the taker if the queue was empty: it takes everything.
    fn change<T>(&self, change: impl FnOnce(&mut Entries) -> T) -> T {
        let mut entries = self.lock();
        let was_empty = entries.queued.is_empty();
        let changed = change(&mut entries);
        entries.advance_lines(&self.ledger);
        let wakes = was_empty && !entries.queued.is_empty();
        drop(entries);
        if wakes {
            self.wake();
        }
        changed
    }

    fn wake(&self) {
        if let Some(taker) = self.taker.get() {
            taker.unpark();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    /// Whether there is room for an entry that no entry in line is waiting for. Before the queue is open, that is not considered.
    fn has_room_now(&self, entry: &Entry) -> Result<(), Full> {
        if self.is_closed {
            return Err(Full::Queue);
        }
        self.check(entry.share_topic, entry.cost_bytes)?;
        if self.is_open && !self.lines.is_empty() {
            let waits_for_all = |(topic, line): (&Option<Topic>, &VecDeque<InLine>)| {
                let first = line.front().map_or(0, |in_line| in_line.entry.cost_bytes);
                matches!(self.check(*topic, first), Ok(()) | Err(Full::Queue))
            };
            if self.lines.contains_key(&entry.share_topic) || self.lines.iter().any(waits_for_all) {
                return Err(Full::Queue);
            }
        }
        Ok(())
    }

    fn check(&self, topic: Option<Topic>, cost_bytes: usize) -> Result<(), Full> {
        self.room.check(topic, Held::queued(cost_bytes))
    }

    fn fullness(&self, topic: Option<Topic>, cost_bytes: usize) -> Full {
        self.check(topic, cost_bytes).err().unwrap_or(Full::Queue)
    }

    /// Queues an entry, unless its request has just timed out.
    fn push(&mut self, mut entry: Entry, ledger: &Ledger) {
        // Before it can be taken: it must not be delivered before it is counted as queued.
        if entry.ledger_state == LedgerState::Counted {
            ledger.queue();
        }
        if self.acknowledges && !entry.acknowledge() {
            return;
        }
        self.room.take(entry.share_topic, Held::queued(entry.cost_bytes));
        self.queued.push_back(entry);
    }

    /// Puts an entry at the end of its line. The lines have shares too.
    fn line_up(&mut self, entry: Entry) -> Result<LinePlace, Full> {
        let Entry { share_topic: topic, cost_bytes, .. } = entry;
        if !self.line_bytes.has_room(topic, cost_bytes) {
            return Err(self.fullness(topic, cost_bytes));
        }
        let number = self.next_number;
        self.next_number += 1;
        self.line_bytes.take(topic, cost_bytes);
        self.lines.entry(topic).or_default().push_back(InLine { number, entry });
        Ok(LinePlace { topic, number })
    }

    /// Queues entries from the lines, as far as there is room.
    fn advance_lines(&mut self, ledger: &Ledger) {
        while self.is_open
            && let Some(topic) = self.next_in_line()
            && let Some(first) = self.lines.get_mut(&topic).and_then(VecDeque::pop_front)
        {
            self.left_line(topic, first.entry.cost_bytes);
            self.push(first.entry, ledger);
        }
    }

    /// Accounts for an entry that has left its line.
    fn left_line(&mut self, topic: Option<Topic>, cost_bytes: usize) {
        self.line_bytes.give(topic, cost_bytes);
        if self.lines.get(&topic).is_some_and(VecDeque::is_empty) {
            self.lines.remove(&topic);
        }
    }

    /// The line whose first entry is next: of the entries that only wait for the whole queue, the oldest, if there is room for it.
    fn next_in_line(&self) -> Option<Option<Topic>> {
        let firsts = self.lines.iter().filter_map(|(topic, line)| Some((line.front()?, *topic)));
        let fits = firsts.map(|(first, topic)| (first.number, topic, self.check(topic, first.entry.cost_bytes)));
        let next =
            fits.filter(|(.., fits)| matches!(fits, Ok(()) | Err(Full::Queue))).min_by_key(|(number, ..)| *number);
        next.and_then(|(_, topic, fits)| fits.is_ok().then_some(topic))
    }
}
