//! Makes sure that every topic exists before anything is published to it: for unknown topics librdkafka uses code paths in which records
//! were lost. Reads the size limits of the topics, so that no batch is larger than they allow.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rdkafka::admin::AdminClient;
use rdkafka::admin::AdminOptions;
use rdkafka::admin::ConfigResource;
use rdkafka::admin::NewTopic;
use rdkafka::admin::OwnedResourceSpecifier;
use rdkafka::admin::ResourceSpecifier;
use rdkafka::admin::TopicReplication;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::error::RDKafkaErrorCode;

use crate::clock;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::Phase;

use super::cluster::block_on;
use super::control::Control;
use super::kafka::Health;
use super::kafka::Kafka;
use super::kafka::NewestProducer;
use super::limits::TopicLimits;
use super::replication::REPLICAS_WANTED;
use super::replication::ReplicationFactor;
use super::replication::min_insync_replicas;

/// The topics that the bridge needs.
#[derive(Debug)]
pub(crate) struct Needs {
    pub(crate) names: Vec<String>,
    /// For each application, the topics of its commands, by index. Empty where nobody waits for [`TopicsProgress::OthersDeliverable`].
    pub(crate) commands: Vec<Vec<usize>>,
    /// How missing topics are created; `None`: they are not.
    pub(crate) creation: Option<Creation>,
    /// The bytes of the longest possible record. `None`: the topics have no limits.
    pub(crate) longest_record: Option<usize>,
}

/// How missing topics are created.
#[derive(Debug, Clone)]
pub(crate) struct Creation {
    /// Partitions of each topic.
    pub(crate) partitions: i32,
    /// Replicas of each partition; `None`: [`ReplicationFactor`] chooses.
    pub(crate) replication_factor: Option<i32>,
    /// `min.insync.replicas`; `None`: one less than the replicas, and at least one.
    pub(crate) min_insync_replicas: Option<i32>,
    /// The retention, in milliseconds; `None`: the brokers' default.
    pub(crate) retention_ms: Option<i64>,
}

impl Creation {
    /// The settings of a new topic with so many replicas.
    pub(crate) fn settings(&self, replicas: i32) -> Vec<(&'static str, String)> {
        let min_insync = min_insync_replicas(self.min_insync_replicas, replicas).to_string();
        let retention = self.retention_ms.map(|retention| ("retention.ms", retention.to_string()));
        [("min.insync.replicas", min_insync)].into_iter().chain(retention).collect()
    }
}

/// The timeout of a metadata request: doubled after each timeout, up to the second value. A large cluster behind a slow link needs some
/// seconds.
const FETCH_LIMIT: Duration = Duration::from_secs(2);
const FETCH_LIMIT_MAX: Duration = Duration::from_secs(30);
/// The timeout of a request to the leader of a partition.
const LEADER_LIMIT: Duration = Duration::from_secs(2);
const CREATE_LIMIT: Duration = Duration::from_secs(15);
/// The pause between metadata requests: doubled each time, up to the second value, once the existing topics are in use.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
const BETWEEN_LOOKS_MAX: Duration = Duration::from_secs(30);
/// The pause once all topics have been seen: a topic that is deleted and created again may have other limits. A request is for all topics
/// of the cluster, so it is rare.
const BETWEEN_LATER_LOOKS: Duration = Duration::from_secs(300);
/// The timeout of a request for the topics' limits.
const LIMITS_LIMIT: Duration = Duration::from_secs(2);
/// How often a broker is asked for the limits of a topic that it does not know: it may learn of a new topic later than others.
const LIMITS_TRIES: u32 = 3;
const BETWEEN_LIMITS_TRIES: Duration = Duration::from_millis(250);
/// The settings that limit a batch.
const LIMITING: [&str; 2] = ["max.message.bytes", "segment.bytes"];
/// The number of requests before the existing topics are used without the missing ones.
const LOOKS_FOR_ALL: u32 = 15;
/// How long the existing topics wait for the missing ones at a start without a journal: they may be being created now, or missing for weeks.
const OTHERS_WAIT: Duration = Duration::from_secs(20);
/// The longest pause between metadata requests while they wait.
const BETWEEN_LOOKS_OTHERS: Duration = Duration::from_secs(1);
/// After this they are looked at as rarely as missing topics: the producer cannot send, or a leader does not answer.
const OTHERS_WAIT_MAX: Duration = Duration::from_secs(120);

/// What is still missing, in words for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missing {
    /// No broker answers.
    #[error("kafka does not answer: {0}")]
    Kafka(String),
    /// Topics that do not exist, or that this client may not see.
    #[error("topics are missing (create them, or start with --create-topics): {}", .0.join(", "))]
    Topics(Vec<String>),
    /// Topics and brokers: the cluster has too few brokers for three replicas, but more may be starting.
    #[error(
        "topics are missing, and are not created yet: the cluster shows {0} of 3 brokers, and more may be starting"
    )]
    Brokers(usize),
    /// Topics that could not be created.
    #[error("topics could not be created: {}", .0.join(", "))]
    Creation(Vec<String>),
    /// Topics with a partition that has no leader.
    #[error("topics have partitions without a leader: {}", .0.join(", "))]
    Leaders(Vec<String>),
    /// The id that an idempotent producer needs before it can send.
    #[error("kafka has not given the producer its id yet")]
    ProducerId,
    /// An answer of a broker that leads partitions of the topics.
    #[error("broker {0}, which leads partitions, does not answer: {1}")]
    Leader(i32, String),
}

impl Missing {
    /// Why this topic cannot be published to, if it cannot.
    pub(crate) fn of_topic(&self, topic: &str) -> Option<String> {
        let is_among = |names: &[String]| names.iter().any(|name| name == topic);
        match self {
            Self::Topics(names) => {
                is_among(names).then(|| "the topic does not exist: create it, or use --create-topics".to_owned())
            }
            Self::Leaders(names) => is_among(names).then(|| "a partition of the topic has no leader".to_owned()),
            Self::Creation(failed) => {
                let of_it = failed.iter().find_map(|failed| failed.strip_prefix(topic)?.strip_prefix(": "));
                of_it.map(|why| format!("the topic could not be created: {why}"))
            }
            Self::Kafka(_) | Self::Brokers(_) | Self::ProducerId | Self::Leader(..) => Some(self.to_string()),
        }
    }
}

/// The progress with the topics.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TopicsProgress<'a> {
    /// This is missing.
    Missing(&'a Missing),
    /// For a while only some topics have been missing, or only some leaders have not answered. The given topics, by index, can be used.
    /// Reported after each request.
    OthersWork(&'a [usize]),
    /// For a while only some topics have been missing, not all of an application, and records of the given ones, by index, can be
    /// delivered now. Reported once.
    OthersDeliverable(&'a [usize]),
    /// The smallest limit of the topics, in bytes of a batch. Reported before new topics are.
    Limit(Option<usize>),
    /// Every topic exists, every partition has a leader that answers, and the producer can send. Reported once, at the end.
    Complete,
}

/// The topics in the metadata of the cluster.
#[derive(Debug, Default)]
struct ClusterView {
    brokers: usize,
    /// Topics all of whose partitions have a leader, by index.
    there: Vec<usize>,
    leaderless: Vec<String>,
    missing: Vec<String>,
    /// The leaders of those topics' partitions, each with the index of a topic and the number of a partition that it leads.
    leaders: BTreeMap<i32, (usize, i32)>,
}

/// Queries the cluster for topics, and creates missing ones.
pub(crate) struct TopicsClient {
    config: ClientConfig,
    producer: NewestProducer,
    health: Arc<Health>,
}

impl std::fmt::Debug for TopicsClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TopicsClient").finish_non_exhaustive()
    }
}

impl TopicsClient {
    /// A client for the cluster that `kafka` sends to.
    pub(crate) fn of(kafka: &Kafka) -> Self {
        let (mut config, producer, health) = kafka.shared();
        // The admin client sends no records, so it needs no producer id.
        for property in ["enable.gapless.guarantee", "enable.idempotence"] {
            config.remove(property);
        }
        Self { config, producer, health }
    }

    /// Watches the topics until the stop begins: waits until all of `needs` exist, creates missing ones if `needs` say so, and reads their
    /// limits. Calls `on_progress` whenever something else is missing, and repeatedly once only some topics are missing.
    pub(crate) fn watch(
        &self,
        needs: &Needs,
        control: &Control,
        lifecycle: &Lifecycle,
        mut on_progress: impl FnMut(TopicsProgress<'_>),
    ) {
        control.set_watcher();
        let mut watch = Watch {
            client: self,
            needs,
            control,
            limits: TopicLimits::new(&needs.names, needs.longest_record.unwrap_or_default()),
            there: Vec::new(),
            others_since: None,
            looks_left: LOOKS_FOR_ALL,
            pause: BETWEEN_LOOKS,
            fetch_limit: FETCH_LIMIT,
            replication: ReplicationFactor::new(
                needs.creation.as_ref().and_then(|creation| creation.replication_factor),
            ),
            last_reported: None,
            has_no_limits: false,
            are_others_reported: false,
            is_complete: false,
        };
        while lifecycle.phase() < Phase::KeepAccepting {
            watch.turn(&mut on_progress);
            // Or until the pump asks for the limits.
            thread::park_timeout(if watch.is_complete { BETWEEN_LATER_LOOKS } else { watch.pause });
        }
    }

    /// Asks the cluster which of `names` exist.
    fn look(&self, names: &[String], limit: Duration) -> Result<ClusterView, Missing> {
        // For all topics: a request for one by name creates it on a broker with auto.create.topics.enable.
        let metadata = self.producer.fetch_metadata(limit).map_err(|error| Missing::Kafka(error.to_string()))?;
        let mut look = ClusterView { brokers: metadata.brokers().len(), ..ClusterView::default() };
        for (index, name) in names.iter().enumerate() {
            match metadata.topics().iter().find(|topic| topic.name() == name) {
                Some(topic) if topic.error().is_none() && !topic.partitions().is_empty() => {
                    if topic.partitions().iter().any(|partition| partition.leader() < 0) {
                        look.leaderless.push(name.clone());
                    } else {
                        let leaders = topic.partitions().iter().map(|partition| (partition.leader(), partition.id()));
                        look.leaders.extend(leaders.map(|(leader, partition)| (leader, (index, partition))));
                        look.there.push(index);
                    }
                }
                Some(_) | None => look.missing.push(name.clone()),
            }
        }
        Ok(look)
    }

    /// Connects to each leader, so that the first record need not wait for that. Returns the first that does not answer.
    fn reach_leaders(&self, look: &ClusterView, names: &[String]) -> Result<(), Missing> {
        for (leader, (topic, partition)) in &look.leaders {
            let Some(topic) = names.get(*topic) else { continue };
            let reached = self.producer.reach_leader(topic, *partition, LEADER_LIMIT);
            reached.map_err(|error| Missing::Leader(*leader, error.to_string()))?;
        }
        Ok(())
    }

    /// Creates topics. Returns the failures, as name and reason.
    fn create(&self, names: &[String], creation: &Creation, replicas: i32) -> Result<(), Vec<String>> {
        let all_failed = |what: String| names.iter().map(|name| format!("{name}: {what}")).collect::<Vec<_>>();
        let settings = creation.settings(replicas);
        let topics: Vec<NewTopic<'_>> = names
            .iter()
            .map(|name| {
                let topic = NewTopic::new(name, creation.partitions, TopicReplication::Fixed(replicas));
                settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
            })
            .collect();
        let options = AdminOptions::new().operation_timeout(Some(CREATE_LIMIT)).request_timeout(Some(CREATE_LIMIT));
        let results = self
            .admin()
            .and_then(|admin| block_on(admin.create_topics(&topics, &options)))
            .map_err(|error| all_failed(error.to_string()))?;
        let created: Vec<&str> = results.iter().flatten().map(String::as_str).collect();
        if replicas < REPLICAS_WANTED && creation.replication_factor.is_none() && !created.is_empty() {
            tracing::warn!(
                topics = created.join(", "),
                replicas,
                "topics were created with fewer than 3 replicas, because the cluster has no more brokers: what Kafka has \
                 acknowledged may be lost with a disk, and they keep that number when brokers are added; set \
                 topics.replication_factor if this is meant"
            );
        }
        let failed: Vec<String> = results
            .into_iter()
            .filter_map(Result::err)
            // Another instance was faster.
            .filter(|(_, code)| *code != RDKafkaErrorCode::TopicAlreadyExists)
            .map(|(name, code)| format!("{name}: {code}"))
            .collect();
        if failed.is_empty() { Ok(()) } else { Err(failed) }
    }

    /// The largest batch that each of these topics accepts; `None` if Kafka does not tell.
    fn limits_of(&self, names: &[&str]) -> Result<Vec<Option<usize>>, KafkaError> {
        let admin = self.admin()?;
        let options = AdminOptions::new().request_timeout(Some(LIMITS_LIMIT));
        let mut known = HashMap::new();
        for tries_left in (0..LIMITS_TRIES).rev() {
            let unknown =
                names.iter().filter(|name| !known.contains_key(**name)).map(|name| ResourceSpecifier::Topic(name));
            let described = block_on(admin.describe_configs(&Vec::from_iter(unknown), &options))?;
            known.extend(described.iter().flatten().filter_map(limit_of));
            if known.len() == names.len() || tries_left == 0 {
                break;
            }
            thread::sleep(BETWEEN_LIMITS_TRIES);
        }
        Ok(names.iter().map(|name| known.get(*name).copied()).collect())
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
        self.config.create()
    }
}

/// The state of watching the topics.
struct Watch<'w> {
    client: &'w TopicsClient,
    needs: &'w Needs,
    control: &'w Control,
    limits: TopicLimits<'w>,
    /// As [`ClusterView::there`].
    there: Vec<usize>,
    /// Since when each application has had topics of commands there.
    others_since: Option<Instant>,
    /// The number of requests after which the existing topics are used without the missing ones.
    looks_left: u32,
    /// The pause before the next request.
    pause: Duration,
    fetch_limit: Duration,
    replication: ReplicationFactor,
    last_reported: Option<Missing>,
    /// That the limits cannot be read has been logged.
    has_no_limits: bool,
    /// [`TopicsProgress::OthersDeliverable`] has been reported.
    are_others_reported: bool,
    is_complete: bool,
}

impl Watch<'_> {
    fn turn(&mut self, on_progress: &mut impl FnMut(TopicsProgress<'_>)) {
        let is_requested = self.control.take_limits_request();
        let (suspects, unconfirmed) = (self.control.take_suspects(), self.control.take_unconfirmed());
        // A request keeps the producer alive, which would delay a replacement that may be going on.
        let is_due = !is_requested && self.client.health.is_any_broker_up();
        let looks = !self.is_complete || !suspects.is_empty() || !unconfirmed.is_empty() || is_due;
        let looked = looks.then(|| self.client.look(&self.needs.names, self.fetch_limit));
        if !suspects.is_empty() {
            let is_there = |topic: usize| matches!(&looked, Some(Ok(look)) if look.there.contains(&topic));
            self.control.have_leaders(suspects.into_iter().map(|topic| (topic, is_there(topic))));
        }
        if let Some(looked) = &looked {
            self.report_unconfirmed(&unconfirmed, looked);
        }
        match &looked {
            Some(Ok(look)) => {
                self.fetch_limit = FETCH_LIMIT;
                let is_early =
                    self.looks_left > 0 || look.there != self.there || self.replication.is_waiting(clock::monotonic());
                self.there.clone_from(&look.there);
                if self.others_since.is_none() && self.has_topics_of_each_application() {
                    self.others_since = Some(clock::monotonic());
                }
                self.pause = next_pause(self.pause, is_early);
                if !self.are_others_reported && self.others_waited().is_some_and(|waited| waited < OTHERS_WAIT_MAX) {
                    self.pause = self.pause.min(BETWEEN_LOOKS_OTHERS);
                }
            }
            Some(Err(_)) => {
                self.fetch_limit = (self.fetch_limit * 2).min(FETCH_LIMIT_MAX);
                self.replication.forget();
            }
            None => {}
        }
        if self.needs.longest_record.is_some() && self.read_limits(is_requested) {
            on_progress(TopicsProgress::Limit(self.limits.smallest()));
        }
        if let Some(looked) = looked
            && !self.is_complete
        {
            self.handle_look(looked, on_progress);
        }
    }

    /// Logs why records of these topics have no delivery report, as far as the metadata shows it.
    fn report_unconfirmed(&self, unconfirmed: &[usize], looked: &Result<ClusterView, Missing>) {
        let names: Vec<&str> =
            unconfirmed.iter().filter_map(|topic| self.needs.names.get(*topic)).map(String::as_str).collect();
        if names.is_empty() {
            return;
        }
        let (gone, others): (Vec<&str>, Vec<&str>) = names
            .into_iter()
            .partition(|name| looked.as_ref().is_ok_and(|look| look.missing.iter().any(|missing| missing == name)));
        if !gone.is_empty() {
            tracing::error!(topics = gone.join(", "), "topics do not exist any more; their records wait until they do");
        }
        if !others.is_empty() {
            let is_leaderless =
                |look: &ClusterView| others.iter().any(|name| look.leaderless.iter().any(|it| it == name));
            let why = match looked {
                Err(missing) => missing.to_string(),
                Ok(look) if is_leaderless(look) => "partitions have no leader".to_owned(),
                Ok(_) => "their leaders have not answered".to_owned(),
            };
            tracing::warn!(topics = others.join(", "), why, "records have no delivery report yet");
        }
    }

    /// Reads the limits of new topics, or of `all`. Returns whether there may be changes.
    fn read_limits(&mut self, all: bool) -> bool {
        let indices = self.limits.unread(&self.there, all);
        // Unknown limits must not delay publishing for long.
        let is_put_off = self.has_no_limits && !self.is_complete && !all;
        if indices.is_empty() || is_put_off {
            return all;
        }
        match self.client.limits_of(&self.limits.names_of(&indices)) {
            Ok(read) => self.limits.update(indices.into_iter().zip(read)),
            Err(error) if !self.has_no_limits => {
                self.has_no_limits = true;
                tracing::warn!(%error, "the topics' max.message.bytes cannot be read");
            }
            Err(_) => {}
        }
        true
    }

    /// Reports what is missing, or that nothing is.
    fn handle_look(&mut self, looked: Result<ClusterView, Missing>, on_progress: &mut impl FnMut(TopicsProgress<'_>)) {
        let missing = match &looked {
            Ok(look) => self.missing(look),
            Err(missing) => Some(missing.clone()),
        };
        self.is_complete = missing.is_none();
        let Some(missing) = missing else { return on_progress(TopicsProgress::Complete) };
        if self.last_reported.as_ref() != Some(&missing) {
            on_progress(TopicsProgress::Missing(&missing));
            self.last_reported = Some(missing.clone());
        }
        match missing {
            Missing::Kafka(_) | Missing::ProducerId => {}
            Missing::Leader(..) => on_progress(TopicsProgress::OthersWork(&self.there)),
            Missing::Topics(_) | Missing::Brokers(_) | Missing::Creation(_) | Missing::Leaders(_) => {
                self.looks_left = self.looks_left.saturating_sub(1);
                if self.looks_left == 0 {
                    on_progress(TopicsProgress::OthersWork(&self.there));
                }
                if looked.is_ok_and(|look| self.are_others_deliverable(&look)) {
                    self.are_others_reported = true;
                    on_progress(TopicsProgress::OthersDeliverable(&self.there));
                }
            }
        }
    }

    fn are_others_deliverable(&self, look: &ClusterView) -> bool {
        !self.are_others_reported
            && self.has_topics_of_each_application()
            && self.others_waited().is_some_and(|waited| waited >= OTHERS_WAIT)
            && self.can_send()
            && self.client.reach_leaders(look, &self.needs.names).is_ok()
    }

    fn has_topics_of_each_application(&self) -> bool {
        let commands = &self.needs.commands;
        !commands.is_empty() && commands.iter().all(|of_app| of_app.iter().any(|topic| self.there.contains(topic)))
    }

    fn others_waited(&self) -> Option<Duration> {
        self.others_since.map(|since| clock::monotonic().duration_since(since))
    }

    fn can_send(&self) -> bool {
        // The producer may be about to be replaced by one with another batch size.
        self.control.has_applied_limit() && self.client.health.has_producer_id()
    }

    /// What is missing according to the metadata. Creates topics if it may.
    fn missing(&mut self, look: &ClusterView) -> Option<Missing> {
        if look.missing.is_empty() {
            return match (look.leaderless.is_empty(), self.can_send()) {
                (false, _) => Some(Missing::Leaders(look.leaderless.clone())),
                (true, false) => Some(Missing::ProducerId),
                (true, true) => self.client.reach_leaders(look, &self.needs.names).err(),
            };
        }
        let Some(creation) = &self.needs.creation else { return Some(Missing::Topics(look.missing.clone())) };
        let Some(replicas) = self.replication.choose(look.brokers, clock::monotonic()) else {
            return Some(Missing::Brokers(look.brokers));
        };
        match self.client.create(&look.missing, creation, replicas) {
            // They exist once the metadata says so, at the next request.
            Ok(()) => Some(Missing::Leaders(look.missing.clone())),
            Err(failed) => Some(Missing::Creation(failed)),
        }
    }
}

/// The pause before the next metadata request. It grows unless `is_early`: a missing topic may stay missing for weeks, and each request is
/// for all topics of the cluster.
fn next_pause(pause: Duration, is_early: bool) -> Duration {
    if is_early { BETWEEN_LOOKS } else { (pause * 2).min(BETWEEN_LOOKS_MAX) }
}

/// The name of a topic and the largest batch that it accepts. A topic that may not be described has no entries.
fn limit_of(resource: &ConfigResource) -> Option<(String, usize)> {
    let OwnedResourceSpecifier::Topic(name) = &resource.specifier else { return None };
    let value = |name| resource.get(name)?.value.as_ref()?.parse().ok();
    Some((name.clone(), LIMITING.into_iter().filter_map(value).min()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_for_missing_topics_become_rare_and_soon_again_when_something_changes() {
        let mut pause = BETWEEN_LOOKS;
        let mut looks = 0;
        let mut waited = Duration::ZERO;
        while waited < Duration::from_secs(3600) {
            pause = next_pause(pause, looks < LOOKS_FOR_ALL);
            waited += pause;
            looks += 1;
        }
        assert!((120..160).contains(&looks), "{looks} looks in an hour");
        assert_eq!(next_pause(pause, true), BETWEEN_LOOKS);
    }
}
