//! The JSON of an attestation: in-toto Statement v1 with an SLSA provenance v1 predicate
//! (<https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md>, <https://slsa.dev/spec/v1.0/provenance>).

use super::{Attestation, DocumentRef, Material, Provenance};
use crate::digest::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://slsa.dev/provenance/v1";
/// What the parameters and materials of a compile mean.
const BUILD: &str = "https://moorgate.dev/compile/v1";
/// Who vouches for the build: the holder of the key that signs. A CI system's own attestation is stronger.
const BUILDER: &str = "https://moorgate.dev/translator/v1";
/// The translator's name in versions and digests.
const NAME: &str = "moorgate";
const SHA256: &str = "sha256";
/// The annotation of a document that says how many bytes it has.
const SIZE: &str = "size";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Material>,
    predicate_type: String,
    predicate: Predicate,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Predicate {
    build_definition: BuildDefinition,
    run_details: RunDetails,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition {
    build_type: String,
    external_parameters: BTreeMap<String, Value>,
    #[serde(default)]
    resolved_dependencies: Vec<Material>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RunDetails {
    builder: Builder,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    byproducts: Vec<Material>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Builder {
    id: String,
    #[serde(default)]
    version: BTreeMap<String, String>,
    #[serde(default, rename = "builderDependencies")]
    dependencies: Vec<Material>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    invocation_id: String,
}

impl Statement {
    pub(super) fn of(attestation: &Attestation) -> Self {
        let provenance = &attestation.provenance;
        let document = |(name, document): (&String, &DocumentRef)| Material {
            annotations: BTreeMap::from([(SIZE.to_owned(), document.size.into())]),
            ..named(name, &document.digest)
        };
        Self {
            kind: STATEMENT.to_owned(),
            subject: vec![named(&attestation.fleet.to_string(), &attestation.snapshot)],
            predicate_type: PREDICATE.to_owned(),
            predicate: Predicate {
                build_definition: BuildDefinition {
                    build_type: BUILD.to_owned(),
                    external_parameters: provenance.parameters.clone(),
                    resolved_dependencies: provenance.materials.clone(),
                },
                run_details: RunDetails {
                    builder: Builder {
                        id: BUILDER.to_owned(),
                        version: BTreeMap::from([(NAME.to_owned(), provenance.version.clone())]),
                        dependencies: provenance.translator.iter().map(|it| named(NAME, it)).collect(),
                    },
                    metadata: Metadata { invocation_id: provenance.run.clone() },
                    byproducts: attestation
                        .documents
                        .iter()
                        .map(document)
                        .chain(attestation.inline.iter().map(inline))
                        .collect(),
                },
            },
        }
    }

    pub(super) fn read(self) -> Result<Attestation, String> {
        if self.kind != STATEMENT || self.predicate_type != PREDICATE {
            return Err("no in-toto statement with SLSA provenance".to_owned());
        }
        let [subject] = self.subject.as_slice() else { return Err("it has not one subject".to_owned()) };
        let Predicate { build_definition: build, run_details: mut run } = self.predicate;
        let (within, apart): (Vec<&Material>, Vec<&Material>) =
            run.byproducts.iter().partition(|one| !one.content.is_empty());
        let documents = apart.into_iter().map(|one| {
            let size = one.annotations.get(SIZE).and_then(Value::as_u64).ok_or("a document without size")?;
            Ok::<_, String>((one.name.clone(), DocumentRef { digest: digest(one)?, size }))
        });
        let translator = run.builder.dependencies.iter().find(|one| one.name == NAME);
        Ok(Attestation {
            fleet: subject.name.parse().map_err(|_| "its subject is no fleet".to_owned())?,
            snapshot: digest(subject)?,
            documents: documents.collect::<Result<_, _>>()?,
            inline: within.into_iter().map(read_inline).collect::<Result<_, _>>()?,
            provenance: Provenance {
                parameters: build.external_parameters,
                materials: build.resolved_dependencies,
                version: run.builder.version.remove(NAME).unwrap_or_default(),
                translator: translator.map(digest).transpose()?,
                run: run.metadata.invocation_id,
            },
        })
    }
}

fn named(name: &str, digest: &Digest) -> Material {
    let digest = BTreeMap::from([(SHA256.to_owned(), digest.to_string())]);
    Material { name: name.to_owned(), digest, ..Material::default() }
}

fn inline((name, value): (&String, &Value)) -> Material {
    // A JSON value: serde_json cannot fail on it.
    let content = STANDARD.encode(serde_json::to_vec(value).unwrap_or_default());
    Material { name: name.clone(), content, ..Material::default() }
}

fn read_inline(of: &Material) -> Result<(String, Value), String> {
    let bytes = STANDARD.decode(&of.content).map_err(|_| format!("{:?} is no base64", of.name))?;
    let value = serde_json::from_slice(&bytes).map_err(|_| format!("{:?} is no JSON", of.name))?;
    Ok((of.name.clone(), value))
}

fn digest(of: &Material) -> Result<Digest, String> {
    let text = of.digest.get(SHA256).ok_or_else(|| format!("{:?} without a digest", of.name))?;
    text.parse().map_err(|_| format!("{:?} has no valid digest", of.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::FleetName;

    fn attestation() -> Attestation {
        let digest = BTreeMap::from([("gitCommit".to_owned(), "c0ffee".to_owned())]);
        Attestation {
            fleet: FleetName::gateway("shop", "edge"),
            snapshot: Digest::of(b"manifest"),
            documents: BTreeMap::from([(
                "origins".to_owned(),
                DocumentRef { digest: Digest::of(b"o"), size: 7 },
            )]),
            inline: BTreeMap::from([("counts".to_owned(), serde_json::json!({"n": 1}))]),
            provenance: Provenance {
                parameters: BTreeMap::from([("crds".to_owned(), "standard".into())]),
                materials: vec![Material {
                    uri: "git+https://git.example/shop@c0ffee".into(),
                    digest,
                    ..Material::default()
                }],
                version: "1.2.3".into(),
                translator: Some(Digest::of(b"executable")),
                run: "https://ci.example/7".into(),
            },
        }
    }

    /// Pinned: other tools look for these names.
    #[test]
    fn the_statement_is_what_in_toto_and_slsa_say() {
        let json = serde_json::to_value(Statement::of(&attestation())).unwrap();
        let expected = serde_json::json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "shop/edge", "digest": {"sha256": Digest::of(b"manifest")}}],
            "predicateType": "https://slsa.dev/provenance/v1",
            "predicate": {
                "buildDefinition": {
                    "buildType": "https://moorgate.dev/compile/v1",
                    "externalParameters": {"crds": "standard"},
                    "resolvedDependencies": [
                        {"uri": "git+https://git.example/shop@c0ffee", "digest": {"gitCommit": "c0ffee"}},
                    ],
                },
                "runDetails": {
                    "builder": {
                        "id": "https://moorgate.dev/translator/v1",
                        "version": {"moorgate": "1.2.3"},
                        "builderDependencies": [
                            {"name": "moorgate", "digest": {"sha256": Digest::of(b"executable")}},
                        ],
                    },
                    "metadata": {"invocationId": "https://ci.example/7"},
                    "byproducts": [
                        {"name": "origins", "digest": {"sha256": Digest::of(b"o")}, "annotations": {"size": 7}},
                        {"name": "counts", "content": "eyJuIjoxfQ=="},
                    ],
                },
            },
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_statement_reads_back_and_others_are_refused() {
        let read = |json: Value| serde_json::from_value::<Statement>(json).map_err(|e| e.to_string())?.read();
        let json = serde_json::to_value(Statement::of(&attestation())).unwrap();
        assert_eq!(read(json.clone()).unwrap(), attestation());
        for (at, value) in [
            ("/_type", "https://in-toto.io/Statement/v2"),
            ("/predicateType", "https://example.com/other"),
            ("/subject/0/name", "no fleet"),
            ("/subject/0/digest/sha256", "1234"),
        ] {
            let mut other = json.clone();
            *other.pointer_mut(at).unwrap() = value.into();
            assert!(read(other).is_err(), "{at}");
        }
        let mut two = json;
        let subject = two["subject"][0].clone();
        two["subject"].as_array_mut().unwrap().push(subject);
        assert!(read(two).is_err());
    }
}
