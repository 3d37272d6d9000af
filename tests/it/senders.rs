//! Where callbacks come from: networks that may send, and proxies that are believed.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::Domain;
use socket2::Socket;
use socket2::Type;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::http::Client;
use crate::support::http::callback_target;
use crate::support::load;
use crate::support::reader::Reader;

const MINUTE: Duration = Duration::from_secs(60);

/// Peers of the loopback network: all of them are this machine.
const SENDER: Ipv4Addr = Ipv4Addr::new(127, 10, 0, 1);
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 20, 0, 1);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 30, 0, 1);

const NETWORKS: &str =
    "callbacks.senders = [\"127.10.0.0/16\", \"203.0.113.7\"]\ncallbacks.proxies = [\"127.20.0.0/16\"]";

#[test]
pub(crate) fn callbacks_are_taken_from_the_configured_networks_only() {
    let bridge = Bridge::light(NETWORKS);
    assert_eq!(status(&mut connect(&bridge, SENDER), &[]), 200);
    // Peers from elsewhere are not even read.
    for peer in [STRANGER, Ipv4Addr::LOCALHOST] {
        assert!(connect(&bridge, peer).is_closed());
    }
    assert_eq!(bridge.metrics()["callbridge_connections_unopened_total{reason=\"sender\"}"], 2.0);
    // A proxy passes on what others send, and sends no callbacks itself.
    for forwarded in [&[][..], &["127.30.0.1"]] {
        let mut client = connect(&bridge, PROXY);
        let headers: Vec<(&str, &str)> = forwarded.iter().map(|value| ("X-Forwarded-For", *value)).collect();
        let response = client.request("POST", &callback_target(APP, load::COMMAND), &headers, b"{}").unwrap();
        assert_eq!((response.status, response.header("connection")), (403, Some("close")));
        assert!(response.text().contains("callbacks from this sender are not allowed"), "{}", response.text());
        assert!(client.is_closed());
    }
    assert_eq!(bridge.metrics()["callbridge_callbacks_refused_total{reason=\"sender\"}"], 2.0);
    let stopped = bridge.stop_and_wait();
    assert!(stopped.is_balanced() && stopped.ledger["received"] == 3, "{stopped:?}");
}

#[test]
fn checks_of_a_proxy_itself_are_answered_and_no_callback_of_its_is_taken() {
    let bridge = Bridge::light(NETWORKS);
    let check = |method: &str, headers: &[(&str, &str)], body: &[u8]| {
        connect(&bridge, PROXY).request(method, "/", headers, body).unwrap().status
    };
    for method in ["GET", "HEAD", "OPTIONS", "POST"] {
        assert_eq!(check(method, &[], b""), 200, "{method}");
        assert_eq!(check(method, &[("X-Forwarded-For", "127.30.0.1")], b""), 403, "{method}");
        assert_eq!(check(method, &[("X-Forwarded-For", "127.10.0.1")], b""), 200, "{method}");
    }
    assert_eq!(check("POST", &[], b"{\"a\":1}"), 403);
    assert_eq!(connect(&bridge, SENDER).request("GET", "/", &[], b"").unwrap().status, 200);
    let stopped = bridge.stop_and_wait();
    assert!(stopped.is_balanced(), "{stopped:?}");
    // The POST of a stranger by way of the proxy, and that with a body.
    assert_eq!((stopped.ledger["received"], stopped.ledger["refused"]), (2, 2), "{stopped:?}");
}

#[test]
fn x_forwarded_for_is_believed_from_configured_proxies_only() {
    let bridge = Bridge::light(NETWORKS);
    let of = |peer, forwarded: &[&str]| status(&mut connect(&bridge, peer), forwarded);
    assert_eq!(of(PROXY, &["127.10.9.9"]), 200);
    assert_eq!(of(PROXY, &["1.1.1.1, 203.0.113.7, 127.20.0.2"]), 200);
    assert_eq!(of(PROXY, &["1.1.1.1", "203.0.113.7"]), 200);
    assert_eq!(of(PROXY, &["203.0.113.7, 1.1.1.1"]), 403);
    assert_eq!(of(PROXY, &["203.0.113.7", "nonsense"]), 403);
    assert_eq!(of(SENDER, &["1.1.1.1"]), 200);
}

#[test]
fn a_proxy_s_header_says_whose_connection_it_is() {
    let bridge =
        Bridge::light(&format!("{NETWORKS}\ncallbacks.proxy_protocol = true\ncallbacks.head_timeout_ms = 60000"));
    let binary = |source: [u8; 4]| {
        let header = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &source, &[127, 0, 0, 1, 0x12, 0x34, 0, 80]];
        header.concat()
    };
    for (header, expected) in [
        (b"PROXY TCP4 203.0.113.7 127.0.0.1 4660 80\r\n".to_vec(), 200),
        (b"PROXY TCP4 203.0.113.8 127.0.0.1 4660 80\r\n".to_vec(), 403),
        (b"PROXY UNKNOWN\r\n".to_vec(), 403),
        (binary([203, 0, 113, 7]), 200),
        (binary([203, 0, 113, 8]), 403),
    ] {
        let mut client = connect(&bridge, PROXY);
        client.write(&header).unwrap();
        assert_eq!(status(&mut client, &[]), expected, "{header:?}");
        if expected == 200 {
            assert_eq!(status(&mut client, &[]), 200, "the header comes once");
        }
    }
    // All in one piece, and byte by byte.
    let whole = [&binary([203, 0, 113, 7])[..], &request(b"{")].concat();
    for size in [whole.len(), 1] {
        let mut client = connect(&bridge, PROXY);
        whole.chunks(size).for_each(|part| client.write(part).unwrap());
        assert_eq!(client.read().unwrap().status, 400);
    }
    let rejected = Reader::open(&bridge.embedded_kafka(), &["tencent-chat.rejected"]).collect(2, MINUTE);
    let peer = ("callbridge-peer".to_owned(), b"203.0.113.7:4660".to_vec());
    assert!(rejected.iter().all(|record| record.headers.contains(&peer)), "{rejected:?}");

    // From anyone else it is no HTTP.
    let mut stranger = connect(&bridge, SENDER);
    stranger.write(b"PROXY TCP4 203.0.113.7 127.0.0.1 4660 80\r\n\r\n").unwrap();
    assert_eq!(stranger.read().unwrap().status, 400);
    assert_eq!(status(&mut connect(&bridge, SENDER), &[]), 200);
}

#[test]
fn a_client_that_the_proxy_does_not_name_names_none_itself() {
    let bridge = Bridge::light(&format!("{NETWORKS}\ncallbacks.proxy_protocol = true"));
    let v2 = |command: u8, family: u8, rest: &[u8]| {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, rest].concat()
    };
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 203.0.113.7 127.0.0.1 1 2\r\n".to_vec(),
        v2(0x20, 0x00, b""),
        v2(0x20, 0x11, &[203, 0, 113, 7, 127, 0, 0, 1, 0, 1, 0, 2]),
        v2(0x21, 0x00, b""),
        v2(0x21, 0x31, &[0; 216]),
    ] {
        let connect = || {
            let mut client = connect(&bridge, PROXY);
            client.write(&header).unwrap();
            client
        };
        assert_eq!(status(&mut connect(), &["203.0.113.7"]), 403, "{header:?}");
        // Whatever it writes, it is the proxy's own check.
        let mut client = connect();
        for headers in [&[][..], &[("X-Forwarded-For", "8.8.8.8")]] {
            assert_eq!(client.request("OPTIONS", "/", headers, b"").unwrap().status, 200, "{header:?}");
        }
    }
}

#[test]
fn a_proxy_without_its_header_gets_nothing_and_a_slow_one_is_not_waited_for() {
    let proxy = format!("{NETWORKS}\ncallbacks.proxy_protocol = true");
    let bridge = Bridge::light(&format!("{proxy}\ncallbacks.head_timeout_ms = 60000"));
    let mut client = connect(&bridge, PROXY);
    client.write(&request(b"{}")).unwrap();
    assert!(client.is_closed());
    bridge.metrics_until(|metrics| metrics["callbridge_connections_unopened_total{reason=\"proxy_header\"}"] == 1.0);

    let bridge = Bridge::light(&format!("{proxy}\ncallbacks.head_timeout_ms = 300"));
    let mut client = connect(&bridge, PROXY);
    client.write(b"PROXY TCP4 203").unwrap();
    assert!(client.is_closed() && connect(&bridge, PROXY).is_closed());
    bridge.metrics_until(|metrics| metrics["callbridge_connections_unopened_total{reason=\"late\"}"] == 2.0);
    let stopped = bridge.stop_and_wait();
    assert_eq!((stopped.code, stopped.ledger["received"]), (0, 0), "{stopped:?}");
}

/// A connection from that address of the loopback network.
fn connect(bridge: &Bridge, from: Ipv4Addr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&bridge.callbacks.into()).unwrap();
    Client::over(socket.into()).unwrap()
}

/// What a callback is answered with these `X-Forwarded-For` headers.
fn status(client: &mut Client, forwarded: &[&str]) -> u16 {
    let headers: Vec<(&str, &str)> = forwarded.iter().map(|value| ("X-Forwarded-For", *value)).collect();
    let body = load::body("@TOA#_senders", 0);
    client.request("POST", &callback_target(APP, load::COMMAND), &headers, body.as_bytes()).unwrap().status
}

fn request(body: &[u8]) -> Vec<u8> {
    let target = callback_target(APP, load::COMMAND);
    let head = format!("POST {target} HTTP/1.1\r\nHost: callbridge.test\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
