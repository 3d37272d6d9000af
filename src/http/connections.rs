//! The connections of a listener: their caps, and the end of those that take too long.
//!
//! A sweep over all of them does what a timer for each would do. At a cap, that of all or that of one peer, a connection makes room for
//! the new one: first those of which no byte has ever come, then those that are idle, then those that are slow with a head, the oldest
//! of each first. Those that are busy stay.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;
use std::time::Instant;

use prometheus::IntCounter;
use prometheus::IntGauge;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::task::Id;
use tokio::task::JoinSet;

use super::listener::Limits;
use super::peers::Peers;
use super::peers::peer_key;
use super::phase::Moment;
use super::phase::Phase;
use super::phase::Progress;
use super::phase::millis_since;

/// How long a connection lingers at most.
const LINGER: Duration = Duration::from_secs(1);
/// How long a connection has at the stop for what comes before HTTP: some round trips to the other side of the world.
const LAST_PREAMBLES: Duration = Duration::from_secs(1);
/// How long a head may take before its connection may have to make room.
const HEAD_GRACE: Duration = Duration::from_secs(1);
/// How long the search for connections that can make room rests when it has found none: it looks at all of them.
const SEARCH_REST: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Connections {
    limits: Limits,
    /// The zero of all connections' clocks.
    epoch: Instant,
    open: HashMap<Id, Open>,
    peers: Peers,
    workers: Vec<Worker>,
    tasks: JoinSet<()>,
    spare: Spare,
    gauge: IntGauge,
    evicted: IntCounter,
}

/// An open connection.
#[derive(Debug)]
struct Open {
    progress: Progress,
    abort: AbortHandle,
    began: Instant,
    /// Which worker has it.
    worker: usize,
    /// Under whom it is counted among the peers.
    peer: Option<IpAddr>,
}

/// Connections that can make room, as they were when they were looked for: a flood of silent connections costs one search for many.
#[derive(Debug, Default)]
struct Spare {
    /// Whose they are; `None`: anybody's.
    peer: Option<IpAddr>,
    /// The first to go first.
    found: VecDeque<(Id, Moment)>,
    /// When none was found.
    none_at: Option<Instant>,
}

/// A worker, and how many connections it has.
#[derive(Debug)]
struct Worker {
    handle: Handle,
    open: usize,
}

/// A place for a connection, and under whom it is counted among the peers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place(Option<IpAddr>);

impl Connections {
    pub(super) fn new(
        limits: Limits,
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
            spare: Spare::default(),
            gauge,
            evicted,
        }
    }

    /// A place under both caps, if need be that of another connection. A proxy has no cap of its own.
    pub(super) fn place(&mut self, peer: IpAddr, is_proxy: bool, now: Instant) -> Option<Place> {
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
        Some(Place(peer.map(|(peer, _max)| peer)))
    }

    /// Drives a connection on the worker that has the fewest.
    pub(super) fn begin<F>(&mut self, place: Place, now: Instant, drive: impl FnOnce(Progress) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let fewest = self.workers.iter_mut().enumerate().min_by_key(|(_, worker)| worker.open);
        let Some((worker, Worker { handle, open })) = fewest else { return };
        *open += 1;
        let Place(peer) = place;
        if let Some(peer) = peer {
            self.peers.enter(peer);
        }
        let progress = Progress::new(self.epoch, now);
        let abort = self.tasks.spawn_on(drive(progress.clone()), handle);
        self.open.insert(abort.id(), Open { progress, abort, began: now, worker, peer });
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
        if self.spare.peer != peer {
            self.spare = Spare { peer, ..Spare::default() };
        }
        loop {
            while let Some((id, moment)) = self.spare.found.pop_front() {
                if self.open.get(&id).is_some_and(|open| open.progress.end(moment)) {
                    self.evicted.inc();
                    self.cut(id);
                    return true;
                }
            }
            if self.spare.none_at.is_some_and(|at| now.duration_since(at) < SEARCH_REST) {
                return false;
            }
            self.spare.found = self.search(peer, now);
            self.spare.none_at = self.spare.found.is_empty().then_some(now);
        }
    }

    fn search(&self, peer: Option<IpAddr>, now: Instant) -> VecDeque<(Id, Moment)> {
        let slow = millis_since(self.epoch, now).saturating_sub(millis(HEAD_GRACE));
        let rank = |moment: Moment| match moment.phase() {
            Phase::Preamble | Phase::Silent => Some(0),
            Phase::Idle => Some(1),
            Phase::Head if moment.since() <= slow => Some(2),
            Phase::Head | Phase::Service | Phase::Response | Phase::Linger | Phase::Ended => None,
        };
        let open = self.open.iter().filter(|(_, open)| peer.is_none() || open.peer == peer);
        let moments = open.map(|(id, open)| (*id, open.progress.moment()));
        let mut found: Vec<_> = moments.filter_map(|(id, at)| Some((rank(at)?, at.since(), id, at))).collect();
        found.sort_unstable_by_key(|(rank, since, ..)| (*rank, *since));
        // Of those that have been used only one: the next may be a silent one that came after this search.
        let silent = found.partition_point(|(rank, ..)| *rank == 0);
        found.into_iter().take(silent.max(1)).map(|(_, _, id, moment)| (id, moment)).collect()
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

impl Limits {
    /// How long a connection may stay in `phase`; `None`: what it does has its own limits. `finishing`: for how long connections have
    /// been ending.
    fn of(&self, phase: Phase, finishing: Option<Duration>) -> Option<Duration> {
        match phase {
            Phase::Silent | Phase::Idle if finishing.is_some() => Some(Duration::ZERO),
            Phase::Preamble => finishing.filter(|since| *since >= LAST_PREAMBLES).map(|_since| Duration::ZERO),
            Phase::Silent | Phase::Head => Some(self.head_timeout),
            Phase::Response => Some(self.write_timeout),
            Phase::Idle => Some(self.idle_timeout),
            Phase::Linger => Some(LINGER),
            Phase::Service | Phase::Ended => None,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
