//! Builds a [`Config`] from the given values, or reports everything that is wrong with them.

use std::collections::BTreeSet;
use std::mem;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::blocklist::topic::changes_topic;
use crate::capture::Capture;
use crate::config::App;
use crate::config::Config;
use crate::config::brokers;
use crate::config::kafka;
use crate::config::layers::Layers;
use crate::config::problem::Origin;
use crate::config::problem::Problem;
use crate::config::reader::Range;
use crate::journal::Ack;
use crate::record::Topics;

/// How long the sender waits for a response.
const SENDER_DEADLINE: Duration = Duration::from_secs(2);

/// Larger than any memory, and small enough that the sums of the queue cannot overflow 64 bits.
const QUEUE_MAX: i64 = 1 << 48;

/// The block size of the journal's files.
const BLOCK_BYTES: u64 = 4096;

/// A segment of the journal must have room for this many of the longest bodies, besides its overhead.
const SEGMENT_BODIES: u64 = 4;

/// The body budget must have room for this many of the longest bodies.
const BUDGET_BODIES: usize = 4;

/// The range of each integer setting.
const RANGES: &[Range] = &[
    ("workers", 0, 1024),
    ("drain_seconds", 1, 3600),
    ("callbacks.sign_window_seconds", 1, 86_400),
    ("publish.unreported_max_seconds", 1, 3600),
    // Far more than a callback has.
    ("callbacks.body_bytes_max", 1, 16 * 1024 * 1024),
    ("callbacks.bodies_bytes_max", 1, QUEUE_MAX),
    ("callbacks.connections_max", 1, 1_000_000),
    ("callbacks.connections_per_peer_max", 1, 1_000_000),
    ("callbacks.head_timeout_ms", 1, 60_000),
    ("callbacks.body_timeout_ms", 1, 60_000),
    ("callbacks.write_timeout_ms", 1, 60_000),
    ("callbacks.deadline_ms", 1, 3_600_000),
    ("callbacks.idle_timeout_seconds", 1, 3600),
    ("callbacks.connection_age_max_seconds", 1, 86_400),
    ("callbacks.keep_accepting_ms", 0, 3_600_000),
    ("apps[].sdk_app_id", 1, i64::MAX),
    ("topics.partitions", 1, i32::MAX as i64),
    ("topics.replication_factor", 1, i16::MAX as i64),
    ("topics.min_insync_replicas", 1, i16::MAX as i64),
    ("topics.retention_ms", -1, i64::MAX),
    ("blocklist.ready_after_seconds", 0, 3600),
    ("queue.bytes_max", 1, QUEUE_MAX),
    ("queue.captures_max", 1, QUEUE_MAX),
    ("queue.waiting_bytes_max", 0, QUEUE_MAX),
    ("journal.segment_bytes", 1 << 20, 1 << 30),
    ("journal.quota_bytes", 1, i64::MAX),
    ("journal.free_bytes_min", 0, i64::MAX),
];

/// Reads and checks the settings. Relative paths in the file are relative to `folder`.
pub(super) fn check(mut layers: Layers, folder: &Path) -> Result<Config, Vec<Problem>> {
    let mut config = layers.read(RANGES);
    if let Some(config) = &mut config {
        locate_files(&layers, config, folder);
        complete(&mut layers, config);
        kafka::check(&mut layers, &mut config.kafka.properties, config.embedded_broker);
        check_callbacks(&mut layers, config);
        check_topics(&mut layers, config);
        check_blocklist_topics(&mut layers, config);
        check_sizes(&mut layers, config);
    }
    let Layers { mut problems, warnings, .. } = layers;
    problems.sort_by_key(rank);
    if !problems.is_empty() {
        // A misnamed variable may be why something is missing.
        problems.extend(warnings.iter().map(|warning| Problem::warning(warning)));
    }
    let mut config = config.filter(|_| problems.is_empty()).ok_or(problems)?;
    config.warnings = warnings;
    config.warnings.extend(exposed(&config));
    config.warnings.extend(unused(&config));
    Ok(config)
}

/// The order of reports: the file from top to bottom, variables, flags, and then what is missing.
fn rank(problem: &Problem) -> (usize, usize) {
    match &problem.origin {
        Some(Origin::File { line, .. }) => (0, line.unwrap_or_default()),
        Some(Origin::Variable(_)) => (1, 0),
        Some(Origin::Flag(_)) => (2, 0),
        None => (3, 0),
    }
}

/// Resolves relative paths: those in the file relative to its folder, those of variables and flags to the working directory.
fn locate_files(layers: &Layers, config: &mut Config, folder: &Path) {
    let locate = |path: &str, file: &mut PathBuf| {
        if matches!(layers.origin(path), Some(Origin::File { .. })) {
            *file = folder.join(&file);
        }
    };
    if let Some(tls) = &mut config.callbacks.tls {
        locate("callbacks.tls.certificate_file", &mut tls.certificate);
        locate("callbacks.tls.key_file", &mut tls.key);
        tls.client_ca.iter_mut().for_each(|file| locate("callbacks.tls.client_ca_file", file));
    }
    for (index, app) in config.apps.iter_mut().enumerate() {
        app.token_files.iter_mut().for_each(|file| locate(&format!("apps[{index}].token_files"), file));
        app.blocklist_files.iter_mut().for_each(|file| locate(&format!("apps[{index}].blocklist_files"), file));
    }
    config.admin.token_files.iter_mut().for_each(|file| locate("admin.token_files", file));
    config.blocklist.files.iter_mut().for_each(|file| locate("blocklist.files", file));
    locate("journal.dir", &mut config.journal.dir);
}

/// Fills in values that depend on other settings or on the machine.
fn complete(layers: &mut Layers, config: &mut Config) {
    if config.workers == 0 {
        // One, if the system does not tell.
        config.workers = thread::available_parallelism().map_or(1, usize::from);
    }
    config.journal.wait_max = 2 * config.callbacks.deadline;
    config.journal.capture_bytes_max = config.callbacks.raw_record_bytes_max() + Capture::OVERHEAD_BYTES;
    complete_apps(layers, config);
}

/// Completes the applications of the file with values of the environment and the flags, or replaces them.
fn complete_apps(layers: &mut Layers, config: &mut Config) {
    let every = mem::take(&mut config.every_app);
    let replacing = "apps[].sdk_app_id";
    let is_replaced = layers.origin(replacing).is_some();
    let mut ids = BTreeSet::new();
    for (index, app) in config.apps.iter_mut().enumerate() {
        let path = format!("apps[{index}].sdk_app_id");
        if app.sdk_app_id == 0 && !layers.is_faulty(&path) {
            layers.contradiction(&path, &format!("apps[{index}]"), "is missing: every application has one");
        } else if app.sdk_app_id != 0 && !ids.insert(app.sdk_app_id) && !is_replaced {
            layers.fault(&path, format!("application {} is given twice", app.sdk_app_id));
        }
        if app.topic_prefix.is_empty() {
            app.topic_prefix.clone_from(&every.topic_prefix);
        }
        if app.token_files.is_empty() {
            app.token_files.clone_from(&every.token_files);
        }
    }
    if is_replaced {
        config.apps.clear();
        ids.clear();
    }
    for text in &every.sdk_app_id {
        match text.parse() {
            Ok(0) | Err(_) => layers.fault(replacing, "must be a whole number above 0"),
            Ok(id) if !ids.insert(id) => layers.fault(replacing, format!("application {id} is given twice")),
            Ok(sdk_app_id) => {
                let (topic_prefix, token_files) = (every.topic_prefix.clone(), every.token_files.clone());
                config.apps.push(App { sdk_app_id, topic_prefix, token_files, ..App::default() });
            }
        }
    }
    if config.apps.is_empty() && !layers.is_faulty(replacing) {
        layers.missing("apps", "add an [[apps]] with its sdk_app_id, or --sdk-app-id");
    }
}

fn check_callbacks(layers: &mut Layers, config: &Config) {
    let callbacks = &config.callbacks;
    if callbacks.deadline >= SENDER_DEADLINE {
        let why = "must be below 2000: the sender waits 2 seconds, and may never send the callback again";
        layers.fault("callbacks.deadline_ms", why);
    }
    let (here, there) = (callbacks.listen, config.admin.listen);
    let meets = here.ip() == there.ip() || here.ip().is_unspecified() || there.ip().is_unspecified();
    if meets && here.port() == there.port() && here.port() != 0 {
        let why = "must not be the address of callbacks.listen";
        layers.contradiction("admin.listen", "callbacks.listen", why);
    }
    if callbacks.keep_accepting >= config.drain {
        let why = "must be below drain_seconds: a stop would have no time left to drain";
        layers.contradiction("callbacks.keep_accepting_ms", "drain_seconds", why);
    }
    if callbacks.proxy_protocol && callbacks.proxies.0.is_empty() {
        let why = "needs callbacks.proxies: the header must not be trusted from other peers";
        layers.contradiction("callbacks.proxy_protocol", "callbacks.proxies", why);
    }
}

fn check_topics(layers: &mut Layers, config: &Config) {
    let topics = &config.topics;
    if topics.retention_ms == Some(0) {
        layers.fault("topics.retention_ms", "0 would delete records before anyone reads them");
    }
    if let (Some(in_sync), Some(all)) = (topics.min_insync_replicas, topics.replication_factor)
        && in_sync > all
    {
        let why = "must not be above topics.replication_factor: no record could ever be written";
        layers.contradiction("topics.min_insync_replicas", "topics.replication_factor", why);
    }
}

/// A topic holds one kind of records: rules, changes of rules, or callbacks.
fn check_blocklist_topics(layers: &mut Layers, config: &Config) {
    let common = config.blocklist.topic.iter().map(|topic| ("blocklist.topic".to_owned(), topic));
    let own = config.apps.iter().enumerate();
    let own =
        own.filter_map(|(index, app)| Some((format!("apps[{index}].blocklist_topic"), app.blocklist_topic.as_ref()?)));
    let lists: Vec<(String, &String)> = common.chain(own).collect();
    let prefixes = config.apps.iter().map(|app| app.topic_prefix.as_str());
    let callbacks = Topics::of_commands(prefixes, &config.topics.commands);
    for (path, topic) in &lists {
        let is_taken = |name: &String| callbacks.names().contains(name);
        let changes = changes_topic(topic);
        if is_taken(topic) || is_taken(&changes) {
            layers.fault(path, "must not be a topic of callbacks, and neither may it be with -changes behind it");
        } else if lists.iter().any(|(_path, other)| **other == changes) {
            layers.fault(path, format!("must not be {topic}: {changes}, another blocklist topic, holds its changes"));
        }
    }
}

/// Checks sizes that must fit together.
fn check_sizes(layers: &mut Layers, config: &Config) {
    let (callbacks, journal) = (&config.callbacks, &config.journal);
    let body = "callbacks.body_bytes_max";
    if callbacks.bodies_bytes_max / BUDGET_BODIES < callbacks.body_bytes_max {
        let why = "must be at least four times callbacks.body_bytes_max: a quarter is reserved for before-callbacks";
        layers.contradiction("callbacks.bodies_bytes_max", body, why);
    }
    if config.queue.bytes_max < callbacks.body_bytes_max {
        let why = "must not be below callbacks.body_bytes_max: the longest body would never fit";
        layers.contradiction("queue.bytes_max", body, why);
    }
    // Records in an embedded broker are lost with it anyway.
    let message_bytes_max = kafka::message_bytes_max(&config.kafka.properties);
    if !config.embedded_broker && message_bytes_max < callbacks.raw_record_bytes_max() {
        let why = "must be at least 65536 above callbacks.body_bytes_max: a callback that cannot be used is kept as one raw record";
        layers.contradiction(kafka::MESSAGE_BYTES_PATH, body, why);
    }
    if !journal.segment_bytes.is_multiple_of(BLOCK_BYTES) {
        layers.fault("journal.segment_bytes", "must be a multiple of 4096");
    }
    if config.ack != Ack::Journal {
        return;
    }
    if journal.segment_bytes / SEGMENT_BODIES < callbacks.body_bytes_max as u64 {
        let why = "must be at least four times callbacks.body_bytes_max: a segment must hold the longest bodies";
        layers.contradiction("journal.segment_bytes", body, why);
    }
    if journal.quota_bytes.is_some_and(|quota| quota / 4 < journal.segment_bytes) {
        let why = "must be at least four times journal.segment_bytes: one is written while others are delivered and compacted";
        layers.contradiction("journal.quota_bytes", "journal.segment_bytes", why);
    }
}

/// Warns of settings that are valid but insecure, in the order of the settings.
fn exposed(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let admin = config.admin.listen;
    if !admin.ip().to_canonical().is_loopback() {
        let why = match config.admin.token_files.as_slice() {
            [] => "can be reached from other machines, and the admin listener has no authentication",
            _ => "can be reached from other machines, and only the blocklist needs a token there",
        };
        warnings.push(format!("admin.listen: {admin} {why}"));
    }
    for app in config.apps.iter().filter(|app| app.token_files.is_empty()) {
        let why = "its callbacks are accepted unsigned: anybody who knows the SdkAppid can send them; set token_files";
        warnings.push(format!("application {}: {why}", app.sdk_app_id));
    }
    let properties = &config.kafka.properties;
    let protocol = kafka::security_protocol(properties).to_ascii_lowercase();
    let is_remote = |server: &&str| brokers::host(server, &protocol).is_ok_and(|host| !brokers::is_local(host));
    if protocol.ends_with("plaintext")
        && let Some(broker) = kafka::servers(properties).find(is_remote)
    {
        let why = "the traffic is not encrypted; use ssl or sasl_ssl";
        warnings.push(format!("kafka.security.protocol: {protocol} to {broker}: {why}"));
    }
    for (name, off, shown) in [(kafka::VERIFICATION, kafka::FALSE, "false"), (kafka::IDENTIFICATION, &["none"], "none")]
    {
        if properties.get(name).is_some_and(|given| off.iter().any(|off| off.eq_ignore_ascii_case(given))) {
            warnings.push(format!("kafka.{name} is {shown}: a man in the middle can impersonate a broker"));
        }
    }
    warnings
}

/// Warns of a common blocklist that decides for nobody.
fn unused(config: &Config) -> Vec<String> {
    let is_unused = config.apps.iter().all(App::has_own_blocklist);
    let set = [("topic", config.blocklist.topic.is_some()), ("files", !config.blocklist.files.is_empty())];
    let unused = set.into_iter().filter(|(_setting, is_set)| is_unused && *is_set);
    let why = "no application uses it: each has a blocklist of its own";
    unused.map(|(setting, _)| format!("blocklist.{setting}: {why}")).collect()
}
