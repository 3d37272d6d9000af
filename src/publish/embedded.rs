//! A Kafka broker inside this process, for evaluation: librdkafka's mock cluster. It keeps nothing on disk, and at most 5 MiB a partition.

use std::net::TcpStream;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::error::KafkaResult;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::kafka::ClientError;

/// The period of waking the cluster while its topics are made.
const BETWEEN_WAKES: Duration = Duration::from_millis(1);

/// One broker on 127.0.0.1, on a free port. Ends when dropped.
#[derive(Debug)]
pub(crate) struct EmbeddedBroker {
    bootstrap: String,
    /// The cluster must stay on the thread that has created it.
    thread: Option<JoinHandle<()>>,
    end: Option<mpsc::Sender<()>>,
}

impl EmbeddedBroker {
    /// Starts a broker with `topics`, each with this many partitions, and `lists`, each with one.
    ///
    /// # Errors
    ///
    /// librdkafka could not start it, or the system has no more threads.
    pub(crate) fn start(topics: &[String], partitions: i32, lists: &[String]) -> Result<Self, ClientError> {
        let topics = topics.iter().map(|topic| (topic.clone(), partitions));
        let topics: Vec<(String, i32)> = topics.chain(lists.iter().map(|topic| (topic.clone(), 1))).collect();
        let (end, until_end) = mpsc::channel();
        let (started, has_started) = mpsc::sync_channel(1);
        let run = move || {
            let cluster = cluster(&topics);
            let _sent = started.send(cluster.as_ref().map(MockCluster::bootstrap_servers).map_err(Clone::clone));
            // Until the other end is dropped.
            let _ended = until_end.recv();
        };
        let no_thread = || KafkaError::ClientCreation("no thread for the embedded broker".into());
        let thread = thread::Builder::new().name("embedded".to_owned()).spawn(run).map_err(|_error| no_thread())?;
        let bootstrap = has_started.recv().map_err(|_ended| no_thread())??;
        Ok(Self { bootstrap, thread: Some(thread), end: Some(end) })
    }

    /// Its address: `HOST:PORT`.
    pub(crate) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }
}

fn cluster(topics: &[(String, i32)]) -> KafkaResult<MockCluster<'static, DefaultProducerContext>> {
    let cluster = MockCluster::new(1)?;
    let address = cluster.bootstrap_servers();
    let is_done = AtomicBool::new(false);
    let created = thread::scope(|scope| {
        // The mock cluster misses a request that arrives while it finishes the one before, and then sleeps for a second. A connection wakes
        // it.
        let wake = || {
            while !is_done.load(Ordering::Relaxed) {
                // A failed attempt does no harm: there is a next one.
                let _connection = TcpStream::connect(&address);
                thread::sleep(BETWEEN_WAKES);
            }
        };
        scope.spawn(wake);
        let created = topics.iter().try_for_each(|(topic, partitions)| cluster.create_topic(topic, *partitions, 1));
        is_done.store(true, Ordering::Relaxed);
        created
    });
    created.map(|()| cluster)
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_broker_with_as_many_topics_as_there_are_commands_starts_within_a_second() {
        let topics: Vec<String> = (0..66).map(|number| format!("topic-{number}")).collect();
        let mut took: Vec<Duration> = (0..20)
            .map(|_nth| {
                let began = clock::monotonic();
                EmbeddedBroker::start(&topics, 6, &[]).unwrap();
                clock::monotonic() - began
            })
            .collect();
        took.sort_unstable();
        // A busy machine may take longer once; each request that is missed costs a second.
        assert!(took[14] < Duration::from_secs(1), "{took:?}");
    }
}
