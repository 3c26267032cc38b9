//! Hostile images: forged code, entrypoints, annotations.
