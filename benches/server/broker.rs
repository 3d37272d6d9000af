//! The broker behind callbridge: one node of Apache Kafka, or librdkafka's mock cluster in a process of its own.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process;
use std::time::Duration;

use callbridge::clock;
use clap::ValueEnum;
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::BaseProducer;
use rdkafka::producer::Producer;
use rustix::process::Signal;

use crate::callback::Command;
use crate::options::BrokerKind;
use crate::options::Mode;
use crate::options::OUTPUT;
use crate::process::Process;
use crate::process::command;

/// Apache Kafka's jars, as `make kafka` leaves them.
const JARS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/kafka-4.3.0/libs");

/// Of each topic of the mock cluster.
const MOCK_PARTITIONS: i32 = 4;

/// How long a broker may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running broker.
pub(crate) struct Broker {
    pub(crate) kind: BrokerKind,
    /// Its `HOST:PORT`.
    pub(crate) address: String,
    process: Process,
}

impl Broker {
    /// Starts `kind`, or the best there is, and waits until it answers.
    pub(crate) fn start(kind: Option<BrokerKind>) -> io::Result<Self> {
        let kind = kind.unwrap_or_else(|| if kafka_is_here() { BrokerKind::Kafka } else { BrokerKind::Mock });
        match kind {
            BrokerKind::Kafka => start_kafka(),
            BrokerKind::Mock => start_mock(),
        }
    }

    pub(crate) const fn name(&self) -> &'static str {
        match self.kind {
            BrokerKind::Kafka => "Apache Kafka 4.3.0, one node",
            BrokerKind::Mock => "librdkafka's mock cluster (not a real broker: its figures flatter broker mode)",
        }
    }

    /// Stops it where it stands: its connections stay open, and nothing is answered.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) -> io::Result<()> {
        self.process.signal(Signal::CONT)
    }
}

/// Is the mock cluster, until its standard input ends. It cannot be asked to make topics, so they are there.
pub(crate) fn serve_mock() -> io::Result<()> {
    let cluster = MockCluster::new(1).map_err(io::Error::other)?;
    for &mode in Mode::value_variants() {
        let names = [Command::After.name(), Command::Before.name(), "unknown", "rejected"];
        for name in names.map(|name| format!("{}.{name}", mode.topic_prefix())) {
            cluster.create_topic(&name, MOCK_PARTITIONS, 1).map_err(io::Error::other)?;
        }
    }
    println!("{}", cluster.bootstrap_servers());
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn start_mock() -> io::Result<Broker> {
    let process = Process::role("mock broker", &["mock"])?;
    let address = process.line(START_LIMIT)?;
    Ok(Broker { kind: BrokerKind::Mock, address, process })
}

fn kafka_is_here() -> bool {
    Path::new(JARS).is_dir() && process::Command::new("java").arg("-version").output().is_ok()
}

fn start_kafka() -> io::Result<Broker> {
    let folder = Path::new(OUTPUT).join("kafka");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let (clients, controller) = free_ports()?;
    let properties = folder.join("server.properties");
    fs::write(&properties, kafka_properties(&folder, clients, controller))?;
    let log = File::create(folder.join("log"))?;
    // The cluster's id is 16 bytes, any, in base64.
    let format = ["format", "-t", "Y2FsbGJyaWRnZS1iZW5jaA", "-c"];
    let formatted = java(&log)?.arg("kafka.tools.StorageTool").args(format).arg(&properties).output()?;
    if !formatted.status.success() {
        return Err(io::Error::other("Kafka's storage was not formatted; see target/bench/kafka/log"));
    }
    let process = Process::start("Kafka", java(&log)?.arg("kafka.Kafka").arg(&properties))?;
    let address = format!("127.0.0.1:{clients}");
    wait_for_metadata(&address)?;
    Ok(Broker { kind: BrokerKind::Kafka, address, process })
}

fn java(log: &File) -> io::Result<process::Command> {
    let mut command = command("java")?;
    command.args(["-Xms1g", "-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]);
    command.arg(format!("{JARS}/*")).stderr(log.try_clone()?);
    Ok(command)
}

/// One node that keeps the last 48 MiB of a partition, makes no topics by itself, and is not taken for dead while it is frozen.
fn kafka_properties(folder: &Path, clients: u16, controller: u16) -> String {
    let data = folder.join("data");
    let data = data.display();
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=CLIENT://127.0.0.1:{clients},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=CLIENT://127.0.0.1:{clients}\n\
         listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         controller.listener.names=CONTROLLER\n\
         inter.broker.listener.name=CLIENT\n\
         log.dirs={data}\n\
         auto.create.topics.enable=false\n\
         offsets.topic.replication.factor=1\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         broker.session.timeout.ms=60000\n\
         log.segment.bytes=16777216\n\
         log.retention.bytes=33554432\n\
         log.retention.check.interval.ms=5000\n\
         log.segment.delete.delay.ms=1000\n\
         num.network.threads=2\n\
         num.io.threads=2\n\
         log.cleaner.threads=1\n"
    )
}

/// Two ports that were free a moment ago.
fn free_ports() -> io::Result<(u16, u16)> {
    let (first, second) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok((first.local_addr()?.port(), second.local_addr()?.port()))
}

fn wait_for_metadata(address: &str) -> io::Result<()> {
    let client: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", address).create().map_err(io::Error::other)?;
    let deadline = clock::monotonic() + START_LIMIT;
    loop {
        match client.client().fetch_metadata(None, Duration::from_secs(1)) {
            Ok(metadata) if !metadata.brokers().is_empty() => return Ok(()),
            Ok(_) | Err(_) if clock::monotonic() < deadline => {}
            Ok(_) | Err(_) => return Err(io::Error::other("Kafka does not answer; see target/bench/kafka/log")),
        }
    }
}
