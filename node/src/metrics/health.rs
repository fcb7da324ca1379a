//! Whether the node takes devices, for `/healthz`.

use crate::lock::Mutex;

/// What the node is up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// Not yet: the reason, e.g. which image is being hashed.
    Starting(String),
    /// Takes devices.
    Ready,
    /// Is about to stop: the reason.
    Draining(String),
    /// Runs, but cannot serve: the reason, e.g. which vDisk was changed in place.
    Failing(String),
}

/// The node's state, set by the program's main thread and read by the HTTP thread. Not for data paths: it is a lock.
#[derive(Debug)]
pub struct Health(Mutex<HealthState>);

impl Default for Health {
    fn default() -> Health {
        Health(Mutex::new(HealthState::Starting("starting".to_owned())))
    }
}

impl Health {
    /// Replaces the state.
    pub fn set(&self, state: HealthState) {
        *self.0.lock().expect("nothing panics while it holds this lock") = state;
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> HealthState {
        self.0.lock().expect("nothing panics while it holds this lock").clone()
    }

    /// HTTP status and text.
    pub(super) fn answer(&self) -> (u16, String) {
        match self.state() {
            HealthState::Ready => (200, "ok\n".to_owned()),
            HealthState::Starting(reason) => (503, format!("starting: {reason}\n")),
            HealthState::Draining(reason) => (503, format!("draining: {reason}\n")),
            HealthState::Failing(reason) => (503, format!("failing: {reason}\n")),
        }
    }
}
