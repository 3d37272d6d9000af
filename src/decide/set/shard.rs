//! A shard: some hundreds of entries in one immutable allocation.
//!
//! Entries are in groups. After 48 unused bytes come the heads of all groups, 64 bytes each, then the entries, group by group:
//!
//! ```text
//! head:  start of the group's entries, behind the heads (u32) │ 30 tags │ 30 lengths; 0: no more entries
//! entry: value │ scope (LEB128) │ id             with its length (LEB128) before it where that is 255 or more
//! ```
//!
//! The tag is a byte of the entry's hash, so that a lookup reads a head and usually only the entry that it looks for. Groups are in the
//! order of the hash, as are shards.

use std::hash::BuildHasher;
use std::hash::Hasher;
use std::hash::RandomState;
use std::sync::Arc;

use crate::decide::set::Key;
use crate::decide::set::SetValue;
use crate::decide::set::number;

const HEAD_BYTES: usize = 64;
/// The unused bytes before the heads. With the 16 bytes of the counts of an [`Arc`] each head is one cache line: nearly all shards begin at
/// a page boundary.
const PAD_BYTES: usize = HEAD_BYTES - 16;
const START_BYTES: usize = 4;
/// The most entries of a group.
const SLOTS: usize = 30;
const _: () = assert!(START_BYTES + 2 * SLOTS == HEAD_BYTES);
/// The bytes of a head that are compared with a tag at once: all tags, and two lengths.
const COMPARED: usize = 32;
const _: () = assert!(SLOTS <= COMPARED && START_BYTES + COMPARED <= HEAD_BYTES);
/// The average number of entries of a group. With random hashes one of about 700 groups would exceed [`SLOTS`].
const GROUP_ENTRIES: usize = 17;
/// The average bytes that the heads add to each entry, rounded up.
pub(super) const HEAD_BYTES_EACH: usize = HEAD_BYTES.div_ceil(GROUP_ENTRIES);
/// The allocator has no size class between 14 and 16 KiB, and adds some bytes for the counts of an [`Arc`].
const FULL_BYTES: usize = 16 * 1024 - 32;
/// A shard of at least this size takes all of [`FULL_BYTES`], so that the shards of a large set have one size.
const NEARLY_FULL_BYTES: usize = 12 * 1024;
/// Means that the length is stored before the entry.
const LONG: u8 = u8::MAX;

/// The bits of a hash: enough for the shard, the group and the tag. The top byte is the number of the bucket, so only four bytes must be
/// stored with a collected entry.
const HASH_BITS: u32 = 39;
const BELOW_BUCKET_BITS: u32 = 32;
/// The most shards that a hash can address.
pub(super) const SHARDS_MAX: usize = 1 << (u64::BITS - HASH_BITS);

/// Where an entry is, from its hash: the hash as a fraction gives the shard, the remainder gives the group, and the lowest byte is the tag.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// SipHash with a random key: ids come from strangers, who must not be able to fill one group.
    pub(super) hasher: RandomState,
    /// The number of shards, at most [`SHARDS_MAX`].
    pub(super) shards: usize,
}

impl Layout {
    pub(super) fn hash(&self, scope: u64, id: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        // The scope of most rules is 0, and needs no round of its own then. Two keys at most hash the same bytes.
        if scope != 0 {
            hasher.write_u64(scope);
        }
        hasher.write(id);
        hasher.finish() >> (u64::BITS - HASH_BITS)
    }

    pub(super) fn hash_entry<V: SetValue>(&self, entry: &[u8]) -> u64 {
        ShardEntry::<V>::read(entry).map_or(0, |entry| self.hash(entry.scope, entry.id))
    }

    /// The number of the shard. Monotonic in the hash.
    pub(super) fn shard_of(&self, hash: u64) -> usize {
        index(self.product(hash) >> HASH_BITS)
    }

    /// The number of the group, one of `groups`. Monotonic in the hash within a shard.
    fn group_of(&self, hash: u64, groups: usize) -> usize {
        let fraction = self.product(hash) << (u64::BITS - HASH_BITS) >> 32;
        index((fraction * wide(groups)) >> 32)
    }

    fn product(&self, hash: u64) -> u64 {
        hash * wide(self.shards)
    }
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

const fn tag_of(hash: u64) -> u8 {
    let [tag, ..] = hash.to_le_bytes();
    tag
}

/// The bucket of an entry with this hash, and the remaining bits.
pub(super) const fn split_hash(hash: u64) -> (u8, [u8; 4]) {
    let [a, b, c, d, bucket, ..] = hash.to_le_bytes();
    (bucket, [a, b, c, d])
}

/// The hash that [`split_hash`] has split.
pub(super) fn joined_hash(bucket: u8, rest: [u8; 4]) -> u64 {
    u64::from(bucket) << BELOW_BUCKET_BITS | u64::from(u32::from_le_bytes(rest))
}

/// The parts of an entry.
#[derive(Debug)]
pub(crate) struct ShardEntry<'b, V> {
    pub(crate) value: V,
    pub(crate) scope: u64,
    pub(crate) id: &'b [u8],
}

impl<'b, V: SetValue> ShardEntry<'b, V> {
    pub(super) fn push(bytes: &mut Vec<u8>, key: Key<'_>, value: &V) {
        value.push(bytes);
        number::push(bytes, key.scope);
        bytes.extend_from_slice(key.id.as_bytes());
    }

    pub(super) fn read(mut bytes: &'b [u8]) -> Option<Self> {
        Some(Self { value: V::take(&mut bytes)?, scope: number::take(&mut bytes)?, id: bytes })
    }

    fn has_key_of(&self, other: &Self) -> bool {
        self.scope == other.scope && self.id == other.id
    }
}

/// An entry to put into a shard, or a key to remove from it.
#[derive(Clone, Copy)]
pub(super) struct ShardItem<'a> {
    pub(super) hash: u64,
    pub(super) entry: &'a [u8],
    pub(super) is_removal: bool,
}

/// Reduces items, which are in the order of their hash, to one for each key. `replaces` says whether the later of two replaces the earlier.
/// Removals are dropped at the end.
pub(super) fn settle<'a, V: SetValue>(
    mut items: Vec<ShardItem<'a>>,
    replaces: impl Fn(&V, &V) -> bool,
) -> Vec<ShardItem<'a>> {
    // The usual case: no duplicates.
    if items.is_sorted_by(|item, next| item.hash < next.hash) {
        items.retain(|item| !item.is_removal);
        return items;
    }
    let mut settled: Vec<ShardItem<'a>> = Vec::with_capacity(items.len());
    for item in items {
        let of_hash = settled.iter_mut().rev().take_while(|other| other.hash == item.hash);
        let read = |item: &ShardItem<'a>| ShardEntry::<V>::read(item.entry);
        let mut twins = of_hash.filter_map(|other| Some((read(other)?, read(&item)?, other)));
        match twins.find(|(old, new, _)| old.has_key_of(new)) {
            None => settled.push(item),
            Some((old, new, twin)) if replaces(&old.value, &new.value) => *twin = item,
            Some(_) => {}
        }
    }
    settled.retain(|item| !item.is_removal);
    settled
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub(super) struct Shard {
    groups: u32,
    count: u32,
    bytes: Arc<[u8]>,
}

impl Shard {
    /// A shard of `items`, which are in the order of their hash, one for each key, without removals.
    pub(super) fn of(items: &[ShardItem<'_>], layout: &Layout) -> Self {
        let mut groups = items.len().div_ceil(GROUP_ENTRIES);
        loop {
            match Self::of_groups(items, layout, groups) {
                Some(shard) => return shard,
                None => groups += 1 + groups / 16,
            }
        }
    }

    /// `None` if a group would have too many entries.
    fn of_groups(items: &[ShardItem<'_>], layout: &Layout, groups: usize) -> Option<Self> {
        let bytes = items.iter().map(|item| item.entry.len()).sum();
        let mut writer = ShardWriter::new(groups, bytes);
        let mut rest = items;
        for group in 0..groups {
            let count = rest.iter().take_while(|item| layout.group_of(item.hash, groups) == group).count();
            let (mine, others) = rest.split_at_checked(count)?;
            writer.push(group, mine.iter().map(|item| (tag_of(item.hash), item.entry)))?;
            rest = others;
        }
        Some(writer.finish())
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn len(&self) -> usize {
        index(self.count.into())
    }

    /// Looks up a key.
    pub(super) fn get<V: SetValue>(&self, key: Key<'_>, hash: u64, layout: &Layout) -> Option<V> {
        let group = layout.group_of(hash, self.groups());
        // Most ids that are not in the set end here. Fewer instructions than memchr, so that the processor can begin the next lookup meanwhile.
        let tags: &[u8; COMPARED] = self.bytes.get(head_start(group) + START_BYTES..)?.first_chunk()?;
        if !tags.iter().fold(false, |is_there, tag| is_there | (*tag == tag_of(hash))) {
            return None;
        }
        let mut tagged = self.group(group).filter(|(tag, _entry)| *tag == tag_of(hash));
        tagged.find_map(|(_tag, entry)| {
            let entry = ShardEntry::<V>::read(entry)?;
            (entry.scope == key.scope && entry.id == key.id.as_bytes()).then_some(entry.value)
        })
    }

    /// This shard with `changes`, which are in the order of their hash; of several for one key the last counts. Unchanged groups are
    /// copied.
    pub(super) fn changed<V: SetValue>(&self, changes: &[ShardItem<'_>], layout: &Layout) -> Self {
        self.changed_in_place::<V>(changes, layout).unwrap_or_else(|| {
            let mut items: Vec<ShardItem<'_>> = self
                .entries()
                .map(|entry| ShardItem { hash: layout.hash_entry::<V>(entry), entry, is_removal: false })
                .chain(changes.iter().copied())
                .collect();
            // Stable: a change stays after the entry that it changes.
            items.sort_by_key(|item| item.hash);
            Self::of(&settle::<V>(items, |_old, _new| true), layout)
        })
    }

    /// `None` if a group would have too many entries, or most groups very few.
    fn changed_in_place<V: SetValue>(&self, changes: &[ShardItem<'_>], layout: &Layout) -> Option<Self> {
        let added = changes.iter().map(|change| change.entry.len()).sum::<usize>();
        let mut writer = ShardWriter::new(self.groups(), self.bytes.len() + added);
        let mut rest = changes;
        for group in 0..self.groups() {
            let count = rest.iter().take_while(|change| layout.group_of(change.hash, self.groups()) == group).count();
            let (mine, others) = rest.split_at_checked(count)?;
            rest = others;
            if mine.is_empty() {
                writer.push(group, self.group(group))?;
                continue;
            }
            let mut entries: Vec<(u8, &[u8])> = self.group(group).collect();
            for change in mine {
                let changed = ShardEntry::<V>::read(change.entry)?;
                let is_other = |entry| ShardEntry::<V>::read(entry).is_none_or(|entry| !entry.has_key_of(&changed));
                entries.retain(|(_tag, entry)| is_other(*entry));
                if !change.is_removal {
                    entries.push((tag_of(change.hash), change.entry));
                }
            }
            writer.push(group, entries.into_iter())?;
        }
        let groups_max = 4 * writer.count.div_ceil(GROUP_ENTRIES).max(1);
        (rest.is_empty() && self.groups() <= groups_max).then(|| writer.finish())
    }

    /// All entries.
    pub(super) fn entries(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.groups()).flat_map(|group| self.group(group)).map(|(_tag, entry)| entry)
    }

    fn groups(&self) -> usize {
        index(self.groups.into())
    }

    fn group(&self, group: usize) -> Group<'_> {
        self.try_group(group).unwrap_or_default()
    }

    fn try_group(&self, group: usize) -> Option<Group<'_>> {
        let head = self.bytes.get(head_start(group)..)?;
        let (start, head) = head.split_first_chunk::<START_BYTES>()?;
        let (tags, head) = head.split_at_checked(SLOTS)?;
        let lengths = head.get(..SLOTS)?;
        let start = head_start(self.groups()) + index(u32::from_le_bytes(*start).into());
        Some(Group { tags, lengths, rest: self.bytes.get(start..)? })
    }
}

/// Where the head of a group begins. Entries begin where the head after the last one would.
const fn head_start(group: usize) -> usize {
    PAD_BYTES + group * HEAD_BYTES
}

/// The entries of a group, each with its tag. Reads no byte of an entry, unless one is long.
#[derive(Default)]
struct Group<'b> {
    tags: &'b [u8],
    lengths: &'b [u8],
    rest: &'b [u8],
}

impl<'b> Iterator for Group<'b> {
    type Item = (u8, &'b [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (tag, tags) = self.tags.split_first()?;
        let (length, lengths) = self.lengths.split_first()?;
        let bytes = match *length {
            0 => return None,
            LONG => index(number::take(&mut self.rest)?),
            length => usize::from(length),
        };
        let (entry, rest) = self.rest.split_at_checked(bytes)?;
        *self = Self { tags, lengths, rest };
        Some((*tag, entry))
    }
}

/// Builds a shard, group by group.
struct ShardWriter {
    groups: usize,
    count: usize,
    bytes: Vec<u8>,
}

impl ShardWriter {
    fn new(groups: usize, entries_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(head_start(groups) + entries_bytes);
        bytes.resize(head_start(groups), 0);
        Self { groups, count: 0, bytes }
    }

    /// `None` if there are too many entries.
    fn push<'a>(&mut self, group: usize, entries: impl Iterator<Item = (u8, &'a [u8])>) -> Option<()> {
        let mut head = [0; HEAD_BYTES];
        let (start, rest) = head.split_first_chunk_mut::<START_BYTES>()?;
        *start = u32::try_from(self.bytes.len() - head_start(self.groups)).ok()?.to_le_bytes();
        let (tags, lengths) = rest.split_at_mut_checked(SLOTS)?;
        for (slot, (tag, entry)) in entries.enumerate() {
            *tags.get_mut(slot)? = tag;
            let length = u8::try_from(entry.len()).unwrap_or(LONG);
            *lengths.get_mut(slot)? = length;
            if length == LONG {
                number::push(&mut self.bytes, u64::try_from(entry.len()).ok()?);
            }
            self.bytes.extend_from_slice(entry);
            self.count += 1;
        }
        self.bytes.get_mut(head_start(group)..)?.first_chunk_mut().map(|place: &mut [u8; HEAD_BYTES]| *place = head)
    }

    fn finish(mut self) -> Shard {
        if (NEARLY_FULL_BYTES..FULL_BYTES).contains(&self.bytes.len()) {
            self.bytes.resize(FULL_BYTES, 0);
        }
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Shard { groups: count(self.groups), count: count(self.count), bytes: self.bytes.into() }
    }
}
