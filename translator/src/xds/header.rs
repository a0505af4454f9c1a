//! Header changes.

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use moorgate_model::ir::HeaderMutation;

/// The request header in which Envoy notes by which listener a connection came, for as long as it looks for a route (see
/// `route::host`): whatever a client sends under this name is overwritten, and no backend sees it.
pub(super) const LISTENER: &str = "x-moorgate-listener";

/// Envoy's two lists for one [`HeaderMutation`].
///
/// Envoy removes first and then writes, the API writes first and then removes: what is removed in the end is not
/// written at all. Pseudo headers and `host` cannot be changed this way, Envoy would refuse the whole table because
/// of one such route: `attach` has refused them, and they are passed over here (a `set` of `host` is [`host`]).
pub(super) fn lower(mutation: &HeaderMutation) -> (Vec<HeaderValueOption>, Vec<String>) {
    let removed = |name: &str| mutation.remove.iter().any(|other| other == name);
    let write = |(name, value): &(String, String), action: HeaderAppendAction| {
        (is_modifiable(name) && !removed(name)).then(|| HeaderValueOption {
            header: Some(HeaderValue { key: name.clone(), value: literal(value), raw_value: Vec::new() }),
            append_action: action.into(),
            keep_empty_value: value.is_empty(),
            ..Default::default()
        })
    };
    let set =
        mutation.set.iter().filter_map(|header| write(header, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = mutation.add.iter().filter_map(|header| write(header, HeaderAppendAction::AppendIfExistsOrAdd));
    let remove = mutation.remove.iter().filter(|name| is_modifiable(name)).cloned();
    (set.chain(add).collect(), remove.collect())
}

/// The host that a mutation sets, which Envoy takes as a rewrite of the host.
pub(super) fn host(mutation: &HeaderMutation) -> Option<&str> {
    mutation.set.iter().find(|(name, _)| name == "host").map(|(_, value)| value.as_str())
}

fn is_modifiable(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(':') && name != "host"
}

/// Envoy reads `%...%` in a value as a formatter; the API means the text itself.
pub(super) fn literal(value: &str) -> String {
    if value.contains('%') { value.replace('%', "%%") } else { value.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn values_are_literal_and_removal_comes_last() {
        let mutation = HeaderMutation {
            set: pairs(&[("x-a", "100%"), ("x-gone", "1"), ("host", "example.org")]),
            add: pairs(&[("x-b", ""), (":path", "/")]),
            remove: vec!["x-gone".into(), "host".into()],
        };
        let (write, remove) = lower(&mutation);
        let seen: Vec<_> = write
            .iter()
            .map(|option| {
                let header = option.header.clone().unwrap();
                (header.key, header.value, option.append_action(), option.keep_empty_value)
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("x-a".into(), "100%%".into(), HeaderAppendAction::OverwriteIfExistsOrAdd, false),
                ("x-b".into(), String::new(), HeaderAppendAction::AppendIfExistsOrAdd, true),
            ]
        );
        assert_eq!(remove, ["x-gone"]);
        assert_eq!(host(&mutation), Some("example.org"));
    }
}
