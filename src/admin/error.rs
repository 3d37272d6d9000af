//! The errors of the blocklist API: the status and the body of the response.

use hyper::StatusCode;

use crate::admin::model::FieldError;
use crate::admin::model::ProblemDetails;
use crate::blocklist::topic::WriteError;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ApiError {
    /// The bearer token is missing or unknown.
    Unauthorized(&'static str),
    /// Writing is disabled, because no tokens are configured.
    NoTokens,
    /// The path does not exist.
    NoPath,
    /// The rule does not exist.
    NoRule(String),
    /// No application with this SdkAppid is configured.
    NoApp(String),
    /// The path does not have this method.
    Method,
    /// The body was not received completely, or not in time.
    Timeout,
    /// The common list has no topic, only files, which the API cannot write.
    FilesOnly,
    /// The list of the application has no topic, only files, which the API cannot write.
    AppFilesOnly,
    /// The application uses the common list or its topic: a change would affect other applications.
    SharedList(String),
    /// The application's list shares its topic with other applications: a change would affect them.
    SharedTopic(String),
    /// The body is too large.
    TooLarge(&'static str),
    /// The request is invalid.
    Invalid(Vec<FieldError>),
    /// The request may succeed later.
    Unavailable(String),
}

impl ApiError {
    /// One field is invalid.
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
            Self::Unauthorized(_) => ("unauthorized", "a valid bearer token is required"),
            Self::NoTokens => ("forbidden", "writing is disabled"),
            Self::NoPath => ("no-such-path", "path not found"),
            Self::NoRule(_) => ("no-such-rule", "rule not found"),
            Self::NoApp(_) => ("no-such-app", "application not found"),
            Self::Method => ("method-not-allowed", "method not allowed"),
            Self::Timeout => ("timeout", "body not received in time"),
            Self::FilesOnly | Self::AppFilesOnly => ("read-only", "the blocklist is read-only"),
            Self::SharedList(_) | Self::SharedTopic(_) => ("shared-list", "the application shares its blocklist"),
            Self::TooLarge(_) => ("too-large", "the body is too large"),
            Self::Invalid(_) => ("invalid", "invalid request"),
            Self::Unavailable(_) => ("unavailable", "temporarily unavailable"),
        }
    }

    pub(crate) fn details(self) -> ProblemDetails {
        let (status, (kind, title)) = (self.status().as_u16(), self.kind());
        let (kind, title) = (format!("urn:callbridge:problem:{kind}"), title.to_owned());
        let mut errors = Vec::new();
        let detail = match self {
            Self::Unauthorized(why) | Self::TooLarge(why) => why.to_owned(),
            Self::NoTokens => "admin.token_files is not configured: writing requires a token".to_owned(),
            Self::NoPath => "see /openapi.json for the paths".to_owned(),
            Self::NoRule(rule) => format!("no source has the rule `{rule}`"),
            Self::NoApp(app) => format!("no application `{app}` is configured"),
            Self::Method => "see the header Allow".to_owned(),
            Self::Timeout => "the body was not received completely in time".to_owned(),
            Self::FilesOnly => {
                "no blocklist.topic is configured: edit the files of blocklist.files, which the API cannot write".to_owned()
            }
            Self::AppFilesOnly => {
                "the application has no blocklist_topic: edit the files of its blocklist_files, which the API cannot write".to_owned()
            }
            Self::SharedList(app) => {
                format!("application {app} shares the common blocklist or its topic: leave out `app` to change it for all that share it")
            },
            Self::SharedTopic(app) => {
                format!("application {app} shares its blocklist_topic: change it for all that share it with `callbridge blocklist --topic`")
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
            // Not expected: the handlers check for both before.
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
