//! A load that goes on while callbridge crashes again and again; and what became of all that it sent.
//!
//! Every callback has a number, and is sent once. One that was answered 200 is owed: it must come out of Kafka, as it went
//! in. One without that answer may come out or not. What nobody sent must not, and each key's callbacks come out in order,
//! repeats aside.

use std::collections::BTreeSet;
use std::env;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::bridge::Stopped;
use crate::support::http;
use crate::support::http::Client;
use crate::support::kafka::Kafka;
use crate::support::ledger::Ledger;
use crate::support::load;
use crate::support::load::Load;
use crate::support::load::Outcome;
use crate::support::load::Sent;
use crate::support::oracle;
use crate::support::powercut::dice::Dice;
use crate::support::reader::Reader;
use crate::support::reader::Record;
use crate::support::wait;

/// A start takes longer than this, so that some starts are crashed on the way.
const STARTING_MILLISECONDS_MAX: u64 = 300;

/// How many crashes there shall be instead of those that a test plans.
const CRASHES_VARIABLE: &str = "CALLBRIDGE_TORTURE_CRASHES";

/// Where callbridge lives, and how it dies there.
pub(crate) trait Site {
    /// Starts it (`Bridge::launch`), and waits for nothing. What an earlier one left behind is there.
    fn launch(&mut self) -> Bridge;

    /// Crashes it while it takes callbacks, and returns when the next one may start.
    fn crash(&mut self, bridge: Bridge) -> Stopped;

    /// The same while it starts.
    fn crash_starting(&mut self, bridge: Bridge) -> Stopped {
        self.crash(bridge)
    }
}

/// How hard it is.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Decides when each crash comes.
    pub(crate) seed: u64,
    pub(crate) crashes: u32,
    pub(crate) clients: u64,
    /// Between two callbacks of one client.
    pub(crate) pause: Duration,
    /// A crash comes after at most so many answers of 200 since the start.
    pub(crate) acknowledged_max: u64,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// What was answered 200.
    pub(crate) owed: BTreeSet<u64>,
    /// What was sent and had no answer, because of a crash.
    pub(crate) unanswered: BTreeSet<u64>,
    /// What came out of Kafka.
    pub(crate) seen: BTreeSet<u64>,
    /// What is owed and did not come out.
    pub(crate) lost: BTreeSet<u64>,
    /// How many records were not the first of their callback.
    pub(crate) repeats: usize,
    /// How many callbacks the starts found in the journal, not known to be in Kafka: what they deliver may be a repeat.
    pub(crate) recovered: u64,
}

impl Plan {
    /// With as many crashes as the environment says, if it says so.
    pub(crate) fn or_as_told(self) -> Self {
        let told = env::var(CRASHES_VARIABLE).ok();
        let crashes = told.map_or(self.crashes, |told| told.parse().expect("a number of crashes"));
        Self { crashes, ..self }
    }
}

/// Crashes it as planned, lets the last one work off what is left, and judges what is in `topic`, which is the load's.
///
/// # Panics
/// When something came out that nobody sent, or not as it was sent, or a key's order is broken; when nothing gets through
/// any more; or when the last one does not stop in peace with a ledger that balances.
pub(crate) fn run(site: &mut impl Site, kafka: &Kafka, topic: &str, plan: &Plan) -> Verdict {
    let Crashed { bridge, mut outcome, mut recovered } = crash(site, plan);
    send_until_acknowledged(&bridge, &mut outcome);
    // With the crashes grow what is left on a machine that is too busy for Kafka, and the repeats.
    let (mut records, limit) = (Vec::new(), Duration::from_secs(60) * (2 + plan.crashes / 100));
    wait::until_within(limit, "nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
    Reader::open(&kafka.client(), &[topic]).pass_to_end(limit, |record| records.push(record));
    let stopped = bridge.stop_and_wait();
    assert!(stopped.code == 0 && stopped.is_balanced(), "{stopped:?}");
    recovered += recovered_by(&stopped);
    let verdict = Verdict { recovered, ..judge(&outcome, &records) };
    say(&verdict.summary());
    verdict
}

/// After the last crash.
pub(crate) struct Crashed {
    /// It takes callbacks.
    pub(crate) bridge: Bridge,
    pub(crate) outcome: Outcome,
    recovered: u64,
}

/// Crashes it as planned.
pub(crate) fn crash(site: &mut impl Site, plan: &Plan) -> Crashed {
    say(&format!("{plan:?}"));
    let mut dice = Dice::new(plan.seed);
    let mut recovered = 0;
    let mut bridge = ready(site);
    let load = Load::start(bridge.callbacks, APP, plan.clients, plan.pause);
    for _crash in 0..plan.crashes {
        let goal = load.acknowledged() + 1 + dice.below(plan.acknowledged_max);
        wait::until("callbacks are acknowledged", || load.acknowledged() >= goal);
        load.aim_nowhere();
        recovered += recovered_by(&site.crash(bridge));
        while dice.below(3) == 0 {
            let starting = site.launch();
            // Any moment will do: this waits for nothing.
            thread::sleep(Duration::from_millis(dice.below(STARTING_MILLISECONDS_MAX)));
            recovered += recovered_by(&site.crash_starting(starting));
        }
        bridge = ready(site);
        load.aim(bridge.callbacks);
    }
    Crashed { bridge, outcome: load.stop(), recovered }
}

/// What that one found in its journal, by its log.
fn recovered_by(stopped: &Stopped) -> u64 {
    let lines = stopped.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter_map(|line| line["fields"]["recovered"].as_u64()).sum()
}

fn ready(site: &mut impl Site) -> Bridge {
    let mut bridge = site.launch();
    bridge.wait_until_ready();
    bridge
}

/// Sends fresh callbacks of a key of their own, until one gets through.
fn send_until_acknowledged(bridge: &Bridge, outcome: &mut Outcome) {
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let target = http::callback_target(APP, load::COMMAND);
    let mut sequence = u64::MAX / 2;
    wait::until("a fresh callback gets through", || {
        sequence += 1;
        let key = "@TOA#_fresh".to_owned();
        let status = client.post(&target, load::body(&key, sequence).as_bytes()).unwrap().status;
        outcome.issued.push(Sent { key, sequence, status: Some(status) });
        status == 200
    });
}

/// Compares what came out with what was sent.
pub(crate) fn judge(outcome: &Outcome, records: &[Record]) -> Verdict {
    let with = |status: Option<u16>| -> BTreeSet<u64> {
        outcome.issued.iter().filter(|sent| sent.status == status).map(|sent| sent.sequence).collect()
    };
    let (owed, unanswered) = (with(Some(200)), with(None));
    let others = outcome.issued.iter().filter(|sent| !matches!(sent.status, None | Some(200 | 503)));
    assert_eq!(others.count(), 0, "a status that is none of these");
    let seen = oracle::seen(outcome, records);
    for record in records {
        assert!(is_as_sent(record), "not as it was sent: {}", String::from_utf8_lossy(&record.value));
    }
    let lost = owed.difference(&seen).copied().collect();
    let repeats = records.len() - seen.len();
    Verdict { owed, unanswered, seen, lost, repeats, recovered: 0 }
}

/// Whether the envelope holds the body as it was sent, to the byte.
fn is_as_sent(record: &Record) -> bool {
    let (key, value) = (str::from_utf8(record.key.as_ref().unwrap()).unwrap(), str::from_utf8(&record.value).unwrap());
    let name = value.split(r#""Name":""#).nth(1).and_then(|rest| rest.split('"').next()?.parse().ok());
    name.is_some_and(|sequence| value.contains(&load::body(key, sequence)))
}

impl Verdict {
    fn summary(&self) -> String {
        let Self { owed, unanswered, seen, lost, repeats, recovered } = self;
        let late = seen.intersection(unanswered).count();
        format!(
            "{} owed, {} unanswered (of them {late} came out), {} seen, {} lost, {repeats} repeats of {recovered} recovered",
            owed.len(),
            unanswered.len(),
            seen.len(),
            lost.len()
        )
    }

    /// A restart delivers again only what it found in the journal: what came in the last second or so before the crash, and what
    /// was on its way.
    ///
    /// # Panics
    /// When more came twice.
    pub(crate) fn assert_repeats_are_bounded(&self) {
        assert!(self.repeats as u64 <= self.recovered, "{}", self.summary());
    }

    /// # Panics
    /// When something is lost.
    pub(crate) fn assert_nothing_is_lost(&self) {
        assert!(self.lost.is_empty(), "{}: {:?}", self.summary(), self.lost);
    }
}

/// Says what a test did. By macro, so that it stands with the output of the test that failed.
#[expect(clippy::print_stderr, reason = "what a failed test did")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}
