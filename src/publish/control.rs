//! What the rest of the process and the pump have to tell each other.

use std::mem;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::Thread;
use std::time::Duration;
use std::time::Instant;

use crate::clock::Heartbeat;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Control {
    orders: Mutex<Orders>,
    turned: Heartbeat,
    /// The thread that watches the topics.
    watcher: OnceLock<Thread>,
    /// The pump asks for the topics' limits.
    is_asked: AtomicBool,
}

/// What the pump has not taken up yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Orders {
    /// Topics that may be published to from now on, by their place in [`crate::record::Topics::names`].
    pub(super) opened: Vec<usize>,
    /// The smallest limit of the topics that is known, in bytes of a batch, if it has been read again.
    pub(super) limit: Option<Option<usize>>,
    /// Topics of which the pump asks whether they have leaders, by their place among the names.
    pub(super) suspects: Vec<usize>,
    /// Topics whose records have had no delivery report for a while, by their place among the names.
    pub(super) unconfirmed: Vec<usize>,
    /// The answer: those of them that do.
    pub(super) with_leaders: Option<Vec<usize>>,
    /// When the pump ends although something waits. It stays once it is set.
    pub(super) give_up_at: Option<Instant>,
    /// The pump has taken up a limit, and its producer does not keep to it yet.
    pub(super) is_applying: bool,
}

impl Control {
    /// These topics are there, by their place in [`crate::record::Topics::names`]: publish to them.
    pub(crate) fn publish(&self, topics: impl IntoIterator<Item = usize>, pump: &Thread) {
        self.lock().opened.extend(topics);
        pump.unpark();
    }

    /// The topics' limits have been read: this is the smallest, in bytes of a batch, if any is known.
    pub(crate) fn limit(&self, smallest: Option<usize>, pump: &Thread) {
        self.lock().limit = Some(smallest);
        pump.unpark();
    }

    /// When the backlog ends, or at `deadline`, the pump ends.
    pub(crate) fn give_up_at(&self, deadline: Instant, pump: &Thread) {
        self.lock().give_up_at = Some(deadline);
        pump.unpark();
    }

    /// How long ago the pump turned last.
    pub(crate) fn turn_age(&self) -> Duration {
        self.turned.age()
    }

    /// This thread watches the topics. It is unparked when the pump asks for their limits.
    pub(super) fn topics_are_watched_here(&self) {
        // Nobody else does.
        let _first = self.watcher.set(thread::current());
    }

    /// Whether the pump asks for the topics' limits. It asks once.
    pub(super) fn takes_question(&self) -> bool {
        self.is_asked.swap(false, Ordering::Relaxed)
    }

    /// Whether the pump's producer keeps to the last limit.
    pub(super) fn has_applied_limit(&self) -> bool {
        let orders = self.lock();
        orders.limit.is_none() && !orders.is_applying
    }

    /// The pump turns, and takes up what is new.
    pub(super) fn take(&self) -> Orders {
        self.turned.beat();
        let mut orders = self.lock();
        orders.is_applying |= orders.limit.is_some();
        let is_applying = orders.is_applying;
        let (opened, limit) = (mem::take(&mut orders.opened), orders.limit.take());
        let (with_leaders, give_up_at) = (orders.with_leaders.take(), orders.give_up_at);
        Orders { opened, limit, with_leaders, give_up_at, is_applying, ..Orders::default() }
    }

    /// The pump's producer keeps to the limit that it took up.
    pub(super) fn limit_is_applied(&self) {
        self.lock().is_applying = false;
    }

    /// Asks for the topics' limits. Returns whether somebody will answer, by [`Control::limit`].
    pub(super) fn ask_for_limits(&self) -> bool {
        self.is_asked.store(true, Ordering::Relaxed);
        self.watcher.get().map(Thread::unpark).is_some()
    }

    /// Asks whether these topics have leaders. The answer comes with [`Control::take`].
    pub(super) fn ask_for_leaders(&self, topics: Vec<usize>) {
        self.lock().suspects.extend(topics);
        self.watcher.get().map(Thread::unpark);
    }

    /// Asks for a log line that says why records of these topics have no delivery report.
    pub(super) fn report_unconfirmed(&self, topics: Vec<usize>) {
        self.lock().unconfirmed.extend(topics);
        self.watcher.get().map(Thread::unpark);
    }

    /// The topics that [`Control::report_unconfirmed`] was called for.
    pub(super) fn take_unconfirmed(&self) -> Vec<usize> {
        mem::take(&mut self.lock().unconfirmed)
    }

    /// The topics of which the pump asks whether they have leaders. It must be answered.
    pub(super) fn take_suspects(&self) -> Vec<usize> {
        mem::take(&mut self.lock().suspects)
    }

    /// Of the topics that were asked about, these have leaders. The pump looks at this at its next turn.
    pub(super) fn have_leaders(&self, topics: Vec<usize>) {
        self.lock().with_leaders = Some(topics);
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
