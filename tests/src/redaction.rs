//! Finds secrets where none may be: private keys, tokens and passwords in what programs print, answer and store.
//!
//! Two nets. [`private_material`] knows how keys look, whoever made them: every line that a program of a suite prints goes
//! through it. [`Markers`] knows the secrets of one test and finds them in every dress.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use regex::bytes::Regex;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::OnceLock;

/// How private keys begin: PEM; PKCS #8 of P-256, P-384, Ed25519 and RSA, SEC 1 and PKCS #1 in base64 and in hexadecimal
/// digits; age.
const LOOKS: &[&str] = &[
    r"PRIVATE KEY-----",
    r"MIGHAgEAMBMGByqGSM49",
    r"MIG2AgEAMBAGByqGSM49",
    r"M[CF][0-9A-Za-z+/]CAQ[AE]wBQYDK2Vw",
    r"MII[EJ][0-9A-Za-z+/]{2}IBADANBgkqhkiG9w0BAQEFAASC",
    r"(?i)30(81)?8702010030130607 ?2a8648ce3d0201",
    r"(?i)30(2e|51|53)0201(00|01)300506032b6570",
    r"AGE-SECRET-KEY-1",
];

/// Words with which private keys are spoken of, which are none.
fn looks() -> &'static Regex {
    static REGEX: OnceLock<Regex> = OnceLock::new();
    REGEX.get_or_init(|| {
        #[allow(clippy::expect_used, reason = "a constant")]
        Regex::new(&LOOKS.join("|")).expect("the patterns are fixed")
    })
}

/// What looks like a private key, with a little of what stands before it; `None` if nothing does.
pub fn private_material(text: &[u8]) -> Option<String> {
    let found = looks().find(text)?;
    let before = &text[found.start().saturating_sub(200)..found.end()];
    Some(String::from_utf8_lossy(before).into_owned())
}

/// One secret in one dress.
#[derive(Debug, Clone)]
struct Needle {
    secret: String,
    dress: &'static str,
    bytes: Vec<u8>,
}

/// The secrets of a test.
#[derive(Debug, Clone, Default)]
pub struct Markers(Vec<Needle>);

impl Markers {
    /// A text such as a token or password: plain, and in all encodings that software puts text in.
    pub fn text(&mut self, secret: &str, text: &str) {
        self.bytes(secret, text.as_bytes());
    }

    /// A private key in PEM: the part of it that is secret. Of keys on curves the rest is public, and in the certificate.
    pub fn key(&mut self, secret: &str, pem: &str) {
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = STANDARD_NO_PAD.decode(body.trim_end_matches('=')).unwrap_or_default();
        // PKCS #8 of P-256 has its number at 36, of Ed25519 at 16. PEM breaks lines after 48 bytes.
        let secret_part = if der.len() > 100 { 36..68 } else { 16..48 };
        let part = der.get(secret_part.clone()).unwrap_or_default();
        let cut = 48_usize.saturating_sub(secret_part.start).min(part.len());
        for half in [&part[..cut], &part[cut..]] {
            if half.len() >= 8 {
                self.bytes(secret, half);
            }
        }
    }

    fn bytes(&mut self, secret: &str, bytes: &[u8]) {
        let mut add = |dress, bytes: Vec<u8>| {
            self.0.push(Needle { secret: secret.to_owned(), dress, bytes });
        };
        add("raw", bytes.to_vec());
        let hex = hex(bytes);
        add("hexadecimal", hex.to_uppercase().into_bytes());
        add("hexadecimal", hex.into_bytes());
        let decimal: Vec<String> = bytes.iter().map(ToString::to_string).collect();
        add("a list of numbers", decimal.join(", ").into_bytes());
        add("a list of numbers", decimal.join(",").into_bytes());
        add("escaped", bytes.escape_ascii().to_string().into_bytes());
        // Wherever it begins within a group of three bytes: what does not depend on its neighbours.
        for skip in 0..3 {
            let whole = &bytes[skip.min(bytes.len())..];
            let whole = &whole[..whole.len() / 3 * 3];
            add("base64", STANDARD_NO_PAD.encode(whole).into_bytes());
            add("base64url", URL_SAFE_NO_PAD.encode(whole).into_bytes());
        }
        self.0.retain(|needle| needle.bytes.len() >= 8);
    }

    /// How many things are looked for.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is looked for: then nothing would be found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What of it stands in these bytes: which secret, and in which dress.
    pub fn find(&self, bytes: &[u8]) -> Vec<String> {
        let found = self.0.iter().filter(|needle| contains(bytes, &needle.bytes));
        found.map(|needle| format!("{} as {}", needle.secret, needle.dress)).collect()
    }

    /// The same for all files below a folder, compressed ones too: the path of each with what was found, and how many
    /// files were read.
    pub fn find_below(&self, folder: &Path) -> std::io::Result<(Vec<String>, usize)> {
        let (mut found, mut read, mut folders) = (Vec::new(), 0, vec![folder.to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let path = entry?.path();
                let kind = std::fs::symlink_metadata(&path)?.file_type();
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file() {
                    read += 1;
                    let bytes = std::fs::read(&path)?;
                    let unpacked = zstd::decode_all(bytes.as_slice()).unwrap_or_default();
                    for text in [&bytes, &unpacked] {
                        let of = |what| format!("{}: {what}", path.display());
                        found.extend(self.find(text).into_iter().chain(private_material(text)).map(of));
                    }
                }
            }
        }
        Ok((found, read))
    }
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return false };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(needle) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::Certificate;

    #[test]
    fn a_planted_secret_is_found_in_every_dress() {
        let certificate = Certificate::for_names(&["shop.example"]).unwrap();
        let mut markers = Markers::default();
        markers.key("the key", &certificate.key);
        markers.text("the token", "correct-horse-battery-staple");
        let der = {
            let body: String = certificate.key.lines().filter(|line| !line.starts_with("-----")).collect();
            STANDARD_NO_PAD.decode(body.trim_end_matches('=')).unwrap()
        };
        let token = b"correct-horse-battery-staple";
        let planted: Vec<Vec<u8>> = vec![
            certificate.key.clone().into_bytes(),
            der.clone(),
            format!("{der:?}").into_bytes(),
            format!("{:?}", bytes::Bytes::from(der.clone())).into_bytes(),
            [b"x", token.as_slice()].concat(),
            STANDARD_NO_PAD.encode([b"Bearer ", token.as_slice()].concat()).into_bytes(),
            STANDARD_NO_PAD.encode([b"Bearer  ", token.as_slice()].concat()).into_bytes(),
            STANDARD_NO_PAD.encode([b"Bearer   ", token.as_slice()].concat()).into_bytes(),
            hex(token).into_bytes(),
        ];
        for text in &planted {
            assert!(!markers.find(text).is_empty(), "{:?}", String::from_utf8_lossy(text));
        }
        assert!(private_material(&planted[0]).is_some());
        let body = certificate.key.lines().nth(1).unwrap();
        assert!(private_material(body.as_bytes()).is_some(), "by its look alone");
        // What is public may be shown.
        for text in
            [certificate.certificate.as_bytes(), &certificate.der, b"--key file:publish.key".as_slice()]
        {
            assert_eq!((markers.find(text), private_material(text)), (vec![], None));
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("deep")).unwrap();
        let packed = zstd::encode_all(token.as_slice(), 3).unwrap();
        std::fs::write(folder.path().join("deep/page"), packed).unwrap();
        let (found, read) = markers.find_below(folder.path()).unwrap();
        assert!(read == 1 && !found.is_empty(), "{found:?}");
    }

    #[test]
    fn keys_of_our_own_are_known_by_their_look() {
        use moorgate_snapshot::KeyPair;
        let (_, pem) = KeyPair::generate(&[7; 32]).unwrap();
        let body: Vec<&str> = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        assert!(private_material(body.concat().as_bytes()).is_some(), "{body:?}");
    }
}
