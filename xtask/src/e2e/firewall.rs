//! Each port that a firewall may close, closed by a real packet filter: what users then see is what docs/failover.md says.

use std::time::Duration;

use super::farm::{Disk, Farm, NODES};
use super::small_image;
use crate::clock;
use crate::runner::Job;

/// A graceful stop with a live successor is over well within this; the patience for devices that do not move is 15 s.
const STOPPED_WITHIN: Duration = Duration::from_secs(3);
const LOGIN_WITHIN: Duration = Duration::from_secs(20);

/// The step.
pub fn run(job: &mut Job<'_>) -> anyhow::Result<()> {
    let image = small_image(job)?;
    let disk = [Disk { name: "disk", image: &image }];
    job.check(
        "a node in maintenance keeps no device, and takes some again when it is resumed",
        |job| maintenance(job, &disk),
    );
    job.check("6902 blocked: idle devices move before the node ends", |job| {
        stop_with_blocked(job, &disk, "udp dport 6902", true)
    });
    job.check("6890 blocked: devices move although the nodes do not see each other", |job| {
        stop_with_blocked(job, &disk, "udp dport 6890-6899", false)
    });
    let (login, io) =
        ("ip daddr 10.77.0.1 udp dport 6910", "ip daddr 10.77.0.1 udp dport 6911-6930");
    job.check("6910 of one node blocked: the login goes to the other", |job| {
        login_with_blocked(job, &disk, login)
    });
    job.check("6911-6930 of one node blocked: the session opens at the other", |job| {
        login_with_blocked(job, &disk, io)
    });
    Ok(())
}

/// Stops the node that serves while a filter drops some port.
fn stop_with_blocked(
    job: &mut Job<'_>,
    disk: &[Disk<'_>],
    what: &str,
    notices: bool,
) -> anyhow::Result<()> {
    let mut farm = Farm::new(job, disk)?;
    farm.ns.block(job, what)?;
    for which in 0..NODES.len() {
        farm.start_node(job, which)?;
    }
    let devices = [farm.attach(job, 1, &[0, 1])?, farm.attach(job, 2, &[1, 0])?];
    let status = devices[0].status(job)?;
    let serving = status.node().ok_or_else(|| anyhow::anyhow!("no node serves: {status:?}"))?;
    let began = clock::now();
    let mut node = farm.nodes[serving].take().expect("it runs");
    node.signal("TERM")?;
    let ended = node.wait_exit(STOPPED_WITHIN)?;
    let took = began.elapsed();
    anyhow::ensure!(ended.success(), "the stopped node ended with {ended}");
    for device in &devices {
        let status = device.status(job)?;
        let at = status.node();
        anyhow::ensure!(
            at == Some(1 - serving),
            "a device is at {at:?} after the stop: {status:?}"
        );
    }
    let dropped = farm.ns.dropped(job)?;
    anyhow::ensure!(dropped > 0, "the filter saw nothing to drop: this proves nothing");
    let seen = if notices { "notices" } else { "datagrams of peers" };
    job.note(format!(
        "{what}: {} ms from TERM to the end, {dropped} {seen} dropped",
        took.as_millis()
    ));
    for device in devices {
        device.stop()?;
    }
    Ok(())
}

/// `drain --stay`: the device moves, the node stays; `resume`: it may be a standby again, and nobody moves back.
fn maintenance(job: &mut Job<'_>, disk: &[Disk<'_>]) -> anyhow::Result<()> {
    let mut farm = Farm::new(job, disk)?;
    for which in 0..NODES.len() {
        farm.start_node(job, which)?;
    }
    farm.await_peer(job, 0, "up")?;
    let device = farm.attach(job, 1, &[0, 1])?;
    let soon = Duration::from_secs(10);
    let ready = |s: &super::farm::Status| s.node().is_some() && s.standby().is_some();
    let status = device.await_status(job, "a warm standby", soon, ready)?;
    let serving = status.node().expect("awaited");
    farm.tell(job, serving, &["drain", "--stay"])?;
    let moved = |s: &super::farm::Status| s.node() == Some(1 - serving);
    device.await_status(job, "a move to the other node", soon, moved)?;
    farm.tell(job, serving, &["resume"])?;
    let back = |s: &super::farm::Status| s.standby() == Some(serving);
    // A standby that said "draining" is asked again after a while.
    device.await_status(job, "the resumed node as standby", Duration::from_mins(1), back)?;
    anyhow::ensure!(moved(&device.status(job)?), "the device moved back by itself");
    device.stop()
}

/// Logs a device in although one node cannot be reached at some port.
fn login_with_blocked(job: &mut Job<'_>, disk: &[Disk<'_>], what: &str) -> anyhow::Result<()> {
    let mut farm = Farm::new(job, disk)?;
    for which in 0..NODES.len() {
        farm.start_node(job, which)?;
    }
    farm.ns.block(job, what)?;
    let began = clock::now();
    let device = farm.attach(job, 1, &[0, 1])?;
    let status =
        device.await_status(job, "a serving node", LOGIN_WITHIN, |s| s.node().is_some())?;
    anyhow::ensure!(status.node() == Some(1), "served by {:?}", status.node());
    let dropped = farm.ns.dropped(job)?;
    job.note(format!(
        "{what}: in after {} ms, {dropped} datagrams dropped",
        began.elapsed().as_millis()
    ));
    device.stop()
}
