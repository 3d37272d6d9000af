//! Checks of Kafka: names, connections, TLS, SASL, the brokers that answer, and the producer's id, each as a line of its own.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::net::ToSocketAddrs;
use std::time::Duration;

use crate::cli::doctor::report::CheckOutcome;
use crate::cli::doctor::report::CheckSection;
use crate::config::Config;
use crate::publish::cluster;
use crate::publish::cluster::ANSWER_LIMIT;
use crate::publish::cluster::Cluster;
use crate::publish::cluster::ClusterError;
use crate::publish::cluster::ClusterTopics;
use crate::publish::cluster::ConnectionStage;
use crate::publish::cluster::SEE_ADVERTISED;
use crate::publish::properties::Properties;

use super::CheckDeadline;
use super::END_MARGIN;
use super::begin;

const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// To resolve a name and to connect to each of its addresses.
const REACH_LIMIT: Duration = Duration::from_secs(3);
const DEFAULT_PORT: u16 = 9092;

const SEE_RESOLUTION: &str = "correct bootstrap.servers, or the DNS of this machine";
const SEE_CONNECTION: &str = "see whether the broker runs, its port, and firewalls between";

/// What messages of librdkafka say, in lower case, and what to do then.
const KNOWN: [(&str, &str); 6] = [
    ("authentication fail", "correct sasl.username, sasl.password and sasl.mechanism in [kafka]"),
    ("unsupported sasl mechanism", "set sasl.mechanism in [kafka] to one of the broker's"),
    ("not valid in current sasl state", "the port has no SASL: set security.protocol in [kafka] to plaintext or ssl"),
    (
        "certificate verify failed",
        "set ssl.ca.location in [kafka] to the CA of the brokers' certificates; they must be valid now, and for the names in \
         bootstrap.servers",
    ),
    ("ssl alert", "the broker refuses the TLS handshake: see ssl.certificate.location and ssl.key.location in [kafka]"),
    (".location", "let the user that callbridge runs as read the file, or correct its path in [kafka]"),
];

/// Checks whether Kafka is there. Returns a client and what it saw, where a broker answers at the address that it advertises.
pub(super) fn kafka(
    config: &Config,
    section: &mut CheckSection,
    deadline: CheckDeadline,
) -> Option<(Cluster, ClusterTopics)> {
    let servers: Vec<&str> = config.bootstrap_servers().map(without_protocol).collect();
    let mut connected = reach(section, &servers, AddressSource::Bootstrap);
    if connected.is_empty() {
        section.skip("TLS, SASL and the producer's id: not tried: no bootstrap server takes connections");
        return None;
    }
    // The others were told.
    let properties = Properties::new(config.ack, &config.kafka.properties).with_bootstrap(connected.join(","));
    let looked = Cluster::new(&properties).map(|cluster| (cluster.look(deadline.left().min(ANSWER_LIMIT)), cluster));
    let (cluster, found) = match looked {
        Ok((Ok(found), cluster)) => (cluster, found),
        Ok((Err(error), _cluster)) => {
            stages(section, config, Some(&error));
            return None;
        }
        Err(error) => {
            section.fail(format!("the Kafka client cannot be made: {error}"), remedy(&error));
            return None;
        }
    };
    stages(section, config, None);
    let advertised: Vec<&str> =
        found.brokers.iter().map(String::as_str).filter(|broker| !servers.contains(broker)).collect();
    connected.extend(reach(section, &advertised, AddressSource::Advertised));
    if !ask_each(section, &properties, &found, &connected, deadline) {
        section.skip("the producer's id: not tried: no broker answers at the address that it advertises");
        return None;
    }
    match cluster::producer_id(&properties, deadline.left().min(ANSWER_LIMIT)) {
        Ok(()) => section.ok("Kafka gives an idempotent producer its id"),
        Err(error) => {
            section.fail(format!("Kafka gives an idempotent producer no id: {error}"), remedy(&error));
        }
    }
    Some((cluster, found))
}

/// Asks each server with a client of its own, all at the same time: a client that knows several says nothing of one that is frozen. Returns
/// whether a broker answers at the address that it advertises.
fn ask_each(
    section: &mut CheckSection,
    properties: &Properties,
    found: &ClusterTopics,
    connected: &[&str],
    deadline: CheckDeadline,
) -> bool {
    let limit = deadline.left().min(ANSWER_LIMIT);
    let ask = |server: &&str| {
        let properties = properties.clone().with_bootstrap((*server).to_owned());
        begin(move || Cluster::new(&properties).and_then(|cluster| cluster.look(limit)).err())
    };
    let asked: Vec<_> = connected.iter().map(ask).collect();
    let (end, mut answering) = (CheckDeadline::after(limit + END_MARGIN), Vec::new());
    for (server, asked) in connected.iter().zip(asked) {
        let is_advertised = found.brokers.iter().any(|broker| broker == server);
        match asked.recv_timeout(end.left()).unwrap_or_else(|_late| Some(cluster::silent(server, limit))) {
            None if is_advertised => answering.push(*server),
            None => {}
            Some(error) => {
                let outcome = if is_advertised { CheckOutcome::Failed } else { CheckOutcome::Warning };
                section.add(outcome, format!("a broker does not answer: {error}"), remedy(&error));
            }
        }
    }
    if !answering.is_empty() {
        section.ok(format!("brokers that answer: {}", answering.join(", ")));
    }
    !answering.is_empty()
}

/// Where an address is from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AddressSource {
    /// `bootstrap.servers`, of which one is enough.
    Bootstrap,
    /// A broker, which nothing else does for.
    Advertised,
}

/// How far a connection to a server came.
enum Reached {
    Connected(Vec<SocketAddr>),
    Resolved(Vec<SocketAddr>, String),
    Nowhere(String),
}

/// Resolves all at the same time and connects, with a line for each step. Returns those that take connections.
fn reach<'s>(section: &mut CheckSection, servers: &[&'s str], source: AddressSource) -> Vec<&'s str> {
    let dialled = servers.iter().map(|server| {
        let server = (*server).to_owned();
        begin(move || dial(&server))
    });
    // All at the same time.
    let dialled: Vec<_> = dialled.collect();
    let deadline = CheckDeadline::after(REACH_LIMIT);
    let reached = dialled.into_iter().map(|dialled| {
        dialled
            .recv_timeout(deadline.left())
            .unwrap_or(Reached::Nowhere(format!("no answer within {} s", REACH_LIMIT.as_secs())))
    });
    let reached: Vec<Reached> = reached.collect();
    let is_one_there = reached.iter().any(|reached| matches!(reached, Reached::Connected(_)));
    let mut connected = Vec::new();
    let failed =
        if is_one_there && source == AddressSource::Bootstrap { CheckOutcome::Warning } else { CheckOutcome::Failed };
    let (see_resolution, see_connection) = match source {
        AddressSource::Bootstrap => (SEE_RESOLUTION, SEE_CONNECTION),
        AddressSource::Advertised => (SEE_ADVERTISED, SEE_ADVERTISED),
    };
    for (server, reached) in servers.iter().zip(reached) {
        let resolved = |section: &mut CheckSection, addresses: &[SocketAddr]| {
            let addresses: BTreeSet<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
            let addresses = addresses.into_iter().collect::<Vec<_>>().join(", ");
            section.ok(format!("{server} resolves to {addresses}"));
        };
        match reached {
            Reached::Connected(addresses) => {
                resolved(section, &addresses);
                section.ok(format!("{server} takes connections"));
                connected.push(*server);
            }
            Reached::Resolved(addresses, why) => {
                resolved(section, &addresses);
                section.add(failed, format!("{server} takes no connections: {why}"), see_connection);
            }
            Reached::Nowhere(why) => {
                section.add(failed, format!("{server} cannot be resolved: {why}"), see_resolution);
            }
        }
    }
    connected
}

fn without_protocol(server: &str) -> &str {
    server.split_once("://").map_or(server, |(_protocol, address)| address)
}

fn dial(server: &str) -> Reached {
    let has_port = |(_host, port): (&str, &str)| port.parse::<u16>().is_ok();
    let resolved = if server.parse::<Ipv6Addr>().is_ok() || !server.rsplit_once(':').is_some_and(has_port) {
        (server.trim_matches(['[', ']']), DEFAULT_PORT).to_socket_addrs()
    } else {
        server.to_socket_addrs()
    };
    let addresses = match resolved {
        Ok(addresses) => addresses.collect::<Vec<_>>(),
        Err(error) => return Reached::Nowhere(error.to_string()),
    };
    let mut why = "it has no address".to_owned();
    for address in &addresses {
        match TcpStream::connect_timeout(address, CONNECT_LIMIT) {
            Ok(_stream) => return Reached::Connected(addresses),
            Err(error) => why = error.to_string(),
        }
    }
    Reached::Resolved(addresses, why)
}

/// What a connection goes through once it is made, as far as it came.
fn stages(section: &mut CheckSection, config: &Config, error: Option<&ClusterError>) {
    let property = |name: &str| config.kafka.properties.get(name).map_or("", String::as_str);
    let protocol = match property("security.protocol") {
        "" => "plaintext".to_owned(),
        protocol => protocol.to_ascii_lowercase(),
    };
    // librdkafka has it under two names.
    let mechanism = ["sasl.mechanism", "sasl.mechanisms"].map(property).concat();
    let failed_at = error.map(|error| error.stage.unwrap_or(ConnectionStage::Connect));
    let stages = [
        (ConnectionStage::Tls, "TLS", protocol.ends_with("ssl"), "the handshake succeeds".to_owned()),
        (ConnectionStage::Protocol, "protocol", true, "a broker answers".to_owned()),
        (ConnectionStage::Sasl, "SASL", protocol.starts_with("sasl"), format!("the login by {mechanism} succeeds")),
    ];
    for (stage, name, is_used, success) in stages {
        match error.filter(|_| failed_at <= Some(stage)) {
            _ if !is_used => section.skip(format!("{name}: not used: security.protocol is {protocol}")),
            None => section.ok(format!("{name}: {success}")),
            Some(error) if failed_at == Some(stage) => {
                return section.fail(format!("{name}: {error}"), remedy(error));
            }
            Some(_earlier) => section.skip(format!("{name}: not tried")),
        }
    }
    if let Some(error) = error {
        section.fail(format!("no broker answers: {error}"), remedy(error));
    }
}

/// What to do about it.
pub(super) fn remedy(error: &ClusterError) -> &'static str {
    let why = error.why.to_lowercase();
    let known = KNOWN.iter().find_map(|(sign, remedy)| why.contains(sign).then_some(*remedy));
    known
        .or(error.hint)
        .unwrap_or("see bootstrap.servers and security.protocol in [kafka], the brokers' logs, and firewalls between")
}
