//! Keys and certificates of the control plane, made anew for each cluster.

use super::names::Folder;
use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

/// Names and addresses under which the API server is reached, from outside of pods and from within.
const SERVER_NAMES: [&str; 6] = [
    "127.0.0.1",
    super::network::API_ADDRESS,
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
];

/// Writes `ca.crt`, `server.{crt,key}`, `accounts.key`, `tokens.csv` and `kubeconfig`.
pub(super) fn make(folder: &Folder) -> Result<()> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(DnType::CommonName, "test cluster");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);

    let server_key = KeyPair::generate()?;
    let mut server = CertificateParams::new(SERVER_NAMES.map(str::to_owned).to_vec())?;
    server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let server_certificate = server.signed_by(&server_key, &issuer)?;

    // Signs the tokens of ServiceAccounts.
    let accounts_key = KeyPair::generate()?;
    let mut random = [0_u8; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random)
        .ok()
        .context("randomness for a token")?;
    let token = random.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));

    let write = |name: &str, text: &str| std::fs::write(folder.path(name), text).context(name.to_owned());
    write("ca.crt", &authority_certificate.pem())?;
    write("server.crt", &server_certificate.pem())?;
    write("server.key", &server_key.serialize_pem())?;
    write("accounts.key", &accounts_key.serialize_pem())?;
    write("accounts.pub", &accounts_key.public_key_pem())?;
    write("tokens.csv", &format!("{token},admin,admin,system:masters\n"))?;
    write("kubeconfig", &kubeconfig(&authority_certificate.pem(), &token)?)
}

/// A kubeconfig for this token.
pub(super) fn kubeconfig(authority: &str, token: &str) -> Result<String> {
    use base64::Engine as _;
    let authority = base64::engine::general_purpose::STANDARD.encode(authority);
    let (address, port) = super::network::API_SERVER;
    let server = format!("https://{address}:{port}");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    });
    Ok(serde_json::to_string_pretty(&config)?)
}
