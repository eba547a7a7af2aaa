//! The daemon: configuration, sockets and signals around one node of `peat-blobcore`. It does not exist yet; until it does,
//! a node runs inside the program that embeds the library.
