//! The load generator: a closed loop over keep-alive connections, or a fixed rate.
//!
//! It talks to the process that measures in lines. When it is warm it prints [`WARM`] and waits for a line on its standard
//! input; after the measured window it prints a [`Load`] as JSON. So whatever the warm-up left behind can be
//! waited for before the server's CPU time is read.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use callbridge::clock;
use clap::Args;
use hdrhistogram::Histogram;
use serde::Deserialize;
use serde::Serialize;
use tokio::runtime;
use tokio::task::JoinSet;
use tokio::time;

use crate::callback::Command;
use crate::callback::Request;
use crate::connection::Connection;

/// The line that says that the warm-up is over.
pub(crate) const WARM: &str = "warm";

/// The shortest and the longest latency told apart from others, and the digits that are kept.
const LATENCY_NANOS_MIN: u64 = 1_000;
const LATENCY_NANOS_MAX: u64 = 60_000_000_000;
const LATENCY_DIGITS: u8 = 3;

/// What to send, where and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadOptions {
    /// The server's callback address.
    #[arg(long)]
    pub(crate) server: SocketAddr,
    /// Connections, each with one callback under way at a time.
    #[arg(long)]
    pub(crate) connections: usize,
    /// Seconds before the measured window.
    #[arg(long)]
    pub(crate) warm_up_seconds: f64,
    /// Seconds of the measured window.
    #[arg(long)]
    pub(crate) seconds: f64,
    /// Which callback.
    #[arg(long)]
    pub(crate) command: Command,
    /// Callbacks a second over all connections; without it each connection sends as soon as it was answered.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Signs the callbacks.
    #[arg(long)]
    pub(crate) signed: bool,
}

/// What the load saw in the measured window. Latencies are in microseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Load {
    /// Callbacks answered with 200.
    pub(crate) taken: u64,
    /// Callbacks answered with another status.
    pub(crate) not_taken: u64,
    /// Callbacks whose connection broke before the answer.
    pub(crate) unanswered: u64,
    /// From the first callback sent to the last one answered.
    pub(crate) seconds: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// Warms up, waits to be told, measures, prints.
pub(crate) fn run(options: &LoadOptions) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let connections = open_all(options).await?;
        let (connections, _warm_up) = drive(connections, options, options.warm_up_seconds).await?;
        println!("{WARM}");
        // It blocks the only thread there is; nothing is under way.
        io::stdin().read_line(&mut String::new())?;
        let start = clock::monotonic();
        let (_connections, tally) = drive(connections, options, options.seconds).await?;
        println!("{}", serde_json::to_string(&tally.load(start.elapsed()))?);
        Ok(())
    })
}

async fn open_all(options: &LoadOptions) -> io::Result<Vec<Connection>> {
    let mut connections = Vec::with_capacity(options.connections);
    for number in 0..options.connections {
        let request = Request::new(options.command, options.server, number, options.signed);
        connections.push(Connection::open(options.server, request).await?);
    }
    Ok(connections)
}

/// Sends on every connection for `seconds`. Gives the connections back, idle.
async fn drive(
    connections: Vec<Connection>,
    options: &LoadOptions,
    seconds: f64,
) -> io::Result<(Vec<Connection>, Tally)> {
    let tally = Arc::new(Mutex::new(Tally::new()?));
    let start = clock::monotonic();
    let end = start + Duration::from_secs_f64(seconds);
    let mut tasks = JoinSet::new();
    for (number, connection) in connections.into_iter().enumerate() {
        let pace = options.rate.map(|rate| Pace::new(start, rate, number, options.connections));
        tasks.spawn(repeat(connection, pace, end, Arc::clone(&tally)));
    }
    let mut idle = Vec::with_capacity(options.connections);
    while let Some(ended) = tasks.join_next().await {
        idle.push(ended??);
    }
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok((idle, tally))
}

/// Sends until `end`, and waits for the last answer.
async fn repeat(
    mut connection: Connection,
    mut pace: Option<Pace>,
    end: Instant,
    tally: Arc<Mutex<Tally>>,
) -> io::Result<Connection> {
    loop {
        let sent = match &mut pace {
            Some(pace) => pace.next().await,
            None => clock::monotonic(),
        };
        if sent >= end {
            return Ok(connection);
        }
        let outcome = connection.exchange().await;
        let latency = clock::monotonic().saturating_duration_since(sent);
        tally.lock().unwrap_or_else(PoisonError::into_inner).count(outcome.as_ref().ok().copied(), latency);
        if outcome.is_err() {
            connection.reopen().await?;
        }
    }
}

/// When one connection's callbacks are due.
struct Pace {
    due: Instant,
    step: Duration,
}

impl Pace {
    /// The connections take turns, so that `rate` is even over all of them.
    fn new(start: Instant, rate: f64, number: usize, connections: usize) -> Self {
        let turn = |turns: usize| Duration::from_secs_f64(turns as f64 / rate);
        Self { due: start + turn(number), step: turn(connections) }
    }

    /// Waits until the next callback is due. Returns the moment its latency counts from.
    ///
    /// When the answer before it came too late, that is the moment it was due: a slow server cannot hide by being asked
    /// less. Otherwise it is now: what the timer overslept is not the server's.
    async fn next(&mut self) -> Instant {
        let due = self.due;
        self.due += self.step;
        if clock::monotonic() >= due {
            return due;
        }
        time::sleep_until(due.into()).await;
        clock::monotonic()
    }
}

/// What was counted so far.
#[derive(Clone)]
struct Tally {
    latencies: Histogram<u64>,
    taken: u64,
    not_taken: u64,
    unanswered: u64,
}

impl Tally {
    fn new() -> io::Result<Self> {
        let latencies = Histogram::new_with_bounds(LATENCY_NANOS_MIN, LATENCY_NANOS_MAX, LATENCY_DIGITS)
            .map_err(io::Error::other)?;
        Ok(Self { latencies, taken: 0, not_taken: 0, unanswered: 0 })
    }

    fn count(&mut self, status: Option<u16>, latency: Duration) {
        match status {
            Some(200) => self.taken += 1,
            Some(_) => self.not_taken += 1,
            None => self.unanswered += 1,
        }
        self.latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    fn load(&self, elapsed: Duration) -> Load {
        let micros = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1e3;
        Load {
            taken: self.taken,
            not_taken: self.not_taken,
            unanswered: self.unanswered,
            seconds: elapsed.as_secs_f64(),
            p50: micros(0.5),
            p99: micros(0.99),
            p999: micros(0.999),
            max: self.latencies.max() as f64 / 1e3,
        }
    }
}
