//! `callbridge healthcheck`: asks the admin listener whether the process is alive, for images without a shell.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::cli::serve;

/// For name resolution, connection and response together.
const TIMEOUT: Duration = Duration::from_secs(2);

/// `/livez` responds with one line.
const RESPONSE_BYTES_MAX: u64 = 4096;

/// The default address of the admin listener.
const DEFAULT_ADMIN: &str = "127.0.0.1:9464";

/// The arguments of `healthcheck`.
#[derive(Debug, clap::Args)]
pub(super) struct HealthcheckArgs {
    /// The address of the admin listener [default: 127.0.0.1:9464]
    #[arg(long, value_name = "HOST:PORT", env = "CALLBRIDGE_ADMIN_LISTEN")]
    admin: Option<String>,
}

/// Why the process is not considered alive.
#[derive(Debug, thiserror::Error)]
pub(super) enum LivenessError {
    #[error("no connection")]
    Connect(#[source] io::Error),
    #[error("no response")]
    Exchange(#[source] io::Error),
    #[error("not an HTTP response")]
    NotHttp,
    #[error("/livez says {status}: {body}")]
    NotAlive { status: String, body: String },
    #[error("no response within {} s", TIMEOUT.as_secs())]
    TimedOut,
}

/// Exits with 0 if `/livez` returns 200, otherwise with 1 and the reason on stderr.
pub(super) fn run(args: &HealthcheckArgs) -> ExitCode {
    // An empty variable counts as absent, as for serve.
    let admin = args.admin.as_deref().filter(|admin| !admin.is_empty()).unwrap_or(DEFAULT_ADMIN);
    match ask_in_time(admin) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // If nobody reads it, the exit code still says it.
            let _ = writeln!(io::stderr(), "callbridge healthcheck: {admin}: {}", serve::chain(&failure));
            ExitCode::FAILURE
        }
    }
}

/// Runs on a thread, because name resolution has no timeout of its own. The thread ends with the process.
pub(super) fn ask_in_time(admin: &str) -> Result<(), LivenessError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let asked = admin.to_owned();
    let spawned = thread::Builder::new().name("healthcheck".to_owned()).spawn(move || {
        // Nobody waits for it after the timeout.
        let _ = sender.send(ask(&asked));
    });
    spawned.map_err(LivenessError::Exchange)?;
    receiver.recv_timeout(TIMEOUT).unwrap_or(Err(LivenessError::TimedOut))
}

fn ask(admin: &str) -> Result<(), LivenessError> {
    let mut stream = TcpStream::connect(admin).map_err(LivenessError::Connect)?;
    let request = format!("GET /livez HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(LivenessError::Exchange)?;
    let mut response = Vec::new();
    stream.take(RESPONSE_BYTES_MAX).read_to_end(&mut response).map_err(LivenessError::Exchange)?;
    judge(&String::from_utf8_lossy(&response))
}

fn judge(response: &str) -> Result<(), LivenessError> {
    let (head, body) = response.split_once("\r\n\r\n").ok_or(LivenessError::NotHttp)?;
    let status_line =
        head.lines().next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).ok_or(LivenessError::NotHttp)?;
    match status_line.split(' ').next() {
        Some("200") => Ok(()),
        Some(_) | None => {
            Err(LivenessError::NotAlive { status: status_line.to_owned(), body: body.trim_end().to_owned() })
        }
    }
}
