//! The ledger in a scrape, and in the last line of stdout.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;

use callbridge::clock;

use crate::support::bridge;
use crate::support::http::Client;
use crate::support::wait;

/// The accounts, each summed over all labels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) received: u64,
    pub(crate) recovered: u64,
    pub(crate) refused: u64,
    pub(crate) lost: u64,
    pub(crate) delivered: u64,
    pub(crate) waiting: u64,
}

impl Ledger {
    /// From a scrape.
    pub(crate) fn of_scrape(metrics: &BTreeMap<String, f64>) -> Self {
        let total = |name: &str| {
            let samples = metrics.iter().filter(|(sample, _value)| sample.split('{').next() == Some(name));
            samples.map(|(_sample, value)| whole(*value)).sum()
        };
        Self {
            received: total("callbridge_callbacks_received_total"),
            recovered: total("callbridge_callbacks_recovered_total"),
            refused: total("callbridge_callbacks_refused_total"),
            lost: total("callbridge_callbacks_lost_total"),
            delivered: total("callbridge_callbacks_delivered_total"),
            waiting: total("callbridge_callbacks_waiting"),
        }
    }

    /// From the last line of stdout.
    ///
    /// # Panics
    /// If it has other accounts, or is missing.
    pub(crate) fn of_exit(line: &BTreeMap<String, u64>) -> Self {
        let names: Vec<&str> = line.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["delivered", "lost", "received", "recovered", "refused", "waiting"],
            "the ledger at the exit"
        );
        Self {
            received: line["received"],
            recovered: line["recovered"],
            refused: line["refused"],
            lost: line["lost"],
            delivered: line["delivered"],
            waiting: line["waiting"],
        }
    }

    /// Whether it balances.
    pub(crate) fn is_balanced(&self) -> bool {
        self.received + self.recovered == self.refused + self.lost + self.delivered + self.waiting
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be a whole number that is not negative, and counts are far below 2^53"
)]
fn whole(value: f64) -> u64 {
    assert!(value >= 0.0 && value.fract() == 0.0, "{value} is no count");
    value as u64
}

/// Scrapes repeatedly, and checks that the ledger balances each time.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    scrapes: JoinHandle<u64>,
}

impl Watch {
    /// Begins to scrape an admin listener, which may end before the watch does.
    pub(crate) fn start(admin: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let scrapes = {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut scrapes = 0;
                while !stop.load(Ordering::Relaxed) {
                    let began = clock::monotonic();
                    let response = Client::connect(admin).and_then(|mut it| it.request("GET", "/metrics", &[], b""));
                    if let Ok(response) = response {
                        let ledger = Ledger::of_scrape(&bridge::metrics(&response.text()));
                        assert!(ledger.is_balanced(), "{ledger:?}");
                        scrapes += 1;
                    }
                    wait::pause(began);
                }
                scrapes
            })
        };
        Self { stop, scrapes }
    }

    /// Returns the number of scrapes.
    ///
    /// # Panics
    /// If a scrape did not balance, or there was none.
    pub(crate) fn assert_balanced(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let scrapes = self.scrapes.join().expect("every scrape balances");
        assert!(scrapes > 0, "no scrape");
        scrapes
    }
}
