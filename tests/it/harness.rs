//! The harness itself: that it can do what the other tests take for granted.

use std::env;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::message::Header;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::BaseRecord;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::producer::Producer;
use rdkafka::producer::ThreadedProducer;
use rustix::process::Pid;
use rustix::process::Signal;

use crate::support::bridge;
use crate::support::foreign;
use crate::support::http;
use crate::support::http::Client;
use crate::support::kafka::Kafka;
use crate::support::kafka::Settings;
use crate::support::load;
use crate::support::load::Load;
use crate::support::process::Process;
use crate::support::reader::Reader;
use crate::support::reader::Record;
use crate::support::wait;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn what_is_produced_is_read_back_by_three_readers() {
    let Some(kafka) = Kafka::shared() else { return };
    kafka.create_topic("harness.readers", 3, 1);
    produce(kafka, "harness.readers", 0..50);

    let reader = Reader::open(&kafka.client(), &["harness.readers"]);
    let records = sorted(reader.collect_to_end());
    assert_eq!(numbers(&records), (0..50).collect::<Vec<_>>());
    assert_eq!(records[0].headers, [("ce_id".to_owned(), b"a, b = c".to_vec())]);
    assert!(reader.collect_to_end().is_empty(), "a reader goes on where it stopped");

    let Some(by_confluent) = foreign::confluent_kafka(kafka, &["harness.readers"]) else { return };
    assert_eq!(sorted(by_confluent), records);
    let Some(by_kcat) = foreign::kcat(kafka, &["harness.readers"]) else { return };
    assert_eq!(sorted(by_kcat), records);
}

#[test]
fn a_reader_waits_for_what_is_still_to_come() {
    let Some(kafka) = Kafka::shared() else { return };
    kafka.create_topic("harness.waits", 1, 1);
    let reader = Reader::open(&kafka.client(), &["harness.waits"]);
    assert!(reader.collect_quiet(Duration::from_millis(100)).is_empty());
    thread::scope(|scope| {
        let reading = scope.spawn(|| reader.collect(3, MINUTE));
        produce(kafka, "harness.waits", 0..3);
        assert_eq!(numbers(&reading.join().unwrap()), [0, 1, 2]);
    });
}

#[test]
fn three_nodes_lose_nothing_when_a_leader_is_killed() {
    let Some(mut kafka) = Kafka::start(3) else { return };
    kafka.create_topic("harness.three", 1, 3);
    let before = kafka.describe("harness.three");
    assert_eq!(before.configs["min.insync.replicas"], "2");
    assert_eq!(before.partitions[0].replicas.len(), 3);
    let leader = before.partitions[0].leader;

    produce(&kafka, "harness.three", 0..20);
    kafka.node(leader).kill();
    produce(&kafka, "harness.three", 20..40);
    let after = kafka.describe("harness.three");
    assert_ne!(after.partitions[0].leader, leader);
    assert!(!after.partitions[0].in_sync.contains(&leader));

    kafka.node(leader).restart();
    let records = Reader::open(&kafka.client(), &["harness.three"]).collect_to_end();
    assert_eq!(numbers(&records), (0..40).collect::<Vec<_>>());
}

#[test]
fn a_frozen_node_takes_nothing_until_thawed_and_a_killed_one_keeps_its_records() {
    let Some(mut kafka) = Kafka::start(1) else { return };
    kafka.create_topic("harness.frozen", 1, 1);
    let producer = producer(&kafka);
    kafka.node(1).freeze();
    send(&producer, "harness.frozen", 0);
    assert!(producer.flush(Duration::from_millis(300)).is_err());
    kafka.node(1).thaw();
    producer.flush(MINUTE).unwrap();

    kafka.node(1).restart();
    let records = Reader::open(&kafka.client(), &["harness.frozen"]).collect(1, MINUTE);
    assert_eq!(numbers(&records), [0]);
}

#[test]
fn a_client_logs_in_over_tls_by_scram() {
    let Some(kafka) = Kafka::with(Settings { nodes: 1, tls_and_scram: true }) else { return };
    kafka.create_topic("harness.tls", 1, 1);
    produce(&kafka, "harness.tls", 0..3);
    let records = Reader::open(&kafka.client(), &["harness.tls"]).collect_to_end();
    assert_eq!(numbers(&records), [0, 1, 2]);
    let Some(by_confluent) = foreign::confluent_kafka(&kafka, &["harness.tls"]) else { return };
    assert_eq!(by_confluent, records);
}

#[test]
fn kafka_stops_when_it_is_dropped() {
    let Some(mut kafka) = Kafka::start(1) else { return };
    let pid = kafka.node(1).pid();
    assert!(runs(pid));
    drop(kafka);
    assert!(!runs(pid));
}

#[test]
fn a_process_and_its_folder_go_when_the_tests_are_killed() {
    const FOLDER: &str = "CALLBRIDGE_TEST_HOLDS";
    // In the child of this test: hold a process, and be killed.
    if let Some(folder) = env::var_os(FOLDER) {
        let process = Process::start(Path::new(&folder), "sleep", &["600"]);
        fs::write(Path::new(&folder).join("pid"), process.pid().as_raw_pid().to_string()).unwrap();
        loop {
            thread::park();
        }
    }
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("held");
    fs::create_dir(&folder).unwrap();
    let test = thread::current().name().unwrap().to_owned();
    let mut tests = Command::new(env::current_exe().unwrap())
        .args(["--exact", &test])
        .env(FOLDER, &folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid_file = folder.join("pid");
    wait::until("it has a pid", || fs::read_to_string(&pid_file).is_ok_and(|text| !text.is_empty()));
    let pid = fs::read_to_string(&pid_file).unwrap().parse().ok().and_then(Pid::from_raw).unwrap();
    assert!(runs(pid));

    tests.kill().unwrap();
    tests.wait().unwrap();
    wait::until("it is gone", || !runs(pid) && !folder.exists());
}

#[test]
fn a_process_says_how_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(folder.path(), "sh", &["-c", "echo out; echo log >&2; exit 7"]);
    assert_eq!(process.wait(MINUTE), 7);
    assert_eq!((process.stdout().as_str(), process.stderr().as_str()), ("out\n", "log\n"));

    let mut process = Process::start(folder.path(), "sleep", &["600"]);
    assert_eq!(process.exit_code(), None);
    process.signal(Signal::TERM);
    assert_eq!(process.wait(MINUTE), 128 + 15);
    process.signal(Signal::TERM);
}

#[test]
fn the_lines_that_callbridge_prints_are_understood() {
    let stdout = "callbacks on http://127.0.0.1:41234\nadmin on http://127.0.0.1:41235\nledger received=3 lost=0\n";
    assert_eq!(bridge::address(stdout, "callbacks"), "127.0.0.1:41234".parse().ok());
    assert_eq!(bridge::address(stdout, "admin"), "127.0.0.1:41235".parse().ok());
    assert_eq!(bridge::address("callbacks on http://127.0.0.1:41", "callbacks"), None);
    assert_eq!(bridge::ledger(stdout), [("received".to_owned(), 3), ("lost".to_owned(), 0)].into());

    let text = "# HELP a Of a.\na_total{command=\"x y\"} 2\nb 0.5\n";
    assert_eq!(bridge::metrics(text), [("a_total{command=\"x y\"}".to_owned(), 2.0), ("b".to_owned(), 0.5)].into());
}

#[test]
fn a_client_reads_answers_and_sees_the_connection_close() {
    let (address, _server) = serve(2, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nRetry-After: 1\r\n\r\nno");
    let mut client = Client::connect(address).unwrap();
    for _repeat in 0..2 {
        let response = client.post(&http::callback_target("1400000000", "A.B"), b"{}").unwrap();
        assert_eq!((response.status, response.text().as_str()), (403, "no"));
        assert_eq!(response.header("retry-after"), Some("1"));
    }
    assert!(client.is_closed());
}

#[test]
fn a_load_tells_what_was_acknowledged_from_what_was_only_sent() {
    let (address, first) = serve(5, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let load = Load::start(address, "1400000000", 1, Duration::ZERO);
    first.join().unwrap();
    let (address, second) = serve(1, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    load.aim(address);
    second.join().unwrap();
    let outcome = load.stop();

    let acknowledged: Vec<u64> = outcome.acknowledged().map(|sent| sent.sequence).collect();
    assert_eq!(acknowledged, [0, 1, 2, 3, 4]);
    assert_eq!(outcome.issued.iter().filter(|sent| sent.status == Some(503)).count(), 1);
    assert!(outcome.issued.iter().all(|sent| sent.key == outcome.issued[0].key));
    assert!(load::body("@TOA#_a", 7).contains(r#""Name":"7""#));
}

/// Answers `requests` requests of one connection, each with `answer`, then closes it and listens no more.
fn serve(requests: usize, answer: &'static str) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        drop(listener);
        for _nth in 0..requests {
            let mut length = 0;
            let mut line = String::new();
            while stream.read_line(&mut line).unwrap() > 2 {
                length = line.strip_prefix("Content-Length: ").map_or(length, |value| value.trim().parse().unwrap());
                line.clear();
            }
            stream.read_exact(&mut vec![0; length]).unwrap();
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    });
    (address, server)
}

fn producer(kafka: &Kafka) -> ThreadedProducer<DefaultProducerContext> {
    kafka.client().set("enable.idempotence", "true").create().unwrap()
}

/// Sends `number` as key and value.
fn send(producer: &ThreadedProducer<DefaultProducerContext>, topic: &str, number: u32) {
    let text = number.to_string();
    let headers = OwnedHeaders::new().insert(Header { key: "ce_id", value: Some("a, b = c") });
    producer
        .send(BaseRecord::to(topic).key(&text).payload(&text).headers(headers))
        .map_err(|(error, _)| error)
        .unwrap();
}

/// Sends one record for each number, and returns when all are taken.
fn produce(kafka: &Kafka, topic: &str, numbers: Range<u32>) {
    let producer = producer(kafka);
    numbers.for_each(|number| send(&producer, topic, number));
    producer.flush(MINUTE).unwrap();
}

fn sorted(mut records: Vec<Record>) -> Vec<Record> {
    records.sort();
    records
}

/// The numbers of `send`, in rising order.
fn numbers(records: &[Record]) -> Vec<u32> {
    assert!(records.iter().all(|record| record.key.as_ref() == Some(&record.value)));
    let mut numbers: Vec<u32> =
        records.iter().map(|record| str::from_utf8(&record.value).unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

fn runs(pid: Pid) -> bool {
    rustix::process::test_kill_process(pid).is_ok()
}
