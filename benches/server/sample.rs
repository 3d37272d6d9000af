//! One measurement: the load on one server for one window, and what the server used for it.

use std::io;
use std::time::Duration;

use serde::Serialize;

use crate::broker::Broker;
use crate::callback::Command;
use crate::load;
use crate::load::Load;
use crate::process::Process;
use crate::server::Server;
use crate::slow;

/// How much longer than its window the load may take.
const LOAD_GRACE: Duration = Duration::from_secs(60);

/// How many connections send what is not measured.
const FILL_CONNECTIONS: usize = 64;

/// What load, for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) command: Command,
    pub(crate) connections: usize,
    pub(crate) warm_up_seconds: f64,
    pub(crate) seconds: f64,
    /// Callbacks a second, or as many as can be.
    pub(crate) rate: Option<u32>,
    /// Whether the callbacks are signed.
    pub(crate) is_signed: bool,
}

impl Plan {
    /// After-callbacks, as many as the server takes, with a second to warm up.
    pub(crate) const fn closed(connections: usize, seconds: f64) -> Self {
        Self { command: Command::After, connections, warm_up_seconds: 1.0, seconds, rate: None, is_signed: false }
    }
}

/// What one window gave.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    pub(crate) load: Load,
    /// User and system time of the server for one callback, publishing included, in microseconds.
    pub(crate) cpu_micros: f64,
    /// From the last answer until nothing waited for Kafka.
    pub(crate) drain_seconds: f64,
    /// The most memory the server had.
    pub(crate) peak_bytes: u64,
}

impl Sample {
    /// Measures `server`.
    pub(crate) fn take(server: &Server, plan: &Plan) -> io::Result<Self> {
        Self::take_together(&[server], plan, || Ok(()))?.pop().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Measures `server` while `broker`, which its records go to, is frozen. The warm-up comes before, the drain after.
    pub(crate) fn take_frozen(server: &Server, plan: &Plan, broker: &Broker) -> io::Result<Self> {
        let freeze = || broker.freeze_for(Duration::from_secs_f64(plan.seconds));
        Self::take_together(&[server], plan, freeze)?.pop().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Measures `server` while so many slow senders bother `bothered`, which may be another one. The CPU time is `server`'s.
    pub(crate) fn take_beside_slow(server: &Server, plan: &Plan, bothered: &Server, slow: usize) -> io::Result<Self> {
        let slow = slow::start(bothered, slow)?;
        let sample = Self::take(server, plan)?;
        slow::end(slow)?;
        Ok(sample)
    }

    /// Sends `server` as much as it takes, and measures nothing.
    pub(crate) fn fill(server: &Server, seconds: f64, is_signed: bool) -> io::Result<()> {
        let plan = Plan { warm_up_seconds: 0.0, is_signed, ..Plan::closed(FILL_CONNECTIONS, seconds) };
        let mut load = start_load(server, &plan)?;
        load.tell("go")?;
        load.line(Duration::from_secs_f64(seconds) + LOAD_GRACE).map(|_seen| ())
    }

    /// Lets `server` do what it is measured at, and waits until all of it is in Kafka: the first seconds of a process are its dearest, and it
    /// will run for months.
    pub(crate) fn settle(server: &Server, seconds: f64, is_signed: bool) -> io::Result<()> {
        Self::fill(server, seconds, is_signed)?;
        server.drain().map(|_took| ())
    }

    /// The memory of `server` while the connections of `plan` are open and nothing is sent.
    pub(crate) fn idle_bytes(server: &Server, plan: &Plan) -> io::Result<u64> {
        let _load = start_load(server, &Plan { warm_up_seconds: 0.0, ..*plan })?;
        server.process.memory()
    }

    /// Measures several servers at the same time, each with a load of its own. `meanwhile` begins when the loads do.
    pub(crate) fn take_together(
        servers: &[&Server],
        plan: &Plan,
        meanwhile: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Vec<Self>> {
        let mut loads = servers.iter().map(|server| start_load(server, plan)).collect::<io::Result<Vec<_>>>()?;
        let mut cpu_before = Vec::new();
        for server in servers {
            server.drain()?;
            server.process.forget_peak()?;
            cpu_before.push(server.process.cpu()?);
        }
        loads.iter_mut().try_for_each(|load| load.tell("go"))?;
        meanwhile()?;
        let limit = Duration::from_secs_f64(plan.seconds) + LOAD_GRACE;
        let seen = loads.iter().map(|load| load.line(limit)).collect::<io::Result<Vec<_>>>()?;
        let of_server = |((server, seen), cpu_before): ((&&Server, &String), Duration)| -> io::Result<Self> {
            let load: Load = serde_json::from_str(seen)?;
            let drain = server.drain()?;
            let cpu = server.process.cpu()?.saturating_sub(cpu_before);
            Ok(Self {
                cpu_micros: cpu.as_secs_f64() * 1e6 / (load.taken + load.not_taken) as f64,
                drain_seconds: drain.as_secs_f64(),
                peak_bytes: server.process.memory_peak()?,
                load,
            })
        };
        servers.iter().zip(&seen).zip(cpu_before).map(of_server).collect()
    }
}

/// Starts the load, and returns when it is warm.
fn start_load(server: &Server, plan: &Plan) -> io::Result<Process> {
    let mut arguments = vec!["load".to_owned(), "--server".to_owned(), server.callbacks.to_string()];
    let mut give = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    give("--command", plan.command.argument().to_owned());
    give("--connections", plan.connections.to_string());
    give("--warm-up-seconds", plan.warm_up_seconds.to_string());
    give("--seconds", plan.seconds.to_string());
    if let Some(rate) = plan.rate {
        give("--rate", rate.to_string());
    }
    if plan.is_signed {
        arguments.push("--signed".to_owned());
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let load = Process::role("load", &arguments)?;
    let line = load.line(Duration::from_secs_f64(plan.warm_up_seconds) + LOAD_GRACE)?;
    if line != load::WARM {
        return Err(io::Error::other(format!("the load said {line:?}")));
    }
    Ok(load)
}
