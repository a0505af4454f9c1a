//! A load balancer in front of two Services, as operators have one: a real Envoy that splits requests by weights in a
//! file, and says by a header which of the two answered.

use anyhow::{Context as _, Result, ensure};
use moorgate_tests::backend::NAME_HEADER;
use moorgate_tests::cluster::Cluster;
use moorgate_tests::http::{Request, Target};
use moorgate_tests::load::Load;
use moorgate_tests::process::Running;
use moorgate_tests::{program, wait};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A side: its name, and where it is.
pub(crate) type Side = (&'static str, IpAddr);

/// It listens on a socket, so that clients need not be in the cluster's network.
pub(crate) struct Front {
    _envoy: Running,
    folder: PathBuf,
    sides: [Side; 2],
}

fn cluster_of((name, address): &Side) -> Value {
    let endpoint = json!({"address": {"socket_address": {"address": address.to_string(), "port_value": 80}}});
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "5s",
        // Nothing is sent on a connection that the other side is closing: a pod that ends closes those that are idle.
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": {"max_requests_per_connection": 1},
            "explicit_http_config": {"http_protocol_options": {}},
        }},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    })
}

impl Front {
    /// In front of these; everything goes to the first.
    pub(crate) fn start(cluster: &Cluster, folder: &Path, sides: [Side; 2]) -> Result<Self> {
        let folder = folder.join("front");
        std::fs::create_dir_all(&folder)?;
        let routes = folder.join("routes.json").display().to_string();
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "front",
            "rds": {"route_config_name": "front", "config_source": {"path_config_source": {"path": routes}}},
            "http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        });
        let bootstrap = json!({"node": {"id": "front", "cluster": "front"}, "static_resources": {
            "listeners": [{
                "name": "front",
                "address": {"pipe": {"path": folder.join("socket")}},
                "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
            }],
            "clusters": sides.iter().map(cluster_of).collect::<Vec<_>>(),
        }});
        std::fs::write(folder.join("bootstrap.json"), bootstrap.to_string())?;
        let mut command = cluster.command(&program::envoy()?);
        command.arg("--config-path").arg(folder.join("bootstrap.json"));
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]);
        write_weights(&folder, &sides, 0)?;
        let envoy = Running::start("front", &mut command, &folder)?;
        let front = Self { _envoy: envoy, folder, sides };
        wait::until("the load balancer", || {
            let answer = moorgate_tests::http::send(&front.target(), &Request::get("nobody.example", "/"))?;
            ensure!(answer.backend().is_some(), "status {}", answer.status);
            Ok(())
        })?;
        Ok(front)
    }

    pub(crate) fn target(&self) -> Target {
        Target::unix(&self.folder.join("socket"))
    }

    /// Requests without an end.
    pub(crate) fn load(&self, request: &Request) -> Load {
        Load::start(&self.target(), request, 4, Duration::from_millis(2))
    }

    /// Moves the weight of the second side under load, and waits until it shows in who answers.
    pub(crate) fn weigh(&self, percent: u32, load: &Load) -> Result<()> {
        write_weights(&self.folder, &self.sides, percent)?;
        let [(first, _), (second, _)] = self.sides;
        wait::until("the weight", || {
            let before = load.report();
            load.wait(200)?;
            let after = load.report();
            let (one, two) =
                (after.from(first) - before.from(first), after.from(second) - before.from(second));
            // Of two hundred by a tenth: none of them at all is less likely than one in a billion.
            let seen = match percent {
                0 => two == 0 && one > 0,
                100 => one == 0 && two > 0,
                _ => one > 0 && two > 0,
            };
            ensure!(seen, "{one} and {two} at {percent} %");
            Ok(())
        })
    }
}

/// Replaces the file as a whole: Envoy looks when it is moved into place.
fn write_weights(folder: &Path, sides: &[Side; 2], percent: u32) -> Result<()> {
    let weighted = sides.iter().zip([100 - percent, percent]).map(|((name, _), weight)| {
        let header = json!({"header": {"key": NAME_HEADER, "value": name}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"});
        json!({"name": name, "weight": weight, "response_headers_to_add": [header]})
    });
    let route = json!({"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": weighted.collect::<Vec<_>>()}}});
    let answer = json!({"version_info": percent.to_string(), "resources": [{
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": "front",
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}],
    }]});
    let new = folder.join("routes.new");
    std::fs::write(&new, answer.to_string())?;
    std::fs::rename(new, folder.join("routes.json")).context("the weights")
}
