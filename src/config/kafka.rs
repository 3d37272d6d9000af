//! Properties of the Kafka client: any that librdkafka takes, except those that would break what callbridge promises.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::config::JudgeKafka;
use crate::config::brokers::Broker;
use crate::config::problem::Fault;
use crate::config::reader::Reader;
use crate::config::source::Value;

const PREFIX: &str = "kafka.";
const SERVERS: &str = "bootstrap.servers";
const PROPAGATION: &str = "topic.metadata.propagation.max.ms";

/// librdkafka multiplies the time by 1000 in 32 bits; above this it turns negative, and every record to a new topic
/// fails at once.
const PROPAGATION_MS_MAX: i64 = 2_147_483;

const MESSAGE_BYTES: &str = "message.max.bytes";

/// Where the longest record is set.
pub(crate) const MESSAGE_BYTES_PATH: &str = "kafka.message.max.bytes";

/// librdkafka's default.
const MESSAGE_BYTES_MAX: usize = 1_000_000;

const STATISTICS: &str = "statistics.interval.ms";

/// Readiness and the metrics of the client follow its statistics; 0 would mean none.
const STATISTICS_MS: RangeInclusive<i64> = 1..=5_000;

/// A property that must not have other values than these. librdkafka writes booleans in three ways.
struct Fixed {
    property: &'static str,
    taken: &'static [&'static str],
    why: &'static str,
}

const SECURITY_PROTOCOL: &str = "security.protocol";

/// Whether the certificate of a broker is verified.
pub(crate) const VERIFICATION: &str = "enable.ssl.certificate.verification";

/// How the name in a broker's certificate is compared with its address.
pub(crate) const IDENTIFICATION: &str = "ssl.endpoint.identification.algorithm";

const TRUE: &[&str] = &["true", "t", "1"];
/// How librdkafka writes it.
pub(crate) const FALSE: &[&str] = &["false", "f", "0"];
const ALL: &[&str] = &["all", "-1"];
const ACKS_WHY: &str = "must be all: with fewer replicas a record that was acknowledged could be lost with one broker";

const FIXED: &[Fixed] = &[
    Fixed { property: "acks", taken: ALL, why: ACKS_WHY },
    Fixed { property: "request.required.acks", taken: ALL, why: ACKS_WHY },
    Fixed {
        property: "delivery.report.only.error",
        taken: FALSE,
        why: "must be false: without reports of success nothing could ever be acknowledged",
    },
    Fixed {
        property: "enable.idempotence",
        taken: TRUE,
        why: "must be true: without it a retry can write records out of order",
    },
    Fixed {
        property: "enable.gapless.guarantee",
        taken: TRUE,
        why: "must be true: without it records overtake those of the same key that failed before them",
    },
    Fixed {
        property: "transactional.id",
        taken: &[],
        why: "must not be set: no transaction would ever be committed, so consumers could not read the records",
    },
    Fixed { property: "metadata.broker.list", taken: &[], why: "must not be set: call it bootstrap.servers" },
    Fixed {
        property: "test.mock.num.brokers",
        taken: &[],
        why: "must not be set: records would go to a broker in memory; to try that, use embedded_broker",
    },
];

/// Takes the properties, ours and those that `judge` would not take told as problems.
pub(crate) fn properties(reader: &mut Reader, embedded_broker: bool, judge: JudgeKafka) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::new();
    for path in reader.paths_under(PREFIX) {
        let Some(value) = property(reader, &path) else { continue };
        let name = path.strip_prefix(PREFIX).unwrap_or(&path).to_owned();
        if let Some(why) = broken_promise(&name, &value) {
            reader.fault(&path, Fault::Contradicts(why));
        }
        properties.insert(name, value);
    }
    judge_servers(reader, embedded_broker, &properties);
    if let Some(servers) = properties.get_mut(SERVERS) {
        // librdkafka takes blanks for a part of the name.
        *servers = servers.split(',').map(str::trim).collect::<Vec<_>>().join(",");
    }

    for (name, what) in judge(&properties) {
        let path = format!("{PREFIX}{name}");
        if !reader.is_faulty(&path) {
            reader.fault(&path, Fault::Kafka(what));
        }
    }
    properties
}

/// The longest record that the client will send.
pub(crate) fn message_bytes_max(properties: &BTreeMap<String, String>) -> usize {
    properties.get(MESSAGE_BYTES).and_then(|value| value.parse().ok()).unwrap_or(MESSAGE_BYTES_MAX)
}

/// The brokers to begin with.
pub(crate) fn servers(properties: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
    properties.get(SERVERS).into_iter().flat_map(|servers| servers.split(',')).map(str::trim)
}

/// How the client speaks with brokers; librdkafka's default where nobody says.
pub(crate) fn security_protocol(properties: &BTreeMap<String, String>) -> &str {
    properties.get(SECURITY_PROTOCOL).map_or("plaintext", String::as_str)
}

fn property(reader: &mut Reader, path: &str) -> Option<String> {
    let text = match reader.take(path)? {
        Value::Raw(text) | Value::Text(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(boolean) => Some(boolean.to_string()),
        Value::Texts(_) | Value::Other => None,
    };
    if text.is_none() {
        reader.fault(path, Fault::Wanted("text, a whole number, true or false"));
    }
    text
}

fn broken_promise(name: &str, value: &str) -> Option<&'static str> {
    if name == PROPAGATION && value.parse::<i64>().is_ok_and(|millis| millis > PROPAGATION_MS_MAX) {
        return Some("must not be above 2147483: librdkafka overflows there, and fails every record to a new topic");
    }
    if name == STATISTICS && value.parse().is_ok_and(|millis| !STATISTICS_MS.contains(&millis)) {
        return Some("must be from 1 to 5000: readiness follows the statistics");
    }
    let fixed = FIXED.iter().find(|fixed| fixed.property == name)?;
    let is_taken = fixed.taken.iter().any(|taken| taken.eq_ignore_ascii_case(value));
    (!is_taken).then_some(fixed.why)
}

fn judge_servers(reader: &mut Reader, embedded_broker: bool, properties: &BTreeMap<String, String>) {
    let path = format!("{PREFIX}{SERVERS}");
    if !properties.contains_key(SERVERS) {
        // One of another kind than text was told already.
        if !embedded_broker && reader.take(&path).is_none() {
            reader.fault(&path, Fault::Missing("give it in [kafka], or --brokers; or try --embedded-broker"));
        }
        return;
    }
    if embedded_broker {
        let why = "must not be set with embedded_broker: records go to one or the other";
        return reader.fault(&path, Fault::Contradicts(why));
    }
    for server in servers(properties) {
        if let Err(bad) = Broker::parse(server, security_protocol(properties)) {
            // Before the sign there may be a password.
            let shown =
                server.rsplit_once('@').map_or_else(|| server.to_owned(), |(_user, host)| format!("...@{host}"));
            reader.fault(&path, Fault::Broker(shown, bad));
        }
    }
}
