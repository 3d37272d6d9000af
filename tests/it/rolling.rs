//! Rolling restarts of two callbridges behind real proxies, with the configurations of `deploy/proxy`.
//!
//! `CALLBRIDGE_ROLLING_RATE`, `_ROUNDS` and `_ACK` make them longer: `make rolling`, which prints how many callbacks of which size failed.

use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

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
use crate::support::torture;
use crate::support::wait;

/// Connections of short callbacks, and of long ones.
const SHORT_SENDERS: u32 = 32;
const LONG_SENDERS: u32 = 8;

/// When Tencent gives up.
const SENDER_DEADLINE: Duration = Duration::from_secs(2);

/// Between the return of one replica and the stop of the next: HAProxy's next check is due.
const SETTLE: Duration = Duration::from_millis(600);

/// How often a planted fault may stay hidden.
const ROUNDS_UNTIL_FOUND: u32 = 6;

/// A callback of some 200 KB, and how many of them are sent a second beside the short ones: 16 MB.
const LONG: usize = 200_000;
const LONG_RATE: u32 = 80;

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
        ("max_fails=0", ""),
        ("proxy_next_upstream error timeout http_503 non_idempotent;", ""),
        (" non_idempotent;", ";"),
    ];
    essential_lines("nginx", NGINX, &lines);
}

#[test]
fn haproxy_without_an_essential_line_fails_callbacks() {
    let lines = [
        ("retry-on conn-failure empty-response 503", ""),
        (" empty-response", ""),
        ("option redispatch 1", ""),
        ("retries 2", "retries 0"),
        ("option http-buffer-request", ""),
        ("tune.bufsize 278528", ""),
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
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::KILL, "SIGKILL")] {
        let proxy = start(replicas.upstreams, &|config| config);
        let (load, began) = (Load::start(proxy.address), clock::monotonic());
        for _round in 0..rounds {
            replicas.restart_each(signal);
        }
        let took = began.elapsed();
        let sent = load.stop();
        torture::say(&format!(
            "{program}, ack = {}, {rounds} rounds of {name}: {} short callbacks and {} of 200 KB in {:.0} s; {} failed, the \
             slowest response took {:.2} s",
            ack(),
            sent.short,
            sent.long,
            took.as_secs_f64(),
            sent.failures.len(),
            sent.slowest.as_secs_f64()
        ));
        assert!(sent.short > 100 && sent.long > 10, "{sent:?}");
        assert!(sent.failures.is_empty(), "{name}: {sent:?}");
    }
}

/// The same kills with one line of the configuration replaced at a time: each must fail callbacks.
fn essential_lines(program: &str, start: Start, lines: &[(&str, &str)]) {
    if proxies::missing(program) {
        return;
    }
    let Some(mut replicas) = Replicas::start(&format!("{program}-planted")) else { return };
    let _alone = Alone::take();
    let mut hidden = Vec::new();
    for (line, without) in lines {
        let proxy = start(replicas.upstreams, &|config| replaced(&config, line, without));
        let load = Load::start(proxy.address);
        let mut rounds = 0;
        while !load.has_failed() && rounds < ROUNDS_UNTIL_FOUND {
            replicas.restart_each(Signal::KILL);
            rounds += 1;
        }
        let sent = load.stop();
        torture::say(&format!(
            "{program} with {without:?} for {line:?}: {} failed, in round {rounds}",
            sent.failures.len()
        ));
        if sent.failures.is_empty() {
            hidden.push(format!("{line}: none of {} and {} failed", sent.short, sent.long));
        }
    }
    assert!(hidden.is_empty(), "{hidden:#?}");
}

fn replaced(config: &str, line: &str, without: &str) -> String {
    assert!(config.contains(line), "{line}");
    config.replace(line, without)
}

/// The mode that both acknowledge in.
fn ack() -> String {
    env::var("CALLBRIDGE_ROLLING_ACK").unwrap_or_else(|_unset| "journal".to_owned())
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
        let bridge = Bridge::builder().brokers(&kafka.bootstrap()).topics(prefix).ack(&ack());
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
    bytes: usize,
    status: Option<u16>,
    took: Duration,
}

/// What became of all.
#[derive(Debug, Default)]
struct Sent {
    short: u64,
    long: u64,
    slowest: Duration,
    failures: Vec<Failure>,
}

/// Senders at a fixed rate over kept-alive connections, of short and of long callbacks.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<Mutex<Sent>>,
    senders: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let mut load = Self { stop: Arc::default(), sent: Arc::default(), senders: Vec::new() };
        let short = Duration::from_secs(SHORT_SENDERS.into()) / setting("RATE", 400);
        let long = Duration::from_secs(LONG_SENDERS.into()) / LONG_RATE;
        let first = clock::monotonic();
        for nth in 0..SHORT_SENDERS {
            load.spawn(address, 0, first + short * nth / SHORT_SENDERS, short);
        }
        for nth in 0..LONG_SENDERS {
            load.spawn(address, LONG, first + long * nth / LONG_SENDERS, long);
        }
        load
    }

    /// Adds a sender of callbacks with such a padding, the first of them due then, with a pause between two.
    fn spawn(&mut self, address: SocketAddr, padding: usize, mut due: Instant, pause: Duration) {
        let (stop, sent) = (Arc::clone(&self.stop), Arc::clone(&self.sent));
        let key = u64::try_from(self.senders.len()).unwrap();
        self.senders.push(thread::spawn(move || {
            let mut connection = None;
            for sequence in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                thread::sleep(due.saturating_duration_since(clock::monotonic()));
                // A sender that is late does not make up for it: what counts is each callback.
                due = due.max(clock::monotonic()) + pause;
                let body = body(key, sequence, padding);
                let start = clock::monotonic();
                let status = send(&mut connection, address, &body);
                let took = clock::monotonic().duration_since(start);
                let mut sent = sent.lock().unwrap();
                *(if padding == 0 { &mut sent.short } else { &mut sent.long }) += 1;
                sent.slowest = sent.slowest.max(took);
                if status != Some(200) || took > SENDER_DEADLINE {
                    sent.failures.push(Failure { bytes: body.len(), status, took });
                }
            }
        }));
    }

    fn has_failed(&self) -> bool {
        !self.sent.lock().unwrap().failures.is_empty()
    }

    /// Ends all senders.
    fn stop(self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        self.senders.into_iter().for_each(|sender| sender.join().unwrap());
        std::mem::take(&mut *self.sent.lock().unwrap())
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
