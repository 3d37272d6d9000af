//! The blocklist at full size: what it takes in memory and time to load it, to decide by it, to change it, and to swap it beside decisions.
//!
//! `cargo bench --bench blocklist -- 10000000` does it with ten million entries; without a number it takes a million. Ids have 6 to
//! 32 bytes. The text of a list is made piece by piece and stays out of all figures. `one dependent read` is the time of a read at a
//! random place in as many bytes as the list has, each place being known from the read before.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot be set up must end, and is read on stdout"
)]

use std::borrow::Cow;
use std::fs;
use std::hint::black_box;
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
use callbridge::decide::rule::Rule;
use callbridge::decide::rules::Change;
use callbridge::decide::rules::Rules;
use callbridge::decide::topic::value::Provenance;
use hdrhistogram::Histogram;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const ACCOUNT: &str = "@TOA#_news";
const SAMPLES: u64 = 200_000;
const CHANGES: u32 = 20_000;

fn main() {
    let count = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(1_000_000);
    let entries = usize::try_from(count).expect("64 bits");
    println!("{count} entries");
    let before = memory("VmRSS");
    let rules = load(count, "plain ids", |id| format!("{id}\n"));
    settle();
    let bytes = memory("VmRSS") - before;
    let id_bytes = (0..count).map(|number| id(number).len()).sum::<usize>();
    println!(
        "resident: {:.1} bytes an entry beyond its id of {:.1}",
        ratio(bytes - id_bytes, entries),
        ratio(id_bytes, entries)
    );
    println!("peak while loading: {:.2} times the set", ratio(memory("VmHWM") - before, bytes));
    dependent_read(bytes);
    changes(&rules, count);
    let list = ArcSwap::from_pointee(Blocklist::of([Source::new(SourceKind::File, "list", Arc::new(rules))], 1));
    for (name, asked, first) in [("absent", 1, count), ("present", 1, 0), ("absent", 100, count), ("present", 100, 0)] {
        let mut took = histogram();
        for sample in 0..SAMPLES / asked {
            record(&mut took, decision(&list, asked, |user| first + mixed(sample * asked + user) % count));
        }
        println!("decision of {asked} {name}: {}", shown(&took));
    }
    swap(&list, count);
    println!("peak while replacing: {:.2} times the set", ratio(memory("VmHWM") - before, bytes));
    load(count.min(1_000_000), "whole sentences", |id| {
        format!("block {id} on {ACCOUNT} until 2027-01-31T00:00:00Z because spam in May\n")
    });
}

/// The id of this number: 6 to 32 letters.
fn id(number: u64) -> String {
    let mut state = mixed(number);
    let length = 6 + state % 27;
    let letters = (0..length).map(|_letter| {
        state = mixed(state);
        char::from_digit(u32::try_from(state % 36).unwrap_or_default(), 36).unwrap_or_default()
    });
    letters.collect()
}

/// A number that looks random. (SplitMix64.)
const fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn load(count: u64, name: &str, line: impl Fn(&str) -> String) -> Rules {
    const PIECE_LINES: u64 = 10_000;
    let (mut reading, mut piece) = (Reading::default(), String::new());
    let (mut took, mut cpu_took) = (Duration::ZERO, Duration::ZERO);
    for first in (0..).step_by(10_000).take_while(|first| *first < count) {
        piece.clear();
        (first..count.min(first + PIECE_LINES)).for_each(|number| piece.push_str(&line(&id(number))));
        let (began, cpu_began) = (monotonic(), cpu());
        reading.push(piece.as_bytes());
        (took, cpu_took) = (took + (monotonic() - began), cpu_took + (cpu() - cpu_began));
    }
    let (began, cpu_began, lines) = (monotonic(), cpu(), cpu_took);
    let rules = reading.finish().expect("a good list");
    (took, cpu_took) = (took + (monotonic() - began), cpu_took + (cpu() - cpu_began));
    let rate = count / u64::try_from(cpu_took.as_millis()).expect("short").max(1);
    println!(
        "load of {name}: {took:.2?}; CPU {cpu_took:.2?} ({lines:.2?} for the lines), {rate} lines a millisecond of it"
    );
    rules
}

fn dependent_read(bytes: usize) {
    let places: Vec<u64> = (0..).map(mixed).take(bytes / 8).collect();
    let (mut place, began) = (0, monotonic());
    for step in 0..SAMPLES {
        let at = usize::try_from(place).expect("64 bits") % places.len();
        place = mixed(step) ^ places.get(at).copied().unwrap_or_default();
    }
    println!("one dependent read: {:?} on average", (monotonic() - began) / u32::try_from(SAMPLES).expect("small"));
    black_box(place);
}

/// How long a decision takes.
fn decision(list: &ArcSwap<Blocklist>, asked: u64, number: impl Fn(u64) -> u64) -> Duration {
    let users: Vec<Cow<'_, str>> = (0..asked).map(|user| id(number(user)).into()).collect();
    let question = Question { account: ACCOUNT, users: &users };
    let began = monotonic();
    black_box(decide(&question, &list.load(), Policy::default(), NOW));
    monotonic() - began
}

/// Single changes, each of the version before, as a follower of a topic makes them.
fn changes(rules: &Rules, count: u64) {
    let (mut took, mut newest) = (histogram(), None);
    let cpu_began = cpu();
    for step in 0..CHANGES {
        let user = id(mixed(step.into()) % (2 * count));
        let rule = Rule::Block { user: user.into(), account: None };
        let change = match step % 2 {
            0 => Change::Put { rule, until: UnixMillis::NEVER, provenance: Provenance::of_reason(Some("spam in May")) },
            _ => Change::Remove(rule),
        };
        let began = monotonic();
        newest = Some(newest.as_ref().unwrap_or(rules).changed([change]));
        record(&mut took, monotonic() - began);
    }
    println!("one change: {}; CPU {:?} on average", shown(&took), (cpu() - cpu_began) / CHANGES);
}

/// Replaces the list beside decisions of five users, as the thread of the files does it: it drops the old list once nobody reads it.
fn swap(list: &ArcSwap<Blocklist>, count: u64) {
    let is_replacing = AtomicBool::new(false);
    let is_over = AtomicBool::new(false);
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
        let rules = load(count, "plain ids, beside decisions", |id| format!("{id}\n"));
        let next = Arc::new(Blocklist::of([Source::new(SourceKind::File, "list", Arc::new(rules))], 2));
        let began = monotonic();
        let old = list.swap(next);
        let swapped = monotonic();
        while Arc::strong_count(&old) > 1 {
            thread::yield_now();
        }
        let free = monotonic();
        drop(old);
        println!("swap: {:?}; drop of the old list: {:?}", swapped - began, monotonic() - free);
        is_over.store(true, Ordering::Relaxed);
        let (alone, beside) = decisions.join().expect("no panic");
        println!("decision of 5, alone: {}", shown(&alone));
        println!("decision of 5, while the list is replaced: {}", shown(&beside));
    });
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("good bounds")
}

fn record(histogram: &mut Histogram<u64>, took: Duration) {
    histogram.record(u64::try_from(took.as_nanos()).expect("short")).expect("it grows");
}

fn shown(took: &Histogram<u64>) -> String {
    let nanos = |nanos| Duration::from_nanos(nanos);
    let [p50, p99, max] = [took.value_at_quantile(0.5), took.value_at_quantile(0.99), took.max()].map(nanos);
    format!("p50 {p50:?}, p99 {p99:?}, longest {max:?}")
}

/// Lets the allocator give back what has been free for a second: it looks for that when a thread ends.
fn settle() {
    for _time in 0..4 {
        thread::sleep(Duration::from_millis(1200));
        thread::spawn(|| black_box(vec![0_u8; 1 << 20]).len()).join().expect("no panic");
    }
}

/// The processor time that this thread has had: other than time on the clock, the same on a busy machine.
fn cpu() -> Duration {
    let times = fs::read_to_string("/proc/thread-self/schedstat").expect("scheduler statistics");
    Duration::from_nanos(times.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number"))
}

/// Bytes of memory, by their name in /proc/self/status.
fn memory(name: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find(|line| line.starts_with(name)).expect("a line");
    let kibibytes: usize = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
    kibibytes * 1024
}

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}
