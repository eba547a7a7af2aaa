//! (replica)
