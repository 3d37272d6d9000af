//! The admin listener under clients that are silent, slow, do not read, or are too many: a probe is answered all the same.

use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use callbridge::clock;
use socket2::Domain;
use socket2::Socket;
use socket2::Type;

use crate::support::bridge::Bridge;
use crate::support::http::Client;
use crate::support::wait;

/// As many as are served at once.
const ALL_PLACES: usize = 64;
/// A probe has a second. This is for a busy machine, and still far below what a probe waited for before.
const PROMPTLY: Duration = Duration::from_secs(10);

fn silent(bridge: &Bridge, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_nth| TcpStream::connect(bridge.admin).unwrap()).collect()
}

/// Connections with that request, of which nobody will read what they are answered, and which have little room for it.
fn deaf(address: SocketAddr, count: usize, request: &[u8]) -> Vec<TcpStream> {
    let connect = |_nth| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&address.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.write_all(request).unwrap();
        stream
    };
    (0..count).map(connect).collect()
}

fn assert_probes_are_answered(bridge: &Bridge) {
    for path in ["/livez", "/readyz", "/metrics"] {
        let begin = clock::monotonic();
        assert_eq!(bridge.admin_page(path).0, 200, "{path}");
        assert!(begin.elapsed() < PROMPTLY, "{path} after {:?}", begin.elapsed());
    }
}

/// Whether the other side has ended it. What it has sent before is read and dropped.
fn is_ended(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_all) => true,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

fn assert_all_end(mut streams: Vec<TcpStream>) {
    wait::until("they are ended", || {
        streams.retain_mut(|stream| !is_ended(stream));
        streams.is_empty()
    });
}

#[test]
fn silent_connections_do_not_keep_a_probe_waiting_and_end() {
    let bridge = Bridge::light("");
    let streams = silent(&bridge, ALL_PLACES);
    assert_probes_are_answered(&bridge);
    assert_all_end(streams);
}

#[test]
fn clients_that_do_not_read_do_not_keep_a_probe_waiting_and_end() {
    let bridge = Bridge::light("");
    let pipelined = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(50);
    let streams = deaf(bridge.admin, ALL_PLACES, pipelined.as_bytes());
    assert_probes_are_answered(&bridge);
    // Without reading, which would give it a place to write to.
    wait::until("they are ended", || streams.iter().all(|mut stream| stream.write_all(b"\r\n").is_err()));
}

#[test]
fn half_heads_and_half_bodies_do_not_keep_a_probe_waiting_and_end() {
    let bridge = Bridge::light("");
    let halves = ["GET /livez HTTP/1.1\r\nHos", "POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf"];
    let open = |half: &str| deaf(bridge.admin, ALL_PLACES, half.as_bytes());
    let streams: Vec<TcpStream> = halves.into_iter().flat_map(open).collect();
    assert_probes_are_answered(&bridge);
    assert_all_end(streams);
}

#[test]
fn a_head_that_comes_byte_by_byte_has_a_second_in_all() {
    let bridge = Bridge::light("");
    let mut streams = deaf(bridge.admin, ALL_PLACES, b"GET /livez HTTP/1.1\r\nX: ");
    thread::scope(|scope| {
        scope.spawn(|| {
            while !streams.is_empty() {
                thread::sleep(Duration::from_millis(200));
                streams.retain_mut(|stream| stream.write_all(b"x").is_ok() && !is_ended(stream));
            }
        });
        for _nth in 0..5 {
            assert_probes_are_answered(&bridge);
        }
    });
}

#[test]
fn a_burst_of_connections_does_not_keep_a_probe_waiting() {
    let bridge = Bridge::light("");
    let _streams = silent(&bridge, 1000);
    assert_probes_are_answered(&bridge);
}

#[test]
fn a_connection_is_kept_between_requests_for_a_second() {
    let bridge = Bridge::light("");
    let mut client = Client::connect(bridge.admin).unwrap();
    for path in ["/livez", "/readyz", "/metrics"] {
        let response = client.request("GET", path, &[], b"").unwrap();
        assert_eq!((response.status, response.header("connection")), (200, None));
    }
    assert!(client.is_closed());
}

#[test]
fn a_client_that_has_shut_its_side_down_is_answered() {
    let bridge = Bridge::light("");
    let mut stream = TcpStream::connect(bridge.admin).unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(Client::over(stream).unwrap().read().unwrap().status, 200);
}

#[test]
fn another_method_is_405_with_the_methods_that_are_allowed() {
    let bridge = Bridge::light("");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"] {
        let response = Client::connect(bridge.admin).unwrap().request(method, "/livez", &[], b"").unwrap();
        assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
}
