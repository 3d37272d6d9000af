//! Asks Kafka how a blocklist topic is set, and makes the topic and its audit topic right.

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

/// For one answer.
const LIMIT: Duration = Duration::from_secs(3);
const CREATE_LIMIT: Duration = Duration::from_secs(15);

/// Kafka's own default.
pub(super) const DELETE_RETENTION: Duration = Duration::from_hours(24);

/// What a topic of rules is made with. A tombstone stays for a week, so that a replica may be away for half of that.
pub(crate) const COMPACTED: [(&str, &str); 6] = [
    ("cleanup.policy", "compact"),
    ("delete.retention.ms", "604800000"),
    ("min.compaction.lag.ms", "3600000"),
    ("segment.ms", "86400000"),
    ("min.cleanable.dirty.ratio", "0.1"),
    ("unclean.leader.election.enable", "false"),
];

/// What the topic of changes is made with: kept for a year.
pub(crate) const AUDIT: [(&str, &str); 3] =
    [("cleanup.policy", "delete"), ("retention.ms", "31536000000"), ("unclean.leader.election.enable", "false")];

/// How a topic is set, as far as Kafka says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicConfig {
    /// As it is written, in the order of the letters.
    pub(super) cleanup_policy: String,
    /// How long a compacted topic keeps the record that removes a rule.
    pub(super) delete_retention: Duration,
}

impl TopicConfig {
    /// What an operator should change, if the rules are not safe with it.
    pub(super) fn mistake(&self) -> Option<String> {
        let policy = self.cleanup_policy.as_str();
        (policy != "compact").then(|| {
            format!("cleanup.policy is {policy}, and must be compact: with delete, rules vanish with time; without compact it only grows")
        })
    }
}

/// How the topic is set. `Err`: Kafka does not say, for which the right to DESCRIBE_CONFIGS may be missing.
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

/// How many brokers the cluster shows.
pub(super) fn brokers(properties: &BTreeMap<String, String>) -> Result<usize, String> {
    let admin = admin(properties).map_err(|error| error.to_string())?;
    let metadata = admin.inner().fetch_metadata(None, LIMIT).map_err(|error| error.to_string())?;
    Ok(metadata.brokers().len())
}

/// Makes the topic of changes, and that of rules before it where `with_rules`, as far as they are missing. `Err`: what failed.
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
    // Another replica was quicker.
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

/// Waits for an answer of the admin client, which comes from a thread of its own.
fn block_on<T>(answer: impl Future<Output = Result<T, KafkaError>>) -> Result<T, KafkaError> {
    let no_runtime = |error: io::Error| KafkaError::ClientCreation(error.to_string());
    tokio::runtime::Builder::new_current_thread().build().map_err(no_runtime)?.block_on(answer)
}
