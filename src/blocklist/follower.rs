//! Follows one blocklist topic on its own thread: reads it to its end, puts its rules in force, and applies each change as it arrives.
//!
//! The rules stay in force until a newer state of the log has been read to its end, whatever happens to Kafka: a stale topic is reported, and
//! never changes a decision. If the log may have been replaced, it is read again from its start while the old rules stay in force.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::blocklist::consumer;
use crate::blocklist::consumer::Polled;
use crate::blocklist::consumer::TopicConsumer;
use crate::blocklist::consumer::TopicProblem;
use crate::blocklist::creation::ListCreation;
use crate::blocklist::describe;
use crate::blocklist::lists::Lists;
use crate::blocklist::log_watch::LogCheck;
use crate::blocklist::log_watch::LogCheckResult;
use crate::blocklist::log_watch::LogWatch;
use crate::blocklist::log_watch::POLL_WAIT;
use crate::blocklist::metrics::TopicMetrics;
use crate::blocklist::properties;
use crate::blocklist::topic::AppliedGeneration;
use crate::blocklist::topic::TopicState;
use crate::blocklist::topic::TopicView;
use crate::clock;
use crate::clock::UnixMillis;
use crate::decide::blocklist::Source;
use crate::decide::blocklist::SourceKind;
use crate::decide::fold::FollowedTopic;
use crate::decide::fold::FullRead;
use crate::decide::fold::StartOver;
use crate::decide::topic::key::TopicIdentity;
use crate::decide::topic::poison::Poison;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::Phase;
use crate::publish::replication::ReplicationFactor;

/// Records are applied in batches of at most this many.
const BATCH_RECORDS: usize = 100_000;

/// Records are gathered for as long as the previous batch took to apply, between these bounds. One change copies a shard of the rules, and
/// a hundred thousand changes of ten million rules hardly copy more than ten thousand do: large batches let a follower catch up with an
/// import.
const BATCH_TIME_MIN: Duration = Duration::from_millis(10);
const BATCH_TIME_MAX: Duration = Duration::from_millis(100);

/// The topic is stale if nothing has shown for this long that no record is missing.
const STALE_AFTER: Duration = Duration::from_secs(5);

const SILENT: &str = "kafka has not answered about the topic";

/// An iteration this late shows that the process was suspended. What happened to the topic meanwhile is not known. The time that a batch
/// took to apply does not count: with many rules on a busy machine it may be longer.
const SUSPENDED: Duration = Duration::from_secs(1);

/// How long a topic may be unreadable before a new client reads it from its start.
const UNREADABLE_MAX: Duration = Duration::from_secs(5);

/// The timeout of a request to the cluster.
const REQUEST_LIMIT: Duration = Duration::from_secs(3);

/// The same while changes are followed, which are delayed by it.
const CHECK_REQUEST_LIMIT: Duration = Duration::from_millis(500);

/// The pause between attempts to find a topic that cannot be read.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// The period of counting the rules for the metrics, which visits every shard.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// The pause before a client is replaced, in case it fails at once.
const BEFORE_RECONNECT: Duration = Duration::from_millis(500);

/// The most invalid records that are logged in one full read, and in each minute after it. The others are only counted.
const POISON_LOGGED_MAX: u64 = 10;

/// What a follower needs.
#[derive(Debug)]
pub(crate) struct FollowerSetup {
    pub(crate) topic: Arc<str>,
    /// Its index among all topics.
    pub(crate) index: usize,
    pub(crate) lists: Lists,
    /// `[kafka]`, with the brokers.
    pub(crate) configured: BTreeMap<String, String>,
    /// `None`: the follower waits for a missing topic.
    pub(crate) creation: Option<ListCreation>,
    pub(crate) view: Arc<ArcSwap<TopicView>>,
    pub(crate) applied: watch::Sender<AppliedGeneration>,
    pub(crate) metrics: TopicMetrics,
    pub(crate) lifecycle: Lifecycle,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Follower {
    setup: FollowerSetup,
    state: TopicState,
    /// When it was last known that no record is missing.
    fresh: Option<Instant>,
    /// Since when the topic cannot be read.
    unreadable: Option<Instant>,
    error: Option<Arc<str>>,
    /// The number of partitions, if it is not 1.
    wrong_partitions: Option<usize>,
    /// A check is in progress whether the topic is still the one that was read.
    is_in_doubt: bool,
    iteration_began: Instant,
    /// The same two in wall time, because the monotonic clock stops while the machine is suspended. A jump costs at most a check of the topic,
    /// or a full read.
    fresh_wall: UnixMillis,
    iteration_began_wall: UnixMillis,
    /// How long this iteration has taken to put a batch in force.
    applying_took: Duration,
    /// The undeclared identities that the last full read found.
    undeclared: BTreeSet<TopicIdentity>,
    /// Half of the time that the topic keeps tombstones: after a longer absence some may have been missed.
    away_max: Duration,
    /// How long records are gathered for one batch.
    batch_time: Duration,
    /// Invalid records before this offset have been logged.
    logged_to: u64,
    logged_now: u64,
    /// When the rules were last counted, and at which generation.
    counted: (Instant, u64),
}

/// Why following a topic has ended.
enum Interrupted {
    /// The process is stopping.
    Stopping,
    /// The log must be read from its start, by the same client.
    StartOver(String),
    /// The client must be replaced.
    Reconnect(String),
}

impl From<StartOver> for Interrupted {
    fn from(why: StartOver) -> Self {
        Self::StartOver(why.to_string())
    }
}

impl Follower {
    pub(crate) fn new(setup: FollowerSetup) -> Self {
        setup.metrics.state(&TopicState::ALL.map(TopicState::as_str), TopicState::Reading.as_str());
        Self {
            setup,
            state: TopicState::Reading,
            fresh: None,
            unreadable: None,
            error: None,
            wrong_partitions: None,
            is_in_doubt: false,
            iteration_began: clock::monotonic(),
            fresh_wall: clock::wall(),
            iteration_began_wall: clock::wall(),
            applying_took: Duration::ZERO,
            undeclared: BTreeSet::new(),
            away_max: describe::DELETE_RETENTION / 2,
            batch_time: BATCH_TIME_MIN,
            logged_to: 0,
            logged_now: 0,
            counted: (clock::monotonic(), 0),
        }
    }

    /// Follows the topic until the process has stopped.
    pub(crate) fn run(mut self) {
        loop {
            let interrupted = match self.connect() {
                Ok(consumer) => self.follow(&consumer),
                Err(interrupted) => interrupted,
            };
            match interrupted {
                Interrupted::Stopping => return,
                Interrupted::StartOver(why) | Interrupted::Reconnect(why) => self.fail(why),
            }
            if self.setup.lifecycle.wait(Phase::Draining, BEFORE_RECONNECT) {
                return;
            }
        }
    }

    /// Waits until the topic exists and can be read. Creates it if the configuration says so, but not if this replica has read it: it was
    /// deleted, and all replicas would forget its rules.
    fn connect(&mut self) -> Result<TopicConsumer, Interrupted> {
        let mut replication = ReplicationFactor::new(self.setup.creation.and_then(|it| it.replication_factor));
        let properties = properties::of_follower(&self.setup.configured);
        let consumer = TopicConsumer::new(&properties, &self.setup.topic).map_err(Interrupted::Reconnect)?;
        loop {
            let problem = match consumer.partitions(REQUEST_LIMIT) {
                Ok(partitions) => {
                    self.warn_of_partitions(partitions);
                    self.read_settings();
                    return Ok(consumer);
                }
                Err(problem) => problem,
            };
            match (&problem, self.setup.creation) {
                (TopicProblem::Missing, Some(creation)) if self.fresh.is_none() => {
                    match creation.create((&self.setup.topic, true), &self.setup.configured, &mut replication) {
                        Ok(true) => continue,
                        Ok(false) => self.fail(self.problem(&problem)),
                        Err(what) => self.fail(format!("the topic cannot be created: {what}")),
                    }
                }
                _ => self.fail(self.problem(&problem)),
            }
            self.update(None);
            if self.setup.lifecycle.wait(Phase::Draining, RETRY_PAUSE) {
                return Err(Interrupted::Stopping);
            }
        }
    }

    /// Logs that a topic has more than one partition. Only partition 0 is read, even then: so a replica that starts later agrees with replicas
    /// that started before partitions were added.
    fn warn_of_partitions(&mut self, partitions: usize) {
        let wrong_partitions = (partitions != 1).then_some(partitions);
        if wrong_partitions != self.wrong_partitions
            && let Some(partitions) = wrong_partitions
        {
            tracing::error!(
                topic = &*self.setup.topic,
                partitions,
                "the blocklist topic must have exactly 1 partition: only partition 0 is read, and rules in other partitions have no effect; create the topic again"
            );
        }
        self.wrong_partitions = wrong_partitions;
    }

    /// Reads how long tombstones are kept, and logs settings that are not safe.
    fn read_settings(&mut self) {
        let topic = &*self.setup.topic;
        match describe::config_of(&properties::of_admin(&self.setup.configured), topic) {
            Ok(config) => {
                self.away_max = config.delete_retention / 2;
                if let Some(mistake) = config.mistake() {
                    tracing::error!(topic, "the blocklist topic has wrong settings: {mistake}");
                }
            }
            Err(why) => tracing::info!(topic, why, "the settings of the blocklist topic cannot be read"),
        }
    }

    /// Reads the topic from its start and follows it, repeatedly, until this client can no longer do so.
    fn follow(&mut self, consumer: &TopicConsumer) -> Interrupted {
        loop {
            let following = match self.read(consumer) {
                Ok(following) => following,
                Err(Interrupted::StartOver(why)) => {
                    self.fail(why);
                    continue;
                }
                Err(interrupted) => return interrupted,
            };
            self.live(following.position().next);
            match self.apply_changes(consumer, following) {
                Interrupted::StartOver(why) => {
                    tracing::warn!(topic = &*self.setup.topic, why, "the blocklist topic is read again from its start");
                    self.logged_to = 0;
                    // A client that has seen a higher leader epoch reads nothing from a topic that was created again.
                    return Interrupted::Reconnect(why);
                }
                Interrupted::Stopping => return Interrupted::Stopping,
                Interrupted::Reconnect(why) => return Interrupted::Reconnect(why),
            }
        }
    }

    /// Reads the topic from its start to its end, and puts its rules in force.
    fn read(&mut self, consumer: &TopicConsumer) -> Result<FollowedTopic, Interrupted> {
        let end = consumer.high_watermark(REQUEST_LIMIT).map_err(Interrupted::Reconnect)?;
        consumer.read_from(None).map_err(Interrupted::Reconnect)?;
        let began = clock::monotonic();
        let (mut reading, mut found) = (FullRead::default(), Ok(None));
        self.logged_now = 0;
        loop {
            let polled = consumer.poll(POLL_WAIT, |record| {
                found = reading.apply(record).map(|poison| poison.map(|poison| (record.offset, poison)));
            });
            if let Some((offset, poison)) = std::mem::replace(&mut found, Ok(None))? {
                self.log_poison(offset, &poison);
            }
            let is_at_end = match polled {
                Polled::Record => reading.next() >= end,
                Polled::End => true,
                Polled::Nothing => false,
                Polled::LogChanged => {
                    return Err(Interrupted::StartOver("the log has changed while it was read".into()));
                }
                Polled::Unreadable(why) | Polled::Dead(why) => return Err(Interrupted::Reconnect(why)),
            };
            if is_at_end {
                break;
            }
            let now = clock::monotonic();
            if now.saturating_duration_since(self.iteration_began) >= Duration::from_millis(100) {
                self.begin_iteration(now, clock::wall());
                self.update(None);
                if self.setup.lifecycle.phase() >= Phase::Draining {
                    return Err(Interrupted::Stopping);
                }
            }
        }
        let (records, generation) = (reading.records(), reading.next());
        let following = reading.finish(&self.undeclared).map_err(|undeclared| {
            self.undeclared = undeclared;
            Interrupted::StartOver("there are records of an identity that no record declares".into())
        })?;
        self.undeclared.clone_from(&following.position().undeclared);
        let (poison, rules) = (following.position().poison, following.rules().len());
        let took_ms = u64::try_from(clock::monotonic().duration_since(began).as_millis()).unwrap_or(u64::MAX);
        let topic = &*self.setup.topic;
        tracing::info!(topic, generation, rules, records, poison, took_ms, "blocklist topic read");
        self.publish(&following, true);
        self.setup.metrics.full_reads.inc();
        self.setup.metrics.rules(following.rules());
        Ok(following)
    }

    /// Applies changes, as long as the log is the one that was read.
    fn apply_changes(&mut self, consumer: &TopicConsumer, mut following: FollowedTopic) -> Interrupted {
        let mut watch = LogWatch::new(following.position().first);
        self.is_in_doubt = false;
        loop {
            let now = clock::monotonic();
            let since_last = self.begin_iteration(now, clock::wall());
            if self.setup.lifecycle.phase() >= Phase::Draining {
                return Interrupted::Stopping;
            }
            if self.away(now) > self.away_max {
                let why = "kafka was unreachable for longer than half of the topic's delete.retention.ms";
                return Interrupted::Reconnect(why.into());
            }
            if since_last > SUSPENDED {
                watch.doubt();
            }
            if let Err(interrupted) = self.check(consumer, &mut watch, &following) {
                return interrupted;
            }
            // Nothing is applied from a log that may have been replaced.
            if !watch.is_in_doubt
                && let Err(interrupted) = self.apply(consumer, &mut following)
            {
                return interrupted;
            }
            let was_stale = self.state == TopicState::Stale;
            if consumer.is_at_end(following.position().next, clock::monotonic()) && !watch.is_in_doubt {
                self.live(following.position().next);
            }
            // What happened to the topic meanwhile is not known.
            if was_stale && self.state == TopicState::Live {
                watch.doubt();
            }
            self.is_in_doubt = watch.is_in_doubt;
            if self.is_silent() {
                self.fail(match consumer.partitions(CHECK_REQUEST_LIMIT) {
                    Err(problem @ (TopicProblem::Missing | TopicProblem::Forbidden)) => self.problem(&problem),
                    Ok(_) | Err(TopicProblem::Unknown(_)) => SILENT.to_owned(),
                });
            }
            self.update(Some(&following));
        }
    }

    /// Begins or continues a check of the log, if one is needed. `Err`: the log was replaced, or the topic is gone.
    fn check(
        &mut self,
        consumer: &TopicConsumer,
        watch: &mut LogWatch,
        following: &FollowedTopic,
    ) -> Result<(), Interrupted> {
        let now = self.iteration_began;
        if let Some(described) = consumer.described()
            && watch.describe(described)
        {
            self.warn_of_partitions(described.partitions.max(1));
        }
        if watch.check.is_none() && watch.is_due && (watch.is_in_doubt || self.state == TopicState::Live) {
            watch.mark = watch.mark.or(following.position().first);
            match watch.mark {
                Some(mark) => {
                    let FollowerSetup { configured, topic, .. } = &self.setup;
                    watch.check = LogCheck::start(configured, topic, (mark, following.position().last), now);
                }
                // No record was applied, so any log is right.
                None => watch.is_in_doubt = false,
            }
            watch.is_due = watch.mark.is_some() && watch.check.is_none();
            self.logged_now = 0;
        }
        match watch.check.as_mut().map(|check| check.poll(watch.is_in_doubt, now)) {
            None | Some(LogCheckResult::Waiting) => {}
            Some(LogCheckResult::Unreadable(why)) => self.fail(why),
            Some(LogCheckResult::Same(last)) => {
                // Records that were applied before the check began are from the same log.
                (watch.check, watch.mark) = (None, last);
                watch.is_in_doubt &= watch.is_due;
            }
            Some(LogCheckResult::Unknown) => {
                (watch.check, watch.is_due) = (None, true);
                if let Err(problem @ (TopicProblem::Missing | TopicProblem::Forbidden)) =
                    consumer.partitions(CHECK_REQUEST_LIMIT)
                {
                    return Err(Interrupted::Reconnect(self.problem(&problem)));
                }
            }
            Some(LogCheckResult::Changed(why)) => return Err(why.into()),
        }
        Ok(())
    }

    /// Begins an iteration. Returns the time since the last one began, without that of applying a batch.
    fn begin_iteration(&mut self, now: Instant, wall: UnixMillis) -> Duration {
        let took = now.saturating_duration_since(self.iteration_began).max(wall.since(self.iteration_began_wall));
        (self.iteration_began, self.iteration_began_wall) = (now, wall);
        took.saturating_sub(std::mem::take(&mut self.applying_took))
    }

    /// For how long records may have been missing, at the iteration that began `now`.
    fn away(&self, now: Instant) -> Duration {
        let fresh = self
            .fresh
            .map(|fresh| now.saturating_duration_since(fresh).max(self.iteration_began_wall.since(self.fresh_wall)));
        fresh.unwrap_or_default()
    }

    /// Applies the records that have arrived, or waits for some.
    fn apply(&mut self, consumer: &TopicConsumer, following: &mut FollowedTopic) -> Result<(), Interrupted> {
        let (mut wait, mut records) = (POLL_WAIT, 0);
        let mut began = None;
        loop {
            let mut found = Ok(None);
            let polled = consumer.poll(wait, |record| {
                found = following.apply(record).map(|poison| poison.map(|poison| (record.offset, poison)));
            });
            if let Some((offset, poison)) = found? {
                self.log_poison(offset, &poison);
            }
            match polled {
                Polled::Record => records += 1,
                Polled::Nothing | Polled::End => break,
                Polled::LogChanged => {
                    return Err(Interrupted::StartOver("the log ends before or begins after what was read".into()));
                }
                Polled::Unreadable(why) => {
                    let since = *self.unreadable.get_or_insert(self.iteration_began);
                    if self.iteration_began.saturating_duration_since(since) > UNREADABLE_MAX {
                        return Err(Interrupted::Reconnect(why));
                    }
                    self.fail(why);
                    break;
                }
                Polled::Dead(why) => return Err(Interrupted::Reconnect(why)),
            }
            let now = clock::monotonic();
            if records >= BATCH_RECORDS || now.saturating_duration_since(*began.get_or_insert(now)) > self.batch_time {
                break;
            }
            wait = Duration::ZERO;
        }
        if records > 0 {
            self.unreadable = None;
            let began = clock::monotonic();
            following.commit();
            self.publish(following, false);
            self.applying_took = clock::monotonic().saturating_duration_since(began);
            self.batch_time = self.applying_took.clamp(BATCH_TIME_MIN, BATCH_TIME_MAX);
        }
        Ok(())
    }

    /// Puts the rules in force, and wakes requests that wait for their generation.
    fn publish(&mut self, following: &FollowedTopic, is_full_read: bool) {
        let generation = following.position().next;
        let source = Source::new(SourceKind::Topic, &self.setup.topic, Arc::clone(following.rules()));
        self.setup.lists.put_topic(self.setup.index, source, generation, is_full_read);
        self.store(Some(following));
        self.setup.applied.send_modify(|applied| {
            (applied.generation, applied.full_reads) = (generation, applied.full_reads + u64::from(is_full_read));
        });
    }

    /// Records that no record is missing.
    fn live(&mut self, generation: u64) {
        if self.state != TopicState::Live {
            tracing::info!(topic = &*self.setup.topic, generation, "the blocklist topic is live");
        }
        // As of the beginning of the iteration: since then the process may have been suspended, with a response in transit.
        (self.state, self.fresh, self.fresh_wall) =
            (TopicState::Live, Some(self.iteration_began), self.iteration_began_wall);
        (self.error, self.unreadable) = (None, None);
    }

    /// Whether Kafka has not shown for too long that nothing is missing.
    fn is_silent(&self) -> bool {
        let silent = self.fresh.map(|fresh| clock::monotonic().saturating_duration_since(fresh));
        self.state == TopicState::Live && silent.is_some_and(|silent| silent > STALE_AFTER)
    }

    /// A problem in words for the operator.
    fn problem(&self, problem: &TopicProblem) -> String {
        match problem {
            TopicProblem::Missing if self.fresh.is_some() => consumer::GONE.to_owned(),
            TopicProblem::Missing | TopicProblem::Forbidden | TopicProblem::Unknown(_) => problem.to_string(),
        }
    }

    /// Records why the topic cannot be read, and logs it once.
    fn fail(&mut self, why: String) {
        if self.error.as_deref() != Some(&*why) {
            tracing::warn!(
                topic = &*self.setup.topic,
                why,
                "the blocklist topic cannot be followed; its last rules stay in force"
            );
            self.error = Some(why.into());
        }
        if self.state == TopicState::Live {
            self.state = TopicState::Stale;
        }
    }

    fn log_poison(&mut self, offset: u64, poison: &Poison) {
        if offset < self.logged_to {
            return;
        }
        self.logged_to = offset + 1;
        self.logged_now += 1;
        let topic = &*self.setup.topic;
        if self.logged_now <= POISON_LOGGED_MAX {
            let why = poison.to_string();
            tracing::error!(topic, offset, why, "a record of the blocklist topic is invalid; its rule has no effect");
        } else if self.logged_now == POISON_LOGGED_MAX + 1 {
            tracing::error!(topic, "more records of the blocklist topic are invalid; they are counted, but not logged");
        }
    }

    /// Updates the state, the metrics and the view, and drops replaced lists that are no longer read.
    fn update(&mut self, following: Option<&FollowedTopic>) {
        let now = clock::monotonic();
        if self.is_silent() {
            self.fail(SILENT.to_owned());
        }
        self.setup.metrics.state(&TopicState::ALL.map(TopicState::as_str), self.state.as_str());
        let age = self.fresh.map(|fresh| now.saturating_duration_since(fresh));
        self.setup.metrics.age.set(age.map_or(f64::NAN, |age| age.as_secs_f64()));
        self.store(following);
        if let Some(following) = following
            && now.saturating_duration_since(self.counted.0) >= COUNT_EVERY
            && following.position().next != self.counted.1
        {
            self.counted = (now, following.position().next);
            self.setup.metrics.rules(following.rules());
        }
        self.setup.lists.drop_replaced(now);
    }

    /// Stores the view, with the rules of `following`, or the old ones.
    fn store(&self, following: Option<&FollowedTopic>) {
        let old = self.setup.view.load();
        let mut view = TopicView {
            rules: Arc::clone(&old.rules),
            generation: old.generation,
            state: self.state,
            is_in_doubt: self.is_in_doubt,
            fresh: self.fresh,
            identity: old.identity,
            poison: old.poison,
            error: self.error.clone().or_else(|| {
                let wrong_partitions = self.wrong_partitions?;
                Some(
                    format!(
                        "the topic has {wrong_partitions} partitions, and must have exactly 1: only partition 0 is read"
                    )
                    .into(),
                )
            }),
        };
        if let Some(following) = following {
            let position = following.position();
            view.rules = Arc::clone(following.rules());
            (view.generation, view.poison) = (position.next, position.poison);
            view.identity = position.declared.first().copied();
            self.setup.metrics.generation.set(i64::try_from(position.next).unwrap_or(i64::MAX));
            self.setup.metrics.poison.set(i64::try_from(position.poison).unwrap_or(i64::MAX));
        }
        self.setup.view.store(Arc::new(view));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::thread;

    use prometheus::Registry;

    use crate::blocklist::consumer::PARTITION;
    use crate::blocklist::lists::ListSources;
    use crate::blocklist::metrics::BlocklistMetrics;
    use crate::blocklist::producer::ListRecord;
    use crate::blocklist::producer::TopicProducer;
    use crate::publish::embedded::EmbeddedBroker;

    fn follower(configured: BTreeMap<String, String>, lifecycle: Lifecycle) -> Follower {
        let metrics = BlocklistMetrics::register(&Registry::new()).expect("metrics");
        Follower::new(FollowerSetup {
            topic: "list".into(),
            index: 0,
            lists: Lists::new(vec![ListSources { files: Vec::new(), topic: Some(0) }], metrics.clone()),
            configured,
            creation: None,
            view: Arc::new(ArcSwap::from_pointee(TopicView::unread())),
            applied: watch::channel(AppliedGeneration::default()).0,
            metrics: metrics.topic("list"),
            lifecycle,
        })
    }

    #[test]
    fn time_while_the_machine_is_suspended_counts() {
        let mut follower = follower(BTreeMap::new(), Lifecycle::new());
        follower.live(0);
        let (now, wall) = (follower.iteration_began, follower.fresh_wall);
        follower.begin_iteration(now, wall);
        // The monotonic clock stops meanwhile.
        let hour = UnixMillis(wall.0 + 3_600_000);
        assert_eq!(follower.begin_iteration(now, hour), Duration::from_hours(1));
        assert_eq!(
            (follower.begin_iteration(now, hour), follower.away(now)),
            (Duration::ZERO, Duration::from_hours(1))
        );
    }

    #[test]
    fn a_batch_that_takes_long_to_apply_is_no_suspension() {
        let mut follower = follower(BTreeMap::new(), Lifecycle::new());
        let after = |follower: &mut Follower, took: Duration| {
            let millis = i64::try_from(took.as_millis()).expect("a short time");
            let (now, wall) = (follower.iteration_began + took, UnixMillis(follower.iteration_began_wall.0 + millis));
            follower.begin_iteration(now, wall)
        };
        follower.applying_took = 2 * SUSPENDED;
        assert_eq!(after(&mut follower, 2 * SUSPENDED + POLL_WAIT), POLL_WAIT);
        assert_eq!(after(&mut follower, 2 * SUSPENDED), 2 * SUSPENDED, "a batch counts in its own iteration only");
        follower.applying_took = SUSPENDED / 2;
        assert_eq!(after(&mut follower, 2 * SUSPENDED), SUSPENDED * 3 / 2, "suspended while a batch was applied");
    }

    #[test]
    fn a_topic_is_live_as_of_the_beginning_of_the_iteration() {
        let mut follower = follower(BTreeMap::new(), Lifecycle::new());
        let (began, wall) = (clock::monotonic(), clock::wall());
        follower.begin_iteration(began, wall);
        // It is suspended here, and then receives a response that was in transit.
        follower.live(0);
        let now = began + Duration::from_hours(1);
        follower.begin_iteration(now, wall);
        assert_eq!(follower.away(now), Duration::from_hours(1));
    }

    #[test]
    fn a_topic_without_an_identity_whose_reading_ends_slowly_is_read_once() {
        let broker = EmbeddedBroker::start(&[], 1, &["list".to_owned()]).expect("a broker");
        let configured: BTreeMap<_, _> = [("bootstrap.servers".to_owned(), broker.bootstrap().to_owned())].into();
        let (partition, value) = (Some(PARTITION), Some(r#"{"who":"alice","when":"2026-05-28T20:26:40Z"}"#));
        let record = ListRecord { topic: "list", partition, key: "block\u{1f}bob", value, headers: Vec::new() };
        let producer = TopicProducer::new(&properties::of_writer(&configured)).expect("a producer");
        assert_eq!(producer.write(&[record]), [Ok(0)]);

        let lifecycle = Lifecycle::new();
        let mut follower = follower(configured, lifecycle.clone());
        let consumer = follower.connect().unwrap_or_else(|_interrupted| panic!("a topic"));
        let following = follower.read(&consumer).unwrap_or_else(|_interrupted| panic!("read"));
        assert_eq!(following.rules().len(), 1);
        // As if the rules had taken as long to build.
        follower.iteration_began = clock::monotonic().checked_sub(2 * SUSPENDED).expect("a moment");
        let stopping = thread::spawn(move || {
            lifecycle.wait(Phase::Stopped, SUSPENDED / 2);
            lifecycle.enter(Phase::Stopped)
        });
        let ended = follower.apply_changes(&consumer, following);
        assert!(matches!(ended, Interrupted::Stopping), "it is read again");
        stopping.join().expect("it stops");
    }
}
