//! Checks of Kafka: names, connections, the producer's id, topics, and where it is asked for a record.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::net::ToSocketAddrs;
use std::time::Duration;

use crate::blocklist::inspect;
use crate::cli::doctor::report::CheckOutcome;
use crate::cli::doctor::report::CheckSection;
use crate::cli::topics::audit;
use crate::cli::topics::audit::AuditedTopic;
use crate::cli::topics::audit::NeededTopic;
use crate::cli::topics::audit::TopicRole;
use crate::cli::topics::audit::TopicVerdict;
use crate::clock;
use crate::config::Config;
use crate::publish::cluster;
use crate::publish::cluster::BrokerTime;
use crate::publish::cluster::Cluster;
use crate::publish::cluster::ClusterError;
use crate::publish::cluster::ClusterTopics;
use crate::publish::properties::Properties;

const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const DEFAULT_PORT: &str = ":9092";

/// How many topics a line names.
const NAMES_MAX: usize = 3;

/// How far the clocks may be apart.
const CLOCK_MAX: Duration = Duration::from_secs(5);

/// Adds what there is to say of Kafka. Returns a client and what it saw, where brokers answer.
pub(super) fn kafka(config: &Config, section: &mut CheckSection) -> Option<(Cluster, ClusterTopics)> {
    for server in config.bootstrap_servers() {
        // Others may do.
        reach(section, server, "bootstrap server", CheckOutcome::Warning);
    }
    let properties = Properties::new(config.ack, &config.kafka.properties);
    let asked = Cluster::new(&properties).and_then(|cluster| cluster.look().map(|found| (cluster, found)));
    let (cluster, found) = match asked {
        Ok(asked) => asked,
        Err(error) => {
            section.fail(format!("no broker answers: {error}"), remedy(&error));
            return None;
        }
    };
    section.ok(format!("{} brokers answer", found.brokers.len()));
    for broker in &found.brokers {
        // Nothing reaches the partitions that it leads.
        reach(section, broker, "broker, as it advertises itself,", CheckOutcome::Failed);
    }
    match cluster::producer_id(&properties) {
        Ok(()) => section.ok("Kafka gives an idempotent producer its id"),
        Err(error) => {
            let remedy =
                "allow WRITE on the topics to this client, or IDEMPOTENT_WRITE on the cluster before Kafka 2.8";
            section.fail(format!("Kafka gives an idempotent producer no id: {error}"), remedy);
        }
    }
    Some((cluster, found))
}

/// Resolves and connects.
fn reach(section: &mut CheckSection, server: &str, what: &str, outcome_if_not: CheckOutcome) {
    let address = server.split_once("://").map_or(server, |(_protocol, address)| address);
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let with_port = if has_port { address.to_owned() } else { format!("{address}{DEFAULT_PORT}") };
    let mut why = "it has no address".to_owned();
    match with_port.to_socket_addrs() {
        Ok(addresses) => {
            for resolved in addresses {
                match TcpStream::connect_timeout(&resolved, CONNECT_LIMIT) {
                    Ok(_stream) => return section.ok(format!("{what} {address} takes connections")),
                    Err(error) => why = error.to_string(),
                }
            }
            let remedy = "see whether it runs, its port, and firewalls between";
            section.add(outcome_if_not, format!("{what} {address} takes no connection: {why}"), remedy);
        }
        Err(error) => {
            let remedy = "see its name and the DNS of this machine";
            section.add(outcome_if_not, format!("{what} {address} cannot be resolved: {error}"), remedy);
        }
    }
}

fn remedy(error: &ClusterError) -> String {
    let why = error.why.to_lowercase();
    let known = [
        ("authentication fail", "see sasl.username, sasl.password and sasl.mechanism in [kafka]"),
        ("unsupported sasl mechanism", "see sasl.mechanism in [kafka]"),
        ("certificate verify failed", "set ssl.ca.location in [kafka] to the CA of the brokers' certificates"),
    ];
    let known = known.into_iter().find_map(|(sign, remedy)| why.contains(sign).then_some(remedy));
    known
        .or(error.hint)
        .unwrap_or("see bootstrap.servers and security.protocol in [kafka], and firewalls between")
        .to_owned()
}

/// What there is to say of the topics of callbacks.
pub(super) fn topics(config: &Config, cluster: &Cluster, found: &mut ClusterTopics) -> CheckSection {
    let mut section = CheckSection::new("topics");
    let needed = NeededTopic::all(config);
    let names: Vec<&str> = needed.iter().map(|topic| topic.name.as_str()).collect();
    if let Err(error) = cluster.read_settings(found, &names) {
        section.fail(format!("the settings of topics cannot be read: {error}"), remedy(&error));
        return section;
    }
    let is_of_list = |role| matches!(role, TopicRole::Blocklist | TopicRole::BlocklistChanges);
    let topics = audit::compare(config, found).into_iter().filter(|topic| !topic.role.is_some_and(is_of_list));
    let (missing, others): (Vec<AuditedTopic>, Vec<AuditedTopic>) =
        topics.partition(|topic| topic.verdict == TopicVerdict::Missing);
    let right = others.iter().filter(|topic| topic.verdict == TopicVerdict::Ok).count();
    if right > 0 {
        section.ok(format!("{right} topics are there, and set so that nothing is lost"));
    }
    for (remark, names) in audit::grouped(&missing).into_iter().chain(audit::grouped(&others)) {
        let is_made = config.topics.create && missing.iter().any(|topic| names.contains(&topic.name.as_str()));
        let outcome = if remark.is_wrong && !is_made { CheckOutcome::Failed } else { CheckOutcome::Warning };
        let remedy = if is_made { "the start creates it: topics.create is set" } else { remark.remedy.as_str() };
        section.add(outcome, format!("{}: {}", shortened(&names), remark.what), remedy);
    }
    section
}

fn shortened(names: &[&str]) -> String {
    let first = names.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
    if names.len() > NAMES_MAX { format!("{first} and {} more", names.len() - NAMES_MAX) } else { first }
}

/// What there is to say of each blocklist topic and its audit topic.
pub(super) fn blocklists(config: &Config) -> CheckSection {
    let (mut right, mut warnings, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    let own = config.apps.iter().filter_map(|app| app.blocklist_topic.as_ref());
    for topic in config.blocklist.topic.iter().chain(own).collect::<BTreeSet<&String>>() {
        let findings = inspect::inspect(&config.kafka.properties, topic, config.topics.create);
        right.extend(findings.right);
        warnings.extend(findings.warnings);
        wrong.extend(findings.wrong);
    }
    CheckSection::of("blocklist topics", right, warnings, wrong)
}

/// Writes a record to each dead-letter topic where `is_asked`. Compares the clocks by it, if the broker says its time.
pub(super) fn write(config: &Config, cluster: &Cluster, is_asked: bool) -> CheckSection {
    let mut section = CheckSection::new("write");
    if !is_asked {
        section.skip("not tried: --write writes a record to each dead-letter topic");
        section.skip("clock: not compared with Kafka's");
        return section;
    }
    for topic in NeededTopic::all(config).iter().filter(|topic| topic.role == TopicRole::DeadLetter) {
        let name = &topic.name;
        match cluster.write(name, r#"{"callbridge":"written by check --write; there is no callback in it"}"#) {
            Ok(time) => {
                section.ok(format!("{name}: a record was written"));
                compare_clocks(&mut section, time);
            }
            Err(why) => section.fail(
                format!("{name}: a record cannot be written: {why}"),
                "allow WRITE and DESCRIBE on the topics to this client; with InvalidTimestamp, set the clock of this machine",
            ),
        }
    }
    section
}

fn compare_clocks(section: &mut CheckSection, broker: BrokerTime) {
    let Some(broker) = broker else {
        return section.skip("clock: not compared with Kafka's: the topic keeps the time of the producer");
    };
    let here = clock::wall();
    let apart = here.since(broker).max(broker.since(here));
    if apart > CLOCK_MAX {
        let what = format!("clock: {} s away from the broker's", apart.as_secs());
        section.fail(
            what,
            "set the clocks by NTP: signatures are refused (callbacks.sign_window_seconds), and times are wrong",
        );
    } else {
        section.ok(format!("clock: within {} ms of the broker's", apart.as_millis()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;

    #[test]
    fn a_clock_that_is_90_seconds_off_either_way_fails() {
        let now = clock::wall();
        for (offset, has_failed) in [(-90_000, true), (-1000, false), (1000, false), (90_000, true)] {
            let mut section = CheckSection::new("clock");
            compare_clocks(&mut section, Some(UnixMillis(now.0 + offset)));
            assert_eq!(section.has_failed(), has_failed, "{offset}");
        }
    }
}
