//! The options of a runtime handler as containerd sends them: `runtimeoptions.v1.Options`
//! (containerd `api/types/runtimeoptions/v1/api.proto`), which the generated code does not have.

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use lighter_core::{Failure, RuntimeOptions};
use protobuf::CodedInputStream;
use protobuf::rt::WireType;

/// The type's name; whoever wraps it may put a host before it.
const TYPE: &str = "runtimeoptions.v1.Options";

const CONFIG_PATH: u32 = 2;
const CONFIG_BODY: u32 = 3;

/// Whether these are options of a runtime handler.
pub fn are_options(any: &Any) -> bool {
    any.type_url.rsplit('/').next() == Some(TYPE)
}

/// The options in a request. Those of another type (Docker sends runc's) mean none.
///
/// # Errors
/// They are malformed.
pub fn of(any: Option<&Any>) -> Result<RuntimeOptions, Failure> {
    match any {
        Some(any) if are_options(any) => decode(&any.value).map_err(|error| {
            Failure::invalid(format!("the runtime's options are malformed: {error}"))
        }),
        _ => Ok(RuntimeOptions::default()),
    }
}

fn decode(bytes: &[u8]) -> protobuf::Result<RuntimeOptions> {
    let mut options = RuntimeOptions::default();
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        // A tag is the number of a field and its wire type, in three bits.
        match (tag >> 3, tag & 7) {
            (CONFIG_PATH, 2) => options.path = input.read_string()?,
            (CONFIG_BODY, 2) => {
                options.body = String::from_utf8_lossy(&input.read_bytes()?).into_owned();
            }
            (_, kind) => {
                let kind = WireType::new(kind).unwrap_or(WireType::EndGroup);
                input.skip_field(kind)?;
            }
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn options_of(type_url: &str, value: &[u8]) -> Any {
        let mut any = Any::new();
        any.type_url = type_url.to_owned();
        any.value = value.to_vec();
        any
    }

    #[test]
    fn path_and_body_are_read_and_the_rest_is_skipped() {
        let value = b"\x0a\x01t\x12\x02/p\x1a\x0atcp = true\x20\x07";
        let options = of(Some(&options_of(
            "types.example/runtimeoptions.v1.Options",
            value,
        )))
        .unwrap();
        assert_eq!(options.path, "/p");
        assert_eq!(options.body, "tcp = true");
    }

    #[test]
    fn options_of_others_mean_none() {
        let runc = options_of("containerd.runc.v1.Options", b"\x12\x02/p");
        assert_eq!(of(Some(&runc)).unwrap(), RuntimeOptions::default());
        assert_eq!(of(None).unwrap(), RuntimeOptions::default());
        assert!(of(Some(&options_of(TYPE, b"\x12\xff"))).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&bytes);
        }
    }
}
