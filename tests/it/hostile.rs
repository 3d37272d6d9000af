//! A network that means harm: requests that two servers could read differently, senders that hold on, and more of them than there is
//! room for. Each over a raw socket; what is counted is counted exactly.

use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;

use callbridge::clock;
use rustix::process::Resource;
use rustix::process::Rlimit;
use serde_json::Value;
use socket2::Domain;
use socket2::Socket;
use socket2::Type;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::http::Client;
use crate::support::http::callback_target;
use crate::support::load;
use crate::support::wait;

/// Longer than anything takes on a busy machine.
const PATIENT: &str = "callbacks.head_timeout_ms = 60000\ncallbacks.body_timeout_ms = 60000";

/// What must come of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// This status, and the connection goes on.
    Goes(u16),
    /// This status, and the connection ends: nothing behind it is read as a request.
    Ends(u16),
}

use Outcome::Ends;
use Outcome::Goes;

#[test]
pub(crate) fn a_request_has_one_host() {
    let bridge = Bridge::light(PATIENT);
    let with = |version: &str, hosts: &str| {
        let body = load::body("@a", 0);
        let length = body.len();
        format!("POST {} HTTP/{version}\r\n{hosts}Content-Length: {length}\r\n\r\n{body}", target())
    };
    let keep = "Connection: keep-alive\r\n";
    let cases = [
        (with("1.1", "Host: callbridge.test\r\n"), Goes(200)),
        (with("1.1", "hOST: [::1]:8080\r\n"), Goes(200)),
        (with("1.0", keep), Goes(200)),
        (with("1.0", &format!("{keep}Host: a\r\n")), Goes(200)),
        (with("1.1", ""), Ends(400)),
        (with("1.1", "Host: a\r\nHost: a\r\n"), Ends(400)),
        (with("1.1", "Host: a\r\nX-Between: x\r\nhost: b\r\n"), Ends(400)),
        (with("1.0", &format!("{keep}Host: a\r\nHost: a\r\n")), Ends(400)),
        // As F5's monitors send it; RFC 9112 3.2 allows it.
        (with("1.1", "Host:\r\n"), Goes(200)),
        (with("1.1", "Host: a, b\r\n"), Ends(400)),
        (with("1.1", "Host: a/b\r\n"), Ends(400)),
        (with("1.1", "Host: user@a\r\n"), Ends(400)),
        (with("1.1", "Host: a?b#c\r\n"), Ends(400)),
        (with("1.1", "Host: a\u{e9}\r\n"), Ends(400)),
    ];
    for (request, expected) in &cases {
        assert_outcome(&bridge, request.as_bytes(), *expected);
    }
    // Without a command it is wrong too, and no callback.
    assert_outcome(&bridge, b"GET / HTTP/1.1\r\n\r\n", Ends(400));
    assert_eq!(refused(&bridge, "host"), 9.0);
    let stopped = bridge.stop_in_order();
    assert_eq!((stopped.ledger["received"], stopped.ledger["refused"]), (14 + 5, 9), "{stopped:?}");
}

#[test]
pub(crate) fn chunked_is_the_only_transfer_encoding() {
    let bridge = Bridge::light(PATIENT);
    let chunks = chunked(&load::body("@a", 0));
    let cases = [
        ("Transfer-Encoding: chunked\r\n", Goes(200)),
        ("transfer-encoding: CHUNKED\r\n", Goes(200)),
        // These name a body that hyper would give us as it is.
        ("Transfer-Encoding: gzip, chunked\r\n", Ends(400)),
        ("Transfer-Encoding: chunked, chunked\r\n", Ends(400)),
        ("Transfer-Encoding: identity, chunked\r\n", Ends(400)),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Ends(400)),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", Ends(400)),
        ("Transfer-Encoding: , chunked\r\n", Ends(400)),
    ];
    for (coding, expected) in cases {
        assert_outcome(&bridge, head(coding, &chunks).as_bytes(), expected);
    }
    assert_eq!(refused(&bridge, "transfer_encoding"), 6.0);
    let stopped = bridge.stop_in_order();
    assert_eq!((stopped.ledger["received"], stopped.ledger["refused"]), (8 + 2, 6), "{stopped:?}");
}

#[test]
pub(crate) fn a_compressed_body_is_415_and_the_connection_goes_on() {
    let bridge = Bridge::light(PATIENT);
    let body = load::body("@a", 0);
    let length = body.len();
    let mut client = connect(&bridge);
    for (coding, status) in [("gzip", 415), ("identity", 200), ("br", 415), ("identity, gzip", 415), ("deflate", 415)] {
        let request = head(&format!("Content-Encoding: {coding}\r\nContent-Length: {length}\r\n"), &body);
        client.write(request.as_bytes()).unwrap();
        let response = client.read().unwrap();
        assert_eq!((response.status, response.header("connection")), (status, None), "{coding}");
        assert_eq!(response.header("accept-encoding"), (status == 415).then_some("identity"));
        let answer: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(answer["ActionStatus"], if status == 415 { "FAIL" } else { "OK" });
    }
    assert_eq!(refused(&bridge, "content_encoding"), 4.0);
    assert_eq!(bridge.stop_in_order().ledger["received"], 5);
}

#[test]
fn what_two_servers_could_read_differently_is_refused_or_ends_the_connection() {
    let bridge = Bridge::light(PATIENT);
    let good = load::body("@a", 0);
    let (length, chunks) = (good.len(), chunked(&good));
    let heads: Vec<(String, Outcome)> = [
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Content-Length: 2, 2\r\n",
        "Content-Length: +2\r\n",
        "Content-Length: -2\r\n",
        "Content-Length: 0x2\r\n",
        "Content-Length: 2 2\r\n",
        "Content-Length: two\r\n",
        "Content-Length:\r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length : 2\r\n",
        "X-Folded: a\r\n b\r\nContent-Length: 2\r\n",
        "X-Null: a\0b\r\nContent-Length: 2\r\n",
        "X-Return: a\rb\r\nContent-Length: 2\r\n",
        "X Blank: a\r\nContent-Length: 2\r\n",
        ": no name\r\nContent-Length: 2\r\n",
        "no colon\r\nContent-Length: 2\r\n",
        "\tContent-Length: 2\r\n",
    ]
    .map(|headers| (head(headers, "{}"), Ends(400)))
    .into();
    let lines = [
        ("POST  / HTTP/1.1", Ends(400)),
        ("POST / HTTP/1.1 x", Ends(400)),
        ("POST / HTTP/1.2", Ends(400)),
        ("POST / HTTP/2.0", Ends(400)),
        ("POST /", Ends(400)),
        ("PO ST / HTTP/1.1", Ends(400)),
        ("P\0ST / HTTP/1.1", Ends(400)),
        ("GET http:// HTTP/1.1", Ends(400)),
        ("OPTIONS * HTTP/1.1", Goes(200)),
        ("post / HTTP/1.1", Goes(405)),
    ]
    .map(|(line, expected)| (format!("{line}\r\nHost: a\r\n\r\n"), expected));
    let bodies = [
        // The wrong one of two lengths would make a request of what follows.
        (head(&format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"), &chunks), Ends(200)),
        (head(&format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"), &chunks), Ends(200)),
        (head(&format!("Content-Length: {length}\r\nContent-Length: {length}\r\n"), &good), Goes(200)),
        (head("Transfer-Encoding: chunked\r\n", "0x2\r\n{}\r\n0\r\n\r\n"), Ends(400)),
        (head("Transfer-Encoding: chunked\r\n", "-2\r\n{}\r\n0\r\n\r\n"), Ends(400)),
        (head("Transfer-Encoding: chunked\r\n", "2 3\r\n{}\r\n0\r\n\r\n"), Ends(400)),
        (head("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n{}\r\n0\r\n\r\n"), Ends(400)),
        (head("Transfer-Encoding: chunked\r\n", "2\r\n{}x\r\n0\r\n\r\n"), Ends(400)),
        (head("Transfer-Encoding: chunked\r\n", "2\n{}\n0\n\n"), Ends(400)),
        (head("Transfer-Encoding: chunked\r\n", &format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "x".repeat(20_000))), Ends(400)),
        (head(&format!("Connection: close\r\nContent-Length: {length}\r\n"), &good), Ends(200)),
    ];
    let requests: Vec<(String, Outcome)> = heads.into_iter().chain(lines).chain(bodies).collect();
    for (request, expected) in &requests {
        assert_outcome(&bridge, request.as_bytes(), *expected);
    }
    // What follows was read as a request only where the connection went on.
    let going = requests.iter().filter(|(_, outcome)| matches!(outcome, Goes(_))).count();
    let stopped = bridge.stop_in_order();
    let taken = 3 + 1 + going;
    assert_eq!(stopped.ledger["delivered"], u64::try_from(taken).unwrap(), "{stopped:?}");
    // The bodies that broke off, and the method.
    assert_eq!(stopped.ledger["refused"], 7 + 1, "{stopped:?}");
}

#[test]
fn a_line_of_a_head_may_end_in_a_bare_lf_and_one_of_a_chunk_may_not() {
    let bridge = Bridge::light(PATIENT);
    let good = load::body("@a", 0);
    let (length, chunks) = (good.len(), chunked(&good));
    let with_lf = |head: String| head.replace("\r\n", "\n");
    let cases = [
        (with_lf(head(&format!("Content-Length: {length}\r\n"), &good)), Goes(200)),
        (head(&format!("X-Before: a\nContent-Length: {length}\n"), &good), Goes(200)),
        // It ends a line wherever it stands, so what follows is a header, and counts as one.
        (head(&format!("X-Before: a\nContent-Length: 2\r\nContent-Length: {length}\r\n"), &good), Ends(400)),
        (head(&format!("X-Before: a\nHost: b\r\nContent-Length: {length}\r\n"), &good), Ends(400)),
        (head("X-Before: a\n b\r\nContent-Length: 2\r\n", "{}"), Ends(400)),
        (head("Transfer-Encoding: chunked\r\n", &with_lf(chunks.clone())), Ends(400)),
        (head("Transfer-Encoding: chunked\r\n", &chunks.replacen("\r\n", "\n", 1)), Ends(400)),
        // Of 1.0 there are no chunks.
        (head("Transfer-Encoding: chunked\r\n", &chunks).replace("HTTP/1.1", "HTTP/1.0"), Ends(400)),
    ];
    for (request, expected) in &cases {
        assert_outcome(&bridge, request.as_bytes(), *expected);
    }
    // Those of 200 and what followed them, and the three that got as far as their query.
    let stopped = bridge.stop_in_order();
    assert_eq!((stopped.ledger["delivered"], stopped.ledger["refused"]), (4, 3), "{stopped:?}");
}

#[test]
fn a_head_that_is_too_large_is_431_and_ends_the_connection() {
    let bridge = Bridge::light(PATIENT);
    let long = "x".repeat(70_000);
    let many: String = (0..101).map(|number| format!("X-{number}: x\r\n")).collect();
    for request in
        [format!("POST /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), head(&format!("X-Long: {long}\r\n"), ""), head(&many, "")]
    {
        let mut client = connect(&bridge);
        // The answer may come, and the connection end, before all of it is written.
        let _written = client.write(request.as_bytes());
        assert_eq!(client.read().unwrap().status, 431, "{}", &request[..40]);
        assert!(client.is_closed());
    }
    bridge.metrics_until(|metrics| metrics["callbridge_not_http_total"] == 3.0);
    let fewer: String = (0..90).map(|number| format!("X-{number}: x\r\n")).collect();
    let good = load::body("@a", 0);
    let fits = head(&format!("{fewer}Content-Length: {}\r\n", good.len()), &good);
    assert_outcome(&bridge, fits.as_bytes(), Goes(200));
    assert_eq!(bridge.stop_in_order().ledger["received"], 2);
}

#[test]
fn what_speaks_another_protocol_is_ended() {
    let bridge = Bridge::light(PATIENT);
    let client_hello = [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[7; 506]].concat();
    let mut open = Vec::new();
    for bytes in [&client_hello[..], b"\0\0\0\0", b"SSH-2.0-x\r\n\r\n"] {
        let mut client = connect(&bridge);
        client.write(bytes).unwrap();
        assert_eq!(client.read().unwrap().status, 400, "{bytes:?}");
        assert!(client.is_closed());
        open.push(client);
    }
    bridge.metrics_until(|metrics| metrics["callbridge_not_http_total"] == 3.0);
    // HTTP/2 could not read an answer in HTTP/1.
    let mut client = connect(&bridge);
    client.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    assert!(client.is_closed());
    assert_eq!(bridge.stop_in_order().ledger["received"], 0);
}

#[test]
fn a_body_without_end_is_413_whatever_it_is_made_of() {
    let bridge = Bridge::light(PATIENT);
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    // All data; and hardly any data, but much around it: hyper bounds that by itself.
    for (endless, statuses) in [(chunk.as_str(), [413, 413]), ("1;ext=ension\r\nx\r\n", [413, 400])] {
        let mut stream = TcpStream::connect(bridge.callbacks).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(head("Transfer-Encoding: chunked\r\n", "").as_bytes()).unwrap();
        let many = endless.repeat(1000);
        // It is not read on: by and by writing fails.
        wait::until("the connection ends", || stream.write_all(many.as_bytes()).is_err());
        let mut answer = Vec::new();
        // A reset may have taken the answer, since this side wrote on.
        let read = stream.read_to_end(&mut answer);
        let told = statuses.iter().any(|status| answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()));
        assert!(told || read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "{answer:?}");
    }
    let stopped = bridge.stop_in_order();
    assert_eq!((stopped.ledger["received"], stopped.ledger["refused"]), (2, 2), "{stopped:?}");
}

#[test]
fn trailers_without_end_end_the_connection() {
    let bridge = Bridge::light(PATIENT);
    let mut stream = TcpStream::connect(bridge.callbacks).unwrap();
    let begin = head("Transfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\n");
    stream.write_all(begin.as_bytes()).unwrap();
    let many = "X-Trailer: x\r\n".repeat(1000);
    wait::until("the connection ends", || stream.write_all(many.as_bytes()).is_err());
    let stopped = bridge.stop_in_order();
    assert_eq!((stopped.ledger["received"], stopped.ledger["refused"]), (1, 1), "{stopped:?}");
}

#[test]
fn two_hundred_slow_heads_and_bodies_do_not_keep_a_good_sender_waiting() {
    let bridge = Bridge::light(PATIENT);
    let slow: Vec<Client> = (0..200)
        .map(|number| {
            let mut client = connect(&bridge);
            let begin =
                if number % 2 == 0 { "POST / HTTP/1.1\r\nHos".to_owned() } else { head("Content-Length: 9\r\n", "{") };
            client.write(begin.as_bytes()).unwrap();
            client
        })
        .collect();
    bridge.metrics_until(|metrics| metrics["callbridge_callbacks_waiting{where=\"request\"}"] == 100.0);
    let mut good = connect(&bridge);
    for number in 0..100 {
        assert_eq!(good.post(&target(), load::body("@a", number).as_bytes()).unwrap().status, 200);
    }
    drop(slow);
    bridge.metrics_until(|metrics| metrics["callbridge_connections"] == 1.0);
    let stopped = bridge.stop_in_order();
    assert_eq!((stopped.ledger["received"], stopped.ledger["refused"]), (200, 100), "{stopped:?}");
}

#[test]
fn who_sends_and_never_reads_the_answers_is_ended() {
    let bridge = Bridge::light("callbacks.write_timeout_ms = 300");
    let mut idle = connect(&bridge);
    assert_eq!(idle.request("GET", "/", &[], b"").unwrap().status, 200);
    let mut stream = TcpStream::connect(bridge.callbacks).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let many = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
    // First its answers fill all buffers, then its requests; the end shows as a reset.
    wait::until("the connection ends", || {
        let written = stream.write_all(many.as_bytes());
        written.is_err_and(|error| !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    });
    bridge.metrics_until(|metrics| metrics["callbridge_connections"] == 1.0);
    assert_eq!(idle.request("GET", "/", &[], b"").unwrap().status, 200);
}

#[test]
fn a_half_closed_connection_is_answered_and_ends() {
    let bridge = Bridge::light(PATIENT);
    for half in ["", "POST / HTTP/1.1\r\nHos"] {
        let mut stream = TcpStream::connect(bridge.callbacks).unwrap();
        stream.write_all(half.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    }
    bridge.metrics_until(|metrics| metrics["callbridge_connections"] == 0.0);
}

#[test]
fn a_callback_whose_sender_closes_behind_it_is_taken_and_answered() {
    const CALLBACKS: u64 = 40;
    let bridge = Bridge::light(PATIENT);
    let body = load::body("@a", 0);
    let (target, length) = (target(), body.len());
    let request = format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
    for nth in 0..CALLBACKS {
        let mut stream = TcpStream::connect(bridge.callbacks).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        // One in two waits for the answer.
        if nth % 2 == 0 {
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
        }
    }
    bridge.metrics_until(|metrics| metrics["callbridge_connections"] == 0.0);
    assert_eq!(bridge.stop_in_order().ledger["received"], CALLBACKS);
}

#[test]
fn without_file_descriptors_it_waits_logs_once_and_resumes() {
    let bridge = Bridge::light("");
    let mut before = connect(&bridge);
    assert_eq!(before.post(&target(), load::body("@a", 0).as_bytes()).unwrap().status, 200);
    let open = std::fs::read_dir(format!("/proc/{}/fd", bridge.pid().as_raw_pid())).unwrap().count();
    let limit = |current: u64| {
        let old = rustix::process::getrlimit(Resource::Nofile);
        let new = Rlimit { current: Some(current), maximum: old.maximum };
        rustix::process::prlimit(Some(bridge.pid()), Resource::Nofile, new).unwrap().current.unwrap()
    };
    // The admin listener needs some of them too, so scraping waits until the end.
    let began = clock::monotonic();
    let enough = limit(u64::try_from(open).unwrap() + 10);
    let more: Vec<Client> = (0..50).map(|_nth| connect(&bridge)).collect();
    wait::until("it says so", || bridge.stderr().contains("connections cannot be accepted"));
    for number in 0..100 {
        assert_eq!(before.post(&target(), load::body("@a", number).as_bytes()).unwrap().status, 200);
    }
    limit(enough);
    let lasted = clock::monotonic() - began;
    for mut client in more {
        assert_eq!(client.post(&target(), load::body("@a", 0).as_bytes()).unwrap().status, 200, "it has waited");
    }
    let errors = bridge.metrics()["callbridge_accept_errors_total"];
    assert!(errors >= 1.0, "{errors}");
    let stopped = bridge.stop_in_order();
    assert_eq!(stopped.ledger["delivered"], 151);
    let warnings = stopped.stderr.matches("connections cannot be accepted").count();
    let times_ten_seconds = u128::try_from(warnings - 1).unwrap();
    assert!(times_ten_seconds <= lasted.as_millis() / 10_000, "{warnings} in {lasted:?}");
}

#[test]
fn one_peer_has_so_many_connections_and_others_have_theirs() {
    let proxies = "callbacks.proxies = [\"127.20.0.1\"]\ncallbacks.body_timeout_ms = 60000";
    let bridge = Bridge::light(&format!("callbacks.connections_per_peer_max = 2\n{proxies}"));
    let from = |last: u8| connect_from(&bridge, Ipv4Addr::new(127, 10, 0, last));
    let status = |client: &mut Client| client.post(&target(), load::body("@a", 0).as_bytes()).unwrap().status;
    let mut inside: Vec<Client> = [1, 1, 2, 2].into_iter().map(from).collect();
    for client in &mut inside {
        client.write(head("Content-Length: 2\r\n", "").as_bytes()).unwrap();
    }
    bridge.metrics_until(|metrics| metrics["callbridge_callbacks_waiting{where=\"request\"}"] == 4.0);
    for last in [1, 2, 1] {
        let mut beyond = from(last);
        assert_eq!(status(&mut beyond), 503);
        assert!(beyond.is_closed());
    }
    assert_eq!(bridge.metrics()["callbridge_connections_refused_total"], 3.0);
    let mut of_proxy: Vec<Client> = (0..5).map(|_nth| connect_from(&bridge, Ipv4Addr::new(127, 20, 0, 1))).collect();
    assert!(of_proxy.iter_mut().all(|client| status(client) == 200), "a proxy is many");

    // Idle, a connection makes room for the next of its peer.
    inside[0].write(b"{}").unwrap();
    assert_eq!(inside[0].read().unwrap().status, 200);
    wait::until("there is room", || from(1).post(&target(), b"{}").unwrap().status == 200);
    assert!(inside[0].is_closed());
    assert_eq!(status(&mut from(2)), 503, "those of the other peer are busy");
}

/// Sends the request with a good one behind it, on a connection of its own, and judges what comes back.
fn assert_outcome(bridge: &Bridge, request: &[u8], expected: Outcome) {
    let shown = String::from_utf8_lossy(&request[..request.len().min(300)]).into_owned();
    let good = load::body("@a", 0);
    let next = head(&format!("Content-Length: {}\r\n", good.len()), &good);
    let mut client = connect(bridge);
    client.write(&[request, next.as_bytes()].concat()).unwrap();
    let answer = client.read().unwrap_or_else(|error| panic!("{shown}: {error}"));
    match expected {
        Goes(status) => {
            assert_eq!(
                (answer.status, answer.header("connection").unwrap_or("keep-alive")),
                (status, "keep-alive"),
                "{shown}"
            );
            assert_eq!(client.read().unwrap().status, 200, "behind {shown}");
        }
        Ends(status) => {
            assert_eq!(answer.status, status, "{shown}");
            assert!(client.read().is_err(), "something was read as a request behind {shown}");
        }
    }
}

fn refused(bridge: &Bridge, reason: &str) -> f64 {
    bridge.metrics()[&format!("callbridge_callbacks_refused_total{{reason=\"{reason}\"}}")]
}

fn connect(bridge: &Bridge) -> Client {
    Client::connect(bridge.callbacks).unwrap()
}

/// A connection from that address of the loopback network.
fn connect_from(bridge: &Bridge, from: Ipv4Addr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&bridge.callbacks.into()).unwrap();
    Client::over(socket.into()).unwrap()
}

fn target() -> String {
    callback_target(APP, load::COMMAND)
}

/// A POST with these headers, and then `body` as it is.
fn head(headers: &str, body: &str) -> String {
    format!("POST {} HTTP/1.1\r\nHost: callbridge.test\r\n{headers}\r\n{body}", target())
}

fn chunked(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}
