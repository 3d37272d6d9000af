//! The disk whose power can be cut: that it takes all that POSIX lets it take, and nothing else, so that a test that passes
//! on it has proved something.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::fs::TryLockError;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustix::fs::FallocateFlags;

use crate::support::powercut::PowerCut;
use crate::support::wait;

const EIO: Option<i32> = Some(5);
const SECTOR: usize = 512;

/// Power cuts of as many disks: enough that each fate comes up, and always the same ones.
const SEEDS: u64 = 32;

/// Lets each of many disks be written to, cuts its power, and tells what was found on each afterwards.
fn after_cuts<T>(write: impl Fn(&Path), find: impl Fn(&Path) -> T) -> Option<Vec<T>> {
    let after_cut = |seed| {
        let mut disk = PowerCut::mount(seed)?;
        write(disk.path());
        disk.cut();
        disk.remount();
        Some(find(disk.path()))
    };
    (0..SEEDS).map(after_cut).collect()
}

/// Makes a file that survives, of `length` zeros.
fn durable_file(path: &Path, length: usize) -> File {
    let file = File::create_new(path).unwrap();
    file.write_all_at(&vec![0; length], 0).unwrap();
    file.sync_all().unwrap();
    sync_folder(path.parent().unwrap());
    file
}

fn sync_folder(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_write_survives_a_power_cut_when_it_was_synced_and_may_be_gone_when_not() {
    let write = |path: &Path| {
        let file = durable_file(&path.join("a"), 3 * SECTOR);
        file.write_all_at(&[1; SECTOR], 0).unwrap();
        file.sync_data().unwrap();
        file.write_all_at(&[2; SECTOR], 1024).unwrap();
        assert_eq!(fs::read(path.join("a")).unwrap()[1024], 2, "a reader sees what is on its way");
    };
    let Some(found) = after_cuts(write, |path| fs::read(path.join("a")).unwrap()) else { return };
    for file in &found {
        assert_eq!(file[..SECTOR], [1; SECTOR]);
        assert_eq!(file[SECTOR..1024], [0; SECTOR]);
    }
    let unsynced: BTreeSet<&[u8]> = found.iter().map(|file| &file[1024..]).collect();
    assert_eq!(unsynced, [&[0; SECTOR][..], &[2; SECTOR][..]].into());
}

#[test]
fn a_write_without_a_sync_may_be_torn_between_sectors_and_lose_its_length() {
    let write = |path: &Path| {
        durable_file(&path.join("a"), 4 * SECTOR);
        // It begins and ends within a sector.
        File::options().write(true).open(path.join("a")).unwrap().write_all_at(&[3; 5 * SECTOR], 100).unwrap();
    };
    let Some(found) = after_cuts(write, |path| fs::read(path.join("a")).unwrap()) else { return };
    for file in &found {
        for (nth, sector) in file.chunks(SECTOR).enumerate() {
            let from = if nth == 0 { 100 } else { 0 };
            assert!(sector[from..].iter().all(|byte| *byte == sector[from]), "a torn sector");
            assert!(sector[..from].iter().all(|byte| *byte == 0));
        }
    }
    let torn = found.iter().filter(|file| file[100..].contains(&0) && file.contains(&3));
    assert!(torn.count() > 0);
    let lengths: BTreeSet<usize> = found.iter().map(Vec::len).collect();
    assert_eq!(lengths, [4 * SECTOR, 5 * SECTOR + 100].into());
}

#[test]
fn a_new_file_may_be_gone_when_only_the_file_was_synced() {
    let write = |path: &Path| {
        let file = File::create_new(path.join("a")).unwrap();
        file.write_all_at(b"whole", 0).unwrap();
        file.sync_all().unwrap();
    };
    let Some(found) = after_cuts(write, |path| fs::read(path.join("a")).ok()) else { return };
    assert_eq!(BTreeSet::from_iter(found), [None, Some(b"whole".to_vec())].into());
}

#[test]
fn a_new_file_may_be_empty_when_only_the_folder_was_synced() {
    let write = |path: &Path| {
        fs::write(path.join("a"), b"whole").unwrap();
        sync_folder(path);
    };
    let Some(found) = after_cuts(write, |path| fs::read(path.join("a")).unwrap()) else { return };
    let found = BTreeSet::from_iter(found);
    // Its length and its bytes are two things.
    assert_eq!(found, [b"".to_vec(), vec![0; 5], b"whole".to_vec()].into());
}

#[test]
fn a_rename_without_a_sync_of_the_folder_may_be_undone_and_is_never_half_done() {
    let write = |path: &Path| {
        durable_file(&path.join("new"), SECTOR).write_all_at(b"x", 0).unwrap();
        durable_file(&path.join("old"), 0);
        fs::rename(path.join("new"), path.join("old")).unwrap();
        assert_eq!(names(path), ["old"]);
    };
    let Some(found) = after_cuts(write, names) else { return };
    assert_eq!(BTreeSet::from_iter(found), [vec!["new".to_owned(), "old".to_owned()], vec!["old".to_owned()]].into());

    let write = |path: &Path| {
        durable_file(&path.join("new"), SECTOR);
        fs::rename(path.join("new"), path.join("old")).unwrap();
        sync_folder(path);
    };
    let Some(found) = after_cuts(write, names) else { return };
    assert!(found.iter().all(|names| *names == ["old"]));
}

#[test]
fn a_removed_file_may_be_back_and_names_survive_apart_from_each_other() {
    let write = |path: &Path| {
        durable_file(&path.join("removed"), SECTOR);
        fs::remove_file(path.join("removed")).unwrap();
        fs::write(path.join("made"), b"").unwrap();
        fs::rename(path.join("made"), path.join("renamed")).unwrap();
    };
    let Some(found) = after_cuts(write, names) else { return };
    let found = BTreeSet::from_iter(found);
    for expected in [&["removed"][..], &[], &["renamed"], &["made"]] {
        assert!(found.iter().any(|names| names == expected), "{expected:?} not in {found:?}");
    }
    // A rename stands on the name that it changes.
    assert!(!found.iter().any(|names| names.contains(&"made".to_owned()) && names.contains(&"renamed".to_owned())));
}

#[test]
fn the_same_seed_takes_the_same() {
    let write = |path: &Path| {
        for nth in 0..20_u8 {
            fs::write(path.join(nth.to_string()), [nth; 10 * SECTOR]).unwrap();
        }
    };
    let find = |path: &Path| names(path).into_iter().map(|name| fs::read(path.join(name)).unwrap()).collect::<Vec<_>>();
    let Some(first) = after_cuts(write, find) else { return };
    assert_eq!(Some(first), after_cuts(write, find));
}

#[test]
fn without_power_everything_is_an_error_until_the_disk_is_mounted_again() {
    let Some(mut disk) = PowerCut::mount(1) else { return };
    let path = disk.path().join("a");
    let file = durable_file(&path, SECTOR);
    let folder = File::open(disk.path()).unwrap();
    disk.cut();
    let outcomes = [
        file.write_at(b"x", 0).map(drop),
        file.read_at(&mut [0; 8], 0).map(drop),
        file.sync_data(),
        folder.sync_all(),
        fs::read(&path).map(drop),
        fs::read_dir(disk.path()).and_then(|mut entries| entries.next().unwrap()).map(drop),
        fs::remove_file(&path),
        File::create(disk.path().join("b")).map(drop),
    ];
    for outcome in outcomes {
        assert_eq!(outcome.unwrap_err().raw_os_error(), EIO);
    }
    disk.remount();
    assert!(file.sync_data().is_err(), "a file of the old mount");
    assert_eq!(fs::read(&path).unwrap(), [0; SECTOR]);
    durable_file(&disk.path().join("b"), 1);
}

#[test]
fn a_sync_that_fails_says_so_once_and_its_writes_never_arrive() {
    let Some(mut disk) = PowerCut::mount(2) else { return };
    let path = disk.path().join("a");
    let file = durable_file(&path, 2 * SECTOR);
    let synced_before = disk.syncs();
    file.write_all_at(&[1; SECTOR], 0).unwrap();
    disk.fail_sync_after(1);
    file.sync_data().unwrap();
    file.write_all_at(&[2; 2 * SECTOR], 0).unwrap();
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), EIO);
    file.sync_data().unwrap();
    assert_eq!(disk.syncs(), synced_before + 2);
    assert_eq!(fs::read(&path).unwrap(), [2; 2 * SECTOR], "a reader sees them still");
    disk.cut();
    disk.remount();
    assert_eq!(fs::read(&path).unwrap(), [[1; SECTOR], [0; SECTOR]].concat());

    disk.fail_next_sync();
    assert_eq!(File::open(disk.path()).unwrap().sync_all().unwrap_err().raw_os_error(), EIO);
    sync_folder(disk.path());
}

#[test]
fn a_frozen_sync_waits_until_it_is_thawed_and_fails_when_the_power_goes() {
    let Some(disk) = PowerCut::mount(5) else { return };
    let file = Arc::new(durable_file(&disk.path().join("a"), SECTOR));
    let sync = || {
        let file = Arc::clone(&file);
        let sync = thread::spawn(move || file.sync_data());
        wait::until("a sync waits", || disk.frozen_syncs() == 1);
        sync
    };
    disk.freeze_syncs();
    let synced_before = disk.syncs();
    let first = sync();
    fs::write(disk.path().join("b"), b"others go on").unwrap();
    assert_eq!(disk.syncs(), synced_before);
    disk.thaw_syncs();
    first.join().unwrap().unwrap();
    file.sync_data().unwrap();

    disk.freeze_syncs();
    let second = sync();
    disk.cut();
    assert_eq!(second.join().unwrap().unwrap_err().raw_os_error(), EIO);
}

#[test]
fn the_disk_does_what_a_journal_asks_of_one() {
    let Some(mut disk) = PowerCut::mount(3) else { return };
    let root = disk.path().to_owned();
    let lock = File::open(&root).unwrap();
    lock.try_lock().unwrap();
    assert!(matches!(File::open(&root).unwrap().try_lock(), Err(TryLockError::WouldBlock)));
    assert!(rustix::fs::statvfs(&root).unwrap().f_bavail > 0);

    fs::create_dir(root.join("inner")).unwrap();
    let file = durable_file(&root.join("inner/a"), 3_000_000);
    assert_eq!(File::create_new(root.join("inner/a")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    file.write_all_at(b"end", 2_999_999).unwrap();
    file.set_len(3_000_001).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 3_000_000, 10).unwrap();
    file.sync_data().unwrap();
    let bytes = fs::read(root.join("inner/a")).unwrap();
    assert_eq!((bytes.len(), &bytes[2_999_998..]), (3_000_010, &b"\0en\0\0\0\0\0\0\0\0\0"[..]));

    for nth in 0..1000 {
        File::create_new(root.join(format!("inner/{nth:03}"))).unwrap();
    }
    // Each is there once, though they go while they are read.
    let mut removed = 0;
    for entry in fs::read_dir(root.join("inner")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
        removed += 1;
    }
    assert_eq!((removed, names(&root.join("inner"))), (1001, vec![]));
    let mut first = [0; 3];
    file.read_exact_at(&mut first, 2_999_999).unwrap();
    assert_eq!(&first, b"en\0", "an open file outlives its name");

    fs::rename(root.join("inner"), root.join("outer")).unwrap();
    fs::remove_dir(root.join("outer")).unwrap();
    fs::write(root.join("kept"), b"").unwrap();
    sync_folder(&root);
    disk.cut();
    disk.remount();
    assert_eq!(names(&root), ["kept"]);
    File::open(&root).unwrap().try_lock().unwrap();
}

/// What a small log forgets.
#[derive(Debug, Clone, Copy)]
enum Mistake {
    None,
    SyncOfRecords,
    SyncOfTheFolder,
}

const RECORDS: u8 = 5;
const RECORD_BYTES: usize = 2 * SECTOR;

/// Writes records of a log as callbridge's journal does: into a file of zeros that had another name. All but the last are
/// acknowledged.
fn write_log(path: &Path, mistake: Mistake) {
    let file = File::create_new(path.join("temp")).unwrap();
    file.write_all_at(&vec![0; usize::from(RECORDS) * RECORD_BYTES], 0).unwrap();
    file.sync_all().unwrap();
    fs::rename(path.join("temp"), path.join("log")).unwrap();
    if !matches!(mistake, Mistake::SyncOfTheFolder) {
        sync_folder(path);
    }
    for nth in 0..RECORDS {
        file.write_all_at(&[nth + 1; RECORD_BYTES], u64::from(nth) * 1024).unwrap();
        if nth + 1 < RECORDS && !matches!(mistake, Mistake::SyncOfRecords) {
            file.sync_data().unwrap();
        }
    }
}

/// Whether every record is there that was acknowledged.
fn is_log_whole(path: &Path) -> bool {
    let log = fs::read(path.join("log")).unwrap_or_default();
    let mut records = (1..).zip(log.chunks(RECORD_BYTES)).take(usize::from(RECORDS) - 1);
    !log.is_empty() && records.all(|(nth, record)| record == [nth; RECORD_BYTES])
}

#[test]
fn a_log_that_forgets_no_sync_stays_whole_and_one_that_forgets_one_is_caught() {
    for mistake in [Mistake::None, Mistake::SyncOfRecords, Mistake::SyncOfTheFolder] {
        let Some(whole) = after_cuts(|path| write_log(path, mistake), is_log_whole) else { return };
        assert_eq!(whole.contains(&false), !matches!(mistake, Mistake::None), "{mistake:?}: {whole:?}");
    }
}
