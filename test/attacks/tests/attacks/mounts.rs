//! Volumes, links and kernel file systems of a container.
