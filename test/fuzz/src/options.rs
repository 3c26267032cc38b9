//! What has to hold of the options of a node and of a container.

use lighter_wasm::debugging::Tool;
use lighter_wasm::{NodeOptions, Options, Variant};

/// Asserts that `options` allow no more than `node` does. `probes` are hosts that are tried.
pub fn check_narrowed(node: &NodeOptions, options: &Options, probes: &[(String, u16)]) {
    let widest = node
        .for_container(&[], None)
        .expect("a node's options hold for a pod without annotations");
    let (network, http) = (&options.network, &options.http);
    assert!(!network.tcp || node.tcp);
    assert!(!network.udp || node.udp);
    assert!(!network.names || node.names);
    assert!(!network.link_local || node.link_local);
    assert!(!options.preview3 || node.preview3);
    for (host, port) in probes {
        assert!(
            !network.hosts.allow(host, *port) || widest.network.hosts.allow(host, *port),
            "{host}:{port}"
        );
    }
    assert!((1..=node.http_concurrency).contains(&http.concurrency));
    assert!(http.body_bytes <= node.http_body_bytes);
    assert!(http.header_time <= widest.http.header_time);
    assert!(http.request_time <= widest.http.request_time);
    assert!(http.header_time <= http.request_time);
    assert!(
        http.reuse
            .is_none_or(|reuse| (1..=1_000_000).contains(&reuse))
    );
    if let Some(variant) = options.engine {
        let is_named = node.variants.iter().any(|name| name == variant.name());
        assert!(is_named || matches!(variant, Variant::Command | Variant::Http));
    }
    assert_eq!(
        options.fuel.is_some(),
        options.engine == Some(Variant::Metered)
    );
    for tool in &options.debug {
        assert!(node.debug.iter().any(|name| name == tool.name()));
    }
    assert!(!options.debug.contains(&Tool::Profile) || options.engine != Some(Variant::Command));
    assert_eq!(options.debug_bytes, node.debug_bytes);
}
