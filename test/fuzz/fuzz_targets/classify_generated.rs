//! What a file is: valid modules and components, and the same with a few bytes changed or cut off.
#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::{Corpus, fuzz_target};
use lighter_fuzz::classification::{check, is_valid};
use lighter_wasm::{NotRunnable, classify};

fuzz_target!(|data: &[u8]| -> Corpus {
    match run(&mut Unstructured::new(data)) {
        Ok(()) => Corpus::Keep,
        Err(_) => Corpus::Reject,
    }
});

/// A change of a generated binary.
#[derive(Arbitrary)]
struct Change {
    place: u16,
    byte: u8,
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let changes: Vec<Change> = input
        .arbitrary_iter()?
        .take(4)
        .collect::<Result<Vec<Change>>>()?;
    let end: Option<u16> = input.arbitrary()?;
    let config = wasm_smith::Config {
        max_imports: 20,
        max_funcs: 20,
        max_components: 3,
        max_instructions: 50,
        ..wasm_smith::Config::default()
    };
    let mut bytes = if input.arbitrary()? {
        wasm_smith::Component::new(config, input)?.to_bytes()
    } else {
        wasm_smith::Module::new(config, input)?.to_bytes()
    };
    if is_valid(&bytes) {
        let verdict = classify(&bytes);
        assert!(
            matches!(verdict, Ok(_) | Err(NotRunnable::Unsupported { .. })),
            "{verdict:?}"
        );
    }
    for change in &changes {
        let place = usize::from(change.place) % bytes.len();
        bytes[place] = change.byte;
    }
    if let Some(end) = end {
        bytes.truncate(end.into());
    }
    check(&bytes);
    Ok(())
}
