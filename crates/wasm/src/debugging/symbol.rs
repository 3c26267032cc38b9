//! Names of functions as their authors wrote them.

/// `name` without the mangling of Rust or C++, in one line and without `;`, which separates
/// functions in a profile.
pub(super) fn readable(name: &str) -> String {
    let demangled = match rustc_demangle::try_demangle(name) {
        Ok(rust) => format!("{rust:#}"),
        Err(_) if name.starts_with("_Z") => cpp_demangle::Symbol::new(name)
            .ok()
            .and_then(|symbol| symbol.demangle().ok())
            .unwrap_or_else(|| name.to_owned()),
        Err(_) => name.to_owned(),
    };
    demangled.replace(|each: char| each == ';' || each.is_control(), "_")
}

/// A function by its number, if the Wasm does not name it.
pub(super) fn of_function(name: Option<&str>, index: u32) -> String {
    name.map_or_else(|| format!("wasm-function[{index}]"), readable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_source() {
        assert_eq!(
            readable("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE"),
            "core::fmt::Write::write_fmt"
        );
        assert_eq!(readable("_RNvCs1234_7mycrate3foo"), "mycrate::foo");
        assert_eq!(readable("_Z3addii"), "add(int, int)");
        assert_eq!(readable("_Znot"), "_Znot");
        assert_eq!(of_function(Some("a;b\n"), 3), "a_b_");
        assert_eq!(of_function(None, 3), "wasm-function[3]");
    }
}
