//! The share of the room that a capture takes: that of its topic, as far as the topic is known before the capture is normalised.

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

/// The shortest time between two log lines about topics whose share is full.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Shares {
    topics: Arc<Topics>,
    apps: Arc<Apps>,
    /// By [`codec::kind_key`], which the log stores with each capture. Topics with the same key have one share.
    by_kind_key: HashMap<u32, Topic>,
    /// Callbacks that were lost because the share of their topic was full, by topic.
    full: IntCounterVec,
    log: Throttle,
}

impl Shares {
    /// The shares of these topics. `full` counts the callbacks that find theirs full.
    pub(crate) fn new(topics: Arc<Topics>, apps: Arc<Apps>, full: IntCounterVec) -> Self {
        for name in topics.names() {
            full.with_label_values(&[name]);
        }
        let mut by_kind_key = HashMap::new();
        for app in apps.iter() {
            for command in Command::all().map(Some).chain([None]) {
                by_kind_key
                    .entry(codec::kind_key_of_command(app, command, &apps))
                    .or_insert_with(|| topics.of(app, command));
            }
            by_kind_key.entry(codec::kind_key_of_dead_letters(app, &apps)).or_insert_with(|| topics.dead_letters(app));
        }
        Self { topics, apps, by_kind_key, full, log: Throttle::new(LOG_PERIOD) }
    }

    /// The applications.
    pub(super) fn apps(&self) -> Arc<Apps> {
        Arc::clone(&self.apps)
    }

    /// The number of topics.
    pub(super) fn topics(&self) -> usize {
        self.topics.names().len()
    }

    /// The key and the topic of a capture.
    pub(super) fn of(&self, capture: &Capture) -> (u32, Option<Topic>) {
        let key = codec::kind_key(capture, &self.apps);
        (key, self.of_kind_key(key))
    }

    /// The topic of a key; `None` if this configuration has none for it.
    pub(super) fn of_kind_key(&self, key: u32) -> Option<Topic> {
        self.by_kind_key.get(&key).copied()
    }

    /// The dead-letter topic of an application.
    pub(super) fn dead_letters(&self, app: VerifiedApp) -> Topic {
        self.topics.dead_letters(app)
    }

    /// The room that each topic holds, with its name.
    pub(super) fn by_name(&self, held: impl Fn(Topic) -> usize) -> impl Iterator<Item = (&str, usize)> {
        self.topics.all().map(move |topic| (self.topics.name(topic), held(topic)))
    }

    /// Counts and logs a callback that is lost because the share of its topic is full.
    pub(super) fn count_full(&self, topic: Topic) {
        let topic = self.topics.name(topic);
        self.full.with_label_values(&[topic]).inc();
        if self.log.permits(clock::monotonic()) {
            tracing::warn!(
                topic,
                "the share of a topic in the room for undelivered callbacks is full; further callbacks of it are answered 503"
            );
        }
    }
}
