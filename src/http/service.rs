//! From a request to a reply: the limits around [`Intake`], and the entry in the ledger.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::task::Poll;

use hyper::Method;
use hyper::Request;
use hyper::body::Body;
use hyper::body::Bytes;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::header;
use hyper::http::request::Parts;

use crate::capture::Raw;
use crate::clock;
use crate::command::Command;
use crate::intake::Admitted;
use crate::intake::Head;
use crate::intake::Intake;
use crate::refusal::Refusal;
use crate::request::Query;
use crate::request::QueryError;

use super::connection::Round;
use super::reply;
use super::reply::Reply;

/// What requests on the callback listener meet.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) intake: Intake,
    /// The only path callbacks are taken on; `None`: any.
    pub(crate) path: Option<String>,
    pub(crate) body_bytes_max: usize,
    /// Set when the process stops: each answer then ends its connection.
    pub(crate) is_stopping: Arc<AtomicBool>,
}

impl Service {
    /// Answers one request, the next of `round`.
    pub(crate) async fn serve(&self, request: Request<Incoming>, peer: SocketAddr, round: &Round) -> Reply {
        round.serve();
        let (parts, body) = request.into_parts();
        let mut body = Some(body);
        let mut reply = self.reply(&parts, &mut body, peer, round).await;
        let goes_on = !reply::is_closing(&reply)
            && match body {
                // Boxed, as it is rare, and would make every request's future larger.
                Some(unread) => Box::pin(self.skim(&parts, unread, round)).await,
                None => true,
            };
        if goes_on {
            round.rest();
        } else {
            reply::close(&mut reply);
            round.leave();
        }
        if self.is_stopping.load(Ordering::Relaxed) {
            reply::close(&mut reply);
        }
        reply
    }

    /// Takes the body out of `body` if it comes to reading it.
    async fn reply(&self, parts: &Parts, body: &mut Option<Incoming>, peer: SocketAddr, round: &Round) -> Reply {
        let head = Head { peer, received: clock::wall(), began: clock::monotonic() };
        let raw_query = parts.uri.query().unwrap_or_default();
        let query = Query::parse(raw_query);
        let command = match &query {
            Ok(query) => query.command.as_deref().map(Command::find),
            // What cannot be read is a callback all the same, of no command in the table.
            Err(_) => Query::names_command(raw_query).then_some(None),
        };
        let is_harmless = matches!(parts.method, Method::GET | Method::HEAD | Method::POST);
        if is_harmless && command.is_none() {
            self.intake.metrics.probes.inc();
            return reply::ok();
        }
        let mut receipt = Some(self.intake.ledger.receive(command.flatten()));
        let answer = match self.admit(head, parts, query) {
            Ok(admitted) => match self.body(&admitted, body, round).await {
                Ok(raw) => self.intake.accept(admitted, raw, &mut receipt).await,
                Err(refusal) => Err(refusal),
            },
            Err(refusal) => Err(refusal),
        };
        match answer {
            Ok(answer) => reply::answer(&answer),
            Err(refusal) => {
                tracing::debug!(reason = refusal.reason().word(), %peer, "refused");
                if let Some(receipt) = receipt {
                    receipt.end(refusal.reason());
                }
                reply::refusal(&refusal)
            }
        }
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
        self.intake.admit(head, parts.uri.query().unwrap_or_default(), query.map_err(Refusal::Query)?)
    }

    /// Reads the body, behind a copy of the query.
    async fn body(&self, admitted: &Admitted<'_>, body: &mut Option<Incoming>, round: &Round) -> Result<Raw, Refusal> {
        let Some(mut body) = body.take() else { return Ok(Raw::begin(admitted.query(), 0)) };
        let limit = self.body_bytes_max;
        let expected = usize::try_from(body.size_hint().lower()).ok().filter(|expected| *expected <= limit);
        let Some(expected) = expected else { return Err(Refusal::BodyTooLarge { limit }) };
        // Copied: what comes is a part of the connection's buffer, and would hold all of it for as long as it waits. In small
        // chunks, that would be many times the body.
        let mut raw = Raw::begin(admitted.query(), expected);
        round.read_body();
        while let Some(frame) = frame(&mut body, round).await? {
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
            match frame(&mut body, round).await {
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

/// The next part of a body; `None` at its end. No timer here: the connection holds the time that a body may take.
async fn frame(body: &mut Incoming, round: &Round) -> Result<Option<Frame<Bytes>>, Refusal> {
    poll_fn(|cx| {
        if round.is_body_late() {
            return Poll::Ready(Err(Refusal::BodyTimeout));
        }
        let frame = Pin::new(&mut *body).poll_frame(cx);
        frame.map(|frame| frame.transpose().map_err(|_broken_off| Refusal::BrokenOff))
    })
    .await
}
