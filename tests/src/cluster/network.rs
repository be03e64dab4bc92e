//! A machine of its own for a node: namespaces of network, processes and mounts, tied to this machine by one cable.
//!
//! One process holds the namespaces. When it ends the kernel ends every process in them, however detached, and with
//! the last of them go mounts and interfaces: so nothing has to be undone. Host and node reach each other and the pods
//! by address; there is no way out to other machines.

use std::{
    ffi::{OsStr, OsString},
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use super::{
    daemon::Daemon,
    tools::{Tools, on_path},
};

/// What the first process of the namespaces does. Mounts that a pod shares with its node must not reach the host, and
/// what containerd, kubelet and plugins write where they always write must not stay there.
const INIT: &str = r#"
mount --make-rshared / || exit
for folder in /run /var/lib /var/log; do mount -t tmpfs node "$folder" || exit; done
exec "$0"
"#;
/// File of the folder that names this machine's interface, for whoever clears up.
const INTERFACE: &str = "interface";
/// Longest wait for the first process, at either end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The namespaces and the cable.
pub struct Network {
    /// Ends everything inside when it ends.
    holder: Daemon,
    init: u32,
    number: u8,
}

impl Network {
    /// Makes the namespaces, the cable, and the bridge that pods will hang on.
    pub fn start(folder: &Path, tools: &Tools) -> Self {
        let unshare = ["--net", "--pid", "--mount", "--fork", "--kill-child", "--propagation=slave", "--mount-proc"];
        let mut command = vec![system("unshare")];
        command.extend(unshare.map(OsString::from));
        command.extend(["--", "sh", "-c", INIT].map(OsString::from));
        command.push(tools.path("pause").into());
        let holder = Daemon::start("namespaces", folder, command);
        let init = wait_for_init(&holder);
        let mut network = Self { holder, init, number: 0 };
        network.number = network.lay_cable();
        fs::write(folder.join(INTERFACE), network.interface()).expect("the folder takes a file");
        network.connect();
        network
    }

    /// The node's address.
    pub fn node(&self) -> Ipv4Addr {
        // 198.18.0.0/15 is for measurements and never routed, so it is nobody's.
        Ipv4Addr::new(198, 18, self.number, 2)
    }

    /// This machine's address on the cable: what pods can reach of it.
    pub fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, 1)
    }

    /// The range of the pods.
    pub fn pods(&self) -> String {
        format!("198.19.{}.0/24", self.number)
    }

    /// This machine's end of the cable.
    pub fn interface(&self) -> String {
        format!("bistro{}", self.number)
    }

    /// What stands before a command that shall run in the node's network and otherwise on this machine.
    pub fn enter_network(&self) -> Vec<OsString> {
        let flags = [format!("--net={}", self.namespace("net"))];
        self.enter(&flags)
    }

    /// What stands before a command that shall run wholly inside. Its process is a child of the one that is started.
    pub fn enter_node(&self) -> Vec<OsString> {
        let flags = ["net", "pid", "mnt"].map(|kind| {
            let name = if kind == "mnt" { "mount" } else { kind };
            format!("--{name}={}", self.namespace(kind))
        });
        self.enter(&flags)
    }

    /// The process that holds everything.
    pub fn holder(&self) -> &Daemon {
        &self.holder
    }

    fn enter(&self, flags: &[String]) -> Vec<OsString> {
        let enter = [system("nsenter")].into_iter().chain(flags.iter().map(OsString::from));
        // What kubelet and kube-proxy call lies where only root looks.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = [OsStr::new("PATH="), &path, OsStr::new(":/usr/sbin:/sbin")].into_iter().collect();
        enter.chain(["--".into(), "env".into(), path]).collect()
    }

    fn namespace(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.init)
    }

    /// The kernel refuses a name that is taken: so every cluster on this machine gets a number of its own.
    fn lay_cable(&self) -> u8 {
        let init = self.init.to_string();
        let found = (1..=254).find(|number| {
            let name = format!("bistro{number}");
            ip(&["link", "add", &name, "type", "veth", "peer", "name", "eth0", "netns", &init]).is_ok()
        });
        found.expect("fewer than 254 nodes on this machine, and the right to make interfaces")
    }

    fn connect(&self) {
        let (interface, host, node, pods) = (self.interface(), self.host(), self.node(), self.pods());
        let gateway = pods.replace(".0/24", ".1/24");
        let outside = [format!("addr add {host}/30 dev {interface}"), format!("link set {interface} up")];
        let inside = [
            "link set lo up".to_owned(),
            format!("addr add {node}/30 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via {host}"),
            "link add cni0 type bridge".to_owned(),
            format!("addr add {gateway} dev cni0"),
            "link set cni0 up".to_owned(),
        ];
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for line in outside {
            run([system("ip")].into_iter().chain(words(&line))).expect("the host's end");
        }
        for line in inside {
            run(self.enter_network().into_iter().chain([system("ip")]).chain(words(&line))).expect("the node's end");
        }
        let route = format!("route add {pods} via {node}");
        run([system("ip")].into_iter().chain(words(&route))).expect("a way to the pods");
        // Services are addresses that netfilter rewrites, on the bridge too.
        for setting in ["ip_forward", "../bridge/bridge-nf-call-iptables"] {
            let write = format!("echo 1 >/proc/sys/net/ipv4/{setting}");
            let command = self.enter_network().into_iter().chain(["sh".into(), "-c".into(), write.into()]);
            // Where the module is absent the bridge hands everything to netfilter, or the test of services fails.
            let _ = run(command);
        }
    }
}

impl Drop for Network {
    /// The kernel would do all of this too, only a little later than a test looks.
    fn drop(&mut self) {
        self.holder.end();
        let _ = ip(&["link", "delete", &self.interface()]);
        // The first process is gone when all others are.
        let (began, init) = (Instant::now(), format!("/proc/{}/exe", self.init));
        while fs::read_link(&init).is_ok() && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The process id of the namespaces' first process, once it holds still.
fn wait_for_init(holder: &Daemon) -> u32 {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        holder.check();
        let found = holder.id().and_then(|holder| children(holder.as_raw()).pop()).filter(|init| {
            fs::read_link(format!("/proc/{init}/exe")).is_ok_and(|exe| exe.file_name() == Some(OsStr::new("pause")))
        });
        if let Some(init) = found {
            return init;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the namespaces did not come about:\n{}", holder.tail());
}

/// The processes that a process has started itself.
fn children(parent: i32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

/// A program of the system; whether it is there was asked before.
fn system(name: &str) -> OsString {
    on_path(name).unwrap_or_else(|| PathBuf::from(name)).into()
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    run([system("ip")].into_iter().chain(arguments.iter().map(OsString::from)))
}

fn run(command: impl IntoIterator<Item = OsString>) -> Result<(), String> {
    let words: Vec<OsString> = command.into_iter().collect();
    let (program, arguments) = words.split_first().expect("a program");
    let ran = Command::new(program).args(arguments).output().map_err(|error| error.to_string())?;
    if ran.status.success() {
        return Ok(());
    }
    Err(format!("{words:?}: {}", String::from_utf8_lossy(&ran.stderr)))
}
