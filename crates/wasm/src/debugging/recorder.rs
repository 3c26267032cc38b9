//! What is recorded of one container, as its process has it: open files.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use lighter_core::ExitReason;
use wasmtime::{Engine, Store};

use super::core_dump::CoreDump;
use super::folder::Record;
use super::profile::Profile;
use crate::ending::{complain, of_error};
use crate::state::State;

/// Writes what was asked for; by default nothing.
#[derive(Clone, Default)]
pub(crate) struct Recorder {
    /// Kept open, and so locked, for as long as the process is there.
    _lock: Option<Arc<File>>,
    /// Those of all its files.
    descriptors: Vec<RawFd>,
    core_dump: Option<Arc<CoreDump>>,
    profile: Option<Arc<Profile>>,
}

impl Recorder {
    /// A recorder into the files of `record`.
    pub(crate) fn new(record: Record) -> Self {
        let files = [
            Some(&record.lock),
            record.core_dump.as_ref().map(|(_, file)| file),
            record.profile.as_ref(),
        ];
        Self {
            descriptors: files
                .iter()
                .flatten()
                .map(|file| file.as_raw_fd())
                .collect(),
            _lock: Some(Arc::new(record.lock)),
            core_dump: record
                .core_dump
                .map(|(path, file)| Arc::new(CoreDump::new(path, file, record.most_bytes))),
            profile: record.profile.map(|file| Arc::new(Profile::new(file))),
        }
    }

    /// The descriptors of its files.
    pub(crate) fn descriptors(&self) -> &[RawFd] {
        &self.descriptors
    }

    /// Begins with the profile, if there is to be one.
    pub(crate) fn start(&self, engine: &Engine) {
        if let Some(profile) = &self.profile
            && let Err(error) = profile.keep(engine.clone())
        {
            complain(&format!("there will be no profile: {error}"));
        }
    }

    /// Has what runs in `store` sampled. `yields` says that others run on the same thread.
    pub(crate) fn sample(&self, store: &mut Store<State>, yields: bool) {
        if let Some(profile) = &self.profile {
            profile.sample(store, yields);
        }
    }

    /// The ticks of an instance that computes until it gives way, if it is sampled.
    pub(crate) fn first_ticks(&self) -> Option<u64> {
        self.profile.is_some().then_some(1)
    }

    /// A call into the program `name` has failed: dumps the store if it was by a trap.
    pub(crate) fn failed(&self, name: &str, store: &mut Store<State>, error: &wasmtime::Error) {
        if let Some(core_dump) = &self.core_dump
            && let (ExitReason::Trapped, text) = of_error(name, error, Default::default())
        {
            core_dump.write(name, store, error, &text);
        }
    }

    /// Writes what is not written yet.
    pub(crate) fn finish(&self) {
        if let Some(profile) = &self.profile {
            profile.write();
        }
    }
}
