//! Content-based routing: patterns, skeletons, the assertion store.
