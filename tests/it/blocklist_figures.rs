//! The cost of a blocklist topic with a real Kafka: the latency of changes, decisions while the list is replaced, and CPU time.
//! `make blocklist` runs it at full size; it prints the results.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use callbridge::clock;
use rdkafka::producer::Producer;

use crate::seeds::APP;
use crate::support::alone::Alone;
use crate::support::blocklist::COMMAND;
use crate::support::blocklist::Topic;
use crate::support::blocklist::VALUE;
use crate::support::blocklist::bridge;
use crate::support::blocklist::of_topic;
use crate::support::blocklist::state;
use crate::support::bridge::Bridge;
use crate::support::files::Files;
use crate::support::http::Client;
use crate::support::http::callback_target;
use crate::support::kafka::Kafka;
use crate::support::tools::number_of;
use crate::support::wait;

const TOKEN: &str = "0123456789abcdef-admin";
const IDENTITY: &str = "00000000000000e1";
/// For a list of ten million on a busy machine.
const LONG: Duration = Duration::from_secs(3600);
/// The most records in flight.
const BATCH: u64 = 10_000;
const CONNECTIONS: u64 = 8;
/// The phases of [`Askers`].
const BEFORE: usize = 0;
const DURING: usize = 1;
const OVER: usize = 2;

#[expect(clippy::print_stderr, reason = "a figure for whoever reads the log")]
fn print(figure: &str) {
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    eprintln!("{figure} (load average {})", load.split(' ').next().unwrap());
}

/// The median, the 99th percentile and the maximum.
fn percentiles(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
    format!("p50 {:.2?}, p99 {:.2?}, longest {:.2?} of {}", at(50), at(99), at(100), took.len())
}

/// A connection that sends before-subscribe callbacks.
struct Asker {
    client: Client,
    target: String,
}

impl Asker {
    fn to(callbacks: SocketAddr) -> Self {
        Self { client: Client::connect(callbacks).unwrap(), target: callback_target(APP, COMMAND) }
    }

    fn is_refused(&mut self, user: &str) -> bool {
        let body = format!(
            r#"{{"CallbackCommand":"{COMMAND}","Official_Account":"@a","SubscribeAccountList":[{{"Subscriber_Account":"{user}"}}]}}"#
        );
        let response = self.client.post(&self.target, body.as_bytes()).unwrap();
        let text = response.text();
        let is_allowed = text == r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#;
        let is_refused = text.contains(&format!(r#""RefusedSubscribers_Account":["{user}"]"#));
        assert!(response.status == 200 && is_allowed != is_refused, "{}: {text}", response.status);
        is_refused
    }

    /// Waits until the user is refused, without a pause between callbacks.
    fn wait_until_refused(&mut self, user: &str) {
        let began = clock::monotonic();
        while !self.is_refused(user) {
            assert!(began.elapsed() < Duration::from_secs(90), "{user} is never refused");
        }
    }
}

/// User and system time of a process.
fn cpu(bridge: &Bridge) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", bridge.pid().as_raw_pid())).unwrap();
    // The first two fields may contain blanks. These are the 14th and the 15th, in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    Duration::from_millis(10 * fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum::<u64>())
}

/// Blocks this many users, whose names have this prefix.
fn block_many(topic: &Topic, prefix: &str, users: u64) {
    for number in 0..users {
        topic.send(Some(&format!("block\u{1f}{prefix}-{number}")), Some(VALUE.as_bytes()), Some(&topic.identity));
        if number % BATCH == BATCH - 1 {
            topic.producer.flush(LONG).unwrap();
        }
    }
    topic.producer.flush(LONG).unwrap();
}

/// Starts a bridge, and waits until it has read the topic.
fn live(kafka: &Kafka, topic: &str) -> Bridge {
    let bridge = bridge(kafka, topic, "");
    wait::until_within(LONG, "the topic is read", || state(&bridge, topic, "live"));
    bridge
}

#[test]
fn an_acknowledged_change_is_in_force_at_one_and_at_three_replicas() {
    let Some(kafka) = Kafka::shared() else { return };
    let _alone = Alone::take();
    let changes = number_of("CALLBRIDGE_BLOCKLIST_CHANGES", 30);
    for replicas in [1, 3] {
        let name = format!("blocklist-visible-{replicas}");
        let topic = Topic::make(kafka, &name, IDENTITY, &[]);
        let bridges: Vec<Bridge> = (0..replicas).map(|_nth| live(kafka, &name)).collect();
        let mut askers: Vec<Asker> = bridges.iter().map(|bridge| Asker::to(bridge.callbacks)).collect();
        let took = (0..changes).map(|number| {
            let user = format!("user-{number}");
            assert!(askers.iter_mut().all(|asker| !asker.is_refused(&user)));
            topic.put(&format!("block\u{1f}{user}"));
            let acknowledged = clock::monotonic();
            askers.iter_mut().for_each(|asker| asker.wait_until_refused(&user));
            acknowledged.elapsed()
        });
        print(&format!("acknowledged to refused by {replicas}: {}", percentiles(took.collect())));
        drop(askers);
        bridges.into_iter().for_each(|bridge| drop(bridge.stop_in_order()));
    }
}

#[test]
fn a_change_through_the_api_is_in_force_when_it_returns() {
    let Some(kafka) = Kafka::shared() else { return };
    let _alone = Alone::take();
    let changes = number_of("CALLBRIDGE_BLOCKLIST_CHANGES", 30);
    let (name, files) = ("blocklist-answered", Files::new());
    let tokens = files.write("tokens", &format!("alice:{TOKEN}\n"));
    let bridge = bridge(kafka, name, &format!("admin.token_files = [{tokens:?}]"));
    let mut asker = Asker::to(bridge.callbacks);
    let mut admin = Client::connect(bridge.admin).unwrap();
    let bearer = format!("Bearer {TOKEN}");
    let took = (0..changes).map(|number| {
        let (user, asked) = (format!("user-{number}"), clock::monotonic());
        let target = format!("/blocklist/users/{user}?wait=applied");
        let response = admin.request("PUT", &target, &[("Authorization", &bearer)], b"").unwrap();
        let took = asked.elapsed();
        assert_eq!(response.status, 200, "{}", response.text());
        assert!(asker.is_refused(&user));
        took
    });
    print(&format!("PUT with wait=applied: {}", percentiles(took.collect())));
    drop((asker, admin));
    bridge.stop_in_order();
}

/// Connections that send callbacks at a fixed rate, and the latencies in each phase.
struct Askers {
    phase: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<[Vec<Duration>; 2]>>,
}

impl Askers {
    /// Sends callbacks of users in both lists, in none, in the old and in the new one in turn.
    fn start(callbacks: SocketAddr, rate: u64, users: u64) -> Self {
        let phase = Arc::new(AtomicUsize::new(BEFORE));
        let step = Duration::from_secs(CONNECTIONS).div_f64(rate as f64);
        let spawn = |first| {
            let phase = Arc::clone(&phase);
            thread::spawn(move || {
                let mut asker = Asker::to(callbacks);
                let mut took = [Vec::new(), Vec::new()];
                let mut due = clock::monotonic() + step.mul_f64(first as f64 / CONNECTIONS as f64);
                for number in (first..).step_by(usize::try_from(CONNECTIONS).unwrap()) {
                    let asked = wait_until_due(due);
                    due += step;
                    let phase = phase.load(Ordering::Relaxed);
                    let Some(took) = took.get_mut(phase) else { break };
                    let (list, expected) = match number / CONNECTIONS % 4 {
                        0 => ("both", Some(true)),
                        1 => ("none", Some(false)),
                        2 => ("old", None),
                        _ => ("new", None),
                    };
                    let user = format!("{list}-{}", number % users);
                    let answer = asker.is_refused(&user);
                    took.push(asked.elapsed());
                    assert!(expected.is_none_or(|expected| answer == expected), "{user}: {answer}");
                }
                took
            })
        };
        let threads = (0..CONNECTIONS).map(spawn).collect();
        Self { phase, threads }
    }

    fn enter(&self, phase: usize) {
        self.phase.store(phase, Ordering::Relaxed);
    }

    fn stop(self) -> [Vec<Duration>; 2] {
        self.enter(OVER);
        let mut all = [Vec::new(), Vec::new()];
        for thread in self.threads {
            let took = thread.join().unwrap();
            all.iter_mut().zip(took).for_each(|(all, took)| all.extend(took));
        }
        all
    }
}

/// Waits until `due`, and returns the start of the latency: the time of waking, or `due` if the previous response came later, so that there is
/// no coordinated omission.
fn wait_until_due(due: Instant) -> Instant {
    let now = clock::monotonic();
    if now >= due {
        return due;
    }
    thread::sleep(due - now);
    clock::monotonic()
}

#[test]
fn no_decision_is_wrong_while_an_import_replaces_the_list() {
    let Some(kafka) = Kafka::shared() else { return };
    let _alone = Alone::take();
    let entries = number_of("CALLBRIDGE_BLOCKLIST_ENTRIES", 20_000);
    let rate = number_of("CALLBRIDGE_BLOCKLIST_RATE", 400);
    let seconds = number_of("CALLBRIDGE_BLOCKLIST_SECONDS", 1);
    let (name, both) = ("blocklist-replaced", entries / 100);
    let topic = Topic::make(kafka, name, IDENTITY, &[]);
    kafka.create_topic(&format!("{name}-changes"), 1, 1);
    block_many(&topic, "both", both);
    block_many(&topic, "old", entries - both);
    let files = Files::new();
    let lines = (0..both).map(|number| format!("both-{number}\n"));
    let list: String = lines.chain((0..entries - both).map(|number| format!("new-{number}\n"))).collect();
    let list = files.write("list", &list);
    let bridge = live(kafka, name);
    let resident = bridge.resident_bytes();

    let askers = Askers::start(bridge.callbacks, rate, both);
    thread::sleep(Duration::from_secs(seconds));
    askers.enter(DURING);
    let began = clock::monotonic();
    let import = Command::new(env!("CARGO_BIN_EXE_callbridge"))
        .args(["blocklist", "import", &list, "--yes", "--brokers", &kafka.bootstrap(), "--topic", name])
        .stdout(Stdio::null())
        .output()
        .unwrap();
    assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
    let took = began.elapsed();
    let mut asker = Asker::to(bridge.callbacks);
    // The import removes rules in the order of their names.
    let last = (0..entries - both).map(|number| format!("old-{number}")).max().unwrap();
    // At full size on two cores, beside those who ask.
    wait::until_within(Duration::from_secs(600), "the old list is gone", || !asker.is_refused(&last));
    let asked = began.elapsed();
    let [before, during] = askers.stop();
    let is_refused = |list: &str, asker: &mut Asker| {
        (0..both).filter(|number| asker.is_refused(&format!("{list}-{number}"))).count() as u64
    };
    let refused = ["both", "new", "old"].map(|list| is_refused(list, &mut asker));
    assert_eq!(refused, [both, both, 0]);
    let reached = during.len() as f64 / asked.as_secs_f64();
    print(&format!("decisions before an import of {entries} other rules: {}", percentiles(before)));
    print(&format!("decisions during it, {reached:.0}/s for {took:.1?}: {}", percentiles(during)));
    print(&format!("resident {} MiB, afterwards {} MiB", resident >> 20, bridge.resident_bytes() >> 20));
    drop(asker);
    bridge.stop_and_wait();
}

#[test]
fn a_topic_without_changes_stays_live() {
    let Some(kafka) = Kafka::shared() else { return };
    let _alone = Alone::take();
    let seconds = number_of("CALLBRIDGE_BLOCKLIST_SECONDS", 7);
    let name = "blocklist-idle";
    let topic = Topic::make(kafka, name, IDENTITY, &[]);
    topic.put("block\u{1f}bob");
    let without = Bridge::builder().brokers(&kafka.bootstrap()).ack("memory").topics("blocklist-idle").start();
    let with = live(kafka, name);
    // What a start leaves behind.
    thread::sleep(Duration::from_secs(2));
    let began = [&with, &without].map(cpu);
    thread::sleep(Duration::from_secs(seconds));
    let used = [&with, &without].map(cpu);
    let each = [0, 1].map(|which| (used[which] - began[which]).as_secs_f64() * 1000.0 / seconds as f64);
    assert!(state(&with, name, "live") && Asker::to(with.callbacks).is_refused("bob"));
    print(&format!("idle for {seconds} s: {:.1} ms of CPU a second, without a topic {:.1} ms", each[0], each[1]));
    [with, without].into_iter().for_each(|bridge| drop(bridge.stop_in_order()));
}

#[test]
fn a_start_applies_every_record_of_the_topic() {
    let Some(kafka) = Kafka::shared() else { return };
    let _alone = Alone::take();
    let records = number_of("CALLBRIDGE_BLOCKLIST_RECORDS", 20_000);
    let used = [0, records].map(|records| {
        let name = format!("blocklist-catch-up-{records}");
        let topic = Topic::make(kafka, &name, IDENTITY, &[]);
        block_many(&topic, "user", records);
        let began = clock::monotonic();
        let bridge = live(kafka, &name);
        let (took, used) = (began.elapsed(), cpu(&bridge));
        assert_eq!(of_topic(&bridge, "generation", &name), (records + 1) as f64);
        let mut asker = Asker::to(bridge.callbacks);
        assert!((0..records).step_by(1009).all(|number| asker.is_refused(&format!("user-{number}"))));
        drop(asker);
        bridge.stop_in_order();
        print(&format!("start with {records} records: {took:.1?}, {used:.2?} of CPU"));
        used
    });
    let each = used[1].saturating_sub(used[0]).as_secs_f64() * 1e6 / records as f64;
    print(&format!("catching up: {each:.2} µs of CPU a record"));
}
