//! `cargo xtask test charts`: the Helm chart rendered by Helm's engine and held against Kubernetes's
//! schemas, and the Dockerfile linted. Those tools are Python packages, in an environment below
//! `.cache`; what a chart has to say is here, and `packaging/helm/render.py` only renders.
//!
//! There is no cluster: that pods run is not shown.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{apt, sh};

/// The oldest Kubernetes that the chart says it is for, and the newest that the schemas are of.
const KUBERNETES: [&str; 2] = ["1.28", "1.37"];
const CHART: &str = "packaging/helm/mux";
const REQUIREMENTS: &str = "packaging/helm/requirements.txt";
const DOCKERFILE: &str = "packaging/docker/Dockerfile";
/// What mux needs to become `nobody` with the kernel relay, as `packaging/docker/Dockerfile` says, too.
const CAPABILITIES: [&str; 7] =
    ["BPF", "PERFMON", "NET_ADMIN", "NET_BIND_SERVICE", "SETUID", "SETGID", "SETPCAP"];

/// Lints and renders, or says why the tools cannot be had.
///
/// # Errors
/// Something is wrong with the chart or with the Dockerfile.
pub(crate) fn check(mux: &Path) -> Result<Option<String>> {
    let tools = match tools() {
        Ok(tools) => tools,
        Err(error) => return Ok(Some(format!("the linters are not to be had: {error:#}"))),
    };
    sh::run(sh::program(tools.join("hadolint")).arg(DOCKERFILE))?;
    sh::status("the Dockerfile: hadolint finds nothing");
    let rendered = render(&tools, &cases())?;
    judge(&rendered)?;
    rules_are_right(&rendered, mux)?;
    sh::status(format!(
        "the chart: {} sets of values rendered, valid for Kubernetes {}",
        rendered.len(),
        KUBERNETES.join(" and ")
    ));
    Ok(None)
}

/// The directory of the tools' programs. Made again when other versions are required.
fn tools() -> Result<PathBuf> {
    let environment = sh::root().join(".cache/charts");
    let required = fs::read_to_string(sh::root().join(REQUIREMENTS))?;
    let stamp = environment.join("requirements.txt");
    if fs::read_to_string(&stamp).ok().as_deref() != Some(&required) {
        if !sh::succeeds(sh::program("python3").args(["-c", "import ensurepip, venv"])) {
            apt::install(&["python3-venv"])?;
        }
        sh::status("installing Helm's engine, Kubernetes's schemas and hadolint, once");
        let _ = fs::remove_dir_all(&environment);
        sh::run(sh::program("python3").args(["-m", "venv"]).arg(&environment))?;
        let mut pip = sh::program(environment.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]);
        sh::run(pip.args(["--requirement", REQUIREMENTS]))?;
        // Last: what an interrupted run leaves is never taken for the whole.
        fs::write(stamp, required)?;
    }
    Ok(environment.join("bin"))
}

/// What a set of values comes to.
#[derive(Debug, Deserialize)]
struct Rendered {
    lint: Vec<Value>,
    documents: Vec<Value>,
    invalid: Vec<String>,
    error: Option<String>,
}

impl Rendered {
    /// The only document of this kind.
    fn the(&self, kind: &str) -> Result<&Value> {
        let mut found = self.documents.iter().filter(|document| document["kind"] == kind);
        match (found.next(), found.next()) {
            (Some(document), None) => Ok(document),
            (None, _) => bail!("there is no {kind}"),
            (Some(_), Some(_)) => bail!("there are several of {kind}"),
        }
    }

    /// The document of this kind and name.
    fn named(&self, kind: &str, name: &str) -> Result<&Value> {
        let is =
            |document: &&Value| document["kind"] == kind && document["metadata"]["name"] == name;
        self.documents.iter().find(is).with_context(|| format!("there is no {kind} {name}"))
    }

    fn pod(&self) -> Result<&Value> {
        let kinds = ["Deployment", "DaemonSet"];
        let workload = kinds.iter().find_map(|kind| self.the(kind).ok()).context("no workload")?;
        Ok(&workload["spec"]["template"])
    }

    /// A container of the pod.
    fn container(&self, name: &str) -> Result<&Value> {
        let containers = self.pod()?["spec"]["containers"].as_array().context("no containers")?;
        let is = |container: &&Value| container["name"] == name;
        containers.iter().find(is).with_context(|| format!("there is no container {name}"))
    }

    fn rules(&self) -> Result<&str> {
        let map = self.named("ConfigMap", "edge-mux")?;
        map["data"]["rules.toml"].as_str().context("no rules")
    }
}

fn cases() -> Value {
    let host = json!({
        "kind": "DaemonSet", "hostNetwork": true, "kernelRelay": true, "preStopSeconds": 0,
        "serviceMonitor": {"enabled": true, "interval": "7s", "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": true},
        "tolerations": [{"operator": "Exists"}], "nodeSelector": {"edge": "yes"},
        "podLabels": {"team": "edge"}, "podAnnotations": {"note": "x"},
        "files": {"allow.txt": "10.0.0.0/8\n"},
        "rules": "listen = \"0.0.0.0:443\"\n[[rule]]\nmatch = { client = [\"10.0.0.0/8\"] }\n\
                  upstream = 22\n[timeouts]\n# drain = \"9d\"\ndrain = \"2m\"\n",
    });
    json!([
        {"name": "defaults", "values": {}},
        {"name": "host", "values": host},
        {"name": "deployment on hosts", "values": {"hostNetwork": true, "maxUnavailable": null}},
        {"name": "daemons", "values": {"kind": "DaemonSet"}},
        {"name": "no reload", "values": {"reload": {"enabled": false}}},
        {"name": "other rules", "values": {
            "reload": {"enabled": false}, "rules": "listen = 1\n",
        }},
        {"name": "own map", "values": {
            "existingConfigMap": "ours", "terminationGracePeriodSeconds": 99,
        }},
        {"name": "all of it", "values": {
            "service": {"type": "LoadBalancer", "externalTrafficPolicy": "Local",
                        "annotations": {"a": "b"}},
            "image": {"repository": "registry.internal/mux", "tag": "1", "pullPolicy": "Always"},
            "imagePullSecrets": [{"name": "pull"}], "priorityClassName": "high",
            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
            "affinity": {"nodeAffinity": {}},
            "topologySpreadConstraints": [{
                "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway",
            }],
        }},
        {"name": "admin", "values": {"rules": "[admin]\nmode = \"0660\"\n"}},
        {"name": "typing error", "values": {"replica": 2}},
        {"name": "neither", "values": {"kind": "StatefulSet"}},
    ])
}

fn render(tools: &Path, cases: &Value) -> Result<BTreeMap<String, Rendered>> {
    let mut python = sh::program(tools.join("python"));
    python.arg("packaging/helm/render.py").arg(CHART).args(KUBERNETES);
    let mut child = python
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Helm says much there.
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start python")?;
    let stdin = child.stdin.take();
    // Written at once, and closed: it is read before anything is said.
    stdin.context("no standard input")?.write_all(cases.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "render.py: {}: {said}", output.status);
    serde_json::from_slice(&output.stdout).context("render.py")
}

/// What has to be true of the documents.
fn judge(rendered: &BTreeMap<String, Rendered>) -> Result<()> {
    for (name, refused) in [("admin", "[admin]"), ("typing error", "replica"), ("neither", "/kind")]
    {
        let error = rendered[name].error.as_deref().unwrap_or_default();
        ensure!(error.contains(refused), "{name}: not refused for {refused}: {error:?}");
    }
    for (name, case) in rendered.iter().filter(|(_, case)| !case.documents.is_empty()) {
        common(case).with_context(|| format!("values: {name}"))?;
    }
    let accepted = rendered.values().filter(|case| case.error.is_none()).count();
    ensure!(accepted == rendered.len() - 3, "others are refused, too: {rendered:#?}");

    let defaults = &rendered["defaults"];
    let (pod, mux) = (defaults.pod()?, defaults.container("mux")?);
    is(pod, "/spec/hostNetwork", &Value::Null)?;
    is(pod, "/spec/terminationGracePeriodSeconds", &json!(5 + 30 + 15))?;
    is(mux, "/lifecycle/preStop/exec/command", &json!(["sleep", "5"]))?;
    is(mux, "/securityContext/runAsNonRoot", &json!(true))?;
    is(mux, "/securityContext/capabilities/add", &Value::Null)?;
    is(defaults.the("PodDisruptionBudget")?, "/spec/maxUnavailable", &json!(1))?;
    let update = "/spec/strategy/rollingUpdate";
    is(defaults.the("Deployment")?, update, &json!({"maxSurge": 1, "maxUnavailable": 0}))?;
    ensure!(defaults.the("ServiceMonitor").is_err(), "there is a ServiceMonitor unasked");

    host(&rendered["host"])?;

    let on_hosts = &rendered["deployment on hosts"];
    // Two pods cannot have a node's port.
    is(on_hosts.the("Deployment")?, update, &json!({"maxSurge": 0, "maxUnavailable": 1}))?;
    ensure!(on_hosts.the("PodDisruptionBudget").is_err(), "a budget although there is none");

    let checksum = |name: &str| -> Result<&str> {
        let case = &rendered[name];
        ensure!(case.container("reload").is_err(), "{name}: there is a container reload");
        case.pod()?["metadata"]["annotations"]["checksum/rules"].as_str().context("no checksum")
    };
    ensure!(checksum("no reload")? != checksum("other rules")?, "other rules, the same pods");

    let own = rendered["own map"].pod()?;
    is(own, "/spec/volumes/0/configMap/name", &json!("ours"))?;
    is(own, "/spec/terminationGracePeriodSeconds", &json!(99))
}

/// What is true whatever the values are.
fn common(case: &Rendered) -> Result<()> {
    ensure!(case.lint.is_empty(), "lint: {:#?}", case.lint);
    ensure!(case.invalid.is_empty(), "{}", case.invalid.join("\n"));
    let pod = case.pod()?;
    is(pod, "/spec/securityContext/seccompProfile/type", &json!("RuntimeDefault"))?;
    is(pod, "/spec/automountServiceAccountToken", &json!(false))?;
    let mux = case.container("mux")?;
    for (probe, path) in
        [("startup", "/healthz"), ("liveness", "/healthz"), ("readiness", "/readyz")]
    {
        let get = format!("/{probe}Probe/httpGet");
        is(mux, &get, &json!({"path": path, "port": "metrics"}))?;
    }
    let containers = pod["spec"]["containers"].as_array().context("no containers")?;
    for container in containers {
        let confined = &container["securityContext"];
        is(confined, "/allowPrivilegeEscalation", &json!(false))?;
        is(confined, "/readOnlyRootFilesystem", &json!(true))?;
        is(confined, "/capabilities/drop", &json!(["ALL"]))?;
        // A subPath would keep the first rules for ever.
        let mounts = container["volumeMounts"].as_array().context("no mounts")?;
        ensure!(mounts.iter().all(|mount| mount["subPath"].is_null()), "a subPath");
    }
    // What selects pods finds them.
    let labels = pod["metadata"]["labels"].as_object().context("no labels")?;
    let selects = |selector: &Value| {
        let selector = selector.as_object();
        selector.is_some_and(|all| all.iter().all(|(key, value)| labels.get(key) == Some(value)))
    };
    for document in &case.documents {
        let selector = match document["kind"].as_str().unwrap_or_default() {
            "Service" => &document["spec"]["selector"],
            "Deployment" | "DaemonSet" | "PodDisruptionBudget" => {
                &document["spec"]["selector"]["matchLabels"]
            }
            _ => continue,
        };
        ensure!(selects(selector), "{} does not select the pods", document["kind"]);
    }
    Ok(())
}

/// One on each node, in the node's network, with the kernel relay and all of the monitoring.
fn host(case: &Rendered) -> Result<()> {
    let (pod, mux) = (case.pod()?, case.container("mux")?);
    is(pod, "/spec/hostNetwork", &json!(true))?;
    is(pod, "/spec/dnsPolicy", &json!("ClusterFirstWithHostNet"))?;
    // The rules' `drain`, not what a comment says.
    is(pod, "/spec/terminationGracePeriodSeconds", &json!(120 + 15))?;
    is(pod, "/metadata/labels/team", &json!("edge"))?;
    is(mux, "/lifecycle", &Value::Null)?;
    is(mux, "/securityContext/runAsUser", &json!(0))?;
    is(mux, "/securityContext/capabilities/add", &json!(CAPABILITIES))?;
    let reload = case.container("reload")?;
    is(reload, "/securityContext/capabilities/add", &Value::Null)?;
    is(reload, "/args", &json!(["/etc/mux", "5", "/run/mux/admin.sock"]))?;
    is(case.named("ConfigMap", "edge-mux")?, "/data/allow.txt", &json!("10.0.0.0/8\n"))?;
    let script = fs::read_to_string(sh::root().join(CHART).join("files/reload.sh"))?;
    let map = case.named("ConfigMap", "edge-mux-reload")?;
    let shipped = map["data"]["reload.sh"].as_str().unwrap_or_default();
    ensure!(shipped.trim_end() == script.trim_end(), "another reload.sh: {shipped}");

    let monitor = case.the("ServiceMonitor")?;
    is(monitor, "/apiVersion", &json!("monitoring.coreos.com/v1"))?;
    is(monitor, "/metadata/labels/release", &json!("prometheus"))?;
    is(monitor, "/spec/namespaceSelector", &json!({"matchNames": ["net"]}))?;
    // Of the name `up{job="mux"}` in the alerts.
    is(monitor, "/spec/jobLabel", &json!("app.kubernetes.io/name"))?;
    let endpoint = json!({
        "port": "metrics", "path": "/metrics", "interval": "7s", "scrapeTimeout": "10s",
    });
    is(monitor, "/spec/endpoints", &json!([endpoint]))?;
    let service = case.named("Service", "edge-mux-metrics")?;
    is(service, "/metadata/labels/app.kubernetes.io~1name", &json!("mux"))?;
    is(service, "/spec/ports/0/name", &json!("metrics"))?;
    let selected = monitor["spec"]["selector"]["matchLabels"].as_object();
    for (key, value) in selected.context("no selector")? {
        ensure!(&service["metadata"]["labels"][key] == value, "the Service has no {key}: {value}");
    }
    let clients = case.named("Service", "edge-mux")?;
    is(clients, "/metadata/labels/app.kubernetes.io~1component", &Value::Null)?;
    let alerts = &case.the("PrometheusRule")?["spec"]["groups"][0]["rules"];
    ensure!(alerts.as_array().is_some_and(|alerts| alerts.len() > 10), "{alerts}");
    Ok(())
}

/// What the chart makes of rules is what the daemon takes.
fn rules_are_right(rendered: &BTreeMap<String, Rendered>, mux: &Path) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("rules.toml");
    for name in ["defaults", "host"] {
        let rules = rendered[name].rules()?;
        fs::write(&file, rules)?;
        sh::run(Command::new(mux).args(["check", "--strict", "--rules"]).arg(&file))?;
        ensure!(rules.trim_end().ends_with("metrics = \"0.0.0.0:9090\""), "{rules}");
    }
    Ok(())
}

fn is(document: &Value, pointer: &str, expected: &Value) -> Result<()> {
    let found = document.pointer(pointer).unwrap_or(&Value::Null);
    ensure!(found == expected, "{pointer} is {found}, not {expected}");
    Ok(())
}
