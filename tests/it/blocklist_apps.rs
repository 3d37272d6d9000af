//! The blocklists of several applications are isolated, through the API and the command line, with a real Kafka.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::support::blocklist::Topic;
use crate::support::blocklist::VALUE;
use crate::support::blocklist::of_topic;
use crate::support::blocklist::refused_on;
use crate::support::bridge::Bridge;
use crate::support::files::Files;
use crate::support::http::Client;
use crate::support::http::Response;
use crate::support::kafka::Kafka;
use crate::support::reader::Reader;
use crate::support::wait;

const TOKEN: &str = "0123456789abcdef-admin";
const MINUTE: Duration = Duration::from_secs(60);
const USERS: [&str; 5] = ["alice", "bob", "carol", "dave", "eve"];

/// A bridge of four applications: 1 shares the common list, 2 and 3 have topics of their own, 3 and 4 have files. And four more that share
/// topics: 6 and 7 have the same list, 8 has their topic and a file, and 9 the common topic and a file.
struct Apps<'k> {
    kafka: &'k Kafka,
    bridge: Bridge,
    files: Files,
    /// The common topic, and those of 2 and 3.
    topics: [String; 3],
    config: String,
    tokens: String,
}

impl<'k> Apps<'k> {
    fn start(kafka: &'k Kafka, prefix: &str) -> Self {
        let (files, topics) = (Files::new(), ["common", "own-2", "own-3"].map(|name| format!("{prefix}-{name}")));
        let (tokens, list) = (files.write("tokens", &format!("olga:{TOKEN}\n")), files.write("list", "eve\n"));
        let [common, two, three] = &topics;
        let shared = format!("{prefix}-shared");
        let settings = format!(
            "callbacks.keep_accepting_ms = 0\nadmin.token_files = [{tokens:?}]\nblocklist.topic = {common:?}\n\
             kafka.\"bootstrap.servers\" = {:?}\n[[apps]]\nsdk_app_id = 1\n\
             [[apps]]\nsdk_app_id = 2\nblocklist_topic = {two:?}\n\
             [[apps]]\nsdk_app_id = 3\nblocklist_topic = {three:?}\nblocklist_files = [{list:?}]\n\
             [[apps]]\nsdk_app_id = 4\nblocklist_files = [{list:?}]\n\
             [[apps]]\nsdk_app_id = 6\nblocklist_topic = {shared:?}\n\
             [[apps]]\nsdk_app_id = 7\nblocklist_topic = {shared:?}\n\
             [[apps]]\nsdk_app_id = 8\nblocklist_topic = {shared:?}\nblocklist_files = [{list:?}]\n\
             [[apps]]\nsdk_app_id = 9\nblocklist_topic = {common:?}\nblocklist_files = [{list:?}]\n",
            kafka.bootstrap()
        );
        let config = files.write("callbridge.toml", &settings);
        let args = ["--ack", "memory", "--create-topics", "--topic-prefix", prefix];
        let bridge = Bridge::builder().args(&args).settings(&settings).start();
        Self { kafka, bridge, files, topics, config, tokens }
    }

    fn request(&self, method: &str, target: &str, body: &str) -> Response {
        let bearer = format!("Bearer {TOKEN}");
        let headers = [("Authorization", bearer.as_str())];
        Client::connect(self.bridge.admin).unwrap().request(method, target, &headers, body.as_bytes()).unwrap()
    }

    /// The response, which is 200.
    fn done(&self, method: &str, target: &str, body: &str) -> Value {
        let response = self.request(method, target, body);
        assert_eq!(response.status, 200, "{method} {target}: {}", response.text());
        serde_json::from_slice(&response.body).unwrap()
    }

    /// Writes, once the new topic exists and has been read.
    fn write(&self, method: &str, target: &str, body: &str) {
        wait::until(target, || self.request(method, target, body).status == 200);
    }

    /// The refused users of each application.
    fn refused(&self) -> [Vec<String>; 4] {
        refused_by(&self.bridge)
    }

    /// Runs `callbridge blocklist` against the configuration or the bridge.
    fn run(&self, by: &Target, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callbridge"));
        command.arg("blocklist").args(args);
        match by {
            Target::Config => command.args(["--config", &self.config]),
            Target::Admin => {
                let url = format!("http://{}", self.bridge.admin);
                command.args(["--admin", &url, "--token-file", &self.tokens])
            }
        };
        let output = command.output().unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code().unwrap(), stdout, stderr)
    }

    /// The rules in the audit topic of a topic.
    fn changed_in(&self, topic: &str, count: usize) -> Vec<String> {
        let records = Reader::open(&self.kafka.client(), &[&format!("{topic}-changes")]).collect(count, MINUTE);
        let data = |value: &[u8]| serde_json::from_slice::<Value>(value).unwrap()["data"]["rule"].clone();
        records.iter().map(|record| data(&record.value).as_str().unwrap().to_owned()).collect()
    }
}

/// The ways by which the command line reaches a list.
#[derive(Debug)]
enum Target {
    Config,
    Admin,
}

fn refused_by(bridge: &Bridge) -> [Vec<String>; 4] {
    ["1", "2", "3", "4"].map(|app| refused_on(bridge, app, "@a", &USERS))
}

fn lists(of_apps: [&[&str]; 4]) -> [Vec<String>; 4] {
    of_apps.map(|users| users.iter().map(|user| (*user).to_owned()).collect())
}

#[test]
fn a_rule_of_one_application_has_no_effect_in_another() {
    let Some(kafka) = Kafka::shared() else { return };
    let apps = Apps::start(kafka, "apps-api");
    assert_eq!(apps.refused(), lists([&[], &[], &["eve"], &["eve"]]));
    apps.write("PUT", "/blocklist/users/alice", "");
    apps.write("PUT", "/blocklist/users/bob?app=2", r#"{"because":"spam"}"#);
    apps.write("PUT", "/blocklist/accounts/@a/blocked/carol?wait=applied&app=3", "");
    apps.write("PUT", "/blocklist/pardoned/eve?app=3", "");
    let changes =
        "{\"put\":{\"kind\":\"block\",\"user\":\"dave\"}}\n{\"delete\":{\"kind\":\"block\",\"user\":\"eve\"}}\n";
    assert_eq!(apps.done("POST", "/blocklist/changes?app=2&dry_run=true", changes)["added"], 1);
    apps.write("POST", "/blocklist/changes?app=2", changes);
    let expected = lists([&["alice"], &["bob", "dave"], &["carol"], &["eve"]]);
    assert_eq!(apps.refused(), expected);

    for (app, has, hits) in [("", "alice", 1), ("?app=1", "alice", 1), ("?app=2", "bob", 2), ("?app=4", "eve", 1)] {
        for user in USERS {
            let status = apps.request("GET", &format!("/blocklist/users/{user}{app}"), "").status;
            let is_there = user == has || (app == "?app=2" && user == "dave");
            assert_eq!(status, if is_there { 200 } else { 404 }, "{user}{app}");
        }
        let and_app = app.replace('?', "&");
        let lookup = apps.done("GET", &format!("/blocklist/lookup?user={has}{and_app}"), "");
        assert_eq!(lookup["decision"], "refuse", "{has}{app}");
        let page = apps.done("GET", &format!("/blocklist/rules?limit=9{and_app}"), "");
        assert_eq!(page["rules"].as_array().unwrap().len(), hits, "{app}: {page}");
    }
    let of = |target: &str| {
        let status = apps.done("GET", target, "");
        let sources = status["sources"].as_array().unwrap().len();
        (status["apps"].clone(), status["topic"]["name"].clone(), sources, status["entries"].clone())
    };
    let [common, two, three] = &apps.topics;
    assert_eq!(of("/blocklist"), (json!(["1"]), json!(common), 1, json!(1)));
    assert_eq!(of("/blocklist?app=1"), of("/blocklist"));
    assert_eq!(of("/blocklist?app=2"), (json!(["2"]), json!(two), 1, json!(2)));
    assert_eq!(of("/blocklist?app=3"), (json!(["3"]), json!(three), 2, json!(3)));
    assert_eq!(of("/blocklist?app=4"), (json!(["4"]), Value::Null, 1, json!(1)));
    let generation = apps.request("GET", "/blocklist?app=2", "").header("blocklist-generation").unwrap().to_owned();
    assert_eq!(generation.parse::<f64>().unwrap(), of_topic(&apps.bridge, "generation", two));

    // Announced in the audit topic of its topic only.
    assert!(apps.changed_in(common, 1).iter().all(|rule| rule == "block alice"));
    assert!(apps.changed_in(two, 3).contains(&"block dave".to_owned()));
    assert!(apps.changed_in(three, 2).iter().all(|rule| rule.ends_with("eve") || rule.ends_with("carol on @a")));
    apps.bridge.stop_in_order();
    let again = Apps::start(kafka, "apps-api");
    assert_eq!(again.refused(), expected, "one that starts later");
}

#[test]
fn a_shared_unknown_or_file_list_cannot_be_changed() {
    let Some(kafka) = Kafka::shared() else { return };
    let apps = Apps::start(kafka, "apps-refused");
    let before = apps.refused();
    for (app, status, problem) in [
        ("1", 409, "shared-list"),
        ("6", 409, "shared-list"),
        ("7", 409, "shared-list"),
        ("8", 409, "shared-list"),
        ("9", 409, "shared-list"),
        ("4", 409, "read-only"),
        ("5", 404, "no-such-app"),
        ("02", 404, "no-such-app"),
    ] {
        for (method, path) in [
            ("PUT", "/blocklist/users/dave"),
            ("DELETE", "/blocklist/accounts/@a/closed"),
            ("POST", "/blocklist/changes"),
            ("POST", "/blocklist/changes?dry_run=true"),
        ] {
            let separator = if path.contains('?') { '&' } else { '?' };
            let response = apps.request(method, &format!("{path}{separator}app={app}"), "");
            assert_eq!((response.status, response.header("content-type")), (status, Some("application/problem+json")));
            let problem = format!("\"type\":\"urn:callbridge:problem:{problem}\"");
            assert!(response.text().contains(&problem), "{method} {path} {app}: {}", response.text());
        }
    }
    for target in
        ["/blocklist?app=5", "/blocklist/users/eve?app=5", "/blocklist/lookup?user=eve&app=5", "/blocklist/rules?app=5"]
    {
        let response = apps.request("GET", target, "");
        assert_eq!((response.status, response.header("blocklist-generation")), (404, None), "{target}");
        assert!(!apps.topics.iter().any(|topic| response.text().contains(topic)), "{}", response.text());
    }
    for wrong in ["app=", "app=1&app=2", "app=%ff"] {
        assert_eq!(apps.request("GET", &format!("/blocklist?{wrong}"), "").status, 422, "{wrong}");
    }
    // Without a valid token a request does not reveal which applications exist.
    let unknown = Client::connect(apps.bridge.admin).unwrap().request("GET", "/blocklist?app=5", &[], b"").unwrap();
    assert_eq!(unknown.status, 401);
    assert_eq!(apps.refused(), before);
    apps.bridge.stop_in_order();
}

#[test]
fn commands_read_and_change_the_list_of_one_application() {
    let Some(kafka) = Kafka::shared() else { return };
    let apps = Apps::start(kafka, "apps-cli");
    let common = Topic::at(kafka, &apps.topics[0]);
    common.write(Some("block\u{1f}alice"), Some(VALUE.as_bytes()), None);
    for by in [Target::Config, Target::Admin] {
        let done = |args: &[&str]| {
            let (code, stdout, stderr) = apps.run(&by, args);
            assert_eq!(code, 0, "{by:?} {args:?}: {stderr}");
            stdout
        };
        wait::until("a rule is added", || apps.run(&by, &["add", "bob", "--app", "2"]).0 == 0);
        assert_eq!(done(&["export", "--app", "2"]), "block bob\n");
        assert_eq!(done(&["list", "--app", "2"]), "block bob\n");
        assert_eq!(
            (done(&["export"]), done(&["export", "--app", "1"])),
            ("block alice\n".into(), "block alice\n".into())
        );
        assert_eq!(apps.run(&by, &["lookup", "bob", "--app", "2"]).0, 3);
        for app in ["1", "3"] {
            assert_eq!(apps.run(&by, &["lookup", "bob", "--app", app]).0, 0, "{by:?} {app}");
        }
        assert_eq!(apps.run(&by, &["lookup", "eve", "--app", "3"]).0, 3, "{by:?}: a file");
        let list = apps.files.write("import", "carol\n");
        assert_eq!(apps.run(&by, &["diff", &list, "--app", "2"]).1, "- block bob\n+ block carol\n");
        done(&["import", &list, "--yes", "--app", "2"]);
        wait::until("it is in force", || apps.refused() == lists([&["alice"], &["carol"], &["eve"], &["eve"]]));
        done(&["remove", "carol", "--app", "2"]);
        wait::until("it is gone", || apps.refused()[1].is_empty());

        let refused = |args: &[&str], why: &str| {
            let (code, stdout, stderr) = apps.run(&by, args);
            assert_eq!((code, stdout.as_str()), (if matches!(by, Target::Config) { 2 } else { 1 }, ""), "{stderr}");
            assert!(stderr.contains(why), "{by:?} {args:?}: {stderr}");
        };
        refused(&["add", "bob", "--app", "1"], "shares the common blocklist");
        wait::until("the shared topic is there", || apps.run(&by, &["export", "--app", "6"]).0 == 0);
        refused(&["add", "bob", "--app", "6"], "--topic");
        refused(&["add", "bob", "--app", "8"], "--topic");
        refused(&["remove", "alice", "--app", "9"], "shares the common blocklist");
        if matches!(by, Target::Config) {
            refused(&["add", "bob", "--app", "6"], "with 7, 8");
            refused(&["add", "bob", "--app", "9"], "with 1");
        }
        refused(&["remove", "bob", "--app", "4"], "blocklist_topic");
        refused(&["add", "bob", "--app", "5"], "5");
        assert_eq!(apps.refused(), lists([&["alice"], &[], &["eve"], &["eve"]]));
    }
    let brokers = kafka.bootstrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_callbridge"));
    command.args(["blocklist", "list", "--brokers", &brokers, "--topic", &apps.topics[1], "--app", "2"]);
    assert_eq!(command.output().unwrap().status.code(), Some(2), "a topic is named already");
    apps.bridge.stop_in_order();
}
