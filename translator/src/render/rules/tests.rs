use super::*;
use serde_json::json;

/// Where something is wrong.
fn places(found: &[Breach]) -> Vec<String> {
    found.iter().map(|one| one.at.to_string()).collect()
}

#[test]
fn security_contexts_of_pods_stay_restricted() {
    for (own, expected) in [
        (json!({}), vec![]),
        (json!({"runAsUser": 1000, "fsGroup": 2000, "supplementalGroups": [7]}), vec![]),
        (json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "a"}}), vec![]),
        (json!({"sysctls": [{"name": "net.ipv4.tcp_keepalive_time", "value": "60"}]}), vec![]),
        (json!({"seLinuxOptions": {"type": "container_t", "level": "s0"}}), vec![]),
        (json!({"runAsUser": 0}), vec!["runAsUser"]),
        (json!({"runAsNonRoot": false}), vec!["runAsNonRoot"]),
        (json!({"seccompProfile": {"type": "Unconfined"}}), vec!["seccompProfile"]),
        (json!({"appArmorProfile": {"type": "Unconfined"}}), vec!["appArmorProfile"]),
        (
            json!({"seLinuxOptions": {"type": "spc_t", "user": "u"}}),
            vec!["seLinuxOptions.type", "seLinuxOptions.user"],
        ),
        (json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}), vec!["sysctls[1]"]),
        (json!({"sysctls": [{"name": UNPRIVILEGED, "value": "1024"}]}), vec!["sysctls[0]"]),
        (json!({"windowsOptions": {"hostProcess": true}}), vec!["windowsOptions"]),
    ] {
        assert_eq!(places(&pod_security(&complete_pod(&own))), expected, "{own}");
    }
}

#[test]
fn security_contexts_of_containers_stay_restricted() {
    let pod = complete_pod(&json!({}));
    for (own, expected) in [
        (json!({}), vec![]),
        (json!({"readOnlyRootFilesystem": false, "runAsUser": 65532}), vec![]),
        (json!({"capabilities": {"add": ["NET_BIND_SERVICE"]}}), vec![]),
        (json!({"capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": false}), vec![]),
        (json!({"privileged": true}), vec!["privileged"]),
        (json!({"allowPrivilegeEscalation": true}), vec!["allowPrivilegeEscalation"]),
        (json!({"capabilities": {"drop": ["NET_RAW"]}}), vec!["capabilities.drop"]),
        (json!({"capabilities": {"add": ["NET_ADMIN"]}}), vec!["capabilities.add"]),
        (json!({"runAsNonRoot": false}), vec!["runAsNonRoot"]),
        (json!({"procMount": "Unmasked"}), vec!["procMount"]),
        (json!({"seccompProfile": {"type": "Unconfined"}}), vec!["seccompProfile"]),
        (json!({"runAsUser": 0}), vec!["runAsUser", "runAsUser"]),
        (json!({"runAsUser": 1000, "runAsGroup": 1000}), vec!["runAsUser", "runAsGroup"]),
    ] {
        assert_eq!(places(&envoy_security(&complete_container(&own), &pod)), expected, "{own}");
    }
}

#[test]
fn volumes_hold_no_secrets_and_nothing_of_the_node() {
    for (volume, expected) in [
        (json!({"name": "a", "emptyDir": {}}), vec![]),
        (json!({"name": "a", "configMap": {"name": "b"}}), vec![]),
        (json!({"name": "a", "persistentVolumeClaim": {"claimName": "b"}, "hostPath": null}), vec![]),
        (json!({"name": "a", "image": {"reference": "b"}}), vec![]),
        (json!({"name": "a", "ephemeral": {"volumeClaimTemplate": {}}}), vec![]),
        (json!({"name": "a", "projected": {"sources": [{"configMap": {}}, {"downwardAPI": {}}]}}), vec![]),
        (json!({"name": "a", "secret": {"secretName": "b"}}), vec!["[0].secret"]),
        (json!({"name": "a", "hostPath": {"path": "/"}}), vec!["[0].hostPath"]),
        (json!({"name": "a", "nfs": {}}), vec!["[0].nfs"]),
        (json!({"name": "a", "csi": {"driver": "b"}}), vec!["[0].csi"]),
        (
            json!({"name": "a", "projected": {"sources": [{"secret": {"name": "b"}}]}}),
            vec!["[0].projected.sources[0].secret"],
        ),
        (
            json!({"name": "a", "projected": {"sources": [{"downwardAPI": {}}, {"serviceAccountToken": {"path": "t"}}]}}),
            vec!["[0].projected.sources[1].serviceAccountToken"],
        ),
        (
            json!({"name": "a", "projected": {"sources": [{"podCertificate": {}}]}}),
            vec!["[0].projected.sources[0].podCertificate"],
        ),
        (json!({"name": "config", "emptyDir": {}}), vec!["[0].name"]),
        (json!({"name": "store-0", "emptyDir": {}}), vec!["[0].name"]),
        (json!({"name": "store-data", "emptyDir": {}}), vec![]),
    ] {
        assert_eq!(places(&volumes(&json!([volume]))), expected, "{volume}");
    }
    let twice = json!([{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}]);
    assert_eq!(places(&volumes(&twice)), ["[1].name"]);
}

#[test]
fn mounts_cover_nothing_that_is_needed() {
    let volumes = BTreeSet::from(["data".to_owned()]);
    for (name, path, expected) in [
        ("data", "/data", None),
        ("data", "/etc/envoy/geo", None),
        ("data", "/usr/local/lib/modules", None),
        ("data", "/run/moorgate2", None),
        ("other", "/data", Some("[0].name")),
        ("sockets", "/data", Some("[0].name")),
        ("data", "/run/moorgate", Some("[0].mountPath")),
        ("data", "/run/moorgate/more", Some("[0].mountPath")),
        ("data", "/run", Some("[0].mountPath")),
        ("data", "//run/./moorgate/", Some("[0].mountPath")),
        ("data", "/", Some("[0].mountPath")),
        ("data", "/etc/moorgate", Some("[0].mountPath")),
        ("data", "/usr/local/bin", Some("[0].mountPath")),
        ("data", "/opt/moorgate", Some("[0].mountPath")),
        ("data", "/var/run/secrets/kubernetes.io", Some("[0].mountPath")),
        ("data", "/run/secrets/kubernetes.io", Some("[0].mountPath")),
        ("data", "/proc/self", Some("[0].mountPath")),
        ("data", "relative", Some("[0].mountPath")),
        ("data", "/data/../run/moorgate", Some("[0].mountPath")),
    ] {
        let found = mounts(&json!([{"name": name, "mountPath": path}]), &volumes, &[]);
        assert_eq!(places(&found), expected.into_iter().collect::<Vec<_>>(), "{name} {path}");
    }
    let shared = json!([{"name": "data", "mountPath": "/data", "mountPropagation": "Bidirectional"}]);
    assert_eq!(places(&mounts(&shared, &volumes, &[])), ["[0].mountPropagation"]);
}

#[test]
fn containers_of_others_see_nothing_of_moorgates() {
    let volumes = BTreeSet::from(["data".to_owned()]);
    let fine = json!({"name": "fetch", "volumeMounts": [{"name": "data", "mountPath": "/data"}]});
    let cases = [
        (json!({}), vec![]),
        (json!({"name": "relay"}), vec!["[0].name"]),
        (json!({"name": "envoy"}), vec!["[0].name"]),
        (
            json!({"env": [{"name": "A", "value": "b"}, {"name": "B", "valueFrom": {"secretKeyRef": {}}}]}),
            vec!["[0].env[1]"],
        ),
        (json!({"envFrom": [{"secretRef": {"name": "a"}}]}), vec!["[0].envFrom[0]"]),
        (json!({"ports": [{"containerPort": 1, "hostPort": 1}]}), vec!["[0].ports[0].hostPort"]),
        (json!({"livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}), vec!["[0].livenessProbe.httpGet.host"]),
        (
            json!({"lifecycle": {"preStop": {"tcpSocket": {"host": "a"}}}}),
            vec!["[0].lifecycle.preStop.tcpSocket.host"],
        ),
        (json!({"volumeDevices": [{"name": "data"}]}), vec!["[0].volumeDevices"]),
        (json!({"securityContext": {"privileged": true}}), vec!["[0].securityContext.privileged"]),
        (json!({"volumeMounts": [{"name": "token", "mountPath": "/t"}]}), vec!["[0].volumeMounts[0].name"]),
    ];
    for (more, expected) in cases {
        let mut one = fine.clone();
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        one["securityContext"] = complete_container(&one["securityContext"]);
        assert_eq!(places(&containers(&json!([one]), &volumes)), expected, "{more}");
    }
}
