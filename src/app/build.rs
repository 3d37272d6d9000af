//! Builds everything that a configuration needs. Nothing runs yet, except an embedded broker.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::thread::Thread;
use std::time::Duration;

use crate::admin::Admin;
use crate::admin::service::BlocklistService;
use crate::admin::status::StatusSource;
use crate::auth::Apps;
use crate::clock;
use crate::config::Callbacks;
use crate::config::Config;
use crate::config::Decide;
use crate::decide::Policy;
use crate::follow::Following;
use crate::follow::files::BlocklistFiles;
use crate::follow::tls::TlsFiles;
use crate::follow::tokens::TokenFiles;
use crate::http::body::Bodies;
use crate::http::body::BodyBudget;
use crate::http::connections::ConnectionLimits;
use crate::http::listener;
use crate::http::preamble::Preamble;
use crate::http::service::Service;
use crate::intake::Intake;
use crate::journal;
use crate::journal::Ack;
use crate::journal::Backlog;
use crate::journal::Journal;
use crate::journal::Shares;
use crate::journal::commit::Committer;
use crate::journal::commit::SegmentKeeper;
use crate::journal::durable;
use crate::journal::durable::Gauge;
use crate::journal::durable::OnDisk;
use crate::journal::inspect;
use crate::journal::inspect::Owner;
use crate::journal::log::recovery::RecoveryReport;
use crate::ledger::Ledger;
use crate::lifecycle::Lifecycle;
use crate::metrics;
use crate::metrics::journal::JournalMetrics;
use crate::normalise::Normaliser;
use crate::publish::budget::BUDGET_BYTES;
use crate::publish::control::Control;
use crate::publish::embedded::EmbeddedBroker;
use crate::publish::kafka::ClientError;
use crate::publish::kafka::UnstartedKafka;
use crate::publish::kafka::librdkafka_version;
use crate::publish::metrics::PublishMetrics;
use crate::publish::outbox::Backoff;
use crate::publish::properties::Properties;
use crate::publish::pump::Pump;
use crate::publish::pump::PumpSetup;
use crate::publish::topics::Needs;
use crate::publish::topics::TopicsClient;
use crate::record::Topics;
use crate::sender::Networks;
use crate::sender::Senders;
use crate::systemd::PassedSockets;
use crate::throttle::Throttle;
use prometheus::IntCounter;
use prometheus::Registry;

use super::ServeError;
use super::blocklists::Blocklists;
use super::metrics::Metrics;
use super::system;

/// The default cap per peer: one in so many of all connections, but at least a fixed number.
const PEER_SHARE: usize = 4;
const PEER_LEAST: usize = 100;
/// The shortest time between two log lines about callbacks without a query, or about requests that are not HTTP.
const REQUEST_LOG_PERIOD: Duration = Duration::from_secs(60);
/// How long captures gather before the pump runs, where no request waits for them: one wake-up for many.
pub(super) const GATHER: Duration = Duration::from_millis(15);

/// All parts, built.
pub(super) struct Built {
    pub(super) served: Served,
    pub(super) publishing: Publishing,
    /// The threads of the journal on disk.
    pub(super) journaling: Option<Journaling>,
    pub(super) readying: Readying,
    /// The admin listener, which is being served already.
    pub(super) admin: JoinHandle<()>,
    pub(super) following: Following,
    pub(super) blocklists: Blocklists,
    pub(super) listeners: Listeners,
    /// Ends when dropped.
    pub(super) embedded: Option<EmbeddedBroker>,
}

/// What the stop needs to reach. Clones share it.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) service: Arc<Service>,
    pub(super) preamble: Arc<Preamble>,
    pub(super) limits: ConnectionLimits,
    pub(super) lifecycle: Lifecycle,
    pub(super) ledger: Ledger,
    pub(super) journal: JournalMetrics,
}

/// The parts of the pump, which are assembled on its thread.
pub(super) struct Publishing {
    pub(super) control: Arc<Control>,
    pub(super) kafka: UnstartedKafka,
    pub(super) backlog: Backlog,
    pub(super) normaliser: Normaliser,
    pub(super) topics: Arc<Topics>,
    pub(super) metrics: PublishMetrics,
    pub(super) gather: Duration,
    pub(super) unreported_max: Duration,
}

/// The parts of the journal on disk, each for its own thread.
pub(super) struct Journaling {
    pub(super) committer: Committer,
    pub(super) keeper: SegmentKeeper,
    /// It is still there at the next start, so its contents can wait until then.
    pub(super) is_persistent: bool,
}

/// What must be complete before callbacks are released, and what is printed then.
pub(super) struct Readying {
    pub(super) topics: Needs,
    /// Whether callbacks are released before the topics exist: they are safe without them.
    pub(super) is_ready_alone: bool,
    /// The number of steps that still hold callbacks back: the topics of callbacks, and those of blocklists if there are any.
    pub(super) holders: AtomicUsize,
    /// How long callbacks are held back until the blocklist topics have been read.
    pub(super) blocklist_limit: Duration,
    pub(super) callbacks_scheme: &'static str,
    pub(super) callbacks_address: SocketAddr,
    pub(super) admin_address: SocketAddr,
}

/// Listening sockets, with their addresses.
pub(super) struct Listeners {
    pub(super) callbacks: TcpListener,
    pub(super) callbacks_address: SocketAddr,
    pub(super) admin_address: SocketAddr,
}

impl Built {
    /// Builds everything. `serve_admin` serves the admin listener as soon as there is something to report, since reading a large journal
    /// takes a while.
    pub(super) fn new(
        config: &Config,
        registry: Registry,
        passed: PassedSockets,
        serve_admin: impl FnOnce(Admin, TcpListener) -> Result<JoinHandle<()>, ServeError>,
    ) -> Result<Self, ServeError> {
        let ledger = Ledger::default();
        let metrics = Metrics::register(&registry, &ledger).map_err(ServeError::Metrics)?;
        metrics::build::register(&registry, &librdkafka_version()).map_err(ServeError::Metrics)?;
        let of_apps = config.apps.iter().map(|app| app.token_files.clone());
        let tokens = TokenFiles::load(of_apps, config.admin.token_files.clone(), metrics.tokens);
        let tokens = tokens.map_err(ServeError::Tokens)?;
        let tls_paths = config.callbacks.tls.as_ref();
        let tls = tls_paths.map(|paths| TlsFiles::start(paths, metrics.tls)).transpose().map_err(ServeError::Tls)?;
        let apps = Arc::new(apps(config, &tokens));
        let topics = Arc::new(config.callback_topics());
        let (listeners, admin_listener) = Listeners::bind(config, passed)?;
        let (embedded, properties, configured) = kafka(config, &topics)?;
        let kafka = UnstartedKafka::new(&properties, metrics.kafka).map_err(ServeError::Kafka)?;
        let (lifecycle, control, gauge) = (Lifecycle::new(), Arc::new(Control::default()), Arc::default());
        let blocklists = Blocklists::new(config, &configured, &metrics.blocklist, &lifecycle);
        let app_lists = Arc::new(OnceLock::new());
        let admin = Admin {
            registry,
            lifecycle: lifecycle.clone(),
            metrics: metrics.lifecycle,
            kafka: kafka.health(),
            unanswered_max: 2 * config.callbacks.deadline,
            pump: Arc::clone(&control),
            journal: Arc::clone(&gauge),
            blocklist: BlocklistService::new(tokens.of_admin(), Arc::clone(&app_lists)),
            status: StatusSource::new(&ledger, &metrics.journal, &metrics.publish),
        };
        let admin = serve_admin(admin, admin_listener)?;
        let shown = JournalView { metrics: &metrics.journal, gauge: &gauge, lifecycle: &lifecycle };
        let shares = Shares::new(Arc::clone(&topics), Arc::clone(&apps), metrics.intake.topic_full.clone());
        let (journal, backlog, journaling) = journal(config, &ledger, shares, &shown)?;
        let files = BlocklistFiles::load(blocklists.files.clone(), blocklists.lists.clone(), metrics.blocklist);
        let policy = policy(&config.decide);
        // Set only here.
        let _first = app_lists.set(blocklists.served(policy));
        let intake = Intake {
            apps: Arc::clone(&apps),
            blocklists: blocklists.in_force(),
            policy,
            decides: config.decide.commands,
            journal,
            normaliser: normaliser(config, &apps, &topics),
            ledger: ledger.clone(),
            metrics: metrics.intake,
            deadline: config.callbacks.deadline,
        };
        let publishing = Publishing {
            control,
            kafka,
            backlog,
            normaliser: normaliser(config, &apps, &topics),
            topics: Arc::clone(&topics),
            metrics: metrics.publish,
            gather: match config.ack {
                Ack::Broker => Duration::ZERO,
                Ack::Journal | Ack::Memory => GATHER,
            },
            unreported_max: config.publish.unreported_max,
        };
        let readying = readying(config, &topics, &listeners);
        let following = Following { blocklist: files, tokens, tls, lifecycle: lifecycle.clone() };
        let served = Served {
            service: Arc::new(service(config, intake, lifecycle.clone())),
            preamble: Arc::new(preamble(&config.callbacks, following.tls.as_ref())),
            limits: limits(config, gauge.get()),
            lifecycle,
            ledger,
            journal: metrics.journal,
        };
        Ok(Self { served, publishing, journaling, readying, admin, following, blocklists, listeners, embedded })
    }
}

impl Publishing {
    pub(super) fn control(&self) -> Arc<Control> {
        Arc::clone(&self.control)
    }

    /// Counts the records that are in Kafka.
    pub(super) fn delivered_records(&self) -> IntCounter {
        self.metrics.delivered_records()
    }

    /// Starts the Kafka client, and makes the pump that `thread` will run.
    pub(super) fn into_pump(self, thread: &Thread) -> Result<(Pump, TopicsClient), ClientError> {
        let kafka = self.kafka.start(thread.clone())?;
        let topics_client = TopicsClient::of(&kafka);
        self.backlog.set_publisher(thread.clone());
        let setup = PumpSetup {
            backlog: self.backlog,
            kafka,
            normaliser: self.normaliser,
            topics: self.topics,
            metrics: self.metrics,
            gather: self.gather,
            backoff: Backoff::default(),
            unreported_max: self.unreported_max,
            budget_bytes: BUDGET_BYTES,
        };
        Ok((Pump::new(setup), topics_client))
    }
}

impl Listeners {
    /// Binds the addresses that were not `passed`. The admin socket is returned separately.
    fn bind(config: &Config, passed: PassedSockets) -> Result<(Self, TcpListener), ServeError> {
        let PassedSockets { callbacks, admin } = passed;
        let passed_count = callbacks.iter().chain(&admin).count();
        let bind = |passed: Option<TcpListener>, address: SocketAddr| {
            let failed = |source| ServeError::Listen { address, source };
            let listener = passed.map_or_else(|| listener::bind(address), Ok).map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?;
            Ok::<_, ServeError>((listener, bound))
        };
        let (callbacks, callbacks_address) = bind(callbacks, config.callbacks.listen)?;
        let (admin, admin_address) = bind(admin, config.admin.listen)?;
        tracing::info!(callbacks = %callbacks_address, admin = %admin_address, passed = passed_count, "listening");
        Ok((Self { callbacks, callbacks_address, admin_address }, admin))
    }
}

/// The embedded broker if there is one, the properties of the client, and the configured properties with the brokers.
type KafkaParts = (Option<EmbeddedBroker>, Properties, BTreeMap<String, String>);

fn kafka(config: &Config, topics: &Topics) -> Result<KafkaParts, ServeError> {
    let configured = &config.kafka.properties;
    let properties = Properties::new(config.ack, configured);
    if !config.embedded_broker {
        return Ok((None, properties, configured.clone()));
    }
    let broker = EmbeddedBroker::start(topics.names(), config.topics.partitions, &config.blocklist_topics());
    let broker = broker.map_err(ServeError::Embedded)?;
    let bootstrap = broker.bootstrap();
    super::say(&format!(
        "kafka on {bootstrap}\nthe embedded broker stores nothing: its records are lost when callbridge stops"
    ));
    let properties = properties.with_bootstrap(bootstrap.to_owned());
    let mut configured = configured.clone();
    configured.insert("bootstrap.servers".to_owned(), bootstrap.to_owned());
    Ok((Some(broker), properties, configured))
}

/// The applications with their tokens.
fn apps(config: &Config, tokens: &TokenFiles) -> Apps {
    let ids = config.apps.iter().map(|app| app.sdk_app_id);
    Apps::new(ids).signed(tokens.in_force(), config.callbacks.sign_window)
}

fn policy(decide: &Decide) -> Policy {
    if decide.dry_run {
        tracing::warn!("decide.dry_run is set: decisions are published, and nobody is refused");
    }
    decide.policy()
}

pub(super) fn normaliser(config: &Config, apps: &Arc<Apps>, topics: &Arc<Topics>) -> Normaliser {
    Normaliser::new(Arc::clone(apps), Arc::clone(topics), config.envelope.mode)
}

fn service(config: &Config, intake: Intake, lifecycle: Lifecycle) -> Service {
    let callbacks = &config.callbacks;
    let senders = callbacks.senders.clone().map(|allowed| Senders { allowed, proxies: callbacks.proxies.clone() });
    let path = callbacks.path.clone();
    let bodies = Bodies {
        bytes_max: callbacks.body_bytes_max,
        timeout: callbacks.body_timeout,
        budget: BodyBudget::new(callbacks.bodies_bytes_max, intake.metrics.bodies_bytes.clone()),
    };
    Service {
        intake,
        path,
        senders,
        bodies,
        no_command_log: Throttle::new(REQUEST_LOG_PERIOD),
        not_http_log: Throttle::new(REQUEST_LOG_PERIOD),
        lifecycle,
    }
}

fn preamble(callbacks: &Callbacks, tls: Option<&TlsFiles>) -> Preamble {
    let header_from = if callbacks.proxy_protocol { callbacks.proxies.clone() } else { Networks::default() };
    Preamble {
        proxies: callbacks.proxies.clone(),
        header_from,
        tls: tls.map(TlsFiles::in_force),
        timeout: callbacks.head_timeout,
    }
}

fn limits(config: &Config, journal: Option<&Gauge>) -> ConnectionLimits {
    let callbacks = &config.callbacks;
    let journal_files = journal.map_or(0, |journal| journal.bytes_max() / config.journal.segment_bytes);
    let connections_max = system::connections_max(callbacks.connections_max, config.workers, journal_files);
    let is_direct = callbacks.proxies.0.is_empty();
    let per_peer_default = is_direct.then(|| (connections_max / PEER_SHARE).max(PEER_LEAST));
    ConnectionLimits {
        connections_max,
        per_peer_max: callbacks.connections_per_peer_max.or(per_peer_default),
        head_timeout: callbacks.head_timeout,
        write_timeout: callbacks.write_timeout,
        idle_timeout: callbacks.idle_timeout,
        age_max: callbacks.connection_age_max,
    }
}

fn readying(config: &Config, topics: &Topics, listeners: &Listeners) -> Readying {
    Readying {
        topics: needs(config, topics),
        is_ready_alone: config.ack == Ack::Journal,
        holders: AtomicUsize::new(1 + usize::from(!config.blocklist_topics().is_empty())),
        blocklist_limit: config.blocklist.ready_after,
        callbacks_scheme: if config.callbacks.tls.is_some() { "https" } else { "http" },
        callbacks_address: listeners.callbacks_address,
        admin_address: listeners.admin_address,
    }
}

/// What the publisher needs of the cluster.
pub(super) fn needs(config: &Config, topics: &Topics) -> Needs {
    let commands = topics.commands_by_application().map(|of_app| of_app.iter().map(|topic| topic.index()).collect());
    Needs {
        names: topics.names().to_vec(),
        commands: if config.ack == Ack::Journal { Vec::new() } else { commands.collect() },
        creation: config.topics.create.then(|| config.topics.creation()),
        longest_record: (!config.embedded_broker).then(|| config.callbacks.raw_record_bytes_max()),
    }
}

/// Both sides of the journal and, if it is on disk, its threads.
type Sides = (Journal, Backlog, Option<Journaling>);

/// Where the admin listener finds the state of the journal.
struct JournalView<'s> {
    metrics: &'s JournalMetrics,
    /// Set once it is open.
    gauge: &'s OnceLock<Gauge>,
    lifecycle: &'s Lifecycle,
}

fn journal(config: &Config, ledger: &Ledger, shares: Shares, shown: &JournalView<'_>) -> Result<Sides, ServeError> {
    match config.ack {
        ack @ (Ack::Broker | Ack::Memory) => {
            let dir = &config.journal.dir;
            if inspect::refuse_waiting(dir).map_err(ServeError::Journal)? == Owner::Other {
                let dir = dir.display();
                tracing::warn!(%dir, "the journal in this directory is locked by another callbridge that is running, and is left to it");
            }
            let (journal, backlog) = journal::in_memory(ack, config.queue, ledger.clone(), shares);
            Ok((journal, backlog, None))
        }
        Ack::Journal => {
            shown.lifecycle.set_waits_for("journal", Some("the journal is being read".to_owned()));
            let opened = open_journal(config, ledger, shares, shown.metrics)?;
            shown.lifecycle.set_waits_for("journal", None);
            let OnDisk { journal, backlog, committer, keeper, gauge, is_gone_with, .. } = opened;
            let is_persistent = config.journal.persistent.unwrap_or(is_gone_with.is_none());
            // Set only here.
            let _first = shown.gauge.set(gauge);
            Ok((journal, backlog, Some(Journaling { committer, keeper, is_persistent })))
        }
    }
}

/// Opens the journal on disk, and logs what was found.
pub(super) fn open_journal(
    config: &Config,
    ledger: &Ledger,
    shares: Shares,
    metrics: &JournalMetrics,
) -> Result<OnDisk, ServeError> {
    let began = clock::monotonic();
    let opened = durable::open(&config.journal, config.queue, ledger, shares, metrics).map_err(ServeError::Journal)?;
    let dir = config.journal.dir.display();
    if let Some(it) = opened.is_gone_with {
        tracing::warn!(%dir, "the journal is not on a lasting disk: it survives this process, but not this {it}");
    }
    if let Some(mode) = opened.mode_for_others {
        let mode = format!("{mode:04o}");
        let advice = "it holds messages and signatures: chmod -R go= it";
        tracing::warn!(%dir, mode, advice, "the journal's directory lets group or others in");
    }
    for (name, offset) in &opened.found.torn {
        tracing::info!(%dir, name, offset, "the journal ends in a torn write, which was not acknowledged");
    }
    for damage in &opened.found.damage {
        tracing::error!(%dir, %damage, "the journal is damaged; continuing with the readable captures");
    }
    let RecoveryReport { counted, uncounted, read_bytes, .. } = opened.found;
    let took_ms = u64::try_from(clock::monotonic().duration_since(began).as_millis()).unwrap_or(u64::MAX);
    tracing::info!(%dir, recovered = counted, refused = uncounted, read_bytes, took_ms, "the journal is open");
    Ok(opened)
}
