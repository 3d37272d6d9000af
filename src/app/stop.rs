//! The graceful stop, in order: no longer ready; no new connections; no requests; no backlog; end. All under one deadline. For captures
//! that are safe in a persistent journal, and for refused callbacks, it waits only while Kafka accepts records.

use std::io;
use std::sync::mpsc::SyncSender;
use std::time::Duration;
use std::time::Instant;

use prometheus::IntCounter;
use tokio::runtime::Runtime;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::time;

use crate::clock;
use crate::config::Config;
use crate::journal::Ack;
use crate::ledger::Ledger;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::Phase;
use crate::systemd;
use crate::systemd::Notice;

use super::Pumping;
use super::Running;
use super::say;

/// Reserved before the deadline for the end of the client: its purge, and its threads.
pub(super) const CLIENT_END: Duration = Duration::from_millis(700);
/// Reserved before the deadline for the backlog, if requests do not end.
const BACKLOG_LEAST: Duration = Duration::from_millis(500);
/// Kafka counts as stalled after this time without a delivery. Also the period of checking that.
const STANDSTILL: Duration = Duration::from_millis(300);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the workers may take to end, with the requests that are still in progress.
const WORKERS_END: Duration = Duration::from_millis(100);
/// How long after the deadline the journal may take to record deliveries.
const RECORD_LAST: Duration = Duration::from_millis(300);

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunEnd {
    /// After a graceful stop, even one that ran out of time.
    Stopped,
    /// Immediately, after a second signal.
    Cut,
}

/// The signals for operators. They are registered before anything runs: by default most of them would end the process without a drain, and
/// be ignored by a process 1.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
    /// Triggers a reload of the files.
    reload: SyncSender<()>,
}

impl Signals {
    /// Registers all signals. Must be called within the runtime. SIGHUP is sent to `reload`, which needs room for one message.
    pub(super) fn register(reload: SyncSender<()>) -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            reload,
        })
    }

    /// The result of `start`, or `None` if a signal arrives first: then no callback was accepted, and the process may end at any moment.
    pub(super) async fn unless_stopped<F: Future>(&mut self, start: F) -> Option<F::Output> {
        tokio::select! {
            started = start => Some(started),
            name = self.next() => {
                tracing::info!(signal = name, "stopped before the start was complete");
                systemd::notify(Notice::Stopping);
                say(&Ledger::default().read().to_string());
                None
            }
        }
    }

    /// Waits for a signal to stop, and handles the others.
    pub(super) async fn next(&mut self) -> &'static str {
        loop {
            let ignored = tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.quit.recv() => return "SIGQUIT",
                _ = self.hangup.recv() => {
                    // If there is no room, a reload is pending already, and serves for both.
                    let _full = self.reload.try_send(());
                    continue;
                }
                _ = self.user1.recv() => "SIGUSR1",
                _ = self.user2.recv() => "SIGUSR2",
            };
            tracing::info!(signal = ignored, "signal ignored");
        }
    }
}

/// Waits for a signal, stops everything, and prints the ledger.
pub(super) fn run_until_stopped(
    runtime: Runtime,
    mut running: Running,
    mut signals: Signals,
    config: &Config,
) -> RunEnd {
    let ended = runtime.block_on(async {
        let name = signals.next().await;
        tracing::info!(signal = name, "stopping");
        tokio::select! {
            () = stop(&mut running, config) => RunEnd::Stopped,
            name = signals.next() => {
                tracing::warn!(signal = name, "a second signal: ending at once");
                RunEnd::Cut
            }
        }
    });
    // After a second signal too.
    running.built.lifecycle.enter(Phase::Stopped);
    // Requests that are still in progress end here, and are counted as broken off.
    running.workers.join(WORKERS_END);
    drop(runtime);
    // A panic in it has ended the process already.
    let _joined = running.admin.join();
    let balance = running.built.ledger.read();
    let gone = balance.waiting_request + balance.waiting_queue;
    if gone > 0 {
        let answered = match config.ack {
            Ack::Memory => "they were answered",
            Ack::Journal | Ack::Broker => "of these, only before-callbacks were answered 200",
        };
        tracing::warn!(waiting = gone, answered, "callbacks without a delivery report are lost with this process");
    }
    if balance.waiting_journal > 0 {
        let waiting = balance.waiting_journal;
        let consequence = match (running.is_journal_persistent, running.built.journal.has_set_aside()) {
            (false, _) => "they are lost with it: it is not persistent",
            (true, false) => "the next start delivers them",
            (true, true) => {
                "the next start delivers those that its configuration can publish: some are of an application that is not configured, or of a newer version"
            }
        };
        tracing::warn!(waiting, consequence, "undelivered callbacks stay in the journal");
    }
    say(&balance.to_string());
    ended
}

async fn stop(running: &mut Running, config: &Config) {
    let served = running.built.clone();
    let lifecycle = &served.lifecycle;
    let deadline = clock::monotonic() + config.drain;
    lifecycle.begin_stop(deadline);
    systemd::notify(Notice::Stopping);
    // Load balancers notice the stop with a delay; until then their connections must be served.
    time::sleep(config.callbacks.keep_accepting).await;
    lifecycle.enter(Phase::Closing);
    if until(deadline - CLIENT_END - BACKLOG_LEAST, &mut running.serving).await.is_none() {
        tracing::warn!("requests did not end in time");
    }
    lifecycle.enter(Phase::Draining);
    served.service.intake.journal.close();
    let is_persistent = running.is_journal_persistent;
    // Captures that the ledger counts as waiting are not of refused callbacks.
    let can_give_up = || is_persistent || served.ledger.read().waiting_total() == 0;
    drain(&mut running.pump, lifecycle, can_give_up).await;
    lifecycle.enter(Phase::Recording);
    if let Some(committer_ended) = &mut running.committer_ended
        && until(deadline + RECORD_LAST, committer_ended).await.is_none()
    {
        tracing::warn!("deliveries were not recorded in time; some callbacks are delivered again after the next start");
    }
}

/// Waits until the publisher has delivered the backlog, or has no time left for it; or, if the backlog may be left behind, until Kafka
/// stalls.
async fn drain(pump: &mut Pumping, lifecycle: &Lifecycle, can_give_up: impl Fn() -> bool) {
    let Some(deadline) = lifecycle.deadline() else { return };
    pump.control.give_up_at(deadline - CLIENT_END, &pump.thread);
    let given_up = async {
        while {
            stands_still(&pump.delivered, STANDSTILL).await;
            !can_give_up()
        } {}
    };
    tokio::select! {
        _ended = &mut pump.ended => return,
        // The pump ends by itself at the deadline.
        _elapsed = until(deadline - CLIENT_END, given_up) => pump.control.give_up_at(clock::monotonic(), &pump.thread),
    }
    if until(deadline, &mut pump.ended).await.is_none() {
        tracing::warn!("the kafka client did not end in time");
    }
}

/// Waits until `delivered` has not grown for `limit`.
pub(super) async fn stands_still(delivered: &IntCounter, limit: Duration) {
    let (mut last, mut still) = (delivered.get(), Duration::ZERO);
    while still < limit {
        time::sleep(LOOK_EVERY).await;
        let now = delivered.get();
        still = if now == last { still + LOOK_EVERY } else { Duration::ZERO };
        last = now;
    }
}

/// The result of the future, if it completes before `deadline`.
pub(super) async fn until<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    time::timeout_at(deadline.into(), future).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kafka_stands_still_once_nothing_was_delivered_for_as_long_as_that_takes() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let delivered = IntCounter::new("delivered", "Records.").unwrap();
            let one_in_time = async {
                for _ in 0..10 {
                    time::sleep(STANDSTILL - 2 * LOOK_EVERY).await;
                    delivered.inc();
                }
            };
            let began = clock::monotonic();
            let both = async { tokio::join!(one_in_time, stands_still(&delivered, STANDSTILL)) };
            both.await;
            assert_eq!(delivered.get(), 10);
            assert!(clock::monotonic() - began >= 10 * (STANDSTILL - 2 * LOOK_EVERY) + STANDSTILL - LOOK_EVERY);
        });
    }
}
