//! The connections of a listener: their caps, and the timeouts that end slow ones.
//!
//! One sweep over all connections replaces a timer for each. At a cap, the total one or that of one peer, an existing connection makes room
//! for the new one. Candidates are taken in this order, the oldest of a kind first: silent since the accept; idle without ever having sent
//! a valid callback; stalled in a head or a response; just accepted; reading a head; idle after a valid callback. Connections whose request
//! is being handled stay.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::time::Duration;
use std::time::Instant;

use prometheus::IntCounter;
use prometheus::IntGauge;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::task::Id;
use tokio::task::JoinSet;

use super::phase::ConnectionPhase;
use super::phase::Moment;
use super::phase::Progress;
use super::phase::millis_since;

/// Between the last accept and the end of idle connections: requests that are already in transit arrive in it, and are answered.
pub(super) const LAST_ARRIVALS: Duration = Duration::from_millis(100);
/// How long the preamble of a connection may still take at the stop: some round trips to the other side of the world.
const LAST_PREAMBLES: Duration = Duration::from_secs(1);
/// A new connection counts as silent after this time: a round trip or two, and a TLS handshake.
const SILENT_AFTER: Duration = Duration::from_millis(250);
/// A head, or a response of which no byte is taken, counts as stalled after this time.
const STALLED_AFTER: Duration = Duration::from_secs(1);
/// The time between two searches for eviction candidates, for each open connection: a search looks at all of them.
const SEARCH_PAUSE: Duration = Duration::from_nanos(200);

/// The limits of a listener's connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    pub(crate) connections_max: usize,
    /// `None`: any number.
    pub(crate) per_peer_max: Option<usize>,
    /// From the accept to the first byte, and from the first byte of a head to its last.
    pub(crate) head_timeout: Duration,
    /// How long a response may wait for the peer to take a byte.
    pub(crate) write_timeout: Duration,
    /// Between a response and the next request.
    pub(crate) idle_timeout: Duration,
    /// From the accept to the last response.
    pub(crate) age_max: Duration,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Connections {
    limits: ConnectionLimits,
    /// The zero of the clocks of all connections.
    epoch: Instant,
    open: HashMap<Id, OpenConnection>,
    peers: Peers,
    workers: Vec<Worker>,
    tasks: JoinSet<()>,
    candidates: EvictionCandidates,
    gauge: IntGauge,
    evicted: IntCounter,
}

/// An open connection.
#[derive(Debug)]
struct OpenConnection {
    progress: Progress,
    abort: AbortHandle,
    began: Instant,
    /// The index of its worker.
    worker: usize,
    /// The peer that it is counted for.
    peer: Option<IpAddr>,
}

/// Connections that can make room, as they were at the last search: in a flood one search serves many accepts.
#[derive(Debug, Default)]
struct EvictionCandidates {
    /// The first to be evicted first.
    found: VecDeque<Candidate>,
    searched: Option<Instant>,
}

/// See [`EvictionCandidates`].
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: Id,
    moment: Moment,
    peer: Option<IpAddr>,
    kind: EvictionKind,
}

/// The kinds of connections that make room, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum EvictionKind {
    Silent,
    Unused,
    Stalled,
    New,
    /// Reading a head that has not stalled.
    Head,
    /// Idle, and a valid callback came over it.
    Used,
}

/// A worker, and how many connections it drives.
#[derive(Debug)]
struct Worker {
    handle: Handle,
    open: usize,
}

/// Permission for one more connection, and the peer that it is counted for.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionSlot(Option<IpAddr>);

impl Connections {
    pub(super) fn new(
        limits: ConnectionLimits,
        workers: Vec<Handle>,
        epoch: Instant,
        gauge: IntGauge,
        evicted: IntCounter,
    ) -> Self {
        Self {
            limits,
            epoch,
            open: HashMap::new(),
            peers: Peers::default(),
            workers: workers.into_iter().map(|handle| Worker { handle, open: 0 }).collect(),
            tasks: JoinSet::new(),
            candidates: EvictionCandidates::default(),
            gauge,
            evicted,
        }
    }

    /// A slot under both caps; at a cap another connection is evicted. A proxy has no cap per peer.
    pub(super) fn take_slot(&mut self, peer: IpAddr, is_proxy: bool, now: Instant) -> Option<ConnectionSlot> {
        // Ended tasks that nobody has joined yet must not count.
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.forget(ended.map_or_else(|error| error.id(), |(id, ())| id));
        }
        let peer = self.limits.per_peer_max.filter(|_max| !is_proxy).map(|max| (peer_key(peer), max));
        if let Some((peer, max)) = peer
            && self.peers.open(peer) >= max
            && !self.evict_one(Some(peer), now)
        {
            return None;
        }
        if self.open.len() >= self.limits.connections_max && !self.evict_one(None, now) {
            return None;
        }
        Some(ConnectionSlot(peer.map(|(peer, _max)| peer)))
    }

    /// Drives a connection on the worker that has the fewest connections.
    pub(super) fn begin<F>(&mut self, slot: ConnectionSlot, now: Instant, drive: impl FnOnce(Progress) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let fewest = self.workers.iter_mut().enumerate().min_by_key(|(_, worker)| worker.open);
        let Some((worker, Worker { handle, open })) = fewest else { return };
        *open += 1;
        let ConnectionSlot(peer) = slot;
        if let Some(peer) = peer {
            self.peers.enter(peer);
        }
        let progress = Progress::new(self.epoch, now);
        let abort = self.tasks.spawn_on(drive(progress.clone()), handle);
        self.open.insert(abort.id(), OpenConnection { progress, abort, began: now, worker, peer });
        self.update_gauge();
    }

    /// Runs a short task that needs no slot.
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Waits until a connection has ended. `None`: there is none.
    pub(super) async fn join_next(&mut self) -> Option<()> {
        let ended = self.tasks.join_next_with_id().await?;
        self.forget(ended.map_or_else(|error| error.id(), |(id, ())| id));
        Some(())
    }

    /// Ends connections that have been in a phase for too long, and marks those that are older than `age_max` to close after their next
    /// response. While the listener is `finishing`, connections end as soon as they are idle.
    pub(super) fn sweep(&mut self, now: Instant, finishing: Option<Instant>) {
        let at = millis_since(self.epoch, now);
        let late: Vec<Id> = self
            .open
            .iter()
            .filter(|(_, open)| {
                if now.duration_since(open.began) >= self.limits.age_max {
                    open.progress.close_next();
                }
                let moment = open.progress.moment();
                let limit = self.limits.of(moment.phase(), finishing.map(|since| now.duration_since(since)));
                let is_late =
                    limit.is_some_and(|limit| u128::from(at.saturating_sub(moment.since())) >= limit.as_millis());
                is_late && open.progress.end(moment)
            })
            .map(|(id, _)| *id)
            .collect();
        late.into_iter().for_each(|id| self.abort(id));
    }

    /// Makes every connection close after its next response.
    pub(super) fn close_all_next(&self) {
        self.open.values().for_each(|open| open.progress.close_next());
    }

    /// Evicts the best candidate, of `peer` if one is given. Returns whether there was one.
    fn evict_one(&mut self, peer: Option<IpAddr>, now: Instant) -> bool {
        if self.evict(peer, EvictionKind::Head) {
            return true;
        }
        let rest = SEARCH_PAUSE * u32::try_from(self.open.len()).unwrap_or(u32::MAX);
        if self.candidates.searched.is_some_and(|searched| now.duration_since(searched) < rest) {
            return false;
        }
        self.candidates = EvictionCandidates { found: self.search(now), searched: Some(now) };
        self.evict(peer, EvictionKind::Used)
    }

    /// Evicts a candidate of the last search, of the kinds up to `last`: before a useful connection is evicted, a new search may find
    /// others.
    fn evict(&mut self, peer: Option<IpAddr>, last: EvictionKind) -> bool {
        let is_of_peer = |candidate: &Candidate| candidate.kind <= last && (peer.is_none() || candidate.peer == peer);
        while let Some(nth) = self.candidates.found.iter().position(is_of_peer)
            && let Some(Candidate { id, moment, .. }) = self.candidates.found.remove(nth)
        {
            if self.open.get(&id).is_some_and(|open| open.progress.end(moment)) {
                self.evicted.inc();
                self.abort(id);
                return true;
            }
        }
        false
    }

    fn search(&self, now: Instant) -> VecDeque<Candidate> {
        let at = millis_since(self.epoch, now);
        let candidate = |(id, open): (&Id, &OpenConnection)| {
            let moment = open.progress.moment();
            let kind = EvictionKind::of(moment, at, open.progress.is_used())?;
            Some(Candidate { id: *id, moment, peer: open.peer, kind })
        };
        let mut found: Vec<Candidate> = self.open.iter().filter_map(candidate).collect();
        found.sort_unstable_by_key(|candidate| (candidate.kind, candidate.moment.since()));
        found.into()
    }

    /// Aborts the task of a connection that was ended.
    fn abort(&mut self, id: Id) {
        if let Some(open) = self.open.get(&id) {
            open.abort.abort();
        }
        self.forget(id);
    }

    fn forget(&mut self, id: Id) {
        let Some(open) = self.open.remove(&id) else { return };
        if let Some(worker) = self.workers.get_mut(open.worker) {
            worker.open -= 1;
        }
        self.peers.leave(open.peer);
        self.update_gauge();
    }

    fn update_gauge(&self) {
        self.gauge.set(i64::try_from(self.open.len()).unwrap_or(i64::MAX));
    }
}

impl EvictionKind {
    /// The kind of a connection that has been in its phase since `moment`, at the time `at`. `None`: it must stay.
    fn of(moment: Moment, at: u64, is_used: bool) -> Option<Self> {
        let age = Duration::from_millis(at.saturating_sub(moment.since()));
        match moment.phase() {
            ConnectionPhase::Preamble | ConnectionPhase::Silent if age < SILENT_AFTER => Some(Self::New),
            ConnectionPhase::Preamble | ConnectionPhase::Silent => Some(Self::Silent),
            ConnectionPhase::Idle if is_used => Some(Self::Used),
            ConnectionPhase::Idle => Some(Self::Unused),
            ConnectionPhase::Head | ConnectionPhase::Response if age >= STALLED_AFTER => Some(Self::Stalled),
            ConnectionPhase::Head => Some(Self::Head),
            ConnectionPhase::Response | ConnectionPhase::Service | ConnectionPhase::Linger | ConnectionPhase::Ended => {
                None
            }
        }
    }
}

impl ConnectionLimits {
    /// How long a connection may stay in `phase`; `None`: the phase has limits of its own. `finishing`: how long the listener has been
    /// finishing.
    fn of(&self, phase: ConnectionPhase, finishing: Option<Duration>) -> Option<Duration> {
        match phase {
            ConnectionPhase::Idle if finishing.is_some() => Some(Duration::ZERO),
            // Its TLS handshake may have ended just now.
            ConnectionPhase::Silent if finishing.is_some() => Some(LAST_ARRIVALS),
            ConnectionPhase::Preamble => {
                finishing.filter(|since| *since >= LAST_PREAMBLES).map(|_since| Duration::ZERO)
            }
            ConnectionPhase::Silent | ConnectionPhase::Head => Some(self.head_timeout),
            ConnectionPhase::Response => Some(self.write_timeout),
            ConnectionPhase::Idle => Some(self.idle_timeout),
            ConnectionPhase::Service | ConnectionPhase::Linger | ConnectionPhase::Ended => None,
        }
    }
}

/// The number of connections of each peer, where it is limited.
#[derive(Debug, Default)]
struct Peers {
    open: HashMap<IpAddr, usize>,
}

impl Peers {
    /// How many connections `peer` has.
    fn open(&self, peer: IpAddr) -> usize {
        self.open.get(&peer).copied().unwrap_or_default()
    }

    /// Counts a connection of `peer`.
    fn enter(&mut self, peer: IpAddr) {
        *self.open.entry(peer).or_default() += 1;
    }

    /// A connection of `peer` has ended.
    fn leave(&mut self, peer: Option<IpAddr>) {
        let Some(peer) = peer else { return };
        if let Entry::Occupied(mut open) = self.open.entry(peer) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

/// The key by which a peer is counted: an IPv4 address, or a /64 network of IPv6, which one host may own.
fn peer_key(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
    }
}
