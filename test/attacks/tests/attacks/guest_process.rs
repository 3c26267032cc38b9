//! What a guest that broke out of Wasm could do with its process.
