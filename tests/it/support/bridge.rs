//! The built binary as a child process: `callbridge serve` on ports of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use callbridge::clock;
use rdkafka::ClientConfig;
use rustix::process::Pid;
use rustix::process::Signal;
use tempfile::NamedTempFile;
use tempfile::TempDir;

use crate::seeds;
use crate::support::http;
use crate::support::http::Client;
use crate::support::process;
use crate::support::process::Process;

/// From the start to the printed addresses, on a busy machine.
const READY: Duration = Duration::from_secs(60);

const ANY_PORTS: [&str; 4] = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];

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

impl Bridge {
    /// Runs `serve` with `args` and waits until it is ready.
    ///
    /// # Panics
    /// When it ends before, or does not get ready.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_under(&[], args)
    }

    /// The same with a topic for every command. For brokers of one test only.
    pub(crate) fn start_with_all_topics(args: &[&str]) -> Self {
        let (process, folder) = launch("all", &[], &[&ANY_PORTS, args]);
        let mut bridge = Self::of(process, folder);
        bridge.wait_until_ready();
        bridge
    }

    /// The same under another program, which is written before it and becomes it.
    pub(crate) fn start_under(prefix: &[String], args: &[&str]) -> Self {
        let mut bridge = Self::launch(prefix, args);
        bridge.wait_until_ready();
        bridge
    }

    /// The same, and does not wait for anything. Its addresses are not known until it is ready.
    pub(crate) fn launch(prefix: &[String], args: &[&str]) -> Self {
        let (process, folder) = launch(&four(), prefix, &[&ANY_PORTS, args]);
        Self::of(process, folder)
    }

    fn of(process: Process, folder: TempDir) -> Self {
        let unknown = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self { callbacks: unknown, admin: unknown, process, _folder: folder }
    }

    /// Waits for what `launch` did not.
    ///
    /// # Panics
    /// When it ends before, or does not get ready.
    pub(crate) fn wait_until_ready(&mut self) {
        let deadline = clock::monotonic() + READY;
        loop {
            let stdout = self.process.stdout();
            if let (Some(callbacks), Some(admin)) = (address(&stdout, "callbacks"), address(&stdout, "admin")) {
                (self.callbacks, self.admin) = (callbacks, admin);
                return;
            }
            // The log comes with the panic.
            let code = self.process.exit_code();
            assert!(code.is_none(), "callbridge ended with {code:?}");
            assert!(clock::monotonic() < deadline, "callbridge is not ready");
            thread::sleep(process::POLL);
        }
    }

    /// The same with a config file that holds `settings`.
    pub(crate) fn start_with(settings: &str, args: &[&str]) -> Self {
        let mut file = NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        file.write_all(settings.as_bytes()).unwrap();
        Self::start(&[&["--config", file.path().to_str().unwrap()], args].concat())
    }

    /// The same in `memory` mode, with a broker of its own, and without a wait at its end: for what depends neither on Kafka nor on a disk.
    pub(crate) fn start_light(app_id: &str, settings: &str) -> Self {
        let settings = format!("callbacks.keep_accepting_ms = 0\n{settings}");
        Self::start_with(&settings, &["--sdk-app-id", app_id, "--embedded-broker", "--ack", "memory"])
    }

    /// Runs `serve` on ports that the caller chose, and does not wait for anything.
    pub(crate) fn start_unready(callbacks: SocketAddr, admin: SocketAddr, args: &[&str]) -> Self {
        Self::start_unready_under(&[], callbacks, admin, args)
    }

    /// The same under another program.
    pub(crate) fn start_unready_under(
        prefix: &[String],
        callbacks: SocketAddr,
        admin: SocketAddr,
        args: &[&str],
    ) -> Self {
        let (listen, admin_listen) = (callbacks.to_string(), admin.to_string());
        let args = [&["--listen", &listen, "--admin-listen", &admin_listen], args];
        let (process, folder) = launch(&four(), prefix, &args);
        Self { callbacks, admin, process, _folder: folder }
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
        let deadline = clock::monotonic() + READY;
        while self.metrics()["callbridge_rejected_total{reason=\"not_json\"}"] != 1.0 {
            assert!(clock::monotonic() < deadline, "Kafka takes nothing:\n{}", self.stderr());
            thread::sleep(process::POLL);
        }
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
    /// When that takes longer than a minute.
    pub(crate) fn metrics_until(&self, mut is_so: impl FnMut(&BTreeMap<String, f64>) -> bool) -> BTreeMap<String, f64> {
        let deadline = clock::monotonic() + READY;
        loop {
            let metrics = self.metrics();
            if is_so(&metrics) {
                return metrics;
            }
            assert!(clock::monotonic() < deadline, "not within {READY:?}: {metrics:#?}");
            thread::sleep(process::POLL);
        }
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
        if thread::panicking() {
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

/// With topics for these commands.
fn launch(commands: &str, prefix: &[String], args: &[&[&str]]) -> (Process, TempDir) {
    let folder = TempDir::with_prefix_in("bridge-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let topics = topics_variable(commands);
    let mut words = vec![topics.as_str()];
    let args = args.concat();
    // Callbridge watches a cluster of fewer than three brokers for 10 s before it creates topics; the tests know how many theirs has.
    let has_several_brokers = args.iter().any(|arg| arg.contains(",127.0.0.1:"));
    if args.contains(&"--create-topics") && !has_several_brokers {
        words.push(REPLICATION_FACTOR_OF_ONE);
    }
    words.extend(prefix.iter().map(String::as_str));
    words.extend([env!("CARGO_BIN_EXE_callbridge"), "serve"]);
    words.extend(args);
    // The default one belongs to the machine, and to one callbridge at a time.
    let journal = folder.path().join("journal");
    if !words.contains(&"--data-dir") {
        words.extend(["--data-dir", journal.to_str().unwrap()]);
    }
    let process = Process::start(folder.path(), "env", &words);
    (process, folder)
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
