//! Names that parameters choose for the objects of a fleet: one fleet never takes those of another.

use super::{Gateway, Index};
use crate::attach::index::Key;
use crate::attach::precedence::Age;
use crate::attach::proxy::parameters_of;
use crate::render::{self, Shape};
use moorgate_model::diagnostic::semantic::INVALID_PARAMETERS;
use moorgate_model::{FieldPath, Node};
use moorgate_snapshot::FleetName;
use std::collections::BTreeMap;

/// Who wants to call an object so: those that did not choose it first, then the older.
type Claim<'a> = (bool, Age, FleetName, Key<'a>);

/// Refuses Gateways whose parameters choose a name that another fleet in the same namespace has.
pub(super) fn find<'a>(index: &Index<'a>, gateways: &mut BTreeMap<Key<'a>, Gateway<'a>>) {
    let mut claims: BTreeMap<(String, &'static str, String), Vec<Claim<'a>>> = BTreeMap::new();
    for (key, gateway) in gateways.iter().filter(|(_, gateway)| gateway.is_served()) {
        let fleet = index.options.fleet(gateway.class, key.0, key.1);
        // The fleets of merged classes lie in one namespace, whichever that is.
        let home = match &fleet {
            FleetName::Gateway { namespace, .. } => namespace.clone(),
            FleetName::Class { .. } => String::new(),
        };
        let usual = render::object_name(&fleet, gateway.class);
        for (kind, name, chosen) in shape(index, *key).claims(&usual) {
            let claim = (chosen, gateway.age.clone(), fleet.clone(), *key);
            claims.entry((home.clone(), kind, name)).or_default().push(claim);
        }
    }
    for ((_, kind, name), mut all) in claims {
        all.sort();
        let Some((_, _, winner, _)) = all.first().cloned() else { continue };
        for (_, _, _, key) in all.iter().filter(|(_, _, fleet, _)| *fleet != winner) {
            let Some(gateway) = gateways.get_mut(key) else { continue };
            let message =
                format!("{kind} {name} is that of fleet {winner}: each fleet needs a name of its own");
            let at = FieldPath::parse("spec.infrastructure.parametersRef");
            gateway.refused.push(gateway.object.diagnostic(&INVALID_PARAMETERS, at, message));
        }
    }
}

fn shape(index: &Index<'_>, key: Key<'_>) -> Shape {
    let found = parameters_of(index, key);
    let spec = found.as_ref().and_then(|found| found.root.get("spec")).map(Node::to_json);
    let spec = spec.and_then(|spec| serde_json::to_value(spec).ok());
    spec.map(|spec| Shape::read(&spec)).unwrap_or_default()
}
