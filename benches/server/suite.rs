//! The whole benchmark in order: the broker, then every mode beside bare hyper, with a frozen broker, with slow senders, and signed.

use std::fs;
use std::io;
use std::path::Path;

use crate::broker::Broker;
use crate::callback::Command;
use crate::journal;
use crate::options::Mode;
use crate::options::OUTPUT;
use crate::options::Options;
use crate::pair::Pair;
use crate::report::Report;
use crate::sample::Plan;
use crate::sample::Sample;
use crate::server::Server;
use crate::slow;

/// The load on the before-decision while the broker is frozen: far below what the server can, so that its latency is
/// its own and not a queue's.
const BEFORE_RATE: u32 = 2000;
const BEFORE_CONNECTIONS: usize = 16;

/// Slow senders beside a good one, which sends as above.
const SLOW_CONNECTIONS: usize = 1000;

/// Connections that send signed callbacks.
const SIGNED_CONNECTIONS: usize = 64;

/// What every server does before it is measured.
const SETTLING_SECONDS: f64 = 5.0;
/// What the broker does before that. Java compiles in its first minutes, on the cores that the servers are measured on.
const BROKER_SETTLING_SECONDS: f64 = 60.0;

/// Measures everything that `options` ask for. Prints it and writes it down.
pub(crate) fn run(options: &Options) -> io::Result<()> {
    fs::create_dir_all(OUTPUT)?;
    slow::allow_connections()?;
    let broker = Broker::start(1)?;
    settle_broker(options, &broker)?;
    if let Some(other) = &options.against {
        return compare(options, other, &broker);
    }
    let bare = Server::bare()?;
    settle(options, &bare, false)?;
    let mut report = Report::new(broker.name());
    report.idle("bare hyper", bare.idle_bytes);
    report.print_head();
    for &mode in &options.modes {
        // A mode that fails does not cost the figures of the others.
        if let Err(error) = measure(options, mode, &broker, &bare, &mut report) {
            println!("{} mode: {error} (its log is in {OUTPUT})", mode.name());
            report.failed = true;
        }
    }
    if options.modes.contains(&Mode::Journal) {
        match journal::measure(options) {
            Ok(figures) => report.journal(figures),
            Err(error) => {
                println!("the journal: {error} (its log is in {OUTPUT})");
                report.failed = true;
            }
        }
    }
    report.print_targets();
    report.write()?;
    if report.failed { Err(io::Error::other("not everything was measured")) } else { Ok(()) }
}

/// Measures the build that `options` name beside another one.
fn compare(options: &Options, other: &Path, broker: &Broker) -> io::Result<()> {
    let mut report = Report::new(broker.name());
    report.print_head();
    for &mode in &options.modes {
        let other = Server::callbridge("other", other, mode, broker)?;
        settle(options, &other, false)?;
        let ours = Server::callbridge(mode.name(), &options.program, mode, broker)?;
        settle(options, &ours, false)?;
        for &connections in &options.connections {
            let plan = after(options, connections);
            let other = || Sample::take(&other, &plan);
            let ours = || Sample::take(&ours, &plan);
            report.beside_other(Pair::measure(mode, connections, options.rounds(), other, ours)?);
        }
    }
    report.write()
}

/// The load on the after-callback: as much as comes.
const fn after(options: &Options, connections: usize) -> Plan {
    Plan { warm_up_seconds: options.warm_up_seconds, ..Plan::closed(connections, options.seconds()) }
}

/// Lets a broker that has just been started do some of what it will do.
fn settle_broker(options: &Options, broker: &Broker) -> io::Result<()> {
    let ours = Server::callbridge("settling", &options.program, Mode::Memory, broker)?;
    Sample::settle(&ours, if options.is_quick() { 1.0 } else { BROKER_SETTLING_SECONDS }, false)
}

/// Lets a server that has just been started do the same as the others have done.
fn settle(options: &Options, server: &Server, is_signed: bool) -> io::Result<()> {
    Sample::settle(server, if options.is_quick() { 1.0 } else { SETTLING_SECONDS }, is_signed)
}

/// Measures callbridge in `mode`.
fn measure(options: &Options, mode: Mode, broker: &Broker, bare: &Server, report: &mut Report) -> io::Result<()> {
    let ours = Server::callbridge(mode.name(), &options.program, mode, broker)?;
    report.idle(mode.name(), ours.idle_bytes);
    settle(options, &ours, false)?;
    for &connections in &options.connections {
        let plan = after(options, connections);
        let bare = || Sample::take(bare, &plan);
        let ours = || Sample::take(&ours, &plan);
        report.beside_bare(Pair::measure(mode, connections, options.rounds(), bare, ours)?);
    }
    let many = after(options, BEFORE_CONNECTIONS);
    let before = Plan { command: Command::Before, rate: Some(BEFORE_RATE), ..many };
    let healthy = || Sample::take(&ours, &before);
    let frozen = || Sample::take_frozen(&ours, &before, broker);
    report.frozen(Pair::measure(mode, BEFORE_CONNECTIONS, options.rounds(), healthy, frozen)?);
    if mode != Mode::Memory {
        return Ok(());
    }
    // Neither has to do with the mode; in this one nothing else is in the way.
    let good = Plan { command: Command::After, ..before };
    let other = Server::callbridge("other", &options.program, mode, broker)?;
    let undisturbed = || Sample::take(&ours, &good);
    // What slow senders cost the machine, and whoever they talk to, without what they cost a good one on the same server.
    let elsewhere = || Sample::take_beside_slow(&ours, &good, &other, SLOW_CONNECTIONS);
    let bothered = || Sample::take_beside_slow(&ours, &good, &ours, SLOW_CONNECTIONS);
    report.slow_elsewhere(Pair::measure(mode, good.connections, options.rounds(), undisturbed, elsewhere)?);
    report.bothered(Pair::measure(mode, good.connections, options.rounds(), elsewhere, bothered)?);
    drop((ours, other));
    let ours = Server::signed(&options.program, mode, broker)?;
    settle(options, &ours, true)?;
    let plan = Plan { is_signed: true, ..after(options, SIGNED_CONNECTIONS) };
    let bare = || Sample::take(bare, &plan);
    let signed = || Sample::take(&ours, &plan);
    report.signed(Pair::measure(mode, plan.connections, options.rounds(), bare, signed)?);
    Ok(())
}
