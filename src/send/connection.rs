//! One kept-alive connection: sends a request and reads the response, with minimal overhead.

use std::future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use httparse::EMPTY_HEADER;
use httparse::Status;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::ReadBuf;
use tokio::time;

use super::RESPONSE_TIMEOUT;
use super::callbacks::Requests;
use super::callbacks::Signature;
use super::destination::Destination;
use super::destination::Wire;

/// The longest response. callbridge's are far shorter; an error page of a proxy may not be.
const RESPONSE_BYTES_MAX: usize = 1 << 20;
/// The size of a read.
const READ_BYTES: usize = 4096;
const HEADERS_MAX: usize = 64;
/// The usual body of callbridge's responses.
const OK: &[u8] = br#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#;

/// A connection, and its next request.
pub(super) struct LoadConnection {
    destination: Arc<Destination>,
    number: usize,
    /// Absent after a failure, and after a response that closes the connection.
    wire: Option<Box<dyn Wire>>,
    signature: Signature,
    request: Vec<u8>,
    response: Vec<u8>,
}

/// The relevant parts of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallbackResponse {
    pub(super) status: u16,
    /// Absent if the body is not a valid response to a callback.
    pub(super) error_code: Option<i64>,
}

/// The three required fields.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ResponseBody {
    #[serde(rename = "ActionStatus")]
    _action_status: IgnoredAny,
    #[serde(rename = "ErrorInfo")]
    _error_info: IgnoredAny,
    error_code: i64,
}

impl LoadConnection {
    pub(super) async fn open(destination: Arc<Destination>, number: usize) -> io::Result<Self> {
        let wire = Some(time::timeout(RESPONSE_TIMEOUT, destination.connect()).await??);
        let (signature, request, response) = Default::default();
        Ok(Self { destination, number, wire, signature, request, response })
    }

    /// Writes the request of a callback.
    pub(super) fn prepare(&mut self, requests: &Requests, number: u64) {
        requests.write(number, self.number, &mut self.signature, &mut self.request);
    }

    /// Sends the request and reads the response, on a new connection if the old one has ended.
    ///
    /// # Errors
    ///
    /// The connection broke, or the response is invalid. The connection must then be closed.
    pub(super) async fn exchange(&mut self) -> io::Result<CallbackResponse> {
        let mut kept = self.wire.take();
        if let Some(wire) = &mut kept
            && !is_open(wire).await
        {
            kept = None;
        }
        let mut wire = match kept {
            Some(wire) => wire,
            None => self.destination.connect().await?,
        };
        wire.write_all(&self.request).await?;
        wire.flush().await?;
        self.response.clear();
        loop {
            self.response.reserve(READ_BYTES);
            let read = wire.read_buf(&mut self.response).await?;
            let Some((response, keeps_alive)) = parse(&self.response, read == 0)? else { continue };
            self.wire = keeps_alive.then_some(wire);
            return Ok(response);
        }
    }

    pub(super) fn close(&mut self) {
        self.wire = None;
    }
}

impl std::fmt::Debug for LoadConnection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LoadConnection").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Whether the server has neither closed the connection nor sent unexpected bytes. Every client checks this, so that a connection that was
/// idle for too long does not fail a callback.
async fn is_open(wire: &mut Box<dyn Wire>) -> bool {
    let mut byte = [0];
    let mut buffer = ReadBuf::new(&mut byte);
    future::poll_fn(|context| Poll::Ready(Pin::new(&mut *wire).poll_read(context, &mut buffer).is_pending())).await
}

/// A response, and whether the connection stays open; `None` while it is incomplete.
fn parse(bytes: &[u8], is_end: bool) -> io::Result<Option<(CallbackResponse, bool)>> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let Status::Complete(head_bytes) = head.parse(bytes).map_err(io::Error::other)? else {
        return missing(bytes, is_end);
    };
    let rest = bytes.get(head_bytes..).unwrap_or_default();
    let header = |name: &str| {
        let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value))
    };
    let is_chunked = header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    let length = header("content-length").map(|value| value.trim().parse::<usize>());
    let status = head.code.unwrap_or_default();
    let (body, ends) = match length {
        _ if is_chunked => (unchunked(rest)?, false),
        Some(length) => (rest.get(..length.map_err(io::Error::other)?).map(<[u8]>::to_vec), false),
        None if status == 204 || status == 304 => (Some(Vec::new()), false),
        None => (is_end.then(|| rest.to_vec()), true),
    };
    let Some(body) = body else { return missing(bytes, is_end) };
    let closes =
        header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) || head.version == Some(0);
    let error_code = if body == OK {
        Some(0)
    } else {
        serde_json::from_slice::<ResponseBody>(&body).ok().map(|body| body.error_code)
    };
    Ok(Some((CallbackResponse { status, error_code }, !closes && !ends)))
}

fn missing<T>(bytes: &[u8], is_end: bool) -> io::Result<Option<T>> {
    match bytes.len() {
        0 if is_end => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed before the response")),
        _ if is_end => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed within the response")),
        RESPONSE_BYTES_MAX.. => Err(io::Error::other("the response is longer than 1 MiB")),
        _ => Ok(None),
    }
}

/// The body in chunked encoding; `None` while it is incomplete. Trailers are not supported: an empty line ends it.
fn unchunked(mut rest: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let size = httparse::parse_chunk_size(rest).map_err(|_invalid| io::Error::other("a chunk without a size"))?;
        let Status::Complete((line_bytes, size)) = size else { return Ok(None) };
        let size = usize::try_from(size).map_err(io::Error::other)?.min(RESPONSE_BYTES_MAX);
        let Some(chunk) = rest.get(line_bytes..line_bytes + size + 2) else { return Ok(None) };
        if size == 0 {
            return Ok(Some(body));
        }
        body.extend_from_slice(chunk.get(..size).unwrap_or_default());
        rest = rest.get(line_bytes + size + 2..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, is_end: bool) -> Option<(u16, Option<i64>, bool)> {
        let parsed = parse(text.as_bytes(), is_end).unwrap();
        parsed.map(|(response, keeps_alive)| (response.status, response.error_code, keeps_alive))
    }

    #[test]
    fn reads_responses_by_length_by_chunks_and_until_the_end() {
        let refused = r#"{"ActionStatus":"OK","ErrorInfo":"no","ErrorCode":1,"More":[]}"#;
        let by_length = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{refused}", refused.len());
        let (first, second) = refused.split_at(9);
        let by_chunks = format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:X}\r\n{second}\r\n0\r\n\r\n",
            first.len(),
            second.len()
        );
        for text in [by_length, by_chunks] {
            for end in 0..text.len() {
                assert_eq!(parsed(&text[..end], false), None, "{end} bytes of {text}");
                assert!(parse(&text.as_bytes()[..end], true).is_err());
            }
            assert_eq!(parsed(&text, false), Some((200, Some(1), true)));
        }
        let until_end = format!("HTTP/1.1 200 OK\r\n\r\n{refused}");
        assert_eq!((parsed(&until_end, false), parsed(&until_end, true)), (None, Some((200, Some(1), false))));
    }

    #[test]
    fn a_body_without_the_three_mandatory_fields_has_no_error_code() {
        for (body, code) in [
            (r#"{"ActionStatus":"FAIL","ErrorInfo":"x","ErrorCode":-7}"#, Some(-7)),
            (r#"{"ErrorCode":0}"#, None),
            (r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":"0"}"#, None),
            ("ok", None),
            ("", None),
        ] {
            let text = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            assert_eq!(parsed(&text, false), Some((200, code, false)), "{body}");
        }
    }
}
