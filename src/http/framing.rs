//! Heads that hyper takes and we do not: what another server on the way could read differently.
//!
//! hyper refuses most of these itself. Of a head with both a length and `chunked` it keeps `chunked`, and ends the connection with
//! the answer, so that nothing behind it is read as a request.

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

/// Whether the body is as it stands.
pub(super) fn check_content(headers: &HeaderMap) -> Result<(), Refusal> {
    let is_plain = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    let mut codings = headers.get_all(header::CONTENT_ENCODING).into_iter();
    if codings.all(is_plain) { Ok(()) } else { Err(Refusal::ContentEncoding) }
}

/// One host in HTTP/1.1, at most one in 1.0; 2 has a field of its own for it.
fn check_host(head: &Parts) -> Result<(), Refusal> {
    let mut hosts = head.headers.get_all(header::HOST).into_iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if head.version != Version::HTTP_11 => Ok(()),
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        _ => Err(Refusal::Host),
    }
}

/// Whether it has only what a host and a port are written with.
fn is_host(host: &[u8]) -> bool {
    !host.is_empty() && host.iter().all(|byte| byte.is_ascii_graphic() && !b"\"#,/<>?@\\^`{|}".contains(byte))
}
