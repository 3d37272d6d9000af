//! Signed callbacks: which are taken, what the others are told, and how tokens change under way.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use callbridge::clock;
use serde_json::Value;
use sha2::Digest;
use sha2::Sha256;
use tempfile::TempDir;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::bridge::BridgeBuilder;
use crate::support::http::Client;
use crate::support::http::Response;
use crate::support::http::callback_target;
use crate::support::load;

#[test]
fn accepts_valid_signatures_with_digits_of_either_case() {
    let files = TokenFiles::new();
    let bridge = embedded(&["--token-file", &files.write("token", "xxxxyyyy")]).start();
    let mut client = connect(&bridge);
    for number in 0..3 {
        let time = now().to_string();
        let sign = sign("xxxxyyyy", &time);
        let sign = if number == 1 { sign.to_uppercase() } else { sign };
        assert_eq!(post(&mut client, &format!("&Sign={sign}&RequestTime={time}")).status, 200);
    }
    // Order and case of the names mean nothing.
    let time = now().to_string();
    let target = callback_target(APP, load::COMMAND);
    let target = target.replace("/?", &format!("/?requesttime={time}&sign={}&", sign("xxxxyyyy", &time)));
    assert_eq!(client.post(&target, load::body("@a", 0).as_bytes()).unwrap().status, 200);
    let stopped = bridge.stop_and_wait();
    assert_eq!((stopped.code, stopped.ledger["delivered"]), (0, 4), "{stopped:?}");
}

#[test]
pub(crate) fn rejects_missing_wrong_and_stale_signatures_with_distinct_reasons() {
    let files = TokenFiles::new();
    let bridge = embedded(&["--token-file", &files.write("token", "xxxxyyyy")]).start();
    let mut client = connect(&bridge);
    let now = now();
    let at = |time: u64| format!("&Sign={}&RequestTime={time}", sign("xxxxyyyy", &time.to_string()));
    // An hour: the answers must not depend on how busy the machine is.
    let cases = [
        (String::new(), "Sign is missing in the query"),
        (format!("&RequestTime={now}"), "Sign is missing in the query"),
        (format!("&Sign={}", sign("xxxxyyyy", &now.to_string())), "RequestTime is missing in the query"),
        (format!("&Sign={}&RequestTime={now}", sign("yyyyxxxx", &now.to_string())), "Sign is wrong"),
        (format!("&Sign={}&RequestTime={}", sign("xxxxyyyy", &now.to_string()), now + 1), "Sign is wrong"),
        (format!("&Sign=17773bc39a&RequestTime={now}"), "Sign is wrong"),
        (format!("&Sign={}&RequestTime={}", sign("yyyyxxxx", "1669872112"), 1_669_872_112), "Sign is wrong"),
        (at(now - 3600), " seconds away from now; at most 60 are taken"),
        (at(now + 3600), " seconds away from now; at most 60 are taken"),
        (at(1_669_872_112), " seconds away from now; at most 60 are taken"),
        (format!("{}&Sign=0", at(now)), "Sign is given more than once in the query"),
    ];
    for (query, says) in &cases {
        let response = post(&mut client, query);
        let status = if says.contains("more than once") { 400 } else { 403 };
        assert_eq!(response.status, status, "{query}");
        let body: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!((&body["ActionStatus"], &body["ErrorCode"]), (&"FAIL".into(), &1.into()));
        assert!(body["ErrorInfo"].as_str().unwrap().ends_with(says), "{query}: {body}");
    }
    let metrics = bridge.metrics();
    let refused = |reason: &str| metrics[&format!("callbridge_callbacks_refused_total{{reason=\"{reason}\"}}")];
    assert_eq!(["sign_missing", "sign_wrong", "sign_stale", "query"].map(refused), [3.0, 4.0, 3.0, 1.0]);
    let stopped = bridge.stop_and_wait();
    assert!(stopped.is_balanced() && stopped.ledger["refused"] == 11, "{stopped:?}");
}

#[test]
fn the_official_signature_is_right_but_stale_and_the_window_can_be_widened() {
    // Tencent's documents, of December 2022: only stale, so rightly signed.
    let official = "&Sign=17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061&RequestTime=1669872112";
    let files = TokenFiles::new();
    let token = files.write("token", "xxxxyyyy\n");
    let bridge = embedded(&["--token-file", &token]).settings("callbacks.sign_window_seconds = 86400").start();
    let mut client = connect(&bridge);
    assert!(post(&mut client, official).text().contains("at most 86400 are taken"));
    let time = (now() - 3600).to_string();
    assert_eq!(post(&mut client, &format!("&Sign={}&RequestTime={time}", sign("xxxxyyyy", &time))).status, 200);
}

#[test]
fn every_token_of_every_file_is_good() {
    let files = TokenFiles::new();
    let (two, one) = (files.write("two", "\n first \r\nsecond"), files.write("one", "third\n"));
    let bridge = embedded(&["--token-file", &two, "--token-file", &one]).start();
    let mut client = connect(&bridge);
    assert_eq!(["first", "second", "third", "fourth"].map(|token| status(&mut client, token)), [200, 200, 200, 403]);
}

#[test]
fn a_token_file_that_is_replaced_counts_without_a_restart_and_without_a_gap() {
    let files = TokenFiles::new();
    let bridge = embedded(&["--token-file", &files.write("token", "old")]).start();
    let mut client = connect(&bridge);
    assert_eq!(["old", "new"].map(|token| status(&mut client, token)), [200, 403]);

    files.replace("token", "old\nnew");
    reloaded(&bridge, 1.0);
    assert_eq!(["old", "new"].map(|token| status(&mut client, token)), [200, 200]);

    files.replace("token", "new");
    reloaded(&bridge, 2.0);
    assert_eq!(["old", "new"].map(|token| status(&mut client, token)), [403, 200]);

    // In place, as an editor may do it.
    files.write("token", "newer");
    reloaded(&bridge, 3.0);
    assert_eq!(["new", "newer"].map(|token| status(&mut client, token)), [403, 200]);
}

#[test]
fn a_token_file_that_turns_bad_keeps_its_tokens_in_force_and_is_logged_once() {
    let files = TokenFiles::new();
    let token = files.write("token", "open-sesame");
    let bridge = embedded(&["--token-file", &token]).settings("log.filter = \"trace\"").start();
    let mut client = connect(&bridge);
    let failing = |failing: f64, errors: f64| {
        bridge.metrics_until(|metrics| {
            metrics["callbridge_token_files_failing"] == failing
                && metrics["callbridge_token_file_errors_total"] == errors
        });
    };
    files.replace("token", "\n\n");
    failing(1.0, 1.0);
    assert_eq!(["open-sesame", ""].map(|token| status(&mut client, token)), [200, 403]);
    fs::remove_file(&token).unwrap();
    failing(1.0, 2.0);
    assert_eq!(status(&mut client, "open-sesame"), 200);
    files.replace("token", "sesame-opens");
    failing(0.0, 2.0);
    assert_eq!(["open-sesame", "sesame-opens"].map(|token| status(&mut client, token)), [403, 200]);

    let stopped = bridge.stop_and_wait();
    let errors = stopped.stderr.lines().filter(|line| line.contains("\"level\":\"ERROR\""));
    let failures: Vec<Value> = errors.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert_eq!((&failures[0]["fields"]["kind"], &failures[0]["fields"]["file"]), (&"token".into(), &token.into()));
    assert_eq!(failures[0]["fields"]["failure"], "holds no token");
    assert!(!stopped.stderr.contains("open-sesame") && !stopped.stderr.contains("sesame-opens"));
}

#[test]
fn applications_are_signed_each_with_its_own_tokens_or_not_at_all() {
    let files = TokenFiles::new();
    files.write("one", "of-one");
    files.write("two", "of-two");
    // Relative to the file, as all paths in it.
    let config = "[[apps]]\nsdk_app_id = 1\ntoken_files = [\"one\"]\n[[apps]]\nsdk_app_id = 2\n\
                  token_files = [\"two\"]\n[[apps]]\nsdk_app_id = 3\n";
    let config = files.write("callbridge.toml", config);
    let bridge = Bridge::builder().args(&["--config", &config, "--embedded-broker", "--ack", "memory"]).start();
    let mut client = connect(&bridge);
    let mut status = |app: &str, token: &str| {
        let target = format!("{}{}", callback_target(app, load::COMMAND), signed(token));
        client.post(&target, load::body("@a", 0).as_bytes()).unwrap().status
    };
    for (app, statuses) in [("1", [200, 403]), ("2", [403, 200]), ("3", [200, 200])] {
        assert_eq!(["of-one", "of-two"].map(|token| status(app, token)), statuses, "{app}");
    }
    assert_eq!(client.post(&callback_target("3", load::COMMAND), load::body("@a", 0).as_bytes()).unwrap().status, 200);
    assert_eq!(client.post(&callback_target("1", load::COMMAND), load::body("@a", 0).as_bytes()).unwrap().status, 403);
}

#[test]
fn a_token_file_that_cannot_be_used_at_the_start_is_78_and_named() {
    let files = TokenFiles::new();
    let (good, empty) = (files.write("good", "0123456789abcdef\nfedcba9876543210\n"), files.write("empty", "\n"));
    let comment = files.write("comment", "# tencent token\nxxxxyyyy\n");
    let missing = files.path("missing").display().to_string();
    let args = |command| {
        let apps = ["--sdk-app-id", "1", "--sdk-app-id", "2", "--listen", "127.0.0.1:0", "--admin-listen"];
        let tokens = [&good, &empty, &missing, &comment].map(|file| ["--token-file", file]).concat();
        [&[command], &apps[..], &["127.0.0.1:0", "--embedded-broker", "--ack", "memory"], &tokens]
            .concat()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let run = |command| {
        let binary = env!("CARGO_BIN_EXE_callbridge");
        let output = Command::new(binary).args(args(command)).env_remove("CALLBRIDGE_REQUIRE_REAL").output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };

    let (code, stdout, stderr) = run("serve");
    assert_eq!((code, stdout.as_str()), (Some(78), ""), "{stderr}");
    let last: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
    let error = last["fields"]["error"].as_str().unwrap();
    assert!(error.starts_with("use the token files: cannot be used: "), "{error}");
    assert!([&empty, &missing, &comment].iter().all(|file| error.contains(*file)) && !error.contains(&good), "{error}");

    let (code, stdout, stderr) = run("check");
    assert_eq!(code, Some(78));
    assert!(stdout.ends_with(&format!("\ntokens ok: {good}: 2 tokens\n")), "{stdout}");
    let comment = format!("{comment}: line 1: begins with '#', which no token does; a token file has no comments");
    let expected = format!("{comment}\n{empty}: holds no token\n{missing}: No such file or directory (os error 2)\n");
    assert_eq!(stderr, expected);
}

#[test]
fn warns_of_tokens_under_16_bytes_at_the_start_and_at_each_reload() {
    let files = TokenFiles::new();
    let token = files.write("token", "xxxxyyyy\n0123456789abcdef");
    let bridge = embedded(&["--token-file", &token]).start();
    files.replace("token", "0123456789abcdef");
    reloaded(&bridge, 1.0);
    files.replace("token", "xxxxyyyy");
    reloaded(&bridge, 2.0);
    let stopped = bridge.stop_and_wait();
    let weak = stopped.stderr.lines().filter(|line| line.contains("weak tokens"));
    let weak: Vec<Value> = weak.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(weak.len(), 2, "{weak:#?}");
    for (line, count) in weak.iter().zip(["1 of 2", "1 of 1"]) {
        assert_eq!((&line["level"], &line["fields"]["file"]), (&"WARN".into(), &token.as_str().into()));
        assert!(line["fields"]["weakness"].as_str().unwrap().starts_with(count), "{line}");
    }
}

#[test]
fn warns_at_the_start_of_an_application_whose_callbacks_are_unsigned() {
    let files = TokenFiles::new();
    let token = files.write("token", "0123456789abcdef");
    let is_warned = |args: &[&str]| {
        let stderr = embedded(args).start().stop_and_wait().stderr;
        stderr.lines().any(|line| line.contains("\"WARN\"") && line.contains("callbacks are accepted unsigned"))
    };
    assert_eq!([is_warned(&[]), is_warned(&["--token-file", &token])], [true, false]);
}

/// Files in a folder of their own, gone when dropped.
struct TokenFiles {
    folder: TempDir,
}

impl TokenFiles {
    fn new() -> Self {
        Self { folder: TempDir::with_prefix_in("tokens-", env!("CARGO_TARGET_TMPDIR")).unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::join(self.folder.path(), name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }

    fn replace(&self, name: &str, text: &str) {
        self.write("next", text);
        fs::rename(self.path("next"), self.path(name)).unwrap();
    }
}

fn embedded(args: &[&str]) -> BridgeBuilder {
    Bridge::builder().embedded().ack("memory").args(args)
}

fn connect(bridge: &Bridge) -> Client {
    Client::connect(bridge.callbacks).unwrap()
}

/// Posts a callback with `more` behind its query.
fn post(client: &mut Client, more: &str) -> Response {
    let target = format!("{}{more}", callback_target(APP, load::COMMAND));
    client.post(&target, load::body("@TOA#_signed", 0).as_bytes()).unwrap()
}

/// What a callback is answered that is signed now with `token`.
fn status(client: &mut Client, token: &str) -> u16 {
    post(client, &signed(token)).status
}

pub(crate) fn signed(token: &str) -> String {
    let time = now().to_string();
    format!("&Sign={}&RequestTime={time}", sign(token, &time))
}

fn sign(token: &str, time: &str) -> String {
    Sha256::digest(format!("{token}{time}")).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn now() -> u64 {
    u64::try_from(clock::wall().0 / 1000).unwrap()
}

/// Waits until tokens have been read anew as often as that.
fn reloaded(bridge: &Bridge, times: f64) -> BTreeMap<String, f64> {
    bridge.metrics_until(|metrics| metrics["callbridge_token_reloads_total"] == times)
}
