//! A real node: containerd and runc, kubelet, kube-proxy, DNS, and what waits on it.

use std::{ffi::OsString, fs, path::Path, process::Command};

use k8s_openapi::api::core::v1::Node as Machine;
use kube::Api;
use serde_json::json;

use super::{
    Cluster, attendant::Attendant, client::is_ready, daemon::Daemon, network::Network, site::Site, tools::on_path,
};

/// The node's name.
pub const NAME: &str = "node";
/// GPUs that it says it has.
pub const GPUS: u32 = 8;

/// The programs of a node. They end with the namespaces that they run in.
pub struct Node {
    // In the order in which they end; the namespaces last.
    _attendant: Attendant,
    daemons: Vec<Daemon>,
    network: Network,
}

impl Node {
    /// Starts the node of a cluster whose API server is ready.
    pub fn start(site: &Site, network: Network) -> Self {
        make_groups(site.folder.name());
        let containerd = containerd(site, &network);
        let kubelet = kubelet(site, &network);
        let proxy = kube_proxy(site, &network);
        let dns = coredns(site, &network);
        let attendant = Attendant::start(site);
        Self { _attendant: attendant, daemons: vec![kubelet, proxy, dns, containerd], network }
    }

    /// The programs, for messages.
    pub fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        self.daemons.iter().chain([self.network.holder()])
    }
}

impl Cluster {
    /// Puts an image into the node: a tar file as `docker save` writes it, or an OCI layout.
    pub fn import_image(&self, tar: &Path) {
        let ran = Command::new(on_path("ctr").expect("it was there before"))
            .arg("--address")
            .arg(self.site.file("containerd.sock"))
            .args(["--namespace=k8s.io", "images", "import"])
            .arg(tar)
            .output()
            .expect("ctr runs");
        assert!(ran.status.success(), "{}: {}", tar.display(), String::from_utf8_lossy(&ran.stderr));
    }

    /// This machine's address as pods see it.
    pub fn host_address(&self) -> std::net::Ipv4Addr {
        self.node.as_ref().expect("a cluster with a node").network.host()
    }

    /// This machine's interface to the node.
    pub fn interface(&self) -> String {
        self.node.as_ref().expect("a cluster with a node").network.interface()
    }

    /// Waits until pods can run on the node, with an image for the test's own pods: `localhost/probe:1`.
    pub(super) async fn wait_for_node(&self) {
        let socket = self.site.file("containerd.sock");
        self.until("containerd", async || socket.exists().then_some(())).await;
        for image in ["pause.tar", "probe.tar"] {
            self.import_image(&self.program(image));
        }
        let nodes: Api<Machine> = Api::all(self.client().await);
        self.until("a ready node with GPUs", async || {
            let node = nodes.get(NAME).await.ok()?;
            let gpus = node.status.as_ref()?.allocatable.as_ref()?.get("nvidia.com/gpu")?.0.clone();
            (is_ready(&node) && gpus == GPUS.to_string()).then_some(())
        })
        .await;
    }
}

/// The groups below which the kubelet puts the pods: a kubelet of another cluster has others.
fn make_groups(name: &str) {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        let own = root.join(name);
        fs::create_dir(&own).expect("the right to make control groups");
        for folder in [root, &own] {
            for controller in ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"] {
                // What this machine does not have, the kubelet does not ask for.
                let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        return;
    }
    for hierarchy in fs::read_dir(root).expect("control groups").flatten() {
        let own = hierarchy.path().join(name);
        if fs::create_dir(&own).is_err() {
            continue;
        }
        // A new group has no processors and no memory, and takes no process then.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(all) = fs::read(hierarchy.path().join(file)) {
                fs::write(own.join(file), all).expect("a part of what the parent has");
            }
        }
    }
}

fn containerd(site: &Site, network: &Network) -> Daemon {
    let folder = site.folder.path();
    fs::create_dir_all(folder.join("cni")).expect("a folder");
    let plugins = json!({
        "cniVersion": "0.4.0", "name": "bridge",
        "plugins": [{
            "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
            "ipam": {
                "type": "host-local", "dataDir": folder.join("addresses"),
                "ranges": [[{ "subnet": network.pods() }]], "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    });
    site.write("cni/10-bridge.conflist", &plugins.to_string());
    let folder = folder.display();
    let settings = format!(
        r#"version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  # Machines without CAP_SYS_RESOURCE refuse what the kubelet asks for otherwise.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
"#
    );
    let settings = site.write("containerd.toml", &settings);
    let program = on_path("containerd").expect("it was there before");
    daemon("containerd", site, network.enter_node(), program.into(), &[("--config", settings.as_os_str().to_owned())])
}

fn kubelet(site: &Site, network: &Network) -> Daemon {
    let settings = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": network.node(),
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{}", site.folder.name()),
        "failSwapOn": false, "failCgroupV1": false,
        "clusterDomain": "cluster.local", "clusterDNS": [network.node()],
        "containerRuntimeEndpoint": format!("unix://{}", site.file("containerd.sock").display()),
        "resolvConf": "", "maxPods": 110,
        // A test's machine may be nearly full: that is no reason to evict.
        "evictionHard": {
            "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        // What a pod waits for shows within seconds.
        "syncFrequency": "5s", "nodeStatusUpdateFrequency": "5s",
    });
    let settings = site.write("kubelet.json", &settings.to_string());
    let flags = [
        ("--config", settings.into_os_string()),
        ("--kubeconfig", site.kubeconfig("admin").into_os_string()),
        ("--root-dir", site.file("kubelet").into_os_string()),
        ("--hostname-override", NAME.into()),
        ("--node-ip", network.node().to_string().into()),
    ];
    daemon("kubelet", site, network.enter_node(), site.tools.path("kubelet").into(), &flags)
}

fn kube_proxy(site: &Site, network: &Network) -> Daemon {
    let settings = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "clientConnection": { "kubeconfig": site.kubeconfig("admin") },
        "mode": "iptables", "clusterCIDR": network.pods(), "hostnameOverride": NAME,
        "bindAddress": network.node(), "metricsBindAddress": "127.0.0.1:10249",
        // The kernel's own limits stay: they are this machine's.
        "conntrack": { "maxPerCore": 0, "min": 0 },
        "iptables": { "minSyncPeriod": "100ms" },
    });
    let settings = site.write("kube-proxy.json", &settings.to_string());
    let program = site.tools.path("kube-proxy").into();
    daemon("kube-proxy", site, network.enter_node(), program, &[("--config", settings.into_os_string())])
}

fn coredns(site: &Site, network: &Network) -> Daemon {
    let settings = format!(
        ".:53 {{\n  bind {}\n  errors\n  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {}\n  }}\n}}\n",
        network.node(),
        site.kubeconfig("admin").display()
    );
    let settings = site.write("Corefile", &settings);
    let program = site.tools.path("coredns").into();
    daemon("coredns", site, network.enter_network(), program, &[("-conf", settings.into_os_string())])
}

fn daemon(
    name: &'static str,
    site: &Site,
    enter: Vec<OsString>,
    program: OsString,
    flags: &[(&str, OsString)],
) -> Daemon {
    let flags = flags.iter().flat_map(|(flag, value)| [OsString::from(flag), value.clone()]);
    Daemon::start(name, site.folder.path(), enter.into_iter().chain([program]).chain(flags).collect())
}
