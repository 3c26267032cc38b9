//! Which connections there are, and which has to go for others.
//!
//! A client can have a connection hold memory: by a head that never ends, by bodies that nobody reads
//! yet, by frames that mean nothing. What the process has allocated is a part of the container's memory
//! budget, so when connections have more than their share of that, nothing more is read until the one that
//! holds most is closed. And when there are too many, the one that is idle longest makes room.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::budget::MemoryBudget;

/// Connections for each request that may be handled at a time: most of them are idle.
const CONNECTIONS_PER_REQUEST: usize = 8;
/// Idle time after which a connection may be closed for a new one. A response may be on its way until
/// then.
const MIN_IDLE_TIME: Duration = Duration::from_secs(1);
/// Bytes that a connection holds at least when it is closed for them.
const MIN_HELD_BYTES: i64 = 4 << 10;
/// Time between two looks at whether there is room.
const ROOM_INTERVAL: Duration = Duration::from_millis(100);
/// Bytes that each connection takes up at least: its task, and a first buffer.
const CONNECTION_BYTES: i64 = 16 << 10;
/// Part of their share of the memory that connections have to hold by what is known of them before one is
/// closed for it. The known part is less than the whole: buffers are larger than what is in them. But
/// when it is this small, something else has the memory, and no connection could give it back.
const KNOWN_PART: u64 = 4;
/// Time between two connections that are closed for memory: what the first held has to be free by then.
const RELIEF_INTERVAL: Duration = Duration::from_millis(1);
/// How long a connection waits before it reads when memory is short.
pub(super) const READ_PAUSE: Duration = Duration::from_millis(10);
/// Time after which the memory of connections that were closed for it is given back to the system.
const TRIM_DELAY: Duration = Duration::from_secs(1);

/// All connections of a service.
pub(super) struct Connections {
    max: usize,
    budget: Arc<MemoryBudget>,
    table: Mutex<Table>,
    /// Told when a connection has been closed.
    closed: Notify,
    started: Instant,
    /// When a connection was last closed for memory, in microseconds since `started`.
    relieved: AtomicU64,
    trim_is_due: AtomicBool,
}

#[derive(Default)]
struct Table {
    next: u64,
    open: HashMap<u64, Arc<Connection>>,
    by_client: HashMap<IpAddr, usize>,
}

/// What is known of one connection while others decide about it.
pub(super) struct Connection {
    client: IpAddr,
    /// Requests at work.
    requests: AtomicU32,
    /// When it last had none, in microseconds since the service's start.
    idle_since: AtomicU64,
    /// Bytes that it has sent since it was idle, less those of bodies that were handed to a guest: as much as
    /// its buffers can have of it.
    held: AtomicI64,
    started: Instant,
    must_close: AtomicBool,
    close: Notify,
}

/// A connection that is open, until it is dropped.
pub(super) struct OpenConnection {
    id: u64,
    all: Arc<Connections>,
    connection: Arc<Connection>,
}

/// A request of a connection that is at work, until it is dropped.
pub(super) struct ConnectionRequest(Arc<Connection>);

/// A connection, as far as it matters for which one is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    id: u64,
    /// `None` for one with a request at work.
    idle: Option<Duration>,
    held: i64,
}

impl Connections {
    /// No connection yet, for a service that handles `concurrency` requests at a time.
    pub(super) fn new(concurrency: u32, budget: Arc<MemoryBudget>) -> Arc<Self> {
        Arc::new(Self {
            max: CONNECTIONS_PER_REQUEST * concurrency as usize + 32,
            budget,
            table: Mutex::default(),
            closed: Notify::new(),
            started: Instant::now(),
            relieved: AtomicU64::new(0),
            trim_is_due: AtomicBool::new(false),
        })
    }

    /// Waits until there is room for one connection more. Those that come meanwhile wait in the
    /// kernel's queue, as with any server that is busy.
    pub(super) async fn room(self: &Arc<Self>) {
        loop {
            if self.budget.is_short_for_connections() && self.relieve() {
                sleep(RELIEF_INTERVAL).await;
                continue;
            }
            if self.table().open.len() < self.max {
                return;
            }
            self.close_idle_longest(|_| true);
            let _ = tokio::time::timeout(ROOM_INTERVAL, self.closed.notified()).await;
        }
    }

    /// Adds a connection of this client. `None` if the client has as many as one may have, and all of them
    /// are at work.
    pub(super) fn open(self: &Arc<Self>, client: IpAddr) -> Option<OpenConnection> {
        let client = network_of(client);
        let own = self.table().by_client.get(&client).copied().unwrap_or(0);
        if own >= max_of_one_client(self.max)
            && !self.close_idle_longest(|connection| connection.client == client)
        {
            return None;
        }
        let connection = Arc::new(Connection {
            client,
            requests: AtomicU32::new(0),
            idle_since: AtomicU64::new(micros(self.started)),
            held: AtomicI64::new(0),
            started: self.started,
            must_close: AtomicBool::new(false),
            close: Notify::new(),
        });
        let mut table = self.table();
        let id = table.next;
        table.next += 1;
        table.open.insert(id, Arc::clone(&connection));
        *table.by_client.entry(client).or_default() += 1;
        drop(table);
        Some(OpenConnection {
            id,
            all: Arc::clone(self),
            connection,
        })
    }

    /// Whether who wants to read has to wait for memory.
    pub(super) fn must_wait(self: &Arc<Self>) -> bool {
        self.budget.is_short_for_connections() && self.relieve()
    }

    /// Closes the connection that holds most. False if none can be closed: then it is not
    /// connections that have the memory.
    fn relieve(self: &Arc<Self>) -> bool {
        let now = micros(self.started);
        let last = self.relieved.load(Ordering::Relaxed);
        let is_too_soon = now.saturating_sub(last) < RELIEF_INTERVAL.as_micros() as u64;
        let claimed = !is_too_soon
            && self
                .relieved
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !claimed {
            return true;
        }
        let table = self.table();
        let share = self.budget.share_of_connections();
        let Some(id) = for_memory(&table.candidates(now, |_| true), share) else {
            return false;
        };
        if let Some(connection) = table.open.get(&id) {
            connection.must_close.store(true, Ordering::Relaxed);
            connection.close.notify_one();
        }
        drop(table);
        self.trim_later();
        true
    }

    /// Closes the connection that is idle longest, of those that may be.
    fn close_idle_longest(&self, may_be: impl Fn(&Connection) -> bool) -> bool {
        let table = self.table();
        let candidates = table.candidates(micros(self.started), may_be);
        let longest = idle_longest(&candidates).and_then(|id| table.open.get(&id));
        if let Some(connection) = longest {
            connection.close.notify_one();
        }
        longest.is_some()
    }

    /// Once memory is not short any more.
    fn trim_later(self: &Arc<Self>) {
        if self.trim_is_due.swap(true, Ordering::Relaxed) {
            return;
        }
        let all = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                sleep(TRIM_DELAY).await;
                if !all.budget.is_short_for_connections() {
                    break;
                }
            }
            all.trim_is_due.store(false, Ordering::Relaxed);
            all.budget.trim();
        });
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn candidates(&self, now: u64, may_be: impl Fn(&Connection) -> bool) -> Vec<Candidate> {
        self.open
            .iter()
            .filter(|(_, connection)| {
                !connection.must_close.load(Ordering::Relaxed) && may_be(connection)
            })
            .map(|(id, connection)| Candidate {
                id: *id,
                idle: connection.is_idle().then(|| {
                    let since = connection.idle_since.load(Ordering::Relaxed);
                    Duration::from_micros(now.saturating_sub(since))
                }),
                held: connection.held.load(Ordering::Relaxed),
            })
            .collect()
    }
}

/// The connection to close when memory is short, of those that may have `share` bytes together: that which
/// holds most, also with a request at work; when none holds much, that which is idle longest.
fn for_memory(candidates: &[Candidate], share: u64) -> Option<u64> {
    let known = |each: &Candidate| (each.held.max(0) + CONNECTION_BYTES) as u64;
    let all: u64 = candidates.iter().map(known).sum();
    if all < share / KNOWN_PART {
        return None;
    }
    let most = candidates.iter().max_by_key(|each| each.held);
    most.filter(|each| each.held >= MIN_HELD_BYTES)
        .map(|each| each.id)
        .or_else(|| idle_longest(candidates))
}

/// The connection to close for a new one.
fn idle_longest(candidates: &[Candidate]) -> Option<u64> {
    candidates
        .iter()
        .filter_map(|each| Some((each.idle?, each.id)))
        .max()
        .filter(|(idle, _)| *idle >= MIN_IDLE_TIME)
        .map(|(_, id)| id)
}

/// Three of four: behind a proxy, or where nodes translate addresses, all clients have one.
fn max_of_one_client(max: usize) -> usize {
    max - max / 4
}

/// An IPv6 client has a network of 64 bits to itself.
fn network_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

fn micros(since: Instant) -> u64 {
    since.elapsed().as_micros() as u64
}

impl Connection {
    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    /// Counts bytes that have arrived.
    pub(super) fn received(&self, bytes: usize) {
        self.held.fetch_add(bytes as i64, Ordering::Relaxed);
    }

    /// Counts bytes that a guest has got, and that no buffer has any more.
    pub(super) fn delivered(&self, bytes: usize) {
        self.held.fetch_sub(bytes as i64, Ordering::Relaxed);
    }

    /// A request begins, with headers of so many bytes: compressed, they have arrived as fewer.
    pub(super) fn begin(self: &Arc<Self>, headers: usize) -> ConnectionRequest {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.received(headers);
        ConnectionRequest(Arc::clone(self))
    }

    /// Waits until it has to be closed.
    pub(super) async fn must_close(&self) {
        loop {
            self.close.notified().await;
            // It may have got a request since it was chosen because it was idle.
            if self.must_close.load(Ordering::Relaxed) || self.is_idle() {
                return;
            }
        }
    }
}

impl Drop for ConnectionRequest {
    fn drop(&mut self) {
        if self.0.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.held.store(0, Ordering::Relaxed);
            let now = micros(self.0.started);
            self.0.idle_since.store(now, Ordering::Relaxed);
        }
    }
}

impl OpenConnection {
    /// What is known of it.
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// All others, and itself.
    pub(super) fn all(&self) -> &Arc<Connections> {
        &self.all
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut table = self.all.table();
        table.open.remove(&self.id);
        if let Some(count) = table.by_client.get_mut(&self.connection.client) {
            *count -= 1;
            if *count == 0 {
                table.by_client.remove(&self.connection.client);
            }
        }
        drop(table);
        self.all.closed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn connections(concurrency: u32) -> Arc<Connections> {
        let budget = MemoryBudget::new(None, Default::default(), None, Default::default());
        Connections::new(concurrency, budget)
    }

    fn client(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn one_client_leaves_a_part_of_the_connections_to_others() {
        let all = connections(1);
        let own: Vec<_> = (0..40).map_while(|_| all.open(client(1))).collect();
        assert_eq!((all.max, own.len()), (40, 30));
        let at_work = own[0].connection().begin(100);
        let other = all.open(client(2));
        assert!(other.is_some());
        drop(at_work);
        drop(own);
        assert!(all.open(client(1)).is_some());
        drop(other);
        assert!(all.table().open.is_empty() && all.table().by_client.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let network = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::2:0:0:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:10.0.0.1"), client(1));
        assert_ne!(network("::1"), network("127.0.0.1"));
    }

    #[tokio::test]
    async fn an_idle_connection_is_told_to_close_and_one_at_work_is_not() {
        let all = connections(1);
        let open = all.open(client(1)).unwrap();
        let told = |open: &OpenConnection| {
            let connection = Arc::clone(open.connection());
            async move {
                let wait = Duration::from_millis(20);
                tokio::time::timeout(wait, connection.must_close())
                    .await
                    .is_ok()
            }
        };
        // It has just been opened.
        assert!(!all.close_idle_longest(|_| true));
        open.connection().idle_since.store(0, Ordering::Relaxed);
        sleep(MIN_IDLE_TIME).await;
        assert!(all.close_idle_longest(|_| true));
        let request = open.connection().begin(0);
        assert!(!told(&open).await);
        assert!(!all.close_idle_longest(|_| true));
        drop(request);
        open.connection().close.notify_one();
        assert!(told(&open).await);
    }

    #[test]
    fn what_a_connection_holds_is_forgotten_when_it_is_idle() {
        let all = connections(1);
        let open = all.open(client(1)).unwrap();
        let connection = open.connection();
        let held = || connection.held.load(Ordering::Relaxed);
        connection.received(5000);
        let first = connection.begin(200);
        let second = connection.begin(0);
        connection.delivered(1000);
        drop(first);
        assert_eq!(held(), 4200);
        drop(second);
        assert_eq!(held(), 0);
        assert!(connection.is_idle());
    }

    fn candidate() -> impl Strategy<Value = (Option<u64>, i64)> {
        (proptest::option::of(0..5000u64), 0..100_000i64)
    }

    proptest! {
        #[test]
        fn who_holds_most_goes_first_and_then_who_is_idle_longest(
            made in proptest::collection::vec(candidate(), 0..20),
            share in 0..4_000_000u64,
        ) {
            let candidates: Vec<Candidate> = (0..)
                .zip(&made)
                .map(|(id, (idle, held))| Candidate {
                    id,
                    idle: idle.map(Duration::from_millis),
                    held: *held,
                })
                .collect();
            let by_id = |id: Option<u64>| id.map(|id| candidates[id as usize]);
            let most = candidates.iter().map(|each| each.held).max().unwrap_or(0);
            let longest = candidates.iter().filter_map(|each| each.idle).max();
            let longest = longest.filter(|idle| *idle >= MIN_IDLE_TIME);
            prop_assert_eq!(by_id(idle_longest(&candidates)).and_then(|it| it.idle), longest);
            let chosen = by_id(for_memory(&candidates, share));
            let held: i64 = made.iter().map(|(_, held)| held + CONNECTION_BYTES).sum();
            if (held as u64) < share / KNOWN_PART {
                prop_assert_eq!(chosen, None);
            } else if most >= MIN_HELD_BYTES {
                prop_assert_eq!(chosen.map(|it| it.held), Some(most));
            } else {
                prop_assert_eq!(chosen.and_then(|it| it.idle), longest);
            }
        }
    }
}
