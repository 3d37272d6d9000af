//! What each acknowledgement mode promises of a crash, under a load that does not stop for it.

use std::time::Duration;

use crate::support::bridge::Bridge;
use crate::support::kafka::Kafka;
use crate::support::load;
use crate::support::load::Outcome;
use crate::support::load::Sent;
use crate::support::reader::Record;
use crate::support::torture;
use crate::support::torture::Plan;
use crate::support::torture::Site;

/// It is killed, and the machine lives on.
struct Killed {
    args: Vec<String>,
}

impl Killed {
    fn new(kafka: &Kafka, ack: &str, prefix: &str) -> Self {
        let brokers = kafka.bootstrap();
        let args = ["--sdk-app-id", torture::APP, "--brokers", &brokers, "--topic-prefix", prefix, "--create-topics"];
        Self { args: args.into_iter().chain(["--ack", ack]).map(str::to_owned).collect() }
    }
}

impl Site for Killed {
    fn launch(&mut self) -> Bridge {
        Bridge::launch(&[], &self.args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn crash(&mut self, bridge: Bridge) {
        assert_eq!(bridge.kill9().code, 128 + 9);
    }
}

fn topic(prefix: &str) -> String {
    format!("{prefix}.{}", load::COMMAND)
}

#[test]
fn kill_9_in_broker_mode_loses_nothing_acknowledged() {
    let Some(kafka) = Kafka::shared() else { return };
    let mut site = Killed::new(kafka, "broker", "crashes-broker");
    let pause = Duration::from_millis(2);
    let plan = Plan { seed: 1, crashes: 6, clients: 8, pause, acknowledged_max: 400 };
    let verdict = torture::run(&mut site, kafka, &topic("crashes-broker"), &plan);
    verdict.assert_nothing_is_lost();
    // Nobody sends a callback again, not even callbridge: it has forgotten it. Only what it was not sure of may come twice.
    assert!(verdict.repeats <= 6 * 8, "{} repeats", verdict.repeats);
    assert!(!verdict.unanswered.is_empty(), "no crash met a callback on its way");
}

#[test]
fn kill_9_in_memory_mode_loses_what_was_queued_and_that_is_seen_here() {
    let Some(kafka) = Kafka::shared() else { return };
    let mut site = Killed::new(kafka, "memory", "crashes-memory");
    let plan = Plan { seed: 2, crashes: 2, clients: 4, pause: Duration::ZERO, acknowledged_max: 400 };
    let verdict = torture::run(&mut site, kafka, &topic("crashes-memory"), &plan);
    assert!(!verdict.lost.is_empty(), "the judgement catches nothing");
}

/// One callback of key `a` for each number, answered 200.
fn sent(numbers: &[u64]) -> Outcome {
    let sent = |sequence: &u64| Sent { key: "a".to_owned(), sequence: *sequence, status: Some(200) };
    Outcome { issued: numbers.iter().map(sent).collect() }
}

/// Their records.
fn records(numbers: &[u64]) -> Vec<Record> {
    let value = |number: &u64| format!(r#"{{"data":{{"callback":{}}}}}"#, load::body("a", *number)).into_bytes();
    let record = |(offset, number)| Record {
        topic: topic("a"),
        partition: 0,
        offset,
        key: Some(b"a".to_vec()),
        headers: Vec::new(),
        value: value(number),
    };
    (0..).zip(numbers).map(record).collect()
}

#[test]
fn the_judgement_counts_losses_and_repeats() {
    let verdict = torture::judge(&sent(&[1, 2, 3]), &records(&[1, 2, 1, 2]));
    assert_eq!((verdict.lost, verdict.repeats), ([3].into(), 2));
    assert_eq!(verdict.owed.len() + verdict.unanswered.len(), 3);
    torture::judge(&sent(&[1]), &records(&[1])).assert_nothing_is_lost();
}

#[test]
#[should_panic(expected = "1 lost")]
fn a_loss_is_a_failure() {
    torture::judge(&sent(&[1, 2]), &records(&[1])).assert_nothing_is_lost();
}

#[test]
#[should_panic(expected = "came first behind")]
fn a_broken_order_is_a_failure() {
    torture::judge(&sent(&[1, 2]), &records(&[2, 1]));
}

#[test]
#[should_panic(expected = "nobody sent")]
fn a_callback_out_of_nowhere_is_a_failure() {
    torture::judge(&sent(&[1]), &records(&[1, 2]));
}

#[test]
#[should_panic(expected = "not as it was sent")]
fn a_changed_callback_is_a_failure() {
    let mut changed = records(&[1]);
    changed[0].value = String::from_utf8(changed[0].value.clone()).unwrap().replace("admin", "adm1n").into_bytes();
    torture::judge(&sent(&[1]), &changed);
}
