//! The blocklist at full size, without Kafka: memory, load, lookups, changes and catch-up, each beside its target.
//!
//! `cargo bench --bench blocklist` measures one million entries, then ten million, each in a process of its own, so that neither has
//! the memory of the other. A number behind `--` measures that many. Ids have 6 to 32 letters, 19 on average. CPU is the time that the
//! thread ran; on a busy machine the time on the clock is longer. `one dependent read` is a read at a random place in as many bytes as the
//! set has, where each read names the place of the next. As in the program, pages have 4 KiB.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot be set up must end, and is read on stdout"
)]

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::env;
use std::fs;
use std::fs::File;
use std::hint::black_box;
use std::io::BufWriter;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use callbridge::clock::UnixMillis;
use callbridge::clock::monotonic;
use callbridge::decide::Policy;
use callbridge::decide::Question;
use callbridge::decide::blocklist::Blocklist;
use callbridge::decide::blocklist::Source;
use callbridge::decide::blocklist::SourceKind;
use callbridge::decide::decide;
use callbridge::decide::file::Reading;
use callbridge::decide::fold::FullRead;
use callbridge::decide::fold::LogRecord;
use callbridge::decide::rule::Rule;
use callbridge::decide::rules::Change;
use callbridge::decide::rules::Rules;
use callbridge::decide::topic::key;
use callbridge::decide::topic::value;
use callbridge::decide::topic::value::Provenance;
use callbridge::decide::topic::value::RuleValue;
use hdrhistogram::Histogram;
use mimalloc::MiMalloc;
use rustix::thread::disable_transparent_huge_pages;
use rustix::time::ClockId;
use rustix::time::clock_gettime;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const ACCOUNT: &str = "@TOA#_news";
const CHANGES: u32 = 20_000;
/// Lookups are timed in chains: the result of one decides what the next looks for.
const CHAINS: u64 = 4000;
const CHAIN: u64 = 64;
/// How much of a file is read at once.
const PIECE_BYTES: usize = 256 * 1024;

fn main() {
    disable_transparent_huge_pages(true).expect("the kernel disables them");
    if let Some(count) = env::args().skip(1).find_map(|word| word.parse().ok()) {
        return measure(count);
    }
    for count in ["1000000", "10000000"] {
        let program = env::current_exe().expect("a path");
        let ended = Command::new(program).arg(count).status().expect("a process");
        assert!(ended.success(), "the benchmark failed: {ended}");
    }
}

fn measure(count: u64) {
    let large = count >= 10_000_000;
    let mut ids = lines(count, |id| format!("{id}\n"));
    println!("\n{count} entries");
    let (before, anonymous_before) = (memory("VmRSS"), memory("RssAnon"));
    let rules = load(&mut ids, count, "bare ids", 5.0);
    settle();
    // Without the pages of the program's own code that the load was the first to run.
    let (bytes, peak) = (memory("RssAnon") - anonymous_before, memory("VmHWM") - before);
    let id_bytes: u64 = (0..count).map(|number| id_bytes(mixed(number))).sum();
    let beyond = ratio(bytes - id_bytes, count);
    figure("resident bytes an entry beyond its id", beyond, Target::AtMost(if large { 10.0 } else { 14.0 }));
    figure("peak while loading, times the set", ratio(peak, bytes), Target::None);
    lookups(&rules, count, bytes);
    let list = ArcSwap::from_pointee(of_list(Arc::new(rules), 1));
    changes(&list, count);
    settle();
    replace(&list, &mut ids, count);
    figure("peak while replacing, times the set", ratio(memory("VmHWM") - before, bytes), Target::AtMost(2.2));
    drop(list);
    let some = count.min(1_000_000);
    let sentence = |id: &str| format!("block {id} on {ACCOUNT} until 2027-01-31T00:00:00Z because spam in May\n");
    drop(load(&mut lines(some, sentence), some, "whole sentences", 3.0));
    catch_up(count, "records of one import", |_number| 0);
    catch_up(some, "records written one by one", |number| number);
    hash_map(count);
}

/// What a figure should be.
#[derive(Clone, Copy)]
enum Target {
    AtMost(f64),
    AtLeast(f64),
    None,
}

fn figure(what: &str, value: f64, target: Target) {
    let (is_met, target) = match target {
        Target::AtMost(most) => (value <= most, format!("at most {most}")),
        Target::AtLeast(least) => (value >= least, format!("at least {least}")),
        Target::None => (true, String::new()),
    };
    println!("{what:<68}{value:>10.2}  {target}{}", if is_met { "" } else { ": MISSED" });
}

/// The id of this number: 6 to 32 letters.
fn id(number: u64) -> String {
    let mut state = mixed(number);
    let length = id_bytes(state);
    let letters = (0..length).map(|_letter| {
        state = mixed(state);
        char::from_digit(u32::try_from(state % 36).unwrap_or_default(), 36).unwrap_or_default()
    });
    letters.collect()
}

const fn id_bytes(state: u64) -> u64 {
    6 + state % 27
}

/// A number that looks random. (SplitMix64.)
const fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A file of so many lines.
fn lines(count: u64, line: impl Fn(&str) -> String) -> File {
    let mut writer = BufWriter::new(tempfile::tempfile().expect("a file"));
    (0..count).for_each(|number| writer.write_all(line(&id(number)).as_bytes()).expect("written"));
    writer.into_inner().expect("written")
}

/// Loads a file as the thread of the files does.
fn load(lines: &mut File, count: u64, name: &str, rate_min: f64) -> Rules {
    let (mut reading, mut piece) = (Reading::default(), vec![0; PIECE_BYTES]);
    lines.rewind().expect("rewound");
    let (began, cpu_began) = (monotonic(), cpu());
    loop {
        match lines.read(&mut piece).expect("read") {
            0 => break,
            read => reading.push(piece.get(..read).unwrap_or_default()),
        }
    }
    let read = cpu();
    let rules = reading.finish().expect("a good list");
    let (took, cpu_took) = (monotonic() - began, cpu() - cpu_began);
    let millions = ratio(count, 1_000_000) / cpu_took.as_secs_f64();
    figure(&format!("load of {name}, million lines a CPU second"), millions, Target::AtLeast(rate_min));
    let lines = (read - cpu_began).as_secs_f64();
    figure(&format!("load of {name}, seconds ({lines:.2} CPU for the lines)"), took.as_secs_f64(), Target::AtMost(5.0));
    rules
}

/// Single lookups, and reads of memory as far apart.
fn lookups(rules: &Rules, count: u64, bytes: u64) {
    let absent = lookup(count, count, |id| rules.blocks(id, NOW));
    let present = lookup(0, count, |id| rules.blocks(id, NOW));
    let read = dependent_read(bytes);
    figure("one dependent read, ns", nanos(read), Target::None);
    figure("lookup absent, ns", nanos(absent), Target::None);
    figure("lookup present, ns", nanos(present), Target::None);
    figure("lookup absent, times a dependent read", nanos(absent) / nanos(read), Target::AtMost(1.0));
    figure("lookup present, times a dependent read", nanos(present) / nanos(read), Target::AtMost(1.7));
}

/// The median time to look up ids, which have numbers from `first`.
fn lookup(first: u64, count: u64, find: impl Fn(&str) -> bool) -> Duration {
    let mut took = histogram();
    for chain in 0..CHAINS {
        let ids: Vec<String> = (0..CHAIN).map(|step| id(first + mixed(chain * CHAIN + step) % count)).collect();
        let (mut place, began) = (0, monotonic());
        for _step in 0..CHAIN {
            // Whether found or not, all places are visited.
            place = (place + 1 + 2 * usize::from(ids.get(place).is_some_and(|id| find(id)))) % ids.len();
        }
        record(&mut took, monotonic() - began);
        black_box(place);
    }
    median_of_chains(&took)
}

fn dependent_read(bytes: u64) -> Duration {
    let places: Vec<u64> = (0..).map(mixed).take(usize::try_from(bytes / 8).expect("64 bits")).collect();
    let (mut took, mut place) = (histogram(), 0);
    for chain in 0..CHAINS {
        let began = monotonic();
        for step in 0..CHAIN {
            let at = usize::try_from(place).expect("64 bits") % places.len();
            place = mixed(chain * CHAIN + step) ^ places.get(at).copied().unwrap_or_default();
        }
        record(&mut took, monotonic() - began);
    }
    black_box(place);
    median_of_chains(&took)
}

fn median_of_chains(took: &Histogram<u64>) -> Duration {
    Duration::from_nanos(took.value_at_quantile(0.5) / CHAIN)
}

/// The same in the map that is at hand.
fn hash_map(count: u64) {
    settle();
    let before = memory("RssAnon");
    let map: HashMap<Box<str>, UnixMillis> = (0..count).map(|number| (id(number).into(), UnixMillis::NEVER)).collect();
    figure("HashMap: resident bytes an entry", ratio(memory("RssAnon") - before, count), Target::None);
    let find = |id: &str| map.get(id).is_some_and(|until| NOW < *until);
    figure("HashMap: lookup absent, ns", nanos(lookup(count, count, find)), Target::None);
    figure("HashMap: lookup present, ns", nanos(lookup(0, count, find)), Target::None);
}

fn of_list(rules: Arc<Rules>, generation: u64) -> Blocklist {
    Blocklist::of([Source::new(SourceKind::File, "list", rules)], generation)
}

/// Single changes, each of the version before, which is then dropped, as a follower of a topic makes them.
fn changes(list: &ArcSwap<Blocklist>, count: u64) {
    let (mut worked, mut swapped) = (histogram(), histogram());
    for step in 0..CHANGES {
        let user = id(mixed(step.into()) % (2 * count));
        let rule = Rule::Block { user: user.into(), account: None };
        let change = match step % 2 {
            0 => Change::Put { rule, until: UnixMillis::NEVER, provenance: Provenance::of_reason(Some("spam in May")) },
            _ => Change::Remove(rule),
        };
        let rules = list.load().sources().first().map(|source| Arc::clone(source.rules())).expect("a source");
        let began = cpu();
        let next = Arc::new(rules.changed([change]));
        record(&mut worked, cpu() - began);
        drop(rules);
        let began = cpu();
        drop(list.swap(Arc::new(of_list(next, step.into()))));
        record(&mut swapped, cpu() - began);
    }
    let micros =
        |took: &Histogram<u64>, quantile| nanos(Duration::from_nanos(took.value_at_quantile(quantile))) / 1000.0;
    figure("one change, µs of CPU: median", micros(&worked, 0.5), Target::None);
    figure("one change, µs of CPU: p99", micros(&worked, 0.99), Target::AtMost(200.0));
    figure("one change, ms of CPU for swap and drop: longest", micros(&swapped, 1.0) / 1000.0, Target::AtMost(2.0));
}

/// How long a decision takes.
fn decision(list: &ArcSwap<Blocklist>, asked: u64, number: impl Fn(u64) -> u64) -> Duration {
    let users: Vec<Cow<'_, str>> = (0..asked).map(|user| id(number(user)).into()).collect();
    let question = Question { account: ACCOUNT, users: &users };
    let began = monotonic();
    black_box(decide(&question, &list.load(), Policy::default(), NOW));
    monotonic() - began
}

/// Replaces the list beside decisions of five users, as the thread of the files does it: it drops the old list once nobody reads it.
fn replace(list: &ArcSwap<Blocklist>, ids: &mut File, count: u64) {
    let (is_replacing, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let decisions = scope.spawn(|| {
            let (mut alone, mut beside, mut step) = (histogram(), histogram(), 0);
            while !is_over.load(Ordering::Relaxed) {
                let histogram = if is_replacing.load(Ordering::Relaxed) { &mut beside } else { &mut alone };
                record(histogram, decision(list, 5, |user| mixed(step + user) % (2 * count)));
                step += 5;
                // Some thousand a second, which leave room for the others.
                thread::sleep(Duration::from_micros(50));
            }
            (alone, beside)
        });
        thread::sleep(Duration::from_secs(2));
        is_replacing.store(true, Ordering::Relaxed);
        reset_peak();
        let next = Arc::new(of_list(Arc::new(load(ids, count, "bare ids, beside decisions", 5.0)), 2));
        let began = monotonic();
        let old = list.swap(next);
        let swapped = monotonic();
        while Arc::strong_count(&old) > 1 {
            thread::yield_now();
        }
        let free = cpu();
        drop(old);
        let dropped = cpu() - free;
        is_over.store(true, Ordering::Relaxed);
        let (alone, beside) = decisions.join().expect("no panic");
        figure("swap of a list, ms", (swapped - began).as_secs_f64() * 1000.0, Target::AtMost(2.0));
        figure("drop of a replaced list, ms of CPU", dropped.as_secs_f64() * 1000.0, Target::AtMost(2.0));
        let micros = |took: &Histogram<u64>| nanos(Duration::from_nanos(took.value_at_quantile(0.99))) / 1000.0;
        figure("decision on 5 users, µs: p99 alone", micros(&alone), Target::None);
        figure("decision on 5 users, µs: p99 while the list is replaced", micros(&beside), Target::None);
    });
}

/// Reads a topic of so many records, without Kafka's client. Records with the same `written` have the same value.
fn catch_up(count: u64, name: &str, written: impl Fn(u64) -> u64) {
    const BATCH: u64 = 10_000;
    let (mut reading, mut took) = (FullRead::default(), Duration::ZERO);
    for first in (0..count).step_by(10_000) {
        let records: Vec<(String, String)> = (first..count.min(first + BATCH))
            .map(|number| {
                let rule = Rule::Block { user: id(number).into(), account: None };
                let when = Some(UnixMillis(NOW.0 + i64::try_from(written(number)).expect("small")));
                let (who, because) = (Some("alice".into()), Some("spam in May".into()));
                let provenance = Provenance { because, who, when, source: Some("import:daily".into()) };
                let value = RuleValue { until: UnixMillis(NOW.0 * 2), provenance };
                (key::encode(&rule).expect("a key"), value::encode(&value))
            })
            .collect();
        let began = cpu();
        for (offset, (key, value)) in (first..).zip(&records) {
            let record = LogRecord {
                offset,
                timestamp: -1,
                key: Some(key.as_bytes()),
                value: Some(value.as_bytes()),
                topic: None,
            };
            reading.apply(&record).expect("one log");
        }
        took += cpu() - began;
    }
    let began = cpu();
    let following = reading.finish(&BTreeSet::new()).expect("one topic");
    took += cpu() - began;
    assert!(!following.rules().is_empty(), "{name}");
    let micros = took.as_secs_f64() * 1e6 / ratio(count, 1);
    figure(&format!("catch-up by {name}, µs of CPU a record"), micros, Target::AtMost(1.5));
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("good bounds")
}

fn record(histogram: &mut Histogram<u64>, took: Duration) {
    histogram.record(u64::try_from(took.as_nanos()).expect("short")).expect("it grows");
}

fn nanos(took: Duration) -> f64 {
    took.as_secs_f64() * 1e9
}

/// Lets the allocator give back what has been free for a second: it looks for that when a thread ends.
fn settle() {
    for _time in 0..4 {
        thread::sleep(Duration::from_millis(1200));
        thread::spawn(|| black_box(vec![0_u8; 1 << 20]).len()).join().expect("no panic");
    }
}

/// The processor time that this thread has had: other than time on the clock, about the same on a busy machine.
fn cpu() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().expect("not negative")
}

/// Bytes of memory, by their name in /proc/self/status.
fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find(|line| line.starts_with(name)).expect("a line");
    let kibibytes: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
    kibibytes * 1024
}

/// Sets the highest memory so far to what it is now.
fn reset_peak() {
    fs::write("/proc/self/clear_refs", "5").expect("Linux resets it");
}

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}
