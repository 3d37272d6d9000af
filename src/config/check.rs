//! Makes a `Config` of what was given, or says everything that is wrong with it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::command::Asks;
use crate::command::Command;
use crate::command::CommandSet;
use crate::config::Ack;
use crate::config::Admin;
use crate::config::AllRefused;
use crate::config::App;
use crate::config::BeforeLoaded;
use crate::config::Blocklist;
use crate::config::Callbacks;
use crate::config::Config;
use crate::config::Decide;
use crate::config::Envelope;
use crate::config::EnvelopeMode;
use crate::config::Journal;
use crate::config::JudgeKafka;
use crate::config::Kafka;
use crate::config::Log;
use crate::config::LogFormat;
use crate::config::OnCorruption;
use crate::config::Publish;
use crate::config::Queue;
use crate::config::Tls;
use crate::config::Topics;
use crate::config::exposure;
use crate::config::kafka;
use crate::config::problem::Fault;
use crate::config::problem::Problem;
use crate::config::reader::Reader;
use crate::config::source::Layer;
use crate::sender::Network;
use crate::sender::Networks;

/// Longer than this, a topic's name could exceed Kafka's 249 characters with the longest command behind it.
const TOPIC_PREFIX_LENGTH_MAX: usize = 150;

/// Far more than any callback has.
const BODY_BYTES_MAX: i64 = 16 * 1024 * 1024;

/// What the sender allows for an answer.
const SENDER_DEADLINE: Duration = Duration::from_secs(2);

/// More than any memory holds. What counts the room of the queue cannot count to the end of 64 bits.
const QUEUE_MAX: i64 = 1 << 48;

/// What the journal's files are made of.
const BLOCK_BYTES: u64 = 4096;

/// So many of the longest bodies fit into a segment of the journal, with what else stands there.
const SEGMENT_BODIES: u64 = 4;

/// So many of the longest bodies may be on their way.
const BUDGET_BODIES: usize = 4;

/// Lays `layers` over each other, the later over the earlier, and judges the outcome.
pub(crate) fn check(layers: [Layer; 4], folder: PathBuf, judge_kafka: JudgeKafka) -> Result<Config, Vec<Problem>> {
    let mut entries = BTreeMap::new();
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    for layer in layers {
        entries.extend(layer.entries);
        problems.extend(layer.problems);
        warnings.extend(layer.warnings);
    }
    let file_is_unknown =
        problems.iter().any(|problem| matches!(problem.fault, Fault::Unreadable(_) | Fault::Syntax(_)));

    let reader = &mut Reader::new(entries, folder, problems);
    let embedded_broker = reader.boolean("embedded_broker");
    let mut config = Config {
        ack: ack(reader),
        workers: workers(reader),
        drain: reader.seconds("drain_seconds", &(1..=3600)),
        callbacks: callbacks(reader),
        admin: Admin { listen: reader.address("admin.listen") },
        apps: apps(reader),
        kafka: Kafka { properties: kafka::properties(reader, embedded_broker, judge_kafka) },
        embedded_broker,
        topics: topics(reader),
        publish: Publish { unreported_max: reader.seconds("publish.unreported_max_seconds", &(1..=3600)) },
        envelope: envelope(reader),
        blocklist: Blocklist { files: reader.files("blocklist.files") },
        decide: decide(reader),
        queue: queue(reader),
        journal: journal(reader),
        log: log(reader),
        warnings,
    };
    compare(reader, &config);
    reader.finish();

    let mut problems = std::mem::take(&mut reader.problems);
    if file_is_unknown {
        // What is missing may well stand in the file.
        problems.retain(|problem| !matches!(problem.fault, Fault::Missing(_)));
    }
    problems.sort_by_key(Problem::place);
    if !problems.is_empty() {
        return Err(problems);
    }
    config.warnings.extend(exposure::warnings(&config));
    Ok(config)
}

fn ack(reader: &mut Reader) -> Ack {
    let words = [("journal", Ack::Journal), ("broker", Ack::Broker), ("memory", Ack::Memory)];
    reader.choice("ack", Ack::Journal, &words)
}

fn workers(reader: &mut Reader) -> usize {
    match reader.count("workers", &(0..=1024)) {
        // One is right where the system does not tell.
        0 => thread::available_parallelism().map_or(1, usize::from),
        given => given,
    }
}

fn callbacks(reader: &mut Reader) -> Callbacks {
    let path = reader.text("callbacks.path");
    let is_path = |path: &str| {
        path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#')
    };
    if path.as_deref().is_some_and(|path| !is_path(path)) {
        reader.fault("callbacks.path", Fault::Wanted("a URL's path: begins with '/', without query and blanks"));
    }
    Callbacks {
        listen: reader.address("callbacks.listen"),
        path,
        sign_window: reader.seconds("callbacks.sign_window_seconds", &(1..=86_400)),
        senders: networks(reader, "callbacks.senders"),
        proxies: networks(reader, "callbacks.proxies").unwrap_or_default(),
        proxy_protocol: reader.boolean("callbacks.proxy_protocol"),
        tls: tls(reader),
        body_bytes_max: reader.count("callbacks.body_bytes_max", &(1..=BODY_BYTES_MAX)),
        bodies_bytes_max: reader.count("callbacks.bodies_bytes_max", &(1..=QUEUE_MAX)),
        connections_max: reader.count("callbacks.connections_max", &(1..=1_000_000)),
        connections_per_peer_max: reader
            .integer("callbacks.connections_per_peer_max", &(1..=1_000_000))
            .and_then(|count| usize::try_from(count).ok()),
        head_timeout: reader.millis("callbacks.head_timeout_ms", &(1..=60_000)),
        body_timeout: reader.millis("callbacks.body_timeout_ms", &(1..=60_000)),
        write_timeout: reader.millis("callbacks.write_timeout_ms", &(1..=60_000)),
        deadline: reader.millis("callbacks.deadline_ms", &(1..=3_600_000)),
        connection_age_max: reader.seconds("callbacks.connection_age_max_seconds", &(1..=86_400)),
        idle_timeout: reader.seconds("callbacks.idle_timeout_seconds", &(1..=3600)),
        keep_accepting: reader.millis("callbacks.keep_accepting_ms", &(0..=3_600_000)),
    }
}

/// Certificate and key go together, and authorities of clients are of no use without them.
fn tls(reader: &mut Reader) -> Option<Tls> {
    let mut file = |name: &str| {
        let path = format!("callbacks.tls.{name}");
        reader.take(&path).is_some().then(|| reader.folder(&path))
    };
    let (certificate, key, client_ca) = (file("certificate_file"), file("key_file"), file("client_ca_file"));
    let given = ["certificate_file", "key_file", "client_ca_file"].map(|name| format!("callbacks.tls.{name}"));
    let [certificate_path, key_path, client_ca_path] = &given;
    match (certificate, key) {
        (Some(certificate_file), Some(key_file)) => Some(Tls { certificate_file, key_file, client_ca_file: client_ca }),
        (Some(_), None) => {
            reader.fault_beside(key_path, certificate_path, Fault::Missing("a certificate has a key"));
            None
        }
        (None, Some(_)) => {
            reader.fault_beside(certificate_path, key_path, Fault::Missing("a key has a certificate"));
            None
        }
        (None, None) => {
            if client_ca.is_some() {
                let why = Fault::Missing("clients show certificates in TLS only");
                reader.fault_beside(certificate_path, client_ca_path, why);
            }
            None
        }
    }
}

/// `None` when nobody gave any. An empty list is a mistake: it would let nobody in, or mean everybody.
fn networks(reader: &mut Reader, path: &str) -> Option<Networks> {
    reader.take(path)?;
    let texts = reader.texts(path);
    let mut networks = Vec::new();
    for text in &texts {
        match text.parse::<Network>() {
            Ok(network) => networks.push(network),
            Err(bad) => reader.fault(path, Fault::Network(text.clone(), bad)),
        }
    }
    if texts.is_empty() && !reader.is_faulty(path) {
        reader.fault(path, Fault::Wanted("at least one network, like 203.0.113.0/24"));
    }
    Some(Networks(networks))
}

fn apps(reader: &mut Reader) -> Vec<App> {
    let default_prefix = topic_prefix(reader, "apps[].topic_prefix").unwrap_or_default();
    // The file's are judged even when they are replaced: its mistakes are still mistakes.
    let default_tokens = token_files(reader, "apps[].token_files").unwrap_or_default();
    let mut apps = apps_of_file(reader, &default_prefix, &default_tokens);

    let path = "apps[].sdk_app_id";
    let ids = reader.texts(path);
    let replaces = !ids.is_empty();
    if replaces {
        apps.clear();
    }
    for id in ids {
        match id.parse() {
            Ok(0) | Err(_) => reader.fault(path, Fault::Wanted("a whole number above 0")),
            Ok(sdk_app_id) => {
                let (topic_prefix, token_files) = (default_prefix.clone(), default_tokens.clone());
                apps.push(App { sdk_app_id, topic_prefix, token_files });
            }
        }
    }
    refuse_repeats(reader, replaces.then_some(path), &apps);
    if reader.take("apps").is_some() {
        reader.fault("apps", Fault::Wanted("tables, each under its own [[apps]]"));
    } else if apps.is_empty() && !replaces {
        reader.fault("apps", Fault::Missing("give an [[apps]] with its sdk_app_id, or --sdk-app-id"));
    }
    apps
}

fn apps_of_file(reader: &mut Reader, default_prefix: &str, default_tokens: &[PathBuf]) -> Vec<App> {
    let mut apps = Vec::new();
    while reader.take(&format!("apps[{}]", apps.len())).is_some() {
        let path = |name: &str| format!("apps[{}].{name}", apps.len());
        let id = path("sdk_app_id");
        if reader.take(&id).is_none() {
            let app = format!("apps[{}]", apps.len());
            reader.fault_beside(&id, &app, Fault::Missing("every application has one"));
        }
        let token_files = token_files(reader, &path("token_files")).unwrap_or_else(|| default_tokens.to_vec());
        let prefix = topic_prefix(reader, &path("topic_prefix"));
        let sdk_app_id = reader.integer(&id, &(1..=i64::MAX)).unwrap_or_default().unsigned_abs();
        let topic_prefix = prefix.unwrap_or_else(|| default_prefix.to_owned());
        apps.push(App { sdk_app_id, topic_prefix, token_files });
    }
    apps
}

/// `given` is where all `apps` were given; each has its own place in the file when it is absent.
fn refuse_repeats(reader: &mut Reader, given: Option<&str>, apps: &[App]) {
    let mut seen = BTreeSet::new();
    for (index, app) in apps.iter().enumerate() {
        let id = app.sdk_app_id;
        // Zero is the stand-in for an id that was told of already.
        if id != 0 && !seen.insert(id) {
            let path = given.map_or_else(|| format!("apps[{index}].sdk_app_id"), str::to_owned);
            reader.fault(&path, Fault::AppTwice(id));
        }
    }
}

/// `None` when nobody gave any. An empty list would let everyone in where somebody thought of tokens.
fn token_files(reader: &mut Reader, path: &str) -> Option<Vec<PathBuf>> {
    reader.take(path)?;
    let files = reader.files(path);
    if files.is_empty() && !reader.is_faulty(path) {
        reader.fault(path, Fault::Wanted("at least one file; leave it out where callbacks are not signed"));
    }
    Some(files)
}

fn topic_prefix(reader: &mut Reader, path: &str) -> Option<String> {
    let prefix = reader.text(path)?;
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if prefix.len() > TOPIC_PREFIX_LENGTH_MAX || !prefix.bytes().all(is_legal) {
        reader.fault(path, Fault::Wanted("at most 150 of the characters a-z A-Z 0-9 . _ -"));
    }
    Some(prefix)
}

fn topics(reader: &mut Reader) -> Topics {
    let retention = "topics.retention_ms";
    let retention_ms = reader.integer(retention, &(-1..=i64::MAX));
    if retention_ms == Some(0) {
        reader.fault(retention, Fault::Contradicts("0 would delete records before anyone reads them"));
    }
    Topics {
        commands: commands(reader, "topics.commands", |_any| true),
        create: reader.boolean("topics.create"),
        partitions: reader.kafka_count("topics.partitions", i32::MAX).unwrap_or(1),
        replication_factor: reader.kafka_count("topics.replication_factor", i32::from(i16::MAX)),
        min_insync_replicas: reader.kafka_count("topics.min_insync_replicas", i32::from(i16::MAX)),
        retention_ms,
    }
}

fn envelope(reader: &mut Reader) -> Envelope {
    let words = [("structured", EnvelopeMode::Structured), ("binary", EnvelopeMode::Binary)];
    Envelope { mode: reader.choice("envelope.mode", EnvelopeMode::Structured, &words) }
}

fn decide(reader: &mut Reader) -> Decide {
    let all_refused = [("list", AllRefused::List), ("reject", AllRefused::Reject)];
    let before_loaded = [("allow", BeforeLoaded::Allow), ("refuse", BeforeLoaded::Refuse)];
    Decide {
        all_refused: reader.choice("decide.all_refused", AllRefused::List, &all_refused),
        before_loaded: reader.choice("decide.before_loaded", BeforeLoaded::Allow, &before_loaded),
        commands: commands(reader, "decide.commands", |command| command.asks() != Asks::Nobody),
    }
}

/// The commands that a setting names, by name, by family or all of `among`.
fn commands(reader: &mut Reader, path: &str, among: impl Fn(Command) -> bool) -> CommandSet {
    let words = reader.words(path);
    // What is empty was told already.
    let words = words.iter().map(String::as_str).filter(|word| !word.is_empty());
    CommandSet::select(words, &among).unwrap_or_else(|_unknown| {
        let names: Vec<&str> = Command::all().filter(|command| among(*command)).map(Command::name).collect();
        let mut known: Vec<String> = names.iter().map(|name| format!("{}.*", family(name))).collect();
        known.dedup();
        reader.fault(path, Fault::NotOneOf(format!("all, {}, {}", known.join(", "), names.join(", "))));
        CommandSet::ALL
    })
}

fn family(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

fn queue(reader: &mut Reader) -> Queue {
    Queue {
        bytes_max: reader.count("queue.bytes_max", &(1..=QUEUE_MAX)),
        captures_max: reader.count("queue.captures_max", &(1..=QUEUE_MAX)),
        waiting_bytes_max: reader.count("queue.waiting_bytes_max", &(0..=QUEUE_MAX)),
    }
}

fn journal(reader: &mut Reader) -> Journal {
    let on_corruption = [("refuse", OnCorruption::Refuse), ("salvage", OnCorruption::Salvage)];
    let segment = "journal.segment_bytes";
    let segment_bytes = reader.count(segment, &(1 << 20..=1 << 30)) as u64;
    if !segment_bytes.is_multiple_of(BLOCK_BYTES) {
        reader.fault(segment, Fault::Wanted("a multiple of 4096"));
    }
    let quota_bytes = reader.integer("journal.quota_bytes", &(1..=i64::MAX)).map(i64::unsigned_abs);
    Journal {
        dir: reader.folder("journal.dir"),
        segment_bytes,
        quota_bytes,
        free_bytes_min: reader.count("journal.free_bytes_min", &(0..=i64::MAX)) as u64,
        on_corruption: reader.choice("journal.on_corruption", OnCorruption::Refuse, &on_corruption),
    }
}

fn log(reader: &mut Reader) -> Log {
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = reader.choice("log.format", LogFormat::Auto, &formats);
    let filter = reader.text("log.filter").unwrap_or_default();
    if EnvFilter::builder().parse(&filter).is_err() {
        reader.fault("log.filter", Fault::Wanted("a filter of tracing, like info or callbridge=debug,info"));
    }
    Log { format, filter }
}

/// Looks at values that are right by themselves, but not together.
fn compare(reader: &mut Reader, config: &Config) {
    let callbacks = &config.callbacks;
    if callbacks.deadline >= SENDER_DEADLINE {
        let why = "must be below 2000: the sender waits 2 seconds, and what it gave up on it may not send again";
        reader.fault("callbacks.deadline_ms", Fault::Contradicts(why));
    }
    let (here, there) = (callbacks.listen, config.admin.listen);
    let meets = here.ip() == there.ip() || here.ip().is_unspecified() || there.ip().is_unspecified();
    if meets && here.port() == there.port() && here.port() != 0 {
        let why = "must not be where callbacks.listen is: an address has one listener";
        reader.contradiction("admin.listen", "callbacks.listen", why);
    }
    if callbacks.keep_accepting >= config.drain {
        let why = "must be below drain_seconds: a stop would have no time left to drain";
        reader.contradiction("callbacks.keep_accepting_ms", "drain_seconds", why);
    }
    if callbacks.proxy_protocol && callbacks.proxies.0.is_empty() {
        let why = "needs callbacks.proxies: from others such a header would be believed by mistake";
        reader.contradiction("callbacks.proxy_protocol", "callbacks.proxies", why);
    }
    if callbacks.bodies_bytes_max / BUDGET_BODIES < callbacks.body_bytes_max {
        let why = "must be at least four times callbacks.body_bytes_max: a quarter is for questions alone";
        reader.contradiction("callbacks.bodies_bytes_max", "callbacks.body_bytes_max", why);
    }
    if config.queue.bytes_max < callbacks.body_bytes_max {
        let why = "must not be below callbacks.body_bytes_max: the longest body would never fit";
        reader.contradiction("queue.bytes_max", "callbacks.body_bytes_max", why);
    }
    // What an embedded broker takes is gone with it anyway.
    let raw_bytes_max = callbacks.raw_record_bytes_max();
    if !config.embedded_broker && kafka::message_bytes_max(&config.kafka.properties) < raw_bytes_max {
        let why =
            "must be at least 65536 above callbacks.body_bytes_max: what cannot be used is kept raw, as one record";
        reader.contradiction(kafka::MESSAGE_BYTES_PATH, "callbacks.body_bytes_max", why);
    }
    if config.ack == Ack::Journal {
        compare_journal(reader, &config.journal, callbacks.body_bytes_max);
    }
    let replicas = (config.topics.min_insync_replicas, config.topics.replication_factor);
    if let (Some(in_sync), Some(all)) = replicas
        && in_sync > all
    {
        let why = "must not be above topics.replication_factor: no record could ever be written";
        reader.contradiction("topics.min_insync_replicas", "topics.replication_factor", why);
    }
}

fn compare_journal(reader: &mut Reader, journal: &Journal, body_bytes_max: usize) {
    if journal.segment_bytes / SEGMENT_BODIES < body_bytes_max as u64 {
        let why = "must be at least four times callbacks.body_bytes_max: a segment must hold the longest bodies";
        reader.contradiction("journal.segment_bytes", "callbacks.body_bytes_max", why);
    }
    if journal.quota_bytes.is_some_and(|quota| quota / 4 < journal.segment_bytes) {
        let why = "must be at least four times journal.segment_bytes: one is written while others are delivered and put in order";
        reader.contradiction("journal.quota_bytes", "journal.segment_bytes", why);
    }
}
