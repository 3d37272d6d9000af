//! A server under test: callbridge, or bare hyper.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use callbridge::clock;

use crate::broker::Broker;
use crate::callback;
use crate::callback::Command as Callback;
use crate::options::BrokerKind;
use crate::options::Mode;
use crate::options::OUTPUT;
use crate::process;
use crate::process::Process;

/// Threads that serve callbacks, in both servers.
pub(crate) const WORKERS: usize = 2;

/// How long a server may take until it is ready.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long what waits for Kafka may take to get there.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);

/// How often a drain is looked at.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// Nobody listens there.
const NO_BROKER: &str = "127.0.0.1:1";

/// What signs callbacks, in the output folder.
const TOKEN_FILE: &str = "token";

/// The server whose log tells what it found in the journal.
pub(crate) const RECOVERED: &str = "recovered";

/// The gauge that says how much waits.
const WAITING: &str = "callbridge_callbacks_waiting";

/// Its label for those whose request is still being read.
const UNTAKEN: &str = "where=\"request\"";

/// A running server.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) callbacks: SocketAddr,
    /// Bytes of memory it had when it was ready and nothing had been sent.
    pub(crate) idle_bytes: u64,
    admin: Option<SocketAddr>,
}

impl Server {
    /// Starts bare hyper.
    pub(crate) fn bare() -> io::Result<Self> {
        let process = Process::role("bare hyper", &["bare"])?;
        let callbacks = address_in(&process.line(START_LIMIT)?)?;
        let idle_bytes = process.memory()?;
        Ok(Self { process, callbacks, idle_bytes, admin: None })
    }

    /// Starts callbridge, and waits until it is ready. Its log, in the output folder, has its name.
    pub(crate) fn callbridge(name: &str, program: &Path, mode: Mode, broker: &Broker) -> io::Result<Self> {
        Self::forget_journal(name)?;
        Self::start(name, program, mode, Some(broker), None)
    }

    /// The same for one that takes signed callbacks only.
    pub(crate) fn signed(program: &Path, mode: Mode, broker: &Broker) -> io::Result<Self> {
        let token_file = Path::new(OUTPUT).join(TOKEN_FILE);
        fs::write(&token_file, callback::TOKEN)?;
        Self::start("signed", program, mode, Some(broker), Some(&token_file))
    }

    /// Starts callbridge in journal mode with what is in the journal, and without a broker.
    pub(crate) fn with_journal(program: &Path) -> io::Result<Self> {
        Self::start(RECOVERED, program, Mode::Journal, None, None)
    }

    /// Removes the journal of earlier servers of this name.
    pub(crate) fn forget_journal(name: &str) -> io::Result<()> {
        match fs::remove_dir_all(journal(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn start(
        name: &str,
        program: &Path,
        mode: Mode,
        broker: Option<&Broker>,
        token_file: Option<&Path>,
    ) -> io::Result<Self> {
        let (prefix, mode) = (mode.topic_prefix(), mode.name());
        let brokers = broker.map_or(NO_BROKER, |broker| &broker.address);
        let mut command = process::command(program)?;
        command.args(["serve", "--sdk-app-id", "1400000000", "--brokers", brokers, "--ack", mode]);
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.args(["--topic-prefix", &prefix, "--workers", &WORKERS.to_string()]);
        // Kafka makes topics for what is sent, and for no more.
        let [after, before] = [Callback::After, Callback::Before].map(Callback::name);
        command.env("CALLBRIDGE_TOPICS_COMMANDS", format!("{after},{before}"));
        if mode == Mode::Journal.name() {
            command.arg("--data-dir").arg(journal(name));
        }
        if broker.is_some_and(|broker| broker.kind == BrokerKind::Kafka) {
            // One broker; without this it would be watched for some seconds before it counts as alone.
            command.arg("--create-topics").env("CALLBRIDGE_TOPICS_REPLICATION_FACTOR", "1");
        }
        if let Some(token_file) = token_file {
            command.arg("--token-file").arg(token_file);
        }
        command.stderr(File::create(log(name))?);
        let process = Process::start(&format!("callbridge in {mode} mode"), &mut command)?;
        let callbacks = address_in(&process.line(START_LIMIT)?)?;
        let admin = address_in(&process.line(START_LIMIT)?)?;
        let idle_bytes = process.memory()?;
        Ok(Self { process, callbacks, idle_bytes, admin: Some(admin) })
    }

    /// Waits until everything it took has reached Kafka. Returns how long that took.
    pub(crate) fn drain(&self) -> io::Result<Duration> {
        let Some(admin) = self.admin else { return Ok(Duration::ZERO) };
        let start = clock::monotonic();
        while waiting(admin)? > 0.0 {
            if start.elapsed() > DRAIN_LIMIT {
                return Err(io::Error::other(format!("{WAITING} is not zero after {DRAIN_LIMIT:?}")));
            }
            thread::sleep(DRAIN_STEP);
        }
        Ok(start.elapsed())
    }
}

/// Where the callbridge of this name has its journal.
fn journal(name: &str) -> PathBuf {
    Path::new(OUTPUT).join(format!("journal-{name}"))
}

/// Where the log of the callbridge of this name is.
pub(crate) fn log(name: &str) -> PathBuf {
    Path::new(OUTPUT).join(format!("callbridge-{name}.log"))
}

/// The callbacks that were taken and wait, anywhere. Those of slow senders are never taken.
fn waiting(admin: SocketAddr) -> io::Result<f64> {
    let mut stream = TcpStream::connect(admin)?;
    // HTTP/1.0: the answer is not chunked, and ends with the connection.
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let lines = answer.lines().filter(|line| line.starts_with(WAITING) && !line.contains(UNTAKEN));
    let values = lines.map(|line| {
        let value = line.rsplit(' ').next().unwrap_or_default();
        value.parse::<f64>().map_err(io::Error::other)
    });
    let values = values.collect::<io::Result<Vec<_>>>()?;
    if values.is_empty() {
        return Err(io::Error::other(format!("/metrics does not name {WAITING}")));
    }
    Ok(values.iter().sum())
}

/// The address in a line such as `callbacks on http://127.0.0.1:41234`.
fn address_in(line: &str) -> io::Result<SocketAddr> {
    let address = line.split_once("http://").and_then(|(_, address)| address.trim().parse().ok());
    address.ok_or_else(|| io::Error::other(format!("no address in {line:?}")))
}
