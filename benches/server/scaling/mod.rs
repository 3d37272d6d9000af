//! Several replicas on three nodes of Kafka: what each takes, whether a key keeps its order, how soon all know a blocklist, and what
//! connections cost.
//!
//! All of it shares the cores of one machine, so that throughput cannot grow with replicas; what can be seen is whether a callback costs more
//! when there are more of them.

mod table;

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use callbridge::clock;
use clap::Args;
use serde::Serialize;

use crate::broker::Broker;
use crate::callback::Command;
use crate::numbered::NumberedLoad;
use crate::numbered::NumberedPlan;
use crate::options::Mode;
use crate::options::OUTPUT;
use crate::report::Origin;
use crate::sample::Plan;
use crate::sample::Sample;
use crate::server::Server;
use crate::server::Setup;
use crate::slow;
use crate::topic::Found;
use crate::topic::Topic;

const NODES: usize = 3;
const REPLICAS: usize = 4;
/// Each replica's, of the load.
const CONNECTIONS: usize = 64;
const SETTLING_SECONDS: f64 = 5.0;
/// Under the load of all replicas, until Kafka's code is compiled.
const WARM_UP_SECONDS: f64 = 30.0;
/// Senders with a key each, and how long they send.
const KEYS: usize = 64;
const ORDER: Duration = Duration::from_secs(3);
/// Of the blocklist.
const CHANGES: usize = 50;
const BLOCKLIST: &str = "bench.blocklist";
const ADMIN_TOKEN: &str = "the-admin-token-of-the-benchmark";
/// How long a change may take.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);
/// Metrics of how many captures one sync of the journal is for.
const CAPTURES: &str = "callbridge_journal_commit_captures_sum";
const SYNCS: &str = "callbridge_journal_commit_captures_count";

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct ScalingOptions {
    /// Seconds of each measured window.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Callbacks a second at each replica.
    #[arg(long, default_value_t = 1500)]
    rate: u32,
    /// Keep-alive connections to one replica.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256,1000,5000")]
    connections: Vec<usize>,
    /// Another build of callbridge.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_callbridge"))]
    program: PathBuf,
    /// Put the tables into docs/scaling.md.
    #[arg(long)]
    publish: bool,
}

/// Everything measured.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    replicas: Vec<Replicas>,
    order: [Order; 2],
    /// From the request to one replica until all decide by it, in milliseconds, sorted.
    blocklist_millis: Vec<f64>,
    connections: Vec<Growth>,
    /// Of one copy of a record in Kafka's files, compressed.
    stored_bytes: f64,
    /// Of one callback as it comes.
    request_bytes: usize,
}

/// So many replicas under load.
#[derive(Debug, Serialize)]
pub(crate) struct Replicas {
    count: usize,
    /// At each replica, a second; without it, as many as can be.
    rate: Option<u32>,
    samples: Vec<Sample>,
    /// User and system time of all nodes of Kafka, for one callback.
    kafka_cpu_micros: f64,
    captures_a_sync: f64,
}

/// What the keys of callbacks found in Kafka.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Order {
    acknowledged: usize,
    missing: usize,
    /// Records that came after a later one of their key.
    out_of_order: usize,
    /// Of the values of all records.
    value_bytes: usize,
    records: usize,
}

/// One replica with so many connections.
#[derive(Debug, Serialize)]
pub(crate) struct Growth {
    connections: usize,
    /// Of memory, while they are open and silent.
    idle_bytes: u64,
    sample: Sample,
}

/// Measures all of it. Prints it and writes it down.
pub(crate) fn run(options: &ScalingOptions) -> io::Result<()> {
    fs::create_dir_all(OUTPUT)?;
    slow::allow_connections()?;
    let broker = Broker::start(NODES)?;
    let servers = (1..=REPLICAS).map(|number| start(number, options, &broker)).collect::<io::Result<Vec<_>>>()?;
    let servers: Vec<&Server> = servers.iter().collect();
    let topic = Topic::new(&broker, format!("{}.{}", Mode::Journal.topic_prefix(), Command::After.name()))?;
    for server in &servers {
        Sample::settle(server, SETTLING_SECONDS, false)?;
    }
    Replicas::measure(&servers, &Plan::closed(CONNECTIONS, WARM_UP_SECONDS), &broker)?;
    let mut replicas = Vec::new();
    for rate in [Some(options.rate), None] {
        for count in 1..=REPLICAS {
            let some = servers.get(..count).unwrap_or_default();
            replicas.push(Replicas::measure(
                some,
                &Plan { rate, ..Plan::closed(CONNECTIONS, options.seconds) },
                &broker,
            )?);
            println!("measured {count} replicas");
        }
    }
    let kept = topic.extent()?.kept();
    let stored_bytes = broker.bytes_of(topic.name())? as f64 / NODES as f64 / kept as f64;
    let order = [Order::measure(&servers, &topic, false)?, Order::measure(&servers, &topic, true)?];
    let blocklist_millis = blocklist(&servers)?;
    let only = servers.first().ok_or(io::ErrorKind::NotFound)?;
    let growth = |&connections: &usize| Growth::measure(only, &Plan::closed(connections, options.seconds));
    let connections = options.connections.iter().map(growth).collect::<io::Result<Vec<_>>>()?;
    let request_bytes = Command::After.requests(only.callbacks, false)?.first(0).len();
    let figures = Figures { replicas, order, blocklist_millis, connections, stored_bytes, request_bytes };
    table::report(&figures, &Origin::new(broker.name()), options.publish)
}

fn start(number: usize, options: &ScalingOptions, broker: &Broker) -> io::Result<Server> {
    let tokens = Path::new(OUTPUT).join("admin-token");
    fs::write(&tokens, format!("bench:{ADMIN_TOKEN}\n"))?;
    let name = format!("replica-{number}");
    Server::forget_journal(&name)?;
    let tokens = tokens.display().to_string();
    let settings = [("CALLBRIDGE_BLOCKLIST_TOPIC", BLOCKLIST), ("CALLBRIDGE_ADMIN_TOKEN_FILES", tokens.as_str())];
    Server::start(Setup {
        name: &name,
        program: &options.program,
        mode: Mode::Journal,
        broker: Some(broker),
        is_signed: false,
        settings: &settings,
    })
}

impl Replicas {
    fn measure(servers: &[&Server], plan: &Plan, broker: &Broker) -> io::Result<Self> {
        let sum = |metric| servers.iter().map(|server| server.metric(metric)).sum::<io::Result<f64>>();
        let (captures, syncs) = (sum(CAPTURES)?, sum(SYNCS)?);
        let mut kafka_before = Duration::ZERO;
        let samples = Sample::take_together(servers, plan, || {
            kafka_before = broker.cpu()?;
            Ok(())
        })?;
        let kafka = broker.cpu()?.saturating_sub(kafka_before);
        let taken: u64 = samples.iter().map(|sample| sample.load.taken).sum();
        Ok(Self {
            count: servers.len(),
            rate: plan.rate,
            samples,
            kafka_cpu_micros: kafka.as_secs_f64() * 1e6 / taken as f64,
            captures_a_sync: (sum(CAPTURES)? - captures) / (sum(SYNCS)? - syncs),
        })
    }
}

impl Order {
    /// Sends callbacks of many keys, each one when the one before was answered: all of a key to one replica, or to one after the other.
    fn measure(servers: &[&Server], topic: &Topic, alternates: bool) -> io::Result<Self> {
        let start = topic.extent()?;
        let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.callbacks).collect();
        let plan = NumberedPlan { servers: &addresses, senders: KEYS, alternates, is_signed: false };
        let load = NumberedLoad::start(&plan)?;
        thread::sleep(ORDER);
        let acknowledged = load.end();
        servers.iter().try_for_each(|server| server.drain().map(drop))?;
        let found = topic.read(&start)?;
        let distinct: BTreeSet<u64> = found.iter().map(|found| found.time).collect();
        let missing = acknowledged.difference(&distinct).count();
        Ok(Self {
            acknowledged: acknowledged.len(),
            missing,
            out_of_order: out_of_order(&found),
            value_bytes: found.iter().map(|found| found.bytes).sum(),
            records: found.len(),
        })
    }
}

/// Records that come after a later one of their key.
fn out_of_order(found: &[Found]) -> usize {
    let mut newest: HashMap<&[u8], u64> = HashMap::new();
    let mut late = 0;
    for record in found {
        let newest = newest.entry(&record.key).or_default();
        late += usize::from(record.time < *newest);
        *newest = record.time.max(*newest);
    }
    late
}

/// How long each change takes from the request to the first replica until all decide by it.
fn blocklist(servers: &[&Server]) -> io::Result<Vec<f64>> {
    let authorization = format!("authorization: Bearer {ADMIN_TOKEN}\r\n");
    let writer = servers.first().ok_or(io::ErrorKind::NotFound)?;
    let mut took = Vec::new();
    for change in 0..CHANGES {
        let start = clock::monotonic();
        let answer = writer.ask("PUT", &format!("/blocklist/users/user-{change}?wait=acknowledged"), &authorization)?;
        if !answer.starts_with("HTTP/1.0 200") && !answer.starts_with("HTTP/1.1 200") {
            return Err(io::Error::other(format!("the blocklist was not changed: {answer}")));
        }
        let path = format!("/blocklist/lookup?user=user-{change}");
        for server in servers {
            while !server.ask("GET", &path, &authorization)?.contains("\"refuse\"") {
                if start.elapsed() > CHANGE_LIMIT {
                    return Err(io::Error::other("a replica does not see a change of the blocklist"));
                }
            }
        }
        took.push(start.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    Ok(took)
}

impl Growth {
    fn measure(server: &Server, plan: &Plan) -> io::Result<Self> {
        let idle_bytes = Sample::idle_bytes(server, plan)?;
        Ok(Self { connections: plan.connections, idle_bytes, sample: Sample::take(server, plan)? })
    }
}
