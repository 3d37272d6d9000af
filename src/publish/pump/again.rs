//! Reading again what parked lanes have let go.

use crate::capture::Capture;
use crate::journal::Position;
use crate::journal::TAKE_BYTES;
use crate::normalise::part::Parts;
use crate::publish::lane::Lane;
use crate::record::Topic;

use super::Pump;
use super::TAKE_MAX;

impl Pump {
    /// Reads again what parked lanes have let go and now have room for: together, so that the journal is read once for all that are
    /// equally far. Returns whether there may be more.
    pub(super) fn read_again(&mut self) -> bool {
        let mut entries = Vec::new();
        let (mut count, mut read_bytes) = (0, 0);
        while count < TAKE_MAX && read_bytes < TAKE_BYTES {
            let Some(from) = self.lanes.iter().filter_map(Lane::wants).min_by_key(|from| from.seq) else {
                return false;
            };
            let read = self.backlog.read_again(from, |entry| entries.push(entry));
            let Some((next, bytes)) = read else {
                // Everything from there on has been delivered.
                for lane in &mut self.lanes {
                    lane.parked = lane.parked.filter(|parked| parked.seq < from.seq);
                }
                return true;
            };
            if next == from {
                // The disk does not read now.
                return false;
            }
            read_bytes += bytes;
            count += entries.len().max(1);
            let mut is_full = vec![false; self.lanes.len()];
            for entry in entries.drain(..) {
                let Some(position) = entry.position.filter(|position| position.seq < self.next_seq) else { break };
                let index = self.lane_of(&entry.capture).index();
                let item = self.item(entry);
                let (Some(lane), Some(is_full)) = (self.lanes.get_mut(index), is_full.get_mut(index)) else { continue };
                // A lane that is still before this has to read what comes first, and does not want to now.
                let is_at = |parked: Position| (from.seq..=position.seq).contains(&parked.seq);
                if *is_full || !lane.parked.is_some_and(is_at) {
                    continue;
                }
                if lane.has_room() {
                    lane.hold(&item);
                    lane.waiting.push_back(item);
                } else {
                    *is_full = true;
                    lane.parked = Some(position);
                }
            }
            for (lane, is_full) in self.lanes.iter_mut().zip(is_full) {
                // By number: the frame behind the last one of a segment is in another segment.
                let has_read = |parked: Position| parked.seq == from.seq || (from.seq..next.seq).contains(&parked.seq);
                if !is_full && lane.parked.is_some_and(has_read) {
                    lane.parked = Some(next).filter(|next| next.seq < self.next_seq);
                }
            }
        }
        true
    }

    /// The topic whose lane a capture goes through.
    fn lane_of(&self, capture: &Capture) -> Topic {
        if Parts::of(capture).is_batch() {
            self.topics.of(capture.app, capture.command)
        } else {
            self.normaliser.record(capture).topic
        }
    }
}
