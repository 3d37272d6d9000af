//! Journal mode beside topics that are missing: each costs its own callbacks and its own share of the journal, for as long as it lasts.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;

use callbridge::command::Command;
use callbridge::command::Kind;

use crate::seeds;
use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::http;
use crate::support::http::Client;
use crate::support::journal;
use crate::support::kafka::Kafka;
use crate::support::ledger::Ledger;
use crate::support::reader::Reader;
use crate::support::wait;

const MIB: u64 = 1 << 20;
/// How long bodies are made, with blanks that are not published.
const BODY_BYTES: usize = 200_000;
const SENDERS: u64 = 4;
const STUCK: seeds::Seed = seeds::AFTER_ADD_SUBSCRIBER;
const WELL: seeds::Seed = seeds::AFTER_INFO_CHANGED;

/// Posts a callback, with a number in its query. Returns the status.
fn post(client: &mut Client, command: &str, body: &str, number: u64) -> u16 {
    let target = format!("{}&RequestID={number}", http::callback_target(APP, command));
    client.post(&target, body.as_bytes()).unwrap().status
}

fn padded(body: &str, bytes: usize) -> String {
    format!("{body}{}", " ".repeat(bytes))
}

/// Posts callbacks of the stuck topic without end, until so many bytes of the other were posted and its share is taken. Returns the numbers
/// of the stuck ones that were answered 200.
fn press(
    bridge: &Bridge,
    bytes: u64,
    first: u64,
    has_room: impl Fn(&Bridge) -> bool + Sync,
    is_taken: impl Fn(&Bridge) -> bool,
) -> Vec<u64> {
    let (stuck, well) = (&STUCK, &WELL);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let presses = scope.spawn(|| {
            let (mut client, body) = (Client::connect(bridge.callbacks).unwrap(), padded(stuck.body, BODY_BYTES));
            let numbers = (first..).take_while(|_| !is_done.load(Ordering::Relaxed));
            numbers.filter(|number| post(&mut client, stuck.command, &body, *number) == 200).collect()
        });
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| {
                scope.spawn(|| {
                    let (mut client, body) =
                        (Client::connect(bridge.callbacks).unwrap(), padded(well.body, BODY_BYTES));
                    for number in 0..bytes / SENDERS / BODY_BYTES as u64 {
                        if number.is_multiple_of(4) {
                            // A machine that is too slow for Kafka would fill the share of this topic as well.
                            wait::until("kafka keeps pace", || has_room(bridge));
                        }
                        post(&mut client, well.command, &body, number);
                    }
                })
            })
            .collect();
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        wait::until("its share is taken", || is_taken(bridge));
        is_done.store(true, Ordering::Relaxed);
        presses.join().unwrap()
    })
}

/// Nothing was lost for want of room but callbacks of topics that are missing. What this machine's disk was too slow for is another matter.
fn assert_only_missing_are_refused(bridge: &Bridge, prefix: &str, well: &[&str]) {
    let metrics = bridge.metrics();
    for command in well {
        let refused = metrics[&format!("callbridge_topic_full_total{{topic=\"{prefix}.{command}\"}}")];
        assert_eq!(refused, 0.0, "{command}: {}", bridge.stderr());
    }
    assert_eq!(bridge.lost("queue_full"), 0.0);
    assert!(bridge.lost("topic_full") > 0.0);
    assert_eq!(bridge.admin_page("/readyz"), (200, "ready\n".to_owned()));
}

/// What waits for a topic, as a part of what may be undelivered.
fn part_of(bridge: &Bridge, topic: &str, quota_bytes: u64, segment_bytes: u64) -> f64 {
    let room = (quota_bytes - 4 * segment_bytes) as f64 * 7.0 / 8.0;
    bridge.metrics()[&format!("callbridge_journal_undelivered_bytes{{topic=\"{topic}\"}}")] / room
}

#[test]
fn a_missing_topic_keeps_to_its_share_after_a_kill_and_leaves_room_for_others() {
    let Some(kafka) = Kafka::shared() else { return };
    for suffix in [WELL.command, seeds::AFTER_DESTROYED.command, "unknown", "rejected"] {
        kafka.create_topic(&format!("share.{suffix}"), 1, 1);
    }
    let missing = format!("share.{}", STUCK.command);
    let (quota_bytes, (_folder, dir)) = (64 * MIB, journal::folder());
    let quota = format!("quota_bytes = {quota_bytes}");
    let settings = journal::builder_without_topics(&kafka.bootstrap(), "share", &quota);
    let mut acknowledged = Vec::new();
    for _half in 0..2 {
        let bridge = settings.start_in(&dir);
        // At first it waits a few seconds for the topics.
        post(&mut Client::connect(bridge.callbacks).unwrap(), WELL.command, WELL.body, 0);
        bridge.metrics_until(|metrics| metrics["callbridge_callbacks_delivered_total"] > 0.0);
        let first = acknowledged.last().map_or(0, |last| last + 1);
        let is_taken = |bridge: &Bridge| {
            let part = part_of(bridge, &missing, quota_bytes, journal::SEGMENT_BYTES);
            assert!(part < 0.81, "{part}");
            part > 0.78 && bridge.lost("topic_full") > 0.0
        };
        let well = format!("share.{}", WELL.command);
        // It is sure of a fifth.
        let has_room = |bridge: &Bridge| part_of(bridge, &well, quota_bytes, journal::SEGMENT_BYTES) < 0.1;
        acknowledged.extend(press(&bridge, 5 * quota_bytes, first, has_room, is_taken));
        let refused = bridge.metrics()[&format!("callbridge_topic_full_total{{topic=\"{missing}\"}}")];
        let files_bytes = bridge.metrics()["callbridge_journal_files_bytes"];
        assert!(refused > 0.0 && files_bytes <= quota_bytes as f64, "{refused} refused, {files_bytes} bytes");
        assert_only_missing_are_refused(&bridge, "share", &[WELL.command]);
        assert_eq!(bridge.kill9().code, 128 + 9);
    }
    let bridge = settings.start_in(&dir);
    kafka.create_topic(&missing, 1, 1);
    wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
    let delivered = Reader::open(&kafka.client(), &[&missing]).request_numbers();
    assert!(delivered.is_sorted(), "in order");
    let lacks = acknowledged.iter().filter(|number| delivered.binary_search(number).is_err()).count();
    assert_eq!(lacks, 0, "of {} acknowledged", acknowledged.len());
    assert_eq!(part_of(&bridge, &missing, quota_bytes, journal::SEGMENT_BYTES), 0.0);
    bridge.stop_in_order();
}

#[test]
fn of_all_topics_but_four_that_are_missing_the_four_are_never_refused() {
    let Some(kafka) = Kafka::shared() else { return };
    let afters = [seeds::AFTER_ADD_SUBSCRIBER, seeds::AFTER_DESTROYED, seeds::AFTER_INFO_CHANGED];
    let mut well: Vec<(&str, &str)> = afters.iter().map(|seed| (seed.command, seed.body)).collect();
    well.push(("unknown", "{}"));
    for (suffix, _) in &well {
        kafka.create_topic(&format!("four.{suffix}"), 1, 1);
    }
    let (_folder, dir) = journal::folder();
    // Four fifths of a volume of 256 MiB, with files of the size that is shipped.
    let quota_bytes = 256 * MIB / 5 * 4;
    let quota = format!("quota_bytes = {quota_bytes}");
    let settings = journal::builder_without_topics(&kafka.bootstrap(), "four", &quota)
        .variable("CALLBRIDGE_JOURNAL_SEGMENT_BYTES", "16777216")
        .variable("CALLBRIDGE_TOPICS_COMMANDS", "all");
    let bridge = settings.start_in(&dir);
    // `{}` is an event of these; of another one it is a dead letter, whose topic is missing too. Questions wait for nothing.
    let pressed = Command::all().filter(|command| command.kind() == Kind::After && command.form().is_none());
    let mut missing: Vec<&str> = pressed.map(Command::name).collect();
    missing.push("OfficialAccount.CallbackAfterSendMsg");
    // One after the other, which leaves the least; then all of them press on.
    let fills = |bodies: &[usize], command: &str, times: usize| {
        let mut client = Client::connect(bridge.callbacks).unwrap();
        for bytes in bodies {
            let body = padded("{}", *bytes);
            let refused = (0..).filter(|number| post(&mut client, command, &body, *number) == 503);
            refused.take(times).for_each(drop);
        }
    };
    for commands in missing.chunks(8) {
        thread::scope(|scope| {
            commands.iter().for_each(|command| drop(scope.spawn(|| fills(&[200_000, 10_000], command, 1))));
        });
    }
    thread::scope(|scope| {
        missing.iter().step_by(4).for_each(|command| drop(scope.spawn(|| fills(&[100], command, 2))));
        for (command, body) in &well {
            let bridge = &bridge;
            scope.spawn(move || {
                let mut client = Client::connect(bridge.callbacks).unwrap();
                let refused = (0..1000).filter(|number| post(&mut client, command, body, *number) == 503);
                assert!(refused.count() as f64 <= bridge.lost("deadline"), "{command}");
            });
        }
    });
    assert_only_missing_are_refused(&bridge, "four", &well.iter().map(|(command, _)| *command).collect::<Vec<_>>());
    bridge.kill9();
}
