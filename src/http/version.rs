//! Which version of HTTP a connection speaks, where both are served: what TLS has agreed on, and without TLS what comes first.

use std::io;

use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time;

use super::connection::Patience;
use super::stream::Stream;

/// What TLS calls HTTP/2.
pub(super) const ALPN_HTTP2: &[u8] = b"h2";

/// What HTTP/2 begins with. No request of HTTP/1 does.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// HTTP/1.1 or 1.0, and everything that is no HTTP.
    One,
    /// HTTP/2.
    Two,
}

/// Waits until it is known what the connection speaks. Takes nothing from it. `None`: it said nothing for as long as a connection may be
/// idle, or not enough in the time of a head, or it failed.
pub(super) async fn spoken(stream: &Stream, patience: Patience, mut finish: watch::Receiver<bool>) -> Option<Version> {
    let stream = match stream {
        Stream::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2) => return Some(Version::Two),
        Stream::Tls(_) => return Some(Version::One),
        Stream::Plain(stream) => stream,
    };
    let first = async {
        time::timeout(patience.idle, first(stream, |_begin| Some(()))).await.ok()?.ok()?;
        time::timeout(patience.head, first(stream, version)).await.ok()?.ok()
    };
    tokio::select! {
        biased;
        version = first => version.map(|version| version.unwrap_or(Version::One)),
        // What has said nothing is ended as HTTP/1.1 is, whatever it would have spoken.
        _ordered = finish.wait_for(|finish| *finish) => Some(Version::One),
    }
}

/// What begins so, if that can be told yet.
fn version(begin: &[u8]) -> Option<Version> {
    match (PREFACE.starts_with(begin), begin.len() == PREFACE.len()) {
        (true, true) => Some(Version::Two),
        (true, false) => None,
        (false, _) => Some(Version::One),
    }
}

/// Looks at the first bytes, at least one, until `judge` can tell. `None`: the peer ended before.
async fn first<T>(stream: &TcpStream, judge: impl Fn(&[u8]) -> Option<T>) -> io::Result<Option<T>> {
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        let seen = stream.try_io(Interest::READABLE, || {
            let mut begin = [0; PREFACE.len()];
            let (count, _) = rustix::net::recv(stream, &mut begin, RecvFlags::PEEK)?;
            match begin.get(..count) {
                None | Some([]) => Ok(None),
                // What is looked at stays, so the wait for it would be over at once. With this it is over when more comes.
                Some(begin) => judge(begin).map(Some).ok_or_else(|| io::ErrorKind::WouldBlock.into()),
            }
        });
        match seen {
            // The end had come before this was seen: nothing more does.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            seen => return seen,
        }
    }
}
