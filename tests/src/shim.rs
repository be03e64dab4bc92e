//! A wrong clock and a full disk for one process: a small library before libc, which Rust's standard library calls too.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::Command,
};

const SOURCE: &str = include_str!("shim.c");

/// The compiled library.
pub struct Shim {
    library: PathBuf,
}

impl Shim {
    /// Compiles it into `folder` with the C compiler that building the workspace needs too.
    pub fn compile(folder: &Path) -> io::Result<Self> {
        let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
        std::fs::write(&source, SOURCE)?;
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let built = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(&source)
            .arg("-ldl")
            .output()?;
        if built.status.success() {
            return Ok(Self { library });
        }
        Err(io::Error::other(String::from_utf8_lossy(&built.stderr).into_owned()))
    }

    /// Variables of a process whose wall clock differs by so many seconds.
    pub fn clock(&self, seconds: i64) -> Vec<(&'static str, OsString)> {
        vec![self.loaded(), ("FAULTS_CLOCK_SECONDS", seconds.to_string().into())]
    }

    /// Variables of a process that finds no room below `folder` while the file `flag` exists.
    pub fn disk(&self, folder: &Path, flag: &Path) -> Vec<(&'static str, OsString)> {
        vec![self.loaded(), ("FAULTS_FOLDER", folder.into()), ("FAULTS_FULL", flag.into())]
    }

    fn loaded(&self) -> (&'static str, OsString) {
        ("LD_PRELOAD", self.library.clone().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(variables: &[(&'static str, OsString)], script: &str) -> (bool, String) {
        let ran = Command::new("sh").arg("-c").arg(script).envs(variables.iter().cloned()).output().expect("a shell");
        (ran.status.success(), String::from_utf8_lossy(&ran.stdout).trim().to_owned())
    }

    #[test]
    fn the_clock_is_off_and_the_disk_is_full_where_and_when_asked() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let shim = Shim::compile(folder.path()).expect("a C compiler");
        let seconds = |variables: &[_]| run(variables, "date +%s").1.parse::<i64>().expect("seconds");
        let (right, ahead) = (seconds(&[]), seconds(&shim.clock(3600)));
        assert!((3600..3700).contains(&(ahead - right)), "{right} {ahead}");

        let (state, flag) = (folder.path().join("state"), folder.path().join("full"));
        std::fs::create_dir(&state).expect("a folder");
        let variables = shim.disk(&state, &flag);
        let script = format!("echo x > {0}/file && echo y > {1}/beside", state.display(), folder.path().display());
        assert!(run(&variables, &script).0, "there is room");
        std::fs::write(&flag, "").expect("the flag");
        assert!(!run(&variables, &script).0, "there is none");
        assert!(run(&variables, &format!("echo y > {}/beside", folder.path().display())).0, "elsewhere there is");
    }
}
