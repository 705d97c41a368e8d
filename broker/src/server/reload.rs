//! Changes while the broker runs.

use std::sync::Arc;

use super::{Config, Server};
use crate::settings::Settings;

impl Server {
    /// Has another configuration hold from now on, as far as that can be had without dropping a connection.
    ///
    /// - Bounds on peers hold at once, for those that are connected as well; what exceeds them stays.
    /// - What connections owe and buffer at most, and the rules for Unix sockets, hold for new ones.
    /// - References are checked against the new bindings from now on. What was let in by a binding that is gone stays:
    ///   an answer is taken back when its question is. Who waits for a binding that has come is answered.
    ///
    /// The rest (where to listen, the workers, `fan_out_max`) stays as it was.
    pub fn reload(&self, config: &Config) {
        self.set_limits(config.limits.clone());
        *self.broker.settings.write() = Arc::new(Settings::of(config));
        for (acceptor, _) in self.acceptors.lock().iter() {
            // What is accepted over TCP inherits these.
            let _ = self.broker.settings().buffers.apply(&acceptor.listener);
        }
        self.bindings.rebind(super::bound(config, &self.dataspace, &self.ledger));
        let gatekeepers = self.gatekeepers.each_ref().map(|(_, gatekeeper)| gatekeeper.clone());
        let broker = Arc::downgrade(&self.broker);
        self.broker.scheduler().spawn(move |worker| {
            if let Some(broker) = broker.upgrade() {
                gatekeepers
                    .iter()
                    .for_each(|gatekeeper| gatekeeper.answer_waiting(&broker, &mut worker.local));
                worker.local.stage.flush(&mut worker.local.scratch);
                worker.local.publish_counts(&broker);
            }
        });
    }
}
