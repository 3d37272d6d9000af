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
        Self::measure(server, plan, None)
    }

    /// Measures `server` while `broker`, which its records go to, is frozen. The warm-up comes before, the drain after.
    pub(crate) fn take_frozen(server: &Server, plan: &Plan, broker: &Broker) -> io::Result<Self> {
        Self::measure(server, plan, Some(broker))
    }

    /// Measures `server` while so many slow senders bother `bothered`, which may be another one. The CPU time is `server`'s.
    pub(crate) fn take_beside_slow(server: &Server, plan: &Plan, bothered: &Server, slow: usize) -> io::Result<Self> {
        let slow = slow::start(bothered, slow)?;
        let sample = Self::measure(server, plan, None)?;
        slow::end(slow)?;
        Ok(sample)
    }

    /// Sends `server` what `plan` says, and measures nothing.
    pub(crate) fn fill(server: &Server, plan: &Plan) -> io::Result<()> {
        let mut load = start_load(server, plan)?;
        load.tell("go")?;
        load.line(Duration::from_secs_f64(plan.seconds) + LOAD_GRACE).map(|_seen| ())
    }

    fn measure(server: &Server, plan: &Plan, freeze: Option<&Broker>) -> io::Result<Self> {
        let mut load = start_load(server, plan)?;
        server.drain()?;
        server.process.forget_peak()?;
        let cpu_before = server.process.cpu()?;
        freeze.map_or(Ok(()), Broker::freeze)?;
        load.tell("go")?;
        let seen = load.line(Duration::from_secs_f64(plan.seconds) + LOAD_GRACE);
        // Thawed before the load's failure is looked at, so that a failed run leaves nothing frozen.
        freeze.map_or(Ok(()), Broker::thaw)?;
        let seen: Load = serde_json::from_str(&seen?)?;
        let drain = server.drain()?;
        let cpu = server.process.cpu()?.saturating_sub(cpu_before);
        Ok(Self {
            cpu_micros: cpu.as_secs_f64() * 1e6 / (seen.taken + seen.not_taken) as f64,
            drain_seconds: drain.as_secs_f64(),
            peak_bytes: server.process.memory_peak()?,
            load: seen,
        })
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
