//! Whose turn it is to compile, so that nobody who has much to compile keeps others waiting.
//!
//! ```text
//! turns/ARRIVAL-TENANT-POD-PID.waiting    a ticket; locked by its process as long as that is there
//! turns/ARRIVAL-TENANT-POD-PID.running    the same, while it has one of the node's places
//! turns/served                            who had a turn last
//! work/turns.lock                         held by who decides
//! ```
//!
//! There is no process that hands out turns. Everybody who waits decides for himself by the same
//! rule ([`next`]), one at a time. The kernel unlocks the ticket of whoever is killed; the next who
//! looks removes it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use super::error::{FolderError, at};
use super::folder::{Folder, names, remove};
use super::lock::{LOCK_TIMEOUT, Lock};

/// How often it is looked whether anything has changed.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// How often all tickets are read though nothing has: whoever is killed changes nothing.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// Most turns that are remembered. More who wait at a time than these wait in the order of their
/// arrival.
const MAX_SERVED: usize = 256;

/// For whom something is compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Who shares no fate with other tenants: containerd's namespace, and that of Kubernetes in it.
    pub tenant: String,
    /// One of the tenant's pods, or one container without a pod.
    pub pod: String,
}

impl Owner {
    fn id(&self) -> OwnerId {
        let digits = |text: &str| {
            let mut digits = blake3::hash(text.as_bytes()).to_hex().to_string();
            digits.truncate(16);
            digits
        };
        OwnerId {
            tenant: digits(&self.tenant),
            pod: digits(&format!("{}\n{}", self.tenant, self.pod)),
        }
    }
}

/// An owner in the names of files: 16 digits each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct OwnerId {
    tenant: String,
    pod: String,
}

/// What stands in the name of a ticket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket {
    /// Nanoseconds since 1970, and the process id: nobody else has both.
    arrival: u64,
    pid: u32,
    owner: OwnerId,
    is_running: bool,
}

impl Ticket {
    fn name(&self) -> String {
        let Self {
            arrival,
            pid,
            owner: OwnerId { tenant, pod },
            is_running,
        } = self;
        let state = if *is_running { "running" } else { "waiting" };
        format!("{arrival:020}-{tenant}-{pod}-{pid}.{state}")
    }

    fn parse(name: &str) -> Option<Self> {
        let (rest, state) = name.split_once('.')?;
        let parts: Vec<&str> = rest.split('-').collect();
        let [arrival, tenant, pod, pid] = parts[..] else {
            return None;
        };
        Some(Self {
            arrival: arrival.parse().ok()?,
            pid: pid.parse().ok()?,
            owner: OwnerId {
                tenant: tenant.to_owned(),
                pod: pod.to_owned(),
            },
            is_running: match state {
                "running" => true,
                "waiting" => false,
                _ => return None,
            },
        })
    }
}

/// The ticket whose turn it is, if there is a place for one. `served` are the owners that had a
/// turn, the last one first.
///
/// - A tenant never has all places, unless there is only one.
/// - Of several tenants that wait, that one is next which has fewest places, and then the one whose
///   turn is longest ago; of its pods in turn the one whose turn is longest ago.
fn next<'a>(tickets: &'a [Ticket], served: &[OwnerId], places: usize) -> Option<&'a Ticket> {
    let places = places.max(1);
    let has = |tenant: &str| {
        let running = tickets.iter().filter(|ticket| ticket.is_running);
        running
            .filter(|ticket| ticket.owner.tenant == tenant)
            .count()
    };
    if tickets.iter().filter(|ticket| ticket.is_running).count() >= places {
        return None;
    }
    let share = (places - 1).max(1);
    // Longest ago: the largest distance, and those that are not there before all others.
    let last = |found: Option<usize>| std::cmp::Reverse(found.unwrap_or(usize::MAX));
    let waiting = tickets.iter().filter(|ticket| !ticket.is_running);
    waiting
        .filter(|ticket| has(&ticket.owner.tenant) < share)
        .min_by_key(|ticket| {
            let owner = &ticket.owner;
            (
                has(&owner.tenant),
                last(served.iter().position(|each| each.tenant == owner.tenant)),
                last(served.iter().position(|each| each.pod == owner.pod)),
                ticket.arrival,
                ticket.pid,
            )
        })
}

/// One of the node's places for a compilation, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(pub(super) Lock);

impl Turn {
    /// Waits for a turn of `owner`. None if `deadline` comes first.
    pub(super) fn take(
        folder: &Folder,
        owner: &Owner,
        places: u32,
        deadline: Instant,
    ) -> Result<Option<Self>, FolderError> {
        let queue = Queue {
            turns: folder.made("turns")?,
            decision: folder.work().join("turns.lock"),
            places: places as usize,
        };
        let (mut ticket, mut lock) = queue.enter(owner)?;
        loop {
            let seen = queue.changed()?;
            if queue.admit(&mut ticket, &mut lock)? {
                return Ok(Some(Self(lock)));
            }
            let read = Instant::now();
            while queue.changed()? == seen && read.elapsed() < READ_INTERVAL {
                if Instant::now() >= deadline {
                    return Ok(None);
                }
                std::thread::sleep(LOOK_INTERVAL);
            }
        }
    }

    pub(super) fn release(self) {
        drop(self);
    }
}

/// Where the tickets of a node are.
struct Queue {
    turns: PathBuf,
    decision: PathBuf,
    places: usize,
}

impl Queue {
    /// When a ticket came, went, or got a place.
    fn changed(&self) -> Result<SystemTime, FolderError> {
        fs::metadata(&self.turns)
            .and_then(|metadata| metadata.modified())
            .map_err(|error| at(&self.turns, error))
    }

    fn decide(&self) -> Result<Lock, FolderError> {
        Lock::take(&self.decision, Instant::now() + LOCK_TIMEOUT)
    }

    /// Takes a ticket. It is locked before anybody else looks at it.
    fn enter(&self, owner: &Owner) -> Result<(Ticket, Lock), FolderError> {
        let decision = self.decide()?;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let mut ticket = Ticket {
            arrival: since.unwrap_or_default().as_nanos() as u64,
            pid: std::process::id(),
            owner: owner.id(),
            is_running: false,
        };
        loop {
            let path = self.turns.join(ticket.name());
            if let Some(lock) = Lock::try_take(&path)? {
                decision.release();
                return Ok((ticket, lock));
            }
            // Two threads of one process.
            ticket.arrival += 1;
        }
    }

    /// Gives the ticket a place, if it is its turn.
    fn admit(&self, ticket: &mut Ticket, lock: &mut Lock) -> Result<bool, FolderError> {
        let decision = self.decide()?;
        let tickets = self.tickets(ticket)?;
        let mut served = self.served();
        let is_next = next(&tickets, &served, self.places) == Some(&*ticket);
        if is_next {
            ticket.is_running = true;
            lock.rename(self.turns.join(ticket.name()))?;
            served.retain(|each| *each != ticket.owner);
            served.insert(0, ticket.owner.clone());
            self.note_served(&served)?;
        }
        decision.release();
        Ok(is_next)
    }

    /// All tickets whose processes are there. The others are removed.
    fn tickets(&self, own: &Ticket) -> Result<Vec<Ticket>, FolderError> {
        let mut tickets = Vec::new();
        for name in names(&self.turns)? {
            let Some(ticket) = Ticket::parse(&name) else {
                continue;
            };
            if ticket == *own || self.is_held(&name)? {
                tickets.push(ticket);
            }
        }
        Ok(tickets)
    }

    fn is_held(&self, name: &str) -> Result<bool, FolderError> {
        let path = self.turns.join(name);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.map_err(|error| at(&path, error))?,
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(at(&path, error)),
            Ok(()) => remove(&path).map(|()| false),
        }
    }

    /// Who had a turn, the last one first. A line that is damaged is nobody.
    fn served(&self) -> Vec<OwnerId> {
        let text = fs::read_to_string(self.turns.join("served")).unwrap_or_default();
        let owners = text.lines().filter_map(|line| {
            let (tenant, pod) = line.split_once(' ')?;
            Some(OwnerId {
                tenant: tenant.to_owned(),
                pod: pod.to_owned(),
            })
        });
        owners.take(MAX_SERVED).collect()
    }

    fn note_served(&self, served: &[OwnerId]) -> Result<(), FolderError> {
        let lines = served.iter().take(MAX_SERVED);
        let text: String = lines
            .map(|OwnerId { tenant, pod }| format!("{tenant} {pod}\n"))
            .collect();
        let path = self.turns.join("served");
        fs::write(&path, text).map_err(|error| at(&path, error))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner(tenant: &str, pod: &str) -> Owner {
        Owner {
            tenant: tenant.to_owned(),
            pod: pod.to_owned(),
        }
    }

    fn folder() -> (tempfile::TempDir, Folder) {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(&parent.path().join("cache")).unwrap();
        (parent, folder)
    }

    fn within(milliseconds: u64) -> Instant {
        Instant::now() + Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_name_is_read_back() {
        for is_running in [false, true] {
            let ticket = Ticket {
                arrival: 12,
                pid: 34,
                owner: owner("a", "b").id(),
                is_running,
            };
            assert_eq!(Ticket::parse(&ticket.name()), Some(ticket));
        }
        for name in [
            "",
            "served",
            "1-2-3.waiting",
            "1-a-b-2.gone",
            "x-a-b-2.waiting",
        ] {
            assert_eq!(Ticket::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_tenant_leaves_a_place_to_others() {
        let (_parent, folder) = folder();
        let take = |tenant, pod| Turn::take(&folder, &owner(tenant, pod), 2, within(50)).unwrap();
        let first = take("a", "1").unwrap();
        assert!(take("a", "2").is_none(), "the last place");
        let other = take("b", "1").unwrap();
        assert!(take("c", "1").is_none(), "there is no place");
        first.release();
        take("c", "1").unwrap().release();
        other.release();
        assert_eq!(names(&folder.path().join("turns")).unwrap(), ["served"]);
        assert!(names(&folder.work()).unwrap().is_empty());
    }

    #[test]
    fn the_ticket_of_a_process_that_was_killed_counts_for_nothing() {
        let (_parent, folder) = folder();
        let left = Ticket {
            arrival: 1,
            pid: 1,
            owner: owner("a", "1").id(),
            is_running: true,
        };
        let turns = folder.made("turns").unwrap();
        fs::write(turns.join(left.name()), "").unwrap();
        let turn = Turn::take(&folder, &owner("b", "1"), 1, within(5000)).unwrap();
        assert!(turn.is_some());
        assert!(!turns.join(left.name()).exists());
    }

    #[test]
    fn whoever_waits_is_served_when_a_place_is_free() {
        let (_parent, folder) = folder();
        let first = Turn::take(&folder, &owner("a", "1"), 1, within(50)).unwrap();
        std::thread::scope(|scope| {
            let waiting =
                scope.spawn(|| Turn::take(&folder, &owner("a", "1"), 1, within(60_000)).unwrap());
            std::thread::sleep(Duration::from_millis(100));
            assert!(!waiting.is_finished());
            drop(first);
            assert!(waiting.join().unwrap().is_some());
        });
    }

    /// Compiles all that arrives, each as long as it takes, and says for the compilation with
    /// number `of` how many began after it had arrived and before it did.
    fn waited(arrivals: &[(u64, u8, u8, u64)], places: usize, of: usize) -> usize {
        let ticket = |number: usize| {
            let (arrival, tenant, pod, _) = arrivals[number];
            Ticket {
                arrival,
                pid: number as u32,
                owner: owner(&format!("{tenant}"), &format!("{pod}")).id(),
                is_running: false,
            }
        };
        let mut served = Vec::new();
        let mut running: Vec<(usize, u64)> = Vec::new();
        let mut pending: Vec<usize> = (0..arrivals.len()).collect();
        let mut count = 0;
        for now in 0.. {
            running.retain(|(_, end)| *end > now);
            loop {
                let mut tickets: Vec<Ticket> = pending
                    .iter()
                    .filter(|number| arrivals[**number].0 <= now)
                    .map(|number| ticket(*number))
                    .collect();
                tickets.extend(running.iter().map(|(number, _)| Ticket {
                    is_running: true,
                    ..ticket(*number)
                }));
                let Some(chosen) = next(&tickets, &served, places) else {
                    break;
                };
                let number = chosen.pid as usize;
                if number == of {
                    return count;
                }
                count += usize::from(arrivals[of].0 <= now);
                served.retain(|each| *each != chosen.owner);
                served.insert(0, chosen.owner.clone());
                pending.retain(|each| *each != number);
                running.push((number, now + arrivals[number].3));
            }
        }
        unreachable!("everything is served")
    }

    proptest! {
        /// However much one tenant has to compile, another's single one waits for no more than
        /// what has begun before it came.
        #[test]
        fn many_of_one_tenant_do_not_keep_another_waiting(
            many in proptest::collection::vec((0..20u64, 0..4u8, 1..50u64), 1..40),
            arrival in 0..60u64,
            places in 1..4usize,
        ) {
            let mut arrivals: Vec<_> = many
                .into_iter()
                .map(|(arrival, pod, time)| (arrival, 1, pod, time))
                .collect();
            arrivals.push((arrival, 2, 0, 5));
            let waited = waited(&arrivals, places, arrivals.len() - 1);
            // One may begin in the very moment that it comes.
            prop_assert!(waited <= 1, "{waited} were before it");
        }

        /// The same among the pods of one tenant.
        #[test]
        fn many_of_one_pod_do_not_keep_another_waiting(
            count in 1..40usize,
            arrival in 1..60u64,
        ) {
            let mut arrivals = vec![(0, 1, 1, 10); count];
            arrivals.push((arrival, 1, 2, 5));
            prop_assert!(waited(&arrivals, 2, count) <= 1);
        }

        /// Never more than there are places, and never nobody although somebody could.
        #[test]
        fn places_are_neither_exceeded_nor_wasted(
            tickets in proptest::collection::vec((0..3u8, 0..3u8, any::<bool>()), 0..8),
            places in 0..5usize,
        ) {
            let tickets: Vec<Ticket> = tickets
                .into_iter()
                .enumerate()
                .map(|(number, (tenant, pod, is_running))| Ticket {
                    arrival: number as u64,
                    pid: 1,
                    owner: owner(&format!("{tenant}"), &format!("{pod}")).id(),
                    is_running,
                })
                .collect();
            let running = tickets.iter().filter(|ticket| ticket.is_running).count();
            let chosen = next(&tickets, &[], places);
            if running >= places.max(1) {
                prop_assert_eq!(chosen, None);
            }
            if running == 0 && !tickets.is_empty() {
                prop_assert!(chosen.is_some());
            }
            prop_assert!(chosen.is_none_or(|ticket| !ticket.is_running));
        }
    }
}
