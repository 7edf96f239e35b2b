//! What one process sees of the world: each of its calls may be delayed, lost, repeated, or its last.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use serde_json::{Map, Value};
use shared::{
    binding::Access,
    cell_api::{CellStatus, StartNode},
    cells::{Cell, CellClient, RemoveAnswer},
    clock::Clock,
    database::{Change, DatabaseError, Databases, Door, Login, NodePasswords, NodeSettings, Reach},
    effect::StartAnswer,
    ids::{CellGuid, Incarnation, InstanceId, NodeId},
    keyspace,
    master_keys::Passwords,
    patroni_rest::PatroniClient,
    ports::{Owner, owner_value},
    quota::Reservation,
    record::Record,
    store::{Child, Entry, Index, Read, Store, StoreError, Tree, Watch},
};

use super::{
    Accident, Bug, Process, World,
    ground::Ground,
    immediate::{now, yield_now},
    transitions,
};

/// How old a look of a cell at a record may be when it takes the node in.
const A_MOMENT: SignedDuration = SignedDuration::from_secs(2);

/// How long a cell is waited for that does not answer (shared/src/cells.rs).
const CELL_LIMIT: SignedDuration = SignedDuration::from_secs(12);

pub(super) struct Wire {
    world: Arc<World>,
    process: Arc<Process>,
    /// The lives of instances that this process has met first.
    lives: Mutex<BTreeMap<InstanceId, Incarnation>>,
    /// What it has counted too early, and its own reservation.
    counted: Mutex<(BTreeMap<String, Child>, String)>,
}

/// A write, so that it can be done again, or later.
#[derive(Debug, Clone)]
enum Write {
    Create(String, String, Option<Duration>),
    Set(String, String, Option<Duration>),
    Swap(String, String, Index, Option<Duration>),
    Delete(String, Index),
    DeleteValue(String, String, Index),
    RemoveDirectory(String),
    /// No broker does that, but for one with a bug.
    DeleteAll(String),
}

impl Write {
    fn key(&self) -> &str {
        match self {
            Self::Create(key, ..)
            | Self::Set(key, ..)
            | Self::Swap(key, ..)
            | Self::Delete(key, _)
            | Self::DeleteValue(key, ..)
            | Self::RemoveDirectory(key)
            | Self::DeleteAll(key) => key,
        }
    }

    fn name(&self) -> String {
        let verb = match self {
            Self::Create(..) => "create",
            Self::Set(..) => "set",
            Self::Swap(..) => "swap",
            Self::Delete(..) | Self::DeleteValue(..) => "delete",
            Self::RemoveDirectory(_) => "rmdir",
            Self::DeleteAll(_) => "delete all of",
        };
        format!("{verb} {}", self.key())
    }

    /// The write as a broker with this bug does it.
    fn botched(self, bug: Option<Bug>) -> Self {
        match (self, bug) {
            (Self::Swap(key, value, _, ttl), Some(Bug::SwapsWithoutComparing)) => Self::Set(key, value, ttl),
            (Self::Create(key, value, ttl), Some(Bug::OwnsPortsOfOthers))
                if key.starts_with("/routing/ports/") =>
            {
                Self::Set(key, value, ttl)
            }
            (Self::Create(key, value, ttl), Some(Bug::AllocatesForAnyLife))
                if key.starts_with("/routing/allocation/") =>
            {
                Self::Set(key, value, ttl)
            }
            (Self::Delete(key, Index::MIN), Some(Bug::ReleasesLaterReservations)) => Self::DeleteAll(key),
            (Self::Delete(key, _), Some(Bug::DeletesWithoutComparing)) => Self::DeleteAll(key),
            (Self::RemoveDirectory(key), Some(Bug::DeletesDirectoriesWithContent)) => Self::DeleteAll(key),
            (write, _) => write,
        }
    }

    /// Writes, and notes what happened to the instance.
    fn carry_out(&self, world: &World) -> Result<Index, StoreError> {
        let id = self
            .key()
            .strip_prefix("/serviceinstances/")
            .and_then(|rest| rest.strip_suffix("/record"))
            .and_then(|id| id.parse().ok());
        let Some(id) = id else {
            return self.apply(&*world.store);
        };
        let before = world.record(&id);
        let written = self.apply(&*world.store)?;
        transitions::note(world, before.as_ref(), world.record(&id).as_ref());
        Ok(written)
    }

    /// The index of the write; that of a deletion is of no interest.
    fn apply(&self, store: &dyn Ground) -> Result<Index, StoreError> {
        match self {
            Self::DeleteAll(key) => {
                for leaf in store.content().into_keys().rev() {
                    if leaf == *key || leaf.starts_with(&format!("{key}/")) {
                        if let Ok(Some(entry)) = now(store.get(&leaf, Read::Quorum)) {
                            now(store.compare_and_delete(&leaf, entry.index))?;
                        } else {
                            now(store.remove_empty_directory(&leaf))?;
                        }
                    }
                }
                Ok(Index::MIN)
            }
            Self::Create(key, value, ttl) => now(store.create(key, value, *ttl)),
            Self::Set(key, value, ttl) => now(store.set(key, value, *ttl)),
            Self::Swap(key, value, index, ttl) => now(store.compare_and_swap(key, value, *index, *ttl)),
            Self::Delete(key, index) => now(store.compare_and_delete(key, *index)).map(|()| *index),
            Self::DeleteValue(key, value, index) => {
                now(store.compare_value_and_delete(key, value, *index)).map(|()| *index)
            }
            Self::RemoveDirectory(key) => now(store.remove_empty_directory(key)).map(|()| Index::MIN),
        }
    }
}

fn is_of_quotas(key: &str) -> bool {
    key.starts_with(keyspace::QUOTAS)
}

impl Wire {
    pub(super) fn new(world: Arc<World>, process: Arc<Process>) -> Self {
        Self {
            world,
            process,
            lives: Mutex::default(),
            counted: Mutex::default(),
        }
    }

    async fn pause(&self) {
        self.process.pause(|| self.world.clock.now()).await;
    }

    async fn read(&self) {
        self.process.reads_once_more();
        self.pause().await;
    }

    /// Waits for a cell that does not answer until it is given up; `false` for one that answers.
    async fn waits_in_vain(&self, cell: &CellGuid) -> bool {
        if !self.world.hangs(cell) {
            return false;
        }
        let end = self.world.clock.now() + CELL_LIMIT;
        while self.world.clock.now() < end {
            yield_now().await;
        }
        true
    }

    fn freeze(&self, seconds: Option<u32>) {
        let end = |seconds: u32| self.world.clock.now() + Duration::from_secs(seconds.into());
        self.process.freeze(seconds.map(end));
    }

    /// Makes a call, unless something befalls it. `lost`: what the caller is told when nobody knows; `refused`: when it
    /// certainly was not done.
    async fn call<T: Send>(
        &self,
        name: &str,
        call: impl Fn(&World) -> T + Send + Sync + 'static,
        lost: impl Fn() -> T + Send + Sync,
        refused: impl Fn() -> T + Send + Sync,
    ) -> T {
        self.pause().await;
        let accident = self.process.begins();
        let befalls = accident.map_or(String::new(), |accident| format!("  <- {accident:?}"));
        self.world
            .note(&format!("{}: {name}{befalls}", self.process.name()));
        let answer = match accident {
            None => call(&self.world),
            Some(Accident::DiesBefore) => self.process.die().await,
            Some(Accident::DiesAfter) => {
                drop(call(&self.world));
                self.process.die().await
            }
            Some(Accident::Freezes { seconds }) => {
                self.freeze(seconds);
                self.pause().await;
                call(&self.world)
            }
            Some(Accident::FreezesAfter { seconds }) => {
                let answer = call(&self.world);
                self.freeze(seconds);
                answer
            }
            Some(Accident::LosesAnswer) => {
                drop(call(&self.world));
                lost()
            }
            Some(Accident::WaitsForLostAnswer) => {
                drop(call(&self.world));
                self.freeze(None);
                lost()
            }
            Some(Accident::LosesCall) => lost(),
            Some(Accident::ComesLate { seconds }) => {
                self.world
                    .later(seconds, Box::new(move |world| drop(call(world))));
                lost()
            }
            Some(Accident::IsRefused) => refused(),
            Some(Accident::Repeats) => {
                let answer = call(&self.world);
                drop(call(&self.world));
                answer
            }
        };
        self.pause().await;
        answer
    }

    /// What a broker with a bug makes of what it reads: that all ports of an instance are those of the life that it knows.
    fn misread(&self, key: &str, entry: Entry) -> Entry {
        if self.world.bug() == Some(Bug::ReleasesLaterReservations) && is_of_quotas(key) {
            let index = Index::MIN;
            return Entry { index, ..entry };
        }
        if self.world.bug() != Some(Bug::ReleasesForAnyLife) {
            return entry;
        }
        let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        if key.ends_with("/record")
            && let Ok(record) = Record::parse(&entry.value)
        {
            lives.entry(record.instance_id).or_insert(record.incarnation);
        }
        match Owner::parse(&entry.value) {
            Some(Owner::Life(id, life)) if key.starts_with("/routing/ports/") => Entry {
                value: owner_value(&id, *lives.get(&id).unwrap_or(&life)),
                ..entry
            },
            _ => entry,
        }
    }

    /// What a broker with a bug makes of the reservations that it lists: those that it counted before it made its own.
    fn miscount(&self, directory: &str, mut listed: BTreeMap<String, Child>) -> BTreeMap<String, Child> {
        if self.world.bug() == Some(Bug::CountsBeforeItReserves) && is_of_quotas(directory) {
            let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            let (earlier, own) = &*counted;
            listed.retain(|name, _| name == own || earlier.contains_key(name));
        }
        listed
    }

    /// What a read answers that failed.
    fn missed<T>(&self, nothing: T) -> Result<T, StoreError> {
        self.world.note(&format!("{}: a read fails", self.process.name()));
        if self.world.bug() == Some(Bug::TakesAnErrorForAbsence) {
            return Ok(nothing);
        }
        Err(StoreError::Unavailable {
            reason: "simulated".to_owned(),
        })
    }

    async fn write(&self, write: Write) -> Result<Index, StoreError> {
        let key = write.key().to_owned();
        let lost = || {
            Err(StoreError::Ambiguous {
                key: key.clone(),
                reason: "simulated".to_owned(),
            })
        };
        let refused = || {
            Err(StoreError::Unavailable {
                reason: "simulated".to_owned(),
            })
        };
        let name = write.name();
        let bug = self.world.bug();
        let record = key.ends_with("/record");
        if bug == Some(Bug::WritesNoMarker) && key.starts_with("/operations/") {
            return Ok(Index::MIN);
        }
        if let (Write::Create(..), Some(Bug::CountsBeforeItReserves)) = (&write, bug)
            && let Some((plan, own)) = key.rsplit_once('/').filter(|(plan, _)| is_of_quotas(plan))
        {
            let earlier = now(self.world.store.list(plan, Read::Quorum))?.unwrap_or_default();
            *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = (earlier, own.to_owned());
        }
        if let (Write::Swap(_, value, index, _), Some(Bug::RemovesReservationsUnderAChange)) = (&write, bug)
            && now(self.world.store.get(&key, Read::Quorum))?.is_some_and(|entry| entry.value == *value)
        {
            return Ok(*index);
        }
        let botched = write.botched(bug);
        let done = move |world: &World| botched.carry_out(world);
        let answer = self.call(&name, done, lost, refused).await;
        match (&answer, bug) {
            (Err(StoreError::Conflict { .. }), Some(Bug::GoesOnAfterALostSwap))
            | (Err(StoreError::Ambiguous { .. }), Some(Bug::TakesSilenceForSuccess))
                if record =>
            {
                let there = now(self.world.store.get(&key, Read::Quorum))?;
                Ok(there.map_or(Index::MIN, |entry| entry.index))
            }
            _ => answer,
        }
    }
}

#[async_trait]
impl Store for Wire {
    async fn get(&self, key: &str, read: Read) -> Result<Option<Entry>, StoreError> {
        self.read().await;
        if self.process.misses_a_read() {
            return self.missed(None);
        }
        let entry = self.world.store.get(key, read).await?;
        Ok(entry.map(|entry| self.misread(key, entry)))
    }

    async fn list(&self, directory: &str, read: Read) -> Result<Option<BTreeMap<String, Child>>, StoreError> {
        self.read().await;
        if self.process.misses_a_read() {
            return self.missed(None);
        }
        let listed = self.world.store.list(directory, read).await?;
        Ok(listed.map(|listed| self.miscount(directory, listed)))
    }

    async fn tree(&self, directory: &str, read: Read) -> Result<Option<Tree>, StoreError> {
        self.read().await;
        if self.process.misses_a_read() {
            return self.missed(None);
        }
        let mut tree = self.world.store.tree(directory, read).await?;
        if self.world.bug() == Some(Bug::RemovesFreshReservations) && is_of_quotas(directory) {
            for entry in tree.iter_mut().flat_map(|tree| tree.leaves.values_mut()) {
                let aged = Reservation::parse(&entry.value).map(|it| Reservation {
                    since: Timestamp::MIN,
                    ..it
                });
                entry.value = aged.map(|it| it.to_json()).unwrap_or_default();
            }
        }
        Ok(tree)
    }

    async fn create(&self, key: &str, value: &str, ttl: Option<Duration>) -> Result<Index, StoreError> {
        self.write(Write::Create(key.to_owned(), value.to_owned(), ttl))
            .await
    }

    async fn set(&self, key: &str, value: &str, ttl: Option<Duration>) -> Result<Index, StoreError> {
        self.write(Write::Set(key.to_owned(), value.to_owned(), ttl))
            .await
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        value: &str,
        index: Index,
        ttl: Option<Duration>,
    ) -> Result<Index, StoreError> {
        self.write(Write::Swap(key.to_owned(), value.to_owned(), index, ttl))
            .await
    }

    async fn compare_and_delete(&self, key: &str, index: Index) -> Result<(), StoreError> {
        self.write(Write::Delete(key.to_owned(), index)).await.map(drop)
    }

    async fn compare_value_and_delete(&self, key: &str, value: &str, index: Index) -> Result<(), StoreError> {
        let write = Write::DeleteValue(key.to_owned(), value.to_owned(), index);
        self.write(write).await.map(drop)
    }

    async fn remove_empty_directory(&self, directory: &str) -> Result<(), StoreError> {
        let write = Write::RemoveDirectory(directory.to_owned());
        self.write(write).await.map(drop)
    }

    fn watch(&self, key: &str) -> Box<dyn Watch> {
        self.world.store.watch(key)
    }
}

#[async_trait]
impl CellClient for Wire {
    async fn start(&self, cell: &Cell, node: NodeId, request: &StartNode) -> StartAnswer {
        let (guid, request) = (cell.view.guid.clone(), request.clone());
        let lost = || StartAnswer::Unclear(format!("cell {} did not answer", cell.view.guid));
        let refused = || StartAnswer::Refused(format!("cell {} cannot be reached", cell.view.guid));
        if self.waits_in_vain(&guid).await {
            return lost();
        }
        let name = format!("start {node} on {guid}");
        // Between its look at the record and the moment in which it takes the node in, the world goes on, for a moment.
        let (looked, at) = (self.world.examine(&guid, node, &request), self.world.clock.now());
        let call = move |world: &World| {
            let just_now = world.clock.now().duration_since(at) <= A_MOMENT;
            let looked = if just_now {
                looked.clone()
            } else {
                world.examine(&guid, node, &request)
            };
            looked.map_or_else(|answer| answer, |()| world.admit(&guid, node, &request))
        };
        self.call(&name, call, lost, refused).await
    }

    async fn status(&self, cell: &Cell) -> Result<CellStatus, String> {
        self.read().await;
        self.world.status(&cell.view.guid)
    }

    async fn remove(&self, cell: &Cell, node: NodeId) -> RemoveAnswer {
        let guid = cell.view.guid.clone();
        let unknown = || RemoveAnswer::NotYet(format!("cell {} did not answer", cell.view.guid));
        if self.waits_in_vain(&guid).await {
            return unknown();
        }
        let name = format!("remove {node} from {guid}");
        let call = move |world: &World| world.remove(&guid, node);
        self.call(&name, call, unknown, unknown).await
    }
}

#[async_trait]
impl PatroniClient for Wire {
    async fn replication(&self, leader_api: &str) -> Result<BTreeMap<String, String>, String> {
        self.pause().await;
        self.world.replication(leader_api)
    }

    async fn configure(
        &self,
        api: &str,
        passwords: &Passwords,
        patch: &Map<String, Value>,
    ) -> Result<(), String> {
        let lost = || Err("Patroni did not answer".to_owned());
        let (api, passwords, patch) = (api.to_owned(), passwords.clone(), patch.clone());
        let call = move |world: &World| world.configure(&api, &passwords, &patch);
        self.call("configure Patroni", call, lost, lost).await
    }

    async fn restart(&self, api: &str, passwords: &Passwords, role: &str) -> Result<(), String> {
        let lost = || Err("Patroni did not answer".to_owned());
        let name = format!("restart the {role} at {api}");
        let (api, passwords, role) = (api.to_owned(), passwords.clone(), role.to_owned());
        let conditionally = self.world.bug() != Some(Bug::RestartsUnconditionally);
        let call = move |world: &World| world.restart(&api, &passwords, &role, conditionally);
        self.call(&name, call, lost, lost).await
    }

    async fn switchover(
        &self,
        api: &str,
        passwords: &Passwords,
        leader: &str,
        candidate: &str,
    ) -> Result<(), String> {
        let lost = || Err("Patroni did not answer".to_owned());
        let name = format!("switch over from {leader} to {candidate}");
        let (api, passwords) = (api.to_owned(), passwords.clone());
        let (leader, candidate) = (leader.to_owned(), candidate.to_owned());
        let call = move |world: &World| world.switchover(&api, &passwords, &leader, &candidate);
        self.call(&name, call, lost, lost).await
    }
}

#[async_trait]
impl Databases for Wire {
    async fn prepare(
        &self,
        door: &Door,
        system_identifier: &str,
        _: &NodePasswords,
    ) -> Result<(), DatabaseError> {
        let (door, system) = (door.clone(), system_identifier.to_owned());
        let call = move |world: &World| world.prepare(&door, &system);
        self.call("prepare", call, silence, silence).await
    }

    async fn change_passwords(
        &self,
        door: &Door,
        system_identifier: &str,
        change: &Change,
    ) -> Result<Reach, DatabaseError> {
        let (door, system, change) = (door.clone(), system_identifier.to_owned(), change.clone());
        let call = move |world: &World| world.change_passwords(&door, &system, &change);
        self.call("change passwords", call, silence, silence).await
    }

    async fn create_login(
        &self,
        door: &Door,
        role: &str,
        _: &SecretString,
        _: Access,
    ) -> Result<Login, DatabaseError> {
        let (door, role) = (door.clone(), role.to_owned());
        let call = move |world: &World| world.create_login(&door, &role);
        self.call("create login", call, silence, silence).await
    }

    async fn settings(&self, door: &Door) -> Result<NodeSettings, DatabaseError> {
        self.pause().await;
        self.world.settings(door)
    }

    async fn withdraw_login(&self, door: &Door, role: &str) -> Result<(), DatabaseError> {
        let (door, role) = (door.clone(), role.to_owned());
        let call = move |world: &World| world.withdraw_login(&door, &role);
        self.call("withdraw login", call, silence, silence).await
    }
}

fn silence<T>() -> Result<T, DatabaseError> {
    Err(DatabaseError::Unreachable("PostgreSQL did not answer".to_owned()))
}
