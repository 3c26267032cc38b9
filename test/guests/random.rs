//! Prints 16 random bytes of WASI, without a generator of its own in between.

#[link(wasm_import_module = "wasi_snapshot_preview1")]
extern "C" {
    fn random_get(buffer: *mut u8, length: usize) -> i32;
}

fn main() {
    let mut bytes = [0u8; 16];
    // SAFETY: the buffer is as long as the host is told.
    let error = unsafe { random_get(bytes.as_mut_ptr(), bytes.len()) };
    assert_eq!(error, 0);
    println!("{:032x}", u128::from_be_bytes(bytes));
}
