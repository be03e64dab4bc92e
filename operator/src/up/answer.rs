//! Answers of nodes, bounded: a node may run anything, and what it says goes to a terminal and stays in memory.

use bistro_api::{
    NodeStatus,
    status::{CrossCheck, HISTORY, Reachable, Scored, WindowRecord},
};

use super::text::plain;

/// Verdicts that are known, several times.
const VERDICTS: usize = 64;
/// Miners of the largest subnet.
const SCORES: usize = 256;

/// The status with every text in one line that commands no terminal, and no list longer than the protocol has it.
pub fn bounded(status: NodeStatus) -> NodeStatus {
    // Member by member: a new text or list cannot be forgotten here.
    let NodeStatus {
        role,
        hotkey,
        uid,
        block,
        window,
        phase,
        base_window,
        base_digest,
        held_out_loss,
        score,
        weight,
        incentive,
        windows,
        uploaded_bytes,
        downloaded_bytes,
        verdicts,
        scores,
        cross_checks,
        first_weights_block,
        chain,
        bucket,
        message,
        history,
    } = status;
    let older = history.len().saturating_sub(HISTORY);
    let score_of = |s: Scored| Scored { hotkey: plain(&s.hotkey), verdict: plain(&s.verdict), ..s };
    let check =
        |c: CrossCheck| CrossCheck { validator: plain(&c.validator), fault: c.fault.as_deref().map(plain), ..c };
    let record = |r: WindowRecord| WindowRecord { base_digest: plain(&r.base_digest), ..r };
    let service = |s: Reachable| Reachable { error: s.error.as_deref().map(plain), ..s };
    NodeStatus {
        role,
        hotkey: hotkey.as_deref().map(plain),
        uid,
        block,
        window,
        phase,
        base_window,
        base_digest: base_digest.as_deref().map(plain),
        held_out_loss,
        score,
        weight,
        incentive,
        windows,
        uploaded_bytes,
        downloaded_bytes,
        verdicts: verdicts.into_iter().take(VERDICTS).map(|(verdict, count)| (plain(&verdict), count)).collect(),
        scores: scores.into_iter().take(SCORES).map(score_of).collect(),
        cross_checks: cross_checks.into_iter().take(SCORES).map(check).collect(),
        first_weights_block,
        chain: service(chain),
        bucket: service(bucket),
        message: plain(&message),
        history: history.into_iter().skip(older).map(record).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_text_commands_a_terminal_and_no_list_grows() {
        let evil = "\x1b[2J";
        let unreachable = json!({"reachable": false, "error": evil});
        let scored = json!({"uid": 1, "hotkey": evil, "average": 0.5, "weight": 0.5, "verdict": evil});
        let record = |window: u64| json!({"window": window, "baseDigest": evil});
        let verdicts: serde_json::Map<_, _> = (0..1000).map(|i| (format!("{evil}{i}"), json!(1))).collect();
        let status = json!({"role": "miner", "phase": "waiting", "chain": unreachable, "bucket": unreachable,
            "hotkey": evil, "baseDigest": evil, "message": evil, "verdicts": verdicts,
            "scores": vec![scored; 1000], "history": (0..1000).map(record).collect::<Vec<_>>()});
        let status = bounded(serde_json::from_value(status).expect("a status"));
        assert_eq!((status.verdicts.len(), status.scores.len(), status.history.len()), (VERDICTS, SCORES, HISTORY));
        assert_eq!(status.history[HISTORY - 1].window, 999, "the last windows stay");
        let text = serde_json::to_string(&status).expect("JSON");
        assert!(!text.contains("\\u001b") && text.contains('\u{fffd}'), "{text}");
    }
}
