//! What a process must do before it may carry its own machine's root disk.
//!
//! When the root file system comes through this process, it must not wait for that file system itself: not for a page of
//! its own code (so memory is locked), not after being stopped along with everything else at shutdown (so systemd is
//! told to spare it), not after being killed for memory (so it is the last candidate). Seen in trials with a diskless
//! guest: with the block-device process paused for one second, the `sleep` that was to end the pause could not load
//! from the disk that the pause had taken away.
//!
//! Order in `main`: [`mark_spared`] first of all, before threads, sockets or files, because it starts the program anew;
//! then [`prepare`] once, before the root disk is attached.
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::sys;

/// Where the kernel takes a process's OOM score from.
const OOM_SCORE_PATH: &str = "/proc/self/oom_score_adj";
/// Never chosen by the OOM killer (`proc(5)`, `OOM_SCORE_ADJ_MIN`).
const OOM_SCORE: &str = "-1000";

/// What [`prepare`] shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RootStorageOptions {
    /// A refused step is an error. Otherwise it is one warning: a test machine without privileges still runs.
    pub require: bool,
    /// Ignore SIGTERM too: for a process that serves the root disk until the machine goes down. Without it SIGTERM keeps
    /// its meaning, so that a service manager can stop the process.
    pub ignore_sigterm: bool,
}

/// A step that the system refused.
#[derive(Debug, thiserror::Error)]
#[error("root storage: cannot {step}: {error}; {remedy}")]
pub struct RootStorageError {
    /// What was tried.
    pub step: &'static str,
    /// What the system said.
    pub error: io::Error,
    /// What helps.
    pub remedy: &'static str,
}

/// Whether this process's name asks systemd to spare it.
pub fn is_spared() -> bool {
    std::env::args_os().next().is_some_and(|name| name.as_bytes().starts_with(b"@"))
}

/// Makes `argv[0]` begin with `@`, which tells systemd not to kill the process when the machine goes down or leaves its
/// initramfs (systemd, "Storage Daemons for the Root File System", ROOT_STORAGE_DAEMONS). systemd honours it for
/// processes of root only.
///
/// Decision: the program starts itself anew with another `argv[0]`. Writing over the old one in place needs the address
/// of `argv`, which Rust does not give, and a name at least as long. `exec` keeps the process id, arguments, environment
/// and inherited descriptors; it drops memory locks and threads, hence "first of all".
///
/// Returns only when the name is right already (`Ok`) or the step was refused.
pub fn mark_spared() -> Result<(), RootStorageError> {
    if is_spared() {
        return Ok(());
    }
    let refused = |error| RootStorageError {
        step: "start anew under a name that systemd spares",
        error,
        remedy: "mount /proc, or start the program with a name that begins with @",
    };
    match exec_spared() {
        Ok(never) => match never {},
        Err(error) => Err(refused(error)),
    }
}

fn exec_spared() -> io::Result<Infallible> {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let base = Path::new(&name).file_name().unwrap_or(OsStr::new("diskstream-device"));
    let mut spared = OsString::from("@");
    spared.push(base);
    // The file behind /proc/self/exe, so that a deleted or moved program (switch_root) still finds itself.
    Err(Command::new("/proc/self/exe").arg0(spared).args(arguments).exec())
}

/// Locks memory, ignores SIGHUP (and SIGTERM if asked), and asks the OOM killer for mercy. Returns the steps that were
/// refused, each logged once; with `require` the first of them is an error.
pub fn prepare(options: RootStorageOptions) -> Result<Vec<RootStorageError>, RootStorageError> {
    let mut refused = Vec::new();
    let mut note = |step, remedy, result: io::Result<()>| {
        let Err(error) = result else { return Ok(()) };
        let failure = RootStorageError { step, error, remedy };
        if options.require {
            return Err(failure);
        }
        tracing::warn!("{failure}");
        refused.push(failure);
        Ok(())
    };
    note(
        "keep its memory resident",
        "run as root, or set LimitMEMLOCK=infinity in its unit",
        sys::lock_memory(),
    )?;
    note("ignore SIGHUP", "please report this", sys::ignore_signal(libc::SIGHUP))?;
    if options.ignore_sigterm {
        note("ignore SIGTERM", "please report this", sys::ignore_signal(libc::SIGTERM))?;
    }
    note(
        "set its OOM score",
        "run as root, or set OOMScoreAdjust=-1000 in its unit",
        fs::write(OOM_SCORE_PATH, OOM_SCORE),
    )?;
    if !is_spared() {
        tracing::warn!(
            "root storage: this process's name does not begin with @, so systemd will kill it at shutdown"
        );
    }
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Output;

    const ROLE: &str = "DISKSTREAM_TEST_ROOT_STORAGE";

    /// Runs [`child`] in a process of its own: what it does must not happen to the other tests.
    fn run_child(role: &str) -> Output {
        let name = "front::root_storage::tests::child";
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .output()
            .unwrap()
    }

    /// Does nothing unless one of the tests below started it.
    #[test]
    fn child() {
        match std::env::var(ROLE).as_deref() {
            Ok("spared") => {
                mark_spared().unwrap();
                let line = fs::read("/proc/self/cmdline").unwrap();
                println!(
                    "name={}",
                    String::from_utf8_lossy(line.split(|b| *b == 0).next().unwrap())
                );
            }
            Ok("prepare") => {
                let options = RootStorageOptions { require: false, ignore_sigterm: true };
                let refused = prepare(options).unwrap();
                let status = fs::read_to_string("/proc/self/status").unwrap();
                let wanted = ["SigIgn:", "VmLck:"];
                for line in status.lines().filter(|line| wanted.iter().any(|w| line.starts_with(w)))
                {
                    println!("{line}");
                }
                println!("oom={}", fs::read_to_string(OOM_SCORE_PATH).unwrap().trim());
                println!("refused={}", refused.len());
            }
            _ => {}
        }
    }

    #[test]
    fn the_program_starts_anew_under_a_spared_name() {
        let output = run_child("spared");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        assert!(text.contains("name=@diskstream_device"), "{text}");
    }

    #[test]
    fn each_step_takes_effect_or_is_reported() {
        let output = run_child("prepare");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        let ignored = text.lines().find_map(|line| line.split_once("SigIgn:")).unwrap().1.trim();
        let ignored = u64::from_str_radix(ignored, 16).unwrap();
        // Bit n-1 is signal n (proc(5)): SIGHUP 1, SIGTERM 15.
        assert_eq!(ignored & 0x4001, 0x4001, "{text}");
        if !text.contains("refused=0") {
            println!("SKIPPED in part: this machine refuses some steps: {text}");
            return;
        }
        assert!(text.contains("oom=-1000"), "{text}");
        let locked = text.lines().find_map(|line| line.split_once("VmLck:")).unwrap().1;
        assert!(!locked.trim().starts_with("0 kB"), "{text}");
    }
}
