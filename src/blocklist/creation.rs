//! Makes the topics of a blocklist that are missing, where the configuration lets the start do so.

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

/// For one answer of the cluster.
const REQUEST_LIMIT: Duration = Duration::from_secs(3);

/// Between two looks for a topic that is missing.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// How the topics are made if they are missing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListCreation {
    pub(crate) replication_factor: Option<i32>,
    pub(crate) min_insync_replicas: Option<i32>,
}

/// The audit topic of a topic of rules. The follower makes both where the topic of rules is missing; this one is for where only the audit
/// topic is, without which no rule can be changed.
#[derive(Debug)]
pub(crate) struct AuditTopic {
    /// The topic of rules.
    pub(crate) topic: Arc<str>,
    /// `[kafka]`, with the brokers.
    pub(crate) configured: BTreeMap<String, String>,
    pub(crate) creation: ListCreation,
    pub(crate) lifecycle: Lifecycle,
}

impl AuditTopic {
    /// Looks until the audit topic is there, and makes it if it is not.
    pub(crate) fn make(self) {
        let mut replication = ReplicationFactor::new(self.creation.replication_factor);
        let mut told = String::new();
        loop {
            match self.try_to(&mut replication) {
                Ok(true) => return,
                Ok(false) => {}
                Err(why) if why == told => {}
                Err(why) => {
                    let topic = changes_topic(&self.topic);
                    tracing::warn!(topic, why, "the topic cannot be created, and without it no rule can be changed");
                    told = why;
                }
            }
            if self.lifecycle.wait(Phase::Draining, BETWEEN_LOOKS) {
                return;
            }
        }
    }

    /// Returns whether nothing is left to do. `Err`: why it cannot be made.
    fn try_to(&self, replication: &mut ReplicationFactor) -> Result<bool, String> {
        let changes = changes_topic(&self.topic);
        let consumer = TopicConsumer::new(&properties::of_follower(&self.configured), &changes)?;
        match consumer.partitions(REQUEST_LIMIT) {
            Ok(_partitions) => Ok(true),
            Err(TopicProblem::Missing) => self.creation.create((&self.topic, false), &self.configured, replication),
            // The follower says when Kafka does not answer; a topic that cannot be seen may be there.
            Err(TopicProblem::Forbidden | TopicProblem::Unknown(_)) => Ok(false),
        }
    }
}

impl ListCreation {
    /// Makes the audit topic of `topic`, and that topic too where `with_rules`. Returns whether it did: more brokers may be starting.
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
        tracing::info!(topic, replicas, with_rules, "the topics of the blocklist are created");
        Ok(true)
    }
}
