//! The processes of a cluster: each ends with this one, however this one ends, and may be stopped and started meanwhile.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{LazyLock, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::process::{self, program};

/// A command to start, and where to say how that went.
type Order = (Command, mpsc::SyncSender<io::Result<Child>>);

/// Starts every daemon. The kernel ends a leashed process with the *thread* that started it, and a test's thread ends
/// with the test, while a shared cluster does not: this thread lives as long as the process.
static STARTER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
    let (send, orders) = mpsc::channel::<Order>();
    std::thread::spawn(move || {
        for (mut command, answer) in orders {
            // Whoever asked may be gone; then nobody would end the process.
            if let Err(mpsc::SendError(Ok(mut child))) = answer.send(command.spawn()) {
                let _ = child.kill();
            }
        }
    });
    send
});

/// One program, whether it runs or not.
pub struct Daemon {
    /// What it is called in messages and in the name of its log.
    pub name: &'static str,
    command: Vec<OsString>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Daemon {
    /// Starts a program with its arguments, in `folder`, with a log there.
    pub fn start(name: &'static str, folder: &std::path::Path, command: Vec<OsString>) -> Self {
        let log = folder.join(format!("{name}.log"));
        let daemon = Self { name, command, log, child: Mutex::default() };
        daemon.start_again();
        daemon
    }

    /// Starts it as it was started before, unless it runs.
    pub fn start_again(&self) {
        let mut child = self.child();
        if child.is_some() {
            return;
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log");
        let mut command = Command::new(program("bistro"));
        command
            .args(["leash", "--parent", &std::process::id().to_string(), "--"])
            .args(&self.command)
            .current_dir(self.log.parent().expect("the log lies in a folder"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        let (answer, started) = mpsc::sync_channel(0);
        STARTER.send((command, answer)).expect("the thread never ends");
        let started = started.recv().expect("the thread answers");
        *child = Some(started.expect("cargo test --workspace builds bistro"));
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<Pid> {
        self.child().as_ref().and_then(|child| i32::try_from(child.id()).ok()).map(Pid::from_raw)
    }

    /// Sends a signal; one that is gone already takes none.
    pub fn signal(&self, signal: Signal) {
        if let Some(id) = self.id() {
            let _ = kill(id, signal);
        }
    }

    /// Stops it and waits until every thread stands: on a busy machine one may go on for a while after the signal.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        let began = Instant::now();
        while self.id().is_some_and(|id| !stands(id)) && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it and waits until it is gone.
    pub fn end(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Fails the test with the end of the log if the process has ended by itself.
    pub fn check(&self) {
        let ended = self.child().as_mut().and_then(|child| child.try_wait().ok().flatten());
        if let Some(status) = ended {
            panic!("{} has ended, {status}:\n{}", self.name, self.tail());
        }
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        process::tail(&self.log)
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether no thread of a process runs; also where there is none.
fn stands(id: Pid) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{id}/task")) else { return true };
    // The state is the letter behind the name, which may hold anything but ends with the last bracket.
    let state = |stat: &str| stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        matches!(state(&stat), Some('T' | 'Z' | 'X') | None)
    })
}
