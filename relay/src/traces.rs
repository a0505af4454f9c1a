//! Traces for an OpenTelemetry collector, over OTLP on gRPC: spans for pulling, verifying, putting in force and sending.
//!
//! Spans carry fleets, snapshots, nodes, types and counts: never content. What a collector does not take in time is
//! dropped; serving never waits for it.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::time::Duration;
use thiserror::Error;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

/// A batch must be taken within this time.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A collector that cannot be sent to.
#[derive(Debug, Error)]
#[error("traces to {endpoint}: {reason}")]
pub struct TraceError {
    endpoint: String,
    reason: String,
}

/// Sends spans until it is shut down.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Sends to a collector, `http://HOST:4317` or with TLS `https://HOST:4317`. It need not answer now. Asks for a
    /// runtime around it.
    pub fn to(endpoint: &str, relay: &str) -> Result<Self, TraceError> {
        let error = |reason: String| TraceError { endpoint: endpoint.to_owned(), reason };
        let uri: http::Uri =
            endpoint.parse().map_err(|cause: http::uri::InvalidUri| error(cause.to_string()))?;
        let mut exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(TIMEOUT);
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                exporter = exporter.with_tls_config(ClientTlsConfig::new().with_native_roots());
            }
            _ => return Err(error("write http://HOST:PORT or https://HOST:PORT".to_owned())),
        }
        let exporter = exporter.build().map_err(|cause| error(cause.to_string()))?;
        let resource = Resource::builder_empty()
            .with_service_name("moorgate-relay")
            .with_attribute(opentelemetry::KeyValue::new("service.instance.id", relay.to_owned()))
            .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        Ok(Self(provider))
    }

    /// What hands spans over; nothing else passes.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let spans = Targets::new().with_target(crate::TRACE, tracing::Level::INFO);
        let tracer = self.0.tracer("moorgate-relay");
        tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_filter(spans)
    }

    /// Sends what is there, and ends. It blocks for at most a few seconds.
    pub fn shut_down(self) {
        if let Err(error) = self.0.shutdown_with_timeout(TIMEOUT) {
            tracing::warn!(%error, "the last traces are lost");
        }
    }
}
