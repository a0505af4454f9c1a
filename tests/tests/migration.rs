//! MIGRATION.md, followed on the test cluster: its commands run as they stand there, by a shell, with the programs that
//! people have.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

#[path = "migration/conversions.rs"]
mod conversions;
#[path = "migration/document.rs"]
mod document;
#[path = "migration/front.rs"]
mod front;
#[path = "migration/incumbent.rs"]
mod incumbent;
#[path = "migration/moves.rs"]
mod moves;
#[path = "migration/site.rs"]
mod site;
#[path = "migration/trial.rs"]
mod trial;
#[path = "migration/written.rs"]
mod written;
