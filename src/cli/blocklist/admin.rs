//! A client of the blocklist API.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::Limited;
use hyper::Request;
use hyper::Uri;
use hyper::client::conn::http1;
use hyper::header;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time;

use crate::admin::api::PageQuery;
use crate::admin::model::BlocklistStatus;
use crate::admin::model::ChangeLine;
use crate::admin::model::ChangedRules;
use crate::admin::model::LookupAnswer;
use crate::admin::model::ProblemDetails;
use crate::admin::model::RuleView;
use crate::admin::model::RulesPage;
use crate::bearer;
use crate::clock::UnixMillis;
use crate::decide::rule::Sentence;
use crate::decide::rules::Rules;
use crate::decide::rules::gathered::Gathered;
use crate::decide::time as rfc3339;

use super::CliError;

/// The timeout of a request. A write waits 5 s for Kafka's acknowledgement, and 5 s until it is applied.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest page.
const PAGE_RULES: usize = 1000;
/// The longest response: much more than a page of very long rules.
const RESPONSE_BYTES_MAX: usize = 256 << 20;
/// The most errors that are shown.
const SHOWN_MAX: usize = 10;

/// A client of one replica's admin listener.
pub(super) struct AdminClient {
    runtime: Runtime,
    authority: String,
    /// The value of the header `Authorization`.
    authorization: Option<String>,
    /// The application whose list is used; `None` for the common list.
    app: Option<String>,
}

impl AdminClient {
    pub(super) fn new(url: &str, token_file: Option<&Path>, app: Option<String>) -> Result<Self, CliError> {
        let invalid = || CliError::Usage(format!("--admin {url}: must be like http://127.0.0.1:9464"));
        let uri: Uri = url.parse().map_err(|_error| invalid())?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(invalid)?;
        if !matches!(uri.path_and_query().map(|path| path.as_str()), None | Some("/")) {
            return Err(invalid());
        }
        let authority = match authority.port() {
            Some(_) => authority.to_string(),
            None => format!("{authority}:80"),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let token = token_file.map(token_of).transpose()?;
        Ok(Self { runtime, authority, authorization: token.map(|token| format!("Bearer {token}")), app })
    }

    /// Makes the changes, and waits until they are applied.
    pub(super) fn change(&self, changes: &[ChangeLine]) -> Result<ChangedRules, CliError> {
        self.post(changes, "wait=applied")
    }

    /// Makes the changes of an import with this name, and waits until Kafka has acknowledged them.
    pub(super) fn import(&self, changes: &[ChangeLine], name: &str) -> Result<ChangedRules, CliError> {
        self.post(changes, &format!("wait=acknowledged&import={}", encoded(name)))
    }

    fn post(&self, changes: &[ChangeLine], query: &str) -> Result<ChangedRules, CliError> {
        let mut body = String::new();
        for change in changes {
            let line = serde_json::to_string(change).map_err(|error| CliError::Target(error.to_string()))?;
            body.push_str(&line);
            body.push('\n');
        }
        self.send("POST", &format!("/blocklist/changes?{query}"), body)
    }

    pub(super) fn lookup(&self, user: &str, account: Option<&str>) -> Result<LookupAnswer, CliError> {
        let account = account.map(|account| format!("&account={}", encoded(account))).unwrap_or_default();
        self.get(&format!("/blocklist/lookup?user={}{account}", encoded(user)))
    }

    pub(super) fn list(&self, mut query: PageQuery) -> Result<(Vec<RuleView>, bool), CliError> {
        let (mut rules, mut missing) = (Vec::new(), query.limit);
        let mut next = None;
        loop {
            query.limit = missing.min(PAGE_RULES);
            let page = self.page(&query, next.as_deref())?;
            rules.extend(page.rules);
            missing = missing.saturating_sub(query.limit);
            next = page.next;
            if missing == 0 || next.is_none() {
                return Ok((rules, next.is_some()));
            }
        }
    }

    pub(super) fn rules(&self) -> Result<Rules, CliError> {
        let status: BlocklistStatus = self.get("/blocklist")?;
        let kind = if status.topic.is_some() { "topic:" } else { "file:" };
        let query = PageQuery { kind: None, account: None, prefix: None, limit: PAGE_RULES, after: None };
        let (mut gathered, mut next) = (Gathered::default(), None);
        loop {
            let page = self.page(&query, next.as_deref())?;
            for view in page.rules.iter().filter(|view| view.source.starts_with(kind)) {
                put(&mut gathered, view)?;
            }
            next = page.next;
            if next.is_none() {
                return Ok(gathered.finish());
            }
        }
    }

    fn page(&self, query: &PageQuery, after: Option<&str>) -> Result<RulesPage, CliError> {
        let mut target = format!("/blocklist/rules?limit={}", query.limit);
        let kind = query.kind.map(|kind| kind.as_str());
        for (name, value) in [
            ("kind", kind),
            ("account", query.account.as_deref()),
            ("prefix", query.prefix.as_deref()),
            ("after", after),
        ] {
            if let Some(value) = value {
                // Writing to a string cannot fail.
                let _written = write!(target, "&{name}={}", encoded(value));
            }
        }
        self.get(&target)
    }

    fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, CliError> {
        self.send("GET", target, String::new())
    }

    fn send<T: DeserializeOwned>(&self, method: &str, target: &str, body: String) -> Result<T, CliError> {
        let failed = |why: String| CliError::Target(format!("http://{}: {why}", self.authority));
        let target = self.with_app(target);
        let exchange = async { time::timeout(TIMEOUT, self.exchange(method, &target, body)).await };
        let (status, body) = match self.runtime.block_on(exchange) {
            Err(_elapsed) => return Err(failed(format!("no response within {} s", TIMEOUT.as_secs()))),
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Ok(Ok(response)) => response,
        };
        if status == 200 {
            return serde_json::from_slice(&body).map_err(|error| failed(format!("unexpected response: {error}")));
        }
        match serde_json::from_slice::<ProblemDetails>(&body) {
            Ok(problem) => Err(failed(shown(&problem))),
            Err(_no_problem) => Err(failed(format!("status {status}"))),
        }
    }

    /// `target` with the parameter `app`.
    fn with_app(&self, target: &str) -> String {
        let Some(app) = &self.app else { return target.to_owned() };
        // Values are encoded, so they contain no `?`.
        let separator = if target.contains('?') { '&' } else { '?' };
        format!("{target}{separator}app={}", encoded(app))
    }

    async fn exchange(
        &self,
        method: &str,
        target: &str,
        body: String,
    ) -> Result<(u16, Bytes), Box<dyn std::error::Error>> {
        let stream = TcpStream::connect(&self.authority).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut request = Request::builder().method(method).uri(target).header(header::HOST, &self.authority);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        let response = async {
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            Ok::<_, Box<dyn std::error::Error>>((status, whole(response.into_body(), RESPONSE_BYTES_MAX).await?))
        };
        let mut response = std::pin::pin!(response);
        tokio::select! {
            done = &mut response => done,
            ended = connection => {
                ended?;
                response.await
            }
        }
    }
}

/// Receives a body of at most `bytes_max` bytes.
async fn whole<B>(body: B, bytes_max: usize) -> Result<Bytes, Box<dyn std::error::Error>>
where
    B: hyper::body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = Limited::new(body, bytes_max).collect().await;
    body.map(|body| body.to_bytes())
        .map_err(|error| format!("read the response, of at most {bytes_max} bytes: {error}").into())
}

/// The token in a file: its only line, with or without a name.
fn token_of(path: &Path) -> Result<String, CliError> {
    let invalid = |why: &str| CliError::Usage(format!("{}: {why}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| invalid(&error.to_string()))?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Err(invalid("must contain exactly one line, `token` or `name:token`"));
    };
    let token = bearer::named(line).map_or(line, |(_name, token)| token);
    if bearer::is_bearer_token(token) { Ok(token.to_owned()) } else { Err(invalid("holds no token")) }
}

fn put(gathered: &mut Gathered, view: &RuleView) -> Result<(), CliError> {
    let unreadable = || CliError::Target(format!("the bridge has sent a rule that is none: {}", view.rule));
    let rule = Sentence::parse(&view.rule).map_err(|_mistake| unreadable())?.rule;
    let until = view.until.as_deref().map_or(Some(UnixMillis::NEVER), rfc3339::parse).ok_or_else(unreadable)?;
    gathered.put(&rule, until, view.because.as_deref());
    Ok(())
}

fn encoded(id: &str) -> String {
    let mut encoded = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _written = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

fn shown(problem: &ProblemDetails) -> String {
    let errors: Vec<String> = problem.errors.iter().take(SHOWN_MAX).map(ToString::to_string).collect();
    let detail = if errors.is_empty() { problem.detail.clone() } else { errors.join("; ") };
    format!("{}: {detail}", problem.title)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use std::io::Write;

    use crate::request;

    #[test]
    fn an_admin_url_with_tls_or_a_path_is_refused() {
        let of = |url| AdminClient::new(url, None, None).map(|client| client.authority);
        assert_eq!(of("http://127.0.0.1:9464").ok().as_deref(), Some("127.0.0.1:9464"));
        assert_eq!(of("http://[::1]:1/").ok().as_deref(), Some("[::1]:1"));
        assert_eq!(of("http://bridge").ok().as_deref(), Some("bridge:80"));
        for wrong in ["127.0.0.1:9464", "https://a:1", "http://a:1/blocklist", "ftp://a", "", "http://"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_request_has_the_application() {
        let of = |app: Option<&str>| AdminClient::new("http://a", None, app.map(str::to_owned)).expect("a client");
        let targets = |client: &AdminClient| ["/blocklist", "/blocklist/rules?limit=1"].map(|it| client.with_app(it));
        assert_eq!(targets(&of(None)), ["/blocklist", "/blocklist/rules?limit=1"]);
        assert_eq!(targets(&of(Some("1&"))), ["/blocklist?app=1%26", "/blocklist/rules?limit=1&app=1%26"]);
    }

    #[test]
    fn a_token_file_has_one_line_with_or_without_a_name() {
        let of = |text: &str| {
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            file.write_all(text.as_bytes()).expect("written");
            token_of(file.path()).ok()
        };
        assert_eq!(of("secret\n").as_deref(), Some("secret"));
        assert_eq!(of("\nteam:alice:secret==\r\n").as_deref(), Some("secret=="));
        for wrong in ["", "\n", "a\nb", "two words", "alice:"] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_response_longer_than_the_limit_is_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let read = |bytes_max| runtime.block_on(whole(Full::new(Bytes::from_static(b"0123456789")), bytes_max));
        assert_eq!(read(10).expect("it is within the limit"), "0123456789");
        let error = read(9).expect_err("it is longer").to_string();
        assert_eq!(error, "read the response, of at most 9 bytes: length limit exceeded");
    }

    proptest! {
        #[test]
        fn an_encoded_id_round_trips(id in ".{0,20}") {
            let encoded = encoded(&id);
            prop_assert_eq!(request::decode(&encoded).expect("well encoded"), id);
        }
    }
}
