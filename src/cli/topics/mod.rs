//! `callbridge topics`: lists the topics that the configuration needs beside those that Kafka has, and creates what is missing.

pub(super) mod comparison;
mod print;

use std::collections::BTreeMap;
use std::env;
use std::io;
use std::io::Write;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Subcommand;
use clap::ValueEnum;

use crate::cli::blocklist::output::print_lines;
use crate::cli::serve;
use crate::cli::topics::comparison::NeededTopic;
use crate::cli::topics::comparison::TopicVerdict;
use crate::clock;
use crate::config;
use crate::config::Config;
use crate::config::flags::Flags;
use crate::publish::cluster::Cluster;
use crate::publish::cluster::ClusterError;
use crate::publish::cluster::ClusterTopics;
use crate::publish::cluster::TopicSpec;
use crate::publish::properties::Properties;
use crate::publish::replication::REPLICAS_WANTED;
use crate::publish::replication::ReplicationFactor;

/// For Kafka's list of topics, and again for the settings of those that are needed. A broker that cannot be reached is told sooner.
const LOOK_LIMIT: Duration = Duration::from_secs(20);

/// Between two looks at a cluster of which more brokers may be starting.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// The arguments of `topics`.
#[derive(Debug, clap::Args)]
pub(super) struct TopicsArgs {
    #[command(subcommand)]
    command: TopicsCommand,
}

#[derive(Debug, Subcommand)]
enum TopicsCommand {
    /// List the topics that the configuration needs beside those that Kafka has: missing, wrong, superfluous.
    ///
    /// strimzi and kafka-topics print every topic that is needed as it should be. Ends with 1 when a topic is missing or wrong, or Kafka
    /// does not answer.
    List {
        #[command(flatten)]
        output: TopicsOutputArgs,
        #[command(flatten)]
        flags: Flags,
    },
    /// Create the topics that are missing, as serve --create-topics does.
    Create {
        /// Only ask Kafka whether it would create them
        #[arg(long)]
        dry_run: bool,
        /// Partitions of each topic of callbacks [setting: topics.partitions]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        /// Replicas of each partition [setting: topics.replication_factor]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
        replicas: Option<i32>,
        #[command(flatten)]
        output: TopicsOutputArgs,
        #[command(flatten)]
        flags: Flags,
    },
}

#[derive(Debug, clap::Args)]
struct TopicsOutputArgs {
    /// How topics are printed
    #[arg(long, alias = "format", value_enum, default_value = "table")]
    output: TopicsOutput,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TopicsOutput {
    Table,
    Json,
    /// KafkaTopic resources of Strimzi
    Strimzi,
    /// Lines for kafka-topics.sh
    KafkaTopics,
}

/// Does what the arguments ask. Returns the exit code of the process.
pub(super) fn run(args: &TopicsArgs) -> ExitCode {
    let (TopicsCommand::List { flags, .. } | TopicsCommand::Create { flags, .. }) = &args.command;
    let mut config = match config::load(flags, env::vars_os()) {
        Ok(config) => config,
        Err(problems) => return serve::refuse(&problems),
    };
    if config.embedded_broker {
        say("embedded_broker: must not be set: the embedded broker ends with its process, and has every topic");
        return ExitCode::from(serve::EXIT_CONFIG);
    }
    match &args.command {
        TopicsCommand::List { output, .. } => list(&config, output.output),
        TopicsCommand::Create { dry_run, partitions, replicas, output, .. } => {
            config.topics.partitions = partitions.unwrap_or(config.topics.partitions);
            config.topics.replication_factor = replicas.or(config.topics.replication_factor);
            create(&config, *dry_run, output.output).unwrap_or_else(|error| no_answer(&error))
        }
    }
}

/// Asks Kafka for its topics, and for the settings of those that are needed.
pub(super) fn look(config: &Config) -> Result<ClusterTopics, ClusterError> {
    let cluster = cluster(config)?;
    let mut found = cluster.look(LOOK_LIMIT)?;
    let needed = NeededTopic::all(config);
    let names: Vec<&str> = needed.iter().map(|topic| topic.name.as_str()).collect();
    cluster.describe(&mut found, &names, LOOK_LIMIT)?;
    Ok(found)
}

fn cluster(config: &Config) -> Result<Cluster, ClusterError> {
    Cluster::new(&Properties::new(config.ack, &config.kafka.properties))
}

fn list(config: &Config, output: TopicsOutput) -> ExitCode {
    let found = look(config);
    let brokers = found.as_ref().map_or(REPLICAS_WANTED.unsigned_abs() as usize, |found| found.brokers.len());
    let specs = || {
        let replicas = comparison::replicas_wanted(config, brokers);
        NeededTopic::all(config).iter().map(|topic| topic.spec(config, replicas)).collect::<Vec<_>>()
    };
    let topics = found.as_ref().map(|found| comparison::compare(config, found));
    let printed = match (output, &topics) {
        (TopicsOutput::Table, Ok(topics)) => print_lines(print::table(topics)),
        (TopicsOutput::Json, Ok(topics)) => print_lines(print::json(topics)),
        // As they should be, also where Kafka is not there yet.
        (TopicsOutput::Strimzi, _) => print_lines(print::strimzi(&specs())),
        (TopicsOutput::KafkaTopics, _) => print_lines(kafka_topics(config, &specs())),
        (TopicsOutput::Table | TopicsOutput::Json, Err(_)) => Ok(()),
    };
    let is_right = match topics {
        Err(error) => return no_answer(error),
        Ok(topics) => {
            if matches!(output, TopicsOutput::Strimzi | TopicsOutput::KafkaTopics) {
                print::remarks(&topics).into_iter().chain([print::summary(&topics)]).for_each(|line| say(&line));
            }
            topics.iter().all(|topic| matches!(topic.verdict, TopicVerdict::Ok | TopicVerdict::Superfluous))
        }
    };
    exit_code(is_right && printed.is_ok())
}

fn create(config: &Config, is_dry_run: bool, output: TopicsOutput) -> Result<ExitCode, ClusterError> {
    let cluster = cluster(config)?;
    let found = cluster.look(LOOK_LIMIT)?;
    let missing: Vec<NeededTopic> =
        NeededTopic::all(config).into_iter().filter(|topic| !found.topics.contains_key(&topic.name)).collect();
    let replicas = match config.topics.replication_factor {
        _ if is_dry_run || missing.is_empty() => comparison::replicas_wanted(config, found.brokers.len()),
        Some(replicas) => replicas,
        None => settled_replicas(&cluster, found)?,
    };
    let specs: Vec<TopicSpec> = missing.iter().map(|topic| topic.spec(config, replicas)).collect();
    let failed = if specs.is_empty() { BTreeMap::new() } else { cluster.create(&specs, is_dry_run)? };
    let printed = match output {
        TopicsOutput::Table => print_lines(print::created(&specs, &failed, is_dry_run)),
        TopicsOutput::Json => print_lines(print::created_json(&specs, &failed, is_dry_run)),
        TopicsOutput::Strimzi => print_lines(print::strimzi(&specs)),
        TopicsOutput::KafkaTopics => print_lines(kafka_topics(config, &specs)),
    };
    failed.iter().for_each(|(name, why)| say(&format!("{name}: cannot be created: {why}")));
    Ok(exit_code(failed.is_empty() && printed.is_ok()))
}

/// The replicas of a new topic: fewer than three only once the cluster has shown so few brokers for a while.
fn settled_replicas(cluster: &Cluster, mut found: ClusterTopics) -> Result<i32, ClusterError> {
    let mut factor = ReplicationFactor::new(None);
    let mut has_said = false;
    loop {
        let brokers = found.brokers.len();
        if let Some(replicas) = factor.choose(brokers, clock::monotonic()) {
            return Ok(replicas);
        }
        if !has_said {
            say(&format!("the cluster shows {brokers} of 3 brokers: waiting whether more start, or set --replicas"));
            has_said = true;
        }
        thread::sleep(BETWEEN_LOOKS);
        found = cluster.look(LOOK_LIMIT)?;
    }
}

fn kafka_topics(config: &Config, specs: &[TopicSpec]) -> Vec<String> {
    let property = |name: &str| config.kafka.properties.get(name).map_or("", String::as_str);
    let is_plaintext = matches!(property("security.protocol").to_ascii_lowercase().as_str(), "" | "plaintext");
    print::kafka_topics(specs, property("bootstrap.servers"), is_plaintext)
}

fn no_answer(error: &ClusterError) -> ExitCode {
    say(&format!("kafka does not answer: {error}"));
    if let Some(hint) = error.hint {
        say(&format!("    {hint}"));
    }
    ExitCode::FAILURE
}

fn exit_code(is_right: bool) -> ExitCode {
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints to stderr. When nobody reads it, the exit code still tells.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
