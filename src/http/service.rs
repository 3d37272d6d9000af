//! Turns a request into a response: checks it, reads its body, hands it to [`Intake`], and records its outcome in the ledger.

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

/// The header in which proxies name the client of a request.
const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// What handles the requests of the callback listener.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) intake: Intake,
    /// The only path on which callbacks are accepted; `None`: any.
    pub(crate) path: Option<String>,
    /// The allow-list of senders; `None`: every sender is allowed.
    pub(crate) senders: Option<Senders>,
    pub(crate) bodies: Bodies,
    /// Limits the log lines about requests that lost their query.
    pub(crate) no_command_log: Throttle,
    /// Limits the log lines about requests that are not HTTP.
    pub(crate) not_http_log: Throttle,
    /// During the stop each response closes its connection.
    pub(crate) lifecycle: Lifecycle,
}

/// The service for one connection.
///
/// Awaiting a nested future copies it, and hyper copies this one once more, so a callback's path has few nested futures, and rare steps are
/// boxed.
#[derive(Debug)]
pub(super) struct ConnectionService {
    pub(super) service: Arc<Service>,
    pub(super) peer: Peer,
    pub(super) progress: Progress,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// Its address, or the one that a PROXY protocol header names.
    pub(super) address: SocketAddr,
    /// The PROXY protocol header names no client: the request is the proxy's own, and `X-Forwarded-For` is ignored.
    pub(super) is_proxy_itself: bool,
}

impl ConnectionService {
    /// Answers one request.
    pub(super) fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Reply, Infallible>> {
        // Here and not in the async block: hyper reads on before it first polls that, and those bytes would count as the next head.
        let is_open = self.progress.enter(ConnectionPhase::Service);
        self.reply_to(request, is_open)
    }

    async fn reply_to(self: Arc<Self>, request: Request<Incoming>, is_open: bool) -> Result<Reply, Infallible> {
        if !is_open {
            // The sweep has ended the connection while a pipelined request was read: its task is about to be dropped.
            std::future::pending::<()>().await;
        }
        let service = &*self.service;
        let (parts, body) = request.into_parts();
        let began = clock::monotonic();
        let mut body = Some(body);
        let arrival = Arrival { began, waited: self.progress.take_wait() };
        let mut reply = match service.receive(&parts, self.peer, arrival) {
            Step::Respond(reply) => reply,
            Step::Refuse(receipt, refusal) => end_refused(&refusal, receipt),
            Step::NoCommand(verdict) => Box::pin(self.answer_without_command(verdict, &mut body, began)).await,
            Step::Read(receipt, authorized) => match service.bodies.read(&authorized, body.as_mut(), began).await {
                Ok(raw) => {
                    body = None;
                    match service.intake.handle(authorized, raw, receipt).await {
                        Ok(answer) => {
                            self.progress.mark_used();
                            reply::answer(answer)
                        }
                        Err(refusal) => refusal_reply(&refusal),
                    }
                }
                Err(refusal) => end_refused(&refusal, receipt),
            },
        };
        let is_reusable = !reply::is_closing(&reply)
            && match body {
                Some(unread) => Box::pin(service.bodies.drain(&parts.headers, unread, began)).await,
                None => true,
            };
        if !is_reusable {
            self.progress.leave_unread();
        }
        let is_stopping = service.lifecycle.phase() >= Phase::KeepAccepting;
        if !is_reusable || is_stopping || self.progress.closes_next() {
            reply::close(&mut reply);
        }
        self.progress.enter(ConnectionPhase::Response);
        Ok(reply)
    }

    /// Answers a POST without a command. With a blank body it is a check of the URL; with any other body it is a callback whose query a
    /// proxy has dropped. `verdict` is the refusal that applies to it otherwise.
    async fn answer_without_command(
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
                if service.no_command_log.permits(began) {
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
        end_refused(&refusal, service.intake.ledger.receive(None))
    }
}

/// How a request goes on after its head.
enum Step<'r> {
    /// It is not a callback.
    Respond(Reply),
    /// It is refused without its body.
    Refuse(Receipt<'r>, Refusal),
    /// A POST without a command: the body tells whether it is a callback; the result is the refusal that applies to it otherwise.
    NoCommand(Result<(), Refusal>),
    /// Its body is to be read.
    Read(Receipt<'r>, AuthorizedRequest<'r>),
}

impl Service {
    /// Checks a head. A request that names a command is in the ledger from here on.
    fn receive<'r>(&'r self, parts: &'r Parts, peer: Peer, arrival: Arrival) -> Step<'r> {
        let head = Head { peer: peer.address, received: clock::wall(), arrival };
        let raw_query = parts.uri.query().unwrap_or_default();
        let query = Query::parse(raw_query);
        let command = match &query {
            Ok(query) => query.command.as_deref().map(Command::find),
            // An unreadable query with a command is a callback too: of an unknown command.
            Err(_) => Query::names_command(raw_query).then_some(None),
        };
        let framing = check_framing(parts);
        let sender = self.check_sender(parts, peer);
        if command.is_none() {
            let is_allowed = framing.clone().and_then(|()| match &sender {
                Err(refusal) if !self.is_check_of_proxy(parts, peer) => Err(refusal.clone()),
                _ => Ok(()),
            });
            match (&parts.method, is_allowed) {
                (&Method::GET | &Method::HEAD | &Method::OPTIONS, is_allowed) => {
                    self.intake.metrics.probes.inc();
                    return Step::Respond(is_allowed.map_or_else(|refusal| reply::refusal(&refusal), |()| reply::ok()));
                }
                (&Method::POST, Ok(())) => return Step::NoCommand(sender.and_then(|()| self.check_app(query))),
                _other => {}
            }
        }
        let receipt = self.intake.ledger.receive(command.flatten());
        match framing.and(sender).and_then(|()| self.authorize(head, parts, query)) {
            Ok(authorized) => Step::Read(receipt, authorized),
            Err(refusal) => Step::Refuse(receipt, refusal),
        }
    }

    fn check_sender(&self, parts: &Parts, peer: Peer) -> Result<(), Refusal> {
        let Some(senders) = &self.senders else { return Ok(()) };
        let is_allowed = if peer.is_proxy_itself {
            senders.allowed.contain(peer.address.ip())
        } else {
            let forwarded = parts.headers.get_all(X_FORWARDED_FOR).into_iter().map(HeaderValue::as_bytes);
            senders.allows(peer.address.ip(), forwarded)
        };
        if is_allowed { Ok(()) } else { Err(Refusal::Sender) }
    }

    /// Whether a proxy sends a request of its own, such as a health check.
    fn is_check_of_proxy(&self, parts: &Parts, peer: Peer) -> bool {
        let is_for_another = !peer.is_proxy_itself && parts.headers.contains_key(X_FORWARDED_FOR);
        let is_proxy = |senders: &Senders| senders.proxies.contain(peer.address.ip());
        !is_for_another && self.senders.as_ref().is_some_and(is_proxy)
    }

    /// Checks that the query names a configured application.
    fn check_app(&self, query: Result<Query<'_>, QueryError>) -> Result<(), Refusal> {
        let query = query.map_err(Refusal::Query)?;
        auth::check_app(&query, &self.intake.apps)
    }

    fn authorize<'r>(
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
        self.intake.authorize(head, parts.uri.query().unwrap_or_default(), query)
    }
}

/// Ends the receipt of a callback that did not reach intake. Returns the reply.
fn end_refused(refusal: &Refusal, receipt: Receipt<'_>) -> Reply {
    receipt.end(refusal.reason());
    refusal_reply(refusal)
}

/// The reply to a callback whose receipt has ended.
fn refusal_reply(refusal: &Refusal) -> Reply {
    tracing::debug!(reason = refusal.reason().word(), "refused");
    reply::refusal(refusal)
}

/// Protects against request smuggling: refuses heads that hyper accepts, but that another server on the way could read differently.
///
/// hyper refuses most of them itself. If a head has both `Content-Length` and `chunked`, hyper uses `chunked` and closes the connection
/// after the response, so nothing behind the body is read as a request.
///
/// A line of a head may end in LF alone, as RFC 9112 allows. A proxy that forwards an LF inside a value violates RFC 9110; what follows the
/// LF is then checked as a header of its own.
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

/// Requires exactly one `Host` in HTTP/1.1, and at most one in HTTP/1.0. It may be empty: RFC 9112 3.2 requires that for a request without
/// an authority, and monitors send it.
fn check_host(head: &Parts) -> Result<(), Refusal> {
    let mut hosts = head.headers.get_all(header::HOST).into_iter().map(HeaderValue::as_bytes);
    match (hosts.next(), hosts.next()) {
        (None, _) if head.version == Version::HTTP_10 => Ok(()),
        (Some(host), None) if is_host(host) => Ok(()),
        _ => Err(Refusal::Host),
    }
}

/// Whether `host` has only characters that a host and a port may have.
fn is_host(host: &[u8]) -> bool {
    let is_other = |byte| {
        matches!(byte, b'"' | b'#' | b',' | b'/' | b'<' | b'>' | b'?' | b'@' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
    };
    host.iter().all(|byte| byte.is_ascii_graphic() && !is_other(*byte))
}
