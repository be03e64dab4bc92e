//! Keeps one process running: starts it, starts it again with backoff, stops it when asked.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    sync::{mpsc::UnboundedSender, watch},
};

use super::{
    pod::{LocalPod, Restarts},
    port, text,
};
use crate::plan::contract;

/// A process that ran this long was well, so its next failure is a first one.
const HEALTHY: Duration = Duration::from_secs(60);
/// The end of a log in which the last line is looked for.
const TAIL_BYTES: u64 = 16 << 10;

/// What `up` wants of all processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// Run.
    Running,
    /// End within the grace of the contract (SIGTERM).
    Stopped,
    /// End at once (SIGKILL).
    Killed,
}

/// What happened to a process.
#[derive(Clone, Debug)]
pub enum Event {
    /// It runs; nodes serve HTTP at this address.
    Started { id: String, http: SocketAddr },
    /// It ended and starts again.
    Restarting { id: String, cause: String, after: Duration },
    /// A Job is done.
    Done { id: String },
    /// It ended for good; the line says why.
    Failed { id: String, line: String },
}

/// How processes are started.
#[derive(Clone, Debug)]
pub struct Supervisor {
    /// This program, which becomes each process (see [`super::leash`]).
    pub leash: PathBuf,
    /// First and longest wait before a process starts again.
    pub backoff: (Duration, Duration),
    /// Where events go.
    pub events: UnboundedSender<Event>,
    /// What is wanted.
    pub wanted: watch::Receiver<Wanted>,
}

impl Supervisor {
    /// Runs a process until it is done, failed or no longer wanted.
    pub async fn supervise(mut self, pod: LocalPod) {
        let mut wait = self.backoff.0;
        let mut failures = 0;
        while *self.wanted.borrow() == Wanted::Running {
            let started = Instant::now();
            let ended = match self.start(&pod) {
                Ok(mut child) => match self.until_end(&mut child).await {
                    Ok(status) => status,
                    Err(error) => return self.fail(&pod, format!("failed to wait for {}: {error}", pod.label)),
                },
                Err(error) => {
                    let program = pod.program.display();
                    return self.fail(
                        &pod,
                        format!("failed to start {program}: {error}: install it, or name its folder with --bin-dir"),
                    );
                }
            };
            if *self.wanted.borrow() != Wanted::Running {
                return;
            }
            failures += 1;
            match pod.restarts {
                Restarts::UntilDone(_) if ended.success() => return self.send(Event::Done { id: pod.id }),
                Restarts::UntilDone(limit) if failures > limit => return self.fail(&pod, last_line(&pod)),
                _ if ended.code() == Some(contract::PERMANENT) => return self.fail(&pod, last_line(&pod)),
                _ => {}
            }
            if started.elapsed() >= HEALTHY {
                wait = self.backoff.0;
            }
            self.send(Event::Restarting { id: pod.id.clone(), cause: describe(ended), after: wait });
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = self.beyond(Wanted::Running) => return,
            }
            wait = (wait * 2).min(self.backoff.1);
        }
    }

    fn start(&self, pod: &LocalPod) -> io::Result<Child> {
        if !pod.program.is_file() {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        let log = OpenOptions::new().create(true).append(true).open(pod.log())?;
        // Taken anew for each start: somebody else may hold the last one by now.
        let http = port::free()?;
        let arguments = pod.arguments.lock().map(|arguments| arguments.clone()).unwrap_or_default();
        let mut command = Command::new(&self.leash);
        command
            .arg("leash")
            .arg("--parent")
            .arg(std::process::id().to_string())
            .arg("--")
            .arg(&pod.program)
            .args(arguments);
        // What this program was given by its own surroundings is not meant for the pods.
        for name in contract::VARIABLES {
            command.env_remove(name);
        }
        command.envs(&pod.environment).env(contract::HTTP, http.to_string());
        // Its own process group: Ctrl-C in a terminal reaches `up` alone, which then stops everything in order.
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir(&pod.folder);
        let child = command.spawn()?;
        self.send(Event::Started { id: pod.id.clone(), http });
        Ok(child)
    }

    /// Waits for the end, and brings it about when the process is no longer wanted.
    async fn until_end(&mut self, child: &mut Child) -> io::Result<ExitStatus> {
        let mut sent = Wanted::Running;
        while sent != Wanted::Killed {
            tokio::select! {
                status = child.wait() => return status,
                wanted = self.beyond(sent) => sent = wanted,
            }
            let signal = if sent == Wanted::Stopped { Signal::SIGTERM } else { Signal::SIGKILL };
            if let Some(group) = child.id().and_then(|id| i32::try_from(id).ok()) {
                // Gone already is what is wanted.
                let _ = killpg(Pid::from_raw(group), signal);
            }
        }
        child.wait().await
    }

    /// Waits until more is wanted than was asked for. Without `up` there is nobody left to wait for.
    async fn beyond(&mut self, sent: Wanted) -> Wanted {
        self.wanted.wait_for(|wanted| *wanted > sent).await.map_or(Wanted::Killed, |wanted| *wanted)
    }

    fn fail(&self, pod: &LocalPod, line: String) {
        self.send(Event::Failed { id: pod.id.clone(), line });
    }

    fn send(&self, event: Event) {
        // The receiver goes last; when it is gone, nobody wants to know.
        let _ = self.events.send(event);
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "ended".to_owned(),
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The last line that a process wrote.
fn last_line(pod: &LocalPod) -> String {
    let line = tail(&pod.log()).unwrap_or_default();
    let line = line.lines().rev().map(str::trim).find(|line| !line.is_empty());
    line.map_or_else(|| format!("it wrote nothing, see {}", pod.log().display()), text::plain)
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
