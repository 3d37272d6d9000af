//! Topics that were made a moment ago are where librdkafka once reported records as delivered that were not: so the bridge is started
//! again and again on topics of its own making, with callbacks coming in from the moment it listens.

use std::net::TcpStream;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::seeds::APP;
use crate::support::alone::Alone;
use crate::support::bridge::Bridge;
use crate::support::kafka::Kafka;
use crate::support::load;
use crate::support::load::Load;
use crate::support::oracle;
use crate::support::ports;
use crate::support::reader::Reader;
use crate::support::wait;

const ROUNDS: usize = 20;
/// Acknowledged callbacks of one round.
const ENOUGH: f64 = 300.0;

#[test]
fn nothing_is_lost_on_topics_made_a_moment_ago() {
    let Some(kafka) = Kafka::shared() else { return };
    let _alone = Alone::take();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _busy in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let rounds = scope.spawn(|| (0..ROUNDS).for_each(|nth| round(kafka, nth)));
        let ended = rounds.join();
        is_over.store(true, Ordering::Relaxed);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
}

fn round(kafka: &Kafka, nth: usize) {
    let [callbacks, admin] = ports::free::<2>().map(|port| ([127, 0, 0, 1], port).into());
    let (brokers, prefix) = (kafka.bootstrap(), format!("fresh-{nth}"));
    // Every other round in the other mode.
    let ack = if nth.is_multiple_of(2) { "broker" } else { "memory" };
    let builder = Bridge::builder().brokers(&brokers).topics(&prefix).ack(ack);
    let builder = builder.settings("callbacks.keep_accepting_ms = 0");
    let bridge = builder.listening_on(callbacks, admin).launch();
    let load = Load::start(callbacks, APP, 16, Duration::from_millis(1));
    wait::until("the admin listener is there", || TcpStream::connect(admin).is_ok());
    wait::until("callbacks are delivered", || bridge.metrics()["callbridge_callbacks_delivered_total"] >= ENOUGH);
    let outcome = load.stop();
    let stopped = bridge.stop_and_wait();
    assert_eq!((stopped.code, stopped.ledger["waiting"]), (0, 0), "{}", stopped.stderr);

    let topic = format!("{prefix}.{}", load::COMMAND);
    let records = Reader::open(&kafka.client(), &[&topic]).collect_to_end();
    let judged = oracle::judge(&outcome, &records);
    assert_eq!(stopped.ledger["delivered"], u64::try_from(judged.acknowledged.len()).unwrap());
}
