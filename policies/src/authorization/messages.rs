//! Messages that the Envoy types at hand lack, by their published definitions
//! (github.com/cncf/xds, `xds/type/matcher/v3/cel.proto` and `http_inputs.proto`).

use envoy_types::pb::xds::r#type::v3::CelExpression;
use prost::Name;

const PACKAGE: &str = "xds.type.matcher.v3";

/// Matches what an expression is true for.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CelMatcher {
    /// The expression.
    #[prost(message, optional, tag = "1")]
    pub(super) expr_match: Option<CelExpression>,
    /// For people.
    #[prost(string, tag = "2")]
    pub(super) description: String,
}

/// What an expression may speak of: a request with its connection.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct HttpAttributesCelMatchInput {}

impl Name for CelMatcher {
    const NAME: &'static str = "CelMatcher";
    const PACKAGE: &'static str = PACKAGE;

    fn type_url() -> String {
        format!("type.googleapis.com/{PACKAGE}.{}", Self::NAME)
    }
}

impl Name for HttpAttributesCelMatchInput {
    const NAME: &'static str = "HttpAttributesCelMatchInput";
    const PACKAGE: &'static str = PACKAGE;

    fn type_url() -> String {
        format!("type.googleapis.com/{PACKAGE}.{}", Self::NAME)
    }
}
