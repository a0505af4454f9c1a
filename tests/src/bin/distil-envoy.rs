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
use moorgate_tests::distil::roots::ROOTS;
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
