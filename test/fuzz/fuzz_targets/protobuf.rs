//! What is decoded by hand of containerd's requests.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use lighter_fuzz::allocation::bounded;
use lighter_task::{request_container, runtime_options};
use protobuf::CodedOutputStream;
use protobuf::well_known_types::any::Any;

/// A message may promise more bytes than it has. protobuf reserves this much for them at most, and
/// touches none of it.
const MAX_RESERVED: usize = 10_000_000;

#[derive(Arbitrary, Debug)]
enum Field<'a> {
    TypeUrl(&'a str),
    Path(&'a str),
    Body(&'a str),
    Unknown(u16, &'a [u8]),
    Number(u16, u64),
    Fixed(u16, u32),
}

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Message(Vec<Field<'a>>),
    Any(&'a [u8]),
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Message(fields) => check(&fields),
    Input::Any(bytes) => {
        let options = options_of(bytes.to_vec());
        let most = MAX_RESERVED + bytes.len();
        let _ = bounded(most, 4, || runtime_options(Some(&options)));
        if let Some(id) = bounded(most, 4, || request_container(bytes)) {
            assert!(bytes.len() > id.len());
        }
    }
});

fn options_of(value: Vec<u8>) -> Any {
    Any {
        type_url: "types.example/runtimeoptions.v1.Options".to_owned(),
        value,
        ..Any::default()
    }
}

/// What protobuf's own encoder writes is read as it was meant.
fn check(fields: &[Field<'_>]) {
    let mut bytes = Vec::new();
    let (mut path, mut body) = ("", "");
    let mut output = CodedOutputStream::vec(&mut bytes);
    for field in fields {
        // The first three fields are those that mean something.
        let unknown = |number: &u16| u32::from(*number) + 4;
        match field {
            Field::TypeUrl(text) => output.write_string(1, text),
            Field::Path(text) => {
                path = *text;
                output.write_string(2, text)
            }
            Field::Body(text) => {
                body = *text;
                output.write_string(3, text)
            }
            Field::Unknown(number, bytes) => output.write_bytes(unknown(number), bytes),
            Field::Number(number, value) => output.write_uint64(unknown(number), *value),
            Field::Fixed(number, value) => output.write_fixed32(unknown(number), *value),
        }
        .expect("a vector takes everything");
    }
    output.flush().expect("a vector takes everything");
    drop(output);
    let first = match fields.first() {
        Some(Field::TypeUrl(text)) => Some((*text).to_owned()),
        _ => None,
    };
    assert_eq!(request_container(&bytes), first);
    let options = runtime_options(Some(&options_of(bytes))).expect("it is well-formed");
    assert_eq!((options.path.as_str(), options.body.as_str()), (path, body));
}
