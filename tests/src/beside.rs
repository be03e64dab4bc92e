//! Programs that are measured beside each other: they answer lines, one at a time, so that all meet the same machine.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// A process that answers each line with a line.
pub struct Beside {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Beside {
    /// A script of hack/bench-engine, with the Python that `make python` installs. It says its version first; `None` where
    /// Python or what the script needs is not installed.
    pub fn python<A: AsRef<OsStr>>(script: &str, arguments: &[A]) -> Option<(Self, String)> {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let python =
            std::env::var_os("BISTRO_PYTHON").map_or(home.join(".cache/bistro/python/bin/python"), PathBuf::from);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/bench-engine").join(script);
        let mut command = Command::new(python);
        command.arg(script).args(arguments);
        let mut started = Self::start(command)?;
        let version = started.line()?;
        Some((started, version))
    }

    /// Any program; `None` where it cannot be started.
    pub fn start(mut command: Command) -> Option<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().ok()?;
        let (input, output) = (child.stdin.take()?, BufReader::new(child.stdout.take()?));
        Some(Self { child, input, output })
    }

    /// A line of the program; `None` when it has ended.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).ok().filter(|read| *read > 0)?;
        Some(line.trim().to_owned())
    }

    /// The answer to one line.
    pub fn ask(&mut self, call: &str) -> String {
        writeln!(self.input, "{call}").expect("the program reads");
        self.line().expect("the program answers")
    }

    /// Seconds, where that is the answer.
    pub fn seconds(&mut self, call: &str) -> f64 {
        self.ask(call).parse().expect("the program answers with seconds")
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The middle one.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
