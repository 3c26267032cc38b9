//! Where a guest's own code spends its time: stacks, and how often each was met.
//!
//! The file is in the format of folded stacks, `outer;inner 42` in each line, which speedscope,
//! inferno and flamegraph.pl read. Equal stacks are one line, so that it can go on for days.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::{AsContext, Engine, FrameInfo, Store, UpdateDeadline, WasmBacktrace};

use super::symbol;
use crate::state::State;

/// Functions of a stack that are told apart from the innermost; interpreters have deep ones.
pub(crate) const DEEPEST_STACK: usize = 128;
/// Time between two samples.
const TICK: Duration = Duration::from_millis(5);
/// Ticks between two writes of the file. What is lost when the guest is killed is no more.
const TICKS_A_WRITE: u32 = 200;
/// A sample that took long is followed by a pause of so many times that: programs with DWARF
/// have their lines looked up each time.
const PAUSE: u32 = 10;
/// Stacks that are told apart; the rest is counted together.
const MOST_STACKS: usize = 10_000;
const REST: &str = "[other stacks]";

/// Collects the samples of all instances of a process.
pub(super) struct Profile {
    file: File,
    ticks: AtomicU64,
    stacks: Mutex<Stacks>,
}

impl Profile {
    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            ticks: AtomicU64::new(0),
            stacks: Mutex::default(),
        }
    }

    /// Has `store` sampled at each tick that finds it computing. `yields` says that others run on
    /// the same thread.
    pub(super) fn sample(self: &Arc<Self>, store: &mut Store<State>, yields: bool) {
        let profile = Arc::clone(self);
        let mut due = profile.ticks.load(Ordering::Relaxed) + 1;
        store.epoch_deadline_callback(move |context| {
            // The epoch of a service moves on by other ticks too, which begin with its requests
            // and so would never meet short ones.
            let now = profile.ticks.load(Ordering::Relaxed);
            if now >= due {
                due = now + profile.take_sample(&context);
            }
            Ok(if yields {
                UpdateDeadline::Yield(1)
            } else {
                UpdateDeadline::Continue(1)
            })
        });
        store.set_epoch_deadline(1);
    }

    /// Answers how many ticks later the next sample is due.
    fn take_sample(&self, store: impl AsContext) -> u64 {
        let began = Instant::now();
        let backtrace = WasmBacktrace::force_capture(store);
        self.stacks()
            .add(folded(backtrace.frames().iter().map(functions)));
        1 + (began.elapsed() * PAUSE).div_duration_f64(TICK) as u64
    }

    /// Ticks, and writes what there is, until the process ends.
    pub(super) fn keep(self: &Arc<Self>, engine: Engine) -> io::Result<()> {
        let profile = Arc::clone(self);
        std::thread::Builder::new()
            .name("profile".to_owned())
            .spawn(move || {
                loop {
                    for _ in 0..TICKS_A_WRITE {
                        std::thread::sleep(TICK);
                        profile.ticks.fetch_add(1, Ordering::Relaxed);
                        engine.increment_epoch();
                    }
                    profile.write();
                }
            })
            .map(drop)
    }

    /// Writes what there is, if there is more than before.
    pub(super) fn write(&self) {
        let text = match &mut *self.stacks() {
            stacks if stacks.is_new => {
                stacks.is_new = false;
                stacks.text()
            }
            _ => return,
        };
        // Counts grow, so that the text never becomes shorter.
        if let Err(error) = self.file.write_all_at(text.as_bytes(), 0) {
            crate::ending::complain(&format!("the profile cannot be written: {error}"));
        }
    }

    fn stacks(&self) -> std::sync::MutexGuard<'_, Stacks> {
        self.stacks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The functions of a frame, the innermost first: one, and those that were inlined if the
/// program's DWARF knows them.
fn functions(frame: &FrameInfo) -> Vec<String> {
    let own = || symbol::of_function(frame.func_name(), frame.func_index());
    if frame.symbols().is_empty() {
        return vec![own()];
    }
    let symbols = frame.symbols().iter();
    symbols
        .map(|each| each.name().map_or_else(own, symbol::readable))
        .collect()
}

/// A stack, given from the innermost frame, as one line from the outermost function.
fn folded(frames: impl Iterator<Item = Vec<String>>) -> String {
    let mut functions: Vec<String> = frames.flatten().collect();
    functions.reverse();
    functions.join(";")
}

#[derive(Default)]
struct Stacks {
    counts: HashMap<String, u64>,
    rest: u64,
    is_new: bool,
}

impl Stacks {
    fn add(&mut self, stack: String) {
        self.is_new = true;
        if stack.is_empty() {
            return;
        }
        let full = self.counts.len() >= MOST_STACKS;
        match self.counts.get_mut(&stack) {
            Some(count) => *count += 1,
            None if full => self.rest += 1,
            None => drop(self.counts.insert(stack, 1)),
        }
    }

    /// In the order of the stacks.
    fn text(&self) -> String {
        let mut lines: Vec<(&str, u64)> = self
            .counts
            .iter()
            .map(|(stack, count)| (stack.as_str(), *count))
            .collect();
        if self.rest > 0 {
            lines.push((REST, self.rest));
        }
        lines.sort_unstable();
        let mut text = String::new();
        for (stack, count) in lines {
            let _ = writeln!(text, "{stack} {count}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stacks_are_lines_from_the_outermost_function() {
        let frames = [vec!["inlined", "inner"], vec!["outer"]];
        let frames = frames.map(|frame| frame.into_iter().map(str::to_owned).collect());
        assert_eq!(folded(frames.into_iter()), "outer;inner;inlined");
    }

    proptest! {
        // Each fills the table.
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn no_sample_is_lost_and_the_text_never_becomes_shorter(
            samples in proptest::collection::vec(0..20_000u32, 0..200),
        ) {
            let mut stacks = Stacks::default();
            // So that some of the samples are among the first and some are not.
            for number in 0..MOST_STACKS as u32 - 50 {
                stacks.add(format!("main;f{number}"));
            }
            let mut length = stacks.text().len();
            for sample in &samples {
                stacks.add(format!("main;f{sample}"));
                if sample % 16 == 0 {
                    let text = stacks.text();
                    prop_assert!(text.len() >= length);
                    length = text.len();
                }
            }
            let text = stacks.text();
            prop_assert!(text.lines().count() <= MOST_STACKS + 1);
            let total: u64 = text.lines().map(|line| {
                line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()
            }).sum();
            prop_assert_eq!(total, (MOST_STACKS - 50 + samples.len()) as u64);
        }
    }
}
