//! Step `install`: what the other steps need from Debian.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use crate::proc;
use crate::runner::{Job, skip};

/// A program and the Debian package that has it.
const TOOLS: &[(&str, &str)] = &[
    ("nbdcopy", "libnbd-bin"),
    ("nbdinfo", "libnbd-bin"),
    ("fio", "fio"),
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("qemu-nbd", "qemu-utils"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mmdebstrap", "mmdebstrap"),
    ("mcopy", "mtools"),
    ("mkfs.fat", "dosfstools"),
    ("sfdisk", "fdisk"),
    ("mke2fs", "e2fsprogs"),
    ("depmod", "kmod"),
    ("syslinux", "syslinux"),
    ("tshark", "tshark"),
    ("promtool", "prometheus"),
    ("curl", "curl"),
    ("strace", "strace"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nbdkit", "nbdkit"),
    ("nbd-server", "nbd-server"),
    ("tgtd", "tgt"),
    ("vblade", "vblade"),
    ("nbdfuse", "nbdfuse"),
    ("fusermount3", "fuse3"),
];

/// Packages that no program stands for. `syslinux-common` has the boot sector's code.
const MORE_PACKAGES: &[(&str, &str)] = &[("/usr/lib/syslinux/mbr/mbr.bin", "syslinux-common")];

/// Packages that must come from bookworm-backports together: one qemu does not live with another's parts, and the machine
/// may have its `qemu-utils` from there already.
const FROM_BACKPORTS: &[&str] =
    &["qemu-utils", "qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"];

/// Where a program is.
pub fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(tool))
        .find(|file| file.is_file())
}

/// The packages to install for these programs, as words for a message.
pub fn packages_of(tools: &[&str]) -> String {
    let mut names: Vec<_> =
        TOOLS.iter().filter(|(t, _)| tools.contains(t)).map(|(_, p)| *p).collect();
    names.dedup();
    if names.is_empty() {
        "no Debian package".to_owned()
    } else {
        format!("apt install {}", names.join(" "))
    }
}

/// Whether this process may install packages: root, on Debian.
pub fn possible() -> bool {
    is_root() && os_release("ID").as_deref() == Some("debian") && find("apt-get").is_some()
}

/// Whether this process is root's.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

fn os_release(key: &str) -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches('"').to_owned())
}

/// The step.
pub fn run(job: &mut Job<'_>) -> anyhow::Result<()> {
    let mut missing: Vec<&str> = TOOLS
        .iter()
        .filter(|(tool, _)| find(tool).is_none())
        .chain(MORE_PACKAGES.iter().filter(|(file, _)| !PathBuf::from(file).exists()))
        .map(|(_, package)| *package)
        .collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        job.note("everything is there");
        return Ok(());
    }
    if !possible() {
        return Err(skip(format!(
            "not root on Debian; steps that need them are skipped: apt install {}",
            missing.join(" ")
        )));
    }
    let backports = os_release("VERSION_CODENAME").as_deref() == Some("bookworm")
        && missing.iter().any(|p| FROM_BACKPORTS.contains(p));
    // Without its lists apt does not even tell its mirrors.
    apt(job, &["update", "-qq"])?;
    if backports {
        if add_backports(job)? {
            apt(job, &["update", "-qq"])?;
        }
        missing.retain(|p| !FROM_BACKPORTS.contains(p));
    }
    let qemu = FROM_BACKPORTS.iter().map(|p| format!("{p}/bookworm-backports"));
    let packages: Vec<String> = if backports { qemu.collect() } else { Vec::new() };
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend(packages.iter().map(String::as_str).chain(missing.iter().copied()));
    apt(job, &args)?;
    job.note(format!("installed {}", args[4..].join(" ")));
    Ok(())
}

fn apt(job: &mut Job<'_>, args: &[&str]) -> anyhow::Result<()> {
    let mut command = proc::command("apt-get");
    // Another apt may be at work; waiting for its lock beats failing.
    command
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive");
    job.run(&mut command, Duration::from_mins(10))?;
    Ok(())
}

/// Adds the backports suite on the mirror that the machine's own sources name; whether it was not there.
fn add_backports(job: &mut Job<'_>) -> anyhow::Result<bool> {
    let format = "$(RELEASE) $(REPO_URI)";
    let mut command = proc::command("apt-get");
    command.args(["indextargets", "--format", format, "Created-By: Packages"]);
    let targets = job.run(&mut command, Duration::from_mins(1))?;
    let mirror_of = |suite: &str| {
        targets
            .lines()
            .find_map(|line| line.strip_prefix(suite)?.strip_prefix(' ').map(str::to_owned))
    };
    if mirror_of("bookworm-backports").is_some() {
        return Ok(false);
    }
    let mirror =
        mirror_of("bookworm").context("this machine's apt sources name no bookworm mirror")?;
    let entry = format!(
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} bookworm-backports main\n"
    );
    let path = "/etc/apt/sources.list.d/diskstream-backports.list";
    fs::write(path, entry).with_context(|| format!("writing {path}"))?;
    job.note(format!(
        "added bookworm-backports in {path}, for a qemu that fits the installed qemu-utils"
    ));
    Ok(true)
}
