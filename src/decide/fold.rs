//! The rules of a topic as a function of its log: what each record does to them, and when the log is not the one it was.
//!
//! Pure, and the same for a replica that was there all the time and for one that starts later. [`TopicReading`] takes the log from its
//! start to its end; no rule of it holds before, since a prefix of a compacted log is a state that never was. [`TopicFollowing`] takes
//! what comes then. Offsets alone order records: no clock does.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::decide::rule::Rule;
use crate::decide::rules::Change;
use crate::decide::rules::Rules;
use crate::decide::rules::gathered::Gathered;
use crate::decide::topic::key;
use crate::decide::topic::key::TopicIdentity;
use crate::decide::topic::key::TopicKey;
use crate::decide::topic::poison::Poison;
use crate::decide::topic::value;
use crate::decide::topic::value::RuleValue;

/// The most identities that are remembered, of either kind. Beyond them every other counts as undeclared.
const IDENTITIES_MAX: usize = 64;

/// A record as it is in the log.
#[derive(Debug, Clone, Copy)]
pub struct LogRecord<'a> {
    /// Its offset.
    pub offset: u64,
    /// Its timestamp in milliseconds, as Kafka has it; -1 if it has none.
    pub timestamp: i64,
    /// Its key, unless that is null.
    pub key: Option<&'a [u8]>,
    /// Its value; null where the rule is gone.
    pub value: Option<&'a [u8]>,
    /// Its header [`TOPIC_HEADER`](crate::decide::topic::TOPIC_HEADER), if it has one.
    pub topic: Option<&'a [u8]>,
}

/// Why a log has to be read from its start again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StartOver {
    /// The log was cut, or is another.
    #[error("the record at offset {offset} comes behind the one before offset {next}: the log was truncated")]
    Truncated {
        /// Of the record that came.
        offset: u64,
        /// Behind the record before.
        next: u64,
    },
    /// The topic was deleted and made again, while nobody looked.
    #[error("a record is of the topic's identity {0}, which was not there before: the topic was made again")]
    Identity(TopicIdentity),
    /// A record that was read is not there any more.
    #[error("the record at offset {} is not the one that was read there: the topic was made again, or truncated", .0.offset)]
    Replaced(LogMark),
}

/// What is known of a log beside its rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// The offset behind the last record.
    pub next: u64,
    /// Every identity that a record has declared.
    pub declared: BTreeSet<TopicIdentity>,
    /// The first record of it.
    pub first: Option<LogMark>,
    /// The last record of it.
    pub last: Option<LogMark>,
    /// Identities that headers name and no earlier record has declared: of records that somebody copied here, or that were on their way
    /// when the topic was made again.
    pub undeclared: BTreeSet<TopicIdentity>,
    /// Records that could not be used.
    pub poison: u64,
}

/// A record by which a log is recognised: another log has another record at this offset, written at another time, even if somebody copies
/// the records of the first into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogMark {
    /// Its offset.
    pub offset: u64,
    /// Its timestamp.
    pub timestamp: i64,
}

impl LogMark {
    /// The mark that `record` is.
    pub const fn of(record: &LogRecord<'_>) -> Self {
        Self { offset: record.offset, timestamp: record.timestamp }
    }
}

impl LogPosition {
    /// Moves behind `record`.
    fn advance(&mut self, record: &LogRecord<'_>) -> Result<(), StartOver> {
        if record.offset < self.next {
            return Err(StartOver::Truncated { offset: record.offset, next: self.next });
        }
        let mark = LogMark::of(record);
        self.next = record.offset.saturating_add(1);
        self.first.get_or_insert(mark);
        self.last = Some(mark);
        Ok(())
    }

    fn declare(&mut self, identity: TopicIdentity) {
        if self.declared.len() < IDENTITIES_MAX {
            self.declared.insert(identity);
        }
    }
}

/// What one record says.
enum RecordEffect<'r> {
    Put(Rule<'r>, Cow<'r, RuleValue<'r>>),
    /// The rule is gone, rightly or for the fault of its record.
    Gone(Rule<'r>),
    Nothing,
}

/// A topic that is read from its start.
#[derive(Debug)]
pub struct TopicReading {
    rules: Gathered,
    position: LogPosition,
    /// The value that came last, which the records of an import share.
    last: Option<(Box<[u8]>, RuleValue<'static>)>,
    records: u64,
}

impl Default for TopicReading {
    fn default() -> Self {
        Self { rules: Gathered::of_log(), position: LogPosition::default(), last: None, records: 0 }
    }
}

impl TopicReading {
    /// Applies the next record. Returns what is wrong with it, if something is.
    ///
    /// # Errors
    ///
    /// The log has changed under the reader, who has to start over.
    pub fn apply(&mut self, record: &LogRecord<'_>) -> Result<Option<Poison>, StartOver> {
        self.position.advance(record)?;
        self.records += 1;
        let is_same = self.last.as_ref().is_some_and(|(bytes, _value)| record.value == Some(bytes));
        if !is_same && let Some(bytes) = record.value {
            self.last = value::decode(bytes).ok().map(|value| (bytes.into(), value.into_owned()));
        }
        let known = self.last.as_ref().map(|(_bytes, value)| value).filter(|_value| record.value.is_some());
        let (said, poison) = said(record, &mut self.position, known);
        match said {
            RecordEffect::Put(rule, value) => self.rules.put_record(&rule, &value),
            RecordEffect::Gone(rule) => self.rules.remove_record(&rule),
            RecordEffect::Nothing => {}
        }
        self.position.poison += u64::from(poison.is_some());
        Ok(poison)
    }

    /// How many records were applied.
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// The offset behind the last record.
    pub const fn next(&self) -> u64 {
        self.position.next
    }

    /// Ends the reading where the log ends. `undeclared` are the identities that were found undeclared by the reading before, if that
    /// ended. `Err`: there are others now, so that the topic may have been made again during this reading: it is to be read once more.
    pub fn finish(self, undeclared: &BTreeSet<TopicIdentity>) -> Result<TopicFollowing, BTreeSet<TopicIdentity>> {
        if !self.position.undeclared.is_subset(undeclared) {
            return Err(self.position.undeclared);
        }
        let rules = Arc::new(self.rules.finish());
        Ok(TopicFollowing { rules, position: self.position, changes: Vec::new(), is_empty: self.records == 0 })
    }
}

/// A topic that was read to its end, and what comes behind.
#[derive(Debug)]
pub struct TopicFollowing {
    rules: Arc<Rules>,
    position: LogPosition,
    /// Not in the rules yet.
    changes: Vec<Change<'static>>,
    /// No record has come yet.
    is_empty: bool,
}

impl TopicFollowing {
    /// Takes up the next record, which [`Self::commit`] then applies. Returns what is wrong with it, if something is.
    ///
    /// # Errors
    ///
    /// The log is not the one it was. The rules hold until it is read again.
    pub fn apply(&mut self, record: &LogRecord<'_>) -> Result<Option<Poison>, StartOver> {
        if let Some(identity) = self.unknown_identity(record) {
            return Err(StartOver::Identity(identity));
        }
        self.position.advance(record)?;
        self.is_empty = false;
        let (said, poison) = said(record, &mut self.position, None);
        match said {
            RecordEffect::Put(rule, value) => {
                let RuleValue { until, provenance } = value.into_owned().into_owned();
                let rule = rule.into_owned();
                self.changes.push(Change::Put { rule, until, provenance });
            }
            RecordEffect::Gone(rule) => self.changes.push(Change::Remove(rule.into_owned())),
            RecordEffect::Nothing => {}
        }
        self.position.poison += u64::from(poison.is_some());
        Ok(poison)
    }

    /// Makes the version of the rules with all changes that were taken up.
    pub fn commit(&mut self) {
        if !self.changes.is_empty() {
            self.rules = Arc::new(self.rules.changed(self.changes.drain(..)));
        }
    }

    /// The rules as of the last [`Self::commit`].
    pub const fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// What is known of the log.
    pub const fn position(&self) -> &LogPosition {
        &self.position
    }

    /// The identity that `record` declares or names, if this topic did not have it when it was read.
    fn unknown_identity(&self, record: &LogRecord<'_>) -> Option<TopicIdentity> {
        let declared = match key::decode(record.key) {
            // The first writer of an empty topic.
            Ok(TopicKey::Identity(_)) if self.is_empty => None,
            Ok(TopicKey::Identity(identity)) => Some(identity),
            Ok(TopicKey::Rule(_)) | Err(_) => None,
        };
        let named = || header(record).ok().flatten().filter(|_identity| !self.is_empty);
        let LogPosition { declared: known, undeclared, .. } = &self.position;
        declared.or_else(named).filter(|identity| !known.contains(identity) && !undeclared.contains(identity))
    }
}

fn header(record: &LogRecord<'_>) -> Result<Option<TopicIdentity>, Poison> {
    let text = |bytes| str::from_utf8(bytes).map_err(|_error| Poison::Header)?.parse();
    record.topic.map(text).transpose()
}

/// What `record` says, and what is wrong with it. `known` is its value, if it is known already.
fn said<'r>(
    record: &LogRecord<'r>,
    position: &mut LogPosition,
    known: Option<&'r RuleValue<'static>>,
) -> (RecordEffect<'r>, Option<Poison>) {
    let rule = match key::decode(record.key) {
        Ok(TopicKey::Rule(rule)) => rule,
        Ok(TopicKey::Identity(identity)) => {
            // One that was removed stays known: records that name it are still of this topic.
            position.declare(identity);
            return (RecordEffect::Nothing, None);
        }
        Err(poison) => return (RecordEffect::Nothing, Some(poison)),
    };
    match header(record) {
        // It counts all the same: Kafka may have acknowledged it to a writer that did not know yet that the topic was made again.
        Ok(Some(identity)) if !position.declared.contains(&identity) => {
            if position.undeclared.len() < IDENTITIES_MAX {
                position.undeclared.insert(identity);
            }
        }
        Ok(_) => {}
        Err(poison) => return (RecordEffect::Gone(rule), Some(poison)),
    }
    let Some(bytes) = record.value else { return (RecordEffect::Gone(rule), None) };
    if let Some(value) = known {
        return (RecordEffect::Put(rule, Cow::Borrowed(value)), None);
    }
    match value::decode(bytes) {
        Ok(value) => (RecordEffect::Put(rule, Cow::Owned(value)), None),
        Err(poison) => (RecordEffect::Gone(rule), Some(poison)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use proptest::sample::Index;

    use crate::clock::UnixMillis;

    /// A record that is written: what its key, value and header are made of.
    #[derive(Debug, Clone)]
    struct LogEntry {
        timestamp: i64,
        key: Option<String>,
        value: Option<String>,
        topic: Option<String>,
    }

    /// A log, as a broker keeps it: compaction leaves holes.
    #[derive(Debug, Clone, Default)]
    struct ModelLog {
        entries: BTreeMap<u64, LogEntry>,
        end: u64,
        identity: u64,
        /// When the next record is written.
        now: i64,
    }

    impl ModelLog {
        fn append(&mut self, entry: LogEntry) {
            self.entries.insert(self.end, LogEntry { timestamp: self.now, ..entry });
            self.end += 1;
            self.now += 1;
        }

        /// A new life of the topic, whose first writer declares its identity.
        fn remade(identity: u64, now: i64) -> Self {
            let mut log = Self { identity, now, ..Self::default() };
            let key = Some(TopicIdentity(identity).key());
            log.append(LogEntry { timestamp: 0, key, value: Some("{}".to_owned()), topic: None });
            log
        }

        /// Leaves the newest record of each key below `before`, and of those only what is no tombstone.
        fn compact(&mut self, before: u64) {
            let newest: BTreeMap<_, _> =
                self.entries.iter().map(|(offset, entry)| (entry.key.clone(), *offset)).collect();
            self.entries.retain(|offset, entry| {
                *offset >= before || (newest.get(&entry.key) == Some(offset) && entry.value.is_some())
            });
        }

        fn truncate(&mut self, end: u64) {
            self.entries.retain(|offset, _entry| *offset < end);
            self.end = self.end.min(end);
        }

        /// What the rules are: a walk over the log, as plain as it can be.
        fn rules(&self) -> BTreeMap<String, String> {
            let mut rules = BTreeMap::new();
            for entry in self.entries.values() {
                let Some(Ok(key)) = entry.key.as_ref().map(|key| key::decode(Some(key.as_bytes()))) else { continue };
                let TopicKey::Rule(rule) = key else { continue };
                let is_of_a_topic = entry.topic.as_ref().is_none_or(|topic| topic.parse::<TopicIdentity>().is_ok());
                let value = entry.value.as_ref().filter(|_value| is_of_a_topic);
                match value.and_then(|value| value::decode(value.as_bytes()).ok()) {
                    Some(value) => rules.insert(rule.to_string(), value::encode(&value)),
                    None => rules.remove(&rule.to_string()),
                };
            }
            rules
        }
    }

    /// A follower without Kafka.
    struct Replica {
        following: TopicFollowing,
        mark: Option<LogMark>,
        full_reads: usize,
    }

    fn read(log: &ModelLog) -> TopicFollowing {
        let mut undeclared = BTreeSet::new();
        loop {
            let mut reading = TopicReading::default();
            for (offset, entry) in &log.entries {
                reading.apply(&record(*offset, entry)).expect("one log");
            }
            match reading.finish(&undeclared) {
                Ok(following) => return following,
                Err(others) => undeclared = others,
            }
        }
    }

    fn record(offset: u64, entry: &LogEntry) -> LogRecord<'_> {
        LogRecord {
            offset,
            timestamp: entry.timestamp,
            key: entry.key.as_deref().map(str::as_bytes),
            value: entry.value.as_deref().map(str::as_bytes),
            topic: entry.topic.as_deref().map(str::as_bytes),
        }
    }

    impl Replica {
        fn of(log: &ModelLog) -> Self {
            let following = read(log);
            Self { mark: following.position().first, following, full_reads: 0 }
        }

        /// Takes what has come, as the follower does: it was away, so it looks for a record that it knows first.
        fn catch_up(&mut self, log: &ModelLog) {
            if self.try_to(log).is_err() {
                *self = Self { full_reads: self.full_reads + 1, ..Self::of(log) };
            }
        }

        fn try_to(&mut self, log: &ModelLog) -> Result<(), StartOver> {
            let LogPosition { next, last, .. } = *self.following.position();
            if let Some(mark) = self.mark {
                let found = log.entries.range(mark.offset..).next();
                let is_there = found.is_some_and(|(offset, entry)| LogMark::of(&record(*offset, entry)) == mark);
                is_there.then_some(()).ok_or(StartOver::Replaced(mark))?;
                self.mark = last;
            }
            // Kafka's own word: the offset is out of range.
            if next > log.end {
                return Err(StartOver::Truncated { offset: log.end, next });
            }
            for (offset, entry) in log.entries.range(next..) {
                self.following.apply(&record(*offset, entry))?;
            }
            self.following.commit();
            self.mark = self.mark.or(self.following.position().first);
            Ok(())
        }
    }

    fn held(rules: &Rules) -> BTreeMap<String, String> {
        rules.iter().map(|(rule, value)| (rule.to_string(), value::encode(&value))).collect()
    }

    #[derive(Debug, Clone)]
    enum Op {
        Append(LogEntry),
        Compact(Index),
        Truncate(Index),
        /// With another identity, or as a copy has it with the same.
        Remake(bool, Vec<LogEntry>),
        CatchUp,
        Restart,
    }

    /// Its header `ours` stands for the identity of the log that it is written to.
    fn an_entry() -> impl Strategy<Value = LogEntry> {
        let key = prop_oneof![
            12 => "(block|pardon|allow|close)\u{1f}(|[a-c])(\u{1f}[@#]a)?".prop_map(Some),
            1 => Just(Some("nonsense".to_owned())),
            1 => Just(None),
        ];
        let value = prop_oneof![
            8 => (0..3_i64, "[x-z]").prop_map(|(until, because)| {
                let provenance = value::Provenance {
                    because: Some(because.into()),
                    who: Some("alice".into()),
                    when: Some(UnixMillis(1)),
                    source: None,
                };
                Some(value::encode(&RuleValue { until: UnixMillis(until * 1000), provenance }))
            }),
            3 => Just(None),
            1 => Just(Some("nonsense".to_owned())),
            1 => Just(Some(r#"{"who":"a","when":"2027-01-31T00:00:00Z","needs":["mode"]}"#.to_owned())),
        ];
        let topic = prop_oneof![
            8 => Just(Some("ours".to_owned())),
            2 => Just(None),
            1 => Just(Some("00000000000000ff".to_owned())),
            1 => Just(Some("nonsense".to_owned())),
        ];
        (key, value, topic).prop_map(|(key, value, topic)| LogEntry { timestamp: 0, key, value, topic })
    }

    fn an_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            10 => an_entry().prop_map(Op::Append),
            2 => any::<Index>().prop_map(Op::Compact),
            1 => any::<Index>().prop_map(Op::Truncate),
            1 => (any::<bool>(), prop::collection::vec(an_entry(), 0..12))
                .prop_map(|(is_another, entries)| Op::Remake(is_another, entries)),
            4 => Just(Op::CatchUp),
            1 => Just(Op::Restart),
        ]
    }

    fn of_log(entry: &LogEntry, log: &ModelLog) -> LogEntry {
        let ours = |topic: &String| {
            if topic == "ours" { TopicIdentity(log.identity).to_string() } else { topic.clone() }
        };
        LogEntry { topic: entry.topic.as_ref().map(ours), ..entry.clone() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn a_follower_has_the_rules_of_the_log_whatever_happened_to_it(ops in prop::collection::vec(an_op(), 0..60)) {
            let mut log = ModelLog::remade(1, 0);
            let mut replica = Replica::of(&log);
            for op in ops {
                match op {
                    Op::Append(entry) => log.append(of_log(&entry, &log)),
                    Op::Compact(before) => {
                        // A follower that has not seen a tombstone for so long reads all again: here it has always seen it.
                        replica.catch_up(&log);
                        log.compact(before.index(usize::try_from(log.end).expect("small") + 1) as u64);
                    }
                    Op::Truncate(end) => {
                        log.truncate(end.index(usize::try_from(log.end).expect("small") + 1) as u64);
                        // Kafka's client compares leader epochs: it says so, whatever was written since.
                        if log.end < replica.following.position().next {
                            replica = Replica::of(&log);
                        }
                    }
                    Op::Remake(identity, entries) => {
                        log = ModelLog::remade(log.identity + u64::from(identity), log.now);
                        entries.iter().for_each(|entry| log.append(of_log(entry, &log)));
                    }
                    Op::CatchUp => {
                        replica.catch_up(&log);
                        prop_assert_eq!(held(replica.following.rules()), log.rules());
                        let fresh = read(&log);
                        prop_assert_eq!(held(fresh.rules()), log.rules(), "one that starts now agrees");
                    }
                    Op::Restart => replica = Replica::of(&log),
                }
            }
            replica.catch_up(&log);
            prop_assert_eq!(held(replica.following.rules()), log.rules());
            // The mark may be a tombstone that compaction has removed: one more full read.
            replica.catch_up(&log);
            let full_reads = replica.full_reads;
            for _catch_up in 0..3 {
                replica.catch_up(&log);
            }
            prop_assert_eq!(replica.full_reads, full_reads, "a log at rest is not read again");
        }
    }

    fn put(key: &str, topic: u64) -> LogEntry {
        let value = r#"{"who":"alice","when":"2026-05-28T20:26:40Z"}"#.to_owned();
        let topic = Some(TopicIdentity(topic).to_string());
        LogEntry { timestamp: 0, key: Some(key.to_owned()), value: Some(value), topic }
    }

    #[test]
    fn a_topic_made_again_with_as_many_or_more_records_is_read_again() {
        for (identity, records) in [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)] {
            let mut old = ModelLog::remade(1, 0);
            old.append(put("block\u{1f}old", 1));
            let mut replica = Replica::of(&old);
            let mut log = ModelLog::remade(identity, old.now);
            (1..=records).for_each(|number| log.append(put(&format!("block\u{1f}new{number}"), identity)));
            replica.catch_up(&log);
            assert_eq!((replica.full_reads, held(replica.following.rules())), (1, log.rules()));
        }
    }

    #[test]
    fn a_mark_that_compaction_removed_costs_one_full_read() {
        let mut log = ModelLog::remade(1, 0);
        log.append(LogEntry { value: None, ..put("block\u{1f}bob", 1) });
        let mut replica = Replica::of(&log);
        replica.catch_up(&log);
        log.compact(log.end);
        let full_reads = [(); 4].map(|()| {
            replica.catch_up(&log);
            replica.full_reads
        });
        assert_eq!(full_reads, [1; 4]);
    }

    #[test]
    fn a_topic_made_again_while_it_is_read_is_read_once_more() {
        let mut old = ModelLog::remade(1, 0);
        old.append(put("block\u{1f}old", 1));
        let mut reading = TopicReading::default();
        for (offset, entry) in &old.entries {
            reading.apply(&record(*offset, entry)).expect("one log");
        }
        assert_eq!(reading.apply(&record(2, &put("block\u{1f}new", 2))), Ok(None));
        assert_eq!(reading.finish(&BTreeSet::new()).map(drop), Err([TopicIdentity(2)].into()));
    }

    #[test]
    fn a_rule_holds_whichever_topic_its_writer_took_this_one_for() {
        let mut log = ModelLog::remade(2, 0);
        log.append(put("block\u{1f}bob", 2));
        let mut replica = Replica::of(&log);
        log.append(put("block\u{1f}carol", 1));
        log.append(LogEntry { value: None, ..put("block\u{1f}bob", 1) });
        replica.catch_up(&log);
        for following in [&replica.following, &read(&log)] {
            let rules = following.rules();
            assert_eq!((rules.blocks("bob", UnixMillis(0)), rules.blocks("carol", UnixMillis(0))), (false, true));
            assert_eq!(following.position().poison, 0);
        }
        assert_eq!(replica.full_reads, 1, "the other identity shows that the topic may be another");
    }

    #[test]
    fn a_rule_whose_newest_record_is_poison_does_not_hold() {
        let bad: [(&str, LogEntry); 4] = [
            ("value", LogEntry { value: Some("{".to_owned()), ..put("block\u{1f}bob", 1) }),
            (
                "needs",
                LogEntry {
                    value: Some(r#"{"who":"a","when":"2027-01-31T00:00:00Z","needs":["mode"]}"#.to_owned()),
                    ..put("block\u{1f}bob", 1)
                },
            ),
            ("too_large", LogEntry { value: Some("x".repeat(value::VALUE_BYTES_MAX + 1)), ..put("block\u{1f}bob", 1) }),
            ("header", LogEntry { topic: Some("x".to_owned()), ..put("block\u{1f}bob", 1) }),
        ];
        for (reason, bad) in bad {
            let mut log = ModelLog::remade(1, 0);
            log.append(put("block\u{1f}bob", 1));
            let mut following = read(&log);
            assert!(following.rules().blocks("bob", UnixMillis(0)));
            let poison = following.apply(&record(2, &bad)).expect("the same log").expect("poison");
            following.commit();
            assert_eq!(poison.reason(), reason);
            assert!(!following.rules().blocks("bob", UnixMillis(0)), "{reason}");
            assert_eq!((following.position().next, following.position().poison), (3, 1));
            log.append(bad);
            assert!(!read(&log).rules().blocks("bob", UnixMillis(0)), "{reason}: one that starts later agrees");
        }
    }
}
