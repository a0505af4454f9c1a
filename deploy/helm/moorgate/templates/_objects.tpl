{{/* An object of deploy/kubernetes in this release's namespace, with its labels: kind, rights and names stay. */}}
{{- define "moorgate.object" -}}
{{- $root := .root -}}
{{- $object := .object -}}
{{- $labels := dict "app.kubernetes.io/part-of" "moorgate" "app.kubernetes.io/managed-by" $root.Release.Service "app.kubernetes.io/instance" $root.Release.Name "app.kubernetes.io/version" $root.Chart.AppVersion "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version) -}}
{{- $_ := set $object.metadata "labels" (merge (default dict $object.metadata.labels) $labels) -}}
{{- if hasKey $object.metadata "namespace" -}}
{{- $_ := set $object.metadata "namespace" $root.Release.Namespace -}}
{{- end -}}
{{- range $subject := $object.subjects -}}
{{- $_ := set $subject "namespace" $root.Release.Namespace -}}
{{- end -}}
{{- if and (eq $object.kind "ServiceAccount") $root.Values.watch.serviceAccountAnnotations -}}
{{- $_ := set $object.metadata "annotations" $root.Values.watch.serviceAccountAnnotations -}}
{{- end -}}
{{- if eq $object.kind "Deployment" -}}
{{- include "moorgate.deployment" . -}}
{{- end -}}
{{ toYaml $object }}
{{- end -}}

{{/* Sets what values say in the Deployment of `moorgate watch`; writes nothing. */}}
{{- define "moorgate.deployment" -}}
{{- $values := .root.Values -}}
{{- $watch := $values.watch -}}
{{- $spec := .object.spec -}}
{{- $pod := $spec.template -}}
{{- $container := index $pod.spec.containers 0 -}}
{{- $_ := set $spec "replicas" (int $watch.replicas) -}}
{{- $_ := set $pod.metadata "labels" (merge $pod.metadata.labels $watch.podLabels) -}}
{{- with $watch.podAnnotations -}}{{- $_ := set $pod.metadata "annotations" . -}}{{- end -}}
{{- with $watch.imagePullSecrets -}}{{- $_ := set $pod.spec "imagePullSecrets" . -}}{{- end -}}
{{- with $watch.nodeSelector -}}{{- $_ := set $pod.spec "nodeSelector" . -}}{{- end -}}
{{- with $watch.tolerations -}}{{- $_ := set $pod.spec "tolerations" . -}}{{- end -}}
{{- with $watch.affinity -}}{{- $_ := set $pod.spec "affinity" . -}}{{- end -}}
{{- $image := printf "%s:%s" $watch.image.repository (default .root.Chart.AppVersion $watch.image.tag) -}}
{{- with $watch.image.digest -}}{{- $image = printf "%s@%s" $watch.image.repository . -}}{{- end -}}
{{- $_ := set $container "image" $image -}}
{{- $_ := set $container "imagePullPolicy" $watch.image.pullPolicy -}}
{{- $_ := set $container "resources" $watch.resources -}}
{{- $args := list -}}
{{- range $container.args -}}
{{- if not (and (eq $watch.mode "status-only") (hasPrefix "--key=" .)) -}}{{- $args = append $args . -}}{{- end -}}
{{- end -}}
{{- if eq $watch.mode "status-only" -}}{{- $args = append $args "--status-only" -}}{{- end -}}
{{- if $watch.provision -}}
{{- $args = concat $args (list "--provision" (printf "--merged-namespace=%s" .root.Release.Namespace)) -}}
{{- if ne $values.model "sidecar" -}}
{{- include "moorgate.relays" . -}}
{{- $args = concat $args (list (printf "--model=%s" $values.model) (printf "--relay-namespace=%s" .root.Release.Namespace) (printf "--relay-tls=%s" $values.relay.tlsSecret) "--relay-ca=/etc/moorgate-relays/ca.crt" (printf "--token-issuer=%s" $values.relay.tokenIssuer)) -}}
{{- if eq $values.model "pool" -}}{{- $args = append $args (printf "--pool-replicas=%d" (int $values.relay.poolReplicas)) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $args = append $args (printf "--channel=%s" $watch.channel) -}}
{{- $args = append $args (printf "--controller-name=%s" $watch.controllerName) -}}
{{- range $watch.mergeClasses -}}{{- $args = append $args (printf "--merge-class=%s" .) -}}{{- end -}}
{{- with $values.store.relayUrl -}}{{- $args = append $args (printf "--relay-store=%s" .) -}}{{- end -}}
{{- with $values.store.relaySecret -}}{{- $args = append $args (printf "--store-secret=%s" .) -}}{{- end -}}
{{- with $values.relay.image -}}{{- $args = append $args (printf "--relay-image=%s" .) -}}{{- end -}}
{{- with $values.envoy.image -}}{{- $args = append $args (printf "--envoy-image=%s" .) -}}{{- end -}}
{{- $_ := set $container "args" (uniq (concat $args $watch.extraArgs)) -}}
{{- range $variable := $container.env -}}
{{- if eq $variable.name "MOORGATE_STORE" -}}{{- $_ := set $variable "value" (join "," $values.store.urls) -}}{{- end -}}
{{- end -}}
{{- with $values.store.secret -}}{{- $_ := set $container "envFrom" (list (dict "secretRef" (dict "name" .))) -}}{{- end -}}
{{- range $volume := $pod.spec.volumes -}}
{{- if eq $volume.name "keys" -}}{{- $_ := set $volume.secret "secretName" $watch.keysSecret -}}{{- end -}}
{{- end -}}
{{- end -}}

{{/* Shows `moorgate watch` the CA of relays in pods of their own, and nothing else of their Secret; writes nothing. */}}
{{- define "moorgate.relays" -}}
{{- $relay := .root.Values.relay -}}
{{- $pod := .object.spec.template -}}
{{- $container := index $pod.spec.containers 0 -}}
{{- $item := list (dict "key" "ca.crt" "path" "ca.crt") -}}
{{- $volume := dict "name" "relays" "secret" (dict "secretName" $relay.tlsSecret "items" $item) -}}
{{- if $relay.ca -}}
{{- $volume = dict "name" "relays" "configMap" (dict "name" "moorgate-relay-ca") -}}
{{- /* It is read once: another one wants other pods. */ -}}
{{- $annotations := merge (dict "moorgate.dev/relay-ca" (sha256sum $relay.ca)) (default dict $pod.metadata.annotations) -}}
{{- $_ := set $pod.metadata "annotations" $annotations -}}
{{- end -}}
{{- $_ := set $pod.spec "volumes" (append $pod.spec.volumes $volume) -}}
{{- $_ := set $container "volumeMounts" (append $container.volumeMounts (dict "name" "relays" "mountPath" "/etc/moorgate-relays" "readOnly" true)) -}}
{{- end -}}
