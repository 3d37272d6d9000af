//! Conversions from values of the file that serde does not provide.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error;
use toml::Value;
use tracing_subscriber::EnvFilter;

use crate::command::Asks;
use crate::command::Command;
use crate::command::CommandSet;
use crate::sender::Network;
use crate::sender::Networks;

/// The longest prefix: the longest command behind it must fit into Kafka's 249 characters.
const TOPIC_PREFIX_LENGTH_MAX: usize = 150;

/// The longest name that leaves room for `-changes` in Kafka's 249 characters.
const BLOCKLIST_TOPIC_LENGTH_MAX: usize = 249 - "-changes".len();

/// A duration in milliseconds.
pub(super) fn millis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}

/// A duration in seconds.
pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_secs)
}

/// The default time for a stop.
pub(super) const fn eight_seconds() -> Duration {
    Duration::from_secs(8)
}

/// The path of a URL.
pub(super) fn url_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let is_path = |path: &str| {
        path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#')
    };
    let wanted = "must be the path of a URL: it begins with '/', and has no query and no spaces";
    text(deserializer, is_path, wanted).map(Some)
}

/// The prefix of topics.
pub(super) fn topic_prefix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_prefix = |prefix: &str| prefix.len() <= TOPIC_PREFIX_LENGTH_MAX && prefix.bytes().all(is_legal);
    text(deserializer, is_prefix, "must be at most 150 of the characters a-z A-Z 0-9 . _ -")
}

/// The name of a topic that leaves room for that of its audit topic.
pub(super) fn blocklist_topic<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_topic = |name: &str| {
        name.len() <= BLOCKLIST_TOPIC_LENGTH_MAX && name.bytes().all(is_legal) && name != "." && name != ".."
    };
    text(deserializer, is_topic, "must be at most 241 of the characters a-z A-Z 0-9 . _ -").map(Some)
}

/// The blocklist files of an application. With an empty list it would be unclear whether it has its own blocklist.
pub(super) fn own_blocklist_files<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    let files = Vec::deserialize(deserializer)?;
    if files.is_empty() {
        return Err(D::Error::custom("must be at least one file; leave it out to share the common blocklist"));
    }
    Ok(files)
}

/// A filter of the log.
pub(super) fn filter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let is_filter = |filter: &str| EnvFilter::builder().parse(filter).is_ok();
    text(deserializer, is_filter, "must be a filter of tracing, like info or callbridge=debug,info")
}

/// An allow-list of networks. An empty list would allow nobody, or everybody.
pub(super) fn some_networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Networks>, D::Error> {
    networks(deserializer).map(Some)
}

/// At least one network.
pub(super) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Networks, D::Error> {
    let (mut networks, mut wrong) = (Vec::new(), Vec::new());
    for text in Vec::<String>::deserialize(deserializer)? {
        match text.parse::<Network>() {
            Ok(network) => networks.push(network),
            Err(bad) => wrong.push(format!("{text:?}: {bad}")),
        }
    }
    if !wrong.is_empty() {
        return Err(D::Error::custom(wrong.join("; ")));
    }
    if networks.is_empty() {
        return Err(D::Error::custom("must be at least one network, like 203.0.113.0/24"));
    }
    Ok(Networks(networks))
}

/// Token files. An empty list would let everybody in although the operator thought of tokens.
pub(super) fn token_files<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    some_files(deserializer, "must be at least one file; leave it out if callbacks are not signed")
}

/// Token files of the admin API. An empty list would let everybody read although the operator thought of tokens.
pub(super) fn admin_token_files<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    some_files(deserializer, "must be at least one file; leave it out if the API does not write the blocklist")
}

fn some_files<'de, D: Deserializer<'de>>(deserializer: D, wanted: &str) -> Result<Vec<PathBuf>, D::Error> {
    let files = Vec::deserialize(deserializer)?;
    if files.is_empty() { Err(D::Error::custom(wanted)) } else { Ok(files) }
}

/// Commands of any kind.
pub(super) fn commands<'de, D: Deserializer<'de>>(deserializer: D) -> Result<CommandSet, D::Error> {
    commands_among(deserializer, |_any| true)
}

/// Commands that a blocklist can decide.
pub(super) fn decided_commands<'de, D: Deserializer<'de>>(deserializer: D) -> Result<CommandSet, D::Error> {
    commands_among(deserializer, |command| command.asks() != Asks::Nobody)
}

/// Commands by name, by family or all of `among`. A single one needs no list, and several may be separated by commas.
fn commands_among<'de, D>(deserializer: D, among: impl Fn(Command) -> bool) -> Result<CommandSet, D::Error>
where
    D: Deserializer<'de>,
{
    let value = Value::deserialize(deserializer)?;
    let words: Vec<String> = match value.as_str() {
        Some(words) => words.split(',').map(|word| word.trim().to_owned()).collect(),
        None => Vec::deserialize(value).map_err(|_| D::Error::custom("must be a list of commands"))?,
    };
    CommandSet::select(words.iter().map(String::as_str), &among).map_err(|_unknown| {
        let names: Vec<&str> = Command::all().filter(|command| among(*command)).map(Command::name).collect();
        let family = |name: &&str| format!("{}.*", name.split('.').next().unwrap_or_default());
        let mut families: Vec<String> = names.iter().map(family).collect();
        families.dedup();
        D::Error::custom(format!("must be one of all, {}, {}", families.join(", "), names.join(", ")))
    })
}

fn text<'de, D>(deserializer: D, is_right: impl Fn(&str) -> bool, wanted: &str) -> Result<String, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    if is_right(&text) { Ok(text) } else { Err(D::Error::custom(wanted)) }
}
