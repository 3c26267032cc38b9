//! Which traces are recorded.

use serde::{Deserialize, Serialize};

/// The decision, made where a trace begins and kept by who continues it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Sampler {
    /// Share of the traces that begin here which is kept, from 0 to 1.
    share: f64,
    /// Whether who continues a trace keeps the decision of who began it.
    follows_parent: bool,
}

impl Default for Sampler {
    /// OpenTelemetry's: everything, unless who began it says otherwise.
    fn default() -> Self {
        Self {
            share: 1.0,
            follows_parent: true,
        }
    }
}

impl Sampler {
    /// Keeps this share of the traces that begin here. `None` if it is not from 0 to 1.
    pub fn of_share(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then_some(Self {
            share,
            follows_parent: true,
        })
    }

    /// The one that `OTEL_TRACES_SAMPLER` names, with `OTEL_TRACES_SAMPLER_ARG`. A name that is
    /// unknown, or not for every implementation, means the default, and so does an argument.
    ///
    /// Source: OpenTelemetry specification, "Environment Variable Specification".
    pub fn of_names(name: &str, argument: Option<&str>) -> Self {
        let (name, follows_parent) = match name.strip_prefix("parentbased_") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let share = match name {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => argument
                .and_then(|argument| argument.trim().parse().ok())
                .filter(|share| (0.0..=1.0).contains(share))
                .unwrap_or(1.0),
            _ => return Self::default(),
        };
        Self {
            share,
            follows_parent,
        }
    }

    /// Whether a span is recorded. `parent` is what was decided before, if anybody did.
    pub fn keeps(self, trace: u128, parent: Option<bool>) -> bool {
        match parent {
            Some(sampled) if self.follows_parent => sampled,
            // As OpenTelemetry's own have it, so that all who see the trace decide the same.
            _ => {
                ((trace as u64) >> 1) as f64 <= self.share * (1u64 << 63) as f64 && self.share > 0.0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_names_of_the_environment_are_known() {
        let of = |name| Sampler::of_names(name, Some("0.25"));
        assert!(of("always_on").keeps(1, Some(false)));
        assert!(!of("always_off").keeps(1, Some(true)));
        assert!(of("parentbased_always_off").keeps(1, Some(true)));
        assert!(!of("parentbased_always_off").keeps(1, None));
        assert_eq!(
            of("parentbased_traceidratio"),
            Sampler::of_share(0.25).unwrap()
        );
        assert_eq!(of("jaeger_remote"), Sampler::default());
        for argument in [None, Some("2"), Some("a"), Some("-1"), Some("NaN")] {
            let sampler = Sampler::of_names("parentbased_traceidratio", argument);
            assert_eq!(sampler, Sampler::default(), "{argument:?}");
        }
        assert_eq!(Sampler::of_share(1.5), None);
        assert_eq!(Sampler::of_share(f64::NAN), None);
    }

    proptest! {
        #[test]
        fn a_share_is_kept_and_decided_by_the_trace_alone(seed in any::<u64>(), share in 0.0..=1.0) {
            let sampler = Sampler::of_share(share).unwrap();
            let step = 0x9e37_79b9_7f4a_7c15_u64;
            let traces = (0..10_000).map(|number| u128::from(seed.wrapping_add(step.wrapping_mul(number))));
            let kept = traces.filter(|trace| sampler.keeps(*trace, None)).count();
            prop_assert!((kept as f64 / 10_000.0 - share).abs() < 0.02, "{kept}");
            prop_assert!(sampler.keeps(seed.into(), Some(true)));
            prop_assert!(!sampler.keeps(seed.into(), Some(false)));
        }
    }
}
