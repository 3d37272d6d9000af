//! A set of captures of one segment, with one bit for each.

/// A set of ordinals.
#[derive(Debug, Clone, Default)]
pub(crate) struct OrdinalSet {
    words: Vec<u64>,
    count: u64,
}

impl OrdinalSet {
    /// Adds a number. Returns whether it is new.
    pub(crate) fn set(&mut self, index: u64) -> bool {
        let Ok(word) = usize::try_from(index / 64) else { return false };
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (index % 64);
        let Some(word) = self.words.get_mut(word) else { return false };
        let is_new = *word & bit == 0;
        *word |= bit;
        self.count += u64::from(is_new);
        is_new
    }

    /// Whether a number is in the set.
    pub(crate) fn has(&self, index: u64) -> bool {
        let word = usize::try_from(index / 64).ok().and_then(|word| self.words.get(word));
        word.is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    /// The size of the set.
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    /// Removes up to `max` runs and returns them in order, each as its first and last number. A run contains successive numbers for which
    /// `follows` returns true.
    pub(crate) fn take_runs(&mut self, max: usize, follows: impl Fn(u64) -> bool) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        if self.count == 0 {
            return runs;
        }
        for (index, word) in (0_u64..).zip(&mut self.words) {
            while *word != 0 {
                let number = index * 64 + u64::from(word.trailing_zeros());
                let is_full = runs.len() == max;
                match runs.last_mut().filter(|(_, last)| *last + 1 == number && follows(number)) {
                    Some((_, last)) => *last = number,
                    None if is_full => return runs,
                    None => runs.push((number, number)),
                }
                *word &= *word - 1;
                self.count -= 1;
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set_and_its_runs_are_all_of_it(numbers in prop::collection::vec(0..300_u64, 0..80), max in 1..9_usize) {
            let mut marks = OrdinalSet::default();
            let mut model = BTreeSet::new();
            for number in numbers {
                prop_assert_eq!(marks.set(number), model.insert(number));
            }
            for number in 0..310 {
                prop_assert_eq!(marks.has(number), model.contains(&number));
            }
            prop_assert_eq!(marks.count(), model.len() as u64);
            let mut taken = BTreeSet::new();
            while marks.count() > 0 {
                let runs = marks.take_runs(max, |_| true);
                prop_assert!(!runs.is_empty() && runs.len() <= max);
                for (first, last) in runs {
                    taken.extend(first..=last);
                }
            }
            prop_assert_eq!(taken, model);
        }
    }
}
