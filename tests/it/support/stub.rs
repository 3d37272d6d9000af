//! An HTTP server that answers everything with one status, and keeps the bodies that it was sent.

use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;

/// It runs as long as the process.
pub(crate) struct Stub {
    pub(crate) address: SocketAddr,
    bodies: Bodies,
}

type Bodies = Arc<Mutex<Vec<String>>>;

impl Stub {
    /// Answers with `status`, a code and its phrase.
    pub(crate) fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let bodies = Bodies::default();
        let kept = Arc::clone(&bodies);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = Arc::clone(&kept);
                // A connection that ends is an error too.
                thread::spawn(move || answer_all(BufReader::new(stream), status, &kept).unwrap_err());
            }
        });
        Self { address, bodies }
    }

    /// What it was sent so far.
    pub(crate) fn bodies(&self) -> Vec<String> {
        self.bodies.lock().unwrap().clone()
    }
}

fn answer_all(mut connection: BufReader<TcpStream>, status: &str, bodies: &Bodies) -> io::Result<()> {
    loop {
        let mut length = 0;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if connection.read_line(&mut line)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body)?;
        bodies.lock().unwrap().push(String::from_utf8_lossy(&body).into_owned());
        write!(connection.get_mut(), "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")?;
    }
}
