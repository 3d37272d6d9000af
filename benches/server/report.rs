//! What was measured: as a table while it grows, as targets met or missed, and as JSON.

use std::env;
use std::fs;
use std::io;
use std::thread;

use serde::Serialize;

use crate::journal::Figures;
use crate::options::Mode;
use crate::options::OUTPUT;
use crate::pair::Pair;
use crate::pair::median;
use crate::sample::Sample;

pub(crate) const MIB: f64 = 1024.0 * 1024.0;

/// `memory` mode at 64 connections may cost this many times bare hyper's CPU time.
const CPU_RATIO_MAX: f64 = 1.5;
/// The same with signatures that are checked.
const SIGNED_CPU_RATIO_MAX: f64 = 1.6;
/// `broker` mode's median latency at one connection.
const BROKER_P50_MICROS_MAX: f64 = 2500.0;
/// `journal` mode at 64 connections may cost this many times bare hyper's CPU time.
const JOURNAL_CPU_RATIO_MAX: f64 = 1.8;
/// `journal` mode's median latency at one connection, on a disk that syncs in 150 µs.
const JOURNAL_P50_MICROS_MAX: f64 = 500.0;
/// What `journal` mode sustains, in callbacks a second, the load on the same cores.
const JOURNAL_RATE_MIN: f64 = 40_000.0;
/// From the start to ready, with an empty journal.
const JOURNAL_READY_MILLIS_MAX: f64 = 100.0;
/// How fast a journal is recovered, in megabytes a second.
const JOURNAL_RECOVERY_MIN: f64 = 300.0;
/// Memory of an idle server.
const IDLE_MIB_MAX: f64 = 25.0;

/// Everything measured so far, and where.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    origin: Origin,
    idle: Vec<Idle>,
    beside_bare: Vec<Pair>,
    beside_other: Vec<Pair>,
    frozen_broker: Vec<Pair>,
    slow_elsewhere: Option<Pair>,
    slow_senders: Option<Pair>,
    signed: Option<Pair>,
    journal: Option<Figures>,
    /// Something that was asked for is missing.
    pub(crate) failed: bool,
}

/// Where and how something was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Origin {
    /// The processor, its cores and the kernel.
    pub(crate) machine: String,
    pub(crate) command: String,
    pub(crate) broker: String,
}

impl Origin {
    /// This machine and this process.
    pub(crate) fn new(broker: String) -> Self {
        let mut command = "cargo bench --bench server --".to_owned();
        command.extend(env::args().skip(1).filter(|argument| argument != "--bench").map(|word| format!(" {word}")));
        Self { machine: machine(), command, broker }
    }
}

/// The memory of a server that nothing was sent to.
#[derive(Debug, Serialize)]
struct Idle {
    server: &'static str,
    bytes: u64,
}

impl Report {
    /// An empty report of this machine.
    pub(crate) fn new(broker: String) -> Self {
        Self {
            origin: Origin::new(broker),
            idle: Vec::new(),
            beside_bare: Vec::new(),
            beside_other: Vec::new(),
            frozen_broker: Vec::new(),
            slow_elsewhere: None,
            slow_senders: None,
            signed: None,
            journal: None,
            failed: false,
        }
    }

    pub(crate) fn print_head(&self) {
        let Origin { machine, command, broker } = &self.origin;
        println!("machine  {machine}\ncommand  {command}\nbroker   {broker}\n");
        println!(
            "{:8} {:>5} {:15} {:>8} {:>8} {:>8} {:>8} {:>7} {:>18} {:>8} {:>8}",
            "mode",
            "conns",
            "server",
            "req/s",
            "p50 µs",
            "p99 µs",
            "p99.9 µs",
            "CPU µs",
            "ratio (min-max)",
            "peak MiB",
            "drain ms"
        );
    }

    /// Adds a server's idle memory: bare hyper's first, then callbridge's under its mode.
    pub(crate) fn idle(&mut self, server: &'static str, bytes: u64) {
        self.idle.push(Idle { server, bytes });
    }

    /// Adds and prints callbridge beside bare hyper.
    pub(crate) fn beside_bare(&mut self, pair: Pair) {
        print_pair(&pair, ["bare hyper", "callbridge"], &ratio_text(pair.ratio(|sample| sample.cpu_micros)));
        self.beside_bare.push(pair);
    }

    /// Adds and prints callbridge beside another build of it.
    pub(crate) fn beside_other(&mut self, pair: Pair) {
        print_pair(&pair, ["other build", "callbridge"], &ratio_text(pair.ratio(|sample| sample.cpu_micros)));
        self.beside_other.push(pair);
    }

    /// Adds and prints the before-decision with a healthy and with a frozen broker.
    pub(crate) fn frozen(&mut self, pair: Pair) {
        print_pair(&pair, ["before", "before, frozen"], &ratio_text(pair.ratio(|sample| sample.load.p99)));
        self.frozen_broker.push(pair);
    }

    /// Adds and prints a good sender alone, and while slow ones bother another server on the same machine.
    pub(crate) fn slow_elsewhere(&mut self, pair: Pair) {
        print_pair(&pair, ["good", "slow elsewhere"], &ratio_text(pair.ratio(|sample| sample.load.p99)));
        self.slow_elsewhere = Some(pair);
    }

    /// Adds and prints a good sender while slow ones bother another server, and while they bother its own.
    pub(crate) fn bothered(&mut self, pair: Pair) {
        print_pair(&pair, ["slow elsewhere", "1000 slow"], &ratio_text(pair.ratio(|sample| sample.load.p99)));
        self.slow_senders = Some(pair);
    }

    /// Adds and prints signed callbacks beside bare hyper, which does not look at the signature.
    pub(crate) fn signed(&mut self, pair: Pair) {
        print_pair(&pair, ["bare hyper", "signed"], &ratio_text(pair.ratio(|sample| sample.cpu_micros)));
        self.signed = Some(pair);
    }

    /// Adds what only the journal has.
    pub(crate) const fn journal(&mut self, figures: Figures) {
        self.journal = Some(figures);
    }

    pub(crate) fn print_targets(&self) {
        println!(
            "\nratio: of CPU µs to bare hyper's; of p99 to the healthy broker's where the broker is frozen, and to the row \
             above where there are slow senders\n"
        );
        for idle in &self.idle {
            println!("idle RSS, {}: {:.1} MiB", idle.server, idle.bytes as f64 / MIB);
        }
        let ours_idle = self.idle.iter().skip(1).map(|idle| idle.bytes as f64 / MIB).max_by(f64::total_cmp);
        print_target("idle RSS, MiB", ours_idle, IDLE_MIB_MAX);
        let [_, ratio, _] =
            self.pair(Mode::Memory, 64).map_or([f64::NAN; 3], |pair| pair.ratio(|sample| sample.cpu_micros));
        print_target("CPU ratio, memory mode, 64 connections", Some(ratio), CPU_RATIO_MAX);
        let signed = self.signed.as_ref().map(|pair| pair.ratio(|sample| sample.cpu_micros)[1]);
        print_target("CPU ratio, memory mode, signed, 64 connections", signed, SIGNED_CPU_RATIO_MAX);
        let p50 = self.pair(Mode::Broker, 1).map(|pair| median(&pair.subject, |sample| sample.load.p50));
        print_target("p50 µs, broker mode, 1 connection", p50, BROKER_P50_MICROS_MAX);
        self.print_journal_targets();
    }

    fn print_journal_targets(&self) {
        let at = |connections| self.pair(Mode::Journal, connections);
        let ratio = at(64).map(|pair| pair.ratio(|sample| sample.cpu_micros)[1]);
        print_target("CPU ratio, journal mode, 64 connections", ratio, JOURNAL_CPU_RATIO_MAX);
        let p50 = at(1).map(|pair| median(&pair.subject, |sample| sample.load.p50));
        print_target("p50 µs, journal mode, 1 connection", p50, JOURNAL_P50_MICROS_MAX);
        let most = self.beside_bare.iter().filter(|pair| pair.mode == Mode::Journal.name());
        let rates = most.map(|pair| median(&pair.subject, |sample| sample.load.taken as f64 / sample.load.seconds));
        print_least("callbacks/s, journal mode", rates.max_by(f64::total_cmp), JOURNAL_RATE_MIN);
        let figures = self.journal;
        print_target("ms to ready, empty journal", figures.map(|of| of.ready_millis), JOURNAL_READY_MILLIS_MAX);
        let recovery = figures.map(|of| of.recovery_megabytes_per_second);
        print_least("MB/s recovered", recovery, JOURNAL_RECOVERY_MIN);
        if let Some(figures) = figures {
            println!("the disk's own fdatasync of one block: {:.0} µs", figures.sync_micros);
            println!("recovered: {} bytes", figures.recovered_bytes);
        }
    }

    /// Writes `server.json` into the output folder.
    pub(crate) fn write(&self) -> io::Result<()> {
        fs::write(format!("{OUTPUT}/server.json"), serde_json::to_string_pretty(self)?)
    }

    fn pair(&self, mode: Mode, connections: usize) -> Option<&Pair> {
        self.beside_bare.iter().find(|pair| pair.mode == mode.name() && pair.connections == connections)
    }
}

fn print_pair(pair: &Pair, names: [&str; 2], ratio: &str) {
    for (name, samples, ratio) in [(names[0], &pair.base, ""), (names[1], &pair.subject, ratio)] {
        let of = |figure: fn(&Sample) -> f64| median(samples, figure);
        println!(
            "{:8} {:>5} {name:15} {:>8.0} {:>8.0} {:>8.0} {:>8.0} {:>7.1} {ratio:>18} {:>8.1} {:>8.0}",
            pair.mode,
            pair.connections,
            of(|sample| sample.load.taken as f64 / sample.load.seconds),
            of(|sample| sample.load.p50),
            of(|sample| sample.load.p99),
            of(|sample| sample.load.p999),
            of(|sample| sample.cpu_micros),
            of(|sample| sample.peak_bytes as f64 / MIB),
            of(|sample| sample.drain_seconds * 1e3),
        );
        let lost: u64 = samples.iter().map(|sample| sample.load.not_taken + sample.load.unanswered).sum();
        if lost > 0 {
            println!("         ^ {lost} callbacks were not answered with 200");
        }
    }
}

fn print_target(what: &str, figure: Option<f64>, max: f64) {
    match figure {
        Some(figure) if figure <= max => println!("met     {what}: {figure:.2} of at most {max}"),
        Some(figure) if figure > max => println!("MISSED  {what}: {figure:.2} of at most {max}"),
        Some(_) | None => println!("absent  {what}: at most {max}"),
    }
}

fn print_least(what: &str, figure: Option<f64>, min: f64) {
    match figure {
        Some(figure) if figure >= min => println!("met     {what}: {figure:.0} of at least {min}"),
        Some(figure) if figure < min => println!("MISSED  {what}: {figure:.0} of at least {min}"),
        Some(_) | None => println!("absent  {what}: at least {min}"),
    }
}

fn ratio_text([least, median, greatest]: [f64; 3]) -> String {
    format!("{median:.2} ({least:.2}-{greatest:.2})")
}

fn machine() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{}, {cores} cores, Linux {}", model.trim_matches([' ', '\t', ':']), kernel.trim())
}
