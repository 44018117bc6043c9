//! vmalloc
