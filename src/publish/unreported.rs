//! The records with the client that have no delivery report yet, by record number.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::journal::Seq;
use crate::record::Topic;

/// A record with the client.
#[derive(Debug)]
pub(super) struct Sent {
    /// The topic of its outbox. The record may go to the dead-letter topic instead.
    pub(super) topic: Topic,
    /// Its capture.
    pub(super) seq: Seq,
    /// The part of the capture.
    pub(super) part: usize,
    pub(super) dead_letter_reason: Option<&'static str>,
    pub(super) sent_at: Instant,
    /// As [`crate::record::Record::bytes`].
    pub(super) bytes: usize,
}

/// See the [module](self). Its memory use follows its contents.
#[derive(Debug, Default)]
pub(super) struct Unreported {
    sent: BTreeMap<usize, Sent>,
    next_number: usize,
}

impl Unreported {
    /// The number of the next record.
    pub(super) const fn next_number(&self) -> usize {
        self.next_number
    }

    /// Inserts a record that was sent with the number [`Unreported::next_number`].
    pub(super) fn insert(&mut self, sent: Sent) {
        self.sent.insert(self.next_number, sent);
        self.next_number += 1;
    }

    pub(super) fn remove(&mut self, record_number: usize) -> Option<Sent> {
        self.sent.remove(&record_number)
    }

    pub(super) fn len(&self) -> usize {
        self.sent.len()
    }

    /// When the oldest record was sent.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.sent.first_key_value().map(|(_, sent)| sent.sent_at)
    }

    /// Removes all records.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Sent> + use<> {
        std::mem::take(&mut self.sent).into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Apps;
    use crate::clock;
    use crate::record::Topics;

    #[test]
    fn reports_in_any_order_leave_the_oldest_first() {
        let topic = Topics::new(["t"]).dead_letters(Apps::new([1]).iter().next().unwrap());
        let (mut unreported, began) = (Unreported::default(), clock::monotonic());
        let sent_at = |nth: u64| began + std::time::Duration::from_secs(nth);
        for nth in 0..4 {
            assert_eq!(unreported.next_number() as u64, nth);
            unreported.insert(Sent {
                topic,
                seq: nth,
                part: 0,
                dead_letter_reason: None,
                sent_at: sent_at(nth),
                bytes: 0,
            });
        }
        for (number, oldest) in [(2, Some(0)), (0, Some(1)), (1, Some(3)), (3, None)] {
            assert_eq!(unreported.remove(number).map(|sent| sent.seq), Some(number as u64));
            assert_eq!(unreported.oldest(), oldest.map(sent_at));
        }
        assert!(unreported.remove(3).is_none(), "a report that names nothing");
        assert_eq!((unreported.len(), unreported.next_number()), (0, 4));
    }
}
