//! The configuration: file, environment and flags, read once and checked.
//!
//! Only this module reads and checks settings. All errors are reported together.

pub(crate) mod flags;
pub(crate) mod problem;

mod brokers;
mod check;
#[cfg(test)]
mod check_tests;
mod kafka;
mod layers;
#[cfg(test)]
mod layers_tests;
mod reader;
#[cfg(test)]
mod secret_tests;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::blocklist::topic::changes_topic;
use crate::command::Asks;
use crate::command::CommandSet;
use crate::config::flags::Flags;
use crate::config::layers::Layers;
use crate::config::problem::Problem;
use crate::decide::AllRefused;
use crate::decide::BeforeLoaded;
use crate::decide::Policy;
use crate::follow::tls::TlsPaths;
use crate::journal::Ack;
use crate::journal::Bounds;
use crate::journal::durable;
use crate::normalise::envelope::Mode;
use crate::publish::topics::Creation;
use crate::record::Topics;
use crate::sender::Networks;

/// What the headers of a record may take beside the body of a callback that could not be used.
const REJECTED_HEADERS_BYTES: usize = 64 * 1024;

/// The variable that names the config file.
const CONFIG_VARIABLE: &str = "CALLBRIDGE_CONFIG";

/// What callbridge runs on. One that [`load`] returns has been checked. `deploy/callbridge.example.toml` describes each setting.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) ack: Ack,
    /// At least 1.
    pub(crate) workers: usize,
    #[serde(rename = "drain_seconds", default = "values::eight_seconds", deserialize_with = "values::seconds")]
    pub(crate) drain: Duration,
    pub(crate) callbacks: Callbacks,
    pub(crate) admin: AdminSettings,
    /// At least one, each id once.
    pub(crate) apps: Vec<App>,
    #[serde(rename = "apps[]")]
    every_app: EveryApp,
    pub(crate) kafka: KafkaSettings,
    pub(crate) embedded_broker: bool,
    pub(crate) topics: TopicSettings,
    pub(crate) publish: PublishSettings,
    pub(crate) envelope: EnvelopeSettings,
    pub(crate) blocklist: BlocklistSettings,
    pub(crate) decide: Decide,
    pub(crate) queue: Bounds,
    pub(crate) journal: durable::Settings,
    pub(crate) log: LogSettings,
    /// What is probably a mistake, but keeps nothing from running.
    #[serde(skip)]
    pub(crate) warnings: Vec<String>,
}

/// The listener for callbacks, and the limits of one request and one connection.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Callbacks {
    pub(crate) listen: SocketAddr,
    /// The only path that is taken. It may be a secret. `None`: any path is.
    #[serde(deserialize_with = "values::url_path")]
    pub(crate) path: Option<String>,
    #[serde(rename = "sign_window_seconds", deserialize_with = "values::seconds")]
    pub(crate) sign_window: Duration,
    /// `None`: from anywhere.
    #[serde(deserialize_with = "values::some_networks")]
    pub(crate) senders: Option<Networks>,
    #[serde(deserialize_with = "values::networks")]
    pub(crate) proxies: Networks,
    pub(crate) proxy_protocol: bool,
    /// `None`: plain HTTP.
    pub(crate) tls: Option<TlsPaths>,
    pub(crate) body_bytes_max: usize,
    /// At least four times the longest body.
    pub(crate) bodies_bytes_max: usize,
    pub(crate) connections_max: usize,
    pub(crate) connections_per_peer_max: Option<usize>,
    #[serde(rename = "head_timeout_ms", deserialize_with = "values::millis")]
    pub(crate) head_timeout: Duration,
    #[serde(rename = "body_timeout_ms", deserialize_with = "values::millis")]
    pub(crate) body_timeout: Duration,
    #[serde(rename = "write_timeout_ms", deserialize_with = "values::millis")]
    pub(crate) write_timeout: Duration,
    /// Under 2 s.
    #[serde(rename = "deadline_ms", deserialize_with = "values::millis")]
    pub(crate) deadline: Duration,
    #[serde(rename = "idle_timeout_seconds", deserialize_with = "values::seconds")]
    pub(crate) idle_timeout: Duration,
    #[serde(rename = "connection_age_max_seconds", deserialize_with = "values::seconds")]
    pub(crate) connection_age_max: Duration,
    /// Under [`Config::drain`].
    #[serde(rename = "keep_accepting_ms", deserialize_with = "values::millis")]
    pub(crate) keep_accepting: Duration,
}

/// The listener for probes, Prometheus and the admin API.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AdminSettings {
    pub(crate) listen: SocketAddr,
    /// Empty: whoever reaches the listener may read the blocklist, and nobody may write it.
    #[serde(deserialize_with = "values::admin_token_files")]
    pub(crate) token_files: Vec<PathBuf>,
}

/// An application of Tencent Cloud Chat.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct App {
    /// Above 0.
    pub(crate) sdk_app_id: u64,
    /// Legal at the beginning of a topic's name.
    #[serde(deserialize_with = "values::topic_prefix")]
    pub(crate) topic_prefix: String,
    /// Empty: its callbacks are not signed.
    #[serde(deserialize_with = "values::token_files")]
    pub(crate) token_files: Vec<PathBuf>,
    /// Files of a blocklist of its own. Empty, and no topic either: it shares the common one.
    #[serde(deserialize_with = "values::own_blocklist_files")]
    pub(crate) blocklist_files: Vec<PathBuf>,
    /// The topic of a blocklist of its own.
    #[serde(deserialize_with = "values::blocklist_topic")]
    pub(crate) blocklist_topic: Option<String>,
}

/// What the environment and the flags say of applications. The ids take the place of the file's applications; the others are for
/// applications that have none of their own.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct EveryApp {
    sdk_app_id: Vec<String>,
    #[serde(deserialize_with = "values::topic_prefix")]
    topic_prefix: String,
    #[serde(deserialize_with = "values::token_files")]
    token_files: Vec<PathBuf>,
}

/// The Kafka client: librdkafka's properties, by librdkafka's names; only those that were given. Holds `bootstrap.servers` unless the
/// broker is embedded.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct KafkaSettings {
    pub(crate) properties: BTreeMap<String, String>,
}

impl fmt::Debug for KafkaSettings {
    /// Names only: values may be secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.properties.keys()).finish()
    }
}

/// Which topics there are, and how they are made. `None` is described at [`crate::publish::topics::Creation`].
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TopicSettings {
    /// The commands that have a topic of their own; the others share that of unknown ones.
    #[serde(deserialize_with = "values::commands")]
    pub(crate) commands: CommandSet,
    pub(crate) create: bool,
    pub(crate) partitions: i32,
    pub(crate) replication_factor: Option<i32>,
    pub(crate) min_insync_replicas: Option<i32>,
    pub(crate) retention_ms: Option<i64>,
}

/// How records are published.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PublishSettings {
    /// How long a record may have no delivery report although its topic has leaders, before the Kafka client is replaced.
    #[serde(rename = "unreported_max_seconds", deserialize_with = "values::seconds")]
    pub(crate) unreported_max: Duration,
}

/// How an event is written to Kafka.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EnvelopeSettings {
    pub(crate) mode: Mode,
}

/// Where the common blocklist comes from: that of the applications that have none of their own.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BlocklistSettings {
    pub(crate) files: Vec<PathBuf>,
    /// `None`: the files are all.
    #[serde(deserialize_with = "values::blocklist_topic")]
    pub(crate) topic: Option<String>,
    /// How long the start waits for topics to be read before it goes on without.
    #[serde(rename = "ready_after_seconds", deserialize_with = "values::seconds")]
    pub(crate) ready_after: Duration,
}

/// How before-callbacks are decided.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Decide {
    pub(crate) all_refused: AllRefused,
    pub(crate) before_loaded: BeforeLoaded,
    /// The commands that are decided at all; the others are allowed.
    #[serde(deserialize_with = "values::decided_commands")]
    pub(crate) commands: CommandSet,
    /// Whether decisions are published and not enforced.
    pub(crate) dry_run: bool,
}

impl Decide {
    /// What these settings leave to the rules.
    pub(crate) const fn policy(&self) -> Policy {
        Policy { all_refused: self.all_refused, before_loaded: self.before_loaded, dry_run: self.dry_run }
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogSettings {
    pub(crate) format: LogFormat,
    /// In the syntax of tracing's `EnvFilter`.
    #[serde(deserialize_with = "values::filter")]
    pub(crate) filter: String,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Reads the config file, if one is named, lays `environment` and `flags` over it, and checks the whole.
///
/// # Errors
///
/// Every mistake that was found: those of the file from top to bottom, of the environment, of the flags, and what is
/// missing.
pub(crate) fn load(
    flags: &Flags,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Config, Vec<Problem>> {
    let mut variables: BTreeMap<OsString, OsString> = environment.collect();
    let named = variables.remove(&OsString::from(CONFIG_VARIABLE)).filter(|name| !name.is_empty());
    let file = flags.config.clone().or_else(|| named.map(PathBuf::from));
    let mut layers = Layers::default();
    if let Some(file) = &file {
        layers.file(file);
    }
    layers.environment(variables);
    layers.flags(flags);
    check::check(layers, file.as_deref().and_then(Path::parent).unwrap_or(Path::new("")))
}

impl Config {
    /// Every topic that callbacks are published to.
    pub(crate) fn callback_topics(&self) -> Topics {
        let prefixes = self.apps.iter().map(|app| app.topic_prefix.as_str());
        Topics::of_commands(prefixes, &self.topics.commands)
    }

    /// The bootstrap servers, each as it was given.
    pub(crate) fn bootstrap_servers(&self) -> impl Iterator<Item = &str> {
        kafka::servers(&self.kafka.properties)
    }

    /// Every blocklist topic, and behind it its audit topic; each once.
    pub(crate) fn blocklist_topics(&self) -> Vec<String> {
        let own = self.apps.iter().filter_map(|app| app.blocklist_topic.as_ref());
        let lists: BTreeSet<&String> = self.blocklist.topic.iter().chain(own).collect();
        lists.into_iter().flat_map(|topic| [topic.clone(), changes_topic(topic)]).collect()
    }
}

impl App {
    /// Whether it does not share the common blocklist.
    pub(crate) fn has_own_blocklist(&self) -> bool {
        self.blocklist_topic.is_some() || !self.blocklist_files.is_empty()
    }
}

impl TopicSettings {
    /// How missing topics are created.
    pub(crate) const fn creation(&self) -> Creation {
        Creation {
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            min_insync_replicas: self.min_insync_replicas,
            retention_ms: self.retention_ms,
        }
    }
}

impl Callbacks {
    /// The longest record of a callback that could not be used, in bytes: its body as it came, and the headers, one of which may be as long
    /// as a request's head.
    pub(crate) const fn raw_record_bytes_max(&self) -> usize {
        self.body_bytes_max + REJECTED_HEADERS_BYTES
    }
}

impl Default for EveryApp {
    fn default() -> Self {
        Self { sdk_app_id: Vec::new(), topic_prefix: "tencent-chat".to_owned(), token_files: Vec::new() }
    }
}

impl Default for Callbacks {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, 8080).into(),
            path: None,
            sign_window: Duration::from_secs(60),
            senders: None,
            proxies: Networks::default(),
            proxy_protocol: false,
            tls: None,
            body_bytes_max: 256 * 1024,
            bodies_bytes_max: 64 * 1024 * 1024,
            connections_max: 10_000,
            connections_per_peer_max: None,
            head_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(10),
            deadline: Duration::from_millis(1500),
            idle_timeout: Duration::from_secs(75),
            connection_age_max: Duration::from_secs(3600),
            keep_accepting: Duration::from_secs(1),
        }
    }
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::UNSPECIFIED, 9464).into(), token_files: Vec::new() }
    }
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self {
            commands: CommandSet::ALL,
            create: false,
            partitions: 6,
            replication_factor: None,
            min_insync_replicas: None,
            retention_ms: None,
        }
    }
}

impl Default for PublishSettings {
    fn default() -> Self {
        Self { unreported_max: Duration::from_secs(120) }
    }
}

impl Default for BlocklistSettings {
    fn default() -> Self {
        Self { files: Vec::new(), topic: None, ready_after: Duration::from_secs(10) }
    }
}

impl Default for Decide {
    fn default() -> Self {
        let subscribing = CommandSet::select(["all"], |command| command.asks() == Asks::Subscribers);
        Self {
            all_refused: AllRefused::List,
            before_loaded: BeforeLoaded::Allow,
            dry_run: false,
            commands: subscribing.unwrap_or(CommandSet::ALL),
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Auto, filter: "info".to_owned() }
    }
}
