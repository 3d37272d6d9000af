//! The names in one folder: what a reader sees, what is on the disk, and what is on its way there.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::mem;

use crate::support::powercut::dice::Dice;

/// A folder. A name leads to a node by its number.
#[derive(Debug, Default)]
pub(crate) struct Names {
    live: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
    /// Since the last sync, in order.
    pending: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Link { name: OsString, node: u64 },
    Unlink { name: OsString, node: u64 },
    Rename { from: OsString, to: OsString, node: u64 },
}

/// What became of the names that nobody had synced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NameFates {
    pub(crate) kept: u64,
    pub(crate) lost: u64,
}

impl Names {
    /// As a reader sees it.
    pub(crate) fn get(&self, name: &OsStr) -> Option<u64> {
        self.live.get(name).copied()
    }

    /// As a reader sees them.
    pub(crate) fn live(&self) -> impl Iterator<Item = (&OsStr, u64)> {
        self.live.iter().map(|(name, node)| (name.as_os_str(), *node))
    }

    /// Every node that a reader sees, or would see if the power went now.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = u64> {
        let pending = self.pending.iter().map(|step| match step {
            Step::Link { node, .. } | Step::Unlink { node, .. } | Step::Rename { node, .. } => *node,
        });
        self.live.values().chain(self.durable.values()).copied().chain(pending)
    }

    /// Gives a node a name, also one that another had.
    pub(crate) fn link(&mut self, name: &OsStr, node: u64) {
        self.take(Step::Link { name: name.to_owned(), node });
    }

    /// Takes a name away.
    pub(crate) fn unlink(&mut self, name: &OsStr, node: u64) {
        self.take(Step::Unlink { name: name.to_owned(), node });
    }

    /// Both names are never there, and never neither.
    pub(crate) fn rename(&mut self, from: &OsStr, to: &OsStr, node: u64) {
        self.take(Step::Rename { from: from.to_owned(), to: to.to_owned(), node });
    }

    /// Brings everything to the disk.
    pub(crate) fn sync(&mut self) {
        self.pending.clear();
        self.durable = self.live.clone();
    }

    /// The power goes. What was not synced survives up to some step, as in a file system with a log of its own; or any of the
    /// steps do, as in one without. A step without the one that it stands on is lost with it.
    pub(crate) fn cut(&mut self, dice: &mut Dice) -> NameFates {
        let mut fates = NameFates::default();
        let steps = mem::take(&mut self.pending);
        let length = u64::try_from(steps.len()).unwrap();
        let first_only = dice.coin().then(|| dice.below(length + 1));
        for (nth, step) in (0..).zip(&steps) {
            let is_chosen = first_only.map_or_else(|| dice.coin(), |limit| nth < limit);
            if is_chosen && apply(&mut self.durable, step) {
                fates.kept += 1;
            } else {
                fates.lost += 1;
            }
        }
        self.live = self.durable.clone();
        fates
    }

    fn take(&mut self, step: Step) {
        apply(&mut self.live, &step);
        self.pending.push(step);
    }
}

/// Whether it could be done.
fn apply(names: &mut BTreeMap<OsString, u64>, step: &Step) -> bool {
    match step {
        Step::Link { name, node } => {
            names.insert(name.clone(), *node);
            true
        }
        Step::Unlink { name, node } => {
            let is_there = names.get(name) == Some(node);
            if is_there {
                names.remove(name);
            }
            is_there
        }
        Step::Rename { from, to, node } => {
            let is_there = names.get(from) == Some(node);
            if is_there {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
            is_there
        }
    }
}
