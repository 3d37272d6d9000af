//! From a request to a reply: the limits around [`Intake`], and the entry in the ledger.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;

use hyper::Method;
use hyper::Request;
use hyper::body::Body;
use hyper::body::Bytes;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::header;
use hyper::header::HeaderValue;
use hyper::http::request::Parts;

use crate::alarm::Alarm;
use crate::capture::Raw;
use crate::clock;
use crate::command::Command;
use crate::intake::Admitted;
use crate::intake::Answer;
use crate::intake::Head;
use crate::intake::Intake;
use crate::ledger::Receipt;
use crate::refusal::Refusal;
use crate::request::Query;
use crate::request::QueryError;
use crate::sender::Senders;

use super::budget::Budget;
use super::connection::Round;
use super::framing;
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
    /// Room for bodies that are on their way.
    pub(crate) budget: Budget,
    /// Set when the process stops: each answer then ends its connection.
    pub(crate) is_stopping: Arc<AtomicBool>,
}

/// The service as one connection has it.
///
/// Futures are copied whole at each await of one within another, and this one once more by hyper: so there are few of them on the way
/// of a callback, and what is rare is boxed.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) service: Arc<Service>,
    pub(crate) peer: SocketAddr,
    pub(crate) round: Round,
    /// For the deadlines of its requests.
    pub(crate) alarm: Mutex<Alarm>,
}

impl Visit {
    /// Answers one request, the next of the round.
    pub(crate) fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Reply, Infallible>> {
        // Not when the future is polled: hyper looks for what comes behind the body before, and would be taken to wait for a head.
        self.round.serve();
        self.reply_to(request)
    }

    async fn reply_to(self: Arc<Self>, request: Request<Incoming>) -> Result<Reply, Infallible> {
        let service = &*self.service;
        let (parts, body) = request.into_parts();
        let mut body = Some(body);
        let mut reply = match service.receive(&parts, self.peer) {
            Step::Answer(reply) => reply,
            Step::Refuse(receipt, refusal) => conclude(Err(refusal), Some(receipt)),
            Step::Read(receipt, admitted) => {
                let mut receipt = Some(receipt);
                let answer = match service.body(&admitted, body.as_mut(), &self.round).await {
                    Ok(raw) => {
                        body = None;
                        service.intake.accept(admitted, raw, &mut receipt, &self.alarm).await
                    }
                    Err(refusal) => Err(refusal),
                };
                conclude(answer, receipt)
            }
        };
        let goes_on = !reply::is_closing(&reply)
            && match body {
                Some(unread) => Box::pin(service.skim(&parts, unread, &self.round)).await,
                None => true,
            };
        if goes_on {
            self.round.rest();
        } else {
            reply::close(&mut reply);
            self.round.leave();
        }
        if service.is_stopping.load(Ordering::Relaxed) {
            reply::close(&mut reply);
        }
        Ok(reply)
    }
}

/// What comes after a request's head.
enum Step<'r> {
    /// It is no callback.
    Answer(Reply),
    /// Its body is not wanted.
    Refuse(Receipt<'r>, Refusal),
    /// Its body is read.
    Read(Receipt<'r>, Admitted<'r>),
}

impl Service {
    /// Looks at a head. A request that names a command is in the ledger from here on.
    fn receive<'r>(&'r self, parts: &'r Parts, peer: SocketAddr) -> Step<'r> {
        let head = Head { peer, received: clock::wall(), began: clock::monotonic() };
        let raw_query = parts.uri.query().unwrap_or_default();
        let query = Query::parse(raw_query);
        let command = match &query {
            Ok(query) => query.command.as_deref().map(Command::find),
            // What cannot be read is a callback all the same, of no command in the table.
            Err(_) => Query::names_command(raw_query).then_some(None),
        };
        let welcome = self.welcome(parts, peer);
        let is_harmless = matches!(parts.method, Method::GET | Method::HEAD | Method::POST);
        if is_harmless && command.is_none() {
            self.intake.metrics.probes.inc();
            return Step::Answer(welcome.map_or_else(|refusal| reply::refusal(&refusal), |()| reply::ok()));
        }
        let receipt = self.intake.ledger.receive(command.flatten());
        if let Err(refusal) = welcome {
            return Step::Refuse(receipt, refusal);
        }
        match self.admit(head, parts, query) {
            Ok(admitted) => Step::Read(receipt, admitted),
            Err(refusal) => Step::Refuse(receipt, refusal),
        }
    }

    /// Looks at what no request may be, callback or not.
    fn welcome(&self, parts: &Parts, peer: SocketAddr) -> Result<(), Refusal> {
        framing::check(parts)?;
        if let Some(senders) = &self.senders {
            let forwarded = parts.headers.get_all(X_FORWARDED_FOR).into_iter().map(HeaderValue::as_bytes);
            if !senders.admit(peer.ip(), forwarded) {
                return Err(Refusal::Sender);
            }
        }
        Ok(())
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

    /// Reads the body, behind a copy of the query. If it has to be waited for, there must
    /// be room in the budget. That is given back with the last byte: from there on the journal's bounds hold.
    async fn body(&self, admitted: &Admitted<'_>, body: Option<&mut Incoming>, round: &Round) -> Result<Raw, Refusal> {
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
        round.read_body();
        loop {
            let frame = poll_fn(|cx| {
                let frame = poll_frame(body, round, cx);
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
        round.serve();
        Ok(raw.end())
    }

    /// Reads a body that nobody wants and drops it, so that the connection can be used on. Returns whether it came to its end: it has
    /// the limits of any body, and one that waits for a `100 Continue` is not asked for.
    async fn skim(&self, head: &Parts, mut body: Incoming, round: &Round) -> bool {
        if body.is_end_stream() {
            return true;
        }
        let limit = self.body_bytes_max as u64;
        if body.size_hint().lower() > limit || head.headers.contains_key(header::EXPECT) {
            return false;
        }
        let mut bytes = 0;
        round.read_body();
        loop {
            match poll_fn(|cx| poll_frame(&mut body, round, cx)).await {
                Ok(Some(frame)) => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
                Ok(None) => return true,
                Err(_late_or_broken_off) => return false,
            }
            if bytes > limit {
                return false;
            }
        }
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

/// The next part of a body; `None` at its end. No timer here: the connection holds the time that a body may take.
fn poll_frame(body: &mut Incoming, round: &Round, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Refusal>> {
    if round.is_body_late() {
        return Poll::Ready(Err(Refusal::BodyTimeout));
    }
    let frame = Pin::new(body).poll_frame(cx);
    if frame.is_pending() {
        round.wait_for_body(cx);
    }
    frame.map(|frame| frame.transpose().map_err(|_broken_off| Refusal::BrokenOff))
}
