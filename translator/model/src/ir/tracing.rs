//! Spans of requests, and where they go (Gateway API v1.7, `XTelemetryPolicy`).

/// What a filter chain tells a collector of the requests that it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracing {
    /// The cluster of the collector.
    pub cluster: String,
    /// The host that the collector is asked under, with its port if that says something.
    pub authority: String,
    /// How spans are sent.
    pub protocol: SpanProtocol,
    /// Headers of what is sent to the collector: names in small letters, and values.
    pub headers: Vec<(String, String)>,
    /// The resource attribute `service.name`.
    pub service_name: String,
    /// The name of spans; `None` leaves it to Envoy.
    pub span_name: Option<String>,
    /// Of how many new traces spans are sent: numerator and denominator.
    pub sampling: (u32, u32),
    /// A request that belongs to a trace already is sampled if its parent span is, and never otherwise. False: it is
    /// treated like a new one.
    pub follows_parent: bool,
    /// What each span says besides what Envoy says of itself; names are unique.
    pub attributes: Vec<SpanAttribute>,
}

/// How spans are sent: the transports of the OpenTelemetry protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanProtocol {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP, `/v1/traces`, in protobuf.
    Http,
}

/// An attribute of spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanAttribute {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: SpanValue,
}

/// Where the value of an attribute comes from. One that is not there leaves the attribute out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpanValue {
    /// Always this text.
    Literal(String),
    /// A header of the request, by its name in small letters.
    Header(String),
    /// One of Envoy's format strings.
    Format(String),
}
