//! What is wrong, too much or too late: the answer says so, the counters count it, and what may be mended is kept.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::time::Duration;

use callbridge::refusal::Reason;
use serde_json::Value;
use serde_json::json;

use crate::callbacks::assert_rejected;
use crate::disk_faults;
use crate::hostile;
use crate::outages;
use crate::overload;
use crate::seeds;
use crate::seeds::APP;
use crate::senders;
use crate::signature;
use crate::support::bridge::Bridge;
use crate::support::files::Files;
use crate::support::http;
use crate::support::http::Client;
use crate::support::http::Response;
use crate::support::ledger::Ledger;
use crate::support::ports;
use crate::support::reader::Reader;
use crate::topics;

const MINUTE: Duration = Duration::from_secs(60);

const BODY_BYTES_MAX: usize = 262_144;
const BEFORE: &str = seeds::BEFORE_ADD_SUBSCRIBER.command;
const AFTER: &str = seeds::AFTER_INFO_CHANGED.command;

/// An after-callback that is as it should be.
const GOOD: &[u8] = br#"{"Official_Account":"@good"}"#;

/// Reasons that no case of the table can provoke, each with the test that does.
const ELSEWHERE: [(Reason, fn()); 18] = [
    (Reason::Host, hostile::a_request_has_one_host),
    (Reason::TransferEncoding, hostile::chunked_is_the_only_transfer_encoding),
    (Reason::ContentEncoding, hostile::a_compressed_body_is_415_and_the_connection_goes_on),
    (Reason::Sender, senders::callbacks_are_taken_from_the_configured_networks_only),
    (Reason::Path, callbacks_are_taken_on_the_configured_path_only),
    (Reason::SignMissing, signature::rejects_missing_wrong_and_stale_signatures_with_distinct_reasons),
    (Reason::SignWrong, signature::rejects_missing_wrong_and_stale_signatures_with_distinct_reasons),
    (Reason::SignStale, signature::rejects_missing_wrong_and_stale_signatures_with_distinct_reasons),
    (Reason::BodyTimeout, a_body_that_does_not_come_is_not_waited_for),
    (Reason::BrokenOff, a_request_that_is_broken_off_is_counted),
    (Reason::BodiesFull, overload::slow_bodies_have_a_budget_that_leaves_room_for_whole_ones_and_decisions),
    (Reason::TopicFull, outages::a_topic_that_is_deleted_fills_only_its_share_of_the_queue),
    (Reason::QueueFull, without_room_an_after_callback_is_503_and_a_question_is_answered),
    (Reason::Deadline, topics::callbacks_wait_for_kafka_at_the_start_until_their_deadline_and_then_get_through),
    (Reason::JournalFull, disk_faults::a_quota_that_is_reached_is_503_until_segments_are_delivered),
    (Reason::JournalFailed, disk_faults::a_disk_error_exits_74_without_one_more_200_and_the_next_start_has_the_rest),
    (Reason::Stopping, who_still_waits_for_room_at_the_stop_is_told),
    (Reason::Unpublishable, what_kafka_will_never_take_is_503_and_counted),
];

/// One request, and what must come of it.
struct Case {
    name: &'static str,
    request: Vec<u8>,
    outcome: Outcome,
}

#[derive(Clone, Copy)]
enum Outcome {
    /// 200 and a record in the command's topic; counted under the command.
    Taken(&'static str),
    /// 200 and its bytes in the rejected topic, with this reason and detail; counted under the command.
    Rejected(&'static str, &'static str, &'static str),
    /// 200 and nothing else.
    Probe,
    Refused(Refused),
}

#[derive(Clone, Copy)]
struct Refused {
    reason: Reason,
    status: u16,
    /// What `ErrorInfo` says of it, among more.
    says: &'static str,
    /// Under which command it was received.
    received: &'static str,
}

/// Waits for bodies as long as a busy machine takes to send them.
const PATIENT: &str = "callbacks.body_timeout_ms = 30000";

#[test]
fn each_wrong_request_is_told_what_is_wrong_and_counted_and_kept_as_the_table_says() {
    let bridge = Bridge::builder().embedded().settings(PATIENT).start();
    let cases = cases();

    for case in &cases {
        let before = counters(&bridge.metrics());
        let answer = assert_answer(&bridge, case);
        let after = counters(&settled(&bridge));
        let risen = after.iter().filter(|(name, value)| before[*name] != **value);
        let risen: Vec<(&str, u64)> = risen.map(|(name, value)| (name.as_str(), value - before[name])).collect();
        let expected = expected_counters(case);
        assert_eq!(
            risen,
            expected.iter().map(|name| (name.as_str(), 1)).collect::<Vec<_>>(),
            "{}: {answer:?}",
            case.name
        );
    }

    assert_kept(&bridge, &cases);
    let at_scrape = Ledger::of_scrape(&bridge.metrics());
    let stopped = bridge.stop_and_wait();
    assert_eq!(stopped.code, 0);
    assert_eq!(Ledger::of_exit(&stopped.ledger), at_scrape);
}

#[test]
fn every_reason_to_refuse_has_a_case() {
    let of_case = |case: Case| match case.outcome {
        Outcome::Refused(refused) => Some(refused.reason),
        Outcome::Taken(_) | Outcome::Rejected(..) | Outcome::Probe => None,
    };
    let tried: HashSet<Reason> =
        cases().into_iter().filter_map(of_case).chain(ELSEWHERE.map(|(reason, _test)| reason)).collect();
    let untried: Vec<Reason> = Reason::ALL.into_iter().filter(|reason| !tried.contains(reason)).collect();
    assert!(untried.is_empty(), "no case provokes {untried:?}");
}

#[test]
fn a_callback_without_its_query_is_not_answered_as_a_check_and_logged_once() {
    let files = Files::new();
    let list = files.write("blocklist.txt", "mallory\n");
    let bridge = Bridge::builder().embedded().ack("memory").args(&["--blocklist", &list]).start();
    let question = format!(
        r#"{{"CallbackCommand":"{BEFORE}","Official_Account":"@a","SubscribeAccountList":[{{"Subscriber_Account":"mallory"}}]}}"#
    );
    let mut client = Client::connect(bridge.callbacks).unwrap();
    for _nth in 0..3 {
        let answer = client.post("/", question.as_bytes()).unwrap();
        assert_failure(&answer, 403, "SdkAppid is missing in the query");
        // In chunks, its end is not known before it has come.
        client
            .write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n \r\n1\r\nx\r\n0\r\n\r\n")
            .unwrap();
        assert_failure(&client.read().unwrap(), 403, "SdkAppid is missing in the query");
    }
    let stopped = bridge.stop_in_order();
    assert_eq!((stopped.ledger["received"], stopped.ledger["refused"]), (6, 6));
    assert_eq!(stopped.stderr.matches("names no CallbackCommand in its query").count(), 1, "{}", stopped.stderr);
}

#[test]
fn callbacks_are_taken_on_the_configured_path_only() {
    let bridge = Bridge::builder().embedded().settings("callbacks.path = \"/secret/2f1c\"").start();
    let target = http::callback_target(APP, AFTER);
    let post = |path: &str| {
        let target = format!("{path}{}", target.strip_prefix('/').unwrap());
        Client::connect(bridge.callbacks).unwrap().post(&target, GOOD).unwrap()
    };

    let (right, wrong) = (post("/secret/2f1c"), ["/", "/secret/2f1c/", "/secret", "/SECRET/2f1c"].map(post));

    assert_eq!(right.status, 200, "{}", right.text());
    for answer in wrong {
        assert_failure(&answer, 404, "callbacks are not accepted on this path");
    }
    let metrics = settled(&bridge);
    assert_eq!(metrics["callbridge_callbacks_refused_total{reason=\"path\"}"], 4.0);
    let expected = Ledger { received: 5, refused: 4, delivered: 1, ..Ledger::default() };
    assert_eq!(Ledger::of_scrape(&metrics), expected);
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let bridge = Bridge::builder().embedded().settings("callbacks.body_timeout_ms = 100").start();
    for half in [with_length(AFTER, 10, b"{\"a\""), raw(AFTER, "Transfer-Encoding: chunked", b"4\r\n{\"a\"\r\n")] {
        let mut client = Client::connect(bridge.callbacks).unwrap();
        client.write(&half).unwrap();
        let answer = client.read().unwrap();
        assert_failure(&answer, 408, "the body was not received in time");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.is_closed());
    }
    let expected = Ledger { received: 2, refused: 2, ..Ledger::default() };
    assert_eq!(Ledger::of_scrape(&bridge.metrics()), expected);
    assert_eq!(bridge.metrics()["callbridge_callbacks_refused_total{reason=\"body_timeout\"}"], 2.0);
}

#[test]
fn a_request_that_is_broken_off_is_counted() {
    let bridge = Bridge::builder().embedded().settings(PATIENT).start();
    let mut client = Client::connect(bridge.callbacks).unwrap();
    client.write(&with_length(AFTER, 10, b"{\"a\"")).unwrap();
    wait_for(&bridge, "callbridge_callbacks_waiting{where=\"request\"}");

    drop(client);

    wait_for(&bridge, "callbridge_callbacks_refused_total{reason=\"broken_off\"}");
    let expected = Ledger { received: 1, refused: 1, ..Ledger::default() };
    assert_eq!(Ledger::of_exit(&bridge.stop_and_wait().ledger), expected);
}

#[test]
fn without_room_an_after_callback_is_503_and_a_question_is_answered() {
    let bridge = start_without_kafka("queue.waiting_bytes_max = 0\nqueue.captures_max = 1\n");
    let question = seeds::BEFORE_ADD_SUBSCRIBER.body.as_bytes();
    let post = |command: &str, body: &[u8]| {
        Client::connect(bridge.callbacks).unwrap().post(&http::callback_target(APP, command), body).unwrap()
    };

    let (first, second) = (post(BEFORE, question), post(BEFORE, question));
    let (after, not_json) = (post(AFTER, GOOD), post(AFTER, b"{"));

    assert_eq!((first.status, second.status), (200, 200));
    assert_failure(&after, 503, "the queue is full");
    assert_eq!(after.header("retry-after"), Some("1"));
    assert_failure(&not_json, 400, "line 1 column 1");
    let metrics = bridge.metrics();
    assert_eq!(metrics["callbridge_callbacks_lost_total{reason=\"queue_full\"}"], 2.0);
    assert_eq!(metrics["callbridge_callbacks_waiting{where=\"queue\"}"], 1.0);
    assert_eq!(metrics["callbridge_rejected_dropped_total"], 1.0);
    let stopped = bridge.stop_and_wait();
    let expected = Ledger { received: 4, lost: 2, refused: 1, waiting: 1, ..Ledger::default() };
    assert_eq!((stopped.code, Ledger::of_exit(&stopped.ledger)), (0, expected), "{}", stopped.stderr);
}

#[test]
fn who_still_waits_for_room_at_the_stop_is_told() {
    // The latest deadline there may be: the callback shall not meet it before the stop.
    let mut bridge = start_without_kafka("callbacks.deadline_ms = 1999\n");
    let mut client = Client::connect(bridge.callbacks).unwrap();
    client.write(&with_length(AFTER, GOOD.len(), GOOD)).unwrap();
    wait_for(&bridge, "callbridge_callbacks_waiting{where=\"request\"}");

    bridge.signal(rustix::process::Signal::TERM);

    let answer = client.read().unwrap();
    assert_failure(&answer, 503, "stopping");
    assert_eq!((answer.header("retry-after"), answer.header("connection")), (Some("1"), Some("close")));
    let expected = Ledger { received: 1, lost: 1, ..Ledger::default() };
    let stopped = bridge.wait();
    assert_eq!((stopped.code, Ledger::of_exit(&stopped.ledger)), (0, expected), "{}", stopped.stderr);
}

#[test]
fn what_kafka_will_never_take_is_503_and_counted() {
    let small = ["--kafka", "message.max.bytes=1000"];
    let bridge = Bridge::builder().embedded().ack("broker").args(&small).start();
    let long = format!(r#"{{"Official_Account":"@long","Name":"{}"}}"#, "n".repeat(3000));

    let mut client = Client::connect(bridge.callbacks).unwrap();
    let answer = client.post(&http::callback_target(APP, AFTER), long.as_bytes()).unwrap();

    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.header("retry-after"), Some("1"));
    // The sender is told before it is counted.
    bridge.metrics_until(|metrics| metrics["callbridge_callbacks_lost_total{reason=\"unpublishable\"}"] == 1.0);
    let expected = Ledger { received: 1, lost: 1, ..Ledger::default() };
    assert_eq!(Ledger::of_exit(&bridge.stop_and_wait().ledger), expected);
}

/// Starts a bridge whose Kafka is not there, and waits until it takes connections.
fn start_without_kafka(settings: &str) -> Bridge {
    let builder = Bridge::builder().brokers(&ports::nobody()).ack("broker");
    builder.settings("drain_seconds = 1\ncallbacks.keep_accepting_ms = 0").settings(settings).start_unready()
}

/// Scrapes until nothing waits: an answer may come a moment before the ledger has it. Every scrape must balance.
fn settled(bridge: &Bridge) -> BTreeMap<String, f64> {
    bridge.metrics_until(|metrics| {
        let ledger = Ledger::of_scrape(metrics);
        assert!(ledger.is_balanced(), "{ledger:?}");
        ledger.waiting == 0
    })
}

/// Waits until a metric is 1.
fn wait_for(bridge: &Bridge, metric: &str) {
    bridge.metrics_until(|metrics| metrics[metric] == 1.0);
}

/// Sends the request over a connection of its own, and judges the answer.
fn assert_answer(bridge: &Bridge, case: &Case) -> Response {
    let mut client = Client::connect(bridge.callbacks).unwrap();
    // The answer to a body that is too long may come, and the connection end, before all of it is written.
    let _written = client.write(&case.request);
    let answer = if case.request.starts_with(b"HEAD ") { client.read_head() } else { client.read() };
    let answer = answer.unwrap_or_else(|error| panic!("{}: {error}", case.name));
    match case.outcome {
        Outcome::Taken(_) | Outcome::Rejected(..) | Outcome::Probe => {
            assert_eq!(answer.status, 200, "{}: {}", case.name, answer.text());
            if !case.request.starts_with(b"HEAD ") {
                assert_eq!(answer.text(), r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#, "{}", case.name);
            }
        }
        Outcome::Refused(refused) if case.request.starts_with(b"HEAD ") => {
            assert_eq!(answer.status, refused.status, "{}", case.name);
        }
        Outcome::Refused(refused) => assert_failure(&answer, refused.status, refused.says),
    }
    let closes = answer.status == 413;
    assert_eq!(answer.header("connection"), closes.then_some("close"), "{}", case.name);
    assert_eq!(answer.header("allow"), (answer.status == 405).then_some("POST"), "{}", case.name);
    assert_eq!(answer.header("content-type"), Some("application/json"), "{}", case.name);
    if closes {
        assert!(client.is_closed(), "{}", case.name);
    }
    answer
}

/// Asserts that an answer has that status, exactly the three mandatory fields, and says this among more.
fn assert_failure(answer: &Response, status: u16, says: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    let error_info = body["ErrorInfo"].as_str().unwrap();
    assert!(error_info.contains(says), "{error_info:?} does not say {says:?}");
    assert_eq!(body, json!({"ActionStatus": "FAIL", "ErrorInfo": error_info, "ErrorCode": 1}));
}

/// What a request may count in.
fn counters(metrics: &BTreeMap<String, f64>) -> BTreeMap<String, u64> {
    let is_counter = |name: &str| {
        let name = name.split('{').next().unwrap();
        name.starts_with("callbridge_callbacks_") && name.ends_with("_total")
            || ["callbridge_probes_total", "callbridge_rejected_dropped_total"].contains(&name)
    };
    let counters = metrics.iter().filter(|(name, _value)| is_counter(name));
    counters.map(|(name, value)| (name.clone(), format!("{value:.0}").parse().unwrap())).collect()
}

/// The counters that must rise, in alphabetical order.
fn expected_counters(case: &Case) -> Vec<String> {
    let received = |command: &str| format!("callbridge_callbacks_received_total{{command=\"{command}\"}}");
    match case.outcome {
        Outcome::Probe => vec!["callbridge_probes_total".to_owned()],
        Outcome::Taken(command) | Outcome::Rejected(command, ..) => {
            vec!["callbridge_callbacks_delivered_total".to_owned(), received(command)]
        }
        Outcome::Refused(refused) => {
            let reason = refused.reason.word();
            vec![received(refused.received), format!("callbridge_callbacks_refused_total{{reason=\"{reason}\"}}")]
        }
    }
}

/// Asserts that the rejected topic holds what must be kept, and nothing else, and the others as many as were taken.
fn assert_kept(bridge: &Bridge, cases: &[Case]) {
    let mut taken = 0;
    let mut kept = Vec::new();
    for case in cases {
        let body = body_of(&case.request).to_vec();
        match case.outcome {
            Outcome::Taken(_) => taken += 1,
            Outcome::Rejected(command, reason, detail) => kept.push((body, reason, command, detail)),
            Outcome::Refused(refused) if refused.reason.is_kept() => {
                kept.push((body, refused.reason.word(), refused.received, refused.says));
            }
            Outcome::Probe | Outcome::Refused(_) => {}
        }
    }
    let delivered = "callbridge_records_total{outcome=\"delivered\"}";
    let total = f64::from(u32::try_from(taken + kept.len()).unwrap());
    let metrics = bridge.metrics_until(|metrics| metrics[delivered] >= total);
    assert_eq!(metrics[delivered], total);
    let mut records = Reader::open(&bridge.embedded_kafka(), &["tencent-chat.rejected"]).collect(kept.len(), MINUTE);
    records.sort_by(|left, right| left.value.cmp(&right.value));
    kept.sort();
    for (record, (value, reason, command, detail)) in records.iter().zip(kept) {
        assert_eq!(String::from_utf8_lossy(&record.value), String::from_utf8_lossy(&value));
        assert_eq!(record.value, value);
        assert_rejected(record, command, reason, detail);
    }
}

fn cases() -> Vec<Case> {
    [heads(), lost_queries(), queries(), bodies(), sizes()].into_iter().flatten().collect()
}

/// Methods, with and without a command.
fn heads() -> Vec<Case> {
    let without = format!("/?SdkAppid={APP}");
    let with = http::callback_target(APP, AFTER);
    let method = |received| refused(Reason::Method, 405, "callbacks are sent with POST", received);
    vec![
        case("GET without a command", request("GET", &without, b""), Outcome::Probe),
        case("HEAD without a command", request("HEAD", "/any/path", b""), Outcome::Probe),
        case("OPTIONS without a command", request("OPTIONS", "*", b""), Outcome::Probe),
        case("OPTIONS with a body", request("OPTIONS", &without, GOOD), Outcome::Probe),
        case("POST of an empty object without a command", request("POST", &without, b"{}"), Outcome::Probe),
        case("POST of blanks without a query", request("POST", "/", b" \r\n\t "), Outcome::Probe),
        case("POST of a blank object", request("POST", "/", b"\n{ \n}\n"), Outcome::Probe),
        case("POST of nothing without a query", request("POST", "/", b""), Outcome::Probe),
        case("OPTIONS with a command", request("OPTIONS", &with, b""), method(AFTER)),
        case("GET with a command", request("GET", &with, b""), method(AFTER)),
        case("HEAD with a command", request("HEAD", &with, b""), method(AFTER)),
        case("PUT with a command", request("PUT", &with, GOOD), method(AFTER)),
        case("PUT without a command", request("PUT", &without, GOOD), method("other")),
        case("DELETE without a query", request("DELETE", "/", b""), method("other")),
    ]
}

/// Callbacks whose query was lost on the way, or changed.
fn lost_queries() -> Vec<Case> {
    let (none, no_app) = ("CallbackCommand is missing in the query", "SdkAppid is missing in the query");
    let unknown = "SdkAppid is not configured";
    [
        ("/", GOOD, Reason::AppMissing, 403, no_app),
        ("/?", GOOD, Reason::AppMissing, 403, no_app),
        ("/%3FSdkAppid%3D1400000000%26CallbackCommand%3DState.StateChange", GOOD, Reason::AppMissing, 403, no_app),
        ("/#?SdkAppid=1400000000&CallbackCommand=State.StateChange", GOOD, Reason::AppMissing, 403, no_app),
        ("/?SdkAppid=1400000000;CallbackCommand=State.StateChange", GOOD, Reason::AppUnknown, 403, unknown),
        ("/?SdkAppid=7&CallbackCommand=", b"{", Reason::AppUnknown, 403, unknown),
        ("/?SdkAppid=1400000000&amp;CallbackCommand=State.StateChange", GOOD, Reason::CommandMissing, 400, none),
        ("/?SdkAppid=1400000000&CallbackCommand=", GOOD, Reason::CommandMissing, 400, none),
        ("/?SdkAppid=1400000000&CallbackCommand%3DState.StateChange", b"[]", Reason::CommandMissing, 400, none),
        ("/?SdkAppid=1400000000", b"{\"\":0}", Reason::CommandMissing, 400, none),
        ("/?SdkAppid=1400000000", b"{}{}", Reason::CommandMissing, 400, none),
        ("/?SdkAppid=1400000000&SdkAppid=1400000000", GOOD, Reason::Query, 400, "SdkAppid is given more than once"),
    ]
    .map(|(target, body, reason, status, says)| {
        case("a lost query", request("POST", target, body), refused(reason, status, says, "other"))
    })
    .into()
}

/// Applications and queries.
fn queries() -> Vec<Case> {
    let twice = |name, query: &str, says, received| {
        case(name, request("POST", &format!("/?{query}"), GOOD), refused(Reason::Query, 400, says, received))
    };
    let good = |name, target: &str| case(name, request("POST", target, GOOD), Outcome::Taken(AFTER));
    let foreign =
        |name, target: &str, reason, says| case(name, request("POST", target, GOOD), refused(reason, 403, says, AFTER));
    let unknown = "SdkAppid is not configured";
    let (query, lower) = (http::callback_target(APP, AFTER), http::callback_target(APP, AFTER).to_lowercase());
    let query = query.strip_prefix("/?").unwrap();
    let lower = lower.replace(&AFTER.to_lowercase(), AFTER);
    vec![
        foreign("another application", &http::callback_target("1400000001", AFTER), Reason::AppUnknown, unknown),
        foreign("an empty application", &http::callback_target("", AFTER), Reason::AppUnknown, unknown),
        foreign("a leading zero", &http::callback_target("01400000000", AFTER), Reason::AppUnknown, unknown),
        foreign(
            "no application",
            &format!("/?CallbackCommand={AFTER}"),
            Reason::AppMissing,
            "SdkAppid is missing in the query",
        ),
        twice("an application twice", &format!("{query}&SdkAppid={APP}"), "SdkAppid is given more than once", "other"),
        twice("twice in other case", &format!("{query}&sdkappid={APP}"), "SdkAppid is given more than once", "other"),
        twice(
            "a command twice",
            &format!("{query}&CALLBACKCOMMAND={AFTER}"),
            "CallbackCommand is given more than once",
            "other",
        ),
        twice("a client twice", &format!("{query}&clientip=::1"), "ClientIP is given more than once", "other"),
        twice("half an escape", &query.replace("=RESTAPI", "=%4"), "OptPlatform has broken percent-encoding", "other"),
        twice("no hex", &query.replace(AFTER, "%zz"), "CallbackCommand has broken percent-encoding", "other"),
        twice("not UTF-8", &query.replace("127.0.0.1", "%ff"), "ClientIP has broken percent-encoding", "other"),
        good("names in lower case", &lower),
        good("an escaped command", &http::callback_target(APP, &AFTER.replace('.', "%2e"))),
        good("a foreign name twice and broken", &format!("/?{query}&x=1&x=%zz&%zz")),
    ]
}

/// Bodies that are no callback, and such that are wrong in what they say.
fn bodies() -> Vec<Case> {
    let bad = |name, command, body: &[u8], reason, says| {
        case(name, request("POST", &http::callback_target(APP, command), body), refused(reason, 400, says, command))
    };
    let wrong_shape = |name, body: &[u8], detail| {
        let request = request("POST", &http::callback_target(APP, AFTER), body);
        case(name, request, Outcome::Rejected(AFTER, "wrong_shape", detail))
    };
    let rejected = |name, command, body: &str, reason, detail| {
        let request = request("POST", &http::callback_target(APP, command), body.as_bytes());
        case(name, request, Outcome::Rejected(command, reason, detail))
    };
    let (begin, end) = ("[".repeat(500), "]".repeat(500));
    let deep = |account| format!(r#"{{"Official_Account":"{account}","SubscribeAccountList":[],"x":{begin}{end}}}"#);
    let long = format!(r#"{{"Events":[{}]}}"#, vec!["{}"; 1001].join(","));
    let mismatch = format!("{{\n\"CallbackCommand\":\"{BEFORE}\"}}");
    vec![
        bad("no body", AFTER, b"", Reason::NotJson, "line 1 column 0"),
        bad("broken JSON", AFTER, b"{\n \"a\": tru}", Reason::NotJson, "line 2 column 10"),
        bad("JSON and more", AFTER, b"{} x", Reason::NotJson, "line 1 column 4"),
        bad("a comment, as in the samples", AFTER, b"{\"a\":1// ms\n}", Reason::NotJson, "line 1 column 7"),
        bad("not UTF-8", AFTER, b"{\"a\":\n\"\xff\"}", Reason::NotJson, "not UTF-8 at line 2 column 2"),
        bad("a BOM", AFTER, b"\xef\xbb\xbf{}", Reason::NotJson, "line 1 column 1"),
        bad("a list", AFTER, b" [{}]", Reason::NotObject, "not a JSON object at line 1 column 2"),
        bad("a string", AFTER, b"\"{}\"", Reason::NotObject, "not a JSON object at line 1 column 1"),
        bad("broken JSON of a question", BEFORE, b"{]", Reason::NotJson, "line 1 column 2"),
        bad("another command", AFTER, mismatch.as_bytes(), Reason::CommandMismatch, "line 2 column"),
        bad("a command that is null", AFTER, b"{\"CallbackCommand\":null}", Reason::CommandMismatch, "line 1 column"),
        bad(
            "nobody to decide about",
            BEFORE,
            b"{\"Official_Account\":\"@a\"}",
            Reason::Undecidable,
            "SubscribeAccountList",
        ),
        bad(
            "no account to decide on",
            BEFORE,
            b"{\"SubscribeAccountList\":[]}",
            Reason::Undecidable,
            "Official_Account",
        ),
        bad(
            "subscribers that are no objects",
            BEFORE,
            b"{\"Official_Account\":\"@a\",\n\"SubscribeAccountList\":[\"jared\"]}",
            Reason::Undecidable,
            "expected an object at line 2 column",
        ),
        wrong_shape("a number for a string", b"{\"Official_Account\":5}", "invalid type: integer `5`"),
        wrong_shape("no account", b" {\"Name\":\"n\"}\n", "missing field `Official_Account`"),
        wrong_shape("an empty account", b"{\"Official_Account\":\"\"}", "an id that is not empty"),
        rejected("news nested too deep", AFTER, &deep("@a"), "too_deep", "nested deeper than 500"),
        rejected("a question nested too deep is decided", BEFORE, &deep("@b"), "too_deep", "nested deeper than 500"),
        rejected("a batch of too many", "Push.OfflinePush", &long, "too_many_events", "more than 1000 events"),
    ]
}

/// Bodies at the limit and one beyond it.
fn sizes() -> Vec<Case> {
    let longest = padded(BODY_BYTES_MAX);
    let too_long = padded(BODY_BYTES_MAX + 1);
    let too_large = refused(Reason::BodyTooLarge, 413, "the body is longer than 262144 bytes", AFTER);
    vec![
        case("the longest body", with_length(AFTER, BODY_BYTES_MAX, &longest), Outcome::Taken(AFTER)),
        case("one byte more", with_length(AFTER, BODY_BYTES_MAX + 1, &too_long), too_large),
        case("one byte more, announced only", with_length(AFTER, BODY_BYTES_MAX + 1, b""), too_large),
        case("the longest body, chunked", chunked(AFTER, &longest), Outcome::Taken(AFTER)),
        case("one byte more, chunked", chunked(AFTER, &too_long), too_large),
        case(
            "one blank more, without a command",
            request("POST", "/", &vec![b' '; BODY_BYTES_MAX + 1]),
            refused(Reason::BodyTooLarge, 413, "the body is longer than 262144 bytes", "other"),
        ),
    ]
}

fn case(name: &'static str, request: Vec<u8>, outcome: Outcome) -> Case {
    Case { name, request, outcome }
}

fn refused(reason: Reason, status: u16, says: &'static str, received: &'static str) -> Outcome {
    Outcome::Refused(Refused { reason, status, says, received })
}

/// A callback of `length` bytes that is as it should be.
fn padded(length: usize) -> Vec<u8> {
    let (begin, end) = (r#"{"Official_Account":"@long","Name":""#, r#""}"#);
    format!("{begin}{}{end}", "n".repeat(length - begin.len() - end.len())).into_bytes()
}

fn request(method: &str, target: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("{method} {target} HTTP/1.1\r\nHost: callbridge.test\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// A POST that announces `length` bytes.
fn with_length(command: &str, length: usize, body: &[u8]) -> Vec<u8> {
    raw(command, &format!("Content-Length: {length}"), body)
}

fn chunked(command: &str, body: &[u8]) -> Vec<u8> {
    let chunk = |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    let chunks: Vec<u8> = body.chunks(10_000).flat_map(chunk).collect();
    raw(command, "Transfer-Encoding: chunked", &[&chunks[..], b"0\r\n\r\n"].concat())
}

fn raw(command: &str, header: &str, rest: &[u8]) -> Vec<u8> {
    let target = http::callback_target(APP, command);
    let head = format!("POST {target} HTTP/1.1\r\nHost: callbridge.test\r\n{header}\r\n\r\n");
    [head.as_bytes(), rest].concat()
}

/// What follows the head.
fn body_of(request: &[u8]) -> &[u8] {
    let end = request.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    &request[end + 4..]
}
