//! The messages between the pump and the rest of the process.

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

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Control {
    orders: Mutex<Orders>,
    heartbeat: Heartbeat,
    /// The thread that watches the topics.
    watcher: OnceLock<Thread>,
    /// The pump requests the topics' limits.
    is_requested: AtomicBool,
}

/// The messages that the pump has not read yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Orders {
    /// Topics that may be published to from now on, by index in [`crate::record::Topics::names`].
    pub(super) opened: Vec<usize>,
    /// The smallest known limit of the topics, in bytes of a batch, if the limits were read again.
    pub(super) limit: Option<Option<usize>>,
    /// Topics for which the pump asks whether they have leaders, by index.
    pub(super) suspects: Vec<usize>,
    /// Topics whose records have had no delivery report for a while, by index.
    pub(super) unconfirmed: Vec<usize>,
    /// The answers: topics, each with whether it has leaders.
    pub(super) have_leaders: Vec<(usize, bool)>,
    /// When the pump ends even if something is undelivered. It stays set.
    pub(super) give_up_at: Option<Instant>,
    /// The pump has read a limit that its producer does not observe yet.
    pub(super) is_applying: bool,
}

impl Control {
    /// Opens topics, by index in [`crate::record::Topics::names`].
    pub(crate) fn publish(&self, topics: impl IntoIterator<Item = usize>, pump: &Thread) {
        self.lock().opened.extend(topics);
        pump.unpark();
    }

    /// Passes on the smallest known limit of the topics, in bytes of a batch.
    pub(crate) fn limit(&self, smallest: Option<usize>, pump: &Thread) {
        self.lock().limit = Some(smallest);
        pump.unpark();
    }

    /// Makes the pump end when the backlog ends, or at `deadline`.
    pub(crate) fn give_up_at(&self, deadline: Instant, pump: &Thread) {
        self.lock().give_up_at = Some(deadline);
        pump.unpark();
    }

    /// The time since the pump last ran.
    pub(crate) fn heartbeat_age(&self) -> Duration {
        self.heartbeat.age()
    }

    /// Makes this thread the one that watches the topics. It is unparked for requests of the pump.
    pub(super) fn set_watcher(&self) {
        // There is only one such thread; a second call has no effect.
        let _first = self.watcher.set(thread::current());
    }

    /// Whether the pump has requested the topics' limits since the last call.
    pub(super) fn take_limits_request(&self) -> bool {
        self.is_requested.swap(false, Ordering::Relaxed)
    }

    /// Whether the pump's producer observes the last limit.
    pub(super) fn has_applied_limit(&self) -> bool {
        let orders = self.lock();
        orders.limit.is_none() && !orders.is_applying
    }

    /// Records that the pump runs, and takes the messages for it.
    pub(super) fn take(&self) -> Orders {
        self.heartbeat.beat();
        let mut orders = self.lock();
        orders.is_applying |= orders.limit.is_some();
        let is_applying = orders.is_applying;
        let (opened, limit) = (mem::take(&mut orders.opened), orders.limit.take());
        let (have_leaders, give_up_at) = (mem::take(&mut orders.have_leaders), orders.give_up_at);
        Orders { opened, limit, have_leaders, give_up_at, is_applying, ..Orders::default() }
    }

    /// Records that the pump's producer observes the limit.
    pub(super) fn limit_is_applied(&self) {
        self.lock().is_applying = false;
    }

    /// Requests the topics' limits. Returns whether there is a thread to answer, by [`Control::limit`].
    pub(super) fn ask_for_limits(&self) -> bool {
        self.is_requested.store(true, Ordering::Relaxed);
        self.watcher.get().map(Thread::unpark).is_some()
    }

    /// Asks whether these topics have leaders. The answer comes with [`Control::take`].
    pub(super) fn ask_for_leaders(&self, topics: Vec<usize>) {
        self.lock().suspects.extend(topics);
        self.watcher.get().map(Thread::unpark);
    }

    /// Requests a log line about why records of these topics have no delivery report.
    pub(super) fn report_unconfirmed(&self, topics: Vec<usize>) {
        self.lock().unconfirmed.extend(topics);
        self.watcher.get().map(Thread::unpark);
    }

    /// The topics that [`Control::report_unconfirmed`] was called for.
    pub(super) fn take_unconfirmed(&self) -> Vec<usize> {
        mem::take(&mut self.lock().unconfirmed)
    }

    /// The topics for which the pump asks whether they have leaders. The caller must answer.
    pub(super) fn take_suspects(&self) -> Vec<usize> {
        mem::take(&mut self.lock().suspects)
    }

    /// Answers for each of these topics whether it has leaders. The pump reads it in its next iteration.
    pub(super) fn have_leaders(&self, answers: impl Iterator<Item = (usize, bool)>) {
        self.lock().have_leaders.extend(answers);
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
