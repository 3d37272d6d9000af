//! Senders that trickle: half of them a head without end, half of them a body, a byte at a time. Who is ended comes again.

use std::io;
use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use rustix::process::Resource;
use rustix::process::Rlimit;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time;

use crate::callback::Command;
use crate::callback::Request;
use crate::process::Process;
use crate::server::Server;

/// The line that says that all of them are connected.
const SLOW: &str = "slow";
/// Between two bytes.
const STEP: Duration = Duration::from_millis(200);
/// How long it may take until all are connected.
const START_LIMIT: Duration = Duration::from_secs(60);

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
    let line = process.line(START_LIMIT)?;
    if line == SLOW { Ok(process) } else { Err(io::Error::other(format!("the slow senders said {line:?}"))) }
}

/// Lets this process, and those it starts, have as many files as the system allows: each end of a connection is one.
pub(crate) fn allow_connections() -> io::Result<()> {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    Ok(rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// Trickles until its standard input ends.
pub(crate) fn run(options: &SlowOptions) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (connected, mut all) = mpsc::channel(options.connections.max(1));
        let mut tasks = JoinSet::new();
        for number in 0..options.connections {
            let request = Request::new(Command::After, options.server, number, false);
            tasks.spawn(bother(options.server, request.trickle(number % 2 == 0), number, connected.clone()));
        }
        for _ in 0..options.connections {
            all.recv().await;
        }
        println!("{SLOW}");
        tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new())).await?.map(|_end| ())
    })
}

/// One of them.
async fn bother(server: SocketAddr, trickle: Trickle, number: usize, connected: mpsc::Sender<()>) {
    // So that they do not write all at once.
    time::sleep(STEP.mul_f64((number % 100) as f64 / 100.0)).await;
    let mut connected = Some(connected);
    loop {
        if let Ok(mut stream) = TcpStream::connect(server).await {
            if let Some(connected) = connected.take() {
                let _ = connected.send(()).await;
            }
            // It was ended, as it should be.
            drop(trickle_into(&mut stream, &trickle).await);
        } else {
            time::sleep(STEP).await;
        }
    }
}

/// What is sent at once, and what a byte at a time.
pub(crate) struct Trickle {
    pub(crate) at_once: Vec<u8>,
    pub(crate) slowly: Vec<u8>,
}

/// Writes until the server ends it, or answers.
async fn trickle_into(stream: &mut TcpStream, trickle: &Trickle) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(&trickle.at_once).await?;
    let mut answer = [0; 512];
    for byte in trickle.slowly.iter().cycle() {
        stream.write_all(&[*byte]).await?;
        tokio::select! {
            () = time::sleep(STEP) => {}
            readable = stream.readable() => {
                readable?;
                match stream.try_read(&mut answer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    _ended_or_answered => return Ok(()),
                }
            }
        }
    }
    Ok(())
}
