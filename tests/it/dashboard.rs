//! The Grafana dashboard: what its generator makes, strictly checked, and every expression with data from a real Prometheus.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::time::Duration;

use callbridge::clock;
use serde_json::Value;
use tempfile::NamedTempFile;
use tempfile::TempDir;

use crate::documents;
use crate::proxies::missing;
use crate::seeds;
use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::http::Client;
use crate::support::http::callback_target;
use crate::support::kafka::Kafka;
use crate::support::load::Load;
use crate::support::prometheus::Server;
use crate::support::real;

/// From the first scrape until every expression has a value, on a busy machine.
const DATA: Duration = Duration::from_secs(90);

/// Metrics that are neither on the dashboard nor in a rule, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("callbridge_topic_full_total", "the lost callbacks of reason topic_full are on the dashboard and page"),
    ("callbridge_build_info", "a constant"),
    ("process_start_time_seconds", "in a rule; on the dashboard a restart is a gap"),
    ("callbridge_journal_compactions_total", "the bytes that they copy and win are on the dashboard"),
    ("process_threads", "does not change"),
    ("process_virtual_memory_bytes", "says nothing about memory in use"),
    ("process_virtual_memory_max_bytes", "a constant"),
];

/// Metrics that have no series before something happens to a topic, or on a system that cannot tell.
const SOMETIMES: &[&str] = &[
    "callbridge_journal_undelivered_bytes",
    "callbridge_kafka_watchdog_restarts_total",
    "callbridge_phase",
    "callbridge_ready",
    "callbridge_topic_oldest_undelivered_seconds",
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
];

#[test]
fn the_dashboard_is_what_its_generator_makes_and_a_wrong_option_is_found() {
    let go = Command::new("go").arg("version").output();
    if real::found_or_skipped(go.map(drop).map_err(|_missing| "there is no go".to_owned())).is_none() {
        return;
    }
    let made = generator(&[]);
    assert!(made.status.success(), "{made:?}");
    assert!(made.stdout == shipped().into_bytes(), "make dashboard makes it anew");
    let folder = TempDir::with_prefix_in("dashboard-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (part, other) in [("\"legendFormat\"", "\"legendFormatt\""), ("\"fillOpacity\"", "\"fillOpacty\"")] {
        let path = folder.path().join("planted.json");
        fs::write(&path, shipped().replacen(part, other, 1)).unwrap();
        assert!(!generator(&[path.to_str().unwrap()]).status.success(), "{other}");
    }
}

#[test]
fn every_panel_has_a_title_a_unit_a_description_and_a_chosen_source() {
    let panels = panels();
    assert!(panels.len() > 40);
    for panel in &panels {
        for field in ["title", "description"] {
            assert!(panel[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {panel}");
        }
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "unit of {panel}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}");
        for expression in expressions_of(panel) {
            assert!(expression.contains("job=~\"$job\", instance=~\"$instance\""), "{expression}");
            let ranges = expression.matches('[').count();
            assert_eq!(ranges, expression.matches("[$__rate_interval]").count(), "{expression}");
            let quantiles = expression.matches("histogram_quantile").count();
            assert_eq!(quantiles, expression.matches("sum by (le)").count(), "{expression}");
        }
    }
    assert!(shipped().contains("\"type\": \"datasource\"") && !shipped().contains("__inputs"));
}

#[test]
fn every_metric_is_on_the_dashboard_or_in_a_rule_and_every_expression_has_data() {
    if missing("prometheus") || missing("promtool") {
        return;
    }
    let Some(kafka) = Kafka::shared() else { return };
    let brokers = kafka.bootstrap();
    let builder = Bridge::builder().brokers(&brokers).topics("dashboard");
    let bridge = builder.settings("callbacks.keep_accepting_ms = 0\nblocklist.topic = \"dashboard-blocklist\"").start();
    let load = Load::start_at_rate(bridge.callbacks, APP, 4, 1, 200);
    let (scraped, names) = scraped(&bridge);
    assert_promtool_accepts(&scraped);
    let known = [&shipped(), &rules()].map(|text| names_in(text)).concat();
    for name in &names {
        let is_excepted = EXCEPTIONS.iter().any(|(excepted, _why)| excepted == name);
        assert!(known.contains(name) || is_excepted, "{name} is nowhere");
    }
    for name in known {
        assert!(
            names.contains(&name) || SOMETIMES.contains(&name.as_str()) || EXCEPTIONS.iter().any(|it| it.0 == name),
            "{name} is no metric:\n{scraped}"
        );
    }
    let prometheus = Server::prometheus([
        &|config| config.replace("127.0.0.1:9464", &bridge.admin.to_string()).replace("15s", "1s"),
        &|rules| rules,
    ]);
    let panels = panels();
    let expressions: Vec<String> = panels.iter().flat_map(expressions_of).collect();
    let has_series = |expression: &&String| {
        // Only topics in trouble have one.
        let is_missing = |name: &str| expression.contains(name) && !names.contains(name);
        !expression.starts_with("topk(") && !SOMETIMES.iter().any(|name| is_missing(name))
    };
    let mut left: Vec<&String> = expressions.iter().filter(has_series).collect();
    let mut sender = Client::connect(bridge.callbacks).unwrap();
    let deadline = clock::monotonic() + DATA;
    while !left.is_empty() {
        assert!(clock::monotonic() < deadline, "no finite value within {DATA:?}: {left:#?}");
        let seed = seeds::BEFORE_ADD_SUBSCRIBER;
        sender.post(&callback_target(APP, seed.command), seed.body.as_bytes()).unwrap();
        left.retain(|expression| prometheus.query(&filled(expression)).unwrap().is_empty());
    }
    for (page, expression) in documented_expressions() {
        prometheus.query(&expression).unwrap_or_else(|error| panic!("{page}: {expression}: {error}"));
    }
    assert_rules_are_healthy(&prometheus);
    load.stop();
}

/// `promtool check metrics` finds no missing HELP, no wrong suffix and no unit other than a base unit.
fn assert_promtool_accepts(scraped: &str) {
    let mut file = NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.write_all(scraped.as_bytes()).unwrap();
    let input = file.reopen().unwrap();
    let output = Command::new("promtool").args(["check", "metrics"]).stdin(input).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// Every rule was evaluated, and without an error.
fn assert_rules_are_healthy(prometheus: &Server) {
    let url = format!("http://{}/api/v1/rules", prometheus.address);
    let rules = Command::new("curl").args(["-sS", &url]).output().unwrap().stdout;
    let rules: Value = serde_json::from_slice(&rules).unwrap();
    for group in rules["data"]["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            assert_eq!(rule["health"], "ok", "{rule}");
        }
    }
}

/// The text of a scrape, and the names in it; a histogram counts once.
fn scraped(bridge: &Bridge) -> (String, BTreeSet<String>) {
    let (status, text) = bridge.admin_page("/metrics");
    assert_eq!(status, 200);
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).map(str::to_owned);
    let names = names.collect();
    (text, names)
}

/// Names of metrics that a text names.
fn names_in(text: &str) -> Vec<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let names = words.filter(|word| word.starts_with("callbridge_") || word.starts_with("process_"));
    let base = |name: &str| name.strip_suffix("_bucket").or(name.strip_suffix("_count")).unwrap_or(name).to_owned();
    names.map(base).collect()
}

fn filled(expression: &str) -> String {
    expression.replace("$job", ".+").replace("$instance", ".+").replace("$__rate_interval", "20s")
}

/// The blocks of PromQL in the operators' documents and runbook pages.
fn documented_expressions() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for page in documents::pages() {
        let text = fs::read_to_string(root().join(&page)).unwrap();
        for block in text.split("```promql\n").skip(1) {
            found.push((page.clone(), block.split("```").next().unwrap().trim().to_owned()));
        }
    }
    assert!(found.len() > 20);
    found
}

/// Of all panels that are no rows.
fn panels() -> Vec<Value> {
    let dashboard: Value = serde_json::from_str(&shipped()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels.filter(|panel| panel["type"] != "row").cloned().collect()
}

fn expressions_of(panel: &Value) -> Vec<String> {
    let targets = panel["targets"].as_array().unwrap();
    targets.iter().map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

fn generator(args: &[&str]) -> Output {
    let folder = root().join("deploy/grafana/generator");
    Command::new("go").args(["run", "."]).args(args).current_dir(folder).output().unwrap()
}

fn shipped() -> String {
    fs::read_to_string(root().join("deploy/grafana/dashboard.json")).unwrap()
}

fn rules() -> String {
    fs::read_to_string(root().join("deploy/prometheus/callbridge.rules.yaml")).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
