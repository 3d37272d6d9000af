//! callbridge tried out with nothing but itself: the broker inside it, and `make run`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use callbridge::clock;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::seeds;
use crate::seeds::APP;
use crate::support::bridge;
use crate::support::bridge::Bridge;
use crate::support::curl;
use crate::support::foreign;
use crate::support::http;
use crate::support::process;
use crate::support::process::Process;
use crate::support::real;
use crate::support::tools::number_of;
use crate::support::torture;
use crate::support::wait;

const MINUTE: Duration = Duration::from_secs(60);

const CALLBRIDGE: &str = env!("CARGO_BIN_EXE_callbridge");

#[test]
fn the_embedded_broker_prints_its_address_and_that_it_persists_nothing() {
    let bridge = Bridge::builder().embedded().ack("broker").start();
    let seed = &seeds::AFTER_ADD_SUBSCRIBER;

    let target = http::callback_target(APP, seed.command);
    let Some(answer) = curl::post_file(bridge.callbacks, &target, seed.path) else { return };

    assert_eq!(answer.status, 200, "{}", answer.body);
    let stdout = bridge.stdout();
    let kafka = bridge::address(&stdout, "kafka").unwrap();
    let keeps_nothing = "the embedded broker stores nothing: its records are lost when callbridge stops";
    let (callbacks, admin) = (bridge.callbacks, bridge.admin);
    let lines = [
        format!("kafka on {kafka}"),
        keeps_nothing.to_owned(),
        format!("callbacks on http://{callbacks}"),
        format!("admin on http://{admin}"),
    ];
    assert_eq!(stdout.lines().collect::<Vec<_>>(), lines);
    let topic = format!("tencent-chat.{}", seed.command);
    let Some(records) = foreign::kcat_from(&kafka.to_string(), &[&topic]) else { return };
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].key.as_deref(), Some(seed.account.as_bytes()));
    let envelope: Value = serde_json::from_slice(&records[0].value).unwrap();
    assert_eq!(envelope["id"], seed.id);
}

#[test]
fn starts_one_after_the_other_with_an_embedded_broker_get_ready() {
    let mut took = Vec::new();
    for _start in 0..number_of("CALLBRIDGE_STARTS", 3) {
        let began = clock::monotonic();
        let bridge = Bridge::builder().embedded().all_topics().start();
        took.push(began.elapsed().as_millis());
        // Killed: the stop is not what this is about.
        drop(bridge);
    }
    torture::say(&format!("ready after so many milliseconds, with a topic for each command: {took:?}"));
}

#[test]
fn the_example_blocklist_is_a_good_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/blocklist.example.txt");
    let args = ["check", "--embedded-broker", "--sdk-app-id", APP, "--blocklist"];
    let output = Command::new(CALLBRIDGE).args(args).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains(&format!("blocklist ok: {}", path.display())), "{stdout}");
}

#[test]
fn the_lines_that_make_run_prints_do_what_it_says_of_them() {
    let found = Command::new("kcat").arg("-V").output().map(drop).map_err(|_missing| "there is no kcat".to_owned());
    let Some(()) = real::found_or_skipped(found) else { return };
    let run = Run::start(&[]);
    let lines = run.lines_to_paste();
    assert_eq!(lines.len(), 4, "{}", run.process.stdout());

    assert_eq!(pasted(&lines[0]), "{\"ActionStatus\":\"OK\",\"ErrorInfo\":\"\",\"ErrorCode\":0}\n");
    let refused = "\"RefusedSubscribers_Account\":[\"mallory\"]";
    assert_eq!(
        pasted(&lines[1]),
        format!("{{\"ActionStatus\":\"OK\",\"ErrorInfo\":\"\",\"ErrorCode\":0,{refused}}}\n")
    );
    // The answer was given when it was on disk; Kafka has it a moment later.
    until(&lines[2], |printed| !printed.is_empty());
    until(&lines[3], |printed| !printed.is_empty());
    let after = envelope(&lines[2]);
    assert_eq!(after["data"]["event"]["subscribers"][0], "alice");
    assert_eq!(after["timesource"], "callback");
    let before = envelope(&lines[3]);
    assert_eq!(before["data"]["decision"]["refused"][0], "mallory");
    assert_eq!(before["decision"], "refuse");

    let stdout = run.stop();
    let ledger = bridge::ledger(&stdout);
    assert_eq!((ledger["received"], ledger["delivered"]), (2, 2), "{stdout}");
}

#[test]
fn where_there_is_no_kcat_make_run_prints_what_helps_without_it() {
    let tools = TempDir::with_prefix_in("tools-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    for tool in ["sh", "make", "dirname", "date", "mktemp", "mkfifo", "rm"] {
        symlink(path_of(tool), tools.path().join(tool)).unwrap();
    }
    let run = Run::start(&[("PATH", tools.path().to_str().unwrap())]);
    let lines = run.lines_to_paste();
    assert_eq!(lines.len(), 3, "{}", run.process.stdout());
    let kafka = bridge::address(&run.process.stdout(), "kafka").unwrap();
    assert!(run.process.stdout().contains(&format!("any Kafka client reads from {kafka}")));

    pasted(&lines[0]);

    let command = seeds::AFTER_ADD_SUBSCRIBER.command;
    let received = format!("callbridge_callbacks_received_total{{command=\"{command}\"}} 1\n");
    until(&lines[2], |printed| printed == format!("callbridge_callbacks_delivered_total 1\n{received}"));
}

/// `make run` on free ports.
struct Run {
    process: Process,
    _folder: TempDir,
}

impl Run {
    fn start(variables: &[(&str, &str)]) -> Self {
        let folder = TempDir::with_prefix_in("run-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let callbridge = format!("CALLBRIDGE={CALLBRIDGE}");
        let variables: Vec<String> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut args: Vec<&str> = variables.iter().map(String::as_str).collect();
        // The flags of a make that runs the tests are not for this one.
        args.extend(["MAKEFLAGS=", "make", "-s", "-C", env!("CARGO_MANIFEST_DIR"), "run", &callbridge]);
        let data = format!("DATA={}", folder.path().join("journal").display());
        args.extend(["LISTEN=127.0.0.1:0", "ADMIN=127.0.0.1:0", &data]);
        Self { process: Process::start(folder.path(), "env", &args), _folder: folder }
    }

    /// Waits for all of them. They are indented, as nothing else is.
    fn lines_to_paste(&self) -> Vec<String> {
        wait::until_ok("the lines are printed", || {
            let stdout = self.process.stdout();
            if stdout.contains("Ctrl-C stops it.") { Ok(()) } else { Err(stdout + &self.process.stderr()) }
        });
        self.process.stdout().lines().filter_map(|line| line.strip_prefix("  ")).map(str::to_owned).collect()
    }

    /// Stops make, and so callbridge. Returns all that was printed, once the ledger is there.
    fn stop(mut self) -> String {
        self.process.signal(Signal::TERM);
        self.process.wait(MINUTE);
        wait::until_ok("the ledger is printed", || {
            let stdout = self.process.stdout();
            let has_ledger = stdout.lines().last().is_some_and(|line| line.starts_with("ledger "));
            if has_ledger && stdout.ends_with('\n') { Ok(stdout) } else { Err(stdout + &self.process.stderr()) }
        })
    }
}

impl Drop for Run {
    /// Gently, because the harness would kill make only and leave callbridge.
    fn drop(&mut self) {
        self.process.signal(Signal::TERM);
        if !thread::panicking() {
            self.process.wait(MINUTE);
            return;
        }
        let deadline = clock::monotonic() + MINUTE;
        while self.process.exit_code().is_none() && clock::monotonic() < deadline {
            thread::sleep(process::POLL);
        }
    }
}

/// What a line prints when it is pasted into a shell.
fn pasted(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Pastes a line until it prints what is wanted: the answer to a question does not wait for Kafka, and a scrape shows
/// what is so now.
fn until(line: &str, is_wanted: impl Fn(&str) -> bool) -> String {
    wait::until_ok(line, || {
        let printed = pasted(line);
        if is_wanted(&printed) { Ok(printed) } else { Err(printed) }
    })
}

/// The one record that a kcat line shows.
fn envelope(line: &str) -> Value {
    serde_json::from_str(&until(line, |printed| !printed.is_empty())).unwrap()
}

fn path_of(tool: &str) -> String {
    let folders = std::env::var("PATH").unwrap();
    let mut paths = folders.split(':').map(|folder| format!("{folder}/{tool}"));
    paths.find(|path| fs::metadata(path).is_ok()).unwrap_or_else(|| panic!("there is no {tool}"))
}
