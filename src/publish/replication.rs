//! The replication factor of a new topic.
//!
//! It is fixed when a topic is created, and brokers that are starting are not in the cluster's metadata yet. So a small number of brokers
//! counts only once it has stayed the same for a while.

use std::time::Duration;
use std::time::Instant;

/// The replication factor in a cluster with enough brokers: with one broker down, two still acknowledge records.
pub(crate) const REPLICAS_WANTED: i32 = 3;

/// How long a smaller number of brokers must stay the same.
const STEADY: Duration = Duration::from_secs(10);

/// `min.insync.replicas`: as configured, else all but one of `replicas`, and at least one.
pub(crate) fn min_insync_replicas(configured: Option<i32>, replicas: i32) -> i32 {
    configured.unwrap_or_else(|| (replicas - 1).max(1))
}

/// Chooses the replication factor from the number of brokers.
#[derive(Debug)]
pub(crate) struct ReplicationFactor {
    configured: Option<i32>,
    has_shown_wanted: bool,
    /// The number of brokers, and since when it has been the same.
    steady: Option<(i32, Instant)>,
}

impl ReplicationFactor {
    /// `configured` takes precedence over what the cluster shows.
    pub(crate) const fn new(configured: Option<i32>) -> Self {
        Self { configured, has_shown_wanted: false, steady: None }
    }

    /// Takes the number of brokers at `now`. Returns the replication factor, or `None` while more brokers may be starting.
    pub(crate) fn choose(&mut self, brokers: usize, now: Instant) -> Option<i32> {
        let brokers = i32::try_from(brokers).unwrap_or(i32::MAX);
        self.has_shown_wanted |= brokers >= REPLICAS_WANTED;
        let (count, since) = *self.steady.get_or_insert((brokers, now));
        if count != brokers {
            self.steady = Some((brokers, now));
        }
        let is_steady = count == brokers && brokers > 0 && now.saturating_duration_since(since) >= STEADY;
        self.configured.or(self.has_shown_wanted.then_some(REPLICAS_WANTED)).or(is_steady.then_some(brokers))
    }

    /// Handles a cluster that does not answer: it may be restarting as a whole.
    pub(super) const fn forget(&mut self) {
        self.steady = None;
    }

    /// Whether it waits for more brokers.
    pub(super) fn is_waiting(&self, now: Instant) -> bool {
        let is_settling = |(_, since): (i32, Instant)| now.saturating_duration_since(since) < STEADY;
        self.configured.is_none() && !self.has_shown_wanted && self.steady.is_some_and(is_settling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// What it chooses when the cluster shows these numbers of brokers at these seconds; `None` is no answer.
    fn chosen(configured: Option<i32>, shown: &[(u64, Option<usize>)]) -> Vec<Option<i32>> {
        let (began, mut factor) = (clock::monotonic(), ReplicationFactor::new(configured));
        let choose = |(second, brokers): &(u64, Option<usize>)| match brokers {
            Some(brokers) => factor.choose(*brokers, began + Duration::from_secs(*second)),
            None => {
                factor.forget();
                None
            }
        };
        shown.iter().map(choose).collect()
    }

    #[test]
    fn three_brokers_give_three_replicas_at_once_and_also_when_one_leaves_again() {
        assert_eq!(chosen(None, &[(0, Some(3))]), [Some(3)]);
        assert_eq!(chosen(None, &[(0, Some(100))]), [Some(3)]);
        assert_eq!(chosen(None, &[(0, Some(2)), (5, Some(3)), (6, Some(2))]), [None, Some(3), Some(3)]);
    }

    #[test]
    fn fewer_brokers_count_once_their_number_has_been_the_same_for_ten_seconds() {
        assert_eq!(chosen(None, &[(0, Some(1)), (9, Some(1)), (10, Some(1))]), [None, None, Some(1)]);
        assert_eq!(
            chosen(None, &[(0, Some(1)), (9, Some(2)), (10, Some(2)), (18, Some(2)), (19, Some(2))]),
            [None, None, None, None, Some(2)]
        );
        // None at all is no cluster to make a topic in.
        assert_eq!(chosen(None, &[(0, Some(0)), (20, Some(0))]), [None, None]);
    }

    #[test]
    fn a_cluster_that_did_not_answer_is_watched_anew() {
        assert_eq!(chosen(None, &[(0, Some(1)), (5, None), (12, Some(1)), (22, Some(1))]), [None, None, None, Some(1)]);
    }

    #[test]
    fn a_number_of_brokers_that_has_settled_is_not_waited_for_any_more() {
        let (began, mut factor) = (clock::monotonic(), ReplicationFactor::new(None));
        factor.choose(1, began);
        assert!(factor.is_waiting(began + STEADY - Duration::from_millis(1)));
        assert!(!factor.is_waiting(began + STEADY), "though no topic may have been created");
    }

    #[test]
    fn a_configured_factor_is_taken_as_it_is() {
        assert_eq!(chosen(Some(1), &[(0, Some(3))]), [Some(1)]);
        assert_eq!(chosen(Some(5), &[(0, Some(1))]), [Some(5)]);
    }
}
