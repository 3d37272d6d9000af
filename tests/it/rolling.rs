//! Rolling restarts of two callbridges behind real proxies, with the configurations of `deploy/proxy`.
//!
//! `CALLBRIDGE_ROLLING_RATE`, `_ROUNDS` and `_ACK` make them longer: `make rolling`.

use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use callbridge::clock;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::proxies;
use crate::proxies::Proxy;
use crate::proxies::Upstreams;
use crate::seeds::APP;
use crate::support::alone::Alone;
use crate::support::bridge::Bridge;
use crate::support::bridge::BridgeBuilder;
use crate::support::http::Client;
use crate::support::http::callback_target;
use crate::support::kafka::Kafka;
use crate::support::load;
use crate::support::ports;
use crate::support::stub::Stub;
use crate::support::wait;

const CONNECTIONS: u64 = 16;

/// When Tencent gives up.
const SENDER_DEADLINE: Duration = Duration::from_secs(2);

/// Between the return of one replica and the stop of the next: HAProxy's next check is due.
const SETTLE: Duration = Duration::from_millis(600);

/// How often a planted fault may stay hidden.
const ROUNDS_UNTIL_FOUND: u32 = 6;

/// A callback of some 200 KB.
const LONG: usize = 200_000;

/// Of a long body, on the sender's network.
const BETWEEN_PIECES: Duration = Duration::from_millis(20);

type Start = fn(Upstreams, &dyn Fn(String) -> String) -> Proxy;

const NGINX: Start = |upstreams, change| proxies::start_nginx(upstreams, |config| change(in_root(&config)));
const HAPROXY: Start = |upstreams, change| proxies::start_haproxy(upstreams, change);

fn in_root(config: &str) -> String {
    config.replace("location /tencent/", "location /")
}

#[test]
fn a_rolling_restart_behind_nginx_fails_no_callback() {
    restarts_fail_no_callback("nginx", NGINX);
}

#[test]
fn a_rolling_restart_behind_haproxy_fails_no_callback() {
    restarts_fail_no_callback("haproxy", HAPROXY);
}

#[test]
fn nginx_without_an_essential_line_fails_callbacks() {
    let lines = [
        ("max_fails=0", "", Signal::KILL, 0),
        ("proxy_next_upstream error timeout http_503 non_idempotent;", "", Signal::KILL, 0),
        (" non_idempotent;", ";", Signal::KILL, 0),
    ];
    essential_lines("nginx", NGINX, &lines);
}

#[test]
fn haproxy_without_an_essential_line_fails_callbacks() {
    let lines = [
        ("retry-on conn-failure empty-response 503", "", Signal::KILL, 0),
        (" empty-response", "", Signal::KILL, 0),
        ("option redispatch 1", "", Signal::KILL, 0),
        ("retries 2", "retries 0", Signal::KILL, 0),
        ("option http-buffer-request", "", Signal::KILL, LONG),
        ("tune.bufsize 278528", "", Signal::KILL, LONG),
    ];
    essential_lines("haproxy", HAPROXY, &lines);
}

#[test]
fn a_503_of_one_replica_is_tried_on_the_other_and_only_where_the_line_says_so() {
    if proxies::missing("nginx") || proxies::missing("haproxy") {
        return;
    }
    let bridge = Bridge::light("");
    // As a callbridge with a full journal answers.
    let full = Stub::start("503 Service Unavailable");
    let upstreams = Upstreams { callbacks: [full.address, bridge.callbacks], admin: [bridge.admin; 2] };
    for (start, line, without) in [(NGINX, " http_503 ", " "), (HAPROXY, "empty-response 503", "empty-response")] {
        let failed = |change: &dyn Fn(String) -> String| {
            let proxy = start(upstreams, change);
            let statuses = (0..8).map(|number| post(proxy.address, number));
            statuses.filter(|status| *status != 200).count()
        };
        assert_eq!(failed(&|config| config), 0, "{line}");
        assert!(failed(&|config| replaced(&config, line, without)) > 0, "{line}");
    }
}

fn restarts_fail_no_callback(program: &str, start: Start) {
    if proxies::missing(program) {
        return;
    }
    let Some(mut replicas) = Replicas::start(program) else { return };
    let _alone = Alone::take();
    let rounds = setting("ROUNDS", 2);
    for (signal, padding) in [(Signal::TERM, 0), (Signal::KILL, 0), (Signal::KILL, LONG)] {
        let proxy = start(replicas.upstreams, &|config| config);
        let load = Load::start(proxy.address, padding);
        for _round in 0..rounds {
            replicas.restart_each(signal);
        }
        let (sent, failures) = load.stop();
        assert!(sent > 100, "{sent} callbacks sent");
        assert!(failures.is_empty(), "{signal:?}, {padding} bytes: {} of {sent} failed: {failures:?}", failures.len());
    }
}

/// The same restarts with one line of the configuration replaced at a time: each must fail callbacks.
fn essential_lines(program: &str, start: Start, lines: &[(&str, &str, Signal, usize)]) {
    if proxies::missing(program) {
        return;
    }
    let Some(mut replicas) = Replicas::start(&format!("{program}-planted")) else { return };
    let _alone = Alone::take();
    let mut hidden = Vec::new();
    for (line, without, signal, padding) in lines {
        let proxy = start(replicas.upstreams, &|config| replaced(&config, line, without));
        let load = Load::start(proxy.address, *padding);
        let mut rounds = 0;
        while load.failed() == 0 && rounds < ROUNDS_UNTIL_FOUND {
            replicas.restart_each(*signal);
            rounds += 1;
        }
        let (sent, failures) = load.stop();
        if failures.is_empty() {
            hidden.push(format!("{line}: none of {sent} failed in {rounds} rounds"));
        }
    }
    assert!(hidden.is_empty(), "{hidden:#?}");
}

fn replaced(config: &str, line: &str, without: &str) -> String {
    assert!(config.contains(line), "{line}");
    config.replace(line, without)
}

fn setting(name: &str, default: u32) -> u32 {
    let value = env::var(format!("CALLBRIDGE_ROLLING_{name}"));
    value.map_or(default, |value| value.parse().expect("a number"))
}

/// Two callbridges on ports that they keep, each with a journal of its own.
struct Replicas {
    upstreams: Upstreams,
    running: [Option<Bridge>; 2],
    bridge: BridgeBuilder,
    folder: TempDir,
}

impl Replicas {
    fn start(prefix: &str) -> Option<Self> {
        let kafka = Kafka::shared()?;
        let [one, two, admin_one, admin_two] = ports::free();
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let upstreams = Upstreams { callbacks: [one, two].map(local), admin: [admin_one, admin_two].map(local) };
        let ack = env::var("CALLBRIDGE_ROLLING_ACK").unwrap_or_else(|_unset| "journal".to_owned());
        let bridge = Bridge::builder().brokers(&kafka.bootstrap()).topics(prefix).ack(&ack);
        let folder = TempDir::with_prefix_in("rolling-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut replicas = Self { upstreams, running: [None, None], bridge, folder };
        replicas.launch(0);
        replicas.launch(1);
        Some(replicas)
    }

    /// Starts a replica and waits until it is ready.
    fn launch(&mut self, index: usize) {
        let dir: PathBuf = self.folder.path().join(index.to_string());
        let Upstreams { callbacks, admin } = self.upstreams;
        let mut bridge = self.bridge.clone().listening_on(callbacks[index], admin[index]).launch_in(&dir);
        wait::until("the replica is ready", || {
            assert_eq!(bridge.exit_code(), None);
            let ready = Client::connect(admin[index]).and_then(|mut it| it.request("GET", "/readyz", &[], b""));
            ready.is_ok_and(|response| response.status == 200)
        });
        self.running[index] = Some(bridge);
    }

    /// Stops one, starts it again, then the other.
    fn restart_each(&mut self, signal: Signal) {
        for index in 0..self.running.len() {
            let bridge = self.running[index].take().unwrap();
            if signal == Signal::KILL {
                bridge.kill9()
            } else {
                bridge.stop_and_wait()
            };
            self.launch(index);
            thread::sleep(SETTLE);
        }
    }
}

/// What a callback came back with, if not with 200 in time.
#[derive(Debug)]
#[expect(dead_code, reason = "printed when a test fails")]
struct Failure {
    status: Option<u16>,
    took: Duration,
}

/// Senders at a fixed rate over kept-alive connections.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<Failure>>>,
    senders: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr, padding: usize) -> Self {
        // Long bodies by their bytes.
        let rate = if padding == 0 { setting("RATE", 400) } else { 80 };
        let pause = Duration::from_secs(CONNECTIONS) / rate;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let sender = |number: u64| {
            let (stop, sent, failures) = (Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&failures));
            thread::spawn(move || {
                let mut connection = None;
                let mut due = clock::monotonic() + pause.mul_f64(f64::from(u32::try_from(number).unwrap()) / 16.0);
                while !stop.load(Ordering::Relaxed) {
                    thread::sleep(due.saturating_duration_since(clock::monotonic()));
                    // A sender that is late does not make up for it: what counts is each callback.
                    due = due.max(clock::monotonic()) + pause;
                    let sequence = sent.fetch_add(1, Ordering::Relaxed);
                    let body = body(number, sequence, padding);
                    let start = clock::monotonic();
                    let status = send(&mut connection, address, &body);
                    let took = clock::monotonic().duration_since(start);
                    if status != Some(200) || took > SENDER_DEADLINE {
                        failures.lock().unwrap().push(Failure { status, took });
                    }
                }
            })
        };
        let senders = (0..CONNECTIONS).map(sender).collect();
        Self { stop, sent, failures, senders }
    }

    fn failed(&self) -> usize {
        self.failures.lock().unwrap().len()
    }

    /// How many were sent, and those that failed.
    fn stop(self) -> (u64, Vec<Failure>) {
        self.stop.store(true, Ordering::Relaxed);
        for sender in self.senders {
            sender.join().unwrap();
        }
        (self.sent.load(Ordering::Relaxed), Arc::try_unwrap(self.failures).unwrap().into_inner().unwrap())
    }
}

fn body(number: u64, sequence: u64, padding: usize) -> String {
    let callback = load::body(&format!("@TOA#_rolling_{number}"), sequence);
    if padding == 0 {
        return callback;
    }
    format!("{{\"Padding\":\"{}\",{}", "x".repeat(padding), &callback[1..])
}

fn send(connection: &mut Option<Client>, address: SocketAddr, body: &str) -> Option<u16> {
    let mut client = connection.take().or_else(|| Client::connect(address).ok())?;
    let target = callback_target(APP, load::COMMAND);
    let head = format!("POST {target} HTTP/1.1\r\nHost: callbridge.test\r\nContent-Length: {}\r\n\r\n", body.len());
    // A long body arrives in pieces.
    let (first, rest) = body.split_at(body.len().min(LONG / 2));
    client.write(&[head.as_bytes(), first.as_bytes()].concat()).ok()?;
    if !rest.is_empty() {
        thread::sleep(BETWEEN_PIECES);
        client.write(rest.as_bytes()).ok()?;
    }
    let response = client.read().ok()?;
    if response.header("connection") != Some("close") {
        *connection = Some(client);
    }
    Some(response.status)
}

fn post(address: SocketAddr, number: u64) -> u16 {
    send(&mut None, address, &body(number, number, 0)).unwrap_or_default()
}
