//! Tests of the defaults and of the example file, and helpers for the other tests of the configuration.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::FromArgMatches;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::command::Command;
use crate::command::CommandSet;
use crate::config;
use crate::config::AdminSettings;
use crate::config::App;
use crate::config::BlocklistSettings;
use crate::config::Callbacks;
use crate::config::Config;
use crate::config::Decide;
use crate::config::EnvelopeSettings;
use crate::config::LogFormat;
use crate::config::LogSettings;
use crate::config::PublishSettings;
use crate::config::TopicSettings;
use crate::config::flags::Flags;
use crate::config::problem::Problem;
use crate::decide::AllRefused;
use crate::decide::BeforeLoaded;
use crate::follow::tls::TlsPaths;
use crate::journal::Ack;
use crate::journal::Bounds;
use crate::journal::durable;
use crate::journal::log::OnCorruption;
use crate::normalise::envelope::Mode;

pub(super) const EXAMPLE: &str = include_str!("../../deploy/callbridge.example.toml");

/// The smallest configuration.
pub(super) const LEAST: &str = "apps = [{ sdk_app_id = 1400000000 }]\nkafka.\"bootstrap.servers\" = \"kafka-1:9092\"\n";

/// The given values of a test.
#[derive(Default)]
pub(super) struct Given<'g> {
    pub(super) file: &'g str,
    pub(super) variables: &'g [(&'g str, &'g str)],
    pub(super) flags: &'g [(&'static str, &'g str)],
}

impl Given<'_> {
    pub(super) fn load(&self) -> Result<Config, Vec<Problem>> {
        self.load_in(&TempDir::new().unwrap())
    }

    pub(super) fn load_in(&self, folder: &TempDir) -> Result<Config, Vec<Problem>> {
        let file = folder.path().join("callbridge.toml");
        fs::write(&file, self.file).unwrap();
        let variables = self.variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        config::load(&with_file(&file, self.flags), variables)
    }

    pub(super) fn config(&self) -> Config {
        self.load().unwrap_or_else(|problems| panic!("{:?}", lines(&problems)))
    }

    /// The problems, one a line, without the folder of the file.
    pub(super) fn problems(&self) -> Vec<String> {
        let folder = TempDir::new().unwrap();
        let problems = self.load_in(&folder).expect_err("a mistake");
        lines(&problems).iter().map(|line| without(&folder, line)).collect()
    }
}

pub(super) fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(Problem::to_string).collect()
}

pub(super) fn without(folder: &TempDir, line: &str) -> String {
    line.replace(&format!("{}/", folder.path().display()), "")
}

pub(super) fn with_file(file: &Path, given: &[(&str, &str)]) -> Flags {
    flags(&[&[("config", file.to_str().unwrap())], given].concat())
}

/// The flags. A switch has no value.
pub(super) fn flags(given: &[(&str, &str)]) -> Flags {
    let words = given.iter().flat_map(|(name, value)| [format!("--{name}"), (*value).to_owned()]);
    let words = words.filter(|word| !word.is_empty());
    let matches = Flags::augment_args(clap::Command::new("serve")).no_binary_name(true).get_matches_from(words);
    Flags::from_arg_matches(&matches).unwrap()
}

pub(super) fn app(sdk_app_id: u64, prefix: &str, token_files: &[&str]) -> App {
    let token_files = token_files.iter().map(PathBuf::from).collect();
    App { sdk_app_id, topic_prefix: prefix.to_owned(), token_files, ..App::default() }
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
        "application 1400000000: its callbacks are accepted unsigned",
        "kafka.security.protocol: plaintext to kafka-1:9092",
    ];
    assert_eq!(config.warnings.len(), warnings.len());
    assert!(config.warnings.iter().zip(warnings).all(|(warning, begin)| warning.starts_with(begin)));
}

pub(super) fn properties(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
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
        within::<LogSettings>("log."),
    ]
    .concat();
    let is_section = |path: &str| {
        sections.iter().any(|other| other.strip_prefix(path).is_some_and(|rest| rest.starts_with(['.', '['])))
    };
    let all = within::<Config>("").into_iter().chain(sections.clone());
    all.filter(|path| !is_section(path) && path != "apps[]").collect()
}

/// The variable of every setting that has one for its path, and of every flag.
pub(super) fn variables() -> Vec<String> {
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

#[test]
fn a_common_blocklist_that_decides_for_no_application_is_a_warning() {
    let unused = |apps: &'static str| {
        let file = format!(
            "blocklist = {{ topic = \"list\", files = [\"list.txt\"] }}\nkafka.\"bootstrap.servers\" = \"a\"\n{apps}"
        );
        let warnings = Given { file: &file, ..Given::default() }.config().warnings;
        warnings.into_iter().filter(|warning| warning.starts_with("blocklist.")).collect::<Vec<_>>()
    };
    let own = "[[apps]]\nsdk_app_id = 1\nblocklist_topic = \"own\"\n[[apps]]\nsdk_app_id = 2\nblocklist_files = [\"own.txt\"]";
    let why = "no application uses it: each has a blocklist of its own";
    assert_eq!(unused(own), [format!("blocklist.topic: {why}"), format!("blocklist.files: {why}")]);
    assert_eq!(unused("[[apps]]\nsdk_app_id = 1\nblocklist_topic = \"own\"\n[[apps]]\nsdk_app_id = 2"), [""; 0]);
}
