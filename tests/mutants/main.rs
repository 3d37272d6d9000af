//! The harnesses of durability, tried on callbridges that have a fault built in (`src/journal/log/mutant.rs`): each must be found. What
//! never found anything proves nothing.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the harness is test code too: what it cannot do is a failed test"
)]
#![expect(dead_code, reason = "the harnesses are those of the other tests, which use all of them")]

#[path = "../it/seeds/mod.rs"]
mod seeds;
#[path = "../it/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use callbridge::clock;

use crate::support::bridge::Bridge;
use crate::support::bridge::BridgeBuilder;
use crate::support::bridge::Stopped;
use crate::support::journal;
use crate::support::journal::Failing;
use crate::support::journal::Killed;
use crate::support::journal::Unplugged;
use crate::support::kafka::Kafka;
use crate::support::ledger::Ledger;
use crate::support::load;
use crate::support::oracle;
use crate::support::reader::Reader;
use crate::support::torture;
use crate::support::torture::Crashed;
use crate::support::torture::Plan;
use crate::support::torture::Site;
use crate::support::wait;

/// As in the tests of what has no fault.
const PLAN: Plan = Plan { seed: 1, crashes: 6, clients: 8, pause: Duration::from_millis(2), acknowledged_max: 400 };

/// What is not delivered for so long, while nothing is in its way, never will be.
const QUIET: Duration = Duration::from_secs(10);

/// It goes on with what it can read, so that what is missing is counted.
fn settings(kafka: &Kafka, mutant: &str) -> BridgeBuilder {
    let settings = journal::builder(&kafka.bootstrap(), mutant, "on_corruption = \"salvage\"");
    settings.variable("CALLBRIDGE_TEST_MUTANT", mutant)
}

/// Records stay with the client for so long that crashes come before they are delivered.
fn settings_with_slow_delivery(kafka: &Kafka, mutant: &str) -> BridgeBuilder {
    settings(kafka, mutant).args(&["--kafka", "linger.ms=3000"])
}

/// Crashes it only after it has recorded what was delivered, but before the client sends what it keeps for `linger.ms`.
struct Recorded(Killed);

impl Site for Recorded {
    fn launch(&mut self) -> Bridge {
        self.0.launch()
    }

    fn crash(&mut self, bridge: Bridge) -> Stopped {
        // It is recorded once a second, and the load goes on.
        thread::sleep(Duration::from_millis(1500));
        self.0.crash(bridge)
    }

    fn crash_starting(&mut self, bridge: Bridge) -> Stopped {
        self.0.crash_starting(bridge)
    }
}

/// What was acknowledged and does not come out.
fn assert_found(kafka: &Kafka, mutant: &str, mut site: impl Site, plan: &Plan) {
    let Crashed { bridge, outcome, .. } = torture::crash(&mut site, plan);
    // What it has lost it may wait for; then it delivers nothing more.
    let (mut delivered, mut since) = (0, clock::monotonic());
    wait::until("nothing more is delivered", || {
        let ledger = Ledger::of_scrape(&bridge.metrics());
        if ledger.delivered != delivered {
            (delivered, since) = (ledger.delivered, clock::monotonic());
        }
        ledger.waiting == 0 || clock::monotonic().duration_since(since) > QUIET
    });
    let records = Reader::open(&kafka.client(), &[&format!("{mutant}.{}", load::COMMAND)]).collect_to_end();
    let seen: BTreeSet<u64> = records.iter().map(oracle::sequence).collect();
    let lost = outcome.acknowledged().filter(|sent| !seen.contains(&sent.sequence)).count();
    say(&format!("{mutant}: {lost} of {} are lost", outcome.acknowledged().count()));
    assert!(lost > 0, "{mutant} is not found");
}

/// By macro, so that it stands with the output of the test that failed.
#[expect(clippy::print_stderr, reason = "what was found")]
fn say(line: &str) {
    eprintln!("{line}");
}

#[test]
fn power_cuts_find_an_acknowledgement_before_the_sync() {
    let Some(kafka) = Kafka::shared() else { return };
    let Some(site) = Unplugged::new(settings(kafka, "ack_before_sync"), 1) else { return };
    assert_found(kafka, "ack_before_sync", site, &PLAN);
}

#[test]
fn power_cuts_find_a_segment_whose_name_is_not_synced() {
    let Some(kafka) = Kafka::shared() else { return };
    // Soon after a segment is begun, as the next spare makes the name durable as well; that takes longer for a large one.
    let settings = settings_with_slow_delivery(kafka, "no_directory_sync");
    let settings = settings.variable("CALLBRIDGE_JOURNAL_SEGMENT_BYTES", "16777216");
    let Some(site) = Unplugged::new(settings, 2) else { return };
    let plan = Plan { crashes: 12, acknowledged_max: 10, ..PLAN };
    assert_found(kafka, "no_directory_sync", site, &plan);
}

#[test]
fn failing_syncs_and_power_cuts_find_a_failed_sync_that_is_ignored() {
    let Some(kafka) = Kafka::shared() else { return };
    let Some(unplugged) = Unplugged::new(settings(kafka, "ignore_failed_sync"), 3) else { return };
    assert_found(kafka, "ignore_failed_sync", Failing::new(unplugged, false), &PLAN);
}

#[test]
fn kill_9_finds_a_segment_that_is_recycled_too_early() {
    let Some(kafka) = Kafka::shared() else { return };
    let site = Killed::new(settings_with_slow_delivery(kafka, "recycle_too_early"));
    // A frame has 4 KiB at least: some segments, then.
    let plan = Plan { crashes: 3, acknowledged_max: 8000, pause: Duration::ZERO, ..PLAN };
    assert_found(kafka, "recycle_too_early", site, &plan);
}

#[test]
fn kill_9_finds_what_is_recorded_as_delivered_before_it_is() {
    let Some(kafka) = Kafka::shared() else { return };
    let site = Recorded(Killed::new(settings_with_slow_delivery(kafka, "checkpoint_before_delivery")));
    // So few that the client does not send them before their time because a batch is full.
    let plan = Plan { pause: Duration::from_millis(10), ..PLAN };
    assert_found(kafka, "checkpoint_before_delivery", site, &plan);
}

#[test]
fn without_a_fault_the_same_crashes_lose_nothing() {
    let Some(kafka) = Kafka::shared() else { return };
    let Some(mut site) = Unplugged::new(settings_with_slow_delivery(kafka, "none"), 4) else { return };
    let verdict = torture::run(&mut site, kafka, &format!("none.{}", load::COMMAND), &PLAN);
    verdict.assert_nothing_is_lost();
    verdict.assert_repeats_are_bounded();
}
