//! A Kafka inside this process, for trying callbridge out: librdkafka's cluster for its own tests. Nothing is kept, on disk or
//! beyond 5 MiB a partition.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::kafka::ClientError;

/// One broker on 127.0.0.1, on a port of its own choice. Gone when dropped.
pub(crate) struct EmbeddedBroker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl std::fmt::Debug for EmbeddedBroker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("EmbeddedBroker").field("bootstrap", &self.bootstrap()).finish()
    }
}

impl EmbeddedBroker {
    /// Starts a broker that has `topics`, each with this many partitions.
    ///
    /// # Errors
    ///
    /// librdkafka could not start it.
    pub(crate) fn start(topics: &[String], partitions: i32) -> Result<Self, ClientError> {
        let cluster = MockCluster::new(1)?;
        for topic in topics {
            cluster.create_topic(topic, partitions, 1)?;
        }
        Ok(Self { cluster })
    }

    /// Where clients find it: `HOST:PORT`.
    pub(crate) fn bootstrap(&self) -> String {
        self.cluster.bootstrap_servers()
    }
}
