//! The load generator, that of `callbridge send`: a closed loop over keep-alive connections, or a fixed rate.
//!
//! It talks to the process that measures in lines. When it is warm it prints [`WARM`] and waits for a line on its standard
//! input; after the measured window it prints a [`Load`] as JSON. So whatever the warm-up left behind can be
//! waited for before the server's CPU time is read.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;

use callbridge::send;
use callbridge::send::LoadGenerator;
use callbridge::send::LoadLength;
use callbridge::send::LoadPlan;
use callbridge::send::destination::Destination;
use callbridge::send::measurements::Measurements;
use clap::Args;
use serde::Deserialize;
use serde::Serialize;
use tokio::runtime;

use crate::callback::Command;

/// The line that says that the warm-up is over.
pub(crate) const WARM: &str = "warm";

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
    /// Callbacks without a response: their connection broke, or they waited for [`send::RESPONSE_TIMEOUT`].
    pub(crate) unanswered: u64,
    /// Callbacks that were answered later than Tencent waits.
    pub(crate) late: u64,
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
        let requests = options.command.requests(options.server, options.signed)?;
        let destination = Destination::of_address(options.server);
        let mut generator = LoadGenerator::open(destination, requests, options.connections).await?;
        // Closed, so that every connection is used: callbridge closes one that has sent nothing for `callbacks.head_timeout_ms`, 5 s.
        load(&mut generator, None, options.warm_up_seconds).await?;
        println!("{WARM}");
        // It blocks the only thread there is; nothing is under way.
        io::stdin().read_line(&mut String::new())?;
        println!("{}", serde_json::to_string(&load(&mut generator, options.rate, options.seconds).await?)?);
        Ok(())
    })
}

async fn load(generator: &mut LoadGenerator, rate: Option<f64>, seconds: f64) -> io::Result<Load> {
    let plan = LoadPlan { rate, length: LoadLength::Seconds(seconds), is_twice: false };
    let measurements = Arc::new(Mutex::new(Measurements::new()?));
    let took = generator.run(&plan, &measurements).await;
    let seen = send::lock(&measurements);
    let taken = seen.statuses.get(&200).copied().unwrap_or_default();
    let micros = |percent| seen.percentile(percent).as_secs_f64() * 1e6;
    Ok(Load {
        taken,
        not_taken: seen.answered - taken,
        unanswered: seen.unanswered(),
        late: seen.late,
        seconds: took.all.as_secs_f64(),
        p50: micros(50.0),
        p99: micros(99.0),
        p999: micros(99.9),
        max: micros(100.0),
    })
}
