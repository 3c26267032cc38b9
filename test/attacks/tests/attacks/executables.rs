//! The files of our own programs, as a container could reach them.
