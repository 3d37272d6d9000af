//! A proxy in front of one broker that can keep the commits of offsets from it, so that a consumer can be killed between its work and
//! its commit. In what the broker says of its address, the proxy puts its own.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;

use crate::support::wait;

/// `OffsetCommit` of Kafka's protocol.
const OFFSET_COMMIT: [u8; 2] = [0, 8];

const HOST: &str = "127.0.0.1";

/// It runs as long as the process.
pub(crate) struct CommitProxy {
    port: u16,
    commits: Arc<Commits>,
}

#[derive(Default)]
struct Commits {
    are_withheld: AtomicBool,
    was_one_withheld: AtomicBool,
}

impl CommitProxy {
    /// For the only broker of a cluster, which is at `broker`: `127.0.0.1:PORT`.
    pub(crate) fn start(broker: &str) -> Self {
        Self::advertising(broker, None)
    }

    /// The same, which says in place of its own that the broker's address is this one.
    pub(crate) fn advertising(broker: &str, address: Option<&str>) -> Self {
        let advertised = address.map(port_of);
        let broker_port = port_of(broker);
        let listener = TcpListener::bind((HOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let commits = Arc::<Commits>::default();
        let shared = Arc::clone(&commits);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A client that comes while the broker is away is closed, as the broker itself would do.
                if let Ok(broker) = TcpStream::connect((HOST, broker_port)) {
                    connect(&client, &broker, [broker_port, advertised.unwrap_or(port)], &shared);
                }
            }
        });
        Self { port, commits }
    }

    /// Where consumers find it.
    pub(crate) fn address(&self) -> String {
        format!("{HOST}:{}", self.port)
    }

    /// From now on, the broker gets no commit.
    pub(crate) fn withhold_commits(&self) {
        self.commits.are_withheld.store(true, Ordering::SeqCst);
    }

    /// Waits until a consumer has asked for a commit that the broker did not get.
    pub(crate) fn wait_until_one_is_withheld(&self) {
        wait::until("a commit is withheld", || self.commits.was_one_withheld.load(Ordering::SeqCst));
    }

    /// From now on, the broker gets commits. Those withheld are gone.
    pub(crate) fn pass_commits(&self) {
        self.commits.are_withheld.store(false, Ordering::SeqCst);
    }
}

fn port_of(address: &str) -> u16 {
    address.rsplit_once(':').unwrap().1.parse().unwrap()
}

/// `ports`: the broker's, then the one to put in its place.
fn connect(client: &TcpStream, broker: &TcpStream, ports: [u16; 2], commits: &Arc<Commits>) {
    let [from_broker, from_proxy] = ports.map(|port| [HOST.as_bytes(), &u32::from(port).to_be_bytes()].concat());
    let commits = Arc::clone(commits);
    let is_passed = move |request: &mut Vec<u8>| {
        let is_withheld = request.starts_with(&OFFSET_COMMIT) && commits.are_withheld.load(Ordering::SeqCst);
        commits.was_one_withheld.fetch_or(is_withheld, Ordering::SeqCst);
        !is_withheld
    };
    let readdress = move |response: &mut Vec<u8>| {
        let mut start = 0;
        while let Some(found) = response[start..].windows(from_broker.len()).position(|it| it == from_broker) {
            start += found;
            response[start..start + from_proxy.len()].copy_from_slice(&from_proxy);
        }
        true
    };
    forward(client, broker, is_passed);
    forward(broker, client, readdress);
}

/// Copies frames, as far as `is_passed` says so of them and after what it changes, until one side ends.
fn forward(from: &TcpStream, to: &TcpStream, mut is_passed: impl FnMut(&mut Vec<u8>) -> bool + Send + 'static) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    thread::spawn(move || {
        // A connection that ends is an error too.
        let _ended = copy_frames(&mut from, &mut to, &mut is_passed);
        let _closed = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    });
}

fn copy_frames(
    from: &mut TcpStream,
    to: &mut TcpStream,
    is_passed: &mut impl FnMut(&mut Vec<u8>) -> bool,
) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        from.read_exact(&mut frame)?;
        if is_passed(&mut frame) {
            to.write_all(&[&length[..], &frame].concat())?;
        }
    }
}
