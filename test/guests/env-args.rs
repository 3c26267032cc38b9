//! Prints what it was started with: `arg: A` for each argument in order, `env: K=V` for each
//! variable sorted by name, and last `cwd: DIR`.

fn main() {
    for argument in std::env::args_os() {
        println!("arg: {}", argument.to_string_lossy());
    }
    let mut variables: Vec<_> = std::env::vars_os().collect();
    variables.sort();
    for (name, value) in variables {
        println!("env: {}={}", name.to_string_lossy(), value.to_string_lossy());
    }
    match std::env::current_dir() {
        Ok(directory) => println!("cwd: {}", directory.display()),
        Err(error) => println!("cwd: error {:?}", error.kind()),
    }
}
