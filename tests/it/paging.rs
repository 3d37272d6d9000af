//! From a Kafka that acknowledges nothing to the page: a real Prometheus and a real Alertmanager with the shipped configurations.
//!
//! By default their intervals, and the windows of the one alert, are a tenth of what is shipped, so that it takes half a minute.
//! `make paging` sets `CALLBRIDGE_PAGING_REAL_TIME=1`: nothing is changed, and both pages arrive within 3 minutes.

use std::env;
use std::thread;
use std::time::Duration;

use callbridge::clock;
use serde_json::Value;

use crate::proxies::missing;
use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::kafka::Kafka;
use crate::support::load::Load;
use crate::support::process;
use crate::support::prometheus::Server;
use crate::support::stub::Stub;
use crate::support::wait;

const ALERT: &str = "CallbridgeKafkaTakesNothing";

#[test]
fn a_frozen_broker_and_one_that_is_gone_page_within_three_minutes() {
    if missing("prometheus") || missing("prometheus-alertmanager") {
        return;
    }
    let (Some(mut frozen), Some(mut gone)) = (Kafka::start(1), Kafka::start(1)) else { return };
    let bridges = [&frozen, &gone].map(|kafka| {
        let builder = Bridge::builder().brokers(&kafka.bootstrap()).args(&["--create-topics"]);
        builder.settings("callbacks.keep_accepting_ms = 0\ndrain_seconds = 1").start()
    });
    let loads = bridges.each_ref().map(|bridge| Load::start(bridge.callbacks, APP, 1, Duration::from_millis(100)));
    let receiver = Stub::start("200 OK");
    let time = Time::of_environment();
    let alertmanager = Server::alertmanager(|config| {
        time.scaled(&config, &["group_wait: 10s"]).replace("127.0.0.1:9099", &receiver.address.to_string())
    });
    let addresses = bridges.each_ref().map(|bridge| bridge.admin.to_string());
    let prometheus = Server::prometheus([
        &|config| {
            // Two jobs, as of two houses: Alertmanager groups by job.
            let (head, job) = config.split_once("scrape_configs:\n").unwrap();
            let jobs = addresses.each_ref().map(|address| {
                job.replace("127.0.0.1:9464", address)
                    .replace("job_name: callbridge", &format!("job_name: \"{address}\""))
            });
            let config = format!("{head}scrape_configs:\n{}", jobs.concat());
            let config = config.replace("127.0.0.1:9093", &alertmanager.address.to_string());
            time.scaled(&config, &["scrape_interval: 15s", "evaluation_interval: 15s"])
        },
        &|rules| time.scaled(&rules, &["[90s]", "for: 30s"]),
    ]);
    for address in &addresses {
        let delivered = format!("increase(callbridge_callbacks_delivered_total{{instance=\"{address}\"}}[1m]) > 0");
        wait::until("Prometheus sees deliveries", || !prometheus.query(&delivered).unwrap().is_empty());
    }
    assert!(receiver.bodies().is_empty(), "{:?}", receiver.bodies());

    let start = clock::monotonic();
    frozen.node(1).freeze();
    gone.node(1).kill();

    let mut waiting: Vec<&String> = addresses.iter().collect();
    while !waiting.is_empty() {
        let took = clock::monotonic().duration_since(start);
        assert!(took < time.limit, "no page of {waiting:?} of {addresses:?} (frozen, gone): {:#?}", receiver.bodies());
        waiting.retain(|address| !receiver.bodies().iter().any(|body| pages(body, address)));
        thread::sleep(process::POLL);
    }
    frozen.node(1).thaw();
    let of_frozen = format!("ALERTS{{alertname=\"{ALERT}\", alertstate=\"firing\", instance=\"{}\"}}", addresses[0]);
    wait::until("the alert ends when the broker goes on", || prometheus.query(&of_frozen).unwrap().is_empty());
    for load in loads {
        load.stop();
    }
}

/// Whether a notification says that the alert of this instance fires, as a page.
fn pages(body: &str, instance: &str) -> bool {
    let body: Value = serde_json::from_str(body).unwrap();
    let alerts = body["alerts"].as_array().unwrap();
    body["receiver"] == "page"
        && alerts.iter().any(|alert| {
            let labels = &alert["labels"];
            alert["status"] == "firing" && labels["alertname"] == ALERT && labels["instance"] == instance
        })
}

/// How fast it goes.
#[derive(Clone, Copy)]
struct Time {
    divisor: u64,
    limit: Duration,
}

impl Time {
    fn of_environment() -> Self {
        let is_real = env::var("CALLBRIDGE_PAGING_REAL_TIME").is_ok_and(|value| value == "1");
        // A slow machine does not slow down the real 3 minutes.
        if is_real {
            Self { divisor: 1, limit: Duration::from_secs(180) }
        } else {
            Self { divisor: 10, limit: Duration::from_secs(90) }
        }
    }

    /// The text with these durations divided; each stands in it.
    fn scaled(self, text: &str, durations: &[&str]) -> String {
        durations.iter().fold(text.to_owned(), |text, duration| {
            assert!(text.contains(duration), "{duration}");
            let digits: String = duration.chars().filter(char::is_ascii_digit).collect();
            let seconds = digits.parse::<u64>().unwrap();
            // Not below a second: Prometheus judges once a second at most here.
            let shorter = seconds.div_ceil(self.divisor).to_string();
            text.replace(duration, &duration.replace(&digits, &shorter))
        })
    }
}
