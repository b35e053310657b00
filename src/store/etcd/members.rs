//! The cluster's members: a connection to each, which of them is asked, and what happens when it does not answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use etcd_client::{
    Client, Error as ClientError, GetResponse, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseRevokeResponse,
    ResponseHeader, StatusResponse, TxnResponse,
};
use tokio::time::{sleep, timeout};

use super::config::EtcdConfig;
use super::defects;
use super::fault::{Fault, Subject, says_authentication_is_off, sort};
use super::watch::Opened;
use crate::store::{Revision, StoreError};
use crate::time::{Boot, Clock};

/// How long a member that failed is passed over while others can be asked.
const QUARANTINE: Duration = Duration::from_secs(5);

/// How long to wait once every member has been asked without an answer.
const PAUSE: Duration = Duration::from_millis(150);

/// What may be done when an answer does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    /// It changes nothing: another member is asked.
    Read,
    /// It may be applied twice without harm: another member is asked, but in the end it may have been applied.
    Repeatable,
    /// It must not be repeated without reading back, which is for the caller to do.
    Write,
}

/// What is being asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub nature: Nature,
    pub subject: Subject,
    /// How long one member may take to answer.
    pub patience: Duration,
}

/// The members of one cluster, with connections of their own.
#[derive(Debug)]
pub(super) struct Members {
    config: EtcdConfig,
    clock: Clock,
    /// The cluster's id, from the first member that answered: all must have the same.
    cluster: Arc<OnceLock<u64>>,
    choice: Mutex<Choice>,
    seats: Vec<Seat>,
}

/// One member's place.
#[derive(Debug)]
struct Seat {
    endpoint: String,
    connection: Mutex<Option<Connection>>,
    opening: SingleFlight,
}

/// A connection to one member.
#[derive(Clone)]
struct Connection {
    client: Client,
    /// Distinguishes it from the ones before it.
    number: u64,
    token: Arc<SingleFlight>,
}

/// Lets one task do a thing at a time; those that waited meanwhile learn that it was done.
#[derive(Debug, Default)]
struct SingleFlight {
    done: AtomicU64,
    flight: tokio::sync::Mutex<()>,
}

/// Which member to ask: the one that answered last, until it fails.
#[derive(Debug)]
struct Choice {
    current: usize,
    /// Until when each member is passed over.
    resting: Vec<Boot>,
}

/// An answer, whose header names the cluster that gave it.
pub(super) trait FromCluster {
    fn header(&self) -> Option<&ResponseHeader>;
}

/// Implements it for answers that have the method.
macro_rules! from_cluster {
    ($($answer:ty),+) => {
        $(impl FromCluster for $answer {
            fn header(&self) -> Option<&ResponseHeader> {
                <$answer>::header(self)
            }
        })+
    };
}

from_cluster!(
    GetResponse,
    LeaseGrantResponse,
    LeaseKeepAliveResponse,
    LeaseRevokeResponse,
    StatusResponse,
    TxnResponse
);

impl<T: FromCluster> FromCluster for Option<T> {
    fn header(&self) -> Option<&ResponseHeader> {
        self.as_ref().and_then(T::header)
    }
}

/// What it reports has headers, and is a hint, confirmed by a transaction.
impl FromCluster for Opened {
    fn header(&self) -> Option<&ResponseHeader> {
        None
    }
}

/// A snapshot is bytes. The members were asked what they are before it.
#[cfg(feature = "cli")]
impl FromCluster for etcd_client::SnapshotStreaming {
    fn header(&self) -> Option<&ResponseHeader> {
        None
    }
}

/// From a watch.
impl FromCluster for Revision {
    fn header(&self) -> Option<&ResponseHeader> {
        None
    }
}

impl Members {
    pub(super) fn new(config: EtcdConfig, cluster: Arc<OnceLock<u64>>) -> Members {
        let seat = |endpoint: &String| Seat {
            endpoint: endpoint.clone(),
            connection: Mutex::new(None),
            opening: SingleFlight::default(),
        };
        let seats: Vec<Seat> = config.endpoints().iter().map(seat).collect();
        let choice = Mutex::new(Choice::among(seats.len()));
        Members { config, clock: Clock::system(), cluster, choice, seats }
    }

    pub(super) fn config(&self) -> &EtcdConfig {
        &self.config
    }

    pub(super) fn cluster(&self) -> &Arc<OnceLock<u64>> {
        &self.cluster
    }

    /// Makes the request of one member, and of others where that is safe, for as long as [`Timeouts::call`] says.
    ///
    /// [`Timeouts::call`]: super::Timeouts::call
    pub(super) async fn call<T, F>(&self, asked: Asked, request: impl Fn(Client) -> F) -> Result<T, StoreError>
    where
        T: FromCluster,
        F: Future<Output = Result<T, ClientError>>,
    {
        let started = self.clock.boot();
        let (mut lost, mut attempts) = (false, 0);
        loop {
            attempts += 1;
            let seat = self.pick();
            let why = match self.attempt(seat, asked, &request).await {
                Ok(answer) => {
                    self.check_cluster(seat, &answer)?;
                    self.answered(seat);
                    return Ok(answer);
                }
                Err(Fault::Final(error)) => return Err(error),
                Err(Fault::Lost(why)) => {
                    lost |= asked.nature != Nature::Read;
                    why
                }
                Err(Fault::NotSent(why) | Fault::TurnedAway(why) | Fault::Token(why)) => why,
            };
            tracing::debug!(endpoint = seat.endpoint, why, "an etcd member did not serve a request");
            self.rest(seat);
            let exhausted = self.clock.boot().since(started) >= self.config.timeouts().call;
            if exhausted || (lost && asked.nature == Nature::Write) {
                return Err(self.given_up(seat, lost, why));
            }
            if attempts % self.seats.len() == 0 {
                sleep(PAUSE).await;
            }
        }
    }

    fn given_up(&self, seat: &Seat, lost: bool, why: String) -> StoreError {
        let store = self.name(seat);
        if lost { StoreError::Unknown { store, why } } else { StoreError::Unavailable { store, why } }
    }

    /// What errors call the store, asked through this member.
    fn name(&self, seat: &Seat) -> String {
        format!("etcd at {}", seat.endpoint)
    }

    fn choice(&self) -> std::sync::MutexGuard<'_, Choice> {
        self.choice.lock().expect("nothing panics while it holds the choice")
    }

    fn pick(&self) -> &Seat {
        let now = self.clock.boot();
        &self.seats[self.choice().pick(now)]
    }

    fn index(&self, seat: &Seat) -> usize {
        self.seats.iter().position(|one| std::ptr::eq(one, seat)).expect("the seat is one of these")
    }

    fn answered(&self, seat: &Seat) {
        let index = self.index(seat);
        if self.choice().answered(index) {
            tracing::info!(endpoint = seat.endpoint, "this etcd member is asked from now on");
        }
    }

    fn rest(&self, seat: &Seat) {
        let (index, now) = (self.index(seat), self.clock.boot());
        self.choice().failed(index, now);
    }

    /// Asks one member once; twice where its token has to be renewed.
    async fn attempt<T, F>(&self, seat: &Seat, asked: Asked, request: &impl Fn(Client) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let connection = self.connection(seat).await?;
        let tokens = connection.token.count();
        let fault = match self.ask(seat, &connection, asked, request(connection.client.clone())).await {
            Err(Fault::Token(why)) => why,
            settled => return settled,
        };
        self.renew_token(seat, &connection, tokens, fault).await?;
        match self.ask(seat, &connection, asked, request(connection.client.clone())).await {
            Err(Fault::Token(why)) => Err(Fault::Final(StoreError::Denied { store: self.name(seat), why })),
            settled => settled,
        }
    }

    async fn ask<T>(
        &self,
        seat: &Seat,
        connection: &Connection,
        asked: Asked,
        answer: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, Fault> {
        let fault = match timeout(asked.patience, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => sort(&error, asked.subject, &self.name(seat)),
            Err(_) => Fault::Lost(format!("no answer within {:?}", asked.patience)),
        };
        // A connection that swallowed one request would swallow the next for as long as the kernel believes in it.
        if matches!(fault, Fault::Lost(_) | Fault::NotSent(_)) {
            seat.forget(connection);
        }
        Err(fault)
    }

    /// The connection to this member, opened if there is none.
    async fn connection(&self, seat: &Seat) -> Result<Connection, Fault> {
        if let Some(connection) = seat.connected() {
            return Ok(connection);
        }
        let failures = seat.opening.count();
        let _flight = seat.opening.flight.lock().await;
        if let Some(connection) = seat.connected() {
            return Ok(connection);
        }
        if seat.opening.count() != failures {
            // The task before has just found out: no need for each waiter to try again.
            return Err(Fault::NotSent("the connection could not be opened a moment ago".into()));
        }
        let opened = timeout(self.config.timeouts().attempt, self.open(seat)).await;
        match opened.unwrap_or_else(|_| Err(Fault::NotSent("the connection could not be opened in time".into()))) {
            Ok(connection) => {
                *seat.slot() = Some(connection.clone());
                Ok(connection)
            }
            // No part of the request has been sent, whether or not the stream was opened.
            Err(Fault::Lost(why)) => Err(seat.failed_to_open(Fault::NotSent(why))),
            Err(fault) => Err(seat.failed_to_open(fault)),
        }
    }

    /// Connects, logs in, and makes sure that it is the same cluster.
    async fn open(&self, seat: &Seat) -> Result<Connection, Fault> {
        let sorted = |error: ClientError| sort(&error, Subject::default(), &self.name(seat));
        let options = self.config.options().await.map_err(Fault::Final)?;
        let mut client = Client::connect([self.config.uri(&seat.endpoint)], Some(options)).await.map_err(sorted)?;
        self.authenticate(seat, &mut client).await?;
        let status = client.status().await.map_err(sorted)?;
        if let Some(sign) = defects::status_sign(status.header().map(ResponseHeader::cluster_id)) {
            return Err(Fault::Final(defects::imitation(&self.name(seat), sign)));
        }
        self.check_cluster(seat, &status).map_err(Fault::Final)?;
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok(Connection { client, number, token: Arc::default() })
    }

    /// Whether the cluster that answers is the one that answered before. Asked of every answer: a connection that broke
    /// while idle is made again unseen, to the server that has that address then.
    fn check_cluster(&self, seat: &Seat, answer: &impl FromCluster) -> Result<(), StoreError> {
        let Some(cluster) = answer.header().map(ResponseHeader::cluster_id) else { return Ok(()) };
        let known = *self.cluster.get_or_init(|| cluster);
        if known == cluster {
            return Ok(());
        }
        Err(StoreError::Unusable(format!(
            "{} belongs to another cluster ({cluster:x}) than the members asked before ({known:x}): locks in two \
             clusters exclude no other process; correct the list of endpoints (or restart, if the cluster was rebuilt)",
            self.name(seat)
        )))
    }

    /// Gets a token, where a user is given. Like etcd's own client, goes on without where the server has no users.
    async fn authenticate(&self, seat: &Seat, client: &mut Client) -> Result<(), Fault> {
        let Some(credentials) = self.config.present_credentials().await.map_err(Fault::TurnedAway)? else {
            return Ok(());
        };
        match client.update_user(Some(credentials)).await {
            Ok(()) => Ok(()),
            Err(error) if says_authentication_is_off(&error) => Ok(()),
            Err(error) => match (sort(&error, Subject::default(), &self.name(seat)), self.config.password_file()) {
                // The file may be written a moment later than etcd's password changes, or earlier.
                (Fault::Final(StoreError::Denied { why, .. }), Some(path)) => {
                    Err(Fault::TurnedAway(format!("{why}; the password is read again from {}", path.display())))
                }
                (fault, _) => Err(fault),
            },
        }
    }

    /// Gets a new token, unless another task has done so since `tokens` were counted.
    async fn renew_token(&self, seat: &Seat, connection: &Connection, tokens: u64, why: String) -> Result<(), Fault> {
        if self.config.user().is_none() {
            let why = format!("{why}: etcd has authentication on, and no user was given (etcd://USER@…)");
            return Err(Fault::Final(StoreError::Denied { store: self.name(seat), why }));
        }
        let _flight = connection.token.flight.lock().await;
        if connection.token.count() != tokens {
            return Ok(());
        }
        let mut client = connection.client.clone();
        match timeout(self.config.timeouts().attempt, self.authenticate(seat, &mut client)).await {
            Ok(Ok(())) => {
                connection.token.count_one();
                Ok(())
            }
            Ok(Err(fault)) => Err(not_applied(fault)),
            Err(_) => Err(Fault::TurnedAway("it issued no new token in time".into())),
        }
    }
}

/// What failed was the renewal of the token, before the request was made again.
fn not_applied(fault: Fault) -> Fault {
    match fault {
        Fault::Lost(why) => Fault::TurnedAway(why),
        fault => fault,
    }
}

impl Seat {
    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Connection>> {
        self.connection.lock().expect("nothing panics while it holds a connection")
    }

    fn connected(&self) -> Option<Connection> {
        self.slot().clone()
    }

    /// Lets go of this connection, unless a newer one has taken its place.
    fn forget(&self, connection: &Connection) {
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(|held| held.number == connection.number) {
            *slot = None;
        }
    }

    fn failed_to_open(&self, fault: Fault) -> Fault {
        self.opening.count_one();
        fault
    }
}

impl SingleFlight {
    fn count(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    fn count_one(&self) {
        self.done.fetch_add(1, Ordering::Release);
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Choice {
    fn among(members: usize) -> Choice {
        Choice { current: 0, resting: vec![Boot::default(); members] }
    }

    /// The first from the current one on that is not resting; if all are, the one whose rest ends first.
    fn pick(&self, now: Boot) -> usize {
        let members = self.resting.len();
        let around = (0..members).map(|step| (self.current + step) % members);
        around
            .clone()
            .find(|index| self.resting[*index] <= now)
            .or_else(|| around.min_by_key(|index| self.resting[*index]))
            .expect("there is at least one member")
    }

    /// Whether this is another member than before.
    fn answered(&mut self, index: usize) -> bool {
        self.resting[index] = Boot::default();
        std::mem::replace(&mut self.current, index) != index
    }

    fn failed(&mut self, index: usize, now: Boot) {
        self.resting[index] = now.plus(QUARANTINE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Boot {
        Boot::from_duration(Duration::from_secs(seconds))
    }

    #[test]
    fn the_member_that_answered_is_asked_again() {
        let mut choice = Choice::among(3);
        assert!(choice.answered(2));
        assert!(!choice.answered(2));
        assert_eq!(choice.pick(at(1)), 2);
    }

    #[test]
    fn a_member_that_failed_is_passed_over_for_a_while() {
        let mut choice = Choice::among(3);
        choice.failed(0, at(10));
        assert_eq!(choice.pick(at(10)), 1);
        assert_eq!(choice.pick(at(14)), 1);
        assert_eq!(choice.pick(at(15)), 0, "it has not been replaced: nobody else has answered");
    }

    #[test]
    fn a_member_that_was_replaced_is_not_gone_back_to() {
        let mut choice = Choice::among(3);
        choice.failed(0, at(10));
        choice.answered(1);
        assert_eq!(choice.pick(at(1000)), 1);
    }

    #[test]
    fn when_all_have_failed_the_one_that_failed_first_is_asked() {
        let mut choice = Choice::among(3);
        for (index, second) in [(0, 12), (1, 11), (2, 13)] {
            choice.failed(index, at(second));
        }
        assert_eq!(choice.pick(at(14)), 1);
    }
}
