//! gRPC, generated from the .proto files.
