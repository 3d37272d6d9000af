//! The Kafka of the benchmarks: one node of Apache Kafka, or three.

use std::fs;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::process;
use std::thread;
use std::time::Duration;

use callbridge::clock;
use rdkafka::ClientConfig;
use rdkafka::producer::BaseProducer;
use rdkafka::producer::Producer;
use rustix::process::Signal;

use crate::options::OUTPUT;
use crate::process::Process;
use crate::process::command;

/// Apache Kafka's jars, as `make kafka` leaves them.
const JARS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/kafka-4.3.0/libs");

/// How long a node may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(180);

/// A running cluster.
pub(crate) struct Broker {
    /// `HOST:PORT,…` of its nodes.
    pub(crate) address: String,
    nodes: Vec<Process>,
}

impl Broker {
    /// Starts so many nodes, and waits until all of them are there.
    pub(crate) fn start(nodes: usize) -> io::Result<Self> {
        if !Path::new(JARS).is_dir() {
            return Err(io::Error::other(format!("there is no Apache Kafka at {JARS}: run make kafka")));
        }
        let ports = free_ports(nodes)?;
        let running = (1..).zip(&ports).map(|(id, _)| start_node(id, &ports)).collect::<io::Result<Vec<_>>>()?;
        let addresses: Vec<String> = ports.iter().map(|ports| format!("127.0.0.1:{}", ports.clients)).collect();
        let broker = Self { address: addresses.join(","), nodes: running };
        broker.wait_for_all()?;
        Ok(broker)
    }

    pub(crate) fn name(&self) -> String {
        format!("Apache Kafka 4.3.0, nodes: {}", self.nodes.len())
    }

    pub(crate) const fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// User and system time of all nodes since their start.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        self.nodes.iter().map(Process::cpu).sum()
    }

    /// Stops every node by SIGSTOP for so long: connections stay open, and nothing is answered.
    pub(crate) fn freeze_for(&self, duration: Duration) -> io::Result<()> {
        self.nodes.iter().try_for_each(|node| node.signal(Signal::STOP))?;
        thread::sleep(duration);
        self.nodes.iter().try_for_each(|node| node.signal(Signal::CONT))
    }

    /// The bytes of a topic's log files, on all nodes.
    pub(crate) fn bytes_of(&self, topic: &str) -> io::Result<u64> {
        let mut bytes = 0;
        for id in 1..=self.nodes.len() {
            for partition in fs::read_dir(folder(id).join("data"))? {
                let partition = partition?;
                let name = partition.file_name();
                if name.to_str().and_then(|name| name.rsplit_once('-')).is_some_and(|(of, _number)| of == topic) {
                    bytes += log_bytes(&partition.path())?;
                }
            }
        }
        Ok(bytes)
    }

    fn wait_for_all(&self) -> io::Result<()> {
        let mut config = ClientConfig::new();
        let client: BaseProducer = config.set("bootstrap.servers", &self.address).create().map_err(io::Error::other)?;
        let deadline = clock::monotonic() + START_LIMIT;
        while clock::monotonic() < deadline {
            let metadata = client.client().fetch_metadata(None, Duration::from_secs(1));
            if metadata.is_ok_and(|metadata| metadata.brokers().len() == self.nodes.len()) {
                return Ok(());
            }
        }
        Err(io::Error::other(format!("Kafka does not answer; see {OUTPUT}/kafka-1/log")))
    }
}

/// The bytes of the log files in the folder of a partition.
fn log_bytes(partition: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for file in fs::read_dir(partition)? {
        let file = file?;
        if file.path().extension().is_some_and(|extension| extension == "log") {
            bytes += file.metadata()?.len();
        }
    }
    Ok(bytes)
}

#[derive(Clone, Copy)]
struct Ports {
    clients: u16,
    controller: u16,
}

fn start_node(id: usize, ports: &[Ports]) -> io::Result<Process> {
    let folder = folder(id);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let file = folder.join("server.properties");
    fs::write(&file, properties(id, ports))?;
    let log = File::create(folder.join("log"))?;
    // The cluster's id is 16 bytes, any, in base64.
    let format = ["format", "-t", "Y2FsbGJyaWRnZS1iZW5jaA", "-c"];
    let formatted = java(&log)?.arg("kafka.tools.StorageTool").args(format).arg(&file).output()?;
    if !formatted.status.success() {
        return Err(io::Error::other(format!("Kafka's storage was not formatted; see {}/log", folder.display())));
    }
    Process::start("Kafka", java(&log)?.arg("kafka.Kafka").arg(&file))
}

fn folder(id: usize) -> PathBuf {
    Path::new(OUTPUT).join(format!("kafka-{id}"))
}

fn java(log: &File) -> io::Result<process::Command> {
    let mut command = command("java")?;
    command.args(["-Xms1g", "-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]);
    command.arg(format!("{JARS}/*")).stderr(log.try_clone()?);
    Ok(command)
}

/// A node keeps the last 48 MiB of a partition, makes no topics by itself, and is not taken for dead while it is frozen.
fn properties(id: usize, ports: &[Ports]) -> String {
    let voters: Vec<String> = (1..).zip(ports).map(|(id, of)| format!("{id}@127.0.0.1:{}", of.controller)).collect();
    let (voters, copies) = (voters.join(","), ports.len());
    let data = folder(id).join("data");
    let Ports { clients, controller } = ports.get(id - 1).copied().unwrap_or(Ports { clients: 0, controller: 0 });
    format!(
        "process.roles=broker,controller\n\
         node.id={id}\n\
         controller.quorum.voters={voters}\n\
         listeners=CLIENT://127.0.0.1:{clients},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=CLIENT://127.0.0.1:{clients}\n\
         listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         controller.listener.names=CONTROLLER\n\
         inter.broker.listener.name=CLIENT\n\
         log.dirs={}\n\
         auto.create.topics.enable=false\n\
         offsets.topic.replication.factor={copies}\n\
         transaction.state.log.replication.factor={copies}\n\
         transaction.state.log.min.isr=1\n\
         broker.session.timeout.ms=60000\n\
         log.segment.bytes=16777216\n\
         log.retention.bytes=33554432\n\
         log.retention.check.interval.ms=5000\n\
         log.segment.delete.delay.ms=1000\n\
         num.network.threads=2\n\
         num.io.threads=2\n\
         log.cleaner.threads=1\n",
        data.display()
    )
}

/// Ports that were free a moment ago, held until all are found.
fn free_ports(nodes: usize) -> io::Result<Vec<Ports>> {
    let listeners = (0..2 * nodes).map(|_port| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<Vec<_>>>()?;
    let ports = listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<io::Result<Vec<_>>>()?;
    Ok(ports.as_chunks().0.iter().map(|&[clients, controller]| Ports { clients, controller }).collect())
}
