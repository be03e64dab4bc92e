//! Processes that end with their parent, however it ends.
//!
//! `up` starts each process as `bistro leash --parent PID PROGRAM ...`. The leash asks the kernel for SIGKILL
//! when its parent dies and then becomes the program, which keeps that request. So a killed `up` leaves nothing
//! running, without a line of unsafe code and without anything that the program would have to know.

use std::{
    ffi::OsString,
    io,
    os::unix::process::{CommandExt, parent_id},
    path::Path,
    process::Command,
};

/// Becomes the program; returns only if that failed. `parent` is the process id of whoever started this one.
pub fn become_program(parent: u32, program: &Path, arguments: &[OsString]) -> LeashError {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL) {
        return LeashError::Refused(error.into());
    }
    // The parent may have died before the request: then nobody is left to send the signal.
    if parent_id() != parent {
        return LeashError::Orphan;
    }
    LeashError::Exec(program.display().to_string(), Command::new(program).args(arguments).exec())
}

/// Why a process could not become the program.
#[derive(Debug, thiserror::Error)]
pub enum LeashError {
    /// The kernel refused the request.
    #[error("failed to tie the process to its parent")]
    Refused(#[source] io::Error),
    /// The parent is gone.
    #[error("the parent has ended already")]
    Orphan,
    /// The program does not start.
    #[error("failed to run {0}")]
    Exec(String, #[source] io::Error),
}
