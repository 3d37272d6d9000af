//! Where a command reads and writes the blocklist: its topic, its files, or a bridge's admin API.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::admin::api;
use crate::admin::api::BlocklistApi;
use crate::admin::api::PageQuery;
use crate::admin::changes;
use crate::admin::error::ApiError;
use crate::admin::model::ChangeLine;
use crate::admin::model::ChangedRules;
use crate::admin::model::LookupAnswer;
use crate::admin::model::RuleView;
use crate::blocklist::snapshot;
use crate::blocklist::topic::WriteRequest;
use crate::blocklist::writer::KnownTopic;
use crate::blocklist::writer::TopicWriter;
use crate::config;
use crate::config::App;
use crate::config::flags::Flags;
use crate::decide::Policy;
use crate::decide::blocklist::Blocklist;
use crate::decide::blocklist::Source;
use crate::decide::blocklist::SourceKind;
use crate::decide::rules::Rules;
use crate::decide::rules::gathered::Gathered;
use crate::decide::topic::key::TopicIdentity;

use super::CliError;
use super::admin::AdminClient;
use super::files;

/// The timeout while the topic is read: the longest time without data from Kafka.
const SILENT: Duration = Duration::from_secs(15);

/// Selects the blocklist of a command.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct TargetArgs {
    /// The config file of the bridges, for its sections kafka, blocklist and decide [env: CALLBRIDGE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Kafka brokers, in place of a config file
    #[arg(long, value_name = "HOST:PORT,...", requires = "topic", conflicts_with = "config")]
    brokers: Option<String>,
    /// The blocklist's topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// The application whose blocklist it is, by its SdkAppid [default: the common one]
    #[arg(long, value_name = "SDKAPPID", conflicts_with_all = ["brokers", "topic"])]
    app: Option<String>,
    /// A property of librdkafka, with --brokers; may be repeated. Passwords belong into a config file
    #[arg(long, value_name = "NAME=VALUE", requires = "brokers")]
    kafka: Vec<String>,
    /// The admin listener of a bridge, as http://127.0.0.1:9464, in place of Kafka
    #[arg(long, value_name = "URL", conflicts_with_all = ["config", "brokers", "topic"])]
    admin: Option<String>,
    /// The file with the token for it: one line, `token` or `name:token`
    #[arg(long, value_name = "FILE", requires = "admin")]
    token_file: Option<PathBuf>,
}

/// An open blocklist.
pub(super) enum Target {
    /// The topic, read and written as by a bridge.
    Kafka(KafkaTarget),
    /// Files without a topic: read-only.
    Files(FilesTarget),
    /// The admin API of a bridge.
    Admin(AdminClient),
}

/// The files of a list that has no topic.
pub(super) struct FilesTarget {
    files: Vec<PathBuf>,
    policy: Policy,
}

/// The settings of the bridges that a command uses.
#[derive(Default)]
struct ListSettings {
    properties: BTreeMap<String, String>,
    /// Why the list of `--app` is read-only: other applications share it.
    shared: Option<String>,
    topic: Option<String>,
    /// The files of the list.
    files: Vec<PathBuf>,
    policy: Policy,
}

/// The topic, as it was read when the command began.
pub(super) struct KafkaTarget {
    properties: BTreeMap<String, String>,
    shared: Option<String>,
    topic: Arc<str>,
    files: Vec<PathBuf>,
    policy: Policy,
    rules: Arc<Rules>,
    identity: Option<TopicIdentity>,
    generation: u64,
    writer: TopicWriter,
    who: Box<str>,
}

impl Target {
    /// Opens it; a topic is read to its end.
    pub(super) fn open(args: &TargetArgs) -> Result<Self, CliError> {
        if let Some(url) = &args.admin {
            return AdminClient::new(url, args.token_file.as_deref(), args.app.clone()).map(Self::Admin);
        }
        let settings = match &args.brokers {
            Some(brokers) => ListSettings {
                properties: given_properties(brokers, &args.kafka)?,
                topic: args.topic.clone(),
                ..ListSettings::default()
            },
            None => configured(args)?,
        };
        if settings.topic.is_none() && !settings.files.is_empty() {
            return Ok(Self::Files(FilesTarget { files: settings.files, policy: settings.policy }));
        }
        KafkaTarget::open(settings).map(Self::Kafka)
    }

    /// Makes changes, and waits until they are applied.
    pub(super) fn change(&mut self, changes: &[ChangeLine]) -> Result<ChangedRules, CliError> {
        match self {
            Self::Kafka(kafka) => kafka.change(changes, "cli"),
            Self::Files(files) => Err(files.read_only()),
            Self::Admin(admin) => admin.change(changes),
        }
    }

    /// Makes the changes of the import `name`, and waits until Kafka has acknowledged them.
    pub(super) fn import(&mut self, changes: &[ChangeLine], name: &str) -> Result<ChangedRules, CliError> {
        match self {
            Self::Kafka(kafka) => kafka.change(changes, &format!("import:{name}")),
            Self::Files(files) => Err(files.read_only()),
            Self::Admin(admin) => admin.import(changes, name),
        }
    }

    /// The decision on a user.
    pub(super) fn lookup(&self, user: &str, account: Option<&str>) -> Result<LookupAnswer, CliError> {
        match self {
            Self::Kafka(kafka) => Ok(kafka.in_force()?.lookup(user, account)),
            Self::Files(files) => Ok(files.in_force()?.lookup(user, account)),
            Self::Admin(admin) => admin.lookup(user, account),
        }
    }

    /// The first page of `query`, and whether there are more.
    pub(super) fn list(&self, query: PageQuery) -> Result<(Vec<RuleView>, bool), CliError> {
        let list = match self {
            Self::Kafka(kafka) => kafka.in_force()?,
            Self::Files(files) => files.in_force()?,
            Self::Admin(admin) => return admin.list(query),
        };
        let page = list.page(&query);
        Ok((page.rules, page.next.is_some()))
    }

    /// The rules of the topic, or without one those of the files.
    pub(super) fn rules(&self) -> Result<Arc<Rules>, CliError> {
        match self {
            Self::Kafka(kafka) => Ok(Arc::clone(&kafka.rules)),
            Self::Files(files) => files.rules().map(Arc::new),
            Self::Admin(admin) => admin.rules().map(Arc::new),
        }
    }
}

impl FilesTarget {
    fn in_force(&self) -> Result<BlocklistApi, CliError> {
        Ok(BlocklistApi::read_only(Blocklist::of(sources(&self.files)?, 0), self.policy))
    }

    fn rules(&self) -> Result<Rules, CliError> {
        let mut gathered = Gathered::default();
        for source in sources(&self.files)? {
            for (rule, value) in source.rules().iter() {
                gathered.put(&rule, value.until, value.provenance.because.as_deref());
            }
        }
        Ok(gathered.finish())
    }

    fn read_only(&self) -> CliError {
        let files: Vec<String> = self.files.iter().map(|file| file.display().to_string()).collect();
        CliError::Usage(format!(
            "the blocklist consists of files, which this command does not change: edit {}, or set blocklist.topic, or blocklist_topic of the application",
            files.join(", ")
        ))
    }
}

/// The rules of each file, read now.
fn sources(files: &[PathBuf]) -> Result<Vec<Source>, CliError> {
    let of_file = |file: &PathBuf| {
        let rules = Arc::new(files::read(file)?);
        Ok(Source::new(SourceKind::File, &file.display().to_string(), rules))
    };
    files.iter().map(of_file).collect()
}

impl KafkaTarget {
    fn open(settings: ListSettings) -> Result<Self, CliError> {
        let ListSettings { properties, shared, topic, files, policy } = settings;
        let no_topic = || {
            CliError::Usage(
                "no topic, and no files: set blocklist.topic or give --topic, or ask a bridge with --admin URL"
                    .to_owned(),
            )
        };
        let topic: Arc<str> = topic.ok_or_else(no_topic)?.into();
        let mut target = Self {
            files,
            policy,
            rules: Arc::default(),
            identity: None,
            generation: 0,
            writer: TopicWriter::new(Arc::clone(&topic), properties.clone()),
            who: who(),
            properties,
            shared,
            topic,
        };
        target.read()?;
        Ok(target)
    }

    fn read(&mut self) -> Result<(), CliError> {
        let following = snapshot::read_topic(&self.properties, &self.topic, SILENT)
            .map_err(|why| CliError::Target(format!("topic {}: {why}", self.topic)))?;
        self.rules = Arc::clone(following.rules());
        self.identity = following.position().declared.first().copied();
        self.generation = following.position().next;
        Ok(())
    }

    /// The list that a bridge with these settings has: the files, read now, and the topic.
    fn in_force(&self) -> Result<BlocklistApi, CliError> {
        let topic = Source::new(SourceKind::Topic, &self.topic, Arc::clone(&self.rules));
        let list = Blocklist::of(sources(&self.files)?.into_iter().chain([topic]), self.generation);
        Ok(BlocklistApi::read_only(list, self.policy))
    }

    fn change(&mut self, changes: &[ChangeLine], source: &str) -> Result<ChangedRules, CliError> {
        if let Some(why) = &self.shared {
            return Err(CliError::Usage(why.clone()));
        }
        let told = |error: ApiError| CliError::Target(error.details().detail);
        let lines = changes::numbered(changes).map_err(told)?;
        let mut changed = api::effects_of(&lines, &self.rules, self.generation, &self.topic);
        let request = WriteRequest {
            who: self.who.clone(),
            source: source.into(),
            request: None,
            changes: lines.into_iter().map(|numbered| numbered.change).collect(),
        };
        let known = KnownTopic { rules: &self.rules, identity: self.identity, generation: self.generation };
        let written = self.writer.write(&request, known).map_err(|error| told(error.into()))?;
        changed.generation = written.iter().map(|written| written.generation).max().unwrap_or(self.generation);
        if self.identity.is_none() {
            // The writer has declared one: later changes must carry it.
            self.read()?;
        }
        Ok(changed)
    }
}

fn given_properties(brokers: &str, given: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let mut properties = BTreeMap::from([("bootstrap.servers".to_owned(), brokers.to_owned())]);
    for pair in given {
        let (name, value) =
            pair.split_once('=').ok_or_else(|| CliError::Usage(format!("--kafka {pair}: must be NAME=VALUE")))?;
        properties.insert(name.to_owned(), value.to_owned());
    }
    Ok(properties)
}

/// The settings of the common list; with `--app` of the list that decides for this application, with `--topic` of the list with this topic.
fn configured(args: &TargetArgs) -> Result<ListSettings, CliError> {
    let mut flags = Flags::default();
    flags.config.clone_from(&args.config);
    let is_configured = || env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with("CALLBRIDGE_"));
    if flags.config.is_none() && !is_configured() {
        let why = "no blocklist is named: give --config FILE, --brokers HOST:PORT with --topic NAME, or --admin URL";
        return Err(CliError::Usage(why.to_owned()));
    }
    let config = config::load(&flags, env::vars_os()).map_err(CliError::Config)?;
    let policy = config.decide.policy();
    let common = (config.blocklist.topic, config.blocklist.files);
    let of_app = |app: App| {
        let own = (app.blocklist_topic, app.blocklist_files);
        (app.sdk_app_id.to_string(), if own == (None, Vec::new()) { common.clone() } else { own })
    };
    let mut lists: Vec<_> = config.apps.into_iter().map(of_app).collect();
    let mut shared = None;
    let (topic, files) = match (&args.app, &args.topic) {
        (Some(app), _) => {
            let found = lists.iter().position(|(id, _)| id == app);
            let found =
                found.ok_or_else(|| CliError::Usage(format!("--app {app}: no such application is configured")))?;
            let (_, list) = lists.remove(found);
            let others: Vec<_> =
                lists.into_iter().filter(|(_, (topic, _))| *topic == list.0).map(|(id, _)| id).collect();
            shared = why_shared(app, list.0.as_deref(), list.0 == common.0, &others);
            list
        }
        (None, Some(topic)) if common.0.as_ref() != Some(topic) => {
            let own = lists.into_iter().find(|(_, (own, _))| own.as_ref() == Some(topic));
            (Some(topic.clone()), own.map(|(_, (_, files))| files).unwrap_or_default())
        }
        (None, _) => common,
    };
    if config.embedded_broker && topic.is_some() {
        let why =
            "the broker is embedded: give the address it has printed with --brokers, or ask the bridge with --admin";
        return Err(CliError::Usage(why.to_owned()));
    }
    Ok(ListSettings { properties: config.kafka.properties, shared, topic, files, policy })
}

/// Why a change for `app` must not be written to `topic`: it would also change the list of `others`, or the common one.
fn why_shared(app: &str, topic: Option<&str>, is_common: bool, others: &[String]) -> Option<String> {
    let with = if others.is_empty() { String::new() } else { format!(" with {}", others.join(", ")) };
    let topic = topic.unwrap_or_default();
    if is_common {
        let how = "leave out --app to change that for all who share it";
        return Some(format!("--app {app}: the application shares the common blocklist or its topic{with}: {how}"));
    }
    let how = format!("give --topic {topic} in place of --app to change it for all who share it");
    (!others.is_empty()).then(|| format!("--app {app}: the application shares the topic {topic}{with}: {how}"))
}

/// The name of the user who runs the command.
fn who() -> Box<str> {
    let named =
        ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| env::var(name).ok().filter(|it| !it.is_empty()));
    named.unwrap_or_else(|| format!("uid:{}", rustix::process::getuid().as_raw())).into()
}
