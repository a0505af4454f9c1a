//! Against git's own server program, behind a small HTTP server.

use super::*;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

type Answer = Response<Full<Bytes>>;

/// How the server behaves.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// As git does.
    Plain,
    /// Only for `me:s3cret`.
    Locked,
    /// `/old` leads to the repository, `/away` to another host.
    Moved,
    /// Speaks the first version only.
    Old,
    /// Accepts and never answers.
    Silent,
    /// Answers with this instead of a pack.
    Junk(&'static [u8]),
}

/// Serves the repositories of a folder; gives the base URL.
async fn serve(root: &Path, manner: Manner) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let root = root.to_path_buf();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let root = root.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(root.clone(), manner, request));
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    url
}

fn plain(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

async fn answer(root: PathBuf, manner: Manner, request: Request<Incoming>) -> std::io::Result<Answer> {
    let path = request.uri().path().to_string();
    match manner {
        Manner::Locked => {
            let given = request.headers().get("authorization").and_then(|value| value.to_str().ok());
            // me:s3cret
            if given != Some("Basic bWU6czNjcmV0") {
                return Ok(plain(StatusCode::UNAUTHORIZED));
            }
        }
        Manner::Moved if path.starts_with("/old") || path.starts_with("/away") => {
            let mut answer = plain(StatusCode::MOVED_PERMANENTLY);
            let query = request.uri().query().unwrap_or_default();
            let target = match path.strip_prefix("/old") {
                Some(rest) => format!("/repo{rest}?{query}"),
                None => format!("http://localhost:1/repo/info/refs?{query}"),
            };
            answer.headers_mut().insert("location", target.parse().unwrap());
            return Ok(answer);
        }
        Manner::Silent => std::future::pending().await,
        Manner::Junk(junk) if request.method() == "POST" => {
            let mut answer = Response::new(Full::new(Bytes::from_static(junk)));
            answer
                .headers_mut()
                .insert("content-type", "application/x-git-upload-pack-result".parse().unwrap());
            return Ok(answer);
        }
        _ => {}
    }
    backend(&root, manner, request).await
}

/// One request through `git http-backend`, a CGI program.
async fn backend(root: &Path, manner: Manner, request: Request<Incoming>) -> std::io::Result<Answer> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let header = |name: &str| {
        parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_string()
    };
    let mut command = tokio::process::Command::new("git");
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("PATH_INFO", parts.uri.path())
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if manner != Manner::Old {
        command.env("GIT_PROTOCOL", header("git-protocol"));
    }
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&body).await?;
    drop(stdin);
    let output = child.wait_with_output().await?.stdout;
    let end =
        output.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(output.len().saturating_sub(4));
    let mut answer = Response::new(Full::new(Bytes::copy_from_slice(&output[end + 4..])));
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let (name, value) = line.split_once(": ").unwrap();
        if name == "Status" {
            *answer.status_mut() = value[..3].parse().unwrap();
        } else {
            answer.headers_mut().insert(
                hyper::header::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
    }
    Ok(answer)
}

/// A folder with the repository `repo`: two commits, a branch, a tag, and enough likeness between files for deltas.
fn hosted() -> (TempDir, Repository) {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::init_bare(root.path().join("repo")).unwrap();
    let long = |end: &str| format!("{}{end}", "line of text\n".repeat(200)).into_bytes();
    let (one, two) = (long("one"), long("two"));
    commit(&repository, &[("a.yaml", FILE, b"first")]);
    let second = commit(&repository, &[("a.yaml", FILE, &one), ("x//b.yaml", FILE, &two)]);
    let author = Signature::new("Ada", "ada@example.com", &Time::new(0, 0)).unwrap();
    repository.tag("v1", &repository.find_object(second, None).unwrap(), &author, "notes", false).unwrap();
    repository.set_head("refs/heads/main").unwrap();
    let packed = std::process::Command::new("git")
        .arg("-C")
        .arg(repository.path())
        .args(["gc", "-q", "--aggressive"])
        .status()
        .unwrap();
    assert!(packed.success());
    (root, repository)
}

async fn fetch(url: &str, revision: &str, folder: Option<&str>) -> Result<Sources, SourceError> {
    read_all(&[at(url, revision, folder)], &Limits::DEFAULT).await
}

#[tokio::test]
async fn a_commit_comes_over_http_by_every_name() {
    let (root, repository) = hosted();
    let url = format!("{}/repo", serve(root.path(), Manner::Plain).await);
    let head = repository.find_reference("refs/heads/main").unwrap().peel_to_commit().unwrap();
    let first = head.parent_id(0).unwrap().to_string();
    for revision in ["main", "v1", "HEAD", "refs/heads/main", "heads/main", &head.id().to_string()] {
        let sources = fetch(&url, revision, None).await.unwrap_or_else(|error| panic!("{revision}: {error}"));
        let names: Vec<&str> = sources.files.iter().map(|file| &*file.name).collect();
        assert_eq!(names, ["a.yaml", "x/b.yaml"], "{revision}");
        assert!(sources.files[1].bytes.ends_with(b"two"));
        let found = &sources.revisions[0];
        assert_eq!(&*found.commit, head.id().to_string());
        assert_eq!(
            (found.repository.as_deref(), &*found.author),
            (Some(url.as_str()), "Ada <ada@example.com>")
        );
    }
    assert_eq!(texts(&fetch(&url, &first, None).await.unwrap()), ["a.yaml=first"]);
    assert_eq!(fetch(&url, "main", Some("x")).await.unwrap().files.len(), 1);
    // The same as from the repository itself.
    let local = read_git(&root.path().join("repo"), "main", None).await.unwrap();
    assert_eq!(fetch(&url, "main", None).await.unwrap().files, local.files);
}

#[tokio::test]
async fn what_a_server_does_not_have_is_said() {
    let (root, repository) = hosted();
    let base = serve(root.path(), Manner::Plain).await;
    let url = format!("{base}/repo");
    let error = fetch(&url, "nope", None).await.unwrap_err();
    assert!(matches!(error, SourceError::Revision { help: None, .. }), "{error}");
    let head = repository.find_reference("refs/heads/main").unwrap().target().unwrap().to_string();
    let error = fetch(&url, &head[..10], None).await.unwrap_err();
    assert!(error.to_string().contains("40 digits"), "{error}");
    let error = fetch(&url, &"1".repeat(40), None).await.unwrap_err();
    assert!(matches!(error, SourceError::Revision { .. }), "{error}");
    let error = fetch(&format!("{base}/none"), "main", None).await.unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
    assert!(matches!(fetch(&url, "main", Some("none")).await, Err(SourceError::Folder { .. })));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = fetch(&format!("http://{closed}/x"), "main", None).await.unwrap_err();
    assert!(matches!(error, SourceError::Remote { .. }), "{error}");
}

#[tokio::test]
async fn credentials_open_and_never_show() {
    let (root, _repository) = hosted();
    let base = serve(root.path(), Manner::Locked).await;
    let host = base.strip_prefix("http://").unwrap();
    let error = fetch(&format!("{base}/repo"), "main", None).await.unwrap_err();
    assert!(error.to_string().contains("401") && error.to_string().contains("help: "), "{error}");
    let error = fetch(&format!("http://me:wr0ng@{host}/repo"), "main", None).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("wr0ng"));
    let sources = fetch(&format!("http://me:s3cret@{host}/repo"), "main", None).await.unwrap();
    assert!(!format!("{:?}", sources.revisions).contains("s3cret"));
    let spec = at(&format!("{base}/repo"), "main", None).with_token(Some(Token::with_user("me", "s3cret")));
    assert_eq!(read_all(&[spec], &Limits::DEFAULT).await.unwrap().files.len(), 2);
}

/// Serves like [`serve`], with TLS by a certificate for `localhost` that is its own authority.
async fn serve_tls(root: &Path) -> (String, rustls::ClientConfig) {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(signed.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server =
        rustls::ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let server =
        server.unwrap().with_no_client_auth().with_single_cert(vec![signed.cert.der().clone()], key).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/repo", listener.local_addr().unwrap().port());
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let root = root.to_path_buf();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (root, acceptor) = (root.clone(), acceptor.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |request| answer(root.clone(), Manner::Plain, request));
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (url, client)
}

#[tokio::test]
async fn https_is_verified() {
    let (root, repository) = hosted();
    let (url, trusting) = serve_tls(root.path()).await;
    let SourceSpec::Git(spec) = at(&url, "main", None) else { panic!() };
    let fetched = crate::source::remote::fetch_with(&spec, &Limits::DEFAULT, Some(trusting)).await.unwrap();
    assert_eq!(fetched.commit, repository.find_reference("refs/heads/main").unwrap().target().unwrap());
    let strangers =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
    let refused = crate::source::remote::fetch_with(&spec, &Limits::DEFAULT, Some(strangers)).await;
    let error = refused.err().unwrap().to_string();
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test]
async fn redirects_stay_on_the_host() {
    let (root, _repository) = hosted();
    let base = serve(root.path(), Manner::Moved).await;
    assert_eq!(fetch(&format!("{base}/old"), "main", None).await.unwrap().files.len(), 2);
    let error = fetch(&format!("{base}/away"), "main", None).await.unwrap_err();
    assert!(error.to_string().contains("another host"), "{error}");
}

#[tokio::test]
async fn servers_that_are_slow_old_or_broken_are_refused() {
    let (root, _repository) = hosted();
    let error =
        fetch(&format!("{}/repo", serve(root.path(), Manner::Old).await), "main", None).await.unwrap_err();
    assert!(error.to_string().contains("version 2"), "{error}");
    let silent = at(&format!("{}/repo", serve(root.path(), Manner::Silent).await), "main", None);
    let limits = Limits { fetch_time: Duration::from_millis(200), ..Limits::DEFAULT };
    let error = read_all(&[silent], &limits).await.unwrap_err();
    assert!(error.to_string().contains("did not come"), "{error}");
    let id = "1".repeat(40);
    for junk in [
        &b""[..],
        b"zzzz",
        b"0003",
        b"00",
        b"ffff",
        b"0000",
        b"000dpackfile\n0005\x010000",
        b"000dpackfile\n0009\x03evil0000",
        b"000dpackfile\n0005\x090000",
        b"000dERR nope\n0000",
        b"000dpackfile\n000d\x01PACK\x1b[2J0000",
    ] {
        let url = format!("{}/repo", serve(root.path(), Manner::Junk(junk)).await);
        let error = fetch(&url, &id, None).await.unwrap_err();
        assert!(matches!(error, SourceError::Remote { .. }), "{junk:?} {error}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
}

#[tokio::test]
async fn packs_and_files_from_servers_are_bounded() {
    let (root, _repository) = hosted();
    let spec = at(&format!("{}/repo", serve(root.path(), Manner::Plain).await), "main", None);
    let error = read_all(std::slice::from_ref(&spec), &Limits { pack_bytes: 100, ..Limits::DEFAULT })
        .await
        .unwrap_err();
    assert!(error.to_string().contains("packed bytes"), "{error}");
    let error = read_all(std::slice::from_ref(&spec), &Limits { pack_objects: 2, ..Limits::DEFAULT })
        .await
        .unwrap_err();
    assert!(error.to_string().contains("2 objects"), "{error}");
    let sources = read_all(&[spec], &Limits { file_bytes: 1000, ..Limits::DEFAULT }).await.unwrap();
    assert_eq!(
        (texts(&sources), findings(&sources)),
        (vec![], vec!["MG1011 a.yaml".to_string(), "MG1011 x/b.yaml".to_string()])
    );
}
