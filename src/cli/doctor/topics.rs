//! Checks of topics: of callbacks, of blocklists, and the right to write.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Instant;

use crate::blocklist::inspect;
use crate::blocklist::inspect::InspectError;
use crate::cli::doctor::connection::remedy;
use crate::cli::doctor::report::CheckOutcome;
use crate::cli::doctor::report::CheckSection;
use crate::cli::topics::comparison;
use crate::cli::topics::comparison::ComparedTopic;
use crate::cli::topics::comparison::NeededTopic;
use crate::cli::topics::comparison::TopicRole;
use crate::cli::topics::comparison::TopicVerdict;
use crate::clock;
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::publish::cluster::Cluster;
use crate::publish::cluster::ClusterError;
use crate::publish::cluster::ClusterTopics;

use super::CheckDeadline;
use super::END_MARGIN;
use super::begin;

/// How many topics a line names.
const NAMES_MAX: usize = 3;

/// The topics that are needed, and those that are superfluous, compared with the configuration.
pub(super) struct ComparedTopics {
    pub(super) found: ClusterTopics,
    pub(super) topics: Vec<ComparedTopic>,
    /// Kafka did not say how they are set.
    unread: Option<ClusterError>,
    /// When Kafka must have answered what else is asked about them.
    pub(super) deadline: CheckDeadline,
}

/// Asks Kafka how the topics are set, and compares them as `callbridge topics list` does.
pub(super) fn compare(
    config: &Config,
    cluster: &Cluster,
    mut found: ClusterTopics,
    deadline: CheckDeadline,
) -> ComparedTopics {
    let needed = NeededTopic::all(config);
    let names: Vec<&str> = needed.iter().map(|topic| topic.name.as_str()).collect();
    let unread = cluster.describe(&mut found, &names, deadline.left() / 2).err();
    ComparedTopics { topics: comparison::compare(config, &found), found, unread, deadline }
}

impl ComparedTopics {
    /// The names of those topics of callbacks that records can be sent to: without the dead-letter topics, and these.
    pub(super) fn usable(&self) -> (Vec<&str>, Vec<&str>) {
        let (mut others, mut dead_letter) = (Vec::new(), Vec::new());
        for topic in self.topics.iter().filter(|topic| topic.role.is_some() && !is_of_list(topic)) {
            if topic.layout.as_ref().is_some_and(|layout| layout.leaderless == 0) {
                let is_dead_letter = topic.role == Some(TopicRole::DeadLetter);
                if is_dead_letter { &mut dead_letter } else { &mut others }.push(topic.name.as_str());
            }
        }
        (others, dead_letter)
    }
}

fn is_of_list(topic: &ComparedTopic) -> bool {
    matches!(topic.role, Some(TopicRole::Blocklist | TopicRole::BlocklistChanges))
}

/// What there is to say of the topics of callbacks.
pub(super) fn callbacks(title: &'static str, config: &Config, compared: &ComparedTopics) -> CheckSection {
    let mut section = CheckSection::new(title);
    if let Some(error) = &compared.unread {
        section.fail(format!("the settings of topics cannot be read: {error}"), remedy(error));
    }
    remarks(&mut section, config, compared, |topic| !is_of_list(topic));
    section
}

/// What there is to say of each blocklist topic and its topic of changes.
pub(super) fn blocklists(title: &'static str, config: &Config, compared: &ComparedTopics) -> CheckSection {
    let of_lists = compared.topics.iter().filter(|topic| is_of_list(topic));
    if of_lists.clone().next().is_none() {
        return CheckSection::skipped(title, "none is configured");
    }
    let mut section = CheckSection::new(title);
    remarks(&mut section, config, compared, is_of_list);
    let is_read = |topic: &&ComparedTopic| topic.role == Some(TopicRole::Blocklist) && topic.layout.is_some();
    let limit = compared.deadline.left();
    // Nobody here reads the changes.
    let names: Vec<String> = of_lists.filter(is_read).map(|topic| topic.name.clone()).collect();
    let (properties, topics) = (config.kafka.properties.clone(), names.clone());
    let read = begin(move || inspect::read(&properties, &topics, limit)).recv_timeout(limit + END_MARGIN);
    let read = read.unwrap_or_else(|_late| vec![Err(InspectError::Silent); names.len()]);
    for (name, read) in names.iter().zip(read) {
        match read {
            Ok(end) => section.ok(format!("{name}: readable, up to offset {end}")),
            Err(why) => {
                let remedy = match why {
                    InspectError::Unreadable(_) => "allow READ and DESCRIBE on it to this client",
                    InspectError::Silent => {
                        "see whether the broker that leads it answers: its logs, its load and its disks"
                    }
                };
                section.fail(format!("{name}: cannot be read: {why}"), remedy);
            }
        }
    }
    section
}

/// A line for those topics that are right, and one for each remark, with the topics that it is about.
fn remarks(
    section: &mut CheckSection,
    config: &Config,
    compared: &ComparedTopics,
    is_meant: fn(&ComparedTopic) -> bool,
) {
    let topics = compared.topics.iter().filter(|topic| is_meant(topic));
    let (missing, others): (Vec<_>, Vec<_>) = topics.partition(|topic| topic.verdict == TopicVerdict::Missing);
    let right: Vec<&str> =
        others.iter().filter(|topic| topic.verdict == TopicVerdict::Ok).map(|topic| topic.name.as_str()).collect();
    match right.as_slice() {
        [] => {}
        names if names.len() <= NAMES_MAX => section.ok(format!("{}: set right", names.join(", "))),
        names => section.ok(format!("{} topics are there and set right", names.len())),
    }
    let is_created = |name: &str| {
        let is_missing = missing.iter().any(|topic| topic.name == name);
        config.topics.create && is_missing && !compared.found.forbidden.contains(name)
    };
    let groups = [&missing, &others].map(|topics| comparison::grouped(topics.iter().copied()));
    for (remark, names) in groups.into_iter().flatten() {
        let (outcome, remedy) = match remark.is_wrong {
            true if names.iter().all(|name| is_created(name)) => {
                (CheckOutcome::Warning, "the start creates it: topics.create is set")
            }
            true => (CheckOutcome::Failed, remark.remedy.as_str()),
            false => (CheckOutcome::Warning, remark.remedy.as_str()),
        };
        section.add(outcome, format!("{}: {}", shortened(&names), remark.what), remedy);
    }
}

fn shortened(names: &[&str]) -> String {
    let first = names.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
    if names.len() > NAMES_MAX { format!("{first} and {} more", names.len() - NAMES_MAX) } else { first }
}

/// The time that a broker gave a record, which was written between two moments here.
#[derive(Clone)]
pub(super) struct BrokerClock {
    pub(super) topic: String,
    pub(super) broker: UnixMillis,
    pub(super) before: Instant,
    pub(super) after: Instant,
}

/// Writes a record to each dead-letter topic that is not in `records`, adds it there, and tries the right to write to the other topics.
/// Returns what the records show of the brokers' clocks.
pub(super) fn write(
    title: &'static str,
    cluster: &Cluster,
    compared: &ComparedTopics,
    records: &mut BTreeMap<String, Option<BrokerClock>>,
) -> (CheckSection, Vec<BrokerClock>) {
    let mut section = CheckSection::new(title);
    let (others, dead_letter) = compared.usable();
    let mut failed: BTreeMap<(String, &str), BTreeSet<String>> = BTreeMap::new();
    let missing: Vec<&str> = dead_letter.iter().copied().filter(|topic| !records.contains_key(*topic)).collect();
    let before = clock::monotonic();
    let written = cluster.write(&missing, compared.deadline.left());
    let after = clock::monotonic();
    for (topic, written) in written {
        match written {
            Ok(time) => {
                let clock = time.map(|broker| BrokerClock { topic: topic.clone(), broker, before, after });
                records.insert(topic, clock);
            }
            Err(error) => {
                let what = format!("a record cannot be written: {error}");
                failed.entry((what, remedy(&error))).or_default().insert(topic);
            }
        }
    }
    let mut clocks = Vec::new();
    for (topic, clock) in dead_letter.iter().filter_map(|topic| records.get_key_value(*topic)) {
        section.ok(format!("{topic}: a record was written"));
        clocks.extend(clock.clone());
    }
    match cluster.try_rights(&others, compared.deadline.left()) {
        Ok(tried) => {
            let allowed = tried.values().filter(|refused| refused.is_none()).count();
            if allowed > 0 {
                section.ok(format!("this client may write to {allowed} more topics"));
            }
            for (topic, error) in tried.into_iter().filter_map(|(topic, refused)| Some((topic, refused?))) {
                failed.entry((format!("may not be written: {error}"), remedy(&error))).or_default().insert(topic);
            }
        }
        Err(error) => section.fail(format!("the right to write cannot be tried: {error}"), remedy(&error)),
    }
    for ((why, remedy), topics) in failed {
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        section.fail(format!("{}: {why}", shortened(&topics)), remedy);
    }
    (section, clocks)
}
