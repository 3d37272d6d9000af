//! The disks that fill up and fail, and what the harness mounts: that each refuses and fails as it shall, and that nothing stays
//! behind.

use std::env;
use std::fs;
use std::fs::File;
use std::io;
use std::io::ErrorKind;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::thread;

use tempfile::TempDir;

use crate::support::bridge::Bridge;
use crate::support::errno;
use crate::support::errno::Faults;
use crate::support::full_disk::FullDisk;
use crate::support::http;
use crate::support::http::Client;
use crate::support::load;
use crate::support::powercut::PowerCut;
use crate::support::process;
use crate::support::process::Process;
use crate::support::wait;

/// Makes a file of `length` zeros that have their place on the disk.
fn durable_file(path: &Path, length: usize) -> File {
    let file = File::create_new(path).unwrap();
    file.write_all_at(&vec![0; length], 0).unwrap();
    file.sync_all().unwrap();
    file
}

#[test]
fn a_full_disk_takes_nothing_more_until_there_is_room_again() {
    let Some(disk) = FullDisk::mount(16) else { return };
    let written = durable_file(&disk.path().join("zeros"), 1 << 20);
    assert!(disk.free_bytes() > 8 << 20);
    disk.fill();
    assert_eq!(disk.free_bytes(), 0);
    let create = || File::create(disk.path().join("more")).and_then(|mut file| file.write_all(&[1; 8192]));
    assert_eq!(create().unwrap_err().kind(), ErrorKind::StorageFull);
    // What has its place on the disk can still be written.
    written.write_all_at(&[1; 1 << 20], 0).unwrap();
    written.sync_data().unwrap();
    disk.unfill();
    create().unwrap();
    disk.fill();
    assert_eq!(disk.free_bytes(), 0);
}

#[test]
fn what_is_mounted_goes_when_it_is_dropped_and_when_the_tests_are_killed() {
    const FOLDER: &str = "CALLBRIDGE_TEST_MOUNTS";
    let mount = || Some((PowerCut::mount(4)?, FullDisk::mount(16)?));
    // In the child of this test: mount both, hold files open on them, wait for one, and be killed.
    if let Some(folder) = env::var_os(FOLDER) {
        let Some((power_cut, full_disk)) = mount() else { return };
        let paths = [power_cut.path(), full_disk.path()];
        let _open = durable_file(&full_disk.path().join("a"), 1);
        let file = durable_file(&power_cut.path().join("a"), 1);
        power_cut.freeze_syncs();
        thread::spawn(move || file.sync_data());
        wait::until("a thread cannot end", || power_cut.frozen_syncs() == 1);
        let text = paths.map(|path| path.display().to_string()).join("\n");
        fs::write(Path::new(&folder).join("new"), text).unwrap();
        fs::rename(Path::new(&folder).join("new"), Path::new(&folder).join("paths")).unwrap();
        loop {
            thread::park();
        }
    }
    let Some((power_cut, full_disk)) = mount() else { return };
    let paths = [power_cut.path(), full_disk.path()].map(Path::to_owned);
    assert!(paths.iter().all(|path| path.exists()));
    drop((power_cut, full_disk));
    assert!(!paths.iter().any(|path| path.exists()) && !paths.iter().any(|path| is_mounted(path)));

    let folder = tempfile::tempdir().unwrap();
    let test = thread::current().name().unwrap().to_owned();
    let mut tests = Command::new(env::current_exe().unwrap())
        .args(["--exact", &test])
        .env(FOLDER, folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let told = folder.path().join("paths");
    wait::until("both are mounted", || told.exists());
    let paths = fs::read_to_string(told).unwrap();
    assert!(paths.lines().all(|path| is_mounted(Path::new(path))));
    tests.kill().unwrap();
    tests.wait().unwrap();
    wait::until("both are gone", || !paths.lines().any(|path| is_mounted(Path::new(path)) || Path::new(path).exists()));
}

/// Whether that path, or the folder that it is in, is one of the mounts of this machine.
fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let points: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    path.ancestors().take(2).any(|path| points.contains(&path.to_str().unwrap()))
}

/// In the child of the next test: writes and syncs for ever, and prints what came of it when that changes.
fn write_and_tell(folder: &Path) {
    let file = File::create(folder.join("written")).unwrap();
    let mut told = String::new();
    loop {
        let written = match file.write_at(&[1; 4096], 0) {
            Ok(4096) => "whole".to_owned(),
            Ok(_part) => "short".to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        };
        let synced =
            file.sync_data().map_or_else(|error| format!("{:?}", error.raw_os_error()), |()| "synced".to_owned());
        let line = format!("{written} {synced}\n");
        if line != told {
            io::stdout().write_all(line.as_bytes()).unwrap();
            told = line;
        }
        thread::sleep(process::POLL);
    }
}

#[test]
fn faults_arrive_in_a_running_program_and_end_when_they_are_switched_off() {
    const FOLDER: &str = "CALLBRIDGE_TEST_WRITES";
    if let Some(folder) = env::var_os(FOLDER) {
        write_and_tell(Path::new(&folder));
    }
    let Some(faults) = Faults::available() else { return };
    let folder = TempDir::with_prefix_in("fiu-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let variable = format!("{FOLDER}={}", folder.path().display());
    let exe = env::current_exe().unwrap().display().to_string();
    let test = thread::current().name().unwrap().to_owned();
    let mut words = faults.prefix(&[errno::NO_SPACE]);
    words.extend(["env", &variable, &exe, "--exact", &test].map(str::to_owned));
    let program = Process::start(folder.path(), &words[0], &words[1..]);
    let now = |line: &str| wait::until(line, || program.stdout().lines().last() == Some(line));

    now("StorageFull synced");
    faults.switch_off(program.pid(), errno::NO_SPACE);
    now("whole synced");
    faults.switch_on(program.pid(), errno::SYNC_FAILS);
    now("whole Some(5)");
    faults.switch_off(program.pid(), errno::SYNC_FAILS);
    faults.switch_on(program.pid(), errno::SHORT_WRITES);
    now("short synced");
    faults.switch_off(program.pid(), errno::SHORT_WRITES);
    now("whole synced");
    let failures = || program.stdout().lines().filter(|line| *line == "whole Some(5)").count();
    let failures_before = failures();
    faults.switch_on(program.pid(), errno::SYNC_SELDOM_FAILS);
    wait::until("a seldom fault", || failures() > failures_before);
    now("whole synced");
}

#[test]
fn callbridge_runs_under_the_injected_faults() {
    let Some(faults) = Faults::available() else { return };
    let bridge = Bridge::builder().embedded().ack("memory").under(&faults.prefix(&[])).start();
    let post = |sequence| {
        let body = load::body("@TOA#_a", sequence);
        let target = http::callback_target("1400000000", load::COMMAND);
        Client::connect(bridge.callbacks).unwrap().post(&target, body.as_bytes()).unwrap().status
    };
    assert_eq!(post(1), 200);
    // It has no journal: nothing of this is its affair.
    faults.switch_on(bridge.pid(), errno::SYNC_FAILS);
    faults.switch_on(bridge.pid(), errno::NO_SPACE);
    assert_eq!(post(2), 200);
    assert_eq!(bridge.stop_and_wait().code, 0);
}
