//! A server under test: callbridge, bare hyper, or a peer.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use callbridge::clock;

use crate::broker::Broker;
use crate::callback;
use crate::callback::Command as Callback;
use crate::options::Mode;
use crate::options::OUTPUT;
use crate::process;
use crate::process::Process;
use crate::topic::Topic;

/// Threads that serve callbacks, in both servers.
pub(crate) const WORKERS: usize = 2;

/// How long a server may take until it is ready.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long what waits for Kafka may take to get there.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);

/// How often a drain is looked at.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// A topic that is not written to for so long has all that there was to write.
const UNCHANGED: Duration = Duration::from_millis(300);

/// Nobody listens there.
const NO_BROKER: &str = "127.0.0.1:1";

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
    /// callbridge's.
    pub(crate) admin: Option<SocketAddr>,
    /// Bytes of memory it had when it was ready and nothing had been sent.
    pub(crate) idle_bytes: u64,
    backlog: Backlog,
}

/// Where it shows how much of what a server took has yet to reach Kafka.
pub(crate) enum Backlog {
    /// It publishes nothing.
    Nothing,
    /// In a metric of callbridge's.
    Metric,
    /// In Kafka: nothing is added to the topic any more.
    Topic(Topic),
}

/// How a callbridge is run.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    /// Of its log and its journal.
    pub(crate) name: &'a str,
    pub(crate) program: &'a Path,
    pub(crate) mode: Mode,
    /// Without one, nothing is published.
    pub(crate) broker: Option<&'a Broker>,
    /// Whether it takes signed callbacks only.
    pub(crate) is_signed: bool,
    /// Settings beside those of every callbridge, by the names of their environment variables.
    pub(crate) settings: &'a [(&'a str, &'a str)],
}

impl Server {
    /// Starts bare hyper.
    pub(crate) fn bare() -> io::Result<Self> {
        let process = Process::role("bare hyper", &["bare"])?;
        let callbacks = address_in(&process.line(START_LIMIT)?)?;
        Self::ready(process, callbacks, None, Backlog::Nothing)
    }

    /// Starts a server that prints where it listens, as callbridge does.
    pub(crate) fn other(name: &str, command: &mut Command, topic: Topic) -> io::Result<Self> {
        let process = Process::start(name, command.stderr(File::create(log(name))?))?;
        let callbacks = address_in(&process.line(START_LIMIT)?)?;
        Self::ready(process, callbacks, None, Backlog::Topic(topic))
    }

    /// Starts a server that was told where to listen, and waits until it does.
    pub(crate) fn listening(
        name: &str,
        command: &mut Command,
        callbacks: SocketAddr,
        topic: Topic,
    ) -> io::Result<Self> {
        let process = Process::start(name, command.stderr(File::create(log(name))?))?;
        let deadline = clock::monotonic() + START_LIMIT;
        while TcpStream::connect(callbacks).is_err() {
            if clock::monotonic() > deadline {
                return Err(io::Error::other(format!("{name} does not listen; see {}", log(name).display())));
            }
            thread::sleep(DRAIN_STEP);
        }
        Self::ready(process, callbacks, None, Backlog::Topic(topic))
    }

    /// Starts callbridge with an empty journal, and waits until it is ready. Its log, in the output folder, has its name.
    pub(crate) fn callbridge(name: &str, program: &Path, mode: Mode, broker: &Broker) -> io::Result<Self> {
        Self::forget_journal(name)?;
        Self::start(Setup { name, program, mode, broker: Some(broker), is_signed: false, settings: &[] })
    }

    /// The same for one that takes signed callbacks only.
    pub(crate) fn signed(program: &Path, mode: Mode, broker: &Broker) -> io::Result<Self> {
        Self::start(Setup { name: "signed", program, mode, broker: Some(broker), is_signed: true, settings: &[] })
    }

    /// Starts callbridge in journal mode with what is in the journal, and without a broker.
    pub(crate) fn with_journal(program: &Path) -> io::Result<Self> {
        let mode = Mode::Journal;
        Self::start(Setup { name: RECOVERED, program, mode, broker: None, is_signed: false, settings: &[] })
    }

    /// Removes the journal of earlier servers of this name.
    pub(crate) fn forget_journal(name: &str) -> io::Result<()> {
        match fs::remove_dir_all(journal(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Starts callbridge with what is in its journal.
    pub(crate) fn start(setup: Setup<'_>) -> io::Result<Self> {
        let Setup { name, program, mode, broker, is_signed, settings } = setup;
        let (prefix, ack) = (mode.topic_prefix(), mode.name());
        let brokers = broker.map_or(NO_BROKER, |broker| &broker.address);
        let mut command = process::command(program)?;
        command.args(["serve", "--sdk-app-id", "1400000000", "--brokers", brokers, "--ack", ack]);
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.args(["--topic-prefix", &prefix, "--workers", &WORKERS.to_string()]);
        // All senders of a benchmark are one peer.
        command.env("CALLBRIDGE_CALLBACKS_CONNECTIONS_PER_PEER_MAX", "10000");
        // Kafka makes topics for what is sent, and for no more.
        let [after, before] = [Callback::After, Callback::Before].map(Callback::name);
        command.env("CALLBRIDGE_TOPICS_COMMANDS", format!("{after},{before}"));
        if mode == Mode::Journal {
            command.arg("--data-dir").arg(journal(name));
        }
        if let Some(broker) = broker {
            // Without the factor, fewer than three brokers would be watched for some seconds before they count as all.
            let copies = broker.nodes().to_string();
            command.arg("--create-topics").env("CALLBRIDGE_TOPICS_REPLICATION_FACTOR", copies);
        }
        if is_signed {
            command.arg("--token-file").arg(callback::token_file()?);
        }
        command.envs(settings.iter().copied());
        command.stderr(File::create(log(name))?);
        let process = Process::start(&format!("callbridge {name} in {ack} mode"), &mut command)?;
        let callbacks = address_in(&process.line(START_LIMIT)?)?;
        let admin = address_in(&process.line(START_LIMIT)?)?;
        Self::ready(process, callbacks, Some(admin), Backlog::Metric)
    }

    fn ready(process: Process, callbacks: SocketAddr, admin: Option<SocketAddr>, backlog: Backlog) -> io::Result<Self> {
        let idle_bytes = process.memory()?;
        Ok(Self { process, callbacks, admin, idle_bytes, backlog })
    }

    /// Waits until everything it took has reached Kafka. Returns how long that took.
    pub(crate) fn drain(&self) -> io::Result<Duration> {
        let start = clock::monotonic();
        match &self.backlog {
            Backlog::Nothing => {}
            Backlog::Metric => {
                while self.metric(WAITING)? > 0.0 {
                    if start.elapsed() > DRAIN_LIMIT {
                        return Err(io::Error::other(format!("{WAITING} is not zero after {DRAIN_LIMIT:?}")));
                    }
                    thread::sleep(DRAIN_STEP);
                }
            }
            Backlog::Topic(topic) => {
                let mut records = topic.extent()?.records();
                loop {
                    thread::sleep(UNCHANGED);
                    let now = topic.extent()?.records();
                    if now == records {
                        break;
                    }
                    records = now;
                }
            }
        }
        Ok(start.elapsed())
    }

    /// The sum of a metric of callbridge's over its labels; of callbacks that wait, without those that are still being read: those of slow
    /// senders are never taken.
    pub(crate) fn metric(&self, name: &str) -> io::Result<f64> {
        let text = self.ask("GET", "/metrics", "")?;
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])) && !line.contains(UNTAKEN)
        });
        let values = lines.map(|line| {
            let value = line.rsplit(' ').next().unwrap_or_default();
            value.parse::<f64>().map_err(io::Error::other)
        });
        let values = values.collect::<io::Result<Vec<_>>>()?;
        if values.is_empty() {
            return Err(io::Error::other(format!("/metrics does not name {name}")));
        }
        Ok(values.iter().sum())
    }

    /// What the admin listener of a callbridge answers; `headers` end in CR LF each.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &str) -> io::Result<String> {
        let admin = self.admin.ok_or(io::ErrorKind::NotConnected)?;
        let mut stream = TcpStream::connect(admin)?;
        // HTTP/1.0: the answer is not chunked, and ends with the connection.
        stream.write_all(format!("{method} {path} HTTP/1.0\r\n{headers}\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
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

/// The address in a line such as `callbacks on http://127.0.0.1:41234`.
fn address_in(line: &str) -> io::Result<SocketAddr> {
    let address = line.split_once("http://").and_then(|(_, address)| address.trim().parse().ok());
    address.ok_or_else(|| io::Error::other(format!("no address in {line:?}")))
}
