//! Changes the rules of one topic: announces each change on the audit topic, then writes the rule.
//!
//! A request that fails between the two leaves an announcement, which a second event then takes back; there is never a change without an
//! announcement. Two writers at once are both right: the later offset counts.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::sync::Arc;

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

/// What the topic holds, as far as the writer knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownTopic<'k> {
    pub(crate) rules: &'k Rules,
    /// `None`: no writer has declared one yet.
    pub(crate) identity: Option<TopicIdentity>,
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

impl TopicWriter {
    pub(crate) fn new(topic: Arc<str>, configured: BTreeMap<String, String>) -> Self {
        Self { changes: changes_topic(&topic), topic, configured, producer: None }
    }

    /// Serves requests until nobody can ask any more.
    pub(crate) fn run(mut self, view: &ArcSwap<TopicView>, mut jobs: mpsc::Receiver<WriteJob>) {
        while let Some((request, done)) = jobs.blocking_recv() {
            let view = view.load_full();
            let written = match view.state {
                TopicState::Reading => Err(WriteError::NotRead),
                TopicState::Live | TopicState::Stale => {
                    self.write(&request, KnownTopic { rules: &view.rules, identity: view.identity })
                }
            };
            if let Err(error) = &written {
                tracing::warn!(topic = &*self.topic, %error, "a change of the blocklist failed");
            }
            // Who asked may have gone.
            let _told = done.send(written);
        }
    }

    /// Writes the changes of `request`. See [`crate::blocklist::topic::BlocklistTopic::write`].
    pub(crate) fn write(
        &mut self,
        request: &WriteRequest,
        known: KnownTopic<'_>,
    ) -> Result<Vec<WrittenChange>, WriteError> {
        let now = clock::wall();
        let prepared = self.prepare(request, known.rules, now)?;
        if self.producer.as_ref().is_none_or(TopicProducer::is_dead) {
            let properties = properties::of_writer(&self.configured);
            self.producer = Some(TopicProducer::new(&properties).map_err(WriteError::Refused)?);
        }
        let Some(producer) = &self.producer else { return Err(WriteError::Stopping) };
        let announced = prepared.iter().map(|change| self.announcement(change, &change.event));
        for outcome in producer.write(&announced.collect::<Vec<_>>()) {
            outcome.map_err(failed)?;
        }
        let written = self.write_rules(producer, request, &prepared, (known.identity, now));
        if let Err(error) = &written {
            self.take_back(producer, request, &prepared, error);
        }
        let offsets = written?;
        let changes = prepared.into_iter().zip(offsets);
        Ok(changes.map(|(change, offset)| WrittenChange { replaced: change.before, generation: offset + 1 }).collect())
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

    /// Writes the rules, behind the identity of the topic if it has none. Returns the offsets.
    fn write_rules(
        &self,
        producer: &TopicProducer,
        request: &WriteRequest,
        prepared: &[Prepared],
        (identity, now): (Option<TopicIdentity>, UnixMillis),
    ) -> Result<Vec<u64>, WriteError> {
        let identity = match identity {
            Some(identity) => identity,
            None => {
                let identity = TopicIdentity(random());
                let provenance =
                    Provenance { who: Some((*request.who).into()), when: Some(now), ..Provenance::default() };
                let value = value::encode(&RuleValue { until: UnixMillis::NEVER, provenance });
                let (key, partition) = (identity.key(), Some(PARTITION));
                let record =
                    ListRecord { topic: &self.topic, partition, key: &key, value: Some(&value), headers: Vec::new() };
                producer.write(&[record]).into_iter().try_for_each(|outcome| outcome.map(drop)).map_err(failed)?;
                identity
            }
        };
        let records = prepared.iter().map(|change| ListRecord {
            topic: &self.topic,
            partition: Some(PARTITION),
            key: &change.key,
            value: change.value.as_deref(),
            headers: vec![(TOPIC_HEADER, identity.to_string())],
        });
        producer.write(&records.collect::<Vec<_>>()).into_iter().collect::<Result<_, _>>().map_err(failed)
    }

    /// Says on the audit topic that the announced changes may not have come. That this fails too is in the log.
    fn take_back(&self, producer: &TopicProducer, request: &WriteRequest, prepared: &[Prepared], why: &WriteError) {
        let (when, why) = (clock::wall(), why.to_string());
        let changes = prepared.iter().zip(&request.changes);
        let events: Vec<String> =
            changes.map(|(change, wanted)| self.event(request, wanted, change, (when, Some(&why)))).collect();
        let records: Vec<_> =
            prepared.iter().zip(&events).map(|(change, event)| self.announcement(change, event)).collect();
        if producer.write(&records).into_iter().any(|outcome| outcome.is_err()) {
            tracing::error!(topic = &*self.changes, why, "that announced changes failed could not be written");
        }
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
