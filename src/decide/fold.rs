//! The rules of a topic as a fold over its log: the effect of each record, and the detection of a replaced log.
//!
//! Pure and deterministic: replicas that start at different times get the same rules. [`FullRead`] applies the log from its start to its
//! end. Its rules are not in force before the end, because a prefix of a compacted log is a state that never existed. [`FollowedTopic`]
//! applies later records. Records are ordered by offset only, never by time.

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

/// The most identities that are remembered, of each kind. Any other counts as undeclared.
const IDENTITIES_MAX: usize = 64;

/// A record of the log.
#[derive(Debug, Clone, Copy)]
pub struct LogRecord<'a> {
    /// Its offset.
    pub offset: u64,
    /// Its timestamp in milliseconds, as in Kafka; -1 if it has none.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` in a tombstone, which removes the rule.
    pub value: Option<&'a [u8]>,
    /// Its header [`TOPIC_HEADER`](crate::decide::topic::TOPIC_HEADER), if it has one.
    pub topic: Option<&'a [u8]>,
}

/// Why the topic must be read again from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StartOver {
    /// The log was truncated or replaced.
    #[error("received the record at offset {offset}, expected {next} or later: the log was truncated")]
    Truncated {
        /// The offset of the received record.
        offset: u64,
        /// The offset behind the previous record.
        next: u64,
    },
    /// The topic was deleted and created again.
    #[error("a record names the new topic identity {0}: the topic was recreated")]
    Identity(TopicIdentity),
    /// A record that was read is no longer in the log.
    #[error("the record at offset {} is not the one that was read there: the topic was recreated or truncated", .0.offset)]
    Replaced(LogMark),
}

/// The state of reading a log, besides its rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// The offset behind the last record.
    pub next: u64,
    /// The identities that records declare.
    pub declared: BTreeSet<TopicIdentity>,
    /// The first record.
    pub first: Option<LogMark>,
    /// The last record.
    pub last: Option<LogMark>,
    /// The identities in headers that no earlier record declares: of records that were copied from another topic, or that were in flight
    /// when the topic was recreated.
    pub undeclared: BTreeSet<TopicIdentity>,
    /// The number of invalid records.
    pub poison: u64,
}

/// A record that identifies a log. In another log the record at this offset has another timestamp, even if the records were copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogMark {
    /// Its offset.
    pub offset: u64,
    /// Its timestamp.
    pub timestamp: i64,
}

impl LogMark {
    /// The mark of `record`.
    pub const fn of(record: &LogRecord<'_>) -> Self {
        Self { offset: record.offset, timestamp: record.timestamp }
    }
}

impl LogPosition {
    /// Moves the position behind `record`.
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

/// The effect of one record.
enum RecordEffect<'r> {
    Put(Rule<'r>, Cow<'r, RuleValue<'r>>),
    /// The rule has no effect any more: the record is a tombstone, or invalid.
    Remove(Rule<'r>),
    Nothing,
}

/// A topic that is being read from its start to its end.
#[derive(Debug)]
pub struct FullRead {
    rules: Gathered,
    position: LogPosition,
    /// The last value and its bytes: the records of an import often have equal values, which are then decoded once.
    last: Option<(Box<[u8]>, RuleValue<'static>)>,
    records: u64,
}

impl Default for FullRead {
    fn default() -> Self {
        Self { rules: Gathered::of_log(), position: LogPosition::default(), last: None, records: 0 }
    }
}

impl FullRead {
    /// Applies the next record. Returns why it is invalid, if it is.
    ///
    /// # Errors
    ///
    /// The log has changed during the read, which must start over.
    pub fn apply(&mut self, record: &LogRecord<'_>) -> Result<Option<Poison>, StartOver> {
        self.position.advance(record)?;
        self.records += 1;
        let is_same = self.last.as_ref().is_some_and(|(bytes, _value)| record.value == Some(bytes));
        if !is_same && let Some(bytes) = record.value {
            self.last = value::decode(bytes).ok().map(|value| (bytes.into(), value.into_owned()));
        }
        let known = self.last.as_ref().map(|(_bytes, value)| value).filter(|_value| record.value.is_some());
        let (effect, poison) = effect_of(record, &mut self.position, known);
        match effect {
            RecordEffect::Put(rule, value) => self.rules.put_record(&rule, &value),
            RecordEffect::Remove(rule) => self.rules.remove_record(&rule),
            RecordEffect::Nothing => {}
        }
        self.position.poison += u64::from(poison.is_some());
        Ok(poison)
    }

    /// The number of applied records.
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// The offset behind the last record.
    pub const fn next(&self) -> u64 {
        self.position.next
    }

    /// Ends the read at the end of the log. `undeclared` are the undeclared identities that the previous full read found. `Err`: this read
    /// has found others, so the topic may have been recreated meanwhile and must be read again.
    pub fn finish(self, undeclared: &BTreeSet<TopicIdentity>) -> Result<FollowedTopic, BTreeSet<TopicIdentity>> {
        if !self.position.undeclared.is_subset(undeclared) {
            return Err(self.position.undeclared);
        }
        let rules = Arc::new(self.rules.finish());
        Ok(FollowedTopic { rules, position: self.position, changes: Vec::new(), is_empty: self.records == 0 })
    }
}

/// A topic that was read to its end, and is followed from there.
#[derive(Debug)]
pub struct FollowedTopic {
    rules: Arc<Rules>,
    position: LogPosition,
    /// Changes that [`Self::commit`] will apply.
    changes: Vec<Change<'static>>,
    /// Whether the topic has had no record yet.
    is_empty: bool,
}

impl FollowedTopic {
    /// Adds the next record to the batch that [`Self::commit`] applies. Returns why the record is invalid, if it is.
    ///
    /// # Errors
    ///
    /// The log was replaced. The rules stay in force until it is read again.
    pub fn apply(&mut self, record: &LogRecord<'_>) -> Result<Option<Poison>, StartOver> {
        if let Some(identity) = self.unknown_identity(record) {
            return Err(StartOver::Identity(identity));
        }
        self.position.advance(record)?;
        self.is_empty = false;
        let (effect, poison) = effect_of(record, &mut self.position, None);
        match effect {
            RecordEffect::Put(rule, value) => {
                let RuleValue { until, provenance } = value.into_owned().into_owned();
                let rule = rule.into_owned();
                self.changes.push(Change::Put { rule, until, provenance });
            }
            RecordEffect::Remove(rule) => self.changes.push(Change::Remove(rule.into_owned())),
            RecordEffect::Nothing => {}
        }
        self.position.poison += u64::from(poison.is_some());
        Ok(poison)
    }

    /// Applies the batch of changes, which makes a new version of the rules.
    pub fn commit(&mut self) {
        if !self.changes.is_empty() {
            self.rules = Arc::new(self.rules.changed(self.changes.drain(..)));
        }
    }

    /// The rules as of the last [`Self::commit`].
    pub const fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// The position in the log.
    pub const fn position(&self) -> &LogPosition {
        &self.position
    }

    /// The identity that `record` declares or names, if the full read did not find it.
    fn unknown_identity(&self, record: &LogRecord<'_>) -> Option<TopicIdentity> {
        let declared = match key::decode(record.key) {
            // Declared by the first writer of an empty topic.
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

/// The effect of `record`, and why it is invalid. `known` is its value, if it has been decoded already.
fn effect_of<'r>(
    record: &LogRecord<'r>,
    position: &mut LogPosition,
    known: Option<&'r RuleValue<'static>>,
) -> (RecordEffect<'r>, Option<Poison>) {
    let rule = match key::decode(record.key) {
        Ok(TopicKey::Rule(rule)) => rule,
        Ok(TopicKey::Identity(identity)) => {
            // Also if the record is a tombstone: other records that name the identity still belong to this topic.
            position.declare(identity);
            return (RecordEffect::Nothing, None);
        }
        Err(poison) => return (RecordEffect::Nothing, Some(poison)),
    };
    match header(record) {
        // Such a record is valid: Kafka may have acknowledged it to a writer that did not know yet that the topic was recreated.
        Ok(Some(identity)) if !position.declared.contains(&identity) => {
            if position.undeclared.len() < IDENTITIES_MAX {
                position.undeclared.insert(identity);
            }
        }
        Ok(_) => {}
        Err(poison) => return (RecordEffect::Remove(rule), Some(poison)),
    }
    let Some(bytes) = record.value else { return (RecordEffect::Remove(rule), None) };
    if let Some(value) = known {
        return (RecordEffect::Put(rule, Cow::Borrowed(value)), None);
    }
    match value::decode(bytes) {
        Ok(value) => (RecordEffect::Put(rule, Cow::Owned(value)), None),
        Err(poison) => (RecordEffect::Remove(rule), Some(poison)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use proptest::sample::Index;

    use crate::clock::UnixMillis;

    /// The contents of a record.
    #[derive(Debug, Clone)]
    struct LogEntry {
        timestamp: i64,
        key: Option<String>,
        value: Option<String>,
        topic: Option<String>,
    }

    /// A log as in a broker: compaction leaves gaps in the offsets.
    #[derive(Debug, Clone, Default)]
    struct ModelLog {
        entries: BTreeMap<u64, LogEntry>,
        end: u64,
        identity: u64,
        /// The timestamp of the next record.
        now: i64,
    }

    impl ModelLog {
        fn append(&mut self, entry: LogEntry) {
            self.entries.insert(self.end, LogEntry { timestamp: self.now, ..entry });
            self.end += 1;
            self.now += 1;
        }

        /// A recreated topic, whose first record declares its identity.
        fn recreated(identity: u64, now: i64) -> Self {
            let mut log = Self { identity, now, ..Self::default() };
            let key = Some(TopicIdentity(identity).key());
            log.append(LogEntry { timestamp: 0, key, value: Some("{}".to_owned()), topic: None });
            log
        }

        /// Compacts the log below `before`: keeps the newest record of each key, and no tombstones.
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

        /// The expected rules, by a naive fold over the log.
        fn rules(&self) -> BTreeMap<String, String> {
            let mut rules = BTreeMap::new();
            for entry in self.entries.values() {
                let Some(Ok(key)) = entry.key.as_ref().map(|key| key::decode(Some(key.as_bytes()))) else { continue };
                let TopicKey::Rule(rule) = key else { continue };
                let has_valid_header = entry.topic.as_ref().is_none_or(|topic| topic.parse::<TopicIdentity>().is_ok());
                let value = entry.value.as_ref().filter(|_value| has_valid_header);
                match value.and_then(|value| value::decode(value.as_bytes()).ok()) {
                    Some(value) => rules.insert(rule.to_string(), value::encode(&value)),
                    None => rules.remove(&rule.to_string()),
                };
            }
            rules
        }
    }

    /// A model of the follower.
    struct Replica {
        following: FollowedTopic,
        mark: Option<LogMark>,
        full_reads: usize,
    }

    fn read(log: &ModelLog) -> FollowedTopic {
        let mut undeclared = BTreeSet::new();
        loop {
            let mut reading = FullRead::default();
            for (offset, entry) in &log.entries {
                reading.apply(&record(*offset, entry)).expect("the same log");
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

        /// Applies new records as the follower does after a pause: first checks that the log still has a known record.
        fn catch_up(&mut self, log: &ModelLog) {
            if self.try_catch_up(log).is_err() {
                *self = Self { full_reads: self.full_reads + 1, ..Self::of(log) };
            }
        }

        fn try_catch_up(&mut self, log: &ModelLog) -> Result<(), StartOver> {
            let LogPosition { next, last, .. } = *self.following.position();
            if let Some(mark) = self.mark {
                let found = log.entries.range(mark.offset..).next();
                let is_there = found.is_some_and(|(offset, entry)| LogMark::of(&record(*offset, entry)) == mark);
                is_there.then_some(()).ok_or(StartOver::Replaced(mark))?;
                self.mark = last;
            }
            // As Kafka's error for an offset out of range.
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

    fn sentences(rules: &Rules) -> BTreeMap<String, String> {
        rules.iter().map(|(rule, value)| (rule.to_string(), value::encode(&value))).collect()
    }

    #[derive(Debug, Clone)]
    enum Op {
        Append(LogEntry),
        Compact(Index),
        Truncate(Index),
        /// With another identity, or with the same, as a copy would.
        Recreate(bool, Vec<LogEntry>),
        CatchUp,
        Restart,
    }

    /// The header `ours` stands for the identity of the log to which the entry is appended.
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
                .prop_map(|(is_another, entries)| Op::Recreate(is_another, entries)),
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
        fn a_follower_has_the_rules_of_the_log_after_any_operations(ops in prop::collection::vec(an_op(), 0..60)) {
            let mut log = ModelLog::recreated(1, 0);
            let mut replica = Replica::of(&log);
            for op in ops {
                match op {
                    Op::Append(entry) => log.append(of_log(&entry, &log)),
                    Op::Compact(before) => {
                        // A follower that may have missed tombstones reads the topic again; this one has not missed any.
                        replica.catch_up(&log);
                        log.compact(before.index(usize::try_from(log.end).expect("small") + 1) as u64);
                    }
                    Op::Truncate(end) => {
                        log.truncate(end.index(usize::try_from(log.end).expect("small") + 1) as u64);
                        // Kafka's client reports a truncation even if records were appended since, because it compares leader epochs.
                        if log.end < replica.following.position().next {
                            replica = Replica::of(&log);
                        }
                    }
                    Op::Recreate(identity, entries) => {
                        log = ModelLog::recreated(log.identity + u64::from(identity), log.now);
                        entries.iter().for_each(|entry| log.append(of_log(entry, &log)));
                    }
                    Op::CatchUp => {
                        replica.catch_up(&log);
                        prop_assert_eq!(sentences(replica.following.rules()), log.rules());
                        let fresh = read(&log);
                        prop_assert_eq!(sentences(fresh.rules()), log.rules(), "a new replica has the same rules");
                    }
                    Op::Restart => replica = Replica::of(&log),
                }
            }
            replica.catch_up(&log);
            prop_assert_eq!(sentences(replica.following.rules()), log.rules());
            // If the mark is a tombstone that compaction has removed, this takes another full read.
            replica.catch_up(&log);
            let full_reads = replica.full_reads;
            for _catch_up in 0..3 {
                replica.catch_up(&log);
            }
            prop_assert_eq!(replica.full_reads, full_reads, "an unchanged log is not read again");
        }
    }

    fn put(key: &str, topic: u64) -> LogEntry {
        let value = r#"{"who":"alice","when":"2026-05-28T20:26:40Z"}"#.to_owned();
        let topic = Some(TopicIdentity(topic).to_string());
        LogEntry { timestamp: 0, key: Some(key.to_owned()), value: Some(value), topic }
    }

    #[test]
    fn a_recreated_topic_of_equal_or_greater_length_is_read_again() {
        for (identity, records) in [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)] {
            let mut old = ModelLog::recreated(1, 0);
            old.append(put("block\u{1f}old", 1));
            let mut replica = Replica::of(&old);
            let mut log = ModelLog::recreated(identity, old.now);
            (1..=records).for_each(|number| log.append(put(&format!("block\u{1f}new{number}"), identity)));
            replica.catch_up(&log);
            assert_eq!((replica.full_reads, sentences(replica.following.rules())), (1, log.rules()));
        }
    }

    #[test]
    fn a_mark_removed_by_compaction_costs_one_full_read() {
        let mut log = ModelLog::recreated(1, 0);
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
    fn a_topic_recreated_during_a_full_read_is_read_again() {
        let mut old = ModelLog::recreated(1, 0);
        old.append(put("block\u{1f}old", 1));
        let mut reading = FullRead::default();
        for (offset, entry) in &old.entries {
            reading.apply(&record(*offset, entry)).expect("the same log");
        }
        assert_eq!(reading.apply(&record(2, &put("block\u{1f}new", 2))), Ok(None));
        assert_eq!(reading.finish(&BTreeSet::new()).map(drop), Err([TopicIdentity(2)].into()));
    }

    #[test]
    fn a_record_with_an_undeclared_identity_takes_effect() {
        let mut log = ModelLog::recreated(2, 0);
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
        assert_eq!(replica.full_reads, 1, "the undeclared identity may mean that the topic was recreated");
    }

    #[test]
    fn a_rule_whose_newest_record_is_invalid_has_no_effect() {
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
            let mut log = ModelLog::recreated(1, 0);
            log.append(put("block\u{1f}bob", 1));
            let mut following = read(&log);
            assert!(following.rules().blocks("bob", UnixMillis(0)));
            let poison = following.apply(&record(2, &bad)).expect("the same log").expect("poison");
            following.commit();
            assert_eq!(poison.reason(), reason);
            assert!(!following.rules().blocks("bob", UnixMillis(0)), "{reason}");
            assert_eq!((following.position().next, following.position().poison), (3, 1));
            log.append(bad);
            assert!(!read(&log).rules().blocks("bob", UnixMillis(0)), "{reason}: after a full read");
        }
    }
}
