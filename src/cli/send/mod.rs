//! `callbridge send`: sends callbacks as Tencent does, and measures the responses.

mod condition;
mod replay;
mod report;

use std::fs::File;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;
use rustix::process::Resource;
use rustix::process::Rlimit;
use tokio::runtime;
use tokio::time;

use crate::auth::Tokens;
use crate::cli::serve::EXIT_USAGE;
use crate::cli::serve::chain;
use crate::command::CommandSet;
use crate::follow::file;
use crate::send;
use crate::send::LoadGenerator;
use crate::send::LoadLength;
use crate::send::LoadPlan;
use crate::send::RunTime;
use crate::send::callbacks;
use crate::send::callbacks::CallbackBody;
use crate::send::callbacks::Requests;
use crate::send::destination::Destination;
use crate::send::destination::ServerTrust;
use crate::send::measurements::Measurements;

use self::condition::FailCondition;
use self::report::SendReport;

const RATE: f64 = 100.0;
const RATE_MIN: f64 = 0.001;
const RATE_MAX: f64 = 1e6;
const COUNT_MAX: u64 = 1_000_000_000_000;
const SECONDS: f64 = 10.0;
const SECONDS_MIN: f64 = 0.001;
const SECONDS_MAX: f64 = 7.0 * 86_400.0;
const CONNECTIONS: u16 = 16;
/// The period of updating the progress line.
const PROGRESS: Duration = Duration::from_millis(500);

/// The arguments of `send`.
#[derive(Debug, clap::Args)]
#[command(allow_negative_numbers = true)]
pub(in crate::cli) struct SendArgs {
    /// The URL of the callback listener: http://127.0.0.1:8080/, or https://HOST/PATH
    #[arg(long)]
    url: String,
    /// The SdkAppid of the callbacks
    #[arg(long, value_name = "ID")]
    sdk_app_id: u64,
    /// Sign the callbacks with the token in the first line of this file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Callbacks a second, over all connections [default: 100]
    #[arg(long, value_name = "N", value_parser = rate, conflicts_with = "closed")]
    rate: Option<f64>,
    /// Send on each connection as soon as it has a response, instead of at a rate
    #[arg(long)]
    closed: bool,
    /// Kept-alive connections, each with one callback at a time [default: 16; 1 with --replay]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    connections: Option<u16>,
    /// How many seconds callbacks are sent [default: 10]
    #[arg(long, value_name = "S", value_parser = seconds)]
    seconds: Option<f64>,
    /// How many callbacks are sent, instead of for how long
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=COUNT_MAX), conflicts_with = "seconds")]
    count: Option<u64>,
    /// A CallbackCommand, or a family such as 'Group.*'; may be repeated [default: all]. With --replay, the command of bodies without one
    #[arg(long, value_name = "C")]
    command: Vec<String>,
    /// Send each callback twice, as Tencent does when it repeats one; --count counts them once
    #[arg(long)]
    duplicate: bool,
    /// Send the callbacks in this file, one a line, once and in order, instead of samples; - is stdin. A line is a body, an event as in
    /// Kafka, or the output of `callbridge journal export` or `kcat -J`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seconds", "count"])]
    replay: Option<PathBuf>,
    /// Also write the report as JSON, to this file or to stdout in place of the text
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// End with 1 if this holds at the end, such as 'p99>100ms', 'late>0' or 'errors>=0.1%'; may be repeated. A latency (p50, p99.9, any
    /// other percentile, max) has a unit: us, ms or s. A count (due, sent, answered, unanswered, errors, late, late_starts) is a number, or
    /// a percentage of the callbacks that were due. Operators: >, >=, < and <=
    #[arg(long, value_name = "EXPR", value_parser = FailCondition::parse)]
    fail_if: Vec<FailCondition>,
    /// The host of the URL, if it is not this machine
    #[arg(long, value_name = "HOST")]
    yes_to: Option<String>,
    /// CA certificates (PEM) that may have issued the server's certificate [default: the system's]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Accept any certificate of a server on this machine
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
}

/// Why nothing was sent, or the run failed.
#[derive(Debug, thiserror::Error)]
enum SendCommandError {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
    #[error("start")]
    System(#[from] io::Error),
}

/// Sends, reports, and evaluates the conditions.
pub(in crate::cli) fn run(args: &SendArgs) -> ExitCode {
    match send(args) {
        Ok(code) => code,
        Err(error) => {
            say(&chain(&error));
            match error {
                SendCommandError::Usage(_) => ExitCode::from(EXIT_USAGE),
                SendCommandError::Failed(_) | SendCommandError::System(_) => ExitCode::FAILURE,
            }
        }
    }
}

fn send(args: &SendArgs) -> Result<ExitCode, SendCommandError> {
    let trust = if args.insecure { ServerTrust::Any } else { ServerTrust::Authorities(args.ca.clone()) };
    let destination = Destination::resolve(&args.url, args.yes_to.as_deref(), &trust)
        .map_err(|error| SendCommandError::Usage(format!("--url {}: {}", report::origin(&args.url), chain(&error))))?;
    let tokens = args.token_file.as_deref().map(tokens).transpose()?;
    let callbacks = callbacks_of(args)?;
    let plan = plan(args, callbacks.len());
    let connections = args.connections.unwrap_or(if args.replay.is_some() { 1 } else { CONNECTIONS });
    // Before anything is sent, so that no run is in vain.
    let json = args.json.as_deref().filter(|path| !is_stream(path)).map(create).transpose()?;
    let requests = Requests::new(&destination, args.sdk_app_id, tokens, &callbacks, args.replay.is_none());
    raise_descriptor_limit();
    let measurements = Arc::new(Mutex::new(Measurements::new()?));
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let took = runtime.block_on(async {
        let generator = LoadGenerator::open(destination, requests, usize::from(connections));
        let mut generator = generator.await.map_err(|error| {
            SendCommandError::Failed(format!("connect to {}: {}", report::origin(&args.url), chain(&error)))
        })?;
        Ok::<_, SendCommandError>(with_progress(generator.run(&plan, &measurements), &measurements).await)
    })?;
    let measurements = send::lock(&measurements).clone();
    let report = SendReport::new(&args.url, &plan, connections, took, &measurements);
    print(args, json, &report)?;
    Ok(verdict(args, &measurements))
}

/// Prints the progress line on a terminal.
async fn with_progress(run: impl Future<Output = RunTime>, measurements: &Mutex<Measurements>) -> RunTime {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let bar = match ProgressStyle::with_template("{elapsed}  {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_wrong) => bar,
    };
    let mut run = pin::pin!(run);
    let mut ticks = time::interval(PROGRESS);
    loop {
        tokio::select! {
            took = &mut run => {
                bar.finish_and_clear();
                return took;
            }
            _ = ticks.tick() => bar.set_message(report::progress(&send::lock(measurements))),
        }
    }
}

fn print(args: &SendArgs, json: Option<File>, report: &SendReport) -> Result<(), SendCommandError> {
    let is_for_stdout = args.json.as_deref().is_some_and(is_stream);
    let text = if is_for_stdout { report.json() } else { report.to_string() };
    // A reader that ends early does not change the result of the run.
    let _ = super::print(text.as_bytes());
    let written = json.map_or(Ok(()), |mut file| file.write_all(report.json().as_bytes()));
    written.map_err(|error| SendCommandError::Failed(format!("write the report: {error}")))
}

fn create(path: &Path) -> Result<File, SendCommandError> {
    File::create(path).map_err(|error| SendCommandError::Usage(format!("--json {}: {error}", path.display())))
}

fn verdict(args: &SendArgs, measurements: &Measurements) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    if measurements.answered == 0 {
        say("there was no response");
        code = ExitCode::FAILURE;
    }
    for condition in args.fail_if.iter().filter(|condition| condition.holds(measurements)) {
        say(&format!("--fail-if {condition} holds: {}", condition.found(measurements)));
        code = ExitCode::FAILURE;
    }
    code
}

fn callbacks_of(args: &SendArgs) -> Result<Vec<CallbackBody>, SendCommandError> {
    let words = args.command.iter().map(String::as_str);
    let Some(path) = &args.replay else {
        let words: Vec<&str> = if args.command.is_empty() { vec!["all"] } else { words.collect() };
        let commands = CommandSet::select(words, |_any| true).map_err(|word| {
            SendCommandError::Usage(format!(
                "--command {word}: neither a command, nor a family such as Group.*, nor all"
            ))
        })?;
        return Ok(callbacks::samples(&commands)?);
    };
    let command = match args.command.as_slice() {
        [] => None,
        [command] => Some(command.as_str()),
        _ => return Err(SendCommandError::Usage("--replay: give one --command at most".to_owned())),
    };
    replay::read(path, command).map_err(|why| SendCommandError::Usage(format!("--replay {}: {why}", path.display())))
}

fn plan(args: &SendArgs, lines: usize) -> LoadPlan {
    let count = args.replay.as_ref().map(|_| lines as u64).or(args.count);
    let length = count.map_or(LoadLength::Seconds(args.seconds.unwrap_or(SECONDS)), LoadLength::Count);
    let rate = (!args.closed).then(|| args.rate.unwrap_or(RATE));
    LoadPlan { rate, length, is_twice: args.duplicate }
}

fn tokens(path: &Path) -> Result<Tokens, SendCommandError> {
    file::read::<Tokens>(path)
        .map_err(|error| SendCommandError::Usage(format!("--token-file {}: {error}", path.display())))
}

fn is_stream(path: &Path) -> bool {
    path == Path::new("-")
}

/// Each connection needs a file descriptor.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    // If there are too few, the connection reports the error.
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn say(what: &str) {
    // If nobody reads it, the exit code still says it.
    let _ = writeln!(io::stderr(), "callbridge send: {what}");
}

fn rate(text: &str) -> Result<f64, String> {
    between(text, RATE_MIN, RATE_MAX)
}

fn seconds(text: &str) -> Result<f64, String> {
    between(text, SECONDS_MIN, SECONDS_MAX)
}

fn between(text: &str, min: f64, max: f64) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| format!("must be a number from {min} to {max}"))
}
