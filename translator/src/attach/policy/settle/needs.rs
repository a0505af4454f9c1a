//! Policies meet the parameters of the fleets that serve their routes: databases and modules that only the
//! operator of a fleet can name.

use super::{Settling, Together};
use crate::attach::policy::held::Chosen;
use crate::attach::proxy;
use moorgate_model::Object;
use moorgate_model::diagnostic::policy::FLEET_LACKS;
use moorgate_model::ir::Route;
use moorgate_policies::{Kind, Need};
use std::rc::Rc;
use std::sync::Arc;

impl Settling<'_, '_> {
    /// Puts on a route what only its fleet can give. A route whose fleet does not give it answers 500.
    pub(super) fn meet(
        &mut self,
        route: &mut Route,
        together: &Together,
        chosen: &[(Kind, Chosen)],
        gateway: &(String, String),
    ) {
        let lacks = !together.needs.is_empty() && self.lacks(route, together, chosen, gateway);
        if lacks {
            route.refuse(500);
        } else if !together.limits.is_empty() {
            self.limit(route, together, chosen, gateway);
        }
    }

    /// Puts on a route what its fleet gives; true if something is missing.
    fn lacks(
        &mut self,
        route: &mut Route,
        together: &Together,
        chosen: &[(Kind, Chosen)],
        gateway: &(String, String),
    ) -> bool {
        let parameters = self.parameters(gateway);
        let mut added = route.policies.take().map(|added| (*added).clone()).unwrap_or_default();
        let mut lacks = false;
        for need in &together.needs {
            match need.meet(parameters.as_ref().as_ref()) {
                Ok(met) => {
                    added.filters.extend(met.filters);
                    added.reserved.extend(met.reserved);
                    added.oldest_envoy = added.oldest_envoy.max(met.oldest_envoy);
                }
                Err(why) => {
                    self.unmet(need, chosen, gateway, &why);
                    lacks = true;
                }
            }
        }
        added.filters.sort();
        route.policies = Some(Arc::new(added));
        lacks
    }

    /// Says of the policy that asks for it that its fleet lacks something.
    fn unmet(&mut self, need: &Need, chosen: &[(Kind, Chosen)], gateway: &(String, String), why: &str) {
        let numbers = chosen.iter().flat_map(|(_, chosen)| [Some(chosen.winner), chosen.merged]).flatten();
        let asks = |number: &usize, fits: &dyn Fn(&Need) -> bool| {
            let one = self.policies.held.all.get(*number);
            one.is_some_and(|one| one.compiled.parts.values().flat_map(|part| &part.needs).any(fits))
        };
        // What was merged may stand at another place than in either of the two.
        let same = numbers.clone().find(|number| asks(number, &|other| other == need));
        let Some(number) = same.or_else(|| numbers.clone().find(|number| asks(number, &|_| true))) else {
            return;
        };
        let Some(one) = self.policies.held.all.get(number) else { return };
        let known = self.settled.unmet.entry((number, gateway.clone())).or_default();
        if !known.insert(why.to_owned()) {
            return;
        }
        let (namespace, name) = gateway;
        let message = format!("at Gateway {namespace}/{name} {why}");
        let finding = one.object.diagnostic(&FLEET_LACKS, need.at.clone(), message);
        let help = "name it in the EnvoyProxy of the Gateway or its class, and put its file beside each Envoy; \
                    until then the routes of the policy at this Gateway answer 500";
        self.diagnostics.push(finding.help(help));
    }

    /// The parameters that hold for a Gateway, looked for once.
    fn parameters(&mut self, name: &(String, String)) -> Rc<Option<Object>> {
        if let Some(known) = self.parameters.get(name) {
            return Rc::clone(known);
        }
        let key = self.index.gateway_key(&name.0, &name.1);
        let found = Rc::new(key.and_then(|key| proxy::parameters_of(self.index, key)));
        self.parameters.insert(name.clone(), Rc::clone(&found));
        found
    }
}
