//! What is too large or not taken goes to the dead-letter topic, and costs nothing else.

use super::*;

#[test]
fn a_batch_that_is_not_taken_does_not_cost_its_good_records() {
    let rig = Rig::start(&[]);
    (0..10).for_each(|number| rig.append(CHANGED, number));
    rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    rig.publish();
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(CHANGED)), (0..10).collect::<Vec<_>>());
    assert!(finished.read_rejected().is_empty());
}

#[test]
fn a_batch_that_is_refused_as_too_large_is_halved_until_it_fits() {
    use RDKafkaRespErr as E;
    for error in [E::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, E::RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE] {
        // What is sent together is one batch on a busy machine too: of a second one, a partition that is new to the producer would take it
        // though the first was refused.
        let rig = Rig::start(&[("linger.ms", "300")]);
        (0..100).for_each(|number| rig.append(CHANGED, number));
        rig.fail_produce(&[error; 4]);
        rig.publish();
        let finished = rig.finish();
        assert_eq!(firsts(&finished.read(CHANGED)), (0..100).collect::<Vec<_>>(), "{error:?}");
        assert!(finished.read_rejected().is_empty(), "{error:?}");
        assert_eq!(finished.metric("callbridge_kafka_producer_rebuilds_total"), 4.0, "{error:?}");
        assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (100, 0), "{error:?}");
    }
}

#[test]
fn events_of_one_callback_are_halved_too() {
    let push = Command::find("Push.OfflinePush").unwrap();
    let rig = Rig::start(&[]);
    let event = |number: u64| format!(r#"{{"To_Account":"a","PushID":"{number}","EventTime":{number}}}"#);
    let events = (1..36).map(event).collect::<Vec<_>>().join(",");
    rig.append_body(push, &format!(r#"{{"Events":[{events}]}}"#));
    rig.append_body(push, &event(36));
    rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 3]);
    rig.publish();
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(push)), (1..37).collect::<Vec<u64>>());
    assert!(finished.read_rejected().is_empty());
    assert_eq!(finished.ledger.read().delivered, 2);
}

#[test]
fn a_smaller_limit_gets_another_producer_without_a_record_sent_twice() {
    let rig = Rig::start(&[]);
    // So that some are on their way.
    rig.cluster.broker_round_trip_time(1, Duration::from_millis(300)).unwrap();
    rig.publish();
    (0..200).for_each(|number| rig.append(CHANGED, number));
    wait_until("some are with the client", || rig.metric("callbridge_records_unreported") > 0.0);
    rig.control.limit(Some(50_000), rig.pump.thread());
    rig.cluster.broker_round_trip_time(1, Duration::ZERO).unwrap();
    (200..400).for_each(|number| rig.append(CHANGED, number));
    wait_until("the limit is applied", || rig.control.has_applied_limit());
    // A larger one too, once nothing is under way.
    rig.control.limit(Some(1 << 20), rig.pump.thread());
    wait_until("all are delivered", || rig.ledger.read().delivered == 400);
    rig.append(CHANGED, 400);
    let finished = rig.finish();
    let numbers: Vec<u64> = finished.read(CHANGED).iter().map(|record| record.number).collect();
    assert_eq!(numbers, (0..401).collect::<Vec<_>>());
    assert_eq!(finished.metric("callbridge_kafka_producer_rebuilds_total"), 0.0);
    assert_eq!(finished.metric("callbridge_records_total{failed}"), 0.0);
}

#[test]
fn limits_that_kafka_does_not_tell_are_asked_for_once_and_hold_up_nothing() {
    // It does not know the request.
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).unwrap();
    cluster.create_topic("there", 1, 1).unwrap();
    let properties = Properties::new(Ack::Journal, &BTreeMap::new()).with_bootstrap(cluster.bootstrap_servers());
    let metrics = KafkaMetrics::register(&Registry::new()).unwrap();
    let kafka = UnstartedKafka::new(&properties, metrics).unwrap().start(thread::current()).unwrap();
    let names = ["missing", "there"].map(str::to_owned).to_vec();
    let needs = Needs { names, commands: Vec::new(), creation: None, longest_record: Some(1000) };
    let (lifecycle, mut limits, mut others) = (Lifecycle::new(), Vec::new(), Vec::new());
    TopicsClient::of(&kafka).watch(&needs, &Control::default(), &lifecycle, |told| match told {
        TopicsProgress::Limit(limit) => limits.push(limit),
        TopicsProgress::OthersWork(there) => {
            others.push(there.to_vec());
            lifecycle.enter(Phase::Stopped);
        }
        TopicsProgress::Missing(_) | TopicsProgress::OthersDeliverable(_) | TopicsProgress::Complete => {}
    });
    assert_eq!((limits, others), (vec![None], vec![vec![1]]));
}

#[test]
fn a_stuck_topic_does_not_keep_a_smaller_limit_from_the_others() {
    let rig = Rig::start(&[]);
    let stuck = rig.topics.name(rig.topics.of(rig.apps.iter().next().unwrap(), Some(DESTROYED))).to_owned();
    rig.cluster.topic_error(&stuck, RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    rig.publish();
    rig.append(DESTROYED, 0);
    wait_until("it is with the client", || rig.metric("callbridge_records_unreported") == 1.0);
    rig.control.limit(Some(2000), rig.pump.thread());
    rig.append(CHANGED, 1);
    wait_until("the other topic goes on", || rig.ledger.read().delivered == 1);
    assert!(rig.control.has_applied_limit());
    rig.cluster.topic_error(&stuck, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    assert_eq!(firsts(&rig.finish().read(DESTROYED)), [0]);
}

#[test]
fn a_record_that_kafka_does_not_take_even_alone_goes_to_the_rejected_topic() {
    let rig = Rig::start(&[]);
    (0..3).for_each(|number| rig.append(CHANGED, number));
    rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 2]);
    rig.publish();
    let finished = rig.finish();
    let rejected = finished.read_rejected();
    assert_eq!(rejected, [Read { number: 0, reason: Some("unpublishable".to_owned()) }]);
    assert_eq!(firsts(&finished.read(CHANGED)), [1, 2]);
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (3, 0));
    assert!((finished.metric("callbridge_records_total{poison}") - 1.0).abs() < 0.1);
    assert!((finished.metric("callbridge_rejected_total{unpublishable}") - 1.0).abs() < 0.1);
}

#[test]
fn a_callback_that_kafka_does_not_take_even_raw_is_lost_and_counted() {
    let rig = Rig::start(&[]);
    rig.append(CHANGED, 0);
    // As an envelope, and raw.
    rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 2]);
    rig.publish();
    wait_until("it is given up", || rig.ledger.read().waiting_total() == 0);
    rig.append(CHANGED, 1);
    let finished = rig.finish();
    assert!(finished.read_rejected().is_empty());
    assert_eq!(firsts(&finished.read(CHANGED)), [1]);
    let balance = finished.ledger.read();
    assert_eq!(balance.ended[Reason::Unpublishable.index()], 1);
    assert_eq!((balance.delivered, balance.waiting_total()), (1, 0));
}

/// A batch of the events 1 to 3, of which one has that name.
fn append_three(rig: &Rig, bad: u64, name: &str) -> Command {
    let push = Command::find("Push.OfflinePush").unwrap();
    let events = (1..4).map(|number| event(number, if number == bad { name } else { "p" })).collect::<Vec<_>>();
    rig.append_body(push, &format!(r#"{{"Events":[{}]}}"#, events.join(",")));
    push
}

/// All events but one are in their topic, once and in order, and that one is in the dead-letter topic.
fn only_one_is_rejected(finished: &Finished, push: Command, bad: u64) {
    let numbers: Vec<u64> = finished.read(push).iter().map(|record| record.number).collect();
    assert_eq!(numbers, (1..5).filter(|number| *number != bad).collect::<Vec<_>>());
    assert_eq!(finished.read_rejected(), [Read { number: bad, reason: Some("unpublishable".to_owned()) }]);
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (2, 0));
    assert_eq!(finished.metric("callbridge_records_total{poison}"), 1.0);
}

#[test]
fn an_event_that_kafka_rejects_does_not_cost_the_others_of_its_batch() {
    use RDKafkaRespErr as E;
    for bad in 1..4 {
        // All are one batch at first.
        let rig = Rig::start(&[("linger.ms", "300")]);
        let push = append_three(&rig, bad, "p");
        rig.append_body(push, &event(4, "p"));
        // First all together, then one at a time up to the bad one.
        rig.fail_produce(&[E::RD_KAFKA_RESP_ERR_INVALID_RECORD]);
        (1..bad).for_each(|_good| rig.fail_produce(&[E::RD_KAFKA_RESP_ERR_NO_ERROR]));
        rig.fail_produce(&[E::RD_KAFKA_RESP_ERR_INVALID_RECORD]);
        rig.publish();
        only_one_is_rejected(&rig.finish(), push, bad);
    }
}

#[test]
fn a_rejected_event_whose_raw_record_fails_once_still_goes_to_the_dead_letter_topic() {
    use RDKafkaRespErr as E;
    let rig = Rig::start(&[("linger.ms", "300")]);
    let push = append_three(&rig, 1, "p");
    rig.append_body(push, &event(4, "p"));
    // Together, alone, and raw: that may be for another record of the same Kafka batch.
    rig.fail_produce(&[E::RD_KAFKA_RESP_ERR_INVALID_RECORD; 3]);
    rig.publish();
    only_one_is_rejected(&rig.finish(), push, 1);
}

#[test]
fn an_event_too_long_for_its_topic_does_not_cost_the_others_of_its_batch() {
    use RDKafkaRespErr as E;
    // Each event has a Kafka batch to itself. Behind the rejected one there is none yet, which would be sent before its rejection is known.
    let rig = Rig::start(&[("batch.num.messages", "1")]);
    let push = append_three(&rig, 3, "p");
    let mut errors = vec![E::RD_KAFKA_RESP_ERR_NO_ERROR; 2];
    errors.extend([E::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 2]);
    rig.fail_produce(&errors);
    rig.publish();
    wait_until("the batch is delivered", || rig.ledger.read().delivered == 1);
    rig.append_body(push, &event(4, "p"));
    only_one_is_rejected(&rig.finish(), push, 3);
}

#[test]
fn an_event_too_long_for_the_client_does_not_cost_the_others_of_its_batch() {
    for bad in 1..4 {
        // As an envelope it is beyond the limit, raw it is not.
        let rig = Rig::start(&[("message.max.bytes", "2000")]);
        let push = append_three(&rig, bad, &"x".repeat(1400));
        rig.append_body(push, &event(4, "p"));
        rig.publish();
        only_one_is_rejected(&rig.finish(), push, bad);
    }
}

#[test]
fn an_event_that_kafka_does_not_take_even_raw_is_lost_without_the_others() {
    for bad in 1..4 {
        let rig = Rig::start(&[("message.max.bytes", "2000")]);
        let push = append_three(&rig, bad, &"x".repeat(2000));
        rig.append_body(push, &event(4, "p"));
        rig.publish();
        let finished = rig.finish();
        let numbers: Vec<u64> = finished.read(push).iter().map(|record| record.number).collect();
        assert_eq!(numbers, (1..5).filter(|number| *number != bad).collect::<Vec<_>>());
        assert!(finished.read_rejected().is_empty());
        let balance = finished.ledger.read();
        assert_eq!(balance.ended[Reason::Unpublishable.index()], 1);
        assert_eq!((balance.delivered, balance.waiting_total()), (1, 0));
    }
}

#[test]
fn what_the_client_itself_finds_too_large_goes_the_same_way() {
    let rig = Rig::start(&[("message.max.bytes", "2000")]);
    // As an envelope it is beyond the limit, raw it is not.
    let long = format!(r#"{{"Official_Account":"a","Name":"{}","EventTime":0}}"#, "x".repeat(1400));
    rig.append_body(CHANGED, &long);
    // This one is too long in any form.
    rig.append_body(CHANGED, &format!(r#"{{"Name":"{}","EventTime":9}}"#, "x".repeat(3000)));
    rig.append(CHANGED, 1);
    rig.publish();
    let finished = rig.finish();
    assert_eq!(finished.read_rejected(), [Read { number: 0, reason: Some("unpublishable".to_owned()) }]);
    assert_eq!(firsts(&finished.read(CHANGED)), [1]);
    let balance = finished.ledger.read();
    assert_eq!((balance.delivered, balance.ended[Reason::Unpublishable.index()]), (2, 1));
}
