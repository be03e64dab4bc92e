//! A program that is measured: started, asked, and ended.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::process::{ask, free_port, program};

/// /proc counts CPU time in these; the number is fixed for programs on Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// A program that takes longer to end or to answer is broken.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two looks at a program.
const LOOK: Duration = Duration::from_millis(5);

/// One process of an operator.
pub struct Program {
    child: Child,
    metrics: std::net::SocketAddr,
    log: PathBuf,
}

/// How an operator is started.
pub struct Start<'a> {
    /// File of its user.
    pub kubeconfig: &'a Path,
    /// Where it serves metrics.
    pub metrics: std::net::SocketAddr,
    /// A second port, for those that want one.
    pub health: std::net::SocketAddr,
    /// Name of this replica where it takes part in leader election.
    pub replica: Option<&'static str>,
    /// No requests to pods.
    pub quiet: bool,
}

/// MiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident now.
    pub rss: f64,
    /// The most that ever was.
    pub peak: f64,
}

impl Program {
    /// Starts what `command` says, to end with this thread, with its log in `folder`.
    pub fn start(
        folder: &Path,
        kubeconfig: &Path,
        replica: Option<&'static str>,
        quiet: bool,
        command: fn(&Start<'_>) -> Command,
    ) -> Self {
        let start = Start { kubeconfig, metrics: free_port(), health: free_port(), replica, quiet };
        let asked = command(&start);
        let log = folder.join(format!("measured-{}.log", replica.unwrap_or("alone")));
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log");
        let mut leashed = Command::new(program("bistro"));
        leashed.args(["leash", "--parent", &std::process::id().to_string(), "--"]);
        leashed.arg(asked.get_program()).args(asked.get_args()).env("KUBECONFIG", kubeconfig).current_dir(folder);
        for (name, value) in asked.get_envs() {
            leashed.env(name, value.unwrap_or_default());
        }
        leashed.stdin(Stdio::null()).stdout(file.try_clone().expect("a second handle")).stderr(file);
        let child = leashed.spawn().expect("cargo test --workspace builds bistro");
        Self { child, metrics: start.metrics, log }
    }

    /// CPU seconds since its start.
    pub fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("the program runs");
        // The name may hold anything, so count from its closing bracket.
        let (_, fields) = stat.rsplit_once(')').expect("the name stands in brackets");
        let ticks = |field: usize| -> f64 {
            fields.split_whitespace().nth(field).and_then(|text| text.parse().ok()).expect("a number")
        };
        (ticks(11) + ticks(12)) / TICKS_PER_SECOND
    }

    /// What it holds.
    pub fn memory(&self) -> Memory {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the program runs");
        let mib = |name: &str| -> f64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux says it");
            line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
        };
        Memory { rss: mib("VmRSS:"), peak: mib("VmHWM:") }
    }

    /// Reconciles since its start, by the metric that all of them have; 0 while it does not answer.
    pub async fn reconciles(&self) -> f64 {
        let text = ask(self.metrics, "/metrics").await.unwrap_or_default();
        sum(&String::from_utf8_lossy(&text), "controller_runtime_reconcile_total")
    }

    /// Waits until `path` at its metrics address is answered: metrics with any, what asks for its health with ok.
    pub async fn answers(&mut self, path: &str) {
        let began = Instant::now();
        let right = |answer: &[u8]| if path == "/metrics" { !answer.is_empty() } else { answer.starts_with(b"ok") };
        while !ask(self.metrics, path).await.is_some_and(|answer| right(&answer)) {
            self.check();
            assert!(began.elapsed() < PATIENCE, "no answer at {path}:\n{}", self.tail());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Fails where it has ended.
    pub fn check(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child") {
            panic!("the operator has ended, {status}:\n{}", self.tail());
        }
    }

    /// Sends a signal and waits until it is gone: how long that took.
    pub async fn end(mut self, signal: Signal) -> Duration {
        self.check();
        let began = Instant::now();
        let id = i32::try_from(self.child.id()).expect("Linux numbers processes so");
        kill(Pid::from_raw(id), signal).expect("the program runs");
        loop {
            // Some peers call a clean end an error.
            if self.child.try_wait().expect("a child").is_some() {
                return began.elapsed();
            }
            assert!(began.elapsed() < PATIENCE, "it does not end:\n{}", self.tail());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sum over all labels of a metric.
fn sum(text: &str, metric: &str) -> f64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(metric)?;
        rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok()).flatten()
    });
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        let text =
            "# HELP total x\ntotal{result=\"error\"} 2\ntotal{result=\"success\"} 3\ntotal_seconds 9\ntotal 1e1\n";
        assert_eq!(sum(text, "total"), 15.0);
        assert_eq!(sum(text, "other"), 0.0);
    }
}
