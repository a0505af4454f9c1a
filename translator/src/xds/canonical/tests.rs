use super::*;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::{Route, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{JwtAuthentication, JwtProvider};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use envoy_types::pb::google::protobuf::{Any, Struct, Value, value::Kind as ValueKind};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn text(text: &str) -> Value {
    Value { kind: Some(ValueKind::StringValue(text.into())) }
}

/// Maps of messages, of `Any`, and inside `Any`; each call fills new hash tables.
fn host(names: &[String]) -> VirtualHost {
    let fields = || names.iter().map(|name| (name.clone(), text(name))).collect();
    let metadata = names.iter().map(|name| (name.clone(), Struct { fields: fields() }));
    let provider = |name: &String| (name.clone(), JwtProvider { issuer: name.clone(), ..Default::default() });
    let jwt = JwtAuthentication { providers: names.iter().map(provider).collect(), ..Default::default() };
    let manager = HttpConnectionManager {
        http_filters: vec![HttpFilter {
            config_type: Some(http_filter::ConfigType::TypedConfig(pack(&jwt))),
            ..Default::default()
        }],
        ..Default::default()
    };
    let listener = Listener {
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                config_type: Some(filter::ConfigType::TypedConfig(pack(&manager))),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let route = Route {
        metadata: Some(Metadata { filter_metadata: metadata.collect(), ..Default::default() }),
        typed_per_filter_config: names.iter().map(|name| (name.clone(), pack(&listener))).collect(),
        ..Default::default()
    };
    VirtualHost { name: "h".into(), routes: vec![route], ..Default::default() }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("name-{}", index * 7 % count)).collect()
}

#[test]
fn hundreds_of_rebuilds_give_one_byte_string() {
    let names = names(9);
    let encoded: BTreeSet<Bytes> = (0..300).map(|_| encode(&host(&names))).collect();
    assert_eq!(encoded.len(), 1);
    let raw: BTreeSet<Vec<u8>> = (0..300).map(|_| host(&names).encode_to_vec()).collect();
    assert!(raw.len() > 1, "the encoder has become canonical by itself: this test proves nothing any more");
}

#[test]
fn the_bytes_are_these() {
    let message = Struct {
        fields: [("b".to_owned(), text("2")), ("a".to_owned(), text("1")), ("c".to_owned(), text("3"))]
            .into(),
    };
    let route = Route {
        typed_per_filter_config: [
            ("z".to_owned(), pack(&message)),
            ("y".to_owned(), Any { type_url: "t/unknown".into(), value: vec![0xff] }),
        ]
        .into(),
        ..Default::default()
    };
    let mut expected = vec![0x6a, 0x13, 0x0a, 1, b'y', 0x12, 0x0e, 0x0a, 9];
    expected.extend(b"t/unknown\x12\x01\xff");
    let mut any = vec![0x0a, 0x2b];
    any.extend(b"type.googleapis.com/google.protobuf.Struct");
    any[1] = 42;
    any.extend([0x12, 30]);
    for (key, value) in [(b'a', b'1'), (b'b', b'2'), (b'c', b'3')] {
        any.extend([0x0a, 8, 0x0a, 1, key, 0x12, 3, 0x1a, 1, value]);
    }
    expected.extend([0x6a, 5 + u8::try_from(any.len()).unwrap(), 0x0a, 1, b'z', 0x12]);
    expected.push(u8::try_from(any.len()).unwrap());
    expected.extend(any);
    assert_eq!(encode(&route), expected);
}

#[test]
fn a_field_is_one_more_item_of_its_message() {
    let names = names(5);
    let message = host(&names);
    let field = encode_field(2, &message);
    let table = envoy_types::pb::envoy::config::route::v3::RouteConfiguration::decode(field).unwrap();
    assert_eq!(encode(table.virtual_hosts.first().unwrap()), encode(&message));
}

#[test]
fn numbers_sort_by_value_and_missing_keys_first() {
    // Struct.fields with keys "b", none, "a": the one without a key has the empty one.
    let mut bytes = b"\x0a\x03\x0a\x01b\x0a\x00\x0a\x03\x0a\x01a".to_vec();
    sort("google.protobuf.Struct", &mut bytes).unwrap();
    assert_eq!(bytes, b"\x0a\x00\x0a\x03\x0a\x01a\x0a\x03\x0a\x01b");
    assert!(Key::Number(2) < Key::Number(10));
}

#[test]
fn equal_keys_keep_their_order_because_the_last_one_counts() {
    let mut bytes =
        b"\x0a\x03\x0a\x01b\x0a\x08\x0a\x01a\x12\x03\x1a\x01x\x0a\x08\x0a\x01a\x12\x03\x1a\x01y".to_vec();
    sort("google.protobuf.Struct", &mut bytes).unwrap();
    assert_eq!(
        bytes,
        b"\x0a\x08\x0a\x01a\x12\x03\x1a\x01x\x0a\x08\x0a\x01a\x12\x03\x1a\x01y\x0a\x03\x0a\x01b"
    );
}

#[test]
fn malformed_bytes_groups_and_depth_are_refused() {
    let struct_name = "google.protobuf.Struct";
    for (bytes, error) in [
        (&b"\x0a\x05\x0a"[..], CanonicalError::Malformed),
        (b"\x0a", CanonicalError::Malformed),
        (b"\x0f", CanonicalError::Malformed),
        (b"\x00\x00", CanonicalError::Malformed),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", CanonicalError::Malformed),
        (b"\x13\x14", CanonicalError::Group),
    ] {
        assert_eq!(sort(struct_name, &mut bytes.to_vec()), Err(error), "{bytes:?}");
    }
    // Value.list_value.values of lists, far deeper than allowed.
    let mut nested: Vec<u8> = Vec::new();
    for _ in 0..300 {
        for tag in [0x32, 0x0a] {
            let mut outer = vec![tag];
            prost::encoding::encode_varint(nested.len() as u64, &mut outer);
            outer.append(&mut nested);
            nested = outer;
        }
    }
    assert_eq!(sort("google.protobuf.ListValue", &mut nested), Err(CanonicalError::TooDeep));
}

#[test]
fn unknown_types_stay_as_they_are() {
    let mut bytes = b"\x0a\xff".to_vec();
    sort("example.Unknown", &mut bytes).unwrap();
    assert_eq!(bytes, b"\x0a\xff");
}

proptest! {
    #[test]
    fn order_of_insertion_does_not_show(mut names in prop::collection::btree_set("[a-z]{0,6}", 0..7)
        .prop_map(|set| set.into_iter().collect::<Vec<_>>()).prop_shuffle())
    {
        let first = encode(&host(&names));
        names.reverse();
        let second = encode(&host(&names));
        prop_assert_eq!(&first, &second);
        // An independent decoder finds the same content, sorting again changes nothing.
        let mut again = first.to_vec();
        sort("envoy.config.route.v3.VirtualHost", &mut again).unwrap();
        prop_assert_eq!(&first, &again);
        let json = |bytes: &[u8]| {
            crate::xds::json::message("x/envoy.config.route.v3.VirtualHost", bytes).unwrap()
        };
        prop_assert_eq!(json(&first), json(&host(&names).encode_to_vec()));
    }

    #[test]
    fn any_bytes_are_sorted_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let length = bytes.len();
        let _ = sort("envoy.config.route.v3.VirtualHost", &mut bytes);
        prop_assert_eq!(bytes.len(), length);
    }
}
