//! The time of `ctr run --rm`.

use std::time::Duration;

use lighter_testkit::Containerd;

use crate::subject::Subject;

/// Runs before the counted ones: they fill the page cache and the artifact cache.
const WARM_UP: usize = 3;

/// Times in ms of each run of each subject, in the order of the runs.
pub(crate) type Times = [Vec<f64>; 2];

/// Runs both subjects in turn, so that what else the machine does meets both, and lets each of
/// them begin every other time.
pub(crate) fn measure(containerd: &Containerd, subjects: &[Subject; 2], runs: usize) -> Times {
    let mut times = Times::default();
    for round in 0..WARM_UP + runs {
        for turn in 0..2 {
            let which = (round + turn) % 2;
            let elapsed = once(containerd, &subjects[which]);
            if round >= WARM_UP {
                times[which].push(elapsed.as_secs_f64() * 1000.0);
            }
        }
    }
    times
}

fn once(containerd: &Containerd, subject: &Subject) -> Duration {
    let output = containerd
        .run(&subject.short)
        .runtime(subject.runtime)
        .arguments(&subject.short_arguments)
        .output();
    assert_eq!(
        output.stdout, subject.line,
        "{} failed: {}",
        subject.name, output.stderr
    );
    output.exits(0).elapsed
}

/// The value below which the part `share` (0 to 1) of the values lies.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = share * (sorted.len() - 1) as f64;
    let (low, part) = (position.floor() as usize, position.fract());
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] * (1.0 - part) + sorted[high] * part
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_lie_between_the_values() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(&values, 0.0), 1.0);
        assert_eq!(quantile(&values, 0.5), 2.5);
        assert_eq!(quantile(&values, 1.0), 4.0);
        assert_eq!(quantile(&[7.0], 0.5), 7.0);
    }
}
