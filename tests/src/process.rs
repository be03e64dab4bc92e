//! Nodes as processes: the worker that was built, with the pod contract's variables, to be killed and started again.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use bistro_api::{NodeStatus, Role, Settings};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
};

/// Largest answer of a node that is read.
const LARGEST: u64 = 1 << 20;
/// The end of a log that a failed test shows.
const TAIL: u64 = 4 << 10;

/// What a node answers to GET `path`, without the headers.
pub async fn ask(http: SocketAddr, path: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(http).await.ok()?;
    // 1.0: the answer comes in one piece.
    let request = format!("GET {path} HTTP/1.0\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.take(LARGEST).read_to_end(&mut answer).await.ok()?;
    let body = answer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    Some(answer.split_off(body))
}

/// A port of loopback for a process that is told where to listen.
pub fn free_port() -> SocketAddr {
    bistro::up::port::free().expect("a free port")
}

/// A program of this workspace. Cargo builds the programs of all members that have integration tests before it runs any,
/// into the folder above the tests' own.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program has a path");
    let folder = test.parent().and_then(Path::parent).expect("cargo puts tests into target/PROFILE/deps");
    folder.join(name)
}

/// The end of a log; empty where there is none.
pub fn tail(log: &Path) -> String {
    let tail = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&tail().unwrap_or_default()).into_owned()
}

/// One node and its folder, whether its process runs or not.
pub struct Worker {
    /// What it does.
    pub role: Role,
    folder: PathBuf,
    variables: Vec<(&'static str, OsString)>,
    http: SocketAddr,
    child: Option<Child>,
    /// How it ended, if nobody here ended it.
    ended: Option<ExitStatus>,
}

impl Worker {
    /// A node with a folder of its own; `settings.name` gives it its development keys. It does not run yet.
    pub fn new(role: Role, folder: PathBuf, settings: &Settings) -> Self {
        std::fs::create_dir_all(folder.join("state")).expect("a folder");
        let text = serde_json::to_string(settings).expect("plain data");
        std::fs::write(folder.join("settings.yaml"), text).expect("JSON is YAML");
        Self { role, folder, variables: Vec::new(), http: free_port(), child: None, ended: None }
    }

    /// Adds variables to the pod contract's.
    pub fn with(mut self, variables: Vec<(&'static str, OsString)>) -> Self {
        self.variables.extend(variables);
        self
    }

    /// Its one folder that outlives the process.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Starts the process, or starts it again on what it left. It ends with this one, however this one ends.
    pub fn start(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(self.log()).expect("a log");
        // Taken anew: somebody else may hold the last one by now.
        self.http = free_port();
        let child = Command::new(program("bistro"))
            .args(["leash", "--parent", &std::process::id().to_string(), "--"])
            .arg(program("bistro-worker"))
            .arg(self.role.as_str())
            .env("BISTRO_SETTINGS", self.folder.join("settings.yaml"))
            .env("BISTRO_SECRETS", self.folder.join("no secrets: development keys"))
            .env("BISTRO_STATE", self.state())
            .env("BISTRO_HTTP", self.http.to_string())
            .env("BISTRO_THREADS", "1")
            .env("BISTRO_ORDINAL", "0")
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        self.child = Some(child.expect("cargo test --workspace builds bistro and bistro-worker"));
        self.ended = None;
    }

    /// Ends it as `kill -9` does.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL).await;
    }

    /// Asks it to stop and waits for the end.
    pub async fn stop(&mut self) -> Option<ExitStatus> {
        self.signal(Signal::SIGTERM).await
    }

    async fn signal(&mut self, signal: Signal) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
            // Gone already is no fault.
            let _ = kill(Pid::from_raw(id), signal);
        }
        child.wait().await.ok()
    }

    /// How it ended by itself, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
            self.child = None;
            self.ended = Some(status);
        }
        self.ended
    }

    /// Whether there is a process.
    pub fn runs(&mut self) -> bool {
        self.child.is_some() && self.ended().is_none()
    }

    /// What the node says of itself, if it answers.
    pub async fn status(&self) -> Option<NodeStatus> {
        serde_json::from_slice(&ask(self.http, "/status").await?).ok()
    }

    /// The last line of its log: of a node that ended by itself, why.
    pub fn last_line(&self) -> String {
        self.tail().lines().last().unwrap_or_default().to_owned()
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        tail(&self.log())
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}
