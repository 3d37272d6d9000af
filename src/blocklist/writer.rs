//! Changes the rules of one topic: announces each change on the audit topic, then writes the rule.
//!
//! A change that fails after its announcement is taken back by a second event; there is never a change without an announcement. Two
//! writers at once are both right: the later offset counts.

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
use crate::blocklist::topic::TopicState;
use crate::blocklist::topic::TopicView;
use crate::blocklist::topic::WantedChange;
use crate::blocklist::topic::WantedRule;
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

/// How long the next request waits until the one before is applied here, so that it knows what it replaces.
const APPLIED_LIMIT: Duration = Duration::from_millis(500);
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// What the topic holds, as far as the writer knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownTopic<'k> {
    pub(crate) rules: &'k Rules,
    /// `None`: no writer has declared one yet.
    pub(crate) identity: Option<TopicIdentity>,
    /// The offset behind the last record of it. One acknowledged below it went to another log.
    pub(crate) generation: u64,
}

/// Writes to one topic. One request at a time.
#[derive(Debug)]
pub(crate) struct TopicWriter {
    topic: Arc<str>,
    changes: String,
    /// `[kafka]`, with the brokers.
    configured: BTreeMap<String, String>,
    /// Made with the first request.
    producer: Option<TopicProducer>,
    /// Where it has declared an identity that nobody has read yet.
    declared: Option<DeclaredIdentity>,
}

/// An identity that this writer has declared, and where.
#[derive(Debug, Clone, Copy)]
struct DeclaredIdentity {
    offset: u64,
    identity: TopicIdentity,
}

/// One change, as it is written.
struct Prepared {
    key: String,
    /// `None`: the rule goes.
    after: Option<RuleValue<'static>>,
    value: Option<String>,
    before: Option<RuleValue<'static>>,
    event: String,
}

/// What became of each change of a request.
struct WriteOutcome {
    prepared: Vec<Prepared>,
    /// The offset of each rule.
    rules: Vec<Result<u64, WriteError>>,
    /// Whether its announcement may be in the audit topic.
    announced: Vec<bool>,
}

impl TopicWriter {
    pub(crate) fn new(topic: Arc<str>, configured: BTreeMap<String, String>) -> Self {
        Self { changes: changes_topic(&topic), topic, configured, producer: None, declared: None }
    }

    /// Serves requests until nobody can ask any more. Only a topic whose every change is applied here is written: any other may have been
    /// made again.
    pub(crate) fn run(mut self, view: &ArcSwap<TopicView>, mut jobs: mpsc::Receiver<WriteJob>) {
        let mut written = 0;
        while let Some((request, done)) = jobs.blocking_recv() {
            // Whoever has given up may ask again, and others may have changed the rule since.
            if done.is_closed() {
                continue;
            }
            let view = view_of(view, written);
            let outcome = match view.state {
                TopicState::Reading => Err(WriteError::NotRead),
                TopicState::Live if view.is_in_doubt => Err(WriteError::Stale),
                TopicState::Stale => Err(WriteError::Stale),
                TopicState::Live => {
                    let known = KnownTopic { rules: &view.rules, identity: view.identity, generation: view.generation };
                    self.attempt(&request, known)
                }
            };
            let changes = outcome.as_ref().map_err(WriteError::clone).and_then(WriteOutcome::written);
            let generations = changes.iter().flatten().map(|change| change.generation);
            written = generations.max().unwrap_or(0);
            if let Err(error) = &changes {
                tracing::warn!(topic = &*self.topic, %error, "a change of the blocklist failed");
            }
            // Who asked may have gone.
            let _told = done.send(changes);
            if let Ok(outcome) = outcome {
                self.take_back(&request, &outcome);
            }
        }
    }

    /// Writes the changes of `request`. See [`crate::blocklist::topic::BlocklistTopic::write`].
    pub(crate) fn write(
        &mut self,
        request: &WriteRequest,
        known: KnownTopic<'_>,
    ) -> Result<Vec<WrittenChange>, WriteError> {
        let outcome = self.attempt(request, known)?;
        self.take_back(request, &outcome);
        outcome.written()
    }

    /// Announces the changes, and writes the rules if all are announced. `Err`: nothing was written.
    fn attempt(&mut self, request: &WriteRequest, known: KnownTopic<'_>) -> Result<WriteOutcome, WriteError> {
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

    /// Writes records with the producer, which is there.
    fn send(&self, records: &[ListRecord<'_>]) -> Vec<Result<u64, WriteError>> {
        let Some(producer) = &self.producer else { return vec![Err(WriteError::Stopping); records.len()] };
        producer.write(records).into_iter().map(|outcome| outcome.map_err(failed)).collect()
    }

    fn prepare(&self, request: &WriteRequest, rules: &Rules, now: UnixMillis) -> Result<Vec<Prepared>, WriteError> {
        // What an earlier change of the same request makes of a rule.
        let mut newer: BTreeMap<String, Option<RuleValue<'static>>> = BTreeMap::new();
        let prepare = |(change, wanted): (usize, &WantedChange)| {
            let key = key::encode(&wanted.rule).map_err(|why| WriteError::Unkeyable { change, why })?;
            let after = match &wanted.to {
                WantedRule::Delete { .. } => None,
                WantedRule::Put { until, because } => {
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
                return Err(WriteError::TooLong { change });
            }
            let before = newer.insert(key.clone(), after.clone()).unwrap_or_else(|| rules.find(&wanted.rule));
            let mut prepared = Prepared { key, after, value, before, event: String::new() };
            prepared.event = self.event(request, wanted, &prepared, (now, None));
            Ok(prepared)
        };
        request.changes.iter().enumerate().map(prepare).collect()
    }

    /// The event of a change at some time, and why it failed, if it did.
    fn event(
        &self,
        request: &WriteRequest,
        wanted: &WantedChange,
        prepared: &Prepared,
        (when, failed): (UnixMillis, Option<&str>),
    ) -> String {
        let why = match &wanted.to {
            WantedRule::Put { because, .. } | WantedRule::Delete { because } => because.as_deref(),
        };
        change::encode(&RuleChanged {
            id: &format!("{:016x}{:016x}", random(), random()),
            topic: &self.topic,
            rule: &wanted.rule,
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

    fn announcement<'r>(&'r self, change: &'r Prepared, event: &'r str) -> ListRecord<'r> {
        let headers = vec![("content-type", "application/cloudevents+json".to_owned())];
        ListRecord { topic: &self.changes, partition: None, key: &change.key, value: Some(event), headers }
    }

    /// Writes the rules, behind the identity of the topic if it has none. Returns the offset of each.
    fn write_rules(
        &mut self,
        request: &WriteRequest,
        prepared: &[Prepared],
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
        let is_behind =
            |offset| if offset < first { Err(WriteError::LogChanged { offset, first }) } else { Ok(offset) };
        let offsets: Vec<_> =
            self.send(&records.collect::<Vec<_>>()).into_iter().map(|outcome| outcome.and_then(is_behind)).collect();
        if offsets.iter().any(|outcome| matches!(outcome, Err(WriteError::LogChanged { .. }))) {
            self.declared = None;
        }
        offsets
    }

    /// The identity of the topic, and the first offset that a record of it can get now. Declares one if the topic has none.
    fn identity(&mut self, request: &WriteRequest, known: KnownTopic<'_>) -> Result<(TopicIdentity, u64), WriteError> {
        // Whoever has read that far and has found none has read another log.
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

    /// Says on the audit topic which announced changes may not have come. That this fails too is in the log.
    fn take_back(&self, request: &WriteRequest, outcome: &WriteOutcome) {
        let when = clock::wall();
        let changes = outcome.prepared.iter().zip(&request.changes).zip(&outcome.rules).zip(&outcome.announced);
        let failed = changes.filter_map(|(((change, wanted), rule), is_announced)| {
            let why = rule.as_ref().err().filter(|_why| *is_announced)?.to_string();
            Some((change, self.event(request, wanted, change, (when, Some(&why)))))
        });
        let failed: Vec<_> = failed.collect();
        let records: Vec<_> = failed.iter().map(|(change, event)| self.announcement(change, event)).collect();
        if let Some(why) = self.send(&records).into_iter().find_map(Result::err) {
            let why = why.to_string();
            tracing::error!(topic = &*self.changes, why, "that announced changes failed could not be written");
        }
    }
}

impl WriteOutcome {
    /// All changes, or why the first that failed did.
    fn written(&self) -> Result<Vec<WrittenChange>, WriteError> {
        let written = |(change, offset): (&Prepared, &Result<u64, WriteError>)| {
            let generation = offset.clone()? + 1;
            Ok(WrittenChange { replaced: change.before.clone(), generation })
        };
        self.prepared.iter().zip(&self.rules).map(written).collect()
    }
}

/// The topic as this replica knows it; at `generation` or behind it, and not in doubt, if that is so soon.
fn view_of(view: &ArcSwap<TopicView>, generation: u64) -> Arc<TopicView> {
    let deadline = clock::monotonic() + APPLIED_LIMIT;
    loop {
        let now = view.load_full();
        let is_settled = now.generation >= generation && !now.is_in_doubt;
        if is_settled || now.state != TopicState::Live || clock::monotonic() >= deadline {
            return now;
        }
        thread::sleep(BETWEEN_LOOKS);
    }
}

fn failed(why: NotAcknowledged) -> WriteError {
    match why {
        NotAcknowledged::InTime(why) => WriteError::Unacknowledged(why),
        NotAcknowledged::Refused(why) => WriteError::Refused(why),
    }
}

/// Nobody can guess it, and nobody gets it twice.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}
