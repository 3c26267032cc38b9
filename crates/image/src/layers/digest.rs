//! Bytes, and what was promised of them.

use oci_spec::image::{Descriptor, DigestAlgorithm};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{FormError, short};

/// Bytes by their SHA-256 and their length, as a descriptor promises them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Content {
    sha256: String,
    size: u64,
}

impl Content {
    /// From a digest `sha256:...` and a size; of other digests none is used anywhere.
    pub fn new(digest: &str, size: u64) -> Result<Self, FormError> {
        let hexadecimal = digest.strip_prefix("sha256:").filter(|digits| {
            digits.len() == 64
                && digits
                    .bytes()
                    .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        });
        match hexadecimal {
            Some(digits) => Ok(Self {
                sha256: digits.to_owned(),
                size,
            }),
            None => Err(FormError::Digest(short(digest))),
        }
    }

    /// 64 hexadecimal digits.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// `sha256:` and the digits.
    pub fn digest(&self) -> String {
        format!("sha256:{}", self.sha256)
    }

    /// How many bytes there shall be.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl TryFrom<&Descriptor> for Content {
    type Error = FormError;

    fn try_from(descriptor: &Descriptor) -> Result<Self, FormError> {
        match descriptor.digest().algorithm() {
            DigestAlgorithm::Sha256 => Self::new(descriptor.digest().as_ref(), descriptor.size()),
            _ => Err(FormError::Digest(short(descriptor.digest().as_ref()))),
        }
    }
}

/// Compares bytes with what was promised, while they arrive.
pub struct Verifier {
    content: Content,
    hasher: Sha256,
    length: u64,
}

impl Verifier {
    /// Nothing has arrived yet.
    pub fn new(content: &Content) -> Self {
        Self {
            content: content.clone(),
            hasher: Sha256::new(),
            length: 0,
        }
    }

    /// Takes the next bytes. Fails as soon as there are more than promised.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), FormError> {
        self.length += bytes.len() as u64;
        if self.length > self.content.size {
            return Err(FormError::TooLong {
                digest: self.content.digest(),
                promised: self.content.size,
            });
        }
        self.hasher.update(bytes);
        Ok(())
    }

    /// Whether that was all, and the right bytes.
    pub fn finish(self) -> Result<(), FormError> {
        if self.length != self.content.size {
            return Err(FormError::TooShort {
                digest: self.content.digest(),
                promised: self.content.size,
                length: self.length,
            });
        }
        if hexadecimal(&self.hasher.finalize()) != self.content.sha256 {
            return Err(FormError::OtherBytes(self.content.digest()));
        }
        Ok(())
    }
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
