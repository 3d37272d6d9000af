//! HTTP responses. Every body has the three fields that Tencent's protocol requires.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::StatusCode;
use hyper::header;
use hyper::header::HeaderValue;
use serde::Serialize;

use crate::decide::answer;
use crate::intake::Answer;
use crate::refusal::Refusal;

/// The responses of the listener.
pub(crate) type Reply = Response<Full<Bytes>>;

/// 200 with the plain OK body.
pub(crate) fn ok() -> Reply {
    json(StatusCode::OK, Bytes::from_static(answer::OK))
}

/// 200 with the result. A decision to refuse is expressed by `ErrorCode`, never by a status.
pub(crate) fn answer(answer: Answer) -> Reply {
    match answer {
        Answer::Ok => ok(),
        Answer::Decided(body) => json(StatusCode::OK, body),
    }
}

/// The status of the refusal, and its text.
pub(crate) fn refusal(refusal: &Refusal) -> Reply {
    let reason = refusal.reason();
    let status = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = json(status, failure(&refusal.to_string()));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    if status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
        reply.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    if reason.closes() {
        close(&mut reply);
    }
    reply
}

/// Makes the connection close after this reply.
pub(crate) fn close(reply: &mut Reply) {
    reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// Whether the connection closes after this reply.
pub(crate) fn is_closing(reply: &Reply) -> bool {
    reply.headers().contains_key(header::CONNECTION)
}

/// The whole response for a connection beyond the cap, which is not served by hyper.
pub(crate) fn too_many_connections() -> Vec<u8> {
    let body = failure("too many connections");
    let mut response = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    response.extend_from_slice(&body);
    response
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct FailureBody<'a> {
    action_status: &'static str,
    error_info: &'a str,
    error_code: u32,
}

fn failure(why: &str) -> Bytes {
    let body = FailureBody { action_status: "FAIL", error_info: why, error_code: 1 };
    serde_json::to_vec(&body).map(Bytes::from).unwrap_or_default()
}

fn json(status: StatusCode, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}
