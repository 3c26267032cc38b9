//! What the cache and a compilation may use up.

use serde::Deserialize;

/// Bounds that the owner of a node may change, each by the option of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CacheLimits {
    /// Bytes of compiled code that are kept; what has not been used for longest goes first.
    /// Code that a process maps stays, so that it can be more for a while. One artifact is
    /// never longer.
    pub bytes: u64,
    /// Longest Wasm file that is accepted, in bytes: it is read into memory to be compiled. The
    /// default has room for the largest programs that are known to run, components of CPython
    /// with numpy (99 MB); longer ones rarely compile within the default of `memory`.
    pub source_bytes: u64,
    /// Bytes of memory for one compilation.
    pub memory: u64,
    /// Seconds of processor time for one compilation, of all its threads together; on the clock it
    /// may take [`CacheLimits::clock_seconds`]. The default is enough for the largest programs that are
    /// known to run, also on a node that is busy with others.
    pub seconds: u64,
    /// Processors for one compilation, if the node has more.
    pub cores: u32,
    /// Compilations at a time on the node; more wait, with nothing in memory. A tenant (a
    /// namespace) has one less at a time, so that it does not keep others waiting.
    pub at_a_time: u32,
}

impl CacheLimits {
    /// Seconds on the clock after which a compilation ends, whatever it does: a worker that hostile
    /// Wasm has taken over may wait for nothing.
    pub(crate) fn clock_seconds(&self) -> u64 {
        self.seconds.saturating_mul(2)
    }
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            bytes: 4 << 30,
            source_bytes: 128 << 20,
            memory: 2 << 30,
            seconds: 480,
            cores: 4,
            at_a_time: 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_change_single_limits() {
        let limits: CacheLimits = toml::from_str("seconds = 5").unwrap();
        let expected = CacheLimits {
            seconds: 5,
            ..CacheLimits::default()
        };
        assert_eq!(limits, expected);
        assert!(toml::from_str::<CacheLimits>("second = 5").is_err());
    }
}
