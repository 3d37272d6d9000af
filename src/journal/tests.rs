//! Room, order, the end, and who wins between an answer and its deadline.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::sync::Barrier;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::thread;

use prometheus::IntCounterVec;
use prometheus::Opts;

use super::room::Held;
use super::*;
use crate::auth::Apps;
use crate::capture::CaptureOutcome;
use crate::capture::Raw;
use crate::clock::UnixMillis;
use crate::command::Command;
use crate::record::Topics;
use crate::refusal::LedgerAccount;
use crate::refusal::Reason;

const COST: usize = Capture::OVERHEAD_BYTES + 100;
const ROOMY: Bounds = Bounds { captures_max: 1000, bytes_max: 1000 * COST, waiting_bytes_max: 1000 * COST };

/// A capture that costs [`COST`], known again by its number.
fn capture(number: i64) -> Box<Capture> {
    capture_of(None, number)
}

fn capture_of(command: Option<Command>, number: i64) -> Box<Capture> {
    Box::new(Capture {
        received: UnixMillis(number),
        peer: SocketAddr::from(([127, 0, 0, 1], 1)),
        app: Apps::new([1]).iter().next().unwrap(),
        command,
        raw: {
            let mut raw = Raw::begin("", 100);
            raw.push(&[b' '; 100]);
            raw
        },
        outcome: CaptureOutcome::Happened,
    })
}

fn shares() -> Shares {
    let refused = IntCounterVec::new(Opts::new("refused", "By topic."), &["topic"]).unwrap();
    Shares::new(Arc::new(Topics::new(["t"])), Arc::new(Apps::new([1])), refused)
}

fn open(ack: Ack, bounds: Bounds) -> (Journal, Backlog, Ledger) {
    let ledger = Ledger::default();
    let (journal, backlog) = in_memory(ack, bounds, ledger.clone(), shares());
    journal.open();
    (journal, backlog, ledger)
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Begins to append a capture.
fn begin<'j>(journal: &'j Journal, ledger: &Ledger, number: i64) -> PendingAck<'j> {
    journal.begin_append(capture(number), ledger.receive(None)).unwrap()
}

fn poll_outcome(pending: &mut PendingAck<'_>) -> Poll<Result<(), Refusal>> {
    poll(pin!(pending.outcome()))
}

fn is_pending(pending: &mut PendingAck<'_>) -> bool {
    poll_outcome(pending).is_pending()
}

/// Appends a capture that need not wait for room, where it is acknowledged then.
fn append(journal: &Journal, ledger: &Ledger, number: i64) {
    assert_eq!(poll_outcome(&mut begin(journal, ledger, number)), Poll::Ready(Ok(())), "{number}");
}

/// What the publisher was given.
struct TakenCapture {
    number: i64,
    command: Option<Command>,
    ticket: Ticket,
}

fn taken(undelivered: &Undelivered<'_>) -> TakenCapture {
    let Undelivered { capture, ticket, .. } = undelivered;
    TakenCapture { number: capture.received.0, command: capture.command, ticket: *ticket }
}

fn settle(backlog: &mut Backlog, taken: &TakenCapture) {
    let mut outcomes = Outcomes::default();
    outcomes.delivered(taken.ticket);
    backlog.settle(&mut outcomes);
}

fn give_up(backlog: &mut Backlog, taken: &TakenCapture) {
    let mut outcomes = Outcomes::default();
    outcomes.given_up(taken.ticket, Refusal::Unpublishable);
    backlog.settle(&mut outcomes);
}

fn take_all(backlog: &mut Backlog) -> Vec<TakenCapture> {
    let mut all = Vec::new();
    backlog.read(usize::MAX, |undelivered| all.push(taken(undelivered)));
    all
}

fn numbers(all: &[TakenCapture]) -> Vec<i64> {
    all.iter().map(|taken| taken.number).collect()
}

#[test]
fn captures_in_memory_can_be_read_again_in_order_until_they_are_settled() {
    let (journal, mut backlog, ledger) = open(Ack::Memory, ROOMY);
    for number in 0..600 {
        append(&journal, &ledger, number);
    }
    let all = take_all(&mut backlog);
    for delivered in [&all[0], &all[300]] {
        settle(&mut backlog, delivered);
    }
    append(&journal, &ledger, 600);
    let (mut from, mut again) = (Some(Position::default()), Vec::new());
    while let Some(position) = from {
        let read = backlog.read_again(position, |undelivered| again.push(taken(undelivered)));
        from = read.map(|(next, _bytes)| next);
    }
    let expected: Vec<i64> = (1..600).filter(|number| *number != 300).collect();
    assert_eq!(numbers(&again), expected, "what was never read is not read again");
}

#[test]
fn is_full_at_either_bound_and_each_settled_entry_makes_room_for_one() {
    for bounds in [Bounds { captures_max: 2, ..ROOMY }, Bounds { bytes_max: 3 * COST - 1, ..ROOMY }] {
        let (journal, mut backlog, ledger) = open(Ack::Memory, bounds);
        for number in 0..2 {
            append(&journal, &ledger, number);
        }
        let mut third = begin(&journal, &ledger, 2);
        assert!(is_pending(&mut third), "{bounds:?}");
        assert!(!journal.keep(capture(3)), "{bounds:?}");

        let taken = take_all(&mut backlog);
        assert!(is_pending(&mut third), "what is taken still needs its room");
        settle(&mut backlog, &taken[0]);
        assert!(!is_pending(&mut third), "{bounds:?}");
        assert_eq!(numbers(&take_all(&mut backlog)), [2]);
        assert_eq!((ledger.read().delivered, ledger.read().waiting_queue), (1, 2));
    }
}

#[test]
fn who_waits_gets_room_in_the_order_of_arrival() {
    let (journal, mut backlog, ledger) = open(Ack::Memory, Bounds { captures_max: 1, ..ROOMY });
    append(&journal, &ledger, 0);
    let mut waiting: Vec<_> = (1..4).map(|number| begin(&journal, &ledger, number)).collect();
    assert!(waiting.iter_mut().all(is_pending));
    for expected in 0..3 {
        let taken = take_all(&mut backlog);
        assert_eq!(numbers(&taken), [expected]);
        settle(&mut backlog, &taken[0]);
        assert!(!journal.keep(capture(9)), "nobody who comes later is before those who wait");
        // The last is asked first.
        let ready: Vec<_> = (0..waiting.len()).rev().filter(|nth| !is_pending(&mut waiting[*nth])).collect();
        assert_eq!(ready, [0]);
        drop(waiting.remove(0));
    }
}

#[test]
fn those_who_wait_are_bounded_too() {
    let bounds = Bounds { captures_max: 1, waiting_bytes_max: COST, ..ROOMY };
    let (journal, _backlog, ledger) = open(Ack::Memory, bounds);
    append(&journal, &ledger, 0);
    let mut waits = begin(&journal, &ledger, 1);
    assert!(is_pending(&mut waits));
    assert_eq!(journal.begin_append(capture(2), ledger.receive(None)).unwrap_err(), Refusal::QueueFull);
    drop(waits);
    assert!(is_pending(&mut begin(&journal, &ledger, 3)), "a place came back");
}

#[test]
fn an_append_that_is_dropped_while_it_waits_leaves_its_place_and_its_room_to_others() {
    let bounds = Bounds { captures_max: 2, bytes_max: COST, waiting_bytes_max: COST };
    let (journal, mut backlog, ledger) = open(Ack::Memory, bounds);
    append(&journal, &ledger, 0);
    for _repeat in 0..3 {
        // There is room for another capture, but not for its bytes.
        assert!(is_pending(&mut begin(&journal, &ledger, 1)));
    }
    let balance = ledger.read();
    assert_eq!((balance.ended[Reason::QueueFull.index()], balance.ended_total(LedgerAccount::Refused)), (3, 0));
    let first = take_all(&mut backlog).remove(0);
    settle(&mut backlog, &first);
    append(&journal, &ledger, 2);
    assert_eq!(numbers(&take_all(&mut backlog)), [2]);
}

#[test]
fn a_capture_that_is_larger_than_all_room_takes_all_of_it() {
    let bounds = Bounds { bytes_max: COST - 1, ..ROOMY };
    let (journal, mut backlog, ledger) = open(Ack::Memory, bounds);
    for number in 0..2 {
        append(&journal, &ledger, number);
        assert!(!journal.keep(capture(9)));
        let first = take_all(&mut backlog).remove(0);
        settle(&mut backlog, &first);
    }
}

#[test]
fn bounds_beyond_what_can_be_counted_are_no_bounds() {
    let bounds = Bounds { captures_max: usize::MAX, bytes_max: usize::MAX, waiting_bytes_max: usize::MAX };
    let (journal, mut backlog, ledger) = open(Ack::Memory, bounds);
    append(&journal, &ledger, 0);
    let first = take_all(&mut backlog).remove(0);
    settle(&mut backlog, &first);
}

#[test]
fn until_it_is_open_appends_wait_and_what_nobody_waits_for_is_taken() {
    let ledger = Ledger::default();
    let (journal, mut backlog) = in_memory(Ack::Memory, ROOMY, ledger.clone(), shares());
    let mut waits = begin(&journal, &ledger, 0);
    assert!(is_pending(&mut waits));
    journal.offer(capture(1), ledger.receive(None));
    assert!(journal.keep(capture(2)));
    journal.open();
    assert!(!is_pending(&mut waits));
    assert_eq!(numbers(&take_all(&mut backlog)), [1, 2, 0]);
}

#[test]
fn when_it_closes_those_who_wait_go_away_and_what_it_has_stays() {
    let (journal, mut backlog, ledger) = open(Ack::Memory, Bounds { captures_max: 1, ..ROOMY });
    append(&journal, &ledger, 0);
    let mut waits = begin(&journal, &ledger, 1);
    assert!(is_pending(&mut waits));
    journal.close();
    assert_eq!(poll_outcome(&mut waits), Poll::Ready(Err(Refusal::Stopping)));
    assert!(!backlog.is_at_end());

    let taken = take_all(&mut backlog);
    assert_eq!(numbers(&taken), [0]);
    assert!(backlog.is_at_end());
    settle(&mut backlog, &taken[0]);
    assert_eq!(journal.begin_append(capture(2), ledger.receive(None)).unwrap_err(), Refusal::Stopping);
    journal.offer(capture(3), ledger.receive(None));
    assert!(!journal.keep(capture(4)));
    assert!(take_all(&mut backlog).is_empty());
    let balance = ledger.read();
    assert_eq!((balance.ended[Reason::Stopping.index()], balance.ended_total(LedgerAccount::Lost)), (2, 3));
    assert_eq!(balance.waiting_total(), 0);
}

#[test]
fn a_capture_whose_sender_went_away_is_delivered_all_the_same() {
    let (journal, mut backlog, ledger) = open(Ack::Broker, ROOMY);
    let (mut waits, mut leaves) = (begin(&journal, &ledger, 0), begin(&journal, &ledger, 1));
    assert!(is_pending(&mut waits) && is_pending(&mut leaves));
    drop(leaves);
    for entry in take_all(&mut backlog) {
        settle(&mut backlog, &entry);
    }
    assert_eq!(poll_outcome(&mut waits), Poll::Ready(Ok(())));
    let balance = ledger.read();
    assert_eq!((balance.delivered, balance.waiting_total(), balance.late), (2, 0, 0));
}

#[test]
fn what_kafka_will_never_take_is_lost_once_and_an_answer_that_waits_is_no_200() {
    let (journal, mut backlog, ledger) = open(Ack::Broker, ROOMY);
    let [mut waits, mut gone] = [0, 1].map(|number| begin(&journal, &ledger, number));
    assert_eq!(gone.give_up(), Err(Refusal::Deadline));
    for entry in take_all(&mut backlog) {
        give_up(&mut backlog, &entry);
    }
    assert_eq!(poll_outcome(&mut waits), Poll::Ready(Err(Refusal::Unpublishable)), "it is told at once");
    let balance = ledger.read();
    assert_eq!(balance.ended[Reason::Deadline.index()], 1);
    assert_eq!(balance.ended[Reason::Unpublishable.index()], 1);
    assert_eq!((balance.waiting_total(), balance.late), (0, 0));
}

#[test]
fn an_entry_has_timed_out_only_once_no_outcome_can_reach_its_request() {
    let (journal, _backlog, ledger) = open(Ack::Broker, ROOMY);
    let pending = begin(&journal, &ledger, 0);
    let mut entries = VecDeque::new();
    journal.queue.take(1, &mut entries);
    // Its request is about to give up.
    pending.has_timed_out.store(true, Ordering::Release);
    assert!(!entries[0].has_timed_out(), "an outcome would still be taken");
    assert!(entries[0].acknowledge());
}

#[test]
fn a_capture_is_acknowledged_or_given_up_and_never_both_however_threads_meet() {
    const ROUNDS: usize = 200;
    const EACH: i64 = 20;
    for round in 0..ROUNDS {
        let (journal, mut backlog, ledger) = open(Ack::Broker, ROOMY);
        let mut waiting: Vec<_> = (0..EACH).map(|number| begin(&journal, &ledger, number)).collect();
        let entries = take_all(&mut backlog);
        let together = Barrier::new(2);
        let is_200: Vec<bool> = thread::scope(|scope| {
            let (together, backlog) = (&together, &mut backlog);
            scope.spawn(move || {
                together.wait();
                entries.iter().for_each(|entry| settle(backlog, entry));
            });
            together.wait();
            // Backwards every other time, so that they meet in the middle.
            if round % 2 == 0 {
                waiting.reverse();
            }
            waiting.iter_mut().map(|pending| pending.give_up().is_ok()).collect()
        });
        let acknowledged = is_200.iter().filter(|is_200| **is_200).count() as u64;
        let balance = ledger.read();
        assert_eq!(balance.delivered, acknowledged);
        assert_eq!(balance.ended[Reason::Deadline.index()], EACH.unsigned_abs() - acknowledged);
        assert_eq!((balance.late, balance.waiting_total()), (EACH.unsigned_abs() - acknowledged, 0));
    }
}

#[test]
fn a_capture_that_waits_for_room_is_queued_or_given_up_however_threads_meet() {
    for _round in 0..500 {
        let (journal, mut backlog, ledger) = open(Ack::Memory, Bounds { captures_max: 1, ..ROOMY });
        append(&journal, &ledger, 0);
        let mut waits = begin(&journal, &ledger, 1);
        let first = take_all(&mut backlog).remove(0);
        let together = Barrier::new(2);
        let outcome = thread::scope(|scope| {
            let (together, backlog) = (&together, &mut backlog);
            scope.spawn(move || {
                together.wait();
                settle(backlog, &first);
            });
            together.wait();
            waits.give_up()
        });
        let queued = take_all(&mut backlog);
        assert_eq!(outcome.is_ok(), queued.len() == 1);
        queued.iter().for_each(|entry| settle(&mut backlog, entry));
        let balance = ledger.read();
        assert_eq!((balance.delivered, balance.late), (1 + queued.len() as u64, 0));
        assert_eq!((balance.ended_total(LedgerAccount::Lost), balance.waiting_total()), (1 - queued.len() as u64, 0));
        append(&journal, &ledger, 2);
    }
}

#[test]
fn nothing_that_was_taken_comes_in_behind_the_end() {
    for _round in 0..200 {
        let (journal, mut backlog, ledger) = open(Ack::Memory, ROOMY);
        let together = Barrier::new(3);
        let settled = thread::scope(|scope| {
            scope.spawn(|| {
                together.wait();
                for number in 0.. {
                    if journal.begin_append(capture(number), ledger.receive(None)).is_err() {
                        break;
                    }
                }
            });
            let taker = scope.spawn(|| {
                together.wait();
                let mut settled = 0;
                while !backlog.is_at_end() {
                    for entry in take_all(&mut backlog) {
                        settle(&mut backlog, &entry);
                        settled += 1;
                    }
                }
                settled
            });
            together.wait();
            journal.close();
            taker.join().unwrap()
        });
        assert_eq!((ledger.read().delivered, ledger.read().waiting_queue), (settled, 0));
    }
}

const STUCK: Command = Command::named("State.StateChange");
const ALSO_STUCK: Command = Command::named("Profile.CallbackPortraitSet");

/// Appends captures of a command until one is not taken at once. Returns how many were.
fn fill(journal: &Journal, ledger: &Ledger, command: Command) -> usize {
    (0..)
        .take_while(|number| {
            let capture = capture_of(Some(command), *number);
            let mut pending = journal.begin_append(capture, ledger.receive(Some(command))).unwrap();
            !is_pending(&mut pending)
        })
        .count()
}

#[test]
fn topics_that_are_not_delivered_hold_their_shares_and_leave_the_rest_to_others() {
    for bounds in [Bounds { captures_max: 900, ..ROOMY }, Bounds { bytes_max: 900 * COST, ..ROOMY }] {
        let (journal, mut backlog, ledger) = open(Ack::Memory, bounds);
        assert_eq!(fill(&journal, &ledger, STUCK), 720, "four fifths");
        // Four fifths of the rest, of which some may be what other topics are sure of.
        let also = fill(&journal, &ledger, ALSO_STUCK);
        assert!((120..=144).contains(&also), "{also}");
        let mut receipt = Some(ledger.receive(Some(STUCK)));
        journal.offer(capture_of(Some(STUCK), 0), receipt.take().unwrap());
        assert_eq!(ledger.read().ended[Reason::TopicFull.index()], 3, "with those that no longer wait");
        for number in 0..1000 {
            append(&journal, &ledger, number);
            let taken = take_all(&mut backlog);
            let other = taken.iter().find(|entry| entry.command.is_none()).unwrap();
            settle(&mut backlog, other);
        }
    }
}

#[test]
fn those_who_wait_for_the_share_of_a_topic_stand_in_nobody_else_s_way() {
    let (journal, mut backlog, ledger) = open(Ack::Memory, Bounds { captures_max: 10, ..ROOMY });
    assert_eq!(fill(&journal, &ledger, STUCK), 8);
    let begin_stuck = |number| journal.begin_append(capture_of(Some(STUCK), number), ledger.receive(None)).unwrap();
    let mut waiting: Vec<_> = (8..10).map(begin_stuck).collect();
    assert!(waiting.iter_mut().all(is_pending));
    assert_eq!(begin_stuck(10).give_up(), Err(Refusal::TopicFull));

    append(&journal, &ledger, 100);
    let taken = take_all(&mut backlog);
    settle(&mut backlog, &taken[8]);
    assert!(waiting.iter_mut().all(is_pending), "it is no room of theirs");
    settle(&mut backlog, &taken[0]);
    let waits: Vec<bool> = waiting.iter_mut().map(is_pending).collect();
    assert_eq!(waits, [false, true], "the first that came");
}

#[test]
fn those_who_wait_for_the_whole_queue_are_not_overtaken() {
    let (journal, mut backlog, ledger) = open(Ack::Memory, Bounds { bytes_max: 3 * COST + COST / 4, ..ROOMY });
    append(&journal, &ledger, 0);
    append(&journal, &ledger, 1);
    let mut long = capture_of(Some(STUCK), 2);
    long.raw.push(&[b' '; COST]);
    let mut waits = journal.begin_append(long, ledger.receive(Some(STUCK))).unwrap();
    assert!(is_pending(&mut waits));
    let short = capture_of(Some(ALSO_STUCK), 3);
    let mut behind = journal.begin_append(short, ledger.receive(Some(ALSO_STUCK))).unwrap();
    assert!(is_pending(&mut behind), "it would fit");
    let taken = take_all(&mut backlog);
    settle(&mut backlog, &taken[0]);
    assert!(!is_pending(&mut waits));
}

#[test]
fn what_goes_to_another_topic_takes_of_its_share_while_there_is_room_in_it() {
    let (journal, mut backlog, ledger) = open(Ack::Memory, Bounds { captures_max: 90, ..ROOMY });
    let rejected = Topics::new(["t"]).dead_letters(Apps::new([1]).iter().next().unwrap());
    let mut held = Vec::new();
    for _round in 0..5 {
        fill(&journal, &ledger, STUCK);
        let mut outcomes = Outcomes::default();
        for taken in take_all(&mut backlog) {
            outcomes.moved(taken.ticket, rejected);
            held.push(taken);
        }
        backlog.settle(&mut outcomes);
    }
    let mut moved = 0;
    let _end =
        backlog.read_again(Position::default(), |taken| moved += usize::from(taken.share_topic == Some(rejected)));
    assert!(moved >= 72 && (moved + 1..90).contains(&held.len()), "{moved} of {}", held.len());
    append(&journal, &ledger, 0);
    for entry in &held {
        settle(&mut backlog, entry);
    }
    assert_eq!(fill(&journal, &ledger, STUCK), 72, "all of their room came back");
}

#[test]
fn each_dead_letter_topic_lacks_its_own_share_only() {
    let (topics, apps) = (Topics::new(["a", "b"]), Apps::new([1, 2]));
    let [full, free] = [0, 1].map(|nth| topics.dead_letters(apps.iter().nth(nth).unwrap()));
    let queue = Queue::new(Ack::Journal, &ROOMY, Some(10_000), topics.names().len(), Ledger::default());
    queue.recovered(Some(full), 7900);
    queue.recovered(None, 1000);
    assert!(!queue.move_share((None, full), Held::stored(1000), || true));
    assert!(!queue.lacks_share(free, 100), "nobody found too little there");
    assert!(queue.lacks_share(full, 1000), "and that says nothing about this one");
    queue.free([(Some(full), Held::stored(7900))]);
    assert!(!queue.lacks_share(full, 1000), "it has room again");
}
