# An Envoy with its relay in one group: they share a socket and a network, and end together. For Nomad 1.7 and later, with
# the drivers `docker` or `podman`. The store's credentials come from Vault or the environment, certificates and endpoints
# from templates: Nomad's own services stand in for a cluster's EndpointSlices.
variable "version" {
  type    = string
  default = "v0.1.0"
}

variable "store" {
  type    = string
  default = "s3://example-moorgate/production"
}

job "moorgate-edge" {
  datacenters = ["*"]
  type        = "service"

  update {
    max_parallel     = 1
    health_check     = "checks"
    min_healthy_time = "10s"
    healthy_deadline = "5m"
    auto_revert      = true
  }

  group "edge" {
    count = 2

    network {
      port "http" {
        static = 80
      }
      port "health" {}
    }

    # What a relay has served once it can serve again, also if the store is away.
    ephemeral_disk {
      size    = 300
      sticky  = true
      migrate = true
    }

    service {
      name     = "edge"
      port     = "http"
      provider = "nomad"
      check {
        type     = "http"
        port     = "health"
        path     = "/readyz"
        interval = "5s"
        timeout  = "2s"
      }
    }

    task "relay" {
      driver = "docker"
      user   = "65532:65532"
      lifecycle {
        hook    = "prestart"
        sidecar = true
      }
      config {
        image           = "ghcr.io/moorgate/moorgate-relay:${var.version}"
        network_mode    = "host"
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        args = [
          "--store=${var.store}",
          "--fleet=shop/edge",
          "--channel=stable",
          "--name=${NOMAD_ALLOC_ID}",
          "--trust=${NOMAD_TASK_DIR}/trust.json",
          "--listen=unix:${NOMAD_ALLOC_DIR}/relay.sock",
          "--cache=${NOMAD_ALLOC_DIR}/data/cache",
          "--endpoints=${NOMAD_TASK_DIR}/endpoints",
          "--secrets=${NOMAD_SECRETS_DIR}/tls",
          "--health=0.0.0.0:${NOMAD_PORT_health}",
          "--ready-acked",
        ]
      }
      template {
        destination = "local/trust.json"
        data        = "{{ with nomadVar \"nomad/jobs/moorgate-edge\" }}{{ .trust }}{{ end }}"
        change_mode = "signal"
        change_signal = "SIGHUP"
      }
      # The Service shop/cart of the Gateway API objects is the Nomad service `cart`. Changed files are taken at once.
      template {
        destination = "local/endpoints/cart.json"
        data        = <<-JSON
          {"endpoints": [{"service": "shop/cart", "port": "http", "addresses": [
          {{- range $i, $s := nomadService "cart" }}{{ if $i }}, {{ end }}"{{ .Address }}:{{ .Port }}"{{ end -}}
          ]}]}
        JSON
        change_mode = "noop"
      }
      resources {
        cpu    = 100
        memory = 128
      }
    }

    task "envoy" {
      driver = "docker"
      user   = "65532:65532"
      # Requests that run are answered before Envoy ends.
      kill_timeout = "30s"
      config {
        image           = "docker.io/envoyproxy/envoy:distroless-v1.40.0"
        network_mode    = "host"
        readonly_rootfs = true
        cap_drop        = ["all"]
        cap_add         = ["net_bind_service"]
        security_opt    = ["no-new-privileges"]
        args = [
          "--config-path", "${NOMAD_TASK_DIR}/envoy.json",
          "--service-node", "${NOMAD_ALLOC_ID}",
          "--disable-hot-restart",
          "--log-level", "warning",
        ]
      }
      # `moorgate bootstrap shop/edge --relay unix:/alloc/relay.sock`, kept as a variable.
      template {
        destination = "local/envoy.json"
        data        = "{{ with nomadVar \"nomad/jobs/moorgate-edge\" }}{{ .bootstrap }}{{ end }}"
        change_mode = "restart"
      }
      resources {
        cpu    = 500
        memory = 512
      }
    }
  }
}
