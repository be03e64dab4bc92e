//! A temporary folder that is removed even if this process is killed.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Waits for the end of standard input, which comes when this process ends, and clears up. Whatever still writes into
/// the folder is being ended at that moment, so one attempt may not be enough. The control groups of a node go with it,
/// and the interface, which would stay until the last connection over it is given up.
const CLEAR: &str = r#"
PATH=$PATH:/usr/sbin:/sbin
read -r _
[ ! -f "$1/interface" ] || ip link delete "$(cat "$1/interface")" 2>/dev/null
for _ in $(seq 100); do
    for group in /sys/fs/cgroup/"$2" /sys/fs/cgroup/*/"$2"; do
        [ -d "$group" ] && find "$group" -depth -type d -exec rmdir {} + 2>/dev/null
    done
    rm -rf -- "$1" 2>/dev/null && [ -z "$(ls -d /sys/fs/cgroup/"$2" /sys/fs/cgroup/*/"$2" 2>/dev/null)" ] && exit 0
    sleep 0.1
done
echo "left behind: $1" >&2
"#;

/// The folder of one cluster.
pub struct Folder {
    path: PathBuf,
    cleaner: Child,
}

impl Folder {
    /// A new folder. Its name is unique on this machine; [`Folder::name`] serves for other things that need one.
    pub fn new() -> Self {
        let path = tempfile::Builder::new().prefix("bistro-").tempdir().expect("a temporary folder").keep();
        let name = path.file_name().expect("it has a name").to_owned();
        let mut command = Command::new("sh");
        command.args(["-c", CLEAR, "sh"]).arg(&path).arg(name).current_dir("/");
        // Ctrl-C ends everything in this one's group, and this must outlive it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
        let cleaner = command.spawn().expect("a shell");
        Self { path, cleaner }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its last component.
    pub fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).expect("letters and digits")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.cleaner.stdin.take());
        let _ = self.cleaner.wait();
    }
}
