//! The properties of the Kafka client: any of librdkafka's, except those that would break callbridge's promises.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::config::brokers;
use crate::config::layers::Layers;
use crate::publish::kafka::problems;

const SERVERS: &str = "bootstrap.servers";
const PROPAGATION: &str = "topic.metadata.propagation.max.ms";

/// librdkafka multiplies the time by 1000 in 32 bits: above this it becomes negative, and every record to a new topic fails at once.
const PROPAGATION_MS_MAX: i64 = 2_147_483;

const MESSAGE_BYTES: &str = "message.max.bytes";

/// The property for the longest record.
pub(super) const MESSAGE_BYTES_PATH: &str = "kafka.message.max.bytes";

/// The default of librdkafka.
const MESSAGE_BYTES_MAX: usize = 1_000_000;

const STATISTICS: &str = "statistics.interval.ms";

/// Readiness and the metrics of the client depend on its statistics; 0 would disable them.
const STATISTICS_MS: RangeInclusive<i64> = 1..=5_000;

const SECURITY_PROTOCOL: &str = "security.protocol";

/// Whether the certificate of a broker is verified.
pub(super) const VERIFICATION: &str = "enable.ssl.certificate.verification";

/// How the name in a broker's certificate is verified.
pub(super) const IDENTIFICATION: &str = "ssl.endpoint.identification.algorithm";

const TRUE: &[&str] = &["true", "t", "1"];
/// The spellings of librdkafka.
pub(super) const FALSE: &[&str] = &["false", "f", "0"];
const ALL: &[&str] = &["all", "-1"];
const ACKS_WHY: &str = "must be all: with fewer replicas a record that was acknowledged could be lost with one broker";

/// Properties that must have these values to keep callbridge's promises, with the reason.
const FIXED: &[(&str, &[&str], &str)] = &[
    ("acks", ALL, ACKS_WHY),
    ("request.required.acks", ALL, ACKS_WHY),
    (
        "delivery.report.only.error",
        FALSE,
        "must be false: without reports of success nothing could ever be acknowledged",
    ),
    ("enable.idempotence", TRUE, "must be true: without it a retry can write records out of order"),
    (
        "enable.gapless.guarantee",
        TRUE,
        "must be true: without it records overtake those of the same key that failed before them",
    ),
    (
        "transactional.id",
        &[],
        "must not be set: no transaction would ever be committed, so consumers could not read the records",
    ),
    ("metadata.broker.list", &[], "must not be set: call it bootstrap.servers"),
    (
        "test.mock.num.brokers",
        &[],
        "must not be set: records would go to a broker in memory; to try that, use embedded_broker",
    ),
];

/// Checks the properties: callbridge's promises, the addresses, and librdkafka's own validation.
pub(super) fn check(layers: &mut Layers, properties: &mut BTreeMap<String, String>, embedded_broker: bool) {
    for (name, value) in &*properties {
        if let Some(why) = broken_promise(name, value) {
            layers.fault(&format!("kafka.{name}"), why);
        }
    }
    check_servers(layers, properties, embedded_broker);
    if let Some(servers) = properties.get_mut(SERVERS) {
        // librdkafka takes white space as part of the name.
        *servers = servers.split(',').map(str::trim).collect::<Vec<_>>().join(",");
    }
    for (name, what) in problems(properties) {
        let path = format!("kafka.{name}");
        if !layers.is_faulty(&path) {
            layers.fault(&path, what);
        }
    }
}

/// The longest record that the client will send.
pub(super) fn message_bytes_max(properties: &BTreeMap<String, String>) -> usize {
    properties.get(MESSAGE_BYTES).and_then(|value| value.parse().ok()).unwrap_or(MESSAGE_BYTES_MAX)
}

/// The bootstrap servers.
pub(super) fn servers(properties: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
    properties.get(SERVERS).into_iter().flat_map(|servers| servers.split(',')).map(str::trim)
}

/// The security protocol; librdkafka's default if it is not set.
pub(super) fn security_protocol(properties: &BTreeMap<String, String>) -> &str {
    properties.get(SECURITY_PROTOCOL).map_or("plaintext", String::as_str)
}

fn broken_promise(name: &str, value: &str) -> Option<&'static str> {
    if name == PROPAGATION && value.parse::<i64>().is_ok_and(|millis| millis > PROPAGATION_MS_MAX) {
        return Some("must not be above 2147483: librdkafka overflows there, and fails every record to a new topic");
    }
    if name == STATISTICS && value.parse().is_ok_and(|millis| !STATISTICS_MS.contains(&millis)) {
        return Some("must be from 1 to 5000: readiness follows the statistics");
    }
    let (_, taken, why) = FIXED.iter().find(|(property, ..)| *property == name)?;
    let is_taken = taken.iter().any(|taken| taken.eq_ignore_ascii_case(value));
    (!is_taken).then_some(*why)
}

fn check_servers(layers: &mut Layers, properties: &BTreeMap<String, String>, embedded_broker: bool) {
    let path = "kafka.bootstrap.servers";
    if !properties.contains_key(SERVERS) {
        if !embedded_broker {
            layers.missing(path, "set it in [kafka], or with --brokers; or try --embedded-broker");
        }
        return;
    }
    if embedded_broker {
        return layers.fault(path, "must not be set with embedded_broker: records go to one or the other");
    }
    for server in servers(properties) {
        if let Err(bad) = brokers::host(server, security_protocol(properties)) {
            // There may be a password before the `@`.
            let shown =
                server.rsplit_once('@').map_or_else(|| server.to_owned(), |(_user, host)| format!("...@{host}"));
            layers.fault(path, format!("{shown:?}: {bad}"));
        }
    }
}
