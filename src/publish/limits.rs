//! The size limits of the topics, as far as Kafka tells them.

/// The limits of the topics that are there, by their place in `names`.
#[derive(Debug)]
pub(super) struct TopicLimits<'n> {
    names: &'n [String],
    longest_record: usize,
    limits: Vec<Limit>,
    has_warned_of_untold: bool,
}

/// What is known of one topic's limit, in bytes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    /// Not asked for since the topic was seen.
    Unread,
    /// Kafka does not tell: the right to DescribeConfigs is missing.
    Untold,
    Bytes(usize),
}

impl<'n> TopicLimits<'n> {
    /// Nothing is known yet. A topic with a limit below `longest_record` will be warned of.
    pub(super) fn new(names: &'n [String], longest_record: usize) -> Self {
        Self { names, longest_record, limits: vec![Limit::Unread; names.len()], has_warned_of_untold: false }
    }

    /// Forgets the topics that are not among `there`. Returns those of `there` that are to be read: all, or those that have come since.
    pub(super) fn unread(&mut self, there: &[usize], is_all: bool) -> Vec<usize> {
        for (index, limit) in self.limits.iter_mut().enumerate() {
            if !there.contains(&index) {
                *limit = Limit::Unread;
            }
        }
        let is_wanted = |index: &usize| is_all || self.limits.get(*index) == Some(&Limit::Unread);
        there.iter().copied().filter(is_wanted).collect()
    }

    /// The names of these topics.
    pub(super) fn names_of(&self, indices: &[usize]) -> Vec<&'n str> {
        indices.iter().filter_map(|index| self.names.get(*index)).map(String::as_str).collect()
    }

    /// Takes up what Kafka told of these topics. Warns of limits that are too low, each time that they change, and once of limits that are
    /// not told.
    pub(super) fn told(&mut self, told: impl Iterator<Item = (usize, Option<usize>)>) {
        let (mut low, mut untold) = (Vec::new(), Vec::new());
        for (index, bytes) in told {
            let (Some(limit), Some(name)) = (self.limits.get_mut(index), self.names.get(index)) else { continue };
            let before = std::mem::replace(limit, bytes.map_or(Limit::Untold, Limit::Bytes));
            match bytes {
                Some(bytes) if bytes < self.longest_record && before != Limit::Bytes(bytes) => {
                    low.push(format!("{name} ({bytes})"));
                }
                Some(_) => {}
                None => untold.push(name.as_str()),
            }
        }
        if !low.is_empty() {
            tracing::warn!(
                topics = low.join(", "),
                longest_record = self.longest_record,
                "topics take less than the longest callback: raise their max.message.bytes and segment.bytes, or lower \
                 callbacks.body_bytes_max; larger records go to the dead-letter topic"
            );
        }
        if !untold.is_empty() && !self.has_warned_of_untold {
            self.has_warned_of_untold = true;
            tracing::warn!(
                topics = untold.join(", "),
                "the max.message.bytes of topics cannot be read: allow DescribeConfigs on them, or set batch.size below it"
            );
        }
    }

    /// The smallest limit that is known.
    pub(super) fn smallest(&self) -> Option<usize> {
        let bytes = |limit: &Limit| if let Limit::Bytes(bytes) = limit { Some(*bytes) } else { None };
        self.limits.iter().filter_map(bytes).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_read_when_it_comes_and_when_it_comes_back() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let mut limits = TopicLimits::new(&names, 100);
        assert_eq!(limits.unread(&[0, 2], false), [0, 2]);
        limits.told([(0, Some(300)), (2, None)].into_iter());
        assert_eq!(limits.smallest(), Some(300));
        assert_eq!(limits.unread(&[0, 1, 2], false), [1]);
        assert_eq!(limits.names_of(&[1]), ["b"]);
        limits.told([(1, Some(200))].into_iter());
        assert_eq!(limits.smallest(), Some(200));

        // One that is gone says nothing any more.
        assert_eq!(limits.unread(&[0, 2], false), [0; 0]);
        assert_eq!(limits.smallest(), Some(300));
        assert_eq!(limits.unread(&[0, 1, 2], false), [1]);
        assert_eq!(limits.unread(&[0, 1, 2], true), [0, 1, 2]);
    }
}
