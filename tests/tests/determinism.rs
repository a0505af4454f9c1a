//! Same configuration, same bytes: whatever the order, the threads, or the place of the run.

use anyhow::{Context as _, Result};
use moorgate::compile::{Options, compile};
use moorgate::source::File;
use moorgate_tests::program::{moorgate, run};
use moorgate_tests::routes::{self, Numbers};
use std::collections::BTreeSet;

const PORTS: [u16; 5] = [80, 81, 80, 8080, 443];

fn documents() -> Vec<String> {
    let mut all = routes::base(&PORTS);
    all.extend(routes::routes(&mut Numbers::new(5), 150));
    all
}

/// Deals documents into files, in an order of the seed.
fn deal(seed: u64) -> Vec<File> {
    let mut numbers = Numbers::new(seed);
    let mut documents = documents();
    numbers.shuffle(&mut documents);
    let count = 1 + numbers.below(12);
    let mut texts = vec![String::new(); count];
    for document in documents {
        let text = &mut texts[numbers.below(count)];
        text.push_str("---\n");
        text.push_str(&document);
        if numbers.chance(30) {
            text.push_str("\n# a comment\n\n");
        }
    }
    let mut files: Vec<File> = texts
        .into_iter()
        .enumerate()
        .map(|(index, text)| File {
            name: format!("{}/{index}.yaml", seed % 7).into(),
            bytes: text.into_bytes().into(),
        })
        .collect();
    numbers.shuffle(&mut files);
    files
}

fn id(files: &[File]) -> String {
    let compilation = compile(files, &Options::default());
    compilation.fleets.values().map(|fleet| fleet.snapshot.id().to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn fifty_shuffled_compiles_on_one_to_eight_threads_give_one_id() {
    let mut ids = BTreeSet::new();
    let mut done = 0;
    for threads in 1..=8 {
        std::thread::scope(|scope| {
            let running: Vec<_> =
                (0..threads).map(|thread| scope.spawn(move || id(&deal(threads * 100 + thread)))).collect();
            for thread in running {
                ids.insert(thread.join().unwrap());
                done += 1;
            }
        });
    }
    for seed in done..50 {
        ids.insert(id(&deal(seed)));
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert!(ids.iter().all(|id| id.len() == 64), "{ids:?}");
}

#[test]
fn what_envoy_sees_changes_the_id_and_nothing_else_does() {
    let text = |documents: &[String]| documents.join("---\n");
    let one = |text: String| id(&[File { name: "a.yaml".into(), bytes: text.into_bytes().into() }]);
    let before = one(text(&documents()));
    assert_eq!(one(text(&documents()).replace("metadata:\n", "metadata:  # who\n")), before);
    assert_eq!(one(text(&documents()).replace('\n', "\r\n")), before);
    assert_ne!(one(text(&documents()).replacen("value: \"/a", "value: \"/z", 1)), before);
}

#[test]
fn locale_time_zone_home_and_folder_do_not_matter() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (index, file) in deal(1).iter().enumerate() {
        std::fs::write(folder.path().join(format!("{index}.yaml")), &file.bytes)?;
    }
    let elsewhere = tempfile::tempdir()?;
    let mut ids = BTreeSet::from([id(&deal(2))]);
    let cases = [
        ("C", "UTC", "/"),
        ("tr_TR.UTF-8", "Asia/Kathmandu", "/tmp"),
        ("de_DE.UTF-8", "America/St_Johns", "/usr"),
        ("ja_JP.UTF-8", "Pacific/Chatham", "/var"),
    ];
    for (locale, zone, place) in cases {
        let mut command = moorgate()?;
        command.env("LC_ALL", locale).env("LANG", locale).env("TZ", zone).env("HOME", elsewhere.path());
        command.current_dir(place).args(["compile", "-o", "json"]).arg(folder.path());
        let outcome = run(&mut command)?.ended_with(&[0, 1])?;
        let printed = outcome.json()?["fleets"][0]["snapshot"].as_str().context("no snapshot")?.to_owned();
        ids.insert(printed);
    }
    let mut relative = moorgate()?;
    relative.current_dir(folder.path()).args(["compile", "-o", "json", "."]);
    ids.insert(
        run(&mut relative)?.ended_with(&[0, 1])?.json()?["fleets"][0]["snapshot"]
            .as_str()
            .context("none")?
            .to_owned(),
    );
    assert_eq!(ids.len(), 1, "{ids:?}");
    Ok(())
}
