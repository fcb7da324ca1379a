//! One line for each thing that happens to a device.

use diskstream_wire::Mac;

use crate::session::Event;

/// Logs an event. Of reads only those that failed are logged.
pub(super) fn event(mac: Mac, event: &Event) {
    match event {
        Event::ReadDone { result: Err(error), .. } => {
            tracing::error!(%mac, %error, "a read failed; the machine is given an I/O error");
        }
        Event::ReadDone { .. } | Event::ExtentsDone { .. } => {}
        Event::Opened { disk, node } => tracing::info!(
            %mac, %node, vdisk = disk.vdisk.as_str(), size_bytes = disk.size_bytes,
            content_id = %disk.content_id, version = disk.version, pinned = disk.pinned,
            "vDisk opened"
        ),
        Event::Moved { from, to, cause, stall, outstanding } => tracing::info!(
            %mac, %from, %to, %cause, held_ms = stall.as_millis(), outstanding, "moved"
        ),
        Event::StandbyOpened { node } => tracing::info!(%mac, %node, "standby open"),
        Event::StandbyLost { node, why } => {
            tracing::info!(%mac, %node, %why, "the standby is given up; looking for another");
        }
        Event::StandbyRefused { node, why } => tracing::warn!(
            %mac, %node, %why, "no standby at this node for now; asking again"
        ),
        Event::Holding { cause, .. } => {
            tracing::warn!(%mac, %cause, "no node answers; reads are held until one does");
        }
        Event::Resumed { node, held } => {
            tracing::info!(%mac, %node, held_ms = held.as_millis(), "reads go on");
        }
        Event::Rejected { node, reason, text } => tracing::error!(
            %mac, %node, %reason, "login refused: {}; trying again", text.as_str()
        ),
        Event::Busy { node, wait, reason } => tracing::info!(
            %mac, %node, %reason, wait_ms = wait.as_millis(), "the node is busy; waiting as told"
        ),
        Event::WrongContent { node, expected, offered } => match offered {
            Some(offered) => tracing::error!(
                %mac, %node, %expected, %offered,
                "the node offers another content than the one being read; not used"
            ),
            None => tracing::error!(
                %mac, %node, %expected,
                "the node no longer has the content being read; leaving it"
            ),
        },
        Event::Closed => tracing::info!(%mac, "detached"),
    }
}
