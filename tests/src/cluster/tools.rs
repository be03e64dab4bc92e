//! Where the Kubernetes programs are: `hack/kube` builds them, `KUBEBUILDER_ASSETS` may give three of them instead.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The pins that `hack/kube` builds from.
const PINS: &str = include_str!("../../../hack/kube/kubernetes/go.mod");
/// What a control plane and the tests of a chart need.
const CONTROL: [&str; 8] =
    ["etcd", "kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "helm", "kwok", "prometheus"];
/// What a node needs besides.
const NODE: [&str; 4] = ["kubelet", "kube-proxy", "coredns", "pause"];
/// What a node needs of the system; `hack/kube/packages` installs it.
const SYSTEM: [&str; 8] = ["containerd", "ctr", "runc", "iptables", "ip", "nsenter", "unshare", "conntrack"];

/// Finds programs.
#[derive(Clone, Debug)]
pub struct Tools {
    built: PathBuf,
    given: Option<PathBuf>,
}

impl Tools {
    /// The programs of a control plane. Where they are not built the test is skipped, and says so; under `make`, which
    /// builds them first and names their folder in `BISTRO_KUBE`, it fails.
    pub fn control() -> Option<Self> {
        let asked = env::var_os("BISTRO_KUBE").map(PathBuf::from);
        let built = asked.clone().unwrap_or_else(usual_folder);
        let tools = Self { built, given: env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) };
        let Some(missing) = CONTROL.iter().map(|name| tools.path(name)).find(|path| !path.exists()) else {
            return Some(tools);
        };
        let missing = format!("{} is missing: run make kube-tools", missing.display());
        assert!(asked.is_none(), "{missing}");
        skipped(&missing);
        None
    }

    /// The same with the programs of a node, on a machine where they can run.
    pub fn node() -> Option<Self> {
        let tools = Self::control()?;
        let missing = NODE.iter().map(|name| tools.path(name)).find(|path| !path.exists());
        let wanting = if !is_root() {
            Some("a real node needs root".to_owned())
        } else if let Some(missing) = missing {
            Some(format!("{} is missing: run make node-tools", missing.display()))
        } else {
            let missing = SYSTEM.iter().find(|name| on_path(name).is_none());
            missing.map(|name| format!("{name} is missing: run make node-tools"))
        };
        if let Some(wanting) = &wanting {
            skipped(wanting);
        }
        wanting.is_none().then_some(tools)
    }

    /// A program of ours, or the one that was given.
    pub fn path(&self, name: &str) -> PathBuf {
        let given = self.given.as_ref().map(|folder| folder.join(name)).filter(|path| path.exists());
        given.unwrap_or_else(|| self.built.join(name))
    }
}

/// A test that did not run must not look like one that passed.
fn skipped(why: &str) {
    eprintln!("\n*** SKIPPED: this test needs Kubernetes, and {why} ***\n");
}

fn usual_folder() -> PathBuf {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    home.join(".cache/bistro/kube").join(version())
}

/// The version that is built.
fn version() -> &'static str {
    let line = PINS.lines().map(str::trim).find_map(|line| line.strip_prefix("k8s.io/kubernetes "));
    line.expect("go.mod pins k8s.io/kubernetes").trim()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// A program of the system. Debian keeps some where only root looks.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let found = env::split_paths(&path).chain(usual).map(|folder| folder.join(name)).find(|path| path.exists());
    found.filter(|path| Path::is_file(path))
}
