//! A sender over one connection: HTTP/1.1 written by hand, so that a test can also write what no client would.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Error;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Result;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;

/// Longer than any answer may take; a test that waits so long has failed.
const READ: Duration = Duration::from_secs(30);

/// What Tencent writes for a callback of `app_id`, unsigned.
pub(crate) fn callback_target(app_id: &str, command: &str) -> String {
    format!("/?SdkAppid={app_id}&CallbackCommand={command}&contenttype=json&ClientIP=127.0.0.1&OptPlatform=RESTAPI")
}

/// A connection that is kept open between requests.
pub(crate) struct Client<S = TcpStream> {
    stream: BufReader<S>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Client {
    /// Connects.
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        Self::over(TcpStream::connect(address)?)
    }

    /// Uses a connection that is there.
    pub(crate) fn over(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ))?;
        Ok(Self::of(stream))
    }
}

impl<S: Read + Write> Client<S> {
    /// Speaks over anything.
    pub(crate) fn of(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// What it speaks over.
    pub(crate) fn inner(&self) -> &S {
        self.stream.get_ref()
    }

    /// Posts a body and reads the answer.
    pub(crate) fn post(&mut self, target: &str, body: &[u8]) -> Result<Response> {
        self.request("POST", target, &[], body)
    }

    /// Sends any request, with `Host` and `Content-Length`, and reads the answer.
    pub(crate) fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response> {
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let head =
            format!("{method} {target} HTTP/1.1\r\nHost: callbridge.test\r\nContent-Length: {length}\r\n{lines}\r\n");
        self.write(&[head.as_bytes(), body].concat())?;
        if method == "HEAD" { self.read_head() } else { self.read() }
    }

    /// Writes bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.get_mut().write_all(bytes)?;
        self.stream.get_mut().flush()
    }

    /// Reads one answer.
    pub(crate) fn read(&mut self) -> Result<Response> {
        let mut response = self.read_head()?;
        if response.header("transfer-encoding").is_some() {
            return Err(Error::new(ErrorKind::InvalidData, "callbridge knows the length of what it answers"));
        }
        let length: u64 = response.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        let read = self.stream.by_ref().take(length).read_to_end(&mut response.body)?;
        if u64::try_from(read).unwrap() < length { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(response) }
    }

    /// Whether the other side has closed, once nothing more comes. Waits for that.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.stream.read_to_end(&mut Vec::new()) {
            Ok(_rest) => true,
            // The second is TLS cut off, as it is when the other side was sent what it did not read.
            Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof),
        }
    }

    /// Reads one answer that has no body whatever its head says, as to HEAD.
    pub(crate) fn read_head(&mut self) -> Result<Response> {
        let invalid = || Error::from(ErrorKind::InvalidData);
        let status_line = self.read_line()?;
        let status = status_line.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(invalid)?;
        let mut headers = Vec::new();
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                return Ok(Response { status, headers, body: Vec::new() });
            }
            let (name, value) = line.split_once(':').ok_or_else(invalid)?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn read_line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Response {
    /// The first header of that name, which is given in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _value)| found == name).map(|(_name, value)| value.as_str())
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
