//! Tries patches of parameters before any fleet is made by them: on a Gateway as there could be one, in each model.

use super::patch::Patch;
use super::{
    Applier, Fleet, Infrastructure, Model, Needs, Node, Pool, Port, Settings, Shape, guard, unpatched,
};
use moorgate_model::{FieldPath, Segment, ir};
use moorgate_snapshot::{Channel, FleetName};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What is wrong with the patches of this `spec`, and where in it.
pub(crate) fn check(spec: &Value) -> Vec<(FieldPath, String)> {
    let shape = Shape::read(spec);
    let fleet = fleet(shape);
    // Models differ little, so most is found in all of them.
    let mut out = BTreeMap::new();
    for model in models() {
        let Ok(manifests) = unpatched(&fleet, &settings(model)) else { continue };
        for manifest in manifests {
            let kind = manifest["kind"].as_str().unwrap_or_default();
            let Some(patch) = fleet.shape.patches.of(kind) else { continue };
            let at = FieldPath::parse("provider.kubernetes").key(field(kind)).key("patch").key("value");
            match patch.over(&manifest) {
                Err(error) => {
                    out.insert(at.clone(), format!("{at} cannot be used: {error}"));
                }
                Ok(after) => {
                    for breach in guard::check(&manifest, &after) {
                        let message = format!("{at} cannot be used: {}: {}", breach.at, breach.why);
                        out.insert(place(&at, &breach.at), message);
                    }
                }
            }
        }
    }
    out.into_iter().collect()
}

/// The field of an EnvoyProxy for a kind.
fn field(kind: &str) -> &'static str {
    match kind {
        "DaemonSet" => "envoyDaemonSet",
        "Deployment" => "envoyDeployment",
        "HorizontalPodAutoscaler" => "envoyHpa",
        "PodDisruptionBudget" => "envoyPDB",
        _ => "envoyService",
    }
}

/// Where in the patch: items of lists have other numbers there.
fn place(patch: &FieldPath, at: &FieldPath) -> FieldPath {
    let keys = at.segments().iter().take_while(|segment| matches!(segment, Segment::Key(_)));
    let mut place = patch.clone();
    keys.cloned().for_each(|segment| place.push(segment));
    place
}

fn fleet(shape: Shape) -> Fleet {
    let asked = shape.patches.service.as_ref().map(ports).unwrap_or_default();
    let ports = asked.into_iter().chain([Port::of(80, None)]).collect();
    let (namespace, name) = ("namespace", "gateway");
    Fleet {
        name: FleetName::gateway(namespace, name),
        infrastructure: Infrastructure {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            class: "class".to_owned(),
            ..Infrastructure::default()
        },
        ports,
        needs: Needs::default(),
        shape,
        in_zone: false,
        proxy: ir::Proxy::default(),
    }
}

/// Ports that a patch speaks of: some Gateway has them.
fn ports(patch: &Patch) -> BTreeSet<Port> {
    let ports = patch.value["spec"]["ports"].as_array().into_iter().flatten();
    let port = |port: &Value| {
        let number = port["port"].as_u64().and_then(|number| u16::try_from(number).ok())?;
        Some(Port::of(number, port["protocol"].as_str()))
    };
    ports.filter_map(port).collect()
}

fn models() -> [Model; 3] {
    let (namespace, tls_secret, ca, token_issuer) =
        (String::new(), String::new(), String::new(), String::new());
    let pool = Pool {
        namespace: namespace.clone(),
        tls_secret: tls_secret.clone(),
        ca: ca.clone(),
        token_issuer: token_issuer.clone(),
        replicas: 2,
    };
    [Model::Sidecar, Model::Pool(pool), Model::Node(Node { namespace, tls_secret, ca, token_issuer })]
}

fn settings(model: Model) -> Settings {
    Settings {
        model,
        applier: Applier::Render,
        controller_name: String::new(),
        stores: vec!["s3://store".to_owned()],
        store_volume: None,
        store_secret: None,
        store_tokens: true,
        store_ca: None,
        channel: Channel::stable(),
        trust: String::new(),
        report_secret: None,
        relay_image: super::RELAY_IMAGE.to_owned(),
        envoy_image: super::ENVOY_IMAGE.to_owned(),
        merged_namespace: String::new(),
    }
}
