//! One capture in the journal.

use std::cell::Cell;

use crate::capture::Capture;
use crate::record::Topic;

use super::log::Seq;
use super::log::cursor::Place;
use super::promise::Promise;

/// A capture on its way to Kafka.
#[derive(Debug)]
pub(crate) struct Entry {
    /// What is on its way. Behind a pointer, as an entry is moved half a dozen times.
    pub(crate) capture: Box<Capture>,
    /// What it costs. Here, because whoever settles it has no other reason to look at the capture.
    pub(crate) cost_bytes: usize,
    /// Its key in the log, where there is one.
    pub(super) key: u32,
    /// Whose share of the room it takes, if a topic's. A cell, as that may turn out while a record is made of the capture.
    pub(super) topic: Cell<Option<Topic>>,
    pub(super) standing: Standing,
    pub(super) promise: Option<Promise>,
    /// What its record takes, in bytes, if it is on disk.
    pub(super) record_bytes: u32,
    /// Where it can be read again, if it is on disk.
    pub(crate) position: Option<Position>,
}

/// What the ledger makes of an entry's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It waits to be delivered.
    Counted,
    /// It was refused, and that is counted already.
    Uncounted,
}

/// Where a capture is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// Its number.
    pub(crate) seq: Seq,
    /// Its frame.
    pub(crate) place: Place,
}

impl Entry {
    pub(super) fn new(capture: Box<Capture>, standing: Standing, promise: Option<Promise>) -> Self {
        let cost_bytes = capture.cost_bytes();
        Self { capture, cost_bytes, key: 0, topic: Cell::new(None), standing, promise, record_bytes: 0, position: None }
    }
}
