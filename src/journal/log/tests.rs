//! The log on a real directory.

use std::path::Path;

use tempfile::TempDir;

use super::cursor::Cursor;
use super::directory::Directory;
use super::directory::DirectoryError;
use super::format::Captured;
use super::format::FrameBuilder;
use super::maintenance::Maintainer;
use super::maintenance::Maintenance;
use super::recovery;
use super::recovery::Opened;
use super::store::Store;
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
    let mut opened = recovery::open(Directory::open(path).unwrap(), options, entropy).unwrap();
    opened.maintainer.maintain().unwrap();
    opened
}

fn builder<'c>(captures: impl IntoIterator<Item = &'c str>) -> FrameBuilder {
    let mut builder = FrameBuilder::new();
    for capture in captures {
        builder.push(true, 0, |bytes| bytes.extend_from_slice(capture.as_bytes()));
    }
    builder
}

fn undelivered(store: &Store<Directory>) -> Vec<(Seq, String)> {
    let mut cursor = Cursor::default();
    let mut all = Vec::new();
    while let Some((_, frame)) = cursor.next(store).unwrap() {
        for Captured { seq, bytes, .. } in frame.captures() {
            if !store.is_delivered(seq) {
                all.push((seq, String::from_utf8(bytes.to_vec()).unwrap()));
            }
        }
    }
    all
}

#[test]
fn what_was_appended_is_there_after_a_restart_and_what_was_delivered_is_not() {
    let dir = TempDir::new().unwrap();
    let Opened { store, mut writer, .. } = open(dir.path());
    assert_eq!(writer.append(&mut builder(["one", "two"]), false).unwrap().first_seq, 1);
    assert_eq!(writer.append(&mut builder(["three"]), false).unwrap().first_seq, 3);
    store.delivered(&[(2, 16)]);
    drop((store, writer.close()));

    let Opened { store, mut writer, found, .. } = open(dir.path());
    assert_eq!((found.counted, found.uncounted), (2, 0));
    assert_eq!(undelivered(&store), [(1, "one".to_owned()), (3, "three".to_owned())]);
    assert_eq!(writer.append(&mut builder(["four"]), false).unwrap().first_seq, 4);
    assert_eq!(undelivered(&store).len(), 3);
}

#[test]
fn when_the_quota_is_reached_it_is_full_until_something_is_delivered() {
    let dir = TempDir::new().unwrap();
    let Opened { store, mut writer, mut maintainer, .. } = open(dir.path());
    let long = "x".repeat(10_000);
    let mut taken = Vec::new();
    loop {
        maintainer.maintain().unwrap();
        match writer.append(&mut builder([long.as_str()]), true) {
            Ok(appended) => taken.push(appended.first_seq),
            Err(AppendError::Full) => break,
            Err(error) => panic!("{error}"),
        }
    }
    // Three blocks each, in three segments of 64 blocks without header and seal; the fourth is the reserve.
    assert_eq!(taken.len(), 3 * (62 / 3));
    assert!(store.fill().is_full);
    store.delivered(&taken[..20].iter().map(|seq| (*seq, 10_013)).collect::<Vec<_>>());
    maintainer.maintain().unwrap();
    writer.append(&mut builder([long.as_str()]), true).unwrap();
    assert_eq!(undelivered(&store).len(), taken.len() - 20 + 1);
}

#[test]
fn a_removed_file_is_told_and_holds_up_nothing_once_it_is_delivered() {
    let dir = TempDir::new().unwrap();
    let Opened { store, mut writer, mut maintainer, .. } = open(dir.path());
    let long = "x".repeat(10_000);
    let mut append = |maintainer: &mut Maintainer<Directory>| {
        while maintainer.maintain().unwrap() != Maintenance::Done {}
        writer.append(&mut builder([long.as_str()]), true).unwrap().first_seq
    };
    let first: Vec<Seq> = (0..62 / 3).map(|_| append(&mut maintainer)).collect();
    append(&mut maintainer);
    std::fs::remove_file(dir.path().join("00000000000000000001.seg")).unwrap();
    store.look_for_files();
    assert!(store.trouble().is_some_and(|trouble| trouble.contains("removed")));

    store.delivered(&first.iter().map(|seq| (*seq, 10_013)).collect::<Vec<_>>());
    // The log goes on through more than its quota.
    for _ in 0..100 {
        let seq = append(&mut maintainer);
        store.delivered(&[(seq, 10_013)]);
    }
    store.look_for_files();
    assert_eq!(store.trouble(), None);
}

#[test]
fn a_segment_in_a_directory_that_is_moved_away_for_a_while_is_taken_back_later() {
    let parent = TempDir::new().unwrap();
    let [home, away] = ["home", "away"].map(|name| parent.path().join(name));
    std::fs::create_dir(&home).unwrap();
    let Opened { store, mut writer, mut maintainer, .. } = open(&home);
    let long = "x".repeat(10_000);
    let delivered =
        (0..62 / 3).map(|_| (writer.append(&mut builder([long.as_str()]), true).unwrap().first_seq, 10_013));
    let delivered: Vec<_> = delivered.collect();
    while maintainer.maintain().unwrap() != Maintenance::Done {}
    writer.append(&mut builder([long.as_str()]), true).unwrap();
    store.delivered(&delivered);

    std::fs::rename(&home, &away).unwrap();
    store.look_for_files();
    maintainer.maintain().unwrap_err();
    std::fs::rename(&away, &home).unwrap();
    while maintainer.maintain().unwrap() != Maintenance::Done {}
    assert!(!home.join("00000000000000000001.seg").exists());
}

#[test]
fn a_segment_that_is_held_up_does_not_hold_those_behind_it() {
    {
        let dir = TempDir::new().unwrap();
        let Opened { store, mut writer, mut maintainer, .. } = open(dir.path());
        let long = "x".repeat(10_000);
        for _ in 0..1_000 {
            let seq = writer.append(&mut builder([long.as_str()]), true).unwrap().first_seq;
            if seq != 1 {
                store.delivered(&[(seq, 10_013)]);
            }
            maintainer.maintain().unwrap();
            assert!(store.fill().files_bytes <= 4 * SEGMENT_BYTES);
        }
        drop((store, maintainer, writer.close()));
        let Opened { store, found, .. } = open(dir.path());
        assert_eq!(found.counted, 1);
        assert_eq!(undelivered(&store).first().unwrap().0, 1);
    }
}

#[test]
fn captures_that_cannot_be_delivered_take_no_more_room_than_they_need() {
    let dir = TempDir::new().unwrap();
    let options = Options { segment_bytes: 1 << 20, quota_bytes: 16 << 20, ..options() };
    let Opened { store, mut writer, mut maintainer, .. } = open_with(dir.path(), options.clone());
    let mut stuck = Vec::new();
    // Ten times the quota, with one in five thousand that waits.
    for frame in 0..1_600 {
        while maintainer.maintain().unwrap() != Maintenance::Done {}
        let first = writer
            .append(&mut builder(["a capture of some hundred bytes, which is what a small callback has"; 1000]), true);
        let first = first.unwrap_or_else(|error| panic!("frame {frame}: {error}: {:?}", store.fill())).first_seq;
        let is_stuck = frame % 5 == 0;
        stuck.extend(is_stuck.then_some(first));
        let delivered: Vec<(Seq, u32)> = (first + u64::from(is_stuck)..first + 1000).map(|seq| (seq, 79)).collect();
        store.delivered(&delivered);
    }
    while maintainer.maintain().unwrap() != Maintenance::Done {}
    let fill = store.fill();
    assert_eq!((fill.undelivered, fill.is_full), (stuck.len() as u64, false));
    assert!(fill.files_bytes < 5 << 20, "{fill:?}");
    let read = |store: &Store<Directory>| undelivered(store).into_iter().map(|(seq, _)| seq).collect::<Vec<Seq>>();
    assert_eq!(read(&store), stuck);
    drop((store, maintainer, writer.close()));
    let Opened { store, found, .. } = open_with(dir.path(), options);
    assert_eq!((found.counted, read(&store)), (stuck.len() as u64, stuck));
}

#[test]
fn a_log_of_another_format_is_told_as_such_and_never_salvaged() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path()));
    let name = "00000000000000000001.seg";
    let mut other = vec![0; usize::try_from(SEGMENT_BYTES).unwrap()];
    other[..8].copy_from_slice(b"CBJRNL01");
    std::fs::write(dir.path().join(name), &other).unwrap();
    for on_corruption in [OnCorruption::Refuse, OnCorruption::Salvage] {
        let options = Options { on_corruption, ..options() };
        let refused = recovery::open(Directory::open(dir.path()).unwrap(), options, Box::new(|| 9)).unwrap_err();
        assert!(matches!(&refused, OpenError::Version { version, .. } if version == "01"), "{refused}");
    }
    assert!(dir.path().join(name).exists());
}

#[test]
fn a_version_of_which_a_bit_has_changed_is_damage() {
    let dir = TempDir::new().unwrap();
    let Opened { store, mut writer, .. } = open(dir.path());
    writer.append(&mut builder(["one"]), false).unwrap();
    drop((store, writer));
    let path = dir.path().join("00000000000000000001.seg");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[7] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let refused = recovery::open(Directory::open(dir.path()).unwrap(), options(), Box::new(|| 9)).unwrap_err();
    assert!(matches!(refused, OpenError::Damaged(_)), "{refused}");
}

#[test]
fn a_segment_of_which_nothing_is_left_is_not_said_to_lack_no_capture() {
    let long = "x".repeat(100_000);
    for (is_followed, left_bytes) in [(false, 0), (false, SEGMENT_BYTES), (true, 0), (true, SEGMENT_BYTES)] {
        let dir = TempDir::new().unwrap();
        let Opened { store, mut writer, mut maintainer, .. } = open(dir.path());
        for _ in 0..if is_followed { 4 } else { 1 } {
            writer.append(&mut builder([long.as_str()]), false).unwrap();
            maintainer.maintain().unwrap();
        }
        drop((store, writer, maintainer));
        let path = dir.path().join("00000000000000000001.seg");
        std::fs::write(path, vec![0; usize::try_from(left_bytes).unwrap()]).unwrap();
        let refused = recovery::open(Directory::open(dir.path()).unwrap(), options(), Box::new(|| 9)).unwrap_err();
        let OpenError::Damaged(damage) = refused else { panic!("{refused}") };
        let all_of_first = damage.iter().any(|damage| damage.from == 1 && damage.to.is_none_or(|to| to > 1));
        assert!(all_of_first, "{is_followed}, {left_bytes}: {damage:?}");

        let salvage = Options { on_corruption: OnCorruption::Salvage, ..options() };
        let mut opened = recovery::open(Directory::open(dir.path()).unwrap(), salvage, Box::new(|| 9)).unwrap();
        opened.maintainer.maintain().unwrap();
        let next = opened.writer.append(&mut builder(["next"]), false).unwrap().first_seq;
        assert!(next > 1, "{is_followed}, {left_bytes}: its numbers do not come again");
    }
}

#[test]
fn a_segment_that_is_shorter_than_it_was_is_damaged_and_not_torn() {
    let dir = TempDir::new().unwrap();
    let Opened { store, mut writer, maintainer, .. } = open(dir.path());
    for _ in 0..4 {
        writer.append(&mut builder(["capture"]), false).unwrap();
    }
    drop((store, maintainer, writer.close()));
    let path = dir.path().join("00000000000000000001.seg");
    // Behind the last frame, between two, and within one.
    for (left_bytes, read) in [(20_480, 4), (12_288, 2), (8_200, 1)] {
        std::fs::File::options().write(true).open(&path).unwrap().set_len(left_bytes).unwrap();
        let refused = recovery::open(Directory::open(dir.path()).unwrap(), options(), Box::new(|| 9)).unwrap_err();
        let OpenError::Damaged(damage) = refused else { panic!("{refused}") };
        let Damage { offset, from, to, reason, .. } = &damage[0];
        assert_eq!((*offset, *from, *to), (4096 * (read + 1), read + 1, None), "{left_bytes}");
        assert_eq!(reason.as_deref(), Some(&*format!("the file has {left_bytes} of {SEGMENT_BYTES} bytes")));
    }
    let salvage = Options { on_corruption: OnCorruption::Salvage, ..options() };
    let opened = recovery::open(Directory::open(dir.path()).unwrap(), salvage, Box::new(|| 9)).unwrap();
    assert_eq!(undelivered(&opened.store).len(), 1);
}

#[test]
fn of_a_segment_that_is_shorter_than_it_was_the_next_one_tells_what_is_missing() {
    let dir = TempDir::new().unwrap();
    let Opened { store, mut writer, mut maintainer, .. } = open(dir.path());
    let long = "x".repeat(100_000);
    for _ in 0..4 {
        writer.append(&mut builder([long.as_str()]), false).unwrap();
        maintainer.maintain().unwrap();
    }
    drop((store, maintainer, writer.close()));
    let path = dir.path().join("00000000000000000001.seg");
    std::fs::File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
    let refused = recovery::open(Directory::open(dir.path()).unwrap(), options(), Box::new(|| 9)).unwrap_err();
    let OpenError::Damaged(damage) = refused else { panic!("{refused}") };
    assert_eq!((damage[0].from, damage[0].to, damage[0].captures), (1, Some(3), 2), "{damage:?}");
}

#[test]
fn what_an_earlier_run_ended_with_is_damaged_and_not_torn_once_another_has_written() {
    let dir = TempDir::new().unwrap();
    let mut last = 0;
    for _ in 0..2 {
        let options = options();
        let entropy = Box::new(move || {
            last += 1;
            last
        });
        let opened = recovery::open(Directory::open(dir.path()).unwrap(), options, entropy).unwrap();
        last += 10;
        let Opened { mut writer, mut maintainer, .. } = opened;
        maintainer.maintain().unwrap();
        writer.append(&mut builder(["one"]), false).unwrap();
        writer.append(&mut builder(["two"]), false).unwrap();
    }
    flip_a_bit_of_the_second_frame(dir.path());
    let refused = recovery::open(Directory::open(dir.path()).unwrap(), options(), Box::new(|| 9)).unwrap_err();
    let OpenError::Damaged(damage) = refused else { panic!("{refused}") };
    assert_eq!((damage[0].from, damage[0].to, damage[0].captures), (2, Some(3), 1));
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
        writer.append(&mut builder([capture]), false).unwrap();
    }
    drop((store, writer));
    flip_a_bit_of_the_second_frame(dir.path());

    let refused = recovery::open(Directory::open(dir.path()).unwrap(), options(), Box::new(|| 9)).unwrap_err();
    let OpenError::Damaged(damage) = refused else { panic!("{refused}") };
    let expected = Damage {
        name: "00000000000000000001.seg".to_owned(),
        offset: 8192,
        from: 2,
        to: Some(3),
        captures: 1,
        reason: None,
    };
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
        writer.append(&mut builder([capture]), false).unwrap();
    }
    drop((store, writer));
    flip_a_bit_of_the_second_frame(dir.path());
    let Opened { store, mut writer, found, .. } = open(dir.path());
    assert_eq!(found.torn, [("00000000000000000001.seg".to_owned(), 8192)]);
    assert_eq!(undelivered(&store), [(1, "one".to_owned())]);
    assert_eq!(writer.append(&mut builder(["again"]), false).unwrap().first_seq, 2);
}
