//! The programs of a control plane and their arguments.

use super::{daemon::Daemon, site::Site};

/// Services get their addresses from this range.
const SERVICES: &str = "10.96.0.0/16";

/// The store. Nothing of it must survive the machine, so it waits for no disk.
pub fn etcd(site: &Site) -> Daemon {
    let (clients, peers) = (site.etcd(), site.etcd_peers());
    let arguments = [
        "--data-dir=etcd".to_owned(),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=error".to_owned(),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        // A bench writes more than the 2 GiB at which etcd stops to take anything.
        "--quota-backend-bytes=8589934592".to_owned(),
    ];
    Daemon::start("etcd", site.folder.path(), site.command("etcd", arguments))
}

/// The API server. It makes its certificate itself; the key of that also signs the tokens of service accounts.
pub fn api_server(site: &Site, audit: bool, more: &[String]) -> Daemon {
    let mut arguments = vec![
        format!("--etcd-servers={}", site.etcd()),
        format!("--secure-port={}", site.port()),
        format!("--bind-address={}", site.address),
        format!("--advertise-address={}", site.address),
        "--cert-dir=pki".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--service-account-key-file=pki/apiserver.key".to_owned(),
        "--service-account-signing-key-file=pki/apiserver.key".to_owned(),
        format!("--service-cluster-ip-range={SERVICES}"),
        "--token-auth-file=tokens.csv".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--profiling=false".to_owned(),
    ];
    if audit {
        arguments.push(format!("--audit-policy-file={}", site.write("audit.json", &super::audit::policy()).display()));
        arguments.push("--audit-log-path=audit.log".to_owned());
        // One file, however long the test.
        arguments.push("--audit-log-maxsize=10000".to_owned());
    }
    arguments.extend_from_slice(more);
    Daemon::start("kube-apiserver", site.folder.path(), site.command("kube-apiserver", arguments))
}

/// The controllers that a cluster has anyway: stateful sets, garbage collection, volumes, service accounts, ...
pub fn controller_manager(site: &Site) -> Daemon {
    let mut arguments = client_of_a_controller(site);
    arguments.extend(
        [
            "--use-service-account-credentials",
            "--service-account-private-key-file=pki/apiserver.key",
            "--root-ca-file=pki/apiserver.crt",
            "--concurrent-statefulset-syncs=20",
            "--concurrent-gc-syncs=20",
            "--concurrent-service-endpoint-syncs=10",
        ]
        .map(str::to_owned),
    );
    Daemon::start("kube-controller-manager", site.folder.path(), site.command("kube-controller-manager", arguments))
}

/// The scheduler. Its plugin for volumes and its queue hear of a bound claim independently: a pod that is looked at between
/// the two waits for the next event, and where none comes for five minutes unless told otherwise.
pub fn scheduler(site: &Site) -> Daemon {
    let again = "--pod-max-in-unschedulable-pods-duration=5s".to_owned();
    let arguments = client_of_a_controller(site).into_iter().chain([again]);
    Daemon::start("kube-scheduler", site.folder.path(), site.command("kube-scheduler", arguments))
}

/// Machines that are not there: their pods run at once and do nothing.
pub fn kwok(site: &Site) -> Daemon {
    let arguments = [
        format!("--kubeconfig={}", site.kubeconfig("admin").display()),
        "--manage-all-nodes=true".to_owned(),
        "--cidr=10.128.0.0/10".to_owned(),
        "--node-lease-duration-seconds=40".to_owned(),
    ];
    Daemon::start("kwok", site.folder.path(), site.command("kwok", arguments))
}

/// By default these ask 20 and 50 times a second at most, and a bench would measure nothing else.
fn client_of_a_controller(site: &Site) -> Vec<String> {
    let kubeconfig = site.kubeconfig("admin");
    let client = ["--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig"];
    let rates = ["--kube-api-qps=5000", "--kube-api-burst=5000", "--leader-elect=false", "--secure-port=0"];
    let client = client.map(|flag| format!("{flag}={}", kubeconfig.display()));
    client.into_iter().chain(rates.map(str::to_owned)).collect()
}
