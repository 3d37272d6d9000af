//! Runs the log on a simulated disk, beside the model, and compares them.

use std::collections::BTreeSet;
use std::panic;
use std::panic::AssertUnwindSafe;

use super::disk::Fault;
use super::disk::Image;
use super::disk::SECTOR_BYTES;
use super::disk::SimDisk;
use super::history::Action;
use super::history::History;
use super::history::Order;
use super::history::Setup;
use super::model::Capture;
use super::model::Hurt;
use super::model::Model;
use super::model::Start;
use super::model::Violation;
use super::random::Random;
use crate::journal::log::AppendError;
use crate::journal::log::OnCorruption;
use crate::journal::log::OpenError;
use crate::journal::log::Options;
use crate::journal::log::Seq;
use crate::journal::log::cursor::Cursor;
use crate::journal::log::cursor::Place;
use crate::journal::log::cursor::ReadError;
use crate::journal::log::format::BLOCK_BYTES;
use crate::journal::log::format::Batch;
use crate::journal::log::format::Record;
use crate::journal::log::mutant::Mutant;
use crate::journal::log::recovery;
use crate::journal::log::recovery::Opened;
use crate::journal::log::store::Store;
use crate::journal::log::store::TendError;
use crate::journal::log::writer::Writer;

/// A log, its disk, and what it has promised.
pub(super) struct World {
    disk: SimDisk,
    model: Model,
    /// Of a disk that is recorded: each image, with what was promised then.
    recorded: Vec<(Image, Model)>,
    setup: Setup,
    options: Options,
    is_resized: bool,
    run: Option<Run>,
    runs: u64,
    after_power_cut: bool,
}

/// A run of the program.
struct Run {
    store: Store<SimDisk>,
    writer: Writer<SimDisk>,
    /// Readable, and not delivered in this run.
    undelivered: BTreeSet<Seq>,
    /// In this run.
    delivered: BTreeSet<Seq>,
    cursor: Cursor,
    read_to: Seq,
    /// What the files took at the start, in bytes.
    began_with_bytes: u64,
}

impl History {
    /// Lets all of it happen.
    pub(super) fn check(&self, mutant: Option<Mutant>) -> Result<(), Violation> {
        let happens = || {
            let mut world = World::new(SimDisk::new(Image::default()), &self.setup, mutant);
            for action in &self.actions {
                world.act(action)?;
            }
            world.end()
        };
        panic::catch_unwind(AssertUnwindSafe(happens)).unwrap_or_else(|_| Err("it panicked".to_owned()))
    }

    /// A shorter history with a violation.
    pub(super) fn shrunk(mut self, mutant: Option<Mutant>) -> Self {
        let mut piece = self.actions.len() / 2;
        while piece > 0 {
            let mut from = 0;
            while from < self.actions.len() {
                let mut shorter = self.clone();
                shorter.actions.drain(from..(from + piece).min(self.actions.len()));
                if shorter.check(mutant).is_err() {
                    self = shorter;
                } else {
                    from += piece;
                }
            }
            piece /= 2;
        }
        self
    }
}

impl World {
    pub(super) fn new(disk: SimDisk, setup: &Setup, mutant: Option<Mutant>) -> Self {
        disk.set_capacity(setup.capacity_bytes);
        if let Some(seed) = setup.noise {
            disk.make_noise(seed);
        }
        let options = Options {
            segment_bytes: setup.segment_blocks * BLOCK_BYTES as u64,
            quota_bytes: setup.quota_bytes,
            free_bytes_min: 0,
            on_corruption: OnCorruption::Refuse,
            mutant,
        };
        Self {
            disk,
            model: Model::default(),
            recorded: Vec::new(),
            setup: *setup,
            options,
            is_resized: false,
            run: None,
            runs: 0,
            after_power_cut: true,
        }
    }

    /// A new start on `disk`, of a log that has promised what `model` says, after so many runs.
    pub(super) fn resumed(disk: SimDisk, setup: &Setup, model: Model, runs: u64) -> Self {
        Self { model, runs, ..Self::new(disk, setup, None) }
    }

    /// What was recorded since the last time.
    pub(super) fn take_recording(&mut self) -> Vec<(Image, Model)> {
        self.note_recording();
        std::mem::take(&mut self.recorded)
    }

    /// Joins what was recorded to what is promised until now.
    fn note_recording(&mut self) {
        let images = self.disk.take_recording();
        self.recorded.extend(images.into_iter().map(|image| (image, self.model.clone())));
    }

    pub(super) fn act(&mut self, action: &Action) -> Result<(), Violation> {
        match action {
            Action::Append { sizes, is_counted, with_delivered, is_patient, fault } => {
                let Some(mut batch) = self.batch(sizes, *is_counted)? else { return Ok(()) };
                self.append(&mut batch, *with_delivered, *is_patient, *fault).map(|_is_taken| ())
            }
            Action::Deliver { captures, order } => {
                self.deliver(*captures, *order);
                Ok(())
            }
            Action::Tend { fault } => self.tend(*fault),
            Action::Read { frames } => self.read(*frames),
            Action::Flip { pick } => {
                self.flip(*pick);
                Ok(())
            }
            Action::Spoil { pick } => {
                self.spoil(*pick);
                Ok(())
            }
            Action::Heal => {
                self.disk.heal();
                Ok(())
            }
            Action::Close { fault } => self.close(*fault),
            Action::Kill => {
                self.stop();
                Ok(())
            }
            Action::PowerOff { seed } => {
                self.cut_power(*seed);
                Ok(())
            }
            Action::Open { segment_blocks, fault } => {
                self.stop();
                self.is_resized |= *segment_blocks != self.setup.segment_blocks;
                self.options.segment_bytes = segment_blocks * BLOCK_BYTES as u64;
                self.open(*fault)
            }
        }
    }

    /// Whatever has happened: once there is room and everything is delivered, the log takes something again and keeps it.
    pub(super) fn end(&mut self) -> Result<(), Violation> {
        self.disk.set_capacity(u64::MAX);
        self.cut_power(1);
        for _ in 0..2 {
            self.open(None)?;
            self.read(u64::MAX)?;
            self.deliver(u64::MAX, Order::OldestFirst);
            self.tend(None)?;
            let Some(mut batch) = self.batch(&[100], true)? else { return Err("it cannot be opened".to_owned()) };
            if !self.append(&mut batch, true, true, None)? {
                return Err(format!("it takes nothing although it is empty: {:?}", self.run_now().store.fill()));
            }
            self.tend(None)?;
            self.read(u64::MAX)?;
            self.close(None)?;
        }
        self.open(None)
    }

    fn run_now(&mut self) -> &mut Run {
        self.run.as_mut().unwrap()
    }

    /// Opens the log if it is not open. Returns whether it is.
    fn is_open(&mut self) -> Result<bool, Violation> {
        if self.run.is_none() {
            self.open(None)?;
        }
        Ok(self.run.is_some())
    }

    pub(super) fn open(&mut self, fault: Option<Fault>) -> Result<(), Violation> {
        self.stop();
        self.disk = self.disk.restarted();
        self.disk.arm(fault);
        let mut damage = Vec::new();
        let mut opened = self.try_open(OnCorruption::Refuse);
        if self.model.is_hurt() && matches!(opened, Err(OpenError::Io { .. })) && fault.is_none() {
            // Of a file nothing could be read. Nobody goes on without it: it is waited for.
            self.disk.heal();
            opened = self.try_open(OnCorruption::Refuse);
        }
        if let Err(OpenError::Damaged(found)) = opened {
            damage = found;
            opened = self.try_open(OnCorruption::Salvage);
        }
        let Opened { store, writer, found } = match opened {
            Ok(opened) => opened,
            Err(error) => return self.fails(&format!("open: {error}"), fault),
        };
        self.note_recording();
        let start = Start { store: &store, found: &found, damage: &damage, after_power_cut: self.after_power_cut };
        let undelivered = self.model.check_start(&start)?;
        self.after_power_cut = false;
        self.run = Some(Run {
            store,
            writer,
            undelivered,
            delivered: BTreeSet::new(),
            cursor: Cursor::default(),
            read_to: 0,
            began_with_bytes: self.disk.used_bytes(),
        });
        self.tend(fault)
    }

    fn try_open(&mut self, on_corruption: OnCorruption) -> Result<Opened<SimDisk>, OpenError> {
        self.runs += 1;
        let mut random = Random::new(self.runs);
        let options = Options { on_corruption, ..self.options.clone() };
        recovery::open(self.disk.clone(), options, Box::new(move || random.next()))
    }

    /// Captures for the log, as many as fit in a batch.
    fn batch(&mut self, sizes: &[usize], is_counted: bool) -> Result<Option<(Batch, Vec<Capture>)>, Violation> {
        if !self.is_open()? {
            return Ok(None);
        }
        let bytes_max = self.run_now().writer.batch_bytes_max();
        let mut batch = Batch::new();
        let mut captures = Vec::new();
        for size in sizes {
            let room = bytes_max.saturating_sub(batch.bytes() + 5);
            let capture = self.model.give((*size).min(room), is_counted);
            batch.push(capture.is_counted(), |into| capture.write(into));
            captures.push(capture);
        }
        Ok(Some((batch, captures)))
    }

    /// Returns whether it was taken.
    fn append(
        &mut self,
        (batch, captures): &mut (Batch, Vec<Capture>),
        with_delivered: bool,
        is_patient: bool,
        fault: Option<Fault>,
    ) -> Result<bool, Violation> {
        self.disk.arm(fault);
        let mut appended = self.run_now().writer.append(batch, with_delivered);
        for _ in 0..if is_patient { 3 } else { 0 } {
            if !matches!(appended, Err(AppendError::Full | AppendError::NoSpace(_))) {
                break;
            }
            self.tend(None)?;
            appended = self.run_now().writer.append(batch, with_delivered);
        }
        self.disk.arm(None);
        let appended = match appended {
            Ok(appended) => appended,
            Err(AppendError::Full) if is_patient => return self.check_full().map(|()| false),
            Err(AppendError::Full | AppendError::NoSpace(_)) => return Ok(false),
            Err(error @ AppendError::Failed { .. }) => {
                return self.fails(&format!("append: {error:?}"), fault).map(|()| false);
            }
        };
        self.note_recording();
        let run = self.run.as_mut().unwrap();
        let mut cursor = Cursor::at(appended.place);
        match cursor.next(&run.store) {
            Ok(Some((place, frame))) if place == appended.place && frame.header.first_seq == appended.first_seq => {
                self.model.acknowledge(captures, place, &frame)?;
            }
            other => return Err(format!("what was just appended at {:?} is {other:?}", appended.place)),
        }
        run.undelivered.extend((appended.first_seq..).take(captures.len()));
        self.check_room().map(|()| true)
    }

    fn deliver(&mut self, captures: u64, order: Order) {
        let Some(run) = &mut self.run else { return };
        let mut seqs: Vec<Seq> = run.undelivered.iter().copied().collect();
        match order {
            Order::OldestFirst => {}
            Order::NewestFirst => seqs.reverse(),
            Order::OldestHeldUp => {
                seqs.drain(..seqs.len().min(1));
            }
            Order::Any { seed } => {
                let mut random = Random::new(seed);
                seqs.sort_by_cached_key(|_| random.next());
            }
        }
        seqs.truncate(usize::try_from(captures).unwrap_or(usize::MAX));
        for seq in &seqs {
            self.model.deliver(*seq);
            run.undelivered.remove(seq);
            run.delivered.insert(*seq);
        }
        // A second time, as when a report comes twice.
        seqs.extend_from_within(..seqs.len().min(1));
        run.store.delivered(&seqs);
    }

    fn tend(&mut self, fault: Option<Fault>) -> Result<(), Violation> {
        let Some(run) = &mut self.run else { return Ok(()) };
        self.disk.arm(fault);
        let tended = run.store.tend();
        self.disk.arm(None);
        match tended {
            Ok(()) => self.check_room(),
            Err(TendError::Retry(..)) if fault.is_some() && !self.disk.is_off() => self.check_room(),
            Err(error) => self.fails(&format!("tend: {error:?}"), fault),
        }
    }

    fn read(&mut self, frames: u64) -> Result<(), Violation> {
        if !self.is_open()? {
            return Ok(());
        }
        let run = self.run.as_mut().unwrap();
        let mut frames_left = frames;
        let is_missed = |run: &Run, model: &Model, to: Seq| {
            let mut missed = run.undelivered.range(run.read_to + 1..to);
            missed.find(|seq| !model.may_be_unreadable(**seq)).copied()
        };
        while frames_left > 0 {
            frames_left -= 1;
            let frame = match run.cursor.next(&run.store) {
                Ok(None) => {
                    let missed = is_missed(run, &self.model, Seq::MAX);
                    return missed.map_or(Ok(()), |seq| Err(format!("the reader is not given {seq}")));
                }
                Ok(Some((_, frame))) => frame,
                Err(ReadError::Damaged(_)) if self.model.is_hurt() => continue,
                Err(error) => return Err(format!("the reader finds: {error}")),
            };
            let first_seq = frame.header.first_seq;
            let captures: Vec<(bool, Vec<u8>)> = frame
                .records()
                .filter_map(|record| match record {
                    Record::Capture { is_counted, bytes } => Some((is_counted, bytes.to_vec())),
                    Record::Delivered(_) => None,
                })
                .collect();
            for (seq, (is_counted, bytes)) in (first_seq..).zip(captures) {
                if seq <= run.read_to {
                    return Err(format!("the reader is given {seq} behind {}", run.read_to));
                }
                self.model.check_read(seq, is_counted, &bytes)?;
                if let Some(missed) = is_missed(run, &self.model, seq) {
                    return Err(format!("the reader is given {seq} before {missed}"));
                }
                run.read_to = seq;
            }
        }
        Ok(())
    }

    fn flip(&mut self, pick: u64) {
        let mut random = Random::new(pick);
        let Some((Place { segment, offset }, end)) = self.model.any_frame(random.next()) else { return };
        let offset = match random.below(10) {
            0 => random.below(64),
            1 => random.below(self.options.segment_bytes),
            2..5 => offset + random.below(48),
            5 => end + random.below(48),
            6..8 => offset + random.below(512),
            _ => offset + random.below(end - offset),
        };
        self.disk.flip(&format!("{segment:020}.seg"), offset, random.next());
        self.model.hurt(segment, offset..offset + 1, Hurt::Flipped);
        if let Some(run) = &mut self.run {
            run.delivered.clear();
        }
    }

    fn spoil(&mut self, pick: u64) {
        let mut random = Random::new(pick);
        let Some((Place { segment, offset }, end)) = self.model.any_frame(random.next()) else { return };
        let offset = match random.below(10) {
            0 => 0,
            1 => random.below(self.options.segment_bytes),
            2..5 => offset,
            5 => end,
            _ => offset + random.below(end - offset),
        };
        let sector_bytes = SECTOR_BYTES as u64;
        let offset = offset - offset % sector_bytes;
        let sectors = 1 + if random.percent(50) { 0 } else { random.below(20) };
        self.disk.make_bad(&format!("{segment:020}.seg"), offset, sectors);
        self.model.hurt(segment, offset..offset + sectors * sector_bytes, Hurt::Unreadable);
        if let Some(run) = &mut self.run {
            run.delivered.clear();
        }
    }

    fn close(&mut self, fault: Option<Fault>) -> Result<(), Violation> {
        let Some(run) = self.run.take() else { return Ok(()) };
        self.disk.arm(fault);
        let closed = run.writer.close();
        self.disk.arm(None);
        self.note_recording();
        match closed {
            Ok(()) => self.model.record_all(&run.delivered),
            Err(AppendError::Full | AppendError::NoSpace(_)) => {}
            Err(error @ AppendError::Failed { .. }) => return self.fails(&format!("close: {error:?}"), fault),
        }
        self.check_room()?;
        self.stop();
        Ok(())
    }

    /// Something failed: the process ends. That is right only if a fault was the reason.
    fn fails(&mut self, what: &str, fault: Option<Fault>) -> Result<(), Violation> {
        self.disk.arm(None);
        let Some(fault) = fault else { return Err(format!("{what}, without a fault")) };
        self.stop();
        if self.disk.is_off() {
            self.cut_power(fault.after);
        }
        Ok(())
    }

    /// Ends the process.
    fn stop(&mut self) {
        self.run = None;
    }

    fn cut_power(&mut self, seed: u64) {
        self.stop();
        self.disk.cut_power(&mut Random::new(seed));
        self.after_power_cut = true;
    }

    /// When it is full, no segment but the newest is only waiting to be taken back.
    fn check_full(&mut self) -> Result<(), Violation> {
        // A smaller segment that is taken back makes no room for a larger one; nor does one that is set aside.
        // And where the segment beyond the quota is full, there is not another.
        let run = self.run.as_ref().unwrap();
        let can_tell = self.setup.capacity_bytes == u64::MAX
            && !self.is_resized
            && !self.model.is_hurt()
            && run.store.fill().files_bytes <= self.options.quota_bytes;
        let held = self.model.segments_of(&run.undelivered);
        let usage = run.store.fill();
        if can_tell && usage.segments > held + 1 {
            return Err(format!("it is full, and of {usage:?} only {held} segments are needed"));
        }
        Ok(())
    }

    /// The files take no more than they may, or than they did.
    fn check_room(&mut self) -> Result<(), Violation> {
        let used_bytes = self.disk.used_bytes();
        let Some(run) = &self.run else { return Ok(()) };
        let allowed_bytes = self.options.quota_bytes.max(run.began_with_bytes) + 2 * self.options.segment_bytes;
        if used_bytes > allowed_bytes {
            return Err(format!("{used_bytes} bytes are used of {allowed_bytes}"));
        }
        Ok(())
    }
}
