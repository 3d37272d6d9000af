//! The ledger: every callback is in exactly one account, so the accounts always add up.
//!
//! `received + recovered = refused{reason} + lost{reason} + delivered + waiting{where}`
//!
//! A callback moves between accounts under one lock, so every reading balances; no account is computed from the others. The lock is held
//! for a few additions, three times for each callback.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::command::Command;
use crate::refusal::LedgerAccount;
use crate::refusal::Reason;

/// The ledger at one moment. All counts are callbacks since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balance {
    /// Received, by command of the table; the last is for all other commands.
    pub received: [u64; Command::COUNT + 1],
    /// Found undelivered in the journal at the start.
    pub recovered: u64,
    /// By [`Reason`], whose account is [`LedgerAccount::Refused`] or [`LedgerAccount::Lost`].
    pub ended: [u64; Reason::ALL.len()],
    /// All their records are in Kafka.
    pub delivered: u64,
    /// Their request is being read, or waits for room.
    pub waiting_request: u64,
    /// In memory, and not known to be on disk or in Kafka.
    pub waiting_queue: u64,
    /// On disk, and not known to be in Kafka.
    pub waiting_journal: u64,
    /// Not an account: of the lost callbacks, those whose records were delivered after all.
    pub late: u64,
}

impl Default for Balance {
    /// All zero.
    fn default() -> Self {
        Self {
            received: [0; Command::COUNT + 1],
            recovered: 0,
            ended: [0; Reason::ALL.len()],
            delivered: 0,
            waiting_request: 0,
            waiting_queue: 0,
            waiting_journal: 0,
            late: 0,
        }
    }
}

impl Balance {
    /// All received callbacks.
    pub fn received_total(&self) -> u64 {
        self.received.iter().sum()
    }

    /// All callbacks that ended in `account`.
    pub fn ended_total(&self, account: LedgerAccount) -> u64 {
        let reasons = Reason::ALL.into_iter().filter(|reason| reason.account() == account);
        reasons.filter_map(|reason| self.ended.get(reason.index())).sum()
    }

    /// All callbacks that have not ended.
    pub const fn waiting_total(&self) -> u64 {
        self.waiting_request + self.waiting_queue + self.waiting_journal
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "ledger received={} recovered={} refused={} lost={} delivered={} waiting={}",
            self.received_total(),
            self.recovered,
            self.ended_total(LedgerAccount::Refused),
            self.ended_total(LedgerAccount::Lost),
            self.delivered,
            self.waiting_total(),
        )
    }
}

/// The accounts of all callbacks. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    balance: Arc<Mutex<Balance>>,
}

impl Ledger {
    /// Counts a received callback. It is waiting in its request until its [`Receipt`] ends.
    pub fn receive(&self, command: Option<Command>) -> Receipt<'_> {
        let mut balance = self.lock();
        if let Some(received) = balance.received.get_mut(command.map_or(Command::COUNT, Command::index)) {
            *received += 1;
        }
        balance.waiting_request += 1;
        Receipt { ledger: self, is_open: true }
    }

    /// Moves one callback from its request to the queue.
    pub fn queue(&self) {
        let mut balance = self.lock();
        balance.waiting_request -= 1;
        balance.waiting_queue += 1;
    }

    /// Moves one callback from its request to the account of `reason`.
    pub fn end_waiting(&self, reason: Reason) {
        let mut balance = self.lock();
        balance.waiting_request -= 1;
        balance.end(reason);
    }

    /// Moves `count` callbacks from the queue to delivered.
    pub fn deliver(&self, count: u64) {
        let mut balance = self.lock();
        balance.waiting_queue -= count;
        balance.delivered += count;
    }

    /// Counts callbacks that were found undelivered in the journal.
    pub fn recover(&self, count: u64) {
        let mut balance = self.lock();
        balance.recovered += count;
        balance.waiting_journal += count;
    }

    /// Moves `count` callbacks from the queue to the journal.
    pub fn store(&self, count: u64) {
        let mut balance = self.lock();
        balance.waiting_queue -= count;
        balance.waiting_journal += count;
    }

    /// Moves `count` callbacks from the journal to delivered.
    pub fn deliver_stored(&self, count: u64) {
        let mut balance = self.lock();
        balance.waiting_journal -= count;
        balance.delivered += count;
    }

    /// Moves one callback from the queue to lost: its sender got 503.
    pub fn lose_queued(&self, reason: Reason) {
        let mut balance = self.lock();
        balance.waiting_queue -= 1;
        balance.end(reason);
    }

    /// Counts lost callbacks whose records were delivered after all. They stay lost.
    pub fn late(&self, count: u64) {
        self.lock().late += count;
    }

    /// A reading of all accounts at one moment.
    pub fn read(&self) -> Balance {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Balance> {
        self.balance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Balance {
    fn end(&mut self, reason: Reason) {
        if let Some(ended) = self.ended.get_mut(reason.index()) {
            *ended += 1;
        }
    }
}

/// A received callback, which must end in an account. If it is dropped before, its sender has broken the request off.
#[derive(Debug)]
pub struct Receipt<'l> {
    ledger: &'l Ledger,
    is_open: bool,
}

impl Receipt<'_> {
    /// The owner of the capture accounts for the callback from here on. It is still waiting in its request.
    pub fn hand_over(mut self) {
        self.is_open = false;
    }

    /// Ends the callback with this reason.
    pub fn end(mut self, reason: Reason) {
        self.close(reason);
    }

    fn close(&mut self, reason: Reason) {
        self.is_open = false;
        self.ledger.end_waiting(reason);
    }
}

impl Drop for Receipt<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.close(Reason::BrokenOff);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn queue(receipt: Receipt<'_>) {
        let ledger = receipt.ledger;
        receipt.hand_over();
        ledger.queue();
    }

    fn is_balanced(balance: &Balance) -> bool {
        let ended = balance.ended_total(LedgerAccount::Refused) + balance.ended_total(LedgerAccount::Lost);
        balance.received_total() + balance.recovered == ended + balance.delivered + balance.waiting_total()
    }

    proptest! {
        #[test]
        fn it_balances_whatever_happens(fates in prop::collection::vec(0..9_u8, 0..50)) {
            let ledger = Ledger::default();
            for fate in fates {
                let receipt = ledger.receive(None);
                match fate {
                    0 => receipt.end(Reason::NotJson),
                    1 => drop(receipt),
                    2 => queue(receipt),
                    3 => { queue(receipt); ledger.deliver(1) }
                    4 => { queue(receipt); ledger.lose_queued(Reason::Deadline); ledger.late(1) }
                    5 => { queue(receipt); ledger.store(1) }
                    6 => { queue(receipt); ledger.store(1); ledger.deliver_stored(1) }
                    7 => { receipt.hand_over(); ledger.end_waiting(Reason::Deadline) }
                    _ => { drop(receipt); ledger.recover(1) }
                }
                prop_assert!(is_balanced(&ledger.read()));
            }
        }
    }

    #[test]
    fn the_line_at_exit_names_every_account() {
        let ledger = Ledger::default();
        queue(ledger.receive(Command::find("State.StateChange")));
        ledger.receive(None).end(Reason::AppUnknown);
        ledger.receive(None).end(Reason::QueueFull);
        queue(ledger.receive(None));
        ledger.deliver(1);
        assert_eq!(ledger.read().to_string(), "ledger received=4 recovered=0 refused=1 lost=1 delivered=1 waiting=1");
    }

    #[test]
    fn a_callback_whose_sender_went_away_is_refused_as_broken_off() {
        let ledger = Ledger::default();
        drop(ledger.receive(None));
        assert_eq!(ledger.read().ended[Reason::BrokenOff.index()], 1);
    }
}
