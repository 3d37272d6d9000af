//! The standard metrics of a process, with the names of Prometheus' client libraries, read from `/proc` at each scrape. The `process`
//! feature of the prometheus crate counts only whole seconds of CPU time, and adds a second rustix.

use std::fs;

use prometheus::Counter;
use prometheus::IntGauge;
use prometheus::core::Collector;
use prometheus::core::Desc;
use prometheus::proto::MetricFamily;
use rustix::param::clock_ticks_per_second;
use rustix::param::page_size;
use rustix::process::Resource;
use rustix::process::getrlimit;

use crate::clock;

/// See the [module](self).
pub(super) struct ProcessCollector {
    cpu_seconds: Counter,
    resident_bytes: IntGauge,
    virtual_bytes: IntGauge,
    threads: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    start_time_seconds: IntGauge,
}

impl ProcessCollector {
    /// For this process. Called at its start.
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let start_time_seconds =
            IntGauge::new("process_start_time_seconds", "When the process started, in seconds since the Unix epoch.")?;
        start_time_seconds.set(clock::wall().0 / 1000);
        Ok(Self {
            cpu_seconds: Counter::new("process_cpu_seconds_total", "CPU time spent, user and system, in seconds.")?,
            resident_bytes: IntGauge::new("process_resident_memory_bytes", "Resident memory, in bytes.")?,
            virtual_bytes: IntGauge::new("process_virtual_memory_bytes", "Virtual memory, in bytes.")?,
            threads: IntGauge::new("process_threads", "Threads of the process.")?,
            open_fds: IntGauge::new("process_open_fds", "Open file descriptors.")?,
            max_fds: IntGauge::new("process_max_fds", "The limit of open file descriptors.")?,
            start_time_seconds,
        })
    }

    fn metrics(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu_seconds,
            &self.resident_bytes,
            &self.virtual_bytes,
            &self.threads,
            &self.open_fds,
            &self.max_fds,
            &self.start_time_seconds,
        ]
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.metrics().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        if let Some(stat) = Stat::parse(&text) {
            let grown = stat.cpu_seconds - self.cpu_seconds.get();
            self.cpu_seconds.inc_by(grown.max(0.0));
            self.resident_bytes.set(stat.resident_bytes);
            self.virtual_bytes.set(stat.virtual_bytes);
            self.threads.set(stat.threads);
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // One of them is for reading the directory.
            self.open_fds.set(signed(open.count().saturating_sub(1) as u64));
        }
        if let Some(limit) = getrlimit(Resource::Nofile).current {
            self.max_fds.set(signed(limit));
        }
        self.metrics().into_iter().flat_map(Collector::collect).collect()
    }
}

/// The fields of `/proc/self/stat`, see `proc_pid_stat(5)`.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    threads: i64,
    virtual_bytes: i64,
    resident_bytes: i64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field, the name, may contain anything; the third begins after its closing parenthesis.
        let (_name, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let number = |nth: usize| fields.get(nth.checked_sub(3)?)?.parse::<u64>().ok();
        #[expect(clippy::cast_precision_loss, reason = "exact for some millions of years")]
        let cpu_seconds = (number(14)? + number(15)?) as f64 / clock_ticks_per_second() as f64;
        Some(Self {
            cpu_seconds,
            threads: signed(number(20)?),
            virtual_bytes: signed(number(23)?),
            resident_bytes: signed(number(24)? * page_size() as u64),
        })
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stat_of_a_process_is_read_whatever_its_name() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194560 3084 0 0 0 250 50 0 0 20 0 9 0 1234 99000000 1500 0 1 1";
        let expected = Stat {
            cpu_seconds: 300.0 / clock_ticks_per_second() as f64,
            threads: 9,
            virtual_bytes: 99_000_000,
            resident_bytes: signed(1500 * page_size() as u64),
        };
        assert_eq!(Stat::parse(text), Some(expected));
        for broken in ["", "7 (callbridge)", "7 (callbridge) S 1 7", &text.replace("99000000", "x")] {
            assert_eq!(Stat::parse(broken), None, "{broken}");
        }
    }
}
