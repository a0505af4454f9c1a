//! Codes of class syntax: a file could not be read, or not as objects.

crate::codes! { Syntax;
    YAML_INVALID = "MG1001", Error, "the file is not valid YAML",
        "The parser could not make sense of the text at this place, so nothing of this document could be read. \
         Publishing is refused for all fleets, because nobody can tell which of them the document belongs to.";
    JSON_INVALID = "MG1002", Error, "the file is not valid JSON",
        "The text is not JSON at this place, so nothing from here to the end of the file could be read. Publishing is \
         refused for all fleets, because nobody can tell which of them the objects belong to.";
    ENCODING = "MG1003", Error, "the file is not UTF-8",
        "Files are read as UTF-8. UTF-16, UTF-32 and bytes that are no UTF-8 are refused, because a reviewer and a \
         parser could see different text. Convert the file, for example with iconv -t UTF-8.";
    BYTE_ORDER_MARK = "MG1004", Warning, "the file starts with a byte order mark",
        "The mark was skipped. UTF-8 needs none, and some tools take it for part of the first key: save the file \
         without it.";
    HOSTILE_CHARACTER = "MG1005", Error, "a character that cannot be seen stands in the text",
        "Control characters and characters that reorder text make a file read differently from what a reviewer sees; \
         zero-width characters make two names look like one. Remove the character, or write it as an escape in a \
         double-quoted value if it is really meant. Names cannot hold it at all.";
    NOT_TEXT = "MG1006", Error, "the file is not text",
        "The name says YAML or JSON, but the content is an archive, an image or some other binary. Remove it from the \
         source, or give it its right name.";
    LFS_POINTER = "MG1007", Error, "a git LFS pointer stands where content should be",
        "The file was committed through git LFS, so the repository holds a pointer to it and not the text. LFS is never \
         fetched: keep configuration in git itself (git lfs untrack, then git add --renormalize).";
    CONFLICT_MARKERS = "MG1008", Error, "a merge conflict was committed",
        "Lines that git writes into files with a merge conflict are still there. Resolve the conflict; nothing of \
         this document was read.";
    UNRENDERED = "MG1009", Error, "a template or overlay was not rendered",
        "Helm templates and kustomizations are inputs of their tools, not objects. Run the tool first and give its \
         output: helm template, or kustomize build. Origin comments and annotations in it are kept.";
    TOO_DEEP = "MG1010", Error, "the document is nested too deeply",
        "Depth is bounded so that no document can exhaust the stack of any tool that reads it. No object of Kubernetes \
         comes near the bound.";
    TOO_LARGE = "MG1011", Error, "a budget of size or count is spent",
        "Files, documents, values and what aliases expand to are bounded, so that one repository cannot exhaust the \
         machine that compiles it. Split the file, or leave out what is no configuration.";
    DUPLICATE_KEY = "MG1012", Error, "a key is written twice",
        "Parsers disagree on which of the two counts. Remove one of them; the first was used for the checks below.";
    UNSUPPORTED_YAML = "MG1013", Error, "a feature of YAML is not supported",
        "Merge keys, tags, binary values and keys that are not text are read differently by different parsers, and \
         Kubernetes needs none of them. Write the value out; quote keys that look like numbers or truth values.";
    AMBIGUOUS_NUMBER = "MG1014", Error, "a number is read differently by different parsers",
        "Octal, hexadecimal, binary, underscored, base-60 and unsigned exponent notation mean a number to one version of \
         YAML and text or another number to the next. Write a plain decimal number, or quote the value if it is text.";
    NUMBER_OUT_OF_RANGE = "MG1015", Error, "a number cannot be represented",
        "Whole numbers must fit into 64 bits with sign, others must be finite: JSON has no infinity and no NaN. \
         Quote the value if it is meant as text.";
    NOT_AN_OBJECT = "MG1016", Warning, "a document is not a Kubernetes object",
        "It has neither apiVersion nor kind, so it was passed over. It may be a Helm values file or belong to another \
         tool; keep such files out of the source, or name the folders that hold objects.";
    OBJECT_INCOMPLETE = "MG1017", Error, "an object lacks its apiVersion, kind or name",
        "These three say which object it is. Without them it can be neither checked nor compiled, and publishing is \
         refused for all fleets, because nobody can tell which of them it belongs to.";
    NESTED_LIST = "MG1018", Error, "a List holds another List",
        "Items of a List are objects. A List within a List is not expanded; lift its items up.";
    ENCRYPTED = "MG1019", Warning, "a Secret is encrypted in place",
        "The Secret carries SOPS metadata, so its values are no use here. It is treated as absent from this source: \
         secrets are bound late, by the relay.";
    DUPLICATE_OBJECT = "MG1020", Error, "an object is defined twice",
        "Two documents define the same kind, namespace and name. An API server would keep the one applied last; here \
         nothing says which that is. The first by file name and line was used for the checks; remove the other.";
    SYMLINK = "MG1021", Error, "a symbolic link is not followed",
        "A link can point outside the source, in a circle, or elsewhere on another machine. Replace it by the file or \
         folder itself, or name its target as a source of its own.";
    SPECIAL_FILE = "MG1022", Error, "a device, pipe or socket is no configuration",
        "Only regular files are read; opening anything else may block or have effects. Remove it from the source.";
    SUBMODULE = "MG1023", Error, "a submodule is not followed",
        "The folder belongs to another repository, and is never fetched. Name that repository as a source of its own.";
    NAME_COLLISION = "MG1024", Error, "two file names are one on some systems",
        "The names differ only in case or in how an accent is composed. On macOS or Windows a checkout keeps one of them \
         only, so two machines would compile different configuration. Rename one.";
    NAME_UNUSABLE = "MG1025", Error, "a file name cannot be used",
        "The name is not UTF-8, holds control characters or path syntax, or is reserved on Windows, so it cannot be \
         checked out everywhere. Rename the file.";
    CHANGED_WHILE_READ = "MG1026", Error, "a file changed while it was being read",
        "Half of an old and half of a new text would compile to something that nobody wrote. Run again when nothing \
         writes to the source, or compile a git revision.";
    NOT_COMMITTED = "MG1027", Warning, "the files are not those of a commit",
        "Files were read from a work tree that differs from its commit, has none, or cannot be told apart. The result \
         cannot be reproduced from git: publish refuses it unless --allow-dirty is given.";
}
