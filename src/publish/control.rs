//! How the rest of the process steers the pump.

use std::mem;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread::Thread;
use std::time::Duration;
use std::time::Instant;

use crate::clock::Heartbeat;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Control {
    orders: Mutex<Orders>,
    turned: Heartbeat,
}

/// What the pump has not taken up yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Orders {
    /// Topics that may be published to from now on, by their place in [`crate::record::Topics::names`].
    pub(super) opened: Vec<usize>,
    /// When the pump ends although something waits. It stays once it is set.
    pub(super) give_up_at: Option<Instant>,
}

impl Control {
    /// These topics are there, by their place in [`crate::record::Topics::names`]: publish to them.
    pub(crate) fn publish(&self, topics: impl IntoIterator<Item = usize>, pump: &Thread) {
        self.lock().opened.extend(topics);
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

    /// The pump turns, and takes up what is new.
    pub(super) fn take(&self) -> Orders {
        self.turned.beat();
        let mut orders = self.lock();
        Orders { opened: mem::take(&mut orders.opened), give_up_at: orders.give_up_at }
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
