//! The smallest guest that a user would recognise.

fn main() {
    println!("Hello from Wasm");
}
