//! One line on each output, so that a test sees that they are not mixed up.

fn main() {
    println!("on stdout");
    eprintln!("on stderr");
}
