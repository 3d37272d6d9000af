//! A load of after-callbacks over kept-alive connections, with the outcome of each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use callbridge::clock;

use crate::support::http;
use crate::support::http::Client;

/// The command of all callbacks.
pub(crate) const COMMAND: &str = "OfficialAccount.CallbackAfterOfficialAccountInfoChanged";

/// The pause before another attempt to connect, and after a 503.
const RECONNECT: Duration = Duration::from_millis(20);

/// One callback that was sent. The official account is the `key`; the `sequence` is in its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) key: String,
    /// Unique over all clients, and increasing within a key.
    pub(crate) sequence: u64,
    /// `None` if the connection broke before a response: the callback may have been accepted or not.
    pub(crate) status: Option<u16>,
}

/// Clients that send until they are stopped, each with its own keys.
pub(crate) struct Load {
    target: Arc<Mutex<Option<SocketAddr>>>,
    acknowledged: Arc<AtomicU64>,
    pause_micros: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Sent>>>,
}

impl Sent {
    fn is_unavailable(&self) -> bool {
        self.status == Some(503)
    }
}

/// How a client sends.
#[derive(Clone, Copy)]
struct Rhythm {
    keys: u64,
    /// The time between two callbacks.
    pause: Duration,
    /// Whether that is a fixed rate, instead of a pause after each response.
    is_at_rate: bool,
}

/// What they sent, in order for each key.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) issued: Vec<Sent>,
}

impl Load {
    /// Starts `clients` clients, each with its own key, one request at a time, with `pause` after each.
    pub(crate) fn start(address: SocketAddr, app_id: &str, clients: u64, pause: Duration) -> Self {
        Self::start_in(Rhythm { keys: 1, pause, is_at_rate: false }, address, app_id, clients)
    }

    /// Starts `clients` clients, each with so many keys in rotation, that together send `rate` callbacks a second. A client catches up
    /// after a late response.
    pub(crate) fn start_at_rate(address: SocketAddr, app_id: &str, clients: u64, keys_each: u64, rate: u32) -> Self {
        let pause = Duration::from_secs(clients) / rate;
        Self::start_in(Rhythm { keys: keys_each, pause, is_at_rate: true }, address, app_id, clients)
    }

    fn start_in(rhythm: Rhythm, address: SocketAddr, app_id: &str, clients: u64) -> Self {
        let Rhythm { keys, pause, is_at_rate } = rhythm;
        let target = Arc::new(Mutex::new(Some(address)));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let pause_micros = Arc::new(AtomicU64::new(micros(pause)));
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |number| {
            let (target, acknowledged, stop) = (Arc::clone(&target), Arc::clone(&acknowledged), Arc::clone(&stop));
            let pause_micros = Arc::clone(&pause_micros);
            let path = http::callback_target(app_id, COMMAND);
            thread::spawn(move || {
                let mut sender = Sender { target, acknowledged, path, number, keys, sent: Vec::new() };
                let mut connection = None;
                let mut due = clock::monotonic();
                while !stop.load(Ordering::Relaxed) {
                    connection = sender.send_one(connection);
                    let pause = Duration::from_micros(pause_micros.load(Ordering::Relaxed));
                    due += pause;
                    let pause = if is_at_rate { due.saturating_duration_since(clock::monotonic()) } else { pause };
                    // Back off after a 503.
                    let is_sent_away = connection.is_none() || sender.sent.last().is_some_and(Sent::is_unavailable);
                    thread::sleep(if is_sent_away { RECONNECT.max(pause) } else { pause });
                }
                sender.sent
            })
        };
        let clients = (0..clients).map(spawn).collect();
        Self { target, acknowledged, pause_micros, stop, clients }
    }

    /// Sets the time between two callbacks of a client.
    pub(crate) fn pause(&self, pause: Duration) {
        self.pause_micros.store(micros(pause), Ordering::Relaxed);
    }

    /// Sets the address of new connections; open connections are kept.
    pub(crate) fn aim(&self, address: SocketAddr) {
        *self.target.lock().unwrap() = Some(address);
    }

    /// Prevents new connections until the next `aim`: the port of a process that has ended may be reused by another. Open connections are
    /// kept.
    pub(crate) fn aim_nowhere(&self) {
        *self.target.lock().unwrap() = None;
    }

    /// The number of callbacks answered 200 so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Lets every client finish its request, and returns all outcomes.
    pub(crate) fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        Outcome { issued: self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect() }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap()
}

impl Outcome {
    /// The acknowledged callbacks: they must be delivered.
    pub(crate) fn acknowledged(&self) -> impl Iterator<Item = &Sent> {
        self.issued.iter().filter(|sent| sent.status == Some(200))
    }
}

struct Sender {
    target: Arc<Mutex<Option<SocketAddr>>>,
    acknowledged: Arc<AtomicU64>,
    path: String,
    number: u64,
    keys: u64,
    sent: Vec<Sent>,
}

impl Sender {
    /// Sends the next callback. Returns the connection if it can be reused.
    fn send_one(&mut self, connection: Option<Client>) -> Option<Client> {
        let address = *self.target.lock().unwrap();
        let mut connection = connection.or_else(|| Client::connect(address?).ok())?;
        let count = u64::try_from(self.sent.len()).unwrap();
        let key = format!("@TOA#_load_{}", self.number * self.keys + count % self.keys);
        let sequence = self.number * 1_000_000_000 + count;
        let answer = connection.post(&self.path, body(&key, sequence).as_bytes());
        let keeps = answer.as_ref().is_ok_and(|response| response.header("connection") != Some("close"));
        let status = answer.ok().map(|response| response.status);
        if status == Some(200) {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        self.sent.push(Sent { key, sequence, status });
        keeps.then_some(connection)
    }
}

/// The callback with this number, in Tencent's format.
pub(crate) fn body(key: &str, sequence: u64) -> String {
    format!(
        r#"{{"CallbackCommand":"{COMMAND}","Official_Account":"{key}","Operator_Account":"admin","Name":"{sequence}","EventTime":{}}}"#,
        1_670_574_414_123 + sequence % 1_000_000_000
    )
}
