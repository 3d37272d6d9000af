//! The properties of the Kafka client: the defaults, their reasons, and how the configuration overrides them.

use std::collections::BTreeMap;

use crate::journal::Ack;

use super::budget::BUDGET_BYTES;
use super::budget::RECORD_BYTES;

/// The defaults, by librdkafka's names, each with its reason.
fn defaults(ack: Ack) -> Vec<(&'static str, String)> {
    let linger_ms = match ack {
        // A request waits for the report, and there may be no other record to share a batch with.
        Ack::Broker => "0.5",
        // No request waits. Most records have gathered in the pump; this is for what it sends in one go.
        Ack::Journal | Ack::Memory => "5",
    };
    let fixed = [
        ("client.id", "callbridge"),
        // Order, and no duplicates within a producer's lifetime. Implies acks=all and unlimited retries.
        ("enable.idempotence", "true"),
        // If a batch fails for good, the following ones must not be sent without it: the producer ends, and its successor sends all again.
        ("enable.gapless.guarantee", "true"),
        ("acks", "all"),
        // With more, records were lost in spite of positive reports while a partition's leader was not ready.
        ("max.in.flight.requests.per.connection", "1"),
        // Without a timeout, librdkafka owns the retries: a record that timed out in its queue would leave a gap in the sequence.
        ("message.timeout.ms", "0"),
        ("linger.ms", linger_ms),
        ("compression.type", "lz4"),
        // The publisher's budget is the limit. Twice as much here, for what each topic may always send beyond it.
        ("queue.buffering.max.messages", &(2 * BUDGET_BYTES / RECORD_BYTES).to_string()),
        ("queue.buffering.max.kbytes", &(2 * BUDGET_BYTES / 1024).to_string()),
        // With the default of 60 s, a frozen leader is noticed late.
        ("socket.timeout.ms", "30000"),
        ("request.timeout.ms", "20000"),
        ("socket.keepalive.enable", "true"),
        ("socket.nagle.disable", "true"),
        ("reconnect.backoff.max.ms", "2000"),
        // How long a deleted topic still counts as existing, and a new one as missing. Nothing is sent to a topic before it was seen, and
        // failed records are sent again, so the default is fine.
        ("topic.metadata.propagation.max.ms", "30000"),
        ("topic.metadata.refresh.interval.ms", "60000"),
        // Java's default partitioner for records with a key. Changing it later moves keys to other partitions.
        ("partitioner", "murmur2_random"),
        // Readiness and metrics depend on it.
        ("statistics.interval.ms", "500"),
        // A broker that closes a connection at once is a sign of the wrong `security.protocol`; librdkafka gives no other.
        ("log.connection.close", "true"),
    ];
    fixed.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

/// The properties that limit a batch, with librdkafka's defaults.
const BATCH_BYTES: [(&str, usize); 2] = [(BATCH_SIZE, 1_000_000), ("message.max.bytes", 1_000_000)];

/// The property that limits a batch, but not a single record.
pub(super) const BATCH_SIZE: &str = "batch.size";

/// The properties for librdkafka: the configured ones on top of the defaults.
#[derive(Debug, Clone)]
pub(crate) struct Properties(BTreeMap<String, String>);

impl Properties {
    /// The defaults for `ack`, overridden by `configured`.
    pub(crate) fn new(ack: Ack, configured: &BTreeMap<String, String>) -> Self {
        let mut properties: BTreeMap<String, String> =
            defaults(ack).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        for (name, value) in configured {
            // A property must not be given under two names.
            for other in aliases(name) {
                properties.remove(*other);
            }
            properties.insert(name.clone(), value.clone());
        }
        Self(properties)
    }

    /// Sets the brokers.
    pub(crate) fn with_bootstrap(mut self, servers: String) -> Self {
        self.0.insert("bootstrap.servers".into(), servers);
        self
    }

    /// The largest batch that they allow, in bytes.
    pub(super) fn batch_bytes(&self) -> usize {
        let bytes = |(name, default)| self.0.get(name).and_then(|value| value.parse().ok()).unwrap_or(default);
        BATCH_BYTES.map(bytes).into_iter().min().unwrap_or(usize::MAX)
    }

    /// Each name with its value.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// The aliases of a property in librdkafka.
fn aliases(name: &str) -> &'static [&'static str] {
    match name {
        "request.required.acks" => &["acks"],
        "delivery.timeout.ms" => &["message.timeout.ms"],
        "queue.buffering.max.ms" => &["linger.ms"],
        "compression.codec" => &["compression.type"],
        "max.in.flight" => &["max.in.flight.requests.per.connection"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_can_be_overridden() {
        for ack in [Ack::Broker, Ack::Memory] {
            for (name, _value) in Properties::new(ack, &BTreeMap::new()).iter() {
                let configured = BTreeMap::from([(name.to_owned(), "configured".to_owned())]);
                assert!(Properties::new(ack, &configured).iter().any(|property| property == (name, "configured")));
            }
        }
    }

    #[test]
    fn a_batch_is_bounded_by_the_smaller_of_two_properties() {
        let bytes = |configured: &[(&str, &str)]| {
            let configured = configured.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Properties::new(Ack::Memory, &configured).batch_bytes()
        };
        assert_eq!(bytes(&[]), 1_000_000);
        assert_eq!(bytes(&[("batch.size", "300000")]), 300_000);
        assert_eq!(bytes(&[("batch.size", "3000000"), ("message.max.bytes", "2000000")]), 2_000_000);
    }

    #[test]
    fn another_name_for_a_property_takes_the_place_of_its_default() {
        for name in [
            "request.required.acks",
            "delivery.timeout.ms",
            "queue.buffering.max.ms",
            "compression.codec",
            "max.in.flight",
        ] {
            let configured = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
            let properties = Properties::new(Ack::Memory, &configured);
            for other in aliases(name) {
                assert!(!properties.0.contains_key(*other), "{other} beside {name}");
            }
        }
    }
}
