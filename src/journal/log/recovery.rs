//! Opens the log: recovers captures and deliveries from the segments alone.

use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;

use super::Damage;
use super::OnCorruption;
use super::OpenError;
use super::Options;
use super::Seq;
use super::disk;
use super::disk::Disk;
use super::disk::DiskFile;
use super::disk::Reach;
use super::format::BLOCK_BYTES;
use super::format::End;
use super::format::FirstBlock;
use super::format::SegmentHeader;
use super::maintenance::Maintainer;
use super::mutant::Mutant;
use super::ordinal_set::OrdinalSet;
use super::scan;
use super::scan::Scan;
use super::store::Compacted;
use super::store::DiskFailure;
use super::store::Entropy;
use super::store::RandomSource;
use super::store::Segment;
use super::store::SpareSegment;
use super::store::Store;
use super::store::StoreShared;
use super::store::StoreState;
use super::writer::SegmentWriter;

/// An open log.
#[derive(Debug)]
pub(crate) struct Opened<D: Disk> {
    pub(crate) store: Store<D>,
    pub(crate) writer: SegmentWriter<D>,
    pub(crate) maintainer: Maintainer<D>,
    pub(crate) found: RecoveryReport,
}

/// What recovery has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RecoveryReport {
    /// Undelivered captures that the ledger counts.
    pub(crate) counted: u64,
    /// Undelivered captures that the ledger does not count.
    pub(crate) uncounted: u64,
    /// The bytes of both, by key.
    pub(crate) live: BTreeMap<u32, u64>,
    /// The bytes that were read.
    pub(crate) read_bytes: u64,
    /// Incomplete frames at the end of a session, by file and offset. They were never acknowledged.
    pub(crate) torn: Vec<(String, u64)>,
    /// Acknowledged captures that cannot be read. Only with [`OnCorruption::Salvage`].
    pub(crate) damage: Vec<Damage>,
}

/// The files of a log, read and not changed.
#[derive(Debug)]
pub(crate) struct Survey<F> {
    /// The segments in order.
    pub(crate) segments: Vec<(Scan, F, OrdinalSet)>,
    pub(crate) spares: Vec<(String, F)>,
    pub(crate) temporary: Vec<String>,
    /// Segments whose captures are in the output of a compaction.
    pub(crate) superseded: Vec<String>,
    /// Damaged segments that were set aside.
    pub(crate) damaged: Vec<String>,
}

/// A segment whose header was read.
struct Headed<F> {
    name: String,
    first_seq: Seq,
    file: F,
    header: Option<SegmentHeader>,
    /// Of the output of a compaction, the end of its range, as far as it is known.
    output_end: Option<Seq>,
}

/// The purpose of a survey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To inspect the log.
    Inspect,
    /// To continue the log: the end of the last session must be on the disk, and not only in the page cache.
    Continue,
}

/// Reads all files.
///
/// # Errors
///
/// A file cannot be read, or has another version of the format.
pub(crate) fn survey<D: Disk>(disk: &D, purpose: Purpose) -> Result<Survey<D::File>, OpenError> {
    survey_with(disk, purpose, |_| false)
}

fn survey_with<D: Disk>(
    disk: &D,
    purpose: Purpose,
    has: impl Fn(Mutant) -> bool,
) -> Result<Survey<D::File>, OpenError> {
    let mut names = disk.list().map_err(failed("list the journal's directory"))?;
    names.sort();
    let mut survey = Survey {
        segments: Vec::new(),
        spares: Vec::new(),
        temporary: Vec::new(),
        superseded: Vec::new(),
        damaged: Vec::new(),
    };
    let mut live = Vec::new();
    let mut covered_to = 0;
    for name in names {
        match name.rsplit_once('.') {
            Some((stem, "seg")) if let Ok(seq) = stem.parse() => {
                let Some(headed) = headed(disk, name, seq)? else { continue };
                // Numbers only increase: nothing else can begin within the range of an output.
                if seq < covered_to + u64::from(has(Mutant::SupersedeEqual)) {
                    survey.superseded.push(headed.name);
                    continue;
                }
                covered_to = headed.output_end.unwrap_or(covered_to);
                live.push(headed);
            }
            Some((_, "spare")) => {
                let file = disk.open(&name).map_err(failed(&format!("open {name}")))?;
                survey.spares.push((name, file));
            }
            Some((_, "tmp")) => survey.temporary.push(name),
            Some((_, "damaged")) => survey.damaged.push(name),
            // Not ours: left alone.
            Some(_) | None => {}
        }
    }
    survey.scan(live, purpose, has(Mutant::TornOutput))?;
    Ok(survey)
}

/// Reads the header of a segment. `None` if the file is gone: a running process has just recycled it.
fn headed<D: Disk>(disk: &D, name: String, first_seq: Seq) -> Result<Option<Headed<D::File>>, OpenError> {
    let file = match disk.open(&name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed(&format!("open {name}")))?,
    };
    let mut block = [0; BLOCK_BYTES];
    let reading = disk::read_blocks(&file, &mut block, 0, Reach::All).map_err(failed(&format!("read {name}")))?;
    let header = match FirstBlock::decode(block.get(..reading.bytes).unwrap_or_default()) {
        FirstBlock::Foreign(version) if !scan::has_frame(&file).map_err(failed(&format!("read {name}")))? => {
            return Err(OpenError::Version { name, version });
        }
        FirstBlock::Header(header) if header.first_seq == first_seq => Some(header),
        FirstBlock::Header(_) | FirstBlock::Foreign(_) | FirstBlock::Damaged => None,
    };
    let output_end = match &header {
        Some(header) => header.output.map(|output| output.to),
        None => scan::output_end(&file, first_seq).map_err(failed(&format!("read {name}")))?,
    };
    Ok(Some(Headed { name, first_seq, file, header, output_end }))
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { what: what.to_owned(), source }
}

impl<F: DiskFile> Survey<F> {
    /// Whether the segments are still the same as when they were read.
    pub(crate) fn is_still_so<D: Disk>(&self, disk: &D) -> Result<bool, OpenError> {
        for (scan, ..) in &self.segments {
            let now = headed(disk, scan.name.clone(), scan.first_seq)?;
            let is_same = |header: &SegmentHeader| header.nonce == scan.nonce;
            if !now.is_some_and(|now| now.header.as_ref().map_or(!scan.damage.is_empty(), is_same)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads the segments, newest first: deliveries are recorded in the segment itself and in newer ones only.
    fn scan(&mut self, live: Vec<Headed<F>>, purpose: Purpose, tears_outputs: bool) -> Result<(), OpenError> {
        let all_ends = live.iter().filter_map(|headed| headed.header.as_ref()).flat_map(|header| &header.ends);
        let ends: HashMap<Seq, End> = all_ends.map(|end| (end.segment, *end)).collect();
        let mut buffer = Vec::new();
        let mut runs: BinaryHeap<(Seq, Seq)> = BinaryHeap::new();
        let mut next: Option<(u64, Seq)> = None;
        for Headed { name, first_seq, file, header, .. } in live.into_iter().rev() {
            let (session, nonce) = header.as_ref().map_or((0, 0), |header| (header.session, header.nonce));
            let end = ends.get(&first_seq).filter(|end| end.nonce == nonce || header.is_none());
            let is_last = next.is_none_or(|(next_session, _)| next_session != session);
            let is_output = header.as_ref().is_some_and(|header| header.output.is_some());
            if purpose == Purpose::Continue && is_last && !is_output && end.is_none() {
                file.sync_and_drop_cache().map_err(failed(&format!("sync {name}")))?;
            }
            let scanned = scan::scan(&name, first_seq, header, &file, &mut buffer);
            let mut scan = scanned.map_err(failed(&format!("read {name}")))?;
            if !tears_outputs {
                scan.end_output();
            }
            if let Some(end) = end {
                scan.ended_at(end);
            }
            scan.followed_by(next.filter(|_| !is_last || !scan.has_header).map(|(_, first_seq)| first_seq));
            if let Some((_, next)) = next {
                scan.cut(next);
            }
            runs.extend(scan.delivered.drain(..).map(|(first, last)| (last, first)));
            let delivered = take_delivered(&mut runs, &scan);
            scan.add_up(&delivered);
            next = Some((scan.session, first_seq));
            self.segments.push((scan, file, delivered));
        }
        self.segments.reverse();
        Ok(())
    }
}

/// Takes the runs of deliveries that concern this segment; each is given as its last and its first number.
fn take_delivered(runs: &mut BinaryHeap<(Seq, Seq)>, scan: &Scan) -> OrdinalSet {
    let mut delivered = OrdinalSet::default();
    while let Some((last, first)) = runs.peek().copied().filter(|(last, _)| *last >= scan.first_seq) {
        runs.pop();
        for ordinal in scan.numbers.within(first, last) {
            delivered.set(ordinal);
        }
        if first < scan.first_seq {
            runs.push((scan.first_seq - 1, first));
        }
    }
    delivered
}

/// Opens the log on `disk`.
///
/// # Errors
///
/// It cannot be read, has another version of the format, or is damaged and `options` refuse damage. Nothing was changed.
pub(crate) fn open<D: Disk>(disk: D, options: Options, entropy: Entropy) -> Result<Opened<D>, OpenError> {
    let survey = survey_with(&disk, Purpose::Continue, |mutant| options.has(mutant))?;
    let damage: Vec<Damage> = survey.segments.iter().flat_map(|(scan, ..)| scan.damage.iter().cloned()).collect();
    if !damage.is_empty() && options.on_corruption == OnCorruption::Refuse {
        return Err(OpenError::Damaged(damage));
    }
    // The previous run may have been killed between a rename and its sync. A spare must not be written while its old name may come back,
    // and superseded segments must not be removed while the name of the output is not durable.
    let syncs_first = !options.has(Mutant::RemoveBeforeSync);
    if syncs_first {
        disk.sync_directory().map_err(failed("sync the journal's directory"))?;
    }
    let gone: Vec<&String> = survey.temporary.iter().chain(&survey.superseded).collect();
    for name in &gone {
        disk.remove(name).map_err(failed(&format!("remove {name}")))?;
    }
    if !gone.is_empty() || !syncs_first {
        disk.sync_directory().map_err(failed("sync the journal's directory"))?;
    }
    let mut found = RecoveryReport { damage, ..RecoveryReport::default() };
    let mut next_name = 0;
    let mut spares = Vec::new();
    for (name, file) in survey.spares {
        let number = name.split('.').next().and_then(|number| number.parse().ok());
        next_name = next_name.max(number.unwrap_or(0));
        if file.len().is_ok_and(|bytes| bytes == options.segment_bytes) {
            spares.push(SpareSegment { name, file: Arc::new(file) });
        } else {
            // Made for another segment size.
            disk.remove(&name).map_err(failed(&format!("remove {name}")))?;
        }
    }
    let mut next_seq = 1;
    let mut segments = BTreeMap::new();
    let mut ends = Vec::new();
    for (scan, file, delivered) in survey.segments {
        found.read_bytes += scan.file_bytes;
        found.torn.extend(scan.torn_at.map(|at| (scan.name.clone(), at)));
        next_seq = next_seq.max(scan.unused_seq());
        ends.extend(scan.unrecorded_end().filter(|_| !options.has(Mutant::ForgetEnds)));
        segments.insert(scan.first_seq, segment(scan, file, delivered, &mut found));
    }
    let mut entropy = entropy;
    let session = entropy();
    let state = StoreState {
        segments,
        spares,
        is_beginning: false,
        next_name,
        durable_to: next_seq,
        is_full: false,
        entropy: RandomSource(entropy),
        superseded: Vec::new(),
        compaction_pause: 0,
        compaction_failures: 0,
        compacted: Compacted::default(),
    };
    let shared = StoreShared {
        disk,
        options,
        state: Mutex::new(state),
        maintainable: Condvar::new(),
        spare_made: Condvar::new(),
        failure: DiskFailure::default(),
    };
    let store = Store { shared: Arc::new(shared) };
    let writer = SegmentWriter::new(store.clone(), session, next_seq, ends);
    let maintainer = Maintainer::new(store.clone());
    Ok(Opened { store, writer, maintainer, found })
}

fn segment<F>(scan: Scan, file: F, mut delivered: OrdinalSet, found: &mut RecoveryReport) -> Segment<F> {
    for (key, bytes) in &scan.live {
        *found.live.entry(*key).or_default() += bytes;
    }
    for ordinal in 0..scan.captures() {
        if scan.missing.has(ordinal) {
            // There is nothing to deliver.
            delivered.set(ordinal);
        } else if !delivered.has(ordinal) {
            if scan.uncounted.has(ordinal) {
                found.uncounted += 1;
            } else {
                found.counted += 1;
            }
        }
    }
    Segment {
        live_bytes: scan.live.values().sum(),
        name: scan.name,
        file: Arc::new(file),
        file_bytes: scan.file_bytes,
        nonce: scan.nonce,
        session: scan.session,
        end_seq: scan.end_seq,
        is_end_known: scan.is_sealed || scan.is_end_recorded,
        numbers: scan.numbers.packed(),
        used_bytes: scan.used_bytes,
        delivered,
        unsaved: OrdinalSet::default(),
        counted_as_dead_letters: OrdinalSet::default(),
        is_damaged: !scan.damage.is_empty(),
        is_removed: false,
        is_unfit: false,
        older_runs: scan.older_runs,
        ends: scan.ends,
    }
}
