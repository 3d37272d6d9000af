//! Senders that trickle: half of them a head without end, half of them a body, a byte at a time. Who is ended comes again.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use callbridge::clock;
use clap::Args;
use rustix::process::Resource;
use rustix::process::Rlimit;

use crate::callback::Command;
use crate::process::Process;
use crate::server::Server;

/// The line that says that all of them are connected.
const SLOW: &str = "slow";
/// Between two bytes of one sender.
const STEP: Duration = Duration::from_millis(200);
/// The line that says that they bothered it to the end.
const ENDED: &str = "ended";
/// How long it may take until all are connected, and until they have ended.
const LIMIT: Duration = Duration::from_secs(60);

/// Whom to bother, and how much.
#[derive(Debug, Clone, Args)]
pub(crate) struct SlowOptions {
    /// The server's callback address.
    #[arg(long)]
    server: SocketAddr,
    /// Connections.
    #[arg(long)]
    connections: usize,
}

/// Lets so many slow senders loose on a server. They end when the process is dropped.
pub(crate) fn start(server: &Server, connections: usize) -> io::Result<Process> {
    let (address, connections) = (server.callbacks.to_string(), connections.to_string());
    let process = Process::role("slow senders", &["slow", "--server", &address, "--connections", &connections])?;
    hear(&process, SLOW)?;
    Ok(process)
}

/// Ends them. An error when they had ended before: then nobody was slow.
pub(crate) fn end(mut process: Process) -> io::Result<()> {
    process.tell("end")?;
    hear(&process, ENDED)
}

fn hear(process: &Process, wanted: &str) -> io::Result<()> {
    let line = process.line(LIMIT)?;
    if line == wanted { Ok(()) } else { Err(io::Error::other(format!("the slow senders said {line:?}"))) }
}

/// Lets this process, and those it starts, have as many files as the system allows: each end of a connection is one.
pub(crate) fn allow_connections() -> io::Result<()> {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    Ok(rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// Trickles until it is told a line, or its standard input ends.
pub(crate) fn run(options: &SlowOptions) -> io::Result<()> {
    let mut senders = Vec::with_capacity(options.connections);
    let requests = Command::After.requests(options.server, false)?;
    for number in 0..options.connections {
        let trickle = Trickle::of(requests.first(number), number % 2 == 0);
        senders.push(Slow::open(options.server, trickle)?);
    }
    println!("{SLOW}");
    let is_over = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&is_over);
    thread::spawn(move || {
        let _end = io::stdin().read_line(&mut String::new());
        tell.store(true, Ordering::Relaxed);
    });
    // One after the other, at even distances: a thousand peers somewhere in the network do not send in the same moment.
    let distance = STEP.div_f64(options.connections.max(1) as f64);
    let mut due = clock::monotonic();
    while !is_over.load(Ordering::Relaxed) {
        for sender in &mut senders {
            thread::sleep(due.saturating_duration_since(clock::monotonic()));
            sender.send(options.server)?;
            due += distance;
        }
    }
    println!("{ENDED}");
    Ok(())
}

/// What is sent at once, and what a byte at a time.
struct Trickle {
    at_once: Vec<u8>,
    slowly: Vec<u8>,
}

impl Trickle {
    /// A request as somebody slow sends it: of the head only the beginning at once, or all of it.
    fn of(mut request: Vec<u8>, of_head: bool) -> Self {
        let head_bytes = request.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_default();
        if of_head {
            // One that never ends.
            request.truncate(head_bytes);
            request.extend_from_slice(b"\r\nx-slow: ");
            return Self { at_once: request, slowly: b"x".to_vec() };
        }
        let slowly = request.split_off(head_bytes + 4);
        Self { at_once: request, slowly }
    }
}

/// A sender that trickles.
struct Slow {
    stream: TcpStream,
    trickle: Trickle,
    sent: usize,
}

impl Slow {
    fn open(server: SocketAddr, trickle: Trickle) -> io::Result<Self> {
        Ok(Self { stream: connect(server, &trickle)?, trickle, sent: 0 })
    }

    /// Sends a byte; if the server has ended the connection or answered, on a new one.
    fn send(&mut self, server: SocketAddr) -> io::Result<()> {
        let heard = self.stream.read(&mut [0; 512]);
        if !heard.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.stream = connect(server, &self.trickle)?;
            self.sent = 0;
        }
        let next = self.sent % self.trickle.slowly.len();
        self.sent += 1;
        // It may be ended just now. That is found at its next turn.
        drop(self.stream.write_all(self.trickle.slowly.get(next..=next).unwrap_or_default()));
        Ok(())
    }
}

/// A connection on which the first part has been sent.
fn connect(server: SocketAddr, trickle: &Trickle) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.write_all(&trickle.at_once)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}
