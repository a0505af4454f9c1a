//! From Ingress, Istio's gateway, Contour and Emissary: what is converted is served, and the requests of before are
//! answered as the former gateway did.
//!
//! ingress2gateway is in no registry that these suites install from. What it makes of our samples is kept beside them, with
//! what it said; `MOORGATE_INGRESS2GATEWAY=PROGRAM` runs it anew and writes both.

use crate::document::{commands, elsewhere, section};
use crate::site::{Site, case, echo, plain, secure};
use anyhow::{Context as _, Result, ensure};
use moorgate_tests::http::Request;
use moorgate_tests::program::{Outcome, run, variable};
use regex::Regex;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// A request that was answered before, and how.
struct Ask {
    secure: bool,
    request: Request,
    status: u16,
    /// The backend that answered, and the path that it saw.
    echo: Option<(&'static str, &'static str)>,
    /// A header of the answer, or of what the backend received.
    header: Option<(&'static str, &'static str)>,
}

fn get(path: &str) -> Ask {
    let request = Request::get("shop.example.com", path);
    Ask { secure: false, request, status: 200, echo: None, header: None }
}

impl Ask {
    fn tls(self) -> Self {
        Self { secure: true, ..self }
    }

    fn at(mut self, host: &str) -> Self {
        host.clone_into(&mut self.request.host);
        self
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// A backend answers, and sees this path.
    fn by(self, backend: &'static str, path: &'static str) -> Self {
        Self { echo: Some((backend, path)), ..self }
    }

    fn says(self, status: u16) -> Self {
        Self { status, ..self }
    }

    fn header(self, name: &'static str, value: &'static str) -> Self {
        Self { header: Some((name, value)), ..self }
    }
}

/// A source: its folder, the Service of its fleet, and its requests.
struct Source {
    name: &'static str,
    service: &'static str,
    asks: Vec<Ask>,
}

const APP: &str = "https://app.example.com";
const CORS: &str = "access-control-allow-origin";

fn sources() -> [Source; 4] {
    let canary = |path| get(path).with("x-canary", "yes");
    let browser = |path| get(path).with("origin", APP).header(CORS, APP);
    [
        Source {
            name: "ingress",
            service: "nginx-nginx",
            asks: vec![
                get("/some?q=1").tls().by("blue", "/some?q=1"),
                get("/exact").tls().by("green", "/exact"),
                browser("/").tls().by("blue", "/"),
                get("/x").says(308).header("location", "https://shop.example.com/x"),
                get("/api").at("api.example.com").by("green", "/v2"),
                get("/other").at("api.example.com").says(404),
                get("/").at("open.example.com").by("blue", "/"),
                canary("/").at("open.example.com").by("green", "/"),
            ],
        },
        Source {
            name: "istio",
            service: "edge-istio",
            asks: vec![
                get("/old").says(302).header("location", "http://shop.example.com/new"),
                get("/api/items").by("green", "/v2/items"),
                get("/faulty").says(418),
                get("/").by("blue", "/").header("X-Edge", "istio"),
                get("/").tls().by("blue", "/"),
            ],
        },
        Source {
            name: "contour",
            service: "edge-moorgate",
            asks: vec![
                get("/x").says(301).header("location", "https://shop.example.com/x"),
                get("/old").tls().says(301).header("location", "https://shop.example.com/new"),
                get("/api/items").tls().by("green", "/v2/items"),
                canary("/").tls().by("green", "/"),
                get("/").tls().by("blue", "/").header("X-Edge", "contour"),
                browser("/").tls().by("blue", "/"),
                get("/limited").tls().by("blue", "/limited"),
                get("/limited").tls().by("blue", "/limited"),
                get("/limited").tls().says(429),
            ],
        },
        Source {
            name: "emissary",
            service: "edge-moorgate",
            asks: vec![
                get("/").by("blue", "/").header("X-Edge", "emissary"),
                get("/").tls().by("blue", "/"),
                get("/api/items").by("green", "/v2/items"),
                canary("/some").by("green", "/some"),
                get("/old").says(302).header("location", "http://shop.example.com/new"),
                browser("/partners/x").by("green", "/partners/x"),
            ],
        },
    ]
}

/// What the tool says, without boxes, times and what it says twice.
fn said(outcome: &Outcome) -> Result<String> {
    let log = Regex::new(r"^[IWE]\d{4} \S+ +\d+ \S+ (.*skipped.*)$")?;
    let colours = Regex::new("\x1b\\[[0-9;]*m")?;
    let mut lines = BTreeSet::new();
    for line in colours.replace_all(&outcome.stderr, "").lines() {
        if let Some(text) = line.strip_prefix('│') {
            lines.insert(text.trim().to_owned());
        } else if let Some(found) = log.captures(line) {
            lines.insert(found[1].to_owned());
        }
    }
    lines.retain(|line| !line.starts_with("object: ") && !line.starts_with("source: "));
    Ok(lines.into_iter().map(|line| line + "\n").collect())
}

/// Has the tool, if there is one, convert a sample by the page's own command; then what is kept must be that.
fn convert(name: &str, heading: &str) -> Result<()> {
    let Some(tool) = variable("MOORGATE_INGRESS2GATEWAY") else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join("gateways"))?;
    std::fs::copy(case(name).join("before.yaml"), folder.path().join(format!("{name}.yaml")))?;
    let tool = Path::new(&tool).parent().context("a program lies in a folder")?.display().to_string();
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", &elsewhere(heading)?]).current_dir(folder.path());
    shell.env("PATH", format!("{tool}:/usr/bin:/bin"));
    let outcome = run(&mut shell)?.ended_with(&[0])?;
    std::fs::copy(folder.path().join("gateways/converted.yaml"), case(name).join("converted.yaml"))?;
    Ok(std::fs::write(case(name).join("said.txt"), said(&outcome)?)?)
}

/// What the tool drops is what the page says.
fn dropped(name: &str, heading: &str, pattern: &str) -> Result<()> {
    let (said, page) = (std::fs::read_to_string(case(name).join("said.txt"))?, section(heading)?);
    let mut count = 0;
    for found in Regex::new(pattern)?.captures_iter(&said) {
        let field = found[1].trim_matches(['\'', '"']);
        let mut letters = field.chars();
        let field: String =
            letters.next().map(|letter| letter.to_lowercase().chain(letters).collect()).unwrap_or_default();
        let known = [field.clone(), field[..1].to_uppercase() + &field[1..]];
        ensure!(
            known.iter().any(|field| page.contains(&format!("`{field}`"))),
            "{heading} does not name {field}"
        );
        count += 1;
    }
    ensure!(count > 2, "{name}: {count}");
    Ok(())
}

#[test]
fn the_page_names_what_the_tool_drops() -> Result<()> {
    let version = Regex::new("generator: ingress2gateway-([0-9.]+)")?;
    for (name, heading) in [("ingress", "### From Ingress"), ("istio", "### From Istio's gateway")] {
        convert(name, heading)?;
        let converted = std::fs::read_to_string(case(name).join("converted.yaml"))?;
        let version = version.captures(&converted).context("no version")?[1].to_owned();
        ensure!(section("### From Ingress")?.contains(&format!("v{version} here")), "made by {version}");
    }
    dropped("ingress", "### From Ingress", r"nginx\.ingress\.kubernetes\.io/([a-z-]+)")?;
    let istio = r"(?:(?:Http\[[a-z]+\]|TLS)\.|unsupported Kind: )([A-Za-z]+)";
    dropped("istio", "### From Istio's gateway", istio)?;
    // What the samples of the other two say is in their tables.
    for (name, heading, fields) in [
        (
            "contour",
            "### From Contour",
            &[
                "fqdn",
                "secretName",
                "includes",
                "corsPolicy",
                "requestRedirectPolicy",
                "pathRewritePolicy",
                "rateLimitPolicy",
                "timeoutPolicy",
                "requestHeadersPolicy",
                "prefix",
                "header",
                "weight",
            ][..],
        ),
        (
            "emissary",
            "### From Emissary",
            &[
                "Listener",
                "Host",
                "hostname",
                "tlsSecret",
                "insecure",
                "prefix",
                "rewrite",
                "timeout_ms",
                "headers",
                "add_request_headers",
                "host_redirect",
                "path_redirect",
                "cors",
            ],
        ),
    ] {
        let (sample, page) = (std::fs::read_to_string(case(name).join("before.yaml"))?, section(heading)?);
        for field in fields {
            ensure!(sample.contains(field), "{name} has no {field}");
            let named = Regex::new(&format!(r"`[^`\n]*\b{field}\b[^`\n]*`"))?;
            ensure!(named.is_match(&page), "{heading} does not name {field}");
        }
    }
    Ok(())
}

/// The two things that the tool does wrong are still wrong, so that nobody is told to repair what is well.
fn repaired(site: &mut Site, repair: &str) -> Result<()> {
    site.types("mkdir -p unrepaired")?;
    std::fs::copy(case("istio/converted.yaml"), site.path("unrepaired/converted.yaml"))?;
    let broken = site.types("moorgate check unrepaired/ -o json || true")?.stdout;
    ensure!(broken.contains("MG2011") && broken.contains("certificateRefs"), "{broken}");
    std::fs::copy(case("istio/converted.yaml"), site.path("gateways/converted.yaml"))?;
    site.types(repair)?;
    let text = std::fs::read_to_string(site.path("gateways/converted.yaml"))?;
    ensure!(text.matches("edge-tls").count() == 1 && !text.contains("weight: 0\n"), "{text}");
    Ok(std::fs::rename(site.path("gateways/converted.yaml"), site.path("gateways/istio.yaml"))?)
}

#[test]
fn what_is_converted_answers_as_before() -> Result<()> {
    let [repair] = commands("### From Istio's gateway")?;
    let [serve] = commands("### Served from what was converted")?;
    let mut site = Site::new("moorgate-new")?;
    repaired(&mut site, &repair)?;
    let mut certificates = Vec::new();
    for source in sources() {
        let namespace = format!("from-{}", source.name);
        site.backends(&namespace, &["blue", "green", "auth"])?;
        certificates.push(site.certificate(&namespace, "edge-tls", &["shop.example.com"])?);
        site.types(&format!(
            "kubectl create secret generic moorgate-store --namespace {namespace} --from-env-file=store.env"
        ))?;
        // In git there are Services, and what is in the folder of the case.
        for service in ["blue", "green", "auth"] {
            let text = crate::site::backend(&namespace, service, service);
            std::fs::write(site.path(&format!("gateways/{namespace}-{service}.yaml")), text)?;
        }
        for file in ["converted", "by-hand", "after"] {
            let from = case(source.name).join(format!("{file}.yaml"));
            let to = site.path(&format!("gateways/{}-{file}.yaml", source.name));
            if from.exists() && !(source.name == "istio" && file == "converted") {
                std::fs::copy(from, to)?;
            }
        }
    }
    site.types(&serve)?;
    for (source, certificate) in sources().into_iter().zip(certificates) {
        let address = site.address(&format!("from-{}", source.name), source.service)?;
        let tls = secure(address, "shop.example.com", &certificate)?;
        site.until(&tls, &get("/").request, 200).with_context(|| source.name)?;
        for ask in source.asks {
            let target = if ask.secure { tls.clone() } else { plain(address, 80) };
            let what = || format!("{}: {:?}", source.name, ask.request);
            let answer = site.send(&target, &ask.request).with_context(what)?;
            let body = String::from_utf8_lossy(&answer.body);
            ensure!(answer.status == ask.status, "{}: {} {body}", what(), answer.status);
            if let Some((backend, path)) = ask.echo {
                let echo = echo(&answer).with_context(what)?;
                ensure!(echo["pod"] == backend && echo["path"] == path, "{}: {echo}", what());
            }
            if let Some((name, value)) = ask.header {
                let received = echo(&answer).is_ok_and(|echo| echo["headers"][name][0] == value);
                ensure!(received || answer.header(name) == Some(value), "{}: {answer:?}", what());
            }
        }
    }
    Ok(())
}
