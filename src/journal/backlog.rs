//! The journal as the publisher reads it, in memory or on disk. Every capture has a sequence number, in the order of the journal, by which
//! it can be read again until it is settled.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::Thread;

use crate::ledger::Ledger;
use crate::record::Topic;
use crate::refusal::Refusal;

use super::entry::Entry;
use super::entry::LedgerState;
use super::entry::Position;
use super::entry::Ticket;
use super::entry::Undelivered;
use super::log::Seq;
use super::queue::Queue;
use super::room::Held;
use super::stored::Stored;

/// How many captures in memory are read again at a time.
const READ_MAX: usize = 256;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Backlog {
    source: BacklogSource,
    ledger: Ledger,
}

#[derive(Debug)]
enum BacklogSource {
    Memory(Memory),
    Disk(Box<Stored>),
}

/// What was taken from the queue and is not settled. It keeps its room in the queue, which bounds it.
#[derive(Debug)]
struct Memory {
    queue: Arc<Queue>,
    entries: BTreeMap<Seq, Entry>,
    next_seq: Seq,
    fresh: VecDeque<Entry>,
}

/// Outcomes of captures. Nothing is counted or acknowledged before they are passed to [`Backlog::settle`].
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    delivered: Vec<Ticket>,
    given_up: Vec<(Ticket, Refusal)>,
    moved: Vec<(Ticket, Topic)>,
}

impl Outcomes {
    /// Kafka has every record of a capture.
    pub(crate) fn delivered(&mut self, ticket: Ticket) {
        self.delivered.push(ticket);
    }

    /// Kafka will never accept a capture. On disk it stays for a later version or configuration; in memory it is lost.
    pub(crate) fn given_up(&mut self, ticket: Ticket, refusal: Refusal) {
        self.given_up.push((ticket, refusal));
    }

    /// A capture belongs to another topic than its key said.
    pub(crate) fn moved(&mut self, ticket: Ticket, topic: Topic) {
        self.moved.push((ticket, topic));
    }

    const fn is_empty(&self) -> bool {
        self.delivered.is_empty() && self.given_up.is_empty() && self.moved.is_empty()
    }
}

impl Backlog {
    pub(super) const fn in_memory(queue: Arc<Queue>, ledger: Ledger) -> Self {
        let memory = Memory { queue, entries: BTreeMap::new(), next_seq: 0, fresh: VecDeque::new() };
        Self { source: BacklogSource::Memory(memory), ledger }
    }

    pub(super) fn on_disk(stored: Stored, ledger: Ledger) -> Self {
        Self { source: BacklogSource::Disk(Box::new(stored)), ledger }
    }

    /// Sets the thread that reads. It is unparked when there is something to read.
    pub(crate) fn set_publisher(&self, publisher: Thread) {
        match &self.source {
            BacklogSource::Memory(memory) => memory.queue.set_taker(publisher),
            BacklogSource::Disk(stored) => stored.set_publisher(publisher),
        }
    }

    /// Whether captures that Kafka will never accept stay for the next start.
    pub(crate) const fn keeps_given_up(&self) -> bool {
        matches!(self.source, BacklogSource::Disk(_))
    }

    /// The sequence number behind everything that [`Backlog::read`] has returned.
    pub(crate) fn read_to(&self) -> Seq {
        match &self.source {
            BacklogSource::Memory(memory) => memory.next_seq,
            BacklogSource::Disk(stored) => stored.read_to(),
        }
    }

    /// Passes up to about `max` new captures to `give`, in order. Returns whether there may be more now.
    pub(crate) fn read(&mut self, max: usize, give: impl FnMut(&Undelivered<'_>)) -> bool {
        match &mut self.source {
            BacklogSource::Memory(memory) => memory.read(max, give),
            BacklogSource::Disk(stored) => stored.read(max, give),
        }
    }

    /// Whether everything was read and nothing more will come.
    pub(crate) fn is_at_end(&mut self) -> bool {
        match &mut self.source {
            BacklogSource::Memory(memory) => memory.queue.is_at_end(),
            BacklogSource::Disk(stored) => stored.is_at_end(),
        }
    }

    /// Passes some captures to `give` that were read before and are not settled, in order from `from` on. Returns where to continue and how
    /// many bytes were read; `None` at the end.
    pub(crate) fn read_again(&mut self, from: Position, give: impl FnMut(&Undelivered<'_>)) -> Option<(Position, u64)> {
        match &mut self.source {
            BacklogSource::Memory(memory) => memory.read_again(from.seq, give),
            BacklogSource::Disk(stored) => stored.read_again(from, give),
        }
    }

    /// Applies outcomes: answers the waiting requests, updates the ledger, and frees room.
    pub(crate) fn settle(&mut self, outcomes: &mut Outcomes) {
        if outcomes.is_empty() {
            return;
        }
        match &mut self.source {
            BacklogSource::Memory(memory) => memory.settle(outcomes, &self.ledger),
            BacklogSource::Disk(stored) => {
                outcomes.moved.iter().for_each(|(ticket, topic)| stored.moves_to(ticket, *topic));
                let (mut delivered, mut late) = (0, 0);
                for ticket in stored.delivered(&outcomes.delivered) {
                    // A late capture may be stored as counted: its request timed out while it was written.
                    let is_late = stored.take_late(ticket.position.seq);
                    late += u64::from(is_late);
                    delivered += u64::from(ticket.ledger_state == LedgerState::Counted && !is_late);
                }
                self.ledger.deliver_stored(delivered);
                self.ledger.late(late);
            }
        }
        outcomes.delivered.clear();
        outcomes.given_up.clear();
        outcomes.moved.clear();
    }
}

impl Memory {
    fn read(&mut self, max: usize, mut give: impl FnMut(&Undelivered<'_>)) -> bool {
        self.queue.take(max, &mut self.fresh);
        let has_more = self.fresh.len() >= max;
        for entry in self.fresh.drain(..) {
            give(&undelivered(self.next_seq, &entry));
            self.entries.insert(self.next_seq, entry);
            self.next_seq += 1;
        }
        has_more
    }

    fn read_again(&self, from: Seq, mut give: impl FnMut(&Undelivered<'_>)) -> Option<(Position, u64)> {
        let (mut last, mut bytes) = (None, 0);
        for (seq, entry) in self.entries.range(from..).take(READ_MAX) {
            give(&undelivered(*seq, entry));
            last = Some(*seq);
            bytes += entry.cost_bytes as u64;
        }
        last.map(|last| (Position { seq: last + 1, ..Position::default() }, bytes))
    }

    fn settle(&mut self, outcomes: &Outcomes, ledger: &Ledger) {
        for (ticket, topic) in &outcomes.moved {
            let entry = self.entries.get_mut(&ticket.position.seq).filter(|entry| entry.share_topic != Some(*topic));
            if let Some(entry) = entry
                && self.queue.move_share((entry.share_topic, *topic), Held::queued(entry.cost_bytes), || true)
            {
                entry.share_topic = Some(*topic);
            }
        }
        let (mut freed, mut delivered, mut late) = (Vec::new(), 0, 0);
        for ticket in &outcomes.delivered {
            let Some(mut entry) = self.entries.remove(&ticket.position.seq) else { continue };
            freed.push((entry.share_topic, Held::queued(entry.cost_bytes)));
            let is_in_time = entry.acknowledge();
            if entry.ledger_state == LedgerState::Counted {
                delivered += u64::from(is_in_time);
                late += u64::from(!is_in_time);
            }
        }
        for (ticket, refusal) in &outcomes.given_up {
            let Some(entry) = self.entries.remove(&ticket.position.seq) else { continue };
            freed.push((entry.share_topic, Held::queued(entry.cost_bytes)));
            entry.lose(refusal.clone(), ledger);
        }
        ledger.deliver(delivered);
        ledger.late(late);
        self.queue.free(freed);
    }
}

fn undelivered(seq: Seq, entry: &Entry) -> Undelivered<'_> {
    let position = Position { seq, ..Position::default() };
    let ticket = Ticket { position, ledger_state: entry.ledger_state, stored_bytes: 0, share: None };
    Undelivered { capture: &entry.capture, ticket, share_topic: entry.share_topic }
}
