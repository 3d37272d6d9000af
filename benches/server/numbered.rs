//! Callbacks that can be told apart: which of them were answered with 200 is known one by one, and so Kafka can be searched for each.
//!
//! The load of `callbridge send` counts and does not remember. This one is slower, for it has a thread a connection.

use std::collections::BTreeSet;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use callbridge::send;
use callbridge::send::callbacks::Requests;

use crate::callback;
use crate::callback::Command;

/// Callbacks whose numbers differ by this have the same key.
const KEYS: usize = 1000;

/// What to send, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NumberedPlan<'a> {
    /// Each server has the same share of the connections.
    pub(crate) servers: &'a [SocketAddr],
    /// Senders. Each has a key of its own, and sends a callback when the one before was answered.
    pub(crate) senders: usize,
    /// Whether a sender goes from server to server with each callback.
    pub(crate) alternates: bool,
    pub(crate) is_signed: bool,
}

/// Senders at work.
pub(crate) struct NumberedLoad {
    is_over: Arc<AtomicBool>,
    senders: Vec<JoinHandle<Vec<u64>>>,
}

impl NumberedLoad {
    /// Starts all senders. Each ends by itself at the first failure.
    pub(crate) fn start(plan: &NumberedPlan<'_>) -> io::Result<Self> {
        let first = plan.servers.first().ok_or(io::ErrorKind::NotFound)?;
        // The host in the requests is the first server's; no server looks at it.
        let requests = Arc::new(Command::After.requests(*first, plan.is_signed)?);
        let is_over = Arc::new(AtomicBool::new(false));
        let start = |number: usize| {
            let mut servers: Vec<_> = plan.servers.iter().map(|server| (*server, None)).collect();
            servers.rotate_left(number % plan.servers.len());
            servers.truncate(if plan.alternates { servers.len() } else { 1 });
            let (requests, is_over) = (Arc::clone(&requests), Arc::clone(&is_over));
            let sender = Sender { servers, requests, number };
            thread::spawn(move || sender.run(&is_over))
        };
        let senders = (0..plan.senders).map(start).collect();
        Ok(Self { is_over, senders })
    }

    /// Ends all senders, and says of what times the events are whose callbacks were answered with 200.
    pub(crate) fn end(self) -> BTreeSet<u64> {
        self.is_over.store(true, Ordering::Relaxed);
        // A sender that panicked has said so, and what it knew is gone.
        self.senders.into_iter().flat_map(|sender| sender.join().unwrap_or_default()).collect()
    }
}

struct Sender {
    /// The connection to each is opened when it is needed.
    servers: Vec<(SocketAddr, Option<TcpStream>)>,
    requests: Arc<Requests>,
    number: usize,
}

impl Sender {
    fn run(mut self, is_over: &AtomicBool) -> Vec<u64> {
        let mut acknowledged = Vec::new();
        for number in (self.number..).step_by(KEYS) {
            let request = self.requests.first(number);
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            let server = number / KEYS % self.servers.len();
            match self.servers.get_mut(server).map(|(address, stream)| exchange(*address, stream, &request)) {
                Some(Ok(200)) => acknowledged.extend(callback::event_time(&request)),
                Some(Ok(_refused)) => {}
                Some(Err(_)) | None => break,
            }
        }
        acknowledged
    }
}

/// Sends a request and returns the status of its response.
fn exchange(address: SocketAddr, connection: &mut Option<TcpStream>, request: &[u8]) -> io::Result<u16> {
    let stream = match connection {
        Some(stream) => stream,
        None => connection.insert(connect(address)?),
    };
    stream.write_all(request)?;
    let mut response = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        response.extend_from_slice(piece.get(..read).unwrap_or_default());
        if let Some(status) = status(&response) {
            return Ok(status);
        }
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(send::RESPONSE_TIMEOUT + Duration::from_secs(1)))?;
    Ok(stream)
}

/// The status of a response with a length; `None` while some of it is missing.
fn status(response: &[u8]) -> Option<u16> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let head_bytes = match head.parse(response) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) | Err(_) => return None,
    };
    let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.and_then(|header| str::from_utf8(header.value).ok()?.parse().ok()).unwrap_or_default();
    (response.len() >= head_bytes + length).then_some(head.code)?
}
