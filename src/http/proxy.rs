//! The PROXY protocol header, versions 1 and 2: what a proxy sends first on a connection to name its client.
//!
//! Nothing behind the header is read: it belongs to TLS or HTTP.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;

/// The beginning of a version 2 header.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest version 1 line, with its end.
const LINE_MAX: usize = 107;
/// The longest remainder of a version 2 header: room for all existing extensions.
const REST_MAX: usize = 4096;

/// Reads the header. Returns the client that it names, or `None` for a connection of the proxy itself, such as a health check.
///
/// # Errors
///
/// The header is missing or invalid. The connection must then be closed.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    // The shortest valid header is longer.
    let mut begin = [0; SIGNATURE.len()];
    stream.read_exact(&mut begin).await?;
    if begin == *SIGNATURE { binary(stream).await } else { text(stream, &begin).await }
}

/// Reads byte by byte, so that nothing behind the line is consumed: it is short, and a connection has only one.
async fn text(stream: &mut (impl AsyncRead + Unpin), begin: &[u8]) -> io::Result<Option<SocketAddr>> {
    let mut line = begin.to_vec();
    if !line.starts_with(b"PROXY ") {
        return Err(bad());
    }
    while !line.ends_with(b"\r\n") {
        if line.len() == LINE_MAX {
            return Err(bad());
        }
        line.push(stream.read_u8().await?);
    }
    let line = str::from_utf8(&line).map_err(|_no_text| bad())?;
    let words: Vec<&str> = line.trim_end_matches("\r\n").split(' ').collect();
    match *words {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", "TCP4", source, _, port, _] => {
            let source: Ipv4Addr = source.parse().map_err(|_no_address| bad())?;
            Ok(Some((source, port.parse().map_err(|_no_port| bad())?).into()))
        }
        ["PROXY", "TCP6", source, _, port, _] => {
            let source: Ipv6Addr = source.parse().map_err(|_no_address| bad())?;
            Ok(Some((source, port.parse().map_err(|_no_port| bad())?).into()))
        }
        _ => Err(bad()),
    }
}

async fn binary(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let version_and_command = stream.read_u8().await?;
    let family = stream.read_u8().await?;
    let length = usize::from(stream.read_u16().await?);
    if length > REST_MAX {
        return Err(bad());
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    match (version_and_command, family) {
        // LOCAL: a connection of the proxy itself.
        (0x20, _) => Ok(None),
        // TCP over IPv4 and over IPv6: both addresses, then both ports.
        (0x21, 0x11) => {
            let source: [u8; 4] = part(&rest, 0)?;
            Ok(Some((IpAddr::from(source), u16::from_be_bytes(part(&rest, 8)?)).into()))
        }
        (0x21, 0x21) => {
            let source: [u8; 16] = part(&rest, 0)?;
            Ok(Some((IpAddr::from(source), u16::from_be_bytes(part(&rest, 32)?)).into()))
        }
        // The client has no address, as on a Unix socket.
        (0x21, _) => Ok(None),
        _ => Err(bad()),
    }
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> io::Result<[u8; N]> {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied().ok_or_else(bad)
}

fn bad() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(bytes: &[u8]) -> (io::Result<Option<SocketAddr>>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut rest = bytes;
        let read = runtime.block_on(read(&mut rest));
        (read, rest.len())
    }

    fn binary_header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    #[test]
    fn the_client_is_read_and_nothing_behind_it() {
        let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[9], &[0; 16], &[0x12, 0x34, 0, 80], b"extension"].concat();
        for (header, expected) in [
            (b"PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\n".to_vec(), Some("203.0.113.9:56324")),
            (b"PROXY TCP6 2001:db8::9 ::1 4660 443\r\n".to_vec(), Some("[2001:db8::9]:4660")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (binary_header(0x21, 0x11, &[203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x34, 0, 80]), Some("203.0.113.9:4660")),
            (binary_header(0x21, 0x21, &v6), Some("[2001:db8::9]:4660")),
            (binary_header(0x20, 0x00, b""), None),
            (binary_header(0x20, 0x11, b"whatever"), None),
            (binary_header(0x21, 0x31, &[0; 216]), None),
        ] {
            let (read, rest) = read_all(&[&header[..], b"POST /"].concat());
            let expected: Option<SocketAddr> = expected.map(|address| address.parse().expect("an address"));
            assert_eq!((read.expect("a good header"), rest), (expected, 6), "{header:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_an_error() {
        for bytes in [
            b"POST / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 56324".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::9 ::1 1 2\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 65536 443\r\n".to_vec(),
            b"PROXY TCP5 203.0.113.9 10.0.0.1 1 443\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 1 443\n".to_vec(),
            [&b"PROXY "[..], &[b'x'; 200], b"\r\n"].concat(),
            binary_header(0x11, 0x11, &[0; 12]),
            binary_header(0x22, 0x11, &[0; 12]),
            binary_header(0x21, 0x11, &[0; 9]),
            binary_header(0x21, 0x21, &[0; 33]),
            binary_header(0x20, 0x00, &[0; REST_MAX + 1]),
            SIGNATURE.to_vec(),
            b"PROX".to_vec(),
        ] {
            assert!(read_all(&bytes).0.is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        proptest::proptest!(|(rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), kind in 0..3)| {
            let begin: &[u8] = [&b""[..], &SIGNATURE[..], b"PROXY TCP4 "][usize::try_from(kind).expect("small")];
            let _read = read_all(&[begin, &rest].concat());
        });
    }
}
