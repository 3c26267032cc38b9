//! Descriptors and process file systems of the host, as a container could reach them.
