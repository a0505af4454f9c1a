//! Last good: objects with errors stay as an earlier release had them, and everything else goes on. Pure: the earlier
//! objects come in as text that somebody read.
//!
//! What may be kept is chosen so that nothing gets more open than the release was or than the source asks for:
//!
//! - Routes, Services and EndpointSlices with errors are replaced by what they were, or left out if they are new.
//! - A file that cannot be read is taken to speak of the namespaces that it spoke of: these stay as released, with all
//!   of their objects. If it is new, nobody knows what it would restrict, and it blocks as ever.
//! - Gateways, policies, grants and all that may restrict access are never kept by themselves: which version is the
//!   stricter one cannot be told. Their fleets wait; what is live stays.
//! - A kept route that would meet another Gateway or other policies than it was released with makes its fleets wait.

use super::blame::{fleets_of_route, referred_namespaces, sets};
use super::{Compilation, Fleets, Options, compile_objects};
use crate::load::{self, Loaded, is_ours};
use crate::source::File;
use moorgate_model::{Class, Diagnostic, Diagnostics, Object, ObjectRef, Severity};
use moorgate_snapshot::FleetName;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How often what was kept may make something else err before the rest is taken as it is.
const ROUNDS: usize = 8;
/// Kinds that may be kept one by one.
const KEPT: [&str; 7] =
    ["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute", "Service", "EndpointSlice"];

/// The commits that a release was made of, one a source.
pub type Commits = Vec<String>;

/// An object that is not as the source has it. Signed beside the release, so that the next one knows where to look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Kept {
    /// The object.
    pub object: ObjectRef,
    /// The commits that it is taken from, one a source; none if it is left out.
    pub commits: Option<Commits>,
    /// Where it was written in them: `file:line:column`.
    pub place: Option<String>,
}

/// What an earlier release was made of: the objects of its source, but for those that it had kept itself.
#[derive(Debug, Clone, Default)]
pub struct Former(BTreeMap<ObjectRef, (Object, Commits)>);

impl Former {
    /// The objects of a release: the files of its commits, and what it had kept from others.
    pub fn new(
        files: &[File],
        commits: &Commits,
        kept: &[Kept],
        others: &BTreeMap<Commits, Vec<File>>,
    ) -> Self {
        let objects = |files: &[File]| load::load(files).objects.into_iter();
        let mut former: BTreeMap<_, _> = objects(files)
            .filter(|object| is_ours(&object.reference))
            .map(|object| (object.reference.clone(), (object, commits.clone())))
            .collect();
        for one in kept {
            former.remove(&one.object);
        }
        for (commits, files) in others {
            let wanted: BTreeSet<&ObjectRef> = kept
                .iter()
                .filter(|one| one.commits.as_ref() == Some(commits))
                .map(|one| &one.object)
                .collect();
            let found = objects(files).filter(|object| wanted.contains(&object.reference));
            former.extend(found.map(|object| (object.reference.clone(), (object, commits.clone()))));
        }
        Self(former)
    }

    fn get(&self, reference: &ObjectRef) -> Option<&Object> {
        self.0.get(reference).map(|(object, _)| object)
    }

    /// The objects of a file.
    fn of_file<'a>(&'a self, file: &'a str) -> impl Iterator<Item = &'a Object> {
        self.0.values().map(|(object, _)| object).filter(move |object| *object.origin.file == *file)
    }
}

/// A compile with last-good objects.
#[derive(Debug)]
pub struct LastGood {
    /// What came of it. Its diagnostics are those of the objects as kept.
    pub compilation: Compilation,
    /// What is not as the source has it.
    pub kept: Vec<Kept>,
    /// Why fleets wait, besides what blocks them anyway.
    pub waiting: Waiting,
}

/// Fleets that wait, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    all: Option<String>,
    fleets: BTreeMap<FleetName, String>,
}

impl Waiting {
    /// Why a fleet waits, if it does.
    pub fn why(&self, fleet: &FleetName) -> Option<&str> {
        self.fleets.get(fleet).or(self.all.as_ref()).map(String::as_str)
    }

    /// Makes those wait that serve what waits.
    fn move_to(&mut self, served_by: &Fleets) {
        let fleets = std::mem::take(&mut self.fleets).into_iter();
        self.fleets = fleets.map(|(fleet, why)| (served_by.serving(fleet), why)).collect();
    }

    fn add(&mut self, fleets: Option<BTreeSet<FleetName>>, why: &str) {
        match fleets {
            Some(fleets) => {
                for fleet in fleets {
                    self.fleets.entry(fleet).or_insert_with(|| why.to_owned());
                }
            }
            None => drop(self.all.get_or_insert_with(|| why.to_owned())),
        }
    }
}

/// Compiles files, with objects that err as an earlier release had them. `found` is what reading the source found.
pub fn compile_last_good(
    files: &[File],
    found: &Diagnostics,
    former: &Former,
    options: &Options,
) -> LastGood {
    let mut loaded = load::load(files);
    loaded.diagnostics.append(found.clone());
    let mut work =
        Work { former, swaps: BTreeMap::new(), frozen: BTreeSet::new(), waiting: Waiting::default() };
    loaded.diagnostics = work.unreadable(&loaded);
    work.freeze(&loaded.objects);
    let mut compilation = compile_objects(work.merged(&loaded), options);
    for _ in 0..ROUNDS {
        let before = (work.swaps.len(), work.frozen.len());
        work.erring(&loaded.objects, &compilation);
        work.differing_policies(&loaded.objects);
        work.freeze(&loaded.objects);
        if before == (work.swaps.len(), work.frozen.len()) {
            break;
        }
        compilation = compile_objects(work.merged(&loaded), options);
    }
    work.check(&loaded.objects);
    work.waiting.move_to(&compilation.served_by);
    let waits = |fleet: &&FleetName| work.waiting.why(fleet).is_some();
    compilation.blocked.fleets.extend(compilation.fleets.keys().filter(waits).cloned());
    let kept = work.kept();
    LastGood { compilation, kept, waiting: work.waiting }
}

/// Compiles files with exactly these objects as a release says that it kept them, and nothing else in another version than
/// the source has it: so a release with kept objects is compiled again.
///
/// # Errors
/// An object that is not there in the commits that it is said to be taken from.
pub fn compile_kept(
    files: &[File],
    found: &Diagnostics,
    kept: &[Kept],
    former: &Former,
    options: &Options,
) -> Result<Compilation, ObjectRef> {
    let mut loaded = load::load(files);
    loaded.diagnostics.append(found.clone());
    let swap = |one: &Kept| {
        let object = match &one.commits {
            Some(_) => Some(former.get(&one.object).cloned().ok_or_else(|| one.object.clone())?),
            None => None,
        };
        Ok((one.object.clone(), object))
    };
    let swaps = kept.iter().map(swap).collect::<Result<_, ObjectRef>>()?;
    let work = Work { former, swaps, frozen: BTreeSet::new(), waiting: Waiting::default() };
    Ok(compile_objects(work.merged(&loaded), options))
}

struct Work<'a> {
    former: &'a Former,
    /// What stands for an object; nothing if it is left out.
    swaps: BTreeMap<ObjectRef, Option<Object>>,
    /// Namespaces that stay as released.
    frozen: BTreeSet<Arc<str>>,
    waiting: Waiting,
}

impl Work<'_> {
    /// Freezes the namespaces of files that cannot be read. Gives back the findings that still count.
    fn unreadable(&mut self, loaded: &Loaded) -> Diagnostics {
        let present: BTreeSet<&ObjectRef> = loaded.objects.iter().map(|object| &object.reference).collect();
        let mut rest = Diagnostics::default();
        for finding in &loaded.diagnostics {
            let (Some(file), None, Severity::Error) = (&finding.file, &finding.object, finding.severity)
            else {
                rest.push(finding.clone());
                continue;
            };
            let (wide, inside): (Vec<_>, Vec<_>) =
                self.former.of_file(file).partition(|object| object.reference.namespace.is_empty());
            if inside.is_empty() {
                // New, or of the whole cluster only: nobody knows what it would restrict.
                rest.push(finding.clone());
                continue;
            }
            self.frozen.extend(inside.into_iter().map(|object| object.reference.namespace.clone()));
            let missing = wide.into_iter().filter(|object| !present.contains(&object.reference));
            self.swaps.extend(missing.map(|object| (object.reference.clone(), Some(object.clone()))));
        }
        rest
    }

    /// Replaces the objects that errors are about.
    fn erring(&mut self, objects: &[Object], compilation: &Compilation) {
        let erring = |found: &&Diagnostic| found.severity == Severity::Error;
        for finding in compilation.diagnostics.iter().filter(erring) {
            let Some(reference) = &finding.object else { continue };
            if self.swaps.contains_key(reference) || self.frozen.contains(&reference.namespace) {
                continue;
            }
            let present = objects.iter().find(|object| same_name(&object.reference, reference));
            let Some(present) = present else { continue };
            let former = self.former.get(&present.reference);
            if KEPT.contains(&&*reference.kind) {
                let new_and_valid = former.is_none() && finding.code.class == Class::Semantic;
                let unchanged = former.is_some_and(|former| same(former, present));
                // What broke by a change elsewhere, or is new, is isolated as the Gateway API says.
                if !new_and_valid && !unchanged {
                    self.swaps.insert(present.reference.clone(), former.cloned());
                }
            } else if former.is_some_and(|former| !same(former, present)) {
                let why = format!(
                    "{reference} has errors, and which of its versions is the stricter one cannot be told"
                );
                self.waiting.add(compilation.named.fleets_of(reference), &why);
            }
        }
    }

    /// A namespace with something kept, and other policies than before, stays as released as a whole: the kept object may
    /// have been guarded by what is gone.
    fn differing_policies(&mut self, objects: &[Object]) {
        let kept: BTreeSet<Arc<str>> = self.swaps.keys().map(|object| object.namespace.clone()).collect();
        let differs = |namespace: &Arc<str>| guards_of(objects, namespace) != self.former_guards(namespace);
        let differing: Vec<_> = kept.into_iter().filter(|namespace| differs(namespace)).collect();
        self.frozen.extend(differing);
    }

    /// Puts everything in frozen namespaces back.
    fn freeze(&mut self, objects: &[Object]) {
        for object in objects.iter().filter(|object| is_ours(&object.reference)) {
            let reference = &object.reference;
            if !self.frozen.contains(&reference.namespace) {
                continue;
            }
            let former = self.former.get(reference);
            if former.is_none_or(|former| !same(former, object)) {
                self.swaps.insert(reference.clone(), former.cloned());
            }
        }
        let present: BTreeSet<&ObjectRef> = objects.iter().map(|object| &object.reference).collect();
        for (reference, (object, _)) in &self.former.0 {
            if self.frozen.contains(&reference.namespace) && !present.contains(reference) {
                self.swaps.insert(reference.clone(), Some(object.clone()));
            }
        }
    }

    fn merged(&self, loaded: &Loaded) -> Loaded {
        let keep = |object: &&Object| !self.swaps.contains_key(&object.reference);
        let mut objects: Vec<Object> = loaded.objects.iter().filter(keep).cloned().collect();
        objects.extend(self.swaps.values().flatten().cloned());
        // What is said of an object that is not there any more is not said of the one in its place.
        let stays = |found: &&Diagnostic| {
            found
                .object
                .as_ref()
                .is_none_or(|object| !self.swaps.keys().any(|swapped| same_name(swapped, object)))
        };
        let mut diagnostics = Diagnostics::default();
        diagnostics.extend(loaded.diagnostics.iter().filter(stays).cloned());
        Loaded { objects, diagnostics, redacted: loaded.redacted.clone() }
    }

    /// Makes fleets wait whose kept routes would meet other Gateways or policies than they were released with, and those
    /// of Gateways in frozen namespaces.
    fn check(&mut self, objects: &[Object]) {
        let gateways = |object: &&Object| {
            &*object.reference.kind == "Gateway" && self.frozen.contains(&object.reference.namespace)
        };
        let former = self.former.0.values().map(|(object, _)| object);
        let mut waiting = Waiting::default();
        for Object { reference, .. } in objects.iter().chain(former).filter(gateways) {
            let why =
                format!("namespace {} stays as released, and with it its Gateways", reference.namespace);
            let fleet = FleetName::gateway(&reference.namespace, &reference.name);
            waiting.add(Some(BTreeSet::from([fleet])), &why);
        }
        let former = self.former.0.values().map(|(object, _)| object);
        let sets = sets(former.chain(objects));
        for (set, fleet) in sets.iter().filter(|(set, _)| self.frozen.contains(&set.namespace)) {
            let why = format!("namespace {} stays as released, and with it its ListenerSets", set.namespace);
            waiting.add(Some(BTreeSet::from([fleet.clone()])), &why);
        }
        for object in self.swaps.values().flatten() {
            let differs = referred_namespaces(object, &sets).into_iter().find(|namespace| {
                !self.frozen.contains(namespace.as_str())
                    && guards_of(objects, namespace) != self.former_guards(namespace)
            });
            if let Some(namespace) = differs {
                let why = format!(
                    "{} would be kept from an earlier release, but Gateways or policies of namespace {namespace} \
                     changed since",
                    object.reference
                );
                waiting.add(fleets_of_route(object, &sets), &why);
            }
        }
        self.waiting.all = self.waiting.all.take().or(waiting.all);
        waiting.fleets.append(&mut self.waiting.fleets);
        self.waiting.fleets = waiting.fleets;
    }

    fn former_guards(&self, namespace: &str) -> BTreeMap<ObjectRef, String> {
        guards_of(self.former.0.values().map(|(object, _)| object), namespace)
    }

    fn kept(&self) -> Vec<Kept> {
        let kept = self.swaps.iter().map(|(reference, object)| Kept {
            object: reference.clone(),
            commits: object
                .as_ref()
                .and_then(|_| self.former.0.get(reference))
                .map(|(_, commits)| commits.clone()),
            place: object.as_ref().map(|object| object.origin.to_string()),
        });
        kept.collect()
    }
}

/// What guards routes in a namespace: its policies, and the Gateways as they are.
fn guards_of<'a>(
    objects: impl IntoIterator<Item = &'a Object>,
    namespace: &str,
) -> BTreeMap<ObjectRef, String> {
    let guard = |object: &&Object| {
        let ObjectRef { kind, namespace: its, .. } = &object.reference;
        **its == *namespace && (kind.ends_with("Policy") || matches!(&**kind, "Gateway" | "ListenerSet"))
    };
    objects.into_iter().filter(guard).map(|object| (object.reference.clone(), text(object))).collect()
}

/// Names with the default namespace filled in or not.
fn same_name(loaded: &ObjectRef, named: &ObjectRef) -> bool {
    (&loaded.group, &loaded.kind, &loaded.name) == (&named.group, &named.kind, &named.name)
        && (loaded.namespace == named.namespace || loaded.namespace.is_empty())
}

fn same(a: &Object, b: &Object) -> bool {
    a.version == b.version && text(a) == text(b)
}

/// An object without places and comments.
fn text(object: &Object) -> String {
    serde_json::to_string(&object.root.to_json()).unwrap_or_default()
}
