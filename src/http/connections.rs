//! The connections of a listener: their caps, and the end of those that take too long.
//!
//! A sweep over all of them does what a timer for each would do. At a cap, that of all or that of one peer, a connection makes room for
//! the new one, the oldest of the first kind that there is: silent since it began; idle and never of use; stalled in a head or a
//! response; just begun; reading a head; idle after a callback that was taken. Those that are busy stay.

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

/// Between the last accept and the end of idle connections: what was on its way already comes in, and is answered.
pub(super) const LAST_ARRIVALS: Duration = Duration::from_millis(100);
/// How long a connection has at the stop for what comes before HTTP: some round trips to the other side of the world.
const LAST_PREAMBLES: Duration = Duration::from_secs(1);
/// How long a new connection has until it counts as silent: a round trip or two, and a TLS handshake.
const SILENT_AFTER: Duration = Duration::from_millis(250);
/// How long a head may take, and no byte of a response move, until the connection counts as stalled.
const STALLED_AFTER: Duration = Duration::from_secs(1);
/// For each open connection, how long passes between two searches for those that can make room: a search looks at all of them.
const SEARCH_REST: Duration = Duration::from_nanos(200);

/// The limits of a listener's connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    pub(crate) connections_max: usize,
    /// `None`: any number.
    pub(crate) per_peer_max: Option<usize>,
    /// Until the first byte of a connection, and from the first byte of a head to its last.
    pub(crate) head_timeout: Duration,
    /// Without a byte of a response being taken.
    pub(crate) write_timeout: Duration,
    /// Between a response and the next request.
    pub(crate) idle_timeout: Duration,
    /// From the accept to the last response.
    pub(crate) age_max: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connections {
    limits: ConnectionLimits,
    /// The zero of all connections' clocks.
    epoch: Instant,
    open: HashMap<Id, OpenConnection>,
    peers: Peers,
    workers: Vec<Worker>,
    tasks: JoinSet<()>,
    spare: EvictionCandidates,
    gauge: IntGauge,
    evicted: IntCounter,
}

/// An open connection.
#[derive(Debug)]
struct OpenConnection {
    progress: Progress,
    abort: AbortHandle,
    began: Instant,
    /// Which worker has it.
    worker: usize,
    /// Under whom it is counted among the peers.
    peer: Option<IpAddr>,
}

/// Connections that can make room, as they were when they were looked for: a flood costs one search for many.
#[derive(Debug, Default)]
struct EvictionCandidates {
    /// The first to go first.
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

/// Which connections make room, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum EvictionKind {
    Silent,
    Unused,
    Stalled,
    New,
    /// Reading a head, and not for long.
    Head,
    /// Callbacks came over it, and were taken.
    Used,
}

/// A worker, and how many connections it has.
#[derive(Debug)]
struct Worker {
    handle: Handle,
    open: usize,
}

/// A place for a connection, and under whom it is counted among the peers.
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
            spare: EvictionCandidates::default(),
            gauge,
            evicted,
        }
    }

    /// A place under both caps, if need be that of another connection. A proxy has no cap of its own.
    pub(super) fn place(&mut self, peer: IpAddr, is_proxy: bool, now: Instant) -> Option<ConnectionSlot> {
        // Those that have ended do not count, though nobody has looked at them yet.
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.forget(ended.map_or_else(|error| error.id(), |(id, ())| id));
        }
        let peer = self.limits.per_peer_max.filter(|_max| !is_proxy).map(|max| (peer_key(peer), max));
        if let Some((peer, max)) = peer
            && self.peers.open(peer) >= max
            && !self.make_room(Some(peer), now)
        {
            return None;
        }
        if self.open.len() >= self.limits.connections_max && !self.make_room(None, now) {
            return None;
        }
        Some(ConnectionSlot(peer.map(|(peer, _max)| peer)))
    }

    /// Drives a connection on the worker that has the fewest.
    pub(super) fn begin<F>(&mut self, place: ConnectionSlot, now: Instant, drive: impl FnOnce(Progress) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let fewest = self.workers.iter_mut().enumerate().min_by_key(|(_, worker)| worker.open);
        let Some((worker, Worker { handle, open })) = fewest else { return };
        *open += 1;
        let ConnectionSlot(peer) = place;
        if let Some(peer) = peer {
            self.peers.enter(peer);
        }
        let progress = Progress::new(self.epoch, now);
        let abort = self.tasks.spawn_on(drive(progress.clone()), handle);
        self.open.insert(abort.id(), OpenConnection { progress, abort, began: now, worker, peer });
        self.show();
    }

    /// Drives a short task that has no place.
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Waits for the end of one. `None`: there is none.
    pub(super) async fn join_next(&mut self) -> Option<()> {
        let ended = self.tasks.join_next_with_id().await?;
        self.forget(ended.map_or_else(|error| error.id(), |(id, ())| id));
        Some(())
    }

    /// Ends those that have been in a phase for too long, and marks those that have grown too old. Those that are `finishing` end as soon
    /// as they are idle.
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
        late.into_iter().for_each(|id| self.cut(id));
    }

    /// Has every connection end with its next response.
    pub(super) fn close_all_next(&self) {
        self.open.values().for_each(|open| open.progress.close_next());
    }

    /// Ends the connection, one of `peer` if it is given, that can best be spared. Returns whether there was one.
    fn make_room(&mut self, peer: Option<IpAddr>, now: Instant) -> bool {
        if self.evict(peer, EvictionKind::Head) {
            return true;
        }
        let rest = SEARCH_REST * u32::try_from(self.open.len()).unwrap_or(u32::MAX);
        if self.spare.searched.is_some_and(|searched| now.duration_since(searched) < rest) {
            return false;
        }
        self.spare = EvictionCandidates { found: self.search(now), searched: Some(now) };
        self.evict(peer, EvictionKind::Used)
    }

    /// Does so with what was found, of the kinds up to `last`: where connections of use are next, there may be others by now.
    fn evict(&mut self, peer: Option<IpAddr>, last: EvictionKind) -> bool {
        let is_of_peer = |candidate: &Candidate| candidate.kind <= last && (peer.is_none() || candidate.peer == peer);
        while let Some(nth) = self.spare.found.iter().position(is_of_peer)
            && let Some(Candidate { id, moment, .. }) = self.spare.found.remove(nth)
        {
            if self.open.get(&id).is_some_and(|open| open.progress.end(moment)) {
                self.evicted.inc();
                self.cut(id);
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

    /// Drops the task of a connection that was ended.
    fn cut(&mut self, id: Id) {
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
        self.show();
    }

    fn show(&self) {
        self.gauge.set(i64::try_from(self.open.len()).unwrap_or(i64::MAX));
    }
}

impl EvictionKind {
    /// Of a connection that is where it is since `moment`, at this time. `None`: it cannot be spared.
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
    /// How long a connection may stay in `phase`; `None`: what it does has its own limits. `finishing`: for how long connections have
    /// been ending.
    fn of(&self, phase: ConnectionPhase, finishing: Option<Duration>) -> Option<Duration> {
        match phase {
            ConnectionPhase::Idle if finishing.is_some() => Some(Duration::ZERO),
            // It may have been shaking hands until now.
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

/// How many connections each peer has, where that is bounded.
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

    /// One of `peer`'s has ended.
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

/// Who counts as one peer: an address, or a network of IPv6 that one host may have for itself.
fn peer_key(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
    }
}
