//! A blocklist topic on a real Kafka, whoever writes it, and what a bridge that follows it answers.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::Header;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::BaseProducer;
use rdkafka::producer::BaseRecord;
use rdkafka::producer::Producer;
use serde_json::Value;
use serde_json::json;

use crate::support::bridge::Bridge;
use crate::support::http::Client;
use crate::support::http::callback_target;
use crate::support::kafka::Kafka;
use crate::support::wait;

/// The before-callback that the tests ask with.
pub(crate) const COMMAND: &str = "OfficialAccount.CallbackBeforeAddSubscriber";
/// The value of a rule.
pub(crate) const VALUE: &str = r#"{"who":"alice","when":"2026-05-28T20:26:40Z","source":"cli"}"#;

/// For one answer of the broker.
const REQUEST: Duration = Duration::from_secs(30);

/// A blocklist topic and whoever writes it.
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) producer: BaseProducer,
    pub(crate) identity: String,
}

impl Topic {
    /// Writes to the topic of this name, which exists.
    pub(crate) fn at(kafka: &Kafka, name: &str) -> Self {
        let mut config: ClientConfig = kafka.client();
        config.set("acks", "all").set("linger.ms", "0");
        Self { name: name.to_owned(), producer: config.create().unwrap(), identity: String::new() }
    }

    /// Makes the topic, and declares its identity as the first writer does.
    pub(crate) fn make(kafka: &Kafka, name: &str, identity: &str, settings: &[(&str, &str)]) -> Self {
        let settings = [&[("cleanup.policy", "compact")], settings].concat();
        kafka.create_topic_with(name, 1, 1, &settings);
        let mut topic = Self::at(kafka, name);
        topic.declare(identity);
        topic
    }

    /// Declares the identity that records from now on name.
    pub(crate) fn declare(&mut self, identity: &str) {
        self.write(Some(&format!("topic\u{1f}{identity}")), Some(VALUE.as_bytes()), None);
        identity.clone_into(&mut self.identity);
    }

    /// Writes a rule.
    pub(crate) fn put(&self, key: &str) {
        self.write(Some(key), Some(VALUE.as_bytes()), Some(&self.identity));
    }

    /// Removes a rule.
    pub(crate) fn delete(&self, key: &str) {
        self.write(Some(key), None, Some(&self.identity));
    }

    /// Writes a record to partition 0, and waits until it is acknowledged.
    pub(crate) fn write(&self, key: Option<&str>, value: Option<&[u8]>, identity: Option<&str>) {
        self.send(key, value, identity);
        self.producer.flush(REQUEST).unwrap();
    }

    /// The same of a key that is no text.
    pub(crate) fn write_bytes(&self, key: Option<&[u8]>, value: Option<&[u8]>, identity: Option<&str>) {
        self.send_bytes(key, value, identity);
        self.producer.flush(REQUEST).unwrap();
    }

    /// Writes a record to partition 0 soon.
    pub(crate) fn send(&self, key: Option<&str>, value: Option<&[u8]>, identity: Option<&str>) {
        self.send_bytes(key.map(str::as_bytes), value, identity);
    }

    fn send_bytes(&self, key: Option<&[u8]>, value: Option<&[u8]>, identity: Option<&str>) {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.name).partition(0);
        (record.key, record.payload) = (key, value);
        if let Some(identity) = identity {
            record = record.headers(OwnedHeaders::new().insert(Header { key: "topic", value: Some(identity) }));
        }
        self.producer.send(record).map_err(|(error, _record)| error).unwrap();
    }
}

/// Starts a bridge in `memory` mode that follows `topic`.
pub(crate) fn bridge(kafka: &Kafka, topic: &str, settings: &str) -> Bridge {
    let settings = format!("callbacks.keep_accepting_ms = 0\nblocklist.topic = {topic:?}\n{settings}");
    let brokers = kafka.bootstrap();
    Bridge::builder().brokers(&brokers).ack("memory").topics(topic).settings(&settings).start()
}

/// Which of `users` are refused on `account`.
pub(crate) fn refused_on(bridge: &Bridge, app: &str, account: &str, users: &[&str]) -> Vec<String> {
    let users: Vec<Value> = users.iter().map(|user| json!({"Subscriber_Account": user})).collect();
    let body = json!({"CallbackCommand": COMMAND, "Official_Account": account, "SubscribeAccountList": users});
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let response = client.post(&callback_target(app, COMMAND), body.to_string().as_bytes()).unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    let answer: Value = serde_json::from_slice(&response.body).unwrap();
    if answer["ErrorCode"] == 1 {
        return vec![answer["ErrorInfo"].as_str().unwrap().to_owned()];
    }
    let refused = answer["RefusedSubscribers_Account"].as_array().into_iter().flatten();
    refused.map(|user| user.as_str().unwrap().to_owned()).collect()
}

/// Whether the bridge says that it is in this state with the topic.
pub(crate) fn state(bridge: &Bridge, topic: &str, state: &str) -> bool {
    bridge.metrics()[&format!("callbridge_blocklist_topic_state{{state=\"{state}\",topic=\"{topic}\"}}")] == 1.0
}

/// Waits until it says so.
pub(crate) fn wait_for_state(bridge: &Bridge, topic: &str, wanted: &str) {
    wait::until(wanted, || state(bridge, topic, wanted));
}

/// A metric of the topic.
pub(crate) fn of_topic(bridge: &Bridge, metric: &str, topic: &str) -> f64 {
    bridge.metrics()[&format!("callbridge_blocklist_topic_{metric}{{topic=\"{topic}\"}}")]
}
