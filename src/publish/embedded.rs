//! A Kafka inside this process, for trying callbridge out: librdkafka's cluster for its own tests. Nothing is kept, on disk or
//! beyond 5 MiB a partition.

use std::sync::mpsc;
use std::thread;
use std::thread::JoinHandle;

use rdkafka::error::KafkaError;
use rdkafka::error::KafkaResult;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::kafka::ClientError;

/// One broker on 127.0.0.1, on a port of its own choice. Gone when dropped.
#[derive(Debug)]
pub(crate) struct EmbeddedBroker {
    bootstrap: String,
    /// The cluster cannot leave the thread that has made it.
    thread: Option<JoinHandle<()>>,
    end: Option<mpsc::Sender<()>>,
}

impl EmbeddedBroker {
    /// Starts a broker that has `topics`, each with this many partitions.
    ///
    /// # Errors
    ///
    /// librdkafka could not start it, or the system gives no thread.
    pub(crate) fn start(topics: &[String], partitions: i32) -> Result<Self, ClientError> {
        let topics = topics.to_vec();
        let (end, until_end) = mpsc::channel();
        let (started, has_started) = mpsc::sync_channel(1);
        let run = move || {
            let cluster = cluster(&topics, partitions);
            let _told = started.send(cluster.as_ref().map(MockCluster::bootstrap_servers).map_err(Clone::clone));
            // Until the other end is dropped.
            let _ended = until_end.recv();
        };
        let no_thread = || KafkaError::ClientCreation("no thread for the embedded broker".into());
        let thread = thread::Builder::new().name("embedded".to_owned()).spawn(run).map_err(|_error| no_thread())?;
        let bootstrap = has_started.recv().map_err(|_ended| no_thread())??;
        Ok(Self { bootstrap, thread: Some(thread), end: Some(end) })
    }

    /// Where clients find it: `HOST:PORT`.
    pub(crate) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }
}

fn cluster(topics: &[String], partitions: i32) -> KafkaResult<MockCluster<'static, DefaultProducerContext>> {
    let cluster = MockCluster::new(1)?;
    for topic in topics {
        cluster.create_topic(topic, partitions, 1)?;
    }
    Ok(cluster)
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}
