//! Every moment of short histories at which the power can be cut, and everything that a disk may then have kept.
//!
//! Of the changes that are pending at a cut, all subsets of the last few survive, and all or nothing of those before. What is found then is
//! opened, put in order and appended to; and at every change of the disk that this makes, the power is cut again.

use super::disk::Image;
use super::disk::SimDisk;
use super::history::Action;
use super::history::DeliveryOrder;
use super::history::History;
use super::history::HistorySetup;
use super::model::Model;
use super::model::Violation;
use super::world::World;
use crate::journal::log::mutant::Mutant;

/// All subsets of so many pending changes are tried.
const SUBSETS_OF: usize = 8;

const SETUP: HistorySetup =
    HistorySetup { segment_blocks: 16, quota_bytes: 4 * 16 * 4096, capacity_bytes: u64::MAX, noise: None };

/// How many cuts were tried, and how many of them behind another.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cuts {
    first: u64,
    second: u64,
}

/// The short histories, each with what it is about.
fn scripts() -> Vec<(&'static str, Vec<Action>)> {
    let small = || append(&[100, 200], false);
    let recording = || append(&[100], true);
    let empty = || append(&[], true);
    let large = || append(&[38_000], false);
    let pair = || append(&[100, 38_000], false);
    let whole = || append(&[20_000, 10_000, 100], false);
    let stuck = || deliver(u64::MAX, DeliveryOrder::Stuck { one_in: 2 });
    let all_but = |one_in| deliver(u64::MAX, DeliveryOrder::Stuck { one_in });
    let works = |times| (0..times).map(|_| Action::Maintain { fault: None });
    let close = || Action::Close { fault: None };
    let work = || Action::Maintain { fault: None };
    let all = || deliver(u64::MAX, DeliveryOrder::OldestFirst);
    let newest = || deliver(1, DeliveryOrder::NewestFirst);
    let held_up = || deliver(u64::MAX, DeliveryOrder::OldestHeldUp);
    let again = || Action::Open { segment_blocks: 16, fault: None };
    vec![
        ("begins", vec![small(), small(), small()]),
        ("frames of many", vec![append(&[0, 8, 5_000, 100, 9_000], false), append(&[30_000, 100], false)]),
        ("ends", vec![small(), close()]),
        ("delivers and records", vec![small(), all(), recording(), small(), held_up(), recording()]),
        ("records at the end", vec![small(), small(), held_up(), close()]),
        ("records only", vec![small(), close(), again(), all(), empty(), close(), again(), small()]),
        ("rotates", vec![large(), large(), small()]),
        ("rotates and takes back", vec![large(), large(), all(), work(), large(), work(), small()]),
        ("takes back behind one held up", vec![large(), large(), held_up(), work(), recording(), work(), large()]),
        ("is full", vec![large(), large(), large(), large(), small()]),
        ("is full and let out", vec![large(), large(), large(), held_up(), work(), large(), work(), small()]),
        (
            "runs again and again",
            vec![small(), Action::Kill, small(), Action::Kill, small(), close(), again(), small()],
        ),
        ("changes the size", vec![small(), Action::Open { segment_blocks: 18, fault: None }, all(), large(), work()]),
        ("delivers the newest first", vec![large(), small(), newest(), recording(), close()]),
        (
            "carries records over",
            vec![append(&[100, 38_000], false), held_up(), large(), held_up(), work(), recording(), work(), small()],
        ),
        (
            "compacts",
            [pair(), pair(), stuck(), pair()].into_iter().chain(works(12)).chain([small(), recording()]).collect(),
        ),
        (
            "compacts while it delivers and records",
            [pair(), pair(), pair()]
                .into_iter()
                .chain([stuck(), work(), work(), work(), work(), all(), recording()])
                .chain(works(8))
                .chain([small(), close()])
                .collect(),
        ),
        (
            "compacts what was compacted",
            [pair(), pair(), stuck(), pair()]
                .into_iter()
                .chain(works(12))
                .chain([recording(), pair(), stuck(), recording(), pair()])
                .chain(works(14))
                .chain([small()])
                .collect(),
        ),
        (
            "carries records of older segments",
            [whole(), small(), pair(), all_but(4), recording(), pair(), stuck(), recording(), pair()]
                .into_iter()
                .chain(works(14))
                .chain([small()])
                .collect(),
        ),
        ("writes a used file again", vec![large(), large(), all(), work(), large(), all(), work(), large(), small()]),
    ]
}

fn append(sizes: &[usize], with_delivered: bool) -> Action {
    Action::Append { sizes: sizes.to_vec(), is_counted: true, with_delivered, is_patient: true, fault: None }
}

fn deliver(captures: u64, order: DeliveryOrder) -> Action {
    Action::Deliver { captures, order }
}

/// Lets a script happen, and cuts the power wherever it can be cut.
fn cut_everywhere(actions: &[Action], mutant: Option<Mutant>, cuts: &mut Cuts) -> Result<(), Violation> {
    let disk = SimDisk::new(Image::default());
    disk.record();
    let mut world = World::new(disk, &SETUP, mutant);
    for action in actions {
        // Captures get their model before they get to the disk; a delivery is known before the disk knows of it.
        world.act(action)?;
        for (image, model) in world.take_recording() {
            for kept in subsets(image.pending(), SUBSETS_OF) {
                cuts.first += 1;
                let image = image.clone().cut(kept);
                cut_again(image, model.clone(), mutant, cuts)
                    .map_err(|violation| format!("behind {action:?}: {violation}"))?;
            }
        }
    }
    Ok(())
}

/// Opens what a cut has left and goes on with it; and once more from every change that this makes.
fn cut_again(image: Image, model: Model, mutant: Option<Mutant>, cuts: &mut Cuts) -> Result<(), Violation> {
    let disk = SimDisk::new(image);
    disk.record();
    let mut world = World::resumed(disk, &SETUP, model, 1_000, mutant);
    world.open(None)?;
    world.act(&append(&[100], true))?;
    for (image, model) in world.take_recording() {
        for kept in subsets(image.pending(), 2) {
            cuts.second += 1;
            let disk = SimDisk::new(image.clone().cut(kept));
            World::resumed(disk, &SETUP, model.clone(), 2_000, mutant).open(None)?;
        }
    }
    Ok(())
}

/// All subsets of the last `of` of so many; those before are in all of them, or in none.
fn subsets(all: usize, of: usize) -> impl Iterator<Item = Box<dyn Fn(usize) -> bool>> {
    let last = all.min(of);
    let before = all - last;
    let with_before = if before > 0 { 2 } else { 1 };
    (0..with_before).flat_map(move |kept_before| {
        (0..1_u32 << last).map(move |subset| -> Box<dyn Fn(usize) -> bool> {
            Box::new(move |index| if index < before { kept_before == 0 } else { subset >> (index - before) & 1 == 1 })
        })
    })
}

#[test]
fn no_cut_of_the_power_breaks_a_promise_nor_one_behind_it() {
    let mut cuts = Cuts::default();
    for (name, actions) in scripts() {
        if let Err(violation) = cut_everywhere(&actions, None, &mut cuts) {
            panic!("a log that {name}: {violation}\n{}", History { setup: SETUP, actions });
        }
    }
    // It tries what it says.
    assert!(cuts.first > 500 && cuts.second > 5_000, "{cuts:?}");
}

#[test]
fn the_cuts_find_what_is_not_synced_in_time() {
    let mutants =
        [Mutant::AckBeforeSync, Mutant::NoDirectorySync, Mutant::OutputNotSynced, Mutant::NoSyncBeforeRemoving];
    for mutant in mutants {
        let finds = |actions: &[Action]| cut_everywhere(actions, Some(mutant), &mut Cuts::default()).is_err();
        assert!(scripts().iter().any(|(_, actions)| finds(actions)), "{mutant:?}");
    }
}
