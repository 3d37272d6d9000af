//! Follows one blocklist topic, on a thread of its own: reads it to its end, puts its rules in force, and applies each change as it comes.
//!
//! The rules in force stay until a newer state of the log has been read to its end, whatever happens to Kafka: staleness is told and never
//! changes an answer. The log is read again from its start, beside the rules in force, whenever it may not be the one it was.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::blocklist::consumer::DESCRIBED_EVERY;
use crate::blocklist::consumer::Polled;
use crate::blocklist::consumer::TopicConsumer;
use crate::blocklist::consumer::TopicDescribed;
use crate::blocklist::consumer::TopicProblem;
use crate::blocklist::creation::ListCreation;
use crate::blocklist::describe;
use crate::blocklist::lists::Lists;
use crate::blocklist::metrics::TopicMetrics;
use crate::blocklist::properties;
use crate::blocklist::topic::AppliedGeneration;
use crate::blocklist::topic::TopicState;
use crate::blocklist::topic::TopicView;
use crate::clock;
use crate::clock::UnixMillis;
use crate::decide::blocklist::Source;
use crate::decide::blocklist::SourceKind;
use crate::decide::fold::LogMark;
use crate::decide::fold::StartOver;
use crate::decide::fold::TopicFollowing;
use crate::decide::fold::TopicReading;
use crate::decide::topic::key::TopicIdentity;
use crate::decide::topic::poison::Poison;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::Phase;
use crate::publish::replication::ReplicationFactor;

/// How long one turn waits for a record. What is left of a millisecond librdkafka spins for, so it must be a little more than whole ones.
const TURN: Duration = Duration::from_micros(100_050);

/// Records that have come are applied together: so many at most, and gathered for so long.
const BATCH_RECORDS: usize = 10_000;
const BATCH_TIME: Duration = Duration::from_millis(10);

/// Without a sign for so long that nothing is missing, the topic counts as stale.
const STALE_AFTER: Duration = Duration::from_secs(5);

/// A turn that comes so late shows that the process stood still. What happened to the topic meanwhile is not known.
const STOOD_STILL: Duration = Duration::from_secs(1);

/// Where the brokers were asked for the topic so soon again, a fetch had failed.
const DESCRIBED_EARLY: Duration = DESCRIBED_EVERY.saturating_sub(Duration::from_secs(5));

/// How long a check may take whether the log is still the one that was read.
const CHECK_LIMIT: Duration = Duration::from_secs(10);

/// How long a topic may be unreadable before a new client reads it from its start.
const UNREADABLE_MAX: Duration = Duration::from_secs(5);

/// For one answer of the cluster.
const REQUEST_LIMIT: Duration = Duration::from_secs(3);

/// The same while changes are followed, which wait for it.
const CHECK_REQUEST_LIMIT: Duration = Duration::from_millis(500);

/// Between two looks for a topic that cannot be read.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// How often the rules are counted for the metrics: it takes a look at each shard.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Before a client is replaced, so that one that fails at once is not replaced all the time.
const BEFORE_RECONNECT: Duration = Duration::from_millis(500);

/// How many poison records one reading tells, and each minute after it; the others are counted.
const POISON_TOLD_MAX: u64 = 10;

/// What a follower works with.
#[derive(Debug)]
pub(crate) struct FollowerSetup {
    pub(crate) topic: Arc<str>,
    /// Its place among all topics.
    pub(crate) place: usize,
    pub(crate) lists: Lists,
    /// `[kafka]`, with the brokers.
    pub(crate) configured: BTreeMap<String, String>,
    /// `None`: a missing topic is waited for.
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
    /// When nothing was missing last.
    fresh: Option<Instant>,
    /// Since when the topic cannot be read.
    unreadable: Option<Instant>,
    error: Option<Arc<str>>,
    /// How many partitions the topic has, if not one.
    surplus: Option<usize>,
    /// It is being checked whether the topic is still the one that was read.
    is_in_doubt: bool,
    last_turn: Instant,
    /// The same two in wall time: the monotonic clock stands still while the machine is suspended. A jump costs no more than a look at the
    /// topic, or one more full read.
    fresh_wall: UnixMillis,
    last_turn_wall: UnixMillis,
    /// Of the reading before, if it found some.
    undeclared: BTreeSet<TopicIdentity>,
    /// Half of the time that the topic keeps tombstones: whoever was away for longer may have missed some.
    away_max: Duration,
    /// Poison behind this offset was told.
    told: u64,
    told_now: u64,
    /// When the rules were counted last, and as of which generation.
    counted: (Instant, u64),
}

/// Why a topic is not followed any further.
enum Interrupted {
    /// The process stops.
    Stopping,
    /// The log has to be read from its start, by the same client.
    StartOver(String),
    /// The client has to be replaced.
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
            surplus: None,
            is_in_doubt: false,
            last_turn: clock::monotonic(),
            fresh_wall: clock::wall(),
            last_turn_wall: clock::wall(),
            undeclared: BTreeSet::new(),
            away_max: describe::DELETE_RETENTION / 2,
            told: 0,
            told_now: 0,
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

    /// Waits until the topic is there and can be read, and makes it if it may.
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
                (TopicProblem::Missing, Some(creation)) => {
                    match creation.create((&self.setup.topic, true), &self.setup.configured, &mut replication) {
                        Ok(true) => continue,
                        Ok(false) => self.fail(problem.to_string()),
                        Err(what) => self.fail(format!("the topic cannot be created: {what}")),
                    }
                }
                _ => self.fail(problem.to_string()),
            }
            self.show(None);
            if self.setup.lifecycle.wait(Phase::Draining, BETWEEN_LOOKS) {
                return Err(Interrupted::Stopping);
            }
        }
    }

    /// Tells of partitions that are not read: a record there counts for nothing. Those of partition 0 hold all the same, so that a replica
    /// that starts now agrees with those that were there before the partitions were added.
    fn warn_of_partitions(&mut self, partitions: usize) {
        let surplus = (partitions != 1).then_some(partitions);
        if surplus != self.surplus
            && let Some(partitions) = surplus
        {
            tracing::error!(
                topic = &*self.setup.topic,
                partitions,
                "the blocklist topic must have exactly 1 partition: only partition 0 is read, and rules in others do not hold; make it anew"
            );
        }
        self.surplus = surplus;
    }

    /// Learns how long tombstones are kept, and warns of settings that are not safe.
    fn read_settings(&mut self) {
        let topic = &*self.setup.topic;
        match describe::config_of(&properties::of_admin(&self.setup.configured), topic) {
            Ok(config) => {
                self.away_max = config.delete_retention / 2;
                if let Some(mistake) = config.mistake() {
                    tracing::error!(topic, "the blocklist topic is set wrongly: {mistake}");
                }
            }
            Err(why) => tracing::info!(topic, why, "kafka does not say how the blocklist topic is set"),
        }
    }

    /// Reads the topic from its start and follows it, again and again, until it cannot be followed with this client.
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
            match self.keep_up(consumer, following) {
                Interrupted::StartOver(why) => {
                    tracing::warn!(topic = &*self.setup.topic, why, "the blocklist topic is read again from its start");
                    self.told = 0;
                    // A client that knew a higher leader epoch reads nothing of a topic that was made again.
                    return Interrupted::Reconnect(why);
                }
                Interrupted::Stopping => return Interrupted::Stopping,
                Interrupted::Reconnect(why) => return Interrupted::Reconnect(why),
            }
        }
    }

    /// Reads the topic from its start to its end, and puts its rules in force.
    fn read(&mut self, consumer: &TopicConsumer) -> Result<TopicFollowing, Interrupted> {
        let end = consumer.high_watermark(REQUEST_LIMIT).map_err(Interrupted::Reconnect)?;
        consumer.read_from(None).map_err(Interrupted::Reconnect)?;
        let began = clock::monotonic();
        let (mut reading, mut found) = (TopicReading::default(), Ok(None));
        self.told_now = 0;
        loop {
            let polled = consumer.poll(TURN, |record| {
                found = reading.apply(record).map(|poison| poison.map(|poison| (record.offset, poison)));
            });
            if let Some((offset, poison)) = std::mem::replace(&mut found, Ok(None))? {
                self.tell(offset, &poison);
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
            if now.saturating_duration_since(self.last_turn) >= Duration::from_millis(100) {
                self.turn(now, clock::wall());
                self.show(None);
                if self.setup.lifecycle.phase() >= Phase::Draining {
                    return Err(Interrupted::Stopping);
                }
            }
        }
        let (records, generation) = (reading.records(), reading.next());
        let following = reading.finish(&self.undeclared).map_err(|undeclared| {
            self.undeclared = undeclared;
            Interrupted::StartOver("records are of an identity that no record declares".into())
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

    /// Applies what comes, as long as the log is the one that was read.
    fn keep_up(&mut self, consumer: &TopicConsumer, mut following: TopicFollowing) -> Interrupted {
        let mut watch = LogWatch { mark: following.position().first, ..LogWatch::default() };
        self.is_in_doubt = false;
        loop {
            let now = clock::monotonic();
            let turn = self.turn(now, clock::wall());
            if self.setup.lifecycle.phase() >= Phase::Draining {
                return Interrupted::Stopping;
            }
            if self.away(now) > self.away_max {
                let why = "kafka was away for longer than half of the topic's delete.retention.ms";
                return Interrupted::Reconnect(why.into());
            }
            if turn > STOOD_STILL {
                watch.doubt();
            }
            if let Err(interrupted) = self.check(consumer, &mut watch, &following) {
                return interrupted;
            }
            // Nothing of what may be another log is applied.
            if !watch.is_in_doubt
                && let Err(interrupted) = self.apply(consumer, &mut following)
            {
                return interrupted;
            }
            let was_stale = self.state == TopicState::Stale;
            if consumer.is_at_end(following.position().next, clock::monotonic()) && !watch.is_in_doubt {
                self.live(following.position().next);
            }
            // Nobody saw what happened to the topic meanwhile.
            if was_stale && self.state == TopicState::Live {
                watch.doubt();
            }
            self.is_in_doubt = watch.is_in_doubt;
            self.show(Some(&following));
        }
    }

    /// Checks whether the log is still the one that was read, if it may not be. `Err`: it is not, or the topic is gone.
    fn check(
        &mut self,
        consumer: &TopicConsumer,
        watch: &mut LogWatch,
        following: &TopicFollowing,
    ) -> Result<(), Interrupted> {
        let now = self.last_turn;
        if let Some(described) = consumer.described()
            && watch.is_news(described)
        {
            self.warn_of_partitions(described.partitions.max(1));
        }
        if watch.check.is_none() && watch.is_due && (watch.is_in_doubt || self.state == TopicState::Live) {
            watch.mark = watch.mark.or(following.position().first);
            match watch.mark {
                Some(mark) => watch.check = LogCheck::start(&self.setup, (mark, following.position().last), now),
                // No record of any log was applied.
                None => watch.is_in_doubt = false,
            }
            watch.is_due = watch.mark.is_some() && watch.check.is_none();
            self.told_now = 0;
        }
        match watch.check.as_mut().map(|check| check.turn(watch.is_in_doubt, now)) {
            None | Some(Checked::Waiting) => {}
            Some(Checked::Unreadable(why)) => self.fail(why),
            Some(Checked::Same(last)) => {
                // What was applied before the check began is of the same log.
                (watch.check, watch.mark) = (None, last);
                watch.is_in_doubt &= watch.is_due;
            }
            Some(Checked::Unknown) => {
                (watch.check, watch.is_due) = (None, true);
                if let Err(problem @ (TopicProblem::Missing | TopicProblem::Forbidden)) =
                    consumer.partitions(CHECK_REQUEST_LIMIT)
                {
                    return Err(Interrupted::Reconnect(problem.to_string()));
                }
            }
            Some(Checked::Changed(why)) => return Err(why.into()),
        }
        Ok(())
    }

    /// Begins a turn. Returns how long ago the one before began.
    fn turn(&mut self, now: Instant, wall: UnixMillis) -> Duration {
        let took = now.saturating_duration_since(self.last_turn).max(wall.since(self.last_turn_wall));
        (self.last_turn, self.last_turn_wall) = (now, wall);
        took
    }

    /// For how long something may be missing, as of the turn that began `now`.
    fn away(&self, now: Instant) -> Duration {
        let fresh = self
            .fresh
            .map(|fresh| now.saturating_duration_since(fresh).max(self.last_turn_wall.since(self.fresh_wall)));
        fresh.unwrap_or_default()
    }

    /// Applies the records that have come, or waits for some.
    fn apply(&mut self, consumer: &TopicConsumer, following: &mut TopicFollowing) -> Result<(), Interrupted> {
        let (mut wait, mut records) = (TURN, 0);
        let mut began = None;
        loop {
            let mut found = Ok(None);
            let polled = consumer.poll(wait, |record| {
                found = following.apply(record).map(|poison| poison.map(|poison| (record.offset, poison)));
            });
            if let Some((offset, poison)) = found? {
                self.tell(offset, &poison);
            }
            match polled {
                Polled::Record => records += 1,
                Polled::Nothing | Polled::End => break,
                Polled::LogChanged => {
                    return Err(Interrupted::StartOver("the log ends before or begins behind what was read".into()));
                }
                Polled::Unreadable(why) => {
                    let since = *self.unreadable.get_or_insert(self.last_turn);
                    if self.last_turn.saturating_duration_since(since) > UNREADABLE_MAX {
                        return Err(Interrupted::Reconnect(why));
                    }
                    self.fail(why);
                    break;
                }
                Polled::Dead(why) => return Err(Interrupted::Reconnect(why)),
            }
            let now = clock::monotonic();
            if records >= BATCH_RECORDS || now.saturating_duration_since(*began.get_or_insert(now)) > BATCH_TIME {
                break;
            }
            wait = Duration::ZERO;
        }
        if records > 0 {
            self.unreadable = None;
            following.commit();
            self.publish(following, false);
        }
        Ok(())
    }

    /// Puts the rules in force, and tells those who wait for them.
    fn publish(&mut self, following: &TopicFollowing, is_anew: bool) {
        let generation = following.position().next;
        let source = Source::new(SourceKind::Topic, &self.setup.topic, Arc::clone(following.rules()));
        self.setup.lists.put_topic(self.setup.place, source, generation, is_anew);
        self.store(Some(following));
        self.setup.applied.send_modify(|applied| {
            (applied.generation, applied.readings) = (generation, applied.readings + u64::from(is_anew));
        });
    }

    /// Nothing is missing.
    fn live(&mut self, generation: u64) {
        if self.state != TopicState::Live {
            tracing::info!(topic = &*self.setup.topic, generation, "the blocklist topic is live");
        }
        // As of the begin of the turn: the process may have stood still since, with an answer on its way that is older than that.
        (self.state, self.fresh, self.fresh_wall) = (TopicState::Live, Some(self.last_turn), self.last_turn_wall);
        (self.error, self.unreadable) = (None, None);
    }

    /// Takes note of what keeps the topic from being read, and tells it once.
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

    fn tell(&mut self, offset: u64, poison: &Poison) {
        if offset < self.told {
            return;
        }
        self.told = offset + 1;
        self.told_now += 1;
        let topic = &*self.setup.topic;
        if self.told_now <= POISON_TOLD_MAX {
            let why = poison.to_string();
            tracing::error!(
                topic,
                offset,
                why,
                "a record of the blocklist topic cannot be used; its rule does not hold"
            );
        } else if self.told_now == POISON_TOLD_MAX + 1 {
            tracing::error!(
                topic,
                "more records of the blocklist topic cannot be used; they are counted, and not told"
            );
        }
    }

    /// Shows how it is doing, and lets go of what is not read any more.
    fn show(&mut self, following: Option<&TopicFollowing>) {
        let now = clock::monotonic();
        if self.state == TopicState::Live
            && self.fresh.is_some_and(|fresh| now.saturating_duration_since(fresh) > STALE_AFTER)
        {
            self.fail("kafka shows nothing of the topic".into());
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

    /// Stores the view, with the rules of `following`, or those that it had.
    fn store(&self, following: Option<&TopicFollowing>) {
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
                let surplus = self.surplus?;
                Some(
                    format!("the topic has {surplus} partitions, and must have exactly 1: only partition 0 is read")
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

/// What is known of whether the log is still the one that was read.
#[derive(Default)]
struct LogWatch {
    /// A record that was in the log when it was checked last, or when its reading began.
    mark: Option<LogMark>,
    /// When the brokers last said what the topic is.
    described: Option<i64>,
    /// Something happened since the last check began.
    is_due: bool,
    /// The log may be another: what comes is not applied before a check has ended.
    is_in_doubt: bool,
    check: Option<LogCheck>,
}

impl LogWatch {
    /// The log may be another from now on.
    fn doubt(&mut self) {
        (self.is_due, self.is_in_doubt) = (true, true);
    }

    /// Takes up what the brokers say. Returns whether they have said it since the last time.
    fn is_news(&mut self, described: TopicDescribed) -> bool {
        // The clock's readings are cut to milliseconds, twice.
        if self.described.is_some_and(|before| described.at - before <= 2) {
            return false;
        }
        let early = i64::try_from(DESCRIBED_EARLY.as_millis()).unwrap_or(i64::MAX);
        let is_early = self.described.is_some_and(|before| described.at - before < early);
        self.described = Some(described.at);
        self.is_due = true;
        self.is_in_doubt |= is_early;
        true
    }
}

/// A look, with a client of its own, whether a record is still where it was read. The client that follows keeps its place meanwhile:
/// assigned anew, it would not notice a truncation.
struct LogCheck {
    consumer: TopicConsumer,
    mark: LogMark,
    /// The last record that was applied when the check began.
    last: Option<LogMark>,
    /// The log ends at or before the record, or its leader does not know yet that it goes on.
    is_short: bool,
    deadline: Instant,
}

/// What came of a look.
enum Checked {
    Waiting,
    /// Kafka does not let the record be read for now, and why.
    Unreadable(String),
    /// The record is there. Beside it the last record that was applied when the check began.
    Same(Option<LogMark>),
    Changed(StartOver),
    /// Kafka has not answered in time.
    Unknown,
}

impl LogCheck {
    fn start(setup: &FollowerSetup, (mark, last): (LogMark, Option<LogMark>), now: Instant) -> Option<Self> {
        let properties = properties::of_follower(&setup.configured);
        let consumer = TopicConsumer::new(&properties, &setup.topic).ok()?;
        consumer.read_from(Some(mark.offset)).ok()?;
        Some(Self { consumer, mark, last, is_short: false, deadline: now + CHECK_LIMIT })
    }

    /// Waits for an answer only if nothing else is to be done.
    fn turn(&mut self, waits: bool, now: Instant) -> Checked {
        let mut found = None;
        let polled = self.consumer.poll(if waits { TURN } else { Duration::ZERO }, |record| {
            found = Some(LogMark::of(record));
        });
        self.is_short |= polled == Polled::End;
        let is_late = now >= self.deadline;
        match polled {
            Polled::Record if found == Some(self.mark) => Checked::Same(self.last),
            Polled::Record | Polled::LogChanged => Checked::Changed(StartOver::Replaced(self.mark)),
            Polled::Nothing | Polled::End if is_late && self.is_short => {
                Checked::Changed(StartOver::Replaced(self.mark))
            }
            Polled::Unreadable(why) if !is_late => Checked::Unreadable(why),
            Polled::Nothing | Polled::End if !is_late => Checked::Waiting,
            Polled::Nothing | Polled::End | Polled::Unreadable(_) | Polled::Dead(_) => Checked::Unknown,
        }
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
            place: 0,
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
    fn the_time_that_the_machine_is_suspended_counts() {
        let mut follower = follower(BTreeMap::new(), Lifecycle::new());
        follower.live(0);
        let (now, wall) = (follower.last_turn, follower.fresh_wall);
        follower.turn(now, wall);
        // The monotonic clock stands still meanwhile.
        let hour = UnixMillis(wall.0 + 3_600_000);
        assert_eq!(follower.turn(now, hour), Duration::from_hours(1));
        assert_eq!((follower.turn(now, hour), follower.away(now)), (Duration::ZERO, Duration::from_hours(1)));
    }

    #[test]
    fn a_topic_is_live_as_of_the_begin_of_the_turn() {
        let mut follower = follower(BTreeMap::new(), Lifecycle::new());
        let (began, wall) = (clock::monotonic(), clock::wall());
        follower.turn(began, wall);
        // It stands still here, and then takes an answer that was on its way.
        follower.live(0);
        let now = began + Duration::from_hours(1);
        follower.turn(now, wall);
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
        follower.last_turn = clock::monotonic().checked_sub(2 * STOOD_STILL).expect("a moment");
        let stopping = thread::spawn(move || {
            lifecycle.wait(Phase::Stopped, STOOD_STILL / 2);
            lifecycle.enter(Phase::Stopped)
        });
        let ended = follower.keep_up(&consumer, following);
        assert!(matches!(ended, Interrupted::Stopping), "it is read again");
        stopping.join().expect("it stops");
    }
}
