//! The forms in which topics are printed: a table, JSON, Strimzi's `KafkaTopic` resources, and lines for `kafka-topics.sh`.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde_json::Value;
use serde_json::json;

use crate::cli::blocklist::output;
use crate::cli::topics::comparison;
use crate::cli::topics::comparison::ComparedTopic;
use crate::cli::topics::comparison::TopicVerdict;
use crate::publish::cluster::TopicSpec;

/// A row for each topic, then what there is to say of them.
pub(super) fn table(topics: &[ComparedTopic]) -> Vec<String> {
    let head = ["STATE", "TOPIC", "FOR", "PARTITIONS", "REPLICAS", "MIN ISR"].map(str::to_owned).to_vec();
    let rows = topics.iter().map(|topic| {
        let count = |count: usize| count.to_string();
        let layout = topic.layout.as_ref();
        let min_insync = layout.and_then(|layout| layout.settings.get("min.insync.replicas").cloned());
        vec![
            topic.verdict.as_str().to_owned(),
            topic.name.clone(),
            topic.role.map(|role| role.as_str().to_owned()).unwrap_or_default(),
            layout.map(|layout| count(layout.partitions)).unwrap_or_default(),
            layout.map(|layout| count(layout.replicas)).unwrap_or_default(),
            min_insync.unwrap_or_default(),
        ]
    });
    let rows: Vec<Vec<String>> = [head].into_iter().chain(rows).collect();
    output::table(&rows).into_iter().chain(remarks(topics)).chain([summary(topics)]).collect()
}

/// Each remark with its topics and what to do.
pub(super) fn remarks(topics: &[ComparedTopic]) -> Vec<String> {
    let line = |(remark, names): (&comparison::TopicRemark, Vec<&str>)| {
        let level = if remark.is_wrong { "wrong" } else { "warning" };
        [format!("{level}: {}: {}", names.join(", "), remark.what), format!("    {}", remark.remedy)]
    };
    comparison::grouped(topics).into_iter().flat_map(line).collect()
}

/// How many topics there are of each kind.
pub(super) fn summary(topics: &[ComparedTopic]) -> String {
    let count = |verdict| topics.iter().filter(|topic| topic.verdict == verdict).count();
    let [ok, missing, wrong, superfluous] =
        [TopicVerdict::Ok, TopicVerdict::Missing, TopicVerdict::Wrong, TopicVerdict::Superfluous].map(count);
    format!(
        "{} topics needed: {ok} ok, {missing} missing, {wrong} wrong; {superfluous} superfluous",
        ok + missing + wrong
    )
}

/// One JSON document.
pub(super) fn json(topics: &[ComparedTopic]) -> Vec<String> {
    let topics: Vec<Value> = topics
        .iter()
        .map(|topic| {
            let remarks = topic.remarks.iter().map(|remark| {
                let level = if remark.is_wrong { "wrong" } else { "warning" };
                json!({"level": level, "what": remark.what, "remedy": remark.remedy})
            });
            json!({
                "name": topic.name,
                "state": topic.verdict.as_str(),
                "for": topic.role.map(comparison::TopicRole::as_str),
                "partitions": topic.layout.as_ref().map(|layout| layout.partitions),
                "replicas": topic.layout.as_ref().map(|layout| layout.replicas),
                "in_sync_replicas": topic.layout.as_ref().map(|layout| layout.in_sync),
                "settings": topic.layout.as_ref().map(|layout| &layout.settings),
                "remarks": remarks.collect::<Vec<_>>(),
            })
        })
        .collect();
    vec![format!("{:#}", json!({"topics": topics}))]
}

/// A line for each topic that was created, or would be.
pub(super) fn created(specs: &[TopicSpec], failed: &BTreeMap<String, String>, is_dry_run: bool) -> Vec<String> {
    if specs.is_empty() {
        return vec!["nothing to create: every topic is there".to_owned()];
    }
    let done = if is_dry_run { "would create" } else { "created" };
    let line = |spec: &TopicSpec| {
        let TopicSpec { name, partitions, replicas, settings } = spec;
        let settings: Vec<String> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{done} {name}: {partitions} partitions, {replicas} replicas, {}", settings.join(", "))
    };
    specs.iter().filter(|spec| !failed.contains_key(&spec.name)).map(line).collect()
}

/// The same as JSON, with those that failed.
pub(super) fn created_json(specs: &[TopicSpec], failed: &BTreeMap<String, String>, is_dry_run: bool) -> Vec<String> {
    let topic = |spec: &TopicSpec| {
        let settings: BTreeMap<&str, &str> =
            spec.settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        json!({
            "name": spec.name,
            "partitions": spec.partitions,
            "replicas": spec.replicas,
            "settings": settings,
            "error": failed.get(&spec.name),
        })
    };
    let topics: Vec<Value> = specs.iter().map(topic).collect();
    vec![format!("{:#}", json!({"dry_run": is_dry_run, "topics": topics}))]
}

/// `KafkaTopic` resources.
pub(super) fn strimzi(specs: &[TopicSpec]) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut lines = vec!["# strimzi.io/cluster: the name of the Kafka resource.".to_owned()];
    for spec in specs {
        let name = resource_name(&spec.name, &mut taken);
        let head = ["---", "apiVersion: kafka.strimzi.io/v1", "kind: KafkaTopic", "metadata:"].map(str::to_owned);
        lines.extend(head);
        lines.extend([
            format!("  name: {name:?}"),
            "  labels:".to_owned(),
            "    strimzi.io/cluster: my-cluster".to_owned(),
        ]);
        lines.extend(["spec:".to_owned(), format!("  topicName: {:?}", spec.name)]);
        lines.extend([format!("  partitions: {}", spec.partitions), format!("  replicas: {}", spec.replicas)]);
        lines.push("  config:".to_owned());
        lines.extend(spec.settings.iter().map(|(name, value)| format!("    {name}: {value:?}")));
    }
    lines
}

/// A name that Kubernetes takes, which no other topic has: lowercase letters, digits and '-' in parts with dots between.
fn resource_name(topic: &str, taken: &mut BTreeSet<String>) -> String {
    let dashed: String = topic
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || letter == '.' { letter.to_ascii_lowercase() } else { '-' })
        .collect();
    let parts: Vec<&str> =
        dashed.split('.').map(|part| part.trim_matches('-')).filter(|part| !part.is_empty()).collect();
    let name = parts.join(".");
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let free = [name.clone()].into_iter().chain(numbered).find(|name| !taken.contains(name)).unwrap_or_default();
    taken.insert(free.clone());
    free
}

/// A line for each topic that makes it.
pub(super) fn kafka_topics(specs: &[TopicSpec], servers: &str, is_plaintext: bool) -> Vec<String> {
    let client = if is_plaintext { "" } else { " --command-config client.properties" };
    let line = |spec: &TopicSpec| {
        let TopicSpec { name, partitions, replicas, settings } = spec;
        let settings: String = settings.iter().map(|(name, value)| format!(" --config {name}={value}")).collect();
        format!(
            "kafka-topics.sh --bootstrap-server '{servers}'{client} --create --if-not-exists --topic {name} \
             --partitions {partitions} --replication-factor {replicas}{settings}"
        )
    };
    specs.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_resources_are_what_kubernetes_takes_and_differ() {
        let mut taken = BTreeSet::new();
        let names = ["Chat_1.C2C.CallbackAfterSendMsg", "chat-1.C2C.CallbackAfterSendMsg", "_a_.-.B.unknown"];
        let names = names.map(|topic| resource_name(topic, &mut taken));
        let expected = ["chat-1.c2c.callbackaftersendmsg", "chat-1.c2c.callbackaftersendmsg-2", "a.b.unknown"];
        assert_eq!(names, expected);
    }
}
