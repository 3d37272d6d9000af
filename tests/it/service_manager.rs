//! What a service manager such as systemd is told, and the sockets that it passes.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use callbridge::clock;
use rustix::io::FdFlags;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::io::fcntl_setfd;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::bridge::BridgeBuilder;
use crate::support::http;
use crate::support::http::Client;
use crate::support::load;
use crate::support::ports;
use crate::support::wait;

/// Where the file descriptors are that tests pass: far behind all others.
const FIRST_FD: i32 = 700;
/// What `callbacks.deadline_ms` is by default.
const DEADLINE: Duration = Duration::from_millis(1500);
/// The process itself, in the words of the shell that becomes it.
const OWN_PID: &str = "$$";

fn embedded() -> BridgeBuilder {
    Bridge::builder().embedded().ack("memory")
}

/// A socket on which this test hears what a service manager would.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { socket, path, _folder: folder }
    }

    /// The assignments of `env` that a process of the manager has.
    fn variables(&self, watchdog_micros: u32) -> [String; 2] {
        [format!("NOTIFY_SOCKET={}", self.path.display()), format!("WATCHDOG_USEC={watchdog_micros}")]
    }

    fn next(&self) -> String {
        let mut buffer = [0; 1000];
        let length = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The next that is not about the watchdog.
    fn next_notice(&self) -> String {
        loop {
            let notice = self.next();
            if notice != "WATCHDOG=1" {
                return notice;
            }
        }
    }
}

#[test]
fn the_service_manager_is_told_of_the_start_reloads_and_the_stop() {
    let manager = Manager::new();
    let mut bridge = embedded().under(&manager.variables(300_000)).launch();
    assert_eq!(manager.next_notice(), "READY=1");
    bridge.wait_until_ready();
    assert_eq!(bridge.admin_page("/readyz"), (200, "ready\n".to_owned()));
    for _ in 0..3 {
        assert_eq!(manager.next(), "WATCHDOG=1");
    }
    bridge.signal(Signal::HUP);
    let reloading = manager.next_notice();
    let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert!(micros.parse::<u64>().unwrap() > 0, "{reloading}");
    assert_eq!(manager.next_notice(), "READY=1");
    bridge.signal(Signal::TERM);
    assert_eq!(manager.next_notice(), "STOPPING=1");
    assert_eq!(bridge.wait().code, 0);
}

#[test]
fn the_service_manager_is_not_told_ready_before_it_is() {
    let manager = Manager::new();
    let brokers = ports::nobody();
    let builder = Bridge::builder().brokers(&brokers).ack("broker");
    let mut bridge = builder.under(&manager.variables(300_000)).launch();
    for _ in 0..3 {
        assert_eq!(manager.next(), "WATCHDOG=1");
    }
    // A reload that ends is no start.
    bridge.signal(Signal::HUP);
    wait::until("it reloads", || bridge.stderr().contains("nothing to reload by SIGHUP"));
    bridge.signal(Signal::TERM);
    assert_eq!(manager.next_notice(), "STOPPING=1");
    assert_eq!(bridge.wait().code, 0);
}

#[test]
fn a_service_manager_that_does_not_read_blocks_nothing() {
    let manager = Manager::new();
    let mut bridge = embedded().under(&manager.variables(3000)).start();
    wait::until("its socket is full", || bridge.stderr().contains("could not be notified"));
    bridge.signal(Signal::HUP);
    wait::until("it reloads", || bridge.stderr().contains("nothing to reload by SIGHUP"));
    assert_eq!(bridge.admin_page("/livez"), (200, "alive\n".to_owned()));
    assert_eq!(bridge.stop_and_wait().code, 0);
}

#[test]
fn passed_sockets_are_served_and_refuse_nobody_while_it_restarts() {
    let [callbacks, admin] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let address = callbacks.local_addr().unwrap();
    let builder = embedded().settings("callbacks.keep_accepting_ms = 0");
    for _ in 0..2 {
        // Nobody accepts yet.
        let posting = thread::spawn(move || post(address));
        let mut bridge = launch_with(&[callbacks.as_fd(), admin.as_fd()], OWN_PID, &builder);
        bridge.wait_until_ready();
        assert_eq!((bridge.callbacks, bridge.admin), (address, admin.local_addr().unwrap()));
        assert_eq!(posting.join().unwrap(), 200);
        assert_eq!(bridge.admin_page("/readyz"), (200, "ready\n".to_owned()));
        assert_eq!(bridge.stop_in_order().ledger["delivered"], 1);
    }
}

#[test]
fn time_in_the_backlog_of_a_passed_socket_counts_toward_the_deadline() {
    // It accepts connections and answers nothing, as a frozen broker does.
    let frozen = TcpListener::bind("127.0.0.1:0").unwrap();
    let brokers = frozen.local_addr().unwrap().to_string();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut silent = Client::connect(address).unwrap();
    let sending = thread::spawn(move || {
        let mut client = Client::connect(address).unwrap();
        let sent = clock::monotonic();
        assert_eq!(post_by(&mut client), 503);
        (client, sent, clock::monotonic())
    });
    // So long nobody accepts: the restart.
    thread::sleep(DEADLINE);
    let launched = clock::monotonic();
    let bridge = launch_with(&[socket.as_fd()], OWN_PID, &Bridge::builder().brokers(&brokers).ack("broker"));
    let (mut used, sent, answered) = sending.join().unwrap();
    // If that time did not count, the response would come a whole deadline after the accept.
    assert!(answered.duration_since(launched) < DEADLINE, "{:?} after it was sent", answered.duration_since(sent));
    // What is sent later has the whole deadline, also over connections that waited in the backlog.
    for client in [&mut used, &mut silent] {
        let sent = clock::monotonic();
        assert_eq!(post_by(client), 503);
        assert!(sent.elapsed() >= DEADLINE, "{:?}", sent.elapsed());
    }
    drop(bridge);
}

#[test]
fn one_passed_socket_is_for_callbacks_and_a_third_is_ignored() {
    let sockets = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
    let mut bridge = launch_with(&[sockets[0].as_fd()], OWN_PID, &embedded());
    bridge.wait_until_ready();
    assert_eq!(bridge.callbacks, addresses[0]);
    assert_eq!((post(bridge.callbacks), bridge.admin_page("/livez").0), (200, 200));
    drop(bridge);
    let mut bridge = launch_with(&sockets.each_ref().map(AsFd::as_fd), OWN_PID, &embedded());
    bridge.wait_until_ready();
    assert_eq!([bridge.callbacks, bridge.admin], addresses[..2]);
    assert!(bridge.stop_in_order().stderr.contains("sockets beyond the second are ignored"));
}

#[test]
fn passed_sockets_with_names_are_taken_by_name_and_a_wrong_name_ends_it_with_78() {
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
    let passed = sockets.each_ref().map(AsFd::as_fd);
    let mut bridge = launch_with_names(&passed, "admin:callbacks", OWN_PID, &embedded());
    bridge.wait_until_ready();
    assert_eq!([bridge.admin, bridge.callbacks], addresses);
    bridge.stop_in_order();
    // What systemd calls a socket whose unit has no FileDescriptorName=.
    let mut bridge = launch_with_names(&passed, "callbridge.socket:callbridge.socket", OWN_PID, &embedded());
    bridge.wait_until_ready();
    assert_eq!([bridge.callbacks, bridge.admin], addresses);
    bridge.stop_in_order();
    let stopped = launch_with_names(&passed, "callbacks:metrics", OWN_PID, &embedded()).wait();
    let says = r#"socket 2 of those passed has the name \"metrics\" (LISTEN_FDNAMES)"#;
    assert!(stopped.code == 78 && stopped.stderr.contains(says), "{stopped:?}");
}

#[test]
fn sockets_passed_to_another_process_are_left_alone() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut bridge = launch_with(&[socket.as_fd()], "1", &embedded());
    bridge.wait_until_ready();
    assert_ne!(bridge.callbacks, socket.local_addr().unwrap());
    bridge.stop_in_order();
}

#[test]
fn a_passed_socket_that_is_no_listening_tcp_socket_ends_it_with_78() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (sockets, expected) in [
        ([connected.as_fd(), listener.as_fd()], "socket 1 of those passed (LISTEN_FDS): it does not listen"),
        ([listener.as_fd(), udp.as_fd()], "socket 2 of those passed (LISTEN_FDS): fd"),
    ] {
        let stopped = launch_with(&sockets, OWN_PID, &embedded()).wait();
        assert!(stopped.code == 78 && stopped.stderr.contains(expected), "{stopped:?}");
    }
}

fn post(callbacks: SocketAddr) -> u16 {
    post_by(&mut Client::connect(callbacks).unwrap())
}

fn post_by(client: &mut Client) -> u16 {
    let target = http::callback_target(APP, load::COMMAND);
    client.post(&target, load::body("@a", 0).as_bytes()).unwrap().status
}

/// Launches it with `sockets`, for the process `pid`.
fn launch_with(sockets: &[BorrowedFd<'_>], pid: &str, builder: &BridgeBuilder) -> Bridge {
    launch_with_names(sockets, "", pid, builder)
}

/// The same with the names of the sockets, a colon between two.
fn launch_with_names(sockets: &[BorrowedFd<'_>], names: &str, pid: &str, builder: &BridgeBuilder) -> Bridge {
    // Until they are inherited, nobody else takes a descriptor between two of them.
    static PASSING: Mutex<()> = Mutex::new(());
    let _passing = PASSING.lock().unwrap();
    let passed: Vec<OwnedFd> = sockets.iter().map(|fd| fcntl_dupfd_cloexec(fd, FIRST_FD).unwrap()).collect();
    for (fd, expected) in passed.iter().zip(FIRST_FD..) {
        assert_eq!(fd.as_raw_fd(), expected, "one behind the other");
        fcntl_setfd(fd, FdFlags::empty()).unwrap();
    }
    let variables = [
        format!("LISTEN_FDS={}", sockets.len()),
        format!("LISTEN_FDS_FIRST_FD={FIRST_FD}"),
        format!("LISTEN_FDNAMES={names}"),
    ];
    let shell = ["sh".to_owned(), "-c".to_owned(), format!("LISTEN_PID={pid} exec \"$@\""), "sh".to_owned()];
    builder.clone().under(&variables).under(&shell).launch()
}
