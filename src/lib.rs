//! refreshd
