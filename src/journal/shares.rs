//! Whose share of the room a capture takes: that of the topic it goes to, as far as that is known before it is normalised.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounterVec;

use crate::auth::Apps;
use crate::auth::VerifiedApp;
use crate::capture::Capture;
use crate::clock;
use crate::command::Command;
use crate::record::Topic;
use crate::record::Topics;
use crate::throttle::Throttle;

use super::codec;

/// How often it is logged at most that a topic holds its whole share.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct Shares {
    topics: Arc<Topics>,
    apps: Arc<Apps>,
    /// By [`codec::key`], of which the log keeps one with each capture. Where two topics have the same key, they have one share.
    by_key: HashMap<u32, Topic>,
    /// Callbacks that were lost because their topic held its whole share, by topic.
    refused: IntCounterVec,
    log: Throttle,
}

impl Shares {
    /// Of these topics. `refused` counts by topic.
    pub(crate) fn new(topics: Arc<Topics>, apps: Arc<Apps>, refused: IntCounterVec) -> Self {
        for name in topics.names() {
            refused.with_label_values(&[name]);
        }
        let mut by_key = HashMap::new();
        for app in apps.iter() {
            for command in Command::all().map(Some).chain([None]) {
                by_key.entry(codec::key_of_command(app, command, &apps)).or_insert_with(|| topics.of(app, command));
            }
            by_key.entry(codec::key_of_dead_letters(app, &apps)).or_insert_with(|| topics.rejected(app));
        }
        Self { topics, apps, by_key, refused, log: Throttle::new(LOG_PERIOD) }
    }

    /// The applications.
    pub(super) fn apps(&self) -> Arc<Apps> {
        Arc::clone(&self.apps)
    }

    /// How many topics there are.
    pub(super) fn topics(&self) -> usize {
        self.topics.names().len()
    }

    /// The key of a capture, and its topic.
    pub(super) fn of(&self, capture: &Capture) -> (u32, Option<Topic>) {
        let key = codec::key(capture, &self.apps);
        (key, self.of_key(key))
    }

    /// The topic of captures with this key; none if this configuration has none for them.
    pub(super) fn of_key(&self, key: u32) -> Option<Topic> {
        self.by_key.get(&key).copied()
    }

    /// Where captures of an application go that cannot become events.
    pub(super) fn dead_letters(&self, app: VerifiedApp) -> Topic {
        self.topics.rejected(app)
    }

    /// What each topic holds, with its name.
    pub(super) fn by_name(&self, held: impl Fn(Topic) -> usize) -> impl Iterator<Item = (&str, usize)> {
        self.topics.all().map(move |topic| (self.topics.name(topic), held(topic)))
    }

    /// A callback is refused because the topic holds its whole share.
    pub(super) fn refused(&self, topic: Topic) {
        let topic = self.topics.name(topic);
        self.refused.with_label_values(&[topic]).inc();
        if self.log.permits(clock::monotonic()) {
            tracing::warn!(
                topic,
                "a topic holds its whole share of the room for undelivered callbacks; more of its callbacks are refused"
            );
        }
    }
}
