//! gRPC streaming over `h2`, without io.
