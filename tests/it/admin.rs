//! The admin listener responds to probes despite clients that are idle, slow, do not read, or are too many.

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

/// The limit of concurrent connections.
const CONNECTIONS_MAX: usize = 64;
/// A probe should take less than a second; the test allows more, for a busy machine.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

fn idle(bridge: &Bridge, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_nth| TcpStream::connect(bridge.admin).unwrap()).collect()
}

/// Connections that send `request`, never read, and have a small receive buffer.
fn not_reading(address: SocketAddr, count: usize, request: &[u8]) -> Vec<TcpStream> {
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
        assert!(begin.elapsed() < PROBE_LIMIT, "{path} after {:?}", begin.elapsed());
    }
}

/// Whether the peer has closed the connection. Reads and drops what it has sent.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_all) => true,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

fn assert_all_closed(mut streams: Vec<TcpStream>) {
    wait::until("they are closed", || {
        streams.retain_mut(|stream| !is_closed(stream));
        streams.is_empty()
    });
}

#[test]
fn idle_connections_do_not_delay_a_probe_and_are_closed() {
    let bridge = Bridge::light("");
    let streams = idle(&bridge, CONNECTIONS_MAX);
    assert_probes_are_answered(&bridge);
    assert_all_closed(streams);
}

#[test]
fn clients_that_do_not_read_do_not_delay_a_probe_and_are_closed() {
    let bridge = Bridge::light("");
    let pipelined = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(50);
    let streams = not_reading(bridge.admin, CONNECTIONS_MAX, pipelined.as_bytes());
    assert_probes_are_answered(&bridge);
    // Detected by writing, because reading would free the receive buffer.
    wait::until("they are closed", || streams.iter().all(|mut stream| stream.write_all(b"\r\n").is_err()));
}

#[test]
fn incomplete_requests_do_not_delay_a_probe_and_are_closed() {
    let bridge = Bridge::light("");
    let halves = ["GET /livez HTTP/1.1\r\nHos", "POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf"];
    let open = |half: &str| not_reading(bridge.admin, CONNECTIONS_MAX, half.as_bytes());
    let streams: Vec<TcpStream> = halves.into_iter().flat_map(open).collect();
    assert_probes_are_answered(&bridge);
    assert_all_closed(streams);
}

#[test]
fn a_head_sent_byte_by_byte_times_out_after_a_second() {
    let bridge = Bridge::light("");
    let mut streams = not_reading(bridge.admin, CONNECTIONS_MAX, b"GET /livez HTTP/1.1\r\nX: ");
    thread::scope(|scope| {
        scope.spawn(|| {
            while !streams.is_empty() {
                thread::sleep(Duration::from_millis(200));
                streams.retain_mut(|stream| stream.write_all(b"x").is_ok() && !is_closed(stream));
            }
        });
        for _nth in 0..5 {
            assert_probes_are_answered(&bridge);
        }
    });
}

#[test]
fn a_burst_of_connections_does_not_delay_a_probe() {
    let bridge = Bridge::light("");
    let _streams = idle(&bridge, 1000);
    assert_probes_are_answered(&bridge);
}

#[test]
fn a_connection_is_reused_and_closed_after_it_is_idle() {
    let bridge = Bridge::light("");
    let mut client = Client::connect(bridge.admin).unwrap();
    for path in ["/livez", "/readyz", "/metrics"] {
        let response = client.request("GET", path, &[], b"").unwrap();
        assert_eq!((response.status, response.header("connection")), (200, None));
    }
    assert!(client.is_closed());
}

#[test]
fn a_client_that_has_shut_down_its_sending_side_gets_a_response() {
    let bridge = Bridge::light("");
    let mut stream = TcpStream::connect(bridge.admin).unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(Client::over(stream).unwrap().read().unwrap().status, 200);
}

#[test]
fn another_method_is_405_with_the_allowed_methods() {
    let bridge = Bridge::light("");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"] {
        let response = Client::connect(bridge.admin).unwrap().request(method, "/livez", &[], b"").unwrap();
        assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
}
