//! The operator as a process: the program that was built, to be killed and started again.

use std::{
    fs::OpenOptions,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};

use crate::process::{ask, free_port, program, tail};

/// One replica of the operator; it ends with this value, and with this process.
pub struct Operator {
    kubeconfig: PathBuf,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    http: SocketAddr,
    child: Option<Child>,
}

impl Operator {
    /// A replica that looks after one namespace. It does not run yet.
    pub fn new(kubeconfig: &Path, namespace: &str) -> Self {
        let arguments = ["operator", "--worker-image", "bistro-worker:test", "--watch-namespace", namespace];
        Self {
            kubeconfig: kubeconfig.to_owned(),
            folder: tempfile::tempdir().expect("a folder"),
            arguments: arguments.map(str::to_owned).to_vec(),
            http: free_port(),
            child: None,
        }
        .with(&["--lease-namespace", namespace, "--log-format", "text"])
    }

    /// More arguments.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// The same, running.
    pub fn started(mut self) -> Self {
        self.start();
        self
    }

    /// Starts it, or starts it again.
    pub fn start(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(self.log()).expect("a log");
        self.http = free_port();
        let child = Command::new(program("bistro"))
            .args(["leash", "--parent", &std::process::id().to_string(), "--"])
            .arg(program("bistro"))
            .args(&self.arguments)
            .args(["--http", &self.http.to_string()])
            .env("KUBECONFIG", &self.kubeconfig)
            .env_remove("POD_NAME")
            .env_remove("POD_NAMESPACE")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        self.child = Some(child.expect("cargo test --workspace builds bistro"));
    }

    /// Ends it as `kill -9` does.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL).await;
    }

    /// Asks it to stop and waits for the end. The exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM).await
    }

    async fn signal(&mut self, signal: Signal) -> Option<i32> {
        let mut child = self.child.take()?;
        self.send(&child, signal);
        child.wait().await.ok()?.code()
    }

    fn send(&self, child: &Child, signal: Signal) {
        if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
            // Gone already is no fault.
            let _ = kill(Pid::from_raw(id), signal);
        }
    }

    /// Stops it in the middle of what it does, without ending it.
    pub fn freeze(&self) {
        self.child.iter().for_each(|child| self.send(child, Signal::SIGSTOP));
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.child.iter().for_each(|child| self.send(child, Signal::SIGCONT));
    }

    /// Waits for its end; the exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        // Taken only once it has ended: whoever drops this wait must not end the process with it.
        let code = self.child.as_mut()?.wait().await.ok()?.code();
        self.child = None;
        code
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref()?.id()
    }

    /// What it answers to GET `path`.
    pub async fn answer(&self, path: &str) -> Option<String> {
        ask(self.http, path).await.map(|body| String::from_utf8_lossy(&body).into_owned())
    }

    /// The sum of a metric over all its series whose labels contain `labels`.
    pub async fn metric(&self, name: &str, labels: &str) -> Option<f64> {
        let text = self.answer("/metrics").await?;
        let series = text.lines().filter(|line| line.starts_with(name) && line.contains(labels));
        Some(series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        tail(&self.log())
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}
