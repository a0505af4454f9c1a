//! Modules that run inside of Envoy, on a real one: what the operator of a fleet registers runs, and nothing else.

use super::behaviour::{HOST, guarded};
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::stack::Stack;
use moorgate_tests::{module, ports, program, wait};

/// A source whose fleet registers a module `guard` in this file of the stack's folder, and one that lies far away.
fn source(stack: &Stack, port: u16, file: &str, more: &[[String; 2]]) -> Vec<String> {
    let path = stack.folder().join(file);
    let far = format!(
        "{{ name: far, source: {{ type: Remote, remote: {{ url: 'https://far.example/m.so', sha256: '{}' }} }} }}",
        "0".repeat(64)
    );
    let parameters = format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyProxy\nmetadata: {{ name: all, namespace: edge }}\nspec:\n  \
         dynamicModules:\n    - {{ name: guard, source: {{ type: Local, local: {{ path: {} }} }}, doNotClose: true, loadGlobally: false }}\n    - {far}\n",
        path.display()
    );
    let class = manifest::gateway_class().replace(
        "controllerName",
        "parametersRef: { group: gateway.envoyproxy.io, kind: EnvoyProxy, namespace: edge, name: all }\n  controllerName",
    );
    let mut documents = vec![
        class,
        parameters,
        manifest::service("edge", "web"),
        manifest::gateway("edge", "public", &[Listener::http("http", port)]),
        manifest::http_route("edge", "free", "edge/public", &[], &manifest::rule("/free", "web")),
    ];
    let extension = |name: &str, module: &str| {
        guarded(name, "web", "EnvoyExtensionPolicy", &format!("  dynamicModule: [{{ {module} }}]\n"))
    };
    documents.extend(
        [
            extension("word", "name: guard, filterName: word, config: { b: 1, a: [open] }"),
            extension("answer", "name: guard, filterName: answer, terminalFilter: true"),
            extension("stranger", "name: stranger"),
            extension("far", "name: far"),
        ]
        .concat(),
    );
    documents.extend(more.iter().flatten().cloned());
    documents
}

fn status(port: u16, path: &str, word: &str) -> u16 {
    send(&Target::plain(port), &Request::get(HOST, path).header("x-word", word)).unwrap().status
}

/// Has an Envoy serve the module that is there; the port on which it answers.
fn serve(stack: &mut Stack, web: &Backend) -> u16 {
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    module::build(&stack.folder().join("guard.so")).unwrap();
    let port = ports::free().unwrap();
    stack.publish_documents(&source(stack, port, "guard.so", &[])).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let free = Request::get(HOST, "/free");
    send_until(&Target::plain(port), &free, "an answer", |answer| answer.status == 200).unwrap();
    port
}

#[test]
fn modules_that_are_registered_run_and_no_others() {
    let web = Backend::start("web").unwrap();
    for (version, program) in program::envoys().unwrap() {
        let mut stack = Stack::new("edge/public").unwrap();
        stack.program = program;
        let port = serve(&mut stack, &web);
        let word = r#"{"a":["open"],"b":1}"#;
        let seen =
            [("/word", word), ("/word", "wrong"), ("/answer", ""), ("/stranger", word), ("/far", word)];
        let seen = seen.map(|(path, word)| status(port, path, word));
        assert_eq!(seen, [200, 418, 202, 500, 500], "Envoy {version}");
    }
}

#[test]
fn a_module_that_is_not_there_costs_the_change_and_nothing_that_is_served() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    let port = serve(&mut stack, &web);
    let later = guarded("later", "web", "EnvoyExtensionPolicy", "  dynamicModule: [{ name: guard }]\n");
    stack.publish_documents(&source(&stack, port, "gone.so", &[later])).unwrap();
    wait::until("Envoy to refuse it", || {
        let status = stack.relay_admin("/snapshot")?;
        let why = status["fleets"][0]["quarantined"].to_string();
        anyhow::ensure!(why.contains("Failed to load dynamic module"), "{status}");
        Ok(())
    })
    .unwrap();
    assert_eq!(["/word", "/later"].map(|path| status(port, path, "wrong")), [418, 404]);
}
