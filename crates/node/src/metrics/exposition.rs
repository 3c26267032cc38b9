//! What containers have counted as OpenMetrics text, by Prometheus' conventions for names.

use std::fmt;
use std::iter::zip;

use lighter_core::{Count, DURATION_BOUNDS, RequestEnd, TrapKind};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::containers::Container;

/// The media type of [`text`].
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of the containers. There is a fixed number of series for each.
pub fn text(containers: Vec<Container>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("lighter");
    registry.register_collector(Box::new(Containers(containers)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// One name, and what it has of each container.
struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    samples: fn(&Container) -> Vec<Sample>,
}

/// A value, and the label that tells it from others of the same family and container.
struct Sample(Option<(&'static str, &'static str)>, Value);

enum Value {
    Whole(u64),
    Seconds(f64),
    Durations {
        sum: f64,
        count: u64,
        groups: Vec<(f64, u64)>,
    },
}

fn families() -> [Family; 14] {
    let counter = |name, help, unit, samples| Family {
        name,
        help,
        unit,
        kind: MetricType::Counter,
        samples,
    };
    let gauge = |name, help, unit, samples| Family {
        kind: MetricType::Gauge,
        ..counter(name, help, unit, samples)
    };
    [
        gauge(
            "guest_memory",
            "Linear memory of the guest's instances",
            Some(Unit::Bytes),
            |container| {
                whole(if container.runs {
                    container.get(Count::Memory)
                } else {
                    0
                })
            },
        ),
        gauge(
            "guest_memory_peak",
            "The most linear memory that the instances had at a time",
            Some(Unit::Bytes),
            |container| whole(container.get(Count::MemoryPeak)),
        ),
        counter(
            "guest_cpu",
            "Processor time of the guest's process",
            Some(Unit::Seconds),
            |container| {
                let time = container.processor.into_iter();
                time.map(|time| Sample(None, Value::Seconds(time.as_secs_f64())))
                    .collect()
            },
        ),
        counter(
            "instances",
            "Instances that were created",
            None,
            |container| whole(container.get(Count::Instances)),
        ),
        counter(
            "fuel",
            "Fuel that was used, where it is limited",
            None,
            |container| {
                when(
                    container.get(Count::Metered) > 0,
                    whole(container.get(Count::Fuel)),
                )
            },
        ),
        counter(
            "artifact_cache_hits",
            "Starts that found their compiled code on the node",
            None,
            |container| whole(container.get(Count::CacheHits)),
        ),
        counter(
            "artifact_cache_misses",
            "Starts that had their code compiled",
            None,
            |container| whole(container.get(Count::CacheMisses)),
        ),
        counter(
            "compile",
            "Time that starts waited for the compiler",
            Some(Unit::Seconds),
            |container| {
                let time = seconds(container.get(Count::CompileTime));
                vec![Sample(None, Value::Seconds(time))]
            },
        ),
        counter(
            "traps",
            "Traps of the guest, by their kind",
            None,
            |container| {
                let sample = |kind: &TrapKind| {
                    let count = container.counters.traps(*kind);
                    Sample(Some(("kind", kind.name())), Value::Whole(count))
                };
                TrapKind::ALL.iter().map(sample).collect()
            },
        ),
        counter(
            "http_requests",
            "Requests that have ended, by the class of their status",
            None,
            |container| {
                let sample = |end: &RequestEnd| {
                    let count = container.counters.requests(*end);
                    Sample(Some(("status", end.name())), Value::Whole(count))
                };
                of_service(container, RequestEnd::ALL.iter().map(sample).collect())
            },
        ),
        Family {
            name: "http_request_duration",
            help: "Time from the head of a request to the end of its answer",
            unit: Some(Unit::Seconds),
            kind: MetricType::Histogram,
            samples: |container| of_service(container, durations(container)),
        },
        gauge(
            "http_requests_in_flight",
            "Requests that have not ended",
            None,
            |container| of_service(container, whole(in_flight(container))),
        ),
        counter(
            "http_request_body",
            "Bytes of requests' bodies that the guest was given",
            Some(Unit::Bytes),
            |container| of_service(container, whole(container.get(Count::BytesReceived))),
        ),
        counter(
            "http_response_body",
            "Bytes of answers' bodies that were sent",
            Some(Unit::Bytes),
            |container| of_service(container, whole(container.get(Count::BytesSent))),
        ),
    ]
}

fn when(condition: bool, samples: Vec<Sample>) -> Vec<Sample> {
    if condition { samples } else { Vec::new() }
}

fn of_service(container: &Container, samples: Vec<Sample>) -> Vec<Sample> {
    when(container.get(Count::Service) > 0, samples)
}

fn whole(value: u64) -> Vec<Sample> {
    vec![Sample(None, Value::Whole(value))]
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// None of a service that was killed.
fn in_flight(container: &Container) -> u64 {
    let ends = RequestEnd::ALL.iter();
    let ended = ends.fold(0u64, |sum, end| {
        sum.saturating_add(container.counters.requests(*end))
    });
    if container.runs {
        container.get(Count::RequestsBegun).saturating_sub(ended)
    } else {
        0
    }
}

fn durations(container: &Container) -> Vec<Sample> {
    let bounds = DURATION_BOUNDS.into_iter().chain([f64::INFINITY]);
    // Counted, not read: the sum of the groups is what a histogram's count has to be.
    let mut count = 0u64;
    let groups = zip(bounds, container.counters.durations())
        .map(|(bound, requests)| {
            // A page that a guest wrote to may hold anything.
            let requests = (*requests).min(u64::MAX - count);
            count += requests;
            (bound, requests)
        })
        .collect();
    vec![Sample(
        None,
        Value::Durations {
            sum: seconds(container.get(Count::RequestTime)),
            count,
            groups,
        },
    )]
}

#[derive(Debug)]
struct Containers(Vec<Container>);

impl Collector for Containers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in families() {
            let unit = family.unit.as_ref();
            let mut metric =
                encoder.encode_descriptor(family.name, family.help, unit, family.kind)?;
            for container in &self.0 {
                for Sample(label, value) in (family.samples)(container) {
                    let label: Vec<_> = label.into_iter().collect();
                    let labels = (container.labels.clone(), label);
                    write(metric.encode_family(&labels)?, family.kind, value)?;
                }
            }
        }
        Ok(())
    }
}

fn write(mut metric: MetricEncoder<'_>, kind: MetricType, value: Value) -> fmt::Result {
    match (kind, value) {
        (MetricType::Gauge, Value::Whole(value)) => metric.encode_gauge(&value),
        (MetricType::Gauge, Value::Seconds(value)) => metric.encode_gauge(&value),
        (_, Value::Whole(value)) => metric.encode_counter::<NoLabelSet, _, u64>(&value, None),
        (_, Value::Seconds(value)) => metric.encode_counter::<NoLabelSet, _, u64>(&value, None),
        (_, Value::Durations { sum, count, groups }) => {
            metric.encode_histogram::<NoLabelSet>(sum, count, &groups, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lighter_core::{COUNTERS_BYTES, Snapshot};
    use proptest::prelude::*;

    use super::*;

    fn container(bytes: &[u8], id: &str) -> Container {
        Container {
            labels: vec![("pod", String::new()), ("id", id.to_owned())],
            counters: Snapshot::of(bytes).unwrap(),
            runs: true,
            processor: Some(Duration::from_millis(1500)),
        }
    }

    fn page(fields: &[(Count, u64)]) -> Vec<u8> {
        let mut page = vec![0; COUNTERS_BYTES];
        for (count, value) in fields {
            let field = *count as usize * 8;
            page[field..field + 8].copy_from_slice(&value.to_ne_bytes());
        }
        page
    }

    #[test]
    fn names_carry_units_and_counters_are_totals() {
        let command = page(&[(Count::Memory, 65_536), (Count::CompileTime, 2_500_000_000)]);
        let text = text(vec![container(&command, "a")]).unwrap();
        for line in [
            "# TYPE lighter_guest_memory_bytes gauge",
            r#"lighter_guest_memory_bytes{pod="",id="a"} 65536"#,
            r#"lighter_guest_cpu_seconds_total{pod="",id="a"} 1.5"#,
            r#"lighter_compile_seconds_total{pod="",id="a"} 2.5"#,
            r#"lighter_traps_total{pod="",id="a",kind="unreachable"} 0"#,
            "# EOF",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} in {text}");
        }
        for absent in ["lighter_http_requests_total{", "lighter_fuel_total{"] {
            assert!(!text.contains(absent), "{absent} in {text}");
        }
    }

    #[test]
    fn only_who_runs_has_memory_and_requests_in_flight() {
        let service = page(&[
            (Count::Service, 1),
            (Count::Memory, 7),
            (Count::RequestsBegun, 3),
        ]);
        let mut container = container(&service, "a");
        let has = |container: &Container, line: &str| {
            let text = text(vec![container.clone()]).unwrap();
            text.lines().any(|have| have == line)
        };
        assert!(has(
            &container,
            r#"lighter_guest_memory_bytes{pod="",id="a"} 7"#
        ));
        assert!(has(
            &container,
            r#"lighter_http_requests_in_flight{pod="",id="a"} 3"#
        ));
        container.runs = false;
        container.processor = None;
        assert!(has(
            &container,
            r#"lighter_guest_memory_bytes{pod="",id="a"} 0"#
        ));
        assert!(has(
            &container,
            r#"lighter_http_requests_in_flight{pod="",id="a"} 0"#
        ));
        let text = text(vec![container]).unwrap();
        assert!(!text.contains("lighter_guest_cpu_seconds_total{"), "{text}");
    }

    proptest! {
        /// Whatever a guest that took its process over writes, and whoever chose its names.
        #[test]
        fn any_page_and_any_name_give_lines_of_their_own(
            bytes in proptest::collection::vec(any::<u8>(), COUNTERS_BYTES..=COUNTERS_BYTES),
            id in any::<String>(),
        ) {
            let quiet = text(vec![container(&page(&[(Count::Service, 1)]), "b")]).unwrap();
            let both = text(vec![
                container(&bytes, &id),
                container(&page(&[(Count::Service, 1)]), "b"),
            ]).unwrap();
            for line in quiet.lines().filter(|line| line.contains(r#"id="b""#)) {
                prop_assert!(both.lines().any(|have| have == line), "{} is not there", line);
            }
            let own = |line: &&str| !line.starts_with('#') && !line.contains(r#"id="b""#);
            let most = quiet.lines().filter(|line| !line.starts_with('#')).count() + 1;
            prop_assert!(both.split('\n').filter(|line| !line.is_empty()).filter(own).count() <= most);
        }
    }
}
