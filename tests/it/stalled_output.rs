//! Streams that nobody reads: a full stderr or stdout blocks nothing that serves, delivers or stops.

use std::time::Duration;

use callbridge::clock;
use rustix::process::Signal;
use serde_json::Value;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::bridge::BridgeBuilder;
use crate::support::http;
use crate::support::http::Client;
use crate::support::journal;
use crate::support::kafka::Kafka;
use crate::support::load;
use crate::support::pipe::FullPipe;
use crate::support::ports;
use crate::support::powercut::PowerCut;
use crate::support::wait;

const DROPPED: &str = "callbridge_log_lines_dropped_total";
/// A line for each connection that ends and each callback that is refused.
const CHATTY: &str = "log.filter = \"callbridge=debug\"\n";
/// Much longer than a stop that waits for nobody takes, on a busy machine.
const PROMPTLY: Duration = Duration::from_secs(30);

fn embedded() -> BridgeBuilder {
    Bridge::builder().embedded().ack("memory")
}

/// Posts `count` callbacks on one connection, each answered with `status`.
fn post(bridge: &Bridge, app_id: &str, count: u64, status: u16) {
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let target = http::callback_target(app_id, load::COMMAND);
    for sequence in 0..count {
        assert_eq!(client.post(&target, load::body("@a", sequence).as_bytes()).unwrap().status, status);
    }
}

/// Posts `count` callbacks of which each makes a line of the log.
fn refuse(bridge: &Bridge, count: u64) {
    post(bridge, "1", count, 403);
}

fn message(line: &Value) -> &str {
    line["fields"]["message"].as_str().unwrap()
}

#[test]
fn with_a_full_stderr_it_accepts_answers_and_stops() {
    let stderr = FullPipe::new();
    let builder = embedded().settings(CHATTY).settings("callbacks.keep_accepting_ms = 0");
    let mut bridge = builder.under(&stderr.as_stderr()).start();
    // Each a connection, so that the accepting thread logs too.
    for _nth in 0..200 {
        refuse(&bridge, 1);
        post(&bridge, APP, 1, 200);
    }
    assert_eq!(bridge.admin_page("/readyz"), (200, "ready\n".to_owned()));
    let begin = clock::monotonic();
    bridge.signal(Signal::TERM);
    let stopped = bridge.wait();
    assert!(begin.elapsed() < PROMPTLY, "{:?}", begin.elapsed());
    assert!(stopped.code == 0 && stopped.is_balanced(), "{stopped:?}");
    assert_eq!((stopped.ledger["delivered"], stopped.ledger["refused"]), (200, 200));
}

#[test]
fn with_a_full_stderr_a_mistake_in_the_configuration_ends_it_with_78() {
    let stderr = FullPipe::new();
    let bridge = embedded().settings("callbacks.path = 1").under(&stderr.as_stderr()).launch();
    assert_eq!(bridge.wait().code, 78);
}

#[test]
fn with_full_streams_a_second_signal_ends_it_at_once() {
    let [callbacks, admin] = ports::free().map(|port| ([127, 0, 0, 1], port).into());
    let (stdout, stderr) = (FullPipe::new(), FullPipe::new());
    let builder = embedded().settings("drain_seconds = 600\n[callbacks]\nkeep_accepting_ms = 500000\n");
    let builder = builder.under(&stdout.as_stdout()).under(&stderr.as_stderr());
    let mut bridge = builder.listening_on(callbacks, admin).launch();
    let is = |page: (u16, &str)| {
        let asked = Client::connect(admin).and_then(|mut client| client.request("GET", "/readyz", &[], b""));
        asked.is_ok_and(|response| (response.status, response.text().as_str()) == page)
    };
    wait::until("it is ready", || is((200, "ready\n")));
    post(&bridge, APP, 1, 200);
    bridge.signal(Signal::TERM);
    wait::until("it stops", || is((503, "stopping\n")));
    let begin = clock::monotonic();
    bridge.signal(Signal::INT);
    assert_eq!(bridge.wait().code, 1);
    assert!(begin.elapsed() < PROMPTLY, "{:?}", begin.elapsed());
}

#[test]
fn dropped_log_lines_are_counted_and_reported_once() {
    const LINES: u64 = 8000;
    let mut stderr = FullPipe::new();
    let bridge = embedded().settings(CHATTY).under(&stderr.as_stderr()).start();
    refuse(&bridge, LINES);
    let dropped = bridge.metrics()[DROPPED];
    assert!(dropped > 0.0 && bridge.resident_bytes() < 200 << 20, "{dropped}");

    let mut log = String::new();
    wait::until("the gap is reported", || {
        log += &stderr.read();
        log.ends_with('\n') && log.contains("log lines were dropped")
    });
    refuse(&bridge, 1);
    let stopped = bridge.stop_in_order();
    assert_eq!(stopped.ledger["refused"], LINES + 1);
    log += &stderr.read();
    let lines: Vec<Value> =
        log.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect();
    let gaps: Vec<&Value> = lines.iter().filter(|line| message(line) == "log lines were dropped").collect();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((gaps[0]["level"].as_str(), gaps[0]["fields"]["lines"].as_f64()), (Some("WARN"), Some(dropped)));

    let refused: Vec<&str> =
        lines.iter().filter(|line| message(line) == "refused").map(|it| it["timestamp"].as_str().unwrap()).collect();
    assert!(refused.is_sorted(), "the lines are out of order");
    let (sent, seen) = ((LINES + 1) as f64, refused.len() as f64);
    assert!(seen < sent && seen + dropped >= sent, "{seen} and {dropped} of {sent}");
    assert_eq!(message(lines.last().unwrap()), "stopping", "what came behind the gap is there");
}

#[test]
fn with_a_full_stderr_it_delivers_when_kafka_comes_back() {
    const TAKEN: u64 = 20;
    let Some(mut kafka) = Kafka::start(1) else { return };
    let stderr = FullPipe::new();
    let brokers = kafka.bootstrap();
    let builder = Bridge::builder().brokers(&brokers).args(&["--create-topics"]).ack("memory");
    let bridge = builder.under(&stderr.as_stderr()).start();
    post(&bridge, APP, 1, 200);
    bridge.metrics_until(|metrics| metrics["callbridge_callbacks_delivered_total"] == 1.0);
    kafka.node(1).kill();
    wait::until("the outage is seen", || bridge.admin_page("/readyz").1.contains("no kafka broker"));
    post(&bridge, APP, TAKEN, 200);
    kafka.node(1).restart();
    assert_eq!(bridge.admin_page("/livez"), (200, "alive\n".to_owned()));
    bridge.metrics_until(|metrics| metrics["callbridge_callbacks_delivered_total"] == (1 + TAKEN) as f64);
    assert_eq!(bridge.stop_in_order().ledger["lost"], 0);
}

#[test]
fn with_a_full_stdout_it_serves_and_stops_and_logs_the_ledger() {
    let [callbacks, admin] = ports::free().map(|port| ([127, 0, 0, 1], port).into());
    let stdout = FullPipe::new();
    let builder = embedded().settings("callbacks.keep_accepting_ms = 0").under(&stdout.as_stdout());
    let mut bridge = builder.listening_on(callbacks, admin).launch();
    wait::until("it is ready", || bridge.stderr().contains("\"ready\""));
    post(&bridge, APP, 1, 200);
    bridge.signal(Signal::TERM);
    let stopped = bridge.wait();
    assert_eq!(stopped.code, 0, "{stopped:?}");
    let unprinted: Vec<&str> =
        stopped.stderr.lines().filter(|line| line.contains("stdout could not be written")).collect();
    assert!(unprinted.last().is_some_and(|line| line.contains("ledger received=1 ")), "{unprinted:#?}");
}

#[test]
fn with_a_full_stderr_a_failed_disk_ends_it_with_74() {
    let Some(disk) = PowerCut::mount(9) else { return };
    let stderr = FullPipe::new();
    let brokers = ports::nobody();
    let settings = journal::builder(&brokers, "stalled-disk", "");
    let mut bridge = settings.clone().under(&stderr.as_stderr()).start_in(disk.path());
    let target = http::callback_target(APP, load::COMMAND);
    // Some syncs are of files that nothing depends on yet, and are tried again.
    wait::until("it ends by itself", || {
        disk.fail_next_sync();
        // Each callback is synced, or is not answered any more.
        let _end = Client::connect(bridge.callbacks).and_then(|mut client| client.post(&target, b"{}"));
        bridge.exit_code().is_some()
    });
    assert_eq!(bridge.wait().code, journal::DISK_FAILED);
}

#[test]
fn a_stderr_that_nobody_has_open_costs_nothing_but_the_lines() {
    let stderr = FullPipe::new();
    let bridge = embedded().settings(CHATTY).under(&stderr.as_stderr()).start();
    drop(stderr);
    refuse(&bridge, 10);
    post(&bridge, APP, 1, 200);
    bridge.metrics_until(|metrics| metrics[DROPPED] >= 10.0);
    assert_eq!(bridge.stop_in_order().ledger["delivered"], 1);
}
