//! A load generator that acts as Tencent: sends callbacks over kept-alive connections, and measures the responses.
//!
//! In the *open* model callbacks are due at a fixed rate, whatever the server does, and a latency counts from the time when its callback
//! was due: a stalled server delays all callbacks that are due meanwhile, as it would delay Tencent's, and the percentiles show it. In the
//! *closed* model each connection sends as soon as it has a response: that measures the maximum throughput, and hides stalls ("coordinated
//! omission").

pub mod callbacks;
mod connection;
pub mod destination;
pub mod measurements;
mod schedule;

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time;

use crate::clock;

use self::callbacks::Requests;
use self::connection::LoadConnection;
use self::destination::Destination;
use self::measurements::Measurements;
use self::schedule::Schedule;

/// The timeout of a response. Tencent waits [`measurements::DEADLINE`]; a longer timeout shows how late a response was.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause of a connection in the closed model after a failure, so that a dead server is not flooded with attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// The length of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LoadLength {
    /// A duration.
    Seconds(f64),
    /// A number of callbacks.
    Count(u64),
}

/// How callbacks are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadPlan {
    /// Callbacks a second, for the open model. `None`: the closed model.
    pub rate: Option<f64>,
    /// When it ends.
    pub length: LoadLength,
    /// Sends each callback twice in a row over the same connection.
    pub is_twice: bool,
}

/// The duration of a run.
#[derive(Debug, Clone, Copy)]
pub struct RunTime {
    /// Until the last response.
    pub all: Duration,
    /// Until the last callback was sent or the next would have been due; in the closed model the whole run.
    pub sending: Duration,
}

/// Open connections, each with one callback at a time.
#[derive(Debug)]
pub struct LoadGenerator {
    requests: Arc<Requests>,
    connections: Vec<LoadConnection>,
}

impl LoadGenerator {
    /// Opens the connections.
    ///
    /// # Errors
    ///
    /// One of them cannot be opened.
    pub async fn open(destination: Destination, requests: Requests, connections: usize) -> io::Result<Self> {
        let destination = Arc::new(destination);
        let mut opened = Vec::with_capacity(connections);
        for number in 0..connections {
            opened.push(LoadConnection::open(Arc::clone(&destination), number).await?);
        }
        Ok(Self { requests: Arc::new(requests), connections: opened })
    }

    /// Sends as `plan` says, and adds the results to `measurements`.
    pub async fn run(&mut self, plan: &LoadPlan, measurements: &Arc<Mutex<Measurements>>) -> RunTime {
        let start = clock::monotonic();
        let schedule = Arc::new(Schedule::new(start, plan));
        let mut tasks = JoinSet::new();
        for connection in self.connections.drain(..) {
            let (schedule, requests) = (Arc::clone(&schedule), Arc::clone(&self.requests));
            tasks.spawn(drive(connection, schedule, requests, Arc::clone(measurements)));
        }
        let connections = &mut self.connections;
        let all = async {
            while let Some(ended) = tasks.join_next().await {
                connections.extend(ended);
            }
            if let Some(end) = schedule.end() {
                time::sleep_until(end.into()).await;
            }
        };
        match schedule.deadline() {
            None => all.await,
            Some(deadline) => {
                let is_late = time::timeout_at(deadline.into(), all).await.is_err();
                if is_late {
                    tasks.shutdown().await;
                }
            }
        }
        let mut measurements = lock(measurements);
        measurements.give_up(schedule.total());
        let end = clock::monotonic();
        let sent = schedule.end().map_or(end, |end| measurements.last_start().map_or(end, |last| last.max(end)));
        RunTime { all: end.saturating_duration_since(start), sending: sent.saturating_duration_since(start) }
    }
}

/// Sends until the schedule ends.
async fn drive(
    mut connection: LoadConnection,
    schedule: Arc<Schedule>,
    requests: Arc<Requests>,
    measurements: Arc<Mutex<Measurements>>,
) -> LoadConnection {
    while let Some(numbers) = schedule.take() {
        schedule.wait_until_soon(*numbers.start()).await;
        connection.prepare(&requests, *numbers.start() / schedule.group());
        for number in numbers {
            let start = schedule.wait_for(number).await;
            lock(&measurements).begin(start);
            let outcome = time::timeout(RESPONSE_TIMEOUT, connection.exchange()).await;
            let outcome = outcome.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
            let latency = clock::monotonic().saturating_duration_since(start.counts_from);
            lock(&measurements).end(&outcome, latency);
            if outcome.is_err() {
                connection.close();
                if schedule.is_closed() {
                    time::sleep(PAUSE).await;
                }
            }
        }
    }
    connection
}

/// The measurements stay usable if a task that adds to them panics.
pub fn lock(measurements: &Mutex<Measurements>) -> std::sync::MutexGuard<'_, Measurements> {
    measurements.lock().unwrap_or_else(PoisonError::into_inner)
}
