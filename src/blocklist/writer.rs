//! Changes the rules of one topic: announces each change on the audit topic, then writes the rule.
//!
//! If a change fails after its announcement, a second event retracts it. No rule is written without an announcement. Concurrent writers
//! do not conflict: the later offset counts.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use crate::blocklist::consumer::PARTITION;
use crate::blocklist::producer::ListRecord;
use crate::blocklist::producer::NotAcknowledged;
use crate::blocklist::producer::TopicProducer;
use crate::blocklist::properties;
use crate::blocklist::topic::ChangeAction;
use crate::blocklist::topic::RequestedChange;
use crate::blocklist::topic::TopicState;
use crate::blocklist::topic::TopicView;
use crate::blocklist::topic::WriteError;
use crate::blocklist::topic::WriteJob;
use crate::blocklist::topic::WriteRequest;
use crate::blocklist::topic::WrittenChange;
use crate::blocklist::topic::changes_topic;
use crate::clock;
use crate::clock::UnixMillis;
use crate::decide::rules::Rules;
use crate::decide::topic::TOPIC_HEADER;
use crate::decide::topic::change;
use crate::decide::topic::change::RuleChanged;
use crate::decide::topic::key;
use crate::decide::topic::key::TopicIdentity;
use crate::decide::topic::value;
use crate::decide::topic::value::Provenance;
use crate::decide::topic::value::RuleValue;
use crate::decide::topic::value::VALUE_BYTES_MAX;

/// How long a request waits until the previous one is applied at this replica, so that the previous rules are known.
const APPLIED_LIMIT: Duration = Duration::from_millis(500);
const POLL_PERIOD: Duration = Duration::from_millis(1);
/// How long the cluster is asked for a topic after a failure.
const MISSING_LIMIT: Duration = Duration::from_millis(300);
const MISSING: &str = "it does not exist: create it with `callbridge topics create`";

/// The contents of the topic, as last read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownTopic<'k> {
    pub(crate) rules: &'k Rules,
    /// `None` if no record declares one.
    pub(crate) identity: Option<TopicIdentity>,
    /// The offset behind the last record. A change with a lower offset is in another log.
    pub(crate) generation: u64,
}

/// Writes to one topic, one request at a time.
#[derive(Debug)]
pub(crate) struct TopicWriter {
    topic: Arc<str>,
    changes: String,
    /// `[kafka]`, with the brokers.
    configured: BTreeMap<String, String>,
    /// Created by the first request.
    producer: Option<TopicProducer>,
    /// The identity that this writer has declared, until the follower has read it.
    declared: Option<DeclaredIdentity>,
}

/// A declared identity, and the offset of its record.
#[derive(Debug, Clone, Copy)]
struct DeclaredIdentity {
    offset: u64,
    identity: TopicIdentity,
}

/// A change with its records.
struct PreparedChange {
    key: String,
    /// `None` if the rule is removed.
    after: Option<RuleValue<'static>>,
    value: Option<String>,
    before: Option<RuleValue<'static>>,
    event: String,
}

/// The result of each change of a request.
struct WriteOutcome {
    prepared: Vec<PreparedChange>,
    /// The offset of each rule.
    rules: Vec<Result<u64, WriteError>>,
    /// Whether the announcement of each change may be in the audit topic.
    announced: Vec<bool>,
}

impl TopicWriter {
    pub(crate) fn new(topic: Arc<str>, configured: BTreeMap<String, String>) -> Self {
        Self { changes: changes_topic(&topic), topic, configured, producer: None, declared: None }
    }

    /// Handles requests until all senders are dropped. Writes only while the topic is live: otherwise it may have been recreated.
    pub(crate) fn run(mut self, view: &ArcSwap<TopicView>, mut jobs: mpsc::Receiver<WriteJob>) {
        let mut written = 0;
        while let Some((request, done)) = jobs.blocking_recv() {
            // Cancelled. The sender may repeat the change, and others may have changed the rule since.
            if done.is_closed() {
                continue;
            }
            let view = settled_view(view, written);
            let outcome = match view.state {
                TopicState::Reading => Err(WriteError::NotRead),
                TopicState::Live if view.is_in_doubt => Err(WriteError::Stale),
                TopicState::Stale => Err(WriteError::Stale),
                TopicState::Live => {
                    let known = KnownTopic { rules: &view.rules, identity: view.identity, generation: view.generation };
                    self.try_write(&request, known)
                }
            };
            let changes = outcome.as_ref().map_err(WriteError::clone).and_then(WriteOutcome::written);
            let generations = changes.iter().flatten().map(|change| change.generation);
            written = generations.max().unwrap_or(0);
            if let Err(error) = &changes {
                tracing::warn!(topic = &*self.topic, %error, "a change of the blocklist failed");
            }
            // The sender may have cancelled the request meanwhile.
            let _cancelled = done.send(changes);
            if let Ok(outcome) = outcome {
                self.retract(&request, &outcome);
            }
        }
    }

    /// Writes the changes of `request`. See [`crate::blocklist::topic::BlocklistTopic::write`].
    pub(crate) fn write(
        &mut self,
        request: &WriteRequest,
        known: KnownTopic<'_>,
    ) -> Result<Vec<WrittenChange>, WriteError> {
        let outcome = self.try_write(request, known)?;
        self.retract(request, &outcome);
        outcome.written()
    }

    /// Announces the changes, and writes the rules if all announcements are acknowledged. `Err`: nothing was written.
    fn try_write(&mut self, request: &WriteRequest, known: KnownTopic<'_>) -> Result<WriteOutcome, WriteError> {
        let prepared = self.prepare(request, known.rules, clock::wall())?;
        if self.producer.as_ref().is_none_or(TopicProducer::is_dead) {
            let properties = properties::of_writer(&self.configured);
            self.producer = Some(TopicProducer::new(&properties).map_err(WriteError::Refused)?);
        }
        let announcements = prepared.iter().map(|change| self.announcement(change, &change.event)).collect::<Vec<_>>();
        let outcomes = self.send(&announcements);
        let announced = outcomes.iter().map(|outcome| !matches!(outcome, Err(WriteError::Refused(_)))).collect();
        let rules = match outcomes.into_iter().find_map(Result::err) {
            Some(why) => vec![Err(why); prepared.len()],
            None => self.write_rules(request, &prepared, known),
        };
        Ok(WriteOutcome { prepared, rules, announced })
    }

    /// Writes records with the producer, which must exist.
    fn send(&self, records: &[ListRecord<'_>]) -> Vec<Result<u64, WriteError>> {
        let Some(producer) = &self.producer else { return vec![Err(WriteError::Stopping); records.len()] };
        let mut outcomes = producer.write(records);
        let mut is_missing = None;
        for (record, outcome) in records.iter().zip(&mut outcomes) {
            let (why, is_missing) = match outcome {
                Ok(_) => continue,
                Err(NotAcknowledged::Refused(why)) => (why, false),
                // All records of a call are for one topic.
                Err(NotAcknowledged::InTime(why)) => {
                    let ask = || producer.is_missing(record.topic, MISSING_LIMIT);
                    (why, *is_missing.get_or_insert_with(ask))
                }
            };
            *why = format!("topic {}: {}", record.topic, if is_missing { MISSING } else { &**why });
        }
        outcomes.into_iter().map(|outcome| outcome.map_err(failed_write)).collect()
    }

    fn prepare(
        &self,
        request: &WriteRequest,
        rules: &Rules,
        now: UnixMillis,
    ) -> Result<Vec<PreparedChange>, WriteError> {
        // The values after earlier changes of the same request, by key.
        let mut newer: BTreeMap<String, Option<RuleValue<'static>>> = BTreeMap::new();
        let prepare = |(index, change): (usize, &RequestedChange)| {
            let key = key::encode(&change.rule).map_err(|why| WriteError::Unkeyable { change: index, why })?;
            let after = match &change.action {
                ChangeAction::Delete { .. } => None,
                ChangeAction::Put { until, because } => {
                    let provenance = Provenance {
                        because: because.as_deref().map(|because| because.to_owned().into()),
                        who: Some(request.who.to_string().into()),
                        when: Some(now),
                        source: Some(request.source.to_string().into()),
                    };
                    Some(RuleValue { until: *until, provenance })
                }
            };
            let value = after.as_ref().map(value::encode);
            if value.as_ref().is_some_and(|value| value.len() > VALUE_BYTES_MAX) {
                return Err(WriteError::TooLong { change: index });
            }
            let before = newer.insert(key.clone(), after.clone()).unwrap_or_else(|| rules.find(&change.rule));
            let mut prepared = PreparedChange { key, after, value, before, event: String::new() };
            prepared.event = self.event(request, change, &prepared, (now, None));
            Ok(prepared)
        };
        request.changes.iter().enumerate().map(prepare).collect()
    }

    /// The event for a change, at this time. With a reason, the event retracts a change that failed.
    fn event(
        &self,
        request: &WriteRequest,
        change: &RequestedChange,
        prepared: &PreparedChange,
        (when, failed): (UnixMillis, Option<&str>),
    ) -> String {
        let why = match &change.action {
            ChangeAction::Put { because, .. } | ChangeAction::Delete { because } => because.as_deref(),
        };
        change::encode(&RuleChanged {
            id: &format!("{:016x}{:016x}", random(), random()),
            topic: &self.topic,
            rule: &change.rule,
            before: prepared.before.as_ref(),
            after: prepared.after.as_ref(),
            who: &request.who,
            via: &request.source,
            when,
            why,
            request: request.request.as_deref(),
            failed,
        })
    }

    fn announcement<'r>(&'r self, change: &'r PreparedChange, event: &'r str) -> ListRecord<'r> {
        let headers = vec![("content-type", "application/cloudevents+json".to_owned())];
        ListRecord { topic: &self.changes, partition: None, key: &change.key, value: Some(event), headers }
    }

    /// Writes the rules, after declaring an identity for a topic without one. Returns the offset of each rule.
    fn write_rules(
        &mut self,
        request: &WriteRequest,
        prepared: &[PreparedChange],
        known: KnownTopic<'_>,
    ) -> Vec<Result<u64, WriteError>> {
        let (identity, first) = match self.identity(request, known) {
            Ok(identity) => identity,
            Err(why) => return vec![Err(why); prepared.len()],
        };
        let records = prepared.iter().map(|change| ListRecord {
            topic: &self.topic,
            partition: Some(PARTITION),
            key: &change.key,
            value: change.value.as_deref(),
            headers: vec![(TOPIC_HEADER, identity.to_string())],
        });
        let in_this_log =
            |offset| if offset < first { Err(WriteError::LogChanged { offset, first }) } else { Ok(offset) };
        let offsets: Vec<_> =
            self.send(&records.collect::<Vec<_>>()).into_iter().map(|outcome| outcome.and_then(in_this_log)).collect();
        if offsets.iter().any(|outcome| matches!(outcome, Err(WriteError::LogChanged { .. }))) {
            self.declared = None;
        }
        offsets
    }

    /// The identity of the topic, and the first possible offset of a new record. Declares an identity if the topic has none.
    fn identity(&mut self, request: &WriteRequest, known: KnownTopic<'_>) -> Result<(TopicIdentity, u64), WriteError> {
        // If the follower has read past the record that declares the identity without finding it, the log is another.
        self.declared = self.declared.filter(|at| known.identity.is_none() && known.generation <= at.offset);
        if let Some(identity) = known.identity {
            return Ok((identity, known.generation));
        }
        let at = match self.declared {
            Some(at) => at,
            None => self.declare(request)?,
        };
        self.declared = Some(at);
        Ok((at.identity, known.generation.max(at.offset + 1)))
    }

    fn declare(&self, request: &WriteRequest) -> Result<DeclaredIdentity, WriteError> {
        let identity = TopicIdentity(random());
        let provenance =
            Provenance { who: Some((*request.who).into()), when: Some(clock::wall()), ..Provenance::default() };
        let value = value::encode(&RuleValue { until: UnixMillis::NEVER, provenance });
        let (key, partition) = (identity.key(), Some(PARTITION));
        let record = ListRecord { topic: &self.topic, partition, key: &key, value: Some(&value), headers: Vec::new() };
        let outcome = self.send(&[record]).pop().unwrap_or(Err(WriteError::Stopping));
        outcome.map(|offset| DeclaredIdentity { offset, identity })
    }

    /// Retracts the failed changes on the audit topic, as far as they were announced. If this fails too, it is logged.
    fn retract(&self, request: &WriteRequest, outcome: &WriteOutcome) {
        let when = clock::wall();
        let changes = outcome.prepared.iter().zip(&request.changes).zip(&outcome.rules).zip(&outcome.announced);
        let failed = changes.filter_map(|(((prepared, change), rule), is_announced)| {
            let why = rule.as_ref().err().filter(|_why| *is_announced)?.to_string();
            Some((prepared, self.event(request, change, prepared, (when, Some(&why)))))
        });
        let failed: Vec<_> = failed.collect();
        let records: Vec<_> = failed.iter().map(|(prepared, event)| self.announcement(prepared, event)).collect();
        if let Some(why) = self.send(&records).into_iter().find_map(Result::err) {
            let why = why.to_string();
            tracing::error!(topic = &*self.changes, why, "failed changes could not be retracted on the audit topic");
        }
    }
}

impl WriteOutcome {
    /// All changes, or the first error.
    fn written(&self) -> Result<Vec<WrittenChange>, WriteError> {
        let written = |(change, offset): (&PreparedChange, &Result<u64, WriteError>)| {
            let generation = offset.clone()? + 1;
            Ok(WrittenChange { replaced: change.before.clone(), generation })
        };
        self.prepared.iter().zip(&self.rules).map(written).collect()
    }
}

/// The current snapshot of the topic. Waits a short time until it has `generation` and is not in doubt.
fn settled_view(view: &ArcSwap<TopicView>, generation: u64) -> Arc<TopicView> {
    let deadline = clock::monotonic() + APPLIED_LIMIT;
    loop {
        let now = view.load_full();
        let is_settled = now.generation >= generation && !now.is_in_doubt;
        if is_settled || now.state != TopicState::Live || clock::monotonic() >= deadline {
            return now;
        }
        thread::sleep(POLL_PERIOD);
    }
}

fn failed_write(why: NotAcknowledged) -> WriteError {
    match why {
        NotAcknowledged::InTime(why) => WriteError::Unacknowledged(why),
        NotAcknowledged::Refused(why) => WriteError::Refused(why),
    }
}

/// A random number that nobody can guess, practically unique.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}
