//! Codes of class schema: an API server with the Gateway API CRDs would refuse the object.

crate::codes! { Schema;
    TYPE_MISMATCH = "MG2001", Error, "a value has the wrong type",
        "The field wants another type than the value has. YAML turns unquoted words such as yes, 010 or 1e3 into \
         other types: quote the value if it is meant as text.";
    UNKNOWN_FIELD = "MG2002", Error, "a field is not known",
        "The kind has no field of this name at this place. The API server refuses it in strict mode, and otherwise \
         drops it in silence, which is how a misspelt restriction comes to restrict nothing. Check the spelling and \
         the indentation: the help line names the nearest known field.";
    EXPERIMENTAL_FIELD = "MG2003", Error, "a field or value belongs to the experimental channel",
        "The Gateway API publishes two channels. This field, or this value of it, is in the experimental one only, \
         and may change or go away in a later release. Compile with --channel experimental to accept it.";
    REQUIRED = "MG2004", Error, "a required field is missing",
        "The object is not complete without this field. A field without a value (null) counts as missing.";
    PATTERN_MISMATCH = "MG2005", Error, "a text does not have the form that the field wants",
        "The field takes text of a certain form only, given as a regular expression in the Gateway API's schema. \
         Host names are lower case, without port or trailing dot, and ASCII: an international name is written as its \
         A-label (xn--…).";
    UNSUPPORTED_VALUE = "MG2006", Error, "a value is not one of those that the field knows",
        "The field takes one of a few values, which the message lists. They are case-sensitive.";
    OUT_OF_RANGE = "MG2007", Error, "a number is too small or too large",
        "The number is outside of the bounds in the Gateway API's schema: ports are 1 to 65535, weights 0 to 1000000.";
    WRONG_LENGTH = "MG2008", Error, "a text is too short or too long",
        "The text is outside of the bounds in the Gateway API's schema, which are counted in characters.";
    WRONG_COUNT = "MG2009", Error, "a list or map has too few or too many entries",
        "The count is outside of the bounds in the Gateway API's schema. A route takes at most 16 rules, a Gateway 64 \
         listeners: split it into several routes, or add a ListenerSet.";
    DUPLICATE_ITEM = "MG2010", Error, "a list has the same entry twice",
        "Entries of this list are told apart by certain fields, such as the name, and two agree in all of them. The \
         message shows these fields; header names are compared as written.";
    RULE_VIOLATED = "MG2011", Error, "a rule of the Gateway API does not hold",
        "The Gateway API's schemas carry rules over several fields, written in CEL: a redirect excludes backends, a \
         filter's type names its field. The message is the rule's own, and the help line shows its text.";
    FORMAT_MISMATCH = "MG2012", Error, "a value does not have the field's format",
        "The field takes values of a named format: a 32-bit number, a date with time, an IP address.";
    COMBINATION = "MG2013", Error, "a value fits none of the forms that the field allows",
        "The schema lists alternatives, and the value has to fit exactly one, at least one, or all of them.";
    UNKNOWN_KIND = "MG2020", Error, "the API group has no such kind",
        "The group belongs to the Gateway API, but the kind is not in the release that this version of Moorgate \
         knows. It may be misspelt, gone, or newer than this version: `moorgate version` names the release.";
    UNKNOWN_VERSION = "MG2021", Error, "the kind is not served in this version",
        "The kind exists, but the Gateway API no longer serves it in this version, or does not yet. The fields of v1 \
         mostly carry over from beta and alpha versions: change apiVersion and compile again.";
    EXPERIMENTAL_KIND = "MG2022", Error, "the kind or its version belongs to the experimental channel",
        "The Gateway API publishes two channels, and this kind, or this version of it, is in the experimental one \
         only. Compile with --channel experimental to accept it, or use a version that the standard channel serves.";
    DEPRECATED_VERSION = "MG2023", Warning, "the version is deprecated",
        "The Gateway API still serves the kind in this version, and will stop in a later release. Change apiVersion \
         to v1; the fields stay the same.";
    DOUBTFUL_GROUP = "MG2024", Warning, "the API group is almost that of the Gateway API",
        "Objects of unknown groups pass without a look, as they belong to other programs. This one has a kind of the \
         Gateway API, and a group that differs from the Gateway API's in a letter or two: it will have no effect.";
    INVALID_NAME = "MG2030", Error, "a name does not have the form of a Kubernetes name",
        "Names of objects are DNS subdomains: lower case letters, digits, '-' and '.', at most 253 characters. Names of \
         namespaces and Services are single labels: no dot, at most 63 characters.";
    NAMESPACE_MISSING = "MG2031", Error, "a namespaced object has no namespace",
        "kubectl would put the object into the namespace of its context; a file has no such context. Write \
         metadata.namespace, or name the namespace of such objects with --namespace.";
    INVALID_LABEL = "MG2032", Error, "a label or annotation is malformed",
        "Keys are an optional DNS prefix with a slash, and a name of at most 63 characters. Label values are at most 63 \
         letters, digits, '-', '_' and '.'; all annotations of an object together are at most 256 KiB.";
}
