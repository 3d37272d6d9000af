//! Claims about the configuration as a whole.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::FromArgMatches;
use proptest::prelude::any;
use proptest::proptest;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::command::Command;
use crate::command::CommandSet;
use crate::config;
use crate::config::AdminSettings;
use crate::config::App;
use crate::config::BlocklistSettings;
use crate::config::CONFIG_VARIABLE;
use crate::config::Callbacks;
use crate::config::Config;
use crate::config::Decide;
use crate::config::EnvelopeSettings;
use crate::config::Log;
use crate::config::LogFormat;
use crate::config::PublishSettings;
use crate::config::TopicSettings;
use crate::config::flags::Flags;
use crate::config::layers::Layers;
use crate::config::problem::Origin;
use crate::config::problem::Problem;
use crate::decide::AllRefused;
use crate::decide::BeforeLoaded;
use crate::follow::tls::TlsPaths;
use crate::journal::Ack;
use crate::journal::Bounds;
use crate::journal::durable;
use crate::journal::log::OnCorruption;
use crate::normalise::envelope::Mode;

const EXAMPLE: &str = include_str!("../../deploy/callbridge.example.toml");

/// The least that is a configuration.
const LEAST: &str = "apps = [{ sdk_app_id = 1400000000 }]\nkafka.\"bootstrap.servers\" = \"kafka-1:9092\"\n";

/// What is given, as a test says it.
#[derive(Default)]
struct Given<'g> {
    file: &'g str,
    variables: &'g [(&'g str, &'g str)],
    flags: &'g [(&'static str, &'g str)],
}

impl Given<'_> {
    fn load(&self) -> Result<Config, Vec<Problem>> {
        self.load_in(&TempDir::new().unwrap())
    }

    fn load_in(&self, folder: &TempDir) -> Result<Config, Vec<Problem>> {
        let file = folder.path().join("callbridge.toml");
        fs::write(&file, self.file).unwrap();
        let variables = self.variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        config::load(&with_file(&file, self.flags), variables)
    }

    fn config(&self) -> Config {
        self.load().unwrap_or_else(|problems| panic!("{:?}", lines(&problems)))
    }

    /// One line a problem, with the folder of the file left out.
    fn problems(&self) -> Vec<String> {
        let folder = TempDir::new().unwrap();
        let problems = self.load_in(&folder).expect_err("a mistake");
        lines(&problems).iter().map(|line| without(&folder, line)).collect()
    }
}

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(Problem::to_string).collect()
}

fn without(folder: &TempDir, line: &str) -> String {
    line.replace(&format!("{}/", folder.path().display()), "")
}

fn with_file(file: &Path, given: &[(&str, &str)]) -> Flags {
    flags(&[&[("config", file.to_str().unwrap())], given].concat())
}

/// What the command line gives. A switch has no value.
fn flags(given: &[(&str, &str)]) -> Flags {
    let words = given.iter().flat_map(|(name, value)| [format!("--{name}"), (*value).to_owned()]);
    let words = words.filter(|word| !word.is_empty());
    let matches = Flags::augment_args(clap::Command::new("serve")).no_binary_name(true).get_matches_from(words);
    Flags::from_arg_matches(&matches).unwrap()
}

#[test]
fn the_least_configuration_has_the_documented_defaults() {
    let config = Given { file: LEAST, ..Given::default() }.config();
    assert_eq!(config.ack, Ack::Journal);
    assert!(config.workers >= 1);
    assert_eq!(config.drain, Duration::from_secs(8));
    assert_eq!(config.callbacks.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.callbacks.path, None);
    assert_eq!(config.callbacks.body_bytes_max, 262_144);
    assert_eq!(config.callbacks.bodies_bytes_max, 64 << 20);
    assert_eq!(config.callbacks.connections_max, 10_000);
    assert_eq!(config.callbacks.head_timeout, Duration::from_secs(5));
    assert_eq!(config.callbacks.body_timeout, Duration::from_secs(1));
    assert_eq!(config.callbacks.write_timeout, Duration::from_secs(10));
    assert_eq!(config.callbacks.connections_per_peer_max, None);
    assert_eq!(config.callbacks.deadline, Duration::from_millis(1500));
    assert_eq!(config.callbacks.idle_timeout, Duration::from_secs(75));
    assert_eq!(config.callbacks.connection_age_max, Duration::from_secs(3600));
    assert_eq!(config.callbacks.keep_accepting, Duration::from_secs(1));
    assert_eq!(config.admin.listen.to_string(), "0.0.0.0:9464");
    assert_eq!(config.apps, [app(1_400_000_000, "tencent-chat", &[])]);
    assert_eq!(config.callbacks.sign_window, Duration::from_secs(60));
    assert_eq!((config.callbacks.senders, config.callbacks.proxies.0), (None, Vec::new()));
    assert!(!config.callbacks.proxy_protocol);
    assert_eq!(config.callbacks.tls, None);
    assert_eq!(config.kafka.properties, properties(&[("bootstrap.servers", "kafka-1:9092")]));
    assert!(!config.embedded_broker);
    assert!(!config.topics.create);
    assert_eq!(config.topics.commands, CommandSet::ALL);
    assert_eq!(config.topics.partitions, 6);
    assert_eq!(config.topics.replication_factor, None);
    assert_eq!(config.topics.min_insync_replicas, None);
    assert_eq!(config.topics.retention_ms, None);
    assert_eq!(config.publish.unreported_max, Duration::from_secs(120));
    assert_eq!(config.envelope.mode, Mode::Structured);
    assert!(config.blocklist.files.is_empty());
    assert_eq!(config.decide.all_refused, AllRefused::List);
    assert_eq!(config.decide.before_loaded, BeforeLoaded::Allow);
    assert_eq!(names(&config.decide.commands), ["OfficialAccount.CallbackBeforeAddSubscriber"]);
    assert_eq!(config.queue.bytes_max, 67_108_864);
    assert_eq!(config.queue.captures_max, 100_000);
    assert_eq!(config.queue.waiting_bytes_max, 16_777_216);
    assert_eq!(config.journal.dir, Path::new("/var/lib/callbridge"));
    assert_eq!(config.journal.segment_bytes, 16_777_216);
    assert_eq!(config.journal.quota_bytes, None);
    assert_eq!(config.journal.free_bytes_min, 16_777_216);
    assert_eq!(config.journal.on_corruption, OnCorruption::Refuse);
    assert_eq!(config.log.format, LogFormat::Auto);
    assert_eq!(config.log.filter, "info");
    let warnings = [
        "admin.listen: 0.0.0.0:9464 can be reached",
        "application 1400000000: its callbacks are taken unsigned",
        "kafka.security.protocol: plaintext to kafka-1:9092",
    ];
    assert_eq!(config.warnings.len(), warnings.len());
    assert!(config.warnings.iter().zip(warnings).all(|(warning, begin)| warning.starts_with(begin)));
}

fn properties(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn names(commands: &CommandSet) -> Vec<&'static str> {
    commands.iter().map(Command::name).collect()
}

#[test]
fn commands_are_named_one_by_one_by_family_or_all_at_once() {
    let topics = |given: Given<'_>| names(&given.config().topics.commands);
    for (given, expected) in [
        ("[\"all\"]", Command::COUNT),
        ("\"all\"", Command::COUNT),
        ("[]", 0),
        ("\"Group.*\"", 24),
        ("[\"Group.*\", \"State.StateChange\"]", 25),
    ] {
        let file = &format!("topics.commands = {given}\n{LEAST}");
        assert_eq!(topics(Given { file, ..Given::default() }).len(), expected, "{given}");
    }
    let variables = &[("CALLBRIDGE_TOPICS_COMMANDS", "Push.*, State.StateChange")];
    let given = Given { file: LEAST, variables, ..Given::default() };
    assert_eq!(topics(given), ["State.StateChange", "Push.OfflinePush", "Push.AllMemberPush"]);
    let given = Given { file: &format!("decide.commands = []\n{LEAST}"), ..Given::default() };
    assert!(names(&given.config().decide.commands).is_empty());
    let given = Given { file: &format!("decide.commands = \"all\"\n{LEAST}"), ..Given::default() };
    assert_eq!(names(&given.config().decide.commands).len(), 7);
}

#[test]
fn the_example_file_says_what_holds_without_it() {
    let example = Given { file: EXAMPLE, ..Given::default() }.config();
    let least = Given { file: LEAST, ..Given::default() }.config();
    assert_eq!(format!("{example:?}"), format!("{least:?}"));
    assert_eq!(example.kafka.properties, least.kafka.properties);
}

/// The path of every setting, as serde knows them. For properties of Kafka stands the one that must be given.
fn paths() -> Vec<String> {
    fn within<T: DeserializeOwned + fmt::Debug>(section: &str) -> Vec<String> {
        let error = toml::from_str::<T>("no_such_setting = 1").unwrap_err();
        let (_, expected) = error.message().split_once("expected ").unwrap();
        expected.split('`').skip(1).step_by(2).map(|name| format!("{section}{name}")).collect()
    }
    let sections = [
        within::<Callbacks>("callbacks."),
        within::<TlsPaths>("callbacks.tls."),
        within::<AdminSettings>("admin."),
        within::<App>("apps[0]."),
        vec!["kafka.bootstrap.servers".to_owned()],
        within::<TopicSettings>("topics."),
        within::<PublishSettings>("publish."),
        within::<EnvelopeSettings>("envelope."),
        within::<BlocklistSettings>("blocklist."),
        within::<Decide>("decide."),
        within::<Bounds>("queue."),
        within::<durable::Settings>("journal."),
        within::<Log>("log."),
    ]
    .concat();
    let is_section = |path: &str| {
        sections.iter().any(|other| other.strip_prefix(path).is_some_and(|rest| rest.starts_with(['.', '['])))
    };
    let all = within::<Config>("").into_iter().chain(sections.clone());
    all.filter(|path| !is_section(path) && path != "apps[]").collect()
}

/// The variable of every setting that has one for its path, and of every flag.
fn variables() -> Vec<String> {
    let by_path = paths().into_iter().filter(|path| !path.starts_with("apps"));
    let by_flag = Flags::default().all().map(|flag| flag.name.to_owned());
    let names =
        by_path.chain(by_flag).map(|name| format!("CALLBRIDGE_{}", name.to_uppercase().replace(['.', '-'], "_")));
    BTreeSet::from_iter(names).into_iter().collect()
}

/// The example file with the settings that have no default uncommented.
fn whole_example() -> String {
    let is_setting = |line: &str| {
        let key = line.split(" = ").next().unwrap();
        line.contains(" = ") && key.chars().all(|letter| letter.is_ascii_lowercase() || "_.\"".contains(letter))
    };
    let uncommented =
        EXAMPLE.lines().map(|line| line.strip_prefix("# ").filter(|rest| is_setting(rest)).unwrap_or(line));
    uncommented.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_file_has_every_setting() {
    fn leaves(above: &str, table: &toml::Table, found: &mut BTreeSet<String>) {
        for (name, value) in table {
            let path = format!("{above}{name}");
            if let Some(table) = value.as_table() {
                leaves(&format!("{path}."), table, found);
            } else if path == "apps" {
                leaves("apps[0].", value[0].as_table().unwrap(), found);
            } else {
                found.insert(path);
            }
        }
    }
    let mut found = BTreeSet::new();
    leaves("", &whole_example().parse().unwrap(), &mut found);
    found.retain(|path| !path.starts_with("kafka.") || path == "kafka.bootstrap.servers");
    assert_eq!(found, BTreeSet::from_iter(paths()));
}

#[test]
fn what_the_example_file_suggests_is_right() {
    let whole = whole_example();
    let config = Given { file: &whole, ..Given::default() }.config();
    assert_eq!(config.callbacks.senders.unwrap().0.len(), 2);
    let [example] = config.apps.try_into().unwrap();
    let (files, topic) = (example.blocklist_files, example.blocklist_topic);
    assert_eq!((files.len(), topic.as_deref()), (1, Some("tencent-chat.blocklist.1400000000")));
    let example = App { blocklist_files: Vec::new(), blocklist_topic: None, ..example };
    assert_eq!(example, app(1_400_000_000, "tencent-chat", &["/run/secrets/tencent-token"]));
}

/// For each kind of problem a file that has it, and how it is told.
const FAULTY_FILES: &[(&str, &str)] = &[
    ("ack = ", "callbridge.toml:1: string values must be quoted, expected literal string"),
    ("ack = \"broker\"\nack = \"memory\"", "callbridge.toml:2: duplicate key"),
    ("ak = 3", "callbridge.toml:1: ak: no such setting"),
    ("drain_second = 3", "callbridge.toml:1: drain_second: no such setting; did you mean drain_seconds?"),
    ("[nonsense]\n[]", "callbridge.toml:2: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`"),
    ("\"apps[].topic_prefix\" = \"x\"", "callbridge.toml:1: apps[].topic_prefix: no such setting"),
    ("ack = 3", "callbridge.toml:1: ack: must be text"),
    ("\ncallbacks = 3", "callbridge.toml:2: callbacks: must be a table"),
    ("callbacks.tls = [1]", "callbridge.toml:1: callbacks.tls: must be a table"),
    ("callbacks.tls = {}", "callbridge.toml:1: callbacks.tls.certificate_file: is missing: callbacks.tls needs it"),
    ("callbacks.apps = [{}]", "callbridge.toml:1: callbacks.apps: no such setting"),
    ("admin.listen = {}", "callbridge.toml:1: admin.listen: must be an IP address and a port, like 0.0.0.0:8080"),
    (
        "[nonsense.more]\nx = 1\n[]",
        "callbridge.toml:3: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`",
    ),
    ("\"apps.0\" = 1", "callbridge.toml:1: apps.0: no such setting"),
    ("ack = \"\"", "callbridge.toml:1: ack: must not be empty"),
    ("ack = \"disk\"", "callbridge.toml:1: ack: must be one of journal, broker, memory"),
    ("journal.segment_bytes = 2000000", "callbridge.toml:1: journal.segment_bytes: must be a multiple of 4096"),
    ("journal.segment_bytes = 4096", "callbridge.toml:1: journal.segment_bytes: must be from 1048576 to 1073741824"),
    (
        "callbacks.body_bytes_max = 8388608\nkafka.\"message.max.bytes\" = 8454144",
        "callbridge.toml:1: journal.segment_bytes: must be at least four times callbacks.body_bytes_max: a segment must \
         hold the longest bodies",
    ),
    (
        "journal.quota_bytes = 16777216",
        "callbridge.toml:1: journal.quota_bytes: must be at least four times journal.segment_bytes: one is written \
         while others are delivered and put in order",
    ),
    ("journal.on_corruption = \"hope\"", "callbridge.toml:1: journal.on_corruption: must be one of refuse, salvage"),
    ("\nworkers = \"2\"", "callbridge.toml:2: workers: must be a whole number"),
    ("workers = 99999999999999999999", "callbridge.toml:1: workers: must be a number of 64 bits at most"),
    ("workers = 1.5", "callbridge.toml:1: workers: must be a whole number"),
    ("workers = -1", "callbridge.toml:1: workers: must be from 0 to 1024"),
    ("drain_seconds = 0", "callbridge.toml:1: drain_seconds: must be from 1 to 3600"),
    (
        "drain_seconds = 1",
        "callbridge.toml:1: callbacks.keep_accepting_ms: must be below drain_seconds: a stop would have no time left to \
         drain",
    ),
    (
        "admin.listen = \"127.0.0.1:8080\"",
        "callbridge.toml:1: admin.listen: must not be where callbacks.listen is: an address has one listener",
    ),
    ("embedded_broker = \"no\"", "callbridge.toml:1: embedded_broker: must be true or false"),
    (
        "callbacks.listen = \"localhost\"",
        "callbridge.toml:1: callbacks.listen: must be an IP address and a port, like 0.0.0.0:8080",
    ),
    (
        "callbacks.path = \"callbacks\"",
        "callbridge.toml:1: callbacks.path: must be a URL's path: begins with '/', without query and blanks",
    ),
    (
        "callbacks.senders = [\"203.0.113.0/24\", \"localhost\"]",
        "callbridge.toml:1: callbacks.senders: \"localhost\": not an address or a network, like 203.0.113.7 or \
         2001:db8::/32",
    ),
    (
        "callbacks.proxies = [\"10.0.0.1/8\"]",
        "callbridge.toml:1: callbacks.proxies: \"10.0.0.1/8\": the address has bits behind the prefix",
    ),
    (
        "callbacks.senders = []",
        "callbridge.toml:1: callbacks.senders: must be at least one network, like 203.0.113.0/24",
    ),
    (
        "callbacks.proxy_protocol = true",
        "callbridge.toml:1: callbacks.proxy_protocol: needs callbacks.proxies: from others such a header would be \
         believed by mistake",
    ),
    (
        "callbacks.tls.certificate_file = \"c\"",
        "callbridge.toml:1: callbacks.tls.key_file: is missing: callbacks.tls needs it",
    ),
    (
        "callbacks.tls.key_file = \"c\"",
        "callbridge.toml:1: callbacks.tls.certificate_file: is missing: callbacks.tls needs it",
    ),
    (
        "callbacks.tls.client_ca_file = \"c\"",
        "callbridge.toml:1: callbacks.tls.certificate_file: is missing: callbacks.tls needs it",
    ),
    ("callbacks.sign_window_seconds = 0", "callbridge.toml:1: callbacks.sign_window_seconds: must be from 1 to 86400"),
    (
        "callbacks.deadline_ms = 2000",
        "callbridge.toml:1: callbacks.deadline_ms: must be below 2000: the sender waits 2 seconds, and what it gave up \
         on it may not send again",
    ),
    (
        "callbacks.body_bytes_max = 934465\njournal.segment_bytes = 16777216",
        "callbridge.toml:1: kafka.message.max.bytes: must be at least 65536 above callbacks.body_bytes_max: what cannot \
         be used is kept raw, as one record",
    ),
    (
        "kafka.\"message.max.bytes\" = 327679",
        "callbridge.toml:1: kafka.message.max.bytes: must be at least 65536 above callbacks.body_bytes_max: what cannot \
         be used is kept raw, as one record",
    ),
    ("callbacks.body_bytes_max = 16777217", "callbridge.toml:1: callbacks.body_bytes_max: must be from 1 to 16777216"),
    (
        "queue.captures_max = 281474976710657",
        "callbridge.toml:1: queue.captures_max: must be from 1 to 281474976710656",
    ),
    (
        "callbacks.bodies_bytes_max = 1048575",
        "callbridge.toml:1: callbacks.bodies_bytes_max: must be at least four times callbacks.body_bytes_max: a quarter is \
         for questions alone",
    ),
    (
        "queue.bytes_max = 262143",
        "callbridge.toml:1: queue.bytes_max: must not be below callbacks.body_bytes_max: the longest body would never \
         fit",
    ),
    (
        "topics.retention_ms = 0",
        "callbridge.toml:1: topics.retention_ms: 0 would delete records before anyone reads them",
    ),
    (
        "topics = { replication_factor = 1, min_insync_replicas = 2 }",
        "callbridge.toml:1: topics.min_insync_replicas: must not be above topics.replication_factor: no record could \
         ever be written",
    ),
    ("topics.commands = 3", "callbridge.toml:1: topics.commands: must be a list of commands"),
    ("topics.commands = \"\"", "callbridge.toml:1: topics.commands: must not be empty"),
    (
        "decide.commands = [\"Push.*\"]",
        "callbridge.toml:1: decide.commands: must be one of all, OfficialAccount.*, Sns.*, C2C.*, Group.*, \
         OfficialAccount.CallbackBeforeAddSubscriber, Sns.CallbackPrevFriendAdd, Sns.CallbackPrevFriendResponse, \
         C2C.CallbackBeforeSendMsg, Group.CallbackBeforeApplyJoinGroup, Group.CallbackBeforeInviteJoinGroup, \
         Group.CallbackBeforeSendMsg",
    ),
    ("blocklist.files = \"a.txt\"", "callbridge.toml:1: blocklist.files: must be a list of texts"),
    ("blocklist.files = [\"\"]", "callbridge.toml:1: blocklist.files: must not be empty"),
    ("blocklist.files = [1]", "callbridge.toml:1: blocklist.files: must be text"),
    (
        "log.filter = \"callbridge=loud\"",
        "callbridge.toml:1: log.filter: must be a filter of tracing, like info or callbridge=debug,info",
    ),
    ("kafka.linger.ms = 5.5", "callbridge.toml:1: kafka.linger.ms: must be text"),
    (
        "kafka.linger.ms = 5\nkafka.\"linger.ms\" = 6",
        "callbridge.toml:2: kafka.linger.ms: is given twice, first by callbridge.toml:1",
    ),
    (
        "kafka.no.such.thing = 1",
        "callbridge.toml:1: kafka.no.such.thing: No such configuration property: \"no.such.thing\"",
    ),
    (
        "embedded_broker = true",
        "callbridge.toml:3: kafka.bootstrap.servers: must not be set with embedded_broker: records go to one or the \
         other",
    ),
];

#[test]
fn a_mistake_in_the_file_is_told_with_its_line() {
    for (text, expected) in FAULTY_FILES {
        let file = &format!("{text}\n{LEAST}");
        assert_eq!(Given { file, ..Given::default() }.problems(), [*expected], "{text}");
    }
}

#[test]
fn a_mistake_about_applications_is_told_with_its_line() {
    let servers = "[kafka]\n\"bootstrap.servers\" = \"kafka-1:9092\"";
    for (text, expected) in [
        ("", "apps: is missing: give an [[apps]] with its sdk_app_id, or --sdk-app-id"),
        ("apps = []", "apps: is missing: give an [[apps]] with its sdk_app_id, or --sdk-app-id"),
        ("apps = 3", "callbridge.toml:1: apps: must be tables, each under its own [[apps]]"),
        ("apps = [[1]]", "callbridge.toml:1: apps: must be tables, each under its own [[apps]]"),
        ("apps = [3]", "callbridge.toml:1: apps: must be tables, each under its own [[apps]]"),
        ("apps = { sdk_app_id = 3 }", "callbridge.toml:1: apps: must be tables, each under its own [[apps]]"),
        ("apps = [{ sdk_app_id = 1 }, 3]", "callbridge.toml:1: apps: must be tables, each under its own [[apps]]"),
        ("\n[[apps]]", "callbridge.toml:2: apps[0].sdk_app_id: is missing: every application has one"),
        ("[[apps]]\nsdk_app_id = 0", "callbridge.toml:2: apps[0].sdk_app_id: must be from 1 to 9223372036854775807"),
        (
            "[[apps]]\nsdk_app_id = 1\n[[apps]]\nsdk_app_id = 1",
            "callbridge.toml:4: apps[1].sdk_app_id: application 1 is given twice",
        ),
        (
            "[[apps]]\nsdk_app_id = 1\nsdkappid = 1",
            "callbridge.toml:3: apps[0].sdkappid: no such setting; did you mean apps[0].sdk_app_id?",
        ),
        (
            "[[apps]]\nsdk_app_id = 1\ntopic_prefix = \"a b\"",
            "callbridge.toml:3: apps[0].topic_prefix: must be at most 150 of the characters a-z A-Z 0-9 . _ -",
        ),
        (
            "[[apps]]\nsdk_app_id = 1\ntoken_files = []",
            "callbridge.toml:3: apps[0].token_files: must be at least one file; leave it out where callbacks are not \
             signed",
        ),
        (
            "[[apps]]\nsdk_app_id = 1\nblocklist_files = []",
            "callbridge.toml:3: apps[0].blocklist_files: must be at least one file; leave it out to share the common \
             blocklist",
        ),
        (
            "[[apps]]\nsdk_app_id = 1\nblocklist_topic = \"a b\"",
            "callbridge.toml:3: apps[0].blocklist_topic: must be at most 241 of the characters a-z A-Z 0-9 . _ -",
        ),
        (
            "blocklist.topic = \"tencent-chat.unknown\"\napps = [{ sdk_app_id = 1 }]",
            "callbridge.toml:1: blocklist.topic: must not be a topic of callbacks, and neither may it be with -changes \
             behind it",
        ),
        (
            "blocklist.topic = \"a\"\napps = [{ sdk_app_id = 1, blocklist_topic = \"a-changes\" }]",
            "callbridge.toml:1: blocklist.topic: must not be a: a-changes, another blocklist topic, holds its changes",
        ),
    ] {
        let problems = Given { file: &format!("{text}\n{servers}"), ..Given::default() }.problems();
        assert_eq!(problems, [expected], "{text}");
    }
}

fn unreadable_file(folder: &TempDir) -> Vec<Problem> {
    let flags = with_file(&folder.path().join("callbridge.toml"), &[]);
    config::load(&flags, std::iter::empty()).unwrap_err()
}

#[test]
fn of_a_file_that_cannot_be_read_nothing_is_called_missing() {
    let folder = TempDir::new().unwrap();
    let problems: Vec<String> = lines(&unreadable_file(&folder)).iter().map(|line| without(&folder, line)).collect();
    assert_eq!(problems, ["callbridge.toml: cannot be read: No such file or directory (os error 2)"]);
}

#[test]
fn all_mistakes_of_all_sources_are_told_together() {
    let given = Given {
        file: "drain_seconds = 0\n[admin]\nlisten = 1\nlistn = 2",
        variables: &[("CALLBRIDGE_WORKERS", "many"), ("CALLBRIDGE_LOG_FORMAT", "xml")],
        flags: &[("ack", "never"), ("kafka", "acks=1"), ("kafka", "linger.ms")],
    };
    assert_eq!(
        given.problems(),
        [
            "callbridge.toml:1: drain_seconds: must be from 1 to 3600",
            "callbridge.toml:3: admin.listen: must be an IP address and a port, like 0.0.0.0:8080",
            "callbridge.toml:4: admin.listn: no such setting; did you mean admin.listen?",
            "CALLBRIDGE_LOG_FORMAT: must be one of auto, text, json",
            "CALLBRIDGE_WORKERS: must be a whole number",
            "--kafka: must be NAME=VALUE",
            "--ack: must be one of journal, broker, memory",
            "--kafka acks: must be all: with fewer replicas a record that was acknowledged could be lost with one broker",
            "apps: is missing: give an [[apps]] with its sdk_app_id, or --sdk-app-id",
            "kafka.bootstrap.servers: is missing: give it in [kafka], or --brokers; or try --embedded-broker",
        ]
    );
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let mut given = Given { file: &format!("workers = 1\n{LEAST}"), ..Given::default() };
    assert_eq!(given.config().workers, 1);
    given.variables = &[("CALLBRIDGE_WORKERS", "2")];
    assert_eq!(given.config().workers, 2);
    given.flags = &[("workers", "3")];
    assert_eq!(given.config().workers, 3);
}

#[test]
fn every_setting_and_every_flag_has_its_variable() {
    for name in variables() {
        match (Given { file: LEAST, variables: &[(&name, "x")], ..Given::default() }).load() {
            Ok(config) => assert!(!config.warnings.iter().any(|warning| warning.contains(&name)), "{name}"),
            Err(problems) => assert_eq!(problems[0].origin, Some(Origin::Variable(name.clone())), "{problems:?}"),
        }
    }
}

#[test]
fn the_help_of_each_flag_names_its_setting_its_default_and_its_variable() {
    let command = Flags::augment_args(clap::Command::new("serve"));
    command.clone().debug_assert();
    let help = |flag: &str| {
        let argument = command.get_arguments().find(|argument| argument.get_long() == Some(flag)).unwrap();
        argument.get_help().unwrap().to_string()
    };
    let flags = Flags::default().all();
    assert_eq!(command.get_arguments().count(), flags.len() + 2);
    assert!(help("config").ends_with("[env: CALLBRIDGE_CONFIG]"));
    for flag in flags {
        let help = help(flag.name);
        assert!(help.contains(&format!("[setting: {}]", flag.path)), "{help}");
        let variable = flag.name.to_uppercase().replace('-', "_");
        assert!(help.contains(&format!("[env: CALLBRIDGE_{variable}")), "{help}");
        let default = EXAMPLE.lines().find_map(|line| {
            let key = flag.path.rsplit('.').next().unwrap();
            line.strip_prefix(&format!("{key} = "))
        });
        let default = default.filter(|_| !flag.path.ends_with("listen") && flag.path != "apps[].sdk_app_id");
        if let Some(default) = default {
            assert!(help.contains(&format!("[default: {}]", default.trim_matches('"'))), "{help}");
        }
    }
}

#[test]
fn a_configuration_can_be_made_of_variables_alone() {
    let variables = [
        ("CALLBRIDGE_SDK_APP_ID", "1, 2"),
        ("CALLBRIDGE_TOPIC_PREFIX", "im"),
        ("CALLBRIDGE_TOKEN_FILE", "t"),
        ("CALLBRIDGE_BROKERS", "a:1,b:2"),
        ("CALLBRIDGE_CALLBACKS_LISTEN", "127.0.0.1:0"),
        ("CALLBRIDGE_ADMIN_LISTEN", "127.0.0.1:1"),
        ("CALLBRIDGE_CREATE_TOPICS", "true"),
        ("CALLBRIDGE_BLOCKLIST", "a.txt,b.txt"),
        ("CALLBRIDGE_KAFKA_SASL_PASSWORD", "hidden"),
        ("CALLBRIDGE_CONFIG", ""),
        ("PATH", "/bin"),
    ];
    let variables = variables.into_iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let config = config::load(&Flags::default(), variables).unwrap();
    assert_eq!(config.apps, [app(1, "im", &["t"]), app(2, "im", &["t"])]);
    assert_eq!(config.callbacks.listen.to_string(), "127.0.0.1:0");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:1");
    assert!(config.topics.create);
    assert_eq!(config.blocklist.files, [PathBuf::from("a.txt"), PathBuf::from("b.txt")]);
    let expected = [("bootstrap.servers", "a:1,b:2"), ("sasl.password", "hidden")];
    assert_eq!(config.kafka.properties, properties(&expected));
    assert!(!format!("{config:?}").contains("hidden"));
}

#[test]
fn the_environment_can_name_the_config_file() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("other.toml");
    fs::write(&file, format!("workers = 7\n{LEAST}")).unwrap();
    let variables = [(OsString::from(CONFIG_VARIABLE), file.into_os_string())];
    assert_eq!(config::load(&Flags::default(), variables.into_iter()).unwrap().workers, 7);
}

#[test]
fn a_variable_that_is_empty_counts_as_absent() {
    let given = Given { file: LEAST, variables: &[("CALLBRIDGE_WORKERS", "")], ..Given::default() };
    assert!(given.load().is_ok());
}

#[test]
fn a_setting_that_is_missing_beside_a_variable_or_a_flag_is_named() {
    let variables = &[("CALLBRIDGE_CALLBACKS_TLS_KEY_FILE", "k"), ("CALLBRIDGE_CALLBACKS_BODY_BYTES_MAX", "900000")];
    let flags = &[("admin-listen", "127.0.0.1:8080"), ("listen", "127.0.0.1:8080")];
    let given = Given { file: &format!("queue.bytes_max = 800000\n{LEAST}"), variables, flags };
    assert_eq!(
        given.problems(),
        [
            "callbridge.toml:1: queue.bytes_max: must not be below callbacks.body_bytes_max: the longest body would never fit",
            "CALLBRIDGE_CALLBACKS_TLS_KEY_FILE: callbacks.tls.certificate_file: is missing: callbacks.tls needs it",
            "--admin-listen: must not be where callbacks.listen is: an address has one listener",
        ]
    );
    let given = Given { file: LEAST, variables: &[("CALLBRIDGE_DRAIN_SECONDS", "1")], ..Given::default() };
    let why = "must be below drain_seconds: a stop would have no time left to drain";
    assert_eq!(given.problems(), [format!("CALLBRIDGE_DRAIN_SECONDS: callbacks.keep_accepting_ms: {why}")]);
}

#[test]
fn a_setting_given_by_both_its_variables_is_a_mistake() {
    let variables = &[("CALLBRIDGE_LISTEN", "0.0.0.0:1"), ("CALLBRIDGE_CALLBACKS_LISTEN", "0.0.0.0:2")];
    let given = Given { file: LEAST, variables, ..Given::default() };
    assert_eq!(given.problems(), ["CALLBRIDGE_LISTEN: is given twice, first by CALLBRIDGE_CALLBACKS_LISTEN"]);
}

#[test]
fn a_value_that_is_not_unicode_is_a_mistake() {
    let load = |name: &str| {
        let least = [("CALLBRIDGE_SDK_APP_ID", "1"), ("CALLBRIDGE_BROKERS", "a:1")];
        let least = least.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let broken = (OsString::from(name), OsString::from_vec(vec![0xff]));
        config::load(&Flags::default(), least.into_iter().chain([broken]))
    };
    for name in ["CALLBRIDGE_ACK", "CALLBRIDGE_WORKERS", "CALLBRIDGE_BLOCKLIST", "CALLBRIDGE_KAFKA_SASL_PASSWORD"] {
        assert_eq!(lines(&load(name).unwrap_err()), [format!("{name}: must be UTF-8")]);
    }
    assert_eq!(load("CALLBRIDGE_NONSENSE").unwrap().warnings[0], "CALLBRIDGE_NONSENSE: no such setting");
}

#[test]
fn a_misnamed_variable_is_a_warning() {
    let variables = &[
        ("CALLBRIDGE_ADMIN_LISTN", "0.0.0.0:1"),
        ("CALLBRIDGE_LISTENN", "0.0.0.0:1"),
        ("CALLBRIDGE_DRAIN_SECOND", "1"),
        ("CALLBRIDGE_NONSENSE", "1"),
        ("CALLBRIDGE_CALLBACKS", "1"),
        ("CALLBRIDGE_KAFKA_", "1"),
        ("CALLBRIDGE_workers", "1"),
        ("CALLBRIDGE_CALLBACKS.LISTEN", "1"),
        ("CALLBRIDGE_ADMIN-LISTEN", "1"),
        ("CALLBRIDGE_CALLBACKS_TLS", "1"),
        ("CALLBRIDGE_APPS_SDK_APP_ID", "1"),
    ];
    let warnings = Given { file: LEAST, variables, ..Given::default() }.config().warnings;
    let unknown: BTreeSet<&str> =
        warnings.iter().filter(|line| line.contains("no such setting")).map(String::as_str).collect();
    let expected = [
        "CALLBRIDGE_ADMIN-LISTEN: no such setting",
        "CALLBRIDGE_CALLBACKS.LISTEN: no such setting",
        "CALLBRIDGE_CALLBACKS_TLS: no such setting",
        "CALLBRIDGE_workers: no such setting",
        "CALLBRIDGE_ADMIN_LISTN: no such setting; did you mean CALLBRIDGE_ADMIN_LISTEN?",
        "CALLBRIDGE_APPS_SDK_APP_ID: no such setting",
        "CALLBRIDGE_CALLBACKS: no such setting",
        "CALLBRIDGE_DRAIN_SECOND: no such setting; did you mean CALLBRIDGE_DRAIN_SECONDS?",
        "CALLBRIDGE_KAFKA_: no such setting",
        "CALLBRIDGE_LISTENN: no such setting; did you mean CALLBRIDGE_LISTEN?",
        "CALLBRIDGE_NONSENSE: no such setting",
    ];
    assert_eq!(unknown, BTreeSet::from(expected));
}

#[test]
fn service_variables_of_kubernetes_give_no_warning() {
    let least = Given { file: LEAST, ..Given::default() }.config();
    for service in ["CALLBRIDGE", "CALLBRIDGE_KAFKA", "CALLBRIDGE_ADMIN", "CALLBRIDGE_CALLBACKS_2", "CALLBRIDGE_LISTEN"]
    {
        for (suffix, value) in [
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_PORT", "8080"),
            ("SERVICE_PORT_CALLBACKS", "8080"),
            ("SERVICE_PORT_METRICS_TLS", "9464"),
            ("PORT", "tcp://10.0.0.1:8080"),
            ("PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("PORT_8080_TCP_PROTO", "tcp"),
            ("PORT_8080_TCP_PORT", "8080"),
            ("PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("PORT_53_UDP", "udp://10.0.0.1:53"),
        ] {
            let name = format!("{service}_{suffix}");
            let config = Given { file: LEAST, variables: &[(&name, value)], ..Given::default() }.config();
            assert_eq!(format!("{config:?}"), format!("{least:?}"), "{name}");
        }
    }
}

#[test]
fn a_secret_on_the_command_line_is_warned_of_and_not_repeated() {
    for name in [
        "sasl.password",
        "ssl.key.password",
        "ssl.keystore.password",
        "ssl.key.pem",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.client.credentials.client.secret",
        "sasl.oauthbearer.assertion.private.key.pem",
        "sasl.oauthbearer.assertion.private.key.passphrase",
    ] {
        let pair = format!("{name}=hidden");
        let mut layers = Layers::default();
        layers.flags(&flags(&[("kafka", &pair)]));
        let warning = "a secret on a command line can be read by every user of the machine";
        assert_eq!(layers.warnings, [format!("--kafka {name}: {warning}")]);
    }
    assert!(!format!("{:?}", flags(&[("kafka", "sasl.password=hidden")])).contains("hidden"));
}

#[test]
fn rejects_bootstrap_servers_that_are_no_addresses() {
    let told = |servers: &str, protocol: &str| {
        let flags = &[("brokers", servers), ("kafka", &format!("security.protocol={protocol}"))];
        let load = Given { file: LEAST, flags, ..Given::default() }.load();
        load.map(|config| config.kafka.properties["bootstrap.servers"].clone()).map_err(|problems| lines(&problems))
    };
    assert_eq!(
        told("kafka-1:9092,127.0.0.1:99999, http://kafka:9092 ,,me:secret@kafka:1", "plaintext").unwrap_err(),
        [
            "--brokers: \"127.0.0.1:99999\": the port must be a number from 1 to 65535",
            "--brokers: \"http://kafka:9092\": expected HOST:PORT; the only prefixes are plaintext://, ssl://, \
             sasl_plaintext:// and sasl_ssl://",
            "--brokers: \"\": is empty; expected HOST:PORT, with commas between",
            "--brokers: \"...@kafka:1\": the host must be a name or an IP address; addresses are separated by commas",
        ]
    );
    assert_eq!(
        told("SSL://kafka:9093", "plaintext").unwrap_err(),
        [
            "--brokers: \"SSL://kafka:9093\": its protocol is not that of security.protocol, so the client would ignore it"
        ]
    );
    assert_eq!(told("SSL://kafka:9093", "Ssl").unwrap(), "SSL://kafka:9093");
    assert_eq!(told(" a:1 ,\tb\n, [::1]:3", "ssl").unwrap(), "a:1,b,[::1]:3");
}

#[test]
fn warns_of_what_is_open_to_strangers_and_of_nothing_else() {
    let warnings = |flags: &[(&'static str, &str)]| {
        let closed = [("sdk-app-id", "1"), ("token-file", "t"), ("admin-listen", "127.0.0.1:0")];
        let flags = &[&closed[..], flags].concat();
        Given { flags, ..Given::default() }.config().warnings
    };
    for closed in [
        &[("brokers", "localhost:9092,127.0.0.1:1,[::1]:2")][..],
        &[("brokers", "kafka:9093"), ("kafka", "security.protocol=SSL")],
        &[
            ("brokers", "kafka:9093"),
            ("kafka", "security.protocol=sasl_ssl"),
            ("kafka", "ssl.endpoint.identification.algorithm=https"),
        ],
        &[("embedded-broker", "")],
    ] {
        assert_eq!(warnings(closed), [""; 0], "{closed:?}");
    }
    for (open, expected) in [
        (
            &[("brokers", "127.0.0.1:1,kafka:9092")][..],
            "kafka.security.protocol: plaintext to kafka:9092: what is sent can be read on the way; use ssl or sasl_ssl",
        ),
        (
            &[("brokers", "10.0.0.1"), ("kafka", "security.protocol=SASL_PLAINTEXT")],
            "kafka.security.protocol: sasl_plaintext to 10.0.0.1: what is sent can be read on the way; use ssl or sasl_ssl",
        ),
        (
            &[("brokers", "a"), ("kafka", "security.protocol=ssl"), ("kafka", "enable.ssl.certificate.verification=F")],
            "kafka.enable.ssl.certificate.verification is false: whoever is on the way can pass for a broker",
        ),
        (
            &[
                ("brokers", "a"),
                ("kafka", "security.protocol=ssl"),
                ("kafka", "ssl.endpoint.identification.algorithm=None"),
            ],
            "kafka.ssl.endpoint.identification.algorithm is none: whoever is on the way can pass for a broker",
        ),
    ] {
        assert_eq!(warnings(open), [expected], "{open:?}");
    }
}

#[test]
fn an_admin_listener_on_any_address_but_loopback_is_a_warning() {
    for (listen, is_reachable) in
        [("0.0.0.0:1", true), ("[::]:1", true), ("10.0.0.1:1", true), ("127.0.0.2:1", false), ("[::1]:1", false)]
    {
        let given = Given { file: LEAST, flags: &[("admin-listen", listen)], ..Given::default() };
        let has_warning = given.config().warnings.iter().any(|warning| warning.starts_with("admin.listen: "));
        assert_eq!(has_warning, is_reachable, "{listen}");
    }
}

#[test]
fn an_empty_variable_of_a_security_setting_is_a_mistake_and_of_others_is_not() {
    let refused: Vec<String> = variables()
        .into_iter()
        .filter(|name| Given { file: LEAST, variables: &[(name, "")], ..Given::default() }.load().is_err())
        .collect();
    assert_eq!(
        refused,
        [
            "CALLBRIDGE_CALLBACKS_PATH",
            "CALLBRIDGE_CALLBACKS_SENDERS",
            "CALLBRIDGE_CALLBACKS_TLS_CERTIFICATE_FILE",
            "CALLBRIDGE_CALLBACKS_TLS_CLIENT_CA_FILE",
            "CALLBRIDGE_CALLBACKS_TLS_KEY_FILE",
            "CALLBRIDGE_TOKEN_FILE",
        ]
    );
    let variables = &[("CALLBRIDGE_TOKEN_FILE", ""), ("CALLBRIDGE_CALLBACKS_SENDERS", "")];
    let why = "is empty: give it a value, or unset it to do without that check of who sends";
    assert_eq!(
        Given { file: LEAST, variables, ..Given::default() }.problems(),
        variables.map(|(name, _)| format!("{name}: {why}")).iter().rev().cloned().collect::<Vec<_>>()
    );
}

#[test]
fn kafka_properties_are_taken_quoted_and_as_dotted_keys() {
    let text = "[kafka]\nbootstrap.servers = \"a:1\"\n\"linger.ms\" = 0x5\nsocket.keepalive.enable = true\n\
                [[apps]]\nsdk_app_id = 1";
    let config = Given { file: text, ..Given::default() }.config();
    let expected = [("bootstrap.servers", "a:1"), ("linger.ms", "5"), ("socket.keepalive.enable", "true")];
    assert_eq!(config.kafka.properties, properties(&expected));
}

#[test]
fn kafka_properties_that_break_a_promise_are_refused() {
    for (property, refused, taken) in [
        ("acks", &["0", "1", "2"][..], &["all", "-1", "ALL"][..]),
        ("request.required.acks", &["1"], &["all"]),
        ("delivery.report.only.error", &["true", "t", "1"], &["false"]),
        ("enable.idempotence", &["false", "f", "0"], &["true"]),
        ("enable.gapless.guarantee", &["false"], &["true"]),
        ("transactional.id", &["t"], &[]),
        ("metadata.broker.list", &["a:1"], &[]),
        ("test.mock.num.brokers", &["3"], &[]),
        ("statistics.interval.ms", &["0", "60000"], &["500", "5000"]),
        ("topic.metadata.propagation.max.ms", &["2147484", "3600000"], &["2147483", "0"]),
    ] {
        let load = |value: &str| {
            let pair = format!("{property}={value}");
            Given { file: LEAST, flags: &[("kafka", &pair)], ..Given::default() }.load()
        };
        for value in refused {
            let problems = load(value).expect_err(property);
            assert_eq!(problems[0].origin, Some(Origin::Flag(format!("kafka {property}"))), "{property}={value}");
        }
        for value in taken {
            assert_eq!(load(value).unwrap().kafka.properties[property], *value);
        }
    }
}

#[test]
fn an_embedded_broker_needs_no_other() {
    let given = Given { flags: &[("sdk-app-id", "1"), ("embedded-broker", "")], ..Given::default() };
    let config = given.config();
    assert!(config.embedded_broker);
    assert!(config.kafka.properties.is_empty());
}

#[test]
fn a_value_of_the_wrong_type_is_not_repeated_as_it_may_be_a_secret() {
    for text in [
        "apps = [{ sdk_app_id = 1, token_files = \"hidden\" }]",
        "apps = [{ sdk_app_id = 1, token_files = [[\"hidden\"]] }]",
        "apps = [\"hidden\"]",
        "callbacks.path = \"hidden\"",
        "callbacks.path = [\"hidden, expected `hidden\"]",
        "callbacks = \"hidden\"",
        "ack = \"hidden`, expected hidden\"",
        "kafka.\"sasl.password\" = [\"hidden\"]",
        "kafka = \"hidden\"",
    ] {
        let problems = Given { file: text, ..Given::default() }.problems();
        assert!(!problems.concat().contains("hidden"), "{problems:?}");
    }
}

#[test]
fn applications_of_flags_replace_those_of_the_file() {
    let text = "[[apps]]\nsdk_app_id = 1\ntopic_prefix = \"own\"\n[[apps]]\nsdk_app_id = 2\n\
                [kafka]\n\"bootstrap.servers\" = \"a:1\"";
    let apps = |flags: &[(&'static str, &'static str)]| Given { file: text, flags, ..Given::default() }.config().apps;

    assert_eq!(apps(&[("topic-prefix", "default")]), [app(1, "own", &[]), app(2, "default", &[])]);

    let flags = &[("topic-prefix", "default"), ("sdk-app-id", "3"), ("sdk-app-id", "4")];
    assert_eq!(apps(flags), [app(3, "default", &[]), app(4, "default", &[])]);

    let flags = &[("sdk-app-id", "3"), ("sdk-app-id", "3"), ("sdk-app-id", "x")];
    let problems = Given { file: text, flags, ..Given::default() }.problems();
    assert_eq!(
        problems,
        ["--sdk-app-id: application 3 is given twice", "--sdk-app-id: must be a whole number above 0"]
    );
}

#[test]
fn token_files_of_flags_are_for_applications_that_have_none_of_their_own() {
    let text = "[[apps]]\nsdk_app_id = 1\ntoken_files = [\"/own\", \"/old\"]\n[[apps]]\nsdk_app_id = 2\n\
                [kafka]\n\"bootstrap.servers\" = \"a:1\"";
    let apps = |flags: &[(&'static str, &'static str)]| Given { file: text, flags, ..Given::default() }.config().apps;
    let prefix = "tencent-chat";
    assert_eq!(apps(&[]), [app(1, prefix, &["/own", "/old"]), app(2, prefix, &[])]);
    let tokens = ("token-file", "t");
    assert_eq!(apps(&[tokens, ("token-file", "u")]), [app(1, prefix, &["/own", "/old"]), app(2, prefix, &["t", "u"])]);
    assert_eq!(apps(&[tokens, ("sdk-app-id", "3"), ("sdk-app-id", "4")]), [3, 4].map(|id| app(id, prefix, &["t"])));
}

fn app(sdk_app_id: u64, prefix: &str, token_files: &[&str]) -> App {
    let token_files = token_files.iter().map(PathBuf::from).collect();
    App { sdk_app_id, topic_prefix: prefix.to_owned(), token_files, ..App::default() }
}

#[test]
fn more_than_ten_applications_keep_their_order() {
    let apps: String = (1..=12).map(|id| format!("[[apps]]\nsdk_app_id = {id}\n")).collect();
    let flags = &[("brokers", "a:1")];
    let config = Given { file: &apps, flags, ..Given::default() }.config();
    assert!(config.apps.iter().map(|app| app.sdk_app_id).eq(1..=12));
}

#[test]
fn paths_of_the_file_are_relative_to_it_and_those_of_flags_are_not() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("callbridge.toml");
    let text = format!("blocklist.files = [\"a.txt\", \"/b.txt\"]\njournal.dir = \"data\"\n{LEAST}");
    fs::write(&file, text).unwrap();
    let load = |given: &[(&str, &str)]| config::load(&with_file(&file, given), std::iter::empty()).unwrap();

    let of_file = load(&[]);
    assert_eq!(of_file.blocklist.files, [folder.path().join("a.txt"), PathBuf::from("/b.txt")]);
    assert_eq!(of_file.journal.dir, folder.path().join("data"));

    let of_flags = load(&[("blocklist", "a.txt"), ("data-dir", "data")]);
    assert_eq!(of_flags.blocklist.files, [PathBuf::from("a.txt")]);
    assert_eq!(of_flags.journal.dir, PathBuf::from("data"));
}

#[test]
fn only_mistakes_of_flags_alone_are_of_usage() {
    let is_of_usage = |given: Given<'_>| given.load().unwrap_err().iter().all(Problem::is_of_usage);
    assert!(is_of_usage(Given { file: LEAST, flags: &[("ack", "x"), ("workers", "x")], ..Given::default() }));
    assert!(!is_of_usage(Given { flags: &[("ack", "x")], ..Given::default() }));
    assert!(!is_of_usage(Given { file: LEAST, variables: &[("CALLBRIDGE_ACK", "x")], ..Given::default() }));
}

proptest! {
    #[test]
    fn no_file_makes_it_panic(text in "[a-z\\[\\]{}=.,\"'\\-0-9 \n]{0,80}", value in any::<i64>()) {
        for text in [text.clone(), format!("{text}\n{LEAST}"), format!("callbacks.{text} = {value}")] {
            let _ = Given { file: &text, ..Given::default() }.load();
        }
    }
}
