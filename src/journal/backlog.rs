//! The journal as the publisher sees it, whatever it is made of.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::Thread;

use crate::ledger::Ledger;
use crate::record::Topic;
use crate::refusal::Reason;

use super::bell::Ring;
use super::entry::Entry;
use super::entry::Position;
use super::entry::Standing;
use super::log::Seq;
use super::queue::Queue;
use super::room::Freed;
use super::stored::Stored;

/// See the module.
#[derive(Debug)]
pub(crate) struct Backlog {
    form: Form,
    ledger: Ledger,
}

#[derive(Debug)]
enum Form {
    Memory(Arc<Queue>),
    Disk(Box<Stored>),
}

/// Entries that were settled, and whose end is not counted yet.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// The room in the queue that comes free.
    freed: Freed,
    delivered: u64,
    /// By number, each with what its record takes, in bytes.
    stored: Vec<(Seq, u32)>,
    /// Of each of those, whose share it takes.
    shares: Vec<Share>,
    late: u64,
    ring: Ring,
}

/// Whose share of the log a capture takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    /// That of the topic that it was taken for.
    pub(super) topic: Option<Topic>,
    /// Or of this one, if it was moved there.
    pub(super) dead_letters: Topic,
}

impl Backlog {
    pub(super) const fn in_memory(queue: Arc<Queue>, ledger: Ledger) -> Self {
        Self { form: Form::Memory(queue), ledger }
    }

    pub(super) fn on_disk(stored: Stored, ledger: Ledger) -> Self {
        Self { form: Form::Disk(Box::new(stored)), ledger }
    }

    /// Names the thread that takes, so that it is woken (`unpark`) when there is something to take.
    pub(crate) fn wakes(&self, taker: Thread) {
        match &self.form {
            Form::Memory(queue) => queue.wakes(taker),
            Form::Disk(stored) => stored.wakes(taker),
        }
    }

    /// Moves up to about `max` entries to `into`, oldest first. Returns whether there may be more at once.
    pub(crate) fn take(&mut self, max: usize, into: &mut VecDeque<Entry>) -> bool {
        match &mut self.form {
            Form::Memory(queue) => {
                queue.take(max, into);
                into.len() >= max
            }
            Form::Disk(stored) => stored.take(max, into),
        }
    }

    /// Whether nothing waits to be taken and nothing more will come.
    pub(crate) fn is_at_end(&mut self) -> bool {
        match &mut self.form {
            Form::Memory(queue) => queue.is_at_end(),
            Form::Disk(stored) => stored.is_at_end(),
        }
    }

    /// Reads some entries again, from `from` on, in order; some of them may have been delivered. `None` at the end of what there is, and
    /// where nothing can be read again. Returns where to read on, and how many bytes were read.
    pub(crate) fn read_again(&mut self, from: Position, take: impl FnMut(Entry)) -> Option<(Position, u64)> {
        match &mut self.form {
            Form::Memory(_) => None,
            Form::Disk(stored) => stored.read_again(from, take),
        }
    }

    /// Settles an entry all of whose records are in Kafka, and keeps the promise made for it. It counts, and who waits is told, at the
    /// next [`Backlog::free`].
    pub(crate) fn settle(&self, entry: &Entry, settled: &mut Settled) {
        if let Form::Disk(stored) = &self.form
            && let Some(position) = entry.position
        {
            settled.stored.push((position.seq, entry.record_bytes));
            settled.shares.push(stored.share_of(entry));
            // A late one may be marked as counted on disk: it was abandoned while it was written.
            let is_late = stored.take_late(position.seq);
            settled.late += u64::from(is_late);
            settled.delivered += u64::from(entry.standing == Standing::Counted && !is_late);
            return;
        }
        self.free_queued(entry, settled);
        if entry.standing == Standing::Counted {
            match &entry.promise {
                Some(promise) if !promise.keep(&mut settled.ring) => self.ledger.late(1),
                Some(_) | None => settled.delivered += 1,
            }
        }
    }

    /// Settles an entry that Kafka will never take. One that is on disk stays there, for a process that can do more with it. Any other
    /// is lost, and its sender, if still there, is told so. Returns whether it stays.
    pub(crate) fn give_up(&self, entry: &Entry, reason: Reason, settled: &mut Settled) -> bool {
        if entry.position.is_some() {
            return true;
        }
        self.free_queued(entry, settled);
        let mut ring = Ring::default();
        let is_ours_to_count = entry.promise.as_ref().is_none_or(|promise| promise.abandon(&mut ring));
        if entry.standing == Standing::Counted && is_ours_to_count {
            self.ledger.lose_queued(reason);
        }
        ring.out();
        false
    }

    /// Frees the room of what was settled, and counts what was delivered: once for many.
    pub(crate) fn free(&self, settled: &mut Settled) {
        let Settled { freed, delivered, stored: captures, shares, late, ring } = settled;
        match &self.form {
            Form::Memory(queue) if !freed.is_empty() => {
                queue.free(freed);
                self.ledger.deliver(*delivered);
            }
            Form::Disk(stored) if !captures.is_empty() => {
                stored.delivered(captures, shares);
                self.ledger.deliver_stored(*delivered);
                self.ledger.late(*late);
            }
            Form::Memory(_) | Form::Disk(_) => {}
        }
        // Now that it counts.
        ring.out();
        *delivered = 0;
        captures.clear();
        shares.clear();
        *late = 0;
    }

    /// Says that an entry goes to another topic than it was thought to, and takes of that one's share if there is room in it.
    pub(crate) fn moves_to(&self, entry: &Entry, topic: Topic) {
        if entry.topic.get().is_none_or(|counted| counted == topic) {
            return;
        }
        let has_moved = match &self.form {
            Form::Memory(queue) => {
                queue.move_share((entry.topic.get(), topic), queue.of_queued(entry.cost_bytes), || true)
            }
            Form::Disk(stored) => stored.moves_to(entry, topic),
        };
        if has_moved {
            entry.topic.set(Some(topic));
        }
    }

    /// Frees the room that an entry takes in the queue.
    fn free_queued(&self, entry: &Entry, settled: &mut Settled) {
        if let Form::Memory(queue) = &self.form {
            settled.freed.add(entry.topic.get(), queue.of_queued(entry.cost_bytes));
        }
    }
}
