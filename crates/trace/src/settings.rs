//! Whether spans are made at all, and where they go: a node's options, and the environment
//! variables that OpenTelemetry has for that.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::sampler::Sampler;

/// Where `lighter traces` listens, unless the options say otherwise.
const SOCKET: &str = "/run/lighter/traces.sock";

/// The table `traces` of a node's options. That it is there switches tracing on.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TraceOptions {
    /// Where `lighter traces` sends spans: `http://collector:4318`.
    pub endpoint: Option<String>,
    /// How.
    pub protocol: Option<Protocol>,
    /// Share of the traces that begin on this node which is kept, from 0 to 1.
    pub ratio: Option<f64>,
    /// The socket of `lighter traces`.
    pub socket: Option<PathBuf>,
}

/// A transport of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    /// gRPC, usually at port 4317.
    #[serde(rename = "grpc")]
    Grpc,
    /// Protobuf over HTTP/1.1, usually at port 4318.
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}

impl TraceOptions {
    /// Checks what is more than the type of a value.
    ///
    /// # Errors
    /// What is wrong with which key.
    pub fn check(&self) -> Result<(), String> {
        match self.ratio {
            Some(ratio) if Sampler::of_share(ratio).is_none() => {
                Err(format!("traces.ratio is {ratio}: it is from 0 to 1"))
            }
            _ => Ok(()),
        }
    }

    /// The socket of `lighter traces`.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| SOCKET.into())
    }
}

/// How spans are made where tracing is on.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Settings {
    /// Which traces are kept.
    pub sampler: Sampler,
    /// Where spans go.
    pub socket: PathBuf,
}

impl Settings {
    /// `None` if tracing is off: there are no options for it and no endpoint in the environment, or
    /// the environment switches it off. `variable` reads the environment.
    pub fn choose(
        options: Option<&TraceOptions>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Option<Self> {
        let is = |name: &str, value: &str| {
            variable(name).is_some_and(|text| text.trim().eq_ignore_ascii_case(value))
        };
        let has_endpoint = [
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ]
        .iter()
        .any(|name| variable(name).is_some_and(|text| !text.is_empty()));
        if is("OTEL_SDK_DISABLED", "true")
            || is("OTEL_TRACES_EXPORTER", "none")
            || (options.is_none() && !has_endpoint)
        {
            return None;
        }
        let by_options = options
            .and_then(|options| options.ratio)
            .and_then(Sampler::of_share);
        let by_environment = || {
            let name = variable("OTEL_TRACES_SAMPLER").unwrap_or_default();
            Sampler::of_names(&name, variable("OTEL_TRACES_SAMPLER_ARG").as_deref())
        };
        Some(Self {
            sampler: by_options.unwrap_or_else(by_environment),
            socket: options.unwrap_or(&TraceOptions::default()).socket(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(options: Option<&TraceOptions>, variables: &[(&str, &str)]) -> Option<Settings> {
        Settings::choose(options, |name| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_is_traced_unless_that_is_asked_for() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
        assert_eq!(choose(None, &[]), None);
        assert_eq!(choose(None, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), None);
        assert_eq!(choose(None, &[("OTEL_TRACES_SAMPLER", "always_on")]), None);
        let settings = choose(None, &[endpoint]).unwrap();
        assert_eq!(settings.socket, PathBuf::from(SOCKET));
        assert!(choose(Some(&TraceOptions::default()), &[]).is_some());
        for off in [
            ("OTEL_SDK_DISABLED", "true"),
            ("OTEL_TRACES_EXPORTER", "none"),
        ] {
            assert_eq!(choose(None, &[endpoint, off]), None);
            assert_eq!(choose(Some(&TraceOptions::default()), &[off]), None);
        }
    }

    #[test]
    fn options_count_before_the_environment() {
        let options = TraceOptions {
            ratio: Some(0.5),
            socket: Some("/run/other.sock".into()),
            ..TraceOptions::default()
        };
        let off = ("OTEL_TRACES_SAMPLER", "always_off");
        let settings = choose(Some(&options), &[off]).unwrap();
        assert_eq!(settings.sampler, Sampler::of_share(0.5).unwrap());
        assert_eq!(settings.socket, PathBuf::from("/run/other.sock"));
        let settings = choose(Some(&TraceOptions::default()), &[off]).unwrap();
        assert!(!settings.sampler.keeps(1, None));
    }

    #[test]
    fn a_share_is_from_0_to_1() {
        let of = |ratio| TraceOptions {
            ratio,
            ..TraceOptions::default()
        };
        assert!(of(None).check().is_ok() && of(Some(0.0)).check().is_ok());
        assert!(of(Some(1.1)).check().unwrap_err().contains("traces.ratio"));
    }
}
