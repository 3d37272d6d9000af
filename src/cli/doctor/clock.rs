//! Compares the clock of this machine with what Kafka says.
//!
//! Brokers do not tell their time. What shows it are the timestamps of records: a record of the future shows that this clock is behind, and a
//! record of now, written where the broker gives the timestamp, shows both.

use std::time::Duration;
use std::time::Instant;

use crate::cli::doctor::connection::remedy;
use crate::cli::doctor::report::CheckSection;
use crate::cli::doctor::topics::BrokerClock;
use crate::cli::doctor::topics::ComparedTopics;
use crate::clock;
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::publish::cluster::Cluster;

/// So far a clock may be off.
const OFF_MAX: Duration = Duration::from_secs(5);

/// How far ahead a record may be.
const FUTURE_MAX: Duration = Duration::from_mins(1);

const SET_IT: &str = "set the clocks by NTP: signatures are refused beyond callbacks.sign_window_seconds, and times of records are wrong";

/// Compares with the records that are there, and with those that were written.
pub(super) fn compare(
    title: &'static str,
    config: &Config,
    cluster: &Cluster,
    compared: &ComparedTopics,
    written: &[BrokerClock],
) -> CheckSection {
    let mut section = CheckSection::new(title);
    future(&mut section, cluster, compared);
    written.iter().for_each(|written| with_broker(&mut section, config, written));
    if written.is_empty() {
        let how = "only a record that --write writes to a dead-letter topic with message.timestamp.type=LogAppendTime shows it";
        section.skip(format!("whether it is ahead of the broker's: not tried: {how}"));
    }
    section
}

/// Whether there are records of the future.
fn future(section: &mut CheckSection, cluster: &Cluster, compared: &ComparedTopics) {
    let (mut names, dead_letter) = compared.usable();
    names.extend(dead_letter);
    let limit = UnixMillis(clock::wall().0.saturating_add(i64::try_from(FUTURE_MAX.as_millis()).unwrap_or(i64::MAX)));
    match cluster.topics_with_records_since(&compared.found, &names, limit, compared.deadline.left()) {
        Ok(topics) if topics.is_empty() => {
            section.ok(format!("no record in Kafka is more than {} s ahead of it", FUTURE_MAX.as_secs()));
        }
        Ok(topics) => {
            let what = format!(
                "records in {} are more than {} s ahead of it: it is behind, or that of their producer was ahead",
                topics.join(", "),
                FUTURE_MAX.as_secs()
            );
            section.fail(what, SET_IT);
        }
        Err(error) => section.fail(format!("records cannot be compared with it: {error}"), remedy(&error)),
    }
}

/// Compares with the time that a broker gave a record: what is off is off by at least so much.
fn with_broker(section: &mut CheckSection, config: &Config, written: &BrokerClock) {
    let BrokerClock { topic, broker, before, after } = written;
    // By the clock as it is now: it may have been set since.
    let (now, wall) = (clock::monotonic(), clock::wall());
    let at = |moment: Instant| {
        let ago = now.saturating_duration_since(moment).as_millis();
        UnixMillis(wall.0.saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX)))
    };
    let (ahead, behind) = (at(*before).since(*broker), broker.since(at(*after)));
    let off = ahead.max(behind);
    let which = if ahead > behind { "ahead of" } else { "behind" };
    let what = format!("it is {:.1} s {which} that of the broker of {topic}", off.as_secs_f64());
    if off > config.callbacks.sign_window / 2 {
        section.fail(what, SET_IT);
    } else if off > OFF_MAX {
        section.warn(what, SET_IT);
    } else {
        section.ok(format!("it is right: no more than {} s off that of the broker of {topic}", OFF_MAX.as_secs()));
    }
}
