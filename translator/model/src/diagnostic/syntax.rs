//! Codes of class syntax: a file could not be read as objects.

crate::codes! { Syntax;
    YAML_INVALID = "MG1001", Error, "the file is not valid YAML",
        "The parser could not make sense of the text at this place, so nothing of this document could be read. \
         Publishing is refused for all fleets, because nobody can tell which of them the document belongs to.";
}
