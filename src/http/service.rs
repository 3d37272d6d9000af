//! From a request to a reply: the limits around [`Intake`], and the entry in the ledger.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use hyper::Request;
use hyper::body::Body;
use hyper::body::Incoming;
use hyper::header;
use hyper::http::request::Parts;
use tokio::time;

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
    pub(crate) body_timeout: Duration,
    /// Set when the process stops: each answer then ends its connection.
    pub(crate) is_stopping: Arc<AtomicBool>,
}

impl Service {
    /// Answers one request, the next of `round`.
    pub(crate) async fn serve(&self, request: Request<Incoming>, peer: SocketAddr, round: &Round) -> Reply {
        round.serve();
        let (parts, body) = request.into_parts();
        let mut body = Some(body);
        let mut reply = self.reply(&parts, &mut body, peer).await;
        let goes_on = !reply::is_closing(&reply)
            && match body {
                Some(unread) => self.skim(&parts, unread).await,
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
    async fn reply(&self, parts: &Parts, body: &mut Option<Incoming>, peer: SocketAddr) -> Reply {
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
            Ok(admitted) => self.accept(admitted, body, &mut receipt).await,
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

    async fn accept(
        &self,
        admitted: Admitted<'_>,
        body: &mut Option<Incoming>,
        receipt: &mut Option<Receipt<'_>>,
    ) -> Result<Answer, Refusal> {
        let raw = match body.take() {
            Some(body) => self.body(body, admitted.query()).await?,
            None => Raw::begin(admitted.query(), 0),
        };
        self.intake.accept(admitted, raw, receipt).await
    }

    /// Reads the body, behind a copy of the query.
    async fn body(&self, mut body: Incoming, query: &str) -> Result<Raw, Refusal> {
        let limit = self.body_bytes_max;
        let too_large = Refusal::BodyTooLarge { limit };
        let expected = body.size_hint().lower();
        let Some(expected) = usize::try_from(expected).ok().filter(|expected| *expected <= limit) else {
            return Err(too_large);
        };
        let collected = time::timeout(self.body_timeout, async {
            // Copied: what comes is a part of the connection's buffer, and would hold all of it for as long as it waits. In small
            // chunks, that would be many times the body.
            let mut raw = Raw::begin(query, expected);
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(|_broken_off| Refusal::BrokenOff)?.into_data() else { continue };
                if data.len() > limit - raw.body().len() {
                    return Err(too_large);
                }
                raw.push(&data);
            }
            Ok(raw.end())
        });
        collected.await.unwrap_or(Err(Refusal::BodyTimeout))
    }

    /// Reads a body that nobody wants and drops it, so that the connection can be used on. Returns whether it came to its end: it has
    /// the limits of any body, and one that waits for a `100 Continue` is not asked for.
    async fn skim(&self, head: &Parts, mut body: Incoming) -> bool {
        if body.is_end_stream() {
            return true;
        }
        let limit = self.body_bytes_max as u64;
        if body.size_hint().lower() > limit || head.headers.contains_key(header::EXPECT) {
            return false;
        }
        let mut bytes = 0;
        let skimmed = time::timeout(self.body_timeout, async {
            while let Some(frame) = body.frame().await {
                bytes += frame.ok()?.data_ref().map_or(0, |data| data.len() as u64);
                if bytes > limit {
                    return None;
                }
            }
            Some(())
        });
        matches!(skimmed.await, Ok(Some(())))
    }
}
