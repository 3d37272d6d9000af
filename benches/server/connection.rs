//! One keep-alive connection of the load: it sends a request and reads the answer, with as little work as that takes.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::callback::Request;

/// The longest answer that is taken. callbridge's are a tenth of it.
const ANSWER_BYTES_MAX: usize = 4096;

/// A connection, the request it repeats, and room for an answer.
pub(crate) struct Connection {
    server: SocketAddr,
    stream: TcpStream,
    request: Request,
    buffer: [u8; ANSWER_BYTES_MAX],
}

impl Connection {
    /// Connects to `server`.
    pub(crate) async fn open(server: SocketAddr, request: Request) -> io::Result<Self> {
        Ok(Self { server, stream: connect(server).await?, request, buffer: [0; ANSWER_BYTES_MAX] })
    }

    /// Sends the next callback and reads its answer. Returns the status.
    ///
    /// # Errors
    ///
    /// The connection broke or the answer cannot be read. Nothing more may be sent before [`Self::reopen`].
    pub(crate) async fn exchange(&mut self) -> io::Result<u16> {
        let mut unsent = self.request.next();
        while !unsent.is_empty() {
            match self.stream.try_write(unsent) {
                Ok(sent) => unsent = unsent.get(sent..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.writable().await?,
                Err(error) => return Err(error),
            }
        }
        let mut filled = 0;
        loop {
            self.stream.readable().await?;
            let room = self.buffer.get_mut(filled..).unwrap_or_default();
            match self.stream.try_read(room) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            if let Some(status) = complete_answer(self.buffer.get(..filled).unwrap_or_default())? {
                return Ok(status);
            }
        }
    }

    /// Connects again, after the server closed.
    pub(crate) async fn reopen(&mut self) -> io::Result<()> {
        self.stream = connect(self.server).await?;
        Ok(())
    }
}

async fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The status of the answer in `bytes`, or `None` while some of it is missing.
fn complete_answer(bytes: &[u8]) -> io::Result<Option<u16>> {
    let Some(head_bytes) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = str::from_utf8(bytes.get(..head_bytes).unwrap_or_default()).map_err(io::Error::other)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|word| word.parse().ok());
    let body_bytes = lines
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.parse::<usize>().ok());
    let (Some(status), Some(body_bytes)) = (status, body_bytes) else {
        return Err(io::Error::other("an answer without a status or a length"));
    };
    Ok((bytes.len() >= head_bytes + 4 + body_bytes).then_some(status))
}
