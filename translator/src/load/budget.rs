//! Counting values before they exist.

use crate::source::Limits;
use moorgate_model::{Node, Value};

/// Which budget is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spent {
    /// The values of one document.
    Document(usize),
    /// The values of all documents.
    Total(usize),
    /// The values that aliases add.
    AliasNodes(usize),
    /// The text that aliases add.
    AliasBytes(usize),
}

impl Spent {
    pub(super) fn message(self) -> String {
        match self {
            Self::Document(most) => format!("the document holds more than {most} values"),
            Self::Total(most) => format!("all documents together hold more than {most} values"),
            Self::AliasNodes(most) => {
                format!("the aliases of the document expand to more than {most} values")
            }
            Self::AliasBytes(most) => format!("the aliases of the document expand to more than {most} bytes"),
        }
    }
}

/// How large a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Weight {
    pub(super) nodes: usize,
    pub(super) bytes: usize,
    pub(super) depth: usize,
}

impl Weight {
    /// Weighs a tree. The recursion is bounded by [`Limits::depth`], which every tree was built under.
    pub(super) fn of(node: &Node) -> Self {
        let mut weight = Self { nodes: 1, bytes: 0, depth: 0 };
        match &node.value {
            Value::String(text) => weight.bytes = text.len(),
            Value::Sequence(items) => items.iter().for_each(|item| weight.add(Self::of(item), 0)),
            Value::Mapping(fields) => {
                fields.entries().iter().for_each(|entry| weight.add(Self::of(&entry.value), entry.key.len()));
            }
            _ => {}
        }
        weight
    }

    fn add(&mut self, child: Self, key: usize) {
        self.nodes += child.nodes;
        self.bytes += child.bytes + key;
        self.depth = self.depth.max(child.depth + 1);
    }
}

/// What may still be built.
#[derive(Debug)]
pub(super) struct Budget<'a> {
    pub(super) limits: &'a Limits,
    total: usize,
    document: usize,
    alias_nodes: usize,
    alias_bytes: usize,
}

impl<'a> Budget<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        let mut budget =
            Self { limits, total: limits.total_nodes, document: 0, alias_nodes: 0, alias_bytes: 0 };
        budget.next_document();
        budget
    }

    /// A new document starts with whole budgets of its own.
    pub(super) fn next_document(&mut self) {
        self.document = self.limits.nodes_per_document;
        self.alias_nodes = self.limits.alias_nodes;
        self.alias_bytes = self.limits.alias_bytes;
    }

    /// Takes for values that are about to be built.
    pub(super) fn take(&mut self, nodes: usize) -> Result<(), Spent> {
        self.document =
            self.document.checked_sub(nodes).ok_or(Spent::Document(self.limits.nodes_per_document))?;
        self.total = self.total.checked_sub(nodes).ok_or(Spent::Total(self.limits.total_nodes))?;
        Ok(())
    }

    /// Takes for a copy that an anchor or alias is about to make.
    pub(super) fn take_copy(&mut self, weight: Weight) -> Result<(), Spent> {
        let Limits { alias_nodes, alias_bytes, .. } = self.limits;
        self.alias_nodes =
            self.alias_nodes.checked_sub(weight.nodes).ok_or(Spent::AliasNodes(*alias_nodes))?;
        self.alias_bytes =
            self.alias_bytes.checked_sub(weight.bytes).ok_or(Spent::AliasBytes(*alias_bytes))?;
        self.take(weight.nodes)
    }
}
