//! Images, as far as this cluster has them: a name, and the programs that it stands for.

use crate::program;
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a container of an image has and does.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    /// What runs unless the container names a command.
    pub(super) entrypoint: Vec<String>,
    /// Programs: where the container sees them, and where they are.
    pub(super) files: BTreeMap<String, PathBuf>,
    /// The user, unless the pod names one.
    pub(super) user: u32,
}

/// All images.
#[derive(Debug, Clone)]
pub(super) struct Images {
    envoys: Vec<(String, PathBuf)>,
    echo: PathBuf,
    moorgate: PathBuf,
    relay: PathBuf,
    /// This very program.
    own: PathBuf,
    /// What was loaded: a folder for each `name:tag`, with the program `name` in it.
    loaded: PathBuf,
}

/// Where a cluster of this folder has images that were loaded.
pub(super) fn loaded(cluster: &Path) -> PathBuf {
    cluster.join("images")
}

/// The user of images without a shell.
const NONROOT: u32 = 65_532;

fn image(programs: &[(&str, &PathBuf)], user: u32) -> Image {
    let entrypoint = programs.iter().take(1).map(|(path, _)| (*path).to_owned()).collect();
    let files = programs.iter().map(|(path, program)| ((*path).to_owned(), (*program).clone())).collect();
    Image { entrypoint, files, user }
}

impl Images {
    /// Finds all programs.
    pub(super) fn find(cluster: &Path) -> Result<Self> {
        Ok(Self {
            loaded: loaded(cluster),
            envoys: program::envoys()?,
            echo: super::programs::echo()?,
            moorgate: program::binary("moorgate")?,
            relay: program::binary("moorgate-relay")?,
            own: std::env::current_exe().context("this program")?,
        })
    }

    /// That of a reference such as `registry/repository:tag`, by the last part of its repository's name.
    pub(super) fn get(&self, reference: &str) -> Option<Image> {
        let reference = reference.split('@').next().unwrap_or_default();
        let last = reference.rsplit('/').next().unwrap_or_default();
        let (name, tag) = last.split_once(':').unwrap_or((last, ""));
        let program = self.loaded.join(last).join(name);
        if program.is_file() {
            return Some(image(&[(&format!("/usr/local/bin/{name}"), &program)], NONROOT));
        }
        match name {
            "echo-basic" => Some(image(&[("/echo-basic", &self.echo)], 0)),
            "coredns" => {
                let mut dns = image(&[("/coredns", &self.own)], 0);
                dns.entrypoint.push("dns".to_owned());
                Some(dns)
            }
            "envoy" => {
                // `distroless-v1.40.0`, `v1.40-latest`, `1.40.0`: the minor decides; without one the newest.
                let minor = |version: &str| version.rsplit_once('.').map(|(minor, _)| format!("{minor}."));
                let named = self.envoys.iter().find(|(version, _)| {
                    minor(version)
                        .is_some_and(|minor| format!("{tag}.").replace("-latest", "").contains(&minor))
                });
                let (_, envoy) = named.or(self.envoys.first())?;
                Some(image(&[("/usr/local/bin/envoy", envoy)], NONROOT))
            }
            // Built before a pod asks for it, by the one suite that has such pods.
            "gateway" => {
                let gateway = super::programs::envoy_gateway().ok()?;
                Some(image(&[("/usr/local/bin/envoy-gateway", &gateway)], NONROOT))
            }
            "moorgate-relay" => Some(image(&[("/usr/local/bin/moorgate-relay", &self.relay)], NONROOT)),
            "moorgate" => {
                let both = [
                    ("/usr/local/bin/moorgate", &self.moorgate),
                    ("/usr/local/bin/moorgate-relay", &self.relay),
                ];
                Some(image(&both, NONROOT))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_found_by_the_last_part_of_its_name() {
        let envoys =
            ["1.40.0", "1.39.3"].map(|version| (version.to_owned(), PathBuf::from(version))).to_vec();
        let path = PathBuf::from;
        let folder = tempfile::tempdir().unwrap();
        let images = Images {
            envoys,
            echo: path("echo"),
            moorgate: path("moorgate"),
            relay: path("relay"),
            own: path("own"),
            loaded: folder.path().to_owned(),
        };
        let other = folder.path().join("moorgate-relay:v9");
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("moorgate-relay"), "").unwrap();
        let other = other.join("moorgate-relay").display().to_string();
        let program = |name| images.get(name).and_then(|image| image.files.into_values().next_back());
        for (reference, found) in [
            ("registry.k8s.io/gateway-api/conformance/echo-basic:v0.1.0", Some("echo")),
            ("docker.io/envoyproxy/envoy:distroless-v1.39.3", Some("1.39.3")),
            ("envoyproxy/envoy:v1.39-latest@sha256:00", Some("1.39.3")),
            ("envoyproxy/envoy:v1.40.7", Some("1.40.0")),
            ("envoyproxy/envoy", Some("1.40.0")),
            ("ghcr.io/moorgate/moorgate-relay:0.1.0", Some("relay")),
            ("ghcr.io/moorgate/moorgate-relay:v9", Some(other.as_str())),
            ("localhost:5000/moorgate", Some("relay")),
            ("registry.k8s.io/coredns/coredns:v1.12.2", Some("own")),
            ("nginx:1", None),
        ] {
            assert_eq!(program(reference), found.map(PathBuf::from), "{reference}");
        }
    }
}
