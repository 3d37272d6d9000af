//! What is with the client stays within its bytes.

use super::*;

/// A budget that a few records of these tests fill.
const SMALL_BUDGET: usize = 10_000;

#[test]
fn of_more_events_than_the_client_has_room_for_each_is_sent_once_and_in_order() {
    let push = Command::find("Push.OfflinePush").unwrap();
    let rig = Rig::start(&[("queue.buffering.max.messages", "10")]);
    let event = |number: u64| format!(r#"{{"To_Account":"a","PushID":"{number}","EventTime":{number}}}"#);
    let events = |numbers: std::ops::Range<u64>| numbers.map(event).collect::<Vec<_>>().join(",");
    rig.append_body(push, &format!(r#"{{"Events":[{}]}}"#, events(1..36)));
    rig.append_body(push, &event(36));
    rig.publish();
    let finished = rig.finish();
    let numbers: Vec<u64> = finished.read(push).iter().map(|record| record.number).collect();
    assert_eq!(numbers, (1..37).collect::<Vec<u64>>());
    assert_eq!(finished.ledger.read().delivered, 2);
    assert_eq!(finished.metric("callbridge_records_total{unproven}"), 0.0);
}

#[test]
fn a_client_whose_queue_is_full_takes_all_in_order_by_and_by() {
    let rig = Rig::start(&[("queue.buffering.max.messages", "10")]);
    (0..100).for_each(|number| rig.append(CHANGED, number));
    rig.publish();
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(CHANGED)), (0..100).collect::<Vec<_>>());
    assert_eq!(finished.ledger.read().delivered, 100);
}

#[test]
fn a_stuck_topic_leaves_the_others_their_part_of_the_budget() {
    use RDKafkaRespErr as E;
    let rig = Rig::start_within(200_000, &[("topic.metadata.refresh.interval.ms", "100")], BACKOFF);
    let stuck = rig.topics.name(rig.topics.of(rig.apps.iter().next().unwrap(), Some(DESTROYED))).to_owned();
    rig.cluster.topic_error(&stuck, E::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    rig.publish();
    (0..400).for_each(|number| rig.append(DESTROYED, number));
    let unreported = || rig.metric("callbridge_records_unreported");
    wait_until("the client has its part", || unreported() > 50.0);
    (400..800).for_each(|number| rig.append(CHANGED, number));
    wait_until("the others are delivered", || rig.ledger.read().delivered == 400);
    let least = 200_000.0 * 0.8 / 2500.0;
    wait_until("the rest waits in the journal", || (0.7 * least..300.0).contains(&unreported()));
    rig.cluster.topic_error(&stuck, E::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(DESTROYED)), (0..400).collect::<Vec<_>>());
    assert_eq!(firsts(&finished.read(CHANGED)), (400..800).collect::<Vec<_>>());
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (800, 0));
}

#[test]
fn the_longest_body_passes_a_budget_that_is_smaller_than_it() {
    let rig = Rig::start_within(SMALL_BUDGET, &[], BACKOFF);
    let name = "x".repeat(262_144 - 60);
    for number in 0..3 {
        rig.append_body(CHANGED, &format!(r#"{{"Official_Account":"a","Name":"{name}","EventTime":{number}}}"#));
        rig.append(CHANGED, 10 + number);
    }
    rig.publish();
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(CHANGED)), [0, 10, 1, 11, 2, 12]);
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (6, 0));
}

/// A batch of 200 events, which are more than [`SMALL_BUDGET`] by far, and an event behind them.
fn append_large_batch(rig: &Rig) -> Command {
    let push = Command::find("Push.OfflinePush").unwrap();
    let event = |number: u64| format!(r#"{{"To_Account":"a","PushID":"{number}","EventTime":{number}}}"#);
    rig.append_body(push, &format!(r#"{{"Events":[{}]}}"#, (1..201).map(event).collect::<Vec<_>>().join(",")));
    rig.append_body(push, &event(201));
    push
}

#[test]
fn a_batch_larger_than_the_budget_is_sent_part_by_part_and_each_once() {
    let rig = Rig::start_within(SMALL_BUDGET, &[], BACKOFF);
    let push = append_large_batch(&rig);
    rig.publish();
    let finished = rig.finish();
    let numbers: Vec<u64> = finished.read(push).iter().map(|record| record.number).collect();
    assert_eq!(numbers, (1..202).collect::<Vec<_>>());
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (2, 0));
}

#[test]
fn a_batch_larger_than_the_budget_goes_on_where_a_dead_producer_left_it() {
    let rig = Rig::start_within(SMALL_BUDGET, &[], BACKOFF);
    let push = append_large_batch(&rig);
    rig.publish();
    for delivered in [20.0, 40.0, 60.0, 80.0, 100.0] {
        wait_until("more of it is delivered", || rig.metric("callbridge_records_total{delivered}") >= delivered);
        rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
    }
    let finished = rig.finish();
    let records = finished.read(push);
    assert_eq!(firsts(&records), (1..202).collect::<Vec<_>>());
    assert!(finished.metric("callbridge_kafka_producer_rebuilds_total") >= 1.0);
    // Each time what was with the client, at most, and not all from the first on.
    assert!(records.len() < 201 + 5 * 30, "{}", records.len());
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (2, 0));
}
