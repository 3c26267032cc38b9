//! Which process of which task each child of the shim is.
//!
//! The shim claims a process while it is its child and has not been reaped, and before the process
//! runs anything of a container. So a process id means one process from its claim to its exit, and
//! an exit of a child that nobody has claimed (an operation, a hook, an orphan) belongs to no task.

use std::collections::HashMap;

use crate::Exit;

/// A process of a task: the ids of both, as containerd has given them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProcessKey {
    /// Id of the task.
    pub task: String,
    /// Id of the process; [`crate::INIT`] for init.
    pub process: String,
}

/// The claimed children of the shim.
#[derive(Debug, Default)]
pub struct Children {
    /// Those that have not been reaped.
    owners: HashMap<i32, ProcessKey>,
    /// Those whose operation has not ended, with their exit if they have been reaped meanwhile.
    pending: HashMap<ProcessKey, Option<Exit>>,
}

impl Children {
    /// Claims the child `pid`, which an operation has made to be the process `key`. The child must
    /// not have been reaped.
    pub fn claim(&mut self, pid: i32, key: ProcessKey) {
        self.owners.insert(pid, key.clone());
        self.pending.insert(key, None);
    }

    /// A child has been reaped. Returns whose exit that is, unless it is nobody's, or the operation
    /// that makes the process has not ended.
    pub fn exited(&mut self, pid: i32, exit: Exit) -> Option<ProcessKey> {
        let key = self.owners.remove(&pid)?;
        match self.pending.get_mut(&key) {
            Some(early) => {
                *early = Some(exit);
                None
            }
            None => Some(key),
        }
    }

    /// The operation that makes a process has succeeded. Returns the process's exit if it has been
    /// reaped already.
    pub fn made(&mut self, key: &ProcessKey) -> Option<Exit> {
        self.pending.remove(key).flatten()
    }

    /// Forgets a process: it could not be made, or has been deleted.
    pub fn forget(&mut self, key: &ProcessKey) {
        self.pending.remove(key);
        self.owners.retain(|_, owner| owner != key);
    }

    /// Forgets all processes of a task.
    pub fn forget_task(&mut self, task: &str) {
        self.pending.retain(|key, _| key.task != task);
        self.owners.retain(|_, owner| owner.task != task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(number: usize) -> ProcessKey {
        ProcessKey {
            task: format!("t{}", number % 2),
            process: format!("p{number}"),
        }
    }

    #[test]
    fn an_exit_before_the_operation_ends_is_told_once_it_has() {
        let mut children = Children::default();
        let exit = Exit { status: 7, at: 1 };
        children.claim(10, key(0));
        assert_eq!(children.exited(10, exit), None);
        // The number is free, and another process has it.
        children.claim(10, key(1));
        assert_eq!(children.made(&key(1)), None);
        assert_eq!(children.made(&key(0)), Some(exit));
        assert_eq!(children.exited(10, exit), Some(key(1)));
        assert_eq!(children.exited(10, exit), None);
    }

    /// One thing that can happen. Numbers choose among what there is.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// A child that is no process of a task: an operation, a hook.
        Helper,
        /// An operation forks a process and the shim claims it.
        Claim(usize),
        /// The kernel ends a child, and the reaper collects it.
        Exit(usize),
        /// The operation that makes a process ends, or is killed.
        Operation(usize, bool),
        /// A process is deleted, whether it has ended or not.
        Delete(usize),
        DeleteTask(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let number = 0usize..6;
        prop_oneof![
            2 => Just(Step::Helper),
            3 => number.clone().prop_map(Step::Claim),
            5 => number.clone().prop_map(Step::Exit),
            3 => (number.clone(), any::<bool>()).prop_map(|(n, ok)| Step::Operation(n, ok)),
            1 => number.clone().prop_map(Step::Delete),
            1 => number.prop_map(Step::DeleteTask),
        ]
    }

    /// What a process is in truth.
    struct Truth {
        pid: i32,
        /// The status that it ended with, once the kernel has ended it.
        ended: Option<u8>,
        pending: bool,
    }

    proptest! {
        /// Numbers of processes are used again at once, as the kernel may: each process that was
        /// made is told its own exit, once, and no other.
        #[test]
        fn each_process_has_its_own_exit(steps in prop::collection::vec(step(), 0..120)) {
            let mut children = Children::default();
            let mut live: Vec<(i32, Option<usize>)> = Vec::new();
            let mut truths: HashMap<usize, Truth> = HashMap::new();
            let mut told: HashMap<usize, Vec<u8>> = HashMap::new();
            let mut status = 0u8;
            for step in steps {
                // The smallest free number, so that it is used again as early as possible.
                let free = (1..).find(|pid| live.iter().all(|(used, _)| used != pid)).unwrap();
                match step {
                    Step::Helper => live.push((free, None)),
                    Step::Claim(n) if !truths.contains_key(&n) => {
                        live.push((free, Some(n)));
                        children.claim(free, key(n));
                        truths.insert(n, Truth { pid: free, ended: None, pending: true });
                        told.insert(n, Vec::new());
                    }
                    Step::Exit(n) if !live.is_empty() => {
                        let (pid, owner) = live.swap_remove(n % live.len());
                        status = status.wrapping_add(1);
                        let exit = Exit { status, at: 0 };
                        let truth = owner.and_then(|owner| truths.get_mut(&owner));
                        // Deleted and made again with the same id, it is another process.
                        let truth = truth.filter(|truth| truth.pid == pid && truth.ended.is_none());
                        let whose = children.exited(pid, exit);
                        match truth {
                            Some(truth) => {
                                truth.ended = Some(status);
                                let n = owner.unwrap();
                                prop_assert_eq!(whose.is_some(), !truth.pending);
                                if let Some(whose) = whose {
                                    prop_assert_eq!(whose, key(n));
                                    told.get_mut(&n).unwrap().push(status);
                                }
                            }
                            None => prop_assert_eq!(whose, None),
                        }
                    }
                    Step::Operation(n, succeeded) => {
                        let Some(truth) = truths.get_mut(&n).filter(|truth| truth.pending) else {
                            continue;
                        };
                        truth.pending = false;
                        if succeeded {
                            let early = children.made(&key(n));
                            prop_assert_eq!(early.map(|exit| exit.status), truth.ended);
                            told.get_mut(&n).unwrap().extend(early.map(|exit| exit.status));
                        } else {
                            children.forget(&key(n));
                            truths.remove(&n);
                        }
                    }
                    Step::Delete(n) => {
                        children.forget(&key(n));
                        truths.remove(&n);
                    }
                    Step::DeleteTask(n) => {
                        children.forget_task(&key(n).task);
                        truths.retain(|other, _| other % 2 != n % 2);
                    }
                    _ => {}
                }
            }
            for (n, truth) in truths.iter().filter(|(_, truth)| !truth.pending) {
                prop_assert_eq!(&told[n], &truth.ended.into_iter().collect::<Vec<_>>());
            }
        }
    }
}
