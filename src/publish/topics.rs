//! Sees to it that every topic is there before anything is published: a record for a topic that the client does not know yet takes
//! paths in librdkafka on which records were lost.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::admin::AdminClient;
use rdkafka::admin::AdminOptions;
use rdkafka::admin::NewTopic;
use rdkafka::admin::TopicReplication;
use rdkafka::config::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::Metadata;

use crate::shutdown::Stop;

use super::kafka::Health;

/// How missing topics are made.
#[derive(Debug, Clone)]
pub(crate) struct Creation {
    /// Partitions of each topic.
    pub(crate) partitions: i32,
    /// Replicas of each partition; `None`: three, or as many as there are brokers.
    pub(crate) replication_factor: Option<i32>,
    /// In-sync replicas that must have a record before it is acknowledged; `None`: one less than the replicas, at least one.
    pub(crate) min_insync_replicas: Option<i32>,
    /// How long records are kept, in milliseconds; `None`: as the brokers are set.
    pub(crate) retention_ms: Option<i64>,
}

/// How long one look at the cluster may take, and how long is waited between two.
const FETCH_LIMIT: Duration = Duration::from_secs(2);
const CREATE_LIMIT: Duration = Duration::from_secs(15);
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
/// How many times the cluster is looked at before those topics that are there are used without the others.
const LOOKS_FOR_ALL: u32 = 15;

/// What is still missing, as an operator should read it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missing {
    /// No broker answers.
    #[error("kafka does not answer: {0}")]
    Kafka(String),
    /// Topics that do not exist, or that this client may not see.
    #[error("topics are missing (make them, or start with --create-topics): {}", .0.join(", "))]
    Topics(Vec<String>),
    /// Topics that could not be made.
    #[error("topics could not be made: {}", .0.join(", "))]
    Creation(Vec<String>),
    /// Topics with a partition that has no leader.
    #[error("topics have partitions without a leader: {}", .0.join(", "))]
    Leaders(Vec<String>),
    /// The id without which an idempotent producer cannot send.
    #[error("kafka has not given the producer its id yet")]
    ProducerId,
}

/// What is told of the wait.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Told<'a> {
    /// This is missing.
    Missing(&'a Missing),
    /// For a while now only some topics have been missing; these are there, by their place among the names. Told at each look.
    OthersWork(&'a [usize]),
}

/// What one look at the cluster has found.
#[derive(Debug, Default)]
struct Look {
    brokers: usize,
    /// Topics of which every partition has a leader, by their place among the names.
    there: Vec<usize>,
    leaderless: Vec<String>,
    missing: Vec<String>,
}

type Fetch = Box<dyn Fn(Duration) -> Result<Metadata, KafkaError> + Send>;

/// Asks the cluster for its topics, and makes the missing ones.
pub(crate) struct TopicsClient {
    config: ClientConfig,
    fetch: Fetch,
    health: Arc<Health>,
}

impl std::fmt::Debug for TopicsClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TopicsClient").finish_non_exhaustive()
    }
}

impl TopicsClient {
    pub(super) fn new(config: ClientConfig, fetch: Fetch, health: Arc<Health>) -> Self {
        Self { config, fetch, health }
    }

    /// Returns true once every topic of `names` is there, every partition has a leader, and the producer can send; false when it is told to stop before.
    /// Makes missing topics if `creation` says how. `tell` is called each time that something else is missing, and when it has been about
    /// some topics only for a while.
    pub(crate) fn wait(
        &self,
        names: &[String],
        creation: Option<&Creation>,
        stop: &Stop,
        mut tell: impl FnMut(Told<'_>),
    ) -> bool {
        let mut told = None;
        let mut looks_left = LOOKS_FOR_ALL;
        loop {
            let looked = self.look(names);
            let missing = match &looked {
                Ok(look) => self.missing(look, creation),
                Err(missing) => Some(missing.clone()),
            };
            let Some(missing) = missing else { return true };
            match (&missing, looked) {
                (Missing::Topics(_) | Missing::Creation(_) | Missing::Leaders(_), Ok(look)) => {
                    looks_left = looks_left.saturating_sub(1);
                    if looks_left == 0 {
                        tell(Told::OthersWork(&look.there));
                    }
                }
                (Missing::Kafka(_) | Missing::ProducerId, _) | (_, Err(_)) => {}
            }
            if told.as_ref() != Some(&missing) {
                tell(Told::Missing(&missing));
                told = Some(missing);
            }
            if stop.wait(BETWEEN_LOOKS) {
                return false;
            }
        }
    }

    /// Asks the cluster which of `names` it has.
    fn look(&self, names: &[String]) -> Result<Look, Missing> {
        // All topics are asked for: asking for one by name makes it on a broker with auto.create.topics.enable.
        let metadata = (self.fetch)(FETCH_LIMIT).map_err(|error| Missing::Kafka(error.to_string()))?;
        let mut look = Look { brokers: metadata.brokers().len(), ..Look::default() };
        for (index, name) in names.iter().enumerate() {
            match metadata.topics().iter().find(|topic| topic.name() == name) {
                Some(topic) if topic.error().is_none() && !topic.partitions().is_empty() => {
                    if topic.partitions().iter().any(|partition| partition.leader() < 0) {
                        look.leaderless.push(name.clone());
                    } else {
                        look.there.push(index);
                    }
                }
                Some(_) | None => look.missing.push(name.clone()),
            }
        }
        Ok(look)
    }

    /// What is missing after that look. Makes topics if `creation` says how.
    fn missing(&self, look: &Look, creation: Option<&Creation>) -> Option<Missing> {
        if look.missing.is_empty() {
            return match (look.leaderless.is_empty(), self.health.has_producer_id()) {
                (false, _) => Some(Missing::Leaders(look.leaderless.clone())),
                (true, false) => Some(Missing::ProducerId),
                (true, true) => None,
            };
        }
        let Some(creation) = creation else { return Some(Missing::Topics(look.missing.clone())) };
        let brokers = i32::try_from(look.brokers).unwrap_or(i32::MAX);
        match self.create(&look.missing, creation, brokers) {
            // They are there once the metadata says so, at the next look.
            Ok(()) => Some(Missing::Leaders(look.missing.clone())),
            Err(failed) => Some(Missing::Creation(failed)),
        }
    }

    /// Makes `names`; returns what failed, with the reason, by name.
    fn create(&self, names: &[String], creation: &Creation, brokers: i32) -> Result<(), Vec<String>> {
        let all_failed = |what: String| names.iter().map(|name| format!("{name}: {what}")).collect::<Vec<_>>();
        let replicas = creation.replication_factor.unwrap_or_else(|| brokers.clamp(1, 3));
        let min_insync = creation.min_insync_replicas.unwrap_or_else(|| (replicas - 1).max(1)).to_string();
        let retention = creation.retention_ms.map(|retention| retention.to_string());
        let topics: Vec<NewTopic<'_>> = names
            .iter()
            .map(|name| {
                let topic = NewTopic::new(name, creation.partitions, TopicReplication::Fixed(replicas));
                let topic = topic.set("min.insync.replicas", &min_insync);
                match &retention {
                    Some(retention) => topic.set("retention.ms", retention),
                    None => topic,
                }
            })
            .collect();
        let admin: AdminClient<LogOnly> =
            self.config.create_with_context(LogOnly).map_err(|error| all_failed(error.to_string()))?;
        let options = AdminOptions::new().operation_timeout(Some(CREATE_LIMIT)).request_timeout(Some(CREATE_LIMIT));
        let runtime =
            tokio::runtime::Builder::new_current_thread().build().map_err(|error| all_failed(error.to_string()))?;
        let results =
            runtime.block_on(admin.create_topics(&topics, &options)).map_err(|error| all_failed(error.to_string()))?;
        let failed: Vec<String> = results
            .into_iter()
            .filter_map(Result::err)
            // Another replica was quicker.
            .filter(|(_, code)| *code != RDKafkaErrorCode::TopicAlreadyExists)
            .map(|(name, code)| format!("{name}: {code}"))
            .collect();
        if failed.is_empty() { Ok(()) } else { Err(failed) }
    }
}

/// The admin client's context: its log goes where the producer's goes.
struct LogOnly;

impl ClientContext for LogOnly {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::kafka::log(level, facility, message);
    }

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka admin client");
    }
}
