//! What callbridge runs on: file, environment and flags, read once, into a value that cannot be wrong.
//!
//! Nothing else reads settings, and nothing else judges them. All mistakes are told together.

pub mod brokers;
mod check;
mod exposure;
mod kafka;
pub mod problem;
mod reader;
pub(crate) mod setting;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::command::CommandSet;
use crate::config::problem::Fault;
use crate::config::problem::Origin;
use crate::config::problem::Problem;
use crate::config::problem::Warning;
use crate::config::source::Layer;
use crate::sender::Networks;

/// What the headers of a record may take beside the body of a callback that could not be used.
const REJECTED_HEADERS_BYTES: usize = 64 * 1024;

/// What callbridge runs on. A `Config` that exists has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// When a callback is acknowledged. Default: `journal`.
    pub ack: Ack,
    /// Threads that serve callbacks, at least 1. Default: one a core.
    pub workers: usize,
    /// How long the whole stop may take. Default: 8 s.
    pub drain: Duration,
    /// Where callbacks come in, and their limits.
    pub callbacks: Callbacks,
    /// Where probes and Prometheus come in.
    pub admin: Admin,
    /// The applications whose callbacks are taken; at least one, each id once.
    pub apps: Vec<App>,
    /// The Kafka client.
    pub kafka: Kafka,
    /// Whether an in-process Kafka takes the place of a real one. Default: false.
    pub embedded_broker: bool,
    /// Which topics there are, and how they are made.
    pub topics: Topics,
    /// How records are published.
    pub publish: Publish,
    /// How an event is written to Kafka.
    pub envelope: Envelope,
    /// Where the blocklist comes from.
    pub blocklist: Blocklist,
    /// How before-callbacks are decided.
    pub decide: Decide,
    /// The bounds of what waits in memory.
    pub queue: Queue,
    /// Where the journal lives.
    pub journal: Journal,
    /// What is logged, and how.
    pub log: Log,
    /// What is probably a mistake, but keeps nothing from running.
    pub warnings: Vec<Warning>,
}

/// When a callback is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// When it is on disk.
    Journal,
    /// When Kafka has reported its delivery.
    Broker,
    /// When it is in the queue in memory.
    Memory,
}

/// The listener for callbacks, and the limits of one request and one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callbacks {
    /// Where it listens. Default: `0.0.0.0:8080`.
    pub listen: SocketAddr,
    /// The only path that is taken, beginning with `/`. Default: absent, any path is.
    pub path: Option<String>,
    /// How far the `RequestTime` of a signed callback may be from now. Default: 60 s.
    pub sign_window: Duration,
    /// The networks that callbacks are taken from. Default: absent, anywhere.
    pub senders: Option<Networks>,
    /// The networks of proxies, whose word is believed as to whose callbacks they pass on. Default: none.
    pub proxies: Networks,
    /// Whether connections of proxies begin with a header of the PROXY protocol. Default: false.
    pub proxy_protocol: bool,
    /// The files that TLS runs on. Default: absent, plain HTTP.
    pub tls: Option<Tls>,
    /// The longest body that is taken, in bytes. Default: 262 144.
    pub body_bytes_max: usize,
    /// How many bytes of bodies may be on their way; at least four times the longest body. Default: 67 108 864.
    pub bodies_bytes_max: usize,
    /// How many connections may be open. Default: 10 000.
    pub connections_max: usize,
    /// How many of them one peer may have; proxies may have any number. Default: absent, any number.
    pub connections_per_peer_max: Option<usize>,
    /// How long the head of a request may take to arrive, and whatever comes before HTTP. Default: 5 s.
    pub head_timeout: Duration,
    /// How long its body may take to arrive. Default: 1 s.
    pub body_timeout: Duration,
    /// How long an answer may wait for its reader. Default: 10 s.
    pub write_timeout: Duration,
    /// How long the whole request may take until it is answered, under 2 s. Default: 1.5 s.
    pub deadline: Duration,
    /// How long a connection may be idle. Default: 75 s.
    pub idle_timeout: Duration,
    /// How old a connection may become before a response ends it. Default: 3600 s.
    pub connection_age_max: Duration,
    /// How long connections are still accepted after SIGTERM, under [`Config::drain`]. Default: 1 s.
    pub keep_accepting: Duration,
}

/// The files of TLS, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate of this server, and those between it and its root.
    pub certificate_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// Certificates of authorities; clients must have a certificate below one of them. Default: absent, anybody may connect.
    pub client_ca_file: Option<PathBuf>,
}

impl Callbacks {
    /// The longest record of a callback that could not be used, in bytes: its body as it came, and the headers, one of which may be as long
    /// as a request's head.
    pub const fn raw_record_bytes_max(&self) -> usize {
        self.body_bytes_max + REJECTED_HEADERS_BYTES
    }
}

/// The listener for probes and Prometheus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens. Default: `0.0.0.0:9464`.
    pub listen: SocketAddr,
}

/// An application of Tencent Cloud Chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Its SdkAppid, above 0.
    pub sdk_app_id: u64,
    /// What the names of its topics begin with, legal in such a name. Default: `tencent-chat`.
    pub topic_prefix: String,
    /// The files with the tokens that sign its callbacks. Default: none, they are not signed.
    pub token_files: Vec<PathBuf>,
}

/// The Kafka client.
#[derive(Clone, PartialEq, Eq)]
pub struct Kafka {
    /// librdkafka's properties, by librdkafka's names; only those that were given. Holds `bootstrap.servers` unless the
    /// broker is embedded.
    pub properties: BTreeMap<String, String>,
}

impl fmt::Debug for Kafka {
    /// Names only: values may be secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.properties.keys()).finish()
    }
}

/// Which topics there are, and how they are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// The commands that have a topic of their own; the others share that of unknown ones. Default: all.
    pub commands: CommandSet,
    /// Whether topics that are missing are created at the start. Default: false.
    pub create: bool,
    /// How many partitions a new topic gets. Default: 6.
    pub partitions: i32,
    /// How many replicas a new topic gets. Default: absent, 3 or as many as there are steadily brokers.
    pub replication_factor: Option<i32>,
    /// How many replicas must have a record before it counts. Default: absent, one less than there are, but at least 1.
    pub min_insync_replicas: Option<i32>,
    /// How long a new topic keeps records, in milliseconds; -1 is for ever. Default: absent, as the broker has it.
    pub retention_ms: Option<i64>,
}

/// How records are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// How long a record may have no delivery report although its topic has leaders, before the Kafka client is replaced. Default: 120 s.
    pub unreported_max: Duration,
}

/// How an event is written to Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Where the attributes stand. Default: `structured`.
    pub mode: EnvelopeMode,
}

/// Where the attributes of an event stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvelopeMode {
    /// The whole event is the value.
    Structured,
    /// The attributes are headers, the data is the value.
    Binary,
}

/// Where the blocklist comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocklist {
    /// Its files, merged. Default: none.
    pub files: Vec<PathBuf>,
}

/// How before-callbacks are decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decide {
    /// What is answered when everyone who asked is refused. Default: `list`.
    pub all_refused: AllRefused,
    /// What is answered before the first blocklist is loaded. Default: `allow`.
    pub before_loaded: BeforeLoaded,
    /// The commands that are decided at all; the others are allowed. Default: `OfficialAccount.CallbackBeforeAddSubscriber`.
    pub commands: CommandSet,
}

/// What is answered when everyone who asked is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllRefused {
    /// The list of all of them.
    List,
    /// That the request is refused.
    Reject,
}

/// What is answered before the first blocklist is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeforeLoaded {
    /// Everything is allowed.
    Allow,
    /// Everything is refused.
    Refuse,
}

/// The bounds of what waits in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// How many bytes of captures it holds; at least one body. Default: 67 108 864.
    pub bytes_max: usize,
    /// How many captures it holds. Default: 100 000.
    pub captures_max: usize,
    /// How many bytes of callbacks may wait for room in it. Default: 16 777 216.
    pub waiting_bytes_max: usize,
}

/// Where the journal lives, and what it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    /// Its folder. Default: `/var/lib/callbridge`.
    pub dir: PathBuf,
    /// The size of each of its files, in bytes. Default: 16 777 216.
    pub segment_bytes: u64,
    /// What all its files may take, in bytes. Default: absent, the smaller of 4 GiB and four fifths of what the filesystem has free.
    pub quota_bytes: Option<u64>,
    /// What it leaves free on the filesystem, in bytes. Default: 16 777 216.
    pub free_bytes_min: u64,
    /// What to do when acknowledged callbacks cannot be read at the start. Default: `refuse`.
    pub on_corruption: OnCorruption,
}

/// What to do when acknowledged callbacks cannot be read at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCorruption {
    /// Do not start.
    Refuse,
    /// Go on with what can be read, and keep the rest aside.
    Salvage,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// How a line looks. Default: `auto`.
    pub format: LogFormat,
    /// What is logged, in the syntax of tracing's `EnvFilter`. Default: `info`.
    pub filter: String,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// What the command line gives, as it was written.
#[derive(Clone, Default)]
pub struct Flags {
    /// The config file. The variable `CALLBRIDGE_CONFIG` is asked when it is absent.
    pub config: Option<PathBuf>,
    /// Each flag that was given, by its name without dashes, with its values; a switch has the value `true`.
    pub given: Vec<(&'static str, Vec<String>)>,
}

impl fmt::Debug for Flags {
    /// Names only: values may be secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.given.iter().map(|(name, _)| name);
        formatter.debug_set().entry(&self.config).entries(names).finish()
    }
}

/// Judges properties for the Kafka client. Returns those that it would not take, each with what is wrong.
pub type JudgeKafka = fn(&BTreeMap<String, String>) -> Vec<(String, String)>;

/// The variable that names the config file.
pub(crate) const CONFIG_VARIABLE: &str = "CALLBRIDGE_CONFIG";

/// Reads the config file, if one is named, lays `environment` and `flags` over it, and judges the whole.
///
/// # Errors
///
/// Every mistake that was found: those of the file from top to bottom, of the environment, of the flags, and what is
/// missing.
pub fn load(
    flags: &Flags,
    environment: impl Iterator<Item = (OsString, OsString)>,
    judge_kafka: JudgeKafka,
) -> Result<Config, Vec<Problem>> {
    let mut variables: BTreeMap<OsString, OsString> = environment.collect();
    let named = variables.remove(&OsString::from(CONFIG_VARIABLE)).filter(|name| !name.is_empty());
    let file = flags.config.clone().or_else(|| named.map(PathBuf::from));
    let folder = file.as_deref().and_then(Path::parent).unwrap_or(Path::new("")).to_owned();

    let layers = [
        source::defaults(),
        file.as_deref().map(read).unwrap_or_default(),
        source::environment(variables),
        source::flags(&flags.given),
    ];
    check::check(layers, folder, judge_kafka)
}

fn read(path: &Path) -> Layer {
    let name = path.display().to_string();
    match fs::read_to_string(path) {
        Ok(text) => source::file(&name, &text),
        Err(error) => {
            let origin = Some(Origin::File { name, line: None });
            let problem = Problem { origin, path: String::new(), fault: Fault::Unreadable(error) };
            Layer { problems: vec![problem], ..Layer::default() }
        }
    }
}
