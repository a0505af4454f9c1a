//! Values that fit a schema's structure, made by chance, with an eye on what rules look at.

use crate::validate::schema::{Schema, Type};
use moorgate_model::{Entry, Mapping, Node, Span, Value};

/// Texts that rules distinguish; those that fit a schema are used for it.
const TEXTS: &[&str] = &[
    "HTTP",
    "HTTPS",
    "TLS",
    "TCP",
    "UDP",
    "",
    "a",
    "b",
    "web",
    "other",
    "example.com",
    "*.example.com",
    "10.0.0.1",
    "a.b.",
    "Service",
    "XBackend",
    "Gateway",
    "gateway.networking.k8s.io",
    "gateway.networking.x-k8s.io",
    "certificates.k8s.io",
    "ClusterTrustBundle",
    "k8s.io/x",
    "x.k8s.io/y",
    "acme.org/z",
    "Cluster",
    "Hostname",
    "IPAddress",
    "acme.org/kind",
    "*",
    "https://a.example",
    "GET",
    "X-Header",
    "/",
    "/a",
    "/a/b",
    "a/b",
    "/a//b",
    "/a/./b",
    "/a/../b",
    "/a%2fb",
    "/a%2Fb",
    "/a#b",
    "/a/..",
    "/a/.",
    "/a%2",
    "/a%zz",
    "/a%20b",
    "/a b",
    "/ä",
    "/a?b",
    "/(a)*+,;=:@!$&'~_-.",
    "0s",
    "1s",
    "2s",
    "1000ms",
    "90s",
    "1m30s",
    "1h",
    "99999h",
    "0h0m0s0ms",
    "2h",
    "foo",
    ".foo.Bar",
    "foo.bar",
    "foo..bar",
    "foo.",
    "9foo",
    "fo o",
    "_x9",
    "F\u{17F}\u{212A}",
    "Do",
    "do_1",
    "1do",
    "d-o",
    "é",
    "svc.cluster.local",
    "backend.svc.cluster.local",
    "example.com/App",
    "Example.com/App",
    "app",
    "-app",
    "System",
    "0123456789",
    "text/plain",
    "spiffe://a/b",
];

/// Chance that can be repeated (splitmix64).
pub(super) struct Chance(pub(super) u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below a bound.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }

    /// True once in so many times.
    pub(super) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

fn plain(value: Value) -> Node {
    Node::new(value, Span::default())
}

/// A value for a schema. Values of fields with a fixed choice are now and then none of them: a rule may be all that
/// watches over them.
pub(super) fn value(schema: &Schema, chance: &mut Chance) -> Node {
    if !schema.choices.is_empty() {
        if chance.once_in(20) && schema.kind == Type::String {
            return plain(Value::String("Elsewise".into()));
        }
        return schema.choices[chance.below(schema.choices.len())].clone();
    }
    plain(match schema.kind {
        Type::Object => Value::Mapping(object(schema, chance)),
        Type::Array => Value::Sequence(array(schema, chance)),
        Type::String | Type::Any => Value::String(text(schema, chance).into()),
        Type::Integer | Type::Number | Type::IntOrString => Value::Int(number(schema, chance)),
        Type::Boolean => Value::Bool(chance.once_in(2)),
    })
}

fn object(schema: &Schema, chance: &mut Chance) -> Mapping {
    let mut fields = Mapping::default();
    let share = 2 + chance.below(2);
    for (bit, property) in schema.properties.iter().enumerate() {
        if schema.required & (1 << bit) != 0 || chance.once_in(share) {
            let value = value(&property.schema, chance);
            let key_span = Span::default();
            fields.insert(Entry { key: property.name.clone(), key_span, value }).unwrap();
        }
    }
    if let Some(additional) = &schema.additional {
        for _ in 0..chance.below(3) {
            let key = TEXTS[chance.below(TEXTS.len())].into();
            let _ = fields.insert(Entry { key, key_span: Span::default(), value: value(additional, chance) });
        }
    }
    fields
}

fn array(schema: &Schema, chance: &mut Chance) -> Vec<Node> {
    let Some(child) = &schema.items else { return Vec::new() };
    let (least, most) = (schema.size.least.unwrap_or(0), schema.size.most.unwrap_or(4));
    if chance.once_in(25) {
        let item = value(child, chance);
        return vec![item; most];
    }
    let count = least.max(chance.below(4)).min(most);
    let mut items: Vec<Node> = (0..count).map(|_| value(child, chance)).collect();
    if items.len() > 1 && chance.once_in(2) {
        items[1] = items[0].clone();
        if !chance.once_in(3) {
            vary(&mut items[1], child, chance);
        }
    }
    items
}

/// Adds, changes or takes away one field that need not be there.
fn vary(item: &mut Node, schema: &Schema, chance: &mut Chance) {
    let (Value::Mapping(fields), false) = (&mut item.value, schema.properties.is_empty()) else { return };
    let bit = chance.below(schema.properties.len());
    let property = &schema.properties[bit];
    if schema.required & (1 << bit) != 0 || fields.remove(&property.name).is_some() && chance.once_in(2) {
        return;
    }
    let value = value(&property.schema, chance);
    fields.insert(Entry { key: property.name.clone(), key_span: Span::default(), value }).unwrap();
}

fn text(schema: &Schema, chance: &mut Chance) -> &'static str {
    let fits = |text: &str| {
        let length = text.chars().count();
        schema.size.holds(length) && schema.pattern.as_ref().is_none_or(|pattern| pattern.matches(text))
    };
    let fitting: Vec<&str> = TEXTS.iter().copied().filter(|text| fits(text)).collect();
    fitting.get(chance.below(fitting.len())).copied().unwrap_or("a")
}

fn number(schema: &Schema, chance: &mut Chance) -> i64 {
    let numbers = [0, 1, 2, 50, 80, 100, 101, 443, 500];
    let bounds = schema.range.as_deref().copied().unwrap_or_default();
    #[allow(clippy::cast_precision_loss)]
    let fitting: Vec<i64> = numbers.into_iter().filter(|number| bounds.hold(*number as f64)).collect();
    fitting[chance.below(fitting.len())]
}
