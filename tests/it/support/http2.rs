//! A sender that speaks HTTP/2, by the crate h2, and frames written by hand for what it would not send.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::Builder;
use h2::client::ResponseFuture;
use h2::client::SendRequest;
use hyper::Request;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time;

/// Longer than any answer may take; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a connection begins with.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One connection without TLS, begun by prior knowledge.
pub(crate) struct Peer {
    runtime: Runtime,
    send: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// A request whose answer has not come.
pub(crate) struct Stream {
    response: ResponseFuture,
    pub(crate) body: h2::SendStream<Bytes>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Peer {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::with(address, &Builder::new())
    }

    /// With settings of its own.
    pub(crate) fn with(address: SocketAddr, builder: &Builder) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let (send, connection) = runtime.block_on(async {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            time::timeout(PATIENCE, builder.handshake(stream)).await.unwrap().unwrap()
        });
        let connection = runtime.spawn(connection);
        Self { runtime, send, connection }
    }

    /// Sends the head of a request, whose body follows.
    pub(crate) fn begin(&mut self, request: Request<()>) -> Result<Stream, h2::Error> {
        self.head(request, false)
    }

    fn head(&mut self, request: Request<()>, is_all: bool) -> Result<Stream, h2::Error> {
        let send = self.send.clone();
        let ready = self.runtime.block_on(async { time::timeout(PATIENCE, send.ready()).await.unwrap() });
        self.send = ready?;
        let (response, body) = self.send.send_request(request, is_all)?;
        Ok(Stream { response, body })
    }

    /// Sends a request with all of its body.
    pub(crate) fn send(&mut self, request: Request<()>, body: &[u8]) -> Result<Stream, h2::Error> {
        let mut stream = self.head(request, body.is_empty())?;
        if !body.is_empty() {
            stream.body.send_data(Bytes::copy_from_slice(body), true)?;
        }
        Ok(stream)
    }

    /// Waits for the answer.
    pub(crate) fn answer(&self, stream: Stream) -> Result<Answer, h2::Error> {
        self.runtime.block_on(async { time::timeout(PATIENCE, read(stream.response)).await.unwrap() })
    }

    /// Posts a body and reads the answer.
    pub(crate) fn post(&mut self, target: &str, body: &[u8]) -> Result<Answer, h2::Error> {
        let stream = self.send(post(target), body)?;
        self.answer(stream)
    }

    /// How many streams the other side allows at a time.
    pub(crate) fn streams_max(&self) -> usize {
        self.send.current_max_send_streams()
    }

    /// Waits until the other side ends the connection. An error if it did not end it in order.
    pub(crate) fn ended(self) -> Result<(), h2::Error> {
        let Self { runtime, send, connection } = self;
        let ended = runtime.block_on(async { time::timeout(PATIENCE, connection).await });
        drop(send);
        ended.expect("the connection ends").unwrap()
    }
}

async fn read(response: ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: bytes })
}

/// A POST to that target.
pub(crate) fn post(target: &str) -> Request<()> {
    Request::post(format!("http://callbridge.test{target}")).body(()).unwrap()
}

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A block of fields, none of them compressed. Texts are shorter than 255 bytes.
pub(crate) fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| match u8::try_from(text.len()).unwrap() {
        length @ 0..127 => [&[length], text.as_bytes()].concat(),
        length => [&[127, length - 127], text.as_bytes()].concat(),
    };
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}
