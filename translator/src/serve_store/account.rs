//! Which ServiceAccount belongs to which fleets.

use moorgate_snapshot::FleetName;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;

/// A ServiceAccount.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Text that is no `NAMESPACE/NAME=FLEET`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?}: write NAMESPACE/NAME=FLEET")]
pub struct AccountError(String);

impl Account {
    /// The account of a user name as API servers write it, `system:serviceaccount:NAMESPACE:NAME`.
    pub fn of_user(user: &str) -> Option<Self> {
        let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
        let account = Self { namespace: namespace.to_owned(), name: name.to_owned() };
        (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some(account)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

type ByAccount = BTreeMap<Account, BTreeSet<FleetName>>;

/// The fleets of accounts: those that were configured, and those that were made by whoever makes fleets. Clones share.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    configured: Arc<ByAccount>,
    /// None while it is not known which fleets there are.
    made: Arc<Mutex<Option<ByAccount>>>,
}

impl Accounts {
    /// These accounts, each written as `NAMESPACE/NAME=FLEET`.
    pub fn configured(texts: &[String]) -> Result<Self, AccountError> {
        let mut configured = ByAccount::new();
        for text in texts {
            let (account, fleet) = parse(text).ok_or_else(|| AccountError(text.clone()))?;
            configured.entry(account).or_default().insert(fleet);
        }
        Ok(Self { configured: Arc::new(configured), made: Arc::new(Mutex::new(Some(ByAccount::new()))) })
    }

    /// The accounts of fleets that were made, all of them; they replace those of before.
    pub fn make(&self, all: impl IntoIterator<Item = (Account, FleetName)>) {
        let mut made = ByAccount::new();
        for (account, fleet) in all {
            made.entry(account).or_default().insert(fleet);
        }
        *self.lock() = Some(made);
    }

    /// Fleets are made, and it is not known yet which.
    pub fn forget(&self) {
        *self.lock() = None;
    }

    /// Whether it is known which fleets were made: before, nobody can be told that he is not known.
    pub fn are_known(&self) -> bool {
        self.lock().is_some()
    }

    /// Whether an account belongs to a fleet.
    pub fn fits(&self, account: &Account, fleet: &FleetName) -> bool {
        let of = |accounts: &ByAccount| accounts.get(account).is_some_and(|fleets| fleets.contains(fleet));
        of(&self.configured) || self.lock().as_ref().is_some_and(of)
    }

    /// Whether an account belongs to any fleet.
    pub fn is_known(&self, account: &Account) -> bool {
        self.configured.contains_key(account)
            || self.lock().as_ref().is_some_and(|made| made.contains_key(account))
    }

    fn lock(&self) -> MutexGuard<'_, Option<ByAccount>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(text: &str) -> Option<(Account, FleetName)> {
    let (account, fleet) = text.split_once('=')?;
    let (namespace, name) = account.split_once('/')?;
    Some((Account::of_user(&format!("system:serviceaccount:{namespace}:{name}"))?, fleet.parse().ok()?))
}

impl FromStr for Account {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        let parts = text.split_once('/');
        let user = parts.map(|(namespace, name)| format!("system:serviceaccount:{namespace}:{name}"));
        user.and_then(|user| Self::of_user(&user)).ok_or_else(|| AccountError(text.to_owned()))
    }
}
