//! (content)
