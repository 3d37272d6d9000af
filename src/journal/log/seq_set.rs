//! The sequence numbers of a segment's captures: without gaps where they were appended, with gaps in the output of a compaction.

use std::ops::Range;

use super::Seq;

/// See the [module](self). The index of a capture in the set is its ordinal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SeqSet {
    /// `count` numbers from `first` on.
    Dense { first: Seq, count: u64 },
    /// The numbers minus `first`, in order.
    Sparse { first: Seq, offsets: Vec<u32> },
}

impl SeqSet {
    /// The same numbers in the least memory: they are without gaps in the output of a compaction too where it has only removed padding.
    pub(super) fn packed(self) -> Self {
        let Self::Sparse { first, mut offsets } = self else { return self };
        let count = offsets.len() as u64;
        match (offsets.first(), offsets.last()) {
            (Some(start), Some(last)) if u64::from(last - start) + 1 == count => {
                Self::Dense { first: first + u64::from(*start), count }
            }
            _ => {
                offsets.shrink_to_fit();
                Self::Sparse { first, offsets }
            }
        }
    }

    pub(crate) fn count(&self) -> u64 {
        match self {
            Self::Dense { count, .. } => *count,
            Self::Sparse { offsets, .. } => offsets.len() as u64,
        }
    }

    /// The ordinal of a number, if it is in the set.
    pub(crate) fn ordinal(&self, seq: Seq) -> Option<u64> {
        match self {
            Self::Dense { first, count } => seq.checked_sub(*first).filter(|ordinal| ordinal < count),
            Self::Sparse { first, offsets } => {
                let offset = u32::try_from(seq.checked_sub(*first)?).ok()?;
                offsets.binary_search(&offset).ok().map(|ordinal| ordinal as u64)
            }
        }
    }

    /// The number at an ordinal.
    pub(crate) fn at(&self, ordinal: u64) -> Seq {
        match self {
            Self::Dense { first, .. } => first + ordinal,
            Self::Sparse { first, offsets } => {
                let offset = usize::try_from(ordinal).ok().and_then(|ordinal| offsets.get(ordinal));
                first + u64::from(offset.copied().unwrap_or(u32::MAX))
            }
        }
    }

    /// The ordinals of the numbers from `from` to `last`, inclusive.
    pub(crate) fn within(&self, from: Seq, last: Seq) -> Range<u64> {
        match self {
            Self::Dense { first, count } => {
                let end = last.saturating_add(1).saturating_sub(*first).min(*count);
                from.saturating_sub(*first).min(end)..end
            }
            Self::Sparse { first, offsets } => {
                let before = |seq: Seq| offsets.partition_point(|offset| first + u64::from(*offset) < seq) as u64;
                before(from)..before(last.saturating_add(1))
            }
        }
    }

    /// The number behind the last one.
    pub(super) fn end(&self) -> Seq {
        match self {
            Self::Dense { first, count } => first + count,
            Self::Sparse { first, offsets } => offsets.last().map_or(*first, |last| first + u64::from(*last) + 1),
        }
    }

    /// Keeps only the numbers before `end`.
    pub(super) fn cut(&mut self, end: Seq) {
        let kept = self.within(0, end.saturating_sub(1)).end;
        match self {
            Self::Dense { count, .. } => *count = kept,
            Self::Sparse { offsets, .. } => offsets.truncate(usize::try_from(kept).unwrap_or(usize::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_gaps_are_packed_into_two() {
        let packed = |offsets: &[u32]| SeqSet::Sparse { first: 10, offsets: offsets.to_vec() }.packed();
        assert_eq!(packed(&[3, 4, 5]), SeqSet::Dense { first: 13, count: 3 });
        assert_eq!(packed(&[3]), SeqSet::Dense { first: 13, count: 1 });
        for with_gaps in [&[][..], &[3, 5], &[0, 1, 3]] {
            assert_eq!(packed(with_gaps), SeqSet::Sparse { first: 10, offsets: with_gaps.to_vec() });
        }
        let dense = SeqSet::Dense { first: 10, count: 4 };
        assert_eq!(dense.clone().packed(), dense);
    }

    #[test]
    fn numbers_and_ordinals_lead_to_each_other_and_gaps_have_none() {
        let sparse = SeqSet::Sparse { first: 10, offsets: vec![0, 3, 4, 90] };
        let dense = SeqSet::Dense { first: 10, count: 4 };
        for numbers in [&sparse, &dense] {
            for ordinal in 0..numbers.count() {
                assert_eq!(numbers.ordinal(numbers.at(ordinal)), Some(ordinal));
            }
            assert_eq!((numbers.ordinal(9), numbers.ordinal(101)), (None, None));
            assert_eq!((numbers.within(0, u64::MAX), numbers.within(0, 9)), (0..4, 0..0));
        }
        assert_eq!((sparse.ordinal(11), sparse.at(3)), (None, 100));
        assert_eq!((sparse.end(), dense.end()), (101, 14));
        assert_eq!((sparse.within(11, 14), sparse.within(15, 99), sparse.within(13, 13)), (1..3, 3..3, 1..2));
        assert_eq!((dense.within(11, 12), dense.within(14, 20)), (1..3, 4..4));
    }
}
