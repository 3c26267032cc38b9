//! What a guest's process counts of itself, in a page that it shares with who watches.
//!
//! The process that is the container's writes, a reader on the node copies the page and reads
//! the copy. The writer may have been taken over by its guest: a [`Snapshot`] holds numbers and
//! nothing else, whatever is in the page.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Fields of a page.
const FIELDS: usize = 512;
/// Bytes of a page.
pub const COUNTERS_BYTES: usize = FIELDS * 8;

/// Upper bounds of the groups that requests are counted in by their duration, in seconds; slower
/// ones have a last group of their own. The Prometheus clients' default, with three below it:
/// many services answer in less than a millisecond.
pub const DURATION_BOUNDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// A field. Containers outlive an update of Lighter, so that no field ever changes its place
/// or its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    /// When init was started, in ticks after the machine's boot (`/proc/PID/stat`, field 22): a
    /// process that has init's number later is another one.
    Started = 1,
    /// Bytes of linear memory that the instances have now.
    Memory = 2,
    /// The most that they had at a time.
    MemoryPeak = 3,
    /// Instances that were created.
    Instances = 4,
    /// Processor time that the process had taken when its guest ended, in nanoseconds; 0 before.
    CpuAtEnd = 5,
    /// Time that compiling the program took for this container, in nanoseconds.
    CompileTime = 6,
    /// 1 when the program's code was in the cache.
    CacheHits = 7,
    /// 1 when it was compiled for this container.
    CacheMisses = 8,
    /// Fuel that guests have used, where it is limited.
    Fuel = 9,
    /// 1 when fuel is limited.
    Metered = 10,
    /// 1 for a service.
    Service = 11,
    /// Requests that have arrived.
    RequestsBegun = 12,
    /// Bytes of the requests' bodies that the guest was given.
    BytesReceived = 13,
    /// Bytes of the answers' bodies that were sent.
    BytesSent = 14,
    /// Sum of the durations of all requests, in nanoseconds.
    RequestTime = 15,
}

/// First fields of the groups.
const TRAPS: usize = 32;
const REQUESTS: usize = 64;
const DURATIONS: usize = 96;

/// Why a guest trapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum TrapKind {
    /// It executed `unreachable`: what most languages' panics and aborts end in.
    Unreachable,
    /// It reached past its linear memory.
    MemoryOutOfBounds,
    /// It called through a table: past its end, to nothing, or to a function of another type.
    IndirectCall,
    /// It divided by zero, or a number did not fit.
    Arithmetic,
    /// Its stack was exhausted.
    StackOverflow,
    /// It used up its fuel.
    OutOfFuel,
    /// An exception that nobody caught.
    Exception,
    /// Anything else.
    Other,
}

impl TrapKind {
    /// All kinds, in the order of their fields.
    pub const ALL: [Self; 8] = [
        Self::Unreachable,
        Self::MemoryOutOfBounds,
        Self::IndirectCall,
        Self::Arithmetic,
        Self::StackOverflow,
        Self::OutOfFuel,
        Self::Exception,
        Self::Other,
    ];

    /// Its name as the value of a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::MemoryOutOfBounds => "memory_out_of_bounds",
            Self::IndirectCall => "indirect_call",
            Self::Arithmetic => "arithmetic",
            Self::StackOverflow => "stack_overflow",
            Self::OutOfFuel => "out_of_fuel",
            Self::Exception => "exception",
            Self::Other => "other",
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum RequestEnd {
    /// The client went before there was an answer.
    Aborted,
    /// An answer with a status from 100 to 199.
    Informational,
    /// 200 to 299.
    Successful,
    /// 300 to 399.
    Redirected,
    /// 400 to 499.
    ClientError,
    /// 500 and more.
    ServerError,
}

impl RequestEnd {
    /// All ends, in the order of their fields.
    pub const ALL: [Self; 6] = [
        Self::Aborted,
        Self::Informational,
        Self::Successful,
        Self::Redirected,
        Self::ClientError,
        Self::ServerError,
    ];

    /// The end of a request that was answered with `status`.
    pub fn of_status(status: u16) -> Self {
        match status {
            0..=199 => Self::Informational,
            200..=299 => Self::Successful,
            300..=399 => Self::Redirected,
            400..=499 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }

    /// Its name as the value of a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::Informational => "1xx",
            Self::Successful => "2xx",
            Self::Redirected => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
        }
    }
}

/// The page. Each method is a few additions to memory, without a system call or a lock.
#[derive(Debug)]
#[repr(transparent)]
pub struct Counters([AtomicU64; FIELDS]);

impl Counters {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; FIELDS])
    }

    /// Adds to a field.
    pub fn add(&self, count: Count, value: u64) {
        self.add_at(count as usize, value);
    }

    /// Sets a field.
    pub fn set(&self, count: Count, value: u64) {
        self.0[count as usize].store(value, Ordering::Relaxed);
    }

    /// Counts linear memory that an instance got.
    pub fn memory_taken(&self, bytes: u64) {
        let memory = &self.0[Count::Memory as usize];
        let now = memory
            .fetch_add(bytes, Ordering::Relaxed)
            .wrapping_add(bytes);
        self.0[Count::MemoryPeak as usize].fetch_max(now, Ordering::Relaxed);
    }

    /// Counts linear memory that an instance has no longer.
    pub fn memory_given_back(&self, bytes: u64) {
        self.0[Count::Memory as usize].fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Counts a trap.
    pub fn trapped(&self, kind: TrapKind) {
        self.add_at(TRAPS + kind as usize, 1);
    }

    /// Counts the end of a request.
    pub fn request_ended(&self, end: RequestEnd, duration: Duration) {
        self.add_at(REQUESTS + end as usize, 1);
        let seconds = duration.as_secs_f64();
        let group = DURATION_BOUNDS.partition_point(|bound| *bound < seconds);
        self.add_at(DURATIONS + group, 1);
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.add(Count::RequestTime, nanoseconds);
    }

    fn add_at(&self, field: usize, value: u64) {
        self.0[field].fetch_add(value, Ordering::Relaxed);
    }
}

/// A page that nobody reads.
impl Default for &'static Counters {
    fn default() -> Self {
        static UNREAD: Counters = Counters::new();
        &UNREAD
    }
}

/// What a page held at one moment. Fields that belong together may be a few additions apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(Vec<u64>);

impl Snapshot {
    /// Reads the bytes of a page, in this machine's byte order. `None` unless they are
    /// [`COUNTERS_BYTES`].
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let (fields, []) = bytes.as_chunks() else {
            return None;
        };
        (fields.len() == FIELDS).then(|| {
            let fields = fields.iter().map(|field| u64::from_ne_bytes(*field));
            Self(fields.collect())
        })
    }

    /// A field.
    pub fn get(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    /// Traps of a kind.
    pub fn traps(&self, kind: TrapKind) -> u64 {
        self.0[TRAPS + kind as usize]
    }

    /// Requests that ended in a way.
    pub fn requests(&self, end: RequestEnd) -> u64 {
        self.0[REQUESTS + end as usize]
    }

    /// Requests that have ended, by their duration: one number for each of [`DURATION_BOUNDS`], the
    /// requests above the bound before it and not above it, and one for the rest.
    pub fn durations(&self) -> &[u64] {
        &self.0[DURATIONS..=DURATIONS + DURATION_BOUNDS.len()]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(counters: &Counters) -> Snapshot {
        let bytes: Vec<u8> = counters
            .0
            .iter()
            .flat_map(|field| field.load(Ordering::Relaxed).to_ne_bytes())
            .collect();
        Snapshot::of(&bytes).unwrap()
    }

    #[test]
    fn memory_has_a_peak() {
        let counters = Counters::new();
        counters.memory_taken(100);
        counters.memory_taken(50);
        counters.memory_given_back(100);
        counters.memory_taken(20);
        let seen = snapshot(&counters);
        assert_eq!(seen.get(Count::Memory), 70);
        assert_eq!(seen.get(Count::MemoryPeak), 150);
    }

    #[test]
    fn fields_do_not_overlap() {
        let counters = Counters::new();
        counters.add(Count::RequestTime, 1);
        for kind in TrapKind::ALL {
            counters.trapped(kind);
        }
        for end in RequestEnd::ALL {
            counters.request_ended(end, Duration::MAX);
        }
        let seen = snapshot(&counters);
        assert!(TrapKind::ALL.iter().all(|kind| seen.traps(*kind) == 1));
        assert!(RequestEnd::ALL.iter().all(|end| seen.requests(*end) == 1));
        let slow = seen.durations().last();
        assert_eq!(slow, Some(&(RequestEnd::ALL.len() as u64)));
        assert_eq!(seen.get(Count::Started), 0);
    }

    #[test]
    fn a_duration_at_a_bound_is_not_above_it() {
        let counters = Counters::new();
        for milliseconds in [0, 1, 2, 10_000, 10_001] {
            let duration = Duration::from_millis(milliseconds);
            counters.request_ended(RequestEnd::Successful, duration);
        }
        let seen = snapshot(&counters);
        let groups: Vec<usize> = (0..seen.durations().len())
            .filter(|group| seen.durations()[*group] > 0)
            .collect();
        assert_eq!(groups, [0, 1, 2, 13, 14]);
    }

    proptest! {
        #[test]
        fn every_request_is_in_one_group_and_every_answer_in_one_class(
            requests in proptest::collection::vec((0..1000u16, 0..20_000_000u64), 0..50),
        ) {
            let counters = Counters::new();
            for (status, microseconds) in &requests {
                let end = RequestEnd::of_status(*status);
                counters.request_ended(end, Duration::from_micros(*microseconds));
            }
            let seen = snapshot(&counters);
            let total = requests.len() as u64;
            prop_assert_eq!(seen.durations().iter().sum::<u64>(), total);
            let ends = RequestEnd::ALL.iter().map(|end| seen.requests(*end));
            prop_assert_eq!(ends.sum::<u64>(), total);
        }

        #[test]
        fn pages_of_another_size_are_none(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(Snapshot::of(&bytes), None);
        }
    }
}
