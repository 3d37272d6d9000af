//! callbridge beside its peers: in turns on one Kafka, under the same load; killed under load; and with Kafka frozen.
//!
//! The load is closed: each connection sends when it was answered, as many callbacks as the server takes. Only while Kafka is frozen it is
//! open, for a closed one would wait with the server. All callbacks are signed, and all servers but bare hyper check that.

mod picture;
mod subject;
mod table;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Args;
use clap::ValueEnum;
use rustix::process::Signal;
use serde::Serialize;

use crate::broker::Broker;
use crate::numbered::NumberedLoad;
use crate::numbered::NumberedPlan;
use crate::options::OUTPUT;
use crate::report::Origin;
use crate::sample::Plan;
use crate::sample::Sample;
use crate::server::Server;
use crate::slow;

use self::subject::Site;
use self::subject::Subject;

/// Java compiles in its first minutes, on the cores that the servers are measured on.
const BROKER_SETTLING_SECONDS: f64 = 20.0;
const SETTLING_SECONDS: f64 = 2.0;

/// Under load when a server is killed.
const KILL_SENDERS: usize = 64;
const UNTIL_KILL: Duration = Duration::from_secs(2);

/// While Kafka is frozen: so many connections that none is missing though each waits for the longest time that the load waits.
const FROZEN_RATE: u32 = 100;
const FROZEN_CONNECTIONS: usize = 1000;
const FROZEN: Duration = Duration::from_secs(10);
/// Before Kafka is frozen, and again after.
const UNFROZEN: Duration = Duration::from_secs(2);

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct PeersOptions {
    /// Seconds of each measured window.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds before each window.
    #[arg(long, default_value_t = 1.0)]
    warm_up_seconds: f64,
    /// Times that each is measured, in turns; medians are reported.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Keep-alive connections.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256,5000")]
    connections: Vec<usize>,
    /// What is measured.
    #[arg(long, value_delimiter = ',', default_values_t = Subject::value_variants().to_vec(), value_enum)]
    subjects: Vec<Subject>,
    /// Another build of callbridge.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_callbridge"))]
    program: PathBuf,
    /// Put the tables and the picture into README.md, benches/peers/README.md and docs.
    #[arg(long)]
    publish: bool,
}

/// What was measured of one server.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    subject: Subject,
    skipped: Option<String>,
    /// By the number of connections.
    loads: BTreeMap<usize, Vec<Sample>>,
    frozen: Option<Sample>,
    killed: Option<Killed>,
}

/// What became of the callbacks of a server that was killed under load and started again.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Killed {
    /// Answered with 200 before it was killed.
    acknowledged: usize,
    /// Of these, in no record.
    missing: usize,
    /// Records that repeat another.
    repeated: usize,
}

/// Measures all subjects that can be had. Prints it and writes it down.
pub(crate) fn run(options: &PeersOptions) -> io::Result<()> {
    fs::create_dir_all(OUTPUT)?;
    slow::allow_connections()?;
    let broker = Broker::start(1)?;
    let site = Site { program: &options.program, broker: &broker };
    Sample::settle(&Subject::Memory.start(&site)?, BROKER_SETTLING_SECONDS, true)?;
    let mut all = Vec::new();
    let mut running = Vec::new();
    for &subject in &options.subjects {
        let figures = Figures { subject, skipped: None, loads: BTreeMap::new(), frozen: None, killed: None };
        match prepare(subject, &site)? {
            Ok(server) => running.push((figures, server)),
            Err(why) => {
                println!("SKIPPED {}: {why}", subject.name());
                all.push(Figures { skipped: Some(why), ..figures });
            }
        }
    }
    for &connections in &options.connections {
        for _round in 0..options.rounds {
            for (figures, server) in &mut running {
                let sample = Sample::take(server, &load(options, connections))?;
                figures.loads.entry(connections).or_default().push(sample);
            }
        }
        println!("measured at {connections} connections");
    }
    freeze(&mut running, &broker)?;
    println!("measured with Kafka frozen");
    for (mut figures, server) in running {
        figures.killed = kill(figures.subject, server, &site)?;
        all.push(figures);
    }
    table::report(&all, &Origin::new(broker.name()), options.publish)
}

/// The closed load.
const fn load(options: &PeersOptions, connections: usize) -> Plan {
    let PeersOptions { seconds, warm_up_seconds, .. } = options;
    Plan { warm_up_seconds: *warm_up_seconds, is_signed: true, ..Plan::closed(connections, *seconds) }
}

/// Starts a server and lets it do what it is measured at, or says what is missing.
fn prepare(subject: Subject, site: &Site<'_>) -> io::Result<Result<Server, String>> {
    if let Err(why) = subject.prepare(site.broker)? {
        return Ok(Err(why));
    }
    if subject == Subject::Journal {
        Server::forget_journal("journal")?;
    }
    let server = subject.start(site)?;
    Sample::settle(&server, SETTLING_SECONDS, true)?;
    Ok(Ok(server))
}

/// Freezes Kafka for all servers at the same time: each has a load of its own, far below what they can take together.
fn freeze(running: &mut [(Figures, Server)], broker: &Broker) -> io::Result<()> {
    let plan = Plan {
        rate: Some(FROZEN_RATE),
        is_signed: true,
        ..Plan::closed(FROZEN_CONNECTIONS, (UNFROZEN + FROZEN + UNFROZEN).as_secs_f64())
    };
    let servers: Vec<&Server> = running.iter().map(|(_, server)| server).collect();
    let samples = Sample::take_together(&servers, &plan, || {
        thread::sleep(UNFROZEN);
        broker.freeze_for(FROZEN)
    })?;
    for ((figures, _), sample) in running.iter_mut().zip(samples) {
        figures.frozen = Some(sample);
    }
    Ok(())
}

/// Kills a server under load, starts it again, and looks for everything that was acknowledged in Kafka.
fn kill(subject: Subject, server: Server, site: &Site<'_>) -> io::Result<Option<Killed>> {
    if subject == Subject::Hyper {
        return Ok(None);
    }
    let topic = subject.topic(site.broker)?;
    let start = topic.extent()?;
    let servers = [server.callbacks];
    let plan = NumberedPlan { servers: &servers, senders: KILL_SENDERS, alternates: false, is_signed: true };
    let load = NumberedLoad::start(&plan)?;
    thread::sleep(UNTIL_KILL);
    server.process.signal(Signal::KILL)?;
    let acknowledged = load.end();
    drop(server);
    subject.start(site)?.drain()?;
    let found = topic.read(&start)?;
    let distinct: BTreeSet<u64> = found.iter().map(|found| found.time).collect();
    let missing = acknowledged.difference(&distinct).count();
    Ok(Some(Killed { acknowledged: acknowledged.len(), missing, repeated: found.len() - distinct.len() }))
}
