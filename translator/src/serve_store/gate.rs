//! Who asks: the ServiceAccount of a token, as the API server says.

use super::account::{Account, Accounts};
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use moorgate_snapshot::Digest;
use moorgate_snapshot::store::AUDIENCE;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// A verdict on a token counts for so long.
const FRESH: Duration = Duration::from_mins(1);
/// A refused token is not asked about again before.
const REFUSED: Duration = Duration::from_secs(10);
/// While the API server does not answer, a token that was good is good for so long: relays must not lose their store with
/// it. Projected tokens live at least as long.
const STALE: Duration = Duration::from_mins(10);
/// Verdicts that are remembered.
const REMEMBERED: usize = 4096;
/// Reviews at one time; a flood of made-up tokens must not become one of requests to the API server.
const REVIEWS: usize = 8;
/// The API server has so long to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// The longest token, in bytes.
const MAX_TOKEN: usize = 16 << 10;

/// The API server did not say.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the API server does not review tokens: {0}")]
pub struct ReviewError(pub String);

/// Whoever knows tokens.
pub trait Review: Send + Sync {
    /// The account of a token; `None` if it is no good one for this audience.
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<Account>, ReviewError>>;
}

/// An API server that reviews tokens.
pub struct Api(kube::Api<TokenReview>);

impl Api {
    /// Reviews by this client, which needs `create` on `tokenreviews`.
    pub fn new(client: kube::Client) -> Self {
        Self(kube::Api::all(client))
    }
}

impl Review for Api {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<Account>, ReviewError>> {
        Box::pin(async move {
            let audiences = Some(vec![AUDIENCE.to_owned()]);
            let spec = TokenReviewSpec { token: token.to_owned(), audiences };
            let review = TokenReview { spec, ..TokenReview::default() };
            let params = PostParams::default();
            let answer = tokio::time::timeout(ANSWER, self.0.create(&params, &review)).await;
            match answer {
                Ok(Ok(review)) => Ok(account(review)),
                // Its words might repeat the token.
                Ok(Err(kube::Error::Api(status))) => Err(ReviewError(format!("it answers {}", status.code))),
                Ok(Err(_)) => Err(ReviewError("it cannot be reached".to_owned())),
                Err(_) => Err(ReviewError("it does not answer in time".to_owned())),
            }
        })
    }
}

/// The account that a review names, if it is authenticated for our audience. A server that knows no audiences leaves them
/// out, and then the token may be meant for anybody: it does not count.
fn account(review: TokenReview) -> Option<Account> {
    let status = review.status.filter(|status| status.authenticated == Some(true))?;
    status.audiences?.iter().find(|audience| *audience == AUDIENCE)?;
    Account::of_user(&status.user?.username?)
}

/// What was said of a token, and when.
#[derive(Debug, Clone)]
struct Verdict {
    account: Option<Account>,
    at: Instant,
}

/// Knows tokens for a while, so that a poll costs no review.
pub struct Gate {
    reviewer: Box<dyn Review>,
    accounts: Accounts,
    verdicts: Mutex<BTreeMap<Digest, Verdict>>,
    reviews: Semaphore,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

impl Gate {
    /// A gate that asks `reviewer` and knows these accounts.
    pub fn new(reviewer: impl Review + 'static, accounts: Accounts) -> Self {
        Self {
            reviewer: Box::new(reviewer),
            accounts,
            verdicts: Mutex::default(),
            reviews: Semaphore::new(REVIEWS),
        }
    }

    /// The fleets of accounts.
    pub(super) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// The account of a token; `None` if it is no good one.
    pub(super) async fn account(&self, token: &str) -> Result<Option<Account>, ReviewError> {
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Ok(None);
        }
        let key = Digest::of(token.as_bytes());
        if let Some(verdict) = self.fresh(&key) {
            return Ok(verdict.account);
        }
        let _turn = self.reviews.acquire().await;
        // Somebody else may have asked meanwhile.
        if let Some(verdict) = self.fresh(&key) {
            return Ok(verdict.account);
        }
        match self.reviewer.review(token).await {
            Ok(account) => {
                self.remember(key, account.clone());
                Ok(account)
            }
            Err(error) => {
                let known = self.lock().get(&key).cloned();
                match known.filter(|verdict| verdict.account.is_some() && verdict.at.elapsed() < STALE) {
                    Some(verdict) => {
                        tracing::warn!(%error, "a token that was good is taken for good");
                        Ok(verdict.account)
                    }
                    None => Err(error),
                }
            }
        }
    }

    /// A verdict that still counts.
    fn fresh(&self, key: &Digest) -> Option<Verdict> {
        let verdict = self.lock().get(key).cloned()?;
        let age = if verdict.account.is_some() { FRESH } else { REFUSED };
        (verdict.at.elapsed() < age).then_some(verdict)
    }

    fn remember(&self, key: Digest, account: Option<Account>) {
        let mut verdicts = self.lock();
        if verdicts.len() >= REMEMBERED {
            verdicts.retain(|_, verdict| verdict.account.is_some() && verdict.at.elapsed() < STALE);
        }
        if verdicts.len() >= REMEMBERED {
            verdicts.clear();
        }
        verdicts.insert(key, Verdict { account, at: Instant::now() });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Verdict>> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_review_counts_for_our_audience_only() {
        let of = |status: serde_json::Value| {
            account(serde_json::from_value(json!({ "spec": {}, "status": status })).unwrap())
        };
        let user = json!({ "username": "system:serviceaccount:shop:edge" });
        let good = json!({ "authenticated": true, "audiences": [AUDIENCE], "user": user });
        assert_eq!(of(good).unwrap().to_string(), "shop/edge");
        for bad in [
            json!({ "authenticated": false, "audiences": [AUDIENCE], "user": user }),
            json!({ "authenticated": true, "audiences": ["https://kubernetes.default.svc"], "user": user }),
            json!({ "authenticated": true, "user": user }),
            json!({ "authenticated": true, "audiences": [AUDIENCE], "user": { "username": "admin" } }),
            json!({ "authenticated": true, "audiences": [AUDIENCE], "user": { "username": "system:serviceaccount:a:b:c" } }),
        ] {
            assert_eq!(of(bad.clone()), None, "{bad}");
        }
    }

    #[derive(Clone, Default)]
    struct Counting {
        asked: Arc<AtomicUsize>,
        down: Arc<AtomicUsize>,
    }

    impl Review for Counting {
        fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<Account>, ReviewError>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let answer = match self.down.load(Ordering::SeqCst) {
                0 => Ok(token.strip_prefix("good ").and_then(|account| account.parse().ok())),
                _ => Err(ReviewError("down".to_owned())),
            };
            Box::pin(async { answer })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn verdicts_are_remembered_and_an_api_server_that_is_gone_locks_nobody_out_for_a_while() {
        let reviewer = Counting::default();
        let gate = Gate::new(reviewer.clone(), Accounts::default());
        let edge = Some("shop/edge".parse::<Account>().unwrap());
        let asked = || reviewer.asked.load(Ordering::SeqCst);
        for _ in 0..3 {
            assert_eq!(gate.account("good shop/edge").await, Ok(edge.clone()));
            assert_eq!(gate.account("bad").await, Ok(None));
        }
        assert_eq!(asked(), 2);
        tokio::time::advance(REFUSED).await;
        assert_eq!(gate.account("bad").await, Ok(None));
        assert_eq!(asked(), 3);
        tokio::time::advance(FRESH).await;
        reviewer.down.store(1, Ordering::SeqCst);
        assert_eq!(gate.account("good shop/edge").await, Ok(edge));
        assert!(gate.account("bad").await.is_err() && gate.account("new").await.is_err());
        tokio::time::advance(STALE).await;
        assert!(gate.account("good shop/edge").await.is_err());
        let before = asked();
        assert_eq!(gate.account("").await, Ok(None));
        assert_eq!(gate.account(&"x".repeat(MAX_TOKEN + 1)).await, Ok(None));
        assert_eq!(asked(), before, "what can be no token is not asked about");
    }

    #[tokio::test]
    async fn made_up_tokens_cost_bounded_memory() {
        let gate = Gate::new(Counting::default(), Accounts::default());
        for number in 0..REMEMBERED + 10 {
            assert_eq!(gate.account(&number.to_string()).await, Ok(None));
        }
        assert!(gate.lock().len() <= REMEMBERED);
    }
}
