//! A real Prometheus and a real Alertmanager, with the configurations of `deploy/prometheus`.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::http::Client;
use crate::support::ports;
use crate::support::process::Process;
use crate::support::wait;

/// One that runs until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

impl Server {
    /// Runs Prometheus with the example's configuration and the alert rules, each changed by one of `changes`.
    pub(crate) fn prometheus(changes: [&dyn Fn(String) -> String; 2]) -> Self {
        let [config, rules] = changes;
        let files = [("prometheus.example.yml", config(read("prometheus.example.yml"))), (RULES, rules(read(RULES)))];
        Self::start("prometheus", &files, |folder, address| {
            let data = folder.join("data").display().to_string();
            vec![format!("--storage.tsdb.path={data}"), format!("--web.listen-address={address}")]
        })
    }

    /// Runs Alertmanager with the example's configuration, changed by `change`.
    pub(crate) fn alertmanager(change: impl Fn(String) -> String) -> Self {
        let name = "alertmanager.example.yml";
        Self::start("prometheus-alertmanager", &[(name, change(read(name)))], |folder, address| {
            let data = folder.join("data").display().to_string();
            let alone = "--cluster.listen-address=".to_owned();
            vec![format!("--storage.path={data}"), format!("--web.listen-address={address}"), alone]
        })
    }

    /// `files`: names and texts; the first is the configuration.
    fn start(program: &str, files: &[(&str, String)], args: impl Fn(&Path, SocketAddr) -> Vec<String>) -> Self {
        let folder = TempDir::with_prefix_in(format!("{program}-"), env!("CARGO_TARGET_TMPDIR")).unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let [port] = ports::free();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut args = args(folder.path(), address);
        args.push(format!("--config.file={}", folder.path().join(files[0].0).display()));
        let mut process = Process::start(folder.path(), program, &args);
        wait::until("the server is ready", || {
            assert_eq!(process.exit_code(), None, "{}", process.stderr());
            let ready = Client::connect(address).and_then(|mut it| it.request("GET", "/-/ready", &[], b""));
            ready.is_ok_and(|response| response.status == 200)
        });
        Self { address, _process: process, _folder: folder }
    }

    /// The values of an instant query, those that are no numbers left out; or what is wrong with the query.
    pub(crate) fn query(&self, expression: &str) -> Result<Vec<f64>, String> {
        let url = format!("http://{}/api/v1/query", self.address);
        let query = format!("query={expression}");
        let output = Command::new("curl").args(["-sS", "-G", &url, "--data-urlencode", &query]).output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {output:?}"))?;
        if answer["status"] != "success" {
            return Err(answer["error"].to_string());
        }
        let series = answer["data"]["result"].as_array().ok_or("no result")?;
        let values = series.iter().filter_map(|series| series["value"][1].as_str()?.parse::<f64>().ok());
        Ok(values.filter(|value| value.is_finite()).collect())
    }
}

const RULES: &str = "callbridge.rules.yaml";

/// `deploy/prometheus`.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus")
}

fn read(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}
