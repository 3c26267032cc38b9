//! Where a node keeps what runs, for those who look from outside of a container.

use std::time::Duration;

/// Folder of the containers' state; below it a folder for each of containerd's namespaces,
/// because ids repeat between them, and in that one for each container.
pub const STATE_ROOT: &str = "/run/lighter";
/// The page of counters in the folder of a guest's container.
pub const COUNTERS_FILE: &str = "counters";

/// libcontainer's own file there, JSON: the process id of init (`pid`) and the annotations.
pub const STATE_FILE: &str = "state.json";
/// Folder in [`STATE_ROOT`] with what containers had counted that were removed: for each, until it is
/// as old as [`KEPT_FOR`] or there are more than [`MOST_KEPT`], a file of the page and the state
/// behind it, called `NAMESPACE:ID`. No namespace begins with a dot, and no name has a colon.
pub const ENDED_FOLDER: &str = ".ended";
/// Long enough to be scraped a few times: who removes a container does not wait for that.
pub const KEPT_FOR: Duration = Duration::from_secs(10 * 60);
/// Some 400 kB in all.
pub const MOST_KEPT: usize = 64;

/// What `/proc/PID/stat` (proc(5)) says of a process's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessTimes {
    /// When it was started, in ticks after the boot. With the process id it names a process.
    pub started: u64,
    /// Processor time of all of its threads, in steps of ten milliseconds.
    pub processor: Duration,
}

impl ProcessTimes {
    /// Milliseconds of a tick: the kernel shows 100 a second on every machine (USER_HZ).
    const TICK: u64 = 10;

    /// Reads the text of the file; `None` if it is of another form.
    pub fn of_stat(text: &str) -> Option<Self> {
        // The second field, the program's name, may hold blanks and parentheses.
        let (_, rest) = text.rsplit_once(") ")?;
        // The first of these is the third of the manual.
        let fields: Vec<&str> = rest.split(' ').collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let ticks = number(14)?.checked_add(number(15)?)?;
        Some(Self {
            started: number(22)?,
            processor: Duration::from_millis(ticks.checked_mul(Self::TICK)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_name_of_a_program_does_not_mislead() {
        let text = "7 (a) R 1 2) S 1 7 7 0 -1 4194304 96 0 0 0 12 30 9 9 20 0 1 0 4711 2695168 200";
        let times = ProcessTimes::of_stat(text).unwrap();
        assert_eq!(times.started, 4711);
        assert_eq!(times.processor, Duration::from_millis(420));
        assert_eq!(ProcessTimes::of_stat("7 (a) S 1"), None);
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(ProcessTimes::of_stat(&own).is_some());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm(text in ".{0,200}|\\(\\) ([0-9]{1,20} ?){0,60}") {
            let _ = ProcessTimes::of_stat(&text);
        }
    }
}
