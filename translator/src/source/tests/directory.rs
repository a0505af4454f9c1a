use super::*;
use crate::source::directory::read_stable;

#[tokio::test]
async fn folders_are_read_in_one_order_and_hidden_ones_are_not() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        &[
            ("b.yml", "b"),
            ("a/z.json", "z"),
            ("a.yaml", "a"),
            ("x.txt", "-"),
            (".git/x.yaml", "-"),
            (".h/y.yaml", "-"),
            (".z.yaml", "-"),
            ("Q.YAML", "q"),
        ],
    );
    let sources = read_folder(root.path()).await;
    assert_eq!(texts(&sources), ["Q.YAML=q", "a.yaml=a", "a/z.json=z", "b.yml=b"]);
    assert_eq!((findings(&sources), sources.revisions.len()), (vec![], 0));
}

#[tokio::test]
async fn files_pipes_and_stdin_are_read_by_name() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &[("any.name", "x")]);
    let one = SourceSpec::Path(root.path().join("any.name"));
    assert_eq!(texts(&read_all(std::slice::from_ref(&one), &Limits::DEFAULT).await.unwrap()), ["any.name=x"]);
    let stdin = read_with(&[SourceSpec::Stdin], &Limits::DEFAULT, &b"in"[..]).await.unwrap();
    assert_eq!(texts(&stdin), ["-=in"]);
    let small = Limits { file_bytes: 1, ..Limits::DEFAULT };
    let large = read_with(&[SourceSpec::Stdin], &small, &b"in"[..]).await.unwrap();
    assert_eq!((texts(&large), findings(&large)), (vec![], vec!["MG1011 -".to_string()]));
    let folder = SourceSpec::Path(root.path().to_path_buf());
    let both =
        read_with(&[one.clone(), SourceSpec::Stdin, folder], &Limits::DEFAULT, &b"in"[..]).await.unwrap();
    assert_eq!(texts(&both), ["-=in".to_string(), format!("{}=x", root.path().join("any.name").display())]);
    let twice = read_all(&[one.clone(), one], &Limits::DEFAULT).await.unwrap_err();
    assert!(twice.is_usage());
    let missing =
        read_all(&[SourceSpec::Path(root.path().join("none"))], &Limits::DEFAULT).await.unwrap_err();
    assert!(matches!(&missing, SourceError::Io { path, .. } if path.ends_with("none")), "{missing:?}");
}

#[tokio::test]
async fn names_of_several_sources_stay_apart() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &[("one/a.yaml", "1"), ("two/a.yaml", "2")]);
    let spec = |name: &str| SourceSpec::Path(root.path().join(name));
    let sources = read_all(&[spec("two"), spec("one")], &Limits::DEFAULT).await.unwrap();
    let name = |name: &str| root.path().join(name).display().to_string();
    assert_eq!(texts(&sources), [format!("{}=1", name("one/a.yaml")), format!("{}=2", name("two/a.yaml"))]);
    assert_eq!(findings(&sources), [""; 0]);
}

#[tokio::test]
async fn row_12_sizes_and_counts_are_bounded() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &[("a.yaml", "12345"), ("b.yaml", "12"), ("c.yaml", "12"), ("d.yaml", "12")]);
    let read = async |limits: Limits| {
        let sources = read_all(&[SourceSpec::Path(root.path().to_path_buf())], &limits).await.unwrap();
        (sources.files.len(), findings(&sources))
    };
    let limits = Limits::DEFAULT;
    assert_eq!(
        read(Limits { file_bytes: 4, ..limits.clone() }).await,
        (3, vec!["MG1011 a.yaml".to_string()])
    );
    assert_eq!(read(Limits { total_bytes: 9, ..limits.clone() }).await, (3, vec!["MG1011 -".to_string()]));
    assert_eq!(read(Limits { files: 2, ..limits.clone() }).await, (2, vec!["MG1011 -".to_string()]));
    assert_eq!(read(Limits { entries: 3, ..limits.clone() }).await, (0, vec!["MG1011 -".to_string()]));
    write(root.path(), &[("f/g/h.yaml", "")]);
    assert_eq!(read(Limits { folder_depth: 1, ..limits }).await, (4, vec!["MG1011 f/g".to_string()]));
}

#[cfg(unix)]
#[tokio::test]
async fn row_15_links_are_never_followed() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &[("in/a.yaml", "a"), ("in/README", "r"), ("out/secret.yaml", "s")]);
    let tree = root.path().join("in");
    symlink("a.yaml", tree.join("b.yaml")).unwrap();
    symlink("../out", tree.join("out")).unwrap();
    symlink(".", tree.join("loop")).unwrap();
    symlink("/proc", tree.join("proc")).unwrap();
    symlink("/nowhere", tree.join("gone.yaml")).unwrap();
    symlink("README", tree.join("LICENSE")).unwrap();
    let sources = read_folder(&tree).await;
    assert_eq!(texts(&sources), ["a.yaml=a"]);
    assert_eq!(
        findings(&sources),
        ["MG1021 b.yaml", "MG1021 gone.yaml", "MG1021 loop", "MG1021 out", "MG1021 proc"]
    );
    // What the user names is the user's choice.
    symlink(&tree, root.path().join("current")).unwrap();
    assert_eq!(texts(&read_folder(&root.path().join("current")).await), ["a.yaml=a"]);
}

#[cfg(unix)]
#[tokio::test]
async fn row_19_pipes_and_sockets_are_not_opened() {
    let root = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("mkfifo").arg(root.path().join("p.yaml")).status().unwrap();
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(root.path().join("s.sock")).unwrap();
    let sources = read_folder(root.path()).await;
    assert_eq!(
        (texts(&sources), findings(&sources)),
        (vec![], vec!["MG1022 p.yaml".to_string(), "MG1022 s.sock".to_string()])
    );
    let socket = read_all(&[SourceSpec::Path(root.path().join("s.sock"))], &Limits::DEFAULT).await;
    assert!(matches!(socket, Err(SourceError::NotAFile(_))));
    // It took the place of a file after that was listed: opening it does not block.
    assert_eq!(read_stable(&root.path().join("p.yaml"), 10, || ()).unwrap(), None);
}

#[cfg(unix)]
#[test]
fn row_21_a_file_that_changes_while_it_is_read_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.yaml");
    let fresh = || fs::write(&path, "one").unwrap();
    fresh();
    assert_eq!(read_stable(&path, 10, || ()).unwrap().as_deref(), Some(&b"one"[..]));
    let append = || fs::write(&path, "one two").unwrap();
    assert_eq!(read_stable(&path, 10, append).unwrap(), None);
    fresh();
    let replace = || {
        fs::write(root.path().join("b"), "two").unwrap();
        fs::rename(root.path().join("b"), &path).unwrap();
    };
    assert_eq!(read_stable(&path, 10, replace).unwrap(), None);
    fresh();
    assert_eq!(read_stable(&path, 10, || fs::remove_file(&path).unwrap()).unwrap(), None);
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert_eq!(read_stable(&path, 10_000, || ()).unwrap(), None);
}

#[tokio::test]
async fn row_18_names_that_collide_or_are_reserved_are_errors() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        &[
            ("Shop.yaml", "1"),
            ("shop.yaml", "2"),
            ("caf\u{e9}.yaml", "3"),
            ("cafe\u{301}.yaml", "4"),
            ("aux.yaml", "5"),
            ("x:y.yaml", "6"),
        ],
    );
    let sources = read_folder(root.path()).await;
    assert_eq!(
        findings(&sources),
        ["MG1025 aux.yaml", "MG1024 caf\u{e9}.yaml", "MG1024 shop.yaml", "MG1025 x:y.yaml"]
    );
    assert_eq!(sources.files.len(), 4);
}

#[cfg(unix)]
#[tokio::test]
async fn row_18_names_that_are_not_text_are_errors() {
    use std::os::unix::ffi::OsStrExt as _;
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"a\xff.yaml")), "x").unwrap();
    assert_eq!(findings(&read_folder(root.path()).await), ["MG1025 a\u{fffd}.yaml"]);
}

/// A work tree with a commit of `apps/a.yaml` and `other.txt`.
fn work_tree() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::init(root.path()).unwrap();
    commit(&repository, &[("apps//a.yaml", FILE, b"a\n"), ("other.txt", FILE, b"o\n")]);
    repository.set_head("refs/heads/main").unwrap();
    write(root.path(), &[("apps/a.yaml", "a\n"), ("other.txt", "changed\n")]);
    root
}

#[tokio::test]
async fn row_20_files_that_are_not_of_a_commit_are_marked() {
    let root = work_tree();
    let apps = root.path().join("apps");
    let dirty = async |path: &Path| {
        let sources = read_folder(path).await;
        (sources.revisions[0].dirty, findings(&sources))
    };
    let warned = (true, vec!["MG1027 -".to_string()]);
    // Only what is read counts.
    assert_eq!(dirty(&apps).await, (false, vec![]));
    assert_eq!(dirty(root.path()).await, (false, vec![]));
    assert_eq!(dirty(&apps.join("a.yaml")).await, (false, vec![]));
    write(&apps, &[("a.yaml", "a\r\n")]);
    assert_eq!(dirty(&apps).await, (false, vec![]));
    write(&apps, &[("a.yaml", "b\n")]);
    assert_eq!(dirty(&apps).await, warned);
    assert_eq!(dirty(&apps.join("a.yaml")).await, warned);
    write(&apps, &[("a.yaml", "a\n"), ("new.yaml", "n\n"), ("../.gitignore", "new.yaml\n")]);
    assert_eq!(dirty(&apps).await, warned);
    fs::remove_file(apps.join("new.yaml")).unwrap();
    fs::remove_file(apps.join("a.yaml")).unwrap();
    assert_eq!(dirty(&apps).await, warned);
    let fresh = tempfile::tempdir().unwrap();
    Repository::init(fresh.path()).unwrap();
    let sources = read_folder(fresh.path()).await;
    assert_eq!((sources.revisions.len(), findings(&sources)), (0, vec!["MG1027 -".to_string()]));
}

#[tokio::test]
async fn a_work_tree_tells_its_commit() {
    let root = work_tree();
    let repository = Repository::open(root.path()).unwrap();
    repository.remote("origin", "https://me:s3cret@example.com/x.git").unwrap();
    let sources = read_folder(&root.path().join("apps")).await;
    let revision = &sources.revisions[0];
    let head = repository.head().unwrap().peel_to_commit().unwrap();
    assert_eq!((&*revision.commit, &*revision.tree), (&*head.id().to_string(), &*head.tree_id().to_string()));
    assert_eq!(
        (&*revision.author, revision.time, &*revision.folder),
        ("Ada <ada@example.com>", 1_700_000_000, "apps")
    );
    assert_eq!(
        (revision.repository.as_deref(), revision.shallow),
        (Some("https://example.com/x.git"), false)
    );
}

#[tokio::test]
async fn row_16_repositories_within_a_work_tree_are_not_entered() {
    let root = work_tree();
    Repository::init(root.path().join("apps/sub")).unwrap();
    write(root.path(), &[("apps/sub/x.yaml", "x")]);
    let sources = read_folder(&root.path().join("apps")).await;
    assert_eq!(
        (texts(&sources), findings(&sources)),
        (vec!["a.yaml=a\n".to_string()], vec!["MG1023 sub".to_string()])
    );
}
