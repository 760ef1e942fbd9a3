//! Applying entries: the one `match` over everything that a log can hold.

use std::sync::Arc;

use super::reader::lease_keys;
use super::{Applied, HashRound, Machine, conf, tables};
use crate::buggify;
use crate::cluster::{Alarm, MembershipError, Version, alarms};
use crate::command::{
    AlarmAction, Command, DecodeError, LeaseMark, LeaseRemaining, Op, Outcome, Refusal, RequestId,
    Txn, TxnOp,
};
use crate::lease::{self, Change, GrantError};
use crate::mvcc::{Finished, Store, Writer};
use crate::raft::{ConfChange, Entry, Payload};
use crate::storage::Write;
use crate::types::{Index, LeaseId, LogPosition, Revision, Term};

impl Machine {
    /// Applies committed entries, in order. Entries that were applied before are passed over.
    ///
    /// # Panics
    /// If an entry is missing before one of these, if one is of a kind that this program does not know, or
    /// if the store is damaged: this member cannot go on without diverging.
    pub fn apply(&mut self, entries: &[Entry]) -> Applied {
        let mut applied = Applied::default();
        for entry in entries {
            if entry.index <= self.applied.index {
                continue;
            }
            let next = self.applied.index.next();
            assert!(entry.index == next, "entry {} where {next} should be", entry.position());
            assert!(entry.term >= self.applied.term, "term regression at {}", entry.position());
            let store = self.shared.read().store.clone();
            let mut step =
                Step { machine: self, store, position: entry.position(), out: &mut applied };
            step.run(&entry.payload);
            self.applied = entry.position();
        }
        applied.position = self.applied;
        applied.revision = self.shared.read().store.revision();
        if buggify!("machine_checks_itself") {
            self.check();
        }
        applied
    }
}

/// One entry on its way through.
struct Step<'m> {
    machine: &'m mut Machine,
    store: Store,
    position: LogPosition,
    out: &'m mut Applied,
}

impl Step<'_> {
    fn run(&mut self, payload: &Payload) {
        match payload {
            Payload::Empty => self.commit_tables(Vec::new()),
            Payload::ConfChange(change) => self.change_members(change),
            Payload::Command(bytes) => match Command::decode(bytes) {
                Ok(command) => {
                    let outcome = self.command(&command);
                    self.out.outcomes.push((command.id, outcome));
                }
                Err(error @ DecodeError::Unknown(_)) => {
                    panic!("entry {} cannot be applied by this version: {error}", self.position);
                }
                // Nobody can read these bytes, so nobody does anything.
                Err(error) => {
                    let at = self.position;
                    tracing::error!(index = at.index.0, %error, "an entry makes no sense and is passed over");
                    self.commit_tables(Vec::new());
                }
            },
        }
    }

    fn command(&mut self, command: &Command) -> Outcome {
        if let Some(refusal) = self.gate(&command.op) {
            return self.refuse_gated(&command.op, refusal);
        }
        match &command.op {
            Op::Put(put) => self.write_keys(|writer, leases| writer.put(put, &leases)),
            Op::DeleteRange(delete) => self.write_keys(|writer, _| writer.delete_range(delete)),
            Op::Txn(txn) => self.write_keys(|writer, leases| writer.txn(txn, &leases)),
            Op::Compact { revision, .. } => {
                let outcome = self.write_keys(|writer, _| writer.compact(*revision));
                self.out.compacted |= matches!(outcome, Outcome::Compact { .. });
                outcome
            }
            Op::LeaseGrant { id, ttl } => self.grant(*id, *ttl),
            Op::LeaseRevoke { id } => self.revoke(*id),
            Op::LeaseExpire { term, leases } => self.expire(*term, leases),
            Op::LeaseCheckpoint { term, time_millis, leases } => {
                self.checkpoint(*term, *time_millis, leases)
            }
            Op::Alarm { action, member, alarm } => {
                self.alarm(*action, Alarm { kind: *alarm, member: *member })
            }
            Op::ClusterVersionSet { version } => self.set_version(version),
            Op::MemberAttributes { member, name, client_urls } => {
                let mut writes = Vec::new();
                let mut state = self.machine.shared.write();
                let members = Arc::make_mut(&mut state.membership);
                let known = members.publish(*member, name, client_urls, &mut writes);
                drop(state);
                self.out.membership_changed |= known;
                self.commit_tables(writes);
                if known { self.done() } else { self.refused(Refusal::MemberNotFound) }
            }
            Op::MemberStoreSet { member, store_id } => {
                let mut writes = Vec::new();
                let mut state = self.machine.shared.write();
                let members = Arc::make_mut(&mut state.membership);
                let result = members.tie_store(*member, *store_id, &mut writes);
                drop(state);
                self.out.membership_changed |= !writes.is_empty();
                self.commit_tables(writes);
                match result {
                    Ok(()) => self.done(),
                    Err(MembershipError::IdExists) => self.refused(Refusal::MemberIdExists),
                    Err(_) => self.refused(Refusal::MemberNotFound),
                }
            }
            Op::KeyspaceHashAsk { round, revision } => {
                let round = HashRound::Ask { round: *round, revision: Revision(*revision) };
                self.hash_round(round)
            }
            Op::KeyspaceHashReport { round, member, revision, compact_revision, hash } => self
                .hash_round(HashRound::Report {
                    round: *round,
                    member: *member,
                    revision: Revision(*revision),
                    compact_revision: *compact_revision,
                    hash: *hash,
                }),
        }
    }

    /// What the alarms keep out.
    fn gate(&self, op: &Op) -> Option<Refusal> {
        if crate::mutant!("M01") {
            return None;
        }
        let state = self.machine.shared.read();
        let (corrupt, full) =
            (state.alarms.any(alarms::CORRUPT), state.alarms.any(alarms::NOSPACE));
        match op {
            Op::Put(_)
            | Op::DeleteRange(_)
            | Op::Txn(_)
            | Op::Compact { .. }
            | Op::LeaseGrant { .. }
            | Op::LeaseRevoke { .. }
            | Op::LeaseExpire { .. }
                if corrupt =>
            {
                Some(Refusal::Corrupt)
            }
            Op::Put(_) | Op::LeaseGrant { .. } if full => Some(Refusal::NoSpace),
            Op::Txn(txn) if full && has_put(txn) => Some(Refusal::NoSpace),
            _ => None,
        }
    }

    fn refuse_gated(&mut self, op: &Op, refusal: Refusal) -> Outcome {
        if let Op::LeaseExpire { leases, .. } = op {
            self.out.leases.extend(leases.iter().map(|mark| Change::Spared(mark.id)));
        }
        self.commit_tables(Vec::new());
        self.refused(refusal)
    }

    /// Lets the store write the entry's keys.
    fn write_keys(
        &mut self,
        write: impl FnOnce(&mut Writer<'_>, &dyn Fn(LeaseId) -> bool) -> Outcome,
    ) -> Outcome {
        let store = self.store.clone();
        let shared = self.machine.shared.clone();
        let leases = |id| shared.read().leases.get(id).is_some();
        let mut writer = store.writer(self.position);
        let outcome = write(&mut writer, &leases);
        self.commit(writer.finish(), Vec::new());
        outcome
    }

    /// Commits an entry that changes no key.
    fn commit_tables(&mut self, writes: Vec<Write>) {
        let store = self.store.clone();
        self.commit(store.writer(self.position).finish(), writes);
    }

    /// Commits the entry: what the store made of it, what hangs on that, and the tables' own writes.
    fn commit(&mut self, finished: Finished, writes: Vec<Write>) {
        let Finished { mut set, events, revision, lease_changes, publish } = finished;
        for change in &lease_changes {
            set.writes.extend(lease::keys::moved(&change.key, change.from, change.to));
        }
        set.writes.extend(writes);
        if std::mem::take(&mut self.machine.name_due) {
            set.writes.push(self.machine.shared.read().membership.cluster_row());
        }
        self.store.commit(set, publish);
        if !events.is_empty() {
            self.out.events.push((revision, events));
        }
    }

    fn grant(&mut self, id: LeaseId, ttl: i64) -> Outcome {
        let mut writes = Vec::new();
        let index = self.position.index;
        let result = self.machine.shared.write().leases.grant(index, id, ttl, &mut writes);
        self.commit_tables(writes);
        match result {
            Ok(lease) => {
                self.out.leases.push(Change::Granted(id, lease));
                let ttl = lease.granted_seconds;
                Outcome::LeaseGrant { id, ttl, revision: self.store.revision() }
            }
            Err(GrantError::NoId) => self.refused(Refusal::LeaseNotFound),
            Err(GrantError::TooLong) => self.refused(Refusal::LeaseTtlTooLarge),
            Err(GrantError::Exists) => self.refused(Refusal::LeaseExists),
        }
    }

    fn revoke(&mut self, id: LeaseId) -> Outcome {
        if self.machine.shared.read().leases.get(id).is_none() {
            self.commit_tables(Vec::new());
            return self.refused(Refusal::LeaseNotFound);
        }
        self.end_leases(&[id]);
        Outcome::LeaseRevoke { revision: self.store.revision() }
    }

    fn expire(&mut self, term: Term, marks: &[LeaseMark]) -> Outcome {
        let mut ended = Vec::new();
        let state = self.machine.shared.read();
        for LeaseMark { id, mark } in marks {
            let may = state.leases.may_expire(self.position, term, *id, Index(*mark));
            if may && !ended.contains(id) {
                ended.push(*id);
            } else {
                self.out.leases.push(Change::Spared(*id));
            }
        }
        drop(state);
        self.end_leases(&ended);
        Outcome::LeaseExpire { revision: self.store.revision(), revoked: ended }
    }

    /// Ends leases and deletes their keys: lease by lease, the keys of each in byte order, all at one
    /// revision.
    fn end_leases(&mut self, ids: &[LeaseId]) {
        let keys: Vec<_> = ids.iter().flat_map(|id| lease_keys(&self.store, *id)).collect();
        let mut writes = Vec::new();
        let mut state = self.machine.shared.write();
        for id in ids {
            assert!(state.leases.revoke(*id, &mut writes), "{id} was there a moment ago");
            self.out.leases.push(Change::Revoked(*id));
        }
        drop(state);
        let store = self.store.clone();
        let mut writer = store.writer(self.position);
        let deleted = writer.delete_keys(&keys);
        assert_eq!(usize::try_from(deleted), Ok(keys.len()), "a key on a lease was not alive");
        self.commit(writer.finish(), writes);
    }

    fn checkpoint(&mut self, term: Term, time_millis: u64, leases: &[LeaseRemaining]) -> Outcome {
        let mut writes = Vec::new();
        let mut state = self.machine.shared.write();
        state.leases.advance(self.position, term, time_millis, &mut writes);
        for LeaseRemaining { id, mark, remaining_millis } in leases {
            let rest = (*id, Index(*mark), *remaining_millis);
            if let Some(lease) = state.leases.checkpoint(self.position, term, rest, &mut writes) {
                self.out.leases.push(Change::Checkpointed(*id, lease));
            }
        }
        drop(state);
        self.commit_tables(writes);
        self.done()
    }

    fn alarm(&mut self, action: AlarmAction, alarm: Alarm) -> Outcome {
        let mut writes = Vec::new();
        let mut state = self.machine.shared.write();
        let listed: Vec<Alarm> = match action {
            AlarmAction::Get => state.alarms.list(alarm.kind),
            AlarmAction::Activate => {
                state.alarms.activate(alarm, &mut writes).into_iter().collect()
            }
            AlarmAction::Deactivate => {
                state.alarms.deactivate(alarm, &mut writes).into_iter().collect()
            }
            AlarmAction::Unknown(_) => Vec::new(),
        };
        drop(state);
        self.out.alarms_changed |= !writes.is_empty();
        self.commit_tables(writes);
        Outcome::Alarm {
            alarms: listed.into_iter().map(|alarm| (alarm.member, alarm.kind)).collect(),
            revision: self.store.revision(),
        }
    }

    fn set_version(&mut self, version: &str) -> Outcome {
        let mut writes = Vec::new();
        match version.parse::<Version>() {
            Ok(version) => {
                let mut state = self.machine.shared.write();
                Arc::make_mut(&mut state.membership).set_version(version, &mut writes);
                self.out.membership_changed = true;
            }
            Err(error) => tracing::error!(version, %error, "a cluster version is passed over"),
        }
        self.commit_tables(writes);
        self.done()
    }

    fn hash_round(&mut self, round: HashRound) -> Outcome {
        self.commit_tables(Vec::new());
        self.out.hash_rounds.push(round);
        self.done()
    }

    fn change_members(&mut self, change: &ConfChange) {
        let mut writes = Vec::new();
        let result = self.try_change_members(change, &mut writes);
        if result.is_err() {
            writes.clear();
        }
        self.out.membership_changed |= !writes.is_empty();
        self.commit_tables(writes);
        if let Some(request) = conf::request(change) {
            self.answer_change(request, &result);
        }
        self.out.conf.push((self.position.index, result.map(|()| change.clone())));
    }

    fn try_change_members(
        &self,
        change: &ConfChange,
        writes: &mut Vec<Write>,
    ) -> Result<(), Refusal> {
        let changes = conf::read(change)?;
        let mut state = self.machine.shared.write();
        // All or nothing: a joint change has several parts.
        let mut membership = (*state.membership).clone();
        for part in &changes {
            membership.apply(part, writes).map_err(|error| conf::refusal(error, part))?;
        }
        let conf_state = state.conf_state.changed(change).map_err(|error| {
            let at = self.position;
            tracing::warn!(index = at.index.0, %error, "a membership entry does not fit the configuration");
            Refusal::UnhealthyCluster
        })?;
        if conf_state != state.conf_state {
            writes.push(tables::conf_state_row(&conf_state));
            state.conf_state = conf_state;
        }
        state.membership = Arc::new(membership);
        Ok(())
    }

    fn answer_change(&mut self, request: RequestId, result: &Result<(), Refusal>) {
        let outcome = match result {
            Ok(()) => self.done(),
            Err(refusal) => self.refused(refusal.clone()),
        };
        self.out.outcomes.push((request, outcome));
    }

    fn done(&self) -> Outcome {
        Outcome::Done { revision: self.store.revision() }
    }

    fn refused(&self, refusal: Refusal) -> Outcome {
        Outcome::Refused(refusal, self.store.revision())
    }
}

/// Tells whether a transaction can write a key, in whichever branch.
fn has_put(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        TxnOp::Put(_) => true,
        TxnOp::Range(_) | TxnOp::DeleteRange(_) => false,
        TxnOp::Txn(txn) => has_put(txn),
    })
}

/// The leader's clock speaks of leases; the log carries operations.
impl From<lease::Proposal> for Op {
    fn from(proposal: lease::Proposal) -> Self {
        match proposal {
            lease::Proposal::Expire { term, id, mark } => {
                Self::LeaseExpire { term, leases: vec![LeaseMark { id, mark: mark.0 }] }
            }
            lease::Proposal::Checkpoint { term, time_millis, leases } => {
                let leases = leases.into_iter().map(|(id, mark, remaining_millis)| {
                    LeaseRemaining { id, mark: mark.0, remaining_millis }
                });
                Self::LeaseCheckpoint { term, time_millis, leases: leases.collect() }
            }
        }
    }
}
