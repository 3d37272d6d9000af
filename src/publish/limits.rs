//! The size limits of the topics, as far as Kafka shows them.

/// The limits of the existing topics, by index in `names`.
#[derive(Debug)]
pub(super) struct TopicLimits<'n> {
    names: &'n [String],
    longest_record: usize,
    limits: Vec<Limit>,
    has_warned_of_hidden: bool,
}

/// The limit of one topic, in bytes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    /// Not read since the topic was seen.
    Unread,
    /// Kafka does not show it: the right to DescribeConfigs is missing.
    Hidden,
    Bytes(usize),
}

impl<'n> TopicLimits<'n> {
    /// Nothing is known yet. Limits below `longest_record` cause a warning.
    pub(super) fn new(names: &'n [String], longest_record: usize) -> Self {
        Self { names, longest_record, limits: vec![Limit::Unread; names.len()], has_warned_of_hidden: false }
    }

    /// Forgets topics that are not in `there`. Returns the topics of `there` whose limits must be read: all, or only new ones.
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

    /// Updates limits. Warns of limits that are too low, whenever they change, and once of limits that cannot be read.
    pub(super) fn update(&mut self, read: impl Iterator<Item = (usize, Option<usize>)>) {
        let (mut low, mut hidden) = (Vec::new(), Vec::new());
        for (index, bytes) in read {
            let (Some(limit), Some(name)) = (self.limits.get_mut(index), self.names.get(index)) else { continue };
            let before = std::mem::replace(limit, bytes.map_or(Limit::Hidden, Limit::Bytes));
            match bytes {
                Some(bytes) if bytes < self.longest_record && before != Limit::Bytes(bytes) => {
                    low.push(format!("{name} ({bytes})"));
                }
                Some(_) => {}
                None => hidden.push(name.as_str()),
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
        if !hidden.is_empty() && !self.has_warned_of_hidden {
            self.has_warned_of_hidden = true;
            tracing::warn!(
                topics = hidden.join(", "),
                "the max.message.bytes of topics cannot be read: allow DescribeConfigs on them, or set batch.size below it"
            );
        }
    }

    /// The smallest known limit.
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
        limits.update([(0, Some(300)), (2, None)].into_iter());
        assert_eq!(limits.smallest(), Some(300));
        assert_eq!(limits.unread(&[0, 1, 2], false), [1]);
        assert_eq!(limits.names_of(&[1]), ["b"]);
        limits.update([(1, Some(200))].into_iter());
        assert_eq!(limits.smallest(), Some(200));

        // One that is gone says nothing any more.
        assert_eq!(limits.unread(&[0, 2], false), [0; 0]);
        assert_eq!(limits.smallest(), Some(300));
        assert_eq!(limits.unread(&[0, 1, 2], false), [1]);
        assert_eq!(limits.unread(&[0, 1, 2], true), [0, 1, 2]);
    }
}
