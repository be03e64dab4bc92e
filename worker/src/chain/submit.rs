//! Calls: signed, sent, and followed until they are final.
//!
//! A call is mortal, so that there is a block from which on a lost one cannot come back. After anything doubtful (a lost
//! connection, a dropped call) the chain is asked whether the call had its effect, until that block; only then is it sent
//! again. Nonces come from `system_accountNextIndex`, which counts the pool too; where several processes sign with one
//! account, those that lose the race read the nonce again.

use std::time::Duration;

use subxt::{
    SubstrateConfig,
    client::OnlineClientAtBlockImpl,
    config::DefaultExtrinsicParamsBuilder,
    dynamic::{self, Value},
    error::{BackendError, DispatchError, ExtrinsicError, RpcError, TransactionEventsError},
    rpcs::{self, client::rpc_params},
    transactions::{DynamicPayload, TransactionInBlock, TransactionProgress, TransactionStatus},
};

use super::{Chain, Error, Hotkey, Refusal, client::patiently, error::chained};
use crate::retry::jittered;

/// Blocks for which a call can be included: 13 min on main net, 16 s at 250 ms blocks. A power of two.
const MORTAL: u64 = 64;

/// Blocks after the last one that could include a call until its finality is given up on.
const SPARE: u64 = 16;

/// How often a call is sent at most.
const SENDS: u32 = 12;

pub(super) type Call = DynamicPayload<Vec<Value>>;
type InBlock = TransactionInBlock<SubstrateConfig, OnlineClientAtBlockImpl<SubstrateConfig>>;
type Progress = TransactionProgress<SubstrateConfig, OnlineClientAtBlockImpl<SubstrateConfig>>;

/// A call had its effect, finally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinalisedAt {
    /// The block that it is in; where its own traces were lost, the block in which its effect was seen.
    pub block: u64,
}

/// What became of one sending.
enum Sent {
    Finalised(u64),
    /// It is in no block and will not be: send it again.
    Again(String),
    /// It may be in a block up to this one.
    Doubtful(String, u64),
}

/// A call by name; `arguments` in the order of the runtime's metadata.
pub(super) fn call(pallet: &str, name: &'static str, arguments: Vec<Value>) -> (&'static str, Call) {
    (name, dynamic::tx(pallet, name, arguments))
}

impl Chain {
    /// Sends the call and waits until it is final. `applied` says whether its effect is there already, at the newest
    /// finalised block; it is asked before the call would be sent a second time.
    pub(super) async fn submit<F>(
        &self,
        signer: &Hotkey,
        (name, call): &(&'static str, Call),
        applied: impl Fn() -> F,
    ) -> Result<FinalisedAt, Error>
    where
        F: Future<Output = Result<bool, Error>>,
    {
        let mut last = String::new();
        let mut pause = Duration::from_millis(200);
        for times in 0..SENDS {
            if times > 0 {
                tracing::debug!("{name}: {last}; sending it again");
                tokio::time::sleep(jittered(pause)).await;
                pause = (pause * 2).min(Duration::from_secs(3));
                if applied().await? {
                    return Ok(FinalisedAt { block: self.head().number });
                }
            }
            match self.send(signer, name, call).await? {
                Sent::Finalised(block) => {
                    // Whoever reads at the newest head now sees the effect.
                    self.wait_for(block).await;
                    return Ok(FinalisedAt { block });
                }
                Sent::Again(reason) => last = reason,
                Sent::Doubtful(reason, until) => {
                    tracing::warn!("{name}: {reason}; looking for its effect up to block {until}");
                    if let Some(block) = self.effect(&applied, until).await? {
                        return Ok(FinalisedAt { block });
                    }
                    last = reason;
                }
            }
        }
        Err(Error::NotFinalised { what: (*name).to_owned(), times: SENDS, reason: last })
    }

    /// Watches for the effect of a doubtful call until it cannot come any more.
    async fn effect<F>(&self, applied: &impl Fn() -> F, until: u64) -> Result<Option<u64>, Error>
    where
        F: Future<Output = Result<bool, Error>>,
    {
        let mut next = self.head().number;
        loop {
            let head = self.wait_for(next).await;
            match applied().await {
                Ok(true) => return Ok(Some(head.number)),
                Ok(false) if head.number > until => return Ok(None),
                Ok(false) => next = head.number + 1,
                Err(error) if error.is_transient() => next = head.number,
                Err(error) => return Err(error),
            }
        }
    }

    async fn send(&self, signer: &Hotkey, name: &'static str, call: &Call) -> Result<Sent, Error> {
        let what = format!("send {name}");
        let nonce = patiently(|| self.next_nonce(signer, &what)).await?;
        let newest =
            || async { self.inner.api.at_current_block().await.map_err(|e| Error::sorted(&what, "newest", &e)) };
        let at = patiently(newest).await?;
        let until = at.block_number() + MORTAL + SPARE;
        let params = DefaultExtrinsicParamsBuilder::new().nonce(nonce).mortal(MORTAL).build();
        let signed = at.tx().create_signed(call, signer, params).await;
        let signed = match signed.map_err(|e| Error::sorted(&what, "newest", &e)) {
            Ok(signed) => signed,
            Err(error) if error.is_transient() => return Ok(Sent::Again(error.to_string())),
            Err(error) => return Err(error),
        };
        match signed.submit_and_watch().await {
            Ok(progress) => self.followed(name, progress, until).await,
            Err(ExtrinsicError::ErrorSubmittingTransaction(BackendError::Rpc(RpcError::ClientError(
                rpcs::Error::User(refusal),
            )))) => pool_refused(name, &refusal),
            Err(other) => Ok(Sent::Doubtful(chained(&other), until)),
        }
    }

    async fn next_nonce(&self, signer: &Hotkey, what: &str) -> Result<u64, Error> {
        let answer = self.inner.rpc.request("system_accountNextIndex", rpc_params![signer.ss58()]).await;
        answer.map_err(|e| Error::sorted(what, "newest", &e))
    }

    /// Follows the statuses of one sending to its end, or until it is overdue.
    async fn followed(&self, name: &'static str, mut progress: Progress, until: u64) -> Result<Sent, Error> {
        loop {
            let status = tokio::select! {
                status = progress.next() => status,
                _ = self.wait_for(until) => return Ok(Sent::Doubtful("no word of it in time".to_owned(), until)),
            };
            match status {
                Some(Ok(TransactionStatus::InFinalizedBlock(at))) => return self.outcome(name, &at, until).await,
                // Usurped by another call with this nonce, or overtaken by one: either way it is in no block.
                Some(Ok(TransactionStatus::Invalid { message })) => return Ok(Sent::Again(message)),
                Some(Ok(TransactionStatus::Error { message } | TransactionStatus::Dropped { message })) => {
                    return Ok(Sent::Doubtful(message, until));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Ok(Sent::Doubtful(chained(&error), until)),
                None => return Ok(Sent::Doubtful("the connection was lost".to_owned(), until)),
            }
        }
    }

    /// It is in a final block: whether the pallet took it.
    async fn outcome(&self, name: &'static str, at: &InBlock, until: u64) -> Result<Sent, Error> {
        match at.wait_for_success().await {
            Ok(_) => match at.at().await {
                Ok(block) => Ok(Sent::Finalised(block.block_number())),
                Err(error) => Ok(Sent::Doubtful(chained(&error), until)),
            },
            Err(TransactionEventsError::ExtrinsicFailed(error)) => {
                Err(Refusal { call: name, name: named(&error) }.into())
            }
            Err(error) => Ok(Sent::Doubtful(chained(&error), until)),
        }
    }
}

/// The error's own name: variants by name, because their numbers shift between runtimes.
fn named(error: &DispatchError) -> String {
    match error {
        DispatchError::Module(module) => {
            let full = module.details_string();
            full.rsplit("::").next().unwrap_or(&full).to_owned()
        }
        DispatchError::Token(_) => "InsufficientBalance".to_owned(),
        other => other.to_string(),
    }
}

/// The pool did not take it: for good, or because another call was faster.
fn pool_refused(name: &'static str, refusal: &rpcs::UserError) -> Result<Sent, Error> {
    let data = refusal.data.as_ref().map_or("", |data| data.get()).trim_matches('"');
    let text: String = format!("{} ({}): {data}", refusal.message, refusal.code).chars().take(300).collect();
    if let Some(number) = data.strip_prefix("Custom error: ").and_then(|number| number.trim().parse().ok()) {
        return Err(Refusal::from_pool(name, number).into());
    }
    match refusal.code {
        // Temporarily banned, already there, lower priority than another with this nonce, pool full.
        1012 | 1013 | 1014 | 1016 => Ok(Sent::Again(text)),
        1010 if data.contains("outdated") || data.contains("Stale") || data.contains("ancient") => {
            Ok(Sent::Again(text))
        }
        1010 if data.contains("pay some fees") => {
            Err(Refusal { call: name, name: "InsufficientBalance".to_owned() }.into())
        }
        _ => Err(Error::Rpc { what: format!("send {name}"), reason: text }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: i32, data: &str) -> Result<Sent, Error> {
        let data = serde_json::value::RawValue::from_string(format!("\"{data}\"")).expect("a JSON string");
        pool_refused(
            "set_weights",
            &rpcs::UserError { code, message: "Invalid Transaction".to_owned(), data: Some(data) },
        )
    }

    #[test]
    fn a_lost_race_for_the_nonce_is_sent_again() {
        for (code, data) in
            [(1010, "Transaction is outdated"), (1014, "The transaction has too low priority"), (1013, "")]
        {
            assert!(matches!(refused(code, data), Ok(Sent::Again(_))), "{code} {data}");
        }
    }

    #[test]
    fn refusals_of_the_pool_have_names() {
        let name = |code, data| match refused(code, data) {
            Err(Error::Refused(refusal)) => refusal.name,
            _ => "not refused".to_owned(),
        };
        assert_eq!(name(1010, "Custom error: 6"), "SettingWeightsTooFast");
        assert_eq!(name(1010, "Custom error: 10"), "HotKeyNotRegisteredInSubNet");
        assert_eq!(name(1010, "Inability to pay some fees (e.g. account balance too low)"), "InsufficientBalance");
        assert!(matches!(refused(1010, "Transaction has a bad signature"), Err(Error::Rpc { .. })));
    }
}
