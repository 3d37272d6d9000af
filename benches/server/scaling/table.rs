//! What was measured of replicas and connections, and what a million callbacks a second would take by it, as Markdown and as JSON.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::document;
use crate::options::OUTPUT;
use crate::report::MIB;
use crate::report::Origin;
use crate::sample::Sample;

use super::Figures;
use super::Growth;
use super::Order;
use super::Replicas;

const DOCUMENT: &str = "docs/scaling.md";

/// Callbacks a second.
const GOAL: f64 = 1e6;
/// What part of a core, a disk or a network may be used on an ordinary day.
const USE: f64 = 0.5;
/// Of a machine that runs a replica, and of one that runs a node of Kafka.
const REPLICA_CORES: f64 = 4.0;
const BROKER_CORES: f64 = 16.0;
/// How far real callbacks are compressed, which resemble each other less than those of the benchmark: assumed.
const COMPRESSION: f64 = 3.0;
/// Of each record, and how many groups of consumers read it.
const COPIES: f64 = 3.0;
const READERS: f64 = 1.0;
/// The status line, headers and body of a response.
const RESPONSE_BYTES: f64 = 190.0;
/// How long a callback and its response are on the way between the sender and the replica, in seconds.
const ROUND_TRIP: f64 = 0.02;
/// A connection takes so many bytes beside those of the process, in the kernel.
const KERNEL_BYTES: f64 = 8192.0;

#[derive(Serialize)]
struct Measured<'a> {
    #[serde(flatten)]
    origin: &'a Origin,
    figures: &'a Figures,
}

/// Prints everything and writes it into the output folder; into the document too where it is to be published.
pub(super) fn report(figures: &Figures, origin: &Origin, publish: bool) -> io::Result<()> {
    let below = format!("{}; {}; `{}`\n", origin.machine, origin.broker, origin.command);
    let measured = format!(
        "{}\n{}\n{}\n{}\n{below}",
        replicas(&figures.replicas),
        connections(&figures.connections),
        order(&figures.order),
        blocklist(&figures.blocklist_millis)
    );
    let million = million(figures).unwrap_or_default();
    println!("\n{measured}\n{million}");
    let json = serde_json::to_string_pretty(&Measured { origin, figures })?;
    fs::write(Path::new(OUTPUT).join("scaling.json"), json)?;
    if publish {
        document::insert(DOCUMENT, "measured", &measured)?;
        document::insert(DOCUMENT, "million", &million)?;
    }
    Ok(())
}

fn replicas(all: &[Replicas]) -> String {
    let mut text = "| replicas | load | req/s in all | req/s of each | p99 ms | callbridge, CPU µs | Kafka, CPU µs | callbacks a sync |\n\
                    |---:|---|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for replicas in all {
        let Replicas { count, rate, samples, kafka_cpu_micros, captures_a_sync } = replicas;
        let load = rate.map_or("closed".to_owned(), |rate| format!("{rate}/s each"));
        let in_all: f64 = samples.iter().map(|sample| sample.load.taken as f64 / sample.load.seconds).sum();
        let p99 = samples.iter().map(|sample| sample.load.p99 / 1e3).fold(0.0, f64::max);
        let (each, cpu) = (in_all / *count as f64, cpu_micros(samples));
        text += &format!(
            "| {count} | {load} | {in_all:.0} | {each:.0} | {p99:.1} | {cpu:.1} | {kafka_cpu_micros:.1} | {captures_a_sync:.1} |\n"
        );
    }
    text
}

fn connections(all: &[Growth]) -> String {
    let mut text = "| connections | memory, silent, MiB | memory, peak under load, MiB | req/s | p99 ms | CPU µs |\n\
                    |---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for Growth { connections, idle_bytes, sample } in all {
        let (idle, peak) = (*idle_bytes as f64 / MIB, sample.peak_bytes as f64 / MIB);
        let (rate, p99) = (sample.load.taken as f64 / sample.load.seconds, sample.load.p99 / 1e3);
        text +=
            &format!("| {connections} | {idle:.1} | {peak:.1} | {rate:.0} | {p99:.1} | {:.1} |\n", sample.cpu_micros);
    }
    text
}

fn order(order: &[Order; 2]) -> String {
    let mut text =
        "| callbacks of a key go to | acknowledged | missing in Kafka | out of order |\n|---|---:|---:|---:|\n"
            .to_owned();
    for (whither, Order { acknowledged, missing, out_of_order, .. }) in
        ["one replica", "four replicas in turn"].into_iter().zip(order)
    {
        text += &format!("| {whither} | {acknowledged} | {missing} | {out_of_order} |\n");
    }
    text
}

fn blocklist(millis: &[f64]) -> String {
    let [median, most] =
        [millis.get(millis.len() / 2), millis.last()].map(|millis| millis.copied().unwrap_or(f64::NAN));
    let changes = millis.len();
    format!(
        "A change of the blocklist decides at all four replicas after {median:.1} ms (median of {changes}), {most:.1} ms at most.\n"
    )
}

/// User and system time for one callback over all replicas.
fn cpu_micros(samples: &[Sample]) -> f64 {
    let taken = |sample: &Sample| (sample.load.taken + sample.load.not_taken) as f64;
    let cpu: f64 = samples.iter().map(|sample| sample.cpu_micros * taken(sample)).sum();
    cpu / samples.iter().map(taken).sum::<f64>()
}

/// What a million callbacks a second take by these figures.
fn million(figures: &Figures) -> Option<String> {
    // Of one replica that has all it can do: where a machine of its own would be.
    let busy = figures.replicas.iter().find(|replicas| replicas.count == 1 && replicas.rate.is_none())?;
    let cores = cpu_micros(&busy.samples) * GOAL / 1e6;
    let replicas = (cores / USE / REPLICA_CORES).ceil();
    // Under the load of all replicas, which is the most that the nodes took.
    let kafka_micros = figures.replicas.last()?.kafka_cpu_micros;
    let kafka_cores = kafka_micros * GOAL / 1e6;
    let brokers = (kafka_cores / USE / BROKER_CORES).ceil();
    let mut rows = processors([cpu_micros(&busy.samples), kafka_micros], (cores, replicas), (kafka_cores, brokers));
    rows.extend(bytes(figures, busy, replicas, brokers));
    rows.push(open_connections(&figures.connections, replicas)?);
    let rows = rows.iter().map(|row| format!("| {} |\n", row.join(" | ")));
    let head = "| what | measured, of one callback | at a million a second | plan |\n|---|---|---|---|\n".to_owned();
    Some(rows.fold(head, |text, row| text + &row))
}

/// What it is, what one callback takes, what a million a second take, and what to have.
type CostRow = [String; 4];

fn processors(
    [micros, kafka_micros]: [f64; 2],
    (cores, replicas): (f64, f64),
    (kafka_cores, brokers): (f64, f64),
) -> Vec<CostRow> {
    let each = GOAL / replicas;
    vec![
        [
            "callbridge, CPU".to_owned(),
            format!("{micros:.1} µs"),
            format!("{cores:.0} cores"),
            format!("{replicas:.0} replicas of {REPLICA_CORES} cores, half used, {each:.0} callbacks a second each"),
        ],
        [
            "Kafka, CPU".to_owned(),
            format!("{kafka_micros:.1} µs on all nodes"),
            format!("{kafka_cores:.0} cores"),
            format!("{brokers:.0} brokers of {BROKER_CORES} cores, half used"),
        ],
    ]
}

/// Networks and disks.
fn bytes(figures: &Figures, busy: &Replicas, replicas: f64, brokers: f64) -> [CostRow; 4] {
    let gigabits = |bytes: f64| bytes * GOAL * 8.0 / 1e9;
    let request = figures.request_bytes as f64;
    let [Order { value_bytes, records, .. }, _] = figures.order;
    let value = value_bytes as f64 / records.max(1) as f64;
    let record = value / COMPRESSION;
    let (out, into) = (gigabits(record) * (COPIES - 1.0 + READERS) / brokers, gigabits(record) * COPIES / brokers);
    let syncs = GOAL / replicas / busy.captures_a_sync;
    [
        [
            "network, sender to replicas".to_owned(),
            format!("{request:.0} bytes and a response of {RESPONSE_BYTES}"),
            format!("{:.1} Gbit/s in, {:.1} out", gigabits(request), gigabits(RESPONSE_BYTES)),
            format!("{:.2} Gbit/s in at each replica", gigabits(request) / replicas),
        ],
        [
            "network, replicas to Kafka".to_owned(),
            format!("{value:.0} bytes, {:.0} compressed; {record:.0} assumed", figures.stored_bytes),
            format!("{:.1} Gbit/s", gigabits(record)),
            format!("{out:.1} Gbit/s out and {into:.1} in at each broker, with {READERS} group of consumers"),
        ],
        [
            "Kafka, disk".to_owned(),
            format!("{COPIES} copies"),
            format!("{:.2} GB/s", record * COPIES * GOAL / 1e9),
            format!("{:.0} TB a day of retention", record * COPIES * GOAL * 86400.0 / 1e12),
        ],
        [
            "journal, disk".to_owned(),
            format!("{request:.0} bytes, {:.1} callbacks a sync", busy.captures_a_sync),
            format!("{:.2} GB/s", request * GOAL / 1e9),
            format!("{syncs:.0} syncs and {:.0} MB a second at each replica", request * GOAL / replicas / 1e6),
        ],
    ]
}

fn open_connections(connections: &[Growth], replicas: f64) -> Option<CostRow> {
    let (few, many) = (connections.first()?, connections.last()?);
    let more = many.connections.saturating_sub(few.connections).max(1) as f64;
    let bytes = many.idle_bytes.saturating_sub(few.idle_bytes) as f64 / more;
    let open = GOAL * ROUND_TRIP / USE;
    let each = open / replicas;
    Some([
        "connections".to_owned(),
        format!("{bytes:.0} bytes of the process, some {KERNEL_BYTES} of the kernel"),
        format!("{open:.0} at {} ms a callback, half used", ROUND_TRIP * 1e3),
        format!("{each:.0} at each replica: {:.1} MiB", each * (bytes + KERNEL_BYTES) / MIB),
    ])
}
