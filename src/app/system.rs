//! What the process asks of the system before it serves: no core dumps, and as many file descriptors as it may have.

use std::io;

use rustix::process::DumpableBehavior;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::getrlimit;
use rustix::process::set_dumpable_behavior;
use rustix::process::setrlimit;

use crate::http::listener::TURNED_AWAY_MAX;

/// Descriptors of the admin listener: each of its connections, and one that waits for a place.
const ADMIN: u64 = 65;
/// Of Kafka's client: a socket and a pipe for each of 20 brokers, twice while a producer is replaced.
const KAFKA: u64 = 120;
/// Of each worker: what its runtime polls with, and how it hears of signals.
const WORKER: u64 = 4;
/// Of everything else: streams, listeners, signals, a file that is read again, the journal's directory and its spares.
const OTHERS: u64 = 40;
/// For callbacks there is this part of the limit at least, however low it is.
const CONNECTIONS_PART: u64 = 4;

/// Keeps core dumps from being written, and other processes of the same user from reading this one's memory: tokens are in it. `RLIMIT_CORE`
/// would not do: where a program takes the dumps (`core_pattern` with a pipe) it does not count.
pub(crate) fn forbid_core_dumps() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Raises the soft limit of file descriptors to the hard one.
pub(super) fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the soft limit of file descriptors could not be raised to the hard one");
    }
}

/// How many connections of callbacks there may be: `configured`, or as many as the limit of file descriptors leaves beside those that
/// `workers` and a journal of `journal_files` need.
pub(super) fn connections_max(configured: usize, workers: usize, journal_files: u64) -> usize {
    // Without a limit there is no need to clamp.
    let Some(limit) = getrlimit(Resource::Nofile).current else { return configured };
    let reserved = reserved(workers, journal_files);
    let connections_max = clamped(configured, limit, reserved);
    if connections_max < configured {
        tracing::warn!(
            configured,
            connections_max,
            limit,
            reserved,
            "callbacks.connections_max is lowered: file descriptors are limited (RLIMIT_NOFILE), and journal, kafka and the admin \
             listener need some"
        );
    }
    connections_max
}

fn reserved(workers: usize, journal_files: u64) -> u64 {
    let workers = u64::try_from(workers).unwrap_or(u64::MAX);
    (ADMIN + KAFKA + TURNED_AWAY_MAX as u64 + OTHERS)
        .saturating_add(workers.saturating_mul(WORKER))
        .saturating_add(journal_files)
}

fn clamped(configured: usize, limit: u64, reserved: u64) -> usize {
    let left = limit.saturating_sub(reserved).max(limit / CONNECTIONS_PART);
    usize::try_from(left).map_or(configured, |left| configured.min(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_the_reserve_and_have_a_quarter_at_least() {
        assert_eq!(reserved(2, 0), 489);
        assert_eq!(reserved(2, 256), 745);
        assert_eq!(clamped(10_000, 1_048_576, 489), 10_000);
        assert_eq!(clamped(10_000, 4096, 489), 3607);
        assert_eq!(clamped(100, 4096, 489), 100);
        assert_eq!(clamped(10_000, 128, 489), 32);
        assert_eq!(clamped(10_000, u64::MAX, u64::MAX), 10_000);
    }
}
