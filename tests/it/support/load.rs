//! Senders at work: after-callbacks over kept-alive connections, and what became of each.

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

/// Every callback of the load is this one.
pub(crate) const COMMAND: &str = "OfficialAccount.CallbackAfterOfficialAccountInfoChanged";

/// Before the next attempt to connect, or after a 503.
const RECONNECT: Duration = Duration::from_millis(20);

/// One callback that was sent. The official account is the `key`; the `sequence` stands in its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) key: String,
    /// Unique over all clients, and rising within a key.
    pub(crate) sequence: u64,
    /// Nothing when the connection broke first: it may have been taken or not.
    pub(crate) status: Option<u16>,
}

/// Clients that send until they are stopped, each keys of its own.
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

/// How one of them sends.
#[derive(Clone, Copy)]
struct Rhythm {
    keys: u64,
    /// Between two callbacks.
    pause: Duration,
    /// Whether that is from the one to the other, instead of from an answer on.
    is_at_rate: bool,
}

/// What they sent, in order for each key.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) issued: Vec<Sent>,
}

impl Load {
    /// Starts `clients` clients, each with its own key, one request at a time and `pause` between two.
    pub(crate) fn start(address: SocketAddr, app_id: &str, clients: u64, pause: Duration) -> Self {
        Self::start_in(Rhythm { keys: 1, pause, is_at_rate: false }, address, app_id, clients)
    }

    /// Starts `clients` clients, each with so many keys in turn, that together send `rate` callbacks a second. One that was
    /// answered late makes up for it.
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
                    // Who is told to come later does.
                    let is_sent_away = connection.is_none() || sender.sent.last().is_some_and(Sent::is_unavailable);
                    thread::sleep(if is_sent_away { RECONNECT.max(pause) } else { pause });
                }
                sender.sent
            })
        };
        let clients = (0..clients).map(spawn).collect();
        Self { target, acknowledged, pause_micros, stop, clients }
    }

    /// So long between two callbacks of one client, from now on.
    pub(crate) fn pause(&self, pause: Duration) {
        self.pause_micros.store(micros(pause), Ordering::Relaxed);
    }

    /// Where to connect from now on; open connections are kept.
    pub(crate) fn aim(&self, address: SocketAddr) {
        *self.target.lock().unwrap() = Some(address);
    }

    /// Lets nobody connect until the next `aim`: the port of a process that is gone may become another's. Open connections
    /// are kept.
    pub(crate) fn aim_nowhere(&self) {
        *self.target.lock().unwrap() = None;
    }

    /// How many were answered 200 so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Lets every client end its request, and says what became of all.
    pub(crate) fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        Outcome { issued: self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect() }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap()
}

impl Outcome {
    /// Those that were answered 200: they must come out.
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
    /// Sends the next callback. Gives the connection back when it is still good.
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

/// The callback with that number, as Tencent would send it.
pub(crate) fn body(key: &str, sequence: u64) -> String {
    format!(
        r#"{{"CallbackCommand":"{COMMAND}","Official_Account":"{key}","Operator_Account":"admin","Name":"{sequence}","EventTime":{}}}"#,
        1_670_574_414_123 + sequence % 1_000_000_000
    )
}
