//! Topics read by clients that share no code with callbridge's own: confluent-kafka for Python, and kcat; and records parsed by the
//! official CloudEvents SDK for Python. (That for Rust has no Kafka binding for the rdkafka that is used here.)

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;
use serde_json::json;

use crate::support::kafka::Kafka;
use crate::support::reader::Record;
use crate::support::real;

/// Reads topics whole with confluent-kafka. Nothing when it is not there: the test shall return.
pub(crate) fn confluent_kafka(kafka: &Kafka, topics: &[&str]) -> Option<Vec<Record>> {
    let python = python()?;
    let config: serde_json::Map<String, Value> =
        kafka.properties().into_iter().map(|(name, value)| (name, Value::String(value))).collect();
    let mut command = Command::new(python);
    command.arg(root().join("tests/foreign/read.py")).arg(Value::Object(config).to_string()).args(topics);
    Some(json_lines(&mut command).iter().map(from_python).collect())
}

/// What the CloudEvents SDK understands of records, in their order: `attributes` and `data`. Nothing when it is not there: the test
/// shall return.
pub(crate) fn cloud_events(records: &[Record]) -> Option<Vec<Value>> {
    let mut command = Command::new(python()?);
    command.arg(root().join("tests/foreign/events.py")).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    for record in records {
        let headers: Vec<Value> = record.headers.iter().map(|(name, value)| json!([name, hex_of(value)])).collect();
        let key = record.key.as_deref().map(hex_of);
        let line = json!({"key": key, "headers": headers, "value": hex_of(&record.value)});
        input.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn python() -> Option<PathBuf> {
    let python = root().join("target/venv/bin/python");
    let found = python.is_file().then_some(()).ok_or_else(|| "there is no target/venv: run make tools".to_owned());
    real::found_or_skipped(found)?;
    Some(python)
}

/// Reads topics whole with kcat; keys and values must be UTF-8. Nothing when it is not there: the test shall return.
/// Debian's is too old to log in by SCRAM.
pub(crate) fn kcat(kafka: &Kafka, topics: &[&str]) -> Option<Vec<Record>> {
    kcat_from(&kafka.bootstrap(), topics)
}

/// The same from a Kafka that is not one of ours.
pub(crate) fn kcat_from(bootstrap: &str, topics: &[&str]) -> Option<Vec<Record>> {
    let found =
        Command::new("kcat").arg("-V").output().map_err(|_missing| "there is no kcat: run make tools".to_owned());
    real::found_or_skipped(found)?;
    let read = |topic: &&str| {
        let mut command = Command::new("kcat");
        command.args(["-C", "-q", "-J", "-e", "-o", "beginning", "-b", bootstrap, "-t", topic]);
        json_lines(&mut command)
    };
    Some(topics.iter().flat_map(read).map(|line| from_kcat(&line)).collect())
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn json_lines(command: &mut Command) -> Vec<Value> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn from_python(line: &Value) -> Record {
    let header = |pair: &Value| (text(&pair[0]), bytes_of_hex(&pair[1]));
    Record {
        topic: text(&line["topic"]),
        partition: number(&line["partition"]),
        offset: line["offset"].as_i64().unwrap(),
        key: (!line["key"].is_null()).then(|| bytes_of_hex(&line["key"])),
        headers: line["headers"].as_array().unwrap().iter().map(header).collect(),
        value: bytes_of_hex(&line["value"]),
    }
    .judged()
}

/// kcat gives the headers as one list: name, value, name, value.
fn from_kcat(line: &Value) -> Record {
    let names_and_values: Vec<String> = line["headers"].as_array().into_iter().flatten().map(text).collect();
    let header = |pair: &[String]| (pair[0].clone(), pair[1].clone().into_bytes());
    Record {
        topic: text(&line["topic"]),
        partition: number(&line["partition"]),
        offset: line["offset"].as_i64().unwrap(),
        key: line["key"].as_str().map(|key| key.as_bytes().to_vec()),
        headers: names_and_values.chunks(2).map(header).collect(),
        value: line["payload"].as_str().unwrap_or_default().as_bytes().to_vec(),
    }
    .judged()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn number(value: &Value) -> i32 {
    value.as_i64().unwrap().try_into().unwrap()
}

fn bytes_of_hex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap().as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
