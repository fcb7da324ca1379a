//! A Debian virtual machine boots from the export, to a login prompt and through a login to a clean end.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use super::export::{Export, Spec};
use super::http;
use crate::clock;
use crate::image::sha256;
use crate::proc::{self, Proc};
use crate::runner::{Job, skip};

/// The recipe of the disk; its hash names the kept disk.
const RECIPE: &str = include_str!("../../scripts/mk-vm-image.sh");
/// Measured 45 s with an idle machine, nearly all of it unpacking packages.
const BUILD_WITHIN: Duration = Duration::from_mins(10);
/// Measured 25 s (idle) to 41 s (two compilers beside it) in software emulation.
const BOOT_WITHIN: Duration = Duration::from_mins(5);
/// A guest with hardware support says something long before this.
const KVM_TRIAL: Duration = Duration::from_secs(10);

/// Builds the disk, if it is not there.
pub fn build_image(job: &mut Job<'_>) -> anyhow::Result<()> {
    let path = image_path(job)?;
    if path.exists() {
        job.note("kept from an earlier run");
        return Ok(());
    }
    job.need_tools(&["mmdebstrap", "mcopy", "mkfs.fat", "sfdisk", "mke2fs", "depmod", "syslinux"])?;
    if !job.ctx.can_install {
        return Err(skip("building it needs root on Debian (dpkg runs in a chroot)"));
    }
    let script = job.ctx.root.join("xtask/scripts/mk-vm-image.sh");
    job.run(proc::command("bash").arg(script).arg(&path), BUILD_WITHIN)?;
    let kept = fs::metadata(&path).context("the disk after its building")?;
    job.note(format!("{} MiB", kept.len() >> 20));
    Ok(())
}

fn image_path(job: &Job<'_>) -> anyhow::Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    RECIPE.hash(&mut hasher);
    Ok(job.ctx.images()?.join(format!("vm-{:016x}.img", hasher.finish())))
}

/// The step: a boot without loss, and one with 2 % of all datagrams lost.
pub fn run(job: &mut Job<'_>) -> anyhow::Result<()> {
    job.need_tools(&["qemu-system-x86_64"])?;
    let image = image_path(job)?;
    let before = sha256(job, &image)?;
    let accel = accelerator(job, &image)?;
    job.note(format!("accelerator {accel}"));
    let spec = Spec { write_cache: "ram:512M", ..Spec::plain(&image) };
    job.check("boots from the export to a login", |job| boot(job, spec, accel, None));
    job.check("boots with 2 % of datagrams lost", |job| {
        boot(job, Spec { loss: Some("0.02"), ..spec }, accel, None)
    });
    job.check("survives the death of its node in the middle of the boot", |job| {
        boot(job, Spec { nodes: 2, ..spec }, accel, Some("KILL"))
    });
    job.check("the image is untouched", |job| {
        let after = sha256(job, &image)?;
        anyhow::ensure!(after == before, "SHA-256 was {before}, and is {after}");
        Ok(())
    });
    Ok(())
}

/// KVM if the guest's kernel talks under it within ten seconds, else software emulation. That /dev/kvm opens says nothing:
/// there are hosts where it does and no stock kernel runs.
fn accelerator(job: &mut Job<'_>, image: &Path) -> anyhow::Result<&'static str> {
    let tcg = "tcg,thread=multi";
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(tcg);
    }
    let drive = format!(
        "driver=raw,node-name=d0,read-only=on,file.driver=file,file.filename={}",
        image.display()
    );
    let mut guest = start_guest(job, "kvm-trial", "kvm", &["-snapshot"], &drive)?;
    match guest.wait_for("Debian GNU/Linux", KVM_TRIAL) {
        Ok(_) => Ok("kvm"),
        Err(e) => {
            job.say(&format!("KVM does not carry this guest: {e:#}"));
            Ok(tcg)
        }
    }
}

fn start_guest(
    job: &Job<'_>,
    name: &str,
    accel: &str,
    more: &[&str],
    drive: &str,
) -> anyhow::Result<Proc> {
    let mut command = proc::command("qemu-system-x86_64");
    let cpu = if accel == "kvm" { "host" } else { "max" };
    command
        .args(["-accel", accel, "-cpu", cpu, "-smp", "2", "-M", "q35", "-m", "1024"])
        .args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"])
        .args(["-device", "virtio-rng-pci", "-blockdev", drive])
        .args(["-device", "virtio-blk-pci,drive=d0,bootindex=0"])
        .args(more);
    Proc::start(&mut command, name, &job.log)
}

/// The boot is quiet, so its middle is found by what the node has served. A whole boot to the login prompt takes about
/// 3,000 reads without loss (guessed from 9,116 with all checks, measured).
const MIDDLE_OF_BOOT_READS: f64 = 1500.0;

/// Boots to a login and checks the guest from inside; `lose` is the signal that the serving node gets in the middle.
fn boot(job: &mut Job<'_>, spec: Spec<'_>, accel: &str, lose: Option<&str>) -> anyhow::Result<()> {
    let mut export = Export::start(job, spec)?;
    let drive = format!(
        "driver=nbd,node-name=d0,export=,server.type=unix,server.path={}",
        export.socket.display()
    );
    let began = clock::now();
    let mut guest = start_guest(job, "guest", accel, &[], &drive)?;
    if let Some(signal) = lose {
        lose_serving(job, &mut export, signal)?;
        anyhow::ensure!(!guest.text().contains("login:"), "the boot was over before the node went");
    }
    guest.wait_for("login:", BOOT_WITHIN)?;
    let login = began.elapsed().as_secs_f64();
    guest.type_in("root\n")?;
    guest.wait_for("root@dsvm:~#", Duration::from_mins(1))?;
    let report = inside(&mut guest)?;
    let checked = began.elapsed().as_secs_f64();
    guest.type_in("systemctl poweroff\n")?;
    let status = guest.wait_exit(Duration::from_mins(2)).context("powering the guest off")?;
    anyhow::ensure!(status.success(), "qemu ended with {status}");
    let text = guest.text();
    for bad in ["I/O error", "EXT4-fs error", "Buffer I/O", "Kernel panic", "blocked for more than"]
    {
        anyhow::ensure!(!text.contains(bad), "the guest says {bad:?}; see the log");
    }
    let off = began.elapsed().as_secs_f64();
    let loss = spec.loss.unwrap_or("0");
    job.note(format!(
        "loss {loss}: login prompt {login:.1} s, checked {checked:.1} s, off {off:.1} s; {report}"
    ));
    if let Some(node) = export.nodes.first().filter(|_| lose.is_none()) {
        let page = http::get(&node.http, "/metrics")?.body;
        job.say(&page);
        let again = http::metric(&page, "diskstream_reads_again_total").unwrap_or(0.0);
        let reads = http::metric(&page, "diskstream_reads_total").unwrap_or(0.0);
        job.note(format!(
            "loss {loss}: the node counts {reads:.0} reads, {again:.0} of them asked again"
        ));
        // Otherwise the run would prove nothing: the datagrams went past the relay, or it lost none.
        anyhow::ensure!(spec.loss.is_none() || again > 0.0, "nothing was lost on the way");
    }
    export.finish()
}

/// Ends the node that has served most.
fn lose_serving(job: &mut Job<'_>, export: &mut Export, signal: &str) -> anyhow::Result<()> {
    let (busy, reads) = super::farm::poll("the middle of the boot", BOOT_WITHIN, || {
        let reads = super::failover::reads_of(export)?;
        let busy = usize::from(reads[1] > reads[0]);
        Ok((reads[busy] >= MIDDLE_OF_BOOT_READS).then_some((busy, reads)))
    })?;
    export.nodes[busy].proc.signal(signal)?;
    export.nodes[busy].proc.wait_exit(Duration::from_secs(20))?;
    job.note(format!("{signal} to node{} after {:.0} reads", busy + 1, reads[busy]));
    Ok(())
}

/// Asks the guest whether its system came up whole, whether what it reads is right by checksum, and whether what it writes
/// comes back from the disk.
fn inside(guest: &mut Proc) -> anyhow::Result<String> {
    // The words are split in what is typed, so that the echo of the typing is not taken for the answer.
    let lines = [
        "stty -echo; export SYSTEMD_PAGER=",
        "state=$(systemctl is-system-running --wait); failed=$(systemctl --failed --no-legend | wc -l)",
        "cd / && md5sum --quiet -c /root/manifest.md5 && sums=right || sums=wrong",
        "dd if=/dev/urandom of=/root/written bs=1M count=24 status=none && a=$(md5sum </root/written)",
        "sync; echo 3 >/proc/sys/vm/drop_caches; b=$(md5sum </root/written)",
        "[ \"$a\" = \"$b\" ] && kept=yes || kept=no",
        "root=$(findmnt -no SOURCE,OPTIONS / | cut -d, -f1 | tr -s ' ' ,)",
        "echo DISKSTREAM'-GUEST' state=$state failed=$failed sums=$sums kept=$kept root=$root end",
    ];
    for line in lines {
        guest.type_in(line)?;
        guest.type_in("\n")?;
    }
    let line = guest.wait_for("DISKSTREAM-GUEST", Duration::from_mins(3))?;
    let line = if line.contains(" end") {
        line
    } else {
        format!("{line}{}", guest.wait_for(" end", Duration::from_secs(10))?)
    };
    for wanted in ["state=running", "failed=0", "sums=right", "kept=yes", "root=/dev/vda2,rw"] {
        if !line.contains(wanted) {
            bail!("the guest should say {wanted}, and says: {line}");
        }
    }
    let at = line.find("state=").unwrap_or(0);
    Ok(line[at..].trim_end_matches(" end").trim().to_owned())
}
