//! The process as its operator meets it: flags, exit codes, printed lines, logs and the admin listener.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use callbridge::clock;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::seeds::APP;
use crate::support::bridge;
use crate::support::bridge::Bridge;
use crate::support::bridge::BridgeBuilder;
use crate::support::http::Client;
use crate::support::http::Response;
use crate::support::http::callback_target;
use crate::support::load;
use crate::support::ports;
use crate::support::process::Process;
use crate::support::wait;

const BINARY: &str = env!("CARGO_BIN_EXE_callbridge");
const MINUTE: Duration = Duration::from_secs(60);
const EMBEDDED: &[&str] = &["--sdk-app-id", APP, "--embedded-broker", "--ack", "broker"];

fn embedded() -> BridgeBuilder {
    Bridge::builder().args(EMBEDDED)
}

#[test]
fn a_command_line_that_cannot_be_used_is_2() {
    let good = ["serve", "--sdk-app-id", "1", "--embedded-broker"];
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage:"),
        (&["sreve"], "unrecognized subcommand 'sreve'"),
        (&[&good[..], &["--sdk-app"]].concat(), "unexpected argument '--sdk-app'"),
        (&[&good[..], &["--workers"]].concat(), "a value is required for '--workers"),
        (&[&good[..], &["--workers", "1", "--workers", "2"]].concat(), "cannot be used multiple times"),
        (&[&good[..], &["more"]].concat(), "unexpected argument 'more'"),
        (&[&good[..], &["--workers", "many"]].concat(), "--workers: must be"),
        (&[&good[..], &["--listen", "nowhere"]].concat(), "--listen: must be"),
        (&[&good[..], &["--kafka", "linger.ms"]].concat(), "--kafka: must be NAME=VALUE"),
        (&[&good[..], &["--kafka", "acks=1"]].concat(), "--kafka acks: must be all"),
        (&[&good[..], &["--kafka", "no.such=1"]].concat(), "--kafka no.such: "),
        (&["serve", "--sdk-app-id", "x", "--embedded-broker"], "--sdk-app-id: must be a whole number above 0"),
    ];
    for (args, expected) in cases {
        let run = run(&[], args);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{args:?}: {run:?}");
        assert!(run.stderr.contains(expected), "{args:?}: {run:?}");
    }
}

#[test]
fn all_mistakes_of_a_configuration_are_told_at_once_and_the_code_is_78() {
    let folder = folder();
    let text = r#"embeded_broker = true
workers = "many"
drain_seconds = 0

[callbacks]
listen = "everywhere"
path = "in"
deadline_ms = 2000

[[apps]]
sdk_app_id = 1
topic_prefix = "a b"

[[apps]]
sdk_app_id = 1

[kafka]
acks = "1"
"linger.msec" = 5
"sasl.password" = "open-sesame"
"sasl.mechanism" = ["PLAIN"]

[envelope]
mode = "xml"

[topics]
replication_factor = 1
min_insync_replicas = 2
"#;
    let config = write(&folder, "callbridge.toml", text);
    let expected = [
        ":1: embeded_broker: no such setting; did you mean embedded_broker?",
        ":2:11: workers: must be",
        ":3: drain_seconds: must be from 1 to 3600",
        ":6:10: callbacks.listen: must be",
        ":7:8: callbacks.path: must be the path of a URL",
        ":8: callbacks.deadline_ms: must be below 2000",
        ":12:16: apps[0].topic_prefix: must be",
        ":15: apps[1].sdk_app_id: application 1 is given twice",
        ":18: kafka.acks: must be all",
        ":19: kafka.linger.msec: ",
        ":21:20: kafka.sasl.mechanism: must be",
        ":24:8: envelope.mode: must be one of structured, binary",
        ":28: topics.min_insync_replicas: must not be above",
    ];
    for command in ["serve", "check"] {
        let variables = [("CALLBRIDGE_QUEUE_BYTES_MAX", "lots"), ("CALLBRIDGE_BROKER", "kafka:9092")];
        let run = run(&variables, &[command, "--config", &config, "--admin-listen", "x"]);
        assert_eq!((run.code, run.stdout.as_str()), (78, ""));
        let lines: Vec<&str> = run.stderr.lines().collect();
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(&format!("{config}{expected}")), "{line} is not {expected}");
        }
        let rest = &lines[expected.len()..];
        assert_eq!(rest.len(), 4, "{rest:#?}");
        assert!(rest[0].starts_with("CALLBRIDGE_QUEUE_BYTES_MAX: must be"), "{rest:#?}");
        assert!(rest[1].starts_with("--admin-listen: must be"), "{rest:#?}");
        assert!(rest[2].starts_with("kafka.bootstrap.servers: is missing"), "{rest:#?}");
        assert_eq!(rest[3], "warning: CALLBRIDGE_BROKER: no such setting; did you mean CALLBRIDGE_BROKERS?");
        assert!(!run.stderr.contains("open-sesame"));
    }
}

#[test]
fn the_version_names_the_commit_and_librdkafka_and_so_does_build_info() {
    let version = run(&[], &["--version"]).stdout;
    let (package, build) = version.trim_end().split_once(" (commit ").unwrap();
    let (commit, librdkafka) = build.strip_suffix(')').unwrap().split_once(", librdkafka ").unwrap();
    assert_eq!(package, concat!("callbridge ", env!("CARGO_PKG_VERSION")));
    assert!(librdkafka.split('.').count() >= 3 && librdkafka.starts_with(|digit: char| digit.is_ascii_digit()));
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    if repository.join(".git").exists() && env::var_os("BUILD_COMMIT").is_none() {
        let head = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(repository).output().unwrap();
        assert_eq!(commit, &String::from_utf8(head.stdout).unwrap()[..12]);
    }

    let bridge = embedded().start();
    let labels = format!("commit=\"{commit}\",librdkafka=\"{librdkafka}\",version=\"{}\"", env!("CARGO_PKG_VERSION"));
    let metrics = bridge.admin_page("/metrics").1;
    assert!(metrics.contains(&format!("callbridge_build_info{{{labels}}} 1\n")), "{metrics}");
}

#[test]
fn completions_are_printed_for_every_shell_and_bash_completes_with_them() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let run = run(&[], &["completions", shell]);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{shell}");
        for word in ["serve", "journal", "completions", "sdk-app-id", "admin-listen"] {
            assert!(run.stdout.contains(word), "{shell}: {word}");
        }
    }
    let script = "source <(\"$0\" completions bash); COMP_WORDS=(callbridge serve --emb); COMP_CWORD=2
        _callbridge callbridge --emb serve; echo \"${COMPREPLY[@]}\"
        set -o pipefail; \"$0\" completions bash | true; echo $?";
    let output = Command::new("bash").args(["-c", script, BINARY]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "--embedded-broker\n0\n", "{output:?}");
    assert_eq!(run(&[], &["completions", "tcsh"]).code, 2);
}

#[test]
fn a_manual_page_is_written_for_each_command() {
    let folder = folder();
    let dir = folder.path().join("new/man1");
    let written = run(&[], &["man", dir.to_str().unwrap()]);
    assert_eq!((written.code, written.stdout.as_str(), written.stderr.as_str()), (0, "", ""));
    let page = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    for name in ["callbridge", "callbridge-serve", "callbridge-check", "callbridge-journal-export"] {
        assert!(page(&format!("{name}.1")).contains(&format!(".TH {name} 1")), "{name}");
    }
    assert!(page("callbridge-serve.1").contains("sdk\\-app\\-id"));

    let file = write(&folder, "file", "");
    let refused = run(&[], &["man", &format!("{file}/man1")]);
    assert_eq!(
        (refused.code, refused.stderr),
        (1, format!("callbridge man: {file}/man1: Not a directory (os error 20)\n"))
    );
}

#[test]
fn a_config_file_that_cannot_be_read_or_is_no_toml_is_78() {
    let folder = folder();
    let nowhere = folder.path().join("nowhere.toml").to_str().unwrap().to_owned();
    let broken = write(&folder, "broken.toml", "workers = 1\nworkers = = 2\n");
    for command in ["serve", "check"] {
        let missing = run(&[], &[command, "--config", &nowhere]);
        assert_eq!(missing.code, 78);
        assert_eq!(missing.stderr, format!("{nowhere}: cannot be read: No such file or directory (os error 2)\n"));
        let by_variable = run(&[("CALLBRIDGE_CONFIG", &nowhere)], &[command]);
        assert_eq!((by_variable.code, by_variable.stderr), (78, missing.stderr));

        let broken_run = run(&[], &[command, "--config", &broken]);
        assert_eq!(broken_run.code, 78);
        assert!(broken_run.stderr.starts_with(&format!("{broken}:2:11: ")), "{broken_run:?}");
    }
}

#[test]
fn an_address_in_use_is_1_and_says_which() {
    for flag in ["--listen", "--admin-listen"] {
        let other = if flag == "--listen" { "--admin-listen" } else { "--listen" };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let run = run(&[], &[&["serve", flag, &address, other, "127.0.0.1:0"], EMBEDDED].concat());
        assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{run:?}");
        let log: Value = serde_json::from_str(run.stderr.lines().last().unwrap()).unwrap();
        let error = log["fields"]["error"].as_str().unwrap();
        assert_eq!(log["level"], "ERROR");
        assert!(error.starts_with(&format!("listen on {address}: ")), "{error}");
    }
}

#[test]
fn check_says_what_is_right() {
    let folder = folder();
    let list = write(&folder, "list.txt", "mallory\nclose @a\n");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/callbridge.example.toml");
    let run_of_example = run(&[], &["check", "--config", example]);
    let ok = "config ok: ack journal, apps 1400000000 to tencent-chat.*, brokers kafka-1:9092\n";
    let open = "application 1400000000: takes unsigned callbacks; from any address; on any path; without TLS\n";
    assert_eq!((run_of_example.code, run_of_example.stdout), (0, format!("{ok}{open}")));
    let warnings = [
        "warning: admin.listen: 0.0.0.0:9464 can be reached from other machines, ",
        "warning: application 1400000000: its callbacks are accepted unsigned: ",
        "warning: kafka.security.protocol: plaintext to kafka-1:9092: ",
    ];
    let lines: Vec<&str> = run_of_example.stderr.lines().collect();
    assert!(lines.len() == 3 && lines.iter().zip(warnings).all(|(line, begin)| line.starts_with(begin)), "{lines:#?}");

    let token = write(&folder, "token", "0123456789abcdef\nshort\n");
    let closed = ["--token-file", &token, "--admin-listen", "127.0.0.1:0"];
    let with_files = run(
        &[
            ("CALLBRIDGE_NONSENSE", "1"),
            ("CALLBRIDGE_CALLBACKS_SENDERS", "203.0.113.0/24,2001:db8::1"),
            ("CALLBRIDGE_CALLBACKS_PROXIES", "10.0.0.0/8"),
            ("CALLBRIDGE_CALLBACKS_PATH", "/callbacks/2f1c9a"),
        ],
        &[&["check", "--blocklist", &list], &closed[..], EMBEDDED].concat(),
    );
    let ok = "config ok: ack broker, apps 1400000000 to tencent-chat.*, brokers embedded";
    let closed = format!(
        "application 1400000000: takes callbacks that are signed with a token of {token}; from 203.0.113.0/24, \
         2001:db8::1/128 only, also through the proxies 10.0.0.0/8; on the configured path only; without TLS"
    );
    let files = format!("blocklist ok: {list}: 2 rules\ntokens ok: {token}: 2 tokens");
    assert_eq!((with_files.code, with_files.stdout), (0, format!("{ok}\n{closed}\n{files}\n")));
    let weak = "1 of 2 tokens are shorter than 16 bytes, so they can be guessed from one signature";
    assert_eq!(with_files.stderr, format!("warning: CALLBRIDGE_NONSENSE: no such setting\nwarning: {token}: {weak}\n"));
}

#[test]
fn an_empty_variable_of_a_security_setting_is_78_and_named() {
    for command in ["check", "serve"] {
        for name in ["CALLBRIDGE_TOKEN_FILE", "CALLBRIDGE_CALLBACKS_SENDERS", "CALLBRIDGE_CALLBACKS_PATH"] {
            let run = run(&[(name, "")], &[&[command], EMBEDDED].concat());
            assert!(run.code == 78 && run.stderr.starts_with(&format!("{name}: is empty")), "{command} {run:?}");
        }
    }
}

#[test]
fn check_tells_every_bad_line_of_every_blocklist() {
    let folder = folder();
    let bad = write(&folder, "bad.txt", "mallory\nblock\neve\nbob on\n");
    let missing = folder.path().join("missing.txt").to_str().unwrap().to_owned();
    let run = run(&[], &[&["check", "--blocklist", &bad, "--blocklist", &missing], EMBEDDED].concat());
    assert_eq!(run.code, 1);
    let lines: Vec<&str> = run.stderr.lines().filter(|line| !line.starts_with("warning: ")).collect();
    assert_eq!(lines.len(), 3, "{run:?}");
    assert_eq!(lines[0], format!("{bad}: line 2: the line ends; expected a user"));
    assert!(lines[1].starts_with(&format!("{bad}: line 4: found `on`")), "{run:?}");
    assert_eq!(lines[2], format!("{missing}: No such file or directory (os error 2)"));
    // What also keeps it from starting is a wrong configuration.
    let tokens = write(&folder, "tokens", "\n");
    assert_eq!(self::run(&[], &[&["check", "--blocklist", &bad, "--token-file", &tokens], EMBEDDED].concat()).code, 78);
}

#[test]
fn check_names_line_and_code_point_of_invisible_characters_in_a_blocklist() {
    let folder = folder();
    let text = "mallory\u{200b}\nblock bob on @a\u{fe0f}\nclose \u{3164}\n\"mal\\u200blory\"\n# 你\u{200b}好\n";
    let list = write(&folder, "list.txt", text);
    let run = run(&[], &[&["check", "--blocklist", &list], EMBEDDED].concat());
    assert_eq!(run.code, 1, "{run:?}");
    let expected = [(1, "U+200B"), (2, "U+FE0F"), (3, "U+3164")].map(|(line, character)| {
        format!(
            "{list}: line {line}: invisible character {character}; expected visible characters, or an id written as a JSON \
             string"
        )
    });
    assert_eq!(run.stderr.lines().filter(|line| line.starts_with(&list)).collect::<Vec<_>>(), expected);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let folder = folder();
    let text = "ack = \"memory\"\n[[apps]]\nsdk_app_id = 1\n[kafka]\n\"bootstrap.servers\" = \"file:1\"\n";
    let config = write(&folder, "callbridge.toml", text);
    let brokers = |variables: &[(&str, &str)], flags: &[&str]| {
        let run = run(variables, &[&["check", "--config", &config], flags].concat());
        run.stdout.lines().next().unwrap().rsplit_once(' ').unwrap().1.to_owned()
    };
    let variable = [("CALLBRIDGE_KAFKA_BOOTSTRAP_SERVERS", "variable:1")];
    assert_eq!(brokers(&[], &[]), "file:1");
    assert_eq!(brokers(&variable, &[]), "variable:1");
    assert_eq!(brokers(&variable, &["--brokers", "flag:1"]), "flag:1");
    let run = run(&[("CALLBRIDGE_ACK", "broker")], &["check", "--config", &config, "--sdk-app-id", "2"]);
    assert!(run.stdout.starts_with("config ok: ack broker, apps 2 to tencent-chat.*, brokers file:1\n"), "{run:?}");
}

#[test]
fn stdout_has_the_addresses_at_the_start_the_ledger_at_the_end_and_nothing_else() {
    let embedding = embedded().start();
    let stdout = embedding.stdout();
    let lines: Vec<&str> = stdout.lines().collect();
    let kafka = lines[0].strip_prefix("kafka on ").unwrap();
    assert!(lines[1].starts_with("the embedded broker stores nothing"), "{stdout}");
    assert_eq!(
        lines[2..],
        [format!("callbacks on http://{}", embedding.callbacks), format!("admin on http://{}", embedding.admin)]
    );

    // Its broker is Kafka enough for a second one, which has no more to say than where it is.
    let folder = folder();
    let topics = bridge::four_topics();
    let anywhere = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let flags = ["--ack", "broker", "--sdk-app-id", APP, "--brokers", kafka];
    let args = [&[topics.as_str(), BINARY, "serve"], &anywhere[..], &flags].concat();
    let mut process = Process::start(folder.path(), "env", &args);
    let callbacks =
        wait::until_ok("callbacks are served", || bridge::address(&process.stdout(), "callbacks").ok_or("no address"));
    let mut client = Client::connect(callbacks).unwrap();
    assert_eq!(client.post(&target(load::COMMAND), load::body("@a", 1).as_bytes()).unwrap().status, 200);
    process.signal(Signal::TERM);
    assert_eq!(process.wait(MINUTE), 0);
    let stdout = process.stdout();
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{stdout}");
    assert_eq!(lines[0], format!("callbacks on http://{callbacks}"));
    assert!(lines[1].starts_with("admin on http://127.0.0.1:"), "{stdout}");
    assert_eq!(lines[2], "ledger received=1 recovered=0 refused=0 lost=0 delivered=1 waiting=0");
}

#[test]
fn a_stdout_that_nobody_reads_any_more_does_no_harm() {
    let folder = folder();
    let fifo = folder.path().join("fifo").to_str().unwrap().to_owned();
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let redirected = [
        "-c",
        "exec \"$@\" >\"$0\"",
        &fifo,
        BINARY,
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ];
    let mut process = Process::start(folder.path(), "sh", &[&redirected[..], EMBEDDED].concat());
    let mut lines = BufReader::new(File::open(&fifo).unwrap()).lines();
    let mut printed = String::new();
    let admin = wait::until_ok("the admin pages are served", || {
        printed += &lines.next().expect("it ended").unwrap();
        printed += "\n";
        bridge::address(&printed, "admin").ok_or("no address")
    });
    drop(lines);
    assert_eq!(get(admin, "/livez").status, 200);
    process.signal(Signal::TERM);
    assert_eq!(process.wait(MINUTE), 0, "{}", process.stderr());
}

#[test]
fn without_any_stdout_it_serves_all_the_same() {
    let folder = folder();
    let [callbacks, admin] = ports::free().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let (callbacks_text, admin_text) = (callbacks.to_string(), admin.to_string());
    let closed =
        ["-c", "exec \"$@\" >&-", "sh", BINARY, "serve", "--listen", &callbacks_text, "--admin-listen", &admin_text];
    let mut process = Process::start(folder.path(), "sh", &[&closed[..], EMBEDDED].concat());
    wait::until("it is ready", || Client::connect(admin).is_ok() && get(admin, "/readyz").status == 200);
    let mut client = Client::connect(callbacks).unwrap();
    assert_eq!(client.post(&target(load::COMMAND), load::body("@a", 1).as_bytes()).unwrap().status, 200);
    process.signal(Signal::TERM);
    assert_eq!(process.wait(MINUTE), 0, "{}", process.stderr());
}

#[test]
fn logs_are_json_where_no_terminal_is_and_text_where_that_is_asked_for() {
    let json = embedded().start().stop_and_wait().stderr;
    let messages: Vec<String> = json
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
            assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
            line["fields"]["message"].as_str().unwrap().to_owned()
        })
        .collect();
    for message in ["listening", "ready", "stopping"] {
        assert!(messages.iter().any(|found| found == message), "{messages:?}");
    }
    let text = embedded().settings("log.format = \"text\"").start().stop_and_wait().stderr;
    assert!(text.lines().any(|line| line.contains(" INFO ") && line.contains(": ready")), "{text}");
}

#[test]
fn no_body_no_query_no_header_and_no_secret_is_ever_logged() {
    const MARK: &str = "xyzzy-never-to-be-logged";
    let settings = format!(
        "log.filter = \"trace\"\n[kafka]\ndebug = \"all\"\n\"sasl.password\" = \"{MARK}\"\n\"sasl.username\" = \"bridge\"\n"
    );
    let bridge = embedded().settings(&settings).start();
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let before = "OfficialAccount.CallbackBeforeAddSubscriber";
    let marked = |command: &str| format!("{}&Sign={MARK}&{MARK}={MARK}", target(command));
    let subscribe =
        format!(r#"{{"Official_Account":"{MARK}","SubscribeAccountList":[{{"Subscriber_Account":"{MARK}"}}]}}"#);
    let requests = [
        (marked(load::COMMAND), load::body(MARK, 1), 200),
        (marked(load::COMMAND), format!(r#"{{"Official_Account":["{MARK}"]}}"#), 200),
        (marked(load::COMMAND), format!(r#"{{"CallbackCommand":"{MARK}"}}"#), 400),
        (marked(load::COMMAND), MARK.to_owned(), 400),
        (marked(before), subscribe, 200),
        (marked(before), format!(r#"{{"Official_Account":"a","SubscribeAccountList":"{MARK}"}}"#), 400),
        (marked(MARK), format!("{{\"a\":\"{MARK}\"}}"), 200),
        (callback_target(MARK, load::COMMAND), "{}".to_owned(), 403),
        (format!("/{MARK}"), MARK.to_owned(), 403),
    ];
    for (target, body, status) in requests {
        let headers = [("Authorization", MARK), ("Cookie", MARK), (MARK, MARK)];
        let response = client.request("POST", &target, &headers, body.as_bytes()).unwrap();
        assert_eq!(response.status, status, "{target} {body}");
    }
    client.write(format!("POST /{MARK} HTTP/1.1\r\n{MARK} {MARK}\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(client.read().unwrap().status, 400);
    let stopped = bridge.stop_and_wait();
    assert_eq!((stopped.ledger["received"], stopped.ledger["delivered"]), (9, 4), "{:?}", stopped.ledger);
    for expected in ["refused", "\"librdkafka\"", "connection ended"] {
        assert!(stopped.stderr.contains(expected), "the log says little: no {expected}");
    }
    let leaks: Vec<&str> = stopped.stderr.lines().filter(|line| line.contains(MARK)).collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
}

#[test]
fn the_admin_listener_serves_probes_metrics_and_the_blocklist() {
    const OTHER_PATH: &str = "not found; the paths are /, /livez, /readyz, /metrics, /blocklist and /openapi.json\n";
    let bridge = embedded().start();
    assert_eq!(get(bridge.admin, "/blocklist").status, 200);
    for (path, status, text) in [
        ("/livez", 200, "alive\n"),
        ("/readyz", 200, "ready\n"),
        ("/readyz?verbose=1", 200, "ready\n"),
        ("//", 404, OTHER_PATH),
        ("/metrics/", 404, OTHER_PATH),
        ("/livez/x", 404, OTHER_PATH),
    ] {
        let response = get(bridge.admin, path);
        assert_eq!((response.status, response.text().as_str()), (status, text), "{path}");
    }
    let metrics = get(bridge.admin, "/metrics");
    assert_eq!((metrics.status, metrics.header("content-type")), (200, Some("text/plain; version=0.0.4")));
    let mut client = Client::connect(bridge.admin).unwrap();
    assert_eq!(client.request("HEAD", "/metrics", &[], b"").unwrap().status, 200);
    assert_eq!(client.post("/metrics", b"").unwrap().status, 405);
    assert_eq!(client.request("DELETE", "/livez", &[], b"").unwrap().status, 405);
}

#[test]
fn without_kafka_it_is_alive_but_not_ready_and_says_why() {
    let [callbacks, admin, kafka] = ports::free().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let bridge = Bridge::builder().brokers(&kafka.to_string()).ack("broker").listening_on(callbacks, admin).launch();
    wait::until("the admin pages are served", || Client::connect(admin).is_ok());
    assert_eq!(get(admin, "/livez").text(), "alive\n");
    let why = wait::until_ok("it says why", || {
        let ready = get(admin, "/readyz");
        assert_eq!(ready.status, 503);
        Some(ready.text()).filter(|text| text != "starting\n").ok_or("starting")
    });
    assert!(why.contains("kafka"), "{why}");
    assert_eq!(get(admin, "/metrics").status, 200);
    assert_eq!(bridge.stdout(), "", "no address before it is ready");
    let stopped = bridge.stop_and_wait();
    assert_eq!((stopped.code, stopped.ledger["received"]), (0, 0));
}

#[test]
fn metrics_are_what_prometheus_takes() {
    let bridge = embedded().start();
    let mut client = Client::connect(bridge.callbacks).unwrap();
    for number in 0..20 {
        assert_eq!(client.post(&target(load::COMMAND), load::body("@a", number).as_bytes()).unwrap().status, 200);
    }
    let text = get(bridge.admin, "/metrics").text();
    let families = families(&text);
    for (name, family) in &families {
        assert!(name.starts_with("callbridge_") || name.starts_with("process_"), "{name}");
        assert!(family.help.ends_with('.') && family.help.len() > 10, "{name}: {}", family.help);
        assert!(!family.samples.is_empty(), "{name} has no sample");
        assert_eq!(family.kind == "counter", name.ends_with("_total"), "{name} is a {}", family.kind);
        if family.kind == "histogram" {
            is_histogram(name, &family.samples);
        }
    }
    let answers = &families["callbridge_answer_after_duration_seconds"].samples;
    assert_eq!(answers["callbridge_answer_after_duration_seconds_count"], 20.0);
}

#[test]
fn readiness_and_the_phase_of_the_process_are_metrics() {
    let shown = |bridge: &Bridge| {
        let metrics = bridge.metrics();
        let phase = |(name, value): (&String, &f64)| {
            let phase = name.strip_prefix("callbridge_phase{phase=\"")?.strip_suffix("\"}")?;
            (*value == 1.0).then(|| phase.to_owned())
        };
        (metrics["callbridge_ready"], metrics.iter().filter_map(phase).collect::<Vec<_>>())
    };
    let [callbacks, admin, kafka] = ports::free().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let unready = Bridge::builder().brokers(&kafka.to_string()).ack("broker");
    let bridge = unready.listening_on(callbacks, admin).launch();
    wait::until("the admin pages are served", || Client::connect(admin).is_ok());
    assert_eq!(shown(&bridge), (0.0, vec!["starting".to_owned()]));
    let settings = "drain_seconds = 600\n[callbacks]\nkeep_accepting_ms = 500000\n";
    let mut bridge = embedded().settings(settings).start();
    assert_eq!(shown(&bridge), (1.0, vec!["serving".to_owned()]));
    bridge.signal(Signal::TERM);
    wait::until("it stops", || get(bridge.admin, "/readyz").text() == "stopping\n");
    assert_eq!(shown(&bridge), (0.0, vec!["keep_accepting".to_owned()]));
}

#[test]
fn the_standard_metrics_of_a_process_are_those_of_proc() {
    let bridge = embedded().start();
    let folder = Path::new("/proc").join(bridge.pid().as_raw_pid().to_string());
    let metrics = bridge.metrics();
    let status = fs::read_to_string(folder.join("status")).unwrap();
    let number = |name: &str| -> f64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let limits = fs::read_to_string(folder.join("limits")).unwrap();
    let max_fds: f64 =
        limits.split("Max open files").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    let is_near = |name: &str, expected: f64| (metrics[name] / expected - 1.0).abs() < 0.2;
    assert!(is_near("process_resident_memory_bytes", 1024.0 * number("VmRSS:")), "{metrics:#?}");
    assert!(is_near("process_virtual_memory_bytes", 1024.0 * number("VmSize:")), "{metrics:#?}");
    assert!(is_near("process_threads", number("Threads:")), "{metrics:#?}");
    assert!(is_near("process_open_fds", fs::read_dir(folder.join("fd")).unwrap().count() as f64), "{metrics:#?}");
    assert_eq!(metrics["process_max_fds"], max_fds);
    let now = clock::wall().0 as f64 / 1000.0;
    assert!((now - 120.0..=now).contains(&metrics["process_start_time_seconds"]), "{metrics:#?}");
    let cpu = metrics["process_cpu_seconds_total"];
    assert!((0.0..120.0).contains(&cpu), "{cpu}");
    // Scrapes cost some too.
    bridge.metrics_until(|metrics| metrics["process_cpu_seconds_total"] > cpu);
}

#[test]
fn its_memory_is_not_in_huge_pages() {
    let bridge = embedded().start();
    let status = fs::read_to_string(format!("/proc/{}/status", bridge.pid().as_raw_pid())).unwrap();
    assert!(status.contains("THP_enabled:\t0\n"), "{status}");
    assert_eq!(bridge.stop_and_wait().code, 0);
}

#[test]
fn strangers_and_unknown_commands_make_no_new_series() {
    let bridge = embedded().start();
    let before: BTreeSet<String> = bridge.metrics().into_keys().collect();
    let mut client = Client::connect(bridge.callbacks).unwrap();
    for number in 0..50 {
        let command = format!("Unknown.Command{number}");
        assert_eq!(client.post(&target(&command), b"{}").unwrap().status, 200);
        assert_eq!(client.post(&callback_target(&number.to_string(), &command), b"{}").unwrap().status, 403);
        assert_eq!(client.post(&format!("/{number}?x=1"), b"{}").unwrap().status, 200);
        assert_eq!(client.request(&format!("VERB{number}"), "/", &[], b"").unwrap().status, 405);
    }
    let metrics = bridge.metrics();
    assert_eq!(metrics["callbridge_callbacks_received_total{command=\"other\"}"], 150.0);
    assert_eq!(metrics["callbridge_probes_total"], 50.0);
    assert_eq!(metrics.into_keys().collect::<BTreeSet<String>>(), before);
}

#[test]
fn the_admin_listener_answers_while_the_only_callback_thread_is_busy() {
    let bridge = Bridge::builder().embedded().ack("memory").args(&["--workers", "1"]).start();
    // Each costs the thread milliseconds, and there is always a next.
    let body = format!(r#"{{"Official_Account":"a","SubscribeAccountList":[],"x":[{}0]}}"#, "[],".repeat(80_000));
    // Of the answer alone: the record may find no room.
    let (target, admin) = (target("OfficialAccount.CallbackBeforeAddSubscriber"), bridge.admin);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _nth in 0..4 {
            scope.spawn(|| {
                let mut client = Client::connect(bridge.callbacks).unwrap();
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(client.post(&target, body.as_bytes()).unwrap().status, 200);
                }
            });
        }
        for _nth in 0..20 {
            for path in ["/livez", "/readyz", "/metrics"] {
                assert_eq!(get(admin, path).status, 200, "{path}");
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

/// What a process left that has ended.
#[derive(Debug)]
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Runs callbridge to its end, with these variables and no others.
fn run(variables: &[(&str, &str)], args: &[&str]) -> Run {
    let folder = folder();
    let variables = variables.iter().map(|(name, value)| format!("{name}={value}"));
    let args = args.iter().map(|arg| (*arg).to_owned());
    let line: Vec<String> =
        ["-i".to_owned()].into_iter().chain(variables).chain([BINARY.to_owned()]).chain(args).collect();
    let mut process = Process::start(folder.path(), "env", &line);
    let code = process.wait(MINUTE);
    Run { code, stdout: process.stdout(), stderr: process.stderr() }
}

fn folder() -> TempDir {
    TempDir::with_prefix_in("face-", env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn write(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn target(command: &str) -> String {
    callback_target(APP, command)
}

fn get(address: SocketAddr, path: &str) -> Response {
    Client::connect(address).unwrap().request("GET", path, &[], b"").unwrap()
}

/// A metric with all that stands under its name.
struct Family {
    help: String,
    kind: String,
    /// By name and labels, as written.
    samples: BTreeMap<String, f64>,
}

/// Reads the text format as strictly as its description: each family once, HELP, TYPE, then its samples, each once.
fn families(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'));
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let (name, help) =
            line.strip_prefix("# HELP ").unwrap_or_else(|| panic!("no HELP: {line}")).split_once(' ').unwrap();
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
        assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
        let mut samples = BTreeMap::new();
        while let Some(sample) = lines.next_if(|line| !line.starts_with('#')) {
            let (series, value) = sample.rsplit_once(' ').unwrap();
            let (of, labels) = series.split_once('{').map_or((series, None), |(of, labels)| (of, Some(labels)));
            let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| of == format!("{name}{suffix}")), "{series} under {name}");
            labels.into_iter().flat_map(|labels| labels.strip_suffix('}').unwrap().split(',')).for_each(is_label);
            assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{series} twice");
        }
        let family = Family { help: help.to_owned(), kind: kind.to_owned(), samples };
        assert!(families.insert(name.to_owned(), family).is_none(), "{name} twice");
    }
    families
}

/// Ours hold no commas and no escapes.
fn is_label(label: &str) {
    let (name, value) = label.split_once('=').unwrap();
    assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{label}");
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap();
    assert!(value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte)), "{label}");
}

fn is_histogram(name: &str, samples: &BTreeMap<String, f64>) {
    let mut buckets: Vec<(f64, f64)> = samples
        .iter()
        .filter_map(|(series, count)| {
            let bound = series.strip_prefix(&format!("{name}_bucket{{le=\""))?.strip_suffix("\"}")?;
            Some((bound.replace('+', "").parse().unwrap(), *count))
        })
        .collect();
    buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
    assert!(buckets.is_sorted_by(|left, right| left.1 <= right.1), "{name}: {buckets:?}");
    let (last, total) = buckets.last().unwrap();
    assert!(last.is_infinite() && *total == samples[&format!("{name}_count")], "{name}: {buckets:?}");
    assert!(samples.contains_key(&format!("{name}_sum")));
}
