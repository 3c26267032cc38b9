//! Who may read the metrics: whoever sends a token of a file, as `Authorization: Bearer TOKEN`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use sha2::{Digest, Sha256};

/// A shorter token could be guessed.
const MIN_TOKEN_BYTES: usize = 16;

/// Why there are no tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot read the token file {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("cannot use the token file {}: {fault}; write a token of at least {MIN_TOKEN_BYTES} characters without spaces, one a line", path.display())]
    Invalid { path: PathBuf, fault: &'static str },
}

/// The digests of the tokens that are good. Nothing of a token is kept.
#[derive(Debug)]
pub struct Tokens(Vec<[u8; 32]>);

impl Tokens {
    /// Reads a file of tokens, one a line. Two let clients change from one to the other.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let text = fs::read(path).map_err(|error| TokenError::Unreadable {
            path: path.to_owned(),
            error,
        })?;
        Self::parse(&text).map_err(|fault| TokenError::Invalid {
            path: path.to_owned(),
            fault,
        })
    }

    fn parse(text: &[u8]) -> Result<Self, &'static str> {
        let mut tokens = Vec::new();
        for line in text.split(|byte| *byte == b'\n') {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            if line.len() < MIN_TOKEN_BYTES {
                return Err("a token in it is too short");
            }
            if !line.iter().all(u8::is_ascii_graphic) {
                return Err("a token in it has a character that no header can have");
            }
            tokens.push(Sha256::digest(line).into());
        }
        if tokens.is_empty() {
            return Err("there is no token in it");
        }
        Ok(Self(tokens))
    }

    /// Whether a request's headers have one of them. How long this takes says nothing about the tokens: it
    /// is digests that are compared, all of them, and each to its end.
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        let mut all = headers.get_all(AUTHORIZATION).iter();
        let (Some(header), None) = (all.next(), all.next()) else {
            return false;
        };
        let Some(sent) = bearer(header.as_bytes()) else {
            return false;
        };
        let sent: [u8; 32] = Sha256::digest(sent).into();
        let same = |token: &[u8; 32]| {
            let pairs = token.iter().zip(&sent);
            pairs.fold(0, |difference, (one, other)| difference | (one ^ other)) == 0
        };
        self.0
            .iter()
            .fold(false, |found, token| found | same(token))
    }
}

/// The token of a header, whose scheme is written in any case.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123";

    fn headers(values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value).unwrap();
            headers.append(AUTHORIZATION, value);
        }
        headers
    }

    #[test]
    fn a_token_of_the_file_is_good_and_nothing_else() {
        let tokens = Tokens::parse(b"0123456789abcdef0123\n\n  another-good-token \r\n").unwrap();
        for good in [
            "Bearer 0123456789abcdef0123",
            "bearer  0123456789abcdef0123",
            "BEARER another-good-token",
        ] {
            assert!(tokens.allow(&headers(&[good.as_bytes()])), "{good}");
        }
        let right = format!("Bearer {TOKEN}");
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            TOKEN,
            "Basic 0123456789abcdef0123",
            "Bearer 0123456789abcdef012",
            "Bearer 0123456789abcdef01234",
            "Bearer 0123456789ABCDEF0123",
            "Bearer 0123456789abcdef0123\tanother-good-token",
            "Bearer 0123456789abcdef0123, Bearer x",
        ] {
            assert!(!tokens.allow(&headers(&[bad.as_bytes()])), "{bad}");
            assert!(!tokens.allow(&headers(&[right.as_bytes(), bad.as_bytes()])));
        }
        assert!(!tokens.allow(&HeaderMap::new()));
    }

    #[test]
    fn a_file_without_a_good_token_lets_nobody_in() {
        for bad in [
            "",
            "\n \n",
            "short",
            "0123456789abcdef\nshort",
            "a token with spaces",
        ] {
            assert!(Tokens::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let missing = Tokens::read(Path::new("/no/such/token")).unwrap_err();
        assert!(missing.to_string().contains("/no/such/token"));
    }

    proptest! {
        #[test]
        fn only_the_token_itself_is_let_in(sent in "[ -~]{0,40}") {
            let tokens = Tokens::parse(TOKEN.as_bytes()).unwrap();
            let header = format!("Bearer {sent}");
            prop_assert_eq!(tokens.allow(&headers(&[header.as_bytes()])), sent.trim() == TOKEN);
        }
    }
}
