//! From a request to a reply: the limits around [`Intake`], and the entry in the ledger.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;

use hyper::Method;
use hyper::Request;
use hyper::body::Body;
use hyper::body::Bytes;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::header;
use hyper::header::HeaderValue;
use hyper::http::request::Parts;

use crate::alarm;
use crate::alarm::Alarm;
use crate::auth;
use crate::capture::Raw;
use crate::clock;
use crate::command::Command;
use crate::intake::Admitted;
use crate::intake::Answer;
use crate::intake::Head;
use crate::intake::Intake;
use crate::ledger::Receipt;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::Phase;
use crate::refusal::Refusal;
use crate::request::Query;
use crate::request::QueryError;
use crate::sender::Senders;
use crate::throttle::Throttle;

use super::budget::Budget;
use super::framing;
use super::phase::ConnectionPhase;
use super::phase::Progress;
use super::reply;
use super::reply::Reply;

/// Where proxies write whose request they pass on.
const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// What requests on the callback listener meet.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) intake: Intake,
    /// The only path callbacks are taken on; `None`: any.
    pub(crate) path: Option<String>,
    /// Whose callbacks are taken; `None`: anybody's.
    pub(crate) senders: Option<Senders>,
    pub(crate) body_bytes_max: usize,
    /// From a head to the last byte of its body.
    pub(crate) body_timeout: Duration,
    /// Room for bodies that are on their way.
    pub(crate) budget: Budget,
    /// How often it is logged that a query was lost.
    pub(crate) nameless_log: Throttle,
    /// How often it is logged that a request cannot be read as HTTP.
    pub(crate) not_http_log: Throttle,
    /// When the process stops, each response ends its connection.
    pub(crate) lifecycle: Lifecycle,
}

/// The service as one connection has it.
///
/// Futures are copied whole at each await of one within another, and this one once more by hyper: so there are few of them on the way
/// of a callback, and what is rare is boxed.
#[derive(Debug)]
pub(super) struct ConnectionService {
    pub(super) service: Arc<Service>,
    pub(super) peer: Peer,
    pub(super) progress: Progress,
    pub(super) timers: Timers,
}

/// Who is at the other side of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// Its address, or the one that a header of the PROXY protocol names.
    pub(super) address: SocketAddr,
    /// Whether a header of the PROXY protocol names nobody: the proxy speaks for itself, and `X-Forwarded-For` counts for nothing.
    pub(super) is_proxy_itself: bool,
}

/// The timers of a connection's requests, one for each kind of deadline, since each must only move on.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// For bodies.
    pub(super) body: Mutex<Alarm>,
    /// For answers.
    pub(super) answer: Mutex<Alarm>,
}

impl ConnectionService {
    /// Answers one request.
    pub(super) fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Reply, Infallible>> {
        // Not when the future is polled: hyper looks for what comes behind the body before, and that would be taken for a head.
        let is_open = self.progress.enter(ConnectionPhase::Service);
        self.reply_to(request, is_open)
    }

    async fn reply_to(self: Arc<Self>, request: Request<Incoming>, is_open: bool) -> Result<Reply, Infallible> {
        if !is_open {
            // The listener has ended the connection while a request sent ahead was read: its task is about to be dropped.
            std::future::pending::<()>().await;
        }
        let service = &*self.service;
        let (parts, body) = request.into_parts();
        let began = clock::monotonic();
        let mut body = Some(body);
        let mut reply = match service.receive(&parts, self.peer, began) {
            Step::Answer(reply) => reply,
            Step::Refuse(receipt, refusal) => conclude(Err(refusal), Some(receipt)),
            Step::Nameless(verdict) => Box::pin(self.answer_nameless(verdict, &mut body, began)).await,
            Step::Read(receipt, admitted) => {
                let mut receipt = Some(receipt);
                let read = service.body(&admitted, body.as_mut());
                let answer = match alarm::until(&self.timers.body, began + service.body_timeout, read).await {
                    Some(Ok(raw)) => {
                        body = None;
                        service.intake.accept(admitted, raw, &mut receipt, &self.timers.answer).await
                    }
                    Some(Err(refusal)) => Err(refusal),
                    None => Err(Refusal::BodyTimeout),
                };
                if answer.is_ok() {
                    self.progress.mark_used();
                }
                conclude(answer, receipt)
            }
        };
        let goes_on = !reply::is_closing(&reply)
            && match body {
                Some(unread) => Box::pin(self.drain(&parts, unread, began)).await,
                None => true,
            };
        if !goes_on {
            self.progress.leave_unread();
        }
        let is_stopping = service.lifecycle.phase() >= Phase::KeepAccepting;
        if !goes_on || is_stopping || self.progress.closes_next() {
            reply::close(&mut reply);
        }
        self.progress.enter(ConnectionPhase::Response);
        Ok(reply)
    }

    /// Answers a POST without a command: a check of the URL where the body is blank too, and else a callback whose query a proxy has
    /// lost. `verdict` says what else is wrong with it.
    async fn answer_nameless(
        &self,
        verdict: Result<(), Refusal>,
        body: &mut Option<Incoming>,
        began: Instant,
    ) -> Reply {
        let service = &*self.service;
        let Some(incoming) = body else { return reply::ok() };
        let read = is_blank(incoming, service.body_bytes_max);
        let refusal = match alarm::until(&self.timers.body, began + service.body_timeout, read).await {
            Some(Ok(true)) => {
                *body = None;
                service.intake.metrics.probes.inc();
                return reply::ok();
            }
            Some(Ok(false)) => {
                let refusal = verdict.err().unwrap_or(Refusal::CommandMissing);
                if service.nameless_log.permits(began) {
                    tracing::warn!(
                        peer = %self.peer.address,
                        reason = refusal.reason().word(),
                        "a POST with a body names no CallbackCommand in its query; a proxy in front must pass the query on"
                    );
                }
                refusal
            }
            Some(Err(refusal)) => refusal,
            None => Refusal::BodyTimeout,
        };
        let receipt = service.intake.ledger.receive(None);
        conclude(Err(refusal), Some(receipt))
    }

    /// Reads a body that nobody wants and drops it, so that the connection can be used on. Returns whether it came to its end: it has
    /// the limits of any body, and one that waits for a `100 Continue` is not asked for.
    async fn drain(&self, head: &Parts, mut body: Incoming, began: Instant) -> bool {
        if body.is_end_stream() {
            return true;
        }
        let limit = self.service.body_bytes_max as u64;
        if body.size_hint().lower() > limit || head.headers.contains_key(header::EXPECT) {
            return false;
        }
        let drained = async {
            let mut bytes = 0;
            while bytes <= limit {
                match next_frame(&mut body).await {
                    Ok(Some(frame)) => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
                    Ok(None) => return true,
                    Err(_broken_off) => return false,
                }
            }
            false
        };
        alarm::until(&self.timers.body, began + self.service.body_timeout, drained).await.unwrap_or(false)
    }
}

/// What comes after a request's head.
enum Step<'r> {
    /// It is no callback.
    Answer(Reply),
    /// Its body is not wanted.
    Refuse(Receipt<'r>, Refusal),
    /// A POST without a command: its body says whether it is a callback, and this what else is wrong with it.
    Nameless(Result<(), Refusal>),
    /// Its body is read.
    Read(Receipt<'r>, Admitted<'r>),
}

impl Service {
    /// Looks at a head. A request that names a command is in the ledger from here on.
    fn receive<'r>(&'r self, parts: &'r Parts, peer: Peer, began: Instant) -> Step<'r> {
        let head = Head { peer: peer.address, received: clock::wall(), began };
        let raw_query = parts.uri.query().unwrap_or_default();
        let query = Query::parse(raw_query);
        let command = match &query {
            Ok(query) => query.command.as_deref().map(Command::find),
            // What cannot be read is a callback all the same, of no command in the table.
            Err(_) => Query::names_command(raw_query).then_some(None),
        };
        let framing = framing::check(parts);
        let sender = self.check_sender(parts, peer);
        if command.is_none() {
            let is_welcome = framing.clone().and_then(|()| match &sender {
                Err(refusal) if !self.is_check_of_proxy(parts, peer) => Err(refusal.clone()),
                _ => Ok(()),
            });
            match (&parts.method, is_welcome) {
                (&Method::GET | &Method::HEAD | &Method::OPTIONS, is_welcome) => {
                    self.intake.metrics.probes.inc();
                    return Step::Answer(is_welcome.map_or_else(|refusal| reply::refusal(&refusal), |()| reply::ok()));
                }
                (&Method::POST, Ok(())) => return Step::Nameless(sender.and_then(|()| self.find_app(query))),
                _other => {}
            }
        }
        let receipt = self.intake.ledger.receive(command.flatten());
        match framing.and(sender).and_then(|()| self.admit(head, parts, query)) {
            Ok(admitted) => Step::Read(receipt, admitted),
            Err(refusal) => Step::Refuse(receipt, refusal),
        }
    }

    fn check_sender(&self, parts: &Parts, peer: Peer) -> Result<(), Refusal> {
        let Some(senders) = &self.senders else { return Ok(()) };
        let is_taken = if peer.is_proxy_itself {
            senders.allowed.contain(peer.address.ip())
        } else {
            let forwarded = parts.headers.get_all(X_FORWARDED_FOR).into_iter().map(HeaderValue::as_bytes);
            senders.admit(peer.address.ip(), forwarded)
        };
        if is_taken { Ok(()) } else { Err(Refusal::Sender) }
    }

    /// Whether a proxy speaks for itself, as it does to see whether this server lives.
    fn is_check_of_proxy(&self, parts: &Parts, peer: Peer) -> bool {
        let is_for_another = !peer.is_proxy_itself && parts.headers.contains_key(X_FORWARDED_FOR);
        let is_proxy = |senders: &Senders| senders.proxies.contain(peer.address.ip());
        !is_for_another && self.senders.as_ref().is_some_and(is_proxy)
    }

    /// Whether the query names an application of ours.
    fn find_app(&self, query: Result<Query<'_>, QueryError>) -> Result<(), Refusal> {
        let query = query.map_err(Refusal::Query)?;
        auth::find(&query, &self.intake.apps).map(|_app| ())
    }

    fn admit<'r>(
        &self,
        head: Head,
        parts: &'r Parts,
        query: Result<Query<'r>, QueryError>,
    ) -> Result<Admitted<'r>, Refusal> {
        if parts.method != Method::POST {
            return Err(Refusal::Method);
        }
        if self.path.as_deref().is_some_and(|path| path != parts.uri.path()) {
            return Err(Refusal::Path);
        }
        framing::check_coding(&parts.headers)?;
        let query = query.map_err(Refusal::Query)?;
        self.intake.admit(head, parts.uri.query().unwrap_or_default(), query)
    }

    /// Reads the body, behind a copy of the query. If it has to be waited for, there must be room in the budget. That is given back with
    /// the last byte: from there on the journal's bounds hold. No timer here: the caller holds the time that a body may take.
    async fn body(&self, admitted: &Admitted<'_>, body: Option<&mut Incoming>) -> Result<Raw, Refusal> {
        let Some(body) = body else { return Ok(Raw::begin(admitted.query(), 0)) };
        let limit = self.body_bytes_max;
        let hint = body.size_hint();
        let expected = usize::try_from(hint.lower()).ok().filter(|expected| *expected <= limit);
        let Some(expected) = expected else { return Err(Refusal::BodyTooLarge { limit }) };
        // What comes in chunks may be as long as any.
        let awaited = if hint.exact().is_some() { expected } else { limit };
        let mut room = None;
        // Copied: what comes is a part of the connection's buffer, and would hold all of it for as long as it waits. In small
        // chunks, that would be many times the body.
        let mut raw = Raw::begin(admitted.query(), expected);
        loop {
            let frame = poll_fn(|cx| {
                let frame = poll_frame(body, cx);
                if frame.is_pending() && room.is_none() && !body.is_end_stream() {
                    room = self.budget.reserve(awaited, admitted.kind());
                    if room.is_none() {
                        return Poll::Ready(Err(Refusal::BodiesFull));
                    }
                }
                frame
            });
            let Some(frame) = frame.await? else { break };
            let Ok(data) = frame.into_data() else { continue };
            if data.len() > limit - raw.body().len() {
                return Err(Refusal::BodyTooLarge { limit });
            }
            raw.push(&data);
        }
        Ok(raw.end())
    }
}

/// Makes the reply, and ends in the ledger what has not been accepted.
fn conclude(answer: Result<Answer, Refusal>, receipt: Option<Receipt<'_>>) -> Reply {
    match answer {
        Ok(answer) => reply::answer(answer),
        Err(refusal) => {
            tracing::debug!(reason = refusal.reason().word(), "refused");
            if let Some(receipt) = receipt {
                receipt.end(refusal.reason());
            }
            reply::refusal(&refusal)
        }
    }
}

/// Whether a body is white space or `{}`. Reads it only until that is known, and no more than `limit` bytes.
async fn is_blank(body: &mut Incoming, limit: usize) -> Result<bool, Refusal> {
    let mut rest = EMPTY_OBJECT;
    let mut bytes = 0;
    while let Some(frame) = next_frame(body).await? {
        let Ok(data) = frame.into_data() else { continue };
        bytes += data.len();
        if bytes > limit {
            return Err(Refusal::BodyTooLarge { limit });
        }
        for byte in data.iter().filter(|byte| !byte.is_ascii_whitespace()) {
            match rest.split_first() {
                Some((expected, behind)) if expected == byte => rest = behind,
                _other => return Ok(false),
            }
        }
    }
    Ok(rest.is_empty() || rest == EMPTY_OBJECT)
}

const EMPTY_OBJECT: &[u8] = b"{}";

/// The next part of a body; `None` at its end.
async fn next_frame(body: &mut Incoming) -> Result<Option<Frame<Bytes>>, Refusal> {
    poll_fn(|cx| poll_frame(body, cx)).await
}

fn poll_frame(body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Refusal>> {
    Pin::new(body).poll_frame(cx).map(|frame| frame.transpose().map_err(|_broken_off| Refusal::BrokenOff))
}
