//! Makes `translator/data/envoy-descriptors.binpb`: the Envoy messages that Moorgate can write, as a descriptor set; and
//! `envoy-rules.json` beside it: what Envoy asks of their fields.
//!
//! ```text
//! distil-envoy           writes the files
//! distil-envoy --check   compares them with what would be written; exit 1 if they differ
//! ```
//! The .proto files are those inside the pinned envoy-types package, so that types and descriptors never disagree, and the few
//! messages that it lacks ([`LACKING`]).
//! Only what is reachable from [`ROOTS`] is kept, without comments and options; equal input gives equal bytes.

use anyhow::{Context as _, Result, bail};
use cargo_metadata::MetadataCommand;
use moorgate_tests::distil::rules::rules;
use prost::Message as _;
use prost_types::field_descriptor_proto::Type;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FieldOptions, FileDescriptorProto,
    FileDescriptorSet, MessageOptions, OneofOptions, UninterpretedOption,
};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where the package keeps its .proto files, below `proto/`.
const INCLUDES: &[&str] = &[
    "data-plane-api",
    "xds",
    "googleapis",
    "protoc-gen-validate",
    "opentelemetry-proto",
    "client_model",
    "ratelimit",
    "cel-spec/proto",
];

/// Messages that the package lacks, by their published definitions (github.com/cncf/xds, `xds/type/matcher/v3/cel.proto` and
/// `http_inputs.proto`); `policies/src/authorization/messages.rs` has their types.
const LACKING: (&str, &str) = (
    "xds/type/matcher/v3/cel.proto",
    r#"syntax = "proto3";
package xds.type.matcher.v3;
import "xds/type/v3/cel.proto";
message CelMatcher {
  xds.type.v3.CelExpression expr_match = 1;
  string description = 2;
}
message HttpAttributesCelMatchInput {}
"#,
);

/// What is kept, with everything that it refers to. `Any` refers to nothing, so each extension stands here.
const ROOTS: &[&str] = &[
    "envoy.config.bootstrap.v3.Bootstrap",
    "envoy.config.listener.v3.Listener",
    "envoy.config.rbac.v3.Action",
    "envoy.config.route.v3.FilterConfig",
    "envoy.config.route.v3.RouteConfiguration",
    "envoy.config.route.v3.FilterConfig",
    "envoy.config.route.v3.ScopedRouteConfiguration",
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.endpoint.v3.ClusterLoadAssignment",
    "envoy.config.core.v3.TypedExtensionConfig",
    "envoy.config.trace.v3.DatadogConfig",
    "envoy.config.trace.v3.OpenTelemetryConfig",
    "envoy.config.trace.v3.ZipkinConfig",
    "envoy.extensions.transport_sockets.tls.v3.Secret",
    "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
    "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
    "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    "envoy.extensions.access_loggers.file.v3.FileAccessLog",
    "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
    "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
    "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig",
    "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
    "envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
    "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
    "envoy.extensions.filters.network.direct_response.v3.Config",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit",
    "envoy.extensions.filters.network.rbac.v3.RBAC",
    "envoy.extensions.filters.network.set_filter_state.v3.Config",
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig",
    "envoy.extensions.filters.udp.udp_proxy.v3.Route",
    "envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency",
    "envoy.extensions.filters.http.admission_control.v3.AdmissionControl",
    "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
    "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute",
    "envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit",
    "envoy.extensions.filters.http.basic_auth.v3.BasicAuth",
    "envoy.extensions.filters.http.basic_auth.v3.BasicAuthPerRoute",
    "envoy.extensions.filters.http.buffer.v3.Buffer",
    "envoy.extensions.filters.http.buffer.v3.BufferPerRoute",
    "envoy.extensions.filters.http.composite.v3.Composite",
    "envoy.extensions.filters.http.composite.v3.ExecuteFilterAction",
    "envoy.extensions.filters.http.compressor.v3.Compressor",
    "envoy.extensions.filters.http.compressor.v3.CompressorPerRoute",
    "envoy.extensions.filters.http.cors.v3.Cors",
    "envoy.extensions.filters.http.cors.v3.CorsPolicy",
    "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
    "envoy.extensions.filters.http.csrf.v3.CsrfPolicy",
    "envoy.extensions.filters.http.custom_response.v3.CustomResponse",
    "envoy.extensions.filters.http.decompressor.v3.Decompressor",
    "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig",
    "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
    "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilterPerRoute",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
    "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
    "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
    "envoy.extensions.filters.http.fault.v3.HTTPFault",
    "envoy.extensions.filters.http.grpc_http1_bridge.v3.Config",
    "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
    "envoy.extensions.filters.http.geoip.v3.Geoip",
    "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
    "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
    "envoy.extensions.filters.http.health_check.v3.HealthCheck",
    "envoy.extensions.filters.http.ip_tagging.v3.IPTagging",
    "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
    "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    "envoy.extensions.filters.http.lua.v3.Lua",
    "envoy.extensions.filters.http.lua.v3.LuaPerRoute",
    "envoy.extensions.filters.http.oauth2.v3.OAuth2",
    "envoy.extensions.filters.http.on_demand.v3.OnDemand",
    "envoy.extensions.filters.http.on_demand.v3.PerRouteConfig",
    "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
    "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute",
    "envoy.extensions.filters.http.rbac.v3.RBAC",
    "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
    "envoy.extensions.filters.http.router.v3.Router",
    "envoy.extensions.filters.http.set_filter_state.v3.Config",
    "envoy.extensions.filters.http.set_metadata.v3.Config",
    "envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
    "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute",
    "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
    "envoy.extensions.filters.http.wasm.v3.Wasm",
    "envoy.extensions.geoip_providers.maxmind.v3.MaxMindConfig",
    "envoy.config.metrics.v3.DogStatsdSink",
    "envoy.config.metrics.v3.HystrixSink",
    "envoy.config.metrics.v3.MetricsServiceConfig",
    "envoy.config.metrics.v3.StatsdSink",
    "envoy.extensions.bootstrap.dynamic_modules.v3.DynamicModuleBootstrapExtension",
    "envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
    "envoy.extensions.stat_sinks.dynamic_modules.v3.DynamicModuleStatsSink",
    "envoy.extensions.stat_sinks.graphite_statsd.v3.GraphiteStatsdSink",
    "envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig",
    "envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig.ConversionAction",
    "envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig.DropAction",
    "envoy.extensions.stat_sinks.wasm.v3.Wasm",
    "envoy.extensions.wasm.v3.WasmService",
    "envoy.extensions.resource_monitors.cgroup_memory.v3.CgroupMemoryConfig",
    "envoy.extensions.resource_monitors.cpu_utilization.v3.CpuUtilizationConfig",
    "envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig",
    "envoy.config.overload.v3.ScaleTimersOverloadActionConfig",
    "envoy.extensions.matching.common_inputs.stats.v3.StatFullNameMatchInput",
    "envoy.extensions.network.dns_resolver.apple.v3.AppleDnsResolverConfig",
    "envoy.config.grpc_credential.v3.FileBasedMetadataConfig",
    "envoy.extensions.regex_engines.v3.GoogleRE2",
    "envoy.watchdog.v3.AbortActionConfig",
    "envoy.extensions.watchdog.profile_action.v3.ProfileActionConfig",
    "envoy.extensions.clusters.aggregate.v3.ClusterConfig",
    "envoy.extensions.clusters.dns.v3.DnsCluster",
    "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
    "envoy.extensions.compression.brotli.compressor.v3.Brotli",
    "envoy.extensions.compression.gzip.compressor.v3.Gzip",
    "envoy.extensions.compression.zstd.compressor.v3.Zstd",
    "envoy.extensions.early_data.v3.DefaultEarlyDataPolicy",
    "envoy.extensions.filters.common.matcher.action.v3.SkipFilter",
    "envoy.extensions.formatter.cel.v3.Cel",
    "envoy.extensions.formatter.metadata.v3.Metadata",
    "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery",
    "envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink",
    "envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy",
    "envoy.extensions.http.custom_response.redirect_policy.v3.RedirectPolicy",
    "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
    "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig",
    "envoy.extensions.http.header_validators.envoy_default.v3.HeaderValidatorConfig",
    "envoy.extensions.http.injected_credentials.generic.v3.Generic",
    "envoy.extensions.http.injected_credentials.oauth2.v3.OAuth2",
    "envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig",
    "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig",
    "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState",
    "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState",
    "envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin",
    "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
    "envoy.extensions.load_balancing_policies.maglev.v3.Maglev",
    "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
    "envoy.extensions.load_balancing_policies.random.v3.Random",
    "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash",
    "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
    "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality",
    "envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput",
    "envoy.extensions.matching.common_inputs.network.v3.FilterStateInput",
    "envoy.extensions.matching.common_inputs.network.v3.ServerNameInput",
    "envoy.extensions.matching.common_inputs.network.v3.SourceIPInput",
    "envoy.extensions.matching.common_inputs.network.v3.SourcePortInput",
    "envoy.extensions.matching.input_matchers.consistent_hashing.v3.ConsistentHashing",
    "envoy.extensions.matching.input_matchers.ip.v3.Ip",
    "envoy.extensions.matching.input_matchers.metadata.v3.Metadata",
    "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
    "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig",
    "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
    "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig",
    "envoy.extensions.quic.connection_id_generator.v3.DeterministicConnectionIdGeneratorConfig",
    "envoy.extensions.rbac.matchers.upstream_ip_port.v3.UpstreamIpPortMatcher",
    "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
    "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
    "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
    "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.StaticConfigResourceDetectorConfig",
    "envoy.extensions.tracers.opentelemetry.samplers.v3.AlwaysOnSamplerConfig",
    "envoy.extensions.tracers.opentelemetry.samplers.v3.ParentBasedSamplerConfig",
    "envoy.extensions.tracers.opentelemetry.samplers.v3.TraceIdRatioBasedSamplerConfig",
    "envoy.extensions.transport_sockets.quic.v3.QuicDownstreamTransport",
    "envoy.extensions.transport_sockets.quic.v3.QuicUpstreamTransport",
    "envoy.extensions.transport_sockets.tcp_stats.v3.Config",
    "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
    "envoy.type.matcher.v3.HttpResponseHeaderMatchInput",
    "envoy.type.matcher.v3.HttpResponseLocalReplyMatchInput",
    "envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput",
    "google.protobuf.StringValue",
    "ratelimit.config.ratelimit.v3.RateLimitConfig",
    "xds.type.matcher.v3.CelMatcher",
    "xds.type.matcher.v3.HttpAttributesCelMatchInput",
    "xds.type.matcher.v3.Matcher",
];

fn main() -> Result<ExitCode> {
    let check = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => bail!("usage: distil-envoy [--check]"),
    };
    let Distilled { files, version } = current()?;
    let mut out = std::io::stdout();
    let mut code = ExitCode::SUCCESS;
    for (path, bytes) in &files {
        if !check {
            std::fs::write(path, bytes)?;
            writeln!(out, "{}: {} bytes from envoy-types {version}", path.display(), bytes.len())?;
        } else if std::fs::read(path).ok().as_ref() != Some(bytes) {
            writeln!(out, "{} is not what envoy-types {version} gives: run distil-envoy", path.display())?;
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// What the pinned package gives, and where it is checked in.
struct Distilled {
    files: Vec<(PathBuf, Vec<u8>)>,
    version: String,
}

fn current() -> Result<Distilled> {
    let metadata = MetadataCommand::new().exec()?;
    let mut packages = metadata.packages.iter();
    let package = packages.find(|package| package.name.as_str() == "envoy-types");
    let package = package.context("envoy-types is no dependency")?;
    let protos = package.manifest_path.parent().context("a manifest lies in a folder")?.join("proto");
    let (descriptors, rules) = distil(protos.as_std_path())?;
    let data = |name: &str| metadata.workspace_root.join("translator/data").join(name).into();
    Ok(Distilled {
        files: vec![(data("envoy-descriptors.binpb"), descriptors), (data("envoy-rules.json"), rules)],
        version: package.version.to_string(),
    })
}

/// Reads, compiles and prunes; the descriptors, and the rules.
fn distil(protos: &Path) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut files = BTreeMap::new();
    for include in INCLUDES {
        let root = protos.join(include);
        read_folder(&root, &root, &mut files)?;
    }
    let (name, source) = LACKING;
    let mut lacking = File::from_source(name, source)?.file_descriptor_proto().clone();
    strip(&mut lacking);
    files.insert(name.to_owned(), lacking);
    absolute_names(&mut files);
    let names: Vec<String> = files.keys().cloned().collect();
    let mut resolver = ChainFileResolver::new();
    resolver.add(Parsed(files));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_files(names)?;
    let mut set = compiler.file_descriptor_set();
    prune(&mut set)?;
    let kept = prost_reflect::DescriptorPool::from_file_descriptor_set(set.clone())?;
    let rules = rules(&compiler.descriptor_pool(), |name| kept.get_message_by_name(name).is_some())?;
    let mut rules = serde_json::to_vec(&rules)?;
    rules.push(b'\n');
    Ok((set.encode_to_vec(), rules))
}

fn read_folder(root: &Path, folder: &Path, files: &mut BTreeMap<String, FileDescriptorProto>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read_folder(root, &path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            let name =
                path.strip_prefix(root)?.to_str().context("a name that is not UTF-8")?.replace('\\', "/");
            let mut file =
                File::from_source(&name, &std::fs::read_to_string(&path)?)?.file_descriptor_proto().clone();
            strip(&mut file);
            files.insert(name, file);
        }
    }
    Ok(())
}

/// Serves the parsed files to the compiler.
struct Parsed(BTreeMap<String, FileDescriptorProto>);

impl FileResolver for Parsed {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let file = self.0.get(name).ok_or_else(|| protox::Error::file_not_found(name))?;
        Ok(File::from_file_descriptor_proto(file.clone()))
    }
}

/// Takes out what says nothing about the wire: comments, options but rules of fields, services, extensions.
fn strip(file: &mut FileDescriptorProto) {
    file.source_code_info = None;
    file.options = None;
    if file.package() != RULES {
        file.extension.clear();
    }
    file.service.clear();
    file.enum_type.iter_mut().for_each(strip_enum);
    file.message_type.iter_mut().for_each(strip_message);
}

fn strip_message(message: &mut DescriptorProto) {
    let is_map = message.options.as_ref().is_some_and(MessageOptions::map_entry);
    message.options = is_map.then(|| MessageOptions { map_entry: Some(true), ..MessageOptions::default() });
    message.extension.clear();
    message.extension_range.clear();
    for field in &mut message.field {
        let rules = field.options.take().and_then(|options| of_rules(options.uninterpreted_option));
        field.options = rules.map(|rules| FieldOptions { uninterpreted_option: rules, ..Default::default() });
    }
    for oneof in &mut message.oneof_decl {
        let rules = oneof.options.take().and_then(|options| of_rules(options.uninterpreted_option));
        oneof.options = rules.map(|rules| OneofOptions { uninterpreted_option: rules });
    }
    message.enum_type.iter_mut().for_each(strip_enum);
    message.nested_type.iter_mut().for_each(strip_message);
}

/// The package of the options that are rules.
const RULES: &str = "validate";

/// Those that are rules, with names that nothing can hide.
fn of_rules(mut options: Vec<UninterpretedOption>) -> Option<Vec<UninterpretedOption>> {
    options.retain_mut(|option| {
        let Some(first) = option.name.first_mut().filter(|first| first.is_extension) else { return false };
        let rule = first.name_part.trim_start_matches('.').starts_with("validate.");
        if rule && !first.name_part.starts_with('.') {
            first.name_part.insert(0, '.');
        }
        rule
    });
    (!options.is_empty()).then_some(options)
}

fn strip_enum(declared: &mut EnumDescriptorProto) {
    declared.options = None;
    // Aliases need an option; the first name of a number is the one that prints.
    let mut numbers = BTreeSet::new();
    declared.value.retain(|value| numbers.insert(value.number()));
    declared.value.iter_mut().for_each(|value| value.options = None);
}

/// Writes every type name in full. Relative names are looked up from the innermost scope outwards, as protoc does,
/// but among types only: an unrelated package of the same first name does not hide them.
fn absolute_names(files: &mut BTreeMap<String, FileDescriptorProto>) {
    let mut known = BTreeSet::new();
    for file in files.values() {
        let package = format!(".{}", file.package());
        known.extend(file.enum_type.iter().map(|declared| format!("{package}.{}", declared.name())));
        file.message_type.iter().for_each(|message| collect(message, &package, &mut known));
    }
    for file in files.values_mut() {
        let package = format!(".{}", file.package());
        file.message_type.iter_mut().for_each(|message| resolve(message, &package, &known));
    }
}

fn collect(message: &DescriptorProto, scope: &str, known: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", message.name());
    known.extend(message.enum_type.iter().map(|declared| format!("{name}.{}", declared.name())));
    message.nested_type.iter().for_each(|nested| collect(nested, &name, known));
    known.insert(name);
}

fn resolve(message: &mut DescriptorProto, scope: &str, known: &BTreeSet<String>) {
    let name = format!("{scope}.{}", message.name());
    for field in &mut message.field {
        let Some(relative) = field.type_name.as_deref().filter(|name| !name.starts_with('.')) else {
            continue;
        };
        let mut scope = name.as_str();
        let found = loop {
            let candidate = format!("{scope}.{relative}");
            if known.contains(&candidate) {
                break candidate;
            }
            match scope.rfind('.') {
                Some(dot) => scope = &scope[..dot],
                None => break format!(".{relative}"),
            }
        };
        field.type_name = Some(found);
    }
    message.nested_type.iter_mut().for_each(|nested| resolve(nested, &name, known));
}

/// Keeps what the roots reach. Parents of kept nested types stay as hollow shells.
fn prune(set: &mut FileDescriptorSet) -> Result<()> {
    let mut messages = BTreeMap::new();
    let mut homes = BTreeMap::new();
    for file in &set.file {
        let package = format!(".{}", file.package());
        for declared in &file.enum_type {
            homes.insert(format!("{package}.{}", declared.name()), file.name().to_owned());
        }
        for message in &file.message_type {
            index(message, &package, file.name(), &mut messages, &mut homes);
        }
    }
    let mut kept = BTreeSet::new();
    let mut queue: Vec<String> = ROOTS.iter().map(|root| format!(".{root}")).collect();
    while let Some(name) = queue.pop() {
        if !homes.contains_key(&name) {
            bail!("{name} is in no .proto file of envoy-types");
        }
        if kept.insert(name.clone())
            && let Some(message) = messages.get(&name)
        {
            queue.extend(message.field.iter().filter_map(|field| field.type_name.clone()));
        }
    }
    for file in &mut set.file {
        let package = format!(".{}", file.package());
        file.enum_type.retain(|declared| kept.contains(&format!("{package}.{}", declared.name())));
        file.message_type.retain_mut(|message| keep(message, &package, &kept));
        strip(file);
        let mut needed = BTreeSet::new();
        file.message_type.iter().for_each(|message| dependencies(message, &homes, &mut needed));
        needed.remove(file.name());
        file.dependency = needed.into_iter().collect();
        file.public_dependency.clear();
        file.weak_dependency.clear();
    }
    set.file.retain(|file| !file.message_type.is_empty() || !file.enum_type.is_empty());
    Ok(())
}

fn index(
    message: &DescriptorProto,
    scope: &str,
    file: &str,
    messages: &mut BTreeMap<String, DescriptorProto>,
    homes: &mut BTreeMap<String, String>,
) {
    let name = format!("{scope}.{}", message.name());
    for declared in &message.enum_type {
        homes.insert(format!("{name}.{}", declared.name()), file.to_owned());
    }
    for nested in &message.nested_type {
        index(nested, &name, file, messages, homes);
    }
    homes.insert(name.clone(), file.to_owned());
    messages.insert(name, message.clone());
}

/// True if the message or anything inside it is kept; takes out what is not.
fn keep(message: &mut DescriptorProto, scope: &str, kept: &BTreeSet<String>) -> bool {
    let name = format!("{scope}.{}", message.name());
    message.enum_type.retain(|declared| kept.contains(&format!("{name}.{}", declared.name())));
    message.nested_type.retain_mut(|nested| keep(nested, &name, kept));
    if kept.contains(&name) {
        return true;
    }
    message.field.clear();
    message.oneof_decl.clear();
    message.reserved_name.clear();
    message.reserved_range.clear();
    !message.nested_type.is_empty() || !message.enum_type.is_empty()
}

fn dependencies(message: &DescriptorProto, homes: &BTreeMap<String, String>, needed: &mut BTreeSet<String>) {
    let refers = |field: &&FieldDescriptorProto| matches!(field.r#type(), Type::Message | Type::Enum);
    let names = message.field.iter().filter(refers).filter_map(|field| field.type_name.as_ref());
    needed.extend(names.filter_map(|name| homes.get(name).cloned()));
    message.nested_type.iter().for_each(|nested| dependencies(nested, homes, needed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_files_are_what_the_pinned_package_gives() {
        let Distilled { files, version } = current().unwrap();
        for (path, bytes) in files {
            let file = std::fs::read(&path).unwrap();
            assert!(file == bytes, "{} differs from envoy-types {version}: run distil-envoy", path.display());
        }
    }
}
