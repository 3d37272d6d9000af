//! From a request to a reply: the limits around [`Intake`], and the entry in the ledger.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use hyper::Method;
use hyper::Request;
use hyper::Version;
use hyper::body::Incoming;
use hyper::header;
use hyper::header::HeaderMap;
use hyper::header::HeaderValue;
use hyper::http::request::Parts;

use crate::auth;
use crate::clock;
use crate::command::Command;
use crate::intake::Arrival;
use crate::intake::AuthorizedRequest;
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

use super::body::Bodies;
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
    pub(crate) bodies: Bodies,
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
}

/// Who is at the other side of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// Its address, or the one that a header of the PROXY protocol names.
    pub(super) address: SocketAddr,
    /// Whether a header of the PROXY protocol names nobody: the proxy speaks for itself, and `X-Forwarded-For` counts for nothing.
    pub(super) is_proxy_itself: bool,
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
        let arrival = Arrival { began, waited: self.progress.take_wait() };
        let mut reply = match service.receive(&parts, self.peer, arrival) {
            Step::Answer(reply) => reply,
            Step::Refuse(receipt, refusal) => refuse(&refusal, receipt),
            Step::Nameless(verdict) => Box::pin(self.answer_nameless(verdict, &mut body, began)).await,
            Step::Read(receipt, admitted) => match service.bodies.read(&admitted, body.as_mut(), began).await {
                Ok(raw) => {
                    body = None;
                    match service.intake.accept(admitted, raw, receipt).await {
                        Ok(answer) => {
                            self.progress.mark_used();
                            reply::answer(answer)
                        }
                        Err(refusal) => refused(&refusal),
                    }
                }
                Err(refusal) => refuse(&refusal, receipt),
            },
        };
        let goes_on = !reply::is_closing(&reply)
            && match body {
                Some(unread) => Box::pin(service.bodies.drain(&parts.headers, unread, began)).await,
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
        let refusal = match service.bodies.is_blank(incoming, began).await {
            Ok(true) => {
                *body = None;
                service.intake.metrics.probes.inc();
                return reply::ok();
            }
            Ok(false) => {
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
            Err(refusal) => refusal,
        };
        refuse(&refusal, service.intake.ledger.receive(None))
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
    Read(Receipt<'r>, AuthorizedRequest<'r>),
}

impl Service {
    /// Looks at a head. A request that names a command is in the ledger from here on.
    fn receive<'r>(&'r self, parts: &'r Parts, peer: Peer, arrival: Arrival) -> Step<'r> {
        let head = Head { peer: peer.address, received: clock::wall(), arrival };
        let raw_query = parts.uri.query().unwrap_or_default();
        let query = Query::parse(raw_query);
        let command = match &query {
            Ok(query) => query.command.as_deref().map(Command::find),
            // What cannot be read is a callback all the same, of no command in the table.
            Err(_) => Query::names_command(raw_query).then_some(None),
        };
        let framing = check_framing(parts);
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
    ) -> Result<AuthorizedRequest<'r>, Refusal> {
        if parts.method != Method::POST {
            return Err(Refusal::Method);
        }
        if self.path.as_deref().is_some_and(|path| path != parts.uri.path()) {
            return Err(Refusal::Path);
        }
        check_coding(&parts.headers)?;
        let query = query.map_err(Refusal::Query)?;
        self.intake.admit(head, parts.uri.query().unwrap_or_default(), query)
    }
}

/// Ends a callback in the ledger that was not handed to intake. Returns the reply.
fn refuse(refusal: &Refusal, receipt: Receipt<'_>) -> Reply {
    receipt.end(refusal.reason());
    refused(refusal)
}

/// The reply to a callback whose end is in the ledger already.
fn refused(refusal: &Refusal) -> Reply {
    tracing::debug!(reason = refusal.reason().word(), "refused");
    reply::refusal(refusal)
}

/// Refuses heads that hyper takes and we do not: what another server on the way could read differently.
///
/// hyper refuses most of these itself. Of a head with both a length and `chunked` it keeps `chunked`, and ends the connection with
/// the answer, so that nothing behind it is read as a request.
///
/// A line of a head may end in LF alone, as RFC 9112 allows. It ends a line wherever it stands: whoever passes one on inside a value is
/// against RFC 9110, and what follows it is judged as the header that it then is.
fn check_framing(head: &Parts) -> Result<(), Refusal> {
    check_host(head)?;
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).into_iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        (Some(_), _) => Err(Refusal::TransferEncoding),
    }
}

/// Refuses a body with a content coding: Tencent does not compress.
fn check_coding(headers: &HeaderMap) -> Result<(), Refusal> {
    let lines = headers.get_all(header::CONTENT_ENCODING).into_iter();
    let mut codings = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let is_plain = codings.all(|coding| coding.eq_ignore_ascii_case(b"identity"));
    if is_plain { Ok(()) } else { Err(Refusal::ContentEncoding) }
}

/// One `Host` in HTTP/1.1, at most one in 1.0. It may be empty: RFC 9112 3.2 has it so where a request has no authority, and monitors
/// send it.
fn check_host(head: &Parts) -> Result<(), Refusal> {
    let mut hosts = head.headers.get_all(header::HOST).into_iter().map(HeaderValue::as_bytes);
    match (hosts.next(), hosts.next()) {
        (None, _) if head.version == Version::HTTP_10 => Ok(()),
        (Some(host), None) if is_host(host) => Ok(()),
        _ => Err(Refusal::Host),
    }
}

/// Whether it has only what a host and a port are written with.
fn is_host(host: &[u8]) -> bool {
    let is_other = |byte| {
        matches!(byte, b'"' | b'#' | b',' | b'/' | b'<' | b'>' | b'?' | b'@' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
    };
    host.iter().all(|byte| byte.is_ascii_graphic() && !is_other(*byte))
}
