//! Codes of class schema: an API server with the Gateway API CRDs would refuse the object.

crate::codes! { Schema;
    TYPE_MISMATCH = "MG2001", Error, "a value has the wrong type",
        "The field wants another type than the value has. YAML turns unquoted words such as yes, 010 or 1e3 into \
         other types: quote the value if it is meant as text.";
}
