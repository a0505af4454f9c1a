//! `moorgate keygen`

use super::access::Format;
use super::access::random;
use super::output::{json as pretty, print};
use super::{Exit, Failure};
use crate::report::FORMAT_VERSION;
use anyhow::{Context as _, anyhow};
use clap::Args;
use moorgate_snapshot::{KeyPair, Signer as _};
use serde_json::json;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Make a key pair for signing releases, or an identity that opens sealed secrets
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate keygen ci.key                 writes ci.key (mode 0600) and ci.pub
  moorgate publish gateways/ --key file:ci.key --store file:///var/lib/moorgate
  moorgate-relay --trust ci.pub …
  moorgate keygen --age edge.identity    writes an identity of age (mode 0600), and prints its recipient

Ed25519, as `openssl genpkey -algorithm ed25519` makes it: PKCS#8 and SubjectPublicKeyInfo in PEM.
Files that are there are never written over.")]
pub(super) struct KeygenArgs {
    /// Where to write the private key; the public key goes beside it, with the ending .pub
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Make an identity of age, as `age-keygen` does: relays get it as --secrets-identity, `moorgate seal` its recipient
    #[arg(long)]
    age: bool,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs the command.
pub(super) fn run(args: &KeygenArgs) -> Result<Exit, Failure> {
    if args.age {
        return identity(args);
    }
    let public_path = args.path.with_extension("pub");
    if public_path == args.path {
        return Err(Failure::new(
            Exit::Usage,
            anyhow!("the public key would get the same name: choose another ending"),
        ));
    }
    let (pair, private) = KeyPair::generate(&random()?)?;
    // The public key first: a private key that nobody can check is of no use.
    create(&public_path, pair.public().to_pem().as_bytes(), 0o644)?;
    if let Err(failure) = create(&args.path, private.as_bytes(), 0o600) {
        let _ = std::fs::remove_file(&public_path);
        return Err(failure);
    }
    let id = pair.public().id();
    match args.output {
        Format::Text => {
            print(&format!(
                "key {id}\nprivate {}\npublic  {}\n",
                args.path.display(),
                public_path.display()
            ))?;
        }
        Format::Json => print(&pretty(&json!({
            "format_version": FORMAT_VERSION,
            "key_id": id,
            "private": args.path,
            "public": public_path,
        })))?,
    }
    Ok(Exit::Fine)
}

/// An identity that opens what is sealed for its recipient.
fn identity(args: &KeygenArgs) -> Result<Exit, Failure> {
    use age::secrecy::ExposeSecret as _;
    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public();
    let text = format!("# recipient: {recipient}\n{}\n", identity.to_string().expose_secret());
    create(&args.path, text.as_bytes(), 0o600)?;
    match args.output {
        Format::Text => print(&format!("recipient {recipient}\nidentity  {}\n", args.path.display()))?,
        Format::Json => print(&pretty(&json!({
            "format_version": FORMAT_VERSION,
            "recipient": recipient.to_string(),
            "identity": args.path,
        })))?,
    }
    Ok(Exit::Fine)
}

fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(path).with_context(|| path.display().to_string())?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(|| path.display().to_string())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_private_and_never_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ci.key");
        let args = || KeygenArgs { path: path.clone(), age: false, output: Format::Json };
        assert!(matches!(run(&args()), Ok(Exit::Fine)));
        let private = std::fs::read(&path).unwrap();
        let pair = KeyPair::from_pem(&private).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("ci.pub")).unwrap(), pair.public().to_pem());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(run(&args()).is_err());
        std::fs::remove_file(dir.path().join("ci.pub")).unwrap();
        assert!(run(&args()).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), private);
        assert!(!dir.path().join("ci.pub").exists());
    }
}
