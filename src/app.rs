//! The life of the process on one page: build everything, start it, wait, stop it in order.

mod blocklists;
mod build;
pub(crate) mod drain;
mod metrics;
pub(crate) mod stop;
pub(crate) mod system;

use std::io;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::process;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::thread::JoinHandle;
use std::thread::Thread;
use std::time::Duration;

use prometheus::IntCounter;
use prometheus::Registry;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::admin::Admin;
use crate::clock;
use crate::config::Config;
use crate::follow::tls::TlsFilesError;
use crate::follow::tokens::BadTokenFiles;
use crate::http::listener;
use crate::http::workers;
use crate::http::workers::Workers;
use crate::journal::commit;
use crate::journal::durable::JournalError;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::Phase;
use crate::logging::LogWriter;
use crate::publish::control::Control;
use crate::publish::kafka::ClientError;
use crate::publish::topics::Missing;
use crate::publish::topics::TopicsClient;
use crate::publish::topics::TopicsProgress;
use crate::systemd;
use crate::systemd::Notice;
use crate::systemd::PassedError;

use self::blocklists::Blocklists;
use self::build::Built;
use self::build::Publishing;
use self::build::Readying;

/// The exit code after a failure of the journal's disk. (`EX_IOERR`.)
const EXIT_JOURNAL_FAILED: i32 = 74;
/// How long the process still lives after that.
const LAST_ANSWERS: Duration = Duration::from_millis(200);
/// How long to wait for the reader of stdout.
const STDOUT_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the process cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// It cannot listen on an address.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error.
        source: io::Error,
    },
    /// The sockets passed by the service manager cannot be used.
    #[error("use the sockets of the service manager")]
    Passed(#[source] PassedError),
    /// librdkafka rejects the configuration as a whole, or cannot start.
    #[error("start the kafka client")]
    Kafka(#[source] ClientError),
    /// The embedded broker cannot start.
    #[error("start the embedded broker")]
    Embedded(#[source] ClientError),
    /// The journal cannot be opened.
    #[error("open the journal")]
    Journal(#[source] JournalError),
    /// Some token files cannot be used.
    #[error("use the token files")]
    Tokens(#[source] BadTokenFiles),
    /// The TLS files cannot be used.
    #[error("use the tls files")]
    Tls(#[source] TlsFilesError),
    /// A metric is registered twice: a bug.
    #[error("register the metrics")]
    Metrics(#[source] prometheus::Error),
    /// The system has no more threads, timers or signal handlers.
    #[error("start {what}")]
    System {
        /// What cannot be started.
        what: &'static str,
        /// The error.
        source: io::Error,
    },
}

impl ServeError {
    fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

/// Runs the bridge until it is asked to stop, and stops it in order.
///
/// # Errors
///
/// It could not start. No callback was accepted.
pub(crate) fn serve(config: &Config, log: &LogWriter) -> Result<stop::RunEnd, ServeError> {
    let passed = systemd::passed_sockets().map_err(ServeError::Passed)?;
    system::raise_descriptor_limit();
    // For rare events: it accepts connections, and waits for signals.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::system("the runtime"))?;
    let (reload, reloads) = mpsc::sync_channel(1);
    let mut signals = {
        let _inside = runtime.enter();
        stop::Signals::register(reload).map_err(ServeError::system("signal handling"))?
    };
    let workers = workers::UnstartedWorkers::new(config.workers).map_err(ServeError::system("the workers"))?;
    let registry = Registry::new();
    log.metrics().register(&registry).map_err(ServeError::Metrics)?;
    let config_to_build = config.clone();
    let building = build(move || Built::new(&config_to_build, registry, passed, serve_admin))?;
    let Some(built) = runtime.block_on(signals.unless_stopped(building)) else {
        return Ok(stop::RunEnd::Stopped);
    };
    let mut built = built.map_err(|_ended| ServeError::system("the start")(io::ErrorKind::Other.into()))??;
    // Dropped at the end of this function, after everything that uses it.
    let _embedded = built.embedded.take();
    // From here on threads and tasks are running.
    let running = start(built, &runtime, workers, reloads, log)?;
    Ok(stop::run_until_stopped(runtime, running, signals, config))
}

/// Builds everything on its own thread: reading a large journal takes a while, and signals must be handled meanwhile.
fn build<B: Send + 'static>(
    build: impl FnOnce() -> Result<B, ServeError> + Send + 'static,
) -> Result<oneshot::Receiver<Result<B, ServeError>>, ServeError> {
    let (done, built) = oneshot::channel();
    let _building = spawn("start", move || {
        // Nobody waits for the result if the process was asked to stop.
        let _sent = done.send(build());
    })?;
    Ok(built)
}

fn serve_admin(admin: Admin, listener: TcpListener) -> Result<JoinHandle<()>, ServeError> {
    spawn("admin", move || {
        if let Err(error) = admin.serve(listener) {
            tracing::error!(%error, "the admin listener ended");
        }
    })
}

/// What runs, as needed for the stop.
pub(crate) struct Running {
    built: build::Served,
    serving: oneshot::Receiver<()>,
    workers: Workers,
    pump: Pumping,
    /// The threads of the journal on disk. They end after the pump.
    committer_ended: Option<oneshot::Receiver<()>>,
    /// The journal on disk is still there at the next start.
    is_journal_persistent: bool,
    admin: JoinHandle<()>,
}

/// The thread of the pump, and the handle to control it.
struct Pumping {
    thread: Thread,
    control: Arc<Control>,
    /// The last error of each topic that does not accept its records, by index.
    ended: oneshot::Receiver<Vec<Option<String>>>,
    /// Counts the records that are in Kafka.
    delivered: IntCounter,
}

fn start(
    built: Built,
    runtime: &Runtime,
    workers: workers::UnstartedWorkers,
    reloads: Receiver<()>,
    log: &LogWriter,
) -> Result<Running, ServeError> {
    let Built { served, publishing, journaling, readying, admin, following, blocklists, listeners, embedded: _ } =
        built;
    // Not joined at the end: it may be reading from a disk that does not answer.
    let _following = spawn("files", move || following.run(&reloads))?;
    let is_journal_persistent = journaling.as_ref().is_some_and(|journaling| journaling.is_persistent);
    let committer_ended = journaling.map(|journaling| start_journal(journaling, &served.lifecycle, log)).transpose()?;
    let (pump, topics_client) = start_pump(publishing)?;
    let readying = Arc::new(readying);
    start_blocklists(blocklists, &readying, &served)?;
    // Not joined: it ends at its next request to the cluster.
    let _watching = {
        let (control, thread, served) = (Arc::clone(&pump.control), pump.thread.clone(), served.clone());
        spawn("topics", move || watch_topics(&readying, &topics_client, &served, &control, &thread))?
    };
    let workers = workers.start(&served.lifecycle).map_err(ServeError::system("the workers"))?;
    let (done, serving) = oneshot::channel();
    let serve = {
        let _inside = runtime.enter();
        let listener =
            tokio::net::TcpListener::from_std(listeners.callbacks).map_err(ServeError::system("the listener"))?;
        let setup = listener::ListenerSetup {
            service: Arc::clone(&served.service),
            preamble: Arc::clone(&served.preamble),
            limits: served.limits,
            workers: workers.handles().to_vec(),
        };
        listener::serve(listener, setup, served.lifecycle.clone())
    };
    // The only task of the root runtime; `stop` waits for it.
    let _task = runtime.spawn(async move {
        serve.await;
        // Nobody waits if the stop has run out of time.
        let _ = done.send(());
    });
    Ok(Running { built: served, serving, workers, pump, committer_ended, is_journal_persistent, admin })
}

/// Starts the threads of the journal. If the disk fails, they end the process. No acknowledged callback is lost: the next process recovers
/// them.
fn start_journal(
    journaling: build::Journaling,
    lifecycle: &Lifecycle,
    log: &LogWriter,
) -> Result<oneshot::Receiver<()>, ServeError> {
    let build::Journaling { committer, keeper, is_persistent: _ } = journaling;
    let (ended, committer_ended) = oneshot::channel();
    let (of_committer, log_of_committer) = (lifecycle.clone(), log.clone());
    let _committer = spawn("journal", move || {
        if let Err(failed) = committer.run(&of_committer) {
            end_without_disk(&failed, &log_of_committer);
        }
        let _ = ended.send(());
    })?;
    let (of_tender, log_of_tender) = (lifecycle.clone(), log.clone());
    let _tender = spawn("journal-files", move || {
        if let Err(failed) = keeper.run(&of_tender) {
            end_without_disk(&failed, &log_of_tender);
        }
    })?;
    Ok(committer_ended)
}

/// Ends the process because the journal's disk can no longer be trusted.
fn end_without_disk(failed: &commit::Failed, log: &LogWriter) -> ! {
    let source = std::error::Error::source(failed).map(ToString::to_string);
    tracing::error!(what = %failed, error = source, "the journal's disk has failed; this process ends without acknowledging further callbacks");
    // Waiting requests are answered meanwhile.
    thread::sleep(LAST_ANSWERS);
    log.flush();
    process::exit(EXIT_JOURNAL_FAILED)
}

/// Starts the pump, with the Kafka client on its thread.
fn start_pump(publishing: Publishing) -> Result<(Pumping, TopicsClient), ServeError> {
    let (control, delivered) = (publishing.control(), publishing.delivered_records());
    let (ended, has_ended) = oneshot::channel();
    let (started, has_started) = mpsc::sync_channel(1);
    let handle = {
        let control = Arc::clone(&control);
        spawn("pump", move || match publishing.into_pump(&thread::current()) {
            Ok((pump, topics_client)) => {
                let _sent = started.send(Ok(topics_client));
                let _ = ended.send(pump.run(&control));
            }
            Err(error) => {
                let _sent = started.send(Err(error));
            }
        })?
    };
    let topics_client = match has_started.recv() {
        Ok(Ok(topics_client)) => topics_client,
        Ok(Err(error)) => return Err(ServeError::Kafka(error)),
        Err(_ended) => return Err(ServeError::system("the pump")(io::ErrorKind::Other.into())),
    };
    Ok((Pumping { thread: handle.thread().clone(), control, ended: has_ended, delivered }, topics_client))
}

/// Starts the threads of the blocklist topics, and one that releases the callbacks once all topics have been read or the time limit has
/// passed.
fn start_blocklists(
    blocklists: Blocklists,
    readying: &Arc<Readying>,
    served: &build::Served,
) -> Result<(), ServeError> {
    let topics = blocklists.handles();
    blocklists.start()?;
    if !topics.is_empty() {
        let (readying, served) = (Arc::clone(readying), served.clone());
        let deadline = clock::monotonic() + readying.blocklist_limit;
        let _waiting = spawn("blocklist-read", move || {
            blocklists::wait_until_read(&topics, deadline, &served.lifecycle);
            serve_now(&readying, &served);
        })?;
    }
    Ok(())
}

/// Watches the topics until the stop. Releases the callbacks and prints the addresses once all topics exist, or those that do can be used
/// and the others do not come; at once where callbacks are safe without them.
fn watch_topics(readying: &Readying, client: &TopicsClient, served: &build::Served, control: &Control, pump: &Thread) {
    let mut are_released = readying.is_ready_alone;
    let release = || {
        served.lifecycle.set_waits_for("topics", None);
        serve_now(readying, served);
    };
    if are_released {
        release();
    }
    let mut last_missing = String::new();
    let on_progress = |progress: TopicsProgress<'_>| match progress {
        TopicsProgress::Missing(missing) => {
            let what = if are_released { "not publishing" } else { "not ready" };
            match missing {
                Missing::Topics(_) | Missing::Creation(_) => tracing::error!(%missing, "{what}"),
                Missing::Kafka(_) | Missing::Brokers(_) | Missing::Leaders(_) | Missing::Leader(..) => {
                    tracing::warn!(%missing, "{what}");
                }
                Missing::ProducerId => tracing::info!(%missing, "{what}"),
            }
            last_missing = missing.to_string();
            if !are_released {
                served.lifecycle.set_waits_for("topics", Some(last_missing.clone()));
            }
        }
        // A callback waits for its own topic only.
        TopicsProgress::OthersWork(there) if are_released => control.publish(there.iter().copied(), pump),
        TopicsProgress::OthersDeliverable(there) if !are_released => {
            tracing::error!(missing = last_missing, "not waiting for some topics");
            control.publish(there.iter().copied(), pump);
            are_released = true;
            release();
        }
        TopicsProgress::OthersWork(_) | TopicsProgress::OthersDeliverable(_) => {}
        TopicsProgress::Limit(smallest) => control.limit(smallest, pump),
        TopicsProgress::Complete => {
            control.publish(0..readying.topics.names.len(), pump);
            if are_released {
                tracing::info!("publishing");
            } else {
                are_released = true;
                release();
            }
        }
    };
    client.watch(&readying.topics, control, &served.lifecycle, on_progress);
}

/// Releases the callbacks, and prints the addresses, once everything that holds callbacks back has called it.
fn serve_now(readying: &Readying, served: &build::Served) {
    if readying.holders.fetch_sub(1, Ordering::AcqRel) > 1 {
        return;
    }
    served.service.intake.journal.open();
    if served.lifecycle.enter(Phase::Serving) {
        say(&format!(
            "callbacks on {}://{}\nadmin on http://{}",
            readying.callbacks_scheme, readying.callbacks_address, readying.admin_address
        ));
        tracing::info!("ready");
        systemd::notify(Notice::Ready);
    }
}

fn spawn<F: FnOnce() + Send + 'static>(name: &'static str, run: F) -> Result<JoinHandle<()>, ServeError> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map_err(ServeError::system(name))
}

/// Prints lines for programs. A reader that is gone is no reason to stop or to wait.
fn say(lines: &str) {
    let (written, is_written) = mpsc::sync_channel(1);
    let printed = format!("{lines}\n");
    // A thread that is blocked by stdout ends with the process.
    let printing = spawn("stdout", move || {
        let mut stdout = io::stdout().lock();
        let outcome = stdout.write_all(printed.as_bytes()).and_then(|()| stdout.flush());
        // Nobody waits if it has taken too long.
        let _ = written.send(outcome.is_ok());
    });
    if printing.is_err() || !is_written.recv_timeout(STDOUT_TIMEOUT).unwrap_or(false) {
        tracing::warn!(lines, "stdout could not be written");
    }
}
