//! The metrics of the Kafka client, from librdkafka's statistics.

use std::collections::BTreeMap;

use prometheus::Gauge;
use prometheus::IntCounter;
use prometheus::IntGauge;
use prometheus::Registry;
use serde::Deserialize;

use crate::metrics;

/// See the [module](self). Clones share the same metrics.
#[derive(Debug, Clone)]
pub(crate) struct KafkaMetrics {
    queue_records: IntGauge,
    queue_bytes: IntGauge,
    reports_waiting: IntGauge,
    brokers: IntGauge,
    brokers_up: IntGauge,
    round_trip_p99: Gauge,
    request_timeouts: IntGauge,
    retries: IntGauge,
    /// Producers replaced after a fatal error.
    pub(crate) rebuilds: IntCounter,
    /// Producers replaced because some records had no delivery report.
    pub(crate) watchdog_restarts: IntCounter,
}

/// The statistics that are used. librdkafka sometimes emits truncated or malformed JSON, which is ignored.
#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    msg_cnt: f64,
    #[serde(default)]
    msg_size: f64,
    #[serde(default)]
    replyq: f64,
    #[serde(default)]
    brokers: BTreeMap<String, Broker>,
    #[serde(default)]
    eos: Idempotence,
}

#[derive(Default, Deserialize)]
struct Idempotence {
    #[serde(default)]
    idemp_state: String,
}

impl Statistics {
    fn has_producer_id(&self) -> bool {
        self.eos.idemp_state == "Assigned"
    }
}

/// Whether these statistics say that the brokers have given the producer its id.
pub(in crate::publish) fn has_producer_id(statistics: &[u8]) -> bool {
    serde_json::from_slice(statistics).is_ok_and(|statistics: Statistics| statistics.has_producer_id())
}

/// The addresses that the brokers advertise, as far as these statistics show them.
pub(in crate::publish) fn advertised_brokers(statistics: &[u8]) -> Vec<String> {
    let Ok(Statistics { brokers, .. }) = serde_json::from_slice(statistics) else { return Vec::new() };
    let names = brokers.iter().filter(|(_name, broker)| broker.nodeid >= 0.0).map(|(name, _broker)| name);
    // "HOST:PORT/ID"
    names.filter_map(|name| Some(name.rsplit_once('/')?.0.to_owned())).collect()
}

/// The state of the client in one set of statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientState {
    /// A broker is connected.
    pub(crate) is_any_broker_up: bool,
    /// Every connected broker owes a response, and has sent nothing for [`SILENT_MICROS`].
    pub(crate) is_unanswered: bool,
    /// The producer has its id, without which nothing can be sent.
    pub(crate) has_producer_id: bool,
}

/// A working broker answers within milliseconds.
const SILENT_MICROS: f64 = 1e6;

#[derive(Deserialize)]
struct Broker {
    #[serde(default)]
    nodeid: f64,
    /// Requests that wait for a response.
    #[serde(default)]
    waitresp_cnt: f64,
    /// Microseconds since something was received; negative if nothing was.
    #[serde(default)]
    rxidle: f64,
    #[serde(default)]
    state: String,
    #[serde(default)]
    req_timeouts: f64,
    #[serde(default)]
    txretries: f64,
    #[serde(default)]
    rtt: Window,
}

#[derive(Default, Deserialize)]
struct Window {
    /// Microseconds.
    #[serde(default)]
    p99: f64,
}

impl KafkaMetrics {
    /// Registers every metric. Fails if `registry` already holds one of them.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name, help| metrics::gauge(registry, name, help);
        Ok(Self {
            queue_records: gauge(
                "callbridge_kafka_queue_records",
                "Records in librdkafka's queue, in-flight ones included.",
            )?,
            queue_bytes: gauge("callbridge_kafka_queue_bytes", "Bytes of values in librdkafka's queue.")?,
            reports_waiting: gauge(
                "callbridge_kafka_reports_waiting",
                "Events that librdkafka has for the poll thread.",
            )?,
            brokers: gauge("callbridge_kafka_brokers", "Known brokers.")?,
            brokers_up: gauge("callbridge_kafka_brokers_up", "Connected brokers.")?,
            round_trip_p99: metrics::float_gauge(
                registry,
                "callbridge_kafka_round_trip_p99_seconds",
                "The slowest broker's 99th percentile round trip.",
            )?,
            request_timeouts: gauge(
                "callbridge_kafka_request_timeouts",
                "Requests that no broker answered in time, since the producer's start.",
            )?,
            retries: gauge(
                "callbridge_kafka_request_retries",
                "Requests that were sent again, since the producer's start.",
            )?,
            rebuilds: metrics::counter(
                registry,
                "callbridge_kafka_producer_rebuilds_total",
                "Producers replaced after an error that librdkafka calls fatal.",
            )?,
            watchdog_restarts: metrics::counter(
                registry,
                "callbridge_kafka_watchdog_restarts_total",
                "Producers replaced because records had no delivery report for too long although Kafka was well.",
            )?,
        })
    }

    /// Updates the metrics from one set of statistics. `None`: it cannot be parsed.
    #[expect(clippy::cast_possible_truncation, reason = "counts of records and bytes, far below 2^53; `as` saturates")]
    pub(crate) fn observe(&self, statistics: &[u8]) -> Option<ClientState> {
        let statistics: Statistics = serde_json::from_slice(statistics).ok()?;
        self.queue_records.set(statistics.msg_cnt as i64);
        self.queue_bytes.set(statistics.msg_size as i64);
        self.reports_waiting.set(statistics.replyq as i64);
        let brokers = statistics.brokers.values();
        let sum = |value: fn(&Broker) -> f64| statistics.brokers.values().map(value).sum::<f64>() as i64;
        self.request_timeouts.set(sum(|broker| broker.req_timeouts));
        self.retries.set(sum(|broker| broker.txretries));
        let slowest = brokers.clone().map(|broker| broker.rtt.p99).fold(0.0, f64::max);
        self.round_trip_p99.set(slowest / 1e6);
        // A bootstrap address is listed with node id -1 until it is known which broker it is.
        let known = brokers.clone().filter(|broker| broker.nodeid >= 0.0);
        let up = brokers.filter(|broker| broker.state == "UP").count();
        let mut connected = known.clone().filter(|broker| broker.state == "UP").peekable();
        let is_unanswered = connected.peek().is_some()
            && connected.all(|broker| broker.waitresp_cnt > 0.0 && broker.rxidle >= SILENT_MICROS);
        self.brokers.set(i64::try_from(known.count()).unwrap_or(i64::MAX));
        self.brokers_up.set(i64::try_from(up).unwrap_or(i64::MAX));
        Some(ClientState { is_any_broker_up: up > 0, is_unanswered, has_producer_id: statistics.has_producer_id() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_become_gauges_and_malformed_ones_are_passed_over() {
        let metrics = KafkaMetrics::register(&Registry::new()).unwrap();
        let json = br#"{"msg_cnt":3,"msg_size":300,"replyq":1,"other":[],"eos":{"idemp_state":"Assigned"},"brokers":{
            "a:1/1":{"nodeid":1,"state":"UP","req_timeouts":2,"txretries":1,"rtt":{"p99":2500}},
            "b:1/2":{"nodeid":2,"state":"CONNECT","rtt":{"p99":500}},
            "a:1/bootstrap":{"nodeid":-1,"state":"UP"}}}"#;
        let well = ClientState { is_any_broker_up: true, is_unanswered: false, has_producer_id: true };
        assert_eq!(metrics.observe(json), Some(well));
        assert_eq!(
            (metrics.queue_records.get(), metrics.queue_bytes.get(), metrics.reports_waiting.get()),
            (3, 300, 1)
        );
        assert_eq!((metrics.brokers.get(), metrics.brokers_up.get()), (2, 2));
        assert_eq!((metrics.request_timeouts.get(), metrics.retries.get()), (2, 1));
        assert!((metrics.round_trip_p99.get() - 0.0025).abs() < 1e-9);
        assert_eq!(metrics.observe(br#"{"msg_cnt":4,"#), None);
        for (waiting, idle, is_unanswered) in [(3, 1_500_000, true), (3, 900_000, false), (0, 1_500_000, false)] {
            let json = format!(
                r#"{{"brokers":{{"a:1/bootstrap":{{"nodeid":-1,"state":"UP"}},"b:1/2":{{"nodeid":2,"state":"CONNECT"}},
                "a:1/1":{{"nodeid":1,"state":"UP","waitresp_cnt":{waiting},"rxidle":{idle}}}}}}}"#
            );
            let state = metrics.observe(json.as_bytes()).unwrap();
            assert_eq!(state.is_unanswered, is_unanswered, "{json}");
        }
        metrics.observe(json);
        assert_eq!(metrics.queue_records.get(), 3);
    }
}
