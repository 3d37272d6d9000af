//! The commands of the operators' documents and runbook pages, run as they stand: each block marked `sh`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::proxies::missing;
use crate::seeds;
use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::http::Client;
use crate::support::http::callback_target;
use crate::support::reader::Reader;
use crate::support::reader::Record;
use crate::support::real;

const MINUTE: Duration = Duration::from_secs(60);

const DOCUMENTS: [&str; 2] = ["docs/operating.md", "docs/security.md"];

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

#[test]
fn every_block_of_the_operators_documents_says_whether_it_is_run() {
    for page in pages() {
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
    let mut found = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(root().join(&page)).unwrap();
        let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
        found.extend(blocks.map(|block| (page.clone(), block)));
    }
    found
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
