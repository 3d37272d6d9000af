//! The admin listener: the status page, `/livez`, `/readyz`, `/metrics` and the blocklist API. It has its own thread, so that it responds
//! while the callback threads are busy.

pub(crate) mod api;
pub(crate) mod apps;
pub(crate) mod changes;
pub(crate) mod error;
mod history;
mod listener;
pub(crate) mod metrics;
pub(crate) mod model;
mod openapi;
mod page;
mod routes;
pub(crate) mod service;
pub(crate) mod status;
mod summary;

use std::future;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::Response;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header;
use hyper::header::HeaderValue;
use prometheus::Encoder;
use prometheus::Registry;
use prometheus::TextEncoder;
use tokio::net::TcpListener;
use tokio::time;

use crate::admin::error::ApiError;
use crate::admin::metrics::LifecycleMetrics;
use crate::admin::routes::Operation;
use crate::admin::routes::Route;
use crate::admin::service::BlocklistService;
use crate::admin::status::Probes;
use crate::admin::status::StatusSource;
use crate::clock::Heartbeat;
use crate::journal::durable::Gauge;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::Phase;
use crate::publish::control::Control;
use crate::publish::kafka::Health;
use crate::systemd;
use crate::systemd::Notice;

/// A thread whose last heartbeat is older counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// How often the service manager's watchdog is notified during its timeout: more than once, in case a notification is lost.
const WATCHDOG_NOTIFICATIONS: u32 = 3;

/// The parts of the process that the admin listener reports on.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) registry: Registry,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) metrics: LifecycleMetrics,
    pub(crate) kafka: Arc<Health>,
    /// Without a journal on disk, the process is not ready once Kafka has not responded for this long.
    pub(crate) unanswered_max: Duration,
    pub(crate) pump: Arc<Control>,
    /// Set once the journal on disk has been read; never set without one.
    pub(crate) journal: Arc<OnceLock<Gauge>>,
    pub(crate) blocklist: BlocklistService,
    pub(crate) status: StatusSource,
}

impl Admin {
    /// Serves until the process is in [`Phase::Stopped`]. Blocks its thread.
    ///
    /// # Errors
    ///
    /// The runtime cannot be created.
    pub(crate) fn serve(self, listener: StdListener) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener)?;
            let lifecycle = self.lifecycle.clone();
            let admin = Arc::new(self);
            tokio::select! {
                () = listener::serve(listener, Arc::clone(&admin)) => {}
                () = notify_watchdog(systemd::watchdog_timeout(), || admin.is_alive().is_ok(), systemd::notify) => {}
                () = admin.status.sample(&admin.kafka) => {}
                () = lifecycle.reached(Phase::Stopped) => {}
            }
            Ok::<_, std::io::Error>(())
        })?;
        // Does not wait for a page of rules that is still being made on a blocking thread.
        runtime.shutdown_background();
        Ok(())
    }

    /// The response to a request. `progress` gets heartbeats meanwhile.
    async fn respond(&self, request: Request<Incoming>, progress: &Heartbeat) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let Some((route, _ids)) = routes::find(path) else {
            return match path.starts_with("/blocklist") {
                true => service::problem(ApiError::NoPath),
                false => text(
                    StatusCode::NOT_FOUND,
                    "not found; the paths are /, /livez, /readyz, /metrics, /blocklist and /openapi.json\n".into(),
                ),
            };
        };
        let Some(operation) = route.operation(request.method().as_str()) else { return not_allowed(route) };
        match operation {
            Operation::StatusPage => self.status_page(&request),
            Operation::Livez => probe(self.is_alive(), "alive"),
            Operation::Readyz => probe(self.is_ready(), "ready"),
            Operation::Metrics => self.metrics(),
            Operation::OpenApi => {
                service::json(StatusCode::OK, "application/json", openapi::document().to_string().into_bytes())
            }
            Operation::Blocklist(call) => self.blocklist.respond(request, call, progress).await,
        }
    }

    fn is_alive(&self) -> Result<(), String> {
        // Without the time that the pump waits for the disk: a restart does not repair a disk that hangs.
        let read_age = self.journal.get().map(Gauge::read_age).unwrap_or_default();
        let pump_age = self.pump.heartbeat_age().saturating_sub(read_age);
        for (thread, age) in [("kafka's poll thread", self.kafka.poll_age()), ("the pump", pump_age)] {
            if age > STUCK_AFTER {
                return Err(format!("{thread} has not run for {} s", age.as_secs()));
            }
        }
        Ok(())
    }

    fn is_ready(&self) -> Result<(), String> {
        match self.lifecycle.phase() {
            Phase::Starting => Err(self.lifecycle.waits_for()),
            // Ready even if Kafka is down or the share of one topic is full: the journal stores other callbacks, and before-callbacks are
            // decided.
            Phase::Serving if let Some(journal) = self.journal.get() => journal.can_take(),
            // Without a journal on disk, callbacks fill the queue while Kafka is down, and are then lost: another replica may reach Kafka.
            Phase::Serving if !self.kafka.is_any_broker_up() => Err("no kafka broker can be reached".to_owned()),
            Phase::Serving if self.kafka.unanswered_age() > self.unanswered_max => {
                Err(format!("kafka has not answered for {} s", self.kafka.unanswered_age().as_secs()))
            }
            Phase::Serving => Ok(()),
            Phase::KeepAccepting | Phase::Closing | Phase::Draining | Phase::Recording | Phase::Stopped => {
                Err("stopping".to_owned())
            }
        }
    }

    fn status_page(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let lookup = match self.blocklist.page_lookup(request) {
            Ok(lookup) => lookup,
            Err(error) => return service::problem(error),
        };
        let probes = Probes {
            phase: self.lifecycle.phase(),
            alive: self.is_alive(),
            ready: self.is_ready(),
            is_any_broker_up: self.kafka.is_any_broker_up(),
        };
        page::response(&self.status.now(probes, &self.registry), &lookup)
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        self.metrics.set(self.is_ready().is_ok(), self.lifecycle.phase());
        let mut body = Vec::new();
        let encoder = TextEncoder::new();
        if let Err(error) = encoder.encode(&self.registry.gather(), &mut body) {
            return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"));
        }
        let mut response = Response::new(Full::new(Bytes::from(body)));
        if let Ok(format) = encoder.format_type().parse() {
            response.headers_mut().insert(header::CONTENT_TYPE, format);
        }
        response
    }
}

/// Notifies the watchdog of the service manager, if there is one, while this process is alive. Never returns.
async fn notify_watchdog(timeout: Option<Duration>, is_alive: impl Fn() -> bool, notify: impl Fn(Notice)) {
    let Some(timeout) = timeout else { return future::pending().await };
    loop {
        if is_alive() {
            notify(Notice::Watchdog);
        }
        time::sleep(timeout / WATCHDOG_NOTIFICATIONS).await;
    }
}

fn not_allowed(route: &Route) -> Response<Full<Bytes>> {
    let methods = route.methods();
    let mut response = match route.path.starts_with("/blocklist") {
        true => service::problem(ApiError::Method),
        false => text(StatusCode::METHOD_NOT_ALLOWED, format!("method not allowed; the methods are {methods}\n")),
    };
    if let Ok(methods) = HeaderValue::from_str(&methods) {
        response.headers_mut().insert(header::ALLOW, methods);
    }
    response
}

fn probe(result: Result<(), String>, success: &str) -> Response<Full<Bytes>> {
    match result {
        Ok(()) => text(StatusCode::OK, format!("{success}\n")),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_watchdog_is_notified_only_while_the_process_is_alive() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let notices_while = |timeout: Option<Duration>, is_alive: fn(u32) -> bool| {
            let (checks, notices) = <(Cell<u32>, Cell<u32>)>::default();
            let is_alive = || {
                checks.set(checks.get() + 1);
                is_alive(checks.get())
            };
            let watchdog = notify_watchdog(timeout, is_alive, |_notice| notices.set(notices.get() + 1));
            runtime.block_on(async {
                tokio::select! {
                    () = watchdog => {}
                    // Polled, since a change of the counter wakes nobody.
                    () = async { while checks.get() < 6 { time::sleep(Duration::from_millis(1)).await } } => {}
                }
            });
            notices.get()
        };
        let timeout = Some(Duration::from_millis(3));
        assert!(notices_while(timeout, |_nth| true) >= 6);
        assert_eq!(notices_while(timeout, |nth| nth <= 2), 2);
    }
}
