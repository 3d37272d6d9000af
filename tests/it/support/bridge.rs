//! The built binary as a child process: `callbridge serve` on ports of its own.

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

/// For a cluster of one broker. A variable that comes later in the command line of `env` wins.
const REPLICATION_FACTOR_OF_ONE: &str = "CALLBRIDGE_TOPICS_REPLICATION_FACTOR=1";

const WARM_UP: &[u8] = b"warm-up";

/// From SIGTERM to the end: longer than any `drain_seconds` of the tests.
const STOP: Duration = Duration::from_secs(60);

/// A running callbridge. Killed on drop; a test that fails shows what it logged.
pub(crate) struct Bridge {
    pub(crate) callbacks: SocketAddr,
    pub(crate) admin: SocketAddr,
    process: Process,
    _folder: TempDir,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Stopped {
    /// The exit code, or 128 + n after signal n.
    pub(crate) code: i32,
    /// The last line of stdout; empty when that was no ledger.
    pub(crate) ledger: BTreeMap<String, u64>,
    pub(crate) stderr: String,
}

/// How a test starts callbridge: on ports of its own, with a folder of its own, with topics for the four commands that most tests use.
///
/// It can be started more than once; each start is a process of its own.
#[derive(Debug, Clone, Default)]
pub(crate) struct BridgeBuilder {
    /// Variables for `env`, and then perhaps the words of a program that becomes callbridge.
    prefix: Vec<String>,
    args: Vec<String>,
    settings: String,
    /// Where callbacks and the admin pages are served; `None`: on any free ports.
    addresses: Option<(SocketAddr, SocketAddr)>,
    has_all_topics: bool,
}

impl BridgeBuilder {
    /// For the tests' application, with a broker inside the process.
    pub(crate) fn embedded(self) -> Self {
        self.args(&["--sdk-app-id", APP, "--embedded-broker"])
    }

    /// For the tests' application, with these brokers.
    pub(crate) fn brokers(self, bootstrap: &str) -> Self {
        self.args(&["--sdk-app-id", APP, "--brokers", bootstrap])
    }

    /// Creates its topics, which begin with `prefix`.
    pub(crate) fn topics(self, prefix: &str) -> Self {
        self.args(&["--topic-prefix", prefix, "--create-topics"])
    }

    /// Acknowledges in this mode.
    pub(crate) fn ack(self, ack: &str) -> Self {
        self.args(&["--ack", ack])
    }

    /// With more arguments of `serve`.
    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// With more lines in its configuration file. Lines without a section come before the first section.
    pub(crate) fn settings(mut self, lines: &str) -> Self {
        self.settings.extend([lines, "\n"]);
        self
    }

    /// With a variable of the environment.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.prefix.push(format!("{name}={value}"));
        self
    }

    /// Under another program, which is written before it and becomes it. Variables of `env` may stand before that.
    pub(crate) fn under(mut self, prefix: &[String]) -> Self {
        self.prefix.extend_from_slice(prefix);
        self
    }

    /// On ports that the caller chose. So its addresses are known before it is ready.
    pub(crate) fn listening_on(mut self, callbacks: SocketAddr, admin: SocketAddr) -> Self {
        self.addresses = Some((callbacks, admin));
        self
    }

    /// With a topic for every command. For brokers of one test only.
    pub(crate) fn all_topics(mut self) -> Self {
        self.has_all_topics = true;
        self
    }

    /// Runs `serve`, and waits until it is ready.
    ///
    /// # Panics
    /// When it ends before, or does not get ready.
    pub(crate) fn start(&self) -> Bridge {
        let mut bridge = self.launch();
        bridge.wait_until_ready();
        bridge
    }

    /// The same with its journal in `dir`.
    pub(crate) fn start_in(&self, dir: &Path) -> Bridge {
        self.clone().journal_in(dir).start()
    }

    /// Runs `serve`, and waits for nothing.
    pub(crate) fn launch(&self) -> Bridge {
        let folder = TempDir::with_prefix_in("bridge-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let unknown = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (callbacks, admin) = self.addresses.unwrap_or((unknown, unknown));
        let process = Process::start(folder.path(), "env", &self.words(folder.path(), callbacks, admin));
        Bridge { callbacks, admin, process, _folder: folder }
    }

    /// The same with its journal in `dir`.
    pub(crate) fn launch_in(&self, dir: &Path) -> Bridge {
        self.clone().journal_in(dir).launch()
    }

    /// Runs `serve` on free ports, and waits until it listens: for one that does not get ready soon.
    pub(crate) fn start_unready(&self) -> Bridge {
        let [callbacks, admin] = ports::free().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let bridge = self.clone().listening_on(callbacks, admin).launch();
        wait::until_ok("callbridge listens", || Client::connect(admin).and_then(|_| Client::connect(callbacks)));
        bridge
    }

    fn journal_in(self, dir: &Path) -> Self {
        self.args(&["--data-dir", dir.to_str().unwrap()])
    }

    /// The words behind `env`. Writes the configuration file into `folder`.
    fn words(&self, folder: &Path, callbacks: SocketAddr, admin: SocketAddr) -> Vec<String> {
        let commands = if self.has_all_topics { "all".to_owned() } else { four() };
        let mut words = vec![topics_variable(&commands)];
        // Callbridge watches a cluster of fewer than three brokers for 10 s before it creates topics; the tests know how many theirs has.
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
        // The default one belongs to the machine, and to one callbridge at a time.
        if !self.args.iter().any(|arg| arg == "--data-dir") {
            words.extend(["--data-dir".to_owned(), folder.join("journal").display().to_string()]);
        }
        words
    }
}

impl Bridge {
    /// Begins to say how it is started.
    pub(crate) fn builder() -> BridgeBuilder {
        BridgeBuilder::default()
    }

    /// Starts it in `memory` mode, with a broker inside it, and without a wait at its end: for what depends neither on Kafka nor on a disk.
    pub(crate) fn light(settings: &str) -> Self {
        Self::builder().embedded().ack("memory").settings("callbacks.keep_accepting_ms = 0").settings(settings).start()
    }

    /// Waits for what `launch` did not.
    ///
    /// # Panics
    /// When it ends before, or does not get ready.
    pub(crate) fn wait_until_ready(&mut self) {
        (self.callbacks, self.admin) = wait::until_ok("callbridge is ready", || {
            let stdout = self.process.stdout();
            let addresses = address(&stdout, "callbacks").zip(address(&stdout, "admin"));
            // The log comes with the panic.
            let code = if addresses.is_some() { None } else { self.process.exit_code() };
            assert!(code.is_none(), "callbridge ended with {code:?}");
            addresses.ok_or(stdout)
        });
    }

    /// Of the process itself.
    pub(crate) fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// The exit code, or nothing while it runs.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.process.exit_code()
    }

    /// Sends any signal.
    pub(crate) fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends it as a crash would, and waits for that.
    pub(crate) fn kill9(mut self) -> Stopped {
        self.process.signal(Signal::KILL);
        self.wait()
    }

    /// Asks it to stop, and waits for that.
    pub(crate) fn stop_and_wait(mut self) -> Stopped {
        self.process.signal(Signal::TERM);
        self.wait()
    }

    /// Asks it to stop, and waits for that.
    ///
    /// # Panics
    ///
    /// It did not end with 0, its ledger does not balance, or something still waits.
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

    /// Sends a body that is refused and kept, and waits until Kafka has it, so that what follows is not about how soon a
    /// cluster that has just started gives out its first producer id: on a busy machine that takes seconds. It stays in
    /// the ledger as one callback received and refused, and in the rejected topic as one record.
    pub(crate) fn warm_up(&self, app_id: &str) {
        let target = http::callback_target(app_id, "Warm.Up");
        assert_eq!(Client::connect(self.callbacks).unwrap().post(&target, WARM_UP).unwrap().status, 400);
        self.metrics_until(|metrics| metrics["callbridge_rejected_total{reason=\"not_json\"}"] == 1.0);
    }

    /// What it has printed so far.
    pub(crate) fn stdout(&self) -> String {
        self.process.stdout()
    }

    /// A client of the broker inside it.
    ///
    /// # Panics
    /// When it was not started with `--embedded-broker`.
    pub(crate) fn embedded_kafka(&self) -> ClientConfig {
        let broker = address(&self.stdout(), "kafka").expect("started with --embedded-broker");
        [("bootstrap.servers".to_owned(), broker.to_string())].into_iter().collect()
    }

    /// What it has logged so far. A thread of its own writes the log: a line may come a moment after what it is about.
    pub(crate) fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Scrapes until `is_so` says so of the metrics, and returns those.
    ///
    /// # Panics
    /// When that takes longer than a minute and a half.
    pub(crate) fn metrics_until(&self, mut is_so: impl FnMut(&BTreeMap<String, f64>) -> bool) -> BTreeMap<String, f64> {
        wait::until_ok("the metrics are as wanted", || {
            let metrics = self.metrics();
            if is_so(&metrics) { Ok(metrics) } else { Err(metrics) }
        })
    }

    /// Scrapes `/metrics`. The names are as they stand there, labels and all.
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        let mut client = Client::connect(self.admin).unwrap();
        let response = client.request("GET", "/metrics", &[], b"").unwrap();
        assert_eq!(response.status, 200);
        metrics(&response.text())
    }
}

impl Bridge {
    /// Gets one of the pages of the admin listener.
    pub(crate) fn admin_page(&self, path: &str) -> (u16, String) {
        let response = Client::connect(self.admin).unwrap().request("GET", path, &[], b"").unwrap();
        (response.status, response.text())
    }

    /// How many callbacks are lost for that reason.
    pub(crate) fn lost(&self, reason: &str) -> f64 {
        self.metrics()[&format!("callbridge_callbacks_lost_total{{reason=\"{reason}\"}}")]
    }

    /// What it has in memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid().as_raw_pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it runs");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Stopped {
    /// Whether every callback is in one account.
    pub(crate) fn is_balanced(&self) -> bool {
        let of = |account: &str| self.ledger[account];
        of("received") + of("recovered") == of("refused") + of("lost") + of("delivered") + of("waiting")
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // By macro, so that it stands with the output of the test that failed.
            #[expect(clippy::print_stderr, reason = "the log of what failed")]
            {
                eprintln!("callbridge logged:\n{}", self.process.stderr());
            }
        }
    }
}

/// The commands that most tests use: a Kafka that they share need not have hundreds of topics.
fn four() -> String {
    seeds::ALL.map(|seed| seed.command).join(",")
}

/// What gives the four commands their topics, and no other: an assignment of `env`.
pub(crate) fn four_topics() -> String {
    topics_variable(&four())
}

fn topics_variable(commands: &str) -> String {
    format!("CALLBRIDGE_TOPICS_COMMANDS={commands}")
}

/// The address in a line such as `callbacks on http://127.0.0.1:41234`, once the line is whole.
pub(crate) fn address(stdout: &str, listener: &str) -> Option<SocketAddr> {
    let whole = stdout.rsplit_once('\n')?.0;
    let rest = whole.lines().find_map(|line| line.strip_prefix(listener)?.strip_prefix(" on "))?;
    rest.trim_start_matches("http://").trim_start_matches("https://").parse().ok()
}

/// The pairs of the last line, when it is the ledger.
pub(crate) fn ledger(stdout: &str) -> BTreeMap<String, u64> {
    let pairs = stdout.lines().last().and_then(|line| line.strip_prefix("ledger ")).unwrap_or_default();
    let pair = |word: &str| word.split_once('=').map(|(name, value)| (name.to_owned(), value.parse().unwrap()));
    pairs.split_whitespace().filter_map(pair).collect()
}

/// The samples of Prometheus' text format. A label may hold a blank; a value does not.
pub(crate) fn metrics(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let sample = |line: &str| line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap()));
    samples.filter_map(sample).collect()
}
