//! The requests to the blocklist API: authorization, parameters and responses.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::LengthLimitError;
use http_body_util::Limited;
use hyper::Request;
use hyper::Response;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header;
use hyper::header::HeaderValue;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task;
use tokio::time;

use crate::admin::api::Author;
use crate::admin::api::BlocklistApi;
use crate::admin::api::PageQuery;
use crate::admin::api::WaitFor;
use crate::admin::apps::AppLists;
use crate::admin::changes;
use crate::admin::error::ApiError;
use crate::admin::model::LookupAnswer;
use crate::admin::routes;
use crate::admin::routes::BlocklistCall;
use crate::bearer::AdminTokens;
use crate::blocklist::topic::RequestedChange;
use crate::clock::Heartbeat;
use crate::decide::rule::Rule;
use crate::decide::rule::RuleKind;
use crate::decide::rule::Sentence;

/// The longest body of one rule.
const DETAILS_BYTES_MAX: usize = 64 * 1024;
/// The longest batch of changes.
const CHANGES_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The timeout for receiving the body of one rule.
const DETAILS_TIMEOUT: Duration = Duration::from_secs(1);
/// The timeout for receiving a batch of changes.
const CHANGES_TIMEOUT: Duration = Duration::from_secs(5);
/// The most concurrent batches of changes, because each may be large.
const BATCHES_MAX: usize = 4;
/// The heartbeat period of a connection while its request is being handled.
const HEARTBEAT_PERIOD: Duration = Duration::from_millis(100);
/// The default and the largest `limit` of a page.
const PAGE_RULES: (usize, usize) = (100, 1000);
/// A longer `X-Request-Id` is ignored.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The longest name of an import: as long as the name of a file can be.
pub(crate) const IMPORT_BYTES_MAX: usize = 255;

const GENERATION: &str = "blocklist-generation";
const REQUEST_ID: &str = "x-request-id";

/// Handles the requests to the blocklist API.
#[derive(Debug)]
pub(crate) struct BlocklistService {
    /// `None`: everybody who can reach the listener may read, and nobody may write.
    tokens: Option<Arc<ArcSwap<AdminTokens>>>,
    /// Set once the blocklists are loaded.
    lists: Arc<OnceLock<AppLists>>,
    /// Permits one page at a time, because each takes a scan of all rules.
    pages: Arc<Semaphore>,
    batches: Semaphore,
}

/// The blocklist lookup on the status page.
#[derive(Debug)]
pub(super) enum PageLookup {
    /// A note that a lookup requires a token, which the request does not have.
    NeedsToken,
    /// A button that opens the form.
    Button,
    /// The form.
    Form(LookupForm),
    /// The form and the answer.
    Answer(LookupForm, LookupAnswer),
}

/// The fields of the lookup form. An empty field is not filled in.
#[derive(Debug)]
pub(super) struct LookupForm {
    pub(super) user: String,
    pub(super) account: String,
    /// `None`: no application has its own list.
    pub(super) app: Option<String>,
}

/// The result of a request: the body of a 200, or an error.
type ApiAnswer = Result<Vec<u8>, ApiError>;

impl BlocklistService {
    pub(crate) fn new(tokens: Option<Arc<ArcSwap<AdminTokens>>>, lists: Arc<OnceLock<AppLists>>) -> Self {
        Self { tokens, lists, pages: Arc::new(Semaphore::new(1)), batches: Semaphore::new(BATCHES_MAX) }
    }

    /// The response to a request. `progress` gets heartbeats meanwhile, so that the connection does not count as stalled.
    pub(super) async fn respond(
        &self,
        request: Request<Incoming>,
        call: BlocklistCall,
        progress: &Heartbeat,
    ) -> Response<Full<Bytes>> {
        let (api, author) = match self.authorized_list(&request) {
            Ok(found) => found,
            Err(error) => return problem(error),
        };
        let answer = match self.check_write(&request, call) {
            Ok(()) => with_heartbeats(progress, self.handle(request, call, api, author)).await,
            Err(error) => Err(error),
        };
        let mut response = match answer {
            Ok(body) => json(StatusCode::OK, "application/json", body),
            Err(error) => problem(error),
        };
        response.headers_mut().insert(GENERATION, HeaderValue::from(api.generation()));
        response
    }

    /// The list that a request is for, and the author of the request.
    fn authorized_list(&self, request: &Request<Incoming>) -> Result<(&BlocklistApi, Author), ApiError> {
        let who = self.authorize(request)?.unwrap_or_default();
        let lists = self.lists.get().ok_or_else(not_loaded)?;
        let api = lists.of(app(request)?.as_deref())?;
        Ok((api, Author { who, source: "api".into(), request: request_id(request) }))
    }

    /// Checks that a request which writes may write.
    fn check_write(&self, request: &Request<Incoming>, call: BlocklistCall) -> Result<(), ApiError> {
        if !call.is_write() {
            return Ok(());
        }
        let lists = self.lists.get().ok_or_else(not_loaded)?;
        lists.check_writable(app(request)?.as_deref())?;
        if self.tokens.is_some() { Ok(()) } else { Err(ApiError::NoTokens) }
    }

    /// The lookup of a request for the status page. It requires a token if the API does.
    pub(super) fn page_lookup(&self, request: &Request<Incoming>) -> Result<PageLookup, ApiError> {
        // Browsers encode a blank in a form as `+`.
        let query = request.uri().query().map(|raw| raw.replace('+', "%20"));
        let found = routes::query(query.as_deref(), ["user", "account"]);
        let [user, account] = found.map_err(|(name, why)| ApiError::field(&name, why))?;
        let app = routes::app(query.as_deref()).map_err(|(name, why)| ApiError::field(&name, why))?;
        let authorized = self.authorize(request);
        let Some(user) = user else {
            return Ok(if authorized.is_ok() { PageLookup::Button } else { PageLookup::NeedsToken });
        };
        authorized?;
        let lists = self.lists.get().ok_or_else(not_loaded)?;
        // Browsers send empty fields too.
        let [account, app] = [account, app].map(|field| field.filter(|text| !text.is_empty()));
        let api = lists.of(app.as_deref())?;
        let answer = (!user.is_empty()).then(|| api.lookup(&user, account.as_deref()));
        let app = lists.has_own().then(|| app.unwrap_or_default());
        let form = LookupForm { user, account: account.unwrap_or_default(), app };
        Ok(match answer {
            None => PageLookup::Form(form),
            Some(answer) => PageLookup::Answer(form, answer),
        })
    }

    /// The name of the request's token; `None` if no tokens are configured.
    fn authorize(&self, request: &Request<Incoming>) -> Result<Option<Box<str>>, ApiError> {
        let Some(tokens) = &self.tokens else { return Ok(None) };
        let given = request.headers().get(header::AUTHORIZATION);
        let given = given.ok_or(ApiError::Unauthorized("the header Authorization is missing"))?;
        let token = given.to_str().ok().and_then(|value| value.split_once(' '));
        let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        let token =
            token.ok_or(ApiError::Unauthorized("the header Authorization is not of the form `Bearer TOKEN`"))?;
        let tokens = tokens.load();
        tokens.name_of(token).map(|name| Some(name.into())).ok_or(ApiError::Unauthorized("unknown token"))
    }

    async fn handle(
        &self,
        request: Request<Incoming>,
        call: BlocklistCall,
        api: &BlocklistApi,
        author: Author,
    ) -> ApiAnswer {
        match call {
            BlocklistCall::Status => {
                parameters(&request, [])?;
                to_json(&api.status())
            }
            BlocklistCall::Lookup => {
                let [user, account] = parameters(&request, ["user", "account"])?;
                let user = non_empty("user", user)?.ok_or_else(|| ApiError::field("user", "is missing"))?;
                to_json(&api.lookup(&user, non_empty("account", account)?.as_deref()))
            }
            BlocklistCall::ListRules => self.page(page_query(&request)?, api).await,
            BlocklistCall::GetRule(kind) => {
                parameters(&request, [])?;
                to_json(&api.get(&rule_of(&request, kind)?)?)
            }
            BlocklistCall::PutRule(kind) => change_rule(request, kind, changes::parse_put, api, author).await,
            BlocklistCall::DeleteRule(kind) => change_rule(request, kind, changes::parse_delete, api, author).await,
            BlocklistCall::ChangeRules => self.change_rules(request, api, author).await,
        }
    }

    /// A page of rules. It takes a scan of all rules, 0.1 s for ten million, so it does not run on the thread that answers probes.
    async fn page(&self, query: PageQuery, api: &BlocklistApi) -> ApiAnswer {
        let api = api.clone();
        run_blocking(Arc::clone(&self.pages), move || to_json(&api.page(&query))).await
    }

    async fn change_rules(&self, request: Request<Incoming>, api: &BlocklistApi, author: Author) -> ApiAnswer {
        let [wait, dry_run, import] = parameters(&request, ["wait", "dry_run", "import"])?;
        let wait = wait_of(wait.as_deref())?;
        let dry_run = match dry_run.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(ApiError::field("dry_run", "must be true or false")),
        };
        let author = match non_empty("import", import)? {
            None => author,
            Some(name) if name.len() > IMPORT_BYTES_MAX => {
                return Err(ApiError::field("import", "is longer than 255 bytes"));
            }
            Some(name) => Author { source: format!("import:{name}").into(), ..author },
        };
        let Ok(_permit) = self.batches.try_acquire() else {
            return Err(ApiError::Unavailable("four batches of changes are already in progress".to_owned()));
        };
        let body = body(request, CHANGES_BYTES_MAX, CHANGES_TIMEOUT).await?;
        to_json(&api.change_all(changes::parse_lines(&body)?, author, wait, dry_run).await?)
    }
}

fn not_loaded() -> ApiError {
    ApiError::Unavailable("the blocklist is not loaded yet".to_owned())
}

/// Runs `work` on a blocking thread, once one of `permits` is free. The work holds the permit, because it continues after its request is
/// dropped.
async fn run_blocking(permits: Arc<Semaphore>, work: impl FnOnce() -> ApiAnswer + Send + 'static) -> ApiAnswer {
    let permit = permits.acquire_owned().await;
    let done = task::spawn_blocking(move || {
        let _held = permit;
        work()
    });
    done.await.unwrap_or_else(|_stopping| Err(ApiError::Unavailable("the process is stopping".to_owned())))
}

/// Changes the rule of `kind` in the path. `parse` parses the body.
async fn change_rule(
    request: Request<Incoming>,
    kind: RuleKind,
    parse: fn(Rule<'static>, &[u8]) -> Result<RequestedChange, ApiError>,
    api: &BlocklistApi,
    author: Author,
) -> ApiAnswer {
    let [wait] = parameters(&request, ["wait"])?;
    let wait = wait_of(wait.as_deref())?;
    let rule = rule_of(&request, kind)?;
    let body = body(request, DETAILS_BYTES_MAX, DETAILS_TIMEOUT).await?;
    to_json(&api.change(parse(rule, &body)?, author, wait).await?)
}

/// The rule of `kind` in the path.
fn rule_of(request: &Request<Incoming>, kind: RuleKind) -> Result<Rule<'static>, ApiError> {
    // Not empty, because the request was routed by its path.
    let ids = routes::find(request.uri().path()).map(|(_, ids)| ids).unwrap_or_default();
    ids.rule(kind).map_err(|bad| ApiError::Invalid(vec![changes::of_id(bad)]))
}

/// Waits for `work`, and gives `progress` a heartbeat every [`HEARTBEAT_PERIOD`].
async fn with_heartbeats<T>(progress: &Heartbeat, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        match time::timeout(HEARTBEAT_PERIOD, &mut work).await {
            Ok(done) => return done,
            Err(_elapsed) => progress.beat(),
        }
    }
}

async fn body(request: Request<Incoming>, bytes_max: usize, timeout: Duration) -> Result<Bytes, ApiError> {
    let collected = time::timeout(timeout, Limited::new(request.into_body(), bytes_max).collect()).await;
    match collected {
        Err(_elapsed) => Err(ApiError::Timeout),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() && bytes_max == CHANGES_BYTES_MAX => {
            Err(ApiError::TooLarge("more than 4194304 bytes; send the changes in several requests"))
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::TooLarge("more than 65536 bytes")),
        Ok(Err(_broken)) => Err(ApiError::Timeout),
    }
}

fn parameters<const N: usize>(request: &Request<Incoming>, names: [&str; N]) -> Result<[Option<String>; N], ApiError> {
    routes::query(request.uri().query(), names).map_err(|(name, why)| ApiError::field(&name, why))
}

/// The application in the query.
fn app(request: &Request<Incoming>) -> Result<Option<String>, ApiError> {
    let app = routes::app(request.uri().query()).map_err(|(name, why)| ApiError::field(&name, why))?;
    non_empty(routes::APP, app)
}

fn non_empty(name: &str, value: Option<String>) -> Result<Option<String>, ApiError> {
    if value.as_ref().is_some_and(String::is_empty) { Err(ApiError::field(name, "is empty")) } else { Ok(value) }
}

fn wait_of(value: Option<&str>) -> Result<WaitFor, ApiError> {
    match value {
        None | Some("applied") => Ok(WaitFor::Applied),
        Some("acknowledged") => Ok(WaitFor::Acknowledged),
        Some(_) => Err(ApiError::field("wait", "must be applied or acknowledged")),
    }
}

fn page_query(request: &Request<Incoming>) -> Result<PageQuery, ApiError> {
    let [kind, account, prefix, limit, after] = parameters(request, ["kind", "account", "prefix", "limit", "after"])?;
    let kind_of = |word: String| {
        let kind = RuleKind::ALL.into_iter().find(|kind| kind.as_str() == word);
        kind.ok_or_else(|| ApiError::field("kind", "must be block, pardon, allow or close"))
    };
    let (default, max) = PAGE_RULES;
    let limit_of = |text: String| {
        let limit = text.parse().ok().filter(|limit| (1..=max).contains(limit));
        limit.ok_or_else(|| ApiError::field("limit", "must be a number from 1 to 1000"))
    };
    let after_of = |text: String| {
        let rule = Sentence::parse(&text).map(|sentence| sentence.rule.into_owned());
        rule.map_err(|mistake| ApiError::field("after", format!("is not a rule: {mistake}")))
    };
    Ok(PageQuery {
        kind: kind.map(kind_of).transpose()?,
        account: non_empty("account", account)?,
        prefix,
        limit: limit.map_or(Ok(default), limit_of)?,
        after: after.map(after_of).transpose()?,
    })
}

/// The request's `X-Request-Id`, if it is short and printable.
fn request_id(request: &Request<Incoming>) -> Option<Box<str>> {
    let id = request.headers().get(REQUEST_ID)?.to_str().ok()?;
    (!id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX).then(|| id.into())
}

fn to_json(body: &impl Serialize) -> ApiAnswer {
    serde_json::to_vec(body).map_err(|error| ApiError::Unavailable(error.to_string()))
}

/// The response to a failed request.
pub(super) fn problem(error: ApiError) -> Response<Full<Bytes>> {
    let status = error.status();
    let mut response = json(status, "application/problem+json", to_json(&error.details()).unwrap_or_default());
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

pub(super) fn json(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::mpsc;

    #[tokio::test]
    async fn the_next_page_waits_for_the_scan_of_a_dropped_request() {
        let permits = Arc::new(Semaphore::new(1));
        let (started, has_started) = mpsc::channel();
        let (end, may_end) = mpsc::channel::<()>();
        let scan = move || {
            started.send(()).expect("the test waits");
            let _ended = may_end.recv();
            Ok(Vec::new())
        };
        let mut request = Box::pin(run_blocking(Arc::clone(&permits), scan));
        assert!(time::timeout(Duration::ZERO, &mut request).await.is_err(), "the scan waits");
        has_started.recv().expect("the scan starts");
        drop(request);
        let mut next = Box::pin(run_blocking(Arc::clone(&permits), || Ok(b"next".to_vec())));
        assert!(time::timeout(Duration::ZERO, &mut next).await.is_err(), "the first scan is still running");
        assert_eq!(permits.available_permits(), 0);
        drop(end);
        assert_eq!(next.await, Ok(b"next".to_vec()));
    }
}
