//! Reads the settings of a blocklist topic from Kafka, and creates the topic and its audit topic with the right settings.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::admin::AdminOptions;
use rdkafka::admin::NewTopic;
use rdkafka::admin::ResourceSpecifier;
use rdkafka::admin::TopicReplication;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::error::RDKafkaErrorCode;

use crate::blocklist::topic::changes_topic;
use crate::publish::replication::min_insync_replicas;

/// The timeout of a request.
const LIMIT: Duration = Duration::from_secs(3);
const CREATE_LIMIT: Duration = Duration::from_secs(15);

/// The default of Kafka.
pub(super) const DELETE_RETENTION: Duration = Duration::from_hours(24);

/// The settings of a new rule topic. A tombstone is kept for a week, so that a replica may be offline for half of that.
pub(crate) const COMPACTED: [(&str, &str); 6] = [
    ("cleanup.policy", "compact"),
    ("delete.retention.ms", "604800000"),
    ("min.compaction.lag.ms", "3600000"),
    ("segment.ms", "86400000"),
    ("min.cleanable.dirty.ratio", "0.1"),
    ("unclean.leader.election.enable", "false"),
];

/// The settings of a new audit topic: records are kept for a year.
pub(crate) const AUDIT: [(&str, &str); 3] =
    [("cleanup.policy", "delete"), ("retention.ms", "31536000000"), ("unclean.leader.election.enable", "false")];

/// The settings of a topic, as far as Kafka shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicConfig {
    /// As configured, sorted.
    pub(super) cleanup_policy: String,
    /// How long a compacted topic keeps tombstones.
    pub(super) delete_retention: Duration,
}

impl TopicConfig {
    /// What an operator must change, if rules can be lost with these settings.
    pub(super) fn mistake(&self) -> Option<String> {
        let policy = self.cleanup_policy.as_str();
        (policy != "compact").then(|| {
            format!("cleanup.policy is {policy}, and must be compact: with delete, rules are deleted after a time; without compact the topic only grows")
        })
    }
}

/// The settings of the topic. `Err`: Kafka does not show them; the right to DESCRIBE_CONFIGS may be missing.
pub(super) fn config_of(properties: &BTreeMap<String, String>, topic: &str) -> Result<TopicConfig, String> {
    let admin = admin(properties).map_err(|error| error.to_string())?;
    let options = AdminOptions::new().request_timeout(Some(LIMIT));
    let described = block_on(admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options));
    let described = described.map_err(|error| error.to_string())?;
    let config = described.into_iter().next().ok_or("no answer")?.map_err(|code| code.to_string())?;
    let value = |name: &str| config.get(name).and_then(|entry| entry.value.clone());
    let mut policies: Vec<String> =
        value("cleanup.policy").ok_or("no cleanup.policy")?.split(',').map(|policy| policy.trim().to_owned()).collect();
    policies.sort_unstable();
    let retention = value("delete.retention.ms").and_then(|millis| millis.parse().ok()).map(Duration::from_millis);
    Ok(TopicConfig { cleanup_policy: policies.join(","), delete_retention: retention.unwrap_or(DELETE_RETENTION) })
}

/// The number of brokers.
pub(super) fn brokers(properties: &BTreeMap<String, String>) -> Result<usize, String> {
    let admin = admin(properties).map_err(|error| error.to_string())?;
    let metadata = admin.inner().fetch_metadata(None, LIMIT).map_err(|error| error.to_string())?;
    Ok(metadata.brokers().len())
}

/// Creates the audit topic, and with `with_rules` the rule topic before it, if they are missing. `Err`: the failures.
pub(super) fn create(
    properties: &BTreeMap<String, String>,
    topic: &str,
    with_rules: bool,
    (replicas, min_insync): (i32, Option<i32>),
) -> Result<(), String> {
    let admin = admin(properties).map_err(|error| error.to_string())?;
    let min_insync = min_insync_replicas(min_insync, replicas).to_string();
    let changes = changes_topic(topic);
    let new = |name, settings: &'static [(&'static str, &'static str)]| {
        let new = NewTopic::new(name, 1, TopicReplication::Fixed(replicas)).set("min.insync.replicas", &min_insync);
        settings.iter().fold(new, |new, (setting, value)| new.set(setting, value))
    };
    let rules = with_rules.then(|| new(topic, &COMPACTED));
    let topics: Vec<_> = rules.into_iter().chain([new(&changes, &AUDIT)]).collect();
    let options = AdminOptions::new().operation_timeout(Some(CREATE_LIMIT)).request_timeout(Some(CREATE_LIMIT));
    let results = block_on(admin.create_topics(&topics, &options)).map_err(|error| error.to_string())?;
    let failed = results.into_iter().filter_map(Result::err);
    // Another instance was faster.
    let failed = failed.filter(|(_topic, code)| *code != RDKafkaErrorCode::TopicAlreadyExists);
    let failed: Vec<String> = failed.map(|(topic, code)| format!("{topic}: {code}")).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join(", ")) }
}

fn admin(properties: &BTreeMap<String, String>) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
    let mut config = ClientConfig::new();
    for (name, value) in properties {
        config.set(name, value);
    }
    config.create()
}

/// Waits for an answer of the admin client, which comes from its own thread.
fn block_on<T>(answer: impl Future<Output = Result<T, KafkaError>>) -> Result<T, KafkaError> {
    let no_runtime = |error: io::Error| KafkaError::ClientCreation(error.to_string());
    tokio::runtime::Builder::new_current_thread().build().map_err(no_runtime)?.block_on(answer)
}
