//! Histories that have broken a promise once.

use super::disk::Fault;
use super::disk::FaultKind;
use super::disk::Image;
use super::disk::SECTOR_BYTES;
use super::disk::SimDisk;
use super::history::Action;
use super::history::DeliveryOrder;
use super::history::History;
use super::history::HistorySetup;
use super::random::SplitMix;
use crate::journal::log::AppendError;
use crate::journal::log::Damage;
use crate::journal::log::OnCorruption;
use crate::journal::log::OpenError;
use crate::journal::log::Options;
use crate::journal::log::Seq;
use crate::journal::log::format::BLOCK_BYTES;
use crate::journal::log::format::FrameBuilder;
use crate::journal::log::maintenance::MaintenanceError;
use crate::journal::log::mutant::Mutant;
use crate::journal::log::recovery;
use crate::journal::log::recovery::Opened;
use crate::journal::log::recovery::Purpose;

const SETUP: HistorySetup =
    HistorySetup { segment_blocks: 16, quota_bytes: 4 * 16 * 4096, capacity_bytes: u64::MAX, noise: None };

fn holds(setup: HistorySetup, actions: impl IntoIterator<Item = Action>) {
    let history = History { setup, actions: actions.into_iter().collect() };
    assert_eq!(history.check(None), Ok(()), "\n{history}");
}

fn append(sizes: &[usize], with_delivered: bool) -> Action {
    Action::Append { sizes: sizes.to_vec(), is_counted: true, with_delivered, is_patient: true, fault: None }
}

fn deliver(captures: u64, order: DeliveryOrder) -> Action {
    Action::Deliver { captures, order }
}

const READ: Action = Action::Read { frames: u64::MAX };

#[test]
fn a_segment_without_captures_is_not_overwritten_by_the_next() {
    holds(
        SETUP,
        [
            append(&[100, 100], true),
            Action::Kill,
            // Records what was delivered, and nothing else.
            READ,
            deliver(1, DeliveryOrder::OldestFirst),
            append(&[], true),
            Action::Kill,
            append(&[100], true),
            Action::PowerOff { seed: 1 },
            READ,
        ],
    );
}

/// Found by seed 900114140: who said where it ended was recycled, so after the next start it could not be compacted, nor recycled.
#[test]
fn a_segment_without_captures_does_not_lose_who_says_where_it_ends() {
    let power_off = |seed| Action::PowerOff { seed };
    let uncounted = |sizes: &[usize], with_delivered, is_patient, fault| Action::Append {
        sizes: sizes.to_vec(),
        is_counted: false,
        with_delivered,
        is_patient,
        fault,
    };
    let impatient = |sizes: &[usize], with_delivered| Action::Append {
        sizes: sizes.to_vec(),
        is_counted: true,
        with_delivered,
        is_patient: false,
        fault: None,
    };
    let open = Action::Open { segment_blocks: 16, fault: None };
    let half = || deliver(u64::MAX, DeliveryOrder::Stuck { one_in: 2 });
    holds(
        HistorySetup { quota_bytes: 5 * 16 * 4096, ..SETUP },
        [
            append(&[], false),
            power_off(17_913_400_411_329_150_183),
            append(&[19, 0, 1587], false),
            power_off(18_273_129_094_871_777_943),
            uncounted(&[173, 73, 1670, 173, 20606], true, true, None),
            power_off(4_569_767_803_354_961_085),
            append(&[96], true),
            uncounted(&[7316, 198, 0, 0, 26], true, false, None),
            uncounted(&[172, 160, 23, 0, 0], false, true, Some(Fault { after: 1, kind: FaultKind::PowerOffBefore })),
            uncounted(&[40173, 191, 207], true, true, None),
            append(&[122], false),
            append(&[7039, 0, 10137], false),
            append(&[0, 8683, 0, 14553, 22], false),
            open.clone(),
            uncounted(&[95, 32, 9], false, true, None),
            Action::Close { fault: None },
            impatient(&[], false),
            half(),
            append(&[0, 38, 891, 4931, 18], false),
            Action::Kill,
            uncounted(&[], false, true, None),
            open.clone(),
            append(&[], false),
            open.clone(),
            impatient(&[6241, 105, 101, 156, 0], false),
            impatient(&[4131, 57], false),
            impatient(&[0, 139, 4167, 92], true),
            append(&[33], false),
            append(&[91], true),
            power_off(2_373_900_806_433_218_790),
            append(&[0, 2992, 5573, 1674, 80], false),
            open,
            append(&[0, 207], false),
        ],
    );
}

#[test]
fn a_frame_that_finds_no_room_does_not_take_with_it_what_was_delivered() {
    let failing = Action::Append {
        sizes: vec![100],
        is_counted: true,
        with_delivered: true,
        is_patient: false,
        fault: Some(Fault { after: 0, kind: FaultKind::NoRoom }),
    };
    holds(
        SETUP,
        [
            append(&[100, 100], false),
            deliver(1, DeliveryOrder::OldestFirst),
            failing,
            Action::Close { fault: None },
            READ,
        ],
    );
}

#[test]
fn a_run_that_only_delivers_records_it_when_it_closes() {
    holds(
        SETUP,
        [
            append(&[100, 100], false),
            Action::Kill,
            READ,
            deliver(1, DeliveryOrder::OldestFirst),
            Action::Close { fault: None },
            READ,
        ],
    );
}

#[test]
fn a_close_records_all_that_was_delivered() {
    // Every second one: more runs than a frame takes.
    let delivered =
        (0..15).flat_map(|_| [append(&[10], false), deliver(1, DeliveryOrder::NewestFirst), append(&[10], false)]);
    holds(SETUP, delivered.chain([Action::Close { fault: None }, READ]));
}

#[test]
fn a_segment_that_cannot_be_taken_back_is_not_forgotten() {
    let fails = Action::Maintain { fault: Some(Fault { after: 0, kind: FaultKind::Fails }) };
    holds(
        SETUP,
        [
            append(&[38_000], false),
            append(&[38_000], false),
            deliver(1, DeliveryOrder::OldestFirst),
            fails,
            Action::Close { fault: None },
            READ,
        ],
    );
}

#[test]
fn no_spare_is_mislaid_when_there_is_no_room_for_a_seal() {
    let seal_finds_no_room = || Action::Append {
        sizes: vec![38_000],
        is_counted: true,
        with_delivered: false,
        is_patient: false,
        fault: Some(Fault { after: 0, kind: FaultKind::NoRoom }),
    };
    let mislaid = (0..8).flat_map(|_| [seal_finds_no_room(), Action::Maintain { fault: None }]);
    holds(SETUP, [append(&[38_000], false)].into_iter().chain(mislaid));
}

#[test]
fn a_spare_that_cannot_be_named_leaves_nothing_behind() {
    // Made, written, synced, and then not named.
    let not_named = || Action::Maintain { fault: Some(Fault { after: 3, kind: FaultKind::Fails }) };
    let open = Action::Open { segment_blocks: 16, fault: Some(Fault { after: 3, kind: FaultKind::Fails }) };
    holds(SETUP, [open].into_iter().chain((0..6).map(|_| not_named())));
}

#[test]
fn a_spare_that_a_killed_run_has_left_is_not_written_under_its_old_name() {
    for seed in 0..20 {
        holds(
            SETUP,
            [
                append(&[38_000], false),
                append(&[38_000], false),
                deliver(1, DeliveryOrder::OldestFirst),
                // Renamed to a spare, and killed before the directory is synced.
                Action::Maintain { fault: Some(Fault { after: 1, kind: FaultKind::Fails }) },
                // The next run begins a segment in it, and is killed before that has its name.
                Action::Append {
                    sizes: vec![100],
                    is_counted: true,
                    with_delivered: false,
                    is_patient: false,
                    fault: Some(Fault { after: 2, kind: FaultKind::Fails }),
                },
                Action::PowerOff { seed },
                READ,
            ],
        );
    }
}

#[test]
fn a_full_log_whose_oldest_capture_is_held_up_takes_back_what_is_delivered() {
    let filled = (0..5).map(|_| append(&[38_000], false));
    let freed = [
        deliver(u64::MAX, DeliveryOrder::OldestHeldUp),
        Action::Maintain { fault: None },
        append(&[38_000], true),
        READ,
    ];
    holds(SETUP, filled.chain(freed));
}

#[test]
fn a_full_log_that_is_opened_again_takes_back_what_is_delivered() {
    let filled = (0..5).map(|_| append(&[38_000], false));
    let freed = [
        Action::Kill,
        READ,
        deliver(u64::MAX, DeliveryOrder::OldestHeldUp),
        Action::Maintain { fault: None },
        append(&[38_000], true),
        READ,
    ];
    holds(SETUP, filled.chain(freed));
}

/// Of a capture of 20 bytes.
const RECORD_BYTES: u32 = 33;

#[test]
fn a_header_that_is_damaged_twice_is_not_taken_for_that_of_another_version() {
    let disk = with_three();
    // The version's last digit, and the nonce.
    disk.flip(SEGMENT, 7, 2);
    disk.flip(SEGMENT, 16, 1);
    assert!(matches!(open(&disk, OnCorruption::Refuse), Err(OpenError::Damaged(_))));
    assert_eq!(open(&disk, OnCorruption::Salvage).unwrap().found.counted, 3);
}

/// A log with a compaction that is so many steps under way; then one with a fault.
fn compacts_until(passes: usize, after: u64, kind: FaultKind) -> impl Iterator<Item = Action> {
    let pair = || append(&[100, 38_000], false);
    let filled = [pair(), pair(), deliver(u64::MAX, DeliveryOrder::Stuck { one_in: 2 }), append(&[100], true), pair()];
    let passes = (0..passes).map(|_| Action::Maintain { fault: None });
    filled.into_iter().chain(passes).chain([Action::Maintain { fault: Some(Fault { after, kind }) }])
}

#[test]
fn an_output_stays_until_its_inputs_are_gone() {
    let maintain = || Action::Maintain { fault: None };
    for (passes, after) in (0..12).flat_map(|passes| (0..12).map(move |after| (passes, after))) {
        let delivered = [
            deliver(u64::MAX, DeliveryOrder::OldestFirst),
            append(&[100], true),
            maintain(),
            maintain(),
            Action::Kill,
            READ,
        ];
        holds(SETUP, compacts_until(passes, after, FaultKind::Fails).chain(delivered));
    }
}

/// The program is killed at any moment of a compaction, and the next one loses its power at any moment of its start.
fn killed_and_cut() -> impl Iterator<Item = History> {
    let moments = (0..12).flat_map(|passes| (0..9).map(move |after| (passes, after)));
    moments.flat_map(|(passes, after)| (0..4).map(move |cut| (passes, after, cut))).map(|(passes, after, cut)| {
        let fault = Some(Fault { after: cut, kind: FaultKind::PowerOffBehind });
        let open = Action::Open { segment_blocks: 16, fault };
        let actions = compacts_until(passes, after, FaultKind::Killed).chain([open, READ]);
        History { setup: SETUP, actions: actions.collect() }
    })
}

#[test]
fn what_was_compacted_is_not_removed_before_the_output_is_there_to_stay() {
    for history in killed_and_cut() {
        assert_eq!(history.check(None), Ok(()), "\n{history}");
    }
    assert!(killed_and_cut().any(|history| history.check(Some(Mutant::RemoveBeforeSync)).is_err()));
}

const SEGMENT: &str = "00000000000000000001.seg";

fn open(disk: &SimDisk, on_corruption: OnCorruption) -> Result<Opened<SimDisk>, OpenError> {
    let segment_bytes = SETUP.segment_blocks * BLOCK_BYTES as u64;
    let options =
        Options { segment_bytes, quota_bytes: 16 * segment_bytes, free_bytes_min: 0, on_corruption, mutant: None };
    let disk = disk.restarted();
    // Each run has its own numbers.
    let mut random = SplitMix::new(disk.runs());
    recovery::open(disk, options, Box::new(move || random.next()))
}

/// Appends a frame of so many captures. Returns the number of the first.
fn append_to(opened: &mut Opened<SimDisk>, captures: usize) -> Seq {
    let mut builder = builder_of(captures);
    opened.maintainer.maintain().unwrap();
    opened.writer.append(&mut builder, true).unwrap().first_seq
}

fn builder_of(captures: usize) -> FrameBuilder {
    let mut builder = FrameBuilder::new();
    for _ in 0..captures {
        builder.push(true, 0, |bytes| bytes.extend_from_slice(&[7; 20]));
    }
    builder
}

/// A disk with a log of three captures, each in a frame of its own, that was ended in order.
fn with_three() -> SimDisk {
    let disk = SimDisk::new(Image::default());
    let mut opened = open(&disk, OnCorruption::Refuse).unwrap();
    (1..=3).for_each(|seq| assert_eq!(append_to(&mut opened, 1), seq));
    opened.writer.close().unwrap();
    disk
}

#[test]
fn a_disk_that_is_away_for_a_moment_costs_no_segment() {
    let disk = with_three();
    disk.make_bad(SEGMENT, 0, SETUP.segment_blocks * BLOCK_BYTES as u64 / SECTOR_BYTES as u64);
    assert!(matches!(open(&disk, OnCorruption::Salvage), Err(OpenError::Io { .. })));
    disk.heal();
    assert_eq!(open(&disk, OnCorruption::Refuse).unwrap().found.counted, 3);
}

#[test]
fn a_seal_that_cannot_be_read_is_not_told_as_the_loss_of_what_was_delivered_since() {
    let disk = SimDisk::new(Image::default());
    let mut opened = open(&disk, OnCorruption::Refuse).unwrap();
    // All is delivered but the very first.
    for _ in 0..100 {
        let mut builder = FrameBuilder::new();
        for _ in 0..1000 {
            builder.push(true, 0, |bytes| bytes.extend_from_slice(&[7; 20]));
        }
        opened.maintainer.maintain().unwrap();
        // Recorded at the end only, so that those behind the oldest say nothing of it and go.
        let first = opened.writer.append(&mut builder, false).unwrap().first_seq;
        let delivered: Vec<(Seq, u32)> = (first.max(2)..first + 1000).map(|seq| (seq, RECORD_BYTES)).collect();
        opened.store.delivered(&delivered);
    }
    opened.writer.close().unwrap();
    let (oldest, ..) = &recovery::survey(&disk.restarted(), Purpose::Inspect).unwrap().segments[0];
    assert!(oldest.is_sealed && oldest.name == SEGMENT);
    disk.make_bad(SEGMENT, oldest.used_bytes - BLOCK_BYTES as u64, 1);
    let Err(OpenError::Damaged(damage)) = open(&disk, OnCorruption::Refuse) else { panic!("it is damaged") };
    assert!(matches!(damage[..], [Damage { to: None, reason: Some(_), .. }]), "{damage:?}");
    assert_eq!(open(&disk, OnCorruption::Salvage).unwrap().found.counted, 1);
}

#[test]
fn what_could_not_be_read_once_is_not_recorded_as_delivered() {
    let disk = with_three();
    disk.make_bad(SEGMENT, 2 * BLOCK_BYTES as u64, 1);
    let mut opened = open(&disk, OnCorruption::Salvage).unwrap();
    assert_eq!((opened.found.counted, opened.found.damage.len()), (2, 1));
    // The segments behind it go, and say again what was delivered of it.
    for _ in 0..60 {
        let seq = append_to(&mut opened, 1);
        opened.store.delivered(&[(seq, RECORD_BYTES)]);
    }
    opened.writer.close().unwrap();
    disk.heal();
    let opened = open(&disk, OnCorruption::Refuse).unwrap();
    assert!((1..=3).all(|seq| !opened.store.is_delivered(seq)));
}

#[test]
fn nothing_is_acknowledged_once_the_directory_cannot_be_synced() {
    let mut failed = 0;
    // At each step of making a spare, or of taking a segment back; then in the segment at hand, and in a new one.
    for (after, is_delivered, captures) in
        (0..24).flat_map(|after| [(after, false, 1), (after, false, 1_500), (after, true, 1), (after, true, 1_500)])
    {
        let disk = SimDisk::new(Image::default());
        let mut opened = open(&disk, OnCorruption::Refuse).unwrap();
        let first = append_to(&mut opened, 1_500);
        append_to(&mut opened, 1_500);
        if is_delivered {
            opened.store.delivered(&(first..first + 1_500).map(|seq| (seq, RECORD_BYTES)).collect::<Vec<_>>());
        }
        disk.arm(Some(Fault { after, kind: FaultKind::FailsOnce }));
        let maintained = (0..8).map(|_| opened.maintainer.maintain()).find(Result::is_err);
        disk.arm(None);
        let Some(Err(MaintenanceError::Failed(_))) = maintained else { continue };
        failed += 1;
        let mut builder = builder_of(captures);
        let appended = opened.writer.append(&mut builder, true);
        assert!(matches!(appended, Err(AppendError::Failed { .. })), "after {after}: {appended:?}");
    }
    assert_eq!(failed, 4);
}

#[test]
fn a_full_disk_refuses_a_batch_at_any_step_and_takes_it_once_there_is_room() {
    let mut refused = 0;
    // Each step of sealing a segment, beginning the next, and writing a frame into it.
    for after in 0..10 {
        let disk = SimDisk::new(Image::default());
        let mut opened = open(&disk, OnCorruption::Refuse).unwrap();
        append_to(&mut opened, 1_500);
        (0..8).for_each(|_| assert_ne!(opened.maintainer.maintain().ok(), None));
        let mut builder = builder_of(1_500);
        disk.arm(Some(Fault { after, kind: FaultKind::NoRoom }));
        let appended = opened.writer.append(&mut builder, true);
        disk.arm(None);
        if appended.is_ok() {
            continue;
        }
        assert!(matches!(appended, Err(AppendError::NoSpace(_))), "after {after}: {appended:?}");
        refused += 1;
        assert_eq!(opened.writer.append(&mut builder, true).unwrap().first_seq, 1_501, "after {after}");
    }
    assert_eq!(refused, 7);
}

#[test]
fn a_frame_that_is_hurt_twice_may_not_look_like_one_any_more() {
    // The number of its first capture, then the nonce.
    let flips = [5_214_093_323_091_901_245, 14_034_367_396_584_356_258].map(|pick| Action::Flip { pick });
    holds(SETUP, [append(&[65, 174], false), append(&[101], false)].into_iter().chain(flips));
}

#[test]
fn an_output_without_its_header_supersedes_its_inputs_too() {
    let append = |sizes: &[usize], is_counted, is_patient, fault| Action::Append {
        sizes: sizes.to_vec(),
        is_counted,
        with_delivered: false,
        is_patient,
        fault,
    };
    let maintain = |fault| Action::Maintain { fault };
    let setup = HistorySetup { quota_bytes: 327_680, noise: Some(12_358_789_172_328_811_238), ..SETUP };
    holds(
        setup,
        [
            append(&[184, 23, 4131, 29732], false, true, None),
            append(&[723, 8521, 28], true, true, None),
            Action::PowerOff { seed: 9_952_812_340_347_843_705 },
            append(&[113, 44], true, true, Some(Fault { after: 9, kind: FaultKind::NoRoom })),
            append(&[163, 50], false, false, None),
            Action::Open { segment_blocks: 16, fault: None },
            append(&[], false, false, None),
            maintain(None),
            maintain(None),
            maintain(Some(Fault { after: 10, kind: FaultKind::NoRoom })),
            maintain(None),
            // Between the rename and the removal of the inputs.
            maintain(Some(Fault { after: 6, kind: FaultKind::PowerOffBefore })),
            // In the header.
            Action::Flip { pick: 14_940_385_560_390_114_628 },
        ],
    );
}
