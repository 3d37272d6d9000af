//! Signals other than the two that stop it (`stop`): which reload files, which stop it too, and which do nothing.

use std::fs;
use std::path::Path;

use callbridge::clock;
use rustix::process::Signal;
use serde_json::Value;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::files::Files;
use crate::support::http;
use crate::support::http::Client;
use crate::support::journal;
use crate::support::load;
use crate::support::load::Load;
use crate::support::openssl::Pair;
use crate::support::ports;
use crate::support::powercut::PowerCut;
use crate::support::tools::number_of;
use crate::support::torture;
use crate::support::wait;

const RELOADED: &str = "reloaded by SIGHUP";

/// The lines of the log with that message so far, the cut line at the end aside.
fn logged(bridge: &Bridge, message: &str) -> Vec<Value> {
    let lines = bridge.stderr();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["fields"]["message"].as_str().unwrap().starts_with(message)).collect()
}

fn post(bridge: &Bridge) -> u16 {
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let target = http::callback_target(APP, load::COMMAND);
    client.post(&target, load::body("@a", 0).as_bytes()).unwrap().status
}

#[test]
fn sighup_reloads_blocklists_tokens_and_tls_and_logs_what_it_read() {
    let Some(pair) = Pair::make("server") else { return };
    let files = Files::new();
    let (list, token) = (files.write("list", "alice\n"), files.write("token", "a-token-of-this-test\n"));
    let [certificate, key] = [&pair.certificate, &pair.key].map(|path| path.to_str().unwrap());
    let text = format!("[callbacks.tls]\ncertificate_file = \"{certificate}\"\nkey_file = \"{key}\"\n");
    let args = ["--blocklist", &list, "--token-file", &token];
    let mut bridge = Bridge::builder().embedded().ack("memory").settings(&text).args(&args).start();

    // In place, so that it would be read only once it is still.
    fs::write(&list, "alice\nbob\n").unwrap();
    bridge.signal(Signal::HUP);
    wait::until("it says so", || !logged(&bridge, RELOADED).is_empty());
    assert_eq!(bridge.metrics()["callbridge_blocklist_rules"], 2.0);
    let mut read = [list.as_str(), &token, certificate, key];
    read.sort_unstable();
    let line = &logged(&bridge, RELOADED)[0];
    assert_eq!((line["level"].as_str(), line["fields"]["read"].as_str()), (Some("INFO"), Some(&*read.join(", "))));
    let reloads = ["callbridge_tls_reloads_total", "callbridge_token_reloads_total"].map(|name| bridge.metrics()[name]);
    assert_eq!(reloads, [1.0, 1.0]);

    // What cannot be used is named with the reason, each time, and stays in force.
    fs::write(&list, "block\n").unwrap();
    fs::copy(Pair::make("another").unwrap().key, key).unwrap();
    for nth in 2..=3 {
        bridge.signal(Signal::HUP);
        wait::until("it says so again", || logged(&bridge, RELOADED).len() == nth);
        let line = &logged(&bridge, RELOADED)[nth - 1];
        let failed = line["fields"]["failed"].as_str().unwrap();
        assert_eq!(line["level"], "WARN");
        assert!(failed.contains(&format!("{list}: line 1: the line ends")), "{failed}");
        assert!(failed.contains("callbacks.tls: use the certificate with the key"), "{failed}");
    }
    assert_eq!(bridge.metrics()["callbridge_blocklist_rules"], 2.0);
    bridge.stop_in_order();
}

#[test]
fn sighup_under_load_fails_no_callback_in_any_mode() {
    const RELOADS: usize = 20;
    for ack in ["memory", "broker", "journal"] {
        let files = Files::new();
        let list = files.write("list", "alice\n");
        let mut bridge = Bridge::builder().embedded().ack(ack).args(&["--blocklist", &list]).start();
        let rate = u32::try_from(number_of("CALLBRIDGE_RELOAD_RATE", 500)).unwrap();
        let load = Load::start_at_rate(bridge.callbacks, APP, 16, 1, rate);
        let began = clock::monotonic();
        wait::until("callbacks are taken", || load.acknowledged() >= 1000);
        for nth in 1..=RELOADS {
            fs::write(&list, format!("user{nth}\n")).unwrap();
            bridge.signal(Signal::HUP);
            let goal = load.acknowledged() + u64::from(rate) / 10;
            wait::until("it reloads", || logged(&bridge, RELOADED).len() == nth && load.acknowledged() >= goal);
        }
        let (seconds, outcome) = (began.elapsed().as_secs_f64(), load.stop());
        let failed = outcome.issued.iter().filter(|sent| sent.status != Some(200)).count();
        let sent = outcome.issued.len();
        torture::say(&format!("{ack}: {RELOADS} reloads, {sent} callbacks in {seconds:.1} s, {failed} failed"));
        assert_eq!(failed, 0, "{ack}: of {sent}");
        bridge.stop_in_order();
    }
}

#[test]
fn sighup_while_the_journal_is_read_reloads_once_it_has_started() {
    let Some(disk) = PowerCut::mount(8) else { return };
    let files = Files::new();
    let list = files.write("list", "alice\n");
    let brokers = ports::nobody();
    let settings = journal::builder(&brokers, "signals", "").args(&["--blocklist", &list]);
    // It syncs the directory when it has read what is there.
    disk.freeze_syncs();
    let mut bridge = settings.launch_in(disk.path());
    wait::until("it reads the journal", || disk.frozen_syncs() > 0);
    bridge.signal(Signal::HUP);
    disk.thaw_syncs();
    bridge.wait_until_ready();
    wait::until("it reloads", || logged(&bridge, RELOADED).len() == 1);
    assert_eq!(bridge.stop_and_wait().code, 0);
}

#[test]
fn sigquit_stops_it_as_sigterm_does() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let prefix = ["sh", "-c", r#"ulimit -c unlimited; cd "$0"; exec "$@""#, folder.path().to_str().unwrap()];
    let mut bridge = Bridge::builder().embedded().ack("memory").under(&prefix.map(str::to_owned)).start();
    assert_eq!(post(&bridge), 200);
    bridge.signal(Signal::QUIT);
    let stopped = bridge.wait();
    assert_eq!((stopped.code, stopped.ledger["delivered"], stopped.ledger["waiting"]), (0, 1, 0), "{}", stopped.stderr);
    assert!(is_empty(folder.path()), "no core dump");
}

#[test]
fn signals_for_other_programs_do_not_end_it_nor_cut_a_stop() {
    let settings = "drain_seconds = 60\n[callbacks]\nkeep_accepting_ms = 4000\n";
    let mut bridge = Bridge::builder().embedded().ack("memory").settings(settings).start();
    let others = [Signal::HUP, Signal::USR1, Signal::USR2, Signal::PIPE];
    for signal in others {
        bridge.signal(signal);
        assert_eq!(post(&bridge), 200, "{signal:?}");
    }
    wait::until("it says so", || {
        let ignored = logged(&bridge, "signal ignored").len();
        (ignored, logged(&bridge, "nothing to reload by SIGHUP").len()) == (2, 1)
    });
    bridge.signal(Signal::TERM);
    wait::until("it stops", || bridge.admin_page("/readyz").1 == "stopping\n");
    for signal in others {
        bridge.signal(signal);
        assert_eq!(post(&bridge), 200, "{signal:?}");
    }
    let stopped = bridge.wait();
    assert_eq!((stopped.code, stopped.ledger["delivered"], stopped.ledger["waiting"]), (0, 8, 0), "{}", stopped.stderr);
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}
