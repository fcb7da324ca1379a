//! The Wireshark dissector on a capture of a real run: every datagram is understood.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;

use super::export::{Export, PORTS, Spec};
use super::small_image;
use crate::ports;
use crate::proc::{self, Proc};
use crate::runner::{Job, skip};
use crate::scratch::Scratch;

const WITHIN: Duration = Duration::from_mins(1);
/// The dissector, and the name under which it registers.
const SCRIPT: &str = "docs/diskstream.lua";
const PROTOCOL: &str = "diskstream";

/// The step.
pub fn run(job: &mut Job<'_>) -> anyhow::Result<()> {
    job.need_tools(&["tshark", "nbdcopy"])?;
    if job.ctx.stand_in {
        return Err(skip("the stand-in sends no datagrams"));
    }
    if !job.ctx.can_install {
        return Err(skip("capturing needs root"));
    }
    let scratch = Scratch::small()?;
    let pcap = scratch.path("run.pcapng");
    let export = capture(job, &pcap)?;
    let script = job.ctx.root.join(SCRIPT);
    let mut tshark = |more: &[&str]| {
        let mut command = proc::command("tshark");
        command
            .arg("-r")
            .arg(&pcap)
            .arg("-X")
            .arg(format!("lua_script:{}", script.display()))
            .args(more);
        job.run(&mut command, WITHIN)
    };
    let ours = tshark(&["-Y", PROTOCOL, "-T", "fields", "-e", "_ws.col.Info"])?;
    let all = tshark(&["-T", "fields", "-e", "frame.number"])?;
    let bad = tshark(&["-Y", "_ws.malformed || _ws.lua.error"])?;
    let tree = tshark(&["-Y", PROTOCOL, "-V", "-c", "40"])?;
    job.check("every captured datagram is dissected", |job| {
        let (ours, all) = (ours.lines().count(), all.lines().count());
        job.note(format!("{ours} of {all} datagrams"));
        anyhow::ensure!(ours > 20 && ours == all, "{ours} of {all} datagrams are dissected");
        Ok(())
    });
    job.check("nothing is malformed", |_| {
        anyhow::ensure!(bad.trim().is_empty(), "malformed:\n{bad}");
        Ok(())
    });
    job.check("login and reads are named", |_| {
        for word in ["LoginStart", "HandshakeReply", "ReadData", "SessionClosed"] {
            anyhow::ensure!(ours.contains(word), "no {word} in any datagram");
        }
        anyhow::ensure!(tree.contains("Content id") || tree.contains("content id"), "{tree}");
        Ok(())
    });
    export.finish()
}

/// Captures a login and a copy of the small image.
fn capture(job: &mut Job<'_>, pcap: &std::path::Path) -> anyhow::Result<Export> {
    let image = small_image(job)?;
    let mut command = proc::command("tshark");
    // Chosen beforehand, so that nobody else's datagrams on loopback get into the capture.
    let first = ports::udp_run(&[Ipv4Addr::LOCALHOST.into()], PORTS)?;
    let filter = format!("udp portrange {first}-{}", first + PORTS - 1);
    // It shows each datagram while it captures, so that the end of what is wanted can be awaited.
    let script = job.ctx.root.join(SCRIPT);
    anyhow::ensure!(script.exists(), "{SCRIPT} is missing: `cargo xtask protocol` writes it");
    command.args(["-i", "lo", "-f", &filter, "-P", "-l", "-w"]).arg(pcap);
    command.arg("-X").arg(format!("lua_script:{}", script.display()));
    let mut tshark = Proc::start(&mut command, "tshark", &job.log)?;
    tshark
        .wait_for("Capture started", WITHIN)
        .or_else(|_| tshark.wait_for("Capturing on", WITHIN))?;
    let mut export = Export::start(job, Spec { first_port: Some(first), ..Spec::plain(&image) })?;
    let mut copy = proc::command("qemu-io");
    copy.args(["-r", "-f", "raw", "-c", "read 0 16M"]).arg(export.uri());
    job.run(&mut copy, WITHIN)?;
    export.close_device()?;
    tshark.wait_for("SessionClosed", WITHIN).context("the end of the session in the capture")?;
    tshark.signal("INT")?;
    let status = tshark.wait_exit(WITHIN)?;
    anyhow::ensure!(status.success(), "tshark ended with {status}");
    let size = std::fs::metadata(pcap).context("the capture")?.len();
    job.say(&format!("captured {size} bytes"));
    Ok(export)
}
