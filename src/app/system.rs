//! System settings before serving: no core dumps, and the highest limit of file descriptors.

use std::io;

use rustix::process::DumpableBehavior;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::getrlimit;
use rustix::process::set_dumpable_behavior;
use rustix::process::setrlimit;

use crate::http::listener::OVER_CAP_RESPONSES_MAX;

/// Descriptors for the admin listener: each of its connections, and one that waits for a slot.
const ADMIN: u64 = 65;
/// For the Kafka client: a socket and a pipe for each of 20 brokers, twice while a producer is replaced.
const KAFKA: u64 = 120;
/// For each worker: its epoll instance and its wake-up pipe.
const WORKER: u64 = 4;
/// For everything else: streams, listeners, signals, files that are read again, the journal's directory and its spares.
const OTHERS: u64 = 40;
/// Callbacks get at least this fraction of the limit, however low it is.
const CONNECTIONS_PART: u64 = 4;

/// Disables core dumps, and prevents other processes of the same user from reading this one's memory, which has tokens. `RLIMIT_CORE` is
/// not enough: it is ignored if dumps are piped to a program (`core_pattern`).
pub(crate) fn forbid_core_dumps() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Raises the soft limit of file descriptors to the hard limit.
pub(super) fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the soft limit of file descriptors cannot be raised to the hard limit");
    }
}

/// The limit of callback connections: `configured`, or what the limit of file descriptors leaves after those for `workers` and for a
/// journal with `journal_files`.
pub(super) fn connections_max(configured: usize, workers: usize, journal_files: u64) -> usize {
    // Without a limit nothing is clamped.
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
    (ADMIN + KAFKA + OVER_CAP_RESPONSES_MAX as u64 + OTHERS)
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
