//! Alerts, sent as a node sends them while it leads, to a receiver that takes all of them.

use std::sync::Arc;
use std::time::Duration;

use fencron::ledger::{Ledger, Next};
use fencron::lock::Hold;
use fencron::store::StoreError;
use tokio::sync::watch;

use super::network::{Link, Machine, Net};
use super::referee::record::{Fact, Life};

/// The channel of the jobs file.
pub const CHANNEL: &str = "ops";

/// What the jobs file of a simulation has for alerts: each bad end is notified.
pub const NOTIFY: &str = "notify: {channels: {ops: {exec: [x]}}}\ndefaults: {notify: {repeat: 0s}}\n";

/// The pause between two looks at the channel.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long the receiver takes to answer.
const TAKES: Duration = Duration::from_millis(40);

/// Sends the alerts of one process.
pub struct Teller {
    pub net: Arc<Net>,
    pub machine: Machine,
    pub life: Life,
    pub ledger: Ledger<Link>,
}

impl Teller {
    /// Goes on until it is dropped. `leads`: the hold of the term under which the node acts.
    pub async fn run(self, mut leads: watch::Receiver<Option<Hold>>) {
        loop {
            let hold = leads.borrow_and_update().clone();
            tokio::select! {
                biased;
                changed = leads.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
                () = self.serve(hold) => {}
            }
        }
    }

    async fn serve(&self, hold: Option<Hold>) {
        let Some(hold) = hold else { return std::future::pending().await };
        loop {
            if !self.turn(&hold).await.unwrap_or(false) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// Says whether there may be more to do at once.
    async fn turn(&self, hold: &Hold) -> Result<bool, StoreError> {
        let Some(mut outbox) = self.ledger.outbox(CHANNEL).await? else { return Ok(false) };
        match outbox.advance(CHANNEL, self.machine.clock.clock().wall()) {
            Next::Idle(_) => return Ok(false),
            Next::Changed => {}
            Next::Send => {
                if !self.ledger.stands(hold).await? {
                    return Ok(false);
                }
                let message = &outbox.outgoing.sending[0];
                let (id, alerts) = (message.id.clone(), message.alerts());
                self.net.note(Fact::Told { life: self.life.clone(), fence: hold.fence().get(), id, alerts });
                tokio::time::sleep(TAKES).await;
                self.machine.running().await;
                outbox.outgoing.sent();
            }
        }
        self.ledger.put_outbox(hold, CHANNEL, &outbox).await
    }
}
