use super::*;

#[tokio::test]
async fn blobs_are_read_at_every_way_to_name_a_commit() {
    let (folder, repository) = repository();
    let first = repository.find_reference("refs/heads/main").unwrap().peel_to_commit().unwrap();
    repository.tag_lightweight("light", first.as_object(), false).unwrap();
    let author = Signature::new("Ada", "ada@example.com", &Time::new(0, 0)).unwrap();
    repository.tag("v1", first.as_object(), &author, "notes", false).unwrap();
    repository.reference("refs/remotes/origin/far", first.id(), false, "").unwrap();
    commit(&repository, &[("new.yaml", FILE, b"n")]);
    let id = first.id().to_string();
    for revision in
        [&id, &id[..8], "v1", "light", "refs/tags/v1", "origin/far", "far", "main~1", "main^{commit}^"]
    {
        let sources = read_git(folder.path(), revision, None).await.unwrap();
        assert_eq!(texts(&sources), ["a.yaml=a", "b/c.json=c"], "{revision}");
        let found = &sources.revisions[0];
        assert_eq!((&*found.commit, found.dirty), (id.as_str(), false), "{revision}");
    }
    assert_eq!(texts(&read_git(folder.path(), "main", None).await.unwrap()), ["new.yaml=n"]);
    assert_eq!(texts(&read_git(folder.path(), "v1", Some("b")).await.unwrap()), ["c.json=c"]);
    assert_eq!(texts(&read_git(folder.path(), "v1", Some("b/d.txt")).await.unwrap()), ["d.txt=d"]);
    let url = format!("file://{}", folder.path().display());
    assert_eq!(texts(&read_all(&[at(&url, "v1", None)], &Limits::DEFAULT).await.unwrap()).len(), 2);
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let (folder, repository) = repository();
    let error = read_git(folder.path(), "nope", None).await.unwrap_err();
    assert!(
        matches!(&error, SourceError::Revision { revision, help: None, .. } if revision == "nope"),
        "{error}"
    );
    let error = read_git(folder.path(), "main", Some("nope")).await.unwrap_err();
    assert!(matches!(&error, SourceError::Folder { folder, .. } if folder == "nope"), "{error}");
    let blob = repository.odb().unwrap().write(git2::ObjectType::Blob, b"x").unwrap();
    assert!(matches!(
        read_git(folder.path(), &blob.to_string(), None).await,
        Err(SourceError::Revision { .. })
    ));
    let empty = tempfile::tempdir().unwrap();
    let error = read_git(empty.path(), "main", None).await.unwrap_err();
    assert!(matches!(error, SourceError::Repository { .. }), "{error}");
    assert!(error.to_string().contains("help: "), "{error}");
}

#[tokio::test]
async fn a_folder_of_a_work_tree_stands_for_itself() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::init(root.path()).unwrap();
    commit(&repository, &[("apps//a.yaml", FILE, b"committed"), ("b.yaml", FILE, b"b")]);
    write(root.path(), &[("apps/a.yaml", "in work")]);
    let sources = read_git(&root.path().join("apps"), "main", None).await.unwrap();
    assert_eq!(texts(&sources), ["a.yaml=committed"]);
    assert_eq!(&*sources.revisions[0].folder, "apps");
}

#[tokio::test]
async fn row_20_a_shallow_clone_without_the_commit_gets_a_help_line() {
    let (folder, repository) = repository();
    let first = repository.find_reference("refs/heads/main").unwrap().target().unwrap();
    commit(&repository, &[("a.yaml", FILE, b"2")]);
    let clone = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let arguments = ["clone", "-q", "--depth", "1", "--branch", "main", &url];
    let cloned = std::process::Command::new("git").args(arguments).arg(clone.path()).status().unwrap();
    assert!(cloned.success());
    let sources = read_git(clone.path(), "HEAD", None).await.unwrap();
    assert_eq!((texts(&sources), sources.revisions[0].shallow), (vec!["a.yaml=2".to_string()], true));
    for revision in [first.to_string(), "HEAD~1".to_string()] {
        let error = read_git(clone.path(), &revision, None).await.unwrap_err();
        assert!(error.to_string().contains("git fetch --unshallow"), "{error}");
    }
}

#[tokio::test]
async fn row_15_links_in_a_commit_are_never_followed() {
    let (folder, repository) = repository();
    let target = "f".repeat(5000);
    commit(
        &repository,
        &[
            ("a.yaml", FILE, b"a"),
            ("README", FILE, b"r"),
            ("b.yaml", LINK, b"a.yaml"),
            ("d//LICENSE", LINK, b"../README"),
            ("d//out", LINK, b"../../etc"),
            ("d//abs", LINK, b"/proc"),
            ("d//loop", LINK, b"."),
            ("d//long", LINK, target.as_bytes()),
            ("chain", LINK, b"b.yaml"),
        ],
    );
    let sources = read_git(folder.path(), "main", None).await.unwrap();
    assert_eq!(texts(&sources), ["a.yaml=a"]);
    assert_eq!(
        findings(&sources),
        ["MG1021 b.yaml", "MG1021 chain", "MG1021 d/abs", "MG1021 d/long", "MG1021 d/loop", "MG1021 d/out"]
    );
    assert!(matches!(read_git(folder.path(), "main", Some("b.yaml")).await, Err(SourceError::Folder { .. })));
    assert!(matches!(
        read_git(folder.path(), "main", Some("d/loop/x")).await,
        Err(SourceError::Folder { .. })
    ));
}

#[tokio::test]
async fn row_16_17_and_18_submodules_and_hostile_names_in_a_commit() {
    let (folder, repository) = repository();
    commit(
        &repository,
        &[
            ("..", FILE, b"x"),
            ("A.yaml", FILE, b"1"),
            ("a.yaml", FILE, b"2"),
            ("nul.yaml", FILE, b"3"),
            ("sub", 0o160_000, &[7; 20]),
            ("w\\x.yaml", FILE, b"4"),
            ("x//..//e.yaml", FILE, b"5"),
            (".git//hooks//h.yaml", FILE, b"6"),
        ],
    );
    let sources = read_git(folder.path(), "main", None).await.unwrap();
    assert_eq!(texts(&sources), ["A.yaml=1", "a.yaml=2"]);
    assert_eq!(
        findings(&sources),
        ["MG1025 ..", "MG1024 a.yaml", "MG1025 nul.yaml", "MG1023 sub", "MG1025 w\\x.yaml", "MG1025 x/.."]
    );
}

#[tokio::test]
async fn row_12_trees_and_blobs_are_bounded() {
    let (folder, repository) = repository();
    let deep = format!("{}x.yaml", "d//".repeat(70));
    commit(
        &repository,
        &[("big.yaml", FILE, &[b'#'; 2000]), (deep.as_str(), FILE, b"x"), ("ok.yaml", FILE, b"k")],
    );
    let limits = Limits { file_bytes: 1500, ..Limits::DEFAULT };
    let sources = read_all(&[at(folder.path().to_str().unwrap(), "main", None)], &limits).await.unwrap();
    assert_eq!(texts(&sources), ["ok.yaml=k"]);
    assert_eq!(findings(&sources)[0], "MG1011 big.yaml");
    assert!(findings(&sources)[1].starts_with("MG1011 d/d/d/"));
    let wide: Vec<(String, i32, Vec<u8>)> =
        (0..100).map(|n| (format!("{n}.yaml"), FILE, Vec::new())).collect();
    let wide: Vec<(&str, i32, &[u8])> =
        wide.iter().map(|(name, mode, text)| (name.as_str(), *mode, &text[..])).collect();
    commit(&repository, &wide);
    let spec = at(folder.path().to_str().unwrap(), "main", None);
    let error = read_all(std::slice::from_ref(&spec), &limits).await.unwrap_err();
    assert!(matches!(error, SourceError::Object { .. }), "{error}");
    let counted = read_all(&[spec], &Limits { entries: 50, ..Limits::DEFAULT }).await.unwrap();
    assert_eq!(findings(&counted), ["MG1011 -"]);
}

#[cfg(unix)]
#[tokio::test]
async fn row_26_nothing_that_a_repository_configures_is_run() {
    use std::os::unix::fs::PermissionsExt as _;
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::init(root.path()).unwrap();
    let marker = root.path().join("ran");
    let touch = format!("touch {}", marker.display());
    let mut config = repository.config().unwrap();
    for key in [
        "filter.evil.smudge",
        "filter.evil.clean",
        "filter.evil.process",
        "core.fsmonitor",
        "diff.external",
        "core.pager",
    ] {
        config.set_str(key, &touch).unwrap();
    }
    for hook in ["post-checkout", "pre-commit", "post-index-change", "reference-transaction"] {
        let path = root.path().join(".git/hooks").join(hook);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{touch}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let attributes = b"*.yaml filter=evil diff=evil ident text eol=crlf working-tree-encoding=UTF-16\n";
    commit(&repository, &[(".gitattributes", FILE, attributes), ("a.yaml", FILE, b"id: $Id$\n")]);
    repository.set_head("refs/heads/main").unwrap();
    write(
        root.path(),
        &[(".gitattributes", std::str::from_utf8(attributes).unwrap()), ("a.yaml", "id: $Id$\n")],
    );
    assert_eq!(texts(&read_git(root.path(), "main", None).await.unwrap()), ["a.yaml=id: $Id$\n"]);
    let sources = read_folder(root.path()).await;
    assert_eq!((texts(&sources), sources.revisions[0].dirty), (vec!["a.yaml=id: $Id$\n".to_string()], false));
    assert!(!marker.exists());
}
