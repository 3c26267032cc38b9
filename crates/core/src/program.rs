//! What tells a program of Lighter from another of the same name without running it.

/// Stands in the file of each program of Lighter. It is the same in all releases, so that each
/// recognises what another has installed: never change it.
pub static PROGRAM_MARK: [u8; 58] =
    *b"\0lighter.dev/program/2f0d6a4e-93c1-4b7e-8f55-c07b1e9a6d31\0";

/// Keeps [`PROGRAM_MARK`] in the program whose `main` calls this: the linker drops what nobody
/// refers to.
pub fn keep_program_mark() {
    std::hint::black_box(&PROGRAM_MARK);
}
