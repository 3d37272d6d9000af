//! `callbridge healthcheck`, against a running callbridge and against servers that are not well.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use callbridge::clock;
use rustix::process::Signal;

use crate::support::bridge::Bridge;
use crate::support::ports;

/// The limit is 2 s; the rest is for a busy machine.
const LIMIT: Duration = Duration::from_secs(6);

/// The exit code and stderr, asked of an address that a flag or a variable names.
fn healthcheck(args: &[&str], variable: Option<&str>) -> (Option<i32>, String) {
    let begin = clock::monotonic();
    let mut command = Command::new(env!("CARGO_BIN_EXE_callbridge"));
    command.arg("healthcheck").args(args).env_remove("CALLBRIDGE_ADMIN_LISTEN");
    let output = command.envs(variable.map(|value| ("CALLBRIDGE_ADMIN_LISTEN", value))).output().unwrap();
    assert!(begin.elapsed() < LIMIT, "{:?}", begin.elapsed());
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// A server that answers one request with `response`, then closes.
fn server(response: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _peer) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let _read = stream.read(&mut request).unwrap();
        stream.write_all(response).unwrap();
    });
    address
}

#[test]
fn healthcheck_exits_0_while_callbridge_is_alive_and_1_when_it_hangs() {
    let mut bridge = Bridge::light("");
    let admin = bridge.admin.to_string();
    let alive = (Some(0), String::new());
    assert_eq!(healthcheck(&["--admin", &admin], None), alive);
    assert_eq!(healthcheck(&[], Some(&admin)), alive);
    assert_eq!(healthcheck(&[], Some(&format!("0.0.0.0:{}", bridge.admin.port()))), alive, "as it may be configured");

    bridge.signal(Signal::STOP);
    let (code, stderr) = healthcheck(&["--admin", &admin], None);
    bridge.signal(Signal::CONT);
    assert_eq!((code, stderr), (Some(1), format!("callbridge healthcheck: {admin}: no response within 2 s\n")));
}

#[test]
fn healthcheck_exits_1_and_says_why_when_the_response_is_not_200() {
    let cases: &[(&[u8], &str)] = &[
        (
            b"HTTP/1.1 503 Service Unavailable\r\n\r\nthe pump stands still\n",
            "503 Service Unavailable: the pump stands still",
        ),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "404 Not Found"),
        (b"HTTP/1.1 200 OK\r\n", "not an HTTP response"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not an HTTP response"),
        (b"", "not an HTTP response"),
    ];
    for (response, expected) in cases {
        let (code, stderr) = healthcheck(&["--admin", &server(response).to_string()], None);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
    let [closed] = ports::free();
    for (address, expected) in [
        (format!("127.0.0.1:{closed}"), "no connection: Connection refused"),
        ("127.0.0.1".to_owned(), "no connection: invalid socket address"),
        ("no-such-host.invalid:9464".to_owned(), "no "),
    ] {
        let (code, stderr) = healthcheck(&["--admin", &address], None);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
}
