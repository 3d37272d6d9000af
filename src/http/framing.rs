//! Heads that hyper takes and we do not: what another server on the way could read differently.
//!
//! hyper refuses most of these itself. Of a head with both a length and `chunked` it keeps `chunked`, and ends the connection with
//! the answer, so that nothing behind it is read as a request. HTTP/2 has no Transfer-Encoding, and one that comes all the same is
//! refused before it comes here.
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

/// How long the body may become when it is decompressed: `gzip_bytes_max` if it is gzip, `None` if it is as it stands. Where there is no
/// `gzip_bytes_max`, no gzip is taken.
pub(super) fn decompression(headers: &HeaderMap, gzip_bytes_max: Option<usize>) -> Result<Option<usize>, Refusal> {
    let mut lines = headers.get_all(header::CONTENT_ENCODING).into_iter();
    // As Tencent sends it.
    let Some(first) = lines.next() else { return Ok(None) };
    let codings = [first].into_iter().chain(lines).flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let mut codings = codings.map(<[u8]>::trim_ascii).filter(|coding| !coding.eq_ignore_ascii_case(b"identity"));
    match (codings.next(), codings.next(), gzip_bytes_max) {
        (None, _, _) => Ok(None),
        (Some(coding), None, Some(_)) if is_gzip(coding) => Ok(gzip_bytes_max),
        (Some(_), _, Some(_)) => Err(Refusal::OtherEncoding),
        (Some(_), _, None) => Err(Refusal::ContentEncoding),
    }
}

/// Whether it is called gzip, by the name of today or by that of old.
fn is_gzip(coding: &[u8]) -> bool {
    [&b"gzip"[..], b"x-gzip"].iter().any(|name| coding.eq_ignore_ascii_case(name))
}

/// One host in HTTP/1.1, at most one in 1.0. HTTP/2 has a field of its own for it, and a `Host` beside that says the same.
fn check_host(head: &Parts) -> Result<(), Refusal> {
    let authority = match head.version {
        Version::HTTP_2 => head.uri.authority().map(|authority| authority.as_str().as_bytes()),
        _one => None,
    };
    let mut hosts = head.headers.get_all(header::HOST).into_iter().map(HeaderValue::as_bytes);
    match (hosts.next(), hosts.next(), authority) {
        (None, _, None) if head.version == Version::HTTP_10 => Ok(()),
        (None, _, Some(host)) | (Some(host), None, None) if is_host(host) => Ok(()),
        (Some(host), None, Some(authority)) if host.eq_ignore_ascii_case(authority) && is_host(host) => Ok(()),
        _ => Err(Refusal::Host),
    }
}

/// Whether it has only what a host and a port are written with.
fn is_host(host: &[u8]) -> bool {
    let is_other = |byte| {
        matches!(byte, b'"' | b'#' | b',' | b'/' | b'<' | b'>' | b'?' | b'@' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
    };
    !host.is_empty() && host.iter().all(|byte| byte.is_ascii_graphic() && !is_other(*byte))
}
