//! A throw-away certificate authority and what it signs, as PEM files. Who trusts it, and how, is the steps'.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::failure::{Context, Result};

/// An authority whose key is nowhere but here.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
    file: PathBuf,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    /// The certificate, as PEM.
    pub(crate) certificate: PathBuf,
    /// Its key, as PEM.
    pub(crate) key: PathBuf,
}

impl Authority {
    /// A new one, whose files are in `directory`.
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        let mut authority = parameters(&[], "wharf's authority for one run")?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(authority, key()?).context("an authority")?;
        let file = directory.join("ca.pem");
        fs::write(&file, issuer.pem()).context(file.display())?;
        Ok(Self { issuer, directory: directory.to_owned(), file })
    }

    /// Its own certificate, as PEM.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// A certificate for a server of these names and addresses.
    pub(crate) fn server(&self, names: &[&str]) -> Result<Certificate> {
        self.sign("server", names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate for a client.
    pub(crate) fn client(&self, name: &str) -> Result<Certificate> {
        self.sign(name, &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, name: &str, names: &[&str], purpose: ExtendedKeyUsagePurpose) -> Result<Certificate> {
        let mut parameters = parameters(names, name)?;
        parameters.extended_key_usages = vec![purpose];
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = key()?;
        let signed = parameters.signed_by(&key, &self.issuer).context("a certificate")?;
        let files = Certificate {
            certificate: self.directory.join(format!("{name}.cert")),
            key: self.directory.join(format!("{name}.key")),
        };
        fs::write(&files.certificate, signed.pem()).context(files.certificate.display())?;
        fs::write(&files.key, key.serialize_pem()).context(files.key.display())?;
        Ok(files)
    }
}

fn parameters(names: &[&str], common: &str) -> Result<CertificateParams> {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).context("a name for a certificate")?;
    parameters.distinguished_name.push(DnType::CommonName, common);
    Ok(parameters)
}

fn key() -> Result<KeyPair> {
    KeyPair::generate().context("a key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn files_are_pem_and_keys_differ() {
        let scratch = Scratch::new("certificates").unwrap();
        let authority = Authority::new(scratch.path()).unwrap();
        let server = authority.server(&["127.0.0.1", "registry.test"]).unwrap();
        let client = authority.client("client").unwrap();
        for file in [authority.file(), &server.certificate, &client.certificate] {
            assert!(fs::read_to_string(file).unwrap().starts_with("-----BEGIN CERTIFICATE-----"), "{file:?}");
        }
        let [server, client] = [server.key, client.key].map(|file| fs::read_to_string(file).unwrap());
        assert!(server.contains("PRIVATE KEY") && server != client);
    }
}
