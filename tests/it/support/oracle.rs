//! Judges what came out of Kafka by what the senders of a load were told.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::load::Outcome;
use crate::support::reader::Record;

/// What became of a load.
#[derive(Debug)]
pub(crate) struct Judged {
    /// The sequences that were answered 200.
    pub(crate) acknowledged: BTreeSet<u64>,
    /// The sequences that were answered 503.
    pub(crate) unavailable: BTreeSet<u64>,
    /// The sequences that had no answer.
    pub(crate) unanswered: BTreeSet<u64>,
    /// The sequences that are in Kafka.
    pub(crate) seen: BTreeSet<u64>,
}

/// Compares records of the load's topic, in the order of each partition, with what was sent.
///
/// # Panics
/// When something answered 200 is missing, something came out that nobody sent, a key's order is broken beyond repeats, or
/// something was answered neither 200 nor 503.
pub(crate) fn judge(outcome: &Outcome, records: &[Record]) -> Judged {
    let with = |status: Option<u16>| -> BTreeSet<u64> {
        outcome.issued.iter().filter(|sent| sent.status == status).map(|sent| sent.sequence).collect()
    };
    let (acknowledged, unavailable, unanswered) = (with(Some(200)), with(Some(503)), with(None));
    let answered_so = acknowledged.len() + unavailable.len() + unanswered.len();
    assert_eq!(answered_so, outcome.issued.len(), "a status that is none of these");
    let seen = seen(outcome, records);
    let missing: Vec<_> = acknowledged.difference(&seen).collect();
    assert!(
        missing.is_empty(),
        "{} of {} acknowledged are not in Kafka: {missing:?}",
        missing.len(),
        acknowledged.len()
    );
    Judged { acknowledged, unavailable, unanswered, seen }
}

/// The sequences that came out.
///
/// # Panics
/// When nobody sent one of them, or a key's order is broken beyond repeats.
pub(crate) fn seen(outcome: &Outcome, records: &[Record]) -> BTreeSet<u64> {
    let mut tally = Tally::of(outcome);
    for record in records {
        tally.see(record);
    }
    assert!(tally.disorder.is_empty(), "{:?}", tally.disorder);
    tally.seen
}

/// What came out so far, record by record.
#[derive(Debug)]
pub(crate) struct Tally<'o> {
    issued: BTreeMap<u64, &'o str>,
    latest: BTreeMap<String, u64>,
    /// The sequences that came out.
    pub(crate) seen: BTreeSet<u64>,
    /// How many records were not the first of their callback.
    pub(crate) repeats: u64,
    /// Where the order of a key was broken beyond repeats.
    pub(crate) disorder: Vec<String>,
}

impl<'o> Tally<'o> {
    pub(crate) fn of(outcome: &'o Outcome) -> Self {
        let issued = outcome.issued.iter().map(|sent| (sent.sequence, sent.key.as_str())).collect();
        Self { issued, latest: BTreeMap::new(), seen: BTreeSet::new(), repeats: 0, disorder: Vec::new() }
    }

    /// # Panics
    /// When nobody sent it.
    pub(crate) fn see(&mut self, record: &Record) {
        let (key, sequence) = identity(record);
        assert_eq!(self.issued.get(&sequence), Some(&key.as_str()), "nobody sent {sequence} for {key}");
        if !self.seen.insert(sequence) {
            self.repeats += 1;
            return;
        }
        let before = self.latest.insert(key.clone(), sequence);
        if before.is_some_and(|before| before >= sequence) {
            self.disorder.push(format!("{key}: {sequence} came first behind {before:?}"));
        }
    }
}

/// The key and the sequence of a callback of the load.
fn identity(record: &Record) -> (String, u64) {
    let envelope: Value = serde_json::from_slice(&record.value).unwrap();
    let callback = &envelope["data"]["callback"];
    let key = callback["Official_Account"].as_str().unwrap();
    assert_eq!(record.key.as_deref(), Some(key.as_bytes()));
    (key.to_owned(), callback["Name"].as_str().unwrap().parse().unwrap())
}

/// The sequence of a callback of the load.
pub(crate) fn sequence(record: &Record) -> u64 {
    identity(record).1
}
