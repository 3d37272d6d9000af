//! `callbridge check --live`: planted faults, each named with what to do.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use callbridge::clock;
use serde_json::Value;
use tempfile::TempDir;

use crate::seeds::APP;
use crate::support::full_disk::FullDisk;
use crate::support::kafka::Kafka;
use crate::support::kafka::Settings;
use crate::support::ports;
use crate::support::wait;

/// `callbridge check --live` for three topics of callbacks below `prefix`, with free ports and a journal in `dir`.
fn check(properties: &[(String, String)], prefix: &str, dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callbridge"));
    command.args(["check", "--live", "--sdk-app-id", APP, "--topic-prefix", prefix, "--data-dir"]).arg(dir);
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    command.env("CALLBRIDGE_TOPICS_COMMANDS", "State.StateChange").env("CALLBRIDGE_TOPICS_PARTITIONS", "1");
    for (name, value) in properties {
        command.env(format!("CALLBRIDGE_KAFKA_{}", name.to_uppercase().replace('.', "_")), value);
    }
    command
}

/// The exit code, and all that was printed.
fn told(command: &mut Command) -> (i32, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let told = [stdout, stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (status.code().unwrap(), told)
}

fn assert_told(command: &mut Command, expected_code: i32, expected: &[&str]) {
    let (code, told) = told(command);
    assert_eq!(code, expected_code, "{told}");
    for line in expected {
        assert!(told.contains(line), "{line}\n\n{told}");
    }
}

fn create_topics(kafka: &Kafka, prefix: &str) {
    for name in ["State.StateChange", "unknown", "rejected"] {
        kafka.create_topic(&format!("{prefix}.{name}"), 1, 1);
    }
}

fn replaced(properties: &[(String, String)], name: &str, value: &str) -> Vec<(String, String)> {
    let others = properties.iter().filter(|(known, _)| known != name).cloned();
    others.chain([(name.to_owned(), value.to_owned())]).collect()
}

#[test]
fn doctor_names_wrong_passwords_protocols_certificates_and_missing_rights() {
    let Some(kafka) = Kafka::with(Settings { nodes: 1, tls_and_scram: true }) else { return };
    create_topics(&kafka, "secure");
    let (properties, dir) = (kafka.properties(), TempDir::new().unwrap());
    let check = |properties: &[(String, String)]| check(properties, "secure", dir.path());

    let began = clock::monotonic();
    let all_well = ["√ 1 brokers answer", "√ Kafka gives an idempotent producer its id", "√ 3 topics are there"];
    assert_told(&mut check(&properties), 0, &[&all_well[..], &["- not tried: --write"]].concat());
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    assert_told(check(&properties).arg("--write"), 0, &["√ secure.rejected: a record was written"]);

    let wrong = replaced(&properties, "sasl.password", "planted-secret");
    let (code, told) = told(&mut check(&wrong));
    assert!(code == 1 && told.contains("see sasl.username, sasl.password"), "{told}");
    assert!(!told.contains("planted-secret"), "{told}");
    let plaintext = replaced(&properties, "security.protocol", "sasl_plaintext");
    assert_told(&mut check(&plaintext), 1, &["× no broker answers", "set security.protocol to ssl or sasl_ssl"]);
    let untrusted: Vec<_> = properties.iter().filter(|(name, _)| name != "ssl.ca.location").cloned().collect();
    assert_told(&mut check(&untrusted), 1, &["× no broker answers", "set ssl.ca.location in [kafka]"]);

    kafka.forbid_writing("secure.rejected");
    assert_told(
        check(&properties).arg("--write"),
        1,
        &["× secure.rejected: a record cannot be written", "allow WRITE"],
    );
    kafka.forbid_describing_topics();
    wait::until("the settings are hidden", || self::told(&mut check(&properties)).1.contains("allow DESCRIBE_CONFIGS"));
}

#[test]
fn doctor_names_missing_and_wrong_topics_and_waits_for_them_where_asked() {
    let Some(kafka) = Kafka::shared() else { return };
    let dir = TempDir::new().unwrap();
    let check = || check(&kafka.properties(), "doctored", dir.path());
    assert_told(
        &mut check(),
        1,
        &["× doctored.State.StateChange, doctored.unknown, doctored.rejected: does not exist"],
    );
    assert_told(check().arg("--create-topics"), 0, &["‼ doctored.State.StateChange", "the start creates it"]);

    let waiting = check().args(["--json", "--wait", "60"]).stdout(Stdio::piped()).spawn().unwrap();
    create_topics(kafka, "doctored");
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let titles: Vec<&str> =
        json["sections"].as_array().unwrap().iter().map(|it| it["title"].as_str().unwrap()).collect();
    let expected = ["configuration", "files", "ports", "journal", "kafka", "topics", "blocklist topics", "write"];
    assert_eq!(titles, expected);

    kafka.alter_topic("doctored.unknown", &[("cleanup.policy", "compact"), ("max.message.bytes", "1000")]);
    kafka.alter_topic("doctored.rejected", &[("message.timestamp.type", "LogAppendTime")]);
    let expected = ["× doctored.unknown: cleanup.policy is compact", "set max.message.bytes=", "√ clock: within "];
    assert_told(check().arg("--write"), 1, &expected);
}

#[test]
fn doctor_names_ports_that_are_taken_and_brokers_that_are_not_there() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let nobody = ports::nobody();
    let servers = format!("{nobody},callbridge.invalid:9092");
    let mut command = Command::new(env!("CARGO_BIN_EXE_callbridge"));
    command.args(["check", "--live", "--sdk-app-id", APP, "--ack", "memory", "--listen", &address]);
    command.args(["--admin-listen", "192.0.2.1:9464", "--brokers", &servers]);
    let expected = [
        &format!("× callbacks.listen: cannot listen on {address}"),
        "ss -ltnp",
        "× admin.listen: cannot listen on 192.0.2.1:9464",
        "set an address of this machine",
        &format!("‼ bootstrap server {nobody} takes no connection"),
        "‼ bootstrap server callbridge.invalid:9092 cannot be resolved",
        "× no broker answers",
        "- ack is not journal",
    ];
    assert_told(&mut command, 1, &expected);
}

#[test]
fn doctor_names_journals_in_memory_in_a_file_and_on_a_full_disk() {
    let servers = [("bootstrap.servers".to_owned(), ports::nobody())];
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert_told(&mut check(&servers, "x", &file.join("journal")), 1, &["is not in a directory"]);
    let missing = folder.path().join("missing");
    assert_told(
        &mut check(&servers, "x", &missing),
        1,
        &["does not exist yet; the start makes it in", "one fsync took"],
    );
    assert!(!missing.exists());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    if let Ok(memory) = TempDir::new_in("/dev/shm") {
        assert_told(
            &mut check(&servers, "x", memory.path()),
            1,
            &["is in memory (tmpfs)", "journal.persistent = false"],
        );
    }
    let Some(disk) = FullDisk::mount(16) else { return };
    disk.fill();
    let expected = ["not more than journal.free_bytes_min", "cannot be written: No space left on device"];
    assert_told(&mut check(&servers, "x", disk.path()), 1, &expected);
}
