//! Limits of the system: file descriptors that are few, and core dumps that would hold secrets.

use std::fs;
use std::net::TcpStream;

use rustix::process::Signal;
use serde_json::Value;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::http;
use crate::support::http::Client;
use crate::support::load;

const CONNECTIONS: &str = "callbridge_connections";

/// A shell that does this first, and then lets one peer have all connections.
fn after(script: &str) -> [String; 4] {
    let any_peer = "CALLBRIDGE_CALLBACKS_CONNECTIONS_PER_PEER_MAX=10000".to_owned();
    [any_peer, "sh".to_owned(), "-c".to_owned(), format!(r#"{script} && exec "$0" "$@""#)]
}

fn post(bridge: &Bridge) -> u16 {
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let target = http::callback_target(APP, load::COMMAND);
    client.post(&target, load::body("@a", 0).as_bytes()).unwrap().status
}

fn start_after(command: &str) -> Bridge {
    Bridge::builder().embedded().ack("memory").args(&["--workers", "2"]).under(&after(command)).start()
}

fn warnings(stderr: &str) -> Vec<Value> {
    let lines = stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["fields"]["message"].as_str().unwrap().contains("RLIMIT_NOFILE")).collect()
}

#[test]
fn a_low_soft_limit_of_descriptors_is_raised_to_the_hard_one() {
    let bridge = start_after("ulimit -Sn 128");
    let _silent: Vec<TcpStream> = (0..200).map(|_nth| TcpStream::connect(bridge.callbacks).unwrap()).collect();
    bridge.metrics_until(|metrics| metrics[CONNECTIONS] == 200.0);
    assert_eq!((bridge.admin_page("/livez").0, post(&bridge)), (200, 200));
    assert_eq!(bridge.metrics()["callbridge_accept_errors_total"], 0.0);
    let stopped = bridge.stop_in_order();
    assert!(stopped.stderr.lines().all(|line| !line.contains("RLIMIT_NOFILE")), "{}", stopped.stderr);
}

#[test]
fn under_a_low_hard_limit_connections_leave_descriptors_for_the_rest() {
    const LEFT: f64 = 511.0;
    let bridge = start_after("ulimit -n 1000");
    let _silent: Vec<TcpStream> = (0..800).map(|_nth| TcpStream::connect(bridge.callbacks).unwrap()).collect();
    bridge.metrics_until(|metrics| metrics[CONNECTIONS] == LEFT);
    let probes: Vec<TcpStream> = (0..64).map(|_nth| TcpStream::connect(bridge.admin).unwrap()).collect();
    assert_eq!(bridge.admin_page("/livez"), (200, "alive\n".to_owned()));
    drop(probes);
    assert_eq!(bridge.metrics()["callbridge_accept_errors_total"], 0.0);
    let warnings = warnings(&bridge.stop_in_order().stderr);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let of = |field: &str| warnings[0]["fields"][field].as_f64();
    let [configured, left, limit] = ["configured", "connections_max", "limit"].map(of);
    assert_eq!((configured, left, limit), (Some(10_000.0), Some(LEFT), Some(1000.0)));
}

#[test]
fn the_files_of_the_journal_are_kept_back_from_connections() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let builder = Bridge::builder().embedded().args(&["--workers", "2"]);
    let builder = builder.variable("CALLBRIDGE_JOURNAL_QUOTA_BYTES", "1600000000").under(&after("ulimit -n 1000"));
    let bridge = builder.start_in(folder.path());
    let warnings = warnings(&bridge.stop_in_order().stderr);
    // 95 segments of 16 MiB.
    assert_eq!(warnings[0]["fields"]["connections_max"].as_f64(), Some(511.0 - 95.0));
}

#[test]
fn a_crash_leaves_no_core_dump() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut bridge = start_after(&format!("ulimit -c unlimited && cd {}", folder.path().display()));
    bridge.signal(Signal::ABORT);
    assert_eq!(bridge.wait().code, 128 + 6);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
