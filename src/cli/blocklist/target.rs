//! Where the blocklist is that a command reads and writes: its topic, or a bridge's admin API.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::admin::api;
use crate::admin::api::BlocklistApi;
use crate::admin::api::PageQuery;
use crate::admin::api::WaitFor;
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
use crate::config::flags::Flags;
use crate::decide::Policy;
use crate::decide::blocklist::Blocklist;
use crate::decide::blocklist::Source;
use crate::decide::blocklist::SourceKind;
use crate::decide::rules::Rules;
use crate::decide::topic::key::TopicIdentity;

use super::CliError;
use super::admin::AdminClient;

/// How long Kafka may send nothing while the topic is read.
const SILENT: Duration = Duration::from_secs(15);

/// Which blocklist a command is about.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct TargetArgs {
    /// The config file of the bridges: its [kafka] and blocklist.topic [env: CALLBRIDGE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Kafka brokers, in place of a config file
    #[arg(long, value_name = "HOST:PORT,...", requires = "topic", conflicts_with = "config")]
    brokers: Option<String>,
    /// The blocklist's topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
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

/// The blocklist, open.
pub(super) enum Target {
    /// Through Kafka: read and written as a bridge does it.
    Kafka(KafkaTarget),
    /// Through a bridge.
    Admin(AdminClient),
}

/// The topic, as it was read when the command began.
pub(super) struct KafkaTarget {
    properties: BTreeMap<String, String>,
    topic: Arc<str>,
    api: BlocklistApi,
    rules: Arc<Rules>,
    identity: Option<TopicIdentity>,
    generation: u64,
    writer: TopicWriter,
    who: Box<str>,
}

impl Target {
    /// Connects. A topic is read to its end.
    pub(super) fn open(args: &TargetArgs) -> Result<Self, CliError> {
        if let Some(url) = &args.admin {
            return AdminClient::new(url, args.token_file.as_deref()).map(Self::Admin);
        }
        let (properties, topic) = match &args.brokers {
            Some(brokers) => (given_properties(brokers, &args.kafka)?, args.topic.clone()),
            None => configured(args)?,
        };
        let no_topic = || {
            CliError::Usage(
                "no topic: set blocklist.topic or give --topic, or ask a bridge with --admin URL".to_owned(),
            )
        };
        KafkaTarget::open(properties, &topic.ok_or_else(no_topic)?).map(Self::Kafka)
    }

    /// Makes changes, and waits until they are applied.
    pub(super) fn change(&mut self, changes: &[ChangeLine]) -> Result<ChangedRules, CliError> {
        match self {
            Self::Kafka(kafka) => kafka.change(changes, "cli"),
            Self::Admin(admin) => admin.change(changes, WaitFor::Applied),
        }
    }

    /// Makes the changes of an import of this name, and waits until Kafka has them.
    pub(super) fn import(&mut self, changes: &[ChangeLine], name: &str) -> Result<ChangedRules, CliError> {
        match self {
            Self::Kafka(kafka) => kafka.change(changes, &format!("import:{name}")),
            Self::Admin(admin) => admin.change(changes, WaitFor::Acknowledged),
        }
    }

    /// The decision on a user.
    pub(super) fn lookup(&self, user: &str, account: Option<&str>) -> Result<LookupAnswer, CliError> {
        match self {
            Self::Kafka(kafka) => Ok(kafka.api.lookup(user, account)),
            Self::Admin(admin) => admin.lookup(user, account),
        }
    }

    /// The first rules that `query` asks for, and whether there are more.
    pub(super) fn list(&self, query: PageQuery) -> Result<(Vec<RuleView>, bool), CliError> {
        match self {
            Self::Kafka(kafka) => {
                let page = kafka.api.page(&query);
                Ok((page.rules, page.next.is_some()))
            }
            Self::Admin(admin) => admin.list(query),
        }
    }

    /// All rules that can be written: those of the topic. Of a bridge without a topic, those of its files.
    pub(super) fn rules(&self) -> Result<Arc<Rules>, CliError> {
        match self {
            Self::Kafka(kafka) => Ok(Arc::clone(&kafka.rules)),
            Self::Admin(admin) => admin.rules().map(Arc::new),
        }
    }
}

impl KafkaTarget {
    fn open(properties: BTreeMap<String, String>, topic: &str) -> Result<Self, CliError> {
        let list = Arc::new(ArcSwap::from_pointee(Blocklist::unloaded()));
        let topic: Arc<str> = topic.into();
        let mut target = Self {
            api: BlocklistApi { list, policy: Policy::default(), topic: None },
            rules: Arc::default(),
            identity: None,
            generation: 0,
            writer: TopicWriter::new(Arc::clone(&topic), properties.clone()),
            who: who(),
            properties,
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
        let source = Source::new(SourceKind::Topic, &self.topic, Arc::clone(&self.rules));
        self.api.list.store(Arc::new(Blocklist::of([source], self.generation)));
        Ok(())
    }

    fn change(&mut self, changes: &[ChangeLine], source: &str) -> Result<ChangedRules, CliError> {
        let told = |error: ApiError| CliError::Target(error.details().detail);
        let lines = changes::of_lines(changes).map_err(told)?;
        let mut changed = api::what_they_do(&lines, &self.rules, self.generation, &self.topic);
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
            // The writer has declared one, which what follows is to carry.
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

/// The properties of the configuration and its topic, in whose place --topic stands.
fn configured(args: &TargetArgs) -> Result<(BTreeMap<String, String>, Option<String>), CliError> {
    let mut flags = Flags::default();
    flags.config.clone_from(&args.config);
    let config = config::load(&flags, env::vars_os()).map_err(CliError::Config)?;
    if config.embedded_broker {
        let why =
            "the broker is embedded: give the address it has printed with --brokers, or ask the bridge with --admin";
        return Err(CliError::Usage(why.to_owned()));
    }
    Ok((config.kafka.properties, args.topic.clone().or(config.blocklist.topic)))
}

/// Who runs the command, by the name that the system knows.
fn who() -> Box<str> {
    let named =
        ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| env::var(name).ok().filter(|it| !it.is_empty()));
    named.unwrap_or_else(|| format!("uid:{}", rustix::process::getuid().as_raw())).into()
}
