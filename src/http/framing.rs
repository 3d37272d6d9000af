//! Heads that hyper takes and we do not: what another server on the way could read differently.
//!
//! hyper refuses most of these itself. Of a head with both a length and `chunked` it keeps `chunked`, and ends the connection with
//! the answer, so that nothing behind it is read as a request.
//!
//! A line of a head may end in LF alone, as RFC 9112 allows. It ends a line wherever it stands: whoever passes one on inside a value is
//! against RFC 9110, and what follows it is judged as the header that it then is.

use hyper::Version;
use hyper::header;
use hyper::header::HeaderMap;
use hyper::header::HeaderValue;
use hyper::http::request::Parts;

use crate::refusal::Refusal;

/// Looks at whose host it is for and how its body is transferred.
pub(super) fn check(head: &Parts) -> Result<(), Refusal> {
    check_host(head)?;
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).into_iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        (Some(_), _) => Err(Refusal::TransferEncoding),
    }
}

/// Refuses a body with a content coding: Tencent does not compress.
pub(super) fn check_coding(headers: &HeaderMap) -> Result<(), Refusal> {
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
