//! Offline equals online: `check` on a text and a real API server, in a strict dry run, accept and refuse the same
//! objects.
//!
//! ```text
//! published CRDs ──▶ objects by chance ──▶ changes by chance ──▶ YAML ──┬──▶ load, validate, attach (as `check` does)
//!   └─ each CEL text ──▶ an object that breaks it alone ────────────────┴──▶ POST ?dryRun=All&fieldValidation=Strict
//! ```
//! Everything follows from one seed: `MOORGATE_SEED` names another, `MOORGATE_DIFFERENTIAL_N` asks for more objects, and
//! `MOORGATE_DIFFERENTIAL_CASE` repeats one.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test ends where something is not as it must be"
)]

#[path = "differential/answer.rs"]
mod answer;
#[path = "differential/cel.rs"]
mod cel;
#[path = "differential/core.rs"]
mod core;
#[path = "differential/generate.rs"]
mod generate;
#[path = "differential/metadata.rs"]
mod metadata;
#[path = "differential/mutate.rs"]
mod mutate;
#[path = "differential/schema.rs"]
mod schema;
#[path = "differential/words.rs"]
mod words;
#[path = "differential/yaml.rs"]
mod yaml;

use answer::{Answer, Sent, ask, check};
use anyhow::{Context as _, Result};
use generate::Maker;
use moorgate_tests::cluster::{Channel, Cluster, Options};
use moorgate_tests::distil::crds;
use moorgate_tests::program::{moorgate, run as run_program, variable};
use moorgate_tests::sim::chance::Chance;
use mutate::{Act, acts, mutate};
use schema::{Kind, Site, kinds, sites};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

/// Objects of one run, in both channels together.
const OBJECTS: u64 = 6000;
/// The seed unless another is asked for.
const SEED: u64 = 1;
/// So many are asked about before the next ones are made.
const BATCH: usize = 500;
/// Nobody needs to see more differences than so many.
const ENOUGH: usize = 12;

fn setting(name: &str, otherwise: u64) -> u64 {
    variable(name).map_or(otherwise, |value| value.parse().unwrap())
}

/// A cluster with the CRDs of a channel, shared by the tests of this process.
fn cluster(channel: Channel) -> Arc<Cluster> {
    static SHARED: [Mutex<Weak<Cluster>>; 2] = [const { Mutex::new(Weak::new()) }; 2];
    let mut shared = SHARED[channel as usize].lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cluster) = shared.upgrade() {
        return cluster;
    }
    let options = Options { nodes: 1, channel, ..Options::default() };
    let cluster = Arc::new(Cluster::start(&options).unwrap());
    *shared = Arc::downgrade(&cluster);
    cluster
}

/// One object, what was done to it, and what both sides say.
struct Case {
    number: u64,
    kind: String,
    done: Vec<(Act, String)>,
    sent: Sent,
    offline: Answer,
}

/// The object of a number: it depends on nothing but the seed.
fn case(kinds: &[Kind], seed: u64, number: u64) -> Case {
    let mut chance = Chance::new(seed);
    for _ in 0..2 {
        chance = Chance::new(chance.number() ^ number);
    }
    let mut maker = Maker::new(chance);
    let kind = &kinds[maker.below(kinds.len())];
    let mut object = maker.valid(kind, &[]);
    let changes = [0, 1, 1, 1, 1, 1, 1, 2, 2, 3];
    let done: Vec<_> = (0..*maker.pick(&changes)).map(|_| mutate(&mut maker, kind, &mut object)).collect();
    let text = if maker.once_in(2) { yaml::document(&object) } else { object.to_string() };
    let offline = check(&text, kind.channel);
    Case { number, kind: kind.label(), done, sent: Sent { text, object }, offline }
}

/// What came of a run, by what was done: refused by both, accepted by both.
type Tally = BTreeMap<Act, (u64, u64)>;

/// Compares the answers to some cases; what differs.
fn compare(channel: Channel, seed: u64, cases: &[Case], online: &[Answer], tally: &mut Tally) -> Vec<String> {
    let mut different = Vec::new();
    for (case, online) in cases.iter().zip(online) {
        if case.offline.accepts() != online.accepts() {
            different.push(format!(
                "{} after {:?}\n{}\n  check:   {}\n  server:  {online}\n  repeat:  MOORGATE_SEED={seed} \
                 MOORGATE_DIFFERENTIAL_CASE={} cargo test -p moorgate-tests --test differential {channel:?}\n",
                case.kind, case.done, case.sent.text, case.offline, case.number,
            ));
            continue;
        }
        if let [(act, _)] = case.done.as_slice() {
            let entry = tally.entry(*act).or_default();
            if online.accepts() { entry.1 += 1 } else { entry.0 += 1 }
        }
    }
    different
}

/// Objects by chance and their changes, with the CRDs of a channel.
fn run(channel: Channel, objects: u64) -> Result<()> {
    let seed = setting("MOORGATE_SEED", SEED);
    let kinds = kinds(crds::VERSION, channel)?;
    let cluster = cluster(channel);
    let one = variable("MOORGATE_DIFFERENTIAL_CASE").map(|number| number.parse::<u64>().unwrap());
    let numbers: Vec<u64> = one.map_or_else(|| (0..objects).collect(), |number| vec![number]);
    let (mut tally, mut different) = (Tally::new(), Vec::new());
    let (mut accepted, mut spent) = (0, std::time::Duration::ZERO);
    let began = Instant::now();
    for numbers in numbers.chunks(BATCH) {
        let cases: Vec<Case> = numbers.iter().map(|number| case(&kinds, seed, *number)).collect();
        let sent: Vec<Sent> = cases.iter().map(|case| case.sent.clone()).collect();
        let asked = Instant::now();
        let online = cluster.with(async |client| ask(&client, &kinds, &sent).await)?;
        spent += asked.elapsed();
        accepted += online.iter().filter(|answer| answer.accepts()).count();
        different.extend(compare(channel, seed, &cases, &online, &mut tally));
        if different.len() >= ENOUGH {
            break;
        }
    }
    eprintln!(
        "{channel:?}, seed {seed}: {} objects, {accepted} accepted, in {:.1} s, of which the API server {:.1} s",
        numbers.len(),
        began.elapsed().as_secs_f64(),
        spent.as_secs_f64(),
    );
    for (act, (refused, accepted)) in &tally {
        eprintln!("  {act:?}: {refused} refused, {accepted} accepted");
    }
    assert!(different.is_empty(), "{} differences, seed {seed}:\n{}", different.len(), different.join("\n"));
    if one.is_none() {
        for act in acts() {
            let (refused, _) = tally.get(&act).copied().unwrap_or_default();
            assert!(refused > 0 || objects < 1000, "{act:?} was never refused");
        }
    }
    Ok(())
}

#[test]
fn standard_objects_get_one_answer() -> Result<()> {
    run(Channel::Standard, setting("MOORGATE_DIFFERENTIAL_N", OBJECTS) / 3)
}

#[test]
fn experimental_objects_get_one_answer() -> Result<()> {
    run(Channel::Experimental, setting("MOORGATE_DIFFERENTIAL_N", OBJECTS) * 2 / 3)
}

/// Rules that no API server ever comes to: the schema lists the values that the rule lists, and a value that is not in
/// the list ends the check. With the field that holds such a value.
const SHADOWED: [(&str, &str); 1] =
    [("self.type in ['Exact','PathPrefix'] || self.type == 'RegularExpression'", "type")];

/// The rules of a channel that a new object can break, with their places. What stands in `status` is dropped from what
/// users write, and what compares with a former state needs one.
fn rules_of(sites: &[Site]) -> BTreeMap<&str, Vec<&Site>> {
    let mut texts: BTreeMap<&str, Vec<&Site>> = BTreeMap::new();
    for site in sites.iter().filter(|site| !site.in_status() && !site.is_transition()) {
        texts.entry(&site.rule).or_default().push(site);
    }
    texts
}

fn sent(object: &Value) -> Sent {
    Sent { text: object.to_string(), object: object.clone() }
}

/// Each CEL text of a channel is broken by an object, alone if that can be, and both sides name it.
fn rules_are_refused(channel: Channel) -> Result<()> {
    let seed = setting("MOORGATE_SEED", SEED);
    let began = Instant::now();
    let kinds = kinds(crds::VERSION, channel)?;
    let sites = sites(&kinds)?;
    let texts = rules_of(&sites);
    let mut maker = Maker::new(Chance::new(seed));
    let (mut breaches, mut silent) = (Vec::new(), Vec::new());
    for (text, sites) in &texts {
        match cel::breach(&mut maker, &kinds, sites) {
            Some(breach) => breaches.push((*text, breach)),
            None => silent.push(*text),
        }
    }
    let cluster = cluster(channel);
    let sent: Vec<Sent> = breaches.iter().map(|(_, breach)| sent(&breach.object)).collect();
    let online = cluster.with(async |client| ask(&client, &kinds, &sent).await)?;
    let mut different = Vec::new();
    for (((text, breach), sent), online) in breaches.iter().zip(&sent).zip(&online) {
        let kind = &kinds[breach.kind];
        let offline = check(&sent.text, channel);
        let here: BTreeSet<String> = offline.rules(kind).0.into_iter().collect();
        let there: BTreeSet<String> = online.rules(kind).0.into_iter().collect();
        if here != there || !here.contains(*text) {
            different.push(format!("{text}\n{}\n  check:   {offline}\n  server:  {online}", sent.text));
        }
    }
    assert!(different.is_empty(), "seed {seed}:\n{}", different.join("\n\n"));
    let alone = breaches.iter().filter(|(_, breach)| breach.others == 0).count();
    eprintln!(
        "{channel:?}, seed {seed}: {} CEL texts at {} places; {} broken and named by both, {alone} of them alone; {:.1} s",
        texts.len(),
        texts.values().map(Vec::len).sum::<usize>(),
        breaches.len(),
        began.elapsed().as_secs_f64(),
    );
    for text in silent {
        said_by_the_server(&cluster, &mut maker, &kinds, (text, &texts[text]))?;
    }
    Ok(())
}

/// A rule that breaks only together with something simpler, such as two items of one name in a map: `check` says the
/// simpler thing, the API server says both. Or it never comes to the rule.
fn said_by_the_server(
    cluster: &Cluster,
    maker: &mut Maker,
    kinds: &[Kind],
    (text, sites): (&str, &[&Site]),
) -> Result<()> {
    let shadowed = SHADOWED.iter().find(|(shadowed, _)| *shadowed == text);
    if let Some((_, field)) = shadowed {
        let site = sites[0];
        let kind = &kinds[site.kind];
        let (mut object, paths) = cel::base(maker, kind, site).context("an object")?;
        generate::get_mut(&mut object, &paths[0]).context("the place")?[field] = json!("Elsewise");
        let one = [sent(&object)];
        let online = cluster.with(async |client| ask(&client, kinds, &one).await)?;
        let offline = check(&one[0].text, kind.channel);
        assert!(!offline.accepts() && !online[0].accepts(), "{}\n{offline}\n{}", one[0].text, online[0]);
        assert!(!online[0].rules(kind).0.contains(&text.to_owned()), "it can be broken: {text}");
        return Ok(());
    }
    let suspects = cel::suspects(maker, kinds, sites);
    let sent: Vec<Sent> = suspects.iter().map(|suspect| sent(&suspect.object)).collect();
    let online = cluster.with(async |client| ask(&client, kinds, &sent).await)?;
    let named =
        suspects.iter().zip(&sent).zip(&online).find(|((suspect, _), online)| {
            online.rules(&kinds[suspect.kind]).0.iter().any(|rule| rule == text)
        });
    let ((suspect, sent), online) = named.with_context(|| {
        format!(
            "nothing breaks this rule; {} objects were tried last, such as {:?}: {text}",
            sent.len(),
            sent.first()
        )
    })?;
    let offline = check(&sent.text, kinds[suspect.kind].channel);
    eprintln!("  with something simpler: {text}\n    check:  {offline}\n    server: {online}");
    assert!(!offline.accepts(), "{}", sent.text);
    Ok(())
}

#[test]
fn each_standard_cel_text_is_broken_and_refused_by_both() -> Result<()> {
    rules_are_refused(Channel::Standard)
}

#[test]
fn each_experimental_cel_text_is_broken_and_refused_by_both() -> Result<()> {
    rules_are_refused(Channel::Experimental)
}

/// What a rule about the former state refuses: the object is there, and comes again with another value. In files, both
/// states are an object that is defined twice.
#[test]
fn a_change_that_a_rule_forbids_is_refused_by_both() -> Result<()> {
    let channel = Channel::Experimental;
    let kinds = kinds(crds::VERSION, channel)?;
    let sites = sites(&kinds)?;
    let rules: BTreeSet<&str> =
        sites.iter().filter(|site| site.is_transition()).map(|site| site.rule.as_str()).collect();
    assert_eq!(rules.into_iter().collect::<Vec<_>>(), ["self == oldSelf"], "teach the new ones to this test");
    let cluster = cluster(channel);
    let mut maker = Maker::new(Chance::new(SEED));
    let mut seen = BTreeSet::new();
    for site in sites.iter().filter(|site| site.is_transition()) {
        let kind = &kinds[site.kind];
        let before = maker.valid(kind, &site.path);
        let (mut after, paths) = (before.clone(), [vec!["spec", "controllerName"]]);
        assert_eq!(paths[0], site.path, "a place that this test does not know");
        after["spec"]["controllerName"] = json!("example.com/another");
        let (before_text, after_text) = (yaml::document(&before), yaml::document(&after));
        let name = before["metadata"]["name"].as_str().context("a name")?;
        let path =
            format!("/apis/{}/{}/{name}?fieldManager=suite&force=true", kind.api_version(), kind.plural);
        let apply = "application/apply-patch+yaml";
        let (first, second) = cluster.with(async |client| {
            let first = answer::answer(&client, "PATCH", &path, apply, &before_text).await?;
            let again = format!("{path}&dryRun=All");
            let second = answer::answer(&client, "PATCH", &again, apply, &after_text).await?;
            answer::answer(&client, "DELETE", &path, "application/json", "").await?;
            Ok((first, second))
        })?;
        assert!(first.accepts(), "{before_text}\n{first}");
        assert_eq!(second.rules(kind), (vec![site.rule.clone()], true), "{second}");
        assert!(check(&before_text, channel).accepts() && check(&after_text, channel).accepts());
        let both = check(&format!("{before_text}---\n{after_text}"), channel);
        assert!(both.refusals.iter().any(|(_, words)| words.contains("already defined at")), "{both}");
        seen.insert(kind.label());
    }
    assert!(seen.contains("GatewayClass v1"), "{seen:?}");
    Ok(())
}

/// What controllers write is dropped from what users write, so rules about it refuse no file: `check` and the API
/// server both take it. Controllers are refused.
#[test]
fn rules_about_status_concern_controllers() -> Result<()> {
    let channel = Channel::Experimental;
    let kinds = kinds(crds::VERSION, channel)?;
    let sites = sites(&kinds)?;
    let texts = rules_of(&sites);
    let own: BTreeSet<&str> = sites
        .iter()
        .filter(|site| site.in_status() && !texts.contains_key(site.rule.as_str()))
        .map(|site| site.rule.as_str())
        .collect();
    let [rule] = own.into_iter().collect::<Vec<_>>()[..] else { panic!("teach the new ones to this test") };
    let kind = kinds.iter().find(|kind| kind.label() == "Gateway v1").context("Gateway")?;
    let mut gateway = json!({
        "apiVersion": kind.api_version(), "kind": "Gateway",
        "metadata": { "name": "status", "namespace": "default" },
        "spec": { "gatewayClassName": "none", "listeners": [{ "name": "a", "port": 80, "protocol": "HTTP" }] },
    });
    let plain = gateway.to_string();
    gateway["status"] = json!({ "addresses": [{ "type": "Hostname", "value": "A_" }] });
    let text = gateway.to_string();
    let path = format!("/apis/{}/namespaces/default/gateways", kind.api_version());
    let one = [sent(&gateway)];
    let (online, controller) = cluster(channel).with(async |client| {
        let online = ask(&client, &kinds, &one).await?;
        answer::answer(&client, "POST", &path, "application/json", &plain).await?;
        let (own, patch) = (format!("{path}/status"), "application/merge-patch+json");
        let controller =
            answer::answer(&client, "PATCH", &format!("{own}/status?dryRun=All"), patch, &text).await?;
        answer::answer(&client, "DELETE", &own, "application/json", "").await?;
        Ok((online, controller))
    })?;
    assert!(online[0].accepts() && check(&text, channel).accepts(), "{}", online[0]);
    assert_eq!(controller.rules(kind), (vec![rule.to_owned()], true), "{controller}");
    Ok(())
}

/// What `check` refuses in core kinds, an API server refuses too; and about names, labels and annotations they agree.
#[test]
fn core_objects_are_refused_by_both() -> Result<()> {
    let seed = setting("MOORGATE_SEED", SEED);
    let kinds = core::kinds();
    let mut maker = Maker::new(Chance::new(seed));
    let mut cases = Vec::new();
    for kind in &kinds {
        cases.push((kind, "nothing".to_owned(), true, core::object(kind)));
        for _ in 0..setting("MOORGATE_DIFFERENTIAL_N", OBJECTS) / 40 {
            let mut object = core::object(kind);
            let (done, whole) = core::mutate(&mut maker, kind, &mut object);
            cases.push((kind, done, whole, object));
        }
    }
    let sent: Vec<Sent> = cases.iter().map(|(.., object)| sent(object)).collect();
    let online = cluster(Channel::Experimental).with(async |client| ask(&client, &kinds, &sent).await)?;
    let (mut different, mut refused) = (Vec::new(), 0);
    for (((kind, done, whole, _), sent), online) in cases.iter().zip(&sent).zip(&online) {
        let offline = check(&sent.text, kind.channel);
        refused += usize::from(!offline.accepts());
        let fine = offline.accepts() == online.accepts() || (!whole && offline.accepts());
        if !fine {
            different.push(format!("{done}\n{}\n  check:  {offline}\n  server: {online}", sent.text));
        }
    }
    eprintln!("core kinds, seed {seed}: {} objects, {refused} refused by both", cases.len());
    assert!(different.is_empty(), "{} differences:\n{}", different.len(), different.join("\n\n"));
    assert!(refused > cases.len() / 10 && refused < cases.len(), "{refused} of {}", cases.len());
    Ok(())
}

/// The command says what the library says, and ends with 1 where the API server refuses.
#[test]
fn the_command_agrees() -> Result<()> {
    let channel = Channel::Experimental;
    let kinds = kinds(crds::VERSION, channel)?;
    let cases: Vec<Case> = (0..16).map(|number| case(&kinds, SEED, 1_000_000 + number)).collect();
    let sent: Vec<Sent> = cases.iter().map(|case| case.sent.clone()).collect();
    let online = cluster(channel).with(async |client| ask(&client, &kinds, &sent).await)?;
    let folder = tempfile::tempdir()?;
    let mut refused = 0;
    for (case, online) in cases.iter().zip(&online) {
        let file = folder.path().join("object.yaml");
        std::fs::write(&file, &case.sent.text)?;
        let mut command = moorgate()?;
        command.args(["check", "--crds", "experimental", "--namespace", "default", "-o", "json"]).arg(&file);
        let outcome = run_program(&mut command)?.ended_with(&[0, 1])?;
        let said = outcome.json()?;
        let said = said["diagnostics"].as_array().context("diagnostics")?.iter();
        let wrong = said.filter(|found| found["severity"] == "error" && found["class"] != "semantic").count();
        assert_eq!(wrong, case.offline.refusals.len(), "{}\n{}", case.sent.text, outcome.stdout);
        assert_eq!(wrong > 0, !online.accepts(), "{}\n{}{online}", case.sent.text, outcome.stdout);
        assert!(wrong == 0 || outcome.code == 1, "{}", outcome.stdout);
        refused += usize::from(wrong > 0);
    }
    assert!((1..cases.len()).contains(&refused), "{refused} of {}", cases.len());
    Ok(())
}

/// Where parsers of YAML disagree, or change what is written, `check` refuses what an API server takes one way or
/// another. This is all of it; whatever else has one meaning has one answer.
#[test]
fn where_yaml_is_ambiguous_only_check_refuses() -> Result<()> {
    let route = |metadata: &str, backend: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata:\n  name: ambiguous\n  namespace: \
             default\n{metadata}spec:\n  rules:\n  - backendRefs:\n    - name: a\n{backend}"
        )
    };
    let texts = [
        // A key that is read as a truth value, and written as `true`.
        route("  labels:\n    yes: a\n", "      port: 80\n"),
        // Octal, or not.
        route("", "      port: 010\n"),
        route("", "      port: 0x50\n"),
        route("", "      port: 1_0\n"),
        route("", "      port: 0b101\n"),
        // Merge keys and tags that change a value.
        route("", "      <<: {port: 80}\n"),
        route("", "      port: !!int \"80\"\n"),
    ];
    let plain = route("", "      port: 80\n");
    let channel = Channel::Experimental;
    let kinds = kinds(crds::VERSION, channel)?;
    let object: Value = yaml_serde::from_str(&plain)?;
    let of = |text: &String| Sent { text: text.clone(), object: object.clone() };
    let sent: Vec<Sent> = texts.iter().chain([&plain]).map(of).collect();
    let online = cluster(channel).with(async |client| ask(&client, &kinds, &sent).await)?;
    for (sent, online) in sent.iter().zip(&online) {
        let offline = check(&sent.text, channel);
        assert!(online.accepts(), "no ambiguity: both refuse\n{}\n{online}", sent.text);
        assert_eq!(offline.accepts(), sent.text == plain, "{}\n{offline}", sent.text);
    }
    Ok(())
}

/// What both refuse before they look at fields: names that occur twice, and texts that are no object.
#[test]
fn texts_that_are_no_object_are_refused_by_both() -> Result<()> {
    let object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "TCPRoute",
        "metadata": { "name": "a", "namespace": "default" },
        "spec": { "rules": [{ "backendRefs": [{ "name": "a", "port": 80 }] }] },
    });
    let plain = yaml::document(&object);
    let texts = [
        plain.replace("kind: TCPRoute", "kind: TCPRoute\nkind: TCPRoute"),
        plain.replace("port: 80", "port: 80\n          port: 81"),
        object.to_string().replace("\"kind\":", "\"kind\":\"TCPRoute\",\"kind\":"),
        plain.replace("spec:", "spec: ["),
        plain.replace("kind: TCPRoute", "kind: [TCPRoute]"),
        plain.replace("kind: TCPRoute", "kind:"),
        plain.replace("apiVersion: ", "apiversion: "),
        plain.replace("metadata:", "metadata: text #"),
    ];
    let channel = Channel::Experimental;
    let kinds = kinds(crds::VERSION, channel)?;
    let of = |text: &String| Sent { text: text.clone(), object: object.clone() };
    let sent: Vec<Sent> = texts.iter().map(of).collect();
    let online = cluster(channel).with(async |client| ask(&client, &kinds, &sent).await)?;
    for (sent, online) in sent.iter().zip(&online) {
        let offline = check(&sent.text, channel);
        assert!(!offline.accepts() && !online.accepts(), "{}\n{offline}\n{online}", sent.text);
    }
    Ok(())
}
