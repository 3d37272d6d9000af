//! What operators watch callbridge with: the alert rules and their runbook pages.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

use tempfile::TempDir;

use crate::support::real;

const RULES: &str = "callbridge.rules.yaml";
const TESTS: &str = "callbridge.rules.test.yaml";

#[test]
fn promtool_accepts_the_alert_rules_and_their_tests_pass() {
    if missing("promtool") {
        return;
    }
    let check = promtool(&folder(), &["check", "rules", "--lint=all", "--lint-fatal", RULES]);
    assert!(check.status.success(), "{check:?}");
    let test = promtool(&folder(), &["test", "rules", TESTS]);
    assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stdout));
}

#[test]
fn each_alert_has_a_severity_a_runbook_page_and_a_firing_and_a_silent_case() {
    let alerts = alerts();
    assert!(alerts.len() > 20, "{alerts:?}");
    let cases = cases();
    let names: BTreeSet<&str> = alerts.iter().map(|alert| alert.name.as_str()).collect();
    let tested: BTreeSet<&str> = cases.keys().map(String::as_str).collect();
    assert_eq!(names, tested);
    for alert in &alerts {
        let name = &alert.name;
        assert!(alert.text.contains("severity: page") || alert.text.contains("severity: ticket"), "{name}");
        for annotation in ["summary: ", "description: "] {
            assert!(alert.text.contains(annotation), "{name} has no {annotation}");
        }
        let page = format!("docs/runbooks/{name}.md");
        assert!(alert.text.contains(&format!("runbook_url: {page}")), "{name}");
        let text = fs::read_to_string(root().join(&page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.starts_with(&format!("# {name}\n")), "{page}");
        for heading in ["What it means", "How to see it", "What to do", "When to escalate"] {
            assert!(text.contains(&format!("\n## {heading}\n")), "{page} has no {heading}");
        }
        let (firing, silent) = cases[name];
        assert!(firing > 0 && silent > 0, "{name}: {firing} firing, {silent} silent cases");
    }
    let pages = fs::read_dir(root().join("docs/runbooks")).unwrap();
    let pages: BTreeSet<String> = pages.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let expected = names.iter().map(|name| format!("{name}.md")).collect();
    assert_eq!(pages, expected, "each page belongs to an alert");
}

#[test]
fn faults_planted_in_the_alert_rules_fail_their_tests() {
    if missing("promtool") {
        return;
    }
    let rules = read(RULES);
    for alert in alerts() {
        let name = &alert.name;
        let expression = alert.expression();
        let planted = |other: &str| rules.replacen(&alert.text, &alert.text.replacen(expression, other, 1), 1);
        assert!(passes(name, &rules), "{name}");
        assert!(!passes(name, &planted("expr: vector(1) == 0\n")), "{name} never fires");
        assert!(!passes(name, &planted("expr: vector(1)\n")), "{name} always fires");
    }
    for (name, part, other) in FAULTS {
        assert!(rules.contains(part), "{part}");
        assert!(!passes(name, &rules.replacen(part, other, 1)), "{name}: {part} -> {other}");
    }
}

/// Whether the cases of one alert pass with its rules of `rules`. Without all other rules and cases it takes a tenth of the time.
fn passes(alert: &str, rules: &str) -> bool {
    let folder = TempDir::with_prefix_in("rules-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let own = alerts_of(rules).into_iter().filter(|it| it.name == alert);
    let own: String = own.map(|it| format!("      - alert: {}\n", it.text)).collect();
    let tests = read(TESTS);
    let mut parts = tests.split("  - name: ");
    let head = parts.next().unwrap().to_owned();
    let cases = parts.filter(|case| case.starts_with(&format!("\"{alert}: ")));
    let cases: String = cases.map(|case| format!("  - name: {case}")).collect();
    fs::write(folder.path().join(RULES), format!("groups:\n  - name: planted\n    rules:\n{own}")).unwrap();
    fs::write(folder.path().join(TESTS), head + &cases).unwrap();
    promtool(folder.path(), &["test", "rules", TESTS]).status.success()
}

/// An alert, a part of the rules, and what a mistake would make of it.
const FAULTS: &[(&str, &str, &str)] = &[
    (
        "CallbridgeLosesCallbacks",
        "(callbridge_callbacks_lost_total unless callbridge_callbacks_lost_total offset 5m)\n            or ",
        "",
    ),
    ("CallbridgeKafkaTakesNothing", "callbridge_records_unreported > 0\n            or ", ""),
    ("CallbridgeKafkaTakesNothing", "and callbridge_kafka_brokers_up == 0", ""),
    ("CallbridgeKafkaTakesNothing", "callbridge_kafka_brokers_up == 0", "callbridge_kafka_brokers_up < 0"),
    ("CallbridgeKafkaTakesNothing", "{outcome=\"delivered\"}[90s])) == 0", "{outcome=\"delivered\"}[90s])) >= 0"),
    ("CallbridgeJournalFillsUp", "or callbridge_journal_full == 1", ""),
    (
        "CallbridgeJournalFillsUp",
        "and predict_linear(callbridge_journal_held_bytes[5m], 7200) > 0.9 * callbridge_journal_quota_bytes",
        "",
    ),
    ("CallbridgeDown", "[1h])) == 0\n          or on () absent(callbridge_connections)", "[1h])) == 0"),
    ("CallbridgeRestartLoop", "and on (namespace, job, instance) callbridge_connections", ""),
    (
        "CallbridgeCertificateExpires",
        "(callbridge_tls_certificate_expires_timestamp_seconds > 0)",
        "callbridge_tls_certificate_expires_timestamp_seconds",
    ),
    (
        "CallbridgeReplicaNotReady",
        "max by (namespace, job) (callbridge_ready) == 1",
        "max by (namespace, job) (callbridge_ready) == 0",
    ),
    ("CallbridgeConnectionsRefused", "or increase(callbridge_accept_errors_total[10m]) > 0", ""),
];

/// One alert rule.
#[derive(Debug)]
struct Alert {
    name: String,
    /// Its lines, from the name on.
    text: String,
}

impl Alert {
    /// The line or lines of `expr`.
    fn expression(&self) -> &str {
        let (_before, rest) = self.text.split_once("        expr: ").unwrap();
        let end = ["\n        for: ", "\n        labels: "].iter().filter_map(|next| rest.find(next)).min().unwrap();
        let start = self.text.len() - rest.len() - "expr: ".len();
        &self.text[start..=start + "expr: ".len() + end]
    }
}

fn alerts() -> Vec<Alert> {
    alerts_of(&read(RULES))
}

fn alerts_of(rules: &str) -> Vec<Alert> {
    let parts = rules.split("      - alert: ").skip(1);
    // What follows the last rule of a group is the next group.
    let parts = parts.map(|part| part.split("\n  - name: ").next().unwrap());
    let alert = |part: &str| Alert { name: part.lines().next().unwrap().to_owned(), text: part.to_owned() };
    parts.map(alert).collect()
}

/// How many firing and silent cases each alert has.
fn cases() -> BTreeMap<String, (usize, usize)> {
    let tests = read(TESTS);
    let mut cases = BTreeMap::<String, (usize, usize)>::new();
    for part in tests.split("- alertname: ").skip(1) {
        let count = cases.entry(part.lines().next().unwrap().to_owned()).or_default();
        if part.contains("exp_alerts: []") { count.1 += 1 } else { count.0 += 1 }
    }
    cases
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn folder() -> PathBuf {
    root().join("deploy/prometheus")
}

fn read(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

fn promtool(folder: &Path, words: &[&str]) -> Output {
    Command::new("promtool").args(words).current_dir(folder).output().unwrap()
}

/// Whether a program is missing, so that the test is skipped.
fn missing(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output();
    real::found_or_skipped(found.map(drop).map_err(|_missing| format!("there is no {program}"))).is_none()
}
