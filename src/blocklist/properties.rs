//! The properties of the clients of a blocklist topic: the configured connection, plus what each client needs.
//!
//! The other properties in `[kafka]` concern the producer of callbacks, such as timeouts and batches, and are not used here.

use std::collections::BTreeMap;

/// Properties of producers only, which the configuration sets for the producer of callbacks.
const PRODUCERS: [&str; 25] = [
    "acks",
    "batch.num.messages",
    "batch.size",
    "compression.codec",
    "compression.level",
    "compression.type",
    "delivery.report.only.error",
    "delivery.timeout.ms",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "linger.ms",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.send.max.retries",
    "message.timeout.ms",
    "partitioner",
    "queue.buffering.backpressure.threshold",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "queuing.strategy",
    "request.required.acks",
    "request.timeout.ms",
    "retries",
    "sticky.partitioning.linger.ms",
];

/// The defaults of both clients, which the configuration may override.
const SHARED: [(&str, &str); 4] = [
    ("client.id", "callbridge-blocklist"),
    ("reconnect.backoff.max.ms", "2000"),
    ("socket.keepalive.enable", "true"),
    ("socket.nagle.disable", "true"),
];

/// What the follower requires.
const FOLLOWER: [(&str, &str); 12] = [
    // A replaced log must be noticed, and never skipped.
    ("auto.offset.reset", "error"),
    // With `read_committed` one open transaction would hide every later change silently.
    ("isolation.level", "read_uncommitted"),
    ("enable.partition.eof", "true"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("allow.auto.create.topics", "false"),
    // The broker answers as soon as it has a byte.
    ("fetch.wait.max.ms", "500"),
    // With the default of one second, a fast reader stalls on a full queue.
    ("fetch.queue.backoff.ms", "10"),
    ("queued.min.messages", "50000"),
    ("queued.max.messages.kbytes", "16384"),
    // Whether the topic is followed to its end is read from them.
    ("statistics.interval.ms", "1000"),
    ("topic.metadata.refresh.interval.ms", "60000"),
];

/// librdkafka requires a group for a consumer. None is joined, and nothing is committed.
const GROUP: (&str, &str) = ("group.id", "callbridge-blocklist");

/// What the writer requires.
const WRITER: [(&str, &str); 9] = [
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("max.in.flight.requests.per.connection", "1"),
    ("linger.ms", "0.5"),
    // A change times out after 5 s, for its announcement and then for the rule.
    ("message.timeout.ms", "2400"),
    ("request.timeout.ms", "2400"),
    // Rules are similar to each other, and compress to a tenth.
    ("compression.type", "zstd"),
    ("allow.auto.create.topics", "false"),
    ("statistics.interval.ms", "0"),
];

/// The properties of the follower, from those configured in `[kafka]`.
pub(super) fn of_follower(configured: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let group = [(GROUP.0, configured.get(GROUP.0).map_or(GROUP.1, String::as_str))];
    with(configured, FOLLOWER.into_iter().chain(group))
}

/// The properties of the writer.
pub(super) fn of_writer(configured: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    with(configured, WRITER)
}

/// The properties of the admin client.
pub(super) fn of_admin(configured: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    with(configured, [("statistics.interval.ms", "0"), ("allow.auto.create.topics", "false")])
}

fn with<'p>(
    configured: &BTreeMap<String, String>,
    own: impl IntoIterator<Item = (&'p str, &'p str)>,
) -> BTreeMap<String, String> {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let mut properties: BTreeMap<String, String> = SHARED.into_iter().map(owned).collect();
    let shared = configured.iter().filter(|(name, _value)| !PRODUCERS.contains(&name.as_str()));
    properties.extend(shared.map(|(name, value)| (name.clone(), value.clone())));
    properties.extend(own.into_iter().map(owned));
    properties
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_is_configured_and_the_rest_is_not() {
        let configured = [
            ("bootstrap.servers", "kafka:9092"),
            ("sasl.password", "secret"),
            ("client.id", "mine"),
            ("group.id", "allowed"),
            ("linger.ms", "50"),
            ("message.timeout.ms", "0"),
            ("compression.type", "lz4"),
            ("isolation.level", "read_committed"),
            ("auto.offset.reset", "earliest"),
        ];
        let configured = configured.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let (follower, writer) = (of_follower(&configured), of_writer(&configured));
        for properties in [&follower, &writer] {
            assert_eq!(properties["bootstrap.servers"], "kafka:9092");
            assert_eq!(properties["sasl.password"], "secret");
            assert_eq!(properties["client.id"], "mine");
        }
        assert_eq!(follower["group.id"], "allowed");
        assert_eq!((&*follower["isolation.level"], &*follower["auto.offset.reset"]), ("read_uncommitted", "error"));
        assert!(PRODUCERS.iter().all(|name| !follower.contains_key(*name)));
        assert_eq!((&*writer["linger.ms"], &*writer["message.timeout.ms"]), ("0.5", "2400"));
    }
}
