//! Runs the log on a simulated disk, beside the model, and compares them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Range;
use std::panic;
use std::panic::AssertUnwindSafe;

use super::disk::Fault;
use super::disk::Image;
use super::disk::SECTOR_BYTES;
use super::disk::SimDisk;
use super::history::Action;
use super::history::DeliveryOrder;
use super::history::History;
use super::history::HistorySetup;
use super::model::Hurt;
use super::model::Model;
use super::model::ModelCapture;
use super::model::Outstanding;
use super::model::Start;
use super::model::StoredCapture;
use super::model::Violation;
use super::model::bytes_by_key;
use super::random::SplitMix;
use crate::journal::log::AppendError;
use crate::journal::log::OnCorruption;
use crate::journal::log::OpenError;
use crate::journal::log::Options;
use crate::journal::log::Seq;
use crate::journal::log::cursor::Cursor;
use crate::journal::log::cursor::ReadError;
use crate::journal::log::format;
use crate::journal::log::format::BLOCK_BYTES;
use crate::journal::log::format::CAPTURE_ITEM_BYTES_MIN;
use crate::journal::log::format::FirstBlock;
use crate::journal::log::format::Frame;
use crate::journal::log::format::FrameBuilder;
use crate::journal::log::maintenance::Maintainer;
use crate::journal::log::maintenance::Maintenance;
use crate::journal::log::maintenance::MaintenanceError;
use crate::journal::log::mutant::Mutant;
use crate::journal::log::recovery;
use crate::journal::log::recovery::Opened;
use crate::journal::log::store::Delivery;
use crate::journal::log::store::Store;
use crate::journal::log::writer::SegmentWriter;

/// So often the files' thread is waited for.
const PATIENCE: u32 = 1_000;

/// A log, its disk, and what it has promised.
pub(super) struct World {
    disk: SimDisk,
    model: Model,
    /// Of a disk that is recorded: each image, with what was promised then.
    recorded: Vec<(Image, Model)>,
    setup: HistorySetup,
    options: Options,
    is_resized: bool,
    run: Option<Run>,
    runs: u64,
    /// What compactions have copied and won, in bytes.
    compacted: (u64, u64),
}

/// A run of the program.
struct Run {
    store: Store<SimDisk>,
    writer: SegmentWriter<SimDisk>,
    maintainer: Maintainer<SimDisk>,
    /// Readable, and not delivered in this run.
    undelivered: Outstanding,
    /// In this run.
    delivered: BTreeSet<Seq>,
    /// In this run.
    dead_letters: BTreeSet<Seq>,
    /// What waits, in bytes, by key: what was found, with what came, without what was reported as delivered for the first time.
    by_key: BTreeMap<u32, u64>,
    cursor: Cursor,
    read_to: Seq,
    /// What the files took at the start, in bytes.
    began_with_bytes: u64,
}

impl History {
    /// Lets all of it happen.
    pub(super) fn check(&self, mutant: Option<Mutant>) -> Result<(), Violation> {
        self.copied(mutant).map(|_compacted| ())
    }

    /// As [`Self::check`]. Returns what compactions have copied and won, in bytes.
    pub(super) fn copied(&self, mutant: Option<Mutant>) -> Result<(u64, u64), Violation> {
        let happens = || {
            let mut world = World::new(SimDisk::new(Image::default()), &self.setup, mutant);
            for action in &self.actions {
                world.act(action)?;
            }
            world.end()?;
            Ok(world.compacted)
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
    pub(super) fn new(disk: SimDisk, setup: &HistorySetup, mutant: Option<Mutant>) -> Self {
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
            compacted: (0, 0),
        }
    }

    /// A new start on `disk`, of a log that has promised what `model` says, after so many runs.
    pub(super) fn resumed(
        disk: SimDisk,
        setup: &HistorySetup,
        model: Model,
        runs: u64,
        mutant: Option<Mutant>,
    ) -> Self {
        Self { model, runs, ..Self::new(disk, setup, mutant) }
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
                let Some(mut builder) = self.builder(sizes, *is_counted)? else { return Ok(()) };
                self.append(&mut builder, *with_delivered, *is_patient, *fault).map(|_is_taken| ())
            }
            Action::Deliver { captures, order } => self.deliver(*captures, *order),
            Action::Maintain { fault } => self.maintain(*fault),
            Action::Read { frames } => self.read(*frames),
            Action::ReadAgain { pick } => self.read_again(*pick),
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
            self.tend_until_done()?;
            self.deliver(u64::MAX, DeliveryOrder::OldestFirst)?;
            self.tend_until_done()?;
            let Some(mut builder) = self.builder(&[100], true)? else { return Err("it cannot be opened".to_owned()) };
            if !self.append(&mut builder, true, true, None)? {
                return Err(format!("it takes nothing although it is empty: {:?}", self.run_now().store.fill()));
            }
            self.tend_until_done()?;
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
        let Opened { store, writer, maintainer, found } = match opened {
            Ok(opened) => opened,
            Err(error) => return self.fails(&format!("open: {error}"), fault),
        };
        self.note_recording();
        let start = Start { store: &store, found: &found, damage: &damage };
        let undelivered = self.model.check_start(&start)?;
        self.run = Some(Run {
            store,
            writer,
            maintainer,
            undelivered,
            delivered: BTreeSet::new(),
            dead_letters: BTreeSet::new(),
            by_key: found.live,
            cursor: Cursor::default(),
            read_to: 0,
            began_with_bytes: self.disk.used_bytes(),
        });
        self.check_bytes()?;
        self.maintain(fault)
    }

    fn try_open(&mut self, on_corruption: OnCorruption) -> Result<Opened<SimDisk>, OpenError> {
        self.runs += 1;
        let mut random = SplitMix::new(self.runs);
        let options = Options { on_corruption, ..self.options.clone() };
        recovery::open(self.disk.clone(), options, Box::new(move || random.next()))
    }

    /// Captures for the log, as many as fit in a frame.
    fn builder(
        &mut self,
        sizes: &[usize],
        is_counted: bool,
    ) -> Result<Option<(FrameBuilder, Vec<ModelCapture>)>, Violation> {
        if !self.is_open()? {
            return Ok(None);
        }
        let bytes_max = self.run_now().writer.frame_bytes_max();
        let mut builder = FrameBuilder::new();
        let mut captures = Vec::new();
        for size in sizes {
            let room = bytes_max.saturating_sub(builder.bytes() + CAPTURE_ITEM_BYTES_MIN);
            let capture = self.model.give((*size).min(room), is_counted);
            builder.push(capture.is_counted(), capture.key(), |into| capture.write(into));
            captures.push(capture);
        }
        Ok(Some((builder, captures)))
    }

    /// Returns whether it was taken.
    fn append(
        &mut self,
        (builder, captures): &mut (FrameBuilder, Vec<ModelCapture>),
        with_delivered: bool,
        is_patient: bool,
        fault: Option<Fault>,
    ) -> Result<bool, Violation> {
        self.disk.arm(fault);
        let mut appended = self.run_now().writer.append(builder, with_delivered);
        for round in 0..if is_patient { PATIENCE } else { 0 } {
            if !matches!(appended, Err(AppendError::Full | AppendError::NoSpace(_))) {
                break;
            }
            if self.maintain_once(None)? == Some(Maintenance::Done) || round % 8 == 7 {
                appended = self.run_now().writer.append(builder, with_delivered);
            }
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
                self.model.acknowledge(captures, &frame)?;
                for captured in frame.captures() {
                    run.undelivered.insert(captured.seq, StoredCapture::of(&captured, place));
                    *run.by_key.entry(captured.kind_key).or_default() += u64::from(captured.stored_bytes());
                }
            }
            other => return Err(format!("what was just appended at {:?} is {other:?}", appended.place)),
        }
        self.check_room().map(|()| true)
    }

    fn deliver(&mut self, captures: u64, order: DeliveryOrder) -> Result<(), Violation> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let mut seqs: Vec<Seq> = run.undelivered.keys().copied().collect();
        match order {
            DeliveryOrder::OldestFirst => {}
            DeliveryOrder::NewestFirst => seqs.reverse(),
            DeliveryOrder::OldestHeldUp => {
                seqs.drain(..seqs.len().min(1));
            }
            DeliveryOrder::Stuck { one_in } => seqs.retain(|seq| seq % one_in != 1),
            DeliveryOrder::Any { seed } => {
                let mut random = SplitMix::new(seed);
                seqs.sort_by_cached_key(|_| random.next());
            }
        }
        seqs.truncate(usize::try_from(captures).unwrap_or(usize::MAX));
        let mut reports = Vec::new();
        let mut keys = Vec::new();
        for seq in seqs {
            self.model.deliver(seq);
            let waiting = run.undelivered.remove(&seq).unwrap();
            reports.push((seq, waiting.stored_bytes));
            keys.push(waiting.kind_key);
            run.delivered.insert(seq);
        }
        // A second time, as when a report comes twice.
        reports.extend_from_within(..reports.len().min(1));
        keys.extend_from_within(..keys.len().min(1));
        let noted = run.store.delivered(&reports);
        for ((delivery, (seq, bytes)), key) in noted.into_iter().zip(reports).zip(keys) {
            if delivery == Delivery::Repeated {
                continue;
            }
            let left = run.by_key.get_mut(&key).and_then(|left| Some((left.checked_sub(u64::from(bytes))?, left)));
            let Some((less, left)) = left else {
                return Err(format!("{seq} is taken off what does not wait"));
            };
            *left = less;
            let is_dead_letter = run.dead_letters.contains(&seq);
            if (delivery == Delivery::FirstAsDeadLetter) != is_dead_letter {
                return Err(format!("{seq} was reported as {delivery:?}, and it is a dead letter: {is_dead_letter}"));
            }
        }
        run.by_key.retain(|_, bytes| *bytes > 0);
        Ok(())
    }

    /// The files' thread comes to rest.
    fn tend_until_done(&mut self) -> Result<(), Violation> {
        for _ in 0..PATIENCE {
            match self.maintain_once(None)? {
                Some(Maintenance::More | Maintenance::Hurry) => {}
                Some(Maintenance::Done) => return self.check_rest(),
                None => return Ok(()),
            }
        }
        Err(format!("it does not come to rest: {:?}", self.run_now().store.fill()))
    }

    fn maintain(&mut self, fault: Option<Fault>) -> Result<(), Violation> {
        self.maintain_once(fault).map(|_tended| ())
    }

    fn maintain_once(&mut self, fault: Option<Fault>) -> Result<Option<Maintenance>, Violation> {
        let Some(run) = &mut self.run else { return Ok(None) };
        let before = run.store.fill();
        self.disk.arm(fault);
        let maintained = run.maintainer.maintain();
        self.disk.arm(None);
        let after = run.store.fill();
        self.compacted.0 += after.copied_bytes - before.copied_bytes;
        self.compacted.1 += after.won_bytes - before.won_bytes;
        let (copied, won) = self.compacted;
        if copied > 7 * won {
            return Err(format!("{copied} bytes were copied for {won}"));
        }
        match maintained {
            // What has failed was not worth an error.
            Ok(_) if self.disk.is_dead() => self.fails("maintain", fault).map(|()| None),
            Ok(maintained) => self.check_room().and(self.check_bytes()).map(|()| Some(maintained)),
            Err(MaintenanceError::Retry(..)) if (fault.is_some() || self.model.is_hurt()) && !self.disk.is_dead() => {
                self.check_room().map(|()| Some(Maintenance::Done))
            }
            Err(error) => self.fails(&format!("maintain: {error:?}"), fault).map(|()| None),
        }
    }

    /// What the store reckons with is what is there.
    fn check_bytes(&mut self) -> Result<(), Violation> {
        let Some(run) = &self.run else { return Ok(()) };
        if self.model.is_hurt() {
            return Ok(());
        }
        let (by_key, reckoned) = (bytes_by_key(&run.undelivered), run.store.live_bytes());
        if by_key.values().sum::<u64>() == reckoned && by_key == run.by_key {
            return Ok(());
        }
        Err(format!("{by_key:?} bytes wait, and it reckons with {reckoned} and {:?}", run.by_key))
    }

    /// At rest, what is held up takes about twice what it needs.
    fn check_rest(&mut self) -> Result<(), Violation> {
        let Some(run) = &self.run else { return Ok(()) };
        let (segment, overhead) = (self.options.segment_bytes, 6 * BLOCK_BYTES as u64);
        let live = live_bytes(run);
        let allowed = 2 * live * segment / (segment - overhead) + 5 * segment;
        let can_tell = !self.is_resized && !self.model.is_hurt() && !run.store.is_pausing();
        let fill = run.store.fill();
        if can_tell && self.setup.capacity_bytes == u64::MAX && fill.files_bytes > allowed {
            return Err(format!("for {live} bytes it takes {fill:?}"));
        }
        Ok(())
    }

    /// One that was read, or appended, is found again, wherever it is now. It is then counted as a dead letter, as its reader may do.
    fn read_again(&mut self, pick: u64) -> Result<(), Violation> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let Some(index) = pick.checked_rem(run.undelivered.len() as u64) else { return Ok(()) };
        let Some((wanted, StoredCapture { place, .. })) = run.undelivered.iter().nth(index as usize) else {
            return Ok(());
        };
        if run.store.is_counted_as_dead_letter(*wanted) != run.dead_letters.contains(wanted) {
            return Err(format!("whether {wanted} is a dead letter is not known any more"));
        }
        let is_new = run.dead_letters.insert(*wanted);
        if run.store.count_as_dead_letter(*wanted) != is_new {
            return Err(format!("{wanted} was a dead letter already, or could not be counted as one"));
        }
        let mut cursor = Cursor::at(*place);
        loop {
            let frame = match cursor.next(&run.store) {
                Ok(Some((_, frame))) => frame,
                Err(ReadError::Damaged(_)) if self.model.is_hurt() => continue,
                _ if self.model.may_be_unreadable(*wanted) => return Ok(()),
                other => return Err(format!("{wanted} is not found again from {place:?}: {other:?}")),
            };
            for captured in frame.captures() {
                if captured.seq == *wanted {
                    return self.model.check_read(captured.seq, captured.is_counted, captured.bytes);
                }
                if captured.seq > *wanted && !self.model.may_be_unreadable(*wanted) {
                    return Err(format!("{wanted} is not found again from {place:?}, but {}", captured.seq));
                }
            }
        }
    }

    fn read(&mut self, frames: u64) -> Result<(), Violation> {
        if !self.is_open()? {
            return Ok(());
        }
        let run = self.run.as_mut().unwrap();
        let mut frames_left = frames;
        let is_missed = |run: &Run, model: &Model, to: Seq| {
            let mut missed = run.undelivered.range(run.read_to + 1..to).map(|(seq, _)| *seq);
            missed.find(|seq| !model.may_be_unreadable(*seq))
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
            let captures: Vec<(Seq, bool, Vec<u8>)> =
                frame.captures().map(|it| (it.seq, it.is_counted, it.bytes.to_vec())).collect();
            for (seq, is_counted, bytes) in captures {
                // Again, as its segment has become part of another.
                if seq <= run.read_to {
                    continue;
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

    /// A file of the log, and a frame of it.
    fn any_frame(&self, random: &mut SplitMix) -> Option<(String, Vec<u8>, Range<u64>)> {
        let mut files = self.disk.contents();
        files.retain(|(name, bytes)| name.ends_with(".seg") && bytes.len() > BLOCK_BYTES);
        let (name, bytes) = files.swap_remove(random.next().checked_rem(files.len() as u64)? as usize);
        let frames = frames_of(&bytes);
        let index = random.next().checked_rem(frames.len() as u64)?;
        let range = frames.get(index as usize)?.0.clone();
        Some((name, bytes, range))
    }

    fn hurt(&mut self, name: &str, bytes: &[u8], hurt: Range<u64>, how: Hurt) {
        self.model.hurt(name, &hurt, frames_of(bytes), how);
        if let Some(run) = &mut self.run {
            run.delivered.clear();
        }
    }

    fn flip(&mut self, pick: u64) {
        let mut random = SplitMix::new(pick);
        let Some((name, bytes, Range { start: offset, end })) = self.any_frame(&mut random) else { return };
        let offset = match random.below(10) {
            0 => random.below(64),
            1 => random.below(self.options.segment_bytes),
            2..5 => offset + random.below(48),
            5 => end + random.below(48),
            6..8 => offset + random.below(512),
            _ => offset + random.below(end - offset),
        };
        self.disk.flip(&name, offset, random.next());
        self.hurt(&name, &bytes, offset..offset + 1, Hurt::Flipped);
    }

    fn spoil(&mut self, pick: u64) {
        let mut random = SplitMix::new(pick);
        let Some((name, bytes, Range { start: offset, end })) = self.any_frame(&mut random) else { return };
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
        self.disk.make_bad(&name, offset, sectors);
        self.hurt(&name, &bytes, offset..offset + sectors * sector_bytes, Hurt::Unreadable);
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
        if self.disk.is_off() || self.disk.is_aborted() {
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
        self.disk.cut_power(&mut SplitMix::new(seed));
    }

    /// When it is full, that is for what waits, and not for what was delivered.
    fn check_full(&mut self) -> Result<(), Violation> {
        // A smaller segment that is taken back makes no room for a larger one; nor does one that is set aside.
        let run = self.run.as_ref().unwrap();
        let can_tell = self.setup.capacity_bytes == u64::MAX
            && !self.is_resized
            && !self.model.is_hurt()
            && !run.store.is_pausing();
        let live = live_bytes(run);
        // But for the newest, a spare and the reserve, with seven eighths of what a small segment has without its overhead.
        let needed = (self.options.quota_bytes - 3 * self.options.segment_bytes) / 2;
        if can_tell && live < needed {
            return Err(format!("it is full, and only {live} bytes wait: {:?}", run.store.fill()));
        }
        Ok(())
    }

    /// The files take no more than they may, or than they did.
    fn check_room(&mut self) -> Result<(), Violation> {
        let used_bytes = self.disk.used_bytes();
        let Some(run) = &self.run else { return Ok(()) };
        // A log that has more already may have one segment more, and the output of a compaction.
        let beyond = run.began_with_bytes + 2 * self.options.segment_bytes;
        let allowed_bytes = self.options.quota_bytes.max(beyond);
        if used_bytes > allowed_bytes {
            return Err(format!("{used_bytes} bytes are used of {allowed_bytes}"));
        }
        Ok(())
    }
}

/// What is not delivered, in bytes of its items.
fn live_bytes(run: &Run) -> u64 {
    run.undelivered.values().map(|waiting| u64::from(waiting.stored_bytes)).sum()
}

/// The frames of a segment that have captures: where each is, and its captures' numbers.
fn frames_of(bytes: &[u8]) -> Vec<(Range<u64>, Vec<Seq>)> {
    let nonce = match FirstBlock::decode(&bytes[..BLOCK_BYTES]) {
        FirstBlock::Header(header) => Some(header.nonce),
        FirstBlock::Foreign(_) | FirstBlock::Damaged => None,
    };
    let mut frames = Vec::new();
    for at in (BLOCK_BYTES..bytes.len()).step_by(BLOCK_BYTES) {
        let (rest, at) = (&bytes[at..], at as u64);
        let own_nonce = format::own_nonce(rest, at).filter(|own| nonce.is_none_or(|nonce| nonce == *own));
        let Some(frame) = own_nonce.and_then(|nonce| Frame::decode(rest, at, nonce)) else { continue };
        let seqs: Vec<Seq> = frame.captures().map(|captured| captured.seq).collect();
        if !seqs.is_empty() {
            frames.push((at..at + frame.header.padded_bytes(), seqs));
        }
    }
    frames
}
