//! One callback on one screen: from its head to its answer. What happens to it then is the journal's.

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

/// Within which a callback is answered that waited to be accepted, counted from its arrival: its sender waits 2 s.
const WAITED_LIMIT: Duration = Duration::from_millis(1850);
/// How long a callback may take at least, however long it has waited to be accepted: some syncs of a disk, or answers of Kafka.
const LIMIT_LEAST: Duration = Duration::from_millis(100);

/// What intake works with.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) apps: Arc<Apps>,
    /// By the place of the application.
    pub(crate) blocklists: Vec<Arc<ArcSwap<Blocklist>>>,
    pub(crate) policy: Policy,
    /// The questions that are judged; all others are allowed.
    pub(crate) decides: CommandSet,
    pub(crate) journal: Journal,
    pub(crate) normaliser: Normaliser,
    pub(crate) ledger: Ledger,
    pub(crate) metrics: IntakeMetrics,
    /// From the head to the answer; less for a callback that waited to be accepted.
    pub(crate) deadline: Duration,
}

/// When and from where a request came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) peer: SocketAddr,
    pub(crate) received: UnixMillis,
    pub(crate) arrival: Arrival,
}

/// When a request came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// Its head had been read.
    pub(crate) began: Instant,
    /// How long before that it waited for this process, as one does that was sent while callbridge restarted.
    pub(crate) waited: Duration,
}

impl Arrival {
    /// Until when a request is answered that may take `limit`, of which as much is left as its sender still waits for.
    fn deadline(self, limit: Duration) -> Instant {
        let left = limit.max(WAITED_LIMIT).saturating_sub(self.waited).min(limit);
        self.began + left.max(limit.min(LIMIT_LEAST))
    }
}

/// A callback whose head has been checked; its body may be read now. Only [`Intake::admit`] makes one.
#[derive(Debug)]
pub(crate) struct AuthorizedRequest<'r> {
    head: Head,
    app: VerifiedApp,
    /// The query, as it stands in the URL.
    query: &'r str,
    /// The word itself: one that is not of the table is taken too.
    name: std::borrow::Cow<'r, str>,
    command: Option<Command>,
}

/// How a valid callback is handled.
enum Disposition {
    /// An after-callback: acknowledged once the journal has it.
    Happened,
    /// A before-callback of a command that this version does not know: allowed.
    Asked,
    /// A before-callback, its decision, and the body of the response.
    Decided(Decision, Bytes),
}

/// What a callback is answered.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It is as safe as promised.
    Taken,
    /// This may happen, and that may not: the body that says so.
    Decided(Bytes),
}

impl AuthorizedRequest<'_> {
    /// The query, as it stands in the URL.
    pub(crate) fn query(&self) -> &str {
        self.query
    }

    /// Whether it asks.
    pub(crate) fn kind(&self) -> Kind {
        self.command.map_or_else(|| command::kind_by_name(&self.name), Command::kind)
    }
}

impl Intake {
    /// Checks a head before anything of the body is read.
    ///
    /// # Errors
    ///
    /// The application is not ours, or its signature is missing, wrong or stale.
    pub(crate) fn admit<'r>(
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

    /// Takes an admitted callback as far as its answer, and ends or hands over its receipt.
    ///
    /// Takes as long as the deadline at most.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future may still publish the capture; an unanswered sender may send it again.
    ///
    /// # Errors
    ///
    /// The body cannot be used, or there is no place for it.
    pub(crate) async fn accept(
        &self,
        admitted: AuthorizedRequest<'_>,
        raw: Raw,
        receipt: Receipt<'_>,
    ) -> Result<Answer, Refusal> {
        let Head { arrival, .. } = admitted.head;
        let began = arrival.began;
        match parse::check_body(raw.body(), &admitted.name).and_then(|checked| self.judge(&admitted, checked)) {
            Err(refusal) => {
                self.keep_refused(&admitted, raw, &refusal);
                receipt.end(refusal.reason());
                Err(refusal)
            }
            // What is asked is never waited for, so that neither a disk nor a broker can move the answer.
            Ok(Disposition::Decided(decision, body)) => {
                let (outcome, refuser) = (decision.outcome, decision.refuser());
                self.offer(capture(&admitted, raw, CaptureOutcome::Decided(decision)), receipt);
                self.metrics.decided(outcome, refuser, clock::monotonic().duration_since(began));
                Ok(Answer::Decided(body))
            }
            Ok(Disposition::Asked) => {
                self.offer(capture(&admitted, raw, CaptureOutcome::Happened), receipt);
                Ok(Answer::Taken)
            }
            Ok(Disposition::Happened) => {
                let deadline = arrival.deadline(self.deadline);
                let capture = capture(&admitted, raw, CaptureOutcome::Happened);
                let taken = self.append(capture, receipt, deadline).await;
                self.metrics.answered(clock::monotonic().duration_since(began));
                taken.map(|()| Answer::Taken)
            }
        }
    }

    /// Decides a before-callback.
    fn judge(&self, admitted: &AuthorizedRequest<'_>, checked: CheckedBody<'_>) -> Result<Disposition, Refusal> {
        let command = match (admitted.kind(), admitted.command) {
            (Kind::After, _) => return Ok(Disposition::Happened),
            (Kind::Before, None) => return Ok(Disposition::Asked),
            (Kind::Before, Some(command)) => command,
        };
        let blocklist = self.blocklists.get(admitted.app.index()).map(|blocklist| blocklist.load());
        let blocklist = blocklist.as_deref().filter(|_blocklist| self.decides.contains(command));
        let judge = blocklist.map(|blocklist| Judge { blocklist, policy: self.policy, now: admitted.head.received });
        question::answer(command, checked, judge).map(|(decision, body)| Disposition::Decided(decision, body))
    }

    async fn append(&self, capture: Box<Capture>, receipt: Receipt<'_>, deadline: Instant) -> Result<(), Refusal> {
        if self.is_dead_letter_without_room(&capture) {
            receipt.end(Reason::TopicFull);
            return Err(Refusal::TopicFull);
        }
        self.journal.append(capture, receipt, deadline).await
    }

    /// Hands a capture over for which nobody waits.
    fn offer(&self, capture: Box<Capture>, receipt: Receipt<'_>) {
        if self.is_dead_letter_without_room(&capture) {
            receipt.end(Reason::TopicFull);
        } else {
            self.journal.offer(capture, receipt);
        }
    }

    /// Whether a capture cannot become an event, and its dead-letter topic holds its whole share: it must not take that of its command.
    fn is_dead_letter_without_room(&self, capture: &Capture) -> bool {
        let is_one = self.journal.lacks_dead_letter_share(capture) && self.normaliser.rejects(capture);
        if is_one {
            self.journal.refuse_dead_letter(capture);
        }
        is_one
    }

    /// Keeps the bytes of a sender we know, for whoever mends what was wrong.
    fn keep_refused(&self, admitted: &AuthorizedRequest<'_>, raw: Raw, refusal: &Refusal) {
        let outcome = CaptureOutcome::Refused { reason: refusal.reason(), detail: refusal.to_string().into() };
        if !self.journal.keep(capture(admitted, raw, outcome)) {
            self.metrics.rejected_dropped.inc();
        }
    }
}

fn capture(admitted: &AuthorizedRequest<'_>, raw: Raw, outcome: CaptureOutcome) -> Box<Capture> {
    let Head { peer, received, .. } = admitted.head;
    Box::new(Capture { received, peer, app: admitted.app, command: admitted.command, raw, outcome })
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
