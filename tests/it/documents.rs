//! The commands of the operators' documents and runbook pages, run as they stand: each block marked `sh`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use crate::proxies::missing;
use crate::seeds;
use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::http::Client;
use crate::support::http::callback_target;
use crate::support::kafka::Kafka;
use crate::support::reader::Reader;
use crate::support::reader::Record;
use crate::support::real;
use crate::support::wait;

const MINUTE: Duration = Duration::from_secs(60);

const DOCUMENTS: [&str; 2] = ["docs/operating.md", "docs/security.md"];

/// Its commands need a topic and several replicas.
const BLOCKLIST: &str = "docs/blocklist.md";

#[test]
fn every_command_of_the_operators_documents_runs() {
    let kcat = Command::new("kcat").arg("-V").output();
    if missing("promtool")
        || real::found_or_skipped(kcat.map(drop).map_err(|_missing| "there is no kcat".to_owned())).is_none()
    {
        return;
    }
    let folder = TempDir::with_prefix_in("documents-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = folder.path().join("journal");
    symlink(env!("CARGO_BIN_EXE_callbridge"), folder.path().join("callbridge")).unwrap();
    let config = folder.path().join("callbridge.toml");
    fs::write(&config, format!("embedded_broker = true\n[[apps]]\nsdk_app_id = {APP}\n")).unwrap();
    let args = ["--config", config.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
    let bridge = Bridge::builder().args(&args).all_topics().start();
    let dead_letter = send(&bridge);
    let kafka = bridge.embedded_kafka().get("bootstrap.servers").unwrap().to_owned();
    let filled = |block: &str| {
        block
            .replace(
                "tencent-chat.rejected 0 17",
                &format!("tencent-chat.rejected {} {}", dead_letter.partition, dead_letter.offset),
            )
            .replace("127.0.0.1:9464", &bridge.admin.to_string())
            .replace("127.0.0.1:8080", &bridge.callbacks.to_string())
            .replace("kafka-1:9092", &kafka)
            .replace("/var/lib/callbridge", data.to_str().unwrap())
            .replace("deploy/", root().join("deploy/").to_str().unwrap())
    };
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let blocks = blocks();
    assert!(blocks.len() > 20, "{blocks:?}");
    for (page, block) in blocks {
        let output =
            Command::new("sh").args(["-euc", &filled(&block)]).env("PATH", &path).current_dir(folder.path()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{page}:\n{block}\n{output:?}");
    }
    bridge.stop_in_order();
}

/// Three replicas behind one Kafka. The commands go to one of them or to Kafka, and all three refuse the user.
#[test]
fn the_commands_of_the_blocklist_document_hold_at_three_replicas() {
    let Some(kafka) = Kafka::shared() else { return };
    let folder = TempDir::with_prefix_in("documents-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    symlink(env!("CARGO_BIN_EXE_callbridge"), folder.path().join("callbridge")).unwrap();
    let tokens = folder.path().join("admin-token");
    fs::write(&tokens, "olga:0123456789abcdef-admin\n").unwrap();
    let topic = "documents.blocklist";
    let settings = format!(
        "callbacks.keep_accepting_ms = 0\nadmin.token_files = [{tokens:?}]\nblocklist.topic = {topic:?}\nblocklist.ready_after_seconds = 60"
    );
    let brokers = kafka.bootstrap();
    let builder = Bridge::builder().brokers(&brokers).ack("memory").topics("documents").settings(&settings);
    let replicas = [(); 3].map(|()| builder.start());
    let filled = |block: &str| {
        block
            .replace("tencent-chat.blocklist", topic)
            .replace("127.0.0.1:9464", &replicas[0].admin.to_string())
            .replace("kafka-1:9092", &brokers)
    };
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let blocks = blocks_of(BLOCKLIST);
    assert_eq!(blocks.len(), 3);
    for block in &blocks {
        let output =
            Command::new("sh").args(["-euc", &filled(block)]).env("PATH", &path).current_dir(folder.path()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{block}\n{output:?}");
    }
    for replica in &replicas {
        // The last command that changes it has gone through Kafka, as all did.
        wait::until("mallory and bob are refused, and dave is not", || refused(replica) == ["mallory", "bob"]);
    }
    let added = Command::new(folder.path().join("callbridge"))
        .args(["blocklist", "add", "carol", "--brokers", &brokers, "--topic", topic])
        .output();
    assert!(added.unwrap().status.success());
    for replica in &replicas {
        wait::until("carol is refused", || refused(replica) == ["mallory", "bob", "carol"]);
    }
}

/// Who of some users is refused.
fn refused(bridge: &Bridge) -> Vec<String> {
    let seed = seeds::BEFORE_ADD_SUBSCRIBER;
    let users = ["mallory", "bob", "carol", "dave"].map(|user| json!({"Subscriber_Account": user}));
    let mut body: Value = serde_json::from_str(seed.body).unwrap();
    body["SubscribeAccountList"] = json!(users);
    let target = callback_target(APP, seed.command);
    let answer = Client::connect(bridge.callbacks).unwrap().post(&target, body.to_string().as_bytes()).unwrap();
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    let refused = answer["RefusedSubscribers_Account"].as_array().into_iter().flatten();
    refused.map(|user| user.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_block_of_the_operators_documents_says_whether_it_is_run() {
    for page in pages().into_iter().chain([BLOCKLIST.to_owned()]) {
        let text = fs::read_to_string(root().join(&page)).unwrap();
        let fences = text.lines().filter(|line| line.starts_with("```"));
        for (number, fence) in fences.enumerate() {
            let is_known = ["```sh", "```console", "```promql"].contains(&fence);
            assert!(if number % 2 == 0 { is_known } else { fence == "```" }, "{page}: {fence}");
        }
        assert!(DOCUMENTS.iter().all(|name| root().join(name).exists()));
        for (_text, link) in links(&text) {
            let target = root().join(&page).parent().unwrap().join(&link);
            assert!(target.exists(), "{page} links to {link}");
        }
    }
}

/// Sends a callback and one that becomes a dead letter, and waits until Kafka has both.
fn send(bridge: &Bridge) -> Record {
    let seed = seeds::AFTER_ADD_SUBSCRIBER;
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let target = callback_target(APP, seed.command);
    assert_eq!(client.post(&target, seed.body.as_bytes()).unwrap().status, 200);
    let wrong = seed.body.replace("\"Official_Account\"", "\"Official_Account\": 5, \"x\"");
    assert_eq!(client.post(&target, wrong.as_bytes()).unwrap().status, 200);
    let dead_letter = Reader::open(&bridge.embedded_kafka(), &["tencent-chat.rejected"]).collect(1, MINUTE).remove(0);
    bridge.metrics_until(|metrics| metrics["callbridge_journal_undelivered_captures"] == 0.0);
    dead_letter
}

/// The blocks that are run, each with its page.
fn blocks() -> Vec<(String, String)> {
    let of_page = |page: String| blocks_of(&page).into_iter().map(move |block| (page.clone(), block));
    pages().into_iter().flat_map(of_page).collect()
}

/// The blocks of one page that are run.
fn blocks_of(page: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Names and targets of the links to other files.
fn links(text: &str) -> Vec<(String, String)> {
    let parts = text.split("](").collect::<Vec<_>>();
    let pairs = parts.windows(2).filter_map(|pair| {
        let name = pair[0].rsplit_once('[')?.1;
        let target = pair[1].split_once(')')?.0;
        Some((name.to_owned(), target.to_owned()))
    });
    pairs.filter(|(_name, target)| !target.starts_with("http")).collect()
}

/// The documents and pages, as paths in the repository.
pub(crate) fn pages() -> Vec<String> {
    let runbooks = fs::read_dir(root().join("docs/runbooks")).unwrap();
    let runbooks = runbooks.map(|entry| format!("docs/runbooks/{}", entry.unwrap().file_name().display()));
    DOCUMENTS.iter().map(|page| (*page).to_owned()).chain(runbooks).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
