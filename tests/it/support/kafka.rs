//! A real Apache Kafka: one node or three, in KRaft mode, on ports and in folders of their own.
//!
//! It stops with the value, and with the test process, however that ends.

use std::collections::BTreeMap;
use std::fs;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::TcpStream;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use callbridge::clock;
use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::admin::AdminOptions;
use rdkafka::admin::AlterConfig;
use rdkafka::admin::NewPartitions;
use rdkafka::admin::NewTopic;
use rdkafka::admin::ResourceSpecifier;
use rdkafka::admin::TopicReplication;
use rdkafka::client::DefaultClientContext;
use rustix::process::Pid;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::runtime;

use crate::support::alone::Alone;
use crate::support::java;
use crate::support::ports;
use crate::support::process;
use crate::support::process::Process;
use crate::support::real;
use crate::support::tls;
use crate::support::tls::Certificate;
use crate::support::wait;

/// From the start of a node to its place in the metadata; a busy machine with three nodes needs a while.
const READY: Duration = Duration::from_secs(90);

/// For one answer of the broker.
const REQUEST: Duration = Duration::from_secs(30);

const USER: &str = "alice";
const USER_PASSWORD: &str = "alice-secret";

/// What to start.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    /// 1 or 3.
    pub(crate) nodes: usize,
    /// Clients must speak TLS and log in by SCRAM-SHA-256.
    pub(crate) tls_and_scram: bool,
}

/// A running cluster.
pub(crate) struct Kafka {
    nodes: Vec<Node>,
    certificate: Option<Certificate>,
    /// Three nodes, or a test that loads the machine on purpose, would starve another such test.
    _alone: Option<Alone>,
}

/// One process of it, which may be frozen, killed and started again.
pub(crate) struct Node {
    id: i32,
    process: Process,
    /// A client that knows this node only.
    client: ClientConfig,
    /// The port that speaks in the clear, whatever the clients do.
    internal: u16,
    folder: TempDir,
}

/// What the cluster says of a topic.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) partitions: Vec<Partition>,
    pub(crate) configs: BTreeMap<String, String>,
}

/// Who leads it and who has copies, by node id, counted from 1.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) leader: i32,
    pub(crate) replicas: Vec<i32>,
    pub(crate) in_sync: Vec<i32>,
}

impl Kafka {
    /// One node that all tests of this process share, each with topics of its own; it must not be killed or frozen.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Kafka>> = OnceLock::new();
        real::found_or_skipped(java::available())?;
        SHARED.get_or_init(|| Self::start(1)).as_ref()
    }

    /// `nodes` nodes that speak in the clear.
    pub(crate) fn start(nodes: usize) -> Option<Self> {
        Self::with(Settings { nodes, tls_and_scram: false })
    }

    /// One node for a test that loads the whole machine. Those that wait for the lock have theirs already.
    pub(crate) fn start_alone() -> Option<Self> {
        Self::start(1).map(|kafka| Self { _alone: Some(Alone::take()), ..kafka })
    }

    /// Starts what `settings` say, and waits until it is ready. Nothing when there is no Java: the test shall return.
    ///
    /// # Panics
    /// When it does not get ready, with the end of a node's log.
    pub(crate) fn with(settings: Settings) -> Option<Self> {
        real::found_or_skipped(java::available())?;
        let mut alone = (settings.nodes > 1).then(Alone::take);
        let mut attempts = 3;
        loop {
            attempts -= 1;
            match Self::launch(settings) {
                Ok(kafka) => return Some(Self { _alone: alone.take(), ..kafka }),
                // Between the choice of a port and its use somebody may take it.
                Err(log) if attempts > 0 && log.contains("Address already in use") => {}
                Err(log) => panic!("Kafka did not start:\n{}", process::tail(&log, 40)),
            }
        }
    }

    fn launch(settings: Settings) -> Result<Self, String> {
        let certificate = settings.tls_and_scram.then(Certificate::make);
        let layouts = Layout::of_all(settings.nodes, certificate.as_ref());
        format(&layouts)?;
        let nodes = layouts.into_iter().map(|layout| Node::start(layout, certificate.as_ref())).collect();
        let mut kafka = Self { nodes, certificate, _alone: None };
        let ids: Vec<i32> = kafka.nodes.iter().map(|node| node.id).collect();
        kafka.nodes.iter_mut().try_for_each(|node| node.wait_until_ready(&ids))?;
        Ok(kafka)
    }

    /// Where clients find it: `HOST:PORT,…`.
    pub(crate) fn bootstrap(&self) -> String {
        let addresses: Vec<&str> = self.nodes.iter().filter_map(|node| node.client.get("bootstrap.servers")).collect();
        addresses.join(",")
    }

    /// Where clients find one node: `HOST:PORT`.
    pub(crate) fn node_address(&self, id: i32) -> String {
        let node = self.nodes.iter().find(|node| node.id == id).unwrap();
        node.client.get("bootstrap.servers").unwrap().to_owned()
    }

    /// Where the first node speaks in the clear, whatever clients must do elsewhere: `HOST:PORT`.
    pub(crate) fn plaintext_address(&self) -> String {
        format!("127.0.0.1:{}", self.nodes[0].internal)
    }

    /// The client properties that lead there, by librdkafka's names.
    pub(crate) fn properties(&self) -> Vec<(String, String)> {
        properties(&self.bootstrap(), self.certificate.as_ref())
    }

    /// The same for rdkafka.
    pub(crate) fn client(&self) -> ClientConfig {
        self.properties().into_iter().collect()
    }

    /// The node that Kafka knows by `id`; the first is 1.
    pub(crate) fn node(&mut self, id: i32) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).unwrap()
    }

    /// Waits until the first of these nodes shows exactly them to its clients. Another one may be frozen, and show nothing.
    pub(crate) fn wait_until_there(&self, ids: &[i32]) {
        let asked = self.nodes.iter().find(|node| ids.contains(&node.id)).unwrap();
        let admin = admin(&asked.client);
        wait::until("the nodes are there, and no others", || brokers_of(&admin) == ids);
    }

    /// Makes a topic that takes records while all but one of its copies are there, and waits for its leaders.
    pub(crate) fn create_topic(&self, name: &str, partitions: i32, replication: i32) {
        self.create_topic_with(name, partitions, replication, &[]);
    }

    /// The same, with settings of its own.
    pub(crate) fn create_topic_with(&self, name: &str, partitions: i32, replication: i32, settings: &[(&str, &str)]) {
        let min_in_sync = (replication - 1).max(1).to_string();
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replication))
            .set("min.insync.replicas", &min_in_sync);
        let topic = settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
        let admin = admin(&self.client());
        block_on(admin.create_topics(&[topic], &options())).unwrap()[0].as_ref().unwrap();
        wait::until("the topic has its leaders", || {
            let partitions = partitions_of(&admin, name);
            !partitions.is_empty() && partitions.iter().all(|it| it.leader > 0)
        });
    }

    /// Makes a topic of one partition with these replicas, of which the first is to lead, and waits until it does.
    pub(crate) fn create_topic_on(&self, name: &str, replicas: &[i32]) {
        let topic = NewTopic::new(name, 1, TopicReplication::Variable(std::slice::from_ref(&replicas)))
            .set("min.insync.replicas", "2");
        let admin = admin(&self.client());
        block_on(admin.create_topics(&[topic], &options())).unwrap()[0].as_ref().unwrap();
        let leads = |partitions: &[Partition]| partitions.iter().any(|it| it.leader == replicas[0]);
        wait::until("the first replica leads", || leads(&partitions_of(&admin, name)));
    }

    /// The first partition of a topic, also while nodes are away.
    pub(crate) fn partition(&self, topic: &str) -> Partition {
        partitions_of(&admin(&self.client()), topic).remove(0)
    }

    /// Waits until every replica of a topic is in sync.
    pub(crate) fn wait_until_in_sync(&self, name: &str) {
        let is_in_sync = |partition: &Partition| partition.in_sync.len() == partition.replicas.len();
        wait::until("all replicas are in sync", || self.describe(name).partitions.iter().all(is_in_sync));
    }

    /// Deletes a topic, and waits until it is gone.
    pub(crate) fn delete_topic(&self, name: &str) {
        let admin = admin(&self.client());
        block_on(admin.delete_topics(&[name], &options())).unwrap()[0].as_ref().unwrap();
        wait::until("the topic is gone", || partitions_of(&admin, name).is_empty());
    }

    /// Gives a topic more partitions: so many in all.
    pub(crate) fn add_partitions(&self, name: &str, partitions: usize) {
        let admin = admin(&self.client());
        let added = block_on(admin.create_partitions(&[NewPartitions::new(name, partitions)], &options()));
        added.unwrap()[0].as_ref().unwrap();
        wait::until("the partitions are there", || partitions_of(&admin, name).len() == partitions);
    }

    /// Gives a topic these settings, and takes away those that it had.
    pub(crate) fn alter_topic(&self, name: &str, settings: &[(&str, &str)]) {
        let altered = settings
            .iter()
            .fold(AlterConfig::new(ResourceSpecifier::Topic(name)), |altered, (name, value)| altered.set(name, value));
        let admin = admin(&self.client());
        block_on(admin.alter_configs(&[altered], &options())).unwrap()[0].as_ref().unwrap();
        let are_known = || {
            let known = configs_of(&admin, name);
            settings.iter().all(|(name, value)| known.get(*name).is_some_and(|known| known == value))
        };
        wait::until("the topic has its new settings", are_known);
    }

    /// Takes the right from the user to read the settings of topics. For a cluster where clients log in.
    pub(crate) fn forbid_describing_topics(&self) {
        self.create_acls(&[topic_acl("*", OPERATION_ALL, ALLOW), topic_acl("*", OPERATION_DESCRIBE_CONFIGS, DENY)]);
    }

    /// Takes the right from the user to write to a topic. For a cluster where clients log in.
    pub(crate) fn forbid_writing(&self, topic: &str) {
        self.create_acls(&[topic_acl("*", OPERATION_ALL, ALLOW), topic_acl(topic, OPERATION_WRITE, DENY)]);
    }

    /// Gives it back.
    pub(crate) fn permit_writing(&self, topic: &str) {
        self.delete_acl(&topic_acl(topic, OPERATION_WRITE, DENY));
    }

    /// Takes the right from the user to see a topic. For a cluster where clients log in.
    pub(crate) fn forbid_describing(&self, topic: &str) {
        self.create_acls(&[topic_acl("*", OPERATION_ALL, ALLOW), topic_acl(topic, OPERATION_DESCRIBE, DENY)]);
    }

    /// Takes the right from the user to read a topic. For a cluster where clients log in.
    pub(crate) fn forbid_reading(&self, topic: &str) {
        self.create_acls(&[topic_acl("*", OPERATION_ALL, ALLOW), topic_acl(topic, OPERATION_READ, DENY)]);
    }

    /// Gives it back.
    pub(crate) fn permit_reading(&self, topic: &str) {
        self.delete_acl(&topic_acl(topic, OPERATION_READ, DENY));
    }

    fn delete_acl(&self, acl: &[u8]) {
        // DeleteAcls (31) in version 1 answers with a list of what it deleted for each filter.
        let answer = self.ask_as_super_user(31, &[&1_u32.to_be_bytes()[..], acl].concat());
        // Correlation id, throttle time, count, and the error code of the one filter.
        assert_eq!(answer[12..14], [0; 2], "{answer:?}");
    }

    fn create_acls(&self, acls: &[Vec<u8>]) {
        let count = u32::try_from(acls.len()).unwrap();
        // CreateAcls (30) in version 1.
        let answer = self.ask_as_super_user(30, &[&count.to_be_bytes()[..], &acls.concat()].concat());
        // Correlation id, throttle time, count, and for each rule an error code and an empty message.
        assert_eq!(answer[12..], vec![0; 4 * acls.len()], "{answer:?}");
    }

    /// Sends a request in version 1 to the listener where nobody logs in. Returns the answer without its length.
    fn ask_as_super_user(&self, api: u8, body: &[u8]) -> Vec<u8> {
        // Correlation id 0, no client id.
        let request = [&[0, api, 0, 1, 0, 0, 0, 0, 0xff, 0xff][..], body].concat();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.nodes[0].internal)).unwrap();
        stream.write_all(&[&u32::try_from(request.len()).unwrap().to_be_bytes()[..], &request].concat()).unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        stream.read_exact(&mut answer).unwrap();
        answer
    }

    /// Waits until Kafka knows the topic, and gives what it says of it.
    pub(crate) fn describe(&self, name: &str) -> Description {
        let admin = admin(&self.client());
        let mut description = Description { partitions: Vec::new(), configs: BTreeMap::new() };
        // Of a topic that is being made a broker may know either before the other. What it does not know is empty, not an
        // error.
        wait::until("the topic is known", || {
            description = Description { partitions: partitions_of(&admin, name), configs: configs_of(&admin, name) };
            !description.partitions.is_empty() && !description.configs.is_empty()
        });
        description
    }
}

// Numbers of Kafka's protocol.
const OPERATION_ALL: u8 = 2;
const OPERATION_READ: u8 = 3;
const OPERATION_WRITE: u8 = 4;
const OPERATION_DESCRIBE: u8 = 8;
const OPERATION_DESCRIBE_CONFIGS: u8 = 10;
const DENY: u8 = 2;
const ALLOW: u8 = 3;

/// A rule about the user and a topic, by its literal name or `*`, as in the requests to create and to delete one.
fn topic_acl(topic: &str, operation: u8, permission: u8) -> Vec<u8> {
    let text = |text: &str| [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
    let user = format!("User:{USER}");
    [&[2][..], &text(topic), &[3], &text(&user), &text("*"), &[operation, permission]].concat()
}

impl Node {
    fn start(layout: Layout, certificate: Option<&Certificate>) -> Self {
        let address = format!("127.0.0.1:{}", layout.ports.client);
        let client = properties(&address, certificate).into_iter().collect();
        let process = run(&layout.folder);
        Self { id: layout.id, process, client, internal: layout.ports.internal, folder: layout.folder }
    }

    /// Of the Java process.
    pub(crate) fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Ends it at once (SIGKILL) and waits for that. What it wrote stays.
    pub(crate) fn kill(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait(REQUEST);
    }

    /// Lets it hand over what it leads and end (SIGTERM), and waits for that.
    pub(crate) fn stop(&mut self) {
        self.process.signal(Signal::TERM);
        self.process.wait(REQUEST);
    }

    /// Stops it where it stands (SIGSTOP). Its connections stay open.
    pub(crate) fn freeze(&mut self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub(crate) fn thaw(&mut self) {
        self.process.signal(Signal::CONT);
    }

    /// Starts it again on the same folder and ports, and waits until it answers. After `kill` it leads its partitions
    /// again only when its old session has run out: six seconds or more after the kill.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.process = run(&self.folder);
        let id = self.id;
        if let Err(log) = self.wait_until_ready(&[id]) {
            panic!("Kafka did not start again:\n{}", process::tail(&log, 40));
        }
    }

    /// Waits until this node itself says that all of `ids` are there; else gives its log.
    fn wait_until_ready(&mut self, ids: &[i32]) -> Result<(), String> {
        let deadline = clock::monotonic() + READY;
        let admin = admin(&self.client);
        while clock::monotonic() < deadline && self.process.exit_code().is_none() {
            let there = brokers_of(&admin);
            if ids.iter().all(|id| there.contains(id)) {
                return Ok(());
            }
            thread::sleep(process::POLL);
        }
        let code = self.process.exit_code();
        Err(format!("{}{}node {}: exit code {code:?}", self.process.stdout(), self.process.stderr(), self.id))
    }
}

/// Where a node that does not run yet shall live.
struct Layout {
    id: i32,
    ports: Ports,
    folder: TempDir,
}

#[derive(Clone, Copy)]
struct Ports {
    client: u16,
    internal: u16,
    controller: u16,
}

impl Layout {
    /// Chooses ports and folders, and writes every node's `server.properties`.
    fn of_all(nodes: usize, certificate: Option<&Certificate>) -> Vec<Self> {
        let free = ports::free::<9>();
        let ports = free.chunks(3).map(|it| Ports { client: it[0], internal: it[1], controller: it[2] });
        let layouts: Vec<Self> =
            (1..).zip(ports.take(nodes)).map(|(id, ports)| Self { id, ports, folder: folder() }).collect();
        let voters: Vec<String> =
            layouts.iter().map(|it| format!("{}@127.0.0.1:{}", it.id, it.ports.controller)).collect();
        let spread = format!(
            "controller.quorum.voters={}\n\
             offsets.topic.replication.factor={nodes}\n\
             transaction.state.log.replication.factor={nodes}\n\
             share.coordinator.state.topic.replication.factor={nodes}\n",
            voters.join(",")
        );
        for layout in &layouts {
            let own = layout.properties(certificate);
            fs::write(layout.folder.path().join("server.properties"), format!("{COMMON}{spread}{own}")).unwrap();
        }
        layouts
    }

    fn properties(&self, certificate: Option<&Certificate>) -> String {
        let Ports { client, internal, controller } = self.ports;
        let protocol = if certificate.is_some() { "SASL_SSL" } else { "PLAINTEXT" };
        let both = format!("CLIENT://127.0.0.1:{client},INTERNAL://127.0.0.1:{internal}");
        let mut lines = format!(
            "node.id={}\n\
             log.dirs={}/data\n\
             listeners={both},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners={both}\n\
             listener.security.protocol.map=CLIENT:{protocol},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT\n",
            self.id,
            self.folder.path().display()
        );
        if let Some(certificate) = certificate {
            let store = certificate.key_store.display();
            let password = tls::PASSWORD;
            let login = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
            lines += &format!(
                "listener.name.client.ssl.keystore.type=PKCS12\n\
                 listener.name.client.ssl.keystore.location={store}\n\
                 listener.name.client.ssl.keystore.password={password}\n\
                 listener.name.client.ssl.key.password={password}\n\
                 sasl.enabled.mechanisms=SCRAM-SHA-256\n\
                 listener.name.client.sasl.enabled.mechanisms=SCRAM-SHA-256\n\
                 listener.name.client.scram-sha-256.sasl.jaas.config={login}\n\
                 authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
                 allow.everyone.if.no.acl.found=true\n\
                 super.users=User:ANONYMOUS\n"
            );
        }
        lines
    }
}

/// The same for every node.
const COMMON: &str = "\
process.roles=broker,controller
controller.listener.names=CONTROLLER
inter.broker.listener.name=INTERNAL
# As production has it; and the tests see a topic that is missing.
auto.create.topics.enable=false
offsets.topic.num.partitions=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# A killed broker is noticed in 6 s, not in 9.
broker.session.timeout.ms=6000
broker.heartbeat.interval.ms=1000
num.network.threads=2
num.io.threads=2
log.cleaner.threads=1
# Of 128 MiB, which it would take from the heap at the start.
log.cleaner.dedupe.buffer.size=4194304
";

/// A new folder under the target directory: journals and logs may be larger than `/tmp`.
fn folder() -> TempDir {
    TempDir::with_prefix_in("kafka-", env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn run(folder: &TempDir) -> Process {
    let mut args = java::args("kafka.Kafka");
    args.push(folder.path().join("server.properties").display().to_string());
    Process::start(folder.path(), "java", &args)
}

/// Makes the nodes' storage, at the same time for all.
fn format(layouts: &[Layout]) -> Result<(), String> {
    let random = || RandomState::new().hash_one(0);
    // 16 bytes in base64url. It must not begin with '-', so only hex digits are used.
    let cluster = format!("{:016x}{:05x}A", random(), random() & 0xf_ffff);
    let user = format!("SCRAM-SHA-256=[name=\"{USER}\",password=\"{USER_PASSWORD}\"]");
    let format_one = |layout: &Layout| {
        Command::new("java")
            .args(java::args("kafka.tools.StorageTool"))
            .args(["format", "-t", &cluster, "-S", &user, "-c"])
            .arg(layout.folder.path().join("server.properties"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let running: Vec<Child> = layouts.iter().map(format_one).collect();
    for child in running {
        let output = child.wait_with_output().unwrap();
        if !output.status.success() {
            let printed = [output.stdout, output.stderr].concat();
            return Err(String::from_utf8_lossy(&printed).into_owned());
        }
    }
    Ok(())
}

fn properties(bootstrap: &str, certificate: Option<&Certificate>) -> Vec<(String, String)> {
    let mut pairs = vec![("bootstrap.servers", bootstrap.to_owned())];
    if let Some(certificate) = certificate {
        pairs.extend([
            ("security.protocol", "SASL_SSL".to_owned()),
            ("ssl.ca.location", certificate.pem.display().to_string()),
            ("sasl.mechanism", "SCRAM-SHA-256".to_owned()),
            ("sasl.username", USER.to_owned()),
            ("sasl.password", USER_PASSWORD.to_owned()),
        ]);
    }
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn admin(client: &ClientConfig) -> AdminClient<DefaultClientContext> {
    client.create().unwrap()
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST))
}

/// The admin client answers from a thread of its own, so any runtime will do.
fn block_on<T>(answer: impl Future<Output = T>) -> T {
    runtime::Builder::new_current_thread().build().unwrap().block_on(answer)
}

/// The ids of the nodes that are there, sorted; none if there is no answer.
fn brokers_of(admin: &AdminClient<DefaultClientContext>) -> Vec<i32> {
    let metadata = admin.inner().fetch_metadata(None, Duration::from_secs(1));
    let mut ids: Vec<i32> =
        metadata.iter().flat_map(|it| it.brokers()).map(rdkafka::metadata::MetadataBroker::id).collect();
    ids.sort_unstable();
    ids
}

fn partitions_of(admin: &AdminClient<DefaultClientContext>, topic: &str) -> Vec<Partition> {
    let metadata = admin.inner().fetch_metadata(Some(topic), REQUEST).unwrap();
    let partitions = metadata.topics()[0].partitions().iter();
    partitions
        .map(|it| Partition { leader: it.leader(), replicas: it.replicas().to_vec(), in_sync: it.isr().to_vec() })
        .collect()
}

/// Every setting of a topic that has a value, defaults too.
fn configs_of(admin: &AdminClient<DefaultClientContext>, topic: &str) -> BTreeMap<String, String> {
    let resource = ResourceSpecifier::Topic(topic);
    let described = block_on(admin.describe_configs([&resource], &options())).unwrap().remove(0).unwrap();
    described.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect()
}
