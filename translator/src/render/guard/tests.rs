use crate::render::tests::{HTTP, HTTPS, breaches, find, fleet_of, models, settings, source};
use crate::render::{Fleet, RenderError, Settings, Shape, manifests};
use serde_json::{Value, json};

/// What comes of a patch of a kind in each model.
fn made(kind: &str, patch: &Value, more: &Value) -> Vec<Result<Vec<Value>, RenderError>> {
    let mut spec = json!({"provider": {"kubernetes": {kind: more}}});
    spec["provider"]["kubernetes"][kind]["patch"] = patch.clone();
    let fleet = fleet_of(&source(&format!("{HTTP}, {HTTPS}"), "", ""));
    let fleet = Fleet { shape: Shape::read(&spec), ..fleet };
    models().map(|model| manifests(&fleet, &Settings { model, ..settings() })).into()
}

fn pod(spec: &Value) -> Value {
    json!({"value": {"spec": {"template": {"spec": spec}}}})
}

/// A patch of Envoy's container.
fn envoy(fields: &Value) -> Value {
    let mut container = fields.clone();
    container["name"] = "envoy".into();
    pod(&json!({"containers": [container]}))
}

#[test]
fn patches_that_leave_a_fleet_whole_are_carried_out() {
    let sidecar = json!({
        "name": "agent", "image": "agent:1",
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    });
    let cases = [
        (pod(&json!({"dnsPolicy": "Default"})), "/spec/template/spec/dnsPolicy", json!("Default")),
        (
            pod(&json!({"terminationGracePeriodSeconds": 90})),
            "/spec/template/spec/terminationGracePeriodSeconds",
            json!(90),
        ),
        (pod(&json!({"containers": [sidecar]})), "/spec/template/spec/containers/0/name", json!("agent")),
        (
            envoy(&json!({"imagePullPolicy": "Always"})),
            "/spec/template/spec/containers/0/imagePullPolicy",
            json!("Always"),
        ),
        (
            envoy(&json!({"resources": {"requests": {"cpu": 2}}})),
            "/spec/template/spec/containers/0/resources/requests/cpu",
            json!(2),
        ),
        (
            envoy(&json!({"ports": [{"containerPort": 80}]})),
            "/spec/template/spec/containers/0/ports/0",
            json!({"containerPort": 80}),
        ),
        (
            envoy(&json!({"lifecycle": {"preStop": {"sleep": {"seconds": 9}}}})),
            "/spec/template/spec/containers/0/lifecycle/preStop/sleep/seconds",
            json!(9),
        ),
        (json!({"value": {"spec": {"minReadySeconds": 7}}}), "/spec/minReadySeconds", json!(7)),
        (
            json!({"type": "JSONMerge", "value": {"metadata": {"annotations": {"a": "b"}}}}),
            "/metadata/annotations/a",
            json!("b"),
        ),
        (
            pod(&json!({"initContainers": [{"name": "relay", "resources": {"limits": {"memory": "1Gi"}}}]})),
            "/spec/selector/matchLabels/gateway.networking.k8s.io~1gateway-name",
            json!("edge"),
        ),
    ];
    for (patch, at, expected) in cases {
        // Only the first model has a relay in the pod.
        let all = made("envoyDeployment", &patch, &json!({}));
        let count = if patch.to_string().contains("relay") { 1 } else { 3 };
        for manifests in all.into_iter().take(count) {
            let manifests = manifests.unwrap();
            let deployment = find(&manifests, "Deployment");
            assert_eq!(deployment.pointer(at), Some(&expected), "{patch}: {deployment:#}");
            let mut spec = deployment["spec"]["template"]["spec"].clone();
            for container in spec["containers"].as_array_mut().unwrap() {
                container["securityContext"]["readOnlyRootFilesystem"] = true.into();
            }
            assert_eq!(breaches(&spec), [""; 0], "{patch}");
        }
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn patches_that_would_break_a_fleet_are_refused() {
    let container = |fields: Value| envoy(&fields);
    let cases = [
        (json!({"value": {"metadata": {"name": "other"}}}), "metadata.name"),
        (json!({"value": {"metadata": {"namespace": "other"}}}), "metadata.namespace"),
        (json!({"value": {"kind": "DaemonSet"}}), "kind"),
        (json!({"value": {"status": {}}}), "status"),
        (json!({"value": {"metadata": {"finalizers": ["a/b"]}}}), "metadata.finalizers"),
        (json!({"value": {"metadata": {"labels": {"moorgate.dev/fleet": "x"}}}}), "metadata.labels"),
        (json!({"value": {"metadata": {"annotations": null}}}), "metadata.annotations"),
        (json!({"value": {"spec": {"selector": {"matchLabels": {"a": "b"}}}}}), "spec.selector"),
        (
            json!({"value": {"spec": {"template": {"metadata": {"labels": {"$patch": "replace"}}}}}}),
            "spec.template.metadata.labels",
        ),
        (
            json!({"value": {"spec": {"template": {"metadata": {"annotations": {"moorgate.dev/config": "x"}}}}}}),
            "spec.template.metadata.annotations",
        ),
        (
            json!({"type": "JSONMerge", "value": {"spec": {"template": {"spec": {"containers": []}}}}}),
            "spec.template.spec.containers",
        ),
        (
            pod(&json!({"containers": [{"name": "envoy", "$patch": "delete"}]})),
            "spec.template.spec.containers",
        ),
        (pod(&json!({"serviceAccountName": "admin"})), "spec.template.spec.serviceAccountName"),
        (
            pod(&json!({"automountServiceAccountToken": true})),
            "spec.template.spec.automountServiceAccountToken",
        ),
        (pod(&json!({"hostNetwork": true})), "spec.template.spec.hostNetwork"),
        (pod(&json!({"shareProcessNamespace": true})), "spec.template.spec.shareProcessNamespace"),
        (
            pod(&json!({"securityContext": {"runAsNonRoot": false}})),
            "spec.template.spec.securityContext.runAsNonRoot",
        ),
        (pod(&json!({"volumes": [{"name": "config", "$patch": "delete"}]})), "spec.template.spec.volumes"),
        (
            pod(&json!({"volumes": [{"name": "a", "secret": {"secretName": "b"}}]})),
            "spec.template.spec.volumes",
        ),
        (pod(&json!({"volumes": [{"name": "a", "hostPath": {"path": "/"}}]})), "spec.template.spec.volumes"),
        (pod(&json!({"containers": [{"name": "agent", "image": "agent"}]})), "spec.template.spec.containers"),
        (pod(&json!({"containers": [{"name": "relay", "image": "mine"}]})), "spec.template.spec.containers"),
        (pod(&json!({"madeUp": 1})), ""),
        (container(json!({"command": ["/bin/sh"]})), "spec.template.spec.containers[0].command"),
        (container(json!({"args": ["--config-path", "/tmp/mine"]})), "spec.template.spec.containers[0].args"),
        (
            container(json!({"env": [{"name": "POD_NAME", "valueFrom": null, "value": "me"}]})),
            "spec.template.spec.containers[0].env",
        ),
        (
            container(
                json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
            ),
            "spec.template.spec.containers[0].env",
        ),
        (
            container(json!({"volumeMounts": [{"mountPath": "/etc/moorgate", "name": "sockets"}]})),
            "spec.template.spec.containers[0].volumeMounts",
        ),
        (
            container(json!({"volumeMounts": [{"mountPath": "/data", "name": "sockets"}]})),
            "spec.template.spec.containers[0].volumeMounts",
        ),
        (
            container(json!({"securityContext": {"privileged": true}})),
            "spec.template.spec.containers[0].securityContext",
        ),
        (
            container(json!({"securityContext": {"runAsUser": 7}})),
            "spec.template.spec.containers[0].securityContext.runAsUser",
        ),
        (
            container(json!({"ports": [{"containerPort": 80, "hostPort": 80}]})),
            "spec.template.spec.containers[0].ports",
        ),
    ];
    for (patch, at) in cases {
        for kind in ["envoyDeployment", "envoyDaemonSet"] {
            if kind == "envoyDaemonSet" && patch.to_string().contains("\"DaemonSet\"") {
                continue;
            }
            for made in made(kind, &patch, &json!({})) {
                let Err(RenderError::Refused { at: found, .. }) = made else { panic!("{patch} is taken") };
                assert!(found.starts_with(at), "{patch}: {found}");
            }
        }
    }
}

#[test]
fn the_relay_beside_envoy_stays_as_it_is() {
    let own = |fields: Value| {
        let mut container = fields;
        container["name"] = "relay".into();
        pod(&json!({"initContainers": [container]}))
    };
    for patch in [
        own(json!({"image": "mine"})),
        own(json!({"args": []})),
        own(json!({"env": [{"name": "A", "value": "b"}]})),
        own(json!({"$patch": "delete"})),
        own(json!({"securityContext": {"readOnlyRootFilesystem": false}})),
        own(json!({"lifecycle": {"postStart": {"exec": {"command": ["/bin/sh"]}}}})),
        json!({"type": "JSONMerge", "value": {"spec": {"template": {"spec": {"initContainers": null}}}}}),
    ] {
        let first = made("envoyDeployment", &patch, &json!({})).remove(0);
        assert!(matches!(first, Err(RenderError::Refused { .. })), "{patch}");
    }
}

#[test]
fn patches_of_services_lead_to_listeners_alone() {
    let services = |value: Value| made("envoyService", &json!({"value": value}), &json!({})).remove(0);
    let manifests = services(json!({"spec": {
        "ports": [{"port": 443, "nodePort": 30443}, {"port": 9000, "name": "other"}],
        "sessionAffinity": "ClientIP",
    }}))
    .unwrap();
    let spec = &find(&manifests, "Service")["spec"];
    let ports: Vec<(&Value, &Value)> =
        spec["ports"].as_array().unwrap().iter().map(|port| (&port["port"], &port["nodePort"])).collect();
    let (http, https) = ((&json!(80), &Value::Null), (&json!(443), &json!(30443)));
    assert_eq!(ports, [http, https], "a port that no listener has is another Gateway's");
    assert_eq!(spec["sessionAffinity"], "ClientIP");
    for value in [
        json!({"spec": {"selector": {"app": "other"}}}),
        json!({"spec": {"selector": null}}),
        json!({"spec": {"type": "ExternalName", "externalName": "a"}}),
        json!({"spec": {"externalIPs": ["10.0.0.1"]}}),
        json!({"spec": {"ports": [{"port": 80, "targetPort": 19001}]}}),
        json!({"spec": {"ports": [{"port": 80, "$patch": "delete"}]}}),
        json!({"spec": {"ports": null}}),
        json!({"spec": {"ports": [{"nodePort": 30080}]}}),
    ] {
        assert!(matches!(services(value.clone()), Err(RenderError::Refused { .. })), "{value}");
    }
}

#[test]
fn scalers_and_budgets_keep_to_their_workload() {
    for (kind, more, patch, expected) in [
        (
            "envoyHpa",
            json!({"maxReplicas": 3}),
            json!({"spec": {"minReplicas": 2}}),
            Some(("HorizontalPodAutoscaler", "/spec/minReplicas", json!(2))),
        ),
        ("envoyHpa", json!({"maxReplicas": 3}), json!({"spec": {"scaleTargetRef": {"name": "other"}}}), None),
        (
            "envoyPDB",
            json!({"minAvailable": 1}),
            json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}}),
            Some(("PodDisruptionBudget", "/spec/unhealthyPodEvictionPolicy", json!("AlwaysAllow"))),
        ),
        (
            "envoyPDB",
            json!({"minAvailable": 1}),
            json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}),
            None,
        ),
    ] {
        for made in made(kind, &json!({"value": patch}), &more) {
            match (&expected, made) {
                (Some((kind, at, value)), Ok(manifests)) => {
                    assert_eq!(find(&manifests, kind).pointer(at), Some(value));
                }
                (None, Err(RenderError::Refused { .. })) => {}
                (_, made) => panic!("{patch}: {made:?}"),
            }
        }
    }
}

/// What parameters should have refused is stopped before it is printed.
#[test]
fn pods_that_nobody_checked_are_not_printed() {
    for workload in [
        json!({"pod": {"securityContext": {"runAsUser": 0}}}),
        json!({"pod": {"volumes": [{"name": "a", "secret": {"secretName": "b"}}]}}),
        json!({"container": {"volumeMounts": [{"name": "token", "mountPath": "/t"}]}}),
        json!({"initContainers": [{"name": "a", "securityContext": {"privileged": true}}]}),
    ] {
        let spec = json!({"provider": {"kubernetes": {"envoyDeployment": workload}}});
        let fleet = Fleet { shape: Shape::read(&spec), ..fleet_of(&source(HTTP, "", "")) };
        let made = manifests(&fleet, &settings());
        assert!(matches!(made, Err(RenderError::Refused { .. })), "{workload}: {made:?}");
    }
}
