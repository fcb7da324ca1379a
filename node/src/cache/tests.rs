//! Tests of the whole cache.
