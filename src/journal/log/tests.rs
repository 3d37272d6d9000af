//! The log on a real directory.

use std::path::Path;

use tempfile::TempDir;

use super::cursor::Cursor;
use super::directory::Directory;
use super::directory::DirectoryError;
use super::format::Batch;
use super::format::Record;
use super::recovery;
use super::recovery::Opened;
use super::store::Store;
use super::writer::Writer;
use super::*;

const SEGMENT_BYTES: u64 = 64 * 4096;

fn options() -> Options {
    Options {
        segment_bytes: SEGMENT_BYTES,
        quota_bytes: 4 * SEGMENT_BYTES,
        free_bytes_min: 0,
        on_corruption: OnCorruption::Refuse,
        mutant: None,
    }
}

fn open(path: &Path) -> Opened<Directory> {
    open_with(path, options())
}

fn open_with(path: &Path, options: Options) -> Opened<Directory> {
    let mut last = 0;
    let entropy = Box::new(move || {
        last += 1;
        last
    });
    let opened = recovery::open(Directory::open(path).unwrap(), options, entropy).unwrap();
    opened.store.tend().unwrap();
    opened
}

fn batch<'c>(captures: impl IntoIterator<Item = &'c str>) -> Batch {
    let mut batch = Batch::new();
    for capture in captures {
        batch.push(true, |bytes| bytes.extend_from_slice(capture.as_bytes()));
    }
    batch
}

fn undelivered(store: &Store<Directory>) -> Vec<(Seq, String)> {
    let mut cursor = Cursor::default();
    let mut all = Vec::new();
    while let Some((_, frame)) = cursor.next(store).unwrap() {
        let mut seq = frame.header.first_seq;
        for record in frame.records() {
            if let Record::Capture { bytes, .. } = record {
                if !store.is_delivered(seq) {
                    all.push((seq, String::from_utf8(bytes.to_vec()).unwrap()));
                }
                seq += 1;
            }
        }
    }
    all
}

#[test]
fn what_was_appended_is_there_after_a_restart_and_what_was_delivered_is_not() {
    let dir = TempDir::new().unwrap();
    let Opened { store, mut writer, .. } = open(dir.path());
    assert_eq!(writer.append(&mut batch(["one", "two"]), false).unwrap().first_seq, 1);
    assert_eq!(writer.append(&mut batch(["three"]), false).unwrap().first_seq, 3);
    store.delivered(&[2]);
    drop((store, writer.close()));

    let Opened { store, mut writer, found } = open(dir.path());
    assert_eq!((found.counted, found.uncounted), (2, 0));
    assert_eq!(undelivered(&store), [(1, "one".to_owned()), (3, "three".to_owned())]);
    assert_eq!(writer.append(&mut batch(["four"]), false).unwrap().first_seq, 4);
    assert_eq!(undelivered(&store).len(), 3);
}

#[test]
fn when_the_quota_is_reached_it_is_full_until_something_is_delivered() {
    let dir = TempDir::new().unwrap();
    let Opened { store, mut writer, .. } = open(dir.path());
    let long = "x".repeat(10_000);
    let mut taken = Vec::new();
    loop {
        store.tend().unwrap();
        match writer.append(&mut batch([long.as_str()]), true) {
            Ok(appended) => taken.push(appended.first_seq),
            Err(AppendError::Full) => break,
            Err(error) => panic!("{error}"),
        }
    }
    // Three blocks each, in four segments of 64 blocks without header and seal.
    assert_eq!(taken.len(), 4 * (62 / 3));
    assert!(store.fill().is_full);
    store.delivered(&taken[..20]);
    store.tend().unwrap();
    writer.append(&mut batch([long.as_str()]), true).unwrap();
    assert_eq!(undelivered(&store).len(), taken.len() - 20 + 1);
}

#[test]
fn a_segment_that_is_held_up_does_not_hold_those_behind_it() {
    // With two, the one that is written is the only one that can end, and it ends with its successor's beginning: that one is lent.
    for (quota, files_max) in [(4, 4), (2, 3)] {
        let dir = TempDir::new().unwrap();
        let options = Options { quota_bytes: quota * SEGMENT_BYTES, ..options() };
        let Opened { store, mut writer, .. } = open_with(dir.path(), options);
        let long = "x".repeat(10_000);
        for _ in 0..1_000 {
            let seq = writer.append(&mut batch([long.as_str()]), true).unwrap().first_seq;
            if seq != 1 {
                store.delivered(&[seq]);
            }
            store.tend().unwrap();
            assert!(store.fill().files_bytes <= files_max * SEGMENT_BYTES);
        }
        drop((store, writer.close()));
        let Opened { store, found, .. } = open(dir.path());
        assert_eq!(found.counted, 1);
        assert_eq!(undelivered(&store).first().unwrap().0, 1);
    }
}

#[test]
fn what_would_take_more_to_say_again_than_it_gives_back_is_not_said_again() {
    let dir = TempDir::new().unwrap();
    let options = Options { quota_bytes: 1000 * SEGMENT_BYTES, ..options() };
    let Opened { store, mut writer, .. } = open_with(dir.path(), options);
    let append = |writer: &mut Writer<Directory>, frames: u64| {
        for _ in 0..frames {
            store.tend().unwrap();
            writer.append(&mut batch(["a small capture"; 1000]), true).unwrap();
        }
        store.durable_to()
    };
    // Every second one is held up, and then some segments are delivered whole.
    let middle = append(&mut writer, 100);
    store.delivered(&(1..middle).step_by(2).collect::<Vec<Seq>>());
    let end = append(&mut writer, 60);
    store.delivered(&(middle..end).collect::<Vec<Seq>>());
    for _ in 0..5_000 {
        store.tend().unwrap();
        if !store.has_unsaved() {
            return;
        }
        writer.append(&mut Batch::new(), true).unwrap();
    }
    panic!("it says again what it has said: {:?}", store.fill());
}

#[test]
fn a_directory_belongs_to_one_process() {
    let dir = TempDir::new().unwrap();
    let first = Directory::open(dir.path()).unwrap();
    assert!(matches!(Directory::open(dir.path()), Err(DirectoryError::Taken(_))));
    let reader = Directory::open_to_read(dir.path()).unwrap();
    assert!(reader.is_in_use());
    drop(first);
    assert!(!reader.is_in_use());
    Directory::open(dir.path()).unwrap();
}

fn flip_a_bit_of_the_second_frame(dir: &Path) {
    let path = dir.join("00000000000000000001.seg");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[2 * 4096 + 50] ^= 1;
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn damage_is_told_and_everything_else_is_salvaged() {
    let dir = TempDir::new().unwrap();
    let Opened { store, mut writer, .. } = open(dir.path());
    for capture in ["one", "two", "three"] {
        writer.append(&mut batch([capture]), false).unwrap();
    }
    drop((store, writer));
    flip_a_bit_of_the_second_frame(dir.path());

    let refused = recovery::open(Directory::open(dir.path()).unwrap(), options(), Box::new(|| 9)).unwrap_err();
    let OpenError::Damaged(damage) = refused else { panic!("{refused}") };
    let expected =
        Damage { name: "00000000000000000001.seg".to_owned(), offset: 8192, from: 2, to: Some(3), reason: None };
    assert_eq!(damage, [expected]);

    let salvage = Options { on_corruption: OnCorruption::Salvage, ..options() };
    let opened = recovery::open(Directory::open(dir.path()).unwrap(), salvage, Box::new(|| 9)).unwrap();
    assert_eq!(opened.found.counted, 2);
    assert_eq!(undelivered(&opened.store), [(1, "one".to_owned()), (3, "three".to_owned())]);
}

#[test]
fn a_torn_end_is_cut_off_and_told() {
    let dir = TempDir::new().unwrap();
    let Opened { store, mut writer, .. } = open(dir.path());
    for capture in ["one", "two"] {
        writer.append(&mut batch([capture]), false).unwrap();
    }
    drop((store, writer));
    flip_a_bit_of_the_second_frame(dir.path());
    let Opened { store, mut writer, found } = open(dir.path());
    assert_eq!(found.torn, [("00000000000000000001.seg".to_owned(), 8192)]);
    assert_eq!(undelivered(&store), [(1, "one".to_owned())]);
    assert_eq!(writer.append(&mut batch(["again"]), false).unwrap().first_seq, 2);
}
