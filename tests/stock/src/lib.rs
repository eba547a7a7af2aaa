//! Nothing but a place for tests against the stock client of iroh-blobs, whose crates nothing else wants: see `tests/`.
