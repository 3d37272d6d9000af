//! The ledger as metrics. All accounts of a scrape are read at the same moment, so they balance.

use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGaugeVec;
use prometheus::Opts;
use prometheus::core::Collector;
use prometheus::core::Desc;
use prometheus::proto::MetricFamily;

use std::sync::Mutex;
use std::sync::PoisonError;

use crate::command::Command;
use crate::ledger::Ledger;
use crate::refusal::LedgerAccount;
use crate::refusal::Reason;

/// The label of every command that is not in the table.
const OTHER: &str = "other";

/// Reads the ledger at each scrape.
pub(super) struct LedgerCollector {
    ledger: Ledger,
    // Scrapes may be concurrent; each must return numbers of one moment.
    accounts: Mutex<Accounts>,
    descriptions: Vec<Desc>,
}

struct Accounts {
    received: IntCounterVec,
    recovered: IntCounter,
    refused: IntCounterVec,
    lost: IntCounterVec,
    delivered: IntCounter,
    late: IntCounter,
    waiting: IntGaugeVec,
}

impl LedgerCollector {
    pub(super) fn new(ledger: Ledger) -> Result<Self, prometheus::Error> {
        let by_reason = |name, help| IntCounterVec::new(Opts::new(name, help), &["reason"]);
        let accounts = Accounts {
            received: IntCounterVec::new(
                Opts::new(
                    "callbridge_callbacks_received_total",
                    "Callbacks received, by command; other: commands that this version does not know.",
                ),
                &["command"],
            )?,
            recovered: IntCounter::new(
                "callbridge_callbacks_recovered_total",
                "Callbacks found in the journal at the start.",
            )?,
            refused: by_reason(
                "callbridge_callbacks_refused_total",
                "Callbacks refused because they were wrong, by reason.",
            )?,
            lost: by_reason(
                "callbridge_callbacks_lost_total",
                "Valid callbacks lost, by reason: their sender does not repeat them.",
            )?,
            delivered: IntCounter::new(
                "callbridge_callbacks_delivered_total",
                "Callbacks all records of which Kafka has acknowledged.",
            )?,
            late: IntCounter::new(
                "callbridge_callbacks_late_total",
                "Lost callbacks whose records were delivered to Kafka after all.",
            )?,
            waiting: IntGaugeVec::new(
                Opts::new(
                    "callbridge_callbacks_waiting",
                    "Callbacks in progress, by where they are: in the request, in the queue, or in the journal.",
                ),
                &["where"],
            )?,
        };
        let descriptions =
            accounts.collectors().into_iter().flat_map(|collector| collector.desc().into_iter().cloned()).collect();
        Ok(Self { ledger, accounts: Mutex::new(accounts), descriptions })
    }
}

impl Accounts {
    fn collectors(&self) -> [&dyn Collector; 7] {
        [&self.received, &self.recovered, &self.refused, &self.lost, &self.delivered, &self.late, &self.waiting]
    }

    fn update(&self, ledger: &Ledger) {
        let balance = ledger.read();
        let set = |counter: &IntCounter, value: u64| {
            counter.reset();
            counter.inc_by(value);
        };
        let labels = Command::all().map(Command::name).chain([OTHER]);
        for (label, received) in labels.zip(balance.received) {
            set(&self.received.with_label_values(&[label]), received);
        }
        set(&self.recovered, balance.recovered);
        for (reason, ended) in Reason::ALL.into_iter().zip(balance.ended) {
            let account = match reason.account() {
                LedgerAccount::Refused => &self.refused,
                LedgerAccount::Lost => &self.lost,
            };
            set(&account.with_label_values(&[reason.word()]), ended);
        }
        set(&self.delivered, balance.delivered);
        set(&self.late, balance.late);
        let waiting = [
            ("request", balance.waiting_request),
            ("queue", balance.waiting_queue),
            ("journal", balance.waiting_journal),
        ];
        for (place, waiting) in waiting {
            self.waiting.with_label_values(&[place]).set(i64::try_from(waiting).unwrap_or(i64::MAX));
        }
    }
}

impl Collector for LedgerCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.update(&self.ledger);
        accounts.collectors().into_iter().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::Encoder;
    use prometheus::Registry;
    use prometheus::TextEncoder;

    #[test]
    fn a_scrape_shows_every_account_with_every_label_from_the_start() {
        let (registry, ledger) = (Registry::new(), Ledger::default());
        registry.register(Box::new(LedgerCollector::new(ledger.clone()).unwrap())).unwrap();
        ledger.receive(Command::find("OfficialAccount.CallbackAfterAddSubscriber")).hand_over();
        ledger.queue();
        ledger.receive(None).end(Reason::AppUnknown);
        for _ in 0..2 {
            let mut text = Vec::new();
            TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            for line in [
                "callbridge_callbacks_received_total{command=\"OfficialAccount.CallbackAfterAddSubscriber\"} 1",
                "callbridge_callbacks_received_total{command=\"other\"} 1",
                "callbridge_callbacks_recovered_total 0",
                "callbridge_callbacks_refused_total{reason=\"app_unknown\"} 1",
                "callbridge_callbacks_lost_total{reason=\"queue_full\"} 0",
                "callbridge_callbacks_delivered_total 0",
                "callbridge_callbacks_waiting{where=\"queue\"} 1",
                "callbridge_callbacks_waiting{where=\"request\"} 0",
                "callbridge_callbacks_waiting{where=\"journal\"} 0",
            ] {
                assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
            }
        }
    }
}
