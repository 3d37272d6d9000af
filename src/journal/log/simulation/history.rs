//! What is done to a log, chosen by a seed, in an order that can be told and made shorter.

use std::fmt;

use super::disk::Fault;
use super::disk::FaultKind;
use super::random::SplitMix;
use crate::journal::log::SEGMENTS_MIN;
use crate::journal::log::format::BLOCK_BYTES;

/// The sizes of segments, in blocks.
const SEGMENT_BLOCKS: [u64; 4] = [16, 18, 32, 64];

/// All that happens to one log.
#[derive(Debug, Clone)]
pub(super) struct History {
    pub(super) setup: HistorySetup,
    pub(super) actions: Vec<Action>,
}

impl fmt::Display for History {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{:?}", self.setup)?;
        self.actions.iter().enumerate().try_for_each(|(index, action)| writeln!(formatter, "{index:3} {action:?}"))
    }
}

/// What holds for a whole history.
#[derive(Debug, Clone, Copy)]
pub(super) struct HistorySetup {
    pub(super) segment_blocks: u64,
    pub(super) quota_bytes: u64,
    /// What the filesystem has for the log, in bytes.
    pub(super) capacity_bytes: u64,
    /// For short reads and writes, and interruptions.
    pub(super) noise: Option<u64>,
}

#[derive(Debug, Clone)]
pub(super) enum Action {
    /// The log is opened first if it is not.
    Append {
        /// Of each capture, in bytes.
        sizes: Vec<usize>,
        is_counted: bool,
        with_delivered: bool,
        /// Whether it is tried once more when there is no room.
        is_patient: bool,
        fault: Option<Fault>,
    },
    Deliver {
        captures: u64,
        order: DeliveryOrder,
    },
    Maintain {
        fault: Option<Fault>,
    },
    Read {
        frames: u64,
    },
    /// Reads one again from where it was once.
    ReadAgain {
        pick: u64,
    },
    /// Inverts a bit of what is durable.
    Flip {
        pick: u64,
    },
    /// Makes sectors of what is durable unreadable.
    Spoil {
        pick: u64,
    },
    /// Everything can be read again.
    Heal,
    /// A clean stop.
    Close {
        fault: Option<Fault>,
    },
    /// The process ends; what it wrote is still seen by the next one.
    Kill,
    PowerOff {
        seed: u64,
    },
    Open {
        segment_blocks: u64,
        fault: Option<Fault>,
    },
}

/// In which captures are delivered.
#[derive(Debug, Clone, Copy)]
pub(super) enum DeliveryOrder {
    OldestFirst,
    NewestFirst,
    /// All but the oldest.
    OldestHeldUp,
    /// All but one in so many: those of a topic that is stuck.
    Stuck {
        one_in: u64,
    },
    Any {
        seed: u64,
    },
}

impl History {
    /// The history of a seed.
    pub(super) fn of(seed: u64) -> Self {
        let mut random = SplitMix::new(seed);
        let random = &mut random;
        let segment_blocks = one_of(random, &SEGMENT_BLOCKS);
        let segment_blocks_max = if random.percent(30) { 64 } else { segment_blocks };
        let quota_bytes = segment_blocks_max * BLOCK_BYTES as u64 * (SEGMENTS_MIN + random.below(4));
        let capacity_bytes = if random.percent(20) { quota_bytes / 2 + random.below(quota_bytes) } else { u64::MAX };
        let noise = random.percent(50).then(|| random.next());
        let setup = HistorySetup { segment_blocks, quota_bytes, capacity_bytes, noise };
        let weights = ActionWeights {
            flips: if random.percent(25) { 3 } else { 0 },
            spoils: if random.percent(25) { 4 } else { 0 },
            faults: one_of(random, &[0, 5, 20]),
            is_large: random.percent(25),
            segment_blocks_max,
            stuck: random.percent(50).then(|| one_of(random, &[2, 3, 7, 30])),
        };
        let actions = if weights.stuck.is_some() && random.percent(40) { 100 } else { 10 } + random.below(60);
        let actions = (0..actions).map(|_| weights.action(random)).collect();
        Self { setup, actions }
    }
}

/// How often things happen in one history.
struct ActionWeights {
    flips: u64,
    spoils: u64,
    faults: u64,
    is_large: bool,
    segment_blocks_max: u64,
    /// One in so many cannot be delivered, most of the time.
    stuck: Option<u64>,
}

impl ActionWeights {
    fn action(&self, random: &mut SplitMix) -> Action {
        match random.below(100 + self.flips + self.spoils) {
            0..45 => Action::Append {
                sizes: (0..self.captures(random)).map(|_| self.size(random)).collect(),
                is_counted: random.percent(70),
                with_delivered: random.percent(40),
                is_patient: random.percent(80),
                fault: self.fault(random),
            },
            45..60 => self.deliver(random),
            60..77 => Action::Maintain { fault: self.fault(random) },
            77..84 => Action::Read { frames: 1 + random.below(20) },
            84..87 => Action::ReadAgain { pick: random.next() },
            87..89 => Action::Close { fault: self.fault(random) },
            89..92 => Action::Kill,
            92..96 => Action::PowerOff { seed: random.next() },
            96..100 => {
                let sizes: Vec<u64> =
                    SEGMENT_BLOCKS.into_iter().filter(|blocks| *blocks <= self.segment_blocks_max).collect();
                Action::Open { segment_blocks: one_of(random, &sizes), fault: self.fault(random) }
            }
            at if at < 100 + self.flips => Action::Flip { pick: random.next() },
            _ if random.percent(75) => Action::Spoil { pick: random.next() },
            _ => Action::Heal,
        }
    }

    /// None: only what was delivered is recorded.
    fn captures(&self, random: &mut SplitMix) -> u64 {
        if random.percent(10) { 0 } else { 1 + random.below(5) }
    }

    fn size(&self, random: &mut SplitMix) -> usize {
        let bytes = match random.below(10) {
            0 => 0,
            1..7 if !self.is_large => 8 + random.below(200),
            7..9 => 8 + random.below(9_000),
            _ => 8 + random.below(40 * 1024),
        };
        bytes as usize
    }

    fn deliver(&self, random: &mut SplitMix) -> Action {
        match self.stuck {
            Some(one_in) if random.percent(90) => {
                Action::Deliver { captures: u64::MAX, order: DeliveryOrder::Stuck { one_in } }
            }
            Some(_) | None => Action::Deliver { captures: self.delivered(random), order: order(random) },
        }
    }

    fn delivered(&self, random: &mut SplitMix) -> u64 {
        if random.percent(15) { u64::MAX } else { 1 + random.below(12) }
    }

    fn fault(&self, random: &mut SplitMix) -> Option<Fault> {
        let kinds = [
            FaultKind::Fails,
            FaultKind::NoRoom,
            FaultKind::PowerOffBefore,
            FaultKind::PowerOffBehind,
            FaultKind::Killed,
        ];
        random.percent(self.faults).then(|| Fault { after: random.below(12), kind: one_of(random, &kinds) })
    }
}

fn order(random: &mut SplitMix) -> DeliveryOrder {
    match random.below(10) {
        0..5 => DeliveryOrder::OldestFirst,
        5 => DeliveryOrder::NewestFirst,
        6..8 => DeliveryOrder::OldestHeldUp,
        _ => DeliveryOrder::Any { seed: random.next() },
    }
}

fn one_of<T: Copy>(random: &mut SplitMix, all: &[T]) -> T {
    all[random.below(all.len() as u64) as usize]
}
