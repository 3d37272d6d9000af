//! The journal on a real disk, with its threads or without them.

use std::net::SocketAddr;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus::IntCounterVec;
use prometheus::Opts;
use prometheus::Registry;
use tempfile::TempDir;

use super::*;
use crate::auth::Apps;
use crate::capture::Capture;
use crate::capture::CaptureOutcome;
use crate::capture::Raw;
use crate::clock;
use crate::clock::UnixMillis;
use crate::command::Command;
use crate::journal::Outcomes;
use crate::journal::PendingAck;
use crate::journal::TAKE_BYTES;
use crate::journal::Ticket;
use crate::journal::Undelivered;
use crate::journal::codec;
use crate::journal::entry::LedgerState;
use crate::journal::log::Seq;
use crate::journal::log::format::BLOCK_BYTES;
use crate::journal::log::format::FrameBuilder;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::Phase;
use crate::record::Topic;
use crate::record::Topics;
use crate::refusal::LedgerAccount;
use crate::refusal::Reason;
use crate::refusal::Refusal;
use crate::share::SharedRoom;

const SEGMENT_BYTES: u64 = 16 * BLOCK_BYTES as u64;

fn apps() -> Arc<Apps> {
    Arc::new(Apps::new([1]))
}

const STUCK: Command = Command::named("State.StateChange");

fn capture_of(command: Command, body_bytes: usize) -> Box<Capture> {
    Box::new(Capture { command: Some(command), ..capture(0, body_bytes) })
}

fn capture(number: i64, body_bytes: usize) -> Capture {
    let mut raw = Raw::begin("", body_bytes);
    raw.push(&vec![b' '; body_bytes]);
    let (received, peer) = (UnixMillis(number), SocketAddr::from(([127, 0, 0, 1], 1)));
    let app = apps().iter().next().unwrap();
    Capture { received, peer, app, command: None, raw: raw.end(), outcome: CaptureOutcome::Happened }
}

fn open_with(dir: &TempDir, segment_bytes: u64, segments: u64) -> (OnDisk, Ledger) {
    let settings = Settings {
        dir: dir.path().to_owned(),
        segment_bytes,
        quota_bytes: Some(segments * segment_bytes),
        free_bytes_min: 0,
        on_corruption: OnCorruption::Refuse,
        persistent: None,
        capture_bytes_max: 4 * BLOCK_BYTES,
        wait_max: Duration::from_secs(3),
    };
    let bounds = Bounds { captures_max: 1000, bytes_max: 1 << 30, waiting_bytes_max: 1 << 30 };
    let ledger = Ledger::default();
    let metrics = JournalMetrics::register(&Registry::new()).unwrap();
    (open(&settings, bounds, &ledger, shares(), &metrics).unwrap(), ledger)
}

fn shares() -> Shares {
    let refused = IntCounterVec::new(Opts::new("refused", "By topic."), &["topic"]).unwrap();
    Shares::new(Arc::new(Topics::new(["t"])), apps(), refused)
}

/// Its threads.
struct JournalThreads {
    lifecycle: Lifecycle,
    threads: Vec<JoinHandle<()>>,
}

impl JournalThreads {
    fn start(committer: Committer, keeper: SegmentKeeper) -> Self {
        let lifecycle = Lifecycle::new();
        let (of_committer, of_tender) = (lifecycle.clone(), lifecycle.clone());
        let threads = vec![
            thread::spawn(move || committer.run(&of_committer).unwrap()),
            thread::spawn(move || keeper.run(&of_tender).unwrap()),
        ];
        Self { lifecycle, threads }
    }

    fn end(self) {
        self.lifecycle.enter(Phase::Recording);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = clock::monotonic() + Duration::from_secs(30);
    while !is_so() {
        assert!(clock::monotonic() < deadline, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// What the publisher was given: the number of the capture, and what settles it.
type Taken = (i64, Ticket);

fn take(backlog: &mut Backlog, max: usize) -> (Vec<Taken>, bool) {
    let mut taken = Vec::new();
    let has_more = backlog.read(max, |undelivered| taken.push((undelivered.capture.received.0, undelivered.ticket)));
    (taken, has_more)
}

fn settle(backlog: &mut Backlog, (_, ticket): &Taken) {
    let mut outcomes = Outcomes::default();
    outcomes.delivered(*ticket);
    backlog.settle(&mut outcomes);
}

/// Counts a capture to its dead-letter topic.
fn moves(backlog: &mut Backlog, (_, ticket): &Taken) {
    let mut outcomes = Outcomes::default();
    outcomes.moved(*ticket, dead_letters());
    backlog.settle(&mut outcomes);
}

#[test]
fn what_is_delivered_is_recorded_while_a_frame_waits_for_room() {
    let dir = TempDir::new().unwrap();
    let (OnDisk { journal, mut backlog, committer, keeper, .. }, ledger) = open_with(&dir, SEGMENT_BYTES, 4);
    let store = keeper.store.clone();
    journal.open();
    // Three in each of three segments, which leaves them room for a record; the tenth waits.
    for number in 0..12 {
        ledger.receive(None).hand_over();
        let entry = journal.entry(Box::new(capture(number, 4 * BLOCK_BYTES)), LedgerState::Counted, None);
        journal.queue.push_beyond_room(entry);
    }
    let running = JournalThreads::start(committer, keeper);
    wait_until("it is full", || journal.is_full());
    // One of the three: nothing is free by that.
    let (entries, _) = take(&mut backlog, 1);
    settle(&mut backlog, &entries[0]);
    wait_until("it is recorded", || !store.has_unsaved());
    assert_eq!((store.fill().undelivered, journal.is_full()), (8, true));
    journal.close();
    running.end();
}

/// Appends a capture that somebody waits for.
fn append<'j>(journal: &'j Journal, ledger: &Ledger, number: i64) -> PendingAck<'j> {
    journal.begin_append(Box::new(capture(number, 100)), ledger.receive(None)).unwrap()
}

#[test]
fn a_capture_given_up_before_its_frame_is_written_is_counted_as_late_once() {
    let dir = TempDir::new().unwrap();
    let (OnDisk { journal, mut backlog, committer, keeper, .. }, ledger) = open_with(&dir, SEGMENT_BYTES, 8);
    journal.open();
    let [mut given_up, _waits] = [0, 1].map(|number| append(&journal, &ledger, number));
    assert_eq!(given_up.give_up(), Err(Refusal::Deadline));
    let running = JournalThreads::start(committer, keeper);
    let mut entries = Vec::new();
    wait_until("both are read", || {
        entries.extend(take(&mut backlog, 10).0);
        entries.len() == 2
    });
    entries.iter().for_each(|entry| settle(&mut backlog, entry));
    let balance = ledger.read();
    assert_eq!((balance.ended[Reason::Deadline.index()], balance.late), (1, 1));
    assert_eq!((balance.delivered, balance.waiting_total()), (1, 0));
    journal.close();
    running.end();
}

#[test]
fn a_capture_given_up_while_its_frame_is_written_is_counted_as_late_once() {
    let dir = TempDir::new().unwrap();
    let (OnDisk { mut backlog, committer: Committer { mut writer, committed, queue, .. }, mut keeper, .. }, ledger) =
        open_with(&dir, SEGMENT_BYTES, 8);
    keeper.maintainer.maintain().unwrap();
    let mut builder = FrameBuilder::new();
    for number in 0..2 {
        ledger.receive(None).hand_over();
        ledger.queue();
        // When the frame is filled, both are still waited for.
        let stored_bytes = builder.push(true, 0, |bytes| codec::encode(&capture(number, 100), &apps(), bytes));
        queue.recovered(None, stored_bytes as usize);
    }
    let first = writer.append(&mut builder, false).unwrap().first_seq;
    assert!(take(&mut backlog, 10).0.is_empty(), "it is durable and not counted");
    ledger.lose_queued(Reason::Deadline);
    ledger.store(1);
    committed.advance(first + 2, [first + 1]);
    let (entries, _) = take(&mut backlog, 10);
    assert_eq!(entries.len(), 2);
    entries.iter().for_each(|entry| settle(&mut backlog, entry));
    let balance = ledger.read();
    assert_eq!((balance.ended[Reason::Deadline.index()], balance.late), (1, 1));
    assert_eq!((balance.delivered, balance.waiting_total()), (1, 0));
}

#[test]
fn the_publisher_is_woken_for_the_first_frame_after_it_has_read_everything() {
    let dir = TempDir::new().unwrap();
    let (OnDisk { journal, mut backlog, committer, keeper, .. }, ledger) = open_with(&dir, SEGMENT_BYTES, 8);
    journal.open();
    backlog.set_publisher(thread::current());
    let running = JournalThreads::start(committer, keeper);
    for number in 0..20 {
        while !take(&mut backlog, 10).0.is_empty() {}
        let _waits = append(&journal, &ledger, number);
        // By the frame: there is no other call.
        let began = clock::monotonic();
        thread::park_timeout(Duration::from_secs(30));
        assert!(clock::monotonic() - began < Duration::from_secs(30));
        wait_until("it is read", || take(&mut backlog, 10).0.len() == 1);
    }
    journal.close();
    running.end();
}

#[test]
fn a_stop_does_not_wait_for_a_segment_that_only_records() {
    let dir = TempDir::new().unwrap();
    let (OnDisk { journal, committer, keeper, .. }, ledger) = open_with(&dir, SEGMENT_BYTES, 8);
    for number in 0..3 {
        journal.offer(Box::new(capture(number, 100)), ledger.receive(None));
    }
    let running = JournalThreads::start(committer, keeper);
    wait_until("all are on disk", || ledger.read().waiting_journal == 3);
    journal.close();
    running.end();
    // Twice, so that the second segment without captures has a number behind all that is known.
    for _ in 0..2 {
        let (OnDisk { journal, mut backlog, committer, keeper, .. }, _ledger) = open_with(&dir, SEGMENT_BYTES, 8);
        let store = keeper.store.clone();
        let (entries, _) = take(&mut backlog, 1);
        settle(&mut backlog, &entries[0]);
        let running = JournalThreads::start(committer, keeper);
        wait_until("it is recorded", || !store.has_unsaved());
        journal.close();
        wait_until("the publisher is at the end", || {
            take(&mut backlog, 10);
            backlog.is_at_end()
        });
        running.end();
    }
}

#[test]
fn one_turn_of_the_publisher_reads_no_more_than_its_part() {
    let dir = TempDir::new().unwrap();
    let segment_bytes = 1 << 20;
    let (OnDisk { committer: Committer { mut writer, .. }, mut keeper, .. }, _ledger) =
        open_with(&dir, segment_bytes, 64);
    let (mut builder, mut stored_bytes) = (FrameBuilder::new(), 0);
    let body_bytes = 900_000;
    let frames = i64::try_from(TAKE_BYTES / body_bytes as u64 + 4).unwrap();
    for number in 0..frames {
        keeper.maintainer.maintain().unwrap();
        stored_bytes = builder.push(true, 0, |bytes| codec::encode(&capture(number, body_bytes), &apps(), bytes));
        writer.append(&mut builder, false).unwrap();
    }
    // All but the first and the last, whose numbers are one more.
    let delivered: Vec<(Seq, u32)> = (2..frames.unsigned_abs()).map(|seq| (seq, stored_bytes)).collect();
    keeper.store.delivered(&delivered);
    writer.close().unwrap();
    drop(keeper);

    let (OnDisk { mut backlog, .. }, _ledger) = open_with(&dir, segment_bytes, 64);
    let numbers = |taken: &[Taken]| taken.iter().map(|(number, _)| *number).collect::<Vec<i64>>();
    let (first, has_more) = take(&mut backlog, 10);
    assert_eq!((numbers(&first), has_more), (vec![0], true));
    let (rest, has_more) = take(&mut backlog, 10);
    assert_eq!((numbers(&rest), has_more), (vec![frames - 1], false));
}

#[test]
fn reading_goes_on_where_it_stopped_though_frames_end_elsewhere_since_a_compaction() {
    let dir = TempDir::new().unwrap();
    let segment_bytes = 1 << 20;
    let (OnDisk { committer: Committer { mut writer, .. }, mut keeper, .. }, _ledger) =
        open_with(&dir, segment_bytes, 64);
    let (mut builder, mut stored_bytes) = (FrameBuilder::new(), 0);
    for frame in 0..8 {
        keeper.maintainer.maintain().unwrap();
        for number in 300 * frame..300 * (frame + 1) {
            stored_bytes = builder.push(true, 0, |bytes| codec::encode(&capture(number, 1400), &apps(), bytes));
        }
        writer.append(&mut builder, false).unwrap();
        builder.clear();
    }
    writer.close().unwrap();
    drop(keeper);
    let (OnDisk { mut backlog, mut keeper, .. }, _ledger) = open_with(&dir, segment_bytes, 64);
    let mut entries = Vec::new();
    while entries.len() < 2400 {
        entries.extend(take(&mut backlog, 2400).0);
    }
    // In the middle of a frame, which the output will have no end at.
    let from = entries.iter().map(|(_, ticket)| ticket.position).find(|position| position.seq == 1099).unwrap();
    let delivered: Vec<(Seq, u32)> = (1..=2400).filter(|seq| seq % 3 != 1).map(|seq| (seq, stored_bytes)).collect();
    keeper.store.delivered(&delivered);
    let segments = || std::fs::read_dir(dir.path()).unwrap().filter(|it| is_segment(it.as_ref().unwrap())).count();
    let before = segments();
    wait_until("segments are compacted", || {
        keeper.maintainer.maintain().unwrap();
        segments() + 1 < before
    });

    let (mut at, mut numbers) = (Some(from), Vec::new());
    while let Some(position) = at {
        at = backlog
            .read_again(position, |undelivered| numbers.push(undelivered.ticket.position))
            .map(|(next, _bytes)| next);
        assert!(at.is_none_or(|next| next.seq >= position.seq), "{at:?} behind {position:?}");
    }
    let numbers: Vec<Seq> = numbers.into_iter().map(|position| position.seq).collect();
    assert_eq!(numbers, (1099..=2400).step_by(3).collect::<Vec<Seq>>());
}

/// Offers captures until one is refused because its topic holds its whole share. Returns how many were taken.
fn fill(journal: &Journal, ledger: &Ledger, command: Command, body_bytes: usize) -> usize {
    let refused = || ledger.read().ended[Reason::TopicFull.index()];
    let before = refused();
    let is_taken = || {
        journal.offer(capture_of(command, body_bytes), ledger.receive(Some(command)));
        refused() == before
    };
    std::iter::from_fn(|| is_taken().then_some(())).count()
}

/// What of the log is held: by all, and by the topics of the stuck command and of dead letters.
fn held(journal: &Journal) -> (usize, usize, usize) {
    let stuck = journal.shares.of(&capture_of(STUCK, 0)).1.unwrap();
    let look = |room: &SharedRoom| (room.taken(), room.taken_by(stuck), room.taken_by(dead_letters()));
    journal.queue.look_at_log(look).unwrap()
}

fn dead_letters() -> Topic {
    Topics::new(["t"]).dead_letters(apps().iter().next().unwrap())
}

fn wait_until_stored(ledger: &Ledger) {
    wait_until("all are on disk", || ledger.read().waiting_queue == 0);
}

#[test]
fn a_topic_holds_its_share_of_the_log_also_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let (body_bytes, segments) = (2000, 20);
    let (OnDisk { journal, committer, keeper, .. }, ledger) = open_with(&dir, SEGMENT_BYTES, segments);
    let room = usize::try_from(16 * SEGMENT_BYTES * 7 / 8).unwrap();
    let running = JournalThreads::start(committer, keeper);
    journal.open();
    // What is still in the queue counts with more than it takes on disk.
    let (mut taken, mut more) = (0, 1);
    while more > 0 {
        more = fill(&journal, &ledger, STUCK, body_bytes);
        taken += more;
        wait_until_stored(&ledger);
    }
    let (all, of_stuck, _) = held(&journal);
    assert!(of_stuck == all && all.abs_diff(room / 5 * 4) < 4 * body_bytes, "{all} of {room} for {taken}");
    journal.close();
    running.end();

    let (OnDisk { journal, mut backlog, committer, keeper, gauge, found, .. }, ledger) =
        open_with(&dir, SEGMENT_BYTES, segments);
    assert_eq!((found.counted, held(&journal)), (taken as u64, (all, all, 0)));
    let running = JournalThreads::start(committer, keeper);
    journal.open();
    assert_eq!(fill(&journal, &ledger, STUCK, body_bytes), 0);
    // Others go on for a multiple of all that there is, and it is ready.
    for _ in 0..3 * room / body_bytes {
        journal.offer(Box::new(capture(1, body_bytes)), ledger.receive(None));
        wait_until_stored(&ledger);
        let (entries, _) = take(&mut backlog, 4096);
        entries.iter().filter(|(number, _)| *number == 1).for_each(|entry| settle(&mut backlog, entry));
        gauge.can_take().unwrap();
    }
    assert_eq!(held(&journal).1, all);
    let lost = ledger.read().ended_total(LedgerAccount::Lost);
    assert_eq!(lost, 1, "the stuck one that was tried");
    journal.close();
    running.end();
}

#[test]
fn a_dead_letter_takes_the_share_of_its_topic_however_often_it_is_read() {
    let dir = TempDir::new().unwrap();
    let (OnDisk { journal, mut backlog, committer, keeper, .. }, ledger) = open_with(&dir, SEGMENT_BYTES, 20);
    let running = JournalThreads::start(committer, keeper);
    journal.open();
    for _ in 0..8 {
        journal.offer(capture_of(STUCK, 100), ledger.receive(Some(STUCK)));
    }
    wait_until_stored(&ledger);
    let mut entries = Vec::new();
    wait_until("all are read", || {
        entries.extend(take(&mut backlog, 10).0);
        entries.len() == 8
    });
    // No command is known again from a capture without a query.
    let all = held(&journal).0;
    assert_eq!(held(&journal), (all, all, 0));
    entries.iter().step_by(2).for_each(|entry| moves(&mut backlog, entry));
    assert_eq!(held(&journal), (all, all / 2, all / 2));
    let (mut again, mut at) = (Vec::new(), Some(entries[0].1.position));
    while let Some(position) = at {
        let push = |undelivered: &Undelivered<'_>| again.push((undelivered.capture.received.0, undelivered.ticket));
        at = backlog.read_again(position, push).map(|(next, _bytes)| next);
    }
    entries.iter().step_by(2).chain(again.iter().step_by(2)).for_each(|entry| moves(&mut backlog, entry));
    assert_eq!((again.len(), held(&journal)), (8, (all, all / 2, all / 2)), "each is moved once");
    // And counts once, whichever copy is delivered first.
    again.iter_mut().for_each(|(_, ticket)| ticket.ledger_state = LedgerState::Uncounted);
    again.iter().skip(3).chain(&entries).for_each(|entry| settle(&mut backlog, entry));
    assert_eq!(held(&journal), (0, 0, 0));
    journal.close();
    running.end();
}

#[test]
fn a_small_journal_whose_room_is_nearly_taken_is_not_ready() {
    let dir = TempDir::new().unwrap();
    let (OnDisk { journal, gauge, .. }, ledger) = open_with(&dir, SEGMENT_BYTES, 5);
    let mut stuck = Command::all();
    let why = loop {
        match gauge.can_take() {
            Ok(()) => fill(&journal, &ledger, stuck.next().unwrap(), 100),
            Err(why) => break why,
        };
    };
    assert!(why.starts_with("the journal is nearly full: "), "{why}");
    assert_eq!(ledger.read().ended[Reason::JournalFull.index()], 0, "it is said before");
}

#[test]
fn a_journal_of_which_a_file_was_removed_is_not_ready() {
    let dir = TempDir::new().unwrap();
    let (OnDisk { journal, committer, keeper, gauge, .. }, ledger) = open_with(&dir, SEGMENT_BYTES, 6);
    let running = JournalThreads::start(committer, keeper);
    journal.open();
    let segments = || {
        let files = std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap);
        files.filter(is_segment).map(|file| file.path()).collect::<Vec<_>>()
    };
    while segments().len() < 2 {
        journal.offer(Box::new(capture(0, 10_000)), ledger.receive(None));
        wait_until_stored(&ledger);
    }
    assert_eq!(gauge.can_take(), Ok(()));
    std::fs::remove_file(segments().into_iter().min().unwrap()).unwrap();
    let removed = "files of the journal were removed, and a restart would lose what they hold";
    wait_until("it is not ready", || gauge.can_take() == Err(removed.to_owned()));
    journal.close();
    running.end();
}

fn is_segment(file: &std::fs::DirEntry) -> bool {
    file.path().extension().is_some_and(|extension| extension == "seg")
}

#[test]
fn errors_of_the_path_are_of_the_configuration_and_those_of_the_disk_are_not() {
    let of_configuration =
        [Errno::ACCESS, Errno::PERM, Errno::ROFS, Errno::NOTDIR, Errno::EXIST, Errno::NAMETOOLONG, Errno::LOOP];
    let of_the_machine =
        [Errno::IO, Errno::NOENT, Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::STALE];
    for (errors, is_of_configuration) in [(&of_configuration[..], true), (&of_the_machine[..], false)] {
        for errno in errors {
            let source = || io::Error::from(*errno);
            let of_directory = DirectoryError::Io { what: "open", path: PathBuf::new(), source: source() };
            let of_file = OpenError::Io { what: String::new(), source: source() };
            assert_eq!(JournalError::Directory(of_directory).is_of_configuration(), is_of_configuration, "{errno}");
            assert_eq!(JournalError::Open(of_file).is_of_configuration(), is_of_configuration, "{errno}");
        }
    }
}
