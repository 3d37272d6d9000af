//! From a request to a reply: the limits around [`Intake`](crate::intake::Intake), and the entry in the ledger.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::LengthLimitError;
use http_body_util::Limited;
use hyper::Method;
use hyper::Request;
use hyper::body::Body;
use hyper::body::Incoming;
use tokio::time;

use crate::clock;
use crate::command::Command;
use crate::intake::Head;
use crate::intake::Intake;
use crate::ledger::Receipt;
use crate::refusal::Refusal;
use crate::request::Query;

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
    /// Answers one request.
    pub(crate) async fn serve(&self, request: Request<Incoming>, peer: SocketAddr) -> Reply {
        let mut reply = self.reply(request, peer).await;
        if self.is_stopping.load(Ordering::Relaxed) {
            reply::close(&mut reply);
        }
        reply
    }

    async fn reply(&self, request: Request<Incoming>, peer: SocketAddr) -> Reply {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let is_harmless = matches!(*request.method(), Method::GET | Method::HEAD | Method::POST);
        if is_harmless && !Query::names_command(&query) {
            self.intake.metrics.probes.inc();
            return reply::ok();
        }
        let mut receipt = Some(self.intake.ledger.receive(command_of(&query)));
        match self.callback(request, &query, peer, &mut receipt).await {
            Ok(reply) => reply,
            Err(refusal) => {
                tracing::debug!(reason = refusal.reason().word(), %peer, "refused");
                if let Some(receipt) = receipt {
                    receipt.end(refusal.reason());
                }
                reply::refusal(&refusal)
            }
        }
    }

    async fn callback(
        &self,
        request: Request<Incoming>,
        query: &str,
        peer: SocketAddr,
        receipt: &mut Option<Receipt<'_>>,
    ) -> Result<Reply, Refusal> {
        let head = Head { peer, query, received: clock::wall(), began: clock::monotonic() };
        if request.method() != Method::POST {
            return Err(Refusal::Method);
        }
        if self.path.as_deref().is_some_and(|path| path != request.uri().path()) {
            return Err(Refusal::Path);
        }
        let admitted = self.intake.admit(head)?;
        let body = self.body(request.into_body()).await?;
        self.intake.accept(admitted, body, receipt).await.map(|answer| reply::answer(&answer))
    }

    async fn body(&self, body: Incoming) -> Result<Box<[u8]>, Refusal> {
        let limit = self.body_bytes_max;
        let too_large = Refusal::BodyTooLarge { limit };
        if body.size_hint().lower() > limit as u64 {
            return Err(too_large);
        }
        let collected = time::timeout(self.body_timeout, Limited::new(body, limit).collect());
        match collected.await {
            // Copied: the bytes that came are a part of the connection's buffer, and would hold all of it for as long as they wait.
            Ok(Ok(collected)) => Ok(Box::from(&*collected.to_bytes())),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large),
            Ok(Err(_)) => Err(Refusal::BrokenOff),
            Err(_elapsed) => Err(Refusal::BodyTimeout),
        }
    }
}

/// The command as the ledger counts it; a query that cannot be read names one that is not of the table.
fn command_of(query: &str) -> Option<Command> {
    Query::parse(query).ok()?.command.as_deref().and_then(Command::find)
}
