//! Why a request to the blocklist's API is not served: its status, and the body that says so.

use hyper::StatusCode;

use crate::admin::model::FieldError;
use crate::admin::model::ProblemDetails;
use crate::blocklist::topic::WriteError;

/// Why a request is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ApiError {
    /// No bearer token, or none that is known.
    Unauthorized(&'static str),
    /// Nobody may write, since no tokens are configured.
    NoTokens,
    /// There is no such path.
    NoPath,
    /// There is no such rule.
    NoRule(String),
    /// No application of this SdkAppid is configured.
    NoApp(String),
    /// The path does not take this method.
    Method,
    /// The body did not come in time.
    Timeout,
    /// The common list is files, which this API does not write.
    FilesOnly,
    /// So is the list of an application.
    AppFilesOnly,
    /// The application has no list of its own, or one with the common topic: what is written to it holds for others, too.
    SharedList(String),
    /// Other applications have the topic of its list, too.
    SharedTopic(String),
    /// The body is too large.
    TooLarge(&'static str),
    /// The request is wrong where these say.
    Invalid(Vec<FieldError>),
    /// Not now.
    Unavailable(String),
}

impl ApiError {
    /// One field is wrong.
    pub(super) fn field(field: &str, detail: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError { line: None, field: Some(field.to_owned()), detail: detail.into() }])
    }

    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::NoTokens => StatusCode::FORBIDDEN,
            Self::NoPath | Self::NoRule(_) | Self::NoApp(_) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::FilesOnly | Self::AppFilesOnly | Self::SharedList(_) | Self::SharedTopic(_) => StatusCode::CONFLICT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The last part of the problem's URI, and its title.
    const fn kind(&self) -> (&'static str, &'static str) {
        match self {
            Self::Unauthorized(_) => ("unauthorized", "a bearer token is needed"),
            Self::NoTokens => ("forbidden", "nobody may write"),
            Self::NoPath => ("no-such-path", "there is no such path"),
            Self::NoRule(_) => ("no-such-rule", "there is no such rule"),
            Self::NoApp(_) => ("no-such-app", "there is no such application"),
            Self::Method => ("method-not-allowed", "the path does not take this method"),
            Self::Timeout => ("timeout", "the body did not come in time"),
            Self::FilesOnly | Self::AppFilesOnly => ("read-only", "the blocklist is read-only here"),
            Self::SharedList(_) | Self::SharedTopic(_) => ("shared-list", "the application shares its blocklist"),
            Self::TooLarge(_) => ("too-large", "the body is too large"),
            Self::Invalid(_) => ("invalid", "the request is wrong"),
            Self::Unavailable(_) => ("unavailable", "not possible now"),
        }
    }

    pub(crate) fn details(self) -> ProblemDetails {
        let (status, (kind, title)) = (self.status().as_u16(), self.kind());
        let (kind, title) = (format!("urn:callbridge:problem:{kind}"), title.to_owned());
        let mut errors = Vec::new();
        let detail = match self {
            Self::Unauthorized(why) | Self::TooLarge(why) => why.to_owned(),
            Self::NoTokens => "no admin.token_files are configured: writing needs a token".to_owned(),
            Self::NoPath => "see /openapi.json for the paths".to_owned(),
            Self::NoRule(rule) => format!("no source has the rule `{rule}`"),
            Self::NoApp(app) => format!("no application `{app}` is configured"),
            Self::Method => "see the header Allow".to_owned(),
            Self::Timeout => "the body did not come whole".to_owned(),
            Self::FilesOnly => {
                "no blocklist.topic is configured: the blocklist is the files of blocklist.files, which this API does not write".to_owned()
            }
            Self::AppFilesOnly => {
                "the application has no blocklist_topic: its blocklist is the files of its blocklist_files, which this API does not write".to_owned()
            }
            Self::SharedList(app) => {
                format!("application {app} shares the common blocklist or its topic: leave out `app` to change that for all who share it")
            },
            Self::SharedTopic(app) => {
                format!("application {app} shares its blocklist_topic: change it for all who share it with `callbridge blocklist` and --topic")
            },
            Self::Invalid(found) => {
                let first = found.first().map(ToString::to_string).unwrap_or_default();
                let more = found.len().saturating_sub(1);
                errors = found;
                if more == 0 { first } else { format!("{first}; and {more} more") }
            }
            Self::Unavailable(why) => why,
        };
        ProblemDetails { kind, title, status, detail, errors }
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        match error {
            // The handlers have looked for both before.
            WriteError::Unkeyable { .. } | WriteError::TooLong { .. } => {
                Self::Invalid(vec![FieldError { line: None, field: None, detail: error.to_string() }])
            }
            WriteError::NotRead
            | WriteError::Stale
            | WriteError::Busy
            | WriteError::LogChanged { .. }
            | WriteError::Unacknowledged(_)
            | WriteError::Refused(_)
            | WriteError::Stopping => Self::Unavailable(error.to_string()),
        }
    }
}
