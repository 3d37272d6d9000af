//! Looks at a blocklist topic and its audit topic as `callbridge check --live` does: whether they are there, set right, and readable.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::blocklist::consumer::Polled;
use crate::blocklist::consumer::TopicConsumer;
use crate::blocklist::consumer::TopicProblem;
use crate::blocklist::describe;
use crate::blocklist::properties;
use crate::blocklist::topic::changes_topic;
use crate::clock;

/// For one answer of the cluster, and for the first record.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
const TURN: Duration = Duration::from_micros(100_050);

/// What a look at a topic found, each as a line for an operator.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TopicFindings {
    pub(crate) right: Vec<String>,
    pub(crate) warnings: Vec<String>,
    pub(crate) wrong: Vec<String>,
}

/// Looks at the topic of this name and at its audit topic. `configured` is `[kafka]`; `is_created`: a start makes missing topics.
pub(crate) fn inspect(configured: &BTreeMap<String, String>, topic: &str, is_created: bool) -> TopicFindings {
    let mut findings = TopicFindings::default();
    let changes = changes_topic(topic);
    for (name, wanted) in [(topic, "compact"), (changes.as_str(), "delete")] {
        let consumer = match TopicConsumer::new(&properties::of_follower(configured), name) {
            Ok(consumer) => consumer,
            Err(why) => {
                findings.wrong.push(format!("blocklist topic {name}: {why}"));
                continue;
            }
        };
        match consumer.partitions(REQUEST_LIMIT) {
            Err(TopicProblem::Missing) if is_created => {
                findings.warnings.push(format!("blocklist topic {name}: does not exist yet; the start makes it"));
            }
            Err(problem) => findings.wrong.push(format!("blocklist topic {name}: {problem}")),
            Ok(partitions) => {
                if name == topic && partitions != 1 {
                    let why = "must have exactly 1: only partition 0 is read; make it anew";
                    findings.wrong.push(format!("blocklist topic {name}: has {partitions} partitions, and {why}"));
                }
                inspect_settings(&mut findings, configured, name, wanted);
                // Nobody here reads the changes.
                if name == topic {
                    inspect_records(&mut findings, &consumer, name);
                }
            }
        }
    }
    findings
}

fn inspect_settings(findings: &mut TopicFindings, configured: &BTreeMap<String, String>, name: &str, wanted: &str) {
    match describe::config_of(&properties::of_admin(configured), name) {
        Ok(config) if config.cleanup_policy != wanted => findings
            .wrong
            .push(format!("blocklist topic {name}: cleanup.policy is {}, and must be {wanted}", config.cleanup_policy)),
        Ok(_) => findings.right.push(format!("blocklist topic ok: {name}: cleanup.policy {wanted}")),
        Err(why) => {
            let right = "the right to DESCRIBE_CONFIGS may be missing";
            findings.warnings.push(format!("blocklist topic {name}: its settings cannot be read: {why}; {right}"));
        }
    }
}

/// Reads one record, or reaches the end: only that shows the right to READ.
fn inspect_records(findings: &mut TopicFindings, consumer: &TopicConsumer, name: &str) {
    let mut failed = |why: &str| findings.wrong.push(format!("blocklist topic {name}: cannot be read: {why}"));
    if let Err(why) = consumer.read_from(None) {
        return failed(&why);
    }
    let deadline = clock::monotonic() + REQUEST_LIMIT;
    loop {
        match consumer.poll(TURN, |_record| {}) {
            Polled::Record | Polled::End => break,
            Polled::Nothing if clock::monotonic() < deadline => {}
            Polled::Nothing | Polled::LogChanged => return failed("kafka sends no record"),
            Polled::Unreadable(why) | Polled::Dead(why) => return failed(&why),
        }
    }
    let end = consumer.high_watermark(REQUEST_LIMIT).unwrap_or_default();
    findings.right.push(format!("blocklist topic ok: {name}: readable, up to offset {end}"));
}
