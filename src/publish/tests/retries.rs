//! What Kafka or the client gives back is sent again, with another producer where that is needed.

use super::*;

/// The age of the oldest record without a report, in seconds.
const OLDEST: &str = "callbridge_oldest_unreported_seconds";
const WATCHDOG_RESTARTS: &str = "callbridge_kafka_watchdog_restarts_total";

#[test]
fn an_error_that_may_pass_costs_nothing_and_moves_nothing() {
    use RDKafkaRespErr as E;
    for error in [
        E::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        E::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        E::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        E::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        E::RD_KAFKA_RESP_ERR__TRANSPORT,
    ] {
        // Small batches, so that there are records behind the one that fails.
        let rig = Rig::start(&[("batch.num.messages", "10")]);
        (0..100).for_each(|number| rig.append(CHANGED, number));
        rig.fail_produce(&[error, error]);
        rig.publish();
        wait_until("all are delivered", || rig.ledger.read().delivered == 100);
        (100..120).for_each(|number| rig.append(CHANGED, number));
        let finished = rig.finish();
        assert_eq!(firsts(&finished.read(CHANGED)), (0..120).collect::<Vec<_>>(), "{error:?}");
        assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (120, 0), "{error:?}");
        assert!((finished.metric("callbridge_records_total{delivered}") - 120.0).abs() < 0.1, "{error:?}");
        assert!(finished.read_rejected().is_empty());
    }
}

#[test]
fn what_librdkafka_gives_back_is_counted_and_sent_again() {
    let rig = Rig::start(&[]);
    (0..10).for_each(|number| rig.append(CHANGED, number));
    rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 3]);
    rig.publish();
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(CHANGED)), (0..10).collect::<Vec<_>>());
    assert!(finished.metric("callbridge_records_total{failed}") >= 3.0);
    assert_eq!(finished.ledger.read().delivered, 10);
}

#[test]
fn a_dead_producer_is_replaced_and_unacknowledged_records_are_resent_in_order() {
    let rig = Rig::start(&[("batch.num.messages", "10")]);
    (0..100).for_each(|number| rig.append(CHANGED, number));
    (100..150).for_each(|number| rig.append(DESTROYED, number));
    rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
    rig.publish();
    wait_until("all are delivered", || rig.ledger.read().delivered == 150);
    (150..160).for_each(|number| rig.append(CHANGED, number));
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(CHANGED)), (0..100).chain(150..160).collect::<Vec<_>>());
    assert_eq!(firsts(&finished.read(DESTROYED)), (100..150).collect::<Vec<_>>());
    assert!((finished.metric("callbridge_kafka_producer_rebuilds_total") - 1.0).abs() < 0.1);
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (160, 0));
}

#[test]
fn a_record_whose_time_kafka_refuses_is_sent_with_the_time_of_sending() {
    let rig = Rig::start(&[]);
    let began = clock::wall().0;
    let year_2100 = UnixMillis(4_102_444_800_000);
    (0..3).for_each(|number| rig.append_received(CHANGED, &body(CHANGED, number), year_2100));
    rig.append(CHANGED, 3);
    rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP]);
    rig.publish();
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(CHANGED)), [0, 1, 2, 3]);
    let times = finished.read_whole(CHANGED).into_iter().map(|message| message.timestamp().to_millis().unwrap());
    let now = clock::wall().0;
    assert!(times.clone().all(|time| (began..=now).contains(&time)), "{:?}", times.collect::<Vec<_>>());
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_total()), (4, 0));
}

#[test]
fn producers_that_get_no_id_are_replaced_until_one_does() {
    let rig = Rig::start(&[]);
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    rig.cluster.request_errors(RDKafkaApiKey::InitProducerId, &[refused; 5]);
    rig.append(CHANGED, 0);
    rig.publish();
    let finished = rig.finish();
    assert_eq!(firsts(&finished.read(CHANGED)), [0]);
    assert!(finished.metric("callbridge_kafka_producer_rebuilds_total") >= 4.0, "the first may have got one before");
}

#[test]
fn a_delivery_that_no_broker_gave_an_offset_for_is_not_believed() {
    // Without acknowledgements there is never an offset.
    let rig = Rig::start(&[("enable.gapless.guarantee", "false"), ("enable.idempotence", "false"), ("acks", "0")]);
    rig.append(CHANGED, 0);
    rig.publish();
    wait_until("it is sent again", || rig.metric("callbridge_records_total{unproven}") >= 2.0);
    assert_eq!((rig.ledger.read().delivered, rig.ledger.read().waiting_queue), (0, 1));

    rig.control.give_up_at(clock::monotonic(), rig.pump.thread());
    let finished = rig.finish();
    assert!(finished.read(CHANGED).len() >= 2);
    assert_eq!((finished.ledger.read().delivered, finished.ledger.read().waiting_queue), (0, 1));
}

#[test]
fn a_record_that_is_never_reported_gets_a_new_producer_once_its_topic_has_leaders() {
    // The client keeps it to itself for so long.
    let rig = Rig::start(&[("linger.ms", "900000")]);
    rig.cluster.partition_leader(rig.topic(CHANGED), 0, None).unwrap();
    rig.publish();
    rig.append(CHANGED, 0);
    rig.watched(|| {
        wait_until("it waits", || rig.metric(OLDEST) > 1.5 * UNREPORTED_MAX.as_secs_f64());
        assert_eq!(rig.metric(WATCHDOG_RESTARTS), 0.0, "it cannot be sent");
        rig.cluster.partition_leader(rig.topic(CHANGED), 0, Some(1)).unwrap();
        wait_until("a new producer", || rig.metric(WATCHDOG_RESTARTS) == 1.0);
        wait_until("it is sent again", || (0.0..UNREPORTED_MAX.as_secs_f64()).contains(&rig.metric(OLDEST)));
        wait_until("it waits again", || rig.metric(OLDEST) > 0.0);
    });
    rig.control.give_up_at(clock::monotonic(), rig.pump.thread());
    let finished = rig.finish();
    assert_eq!(finished.metric("callbridge_kafka_producer_rebuilds_total"), 0.0, "it was not dead");
    assert_eq!(finished.ledger.read().waiting_queue, 1);
}

#[test]
fn a_topic_that_stays_forbidden_costs_producers_less_and_less_often() {
    let (first, max) = (Duration::from_millis(50), Duration::from_millis(100));
    let rig = Rig::start_with(&[], Backoff { first, max, lost_producer_max: Duration::from_secs(10) });
    rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 7]);
    rig.append(CHANGED, 0);
    rig.publish();
    let rebuilds = || rig.metric("callbridge_kafka_producer_rebuilds_total");
    wait_until("the first producer is dead", || rebuilds() >= 1.0);
    let began = clock::monotonic();
    wait_until("seven are dead", || rebuilds() >= 7.0);
    // 50 ms, doubled five times. At `max` it would be 600 ms, and what replacing them takes.
    let least = 63 * first;
    assert!(clock::monotonic() - began > least - max, "{:?}", clock::monotonic() - began);
    assert_eq!(firsts(&rig.finish().read(CHANGED)), [0]);
}

#[test]
fn an_error_that_costs_no_producer_is_retried_at_least_as_often_as_before() {
    let (first, max) = (Duration::from_millis(10), Duration::from_millis(100));
    let rig = Rig::start_with(
        &[("topic.metadata.propagation.max.ms", "0")],
        Backoff { first, max, lost_producer_max: MINUTE },
    );
    rig.cluster.topic_error(rig.topic(CHANGED), RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    rig.append(CHANGED, 0);
    rig.publish();
    // The eleventh would come after 20 seconds if the time were not bounded.
    wait_until("it fails again and again", || rig.metric("callbridge_records_total{failed}") >= 11.0);
    assert_eq!(rig.metric("callbridge_kafka_producer_rebuilds_total"), 0.0);
    rig.cluster.topic_error(rig.topic(CHANGED), RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    assert_eq!(firsts(&rig.finish().read(CHANGED)), [0]);
}

#[test]
fn a_dead_producer_is_replaced_although_nothing_more_is_sent() {
    let rig = Rig::start_with(&[], Backoff { first: 10 * MINUTE, max: 10 * MINUTE, lost_producer_max: 10 * MINUTE });
    rig.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    rig.append(CHANGED, 0);
    rig.publish();
    wait_until("it is replaced", || rig.metric("callbridge_kafka_producer_rebuilds_total") == 1.0);
    rig.control.give_up_at(clock::monotonic(), rig.pump.thread());
    assert_eq!(rig.finish().ledger.read().waiting_queue, 1);
}
