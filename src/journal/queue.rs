//! The queue between intake and the publisher: entries in order, and the room they take, under one lock.
//!
//! Room is taken when an entry is pushed and free again once the entry is settled, so what the publisher has taken still counts. Where
//! captures go to disk, they leave the queue then, and go on to take room in the log until they are delivered. Those who wait for room get
//! it in the order of arrival.
//!
//! Each topic has a share of the room ([`SharedRoom`]). Whoever waits for the share of a topic, or for the log, where room may not come for
//! weeks, stands in nobody else's way.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::Thread;

use tokio::sync::oneshot;

use crate::ledger::Ledger;
use crate::ledger::Receipt;
use crate::record::Topic;
use crate::share::SharedRoom;

use super::Bounds;
use super::entry::Entry;
use super::room::Freed;
use super::room::Full;
use super::room::Held;
use super::room::Room;
use super::turn;

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    entries: Mutex<Entries>,
    bytes_max: usize,
    pub(super) ledger: Ledger,
    /// Whom to wake when there is something to take.
    taker: OnceLock<Thread>,
    /// Something that goes to another topic than was thought has found no room in its share.
    lacks_share: Box<[AtomicBool]>,
}

/// Under one lock, so that nothing comes in behind the end.
#[derive(Debug)]
struct Entries {
    waiting: VecDeque<Entry>,
    /// Until then appends wait, whatever room there is.
    is_open: bool,
    is_closed: bool,
    room: Room,
    /// Who waits for room, by topic; each line in order of arrival, and none empty.
    lines: BTreeMap<Option<Topic>, VecDeque<Waiter>>,
    /// What they may wait with, in bytes.
    line_bytes: SharedRoom,
    next_ticket: u64,
}

/// Why nobody may wait for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitError {
    /// There is no room to wait in.
    Full(Full),
    /// No more captures are taken.
    Closed,
}

/// Somebody who waits for room.
#[derive(Debug)]
struct Waiter {
    ticket: u64,
    cost_bytes: usize,
    has_room: oneshot::Sender<()>,
}

/// A place in line, and then the room that was given to it. Dropped before it is used, both go to others.
#[derive(Debug)]
pub(super) struct Place<'q> {
    queue: &'q Queue,
    topic: Option<Topic>,
    ticket: u64,
    cost_bytes: usize,
    is_used: bool,
}

impl Queue {
    /// An empty queue, with shares for so many topics. It is not open yet. With `log_bytes_max` its captures go on to the log, where
    /// what is not delivered may take so many bytes.
    pub(super) fn new(bounds: &Bounds, log_bytes_max: Option<usize>, topics: usize, ledger: Ledger) -> Self {
        let entries = Entries {
            waiting: VecDeque::new(),
            is_open: false,
            is_closed: false,
            room: Room::new(bounds, log_bytes_max, topics),
            lines: BTreeMap::new(),
            line_bytes: SharedRoom::new(bounds.waiting_bytes_max, topics),
            next_ticket: 0,
        };
        Self {
            entries: Mutex::new(entries),
            bytes_max: bounds.bytes_max,
            ledger,
            taker: OnceLock::new(),
            lacks_share: (0..topics).map(|_topic| AtomicBool::new(false)).collect(),
        }
    }

    /// Lines up an entry if it is open and has room, and nobody waits for that. If not, the entry comes back and the receipt is left
    /// alone.
    pub(super) fn append(&self, entry: Entry, receipt: &mut Option<Receipt<'_>>) -> Result<(), Entry> {
        let mut entries = self.lock();
        if !entries.is_open || entries.reserve(entry.topic, entry.cost_bytes).is_err() {
            return Err(entry);
        }
        self.push(entries, entry, receipt);
        Ok(())
    }

    /// Does as [`Queue::append`], and before it is open too.
    pub(super) fn offer(&self, entry: Entry, receipt: &mut Option<Receipt<'_>>) -> Result<(), Full> {
        let mut entries = self.lock();
        entries.reserve(entry.topic, entry.cost_bytes)?;
        self.push(entries, entry, receipt);
        Ok(())
    }

    /// Lines up an entry as if there were room: for tests of a disk that is full before that is taken.
    #[cfg(test)]
    pub(super) fn push_beyond_room(&self, entry: Entry, receipt: Receipt<'_>) {
        let mut entries = self.lock();
        entries.room.take(entry.topic, self.of_queued(entry.cost_bytes));
        self.push(entries, entry, &mut Some(receipt));
    }

    /// Waits until it is open and has room, in order of arrival.
    pub(super) async fn wait(&self, topic: Option<Topic>, cost_bytes: usize) -> Result<Place<'_>, WaitError> {
        let (place, has_room) = self.line_up(topic, cost_bytes)?;
        // Whoever is not told that there is room has been sent away.
        has_room.await.map_err(|_closed| WaitError::Closed)?;
        Ok(place)
    }

    /// Takes the last place in line, as long as those who wait are within their bound. The lines have shares too.
    fn line_up(
        &self,
        topic: Option<Topic>,
        cost_bytes: usize,
    ) -> Result<(Place<'_>, oneshot::Receiver<()>), WaitError> {
        let (has_room, receiver) = oneshot::channel();
        let (ticket, given) = {
            let mut entries = self.lock();
            if entries.is_closed {
                return Err(WaitError::Closed);
            }
            if !entries.line_bytes.has_room(topic, cost_bytes) {
                return Err(WaitError::Full(entries.fullness(topic, cost_bytes)));
            }
            let ticket = entries.next_ticket;
            entries.next_ticket += 1;
            entries.line_bytes.take(topic, cost_bytes);
            entries.lines.entry(topic).or_default().push_back(Waiter { ticket, cost_bytes, has_room });
            // There may have come room since it was asked for.
            (ticket, entries.give_room())
        };
        tell(given);
        Ok((Place { queue: self, topic, ticket, cost_bytes, is_used: false }, receiver))
    }

    /// What a capture waits for that has to wait now.
    pub(super) fn fullness(&self, topic: Option<Topic>, cost_bytes: usize) -> Full {
        self.lock().fullness(topic, cost_bytes)
    }

    /// Moves up to `max` entries to `into`, oldest first. Their room stays taken.
    pub(super) fn take(&self, max: usize, into: &mut VecDeque<Entry>) {
        let mut entries = self.lock();
        let count = entries.waiting.len().min(max);
        if count == entries.waiting.len() && into.is_empty() {
            std::mem::swap(&mut entries.waiting, into);
        } else {
            into.extend(entries.waiting.drain(..count));
        }
    }

    /// What a capture takes that waits in the queue.
    pub(super) fn of_queued(&self, cost_bytes: usize) -> Held {
        Held::queued(cost_bytes.min(self.bytes_max), cost_bytes)
    }

    /// Frees room of captures that were settled.
    pub(super) fn free(&self, freed: &mut Freed) {
        let given = {
            let mut entries = self.lock();
            freed.drain().for_each(|(topic, held)| entries.room.give(topic, held));
            entries.give_room()
        };
        tell(given);
    }

    /// Captures have gone from the queue to the log. Of each: its topic, its cost, and what its record takes, in bytes.
    pub(super) fn stored(&self, captures: impl Iterator<Item = (Option<Topic>, usize, usize)>) {
        let given = {
            let mut entries = self.lock();
            for (topic, cost_bytes, record_bytes) in captures {
                let queued = entries.room.of_queued(cost_bytes);
                entries.room.give(topic, queued);
                entries.room.take(topic, Held::stored(record_bytes));
            }
            entries.give_room()
        };
        tell(given);
    }

    /// What was found in the log takes its room there, in bytes.
    pub(super) fn recovered(&self, topic: Option<Topic>, log_bytes: usize) {
        self.lock().room.take(topic, Held::stored(log_bytes));
    }

    /// Counts what was taken for one topic to the share of another, if there is room in it and `may_move` says so. Returns whether it did.
    pub(super) fn move_share(
        &self,
        (from, to): (Option<Topic>, Topic),
        held: Held,
        may_move: impl FnOnce() -> bool,
    ) -> bool {
        let mut entries = self.lock();
        entries.room.give(from, held);
        let has_room = entries.room.check(Some(to), held).is_ok();
        let moves = has_room && may_move();
        entries.room.take(if moves { Some(to) } else { from }, held);
        let given = entries.give_room();
        drop(entries);
        tell(given);
        if !has_room {
            self.set_lacks_share(to, true);
        }
        moves
    }

    /// Whether a capture would find no room in the share of a topic that it may turn out to go to. Costs nothing unless another one has
    /// found none.
    pub(super) fn lacks_share(&self, topic: Topic, cost_bytes: usize) -> bool {
        if !self.lacks_share.get(topic.index()).is_some_and(|lacks| lacks.load(Ordering::Relaxed)) {
            return false;
        }
        let checked = self.lock().check(Some(topic), cost_bytes);
        if checked.is_ok() {
            // The next one that finds none says so again.
            self.set_lacks_share(topic, false);
        }
        matches!(checked, Err(Full::Topic(_)))
    }

    fn set_lacks_share(&self, topic: Topic, lacks: bool) {
        if let Some(lacks_share) = self.lacks_share.get(topic.index()) {
            lacks_share.store(lacks, Ordering::Relaxed);
        }
    }

    /// What is held of the log now, as `look` sees it.
    pub(super) fn look_at_log<T>(&self, look: impl FnOnce(&SharedRoom) -> T) -> Option<T> {
        self.lock().room.log().map(look)
    }

    /// Lets appends through.
    pub(super) fn open(&self) {
        let given = {
            let mut entries = self.lock();
            entries.is_open = true;
            entries.give_room()
        };
        tell(given);
    }

    /// Takes nothing more. Those in line are sent away.
    pub(super) fn close(&self) {
        let lines = {
            let mut entries = self.lock();
            entries.is_closed = true;
            std::mem::take(&mut entries.lines)
        };
        // Without the lock: this wakes them.
        drop(lines);
        self.wake();
    }

    /// Whether nothing waits to be taken and nothing more will come.
    pub(super) fn is_at_end(&self) -> bool {
        let entries = self.lock();
        entries.is_closed && entries.waiting.is_empty()
    }

    /// Names the thread that takes.
    pub(super) fn wakes(&self, taker: Thread) {
        // A second taker would be a bug, and would find nothing.
        let _first = self.taker.set(taker);
    }

    /// Lines up an entry that has its room.
    fn push(&self, mut entries: MutexGuard<'_, Entries>, entry: Entry, receipt: &mut Option<Receipt<'_>>) {
        // Before the entry can be taken: it must not be delivered before it was accepted.
        if let Some(receipt) = receipt.take() {
            receipt.accept();
        }
        entries.waiting.push_back(entry);
        let is_first = entries.waiting.len() == 1;
        drop(entries);
        // Whoever brought the first wakes the taker, who takes all.
        if is_first && let Some(taker) = self.taker.get() {
            turn::wake_at_end(taker);
        }
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
    /// Takes room, if there is some that nobody in line is to have. Before it is open they are to have none.
    fn reserve(&mut self, topic: Option<Topic>, cost_bytes: usize) -> Result<(), Full> {
        if self.is_closed {
            return Err(Full::Queue);
        }
        self.check(topic, cost_bytes)?;
        if self.is_open && !self.lines.is_empty() {
            let waits_for_all = |(topic, line): (&Option<Topic>, &VecDeque<Waiter>)| {
                let first = line.front().map_or(0, |waiter| waiter.cost_bytes);
                matches!(self.check(*topic, first), Ok(()) | Err(Full::Queue))
            };
            if self.lines.contains_key(&topic) || self.lines.iter().any(waits_for_all) {
                return Err(Full::Queue);
            }
        }
        self.room.take(topic, self.room.of_queued(cost_bytes));
        Ok(())
    }

    fn check(&self, topic: Option<Topic>, cost_bytes: usize) -> Result<(), Full> {
        self.room.check(topic, self.room.of_queued(cost_bytes))
    }

    fn fullness(&self, topic: Option<Topic>, cost_bytes: usize) -> Full {
        self.check(topic, cost_bytes).err().unwrap_or(Full::Queue)
    }

    /// Gives what room there is to those in line. They are to be told once the lock is free.
    fn give_room(&mut self) -> Vec<Waiter> {
        let mut given = Vec::new();
        while self.is_open
            && let Some(topic) = self.next_in_line()
            && let Some(first) = self.lines.get_mut(&topic).and_then(VecDeque::pop_front)
        {
            self.leave_line(topic, first.cost_bytes);
            self.room.take(topic, self.room.of_queued(first.cost_bytes));
            given.push(first);
        }
        given
    }

    /// One who stood in this line does not any more.
    fn leave_line(&mut self, topic: Option<Topic>, cost_bytes: usize) {
        self.line_bytes.give(topic, cost_bytes);
        if self.lines.get(&topic).is_some_and(VecDeque::is_empty) {
            self.lines.remove(&topic);
        }
    }

    /// Whose turn it is: of those who wait for nothing but the queue, the first that came, if there is room for it.
    fn next_in_line(&self) -> Option<Option<Topic>> {
        let firsts = self.lines.iter().filter_map(|(topic, line)| Some((line.front()?, *topic)));
        let fits = firsts.map(|(first, topic)| (first.ticket, topic, self.check(topic, first.cost_bytes)));
        let next =
            fits.filter(|(.., fits)| matches!(fits, Ok(()) | Err(Full::Queue))).min_by_key(|(ticket, ..)| *ticket);
        next.and_then(|(_, topic, fits)| fits.is_ok().then_some(topic))
    }
}

/// Tells those who were given room.
fn tell(given: Vec<Waiter>) {
    for waiter in given {
        // Gone meanwhile: then its `Place` gives the room back.
        let _told = waiter.has_room.send(());
    }
}

impl Place<'_> {
    /// Lines up the entry that this room was given for. It comes back when the queue was closed meanwhile; the receipt is then left alone.
    pub(super) fn push(mut self, entry: Entry, receipt: &mut Option<Receipt<'_>>) -> Result<(), Entry> {
        let entries = self.queue.lock();
        if entries.is_closed {
            drop(entries);
            return Err(entry);
        }
        self.is_used = true;
        self.queue.push(entries, entry, receipt);
        Ok(())
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.is_used {
            return;
        }
        let given = {
            let mut entries = self.queue.lock();
            if !entries.give_up(self) && !entries.is_closed {
                let queued = entries.room.of_queued(self.cost_bytes);
                entries.room.give(self.topic, queued);
            }
            // Also when it stood first: what was too little for it may be enough for the next.
            entries.give_room()
        };
        tell(given);
    }
}

impl Entries {
    /// Gives up a place. Returns whether it was still in line: behind the end nobody needs room, and those in line never had any.
    fn give_up(&mut self, place: &Place<'_>) -> bool {
        let Some(line) = self.lines.get_mut(&place.topic) else { return false };
        let Ok(nth) = line.binary_search_by_key(&place.ticket, |waiter| waiter.ticket) else { return false };
        drop(line.remove(nth));
        self.leave_line(place.topic, place.cost_bytes);
        true
    }
}
