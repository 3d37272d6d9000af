//! Opens the log: finds again from the segments alone what is there and what was delivered.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;

use super::Damage;
use super::OnCorruption;
use super::OpenError;
use super::Options;
use super::Seq;
use super::disk::Disk;
use super::disk::DiskFile;
use super::marks::Marks;
use super::scan;
use super::scan::Scan;
use super::store::Segment;
use super::store::Shared;
use super::store::Spare;
use super::store::State;
use super::store::Store;
use super::writer::Entropy;
use super::writer::Writer;

/// A log, open.
#[derive(Debug)]
pub(crate) struct Opened<D: Disk> {
    pub(crate) store: Store<D>,
    pub(crate) writer: Writer<D>,
    pub(crate) found: Found,
}

/// What was found at the start.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Captures that are not delivered, and that the ledger counts.
    pub(crate) counted: u64,
    /// Captures that are not delivered, and that it does not count.
    pub(crate) uncounted: u64,
    /// What was read, in bytes.
    pub(crate) read_bytes: u64,
    /// Where an append was cut off. It was never acknowledged.
    pub(crate) torn: Vec<(String, u64)>,
    /// What was acknowledged and cannot be read. Only with [`OnCorruption::Salvage`].
    pub(crate) damage: Vec<Damage>,
}

/// The files of a log, read and not changed.
#[derive(Debug)]
pub(crate) struct Survey<F> {
    /// In order.
    pub(crate) segments: Vec<(Scan, F, Marks)>,
    pub(crate) spares: Vec<(String, F)>,
    pub(crate) temporary: Vec<String>,
    /// Segments that were damaged and set aside.
    pub(crate) damaged: Vec<String>,
}

/// Reads all files.
///
/// # Errors
///
/// One of them cannot be read.
pub(crate) fn survey<D: Disk>(disk: &D) -> Result<Survey<D::File>, OpenError> {
    let failed = |what: String| move |source| OpenError::Io { what, source };
    let mut names = disk.list().map_err(failed("list the journal's directory".to_owned()))?;
    names.sort();
    let mut survey = Survey { segments: Vec::new(), spares: Vec::new(), temporary: Vec::new(), damaged: Vec::new() };
    let mut buffer = Vec::new();
    for name in names {
        let opened = |name: &str| disk.open(name).map_err(failed(format!("open {name}")));
        match name.rsplit_once('.') {
            Some((stem, "seg")) if let Ok(seq) = stem.parse() => {
                let file = match disk.open(&name) {
                    // Of a running instance, it has just become a spare.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    file => file.map_err(failed(format!("open {name}")))?,
                };
                let scan = scan::scan(&name, seq, &file, &mut buffer).map_err(failed(format!("read {name}")))?;
                survey.segments.push((scan, file, Marks::default()));
            }
            Some((_, "spare")) => {
                let file = opened(&name)?;
                survey.spares.push((name, file));
            }
            Some((_, "tmp")) => survey.temporary.push(name),
            Some((_, "damaged")) => survey.damaged.push(name),
            // Not ours: left alone.
            Some(_) | None => {}
        }
    }
    survey.find_lost_ends();
    survey.mark_delivered();
    Ok(survey)
}

impl<F> Survey<F> {
    fn find_lost_ends(&mut self) {
        let next: Vec<(u64, Seq)> =
            self.segments.iter().skip(1).map(|(scan, ..)| (scan.session, scan.first_seq)).collect();
        let next = next.into_iter().map(Some).chain([None]);
        for ((scan, ..), next) in self.segments.iter_mut().zip(next) {
            scan.followed_by(next.filter(|(session, _)| scan.session == *session).map(|(_, first_seq)| first_seq));
        }
    }

    fn mark_delivered(&mut self) {
        let mut runs: Vec<(Seq, Seq)> = Vec::new();
        for (scan, ..) in &mut self.segments {
            runs.append(&mut scan.delivered);
        }
        for (scan, _, delivered) in &mut self.segments {
            for (from, to) in &runs {
                let to = (*to).min(scan.end_seq.saturating_sub(1));
                for seq in (*from).max(scan.first_seq)..=to {
                    if seq < scan.end_seq {
                        delivered.set(seq - scan.first_seq);
                    }
                }
            }
        }
    }
}

/// Opens the log on `disk`.
///
/// # Errors
///
/// It cannot be read, or it is damaged and `options` say not to go on then. Nothing was changed.
pub(crate) fn open<D: Disk>(disk: D, options: Options, entropy: Entropy) -> Result<Opened<D>, OpenError> {
    let survey = survey(&disk)?;
    let damage: Vec<Damage> = survey.segments.iter().flat_map(|(scan, ..)| scan.damage.iter().cloned()).collect();
    if !damage.is_empty() && options.on_corruption == OnCorruption::Refuse {
        return Err(OpenError::Damaged(damage));
    }
    // The run before may have been killed between a rename and its sync. A spare must not be written while its old name may come back.
    disk.sync_directory()
        .map_err(|source| OpenError::Io { what: "sync the journal's directory".to_owned(), source })?;
    for name in &survey.temporary {
        disk.remove(name).map_err(|source| OpenError::Io { what: format!("remove {name}"), source })?;
    }
    let mut found = Found { damage, ..Found::default() };
    let mut next_name = 0;
    let mut spares = Vec::new();
    for (name, file) in survey.spares {
        let number = name.split('.').next().and_then(|number| number.parse().ok());
        next_name = next_name.max(number.unwrap_or(0));
        if file.len().is_ok_and(|bytes| bytes == options.segment_bytes) {
            spares.push(Spare { name, file: Arc::new(file) });
        } else {
            // Made for another size of segments.
            disk.remove(&name).map_err(|source| OpenError::Io { what: format!("remove {name}"), source })?;
        }
    }
    let mut next_seq = 1;
    let mut segments = BTreeMap::new();
    for (scan, file, delivered) in survey.segments {
        found.read_bytes += scan.file_bytes;
        found.torn.extend(scan.torn_at.map(|at| (scan.name.clone(), at)));
        next_seq = next_seq.max(scan.unused_seq());
        let segment = segment(&scan, file, delivered, &mut found);
        segments.insert(scan.first_seq, segment);
    }
    let state = State {
        segments,
        spares,
        is_beginning: false,
        next_name,
        durable_to: next_seq,
        last_mark: 0,
        saved_mark: 0,
        round_bytes: 0,
        is_full: false,
    };
    let shared =
        Shared { disk, options, state: Mutex::new(state), untended: Condvar::new(), spare_made: Condvar::new() };
    let store = Store { shared: Arc::new(shared) };
    let writer = Writer::new(store.clone(), entropy, next_seq);
    Ok(Opened { store, writer, found })
}

fn segment<F>(scan: &Scan, file: F, mut delivered: Marks, found: &mut Found) -> Segment<F> {
    for index in 0..scan.captures() {
        if scan.missing.has(index) {
            // There is nothing to deliver.
            delivered.set(index);
        } else if !delivered.has(index) {
            if scan.uncounted.has(index) {
                found.uncounted += 1;
            } else {
                found.counted += 1;
            }
        }
    }
    Segment {
        name: scan.name.clone(),
        file: Arc::new(file),
        file_bytes: scan.file_bytes,
        nonce: scan.nonce,
        captures: scan.captures(),
        used_bytes: scan.used_bytes,
        delivered,
        missing: scan.missing.clone(),
        unsaved: Marks::default(),
        is_damaged: !scan.damage.is_empty(),
        waits_for_mark: None,
    }
}
