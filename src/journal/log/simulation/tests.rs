//! The log keeps its promises in thousands of histories, and the histories find each fault that is built in.

use std::env;
use std::time::Instant;

use super::history::History;
use crate::clock;
use crate::journal::log::mutant::Mutant;

const HISTORIES: u64 = 800;

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.replace('_', "").parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// The violation of a seed, told with everything that led to it.
fn violation(seed: u64, mutant: Option<Mutant>) -> Option<String> {
    let history = History::of(seed);
    let violation = history.check(mutant).err()?;
    let shrunk = history.clone().shrunk(mutant);
    let shrunk_violation = shrunk.check(mutant).err();
    Some(format!(
        "seed {seed}: {violation}\n\nall of it:\n{history}\nmade shorter:\n{shrunk}{}\n",
        shrunk_violation.unwrap_or_default()
    ))
}

#[test]
fn no_history_breaks_a_promise() {
    let asked = setting("CALLBRIDGE_TORTURE_HISTORIES");
    let histories = asked.unwrap_or(HISTORIES);
    let first = setting("CALLBRIDGE_TORTURE_SEED").unwrap_or(1);
    let began = clock::monotonic();
    let (mut copied, mut won) = (0, 0);
    for seed in first..first + histories {
        let done = seed - first;
        if asked.is_some() && done > 0 && done.is_multiple_of(10_000) {
            tell(first, done, began, (copied, won));
        }
        match History::of(seed).copied(None) {
            Ok(of_history) => (copied, won) = (copied + of_history.0, won + of_history.1),
            Err(_) => panic!("{}", violation(seed, None).unwrap_or_default()),
        }
    }
    if asked.is_some() {
        tell(first, histories, began, (copied, won));
    }
    assert!(won > 0, "nothing is compacted");
}

#[expect(clippy::print_stderr, reason = "for whoever waits for a million of them")]
fn tell(first: u64, done: u64, began: Instant, (copied, won): (u64, u64)) {
    let seconds = clock::monotonic().duration_since(began).as_secs_f64();
    let last = first + done - 1;
    eprintln!(
        "{done} histories, seeds {first} to {last}: no violation. {seconds:.0} s, {:.0}/s; compactions copied {copied} bytes and won {won}",
        done as f64 / seconds
    );
}

/// Each fault is found within so many histories.
fn finds_within(histories: u64, mutant: Mutant) {
    let found = (1..=histories).find(|seed| History::of(*seed).check(Some(mutant)).is_err());
    let found = found.unwrap_or_else(|| panic!("{histories} histories do not find {mutant:?}"));
    for seed in 1..=found {
        assert_eq!(History::of(seed).check(None), Ok(()), "without a fault, seed {seed}");
    }
}

#[test]
fn an_acknowledgement_before_the_sync_is_found() {
    finds_within(100, Mutant::AckBeforeSync);
}

#[test]
fn a_directory_that_is_not_synced_is_found() {
    finds_within(100, Mutant::NoDirectorySync);
}

#[test]
fn a_segment_that_is_taken_back_too_early_is_found() {
    finds_within(100, Mutant::RecycleTooEarly);
}

#[test]
fn a_record_of_what_is_not_delivered_is_found() {
    finds_within(100, Mutant::CheckpointBeforeDelivery);
}

#[test]
fn a_failed_sync_that_is_ignored_is_found() {
    finds_within(100, Mutant::IgnoreFailedSync);
}

#[test]
fn each_fault_of_compaction_is_found() {
    // The faults that are not here want a certain moment: the crash points find them, or the regressions.
    let faults = [
        Mutant::OutputNotSynced,
        Mutant::ForgetRuns,
        Mutant::DeliveredAtCopy,
        Mutant::LoseUnsaved,
        Mutant::LoseMarks,
        Mutant::RangeTooWide,
        Mutant::SupersedeEqual,
        Mutant::TornOutput,
        Mutant::CountAll,
        Mutant::NumberByOrdinal,
        Mutant::KeepOffset,
        Mutant::ReadNextInstead,
        Mutant::CompactNewest,
        Mutant::SubtractTwice,
        Mutant::NoGainFloor,
        Mutant::ForgetEnds,
    ];
    for mutant in faults {
        let is_found = (1..=HISTORIES).any(|seed| History::of(seed).check(Some(mutant)).is_err());
        assert!(is_found, "{HISTORIES} histories do not find {mutant:?}");
    }
}
