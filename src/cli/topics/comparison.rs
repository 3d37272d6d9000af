//! Compares the topics that the configuration needs with those that Kafka has.

use crate::blocklist::describe;
use crate::config::Config;
use crate::publish::cluster::ClusterTopics;
use crate::publish::cluster::TopicLayout;
use crate::publish::cluster::TopicSpec;
use crate::publish::replication::REPLICAS_WANTED;
use crate::publish::replication::min_insync_replicas;

/// What a broker takes by default, in bytes of a batch.
const BATCH_BYTES_DEFAULT: usize = 1_048_588;

/// Records that are deleted sooner than after a day do not outlast a night without consumers.
const RETENTION_MS_MIN: u64 = 86_400_000;
/// The same for changes of the blocklist: 30 days.
const AUDIT_RETENTION_MS_MIN: u64 = 30 * RETENTION_MS_MIN;
/// Of a partition.
const RETENTION_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// What a topic is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopicRole {
    /// Callbacks of one command.
    Command,
    /// Callbacks of all other commands.
    Unknown,
    /// The dead-letter topic.
    DeadLetter,
    /// The rules of a blocklist.
    Blocklist,
    /// The changes of a blocklist.
    BlocklistChanges,
}

impl TopicRole {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Unknown => "unknown commands",
            Self::DeadLetter => "dead-letter",
            Self::Blocklist => "blocklist",
            Self::BlocklistChanges => "blocklist changes",
        }
    }
}

/// A topic that the configuration needs.
#[derive(Debug)]
pub(crate) struct NeededTopic {
    pub(crate) name: String,
    pub(crate) role: TopicRole,
    /// As it is created.
    partitions: i32,
    /// As it is created, without `min.insync.replicas`.
    settings: Vec<(&'static str, String)>,
}

/// What a topic is, compared with what is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopicVerdict {
    /// It is there, and nothing has to be changed.
    Ok,
    /// Kafka does not have it, or does not show it.
    Missing,
    /// It is there, and loses or refuses records as it is set.
    Wrong,
    /// It has a prefix of the configuration, and nothing is written to it.
    Superfluous,
}

impl TopicVerdict {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Wrong => "wrong",
            Self::Superfluous => "superfluous",
        }
    }
}

/// What an operator should know of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicRemark {
    /// The bridge loses records or does not work with it.
    pub(crate) is_wrong: bool,
    pub(crate) what: String,
    pub(crate) remedy: String,
}

/// A topic that is needed or superfluous.
#[derive(Debug)]
pub(crate) struct ComparedTopic {
    pub(crate) name: String,
    pub(crate) role: Option<TopicRole>,
    pub(crate) verdict: TopicVerdict,
    /// Absent where it is missing.
    pub(crate) layout: Option<TopicLayout>,
    pub(crate) remarks: Vec<TopicRemark>,
}

impl NeededTopic {
    /// Every topic that the configuration needs: those of callbacks first, then those of blocklists.
    pub(crate) fn all(config: &Config) -> Vec<Self> {
        let longest = config.callbacks.raw_record_bytes_max();
        let limit = (longest > BATCH_BYTES_DEFAULT).then(|| ("max.message.bytes", longest.to_string()));
        let retention = config.topics.retention_ms.map(|millis| ("retention.ms", millis.to_string()));
        let settings: Vec<_> = retention.into_iter().chain(limit).collect();
        let of_callbacks = config.callback_topics();
        let callbacks = of_callbacks.names().iter().map(|name| Self {
            name: name.clone(),
            role: match name.rsplit_once('.') {
                Some((_, "rejected")) => TopicRole::DeadLetter,
                Some((_, "unknown")) => TopicRole::Unknown,
                Some(_) | None => TopicRole::Command,
            },
            partitions: config.topics.partitions,
            settings: settings.clone(),
        });
        let owned = |settings: &[(&'static str, &str)]| {
            settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect::<Vec<_>>()
        };
        let roles = [
            (TopicRole::Blocklist, owned(&describe::COMPACTED)),
            (TopicRole::BlocklistChanges, owned(&describe::AUDIT)),
        ];
        // Each blocklist topic stands before its audit topic.
        let lists = config.blocklist_topics().into_iter().zip(roles.into_iter().cycle());
        let lists = lists.map(|(name, (role, settings))| Self { name, role, partitions: 1, settings });
        callbacks.chain(lists).collect()
    }

    /// As it is created with so many replicas.
    pub(crate) fn spec(&self, config: &Config, replicas: i32) -> TopicSpec {
        let min_insync = min_insync_replicas(config.topics.min_insync_replicas, replicas).to_string();
        TopicSpec {
            name: self.name.clone(),
            partitions: self.partitions,
            replicas,
            settings: [("min.insync.replicas", min_insync)].into_iter().chain(self.settings.iter().cloned()).collect(),
        }
    }
}

/// The replicas that a topic is created with in a cluster that shows so many brokers.
pub(crate) fn replicas_wanted(config: &Config, brokers: usize) -> i32 {
    let of_cluster = i32::try_from(brokers).unwrap_or(i32::MAX).clamp(1, REPLICAS_WANTED);
    config.topics.replication_factor.unwrap_or(of_cluster)
}

/// Compares: every topic that is needed, and behind them those that are superfluous.
pub(crate) fn compare(config: &Config, found: &ClusterTopics) -> Vec<ComparedTopic> {
    let needed = NeededTopic::all(config);
    let superfluous = found.topics.iter().filter(|(name, _layout)| {
        let has_prefix = |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
        config.apps.iter().any(|app| has_prefix(&app.topic_prefix)) && !needed.iter().any(|topic| topic.name == **name)
    });
    let superfluous = superfluous.map(|(name, layout)| ComparedTopic {
        name: name.clone(),
        role: None,
        verdict: TopicVerdict::Superfluous,
        layout: Some(layout.clone()),
        remarks: vec![warning(
            "nothing is written to it",
            "delete it once its records are read, or see topics.commands",
        )],
    });
    let compared = needed.iter().map(|topic| compare_topic(config, found, topic));
    compared.chain(superfluous).collect()
}

/// Remarks of several topics, each once, with the topics that it is about.
pub(crate) fn grouped<'t>(topics: impl IntoIterator<Item = &'t ComparedTopic>) -> Vec<(&'t TopicRemark, Vec<&'t str>)> {
    let mut groups: Vec<(&TopicRemark, Vec<&str>)> = Vec::new();
    for topic in topics {
        for remark in &topic.remarks {
            match groups.iter_mut().find(|(known, _)| *known == remark) {
                Some((_, names)) => names.push(&topic.name),
                None => groups.push((remark, vec![&topic.name])),
            }
        }
    }
    groups
}

fn compare_topic(config: &Config, found: &ClusterTopics, topic: &NeededTopic) -> ComparedTopic {
    // A topic that is being deleted may show no partition any more.
    let layout = found.topics.get(&topic.name).filter(|layout| layout.partitions > 0).cloned();
    let remarks = match &layout {
        None if found.forbidden.contains(&topic.name) => vec![wrong(
            "this client may not DESCRIBE it, so that it may exist or not",
            "allow DESCRIBE and WRITE on it to this client, or correct its name",
        )],
        None => {
            vec![wrong("does not exist", "create it with \"callbridge topics create\", or start with --create-topics")]
        }
        Some(layout) => {
            let mut remarks = copies(config, found.brokers.len(), layout);
            remarks.extend(partitions(config, topic, layout));
            remarks.extend(settings(config, topic, layout));
            remarks.extend(retention(config, topic, layout));
            remarks
        }
    };
    let verdict = match &layout {
        None => TopicVerdict::Missing,
        Some(_) if remarks.iter().any(|remark| remark.is_wrong) => TopicVerdict::Wrong,
        Some(_) => TopicVerdict::Ok,
    };
    ComparedTopic { name: topic.name.clone(), role: Some(topic.role), verdict, layout, remarks }
}

fn partitions(config: &Config, topic: &NeededTopic, layout: &TopicLayout) -> Option<TopicRemark> {
    let count = layout.partitions;
    match topic.role {
        TopicRole::Blocklist => (count != 1).then(|| {
            let what = format!("has {count} partitions, and must have exactly 1: only partition 0 is read");
            wrong(what, "create it anew with 1 partition")
        }),
        TopicRole::BlocklistChanges => None,
        TopicRole::Command | TopicRole::Unknown | TopicRole::DeadLetter => {
            let wanted = config.topics.partitions;
            (i32::try_from(count).unwrap_or(i32::MAX) < wanted).then(|| {
                let remedy = "add partitions (keys then move to other partitions), or lower topics.partitions";
                warning(format!("has {count} partitions, fewer than topics.partitions = {wanted}"), remedy)
            })
        }
    }
}

/// Replicas, leaders and `min.insync.replicas`.
fn copies(config: &Config, brokers: usize, layout: &TopicLayout) -> Vec<TopicRemark> {
    let mut remarks = Vec::new();
    let replicas = i32::try_from(layout.replicas).unwrap_or(i32::MAX);
    let wanted = replicas_wanted(config, brokers);
    if layout.leaderless > 0 {
        let what = format!("{} of {} partitions have no leader", layout.leaderless, layout.partitions);
        remarks.push(wrong(what, "start the brokers that have its replicas"));
    }
    if replicas < wanted {
        let remedy =
            format!("add replicas with kafka-reassign-partitions.sh, or set topics.replication_factor = {replicas}");
        remarks.push(wrong(format!("has {replicas} replicas, fewer than {wanted}"), remedy));
    } else if replicas < REPLICAS_WANTED && config.topics.replication_factor.is_none() {
        let what =
            format!("has {replicas} replicas, because the cluster has {brokers} brokers: a lost disk loses records");
        remarks.push(warning(what, "add brokers and replicas, or set topics.replication_factor if this is meant"));
    }
    let Some(min_insync) = number(layout, "min.insync.replicas").and_then(|number| i32::try_from(number).ok()) else {
        return remarks;
    };
    let min_wanted = min_insync_replicas(config.topics.min_insync_replicas, replicas);
    let set_it = format!("set min.insync.replicas={min_wanted} on it");
    let in_sync = i32::try_from(layout.in_sync).unwrap_or(i32::MAX);
    if min_insync > replicas {
        let what = format!("min.insync.replicas is {min_insync} with {replicas} replicas: it takes no record");
        remarks.push(wrong(what, set_it));
    } else if in_sync < min_insync {
        let what = format!(
            "has {in_sync} in-sync replicas, fewer than min.insync.replicas = {min_insync}: it takes no record"
        );
        remarks.push(wrong(what, "start the brokers that have its replicas"));
    } else if min_insync < min_wanted {
        let what =
            format!("min.insync.replicas is {min_insync}: an acknowledged record may be on {min_insync} disk only");
        remarks.push(wrong(what, set_it));
    } else if min_insync == replicas && replicas > 1 && config.topics.min_insync_replicas != Some(min_insync) {
        let what = format!(
            "min.insync.replicas is {min_insync} of {replicas} replicas: it takes no record while a broker is down"
        );
        remarks.push(warning(what, set_it));
    } else if in_sync < replicas {
        remarks.push(warning(format!("has {in_sync} in-sync replicas of {replicas}"), "see whether all brokers run"));
    }
    remarks
}

/// The cleanup policy and the size limits.
fn settings(config: &Config, topic: &NeededTopic, layout: &TopicLayout) -> Vec<TopicRemark> {
    if layout.settings.is_empty() {
        let remedy = "allow DESCRIBE_CONFIGS on it to this client, or compare them by hand";
        return vec![warning("its settings cannot be read", remedy)];
    }
    let mut remarks = Vec::new();
    let wanted = if topic.role == TopicRole::Blocklist { "compact" } else { "delete" };
    if let Some(policy) = layout.settings.get("cleanup.policy").filter(|policy| *policy != wanted) {
        let why = match (wanted, policy.contains("delete"), policy.contains("compact")) {
            ("compact", true, _) => "rules are deleted after a time",
            ("delete", _, true) => "of each key only the newest record stays",
            _neither => "the topic only grows",
        };
        let what = format!("cleanup.policy is {policy}, and must be {wanted}: {why}");
        remarks.push(wrong(what, format!("set cleanup.policy={wanted} on it")));
    }
    if matches!(topic.role, TopicRole::Command | TopicRole::Unknown | TopicRole::DeadLetter) {
        let longest = config.callbacks.raw_record_bytes_max();
        for setting in ["max.message.bytes", "segment.bytes"] {
            if let Some(limit) = number(layout, setting).filter(|limit| *limit < longest as u64) {
                let what = format!("{setting} is {limit}, and the longest callback makes a record of {longest} bytes");
                remarks.push(wrong(what, format!("set {setting}={longest} on it, or lower callbacks.body_bytes_max")));
            }
        }
    }
    remarks
}

/// How long records are kept, where they are deleted by time or size.
fn retention(config: &Config, topic: &NeededTopic, layout: &TopicLayout) -> Vec<TopicRemark> {
    let is_deleted = layout.settings.get("cleanup.policy").is_some_and(|policy| policy.contains("delete"));
    if topic.role == TopicRole::Blocklist || !is_deleted {
        return Vec::new();
    }
    let mut remarks = Vec::new();
    let configured = config.topics.retention_ms.filter(|_| topic.role != TopicRole::BlocklistChanges);
    // Where there is no limit it is -1.
    if let Some(millis) = number(layout, "retention.ms") {
        let shown = format!("retention.ms is {millis}");
        match (configured, topic.role) {
            (Some(wanted), _) if u64::try_from(wanted).is_ok_and(|wanted| wanted <= millis) => {}
            (Some(wanted), _) => {
                let what = format!("{shown}, less than topics.retention_ms = {wanted}");
                remarks.push(warning(what, format!("set retention.ms={wanted} on it")));
            }
            (None, TopicRole::BlocklistChanges) if millis < AUDIT_RETENTION_MS_MIN => remarks.push(warning(
                format!("{shown}: who changed the blocklist is forgotten after less than 30 days"),
                "set retention.ms=31536000000 (a year) on it",
            )),
            (None, _) if millis < RETENTION_MS_MIN => remarks.push(warning(
                format!("{shown}: consumers that are away for longer lose records, and it is less than a day"),
                format!(
                    "set retention.ms=604800000 (a week) on it, or topics.retention_ms = {millis} if this is meant"
                ),
            )),
            (None, _) => {}
        }
    }
    if let Some(bytes) = number(layout, "retention.bytes").filter(|bytes| *bytes < RETENTION_BYTES_MIN) {
        let what = format!("retention.bytes is {bytes}: a burst of callbacks is deleted before consumers have read it");
        remarks.push(warning(what, "set retention.bytes=-1 on it, so that only retention.ms counts"));
    }
    remarks
}

fn number(layout: &TopicLayout, setting: &str) -> Option<u64> {
    layout.settings.get(setting)?.parse().ok()
}

fn wrong(what: impl Into<String>, remedy: impl Into<String>) -> TopicRemark {
    TopicRemark { is_wrong: true, what: what.into(), remedy: remedy.into() }
}

fn warning(what: impl Into<String>, remedy: impl Into<String>) -> TopicRemark {
    TopicRemark { is_wrong: false, what: what.into(), remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::iter;

    use clap::Args as _;
    use clap::FromArgMatches;

    use super::*;
    use crate::config;
    use crate::config::flags::Flags;

    /// A configuration with one command's topic, that of unknown ones, and the dead-letter topic.
    fn config(settings: &str) -> Config {
        let line = "x --sdk-app-id 1 --brokers a:1 --topic-prefix p";
        let matches = Flags::augment_args(clap::Command::new("x")).get_matches_from(line.split(' '));
        let variables = settings.split_whitespace().map(|setting| setting.split_once('=').unwrap());
        let variables = variables.chain(iter::once(("CALLBRIDGE_TOPICS_COMMANDS", "State.StateChange")));
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        config::load(&Flags::from_arg_matches(&matches).unwrap(), variables).unwrap()
    }

    fn layout(replicas: usize, settings: &[(&str, &str)]) -> TopicLayout {
        let defaults = [("min.insync.replicas", "2"), ("cleanup.policy", "delete"), ("max.message.bytes", "1048588")];
        let settings = defaults.iter().chain(settings).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        TopicLayout { partitions: 6, replicas, in_sync: replicas, leaderless: 0, settings: settings.collect() }
    }

    /// What is said of the command's topic on so many brokers.
    fn said(settings: &str, brokers: usize, layout: &TopicLayout) -> (TopicVerdict, String) {
        let topics = BTreeMap::from([("p.State.StateChange".to_owned(), layout.clone())]);
        let found = ClusterTopics { brokers: vec![String::new(); brokers], topics, ..ClusterTopics::default() };
        let topic = compare(&config(settings), &found).into_iter().next().unwrap();
        let remarks = topic.remarks.iter().map(|remark| format!("{}; {}", remark.what, remark.remedy));
        (topic.verdict, remarks.collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn each_wrong_setting_of_a_topic_is_named_with_what_to_do() {
        use TopicVerdict::{Ok, Wrong};
        let three = || layout(3, &[]);
        for (settings, brokers, layout, verdict, expected) in [
            ("", 3, three(), Ok, ""),
            ("", 3, layout(1, &[]), Wrong, "has 1 replicas, fewer than 3; add replicas"),
            ("CALLBRIDGE_TOPICS_REPLICATION_FACTOR=1", 3, layout(1, &[("min.insync.replicas", "1")]), Ok, ""),
            ("CALLBRIDGE_TOPICS_REPLICATION_FACTOR=3", 1, layout(1, &[]), Wrong, "fewer than 3"),
            ("", 1, layout(1, &[("min.insync.replicas", "1")]), Ok, "because the cluster has 1 brokers"),
            ("", 3, layout(1, &[]), Wrong, "min.insync.replicas is 2 with 1 replicas: it takes no record"),
            ("", 3, layout(3, &[("min.insync.replicas", "1")]), Wrong, "disk only; set min.insync.replicas=2"),
            ("", 3, layout(3, &[("min.insync.replicas", "3")]), Ok, "it takes no record while a broker is down"),
            ("CALLBRIDGE_TOPICS_MIN_INSYNC_REPLICAS=3", 3, layout(3, &[("min.insync.replicas", "3")]), Ok, ""),
            ("", 3, TopicLayout { in_sync: 1, ..three() }, Wrong, "has 1 in-sync replicas, fewer than"),
            ("", 3, TopicLayout { in_sync: 2, ..three() }, Ok, "has 2 in-sync replicas of 3"),
            ("", 3, TopicLayout { leaderless: 2, ..three() }, Wrong, "2 of 6 partitions have no leader"),
            ("", 3, TopicLayout { partitions: 1, ..three() }, Ok, "has 1 partitions, fewer than topics.partitions = 6"),
            ("", 3, layout(3, &[("max.message.bytes", "1000")]), Wrong, "set max.message.bytes=327680 on it"),
            ("", 3, layout(3, &[("segment.bytes", "100000")]), Wrong, "set segment.bytes=327680 on it"),
            ("", 3, layout(3, &[("cleanup.policy", "compact,delete")]), Wrong, "only the newest record stays"),
            ("", 3, layout(3, &[("cleanup.policy", "")]), Wrong, "the topic only grows"),
            ("", 3, layout(3, &[("retention.ms", "60000")]), Ok, "less than a day; set retention.ms=604800000"),
            ("CALLBRIDGE_TOPICS_RETENTION_MS=60000", 3, layout(3, &[("retention.ms", "60000")]), Ok, ""),
            (
                "CALLBRIDGE_TOPICS_RETENTION_MS=-1",
                3,
                layout(3, &[("retention.ms", "60000")]),
                Ok,
                "less than topics.retention",
            ),
            ("", 3, layout(3, &[("retention.ms", "-1"), ("retention.bytes", "-1")]), Ok, ""),
            ("", 3, layout(3, &[("retention.bytes", "1000000")]), Ok, "set retention.bytes=-1"),
            ("", 3, TopicLayout { settings: BTreeMap::new(), ..three() }, Ok, "allow DESCRIBE_CONFIGS"),
            ("", 3, TopicLayout { partitions: 0, ..three() }, TopicVerdict::Missing, "\"callbridge topics create\""),
        ] {
            let (found, said) = said(settings, brokers, &layout);
            assert_eq!((found, said.is_empty()), (verdict, expected.is_empty()), "{layout:?}: {said}");
            assert!(said.contains(expected), "{expected}: {said}");
        }
    }

    #[test]
    fn topics_below_a_prefix_that_nothing_is_written_to_are_superfluous() {
        let names = ["p.State.StateChange", "p.Bot.OnC2CMessage", "p2.unknown", "p", "p.list", "p.list-changes"];
        let topics = names.map(|name| (name.to_owned(), layout(3, &[]))).into();
        let found = ClusterTopics { brokers: vec![String::new(); 3], topics, ..ClusterTopics::default() };
        let compared = compare(&config("CALLBRIDGE_BLOCKLIST_TOPIC=p.list"), &found);
        let superfluous = compared.iter().filter(|topic| topic.verdict == TopicVerdict::Superfluous);
        assert_eq!(superfluous.map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["p.Bot.OnC2CMessage"]);
        let missing = compared.iter().filter(|topic| topic.verdict == TopicVerdict::Missing);
        assert_eq!(missing.map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["p.unknown", "p.rejected"]);
    }

    #[test]
    fn a_topic_for_records_above_the_default_is_created_with_a_limit() {
        let config = config("CALLBRIDGE_CALLBACKS_BODY_BYTES_MAX=2000000 CALLBRIDGE_KAFKA_MESSAGE_MAX_BYTES=4000000");
        let spec = NeededTopic::all(&config).first().unwrap().spec(&config, 3);
        assert_eq!((spec.partitions, spec.replicas), (6, 3));
        assert_eq!(spec.settings, [("min.insync.replicas", "2".into()), ("max.message.bytes", "2065536".into())]);
    }
}
