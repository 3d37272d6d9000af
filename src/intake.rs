//! The whole handling of a callback on one page: from its head to its response. After that the journal owns it.

pub(crate) mod metrics;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::auth;
use crate::auth::Apps;
use crate::auth::VerifiedApp;
use crate::capture::Capture;
use crate::capture::CaptureOutcome;
use crate::capture::Raw;
use crate::clock;
use crate::clock::UnixMillis;
use crate::command;
use crate::command::Command;
use crate::command::CommandSet;
use crate::command::Kind;
use crate::decide::Decision;
use crate::decide::Policy;
use crate::decide::blocklist::Blocklist;
use crate::intake::metrics::IntakeMetrics;
use crate::journal::Journal;
use crate::ledger::Ledger;
use crate::ledger::Receipt;
use crate::normalise::Normaliser;
use crate::parse;
use crate::parse::CheckedBody;
use crate::question;
use crate::question::Judge;
use crate::refusal::Reason;
use crate::refusal::Refusal;
use crate::request::Query;
use arc_swap::ArcSwap;
use bytes::Bytes;

/// The limit for a callback that waited for its connection to be accepted, counted from its arrival: its sender waits 2 s.
const WAITED_LIMIT: Duration = Duration::from_millis(1850);
/// The least time for a callback, however long it waited for its connection to be accepted: a few fsyncs, or round trips to Kafka.
const LIMIT_MIN: Duration = Duration::from_millis(100);

/// What intake needs.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) apps: Arc<Apps>,
    /// By application.
    pub(crate) blocklists: Vec<Arc<ArcSwap<Blocklist>>>,
    pub(crate) policy: Policy,
    /// The before-callbacks that are decided; all others are allowed.
    pub(crate) decides: CommandSet,
    pub(crate) journal: Journal,
    pub(crate) normaliser: Normaliser,
    pub(crate) ledger: Ledger,
    pub(crate) metrics: IntakeMetrics,
    /// From the head to the response; less for a callback that waited for its connection to be accepted.
    pub(crate) deadline: Duration,
}

/// When and from where a request came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) peer: SocketAddr,
    pub(crate) received: UnixMillis,
    pub(crate) arrival: Arrival,
}

/// The times of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// When its head had been read.
    pub(crate) began: Instant,
    /// How long it waited for this process before that, for example while callbridge restarted.
    pub(crate) waited: Duration,
}

impl Arrival {
    /// The deadline of a request that may take `limit`: earlier if the sender has already waited.
    fn deadline(self, limit: Duration) -> Instant {
        let left = limit.max(WAITED_LIMIT).saturating_sub(self.waited).min(limit);
        self.began + left.max(limit.min(LIMIT_MIN))
    }
}

/// A callback whose head has been checked: its body may be read. Only [`Intake::authorize`] makes one.
#[derive(Debug)]
pub(crate) struct AuthorizedRequest<'r> {
    head: Head,
    app: VerifiedApp,
    /// The query, as it stands in the URL.
    query: &'r str,
    /// The command as sent: a command that is not in the table is accepted too.
    name: std::borrow::Cow<'r, str>,
    command: Option<Command>,
}

/// How a valid callback is handled.
enum Disposition {
    /// An after-callback: acknowledged once the journal has it.
    Happened,
    /// A before-callback of a command that is not in the table: allowed.
    UnknownBefore,
    /// A before-callback, its decision, and the body of the response.
    Decided(Decision, Bytes),
}

/// The response to a valid callback.
#[derive(Debug)]
pub(crate) enum Answer {
    /// 200 without a decision. To an after-callback: acknowledged, the promise of its mode holds.
    Ok,
    /// The body of the response to a before-callback.
    Decided(Bytes),
}

impl AuthorizedRequest<'_> {
    /// The query, as it stands in the URL.
    pub(crate) fn query(&self) -> &str {
        self.query
    }

    /// Whether it is a before- or an after-callback.
    pub(crate) fn kind(&self) -> Kind {
        self.command.map_or_else(|| command::kind_by_name(&self.name), Command::kind)
    }
}

impl Intake {
    /// Checks a head before its body is read.
    ///
    /// # Errors
    ///
    /// The application is not configured, or its signature is missing, wrong or stale.
    pub(crate) fn authorize<'r>(
        &self,
        head: Head,
        raw: &'r str,
        query: Query<'r>,
    ) -> Result<AuthorizedRequest<'r>, Refusal> {
        let app = auth::check(&query, &self.apps, head.received)?;
        let name = query.command.unwrap_or_default();
        let command = Command::find(&name);
        Ok(AuthorizedRequest { head, app, query: raw, name, command })
    }

    /// Handles an authorized callback up to its response, within the deadline. Ends its receipt or hands it over.
    ///
    /// # Cancel safety
    ///
    /// If this future is dropped, the capture may still be published. A sender without a response may send the callback again.
    ///
    /// # Errors
    ///
    /// The body cannot be used, or the journal does not accept it.
    pub(crate) async fn handle(
        &self,
        request: AuthorizedRequest<'_>,
        raw: Raw,
        receipt: Receipt<'_>,
    ) -> Result<Answer, Refusal> {
        let Head { arrival, .. } = request.head;
        let began = arrival.began;
        match parse::check_body(raw.body(), &request.name).and_then(|checked| self.judge(&request, checked)) {
            Err(refusal) => {
                self.keep_refused(&request, raw, &refusal);
                receipt.end(refusal.reason());
                Err(refusal)
            }
            // A before-callback never waits for the journal, so neither a disk nor a broker can delay its response.
            Ok(Disposition::Decided(decision, body)) => {
                let (outcome, refuser) = (decision.outcome, decision.refuser());
                self.offer(capture(&request, raw, CaptureOutcome::Decided(decision)), receipt);
                self.metrics.decided(outcome, refuser, clock::monotonic().duration_since(began));
                Ok(Answer::Decided(body))
            }
            Ok(Disposition::UnknownBefore) => {
                self.offer(capture(&request, raw, CaptureOutcome::Happened), receipt);
                Ok(Answer::Ok)
            }
            Ok(Disposition::Happened) => {
                let deadline = arrival.deadline(self.deadline);
                let capture = capture(&request, raw, CaptureOutcome::Happened);
                let appended = self.append(capture, receipt, deadline).await;
                self.metrics.answered(clock::monotonic().duration_since(began));
                appended.map(|()| Answer::Ok)
            }
        }
    }

    /// Decides a before-callback.
    fn judge(&self, request: &AuthorizedRequest<'_>, checked: CheckedBody<'_>) -> Result<Disposition, Refusal> {
        let command = match (request.kind(), request.command) {
            (Kind::After, _) => return Ok(Disposition::Happened),
            (Kind::Before, None) => return Ok(Disposition::UnknownBefore),
            (Kind::Before, Some(command)) => command,
        };
        let blocklist = self.blocklists.get(request.app.index()).map(|blocklist| blocklist.load());
        let blocklist = blocklist.as_deref().filter(|_blocklist| self.decides.contains(command));
        let judge = blocklist.map(|blocklist| Judge { blocklist, policy: self.policy, now: request.head.received });
        question::answer(command, checked, judge).map(|(decision, body)| Disposition::Decided(decision, body))
    }

    async fn append(&self, capture: Box<Capture>, receipt: Receipt<'_>, deadline: Instant) -> Result<(), Refusal> {
        if self.is_dead_letter_without_room(&capture) {
            receipt.end(Reason::TopicFull);
            return Err(Refusal::TopicFull);
        }
        self.journal.append(capture, receipt, deadline).await
    }

    /// Hands over a capture that no request waits for.
    fn offer(&self, capture: Box<Capture>, receipt: Receipt<'_>) {
        if self.is_dead_letter_without_room(&capture) {
            receipt.end(Reason::TopicFull);
        } else {
            self.journal.offer(capture, receipt);
        }
    }

    /// Whether a capture must go to the dead-letter topic and that topic's share is full: it must not use the share of its command.
    fn is_dead_letter_without_room(&self, capture: &Capture) -> bool {
        let is_one = self.journal.lacks_dead_letter_share(capture) && self.normaliser.is_dead_letter(capture);
        if is_one {
            self.journal.count_full_dead_letters(capture);
        }
        is_one
    }

    /// Keeps the body of a refused callback of a known sender for the dead-letter topic.
    fn keep_refused(&self, request: &AuthorizedRequest<'_>, raw: Raw, refusal: &Refusal) {
        let outcome = CaptureOutcome::Refused { reason: refusal.reason(), detail: refusal.to_string().into() };
        if !self.journal.keep(capture(request, raw, outcome)) {
            self.metrics.rejected_dropped.inc();
        }
    }
}

fn capture(request: &AuthorizedRequest<'_>, raw: Raw, outcome: CaptureOutcome) -> Box<Capture> {
    let Head { peer, received, .. } = request.head;
    Box::new(Capture { received, peer, app: request.app, command: request.command, raw, outcome })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_waited_has_what_its_sender_still_waits_and_a_tenth_of_a_second() {
        let began = clock::monotonic();
        let left = |waited: u64, limit: u64| {
            let arrival = Arrival { began, waited: Duration::from_millis(waited) };
            arrival.deadline(Duration::from_millis(limit)).duration_since(began).as_millis()
        };
        assert_eq!([left(0, 1500), left(300, 1500), left(500, 1500), left(1450, 1500)], [1500, 1500, 1350, 400]);
        assert_eq!([left(60_000, 1500), left(0, 50), left(60_000, 50)], [100, 50, 50]);
        assert_eq!([left(0, 1999), left(100, 1999), left(1900, 1999)], [1999, 1899, 100]);
    }
}
