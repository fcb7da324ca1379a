//! What systemd is told. Without systemd these do nothing.

use diskstream_wire::Nanos;
use sd_notify::NotifyState;

/// What the service manager grants beyond a drain's remaining patience. Guessed: the last turn, logs, and a busy host.
const GRACE: Nanos = Nanos::from_secs(5);

fn tell(states: &[NotifyState<'_>]) {
    // A service manager that does not listen changes nothing for the devices.
    let _ = sd_notify::notify(states);
}

/// The node takes logins.
pub(super) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// A line for `systemctl status`.
pub(super) fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// The node is about to end.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The node still drains, and is not to be killed for `left`.
pub(super) fn draining(text: &str, left: Nanos) {
    let micros = u32::try_from((left + GRACE).0 / 1000).unwrap_or(u32::MAX);
    tell(&[NotifyState::Status(text), NotifyState::ExtendTimeoutUsec(micros)]);
}
