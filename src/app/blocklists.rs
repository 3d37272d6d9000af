//! The blocklists of the applications: which sources each is made of, and the threads that follow and write the topics.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::sync::watch;

use crate::admin::api::BlocklistApi;
use crate::admin::apps::AppLists;
use crate::blocklist::creation::AuditTopic;
use crate::blocklist::creation::ListCreation;
use crate::blocklist::follower::Follower;
use crate::blocklist::follower::FollowerSetup;
use crate::blocklist::lists::ListSources;
use crate::blocklist::lists::Lists;
use crate::blocklist::metrics::BlocklistMetrics;
use crate::blocklist::topic::AppliedGeneration;
use crate::blocklist::topic::BlocklistTopic;
use crate::blocklist::topic::TopicState;
use crate::blocklist::topic::TopicView;
use crate::blocklist::topic::WriteJob;
use crate::blocklist::writer::TopicWriter;
use crate::clock;
use crate::config::Config;
use crate::decide::Policy;
use crate::decide::blocklist::Blocklist;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::Phase;

use super::ServeError;
use super::spawn;

/// So many requests may wait for the writer; another is refused at once.
const WRITES_MAX: usize = 16;

/// Between two looks whether the topics are read.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Which files and topics there are, and what is made of them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    files: Vec<PathBuf>,
    topics: Vec<String>,
    /// The common list, and then those that applications have of their own.
    lists: Vec<ListSources>,
    /// The list of each application.
    of_apps: Vec<usize>,
}

impl Plan {
    fn of(config: &Config) -> Self {
        let mut plan = Self::default();
        let common = plan.list(&config.blocklist.files, config.blocklist.topic.as_ref());
        for app in &config.apps {
            let mut own = || plan.list(&app.blocklist_files, app.blocklist_topic.as_ref());
            let list = if app.has_own_blocklist() { own() } else { common };
            plan.of_apps.push(list);
        }
        plan
    }

    /// The place of the list of these sources. A source that several lists name is followed once.
    fn list(&mut self, files: &[PathBuf], topic: Option<&String>) -> usize {
        let files = files.iter().map(|file| place_of(&mut self.files, file)).collect();
        let topic = topic.map(|topic| place_of(&mut self.topics, topic));
        place_of(&mut self.lists, &ListSources { files, topic })
    }
}

/// The place of `item`, which is added if it is not there.
fn place_of<T: Clone + PartialEq>(items: &mut Vec<T>, item: &T) -> usize {
    items.iter().position(|other| other == item).unwrap_or_else(|| {
        items.push(item.clone());
        items.len() - 1
    })
}

/// Everything about blocklists, built.
pub(super) struct Blocklists {
    pub(super) lists: Lists,
    pub(super) files: Vec<PathBuf>,
    /// The SdkAppid of each application, and the place of its list.
    of_apps: Vec<(String, usize)>,
    topics: Vec<Unfollowed>,
    /// The place of the topic of each list that has one.
    list_topics: Vec<Option<usize>>,
}

/// A topic that nobody follows yet.
struct Unfollowed {
    handle: BlocklistTopic,
    view: Arc<ArcSwap<TopicView>>,
    follower: Follower,
    writer: TopicWriter,
    jobs: mpsc::Receiver<WriteJob>,
    /// Where the start makes it.
    audit: Option<AuditTopic>,
}

impl Blocklists {
    /// Builds what `config` asks for. `kafka` is `[kafka]`, with the brokers.
    pub(super) fn new(
        config: &Config,
        kafka: &BTreeMap<String, String>,
        metrics: &BlocklistMetrics,
        lifecycle: &Lifecycle,
    ) -> Self {
        let Plan { files, topics, lists, of_apps } = Plan::of(config);
        let list_topics = lists.iter().map(|list| list.topic).collect();
        let ids = config.apps.iter().map(|app| app.sdk_app_id.to_string());
        let of_apps = ids.zip(of_apps).collect();
        let lists = Lists::new(lists, metrics.clone());
        let creation = config.topics.create.then_some(ListCreation {
            replication_factor: config.topics.replication_factor,
            min_insync_replicas: config.topics.min_insync_replicas,
        });
        let unfollowed = |(place, topic): (usize, String)| {
            let (view, topic) = (Arc::new(ArcSwap::from_pointee(TopicView::unread())), Arc::<str>::from(topic));
            let (applying, applied) = watch::channel(AppliedGeneration::default());
            let (writes, jobs) = mpsc::channel(WRITES_MAX);
            let setup = FollowerSetup {
                topic: Arc::clone(&topic),
                place,
                lists: lists.clone(),
                configured: kafka.clone(),
                creation,
                view: Arc::clone(&view),
                applied: applying,
                metrics: metrics.topic(&topic),
                lifecycle: lifecycle.clone(),
            };
            let audit = |creation| AuditTopic {
                topic: Arc::clone(&topic),
                configured: kafka.clone(),
                creation,
                lifecycle: lifecycle.clone(),
            };
            Unfollowed {
                audit: creation.map(audit),
                handle: BlocklistTopic::new(Arc::clone(&topic), Arc::clone(&view), applied, writes),
                follower: Follower::new(setup),
                writer: TopicWriter::new(topic, kafka.clone()),
                view,
                jobs,
            }
        };
        let topics = topics.into_iter().enumerate().map(unfollowed).collect();
        Self { lists, files, of_apps, topics, list_topics }
    }

    /// The lists as the API serves them.
    pub(super) fn served(&self, policy: Policy) -> AppLists {
        let own = (1..self.list_topics.len()).map(|list| self.api(list, policy)).collect();
        // The first list is the common one.
        let of_apps = self.of_apps.iter().map(|(id, list)| (id.clone(), list.checked_sub(1))).collect();
        AppLists { common: self.api(0, policy), own, of_apps }
    }

    fn api(&self, list: usize, policy: Policy) -> BlocklistApi {
        let topic = self.list_topics.get(list).copied().flatten().and_then(|topic| self.topics.get(topic));
        BlocklistApi {
            list: self.lists.in_force(list),
            policy,
            topic: topic.map(|topic| topic.handle.clone()),
            files: self.lists.files(list),
            apps: self.of_apps.iter().filter(|(_, of)| *of == list).map(|(id, _)| id.clone()).collect(),
            is_common: list == 0,
        }
    }

    /// The list of each application, in their order.
    pub(super) fn in_force(&self) -> Vec<Arc<ArcSwap<Blocklist>>> {
        self.of_apps.iter().map(|(_, list)| self.lists.in_force(*list)).collect()
    }

    /// Handles to all topics, in the order of the configuration: that of the common list first, if it has one.
    pub(super) fn handles(&self) -> Vec<BlocklistTopic> {
        self.topics.iter().map(|topic| topic.handle.clone()).collect()
    }

    /// Starts the threads of the topics. They are not waited for at the end: Kafka may not answer, and they hold nothing that is lost.
    pub(super) fn start(self) -> Result<(), ServeError> {
        for Unfollowed { follower, writer, view, jobs, audit, handle: _ } in self.topics {
            let _following = spawn("blocklist", move || follower.run())?;
            let _writing = spawn("blocklist-write", move || writer.run(&view, jobs))?;
            if let Some(audit) = audit {
                let _making = spawn("blocklist-audit", move || audit.make())?;
            }
        }
        Ok(())
    }
}

/// Waits until each topic was read to its end, until `deadline` or until the stop.
pub(super) fn wait_until_read(topics: &[BlocklistTopic], deadline: Instant, lifecycle: &Lifecycle) {
    let mut told = String::new();
    let unread = || topics.iter().find(|topic| topic.view().state == TopicState::Reading);
    while let Some(topic) = unread() {
        let view = topic.view();
        let why = view.error.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        if clock::monotonic() >= deadline {
            let name = topic.name();
            tracing::warn!(topic = name, "ready without the blocklist topic, which is not read yet{why}");
            return;
        }
        let what = format!("the blocklist topic {} is not read yet{why}", topic.name());
        if what != told {
            lifecycle.set_waits_for(&what);
            told = what;
        }
        if lifecycle.wait(Phase::KeepAccepting, LOOK_EVERY) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::config::App;

    #[test]
    fn applications_share_the_common_list_unless_they_have_their_own() {
        let own = |files: &[&str], topic: Option<&str>| App {
            blocklist_files: files.iter().map(PathBuf::from).collect(),
            blocklist_topic: topic.map(str::to_owned),
            ..App::default()
        };
        let mut config = Config::default();
        config.apps = vec![own(&[], None), own(&["b", "a"], None), own(&[], Some("t")), own(&["b", "a"], None)];
        config.blocklist.files = vec!["a".into()];
        config.blocklist.topic = Some("t".to_owned());
        let list = |files: &[usize], topic| ListSources { files: files.to_vec(), topic };
        let plan = Plan::of(&config);
        assert_eq!(plan.files, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(plan.topics, ["t"]);
        assert_eq!(plan.lists, [list(&[0], Some(0)), list(&[1, 0], None), list(&[], Some(0))]);
        assert_eq!(plan.of_apps, [0, 1, 2, 1]);
    }
}
