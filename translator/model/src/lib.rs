//! The vocabulary of Moorgate: what the rooms of the translator say to each other.
//!
//! ```text
//!  Node ──▶ Object (reference, origin, tree) ──▶ Diagnostic (code, field, file:line:col)
//!                                         └────▶ ir::Fleet (what Envoy shall do, in plain data)
//! ```
//!
//! Plain data only: no Kubernetes client, no protobuf, no I/O.

pub mod diagnostic;
pub mod duration;
pub mod field;
pub mod ir;
pub mod node;
pub mod object;
pub mod origin;

pub use diagnostic::{Class, Code, Diagnostic, Diagnostics, Severity};
pub use field::{FieldPath, Segment};
pub use node::{Entry, Mapping, Node, Value};
pub use object::{Object, ObjectRef};
pub use origin::{Origin, Position, Span};
