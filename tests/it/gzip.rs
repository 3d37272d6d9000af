//! Bodies that come as gzip, where that is taken: what is published, and what is refused in bounded memory.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::support::bridge::Bridge;
use crate::support::http::Client;
use crate::support::http::Response;
use crate::support::http::callback_target;
use crate::support::load;
use crate::support::reader::Reader;

const APP: &str = "1400000000";
const MINUTE: Duration = Duration::from_secs(60);
/// Longer than anything takes on a busy machine.
const PATIENT: &str = "callbacks.body_timeout_ms = 60000";
const LIMIT: usize = 262_144;

#[test]
fn a_gzip_body_is_published_as_what_it_decompresses_to() {
    let bridge = start("");
    let mut client = connect(&bridge);
    let bodies: Vec<String> = (0..4).map(|number| load::body("@a", number)).collect();
    let (first, second) = bodies[2].as_bytes().split_at(20);
    let sent = [
        ("gzip", gzip(bodies[0].as_bytes())),
        ("X-GZip", gzip(bodies[1].as_bytes())),
        // Two members are one body.
        ("identity, GZIP", [gzip(first), gzip(second)].concat()),
        ("identity", bodies[3].clone().into_bytes()),
    ];
    for (coding, body) in &sent {
        assert_eq!(post(&mut client, coding, body).status, 200, "{coding}");
    }
    let chunks = [format!("{:x}\r\n", sent[0].1.len()).as_bytes(), &sent[0].1, b"\r\n0\r\n\r\n"].concat();
    let target = callback_target(APP, load::COMMAND);
    let head =
        format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.write(&[head.as_bytes(), &chunks].concat()).unwrap();
    assert_eq!(client.read().unwrap().status, 200);

    let reader = Reader::open(&bridge.embedded_kafka(), &[&format!("tencent-chat.{}", load::COMMAND)]);
    let records = reader.collect(5, MINUTE);
    let values: Vec<&str> = records.iter().map(|record| str::from_utf8(&record.value).unwrap()).collect();
    for (number, body) in bodies.iter().enumerate() {
        let times = values.iter().filter(|value| value.contains(body.as_str())).count();
        assert_eq!(times, if number == 0 { 2 } else { 1 }, "{body}: {values:#?}");
    }
    assert_eq!(bridge.stop_in_order().ledger["delivered"], 5);
}

#[test]
fn another_coding_than_one_gzip_is_415_and_the_connection_goes_on() {
    let bridge = start("");
    let mut client = connect(&bridge);
    let body = gzip(load::body("@a", 0).as_bytes());
    for coding in ["br", "deflate", "zstd", "compress", "gzip, gzip", "br, gzip", "gzip,", "", "gzip;q=1"] {
        let response = post(&mut client, coding, &body);
        assert_eq!((response.status, response.header("connection")), (415, None), "{coding}");
        assert_eq!(response.header("accept-encoding"), Some("gzip, identity"));
        assert_eq!(failure(&response), "gzip is the only Content-Encoding that is taken, and only once");
    }
    assert_eq!(post(&mut client, "gzip", &body).status, 200);
    assert_eq!(refused(&bridge, "content_encoding"), 9.0);
    assert_eq!(bridge.stop_in_order().ledger["received"], 10);
}

#[test]
fn a_bomb_is_413_and_takes_no_more_memory_than_the_limit() {
    let bridge = start("");
    let padded = |bytes: usize| load::body("@a", 0) + &" ".repeat(bytes - load::body("@a", 0).len());
    let mut client = connect(&bridge);
    assert_eq!(post(&mut client, "gzip", &gzip(padded(LIMIT).as_bytes())).status, 200);
    let before = bridge.resident_bytes();
    // Some 200 MiB, in a body that itself is not too long; and in one member.
    let many = gzip(&vec![b' '; 1 << 20]).repeat(200);
    let one = gzip(&vec![b' '; 100 << 20]);
    assert!(many.len() < LIMIT && one.len() < LIMIT);
    let one_more = gzip(padded(LIMIT + 1).as_bytes());
    for body in [&one_more, &many, &one, &one] {
        let mut client = connect(&bridge);
        let response = post(&mut client, "gzip", body);
        assert_eq!((response.status, response.header("connection")), (413, Some("close")));
        assert_eq!(failure(&response), "the decompressed body is longer than 262144 bytes");
        assert!(client.is_closed());
    }
    let grown = bridge.resident_bytes().saturating_sub(before);
    assert!(grown < 50 << 20, "{grown}");
    assert_eq!(refused(&bridge, "body_too_large"), 4.0);
    assert_eq!(bridge.stop_in_order().ledger["received"], 5);
}

#[test]
fn what_is_sent_is_bounded_too_however_short_it_would_become() {
    let bridge = start("callbacks.body_bytes_max = 1000\ncallbacks.gzip_bytes_max = 1000");
    // Members of nothing.
    let many = gzip(b"").repeat(60);
    assert!(many.len() > 1000);
    let response = post(&mut connect(&bridge), "gzip", &many);
    assert_eq!((response.status, failure(&response).as_str()), (413, "the body is longer than 1000 bytes"));
    bridge.stop_in_order();
}

#[test]
pub(crate) fn broken_gzip_is_400_and_the_connection_goes_on() {
    let bridge = start("");
    let mut client = connect(&bridge);
    let whole = gzip(load::body("@a", 0).as_bytes());
    let (broken_off, damaged) = ("it breaks off", "it is damaged, or something else follows it");
    let mut wrong_sum = whole.clone();
    wrong_sum[whole.len() - 8] ^= 1;
    for (body, what) in [
        (whole[..whole.len() - 1].to_vec(), broken_off),
        (whole[..20].to_vec(), broken_off),
        (Vec::new(), broken_off),
        ([&whole[..], &whole[..5]].concat(), broken_off),
        ([&whole[..], b"{} garbage"].concat(), damaged),
        (wrong_sum, damaged),
        (load::body("@a", 0).into_bytes(), damaged),
    ] {
        let response = post(&mut client, "gzip", &body);
        assert_eq!((response.status, response.header("connection")), (400, None), "{body:?}");
        assert_eq!(failure(&response), format!("the body is not gzip: {what}"), "{body:?}");
    }
    // What decompresses is judged like any other body.
    let response = post(&mut client, "gzip", &gzip(b"no json"));
    assert!(failure(&response).starts_with("the body is not JSON"), "{response:?}");
    assert_eq!(post(&mut client, "gzip", &whole).status, 200);
    assert_eq!((refused(&bridge, "not_gzip"), refused(&bridge, "not_json")), (7.0, 1.0));
    // Only what was decompressed is kept: the rest cannot be mended.
    let reader = Reader::open(&bridge.embedded_kafka(), &["tencent-chat.rejected"]);
    let kept: Vec<Vec<u8>> = reader.collect(1, MINUTE).into_iter().map(|record| record.value).collect();
    assert_eq!(kept, [b"no json".to_vec()]);
    let stopped = bridge.stop_in_order();
    assert_eq!((stopped.ledger["delivered"], stopped.ledger["refused"]), (1, 8), "{stopped:?}");
}

#[test]
fn who_may_send_is_asked_before_what_is_sent() {
    let bridge = start("");
    let mut client = connect(&bridge);
    let target = callback_target("1", load::COMMAND);
    let response = client.request("POST", &target, &[("Content-Encoding", "gzip")], b"no gzip").unwrap();
    assert_eq!((response.status, failure(&response).as_str()), (403, "SdkAppid is not one of ours"));
    assert_eq!(refused(&bridge, "not_gzip"), 0.0);
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// With gzip taken up to [`LIMIT`], unless `settings` say otherwise.
fn start(settings: &str) -> Bridge {
    let taken = if settings.contains("gzip_bytes_max") { "" } else { "callbacks.gzip_bytes_max = 262144" };
    Bridge::start_light(APP, &format!("{PATIENT}\n{taken}\n{settings}"))
}

fn connect(bridge: &Bridge) -> Client {
    Client::connect(bridge.callbacks).unwrap()
}

fn post(client: &mut Client, coding: &str, body: &[u8]) -> Response {
    let target = callback_target(APP, load::COMMAND);
    client.request("POST", &target, &[("Content-Encoding", coding)], body).unwrap()
}

fn failure(response: &Response) -> String {
    let answer: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(answer["ActionStatus"], "FAIL");
    answer["ErrorInfo"].as_str().unwrap().to_owned()
}

fn refused(bridge: &Bridge, reason: &str) -> f64 {
    bridge.metrics()[&format!("callbridge_callbacks_refused_total{{reason=\"{reason}\"}}")]
}
