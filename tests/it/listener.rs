//! The callback listener, spoken to by hand: connections, limits, and what is read on after a refusal.

use std::fs;
use std::time::Duration;

use callbridge::clock;
use rustix::process::Signal;
use serde_json::Value;
use serde_json::json;
use tempfile::NamedTempFile;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::bridge::Stopped;
use crate::support::http::Client;
use crate::support::http::Response;
use crate::support::http::callback_target;
use crate::support::load;
use crate::support::ports;
use crate::support::reader::Reader;
use crate::support::wait;

const MINUTE: Duration = Duration::from_secs(60);
/// Only bodies have little time, so that nothing else can have ended one.
const SHORT_BODIES: &str =
    "callbacks.body_timeout_ms = 300\ncallbacks.head_timeout_ms = 60000\ncallbacks.idle_timeout_seconds = 3600";

const AFTER: &str = load::COMMAND;
const BEFORE: &str = "OfficialAccount.CallbackBeforeAddSubscriber";

#[test]
fn a_connection_serves_one_request_after_another() {
    let bridge = Bridge::light("");
    let mut client = connect(&bridge);
    for number in 0..300 {
        assert_eq!(client.post(&target(AFTER), &after(number)).unwrap().status, 200);
    }
    let stopped = stopped(bridge);
    assert_eq!((stopped.ledger["received"], stopped.ledger["delivered"]), (300, 300));
}

#[test]
fn requests_sent_ahead_are_answered_in_their_order() {
    let users: Vec<String> = (0..100).map(|number| format!("user{number}")).collect();
    let (bridge, _list) = start_blocking(&users.join("\n"));
    let mut client = connect(&bridge);
    let requests: Vec<u8> = users.iter().flat_map(|user| request(&target(BEFORE), &before(user))).collect();
    client.write(&requests).unwrap();
    let refused: Vec<String> = users.iter().map(|_user| refused(&client.read().unwrap())).collect();
    assert_eq!(refused, users);
    assert_eq!(stopped(bridge).ledger["delivered"], 100);
}

#[test]
fn a_slow_head_ends_its_connection_and_idle_ones_live_on() {
    let bridge = Bridge::light("callbacks.head_timeout_ms = 400");
    let mut idle = connect(&bridge);
    assert_eq!(idle.post(&target(AFTER), &after(0)).unwrap().status, 200);
    let mut stuck = connect(&bridge);
    stuck.write(b"POST / HTTP/1.1\r\nHos").unwrap();
    let mut stuck_later = connect(&bridge);
    assert_eq!(stuck_later.post(&target(AFTER), &after(1)).unwrap().status, 200);
    stuck_later.write(b"POST").unwrap();
    let mut trickling = connect(&bridge);
    wait::until("it is closed", || trickling.write(b"x").is_err());

    assert!(stuck.is_closed() && stuck_later.is_closed());
    assert_eq!(idle.post(&target(AFTER), &after(2)).unwrap().status, 200);
    assert_eq!(stopped(bridge).ledger["received"], 3);
}

#[test]
fn a_head_that_comes_byte_by_byte_is_taken_within_its_time() {
    let bridge = Bridge::light("callbacks.head_timeout_ms = 60000");
    let mut client = connect(&bridge);
    for number in 0..3 {
        for byte in request(&target(AFTER), &after(number)) {
            client.write(&[byte]).unwrap();
        }
        assert_eq!(client.read().unwrap().status, 200);
    }
    assert_eq!(stopped(bridge).ledger["delivered"], 3);
}

#[test]
fn a_connection_is_idle_after_a_refusal_whose_body_came_late() {
    let bridge = Bridge::light("callbacks.head_timeout_ms = 400");
    let mut client = connect(&bridge);
    client.write(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n").unwrap();
    // Sent apart from its head, and before the answer is known.
    client.write(b"abc").unwrap();
    assert_eq!(client.read().unwrap().status, 200);
    let mut stuck = connect(&bridge);
    stuck.write(b"P").unwrap();
    assert!(stuck.is_closed(), "longer ago than a head may take");
    assert_eq!(client.post(&target(AFTER), &after(0)).unwrap().status, 200);
}

#[test]
fn a_body_that_does_not_come_is_408_and_ends_the_connection() {
    let bridge = Bridge::light(SHORT_BODIES);
    for rest in [
        "Content-Length: 10\r\n\r\n{\"a",
        "Transfer-Encoding: chunked\r\n\r\n2\r\n{\"",
        "Content-Length: 10\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n",
    ] {
        let mut client = connect(&bridge);
        client.write(head(&target(AFTER), rest).as_bytes()).unwrap();
        let response = client.read().unwrap();
        assert_eq!((response.status, response.header("connection")), (408, Some("close")));
        assert_eq!(failure(&response), "the body was not received in time");
        assert!(client.is_closed());
    }
    assert_eq!(refusals(&bridge, "body_timeout"), 4.0);
    let stopped = stopped(bridge);
    assert_eq!((stopped.ledger["received"], stopped.ledger["refused"]), (4, 4));
}

#[test]
fn a_body_has_all_of_its_time_however_many_came_before_it() {
    let bridge = Bridge::light("callbacks.body_timeout_ms = 1000");
    let mut client = connect(&bridge);
    // They take a few milliseconds of the first one's second.
    for number in 0..100 {
        assert_eq!(client.post(&target(AFTER), &after(number)).unwrap().status, 200);
    }
    let began = clock::monotonic();
    client.write(head(&target(AFTER), "Content-Length: 10\r\n\r\n{\"a").as_bytes()).unwrap();
    assert_eq!(client.read().unwrap().status, 408);
    assert!(clock::monotonic().duration_since(began) >= Duration::from_secs(1));
    assert_eq!(stopped(bridge).ledger["delivered"], 100);
}

#[test]
fn a_sender_that_goes_away_in_the_middle_of_a_body_is_counted() {
    let bridge = Bridge::light("callbacks.body_timeout_ms = 60000");
    for rest in
        ["Content-Length: 10\r\n\r\n{\"a", "Transfer-Encoding: chunked\r\n\r\n2\r\n{\"", "Content-Length: 9\r\n\r\n"]
    {
        connect(&bridge).write(head(&target(AFTER), rest).as_bytes()).unwrap();
    }
    bridge.metrics_until(|metrics| metrics["callbridge_callbacks_refused_total{reason=\"broken_off\"}"] == 3.0);
    let stopped = stopped(bridge);
    assert_eq!((stopped.ledger["received"], stopped.ledger["refused"]), (3, 3));
}

#[test]
fn idle_connections_end() {
    let bridge = Bridge::light("callbacks.idle_timeout_seconds = 1");
    let mut silent = connect(&bridge);
    let mut used = connect(&bridge);
    let used_last = clock::monotonic();
    assert_eq!(used.post(&target(AFTER), &after(0)).unwrap().status, 200);
    assert!(silent.is_closed());
    assert!(used.is_closed());
    assert!(used_last.elapsed() >= Duration::from_secs(1), "no sooner: a balancer in front counts on it");
    bridge.metrics_until(|metrics| metrics["callbridge_connections"] == 0.0);
}

#[test]
fn a_body_in_many_chunks_is_published_as_it_was_sent() {
    let bridge = Bridge::light("");
    let mut client = connect(&bridge);
    let body = after(7);
    client.write(head(&target(AFTER), "Transfer-Encoding: chunked\r\n\r\n").as_bytes()).unwrap();
    for (index, part) in body.chunks(3).enumerate() {
        let extension = if index % 2 == 0 { "" } else { ";name=\"value\"" };
        client.write(format!("{:X}{extension}\r\n", part.len()).as_bytes()).unwrap();
        client.write(&[part, b"\r\n"].concat()).unwrap();
    }
    client.write(b"0\r\nTrailer: x\r\n\r\n").unwrap();
    assert_eq!(client.read().unwrap().status, 200);
    assert_eq!(client.post(&target(AFTER), &after(8)).unwrap().status, 200, "the connection can be used on");

    let reader = Reader::open(&bridge.embedded_kafka(), &[&format!("tencent-chat.{AFTER}")]);
    let records = reader.collect(2, MINUTE);
    let sent = str::from_utf8(&body).unwrap();
    assert!(records.iter().any(|record| str::from_utf8(&record.value).unwrap().contains(sent)), "{records:?}");
}

#[test]
fn a_sender_that_waits_for_100_continue_gets_it_only_where_its_body_is_wanted() {
    let bridge = Bridge::light("");
    let expecting = |target: &str, body: &[u8]| {
        head(target, &format!("Content-Length: {}\r\nExpect: 100-continue\r\n\r\n", body.len()))
    };
    let mut client = connect(&bridge);
    for number in 0..2 {
        let body = after(number);
        client.write(expecting(&target(AFTER), &body).as_bytes()).unwrap();
        assert_eq!(client.read().unwrap().status, 100);
        client.write(&body).unwrap();
        assert_eq!(client.read().unwrap().status, 200);
    }
    client.write(expecting(&callback_target("1", AFTER), &after(0)).as_bytes()).unwrap();
    let response = client.read().unwrap();
    assert_eq!((response.status, response.header("connection")), (403, Some("close")));
    assert!(client.is_closed());
}

#[test]
fn http_1_0_is_answered_and_kept_only_when_asked_for() {
    let bridge = Bridge::light("");
    let body = after(0);
    let request = |keep: &str| {
        let head = format!("POST {} HTTP/1.0\r\n{keep}Content-Length: {}\r\n\r\n", target(AFTER), body.len());
        [head.as_bytes(), &body].concat()
    };
    let mut client = connect(&bridge);
    for _repeat in 0..2 {
        client.write(&request("Connection: keep-alive\r\n")).unwrap();
        assert_eq!(client.read().unwrap().status, 200);
    }
    client.write(&request("")).unwrap();
    assert_eq!(client.read().unwrap().status, 200);
    assert!(client.is_closed());
    assert_eq!(stopped(bridge).ledger["delivered"], 3);
}

#[test]
fn the_body_of_a_refused_request_is_never_read_as_a_request() {
    let bridge = Bridge::light("callbacks.path = \"/in\"");
    let within = |target: &str| format!("/in{}", &target[1..]);
    let good = within(&target(AFTER));
    let cases = [
        ("POST", within(&callback_target("1", AFTER)), 403),
        ("POST", format!("/in?CallbackCommand={AFTER}"), 403),
        ("POST", format!("{good}&SdkAppid={APP}"), 400),
        ("POST", format!("{good}%"), 400),
        ("POST", format!("/in?SdkAppid={APP}&CallbackCommand=%zz"), 400),
        ("POST", target(AFTER), 404),
        ("GET", good.clone(), 405),
        ("PUT", good.clone(), 405),
        ("DELETE", "/".to_owned(), 405),
        ("POST", "/".to_owned(), 403),
        ("POST", format!("/?SdkAppid={APP}"), 400),
        ("GET", "/".to_owned(), 200),
        ("OPTIONS", "/".to_owned(), 200),
    ];
    let received = |bridge: &Bridge| {
        let metrics = bridge.metrics();
        let of_commands = metrics.iter().filter(|(name, _)| name.starts_with("callbridge_callbacks_received_total"));
        of_commands.map(|(_, count)| count).sum::<f64>()
    };
    // It looks like three requests.
    let body = request(&good, &after(0)).repeat(3);
    let mut client = connect(&bridge);
    for (index, (method, target, status)) in cases.iter().enumerate() {
        let is_apart = index % 2 == 0;
        let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        // Apart, the body is on its way while the head is refused.
        let (first, second) =
            if is_apart { (head.into_bytes(), &body[..]) } else { ([head.as_bytes(), &body].concat(), &b""[..]) };
        client.write(&first).unwrap();
        client.write(second).unwrap();
        let response = client.read().unwrap();
        assert_eq!((response.status, response.header("connection")), (*status, None), "{method} {target}");
        assert_eq!(client.post(&good, &after(0)).unwrap().status, 200, "{method} {target}");
    }
    // Each case and the request behind it, but for the two probes.
    assert_eq!(received(&bridge), 2.0 * 13.0 - 2.0);
}

#[test]
fn a_refused_body_that_does_not_end_ends_the_connection() {
    let bridge = Bridge::light(&format!("{SHORT_BODIES}\ncallbacks.body_bytes_max = 1000"));
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    for rest in [
        "Content-Length: 10\r\n\r\n",
        "Content-Length: 10\r\n\r\n{",
        "Content-Length: 1001\r\n\r\n{",
        &format!("Transfer-Encoding: chunked\r\n\r\n{chunk}"),
    ] {
        let mut client = connect(&bridge);
        client.write(head(&callback_target("1", AFTER), rest).as_bytes()).unwrap();
        let response = client.read().unwrap();
        assert_eq!((response.status, response.header("connection")), (403, Some("close")), "{rest}");
        assert!(client.is_closed());
    }
    assert_eq!(refusals(&bridge, "app_unknown"), 4.0);
}

#[test]
fn a_body_over_the_limit_is_413_and_its_sender_can_read_that() {
    let bridge = Bridge::light("");
    let full = [b"{\"CallbackCommand\":\"".to_vec(), AFTER.as_bytes().to_vec(), b"\"}".to_vec()].concat();
    let full = [full.clone(), vec![b' '; 262_144 - full.len()]].concat();
    assert_eq!(connect(&bridge).post(&target(AFTER), &full).unwrap().status, 200);

    let chunks = format!("400\r\n{}\r\n", " ".repeat(1024)).repeat(257) + "0\r\n\r\n";
    let length = |bytes: usize| format!("Content-Length: {bytes}\r\n\r\n{}", " ".repeat(bytes));
    for rest in [length(262_145), length(4 << 20), format!("Transfer-Encoding: chunked\r\n\r\n{chunks}")] {
        let mut client = connect(&bridge);
        // All of it is sent, as most senders do, and only then is the answer read.
        client.write(head(&target(AFTER), &rest).as_bytes()).unwrap();
        let response = client.read().unwrap();
        assert_eq!((response.status, response.header("connection")), (413, Some("close")));
        assert!(client.is_closed());
    }
    assert_eq!(refusals(&bridge, "body_too_large"), 3.0);
}

#[test]
fn a_head_of_30_kib_is_taken_and_one_over_32_kib_is_431() {
    let bridge = Bridge::light("");
    let long =
        |bytes: usize| head(&target(AFTER), &format!("X-Long: {}\r\nContent-Length: 2\r\n\r\n{{}}", "x".repeat(bytes)));
    let mut client = connect(&bridge);
    client.write(long(30 * 1024).as_bytes()).unwrap();
    assert_eq!(client.read().unwrap().status, 200);
    client.write(long(64 * 1024).as_bytes()).unwrap();
    assert_eq!(client.read().unwrap().status, 431);
    assert!(client.is_closed());
    assert_eq!(stopped(bridge).ledger["received"], 1);
}

#[test]
fn what_is_no_http_is_400_and_ends_the_connection() {
    let bridge = Bridge::light("");
    for nonsense in
        ["\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", "POST / HTTP/9.9\r\n\r\n", "POST /a b HTTP/1.1\r\n\r\n"]
    {
        let mut client = connect(&bridge);
        client.write(nonsense.as_bytes()).unwrap();
        assert_eq!(client.read().unwrap().status, 400, "{nonsense:?}");
        assert!(client.is_closed());
    }
    let both = "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    let mut client = connect(&bridge);
    client.write(head(&target(AFTER), "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}").as_bytes()).unwrap();
    assert_eq!(client.read().unwrap().status, 400, "two lengths");
    let mut client = connect(&bridge);
    client.write(head(&target(AFTER), both).as_bytes()).unwrap();
    let status = client.read().unwrap().status;
    assert!(status == 400 || (status == 200 && client.is_closed()), "{status}");
}

#[test]
fn a_target_in_absolute_form_is_a_callback_too() {
    let bridge = Bridge::light("callbacks.path = \"/in\"");
    let absolute = format!("http://callbridge.test/in{}", &target(AFTER)[1..]);
    assert_eq!(connect(&bridge).post(&absolute, &after(0)).unwrap().status, 200);
    assert_eq!(stopped(bridge).ledger["delivered"], 1);
}

#[test]
fn without_kafka_after_callbacks_get_503_in_time_and_before_callbacks_an_answer() {
    let settings = "callbacks.deadline_ms = 300\nqueue.captures_max = 1";
    let bridge = start_without_kafka(settings);
    let mut client = connect(&bridge);
    let response = client.post(&target(AFTER), &after(0)).unwrap();
    assert_eq!((response.status, response.header("retry-after")), (503, Some("1")));
    assert_eq!(failure(&response), "not acknowledged in time");
    for user in ["alice", "bob"] {
        let response = client.post(&target(BEFORE), &before(user)).unwrap();
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#)
        );
    }
    let metrics = bridge.metrics();
    assert_eq!(metrics["callbridge_callbacks_lost_total{reason=\"deadline\"}"], 1.0);
    assert_eq!(metrics["callbridge_callbacks_lost_total{reason=\"queue_full\"}"], 1.0, "the second question's record");
    assert_eq!(metrics["callbridge_callbacks_waiting{where=\"queue\"}"], 1.0, "the first question's");
    let stopped = bridge.stop_and_wait();
    assert!(stopped.is_balanced(), "{stopped:?}");
    assert_eq!((stopped.code, stopped.ledger["lost"], stopped.ledger["waiting"]), (0, 2, 1));
}

#[test]
fn who_has_no_room_to_wait_is_503_at_once() {
    let settings = "callbacks.deadline_ms = 1900\nqueue.waiting_bytes_max = 1000";
    let bridge = start_without_kafka(settings);
    let mut waiting = connect(&bridge);
    waiting.write(&request(&target(AFTER), &after(0))).unwrap();
    bridge.metrics_until(|metrics| metrics["callbridge_callbacks_waiting{where=\"request\"}"] == 1.0);
    let big = [after(1), vec![b' '; 2000]].concat();
    let response = connect(&bridge).post(&target(AFTER), &big).unwrap();
    assert_eq!((response.status, response.header("retry-after")), (503, Some("1")));
    assert_eq!(failure(&response), "the queue is full");
    assert_eq!(waiting.read().unwrap().status, 503);
    let metrics = bridge.metrics();
    assert_eq!(metrics["callbridge_callbacks_lost_total{reason=\"queue_full\"}"], 1.0);
    assert_eq!(metrics["callbridge_callbacks_lost_total{reason=\"deadline\"}"], 1.0);
}

#[test]
fn hundreds_of_connections_at_once_are_all_answered() {
    let bridge = Bridge::light("");
    let mut clients: Vec<Client> = (0..400).map(|_nth| connect(&bridge)).collect();
    for _round in 0..3 {
        for (number, client) in (0..).zip(&mut clients) {
            client.write(&request(&target(AFTER), &after(number))).unwrap();
        }
        for client in &mut clients {
            assert_eq!(client.read().unwrap().status, 200);
        }
    }
    assert_eq!(bridge.metrics()["callbridge_connections"], 400.0);
    drop(clients);
    let stopped = stopped(bridge);
    assert_eq!((stopped.ledger["received"], stopped.ledger["delivered"]), (1200, 1200));
}

#[test]
fn requests_half_read_when_the_stop_comes_are_answered() {
    let patient = "drain_seconds = 50\ncallbacks.head_timeout_ms = 60000\ncallbacks.body_timeout_ms = 60000";
    let mut bridge = Bridge::light(patient);
    let whole = request(&target(AFTER), &after(0));
    let in_head = 20;
    let in_body = whole.len() - 5;
    let mut idle = connect(&bridge);
    assert_eq!(idle.post(&target(AFTER), &after(0)).unwrap().status, 200);
    let mut halves: Vec<(Client, &[u8])> = [in_head, in_body]
        .into_iter()
        .flat_map(|at| {
            let fresh = connect(&bridge);
            let mut used = connect(&bridge);
            assert_eq!(used.post(&target(AFTER), &after(0)).unwrap().status, 200);
            [fresh, used].map(|mut client| {
                client.write(&whole[..at]).unwrap();
                (client, &whole[at..])
            })
        })
        .collect();
    bridge.metrics_until(|metrics| metrics["callbridge_callbacks_waiting{where=\"request\"}"] == 2.0);

    bridge.signal(Signal::TERM);
    assert!(idle.is_closed(), "idle ones end");
    for (client, rest) in &mut halves {
        client.write(rest).unwrap();
        let response = client.read().unwrap();
        assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    }
    let stopped = bridge.wait();
    assert_eq!((stopped.code, stopped.ledger["received"], stopped.ledger["delivered"]), (0, 7, 7), "{stopped:?}");
}

#[test]
fn what_was_sent_before_the_stop_is_answered_though_nobody_had_looked_at_it() {
    // Another's broker: librdkafka's own ends when its thread gets the signal, as it may when the process is frozen.
    let kafka = Bridge::light("");
    let brokers = kafka.embedded_kafka().get("bootstrap.servers").unwrap().to_owned();
    let builder = Bridge::builder().brokers(&brokers).ack("memory");
    let mut bridge = builder.settings("callbacks.keep_accepting_ms = 0").start();
    let mut used: Vec<Client> = (0..10).map(|_nth| connect(&bridge)).collect();
    for client in &mut used {
        assert_eq!(client.post(&target(AFTER), &after(0)).unwrap().status, 200);
    }
    bridge.signal(Signal::STOP);
    let fresh = (0..10).map(|_nth| connect(&bridge));
    let mut clients: Vec<Client> = fresh.chain(used).collect();
    for client in &mut clients {
        client.write(&request(&target(AFTER), &after(1))).unwrap();
    }
    bridge.signal(Signal::TERM);
    bridge.signal(Signal::CONT);
    for client in &mut clients {
        assert_eq!(client.read().unwrap().status, 200);
    }
    let stopped = bridge.wait();
    assert_eq!((stopped.code, stopped.ledger["delivered"]), (0, 30), "{stopped:?}");
}

/// The same with a blocklist, which must stay there.
fn start_blocking(list: &str) -> (Bridge, NamedTempFile) {
    let file = NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::write(file.path(), list).unwrap();
    (Bridge::light(&format!("blocklist.files = [{:?}]", file.path())), file)
}

/// Not ready, as its Kafka is not there.
fn start_without_kafka(settings: &str) -> Bridge {
    Bridge::builder().brokers(&ports::nobody()).ack("broker").settings(settings).start_unready()
}

fn connect(bridge: &Bridge) -> Client {
    Client::connect(bridge.callbacks).unwrap()
}

fn target(command: &str) -> String {
    callback_target(APP, command)
}

fn after(number: u64) -> Vec<u8> {
    load::body("@TOA#_listener", number).into_bytes()
}

/// Asks whether `user` may subscribe.
fn before(user: &str) -> Vec<u8> {
    let body = json!({
        "CallbackCommand": BEFORE,
        "Official_Account": "@TOA#_news",
        "SubscribeAccountList": [{"Subscriber_Account": user}],
    });
    body.to_string().into_bytes()
}

/// A request as Tencent writes it.
fn request(target: &str, body: &[u8]) -> Vec<u8> {
    [head(target, &format!("Content-Length: {}\r\n\r\n", body.len())).as_bytes(), body].concat()
}

/// The head of a POST up to the headers of its body, and then `rest`.
fn head(target: &str, rest: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: callbridge.test\r\nContent-Type: application/json\r\n{rest}")
}

/// The only user whom an answer refuses.
fn refused(response: &Response) -> String {
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    let users = body["RefusedSubscribers_Account"].as_array().unwrap();
    assert_eq!(users.len(), 1);
    users[0].as_str().unwrap().to_owned()
}

/// The `ErrorInfo` of a refusal that has all that a refusal must have.
fn failure(response: &Response) -> String {
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!((&body["ActionStatus"], body["ErrorCode"].is_u64()), (&json!("FAIL"), true));
    body["ErrorInfo"].as_str().unwrap().to_owned()
}

fn refusals(bridge: &Bridge, reason: &str) -> f64 {
    bridge.metrics()[&format!("callbridge_callbacks_refused_total{{reason=\"{reason}\"}}")]
}

/// Stops it in order, with nothing left behind.
fn stopped(bridge: Bridge) -> Stopped {
    let stopped = bridge.stop_and_wait();
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert!(stopped.is_balanced() && stopped.ledger["waiting"] == 0, "{stopped:?}");
    stopped
}
