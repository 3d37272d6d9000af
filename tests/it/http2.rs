//! HTTP/2 on the callback listener, where it is switched on: as HTTP/1.1 in every answer and limit, with many requests at a time.

use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use h2::Reason;
use h2::client::Builder;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::bridge::Bridge;
use crate::support::http::Client;
use crate::support::http::callback_target;
use crate::support::http2::Answer;
use crate::support::http2::PREFACE;
use crate::support::http2::Peer;
use crate::support::http2::fields;
use crate::support::http2::frame;
use crate::support::http2::post;
use crate::support::load;
use crate::support::openssl::Pair;
use crate::support::real;
use crate::support::wait;

const APP: &str = "1400000000";
const ON: &str = "callbacks.http2 = true";
/// Longer than anything takes on a busy machine.
const PATIENT: &str = "callbacks.head_timeout_ms = 60000\ncallbacks.body_timeout_ms = 60000";
const OK: &str = r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#;

#[test]
fn curl_speaks_http2_by_prior_knowledge_and_http1_beside_it() {
    let Some(()) = curl_with_http2() else { return };
    let bridge = start("");
    let url = format!("http://{}{}", bridge.callbacks, target());
    for (flags, version) in [(["--http2-prior-knowledge"], "2"), (["--http1.1"], "1.1"), (["--http1.0"], "1")] {
        assert_eq!(curl(&flags, &url), format!("{OK} 200 {version}"), "{flags:?}");
    }
    let head = curl(&["--http2-prior-knowledge", "-I", "-X", "HEAD"], &format!("http://{}/", bridge.callbacks));
    assert!(head.starts_with("HTTP/2 200") && head.ends_with(" 200 2"), "{head}");
    assert_eq!(bridge.stop_in_order().ledger["delivered"], 3);
}

#[test]
fn tls_agrees_on_http2_only_where_both_want_it() {
    let Some(()) = curl_with_http2() else { return };
    let Some(pair) = Pair::make("server") else { return };
    let trust = ["--cacert", pair.certificate.to_str().unwrap()];
    for (switch, expected) in [("true", "2"), ("false", "1.1")] {
        let bridge = Bridge::start_light(
            APP,
            &format!(
                "callbacks.http2 = {switch}\ncallbacks.tls.certificate_file = {:?}\ncallbacks.tls.key_file = {:?}",
                pair.certificate, pair.key
            ),
        );
        let url = format!("https://{}{}", bridge.callbacks, target());
        for (wants, version) in [("--http2", expected), ("--http1.1", "1.1"), ("--no-alpn", "1.1")] {
            assert_eq!(curl(&[&[wants], &trust[..]].concat(), &url), format!("{OK} 200 {version}"), "{switch} {wants}");
        }
        assert_eq!(bridge.stop_in_order().ledger["delivered"], 3);
    }
}

#[test]
fn many_streams_of_one_connection_are_all_answered() {
    let bridge = start("");
    let mut peer = Peer::connect(bridge.callbacks);
    // The first answer tells that its settings have come.
    assert_eq!(peer.post(&target(), load::body("@a", 0).as_bytes()).unwrap().status, 200);
    assert_eq!(peer.streams_max(), 64);
    for round in 0..10 {
        let streams: Vec<_> = (0..64)
            .map(|number| peer.send(post(&target()), load::body("@a", round * 64 + number).as_bytes()).unwrap())
            .collect();
        // The last first: none waits for another.
        for stream in streams.into_iter().rev() {
            let answer = peer.answer(stream).unwrap();
            assert_eq!((answer.status, text(&answer).as_str()), (200, OK));
        }
    }
    let stopped = bridge.stop_in_order();
    assert_eq!((stopped.ledger["received"], stopped.ledger["delivered"]), (641, 641), "{stopped:?}");
    peer.ended().unwrap();
}

#[test]
fn a_body_that_does_not_come_is_408_and_the_other_streams_go_on() {
    let bridge = start("callbacks.body_timeout_ms = 300");
    let mut peer = Peer::connect(bridge.callbacks);
    let silent = peer.begin(post(&target())).unwrap();
    let mut stalled = peer.begin(post(&target())).unwrap();
    stalled.body.send_data("{\"a".into(), false).unwrap();
    for number in 0..20 {
        assert_eq!(peer.post(&target(), load::body("@a", number).as_bytes()).unwrap().status, 200);
    }
    for stream in [stalled, silent] {
        let answer = peer.answer(stream).unwrap();
        assert_eq!((answer.status, failure(&answer).as_str()), (408, "the body did not come in time"));
        assert_eq!(answer.headers.get("connection"), None);
    }
    assert_eq!(peer.post(&target(), load::body("@a", 20).as_bytes()).unwrap().status, 200);
    assert_eq!(refused(&bridge, "body_timeout"), 2.0);
    let stopped = bridge.stop_in_order();
    assert_eq!((stopped.ledger["delivered"], stopped.ledger["refused"]), (21, 2), "{stopped:?}");
}

#[test]
fn bodies_may_be_as_long_as_in_http1_and_what_is_refused_ends_its_stream_only() {
    let bridge = start(&format!("{PATIENT}\ncallbacks.gzip_bytes_max = 1000"));
    let mut peer = Peer::connect(bridge.callbacks);
    let padded = |bytes: usize| load::body("@a", 0) + &" ".repeat(bytes - load::body("@a", 0).len());
    assert_eq!(peer.post(&target(), padded(262_144).as_bytes()).unwrap().status, 200);
    let stream = peer.send(post(&target()), padded(262_145).as_bytes()).unwrap();
    assert_eq!(peer.answer(stream).unwrap().status, 413);
    // Refused by its head, it need not end: it is answered, and reset without an error.
    let mut unwanted = peer.begin(post(&callback_target("1", load::COMMAND))).unwrap();
    unwanted.body.send_data("{".into(), false).unwrap();
    assert_eq!(peer.answer(unwanted).unwrap().status, 403);
    let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
    zipped.write_all(load::body("@a", 1).as_bytes()).unwrap();
    let mut request = post(&target());
    request.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    let stream = peer.send(request, &zipped.finish().unwrap()).unwrap();
    assert_eq!(peer.answer(stream).unwrap().status, 200);
    // The sender resets it in the middle.
    let mut left = peer.begin(post(&target())).unwrap();
    left.body.send_data("{".into(), false).unwrap();
    bridge.metrics_until(|metrics| metrics["callbridge_callbacks_waiting{where=\"request\"}"] == 1.0);
    left.body.send_reset(Reason::CANCEL);
    bridge.metrics_until(|metrics| metrics["callbridge_callbacks_refused_total{reason=\"broken_off\"}"] == 1.0);
    assert_eq!(peer.post(&target(), load::body("@a", 2).as_bytes()).unwrap().status, 200);
    let stopped = bridge.stop_in_order();
    assert_eq!((stopped.ledger["delivered"], stopped.ledger["refused"]), (3, 3), "{stopped:?}");
}

#[test]
fn a_request_has_one_host_in_http2_too() {
    let bridge = start(PATIENT);
    let body = load::body("@a", 0);
    let request = |authority: &[&str], more: &[(&str, &str)]| {
        let pseudo = [(":method", "POST"), (":scheme", "http"), (":path", "/")];
        let authority: Vec<(&str, &str)> = authority.iter().map(|value| (":authority", *value)).collect();
        fields(&[&pseudo[..], &authority, more].concat())
    };
    let answered = [
        (request(&["a"], &[]), "200"),
        (request(&[], &[("host", "a")]), "200"),
        (request(&["a:80"], &[("host", "A:80")]), "200"),
        (request(&[], &[]), "400"),
        (request(&["a"], &[("host", "b")]), "400"),
        (request(&["a"], &[("host", "a"), ("host", "a")]), "400"),
        (request(&[], &[("host", "")]), "400"),
        (request(&["u@a"], &[]), "400"),
    ];
    for (head, expected) in &answered {
        assert_eq!(outcome(&bridge, head, &body), Outcome::Status((*expected).to_owned()), "{head:?}");
    }
    // These the protocol itself forbids.
    let malformed = [
        request(&["a"], &[("transfer-encoding", "chunked")]),
        request(&["a"], &[("connection", "close")]),
        request(&["a"], &[("X-Upper", "x")]),
        request(&["a"], &[("content-length", "1")]),
        request(&["a", "a"], &[]),
    ];
    for head in &malformed {
        assert_eq!(outcome(&bridge, head, &body), Outcome::Malformed, "{head:?}");
    }
    assert_eq!(bridge.stop_in_order().ledger["received"], 0);
}

#[test]
fn heads_that_are_too_large_and_streams_that_are_reset_at_once_are_ended() {
    let bridge = start(PATIENT);
    let mut peer = Peer::connect(bridge.callbacks);
    let mut request = post(&target());
    request.headers_mut().insert("x-long", "x".repeat(17 * 1024).parse().unwrap());
    let stream = peer.send(request, b"").unwrap();
    assert_eq!(peer.answer(stream).unwrap().status, 431);
    assert_eq!(peer.post(&target(), load::body("@a", 0).as_bytes()).unwrap().status, 200);

    let mut flood = TcpStream::connect(bridge.callbacks).unwrap();
    flood.write_all(&[PREFACE, &frame(4, 0, 0, b"")].concat()).unwrap();
    let block = head(&target());
    let mut next = 1;
    wait::until("it is ended", || {
        let reset = |stream: u32| [frame(1, 4, stream, &block), frame(3, 0, stream, &[0, 0, 0, 8])].concat();
        let many: Vec<u8> = (0..1000).flat_map(|number| reset(next + 2 * number)).collect();
        next += 2000;
        flood.write_all(&many).is_err()
    });
    assert_eq!(peer.post(&target(), load::body("@a", 1).as_bytes()).unwrap().status, 200);
    bridge.stop_in_order();
}

#[test]
fn an_answer_that_nobody_takes_is_given_up() {
    let times = ["body_timeout_ms = 300", "deadline_ms = 300", "write_timeout_ms = 300"]
        .map(|time| format!("callbacks.{time}"));
    let bridge = start(&times.join("\n"));
    let mut peer = Peer::with(bridge.callbacks, Builder::new().initial_window_size(0));
    // Its head comes, its body has no window, and then it is reset.
    let stream = peer.send(post(&target()), load::body("@a", 0).as_bytes()).unwrap();
    let error = peer.answer(stream).unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CANCEL), "{error}");
    assert_eq!(bridge.stop_in_order().ledger["delivered"], 1);
}

#[test]
fn who_asks_and_never_reads_is_ended_in_http2_too() {
    let bridge = start("callbacks.write_timeout_ms = 300");
    let mut stream = TcpStream::connect(bridge.callbacks).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(&[PREFACE, &frame(4, 0, 0, b"")].concat()).unwrap();
    let pings = frame(6, 0, 0, &[7; 8]).repeat(5_000_000);
    // First the replies fill all buffers, then what is asked; the end shows as a reset.
    let kind = stream.write_all(&pings).unwrap_err().kind();
    assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{kind}");
    bridge.metrics_until(|metrics| metrics["callbridge_connections"] == 0.0);
    bridge.stop_in_order();
}

#[test]
fn idle_connections_of_http2_end_in_order_and_used_ones_go_on() {
    let bridge = start("callbacks.idle_timeout_seconds = 1\ncallbacks.body_timeout_ms = 3000");
    let mut used = Peer::connect(bridge.callbacks);
    assert_eq!(used.post(&target(), load::body("@a", 0).as_bytes()).unwrap().status, 200);
    // One that waits for a body is not idle, for longer than idle ones live.
    let mut waiting = Peer::connect(bridge.callbacks);
    let stream = waiting.begin(post(&target())).unwrap();
    Peer::connect(bridge.callbacks).ended().unwrap();
    used.ended().unwrap();
    assert_eq!(waiting.answer(stream).unwrap().status, 408);
    waiting.ended().unwrap();
    assert!(Client::connect(bridge.callbacks).unwrap().is_closed(), "one that never said what it speaks");
    bridge.metrics_until(|metrics| metrics["callbridge_connections"] == 0.0);
}

#[test]
fn a_preface_that_does_not_come_to_its_end_ends_the_connection() {
    let bridge = start("callbacks.head_timeout_ms = 300");
    let mut idle = Client::connect(bridge.callbacks).unwrap();
    for begin in [&PREFACE[..1], &PREFACE[..3], &PREFACE[..23]] {
        let mut client = Client::connect(bridge.callbacks).unwrap();
        client.write(begin).unwrap();
        assert!(client.is_closed());
        // Closed by its peer, it is not waited for.
        let mut stream = TcpStream::connect(bridge.callbacks).unwrap();
        stream.write_all(begin).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    assert_eq!(idle.post(&target(), load::body("@a", 0).as_bytes()).unwrap().status, 200);
    bridge.metrics_until(|metrics| metrics["callbridge_connections"] == 1.0);
    assert_eq!(bridge.stop_in_order().ledger["received"], 1);
}

#[test]
fn http1_beside_it_is_read_from_its_first_byte() {
    let bridge = start(PATIENT);
    let body = load::body("@a", 0);
    let request = |method: &str| {
        format!("{method} {} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", target(), body.len())
    };
    for (method, expected) in [("POST", 200), ("PRI", 405), ("PROPFIND", 405)] {
        let mut client = Client::connect(bridge.callbacks).unwrap();
        for byte in request(method).bytes() {
            client.write(&[byte]).unwrap();
        }
        assert_eq!(client.read().unwrap().status, expected, "{method}");
        client.write(request(method).as_bytes()).unwrap();
        assert_eq!(client.read().unwrap().status, expected, "{method}");
    }
    // And HTTP/2 byte by byte.
    let mut stream = TcpStream::connect(bridge.callbacks).unwrap();
    stream.set_nodelay(true).unwrap();
    let begin = [PREFACE, &frame(4, 0, 0, b""), &frame(1, 5, 1, &head("/"))].concat();
    begin.iter().for_each(|byte| stream.write_all(&[*byte]).unwrap());
    assert_eq!(read_outcome(&mut stream), Outcome::Status("200".to_owned()));
    assert_eq!(bridge.stop_in_order().ledger["delivered"], 2);
}

#[test]
fn a_stop_finishes_the_streams_that_are_there() {
    let mut bridge = start(&format!("{PATIENT}\ndrain_seconds = 50"));
    let mut silent = Client::connect(bridge.callbacks).unwrap();
    let mut idle = Peer::connect(bridge.callbacks);
    assert_eq!(idle.post(&target(), load::body("@a", 0).as_bytes()).unwrap().status, 200);
    let mut peer = Peer::connect(bridge.callbacks);
    let mut streams: Vec<_> = (0..3).map(|_nth| peer.begin(post(&target())).unwrap()).collect();
    bridge.metrics_until(|metrics| metrics["callbridge_callbacks_waiting{where=\"request\"}"] == 3.0);
    bridge.signal(Signal::TERM);
    idle.ended().unwrap();
    assert!(silent.is_closed());
    for (number, stream) in (1..).zip(&mut streams) {
        stream.body.send_data(load::body("@a", number).into(), true).unwrap();
    }
    for stream in streams {
        assert_eq!(peer.answer(stream).unwrap().status, 200);
    }
    peer.ended().unwrap();
    let stopped = bridge.wait();
    assert_eq!((stopped.code, stopped.ledger["delivered"]), (0, 4), "{stopped:?}");
}

#[test]
fn from_the_signal_on_an_answer_ends_its_connection() {
    let settings = format!("{ON}\ncallbacks.keep_accepting_ms = 500000\ndrain_seconds = 600");
    let mut bridge = Bridge::start_with(&settings, &["--sdk-app-id", APP, "--embedded-broker", "--ack", "memory"]);
    let mut before = Peer::connect(bridge.callbacks);
    assert_eq!(before.post(&target(), load::body("@a", 0).as_bytes()).unwrap().status, 200);
    bridge.signal(Signal::TERM);
    wait::until("it says that it stops", || bridge.admin_page("/readyz").1 == "stopping\n");
    let mut new = Peer::connect(bridge.callbacks);
    for (number, peer) in [(1, &mut before), (2, &mut new)] {
        assert_eq!(peer.post(&target(), load::body("@a", number).as_bytes()).unwrap().status, 200);
    }
    before.ended().unwrap();
    new.ended().unwrap();
    assert_eq!(bridge.exit_code(), None, "it still takes connections");
    bridge.kill9();
}

/// What came of a request whose frames were written by hand.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Status(String),
    /// The stream or the connection was ended as against the protocol.
    Malformed,
}

/// Sends one request with this block of fields and that body, on a connection of its own.
fn outcome(bridge: &Bridge, block: &[u8], body: &str) -> Outcome {
    let mut stream = TcpStream::connect(bridge.callbacks).unwrap();
    let frames = [frame(4, 0, 0, b""), frame(1, 4, 1, block), frame(0, 1, 1, body.as_bytes())].concat();
    stream.write_all(&[PREFACE, &frames].concat()).unwrap();
    read_outcome(&mut stream)
}

/// Reads frames until it is known.
fn read_outcome(stream: &mut TcpStream) -> Outcome {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    loop {
        let mut begin = [0; 9];
        stream.read_exact(&mut begin).unwrap();
        let length = usize::from(begin[0]) << 16 | usize::from(begin[1]) << 8 | usize::from(begin[2]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).unwrap();
        match (begin[3], begin[8]) {
            // The status comes first: 200, 400, and others by their text are in the table of every connection.
            (1, 1) if payload[0] == 0x88 => return Outcome::Status("200".to_owned()),
            (1, 1) if payload[0] == 0x8c => return Outcome::Status("400".to_owned()),
            (kind @ (3 | 7), _) => {
                // Of a connection's end, the last stream comes before the code.
                let code = if kind == 3 { &payload[..4] } else { &payload[4..8] };
                assert_eq!(code, [0, 0, 0, 1]);
                return Outcome::Malformed;
            }
            (1, _) => panic!("{begin:?} {payload:?}"),
            _settings_and_such => {}
        }
    }
}

#[test]
fn a_path_that_is_none_is_not_logged() {
    let bridge = start("log.filter = \"trace,h2::server=trace\"");
    let mark = "xyzzy-never-to-be-logged";
    let path = format!("/?Sign={mark}&\u{1}");
    assert_ne!(outcome(&bridge, &head(&path), "{}"), Outcome::Status("200".to_owned()));
    assert_eq!(outcome(&bridge, &head(&format!("/?{mark}")), "{}"), Outcome::Status("200".to_owned()));
    let stopped = bridge.stop_in_order();
    assert!(stopped.stderr.contains("DEBUG"), "{}", stopped.stderr);
    let leaks: Vec<&str> = stopped.stderr.lines().filter(|line| line.contains(mark)).collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
}

/// The block of a POST.
fn head(target: &str) -> Vec<u8> {
    fields(&[(":method", "POST"), (":scheme", "http"), (":path", target), (":authority", "a")])
}

fn curl_with_http2() -> Option<()> {
    let version = Command::new("curl").arg("-V").output();
    let speaks = version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(" HTTP2 "));
    real::found_or_skipped(if speaks { Ok(()) } else { Err("there is no curl that speaks HTTP/2".to_owned()) })
}

/// Posts one callback by curl. Returns the answer, its status and the version of HTTP.
fn curl(flags: &[&str], url: &str) -> String {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "30", "-w", " %{http_code} %{http_version}"]).args(flags).arg(url);
    if !flags.contains(&"-I") {
        command.args(["--data-binary", &load::body("@a", 0)]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// With HTTP/2 switched on.
fn start(settings: &str) -> Bridge {
    Bridge::start_light(APP, &format!("{ON}\n{settings}"))
}

fn target() -> String {
    callback_target(APP, load::COMMAND)
}

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.clone()).unwrap()
}

fn failure(answer: &Answer) -> String {
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(answer["ActionStatus"], "FAIL");
    answer["ErrorInfo"].as_str().unwrap().to_owned()
}

fn refused(bridge: &Bridge, reason: &str) -> f64 {
    bridge.metrics()[&format!("callbridge_callbacks_refused_total{{reason=\"{reason}\"}}")]
}
