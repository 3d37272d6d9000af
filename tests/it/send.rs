//! `callbridge send`, against a running callbridge and against servers that answer in other ways.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use callbridge::command;
use rustix::process::Signal;
use serde_json::Value;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::files::Files;
use crate::support::openssl::Pair;
use crate::support::reader::Reader;
use crate::support::reader::Record;
use crate::support::stub::Stub;

const MINUTE: Duration = Duration::from_secs(60);

/// What came out of a run.
#[derive(Debug)]
struct Sent {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Sent {
    /// The report, which is all of stdout. Its sums are right.
    fn report(&self) -> Value {
        let report: Value = serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let sum = |name: &str| report[name].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
        let count = |name: &str| report[name].as_u64().unwrap();
        assert_eq!(count("due"), count("answered") + count("unanswered"), "{report}");
        assert_eq!((count("answered"), count("unanswered")), (sum("status_codes"), sum("failures")), "{report}");
        let rate = report["rate"].as_f64().unwrap() * report["sending_seconds"].as_f64().unwrap();
        assert!((rate - report["sent"].as_f64().unwrap()).abs() < 0.5, "{report}");
        report
    }
}

/// Runs `callbridge send` with more arguments.
fn send(url: &str, args: &[&str]) -> Sent {
    run(&[&["--url", url, "--sdk-app-id", APP], args].concat())
}

fn run(args: &[&str]) -> Sent {
    let output = Command::new(env!("CARGO_BIN_EXE_callbridge")).arg("send").args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Sent { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn url(bridge: &Bridge) -> String {
    format!("http://{}/", bridge.callbacks)
}

fn id(record: &Record) -> String {
    let event: Value = serde_json::from_slice(&record.value).unwrap();
    event["id"].as_str().unwrap().to_owned()
}

#[test]
fn samples_of_every_command_are_signed_and_accepted_each_as_an_event_of_its_own() {
    let files = Files::new();
    let token = files.write("token", "the-first-token-0123456789\nanother-token\n");
    let bridge = Bridge::builder().embedded().ack("memory").args(&["--token-file", &token]).all_topics().start();
    let count = 3 * command::Command::COUNT;
    let signed = ["--token-file", &token, "--count", &count.to_string(), "--rate", "2000", "--json"];
    let sent = send(&url(&bridge), &signed);
    let report = sent.report();
    assert_eq!(sent.code, Some(0), "{sent:?}");
    assert_eq!((report["sent"].as_u64(), report["errors"].as_u64()), (u64::try_from(count).ok(), Some(0)), "{report}");
    assert_eq!((&report["status_codes"]["200"], &report["error_codes"]["0"]), (&count.into(), &count.into()));

    let topics: Vec<String> =
        command::Command::all().map(|command| format!("tencent-chat.{}", command.name())).collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let records = Reader::open(&bridge.embedded_kafka(), &topics).collect(count, MINUTE);
    let ids: BTreeSet<String> = records.iter().map(id).collect();
    assert_eq!(ids.len(), count);
    for topic in topics {
        assert_eq!(records.iter().filter(|record| record.topic == topic).count(), 3, "{topic}");
    }

    let unsigned = send(&url(&bridge), &["--count", "5", "--json", "--fail-if", "errors>0"]);
    assert_eq!((unsigned.code, &unsigned.report()["status_codes"]["403"]), (Some(1), &5.into()), "{unsigned:?}");
    let stopped = bridge.stop_in_order();
    assert_eq!((stopped.ledger["delivered"], stopped.ledger["refused"]), (u64::try_from(count).unwrap(), 5));
}

#[test]
fn a_duplicate_is_the_same_event_and_a_replayed_event_keeps_its_id() {
    let bridge = Bridge::builder().embedded().ack("memory").all_topics().start();
    let command = "Group.CallbackAfterGroupFull";
    let sent = send(&url(&bridge), &["--command", command, "--count", "10", "--duplicate", "--json"]);
    assert_eq!((sent.code, &sent.report()["sent"]), (Some(0), &20.into()), "{sent:?}");
    let reader = Reader::open(&bridge.embedded_kafka(), &[&format!("tencent-chat.{command}")]);
    let records = reader.collect(20, MINUTE);
    let ids: BTreeSet<String> = records.iter().map(id).collect();
    assert_eq!(ids.len(), 10);

    let files = Files::new();
    let lines: Vec<&str> = records.iter().map(|record| str::from_utf8(&record.value).unwrap()).collect();
    let events = files.write("events", &format!("{}\n\n{}\n", lines[0], lines[19]));
    let replayed = send(&url(&bridge), &["--replay", &events, "--json"]);
    let report = replayed.report();
    assert_eq!((replayed.code, &report["sent"], &report["connections"]), (Some(0), &2.into(), &1.into()));
    // They may be in different partitions, which are read in any order.
    let again: BTreeSet<String> = reader.collect(2, MINUTE).iter().map(id).collect();
    assert_eq!(again, BTreeSet::from([id(&records[0]), id(&records[19])]));
    bridge.stop_in_order();
}

#[test]
fn callbacks_are_sent_at_the_rate_that_was_asked_for() {
    let bridge = Bridge::light("");
    let sent = send(&url(&bridge), &["--rate", "50", "--seconds", "4", "--json"]);
    let report = sent.report();
    assert_eq!((sent.code, &report["model"], &report["sent"]), (Some(0), &"open".into(), &200.into()), "{report}");
    let (rate, slowest) = (report["rate"].as_f64().unwrap(), report["latencies_ms"]["max"].as_f64().unwrap());
    // A response that is later than that on a busy machine leaves no connection free.
    let least = 200.0 / (4.0 + slowest / 1e3);
    assert!(rate >= least.min(49.5) && rate <= 50.5, "{report}");
    bridge.stop_in_order();
}

#[test]
fn a_server_that_is_frozen_for_3_s_shows_in_p99_9_and_as_late() {
    let mut bridge = Bridge::light("");
    let url = url(&bridge);
    let args = ["--rate", "50", "--seconds", "6", "--connections", "4", "--json", "--fail-if", "p99.9>=2s"];
    let sending = thread::spawn(move || send(&url, &args));
    let received = |metrics: &std::collections::BTreeMap<String, f64>| {
        let of_commands = metrics.iter().filter(|(name, _)| name.starts_with("callbridge_callbacks_received_total"));
        of_commands.map(|(_, count)| count).sum::<f64>()
    };
    bridge.metrics_until(|metrics| received(metrics) >= 50.0);
    bridge.signal(Signal::STOP);
    thread::sleep(Duration::from_secs(3));
    bridge.signal(Signal::CONT);
    let sent = sending.join().unwrap();
    let report = sent.report();
    assert_eq!((sent.code, &report["answered"]), (Some(1), &300.into()), "{sent:?}");
    assert!(report["latencies_ms"]["p99.9"].as_f64().unwrap() >= 2_900.0, "{report}");
    // 50 came due in the first second of the freeze, 2 s or more before its end. Only 4 of them could be sent, over the 4 connections.
    assert!(report["late"].as_u64().unwrap() >= 40, "{report}");
    assert!(sent.stderr.starts_with("callbridge send: --fail-if p99.9>=2s holds: "), "{sent:?}");
}

#[test]
fn a_server_that_never_answers_is_given_up_and_nothing_answered_is_a_failure() {
    // The system takes the connections.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let args = ["--rate", "10", "--seconds", "1", "--connections", "2", "--json"];
    let sent = send(&url, &args);
    let report = sent.report();
    assert_eq!((sent.code, &report["due"], &report["unanswered"]), (Some(1), &10.into(), &10.into()), "{sent:?}");
    assert!(report["latencies_ms"]["p50"].as_f64().unwrap() >= 9_900.0, "{report}");
    assert_eq!(sent.stderr, "callbridge send: there was no response\n");

    let gone = format!("http://{}/", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let refused = send(&gone, &["--count", "1"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    let expected =
        format!("callbridge send: connect to {}: Connection refused (os error 111)\n", gone.trim_end_matches('/'));
    assert_eq!(refused.stderr, expected);
}

#[test]
fn a_connection_that_breaks_fails_its_callback_and_the_next_has_a_new_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _read = stream.read(&mut [0; 16]).unwrap();
        }
    });
    let sent = send(&url, &["--count", "5", "--connections", "1", "--json"]);
    let report = sent.report();
    assert_eq!((sent.code, &report["sent"], &report["errors"]), (Some(1), &5.into(), &5.into()), "{report}");
}

#[test]
fn a_connection_that_the_server_closed_while_it_was_idle_fails_no_callback() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _read = stream.read(&mut [0; 16 * 1024]).unwrap();
            let body = r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#;
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    let sent = send(&url, &["--count", "5", "--rate", "5", "--connections", "1", "--json", "--fail-if", "errors>0"]);
    assert_eq!((sent.code, &sent.report()["error_codes"]["0"]), (Some(0), &5.into()), "{sent:?}");
}

#[test]
fn what_tencent_cannot_use_is_an_error_whatever_the_status() {
    for (status, code) in [("200 OK", "200"), ("503 Service Unavailable", "503")] {
        let stub = Stub::start(status);
        let url = format!("http://{}/in", stub.address);
        let sent = send(&url, &["--count", "8", "--rate", "1000", "--json"]);
        let report = sent.report();
        assert_eq!((sent.code, &report["errors"], &report["status_codes"][code]), (Some(0), &8.into(), &8.into()));
        assert_eq!((&report["error_codes"], &report["throughput"]), (&serde_json::json!({}), &0.0.into()));
        assert_eq!(stub.bodies().len(), 8);
        assert_eq!(send(&url, &["--count", "1", "--fail-if", "errors>=100%"]).code, Some(1));
        assert_eq!(send(&url, &["--count", "1", "--fail-if", "unanswered>0"]).code, Some(0));
    }
}

#[test]
fn the_report_names_the_model_and_goes_to_stdout_and_a_file() {
    let bridge = Bridge::light("");
    let files = Files::new();
    let path = files.write("report.json", "");
    let open = send(&url(&bridge), &["--count", "4", "--json", &path]);
    let expected =
        format!("open model: 100 callbacks a second, 16 connections, http://{}\nsent 4 in ", bridge.callbacks);
    assert!(open.stdout.starts_with(&expected), "{open:?}");
    assert!(open.stdout.contains("\nanswered after 2 s: 0\nerrors: 0\nstatuses: 200 4\nErrorCodes: 0 4\n"), "{open:?}");
    let report: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!((&report["model"], &report["wanted_rate"], &report["sent"]), (&"open".into(), &100.0.into(), &4.into()));

    let closed = send(&url(&bridge), &["--closed", "--seconds", "0.5", "--connections", "2"]);
    let expected = format!("closed model: as fast as answered, 2 connections, http://{}; its", bridge.callbacks);
    assert!(closed.code == Some(0) && closed.stdout.starts_with(&expected), "{closed:?}");
    let closed = send(&url(&bridge), &["--closed", "--count", "7", "--json"]);
    let report = closed.report();
    assert_eq!(
        (&report["model"], &report["wanted_rate"], &report["sent"]),
        (&"closed".into(), &Value::Null, &7.into())
    );
    bridge.stop_in_order();
}

#[test]
fn callbacks_go_to_another_machine_only_with_yes_to_its_host() {
    let foreign = send("http://192.0.2.1:8080/", &["--count", "1"]);
    assert_eq!(foreign.code, Some(2));
    assert!(foreign.stderr.ends_with(
        "192.0.2.1 is not on this machine (192.0.2.1): give --yes-to 192.0.2.1 if callbacks may be sent there\n"
    ));
    assert_eq!(send("http://192.0.2.1/", &["--yes-to", "192.0.2.2"]).code, Some(2));
    assert_eq!(send("https://192.0.2.1/", &["--yes-to", "192.0.2.1", "--insecure"]).code, Some(2));
    let bridge = Bridge::light("");
    let port = bridge.callbacks.port();
    // It leads to this machine, but nothing says so.
    let unspecified = format!("http://0.0.0.0:{port}/");
    assert_eq!(send(&unspecified, &["--count", "1"]).code, Some(2));
    assert_eq!(send(&unspecified, &["--count", "1", "--yes-to", "0.0.0.0"]).code, Some(0));
    assert_eq!(send(&format!("http://127.1.2.3:{port}/"), &["--count", "1"]).code, Some(1), "nobody listens there");
    for target in ["/a?b=c", "?b=c", ""] {
        assert_eq!(send(&format!("http://localhost:{port}{target}"), &["--count", "1"]).code, Some(0), "{target}");
    }
    assert_eq!(bridge.stop_in_order().ledger["received"], 4);
}

#[test]
fn callbacks_go_over_tls_to_servers_whose_certificate_is_good() {
    let Some(pair) = Pair::make("server") else { return };
    let (certificate, key) = (pair.certificate.to_str().unwrap(), pair.key.to_str().unwrap());
    let bridge =
        Bridge::light(&format!("callbacks.tls.certificate_file = {certificate:?}\ncallbacks.tls.key_file = {key:?}"));
    let url = format!("https://{}/", bridge.callbacks);
    let good = send(&url, &["--ca", certificate, "--count", "40", "--rate", "1000", "--json"]);
    assert_eq!((good.code, &good.report()["status_codes"]["200"]), (Some(0), &40.into()), "{good:?}");
    assert_eq!(send(&url, &["--insecure", "--count", "3"]).code, Some(0));
    let unknown = Pair::make("other").unwrap();
    let bad = send(&url, &["--ca", unknown.certificate.to_str().unwrap(), "--count", "1"]);
    assert!(bad.code == Some(1) && bad.stderr.contains("invalid peer certificate"), "{bad:?}");
    let none = send(&url, &["--ca", key, "--count", "1"]);
    assert!(none.code == Some(2) && none.stderr.contains("the file has no CERTIFICATE"), "{none:?}");
    assert_eq!(bridge.stop_in_order().ledger["received"], 43);
}

#[test]
fn bad_arguments_exit_2_and_say_what_is_wrong() {
    let files = Files::new();
    let (bodies, empty) = (files.write("bodies", "{\"x\":1}\n"), files.write("empty", "\n"));
    let url = "http://127.0.0.1:1/";
    let cases: &[(&str, &[&str], &str)] = &[
        ("", &[], "must be like http://"),
        ("127.0.0.1:1", &[], "must be like http://"),
        ("ftp://127.0.0.1/", &[], "must be like http://"),
        ("http://user:secret@127.0.0.1/", &[], "--url http://127.0.0.1: must be like http://"),
        ("http://127.0.0.1:80800/", &[], "must be like http://"),
        ("http://127.0.0.1:/", &[], "must be like http://"),
        ("http://no-such-host.invalid/", &[], "the address of \"no-such-host.invalid\" cannot be found"),
        (url, &["--rate", "0"], "must be a number from 0.001"),
        (url, &["--rate", "NaN"], "must be a number from 0.001"),
        (url, &["--seconds", "-1"], "must be a number from 0.001"),
        (url, &["--count", "-1"], "--count"),
        (url, &["--count", "0"], "--count"),
        (url, &["--connections", "0"], "--connections"),
        (url, &["--connections", "70000"], "--connections"),
        (url, &["--rate", "1", "--closed"], "cannot be used with"),
        (url, &["--seconds", "1", "--count", "1"], "cannot be used with"),
        (url, &["--fail-if", "p99>100"], "expected a number with a unit"),
        (url, &["--fail-if", "slow>0"], "there is no \"slow\""),
        (url, &["--command", "Group"], "--command Group: neither a command, nor a family such as Group.*, nor all"),
        (url, &["--token-file", "/nowhere"], "--token-file /nowhere: No such file"),
        (url, &["--token-file", &empty], "holds no token"),
        (url, &["--json", "/nowhere/report"], "--json /nowhere/report: No such file"),
        (url, &["--replay", "/nowhere"], "--replay /nowhere: No such file"),
        (url, &["--replay", &empty], "holds no callback"),
        (url, &["--replay", &bodies], "line 1: does not name its command: give --command"),
        (url, &["--replay", &bodies, "--command", "A", "--command", "B"], "give one --command at most"),
        (url, &["--replay", &bodies, "--count", "1"], "cannot be used with"),
    ];
    for (url, args, expected) in cases {
        let sent = send(url, args);
        assert!(sent.code == Some(2) && sent.stderr.contains(expected) && sent.stdout.is_empty(), "{args:?}: {sent:?}");
    }
    for args in [&["--url", url][..], &["--sdk-app-id", APP], &["--url", url, "--sdk-app-id", "x"]] {
        assert_eq!(run(args).code, Some(2), "{args:?}");
    }
}
