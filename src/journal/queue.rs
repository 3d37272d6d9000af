//! The queue between intake and the publisher: entries in order, and the room they take, under one lock.
//!
//! Room is counted in captures and in bytes. It is taken when an entry is pushed and free again once the entry is settled, so what the
//! publisher has taken still counts. Those who wait for room get it in the order of arrival.
//!
//! Where entries stay until Kafka has them, each topic has a *share*: it may hold at most four times what is free. So a lone topic gets
//! four fifths of the room, and k topics that Kafka does not take always leave 1/(4k+1) of it to the others. Whoever waits for the share of
//! a topic stands in nobody else's way.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::thread::Thread;

use tokio::sync::oneshot;

use crate::ledger::Ledger;
use crate::ledger::Receipt;
use crate::record::Topic;

use super::Bounds;
use super::entry::Entry;
use super::turn;

/// How many times what is free one topic may hold.
const SHARE: usize = 4;

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    entries: Mutex<Entries>,
    bounds: Bounds,
    pub(super) ledger: Ledger,
    /// Whom to wake when there is something to take.
    taker: OnceLock<Thread>,
}

/// Under one lock, so that nothing comes in behind the end.
#[derive(Debug, Default)]
struct Entries {
    waiting: VecDeque<Entry>,
    /// Until then appends wait, whatever room there is.
    is_open: bool,
    is_closed: bool,
    /// All the room that is taken.
    held: Held,
    /// Of it, what each topic holds. Empty where there are no shares.
    by_topic: Vec<Held>,
    /// Who waits for room, by topic; each line in order of arrival, and none empty.
    lines: BTreeMap<Option<Topic>, Line>,
    /// What all of them wait with.
    line_bytes: usize,
    next_ticket: u64,
}

/// Room that is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) captures: usize,
    pub(super) bytes: usize,
}

/// What there is no room in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// In the whole queue.
    Queue,
    /// In the share of the topic.
    Topic(Topic),
}

/// Why nobody may wait for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitError {
    /// There is no room to wait in.
    Full(Full),
    /// No more captures are taken.
    Closed,
}

#[derive(Debug, Default)]
struct Line {
    waiters: VecDeque<Waiter>,
    bytes: usize,
}

/// Somebody who waits for room.
#[derive(Debug)]
struct Waiter {
    ticket: u64,
    cost: usize,
    has_room: oneshot::Sender<()>,
}

/// A place in line, and then the room that was given to it. Dropped before it is used, both go to others.
#[derive(Debug)]
pub(super) struct Place<'q> {
    queue: &'q Queue,
    topic: Option<Topic>,
    ticket: u64,
    cost: usize,
    is_used: bool,
}

impl Queue {
    /// An empty queue, with shares for so many topics if there are any. It is not open yet.
    pub(super) fn new(bounds: Bounds, topics: usize, ledger: Ledger) -> Self {
        let entries = Entries { by_topic: vec![Held::default(); topics], ..Entries::default() };
        Self { entries: Mutex::new(entries), bounds, ledger, taker: OnceLock::new() }
    }

    /// Lines up an entry if it is open and has room, and nobody waits for that. If not, the entry comes back and the receipt is left
    /// alone.
    pub(super) fn append(&self, entry: Entry, receipt: &mut Option<Receipt<'_>>) -> Result<(), Entry> {
        let cost = self.cost_of(entry.cost_bytes);
        let mut entries = self.lock();
        if !entries.is_open || entries.reserve(entry.topic, cost, self.bounds).is_err() {
            return Err(entry);
        }
        self.push(entries, entry, receipt);
        Ok(())
    }

    /// Does as [`Queue::append`], and before it is open too.
    pub(super) fn offer(&self, entry: Entry, receipt: &mut Option<Receipt<'_>>) -> Result<(), Full> {
        let cost = self.cost_of(entry.cost_bytes);
        let mut entries = self.lock();
        entries.reserve(entry.topic, cost, self.bounds)?;
        self.push(entries, entry, receipt);
        Ok(())
    }

    /// Waits until it is open and has room, in order of arrival.
    pub(super) async fn wait(&self, topic: Option<Topic>, cost_bytes: usize) -> Result<Place<'_>, WaitError> {
        let (place, has_room) = self.line_up(topic, self.cost_of(cost_bytes))?;
        // Whoever is not told that there is room has been sent away.
        has_room.await.map_err(|_closed| WaitError::Closed)?;
        Ok(place)
    }

    /// Takes the last place in line, as long as those who wait are within their bound. The lines have shares too.
    fn line_up(&self, topic: Option<Topic>, cost: usize) -> Result<(Place<'_>, oneshot::Receiver<()>), WaitError> {
        let (has_room, receiver) = oneshot::channel();
        let (ticket, given) = {
            let mut entries = self.lock();
            if entries.is_closed {
                return Err(WaitError::Closed);
            }
            let free = self.bounds.waiting_bytes_max - entries.line_bytes;
            if cost > free {
                return Err(WaitError::Full(Full::Queue));
            }
            let bytes = entries.lines.get(&topic).map_or(0, |line| line.bytes) + cost;
            if let Some(topic) = topic
                && bytes > free.saturating_mul(SHARE)
            {
                return Err(WaitError::Full(Full::Topic(topic)));
            }
            let ticket = entries.next_ticket;
            entries.next_ticket += 1;
            entries.line_bytes += cost;
            let line = entries.lines.entry(topic).or_default();
            line.bytes = bytes;
            line.waiters.push_back(Waiter { ticket, cost, has_room });
            // There may have come room since it was asked for.
            (ticket, entries.give_room(self.bounds))
        };
        tell(given);
        Ok((Place { queue: self, topic, ticket, cost, is_used: false }, receiver))
    }

    /// What a capture of `topic` waits for that has to wait now.
    pub(super) fn fullness(&self, topic: Option<Topic>) -> Full {
        let entries = self.lock();
        match entries.fits(topic, 0, self.bounds) {
            Err(full @ Full::Topic(_)) => full,
            Err(Full::Queue) | Ok(()) => Full::Queue,
        }
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

    /// Frees the room of settled captures without a topic.
    pub(super) fn free(&self, captures: usize, bytes: usize) {
        self.free_of([(None, Held { captures, bytes })]);
    }

    /// Frees the room of settled captures.
    pub(super) fn free_of(&self, freed: impl IntoIterator<Item = (Option<Topic>, Held)>) {
        let given = {
            let mut entries = self.lock();
            for (topic, held) in freed {
                entries.release(topic, held);
            }
            entries.give_room(self.bounds)
        };
        tell(given);
    }

    /// Counts an entry to the share of `to`, unless that is taken: then it stays where it is.
    pub(super) fn move_share(&self, entry: &mut Entry, to: Topic) {
        let held = Held { captures: 1, bytes: self.cost_of(entry.cost_bytes) };
        let mut entries = self.lock();
        entries.release(entry.topic, held);
        if entries.fits(Some(to), held.bytes, self.bounds).is_ok() {
            entry.topic = Some(to);
        }
        entries.hold(entry.topic, held);
        let given = entries.give_room(self.bounds);
        drop(entries);
        tell(given);
    }

    /// Lets appends through.
    pub(super) fn open(&self) {
        let given = {
            let mut entries = self.lock();
            entries.is_open = true;
            entries.give_room(self.bounds)
        };
        tell(given);
    }

    /// Takes nothing more. Those in line are sent away.
    pub(super) fn close(&self) {
        let lines = {
            let mut entries = self.lock();
            entries.is_closed = true;
            entries.line_bytes = 0;
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

    /// What a capture takes of the room for bytes. The longest body takes all of it, however little that is.
    pub(super) fn cost_of(&self, bytes: usize) -> usize {
        bytes.min(self.bounds.bytes_max)
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
    fn reserve(&mut self, topic: Option<Topic>, cost: usize, bounds: Bounds) -> Result<(), Full> {
        if self.is_closed {
            return Err(Full::Queue);
        }
        self.fits(topic, cost, bounds)?;
        if self.is_open && !self.lines.is_empty() {
            let waits_for_queue = |(topic, line): (&Option<Topic>, &Line)| {
                let first = line.waiters.front().map_or(0, |waiter| waiter.cost);
                !matches!(self.fits(*topic, first, bounds), Err(Full::Topic(_)))
            };
            if self.lines.contains_key(&topic) || self.lines.iter().any(waits_for_queue) {
                return Err(Full::Queue);
            }
        }
        self.hold(topic, Held { captures: 1, bytes: cost });
        Ok(())
    }

    fn fits(&self, topic: Option<Topic>, cost: usize, bounds: Bounds) -> Result<(), Full> {
        let captures_free = bounds.captures_max - self.held.captures;
        let bytes_free = bounds.bytes_max - self.held.bytes;
        if captures_free == 0 || cost > bytes_free {
            return Err(Full::Queue);
        }
        let share = topic.and_then(|topic| Some((topic, self.by_topic.get(topic.index())?)));
        match share {
            Some((topic, held))
                if held.captures >= captures_free.saturating_mul(SHARE)
                    || held.bytes + cost > bytes_free.saturating_mul(SHARE) =>
            {
                Err(Full::Topic(topic))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn hold(&mut self, topic: Option<Topic>, more: Held) {
        self.held.captures += more.captures;
        self.held.bytes += more.bytes;
        if let Some(held) = topic.and_then(|topic| self.by_topic.get_mut(topic.index())) {
            held.captures += more.captures;
            held.bytes += more.bytes;
        }
    }

    fn release(&mut self, topic: Option<Topic>, freed: Held) {
        self.held.captures -= freed.captures;
        self.held.bytes -= freed.bytes;
        if let Some(held) = topic.and_then(|topic| self.by_topic.get_mut(topic.index())) {
            held.captures -= freed.captures;
            held.bytes -= freed.bytes;
        }
    }

    /// Gives what room there is to those in line. They are to be told once the lock is free.
    fn give_room(&mut self, bounds: Bounds) -> Vec<Waiter> {
        let mut given = Vec::new();
        while self.is_open
            && let Some(topic) = self.next_in_line(bounds)
            && let Some(line) = self.lines.get_mut(&topic)
            && let Some(first) = line.waiters.pop_front()
        {
            line.bytes -= first.cost;
            if line.waiters.is_empty() {
                self.lines.remove(&topic);
            }
            self.line_bytes -= first.cost;
            self.hold(topic, Held { captures: 1, bytes: first.cost });
            given.push(first);
        }
        given
    }

    /// Whose turn it is: of those whose topic has room in its share, the first that came, if there is room for it.
    fn next_in_line(&self, bounds: Bounds) -> Option<Option<Topic>> {
        let firsts = self.lines.iter().filter_map(|(topic, line)| Some((line.waiters.front()?, *topic)));
        let fits = firsts.map(|(first, topic)| (first.ticket, topic, self.fits(topic, first.cost, bounds)));
        let next = fits.filter(|(.., fits)| !matches!(fits, Err(Full::Topic(_)))).min_by_key(|(ticket, ..)| *ticket);
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
            if !entries.leave_line(self) && !entries.is_closed {
                entries.release(self.topic, Held { captures: 1, bytes: self.cost });
            }
            // Also when it stood first: what was too little for it may be enough for the next.
            entries.give_room(self.queue.bounds)
        };
        tell(given);
    }
}

impl Entries {
    /// Whether the place was still in line. Behind the end nobody needs room, and those in line never had any.
    fn leave_line(&mut self, place: &Place<'_>) -> bool {
        let Some(line) = self.lines.get_mut(&place.topic) else { return false };
        let Ok(nth) = line.waiters.binary_search_by_key(&place.ticket, |waiter| waiter.ticket) else { return false };
        drop(line.waiters.remove(nth));
        line.bytes -= place.cost;
        if line.waiters.is_empty() {
            self.lines.remove(&place.topic);
        }
        self.line_bytes -= place.cost;
        true
    }
}
