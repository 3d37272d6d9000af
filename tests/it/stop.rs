//! The stop: in order, under its deadline, and with a ledger that says what remained.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use callbridge::clock;
use rustix::process::Pid;
use rustix::process::Signal;
use serde_json::Value;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::bridge::BridgeBuilder;
use crate::support::bridge::Stopped;
use crate::support::http;
use crate::support::http::Client;
use crate::support::http::Response;
use crate::support::journal;
use crate::support::kafka::Kafka;
use crate::support::load;
use crate::support::load::Load;
use crate::support::mounted;
use crate::support::mounted::mounted;
use crate::support::oracle;
use crate::support::ports;
use crate::support::powercut::PowerCut;
use crate::support::process::Process;
use crate::support::reader::Reader;
use crate::support::real;
use crate::support::wait;

const DELIVERED: &str = "callbridge_callbacks_delivered_total";
const IN_QUEUE: &str = r#"callbridge_callbacks_waiting{where="queue"}"#;
/// How many callbacks are sent while Kafka is frozen.
const TAKEN: u64 = 20;

fn embedded() -> BridgeBuilder {
    Bridge::builder().embedded().ack("broker")
}

/// Posts one callback of the load's kind, over a connection of its own.
fn post(callbacks: SocketAddr, sequence: u64) -> std::io::Result<Response> {
    let body = load::body("@TOA#_probe", sequence);
    Client::connect(callbacks)?.post(&http::callback_target(APP, load::COMMAND), body.as_bytes())
}

fn readiness(bridge: &Bridge) -> (u16, String) {
    let response = Client::connect(bridge.admin).unwrap().request("GET", "/readyz", &[], b"").unwrap();
    (response.status, response.text())
}

fn assert_balanced(stopped: &Stopped) {
    let ledger = &stopped.ledger;
    let ended = ledger["refused"] + ledger["lost"] + ledger["delivered"] + ledger["waiting"];
    assert_eq!(ledger["received"] + ledger["recovered"], ended, "{ledger:?}");
}

/// The warnings about what is gone with the process: how many callbacks each names.
fn left_behind(stopped: &Stopped) -> Vec<u64> {
    let lines = stopped.stderr.lines().filter(|line| line.contains("are lost with this process"));
    let waiting = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["level"], "WARN");
        line["fields"]["waiting"].as_u64().unwrap()
    };
    lines.map(waiting).collect()
}

#[test]
fn sigterm_under_load_loses_nothing_and_each_answer_since_then_ends_its_connection() {
    let Some(kafka) = Kafka::shared() else { return };
    for ack in ["broker", "memory"] {
        let (brokers, prefix) = (kafka.bootstrap(), format!("stop-load-{ack}"));
        let mut bridge = Bridge::builder().brokers(&brokers).topics(&prefix).ack(ack).start();
        let callbacks = bridge.callbacks;
        let load = Load::start(callbacks, APP, 16, Duration::ZERO);
        wait::until("callbacks are delivered", || bridge.metrics()[DELIVERED] >= 500.0);

        bridge.signal(Signal::TERM);
        wait::until("it says that it stops", || readiness(&bridge).1 == "stopping\n");
        let mut probes = 0;
        wait::until("it takes no more connections", || {
            probes += 1;
            match post(callbacks, 10_000_000_000 + probes) {
                Ok(response) => {
                    assert_eq!(response.header("connection"), Some("close"), "{response:?}");
                    false
                }
                Err(_closed) => true,
            }
        });
        let stopped = bridge.wait();
        let outcome = load.stop();
        assert_eq!(stopped.code, 0, "{}", stopped.stderr);
        assert_balanced(&stopped);
        assert_eq!(stopped.ledger["waiting"], 0);
        assert_eq!(left_behind(&stopped), [0; 0]);

        let topic = format!("{prefix}.{}", load::COMMAND);
        let mut records = Reader::open(&kafka.client(), &[&topic]).collect_to_end();
        let all = records.len();
        records.retain(|record| record.key.as_deref() != Some(b"@TOA#_probe"));
        let probed = all - records.len();
        assert!(probed > 0, "nothing was answered between the signal and the end");
        let judged = oracle::judge(&outcome, &records);
        assert!(!judged.acknowledged.is_empty());
        assert!(stopped.ledger["delivered"] <= u64::try_from(judged.seen.len() + probed).unwrap());
        assert!(stopped.ledger["delivered"] >= u64::try_from(judged.acknowledged.len()).unwrap());
    }
}

#[test]
fn with_a_frozen_kafka_it_ends_in_time_and_says_what_remained() {
    const DRAIN: Duration = Duration::from_secs(3);
    let Some(mut kafka) = Kafka::start(1) else { return };
    let brokers = kafka.bootstrap();
    let settings = "drain_seconds = 3\n[callbacks]\nkeep_accepting_ms = 100\n";
    let [mut memory, mut broker] = ["memory", "broker"]
        .map(|ack| Bridge::builder().brokers(&brokers).topics(ack).ack(ack).settings(settings).start());
    kafka.node(1).freeze();
    for sequence in 0..TAKEN {
        assert_eq!(post(memory.callbacks, sequence).unwrap().status, 200);
    }
    let callbacks = broker.callbacks;
    let unanswered: Vec<_> = (0..TAKEN).map(|sequence| thread::spawn(move || post(callbacks, sequence))).collect();
    wait::until("they wait for kafka", || broker.metrics()[IN_QUEUE] >= TAKEN as f64);

    let begin = clock::monotonic();
    memory.signal(Signal::TERM);
    broker.signal(Signal::TERM);
    let (memory, broker) = (memory.wait(), broker.wait());
    // A busy machine may add to it.
    assert!(begin.elapsed() < DRAIN + Duration::from_secs(7), "{:?}", begin.elapsed());
    for stopped in [&memory, &broker] {
        assert_eq!(stopped.code, 0, "{}", stopped.stderr);
        assert_balanced(stopped);
        assert_eq!(stopped.ledger["delivered"], 0);
    }
    assert_eq!((memory.ledger["waiting"], left_behind(&memory)), (TAKEN, vec![TAKEN]));
    for response in unanswered {
        let response = response.join().unwrap().unwrap();
        assert_eq!((response.status, response.header("connection")), (503, Some("close")), "{response:?}");
    }
    assert_eq!((broker.ledger["lost"], broker.ledger["waiting"]), (TAKEN, 0));
    assert_eq!(left_behind(&broker), [0; 0]);
}

/// Has callbridge take one callback, which is delivered, and [`TAKEN`] more once Kafka is frozen.
fn freeze_and_take(kafka: &mut Kafka, bridge: &Bridge) {
    assert_eq!(post(bridge.callbacks, TAKEN).unwrap().status, 200);
    wait::until("kafka takes it", || bridge.metrics()[DELIVERED] == 1.0);
    kafka.node(1).freeze();
    for sequence in 0..TAKEN {
        assert_eq!(post(bridge.callbacks, sequence).unwrap().status, 200);
    }
}

/// Starts one in `broker` mode, and freezes Kafka once it is connected.
fn start_and_freeze(kafka: &mut Kafka) -> Bridge {
    let settings = "drain_seconds = 60\ncallbacks.keep_accepting_ms = 100\n";
    let builder = Bridge::builder().brokers(&kafka.bootstrap()).ack("broker").args(&["--create-topics"]);
    let bridge = builder.settings(settings).start();
    bridge.warm_up(APP);
    kafka.node(1).freeze();
    bridge
}

/// Stops one that waits for a frozen Kafka, and thaws Kafka while it does.
fn stop_and_thaw(mut bridge: Bridge, kafka: &mut Kafka) -> Stopped {
    bridge.signal(Signal::TERM);
    wait::until("it drains", || bridge.metrics()[r#"callbridge_phase{phase="draining"}"#] == 1.0);
    // Nothing shows that it does not give up: it gets three times as long as one that need not deliver waits.
    thread::sleep(Duration::from_secs(1));
    kafka.node(1).thaw();
    let stopped = bridge.wait();
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    assert_balanced(&stopped);
    stopped
}

#[test]
fn in_journal_mode_a_frozen_kafka_does_not_hold_up_the_stop() {
    let Some(mut kafka) = Kafka::start(1) else { return };
    let (folder, dir) = journal::folder();
    let settings = journal::builder(&kafka.bootstrap(), "stop-journal", "")
        .variable("CALLBRIDGE_DRAIN_SECONDS", "30")
        .variable("CALLBRIDGE_CALLBACKS_KEEP_ACCEPTING_MS", "100");
    let mut bridge = settings.start_in(&dir);
    freeze_and_take(&mut kafka, &bridge);
    let begin = clock::monotonic();
    bridge.signal(Signal::TERM);
    let stopped = bridge.wait();
    let took = begin.elapsed();
    // A second on an idle machine.
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    assert_balanced(&stopped);
    assert_eq!((stopped.ledger["delivered"], stopped.ledger["waiting"]), (1, TAKEN), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("the next start delivers them"), "{}", stopped.stderr);

    kafka.node(1).thaw();
    let bridge = settings.start_in(&dir);
    wait::until("the rest is delivered", || bridge.metrics()[DELIVERED] == TAKEN as f64);
    assert_eq!(bridge.stop_in_order().ledger["recovered"], TAKEN);
    drop(folder);
}

#[test]
fn a_journal_that_goes_with_the_machine_waits_for_kafka_at_the_stop() {
    if real::found_or_skipped(mounted::allowed()).is_none() {
        return;
    }
    let (_memory, dir) = mounted("tmpfs", "size=64m");
    assert_waits_for_kafka_at_the_stop(&dir, "");
}

#[test]
fn a_journal_that_is_set_not_to_be_persistent_waits_for_kafka_at_the_stop() {
    let (_folder, dir) = journal::folder();
    assert_waits_for_kafka_at_the_stop(&dir, "persistent = false");
}

/// Of a journal in `dir` with these settings.
fn assert_waits_for_kafka_at_the_stop(dir: &Path, more: &str) {
    let Some(mut kafka) = Kafka::start(1) else { return };
    let settings = journal::builder(&kafka.bootstrap(), "stop-memory", more)
        .variable("CALLBRIDGE_DRAIN_SECONDS", "60")
        .variable("CALLBRIDGE_CALLBACKS_KEEP_ACCEPTING_MS", "100");
    let bridge = settings.start_in(dir);
    freeze_and_take(&mut kafka, &bridge);
    let stopped = stop_and_thaw(bridge, &mut kafka);
    assert_eq!((stopped.ledger["delivered"], stopped.ledger["waiting"]), (TAKEN + 1, 0));
}

#[test]
fn a_persistent_journal_in_memory_does_not_wait_for_kafka_at_the_stop() {
    if real::found_or_skipped(mounted::allowed()).is_none() {
        return;
    }
    let Some(mut kafka) = Kafka::start(1) else { return };
    let (_memory, dir) = mounted("tmpfs", "size=64m");
    let settings = journal::builder(&kafka.bootstrap(), "stop-kept", "persistent = true")
        .variable("CALLBRIDGE_DRAIN_SECONDS", "60");
    let bridge = settings.start_in(&dir);
    kafka.node(1).freeze();
    assert_eq!(post(bridge.callbacks, 0).unwrap().status, 200);
    let begin = clock::monotonic();
    let stopped = bridge.stop_and_wait();
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert_eq!((stopped.code, stopped.ledger["waiting"]), (0, 1), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("the next start delivers them"), "{}", stopped.stderr);
}

#[test]
fn in_broker_mode_callbacks_that_were_refused_do_not_hold_up_the_stop() {
    let Some(mut kafka) = Kafka::start(1) else { return };
    let bridge = start_and_freeze(&mut kafka);
    let callbacks = bridge.callbacks;
    let refused: Vec<_> = (0..TAKEN).map(|sequence| thread::spawn(move || post(callbacks, sequence))).collect();
    for response in refused {
        assert_eq!(response.join().unwrap().unwrap().status, 503);
    }
    let begin = clock::monotonic();
    let stopped = bridge.stop_and_wait();
    let took = begin.elapsed();
    // A second on an idle machine.
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!((stopped.code, stopped.ledger["lost"], stopped.ledger["waiting"]), (0, TAKEN, 0), "{}", stopped.stderr);
    assert_balanced(&stopped);
}

#[test]
fn in_broker_mode_a_decision_that_is_not_published_yet_is_waited_for_at_the_stop() {
    const BEFORE: &str = "OfficialAccount.CallbackBeforeAddSubscriber";
    let Some(mut kafka) = Kafka::start(1) else { return };
    let bridge = start_and_freeze(&mut kafka);
    let question = br##"{"Official_Account":"@TOA#_a","SubscribeAccountList":[{"Subscriber_Account":"a"}]}"##;
    let mut client = Client::connect(bridge.callbacks).unwrap();
    assert_eq!(client.post(&http::callback_target(APP, BEFORE), question).unwrap().status, 200);
    assert_eq!(stop_and_thaw(bridge, &mut kafka).ledger["delivered"], 1);
}

#[test]
fn while_the_journal_is_read_probes_are_answered_and_a_signal_ends_it() {
    let Some(disk) = PowerCut::mount(8) else { return };
    let settings = journal::builder(&ports::nobody(), "starting", "");
    // It syncs the directory when it has read what is there.
    disk.freeze_syncs();
    let mut bridge = settings.launch_in(disk.path());
    wait::until("it reads the journal", || disk.frozen_syncs() > 0);
    let mut admin = None;
    wait::until("it says where it listens", || {
        let stderr = bridge.stderr();
        let lines = stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        admin = lines.filter_map(|line| line["fields"]["admin"].as_str().map(str::to_owned)).next_back();
        admin.is_some()
    });
    let admin = admin.unwrap();
    let page = |path: &str| {
        let mut client = Client::connect(admin.parse().unwrap()).unwrap();
        let response = client.request("GET", path, &[], b"").unwrap();
        (response.status, response.text())
    };
    assert_eq!(page("/livez"), (200, "alive\n".to_owned()));
    assert_eq!(page("/readyz"), (503, "the journal is being read\n".to_owned()));
    bridge.signal(Signal::TERM);
    wait::until("it is heard", || bridge.stderr().contains("stopped before the start was complete"));
    // The kernel lets no process go whose sync waits.
    disk.thaw_syncs();
    let stopped = bridge.wait();
    assert_eq!((stopped.code, stopped.is_balanced(), stopped.ledger["received"]), (0, true, 0), "{stopped:?}");
}

#[test]
fn a_second_signal_ends_it_at_once_with_the_ledger() {
    let settings = "drain_seconds = 600\n[callbacks]\nkeep_accepting_ms = 500000\n";
    let mut bridge = embedded().settings(settings).start();
    assert_eq!(post(bridge.callbacks, 1).unwrap().status, 200);
    bridge.signal(Signal::TERM);
    wait::until("it says that it stops", || readiness(&bridge).1 == "stopping\n");
    bridge.signal(Signal::INT);
    let stopped = bridge.wait();
    assert_eq!(stopped.code, 1, "{}", stopped.stderr);
    assert_balanced(&stopped);
    assert_eq!(stopped.ledger["received"], 1);
    assert!(stopped.stderr.contains("a second signal: ending at once"), "{}", stopped.stderr);
}

#[test]
fn sigint_stops_it_as_sigterm_does() {
    let mut bridge = embedded().start();
    assert_eq!(post(bridge.callbacks, 1).unwrap().status, 200);
    bridge.signal(Signal::INT);
    let stopped = bridge.wait();
    assert_eq!((stopped.code, stopped.ledger["delivered"], stopped.ledger["waiting"]), (0, 1, 0), "{}", stopped.stderr);
}

#[test]
fn not_ready_from_the_signal_on_but_answering_until_those_who_send_have_noticed() {
    let settings = "drain_seconds = 60\n[callbacks]\nkeep_accepting_ms = 3000\n";
    let mut bridge = embedded().settings(settings).start();
    assert_eq!(readiness(&bridge), (200, "ready\n".to_owned()));
    let mut kept_alive = Client::connect(bridge.callbacks).unwrap();
    let target = http::callback_target(APP, load::COMMAND);
    let response = kept_alive.post(&target, load::body("@TOA#_a", 1).as_bytes()).unwrap();
    assert_eq!((response.status, response.header("connection")), (200, None));

    bridge.signal(Signal::TERM);
    wait::until("it is not ready", || readiness(&bridge) == (503, "stopping\n".to_owned()));
    for response in
        [kept_alive.post(&target, load::body("@TOA#_a", 2).as_bytes()).unwrap(), post(bridge.callbacks, 3).unwrap()]
    {
        assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    }
    assert!(kept_alive.is_closed());
    let stopped = bridge.wait();
    assert_eq!((stopped.code, stopped.ledger["delivered"], stopped.ledger["waiting"]), (0, 3, 0), "{}", stopped.stderr);
}

#[test]
fn idle_connections_end_with_it_and_do_not_hold_it_up() {
    let settings = "drain_seconds = 600\n[callbacks]\nkeep_accepting_ms = 100\n";
    let mut bridge = embedded().settings(settings).start();
    let mut never_used = Client::connect(bridge.callbacks).unwrap();
    let mut used = Client::connect(bridge.callbacks).unwrap();
    let target = http::callback_target(APP, load::COMMAND);
    assert_eq!(used.post(&target, load::body("@TOA#_a", 1).as_bytes()).unwrap().status, 200);
    bridge.signal(Signal::TERM);
    let stopped = bridge.wait();
    assert_eq!((stopped.code, stopped.ledger["delivered"]), (0, 1), "{}", stopped.stderr);
    assert!(used.is_closed() && never_used.is_closed());
}

#[test]
fn a_stop_before_it_was_ever_ready_answers_those_who_wait_and_ends() {
    const BEFORE: &str = "OfficialAccount.CallbackBeforeAddSubscriber";
    const QUESTION: &[u8] = br##"{"Official_Account":"@TOA#_a","SubscribeAccountList":[{"Subscriber_Account":"a"}]}"##;
    let [callbacks, admin, nobody] = ports::free::<3>();
    let [callbacks, admin] = [callbacks, admin].map(|port| ([127, 0, 0, 1], port).into());
    let brokers = format!("127.0.0.1:{nobody}");
    let settings = "drain_seconds = 600\n[callbacks]\nkeep_accepting_ms = 100\n";
    let builder = Bridge::builder().brokers(&brokers).ack("broker").settings(settings);
    let mut bridge = builder.listening_on(callbacks, admin).launch();
    wait::until("it listens", || Client::connect(callbacks).is_ok() && Client::connect(admin).is_ok());
    let mut client = Client::connect(callbacks).unwrap();
    assert_eq!(client.post(&http::callback_target(APP, BEFORE), QUESTION).unwrap().status, 200);
    let waits = thread::spawn(move || post(callbacks, 1).unwrap());
    wait::until("it waits", || bridge.metrics()[r#"callbridge_callbacks_waiting{where="request"}"#] >= 1.0);

    bridge.signal(Signal::TERM);
    let stopped = bridge.wait();
    assert_eq!(waits.join().unwrap().status, 503);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    assert_balanced(&stopped);
    assert_eq!((stopped.ledger["lost"], stopped.ledger["waiting"], left_behind(&stopped)), (1, 1, vec![1]));
}

#[test]
fn as_process_1_it_stops_in_order() {
    let allowed = Command::new("unshare").args(["--pid", "--fork", "--kill-child", "true"]).output();
    let allowed = allowed.is_ok_and(|output| output.status.success()).then_some(());
    if real::found_or_skipped(allowed.ok_or_else(|| "unshare may not make process 1".to_owned())).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--sdk-app-id", APP];
    let serve = [&serve[..], &["--embedded-broker", "--ack", "broker"]].concat();
    let args = [&["--pid", "--fork", "--kill-child", env!("CARGO_BIN_EXE_callbridge")], &serve[..]].concat();
    let mut unshare = Process::start(folder.path(), "unshare", &args);
    wait::until("it is ready", || unshare.stdout().contains("admin on http"));
    let child = only_child(unshare.pid());
    let inside = fs::read_to_string(format!("/proc/{}/status", child.as_raw_pid())).unwrap();
    assert!(inside.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")), "{inside}");

    rustix::process::kill_process(child, Signal::TERM).unwrap();
    assert_eq!(unshare.wait(Duration::from_secs(60)), 0, "{}", unshare.stderr());
    assert!(unshare.stdout().lines().last().unwrap().starts_with("ledger received=0 "), "{}", unshare.stdout());
}

fn only_child(parent: Pid) -> Pid {
    let pid = parent.as_raw_pid();
    let children = fs::read_to_string(Path::new("/proc").join(format!("{pid}/task/{pid}/children"))).unwrap();
    children.trim().parse().ok().and_then(Pid::from_raw).expect("one child")
}
