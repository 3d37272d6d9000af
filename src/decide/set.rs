//! An immutable set of many small entries: a change makes a new version that shares nearly all of its memory with the old one.
//!
//! It is made for about ten million ids, and is exact. An entry is a *key*, which consists of a scope and an id, with a value. It takes its
//! own bytes and about six more. A lookup reads two distant places in memory, or one if nothing is found.
//!
//! Entries are in shards, in the order of their hash, and shards are in nodes. So a change of one entry copies a shard, its node, and the
//! list of nodes: some tens of kilobytes. Dropping a set frees as many allocations as it has shards.

pub(crate) mod number;
mod shard;

use std::fmt;
use std::hash::RandomState;
use std::iter;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::decide::set::shard::HEAD_BYTES_EACH;
use crate::decide::set::shard::Layout;
use crate::decide::set::shard::SHARDS_MAX;
use crate::decide::set::shard::Shard;
use crate::decide::set::shard::ShardEntry;
use crate::decide::set::shard::ShardItem;
use crate::decide::set::shard::settle;

/// The average size of new shards, in bytes, at most.
const SHARD_BYTES: usize = 15 * 1024;
/// More entries than a new shard of short ids has.
const ITEMS_EACH: usize = SHARD_BYTES / 16;
/// While a set is built, its entries are collected in this many buckets, by the top byte of their hash.
const BUCKETS: usize = 128;
/// A bucket consists of chunks that are never copied, each as large as all before it, between these sizes. Chunks and shards have the same
/// size class in the allocator, so the shards that are made of a bucket reuse the memory of its chunks.
const CHUNK_BYTES_MIN: usize = 4 * 1024;
const CHUNK_BYTES_MAX: usize = 16 * 1024;

/// The key of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key<'a> {
    /// What the id stands for. Small numbers take less space.
    pub(crate) scope: u64,
    /// Any text.
    pub(crate) id: &'a str,
}

/// The value of an entry, in a self-delimiting encoding.
pub(crate) trait SetValue: Sized {
    /// Appends the encoding.
    fn push(&self, bytes: &mut Vec<u8>);

    /// Decodes a value from the front of `bytes`; `None` if there is none.
    fn take(bytes: &mut &[u8]) -> Option<Self>;
}

/// See the [module](self).
pub(crate) struct Set<V> {
    layout: Layout,
    /// All nodes but the last have the same number of shards, a power of two.
    nodes: Arc<[Arc<[Shard]>]>,
    len: usize,
    bytes: usize,
    value: PhantomData<fn() -> V>,
}

impl<V> Clone for Set<V> {
    fn clone(&self) -> Self {
        let Self { layout, nodes, len, bytes, value } = self;
        Self { layout: layout.clone(), nodes: Arc::clone(nodes), len: *len, bytes: *bytes, value: *value }
    }
}

impl<V> fmt::Debug for Set<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} entries in {} shards", self.len, self.layout.shards)
    }
}

impl<V: SetValue> Set<V> {
    /// The number of entries.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of its entries and of the heads of their groups.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The value of `key`, if it is in the set.
    pub(crate) fn get(&self, key: Key<'_>) -> Option<V> {
        let hash = self.layout.hash(key.scope, key.id.as_bytes());
        self.shard(self.layout.shard_of(hash))?.get(key, hash, &self.layout)
    }

    /// All entries, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key<'_>, V)> {
        let entries = self.nodes.iter().flat_map(|node| node.iter()).flat_map(Shard::entries);
        entries.filter_map(|entry| {
            let ShardEntry { value, scope, id } = ShardEntry::<V>::read(entry)?;
            Some((Key { scope, id: str::from_utf8(id).ok()? }, value))
        })
    }

    /// The next version: sets the keys that have a value here, and removes those that have none. Of several changes of one key the last
    /// counts.
    #[must_use]
    pub(crate) fn changed<'k>(&self, changes: impl IntoIterator<Item = (Key<'k>, Option<V>)>) -> Self
    where
        V: Default,
    {
        let mut entries = Vec::new();
        let mut places = Vec::new();
        for (key, value) in changes {
            let start = entries.len();
            let is_removal = value.is_none();
            ShardEntry::push(&mut entries, key, &value.unwrap_or_default());
            places.push((self.layout.hash(key.scope, key.id.as_bytes()), start..entries.len(), is_removal));
        }
        // Stable: the last of several changes of one key stays the last.
        places.sort_by_key(|(hash, _, _)| *hash);
        let items = places
            .into_iter()
            .filter_map(|(hash, place, is_removal)| Some(ShardItem { hash, entry: entries.get(place)?, is_removal }));
        let changed = self.changed_by(&items.collect::<Vec<_>>());
        if changed.has_outgrown_its_shards() { changed.rebuilt() } else { changed }
    }

    fn changed_by(&self, mut changes: &[ShardItem<'_>]) -> Self {
        let mut nodes = self.nodes.to_vec();
        let (mut len, mut bytes) = (self.len, self.bytes);
        while let Some(first) = changes.first() {
            let number = self.layout.shard_of(first.hash);
            let count = changes.partition_point(|change| self.layout.shard_of(change.hash) == number);
            let (of_shard, rest) = changes.split_at_checked(count).unwrap_or((changes, &[]));
            changes = rest;
            let (node, place) = self.place(number);
            let shard = nodes.get_mut(node).and_then(|node| Arc::make_mut(node).get_mut(place));
            if let Some(shard) = shard {
                (len, bytes) = (len - shard.len(), bytes - shard.bytes());
                *shard = shard.changed::<V>(of_shard, &self.layout);
                (len, bytes) = (len + shard.len(), bytes + shard.bytes());
            }
        }
        Self { layout: self.layout.clone(), nodes: nodes.into(), len, bytes, value: PhantomData }
    }

    /// Whether the shards have become so large that changes copy too much, or so small that they waste memory.
    fn has_outgrown_its_shards(&self) -> bool {
        let made_for = SHARD_BYTES * self.layout.shards;
        self.bytes > 2 * made_for || (self.layout.shards > 1 && self.bytes < made_for / 4)
    }

    /// The same entries, in the right number of shards.
    fn rebuilt(&self) -> Self {
        let mut gathering = Gathering::with(self.layout.hasher.clone());
        self.iter().for_each(|(key, value)| gathering.put(key, &value));
        gathering.build(|_old, _new| true, |_entry| true)
    }

    fn shard(&self, number: usize) -> Option<&Shard> {
        let (node, place) = self.place(number);
        self.nodes.get(node)?.get(place)
    }

    /// The node of a shard, and the index in it.
    const fn place(&self, number: usize) -> (usize, usize) {
        let bits = node_bits(self.layout.shards);
        (number >> bits, number & ((1 << bits) - 1))
    }
}

/// The logarithm of the number of shards in a node: half of that of all shards, so that there are about as many nodes.
const fn node_bits(shards: usize) -> u32 {
    shards.ilog2() / 2
}

/// Collects the entries of a new set. [`Gathering::build`] then makes all shards at once, without copying one twice.
#[derive(Debug)]
pub(crate) struct Gathering<V> {
    layout: Layout,
    buckets: Vec<Bucket>,
    /// The bytes that they will take in the set.
    bytes: usize,
    entry: Vec<u8>,
    value: PhantomData<fn() -> V>,
}

impl<V: SetValue> Default for Gathering<V> {
    fn default() -> Self {
        Self::with(RandomState::new())
    }
}

impl<V: SetValue> Gathering<V> {
    fn with(hasher: RandomState) -> Self {
        let buckets = (0..BUCKETS).map(|_bucket| Bucket::default()).collect();
        Self { layout: Layout { hasher, shards: 1 }, buckets, bytes: 0, entry: Vec::new(), value: PhantomData }
    }

    /// Adds an entry, even if its key is there already.
    pub(crate) fn put(&mut self, key: Key<'_>, value: &V) {
        let (bucket, rest) = shard::split_hash(self.layout.hash(key.scope, key.id.as_bytes()));
        self.entry.clear();
        ShardEntry::push(&mut self.entry, key, value);
        if let Some(bucket) = self.buckets.get_mut(usize::from(bucket)) {
            bucket.push(rest, &self.entry);
            self.bytes += self.entry.len() + HEAD_BYTES_EACH;
        }
    }

    /// Builds the set. `replaces` says for two values of one key whether the later replaces the earlier. Then `keep` is called for each
    /// entry, and decides whether it stays.
    pub(crate) fn build(
        self,
        replaces: impl Fn(&V, &V) -> bool,
        mut keep: impl FnMut(ShardEntry<'_, V>) -> bool,
    ) -> Set<V> {
        let layout = Layout { shards: shards_for(self.bytes), ..self.layout };
        // Buckets and shards are both ordered by hash: some buckets hold one shard, or one bucket holds some shards.
        let (buckets_each, shards_each) = ((BUCKETS / layout.shards).max(1), (layout.shards / BUCKETS).max(1));
        let mut buckets = (0..).zip(self.buckets);
        let mut shards = Vec::with_capacity(layout.shards);
        while shards.len() < layout.shards {
            let gathered: Vec<(u8, Bucket)> = buckets.by_ref().take(buckets_each).collect();
            // Shard by shard, so that sorting stays within the CPU cache.
            let first = shards.len();
            let mut of_shards: Vec<Vec<ShardItem<'_>>> =
                (0..shards_each).map(|_shard| Vec::with_capacity(ITEMS_EACH)).collect();
            for item in gathered.iter().flat_map(|(number, bucket)| bucket.items(*number)) {
                if let Some(items) = of_shards.get_mut(layout.shard_of(item.hash) - first) {
                    items.push(item);
                }
            }
            for mut items in of_shards {
                items.sort_by_key(|item| item.hash);
                let mut items = settle(items, &replaces);
                items.retain(|item| ShardEntry::read(item.entry).is_some_and(&mut keep));
                shards.push(Shard::of(&items, &layout));
            }
        }
        let (len, bytes) = (shards.iter().map(Shard::len).sum(), shards.iter().map(Shard::bytes).sum());
        let nodes = shards.chunks(1 << node_bits(layout.shards)).map(Arc::from).collect();
        let set = Set { layout, nodes, len, bytes, value: PhantomData };
        // If many of the entries had the same key.
        if set.has_outgrown_its_shards() { set.rebuilt() } else { set }
    }
}

/// The number of shards for a set of so many bytes: a multiple or a divisor of [`BUCKETS`], so that no shard spans a part of two buckets.
fn shards_for(bytes: usize) -> usize {
    let shards = bytes.div_ceil(SHARD_BYTES);
    if shards < BUCKETS { shards.next_power_of_two() } else { shards.next_multiple_of(BUCKETS).min(SHARDS_MAX) }
}

/// Collected entries, each behind the lower bits of its hash and its length (LEB128).
#[derive(Debug, Default)]
struct Bucket {
    chunks: Vec<Vec<u8>>,
    bytes: usize,
}

impl Bucket {
    fn push(&mut self, hash: [u8; 4], entry: &[u8]) {
        let bytes_max = hash.len() + number::BYTES_MAX + entry.len();
        let has_room = |chunk: &Vec<u8>| chunk.len() + bytes_max <= chunk.capacity();
        if !self.chunks.last().is_some_and(has_room) {
            let bytes = self.bytes.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX).max(bytes_max);
            self.chunks.push(Vec::with_capacity(bytes));
            self.bytes += bytes;
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.extend_from_slice(&hash);
            number::push(chunk, u64::try_from(entry.len()).unwrap_or(u64::MAX));
            chunk.extend_from_slice(entry);
        }
    }

    /// The entries of the bucket with this number, in the order in which they were added.
    fn items(&self, number: u8) -> impl Iterator<Item = ShardItem<'_>> {
        self.chunks.iter().flat_map(move |chunk| {
            let mut rest = chunk.as_slice();
            iter::from_fn(move || {
                let (hash, entries) = rest.split_first_chunk()?;
                rest = entries;
                let bytes = usize::try_from(number::take(&mut rest)?).ok()?;
                let (entry, others) = rest.split_at_checked(bytes)?;
                rest = others;
                Some(ShardItem { hash: shard::joined_hash(number, *hash), entry, is_removal: false })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    use proptest::prelude::*;

    /// A value of any length.
    impl SetValue for String {
        fn push(&self, bytes: &mut Vec<u8>) {
            number::push(bytes, self.len().try_into().expect("short"));
            bytes.extend_from_slice(self.as_bytes());
        }

        fn take(bytes: &mut &[u8]) -> Option<Self> {
            let count = number::take(bytes)?.try_into().ok()?;
            let (text, rest) = bytes.split_at_checked(count)?;
            *bytes = rest;
            Some(str::from_utf8(text).ok()?.to_owned())
        }
    }

    type SetModel = HashMap<(u64, String), String>;

    fn assert_same(set: &Set<String>, model: &SetModel) {
        assert_eq!(set.len(), model.len());
        let listed: Vec<_> = set.iter().map(|(key, value)| ((key.scope, key.id.to_owned()), value)).collect();
        assert_eq!(listed.len(), model.len(), "each is listed once");
        assert_eq!(listed.into_iter().collect::<SetModel>(), *model);
        for ((scope, id), value) in model {
            assert_eq!(set.get(Key { scope: *scope, id }).as_ref(), Some(value));
            assert_eq!(set.get(Key { scope: scope + 1000, id }), None);
            assert_eq!(
                set.get(Key { scope: *scope, id: &format!("{id}x") }).as_ref(),
                model.get(&(*scope, format!("{id}x")))
            );
        }
    }

    fn gathered(entries: &[(u64, String, String)]) -> Set<String> {
        let mut gathering = Gathering::default();
        for (scope, id, value) in entries {
            gathering.put(Key { scope: *scope, id }, value);
        }
        gathering.build(|old, new| new >= old, |_entry| true)
    }

    fn an_entry() -> impl Strategy<Value = (u64, String, String)> {
        let long = || prop_oneof![240..260_usize, Just(2000)].prop_map(|bytes| "x".repeat(bytes));
        let id = prop_oneof![8 => "[a-c]{0,3}", 4 => "user-[0-9]{1,3}", 1 => long()];
        let scope = prop_oneof![0..3_u64, 100..400_u64];
        (scope, id, prop_oneof![4 => Just(String::new()), 4 => "[a-z]{1,3}", 1 => long()])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_set_is_what_a_map_would_be_through_all_changes(
            start in prop::collection::vec(an_entry(), 0..300),
            batches in prop::collection::vec(prop::collection::vec((an_entry(), any::<bool>()), 1..100), 0..5),
        ) {
            let mut model = SetModel::new();
            for (scope, id, value) in start.clone() {
                let kept = model.entry((scope, id)).or_insert_with(|| value.clone());
                *kept = value.max(kept.clone());
            }
            let mut set = gathered(&start);
            assert_same(&set, &model);
            for batch in batches {
                let old = (set.clone(), model.clone());
                let changes = batch.iter().map(|((scope, id, value), is_put)| (Key { scope: *scope, id }, is_put.then(|| value.clone())));
                set = set.changed(changes);
                for ((scope, id, value), is_put) in batch {
                    match is_put {
                        true => model.insert((scope, id), value),
                        false => model.remove(&(scope, id)),
                    };
                }
                assert_same(&set, &model);
                assert_same(&old.0, &old.1);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn versions_that_share_shards_stay_exact_in_whatever_order_they_are_dropped(
            batches in prop::collection::vec(prop::collection::vec((an_entry(), any::<bool>()), 1..20), 2..6),
            order in prop::collection::vec(any::<prop::sample::Index>(), 6),
        ) {
            let first = (0..300).map(|number| (0, format!("user-{number}"), "x".repeat(100))).collect::<Vec<_>>();
            let model = first.iter().map(|(scope, id, value)| ((*scope, id.clone()), value.clone())).collect();
            let mut versions: Vec<(Set<String>, SetModel)> = vec![(gathered(&first), model)];
            for batch in batches {
                let Some((set, model)) = versions.last() else { unreachable!("there is a first") };
                let mut model = model.clone();
                let changes = batch.iter().map(|((scope, id, value), is_put)| (Key { scope: *scope, id }, is_put.then(|| value.clone())));
                let set = set.changed(changes);
                for ((scope, id, value), is_put) in batch {
                    match is_put {
                        true => model.insert((scope, id), value),
                        false => model.remove(&(scope, id)),
                    };
                }
                versions.push((set, model));
            }
            for dropped in order.iter().take(versions.len()) {
                versions.swap_remove(dropped.index(versions.len()));
                versions.iter().for_each(|(set, model)| assert_same(set, model));
            }
        }

        #[test]
        fn no_shard_is_made_of_parts_of_buckets(bytes in 0..100_000_000_usize, hashes in prop::collection::vec(any::<u64>(), 50)) {
            let shards = shards_for(bytes);
            let layout = Layout { hasher: RandomState::new(), shards };
            for number in hashes {
                let hash = layout.hash(number, b"");
                let (bucket, rest) = shard::split_hash(hash);
                prop_assert_eq!(shard::joined_hash(bucket, rest), hash);
                prop_assert_eq!(usize::from(bucket) * shards.min(BUCKETS) / BUCKETS, layout.shard_of(hash) * BUCKETS.min(shards) / shards);
            }
        }
    }

    #[test]
    fn what_is_gathered_in_many_chunks_is_all_in_the_set() {
        let entries: Vec<_> = (0..3000).map(|number| (0, format!("user-{number}"), "x".repeat(4000))).collect();
        let set = gathered(&entries);
        assert!(set.layout.shards > BUCKETS && set.layout.shards.is_multiple_of(BUCKETS), "{set:?}");
        assert_same(&set, &entries.into_iter().map(|(scope, id, value)| ((scope, id), value)).collect());
    }

    #[test]
    fn a_set_that_grows_and_shrinks_by_single_changes_stays_exact() {
        let ids: Vec<String> = (0..20_000).map(|number| format!("user-{number}")).collect();
        let mut set = gathered(&[]);
        let mut shards_seen = vec![set.layout.shards];
        for ids in ids.chunks(50) {
            set = set.changed(ids.iter().map(|id| (Key { scope: 0, id }, Some(id.clone()))));
            shards_seen.push(set.layout.shards);
        }
        let model = |ids: &[String]| ids.iter().map(|id| ((0, id.clone()), id.clone())).collect::<SetModel>();
        assert_same(&set, &model(&ids));
        let (gone, left) = ids.split_at(19_900);
        for ids in gone.chunks(50) {
            set = set.changed(ids.iter().map(|id| (Key { scope: 0, id }, None)));
            shards_seen.push(set.layout.shards);
        }
        assert_same(&set, &model(left));
        shards_seen.dedup();
        assert!(shards_seen.len() > 4, "it was rebuilt on the way: {shards_seen:?}");
        assert_eq!(set.layout.shards, 1);
    }

    #[test]
    fn a_change_shares_all_shards_but_one_with_the_version_before() {
        let entries: Vec<_> = (0..50_000).map(|number| (0, format!("user-{number}"), String::new())).collect();
        let before = gathered(&entries);
        let after = before.changed([(Key { scope: 0, id: "mallory" }, Some(String::new()))]);
        let nodes = before.nodes.iter().zip(after.nodes.iter());
        assert_eq!(nodes.filter(|(old, new)| !Arc::ptr_eq(old, new)).count(), 1);
        assert!(before.nodes.len() >= 8);
        assert_eq!((before.get(Key { scope: 0, id: "mallory" }), before.len()), (None, 50_000));
        assert!(after.get(Key { scope: 0, id: "mallory" }).is_some());
    }

    #[test]
    fn the_same_id_many_times_takes_the_room_of_one() {
        let entries: Vec<_> = (0..50_000).map(|number| (0, format!("user-{}", number % 10), String::new())).collect();
        let set = gathered(&entries);
        assert_eq!((set.len(), set.layout.shards), (10, 1));
    }

    #[test]
    fn gathering_visits_each_entry_once() {
        let mut gathering = Gathering::default();
        for number in 0..5000 {
            gathering.put(Key { scope: 1, id: &format!("{}", number % 3000) }, &String::new());
        }
        let mut visited = Vec::new();
        let set = gathering.build(
            |_old, _new| true,
            |entry| {
                visited.push(entry.id.to_owned());
                true
            },
        );
        visited.sort();
        visited.dedup();
        assert_eq!((visited.len(), set.len()), (3000, 3000));
    }
}
