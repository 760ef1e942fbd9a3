//! The door to a running member, for everything that serves requests. Not generic, cheap to clone.
//!
//! What only reads local state is answered here at once; what needs Raft goes to the driver by an event
//! and comes back by a channel. A caller that goes away loses its answer, nothing else.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::error::ServeError;
use super::event::Event;
use super::proposals::RequestIds;
use super::room::Room;
use super::status::NodeStatus;
use crate::cluster::{self, Change, Member, Sight};
use crate::command::{Command, Op, Outcome, Refusal};
use crate::lease::Renewal;
use crate::machine::Reader;
use crate::metrics::Metrics;
use crate::raft::Role;
use crate::runtime::{Instant, Process, latest};
use crate::types::{ClusterId, Index, LeaseId, NodeId, Term};
use crate::watch::Hub;

/// A future without a name.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Calls that a member passes on to the leader.
pub trait PeerCalls: Send + Sync {
    /// Renews a lease there; seconds of its TTL, 0 if there is no such lease.
    fn lease_keep_alive(&self, leader: NodeId, id: LeaseId) -> BoxFuture<Result<i64, ServeError>>;
    /// Asks for what is left of a lease: milliseconds, `None` if there is no such lease.
    fn lease_remaining(
        &self,
        leader: NodeId,
        id: LeaseId,
    ) -> BoxFuture<Result<Option<u64>, ServeError>>;
    /// Promotes a learner there.
    fn promote(&self, leader: NodeId, id: NodeId) -> BoxFuture<Result<(), ServeError>>;
    /// Whom this member is connected to, and since when.
    fn connected(&self) -> std::collections::BTreeMap<NodeId, Instant>;
}

/// The clock and limits that serving needs from the runtime, without its type.
pub trait Clock: Send + Sync {
    /// The monotonic clock.
    fn now(&self) -> Instant;
    /// The wall clock, since the Unix epoch.
    fn wall(&self) -> Duration;
    /// Waits.
    fn sleep(&self, d: Duration) -> BoxFuture<()>;
    /// Draws a number.
    fn random_u64(&self) -> u64;
    /// Returns what the kernel knows of this process; `None` where there is none of its own.
    fn process(&self) -> Option<Process> {
        None
    }
    /// Starts a task on the serving side.
    fn spawn(&self, name: &'static str, task: BoxFuture<()>);
}

/// What of the configuration serving needs.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest encoded command, in bytes.
    pub request_bytes_max: usize,
    /// The most operations in a transaction.
    pub txn_ops_max: usize,
    /// How many learners there may be.
    pub learners_max: u32,
    /// Whether membership changes that endanger the quorum are refused.
    pub strict_reconfig: bool,
    /// The store's quota in bytes; `None` for no limit.
    pub quota_bytes: Option<u64>,
    /// The quota as configured: what Status reports.
    pub quota_configured: i64,
    /// The election timeout.
    pub election_timeout: Duration,
    /// How long a request may wait for Raft.
    pub request_timeout: Duration,
    /// The shortest lease, in seconds.
    pub lease_ttl_min: i64,
    /// The time between progress notices of a watch.
    pub watch_progress_interval: Duration,
}

pub(crate) struct Shared {
    pub(crate) id: NodeId,
    pub(crate) cluster_id: ClusterId,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) ids: Arc<RequestIds>,
    pub(crate) reader: Reader,
    pub(crate) hub: Arc<Mutex<Hub>>,
    pub(crate) status: latest::Receiver<NodeStatus>,
    pub(crate) limits: Limits,
    pub(crate) peers: Arc<dyn PeerCalls>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) room: Arc<Room>,
    pub(crate) metrics: Arc<Metrics>,
}

/// See the module's text.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    /// Returns this member's id.
    pub fn id(&self) -> NodeId {
        self.shared.id
    }

    /// Returns the cluster's id.
    pub fn cluster_id(&self) -> ClusterId {
        self.shared.cluster_id
    }

    /// Returns the machine's reading side.
    pub fn reader(&self) -> &Reader {
        &self.shared.reader
    }

    /// Returns the watch hub.
    pub fn hub(&self) -> &Arc<Mutex<Hub>> {
        &self.shared.hub
    }

    /// Returns the limits.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Returns what is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Returns what is known of the room on the disk.
    pub fn room(&self) -> &Arc<Room> {
        &self.shared.room
    }

    /// Returns the clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    /// Returns the status published last.
    pub fn status(&self) -> NodeStatus {
        self.shared.status.borrow().clone()
    }

    /// Returns the term of the last entry applied: the term in response headers.
    pub fn applied_term(&self) -> Term {
        self.shared.status.borrow().applied.term
    }

    /// Returns whether the member has stopped, whether it is a learner, and whether a leader is known:
    /// what is asked before every request.
    pub fn admission(&self) -> (bool, bool, bool) {
        let status = self.shared.status.borrow();
        (status.stopped.is_some(), status.is_learner, status.leader.is_some())
    }

    /// Returns a receiver that is told of another leader, another role, and the end.
    pub fn watch_status(&self) -> latest::Receiver<NodeStatus> {
        self.shared.status.clone()
    }

    /// Returns the peers that this member is connected to, and since when.
    pub fn connected(&self) -> std::collections::BTreeMap<NodeId, Instant> {
        self.shared.peers.connected()
    }

    async fn ask<T>(
        &self,
        event: impl FnOnce(oneshot::Sender<Result<T, ServeError>>) -> Event,
    ) -> Result<T, ServeError> {
        let (reply, answer) = oneshot::channel();
        self.shared.events.send(event(reply)).map_err(|_| ServeError::Stopped)?;
        answer.await.unwrap_or(Err(ServeError::Stopped))
    }

    /// Puts a command through the log and returns what it came to.
    ///
    /// # Errors
    /// [`ServeError::TooLarge`] before anything is proposed; [`ServeError::Timeout`] and
    /// [`ServeError::Stopped`] leave the command in doubt; [`Refusal::NoSpace`] on a disk without room.
    pub async fn propose(&self, op: Op) -> Result<Outcome, ServeError> {
        if self.shared.room.is_out() {
            return Err(ServeError::Refused(Refusal::NoSpace, self.shared.reader.revision()));
        }
        let id = self.shared.ids.next();
        let command = Command { id, user: String::new(), auth_revision: 0, op };
        let data: Bytes = command.encode();
        if data.len() > self.shared.limits.request_bytes_max {
            return Err(ServeError::TooLarge);
        }
        self.ask(|reply| Event::Propose { id, data, reply }).await
    }

    /// Waits until this member has applied everything that was committed when it was called.
    pub async fn read_barrier(&self) -> Result<(), ServeError> {
        self.ask(|reply| Event::Read { reply }).await
    }

    /// Waits until the rows of every compaction so far are gone from this member's store.
    ///
    /// # Errors
    /// When the member stops.
    pub async fn wait_for_scrub(&self) -> Result<(), ServeError> {
        let Some(target) = self.shared.reader.store().compact_revision() else { return Ok(()) };
        while self.shared.reader.store().scrubbed() < Some(target) {
            if self.shared.status.borrow().stopped.is_some() {
                return Err(ServeError::Stopped);
            }
            self.shared.clock.sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Renews a lease and returns its TTL in seconds, 0 if there is no such lease. Asks the leader.
    pub async fn lease_renew(&self, id: LeaseId) -> Result<i64, ServeError> {
        self.on_leader(
            |leader| self.shared.peers.lease_keep_alive(leader, id),
            || self.lease_renew_here(id),
        )
        .await
    }

    /// Renews a lease at this member, which must lead.
    pub async fn lease_renew_here(&self, id: LeaseId) -> Result<i64, ServeError> {
        // The clock renews only for a leader that still led after the request came in.
        self.read_barrier().await?;
        match self.ask(|reply| Event::Renew { id, reply }).await? {
            Renewal::Renewed { ttl } => {
                self.shared.metrics.leases_renewed.inc();
                Ok(ttl)
            }
            Renewal::Gone => Ok(0),
            Renewal::NotLeader | Renewal::Wait => Err(ServeError::NotPrimaryLessor),
        }
    }

    /// Returns the milliseconds left of a lease, `None` if there is no such lease. Asks the leader.
    pub async fn lease_remaining(&self, id: LeaseId) -> Result<Option<u64>, ServeError> {
        self.on_leader(
            |leader| self.shared.peers.lease_remaining(leader, id),
            || self.lease_remaining_here(id),
        )
        .await
    }

    /// Returns the milliseconds left of a lease by this member's clock; it must lead.
    pub async fn lease_remaining_here(&self, id: LeaseId) -> Result<Option<u64>, ServeError> {
        self.read_barrier().await?;
        self.ask(|reply| Event::Remaining { id, reply }).await
    }

    /// Runs `here` if this member leads, else `there`, until either works or the time is up.
    async fn on_leader<T, F>(
        &self,
        there: impl Fn(NodeId) -> BoxFuture<Result<T, ServeError>>,
        here: impl Fn() -> F,
    ) -> Result<T, ServeError>
    where
        F: Future<Output = Result<T, ServeError>>,
    {
        let deadline = self.shared.clock.now() + self.shared.limits.request_timeout;
        loop {
            let leader = self.shared.status.borrow().leader;
            let outcome = match leader {
                _ if crate::buggify!("handle_knows_no_leader") => Err(ServeError::NoLeader),
                Some(leader) if leader == self.shared.id => here().await,
                Some(leader) => there(leader).await,
                None => Err(ServeError::NoLeader),
            };
            match outcome {
                Err(
                    ServeError::NoLeader
                    | ServeError::NotLeader
                    | ServeError::LeaderChanged
                    | ServeError::NotPrimaryLessor,
                ) if self.shared.clock.now() < deadline => {
                    self.shared.clock.sleep(Duration::from_millis(50)).await;
                }
                outcome => return outcome,
            }
        }
    }

    pub(super) fn sight(&self) -> Sight {
        let now = self.shared.clock.now();
        let connected = self.shared.peers.connected();
        let settled = connected
            .iter()
            .filter(|(_, since)| now - **since >= Duration::from_secs(5))
            .map(|(id, _)| *id)
            .collect();
        Sight { own: self.shared.id, settled, connected: connected.into_keys().collect() }
    }

    /// Adds a member; returns it, and all members afterwards.
    pub async fn member_add(
        &self,
        peer_urls: Vec<String>,
        learner: bool,
    ) -> Result<(Member, Vec<Member>), ServeError> {
        let membership = self.shared.reader.members();
        if self.shared.limits.strict_reconfig {
            cluster::may_add(&membership, learner, &self.sight()).map_err(ServeError::Unwise)?;
        }
        let id = cluster::added_member_id(&peer_urls, self.shared.clock.wall().as_secs());
        let mut member = Member::new(id, peer_urls);
        member.learner = learner;
        let learners_max = Some(self.shared.limits.learners_max);
        let change = Change::Add { member: member.clone(), learners_max };
        let members = self.ask(|reply| Event::Member { change, reply }).await?;
        Ok((member, members))
    }

    /// Removes a member; returns the others.
    pub async fn member_remove(&self, id: NodeId) -> Result<Vec<Member>, ServeError> {
        let membership = self.shared.reader.members();
        if self.shared.limits.strict_reconfig {
            cluster::may_remove(&membership, id, &self.sight()).map_err(ServeError::Unwise)?;
        }
        self.ask(|reply| Event::Member { change: Change::Remove(id), reply }).await
    }

    /// Gives a member other peer URLs; returns all members.
    pub async fn member_update(
        &self,
        id: NodeId,
        peer_urls: Vec<String>,
    ) -> Result<Vec<Member>, ServeError> {
        self.ask(|reply| Event::Member { change: Change::Update { id, peer_urls }, reply }).await
    }

    /// Makes a voter of a learner; returns all members. Asks the leader, who knows how far it has come.
    pub async fn member_promote(&self, id: NodeId) -> Result<Vec<Member>, ServeError> {
        self.on_leader(|leader| self.shared.peers.promote(leader, id), || self.promote_here(id))
            .await?;
        // The answer lists the members as this member knows them, after the change.
        self.read_barrier().await?;
        Ok(self.shared.reader.members().members().cloned().collect())
    }

    /// Promotes a learner at this member, which must lead.
    pub async fn promote_here(&self, id: NodeId) -> Result<(), ServeError> {
        let status = self.shared.status.borrow().clone();
        if status.role != Role::Leader {
            return Err(ServeError::NotLeader);
        }
        let membership = self.shared.reader.members();
        // How far the others have come is published once a tick: a learner that was added a moment ago is not
        // among them, and is not in sync; it is no unknown member (scenario promoted-too-soon).
        let learner = membership.learners().any(|learner| learner == id).then_some(Index(0));
        let matched = status.matched.get(&id).copied().or(learner);
        let own = status.matched.get(&self.shared.id).copied().unwrap_or(status.commit);
        let strict = self.shared.limits.strict_reconfig;
        cluster::may_promote(&membership, matched, own, strict).map_err(ServeError::Unwise)?;
        self.ask(|reply| Event::Member { change: Change::Promote(id), reply }).await.map(drop)
    }

    /// Moves leadership to another voter; this member must lead.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), ServeError> {
        self.ask(|reply| Event::Transfer { to, reply }).await
    }
}
