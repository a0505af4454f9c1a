//! Sources
