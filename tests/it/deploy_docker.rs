//! `deploy/docker`: the runtime stage of the image, built from the binary at hand and run by podman, and the compose file.
//!
//! Nothing is pulled: the base image is made here, from the libraries that distroless/cc has and no others.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use callbridge::clock;
use tempfile::TempDir;

use crate::seeds::APP;
use crate::support::bridge;
use crate::support::http::Client;
use crate::support::http::callback_target;
use crate::support::load;
use crate::support::ports;
use crate::support::real;
use crate::support::tools;
use crate::support::wait;

const BASE: &str = "gcr.io/distroless/cc-debian12:nonroot";
const IMAGE: &str = "localhost/callbridge:test";

/// Docker sends SIGKILL this long after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What a container may do at most: no root, no capabilities, no file but the journal's. `--timeout` ends one that a test left behind.
const CONFINED: [&str; 8] = [
    "--network",
    "host",
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--timeout=300",
    "--volume",
    "journal:/var/lib/callbridge",
];

/// The shared libraries of distroless/cc that a program in Rust can need.
const LIBRARIES: [&str; 4] = ["libc.so.6", "libgcc_s.so.1", "libm.so.6", "ld-linux-x86-64.so.2"];

/// What root in a container of its own has too little of: cgroups of version 2 alone, systemd, and higher limits.
const CONTAINERS_CONF: &str = r#"[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"#;

/// Podman with a storage of its own, which goes on drop with all containers in it.
struct Podman {
    folder: TempDir,
}

impl Podman {
    /// With the image in it.
    fn start() -> Option<Self> {
        real::found_or_skipped(tools::in_path("podman"))?;
        let podman = Self { folder: TempDir::with_prefix_in("podman-", env!("CARGO_TARGET_TMPDIR")).unwrap() };
        let root = podman.folder.path().display();
        fs::write(podman.path("containers.conf"), CONTAINERS_CONF).unwrap();
        // The driver without mounts, so that the folder can be removed.
        let script = format!(
            "#!/bin/sh\nexport CONTAINERS_CONF={root}/containers.conf\n\
             exec podman --root {root}/root --runroot {root}/run --tmpdir {root}/tmp --storage-driver vfs \"$@\"\n"
        );
        fs::write(podman.path("podman"), script).unwrap();
        fs::set_permissions(podman.path("podman"), fs::Permissions::from_mode(0o755)).unwrap();
        podman.make_image();
        Some(podman)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.path("podman"));
        command.args(args);
        command
    }

    /// What it prints.
    fn run(&self, args: &[&str]) -> String {
        tools::output(&mut self.command(args))
    }

    /// The base image, then the runtime stage on it, with a folder in the place of the build stage.
    fn make_image(&self) {
        let base = self.path("base");
        fs::create_dir_all(base.join("etc")).unwrap();
        fs::write(base.join("etc/passwd"), "nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n").unwrap();
        for library in libraries(env!("CARGO_BIN_EXE_callbridge")) {
            let target = base.join(library.strip_prefix("/").unwrap());
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(&library, target).unwrap();
        }
        let (base, tar) = (base.to_str().unwrap(), self.path("base.tar"));
        tools::output(Command::new("tar").args(["-C", base, "-cf", tar.to_str().unwrap(), "."]));
        self.run(&["import", "-q", tar.to_str().unwrap(), BASE]);

        let built = self.path("built");
        let volume = built.join("volumes/callbridge");
        fs::create_dir_all(&volume).unwrap();
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o700)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_callbridge"), built.join("callbridge")).unwrap();
        let (dockerfile, context) =
            (tools::repository("deploy/docker/Dockerfile"), format!("build={}", built.display()));
        let words = ["build", "-q", "--format=docker", "--pull=never", "--target=runtime", "-t", IMAGE];
        let more = ["--build-context", &context, "-f", dockerfile.to_str().unwrap(), built.to_str().unwrap()];
        self.run(&[&words[..], &more].concat());
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // What is left of them would be removed with the folder, but not ended.
        let _ended = self.command(&["rm", "-f", "-a", "-t", "0"]).output();
    }
}

/// The shared libraries of a program, with their paths.
fn libraries(program: &str) -> Vec<PathBuf> {
    let listed = tools::output(Command::new("ldd").arg(program));
    let paths = listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    let libraries: Vec<PathBuf> = paths.collect();
    let names: BTreeSet<&str> = libraries.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert!(names.is_subset(&LIBRARIES.into()), "distroless/cc does not have all of {names:?}");
    libraries
}

/// The settings of a callbridge whose Kafka is away.
fn variables(callbacks: u16, admin: u16, no_kafka: u16) -> [(&'static str, String); 4] {
    [
        ("CALLBRIDGE_SDK_APP_ID", APP.to_owned()),
        ("CALLBRIDGE_LISTEN", format!("127.0.0.1:{callbacks}")),
        ("CALLBRIDGE_ADMIN_LISTEN", format!("127.0.0.1:{admin}")),
        ("CALLBRIDGE_BROKERS", format!("127.0.0.1:{no_kafka}")),
    ]
}

/// A callbridge in a container, whose Kafka is away.
struct Container<'p> {
    podman: &'p Podman,
    name: &'static str,
    callbacks: u16,
    admin: u16,
}

impl<'p> Container<'p> {
    /// Runs it and waits until it takes callbacks.
    fn start(podman: &'p Podman, name: &'static str) -> Self {
        let [callbacks, admin, no_kafka] = ports::free();
        let variables = variables(callbacks, admin, no_kafka);
        let variables: Vec<String> = variables.iter().map(|(name, value)| format!("--env={name}={value}")).collect();
        let variables: Vec<&str> = variables.iter().map(String::as_str).collect();
        podman.run(&[&["run", "-d", "--name", name][..], &CONFINED, &variables, &[IMAGE]].concat());
        let container = Self { podman, name, callbacks, admin };
        container.wait_until_ready();
        container
    }

    fn wait_until_ready(&self) {
        wait::until("callbridge is ready in its container", || {
            assert_eq!(self.inspect("{{.State.Status}}"), "running", "{}", self.podman.run(&["logs", self.name]));
            let connected = Client::connect(([127, 0, 0, 1], self.admin).into());
            let ready = connected.and_then(|mut client| client.request("GET", "/readyz", &[], b""));
            ready.is_ok_and(|response| response.status == 200)
        });
    }

    /// Asserts that it is not root and can do no more than any other process of its user.
    fn assert_confined(&self) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.inspect("{{.State.Pid}}"))).unwrap();
        let capabilities = ["CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| format!("{set}:\t0000000000000000"));
        for line in
            capabilities.iter().map(String::as_str).chain(["Uid:\t65532\t65532\t65532\t65532", "NoNewPrivs:\t1"])
        {
            assert!(status.contains(line), "{line}: {status}");
        }
        assert_eq!(self.inspect("{{.HostConfig.ReadonlyRootfs}}"), "true");
    }

    fn inspect(&self, what: &str) -> String {
        self.podman.run(&["inspect", "--format", what, self.name]).trim().to_owned()
    }

    fn post(&self) -> u16 {
        let mut client = Client::connect(([127, 0, 0, 1], self.callbacks).into()).unwrap();
        client.post(&callback_target(APP, load::COMMAND), load::body("@a", 0).as_bytes()).unwrap().status
    }
}

#[test]
fn the_image_runs_confined_stops_in_time_and_its_journal_survives_a_kill() {
    let Some(podman) = Podman::start() else { return };
    let first = Container::start(&podman, "first");
    first.assert_confined();
    podman.run(&["healthcheck", "run", "first"]);
    assert_eq!(first.post(), 200);
    podman.run(&["kill", "first"]);
    assert_eq!(podman.run(&["wait", "first"]).trim(), "137");

    let second = Container::start(&podman, "second");
    assert_eq!(second.post(), 200);
    let begin = clock::monotonic();
    podman.run(&["stop", "second"]);
    assert!(begin.elapsed() < STOP_LIMIT, "{:?}", begin.elapsed());
    assert_eq!(second.inspect("{{.State.ExitCode}}"), "0");
    let ledger = bridge::ledger(&podman.run(&["logs", "second"]));
    assert_eq!([ledger["recovered"], ledger["received"], ledger["waiting"]], [1, 1, 2], "{ledger:?}");
    let logged = tools::both(&mut podman.command(&["logs", "second"]));
    assert!(!logged.contains("journal's directory"), "the volume has the wrong mode: {logged}");
}

#[test]
fn the_compose_file_runs_callbridge_confined_and_with_its_journal_on_a_volume() {
    let Some(compose) = real::found_or_skipped(tools::in_venv("podman-compose")) else { return };
    let Some(podman) = Podman::start() else { return };
    // Kafka and Prometheus cannot be pulled here, so callbridge runs alone, in the host's network.
    let [callbacks, admin, no_kafka] = ports::free();
    let variables = variables(callbacks, admin, no_kafka);
    let variables: String = variables.iter().map(|(name, value)| format!("      {name}: \"{value}\"\n")).collect();
    let service =
        format!("    image: {IMAGE}\n    container_name: composed\n    network_mode: host\n    ports: !reset []\n");
    let changed = podman.path("changed.yaml");
    fs::write(&changed, format!("services:\n  callbridge:\n{service}    environment:\n{variables}")).unwrap();
    let mut command = Command::new(compose);
    command.arg("--podman-path").arg(podman.path("podman")).args(["--in-pod=false", "--podman-run-args=--timeout=300"]);
    command.arg("-f").arg(tools::repository("deploy/docker/compose.yaml")).arg("-f").arg(changed);
    tools::output(command.args(["up", "-d", "--no-build", "--no-deps", "callbridge"]));

    let container = Container { podman: &podman, name: "composed", callbacks, admin };
    container.wait_until_ready();
    container.assert_confined();
    assert_eq!(container.post(), 200);
    let mounts = container.inspect("{{range .Mounts}}{{.Name}}:{{.Destination}}{{end}}");
    assert_eq!(mounts, "callbridge_journal:/var/lib/callbridge");
}

#[test]
fn hadolint_finds_nothing_in_the_dockerfile() {
    let Some(hadolint) = real::found_or_skipped(tools::in_venv("hadolint")) else { return };
    tools::output(Command::new(&hadolint).arg(tools::repository("deploy/docker/Dockerfile")));
    // It does find what is wrong.
    let folder = TempDir::with_prefix_in("hadolint-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let planted = folder.path().join("Dockerfile");
    fs::write(&planted, "FROM debian\nRUN cd /tmp && sudo ls\n").unwrap();
    assert!(!Command::new(&hadolint).arg(&planted).output().unwrap().status.success());
}

#[test]
fn the_build_context_has_every_file_that_the_source_includes() {
    let ignored = fs::read_to_string(tools::repository(".dockerignore")).unwrap();
    let kept: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let mut needed = vec!["Cargo.toml".to_owned(), "Cargo.lock".to_owned(), "src".to_owned(), "benches".to_owned()];
    for file in tools::files_below(&tools::repository("src")) {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        if file.ends_with("tests.rs") {
            continue;
        }
        for rest in
            code.split("include_str!(\"").chain(code.split("include_bytes!(\"")).filter(|rest| rest.starts_with("../"))
        {
            let included = file.parent().unwrap().join(rest.split('"').next().unwrap());
            let included = fs::canonicalize(&included).unwrap();
            needed.push(included.strip_prefix(tools::repository("")).unwrap().to_str().unwrap().to_owned());
        }
    }
    assert!(needed.len() > 4, "lib.rs includes ARCHITECTURE.md");
    for path in needed {
        assert!(kept.iter().any(|kept| Path::new(&path).starts_with(kept)), ".dockerignore leaves out {path}");
    }
}
