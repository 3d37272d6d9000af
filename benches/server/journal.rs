//! What only the journal has: the disk beneath it, how soon it is ready when it is empty, and how fast it recovers when it is not.

use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use callbridge::clock;
use rustix::process::Signal;
use serde::Serialize;

use crate::options::OUTPUT;
use crate::options::Options;
use crate::pair::median_of;
use crate::sample::Sample;
use crate::server;
use crate::server::Server;

/// What one commit writes at least, in bytes.
const BLOCK_BYTES: usize = 4096;
/// How often the disk is asked.
const SYNCS: usize = 1000;
/// How much of the journal is filled before it is recovered.
const FILL_SECONDS: f64 = 10.0;
/// How often each start is timed.
const STARTS: usize = 5;

/// What was measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Figures {
    /// The disk's own: the median of a `fdatasync` of one block of a file that has its place.
    pub(crate) sync_micros: f64,
    /// From the start of the process to the printed address, with an empty journal: the median.
    pub(crate) ready_millis: f64,
    /// What was found.
    pub(crate) recovered_bytes: u64,
    /// How much of it was read in a second, with the files in the page cache.
    pub(crate) recovery_megabytes_per_second: f64,
}

/// Measures all of it.
pub(crate) fn measure(options: &Options) -> io::Result<Figures> {
    let mut ready: Vec<f64> = Vec::new();
    for _ in 0..STARTS {
        Server::forget_journal(server::RECOVERED)?;
        let began = clock::monotonic();
        let _server = Server::with_journal(&options.program)?;
        ready.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Server::forget_journal(server::RECOVERED)?;
    let server = Server::with_journal(&options.program)?;
    Sample::fill(&server, if options.is_quick() { 1.0 } else { FILL_SECONDS }, false)?;
    server.process.signal(Signal::KILL)?;
    drop(server);
    let mut speeds = Vec::new();
    let mut recovered_bytes = 0;
    for _ in 0..STARTS {
        let _server = Server::with_journal(&options.program)?;
        let (bytes, took) = recovery()?;
        recovered_bytes = bytes;
        speeds.push(bytes as f64 / 1e6 / took.as_secs_f64());
    }
    Ok(Figures {
        sync_micros: sync_micros()?,
        ready_millis: median_of(ready.into_iter()),
        recovered_bytes,
        recovery_megabytes_per_second: median_of(speeds.into_iter()),
    })
}

/// What the log of the newest start says of its recovery.
fn recovery() -> io::Result<(u64, Duration)> {
    let log = fs::read_to_string(server::log(server::RECOVERED))?;
    let said = log
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|line| line.get("fields").cloned())
        .find_map(|fields| Some((fields.get("read_bytes")?.as_u64()?, fields.get("took_ms")?.as_u64()?)));
    let (bytes, millis) = said.ok_or_else(|| io::Error::other("the log does not tell of a recovery"))?;
    Ok((bytes, Duration::from_millis(millis.max(1))))
}

fn sync_micros() -> io::Result<f64> {
    let path = Path::new(OUTPUT).join("sync");
    let file = File::create(&path)?;
    file.write_all_at(&vec![0; BLOCK_BYTES * SYNCS], 0)?;
    file.sync_all()?;
    let mut took = Vec::new();
    for index in 0..SYNCS {
        file.write_all_at(&[1; BLOCK_BYTES], (index * BLOCK_BYTES) as u64)?;
        let began = clock::monotonic();
        file.sync_data()?;
        took.push(began.elapsed().as_secs_f64() * 1e6);
    }
    fs::remove_file(path)?;
    Ok(median_of(took.into_iter()))
}
