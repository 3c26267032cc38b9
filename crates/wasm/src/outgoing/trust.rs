//! Which certificate authorities a guest's requests trust.

use std::fs;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Where distributions keep their bundle of authorities.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Longest bundle that is read; Debian's has 220 KB.
const LONGEST: u64 = 16 << 20;

/// The authorities of the file that `SSL_CERT_FILE` names, else of the image's or a volume's
/// bundle, else Mozilla's list, which is built in.
///
/// # Errors
/// When the named file cannot be read or holds no certificate: trusting others instead would
/// not be what was asked for.
pub(super) fn roots(named: Option<&Path>) -> Result<RootCertStore, String> {
    if let Some(path) = named {
        return read(path)
            .and_then(|store| store.ok_or_else(|| "it holds no certificate".to_owned()))
            .map_err(|error| format!("SSL_CERT_FILE={}: {error}", path.display()));
    }
    for path in BUNDLES {
        if let Ok(Some(store)) = read(Path::new(path)) {
            return Ok(store);
        }
    }
    Ok(RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.into(),
    })
}

fn read(path: &Path) -> Result<Option<RootCertStore>, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.len() > LONGEST {
        return Err("it is no file of at most 16 MiB".to_owned());
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let mut store = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok);
    let (added, _) = store.add_parsable_certificates(certificates);
    Ok((added > 0).then_some(store))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_has_to_be_there_and_hold_a_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.pem");
        let error = roots(Some(&missing)).unwrap_err();
        assert!(
            error.contains("SSL_CERT_FILE=") && error.contains("missing.pem"),
            "{error}"
        );
        let empty = folder.path().join("empty.pem");
        fs::write(
            &empty,
            "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        assert!(roots(Some(&empty)).unwrap_err().contains("no certificate"));
        assert!(roots(Some(folder.path())).unwrap_err().contains("no file"));
    }

    #[test]
    fn without_a_named_file_somebody_is_trusted() {
        assert!(!roots(None).unwrap().is_empty());
    }
}
