//! Creates the missing topics of a blocklist, if the configuration says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::blocklist::consumer::TopicConsumer;
use crate::blocklist::consumer::TopicProblem;
use crate::blocklist::describe;
use crate::blocklist::properties;
use crate::blocklist::topic::changes_topic;
use crate::clock;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::Phase;
use crate::publish::replication::ReplicationFactor;

/// The timeout of a request to the cluster.
const REQUEST_LIMIT: Duration = Duration::from_secs(3);

/// The pause between attempts to find a missing topic.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// How missing topics are created.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListCreation {
    pub(crate) replication_factor: Option<i32>,
    pub(crate) min_insync_replicas: Option<i32>,
}

/// The audit topic of a rule topic. If the rule topic is missing, the follower creates both; this handles the case that only the audit
/// topic is missing, without which no rule can be changed.
#[derive(Debug)]
pub(crate) struct AuditTopic {
    /// The rule topic.
    pub(crate) topic: Arc<str>,
    /// `[kafka]`, with the brokers.
    pub(crate) configured: BTreeMap<String, String>,
    pub(crate) creation: ListCreation,
    pub(crate) lifecycle: Lifecycle,
}

impl AuditTopic {
    /// Waits until the audit topic exists, and creates it if it is missing.
    pub(crate) fn make(self) {
        let mut replication = ReplicationFactor::new(self.creation.replication_factor);
        let mut last = String::new();
        loop {
            match self.try_to(&mut replication) {
                Ok(true) => return,
                Ok(false) => {}
                Err(why) if why == last => {}
                Err(why) => {
                    let topic = changes_topic(&self.topic);
                    tracing::warn!(topic, why, "the topic cannot be created, and without it no rule can be changed");
                    last = why;
                }
            }
            if self.lifecycle.wait(Phase::Draining, BETWEEN_LOOKS) {
                return;
            }
        }
    }

    /// Returns whether nothing is left to do. `Err`: why the topic cannot be created.
    fn try_to(&self, replication: &mut ReplicationFactor) -> Result<bool, String> {
        let changes = changes_topic(&self.topic);
        let consumer = TopicConsumer::new(&properties::of_follower(&self.configured), &changes)?;
        match consumer.partitions(REQUEST_LIMIT) {
            Ok(_partitions) => Ok(true),
            Err(TopicProblem::Missing) => self.creation.create((&self.topic, false), &self.configured, replication),
            // The follower reports that Kafka does not answer. A topic that this client may not see may exist.
            Err(TopicProblem::Forbidden | TopicProblem::Unknown(_)) => Ok(false),
        }
    }
}

impl ListCreation {
    /// Creates the audit topic of `topic`, and with `with_rules` that topic too. Returns whether it did: more brokers may be starting.
    pub(super) fn create(
        self,
        (topic, with_rules): (&str, bool),
        configured: &BTreeMap<String, String>,
        replication: &mut ReplicationFactor,
    ) -> Result<bool, String> {
        let properties = properties::of_admin(configured);
        let brokers = describe::brokers(&properties)?;
        let Some(replicas) = replication.choose(brokers, clock::monotonic()) else { return Ok(false) };
        describe::create(&properties, topic, with_rules, (replicas, self.min_insync_replicas))?;
        tracing::info!(topic, replicas, with_rules, "the topics of the blocklist have been created");
        Ok(true)
    }
}
