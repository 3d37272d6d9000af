//! What waits for a topic or a broker holds up nothing else, and arrives in order.

use super::*;

#[test]
fn an_unwritable_topic_neither_stops_the_others_nor_piles_up_records() {
    use RDKafkaRespErr as E;
    // The one comes back from librdkafka again and again, the other stays there.
    for error in [E::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, E::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART] {
        let rig = Rig::start(&[("topic.metadata.refresh.interval.ms", "100")]);
        let stuck = rig.topics.name(rig.topics.of(rig.apps.iter().next().unwrap(), Some(DESTROYED))).to_owned();
        rig.cluster.topic_error(&stuck, error).unwrap();
        rig.publish();
        for number in 0..500 {
            rig.append(if number % 50 == 0 { DESTROYED } else { CHANGED }, number);
        }
        wait_until("the others are delivered", || rig.ledger.read().delivered == 490);
        assert_eq!(rig.ledger.read().waiting_total(), 10, "{error:?}");
        wait_until("only those of the stuck topic are unreported", || {
            rig.metric("callbridge_records_unreported") <= 10.0
        });

        rig.cluster.topic_error(&stuck, E::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
        let finished = rig.finish();
        assert_eq!(firsts(&finished.read(DESTROYED)), (0..500).step_by(50).collect::<Vec<_>>(), "{error:?}");
        let others: Vec<u64> = (0..500).filter(|number| number % 50 != 0).collect();
        assert_eq!(firsts(&finished.read(CHANGED)), others, "{error:?}");
        assert_eq!(finished.ledger.read().waiting_total(), 0);
    }
}

#[test]
fn nothing_is_sent_to_a_topic_that_was_not_seen_yet() {
    let rig = Rig::start(&[]);
    rig.publish_only(CHANGED);
    (0..10).for_each(|number| rig.append(DESTROYED, number));
    rig.append(CHANGED, 10);
    wait_until("the topic that was seen has its record", || rig.ledger.read().delivered == 1);
    wait_until("nothing is with the client", || rig.metric("callbridge_records_unreported") == 0.0);
    assert_eq!(rig.ledger.read().waiting_total(), 10);

    rig.publish_only(DESTROYED);
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(DESTROYED)), (0..10).collect::<Vec<_>>());
    assert_eq!(finished.ledger.read().waiting_total(), 0);
}

#[test]
fn a_bad_event_of_a_batch_waits_for_a_dead_letter_topic_that_was_not_seen_yet() {
    let rig = Rig::start(&[]);
    let push = Command::find("Push.OfflinePush").unwrap();
    rig.publish_only(push);
    rig.append_body(push, &format!(r#"{{"Events":[{},5]}}"#, event(1, "p")));
    wait_until("the good event is delivered", || rig.metric("callbridge_records_total{delivered}") >= 1.0);
    wait_until("nothing is with the client", || rig.metric("callbridge_records_unreported") == 0.0);
    assert_eq!(rig.ledger.read().waiting_total(), 1, "the bad event waits");

    rig.publish();
    let finished = rig.finish();
    assert_eq!((finished.read(push).len(), read_whole(&finished.cluster, "t.rejected").len()), (1, 1));
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (1, 0));
}

#[test]
fn told_to_give_up_the_pump_ends_and_leaves_what_it_has_waiting() {
    let rig = Rig::start(&[]);
    rig.cluster.broker_down(1).unwrap();
    (0..10).for_each(|number| rig.append(CHANGED, number));
    rig.publish();
    wait_until("the client has them", || rig.metric("callbridge_records_unreported") >= 10.0);
    rig.control.give_up_at(clock::monotonic(), rig.pump.thread());
    let finished = rig.finish();
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_queue), (0, 10));
}

#[test]
fn what_waits_while_no_broker_is_there_arrives_in_order_when_one_is() {
    let rig = Rig::start(&[("reconnect.backoff.max.ms", "50")]);
    rig.publish();
    rig.append(CHANGED, 0);
    wait_until("the first is delivered", || rig.ledger.read().delivered == 1);
    rig.cluster.broker_down(1).unwrap();
    (1..200).for_each(|number| rig.append(CHANGED, number));
    wait_until("the client has them", || rig.metric("callbridge_records_unreported") >= 199.0);
    rig.cluster.broker_up(1).unwrap();
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(CHANGED)), (0..200).collect::<Vec<_>>());
    assert_eq!(finished.ledger.read().delivered, 200);
}

#[test]
fn a_batch_that_fails_is_not_overtaken_by_what_is_behind_it() {
    use RDKafkaRespErr as E;
    for error in [E::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, E::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE] {
        // The client has ten batches when the first of them fails.
        let rig = Rig::start(&[("batch.num.messages", "10"), ("linger.ms", "100")]);
        (0..100).for_each(|number| rig.append(CHANGED, number));
        rig.fail_produce(&[error]);
        rig.publish();
        for number in 100..400 {
            rig.append(CHANGED, number);
            // So that some come in each state of the outbox.
            thread::sleep(Duration::from_millis(2));
        }
        let finished = rig.finish();
        assert!(finished.metric("callbridge_records_total{failed}") > 0.0);
        assert_eq!(firsts(&finished.read(CHANGED)), (0..400).collect::<Vec<_>>(), "{error:?}");
        assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (400, 0), "{error:?}");
    }
}

#[test]
fn the_oldest_that_waits_for_each_topic_is_shown() {
    let rig = Rig::start(&[]);
    let received = UnixMillis(clock::wall().0 - 100_000);
    rig.append_received(DESTROYED, &body(DESTROYED, 0), received);
    rig.append(DESTROYED, 1);
    let oldest = |command: Command| {
        let name = rig.topics.name(rig.topics.of(rig.apps.iter().next().unwrap(), Some(command)));
        rig.metric(&format!("callbridge_topic_oldest_undelivered_seconds{{{name}}}"))
    };
    let is_shown = |name| rig.registry.gather().iter().any(|family| family.name() == name);
    wait_until("the pump has begun", || is_shown("callbridge_topic_oldest_undelivered_seconds"));
    wait_until("it is shown while its topic is not there", || oldest(DESTROYED) >= 100.0);
    assert_eq!(oldest(CHANGED), 0.0);
    rig.cluster.broker_down(1).unwrap();
    rig.publish();
    wait_until("the client has them", || rig.metric("callbridge_records_unreported") == 2.0);
    wait_until("it is shown while it is with the client", || oldest(DESTROYED) >= 100.0);
    rig.cluster.broker_up(1).unwrap();
    wait_until("all are delivered", || rig.ledger.read().delivered == 2);
    wait_until("none waits", || oldest(DESTROYED) == 0.0);
    rig.finish();
}

#[test]
fn a_stop_does_not_wait_for_a_topic_that_was_never_seen() {
    let rig = Rig::start(&[]);
    rig.append(DESTROYED, 1);
    rig.append(CHANGED, 2);
    rig.publish_only(CHANGED);
    rig.control.give_up_at(clock::monotonic() + 10 * MINUTE, rig.pump.thread());
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(CHANGED)), [2]);
    assert_eq!(finished.ledger.read().waiting_total(), 1);
}
