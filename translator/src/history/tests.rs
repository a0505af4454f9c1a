use super::*;
use proptest::prelude::*;

fn item(file: &str, line: u32, content: &str) -> Item {
    Item {
        file: file.to_owned(),
        line,
        rendered_from: None,
        content: content.to_owned(),
        effective: mark(content.as_bytes()),
        parts: vec![Part { line: 4, makes: vec![mark(b"match")] }],
        status: None,
    }
}

fn records(items: impl IntoIterator<Item = (String, Item)>) -> Records {
    Records { objects: items.into_iter().collect(), ..Records::default() }
}

fn route(n: u32) -> String {
    format!("gateway.networking.k8s.io/HTTPRoute/shop/route-{n}")
}

/// Objects of ten lines each, in one file.
fn one_file(n: u32) -> Records {
    records((0..n).map(|i| (route(i), item("all.yaml", 1 + 10 * i, &i.to_string()))))
}

#[test]
fn keys_name_objects_of_core_and_without_a_namespace() {
    for object in [
        ObjectRef::new("gateway.networking.k8s.io", "HTTPRoute", "shop", "cart"),
        ObjectRef::new("", "Service", "shop", "cart"),
        ObjectRef::new("gateway.networking.k8s.io", "GatewayClass", "", "edge"),
    ] {
        assert_eq!(super::object(&key(&object)), Some(object));
    }
    assert_eq!(super::object("HTTPRoute/shop/cart"), None);
}

#[test]
fn a_line_inserted_into_a_large_file_is_a_small_change() {
    let before = one_file(5000);
    let mut after = before.clone();
    for item in after.objects.values_mut().filter(|item| item.line > 20_000) {
        item.line += 1;
    }
    after.objects.get_mut(&route(2000)).unwrap().content = "other".to_owned();
    let change = Change::between(&before, &after);
    assert_eq!(change.objects.keys().collect::<Vec<_>>(), [&route(2000)]);
    assert_eq!(change.objects[&route(2000)].what, What::Changed);
    assert!(serde_json::to_vec(&change).unwrap().len() < 600);
    let mut applied = before;
    change.apply(&mut applied);
    assert_eq!(applied, after);
}

#[test]
fn what_happened_is_told_apart() {
    let old = item("a.yaml", 1, "x");
    let moved = item("b.yaml", 7, "x");
    let lower = item("a.yaml", 9, "x");
    let status = Item { status: Some(serde_json::json!({"parents": []})), ..old.clone() };
    let effective = Item { effective: mark(b"policy"), ..old.clone() };
    for (before, after, what) in [
        (None, Some(&old), Some(What::Added)),
        (Some(&old), None, Some(What::Removed)),
        (Some(&old), Some(&moved), Some(What::Moved)),
        (Some(&old), Some(&lower), None),
        (Some(&old), Some(&status), Some(What::Status)),
        (Some(&old), Some(&effective), Some(What::Changed)),
        (Some(&old), Some(&old), None),
    ] {
        assert_eq!(What::between(before, after), what, "{before:?} {after:?}");
    }
}

#[test]
fn a_line_that_no_file_can_have_breaks_nothing() {
    let mut records = one_file(3);
    let mut change = Change::between(&records, &records.clone());
    change.shifts.insert("all.yaml".to_owned(), vec![Shift { from: 0, by: i64::MIN }]);
    change.apply(&mut records);
    assert_eq!(records, one_file(3));
}

#[test]
fn objects_are_named_as_people_write_them() {
    let key = "gateway.networking.k8s.io/HTTPRoute/shop/cart";
    for (text, fits) in [
        ("HTTPRoute/shop/cart", true),
        ("httproute/shop/cart", true),
        ("HTTPRoute.gateway.networking.k8s.io/shop/cart", true),
        ("HTTPRoute.example.com/shop/cart", false),
        ("HTTPRoute/shop/carts", false),
        ("HTTPRoute/cart", false),
    ] {
        let wanted: Wanted = text.parse().unwrap();
        assert_eq!((wanted.fits(key), wanted.to_string().as_str()), (fits, text));
    }
    let class: Wanted = "GatewayClass/edge".parse().unwrap();
    assert!(class.fits("gateway.networking.k8s.io/GatewayClass//edge"));
    for text in ["", "HTTPRoute", "HTTPRoute/", "/shop/cart", "a/b/c/d"] {
        assert!(text.parse::<Wanted>().is_err(), "{text}");
    }
}

fn any_records() -> impl Strategy<Value = Records> {
    let object = (0..12u32, 0..3u8, 1..60u32, 0..3u8);
    proptest::collection::vec(object, 0..14).prop_map(|objects| {
        let item = |file: u8, line, content: u8| item(&format!("{file}.yaml"), line, &content.to_string());
        records(objects.into_iter().map(|(n, file, line, content)| (route(n), item(file, line, content))))
    })
}

proptest! {
    #[test]
    fn a_change_makes_of_the_state_before_the_state_after(before in any_records(), after in any_records()) {
        let change = Change::between(&before, &after);
        let mut applied = before.clone();
        change.apply(&mut applied);
        prop_assert_eq!(&applied, &after);
        let again: Change = serde_json::from_slice(&serde_json::to_vec(&change).unwrap()).unwrap();
        prop_assert_eq!(&again, &change);
        // One object alone gives the same answer as all of them.
        for key in before.objects.keys().filter(|key| !change.objects.contains_key(*key)) {
            prop_assert_eq!(Some(&change.shifted(before.objects[key].clone())), after.objects.get(key));
        }
    }
}
