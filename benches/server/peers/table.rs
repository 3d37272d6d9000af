//! What was measured beside the peers: as Markdown, as JSON, and in the documents.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::document;
use crate::options::OUTPUT;
use crate::pair::median;
use crate::report::MIB;
use crate::report::Origin;
use crate::sample::Sample;

use super::Figures;
use super::picture;
use super::subject::Acknowledges;
use super::subject::Subject;

/// The number of connections of the short table, the picture and the goal.
const CONNECTIONS: usize = 64;
/// How many times callbridge's CPU time in `journal` mode the best peer shall take that responds after Kafka.
const GOAL: f64 = 2.5;

#[derive(Serialize)]
struct Measured<'a> {
    #[serde(flatten)]
    origin: &'a Origin,
    servers: &'a [Figures],
}

/// The medians of one load.
#[derive(Clone, Copy)]
struct Row {
    per_second: f64,
    p50_millis: f64,
    p99_millis: f64,
    cpu_micros: f64,
    peak_mib: f64,
    not_taken: f64,
}

/// Prints everything and writes it into the output folder; into the documents too where it is to be published.
pub(super) fn report(all: &[Figures], origin: &Origin, publish: bool) -> io::Result<()> {
    let below = format!("{}; {}; `{}`\n", origin.machine, origin.broker, origin.command);
    let full = format!("{}\n{}\n{}\n{below}", loads(all), faults(all), goal(all));
    println!("\n{full}");
    let bars: Vec<_> = all.iter().filter_map(bar).collect();
    let picture = picture::draw(&bars);
    let output = Path::new(OUTPUT);
    fs::write(output.join("peers.json"), serde_json::to_string_pretty(&Measured { origin, servers: all })?)?;
    fs::write(output.join("peers.md"), &full)?;
    fs::write(output.join("peers.svg"), &picture)?;
    if publish {
        fs::write(document::path("docs/peers.svg"), &picture)?;
        document::insert("benches/peers/README.md", "peers", &full)?;
        document::insert("README.md", "peers", &short(all, origin))?;
    }
    Ok(())
}

/// Every load on every server.
fn loads(all: &[Figures]) -> String {
    let mut text = "| server | connections | req/s | p50 ms | p99 ms | CPU µs | peak MiB | not 200 |\n\
                    |---|---:|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for figures in all {
        let name = figures.subject.name();
        if let Some(why) = &figures.skipped {
            text += &format!("| {name} | SKIPPED: {why} | | | | | | |\n");
        }
        for (connections, samples) in &figures.loads {
            let Row { per_second, p50_millis, p99_millis, cpu_micros, peak_mib, not_taken } = Row::of(samples);
            text += &format!(
                "| {name} | {connections} | {per_second:.0} | {p50_millis:.1} | {p99_millis:.1} | {cpu_micros:.1} | {peak_mib:.0} | {not_taken:.0} |\n"
            );
        }
    }
    text
}

/// What Kafka and a kill cost.
fn faults(all: &[Figures]) -> String {
    let mut text = "| server | killed: answered 200 | of these missing | Kafka frozen 10 s: due | 200 | another status | no response in 10 s | answered after 2 s |\n\
                    |---|---:|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for figures in all.iter().filter(|figures| figures.skipped.is_none()) {
        let killed =
            figures.killed.map_or("– | –".to_owned(), |of| format!("{} | {}", of.acknowledged, of.missing));
        let frozen = figures.frozen.as_ref().map_or("– | – | – | – | –".to_owned(), |sample| {
            let load = &sample.load;
            let due = load.taken + load.not_taken + load.unanswered;
            format!("{due} | {} | {} | {} | {}", load.taken, load.not_taken, load.unanswered, load.late)
        });
        text += &format!("| {} | {killed} | {frozen} |\n", figures.subject.name());
    }
    text
}

/// The table of the first page.
fn short(all: &[Figures], origin: &Origin) -> String {
    let mut text =
        "| server | req/s | p99 ms | CPU µs a callback | lost by kill -9 |\n|---|---:|---:|---:|---:|\n".to_owned();
    for figures in all {
        if let Some(row) = row_at(figures) {
            let lost = figures.killed.map_or("–".to_owned(), |killed| killed.missing.to_string());
            let Row { per_second, p99_millis, cpu_micros, .. } = row;
            let name = figures.subject.name();
            text += &format!("| {name} | {per_second:.0} | {p99_millis:.1} | {cpu_micros:.1} | {lost} |\n");
        }
    }
    text + &format!(
        "\n{CONNECTIONS} connections; {}, shared with Kafka and the load; `make bench-peers`. [All figures and settings](benches/peers/README.md).\n",
        origin.machine
    )
}

/// callbridge beside the best of the peers that respond after Kafka, where both were measured.
fn goal(all: &[Figures]) -> String {
    let cpu = |figures: &Figures| Some((figures.subject, row_at(figures)?.cpu_micros));
    let ours = all.iter().filter_map(cpu).find(|(subject, _)| *subject == Subject::Journal);
    let after_kafka = |subject: &Subject| subject.is_peer() && subject.acknowledges() == Acknowledges::AfterKafka;
    let peers = all.iter().filter_map(cpu).filter(|(subject, _)| after_kafka(subject));
    match (ours, peers.min_by(|left, right| left.1.total_cmp(&right.1))) {
        (Some((_, ours)), Some((best, theirs))) => format!(
            "CPU of a callback at {CONNECTIONS} connections: callbridge `journal` {ours:.1} µs, the best peer that responds after Kafka \
             ({}) {theirs:.1} µs: {:.2} times as much (goal {GOAL}).\n",
            best.name(),
            theirs / ours
        ),
        _ => "Without a peer that responds after Kafka there is nothing to compare with.\n".to_owned(),
    }
}

fn bar(figures: &Figures) -> Option<picture::Bar> {
    let cpu_micros = row_at(figures)?.cpu_micros;
    let Figures { subject, killed, .. } = figures;
    let is_ours = matches!(subject, Subject::Journal | Subject::Broker | Subject::Memory);
    Some(picture::Bar { name: subject.name(), cpu_micros, lost: killed.map(|killed| killed.missing), is_ours })
}

fn row_at(figures: &Figures) -> Option<Row> {
    figures.loads.get(&CONNECTIONS).map(|samples| Row::of(samples))
}

impl Row {
    fn of(samples: &[Sample]) -> Self {
        let of = |figure: fn(&Sample) -> f64| median(samples, figure);
        Self {
            per_second: of(|sample| sample.load.taken as f64 / sample.load.seconds),
            p50_millis: of(|sample| sample.load.p50 / 1e3),
            p99_millis: of(|sample| sample.load.p99 / 1e3),
            // What was refused was not published: it shall not make the others look cheap.
            cpu_micros: of(|sample| {
                sample.cpu_micros * (sample.load.taken + sample.load.not_taken) as f64 / sample.load.taken as f64
            }),
            peak_mib: of(|sample| sample.peak_bytes as f64 / MIB),
            not_taken: of(|sample| (sample.load.not_taken + sample.load.unanswered) as f64),
        }
    }
}
