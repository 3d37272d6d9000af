//! The built binary as a child process: `callbridge serve` on its own ports.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rdkafka::ClientConfig;
use rustix::process::Pid;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::seeds;
use crate::seeds::APP;
use crate::support::http;
use crate::support::http::Client;
use crate::support::ports;
use crate::support::process::Process;
use crate::support::wait;

/// For a cluster of one broker. A later variable on the command line of `env` overrides it.
const REPLICATION_FACTOR_OF_ONE: &str = "CALLBRIDGE_TOPICS_REPLICATION_FACTOR=1";

const WARM_UP: &[u8] = b"warm-up";

/// From SIGTERM to the end: longer than any `drain_seconds` in the tests.
const STOP: Duration = Duration::from_secs(60);

/// A running callbridge. It is killed when dropped; a failing test prints its log.
pub(crate) struct Bridge {
    pub(crate) callbacks: SocketAddr,
    pub(crate) admin: SocketAddr,
    process: Process,
    _folder: TempDir,
}

/// The end of a process.
#[derive(Debug)]
pub(crate) struct Stopped {
    /// The exit code, or 128 + n after signal n.
    pub(crate) code: i32,
    /// The last line of stdout; empty if that is not the ledger.
    pub(crate) ledger: BTreeMap<String, u64>,
    pub(crate) stderr: String,
}

/// How a test starts callbridge: with its own ports and folder, and with topics for the four commands that most tests use.
///
/// It can be started several times; each start is a new process.
#[derive(Debug, Clone, Default)]
pub(crate) struct BridgeBuilder {
    /// Variables for `env`, possibly followed by a program that executes callbridge.
    prefix: Vec<String>,
    args: Vec<String>,
    settings: String,
    /// The addresses of the callback and the admin listener; `None`: any free ports.
    addresses: Option<(SocketAddr, SocketAddr)>,
    has_all_topics: bool,
}

impl BridgeBuilder {
    /// For the tests' application, with an embedded broker.
    pub(crate) fn embedded(self) -> Self {
        self.args(&["--sdk-app-id", APP, "--embedded-broker"])
    }

    /// For the tests' application, with these brokers.
    pub(crate) fn brokers(self, bootstrap: &str) -> Self {
        self.args(&["--sdk-app-id", APP, "--brokers", bootstrap])
    }

    /// Creates its topics, with this prefix.
    pub(crate) fn topics(self, prefix: &str) -> Self {
        self.args(&["--topic-prefix", prefix, "--create-topics"])
    }

    /// Sets the acknowledgement mode.
    pub(crate) fn ack(self, ack: &str) -> Self {
        self.args(&["--ack", ack])
    }

    /// Adds arguments of `serve`.
    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Adds lines to its configuration file. Lines without a section come before the first section.
    pub(crate) fn settings(mut self, lines: &str) -> Self {
        self.settings.extend([lines, "\n"]);
        self
    }

    /// Sets a variable of the environment.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.prefix.push(format!("{name}={value}"));
        self
    }

    /// Runs it under another program, which is written before it and executes it. Variables of `env` may precede that.
    pub(crate) fn under(mut self, prefix: &[String]) -> Self {
        self.prefix.extend_from_slice(prefix);
        self
    }

    /// Uses ports that the caller has chosen, so that its addresses are known before it is ready.
    pub(crate) fn listening_on(mut self, callbacks: SocketAddr, admin: SocketAddr) -> Self {
        self.addresses = Some((callbacks, admin));
        self
    }

    /// Uses a topic for every command. Only with a broker that is not shared with other tests.
    pub(crate) fn all_topics(mut self) -> Self {
        self.has_all_topics = true;
        self
    }

    /// Runs `serve`, and waits until it is ready.
    ///
    /// # Panics
    /// If it ends before, or does not become ready.
    pub(crate) fn start(&self) -> Bridge {
        let mut bridge = self.launch();
        bridge.wait_until_ready();
        bridge
    }

    /// The same with this directory for its journal.
    pub(crate) fn start_in(&self, dir: &Path) -> Bridge {
        self.clone().journal_in(dir).start()
    }

    /// Runs `serve`, without waiting.
    pub(crate) fn launch(&self) -> Bridge {
        let folder = TempDir::with_prefix_in("bridge-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let unknown = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (callbacks, admin) = self.addresses.unwrap_or((unknown, unknown));
        let process = Process::start(folder.path(), "env", &self.words(folder.path(), callbacks, admin));
        Bridge { callbacks, admin, process, _folder: folder }
    }

    /// The same with this directory for its journal.
    pub(crate) fn launch_in(&self, dir: &Path) -> Bridge {
        self.clone().journal_in(dir).launch()
    }

    /// Runs `serve` on free ports, and waits until it listens: for a process that does not become ready soon.
    pub(crate) fn start_unready(&self) -> Bridge {
        let [callbacks, admin] = ports::free().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let bridge = self.clone().listening_on(callbacks, admin).launch();
        wait::until_ok("callbridge listens", || Client::connect(admin).and_then(|_| Client::connect(callbacks)));
        bridge
    }

    fn journal_in(self, dir: &Path) -> Self {
        self.args(&["--data-dir", dir.to_str().unwrap()])
    }

    /// The arguments of `env`. Writes the configuration file into `folder`.
    fn words(&self, folder: &Path, callbacks: SocketAddr, admin: SocketAddr) -> Vec<String> {
        let commands = if self.has_all_topics { "all".to_owned() } else { four() };
        let mut words = vec![topics_variable(&commands)];
        // callbridge waits for 10 s before it creates topics on fewer than three brokers; the tests know the number of theirs.
        let has_several_brokers = self.args.iter().any(|arg| arg.contains(",127.0.0.1:"));
        let creates = self.args.iter().any(|arg| arg == "--create-topics");
        words.extend((creates && !has_several_brokers).then(|| REPLICATION_FACTOR_OF_ONE.to_owned()));
        words.extend_from_slice(&self.prefix);
        words.extend([env!("CARGO_BIN_EXE_callbridge"), "serve"].map(str::to_owned));
        words.extend(["--listen".to_owned(), callbacks.to_string(), "--admin-listen".to_owned(), admin.to_string()]);
        words.extend_from_slice(&self.args);
        if !self.settings.is_empty() {
            let path = folder.join("callbridge.toml");
            fs::write(&path, &self.settings).unwrap();
            words.extend(["--config".to_owned(), path.display().to_string()]);
        }
        // The default directory belongs to the machine, and to one callbridge at a time.
        if !self.args.iter().any(|arg| arg == "--data-dir") {
            words.extend(["--data-dir".to_owned(), folder.join("journal").display().to_string()]);
        }
        words
    }
}

impl Bridge {
    /// Begins to describe a start.
    pub(crate) fn builder() -> BridgeBuilder {
        BridgeBuilder::default()
    }

    /// Starts it in `memory` mode, with an embedded broker, and without a wait at its end: for tests that depend neither on Kafka nor on a
    /// disk.
    pub(crate) fn light(settings: &str) -> Self {
        Self::builder().embedded().ack("memory").settings("callbacks.keep_accepting_ms = 0").settings(settings).start()
    }

    /// Waits until it is ready, after `launch`.
    ///
    /// # Panics
    /// If it ends before, or does not become ready.
    pub(crate) fn wait_until_ready(&mut self) {
        (self.callbacks, self.admin) = wait::until_ok("callbridge is ready", || {
            let stdout = self.process.stdout();
            let addresses = address(&stdout, "callbacks").zip(address(&stdout, "admin"));
            // The panic prints the log.
            let code = if addresses.is_some() { None } else { self.process.exit_code() };
            assert!(code.is_none(), "callbridge ended with {code:?}");
            addresses.ok_or(stdout)
        });
    }

    /// The pid of the process itself.
    pub(crate) fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// The exit code, or `None` while it runs.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.process.exit_code()
    }

    /// Sends a signal.
    pub(crate) fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Kills it as in a crash, and waits for the end.
    pub(crate) fn kill9(mut self) -> Stopped {
        self.process.signal(Signal::KILL);
        self.wait()
    }

    /// Sends SIGTERM, and waits for the end.
    pub(crate) fn stop_and_wait(mut self) -> Stopped {
        self.process.signal(Signal::TERM);
        self.wait()
    }

    /// Sends SIGTERM, and waits for the end.
    ///
    /// # Panics
    ///
    /// If the exit code is not 0, the ledger does not balance, or callbacks are still waiting.
    pub(crate) fn stop_in_order(self) -> Stopped {
        let stopped = self.stop_and_wait();
        assert!(stopped.code == 0 && stopped.is_balanced() && stopped.ledger["waiting"] == 0, "{stopped:?}");
        stopped
    }

    /// Waits for it to end by itself.
    pub(crate) fn wait(mut self) -> Stopped {
        let code = self.process.wait(STOP);
        Stopped { code, ledger: ledger(&self.process.stdout()), stderr: self.process.stderr() }
    }

    /// Sends a body that is refused and kept, and waits until it is in Kafka, so that the test does not depend on how soon a new cluster
    /// assigns the first producer id: on a busy machine that takes seconds. In the ledger it is one received and refused callback, and in
    /// the dead-letter topic one record.
    pub(crate) fn warm_up(&self, app_id: &str) {
        let target = http::callback_target(app_id, "Warm.Up");
        assert_eq!(Client::connect(self.callbacks).unwrap().post(&target, WARM_UP).unwrap().status, 400);
        self.metrics_until(|metrics| metrics["callbridge_rejected_total{reason=\"not_json\"}"] == 1.0);
    }

    /// Its stdout so far.
    pub(crate) fn stdout(&self) -> String {
        self.process.stdout()
    }

    /// A client of its embedded broker.
    ///
    /// # Panics
    /// If it was not started with `--embedded-broker`.
    pub(crate) fn embedded_kafka(&self) -> ClientConfig {
        let broker = address(&self.stdout(), "kafka").expect("started with --embedded-broker");
        [("bootstrap.servers".to_owned(), broker.to_string())].into_iter().collect()
    }

    /// Its log so far. The log has its own thread: a line may appear shortly after its event.
    pub(crate) fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Scrapes until `is_so` holds for the metrics, and returns them.
    ///
    /// # Panics
    /// If that takes longer than a minute and a half.
    pub(crate) fn metrics_until(&self, mut is_so: impl FnMut(&BTreeMap<String, f64>) -> bool) -> BTreeMap<String, f64> {
        wait::until_ok("the metrics are as wanted", || {
            let metrics = self.metrics();
            if is_so(&metrics) { Ok(metrics) } else { Err(metrics) }
        })
    }

    /// Scrapes `/metrics`. Names include their labels.
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        let mut client = Client::connect(self.admin).unwrap();
        let response = client.request("GET", "/metrics", &[], b"").unwrap();
        assert_eq!(response.status, 200);
        metrics(&response.text())
    }
}

impl Bridge {
    /// Requests a page of the admin listener.
    pub(crate) fn admin_page(&self, path: &str) -> (u16, String) {
        let response = Client::connect(self.admin).unwrap().request("GET", path, &[], b"").unwrap();
        (response.status, response.text())
    }

    /// The number of callbacks lost for this reason.
    pub(crate) fn lost(&self, reason: &str) -> f64 {
        self.metrics()[&format!("callbridge_callbacks_lost_total{{reason=\"{reason}\"}}")]
    }

    /// Its resident memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid().as_raw_pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it runs");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Stopped {
    /// Whether the ledger balances.
    pub(crate) fn is_balanced(&self) -> bool {
        let of = |account: &str| self.ledger[account];
        of("received") + of("recovered") == of("refused") + of("lost") + of("delivered") + of("waiting")
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // By macro, so that it is part of the output of the failed test.
            #[expect(clippy::print_stderr, reason = "the log of what failed")]
            {
                eprintln!("callbridge logged:\n{}", self.process.stderr());
            }
        }
    }
}

/// The commands that most tests use, so that a shared Kafka need not have hundreds of topics.
fn four() -> String {
    seeds::ALL.map(|seed| seed.command).join(",")
}

/// Limits the topics to those of the four commands: an assignment for `env`.
pub(crate) fn four_topics() -> String {
    topics_variable(&four())
}

fn topics_variable(commands: &str) -> String {
    format!("CALLBRIDGE_TOPICS_COMMANDS={commands}")
}

/// The address in a line such as `callbacks on http://127.0.0.1:41234`, once the line is complete.
pub(crate) fn address(stdout: &str, listener: &str) -> Option<SocketAddr> {
    let whole = stdout.rsplit_once('\n')?.0;
    let rest = whole.lines().find_map(|line| line.strip_prefix(listener)?.strip_prefix(" on "))?;
    rest.trim_start_matches("http://").trim_start_matches("https://").parse().ok()
}

/// The pairs of the last line, if it is the ledger.
pub(crate) fn ledger(stdout: &str) -> BTreeMap<String, u64> {
    let pairs = stdout.lines().last().and_then(|line| line.strip_prefix("ledger ")).unwrap_or_default();
    let pair = |word: &str| word.split_once('=').map(|(name, value)| (name.to_owned(), value.parse().unwrap()));
    pairs.split_whitespace().filter_map(pair).collect()
}

/// Parses Prometheus' text format. A label may contain spaces; a value does not.
pub(crate) fn metrics(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let sample = |line: &str| line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap()));
    samples.filter_map(sample).collect()
}
