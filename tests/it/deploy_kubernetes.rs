//! `deploy/helm` and `deploy/kubernetes`: what the chart renders is valid, faults in its values are found, and the plain manifests and
//! the sidecar are as they say. What only a real API server finds is in `make kubernetes`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use crate::support::real;
use crate::support::tools;

/// The oldest that `kubeVersion` of the chart allows, and the newest that there are schemas of.
const VERSIONS: [&str; 2] = ["1.29", "1.37"];

/// Helm, kubernetes-validate and kubectl, and a folder for what they render.
struct Tools {
    helm: PathBuf,
    validate: PathBuf,
    folder: TempDir,
}

impl Tools {
    fn find() -> Option<Self> {
        let helm = real::found_or_skipped(tools::helm())?;
        let validate = real::found_or_skipped(tools::in_venv("kubernetes-validate"))?;
        Some(Self {
            helm,
            validate,
            folder: TempDir::with_prefix_in("kubernetes-", env!("CARGO_TARGET_TMPDIR")).unwrap(),
        })
    }

    /// `helm COMMAND chart --values FILE`, with more arguments.
    fn helm(&self, command: &[&str], values: &Path, more: &[&str]) -> Command {
        let mut helm = Command::new(&self.helm);
        helm.args(command).arg(tools::repository("deploy/helm/callbridge")).arg("--values").arg(values).args(more);
        helm
    }

    fn template(&self, values: &Path, more: &[&str]) -> String {
        tools::output(&mut self.helm(&["template", "callbridge"], values, more))
    }

    /// What the strict schemas of a version of Kubernetes find.
    fn faults(&self, manifests: &str, version: &str) -> String {
        let file = self.folder.path().join("manifests.yaml");
        fs::write(&file, manifests).unwrap();
        let mut command = Command::new(&self.validate);
        tools::both(command.args(["--strict", "--quiet", "--no-warn", "-k", version]).arg(file)).trim().to_owned()
    }

    /// The documents of YAML, by the parser of kubernetes-validate.
    fn documents(&self, yaml: &str) -> Vec<Value> {
        let file = self.folder.path().join("documents.yaml");
        fs::write(&file, yaml).unwrap();
        let script =
            "import json, sys, yaml; print(json.dumps([d for d in yaml.safe_load_all(open(sys.argv[1])) if d]))";
        let python = self.validate.with_file_name("python");
        serde_json::from_str(&tools::output(Command::new(python).args(["-c", script]).arg(file))).unwrap()
    }

    /// Asserts that callbridge takes the configuration in a ConfigMap, and returns what it says of it.
    fn check_config(&self, documents: &[Value]) -> String {
        let config = documents.iter().find_map(|document| document["data"]["callbridge.toml"].as_str()).unwrap();
        let file = self.folder.path().join("callbridge.toml");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_callbridge"));
        // It goes on to look for the files that it names, which are not here.
        let told = tools::both(command.args(["check", "--config"]).arg(file));
        assert!(told.starts_with("config ok: "), "{config}\n{told}");
        told
    }
}

/// An example of the chart's values.
fn values(name: &str) -> PathBuf {
    tools::repository("deploy/helm/callbridge/ci").join(format!("{name}-values.yaml"))
}

#[test]
fn each_example_of_values_lints_and_renders_manifests_that_are_valid() {
    let Some(tools) = Tools::find() else { return };
    let examples = tools::files_below(&tools::repository("deploy/helm/callbridge/ci"));
    assert_eq!(examples.len(), 3);
    for example in examples {
        tools::output(&mut tools.helm(&["lint", "--strict"], &example, &[]));
        let manifests = tools.template(&example, &[]);
        for version in VERSIONS {
            assert_eq!(tools.faults(&manifests, version), "", "{} for {version}", example.display());
        }
        let documents = tools.documents(&manifests);
        tools.check_config(&documents);
        let budget = documents.iter().find(|document| document["kind"] == "PodDisruptionBudget").unwrap();
        let keys = ["minAvailable", "maxUnavailable"].iter().filter(|key| !budget["spec"][**key].is_null());
        assert_eq!(keys.count(), 1, "Kubernetes refuses both: {budget}");
    }
}

#[test]
fn both_shapes_acknowledge_where_they_should_and_stop_within_their_grace() {
    let Some(tools) = Tools::find() else { return };
    for (shape, kind, ack) in [("deployment", "Deployment", "broker"), ("statefulset", "StatefulSet", "journal")] {
        let documents = tools.documents(&tools.template(&values(shape), &[]));
        assert!(tools.check_config(&documents).contains(&format!("ack {ack},")));
        let workload = documents.iter().find(|document| document["kind"] == kind).unwrap();
        let pod = &workload["spec"]["template"]["spec"];
        assert_eq!(pod["enableServiceLinks"], false);
        assert_eq!(pod["terminationGracePeriodSeconds"], 30);
        let config = documents.iter().find_map(|document| document["data"]["callbridge.toml"].as_str()).unwrap();
        assert!(config.contains("drain_seconds = 20\n") && config.contains("keep_accepting_ms = 5000\n"), "{config}");
        let is_kept = workload["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain";
        assert_eq!(is_kept, shape == "statefulset");
    }
    let checksum = |more: &[&str]| {
        let documents = tools.documents(&tools.template(&values("deployment"), more));
        let workload = documents.iter().find(|document| document["kind"] == "Deployment").unwrap();
        workload["spec"]["template"]["metadata"]["annotations"]["checksum/config"].clone()
    };
    assert_ne!(checksum(&[]), checksum(&["--set=config.workers=2"]), "a new configuration restarts the pods");
    let notes = ["install", "callbridge", "--dry-run=client"];
    let notes = tools::output(&mut tools.helm(&notes, &values("deployment"), &["--set=config.ack=journal"]));
    assert!(notes.contains("WARNING: the journal is on an emptyDir"), "{notes}");
    let documents = tools.documents(&tools.template(&values("deployment"), &["--set=config.ack=journal"]));
    let config = documents.iter().find_map(|document| document["data"]["callbridge.toml"].as_str()).unwrap();
    assert!(config.contains("journal.persistent = false\n"), "{config}");
    tools.check_config(&documents);
}

#[test]
fn faults_in_values_are_found_before_anything_is_installed() {
    let Some(tools) = Tools::find() else { return };
    let cases = [
        ("deployment", "nodeReplicas=3", "additional properties 'nodeReplicas' not allowed"),
        ("deployment", "mode=daemonset", "'/mode'"),
        ("deployment", "replicaCount=two", "'/replicaCount'"),
        ("deployment", "image.digest=sha256:12", "'/image/digest'"),
        ("deployment", "config.callbacks.pth=/x", "additional properties 'pth' not allowed"),
        ("deployment", "config.callbacks.listen=:1", "additional properties 'listen' not allowed"),
        ("deployment", "config.kafka.sasl\\.password=x", "sasl.password"),
        ("deployment", "config.kafka.bootstrap\\.servers=", "bootstrap.servers"),
        ("deployment", "config.apps=null", "apps"),
        ("deployment", "serviceMonitor.interval=15parsecs", "'/serviceMonitor/interval'"),
        ("deployment", "terminationGracePeriodSeconds=20", "terminationGracePeriodSeconds: must be above"),
        ("deployment", "ingress.enabled=true", "'/ingress/host'"),
        ("statefulset", "config.ack=broker", "take mode: deployment"),
        ("statefulset", "autoscaling.enabled=true", "leaves its journal behind"),
        ("statefulset", "persistence.size=ten", "'/persistence/size'"),
    ];
    for (shape, set, expected) in cases {
        let output = tools.helm(&["template", "callbridge"], &values(shape), &["--set", set]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(expected), "{set}: {stderr}");
    }
    // What no schema of values can find, the schemas of Kubernetes do.
    let manifests = tools.template(&values("deployment"), &[]);
    for (good, bad) in [
        ("terminationGracePeriodSeconds:", "terminationGracePeriodSecond:"),
        ("minReadySeconds: 5", "minReadySeconds: five"),
        ("containerPort: 8080", "containerPort: \"8080\""),
    ] {
        assert_ne!(tools.faults(&manifests.replace(good, bad), "1.37"), "", "{bad}");
    }
}

#[test]
fn the_schema_of_values_knows_every_setting() {
    // The chart sets the first three itself; a release with an in-process Kafka has no use.
    let left_out = ["callbacks.listen", "admin.listen", "journal.dir", "embedded_broker"];
    let example = fs::read_to_string(tools::repository("deploy/callbridge.example.toml")).unwrap();
    let mut settings = BTreeSet::new();
    let mut section = String::new();
    for line in example.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_matches(['[', ']']));
        }
        let Some((name, _value)) = line.strip_prefix("# ").unwrap_or(line).split_once(" = ") else { continue };
        let path = format!("{section}{name}");
        let is_name = name.chars().all(|letter| letter.is_ascii_lowercase() || "_.0123456789".contains(letter));
        if is_name && section != "kafka." && !left_out.contains(&path.as_str()) {
            settings.insert(path);
        }
    }
    let schema = fs::read_to_string(tools::repository("deploy/helm/callbridge/values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let mut known = BTreeSet::new();
    collect(&schema["properties"]["config"], "", &mut known);
    assert_eq!(
        settings, known,
        "deploy/callbridge.example.toml, and values.schema.json without the properties of Kafka"
    );
}

/// The paths of the settings below a schema.
fn collect(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    let schema = if schema["items"]["properties"].is_object() { &schema["items"] } else { schema };
    let Some(properties) = schema["properties"].as_object() else {
        found.insert(path.trim_end_matches('.').to_owned());
        return;
    };
    for (name, below) in properties.iter().filter(|(name, _below)| *name != "kafka") {
        collect(below, &format!("{path}{name}."), found);
    }
}

#[test]
fn the_plain_manifests_are_what_the_chart_renders() {
    let Some(tools) = Tools::find() else { return };
    let script = tools::repository("deploy/kubernetes/render.sh");
    tools::output(Command::new("sh").arg(&script).arg(&tools.helm).arg(tools.folder.path()));
    for shape in ["deployment.yaml", "statefulset.yaml"] {
        let [committed, rendered] = [script.with_file_name(shape), tools.folder.path().join(shape)]
            .map(|file| fs::read_to_string(file).unwrap());
        assert_eq!(committed, rendered, "make manifests");
        for version in VERSIONS {
            assert_eq!(tools.faults(&committed, version), "", "{shape} for {version}");
        }
    }
}

#[test]
fn the_job_that_drains_a_journal_fits_the_stateful_set() {
    let Some(tools) = Tools::find() else { return };
    let manifest = |name: &str| fs::read_to_string(tools::repository("deploy/kubernetes").join(name)).unwrap();
    let job = manifest("drain-job.yaml");
    for version in VERSIONS {
        assert_eq!(tools.faults(&job, version), "", "for {version}");
    }
    let documents = tools.documents(&manifest("statefulset.yaml"));
    let stateful_set = documents.iter().find(|document| document["kind"] == "StatefulSet").unwrap();
    let pods = [&tools.documents(&job)[0], stateful_set].map(|document| document["spec"]["template"]["spec"].clone());
    let [job, replica] = pods;
    assert_eq!(job["securityContext"], replica["securityContext"]);
    let container = |pod: &Value, what: &str| pod["containers"][0][what].clone();
    assert_eq!(container(&job, "image"), container(&replica, "image"));
    let mounts = container(&replica, "volumeMounts");
    for mount in container(&job, "volumeMounts").as_array().unwrap() {
        assert!(mounts.as_array().unwrap().contains(mount), "{mount}");
    }
    let claim = &stateful_set["spec"]["volumeClaimTemplates"][0]["metadata"]["name"];
    let name = &stateful_set["metadata"]["name"];
    let expected = format!("{}-{}-2", claim.as_str().unwrap(), name.as_str().unwrap());
    assert_eq!(job["volumes"][1]["persistentVolumeClaim"]["claimName"], expected);
    let args: Vec<&str> = vec!["journal", "drain", "--config", "/etc/callbridge/callbridge.toml"];
    assert_eq!(container(&job, "args"), Value::from(args));
}

#[test]
fn the_chart_has_the_alert_rules_of_deploy_prometheus() {
    let copy = fs::read_to_string(tools::repository("deploy/helm/callbridge/files/callbridge.rules.yaml")).unwrap();
    if let Ok(rules) = fs::read_to_string(tools::repository("deploy/prometheus/callbridge.rules.yaml")) {
        assert_eq!(copy, rules, "make manifests");
    }
    let Some(tools) = Tools::find() else { return };
    let documents = tools.documents(&tools.template(&values("everything"), &["--set=prometheusRule.runbookBaseUrl="]));
    let rendered = documents.iter().find(|document| document["kind"] == "PrometheusRule").unwrap();
    assert_eq!(rendered["spec"], tools.documents(&copy)[0]);
}

#[test]
fn the_sidecar_component_adds_a_native_sidecar_to_a_foreign_deployment() {
    let Some(tools) = Tools::find() else { return };
    let Some(kubectl) = real::found_or_skipped(tools::in_path("kubectl")) else { return };
    let folder = tools::repository("deploy/kubernetes/sidecar-example");
    let manifests = tools::output(Command::new(kubectl).arg("kustomize").arg(&folder));
    for version in VERSIONS {
        assert_eq!(tools.faults(&manifests, version), "", "for {version}");
    }
    let documents = tools.documents(&manifests);
    assert!(tools.check_config(&documents).contains("ack journal,"));
    let deployment = documents.iter().find(|document| document["kind"] == "Deployment").unwrap();
    let pod = &deployment["spec"]["template"]["spec"];
    let foreign = tools.documents(&fs::read_to_string(folder.join("application.yaml")).unwrap());
    assert_eq!(pod["containers"], foreign[0]["spec"]["template"]["spec"]["containers"]);
    let sidecar = &pod["initContainers"][0];
    assert_eq!((&sidecar["name"], &sidecar["restartPolicy"]), (&"callbridge".into(), &"Always".into()));
    let persistent = json!([{"name": "CALLBRIDGE_JOURNAL_PERSISTENT", "value": "false"}]);
    assert_eq!(sidecar["env"], persistent, "an emptyDir goes with the pod");
    assert!(sidecar["lifecycle"].is_null(), "a preStop hook would end it before the application");
}
