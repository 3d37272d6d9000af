//! The blocklists of the applications: the sources of each, and the threads that follow topics and write to them.

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

/// The size of a writer's queue. Further requests are refused at once.
const WRITES_MAX: usize = 16;

/// The period of checking whether the topics have been read.
const POLL_PERIOD: Duration = Duration::from_millis(50);

/// The files, topics and lists of a configuration.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    files: Vec<PathBuf>,
    topics: Vec<String>,
    /// The common list, then those of single applications.
    lists: Vec<ListSources>,
    /// The index of each application's list.
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

    /// The index of the list with these sources. A source of several lists is followed once.
    fn list(&mut self, files: &[PathBuf], topic: Option<&String>) -> usize {
        let files = files.iter().map(|file| index_of(&mut self.files, file)).collect();
        let topic = topic.map(|topic| index_of(&mut self.topics, topic));
        index_of(&mut self.lists, &ListSources { files, topic })
    }
}

/// The index of `item`, which is added if it is missing.
fn index_of<T: Clone + PartialEq>(items: &mut Vec<T>, item: &T) -> usize {
    items.iter().position(|other| other == item).unwrap_or_else(|| {
        items.push(item.clone());
        items.len() - 1
    })
}

/// The lists, and the followers and writers of their topics, before they are started.
pub(super) struct Blocklists {
    pub(super) lists: Lists,
    pub(super) files: Vec<PathBuf>,
    /// The SdkAppid of each application, and the index of its list.
    of_apps: Vec<(String, usize)>,
    topics: Vec<TopicParts>,
    /// The index of the topic of each list, if it has one.
    list_topics: Vec<Option<usize>>,
}

/// The parts of a topic, before its threads are started.
struct TopicParts {
    handle: BlocklistTopic,
    view: Arc<ArcSwap<TopicView>>,
    follower: Follower,
    writer: TopicWriter,
    jobs: mpsc::Receiver<WriteJob>,
    /// Set if missing topics are created.
    audit: Option<AuditTopic>,
}

impl Blocklists {
    /// Builds the lists of `config`. `kafka` is `[kafka]`, with the brokers.
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
        let parts = |(index, topic): (usize, String)| {
            let (view, topic) = (Arc::new(ArcSwap::from_pointee(TopicView::unread())), Arc::<str>::from(topic));
            let (applying, applied) = watch::channel(AppliedGeneration::default());
            let (writes, jobs) = mpsc::channel(WRITES_MAX);
            let setup = FollowerSetup {
                topic: Arc::clone(&topic),
                index,
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
            TopicParts {
                audit: creation.map(audit),
                handle: BlocklistTopic::new(Arc::clone(&topic), Arc::clone(&view), applied, writes),
                follower: Follower::new(setup),
                writer: TopicWriter::new(topic, kafka.clone()),
                view,
                jobs,
            }
        };
        let topics = topics.into_iter().enumerate().map(parts).collect();
        Self { lists, files, of_apps, topics, list_topics }
    }

    /// The lists for the API.
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

    /// The list of each application, in the order of the configuration.
    pub(super) fn in_force(&self) -> Vec<Arc<ArcSwap<Blocklist>>> {
        self.of_apps.iter().map(|(_, list)| self.lists.in_force(*list)).collect()
    }

    /// Handles to all topics, in the order of the configuration. The topic of the common list comes first.
    pub(super) fn handles(&self) -> Vec<BlocklistTopic> {
        self.topics.iter().map(|topic| topic.handle.clone()).collect()
    }

    /// Starts the threads of the topics. The stop does not wait for them: Kafka may not respond, and they hold no callbacks.
    pub(super) fn start(self) -> Result<(), ServeError> {
        for TopicParts { follower, writer, view, jobs, audit, handle: _ } in self.topics {
            let _following = spawn("blocklist", move || follower.run())?;
            let _writing = spawn("blocklist-write", move || writer.run(&view, jobs))?;
            if let Some(audit) = audit {
                let _making = spawn("blocklist-audit", move || audit.make())?;
            }
        }
        Ok(())
    }
}

/// Waits until each topic has been read to its end, until `deadline`, or until the stop.
pub(super) fn wait_until_read(topics: &[BlocklistTopic], deadline: Instant, lifecycle: &Lifecycle) {
    let mut last = String::new();
    let unread = || topics.iter().find(|topic| topic.view().state == TopicState::Reading);
    while let Some(topic) = unread() {
        let view = topic.view();
        let why = view.error.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        if clock::monotonic() >= deadline {
            let name = topic.name();
            tracing::warn!(topic = name, "ready without the blocklist topic, which is not read yet{why}");
            break;
        }
        let what = format!("the blocklist topic {} is not read yet{why}", topic.name());
        if what != last {
            lifecycle.set_waits_for("blocklist", Some(what.clone()));
            last = what;
        }
        if lifecycle.wait(Phase::KeepAccepting, POLL_PERIOD) {
            break;
        }
    }
    lifecycle.set_waits_for("blocklist", None);
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
