//! Where a control plane runs: its folder, its addresses, its users.

use std::{ffi::OsString, net::Ipv4Addr, path::PathBuf};

use serde_json::json;

use super::{folder::Folder, tools::Tools};
use crate::process::free_port;

/// Users of every cluster besides those that a test asks for: whoever drives the test, the operator, and another one
/// whose writes are told apart from the operator's.
const USERS: [&str; 3] = ["admin", "operator", "other"];

/// What the programs of a control plane have in common.
pub struct Site {
    /// Everything of the cluster lies in it.
    pub folder: Folder,
    /// Finds programs.
    pub tools: Tools,
    /// The address that the API server listens on.
    pub address: Ipv4Addr,
    /// What stands before a command: nothing, or what enters a network.
    pub prefix: Vec<OsString>,
    users: Vec<String>,
    etcd: u16,
    etcd_peers: u16,
    api_server: u16,
}

impl Site {
    /// A place on free ports.
    pub fn new(folder: Folder, tools: Tools, address: Ipv4Addr, prefix: Vec<OsString>, more_users: &[String]) -> Self {
        let users = USERS.map(str::to_owned).into_iter().chain(more_users.iter().cloned()).collect();
        let [etcd, etcd_peers, api_server] = [(); 3].map(|()| free_port().port());
        let site = Self { folder, tools, address, prefix, users, etcd, etcd_peers, api_server };
        site.write("tokens.csv", &site.tokens());
        site
    }

    /// Who may sign in; all of them may do everything.
    pub fn users(&self) -> &[String] {
        &self.users
    }

    /// A file of the cluster.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes one.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        std::fs::write(&path, text).expect("the folder takes a file");
        path
    }

    /// The command of a program with its arguments.
    pub fn command<A: Into<OsString>>(&self, program: &str, arguments: impl IntoIterator<Item = A>) -> Vec<OsString> {
        let program = self.tools.path(program).into_os_string();
        self.prefix.iter().cloned().chain([program]).chain(arguments.into_iter().map(Into::into)).collect()
    }

    /// Where clients of etcd connect.
    pub fn etcd(&self) -> String {
        format!("http://127.0.0.1:{}", self.etcd)
    }

    /// Where members of etcd would connect.
    pub fn etcd_peers(&self) -> String {
        format!("http://127.0.0.1:{}", self.etcd_peers)
    }

    /// The port of the API server.
    pub fn port(&self) -> u16 {
        self.api_server
    }

    /// The file that a user's client reads. Its name ends as other programs expect it.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.file(&format!("{user}.kubeconfig"))
    }

    /// Writes the file of every user; the API server has made its certificate by then.
    pub fn write_kubeconfigs(&self) {
        for user in &self.users {
            self.write_kubeconfig(user, &token(user));
        }
    }

    /// Writes the file of one user.
    pub fn write_kubeconfig(&self, user: &str, token: &str) -> PathBuf {
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("https://{}:{}", self.address, self.api_server),
                "certificate-authority": self.file("pki/apiserver.crt"),
            } }],
            "users": [{ "name": user, "user": { "token": token } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": user } }],
        });
        self.write(&format!("{user}.kubeconfig"), &text.to_string())
    }

    fn tokens(&self) -> String {
        self.users.iter().map(|user| format!("{},{user},{user},system:masters\n", token(user))).collect()
    }
}

/// No secret: the server listens on this machine for as long as a test lasts.
fn token(user: &str) -> String {
    format!("token-of-{user}")
}
